-- What testdb_clone and testdb_drop do, wherever a function can be called from.
-- Each file makes the extension and drops it again, so that it can be run alone.
CREATE EXTENSION testdb;
SELECT current_database() AS home \gset

-- Everything that a clone has to bring along: rows, a toasted value, a sequence, an index, a large object, a function.
CREATE DATABASE regression_template;
\c regression_template
CREATE EXTENSION testdb;
CREATE TABLE item (id serial PRIMARY KEY, name text UNIQUE);
INSERT INTO item (name) SELECT 'item ' || n FROM generate_series(1, 1000) n;
CREATE TABLE big AS SELECT string_agg(md5(n::text), '') AS text FROM generate_series(1, 10000) n;
CREATE VIEW item_count AS SELECT count(*) FROM item;
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n';
SELECT lo_from_bytea(4711, 'large object');
\c :"home"

-- What there is now is what must be there in the end.
CREATE TABLE before AS SELECT oid, datname FROM pg_database;

-- Without a name: one is made from the template's name.
SELECT testdb_clone('regression_template') AS clone \gset
SELECT :'clone' ~ '^regression_template_[0-9a-z]+$' AS name_ok, octet_length(:'clone') <= 63 AS length_ok;
SELECT pg_get_userbyid(datdba) = current_user AS owner_ok, datistemplate, datallowconn, datconnlimit
FROM pg_database WHERE datname = :'clone';

-- The clone has what the template has, and is another database.
\c :"clone"
SELECT current_database() = :'clone' AS connected;
SELECT count(*), min(id), max(id) FROM item;
SELECT id FROM item WHERE name = 'item 77';
SELECT length(text), md5(text) FROM big;
SELECT * FROM item_count;
SELECT twice(21);
SELECT convert_from(lo_get(4711), 'UTF8');
INSERT INTO item (name) VALUES ('new') RETURNING id;
CREATE TABLE only_here ();
-- The view, seen from inside of a clone: one session, which is this one.
SELECT name = current_database() AS name_ok, template, owner = current_user AS owner_ok,
	created_at BETWEEN now() - interval '1 minute' AND now() AS created_at_ok, sessions
FROM testdb_clones;
\c regression_template
SELECT count(*) FROM item;
SELECT to_regclass('only_here');
\c :"home"

-- With a name; by position, by argument's name, and NULL for none.
SELECT testdb_clone('regression_template', 'regression_given');
SELECT testdb_clone(name => 'regression_named', template => 'regression_template');
SELECT testdb_clone('regression_template', NULL) AS clone_null \gset
SELECT :'clone_null' ~ '^regression_template_[0-9a-z]+$' AS name_ok, :'clone_null' <> :'clone' AS unique;
SELECT pg_typeof(testdb_drop(:'clone_null')), pg_typeof(testdb_clone('regression_template', 'regression_type'));
SELECT name, template, owner = current_user AS owner_ok, sessions
FROM testdb_clones WHERE name <> :'clone' ORDER BY name;

-- Dropping: true, and pg_database no longer has it. The name is free at once.
SELECT testdb_drop('regression_given');
SELECT count(*) FROM pg_database WHERE datname = 'regression_given';
SELECT testdb_clone('regression_template', 'regression_given');
SELECT testdb_drop(name => 'regression_given', missing_ok => false);
SELECT testdb_drop('regression_given', true);
SELECT testdb_drop(:'clone'), testdb_drop('regression_named'), testdb_drop('regression_type');
SELECT * FROM testdb_clones;

-- In a transaction: seen at once, kept by COMMIT.
BEGIN;
SELECT testdb_clone('regression_template', 'regression_committed');
SELECT count(*) FROM pg_database WHERE datname = 'regression_committed';
COMMIT;
SELECT count(*) FROM pg_database WHERE datname = 'regression_committed';
BEGIN;
SELECT testdb_drop('regression_committed');
SELECT count(*) FROM pg_database WHERE datname = 'regression_committed';
COMMIT;
SELECT count(*) FROM pg_database WHERE datname = 'regression_committed';

