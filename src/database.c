/*-------------------------------------------------------------------------
 *
 * database.c
 *	  Creating and dropping a database through core.
 *
 * Everything here runs in a worker, inside a transaction that the worker
 * starts and ends, unless its comment says otherwise, and does not depend on
 * requests.
 *
 * The work itself is done by core's createdb() and dropdb().  Around them,
 * two things are done differently from CREATE and DROP DATABASE:
 *
 * - Whether the template is in use is determined under the lock that keeps new
 *   sessions out, and without waiting.  createdb() then never finds a session,
 *   and never sleeps; the caller, not the worker, waits until the template is
 *   not in use.
 * - Sessions in a database to be dropped are terminated and waited for
 *   beforehand, so that dropdb() finds none: it would sleep 100 ms even if
 *   only one of them, just disconnected by its client, was still exiting.
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

#include <sys/stat.h>
#include "access/heapam.h"
#include "access/subtrans.h"
#include "catalog/catalog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_shdepend.h"
#include "catalog/pg_subscription.h"
#include "catalog/pg_tablespace.h"
#include "commands/dbcommands.h"
#include "commands/tablespace.h"
#include "commands/vacuum.h"
#include "nodes/makefuncs.h"
#include "postmaster/bgwriter.h"
#include "replication/slot.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/procarray.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#include "buffers.h"
#include "compat.h"
#include "database.h"
#include "droppable.h"
#include "sessions.h"
#include "space.h"
#include "walcopy.h"

/* How long dropdb() may take, besides waiting for a lock, in ms. */
#define DROP_TIMEOUT		5000

/* True while this process is in dropdb(). */
static bool in_dropdb = false;

/* The database that this process last locked, or tried to lock. */
static Oid	last_locked = InvalidOid;

/* The transaction that has changed it and was waited for since, if any. */
static TransactionId last_changer = InvalidTransactionId;

/* True if this process was not allowed to wait for that. */
static bool lock_refused = false;

/*
 * Find a database by its OID and fill *info; false if there is none.  Any
 * process may call it, in a transaction.
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
 * The OID is needed before the database is created, in order to record it
 * first.  createdb() repeats these checks.
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
 * Terminate the autovacuum workers in a database.
 */
void
database_end_autovacuum(Oid oid)
{
	(void) database_signal_sessions(oid, false, false);
}

/*
 * Begin to wait for a lock on a database, or its row, unless all other
 * workers are waiting for one: 55P03 then, which database_lock_was_refused
 * reports once.
 */
static void
begin_wait_or_refuse(Oid oid)
{
	DatabaseInfo info;

	if (request_begin_lock_wait())
		return;
	lock_refused = true;
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 database_lookup(oid, &info) ?
			 errmsg("could not obtain lock on database \"%s\"", NameStr(info.name)) :
			 errmsg("could not obtain lock on database with OID %u", oid)));
}

/*
 * Lock a database, or with subid its sub-object, until the end of the
 * transaction; false if that is not possible without waiting.
 */
