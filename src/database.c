/*-------------------------------------------------------------------------
 *
 * database.c
 *	  Making and removing a database.
 *
 * Everything here runs in a worker, inside a transaction that the worker
 * starts and ends, unless it says otherwise, and knows nothing of requests.
 *
 * The work itself is done by core's createdb() and dropdb().  Around them,
 * two things are done differently from CREATE and DROP DATABASE:
 *
 * - Whether the template is in use is found out under the lock that keeps new
 *   sessions out, and without waiting.  createdb() then never finds anybody,
 *   and never sleeps; who waits for the template to be left is the caller,
 *   not the worker.
 * - Sessions in a database to be dropped are ended and waited for beforehand,
 *   so that dropdb() finds none: it would sleep 100 ms if only one of them,
 *   just disconnected by its client, was still on its way out.
 *
 * Locks.  Heavyweight locks only, on the database objects, as core takes them:
 * ShareLock on a template, AccessExclusiveLock on a database to be dropped;
 * both conflict with the RowExclusiveLock under which a session connects.
 * The transaction's end releases them.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/twophase.h"
#include "catalog/catalog.h"
#include "catalog/indexing.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "catalog/dependency.h"
#include "catalog/pg_control.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_shdepend.h"
#include "catalog/pg_subscription.h"
#include "catalog/pg_tablespace.h"
#include "commands/comment.h"
#include "commands/dbcommands.h"
#include "commands/dbcommands_xlog.h"
#include "commands/seclabel.h"
#include "commands/tablespace.h"
#include "commands/vacuum.h"
#include "common/controldata_utils.h"
#include "common/hashfn.h"
#include "common/relpath.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/value.h"
#include "parser/parse_node.h"
#include "postmaster/bgworker.h"
#include "postmaster/bgwriter.h"
#include "replication/slot.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/bufmgr.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/md.h"
#include "storage/procarray.h"
#include "storage/spin.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "database.h"
#include "droppable.h"
#include "request.h"
#include "space.h"

/*
 * How long sessions may take to leave by themselves, when to look again if none
 * has said that it has left (not all do), and when to tell them to end once
 * more, in ms.
 */
#define LEAVE_TIME			2
#define LOOK_INTERVAL		1
#define END_INTERVAL		100

/* How long a client may take to get from the lock on its database to its first
 * command before it is told to end, too, in ms. */
#define START_TIME			1000

/* How long a visitor waits for a lock, in ms. */
#define VISITOR_LOCK_TIMEOUT 1000

/* How long dropdb() may take, besides waiting for a lock, in ms. */
#define DROP_TIMEOUT		5000

/* What a checkpoint should find free: bytes, files. */
#define CHECKPOINT_SPACE	(2 * 1024 * 1024)
#define CHECKPOINT_FILES	20

/* How many files testdb leaves for others. */
#define MIN_FREE_FILES		1000

/* How many sessions an error's detail names. */
#define MAX_DESCRIBED		5

/* An entry of a set of relations. */
typedef struct RelationKey
{
	Oid			database;
	Oid			relation;		/* the number in its files' names */
} RelationKey;

/* One of a set of relations; the key comes first. */
typedef struct RelationEntry
{
	RelationKey key;
	bool		discarded;		/* its pages have been dropped */
	bool		in_file;		/* one of its files has changed */
	XLogRecPtr	lsn;			/* the newest of its dirty pages */
} RelationEntry;

/* Some databases. */
typedef struct DatabaseList
{
	Oid		   *oids;			/* sorted */
	int			n;
} DatabaseList;

/* Is this process in dropdb()? */
static bool in_dropdb = false;

/* The database that this process has last locked, or tried to. */
static Oid	last_locked = InvalidOid;

/* Has it been refused to wait for that? */
static bool lock_refused = false;

PGDLLEXPORT void testdb_rollback_main(Datum main_arg);
static void get_space(int64 *bytes, int64 *files);

/*
 * Find a database by its OID and fill *info; false if there is none.
 */
bool
database_lookup(Oid oid, DatabaseInfo *info)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(oid));
	Form_pg_database form;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_database) GETSTRUCT(tuple);
	info->oid = form->oid;
	info->name = form->datname;
	info->owner = form->datdba;
	info->is_template = form->datistemplate;
	ReleaseSysCache(tuple);
	return true;
}

/*
 * Choose an OID that no database has, and no directory in the default
 * tablespace.
 *
 * The OID is needed before the database is made, so that what is about to be
 * made can be recorded first.  createdb() makes its own checks again.
 */
Oid
database_choose_oid(void)
{
	Relation	rel = table_open(DatabaseRelationId, AccessShareLock);
	Oid			oid;
	char	   *path;
	struct stat st;
	bool		taken;

	do
	{
		oid = GetNewOidWithIndex(rel, DatabaseOidIndexId, Anum_pg_database_oid);
		path = GetDatabasePath(oid, DEFAULTTABLESPACE_OID);
		taken = stat(path, &st) == 0;
		pfree(path);
	} while (taken);
	table_close(rel, AccessShareLock);
	return oid;
}

/*
 * Tell the processes in a database to end: all, or only the autovacuum workers.
 * createdb() and dropdb() end those, too: they come back by themselves.
 *
 * If spare_starting, a client is not told that is still connecting, since it
 * would hear that it was refused; true if there is one.
 *
 * Who is so new that it is not in the table of sessions is told the next time.
 */
static bool
tell_to_end(Oid oid, bool all, bool spare_starting)
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

		/* With what it has started itself, as pg_terminate_backend() does. */
#ifdef HAVE_SETSID
		(void) kill(-status->st_procpid, SIGTERM);
#else
		(void) kill(status->st_procpid, SIGTERM);
#endif
	}
	return spared;
}

/*
 * Tell the autovacuum workers in a database to end.
 */
void
database_end_autovacuum(Oid oid)
{
	(void) tell_to_end(oid, false, false);
}

/*
 * The number of prepared transactions in a database, or in all if name is NULL.
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

	/* Kept, since to plan it takes longer than the drop of a database. */
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
 * Begin to wait for a lock on a database, or its row, unless this is the last
 * worker that does not wait for one: 55P03 then, and database_lock_was_refused
 * says so once.
 */
static void
begin_wait_or_refuse(Oid oid)
{
	if (request_begin_lock_wait())
		return;
	lock_refused = true;
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not obtain lock on database with OID %u", oid)));
}

/*
 * Lock a database until the end of the transaction.  The last worker that does
 * not wait for a lock does not begin to; database_lock_was_refused then says so
 * once.
 *
 * Errors: 55P03 after lock_timeout, or at once.
 */
static void
lock_or_refuse(Oid oid, LOCKMODE mode)
{
	LOCKTAG		tag;

	last_locked = oid;
	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, oid, 0);
	if (LockAcquire(&tag, mode, false, true) != LOCKACQUIRE_NOT_AVAIL)
	{
		AcceptInvalidationMessages();
		return;
	}
	begin_wait_or_refuse(oid);
	PG_TRY();
	{
		LockSharedObject(DatabaseRelationId, oid, 0, mode);
	}
	PG_FINALLY();
	{
		request_end_lock_wait();
	}
	PG_END_TRY();
}

/*
 * The transaction in progress, other than this one, that has changed or locked
 * the row of a database, or InvalidTransactionId.
 */
static TransactionId
find_row_changer(Oid oid)
{
	Relation	rel = table_open(DatabaseRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	TransactionId xid = InvalidTransactionId;

	ScanKeyInit(&key, Anum_pg_database_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, DatabaseOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple) &&
		!(tuple->t_data->t_infomask & HEAP_XMAX_INVALID) &&
		!((tuple->t_data->t_infomask & HEAP_XMAX_IS_MULTI) &&
		  HEAP_XMAX_IS_LOCKED_ONLY(tuple->t_data->t_infomask)))
		xid = HeapTupleHeaderGetUpdateXid(tuple->t_data);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	if (TransactionIdIsValid(xid) &&
		(TransactionIdIsCurrentTransactionId(xid) || !TransactionIdIsInProgress(xid)))
		xid = InvalidTransactionId;
	return xid;
}

/*
 * Wait for a transaction, after begin_wait_or_refuse.
 *
 * Errors: 55P03 after lock_timeout.
 */
static void
wait_for_transaction(TransactionId xid)
{
	PG_TRY();
	{
		XactLockTableWait(xid, NULL, NULL, XLTW_None);
	}
	PG_CATCH();
	{
		request_end_lock_wait();
		PG_RE_THROW();
	}
	PG_END_TRY();
	request_end_lock_wait();
}

