
# Who connects to a clone while it is being reset waits until that is over, and gets in; for testdb.timeout at most. What
# happens to a reset that ends in the middle is left to the workers: the clone is never lost.
#
# Needs a library that was built with DEBUG=1 to hold a reset; the loops at the beginning need none.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;
use Time::HiRes qw(time);

$ENV{TEMP_CONFIG} = $ENV{TESTDB_DEBUG_CONFIG} if $ENV{TESTDB_DEBUG_CONFIG};

my $template = 'regression_template';
my $node = TestdbCluster->new_server(
	'connecting', q{
wal_level = minimal
max_wal_senders = 0
testdb.workers = 2
restart_after_crash = on
authentication_timeout = 5s
include_if_exists 'point.conf'
});
my $admin = $node->session('postgres');
run($admin, "CREATE DATABASE $template IS_TEMPLATE true");
$node->safe_psql($template, 'CREATE TABLE t AS SELECT generate_series(1, 1000) AS i');

# Processes that connect to a database, and do nothing else, until a pipe is closed. Each prints how often it got in, and
# then what it was told when it did not.
sub connect_in_loop
{
	my ($name, $n) = @_;
	pipe(my $stop, my $hold) or die $!;
	my @readers;
	for (1 .. $n)
	{
		pipe(my $reader, my $writer) or die $!;
		my $pid = fork // die $!;
		if ($pid == 0)
		{
			close $hold;
			my ($count, %told) = (0);
			my $ready = '';
			vec($ready, fileno($stop), 1) = 1;
			until (select(my $seen = $ready, undef, undef, 0))
			{
				my $client = $node->connect_to($name);
				if   ($client->error) { $told{ $client->told }++ }
				else                  { $count++ }
				$client->close;
			}
			print $writer join("\n", $count, map { "$told{$_} times $_" } sort keys %told), "\n";
			close $writer;
			require POSIX;
			POSIX::_exit(0);
		}
		close $writer;
		push @readers, [ $pid, $reader ];
	}
	close $stop;
	return sub {
		close $hold;
		my ($count, $told) = (0, '');
		for (@readers)
		{
			my ($pid, $reader) = @$_;
			my @lines = <$reader>;
			$count += shift @lines // 0;
			$told .= join '', @lines;
			waitpid $pid, 0;
		}
		return ($count, $told);
	};
}

for my $method ('native', 'file_copy')
{
	run($admin, "SET testdb.method = $method");
	my $name = run($admin, "SELECT testdb_clone('$template')");
	my $end = connect_in_loop($name, 2);
	my $resets = 0;
	my $until = time + 2;
	while (time < $until || ($resets <= 3 && time < $until + 60))
	{
		$admin->query("SELECT testdb_reset('$name')");
		if ($admin->error) { is($admin->told, '', "$method: reset"); last }
		$resets++;
	}
	my ($count, $told) = $end->();
	is($told, '', "$method: none of $count connects beside $resets resets was refused");
	ok($count && $resets > 3, "$method: there were some");
	is($node->safe_psql($name, 'SELECT count(*) FROM t'), '1000', "$method: the clone is whole");
	run($admin, "SELECT testdb_drop('$name')");
	run($admin, 'RESET testdb.method');
}

# The same beside rewinds, which end no session.
{
	my $name = run($admin, "SELECT testdb_clone('$template')");
	my $end = connect_in_loop($name, 2);
	my $until = time + 1;
	my $rewinds = 0;
	while (time < $until) { $rewinds++ if $admin->do("SELECT testdb_rewind('$name')") }
	my ($count, $told) = $end->();
	is($told, '', "none of $count connects beside $rewinds rewinds was refused");
	run($admin, "SELECT testdb_drop('$name')");
}

unless ($ENV{TESTDB_DEBUG_CONFIG})
{
	$node->stop;
	done_testing();
	exit;
}

# Holds a reset at a point; the session that has called it.
sub hold_reset
{
	my ($name, $point) = @_;
	my $position = -s $node->logfile;
	my $client = $node->session('postgres');
	run($client, 'SET testdb.method = file_copy') if $point =~ /^replace/;
	run($client, q{SET testdb.timeout = '60s'});
	$client->send("SELECT testdb_reset('$name')");
	poll(sub { slurp_file($node->logfile, $position) =~ /debug point "$point" was reached/ })
	  or die "no reset comes to $point";
	return $client;
}

# A clone to be reset at a point.
sub clone_for
{
	my ($point) = @_;
	my $client = $node->session('postgres');
	run($client, 'SET testdb.method = file_copy') if $point =~ /^replace/;
	my $name = run($client, "SELECT testdb_clone('$template')");
	$client->close;
	$node->safe_psql($name, 'DROP TABLE t');
	return $name;
}