bool
database_lock_at_once(Oid oid, uint16 subid, LOCKMODE mode)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, oid, subid);
	if (LockAcquire(&tag, mode, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	AcceptInvalidationMessages();
	return true;
}

/*
 * Lock a database until the end of the transaction.  If all other workers are
 * waiting for locks, it is not waited for, which database_lock_was_refused
 * reports once.
 *
 * Errors: 55P03 after lock_timeout, or immediately.
 */
static void
lock_or_refuse(Oid oid, LOCKMODE mode)
{
	last_locked = oid;
	last_changer = InvalidTransactionId;
	if (database_lock_at_once(oid, 0, mode))
		return;
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
 * Return the transaction in progress, other than this one, that has changed a
 * setting of a database (ALTER DATABASE ... SET, ALTER ROLE ... IN DATABASE
 * ... SET), or InvalidTransactionId.  These commands release their lock on
 * the database at their end, not at that of the transaction.
 */
TransactionId
database_find_settings_changer(Oid oid)
{
	Relation	rel = table_open(DbRoleSettingRelationId, AccessShareLock);
	TransactionId xid = InvalidTransactionId;
	SnapshotData dirty;
	ScanKeyData key;
	SysScanDesc scan;

	InitDirtySnapshot(dirty);
	ScanKeyInit(&key, Anum_pg_db_role_setting_setdatabase, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, DbRoleSettingDatidRolidIndexId, true, &dirty, 1, &key);
	while (!TransactionIdIsValid(xid) && HeapTupleIsValid(systable_getnext(scan)))
		xid = TransactionIdIsValid(dirty.xmin) ? dirty.xmin : dirty.xmax;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return xid;
}

/*
 * Return the transaction in progress, other than this one, that has changed
 * or locked the row of a database, or changed its settings, or
 * InvalidTransactionId.
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
	return TransactionIdIsValid(xid) ? xid : database_find_settings_changer(oid);
}

/*
 * Wait for a transaction, after begin_wait_or_refuse.
 *
 * Errors: 55P03 after lock_timeout.
 */
static void
wait_for_transaction(TransactionId xid)
{
	last_changer = xid;
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
 * Wait for a transaction that has changed a database's row or settings, as
 * GRANT and ALTER DATABASE do without a lock on the database; the same rule
 * as in lock_or_refuse.  The database is locked.
 *
 * Errors: 55P03 after lock_timeout, or immediately.
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
 * Lock a template so that no session can connect to it, and check that it has
 * no sessions; true if not.  *nprepared is the number of its prepared
 * transactions.  name is the name used by the caller, for the error.
 *
 * The ShareLock is kept until the transaction's end.
 *
 * Errors: 3D000 if the template no longer exists; 55P03 after lock_timeout.
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
		(void) database_signal_sessions(oid, false, false);
		return false;
	}
	return *nprepared == 0;
}

/*
 * The same without waiting for the lock; false also if it is not available.
 */
bool
database_try_lock_idle(Oid oid)
{
	DatabaseInfo info;

	if (!database_lock_at_once(oid, 0, ShareLock) || !database_lookup(oid, &info))
		return false;
	if (CountDBBackends(oid) > 0)
	{
		(void) database_signal_sessions(oid, false, false);
		return false;
	}
	return database_count_prepared(NameStr(info.name)) == 0;
}

/*
 * Create a database with the given OID, name and owner from a template, which
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

	/* The grammar passes integers beyond the range of int as a Float. */
	Node	   *oid_arg = (Node *) makeFloat(psprintf("%u", oid));

	stmt->dbname = pstrdup(name);
	stmt->options = list_make4(makeDefElem("owner", owner_arg, -1),
							   makeDefElem("template", template_arg, -1),
							   makeDefElem("strategy", strategy_arg, -1),
							   makeDefElem("oid", oid_arg, -1));
	createdb(make_parsestate(NULL), stmt);
}

/*
 * Lock a database in AccessExclusiveLock until the end of the transaction, so
 * that no session can connect to it, and fill *info; false if it does not
 * exist (any more).
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
 * The same without waiting; false if another process has locked the database
 * or changed its row or settings.  *changer is the transaction that did the
 * latter, if any; the database is locked then.
 */
bool
database_try_lock(Oid oid, TransactionId *changer)
{
	*changer = InvalidTransactionId;
	if (!database_lock_at_once(oid, 0, AccessExclusiveLock))
		return false;
	*changer = find_row_changer(oid);
	if (TransactionIdIsValid(*changer))
		*changer = SubTransGetTopmostTransaction(*changer);
	return !TransactionIdIsValid(*changer);
}

/*
 * Ensure that a database has an entry in the cumulative statistics that can
 * be dropped.
 *
 * A dropped entry remains, marked as dropped, while any process refers to it;
 * it is reused when statistics of the same OID are reported.  A clone keeps
 * its OID.  If nothing was reported since it was last recycled, and a process
 * still refers to the dropped entry, dropping it again would be an error, and
 * since that happens after the commit, a PANIC.
 */
static void
make_statistics_droppable(Oid oid)
{
	pgstat_report_autovac(oid);
}

