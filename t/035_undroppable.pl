
# Whatever a clone's owner or a superuser does to it, it can be dropped: by testdb_drop, with its session, when its time is
# over, by testdb_drop_all, after a restart; and it can be reset. What a live process holds is an error that names it, and
# is dropped when that has gone.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbHold;
use TestdbTest;

my $template = 'regression_template';
my $space = PostgreSQL::Test::Utils::tempdir;
my $node = new_server(
	'main', q{
wal_level = logical
max_prepared_transactions = 200
max_replication_slots = 60
max_wal_senders = 10
max_worker_processes = 16
max_connections = 300
wal_retrieve_retry_interval = 100ms
testdb.lock_timeout = 1s
});
my $version = int($node->pg_version =~ /^(\d+)/ ? $1 : 0);
my $admin = session($node, 'postgres');
run($admin, $_)
  for "CREATE DATABASE $template IS_TEMPLATE true", 'CREATE ROLE regress_user LOGIN', 'CREATE ROLE regress_other',
  "CREATE TABLESPACE regress_space LOCATION '$space'";
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

# The same in the administrator's session, with %s for the name.
sub outside
{
	my ($name, @statements) = @_;
	run($admin, sprintf($_, ($name) x 2)) for @statements;
	return;
}

# Leaves a prepared transaction in a database.
sub prepare
{
	my ($name) = @_;
	inside($name, 'BEGIN', 'CREATE TABLE prepared ()', "PREPARE TRANSACTION 'regress it''s $name'");
	return;
}

sub subscribe
{
	my ($name, $slot, @more) = @_;
	inside($name, 'SET log_min_messages = error',
		"CREATE SUBSCRIPTION regress_sub CONNECTION 'host=/nonexistent dbname=none' PUBLICATION p WITH (connect = false, slot_name = $slot)",
		@more);
	return;
}

# Each kind: what is done to a clone of that name.
my @kinds = (
	[ 'nothing', sub { } ],
	# Before any transaction is prepared, whose end it would wait for.
	[ 'slot', sub { inside($_[0], "SELECT pg_create_logical_replication_slot('slot_' || md5('$_[0]'), 'pgoutput')") } ],
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
	[ 'template of another', sub { clone_of($_[0]) } ]);

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
	push @kinds,
	  [
		"setting $setting",
		sub {
			my ($name) = @_;
			prepare($name);
			my $done = $admin->do("ALTER DATABASE $name SET $setting = $settings{$setting}");
			diag("$setting: " . told($admin)) unless $done || $setting eq 'default_table_access_method';
		}
	  ];
}
@kinds = grep { !$_->[2] || $version >= $_->[2] } @kinds;

# Clones of clones, which are to be dropped at the end.
my @children;

sub clone_of
{
	my ($name) = @_;
	push @children, run($admin, "SELECT testdb_clone('$name')");
	return;
}

# Makes a clone for each kind in a session, and does to it what the kind is; a hash of kind => [ name, OID ].
sub make_all
{
	my ($client, $terms) = @_;
	my %made;
	for my $kind (@kinds)
	{
		my ($what, $spoil) = @$kind;
		my $name = run($client, "SELECT testdb_clone('$template'" . ($terms ? ", $terms" : '') . ')');
		my $oid = oid_of($admin, $name);
		$spoil->($name);
		$made{$what} = [ $name, $oid ];
	}
	return %made;
}

