/*-------------------------------------------------------------------------
 *
 * walcopy.c
 *	  WAL records of copied databases, and the consumers of WAL.
 *
 * With wal_level above minimal there may be WAL consumers in the future: a
 * standby, an archive, a slot.  They create the same clone when they replay
 * the WAL record, by copying the template.  While there is a consumer, the
 * native method is not used.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "access/xloginsert.h"
#include "commands/dbcommands_xlog.h"
#include "postmaster/bgwriter.h"
#include "replication/slot.h"
#include "replication/walsender_private.h"

#include "compat.h"
#include "walcopy.h"

/*
 * Describe a present WAL consumer, in a few words, or return NULL: a standby
 * or a base backup, according to WAL senders and slots, or an archive.
 */
const char *
find_wal_consumer(void)
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
 * Report whether there may be WAL consumers in the future, so that changes of
 * a database's files must be logged.
 */
bool
database_is_logged(void)
{
	return XLogIsNeeded();
}

/*
 * Report whether there is a WAL consumer now.
 *
 * While WAL is being consumed, databases are created by core's CREATE
 * DATABASE with the strategy WAL_LOG.  Replaying the record of
 * database_log_copy is safe only if the consumer does not crash: if it does,
 * and the template has changed, it copies parts of a later state.  The same
 * is true of the strategy FILE_COPY.
 */
bool
database_has_wal_consumer(void)
{
	return find_wal_consumer() != NULL;
}

/*
 * Log the removal of a database's directory in a tablespace, as DROP DATABASE
 * does; return the position of the record.
 */
static XLogRecPtr
log_drop(Oid oid, Oid tablespace)
{
	xl_dbase_drop_rec drop;

	drop.db_id = oid;
	drop.ntablespaces = 1;
	XLogBeginInsert();
	XLogRegisterData((char *) &drop, MinSizeOfDbaseDropRec);
	XLogRegisterData((char *) &tablespace, sizeof(tablespace));
	return XLogInsert(RM_DBASE_ID, XLOG_DBASE_DROP | XLR_SPECIAL_REL_UPDATE);
}

/*
 * The same for the directory of a database that was never committed: WAL may
 * have a record that creates the directory, since the last checkpoint, so
 * recovery would create it again.  Its lease may be removed when the record
 * is flushed, see database_flush_all.
 */
void
database_log_removal(Oid oid, Oid tablespace)
{
	(void) log_drop(oid, tablespace);
}

/*
 * Flush all WAL records that any process has inserted so far.
 */
void
database_flush_all(void)
{
	XLogRecPtr	end = GetXLogInsertRecPtr();
	XLogRecPtr	offset = end % XLOG_BLCKSZ;

	/* Where a page is full, that is behind the header of the next one. */
	if (offset <= SizeOfXLogLongPHD)
		end -= offset;
	XLogFlush(end);
}

/*
 * Log a copy of the template's directory to the clone's, for future WAL
 * consumers, as CREATE DATABASE with the strategy FILE_COPY does; if again is
 * set, the clone is not new, and its directory is replaced.  On this server
 * the files are complete.
 *
 * Consumers copy the template as of this point in WAL, so it must equal the
 * clone: the caller has locked the template, which has no sessions and is
 * unchanged since the snapshot, and calls database_end_log before that lock
 * is released.
 *
 * The record of DROP DATABASE removes old pages from their shared buffers,
 * and their sessions in the clone.
 */
void
database_log_copy(Oid oid, Oid template_oid, bool again)
{
	xl_dbase_create_file_copy_rec copy;

	if (again)
		(void) log_drop(oid, DEFAULTTABLESPACE_OID);

	copy.db_id = oid;
	copy.tablespace_id = DEFAULTTABLESPACE_OID;
	copy.src_db_id = template_oid;
	copy.src_tablespace_id = DEFAULTTABLESPACE_OID;
	XLogBeginInsert();
	XLogRegisterData((char *) &copy, sizeof(copy));
	(void) XLogInsert(RM_DBASE_ID, XLOG_DBASE_CREATE_FILE_COPY | XLR_SPECIAL_REL_UPDATE);
}

/*
 * Ensure that recovery on this server never replays the records of
 * database_log_copy: it would copy a later state of the template.  See
 * createdb().
 */
void
database_end_log(void)
{
	RequestCheckpoint(CHECKPOINT_FAST | CHECKPOINT_FORCE | CHECKPOINT_WAIT);
}
