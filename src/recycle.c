/*-------------------------------------------------------------------------
 *
 * recycle.c
 *	  Restoring returned clones for reuse.
 *
 * A clone that was dropped keeps its OID and its directory.  Worker 0 takes
 * all that have been returned since the last time, and for all of them
 * together:
 *
 *	1  drops their dirty pages from shared buffers, most of which were never
 *	   written, and those of files that have changed, and makes the
 *	   checkpointer forget their files; unless a checkpoint is in progress,
 *	   which must write them, as database_is_checkpointing says;
 *	2  has a checkpoint made: it began after the last session of the former
 *	   uses ended, so that recovery will never apply WAL of those to
 *	   the files that are now restored; and the checkpointer has forgotten;
 *	3  has every process close its files (a barrier), unless it is known that
 *	   none was made or removed;
 *
 * and then for each of them:
 *
 *	4  drops its statistics, and restores the files that differ from the
 *	   snapshot's, if there is room for that; if not, the clone is removed;
 *	5  lets sessions connect to it again, in its row;
 *	6  after the commit, has other libraries forget its former use (forget.c),
 *	   for all of them together;
 *	7  makes it a spare in the registry.
 *
 * With wal_level above minimal, 4 goes on with WAL records of DROP and CREATE
 * DATABASE, for standbys and archives, and 5 is followed by one more
 * checkpoint for all, so that recovery never acts on them here.
 *
 * The row got its next name, and was marked as invalid, when the clone was
 * dropped, and the lease on disk is UNWANTED until the clone is handed out
 * again.  So after a crash at any of these steps the database is removed at
 * the next server start; after an error it becomes GARBAGE.
 *
 * Between 3 and 4, the pages of files that have changed since step 1 are also
 * dropped from shared buffers: they may have been written out just before
 * step 1 could see them dirty.  All other pages stay: they are equal to the
 * files, and so to the snapshot, and the next session finds the catalogs in
 * memory.  So pages are dropped by relation: relations with a dirty page at
 * step 1, and those with a file known to have changed after step 3.
 *
 * Processes may keep a file of the clone open.  That is harmless while the
 * file is restored in place, but not if it has been or will be unlinked:
 * later writes through the stale descriptor would be lost.  So step 3, which
 * wakes all processes, and which a client in the middle of a COPY delays, is
 * omitted if no file of a relation was created or removed.  After a timeout,
 * only clones that do not need it are restored, and the others wait until a
 * barrier, retried at intervals, succeeds.
 *
 * Which files differ is known from inotify, if this process has restored the
 * clone before: from then on it watches the directory, and collects the names
 * of files written, created or removed.  If that fails (another worker 0, too
 * many events, no more watches), all files are compared by size and time, and
 * all pages are dropped.
 *
 * A clone cannot be reused while a serializable transaction that may still
 * conflict with others has read from it, since such locks are kept by OID.
 * It is then removed.
 *
 * Locks: the snapshot's, as snapshot.c says.  The database itself is not
 * locked, since no session can connect to it.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "postmaster/bgwriter.h"
#include "storage/md.h"
#include "storage/predicate_internals.h"
#include "storage/procsignal.h"
#include "utils/memutils.h"
#include "utils/timeout.h"

#include "buffers.h"
#include "compat.h"
#include "database.h"
#include "dbcatalog.h"
#include "debug.h"
#include "forget.h"
#include "recycle.h"
#include "signals.h"
#include "snapshot.h"
#include "space.h"
#include "spare_row.h"
#include "spares.h"
#include "stats.h"
#include "templates.h"
#include "walcopy.h"
#include "watch.h"

/* How long to wait for other processes to close their files, in ms. */
#define BARRIER_TIMEOUT		2000

/* Interval of retries, and how long to wait then, both in ms. */
#define BARRIER_RETRY		5000

#define BARRIER_RETRY_TIMEOUT	200

HTAB	   *watches = NULL;		/* of Watch */

/* The clones that this process is restoring; in TopMemoryContext. */
static TestdbClone *batch = NULL;

static int	batch_size = 0;

static int	batch_space = 0;

/* True while this process waits for other processes to close their files. */
static bool in_barrier = false;

/* The time of the next try, after a timeout. */
static TimestampTz retry_at = 0;

