/*-------------------------------------------------------------------------
 *
 * spare_row.c
 *	  Opening a spare through its row in pg_database.
 *
 * A database that has not been handed out is closed in its row, so that tools
 * that loop over pg_database (vacuumdb --all, pg_dumpall, exporters, scripts)
 * skip it:
 *
 *	datallowconn	false
 *	datconnlimit	DATCONNLIMIT_CLOSED, which no command can set, so that it is
 *					told from a database that its owner has closed.  It does not
 *					mark the database as invalid: its horizons go on holding back
 *					the truncation of pg_xact.
 *
 * While it is being restored it is marked as invalid as well (database.c).
 *
 * It is opened by the process that hands it out: a session that takes it, or
 * a worker.  That is an in-place update, like VACUUM's, which needs no
 * transaction ID and no commit: it persists whether or not the transaction
 * commits, leaves no dead row, and works in a transaction of any isolation
 * level.  A session that connects reads the row again, and sees it.
 *
 * Its owner is always the role for which it was created, so pg_shdepend is
 * correct.  If the row is not as testdb left it (by its xmin and ctid), it
 * was changed by another process: then the spare is not opened but removed.
 * See guard.c for other changes.
 *
 * After a crash:
 *
 *	step							if the server crashes after it
 *	1  registry: CREATING			removed: the lease says UNWANTED
 *	2  row opened in place			the same
 *	3  lease: HELD					leased; if the update is not on disk, it is
 *									repeated when worker 0 reads the lease
 *	4  registry: LEASED				the same
 *
 * Locks.  RowExclusiveLock on pg_database, held until the end of the
 * transaction, as for other updates; the tuple lock during the in-place
 * update.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "buffers.h"
#include "compat.h"
#include "database.h"
#include "dbcatalog.h"
#include "spare_row.h"

/*
 * Copy the xmin and ctid of a clone's row, as seen by this transaction, to
 * *clone, for spare_open.  False if it has no row.
 */
bool
spare_note_row(TestdbClone *clone)
{
	TemplateRow row;

	if (!database_read_row(clone->oid, &row))
		return false;
	clone->row_xmin = row.xmin;
	clone->row_tid = row.tid;
	return true;
}

/*
 * Report whether a row is this clone's, and as testdb left it.
 */
static bool
is_as_left(HeapTuple tuple, const TestdbClone *clone)
{
	Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

	return form->oid == clone->oid &&
		form->datconnlimit == DATCONNLIMIT_CLOSED && !form->datallowconn &&
		form->datdba == clone->owner &&
		(!TransactionIdIsValid(clone->row_xmin) ||
		 HeapTupleHeaderGetRawXmin(tuple->t_data) == clone->row_xmin);
}

/*
 * Open the database in a copy of its row; limit is its connection limit.
 */
static void
open_row(HeapTuple tuple, int32 limit)
{
	Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

	form->datallowconn = true;
	form->datconnlimit = limit;
}

/*
 * Callback of heap_inplace_lock, called before it waits.
 */
static void
release_buffer(void *arg)
{
	ReleaseBuffer(*(Buffer *) arg);
}

/*
 * Pin a block of pg_database; InvalidBuffer if there is no such block.
 *
 * Usually it still is in the buffer where this process found it last:
 * checking that is faster than reading the length of the file.
 */
static Buffer
pin_block(Relation rel, BlockNumber block)
{
	static Buffer seen[16];		/* by block number; initially InvalidBuffer */
	Buffer	   *last = &seen[block % lengthof(seen)];

	if (BufferIsValid(*last) &&
		ReadRecentBuffer(RELATION_ADDRESS_COMPAT(rel), MAIN_FORKNUM, block, *last))
		return *last;
	*last = block < RelationGetNumberOfBlocks(rel) ? ReadBuffer(rel, block) : InvalidBuffer;
	return *last;
}

/*
 * Open a clone by the recorded ctid of its row.  False, with nothing done, if
 * the row is not there, or is being changed.
 */
