-- Who may do what, and that nobody gets around it.
CREATE EXTENSION testdb;
SELECT current_database() AS home, current_user AS superuser \gset

CREATE ROLE regress_testdb_owner LOGIN;
CREATE ROLE regress_testdb_member LOGIN IN ROLE regress_testdb_owner;
CREATE ROLE regress_testdb_noinherit LOGIN NOINHERIT IN ROLE regress_testdb_owner;
CREATE ROLE regress_testdb_user LOGIN;
CREATE ROLE regress_testdb_createdb LOGIN CREATEDB;
CREATE ROLE "regress_testdb ""quoted"" 'role'" LOGIN;
CREATE DATABASE regression_template OWNER regress_testdb_owner;
CREATE TABLE before AS SELECT oid, datname FROM pg_database;
GRANT SELECT ON before TO PUBLIC;

-- EXECUTE is nobody's at first; the view is for all.
SET ROLE regress_testdb_createdb;
SELECT testdb_clone('regression_template');
SELECT testdb_drop('regression_template');
SELECT * FROM testdb_clones;
RESET ROLE;
SELECT has_function_privilege('public', 'testdb_clone(text, text, text, interval, text)', 'EXECUTE') AS clone,
	has_function_privilege('public', 'testdb_drop(text, boolean)', 'EXECUTE') AS drop;

-- EXECUTE alone: no template yet that may be cloned. CREATEDB makes no difference.
GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop TO regress_testdb_owner, regress_testdb_user, regress_testdb_createdb,
	regress_testdb_noinherit, "regress_testdb ""quoted"" 'role'";
SET ROLE regress_testdb_user;
SELECT testdb_clone('regression_template');
SET ROLE regress_testdb_createdb;
SELECT testdb_clone('regression_template', 'regression_created');
SELECT testdb_clone('template1', 'regression_of_template1');
SELECT testdb_drop('regression_of_template1');
-- What is taken, missing or not ours is told before any question of rights.
SELECT testdb_clone('regression_missing');
SELECT testdb_drop('regression_missing');
SELECT testdb_drop('regression_template');
RESET ROLE;
-- The hint's command can be pasted, whatever the name.
CREATE DATABASE "regression_Template ""quoted""";
SET ROLE regress_testdb_user;
SELECT testdb_clone('regression_Template "quoted"');
RESET ROLE;
DROP DATABASE "regression_Template ""quoted""";

-- The template's owner, and who inherits from it. As in core, a membership without INHERIT takes a SET ROLE.
SET ROLE regress_testdb_owner;
SELECT testdb_clone('regression_template', 'regression_by_owner');
SET ROLE regress_testdb_member;
SELECT testdb_clone('regression_template', 'regression_by_member');
SET ROLE regress_testdb_noinherit;
SELECT testdb_clone('regression_template', 'regression_by_noinherit');
RESET ROLE;
-- A superuser, who owns nothing of it.
SELECT testdb_clone('regression_template', 'regression_by_superuser');
-- Marked as a template: everybody who may call.
ALTER DATABASE regression_template IS_TEMPLATE true;
SET ROLE regress_testdb_user;
SELECT testdb_clone('regression_template', 'regression_by_user');
SET ROLE "regress_testdb ""quoted"" 'role'";
SELECT testdb_clone('regression_template', 'regression_by_quoted');
RESET ROLE;
-- The clone belongs to the current user: not to the session's, but to that of a SECURITY DEFINER function.
CREATE FUNCTION clone_for_all(name text) RETURNS name LANGUAGE sql SECURITY DEFINER
	AS $$ SELECT testdb_clone('regression_template', $1) $$;
ALTER FUNCTION clone_for_all OWNER TO regress_testdb_createdb;
SET ROLE regress_testdb_member;
SELECT clone_for_all('regression_by_definer');
RESET ROLE;
SET SESSION AUTHORIZATION regress_testdb_member;
SELECT testdb_clone('regression_template', 'regression_by_session');
RESET SESSION AUTHORIZATION;

SELECT name, template, replace(owner, :'superuser', 'superuser') AS owner, sessions FROM testdb_clones ORDER BY name COLLATE "C";
SELECT datname, replace(pg_get_userbyid(datdba), :'superuser', 'superuser') AS owner, datistemplate
FROM pg_database WHERE oid NOT IN (SELECT oid FROM before) ORDER BY datname COLLATE "C";
-- A role that owns nothing sees the same.
SET ROLE regress_testdb_user;
SELECT count(*) FROM testdb_clones;

