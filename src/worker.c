/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The background workers: start, main loop, exit.
 *
 * testdb.workers static workers are started by the postmaster when recovery
 * has finished, and restarted when they exit.  They stay connected to
 * testdb.database.  The first of them rebuilds the registry from the leases
 * on disk before anything else is done.  After that all do the same: execute
 * the oldest request, or else background work, or else sleep.  See job.c for
 * the execution.
 *
 * A worker survives an ERROR.  On FATAL, worker_exit() releases the clones
 * that it owns, and the postmaster starts another worker after a second.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <sys/stat.h>

#include "catalog/pg_tablespace_d.h"
#include "common/relpath.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "budget.h"
#include "compat.h"
#include "connect.h"
#include "database.h"
#include "dbcatalog.h"
#include "debug.h"
#include "drop.h"
#include "expiry.h"
#include "gate.h"
#include "guc.h"
#include "job.h"
#include "lease.h"
#include "mount.h"
#include "origin.h"
#include "recycle.h"
#include "registry.h"
#include "request.h"
#include "rewind.h"
#include "signals.h"
#include "snapshot.h"
#include "space.h"
#include "spare_row.h"
#include "spares.h"
#include "start.h"
#include "uninstall.h"
#include "upkeep.h"
#include "worker.h"

/* Longest sleep of an idle worker, in ms. */
#define IDLE_SLEEP			60000
/* The same while databases wait to be removed. */
#define GARBAGE_SLEEP		1000
/* How long to wait when the file system is full, in ms. */
#define FULL_PAUSE			1000

/* How long to wait after an unhandled error, in ms. */
#define ERROR_PAUSE			1000
/*
 * Shared catalogs are vacuumed, which takes 1 or 2 ms, after this many
 * transactions that wrote to them, but not before there was this number for
 * each block of pg_database, which holds 20 rows or more.
 */
#define VACUUM_WRITES		1000
#define VACUUM_WRITES_PER_BLOCK 5

/* Interval at which unneeded spares are given up, in ms. */
#define DEMAND_INTERVAL		10000

static int	worker_index = -1;

PGDLLEXPORT void testdb_worker_main(Datum main_arg);

/*
 * Register the workers; from _PG_init, in the postmaster.
 */
void
worker_register_all(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "testdb", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "testdb_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "testdb worker", BGW_MAXLEN);
	for (int i = 0; i < testdb_workers; i++)
	{
		snprintf(worker.bgw_name, BGW_MAXLEN, "testdb worker %d", i);
		worker.bgw_main_arg = Int32GetDatum(i);
		RegisterBackgroundWorker(&worker);
	}
}

/*
 * A before_shmem_exit callback, registered before those that end a transaction,
 * and so called after them.
 */
static void
worker_exit(int code pg_attribute_unused(), Datum arg pg_attribute_unused())
{
	rewind_exit();
	gate_open_all();
	job_exit();
	connect_open();
	request_worker_detach(worker_index);

	/* It may have been woken for work that it does not do any more. */
	request_wake_workers();
}

/*
 * Enter one database into the registry, according to its lease and its row;
 * true if it is kept.  It is not if it is marked as invalid, because its
 * removal or restore was interrupted, or if it has no row, because it may
 * have been dropped while testdb was not loaded: then whatever is left of it
 * will be removed.  from_backup says that the lease came with a base backup.
 */
static bool
restore_clone(Oid oid, bool from_backup)
{
	TestdbClone clone;
	LeaseState	state;
	bool		session;
	DatabaseInfo info;
	bool		exists;
	bool		gone;
	bool		lives;
	struct stat st;
	char	   *path;

	if (registry_lookup(oid, &clone))
		return clone.state == CLONE_LEASED || clone.state == CLONE_REWINDING;

	exists = database_lookup(oid, &info);
	path = GetDatabasePath(oid, DEFAULTTABLESPACE_OID);
	gone = !exists && stat(path, &st) != 0;

	/* A crash before anything was created leaves an empty file. */
	if ((gone && lease_is_empty(oid)) || !lease_read(oid, &clone, &state, &session))
	{
		if (gone)
			lease_remove(oid);
		return false;
	}
	if (from_backup && exists)
		state = origin_settle(&clone, state, session);
	else if (session)
		state = LEASE_UNWANTED;
	lives = (state == LEASE_HELD || state == LEASE_REWINDING) && exists &&
		!database_is_invalid(oid);

	if (lives)
	{
		clone.name = info.name;
		spare_repair(&clone);
	}
	clone.state = !lives ? CLONE_CREATING :
		state == LEASE_HELD ? CLONE_LEASED : CLONE_REWINDING;
	if (!registry_add(&clone, true, LOG))
		return false;
	if (clone.state == CLONE_REWINDING)
		registry_set_unrestored(oid);
	if (!lives)
		(void) registry_set_state(oid, CLONE_CREATING, CLONE_GARBAGE);
	registry_extend(oid, 0);
	return lives;
}

