/*-------------------------------------------------------------------------
 *
 * start.c
 *	  The time between the server's start and the rebuilt registry.
 *
 * After each start of the server, and after each crash of a process, the
 * registry is empty until worker 0 has read the leases (rebuild_registry in
 * worker.c).  Until then a clone cannot be told from other databases, so
 * whatever depends on that waits here:
 *
 *	- testdb's functions and views, for testdb.timeout; then they fail;
 *	- new sessions and core's commands, which have to work without testdb, too:
 *	  see start_let.  Only sessions in the workers' database are let in at
 *	  once.
 *
 * Locks: none are held or needed here.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "request.h"
#include "start.h"

/* How long start_let waits for worker 0 to run, in ms. */
#define START_GRACE		5000

/* Interval at which a waiting process checks on the workers, in ms. */
#define START_INTERVAL	1000

typedef struct StartSharedState
{
	pg_atomic_uint32 ready;		/* 1: the registry has been rebuilt */
	pg_atomic_uint64 first_at;	/* time of the first start_let; 0: none */
	ConditionVariable cv;		/* processes wait here for ready */
} StartSharedState;

static StartSharedState *start_state = NULL;

/*
 * Reserve shared memory; from shmem_request_hook only.
 */
void
start_shmem_request(void)
{
	RequestAddinShmemSpace(sizeof(StartSharedState));
}

/*
 * Create the shared memory, or attach to it; from shmem_startup_hook only,
 * with AddinShmemInitLock held.
 */
void
start_shmem_init(void)
{
	bool		found;

	start_state = ShmemInitStruct("testdb start", sizeof(StartSharedState), &found);
	if (found)
		return;
	pg_atomic_init_u32(&start_state->ready, 0);
	pg_atomic_init_u64(&start_state->first_at, 0);
	ConditionVariableInit(&start_state->cv);
}

/*
 * Report whether the registry has been rebuilt, which remains true for the
 * life of this process.
 */
bool
start_is_ready(void)
{
	static bool ready = false;

	if (!ready)
	{
		ready = pg_atomic_read_u32(&start_state->ready) != 0;
		pg_memory_barrier();
	}
	return ready;
}

/*
 * Record that the registry has been rebuilt, so that requests can be served.
 */
void
start_set_ready(void)
{
	pg_memory_barrier();
	pg_atomic_write_u32(&start_state->ready, 1);
	ConditionVariableBroadcast(&start_state->cv);
	request_wake_workers();
}

/*
 * If no worker is running, make the postmaster check whether it should start
 * one.
 *
 * Normally it does so a second after a worker has exited, unless it is
 * notified of the exit just before it goes to sleep; then it may sleep for a
 * minute in 15.
 */
void
start_ask_for_workers(void)
{
	if (request_workers_running() == 0)
		SendPostmasterSignal(PMSIGNAL_BACKGROUND_WORKER_CHANGE);
}

/*
 * Raise the error that no worker serves requests: 55000, or 53400 if none has
 * been started.
 */
void
start_report_no_worker(void)
{
	if (OidIsValid(request_worker_database()))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no testdb worker is running"),
				 errdetail("The workers have exited, or cannot connect to database \"%s\".",
						   testdb_database),
				 errhint("See the server log, and check the configuration parameter \"%s\".",
						 "testdb.database")));
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("no testdb worker could be started"),
			 errdetail("None of the %d background worker slots (\"%s\") is free, or the workers cannot connect to database \"%s\".",
					   max_worker_processes, "max_worker_processes",
					   testdb_database),
			 errhint("See the server log. You might need to increase \"%s\", or set \"%s\" to a database that exists, and restart the server.",
					 "max_worker_processes", "testdb.database")));
}

/*
 * Sleep on cv, which the caller has prepared to sleep on, for at most
 * START_INTERVAL; false, at once, after the deadline.
 */
static bool
sleep_until(TimestampTz deadline)
{
	static uint32 wait_event = 0;
	long		rest_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

	if (rest_ms <= 0)
		return false;
	(void) ConditionVariableTimedSleep(&start_state->cv, Min(rest_ms, START_INTERVAL),
									   wait_event_compat(&wait_event, "TestdbStartup"));
	return true;
}

/*
 * Give worker 0 time to rebuild the registry, if the server has just started:
 * it also opens clones that were handed out just before a crash.  For a new
 * session that is not in a database yet, or a command that core would execute
 * otherwise.
 *
 * While worker 0 is running, waits for at most testdb.timeout; otherwise until
 * START_GRACE after the first call, so that recovery does not count, and a
 * server without workers does not wait again and again.  In single-user mode
 * and for pg_upgrade there are no workers: returns at once.
 *
 * Errors: interrupts.
 */
void
start_let(void)
{
	uint64		first = 0;
	TimestampTz now;
	TimestampTz deadline;

	if (!IsUnderPostmaster || IsBinaryUpgrade || start_is_ready() || RecoveryInProgress())
		return;
	now = GetCurrentTimestamp();
	if (pg_atomic_compare_exchange_u64(&start_state->first_at, &first, now))
		first = now;
	ConditionVariablePrepareToSleep(&start_state->cv);
	do
	{
		start_ask_for_workers();
		deadline = request_first_worker_running() ?
			TimestampTzPlusMilliseconds(now, testdb_timeout) :
			TimestampTzPlusMilliseconds(Min(now, (TimestampTz) first), START_GRACE);
	} while (!start_is_ready() && sleep_until(deadline));
	ConditionVariableCancelSleep();
}

/*
 * Sleep until the registry has been rebuilt after the server's start.
 *
 * Errors: 55000 and 53400 if there is no worker to do it; 57014 after the
 * deadline; interrupts.
 */
void
start_wait(TimestampTz deadline)
{
	TimestampTz start;

	if (start_is_ready())
		return;

	start = GetCurrentTimestamp();
	ConditionVariablePrepareToSleep(&start_state->cv);
	while (!start_is_ready())
	{
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), START_NO_WORKER_GRACE) &&
			request_workers_running() == 0)
			start_report_no_worker();
		start_ask_for_workers();
		if (!sleep_until(deadline))
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("canceling wait for testdb's start due to timeout"),
					 errhint("See the server log. You might need to increase \"%s\".",
							 "testdb.timeout")));
	}
	ConditionVariableCancelSleep();
}

/*
 * The same for a caller without a deadline: at most testdb.timeout.
 */
void
start_await(void)
{
	if (!start_is_ready())
		start_wait(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), testdb_timeout));
}

/*
 * The same for a function that only shows what there is: returns at once in
 * single-user mode and on a standby, where no worker rebuilds the registry.
 */
void
start_await_for_view(void)
{
	if (IsUnderPostmaster && !RecoveryInProgress())
		start_await();
}
