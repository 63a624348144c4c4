
# Sessions in templates and in clones: a drop ends them, a call waits for them or says who is in the way; and what plain
# SQL does to a clone is seen.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;
use Time::HiRes qw(time);

# Nothing of a dropped clone is kept, so that the server's state can be compared.
my $node = TestdbCluster->new_server(
	'main', q{
testdb.recycled = 0
testdb.spares = 0
max_prepared_transactions = 5
});
my $admin = $node->connect_to('postgres');
my $template = 'regression_template';
run($admin, $_)
  for "CREATE DATABASE $template IS_TEMPLATE true", 'CREATE ROLE regress_user LOGIN', 'CREATE ROLE regress_other LOGIN',
  'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop TO regress_user, regress_other';
my $filler = $node->connect_to($template);
run($filler, 'CREATE TABLE t AS SELECT generate_series(1, 1000) AS n');
$filler->close;
my $state = $node->server_state;

# Makes a clone, and connects to it; the session, and the clone's name.
sub clone_and_connect
{
	my (%args) = @_;
	my $name = run($admin, "SELECT testdb_clone('$template')");
	my $client = $node->connect_to($name, %args);
	die $client->told if $client->error;
	return ($client, $name);
}

# A drop ends sessions, whatever they do, and returns when the name is free.
my %activities = (
	'idle' => sub { },
	'in a transaction' => sub { run($_[0], 'BEGIN; INSERT INTO t VALUES (1)') },
	'in a query' => sub { $_[0]->send('SELECT pg_sleep(600)') },
	'in a failed transaction' => sub { $_[0]->do('BEGIN; SELECT 1 / 0') },
	'listening, with a lock and a cursor' => sub {
		run($_[0],
			'LISTEN x; BEGIN; LOCK TABLE t; DECLARE c CURSOR WITH HOLD FOR SELECT * FROM t; COMMIT; BEGIN; LOCK TABLE t'
		);
	});
my $script = $node->basedir . '/count.sql';
append_to_file($script, 'SELECT count(*) FROM t;');
for my $method ('file_copy', 'native')
{
	run($admin, "SET testdb.method = '$method'");
	for my $activity (sort keys %activities)
	{
		my ($client, $name) = clone_and_connect();
		$activities{$activity}->($client);
		is(run($admin, "SELECT testdb_drop('$name')"), 't', "$method, a session $activity: dropped");
		is(run($admin, "SELECT count(*) FROM pg_database WHERE datname = '$name'"),
			0, "$method, a session $activity: the name is free");
		$client->send('SELECT 1') unless $activity eq 'in a query';
		$client->result;
		like($client->told, qr/^(57P01: terminating connection|08006: )/, "$method, a session $activity: it has ended");
	}

	# Many, and more to come: a client that connects again and again.
	my ($client, $name) = clone_and_connect();
	my $storm = IPC::Run::start(
		[
			'pgbench', '-n', '-C', '-c', 4, '-j', 2, '-T',
			60, '-f', $script, '-h', $node->host, '-p', $node->port, $name
		],
		'>',
		\my $out,
		'2>',
		\my $err);
	poll(sub { run($admin, "SELECT sessions FROM testdb_clones WHERE name = '$name'") > 2 })
	  or die "no clients connect: $err";
	is(run($admin, "SELECT testdb_drop('$name')"), 't', "$method, clients that connect again and again: dropped");
	$storm->finish;
	like($err, qr/database "$name" does not exist|terminating connection/, "$method, they see why");

	# A prepared transaction in the clone goes with it.
	($client, $name) = clone_and_connect();
	run($client, q{BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'regress_testdb'});
	is(run($admin, "SELECT testdb_drop('$name')"), 't', "$method, with a prepared transaction: dropped");
	is(run($admin, 'SELECT count(*) FROM pg_prepared_xacts'), 0, "$method, no prepared transaction is left");
	$node->is_restored($state, "$method, nothing is left of dropped clones");
}

