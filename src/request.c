/*-------------------------------------------------------------------------
 *
 * request.c
 *	  How a session sends a request to a background worker and gets the
 *	  answer.
 *
 * A request sits in a slot in shared memory.  Its states:
 *
 *		FREE --session--> QUEUED --worker--> RUNNING --worker--> DONE
 *		 ^                   |                  |                  |
 *		 +-----session-------+                  |                  |
 *		 +-----worker, if ABANDONED is set------+                  |
 *		 +-----session---------------------------------------------+
 *
 * The session that fills a slot owns it until it frees it, or, if it gives up
 * while a worker is executing it (cancel, timeout, end of the session), until
 * it sets ABANDONED; the worker then owns the slot, discards the result, and
 * frees the slot.  A session that gives up when the request is DONE discards
 * the result itself, by returning it to the workers through the registry.  So
 * a result always has exactly one owner.
 *
 * A worker that fails puts its error into the slot, and the session raises
 * it.  A worker that is terminated does the same from its exit callback
 * (worker.c).  If a process crashes, the postmaster restarts all, with new
 * shared memory.
 *
 * Requests are served in the order of arrival, except for one that needs a
 * lock on a database which another process holds.  A worker waits for the
 * lock, unless all other running workers are waiting for locks, too: then it
 * puts the request back into the queue, to be retried a moment later, so that
 * requests that need no such lock are served.  There are enough slots for
 * each session to wait on one while each worker is busy with an abandoned
 * one, so there is always a free slot.
 *
 * Locks.  The request lock protects everything in RequestSharedState but the
 * condition variables and wakes, and is held for microseconds.  Every
 * function here that needs it takes and releases it, unless its comment says
 * otherwise.  Sessions sleep on their slot's condition variable, workers on
 * first_cv or work_cv, all without a lock.  The deadlock detector cannot see
 * that a session waits for a worker.  Every wait is therefore bounded: the
 * worker's wait for locks by testdb.lock_timeout, the session's by its
 * deadline; and a session gives up immediately if its worker waits for a lock
 * of the session.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/proclist.h"
#include "storage/procsignal.h"
#include "storage/shmem.h"
#include "tcop/tcopprot.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "gate.h"
#include "guc.h"
#include "lease.h"
#include "registry.h"
#include "request.h"
#include "start.h"

#define REQUEST_TRANCHE		"testdb_request"

/* Interval at which a waiting session checks on its worker, ms. */
#define CHECK_INTERVAL		1000

/* Delay before a request that could not get a lock is retried, ms. */
#define REQUEUE_DELAY		10

/* Sizes of the texts of a worker's error that reach the session, in bytes. */
#define MESSAGE_SIZE		512
#define DETAIL_SIZE			1024

typedef enum RequestState
{
	REQUEST_FREE,
	REQUEST_QUEUED,
	REQUEST_RUNNING,
	REQUEST_DONE
} RequestState;

/* A worker's error; texts that it does not have are empty strings. */
typedef struct RequestError
{
	int			sqlerrcode;
	int			encoding;		/* of the texts: that of the workers' database */
	char		message[MESSAGE_SIZE];
	char		detail[DETAIL_SIZE];
	char		hint[MESSAGE_SIZE];
} RequestError;

/* All fields are protected by the request lock, except cv. */
typedef struct RequestSlot
{
	dlist_node	node;			/* in free or queue, by state */
	RequestState state;
	bool		abandoned;		/* RUNNING: the session has given up */
	bool		unwanted;		/* RUNNING: the session only waits for its end */
	bool		failed;			/* DONE: error, not result, is set */
	int			worker_pid;		/* RUNNING, DONE: the worker */
	TimestampTz retry_at;		/* QUEUED: not to be taken before */
	TimestampTz blocked_at;		/* when it was first put back; 0 if never */
	RequestArgs args;
	RequestResult result;
	RequestError error;
	ConditionVariable cv;		/* the session waits here for DONE */
} RequestSlot;

/*
 * All fields are protected by the request lock, except the condition
 * variables and wakes.
 */
