
# Whatever a clone's owner or a superuser does to it, its row, settings or content, it can be dropped: by testdb_drop, with its
# session, when its time is over, by testdb_drop_all, after a restart; it can be reset; and where it is recycled, the next
# life has none of it. What a live process holds is in t/045_in_the_way.pl.

use strict;
use warnings;

use Digest::MD5 'md5_hex';
use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbHold;
use TestdbTest;
use Time::HiRes 'time';

my $template = 'regression_template';
my $space = PostgreSQL::Test::Utils::tempdir;
my $node = new_server(
	'main', q{
wal_level = logical
max_prepared_transactions = 200
max_replication_slots = 60
max_wal_senders = 10
max_logical_replication_workers = 6
max_worker_processes = 16
max_connections = 300
wal_retrieve_retry_interval = 100ms
testdb.lock_timeout = 1s
});
my $version = int($node->pg_version =~ /^(\d+)/ ? $1 : 0);
my $admin = session($node, 'postgres');
run($admin, $_)
  for "CREATE DATABASE $template IS_TEMPLATE true", 'CREATE ROLE regress_user LOGIN', 'CREATE ROLE regress_other',
  'CREATE ROLE regress_super SUPERUSER', 'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop TO regress_user',
  'CREATE PUBLICATION p', "CREATE TABLESPACE regress_space LOCATION '$space'";
my $setup = session($node, $template);
run($setup, 'CREATE TABLE t AS SELECT generate_series(1, 100) AS n');
$setup->close;

# Sessions that stay in clones until the test ends.
my @kept;

# Runs statements in a session of its own in a database.
sub inside
{
	my ($name, @statements) = @_;
	my $client = session($node, $name);
	run($client, $_) for @statements;
	$client->close;
	return;
}

# A text as a literal.
sub literal
{
	my ($text) = @_;
	return "'" . $text =~ s/'/''/gr . "'";
}

# The same in the administrator's session, with %s for the name.
sub outside
{
	my ($name, @statements) = @_;
	run($admin, s/%s/$name/gr) for @statements;
	return;
}

# Leaves a prepared transaction in a database, with statements that have %s for its name.
sub prepare
{
	my ($name, @statements) = @_;
	inside(
		$name, 'BEGIN',
		'CREATE TABLE prepared ()',
		(map { s/%s/$name/gr } @statements),
		"PREPARE TRANSACTION 'regress it''s $name'");
	return;
}

# Leaves a session there in an open transaction.
sub hold_open
{
	my ($name, @statements) = @_;
	push @kept, my $client = session($node, $name);
	run($client, s/%s/$name/gr) for 'BEGIN', @statements;
	return;
}

# Keeps a slot in use, by a process that streams from it.
my @streams;

sub stream
{
	my ($name) = @_;
	my $slot = 'slot_' . md5_hex($name);
	inside($name, "SELECT pg_create_logical_replication_slot('$slot', 'pgoutput')");
	my ($in, $out, $err) = ('', '', '');
	push @streams,
	  IPC::Run::start(
		[
			'pg_recvlogical', '-h', $node->host, '-p', $node->port, '-d', $name, '-S', $slot, '--start', '-n', '-f',
			'-', '-o', 'proto_version=1', '-o', 'publication_names=none'
		],
		\$in,
		\$out,
		\$err);
	poll(sub { run($admin, "SELECT active FROM pg_replication_slots WHERE slot_name = '$slot'") eq 't' })
	  or die "nobody streams from $slot: $err";
	return;
}

sub subscribe
{
	my ($name, $slot, @more) = @_;
	inside(
		$name,
		'SET log_min_messages = error',
		"CREATE SUBSCRIPTION regress_sub CONNECTION 'host=/nonexistent dbname=none' PUBLICATION p WITH (connect = false, slot_name = $slot)",
		@more);
	return;
}

