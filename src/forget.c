/*-------------------------------------------------------------------------
 *
 * forget.c
 *	  Making other libraries forget the previous uses of databases.
 *
 * A clone that is recycled or reset keeps its OID, so data kept outside of it
 * by a database's OID would mix one use with the next.  What PostgreSQL
 * itself keeps is handled elsewhere (recycle.c, database.c).  This is about
 * extensions:
 *
 *	- pg_stat_statements, if it is in shared_preload_libraries: its function is
 *	  called in its library, whether or not some database has the extension;
 *	- for all others, testdb.recycle_statement: an SQL statement that is run with
 *	  the OID as $1.
 *
 * It happens in a transaction of its own, in a worker, when the previous
 * sessions have ended and before the clone is used again.  A crash before its
 * end is one of recycling: the database is removed at the next server start.
 * If it fails, a clone that was returned is removed, since the next copy has
 * another OID; one that is reset has its content by then, and keeps it.
 * Either way the reason is logged, at most once in a while, and shown in
 * testdb_templates.last_error.
 *
 * The statement runs as the bootstrap superuser, since only superusers can
 * set it; with the worker's search_path, in whose schemas only superusers can
 * create objects; and for at most testdb.lock_timeout.  Its SETs are undone.
 * It cannot commit or roll back.
 *
 * Locks: none of ours; those that the statement takes.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "compat.h"
#include "debug.h"
#include "forget.h"
#include "guc.h"
#include "job.h"

/* Interval at which the same failure is logged again, in ms. */
#define LOG_INTERVAL		60000

#define STATEMENTS_LIBRARY	"pg_stat_statements"

/*
 * This one takes a role, a database and a query, 0 meaning all of them, in
 * every version of the library since 1.7.
 */
#define STATEMENTS_FUNCTION "pg_stat_statements_reset_1_7"

/* The plan of testdb.recycle_statement, and its text. */
static SPIPlanPtr plan = NULL;
static char *planned = NULL;

/*
 * Return the name of pg_stat_statements in shared_preload_libraries, which
 * may have a path, or NULL.  It cannot change while the server runs.
 */
static const char *
statements_library(void)
{
	static bool known = false;
	static char *library = NULL;
	List	   *names = NIL;
	ListCell   *lc;
	char	   *copy;

	if (known)
		return library;
	copy = pstrdup(shared_preload_libraries_string ? shared_preload_libraries_string : "");
	if (SplitDirectoriesString(copy, ',', &names))
	{
		foreach(lc, names)
		{
			const char *path = lfirst(lc);
			const char *base = strrchr(path, '/');

			base = base ? base + 1 : path;
			if (strcmp(base, STATEMENTS_LIBRARY) == 0 ||
				strcmp(base, STATEMENTS_LIBRARY ".so") == 0)
				library = MemoryContextStrdup(TopMemoryContext, path);
		}
	}
	known = true;
	return library;
}

/*
 * Make pg_stat_statements forget these databases.
 */
static void
forget_statements(const Oid *oids, int n)
{
	static PGFunction reset = NULL;

	if (reset == NULL)
		reset = (PGFunction) load_external_function(statements_library(),
													STATEMENTS_FUNCTION, true, NULL);
	for (int i = 0; i < n; i++)
		(void) DirectFunctionCall3(reset, ObjectIdGetDatum(InvalidOid),
								   ObjectIdGetDatum(oids[i]), Int64GetDatum(0));
}

/*
 * Ensure that there is a plan of testdb.recycle_statement.  Within SPI.
 *
 * Errors: those of planning the statement.
 */
static void
prepare_statement(void)
{
	Oid			type = OIDOID;

	if (plan != NULL && strcmp(planned, testdb_recycle_statement) == 0)
		return;
	if (plan != NULL)
	{
		SPI_freeplan(plan);
		plan = NULL;
		pfree(planned);
	}
	planned = MemoryContextStrdup(TopMemoryContext, testdb_recycle_statement);
	plan = SPI_prepare(planned, 1, &type);
	if (plan == NULL || SPI_keepplan(plan) != 0)
	{
		plan = NULL;
		pfree(planned);
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("statement cannot be prepared: %s",
						SPI_result_code_string(SPI_result))));
	}
}

/*
 * Run testdb.recycle_statement for these databases.
 *
 * Errors: those of the statement; 57014 after testdb.lock_timeout; 0A000 for
 * one that ends transactions.
 */
static void
run_statement(const Oid *oids, int n)
{
	int			level = NewGUCNestLevel();
	int			result = 0;

	SPI_connect();
	enable_timeout_after(STATEMENT_TIMEOUT, testdb_lock_timeout);
	prepare_statement();
	for (int i = 0; i < n && result >= 0; i++)
	{
		Datum		value = ObjectIdGetDatum(oids[i]);

		result = SPI_execute_plan(plan, &value, NULL, false, 0);
	}
	disable_timeout(STATEMENT_TIMEOUT, false);
	if (result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("statement cannot be run: %s", SPI_result_code_string(result))));
	SPI_finish();
	AtEOXact_GUC(false, level);
}

/*
 * Log a failure, unless the same one was logged a short while ago.
 */
static void
log_failure(const ErrorData *edata)
{
	static TimestampTz last = 0;
	static char last_message[256] = "";
	TimestampTz now = GetCurrentTimestamp();

	if (strncmp(last_message, edata->message, sizeof(last_message) - 1) == 0 &&
		!TimestampDifferenceExceeds(last, now, LOG_INTERVAL))
		return;
	last = now;
	strlcpy(last_message, edata->message, sizeof(last_message));
	ereport(LOG,
			(errcode(edata->sqlerrcode),
			 errmsg("could not make extensions forget recycled databases: %s",
					edata->message),
			 edata->detail ? errdetail_internal("%s", edata->detail) : 0,
			 errhint("Check \"%s\". Until this succeeds, databases are dropped instead of being recycled.",
					 "testdb.recycle_statement")));
}

/*
 * Make other libraries forget what they keep about n databases.  For a
 * worker, outside a transaction.  On failure, logs the reason and returns
 * false with it in *message, which lives until the end of the cycle.
 */
bool
forget_previous_uses(const Oid *oids, int n, char **message)
{
	bool		statement = testdb_recycle_statement[0] != '\0';
	volatile bool done = true;

	if (n == 0 || (!statement && statements_library() == NULL))
		return true;
	PG_TRY();
	{
		job_begin_work();
		debug_point("forget-begun");
		if (statements_library() != NULL)
			forget_statements(oids, n);
		if (statement)
			run_statement(oids, n);
		debug_point("forget-done");
		job_commit_work();
	}
	PG_CATCH();
	{
		ErrorData  *edata = job_rollback_work();

		done = false;
		*message = edata->message;
		log_failure(edata);
	}
	PG_END_TRY();
	return done;
}