/* True if this process wrote WAL that requires database_end_log. */
static bool to_be_ended = false;

/*
 * Return the OIDs of the databases in which serializable transactions hold
 * locks.
 */
static List *
databases_with_predicate_locks(void)
{
	PredicateLockData *locks = GetPredicateLockStatusData();
	List	   *oids = NIL;

	for (int i = 0; i < locks->nelements; i++)
		oids = list_append_unique_oid(oids,
									  GET_PREDICATELOCKTARGETTAG_DB(locks->locktags[i]));
	return oids;
}

/*
 * Have WAL consumers restore a clone whose files have just been restored.
 */
void
recycle_log_restored(const TestdbClone *clone)
{
	if (!database_is_logged())
		return;
	database_log_copy(clone->oid, clone->template_oid, true);
	to_be_ended = true;
	debug_point("restore-logged");
}

/*
 * Reserve the space needed to restore these files of a clone, until
 * space_release; false if there is not enough.
 */
static bool
reserve_room(const TestdbClone *clone, const TestdbTemplate *template,
			 const FilesyncNames *names)
{
	uint64		bytes;
	uint64		files;

	snapshot_room(template, clone->oid, names, &bytes, &files);
	return database_reserve_space(bytes, files);
}

/*
 * Bring a clone to the content of its template's snapshot, in files and
 * catalogs: steps 4 and 5 above.  It is RESTORING; false if it cannot be
 * used.  names are the files that may differ, or NULL for all; clone gets its
 * new versions.
 *
 * The horizons in the clone's row will be the snapshot's.  If pg_xact is no
 * longer kept for these, the snapshot cannot be used.
 *
 * All changes are on disk before the clone is handed out, like its lease.
 */
static bool
restore_clone(TestdbClone *clone, const TestdbTemplate *template,
			  const FilesyncNames *names)
{
	DatabaseInfo info;
	int			behind;
	bool		done;

	database_lock_horizons();
	if (!database_keeps_horizons(clone->template_oid, &template->row))
		return false;

	/* REASSIGN OWNED may have changed its owner. */
	if (!database_lookup(clone->oid, &info) || info.owner != clone->owner)
		return false;

	/*
	 * Or a session may have waited for our lock in order to ALTER it before
	 * it was dropped: a committed change is undone below, an uncommitted one
	 * cannot be.
	 */
	if (TransactionIdIsValid(database_find_settings_changer(clone->oid)))
		return false;

	if (!snapshot_lock_source(template))
		return false;
	if (!reserve_room(clone, template, names))
		return false;
	if (names == NULL)
		database_discard_buffers(clone->oid);
	done = snapshot_restore(template, clone->oid, names);
	space_release();
	if (!done)
		return false;
#ifdef TESTDB_DEBUG
	database_check_buffers(clone->oid);
#endif
	debug_point("restore-files");
	recycle_log_restored(clone);
	behind = registry_behind(template, NULL, clone);
	if (behind & BEHIND_CLONE_FILES)
		database_sync_dependencies(clone->oid, clone->template_oid,
								   template->dependencies);
	if ((behind & BEHIND_CLONE_ROW) ||
		database_settings(clone->oid) != template->settings)
		done = database_reset_row(clone->oid, NameStr(clone->name), clone->owner,
								  clone->template_oid, ROW_CLOSED);
	else
		done = database_revive(clone->oid, clone->template_oid, ROW_CLOSED);
	debug_point("restore-row");
	database_flush();
	CommandCounterIncrement();
	done = spare_note_row(clone) && done;
	debug_point("restore-flushed");

	clone->version = template->version;
	clone->row_version = template->row_version;
	return done;
}

/*
 * The same for a clone of the batch.  If it cannot be used it becomes
 * GARBAGE.
 */
static void
restore_returned(TestdbClone *clone)
{
	TestdbTemplate template;

	if (!snapshot_lock(clone->template_oid, &template) ||
		!restore_clone(clone, &template, watch_names(clone, &template)))
		(void) registry_set_state(clone->oid, CLONE_RESTORING, CLONE_GARBAGE);
}

/*
 * To be called after restore_clone, before the end of the transaction: makes
 * a checkpoint if WAL records of the restore require one.  False if the
 * restored clones cannot be used: a WAL consumer appeared, perhaps starting
 * before those records, and could copy a later state of the template.
 */
