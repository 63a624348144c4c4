
# A clone holds what is committed in its template when it is asked for, however that came to be there, and whether it is
# made anew, restored, or was ready before.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;
use Time::HiRes qw(time usleep);

my $template = 'regression_template';
my $node = TestdbCluster->new_server(
	'main', q{
wal_level = minimal
max_wal_senders = 0
max_prepared_transactions = 4
testdb.template_timeout = 300ms
});
my $admin = $node->connect_to('postgres');

# Runs statements in the template, in a session of its own, and waits until that has gone.
sub in_template
{
	my $client = $node->session($template);
	run($client, $_) for @_;
	$client->close;
	poll(sub { !$admin->query("SELECT count(*) FROM pg_stat_activity WHERE datname = '$template'") });
	return;
}

# Makes sure that there are spares, so that what is handed out next could be one of them.
sub make_spares
{
	my ($n) = @_;
	my @names = map { $admin->query("SELECT testdb_clone('$template')") } 1 .. $n;
	run($admin, "SELECT testdb_drop('$_')") for @names;
	ok( poll(
			sub {
				$admin->query("SELECT spares FROM testdb_templates WHERE name = '$template' AND recycling = 0") >= $n;
			}),
		"$n spares are ready");
	return;
}

# What a query says in a new clone, which is dropped again; the name's error, if there is one.
sub in_clone
{
	my ($sql) = @_;
	my $name = $admin->query("SELECT testdb_clone('$template')");
	return 'error ' . $admin->sqlstate unless defined $name;
	my $client = $node->session($name);
	my $answer = $client->query($sql) // 'error ' . $client->sqlstate;
	$client->close;
	run($admin, "SELECT testdb_drop('$name')");
	return $answer;
}

# What the shared catalogs say of a new clone.
sub of_clone
{
	my ($sql) = @_;
	my $name = $admin->query("SELECT testdb_clone('$template')");
	return 'error ' . $admin->sqlstate unless defined $name;
	my $answer = $admin->query($sql =~ s/%s/$name/r) // 'error ' . $admin->sqlstate;
	run($admin, "SELECT testdb_drop('$name')");
	return $answer;
}

run($admin, $_) for "CREATE DATABASE $template", 'CREATE ROLE regress_other', 'CREATE ROLE regress_grantee';
in_template(
	'CREATE TABLE t (i int)',
	'INSERT INTO t VALUES (1)',
	'CREATE SEQUENCE s',
	'CREATE TABLE big AS SELECT i, repeat(\'x\', 100) AS x FROM generate_series(1, 2000) i');
is(in_clone('SELECT sum(i) FROM t'), 1, 'the first clone');

# Somebody sits in the template.
{
	my $idle = $node->session($template);
	is($idle->query('SELECT sum(i) FROM t'), 1, 'a session looks at the template and stays');
	make_spares(2);
	is(in_clone('SELECT sum(i) FROM t'), 1, 'it is in the way of no spare');
	my @names = map { $admin->query("SELECT testdb_clone('$template')") } 1 .. 4;
	is(scalar(grep { defined && $node->session($_)->query('SELECT sum(i) FROM t') == 1 } @names),
		4, 'nor of new clones');
	is($admin->query("SELECT testdb_clone('$template', 'regression_named')"),
		'regression_named', 'nor of one with a name');
	run($admin, "SELECT testdb_drop('$_')") for @names, 'regression_named';

	run($idle, 'BEGIN');
	run($idle, 'SELECT count(*) FROM t');
	is(in_clone('SELECT sum(i) FROM t'), 1, 'nor if it is in a transaction that reads');
	run($idle, 'COMMIT');

	# It holds the last committed state for good: what is committed by the one who stays can't be had, and no old state is
	# given out instead.
	run($idle, 'INSERT INTO t VALUES (10)');
	is(in_clone('SELECT sum(i) FROM t'), 'error 55006', 'after a commit of one who stays, nothing older is handed out');
	like($admin->message, qr/regression_template/, 'the error names the template');
	$node->leave($idle, $admin);
	is(in_clone('SELECT sum(i) FROM t'), 11, 'when it has left, clones have what it committed');
}

