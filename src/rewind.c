/*-------------------------------------------------------------------------
 *
 * rewind.c
 *	  Rewinding a clone to its template's content, under open sessions.
 *
 * Worker 0 does it, since it knows which files of a clone have changed
 * (watch.c).  Several clones are rewound together, with one checkpoint and one
 * barrier.  For each request:
 *
 *	step								if it ends here, there remains
 *	1  checks; the snapshot is fresh	a clone as before
 *	2  gate: CLOSING					the same
 *	   wait until no session is in a transaction, or for the request's timeout
 *	3  database locked against new		the same
 *	   sessions; gate: SHUT; no
 *	   session is in a transaction
 *	4  registry: REWINDING				the same
 *	5  barrier, if some session may		the same
 *	   not have completed its last
 *	   commit, or if
 *	   relations' files were created
 *	   or removed
 *	6  the checks again, since sessions	the same: they are not committed yet
 *	   were waited for; room for the
 *	   files is reserved; rows in
 *	   shared catalogs
 *	7  lease: REWINDING					a clone that must be restored
 *	8  changed pages dropped from		the same
 *	   shared buffers
 *	9  checkpoint						the same
 *	10 files restored, flushed			the same
 *	11 commit							the same
 *	12 lease: HELD						a clone with its template's content
 *	13 invalidation messages			the same
 *	14 registry: LEASED; gate: OPEN		the same
 *
 * The checkpoint of step 9 begins after the last transaction before the
 * rewind, so that recovery never applies earlier WAL to the restored files.
 * No checkpoint is in progress at step 8, since it would have to write the
 * pages that are dropped there: one in progress is waited for before.
 *
 * From step 7 to 13 interrupts are held: the worker exits or fails
 * afterwards.  If the restore fails nevertheless (an I/O error), here or in a
 * reset (restore.c), or if the lease is found after a server crash, no
 * session may see the content.  The clone stays REWINDING, marked as
 * unrestored, with its gate SHUT if sessions can be waiting there, and all
 * its files are restored from a fresh snapshot, which is retried until it
 * succeeds.  New sessions wait, and so do those at the gate.  The content is
 * lost only if the template no longer exists: then the gate is LOST, which
 * ends all sessions, and the clone is removed.
 *
 * Sessions' caches are brought up to date by invalidation messages.  If only
 * tables and indexes of the template have changed, according to their files
 * and dirty pages (relfiles.c), the messages name these, including
 * pg_statistic.  If another catalog has changed, or if it is not known which
 * files have, the messages cover all catalogs and all relations; a session
 * then also reads the relation map again.
 *
 * Locks.  Heavyweight locks as database.c and snapshot.c say, held to the end
 * of step 11.  The one on the database is never waited for, since a session
 * that is connecting, or one that alters the database, may hold it.  No
 * LWLock is held over any step.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_namespace_d.h"
#include "catalog/pg_statistic_d.h"
#include "miscadmin.h"
#include "postmaster/bgwriter.h"
#include "storage/lmgr.h"
#include "storage/md.h"
#include "storage/proc.h"
#include "storage/sinval.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "buffers.h"
#include "compat.h"
#include "connect.h"
#include "database.h"
#include "dbcatalog.h"
#include "debug.h"
#include "filesync.h"
#include "gate.h"
#include "guc.h"
#include "job.h"
#include "lease.h"
#include "recycle.h"
#include "registry.h"
#include "relfiles.h"
#include "request.h"
#include "restore.h"
#include "rewind.h"
#include "sessions.h"
#include "snapshot.h"
#include "space.h"
#include "stats.h"
#include "templates.h"
#include "visitor.h"
#include "watch.h"

/* Interval between checks of the sessions waited for, in ms. */
#define REWIND_INTERVAL		1

/*
 * How long processes other than client backends that are active without a
 * transaction are waited for, in ms.
 */
#define ACTIVE_PATIENCE		100

/* How many checkpoints in progress are waited for. */
#define CHECKPOINT_TRIES	10

/* Core has no names for these. */
#define TOAST_OF_STATISTIC			2840
#define TOAST_INDEX_OF_STATISTIC	2841

/* The progress of a rewind; the order matters. */
typedef enum RewindStage
{
	REWIND_BEHIND,				/* after another one of the same clone */
	REWIND_WAITING,				/* the gate is CLOSING */
	REWIND_ENTERED,				/* the gate is SHUT, the entry REWINDING; or
								 * about to be */
	REWIND_SPOILED,				/* the content is partly restored */
	REWIND_DONE					/* the clone is LEASED again, its gate open */
} RewindStage;

