
# testdb_rewind gives a clone its template's content again while sessions stay connected to it. Whatever they did before,
# they go on in what looks like a new copy of the template: in the files, in the shared catalogs, and through everything
# that a session remembers of a database.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;
use Time::HiRes qw(time);

my $template = 'regression_template';
my $node = TestdbCluster->new_server(
	'rewind', q{
wal_level = minimal
max_wal_senders = 0
max_prepared_transactions = 4
testdb.rewind_timeout = 20s
});
my $admin = $node->session('postgres');

run($admin, $_)
  for "CREATE DATABASE $template IS_TEMPLATE true",
  'CREATE ROLE regress_grantee', 'CREATE ROLE regress_owner', 'CREATE ROLE regress_user LOGIN',
  "ALTER DATABASE $template SET work_mem = '5MB'",
  'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_rewind(text, boolean), testdb_drop TO regress_user';
{
	my $client = $node->session($template);
	run($client, $_) for split /;;/, q{
		CREATE EXTENSION testdb;;
		CREATE TABLE plain (i int PRIMARY KEY, t text);;
		INSERT INTO plain SELECT i, 'row ' || i FROM generate_series(1, 3000) i;;
		CREATE INDEX plain_t ON plain (t);;
		CREATE TABLE toasted (i serial PRIMARY KEY, t text);;
		ALTER TABLE toasted ALTER t SET STORAGE external;;
		INSERT INTO toasted (t) SELECT repeat('y', 9000) FROM generate_series(1, 20);;
		CREATE UNLOGGED TABLE light AS SELECT i FROM generate_series(1, 500) i;;
		CREATE TABLE owned (i int REFERENCES toasted);;
		ALTER TABLE owned OWNER TO regress_owner;;
		CREATE TABLE parted (i int) PARTITION BY RANGE (i);;
		CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);;
		INSERT INTO parted SELECT generate_series(0, 99);;
		CREATE SEQUENCE counter CACHE 20;;
		CREATE SEQUENCE slow;;
		CREATE TYPE mood AS ENUM ('good', 'bad');;
		CREATE DOMAIN small AS int CHECK (VALUE < 10);;
		CREATE TYPE pair AS (a int, b text);;
		SELECT lo_from_bytea(12345, repeat('z', 5000)::bytea);;
		CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';;
		CREATE FUNCTION answer() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN ''template''; END';;
		CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM plain;;
		VACUUM (FREEZE, ANALYZE)};
	$client->close;
}

my $first = $admin->query("SELECT testdb_clone('$template')");
run($admin, "SELECT testdb_drop('$first')");
run($admin, 'CHECKPOINT');
my $template_oid = oid_of($admin, $template);
my $template_files = $node->files_of($template_oid);
my $template_rows = catalog_rows($admin, $template_oid);

my $clone = $admin->query("SELECT testdb_clone('$template', 'regression_clone')");
my $oid = oid_of($admin, $clone);

# Tests that the clone is what the template is; nobody has touched it since it was rewound.
sub is_like_template
{
	my ($title) = @_;
	is(differences($template_files, $node->files_of($oid)), '', "$title: files");
	is(differences($template_rows, catalog_rows($admin, $oid)), '', "$title: catalogs");
	is($admin->query("SELECT state FROM testdb_clones WHERE name = '$clone'"), 'leased', "$title: leased");
	return;
}

# What a session sees of the template.
my $look = q{
	SELECT format('%s %s %s %s %s %s %s %s %s', (SELECT count(*) FROM plain), (SELECT max(t) FROM plain WHERE t LIKE 'row 29%'),
		(SELECT sum(length(t)) FROM toasted), (SELECT count(*) FROM light), (SELECT count(*) FROM parted),
		nextval('counter'), length(lo_get(12345)), answer(), twice(4))};
my $seen = '3000 row 2999 180000 500 100 1 5000 template 8';