static bool
open_at_place(Relation rel, const TestdbClone *clone, int32 limit)
{
	BlockNumber block = ItemPointerGetBlockNumberNoCheck(&clone->row_tid);
	OffsetNumber offset = ItemPointerGetOffsetNumberNoCheck(&clone->row_tid);
	Buffer		buffer;
	Page		page;
	HeapTupleData old = {0};
	HeapTuple	new;
	bool		ok = false;

	if (!TransactionIdIsValid(clone->row_xmin) || offset == InvalidOffsetNumber)
		return false;

	/* As long as it is pinned, its tuples are not moved. */
	buffer = pin_block(rel, block);
	if (!BufferIsValid(buffer))
		return false;
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	if (!PageIsNew(page) && offset <= PageGetMaxOffsetNumber(page))
	{
		ItemId		item = PageGetItemId(page, offset);

		if (ItemIdIsNormal(item))
		{
			old.t_data = (HeapTupleHeader) PageGetItem(page, item);
			old.t_len = ItemIdGetLength(item);
			old.t_self = clone->row_tid;
			old.t_tableOid = RelationGetRelid(rel);
			ok = is_as_left(&old, clone);
		}
	}
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	if (!ok)
	{
		ReleaseBuffer(buffer);
		return false;
	}
	if (!heap_inplace_lock(rel, &old, buffer, release_buffer, &buffer))
		return false;
	ok = is_as_left(&old, clone);
	if (ok)
	{
		new = heap_copytuple(&old);
		open_row(new, limit);
		heap_inplace_update_and_unlock(rel, &old, new, buffer);
		heap_freetuple(new);
	}
	else
		heap_inplace_unlock(rel, &old, buffer);
	ReleaseBuffer(buffer);
	return ok;
}

/*
 * The same by an index scan, wherever the row is now; waits for a transaction
 * that is changing it.
 */
static bool
open_by_index(Relation rel, const TestdbClone *clone, int32 limit)
{
	ScanKeyData key;
	HeapTuple	tuple;
	void	   *state;
	bool		ok;

	/* A row that has just been committed must be found. */
	AcceptInvalidationMessages();
	ScanKeyInit(&key, Anum_pg_database_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(clone->oid));
	systable_inplace_update_begin(rel, DatabaseOidIndexId, true, NULL, 1, &key,
								  &tuple, &state);
	if (!HeapTupleIsValid(tuple))
		return false;
	ok = is_as_left(tuple, clone);
	if (ok)
	{
		open_row(tuple, limit);
		systable_inplace_update_finish(state, tuple);
	}
	else
		systable_inplace_update_cancel(state);
	heap_freetuple(tuple);
	return ok;
}

/*
 * Let sessions connect to a clone that is closed; limit is its connection
 * limit.  False, with nothing done, if the row is not as testdb left it.  May
 * be called by any process, in a transaction, which needs no transaction ID.
 *
 * If flush is true, the update is on disk when this returns.  Otherwise
 * spare_repair must be called after a crash; then the commit does not ask for
 * the update's WAL record to be written soon, which would wake the WAL writer
 * for almost every clone before PostgreSQL 17 (see XLogSetAsyncXactLSN).
 *
 * Errors: 55P03 after lock_timeout, if another transaction is changing the
 * row.
 */
bool
spare_open(const TestdbClone *clone, int32 limit, bool flush)
{
	Relation	rel = table_open(DatabaseRelationId, RowExclusiveLock);
	XLogRecPtr	before = XactLastRecEnd;
	bool		done = open_at_place(rel, clone, limit) ||
		open_by_index(rel, clone, limit);

	table_close(rel, NoLock);
	if (flush)
		database_flush();
	else
		XactLastRecEnd = before;
	return done;
}

/*
 * Report whether a database is closed by testdb, according to its row.
 */
bool
spare_is_closed(Oid oid)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(oid));
	bool		closed;

	if (!HeapTupleIsValid(tuple))
		return false;
	closed = ((Form_pg_database) GETSTRUCT(tuple))->datconnlimit == DATCONNLIMIT_CLOSED;
	ReleaseSysCache(tuple);
	return closed;
}

/*
 * List the OIDs of all databases that are closed by testdb.
 */
List *
spare_list_closed(void)
{
	Relation	rel = table_open(DatabaseRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	List	   *oids = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (form->datconnlimit == DATCONNLIMIT_CLOSED)
			oids = lappend_oid(oids, form->oid);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return oids;
}

/*
 * At server start: open a clone that was handed out just before a crash, if
 * the update of its row was lost.  In a transaction.
 */
void
spare_repair(const TestdbClone *clone)
{
	TestdbClone copy = *clone;
	DatabaseInfo info;
	TemplateRow row;

	if (!spare_is_closed(clone->oid) || !database_lookup(clone->oid, &info))
		return;
	copy.owner = info.owner;
	copy.row_xmin = InvalidTransactionId;
	(void) spare_open(&copy, database_read_row(clone->template_oid, &row) ?
					  row.clone_limit : DATCONNLIMIT_UNLIMITED, true);
}