/* When a failed restore of a clone is retried, in ms. */
#define RESTORE_RETRY		1000

/* A request that this worker has taken. */
typedef struct Rewind
{
	int			slot;
	RequestArgs args;
	RewindStage stage;
	TestdbClone clone;
	TestdbTemplate template;	/* ENTERED: its snapshot is locked */
	TimestampTz started_at;
	TimestampTz deadline;		/* of the waiting */
	TimestampTz active_since;	/* since when processes other than client
								 * backends have been active, and no session
								 * in a transaction; or 0 */
	bool		forced;			/* the sessions have been terminated */
	bool		catalogs;		/* ENTERED: catalogs have changed, perhaps */
	bool		cramped;		/* ENTERED: not enough space to restore it */
	uint64		bytes;			/* ENTERED: the space that a restore takes */
	uint64		files;
	char	   *ended;			/* which, or NULL; in TopMemoryContext */
} Rewind;

static Rewind pending[GATE_MAX];
static int	npending = 0;

/* The OIDs of all catalogs of a database, for invalidation messages. */
static Oid *catalogs = NULL;
static int	ncatalogs = 0;

/*
 * Forget a request that has been answered.
 */
static void
forget(Rewind *rewind)
{
	if (rewind->ended)
		pfree(rewind->ended);
	*rewind = pending[--npending];
}

/*
 * Release the clone of a request, unchanged.
 */
static void
let_go(Rewind *rewind)
{
	if (rewind->stage == REWIND_ENTERED)
		(void) registry_set_state(rewind->clone.oid, CLONE_REWINDING, CLONE_LEASED);
	if (rewind->stage == REWIND_SPOILED)
		registry_set_unrestored(rewind->clone.oid);
	else if (rewind->stage == REWIND_WAITING || rewind->stage == REWIND_ENTERED)
		(void) gate_open(rewind->clone.oid);
}

/*
 * Answer a request with an error, and forget it.
 */
static void
fail(Rewind *rewind, ErrorData *edata)
{
	let_go(rewind);
	request_fail(rewind->slot, edata);
	forget(rewind);
}

/*
 * Return the error that was caught, and end the transaction.  From PG_CATCH
 * only.
 */
static ErrorData *
catch_error(void)
{
	ErrorData  *edata = job_rollback_work();

	debug_point("rewind-failed");
	return edata;
}

/*
 * Return why a clone cannot be rewound; NULL if it can.  In a transaction.
 */
static const char *
why_impossible(const TestdbClone *clone)
{
	if (!clone->native)
		return "It was not copied from a snapshot of its template.";
	if (!database_is_recyclable(clone->oid))
		return "It has replication slots, subscriptions or files in a tablespace, is marked as a template, or WAL is being consumed.";
	if (recycle_is_locked(clone->oid))
		return "A serializable transaction that may still conflict with others has read from it.";
	return NULL;
}

/*
 * Raise an error unless a clone can be rewound.  In a transaction.
 *
 * Errors: 55000, which names testdb_reset.
 */
static void
check_possible(const TestdbClone *clone, const char *name)
{
	const char *reason = why_impossible(clone);

	if (reason)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("database \"%s\" cannot be rewound", name),
				 errdetail_internal("%s", reason),
				 errhint("Use testdb_reset, which terminates the sessions in it.")));
}

/*
 * Begin to serve a request: step 1 of the head of this file.  False if
 * *result is already the answer.
 *
 * Errors: 42501, 55000, those of snapshot_ensure.
 */
static bool
prepare(Rewind *rewind, RequestResult *result)
{
	TestdbClone *clone = &rewind->clone;
	DatabaseInfo info;
	DatabaseInfo template;
	bool		ok;

	job_begin_work();
	ok = registry_lookup(rewind->args.database, clone) &&
		clone->lease == rewind->args.lease && clone->state == CLONE_LEASED &&
		database_lookup(clone->oid, &info);
	result->missing = !ok;
	if (ok)
	{
		check_possible(clone, NameStr(info.name));
		if (!database_lookup(clone->template_oid, &template))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_DATABASE),
					 errmsg("template of database \"%s\" does not exist",
							NameStr(info.name))));
		switch (snapshot_ensure(clone->template_oid, NameStr(template.name),
								registry_lease(clone->template_oid),
								&rewind->template, &result->nprepared))
		{
			case SNAPSHOT_FRESH:
				break;
			case SNAPSHOT_BUSY:
				result->busy = true;
				ok = false;
				break;
			case SNAPSHOT_IMPOSSIBLE:
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("database \"%s\" cannot be rewound",
								NameStr(info.name)),
						 errdetail("Its template cannot be cloned by the native method."),
						 errhint("Use testdb_reset, which terminates the sessions in it.")));
		}
	}
	job_commit_work();
	return ok;
}

