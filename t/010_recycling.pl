
# A dropped clone has another life under the same OID. Whatever a test did in it, the next one must see what it would see in a new
# copy of the template: in the files, in the shared catalogs, in the statistics.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Test::More;
use TestdbRecycling;
use TestdbTest;

set_up();

# The comparison itself can fail.
{
	my $name = clone();
	my $oid = oid_of($admin, $name);
	my $client = $node->session($name);
	run($client, $_)
	  for 'UPDATE plain SET t = t WHERE i = 1', 'CHECKPOINT',
	  "ALTER DATABASE $name SET work_mem = '6MB'",
	  "COMMENT ON DATABASE $name IS 'x'";
	isnt(differences($template_files, $node->files_of($oid)), '', 'a change of a file is seen');
	isnt(differences($template_rows, catalog_rows($admin, $oid)), '', 'a change of settings is seen');
	isnt(described($admin, $oid)->{pg_shdescription}, '', 'a comment is seen');
	$client->close;
	run($admin, "SELECT testdb_drop('$name')");
	$node->spare_of($oid, $name);
}

next_life('nothing', '');
next_life('reading', 'SELECT count(*) FROM plain;;SELECT count(*) FROM toasted');
next_life(
	'DML', q{
	INSERT INTO plain SELECT i FROM generate_series(3001, 9000) i;;
	UPDATE plain SET t = 'new';;
	DELETE FROM toasted WHERE i > 3;;
	VACUUM plain});
next_life(
	'DDL', q{
	CREATE TABLE made AS SELECT i FROM generate_series(1, 1000) i;;
	CREATE INDEX ON made (i);;
	DROP TABLE owned;;
	ALTER TABLE plain ADD COLUMN c int DEFAULT 3;;
	ALTER TABLE plain ALTER i TYPE bigint;;
	DROP MATERIALIZED VIEW seen;;
	DROP FUNCTION twice(int)});
next_life('TRUNCATE', 'TRUNCATE toasted, owned, light;;INSERT INTO light VALUES (1)');
next_life('VACUUM FULL', 'VACUUM FULL');
next_life(
	'mapped catalogs', q{
	VACUUM FULL pg_class;;VACUUM FULL pg_attribute;;VACUUM FULL pg_proc;;VACUUM FULL pg_type;;
	CREATE TABLE made (i int);;VACUUM FULL pg_class});
next_life(
	'REINDEX SYSTEM',
	sub {
		my ($client, $name) = @_;
		run($client, "REINDEX SYSTEM $name");
		run($client, 'REINDEX TABLE plain');
		run($client, 'CLUSTER plain USING plain_i');
	});
next_life('VACUUM FREEZE', 'VACUUM (FREEZE);;SELECT txid_current()');

SKIP:
{
	skip 'PostgreSQL has no hstore', 1 unless has_contrib('hstore');
	next_life('CREATE EXTENSION', 'CREATE EXTENSION hstore;;DROP EXTENSION plpgsql');
}
next_life(
	'temporary tables', q{
	CREATE TEMPORARY TABLE scratch (i int PRIMARY KEY, t text);;
	INSERT INTO scratch SELECT i, 'x' FROM generate_series(1, 2000) i;;
	CREATE TEMPORARY SEQUENCE scratch_seq});
next_life(
	'unlogged tables', q{
	UPDATE light SET i = i + 1;;
	CREATE UNLOGGED TABLE light2 (i int PRIMARY KEY);;
	INSERT INTO light2 SELECT generate_series(1, 2000);;
	ALTER TABLE light SET LOGGED;;
	ALTER TABLE plain SET UNLOGGED});
next_life(
	'large objects', q{
	SELECT lo_unlink(12345);;
	SELECT lo_from_bytea(777, repeat('n', 100000)::bytea);;
	GRANT SELECT ON LARGE OBJECT 777 TO regress_grantee});
next_life('sequences', q{SELECT nextval('counter'), setval('toasted_i_seq', 900);;ALTER SEQUENCE counter RESTART 50});
next_life(
	'everything dropped', q{
	SELECT lo_unlink(oid) FROM pg_largeobject_metadata;;
	DROP SCHEMA public CASCADE;;
	CREATE SCHEMA public;;
	DROP EXTENSION plpgsql});