bool
recycle_end_restoring(void)
{
	bool		ended = to_be_ended;

	to_be_ended = false;
	if (!ended)
		return true;
	database_end_log();
	debug_point("restore-checkpoint");
	return !database_has_wal_consumer();
}

/*
 * Drop the statistics of the batch's clones.
 */
static void
drop_statistics(void)
{
	Oid		   *oids = palloc(batch_size * sizeof(Oid));

	for (int i = 0; i < batch_size; i++)
		oids[i] = batch[i].oid;
	database_drop_statistics(oids, batch_size);
	pfree(oids);
}

/*
 * Report whether a process may have a file of a clone open that has been
 * removed, or will be when the clone is restored.
 */
bool
recycle_needs_barrier(const TestdbClone *clone)
{
	TestdbTemplate template;

	return !is_watched(clone->oid) || watch_find(clone->oid)->renewed ||
		!registry_template(clone->template_oid, &template) ||
		(registry_behind(&template, NULL, clone) & BEHIND_CLONE_FILES);
}

/*
 * Take the clones that were returned into the batch, or only those that need
 * no barrier; they become RESTORING, or GARBAGE if they cannot be reused.
 */
static void
take_batch(bool stuck)
{
	List	   *locked;
	TestdbClone *clones;
	int			n;

	clones = registry_list(&n);
	if (n > batch_space)
	{
		if (batch)
			pfree(batch);
		batch = MemoryContextAlloc(TopMemoryContext, n * sizeof(TestdbClone));
		batch_space = n;
	}

	/* No session is left in these clones, so no lock can be added. */
	locked = databases_with_predicate_locks();
	batch_size = 0;
	for (int i = 0; i < n; i++)
	{
		Oid			oid = clones[i].oid;

		if (clones[i].state != CLONE_RETURNED || (stuck && recycle_needs_barrier(&clones[i])))
			continue;
		if (list_member_oid(locked, oid))
			(void) registry_set_state(oid, CLONE_RETURNED, CLONE_GARBAGE);
		else if (registry_set_state(oid, CLONE_RETURNED, CLONE_RESTORING))
			batch[batch_size++] = clones[i];
	}
	pfree(clones);
}

/*
 * Wake the sessions that wait for spares of the batch's templates, and forget
 * the batch.
 */
static void
announce_batch(void)
{
	Oid			last = InvalidOid;

	for (int i = 0; i < batch_size; i++)
	{
		if (batch[i].template_oid != last)
			registry_announce_spare(batch[i].template_oid);
		last = batch[i].template_oid;
	}
	batch_size = 0;
}

/*
 * Add the relations of databases that have a file known to have changed to a
 * set.
 */
void
recycle_add_changed(HTAB *relations, const Oid *oids, int n)
{
	for (int i = 0; i < n; i++)
	{
		const FilesyncNames *names = watch_current(oids[i]);

		if (names == NULL)
			continue;
		for (uint32 k = 0; k < filesync_names_count(names); k++)
			database_relations_add_file(relations, oids[i],
										filesync_names_get(names, k));
	}
}

/*
 * The same for the databases of the batch.
 */
static void
add_changed(HTAB *relations)
{
	for (int i = 0; i < batch_size; i++)
		recycle_add_changed(relations, &batch[i].oid, 1);
}

/*
 * Drop from shared buffers the relations of the batch that have a dirty page
 * or a changed file, and put them into the set; drop all of a database if it
 * is not known what has changed.
 */
static void
discard_pages(HTAB *relations)
{
	Oid		   *oids = palloc(batch_size * sizeof(Oid));
	int			n = 0;

	for (int i = 0; i < batch_size; i++)
	{
		if (is_watched(batch[i].oid))
			oids[n++] = batch[i].oid;
		else
			database_discard_buffers(batch[i].oid);
	}
	add_changed(relations);
	database_relations_add_dirty(relations, oids, n);
	database_relations_discard(relations);
	for (int i = 0; i < n; i++)
		ForgetDatabaseSyncRequests(oids[i]);
	pfree(oids);
}

/*
 * Also drop those whose files have changed since.  If it is no longer known
 * what has changed, restore_clone drops all.
 */
