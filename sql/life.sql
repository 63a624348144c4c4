-- The terms on which a clone is handed out, and all that is done to it until it goes: scope, lifetime, label, reset, keep,
-- drop_all, the views, the counters, the limits. What takes a second session, time or a restart is in t/030_life.pl.
CREATE EXTENSION testdb;
SELECT current_database() AS home, current_user AS superuser \gset
\pset format unaligned
\pset tuples_only on

-- What a command raises, in one text; or what it returns.
CREATE FUNCTION outcome(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
	state text;
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE command INTO result;
	RETURN coalesce(result, '(null)');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n    ', state || ': ' || message, NULLIF(detail, ''), NULLIF(hint, ''));
END
$$;
-- A clone's terms as they are now, without what differs from run to run. What the current user may not see is NULL.
CREATE FUNCTION terms(clone text) RETURNS text LANGUAGE sql AS $$
	SELECT format('%s: scope %s, pid %s, sessions %s, left %s, label %s', state, coalesce(scope, '(null)'),
		CASE WHEN session_pid IS NULL THEN '(null)' WHEN session_pid = pg_backend_pid() THEN 'mine' ELSE 'wrong' END,
		coalesce(sessions::text, '(null)'),
		coalesce(make_interval(mins => 10 * round(extract(epoch FROM expires_at - now()) / 600)::int)::text, '(null)'), coalesce(label, '(null)'))
	FROM testdb_clones WHERE name = clone
$$;
CREATE FUNCTION our_clones() RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(name, ' ' ORDER BY name COLLATE "C"), '(none)') FROM testdb_clones
$$;

-- One who may call everything, another who may, and one who may call nothing.
CREATE ROLE regress_testdb_user LOGIN;
CREATE ROLE regress_testdb_stranger LOGIN;
CREATE ROLE regress_testdb_nobody LOGIN;
CREATE ROLE regress_testdb_member LOGIN IN ROLE regress_testdb_user;
CREATE ROLE regress_testdb_reader LOGIN IN ROLE pg_read_all_stats;
GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_drop_all, testdb_reset, testdb_keep, testdb_prewarm,
	testdb_template_set TO regress_testdb_user, regress_testdb_stranger;
CREATE DATABASE regression_template IS_TEMPLATE true OWNER regress_testdb_user;
CREATE DATABASE regression_other IS_TEMPLATE true;
\c regression_template
CREATE TABLE item AS SELECT generate_series(1, 10) AS id;
GRANT ALL ON item TO PUBLIC;
CREATE EXTENSION testdb;
GRANT EXECUTE ON FUNCTION testdb_reset, testdb_drop, testdb_drop_all TO regress_testdb_user;
\c :"home"

--
-- testdb_clone: scope, lifetime, label
--
\set QUIET on
SELECT testdb_clone('regression_template', 'regression_plain');
SELECT terms('regression_plain');
SELECT testdb_clone('regression_template', 'regression_terms', 'session', '2 hours', 'test_login[chrome]');
SELECT terms('regression_terms');
SELECT testdb_clone('regression_template', 'regression_manual', scope => 'manual', label => repeat('x', 200));
SELECT terms('regression_manual') = 'leased: scope manual, pid (null), sessions 0, left (null), label ' || repeat('x', 200);
-- Null is what is not given, and an empty label is none.
SELECT testdb_clone('regression_template', 'regression_empty', NULL, NULL, '');
SELECT terms('regression_empty');
-- A character takes as many bytes as it has: 100 of two are 200.
SELECT testdb_clone('regression_template', 'regression_bytes', label => repeat(U&'\00e4', 100));
SELECT length(label), octet_length(label) FROM testdb_clones WHERE name = 'regression_bytes';
SELECT outcome($$SELECT testdb_clone('regression_template', 'regression_no', label => repeat(U&'\00e4', 101))$$);

