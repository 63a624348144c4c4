
# A lease that a client was told of is there after a crash, whenever that comes: several clients make and drop clones, the
# postmaster and all of its processes are killed at once, often by a client that has just got an answer, and the server is
# started again, sometimes to be killed while it recovers. A clone whose name was received must be there, and one
# whose drop returned must not; what was under way may be either.
#
#   TESTDB_LEASE_ROUNDS   how many crashes: 15, or 5 in a short run; 0: none
#   TESTDB_LEASE_SEED     repeats the choices of another run (not its timing)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use TestdbCluster;
use TestdbTest;

my $rounds = how_much('TESTDB_LEASE_ROUNDS', 5, 15);
plan skip_all => 'TESTDB_LEASE_ROUNDS is 0' unless $rounds;

my $seed = $ENV{TESTDB_LEASE_SEED} // (time * 1000) % 1_000_000;
diag "seed $seed, $rounds rounds";

my $clients = 4;
my $node = TestdbCluster->new_server(
	'leases', qq{
fsync = off
wal_level = minimal
max_wal_senders = 0
max_worker_processes = 16
restart_after_crash = off
checkpoint_timeout = 30s
testdb.spares = 6
},
	kills_postmaster => 1);
my $folder = $node->basedir;

my $admin = $node->session('postgres');
run($admin, 'CREATE DATABASE app_template');
my $in_template = $node->session('app_template');
run($in_template,
	'CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item SELECT g, md5(g::text) FROM generate_series(1, 500) g'
);
$in_template->close;
run($admin, 'ALTER DATABASE app_template IS_TEMPLATE true');
run($admin, 'CHECKPOINT');

# One client: makes and drops clones until the connection is lost or the time is over. After so many answers it kills the
# server itself, unless that is 0. Writes down what it begins and what it was told of.
sub work
{
	my ($round, $number, $kills_after) = @_;
	srand($seed + 1000 * $round + $number);
	my $file = "$folder/client.$round.$number";
	my $client = $node->connect_to('postgres');
	my (@mine, $answers);
	my $end = time + 20;

	for (my $n = 0; time < $end && !$client->error; $n++)
	{
		my ($sql, $name);
		my $is_drop = @mine && rand() < 0.4;
		if ($is_drop)
		{
			$name = splice @mine, int rand @mine, 1;
			$sql = rand() < 0.9 ? "SELECT testdb_drop('$name')" : "SELECT testdb_drop_all(label => 'of $name')";
			$sql = "SELECT testdb_drop('$name')" if $sql =~ /all/ && $name !~ /^labelled/;
			add_line($file, 'drops', $name);
		}
		elsif (rand() < 0.3)
		{
			$name = (rand() < 0.5 ? 'named' : 'labelled') . "_${round}_${number}_$n";
			$sql = "SELECT testdb_clone('app_template', name => '$name', label => 'of $name')";
			add_line($file, 'makes', $name);
		}
		else
		{
			$sql = "SELECT testdb_clone('app_template'" . (rand() < 0.3 ? ", lifetime => '1 day'" : '') . ')';
		}

		my @pids = $kills_after && ++$answers == $kills_after ? $node->server_pids : ();
		my $result = $client->query($sql);
		kill 'KILL', @pids if @pids && !$client->error;
		if ($client->error)
		{
			# Not those of the crash.
			add_line($file, 'failed', $sql, $client->message) unless $client->sqlstate =~ /^(08|57P)/;
			last;
		}
		add_line($file, $is_drop ? 'dropped' : 'made', $is_drop ? $name : $result);
		push @mine, $result unless $is_drop;
	}
	return;
}

# Clones that a client was told of and has not begun to drop: name => round.
my %leases;
my ($lost, $returned, $failed, $untold, $broken, $orphans) = ('', '', '', 0, '', '');
my ($told, $dropped) = (0, 0);
my $log_at = 0;
my @bad_log;

# The check can fail: this one is missing.
add_line("$folder/client.1.0", 'made', 'never_made');
# A crash between making the file of a lease and writing into it leaves this, and there is nothing to say about it.
append_to_file($node->data_dir . '/pg_testdb/clones/4000000000', '');