# What the session does, what it sees then, and what it and another one see after the rewind. undef is an error.
my @lives = (
	[ 'nothing', 'SELECT 1', $look, $seen ],
	[ 'rows inserted', q{INSERT INTO plain SELECT i, 'new' FROM generate_series(3001, 9000) i}, $look, $seen ],
	[ 'rows updated', q{UPDATE plain SET t = 'other ' || i}, $look, $seen ],
	[ 'rows deleted', q{DELETE FROM plain}, $look, $seen ],
	[
		'a table filled until its indexes have another root', q{
		INSERT INTO plain SELECT i, repeat('x', 500) || i FROM generate_series(3001, 20000) i;;
		SELECT count(*) FROM plain WHERE i = 15000}, q{SELECT count(*) FROM plain WHERE i = 15000}, '0'
	],
	[ 'a table truncated', 'TRUNCATE plain', $look, $seen ],
	[ 'a table truncated and filled', q{TRUNCATE plain;; INSERT INTO plain VALUES (1, 'one')}, $look, $seen ],
	[ 'a table dropped', 'DROP TABLE plain CASCADE', $look, $seen ],
	[ 'a table made', q{CREATE TABLE more AS SELECT 1 AS i}, q{SELECT to_regclass('more')}, '' ],
	[
		'a table with the name of a dropped one',
		q{DROP TABLE plain CASCADE;; CREATE TABLE plain (x text)},
		$look, $seen
	],
	[
		'a column added',
		q{ALTER TABLE plain ADD x int DEFAULT 7;; SELECT x FROM plain LIMIT 1},
		q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'plain'::regclass AND attname = 'x'}, '0'
	],
	[ 'a column dropped', 'ALTER TABLE plain DROP t', $look, $seen ],
	[ 'a column of another type', 'ALTER TABLE plain ALTER i TYPE bigint', $look, $seen ],
	[
		'sequence values cached',
		q{SELECT nextval('counter');; SELECT nextval('counter')},
		q{SELECT nextval('counter')}, '1'
	],
	[ 'a sequence advanced', q{SELECT nextval('slow') FROM generate_series(1, 100)}, q{SELECT nextval('slow')}, '1' ],
	[
		'a serial column used',
		q{INSERT INTO toasted (t) SELECT 'x' FROM generate_series(1, 50)},
		q{INSERT INTO toasted (t) VALUES ('x') RETURNING i}, '21'
	],
	[
		'an enum value added',
		q{ALTER TYPE mood ADD VALUE 'ugly';; SELECT 'ugly'::mood},
		q{SELECT enum_range(NULL::mood)}, '{good,bad}'
	],
	[
		'a domain altered',
		q{ALTER DOMAIN small DROP CONSTRAINT small_check;; SELECT 11::small},
		q{SELECT 11::small}, undef
	],
	[
		'a composite type altered',
		q{ALTER TYPE pair ADD ATTRIBUTE c int;; SELECT (1, 'x', 2)::pair},
		q{SELECT (1, 'x')::pair}, '(1,x)'
	],
	[
		'functions replaced', q{
		CREATE OR REPLACE FUNCTION answer() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN ''clone''; END';;
		CREATE OR REPLACE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT 0';;
		SELECT answer(), twice(4)}, $look, $seen
	],
	[ 'a partition detached', 'ALTER TABLE parted DETACH PARTITION parted_1', $look, $seen ],
	[
		'a partition added',
		q{CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (100) TO (200);; INSERT INTO parted VALUES (150)},
		$look, $seen
	],
	[ 'an index dropped and made', q{DROP INDEX plain_t;; CREATE INDEX other ON plain (t, i)}, $look, $seen ],
	[ 'a table rewritten', 'VACUUM FULL plain', $look, $seen ],
	[ 'catalogs rewritten', 'VACUUM FULL pg_class;; VACUUM FULL pg_attribute;; VACUUM FULL pg_proc', $look, $seen ],
	[ 'indexes rewritten', 'REINDEX TABLE plain;; REINDEX TABLE pg_class', $look, $seen ],
	[
		'large objects',
		q{SELECT lo_unlink(12345);; SELECT lo_from_bytea(54321, 'x')},
		q{SELECT count(*) FROM pg_largeobject_metadata}, '1'
	],
	[
		'a schema and a search_path',
		q{CREATE SCHEMA s;; CREATE TABLE s.plain ();; SET search_path = s, public;; SELECT count(*) FROM plain},
		q{RESET search_path;; } . $look, $seen
	],
	[
		'a prepared statement',
		q{PREPARE p AS SELECT count(*) FROM plain;; EXECUTE p;; DELETE FROM plain;; EXECUTE p},
		'EXECUTE p', '3000', 'own'
	],
	[ 'a cursor with hold', q{BEGIN;; DECLARE c CURSOR WITH HOLD FOR SELECT 42;; COMMIT}, 'FETCH c', '42', 'own' ],
	[ 'an advisory lock', 'SELECT pg_advisory_lock(7)', 'SELECT pg_advisory_unlock(7)', 't', 'own' ],
	[ 'settings of the session', q{SET work_mem = '7MB'}, 'SHOW work_mem', '7MB', 'own' ],
	[ 'statistics', q{INSERT INTO plain SELECT i, 'x' FROM generate_series(3001, 9000) i;; ANALYZE}, $look, $seen ],
	[
		'objects of a role',
		q{CREATE TABLE carls ();; ALTER TABLE carls OWNER TO regress_grantee;; GRANT SELECT ON plain TO regress_owner},
		q{DROP ROLE IF EXISTS regress_nobody;; } . $look,
		$seen
	],
	[
		'settings and rights of the database',
		qq{ALTER DATABASE $clone SET work_mem = '9MB';; GRANT CREATE ON DATABASE $clone TO regress_owner;;
		COMMENT ON DATABASE $clone IS 'mine';; ALTER DATABASE $clone CONNECTION LIMIT 50}, $look, $seen
	],
	[ 'an extension', 'CREATE EXTENSION hstore', q{SELECT count(*) FROM pg_extension WHERE extname = 'hstore'}, '0' ],
	[ 'a rolled back transaction', q{BEGIN;; DROP TABLE plain CASCADE;; ROLLBACK}, $look, $seen ],
	[ 'the content in files', q{UPDATE plain SET t = 'x';; CHECKPOINT}, $look, $seen ]);

