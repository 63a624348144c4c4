
# CREATE DATABASE and DROP DATABASE, served by testdb.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $node = TestdbCluster->new_server('serve',
	"testdb.serve_create_database = on\ntestdb.spares = 4\nmax_prepared_transactions = 2");
my $admin = $node->session('postgres');
run($admin, $_)
  for 'CREATE ROLE regress_creator LOGIN CREATEDB', 'CREATE ROLE regress_owner LOGIN',
  'CREATE ROLE regress_plain LOGIN',
  'CREATE DATABASE regression_template IS_TEMPLATE true';
run($admin, $_)
  for q{ALTER DATABASE regression_template SET work_mem = '1MB'},
  'REVOKE CONNECT ON DATABASE regression_template FROM PUBLIC',
  'ALTER DATABASE regression_template CONNECTION LIMIT 3';
my $inside = $node->session('regression_template');
run($inside, 'CREATE TABLE t AS SELECT generate_series(1, 100) AS i');
$inside->close;

# How many statements on that template were served.
sub served
{
	return run($admin, q{SELECT coalesce(sum(served), 0) FROM testdb_templates WHERE name = 'regression_template'});
}

my $row = q{SELECT datdba::regrole, datistemplate, datallowconn, datconnlimit, datacl,
	(SELECT count(*) FROM pg_db_role_setting WHERE setdatabase = d.oid) FROM pg_database d WHERE datname = '%s'};

# It is served, and the row is what CREATE DATABASE says.
my @made = (
	[ '', 'postgres|f|t|-1||0' ],
	[ 'OWNER regress_owner', 'regress_owner|f|t|-1||0' ],
	[ 'IS_TEMPLATE true CONNECTION LIMIT 7', 'postgres|t|t|7||0' ],
	[ 'ALLOW_CONNECTIONS false', 'postgres|f|f|-1||0' ],
	[ q{ENCODING 'utf8' LC_COLLATE 'C.UTF-8' LC_CTYPE = 'C.UTF-8' STRATEGY file_copy}, 'postgres|f|t|-1||0' ],
	[ 'ENCODING "UTF8" TABLESPACE pg_default', 'postgres|f|t|-1||0' ],
	[ q{LOCALE 'C.UTF-8' LOCALE_PROVIDER libc}, 'postgres|f|t|-1||0' ]);
for my $case (@made)
{
	my ($options, $expected) = @$case;
	for my $round ('copied', 'recycled')
	{
		my $before = served();
		ok($admin->do("CREATE DATABASE regression_made TEMPLATE regression_template $options"),
			"$options, $round: made")
		  or diag $admin->told;
		is(served(), $before + 1, "$options, $round: served");
		(my $found = run($admin, sprintf $row, 'regression_made')) =~ s/\bpostgres\b/postgres/;
		is($found, $expected, "$options, $round: its row");
		is(run($admin, q{SELECT scope, expires_at IS NULL FROM testdb_clones WHERE name = 'regression_made'}),
			'database|t', "$options, $round: in the view");
		run($admin, 'ALTER DATABASE regression_made IS_TEMPLATE false ALLOW_CONNECTIONS true');
		my $in = $node->session('regression_made');
		is($in->query('SELECT count(*) FROM t'), 100, "$options, $round: its content");
		$in->close;
		ok($admin->do('DROP DATABASE regression_made'), "$options, $round: dropped") or diag $admin->told;
		is(run($admin, q{SELECT count(*) FROM pg_database WHERE datname = 'regression_made'}),
			0, "$options, $round: the name is free");
	}
}

# A template made so is no clone that a test may drop or change, as with DROP DATABASE; marked so by CREATE or by ALTER.
for my $made ('CREATE DATABASE regression_made TEMPLATE regression_template IS_TEMPLATE true',
	'ALTER DATABASE regression_made IS_TEMPLATE true')
{
	run($admin, $made);
	my $in = $node->session('regression_made');
	run($in, 'INSERT INTO t VALUES (0)');
	for my $call (qw(testdb_drop testdb_reset testdb_rewind testdb_keep))
	{
		ok(!$admin->do("SELECT $call('regression_made')"), "a template, $call: refused");
		is( $admin->told,
			qq{42809: database "regression_made" is a template\nIt was created by CREATE DATABASE, and is marked IS_TEMPLATE.}
			  . "\nUse ALTER DATABASE ... IS_TEMPLATE false first.",
			"a template, $call: error");
	}
	is($in->query('SELECT count(*) FROM t WHERE i = 0'), 1, 'a template: its content and its session are still there');
	run($in, 'DELETE FROM t WHERE i = 0');
	$in->close;
	run($admin, 'ALTER DATABASE regression_made IS_TEMPLATE false');
	for my $call (qw(testdb_reset testdb_rewind testdb_keep))
	{
		ok($admin->do("SELECT $call('regression_made')"), "a template no longer, $call") or diag $admin->told;
	}
}
is(run($admin, q{SELECT testdb_drop('regression_made')}), 't', 'a template no longer: dropped');