# Each kind: what is done to a clone of that name, and the first major that knows it. Those that stream have their turn by
# themselves: while WAL is sent somewhere, nothing is recycled. So have those that lock the clone, or change its row, from
# within: other statements would wait for them.
my @kinds = (
	[ 'nothing', sub { } ],
	# Before any transaction is prepared, whose end it would wait for.
	[ 'slot', sub { inside($_[0], "SELECT pg_create_logical_replication_slot('slot_' || md5('$_[0]'), 'pgoutput')") } ],
	[ 'slot in use', \&stream, 'streams' ],
	[
		'temporary slot',
		sub {
			push @kept, my $c = session($node, $_[0]);
			run($c, "SELECT pg_create_logical_replication_slot('temporary_' || md5('$_[0]'), 'pgoutput', true)");
		}
	],
	[ 'subscription that runs', \&follow, 'streams' ],
	[ 'is_template', sub { outside($_[0], 'ALTER DATABASE %s IS_TEMPLATE true') } ],
	[ 'allow_connections', sub { outside($_[0], 'ALTER DATABASE %s ALLOW_CONNECTIONS false') } ],
	[ 'connection limit 0', sub { outside($_[0], 'ALTER DATABASE %s CONNECTION LIMIT 0') } ],
	[ 'marked as invalid', sub { outside($_[0], "UPDATE pg_database SET datconnlimit = -2 WHERE datname = '%s'") } ],
	[
		'all of these',
		sub {
			prepare($_[0]);
			outside(
				$_[0],
				'ALTER DATABASE %s ALLOW_CONNECTIONS false IS_TEMPLATE true',
				"UPDATE pg_database SET datconnlimit = -2 WHERE datname = '%s'");
		}
	],
	[ 'owner', sub { outside($_[0], 'ALTER DATABASE %s OWNER TO regress_other') } ],
	[ 'tablespace', sub { outside($_[0], 'ALTER DATABASE %s SET TABLESPACE regress_space') } ],
	[ 'files in a tablespace', sub { inside($_[0], 'CREATE TABLE away (i) TABLESPACE regress_space AS SELECT 1') } ],
	[
		'tablespace of the row alone',
		sub {
			prepare($_[0]);
			outside($_[0],
				"UPDATE pg_database SET dattablespace = (SELECT oid FROM pg_tablespace WHERE spcname = 'regress_space') WHERE datname = '%s'"
			);
		}
	],
	[ 'another name', sub { outside($_[0], qq{ALTER DATABASE %s RENAME TO "it's ""%s"" \\; é"}) } ],
	[ 'a long name', sub { outside($_[0], 'ALTER DATABASE %s RENAME TO ' . substr("$_[0]_" . 'x' x 63, 0, 63)) } ],
	[
		'owner that is not there',
		sub { outside($_[0], "UPDATE pg_database SET datdba = 4000000000 WHERE datname = '%s'") }
	],
	[
		'locale that is not there',
		sub {
			prepare($_[0]);
			outside($_[0],
				"UPDATE pg_database SET datcollate = 'nonexistent', datctype = 'nonexistent' WHERE datname = '%s'");
		}
	],
	[
		'security label',
		sub {
			outside($_[0],
				"INSERT INTO pg_shseclabel SELECT oid, 'pg_database'::regclass, 'none', 'kept' FROM pg_database WHERE datname = '%s'"
			);
		}
	],
	[ 'comment', sub { outside($_[0], "COMMENT ON DATABASE %s IS 'kept'") } ],
	[ 'grant', sub { outside($_[0], 'GRANT CREATE ON DATABASE %s TO regress_other WITH GRANT OPTION') } ],
	[ 'no privileges', sub { outside($_[0], 'REVOKE ALL ON DATABASE %s FROM PUBLIC, CURRENT_USER') } ],
	[ 'publication', sub { inside($_[0], 'CREATE PUBLICATION p FOR ALL TABLES') } ],
	[
		'event triggers',
		sub {
			inside(
				$_[0],
				q{CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'refused'; END$$},
				'CREATE EVENT TRIGGER a ON sql_drop EXECUTE FUNCTION refuse()',
				'CREATE EVENT TRIGGER b ON ddl_command_start EXECUTE FUNCTION refuse()');
		}
	],
	[
		'login trigger',
		sub {
			inside(
				$_[0],
				'BEGIN',
				'CREATE TABLE prepared ()',
				"PREPARE TRANSACTION 'login $_[0]'",
				q{CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'refused'; END$$},
				'CREATE EVENT TRIGGER c ON login EXECUTE FUNCTION refuse()',
				'ALTER EVENT TRIGGER c ENABLE ALWAYS');
		},
		17
	],
	[ 'advisory lock', sub { push @kept, my $c = session($node, $_[0]); run($c, 'SELECT pg_advisory_lock(1)') } ],
	[ 'open transaction', sub { push @kept, my $c = session($node, $_[0]); run($c, 'BEGIN; LOCK TABLE pg_class, t') } ],
	[ 'prepared transaction', \&prepare ],
	[
		'prepared transaction, template',
		sub { prepare($_[0]); outside($_[0], 'ALTER DATABASE %s IS_TEMPLATE true') }
	],
	[
		'prepared transaction, closed',
		sub { prepare($_[0]); outside($_[0], 'ALTER DATABASE %s ALLOW_CONNECTIONS false CONNECTION LIMIT 0') }
	],
	[ 'subscription', sub { subscribe($_[0], 'NONE') } ],
	[
		'subscription with a slot, enabled',
		sub { subscribe($_[0], 'nowhere', 'ALTER SUBSCRIPTION regress_sub ENABLE') }
	],
	[
		'subscription of a template',
		sub { subscribe($_[0], 'NONE'); outside($_[0], 'ALTER DATABASE %s IS_TEMPLATE true') }
	],
	[
		'two subscriptions, one of another role',
		sub {
			subscribe(
				$_[0],
				'NONE',
				"CREATE SUBSCRIPTION regress_other_sub CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false, slot_name = NONE)",
				'ALTER SUBSCRIPTION regress_other_sub OWNER TO regress_super',
				'ALTER SUBSCRIPTION regress_sub DISABLE');
		}
	],
	[
		'prepared subscription',
		sub {
			inside(
				$_[0],
				'SET log_min_messages = error',
				'BEGIN',
				"CREATE SUBSCRIPTION regress_sub CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false, slot_name = NONE)",
				"PREPARE TRANSACTION 'subscription $_[0]'");
		}
	],
	[
		'system view dropped',
		sub {
			prepare($_[0]);
			inside($_[0], 'SET allow_system_table_mods = on', 'DROP VIEW pg_prepared_xacts, pg_stat_activity CASCADE');
		}
	],
	[
		'catalogs emptied',
		sub { inside($_[0], 'WITH a AS (DELETE FROM pg_attribute), p AS (DELETE FROM pg_proc) DELETE FROM pg_class') }
	],
	[
		'settings of a role in it',
		sub {
			prepare($_[0]);
			outside(
				$_[0],
				map { "ALTER ROLE CURRENT_USER IN DATABASE %s SET $_" } q{session_preload_libraries = 'nonexistent'},
				'role = regress_other',
				q{default_transaction_read_only = 'on'},
				q{exit_on_error = 'on'},
				q{statement_timeout = '1ms'},
				q{search_path = 'nonexistent'});
		}
	],
	[ 'each setting at its least', sub { set_all($_[0], 'min_val') } ],
	[ 'each setting at its greatest', sub { set_all($_[0], 'max_val') } ],
	[ 'ready clones of it', sub { run($admin, "SELECT testdb_prewarm('$_[0]', 2)") } ],
	[ 'template of another', sub { clone_of($_[0]) } ],
	(   map {
			my ($what, @statements) = @$_;
			(   [ "open transaction, $what", sub { hold_open($_[0], @statements) }, 'locks' ],
				[ "prepared transaction, $what", sub { prepare($_[0], @statements) }, 'locks' ])
		} ( [ 'comment', "COMMENT ON DATABASE %s IS 'never'" ],
			[ 'grant', 'GRANT CREATE ON DATABASE %s TO regress_other' ],
			[
				'settings',
				"ALTER DATABASE %s SET work_mem = '5MB'",
				'ALTER ROLE regress_other IN DATABASE %s SET jit = off'
			],
			[ 'row', 'ALTER DATABASE %s CONNECTION LIMIT 7' ],
			[ 'new owner', 'ALTER DATABASE %s OWNER TO regress_other' ])));

