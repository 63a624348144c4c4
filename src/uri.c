/*-------------------------------------------------------------------------
 *
 * uri.c
 *	  Connection URIs for clones.
 *
 * A clone is on one server, and a client that uses several must connect to
 * that one.  testdb.uri has the address by which clients reach the server;
 * testdb_uri() puts a clone's name into it.
 *
 * Everybody can read the parameter, so it must not contain a password, and
 * neither does the result.  It is checked when it is set (uri_check), by
 * libpq's rules where RFC 3986 leaves room, so that a URI built from its
 * parts means the same to every client.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "functions.h"
#include "guc.h"
#include "start.h"
#include "testdb.h"
#include "uri.h"

/* The parts of a URI; they point into it and are not terminated. */
typedef struct UriParts
{
	int			scheme_len;		/* with "://", from the URI's beginning */
	const char *user;			/* before "@" */
	int			user_len;		/* -1 if there is no "@" */
	const char *host;			/* with the port, if it has one */
	int			host_len;
	const char *query;			/* behind "?", to the URI's end; or NULL */
	bool		has_user;		/* there, or as a parameter */
	bool		has_host;
} UriParts;

/* Parameters that would bring in a secret, or another database. */
static const char *const secret_parameters[] = {
	"password", "sslpassword", "oauth_client_secret"
};
static const char *const database_parameters[] = {
	"dbname", "database"
};

SQL_FUNCTION(testdb_uri);

/*
 * Report whether a word of this length is one of n words.
 */
static bool
is_one_of(const char *const *words, int n, const char *word, size_t len)
{
	for (int i = 0; i < n; i++)
	{
		if (strlen(words[i]) == len && pg_strncasecmp(words[i], word, len) == 0)
			return true;
	}
	return false;
}

/*
 * Report whether this byte needs no encoding in a name, anywhere in a URI.
 */
static bool
is_unreserved(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		(c >= '0' && c <= '9') || (c != '\0' && strchr("-._~", c) != NULL);
}

/*
 * Report whether all characters are allowed in a URI.  "#" is, but has no
 * meaning for a server, and is refused.
 */
static bool
has_uri_characters(const char *uri)
{
	for (const char *p = uri; *p; p++)
	{
		if (*p == '%')
		{
			if (!isxdigit((unsigned char) p[1]) || !isxdigit((unsigned char) p[2]) ||
				(p[1] == '0' && p[2] == '0'))
				return false;
			p += 2;
		}
		else if (!is_unreserved(*p) && !strchr(":/?[]@!$&'()*+,;=", *p))
			return false;
	}
	return true;
}

/*
 * Report whether there is a comma in these bytes, literal or encoded, which
 * separates servers for libpq.
 */
static bool
names_several(const char *hosts, int len)
{
	for (int i = 0; i < len; i++)
	{
		if (hosts[i] == ',' ||
			(len - i >= 3 && pg_strncasecmp(hosts + i, "%2c", 3) == 0))
			return true;
	}
	return false;
}

/*
 * Check a host and port: return an error as a sentence, or NULL.
 */
static const char *
check_host(const char *host, int len)
{
	const char *end = host + len;
	const char *p = host;
	long		port = 0;

	if (names_several(host, len))
		return "It names several servers.";
	if (p < end && *p == '[')
	{
		p = memchr(p, ']', end - p);
		if (p == NULL)
			return "An address in it has no \"]\".";
		p++;
	}
	else
	{
		while (p < end && *p != ':' && *p != '[' && *p != ']' && *p != '@')
			p++;
	}
	if (p == end)
		return NULL;
	if (*p++ != ':')
		return "The host is not valid.";
	for (; p < end && isdigit((unsigned char) *p) && port <= 65535; p++)
		port = port * 10 + (*p - '0');
	if (p < end || port < 1 || port > 65535)
		return "The port is not valid.";
	return NULL;
}

/*
 * The same for one parameter, whose meaning is recorded in *parts.
 */
static const char *
check_parameter(const char *parameter, size_t len, UriParts *parts)
{
	const char *value = memchr(parameter, '=', len);
	size_t		key_len;

	if (value == NULL || value == parameter)
		return "It has a parameter that is not of the form name=value.";
	key_len = value - parameter;
	value++;
	if (memchr(parameter, '%', key_len))
		return "It has a parameter whose name is percent-encoded.";
	if (is_one_of(secret_parameters, lengthof(secret_parameters), parameter, key_len))
		return "It must not contain a password, since everybody can read it.";
	if (is_one_of(database_parameters, lengthof(database_parameters), parameter, key_len))
		return "It has a parameter that names a database.";
	if (key_len == 4 && strncmp(parameter, "user", 4) == 0)
		parts->has_user = true;
	if ((key_len == 4 && strncmp(parameter, "host", 4) == 0) ||
		(key_len == 8 && strncmp(parameter, "hostaddr", 8) == 0))
	{
		if (names_several(value, parameter + len - value))
			return "It names several servers.";
		parts->has_host = true;
	}
	return NULL;
}

/*
 * The same for all parameters.
 */