/*
 * Wait for whoever has changed a database's row, as GRANT and ALTER DATABASE do
 * without a lock on the database; the same rule as in lock_or_refuse.  The
 * database is locked.
 *
 * Errors: 55P03 after lock_timeout, or at once.
 */
static void
wait_for_row_or_refuse(Oid oid)
{
	TransactionId xid;

	while (TransactionIdIsValid(xid = find_row_changer(oid)))
	{
		begin_wait_or_refuse(oid);
		wait_for_transaction(xid);
		AcceptInvalidationMessages();
	}
}

/*
 * Lock a template so that no session can connect to it, and find out whether
 * one is in it already; true if not.  *nprepared is the number of prepared
 * transactions that are in the way.  name is what the caller called it, for
 * the error.
 *
 * The ShareLock is kept until the transaction's end.
 *
 * Errors: 3D000 if the template has gone; 55P03 after lock_timeout.
 */
bool
database_lock_idle(Oid oid, const char *name, int *nprepared)
{
	DatabaseInfo info;

	*nprepared = 0;
	lock_or_refuse(oid, ShareLock);
	if (!database_lookup(oid, &info))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("template database \"%s\" does not exist", name),
				 errdetail("It has been dropped in the meantime.")));

	*nprepared = database_count_prepared(NameStr(info.name));
	if (CountDBBackends(oid) > 0)
	{
		(void) tell_to_end(oid, false, false);
		return false;
	}
	return *nprepared == 0;
}

/*
 * The same without waiting for the lock; false also if it is not to be had at
 * once.
 */
bool
database_try_lock_idle(Oid oid)
{
	LOCKTAG		tag;
	DatabaseInfo info;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, oid, 0);
	if (LockAcquire(&tag, ShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	AcceptInvalidationMessages();
	if (!database_lookup(oid, &info))
		return false;
	if (CountDBBackends(oid) > 0)
	{
		(void) tell_to_end(oid, false, false);
		return false;
	}
	return database_count_prepared(NameStr(info.name)) == 0;
}

/*
 * Make a database with the given OID, name and owner from a template, which
 * database_lock_idle has locked.
 *
 * Errors: those of CREATE DATABASE.
 */
void
database_create(Oid oid, const char *name, Oid owner,
				const char *template_name, TestdbMethod method)
{
	CreatedbStmt *stmt = makeNode(CreatedbStmt);
	const char *strategy = method == TESTDB_METHOD_WAL_LOG ? "wal_log" : "file_copy";
	Node	   *owner_arg = (Node *) makeString(GetUserNameFromId(owner, false));
	Node	   *template_arg = (Node *) makeString(pstrdup(template_name));
	Node	   *strategy_arg = (Node *) makeString(pstrdup(strategy));

	/* A Float is how the grammar passes integers beyond the range of int. */
	Node	   *oid_arg = (Node *) makeFloat(psprintf("%u", oid));

	stmt->dbname = pstrdup(name);
	stmt->options = list_make4(makeDefElem("owner", owner_arg, -1),
							   makeDefElem("template", template_arg, -1),
							   makeDefElem("strategy", strategy_arg, -1),
							   makeDefElem("oid", oid_arg, -1));
	createdb(make_parsestate(NULL), stmt);
}

/*
 * How long ago that was, in ms, whatever happens to the clock.
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
 * Wait until no session is in a database, but no longer than so many ms.
 */
static void
await_exits(Oid oid, int timeout_ms)
{
	static uint32 wait_event = 0;
	instr_time	start;

	INSTR_TIME_SET_CURRENT(start);
	request_watch_exits(oid);
	while (CountDBBackends(oid) > 0 && elapsed_ms(start) < timeout_ms)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LOOK_INTERVAL,
						 wait_event_compat(&wait_event, "TestdbEndSessions"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	request_watch_exits(InvalidOid);
}

/*
 * Give the sessions in a database time to leave by themselves, LEAVE_TIME at
 * most: those whose clients have just disconnected are on their way out, and
 * telling them to end would fill the server log.
 *
 * In a session, too, without a lock: whoever is going to ask a worker to end
 * them calls this first, and the worker can serve others meanwhile.
 */
void
database_let_leave(Oid oid)
{
	await_exits(oid, LEAVE_TIME);
}

/*
 * End all sessions in a database, which is locked against new ones, and wait
 * until they have gone.  let_left says that they have had their time to leave.
 *
 * Returns false if prepared transactions are left in it, as dropdb() refuses.
 *
 * Errors: 55006 if a session has not ended after testdb.lock_timeout.
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
					 errhint("They were told to end, but have not within %d ms. See \"%s\".",
							 testdb_lock_timeout, "testdb.lock_timeout")));
		}
		if (!told || starting || elapsed - told_at > END_INTERVAL)
		{
			starting = tell_to_end(oid, true, elapsed < START_TIME);
			told_at = elapsed;
			told = true;
		}
		await_exits(oid, LEAVE_TIME);
	}
	return database_count_prepared(name) == 0;
}

/*
 * Lock a database until the end of the transaction, so that nobody can connect
 * to it, and fill *info; false if it does not exist (any more).
 *
 * Errors: 55P03 after lock_timeout.
 */
bool
database_lock(Oid oid, DatabaseInfo *info)
{
	lock_or_refuse(oid, AccessExclusiveLock);
	wait_for_row_or_refuse(oid);
	return database_lookup(oid, info);
}

/*
 * See that a database has an entry in the cumulative statistics that can be
 * dropped.
 *
 * An entry that was dropped stays, marked so, while any process still refers
 * to it; it is given new life when statistics of the same OID are reported.  A
 * clone keeps its OID.  If nothing was reported of its last life, and somebody
 * still refers to an earlier one, dropping its statistics would be an error,
 * and since that happens after the commit, a PANIC.
 */
static void
make_statistics_droppable(Oid oid)
{
	pgstat_report_autovac(oid);
}

/*
 * Drop a database, ending whatever is connected to it; false if it does not
 * exist (any more).
 *
 * dropdb() waits until every process has closed its files, which one that waits
 * for its client in the middle of a COPY does not do.
 *
 * Errors: those of DROP DATABASE; 53100 if the file system is full and the
 * reserve used up; 55006 as database_end_sessions; 55P03 after lock_timeout;
 * 57014 if dropdb() takes longer than that and DROP_TIMEOUT, after which the
 * database may be marked as invalid.
 */
bool
database_drop(Oid oid)
{
	DatabaseInfo info;

	if (!database_lock(oid, &info))
		return false;
	if (!database_make_checkpoint_room())
		ereport(ERROR,
				(errcode(ERRCODE_DISK_FULL),
				 errmsg("not enough free space to drop database \"%s\"",
						NameStr(info.name)),
				 errdetail("It takes a checkpoint, which could not be completed."),
				 errhint("Make some room in the file system of the data directory, by TRUNCATE in a database, for example.")));
	(void) database_end_sessions(oid, NameStr(info.name), false);
	if (database_is_checkpointing())
		RequestCheckpoint(CHECKPOINT_FAST | CHECKPOINT_FORCE | CHECKPOINT_WAIT);
	droppable_prepare(oid);
	make_statistics_droppable(oid);
	droppable_watch_barrier();
	in_dropdb = true;
	enable_timeout_after(STATEMENT_TIMEOUT, testdb_lock_timeout + DROP_TIMEOUT);
	dropdb(NameStr(info.name), false, false);
	disable_timeout(STATEMENT_TIMEOUT, false);
	in_dropdb = false;
	(void) droppable_end_barrier();
	return true;
}

/*
 * Has database_drop just failed in dropdb()?  Forgets it; for error handling.
 */
bool
database_end_drop(void)
{
	bool		failed = in_dropdb;

	in_dropdb = false;
	return failed;
}

/*
 * Report whether this process was refused to wait for a lock, since the last
 * call.
 */
bool
database_lock_was_refused(void)
{
	bool		refused = lock_refused;

	lock_refused = false;
	return refused;
}

/*
 * The database that this process has last locked, or tried to; for error
 * handling.
 */
Oid
database_last_locked(void)
{
	return last_locked;
}

/*
 * Is the data directory's file system so full that a checkpoint could fail,
 * which is a PANIC?
 */
bool
database_is_full(void)
{
	int64		free_bytes;
	int64		free_files;

	get_space(&free_bytes, &free_files);
	return free_bytes + (int64) testdb_min_free_space * 1024 * 1024 < CHECKPOINT_SPACE ||
		free_files + MIN_FREE_FILES < CHECKPOINT_FILES;
}

/*
 * See that there is room for a checkpoint: if not, the reserve is given up.
 * False if that is not enough.
 */
bool
database_make_checkpoint_room(void)
{
	return !database_is_full() ||
		(space_give_reserve() && !database_is_full());
}

/*
 * Remove the directories of a database that has no row in pg_database, in
 * every tablespace; the leftovers of a crash.
 */
void
database_remove_files(Oid oid)
{
	Relation	rel = table_open(TableSpaceRelationId, AccessShareLock);
	TableScanDesc scan = table_beginscan_catalog(rel, 0, NULL);
	HeapTuple	tuple;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Oid			tablespace = ((Form_pg_tablespace) GETSTRUCT(tuple))->oid;
		char	   *path;
		struct stat st;

		if (tablespace == GLOBALTABLESPACE_OID)
			continue;
		path = GetDatabasePath(oid, tablespace);
		if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode))
		{
			if (!rmtree(path, true))
				ereport(WARNING,
						(errmsg("some useless files may be left behind in old database directory \"%s\"",
								path)));
			else
				ereport(LOG,
						(errmsg("removed directory \"%s\" of a database that was not completed",
								path)));
		}
		pfree(path);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
}