# One statement after the other; the last one's answer.
sub run_all
{
	my ($client, $statements) = @_;
	my $result;
	$result = run($client, $_) for grep { /\S/ } split /;;/, $statements;
	return $result;
}

my $session = $node->session($clone);
my $pid = $session->pid;
my $own;
for my $life (@lives)
{
	my ($title, $do, $query, $wanted, $whose) = @$life;
	my ($contrib) = $do =~ /CREATE EXTENSION (\w+)/;
	if ($contrib && !has_contrib($contrib))
	{
	  SKIP: { skip "PostgreSQL has no $contrib", 1 }
		next;
	}
	my $other = $node->session($clone);
	$other->query($look);
	run_all($session, $do);
	is($admin->query("SELECT testdb_rewind('$clone')"), '', "$title: rewound") or diag $admin->message;
	is_like_template($title);
	my @statements = split /;;/, $query;
	my $last = pop @statements;

	for my $client ($session, $whose ? () : $other)
	{
		$client->query($_) for @statements;
		my $answer = $client->query($last);
		is($client->error ? undef : $answer, $wanted, "$title: what a session sees") or diag $client->message;
		run($admin, "SELECT testdb_rewind('$clone')");
	}
	$other->close;
}
is(run($session, 'SELECT pg_backend_pid()'), $pid, 'it is the same session still');

# From inside.
{
	run($session, 'CREATE TABLE inside ()');
	run($session, 'DELETE FROM plain');
	run($session, 'CALL testdb_rewind()');
	is_like_template('from inside');
	is(run($session, $look), $seen, 'from inside: what the session sees');
	$session->query('BEGIN');
	$session->query('CALL testdb_rewind()');
	is($session->sqlstate, '25001', 'not in a transaction block');
	$session->query('ROLLBACK');
	$session->query(q{DO $$ BEGIN CALL testdb_rewind(); END $$});
	is($session->error ? $session->sqlstate : '', '', 'in an outermost DO block') or diag $session->message;
	$session->query("SELECT testdb_rewind('$clone')");
	is($session->sqlstate, '25001', 'the function refuses its own database');
	like($session->error->{H}, qr/CALL testdb_rewind\(\)/, 'and says what to do');
	is(run($session, $look), $seen, 'nothing of that did any harm');
	run($admin, "SELECT testdb_rewind('$clone')");
}

