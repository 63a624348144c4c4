/*-------------------------------------------------------------------------
 *
 * guc.c
 *	  The configuration parameters of testdb.
 *
 * Parameters that size shared memory or start processes need a restart.
 * Those that bound a caller's wait can be set per session, so that one
 * impatient test does not have to change the server.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "debug.h"
#include "guc.h"
#include "uri.h"

int			testdb_workers = 2;
char	   *testdb_database = NULL;
int			testdb_max_clones = 1000;
int			testdb_max_templates = 64;
int			testdb_lock_timeout = 5000;
int			testdb_recycled = 8;
int			testdb_spares = 4;
int			testdb_kept_templates = 3;
char	   *testdb_recycle_statement = NULL;
int			testdb_max_clones_per_role = 0;
int			testdb_min_free_space = 64;
int			testdb_max_spare_size = -1;
int			testdb_snapshot_timeout = 600;
int			testdb_lifetime = 0;
int			testdb_idle_timeout = 0;
int			testdb_log_min_duration = -1;
int			testdb_timeout = 60000;
int			testdb_template_timeout = 5000;
bool		testdb_end_template_sessions = false;
int			testdb_rewind_timeout = 5000;
bool		testdb_serve_create_database = true;
int			testdb_method = TESTDB_METHOD_NATIVE;
char	   *testdb_uri_setting = NULL;

static const struct config_enum_entry method_options[] = {
	{"native", TESTDB_METHOD_NATIVE, false},
	{"file_copy", TESTDB_METHOD_FILE_COPY, false},
	{"wal_log", TESTDB_METHOD_WAL_LOG, false},
	{NULL, 0, false}
};

/*
 * Define all parameters and reserve the prefix.
 *
 * Called once in the postmaster, from _PG_init, while
 * shared_preload_libraries is being processed: PGC_POSTMASTER settings cannot
 * be defined later.
 */
void
guc_define(void)
{
	DefineCustomIntVariable("testdb.workers",
							"Sets the number of background workers that create and drop databases.",
							"Each takes one of max_worker_processes.",
							&testdb_workers,
							2, 1, TESTDB_MAX_WORKERS,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);

	DefineCustomStringVariable("testdb.database",
							   "Sets the database that the background workers connect to.",
							   "This database can be neither cloned nor dropped while the server runs.",
							   &testdb_database,
							   "postgres",
							   PGC_POSTMASTER, 0,
							   NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.max_clones",
							"Sets the maximum number of databases created by testdb that exist at one time.",
							"Shared memory is reserved for this many.",
							&testdb_max_clones,
							1000, 1, TESTDB_MAX_CLONES,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.max_templates",
							"Sets the maximum number of template databases that have clones at one time.",
							"Shared memory is reserved for this many.",
							&testdb_max_templates,
							64, 1, TESTDB_MAX_TEMPLATES,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.lock_timeout",
							"Sets how long a background worker waits for a lock, or for terminated sessions to exit.",
							"A call fails after this time if the caller's own transaction holds a lock that the worker needs.",
							&testdb_lock_timeout,
							5000, 1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.recycled",
							"Sets the number of dropped databases that are kept for reuse, per template and owner.",
							"More are kept if more were in use at one time. 0 means that none are kept.",
							&testdb_recycled,
							8, 0, TESTDB_MAX_CLONES,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.spares",
							"Sets the maximum number of spares, per template and owner.",
							"Spares are databases created in advance. Calls that have to wait raise their number up to this limit, idleness lowers it. 0 means none.",
							&testdb_spares,
							4, 0, TESTDB_MAX_CLONES,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.kept_templates",
							"Sets the number of templates of testdb_template_begin that are kept, per name and owner.",
							"Beyond that, the least recently used ones are dropped, unless they have clones. 0 means that all are kept.",
							&testdb_kept_templates,
							3, 0, TESTDB_MAX_TEMPLATES,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomStringVariable("testdb.recycle_statement",
							   "Sets an SQL statement that is run for each database that is recycled or reset.",
							   "It is run in testdb.database, as a superuser, with the database's OID as $1, for extensions that keep data by OID. Names in it must be schema-qualified.",
							   &testdb_recycle_statement,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.timeout",
							"Sets the maximum time that a call of a testdb function may take, and that a connection waits for a reset of its database, or for a worker that is starting with the server.",
							"After that, what the call requested is undone or finished in the background.",
							&testdb_timeout,
							60000, 1, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.template_timeout",
							"Sets how long to wait for other sessions in a template that has changed to exit.",
							"0 means that a call fails immediately if the template is in use.",
							&testdb_template_timeout,
							5000, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomBoolVariable("testdb.end_template_sessions",
							 "Terminates the sessions that are connected to a changed template, instead of waiting for them.",
							 "It has an effect for members of the role that owns the template. Sessions of superusers are terminated for superusers only.",
							 &testdb_end_template_sessions,
							 false,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.rewind_timeout",
							"Sets how long testdb_rewind waits for transactions in the database to end.",
							"After that it fails, or terminates these sessions if it was called with force.",
							&testdb_rewind_timeout,
							5000, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.max_clones_per_role",
							"Sets the maximum number of databases created by testdb that one role may have.",
							"0 means that only testdb.max_clones limits it.",
							&testdb_max_clones_per_role,
							0, 0, TESTDB_MAX_CLONES,
							PGC_SUSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.min_free_space",
							"Sets the amount of space that testdb leaves free on the data directory's file system.",
							"A database that does not fit is refused, so that there is always space for WAL.",
							&testdb_min_free_space,
							64, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.max_spare_size",
							"Sets the maximum amount of space taken by databases that testdb keeps ready.",
							"-1 means a quarter of the available space. One dropped database of each template is kept regardless.",
							&testdb_max_spare_size,
							-1, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.snapshot_timeout",
							"Sets the time after which the snapshot of a template is removed that has no clones.",
							"It is taken again for the next call. 0 means never.",
							&testdb_snapshot_timeout,
							600, 0, INT_MAX / 1000,
							PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.lifetime",
							"Sets the time after which a database created by testdb is dropped, unless the call specifies another.",
							"0 means never.",
							&testdb_lifetime,
							0, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_S,
							NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.idle_timeout",
							"Sets the time without a session after which a database created by testdb is dropped.",
							"0 means never. The value at the time when the database is handed out applies.",
							&testdb_idle_timeout,
							0, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_S,
							NULL, NULL, NULL);

	DefineCustomIntVariable("testdb.log_min_duration",
							"Sets the minimum duration above which calls of testdb_clone are logged.",
							"0 logs all calls. -1 turns this feature off.",
							&testdb_log_min_duration,
							-1, -1, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomEnumVariable("testdb.method",
							 "Selects the method by which a database is created from its template.",
							 "\"native\" copies a snapshot of the template and recycles dropped databases; \"file_copy\" and \"wal_log\" are the strategies of CREATE DATABASE.",
							 &testdb_method,
							 TESTDB_METHOD_NATIVE, method_options,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);

	DefineCustomBoolVariable("testdb.serve_create_database",
							 "Lets testdb serve CREATE DATABASE and DROP DATABASE.",
							 "Commands that testdb cannot serve are executed by PostgreSQL itself, and all of them if this is off.",
							 &testdb_serve_create_database,
							 true,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);

	DefineCustomStringVariable("testdb.uri",
							   "Sets the connection URI by which clients reach this server.",
							   "testdb_uri adds the name of a database to it. It must not contain a password.",
							   &testdb_uri_setting,
							   "",
							   PGC_USERSET, 0,
							   uri_check, NULL, NULL);

	debug_define();
	MarkGUCPrefixReserved("testdb");
}
