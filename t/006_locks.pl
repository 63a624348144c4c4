
# Locks that a worker needs and somebody else has. The deadlock detector cannot see that a session waits for a worker, so
# each such wait must end by itself, in an error that says what to look for; the worker is not hurt.

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

# One worker, so that one that hangs would be noticed. Nothing of a dropped clone is kept, so that the server's state can
# be compared.
my $node = TestdbCluster->new_server(
	'main', q{
testdb.workers = 1
testdb.recycled = 0
testdb.spares = 0
});
my $admin = $node->connect_to('postgres');
run($admin, 'CREATE DATABASE regression_template');
my $state = $node->server_state;
my ($worker) = $node->worker_pids;

my $clone = q{SELECT testdb_clone('regression_template', 'regression_clone')};
my $drop = q{SELECT testdb_drop('regression_clone')};

# What is locked, and the calls that it is in the way of, as the session sees it that has the lock, and as others do.
my %locks = (
	'its row' => [ 'LOCK TABLE pg_database IN SHARE MODE', $clone, $clone ],
	'its owner' => [ 'LOCK TABLE pg_shdepend IN EXCLUSIVE MODE', $clone, $clone ],
	'the template' => [
		'ALTER DATABASE regression_template RENAME TO regression_renamed',
		q{SELECT testdb_clone('regression_renamed', 'regression_clone')},
		$clone
	],
	'a clone' => [
		'ALTER DATABASE regression_clone RENAME TO regression_renamed',
		q{SELECT testdb_drop('regression_renamed')},
		$drop
	],
	'a clone\'s comment' => [ q{COMMENT ON DATABASE regression_clone IS 'x'}, $drop, $drop ],
	'a clone\'s owner' => [ 'LOCK TABLE pg_shdepend IN EXCLUSIVE MODE', $drop, $drop ]);

my $own = qr/^40P01: deadlock detected
This session waits for testdb worker $worker, which waits for a lock that this session's transaction holds\.
Call testdb_clone and testdb_drop before the transaction changes databases, roles or tablespaces, or in a transaction of their own\.$/;
my $others = qr/^55P03: testdb worker could not obtain a lock in time
It waited \d+ ms for a lock that another session holds\.( Process \d+ of user "\w+" \(application "testdb test"\) holds a lock on [^.]+\.)+
Find the session that holds a lock .*"testdb\.lock_timeout"\.$/;

# What one case needs at its beginning.
sub prepare
{
	my ($method, $lock) = @_;
	run($admin, "ALTER DATABASE postgres SET testdb.method = '$method'");
	run($node->connect_to('postgres'), $clone) if $locks{$lock}[2] eq $drop;
	return map { $node->connect_to('postgres') } 1, 2;
}

# The native method copies its own snapshot of a template, and needs no lock on that once there is one.
sub needs_lock
{
	my ($method, $lock) = @_;
	return $method ne 'native' || $lock ne 'the template';
}

$node->set_conf('reload', 'testdb.lock_timeout' => '1min');
for my $method ('file_copy', 'native')
{
	# The lock is the caller's own: said as soon as that is seen, long before any timeout.
	for my $lock (sort keys %locks)
	{
		# Each takes a second. Where core's code is called, one method stands for both.
		next if $method eq 'native' && $lock =~ /^its row|^a clone's/;
		my ($client) = prepare($method, $lock);
		my $title = "$method, the caller has locked $lock";
		my ($statement, $call) = @{ $locks{$lock} };
		run($client, "BEGIN; $statement");
		my $start = time;
		$client->do($call);

		if (needs_lock($method, $lock))
		{
			like($client->told, $own, $title);
			cmp_ok(time - $start, '<', 10, "$title: soon");
		}
		else
		{
			is($client->told, 'no error', $title);
		}
		run($client, 'ROLLBACK');
		run($client, $drop) unless needs_lock($method, $lock);
		# A drop that met a lock is finished when that has gone.
		$node->is_restored($state, "$title: nothing is left");
		$client->close;
	}

	# It is another session's, which releases it in time.
	for my $lock (sort keys %locks)
	{
		next unless needs_lock($method, $lock);
		my ($client, $holder) = prepare($method, $lock);
		my $title = "$method, another session locks $lock for a while";
		my ($statement, undef, $call) = @{ $locks{$lock} };
		run($holder, "BEGIN; $statement");
		$client->send($call);
		is($node->wait_held(1), $worker, "$title: the worker waits");
		ok(!$client->readable(0), "$title: so does the caller");
		run($holder, 'ROLLBACK');
		$client->result;
		is($client->told, 'no error', $title);
		run($client, $drop) unless $call eq $drop;
		$node->is_restored($state, "$title: nothing is left");
		$_->close for $client, $holder;
	}
}

