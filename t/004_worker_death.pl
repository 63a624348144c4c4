
# A worker, or any process of a call, is cancelled, ended or killed in the middle of what it does: the caller gets an
# error, the server goes on, and nothing is left.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

# One worker, so that it is known which one has a call. Its locks are held for long on purpose; nothing of a dropped clone
# is kept, so that the server's state can be compared.
my $node = TestdbCluster->new_server(
	'main', q{
testdb.workers = 1
testdb.lock_timeout = 120s
testdb.recycled = 0
testdb.spares = 0
restart_after_crash = on
});
my $admin = $node->connect_to('postgres');
run($admin, 'CREATE DATABASE regression_template');
my $state = $node->server_state;

# Starts a call, and waits until its worker waits for a lock of $lock; the session, and the worker.
sub start_call
{
	my ($call) = @_;
	my $client = $node->connect_to('postgres');
	$client->send("SELECT $call");
	return ($client, $node->wait_held(1));
}

# A call still works, and by that worker, or by another if that is expected.
sub works
{
	my ($title, $worker, $same) = @_;
	is(run($node->reconnect, q{SELECT testdb_drop(testdb_clone('regression_template'))}),
		't', "$title: the next call works");
	my ($now) = $node->worker_pids;
	ok($same ? $now == $worker : $now != $worker, "$title: by " . ($same ? 'the same' : 'another') . ' worker');
	return;
}

# What is done to the worker, what the caller is told, and whether the worker survives.
my %deaths = (
	'pg_cancel_backend' => {
		act => sub { run($admin, "SELECT pg_cancel_backend($_[0])") },
		told => qr/^57014: canceling statement due to user request/,
		survives => 1
	},
	'pg_terminate_backend' => {
		act => sub { run($admin, "SELECT pg_terminate_backend($_[0])") },
		told => qr/^57P01: testdb worker ended before it had finished\nTry again; see the server log\./
	},
	'kill -9' => {
		act => sub { kill 'KILL', $_[0] },
		# A crash of any process ends all sessions.
		told => qr/^(57P02: |08006: )/
	});

for my $name ('pg_cancel_backend', 'pg_terminate_backend', 'kill -9')
{
	my $death = $deaths{$name};

	# In the middle of a clone, with either method.
	for my $method ('file_copy', 'native')
	{
		my $title = "$name, in a clone by $method";
		$admin = $node->reconnect;
		run($admin, "ALTER DATABASE postgres SET testdb.method = '$method'");
		my $lock = $node->hold_workers;
		my ($client, $worker) = start_call(q{testdb_clone('regression_template')});
		$death->{act}->($worker);
		$client->result;
		like($client->told, $death->{told}, "$title: error");
		$lock->close;
		works($title, $worker, $death->{survives});
		$node->is_restored($state, "$title: nothing is left");
	}

	# While files are copied.
	{
		my $title = "$name, while files are copied";
		$admin = $node->reconnect;
		my ($client, $worker, $oid) = $node->frozen_clone('regression_template');
		ok(-d $node->data_dir . "/base/$oid", "$title: there is a directory");
		$death->{act}->($worker);
		kill 'CONT', $worker;
		$client->result;
		like($client->told, $death->{told}, "$title: error");
		works($title, $worker, $death->{survives});
		$node->is_restored($state, "$title: nothing is left");
	}

	# In the middle of a drop: its locks are taken, and nothing is removed. A drop that has begun is finished, unless the
	# server says that it has failed.
	{
		my $title = "$name, in a drop";
		$admin = $node->reconnect;
		run($admin, q{SELECT testdb_clone('regression_template', 'regression_clone')});
		my $lock = $node->hold_workers;
		my ($client, $worker) = start_call(q{testdb_drop('regression_clone')});
		$death->{act}->($worker);
		$client->result;
		like($client->told, $death->{told}, "$title: error");
		$lock->close;
		works($title, $worker, $death->{survives});
		$admin = $node->reconnect;

		if ($death->{survives})
		{
			my $user = $node->connect_to('regression_clone');
			is($user->query('SELECT 1'), 1, "$title: the clone can be used");
			$user->close;
			is(run($admin, q{SELECT testdb_drop('regression_clone')}), 't', "$title: it can be dropped");
		}
		$node->is_restored($state, "$title: nothing is left");
	}
}
$admin = $node->reconnect;
run($admin, 'ALTER DATABASE postgres RESET testdb.method');

# kill -9 of the caller's server process, in the middle of its call and in the queue: everything starts anew.
for my $where ('in the middle', 'in the queue')
{
	my $title = "kill -9 of the caller, $where";
	$admin = $node->reconnect;
	my $lock = $node->hold_workers;
	my ($client, $worker) = start_call(q{testdb_clone('regression_template')});
	my $queued = $node->connect_to('postgres');
	$queued->send(q{SELECT testdb_clone('regression_template')});
	$node->waits_for_worker($queued->pid);
	kill 'KILL', ($where eq 'in the queue' ? $queued : $client)->pid;
	$_->result for $client, $queued;
	like($_->told, qr/^(57P02|08006): /, "$title: a session's error") for $client, $queued;
	works($title, $worker, 0);
	$node->is_restored($state, "$title: nothing is left");
}

# An idle worker: a cancel does nothing, an end is followed by a start, any number of times.
$admin = $node->reconnect;
my ($idle) = $node->worker_pids;
for (1 .. 3)
{
	run($admin, "SELECT pg_cancel_backend($idle)");
	run($admin, 'SELECT testdb_drop(testdb_clone(\'regression_template\'))');
}
is(($node->worker_pids)[0], $idle, 'an idle worker is not hurt by pg_cancel_backend');
for my $round (1, 2)
{
	my ($old) = $node->worker_pids;
	run($admin, "SELECT pg_terminate_backend($old, 10000)");
	# The request is there before the next worker is.
	is(run($admin, q{SELECT testdb_drop(testdb_clone('regression_template'))}),
		't', "a call waits for the worker's restart, $round");
	isnt(($node->worker_pids)[0], $old, "the worker was restarted, $round");
}

# A call in the queue survives the end of the worker that is busy with another.
{
	my $lock = $node->hold_workers;
	my ($client, $worker) = start_call(q{testdb_clone('regression_template')});
	my $queued = $node->connect_to('postgres');
	$queued->send(q{SELECT testdb_drop(testdb_clone('regression_template'))});
	$node->waits_for_worker($queued->pid);
	$deaths{pg_terminate_backend}{act}->($worker);
	$client->result;
	$lock->close;
	is($queued->result->{rows}[0][0], 't', 'a call in the queue survives the end of another\'s worker');
	$node->is_restored($state, 'and nothing is left');
}

# Postmaster's own stop, with a call at work: nobody hangs.
{
	my $lock = $node->hold_workers;
	my ($client, $worker) = start_call(q{testdb_clone('regression_template')});
	$node->stop('fast');
	$client->result;
	like($client->told, qr/^57P01: /, 'a fast stop ends a call');
	$node->start;
	$node->is_restored($state, 'and leaves nothing');
}

ok(!$node->log_contains(qr/PANIC|TRAP|signal (6|11)/), 'no process crashed by itself');
$node->stop;
done_testing();
