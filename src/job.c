/*-------------------------------------------------------------------------
 *
 * job.c
 *	  The frame of a background worker's jobs.
 *
 * A worker executes one request at a time, or background work.  Either is a
 * job: it begins and commits transactions, and releases the clones that it
 * owns however it ends (states.c).  The operations are in files of their own,
 * each with its steps at the head: clone.c, drop.c, reset.c, seal.c,
 * upkeep.c, and rewind.c, which serves several requests at a time.
 *
 * On an ERROR, and on FATAL through job_exit(), the registry's entry of a
 * clone that was being created becomes GARBAGE, and one that was being
 * dropped returns to its owner, if that is still possible.  Some worker then
 * finds out what exists of the garbage, and removes it.
 *
 * Locks.  A worker holds no LWLock while it does any of this; heavyweight
 * locks as database.c says, waiting for each at most testdb.lock_timeout.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "storage/condition_variable.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "budget.h"
#include "compat.h"
#include "connect.h"
#include "droppable.h"
#include "job.h"
#include "job_internal.h"
#include "recycle.h"
#include "seal.h"
#include "sessions.h"
#include "signals.h"
#include "snapshot.h"
#include "space.h"

/* How many times to make room for a clone if other workers take it. */
#define ROOM_TRIES			10

WorkerJob	job = {.request = -1};

MemoryContext job_cxt = NULL;	/* reset at the start of each cycle */

/*
 * Begin a cycle: free the memory allocated in the last one.
 */