-- ROLLBACK undoes neither.
BEGIN;
SELECT testdb_clone('regression_template', 'regression_rolled_back');
ROLLBACK;
SELECT count(*) FROM pg_database WHERE datname = 'regression_rolled_back';
BEGIN;
SELECT testdb_drop('regression_rolled_back');
ROLLBACK;
SELECT count(*) FROM pg_database WHERE datname = 'regression_rolled_back';

-- Nor does ROLLBACK TO SAVEPOINT.
BEGIN;
SAVEPOINT s;
SELECT testdb_clone('regression_template', 'regression_savepoint');
ROLLBACK TO SAVEPOINT s;
SELECT count(*) FROM pg_database WHERE datname = 'regression_savepoint';
SAVEPOINT s;
SELECT testdb_drop('regression_savepoint');
ROLLBACK TO SAVEPOINT s;
COMMIT;
SELECT count(*) FROM pg_database WHERE datname = 'regression_savepoint';

-- What is asked for does not depend on the transaction's snapshot.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM pg_database WHERE datname = 'regression_snapshot';
SELECT testdb_clone('regression_template', 'regression_snapshot');
SELECT testdb_drop('regression_snapshot');
COMMIT;

-- After work of the transaction's own, which has nothing to do with databases.
BEGIN;
CREATE TABLE own_work (n int);
INSERT INTO own_work VALUES (1);
SELECT testdb_clone('regression_template', 'regression_own_work');
SELECT testdb_drop('regression_own_work');
SELECT * FROM own_work;
ROLLBACK;

-- A DO block, also with a subtransaction that fails.
DO $$
DECLARE
	clone name;
BEGIN
	clone := testdb_clone('regression_template');
	RAISE NOTICE 'it is there: %', EXISTS (SELECT FROM pg_database WHERE datname = clone);
	RAISE NOTICE 'dropped: %', testdb_drop(clone);
	BEGIN
		PERFORM testdb_clone('regression_template', 'regression_do');
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		RAISE NOTICE 'still there: %', EXISTS (SELECT FROM pg_database WHERE datname = 'regression_do');
	END;
	PERFORM testdb_drop('regression_do');
END
$$;

-- A function, a procedure that commits in between, a trigger.
CREATE FUNCTION clone_in_function() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	clone name := testdb_clone('regression_template');
BEGIN
	RETURN testdb_drop(clone);
END
$$;
SELECT clone_in_function();
CREATE PROCEDURE clone_in_procedure(INOUT dropped boolean) LANGUAGE plpgsql AS $$
DECLARE
	clone name := testdb_clone('regression_template');
BEGIN
	COMMIT;
	dropped := testdb_drop(clone);
	ROLLBACK;
END
$$;
CALL clone_in_procedure(NULL);
CREATE TABLE run (id int, clone name);
CREATE FUNCTION clone_in_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.clone := testdb_clone('regression_template', 'regression_run_' || NEW.id);
	RETURN NEW;
END
$$;
CREATE TRIGGER clone BEFORE INSERT ON run FOR EACH ROW EXECUTE FUNCTION clone_in_trigger();
INSERT INTO run VALUES (1), (2) RETURNING clone;
SELECT id, testdb_drop(clone) FROM run ORDER BY id;

-- A prepared statement; several rows.
PREPARE clone_it (text) AS SELECT testdb_clone('regression_template', $1);
PREPARE drop_it (text) AS SELECT testdb_drop($1);
EXECUTE clone_it('regression_prepared_1');
EXECUTE clone_it('regression_prepared_2');
EXECUTE drop_it('regression_prepared_1');
EXECUTE drop_it('regression_prepared_2');
CREATE TABLE several AS SELECT testdb_clone('regression_template') AS clone FROM generate_series(1, 3);
SELECT count(DISTINCT clone), count(DISTINCT d.oid) FROM several JOIN pg_database d ON datname = clone;
SELECT testdb_drop(clone) FROM several;

-- Names of every kind, given and made: taken as they are.
CREATE TABLE hostile (n serial, name text);
INSERT INTO hostile (name) VALUES
	('regression with spaces'), ('regression.with.dots'), ('regression "quoted"'), ('regression''apostrophe'),
	('REGRESSION_Upper'), ('regression"; DROP DATABASE regression_template; --'), ('regression\backslash'),
	('regression_%s%n'), (' regression leading blank'), ('regression $1 /* */'), (rpad('regression_', 63, 'x'));