# A client that disconnects right before the drop: its process is still on its way out, and core would sleep for 100 ms.
# The figures are shown, not tested: they say more about the machine than about testdb.
{
	my %times;
	for (1 .. 15)
	{
		for my $method ('native', 'file_copy', 'DROP DATABASE WITH (FORCE)')
		{
			my $core = $method =~ /DROP/;
			my $name = 'regression_timed';
			run($admin, "SET testdb.method = '" . ($core ? 'file_copy' : $method) . "'");
			run($admin,
				$core
				? "CREATE DATABASE $name TEMPLATE $template STRATEGY file_copy"
				: "SELECT testdb_clone('$template', '$name')");
			my $client = $node->connect_to($name);
			# Temporary tables are dropped by the process that leaves, which takes it a moment.
			run($client, "CREATE TEMP TABLE t$_ (n serial PRIMARY KEY, s text)") for 1 .. 5;
			$client->close;
			my $start = time;
			run($admin, $core ? "DROP DATABASE $name WITH (FORCE)" : "SELECT testdb_drop('$name')");
			push @{ $times{$method} }, 1000 * (time - $start);
		}
	}
	for my $method (sort keys %times)
	{
		my @sorted = sort { $a <=> $b } @{ $times{$method} };
		note sprintf 'right after a disconnect, %s: median %.1f ms, longest %.1f ms', $method, @sorted[ 7, 14 ];
	}
	$node->is_restored($state, 'nothing is left of timed drops');
}

# A session that does not end when it is told to: an error that names it, and a clone as before.
{
	$node->set_conf('reload', 'testdb.lock_timeout' => '200ms');
	my ($client, $name) = clone_and_connect(user => 'regress_user', name => 'stubborn');
	kill 'STOP', $client->pid;
	$admin->do("SELECT testdb_drop('$name')");
	is( $admin->told,
		qq{55006: database "$name" is being accessed by other users\n}
		  . 'Process '
		  . $client->pid
		  . qq{ of user "regress_user" (application "stubborn") is connected to it.\n}
		  . 'They were terminated, but did not exit within 200 ms. See "testdb.lock_timeout".',
		'a session that does not end');
	kill 'CONT', $client->pid;
	$node->leave($client, $admin);
	is(run($admin, "SELECT testdb_drop('$name')"), 't', 'the clone can be dropped when it has');
	$node->set_conf('reload', 'testdb.lock_timeout' => '5s');
	$node->is_restored($state, 'nothing is left of it');
}

# A session in the template: core's way to copy cannot go on, and a call that waits gets its clone when it leaves.
run($admin, q{SET testdb.method = 'file_copy'});
{
	my $user = $node->connect_to($template, user => 'regress_user', name => 'migration tool');
	my $in_use = qr/^55006: source database "$template" is being accessed by other users\n/;
	my $who =
	  'Process ' . $user->pid . qq{ of user "regress_user" (application "migration tool") is connected to it.\n};

	for my $timeout (0, 50)
	{
		run($admin, "SET testdb.template_timeout = $timeout");
		my $start = time;
		$admin->do("SELECT testdb_clone('$template')");
		like(
			$admin->told,
			qr/$in_use\Q$who\E.*testdb_clone waited $timeout ms; see "testdb\.template_timeout"/,
			"template in use, waited for $timeout ms");
		cmp_ok(time - $start, '>=', $timeout / 1000, 'not less');
	}
	# A role that may not see what others do sees as much: it is what pg_stat_activity shows to all.
	my $other = $node->connect_to('postgres', user => 'regress_other');
	run($other, q{SET testdb.method = 'file_copy'; SET testdb.template_timeout = 0});
	$other->do("SELECT testdb_clone('$template')");
	like($other->told, qr/$in_use\Q$who\E/, 'the same for another role');

	# Many: five are named.
	my @more = map { $node->connect_to($template) } 1 .. 6;
	$other->do("SELECT testdb_clone('$template')");
	like($other->told, qr/$in_use(?:Process \d+ .*?is connected to it\. ){5}And 2 more\.\n/, 'five of seven are named');
	$_->close for @more;

	# It leaves while a call waits.
	run($admin, q{SET testdb.template_timeout = '60s'});
	$admin->send("SELECT testdb_clone('$template', 'regression_waited')");
	$node->waits_for_worker($admin->pid);
	ok(!$admin->readable(0.2), 'a call waits for the template');
	$user->close;
	is($admin->result->{rows}[0][0], 'regression_waited', 'and gets its clone when the template is left');

	# The same with several callers, who are not in each other's way.
	$user = $node->connect_to($template);
	my @callers = map { $node->connect_to('postgres') } 1 .. 6;
	$_->send(qq{SET testdb.method = 'file_copy'; SET testdb.template_timeout = '60s'; SELECT testdb_clone('$template')})
	  for @callers;
	$node->waits_for_worker($_->pid) for @callers;
	$user->close;
	my @names = map { $_->result->{rows}[0][0] } @callers;
	is(scalar(grep { defined && /^${template}_/ } @names), 6, 'six callers get theirs');
	run($admin, "SELECT testdb_drop('$_')") for @names, 'regression_waited';
	$_->close for @callers, $other;
}