/*
 * Warn if the data directory is on a tmpfs that allocates, and clears, a huge
 * page of 2 MB for each small file, which makes copying slow.
 */
static void
warn_of_huge_pages(void)
{
	struct stat st;

	if (stat("base", &st) == 0 &&
		mount_has_option("/proc/self/mountinfo", st.st_dev, "tmpfs", "huge=always"))
		ereport(WARNING,
				(errmsg("file system of the data directory is mounted with \"huge=always\""),
				 errdetail("A database consists of many small files, which are copied far more slowly there."),
				 errhint("Mount it with \"huge=never\", \"huge=advise\" or \"huge=within_size\".")));
}

/*
 * Rebuild the registry from the leases on disk.  An error ends the worker; it
 * is restarted, and continues where it was.
 */
static void
rebuild_registry(void)
{
	List	   *oids;
	ListCell   *lc;
	int			nlive = 0;
	bool		from_backup;

	warn_of_huge_pages();
	debug_point("start-begun");
	job_begin_work();
	lease_make_directories();
	snapshot_remove_all();
	from_backup = origin_is_backup();
	if (from_backup)
		origin_note_spares();
	oids = lease_list();
	foreach(lc, oids)
		if (restore_clone(lfirst_oid(lc), from_backup))
		nlive++;
	origin_record();
	database_settle_settings();
	if (oids != NIL)
		ereport(LOG,
				(errmsg_plural("testdb found %d database that it created earlier",
							   "testdb found %d databases that it created earlier",
							   nlive, nlive),
				 errdetail_plural("There is %d leftover to be removed.",
								  "There are %d leftovers to be removed.",
								  list_length(oids) - nlive, list_length(oids) - nlive)));
	uninstall_restore();
	budget_log();
	debug_point("start-rebuilt");
	job_commit_work();
	start_set_ready();
}

/*
 * Read the configuration files, and set the parameters that a worker's
 * transactions rely on.
 */
static void
reload_settings(void)
{
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	database_secure_session(testdb_lock_timeout);
}

/*
 * Report whether the returned clones should be restored now, which requires
 * space for a checkpoint.  If not, lower *delay_ms to the time after which to
 * check again, in ms, and set *gathering if more of them are expected.
 *
 * A process that did not answer a barrier is asked again from time to time,
 * even if there is nothing to restore.
 */
static bool
may_recycle(long *delay_ms, bool *gathering)
{
	bool		stuck = registry_is_stuck();
	long		pause = stuck ? recycle_pause() : 0;

	*gathering = false;
	if (stuck && pause > 0 &&
		!(registry_should_restore(delay_ms) && recycle_is_possible()))
	{
		*delay_ms = Min(*delay_ms, pause);
		return false;
	}
	if (!stuck && !registry_should_restore(delay_ms))
	{
		*gathering = registry_has_returned();
		return false;
	}
	if (!database_make_checkpoint_room())
	{
		*delay_ms = Min(*delay_ms, FULL_PAUSE);
		return false;
	}
	return true;
}

/*
 * Report whether this worker should create a spare, of which template and for
 * which owner.  If leave is set, return false and wake the other workers for
 * that.
 */
static bool
may_refill(bool leave, Oid *template, Oid *owner)
{
	uint64		left;

	if (!registry_lacks_spares())
		return false;
	left = budget_left();
	if (!registry_next_refill(left, template, owner))
		return false;
	if (leave)
	{
		request_wake_workers();
		return false;
	}
	if (!budget_reserve_spare(*template, left))
		return false;
	debug_point("refill-decided");
	return true;
}

/*
 * Vacuum shared catalogs if enough has been written to them; true if so.  The
 * threshold grows with pg_database, in case an old transaction prevents the
 * removal of dead rows.
 */
static bool
vacuum_if_needed(void)
{
	static uint32 nwrites = VACUUM_WRITES;

	if (!registry_take_writes(nwrites))
		return false;
	nwrites = Max(VACUUM_WRITES, job_vacuum() * VACUUM_WRITES_PER_BLOCK);
	return true;
}

/*
 * Do one piece of work.  If there is none, return false and lower *delay_ms
 * to the time after which there may be, in ms.
 *
 * Worker 0 recycles.  If there are others to serve requests, that comes
 * first; otherwise last, so that more returned clones gather.  While they
 * gather it begins nothing that takes longer, and leaves creating spares to
 * the others.
 */