# What there still is of the database of that OID in its former life, in a few words.
sub rest_of
{
	my ($name, $oid) = @_;
	my @rest;
	push @rest, 'row' if run($admin, "SELECT count(*) FROM pg_database WHERE oid = $oid AND datname = '$name'");
	push @rest, 'lease' if run($admin, "SELECT count(*) FROM testdb_clones() WHERE oid = $oid AND state IN ('leased', 'garbage')");
	push @rest, 'subscription' if run($admin, "SELECT count(*) FROM pg_subscription WHERE subdbid = $oid");
	push @rest, 'prepared' if run($admin, "SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE '%$name'");
	push @rest, 'slot' if run($admin, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'slot_' || md5('$name')");
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
	is(run($admin, 'SELECT count(*) FROM pg_replication_origin'), 0, "$how: no replication origin is left");
	is(run($admin, "SELECT count(*) FROM pg_shdepend WHERE classid = 'pg_subscription'::regclass"),
		0, "$how: no dependency of a subscription is left");
	run($admin, "SELECT testdb_drop('$_', true)") for splice @children;
	@kept = ();
	return;
}

# testdb_drop
{
	my %made = make_all($admin);
	for my $what (sort keys %made)
	{
		my $done = $admin->query("SELECT testdb_drop('$made{$what}[0]')");
		is($done, 't', "testdb_drop: $what") or diag told($admin);
	}
	all_gone('testdb_drop', 5, %made);
}

# testdb_reset, and what it leaves is dropped.
{
	my %made = make_all($admin);
	for my $what (sort keys %made)
	{
		my ($name) = @{ $made{$what} };
		ok($admin->do("SELECT testdb_reset('$name')"), "testdb_reset: $what") or diag told($admin);
		my $client = connect_to($node, $name);
		is($client->error ? told($client) : $client->query('SELECT count(*) FROM t'), 100, "testdb_reset: $what, it can be used")
		  or diag told($client);
		$client->close;
		is($admin->query("SELECT testdb_drop('$name')"), 't', "testdb_reset: $what, dropped") or diag told($admin);
	}
	all_gone('testdb_reset', 5, %made);
}

# The end of a session.
{
	my $client = session($node, 'postgres');
	my %made = make_all($client, "scope => 'session'");
	$client->close;
	all_gone('session', 15, %made);
}

# The end of a lifetime.
{
	my %made = make_all($admin, "lifetime => '1 hour'");
	run($admin, "SELECT testdb_keep(name, '1 second') FROM testdb_clones");
	all_gone('lifetime', 15, %made);
}

# testdb_drop_all, with somebody else's clone left alone.
{
	my %made = make_all($admin);
	run($admin, "ALTER DATABASE $made{owner}[0] OWNER TO CURRENT_USER");
	my $n = $admin->query('SELECT testdb_drop_all()');
	is($n, @kinds + @children, 'testdb_drop_all counts them') or diag told($admin);
	all_gone('testdb_drop_all', 5, %made);
}

# A restart: what ended with a session goes, and is not forgotten.
{
	my $client = session($node, 'postgres');
	my %made = make_all($client, "scope => 'session'");
	$node->stop('immediate');
	$node->start;
	$admin = session($node, 'postgres');
	all_gone('restart', 15, %made);
	is(run($admin, "SELECT count(*) FROM pg_database WHERE datname LIKE '$template\\_%'"), 0, 'restart: nothing stays');
}

# Is it said who is in the way: process, user, application?
sub names
{
	my ($text, $client, $application) = @_;
	my $pid = $client->pid;
	return $text =~ /Process $pid of user "[^"]+" \(application "$application"\)/;
}

# What a live process holds: how it gets hold of a clone, how it lets go, and the error's SQLSTATE.
my @holders = (
	[
		'a comment in an open transaction', '55P03',
		sub { run($_[0], "BEGIN; COMMENT ON DATABASE $_[1] IS 'held'") }, sub { run($_[0], 'ROLLBACK') }
	],
	[
		'a lock on pg_database', '55P03',
		sub { run($_[0], 'BEGIN; LOCK TABLE pg_database IN SHARE ROW EXCLUSIVE MODE') }, sub { run($_[0], 'ROLLBACK') }
	],
	[
		'a stopped process in it', '55006',
		sub { kill 'STOP', $_[0]->pid }, sub { kill 'CONT', $_[0]->pid },
		'inside'
	]);

# Each of them by testdb_drop, and with a lifetime.
for my $holder (@holders)
{
	my ($what, $sqlstate, $take, $let_go, $inside) = @$holder;
	my $name = run($admin, "SELECT testdb_clone('$template')");
	my $oid = oid_of($admin, $name);
	my $client = session($node, $inside ? $name : 'postgres', name => 'regress holder');
	$take->($client, $name);
	ok(!$admin->do("SELECT testdb_drop('$name')"), "$what: testdb_drop fails");
	is($admin->sqlstate, $sqlstate, "$what: SQLSTATE") or diag told($admin);
	ok(names(told($admin), $client, 'regress holder'), "$what: the error names it") or diag told($admin);

	$let_go->($client);
	$client->do('SELECT 1');
	$client->close;
	is($admin->query("SELECT testdb_drop('$name', true)"), 't', "$what: dropped when it has gone") or diag told($admin);
}

# A retry that fails in the same way is logged once, and comes ever more rarely; what has changed is logged.
{
	my $name = run($admin, "SELECT testdb_clone('$template', lifetime => '1 second')");
	my $oid = oid_of($admin, $name);
	my $client = session($node, 'postgres', name => 'regress holder');
	my $from = -s $node->logfile;
	my $said = sub { my $log = slurp_file($node->logfile, $from); scalar(() = $log =~ /could not drop expired database/g) };
	my ($state, $tries) = ('', 0);
	my $tried = sub {
		my $now = run($admin, "SELECT state FROM testdb_clones WHERE name = '$name'");
		$tries++ if $now eq 'dropping' && $state ne $now;
		$state = $now;
		return $tries;
	};
	run($client, "BEGIN; COMMENT ON DATABASE $name IS 'held'");
	ok(poll(sub { $tried->() >= 4 }, 20), 'a lifetime whose end fails: tried again');
	is($said->(), 1, 'it is logged once');
	like(slurp_file($node->logfile, $from), qr/DETAIL: .*Process \d+ of user "[^"]+" \(application "regress holder"\)/, 'the log names who is in the way');
	run($client, 'ROLLBACK');
	ok(poll(sub { rest_of($name, $oid) eq '' }, 20), 'when it has let go the clone is dropped');
}