# It is another session's, which keeps it.
$node->set_conf('reload', 'testdb.lock_timeout' => '300ms');
for my $method ('file_copy', 'native')
{
	for my $lock (sort keys %locks)
	{
		next unless needs_lock($method, $lock);
		my ($client, $holder) = prepare($method, $lock);
		my $title = "$method, another session has locked $lock";
		my ($statement, undef, $call) = @{ $locks{$lock} };
		run($holder, "BEGIN; $statement");
		my $start = time;
		$client->do($call);
		like($client->told, $others, $title);
		cmp_ok(time - $start, '<', 5, "$title: soon");
		cmp_ok(time - $start, '>', 0.2, "$title: not too soon");
		run($holder, 'ROLLBACK');

		if ($call eq $drop)
		{
			my $user = $node->connect_to('regression_clone');
			is($user->query('SELECT 1'), 1, "$title: the clone can be used");
			$node->leave($user, $admin);
		}
		run($client, $call);
		is($client->told, 'no error', "$title: the call works when it has gone");
		run($client, $drop) unless $call eq $drop;
		$node->is_restored($state, "$title: nothing is left");
		$_->close for $client, $holder;
	}
}
run($admin, 'ALTER DATABASE postgres RESET testdb.method');

# Circles that are longer: the worker waits for a session that waits for the caller, and the caller's request is in the
# queue behind one that waits for the caller's own lock. Both end.
{
	my ($client, $holder) = ($node->connect_to('postgres'), $node->connect_to('postgres'));
	run($client, 'BEGIN; SELECT pg_advisory_xact_lock(1)');
	run($holder, 'BEGIN; LOCK TABLE pg_shdepend IN EXCLUSIVE MODE');
	$holder->send('SELECT pg_advisory_xact_lock(1)');
	$client->do($clone);
	like($client->told, $others, 'a circle with another session');
	run($client, 'ROLLBACK');
	$holder->result;
	run($holder, 'ROLLBACK');

	# Time to be seen waiting.
	$node->set_conf('reload', 'testdb.lock_timeout' => '3s');
	my $first = $node->connect_to('postgres');
	run($client, 'BEGIN; LOCK TABLE pg_shdepend IN EXCLUSIVE MODE');
	$first->send($clone);
	$node->wait_held(1);
	$client->do(q{SELECT testdb_clone('regression_template', 'regression_second')});
	$first->result;
	like($first->told, $others, 'a circle through the queue: the request that is served');
	like($client->told, qr/^(40P01|55P03): /, 'a circle through the queue: the request that waits');
	run($client, 'ROLLBACK');
	$node->is_restored($state, 'nothing is left of circles');
	$_->close for $client, $holder, $first;
}

# Whoever looks at pg_stat_activity meanwhile can tell what is going on. The worker waits for as long as that takes.
{
	$node->set_conf('reload', 'testdb.lock_timeout' => '1min');
	my $holder = $node->hold_workers;
	my $client = $node->connect_to('postgres');
	$client->send($clone);
	$node->wait_held(1);
	like(
		run($admin, "SELECT state, query FROM pg_stat_activity WHERE pid = $worker"),
		qr/^active\|testdb_clone: .*"regression_clone".*"regression_template"/,
		'pg_stat_activity shows what the worker does');
	is( run($admin, 'SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE pid = ' . $client->pid),
		$node->pg_version >= 17 ? 'Extension|TestdbRequest' : 'Extension|Extension',
		'and what the caller waits for');
	$holder->close;
	$client->result;
	run($client, $drop);
	$node->is_restored($state, 'nothing is left');
	is(run($admin, "SELECT state FROM pg_stat_activity WHERE pid = $worker"), 'idle', 'the worker is idle again');
}

# Somebody who is connecting to the clone has locked it, and waits for a catalog that another session in there has locked. Nobody knows
# yet which database he is connecting to.
{
	my $oid = oid_of($admin, run($admin, $clone));
	my $holder = $node->connect_to('regression_clone');
	run($holder, 'BEGIN; LOCK TABLE pg_class');
	unlink $node->data_dir . "/base/$oid/pg_internal.init" or die $!;
	my $psql =
	  IPC::Run::start([ 'psql', '-X', '-h', $node->host, '-p', $node->port, '-c', 'SELECT 1', 'regression_clone' ],
		'&>', \my $out);
	poll(sub { run($admin, "SELECT count(*) FROM pg_locks WHERE database = $oid AND NOT granted") })
	  or die 'nobody waits';
	is($admin->query($drop), 't', 'a clone to which somebody is connecting is dropped') or diag $admin->message;
	$holder->close;
	$psql->finish;
	$node->is_restored($state, 'nothing is left of that');
}

is(($node->worker_pids)[0], $worker, 'it has been the same worker all the time');
ok(!$node->log_contains(qr/PANIC|TRAP|was terminated by signal/), 'no process crashed');
$node->stop;
done_testing();