# Who is in the way.
{
	my $busy = $node->session($clone, name => 'the busy one');
	run($busy, 'BEGIN');
	run($busy, q{INSERT INTO plain VALUES (5000, 'x')});
	run($admin, q{SET testdb.rewind_timeout = '300ms'});
	$admin->query("SELECT testdb_rewind('$clone')");
	is($admin->sqlstate, '55006', 'a session in a transaction is an error in the end');
	like(
		$admin->error->{D},
		qr/^Process @{[$busy->pid]} of user ".*" \(application "the busy one"\) has been idle in a transaction since /,
		'which names it');
	like($admin->error->{H}, qr/waited 300 ms; see "testdb\.rewind_timeout"/, 'and the setting');
	run($admin, 'RESET testdb.rewind_timeout');
	is(run($busy, 'SELECT count(*) FROM plain'), '3001', 'it goes on');
	is(run($session, 'SELECT count(*) FROM plain'), '3000', 'and so do others');

	# It is waited for.
	my $waiting = $node->session('postgres');
	run($waiting, q{SET testdb.rewind_timeout = '60s'});
	$waiting->send("SELECT testdb_rewind('$clone')");
	ok( poll(
			sub {
				$admin->query(
					q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'testdb: rewinding%' AND state = 'active'}
				);
			}),
		'pg_stat_activity shows what the worker does');
	my $parked = $node->session($clone);
	$session->send('SELECT count(*) FROM plain');
	ok(!$session->readable(0.2), 'others wait at the gate meanwhile');
	run($busy, 'COMMIT');
	my $answer = $waiting->result;
	is($answer->{error}, undef, 'until it commits');
	is($session->result->{rows}[0][0], '3000', 'then the others go on, in the new content');
	is(run($busy, 'SELECT count(*) FROM plain'), '3000', 'and so does it');
	is(run($parked, 'SELECT count(*) FROM plain'), '3000', 'and who had just come');

	# Cancelled while it waits.
	run($busy, 'BEGIN; DELETE FROM plain');
	$waiting->send("SELECT testdb_rewind('$clone')");
	ok( poll(
			sub {
				$admin->query(
					q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'testdb: rewinding%' AND state = 'active'}
				);
			}),
		'another one waits');
	$session->send('SELECT 1');
	ok(poll(sub { $admin->query("SELECT pg_cancel_backend(@{[$waiting->pid]})") eq 't' }),
		'a rewind that waits is cancelled');
	my $canceled = $waiting->result->{error};
	is($canceled->{C}, '57014', 'which is an error') or diag $canceled->{M};
	is($session->result->{rows}[0][0], '1', 'and lets the others go on');
	run($busy, 'ROLLBACK');

	# By force.
	run($busy, 'BEGIN; DELETE FROM plain');
	is($admin->query("SELECT testdb_rewind('$clone', true)"), '', 'force') or diag $admin->message;
	is_like_template('force');
	poll(sub { !$busy->do('SELECT 1') });
	ok(!$busy->is_open, 'has terminated it');
	is(run($session, $look), $seen, 'and nobody else');
	run($admin, "SELECT testdb_rewind('$clone')");

	# An aborted transaction holds nothing.
	run($session, 'BEGIN');
	$session->query('SELECT 1/0');
	is($admin->query("SELECT testdb_rewind('$clone')"), '', 'a session in a failed transaction is in nobody\'s way')
	  or diag $admin->message;
	run($session, 'ROLLBACK');
	is(run($session, 'SELECT count(*) FROM plain'), '3000', 'and goes on');
}

# Prepared transactions.
{
	run($session, $_) for 'BEGIN', 'DELETE FROM plain', q{PREPARE TRANSACTION 'regress'};
	run($admin, q{SET testdb.rewind_timeout = '300ms'});
	$admin->query("SELECT testdb_rewind('$clone')");
	is($admin->sqlstate, '55006', 'a prepared transaction is in the way');
	like($admin->error->{D}, qr/1 prepared transaction/, 'which the error says');
	run($admin, 'RESET testdb.rewind_timeout');
	is($admin->query("SELECT testdb_rewind('$clone', true)"), '', 'force rolls it back') or diag $admin->message;
	is_like_template('a prepared transaction');
	is($admin->query('SELECT count(*) FROM pg_prepared_xacts'), '0', 'it is gone');
}