/*
 * Report whether another rewind of the same clone is ahead of this one.
 */
static bool
is_behind_another(const Rewind *rewind)
{
	for (int i = 0; i < npending; i++)
		if (pending[i].clone.oid == rewind->clone.oid &&
			pending[i].stage != REWIND_BEHIND && pending[i].stage != REWIND_DONE)
			return true;
	return false;
}

/*
 * Close the gate for a request that is next: step 2.
 */
static void
start(Rewind *rewind)
{
	if (is_behind_another(rewind))
		return;
	job_begin_work();
	if (gate_close(rewind->clone.oid))
		rewind->stage = REWIND_WAITING;
	job_commit_work();
	debug_point("rewind-closing");
}

/*
 * Take one request from the queue; false if there is none.
 */
static bool
take_request(void)
{
	Rewind	   *rewind = &pending[npending];
	RequestResult result;
	bool		waits = false;

	memset(rewind, 0, sizeof(*rewind));
	memset(&result, 0, sizeof(result));
	if (npending == GATE_MAX ||
		(rewind->slot = request_take(&rewind->args, true)) < 0)
		return false;
	rewind->started_at = GetCurrentTimestamp();
	npending++;
	PG_TRY();
	{
		waits = prepare(rewind, &result);
		rewind->deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   rewind->args.wait_ms);
		if (waits)
			start(rewind);
	}
	PG_CATCH();
	{
		fail(rewind, catch_error());
		return true;
	}
	PG_END_TRY();
	if (!waits)
	{
		request_finish(rewind->slot, &result);
		forget(rewind);
	}
	return true;
}

/*
 * Handle the timeout of a request: with force, terminate the sessions that
 * prevent it and extend its deadline, the first time; else raise an error.
 *
 * Errors: 55006.
 */
static void
give_up_waiting(Rewind *rewind)
{
	int			nprepared = database_count_prepared(NameStr(rewind->args.database_name));
	bool		terminate = rewind->args.force && !rewind->forced;
	char	   *sessions = gate_describe(rewind->clone.oid, terminate);

	if (terminate)
	{
		rewind->forced = true;
		if (sessions)
			rewind->ended = MemoryContextStrdup(TopMemoryContext, sessions);
		if (nprepared > 0)
			(void) database_rollback_prepared(rewind->clone.oid);
		rewind->deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   testdb_lock_timeout);
		return;
	}
	if (sessions == NULL && nprepared > 0)
		sessions = psprintf(ngettext("There is %d prepared transaction using the database.",
									 "There are %d prepared transactions using the database.",
									 nprepared),
							nprepared);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("database \"%s\" is being accessed by other users",
					NameStr(rewind->args.database_name)),
			 sessions ? errdetail_internal("%s", sessions) :
			 errdetail("Another session is connecting to it or altering it."),
			 rewind->forced ?
			 errhint("They were terminated, but did not exit within %d ms. See \"%s\".",
					 testdb_lock_timeout, "testdb.lock_timeout") :
			 errhint("A database is rewound when no session in it is in a transaction. testdb_rewind waited %d ms; see \"%s\", or call testdb_rewind with force.",
					 rewind->args.wait_ms, "testdb.rewind_timeout")));
}

/*
 * Lock a database against new sessions; false if that is not possible without
 * waiting, or if a transaction is changing its row or settings.
 */
static bool
try_lock(Oid oid)
{
	TransactionId changer;

	if (database_try_lock(oid, &changer))
		return true;
	if (TransactionIdIsValid(changer))
		UnlockSharedObject(DatabaseRelationId, oid, 0, AccessExclusiveLock);
	return false;
}

/*
 * Report whether to wait for a session that is active, but not in a
 * transaction: it may be between two of its command.  A background worker that
 * goes on like that for ACTIVE_PATIENCE is not.
 */
static bool
waits_for_active(Rewind *rewind, const GateView *view)
{
	TimestampTz now;

	if (view->active || !view->reported)
		return view->active;
	now = GetCurrentTimestamp();
	if (rewind->active_since == 0)
		rewind->active_since = now;
	return !TimestampDifferenceExceeds(rewind->active_since, now, ACTIVE_PATIENCE);
}