# Passed on.
for my $options (
	'OID = 99999',
	q{TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'},
	'TEMPLATE regression_template OWNER regress_missing',
	'TEMPLATE regression_template TEMPLATE regression_template',
	'TEMPLATE regression_template ENCODING wrong')
{
	my $before = served();
	$admin->do("CREATE DATABASE regression_core $options");
	is(served(), $before, "$options: passed on");
	is(run($admin, q{SELECT count(*) FROM testdb_clones WHERE name = 'regression_core'}), 0, "$options: not testdb's");
	$admin->do('DROP DATABASE IF EXISTS regression_core');
}
{
	run($admin, 'SET testdb.serve_create_database = off');
	my $before = served();
	run($admin, 'CREATE DATABASE regression_core TEMPLATE regression_template');
	is(served(), $before, 'off: passed on');
	run($admin, 'DROP DATABASE regression_core');
	run($admin, 'RESET testdb.serve_create_database');
	my $creator = $node->session('postgres', user => 'regress_creator');
	ok(!$creator->do('SET testdb.serve_create_database = off'), 'only for superusers');
}
is( run($admin, q{SELECT passed_on_reason FROM testdb_templates WHERE name = 'regression_template'}),
	'an option with a value that is not served',
	'the view says why');

# Sessions in it: DROP fails as core's does, FORCE ends them, and prepared transactions stop both.
{
	run($admin, 'CREATE DATABASE regression_made TEMPLATE regression_template');
	my $in = $node->session('regression_made');
	run($in, 'SELECT 1');
	ok(!$admin->do('DROP DATABASE regression_made'), 'in use: not dropped');
	is( $admin->told,
		qq{55006: database "regression_made" is being accessed by other users\nThere is 1 other session using the database.},
		'in use: error');
	is($in->query('SELECT count(*) FROM t'), 100, 'in use: the session goes on');
	run($in, q{BEGIN; INSERT INTO t VALUES (0); PREPARE TRANSACTION 'regress p'});
	$in->close;
	ok(!$admin->do('DROP DATABASE regression_made WITH (FORCE)'), 'prepared: not dropped');
	is($admin->sqlstate, '55006', 'prepared: SQLSTATE');
	$in = $node->session('regression_made');
	run($in, q{ROLLBACK PREPARED 'regress p'});
	ok($admin->do('DROP DATABASE regression_made WITH (FORCE)'), 'forced: dropped') or diag $admin->told;
	ok(!$in->do('SELECT 1'), 'forced: the session has ended');

	# One that leaves in time is waited for.
	run($admin, 'CREATE DATABASE regression_made TEMPLATE regression_template');
	$in = $node->session('regression_made');
	run($in, 'SELECT 1');
	$admin->send('DROP DATABASE regression_made');
	ok(!$admin->readable(0.2), 'leaving: waited for');
	$in->close;
	ok(!$admin->result->{error}, 'leaving: dropped');
}

# What testdb's functions do to one.
{
	run($admin, 'CREATE DATABASE regression_made TEMPLATE regression_template OWNER regress_owner CONNECTION LIMIT 5');
	my $in = $node->session('regression_made');
	run($in, 'DELETE FROM t');
	ok($admin->do(q{SELECT testdb_rewind('regression_made')}), 'rewound') or diag $admin->told;
	is($in->query('SELECT count(*) FROM t'), 100, 'rewound: its content');
	is(run($admin, sprintf $row, 'regression_made'), 'regress_owner|f|t|5||0', 'rewound: its row');
	run($in, 'DELETE FROM t');
	$in->close;
	run($admin, q{COMMENT ON DATABASE regression_made IS 'mine'});
	ok($admin->do(q{SELECT testdb_reset('regression_made')}), 'reset') or diag $admin->told;
	is($node->session('regression_made')->query('SELECT count(*) FROM t'), 100, 'reset: its content');
	like(run($admin, sprintf $row, 'regression_made'), qr/^regress_owner\|f\|t\|-?\d\|\|0$/, 'reset: its row');
	is( run($admin, q{SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'regression_made'}),
		'',
		'reset: no comment');

	# A crash, and the server is started without testdb.
	run($admin, 'CREATE DATABASE regression_kept TEMPLATE regression_template');
	my $kept = $node->session('regression_kept');
	run($kept, 'INSERT INTO t VALUES (101)');
	$node->stop('immediate');
	$node->start;
	$admin = $node->session('postgres');
	is( run($admin, q{SELECT string_agg(name || ' ' || scope, ', ' ORDER BY name) FROM testdb_clones}),
		'regression_kept database, regression_made database, regression_template database',
		'crash: all are there');
	is($node->session('regression_kept')->query('SELECT count(*) FROM t'), 101, 'crash: with their data');
	ok($admin->do('DROP DATABASE regression_made'), 'crash: one is dropped') or diag $admin->told;
	ok($admin->do(q{SELECT testdb_drop('regression_kept')}), 'crash: the other by testdb_drop') or diag $admin->told;
}
$node->stop;
done_testing();
