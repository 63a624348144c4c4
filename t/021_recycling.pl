
# A dropped clone has another life under the same OID. Whatever a test did to it, the next one must see what it would see
# in a new copy of the template: in the files, in the shared catalogs, in the statistics.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbTest;

my $template = 'regression_template';

my $node = new_server(
	'native', q{
wal_level = minimal
max_wal_senders = 0
max_prepared_transactions = 4
allow_system_table_mods = on
});
my $admin = connect_to($node, 'postgres');

sub clone
{
	my ($client) = @_;
	my $name = ($client || $admin)->query("SELECT testdb_clone('$template')");
	die(($client || $admin)->message) unless $name;
	return $name;
}

run($admin, $_)
  for "CREATE DATABASE $template IS_TEMPLATE true CONNECTION LIMIT 20",
  'CREATE ROLE regress_grantee', 'CREATE ROLE regress_owner',
  'CREATE ROLE regress_user LOGIN SUPERUSER',
  "ALTER DATABASE $template SET work_mem = '5MB'",
  "ALTER ROLE regress_grantee IN DATABASE $template SET search_path = 'x'",
  "GRANT CREATE ON DATABASE $template TO regress_grantee",
  "REVOKE TEMPORARY ON DATABASE $template FROM PUBLIC";
{
	my $client = session($node, $template);
	run($client, $_) for split /;;/, q{
		CREATE TABLE plain AS SELECT i, repeat('x', i % 300) AS t FROM generate_series(1, 3000) i;;
		CREATE UNIQUE INDEX plain_i ON plain (i);;
		CREATE TABLE toasted (i serial PRIMARY KEY, t text);;
		ALTER TABLE toasted ALTER t SET STORAGE external;;
		INSERT INTO toasted (t) SELECT repeat('y', 9000) FROM generate_series(1, 20);;
		CREATE UNLOGGED TABLE light AS SELECT i FROM generate_series(1, 500) i;;
		CREATE TABLE owned (i int REFERENCES toasted);;
		ALTER TABLE owned OWNER TO regress_owner;;
		GRANT SELECT ON plain TO regress_grantee;;
		CREATE SEQUENCE counter;;
		SELECT nextval('counter');;
		SELECT lo_from_bytea(12345, repeat('z', 5000)::bytea);;
		CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';;
		CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM plain;;
		VACUUM ANALYZE};
	$client->close;
}

# What every new life is compared with. The first clone makes the snapshot and with it the template's
# pg_internal.init; from then on nobody connects to the template, and its files stay as they are.
my $template_dump = dump_of($node, $template);
my $first = clone();
run($admin, "SELECT testdb_drop('$first')");
run($admin, 'CHECKPOINT');
my $template_oid = oid_of($admin, $template);
my $template_files = files_of($node, $template_oid);
ok($template_files->{'pg_internal.init'}, 'the template has a pg_internal.init');
my $template_rows = catalog_rows($admin, $template_oid);
is($admin->query("SELECT method FROM testdb_templates WHERE name = '$template'"),
	'native', 'the native method is used');

# A life and the one after it: clones, has $dirty done to the clone, drops it, and looks at the next clone, which must be
# under the same OID. $dirty is a function, called with a session in the clone and the clone's name and OID, or statements
# for that session. In every other life what was done reaches the files before the drop. Returns the name and OID of the next clone, which is dropped before the next call.
my $previous;
my $nlives = 0;

sub next_life
{
	my ($title, $dirty) = @_;
	run($admin, "SELECT testdb_drop('$previous', true)") if $previous;
	my $name = clone();
	my $oid = oid_of($admin, $name);
	my $client = session($node, $name);

	if (ref $dirty)
	{
		$dirty->($client, $name, $oid);
	}
	else
	{
		run($client, $_) for grep { /\S/ } split /;;/, $dirty;
	}

	run($admin, 'CHECKPOINT') if $nlives++ % 2;
	my $now = $admin->query("SELECT datname FROM pg_database WHERE oid = $oid");
	is($admin->query("SELECT testdb_drop('$now')"), 't', "$title: dropped")
	  or diag $admin->message;
	poll(sub { !$client->do('SELECT 1') });
	like($client->sqlstate, qr/^(57P01|0800[36])$/, "$title: its session was ended");
	my $spare = spare_of($admin, $oid, $now);
	isnt($spare, undef, "$title: recycled");

	for my $old ($name, $now)
	{
		is(connect_to($node, $old)->sqlstate, '3D000', "$title: the old name is unknown");
	}

	$previous = clone();
	my $next = oid_of($admin, $previous);
	is($next, $oid, "$title: the next clone has the same OID");
	isnt($previous, $name, "$title: and another name");
	is(differences($template_files, files_of($node, $next)), '', "$title: files");
	is(differences($template_rows, catalog_rows($admin, $next)), '', "$title: catalogs");
	is( differences(
			described($admin, $next),
			{
				pg_shdescription => '',
				pg_shseclabel => '',
				pg_stat_database => 0,
				pg_locks => 0,
				pg_stat_activity => 0,
				pg_replication_slots => 0,
				pg_subscription => 0
			}),
		'',
		"$title: nothing else is kept under its OID");
	return ($previous, $next);
}

