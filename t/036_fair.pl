
# What one role can have of what all share: testdb.max_clones_per_role however calls come, its fair share of
# testdb.max_clones and testdb.max_templates, and what the log says at the limit.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $node = TestdbCluster->new_server(
	'main', q{
testdb.max_clones = 16
testdb.max_templates = 8
testdb.spares = 2
});
my $admin = $node->connect_to('postgres');
run($admin, $_)
  for 'CREATE DATABASE regression_template IS_TEMPLATE true', 'CREATE DATABASE regression_other IS_TEMPLATE true',
  map({ (   "CREATE ROLE regress_$_ LOGIN",
			"GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_drop_all, testdb_prewarm, testdb_reset TO regress_$_"
	) } 'greedy',
	'modest'),
  'CREATE ROLE regress_group', 'GRANT regress_group TO regress_greedy';
my $greedy = $node->connect_to('postgres', user => 'regress_greedy');
my $modest = $node->connect_to('postgres', user => 'regress_modest');

# The limit for each role is exact, from spares and copies, however many calls come at once.
run($admin, 'ALTER ROLE regress_greedy SET testdb.max_clones_per_role = 3');
my @clients = map { $node->connect_to('postgres', user => 'regress_greedy') } 1 .. 10;
for my $way ('copies', 'spares', 'names')
{
	run($clients[0], q{SELECT testdb_prewarm('regression_template', 6)}) if $way eq 'spares';
	for my $n (0 .. $#clients)
	{
		my $name = $way eq 'names' ? ", 'regression_greedy_$n'" : '';
		$clients[$n]->send("SELECT testdb_clone('regression_template'$name)");
	}
	my @told = map { $_->{error} ? $_->{error}{C} : 'ok' } map { $_->result } @clients;
	is(join(' ', sort @told), join(' ', ('53400') x 7, ('ok') x 3), "ten at once, $way: three get one");
	is(run($clients[0], 'SELECT testdb_drop_all()'), 3, "ten at once, $way: they are dropped");
}

# Neither a new owner nor a reset makes room.
my @names = map { run($clients[0], q{SELECT testdb_clone('regression_template')}) } 1 .. 3;
run($admin, qq{ALTER DATABASE "$_" OWNER TO regress_group}) for @names[ 0, 1 ];
ok(!$clients[0]->do(q{SELECT testdb_clone('regression_template')}), 'given away: it counts');
is($clients[0]->sqlstate, '53400', 'given away: error');
run($clients[0], "SELECT testdb_reset('$names[0]')");
ok(!$clients[0]->do(q{SELECT testdb_clone('regression_template')}), 'given away and reset: it counts');
run($admin, q{SET testdb.method = 'file_copy'});
run($admin, "SELECT testdb_reset('$names[1]')");
run($admin, 'RESET testdb.method');
ok(!$clients[0]->do(q{SELECT testdb_clone('regression_template')}), 'given away and replaced: it counts');
run($admin, "SELECT testdb_drop('$_')") for @names;
ok($clients[0]->do(q{SELECT testdb_clone('regression_template')}), 'given away and dropped: there is room')
  or diag $clients[0]->told;
run($admin, 'SELECT testdb_drop(name) FROM testdb_clones');
$_->close for @clients;

# Clones of clones: the last of the templates is not for who has the others.
my $last = 'regression_template';
my $n = 0;
while ($n < 10)
{
	my $name = $greedy->query("SELECT testdb_clone('$last', 'regression_nested_$n')");
	last if !defined $name || $greedy->error;
	$last = $name;
	$n++;
}
is($n, 7, 'clones of clones: seven templates of eight');
like(
	$greedy->told,
	qr/^53400: too many templates have clones\n7 of 8 are in use, 7 of them by this role/,
	'clones of clones: error');
ok($modest->do(q{SELECT testdb_clone('regression_other')}), 'clones of clones: another role has one')
  or diag $modest->told;
run($admin, 'SELECT testdb_drop(name) FROM testdb_clones');

# So with clones, also by way of spares.
for my $way ('clones', 'spares')
{
	poll(sub { is_idle($admin) }) or die 'not idle';
	$greedy->do(q{SELECT testdb_prewarm('regression_template', 16)}) if $way eq 'spares';
	$n = 0;
	$n++ while $n < 20 && $greedy->do(q{SELECT testdb_clone('regression_template')});
	is($n, 14, "$way: fourteen of sixteen");
	like($greedy->told, qr/^53400: too many databases created by testdb\n14 of 16 are in use, 14 of them by this role/,
		"$way: error");
	ok($modest->do(q{SELECT testdb_clone('regression_template')}), "$way: another role has one") or diag $modest->told;
	ok($admin->do(q{SELECT testdb_clone('regression_template')}), "$way: so has a superuser") or diag $admin->told;

	# The limit is reached: what can't be done is not tried for ever.
	my $mark = -s $node->logfile;
	$_->do(q{SELECT testdb_clone('regression_template')}) for ($greedy, $modest, $admin) x 10;
	poll(sub { is_idle($admin) }) or die 'not idle';
	my @lines = slurp_file($node->logfile, $mark) =~ /could not create a spare/g;
	cmp_ok(scalar(@lines), '<=', 1, "$way: the log is not filled");
	run($admin, 'SELECT testdb_drop(name) FROM testdb_clones');
}

# Drops that wait for a lock, or for who has changed the row, leave a worker for others.
$greedy->close;
run($admin, 'ALTER ROLE regress_greedy RESET testdb.max_clones_per_role');
for my $held (
	"COMMENT ON DATABASE %s IS 'held'",
	'GRANT CONNECT ON DATABASE %s TO regress_modest',
	'ALTER DATABASE %s CONNECTION LIMIT 5')
{
	my $title = "blocked drops, $held";
	$node->set_conf('reload', 'testdb.lock_timeout' => '30s');
	my @holders = map { $node->connect_to('postgres', user => 'regress_greedy') } 1 .. 2;
	my @owned = map { run($holders[0], q{SELECT testdb_clone('regression_template')}) } 1 .. 8;
	run($holders[0], 'BEGIN');
	run($holders[0], sprintf($held, $_)) for @owned;
	my @droppers = map { $node->connect_to('postgres', user => 'regress_greedy') } @owned;
	$droppers[$_]->send("SELECT testdb_drop('$owned[$_]')") for 0 .. $#owned;
	ok( poll(
			sub {
				run($admin, q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE NOT l.granted AND a.backend_type = 'testdb worker'});
			}),
		"$title: a worker waits");
	run($modest, q{SET statement_timeout = '15s'});
	for my $n (1 .. 3)
	{
		ok($modest->do("SELECT testdb_clone('regression_template', 'regression_modest_$n')"),
			"$title: another role gets a clone")
		  or diag $modest->told;
		ok($modest->do("SELECT testdb_drop('regression_modest_$n')"), "$title: and drops it") or diag $modest->told;
	}
	is( run($admin,
			q{SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT testdb_drop%' AND usename = 'regress_greedy'}
		),
		8,
		"$title: all the while");
	run($holders[0], 'ROLLBACK');
	is( join(' ', map { my $r = $_->result; $r->{error} ? $r->{error}{M} : 'ok' } @droppers),
		join(' ', ('ok') x 8),
		"$title: done at last");

	# Each fails after testdb.lock_timeout.
	$node->set_conf('reload', 'testdb.lock_timeout' => '500ms');
	poll(sub { is_idle($admin) });
	run($admin, q{SELECT testdb_drop(testdb_clone('regression_template', 'regression_any'))}) for 1 .. 4;
	@owned = map { run($holders[1], q{SELECT testdb_clone('regression_template')}) } 1 .. 4;
	run($holders[0], 'BEGIN');
	run($holders[0], sprintf($held, $_)) for @owned;
	$droppers[$_]->send("SELECT testdb_drop('$owned[$_]')") for 0 .. $#owned;
	is( join(' ', map { my $r = $droppers[$_]->result; $r->{error} ? $r->{error}{C} : 'ok' } 0 .. $#owned),
		join(' ', ('55P03') x 4),
		"$title: each fails after testdb.lock_timeout");
	run($holders[0], 'ROLLBACK');
	run($admin, 'SELECT testdb_drop(name) FROM testdb_clones');
	poll(sub { is_idle($admin) }) or die 'not idle';
}

$node->stop;

# Nor does a spare that is just being created count for its owner.
SKIP:
{
	skip 'no library that was built with DEBUG=1', 1 unless $ENV{TESTDB_DEBUG_CONFIG};
	local $ENV{TEMP_CONFIG} = $ENV{TESTDB_DEBUG_CONFIG};
	$node =
	  TestdbCluster->new_server('held', "testdb.max_clones = 16\ntestdb.spares = 1\ninclude_if_exists 'point.conf'\n");
	$admin = $node->connect_to('postgres');
	run($admin, $_)
	  for 'CREATE DATABASE regression_template IS_TEMPLATE true', 'CREATE ROLE regress_greedy LOGIN',
	  'GRANT EXECUTE ON FUNCTION testdb_clone TO regress_greedy';
	$greedy = $node->connect_to('postgres', user => 'regress_greedy');
	run($greedy, q{SELECT testdb_clone('regression_template')}) for 1 .. 12;
	poll(sub { is_idle($admin) }) or die 'not idle';
	$node->use_point('clone-entered wait');
	my $mark = -s $node->logfile;
	run($greedy, q{SELECT testdb_clone('regression_template')});
	poll(sub { slurp_file($node->logfile, $mark) =~ /debug point "clone-entered" was reached/ })
	  or die 'no spare is created';
	my $last_one = $node->connect_to('postgres', user => 'regress_greedy');
	$last_one->send(q{SELECT testdb_clone('regression_template')});
	poll(
		sub {
			$last_one->readable(0)
			  || slurp_file($node->logfile, $mark) =~ /(debug point "clone-entered" was reached.*){2}/s;
		});
	$node->use_point('');
	my $result = $last_one->result;
	ok(!$result->{error}, 'a spare that is being created does not count') or diag $result->{error}{M};
	poll(sub { run($admin, q{SELECT count(*) FROM testdb_clones() WHERE state = 'spare'}) }) or die 'no spare';
	ok(!$greedy->do(q{SELECT testdb_clone('regression_template')}), 'when it is ready, the role has its share');
	like($greedy->told, qr/^53400: .*\n14 of 16 are in use, 14 of them by this role/, 'which is an error');
	$node->stop;
}
done_testing();