/*
 * Steps 3 and 4, if no session prevents them; false if one does.  In the
 * transaction of the batch.  *idle is cleared if a barrier is needed.
 */
static bool
enter(Rewind *rewind, bool *idle)
{
	TestdbClone *clone = &rewind->clone;
	Oid			oid = clone->oid;
	GateView	view;

	gate_look(oid, &view);
	if (!view.reported)
		rewind->active_since = 0;
	if (view.running > 0 || view.temporary > 0 ||
		database_count_prepared(NameStr(rewind->args.database_name)) > 0)
		return false;
	debug_point("rewind-unprevented");
	if (!try_lock(oid))
		return false;
	gate_remind(oid);
	gate_shut(oid, true);
	gate_look(oid, &view);

	/* Sessions that connected after the last message can have passed. */
	if (view.running > 0 || view.temporary > 0 || waits_for_active(rewind, &view) ||
		database_count_prepared(NameStr(rewind->args.database_name)) > 0 ||
		!registry_end_lease(oid, rewind->args.lease, CLONE_REWINDING, clone))
	{
		gate_shut(oid, false);
		UnlockSharedObject(DatabaseRelationId, oid, 0, AccessExclusiveLock);
		return false;
	}
	*idle = *idle && view.idle;
	return true;
}

/*
 * Wait until no checkpoint is in progress that began before the last change of
 * the clones' pages.
 *
 * Errors: 55000 if there is always another one in progress.
 */
static void
end_checkpoint(void)
{
	for (int i = 0; database_is_checkpointing(); i++)
	{
		if (i == CHECKPOINT_TRIES)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("could not rewind a database because of checkpoints in progress")));
		RequestCheckpoint(CHECKPOINT_FAST | CHECKPOINT_FORCE | CHECKPOINT_WAIT);
	}
}

/*
 * Report whether the relation map is among these files.
 */
static bool
has_map(const FilesyncNames *names)
{
	for (uint32 i = 0; i < filesync_names_count(names); i++)
		if (strcmp(filesync_names_get(names, i), "pg_filenode.map") == 0)
			return true;
	return false;
}

/*
 * Report whether this is pg_statistic, its index, or its TOAST table or
 * index.
 */
static bool
is_statistics(Oid oid)
{
	return oid == StatisticRelationId || oid == StatisticRelidAttnumInhIndexId ||
		oid == TOAST_OF_STATISTIC || oid == TOAST_INDEX_OF_STATISTIC;
}

/*
 * Report whether the catalogs of a clone have changed, according to its files
 * and dirty pages.  True if that is not known, or if a changed relation does
 * not exist in the template.  Hint bits do not count: they leave a page's
 * LSN, which is always that of a catalog's last change.
 *
 * pg_statistic does not count.  VACUUM (ANALYZE) leaves dead rows in it, which
 * the first query in a clone prunes, and no plan is wrong because of it.
 */
static bool
catalogs_changed(const TestdbClone *clone, const TestdbTemplate *template,
				 HTAB *relations)
{
	const FilesyncNames *names = watch_names(clone, template);
	RelationChange *list;
	int			n;
	bool		changed = names == NULL || has_map(names);

	if (changed)
		return true;
	list = database_relations_list(relations, clone->oid, &n);
	for (int i = 0; i < n && !changed; i++)
	{
		const RelFile *file = relfiles_find(template, list[i].number);

		changed = file == NULL ||
			(file->oid < FirstNormalObjectId && list[i].lsn > template->lsn &&
			 !is_statistics(file->oid));
	}
	pfree(list);
	return changed;
}

/*
 * Reserve the space needed to restore a clone, in addition to that reserved
 * for others of the batch; false, and recorded, if there is not enough.
 */
static bool
hold_room(Rewind *rewind)
{
	uint64		bytes = 0;
	uint64		files = 0;

	snapshot_room(&rewind->template, rewind->clone.oid,
				  watch_names(&rewind->clone, &rewind->template),
				  &rewind->bytes, &rewind->files);
	for (int i = 0; i < npending; i++)
		if (pending[i].stage == REWIND_ENTERED && !pending[i].cramped)
		{
			bytes += pending[i].bytes;
			files += pending[i].files;
		}
	rewind->cramped = !database_reserve_space(bytes, files);
	if (rewind->cramped)
		(void) database_reserve_space(bytes - rewind->bytes, files - rewind->files);
	return !rewind->cramped;
}

/*
 * Step 6: restore a clone's rows in shared catalogs.  False if its template
 * or the snapshot has changed since step 1, if the last transactions in the
 * clone have made a rewind impossible, or if there is no space for its files.
 */