typedef struct RequestSharedState
{
	LWLock	   *lock;			/* the request lock; never changed */
	ConditionVariable first_cv; /* worker 0 waits here for something to do */
	ConditionVariable work_cv;	/* the other workers wait here */
	pg_atomic_uint32 wakes;		/* how often workers were to check for work;
								 * no lock */
	Oid			worker_database;	/* the database that the workers are
									 * connected to */
	int			worker_pids[TESTDB_MAX_WORKERS];	/* 0: not running */
	bool		worker_waits[TESTDB_MAX_WORKERS];	/* for a lock */
	dlist_head	free;
	dlist_head	queue;			/* oldest first */
	dlist_head	rewinds;		/* the same of those for worker 0 */
	RequestSlot slots[FLEXIBLE_ARRAY_MEMBER];
} RequestSharedState;

static RequestSharedState *requests = NULL;

/* The number of this worker, or -1. */
static int	worker_index = -1;

/* wakes when this worker's cycle began, plus this worker's own calls since. */
static uint32 wakes_seen = 0;

/*
 * Return the number of slots; see the head of this file.
 */
static int
request_slot_count(void)
{
	return MaxBackends + testdb_workers;
}

/*
 * Return the size of RequestSharedState with all slots, in bytes.
 */
static Size
requests_size(void)
{
	return add_size(offsetof(RequestSharedState, slots),
					mul_size(request_slot_count(), sizeof(RequestSlot)));
}

/*
 * Reserve shared memory and the lock; from shmem_request_hook only.
 */
void
request_shmem_request(void)
{
	RequestAddinShmemSpace(requests_size());
	RequestNamedLWLockTranche(REQUEST_TRANCHE, 1);
}

/*
 * Create the slots, or attach to them; from shmem_startup_hook only, with
 * AddinShmemInitLock held.
 */
void
request_shmem_init(void)
{
	bool		found;

	requests = ShmemInitStruct("testdb requests", requests_size(), &found);
	if (found)
		return;

	memset(requests, 0, requests_size());
	requests->lock = &GetNamedLWLockTranche(REQUEST_TRANCHE)->lock;
	ConditionVariableInit(&requests->first_cv);
	ConditionVariableInit(&requests->work_cv);
	pg_atomic_init_u32(&requests->wakes, 0);
	dlist_init(&requests->free);
	dlist_init(&requests->queue);
	dlist_init(&requests->rewinds);
	for (int i = 0; i < request_slot_count(); i++)
	{
		ConditionVariableInit(&requests->slots[i].cv);
		dlist_push_tail(&requests->free, &requests->slots[i].node);
	}
}

/*
 * Put a slot into the list of free ones.  The request lock is held
 * exclusively; the slot is in no list.
 */
static void
slot_free(RequestSlot *slot)
{
	Assert(LWLockHeldByMeInMode(requests->lock, LW_EXCLUSIVE));

	slot->state = REQUEST_FREE;
	dlist_push_head(&requests->free, &slot->node);
}

/*
 * Report whether a process waits on a condition variable.
 */
static bool
has_sleeper(ConditionVariable *cv)
{
	bool		result;

	SpinLockAcquire(&cv->mutex);
	result = !proclist_is_empty(&cv->wakeup);
	SpinLockRelease(&cv->mutex);
	return result;
}

/*
 * Wake all workers that sleep.
 */
static void
wake_all(void)
{
	ConditionVariableBroadcast(&requests->first_cv);
	ConditionVariableBroadcast(&requests->work_cv);
}

/*
 * Wake one worker: 0 for a rewind, which only it does, else rather another.
 */
static void
wake_one(bool rewind)
{
	ConditionVariableSignal(!rewind && has_sleeper(&requests->work_cv) ?
							&requests->work_cv : &requests->first_cv);
}

/*
 * Put a request into the queue and wake a worker.
 */
static RequestSlot *
request_enqueue(const RequestArgs *args)
{
	RequestSlot *slot;

	LWLockAcquire(requests->lock, LW_EXCLUSIVE);
	if (dlist_is_empty(&requests->free))
	{
		LWLockRelease(requests->lock);
		elog(ERROR, "out of testdb request slots");
	}
	slot = dlist_container(RequestSlot, node,
						   dlist_pop_head_node(&requests->free));
	slot->state = REQUEST_QUEUED;
	slot->abandoned = slot->unwanted = slot->failed = false;
	slot->worker_pid = 0;
	slot->retry_at = 0;
	slot->blocked_at = 0;
	slot->args = *args;
	memset(&slot->result, 0, sizeof(slot->result));
	dlist_push_tail(args->kind == REQUEST_REWIND ? &requests->rewinds : &requests->queue,
					&slot->node);
	LWLockRelease(requests->lock);

	wake_one(args->kind == REQUEST_REWIND);
	return slot;
}

