-- Every error that a session can get by itself: SQLSTATE, message, detail, hint. Those that take a second session, a
-- restart or another configuration are in t/.
CREATE EXTENSION testdb;
SELECT current_database() AS home \gset
\pset format unaligned
\pset tuples_only on

-- What a command raises, in one text; numbers that differ from run to run are taken out.
CREATE FUNCTION error_of(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text;
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE command;
	RETURN 'no error';
EXCEPTION WHEN OTHERS OR query_canceled THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	detail := regexp_replace(detail, '(worker|Process) \d+', '\1 NNN');
	RETURN concat_ws(E'\n    ', state || ': ' || message, NULLIF(detail, ''), NULLIF(hint, ''));
END
$$;

CREATE DATABASE regression_template;
CREATE DATABASE regression_not_ours;
SELECT testdb_clone('regression_template', 'regression_clone');

-- The template's name.
SELECT error_of($$ SELECT testdb_clone(NULL) $$);
SELECT error_of($$ SELECT testdb_clone('') $$);
SELECT error_of($$ SELECT testdb_clone(repeat('x', 64)) $$);
SELECT error_of($$ SELECT testdb_clone(repeat(U&'\00E4', 32)) $$);
SELECT error_of($$ SELECT testdb_clone('regression_missing') $$);
-- Only cut at 63 bytes would these be names that exist, or could be made.
SELECT error_of($$ SELECT testdb_clone('regression_template' || repeat(' ', 60)) $$);

-- The clone's name.
SELECT error_of($$ SELECT testdb_clone('regression_template', '') $$);
SELECT error_of($$ SELECT testdb_clone('regression_template', repeat('x', 64)) $$);
SELECT error_of($$ SELECT testdb_clone('regression_template', repeat(U&'\6F22', 22)) $$);
SELECT error_of($$ SELECT testdb_clone('regression_template', 'regression_clone') $$);
SELECT error_of($$ SELECT testdb_clone('regression_template', 'regression_not_ours') $$);
SELECT error_of($$ SELECT testdb_clone('regression_template', 'regression_template') $$);

-- A template that can't be one: this database, that of the workers, one left by an interrupted DROP DATABASE.
SELECT error_of($$ SELECT testdb_clone(current_database()) $$);
SELECT error_of($$ SELECT testdb_clone('postgres') $$);
UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'regression_not_ours';
SELECT error_of($$ SELECT testdb_clone('regression_not_ours', 'regression_of_invalid') $$);
UPDATE pg_database SET datconnlimit = -1 WHERE datname = 'regression_not_ours';
-- One with a prepared transaction in it, which has no session.
\c regression_template
BEGIN;
CREATE TABLE t ();
PREPARE TRANSACTION 'regress_testdb';
\c :"home"
DO $$
BEGIN
	FOR i IN 1..6000 LOOP
		PERFORM pg_stat_clear_snapshot();
		EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'regression_template');
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;
SET testdb.template_timeout = 0;
SELECT error_of($$ SELECT testdb_clone('regression_template') $$);
SET testdb.template_timeout = '30ms';
SELECT error_of($$ SELECT testdb_clone('regression_template') $$);
RESET testdb.template_timeout;
\c regression_template
COMMIT PREPARED 'regress_testdb';
\c :"home"

-- What is to be dropped.
SELECT error_of($$ SELECT testdb_drop(NULL) $$);
SELECT error_of($$ SELECT testdb_drop(NULL, true) $$);
SELECT error_of($$ SELECT testdb_drop('regression_clone', NULL) $$);
SELECT error_of($$ SELECT testdb_drop('') $$);
SELECT error_of($$ SELECT testdb_drop('', true) $$);
SELECT error_of($$ SELECT testdb_drop(repeat('x', 64), true) $$);
SELECT error_of($$ SELECT testdb_drop('regression_missing') $$);
SELECT error_of($$ SELECT testdb_drop('regression_missing', false) $$);
SELECT error_of($$ SELECT testdb_drop('regression_missing', true) $$);
SELECT error_of($$ SELECT testdb_drop('regression_not_ours') $$);
SELECT error_of($$ SELECT testdb_drop('regression_not_ours', true) $$);
SELECT error_of($$ SELECT testdb_drop('regression_template') $$);
SELECT error_of($$ SELECT testdb_drop('template0') $$);
SELECT error_of($$ SELECT testdb_drop('postgres') $$);
SELECT error_of($$ SELECT testdb_drop(current_database()) $$);
-- A clone's own session.
\c regression_clone
CREATE EXTENSION testdb;
DO $$
BEGIN
	PERFORM testdb_drop('regression_clone');
