/* sql/testdb--0.1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION testdb" to load this file. \quit

--
-- Functions that do something: nobody may call them but those who are granted
-- that.
--

CREATE FUNCTION testdb_clone(
	template text,
	name text DEFAULT NULL,
	scope text DEFAULT NULL,
	lifetime interval DEFAULT NULL,
	label text DEFAULT NULL)
RETURNS name
AS 'MODULE_PATHNAME', 'testdb_clone'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_clone(text, text, text, interval, text) IS
'hand out a copy of a template database to the current user, and return its name; not undone by ROLLBACK';

CREATE FUNCTION testdb_drop(name text, missing_ok boolean DEFAULT false)
RETURNS boolean
AS 'MODULE_PATHNAME', 'testdb_drop'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_drop(text, boolean) IS
'drop a database that testdb_clone made, ending the sessions in it; not undone by ROLLBACK';

CREATE FUNCTION testdb_drop_all(template text DEFAULT NULL, label text DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'testdb_drop_all'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_drop_all(text, text) IS
'drop all databases that testdb_clone made for the current user, of one template or with one label if given, and return their number';

CREATE FUNCTION testdb_reset(name text)
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_reset'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_reset(text) IS
'give a database that testdb_clone made what a new one would have: the template''s content and settings, and its first owner; ending the sessions in it';

CREATE FUNCTION testdb_rewind(name text, force boolean DEFAULT false)
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_rewind'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_rewind(text, boolean) IS
'give a database that testdb_clone made its template''s content again, under the sessions connected to it; not undone by ROLLBACK';

CREATE PROCEDURE testdb_rewind()
AS 'MODULE_PATHNAME', 'testdb_rewind_current'
LANGUAGE C;

COMMENT ON PROCEDURE testdb_rewind() IS
'give the current database its template''s content again, under the sessions connected to it';

CREATE FUNCTION testdb_keep(name text, lifetime interval DEFAULT '1 day')
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_keep'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_keep(text, interval) IS
'keep a database that testdb_clone made beyond the end of its session, for so long from now, or until it is dropped (null)';

CREATE FUNCTION testdb_prewarm(template text, spares integer)
RETURNS integer
AS 'MODULE_PATHNAME', 'testdb_prewarm'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_prewarm(text, integer) IS
'wait until that many copies of a template are ready for the current user, and return how many are';

CREATE FUNCTION testdb_template_set(template text, spares integer)
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_template_set'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_template_set(text, integer) IS
'set how many copies of a template may be made ahead, instead of testdb.spares (null), until the server restarts';

CREATE FUNCTION testdb_template_begin(
	name text,
	fingerprint text,
	base text DEFAULT NULL,
	OUT database name,
	OUT build boolean)
AS 'MODULE_PATHNAME', 'testdb_template_begin'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_template_begin(text, text, text) IS
'return the template of that name and fingerprint, waiting while another session builds it; or a database to build it in, made from base; not undone by ROLLBACK';

CREATE FUNCTION testdb_template_finish(database text)
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_template_finish'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_template_finish(text) IS
'make a database from testdb_template_begin, in which the template has been built, a template for all; not undone by ROLLBACK';

CREATE FUNCTION testdb_template_cancel(database text)
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_template_cancel'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_template_cancel(text) IS
'drop a database from testdb_template_begin, and leave it to others to build the template';

CREATE FUNCTION testdb_template_drop(name text, fingerprint text DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'testdb_template_drop'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_template_drop(text, text) IS
'drop the finished templates of that name, or the one of that fingerprint, and return their number';

CREATE FUNCTION testdb_stats_reset()
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_stats_reset'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_stats_reset() IS
'set the counters in testdb_stats to zero';

CREATE FUNCTION testdb_uninstall(OUT name name, OUT template name, OUT owner name)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'testdb_uninstall'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_uninstall() IS
'remove all that testdb keeps ready in the server, make no more databases, and return those that are in use';

CREATE FUNCTION testdb_install()
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_install'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_install() IS
'make databases again after testdb_uninstall, as CREATE EXTENSION testdb does';

REVOKE ALL ON FUNCTION testdb_clone(text, text, text, interval, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_drop(text, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_drop_all(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_reset(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_rewind(text, boolean) FROM PUBLIC;
REVOKE ALL ON PROCEDURE testdb_rewind() FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_keep(text, interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_prewarm(text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_template_set(text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_template_begin(text, text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_template_finish(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_template_cancel(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_template_drop(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_stats_reset() FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_uninstall() FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_install() FROM PUBLIC;

--
-- A function that does nothing, which everybody may call for clones of their own.
--

CREATE FUNCTION testdb_uri(name text)
RETURNS text
AS 'MODULE_PATHNAME', 'testdb_uri'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION testdb_uri(text) IS
'the connection URI of a database that testdb_clone made, from the setting testdb.uri; without a password';

--
-- Views: open to everybody, as pg_database is.
--

CREATE FUNCTION testdb_clones(
	OUT oid oid,
	OUT template_oid oid,
	OUT template_name name,
	OUT created_at timestamptz,
	OUT sessions integer,
	OUT state text,
	OUT scope text,
	OUT session_pid integer,
	OUT expires_at timestamptz,
	OUT label text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'testdb_clones'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION testdb_clones() IS
'the databases that testdb made, as it remembers them; see the view testdb_clones';

CREATE VIEW testdb_clones AS
SELECT d.datname AS name,
	coalesce(t.datname, c.template_name) AS template,
	pg_catalog.pg_get_userbyid(d.datdba) AS owner,
	c.created_at,
	c.sessions,
	c.state,
	c.scope,
	c.session_pid,
	c.expires_at,
	c.label
FROM testdb_clones() c
	JOIN pg_catalog.pg_database d ON d.oid = c.oid
	LEFT JOIN pg_catalog.pg_database t ON t.oid = c.template_oid
WHERE c.state IN ('leased', 'dropping');

COMMENT ON VIEW testdb_clones IS
'the databases that testdb_clone has handed out and nobody has dropped';
COMMENT ON COLUMN testdb_clones.name IS 'name of the database';
COMMENT ON COLUMN testdb_clones.template IS
'name of the template it was made from, now, or when it was made if the template has been dropped';
COMMENT ON COLUMN testdb_clones.owner IS 'role that owns it';
COMMENT ON COLUMN testdb_clones.created_at IS 'when it was handed out';
COMMENT ON COLUMN testdb_clones.sessions IS 'number of clients connected to it now';
COMMENT ON COLUMN testdb_clones.state IS 'leased, or dropping while a worker is at it';
COMMENT ON COLUMN testdb_clones.scope IS
'session if it is dropped when the session ends that it was handed out to, else manual';
COMMENT ON COLUMN testdb_clones.session_pid IS 'process ID of that session';
COMMENT ON COLUMN testdb_clones.expires_at IS 'when it is dropped at the latest';
COMMENT ON COLUMN testdb_clones.label IS 'what the caller of testdb_clone said about it';

CREATE FUNCTION testdb_templates(
	OUT oid oid,
	OUT method text,
	OUT reason text,
	OUT snapshot text,
	OUT generation bigint,
	OUT clones integer,
	OUT spares integer,
	OUT wanted integer,
	OUT recycling integer,
	OUT files integer,
	OUT bytes bigint,
	OUT checked_at timestamptz,
	OUT last_error text,
	OUT served bigint,
	OUT passed_on bigint,
	OUT passed_on_reason text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'testdb_templates'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION testdb_templates() IS
'the templates that have been cloned, as testdb remembers them; see the view testdb_templates';

CREATE VIEW testdb_templates AS
SELECT d.datname AS name,
	t.method,
	t.reason,
	t.snapshot,
	t.generation,
	t.clones,
	t.spares,
	t.wanted,
	t.recycling,
	t.files,
	t.bytes,
	t.checked_at,
	t.last_error,
	t.served,
	t.passed_on,
	t.passed_on_reason
FROM testdb_templates() t
	JOIN pg_catalog.pg_database d ON d.oid = t.oid;

COMMENT ON VIEW testdb_templates IS
'the templates that have been cloned since the server started';
COMMENT ON COLUMN testdb_templates.name IS 'name of the template';
COMMENT ON COLUMN testdb_templates.method IS
'how clones are made if testdb.method is native';
COMMENT ON COLUMN testdb_templates.reason IS
'why that is not the native method, or null';
COMMENT ON COLUMN testdb_templates.snapshot IS
'whether the snapshot holds what is committed in the template';
COMMENT ON COLUMN testdb_templates.generation IS
'number of transactions that were committed in the template, as far as counted';
COMMENT ON COLUMN testdb_templates.clones IS 'number of clones that are handed out';
COMMENT ON COLUMN testdb_templates.spares IS 'number of clones that are ready to be handed out';
COMMENT ON COLUMN testdb_templates.wanted IS
'number of clones that should be ready, as far as calls have shown';
COMMENT ON COLUMN testdb_templates.recycling IS
'number of dropped clones that are being made ready';
COMMENT ON COLUMN testdb_templates.files IS 'number of files in the snapshot';
COMMENT ON COLUMN testdb_templates.bytes IS 'size of the snapshot';
COMMENT ON COLUMN testdb_templates.checked_at IS
'when the snapshot was last compared with the template';
COMMENT ON COLUMN testdb_templates.last_error IS
'last error of what was done in the background, or null';
COMMENT ON COLUMN testdb_templates.served IS
'number of CREATE DATABASE commands that testdb has served';
COMMENT ON COLUMN testdb_templates.passed_on IS
'number of those that PostgreSQL has executed itself';
COMMENT ON COLUMN testdb_templates.passed_on_reason IS
'why that was so for the last of them, or null';

CREATE FUNCTION testdb_builds(
	OUT oid oid,
	OUT name name,
	OUT fingerprint text,
	OUT state text,
	OUT builder integer,
	OUT base name,
	OUT built_at timestamptz,
	OUT used_at timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'testdb_builds'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION testdb_builds() IS
'the templates of testdb_template_begin, as testdb remembers them; see the view testdb_builds';

CREATE VIEW testdb_builds AS
SELECT b.name,
	b.fingerprint,
	b.state,
	d.datname AS database,
	pg_catalog.pg_get_userbyid(d.datdba) AS owner,
	b.builder,
	b.base,
	b.built_at,
	b.used_at
FROM testdb_builds() b
	LEFT JOIN pg_catalog.pg_database d ON d.oid = b.oid
WHERE b.state = 'building' OR d.oid IS NOT NULL;

COMMENT ON VIEW testdb_builds IS
'the templates that testdb_template_begin has made';
COMMENT ON COLUMN testdb_builds.name IS 'name that testdb_template_begin was given';
COMMENT ON COLUMN testdb_builds.fingerprint IS 'fingerprint that it was given';
COMMENT ON COLUMN testdb_builds.state IS 'building or ready';
COMMENT ON COLUMN testdb_builds.database IS
'name of the database, or null if it is not made yet';
COMMENT ON COLUMN testdb_builds.owner IS 'role that owns it';
COMMENT ON COLUMN testdb_builds.builder IS
'process ID of the session that builds it, or null if it is ready';
COMMENT ON COLUMN testdb_builds.base IS
'name, at that time, of the database that it was made from';
COMMENT ON COLUMN testdb_builds.built_at IS 'when it was finished';
COMMENT ON COLUMN testdb_builds.used_at IS
'when testdb_template_begin was last called for it, or the server started after that';

CREATE FUNCTION testdb_stats(
	OUT oid oid,
	OUT clones bigint,
	OUT hits bigint,
	OUT misses bigint,
	OUT copies bigint,
	OUT recycled bigint,
	OUT drops bigint,
	OUT reaped bigint,
	OUT files_copied bigint,
	OUT bytes_copied bigint,
	OUT copy_time double precision,
	OUT recycle_time double precision,
	OUT drop_time double precision,
	OUT snapshot_time double precision,
	OUT rewinds bigint,
	OUT rewind_waits bigint,
	OUT rewind_time double precision)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'testdb_stats'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION testdb_stats() IS
'what has been done for each template; see the view testdb_stats';

CREATE VIEW testdb_stats AS
SELECT d.datname AS name,
	s.clones,
	s.hits,
	s.misses,
	s.copies,
	s.recycled,
	s.drops,
	s.reaped,
	s.files_copied,
	s.bytes_copied,
	s.copy_time,
	s.recycle_time,
	s.drop_time,
	s.snapshot_time,
	s.rewinds,
	s.rewind_waits,
	s.rewind_time
FROM testdb_stats() s
	JOIN pg_catalog.pg_database d ON d.oid = s.oid;

COMMENT ON VIEW testdb_stats IS
'what has been done for each template since the server started or testdb_stats_reset was called';
COMMENT ON COLUMN testdb_stats.name IS 'name of the template';
COMMENT ON COLUMN testdb_stats.clones IS 'databases handed out';
COMMENT ON COLUMN testdb_stats.hits IS 'of them, those that were ready';
COMMENT ON COLUMN testdb_stats.misses IS 'of them, those for which none was ready';
COMMENT ON COLUMN testdb_stats.copies IS 'copies made of the whole template';
COMMENT ON COLUMN testdb_stats.recycled IS 'dropped databases that were restored for another life';
COMMENT ON COLUMN testdb_stats.drops IS 'databases dropped';
COMMENT ON COLUMN testdb_stats.reaped IS 'of them, those whose session, lifetime or idle time had ended';
COMMENT ON COLUMN testdb_stats.files_copied IS 'files copied by the native method';
COMMENT ON COLUMN testdb_stats.bytes_copied IS 'size of these files';
COMMENT ON COLUMN testdb_stats.copy_time IS 'time spent in making copies, in milliseconds';
COMMENT ON COLUMN testdb_stats.recycle_time IS 'time spent in restoring, in milliseconds';
COMMENT ON COLUMN testdb_stats.drop_time IS 'time spent in dropping, in milliseconds';
COMMENT ON COLUMN testdb_stats.rewinds IS 'clones rewound under open sessions';
COMMENT ON COLUMN testdb_stats.rewind_waits IS
'transactions that waited for a rewind before they began';
COMMENT ON COLUMN testdb_stats.rewind_time IS
'time from the request for a rewind until the clone could be used, in milliseconds';
COMMENT ON COLUMN testdb_stats.snapshot_time IS
'time spent in bringing the snapshot up to date, in milliseconds';

GRANT SELECT ON testdb_clones, testdb_templates, testdb_builds, testdb_stats TO PUBLIC;