void
job_begin_turn(void)
{
	if (job_cxt == NULL)
		job_cxt = AllocSetContextCreate(TopMemoryContext, "testdb worker",
										ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(job_cxt);
	MemoryContextReset(job_cxt);
	budget_release();
	snapshot_forget_gone();
}

/*
 * Report the activity of this worker in pg_stat_activity; NULL if it is idle.
 */
void
job_report(const char *activity)
{
	pgstat_report_activity(activity ? STATE_RUNNING : STATE_IDLE, activity);
}

/*
 * Look up a database, as database_lookup does, and report as the activity of
 * this worker what followed by its name.  If there is none, *info and the
 * activity are unchanged.  In a transaction.
 */
void
job_report_database(const char *what, Oid oid, DatabaseInfo *info)
{
	if (database_lookup(oid, info))
		job_report(psprintf("testdb: %s \"%s\"", what, NameStr(info->name)));
}

/*
 * Start a transaction with a snapshot, as a utility command would have it.
 */
void
job_begin_work(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Commit the transaction of job_begin_work.  Memory allocated afterwards
 * lives until the end of the cycle.
 */
void
job_commit_work(void)
{
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		registry_count_write();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(job_cxt);
}

/*
 * Call describe for a database, for the detail of an error, after the failed
 * transaction's end; NULL if it fails, which it may if the catalogs that it
 * reads are locked.
 */
static char *
describe_obstacle(char *(*describe) (Oid oid), Oid oid)
{
	char	   *volatile text = NULL;

	PG_TRY();
	{
		job_begin_work();
		text = describe(oid);
		if (text)
			text = MemoryContextStrdup(job_cxt, text);
		job_commit_work();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(job_cxt);
		FlushErrorState();
		HOLD_INTERRUPTS();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
		MemoryContextSwitchTo(job_cxt);
	}
	PG_END_TRY();
	return text;
}

/*
 * For describe_obstacle: describe the processes that have not released their
 * files.
 */
static char *
describe_barrier(Oid oid pg_attribute_unused())
{
	return droppable_end_barrier();
}

/*
 * For describe_obstacle: describe the holders of a lock.
 */
static char *
describe_lockers(Oid oid)
{
	return droppable_describe_lockers(oid, database_last_changer());
}

/*
 * Reword the error of a barrier that timed out, naming the processes that it
 * waited for.
 */
static void
explain_barrier(ErrorData *edata)
{
	char	   *processes = describe_obstacle(describe_barrier, InvalidOid);

	recycle_note_stuck(processes);
	edata->sqlerrcode = ERRCODE_OBJECT_IN_USE;
	edata->message = "timed out waiting for other processes to release their files";
	edata->detail = processes ? processes :
		"testdb worker waited for all processes of the server.";
	edata->hint = "A process may be waiting for a client that has begun a COPY and sends nothing, or be a background worker that sleeps without looking. Terminate it if it need not go on.";
}

/*
 * Reword the error of a lock that could not be obtained in time, naming its
 * holders.
 */
static void
explain_lock(ErrorData *edata)
{
	char	   *lockers = describe_obstacle(describe_lockers,
											database_last_locked());

	edata->message = "testdb worker could not obtain a lock in time";
	edata->detail = psprintf("It waited %d ms for a lock that another session holds.%s%s",
							 testdb_lock_timeout, lockers ? " " : "",
							 lockers ? lockers : "");
	edata->hint = "Find the session that holds a lock on the database, on pg_database or on another shared catalog, perhaps your own transaction. See \"testdb.lock_timeout\".";
}

/*
 * End the failed transaction, and return the error, which lives until the end
 * of the cycle.  From PG_CATCH only.
 *
 * A lock timeout is reworded, since the caller did not set one.
 */
ErrorData *
job_rollback_work(void)
{
	ErrorData  *edata;
	bool		stuck;
	bool		dropping;
	bool		timed_out = GetCurrentTimestamp() >= get_timeout_finish_time(STATEMENT_TIMEOUT);

	ConditionVariableCancelSleep();
	disable_timeout(STATEMENT_TIMEOUT, false);
	space_release();
	MemoryContextSwitchTo(job_cxt);
	edata = CopyErrorData();
	FlushErrorState();
	HOLD_INTERRUPTS();
	AbortOutOfAnyTransaction();
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(job_cxt);

	if (edata->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		explain_lock(edata);
	dropping = database_end_drop();
	stuck = recycle_end_barrier() || dropping;
	if (stuck && timed_out && edata->sqlerrcode == ERRCODE_QUERY_CANCELED)
		explain_barrier(edata);
	else if (dropping && edata->sqlerrcode == ERRCODE_OBJECT_IN_USE)
	{
		char	   *sessions = describe_obstacle(database_describe_sessions,
												 database_last_locked());

		if (sessions)
			edata->detail = sessions;
	}
	return edata;
}

/*
 * Release all clones owned by this worker.
 */
void
release_owned_clones(void)
{
	if (registry_release_all() > 0)
		request_wake_workers();
}

/*
 * Leave a clone that is DROPPING, with partly restored content, to worker 0,
 * which restores it.
 */
void
job_leave_unrestored(Oid oid)
{
	job.unrestored = false;
	registry_set_unrestored(oid);
	(void) registry_set_state(oid, CLONE_DROPPING, CLONE_REWINDING);
	request_wake_workers();
}

/*
 * Release all clones owned by this worker, because it cannot finish its work
 * on them: an unfinished clone becomes GARBAGE, and so does one that was
 * being removed.  The request in progress, if any, gets this error.
 */
void
job_give_up(const ErrorData *edata)
{
	recycle_abandon();
	release_owned_clones();
	if (job.request >= 0)
		request_fail(job.request, edata);
	job.request = -1;
	job.clone = InvalidOid;
}

/*
 * As job_give_up, with an error, because this worker exits.
 */
void
job_exit(void)
{
	ErrorData	edata = {0};

	edata.sqlerrcode = ERRCODE_ADMIN_SHUTDOWN;
	edata.message = "testdb worker ended before it had finished";
	edata.hint = "Try again; see the server log.";
	space_release();
	budget_release();
	job_give_up(&edata);
}

/*
 * Report whether creating a clone failed because another worker took the room
 * that was made for it.
 */
static bool
has_lost_room(const RequestArgs *args, const ErrorData *edata)
{
	return args->kind == REQUEST_CLONE && job.entering && job.had_room &&
		edata->sqlerrcode == ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
}

/*
 * Execute a request.
 */
static void
dispatch(const RequestArgs *args, RequestResult *result)
{
	if (args->kind == REQUEST_CLONE)
		make_clone(args, result);
	else if (args->kind == REQUEST_SPARE)
		make_spare(args, result);
	else if (args->kind == REQUEST_RESET)
		reset_clone(args, result);
	else if (args->kind == REQUEST_SEAL)
		seal_template(args, result);
	else
		drop_clone(args, result);
}

/*
 * Reword an error so that it fits the request.
 */
static void
explain_failure(const RequestArgs *args, ErrorData *edata)
{
	/* A database with this name was created concurrently. */
	if (edata->sqlerrcode == ERRCODE_UNIQUE_VIOLATION && args->name_given)
	{
		edata->sqlerrcode = ERRCODE_DUPLICATE_DATABASE;
		edata->message = psprintf("database \"%s\" already exists",
								  NameStr(args->name));
		edata->detail = NULL;
	}

	if (args->kind == REQUEST_RESET && OidIsValid(job.clone) && job.unrestored)
		edata->detail = psprintf("%s%sThe database is being restored; new sessions wait until it is.",
								 edata->detail ? edata->detail : "",
								 edata->detail ? " " : "");
}

/*
 * Release all clones owned by this worker after a request has failed.  A
 * clone whose content is unchanged, or can be restored, does not simply get
 * its fallback state.
 */
static void
release_failed(void)
{
	if (OidIsValid(job.clone) && !(job.unrestored && job.resetting) &&
		registry_owns(job.clone, CLONE_DROPPING))
		give_back(job.clone);
	release_owned_clones();
}

/*
 * Handle a failed request: end the transaction, release the clones, and
 * answer.  False, without an answer, if it should be retried, as with
 * serve_once.  From PG_CATCH only.
 */
static bool
end_failed(int slot, const RequestArgs *args, bool may_repeat)
{
	ErrorData  *edata = job_rollback_work();
	bool		refused = database_lock_was_refused();
	bool		served = !may_repeat || !has_lost_room(args, edata) ||
		request_abandoned(slot);

	explain_failure(args, edata);

	/*
	 * Release the garbage before the caller gets the error, so that the
	 * caller's next request comes after it.
	 */
	release_failed();
	if (served)
	{
		job.request = -1;
		job.clone = InvalidOid;
		if (!refused || !request_requeue(slot))
			request_fail(slot, edata);
	}
	return served;
}

/*
 * Execute a request once.  False, with nothing done, if other workers took
 * the last room, or if a snapshot was found to be damaged, and may_repeat
 * allows a retry.
 */
static bool
serve_once(int slot, const RequestArgs *args, bool may_repeat)
{
	RequestResult result;
	volatile bool served = true;

	memset(&result, 0, sizeof(result));
	job.request = slot;
	job.clone = InvalidOid;
	job.resetting = false;
	job.unrestored = false;
	job.damaged = false;
	job.entering = false;
	job.had_room = false;
	(void) database_lock_was_refused();
	PG_TRY();
	{
		dispatch(args, &result);
		served = !may_repeat || !result.busy || !job.damaged ||
			request_abandoned(slot);
		if (served)
		{
			HOLD_INTERRUPTS();
			job.request = -1;
			if (OidIsValid(result.oid))
				registry_disown(result.oid);
			job.clone = InvalidOid;
			request_finish(slot, &result);
			RESUME_INTERRUPTS();
		}
	}
	PG_CATCH();
	{
		served = end_failed(slot, args, may_repeat);
	}
	PG_END_TRY();
	connect_open();
	return served;
}

/*
 * Serve one request, and answer it however it ends.
 */
void
job_serve(int slot, const RequestArgs *args)
{
	int			tries = 1;

	while (!serve_once(slot, args, tries < ROOM_TRIES))
		tries++;
}
