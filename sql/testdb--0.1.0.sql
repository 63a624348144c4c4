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

REVOKE ALL ON FUNCTION testdb_clone(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION testdb_drop(text, boolean) FROM PUBLIC;

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