/*
 * Return the result of an abandoned request to the workers: a clone becomes
 * GARBAGE.
 */
static void
return_result(const RequestArgs *args, const RequestResult *result)
{
	TestdbClone clone;

	if (args->kind == REQUEST_CLONE && OidIsValid(result->oid) &&
		registry_end_lease(result->oid, result->lease, CLONE_GARBAGE, &clone))
		request_wake_workers();
}

/*
 * Give up a request, in whatever state it is.  Called when the session fails
 * or ends while it waits.
 */
static void
request_abandon(int code pg_attribute_unused(), Datum arg)
{
	RequestSlot *slot = (RequestSlot *) DatumGetPointer(arg);
	RequestArgs args = slot->args;
	RequestResult unwanted = {0};

	ConditionVariableCancelSleep();

	LWLockAcquire(requests->lock, LW_EXCLUSIVE);
	switch (slot->state)
	{
		case REQUEST_QUEUED:
			dlist_delete(&slot->node);
			slot_free(slot);
			break;
		case REQUEST_RUNNING:
			slot->abandoned = true;
			break;
		case REQUEST_DONE:
			if (!slot->failed)
				unwanted = slot->result;
			slot_free(slot);
			break;
		case REQUEST_FREE:
			break;
	}
	LWLockRelease(requests->lock);

	return_result(&args, &unwanted);
}

/*
 * Report whether the process pid waits for a lock that this session holds, or
 * waits for ahead of it.
 */
static bool
is_blocked_by_me(int pid)
{
	ArrayType  *blockers;
	int		   *pids;
	int			npids;

	blockers = DatumGetArrayTypeP(DirectFunctionCall1(pg_blocking_pids,
													  Int32GetDatum(pid)));
	pids = (int *) ARR_DATA_PTR(blockers);
	npids = ArrayGetNItems(ARR_NDIM(blockers), ARR_DIMS(blockers));
	for (int i = 0; i < npids; i++)
		if (pids[i] == MyProcPid)
			return true;
	return false;
}

/*
 * End this session if its client has disconnected.
 *
 * Core checks that if client_connection_check_interval is set, so set it for
 * the moment.
 */
static void
check_client(void)
{
	int			saved = client_connection_check_interval;

	if (MyProcPort == NULL)
		return;
	if (client_connection_check_interval == 0)
		client_connection_check_interval = CHECK_INTERVAL;
	PG_TRY();
	{
		CheckClientConnectionPending = true;
		InterruptPending = true;
		CHECK_FOR_INTERRUPTS();
	}
	PG_FINALLY();
	{
		client_connection_check_interval = saved;
	}
	PG_END_TRY();
}

/*
 * Raise an error if it is pointless to wait any longer for the request: no
 * client, no worker, a deadlock, or a timeout.  waited_ms is the time waited
 * so far.
 */
static void
request_check_progress(RequestSlot *slot, long waited_ms, TimestampTz deadline)
{
	bool		queued;
	int			pid;
	int			nworkers;

	check_client();

	LWLockAcquire(requests->lock, LW_SHARED);
	queued = slot->state == REQUEST_QUEUED;
	pid = slot->state == REQUEST_RUNNING ? slot->worker_pid : 0;
	LWLockRelease(requests->lock);

	if (queued)
	{
		/* A worker that was woken for this request may have exited since. */
		wake_all();
		start_ask_for_workers();
		if (waited_ms >= START_NO_WORKER_GRACE && request_workers_running() == 0)
			start_report_no_worker();
	}

	if (pid != 0 && is_blocked_by_me(pid))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
				 errmsg("deadlock detected"),
				 errdetail("This session waits for testdb worker %d, which waits for a lock that this session's transaction holds.",
						   pid),
				 errhint("Call testdb_clone and testdb_drop before the transaction changes databases, roles or tablespaces, or in a transaction of their own.")));

	nworkers = request_workers_running();
	if (GetCurrentTimestamp() >= deadline)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling wait for a testdb worker due to timeout"),
				 queued ?
				 errdetail_plural("%d worker was busy.",
								  "All %d workers were busy.",
								  nworkers, nworkers) :
				 errdetail("Worker %d had not finished yet.", pid),
				 errhint("You might need to increase \"%s\" or \"%s\".",
						 "testdb.timeout", "testdb.workers")));
}