/*
 * The connection limit of a template's clones: the template's own, but for 0,
 * which seals the template against changes and would seal them, too.
 */
static int32
clone_connection_limit(const FormData_pg_database *template)
{
	return template->datconnlimit == 0 ? DATCONNLIMIT_UNLIMITED : template->datconnlimit;
}

/*
 * Read the template's row in pg_database, as it is now; false if there is
 * none.  Any session may call it.
 */
bool
database_read_row(Oid oid, TemplateRow *row)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(oid));
	Form_pg_database form;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_database) GETSTRUCT(tuple);
	row->xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
	row->tid = tuple->t_self;
	row->frozenxid = form->datfrozenxid;
	row->minmxid = form->datminmxid;
	row->clone_limit = clone_connection_limit(form);
	ReleaseSysCache(tuple);
	return true;
}

/*
 * The name of a tablespace other than the default one in which a database has
 * files, or NULL.
 */
static char *
find_other_tablespace(Oid oid)
{
	Relation	rel = table_open(TableSpaceRelationId, AccessShareLock);
	TableScanDesc scan = table_beginscan_catalog(rel, 0, NULL);
	HeapTuple	tuple;
	char	   *name = NULL;

	while (name == NULL &&
		   (tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_tablespace form = (Form_pg_tablespace) GETSTRUCT(tuple);
		char	   *path;
		struct stat st;

		if (form->oid == GLOBALTABLESPACE_OID || form->oid == DEFAULTTABLESPACE_OID)
			continue;
		path = GetDatabasePath(oid, form->oid);
		if (stat(path, &st) == 0 && S_ISDIR(st.st_mode) && !directory_is_empty(path))
			name = pstrdup(NameStr(form->spcname));
		pfree(path);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return name;
}

/*
 * Who follows WAL now, in a few words, or NULL: a standby or a base backup, for
 * which a WAL sender or a slot stands, or an archive.
 */
static const char *
find_follower(void)
{
	bool		found = false;

	if (!XLogIsNeeded())
		return NULL;
	if (XLogArchivingActive())
		return "WAL is archived";

	for (int i = 0; i < max_wal_senders && !found; i++)
	{
		WalSnd	   *sender = &WalSndCtl->walsnds[i];

		SpinLockAcquire(&sender->mutex);
		found = sender->pid != 0;
		SpinLockRelease(&sender->mutex);
	}
	if (found)
		return "WAL is being sent to a standby";

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots && !found; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];

		found = slot->in_use && SlotIsPhysical(slot);
	}
	LWLockRelease(ReplicationSlotControlLock);
	return found ? "WAL is kept for a standby, by a replication slot" : NULL;
}

/*
 * Why a database can't be cloned by the native method, in a few words, or NULL
 * if it can.
 */
char *
database_obstacle(Oid oid)
{
	HeapTuple	tuple;
	Oid			tablespace;
	char	   *other;
	const char *follower = find_follower();

	if (follower)
		return pstrdup(follower);
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(oid));
	if (!HeapTupleIsValid(tuple))
		return pstrdup("the database does not exist");
	tablespace = ((Form_pg_database) GETSTRUCT(tuple))->dattablespace;
	ReleaseSysCache(tuple);
	if (tablespace != DEFAULTTABLESPACE_OID)
		return psprintf("its tablespace is \"%s\"", get_tablespace_name(tablespace));
	other = find_other_tablespace(oid);
	if (other)
		return psprintf("it has files in tablespace \"%s\"", other);
	return NULL;
}

/*
 * A fingerprint of what the objects in a database depend on: its rows in
 * pg_shdepend, whatever their order.
 */
