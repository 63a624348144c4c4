
# Kills processes of the server with signal 9 at random moments, while clients clone, write and drop, and looks at what is
# there when the server has come up again.
#
#   TESTDB_CRASH_ROUNDS   how many rounds, spread over the variants below: 20, or 6 in a short run
#   TESTDB_CRASH_SEED     repeats the choices of another run (not its timing)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Fcntl qw(O_APPEND O_CREAT O_WRONLY);
use POSIX qw(WNOHANG);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbClient;
use TestdbTest;
use Time::HiRes qw(time usleep);

my $rounds = how_much('TESTDB_CRASH_ROUNDS', 6, 20);
my $seed = $ENV{TESTDB_CRASH_SEED} || int(time * 1000) % 1_000_000_000;
my $clients = 8;
my $template = 'regression_template';
my $amcheck = has_contrib('amcheck');

# One at a time, so that each round belongs to one. synchronous_commit is as a user may have it; what the client of a
# clone loses by it is some of its last commits, never the clone.
my @variants;
for my $wal_level ('minimal', 'replica')
{
	for my $page_writes ('on', 'off')
	{
		push @variants, [ $wal_level, $page_writes, 'off', 'on' ], [ $wal_level, $page_writes, 'on', 'off' ];
	}
}
# What is recycled natively is what is new: it gets two thirds of the rounds.
my @order = ((grep { $_->[0] eq 'minimal' } @variants) x 2, grep { $_->[0] ne 'minimal' } @variants);

note "TESTDB_CRASH_ROUNDS=$rounds TESTDB_CRASH_SEED=$seed";
srand $seed;

my $node;
my $server;    # the postmaster, a child of this process: a zombie would keep its lock file valid
my %known;     # clones that are handed out, by name: acked, attempted
my %tried;     # names for CREATE DATABASE of which nobody was told whether it has been done
my $full_page_writes = 1;
my $base_checksum;
my $journals = PostgreSQL::Test::Utils::tempdir;
my $newest = "$journals/newest";
my $log_position = 0;
my $nserved = 0;
my %seen = (killed => {}, served => 0, free => 0, survivors => 0, amcheck => 0, dropping => 0, clones => 0, drops => 0);

# A session that may fail, as many do while the server is killed.
sub try_session
{
	my ($db, %args) = @_;
	return TestdbClient->new(host => $node->host, port => $node->port, db => $db, timeout => 30, %args);
}

sub start_server
{
	my $bin = $node->config_data('--bindir');
	$server = fork // die "fork: $!";
	if ($server == 0)
	{
		open STDOUT, '>>', $node->logfile;
		open STDERR, '>&', \*STDOUT;
		open STDIN, '<', '/dev/null';
		POSIX::setsid();
		{ exec "$bin/postgres", '-D', $node->data_dir }
		POSIX::_exit(1);
	}
	return wait_until_up();
}

# Waits until sessions are accepted; false if the server ends instead, or does not come up.
sub wait_until_up
{
	return poll(
		sub {
			return -1 if waitpid($server, WNOHANG) != 0;
			my $client = try_session('postgres');
			return !$client->error && $client->do('SELECT 1') ? 1 : 0;
		},
		60) // 0;
}

sub stop_server
{
	my ($signal) = @_;
	return unless $server;
	kill $signal, $server;
	waitpid $server, 0;
	my $status = $?;
	undef $server;
	return $status;
}

END
{
	my $status = $?;
	stop_server('QUIT') if $server;
	$? = $status;
}

# The processes whose parent is the given one.
sub children_of
{
	my ($parent) = @_;
	my @pids;
	for my $file (glob '/proc/[0-9]*/stat')
	{
		open my $in, '<', $file or next;
		my $line = <$in> // next;
		push @pids, $1 if $line =~ /^(\d+) \(.*\) \S (\d+) / && $2 == $parent;
	}
	return @pids;
}

# One line of a client's journal. It goes to the operating system at once, which does not crash.
sub note_down
{
	my ($journal, @words) = @_;
	syswrite $journal, join(' ', @words) . "\n";
	return;
}

# The value of the counter that is known to be committed in the template.
sub newest_counter
{
	open my $in, '<', $newest or return 0;
	my $value = <$in> // 0;
	return $value + 0;
}