# The bound, and that others are not held up.
for my $point ('reset-empty', 'restore-recorded', 'restore-committed', 'replace-row')
{
	my $name = clone_for($point);
	$node->use_point("$point wait", 'testdb.timeout = 300ms');
	my $resetting = hold_reset($name, $point);
	my $start = time;
	my $client = $node->connect_to($name);
	my $took = time - $start;
	like(
		$client->told,
		qr/^57P03: database "$name" is being reset\nThe connection waited 300 ms for the reset to finish\.\nTry again, or increase "testdb.timeout"\.$/,
		"$point: refused in the end");
	ok($took > 0.29 && $took < 10, "$point: after testdb.timeout") or diag $took;
	ok(!$node->connect_to('postgres')->error, "$point: another database can be entered");

	# It gets in when the reset is over.
	$node->use_point("$point wait", 'testdb.timeout = 60s');
	my $pid = fork // die $!;
	if ($pid == 0)
	{
		my $waiting = $node->connect_to($name);
		my $count = $waiting->error ? 'refused' : $waiting->query('SELECT count(*) FROM t') // '';
		require POSIX;
		POSIX::_exit($count eq '1000' ? 0 : 1);
	}
	# It is in no view of that version yet, but there is its title.
	poll(sub { `ps ax -o args` =~ /$name \S* ?authentication/ }, 5);
	$node->use_point('');
	is($resetting->result->{error}, undef, "$point: the reset succeeds");
	waitpid $pid, 0;
	is($?, 0, "$point: who waits gets in, to the new content");
	run($admin, "SELECT testdb_drop('$name')");
}

# Resets that end in the middle: the clone stays, is restored, and meanwhile new sessions wait.
for my $case (
	[ 'restore-recorded', 'error' ],
	[ 'restore-content', 'error' ],
	[ 'restore-content', 'fatal' ],
	[ 'restore-committed', 'error' ],
	[ 'restore-discarded', 'kill' ],
	[ 'restore-content', 'kill' ])
{
	my ($point, $how) = @$case;
	my $what = "$how at $point";
	my $name = clone_for($point);
	my $oid = oid_of($admin, $name);
	$node->use_point("$point $how");
	my $position = -s $node->logfile;
	my $client = $node->session('postgres');
	$client->query("SELECT testdb_reset('$name')");
	ok($client->error, "$what: the reset fails");
	like($client->error->{D}, qr/The database is being restored; new sessions wait until it is\.$/, "$what: error")
	  if $how eq 'error';

	# After a crash the worker that restores may come to the point as well, until it is told otherwise.
	poll(sub { slurp_file($node->logfile, $position) =~ /reinitializing/ }) or die 'no restart' if $how eq 'kill';
	poll(
		sub {
			eval { $admin = $node->session('postgres'); $node->use_point(''); 1 }
		}) or die 'no session';
	my $found;
	poll(
		sub {
			$client = $node->connect_to($name);
			return 0 if $client->error && $how eq 'kill';    # the server is starting
			$found = $client->error ? $client->told : $client->query('SELECT count(*) FROM t');
			return 1;
		});
	$admin = $node->session('postgres');
	is($found, '1000', "$what: who connects then sees the new content");
	is(oid_of($admin, $name), $oid, "$what: it is the same database");
	is($admin->query("SELECT testdb_drop('$name')"), 't', "$what: it is a clone like any other") or diag $admin->told;
}

# Sessions that connect to a clone that was handed out just before a crash wait until the workers have opened it again, however
# long recovery took, and however long the workers take. Nothing may flush the opened row before the crash: neither another spare nor the WAL writer, which nobody wakes.
{
	run($admin, "SELECT testdb_template_set('$template', NULL), testdb_prewarm('$template', 1)");
	run($admin, "SELECT testdb_template_set('$template', 0)");
	poll(sub { is_idle($admin) }) or die 'not idle';
	run($admin, 'CHECKPOINT');
	my $hits = run($admin, 'SELECT sum(hits) FROM testdb_stats');
	my $name = run($admin, "SELECT testdb_clone('$template')");
	is(run($admin, 'SELECT sum(hits) FROM testdb_stats'), $hits + 1, 'a spare is handed out');
	$node->kill_server;
	$node->set_point('start-begun wait');
	my $begun = time;
	$node->start_again;
	my $end_early = connect_in_loop($name, 1);
	poll(sub { time > $begun + 6 }) or die 'the clock stands still';    # as if recovery had taken that long
	my $end = connect_in_loop($name, 1);
	poll(sub { $node->pids_by_title(qr/\Q$name\E .*(startup|authentication)/) == 2 }) or die 'nobody connects';
	$node->use_point('');
	$admin = $node->session('postgres');
	run($admin, "SELECT testdb_clone('$template')");

	# The later one first: its processes have the other's pipe, too.
	for ($end, $end_early)
	{
		my ($count, $told) = $_->();
		is($told, '', 'a clone of before the crash: nobody is refused');
		ok($count, 'a clone of before the crash: it lets people in');
	}
}
$node->stop;

done_testing();