# Gives a database a value of each setting that can be set there, far from the one it has; with a prepared transaction.
sub set_all
{
	my ($name, $bound) = @_;
	prepare($name);
	run($admin, qq{
		DO \$\$
		DECLARE
			s record;
			done int := 0;
		BEGIN
			-- But for one that servers with assertions have, which makes all of them a thousand times slower.
			FOR s IN SELECT * FROM pg_settings WHERE context IN ('user', 'superuser') AND name <> 'debug_discard_caches' ORDER BY name COLLATE "C"
			LOOP
				BEGIN
					EXECUTE format('ALTER DATABASE $name SET %I = %L', s.name, CASE s.vartype
						WHEN 'bool' THEN CASE s.setting WHEN 'on' THEN 'off' ELSE 'on' END
						WHEN 'enum' THEN s.enumvals[CASE '$bound' WHEN 'min_val' THEN 1 ELSE cardinality(s.enumvals) END]
						WHEN 'string' THEN 'nonexistent'
						ELSE CASE WHEN '$bound' = 'max_val' THEN s.max_val WHEN s.min_val::float8 <= 0 THEN '1' ELSE s.min_val END
						END);
					done := done + 1;
				EXCEPTION WHEN OTHERS THEN NULL;
				END;
			END LOOP;
			IF done < 100 THEN RAISE 'only % settings', done; END IF;
		END
		\$\$});
	return;
}