SELECT outcome($$SELECT testdb_clone('regression_template', 'regression_no', 'forever')$$);
SELECT outcome($$SELECT testdb_clone('regression_template', 'regression_no', '')$$);
SELECT outcome($$SELECT testdb_clone('regression_template', 'regression_no', 'SESSION')$$);
SELECT outcome($$SELECT testdb_clone('regression_template', 'regression_no', label => repeat('x', 201))$$);
SELECT outcome($$SELECT testdb_clone('regression_template', 'regression_no', label => repeat('x', 1000000))$$);
SELECT lifetime, split_part(outcome(format($$SELECT testdb_clone('regression_template', 'regression_no', lifetime => %L)$$,
	lifetime)), E'\n', 1)
FROM (VALUES ('0'), ('-1 second'), ('-1 day'), ('-1 microsecond'), ('1 month -31 days'), ('1 day -86400 seconds'),
	('1 day -86400.5 seconds'), ('102 years'), ('100000 years'), ('178000000 years'), ('-178000000 years'),
	('2147483647 days'), ('-2147483648 days'), ('2562047788 hours')) v(lifetime);
SELECT outcome($$SELECT testdb_clone('regression_template', 'regression_no', lifetime => '0')$$);
-- Nothing of that made anything.
SELECT our_clones();
-- What is allowed: the longest, mixed signs, less than a second (which counts as one).
SELECT testdb_clone('regression_template', 'regression_longest', lifetime => '99 years');
SELECT testdb_clone('regression_template', 'regression_mixed', lifetime => '-1 day +25 hours');
SELECT terms('regression_mixed');
SELECT date_part('day', expires_at - created_at) FROM testdb_clones WHERE name = 'regression_longest';
SELECT testdb_clone('regression_template', 'regression_short', lifetime => '1 microsecond');
DO $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM pg_database WHERE datname = 'regression_short');
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;
SELECT count(*) FROM pg_database WHERE datname = 'regression_short';

-- The default for a lifetime is a setting, and the call wins.
SET testdb.lifetime = '90min';
SELECT testdb_clone('regression_template', 'regression_default');
SELECT terms('regression_default');
SELECT testdb_clone('regression_template', 'regression_own', lifetime => '3 hours');
SELECT terms('regression_own');
RESET testdb.lifetime;
-- From 17 on the limits are given with their unit.
SELECT replace(outcome($$SET testdb.lifetime = -1$$), ' s', '');
SELECT replace(outcome($$SET testdb.idle_timeout = -1$$), ' s', '');
SELECT testdb_drop_all();
SELECT our_clones();

--
-- testdb_keep
--
SELECT testdb_clone('regression_template', 'regression_kept', 'session', '1 hour', 'failed test');
SELECT testdb_keep('regression_kept');
SELECT terms('regression_kept');
SELECT testdb_keep('regression_kept', '3 hours');
SELECT terms('regression_kept');
SELECT testdb_keep(name => 'regression_kept', lifetime => NULL);
SELECT terms('regression_kept');
SELECT outcome($$SELECT testdb_keep('regression_kept', '0')$$);
SELECT outcome($$SELECT testdb_keep('regression_kept', '-1 day')$$);
SELECT outcome($$SELECT testdb_keep('regression_kept', '102 years')$$);
SELECT outcome($$SELECT testdb_keep(NULL)$$);
SELECT outcome($$SELECT testdb_keep('')$$);
SELECT outcome($$SELECT testdb_keep('regression_missing')$$);
SELECT outcome($$SELECT testdb_keep('regression_template')$$);
-- No error has changed anything.
SELECT terms('regression_kept');

