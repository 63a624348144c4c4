
# What a live process, or a prepared transaction elsewhere, holds of a clone keeps it from being dropped. The error names who
# it is, whatever the hold; the others are dropped all the same; what fails in the background is tried again ever more
# rarely, and said once; and the clone is dropped when that has gone. What a clone's owner can do is in t/035_undroppable.pl.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $template = 'regression_template';
my $space = PostgreSQL::Test::Utils::tempdir;
my $node = TestdbCluster->new_server(
	'main', q{
wal_level = logical
max_prepared_transactions = 10
max_worker_processes = 16
testdb.lock_timeout = 1s
});
my $admin = $node->session('postgres');
run($admin, $_)
  for "CREATE DATABASE $template IS_TEMPLATE true", 'CREATE ROLE regress_other',
  "CREATE TABLESPACE regress_space LOCATION '$space'";

# Has the clone of that name and OID been dropped?
sub is_gone
{
	my ($name, $oid) = @_;
	return !run($admin, "SELECT count(*) FROM pg_database WHERE oid = $oid AND datname = '$name'")
	  && !run($admin,
		"SELECT count(*) FROM testdb_clones() WHERE oid = $oid AND state IN ('leased', 'garbage', 'removing')");
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
		'a comment in an open transaction',
		'55P03',
		sub { run($_[0], "BEGIN; COMMENT ON DATABASE $_[1] IS 'held'") },
		sub { run($_[0], 'ROLLBACK') }
	],
	[
		'a lock on pg_database',
		'55P03',
		sub { run($_[0], 'BEGIN; LOCK TABLE pg_database IN SHARE ROW EXCLUSIVE MODE') },
		sub { run($_[0], 'ROLLBACK') }
	],
	[ 'a stopped process in it', '55006', sub { kill 'STOP', $_[0]->pid }, sub { kill 'CONT', $_[0]->pid }, 'inside' ]);

# Each of them by testdb_drop, and with a lifetime.
for my $holder (@holders)
{
	my ($what, $sqlstate, $take, $let_go, $inside) = @$holder;
	my $name = run($admin, "SELECT testdb_clone('$template')");
	my $oid = oid_of($admin, $name);
	my $client = $node->session($inside ? $name : 'postgres', name => 'regress holder');
	$take->($client, $name);
	ok(!$admin->do("SELECT testdb_drop('$name')"), "$what: testdb_drop fails");
	is($admin->sqlstate, $sqlstate, "$what: SQLSTATE") or diag $admin->told;
	ok(names($admin->told, $client, 'regress holder'), "$what: the error names it") or diag $admin->told;

	$let_go->($client);
	$client->do('SELECT 1');
	$client->close;
	is($admin->query("SELECT testdb_drop('$name', true)"), 't', "$what: dropped when it has gone") or diag $admin->told;
}

# A retry that fails in the same way is logged once, and comes ever more rarely; what has changed is logged.
{
	my $name = run($admin, "SELECT testdb_clone('$template', lifetime => '1 second')");
	my $oid = oid_of($admin, $name);
	my $client = $node->session('postgres', name => 'regress holder');
	my $from = -s $node->logfile;
	my $said =
	  sub { my $log = slurp_file($node->logfile, $from); scalar(() = $log =~ /could not drop expired database/g) };
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
	like(
		slurp_file($node->logfile, $from),
		qr/DETAIL: .*Process \d+ of user "[^"]+" \(application "regress holder"\)/,
		'the log names who is in the way');
	run($client, 'ROLLBACK');
	ok(poll(sub { is_gone($name, $oid) }, 20), 'when it has let go the clone is dropped');
}

# A prepared transaction of another database that has locked the clone.
{
	my $name = run($admin, "SELECT testdb_clone('$template')");
	$node->in_database('postgres', 'BEGIN', "COMMENT ON DATABASE $name IS 'held'",
		"PREPARE TRANSACTION 'regress lock'");
	ok(!$admin->do("SELECT testdb_drop('$name')"), 'locked by a prepared transaction: testdb_drop fails');
	like($admin->told, qr/Prepared transaction "regress lock" of user "[^"]+" holds a lock/, 'the error names it');
	run($admin, "ROLLBACK PREPARED 'regress lock'");
	is($admin->query("SELECT testdb_drop('$name')"), 't', 'dropped when it has gone');
}

