
# Spares that are missing are created by as many workers as there is work for, though the session wakes only one; and by others if
# the one that was woken does not look.
#
# Needs a library that was built with DEBUG=1, to hold workers.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;
use Time::HiRes qw(time);

plan skip_all => 'no library that was built with DEBUG=1' unless $ENV{TESTDB_DEBUG_CONFIG};
$ENV{TEMP_CONFIG} = $ENV{TESTDB_DEBUG_CONFIG};

my $node = TestdbCluster->new_server(
	'refill', q{
testdb.workers = 4
testdb.recycled = 0
include_if_exists 'point.conf'
});
my $admin = $node->connect_to('postgres');
run($admin, 'CREATE DATABASE regression_template IS_TEMPLATE true');
run($admin, 'CREATE DATABASE regression_other IS_TEMPLATE true');

# How many spares there are of a template.
sub spares
{
	my ($template) = @_;
	return run($admin, "SELECT count(*) FROM testdb_clones() WHERE state = 'spare' AND template_name = '$template'");
}

# Has two spares of each template ready, and the workers asleep.
sub prepare
{
	for my $template ('regression_template', 'regression_other')
	{
		run($admin, "SELECT testdb_template_set('$template', 2), testdb_prewarm('$template', 2)");
		poll(sub { spares($template) >= 2 }) or die 'no spares';
	}
	poll(sub { is_idle($admin) }) or die 'not idle';
	return;
}

# Takes so many spares that this many are left of each template, in one statement. (There may have been more than two.)
for my $left ([ 0, 2 ], [ 1, 1 ])
{
	my $title = join ' and ', @$left;
	prepare();
	my @calls = map { ("testdb_clone('$_->[0]')") x (spares($_->[0]) - $_->[1]) }[ 'regression_template', $left->[0] ],
	  [ 'regression_other', $left->[1] ];
	$node->use_point('clone-entered wait');
	poll(sub { is_idle($admin) }) or die 'not idle';
	my $mark = -s $node->logfile;
	run($admin, 'SELECT ' . join ', ', @calls);
	ok(poll(sub { (() = slurp_file($node->logfile, $mark) =~ /debug point "clone-entered" was reached/g) >= 2 }, 5),
		"$title spares are left: two workers create others");
	$node->use_point('');
}

# A worker that was woken may be stopped. Then a later call that finds the last spare wakes all; each worker is stopped once, since any
# may be the one. Workers look by themselves every ten seconds.
for my $stopped ($node->worker_pids)
{
	prepare();
	kill 'STOP', $stopped;
	my $clone = 'SELECT ' . join ', ', ("testdb_clone('regression_template')") x (spares('regression_template') - 1);
	run($admin, $clone);
	my $since = time;
	poll(sub { time > $since + 0.5 || spares('regression_template') >= 2 }) or die 'the clock stands still';
	run($admin, q{SELECT testdb_clone('regression_template')});
	ok(poll(sub { spares('regression_template') }, 5), 'a worker is stopped: others create spares');
	kill 'CONT', $stopped;
	run($admin, 'SELECT testdb_drop(name) FROM testdb_clones');
}
$node->stop;

done_testing();
