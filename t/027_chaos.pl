
# Chaos: rounds in which several clients do to their clones whatever SQL can do to a database (DDL, extensions, large objects,
# two-phase commit, comments, privileges, settings, ALTER DATABASE), drop, reset and rewind them, while processes of the server
# are killed. Every clone that is fresh, reset or rewound is compared with its template: the content of files, the shared
# catalogs, pg_dump --create. What was handed out before a crash is there after it, with what was committed in it; and after
# each round nothing is left of what has gone.
#
#   TESTDB_CHAOS_ROUNDS   how many rounds; if it is not set, 6, or fewer if that takes too long, or 2 in a short run
#   TESTDB_CHAOS_SEED     repeats the choices of another run, but not what a process is at when it is killed

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use File::Temp;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;
use Time::HiRes qw(time usleep);

my $rounds = how_much('TESTDB_CHAOS_ROUNDS', 2, 6);
my $enough = $ENV{TESTDB_CHAOS_ROUNDS} ? 1e9 : 18;    # seconds after which no other round begins
my $seed = $ENV{TESTDB_CHAOS_SEED} || int(time * 1000) % 1_000_000_000;
my $nclients = 3;
my $cycles = 3;
my $patience = 60;

my $template = 'regression_template';
my $folder = File::Temp::tempdir(CLEANUP => 1);
my $problems = "$folder/problems";
my $counts = "$folder/counts";

my $node = TestdbCluster->new_server(
	'chaos', q{
wal_level = minimal
max_wal_senders = 0
fsync = off
full_page_writes = on
restart_after_crash = on
synchronous_commit = on
max_prepared_transactions = 20
max_worker_processes = 16
testdb.workers = 3
testdb.spares = 3
testdb.rewind_timeout = 20s
testdb.template_timeout = 20s
},
	kills_postmaster => 1);
my $admin = $node->session('postgres');
my $superuser = run($admin, 'SELECT current_user');
my @extensions = grep { has_contrib($_) } qw(hstore pg_trgm citext);

run($admin, $_)
  for 'CREATE ROLE regress_owner',
  'CREATE ROLE regress_guest',
  'CREATE ROLE regress_asker LOGIN IN ROLE regress_owner',
  'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_drop_all, testdb_reset, testdb_rewind(text, boolean) TO regress_asker',
  "CREATE DATABASE $template IS_TEMPLATE true",
  "ALTER DATABASE $template SET work_mem = '5MB'",
  "ALTER ROLE regress_guest IN DATABASE $template SET work_mem = '6MB'",
  "GRANT CREATE ON DATABASE $template TO regress_guest";

# Changes the template, and leaves it as README says it is best left.
sub change_template
{
	my (@statements) = @_;
	my $client = $node->session($template);
	run($client, $_) for @statements, 'VACUUM (FREEZE, ANALYZE)', 'CHECKPOINT';
	my $pid = $client->pid;
	$client->close;
	poll(sub { !run($admin, "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") });
	return;
}

change_template(
	'CREATE TABLE base (i int PRIMARY KEY, t text)',
	q{INSERT INTO base SELECT i, md5(i::text) FROM generate_series(1, 2000) i},
	'CREATE INDEX base_t ON base (t)',
	'CREATE TABLE marks (i int)',
	'CREATE SEQUENCE numbers',
	q{SELECT setval('numbers', 100)},
	'CREATE VIEW seen AS SELECT count(*) FROM base',
	'CREATE FUNCTION twice(i int) RETURNS int LANGUAGE sql AS $$ SELECT 2 * i $$',
	q{SELECT lo_from_bytea(70000, decode(repeat('ab', 5000), 'hex'))},
	q{COMMENT ON TABLE base IS 'of the template'},
	(map { "ALTER TABLE $_ OWNER TO regress_owner" } qw(base marks)),
	'ALTER SEQUENCE numbers OWNER TO regress_owner',
	'ALTER FUNCTION twice OWNER TO regress_owner',
	'GRANT CREATE ON SCHEMA public TO regress_owner',
	'GRANT SELECT ON base TO regress_guest',
	'ALTER DEFAULT PRIVILEGES FOR ROLE regress_owner GRANT SELECT ON TABLES TO regress_guest',
	(@extensions ? "CREATE EXTENSION $extensions[0]" : ()));

# What a database is, for comparison; nobody may be at work in it.
sub files
{
	my ($oid) = @_;
	my $files = $node->files_of($oid);
	delete $files->{'pg_internal.init'};    # a cache
	return $files;
}

