
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

# How many spares a role has of a template: the superuser, unless another is named.
sub spares
{
	my ($template, $role) = @_;
	my $owner = $role ? "'$role'::regrole" : 10;
	return run(
		$admin, qq{
		SELECT count(*) FROM testdb_clones() c JOIN pg_database d USING (oid)
		WHERE state = 'spare' AND template_name = '$template' AND datdba = $owner});
}

# Waits until no worker looks by itself any more, as those do for a second that have created a spare.
sub sleep_well
{
	my $asleep = time + 1.2;
	poll(sub { time > $asleep && is_idle($admin) }) or die 'not idle';
	return;
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
for my $left ([ 0, 2 ], [ 0, 0 ])
{
	my $title = join ' and ', @$left;
	prepare();
	my @calls = map { ("testdb_clone('$_->[0]')") x (spares($_->[0]) - $_->[1]) }[ 'regression_template', $left->[0] ],
	  [ 'regression_other', $left->[1] ];
	$node->use_point('clone-entered wait');
	poll(sub { is_idle($admin) }) or die 'not idle';
	my $mark = -s $node->logfile;
	run($admin, 'SELECT ' . join ', ', @calls);
	ok(poll(sub { (() = slurp_file($node->logfile, $mark) =~ /debug point "clone-entered" was reached/g) >= 2 }, 30),
		"$title spares are left: two workers create others");
	$node->use_point('');
}

# With half of the spares left, the one that is creating another is enough: it looks again when it is done.
prepare();
$node->use_point('clone-entered wait');
poll(sub { is_idle($admin) }) or die 'not idle';
for my $template ('regression_template', 'regression_other')
{
	my $mark = -s $node->logfile;
	run($admin, 'SELECT ' . join ', ', ("testdb_clone('$template')") x (spares($template) - 1));
	poll(sub { slurp_file($node->logfile, $mark) =~ /debug point "clone-entered" was reached/ })
	  or die 'nobody creates a spare'
	  if $template eq 'regression_template';
}
$node->use_point('');
ok(poll(sub { spares($_) >= 2 }, 30), "half of the spares are left: $_ has all again")
  for 'regression_template', 'regression_other';

# Another role's spares are of no help.
run($admin, 'CREATE ROLE regress_refill LOGIN');
run($admin, 'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_prewarm TO regress_refill');
run($admin, q{SELECT testdb_template_set('regression_template', 4), testdb_prewarm('regression_template', 4)});
my $role = $node->connect_to('postgres', user => 'regress_refill');
my $own = sub { return spares('regression_template', 'regress_refill') };
run($role, q{SELECT testdb_prewarm('regression_template', 1)});
poll($own) or die 'no spare';
sleep_well();
my $take_own = sub {
	return run($role, q{SELECT testdb_clone('regression_template') FROM generate_series(1, } . $own->() . ')');
};
$take_own->();
ok(poll($own, 30), q{a role's last spare is replaced, though another role has some});

# Nor are another role's that are about to be restored, which one worker does, even if that role has asked for none since the start.
my $others =
  run($admin, q{SELECT string_agg(quote_literal(testdb_clone('regression_template')), ',') FROM generate_series(1, 4)});
$_->close for $admin, $role;
$node->set_conf('restart', 'testdb.recycled' => 4);
$admin = $node->connect_to('postgres');
$role = $node->connect_to('postgres', user => 'regress_refill');
run($role, q{SELECT testdb_prewarm('regression_template', 1)});
poll($own) or die 'no spare';
sleep_well();
$node->use_point('recycle-taken wait');
run($admin, "SELECT testdb_drop(name) FROM unnest(ARRAY[$others]) name");
my $coming = q{SELECT count(*) FROM testdb_clones() WHERE state IN ('returned', 'restoring')};
poll(sub { run($admin, $coming) == 4 }) or die 'nothing is to be restored';
$take_own->();
ok(poll($own, 30), q{the same, though another role's are to be restored});
is(run($admin, $coming), 4, 'which they still are');
$node->set_conf('reload', 'testdb.recycled' => 0);
$node->use_point('');
$role->close;

# A worker that was woken may be stopped. Then a later call that finds the last spare wakes all; each worker is stopped once, since any
# may be the one. Workers look by themselves every ten seconds.
for my $stopped ($node->worker_pids)
{
	prepare();
	sleep_well();
	kill 'STOP', $stopped;
	my $clone = 'SELECT ' . join ', ', ("testdb_clone('regression_template')") x (spares('regression_template') - 1);
	run($admin, $clone);
	my $since = time;
	poll(sub { time > $since + 0.5 || spares('regression_template') >= 2 }) or die 'the clock stands still';
	run($admin, q{SELECT testdb_clone('regression_template')});
	ok(poll(sub { spares('regression_template') }, 30), 'a worker is stopped: others create spares');
	kill 'CONT', $stopped;
	run($admin, 'SELECT testdb_drop(name) FROM testdb_clones');
}
$node->stop;

# While a worker is between the decision to create a spare, or to keep a dropped clone, and the time when everybody sees that, others
# decide as if it had done it.
$node = TestdbCluster->new_server(
	'tight', q{
testdb.workers = 4
testdb.spares = 4
testdb.recycled = 4
include_if_exists 'point.conf'
});
$admin = $node->connect_to('postgres');
run($admin, 'CREATE DATABASE regression_template IS_TEMPLATE true');
my $size = run($admin, q{SELECT pg_database_size('regression_template')});

# Makes room for so many.
sub allow
{
	my ($n) = @_;
	$node->set_conf('reload', 'testdb.max_spare_size' => int($size / 1048576 * ($n + 0.5)) . 'MB');
	return;
}

# Waits until nothing is made or removed any more, for some time: a worker that was woken may not have begun. How many spares there are
# then.
sub settled
{
	my $moving = q{SELECT count(*) FROM testdb_clones() WHERE state NOT IN ('spare', 'leased')};
	my ($last, $same) = (-1, 0);
	poll(
		sub {
			my $now = spares('regression_template');
			$same = $now == $last && !run($admin, $moving) && is_idle($admin) ? $same + 1 : 0;
			$last = $now;
			return $same > 50;
		}) or die 'not settled';
	return $last;
}

# Sends a statement that makes a worker come to a point, and stay there; its session.
sub hold
{
	my ($point, $statement) = @_;
	$node->use_point("$point wait");
	settled();
	my $mark = -s $node->logfile;
	my $client = $node->connect_to('postgres');
	$client->send($statement);
	poll(sub { slurp_file($node->logfile, $mark) =~ /debug point "$point" was reached/ })
	  or die "nobody comes to $point";
	return $client;
}

allow(2);
run($admin, q{SELECT testdb_prewarm('regression_template', 2)});
run($admin, 'SELECT ' . join ', ', (q{testdb_clone('regression_template')}) x settled());
is(settled(), 2, 'two are kept');
my $client = hold('refill-decided', q{SELECT testdb_clone('regression_template')});
run($admin, sprintf q{SELECT testdb_drop('%s')}, $client->result->{rows}[0][0]);
$node->use_point('');
is(settled(), 2, 'a clone that is dropped when a spare is about to be created is not kept');
$client->close;

# No more than these two are wanted, so that none is created in the room of the third.
run($admin, q{SELECT testdb_template_set('regression_template', 2)});
my @names = map { run($admin, q{SELECT testdb_clone('regression_template')}) } 1 .. 3;
is(settled(), 2, 'two are kept again');
allow(3);
$client = hold('return-row', "SELECT testdb_drop('$names[0]')");
run($admin, q{SELECT testdb_template_set('regression_template', 4)});
run($admin, 'SELECT ' . join ', ', (q{testdb_clone('regression_template')}) x 3);
poll(sub { spares('regression_template') > 2 }, 1);
is(spares('regression_template'), 2, 'when a clone is about to be kept fewer spares are created');
$node->use_point('');
$client->result;
is(settled(), 3, 'and it is kept');
$node->stop;

done_testing();