# The name of a database that CREATE DATABASE has made; undef if it has failed.
sub create_served
{
	my ($admin, $journal) = @_;
	my $name = "regression_served_${$}_" . ++$nserved;
	note_down($journal, 'trying', $name);
	return $admin->do("CREATE DATABASE $name TEMPLATE $template") ? $name : undef;
}

# One life of a clone. False if the session is lost; dies on anything that must not happen.
sub one_cycle
{
	my ($admin, $journal, $kept) = @_;
	my $before = newest_counter();
	my $name = rand() < 0.3 ? create_served($admin, $journal) : $admin->query("SELECT testdb_clone('$template')");
	return lost($admin, 'testdb_clone') unless defined $name;
	note_down($journal, 'handed', $name);

	my $client = try_session($name);
	return lost($client, "connecting to $name") if $client->error;
	my $state = $client->query(
		q{
		SELECT (SELECT count(*) FROM ledger),
			(SELECT md5(string_agg(i || t, ',' ORDER BY i)) FROM base),
			(SELECT value FROM counter)});
	return lost($client, "looking at $name") unless defined $state;
	my ($nledger, $checksum, $counter) = split /\|/, $state;
	die "clone $name has $nledger rows of another life\n" if $nledger != 0;
	die "clone $name has a wrong table\n" if $checksum ne $base_checksum;
	die "clone $name has counter $counter, older than $before\n" if $counter < $before;

	for my $i (1 .. 1 + int rand 4)
	{
		note_down($journal, 'attempt', $name, $i);
		$client->do("INSERT INTO ledger VALUES ($i, repeat('l', 300))")
		  or return lost($client, 'INSERT');
		note_down($journal, 'acked', $name, $i);
	}
	my @kinds = (
		'UPDATE pad SET t = t || i WHERE i % 3 = 0',
		'VACUUM FULL pad',
		'VACUUM FULL pg_class',
		'CREATE TABLE made AS SELECT * FROM pad; CREATE INDEX ON made (i)',
		'DROP TABLE pad',
		'TRUNCATE pad',
		'REINDEX TABLE pg_attribute',
		'INSERT INTO pad SELECT i, i FROM generate_series(5000, 7000) i',
		'CHECKPOINT',
		'SELECT 1');
	my $sql = $kinds[ rand @kinds ];
	$client->do($sql) or return lost($client, $sql);
	$client->close if rand() < 0.5;

	push @$kept, $name;
	while (@$kept > 0 && (@$kept > 1 || rand() < 0.8))
	{
		my $old = shift @$kept;
		note_down($journal, 'dropping', $old);
		my $drop =
		  $old =~ /_served_/ && rand() < 0.8 ? "DROP DATABASE $old WITH (FORCE)" : "SELECT testdb_drop('$old')";
		return lost($admin, $drop) unless $admin->do($drop);
		note_down($journal, 'dropped', $old);
	}
	return 1;
}

# False if an error is one of those that a crash brings; dies if it is not.
sub lost
{
	my ($client, $what) = @_;
	return 0 if $client->sqlstate =~ /^(57P0[123]|08...)$/;
	# What the worker that was killed was at.
	return 0 if $client->message =~ /worker ended before it had finished/;
	die "$what: " . $client->message . "\n";
}

# What a client's process does until the server goes.
sub client_main
{
	my ($path) = @_;
	sysopen my $journal, $path, O_WRONLY | O_APPEND | O_CREAT or POSIX::_exit(1);
	my $admin = try_session('postgres');
	my @kept;
	eval {
		$admin->do('SET testdb.serve_create_database = on');
		1 while !$admin->error && one_cycle($admin, $journal, \@kept);
		1;
	} or note_down($journal, 'bad', $@ =~ s/\s+/ /gr);
	POSIX::_exit(0);
}

# Another one commits in the template now and then, in every way, so that snapshots are refreshed and spares are behind.
sub writer_main
{
	my ($path) = @_;
	sysopen my $journal, $path, O_WRONLY | O_APPEND | O_CREAT or POSIX::_exit(1);
	my @also = (
		'SELECT 1', 'SELECT 1', 'VACUUM base',
		'VACUUM FULL base',
		'CREATE INDEX ON base (t)',
		'CREATE TABLE grown AS SELECT * FROM base; DROP TABLE grown',
		'VACUUM FULL pg_class',
		'VACUUM (FREEZE) pad');
	for (;;)
	{
		usleep(20_000 + rand 100_000);
		my $client = try_session($template);
		last if $client->error;
		my $value = $client->query('UPDATE counter SET value = value + 1 RETURNING value');
		last unless defined $value;
		if (open my $out, '>', "$newest.new")
		{
			print $out $value;
			close $out;
			rename "$newest.new", $newest;
		}
		$client->do($also[ rand @also ]);
		last unless $client->is_open;
		$client->close;
	}
	POSIX::_exit(0);
}

