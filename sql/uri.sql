-- testdb_uri: what a clone is called from outside.
CREATE EXTENSION testdb;
SELECT current_database() AS home, current_user AS superuser \gset
\pset format unaligned
\pset tuples_only on

CREATE ROLE regress_testdb_owner LOGIN;
CREATE ROLE regress_testdb_member LOGIN IN ROLE regress_testdb_owner;
CREATE ROLE "regress_testdb a@b:c/%" LOGIN;
CREATE DATABASE regression_template OWNER regress_testdb_owner;
ALTER DATABASE regression_template IS_TEMPLATE true;
GRANT EXECUTE ON FUNCTION testdb_clone TO "regress_testdb a@b:c/%";
SELECT testdb_clone('regression_template', 'regression_uri');

-- Not set: an error that says so. Set, it is examined; nothing that is refused changes it.
SHOW testdb.uri;
CREATE FUNCTION error_of(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text;
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE command;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n    ', state || ': ' || message, NULLIF(detail, ''), NULLIF(hint, ''));
END
$$;
-- What a clone is called with this setting, or what is wrong with it.
CREATE FUNCTION uri_with(setting text, name text DEFAULT 'regression_uri') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	PERFORM set_config('testdb.uri', setting, false);
	RETURN regexp_replace(testdb_uri(name), '//' || session_user || '@', '//(superuser)@');
EXCEPTION WHEN invalid_parameter_value THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN detail;
END
$$;
SELECT error_of($$ SELECT testdb_uri('regression_uri') $$);
SELECT error_of($$ SET testdb.uri = 'http://localhost/' $$);
SHOW testdb.uri;

-- With what each is put together: the user of the session, if none is named; always this database.
SELECT uri_with('postgresql://test@db-0.testdb:5432/');
SELECT uri_with('postgresql://test@db-0.testdb:5432');
SELECT uri_with('postgresql://db-0.testdb:5432/');
SELECT uri_with('postgres://db-0.testdb');
SELECT uri_with('postgresql://te%40st@localhost/postgres?sslmode=require&application_name=a%26b');
SELECT uri_with('postgresql://localhost?sslmode=require');
SELECT uri_with('postgresql://localhost?options=-c%20search_path=a@b');
SELECT uri_with('postgresql://test@[2001:db8::1]:65535/');
SELECT uri_with('postgresql://test@[::1]');
SELECT uri_with('postgresql://%2Fvar%2Frun%2Fpostgresql/');
SELECT uri_with('postgresql:///?host=/var/run/postgresql&port=5432');
SELECT uri_with('postgresql://:5433?hostaddr=127.0.0.1&user=test');

-- What is none, or would not lead here.
SELECT uri_with(u) || ' ' || u FROM unnest(ARRAY[
	'x', 'postgresql:/localhost', 'jdbc:postgresql://localhost/',
	'postgresql://local host/', 'postgresql://localhost/#a', 'postgresql://localhost/?a=%', 'postgresql://localhost/?a=%4',
	'postgresql://localhost/?a=%4g', 'postgresql://localhost/?a=%00', U&'postgresql://\00E4.example/', E'postgresql://localhost/\n',
	'postgresql://@localhost', 'postgresql://a@b@c',
	'postgresql://test:secret@localhost/', 'postgresql://test:@localhost/', 'postgresql://localhost/?password=secret',
	'postgresql://localhost/?sslmode=require&PASSWORD=secret', 'postgresql://localhost/?sslpassword=secret',
	'postgresql://localhost/?oauth_client_secret=secret', 'postgresql://localhost/?pass%77ord=secret',
	'postgresql://db-0,db-1/', 'postgresql://db-0:5432,db-1:5432/', 'postgresql://db-0%2Cdb-1/', 'postgresql:///?host=db-0,db-1',
	'postgresql:///?hostaddr=127.0.0.1%2c127.0.0.2',
	'postgresql://localhost:/', 'postgresql://localhost:0/', 'postgresql://localhost:65536/', 'postgresql://localhost:5432x/',
	'postgresql://localhost:99999999999999999999/', 'postgresql://::1/', 'postgresql://[::1/', 'postgresql://[::1]x/',
	'postgresql://localhost/a/b', 'postgresql://localhost/?dbname=a', 'postgresql://localhost/?a=b&Database=a',
	'postgresql://localhost/?', 'postgresql://localhost/?a', 'postgresql://localhost/?=a', 'postgresql://localhost/?a=b&',
	'postgresql:///', 'postgresql://', 'postgresql://:5432/', 'postgresql://test@', 'postgresql://test@:5432?sslmode=require'
]) u;

-- Names are encoded, and lead back to where they came from: libpq understands them.
SELECT testdb_clone('regression_template', 'regression /?&#%@:+"''=') AS odd \gset
SELECT uri_with('postgresql://test@localhost/', :'odd');
SET SESSION AUTHORIZATION "regress_testdb a@b:c/%";
SET testdb.uri = 'postgresql://localhost/';
SELECT testdb_clone('regression_template', 'regression_user');
SELECT testdb_uri('regression_user');
RESET SESSION AUTHORIZATION;
SELECT set_config('testdb.uri', format('postgresql:///?host=%s&port=%s', :'HOST', :'PORT'), false) IS NOT NULL;
SELECT testdb_uri(:'odd') AS uri \gset
\c :"uri"
SELECT current_database() = :'odd', current_user = :'superuser';
\c :"home" :superuser
SELECT testdb_drop(:'odd');

-- In the statement that makes it, and where nothing may be written.
SET testdb.uri = 'postgresql://test@localhost/';
SELECT testdb_uri(name) = 'postgresql://test@localhost/' || name FROM testdb_clone('regression_template') name;
SELECT count(testdb_drop(name)) FROM testdb_clones WHERE name LIKE 'regression\_template\_%';
BEGIN READ ONLY;
SELECT testdb_uri('regression_uri');
ROLLBACK;

-- Everybody may call it, for the clones of roles that they are members of. The user is the one that has logged in, not the one
-- that it has become.
SET testdb.uri = 'postgresql://localhost/';
SET ROLE regress_testdb_member;
SELECT error_of($$ SELECT testdb_uri('regression_uri') $$);
RESET ROLE;
ALTER DATABASE regression_uri OWNER TO regress_testdb_owner;
SET ROLE regress_testdb_member;
SELECT uri_with('postgresql://localhost/');
RESET ROLE;

-- What is no clone, as testdb_drop says it.
SELECT error_of($$ SELECT testdb_uri(NULL) $$);
SELECT error_of($$ SELECT testdb_uri('') $$);
SELECT error_of($$ SELECT testdb_uri(repeat('x', 64)) $$);
SELECT error_of($$ SELECT testdb_uri('regression_missing') $$);
SELECT error_of($$ SELECT testdb_uri('regression_template') $$);
SELECT testdb_drop('regression_uri'), testdb_drop('regression_user');
SELECT error_of($$ SELECT testdb_uri('regression_uri') $$);

ALTER DATABASE regression_template IS_TEMPLATE false;
DROP DATABASE regression_template;
DROP FUNCTION error_of, uri_with;
DROP EXTENSION testdb;
DROP ROLE regress_testdb_owner, regress_testdb_member, "regress_testdb a@b:c/%";