uint64
database_dependencies(Oid oid)
{
	Relation	rel = table_open(SharedDependRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	uint64		sum = 0;

	ScanKeyInit(&key, Anum_pg_shdepend_dbid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, SharedDependDependerIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_shdepend form = (Form_pg_shdepend) GETSTRUCT(tuple);
		uint32		fields[6];

		fields[0] = form->classid;
		fields[1] = form->objid;
		fields[2] = form->objsubid;
		fields[3] = form->refclassid;
		fields[4] = form->refobjid;
		fields[5] = form->deptype;
		sum += hash_bytes_extended((unsigned char *) fields, sizeof(fields), 1);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return sum;
}

/*
 * Give a clone the template's rows in pg_shdepend, whose fingerprint is given.
 *
 * A test rarely changes them: mostly, they are only read.  For a thousand
 * tables of an ordinary role, writing them takes longer than all the rest.
 */
void
database_sync_dependencies(Oid oid, Oid template_oid, uint64 fingerprint)
{
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (database_dependencies(oid) == fingerprint)
		return;

	rel = table_open(SharedDependRelationId, RowExclusiveLock);
	ScanKeyInit(&key, Anum_pg_shdepend_dbid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, SharedDependDependerIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		CatalogTupleDelete(rel, &tuple->t_self);
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);

	CommandCounterIncrement();
	copyTemplateDependencies(template_oid, oid);
}

/*
 * The rows of pg_db_role_setting for a database, as a List of HeapTuple in the
 * order of their roles.
 */
static List *
read_settings(Relation rel, Oid oid)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *settings = NIL;

	ScanKeyInit(&key, Anum_pg_db_role_setting_setdatabase,
				BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, DbRoleSettingDatidRolidIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		settings = lappend(settings, heap_copytuple(tuple));
	systable_endscan(scan);
	return settings;
}

/*
 * A fingerprint of a database's settings.
 */
uint64
database_settings(Oid oid)
{
	Relation	rel = table_open(DbRoleSettingRelationId, AccessShareLock);
	ListCell   *lc;
	uint64		sum = 0;

	foreach(lc, read_settings(rel, oid))
	{
		HeapTuple	tuple = lfirst(lc);
		Oid			role = ((Form_pg_db_role_setting) GETSTRUCT(tuple))->setrole;
		bool		isnull;
		Datum		config = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
										  RelationGetDescr(rel), &isnull);

		if (!isnull)
		{
			struct varlena *value = PG_DETOAST_DATUM_PACKED(config);

			sum += hash_bytes_extended((unsigned char *) VARDATA_ANY(value),
									   VARSIZE_ANY_EXHDR(value), role);
		}
	}
	table_close(rel, AccessShareLock);
	return sum;
}

/*
 * Do two lists from read_settings say the same of two databases?
 */
static bool
settings_equal(Relation rel, List *a, List *b)
{
	ListCell   *la;
	ListCell   *lb;

	if (list_length(a) != list_length(b))
		return false;
	forboth(la, a, lb, b)
	{
		HeapTuple	ta = lfirst(la);
		HeapTuple	tb = lfirst(lb);
		Datum		da;
		Datum		db;
		bool		nulla;
		bool		nullb;

		if (((Form_pg_db_role_setting) GETSTRUCT(ta))->setrole !=
			((Form_pg_db_role_setting) GETSTRUCT(tb))->setrole)
			return false;
		da = heap_getattr(ta, Anum_pg_db_role_setting_setconfig,
						  RelationGetDescr(rel), &nulla);
		db = heap_getattr(tb, Anum_pg_db_role_setting_setconfig,
						  RelationGetDescr(rel), &nullb);
		if (nulla != nullb || (!nulla && !datum_image_eq(da, db, false, -1)))
			return false;
	}
	return true;
}

/*
 * Give a clone the template's settings (ALTER DATABASE ... SET, and
 * ALTER ROLE ... IN DATABASE ... SET).
 */
static void
sync_settings(Oid oid, Oid template_oid)
{
	Relation	rel = table_open(DbRoleSettingRelationId, RowExclusiveLock);
	List	   *wanted = read_settings(rel, template_oid);
	List	   *present = read_settings(rel, oid);
	ListCell   *lc;

	if (!settings_equal(rel, wanted, present))
	{
		foreach(lc, present)
			CatalogTupleDelete(rel, &((HeapTuple) lfirst(lc))->t_self);
		CommandCounterIncrement();
		foreach(lc, wanted)
		{
			Datum		values[Natts_pg_db_role_setting] = {0};
			bool		nulls[Natts_pg_db_role_setting] = {0};
			bool		replaces[Natts_pg_db_role_setting] = {0};

			values[Anum_pg_db_role_setting_setdatabase - 1] = ObjectIdGetDatum(oid);
			replaces[Anum_pg_db_role_setting_setdatabase - 1] = true;
			CatalogTupleInsert(rel, heap_modify_tuple(lfirst(lc),
													  RelationGetDescr(rel),
													  values, nulls, replaces));
		}
	}
	table_close(rel, RowExclusiveLock);
}

/*
 * The ACL in a row of pg_database, or NULL; a copy.
 */
static Acl *
get_acl(Relation rel, HeapTuple tuple)
{
	bool		isnull;
	Datum		acl = heap_getattr(tuple, Anum_pg_database_datacl,
								   RelationGetDescr(rel), &isnull);

	return isnull ? NULL : DatumGetAclPCopy(acl);
}

/*
 * The row that a clone should have: the template's, but for the few columns
 * that must differ, so that the columns of later major versions come along.
 * access says whether sessions can connect to it.  The ACL is what ALTER
 * DATABASE ... OWNER would make of it, but that the clone's owner has all
 * privileges on it, as the owner of a new database has, even if those of the
 * template's owner were revoked.
 */
static HeapTuple
make_clone_tuple(Relation rel, HeapTuple template, Oid oid, const char *name,
				 Oid owner, RowAccess access)
{
	Datum		values[Natts_pg_database] = {0};
	bool		nulls[Natts_pg_database] = {0};
	bool		replaces[Natts_pg_database] = {0};
	Form_pg_database form = (Form_pg_database) GETSTRUCT(template);
	Acl		   *acl = get_acl(rel, template);
	NameData	namedata;

	namestrcpy(&namedata, name);
	values[Anum_pg_database_oid - 1] = ObjectIdGetDatum(oid);
	replaces[Anum_pg_database_oid - 1] = true;
	values[Anum_pg_database_datname - 1] = NameGetDatum(&namedata);
	replaces[Anum_pg_database_datname - 1] = true;
	values[Anum_pg_database_datdba - 1] = ObjectIdGetDatum(owner);
	replaces[Anum_pg_database_datdba - 1] = true;
	values[Anum_pg_database_datistemplate - 1] = BoolGetDatum(false);
	replaces[Anum_pg_database_datistemplate - 1] = true;
	values[Anum_pg_database_datallowconn - 1] = BoolGetDatum(access == ROW_OPEN);
	replaces[Anum_pg_database_datallowconn - 1] = true;
	values[Anum_pg_database_datconnlimit - 1] =
		Int32GetDatum(access == ROW_INVALID ? DATCONNLIMIT_INVALID_DB :
					  access == ROW_CLOSED ? DATCONNLIMIT_CLOSED :
					  clone_connection_limit(form));
	replaces[Anum_pg_database_datconnlimit - 1] = true;
	if (acl)
	{
		AclItem		item;

		item.ai_grantee = owner;
		item.ai_grantor = owner;
		ACLITEM_SET_PRIVS_GOPTIONS(item, ACL_ALL_RIGHTS_DATABASE, ACL_NO_RIGHTS);
		acl = aclupdate(aclnewowner(acl, form->datdba, owner), &item,
						ACL_MODECHG_ADD, owner, DROP_CASCADE);
		values[Anum_pg_database_datacl - 1] = PointerGetDatum(acl);
		replaces[Anum_pg_database_datacl - 1] = true;
	}
	return heap_modify_tuple(template, RelationGetDescr(rel),
							 values, nulls, replaces);
}

/*
 * The row that CREATE DATABASE would make of a template's: without its
 * privileges.
 */
static HeapTuple
make_served_tuple(Relation rel, HeapTuple template, const TestdbClone *clone,
				  const RowOptions *options)
{
	Datum		values[Natts_pg_database] = {0};
	bool		nulls[Natts_pg_database] = {0};
	bool		replaces[Natts_pg_database] = {0};
	HeapTuple	tuple = make_clone_tuple(rel, template, clone->oid,
										 NameStr(clone->name), clone->owner, ROW_OPEN);
	const char *version = NameStr(options->collation_version);

	values[Anum_pg_database_datistemplate - 1] = BoolGetDatum(options->is_template);
	replaces[Anum_pg_database_datistemplate - 1] = true;
	values[Anum_pg_database_datallowconn - 1] = BoolGetDatum(options->allow_connections);
	replaces[Anum_pg_database_datallowconn - 1] = true;
	values[Anum_pg_database_datconnlimit - 1] = Int32GetDatum(options->connection_limit);
	replaces[Anum_pg_database_datconnlimit - 1] = true;
	nulls[Anum_pg_database_datacl - 1] = true;
	replaces[Anum_pg_database_datacl - 1] = true;
	nulls[Anum_pg_database_datcollversion - 1] = version[0] == '\0';
	if (version[0] != '\0')
		values[Anum_pg_database_datcollversion - 1] = CStringGetTextDatum(version);
	replaces[Anum_pg_database_datcollversion - 1] = true;
	return heap_modify_tuple(tuple, RelationGetDescr(rel), values, nulls, replaces);
}

/*
 * A copy of the template's row; NULL if it has gone, or is invalid, because it
 * is being dropped.
 */
static HeapTuple
get_template_tuple(Oid template_oid)
{
	HeapTuple	tuple = SearchSysCacheCopy1(DATABASEOID,
											ObjectIdGetDatum(template_oid));

	if (HeapTupleIsValid(tuple) &&
		((Form_pg_database) GETSTRUCT(tuple))->datconnlimit == DATCONNLIMIT_INVALID_DB)
		return NULL;
	return tuple;
}

/*
 * Raise an error for a template that get_template_tuple has no row of.
 */
static void
report_bad_template(Oid template_oid)
{
	DatabaseInfo info;

	if (database_lookup(template_oid, &info))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot use invalid database \"%s\" as template",
						NameStr(info.name)),
				 errhint("Use DROP DATABASE to drop invalid databases.")));
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_DATABASE),
			 errmsg("template database with OID %u does not exist", template_oid),
			 errdetail("It has been dropped in the meantime.")));
}

/*
 * Record in pg_shdepend which roles a clone's ACL names, instead of those that
 * the old one did; either may be NULL.
 */
static void
record_acl(Oid oid, Oid owner, const Acl *old_acl, const Acl *new_acl)
{
	Oid		   *old_members;
	Oid		   *new_members;
	int			nold = aclmembers(old_acl, &old_members);
	int			nnew = aclmembers(new_acl, &new_members);

	updateAclDependencies(DatabaseRelationId, oid, 0, owner,
						  nold, old_members, nnew, new_members);
}

/*
 * Enter a new database into the catalogs, as a copy of the template; its files
 * are another matter.  Nobody sees it before the transaction is committed.
 *
 * As with CREATE DATABASE, the commit is on disk when the caller hears of it,
 * whatever synchronous_commit says: the lease is.
 *
 * Errors: 3D000, 55000 if the template has gone or is invalid.
 */
void
database_insert_row(Oid oid, const char *name, Oid owner, Oid template_oid,
					RowAccess access)
{
	Relation	rel = table_open(DatabaseRelationId, RowExclusiveLock);
	HeapTuple	template = get_template_tuple(template_oid);
	HeapTuple	tuple;

	if (!HeapTupleIsValid(template))
		report_bad_template(template_oid);
	tuple = make_clone_tuple(rel, template, oid, name, owner, access);
	CatalogTupleInsert(rel, tuple);
	recordDependencyOnOwner(DatabaseRelationId, oid, owner);
	record_acl(oid, owner, NULL, get_acl(rel, tuple));
	copyTemplateDependencies(template_oid, oid);
	sync_settings(oid, template_oid);
	InvokeObjectPostCreateHook(DatabaseRelationId, oid, 0);
	table_close(rel, RowExclusiveLock);
	ForceSyncCommit();
}

/*
 * Could somebody follow WAL some day, and so must be told of what is done to a
 * database's files behind its back?
 */
bool
database_is_logged(void)
{
	return XLogIsNeeded();
}