# Temporary tables.
{
	my $temporary = $node->session($clone);
	run($temporary, 'CREATE TEMPORARY TABLE t (i int)');
	is($admin->query("SELECT testdb_rewind('$clone')"), '', 'with a session that has temporary tables')
	  or diag $admin->message;
	is_like_template('temporary tables');
	my $error = $temporary->do('SELECT 1') ? undef : $temporary->error;
	is($error->{C}, '57P01', 'it is terminated');
	like($error->{M}, qr/is being rewound/, 'and told why');
	is(run($session, $look), $seen, 'others are not');
	run($session, 'CREATE TEMPORARY TABLE t (i int)');
	$session->query('CALL testdb_rewind()');
	is($session->sqlstate, '55000', 'its own rewind is refused');
	$session->close;
	$session = $node->session($clone);
}

# Where it can't be done.
{
	$admin->query(q{SELECT testdb_rewind('regression_nowhere')});
	is($admin->sqlstate, '3D000', 'no such database');
	$admin->query(q{SELECT testdb_rewind('postgres')});
	is($admin->sqlstate, '42809', 'not one of testdb\'s');
	$admin->query(q{SELECT testdb_rewind(NULL)});
	is($admin->sqlstate, '22004', 'null');
	my $user = $node->session('postgres', user => 'regress_user');
	$user->query("SELECT testdb_rewind('$clone')");
	is($user->sqlstate, '42501', 'somebody else\'s');
	my $theirs = run($user, "SELECT testdb_clone('$template')");
	is($user->query("SELECT testdb_rewind('$theirs')"), '', 'one\'s own') or diag $user->message;
	run($admin, "ALTER DATABASE $template IS_TEMPLATE false");
	$user->query("SELECT testdb_rewind('$theirs')");
	is($user->sqlstate, '42501', 'the template is one that the caller may not clone');
	run($admin, "ALTER DATABASE $template IS_TEMPLATE true");
	run($user, "SELECT testdb_drop('$theirs')");

	my $reader = $node->session($clone);
	run($reader, 'BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM plain');
	my $writer = $node->session($clone);
	run($writer, q{BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM plain; INSERT INTO plain VALUES (0, '')});
	run($writer, 'COMMIT');
	run($admin, q{SET testdb.rewind_timeout = '300ms'});
	$admin->query("SELECT testdb_rewind('$clone')");
	like($admin->sqlstate, qr/^550/, 'a serializable transaction of interest');
	run($admin, 'RESET testdb.rewind_timeout');
	run($reader, 'ROLLBACK');
	is($admin->query("SELECT testdb_rewind('$clone')"), '', 'not after its end') or diag $admin->message;
}

# The template changes.
{
	my $builder = $node->session($template);
	run($builder, q{INSERT INTO plain VALUES (4000, 'added')});
	$builder->close;
	run($session, 'SELECT count(*) FROM plain');
	is($admin->query("SELECT testdb_rewind('$clone')"), '', 'after a change of the template') or diag $admin->message;
	is(run($session, 'SELECT count(*) FROM plain'), '3001', 'the newest content is there');
}

# What is dropped while somebody waits for its rewind.
{
	my $busy = $node->session($clone);
	run($busy, 'BEGIN; DELETE FROM plain');
	my $waiting = $node->session('postgres');
	run($waiting, q{SET testdb.rewind_timeout = '60s'});
	$waiting->send("SELECT testdb_rewind('$clone')");
	ok( poll(
			sub {
				$admin->query(
					q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'testdb: rewinding%' AND state = 'active'}
				);
			}),
		'a rewind waits');
	is($admin->query("SELECT testdb_drop('$clone')"), 't', 'and the clone is dropped') or diag $admin->message;
	is($waiting->result->{error}{C}, '3D000', 'which ends the wait');
}

my $log = slurp_file($node->logfile);
is(join("\n", grep { /PANIC|could not|unexpected|invalid page|TRAP/ } split /\n/, $log), '', 'the log is clean');
done_testing();