# A prepared transaction in the template: nobody leaves.
{
	my $user = $node->connect_to($template);
	run($user, q{BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'regress_testdb'});
	$node->leave($user, $admin);
	run($admin, 'SET testdb.template_timeout = 100');
	$admin->do("SELECT testdb_clone('$template')");
	like(
		$admin->told,
		qr/^55006: source database "$template" is being accessed by other users\nThere is 1 prepared transaction using the database\.\n/,
		'a prepared transaction in the template');
	$user = $node->connect_to($template);
	run($user, q{ROLLBACK PREPARED 'regress_testdb'});
	$user->close;
	$node->is_restored($state, 'nothing is left');
}

# Plain SQL. A clone that is renamed or gets another owner: the view and the rights follow.
run($admin, 'RESET testdb.template_timeout');
for my $method ('file_copy', 'native')
{
	run($admin, "SET testdb.method = '$method'");
	my $name = run($admin, "SELECT testdb_clone('$template')");
	my $view = 'SELECT name, template, owner FROM testdb_clones';
	run($admin, "ALTER DATABASE $name RENAME TO regression_renamed");
	run($admin, 'ALTER DATABASE regression_renamed OWNER TO regress_user');
	is(run($admin, $view), "regression_renamed|$template|regress_user", "$method: renamed and given away");
	like($node->error_of(q{SELECT testdb_drop('regression_renamed')}, user => 'regress_other'),
		qr/^42501: /, "$method: a stranger may not drop it");
	is($node->error_of(q{SELECT testdb_drop('regression_renamed')}, user => 'regress_user'),
		'no error', "$method: the new owner may");

	# One that is dropped: it is forgotten. The same in a session that uses it again.
	for (1, 2)
	{
		run($admin, "SELECT testdb_clone('$template', 'regression_plain')");
		run($admin, 'DROP DATABASE regression_plain WITH (FORCE)');
		is(run($admin, $view), '', "$method: dropped by plain SQL, the view has it no more");
		$admin->do(q{SELECT testdb_drop('regression_plain')});
		like($admin->told, qr/^3D000: /, "$method: nor does testdb_drop");
	}
	$node->is_restored($state, "$method: its record is removed");

	# A template that is dropped, and one that is renamed.
	run($admin, "SELECT testdb_clone('$template', 'regression_second')");
	run($admin, q{SELECT testdb_clone('regression_second', 'regression_third')});
	run($admin, 'ALTER DATABASE regression_second RENAME TO regression_renamed');
	is(run($admin, q{SELECT template FROM testdb_clones WHERE name = 'regression_third'}),
		'regression_renamed', "$method: the template was renamed");
	run($admin, 'DROP DATABASE regression_renamed WITH (FORCE)');
	is(run($admin, q{SELECT template FROM testdb_clones WHERE name = 'regression_third'}),
		'regression_second', "$method: the template was dropped");
	is(run($admin, q{SELECT testdb_drop('regression_third')}), 't', "$method: its clone is dropped");
	$node->is_restored($state, "$method: nothing is left");
}

ok(!$node->log_contains(qr/PANIC|TRAP|was terminated by signal/), 'no process crashed');
$node->stop;
done_testing();