# Picks a process and kills it; its kind. The server restarts by itself, unless it was the postmaster.
sub kill_something
{
	my ($admin) = @_;
	my @kinds = ('testdb worker', 'testdb worker', 'client backend', 'checkpointer', 'postmaster', 'postmaster');
	my $kind = $kinds[ rand @kinds ];

	if ($kind eq 'postmaster')
	{
		# All at once, or each notices by itself.
		my $together = rand() < 0.5;
		kill_postmaster($together);
		return $together ? 'all processes' : 'postmaster';
	}
	# It may end by itself in this very instant; then another one is taken.
	for (1 .. 20)
	{
		my $pid = $admin->query(
			qq{
			SELECT pid FROM pg_stat_activity
			WHERE backend_type = '$kind' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1});
		return $kind unless $admin->is_open;
		next unless $pid && kill_9($pid);
		# Until the postmaster has noticed and ended all sessions.
		return $kind if poll(sub { !$admin->do('SELECT 1') }, 5);
	}
	die "no $kind could be killed";
}

# Kills processes with signal 9; how many there were. Without full page writes, not in the middle of a write(): Linux ends that
# between the 4 kB parts of a page, which only full page writes mend. A process that was stopped is not within one.
sub kill_9
{
	my (@pids) = @_;
	if (!$full_page_writes)
	{
		kill 'STOP', @pids;
		poll(
			sub {
				!grep { process_state($_) !~ /[TtZX]/ } @pids;
			},
			5) or die 'processes do not stop';
	}
	return kill 'KILL', @pids;
}

# Kills the postmaster, and at once with it all others if so wanted. None of them is left on return: not one either that was
# being forked in that very instant.
sub kill_postmaster
{
	my ($together) = @_;
	kill_9($server, $together ? children_of($server) : ());
	waitpid $server, 0;
	my $patience = time + 5;
	poll(
		sub {
			my @pids = processes_of($node->data_dir);
			kill_9(@pids) if $together || time > $patience;
			return !@pids;
		},
		60) or die 'processes of a server that was killed do not end';
	return;
}

# The processes that run in a data directory.
sub processes_of
{
	my ($directory) = @_;
	my @pids;
	for my $link (glob '/proc/[0-9]*/cwd')
	{
		my $pid = $link =~ s{^/proc/(\d+)/cwd$}{$1}r;
		push @pids, $pid if (readlink $link // '') eq $directory && process_runs($pid);
	}
	return @pids;
}

# Is it there, and not just waiting for init to notice that it has gone?
sub process_runs
{
	my ($pid) = @_;
	return process_state($pid) !~ /[ZX]/;
}

# The letter that Linux has for what a process does; X if it is not there.
sub process_state
{
	my ($pid) = @_;
	open my $in, '<', "/proc/$pid/stat" or return 'X';
	my $line = <$in> // return 'X';
	return $line =~ /\) (\w) / ? $1 : die $line;
}

# Reads the journals of a round into %known; the clones whose drop was asked for and not answered.
sub read_journals
{
	my %dropping;
	my @bad;
	for my $path (glob "$journals/*.journal")
	{
		open my $in, '<', $path or next;
		while (my $line = <$in>)
		{
			chomp $line;
			my ($word, $name, $n) = split / /, $line;
			if ($word eq 'trying')
			{
				$tried{$name} = 1;
			}
			elsif ($word eq 'handed')
			{
				push @bad, "$name was handed out twice" if exists $known{$name};
				$known{$name} = { attempt => 0, acked => 0 };
				$seen{clones}++;
				$seen{served}++ if delete $tried{$name};
			}
			elsif ($word eq 'attempt' || $word eq 'acked') { $known{$name}{$word} = $n }
			elsif ($word eq 'dropping')                    { $dropping{$name} = 1 }
			elsif ($word eq 'dropped')
			{
				delete $dropping{$name};
				$known{$name}{gone} = 1;
				$seen{drops}++;
			}
			else { push @bad, substr $line, 4 }
		}
		close $in;
		unlink $path;
	}
	return (\%dropping, @bad);
}

