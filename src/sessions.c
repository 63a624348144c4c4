/*-------------------------------------------------------------------------
 *
 * sessions.c
 *	  The sessions in a database: waiting, terminating, describing.
 *
 * Waits here check for interrupts, and are woken by the sessions that exit
 * (exits_watch).  No lock is taken.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/twophase.h"
#include "executor/spi.h"
#include "storage/latch.h"
#include "storage/procarray.h"

#include "compat.h"
#include "database.h"
#include "exits.h"
#include "sessions.h"

/*
 * How long sessions may take to leave by themselves, the interval of checks
 * for sessions that leave without notice, and when to terminate them once
 * more, in ms.
 */
#define LEAVE_TIME			2

#define LOOK_INTERVAL		1

#define END_INTERVAL		100

/*
 * How long a client may take from the lock on its database to its first
 * command before it is terminated, too, in ms.
 */
#define START_TIME			1000

/* Maximum number of sessions named in an error's detail. */
#define MAX_DESCRIBED		5

/*
 * Terminate the processes in a database: all, or only the autovacuum workers.
 * createdb() and dropdb() terminate those, too: the launcher restarts them.
 *
 * If spare_starting is set, a client that is still connecting is not
 * terminated, since its connection would fail; returns true if there is one.
 *
 * A backend too new to appear in the backend status array is terminated on
 * the next pass.
 */
bool
database_signal_sessions(Oid oid, bool all, bool spare_starting)
{
	bool		spared = false;
	int			n;

	pgstat_clear_backend_activity_snapshot();
	n = pgstat_fetch_stat_numbackends();
	for (int i = 1; i <= n; i++)
	{
		PgBackendStatus *status = &pgstat_local_beentry_compat(i)->backendStatus;

		if (status->st_databaseid != oid || status->st_procpid == 0 ||
			(!all && status->st_backendType != B_AUTOVAC_WORKER))
			continue;
		if (spare_starting && status->st_backendType == B_BACKEND &&
			status->st_state == STATE_UNDEFINED)
		{
			spared = true;
			continue;
		}

		/* Including its child processes, as pg_terminate_backend() does. */
#ifdef HAVE_SETSID
		(void) kill(-status->st_procpid, SIGTERM);
#else
		(void) kill(status->st_procpid, SIGTERM);
#endif
	}
	return spared;
}

/*
 * Count the prepared transactions in a database, or in all if name is NULL.
 * In a transaction with a snapshot.
 */
int
database_count_prepared(const char *name)
{
	static SPIPlanPtr plan = NULL;
	Oid			argtypes[1] = {NAMEOID};
	Datum		values[1] = {CStringGetDatum(name)};
	char		nulls[1] = {name ? ' ' : 'n'};
	bool		isnull;
	int64		n;

	if (max_prepared_xacts == 0)
		return 0;

	/* Kept, since planning it takes longer than dropping a database. */
	SPI_connect();
	if (plan == NULL)
	{
		SPIPlanPtr	new = SPI_prepare_cursor("SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_xacts"
											 " WHERE $1 IS NULL OR database OPERATOR(pg_catalog.=) $1",
											 1, argtypes, CURSOR_OPT_GENERIC_PLAN);

		if (new == NULL || SPI_keepplan(new) != 0)
			elog(ERROR, "could not prepare to count prepared transactions");
		plan = new;
	}
	if (SPI_execute_plan(plan, values, nulls, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not count prepared transactions");
	n = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
									1, &isnull));
	SPI_finish();
	return (int) n;
}

/*
 * Return the milliseconds elapsed since start, on a monotonic clock.
 */
static double
elapsed_ms(instr_time start)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return INSTR_TIME_GET_MILLISEC(now);
}

/*
 * Wait until no session is in a database, at most timeout_ms.
 */
