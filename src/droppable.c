/*-------------------------------------------------------------------------
 *
 * droppable.c
 *	  Making a database droppable, and describing what prevents that.
 *
 * dropdb() refuses to drop a database that is marked as a template, or has a
 * subscription.  A clone's owner can do both.  testdb drops such clones
 * nevertheless, so these are undone first:
 *
 *	what							how								after a crash
 *	1  is_template					in place in the row, for good	the lease says
 *	2  subscriptions, their owner,	in the transaction that drops	UNWANTED: the
 *	   origins and statistics		the database					drop is done again
 *	3  the database					dropdb()
 *
 * The first can't be part of the transaction: dropdb() marks the row as
 * invalid in place, which must outlive a failure, and so must not be done to
 * a version of the row that the failure would undo.  If the drop is refused
 * after all, the database is no longer a template.
 *
 * Subscriptions are detached as ALTER SUBSCRIPTION ... SET (slot_name = NONE)
 * and DROP SUBSCRIPTION would do: no connection to the publisher is made, and
 * its slot there stays.  The subscription's own processes have been
 * terminated before, like all sessions in the database.  Until the drop is
 * committed the launcher starts no new ones: the database is locked.
 *
 * What a live process holds cannot be undone.  Errors name it: the holders of
 * a lock, the prepared transactions that are left, and the process that has
 * not accepted the barrier that dropdb() waits for.  The last is known only
 * to core, which logs it in the waiting process after 5 s; a hook in that
 * process reads it from there.  If it was not logged yet, the processes that
 * accept no barrier in their present state are listed: those that wait for a
 * client in the middle of a statement, and background workers of other
 * extensions, many of which sleep without processing interrupts.
 *
 * Everything here runs in a worker, in a transaction.
 *
 * Locks: RowExclusiveLock on the catalogs that are changed, AccessExclusiveLock
 * on a subscription; the caller has AccessExclusiveLock on the database.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_database.h"
#include "catalog/pg_replication_origin.h"
#include "catalog/pg_subscription.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "replication/origin.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"

#include "compat.h"
#include "droppable.h"

/* Maximum number of processes, or transactions, named in a detail. */
#define MAX_DESCRIBED		5

/* What core logs about a process that it waits for. */
#define BARRIER_MESSAGE		"to accept ProcSignalBarrier"

static emit_log_hook_type previous_log_hook = NULL;
static bool watching = false;
static int	barrier_pid = 0;

/*
 * Change a database's row in place: is_template becomes false, or, if limit
 * is not NULL, the connection limit becomes *limit.  Nothing is written if it
 * is so already, or if there is no row.
 *
 * Waits for a transaction that has changed the row: 55P03 after lock_timeout.
 */
static void
change_row(Oid oid, const int *limit)
{
	Relation	rel = table_open(DatabaseRelationId, RowExclusiveLock);
	Form_pg_database form;
	ScanKeyData key;
	HeapTuple	tuple;
	void	   *state;

	ScanKeyInit(&key, Anum_pg_database_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(oid));
	systable_inplace_update_begin(rel, DatabaseOidIndexId, true, NULL, 1, &key,
								  &tuple, &state);
	if (HeapTupleIsValid(tuple))
	{
		form = (Form_pg_database) GETSTRUCT(tuple);
		if (limit ? form->datconnlimit == *limit : !form->datistemplate)
			systable_inplace_update_cancel(state);
		else
		{
			if (limit)
				form->datconnlimit = *limit;
			else
				form->datistemplate = false;
			systable_inplace_update_finish(state, tuple);
		}
		heap_freetuple(tuple);
	}
	table_close(rel, RowExclusiveLock);

	/* dropdb() reads it from the catalog cache. */
	CommandCounterIncrement();
	AcceptInvalidationMessages();
}

/*
 * Set a database's connection limit, in place. -2 marks it as invalid, any
 * other limit removes that mark.
 *
 * Errors: 55P03 after lock_timeout.
 */
void
droppable_set_connection_limit(Oid oid, int limit)
{
	change_row(oid, &limit);
}

/*
 * Drop the replication origins of a subscription: the one named after it, and
 * those of tables whose first copy is not complete.
 *
 * Errors: 55006 if a process uses one.
 */