# Lines of the log since the last call that are no part of a crash and a restart.
sub complaints
{
	my $text = slurp_file($node->logfile, $log_position);
	$log_position = -s $node->logfile;
	return grep {
		/PANIC|TRAP|could not|invalid page|missing|corrupt|WARNING|no such file|may be left|cannot|unexpected|ERROR:/i
		  && !/could not (receive|send) data (from|to) client/
		  && !/terminating connection (because of crash|due to unexpected postmaster exit)/
		  && !/worker ended before it had finished/
		  && !/HINT:|DETAIL:|STATEMENT:/
		  # Autovacuum came to a database whose removal has begun; redo to one whose files have gone.  Neither has an
		  # application's name.
		  && !/\d\] FATAL:  cannot connect to invalid database/
		  && !/\d\] WARNING:  (could not open directory "base|some useless files may be left)/
		  # Where redo ends is where WAL does.
		  && !/LOG:  (invalid|unexpected pageaddr|record with incorrect)/
	} split /\n/, $text;
}

# Removes the directories in base/ that belong to no database, once they have been reported.
sub remove_orphans
{
	my ($directories, $rows) = @_;
	for my $orphan (grep { " $rows " !~ / $_ / } split / /, $directories)
	{
		PostgreSQL::Test::Utils::system_log('rm', '-r', $node->data_dir . "/base/$orphan");
	}
	return;
}

# Everything that must hold after a restart; returns what does not.
sub check_all
{
	my ($dropping, $sync) = @_;
	my @wrong;
	my $admin = try_session('postgres');

	# Work left over from before the crash is done when each lease belongs to a clone.
	my ($leases, $held) = ('', '');
	poll(
		sub {
			$leases = join ' ', sort map { m{/(\d+)$} } glob $node->data_dir . '/pg_testdb/clones/*';
			$held = join ' ',
			  sort map { $_->[0] } $admin->rows('SELECT oid FROM testdb_clones() WHERE state = \'leased\'');
			return $leases eq $held;
		},
		10) or push @wrong, "leases on disk: $leases; handed out: $held";
	my %clone =
	  map { $_->[0] => $_->[1] }
	  $admin->rows(
		'SELECT datname, d.oid FROM testdb_clones() c JOIN pg_database d USING (oid) WHERE c.state = \'leased\' ORDER BY 1'
	  );
	push @wrong, 'a clone that is handed out has no row'
	  if keys %clone != split ' ', $held;

	my $directories = join ' ', sort map { m{/(\d+)$} } glob $node->data_dir . '/base/*';
	my $rows = join ' ', sort map { $_->[0] } $admin->rows('SELECT oid FROM pg_database');
	if ($directories ne $rows)
	{
		push @wrong, "directories in base: $directories; databases: $rows";
		remove_orphans($directories, $rows);
	}
	my @snapshots = grep { !$admin->query("SELECT count(*) FROM pg_database WHERE oid = $_") }
	  map { m{/(\d+)} } glob $node->data_dir . '/pg_testdb/snapshots/*';
	push @wrong, "snapshots of no database: @snapshots" if @snapshots;
	my $invalid = $admin->query('SELECT datname FROM pg_database WHERE datconnlimit = -2');
	push @wrong, "invalid database $invalid" if $invalid;

	# By CREATE DATABASE: there and whole, as is looked at below, or not at all.
	for my $name (sort keys %tried)
	{
		push @wrong, "$name is there, and not known"
		  if !exists $clone{$name} && $admin->query("SELECT count(*) FROM pg_database WHERE datname = '$name'");
	}
	if (my ($name) = grep { !exists $clone{$_} } sort keys %tried)
	{
		$admin->do($_)
		  or push @wrong, "$_: " . $admin->message
		  for "CREATE DATABASE $name TEMPLATE template0", "DROP DATABASE $name";
		$seen{free}++;
	}
	%tried = ();

	for my $name (sort keys %known)
	{
		my $is = $known{$name};
		if (exists $clone{$name})
		{
			push @wrong, "$name came back after its drop was acknowledged" if $is->{gone};
		}
		elsif ($is->{gone} || $dropping->{$name})
		{
			delete $known{$name};
		}
		else
		{
			push @wrong, "$name was handed out, and is lost";
			delete $known{$name};
		}
	}
	$seen{dropping}  += keys %$dropping;
	$seen{survivors} += keys %clone;

	for my $name (sort keys %clone)
	{
		my $client = try_session($name);
		my $state = $client->query(
			q{
			SELECT (SELECT md5(string_agg(i || t, ',' ORDER BY i)) FROM base), count(*), coalesce(max(i), 0),
				bool_and(t = repeat('l', 300))
			FROM ledger});
		unless (defined $state)
		{
			push @wrong, "$name: " . $client->message;
			next;
		}
		my ($checksum, $n, $max, $good) = split /\|/, $state, -1;
		my $is = $known{$name} || { attempt => 0, acked => 0 };
		push @wrong, "$name: wrong table" if $checksum ne $base_checksum;
		push @wrong, "$name: ledger has $n rows up to $max" if $n != $max || $good eq 'f';
		push @wrong, "$name: $n rows, at most $is->{attempt} were written" if $n > $is->{attempt};
		push @wrong, "$name: $n rows, $is->{acked} were committed" if $sync eq 'on' && $n < $is->{acked};
		$is->{acked} = $is->{attempt} = $n;
		$known{$name} = $is;
	}
	my $value = try_session($template)->query('SELECT value FROM counter') // 'nothing';
	my $committed = newest_counter();
	push @wrong, "the template has counter $value, $committed was committed"
	  if $sync eq 'on' && $value < $committed;
	open my $out, '>', $newest;
	print $out $value;
	close $out;

	if ($amcheck and my @names = sort keys %clone)
	{
		$seen{amcheck}++;
		my ($stdout, $stderr) = run_command(
			[
				$node->installed_command('pg_amcheck'),
				'-h', $node->host, '-p', $node->port, '-j', 2, '--heapallindexed', map { ('-d', $_) } @names, $template
			]);
		push @wrong, "pg_amcheck: $stdout $stderr" if "$stdout$stderr" ne '';
	}

	# So that the next round does not find it again.
	if ($invalid)
	{
		for my $name (split /\n/, $invalid)
		{
			$admin->do("DROP DATABASE \"$name\"") or diag $admin->message;
			delete $clone{$name};
			delete $known{$name};
		}
	}

	# Some live on into the next rounds, the others make room.
	my @names = sort keys %clone;
	my %keep = map { $_ => 1 } (sort { rand() <=> 0.5 } @names)[ 0 .. 1 ] if @names > 2;
	for my $name (grep { !$keep{$_} } @names)
	{
		$admin->do("SELECT testdb_drop('$name')") or push @wrong, "dropping $name: " . $admin->message;
		delete $known{$name};
	}
	return @wrong;
}