static void
await_exits(Oid oid, int timeout_ms)
{
	static uint32 wait_event = 0;
	instr_time	start;

	INSTR_TIME_SET_CURRENT(start);
	exits_watch(oid);
	while (CountDBBackends(oid) > 0 && elapsed_ms(start) < timeout_ms)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LOOK_INTERVAL,
						 wait_event_compat(&wait_event, "TestdbEndSessions"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	exits_watch(InvalidOid);
}

/*
 * Give the sessions in a database time to exit by themselves, at most
 * LEAVE_TIME: those whose clients have just disconnected are exiting, and
 * terminating them would fill the server log.
 *
 * A session that is about to request their termination calls this first,
 * without a lock, so that the worker is free for other requests.
 */
void
database_let_leave(Oid oid)
{
	await_exits(oid, LEAVE_TIME);
}

/*
 * Terminate all sessions in a database, which is locked against new ones, and
 * wait for their exit.  let_left means that database_let_leave has been
 * called.
 *
 * Returns false if there are prepared transactions in it, because of which
 * dropdb() would fail.
 *
 * Errors: 55006 if a session has not exited after testdb.lock_timeout.
 */
bool
database_end_sessions(Oid oid, const char *name, bool let_left)
{
	instr_time	start;
	double		told_at = 0;
	bool		told = false;
	bool		starting = false;

	INSTR_TIME_SET_CURRENT(start);
	if (!let_left)
		database_let_leave(oid);
	while (CountDBBackends(oid) > 0)
	{
		double		elapsed = elapsed_ms(start);

		if (told && elapsed > testdb_lock_timeout)
		{
			char	   *sessions = database_describe_sessions(oid);

			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("database \"%s\" is being accessed by other users",
							name),
					 sessions ? errdetail_internal("%s", sessions) : 0,
					 errhint("They were terminated, but did not exit within %d ms. See \"%s\".",
							 testdb_lock_timeout, "testdb.lock_timeout")));
		}
		if (!told || starting || elapsed - told_at > END_INTERVAL)
		{
			starting = database_signal_sessions(oid, true, elapsed < START_TIME);
			told_at = elapsed;
			told = true;
		}
		await_exits(oid, LEAVE_TIME);
	}
	return database_count_prepared(name) == 0;
}

/*
 * Append to buf which session this is, after nfound others; the caller appends
 * what it does.  False, with nothing appended, if max are described already.
 *
 * The description has what pg_stat_activity shows to all users: process ID,
 * user, application.
 */
bool
sessions_begin_description(StringInfo buf, int nfound, int max,
						   const PgBackendStatus *status)
{
	char	   *user;

	if (nfound >= max)
		return false;
	if (nfound > 0)
		appendStringInfoChar(buf, ' ');
	user = OidIsValid(status->st_userid) ?
		GetUserNameFromId(status->st_userid, true) : NULL;
	appendStringInfo(buf, "Process %d", status->st_procpid);
	if (user)
		appendStringInfo(buf, " of user \"%s\"", user);
	if (status->st_appname && status->st_appname[0])
		appendStringInfo(buf, " (application \"%s\")", status->st_appname);
	return true;
}

/*
 * Return the description of nfound sessions, of which max are described; NULL
 * if there are none.
 */
char *
sessions_end_description(StringInfo buf, int nfound, int max)
{
	if (nfound > max)
		appendStringInfo(buf, " And %d more.", nfound - max);
	return nfound > 0 ? buf->data : NULL;
}

/*
 * Describe the sessions in a database, for the detail of an error, in the
 * current memory context; NULL if there are none.  Any process may call it.
 */
char *
database_describe_sessions(Oid oid)
{
	StringInfoData buf;
	int			nbackends;
	int			nfound = 0;

	initStringInfo(&buf);
	pgstat_clear_backend_activity_snapshot();
	nbackends = pgstat_fetch_stat_numbackends();
	for (int i = 1; i <= nbackends; i++)
	{
		PgBackendStatus *status = &pgstat_local_beentry_compat(i)->backendStatus;

		if (status->st_databaseid == oid && status->st_procpid != 0 &&
			sessions_begin_description(&buf, nfound++, MAX_DESCRIBED, status))
			appendStringInfoString(&buf, " is connected to it.");
	}
	return sessions_end_description(&buf, nfound, MAX_DESCRIBED);
}