static void
drop_origins(Oid subscription)
{
	Relation	rel = table_open(ReplicationOriginRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	char	   *prefix = psprintf("pg_%u", subscription);
	size_t		length = strlen(prefix);
	List	   *names = NIL;
	ListCell   *lc;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_pg_replication_origin_roname,
										 RelationGetDescr(rel), &isnull);
		char	   *name = isnull ? "" : TextDatumGetCString(value);

		if (strncmp(name, prefix, length) == 0 &&
			(name[length] == '\0' || name[length] == '_'))
			names = lappend(names, name);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	foreach(lc, names)
		replorigin_drop_by_name(lfirst(lc), true, true);
}

/*
 * Remove the subscriptions of a database without sessions, without contacting
 * their publishers.
 *
 * Errors: 55P03 after lock_timeout; those of drop_origins.
 */
static void
detach_subscriptions(Oid oid)
{
	Relation	rel = table_open(SubscriptionRelationId, RowExclusiveLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *subscriptions = NIL;
	ListCell   *lc;

	ScanKeyInit(&key, Anum_pg_subscription_subdbid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, SubscriptionNameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Oid			subscription = ((Form_pg_subscription) GETSTRUCT(tuple))->oid;

		LockSharedObject(SubscriptionRelationId, subscription, 0, AccessExclusiveLock);
		CatalogTupleDelete(rel, &tuple->t_self);
		deleteSharedDependencyRecordsFor(SubscriptionRelationId, subscription, 0);
		subscriptions = lappend_oid(subscriptions, subscription);
	}
	systable_endscan(scan);
	foreach(lc, subscriptions)
	{
		drop_origins(lfirst_oid(lc));
		if (pgstat_have_entry(PGSTAT_KIND_SUBSCRIPTION, InvalidOid, lfirst_oid(lc)))
			pgstat_drop_subscription(lfirst_oid(lc));
		launcher_forget_compat(lfirst_oid(lc));
	}
	table_close(rel, NoLock);
	if (subscriptions != NIL)
		CommandCounterIncrement();
}

/*
 * Undo what would make dropdb() refuse to drop a database without sessions,
 * which the caller drops in this transaction.
 *
 * Errors: 55P03 after lock_timeout, 55006.
 */
void
droppable_prepare(Oid oid)
{
	change_row(oid, NULL);
	detach_subscriptions(oid);
}

/*
 * Append a sentence about a process to a text: its ID, user, application,
 * followed by what.
 */
static void
append_process(StringInfo buf, int pid, Oid userid, const char *application,
			   const char *what)
{
	char	   *user = OidIsValid(userid) ? GetUserNameFromId(userid, true) : NULL;

	if (buf->len > 0)
		appendStringInfoChar(buf, ' ');
	appendStringInfo(buf, "Process %d", pid);
	if (user)
		appendStringInfo(buf, " of user \"%s\"", user);
	if (application && application[0])
		appendStringInfo(buf, " (application \"%s\")", application);
	appendStringInfo(buf, " %s.", what);
}

/*
 * Return column number i (from 1) of a row of an SPI query as text, or NULL.
 */
static char *
get_column(int row, int i)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, i);
}

/*
 * Run a query with one parameter, and return the number of rows, which are in
 * SPI_tuptable until SPI_finish().
 */