/*
 * Does somebody follow WAL now?
 *
 * To him every database comes through core's CREATE DATABASE and WAL_LOG.
 * The record of database_log_copy would do as long as he does not crash: if he
 * does, and the template has changed meanwhile, he copies some of it as it was
 * later.  So it is with the strategy FILE_COPY.
 */
bool
database_is_followed(void)
{
	return find_follower() != NULL;
}

/*
 * How core should make databases where the native method can't be used.
 */
TestdbMethod
database_core_method(void)
{
	return database_is_followed() ? TESTDB_METHOD_WAL_LOG : TESTDB_METHOD_FILE_COPY;
}

/*
 * Tell those who may follow WAL some time to copy the template's directory to
 * the clone's, as CREATE DATABASE with the strategy FILE_COPY does, in place of
 * what they have there if again says that the clone is not new.  Here the files
 * are complete.
 *
 * What they copy is the template as WAL has left it at this point, so it must
 * be what the clone has: the caller has locked the template, with nobody in it
 * and unchanged since the snapshot, and calls database_end_log before that
 * lock is released.
 *
 * A page of a former life that is in their shared buffers goes with the record
 * of DROP DATABASE, as do their sessions in the clone.
 */
void
database_log_copy(Oid oid, Oid template_oid, bool again)
{
	xl_dbase_create_file_copy_rec copy;

	if (again)
	{
		xl_dbase_drop_rec drop;
		Oid			tablespace = DEFAULTTABLESPACE_OID;

		drop.db_id = oid;
		drop.ntablespaces = 1;
		XLogBeginInsert();
		XLogRegisterData((char *) &drop, MinSizeOfDbaseDropRec);
		XLogRegisterData((char *) &tablespace, sizeof(tablespace));
		(void) XLogInsert(RM_DBASE_ID, XLOG_DBASE_DROP | XLR_SPECIAL_REL_UPDATE);
	}

	copy.db_id = oid;
	copy.tablespace_id = DEFAULTTABLESPACE_OID;
	copy.src_db_id = template_oid;
	copy.src_tablespace_id = DEFAULTTABLESPACE_OID;
	XLogBeginInsert();
	XLogRegisterData((char *) &copy, sizeof(copy));
	(void) XLogInsert(RM_DBASE_ID, XLOG_DBASE_CREATE_FILE_COPY | XLR_SPECIAL_REL_UPDATE);
}

/*
 * See that recovery here will never act on the records of database_log_copy:
 * it would copy the template of a later time.  createdb() says more of that.
 */
void
database_end_log(void)
{
	RequestCheckpoint(CHECKPOINT_FAST | CHECKPOINT_FORCE | CHECKPOINT_WAIT);
}

/*
 * The OIDs of the databases that depend on a role: by their owner, by what was
 * granted on them, or by anything in them.  Any session may call it.
 */
List *
database_list_dependents(Oid role)
{
	Relation	rel = table_open(SharedDependRelationId, AccessShareLock);
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *oids = NIL;

	ScanKeyInit(&key[0], Anum_pg_shdepend_refclassid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(AuthIdRelationId));
	ScanKeyInit(&key[1], Anum_pg_shdepend_refobjid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(role));
	scan = systable_beginscan(rel, SharedDependReferenceIndexId, true, NULL, 2, key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_shdepend form = (Form_pg_shdepend) GETSTRUCT(tuple);

		if (OidIsValid(form->dbid))
			oids = list_append_unique_oid(oids, form->dbid);
		else if (form->classid == DatabaseRelationId)
			oids = list_append_unique_oid(oids, form->objid);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return oids;
}

/*
 * Can a clone that is being dropped have another life?  Not if core would do
 * more for it than what database_reset_row does.
 *
 * Nor if those who follow WAL might meet, in a recovery of their own, changes
 * of a former life on pages of the next one: full-page images keep them apart.
 * Here the checkpoint before the restore does (recycle.c).
 */
bool
database_is_recyclable(Oid oid)
{
	HeapTuple	tuple;
	Form_pg_database form;
	bool		ok;
	int			nslots;
	int			nactive;

	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(oid));
	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_database) GETSTRUCT(tuple);
	ok = form->datconnlimit != DATCONNLIMIT_INVALID_DB &&
		form->dattablespace == DEFAULTTABLESPACE_OID;
	ReleaseSysCache(tuple);

	return ok &&
		(!XLogIsNeeded() || (fullPageWrites && !database_is_followed())) &&
		!ReplicationSlotsCountDBSlots(oid, &nslots, &nactive) &&
		CountDBSubscriptions(oid) == 0 &&
		find_other_tablespace(oid) == NULL;
}

/*
 * Raise the error, 55006, with which dropdb() would refuse to drop a database
 * that nobody is in, if it would.
 */
void
database_check_droppable(Oid oid, const char *name)
{
	int			nslots;
	int			nactive;

	(void) ReplicationSlotsCountDBSlots(oid, &nslots, &nactive);
	if (nactive > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("database \"%s\" is used by an active logical replication slot",
						name)));
}

/*
 * Give a clone the row, and all that belongs to it in shared catalogs, that it
 * would have if it had just been made from the template under this name.
 * access says who can connect to it: nobody until spare_open if it is
 * ROW_CLOSED, and nobody until database_revive and that if ROW_INVALID.
 *
 * The caller has the database locked against connections, with none in it.
 * What the database's objects depend on is left to
 * database_sync_dependencies.
 *
 * If ROW_INVALID, the commit need not reach the disk: the lease says that nobody
 * wants the database.  Otherwise it does.
 *
 * Returns false, with nothing done, if the template has gone.
 * Errors: 3D000 if the database has.
 */
bool
database_reset_row(Oid oid, const char *name, Oid owner, Oid template_oid,
				   RowAccess access)
{
	Relation	rel = table_open(DatabaseRelationId, RowExclusiveLock);
	HeapTuple	template = get_template_tuple(template_oid);
	HeapTuple	old;
	HeapTuple	new;
	ItemPointerData tid;
	Acl		   *old_acl;
	Acl		   *new_acl;

	if (!HeapTupleIsValid(template))
	{
		table_close(rel, RowExclusiveLock);
		return false;
	}
	old = SearchSysCacheLockedCopy1(DATABASEOID, ObjectIdGetDatum(oid));
	if (!HeapTupleIsValid(old))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("database with OID %u does not exist", oid)));
	tid = old->t_self;
	new = make_clone_tuple(rel, template, oid, name, owner, access);
	CatalogTupleUpdate(rel, &tid, new);
	UnlockTuple(rel, &tid, InplaceUpdateTupleLock);

	if (((Form_pg_database) GETSTRUCT(old))->datdba != owner)
		changeDependencyOnOwner(DatabaseRelationId, oid, owner);
	old_acl = get_acl(rel, old);
	new_acl = get_acl(rel, new);
	if (old_acl || new_acl)
		record_acl(oid, owner, old_acl, new_acl);
	DeleteSharedComments(oid, DatabaseRelationId);
	DeleteSharedSecurityLabel(oid, DatabaseRelationId);
	sync_settings(oid, template_oid);
	if (access != ROW_INVALID)
		ForceSyncCommit();
	InvokeObjectPostAlterHook(DatabaseRelationId, oid, 0);
	table_close(rel, RowExclusiveLock);
	return true;
}

/*
 * Give a clone, which is locked against connections, the row that CREATE DATABASE
 * would have made for it from its template, under its name and for its owner, and
 * all that would belong to that in shared catalogs.  Sessions can connect to it
 * when this is committed, which reaches the disk.
 *
 * Returns false, with nothing done, if the template has gone.
 * Errors: 3D000 if the database has.
 */
bool
database_serve_row(const TestdbClone *clone, const RowOptions *options)
{
	Relation	rel = table_open(DatabaseRelationId, RowExclusiveLock);
	HeapTuple	template = get_template_tuple(clone->template_oid);
	HeapTuple	old;
	ItemPointerData tid;
	Acl		   *acl;

	if (!HeapTupleIsValid(template))
	{
		table_close(rel, RowExclusiveLock);
		return false;
	}
	old = SearchSysCacheLockedCopy1(DATABASEOID, ObjectIdGetDatum(clone->oid));
	if (!HeapTupleIsValid(old))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("database with OID %u does not exist", clone->oid)));
	tid = old->t_self;
	CatalogTupleUpdate(rel, &tid, make_served_tuple(rel, template, clone, options));
	UnlockTuple(rel, &tid, InplaceUpdateTupleLock);

	if (((Form_pg_database) GETSTRUCT(old))->datdba != clone->owner)
		changeDependencyOnOwner(DatabaseRelationId, clone->oid, clone->owner);
	acl = get_acl(rel, old);
	if (acl)
		record_acl(clone->oid, clone->owner, acl, NULL);
	DeleteSharedComments(clone->oid, DatabaseRelationId);
	DeleteSharedSecurityLabel(clone->oid, DatabaseRelationId);
	DropSetting(clone->oid, InvalidOid);
	ForceSyncCommit();
	InvokeObjectPostAlterHook(DatabaseRelationId, clone->oid, 0);
	table_close(rel, RowExclusiveLock);
	return true;
}