# A prepared transaction of another database that has locked the clone.
{
	my $name = run($admin, "SELECT testdb_clone('$template')");
	inside('postgres', 'BEGIN', "COMMENT ON DATABASE $name IS 'held'", "PREPARE TRANSACTION 'regress lock'");
	ok(!$admin->do("SELECT testdb_drop('$name')"), 'locked by a prepared transaction: testdb_drop fails');
	like(told($admin), qr/Prepared transaction "regress lock" of user "[^"]+" holds a lock/, 'the error names it');
	run($admin, "ROLLBACK PREPARED 'regress lock'");
	is($admin->query("SELECT testdb_drop('$name')"), 't', 'dropped when it has gone');
}

# testdb_drop_all drops what it can, and says what it could not.
{
	my @names = map { run($admin, "SELECT testdb_clone('$template')") } 1 .. 4;
	my $client = session($node, 'postgres', name => 'regress holder');
	run($client, "BEGIN; COMMENT ON DATABASE $_ IS 'held'") for @names[ 0, 2 ];
	my ($code, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT testdb_drop_all()");
	my $pid = $client->pid;
	for my $name (@names[ 0, 2 ])
	{
		like($err, qr/WARNING:  55P03: database "$name" was not dropped: .*\nDETAIL:  .*Process $pid of user/, "testdb_drop_all: a warning for $name");
	}
	like($err, qr/ERROR:  55006: 2 databases could not be dropped\nDETAIL:  2 others were dropped/, 'testdb_drop_all: the error says how many');
	is(run($admin, 'SELECT string_agg(name, \' \' ORDER BY name) FROM testdb_clones'), join(' ', sort @names[ 0, 2 ]),
		'testdb_drop_all: the others are dropped');
	run($client, 'ROLLBACK');
	is(run($admin, 'SELECT testdb_drop_all()'), 2, 'testdb_drop_all: the rest goes later');

	# A cancelled call ends at once.
	@names = map { run($admin, "SELECT testdb_clone('$template')") } 1 .. 3;
	run($client, "BEGIN; COMMENT ON DATABASE $_ IS 'held'") for @names;
	my $caller = session($node, 'postgres');
	run($caller, "SET statement_timeout = '100ms'");
	ok(!$caller->do('SELECT testdb_drop_all()'), 'testdb_drop_all: can be cancelled');
	is($caller->sqlstate, '57014', 'testdb_drop_all: as its cancellation says') or diag told($caller);
	run($client, 'ROLLBACK');
	ok(poll(sub { $admin->do('SELECT testdb_drop_all()') && !run($admin, 'SELECT count(*) FROM testdb_clones') }, 20),
		'testdb_drop_all: later they go');
}

# Who keeps a drop waiting at the end: a client that is in the middle of a COPY.
{
	my $name = run($admin, "SELECT testdb_clone('$template')");
	my $oid = oid_of($admin, $name);
	my $client = session($node, 'postgres', name => 'regress copy');
	run($client, 'CREATE TABLE copied (i int)');
	$client->send('COPY copied FROM STDIN');
	poll(sub { run($admin, q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY copied%' AND wait_event = 'ClientRead'}) });
	inside($name, 'CREATE TABLE away (i) TABLESPACE regress_space AS SELECT 1');
	ok(!$admin->do("SELECT testdb_drop('$name')"), 'during a COPY: testdb_drop fails');
	is($admin->sqlstate, '55006', 'during a COPY: SQLSTATE');
	like(told($admin), qr/timed out waiting for other processes/, 'during a COPY: message');
	ok(names(told($admin), $client, 'regress copy'), 'during a COPY: the error names it') or diag told($admin);
	like(told($admin), qr/has not released its files/, 'during a COPY: as core knows it');
	run($admin, 'SELECT pg_terminate_backend(' . $client->pid . ')');
	ok(poll(sub { rest_of($name, $oid) eq '' }, 20), 'during a COPY: dropped when that has ended');
	run($admin, 'DROP TABLE copied');
}

# Prepared transactions, and no background worker slot for who could roll them back.
{
	set_conf($node, 'restart', max_worker_processes => run($admin, 'SHOW testdb.workers') + 1);
	$admin = session($node, 'postgres');
	poll(sub { is_idle($admin) });
	my $name = run($admin, "SELECT testdb_clone('$template')");
	prepare($name);
	my $taken = run($admin, 'SHOW max_worker_processes') - run($admin, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE '%worker%' OR backend_type LIKE 'logical%launcher'});
	is($taken, 0, 'no background worker slot is free');
	ok(!$admin->do("SELECT testdb_drop('$name')"), 'no slot: testdb_drop fails');
	is($admin->sqlstate, '53400', 'no slot: SQLSTATE') or diag told($admin);
	like(told($admin), qr/No background worker slot is free\. Prepared transaction "regress it's $name" of user/, 'no slot: the error says so');
	like(told($admin), qr/max_worker_processes/, 'no slot: the hint says so');
	inside($name, "ROLLBACK PREPARED 'regress it''s $name'");
	is($admin->query("SELECT testdb_drop('$name')"), 't', 'no slot: dropped when nothing is left') or diag told($admin);
}

$node->stop;
done_testing();