# Every way to change a template.
for my $case (
	[ 'INSERT', 'INSERT INTO t VALUES (100)', 'SELECT sum(i) FROM t', 111 ],
	[ 'UPDATE', 'UPDATE t SET i = 5 WHERE i = 1', 'SELECT sum(i) FROM t', 115 ],
	[ 'DELETE', 'DELETE FROM t WHERE i = 10', 'SELECT sum(i) FROM t', 105 ],
	[ 'CREATE TABLE', 'CREATE TABLE made AS SELECT 7 AS i', 'SELECT i FROM made', 7 ],
	[ 'ALTER TABLE', 'ALTER TABLE made ADD c int DEFAULT 9', 'SELECT c FROM made', 9 ],
	[ 'TRUNCATE', 'TRUNCATE made', 'SELECT count(*) FROM made', 0 ],
	[ 'DROP TABLE', 'DROP TABLE made', "SELECT to_regclass('made') IS NULL", 't' ],
	[ 'nextval', "SELECT nextval('s')", "SELECT nextval('s')", 2 ],
	# The second one is within what the first has logged ahead: no transaction ID, no commit.
	[ 'nextval without a transaction ID', "SELECT nextval('s')", "SELECT nextval('s')", 3 ],
	[ 'setval', "SELECT setval('s', 500)", "SELECT last_value FROM s", 500 ],
	[ 'VACUUM FULL', 'VACUUM FULL', 'SELECT sum(i) FROM t', 105 ],
	[ 'VACUUM FULL of a mapped catalog', 'VACUUM FULL pg_class', 'SELECT sum(i) FROM t', 105 ],
	[ 'COPY', "COPY t FROM PROGRAM 'echo 1000'", 'SELECT sum(i) FROM t', 1105 ],
	[ 'large object', "SELECT lo_from_bytea(4711, 'abc')", "SELECT convert_from(lo_get(4711), 'UTF8')", 'abc' ],
	[ 'comment', "COMMENT ON TABLE t IS 'remark'", "SELECT obj_description('t'::regclass)", 'remark' ],
	[
		'GRANT on a table',
		'GRANT SELECT ON t TO regress_grantee',
		"SELECT has_table_privilege('regress_grantee', 't', 'SELECT')", 't'
	],
	[
		'a function that swallows an error', q{DO $$ BEGIN INSERT INTO t VALUES (10000);
		BEGIN INSERT INTO t VALUES (77); PERFORM 1/0; EXCEPTION WHEN OTHERS THEN NULL; END; END $$},
		'SELECT sum(i) FROM t', 11105
	],
	[
		'COMMIT inside DO',
		'DO $$ BEGIN DELETE FROM t WHERE i = 10000; COMMIT; INSERT INTO t VALUES (20000); ROLLBACK; END $$',
		'SELECT sum(i) FROM t', 1105
	],
	[
		'synchronous_commit = off',
		'SET synchronous_commit = off; INSERT INTO t VALUES (1)',
		'SELECT sum(i) FROM t', 1106
	],
	[ 'unlogged table', 'CREATE UNLOGGED TABLE u AS SELECT 3 AS i', 'SELECT i FROM u', 3 ],
	[ 'ALTER SYSTEM-like no change', 'SELECT 1', 'SELECT sum(i) FROM t', 1106 ])
{
	my ($title, $change, $look, $wanted) = @$case;
	make_spares(2);
	in_template($change);
	is(in_clone($look), $wanted, "$title in the template is in the next clone");
	is(in_clone($look), $wanted, "$title: and in the one after it");
}

# Changes by more than one session, in the same instant as others leave.
make_spares(3);
{
	my @writers = map { $node->session($template) } 1 .. 4;
	$_->send('INSERT INTO t VALUES (1)') for @writers;
	$_->result                           for @writers;
	$_->close                            for @writers;
	run($admin, q{SET testdb.template_timeout = '20s'});
	is(in_clone('SELECT sum(i) FROM t'), 1110, 'four writers that have just left');
	run($admin, 'RESET testdb.template_timeout');
}

# Two-phase commit: it is committed by a session that itself writes nothing.
make_spares(1);
{
	my $client = $node->session($template);
	run($client, $_) for 'BEGIN', 'INSERT INTO t VALUES (100000)', "PREPARE TRANSACTION 'tp'";
	$client->close;
	is(in_clone('SELECT sum(i) FROM t'), 'error 55006', 'a prepared transaction is in the way');
	like($admin->error->{D}, qr/prepared transaction/, 'and the error says so');
	in_template("COMMIT PREPARED 'tp'");
	is(in_clone('SELECT sum(i) FROM t'), 101110, 'COMMIT PREPARED');

	$client = $node->session($template);
	run($client, $_) for 'BEGIN', 'INSERT INTO t VALUES (5)', "PREPARE TRANSACTION 'tp'";
	$client->close;
	in_template("ROLLBACK PREPARED 'tp'");
	is(in_clone('SELECT sum(i) FROM t'), 101110, 'ROLLBACK PREPARED');
	in_template('DELETE FROM t WHERE i = 100000');
}