# One round: work, a kill, a restart, and the checks.
sub one_round
{
	my ($number, $variant) = @_;
	my $sync = $variant->[3];
	my @pids;
	my $admin = try_session('postgres');

	# Cluster.pm of newer majors dies of it, so that a child would stop the server.
	local $SIG{TERM} = 'DEFAULT';
	for my $i (0 .. $clients)
	{
		my $child_seed = int rand 1_000_000_000;
		my $pid = fork // die "fork: $!";
		push @pids, $pid and next if $pid;
		srand $child_seed;
		undef $server;
		$i < $clients
		  ? client_main("$journals/$number.$i.journal")
		  : writer_main("$journals/$number.$i.journal");
	}
	usleep(100_000 + rand 700_000);
	my $killed = kill_something($admin);
	# The writer would go on with the new server; a client ends with its session. By KILL: what handles TERM stops the server.
	kill 'KILL', $pids[-1];
	waitpid $_, 0 for @pids;
	$seen{killed}{$killed}++;

	my $up = $killed =~ /postmaster|all/ ? start_server() : wait_until_up();
	my @wrong;
	if ($up != 1)
	{
		push @wrong, 'the server does not start';
		BAIL_OUT("round $number: the server does not start after a kill of $killed (seed $seed)");
	}
	my ($dropping, @bad) = read_journals();
	push @wrong, @bad, check_all($dropping, $sync);
	push @wrong, map { "log: $_" } complaints();
	ok(!@wrong, "round $number: $killed killed")
	  or diag "wal_level, full_page_writes, fsync, synchronous_commit: @$variant\n" . join "\n", @wrong;
	return;
}