# pg_dump --create, without the name, the owner and the mark of the database, nor its privileges, which differ with the owner: the
# catalogs are compared for that.
sub create_script
{
	my ($name) = @_;
	my ($out, $err) = run_command([ 'pg_dump', '-h', $node->host, '-p', $node->port, '--create', '--blobs', $name ]);
	return undef if $err ne '';
	$out =~ s/^\\(un)?restrict .*$//mg;
	$out =~ s/\Q$name\E/(name)/g;
	$out =~ s/^ALTER DATABASE \(name\) (OWNER TO|IS_TEMPLATE =) .*$//mg;
	$out =~ s/^(GRANT|REVOKE) .* ON DATABASE \(name\) .*$//mg;
	$out =~ s/^-- Name: (DATABASE )?\(name\); Type: .*$//mg;
	return join "\n", grep { $_ ne '' && $_ ne '--' } split /\n/, $out;
}

my $script;    # the template's

# One client: in a process of its own.
package Client
{
	use TestdbTest;
	use Time::HiRes qw(time usleep);

	# Errors that come with the end of a process.
	my $lost = qr/^(08|57P0)/;

	sub new
	{
		my ($class, $round, $number) = @_;
		my $self =
		  bless { round => $round, number => $number, label => "round $round client $number", clones => {}, gids => 0 },
		  $class;
		$self->{role} = $number == 1 ? 'regress_asker' : $superuser;
		return $self;
	}

	sub problem
	{
		my ($self, @words) = @_;
		add_line($problems, $self->{label}, join ' ', map { defined $_ ? $_ : '(undef)' } @words);
		return;
	}

	sub note
	{
		my ($self, $what) = @_;
		add_line($counts, $what);
		return;
	}

	# A session that is there when the server is: as the superuser, or, to ask testdb for something, as the client's role.
	sub admin
	{
		my ($self, $user) = @_;
		my $client = $self->{"session $user"};
		return $client if $client && $client->is_open;
		poll(
			sub {
				$client = $node->connect_to('postgres', user => $user);
				return !$client->error && $client->do('SELECT 1');
			},
			$patience) or die 'the server does not come back';
		return $self->{"session $user"} = $client;
	}

	# Runs a statement as the client's role. True if it has succeeded, false if that is not known since the server ends; other
	# errors are problems.
	sub ask
	{
		my ($self, $sql) = @_;
		my $client = $self->admin($self->{role});
		my $answer = $client->query($sql);
		return $answer // '' unless $client->error;
		$self->problem($sql, $client->message) unless $client->sqlstate =~ $lost;
		return undef;
	}

	# What a database is called now; undef if there is none of that OID.
	sub name_of
	{
		my ($self, $oid) = @_;
		for (1 .. 20)
		{
			my $client = $self->admin($superuser);
			my $name = $client->query("SELECT datname FROM pg_database WHERE oid = $oid");
			next if $client->error;
			return $name eq '' ? undef : $name;
		}
		die 'the server never answers';
	}

	# Compares a clone with the template. Whoever is in it does nothing. It is of no use if a server crashes meanwhile.
	sub compare
	{
		my ($self, $oid, $what, $entered) = @_;
		my $client = $self->admin($superuser);
		my $template_oid = oid_of($client, $template);
		return if $client->error;
		my @wrong;
		push @wrong, eval { main::differences(main::files($template_oid), main::files($oid)) } // "files: $@";
		push @wrong,
		  eval { main::differences(catalog_rows($client, $template_oid), catalog_rows($client, $oid)) }
		  // "catalogs: $@";
		my $rows = eval { described($client, $oid) } // {};

		for my $catalog (qw(pg_shdescription pg_shseclabel pg_replication_slots pg_subscription))
		{
			push @wrong, "$catalog: $rows->{$catalog}" if ($rows->{$catalog} // 0) =~ /[^0]/;
		}
		if (!grep { $_ ne '' } @wrong and rand() < 0.15)
		{
			my $name = $self->name_of($oid);
			my $dump = defined $name ? main::create_script($name) : undef;
			$self->note('scripts') if defined $dump;
			if (defined $dump && $dump ne $script)
			{
				my %lines;
				$lines{$_}-- for split /\n/, $script;
				$lines{$_}++ for split /\n/, $dump;
				push @wrong,
				  'pg_dump --create: '
				  . (join("\n", map { $lines{$_} ? ($lines{$_} < 0 ? '-' : '+') . $_ : () } sort keys %lines)
					  || 'another order');
			}
		}
		return unless $client->do('SELECT 1');
		@wrong = grep { $_ ne '' } @wrong;
		$self->problem("$what clone $oid differs:", substr(join('; ', @wrong), 0, 2000) =~ s/\n/ \\ /gr) if @wrong;
		$self->note("compared $what");
		return;
	}

	# Gets a clone; its OID, or undef.
	sub get
	{
		my ($self) = @_;
		my $name =
		  $self->ask("SELECT testdb_clone('$template', label => '$self->{label}'"
			  . (rand() < 0.3 ? ", name => 'mine_$self->{round}_$self->{number}_" . ++$self->{nnames} . "'" : '')
			  . ')');
		return undef unless defined $name;
		my $client = $self->admin($self->{role});
		my $oid = oid_of($client, $name);
		return undef if $client->error;
		if (!$oid)
		{
			$self->problem("clone $name is not there");
			return undef;
		}
		$self->{clones}{$oid} = { marks => 0, sure => 1 };
		$self->compare($oid, 'fresh');
		return $oid;
	}

	# What may be done in and to a clone; each is a list of statements. NAME is the database's.
	sub deeds
	{
		my ($self) = @_;
		my $n = int rand 1000;
		my $extension = @extensions ? $extensions[ rand @extensions ] : 'none';
		return (
			[
				"CREATE TABLE made_$n (i int PRIMARY KEY, t text)",
				"INSERT INTO made_$n SELECT i, repeat('x', 500) FROM generate_series(1, 500) i"
			],
			[ 'ALTER TABLE base ADD COLUMN x int DEFAULT 7', 'ALTER TABLE base DROP COLUMN t' ],
			['DROP TABLE base CASCADE'],
			['ALTER TABLE base ALTER i TYPE bigint'],
			['TRUNCATE base'],
			['VACUUM FULL base'],
			['VACUUM FULL pg_class'],
			[ 'CLUSTER base USING base_pkey', 'REINDEX TABLE base' ],
			['CREATE INDEX CONCURRENTLY ON base (lower(t))'],
			['CREATE MATERIALIZED VIEW copied AS SELECT * FROM base'],
			[ "CREATE SCHEMA s_$n", "CREATE TYPE s_$n.mood AS ENUM ('a', 'b')", "CREATE TABLE s_$n.t (m s_$n.mood)" ],
			["CREATE UNLOGGED TABLE unlogged_$n AS SELECT generate_series(1, 1000) i"],
			[ 'UPDATE base SET t = t || t', 'VACUUM (ANALYZE) base' ],
			[ "BEGIN", "DROP TABLE marks", "CREATE TABLE gone (i int)", "ROLLBACK" ],
			["CREATE EXTENSION $extension"],
			["DROP EXTENSION $extension CASCADE"],
			[q{SELECT lo_from_bytea(0, decode(repeat('cd', 9000), 'hex'))}],
			[q{SELECT lo_unlink(70000)}],
			[ q{SELECT lo_put(70000, 100, 'changed')}, 'ALTER LARGE OBJECT 70000 OWNER TO regress_owner' ],
			[ q{COMMENT ON DATABASE NAME IS 'mine'}, q{COMMENT ON TABLE base IS NULL} ],
			[ 'GRANT ALL ON DATABASE NAME TO regress_guest', 'REVOKE CONNECT ON DATABASE NAME FROM PUBLIC' ],
			['REVOKE ALL ON DATABASE NAME FROM regress_guest'],
			[ 'GRANT ALL ON base TO PUBLIC', 'REVOKE ALL ON base FROM regress_guest' ],
			['ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_guest'],
			[
				"CREATE FUNCTION f_$n() RETURNS int LANGUAGE sql AS 'SELECT 1'",
				"ALTER FUNCTION f_$n OWNER TO regress_owner"
			],
			[ 'DROP FUNCTION twice', 'ALTER TABLE base OWNER TO ' . $self->{role} ],
			[q{SELECT nextval('numbers') FROM generate_series(1, 50)}],
			[ 'ALTER DATABASE NAME SET geqo = off', "ALTER DATABASE NAME SET work_mem = '9MB'" ],
			['ALTER DATABASE NAME RESET ALL'],
			[
				'ALTER ROLE regress_guest IN DATABASE NAME SET geqo = off',
				"ALTER ROLE $superuser IN DATABASE NAME SET geqo = on"
			],
			['ALTER ROLE regress_guest IN DATABASE NAME RESET ALL'],
			['ALTER DATABASE NAME CONNECTION LIMIT 5'],
			['ALTER DATABASE NAME IS_TEMPLATE true'],
			['ALTER DATABASE NAME OWNER TO regress_guest'],
			["ALTER DATABASE NAME REFRESH COLLATION VERSION"],
			['CREATE PUBLICATION everything FOR ALL TABLES'],
			[q{CREATE EVENT TRIGGER watches ON ddl_command_end EXECUTE FUNCTION nothing()}],
			[
				q{CREATE RULE ignore AS ON INSERT TO base DO INSTEAD NOTHING},
				'ALTER TABLE base ENABLE ROW LEVEL SECURITY'
			]);
	}

	# Does some of them in a session in the clone, which is returned if it is still there. A number that is committed goes with
	# it. Statements that fail are part of it, but not internal errors.
	sub work
	{
		my ($self, $oid) = @_;
		my $clone = $self->{clones}{$oid};
		my $name = $self->name_of($oid) // return undef;
		my $client = $node->connect_to($name, user => $self->{role});
		if ($client->error)
		{
			$self->problem("connecting to $name:", $client->message)
			  unless $client->sqlstate =~ /^(08|57P0|53300|42501)/;
			return undef;
		}
		my @deeds = $self->deeds;
		for (1 .. 1 + int rand 5)
		{
			for my $sql (@{ $deeds[ rand @deeds ] })
			{
				(my $statement = $sql) =~ s/\bNAME\b/"$name"/g;
				next if $client->do($statement);
				return undef unless $client->is_open;
				$self->problem($statement, $client->message) if $client->sqlstate =~ /^(XX|58|F0)/;
			}
		}
		if ($clone->{sure})
		{
			my $done = $client->do('INSERT INTO marks VALUES (' . ($clone->{marks} + 1) . ')');
			if    ($done)             { $clone->{marks}++ }
			elsif (!$client->is_open) { $clone->{sure} = 0; return undef }
			else                      { $clone->{sure} = 0 }
		}
		# A second one would wait for the first, for ever.
		if (!$clone->{gid} && rand() < 0.15 && $client->do('BEGIN') && $client->do('CREATE TABLE prepared (i int)'))
		{
			my $gid = "regress $self->{label} " . ++$self->{gids};
			$clone->{gid} = $gid if $client->do("PREPARE TRANSACTION '$gid'") || !$client->is_open;
		}
		elsif (rand() < 0.15)
		{
			$clone->{open} = $client->do('BEGIN') && $client->do('CREATE TABLE left_open (i int)');
		}
		return $client->is_open ? $client : undef;
	}

	# What was committed must be there after a crash.
	sub check
	{
		my ($self, $oid) = @_;
		my $clone = $self->{clones}{$oid};
		my $name = $self->name_of($oid);
		if (!defined $name)
		{
			$self->problem("clone $oid has gone");
			delete $self->{clones}{$oid};
			return;
		}
		return unless $clone->{sure};
		my $client = $node->connect_to($name, user => $superuser);
		my $marks = $client->error ? undef : $client->query('SELECT count(*), coalesce(max(i), 0) FROM marks');
		$self->problem("clone $oid has marks $marks instead of $clone->{marks}")
		  if defined $marks && $marks ne "$clone->{marks}|$clone->{marks}";
		$client->close;
		$self->note('checked') if defined $marks;
		return;
	}

	# Gives a clone the template's content again. The session that is in it may stay if it is rewound. A prepared transaction may
	# still be there after a reset that the server did not answer, and is in the way of a rewind.
	sub renew
	{
		my ($self, $oid, $session) = @_;
		my $clone = $self->{clones}{$oid};
		my $name = $self->name_of($oid) // return;
		my $rewind = rand() < 0.5 && !$clone->{gid};
		$session->do('ROLLBACK') if $rewind && $session && delete $clone->{open};
		$clone->{sure} = 0;
		delete $clone->{open};
		my $call = $rewind ? 'testdb_rewind' : 'testdb_reset';

		# Its owner may not be a role that the client is a member of.
		my $client = $self->admin($superuser);
		my $ok = $client->do("SELECT $call('$name')");
		if (!$ok)
		{
			my $why = $client->message;
			$self->problem("$call $oid:", $why) unless $client->sqlstate =~ $lost;
			return;
		}
		%$clone = (marks => 0, sure => 1);
		$self->compare($oid, $rewind ? 'rewound' : 'reset');
		if ($rewind && $session && $session->is_open)
		{
			my $rows = $session->query('SELECT count(*) FROM marks');
			$self->problem("a session in the rewound clone $oid sees $rows marks") if defined $rows && $rows ne '0';
			$self->problem("a session in the rewound clone $oid:", $session->message)
			  if $session->error && $session->is_open;
		}
		return;
	}

	sub drop
	{
		my ($self, $oid) = @_;
		my $name = $self->name_of($oid) // return;
		my $client = $self->admin($superuser);
		delete $self->{clones}{$oid};
		return if $client->do("SELECT testdb_drop('$name')");
		$self->problem("testdb_drop $oid:", $client->message) unless $client->sqlstate =~ $lost;
		return;
	}

	sub rename
	{
		my ($self, $oid) = @_;
		my $name = $self->name_of($oid) // return;
		$self->admin($superuser)
		  ->do("ALTER DATABASE \"$name\" RENAME TO renamed_$self->{round}_$self->{number}_" . ++$self->{nnames});
		return;
	}

	# A round.
	sub play
	{
		my ($self) = @_;
		for (1 .. $cycles)
		{
			my ($oid) = keys %{ $self->{clones} };
			$oid = $self->get if !defined $oid || rand() < 0.5;
			next unless defined $oid;
			for (1 .. 1 + int rand 3)
			{
				last unless $self->{clones}{$oid};
				my $session = $self->work($oid);
				$self->check($oid) unless $session;
				last unless $self->{clones}{$oid};
				$self->rename($oid) if rand() < 0.1 && (!$session || do { $session->close; undef $session; 1 });
				$self->renew($oid, $session) if rand() < 0.7;
				$session->close if $session && rand() < 0.8;
			}
			$self->drop($oid) if $self->{clones}{$oid} && rand() < 0.6;
		}
		$self->check($_) for keys %{ $self->{clones} };
		return;
	}
}

# What is left in the server of databases that have gone, and what testdb has that it should not have; '' if nothing.
sub leftovers
{
	my $client = $node->connect_to('postgres');
	return 'no server' if $client->error;
	my $data = $node->data_dir;
	my $rows = $client->query(
		q{
		SELECT 'clone ' || name || ' ' || state FROM testdb_clones
		UNION ALL SELECT 'clone without a database ' || oid || ' ' || state FROM testdb_clones() WHERE oid NOT IN (SELECT oid FROM pg_database)
		UNION ALL SELECT state || ' ' || oid FROM testdb_clones() WHERE state NOT IN ('spare', 'leased', 'dropping')
		UNION ALL SELECT 'database ' || datname FROM pg_database
			WHERE datname NOT IN ('template0', 'template1', 'postgres', 'regression_template') AND oid NOT IN (SELECT oid FROM testdb_clones())
		UNION ALL SELECT 'pg_shdepend ' || dbid FROM pg_shdepend WHERE dbid <> 0 AND dbid NOT IN (SELECT oid FROM pg_database)
		UNION ALL SELECT 'pg_shdepend of database ' || objid FROM pg_shdepend
			WHERE classid = 'pg_database'::regclass AND objid NOT IN (SELECT oid FROM pg_database)
		UNION ALL SELECT 'pg_db_role_setting ' || setdatabase FROM pg_db_role_setting
			WHERE setdatabase <> 0 AND setdatabase NOT IN (SELECT oid FROM pg_database)
		UNION ALL SELECT 'pg_shdescription ' || objoid FROM pg_shdescription
			WHERE classoid = 'pg_database'::regclass AND objoid NOT IN (SELECT oid FROM pg_database)
		UNION ALL SELECT 'pg_shseclabel ' || objoid FROM pg_shseclabel
			WHERE classoid = 'pg_database'::regclass AND objoid NOT IN (SELECT oid FROM pg_database)
		UNION ALL SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts});
	my @databases = split /\n/, $client->query('SELECT oid FROM pg_database') // '';
	my @clones = split /\n/, $client->query('SELECT oid FROM testdb_clones()') // '';
	return $client->message if $client->error;
	my %directories = map { m{/(\d+)$} ? ($1 => 1) : () } glob("$data/base/[0-9]*");
	my %leases = map { m{/(\d+)$} ? ($1 => 1) : () } glob("$data/pg_testdb/clones/*");
	my @wrong = $rows eq '' ? () : split /\n/, $rows;
	delete $directories{$_} or push @wrong, "no directory of $_" for @databases;
	push @wrong, "directory $_"                                  for keys %directories;
	delete $leases{$_} or push @wrong, "no lease of $_"          for @clones;
	push @wrong, "lease $_"                                      for keys %leases;
	$client->close;
	return join "\n", sort @wrong;
}

# What is done to the server while clients are at work.
my %blows = (
	backend => sub {
		kill_pids(
			0,
			(   $node->pids_by_title(
					qr/^postgres: (?!.*(testdb worker|checkpointer|writer|launcher|logger|startup)).* \S+ \[local\]/)
			)[0] // ());
	},
	worker =>
	  sub { my @pids = $node->pids_by_title(qr/^postgres: testdb worker/); kill_pids(0, $pids[ rand @pids ]) if @pids },
	'worker, gently' =>
	  sub { my @pids = $node->pids_by_title(qr/^postgres: testdb worker/); kill 'TERM', $pids[ rand @pids ] if @pids },
	checkpointer => sub { kill_pids(0, $node->pids_by_title(qr/^postgres: checkpointer/)) },
	everything => sub { $node->kill_everything(0); $node->start },
	shutdown => sub { $node->stop; $node->start });

note "seed $seed: TESTDB_CHAOS_SEED=$seed TESTDB_CHAOS_ROUNDS=$rounds";
my $start = time;
my $done = 0;
my $position = -s $node->logfile;
my %blown;

# What has not been compared yet. It takes luck that a rewind is, so there are more rounds if need be.
sub missing
{
	my %count;
	$count{ $_->[1] }++ for lines_of($counts);
	return grep { !$count{"compared $_"} } qw(fresh reset rewound);
}

for my $round (1 .. $rounds + 10)
{
	last if ($round > $rounds || time - $start > $enough) && !missing();
	srand($seed + 1000 * $round);
	poll(sub { ($admin->is_open && $admin->do('SELECT 1')) || ($admin = $node->connect_to('postgres')) && 0 },
		$patience)
	  or die 'no server';
	change_template("INSERT INTO base VALUES (10000 + $round, 'round')",
		"ALTER TABLE base ALTER i SET STATISTICS $round")
	  if $round == 1 || rand() < 0.4;
	$script = create_script($template);
	poll(sub { !run($admin, "SELECT count(*) FROM pg_stat_activity WHERE datname = '$template'") });

	my @children = map {
		my $number = $_;
		in_child(
			sub {
				srand($seed + 1000 * $round + $number);
				my $client = Client->new($round, $number);
				$client->play;
			})
	} 1 .. $nclients;
	my @names = sort keys %blows;
	for (1 .. 1 + int rand 2)
	{
		usleep(1_000_000 * (0.1 + rand 1.2));
		my $blow = $names[ rand @names ];
		$blown{$blow}++;
		$blows{$blow}->();
	}
	for my $pid (@children)
	{
		waitpid $pid, 0;
		add_line($problems, "round $round", 'a client has died') if $?;
	}

	# All clones are dropped, whoever has them, and then nothing is left.
	# The postmaster may learn a moment later of what was killed last, and then ends all sessions, this one, too.
	my ($client, @failed);
	poll(
		sub {
			$client = $node->connect_to('postgres');
			return 0 if $client->error || !$client->do('SELECT 1');
			@failed = ();
			for my $row ($client->rows('SELECT name FROM testdb_clones'))
			{
				$client->do("SELECT testdb_drop('$row->[0]')")
				  or push @failed, "dropping $row->[0]: " . $client->message;
			}
			return $client->is_open;
		},
		$patience) or die 'no server';
	add_line($problems, "round $round", $_) for @failed;
	$client->close;
	my $left;
	poll(sub { ($left = leftovers()) eq '' }, 30);
	add_line($problems, "round $round", "left: $_") for split /\n/, $left;
	my @problems = map { join ': ', @{$_}[ 1 .. $#$_ ] } lines_of($problems);
	is(join("\n", @problems), '', "round $round") or diag "seed $seed";
	unlink $problems;
	$done++;
}
# The hint is that of a server which was killed while it recovered.
my ($end, @log) = $node->log_lines(
	$position,
	qr/PANIC|TRAP|XX000|could not open file|invalid page|corrupt/,
	qr/HINT:  This probably means that some data is corrupted/);
is(join("\n", @log), '', 'nothing in the log that should not be there');
my %count;
$count{ $_->[1] }++ for lines_of($counts);
note sprintf '%d rounds; %s; killed: %s', $done, join(', ', map { "$count{$_} $_" } sort keys %count),
  join(', ', map { "$_ $blown{$_}" } sort keys %blown);
is(join(' ', missing()), '', 'clones of all kinds were compared');

$node->stop;
done_testing();