/*
 * Sleep until the request is done.  Errors: those of request_check_progress,
 * and interrupts.
 */
static void
request_wait(RequestSlot *slot, TimestampTz deadline)
{
	static uint32 wait_event = 0;
	TimestampTz start = GetCurrentTimestamp();
	uint32		event = wait_event_compat(&wait_event, "TestdbRequest");

	ConditionVariablePrepareToSleep(&slot->cv);
	for (;;)
	{
		bool		done;
		TimestampTz now;
		long		timeout;

		LWLockAcquire(requests->lock, LW_SHARED);
		done = slot->state == REQUEST_DONE;
		LWLockRelease(requests->lock);
		if (done)
			break;

		now = GetCurrentTimestamp();
		timeout = TimestampDifferenceMilliseconds(now, deadline);
		if (ConditionVariableTimedSleep(&slot->cv,
										Min(timeout, CHECK_INTERVAL), event))
			request_check_progress(slot,
								   TimestampDifferenceMilliseconds(start, GetCurrentTimestamp()),
								   deadline);
	}
	ConditionVariableCancelSleep();
}

/*
 * Raise a worker's error, in this session's encoding.
 */
static void
raise_worker_error(RequestError *error)
{
	char	   *message = pg_any_to_server(error->message, strlen(error->message),
										   error->encoding);
	char	   *detail = pg_any_to_server(error->detail, strlen(error->detail),
										  error->encoding);
	char	   *hint = pg_any_to_server(error->hint, strlen(error->hint),
										error->encoding);

	ereport(ERROR,
			(errcode(error->sqlerrcode),
			 errmsg_internal("%s", message),
			 detail[0] ? errdetail_internal("%s", detail) : 0,
			 hint[0] ? errhint("%s", hint) : 0));
}

/*
 * Copy a text of an error into a field of size bytes, truncated at a
 * character boundary; NULL becomes the empty string.
 */
static void
copy_error_text(char *field, Size size, const char *text)
{
	int			len = text ? pg_mbcliplen(text, strlen(text), size - 1) : 0;

	if (len > 0)
		memcpy(field, text, len);
	field[len] = '\0';
}

/*
 * Take the result of a request that is DONE, and free its slot; false if it
 * has failed, with the worker's error in *error.
 */
static bool
take_outcome(RequestSlot *slot, RequestResult *result, RequestError *error)
{
	bool		failed;

	LWLockAcquire(requests->lock, LW_EXCLUSIVE);
	failed = slot->failed;
	if (failed)
		*error = slot->error;
	*result = slot->result;
	slot_free(slot);
	LWLockRelease(requests->lock);

	return !failed;
}

/*
 * Wait until deadline for a worker to serve a request.
 *
 * Errors: those of request_perform, except for the worker's own.
 */
static RequestSlot *
await_worker(const RequestArgs *args, TimestampTz deadline)
{
	RequestSlot *slot = request_enqueue(args);

	PG_ENSURE_ERROR_CLEANUP(request_abandon, PointerGetDatum(slot));
	{
		lease_close_removed();
		request_wait(slot, deadline);
		check_client();
	}
	PG_END_ENSURE_ERROR_CLEANUP(request_abandon, PointerGetDatum(slot));
	return slot;
}

/*
 * Have a worker execute a request, and wait for it until deadline.
 *
 * *result is the answer.  Holds no lock on entry, and none while it waits.
 *
 * Errors: the worker's own; 55000 and 53400 if there is no worker; 40P01 if
 * the worker waits for this session; 57014 after the deadline; interrupts.
 * In each case the result of the request, present or future, is discarded.
 */
void
request_perform(const RequestArgs *args, TimestampTz deadline,
				RequestResult *result)
{
	RequestSlot *slot = await_worker(args, deadline);
	RequestError error;

	/* Nothing between the wait and here can fail, so nothing is lost. */
	if (!take_outcome(slot, result, &error))
		raise_worker_error(&error);
}

/*
 * As request_perform, but if the worker fails, return its error's message, in
 * the current memory context; NULL on success.
 *
 * Errors: those of request_perform, except the worker's own.
 */
char *
request_try_perform(const RequestArgs *args, TimestampTz deadline,
					RequestResult *result)
{
	RequestSlot *slot = await_worker(args, deadline);
	RequestError error;

	if (take_outcome(slot, result, &error))
		return NULL;
	return pstrdup(pg_any_to_server(error.message, strlen(error.message),
									error.encoding));
}