# testdb_drop_all drops what it can, and says what it could not.
{
	my @names = map { run($admin, "SELECT testdb_clone('$template')") } 1 .. 4;
	my $client = $node->session('postgres', name => 'regress holder');
	run($client, "BEGIN; COMMENT ON DATABASE $_ IS 'held'") for @names[ 0, 2 ];
	my ($code, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT testdb_drop_all()");
	my $pid = $client->pid;
	for my $name (@names[ 0, 2 ])
	{
		like(
			$err,
			qr/WARNING:  55P03: database "$name" was not dropped: .*\nDETAIL:  .*Process $pid of user/,
			"testdb_drop_all: a warning for $name");
	}
	like(
		$err,
		qr/ERROR:  55006: 2 databases could not be dropped\nDETAIL:  2 others were dropped/,
		'testdb_drop_all: the error says how many');
	is( run($admin, 'SELECT string_agg(name, \' \' ORDER BY name) FROM testdb_clones'),
		join(' ', sort @names[ 0, 2 ]),
		'testdb_drop_all: the others are dropped');
	run($client, 'ROLLBACK');
	is(run($admin, 'SELECT testdb_drop_all()'), 2, 'testdb_drop_all: the rest goes later');

	# A cancelled call ends at once.
	@names = map { run($admin, "SELECT testdb_clone('$template')") } 1 .. 3;
	run($client, "BEGIN; COMMENT ON DATABASE $_ IS 'held'") for @names;
	my $caller = $node->session('postgres');
	run($caller, "SET statement_timeout = '100ms'");
	ok(!$caller->do('SELECT testdb_drop_all()'), 'testdb_drop_all: can be cancelled');
	is($caller->sqlstate, '57014', 'testdb_drop_all: as its cancellation says') or diag $caller->told;
	run($client, 'ROLLBACK');
	ok( poll(sub { $admin->do('SELECT testdb_drop_all()') && !run($admin, 'SELECT count(*) FROM testdb_clones') }, 20),
		'testdb_drop_all: later they go');
}

# Who keeps a drop waiting at the end: a client that is in the middle of a COPY.
{
	my $name = run($admin, "SELECT testdb_clone('$template')");
	my $oid = oid_of($admin, $name);
	my $client = $node->session('postgres', name => 'regress copy');
	run($client, 'CREATE TABLE copied (i int)');
	$client->send('COPY copied FROM STDIN');
	poll(
		sub {
			run($admin,
				q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY copied%' AND wait_event = 'ClientRead'});
		});
	$node->in_database($name, 'CREATE TABLE away (i) TABLESPACE regress_space AS SELECT 1');
	ok(!$admin->do("SELECT testdb_drop('$name')"), 'during a COPY: testdb_drop fails');
	is($admin->sqlstate, '55006', 'during a COPY: SQLSTATE');
	like($admin->told, qr/timed out waiting for other processes/, 'during a COPY: message');
	ok(names($admin->told, $client, 'regress copy'), 'during a COPY: the error names it') or diag $admin->told;
	like($admin->told, qr/has not released its files/, 'during a COPY: as core knows it');
	run($admin, 'SELECT pg_terminate_backend(' . $client->pid . ')');
	ok(poll(sub { is_gone($name, $oid) }, 20), 'during a COPY: dropped when that has ended');
	run($admin, 'DROP TABLE copied');
}

# Prepared transactions, and no background worker slot for who could roll them back.
{
	$node->set_conf('restart', max_worker_processes => run($admin, 'SHOW testdb.workers') + 1);
	$admin = $node->session('postgres');
	poll(sub { is_idle($admin) });
	my $name = run($admin, "SELECT testdb_clone('$template')");
	$node->in_database($name, 'BEGIN', 'CREATE TABLE prepared ()', "PREPARE TRANSACTION 'regress it''s $name'");
	my $taken = run($admin, 'SHOW max_worker_processes') - run($admin,
		q{SELECT count(*) FROM pg_stat_activity WHERE (backend_type LIKE '%worker%' AND backend_type <> 'io worker') OR backend_type LIKE 'logical%launcher'}
	);
	is($taken, 0, 'no background worker slot is free');
	ok(!$admin->do("SELECT testdb_drop('$name')"), 'no slot: testdb_drop fails');
	is($admin->sqlstate, '53400', 'no slot: SQLSTATE') or diag $admin->told;
	like(
		$admin->told,
		qr/No background worker slot is free\. Prepared transaction "regress it's $name" of user/,
		'no slot: the error says so');
	like($admin->told, qr/max_worker_processes/, 'no slot: the hint says so');
	$node->in_database($name, "ROLLBACK PREPARED 'regress it''s $name'");
	is($admin->query("SELECT testdb_drop('$name')"), 't', 'no slot: dropped when nothing is left') or diag $admin->told;
}

$node->stop;
done_testing();