/*
 * The options of a database that CREATE DATABASE made, as far as its row still
 * says them, for giving it its template's content again.
 */
static void
get_row_options(HeapTuple tuple, Relation rel, RowOptions *options)
{
	Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
	bool		isnull;
	Datum		version = heap_getattr(tuple, Anum_pg_database_datcollversion,
									   RelationGetDescr(rel), &isnull);

	memset(options, 0, sizeof(*options));
	options->allow_connections = true;
	options->connection_limit = form->datconnlimit >= DATCONNLIMIT_UNLIMITED ?
		form->datconnlimit : DATCONNLIMIT_UNLIMITED;
	if (!isnull)
		strlcpy(NameStr(options->collation_version), TextDatumGetCString(version),
				NAMEDATALEN);
}

/*
 * Do again for a database that CREATE DATABASE made what database_serve_row did,
 * with the same name, owner and connection limit.
 */
bool
database_serve_again(Oid oid, Oid template_oid)
{
	Relation	rel = table_open(DatabaseRelationId, RowExclusiveLock);
	HeapTuple	tuple = SearchSysCacheCopy1(DATABASEOID, ObjectIdGetDatum(oid));
	TestdbClone clone = {.oid = oid,.template_oid = template_oid};
	RowOptions	options;

	if (HeapTupleIsValid(tuple))
	{
		clone.name = ((Form_pg_database) GETSTRUCT(tuple))->datname;
		clone.owner = ((Form_pg_database) GETSTRUCT(tuple))->datdba;
		get_row_options(tuple, rel, &options);
	}
	table_close(rel, NoLock);
	return HeapTupleIsValid(tuple) && database_serve_row(&clone, &options);
}

/*
 * Does a clone's row differ from the one that database_reset_row would make of
 * it?
 */
static bool
row_differs(Relation rel, HeapTuple old, HeapTuple new)
{
	Form_pg_database from = (Form_pg_database) GETSTRUCT(new);
	Form_pg_database to = (Form_pg_database) GETSTRUCT(old);
	Acl		   *old_acl = get_acl(rel, old);
	Acl		   *new_acl = get_acl(rel, new);

	return from->datdba != to->datdba ||
		from->datconnlimit != to->datconnlimit ||
		from->datallowconn != to->datallowconn ||
		from->datistemplate != to->datistemplate ||
		(old_acl == NULL) != (new_acl == NULL) ||
		(old_acl != NULL && !aclequal(old_acl, new_acl));
}

/*
 * Bring a clone's row, with what belongs to it in shared catalogs, to what
 * database_reset_row would make of it under its name for this owner; but write
 * only what is not so already.  The caller has the database locked against
 * connections.
 *
 * Returns false, with nothing done, if the template has gone.
 */
bool
database_restore_row(Oid oid, Oid owner, Oid template_oid)
{
	Relation	rel = table_open(DatabaseRelationId, RowExclusiveLock);
	HeapTuple	template = get_template_tuple(template_oid);
	HeapTuple	old = SearchSysCacheCopy1(DATABASEOID, ObjectIdGetDatum(oid));
	bool		done = HeapTupleIsValid(template) && HeapTupleIsValid(old);

	if (done)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(old);
		Form_pg_database from = (Form_pg_database) GETSTRUCT(template);
		HeapTuple	new = make_clone_tuple(rel, template, oid, NameStr(form->datname),
										   owner, ROW_OPEN);

		if (row_differs(rel, old, new))
		{
			done = database_reset_row(oid, NameStr(form->datname), owner,
									  template_oid, ROW_OPEN);
			table_close(rel, NoLock);
			return done;
		}
		DeleteSharedComments(oid, DatabaseRelationId);
		DeleteSharedSecurityLabel(oid, DatabaseRelationId);
		sync_settings(oid, template_oid);
		if (form->datfrozenxid != from->datfrozenxid ||
				 form->datminmxid != from->datminmxid)
			done = database_revive(oid, template_oid, ROW_OPEN);
	}
	table_close(rel, NoLock);
	return done;
}

/*
 * For pgstat_drop_matching_compat: is this an entry of one of these databases?
 */
static bool
is_entry_of(PgStatShared_HashEntry *entry, Datum arg)
{
	const DatabaseList *list = (const DatabaseList *) DatumGetPointer(arg);

	return OidIsValid(entry->key.dboid) &&
		bsearch(&entry->key.dboid, list->oids, list->n, sizeof(Oid), oid_cmp) != NULL;
}

/*
 * Drop the cumulative statistics of databases, which nobody is in, so that they
 * start from zero.
 *
 * DROP DATABASE does that, too, by a pass through those of the whole server.
 * Here it is one pass for all of these databases.
 */
void
database_drop_statistics(const Oid *oids, int n)
{
	DatabaseList list = {.n = n};

	list.oids = palloc(n * sizeof(Oid));
	memcpy(list.oids, oids, n * sizeof(Oid));
	qsort(list.oids, n, sizeof(Oid), oid_cmp);
	pgstat_drop_matching_compat(is_entry_of, PointerGetDatum(&list));
	pfree(list.oids);
}

/*
 * Is a checkpoint in progress that began before this call?
 *
 * Recovery that starts from there applies WAL to the files as that checkpoint
 * leaves them.  A dirty page that was dropped from shared buffers before it was
 * written would be missing: unless WAL has images of full pages, recovery would
 * meet an older page than it expects, and PANIC.  Once the checkpoint is
 * complete, or if it begins after the last change of the page, all is well.
 *
 * A checkpoint sets the redo pointer when it begins, and enters it into
 * pg_control when it is complete.  Our own copy of the former is as new as our
 * last WAL record.
 */
bool
database_is_checkpointing(void)
{
	XLogRecPtr	redo;
	ControlFileData *control;
	char		nothing = 0;
	bool		crc_ok;
	bool		result;

	/* A record must hold something. */
	XLogBeginInsert();
	XLogRegisterData(&nothing, sizeof(nothing));
	(void) XLogInsert(RM_XLOG_ID, XLOG_NOOP);
	redo = GetRedoRecPtr();

	LWLockAcquire(ControlFileLock, LW_SHARED);
	control = get_controlfile(DataDir, &crc_ok);
	LWLockRelease(ControlFileLock);
	result = !crc_ok || control->checkPointCopy.redo != redo;
	pfree(control);
	return result;
}

/*
 * Forget what of a database is in shared buffers, and what the checkpointer
 * was to do with its files, as dropdb() does.  No session is in it or can come
 * to it.  Its files may be changed after the next checkpoint has been
 * completed, and every process has closed them.
 */
void
database_discard_buffers(Oid oid)
{
	DropDatabaseBuffers(oid);
	ForgetDatabaseSyncRequests(oid);
}

/*
 * A set of relations of any databases, empty; it lives in the current memory
 * context.
 */