# The comparison itself can fail.
{
	my $name = clone();
	my $oid = oid_of($admin, $name);
	my $client = session($node, $name);
	run($client, $_)
	  for 'UPDATE plain SET t = t WHERE i = 1', 'CHECKPOINT',
	  "ALTER DATABASE $name SET work_mem = '6MB'",
	  "COMMENT ON DATABASE $name IS 'x'";
	isnt(differences($template_files, files_of($node, $oid)), '', 'a change of a file is seen');
	isnt(differences($template_rows, catalog_rows($admin, $oid)), '', 'a change of settings is seen');
	isnt(described($admin, $oid)->{pg_shdescription}, '', 'a comment is seen');
	$client->close;
	run($admin, "SELECT testdb_drop('$name')");
	spare_of($admin, $oid, $name);
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

# The row in pg_database, and what belongs to it.
next_life(
	'settings',
	sub {
		my ($client, $name) = @_;
		run($client, $_)
		  for "ALTER DATABASE $name SET work_mem = '7MB'",
		  "ALTER DATABASE $name SET enable_seqscan = off",
		  "ALTER ROLE regress_owner IN DATABASE $name SET work_mem = '8MB'",
		  "ALTER ROLE regress_grantee IN DATABASE $name RESET ALL";
	});
next_life('settings removed', sub { run($_[0], "ALTER DATABASE $_[1] RESET ALL") });
next_life('comment', sub { run($_[0], "COMMENT ON DATABASE $_[1] IS 'mine'") });
next_life(
	'security label',
	sub {
		# No provider comes with Debian's packages; a row is what one would leave.
		run($_[0], "INSERT INTO pg_shseclabel VALUES ($_[2], 'pg_database'::regclass, 'dummy', 'secret')");
	});
next_life('owner', sub { run($_[0], "ALTER DATABASE $_[1] OWNER TO regress_owner") });
next_life('owner to whom privileges are granted', sub { run($_[0], "ALTER DATABASE $_[1] OWNER TO regress_grantee") });
next_life(
	'connection limit',
	sub {
		run($_[0], "ALTER DATABASE $_[1] CONNECTION LIMIT 3");
		run($admin, "ALTER DATABASE $_[1] ALLOW_CONNECTIONS false");
	});
next_life('renamed', sub { $_[0]->close; run($admin, "ALTER DATABASE $_[1] RENAME TO regression_renamed") });
next_life('collation version', sub { run($_[0], "ALTER DATABASE $_[1] REFRESH COLLATION VERSION") });
{
	run($admin, 'CREATE ROLE regress_passing');
	my ($name) = next_life(
		'grants to a role',
		sub {
			my ($client, $name) = @_;
			run($client, $_)
			  for "GRANT ALL ON DATABASE $name TO regress_passing WITH GRANT OPTION",
			  "REVOKE ALL ON DATABASE $name FROM regress_grantee",
			  "ALTER ROLE regress_passing IN DATABASE $name SET work_mem = '9MB'",
			  'GRANT ALL ON plain, owned TO regress_passing',
			  'ALTER TABLE owned OWNER TO regress_passing',
			  'CREATE SCHEMA passing AUTHORIZATION regress_passing',
			  'ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_passing',
			  'CREATE POLICY p ON plain TO regress_passing',
			  'DROP OWNED BY regress_owner';
		});
	ok($admin->do('DROP ROLE regress_passing'), 'a role that the dropped clone named can be dropped')
	  or diag $admin->message;

	run($admin, 'CREATE ROLE regress_passing');
	next_life(
		'owned by another role',
		sub {
			my ($client, $name) = @_;
			run($client, $_)
			  for "ALTER DATABASE $name OWNER TO regress_passing",
			  "GRANT CREATE ON DATABASE $name TO " . getpwuid($<),
			  'REASSIGN OWNED BY regress_owner TO regress_passing';
		});
	ok($admin->do('DROP ROLE regress_passing'), 'and so can one that owned it')
	  or diag $admin->message;
}

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
	my $client = session($node, $name);
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
	my $client = session($node, $name);
	run($client, 'INSERT INTO plain VALUES (7777)');
	$client->close;
	my $has = "SELECT pg_stat_have_stats('database', $oid, 0)";
	is($admin->query($has), 't', 'a clone in use has statistics');
	run($admin, "SELECT testdb_drop('$name')");
	isnt(spare_of($admin, $oid, $name), undef, 'it is recycled');
	is($admin->query($has), 'f', 'a spare has none');
}