/*
 * Report whether a request is done.  If not, and stop is set, tell the worker
 * that has it to give it up, or take it from the queue if none has.
 */
static bool
is_done(RequestSlot *slot, bool stop, bool *dequeued)
{
	bool		done;

	LWLockAcquire(requests->lock, LW_EXCLUSIVE);
	done = slot->state == REQUEST_DONE;
	*dequeued = stop && slot->state == REQUEST_QUEUED;
	if (*dequeued)
	{
		dlist_delete(&slot->node);
		slot_free(slot);
	}
	slot->unwanted = slot->unwanted || (stop && !*dequeued);
	LWLockRelease(requests->lock);
	return done;
}

/*
 * As request_perform, for a session that counts as waiting at the gate of its
 * database: it must not touch the database before it has the answer, and so
 * cannot be interrupted while a worker executes the request.  A worker that
 * waits for others gives up soon.  The session has just begun a transaction.
 *
 * Errors: those of request_perform.
 */
void
request_perform_parked(const RequestArgs *args, TimestampTz deadline,
					   RequestResult *result)
{
	static uint32 wait_event = 0;
	uint32		event = wait_event_compat(&wait_event, "TestdbRequest");
	RequestSlot *slot;
	RequestError error;
	bool		failed;
	bool		dequeued = false;
	bool		stop = false;

	HOLD_INTERRUPTS();
	gate_park();
	slot = request_enqueue(args);
	ConditionVariablePrepareToSleep(&slot->cv);
	while (!is_done(slot, stop, &dequeued) && !dequeued)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 CHECK_INTERVAL, event);
		ResetLatch(MyLatch);
		if (ProcSignalBarrierPending)
		{
			ProcessProcSignalBarrier();

			/* That wakes other processes, and cancels this prepared sleep. */
			ConditionVariablePrepareToSleep(&slot->cv);
		}
		stop = QueryCancelPending || ProcDiePending || GetCurrentTimestamp() > deadline;
	}
	ConditionVariableCancelSleep();
	failed = !dequeued && !take_outcome(slot, result, &error);
	gate_unpark();
	RESUME_INTERRUPTS();
	gate_pass();
	gate_catch_up();
	SetLatch(MyLatch);
	if (dequeued)
	{
		CHECK_FOR_INTERRUPTS();
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling wait for a testdb worker due to timeout"),
				 errhint("You might need to increase \"%s\" or \"%s\".",
						 "testdb.timeout", "testdb.workers")));
	}
	if (failed)
		raise_worker_error(&error);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Report whether the session whose request this worker has taken waits only
 * for its end.
 */
bool
request_is_unwanted(int slot_number)
{
	bool		unwanted;

	LWLockAcquire(requests->lock, LW_SHARED);
	unwanted = requests->slots[slot_number].abandoned ||
		requests->slots[slot_number].unwanted;
	LWLockRelease(requests->lock);

	return unwanted;
}

/*
 * Return the first request of a queue that may be taken now, or NULL; lower
 * *delay_ms to the time until the next one may be.  The request lock is held.
 */
static RequestSlot *
find_due(dlist_head *queue, long *delay_ms)
{
	dlist_iter	iter;

	if (!start_is_ready())
		return NULL;
	dlist_foreach(iter, queue)
	{
		RequestSlot *slot = dlist_container(RequestSlot, node, iter.cur);
		long		left;

		if (slot->retry_at == 0)
			return slot;
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), slot->retry_at);
		if (left <= 0)
			return slot;
		*delay_ms = Min(*delay_ms, left);
	}
	return NULL;
}

/*
 * Take the oldest request from the queue, or from that of rewinds.  Fills
 * *args and returns the slot's number, or -1 if there is none.
 */
int
request_take(RequestArgs *args, bool rewinds)
{
	RequestSlot *slot;
	long		delay_ms;

	LWLockAcquire(requests->lock, LW_EXCLUSIVE);
	slot = find_due(rewinds ? &requests->rewinds : &requests->queue, &delay_ms);
	if (slot != NULL)
	{
		dlist_delete(&slot->node);
		slot->state = REQUEST_RUNNING;
		slot->worker_pid = MyProcPid;
		*args = slot->args;
	}
	LWLockRelease(requests->lock);

	return slot != NULL ? (int) (slot - requests->slots) : -1;
}

