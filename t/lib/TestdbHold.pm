
# Calls that are held in the middle of what they do, and the state of a server, which nothing may be added to.

package TestdbHold;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use TestdbTest;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(told vanish error_of set_conf server_state is_idle is_restored has_ended waits_for_worker worker_pids
  hold_workers wait_held frozen_clone kill_server
  start_again);

# What poll() waits at most, in seconds, for what takes milliseconds.
my $patience = $PostgreSQL::Test::Utils::timeout_default;

# What a client was told last, in one text: SQLSTATE, message, detail, hint.
sub told
{
	my ($client) = @_;
	my $error = $client->error or return 'no error';
	return join "\n", "$error->{C}: $error->{M}", map { defined $_ ? $_ : () } @{$error}{qw(D H)};
}

# The same for one statement in a session of its own.
sub error_of
{
	my ($node, $sql, %args) = @_;
	my $client = connect_to($node, $args{db} || 'postgres', %args);
	$client->do($sql) unless $client->error;
	$client->close;
	return told($client);
}

# Ends a client as kill -9 does: without a word to the server.
sub vanish
{
	my ($client) = @_;
	$client->{socket}->close;
	$client->{open} = 0;
	return;
}

# Changes settings of a server; restarts it if that is asked for, reloads them otherwise.
sub set_conf
{
	my ($node, $how, %settings) = @_;
	$node->append_conf('postgresql.conf', "$_ = '$settings{$_}'") for sort keys %settings;
	$node->$how;
	return;
}

# All that testdb may leave behind in a server: databases, their directories in all tablespaces, leases.
sub server_state
{
	my ($node) = @_;
	my $data = $node->data_dir;
	my $client = connect_to($node, 'postgres');
	my $databases = run($client, 'SELECT oid, datname FROM pg_database ORDER BY oid');
	$client->close;
	return join "\n", $databases, map { s/^\Q$data\E\///r }
	  sort glob("$data/base/[0-9]* $data/pg_tblspc/*/PG_*/[0-9]* $data/pg_testdb/clones/*");
}

# Are all workers there, with nothing to do?
sub is_idle
{
	my ($client) = @_;
	return run(
		$client, q{
		SELECT count(*) = current_setting('testdb.workers')::int FROM pg_stat_activity
		WHERE backend_type = 'testdb worker' AND state = 'idle' AND wait_event_type = 'Extension'}) eq 't';
}

# Tests that the server gets back into the state that it had, when the workers have done what was left to them.
sub is_restored
{
	my ($node, $state, $title) = @_;
	my $client = connect_to($node, 'postgres');
	poll(sub { is_idle($client) && server_state($node) eq $state }, 30);
	$client->close;
	return is(server_state($node), $state, $title);
}

# Has a session's process ended, in much less time than any lock or call takes to time out?
sub has_ended
{
	my ($node, $pid) = @_;
	my $client = connect_to($node, 'postgres');
	my $ended = poll(sub { run($client, "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") == 0 }, 10);
	$client->close;
	return $ended;
}

# Waits until a session waits for a worker.
sub waits_for_worker
{
	my ($node, $pid) = @_;
	my $client = connect_to($node, 'postgres');
	poll(sub { run($client, "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $pid") eq 'Extension' },
		$patience)
	  or die "process $pid does not wait for a worker";
	$client->close;
	return;
}

# The process IDs of the workers, or of those that meet a condition on pg_stat_activity.
sub worker_pids
{
	my ($node, $condition) = @_;
	my $client = connect_to($node, 'postgres');
	my $pids = run($client,
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'testdb worker' AND (" . ($condition || 'true') . ')');
	$client->close;
	return split /\n/, $pids;
}

# A session that holds every worker in the middle of making or dropping a database, with nothing copied or removed yet.
sub hold_workers
{
	my ($node) = @_;
	my $client = connect_to($node, 'postgres');
	run($client, 'BEGIN; LOCK TABLE pg_shdepend IN SHARE MODE');
	return $client;
}

# Waits until so many workers wait for a lock; their process IDs.
sub wait_held
{
	my ($node, $count) = @_;
	my @pids;
	poll(sub { @pids = worker_pids($node, "wait_event_type = 'Lock'"); @pids == $count }, $patience)
	  or die "no $count workers wait for a lock";
	return wantarray ? @pids : $pids[0];
}

# How many entries a directory has.
sub entries_of
{
	my ($directory) = @_;
	opendir my $handle, $directory or die "$directory: $!";
	my @entries = readdir $handle;
	closedir $handle;
	return scalar @entries;
}

# A clone whose making was stopped while files are copied: the session that asks for it, the only worker's process ID, the
# clone's OID. The worker has to be continued or killed. It takes some luck to stop it in time, so try more than once.
sub frozen_clone
{
	my ($node, $template) = @_;
	my $base = $node->data_dir . '/base';
	my $admin = connect_to($node, 'postgres');
	my $total = entries_of("$base/" . run($admin, "SELECT oid FROM pg_database WHERE datname = '$template'"));
	for (1 .. 20)
	{
		my ($worker) = worker_pids($node);
		my $client = connect_to($node, 'postgres');
		my %known = map { $_ => 1 } glob("$base/*");
		my $before = entries_of($base);
		my $end = time + $patience;

		$client->send("SELECT testdb_clone('$template')");
		while (entries_of($base) == $before) { last if time > $end }
		kill 'STOP', $worker;
		my ($oid) = map { $known{$_} ? () : /(\d+)$/ } glob("$base/*");
		# Not so late that it may not look any more whether it has been cancelled.
		if (defined $oid && entries_of("$base/$oid") < $total / 2)
		{
			$admin->close;
			return ($client, $worker, $oid);
		}
		kill 'CONT', $worker;
		my $name = $client->result->{rows}[0][0];
		run($client, "SELECT testdb_drop('$name')");
		$client->close;
	}
	die 'the worker was never stopped in time';
}

# Kills the postmaster, and processes that were stopped. The others end by themselves.
sub kill_server
{
	my ($node, @stopped) = @_;
	$node->kill9;
	kill 'KILL', @stopped if @stopped;
	return;
}

# Starts a server that was killed, as soon as its last process has gone.
sub start_again
{
	my ($node) = @_;
	poll(
		sub {
			return 1 if $node->start(fail_ok => 1);
			# Or it would be taken for running.
			$node->stop('fast', fail_ok => 1);
			return 0;
		},
		$patience) or die 'the server does not start';
	return;
}

1;
