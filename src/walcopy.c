/*-------------------------------------------------------------------------
 *
 * walcopy.c
 *	  What WAL says of databases that are copied, and who consumes it.
 *
 * With wal_level above minimal somebody may follow WAL some day: a standby, an
 * archive, a slot.  He makes the same clone from what WAL says, by copying the
 * template.  Where somebody does so now, the native method is not used.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xloginsert.h"
#include "commands/dbcommands_xlog.h"
#include "postmaster/bgwriter.h"
#include "replication/slot.h"
#include "replication/walsender_private.h"

#include "compat.h"
#include "walcopy.h"

/*
 * Who follows WAL now, in a few words, or NULL: a standby or a base backup, for
 * which a WAL sender or a slot stands, or an archive.
 */
const char *
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
 * Write to WAL that the directory of a database in a tablespace is removed, as
 * DROP DATABASE does; the position of the record.
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
 * The same of a directory that was made for a database which was never
 * committed, and flush it: WAL may have the record that makes it, since the
 * last checkpoint, and recovery would make it again.  Its lease may be
 * removed then.
 */
void
database_log_removal(Oid oid, Oid tablespace)
{
	XLogFlush(log_drop(oid, tablespace));
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
 * See that recovery here will never act on the records of database_log_copy:
 * it would copy the template of a later time.  createdb() says more of that.
 */
void
database_end_log(void)
{
	RequestCheckpoint(CHECKPOINT_FAST | CHECKPOINT_FORCE | CHECKPOINT_WAIT);
}
