
# Several servers, as large suites have them: workers that know nothing but the list of the servers go to one at random for
# each test, get a clone there, and find it again by its URI. One server is killed in the middle and started again: the
# tests that were on it fail, and pass when they are run again; no other test notices.
#
# What libpq does from 16 on with load_balance_hosts=random, the workers do by themselves: the list in random order, and
# the next one if a server cannot be reached or is starting. Which order a test takes is drawn from the seed and its
# number, so that the load of one run is that of every run.
#
#   TESTDB_SERVERS_TESTS  how many tests there are, instead of 600: half of them with all servers there; 0: none
#   TESTDB_SERVERS_SEED   other draws, of which chance has more to say: what a server gets may then differ from a third by five
#                         standard deviations, which happens once in a million runs

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Fcntl      qw(O_CREAT O_EXCL O_WRONLY);
use List::Util qw(max shuffle);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TestdbCluster;
use TestdbTest;

my $ntests = int(($ENV{TESTDB_SERVERS_TESTS} // 600) / 2);
my $seed = $ENV{TESTDB_SERVERS_SEED} // 1;
my $nworkers = 12;
plan skip_all => 'TESTDB_SERVERS_TESTS is 0' unless $ntests;

# A server that says what it is called from outside, with a template of its own.
sub add_server
{
	my ($name) = @_;
	my $node = TestdbCluster->new_server(
		$name, q{
listen_addresses = '127.0.0.1'
fsync = off
wal_level = minimal
max_wal_senders = 0
max_worker_processes = 16
restart_after_crash = off
testdb.spares = 8
});
	$node->append_conf('postgresql.conf', "testdb.uri = 'postgresql://127.0.0.1:" . $node->port . "/'");
	$node->restart;
	my $admin = $node->session('postgres');
	run($admin, 'CREATE DATABASE app_template');
	my $in_template = $node->session('app_template');
	run($in_template, 'CREATE TABLE item AS SELECT i FROM generate_series(1, 500) i');
	$in_template->close;
	run($admin, 'ALTER DATABASE app_template IS_TEMPLATE true');
	run($admin, "SELECT testdb_prewarm('app_template', 4)");
	$admin->close;
	return $node;
}

my @nodes = map { add_server("server_$_") } 1 .. 3;
my $victim = $nodes[1];
my $folder = $victim->basedir;
my @ports = map { $_->port } @nodes;
my $bad_ends = 0;

# A session by URI.
sub connect_uri
{
	my ($uri) = @_;
	my ($user, $host, $port, $db) = $uri =~ m{^postgresql://([^@]+)@([^:/]+):(\d+)/([^/?]+)$}
	  or die "unexpected URI: $uri";
	s/%(..)/chr hex $1/ge for $user, $db;
	return TestdbClient->new(host => $host, port => $port, user => $user, db => $db);
}

# A session on the first server in this list that lets us in.
sub connect_any
{
	my (@list) = @_;
	for my $port (@list)
	{
		my $client = TestdbClient->new(host => '127.0.0.1', port => $port, db => 'postgres');
		return ($client, $port) unless $client->error;
		die $client->message unless $client->sqlstate =~ /^(08...|57P0[123])$/;
	}
	die 'no server can be reached';
}

# The statement's result, or dies.
sub ask
{
	my ($client, $sql) = @_;
	my $result = $client->query($sql);
	die $client->message . "\n" if $client->error;
	return $result;
}

# One test, on the server that $admin is connected to: a clone, in which nobody else has written. $in_the_middle is
# called with its number and port half-way.
sub one_test
{
	my ($admin, $port, $number, $in_the_middle) = @_;
	my ($name, $uri) =
	  split /\|/,
	  ask($admin, q{SELECT name, testdb_uri(name) FROM testdb_clone('app_template', scope => 'session') name});
	my $client = connect_uri($uri);
	die $client->message . "\n" if $client->error;
	my $place = ask($client, q{SELECT current_database(), current_setting('port')});
	die "$uri leads to $place, not to $name on $port\n" unless $place eq "$name|$port";
	ask($client, "INSERT INTO item VALUES ($number)");
	$in_the_middle->($number, $port);
	my $count = ask($client, 'SELECT count(*) FROM item');
	die "$name has $count items\n" unless $count == 501;
	ask($admin, "SELECT testdb_drop('$name')");
	$client->close;
	return;
}

# A worker's share of the tests. A test that fails is run again, once. What happened is in a file: test, which try, port,
# and 'passed' or why not.
sub work
{
	my ($part, $worker, $before, $in_the_middle) = @_;
	for (my $number = $worker; $number < $ntests; $number += $nworkers)
	{
		$before->($number);
		srand($seed * 1_000_003 + $number);
		for my $try (1, 2)
		{
			my ($admin, $port) = connect_any(shuffle @ports);
			my $passed = eval { one_test($admin, $port, $number, $in_the_middle); 1 };
			my $why = $passed ? 'passed' : $@ =~ s/\s+/ /gr;
			$admin->close;
			add_line("$folder/$part.$worker", $number, $try, $port, $why);
			append_to_file("$folder/$part.done", '.');
			last if $passed;
		}
	}
	return;
}

# All tests of a part, by all workers; what happened. $meanwhile is called when they have begun.
sub run_part
{
	my ($part, $before, $in_the_middle, $meanwhile) = @_;
	my @children;
	my $start = time;
	for my $worker (0 .. $nworkers - 1)
	{
		push @children, in_child(sub { work($part, $worker, $before, $in_the_middle) });
	}
	$meanwhile->();
	for my $pid (@children)
	{
		waitpid $pid, 0;
		$bad_ends++ if $?;
	}
	note sprintf '%s: %d tests by %d workers, %.1f s', $part, $ntests, $nworkers, time - $start;
	return
	  map { { number => $_->[1], try => $_->[2], port => $_->[3], result => $_->[4] } }
	  lines_of(map { "$folder/$part.$_" } 0 .. $nworkers - 1);
}

# How many of these are on each server, in the order of @ports.
sub load_of
{
	my (@runs) = @_;
	my %count;
	$count{ $_->{port} }++ for @runs;
	return map { $count{$_} // 0 } @ports;
}

# The numbers of the tests that do not have exactly one run of this kind.
sub not_once
{
	my (@runs) = @_;
	my %count;
	$count{ $_->{number} }++ for @runs;
	return grep { ($count{$_} // 0) != 1 } 0 .. $ntests - 1;
}

my $nothing = sub { };

# All servers there: each gets its third.
my @runs = run_part('calm', $nothing, $nothing, $nothing);
is(join("\n", map { "$_->{number}: $_->{result}" } grep { $_->{result} ne 'passed' } @runs), '', 'all tests pass');
is_deeply([ not_once(@runs) ], [], 'each test is run once');
my @load = load_of(@runs);
my $fair = $ntests / @nodes;
my $bound = 0.2 * $fair;
$bound = max($bound, 5 * sqrt($fair * (1 - 1 / @nodes)))
  if grep { defined } @ENV{qw(TESTDB_SERVERS_TESTS TESTDB_SERVERS_SEED)};
is( scalar(grep { abs($_ - $fair) > $bound } @load),
	0, sprintf "the load spreads: @load, each %.0f +- %.0f",
	$fair, $bound);
is(scalar(grep { !$_ } @load), 0, "every server has some: @load");

# One is killed by a worker in the middle of a test there, when half of the tests are done, and comes back. The last sixth
# of the tests begins after that.
my $end = $ntests - int($ntests / 6);
my $kill = sub {
	my ($number, $port) = @_;
	return if $port != $victim->port || (-s "$folder/crash.done" // 0) < $ntests / 2;
	return unless sysopen my $mark, "$folder/killer", O_CREAT | O_EXCL | O_WRONLY;
	kill_pids(0, $victim->server_pids);
	syswrite $mark, "$number\n";
	return;
};
my $wait = sub {
	my ($number) = @_;
	return if $number < $end;
	poll(sub { -e "$folder/restarted" }, 60) or die 'the server was not started again';
	return;
};
my $restart = sub {
	poll(sub { -s "$folder/killer" }, 60) or die 'nobody has killed the server';
	$victim->kill_everything(0);
	$victim->start;
	append_to_file("$folder/restarted", "\n");
	return;
};
@runs = run_part('crash', $wait, $kill, $restart);
my @failed = grep { $_->{result} ne 'passed' } @runs;
my ($killer) = slurp_file("$folder/killer") =~ /^(\d+)$/m;
note scalar(@failed) . ' tests failed: ' . join ', ', map { $_->{result} } @failed;
is_deeply([ grep { $_->{port} != $victim->port } @failed ], [], 'no test fails that was on another server');
is_deeply([ grep { $_->{try} != 1 } @failed ], [], 'none fails when it is run again');
is_deeply([ not_once(grep { $_->{result} eq 'passed' } @runs) ], [], 'each test has passed once');
is(scalar(grep { $_->{number} == $killer } @failed), 1, 'the test that was in the middle has failed');
cmp_ok(scalar @failed, '<=', $nworkers, 'no more have failed than were running');
is_deeply([ grep { $_->{result} !~ /^(passed|08|57P)/ } @runs ], [], 'why they failed: a lost connection');
@load = load_of(grep { $_->{number} >= $end } @runs);
is(scalar(grep { !$_ } @load), 0, "every server has some again: @load");
is($bad_ends, 0, 'no worker has died');

# Nothing is left anywhere, but what the other sessions of the killed server had is gone by itself.
for my $node (@nodes)
{
	my $admin = $node->session('postgres');
	my $left;
	poll(sub { ($left = run($admin, 'SELECT count(*) FROM testdb_clones')) == 0 }, 30);
	is($left, 0, $node->name . ' has no clones left');
	is(run($admin, 'SELECT count(*) FROM testdb_stats WHERE clones > 0'), 1, $node->name . ' has handed out clones');
	$admin->close;
}

# libpq's own: a list of servers in any order. 60 sessions leave none out but once in 10 thousand million runs.
SKIP:
{
	my ($version) = (run_command([ 'psql', '--version' ]))[0] =~ /(\d+)/;
	skip 'libpq has load_balance_hosts from 16 on', 2 if $version < 16;
	my $list = 'postgresql://' . join(',', map { "127.0.0.1:$_" } @ports) . '/postgres?load_balance_hosts=random';
	my %seen;
	for (1 .. 60)
	{
		my ($uri, $err) = run_command(
			[
				'psql', '-XAtq', '-d', $list, '-c',
				q{SELECT testdb_uri(testdb_clone('app_template', lifetime => '1 hour'))}
			]);
		my ($port) = (run_command([ 'psql', '-XAtq', '-d', $uri, '-c', 'SHOW port' ]))[0];
		$seen{$port}++ if $uri =~ m{:\Q$port\E/};
	}
	is_deeply(
		[ sort { $a <=> $b } keys %seen ],
		[ sort { $a <=> $b } @ports ],
		'libpq reaches all, and finds each clone again');
	is(eval { my $n = 0; $n += $_ for values %seen; $n }, 60, 'always');
}

$_->stop for @nodes;
done_testing();