HTAB *
database_relations_create(void)
{
	HASHCTL		info;

	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(RelationKey);
	info.entrysize = sizeof(RelationEntry);
	info.hcxt = CurrentMemoryContext;
	return hash_create("testdb relations", 64, &info,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * Add a relation to such a set, unless it is there; its entry.
 */
static RelationEntry *
add_relation(HTAB *relations, const RelationKey *key)
{
	bool		found;
	RelationEntry *entry = hash_search(relations, key, HASH_ENTER, &found);

	if (!found)
	{
		entry->discarded = false;
		entry->in_file = false;
		entry->lsn = InvalidXLogRecPtr;
	}
	return entry;
}

/*
 * The number of the relation that a file in a database's directory is of,
 * whichever fork or segment; InvalidOid if it is of none, or of a temporary
 * one, which only the session opens that made it.
 */
Oid
database_relation_of_file(const char *file)
{
	Oid			relation;
	char	   *end;

	if (file[0] < '1' || file[0] > '9')
		return InvalidOid;
	relation = (Oid) strtoul(file, &end, 10);
	return *end == '\0' || *end == '.' || *end == '_' ? relation : InvalidOid;
}

/*
 * Add the relation that a file in a database's directory is of, if it is of
 * one.
 */
void
database_relations_add_file(HTAB *relations, Oid oid, const char *file)
{
	RelationKey key = {.database = oid, .relation = database_relation_of_file(file)};

	if (OidIsValid(key.relation))
		add_relation(relations, &key)->in_file = true;
}

/*
 * Add the relations of these databases that have dirty pages in shared buffers.
 * Sorts oids.  No session is in them, so that there will be no more such pages.
 */
void
database_relations_add_dirty(HTAB *relations, Oid *oids, int noids)
{
	if (noids == 0)
		return;
	qsort(oids, noids, sizeof(Oid), oid_cmp);
	for (int i = 0; i < NBuffers; i++)
	{
		RelationKey key;
		bool		dirty;

		if (buffer_relation_compat(i, &key.database, &key.relation, &dirty) &&
			dirty &&
			bsearch(&key.database, oids, noids, sizeof(Oid), oid_cmp) != NULL)
		{
			RelationEntry *entry = add_relation(relations, &key);

			/* If another page has come there meanwhile, this one is in a file. */
			entry->lsn = Max(entry->lsn, PageGetLSN((Page) BufferGetBlock(i + 1)));
		}
	}
}

/*
 * The relations of a database in such a set, *n of them, in the current memory
 * context.
 */
RelationChange *
database_relations_list(HTAB *relations, Oid oid, int *n)
{
	HASH_SEQ_STATUS scan;
	RelationEntry *entry;
	RelationChange *list = palloc((hash_get_num_entries(relations) + 1) *
								  sizeof(RelationChange));

	*n = 0;
	hash_seq_init(&scan, relations);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->key.database != oid)
			continue;
		list[*n].number = entry->key.relation;
		list[(*n)++].lsn = entry->in_file ? PG_UINT64_MAX : entry->lsn;
	}
	return list;
}

/*
 * Drop all pages of these relations from shared buffers, except of those where
 * that has been done already.
 */
void
database_relations_discard(HTAB *relations)
{
	long		n = hash_get_num_entries(relations);
	SMgrRelation *list = palloc(Max(n, 1) * sizeof(SMgrRelation));
	HASH_SEQ_STATUS scan;
	RelationEntry *entry;

	n = 0;
	hash_seq_init(&scan, relations);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (!entry->discarded)
			list[n++] = smgr_open_compat(DEFAULTTABLESPACE_OID, entry->key.database,
										 entry->key.relation);
		entry->discarded = true;
	}
	if (n > 0)
		drop_relations_buffers_compat(list, (int) n);
	for (long i = 0; i < n; i++)
		smgrclose(list[i]);
	pfree(list);
}

#ifdef TESTDB_DEBUG
/*
 * Compare every page of a database that is in shared buffers with its file.
 * Nobody is in the database, so that all of them are clean; that they are the
 * same is what the next life relies on.
 */
void
database_check_buffers(Oid oid)
{
	if (DataChecksumsEnabled())
		return;					/* the copy in the file has one */
	for (int i = 0; i < NBuffers; i++)
	{
		BufferDesc *buffer = GetBufferDescriptor(i);
		PGAlignedBlock block;
		BlockNumber number = buffer->tag.blockNum;
		ForkNumber	fork = buffer->tag.forkNum;
		Oid			db;
		Oid			rel;
		Oid			now;
		bool		dirty;
		char		path[MAXPGPATH];
		int			fd;
		bool		same;

		if (!buffer_relation_compat(i, &db, &rel, &dirty) || db != oid)
			continue;
		snprintf(path, sizeof(path), "base/%u/%u%s%s", db, rel,
				 fork == MAIN_FORKNUM ? "" : "_",
				 fork == MAIN_FORKNUM ? "" : forkNames[fork]);
		if (number / RELSEG_SIZE > 0)
			snprintf(path + strlen(path), sizeof(path) - strlen(path), ".%u",
					 (unsigned) (number / RELSEG_SIZE));
		fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
		same = fd >= 0 &&
			pg_pread(fd, block.data, BLCKSZ,
					 (off_t) (number % RELSEG_SIZE) * BLCKSZ) == BLCKSZ &&
			memcmp(block.data, BufferGetBlock(i + 1), BLCKSZ) == 0;
		if (fd >= 0)
			CloseTransientFile(fd);

		/* It may have made way for another meanwhile. */
		if (!same && buffer_relation_compat(i, &now, &rel, &dirty) && now == oid)
			elog(PANIC, "page %u of file \"%s\" is another one in shared buffers",
				 number, path);
	}
}
#endif

/*
 * Keep datfrozenxid and datminmxid of all databases as they are, until the end
 * of the transaction.  A clone's row gets its template's: held from before
 * these are compared with the snapshot's until the row is committed, this lock
 * keeps pg_xact from being truncated in between, when only the clone needs it.
 * vac_update_datfrozenxid() takes the same lock.
 */
void
database_lock_horizons(void)
{
	LockDatabaseFrozenIds(ShareLock);
}

/*
 * Make a clone whose files are complete again a valid database, with the
 * template's horizons: ROW_OPEN, or ROW_CLOSED until spare_open.
 *
 * Done in place, since it is not to be undone, and leaves no dead row.  The
 * horizons are the template's of now, which its files still have to be read
 * with: the caller knows that they have not moved since the snapshot.
 *
 * No commit brings this to disk, since the transaction has no ID: the caller
 * calls database_flush before anybody gets the clone.
 *
 * Returns false, with nothing done, if the template has gone.
 */
bool
database_revive(Oid oid, Oid template_oid, RowAccess access)
{
	Relation	rel = table_open(DatabaseRelationId, RowExclusiveLock);
	HeapTuple	template = get_template_tuple(template_oid);
	Form_pg_database from;
	Form_pg_database to;
	ScanKeyData key;
	HeapTuple	tuple;
	void	   *state;

	if (!HeapTupleIsValid(template))
	{
		table_close(rel, RowExclusiveLock);
		return false;
	}
	from = (Form_pg_database) GETSTRUCT(template);
	ScanKeyInit(&key, Anum_pg_database_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(oid));
	systable_inplace_update_begin(rel, DatabaseOidIndexId, true, NULL, 1, &key,
								  &tuple, &state);
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("database with OID %u does not exist", oid)));
	to = (Form_pg_database) GETSTRUCT(tuple);
	to->datallowconn = access == ROW_OPEN;
	to->datconnlimit = access == ROW_OPEN ? clone_connection_limit(from) :
		DATCONNLIMIT_CLOSED;
	to->datfrozenxid = from->datfrozenxid;
	to->datminmxid = from->datminmxid;
	systable_inplace_update_finish(state, tuple);
	heap_freetuple(tuple);
	table_close(rel, RowExclusiveLock);
	return true;
}

/*
 * Bring to disk what this transaction has written to WAL so far.
 */
void
database_flush(void)
{
	if (!XLogRecPtrIsInvalid(XactLastRecEnd))
		XLogFlush(XactLastRecEnd);
}

/*
 * Remove dead rows from the shared catalogs that are written to for each
 * database, as VACUUM (TRUNCATE false) does, which never keeps anybody from
 * reading them.  A catalog that is just being vacuumed, or is locked by
 * somebody, is passed over.  The number of blocks of pg_database, or 0 if that
 * was.
 *
 * Called outside of a transaction.  What it allocates is in the current memory
 * context; that may be another one afterwards.
 */
uint32
database_vacuum_catalogs(void)
{
	static const struct
	{
		Oid			oid;
		char	   *name;
	}			catalogs[] = {
		{DatabaseRelationId, "pg_database"},
		{SharedDependRelationId, "pg_shdepend"},
		{DbRoleSettingRelationId, "pg_db_role_setting"},
	};
	VacuumStmt *stmt = makeNode(VacuumStmt);
	MemoryContext cxt = CurrentMemoryContext;
	uint32		nblocks = 0;

	stmt->is_vacuumcmd = true;
	stmt->options = list_make1(makeDefElem("truncate", (Node *) makeString("off"), -1));
	StartTransactionCommand();
	for (int i = 0; i < (int) lengthof(catalogs); i++)
	{
		MemoryContext old;
		Relation	rel;

		if (!ConditionalLockRelationOid(catalogs[i].oid, ShareUpdateExclusiveLock))
			continue;
		rel = table_open(catalogs[i].oid, NoLock);
		if (catalogs[i].oid == DatabaseRelationId)
			nblocks = RelationGetNumberOfBlocks(rel);
		table_close(rel, ShareUpdateExclusiveLock);
		old = MemoryContextSwitchTo(cxt);
		stmt->rels = lappend(stmt->rels,
							 makeVacuumRelation(makeRangeVar("pg_catalog",
															 catalogs[i].name, -1),
												InvalidOid, NIL));
		MemoryContextSwitchTo(old);
	}

	/* VACUUM ends the transaction and begins others; its memory is in here. */
	PortalContext = cxt;
	if (stmt->rels != NIL)
		ExecVacuum(make_parsestate(NULL), stmt, true);
	PortalContext = NULL;
	CommitTransactionCommand();
	return nblocks;
}