static const char *
check_query(UriParts *parts)
{
	const char *p = parts->query;
	const char *problem;

	if (p == NULL)
		return NULL;
	for (;;)
	{
		size_t		len = strcspn(p, "&");

		problem = check_parameter(p, len, parts);
		if (problem != NULL || p[len] == '\0')
			return problem;
		p += len + 1;
	}
}

/*
 * Find the parts of a URI.  Returns an error as a sentence, or NULL.
 */
static const char *
parse_uri(const char *uri, UriParts *parts)
{
	const char *problem;
	const char *authority;
	const char *path;
	const char *at;

	memset(parts, 0, sizeof(*parts));
	if (strncmp(uri, "postgresql://", 13) == 0)
		parts->scheme_len = 13;
	else if (strncmp(uri, "postgres://", 11) == 0)
		parts->scheme_len = 11;
	else
		return "It must begin with \"postgresql://\".";
	if (!has_uri_characters(uri))
		return "It contains a character that must be percent-encoded.";

	authority = uri + parts->scheme_len;
	path = authority + strcspn(authority, "/?");
	at = memchr(authority, '@', path - authority);
	parts->user = authority;
	parts->user_len = at ? at - authority : -1;
	parts->has_user = at != NULL;
	parts->host = at ? at + 1 : authority;
	parts->host_len = path - parts->host;
	parts->has_host = parts->host_len > 0 && parts->host[0] != ':';
	if (*path == '/')
		path += 1 + strcspn(path + 1, "/?");
	if (*path == '/')
		return "Only the name of a database can follow its host.";
	parts->query = *path == '?' ? path + 1 : NULL;

	if (at == authority)
		return "The user name in it is empty.";
	if (at && memchr(authority, ':', at - authority))
		return "It must not contain a password, since everybody can read it.";
	problem = check_host(parts->host, parts->host_len);
	if (problem == NULL)
		problem = check_query(parts);
	if (problem == NULL && !parts->has_host)
		problem = "It names no host.";
	return problem;
}

/*
 * The check hook of testdb.uri: empty, or a URI by which clients reach this
 * server.
 */
bool
uri_check(char **newval, void **extra pg_attribute_unused(),
		  GucSource source pg_attribute_unused())
{
	UriParts	parts;
	const char *problem;

	if (*newval == NULL || (*newval)[0] == '\0')
		return true;
	problem = parse_uri(*newval, &parts);
	if (problem)
		GUC_check_errdetail("%s", problem);
	return problem == NULL;
}

/*
 * Append a name, percent-encoded.
 */
static void
append_encoded(StringInfo buf, const char *name)
{
	for (const char *p = name; *p; p++)
	{
		if (is_unreserved(*p))
			appendStringInfoChar(buf, *p);
		else
			appendStringInfo(buf, "%%%02X", (unsigned char) *p);
	}
}

/*
 * Build the URI of a database with this name on the server of uri.  Replaces
 * the name of a database in it.  The user is the one in it, or else the one
 * that this session was opened by.
 */
static char *
build_uri(const char *uri, const char *database)
{
	UriParts	parts;
	StringInfoData buf;
	const char *problem = parse_uri(uri, &parts);

	if (problem)
		elog(ERROR, "malformed value of \"%s\": %s", "testdb.uri", problem);
	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, uri, parts.scheme_len);
	if (parts.user_len > 0)
		appendBinaryStringInfo(&buf, parts.user, parts.user_len);
	else if (!parts.has_user)
		append_encoded(&buf, GetUserNameFromId(GetSessionUserId(), false));
	if (parts.user_len > 0 || !parts.has_user)
		appendStringInfoChar(&buf, '@');
	appendBinaryStringInfo(&buf, parts.host, parts.host_len);
	appendStringInfoChar(&buf, '/');
	append_encoded(&buf, database);
	if (parts.query)
		appendStringInfo(&buf, "?%s", parts.query);
	return buf.data;
}

/*
 * testdb_uri(name text) returns text
 *
 * For the clone's owner and members of that role, as with testdb_drop.  After
 * a server start, waits until the registry has been rebuilt.  Nothing is
 * locked: the clone may be dropped just after the check.
 *
 * Errors: 22004 and 42602 for the name; 3D000 if there is no such database;
 * 42809, 42501, 55000 from check_owned; 55000 if testdb.uri is empty.
 */
Datum
testdb_uri(PG_FUNCTION_ARGS)
{
	char	   *name;
	Oid			oid;

	testdb_check_library();
	name = get_name_argument(fcinfo, 0, "database name");
	oid = find_database(name);
	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("database \"%s\" does not exist", name)));
	start_await_for_view();
	(void) check_owned(oid, name);
	if (testdb_uri_setting[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("parameter \"%s\" is not set", "testdb.uri"),
				 errdetail("The server does not know the address by which clients reach it."),
				 errhint("Set it to the connection URI that clients use, such as \"%s\".",
						 "postgresql://db.example.org:5432/")));
	PG_RETURN_TEXT_P(cstring_to_text(build_uri(testdb_uri_setting, name)));
}