static void
discard_changed_pages(HTAB *relations)
{
	add_changed(relations);
	database_relations_discard(relations);
}

/*
 * Have every process close the files of databases that are about to be
 * changed, and wait until all have, for at most timeout ms.
 *
 * A process that waits for its client in the middle of a COPY does not answer
 * until the client sends something.  DROP DATABASE waits without limit.
 *
 * Errors: 57014 after that time; recycle_is_stuck() is then true.
 */
static void
close_files_everywhere(int timeout)
{
	uint64		generation = EmitProcSignalBarrier(PROCSIGNAL_BARRIER_SMGRRELEASE);

	in_barrier = true;
	enable_timeout_after(STATEMENT_TIMEOUT, timeout);
	WaitForProcSignalBarrier(generation);
	disable_timeout(STATEMENT_TIMEOUT, false);
	in_barrier = false;
	if (registry_is_stuck())
	{
		registry_set_stuck(false);
		ereport(LOG, (errmsg("recycling of databases is no longer delayed")));
	}
}

/*
 * Report whether recycling has just failed because a process did not answer.
 */
bool
recycle_is_stuck(void)
{
	return in_barrier;
}

/*
 * Report what recycle_is_stuck does, and reset that state; for error
 * handling.
 */
bool
recycle_end_barrier(void)
{
	bool		stuck = in_barrier;

	in_barrier = false;
	return stuck;
}

/*
 * Record for all workers that a process does not close its files; worker 0
 * will retry.  detail names the process, or is NULL.
 */
void
recycle_note_stuck(const char *detail)
{
	if (registry_is_stuck())
		return;
	registry_set_stuck(true);
	request_wake_workers();
	ereport(LOG,
			(errmsg("recycling of databases is delayed: timed out waiting for other processes to release their files"),
			 detail ? errdetail_internal("%s", detail) : 0,
			 errhint("A process may be waiting for a client that has begun COPY and sends nothing, or may be sleeping without processing interrupts. Until it continues, dropped databases in which files were created or removed are kept, and new ones are copied.")));
}

/*
 * After recycling failed because a process did not answer: put the batch
 * back, to be retried later.
 */
void
recycle_postpone(void)
{
	retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BARRIER_RETRY);
	for (int i = 0; i < batch_size; i++)
		(void) registry_set_state(batch[i].oid, CLONE_RESTORING, CLONE_RETURNED);
	announce_batch();
}

/*
 * Return the time until processes that did not close their files are asked
 * again, in ms.
 */
long
recycle_pause(void)
{
	TimestampTz now = GetCurrentTimestamp();

	return now < retry_at ? TimestampDifferenceMilliseconds(now, retry_at) : 0;
}

/*
 * Report whether there is a clone that can be restored although a process
 * does not close its files.
 */
bool
recycle_is_possible(void)
{
	TestdbClone *clones;
	bool		found = false;
	int			n;

	clones = registry_list(&n);
	for (int i = 0; i < n && !found; i++)
		found = clones[i].state == CLONE_RETURNED && !recycle_needs_barrier(&clones[i]);
	pfree(clones);
	return found;
}

/*
 * Put back the clones of the batch that need a barrier, which some process
 * does not answer at present.
 */
static void
put_back_others(void)
{
	int			nkept = 0;

	for (int i = 0; i < batch_size; i++)
		if (recycle_needs_barrier(&batch[i]))
			(void) registry_set_state(batch[i].oid, CLONE_RESTORING, CLONE_RETURNED);
		else
			batch[nkept++] = batch[i];
	batch_size = nkept;
}

/*
 * Report whether any clone of the batch needs a barrier.
 */
static bool
batch_needs_barrier(void)
{
	for (int i = 0; i < batch_size; i++)
		if (recycle_needs_barrier(&batch[i]))
			return true;
	return false;
}

/*
 * Restore all clones that were returned.  For worker 0, in a transaction:
 * after its commit recycle_publish makes them spares; if it fails,
 * recycle_abandon makes them GARBAGE.
 *
 * Errors: those of close_files_everywhere and snapshot_restore.
 */
