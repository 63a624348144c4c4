
# What CREATE DATABASE and DROP DATABASE leave to others, where testdb serves them: nothing of a dropped template stays, and
# databases that were created never use up places that testdb's own callers need.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $node =
  TestdbCluster->new_server('shared', "testdb.serve_create_database = on\ntestdb.spares = 3\ntestdb.workers = 3");
my $admin = $node->session('postgres');
my $snapshots = $node->data_dir . '/pg_testdb/snapshots';

# A template with a table, by CREATE DATABASE; its OID.
sub make_template
{
	my ($name, $options) = @_;
	run($admin, "CREATE DATABASE $name " . ($options // ''));
	my $inside = $node->session($name);
	run($inside, 'CREATE TABLE t AS SELECT generate_series(1, 100) AS i');
	$inside->close;
	return oid_of($admin, $name);
}

# Makes clones of a template until there are so many spares of it.
sub make_spares
{
	my ($name, $count) = @_;
	my @clones;
	push @clones, run($admin, "SELECT testdb_clone('$name')") for 1 .. 4;
	run($admin, "SELECT testdb_drop('$_')") for @clones;
	poll(
		sub {
			run($admin, "SELECT count(*) FROM testdb_clones() WHERE template_name = '$name' AND state = 'spare'") >=
			  $count;
		}) or die "no spares of $name";
	return;
}

# All databases whose names begin so.
sub named
{
	return run($admin,
		"SELECT coalesce(string_agg(datname, ' ' ORDER BY datname), '') FROM pg_database WHERE datname LIKE '$_[0]%'");
}

# A template is dropped: what has been made ahead of it is gone when DROP DATABASE returns, and so is its snapshot.
for my $case (
	[ 'made by core', 'STRATEGY wal_log', 'off', '' ],
	[ 'made by testdb', '', 'on', '' ],
	[ 'not served', '', 'off', '' ],
	[ 'with force', '', 'on', ' WITH (FORCE)' ])
{
	my ($title, $options, $mode, $how) = @$case;
	my $oid = do
	{
		run($admin, "SET testdb.serve_create_database = " . ($title eq 'made by core' ? 'off' : 'on'));
		make_template('regression_gone', $options);
	};
	run($admin, "SET testdb.serve_create_database = $mode");
	make_spares('regression_gone', 3);
	my $kept = run($admin, q{SELECT testdb_clone('regression_gone')});
	ok(-d "$snapshots/$oid", "$title: there is a snapshot");
	ok($admin->do("DROP DATABASE regression_gone$how"), "$title: dropped") or diag $admin->told;
	is(named('regression_gone'), $kept, "$title: only the clone that somebody has is left");
	is(run($admin, q{SELECT string_agg(state, ' ') FROM testdb_clones() WHERE template_name = 'regression_gone'}),
		'leased', "$title: that is what testdb knows");
	ok(!-e "$snapshots/$oid", "$title: no snapshot");
	is($node->session($kept)->query('SELECT count(*) FROM t'), 100, "$title: the clone is whole");
	run($admin, "SELECT testdb_drop('$kept')");
	is(named('regression_gone'), '', "$title: its clones go for good");
}
run($admin, 'SET testdb.serve_create_database = on');

# One that can't go in time does not keep the command for ever: a cancel ends the wait, and nothing else.
{
	make_template('regression_gone');
	make_spares('regression_gone', 3);
	my $holder = $node->session('postgres');
	my $spare = run(
		$admin, q{
		SELECT d.datname FROM testdb_clones() c JOIN pg_database d USING (oid) WHERE c.state = 'spare' AND c.template_name = 'regression_gone' LIMIT 1}
	);
	run($holder, "BEGIN; ALTER DATABASE $spare SET work_mem = '1MB'");
	my $dropper = $node->session('postgres');
	my $pid = run($dropper, 'SELECT pg_backend_pid()');
	$dropper->send('DROP DATABASE regression_gone');
	poll(sub { run($admin, "SELECT count(*) FROM testdb_clones() WHERE template_name = 'regression_gone'") == 1 })
	  or die 'more than one stays';
	ok(!$dropper->readable(0), 'held: the command waits');
	run($admin, "SELECT pg_cancel_backend($pid)");
	ok(!$dropper->result->{error}, 'held: no error') or diag $dropper->told;
	is(named('regression_gone'), $spare, 'held: all others have gone');
	is(run($dropper, 'SELECT 1'), 1, 'held: the next command is not canceled');
	run($holder, 'ROLLBACK');
	poll(sub { named('regression_gone') eq '' }) or die 'the spare stays';
}

# Spares are made for those who send CREATE DATABASE, and for named clones; template1 has some, too.
for my $case (
	[ 'template1', 'CREATE DATABASE regression_new_%d' ],
	[ 'regression_wanted', 'CREATE DATABASE regression_new_%d TEMPLATE regression_wanted' ],
	[ 'regression_named', q{SELECT testdb_clone('regression_named', name => 'regression_new_%d')} ])
{
	my ($name, $statement) = @$case;
	make_template($name) unless $name eq 'template1';
	my $hits = sub { run($admin, "SELECT coalesce(sum(hits), 0) FROM testdb_stats WHERE name = '$name'") };
	my $before = $hits->();
	run($admin, sprintf $statement, 0);
	poll(
		sub {
			run($admin, "SELECT count(*) FROM testdb_clones() WHERE template_name = '$name' AND state = 'spare'") > 0;
		}) or die "no spare of $name is made ahead";
	is($hits->(), $before, "$name: the first one is copied") unless $name eq 'template1';
	$before = $hits->();
	run($admin, sprintf $statement, 1);
	is($hits->(), $before + 1, "$name: the second is a spare");
	run($admin, "DROP DATABASE regression_new_$_") for 0, 1;
}
$admin->close;
$node->stop;

# More templates than testdb.max_templates, each with a database that stays.
$node = TestdbCluster->new_server('places',
	"testdb.serve_create_database = on\ntestdb.spares = 2\ntestdb.max_templates = 3\ntestdb.max_clones = 20");
$admin = $node->session('postgres');
sub served  { return run($admin, 'SELECT coalesce(sum(served), 0) FROM testdb_templates') }
sub sources { return run($admin, q{SELECT count(DISTINCT template_oid) FROM testdb_clones()}) }
for my $i (1 .. 8)
{
	make_template("regression_source_$i", "STRATEGY wal_log TEMPLATE template0 LOCALE 'C'");
	for my $round (1, 2)
	{
		ok($admin->do("CREATE DATABASE regression_made_${i}_$round TEMPLATE regression_source_$i"),
			"template $i, $round: made")
		  or diag $admin->told;
		is(run($admin, "SELECT scope FROM testdb_clones WHERE name = 'regression_made_${i}_$round'"),
			'database', "template $i, $round: by testdb");
	}
	cmp_ok(sources(), '<=', 3, "template $i: no more places than there are");
}
is( run($admin,
		q{SELECT count(*) FROM testdb_clones WHERE name LIKE 'regression_made_8%' OR name LIKE 'regression_made_7%'}),
	4,
	'the last ones are known');
is( run($admin,
		q{SELECT count(*) FROM testdb_clones WHERE name LIKE 'regression_made_1%' OR name LIKE 'regression_made_2%'}),
	0,
	'the first ones are ordinary');
{
	my $client = $node->session('regression_made_1_1');
	is($client->query('SELECT count(*) FROM t'), 100, 'ordinary: with its content');
	$client->close;
	ok(!$admin->do(q{SELECT testdb_drop('regression_made_1_1')}), q{ordinary: none of testdb's});
	is($admin->sqlstate, '42809', 'ordinary: SQLSTATE');
	ok($admin->do('DROP DATABASE regression_made_1_1'), 'ordinary: dropped');
	ok($admin->do(q{SELECT testdb_clone('regression_source_2')}), 'there is a place for a clone') or diag $admin->told;
	ok($admin->do(q{SELECT testdb_drop_all()}), 'which is dropped');
}

# After a crash there are as many as before.
{
	my $before = run($admin, q{SELECT string_agg(name, ' ' ORDER BY name) FROM testdb_clones});
	my $all = named('regression_made');
	$node->stop('immediate');
	$node->start;
	$admin = $node->session('postgres');
	is(run($admin, q{SELECT string_agg(name, ' ' ORDER BY name) FROM testdb_clones}),
		$before, 'crash: the same are known');
	is(named('regression_made'), $all, 'crash: all are there');
}

# More databases than testdb.max_clones. The last eighth is kept free of them.
{
	ok($admin->do("CREATE DATABASE regression_many_$_ TEMPLATE regression_source_3"), "database $_: made")
	  or diag $admin->told
	  for 1 .. 25;
	my @known = split / /, run($admin, q{SELECT string_agg(name, ' ' ORDER BY created_at) FROM testdb_clones});
	cmp_ok(scalar @known, '<=', 18, 'not all are known');
	is($known[-1], 'regression_many_25', 'the last one is');
	ok(!(grep { $_ eq 'regression_many_1' } @known), 'the first one is not');
	is(run($admin, q{SELECT count(*) FROM pg_database WHERE datname LIKE 'regression_many%'}), 25, 'all are there');

	# Clones take the places of all of them, and then CREATE DATABASE is core's.
	my $clones = 0;
	$clones++ while $clones < 21 && $admin->do(q{SELECT testdb_clone('regression_source_3')});
	is($clones, 20, 'clones have all places');
	is($admin->sqlstate, '53400', 'no place for another: SQLSTATE');
	my $before = served();
	ok($admin->do('CREATE DATABASE regression_core TEMPLATE regression_source_3'), 'no place: passed on')
	  or diag $admin->told;
	is(served(), $before, 'no place: not served');
	is( run($admin, q{SELECT passed_on_reason FROM testdb_templates WHERE name = 'regression_source_3'}),
		'too many databases created by testdb',
		'no place: the reason');
	ok($admin->do('DROP DATABASE regression_core'), 'no place: dropped');
	run($admin, 'SELECT testdb_drop_all()');
}

# Neither does room on the disk matter, nor how many clones a role may have.
{
	my $before = served();
	run($admin, q{SET testdb.max_clones_per_role = 1});
	run($admin, "CREATE DATABASE regression_role_$_ TEMPLATE regression_source_3") for 1 .. 3;
	is(served(), $before + 3, 'limit of a role: served');
	ok($admin->do(q{SELECT testdb_clone('regression_source_3')}), 'limit of a role: they do not count')
	  or diag $admin->told;
	run($admin, q{ALTER SYSTEM SET testdb.min_free_space = '1000TB'});
	$node->reload;
	$before = served();
	ok($admin->do('CREATE DATABASE regression_core TEMPLATE regression_source_4'), 'no room: passed on')
	  or diag $admin->told;
	is(served(), $before, 'no room: not served');
}

$node->stop;
done_testing();