# A subscription whose worker streams changes from the database postgres, which keeps the slot.
sub follow
{
	my ($name) = @_;
	my $slot = 'follow_' . md5_hex($name);
	run($admin, "SELECT pg_create_logical_replication_slot('$slot', 'pgoutput')");
	inside($name,
			'CREATE SUBSCRIPTION regress_sub CONNECTION '
		  . literal('host=' . $node->host . ' port=' . $node->port . ' dbname=postgres')
		  . " PUBLICATION p WITH (create_slot = false, slot_name = $slot, copy_data = false)");
	poll(sub { run($admin, "SELECT active FROM pg_replication_slots WHERE slot_name = '$slot'") eq 't' })
	  or die "nobody streams from $slot";
	return;
}

# What a worker's own session in it would get: it needs one to roll back a prepared transaction.
my %settings = (
	default_transaction_read_only => "'on'",
	default_transaction_deferrable => "'on'",
	default_transaction_isolation => "'serializable'",
	session_preload_libraries => "'nonexistent'",
	local_preload_libraries => "'nonexistent'",
	role => 'regress_other',
	statement_timeout => "'1ms'",
	lock_timeout => "'1ms'",
	idle_in_transaction_session_timeout => "'1ms'",
	search_path => "'nonexistent'",
	exit_on_error => "'on'",
	default_table_access_method => "'nonexistent'",
	$version >= 17 ? (transaction_timeout => "'1ms'") : ());
for my $setting (sort keys %settings)
{
	push @kinds, [
		"setting $setting",
		sub {
			my ($name) = @_;
			prepare($name);
			my $done = $admin->do("ALTER DATABASE $name SET $setting = $settings{$setting}");
			diag("$setting: " . told($admin)) unless $done || $setting eq 'default_table_access_method';
		}
	];
}

