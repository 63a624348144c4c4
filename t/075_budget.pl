
# What is kept that nobody has got takes no more room than it may: spares, dropped clones, snapshots.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $node = TestdbCluster->new_server('budget', "testdb.workers = 2\ntestdb.spares = 4\ntestdb.recycled = 10");
my $data = $node->data_dir;
my $admin = $node->session('postgres');

sub view
{
	my ($columns) = @_;
	return run($admin, "SELECT $columns FROM testdb_templates WHERE name = 'regression_template'");
}

# Waits until nothing is being made or restored any more; what there is then.
sub settled
{
	my ($last, $same) = ('', 0);
	poll(
		sub {
			my $now = view('spares, recycling, spare_bytes, clones')
			  . run($admin,
				q{SELECT count(*) FROM testdb_clones() WHERE state IN ('creating', 'garbage', 'removing', 'restoring', 'dropping')}
			  );
			$same = $now eq $last && $now =~ /^\d+\|0\|.*\|\d+0$/ ? $same + 1 : 0;
			$last = $now;
			return $same > 50;
		}) or die "not settled: $last";
	return view('spares');
}

# Hands out so many clones.
sub clones
{
	my ($n) = @_;
	return map { run($admin, q{SELECT testdb_clone('regression_template')}) } 1 .. $n;
}

run($admin, 'CREATE DATABASE regression_template IS_TEMPLATE true');
$node->safe_psql('regression_template',
	q{CREATE TABLE t AS SELECT repeat('x', 1000) AS t FROM generate_series(1, 10000)});
my $size = run($admin, q{SELECT pg_database_size('regression_template')});
my $mb = int($size / 1048576) + 1;
cmp_ok($mb, '>', 15, 'the template is not small');

like(
	slurp_file($node->logfile),
	qr/LOG:  testdb has room for databases of \d+ MB\n.*DETAIL:  .*Of it, \d+ MB can be taken by databases that are kept ready\./,
	'the log says how much room there is');

# Sizes.
{
	my ($clone) = clones(1);
	is(view('snapshot_bytes = bytes, clone_bytes = bytes, bytes > 15000000'),
		't|t|t', 'the snapshot and a clone are shown with their sizes');
	settled();
	is(view('spare_bytes = spares * bytes'), 't', 'so are spares');
	is( run($admin,
			q{SELECT occupied_bytes = snapshot_bytes + spare_bytes + clone_bytes FROM testdb_stats JOIN testdb_templates USING (name) WHERE name = 'regression_template'}
		),
		't',
		'the statistics have the sum');
	run($admin, "SELECT testdb_drop('$clone')");
}

# No more than two are kept.
{
	$node->set_conf('reload', 'testdb.max_spare_size' => (2 * $mb + 5) . 'MB');
	my @clones = clones(7);
	cmp_ok(settled(), '<=', 2, 'fewer spares are made than could be if there were room');
	run($admin, "SELECT testdb_drop('$_')") for @clones;
	is(settled(), 2, 'and of those that are dropped no more are kept');
	is(view("spare_bytes <= $mb * 2 * 1048576"), 't', 'which is what the sizes say');
	is(run($admin, q{SELECT count(*) FROM pg_database WHERE datname LIKE 'regression_template_%'}),
		2, 'the others have gone');
	run($admin, "SELECT testdb_drop('" . (clones(1))[0] . "')");
	is(settled(), 2, 'they are used, and come back');
}

# It is larger than all that may be kept: recycled one for one.
{
	$node->set_conf('reload', 'testdb.max_spare_size' => '1MB');
	my @clones = clones(3);
	is(settled(), 0, 'no spare is made of a template that is larger than all that may be kept');
	run($admin, 'SELECT testdb_stats_reset()');
	run($admin, "SELECT testdb_drop('$_')") for @clones;
	is(settled(), 1, 'one that was dropped is kept');
	for (1 .. 3)
	{
		run($admin, "SELECT testdb_drop('" . (clones(1))[0] . "')");
		is(settled(), 1, 'and used');
	}
	is(run($admin, q{SELECT hits, copies FROM testdb_stats WHERE name = 'regression_template'}), '3|0', 'each time');
	is(run($admin, q{SELECT testdb_prewarm('regression_template', 3)}), 3, 'what is asked for is made all the same');
}

# A finished template gets its first spares if there is room for them: two, and a third if the other worker has begun one by
# itself when the second was asked for.
for my $case ([ '1MB', 0 ], [ '1GB', 2 ])
{
	my ($max, $expected) = @$case;
	$node->set_conf('reload', 'testdb.max_spare_size' => $max);
	my ($db) = split /\|/,
	  run($admin, "SELECT * FROM testdb_template_begin('regression_built', '$max', 'regression_template')");
	run($admin, "SELECT testdb_template_finish('$db')");
	my $spares = run($admin, "SELECT coalesce((SELECT spares FROM testdb_templates WHERE name = '$db'), 0)");
	ok($spares == $expected || $expected && $spares == $expected + 1, "$max: $expected first spares") or diag $spares;
}
run($admin, q{SELECT testdb_template_drop('regression_built')});

# A snapshot that nobody uses goes, and comes back.
{
	my $dir = "$data/pg_testdb/snapshots/" . oid_of($admin, 'regression_template');
	$node->set_conf('reload', 'testdb.recycled' => 0);
	run($admin, q{SELECT testdb_template_set('regression_template', 0)});
	my @all;

	# Nor is one just being made.
	poll(
		sub {
			push @all, clones(1);
			run($admin, q{SELECT count(*) FROM testdb_clones() WHERE state <> 'leased'}) == 0;
		});
	$node->set_conf('reload', 'testdb.snapshot_timeout' => '1s');
	run($admin, "SELECT testdb_drop('" . pop(@all) . "')") while @all > 1;
	ok(-d $dir, 'as long as there is a clone there is the snapshot');
	my $inside = $node->session($all[0]);
	run($inside, 'TRUNCATE t');
	ok($admin->do("SELECT testdb_rewind('$all[0]')"), 'from which it is restored') or diag $admin->told;
	is(run($inside, 'SELECT count(*) FROM t'), 10000, 'whole');
	$inside->close;
	run($admin, "SELECT testdb_drop('$all[0]')");
	ok(poll(sub { !-d $dir }), 'afterwards it goes')
	  or diag run($admin, q{SELECT string_agg(c::text, E'\n') FROM testdb_clones() c}),
	  view('clones, spares, recycling, wanted');
	is(view('snapshot, snapshot_bytes'), 'no snapshot|0', 'which is shown');
	ok(!-e "$dir.manifest", 'nothing is left of it');
	$node->set_conf('reload', 'testdb.snapshot_timeout' => 0);
	my ($clone) = clones(1);
	ok(-d $dir, 'it is taken anew when it is needed');
	$inside = $node->session($clone);
	is(run($inside, 'SELECT count(*) FROM t'), 10000, 'and is whole');
	$inside->close;
	run($admin, "SELECT testdb_drop('$clone')");
}

$admin->close;
$node->stop;
done_testing();