sub set_variant
{
	my ($variant) = @_;
	my ($wal_level, $page_writes, $fsync, $sync) = @$variant;
	my $senders = $wal_level eq 'minimal' ? 0 : 4;
	$full_page_writes = $page_writes eq 'on';
	$node->append_conf(
		'postgresql.conf', qq{
wal_level = $wal_level
max_wal_senders = $senders
full_page_writes = $page_writes
fsync = $fsync
synchronous_commit = $sync
});
	return;
}

sub new_cluster
{
	my ($name, @extra) = @_;
	$node = PostgreSQL::Test::Cluster->new($name);
	$node->init(extra => \@extra);
	$node->append_conf(
		'postgresql.conf', q{
log_statement = none
log_checkpoints = off
restart_after_crash = on
autovacuum = on
autovacuum_naptime = 1s
shared_buffers = 16MB
max_connections = 50
wal_writer_delay = 200ms
testdb.template_timeout = 30s
});
	# With assertions core itself stops when the postmaster is killed while a session waits for its own asynchronous I/O.
	$node->append_conf('postgresql.conf', 'io_method = sync') if $node->pg_version >= 18;
	%known = ();
	unlink $newest;
	$log_position = 0;
	set_variant([ 'minimal', 'on', 'off', 'on' ]);
	start_server() == 1 or BAIL_OUT('the server does not start');
	my $admin = try_session('postgres');
	$admin->do($_) or BAIL_OUT("$_: " . $admin->message) for 'CREATE EXTENSION testdb', "CREATE DATABASE $template";
	my $client = try_session($template);
	$client->do($_)
	  or BAIL_OUT("$_: " . $client->message)
	  for $amcheck ? 'CREATE EXTENSION amcheck' : (), 'CREATE TABLE ledger (i int PRIMARY KEY, t text)',
	  q{CREATE TABLE base AS SELECT i, md5(i::text) AS t FROM generate_series(1, 2000) i},
	  'CREATE INDEX ON base (i)', 'CREATE TABLE counter AS SELECT 0 AS value',
	  'CREATE TABLE pad AS SELECT i, i::text AS t FROM generate_series(1, 2000) i',
	  'CREATE INDEX ON pad (i)';
	$base_checksum = $client->query(q{SELECT md5(string_agg(i || t, ',' ORDER BY i)) FROM base});
	$client->close;
	return;
}

# A check that can't fail is none: a database with a lease that nobody asked for, one without a directory.
sub prove_checks
{
	my $admin = try_session('postgres');
	my $name = $admin->query("SELECT testdb_clone('$template')");
	$known{$name} = { attempt => 3, acked => 3 };
	$known{regression_never} = { attempt => 0, acked => 0 };
	mkdir $node->data_dir . '/base/999999';
	my $wrong = join "\n", check_all({}, 'on');
	like($wrong, qr/$name: 0 rows, 3 were committed/, 'a lost commit is seen');
	like($wrong, qr/regression_never was handed out, and is lost/, 'a lost clone is seen');
	like($wrong, qr/directories in base: .*999999/, 'an orphan directory is seen');
	return;
}