/*
 * Answer a request that this worker has taken.
 *
 * If its session has given up, the result becomes garbage.
 */
void
request_finish(int slot_number, const RequestResult *result)
{
	RequestSlot *slot = &requests->slots[slot_number];
	RequestArgs args;
	bool		abandoned;

	LWLockAcquire(requests->lock, LW_EXCLUSIVE);
	Assert(slot->state == REQUEST_RUNNING && slot->worker_pid == MyProcPid);
	abandoned = slot->abandoned;
	args = slot->args;
	if (abandoned)
		slot_free(slot);
	else
	{
		slot->result = *result;
		slot->state = REQUEST_DONE;
	}
	LWLockRelease(requests->lock);

	if (abandoned)
		return_result(&args, result);
	else
		ConditionVariableBroadcast(&slot->cv);
}

/*
 * Answer a request that this worker has taken with an error.
 */
void
request_fail(int slot_number, const ErrorData *edata)
{
	RequestSlot *slot = &requests->slots[slot_number];
	bool		abandoned;

	LWLockAcquire(requests->lock, LW_EXCLUSIVE);
	Assert(slot->state == REQUEST_RUNNING && slot->worker_pid == MyProcPid);
	abandoned = slot->abandoned;
	if (abandoned)
		slot_free(slot);
	else
	{
		RequestError *error = &slot->error;

		error->sqlerrcode = edata->sqlerrcode;
		error->encoding = GetDatabaseEncoding();
		copy_error_text(error->message, MESSAGE_SIZE, edata->message);
		copy_error_text(error->detail, DETAIL_SIZE, edata->detail);
		copy_error_text(error->hint, MESSAGE_SIZE, edata->hint);
		slot->failed = true;
		slot->state = REQUEST_DONE;
	}
	LWLockRelease(requests->lock);

	if (!abandoned)
		ConditionVariableBroadcast(&slot->cv);
}

/*
 * Put a request that this worker has taken back into the queue, because it
 * needs a lock that another process holds; false, with nothing done, if it
 * was first put back more than testdb.lock_timeout ago, or if its session has
 * given it up.
 */
bool
request_requeue(int slot_number)
{
	RequestSlot *slot = &requests->slots[slot_number];
	TimestampTz now = GetCurrentTimestamp();
	bool		done;

	LWLockAcquire(requests->lock, LW_EXCLUSIVE);
	if (slot->blocked_at == 0)
		slot->blocked_at = now;
	done = !slot->abandoned &&
		!TimestampDifferenceExceeds(slot->blocked_at, now, testdb_lock_timeout);
	if (done)
	{
		slot->state = REQUEST_QUEUED;
		slot->worker_pid = 0;
		slot->retry_at = TimestampTzPlusMilliseconds(now, REQUEUE_DELAY);
		dlist_push_tail(&requests->queue, &slot->node);
	}
	LWLockRelease(requests->lock);

	return done;
}

/*
 * Report whether this process may wait for a lock; if it is a worker, it then
 * counts as waiting until request_end_lock_wait.  It may not if it is the
 * only one of several workers that is not waiting.
 */
bool
request_begin_lock_wait(void)
{
	int			nothers = 0;
	int			nwaiting = 0;
	bool		may_wait;

	if (worker_index < 0)
		return true;
	LWLockAcquire(requests->lock, LW_EXCLUSIVE);
	for (int i = 0; i < testdb_workers; i++)
	{
		if (requests->worker_pids[i] == 0 || i == worker_index)
			continue;
		nothers++;
		nwaiting += requests->worker_waits[i];
	}
	may_wait = nothers == 0 || nwaiting < nothers;
	requests->worker_waits[worker_index] = may_wait;
	LWLockRelease(requests->lock);

	return may_wait;
}

/*
 * Record that this worker no longer waits for a lock.
 */
void
request_end_lock_wait(void)
{
	if (worker_index < 0)
		return;
	LWLockAcquire(requests->lock, LW_EXCLUSIVE);
	requests->worker_waits[worker_index] = false;
	LWLockRelease(requests->lock);
}

/*
 * Report whether the session whose request this worker has taken has given it
 * up.
 */
bool
request_abandoned(int slot_number)
{
	bool		abandoned;

	LWLockAcquire(requests->lock, LW_SHARED);
	abandoned = requests->slots[slot_number].abandoned;
	LWLockRelease(requests->lock);

	return abandoned;
}