# Which warns, in words that depend on the major.
next_life('publication', 'SET log_min_messages = error;;CREATE PUBLICATION everything FOR ALL TABLES');
next_life('statistics', 'SELECT pg_stat_force_next_flush();;ANALYZE;;SELECT count(*) FROM plain');

# A session in the middle of something.
next_life(
	'open transaction',
	sub {
		my ($client) = @_;
		run($client, $_)
		  for 'BEGIN', 'TRUNCATE plain', 'CREATE TABLE made (i int)',
		  'INSERT INTO made SELECT generate_series(1, 5000)', 'LOCK TABLE pg_class';
	});
next_life(
	'running query',
	sub {
		my ($client, undef, $oid) = @_;
		$client->send('SELECT count(*) FROM generate_series(1, 1000000000)');
		poll(sub { $admin->query("SELECT state FROM pg_stat_activity WHERE datid = $oid") eq 'active' });
	});
next_life('advisory locks', 'SELECT pg_advisory_lock(1), pg_advisory_lock_shared(2)');

# A new life counts from zero.
{
	my ($name, $oid) = next_life(
		'counters', q{
		SELECT pg_stat_reset();;
		INSERT INTO plain SELECT generate_series(5000, 6000);;
		SELECT count(*) FROM plain;;
		CREATE TABLE counted (i int);;
		SELECT pg_stat_force_next_flush();;
		SELECT twice(2)});
	my $client = $node->session($name);
	is( $client->query(
			q{
			SELECT sum(n_tup_ins + n_tup_upd + n_tup_del + n_live_tup + seq_scan + vacuum_count)
			FROM pg_stat_user_tables}),
		0,
		'the counters of tables start from zero');
	is($client->query('SELECT sum(idx_scan) FROM pg_stat_user_indexes'), 0, 'so do those of indexes');
	is( $client->query(
			q{
			SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_sys_tables
			WHERE relname IN ('pg_class', 'pg_attribute', 'pg_type')}),
		0,
		'and of catalogs');
	is( $client->query(
			'SELECT tup_inserted + tup_updated, stats_reset IS NULL FROM pg_stat_database WHERE datname = current_database()'
		),
		'0|t',
		'and of the database');
}

# Autovacuum looks after every database that has statistics: it must not try to connect to a spare.
{
	my $name = clone();
	my $oid = oid_of($admin, $name);
	my $client = $node->session($name);
	run($client, 'INSERT INTO plain VALUES (7777)');
	$client->close;
	my $has = "SELECT pg_stat_have_stats('database', $oid, 0)";
	is($admin->query($has), 't', 'a clone in use has statistics');
	run($admin, "SELECT testdb_drop('$name')");
	isnt($node->spare_of($oid, $name), undef, 'it is recycled');
	is($admin->query($has), 'f', 'a spare has none');
}

# Notifications of a former life are kept as long as somebody anywhere has not read them.
{
	my $reader = $node->session('postgres');
	run($reader, $_) for 'LISTEN news', 'BEGIN';
	my ($name) = next_life('notifications', sub { run($_[0], $_) for 'LISTEN news', "NOTIFY news, 'former'" });
	my $client = $node->session($name);
	run($client, $_) for 'LISTEN news', "NOTIFY news, 'new'", 'SELECT 1';
	is_deeply([ map { (split /\0/, substr $_, 4)[1] } $client->notifications ],
		['new'], 'no notification of a former life arrives');
	run($reader, 'COMMIT');
}

# A prepared transaction is rolled back with the clone that it was left in.
next_life(
	'prepared transaction',
	sub {
		my ($client) = @_;
		run($client, $_) for 'BEGIN', 'INSERT INTO plain VALUES (99999)', "PREPARE TRANSACTION 'tp'";
	});
is($admin->query('SELECT count(*) FROM pg_prepared_xacts'), 0, 'no prepared transaction is left');

