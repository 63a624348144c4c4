
# A template in which somebody sits: what maintenance does there is no change, and spares of the state before go on being
# handed out; what users commit is one, whatever it is mixed with.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $template = 'regression_template';
my $node = TestdbCluster->new_server(
	'occupied', q{
wal_level = minimal
max_wal_senders = 0
autovacuum_naptime = 1s
min_parallel_index_scan_size = 0
testdb.spares = 4
testdb.template_timeout = 100ms
});
my $admin = $node->connect_to('postgres');
my $count = 'SELECT count(*) FROM t';

# Runs statements in the template, in a session of its own, and waits until that has gone.
sub in_template
{
	my $client = $node->session($template);
	run($client, $_) for @_;
	$client->close;
	poll(sub { !$admin->query("SELECT count(*) FROM pg_stat_activity WHERE datname = '$template'") });
	return;
}

# The number of rows in a new clone, which is dropped again; or the error's code.
sub in_clone
{
	my $name = $admin->query("SELECT testdb_clone('$template')");
	return 'error ' . $admin->sqlstate unless defined $name;
	my $client = $node->session($name);
	my $answer = $client->query($count);
	$client->close;
	run($admin, "SELECT testdb_drop('$name')");
	return $answer;
}

# Makes sure that spares hold the template's content.
sub make_spares
{
	my @names = map { run($admin, "SELECT testdb_clone('$template')") } 1 .. 3;
	run($admin, "SELECT testdb_drop('$_')") for @names;
	ok( poll(
			sub {
				$admin->query("SELECT spares FROM testdb_templates WHERE name = '$template' AND recycling = 0") >= 3;
			}),
		'spares are ready');
	return;
}