static bool
restore_rows(Rewind *rewind, HTAB *relations)
{
	TestdbClone *clone = &rewind->clone;
	TestdbTemplate *template = &rewind->template;
	DatabaseInfo info;

	database_lock_horizons();
	if (!snapshot_lock_current(clone->template_oid, template) ||
		!snapshot_lock_source(template) ||
		!database_lookup(clone->oid, &info) || why_impossible(clone) != NULL ||
		!snapshot_is_intact(template, relfiles_are_known(template) ?
							watch_names(clone, template) : NULL) ||
		!hold_room(rewind))
		return false;
	clone->name = info.name;
	clone->owner = restore_owner(clone, info.owner);
	rewind->catalogs = catalogs_changed(clone, template, relations);
	if (rewind->catalogs ||
		(registry_behind(template, NULL, clone) & BEHIND_CLONE_FILES))
		database_sync_dependencies(clone->oid, clone->template_oid,
								   template->dependencies);
	return clone->terms.database ?
		database_serve_again(clone->oid, clone->template_oid) :
		database_restore_row(clone->oid, clone->owner, clone->template_oid);
}

/*
 * Invalidate the sessions' caches of all relations and catalogs of a clone.
 */
static void
invalidate_all(Oid oid)
{
	SharedInvalidationMessage *messages =
		palloc0((ncatalogs + 1) * sizeof(SharedInvalidationMessage));

	for (int i = 0; i < ncatalogs; i++)
	{
		messages[i].cat.id = SHAREDINVALCATALOG_ID;
		messages[i].cat.dbId = oid;
		messages[i].cat.catId = catalogs[i];
	}
	messages[ncatalogs].rc.id = SHAREDINVALRELCACHE_ID;
	messages[ncatalogs].rc.dbId = oid;
	messages[ncatalogs].rc.relId = InvalidOid;
	SendSharedInvalidMessages(messages, ncatalogs + 1);
	pfree(messages);
}

/*
 * Invalidate the sessions' caches of these relations.  For a table, only its
 * storage's cache is affected (length, target block), and its plans stay; an
 * index's entry has a cache of its access method.  Cached rows of
 * pg_statistic are invalidated together with its pages.
 */
static void
invalidate_relations(const TestdbTemplate *template, HTAB *relations, Oid oid)
{
	int			n;
	RelationChange *list = database_relations_list(relations, oid, &n);

	for (int i = 0; i < n; i++)
	{
		const RelFile *file = relfiles_find(template, list[i].number);
		SharedInvalidationMessage message;

		/* catalogs_changed() has found all of them; but do not rely on it. */
		if (file == NULL)
		{
			invalidate_all(oid);
			break;
		}
		invalidate_storage_compat(oid, list[i].number);
		memset(&message, 0, sizeof(message));
		if (is_statistics(file->oid))
		{
			message.cat.id = SHAREDINVALCATALOG_ID;
			message.cat.dbId = oid;
			message.cat.catId = StatisticRelationId;
			SendSharedInvalidMessages(&message, 1);
			memset(&message, 0, sizeof(message));
		}
		if (file->relkind != RELKIND_INDEX)
			continue;
		message.rc.id = SHAREDINVALRELCACHE_ID;
		message.rc.dbId = oid;
		message.rc.relId = file->oid;
		SendSharedInvalidMessages(&message, 1);
	}
	pfree(list);
}

/*
 * Determine, once, which catalogs a database has: those of the workers'
 * database.
 */
static void
list_catalogs(void)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	int			space = 128;

	if (catalogs != NULL)
		return;
	catalogs = MemoryContextAlloc(TopMemoryContext, space * sizeof(Oid));
	rel = table_open(RelationRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);

		if (form->relkind != RELKIND_RELATION || form->relisshared ||
			form->relnamespace != PG_CATALOG_NAMESPACE ||
			form->oid >= FirstNormalObjectId)
			continue;
		if (ncatalogs == space)
		{
			space *= 2;
			catalogs = repalloc(catalogs, space * sizeof(Oid));
		}
		catalogs[ncatalogs++] = form->oid;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
}

/*
 * Restore files of a clone, as snapshot_restore does.
 *
 * Errors: those of snapshot_restore; 55000 if the snapshot was damaged after
 * step 6.
 */
static void
restore_from(const TestdbTemplate *template, Oid clone, const FilesyncNames *names)
{
	if (!snapshot_restore(template, clone, names))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("snapshot of the template was damaged while a database was being rewound"),
				 errdetail("The database will be restored from a new snapshot; its sessions wait until then.")));
}