# Notifications of a former life are kept as long as somebody anywhere has not read them.
{
	my $reader = session($node, 'postgres');
	run($reader, $_) for 'LISTEN news', 'BEGIN';
	my ($name) = next_life('notifications', sub { run($_[0], $_) for 'LISTEN news', "NOTIFY news, 'former'" });
	my $client = session($node, $name);
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
	my $old = session($node, 'postgres');
	run($old, $_) for 'BEGIN ISOLATION LEVEL SERIALIZABLE', 'SELECT count(*) FROM pg_authid';

	my $name = clone();
	my $oid = oid_of($admin, $name);
	my $client = session($node, $name);
	run($client, $_)
	  for 'BEGIN ISOLATION LEVEL SERIALIZABLE', 'SELECT count(*) FROM plain',
	  'INSERT INTO owned VALUES (1)', 'COMMIT';
	$client->close;
	my $locks = "SELECT count(*) FROM pg_locks WHERE mode = 'SIReadLock' AND database = $oid";
	cmp_ok($admin->query($locks), '>', 0, 'there are SIREAD locks of a committed transaction');
	run($admin, "SELECT testdb_drop('$name')");
	my $spare = spare_of($admin, $oid, $name);
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

# What recycling can't do goes through core's code, and leaves nothing.
{
	my $folder = PostgreSQL::Test::Utils::tempdir;
	run($admin, "CREATE TABLESPACE regress_space LOCATION '$folder'");
	my ($space) = $admin->query("SELECT oid FROM pg_tablespace WHERE spcname = 'regress_space'");
	for my $how (
		'CREATE TABLE away (i) TABLESPACE regress_space AS SELECT 1',
		'ALTER DATABASE %s SET TABLESPACE regress_space')
	{
		my $name = clone();
		my $oid = oid_of($admin, $name);
		if ($how =~ /%s/)
		{
			run($admin, sprintf $how, $name);
		}
		else
		{
			my $client = session($node, $name);
			run($client, $how);
		}
		is($admin->query("SELECT testdb_drop('$name')"), 't', "dropped after: $how") or diag $admin->message;
		is($admin->query("SELECT count(*) FROM pg_database WHERE oid = $oid"), 0, 'removed for good');
		ok(!-e $node->data_dir . "/base/$oid", 'its directory has gone');
		is(join(' ', glob "$folder/*/$oid"), '', 'so has the one in the tablespace');
		ok(!-e $node->data_dir . "/pg_testdb/clones/$oid", 'and its lease');
	}
	ok($admin->do('DROP TABLESPACE regress_space'), 'the tablespace is empty') or diag $admin->message;

	my $name = clone();
	my $oid = oid_of($admin, $name);
	run($admin, "ALTER DATABASE $name IS_TEMPLATE true");
	is($admin->query("SELECT testdb_drop('$name')"), 't', 'a clone that was made a template is dropped')
	  or diag $admin->message;
	is(run($admin, "SELECT datistemplate FROM pg_database WHERE oid = $oid"), 'f', 'its next life is no template')
	  if defined spare_of($admin, $oid, $name);

	$name = clone();
	my $client = session($node, $name);
	run($client, 'SET log_min_messages = error');
	run($client, q{CREATE SUBSCRIPTION regress_sub CONNECTION 'dbname=none' PUBLICATION p
		WITH (connect = false, slot_name = NONE)});
	is($admin->query("SELECT testdb_drop('$name')"), 't', 'a clone with a subscription is dropped')
	  or diag $admin->message;
	is(run($admin, 'SELECT count(*) FROM pg_subscription'), 0, 'and with it the subscription');
}

# A clone of a clone: nothing of the first one's former life may be found in its next.
{
	run($admin, "SELECT testdb_drop('$previous')");
	undef $previous;
	my $name = clone();
	my $oid = oid_of($admin, $name);
	my $client = session($node, $name);
	run($client, 'CREATE TABLE secret (i int)');
	$client->close;
	my $child = $admin->query("SELECT testdb_clone('$name')") or die $admin->message;
	is(session($node, $child)->query('SELECT count(*) FROM secret'), 0, 'a clone can be cloned');
	my $child_oid = oid_of($admin, $child);
	run($admin, "SELECT testdb_drop('$child')");
	spare_of($admin, $child_oid, $child);
	run($admin, "SELECT testdb_reset('$name')");
	$child = $admin->query("SELECT testdb_clone('$name')") or die $admin->message;
	ok( !session($node, $child)->do('SELECT count(*) FROM secret'),
		'when it was reset, its clones are of the new content');
	run($admin, "SELECT testdb_drop('$child')");
	run($admin, "SELECT testdb_drop('$name')");
	spare_of($admin, $oid, $name);

	my $next = clone();
	my $grandchild = $admin->query("SELECT testdb_clone('$next')") or die $admin->message;
	ok( !session($node, $grandchild)->do('SELECT count(*) FROM secret'),
		'a clone of the next life has nothing of the former');
	is(differences($template_rows, catalog_rows($admin, oid_of($admin, $next))), '', 'the next life: catalogs');
	run($admin, "SELECT testdb_drop('$_')") for $grandchild, $next;
	ok( poll(
			sub {
				!$admin->query(
					qq{SELECT count(*) FROM pg_database
					WHERE datname LIKE '$name%' OR datname LIKE '$next\\_%'});
			}),
		'spares of a clone go when it goes');
}

# Nobody gets into a spare, and who tries leaves nothing there.
{
	my $name = clone();
	my $oid = oid_of($admin, $name);
	run($admin, "SELECT testdb_drop('$name')");
	my $spare = spare_of($admin, $oid, $name);
	is($admin->query("SELECT count(*) FROM testdb_clones WHERE name = '$spare'"),
		0, 'a spare is not shown as handed out');
	ok(!$admin->do("SELECT testdb_drop('$spare')"), 'a spare cannot be dropped');
	is($admin->sqlstate, '55000', 'it is nobody\'s');
	my $client = connect_to($node, $spare);
	is($client->sqlstate, '55000', 'nobody can connect to a spare') or diag $client->message;
	my $next = clone();
	is($next, $spare, 'it is handed out all the same');
	is(session($node, $next)->query('SELECT count(*) FROM plain'), 3000, 'what is handed out can be used');
	run($admin, "SELECT testdb_drop('$next')");
}

# Spares that were changed with plain SQL.
for my $case (
	[ 'dropped', 'DROP DATABASE %s' ],
	[ 'renamed', 'ALTER DATABASE %s RENAME TO regression_stolen' ],
	[ 'given away', 'ALTER DATABASE %s OWNER TO regress_owner' ],
	[ 'closed', 'ALTER DATABASE %s ALLOW_CONNECTIONS false' ],
	[ 'changed', "ALTER DATABASE %s SET work_mem = '17MB'" ])
{
	my ($title, $sql) = @$case;
	my $name = clone();
	my $oid = oid_of($admin, $name);
	run($admin, "SELECT testdb_drop('$name')");
	my $spare = spare_of($admin, $oid, $name);
	# To refuse is as good as to notice.
	my $done = $admin->do(sprintf $sql, $spare);
	my $next = clone();
	my $client = connect_to($node, $next);
	is($client->query('SELECT current_database() FROM plain LIMIT 1'),
		$next, "a spare was $title: the next clone can be used")
	  or diag $client->message;
	my $next_oid = oid_of($admin, $next);
	is(differences($template_rows, catalog_rows($admin, $next_oid)),
		'', "a spare was $title: catalogs of the next clone")
	  if $next_oid;
	$client->close;
	$admin->do("SELECT testdb_drop('$next', true)") or diag $admin->message;
	$admin->do('DROP DATABASE IF EXISTS regression_stolen');
	$admin->do("SELECT testdb_drop('$spare', true)");
}

# A role that used testdb can be dropped when it has dropped its clones.
{
	my $user = connect_to($node, 'postgres', user => 'regress_user');
	my $name = clone($user);
	run($user, "SELECT testdb_drop('$name')");
	$user->close;
	ok(poll(sub { $admin->do('DROP ROLE regress_user') }, 3), 'a role whose clones were all dropped can be dropped')
	  or diag $admin->message;
}

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
		my $wrong = differences($template_files, files_of($node, $oid));
		my $client = session($node, $name);
		my @done = map { $kinds[ rand @kinds ] } 1 .. 4;
		$client->do($_) for @done;
		$client->close if $life % 2;
		run($admin, "SELECT testdb_drop('$name')");
		spare_of($admin, $oid, $name) if $life % 5 == 0;
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
	is(dump_of($node, $name), $template_dump, 'pg_dump says the same of the next life as of the template');
}

