/* sql/testdb--0.1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION testdb" to load this file. \quit

--
-- Functions that change something: only superusers may call them, until
-- EXECUTE is granted.
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
'create a copy of a template database for the current user, or take one that is ready, and return its name; not undone by ROLLBACK';

CREATE FUNCTION testdb_drop(name text, missing_ok boolean DEFAULT false)
RETURNS boolean
AS 'MODULE_PATHNAME', 'testdb_drop'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_drop(text, boolean) IS
'drop a database that testdb created and terminate the sessions in it; not undone by ROLLBACK';

CREATE FUNCTION testdb_drop_all(template text DEFAULT NULL, label text DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'testdb_drop_all'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_drop_all(text, text) IS
'drop all databases that testdb_clone created for the current user, optionally only those of one template or with one label, and return their number';

CREATE FUNCTION testdb_reset(name text)
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_reset'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_reset(text) IS
'restore a database that testdb created to the state of a new one, with the template''s content and settings and its first owner, and terminate the sessions in it';

CREATE FUNCTION testdb_rewind(name text, force boolean DEFAULT false)
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_rewind'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_rewind(text, boolean) IS
'restore a database that testdb created to its template''s content while sessions stay connected to it; not undone by ROLLBACK';

CREATE PROCEDURE testdb_rewind()
AS 'MODULE_PATHNAME', 'testdb_rewind_current'
LANGUAGE C;

COMMENT ON PROCEDURE testdb_rewind() IS
'restore the current database to its template''s content while sessions stay connected to it';

CREATE FUNCTION testdb_keep(name text, lifetime interval DEFAULT '1 day')
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_keep'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_keep(text, interval) IS
'keep a database that testdb created beyond the end of its session, for this time from now, or until it is dropped (null)';

CREATE FUNCTION testdb_prewarm(template text, spares integer)
RETURNS integer
AS 'MODULE_PATHNAME', 'testdb_prewarm'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_prewarm(text, integer) IS
'wait until this number of spares of a template is ready for the current user, and return the number that is ready';

CREATE FUNCTION testdb_template_set(template text, spares integer)
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_template_set'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_template_set(text, integer) IS
'set the maximum number of spares of a template, instead of testdb.spares (null), until the server restarts';

CREATE FUNCTION testdb_template_begin(
	name text,
	fingerprint text,
	base text DEFAULT NULL,
	OUT database name,
	OUT build boolean)
AS 'MODULE_PATHNAME', 'testdb_template_begin'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_template_begin(text, text, text) IS
'return the template with this name and fingerprint, after waiting for another session that builds it; or a database to build it in, copied from base; not undone by ROLLBACK';

CREATE FUNCTION testdb_template_finish(database text)
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_template_finish'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_template_finish(text) IS
'mark a database from testdb_template_begin as a finished template, which all roles may clone; not undone by ROLLBACK';

CREATE FUNCTION testdb_template_cancel(database text)
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_template_cancel'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_template_cancel(text) IS
'drop a database from testdb_template_begin, so that another session can build the template';

CREATE FUNCTION testdb_template_drop(name text, fingerprint text DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'testdb_template_drop'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_template_drop(text, text) IS
'drop the finished templates with this name, or the one with this fingerprint, and return their number';

CREATE FUNCTION testdb_stats_reset()
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_stats_reset'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_stats_reset() IS
'reset the counters in testdb_stats to zero';

CREATE FUNCTION testdb_uninstall(OUT name name, OUT template name, OUT owner name)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'testdb_uninstall'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_uninstall() IS
'remove everything that testdb keeps ready in the server, create no more databases, and return those in use';

CREATE FUNCTION testdb_install()
RETURNS void
AS 'MODULE_PATHNAME', 'testdb_install'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_install() IS
'allow testdb to create databases again after testdb_uninstall, as CREATE EXTENSION testdb does';

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
'return the connection URI of a database that testdb created, from the parameter testdb.uri; without a password';

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
'databases that testdb created, in every state; see the view testdb_clones';

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
WHERE c.state IN ('leased', 'dropping', 'rewinding', 'interrupted');

COMMENT ON VIEW testdb_clones IS
'databases that testdb has handed out and that have not been dropped';
COMMENT ON COLUMN testdb_clones.name IS 'name of the database';
COMMENT ON COLUMN testdb_clones.template IS
'current name of its template, or its name at creation time if the template has been dropped';
COMMENT ON COLUMN testdb_clones.owner IS 'role that owns it';
COMMENT ON COLUMN testdb_clones.created_at IS 'time when it was handed out';
COMMENT ON COLUMN testdb_clones.sessions IS 'number of clients connected to it now';
COMMENT ON COLUMN testdb_clones.state IS
'leased; dropping or rewinding while a worker does that; interrupted after an interrupted reset or rewind, until the clone has been restored';
COMMENT ON COLUMN testdb_clones.scope IS
'session if it is dropped at the end of the session to which it was handed out, database if it was created by CREATE DATABASE, else manual';
COMMENT ON COLUMN testdb_clones.session_pid IS 'process ID of the session, if the scope is session';
COMMENT ON COLUMN testdb_clones.expires_at IS 'time at which it is dropped at the latest';
COMMENT ON COLUMN testdb_clones.label IS 'label specified by the caller of testdb_clone';

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
	OUT passed_on_reason text,
	OUT snapshot_bytes bigint,
	OUT spare_bytes bigint,
	OUT clone_bytes bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'testdb_templates'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION testdb_templates() IS
'templates that have been cloned; see the view testdb_templates';

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
	t.passed_on_reason,
	t.snapshot_bytes,
	t.spare_bytes,
	t.clone_bytes
FROM testdb_templates() t
	JOIN pg_catalog.pg_database d ON d.oid = t.oid;

COMMENT ON VIEW testdb_templates IS
'templates that have been cloned since the server started';
COMMENT ON COLUMN testdb_templates.name IS 'name of the template';
COMMENT ON COLUMN testdb_templates.method IS
'method by which clones are created if testdb.method is native';
COMMENT ON COLUMN testdb_templates.reason IS
'reason why the method is not native, or null';
COMMENT ON COLUMN testdb_templates.snapshot IS
'whether the snapshot has everything that is committed in the template';
COMMENT ON COLUMN testdb_templates.generation IS
'number of transactions committed in the template, as far as counted';
COMMENT ON COLUMN testdb_templates.clones IS 'number of clones in use';
COMMENT ON COLUMN testdb_templates.spares IS 'number of spares, which are ready to be handed out';
COMMENT ON COLUMN testdb_templates.wanted IS
'target number of spares, according to recent calls';
COMMENT ON COLUMN testdb_templates.recycling IS
'number of dropped clones that are being restored';
COMMENT ON COLUMN testdb_templates.files IS 'number of files in the snapshot';
COMMENT ON COLUMN testdb_templates.bytes IS 'size of the snapshot';
COMMENT ON COLUMN testdb_templates.checked_at IS
'time when the snapshot was last compared with the template';
COMMENT ON COLUMN testdb_templates.last_error IS
'last error of background work, or null';
COMMENT ON COLUMN testdb_templates.served IS
'number of CREATE DATABASE commands that testdb has served';
COMMENT ON COLUMN testdb_templates.passed_on IS
'number of CREATE DATABASE commands that testdb has passed on to PostgreSQL';
COMMENT ON COLUMN testdb_templates.passed_on_reason IS
'reason why the last of them was passed on, or null';
COMMENT ON COLUMN testdb_templates.snapshot_bytes IS
'size of the copy of the template from which clones are created; 0 if they are created from the template itself';
COMMENT ON COLUMN testdb_templates.spare_bytes IS
'size of the databases that are ready, being restored or to be removed, assuming that each has the size of the template';
COMMENT ON COLUMN testdb_templates.clone_bytes IS
'size of the clones in use, assuming that each has the size of the template';

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
'templates of testdb_template_begin; see the view testdb_builds';

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
'templates that sessions have built, or are building, after testdb_template_begin';
COMMENT ON COLUMN testdb_builds.name IS 'name passed to testdb_template_begin';
COMMENT ON COLUMN testdb_builds.fingerprint IS 'fingerprint passed to testdb_template_begin';
COMMENT ON COLUMN testdb_builds.state IS 'building or ready';
COMMENT ON COLUMN testdb_builds.database IS
'name of the database, or null if it has not been created yet';
COMMENT ON COLUMN testdb_builds.owner IS 'role that owns it';
COMMENT ON COLUMN testdb_builds.builder IS
'process ID of the session that is building it, or null if it is ready';
COMMENT ON COLUMN testdb_builds.base IS
'name, at that time, of the database from which it was copied';
COMMENT ON COLUMN testdb_builds.built_at IS 'time when it was finished';
COMMENT ON COLUMN testdb_builds.used_at IS
'time when testdb_template_begin was last called for it, or when the server started if that is later';

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
	OUT rewind_time double precision,
	OUT occupied_bytes bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'testdb_stats'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION testdb_stats() IS
'statistics of each template; see the view testdb_stats';

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
	s.rewind_time,
	s.occupied_bytes
FROM testdb_stats() s
	JOIN pg_catalog.pg_database d ON d.oid = s.oid;

COMMENT ON VIEW testdb_stats IS
'statistics of each template since the server started or testdb_stats_reset was called';
COMMENT ON COLUMN testdb_stats.name IS 'name of the template';
COMMENT ON COLUMN testdb_stats.clones IS 'number of databases handed out';
COMMENT ON COLUMN testdb_stats.hits IS 'number of these for which a spare was ready';
COMMENT ON COLUMN testdb_stats.misses IS 'number of these for which no spare was ready';
COMMENT ON COLUMN testdb_stats.copies IS 'number of copies of the whole template';
COMMENT ON COLUMN testdb_stats.recycled IS 'number of dropped databases that were restored for reuse';
COMMENT ON COLUMN testdb_stats.drops IS 'number of databases dropped';
COMMENT ON COLUMN testdb_stats.reaped IS 'number of these whose session, lifetime or idle time had ended';
COMMENT ON COLUMN testdb_stats.files_copied IS 'number of files copied by the native method';
COMMENT ON COLUMN testdb_stats.bytes_copied IS 'size of these files';
COMMENT ON COLUMN testdb_stats.copy_time IS 'time spent copying, in milliseconds';
COMMENT ON COLUMN testdb_stats.recycle_time IS 'time spent restoring dropped databases, in milliseconds';
COMMENT ON COLUMN testdb_stats.drop_time IS 'time spent dropping databases, in milliseconds';
COMMENT ON COLUMN testdb_stats.rewinds IS 'number of rewinds';
COMMENT ON COLUMN testdb_stats.rewind_waits IS
'number of transactions that had to wait for a rewind before they began';
COMMENT ON COLUMN testdb_stats.rewind_time IS
'time from the requests for rewinds until the clones could be used, in milliseconds';
COMMENT ON COLUMN testdb_stats.snapshot_time IS
'time spent bringing the snapshot up to date, in milliseconds';
COMMENT ON COLUMN testdb_stats.occupied_bytes IS
'present size of the snapshot, the spares and the clones, as in testdb_templates';

GRANT SELECT ON testdb_clones, testdb_templates, testdb_builds, testdb_stats TO PUBLIC;
