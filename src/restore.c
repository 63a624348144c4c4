/*-------------------------------------------------------------------------
 *
 * restore.c
 *	  Restoring a clone in place, while no session accesses it.
 *
 * testdb_reset does this after ending the sessions in a clone, and worker 0
 * repeats it for a clone whose rewind or restore was interrupted, until it
 * succeeds.  The caller has the database locked, so that new sessions wait,
 * and keeps the lock until all is committed: the row in pg_database is always
 * valid.
 *
 *	step								if it ends here, there remains
 *	1  checks; the snapshot is locked	a clone as before
 *	2  room for its files is reserved	the same
 *	3  rows in shared catalogs			the same: they are not committed yet
 *	4  barrier							the same
 *	5  lease: REWINDING					a clone that must be restored
 *	6  pages dropped from shared		the same
 *	   buffers; checkpoint; barrier
 *	7  files restored, flushed			the same
 *	8  commit							the same
 *	9  lease: HELD						a clone with its template's content
 *	10 registry: LEASED					the same
 *
 * The order of step 6, and what makes it safe, is that of recycle.c.  The
 * barrier of step 4 checks that it will succeed, before there is no way back.
 *
 * After an error or exit in steps 5 to 9 no session may see the content.  The
 * caller then makes the clone REWINDING in the registry, marked as
 * unrestored, and worker 0 restores it (rewind.c); after a server crash it
 * finds the lease, and does the same.  Until then new sessions wait
 * (connect.c).  The clone is lost only if its template no longer exists.
 *
 * Locks: those of snapshot.c and database.c, to the end of step 8; the
 * caller's.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "postmaster/bgwriter.h"
#include "utils/syscache.h"

#include "buffers.h"
#include "compat.h"
#include "database.h"
#include "dbcatalog.h"
#include "debug.h"
#include "job.h"
#include "lease.h"
#include "recycle.h"
#include "registry.h"
#include "restore.h"
#include "snapshot.h"
#include "space.h"

/*
 * Return the owner that a clone gets when it is restored: the role that it
 * was created for, as for a new one; or owner, its present one, if that role
 * no longer exists, or if it was created by CREATE DATABASE.
 */
Oid
restore_owner(const TestdbClone *clone, Oid owner)
{
	return !clone->terms.database &&
		SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(clone->owner)) ?
		clone->owner : owner;
}

/*
 * Step 1.  Fills *template; false if its snapshot cannot be used now.
 */
static bool
check_source(const TestdbClone *clone, TestdbTemplate *template)
{
	database_lock_horizons();
	return snapshot_lock_current(clone->template_oid, template) &&
		snapshot_lock_source(template) &&
		snapshot_is_intact(template, NULL);
}

/*
 * Step 3.  The row is written even if that is not needed, in order to wait
 * for sessions that are changing it, for example by GRANT.
 *
 * Errors: 3D000 if the template or the clone no longer exists.
 */
static void
restore_rows(const TestdbClone *clone, const TestdbTemplate *template)
{
	database_sync_dependencies(clone->oid, clone->template_oid, template->dependencies);
	if (clone->terms.database ?
		!database_serve_again(clone->oid, clone->template_oid) :
		!database_reset_row(clone->oid, NameStr(clone->name), clone->owner,
							clone->template_oid, ROW_OPEN))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("template of database \"%s\" does not exist",
						NameStr(clone->name)),
				 errdetail("It has been dropped in the meantime.")));
	debug_point("restore-rows");
}

/*
 * Steps 6 and 7.  False if the snapshot is damaged, or if a WAL consumer
 * appeared.
 */
static bool
restore_files(TestdbClone *clone, const TestdbTemplate *template)
{
	if (!database_is_checkpointing())
		database_discard_buffers(clone->oid);
	database_drop_statistics(&clone->oid, 1);
	debug_point("restore-discarded");
	RequestCheckpoint(CHECKPOINT_FAST | CHECKPOINT_FORCE | CHECKPOINT_WAIT);
	recycle_check_barrier();
	debug_point("restore-closed");
	database_discard_buffers(clone->oid);
	if (!snapshot_restore(template, clone->oid, NULL))
		return false;
	space_release();
#ifdef TESTDB_DEBUG
	database_check_buffers(clone->oid);
#endif
	debug_point("restore-content");
	recycle_log_restored(clone);
	if (!recycle_end_restoring())
		return false;
	database_flush();
	return true;
}

/*
 * Restore a clone from its template's snapshot, which the caller has found to
 * be up to date.  In a transaction, in which the clone is locked and has no
 * sessions except those that wait at its gate; the transaction is committed
 * if the result is RESTORE_DONE.  *begun is set when there is no way back.
 *
 * RESTORE_NOT_BEGUN means that the template or its snapshot has just changed;
 * RESTORE_FAILED, that the snapshot proved unusable.
 *
 * Errors: 53100 if there is no room; 55006 if a process does not close its
 * files; 3D000.
 */
RestoreResult
restore_database(TestdbClone *clone, bool *begun)
{
	TestdbTemplate template;
	DatabaseInfo info;
	uint64		bytes;
	uint64		files;

	if (!check_source(clone, &template) || !database_lookup(clone->oid, &info))
		return RESTORE_NOT_BEGUN;
	clone->name = info.name;
	clone->owner = restore_owner(clone, info.owner);
	snapshot_room(&template, clone->oid, NULL, &bytes, &files);
	database_check_space(NameStr(clone->name), bytes, files);
	restore_rows(clone, &template);
	recycle_check_barrier();
	*begun = true;
	registry_set_fallback(clone->oid, CLONE_REWINDING);
	lease_write(clone, LEASE_REWINDING);
	debug_point("restore-recorded");
	if (!restore_files(clone, &template))
		return RESTORE_FAILED;
	job_commit_work();
	debug_point("restore-committed");
	clone->version = template.version;
	clone->row_version = template.row_version;
	lease_write(clone, LEASE_HELD);
	debug_point("restore-held");
	registry_finish_reset(clone);
	*begun = false;
	return RESTORE_DONE;
}