-- The owner of a clone is really that: a new session of his can do there what an owner can.
\c regression_by_user regress_testdb_user
CREATE SCHEMA mine;
COMMENT ON DATABASE regression_by_user IS 'mine';
\c :"home" :"superuser"

-- Dropping. A stranger may not, not even the owner of the template.
SET ROLE regress_testdb_user;
SELECT testdb_drop('regression_by_owner');
SELECT testdb_drop('regression_by_superuser', true);
SET ROLE regress_testdb_owner;
SELECT testdb_drop('regression_by_user');
SET ROLE regress_testdb_noinherit;
SELECT testdb_drop('regression_by_owner');
SET ROLE regress_testdb_createdb;
SELECT testdb_drop('regression_by_owner');
-- The owner, a member of the owner's role, a superuser; who is in the clone is no matter of rights.
SET ROLE regress_testdb_user;
SELECT testdb_drop('regression_by_user');
SET ROLE "regress_testdb ""quoted"" 'role'";
SELECT testdb_drop('regression_by_quoted');
SET ROLE regress_testdb_member;
SELECT testdb_drop('regression_by_owner');
SELECT testdb_drop('regression_by_member');
SELECT testdb_drop('regression_by_session');
RESET ROLE;
SELECT testdb_drop('regression_by_definer');

-- A clone that was given to another: pg_database decides, not who asked for it.
SET ROLE regress_testdb_user;
SELECT testdb_clone('regression_template', 'regression_given');
RESET ROLE;
ALTER DATABASE regression_given OWNER TO regress_testdb_createdb;
SELECT name, owner FROM testdb_clones WHERE name = 'regression_given';
SET ROLE regress_testdb_user;
SELECT testdb_drop('regression_given');
SET ROLE regress_testdb_createdb;
SELECT testdb_drop('regression_given');
RESET ROLE;

-- The right to call can be taken away again.
REVOKE EXECUTE ON FUNCTION testdb_clone, testdb_drop FROM regress_testdb_user;
SET ROLE regress_testdb_user;
SELECT testdb_clone('regression_template');
SELECT testdb_drop('regression_by_superuser');
RESET ROLE;

-- What testdb did not make is not dropped by anybody, whatever it is called. A superuser asks.
CREATE DATABASE regression_precious;
SELECT testdb_drop('regression_precious');
-- It takes the name of a clone that has moved away,
ALTER DATABASE regression_by_superuser RENAME TO regression_moved;
ALTER DATABASE regression_precious RENAME TO regression_by_superuser;
SELECT testdb_drop('regression_by_superuser');
ALTER DATABASE regression_by_superuser RENAME TO regression_precious;
-- or of one that was dropped, by testdb or by plain SQL,
SELECT testdb_drop('regression_moved');
ALTER DATABASE regression_precious RENAME TO regression_moved;
SELECT testdb_drop('regression_moved');
ALTER DATABASE regression_moved RENAME TO regression_precious;
SELECT testdb_clone('regression_template', 'regression_plain');
DROP DATABASE regression_plain;
ALTER DATABASE regression_precious RENAME TO regression_plain;
SELECT testdb_drop('regression_plain');
ALTER DATABASE regression_plain RENAME TO regression_precious;
-- or is made by hand in the way that testdb names its own.
SELECT testdb_clone('regression_template') AS clone \gset
SELECT testdb_drop(:'clone');
CREATE DATABASE :"clone" TEMPLATE regression_template;
DO $$
BEGIN
	PERFORM testdb_drop(datname) FROM pg_database WHERE datname ~ '^regression_template_';
EXCEPTION WHEN wrong_object_type THEN
	RAISE NOTICE '%', SQLSTATE;
END
$$;
DROP DATABASE :"clone";
SELECT count(*) FROM pg_database WHERE datname = 'regression_precious';