/*
 * Begin to check for work: request_wait_for_work will not miss wakeups from
 * now on.
 */
void
request_begin_turn(void)
{
	wakes_seen = pg_atomic_read_u32(&requests->wakes);
}

/*
 * Sleep until request_wake_workers is called, a request arrives, or
 * timeout_ms milliseconds have passed.  For workers; returns immediately if a
 * request is queued, or if another process has called request_wake_workers
 * since request_begin_turn.  rewinds means that this is the worker that
 * rewinds; rewinding, that it waits for sessions to end their transactions.
 */
void
request_wait_for_work(long timeout_ms, bool rewinds, bool rewinding)
{
	static uint32 wait_event = 0;
	static uint32 rewind_event = 0;
	long		delay_ms = timeout_ms;
	bool		work;
	ConditionVariable *cv = rewinds ? &requests->first_cv : &requests->work_cv;

	ConditionVariablePrepareToSleep(cv);
	LWLockAcquire(requests->lock, LW_SHARED);
	work = find_due(&requests->queue, &delay_ms) != NULL ||
		(rewinds && find_due(&requests->rewinds, &delay_ms) != NULL);
	LWLockRelease(requests->lock);
	timeout_ms = Min(timeout_ms, delay_ms);
	if (!work && pg_atomic_read_u32(&requests->wakes) == wakes_seen)
		(void) ConditionVariableTimedSleep(cv, timeout_ms,
										   rewinding ?
										   wait_event_compat(&rewind_event,
															 "TestdbRewindSessions") :
										   wait_event_compat(&wait_event,
															 "TestdbWorkerMain"));
	ConditionVariableCancelSleep();
}

/*
 * Make every worker check for work; if a worker calls it, every other one.
 * Takes no lock.
 */
void
request_wake_workers(void)
{
	if (pg_atomic_fetch_add_u32(&requests->wakes, 1) == wakes_seen)
		wakes_seen++;
	wake_all();
}

/*
 * The same for work that one worker is enough for, any one: wake only one.
 */
void
request_wake_worker(void)
{
	(void) pg_atomic_fetch_add_u32(&requests->wakes, 1);
	wake_one(false);
}

/*
 * Record that worker number index is running, connected to database.
 */
void
request_worker_attach(int index, Oid database)
{
	LWLockAcquire(requests->lock, LW_EXCLUSIVE);
	worker_index = index;
	requests->worker_pids[index] = MyProcPid;
	requests->worker_waits[index] = false;
	requests->worker_database = database;
	LWLockRelease(requests->lock);
}

/*
 * Record that worker number index is no longer running, if it is this
 * process.
 */
void
request_worker_detach(int index)
{
	LWLockAcquire(requests->lock, LW_EXCLUSIVE);
	if (requests->worker_pids[index] == MyProcPid)
		requests->worker_pids[index] = 0;
	LWLockRelease(requests->lock);
}

/*
 * Return the number of running workers.
 */
int
request_workers_running(void)
{
	int			n = 0;

	LWLockAcquire(requests->lock, LW_SHARED);
	for (int i = 0; i < testdb_workers; i++)
		if (requests->worker_pids[i] != 0)
			n++;
	LWLockRelease(requests->lock);

	return n;
}

/*
 * Report whether worker 0 is running.
 */
bool
request_first_worker_running(void)
{
	bool		running;

	LWLockAcquire(requests->lock, LW_SHARED);
	running = requests->worker_pids[0] != 0;
	LWLockRelease(requests->lock);

	return running;
}

/*
 * Return the database that the workers are connected to, or InvalidOid if
 * none has started yet.
 */
Oid
request_worker_database(void)
{
	Oid			database;

	LWLockAcquire(requests->lock, LW_SHARED);
	database = requests->worker_database;
	LWLockRelease(requests->lock);

	return database;
}

/*
 * Count the slots in use, and those neither in use nor in the list of free
 * ones.
 */
void
request_audit(int *nused, int *nlost)
{
	dlist_iter	iter;
	int			nfree = 0;

	*nused = 0;
	LWLockAcquire(requests->lock, LW_SHARED);
	dlist_foreach(iter, &requests->free)
		nfree++;
	for (int i = 0; i < request_slot_count(); i++)
		if (requests->slots[i].state != REQUEST_FREE)
			(*nused)++;
	LWLockRelease(requests->lock);
	*nlost = request_slot_count() - nfree - *nused;
}