--
-- testdb_reset
--
\c regression_kept
INSERT INTO item VALUES (11);
CREATE TABLE only_here ();
CREATE SCHEMA only_here;
\c :"home"
SELECT testdb_keep('regression_kept', '3 hours');
SELECT testdb_reset('regression_kept');
\c regression_kept
SELECT current_database(), count(*), max(id) FROM item;
SELECT to_regclass('only_here'), count(*) FROM pg_namespace WHERE nspname = 'only_here';
DELETE FROM item;
-- Not from inside: 55006.
\set VERBOSITY sqlstate
SELECT testdb_reset('regression_kept');
SELECT testdb_drop('regression_kept');
\set VERBOSITY default
SELECT testdb_drop_all();
SELECT count(*) FROM item;
\c :"home"
-- Twice, and the terms stay.
SELECT testdb_reset('regression_kept');
SELECT testdb_reset(name => 'regression_kept');
SELECT terms('regression_kept');
\c regression_kept
SELECT count(*) FROM item;
\c :"home"
-- A setting of its own goes, too; and it gets what the template has by now.
ALTER DATABASE regression_kept SET work_mem = '123kB';
ALTER DATABASE regression_kept CONNECTION LIMIT 7;
\c regression_template
INSERT INTO item VALUES (100);
\c :"home"
SELECT testdb_reset('regression_kept');
SELECT datconnlimit, pg_get_userbyid(datdba) = current_user, datistemplate, s.setconfig
FROM pg_database d LEFT JOIN pg_db_role_setting s ON s.setdatabase = d.oid WHERE datname = 'regression_kept';
\c regression_kept
SELECT count(*), max(id) FROM item;
\c :"home"
SELECT outcome($$SELECT testdb_reset(NULL)$$);
SELECT outcome($$SELECT testdb_reset('')$$);
SELECT outcome($$SELECT testdb_reset(repeat('x', 64))$$);
SELECT outcome($$SELECT testdb_reset('regression_missing')$$);
SELECT outcome($$SELECT testdb_reset('regression_template')$$);
SELECT outcome($$SELECT testdb_reset(current_database())$$) ~ '^42809';
-- Not undone by a ROLLBACK, and allowed in a transaction.
\c regression_kept
DELETE FROM item;
\c :"home"
BEGIN;
SELECT testdb_reset('regression_kept');
ROLLBACK;
\c regression_kept
SELECT count(*) FROM item;
\c :"home"
BEGIN READ ONLY;
SELECT testdb_reset('regression_kept');
ROLLBACK;
BEGIN READ ONLY;
SELECT testdb_keep('regression_kept');
ROLLBACK;
BEGIN READ ONLY;
SELECT testdb_drop_all();
ROLLBACK;

--
-- Rights: who may not call, who does not own.
--
\c - regress_testdb_nobody
SELECT outcome($$SELECT testdb_keep('regression_kept')$$);
SELECT outcome($$SELECT testdb_reset('regression_kept')$$);
SELECT outcome($$SELECT testdb_drop_all()$$);
SELECT outcome($$SELECT testdb_prewarm('regression_template', 1)$$);
SELECT outcome($$SELECT testdb_template_set('regression_template', 1)$$);
SELECT outcome($$SELECT testdb_stats_reset()$$);
\c - regress_testdb_stranger
SELECT outcome($$SELECT testdb_keep('regression_kept')$$);
SELECT outcome($$SELECT testdb_reset('regression_kept')$$);
SELECT outcome($$SELECT testdb_drop('regression_kept')$$);
SELECT outcome($$SELECT testdb_drop_all()$$);
SELECT outcome($$SELECT testdb_template_set('regression_template', 1)$$);
SELECT outcome($$SELECT testdb_stats_reset()$$);
-- An owner may do all of it to his own, and sees it.
\c - regress_testdb_user
SELECT testdb_clone('regression_template', 'regression_user_1', 'manual', '1 hour', 'secret');
SELECT testdb_clone('regression_template', 'regression_user_2', 'session', NULL, 'secret');
SELECT terms('regression_user_1');
SELECT terms('regression_user_2');
SELECT testdb_reset('regression_user_1');
SELECT testdb_keep('regression_user_1', '2 hours');
SELECT terms('regression_user_1');
SELECT outcome($$SELECT testdb_reset('regression_kept')$$);

--
-- The views: what a role may not see is NULL.
--
\connect - regress_testdb_nobody
SELECT pg_get_userbyid(datdba) = 'regress_testdb_user', terms(datname) FROM pg_database WHERE datname = 'regression_user_1';
SELECT name, template, owner, created_at IS NULL, state, scope FROM testdb_clones WHERE name = 'regression_user_1';
SELECT terms('regression_kept');
\connect - regress_testdb_stranger
SELECT terms('regression_user_1');
-- Who inherits from the owner, who reads all statistics, a superuser.
\connect - regress_testdb_member
SELECT terms('regression_user_1');
SELECT terms('regression_kept');
\connect - regress_testdb_reader
SELECT terms('regression_user_1');
\connect - :superuser
SELECT terms('regression_user_1');