# A writer that has not committed, or never does.
{
	is(in_clone('SELECT sum(i) FROM t'), 1110, 'before');
	my $client = $node->session($template);
	run($client, $_) for 'BEGIN', 'INSERT INTO t VALUES (3)';
	is(in_clone('SELECT sum(i) FROM t'), 1110, 'what is not committed is not there, and not waited for');
	run($client, 'ROLLBACK');
	is(in_clone('SELECT sum(i) FROM t'), 1110, 'what was rolled back is not there');
	run($client, $_) for 'BEGIN', 'INSERT INTO t VALUES (3)', 'COMMIT';

	my $start = time;
	is(in_clone('SELECT sum(i) FROM t'), 'error 55006', 'a writer that has committed and stays is waited for');
	cmp_ok(time - $start, '>=', 0.29, 'as long as testdb.template_timeout');
	cmp_ok(time - $start, '<', 5, 'and not much longer');

	# It leaves while somebody waits.
	my $caller = $node->session('postgres');
	run($caller, "SET testdb.template_timeout = '20s'");
	$caller->send("SELECT testdb_clone('$template')");
	ok( poll(
			sub {
				$admin->query("SELECT count(*) FROM pg_stat_activity WHERE pid = "
					  . $caller->pid
					  . " AND wait_event_type = 'Extension'");
			}),
		'a caller waits');
	$client->close;
	my $name = $caller->result->{rows}[0][0];
	is($node->session($name)->query('SELECT sum(i) FROM t'), 1113, 'and gets what was committed');
	run($admin, "SELECT testdb_drop('$name')");

	# So is one that is killed in the middle of its work, which leaves a transaction that is neither.
	$client = $node->session($template);
	run($client, $_) for 'BEGIN', 'INSERT INTO t SELECT 1 FROM generate_series(1, 5000)', 'DROP TABLE big';
	run($admin, 'CHECKPOINT');
	run($admin, 'SELECT pg_terminate_backend(' . $client->pid . ', 5000)');
	is(in_clone('SELECT sum(i), (SELECT count(*) FROM big) FROM t'), '1113|2000', 'a writer that was terminated');
}

# The very first snapshot can't be taken while somebody is there.
{
	run($admin, 'CREATE DATABASE regression_second');
	my $client = $node->session('regression_second');
	ok(!$admin->do("SELECT testdb_clone('regression_second')"), 'a template in use whose clone was never asked for');
	is($admin->sqlstate, '55006', 'is in use');
	# It came before testdb knew the template: what it commits must be noticed all the same.
	run($client, 'CREATE TABLE t AS SELECT 42 AS i');
	$node->leave($client, $admin);
	my $name = $admin->query("SELECT testdb_clone('regression_second')");
	is($node->session($name)->query('SELECT i FROM t'), 42, 'and cloned when it has been left');
	run($admin, "SELECT testdb_drop('$name')");
	run($admin, 'DROP DATABASE regression_second');
}

# What is said of the template in shared catalogs.
for my $case (
	[
		'ALTER DATABASE SET',
		"ALTER DATABASE $template SET work_mem = '11MB'",
		"SELECT setconfig FROM pg_db_role_setting WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = '%s')",
		'{work_mem=11MB}'
	],
	[
		'ALTER ROLE IN DATABASE SET',
		"ALTER ROLE regress_grantee IN DATABASE $template SET work_mem = '12MB'",
		"SELECT setrole::regrole, setconfig FROM pg_db_role_setting WHERE setrole <> 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = '%s')",
		'regress_grantee|{work_mem=12MB}'
	],
	[
		'ALTER DATABASE RESET',
		"ALTER DATABASE $template RESET ALL",
		"SELECT count(*) FROM pg_db_role_setting WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = '%s')",
		0
	],
	[
		'GRANT',
		"GRANT CREATE ON DATABASE $template TO regress_grantee",
		"SELECT has_database_privilege('regress_grantee', '%s', 'CREATE')", 't'
	],
	[
		'REVOKE',
		"REVOKE CREATE ON DATABASE $template FROM regress_grantee",
		"SELECT has_database_privilege('regress_grantee', '%s', 'CREATE')", 'f'
	],
	[
		'CONNECTION LIMIT',
		"ALTER DATABASE $template CONNECTION LIMIT 7",
		"SELECT datconnlimit FROM pg_database WHERE datname = '%s'", 7
	],
	[
		'REFRESH COLLATION VERSION',
		"ALTER DATABASE $template REFRESH COLLATION VERSION",
		"SELECT datcollversion IS NOT DISTINCT FROM (SELECT datcollversion FROM pg_database WHERE datname = '$template') FROM pg_database WHERE datname = '%s'",
		't'
	],
	[
		'OWNER',
		"ALTER DATABASE $template OWNER TO regress_other",
		"SELECT datdba::regrole FROM pg_database WHERE datname = '%s'",
		scalar getpwuid $<
	],
	[
		'ALLOW_CONNECTIONS',
		"ALTER DATABASE $template ALLOW_CONNECTIONS false",
		"SELECT datallowconn FROM pg_database WHERE datname = '%s'", 't'
	],
	[
		'IS_TEMPLATE',
		"ALTER DATABASE $template IS_TEMPLATE true",
		"SELECT datistemplate FROM pg_database WHERE datname = '%s'", 'f'
	])
{
	my ($title, $change, $look, $wanted) = @$case;
	make_spares(2);
	run($admin, $change);
	is(of_clone($look), $wanted, "$title: seen in the next clone");
	is(of_clone($look), $wanted, "$title: and in the one after it");
}
# A change that is rolled back is none.
make_spares(1);
run($admin, $_)
  for 'BEGIN', "ALTER DATABASE $template CONNECTION LIMIT 3", "ALTER DATABASE $template SET work_mem = '99MB'",
  'ROLLBACK';
