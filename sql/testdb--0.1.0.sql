/* sql/testdb--0.1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION testdb" to load this file. \quit

CREATE FUNCTION testdb_clone(template text, name text DEFAULT NULL)
RETURNS name
AS 'MODULE_PATHNAME', 'testdb_clone'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_clone(text, text) IS
'make a copy of a template database for the current user, and return its name; not undone by ROLLBACK';

CREATE FUNCTION testdb_drop(name text, missing_ok boolean DEFAULT false)
RETURNS boolean
AS 'MODULE_PATHNAME', 'testdb_drop'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION testdb_drop(text, boolean) IS
'drop a database that testdb_clone made, ending the sessions in it; not undone by ROLLBACK';

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

REVOKE ALL ON FUNCTION testdb_clone(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_drop(text, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_prewarm(text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_template_set(text, integer) FROM PUBLIC;

CREATE FUNCTION testdb_clones(
	OUT oid oid,
	OUT template_oid oid,
	OUT template_name name,
	OUT created_at timestamptz,
	OUT sessions integer)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'testdb_clones'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION testdb_clones() IS
'the databases made by testdb_clone, as testdb remembers them; see the view testdb_clones';

CREATE VIEW testdb_clones AS
SELECT d.datname AS name,
	coalesce(t.datname, c.template_name) AS template,
	pg_catalog.pg_get_userbyid(d.datdba) AS owner,
	c.created_at,
	c.sessions
FROM testdb_clones() c
	JOIN pg_catalog.pg_database d ON d.oid = c.oid
	LEFT JOIN pg_catalog.pg_database t ON t.oid = c.template_oid;

COMMENT ON VIEW testdb_clones IS
'the databases made by testdb_clone that exist now';
COMMENT ON COLUMN testdb_clones.name IS 'name of the database';
COMMENT ON COLUMN testdb_clones.template IS
'name of the template it was made from, now, or when it was made if the template has been dropped';
COMMENT ON COLUMN testdb_clones.owner IS 'role that owns it';
COMMENT ON COLUMN testdb_clones.created_at IS 'when it was made';
COMMENT ON COLUMN testdb_clones.sessions IS 'number of clients connected to it now';

GRANT SELECT ON testdb_clones TO PUBLIC;

CREATE FUNCTION testdb_templates(
	OUT oid oid,
	OUT method text,
	OUT reason text,
	OUT snapshot text,
	OUT generation bigint,
	OUT clones integer,
	OUT spares integer,
	OUT recycling integer,
	OUT files integer,
	OUT bytes bigint,
	OUT checked_at timestamptz)
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
	t.recycling,
	t.files,
	t.bytes,
	t.checked_at
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
COMMENT ON COLUMN testdb_templates.recycling IS
'number of dropped clones that are being made ready';
COMMENT ON COLUMN testdb_templates.files IS 'number of files in the snapshot';
COMMENT ON COLUMN testdb_templates.bytes IS 'size of the snapshot';
COMMENT ON COLUMN testdb_templates.checked_at IS
'when the snapshot was last compared with the template';

GRANT SELECT ON testdb_templates TO PUBLIC;