static int
run_query(const char *query, Oid type, Datum parameter)
{
	SPI_connect();
	if (SPI_execute_with_args(query, 1, &type, &parameter, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not query transactions and locks");
	return (int) SPI_processed;
}

/*
 * Describe the processes that hold a lock that conflicts with dropping a
 * database, for the detail of an error; NULL if there are none any more.
 *
 * The transaction changer comes first, if it is valid: the one that was
 * waited for since it has changed the database's row or settings.  Then come
 * the holders of the database's own lock; if there are none, those of a lock
 * on a shared catalog, and if there are none, those that have just written to
 * pg_database.  No catalog is read except those of roles, since it may be
 * locked.
 */
char *
droppable_describe_lockers(Oid oid, TransactionId changer)
{
	static const char query[] =
		"WITH held AS ("
		"SELECT l.pid, l.virtualtransaction AS vxid,"
		" CASE WHEN l.locktype = 'transactionid' THEN 0 WHEN l.locktype = 'object' THEN 1"
		" WHEN l.mode IN ('AccessExclusiveLock', 'ExclusiveLock',"
		" 'ShareRowExclusiveLock', 'ShareLock') THEN 2 ELSE 3 END AS rank"
		" FROM pg_lock_status() l"
		" WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()"
		" AND ((l.locktype = 'transactionid' AND l.transactionid::text = $1[2]::text)"
		" OR (l.locktype = 'object' AND l.database = 0 AND l.classid = 1262 AND l.objid = $1[1])"
		" OR (l.locktype = 'relation' AND l.database = 0 AND l.relation IN (1262, 1214, 2964, 6100)"
		" AND l.mode NOT IN ('AccessShareLock', 'RowShareLock'))))"
		" SELECT DISTINCT h.rank, h.pid, a.usesysid, a.application_name, p.gid, p.ownerid"
		" FROM held h"
		" LEFT JOIN pg_stat_get_activity(NULL) a ON a.pid = h.pid"
		" LEFT JOIN pg_lock_status() x ON h.pid IS NULL AND x.pid IS NULL"
		" AND x.locktype = 'transactionid' AND x.granted"
		" AND x.virtualtransaction = h.vxid"
		" LEFT JOIN pg_prepared_xact() p ON p.transaction = x.transactionid"
		" WHERE h.rank = (SELECT min(rank) FROM held)"
		" AND a.backend_type IS DISTINCT FROM 'testdb worker'"
		" ORDER BY 2, 5 LIMIT 5";
	Datum		parameters[2] = {ObjectIdGetDatum(oid), ObjectIdGetDatum(changer)};
	MemoryContext cxt = CurrentMemoryContext;
	StringInfoData buf;
	int			n;

	initStringInfo(&buf);
	n = run_query(query, OIDARRAYOID,
				  PointerGetDatum(construct_array(parameters, 2, OIDOID, sizeof(Oid),
												  true, TYPALIGN_INT)));
	for (int i = 0; i < n; i++)
	{
		int			rank = atoi(get_column(i, 1));
		char	   *pid = get_column(i, 2);
		char	   *user = get_column(i, pid ? 3 : 6);
		Oid			userid = user ? (Oid) strtoul(user, NULL, 10) : InvalidOid;
		const char *what = rank == 0 ? "has changed its row or settings in an open transaction" :
			rank == 1 ? "holds a lock on it" :
			rank == 2 ? "holds a lock on a shared catalog" :
			"has changed a shared catalog in an open transaction";
		MemoryContext old = MemoryContextSwitchTo(cxt);

		if (pid)
			append_process(&buf, atoi(pid), userid, get_column(i, 4), what);
		else if (get_column(i, 5))
			appendStringInfo(&buf, "%sPrepared transaction \"%s\" of user \"%s\" %s.",
							 buf.len > 0 ? " " : "", get_column(i, 5),
							 GetUserNameFromId(userid, true), what);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return buf.len > 0 ? buf.data : NULL;
}

/*
 * Count the transactions within a database that lock it, or are the
 * transaction changer: open ones of sessions that are connected to it, and
 * prepared ones.
 *
 * A session that is connecting locks its database before it is known by it in
 * the backend status array, and may wait for a catalog that another session
 * in there has locked.
 */
void
droppable_count_lockers_within(Oid oid, TransactionId changer, int *nsessions,
							   int *nprepared)
{
	static const char query[] =
		"WITH held AS ("
		"SELECT DISTINCT l.pid, l.virtualtransaction AS vxid"
		" FROM pg_lock_status() l"
		" WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()"
		" AND ((l.locktype = 'object' AND l.database = 0 AND l.classid = 1262 AND l.objid = $1[1])"
		" OR (l.locktype = 'transactionid' AND l.transactionid::text = $1[2]::text)))"
		" SELECT count(h.pid) FILTER (WHERE coalesce(a.datid, $1[1]) = $1[1]), count(p.gid)"
		" FROM held h"
		" LEFT JOIN pg_stat_get_activity(NULL) a ON a.pid = h.pid"
		" LEFT JOIN pg_lock_status() x ON h.pid IS NULL AND x.pid IS NULL"
		" AND x.locktype = 'transactionid' AND x.granted"
		" AND x.virtualtransaction = h.vxid"
		" LEFT JOIN pg_prepared_xact() p ON p.transaction = x.transactionid"
		" AND p.dbid = $1[1]";
	Datum		parameters[2] = {ObjectIdGetDatum(oid), ObjectIdGetDatum(changer)};
	ArrayType  *array = construct_array(parameters, 2, OIDOID, sizeof(Oid), true,
										TYPALIGN_INT);

	*nsessions = *nprepared = 0;
	if (run_query(query, OIDARRAYOID, PointerGetDatum(array)) == 1)
	{
		*nsessions = atoi(get_column(0, 1));
		*nprepared = atoi(get_column(0, 2));
	}
	SPI_finish();
}

/*
 * Describe the prepared transactions in the named database, for the detail of
 * an error; NULL if there are none any more.
 */
char *
droppable_describe_prepared(const char *name)
{
	MemoryContext cxt = CurrentMemoryContext;
	StringInfoData buf;
	int			n;

	initStringInfo(&buf);
	n = run_query("SELECT gid, owner FROM pg_prepared_xacts WHERE database = $1"
				  " ORDER BY prepared", NAMEOID, CStringGetDatum(name));
	for (int i = 0; i < Min(n, MAX_DESCRIBED); i++)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);

		appendStringInfo(&buf, "%sPrepared transaction \"%s\" of user \"%s\" is in it.",
						 i > 0 ? " " : "", get_column(i, 1), get_column(i, 2));
		MemoryContextSwitchTo(old);
	}
	if (n > MAX_DESCRIBED)
		appendStringInfo(&buf, " And %d more.", n - MAX_DESCRIBED);
	SPI_finish();
	return buf.len > 0 ? buf.data : NULL;
}

/*
 * For emit_log_hook: remember the process that core is waiting for.  The
 * message may be translated; the ID is the only number in it.
 */
static void
note_barrier(ErrorData *edata)
{
	if (edata->elevel == LOG && edata->message_id != NULL && edata->message != NULL &&
		strstr(edata->message_id, BARRIER_MESSAGE) != NULL)
	{
		const char *digits = strpbrk(edata->message, "0123456789");

		if (digits)
			barrier_pid = atoi(digits);
	}
	if (previous_log_hook)
		previous_log_hook(edata);
}

/*
 * Begin to remember the process that this one waits for at a barrier, until
 * droppable_end_barrier.
 */
void
droppable_watch_barrier(void)
{
	barrier_pid = 0;
	if (watching)
		return;
	previous_log_hook = emit_log_hook;
	emit_log_hook = note_barrier;
	watching = true;
}

/*
 * Report whether a process is known to accept no barrier in its present
 * state.
 */
static bool
ignores_barriers(const PgBackendStatus *status)
{
	PGPROC	   *proc = BackendPidGetProc(status->st_procpid);
	uint32		waits = proc ? proc->wait_event_info & 0xFF000000 : 0;

	if (status->st_procpid == MyProcPid || proc == NULL)
		return false;
	if (status->st_backendType == B_BG_WORKER)
		return waits == PG_WAIT_EXTENSION &&
			strncmp(status->st_appname, "testdb worker", strlen("testdb worker")) != 0;
	return waits == PG_WAIT_CLIENT && status->st_state == STATE_RUNNING;
}

/*
 * End what droppable_watch_barrier has begun, and describe the process that
 * was waited for, or else those that may have been, for the detail of an
 * error; NULL if nothing is known.
 */
char *
droppable_end_barrier(void)
{
	StringInfoData buf;
	int			n;
	int			nfound = 0;

	if (watching && emit_log_hook == note_barrier)
	{
		emit_log_hook = previous_log_hook;
		watching = false;
	}
	initStringInfo(&buf);
	pgstat_clear_backend_activity_snapshot();
	n = pgstat_fetch_stat_numbackends();
	for (int i = 1; i <= n && nfound < MAX_DESCRIBED; i++)
	{
		PgBackendStatus *status = &pgstat_local_beentry_compat(i)->backendStatus;

		if (status->st_procpid == 0 ||
			(barrier_pid != 0 ? status->st_procpid != barrier_pid :
			 !ignores_barriers(status)))
			continue;
		append_process(&buf, status->st_procpid, status->st_userid, status->st_appname,
					   barrier_pid != 0 ? "has not released its files" :
					   "may not have released its files");
		nfound++;
	}
	barrier_pid = 0;
	return buf.len > 0 ? buf.data : NULL;
}