SELECT n, testdb_clone('regression_template', name) = name AS name_ok FROM hostile ORDER BY n;
SELECT count(*) FROM hostile JOIN pg_database ON datname = name;
-- Each of them as a template.
SELECT n, starts_with(clone, left(name, 52) || '_') AS name_ok, octet_length(clone) <= 63 AS length_ok,
	testdb_drop(clone) AND testdb_drop(name) AS dropped
FROM (SELECT n, name, testdb_clone(name)::text AS clone FROM hostile) h ORDER BY n;
SELECT testdb_clone('regression_template', 'regression with "all" of ''it''.') AS clone \gset
\c :"clone"
SELECT count(*) FROM item;
\c :"home"
SELECT testdb_drop(:'clone');

-- The longest names there are. A made name is cut, but never inside of a character.
SELECT rpad('regression_long_', 63, 'x') AS long1,
	'regression_' || repeat(U&'\00E4', 26) AS long2,
	'regression' || repeat(U&'\6F22', 17) || 'xx' AS long3,
	'regression_a' || repeat(U&'\+01F418', 12) || 'xyz' AS long4 \gset
CREATE DATABASE :"long1";
CREATE DATABASE :"long2";
CREATE DATABASE :"long3";
CREATE DATABASE :"long4";
CREATE FUNCTION clone_long(template text) RETURNS TABLE (template_bytes int, clone_bytes int, prefix_ok boolean, unique_ok boolean)
LANGUAGE plpgsql AS $$
DECLARE
	clones name[] := ARRAY[testdb_clone(template), testdb_clone(template)];
	prefix text := regexp_replace(clones[1]::text, '_[0-9a-z]+$', '');
BEGIN
	-- Half a character would be an error here.
	PERFORM convert_from(convert_to(clones[1]::text, 'UTF8'), 'UTF8');
	template_bytes := octet_length(template);
	clone_bytes := octet_length(clones[1]::text);
	prefix_ok := prefix = left(template, char_length(prefix)) AND char_length(prefix) > 20;
	unique_ok := clones[1] <> clones[2];
	RETURN NEXT;
	PERFORM testdb_drop(clones[1]), testdb_drop(clones[2]);
END
$$;
SELECT t.* FROM clone_long(:'long1') t;
SELECT t.* FROM clone_long(:'long2') t;
SELECT t.* FROM clone_long(:'long3') t;
SELECT t.* FROM clone_long(:'long4') t;
DROP DATABASE :"long1";
SELECT testdb_clone('regression_template', :'long1') = :'long1' AS longest_ok;
SELECT testdb_drop(:'long1');
DROP DATABASE :"long2";
DROP DATABASE :"long3";
DROP DATABASE :"long4";

-- A template that nobody can connect to, and a clone as a template.
SELECT testdb_clone('template0', 'regression_of_template0');
SELECT testdb_drop('regression_of_template0');
SELECT testdb_clone('regression_template', 'regression_first');
SELECT testdb_clone('regression_first', 'regression_second');
SELECT testdb_drop('regression_first');
-- The template has gone, but its name is remembered.
SELECT name, template FROM testdb_clones;
\c regression_second
SELECT count(*) FROM item;
\c :"home"
SELECT testdb_drop('regression_second');

-- The other way of copying writes each page to WAL; what is handed out is the same.
CREATE FUNCTION wal_of_clone(OUT much boolean) LANGUAGE plpgsql AS $$
DECLARE
	start pg_lsn := pg_current_wal_insert_lsn();
BEGIN
	PERFORM testdb_clone('regression_template', 'regression_method');
	much := pg_current_wal_insert_lsn() - start > 2000000;
END
$$;
SHOW testdb.method;
SELECT wal_of_clone();
SELECT testdb_drop('regression_method');
SET testdb.method = 'wal_log';
SELECT wal_of_clone();
\c regression_method
SELECT count(*) FROM item;
SELECT md5(text) FROM big;
\c :"home"
SELECT testdb_drop('regression_method');