static bool
work_once(long *delay_ms)
{
	bool		recycler = worker_index == 0;
	bool		alone = request_workers_running() <= 1;
	bool		gathering = false;
	RequestArgs args;
	TestdbClone clone;
	Oid			template;
	Oid			owner;
	int			slot;

	if (recycler)
		recycle_listen();
	if (recycler && rewind_turn(delay_ms))
		return true;
	if (recycler && !alone && may_recycle(delay_ms, &gathering))
		job_recycle();
	else if (!gathering && vacuum_if_needed())
		return true;
	else if ((slot = request_take(&args, false)) >= 0)
		job_serve(slot, &args);
	else if (recycler && may_recycle(delay_ms, &gathering))
		job_recycle();
	else if (gathering)
		return false;
	else if (may_refill(recycler && !alone, &template, &owner))
		job_refill(template, owner);
	else if (registry_take_touched(&clone))
		job_retire(&clone);
	else if (registry_take_expired(&clone, delay_ms))
		job_reap(&clone);
	else if (!registry_is_stuck() && registry_has_garbage() &&
			 database_make_checkpoint_room() && registry_take_garbage(&clone))
		job_collect_garbage(&clone);
	else if (registry_take_recheck())
		job_forget_dropped();
	else
		return false;
	return true;
}

/*
 * From time to time, give up spares that were not requested lately; true if
 * there may be more of them later.
 */
static bool
lower_demand(void)
{
	static TimestampTz last = 0;
	static bool more = true;
	TimestampTz now = GetCurrentTimestamp();

	if (TimestampDifferenceExceeds(last, now, DEMAND_INTERVAL))
	{
		more = registry_lower_demand();
		last = now;
	}
	return more;
}

/*
 * One cycle: reload the configuration if requested, do one piece of work, or
 * sleep.
 *
 * Requests have their own error handling.  What can fail here is an
 * interrupt, such as pg_cancel_backend() on an idle worker, which is ignored.
 */
static void
worker_turn(void)
{
	long		delay_ms = IDLE_SLEEP;

	job_begin_turn();
	request_begin_turn();
	PG_TRY();
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			reload_settings();

		if (!start_is_ready() || !work_once(&delay_ms))
		{
			if (registry_has_garbage())
				delay_ms = Min(delay_ms, GARBAGE_SLEEP);
			if (worker_index == 0 && lower_demand())
				delay_ms = Min(delay_ms, DEMAND_INTERVAL);
			if (worker_index == 0 && start_is_ready())
				budget_expire_snapshots(&delay_ms);
			if (start_is_ready())
				registry_stand_by(&delay_ms);
			if (worker_index == 0 && start_is_ready() &&
				database_has_space(SPACE_RESERVE_BYTES, SPACE_RESERVE_FILES))
				space_keep_reserve();
			if (!rewind_is_pending())
				job_report(NULL);
			pgstat_report_stat(false);
			request_wait_for_work(delay_ms, worker_index == 0,
								  rewind_is_pending());
		}
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		ConditionVariableCancelSleep();
		edata = job_rollback_work();
		job_give_up(edata);
		if (edata->sqlerrcode != ERRCODE_QUERY_CANCELED)
			ereport(LOG,
					(errcode(edata->sqlerrcode),
					 errmsg("error in testdb worker: %s", edata->message),
					 edata->detail ? errdetail_internal("%s", edata->detail) : 0));

		/* It may fail again immediately, and fill the log. */
		if (edata->sqlerrcode != ERRCODE_QUERY_CANCELED)
			(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ERROR_PAUSE,
							 PG_WAIT_EXTENSION);
	}
	PG_END_TRY();
}

/*
 * The workers' entry point; main_arg is the worker's number.
 */
void
testdb_worker_main(Datum main_arg)
{
	worker_index = DatumGetInt32(main_arg);
	/* Signals are blocked here: not for the action "wait". */
	debug_point("worker-start");
#ifdef TESTDB_DEBUG
	/* What BackgroundWorkerMain() did before that point, for tests of it. */
	(void) signal(SIGHUP, SIG_IGN);
#endif
	space_take_place(worker_index);
	connect_take_place(worker_index);
	registry_prepare_to_own();
	before_shmem_exit(worker_exit, (Datum) 0);

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(testdb_database, NULL, 0);
	/* BackgroundWorkerMain() discards a SIGHUP that was sent since the fork. */
	reload_settings();
	request_worker_attach(worker_index, MyDatabaseId);

	job_begin_turn();
	if (worker_index == 0 && !start_is_ready())
		rebuild_registry();
	for (;;)
		worker_turn();
}
