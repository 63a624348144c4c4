#!/usr/bin/perl
#
# Prints how many seconds N tests take which each get a database, by several ways to get it, with one worker and with
# several at a time. They are tests of examples/perl: an order is placed and paid for.
#
#   test/seconds.pl HOST PORT PASSWORD [TESTS [WORKERS]]     100 tests and 4 workers, if not given
#
# Needs a server with testdb, as a superuser, and DBD::Pg. A worker is a process. All ways start from the same template, which
# is built first and has its spares; and whoever has a database of its own connects to it anew.
#
use strict;
use warnings;
use DBI;
use File::Basename qw(dirname);
use POSIX          qw(_exit);
use Time::HiRes    qw(time);
use lib dirname(__FILE__) . '/../examples/perl/lib';
use Shop;

my ($host, $port, $password, $tests, $workers) = (@ARGV, undef, undef);
$tests   //= 100;
$workers //= 4;

sub connect_to
{
	my ($database) = @_;
	return DBI->connect("dbi:Pg:host=$host;port=$port;dbname=$database",
		'postgres', $password, { RaiseError => 1, PrintError => 0, PrintWarn => 0 });
}

# Each test must find the template's content: order number 1, and a stock of 5.
sub run_test
{
	my ($db) = @_;
	my $order = Shop::place_order($db, 1, 1 => 2, 3 => 1);
	die "order number $order\n" if $order != 1;
	die "paid wrongly\n" if Shop::pay($db, $order) != 72;
	die "wrong stock\n" if Shop::in_stock($db, 1) != 3;
}

# Names for CREATE DATABASE.
my $created = 0;

sub create_database
{
	my ($admin, $template) = @_;
	my $name = sprintf 'seconds_%d_%d', $$, ++$created;
	$admin->do("CREATE DATABASE $name TEMPLATE $template");
	run_test(my $db = connect_to($name));
	$db->disconnect;
	$admin->do("DROP DATABASE $name");
}

sub clone_database
{
	my ($admin, $template) = @_;
	my ($name) = $admin->selectrow_array("SELECT testdb_clone(?, scope => 'session')", undef, $template);
	run_test(my $db = connect_to($name));
	$db->disconnect;
	$admin->do('SELECT testdb_drop(?)', undef, $name);
}

# The worker's database and the connection to it.
my ($same, $same_db);

sub rewind_database
{
	my ($admin, $template) = @_;
	if (!defined $same)
	{
		($same) = $admin->selectrow_array("SELECT testdb_clone(?, scope => 'session')", undef, $template);
		$same_db = connect_to($same);
	}
	$admin->do('SELECT testdb_rewind(?)', undef, $same);
	run_test($same_db);
}

# What it is called, what runs one test, and whether testdb serves CREATE DATABASE meanwhile.
my @ways = (
	[ 'CREATE DATABASE ... TEMPLATE, by PostgreSQL', \&create_database, 'off' ],
	[ 'CREATE DATABASE ... TEMPLATE, served by testdb', \&create_database, 'on' ],
	[ 'testdb_clone, a database per test', \&clone_database, 'on' ],
	[ 'testdb_rewind, a database per worker', \&rewind_database, 'on' ]);

# Runs all tests by one way with so many workers, and returns the seconds.
sub seconds
{
	my ($way, $processes, $template) = @_;
	my (undef, $run, $served) = @$way;
	my $start = time;
	my @children;
	foreach my $number (1 .. $processes)
	{
		my $child = fork // die "fork: $!\n";
		if ($child == 0)
		{
			my $share = int($tests / $processes) + ($number <= $tests % $processes);
			my $done = eval {
				my $admin = connect_to('postgres');
				$admin->do("SET testdb.serve_create_database = $served");
				$run->($admin, $template) foreach 1 .. $share;
				1;
			};
			warn $@ if !$done;
			_exit($done ? 0 : 1);
		}
		push @children, $child;
	}
	my $failed = grep { waitpid($_, 0); $? != 0 } @children;
	die "\"$way->[0]\" failed\n" if $failed;
	return time - $start;
}

# Builds the template, and returns its name.
sub template
{
	my $admin = connect_to('postgres');
	my ($name, $build) = $admin->selectrow_array("SELECT * FROM testdb_template_begin('seconds', '1')");
	if ($build)
	{
		my $building = connect_to($name);
		foreach my $path (sort glob dirname(__FILE__) . '/../examples/perl/migrations/*.sql')
		{
			open(my $file, '<', $path) or die "$path: $!\n";
			local $/;
			$building->do(<$file>);
		}
		$building->disconnect;
		$admin->do('SELECT testdb_template_finish(?)', undef, $name);
	}
	$admin->disconnect;
	return $name;
}

my $template = template();
printf "Seconds for %-38s %8s %10s\n", "$tests tests, each with a database", '1 worker', "$workers workers";
foreach my $way (@ways)
{
	printf "%-50s %8.1f %10.1f\n", $way->[0], map { seconds($way, $_, $template) } 1, $workers;
}