/*
 * Steps 7 to 10 for the batch.  relations are the changed ones of its
 * databases.  Interrupts are held.
 */
static void
restore_files(Rewind **batch, Oid *oids, int n, HTAB *relations)
{
	for (int i = 0; i < n; i++)
	{
		lease_write(&batch[i]->clone, LEASE_REWINDING);
		batch[i]->stage = REWIND_SPOILED;
	}
	debug_point("rewind-recorded");
	for (int i = 0; i < n; i++)
	{
		if (watch_current(oids[i]) == NULL)
			DropDatabaseBuffers(oids[i]);
		ForgetDatabaseSyncRequests(oids[i]);
	}
	database_relations_discard(relations);
	debug_point("rewind-discarded");
	RequestCheckpoint(CHECKPOINT_FAST | CHECKPOINT_FORCE | CHECKPOINT_WAIT);
	debug_point("rewind-checkpoint");
	watch_drain();
	recycle_add_changed(relations, oids, n);
	database_relations_discard(relations);
	database_reset_statistics(oids, n);
	for (int i = 0; i < n; i++)
	{
		TestdbTemplate *template = &batch[i]->template;
		TestdbClone *clone = &batch[i]->clone;
		const FilesyncNames *names = watch_names(clone, template);

		batch[i]->catalogs = batch[i]->catalogs ||
			catalogs_changed(clone, template, relations);
		if (names == NULL)
			database_discard_buffers(oids[i]);
		restore_from(template, oids[i], names);
		recycle_log_restored(clone);
		clone->version = template->version;
		clone->row_version = template->row_version;
	}
	debug_point("rewind-files");
	if (!recycle_end_restoring())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a WAL consumer appeared while a database was being rewound")));
	database_flush();
}

/*
 * Steps 12 to 14 for one clone.
 */
static void
finish(Rewind *rewind, HTAB *relations)
{
	TestdbClone *clone = &rewind->clone;
	TemplateStats stats = {0};
	RequestResult result;

	memset(&result, 0, sizeof(result));
	lease_write(clone, LEASE_HELD);
	debug_point("rewind-held");
	if (rewind->catalogs)
		invalidate_all(clone->oid);
	else
		invalidate_relations(&rewind->template, relations, clone->oid);
	gate_announce(clone->oid);
	registry_finish_reset(clone);
	rewind->stage = REWIND_DONE;
	registry_template_changed(clone->oid);
	stats.rewinds = 1;
	stats.rewind_waits = gate_open(clone->oid);
	stats.rewind_us = GetCurrentTimestamp() - rewind->started_at;
	registry_add_stats(clone->template_oid, &stats);
	debug_point("rewind-opened");
	if (rewind->ended)
		strlcpy(result.notice, rewind->ended, sizeof(result.notice));
	request_finish(rewind->slot, &result);
	rewind->slot = -1;
}

/*
 * Collect the rewinds that have ENTERED; return their number.
 */
static int
get_batch(Rewind **batch, Oid *oids)
{
	int			n = 0;

	for (int i = 0; i < npending; i++)
	{
		if (pending[i].stage != REWIND_ENTERED)
			continue;
		batch[n] = &pending[i];
		oids[n++] = pending[i].clone.oid;
	}
	return n;
}

/*
 * Steps 5 and 6.  Rewinds that must begin again are answered, and leave
 * the batch.  The changed relations of the clones are added to relations.
 */
static void
restore_shared(bool idle, HTAB *relations)
{
	Rewind	   *batch[GATE_MAX];
	Oid			oids[GATE_MAX];
	int			n = get_batch(batch, oids);

	end_checkpoint();
	watch_drain();
	for (int i = 0; i < n && idle; i++)
		idle = !recycle_needs_barrier(&batch[i]->clone);
	if (!idle)
		recycle_check_barrier();
	debug_point("rewind-closed");
	watch_drain();
	recycle_add_changed(relations, oids, n);
	database_relations_add_dirty(relations, oids, n);
	for (int i = npending - 1; i >= 0; i--)
	{
		RequestResult result;

		if (pending[i].stage != REWIND_ENTERED || restore_rows(&pending[i], relations))
			continue;
		if (pending[i].cramped)
		{
			fail(&pending[i], database_space_error(NameStr(pending[i].args.database_name),
												   pending[i].bytes, pending[i].files));
			continue;
		}
		memset(&result, 0, sizeof(result));
		result.busy = true;
		let_go(&pending[i]);
		request_finish(pending[i].slot, &result);
		forget(&pending[i]);
	}
	debug_point("rewind-rows");
}

