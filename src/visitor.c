/*-------------------------------------------------------------------------
 *
 * visitor.c
 *	  Short-lived workers that connect to a database.
 *
 * Work that is only possible from within a database, such as rolling back its
 * prepared transactions, is done by a background worker of its own, started
 * and waited for by a testdb worker.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/twophase.h"
#include "executor/spi.h"
#include "postmaster/bgworker.h"
#include "tcop/tcopprot.h"

#include "compat.h"
#include "database.h"
#include "visitor.h"

/* How long a visitor waits for a lock, in ms. */
#define VISITOR_LOCK_TIMEOUT 1000

PGDLLEXPORT void testdb_rollback_main(Datum main_arg);

/*
 * Run one of the library's functions, with the database's OID as its
 * argument, in a background worker with this name that the function connects
 * to the database, and wait for its exit; false if it could not be started.
 * The database must not be locked by this transaction, which must hold no
 * other locks that the worker needs.
 */
bool
database_visit(Oid oid, const char *function, const char *name)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION |
		BGWORKER_INTERRUPTIBLE;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "testdb", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, function, BGW_MAXLEN);
	strlcpy(worker.bgw_name, name, BGW_MAXLEN);
	strlcpy(worker.bgw_type, name, BGW_MAXLEN);
	worker.bgw_main_arg = ObjectIdGetDatum(oid);
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, &handle) &&
		WaitForBackgroundWorkerShutdown(handle) == BGWH_STOPPED;
}

/*
 * Connect a visitor to its database.  It does not wait long for a lock, since
 * a worker waits for it, which the deadlock detector cannot see.
 */
void
database_init_visitor(Oid oid)
{
	char		timeout[16];

	snprintf(timeout, sizeof(timeout), "%d", VISITOR_LOCK_TIMEOUT);
	SetConfigOption("lock_timeout", timeout, PGC_SUSET, PGC_S_OVERRIDE);
	/* Exit where that is safe, not inside the signal handler. */
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(oid, InvalidOid,
											  BGWORKER_BYPASS_ALLOWCONN);
	database_secure_session(VISITOR_LOCK_TIMEOUT);
}

/*
 * Entry point of a background worker that rolls back all prepared transactions
 * of a database, which can only be done from within it.
 */
void
testdb_rollback_main(Datum main_arg)
{
	Oid			database = DatumGetObjectId(main_arg);
	MemoryContext cxt = CurrentMemoryContext;
	char		query[128];
	List	   *gids = NIL;
	ListCell   *lc;

	database_init_visitor(database);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	/* Not the view, since the clone's owner may have dropped it. */
	snprintf(query, sizeof(query),
			 "SELECT gid FROM pg_catalog.pg_prepared_xact()"
			 " WHERE dbid OPERATOR(pg_catalog.=) %u::pg_catalog.oid", database);
	if (SPI_execute(query, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not list prepared transactions");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);

		gids = lappend(gids, SPI_getvalue(SPI_tuptable->vals[i],
										  SPI_tuptable->tupdesc, 1));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();

	foreach(lc, gids)
	{
		StartTransactionCommand();
		FinishPreparedTransaction(lfirst(lc), false);
		CommitTransactionCommand();
	}
}

/*
 * Roll back all prepared transactions of a database; false if no process
 * could be started for that.  The caller checks whether any are left.
 */
bool
database_rollback_prepared(Oid oid)
{
	return database_visit(oid, "testdb_rollback_main", "testdb rollback");
}