/*
 * How much more room there is in the data directory's file system than
 * testdb.min_free_space, in bytes, and how many more files it can take than
 * MIN_FREE_FILES; both negative if less.  A file system that does not count
 * its files has room for any number.
 */
static void
get_space(int64 *bytes, int64 *files)
{
	struct statvfs fs;

	if (statvfs(DataDir, &fs) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not get the free space of \"%s\": %m", DataDir)));
	*bytes = (int64) fs.f_bavail * (int64) fs.f_frsize -
		(int64) testdb_min_free_space * 1024 * 1024;
	*files = fs.f_files == 0 ? PG_INT64_MAX :
		(int64) fs.f_favail - MIN_FREE_FILES;
}

/*
 * Is there room for a database of so many bytes and files, besides what other
 * workers are copying?
 */
bool
database_has_space(uint64 bytes, uint64 files)
{
	int64		free_bytes;
	int64		free_files;
	uint64		other_bytes;
	uint64		other_files;

	space_get_reserved(&other_bytes, &other_files);
	get_space(&free_bytes, &free_files);
	return free_bytes >= (int64) (bytes + other_bytes) &&
		free_files >= (int64) (files + other_files);
}

/*
 * The same; if there is, that room is this worker's until space_release, unless
 * the transaction fails.
 */
bool
database_reserve_space(uint64 bytes, uint64 files)
{
	int64		free_bytes;
	int64		free_files;
	uint64		other_bytes;
	uint64		other_files;

	space_reserve(bytes, files, &other_bytes, &other_files);
	get_space(&free_bytes, &free_files);
	if (free_bytes >= (int64) (bytes + other_bytes) &&
		free_files >= (int64) (files + other_files))
		return true;
	space_release();
	return false;
}

/*
 * The error, 53100, that there is no room for so many bytes and files: to restore
 * the database of that name, or for another one if it is NULL.  In the current
 * memory context.
 */
ErrorData *
database_space_error(const char *name, uint64 bytes, uint64 files)
{
	ErrorData  *edata = palloc0(sizeof(ErrorData));
	const char *what = name ? psprintf("to restore database \"%s\"", name) :
		"for another database";
	int64		free_bytes;
	int64		free_files;
	uint64		other_bytes;
	uint64		other_files;

	space_get_reserved(&other_bytes, &other_files);
	get_space(&free_bytes, &free_files);
	free_bytes -= (int64) other_bytes;
	if (free_files != PG_INT64_MAX)
		free_files -= (int64) other_files;
	edata->elevel = ERROR;
	edata->sqlerrcode = ERRCODE_DISK_FULL;
	if (free_bytes < (int64) bytes || free_files >= (int64) files)
	{
		edata->message = psprintf("not enough free space %s", what);
		edata->detail = psprintf("It needs %llu kB more than the %d MB of \"%s\"; %lld kB are free.",
								 (unsigned long long) bytes / 1024,
								 testdb_min_free_space, "testdb.min_free_space",
								 (long long) free_bytes / 1024 +
								 (long long) testdb_min_free_space * 1024);
		edata->hint = "Drop databases that are no longer needed, or make the file system of the data directory larger.";
	}
	else
	{
		edata->message = psprintf("not enough free files %s", what);
		edata->detail = psprintf(name ? "It needs %llu more files; the file system can take %lld more." :
								 "It has %llu files; the file system can take %lld more.",
								 (unsigned long long) files,
								 (long long) Max(free_files, 0));
		edata->hint = "Drop databases that are no longer needed, or give the file system of the data directory more inodes.";
	}
	return edata;
}

/*
 * Raise that error if there is no such room.  Else it is this worker's until
 * space_release, unless the transaction fails.
 */
void
database_check_space(const char *name, uint64 bytes, uint64 files)
{
	if (!database_reserve_space(bytes, files))
		ThrowErrorData(database_space_error(name, bytes, files));
}

/*
 * Is a database marked as invalid, by an interrupted DROP DATABASE or restore?
 */
bool
database_is_invalid(Oid oid)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(oid));
	bool		invalid;

	if (!HeapTupleIsValid(tuple))
		return false;
	invalid = ((Form_pg_database) GETSTRUCT(tuple))->datconnlimit ==
		DATCONNLIMIT_INVALID_DB;
	ReleaseSysCache(tuple);
	return invalid;
}

/*
 * Have a background worker connect to a database, run one of our functions
 * there, and wait for its end; false if it could not be started.  The database
 * must not be locked, and the caller be in no transaction that others wait for.
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
 * Set what the transactions of a worker rely on, whatever ALTER DATABASE ... SET
 * or ALTER ROLE ... SET say: nothing of the database's owner may keep the worker
 * from its work, or lend it another role.  It waits for each lock so many ms at
 * most.
 */
void
database_secure_session(int lock_timeout_ms)
{
	static const struct
	{
		const char *name;
		const char *value;
	}			settings[] = {
		{"default_transaction_read_only", "off"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_deferrable", "off"},
		{"exit_on_error", "off"},
		{"role", "none"},
		{"search_path", "pg_catalog, pg_temp"},
		{"vacuum_cost_delay", "0"},
	};
	char		timeout[16];

	snprintf(timeout, sizeof(timeout), "%d", lock_timeout_ms);
	SetConfigOption("lock_timeout", timeout, PGC_SUSET, PGC_S_OVERRIDE);
	for (const char *const *name = timeout_settings_compat(); *name; name++)
		SetConfigOption(*name, "0", PGC_SUSET, PGC_S_OVERRIDE);
	for (int i = 0; i < (int) lengthof(settings); i++)
		SetConfigOption(settings[i].name, settings[i].value, PGC_SUSET, PGC_S_OVERRIDE);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, 0);
}

/*
 * Connect a visitor to its database.  It does not wait long for a lock, since a
 * worker waits for it, where the deadlock detector does not see that.
 */
void
database_init_visitor(Oid oid)
{
	char		timeout[16];

	snprintf(timeout, sizeof(timeout), "%d", VISITOR_LOCK_TIMEOUT);
	SetConfigOption("lock_timeout", timeout, PGC_SUSET, PGC_S_OVERRIDE);
	/* Where it is safe, and not wherever the signal finds us. */
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
	List	   *gids = NIL;
	ListCell   *lc;

	database_init_visitor(database);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (SPI_execute("SELECT gid FROM pg_catalog.pg_prepared_xacts"
					" WHERE database OPERATOR(pg_catalog.=) pg_catalog.current_database()",
					true, 0) != SPI_OK_SELECT)
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
 * Roll back all prepared transactions of a database.  What is left of them is
 * for the caller to find; false if no process could be started that does it.
 */
bool
database_rollback_prepared(Oid oid)
{
	return database_visit(oid, "testdb_rollback_main", "testdb rollback");
}

/*
 * Say who is connected to a database, for the detail of an error; NULL if
 * nobody is.  Any process may call it.
 *
 * It says what pg_stat_activity shows to everybody: process ID, user,
 * application.
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
		char	   *user;

		if (status->st_databaseid != oid || status->st_procpid == 0)
			continue;
		if (nfound++ >= MAX_DESCRIBED)
			continue;
		if (nfound > 1)
			appendStringInfoChar(&buf, ' ');
		user = OidIsValid(status->st_userid) ?
			GetUserNameFromId(status->st_userid, true) : NULL;
		appendStringInfo(&buf, "Process %d", status->st_procpid);
		if (user)
			appendStringInfo(&buf, " of user \"%s\"", user);
		if (status->st_appname && status->st_appname[0])
			appendStringInfo(&buf, " (application \"%s\")", status->st_appname);
		appendStringInfoString(&buf, " is connected to it.");
	}
	if (nfound > MAX_DESCRIBED)
		appendStringInfo(&buf, " And %d more.", nfound - MAX_DESCRIBED);
	return nfound > 0 ? buf.data : NULL;
}

/*
 * Raise the error, 53400, that a role has as many clones as it may have, which
 * is n.
 */
void
database_report_role_limit(Oid role, int n)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("too many databases of role \"%s\"",
					GetUserNameFromId(role, false)),
			 errdetail("It has %d.", n),
			 errhint("Drop some with testdb_drop or testdb_drop_all, or increase \"%s\".",
					 "testdb.max_clones_per_role")));
}