--
-- testdb_drop_all: only the caller's own, by template, by label.
--
-- The one of the session's scope has gone with its session; wait for that, so that counts are known.
DO $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM pg_database WHERE datname = 'regression_user_2');
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;
SELECT our_clones();
SELECT testdb_clone('regression_template', 'regression_' || n, label => CASE WHEN n < 'd' THEN 'one' ELSE 'two' END)
FROM unnest('{a,b,c,d,e}'::text[]) n;
SELECT testdb_clone('regression_other', 'regression_' || n, label => CASE WHEN n < 'h' THEN 'one' END)
FROM unnest('{f,g,h}'::text[]) n;
SELECT outcome($$SELECT testdb_drop_all('regression_missing')$$);
SELECT outcome($$SELECT testdb_drop_all('')$$);
SELECT outcome($$SELECT testdb_drop_all(label => repeat('x', 201))$$);
SELECT testdb_drop_all(label => 'no such label');
SELECT testdb_drop_all(label => 'One');
SELECT testdb_drop_all('regression_a');
SELECT our_clones();
SELECT testdb_drop_all('regression_template', 'one');
SELECT our_clones();
SELECT testdb_drop_all(label => 'one');
SELECT our_clones();
-- No label is an empty one.
SELECT testdb_drop_all('regression_other', '');
SELECT our_clones();
SELECT testdb_drop_all('regression_template');
-- What is a superuser's to drop, one by one, is not the superuser's own.
SELECT our_clones();
SELECT pg_typeof(testdb_drop_all()), testdb_drop_all();
\connect - regress_testdb_member
SELECT outcome($$SELECT testdb_drop_all()$$);
\connect - regress_testdb_user
SELECT testdb_drop_all(template => NULL, label => NULL);
\connect - :superuser
SELECT our_clones();

--
-- testdb_prewarm and testdb_template_set
--
SELECT outcome($$SELECT testdb_prewarm(NULL, 1)$$);
SELECT outcome($$SELECT testdb_prewarm('regression_template', NULL)$$);
SELECT outcome($$SELECT testdb_prewarm('regression_template', -1)$$);
SELECT outcome($$SELECT testdb_prewarm('regression_template', current_setting('testdb.max_clones')::int + 1)$$);
SELECT outcome($$SELECT testdb_prewarm('regression_missing', 1)$$);
SELECT outcome($$SELECT testdb_prewarm(current_setting('testdb.database'), 1)$$);
SET testdb.method = 'file_copy';
SELECT outcome($$SELECT testdb_prewarm('regression_template', 1)$$);
RESET testdb.method;
SELECT r::int = spares FROM outcome($$SELECT testdb_prewarm('regression_template', 0)$$) r, testdb_templates WHERE name = 'regression_template';
SELECT r::int >= 2 FROM outcome($$SELECT testdb_prewarm('regression_template', 2)$$) r;
SELECT method, reason, clones, spares >= 2 AND wanted BETWEEN 2 AND spares AS spares_ok, files > 0 AND bytes > 0 AS size_ok, last_error
FROM testdb_templates WHERE name = 'regression_template';
SELECT outcome($$SELECT testdb_template_set(NULL, 1)$$);
SELECT outcome($$SELECT testdb_template_set('regression_missing', 1)$$);
SELECT outcome($$SELECT testdb_template_set('regression_template', -1)$$);
SELECT outcome($$SELECT testdb_template_set('regression_template', current_setting('testdb.max_clones')::int + 1)$$);
SELECT outcome($$SELECT testdb_template_set(current_setting('testdb.database'), 1)$$);
SELECT testdb_template_set('regression_template', 0);
SELECT testdb_template_set('regression_template', current_setting('testdb.max_clones')::int);
SELECT testdb_template_set('regression_template', NULL);
-- Its owner may, though no superuser; another's template not, though everybody may clone it.
\connect - regress_testdb_user
SELECT outcome($$SELECT testdb_template_set('regression_template', 1)$$);
SELECT outcome($$SELECT testdb_template_set('regression_other', 1)$$);
\connect - :superuser
SELECT testdb_template_set('regression_template', 0);