my $complaints = join "\n", grep { /PANIC|could not|TRAP|WARNING/ && !/could not send data to client/ } split /\n/,
  slurp_file($node->logfile);
is($complaints, '', 'the server log has no complaint');

# As many are kept as were in use at one time and are to be ready besides. Of fewer, some would be dropped for good each time, and
# others copied.
{
	my ($n, $ready) = (12, 4);
	my $count = sub { $admin->query("SELECT $_[0] FROM $_[1] WHERE name = '$template'") };
	my @copies;
	run($admin, "SELECT testdb_template_set('$template', $ready)");
	for (1 .. 4)
	{
		my @names = map { clone() } 1 .. $n;
		poll(sub { $count->('spares', 'testdb_templates') >= $ready });
		run($admin, "SELECT testdb_drop('$_')") for @names;
		poll(sub { $count->('recycling', 'testdb_templates') == 0 });
		push @copies, $count->('copies', 'testdb_stats');
	}
	is($copies[3], $copies[0], 'once there are enough, none is copied any more') or diag "@copies";
	is($count->('spares', 'testdb_templates'), $n + $ready, 'all of them are kept');
	run($admin, "SELECT testdb_template_set('$template', 0)");
}

# Each drop leaves a dead row in pg_database. Nobody else removes them here, and autovacuum comes once a minute elsewhere.
{
	my $vacuums = q{SELECT vacuum_count FROM pg_stat_sys_tables WHERE relname = 'pg_database'};
	my $before = $admin->query($vacuums);
	my $size;
	for (1 .. 4)
	{
		for (1 .. 10)
		{
			run($admin, "SELECT count(testdb_drop(testdb_clone('$template'))) FROM generate_series(1, 100)");
		}
		poll(sub { $admin->query($vacuums) > $before }) or die 'pg_database is not vacuumed';
		$before = $admin->query($vacuums);
		my $now = $admin->query("SELECT pg_total_relation_size('pg_database')");
		$size //= $now;
		cmp_ok($now, '<=', 2 * $size, 'pg_database is vacuumed, and does not grow');
	}
}