void
recycle_returned(void)
{
	TimestampTz start = GetCurrentTimestamp();
	TemplateStats stats = {0};
	HTAB	   *relations;
	bool		stuck;

	watch_init();
	if (registry_is_stuck() && recycle_pause() == 0)
	{
		retry_at = TimestampTzPlusMilliseconds(start, BARRIER_RETRY);
		close_files_everywhere(BARRIER_RETRY_TIMEOUT);
	}
	stuck = registry_is_stuck();
	watch_drain();
	take_batch(stuck);
	if (batch_size == 0)
		return;

	debug_point("recycle-taken");
	relations = database_relations_create();
	watch_drain();
	if (!database_is_checkpointing())
		discard_pages(relations);
	debug_point("recycle-discarded");
	RequestCheckpoint(CHECKPOINT_FAST | CHECKPOINT_FORCE | CHECKPOINT_WAIT);
	debug_point("recycle-checkpoint");
	watch_drain();
	if (stuck)
		put_back_others();
	else if (batch_needs_barrier())
		close_files_everywhere(BARRIER_TIMEOUT);
	debug_point("recycle-closed");

	discard_changed_pages(relations);
	hash_destroy(relations);
	drop_statistics();
	for (int i = 0; i < batch_size; i++)
		restore_returned(&batch[i]);
	if (!recycle_end_restoring())
		for (int i = 0; i < batch_size; i++)
			(void) registry_set_state(batch[i].oid, CLONE_RESTORING, CLONE_GARBAGE);
	watch_drain();
	for (int i = 0; i < batch_size; i++)
		watch_restart(batch[i].oid);

	stats.recycled = 1;
	stats.recycle_us = (GetCurrentTimestamp() - start) / Max(batch_size, 1);
	for (int i = 0; i < batch_size; i++)
		registry_add_stats(batch[i].template_oid, &stats);
}

/*
 * Report whether a serializable transaction that may still conflict with
 * others has read from a database.
 */
bool
recycle_is_locked(Oid oid)
{
	return list_member_oid(databases_with_predicate_locks(), oid);
}

/*
 * Ensure that every process answers a barrier, before beginning work that
 * depends on it.
 *
 * Errors: those of close_files_everywhere.
 */
void
recycle_check_barrier(void)
{
	close_files_everywhere(BARRIER_TIMEOUT);
}

/*
 * Make other libraries forget the previous use of the clones that
 * recycle_returned has restored, after the commit.  If that fails they become
 * garbage.  For worker 0, outside a transaction.
 */
void
recycle_forget(void)
{
	Oid		   *oids = palloc(batch_size * sizeof(Oid));
	char	   *message;

	for (int i = 0; i < batch_size; i++)
		oids[i] = batch[i].oid;
	if (forget_previous_uses(oids, batch_size, &message))
		return;
	for (int i = 0; i < batch_size; i++)
	{
		registry_note_error(batch[i].template_oid, message);
		(void) registry_set_state(batch[i].oid, CLONE_RESTORING, CLONE_GARBAGE);
	}
}

/*
 * Make spares of the clones that recycle_returned has restored, after the
 * commit.
 */
void
recycle_publish(void)
{
	for (int i = 0; i < batch_size; i++)
	{
		batch[i].state = CLONE_SPARE;
		(void) registry_update(&batch[i], CLONE_RESTORING);
	}
	announce_batch();
}

/*
 * Give up the clones that recycle_returned has taken; also called when the
 * process ends.
 */
void
recycle_abandon(void)
{
	if (batch_size > 0)
		(void) registry_release_all();
	announce_batch();
}

/*
 * Read the events of the watched directories before the kernel's queue
 * overflows.
 */
void
recycle_listen(void)
{
	if (watches != NULL)
		watch_drain();
}

/*
 * Bring a spare up to date that is behind its template's snapshot.  It is
 * RESTORING, and the snapshot is locked; false if it cannot be used.  For any
 * worker, in a transaction.
 *
 * It had no sessions since it was restored, so shared buffers have no dirty
 * page of it, and WAL has nothing that recovery might apply: no checkpoint is
 * needed.  Nor is a barrier, since files removed here are not created again
 * under their names.  A process that has one open closes it at the next
 * barrier, which worker 0, notified of the removal, executes when the clone
 * is returned.
 */
bool
recycle_update_spare(TestdbClone *clone, const TestdbTemplate *template)
{
	bool		done = restore_clone(clone, template, NULL);

	return recycle_end_restoring() && done;
}