-- A template that lies in a tablespace of its own, with a table in yet another one.
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE regress_testdb_1 LOCATION '';
CREATE TABLESPACE regress_testdb_2 LOCATION '';
CREATE DATABASE regression_spaces TABLESPACE regress_testdb_1;
\c regression_spaces
CREATE TABLE t TABLESPACE regress_testdb_2 AS SELECT 42 AS n;
\c :"home"
SELECT testdb_clone('regression_spaces', 'regression_spaces_clone');
\c regression_spaces_clone
SELECT * FROM t;
\c :"home"
SELECT spcname FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace WHERE datname = 'regression_spaces_clone';
SELECT testdb_drop('regression_spaces_clone');
-- One directory in each: that of the template.
SELECT spcname, (SELECT count(*) FROM pg_tablespace_databases(oid)) FROM pg_tablespace WHERE spcname ~ 'regress' ORDER BY 1;
DROP DATABASE regression_spaces;
DROP TABLESPACE regress_testdb_1;
DROP TABLESPACE regress_testdb_2;

-- Plain SQL on a clone: the view shows it as it is now.
SELECT testdb_clone('regression_template', 'regression_plain');
ALTER DATABASE regression_plain RENAME TO regression_renamed;
ALTER DATABASE regression_template RENAME TO regression_model;
SELECT name, template FROM testdb_clones;
SELECT testdb_drop('regression_renamed');
ALTER DATABASE regression_model RENAME TO regression_template;
SELECT testdb_clone('regression_template', 'regression_plain');
DROP DATABASE regression_plain;
SELECT name, template FROM testdb_clones;

-- What the extension consists of: each thing with a comment. (From 17 on, the views' row types are listed, too.)
SELECT pg_describe_object(classid, objid, 0) AS object,
	obj_description(objid, classid::regclass::text) IS NOT NULL AS has_comment
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND classid <> 'pg_type'::regclass
	AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'testdb')
ORDER BY pg_describe_object(classid, objid, 0) COLLATE "C";
SELECT attrelid::regclass AS view, attname, format_type(atttypid, atttypmod), col_description(attrelid, attnum) IS NOT NULL AS has_comment
FROM pg_attribute
WHERE attrelid IN ('testdb_clones'::regclass, 'testdb_templates'::regclass, 'testdb_builds'::regclass,
	'testdb_stats'::regclass) AND attnum > 0
ORDER BY attrelid::regclass::text COLLATE "C", attnum;
SELECT obj_description(oid, 'pg_extension') IS NOT NULL AS has_comment FROM pg_extension WHERE extname = 'testdb';

-- The settings: each with a description, the durations with a unit.
SELECT name, boot_val, unit, context, short_desc <> '' AND extra_desc <> '' AS described
FROM pg_settings WHERE name LIKE 'testdb.%' ORDER BY name COLLATE "C";
SET testdb.method = 'magic';
SET testdb.no_such_setting = 1;
SET testdb.timeout = '90s';
SHOW testdb.timeout;

-- Nothing is left: no database, no directory, no record.
SELECT datname FROM pg_database EXCEPT SELECT datname FROM before;
SELECT datname FROM before EXCEPT SELECT datname FROM pg_database;
SELECT d AS directory FROM pg_ls_dir('base') d
WHERE d ~ '^[0-9]+$' AND d::oid NOT IN (SELECT oid FROM pg_database);
-- The record of what plain SQL dropped is removed soon afterwards.
DO $$
BEGIN
	FOR i IN 1..600 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM pg_ls_dir('pg_testdb/clones'));
		PERFORM pg_sleep(0.05);
	END LOOP;
END
$$;
SELECT * FROM pg_ls_dir('pg_testdb/clones');

-- The extension is nothing but a way to ask: the library, and what it made, stay when it goes.
SELECT testdb_clone('regression_template', 'regression_stays');
DROP EXTENSION testdb;
CREATE SCHEMA elsewhere;
CREATE EXTENSION testdb SCHEMA elsewhere;
SELECT name, template FROM elsewhere.testdb_clones;
SELECT elsewhere.testdb_drop('regression_stays');
SELECT elsewhere.testdb_drop(elsewhere.testdb_clone('regression_template'));

DROP EXTENSION testdb;
DROP SCHEMA elsewhere;
DROP DATABASE regression_template;
DROP TABLE before, run, several, hostile;
DROP FUNCTION clone_in_function, clone_in_trigger, clone_long, wal_of_clone;
DROP PROCEDURE clone_in_procedure;