# SIREAD locks are kept by OID, even after commit, as long as an older serializable transaction runs anywhere.
{
	run($admin, "SELECT testdb_drop('$previous')");
	undef $previous;
	my $old = $node->session('postgres');
	run($old, $_) for 'BEGIN ISOLATION LEVEL SERIALIZABLE', 'SELECT count(*) FROM pg_authid';

	my $name = clone();
	my $oid = oid_of($admin, $name);
	my $client = $node->session($name);
	run($client, $_)
	  for 'BEGIN ISOLATION LEVEL SERIALIZABLE', 'SELECT count(*) FROM plain',
	  'INSERT INTO owned VALUES (1)', 'COMMIT';
	$client->close;
	my $locks = "SELECT count(*) FROM pg_locks WHERE mode = 'SIReadLock' AND database = $oid";
	cmp_ok($admin->query($locks), '>', 0, 'there are SIREAD locks of a committed transaction');
	run($admin, "SELECT testdb_drop('$name')");
	my $spare = $node->spare_of($oid, $name);
	my $next = clone();
	ok( $admin->query(
			"SELECT count(*) FROM pg_locks WHERE mode = 'SIReadLock' AND database = " . oid_of($admin, $next)) == 0,
		'no SIREAD lock leaks into another life');
	is($spare, undef, 'a clone with SIREAD locks has no other life');
	run($old, 'COMMIT');
	$previous = $next;
}
next_life('serializable',
	'BEGIN ISOLATION LEVEL SERIALIZABLE;;SELECT count(*) FROM plain;;INSERT INTO owned VALUES (1);;COMMIT');

# Many lives in a row, each with a few things of all kinds, so that what one leaves behind meets the next.
{
	my @kinds = (
		'INSERT INTO plain SELECT i FROM generate_series(10000, 12000) i',
		"UPDATE plain SET t = 'u' WHERE i % 7 = 0",
		'DELETE FROM plain WHERE i % 3 = 0',
		'TRUNCATE owned',
		'CREATE TABLE made (i int PRIMARY KEY, t text)',
		'DROP TABLE IF EXISTS owned',
		'VACUUM FULL plain',
		'VACUUM FULL pg_class',
		'REINDEX TABLE pg_attribute',
		'CHECKPOINT',
		'SELECT nextval(\'counter\')',
		'ALTER TABLE plain ADD COLUMN IF NOT EXISTS n int DEFAULT 5',
		'CREATE INDEX ON plain (t)',
		'DROP INDEX IF EXISTS plain_i',
		'SELECT lo_from_bytea(0, repeat(\'l\', 50000)::bytea)',
		'UPDATE light SET i = -i',
		'ANALYZE',
		'CREATE TEMPORARY TABLE IF NOT EXISTS scratch AS SELECT 1');
	my $seed = $ENV{TESTDB_SEED} || time;
	note "seed: $seed (set TESTDB_SEED to repeat)";
	srand $seed;
	my $bad = 0;
	for my $life (1 .. 40)
	{
		my $name = clone();
		my $oid = oid_of($admin, $name);
		my $wrong = differences($template_files, $node->files_of($oid));
		my $client = $node->session($name);
		my @done = map { $kinds[ rand @kinds ] } 1 .. 4;
		$client->do($_) for @done;
		$client->close if $life % 2;
		run($admin, "SELECT testdb_drop('$name')");
		$node->spare_of($oid, $name) if $life % 5 == 0;
		next if $wrong eq '';
		$bad++;
		diag "life $life: $wrong";
	}
	is($bad, 0, '40 lives in a row had the files of the template');
}

# All of it in one life, seen by pg_dump.
{
	my ($name, $oid) = next_life(
		'all at once', q{
		INSERT INTO plain SELECT generate_series(3001, 9000);;TRUNCATE toasted CASCADE;;
		CREATE TABLE made AS SELECT * FROM plain;;VACUUM FULL;;DROP TABLE owned;;
		SELECT lo_unlink(12345);;SELECT nextval('counter');;DROP FUNCTION twice(int);;CREATE TEMPORARY TABLE s (i int)});
	is($node->dump_of($name), $template_dump, 'pg_dump says the same of the next life as of the template');
}

log_is_clean();
$node->stop;
done_testing();