# A process whose client is in the middle of a COPY closes no files. It is waited for only if one of the clone's was made or
# removed.
{
	my $returned = q{SELECT count(*) FROM testdb_clones() WHERE state = 'returned'};
	my ($copying, $position);
	my $begin_copy = sub {
		$copying = session($node, 'postgres');
		$position = -s $node->logfile;
		$copying->send('COPY copied FROM STDIN');
		poll(
			sub {
				$admin->query(
					q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY copied%' AND wait_event = 'ClientRead'}
				);
			}) or die 'no COPY';
	};
	my $says = sub {
		my ($what) = @_;
		return poll(sub { slurp_file($node->logfile, $position) =~ /LOG:  $what/ });
	};
	my $live = sub {
		my ($statement) = @_;
		my $name = clone();
		my $oid = oid_of($admin, $name);
		my $client = session($node, $name);
		run($client, $statement);
		$client->close;
		run($admin, "SELECT testdb_drop('$name')");
		return $oid;
	};
	my $is_recycled = sub {
		my ($title, $oid) = @_;
		ok(poll(sub { $admin->query("SELECT state FROM testdb_clones() WHERE oid = $oid") eq 'spare' }),
			"$title: recycled");
		is(differences($template_files, files_of($node, $oid)), '', "$title: files");
	};

	run($admin, 'CREATE TABLE copied (i int)');
	$is_recycled->('before a COPY', $live->("UPDATE plain SET t = 'a'"));

	$begin_copy->();
	$is_recycled->('during a COPY', $live->('DELETE FROM plain WHERE i > 100')) for 1 .. 3;
	my $put_off = $live->('TRUNCATE plain');
	ok($says->('recycling of databases is delayed'), 'it is waited for where a file was made or removed');
	$is_recycled->('while it is waited for', $live->('DELETE FROM plain WHERE i > 100'));
	my $other = $live->('CREATE TABLE made (i int)');
	ok(poll(sub { $admin->query($returned) eq '2' }), 'dropped ones gather');
	$copying->close;
	ok($says->('recycling of databases is no longer delayed'), 'when the COPY has ended they are recycled');
	$is_recycled->('after a COPY', $_) for $put_off, $other;

	# Nor is anything dropped for good, and nobody tries again and again.
	run($admin, $_)
	  for q{ALTER SYSTEM SET testdb.lock_timeout = '100ms'}, 'SELECT pg_reload_conf()', 'SET testdb.method = file_copy';
	my $name = clone();
	run($admin, 'RESET testdb.method');
	$begin_copy->();
	ok(!$admin->do("SELECT testdb_drop('$name')"), 'during a COPY nothing is dropped for good');
	is($admin->sqlstate, '55006', 'which is told') or diag $admin->message;
	ok($says->('recycling of databases is delayed'), 'and known to all workers');
	$is_recycled->('after such a drop', $live->('DELETE FROM plain WHERE i > 100'));
	$copying->close;
	ok($says->('recycling of databases is no longer delayed'), 'when the COPY has ended that is noticed, too');
	ok(poll(sub { oid_of($admin, $name) eq '' || $admin->do("SELECT testdb_drop('$name', true)") }),
		'and it is dropped');
}