/*
 * Rewind all clones that no session prevents from it; false if there is none.
 */
static bool
run_batch(void)
{
	Rewind	   *batch[GATE_MAX];
	Oid			oids[GATE_MAX];
	HTAB	   *relations = database_relations_create();	/* outlives the work */
	bool		idle = true;
	bool		entered = false;
	int			n;

	job_begin_work();
	list_catalogs();
	watch_init();
	for (int i = 0; i < npending; i++)
	{
		if (pending[i].stage != REWIND_WAITING)
			continue;

		/* If there is an error, it is this request's, too. */
		pending[i].stage = REWIND_ENTERED;
		if (enter(&pending[i], &idle))
			entered = true;
		else
			pending[i].stage = REWIND_WAITING;
	}
	if (!entered)
	{
		job_commit_work();
		return false;
	}
	debug_point("rewind-entered");
	restore_shared(idle, relations);
	n = get_batch(batch, oids);
	HOLD_INTERRUPTS();
	if (n > 0)
		restore_files(batch, oids, n, relations);
	space_release();
	job_commit_work();
	debug_point("rewind-committed");
	watch_drain();
	for (int i = 0; i < n; i++)
	{
		watch_restart(oids[i]);
		finish(batch[i], relations);
	}
	for (int i = npending - 1; i >= 0; i--)
		if (pending[i].slot < 0)
			forget(&pending[i]);
	RESUME_INTERRUPTS();
	return true;
}

/*
 * Restore all files of a clone whose rewind or restore was interrupted.
 * False if that must wait, because its template is in use, or if the clone
 * was dropped concurrently.
 *
 * Errors: 3D000 if the template no longer exists; those of database_lock,
 * snapshot_ensure and restore_database.
 */
static bool
restore_again(TestdbClone *clone)
{
	TestdbTemplate source;
	DatabaseInfo info;
	DatabaseInfo template;
	int			nprepared;
	bool		begun = false;
	bool		exists;

	job_begin_work();
	if (!database_lookup(clone->template_oid, &template))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("template database \"%s\" does not exist",
						NameStr(clone->template_name))));
	list_catalogs();
	exists = database_lock(clone->oid, &info);
	if (exists)
		registry_set_name(clone->oid, &info.name);
	if (!exists || !registry_lookup(clone->oid, clone) ||
		clone->state != CLONE_REWINDING || !clone->unrestored ||
		snapshot_ensure(clone->template_oid, NameStr(template.name),
						registry_lease(clone->template_oid),
						&source, &nprepared) != SNAPSHOT_FRESH ||
		restore_database(clone, &begun) != RESTORE_DONE)
	{
		job_commit_work();
		return false;
	}
	HOLD_INTERRUPTS();
	invalidate_all(clone->oid);
	gate_announce(clone->oid);
	(void) gate_open(clone->oid);
	connect_wake();
	RESUME_INTERRUPTS();
	registry_template_changed(clone->oid);
	ereport(LOG,
			(errmsg("restored database \"%s\" after an interrupted rewind",
					NameStr(clone->name))));
	return true;
}

/*
 * Give up a clone whose content is lost, since its template no longer exists.
 */
static void
lose(const TestdbClone *clone)
{
	gate_lose(clone->oid);
	if (registry_set_state(clone->oid, CLONE_REWINDING, CLONE_GARBAGE))
		request_wake_workers();
	ereport(LOG,
			(errcode(ERRCODE_UNDEFINED_DATABASE),
			 errmsg("could not restore database \"%s\" after an interrupted rewind",
					NameStr(clone->name)),
			 errdetail("Template database \"%s\" does not exist.",
					   NameStr(clone->template_name))));
}

/*
 * Restore the clones whose rewind was interrupted; false if none was
 * restored.  Failures are retried after RESTORE_RETRY.
 */