/*
 * Drop a database, terminating its sessions; false if it does not exist (any
 * more).
 *
 * dropdb() waits until every process has closed its files, which a process
 * that waits for its client in the middle of a COPY does not do.
 *
 * Errors: those of DROP DATABASE; 53100 if the file system is full and the
 * reserve is used up; 55006 as in database_end_sessions; 55P03 after
 * lock_timeout; 57014 if dropdb() takes longer than that and DROP_TIMEOUT,
 * after which the database may be marked as invalid.
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
				 errdetail("Dropping it requires a checkpoint, which could not be completed."),
				 errhint("Free some space in the file system of the data directory, for example by TRUNCATE in a database.")));
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
 * Report whether database_drop has just failed in dropdb(), and reset that
 * state; for error handling.
 */
bool
database_end_drop(void)
{
	bool		failed = in_dropdb;

	in_dropdb = false;
	return failed;
}

/*
 * Report whether this process was not allowed to wait for a lock, since the
 * last call.
 */
bool
database_lock_was_refused(void)
{
	bool		refused = lock_refused;

	lock_refused = false;
	return refused;
}

/*
 * Return the database that this process last locked, or tried to lock; for
 * error handling.
 */
Oid
database_last_locked(void)
{
	return last_locked;
}

/*
 * Return the transaction that changed that database's row or settings and was
 * waited for last, or InvalidTransactionId.
 */
TransactionId
database_last_changer(void)
{
	return last_changer;
}

/*
 * Remove the directories of a database that has no row in pg_database, in
 * every tablespace: the leftovers of a crash, or of a failed copy.  A failure
 * is a WARNING.
 *
 * The WAL records of that are flushed on return, and so are those of a CREATE
 * DATABASE that failed and has removed them itself: otherwise a crash would
 * replay the creation alone.
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
			{
				database_log_removal(oid, tablespace);
				ereport(LOG,
						(errmsg("removed directory \"%s\" of an incompletely created database",
								path)));
			}
		}
		pfree(path);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	database_flush_all();
}

/*
 * Return the name of a tablespace other than the default one in which a
 * database has files, or NULL.
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
 * Return the reason why a database cannot be cloned by the native method, in
 * a few words, or NULL if it can.
 */
char *
database_obstacle(Oid oid)
{
	HeapTuple	tuple;
	Oid			tablespace;
	char	   *other;
	const char *consumer = find_wal_consumer();

	if (consumer)
		return pstrdup(consumer);
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
 * Return the method by which core creates databases if the native method
 * cannot be used.
 */
TestdbMethod
database_core_method(void)
{
	return database_has_wal_consumer() ? TESTDB_METHOD_WAL_LOG : TESTDB_METHOD_FILE_COPY;
}

/*
 * Return the OIDs of the databases that depend on a role: by their owner, by
 * privileges on them, or by objects in them.  Any session may call it.
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
 * Report whether a clone that is being dropped can be recycled: not if core
 * would do more for it than database_reset_row does.
 *
 * Nor if WAL consumers, in a recovery of their own, might apply earlier
 * changes to pages of the restored files: full-page images prevent that.  On
 * this server the checkpoint before the restore does (recycle.c).
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
		(!XLogIsNeeded() || (fullPageWrites && !database_has_wal_consumer())) &&
		!ReplicationSlotsCountDBSlots(oid, &nslots, &nactive) &&
		CountDBSubscriptions(oid) == 0 &&
		find_other_tablespace(oid) == NULL;
}

/*
 * Raise an error, 55006, if dropdb() would refuse to drop a database without
 * sessions.
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
 * Report whether a database is marked as invalid, by an interrupted DROP
 * DATABASE or restore.
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
 * Set the configuration parameters that a worker relies on, overriding ALTER
 * DATABASE ... SET and ALTER ROLE ... SET: the database's owner must not be
 * able to block the worker, or to change its role.  It waits at most
 * lock_timeout_ms for each lock.
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
 * Raise the error, 53400, that a role has as many clones as it may have, n.
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