run($admin, "CREATE DATABASE $template");
in_template(
	'CREATE TABLE t (i int)',
	'CREATE TABLE churned (i int PRIMARY KEY, x text)',
	'CREATE INDEX churned_x ON churned (x)',
	'CREATE INDEX churned_xi ON churned (x, i)',
	'CREATE TABLE hostile (i int)',
	'CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM churned',
	q{CREATE FUNCTION inserts(i int) RETURNS int LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO public.t VALUES (i); RETURN i; END $$},
	q{CREATE FUNCTION hides(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN public.inserts(i); END $$},
	'CREATE INDEX ON hostile (hides(i))',
	'INSERT INTO hostile VALUES (1)',
	'TRUNCATE t',
	'INSERT INTO t VALUES (1)');
my $rows = in_clone();
is($rows, 1, 'the first clone');

# What is run in the template by a session that stays there; how many rows it adds to t; a part of the case's own setup.
for my $case (
	[ 'VACUUM', 0, 'VACUUM' ],
	[ 'VACUUM of one table', 0, 'VACUUM churned' ],
	[ 'ANALYZE', 0, 'ANALYZE churned' ],
	[ 'ANALYZE of several tables', 0, 'ANALYZE churned, t' ],
	[ 'VACUUM ANALYZE', 0, 'VACUUM (ANALYZE) churned, t' ],
	[ 'maintenance that fails', 0, 'VACUUM missing' ],
	[ 'ANALYZE in a block with an INSERT', 1, 'BEGIN', 'ANALYZE churned', 'INSERT INTO t VALUES (1)', 'COMMIT' ],
	[ 'an INSERT in a block with ANALYZE', 1, 'BEGIN', 'INSERT INTO t VALUES (1)', 'ANALYZE churned', 'COMMIT' ],
	[ 'ANALYZE and INSERT in one message', 1, 'ANALYZE churned; INSERT INTO t VALUES (1)' ],
	[ 'INSERT and ANALYZE in one message', 1, 'INSERT INTO t VALUES (1); ANALYZE churned' ],
	[ 'an INSERT after VACUUM', 1, 'VACUUM churned', 'INSERT INTO t VALUES (1)' ],
	[ 'an INSERT before VACUUM', 1, 'INSERT INTO t VALUES (1)', 'VACUUM churned' ],
	[ 'an INSERT after a VACUUM that failed', 1, 'VACUUM missing', 'INSERT INTO t VALUES (1)' ],
	[ 'ANALYZE in DO with an INSERT', 1, 'DO $$ BEGIN ANALYZE churned; INSERT INTO t VALUES (1); END $$' ],
	[ 'ANALYZE of a hostile index', 1, 'ANALYZE hostile' ],
	[ 'VACUUM ANALYZE of a hostile index', 1, 'VACUUM (ANALYZE) churned, hostile, t' ])
{
	my ($title, $added, @statements) = @$case;
	my $may_differ = $title =~ /hostile/;

	in_template(
		'TRUNCATE churned',
		q{INSERT INTO churned SELECT i, 'x' FROM generate_series(1, 1000) i},
		'DELETE FROM churned WHERE i > 500');
	make_spares();
	my $sitter = $node->session($template);
	$sitter->query($_) for @statements;
	is(in_clone(), $added ? 'error 55006' : $rows, "$title, while the session stays");
	is(in_clone(), $added ? 'error 55006' : $rows, "$title: and again");
	$node->leave($sitter, $admin);
	my $now = in_clone();
	cmp_ok($now, $may_differ ? '>' : '==', $rows + ($may_differ ? 0 : $added), "$title, when it has left");
	$rows = $now;
}

# What else is run there and adds no row is a change, too: it makes files or catalog entries that a clone must have.
for my $statement (
	'VACUUM (FULL) churned',
	'CLUSTER churned USING churned_pkey',
	'REINDEX TABLE churned',
	'REINDEX TABLE CONCURRENTLY churned',
	'CREATE INDEX churned_i ON churned (i)',
	'CREATE INDEX CONCURRENTLY churned_ic ON churned (i)',
	'DROP INDEX churned_i',
	'TRUNCATE churned',
	q{COMMENT ON TABLE churned IS 'a comment'},
	'ALTER TABLE churned ALTER x SET STATISTICS 10',
	'CREATE STATISTICS churned_statistics ON i, x FROM churned',
	'REFRESH MATERIALIZED VIEW seen',
	'GRANT SELECT ON churned TO PUBLIC')
{
	make_spares();
	my $sitter = $node->session($template);
	run($sitter, $statement);
	is(in_clone(), 'error 55006', "$statement, while the session stays");
	$node->leave($sitter, $admin);
	is(in_clone(), $rows, "$statement, when it has left");
}

# Maintenance with more to it than that it is no change: that it does what the case is about.
in_template(
	'TRUNCATE churned',
	q{INSERT INTO churned SELECT i, 'x' FROM generate_series(1, 1000) i},
	'DELETE FROM churned WHERE i > 500');
make_spares();
{
	my $sitter = $node->session($template);
	$sitter->send('VACUUM (PARALLEL 2, INDEX_CLEANUP on, VERBOSE) churned');
	my $answer = $sitter->result;
	is($sitter->message, '', 'VACUUM with parallel workers');
	like(
		join("\n", map { $_->{M} } @{ $answer->{notices} }),
		qr/launched [12] parallel vacuum worker/,
		'which are started');
	is(in_clone(), $rows, 'and are in the way of no spare');

	my $horizons = "SELECT datfrozenxid, age(datfrozenxid), datminmxid FROM pg_database WHERE datname = '$template'";
	my ($before) = $admin->rows($horizons);
	run($sitter, 'VACUUM (FREEZE)');
	my ($after) = $admin->rows($horizons);
	isnt($after->[0], $before->[0], 'VACUUM FREEZE moves the horizon');
	cmp_ok($after->[1], '<', $before->[1], 'forwards');
	is(in_clone(), $rows, 'and is in the way of no spare');

	# More than there are spares: the rest is copied from the snapshot, whose horizons the server still keeps.
	my @names = map { scalar $admin->query("SELECT testdb_clone('$template')") } 1 .. 8;
	is(scalar(grep { defined $_ } @names), 8, 'nor of clones for which no spare is left');
	my ($old) = $admin->rows(
		"SELECT count(*), count(*) FILTER (WHERE datfrozenxid = '$before->[0]' AND datminmxid = '$before->[2]')
			FROM pg_database WHERE datname IN (" . join(', ', map { "'$_'" } grep { defined $_ } @names) . ')');
	is($old->[1], $old->[0], 'all of them have the horizons of the files that they were copied from');
	run($admin, "SELECT testdb_reset('$names[0]')");
	run($admin, "SELECT testdb_rewind('$names[0]')");
	run($admin, "SELECT testdb_drop('$_')") for @names;

	$node->leave($sitter, $admin);
	is(in_clone(), $rows, 'nor when the session has left');
}

# Autovacuum.
in_template('TRUNCATE churned', q{INSERT INTO churned SELECT i, 'x' FROM generate_series(1, 2000) i});
make_spares();
{
	my $sitter = $node->session($template);
	$sitter->query('SELECT 1');
	run($admin, $_) for 'ALTER SYSTEM SET autovacuum = on', 'SELECT pg_reload_conf()';
	ok( poll(
			sub {
				$sitter->query(
					q{SELECT count(*) FROM pg_stat_all_tables WHERE relname = 'churned' AND autoanalyze_count > 0});
			}),
		'autovacuum has analyzed a table of the template');
	is(in_clone(), $rows, 'which is in the way of no spare');
	run($sitter, 'INSERT INTO t VALUES (1)');
	is(in_clone(), 'error 55006', 'but a commit is');
}

# Autovacuum that runs a user's function, which writes.
run($admin, $_) for 'ALTER SYSTEM SET autovacuum = off', 'SELECT pg_reload_conf()';
ok( poll(
		sub {
			!$admin->query(
				"SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^autovacuum' OR datname = '$template'");
		}),
	'autovacuum is off again');
in_template('INSERT INTO hostile SELECT generate_series(2, 1000)');
make_spares();
{
	my $sitter = $node->session($template);
	my $before = $sitter->query($count);
	is(in_clone(), $before, 'before the function is run');
	run($admin, $_) for 'ALTER SYSTEM SET autovacuum = on', 'SELECT pg_reload_conf()';
	ok(poll(sub { $sitter->query($count) > $before }), 'autovacuum has run a function that writes');
	is(in_clone(), 'error 55006', 'which is a change');
}

$node->stop;

# Where pg_xact is no longer kept for what the snapshot's files name, no clone can be made of these.
$node = TestdbCluster->new_server('horizons', "testdb.spares = 0\ntestdb.template_timeout = 100ms\n");
$admin = $node->connect_to('postgres');
run($admin, "CREATE DATABASE $template");
in_template('CREATE TABLE t (i int)', 'INSERT INTO t VALUES (1)');
is(in_clone(), 1, 'a snapshot is there');
run($admin, "ALTER DATABASE template0 ALLOW_CONNECTIONS true");
my $sitter = $node->session($template);
run($sitter, 'VACUUM (FREEZE)');
is(in_clone(), 1, 'it is used as long as another database needs as old transactions');
my $spares = "SELECT datname FROM pg_database WHERE datname <> '$template' AND datname LIKE '$template%'";
ok( poll(
		sub {
			my $spare = $admin->query("$spares LIMIT 1");
			$admin->query("DROP DATABASE $spare") if $spare;
			return !$spare;
		}),
	'no spare is left that needs them');
for
  my $name ($admin->query("SELECT string_agg(datname, ' ') FROM pg_database WHERE datname <> '$template'") =~ /(\S+)/g)
{
	my $client = $node->session($name);
	run($client, 'SELECT pg_current_xact_id()');
	run($client, 'VACUUM (FREEZE)');
	$client->close;
}
is(in_clone(), 'error 55006', 'it is not when none does');
$node->leave($sitter, $admin);
is(in_clone(), 1, 'and is taken anew when nobody is in the template');
$node->stop;
done_testing();