static bool
restore_interrupted(long *delay_ms)
{
	static TimestampTz retry_at = 0;
	static bool told = false;
	TestdbClone *clones;
	volatile bool done = false;
	int			n;

	if (!registry_has_unrestored())
		return false;
	*delay_ms = Min(*delay_ms, RESTORE_RETRY);
	if (GetCurrentTimestamp() < retry_at)
		return false;
	job_report("testdb: restoring databases");
	clones = registry_list(&n);
	for (volatile int i = 0; i < n; i++)
	{
		if (clones[i].state != CLONE_REWINDING || !clones[i].unrestored)
			continue;
		PG_TRY();
		{
			done = restore_again(&clones[i]) || done;
		}
		PG_CATCH();
		{
			ErrorData  *edata = catch_error();

			if (edata->sqlerrcode == ERRCODE_UNDEFINED_DATABASE)
				lose(&clones[i]);
			else if (!told)
				ereport(LOG,
						(errcode(edata->sqlerrcode),
						 errmsg("could not restore database \"%s\": %s",
								NameStr(clones[i].name), edata->message),
						 errhint("It will be retried until it succeeds.")));
			told = true;
		}
		PG_END_TRY();
	}
	retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RESTORE_RETRY);
	told = told && registry_has_unrestored();
	return done;
}

/*
 * Check a request that waits for sessions; false if it has been answered.
 *
 * Errors: 55006 if it has timed out, 57014 if its session gave up.
 */
static bool
check_waiting(Rewind *rewind)
{
	TestdbClone clone;
	RequestResult result;
	GateView	view;

	if (request_is_unwanted(rewind->slot))
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling rewind due to user request")));
	if (!registry_lookup(rewind->clone.oid, &clone) ||
		clone.lease != rewind->args.lease || clone.state != CLONE_LEASED)
	{
		memset(&result, 0, sizeof(result));
		result.missing = true;
		let_go(rewind);
		request_finish(rewind->slot, &result);
		return false;
	}
	if (rewind->stage == REWIND_BEHIND)
		start(rewind);
	if (rewind->stage != REWIND_WAITING)
		return true;
	job_begin_work();
	gate_remind(clone.oid);
	gate_look(clone.oid, &view);
	if (view.temporary > 0)
		gate_end_temporary(clone.oid);
	database_end_autovacuum(clone.oid);
	if (GetCurrentTimestamp() >= rewind->deadline)
		give_up_waiting(rewind);
	job_commit_work();
	return true;
}

/*
 * Answer the requests of a batch with the error that ended it; or, if it had
 * none so far, all that wait for one.
 */
static void
fail_batch(ErrorData *edata)
{
	RewindStage first = REWIND_WAITING;

	for (int i = 0; i < npending; i++)
		if (pending[i].stage >= REWIND_ENTERED)
			first = REWIND_ENTERED;
	for (int i = npending - 1; i >= 0; i--)
		if (pending[i].stage >= first)
			fail(&pending[i], edata);
}

/*
 * One cycle of rewinding: take new requests, rewind the clones that no
 * session prevents from it, and check the others.  If there was nothing to
 * do, return false and lower *delay_ms to the time after which there may be,
 * in ms.  For worker 0, outside a transaction.
 */
bool
rewind_turn(long *delay_ms)
{
	volatile bool done = restore_interrupted(delay_ms);

	while (take_request())
		done = true;
	if (npending == 0)
		return done;
	job_report("testdb: rewinding databases");
	PG_TRY();
	{
		done = run_batch() || done;
	}
	PG_CATCH();
	{
		fail_batch(catch_error());
	}
	PG_END_TRY();
	for (volatile int i = npending - 1; i >= 0; i--)
	{
		PG_TRY();
		{
			if (!check_waiting(&pending[i]))
				forget(&pending[i]);
		}
		PG_CATCH();
		{
			fail(&pending[i], catch_error());
		}
		PG_END_TRY();
	}
	if (npending > 0)
		*delay_ms = Min(*delay_ms, REWIND_INTERVAL);
	return done;
}

/*
 * Cancel rewinds of a clone in favor of other work of this worker on it:
 * sessions no longer wait at its gate.  The requests are answered as missing.
 */
void
rewind_give_way(Oid oid)
{
	for (int i = npending - 1; i >= 0; i--)
	{
		RequestResult result;

		if (pending[i].clone.oid != oid)
			continue;
		memset(&result, 0, sizeof(result));
		result.missing = true;
		let_go(&pending[i]);
		request_finish(pending[i].slot, &result);
		forget(&pending[i]);
	}
}

/*
 * Report whether a request waits for sessions.
 */
bool
rewind_is_pending(void)
{
	return npending > 0;
}

/*
 * Answer all pending requests with an error, because this worker exits.
 */
void
rewind_exit(void)
{
	ErrorData	edata = {0};

	edata.sqlerrcode = ERRCODE_ADMIN_SHUTDOWN;
	edata.message = "testdb worker ended before it had finished";
	edata.hint = "Try again; see the server log.";
	while (npending > 0)
		fail(&pending[npending - 1], &edata);
}
