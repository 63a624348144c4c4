
# What happens at each limit: too many clones, too many templates. The error says so, and when something has been dropped all works
# again. Limits of space are in t/025_no_space.pl.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Test::More;
use TestdbCluster;
use TestdbLimits;
use TestdbTest;

#
# testdb.max_clones, with spares that others are given up for; testdb.max_templates.
#
my $node = TestdbCluster->new_server(
	'main', q{
testdb.max_clones = 6
testdb.max_templates = 3
testdb.spares = 0
});
my $admin = populate($node);
my $user = $node->connect_to('postgres', user => 'regress_user');
my $spares = q{SELECT coalesce(sum(spares), 0) FROM testdb_templates};
my $too_many =
  qr/^53400: too many databases created by testdb\nAll 6 are in use\.\nDrop some with testdb_drop, or increase "testdb.max_clones"\./;

# Spares of another template are given up, one by one, for who needs the room.
ok(run($admin, "SELECT testdb_prewarm('$other', 3)") >= 3, 'max_clones: there are spares of another template');
is(fill($admin, 10), 6, 'max_clones: as many clones as there may be, with those in the way given up');
like($admin->told, $too_many, 'max_clones: then there is an error');
is(run($admin, $spares), 0, 'max_clones: there are no spares');
ok(!$admin->do("SELECT testdb_clone('$other')"), 'max_clones: of any template');
like($admin->told, $too_many, 'max_clones: error');
ok(!$user->do("SELECT testdb_clone('$template')"), 'max_clones: for any role');
like($user->told, $too_many, 'max_clones: error');
run($admin, q{SET testdb.method = 'file_copy'});
ok(!$admin->do("SELECT testdb_clone('$template')"), 'max_clones: by any method');
like($admin->told, $too_many, 'max_clones: error');
run($admin, 'RESET testdb.method');
my $name = run($admin, 'SELECT name FROM testdb_clones LIMIT 1');
ok($admin->do("SELECT testdb_reset('$name')"), 'max_clones: a reset needs no room') or diag $admin->told;
is(run($admin, "SELECT testdb_drop('$name')"), 't', 'max_clones: a drop makes room');
ok($admin->do("SELECT testdb_clone('$template')"), 'max_clones: for another') or diag $admin->told;
is(run($admin, 'SELECT testdb_drop_all()'), 6, 'max_clones: all are dropped');
$node->adds_up($admin, 'max_clones');

# What was dropped are spares by now, of another owner: the same.
poll(sub { is_idle($admin) && run($admin, $spares) > 0 }) or die 'nothing is recycled';
is(fill($user, 10), 6, 'max_clones: spares of another owner are given up');
like($user->told, $too_many, 'max_clones: then there is an error');
is(run($user, 'SELECT testdb_drop_all()'), 6, 'max_clones: all are dropped again');
works($node, $admin, 'max_clones');
$node->adds_up($admin, 'max_clones, another owner');

# More spares than there is room for.
$admin->do("SELECT testdb_prewarm('$template', 6)");
ok($admin->sqlstate eq '00000' || $admin->sqlstate eq '53400', 'max_clones: as many spares as clones');
works($node, $admin, 'max_clones, all of them spares');
works($node, $user, 'max_clones, all of them spares, another owner');
run($admin, 'SELECT testdb_drop_all()');

# Many sessions at the limit at once: never more than that, and each gets a clone or the error, also where spares of another
# template have to be given up, so that one worker may take the room that another has made.
{
	my @clients = map { $node->connect_to('postgres') } 1 .. 10;
	for my $round (1 .. 4)
	{
		if ($round > 2)
		{
			poll(sub { is_idle($admin) });
			$admin->do("SELECT testdb_prewarm('$other', 5)");
			ok(poll(sub { run($admin, $spares) >= 4 }), "max_clones, ten at once, $round: there are spares");
		}
		$_->send("SELECT testdb_clone('$template')") for @clients;
		my @results = map { $_->result } @clients;
		is(scalar(grep { !$_->{error} } @results), 6, "max_clones, ten at once, $round: six get one");
		is(join(' ', grep { $_ ne '53400' } map { $_->{error} ? $_->{error}{C} : () } @results),
			'', "max_clones, ten at once, $round: others an error");
		is(run($admin, 'SELECT testdb_drop_all()'), 6, "max_clones, ten at once, $round: all are dropped");
	}
}
$node->adds_up($admin, 'max_clones, ten at once');

# Templates: those without clones make way, whether or not spares were left; those with clones don't.
run($admin, "CREATE DATABASE regression_$_") for 'a' .. 'd';
ok(poll(sub { is_idle($admin) && run($admin, $spares) > 0 }), 'max_templates: one has no clones, but spares');
for my $name ('a' .. 'c')
{
	ok($admin->do("SELECT testdb_clone('regression_$name', 'regression_of_$name')"),
		"max_templates: regression_$name can be cloned")
	  or diag $admin->told;
}
ok(!$admin->do(q{SELECT testdb_clone('regression_d')}), 'max_templates: one too many');
like(
	$admin->told,
	qr/^53400: too many templates have clones\nAll 3 are in use\.\nDrop all clones of a template, or increase "testdb.max_templates"\./,
	'max_templates: error');
ok( !$admin->do(q{SELECT testdb_prewarm('regression_d', 1)})
	  || run($admin, q{SELECT count(*) FROM testdb_templates WHERE name = 'regression_d'}) == 0,
	'max_templates: no spares for it');
ok($admin->do(q{SELECT testdb_clone('regression_b', 'regression_b2')}), 'max_templates: the others can be cloned')
  or diag $admin->told;
is($admin->query(q{SELECT testdb_drop('regression_of_a')}), 't', 'max_templates: clones of one are dropped');
ok($admin->do(q{SELECT testdb_clone('regression_d', 'regression_of_d')}), 'max_templates: it makes way')
  or diag $admin->told;
is( run($admin, 'SELECT string_agg(name, \' \' ORDER BY name) FROM testdb_templates WHERE clones > 0'),
	'regression_b regression_c regression_d',
	'max_templates: the view has those with clones');
is(run($admin, 'SELECT testdb_drop_all()'), 4, 'max_templates: all are dropped');
works($node, $admin, 'max_templates');
$node->adds_up($admin, 'max_templates');
is(trouble($node), '', 'no crash');
$node->stop;
done_testing();