-- A search_path full of traps, in the calling session: whatever testdb runs must not look there. The traps fail.
CREATE SCHEMA regress_traps;
SET search_path = regress_traps, pg_catalog;
CREATE FUNCTION trap() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION trap(oid, oid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION trap(name, name) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE OPERATOR = (FUNCTION = trap, LEFTARG = oid, RIGHTARG = oid);
CREATE OPERATOR = (FUNCTION = trap, LEFTARG = name, RIGHTARG = name);
CREATE FUNCTION trap_count(bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE AGGREGATE count(*) (SFUNC = trap_count, STYPE = bigint, INITCOND = '0');
CREATE FUNCTION pg_get_userbyid(oid) RETURNS name LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE VIEW pg_database AS SELECT trap();
CREATE VIEW pg_prepared_xacts AS SELECT trap();
-- They work.
SELECT 1::oid = 1::oid;
SELECT count(*) FROM pg_class;
SELECT public.testdb_clone('regression_template', 'regression_trapped');
SELECT name, template FROM public.testdb_clones;
SELECT public.testdb_drop('regression_trapped');
RESET search_path;
DROP EXTENSION testdb;
SET search_path = regress_traps, pg_catalog, public;
CREATE EXTENSION testdb SCHEMA public;
RESET search_path;
SELECT testdb_clone('regression_template', 'regression_trapped');
SELECT name, template FROM testdb_clones;
SELECT testdb_drop('regression_trapped');

-- The same where the workers live: their database's search_path, and their role's. They are superusers, and so these
-- would run with all rights. The workers are restarted, so that they meet them.
\c postgres
CREATE SCHEMA regress_traps;
SET search_path = regress_traps, pg_catalog;
CREATE FUNCTION trap(name, name) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE OPERATOR = (FUNCTION = trap, LEFTARG = name, RIGHTARG = name);
CREATE FUNCTION trap_count(bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE AGGREGATE count(*) (SFUNC = trap_count, STYPE = bigint, INITCOND = '0');
CREATE FUNCTION trap() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE VIEW pg_prepared_xacts AS SELECT ''::name AS database WHERE trap();
CREATE VIEW pg_database AS SELECT trap();
RESET search_path;
ALTER DATABASE postgres SET search_path = regress_traps, pg_catalog;
-- What else could be set there, and would hinder the workers.
ALTER DATABASE postgres SET default_transaction_read_only = on;
ALTER DATABASE postgres SET statement_timeout = 1;
ALTER DATABASE postgres SET lock_timeout = 1;
DO $$
BEGIN
	-- Since 17.
	IF EXISTS (SELECT FROM pg_settings WHERE name = 'transaction_timeout') THEN
		ALTER DATABASE postgres SET transaction_timeout = 1;
	END IF;
END
$$;
\c :"home"
CREATE PROCEDURE restart_workers() LANGUAGE plpgsql AS $$
DECLARE
	old int[] := (SELECT array_agg(pid) FROM pg_stat_activity WHERE backend_type = 'testdb worker');
BEGIN
	PERFORM pg_terminate_backend(pid) FROM unnest(old) pid;
	FOR i IN 1..1200 LOOP
		COMMIT;
		EXIT WHEN 2 = (SELECT count(*) FROM pg_stat_activity
			WHERE backend_type = 'testdb worker' AND pid <> ALL (old) AND wait_event_type = 'Extension');
		PERFORM pg_sleep(0.05);
	END LOOP;
END
$$;
CALL restart_workers();
SELECT testdb_clone('regression_template', 'regression_trapped');
SELECT testdb_drop('regression_trapped');
ALTER DATABASE postgres RESET ALL;
\c postgres
SET client_min_messages = warning;
DROP SCHEMA regress_traps CASCADE;
\c :"home"

-- What testdb did not make is there; nothing else is left.
SELECT name FROM testdb_clones;
SELECT datname FROM pg_database EXCEPT SELECT datname FROM before;
SET client_min_messages = warning;
DROP SCHEMA regress_traps CASCADE;
RESET client_min_messages;
DROP FUNCTION clone_for_all;
DROP PROCEDURE restart_workers;
DROP TABLE before;
DROP DATABASE regression_precious;
ALTER DATABASE regression_template IS_TEMPLATE false;
DROP DATABASE regression_template;
DROP EXTENSION testdb;
DROP ROLE regress_testdb_owner, regress_testdb_member, regress_testdb_noinherit, regress_testdb_user, regress_testdb_createdb,
	"regress_testdb ""quoted"" 'role'";