$node->stop;

# With WAL for others a clone can have logical slots; what it can't have then is another life.
my $logical = new_server('logical', '', allows_streaming => 'logical');
$admin = connect_to($logical, 'postgres');
run($admin, "CREATE DATABASE $template");
my $name = clone();
is($admin->query('SELECT method, reason IS NULL FROM testdb_templates'),
	'native|t', 'wal_level = logical: the native method is used');
my $oid = oid_of($admin, $name);
my $client = connect_to($logical, $name);
run($client, 'CREATE PUBLICATION regress_publication FOR ALL TABLES');
run($client, "SELECT pg_create_logical_replication_slot('regress_slot', 'pgoutput')");
run($client, $_) for 'CREATE TABLE made (i int)', 'INSERT INTO made VALUES (1)';
is( $client->query(
		q{SELECT count(*) > 0 FROM pg_logical_slot_get_binary_changes('regress_slot', NULL, NULL,
			'proto_version', '1', 'publication_names', 'regress_publication')}),
	't',
	'a clone can have a logical slot');
is($admin->query("SELECT testdb_drop('$name')"), 't', 'it is dropped') or diag $admin->message;
is($admin->query("SELECT count(*) FROM pg_database WHERE oid = $oid"), 0, 'for good');
is($admin->query('SELECT count(*) FROM pg_replication_slots'), 0, 'with its slot');

# As long as somebody is in the template, what a standby would copy from it could change.
my $sitting = connect_to($logical, $template);
run($admin, 'SET testdb.template_timeout = 100');
my $refused = 0;
for (1 .. 20)
{
	last if $refused;
	$refused = !$admin->do("SELECT testdb_clone('$template')");
}
ok($refused, 'without spares, a session in the template is in the way') or diag 'never refused';
is($admin->sqlstate, '55006', 'and named');
like($admin->message, qr/is being accessed by other users.*Process \d+/s, 'with its process') or diag $admin->message;
$sitting->close;
run($admin, 'RESET testdb.template_timeout');
ok($admin->do("SELECT testdb_clone('$template')"), 'when it has gone there are clones') or diag $admin->message;
$logical->stop;

done_testing();