--
-- testdb_stats: each clone is a hit or a miss, each drop is counted.
--
SELECT testdb_stats_reset();
SELECT count(*) > 0, sum(clones + hits + misses + copies + recycled + drops + reaped + files_copied + bytes_copied), sum(copy_time + recycle_time + drop_time + snapshot_time)
FROM testdb_stats;
SELECT testdb_clone('regression_template', 'regression_' || n) FROM generate_series(1, 3) n;
SELECT outcome($$SELECT testdb_clone('regression_template', 'regression_1')$$);
SELECT testdb_drop('regression_1'), testdb_drop('regression_1', true);
SELECT clones, hits + misses, drops, reaped, copies <= 3 AS copies_ok, drop_time > 0 AS drop_time_ok
FROM testdb_stats WHERE name = 'regression_template';
SELECT clones, drops FROM testdb_stats WHERE name = 'regression_other';
SELECT testdb_drop_all();
SELECT testdb_clone('regression_template', 'regression_reaped', lifetime => '1 second');
DO $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		EXIT WHEN (SELECT reaped FROM testdb_stats WHERE name = 'regression_template') > 0;
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;
SELECT clones, hits + misses, drops, reaped FROM testdb_stats WHERE name = 'regression_template';
SELECT testdb_stats_reset();
SELECT clones, drops, reaped, drop_time FROM testdb_stats WHERE name = 'regression_template';
-- Open to all.
SET ROLE regress_testdb_nobody;
SELECT count(*) FROM testdb_stats WHERE name = 'regression_template';
SELECT count(*) FROM testdb_templates WHERE name = 'regression_template';
RESET ROLE;

--
-- testdb.max_clones_per_role: each role for itself; a drop makes room; not to be raised by whom it binds.
--
ALTER ROLE regress_testdb_user SET testdb.max_clones_per_role = 2;
\connect - regress_testdb_user
SHOW testdb.max_clones_per_role;
SELECT outcome($$SET testdb.max_clones_per_role = 100$$);
SELECT testdb_clone('regression_template', 'regression_' || n) FROM generate_series(1, 2) n;
SELECT outcome($$SELECT testdb_clone('regression_template', 'regression_3')$$);
SELECT testdb_reset('regression_1');
SELECT testdb_drop('regression_1');
SELECT testdb_clone('regression_template', 'regression_3');
SELECT outcome($$SELECT testdb_clone('regression_template')$$);
\connect - regress_testdb_stranger
SELECT testdb_clone('regression_template', 'regression_' || n) FROM generate_series(4, 6) n;
SELECT testdb_drop_all();
\connect - :superuser
SELECT testdb_clone('regression_template', 'regression_' || n) FROM generate_series(4, 6) n;
SELECT testdb_drop_all();
-- One that is given away with plain SQL still counts for the role that asked for it.
ALTER DATABASE regression_3 OWNER TO regress_testdb_stranger;
\connect - regress_testdb_user
SELECT outcome($$SELECT testdb_clone('regression_template', 'regression_7')$$);
SELECT testdb_drop_all();
\connect - regress_testdb_stranger
SELECT terms('regression_3');
SELECT testdb_drop_all();
\connect - :superuser
SELECT our_clones();

--
-- Nothing is left.
--
ALTER DATABASE regression_template IS_TEMPLATE false;
ALTER DATABASE regression_other IS_TEMPLATE false;
DROP DATABASE regression_template;
DROP DATABASE regression_other;
DROP FUNCTION outcome, terms, our_clones;
DROP EXTENSION testdb;
DROP ROLE regress_testdb_user, regress_testdb_stranger, regress_testdb_nobody, regress_testdb_member, regress_testdb_reader;