# The name that testdb_clone has returned is good for ever, also if the server dies in that instant, and if nobody has
# committed anything since.
sub prove_names
{
	for my $sync ('on', 'off')
	{
		stop_server('INT');
		# Nothing else writes WAL out.
		set_variant([ 'minimal', 'on', 'off', $sync ]);
		$node->append_conf('postgresql.conf', "wal_writer_delay = 10s\ntestdb.spares = 0");
		start_server();
		for my $how ('new', 'new, given name', 'recycled', 'recycled, given name')
		{
			my $admin = try_session('postgres');
			my $argument = $how =~ /given/ ? ", 'regression_mine'" : '';
			$admin->do("SELECT testdb_drop(name) FROM testdb_clones");
			$admin->do('DROP DATABASE IF EXISTS regression_mine');
			poll(sub { !$admin->query('SELECT sum(recycling) FROM testdb_templates') });
			if ($how =~ /recycled/)
			{
				# Twice: what the first one is restored to, the second finds.
				for (1 .. 2)
				{
					my $name = $admin->query("SELECT testdb_clone('$template')");
					$admin->do("SELECT testdb_drop('$name')");
					poll(sub { $admin->query('SELECT sum(spares) FROM testdb_templates WHERE recycling = 0') });
				}
			}
			else
			{
				# Only a restart makes sure that there is no spare.
				stop_server('INT');
				start_server();
				$admin = try_session('postgres');
			}
			my $name = $admin->query("SELECT testdb_clone('$template'$argument)");
			my $oid = $admin->query("SELECT oid FROM pg_database WHERE datname = '$name'");
			kill_postmaster(1);
			start_server();

			my $client = try_session($name);
			is($client->query('SELECT count(*) FROM base'),
				2000, "synchronous_commit = $sync: a clone ($how) outlives a crash just after it was handed out")
			  or diag $client->message;
			$admin = try_session('postgres');
			# Nothing is known until the registry has been rebuilt.
			poll(sub { $admin->query('SELECT count(*) FROM testdb_clones()') }, 3);
			is( $admin->query(
					"SELECT c.oid FROM testdb_clones() c JOIN pg_database USING (oid) WHERE datname = '$name'"),
				$oid,
				'it is still handed out');
			ok($admin->do("SELECT testdb_drop('$name')"), 'and can be dropped') or diag $admin->message;
			my $directories = join ' ', sort map { m{/(\d+)$} } glob $node->data_dir . '/base/*';
			my $rows = join ' ', sort map { $_->[0] } $admin->rows('SELECT oid FROM pg_database');
			is($directories, $rows, 'no directory is left over');
			remove_orphans($directories, $rows);
		}
	}
	stop_server('INT');
	$node->append_conf('postgresql.conf', "wal_writer_delay = 200ms\ntestdb.spares = 4");
	start_server();
	complaints();
	return;
}

# What pg_checksums finds in the stopped server's files.  A VACUUM FULL of a mapped catalog that was killed leaves the file
# that was to become the new map (relmapper.c, RELMAPPER_TEMP_FILENAME, since 16).  PostgreSQL overwrites it the next time;
# pg_checksums takes it for a relation's file and gives up, with or without testdb.
sub check_checksums
{
	my ($when) = @_;
	unlink glob $node->data_dir . '/base/*/pg_filenode.map.tmp';
	my ($out, $err) = run_command([ $node->installed_command('pg_checksums'), '--check', '-D', $node->data_dir ]);
	like($out, qr/Bad checksums:  0$/m, "pg_checksums finds nothing $when") or diag $out, $err;
	return;
}

# Runs some rounds on the current cluster, changing the variant after every few.
sub run_rounds
{
	my ($first, $last, $checksums) = @_;
	my $per_variant = int(($last - $first) / @order) + 1;
	for my $number ($first .. $last)
	{
		my $i = $number - $first;
		my $variant = $order[ ($i / $per_variant) % @order ];
		if ($i % $per_variant == 0)
		{
			my $status = stop_server('INT');
			is($status, 0, 'a fast shutdown succeeds');
			check_checksums('between two variants') if $checksums;
			set_variant($variant);
			start_server() == 1 or BAIL_OUT('the server does not start after a shutdown');
			complaints();
		}
		one_round($number, $variant);
	}
	my $status = stop_server('INT');
	is($status, 0, 'the last shutdown succeeds');
	check_checksums('at the end') if $checksums;
	return;
}

my $plain = int($rounds * 0.6 + 0.5) || 1;
new_cluster('plain');
prove_names();
prove_checks();
run_rounds(1, $plain, 0);
if ($rounds > $plain)
{
	new_cluster('checksums', '-k');
	run_rounds($plain + 1, $rounds, 1);
}

note join ', ', map { "$_ killed: $seen{killed}{$_}" } sort keys %{ $seen{killed} };
note
  "$seen{clones} clones handed out, $seen{served} by CREATE DATABASE, $seen{drops} dropped, $seen{dropping} drops interrupted, $seen{survivors} survivors checked, $seen{free} names tried again";
cmp_ok($seen{clones}, '>', 5 * $rounds, 'the clients had something to do');
cmp_ok($seen{served}, '>', $rounds, 'also by CREATE DATABASE');
cmp_ok($seen{survivors}, '>', $rounds / 2, 'and there was something to look at');
SKIP:
{
	skip 'PostgreSQL has no amcheck', 1 unless $amcheck;
	cmp_ok($seen{amcheck}, '>', 0, 'also for pg_amcheck');
}
done_testing();