is(of_clone("SELECT datconnlimit FROM pg_database WHERE datname = '%s'"), 7,
	'a change of the row that was rolled back');
run($admin, "ALTER DATABASE $template ALLOW_CONNECTIONS true");

# Another name.
make_spares(2);
run($admin, "ALTER DATABASE $template RENAME TO regression_moved");
ok(!$admin->do("SELECT testdb_clone('$template')"), 'the old name of a renamed template');
is($admin->sqlstate, '3D000', 'is unknown');
my $moved = $admin->query("SELECT testdb_clone('regression_moved')");
is($node->session($moved)->query('SELECT sum(i) FROM t'), 1113, 'by its new name it is cloned');
is($admin->query("SELECT template FROM testdb_clones WHERE name = '$moved'"),
	'regression_moved', 'the view has the new name');
run($admin, "SELECT testdb_drop('$moved')");
run($admin, "ALTER DATABASE regression_moved RENAME TO $template");

# Dropped, and made again under the same name.
{
	make_spares(2);
	my $name = $admin->query("SELECT testdb_clone('$template')");
	my $oid = $admin->query("SELECT oid FROM pg_database WHERE datname = '$template'");
	ok(-e $node->data_dir . "/pg_testdb/snapshots/$oid", 'there is a snapshot');
	run($admin, $_) for "ALTER DATABASE $template IS_TEMPLATE false", "DROP DATABASE $template";
	is($node->session($name)->query('SELECT sum(i) FROM t'), 1113, 'a clone outlives its template');
	ok(!$admin->do("SELECT testdb_clone('$template')"), 'the template has gone');
	is($admin->sqlstate, '3D000', 'and is unknown');
	ok( poll(
			sub {
				!-e $node->data_dir . "/pg_testdb/snapshots/$oid"
				  && !-e $node->data_dir . "/pg_testdb/snapshots/$oid.manifest";
			}),
		'its snapshot goes');
	ok( poll(
			sub {
				!$admin->query(
					qq{SELECT count(*) FROM pg_database
					WHERE datname ~ '^regression_(template|moved)' AND datname <> '$name'});
			}),
		'its spares go')
	  or diag $admin->query(
		qq{
		SELECT d.oid, d.datname, d.datconnlimit, c.oid IS NOT NULL AS handed_out
		FROM pg_database d LEFT JOIN testdb_clones() c USING (oid) WHERE d.oid >= 16384}),
	  ' leases: ', join ' ', map { s{.*/}{}r } glob $node->data_dir . '/pg_testdb/clones/*';
	is($admin->query('SELECT name, template FROM testdb_clones'), "$name|$template", 'the clone is still known');

	run($admin, "CREATE DATABASE $template");
	in_template('CREATE TABLE t AS SELECT 8 AS i');
	is(in_clone('SELECT sum(i) FROM t'), 8, 'a new template of the same name has its own content');
	is($admin->query("SELECT testdb_drop('$name')"), 't', 'the old one\'s clone can be dropped');
	ok(poll(sub { !$admin->query("SELECT count(*) FROM pg_database WHERE datname = '$name'") }), 'for good');
	is(in_clone('SELECT sum(i) FROM t'), 8, 'and does not come back');
}

my (undef, @complaints) = $node->log_lines(0, qr/PANIC|could not|TRAP|WARNING/, qr/could not (send|receive) data/);
is(join("\n", @complaints), '', 'the server log has no complaint');
$node->stop;
done_testing();