EXCEPTION WHEN object_in_use THEN
	RAISE NOTICE '% %', SQLSTATE, SQLERRM;
END
$$;
\c :"home"

-- A prepared transaction in a clone is rolled back.
SELECT testdb_clone('regression_template', 'regression_prepared');
\c regression_prepared
BEGIN;
CREATE TABLE prepared ();
PREPARE TRANSACTION 'regress_testdb';
\c :"home"
SELECT testdb_drop('regression_prepared');
SELECT count(*) FROM pg_prepared_xacts;

-- A clone with a subscription is dropped, and so is one that was made a template.
SELECT testdb_clone('regression_template', 'regression_subscriber');
\c regression_subscriber
SET client_min_messages = error;
CREATE SUBSCRIPTION regress_testdb CONNECTION 'dbname=none' PUBLICATION none
	WITH (connect = false, slot_name = NONE, enabled = false);
RESET client_min_messages;
\c :"home"
ALTER DATABASE regression_subscriber IS_TEMPLATE true;
SELECT testdb_drop('regression_subscriber');
SELECT count(*) FROM pg_subscription;
SELECT name, template, sessions FROM testdb_clones;

-- Where nothing may be written.
BEGIN READ ONLY;
SELECT error_of($$ SELECT testdb_clone('regression_template') $$);
SELECT error_of($$ SELECT testdb_drop('regression_clone') $$);
ROLLBACK;

-- This transaction holds what the worker needs. The worker is not hurt: the next call works.
BEGIN;
ALTER DATABASE regression_template RENAME TO regression_mine;
SELECT error_of($$ SELECT testdb_clone('regression_mine') $$);
ROLLBACK;
BEGIN;
ALTER DATABASE regression_clone RENAME TO regression_mine;
SELECT error_of($$ SELECT testdb_drop('regression_mine') $$);
ROLLBACK;
SELECT testdb_clone('regression_template', 'regression_next');
SELECT testdb_drop('regression_next');

-- The call takes longer than allowed; what it makes is dropped. The detail says how far it came, which differs.
SET testdb.timeout = 1;
SELECT (regexp_split_to_array(error_of($$ SELECT testdb_clone('regression_template', 'regression_late') $$), '\n +'))[1];
RESET testdb.timeout;
-- Until the workers have nothing to do, and the name is free.
CREATE PROCEDURE wait_until_gone(name text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..1200 LOOP
		EXIT WHEN 2 = (SELECT count(*) FROM pg_stat_activity
				WHERE backend_type = 'testdb worker' AND state = 'idle' AND wait_event_type = 'Extension')
			AND NOT EXISTS (SELECT FROM pg_database WHERE datname = name);
		PERFORM pg_sleep(0.05);
		COMMIT;
	END LOOP;
END
$$;
CALL wait_until_gone('regression_late');
SELECT datname FROM pg_database WHERE datname = 'regression_late';

-- The drop above that met a lock was finished when the lock had gone, as the setting's description says.
CALL wait_until_gone('regression_clone');
SELECT datname FROM pg_database WHERE datname = 'regression_clone';

-- An interrupted drop leaves a database that nobody can use. testdb_drop finishes it.
SELECT testdb_clone('regression_template', 'regression_clone');
UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'regression_clone';
SELECT error_of($$ SELECT testdb_clone('regression_clone', 'regression_of_invalid') $$);
SELECT testdb_drop('regression_clone');
SELECT error_of($$ SELECT testdb_drop('regression_clone') $$);

-- Nothing is left.
SELECT name FROM testdb_clones;
SELECT datname FROM pg_database WHERE datname ~ 'regression' AND datname <> current_database() ORDER BY 1;
SELECT d AS directory FROM pg_ls_dir('base') d
WHERE d ~ '^[0-9]+$' AND d::oid NOT IN (SELECT oid FROM pg_database);
SELECT * FROM pg_ls_dir('pg_testdb/clones');

DROP DATABASE regression_template;
DROP DATABASE regression_not_ours;
DROP FUNCTION error_of;
DROP PROCEDURE wait_until_gone;
DROP EXTENSION testdb;