# What those of a kind have in common: streams, locks, or nothing.
sub group_of
{
	my ($kind) = @_;
	return ($kind->[2] // 0) =~ /^([a-z]+)$/ ? $1 : '';
}
@kinds = grep { group_of($_) ne '' || $version >= ($_->[2] // 0) } @kinds;

# Clones of clones, which are to be dropped at the end.
my @children;

sub clone_of
{
	my ($name) = @_;
	push @children, run($admin, "SELECT testdb_clone('$name')");
	return;
}

# Calls a function of testdb for a clone, as an administrator.
sub call
{
	my ($function, $name) = @_;
	return $admin->query("SELECT $function(" . literal($name) . ')');
}

# Makes a clone for each kind in a session, and does to it what the kind is; a hash of kind => [ name, OID, first name ].
sub make_all
{
	my ($client, $terms, @batch) = @_;
	my %made;
	for my $kind (@batch)
	{
		my ($what, $spoil) = @$kind;
		my $name = run($client, "SELECT testdb_clone('$template'" . ($terms ? ", $terms" : '') . ')');
		my $oid = oid_of($admin, $name);
		$spoil->($name);
		$made{$what} = [ run($admin, "SELECT datname FROM pg_database WHERE oid = $oid"), $oid, $name ];
	}
	return %made;
}

# What there still is of the database of that OID in its former life, in a few words.
sub rest_of
{
	my ($name, $oid, $first) = @_;
	my @rest;
	push @rest, 'row'
	  if run($admin, "SELECT count(*) FROM pg_database WHERE oid = $oid AND datname = " . literal($name));
	push @rest,
	  'lease'
	  if run($admin,
		"SELECT count(*) FROM testdb_clones() WHERE oid = $oid AND state IN ('leased', 'garbage', 'removing')");
	push @rest, 'subscription' if run($admin, "SELECT count(*) FROM pg_subscription WHERE subdbid = $oid");
	push @rest, 'prepared' if run($admin, "SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE '%$first'");
	push @rest,
	  'slot'
	  if run($admin,
		"SELECT count(*) FROM pg_replication_slots WHERE slot_name IN ('slot_' || md5('$first'), 'temporary_' || md5('$first'))"
	  );
	return join ' ', @rest;
}

# Tests that of all of them nothing is left, now or soon.
sub all_gone
{
	my ($how, $seconds, %made) = @_;
	for my $what (sort keys %made)
	{
		my $rest;
		poll(sub { $rest = rest_of(@{ $made{$what} }); $rest eq '' }, $seconds);
		is($rest, '', "$how: $what");
		$seconds = 0.1 if $rest ne '';
	}
	is(run($admin, "SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'pg\\_%'"),
		0, "$how: no replication origin is left");
	is(run($admin, "SELECT count(*) FROM pg_shdepend WHERE classid = 'pg_subscription'::regclass"),
		0, "$how: no dependency of a subscription is left");
	run($admin, "SELECT testdb_drop('$_', true)") for splice @children;
	@kept = ();
	$_->finish for splice @streams;
	poll(
		sub {
			$admin->do(
				q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'follow%'});
		}) or die told($admin);
	return;
}

# Tests the next lives of those that are recycled: they have nothing of the former one. A clone of a template that was never
# changed is what they must be like.
my ($wanted_rows, $wanted_more);

sub no_remains
{
	my %made = @_;
	my %what = map { $made{$_}[1] => $_ } keys %made;
	my %lives;
	poll(sub { is_idle($admin) && !run($admin, 'SELECT sum(recycling) FROM testdb_templates') })
	  or die 'nothing is recycled';
	for (1 .. keys %made)
	{
		my $name = run($admin, "SELECT testdb_clone('$template')");
		my $oid = oid_of($admin, $name);
		my $kind = $what{$oid};
		$lives{$name} = $kind;
		if (defined $kind)
		{
			is(differences($wanted_rows, catalog_rows($admin, $oid)), '', "next life: $kind, catalogs");
			is(differences($wanted_more, described($admin, $oid)), '', "next life: $kind, what else is under its OID");
		}
	}
	for my $name (sort keys %lives)
	{
		my $client = connect_to($node, $name);
		is( $client->error
			? told($client)
			: $client->query(q{SELECT count(*) || ' ' || (SELECT count(*) FROM pg_event_trigger) FROM t}),
			'100 0',
			"next life: $lives{$name}, it can be used") if defined $lives{$name};
		$client->close;
		call('testdb_drop', $name);
	}
	cmp_ok(scalar(grep { defined } values %lives), '>=', 10, 'next life: some are recycled');
	return;
}

# Resets each, uses it and drops it.
sub reset_all
{
	my %made = @_;
	for my $what (sort keys %made)
	{
		my ($name) = @{ $made{$what} };
		ok(defined call('testdb_reset', $name), "testdb_reset: $what") or diag told($admin);
		my $client = connect_to($node, $name);
		is($client->error ? told($client) : $client->query('SELECT count(*) FROM t'),
			100, "testdb_reset: $what, it can be used");
		$client->close;
		is(call('testdb_drop', $name), 't', "testdb_reset: $what, dropped") or diag told($admin);
	}
	return;
}

# The roads to a clone's end: the terms of the clones, who makes them if it is not the administrator, and what is then done.
my @roads = (
	[
		'testdb_drop',
		'', '',
		sub {
			my ($client, %made) = @_;
			is(call('testdb_drop', $made{$_}[0]), 't', "testdb_drop: $_") or diag told($admin) for sort keys %made;
		}
	],
	[
		"testdb_drop by its owner",
		'',
		'regress_user',
		sub {
			my ($client, %made) = @_;
			for my $what (sort keys %made)
			{
				my $own = $what !~ /^owner/;
				my $done = ($own ? $client : $admin)->query('SELECT testdb_drop(' . literal($made{$what}[0]) . ')');
				is($done, 't', "testdb_drop by its owner: $what") or diag told($client);
			}
		}
	],
	[ 'testdb_reset', '', '', sub { my ($client, %made) = @_; reset_all(%made) } ],
	[ 'session', "scope => 'session'", 'regress_user', sub { $_[0]->close } ],
	[
		'lifetime',
		"lifetime => '1 hour'",
		'',
		sub {
			run($admin,
				"SELECT testdb_keep(name, '1 second') FROM testdb_clones WHERE expires_at > now() + interval '1 minute'"
			);
		}
	],
	[
		'testdb_drop_all',
		'', '',
		sub {
			my ($client, %made) = @_;
			# Others' are not its.
			run($admin, 'ALTER DATABASE ' . $made{$_}[0] . ' OWNER TO CURRENT_USER') for grep { /^owner/ } keys %made;
			my $n = $admin->query('SELECT testdb_drop_all()');
			is($n, keys(%made) + @children, 'testdb_drop_all counts them') or diag told($admin);
		}
	],
	[
		'restart',
		"scope => 'session'",
		'',
		sub {
			$node->stop('immediate');
			$node->start;
			$admin = session($node, 'postgres');
		}
	]);

# What a clone is like that nothing was done to.
my $first = run($admin, "SELECT testdb_clone('$template')");
$wanted_rows = catalog_rows($admin, oid_of($admin, $first));
$wanted_more = described($admin, oid_of($admin, $first));
call('testdb_drop', $first);

for my $road (@roads)
{
	my ($how, $terms, $user, $end) = @$road;
	for my $group ('', 'streams', 'locks')
	{
		my @batch = grep { group_of($_) eq $group } @kinds;
		# testdb_keep would have to wait for the lock.
		$terms =~ s/1 hour/4 seconds/ if $group eq 'locks';
		my $client = session($node, 'postgres', $user ? (user => $user) : ());
		my $start = time;
		my %made = make_all($client, $terms, @batch);
		$end->($client, %made);
		all_gone($how, 20, %made);
		no_remains(%made) if $how eq 'testdb_drop' && $group eq '';
		note sprintf '%s: %.1f s', $how, time - $start;
	}
}
is(run($admin, "SELECT count(*) FROM testdb_clones"), 0, 'no clone is left');

$node->stop;
done_testing();