for my $round (1 .. $rounds)
{
	srand($seed + 1000 * $round);
	my $spares = $round % 3 == 0 ? 0 : 6;
	my $is_told = rand() < 0.6;
	run($admin, "ALTER SYSTEM SET testdb.spares = $spares");
	run($admin, 'ALTER SYSTEM SET synchronous_commit = ' . (rand() < 0.5 ? 'on' : 'off'));
	run($admin, "ALTER SYSTEM SET full_page_writes = " . (rand() < 0.7 ? 'on' : 'off'));
	$node->reload;
	run($admin, "SELECT testdb_prewarm('app_template', $spares)") if $spares;
	my $whole_writes = run($admin, 'SHOW full_page_writes') eq 'off';
	$is_told &&= !$whole_writes;

	my $killer = 1 + int rand $clients;
	my @children =
	  map {
		my $n = $_;
		in_child(sub { work($round, $n, $is_told && $n == $killer ? 1 + int rand 15 : 0) })
	  } 1 .. $clients;
	if ($is_told)
	{
		waitpid $children[ $killer - 1 ], 0;
	}
	else
	{
		usleep(1000 * (20 + rand 400));
	}
	$admin->close;
	$node->kill_everything($whole_writes);
	waitpid $_, 0 for @children;
	if (rand() < 0.3)
	{
		# Once more, while it recovers.
		$node->launch;
		usleep(1000 * rand 200);
		$node->kill_everything($whole_writes);
	}
	$node->start;
	$admin = $node->session('postgres');

	my (%may_be, %must_not);
	for my $line (lines_of(map { "$folder/client.$round.$_" } 0 .. $clients))
	{
		my (undef, $what, $name, $why) = @$line;
		if ($what eq 'made')
		{
			$leases{$name} = $round;
			$told++;
			delete $may_be{$name};
			delete $must_not{$name};
		}
		elsif ($what eq 'drops')
		{
			delete $leases{$name};
			$may_be{$name} = 1;
		}
		elsif ($what eq 'makes') { $may_be{$name} = 1 }
		elsif ($what eq 'dropped')
		{
			$dropped++;
			$must_not{$name} = 1 unless exists $leases{$name};
			delete $may_be{$name};
		}
		elsif ($what eq 'failed') { $failed .= "round $round: $name: $why\n" }
	}

	my %is = map { $_->[0] => $_->[1] } $admin->rows('SELECT name, state FROM testdb_clones');
	my %row;
	# The name of one whose drop had returned may be in pg_database until the workers have removed it for the second time.
	poll(
		sub {
			%row = map { $_->[0] => 1 } $admin->rows('SELECT datname FROM pg_database WHERE datconnlimit <> -2');
			return !grep { $row{$_} } keys %must_not;
		},
		30);
	for my $name (sort keys %leases)
	{
		next if ($is{$name} // '') eq 'leased' && $row{$name};
		$lost .=
			"round $round: $name of round $leases{$name}: "
		  . ($is{$name} // 'no lease') . ', '
		  . ($row{$name} ? 'database exists' : 'no database') . "\n";
		delete $leases{$name};
	}
	for my $name (sort keys %must_not)
	{
		$returned .= "round $round: $name: " . ($is{$name} // 'no lease') . "\n" if $is{$name} || $row{$name};
	}
	my @untold = grep { !$leases{$_} && !$may_be{$_} && !$must_not{$_} } keys %is;
	$untold += @untold;

	# A few are as good as new.
	my @names = keys %leases;
	for my $name (@names > 3 ? @names[ 0 .. 2 ] : @names)
	{
		my $session = $node->connect_to($name);
		my $sum = $session->error ? undef : $session->query('SELECT count(*), count(DISTINCT name) FROM item');
		$broken .= "round $round: $name: " . ($sum // $session->message) . "\n" if ($sum // '') ne '500|500';
		$session->close;
	}

	# What is not among the client's can be dropped, and so can the client's.
	my @end = grep { !$leases{$_} } keys %is;
	push @end, keys %leases if keys %leases > 100 || $round == $rounds;
	for my $name (@end)
	{
		$admin->do("SELECT testdb_drop('$name', true)");
		$broken .= "round $round: drop of $name: " . $admin->message . "\n" if $admin->error;
		delete $leases{$name};
	}

	my @bad;
	($log_at, @bad) = $node->log_lines(
		$log_at, qr/PANIC|TRAP:|WARNING|FATAL|ERROR|could not|corrupt|not a valid lease/,
		qr{terminating\s(connection|background)|could\snot\s(send|receive)\sdata|HINT:
		|WARNING:\s+(could\snot\sopen\sdirectory\s"base|some\suseless\sfiles)|FATAL:\s+the\sdatabase\ssystem\sis}x);
	push @bad_log, map { "round $round: $_" } @bad;
}

run($admin, 'ALTER SYSTEM SET testdb.spares = 0');
run($admin, 'ALTER SYSTEM SET testdb.recycled = 0');
run($admin, 'SELECT pg_reload_conf()');
poll(
	sub {
		my %rows = map { $_->[0] => 1 } $admin->rows('SELECT oid FROM pg_database');
		my @more = grep { !$rows{$_} } map { m{/(\d+)$} ? $1 : () } glob $node->data_dir . '/base/*';
		$orphans = join ' ', @more;
		return !@more && run($admin, 'SELECT count(*) FROM testdb_clones()') == 0;
	},
	30);

note "$told leases told of, $dropped dropped, $untold of calls without an answer";
cmp_ok($told, '>', 2 * $rounds, 'there were leases');
is($lost, "round 1: never_made of round 1: no lease, no database\n", 'no lease that a client was told of is lost');
is($returned, '', 'no clone comes back whose drop has returned');
is($failed, '', 'no call fails but for the crash');
is($broken, '', 'clones can be entered, have their rows, and can be dropped');
ok(!-e $node->data_dir . '/pg_testdb/clones/4000000000', 'an empty lease is removed');
is($orphans, '', 'no directory is without a database');
is(run($admin, 'SELECT count(*) FROM testdb_clones()'), 0, 'nothing is left in the end');
is(join("\n", @bad_log), '', 'nothing bad is in the log');

# A session that has had a database before has its lease's file open, until another removes that.
run($admin, "ALTER SYSTEM SET testdb.$_") for 'recycled = 4', 'spares = 1';
$node->reload;
my $client = $node->session('postgres');
my %seen;
my $again;
poll(
	sub {
		my $name = run($client, q{SELECT testdb_clone('app_template')});
		my $oid = oid_of($admin, $name);
		$again = $oid if ++$seen{$oid} > 2;
		run($client, "SELECT testdb_drop('$name')");
		poll(sub { $admin->query(qq{SELECT count(*) FROM testdb_clones() WHERE oid = $oid AND state = 'spare'}) });
		return defined $again;
	});
ok(defined $again, 'a session has been given the same database again and again');

# The files of leases that it has open, without the folder.
my $open = sub {
	my @files = map { readlink($_) // '' } glob '/proc/' . $client->pid . '/fd/*';
	return map { m{/pg_testdb/clones/(.*)} ? $1 : () } @files;
};
SKIP:
{
	skip 'what a process has open is not in /proc', 2 unless -d '/proc/self/fd';
	ok((grep { $_ eq $again } $open->()), 'it has its lease open');
	run($admin, 'ALTER SYSTEM SET testdb.recycled = 0');
	$node->reload;
	poll(
		sub {
			run($admin, q{SELECT testdb_drop(testdb_clone('app_template'))});
			return !-e $node->data_dir . "/pg_testdb/clones/$again";
		}) or die 'the lease stays';
	run($client, q{SELECT testdb_drop(testdb_clone('app_template', 'app_last'))});
	is(join(' ', grep { /deleted/ } $open->()), '', 'it has no longer when that was removed, and it has waited');
}
my $last = run($client, q{SELECT testdb_clone('app_template')});
$node->kill_everything;
$node->start;
$admin = $node->session('postgres');
is(run($admin, "SELECT state FROM testdb_clones WHERE name = '$last'"), 'leased', 'the next lease is not lost');

$admin->close;
is($node->stop, 1, 'the server shuts down');
done_testing();
