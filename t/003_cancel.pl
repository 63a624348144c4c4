
# A caller that is cancelled, times out or dies, in the middle of its call or in the queue, leaves nothing behind.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

# One worker, so that it is known which one has a call, and a second call has to queue. Its locks are held for long on
# purpose; nothing of a dropped clone is kept, so that the server's state can be compared.
my $node = TestdbCluster->new_server(
	'main', q{
testdb.workers = 1
testdb.lock_timeout = 120s
testdb.recycled = 0
testdb.spares = 0
});
my $admin = $node->connect_to('postgres');
run($admin, 'CREATE DATABASE regression_template');
my $state = $node->server_state;
my $clone = q{SELECT testdb_clone('regression_template')};

# How a call can end early: what is set before, what is done to it then, and what its client is told.
my %ends = (
	'pg_cancel_backend' => {
		act => sub { run($admin, 'SELECT pg_cancel_backend(' . $_[0]->pid . ')') },
		told => qr/^57014: canceling statement due to user request/
	},
	'pg_terminate_backend' => {
		act => sub { run($admin, 'SELECT pg_terminate_backend(' . $_[0]->pid . ')') },
		told => qr/^57P01: terminating connection/
	},
	'statement_timeout' => {
		before => q{SET statement_timeout = '1s'},
		told => qr/^57014: canceling statement due to statement timeout/
	},
	'testdb.timeout' => {
		before => q{SET testdb.timeout = '1s'},
		told =>
		  qr/^57014: canceling wait for a testdb worker due to timeout\n.*\n.*"testdb\.timeout" or "testdb\.workers"/
	},
	'death of the client' => {
		act => sub { $_[0]->vanish }
	},
	'death of the client that the server looks after' => {
		before => q{SET client_connection_check_interval = '50ms'},
		act => sub { $_[0]->vanish }
	});

# Ends a call in that way, and tests that its session notices while the worker still has something to wait for.
sub end_early
{
	my ($name, $client, $title) = @_;
	my $end = $ends{$name};
	$end->{act}->($client) if $end->{act};
	if ($end->{told})
	{
		$client->result;
		like($client->told, $end->{told}, "$title: error");
	}
	else
	{
		ok($node->has_ended($client->pid), "$title: its session has ended");
	}
	return;
}

# So that one failure does not make the next tests fail.
sub tidy_up
{
	$_->close for @_;
	run($admin, 'SELECT testdb_drop(name, true) FROM testdb_clones');
	return;
}

my ($only_worker) = $node->worker_pids;

for my $method ('file_copy', 'native')
{
	$node->set_conf('reload', 'testdb.method' => $method);
	poll(sub { $node->connect_to('postgres')->query('SHOW testdb.method') eq $method });

	# In the middle of a clone.
	for my $name (sort keys %ends)
	{
		my $lock = $node->hold_workers;
		my $client = $node->connect_to('postgres');
		my $title = "$method, in the middle, $name";

		run($client, $ends{$name}{before}) if $ends{$name}{before};
		$client->send($clone);
		$node->wait_held(1);
		end_early($name, $client, $title);
		like($client->told, qr/^Worker \d+ had not finished yet\.$/m, "$title: detail")
		  if $name eq 'testdb.timeout';
		run($lock, 'COMMIT');
		$node->is_restored($state, "$title: nothing is left");
		tidy_up($lock, $client);
	}

	# While files are copied.
	my ($client, $worker, $oid) = $node->frozen_clone('regression_template');
	end_early('pg_terminate_backend', $client, "$method, while files are copied");
	ok(-d $node->data_dir . "/base/$oid", "$method, while files are copied: there is a directory");
	kill 'CONT', $worker;
	$node->is_restored($state, "$method, while files are copied: nothing is left");
	tidy_up($client);
}

# In the queue, behind another call.
for my $name (sort keys %ends)
{
	my $lock = $node->hold_workers;
	my ($first, $second) = ($node->connect_to('postgres'), $node->connect_to('postgres'));
	my $title = "in the queue, $name";

	$first->send($clone);
	$node->wait_held(1);
	run($second, $ends{$name}{before}) if $ends{$name}{before};
	$second->send($clone);
	$node->waits_for_worker($second->pid) unless $name =~ /timeout/;
	end_early($name, $second, $title);
	like($second->told, qr/^1 worker was busy\.$/m, "$title: detail") if $name eq 'testdb.timeout';
	run($lock, 'COMMIT');
	my $made = $first->result->{rows}[0][0];
	like($made, qr/^regression_template_/, "$title: the call before it gets its clone");
	run($first, "SELECT testdb_drop('$made')");
	$node->is_restored($state, "$title: nothing is left");
	tidy_up($lock, $first, $second);
}

# While the template is in use, the caller waits by itself: the worker serves others.
{
	$node->set_conf('reload', 'testdb.method' => 'file_copy');
	my $user = $node->connect_to('regression_template');
	my $client = $node->connect_to('postgres');
	$client->send(q{SET testdb.method = 'file_copy'; SET testdb.template_timeout = '60s'; } . $clone);
	$node->waits_for_worker($client->pid);
	is(run($admin, q{SELECT testdb_drop(testdb_clone('template0', 'regression_other'))}),
		't', 'while one waits for its template, others are served');
	end_early('pg_cancel_backend', $client, 'while it waits for its template');
	$node->is_restored($state, 'while it waits for its template: nothing is left');
	tidy_up($user, $client);
}

# A drop goes on without its caller.
for my $name ('pg_cancel_backend', 'pg_terminate_backend', 'statement_timeout', 'testdb.timeout', 'death of the client')
{
	my ($lock, $client) = ($node->connect_to('postgres'), $node->connect_to('postgres'));
	my $title = "in a drop, $name";

	run($admin, q{SELECT testdb_clone('regression_template', 'regression_clone')});
	run($lock, 'BEGIN; ALTER DATABASE regression_clone RENAME TO regression_moved');
	run($client, $ends{$name}{before}) if $ends{$name}{before};
	$client->send(q{SELECT testdb_drop('regression_clone')});
	$node->wait_held(1);
	end_early($name, $client, $title);
	run($lock, 'ROLLBACK');
	$node->is_restored($state, "$title: the clone is dropped");
	tidy_up($lock, $client);
}

is($admin->query('SELECT count(*) FROM testdb_clones'), 0, 'no clone is left');
is(join(' ', $node->worker_pids), $only_worker, 'it has been the same worker all the time');
ok(!$node->log_contains(qr/PANIC|TRAP|was terminated by signal/), 'no process crashed');

$node->stop;
done_testing();
