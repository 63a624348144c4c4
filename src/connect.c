/*-------------------------------------------------------------------------
 *
 * connect.c
 *	  New sessions wait while a clone is being reset.
 *
 * A session that connects to a clone while a worker resets it must be neither
 * refused nor terminated like the sessions that were there before.  So a
 * worker closes the clone's name first, and opens it when the reset has
 * finished, successfully or not.  A client that has been authenticated
 * (guard.c has the hook) waits as long as the name is closed, but at most
 * testdb.timeout, and then is refused: 57P03.  The same holds for a clone
 * whose restore was interrupted, until worker 0 has restored it (rewind.c).
 *
 * Three kinds of clients arrived before the name was closed:
 *
 *	- Those that are just starting in the database, and have sent their client
 *	  nothing yet, may finish that before they are terminated
 *	  (database_end_sessions).
 *	- Those that have not got so far wait for the lock on the database, which a
 *	  session takes before it reads the database's row, and which the worker
 *	  keeps until all is committed: the row is never seen to be invalid.  They
 *	  wait as long as the reset takes.
 *	- If the clone is replaced by a database with another OID, these sessions
 *	  would no longer find theirs.  So each records, in its entry of the
 *	  array below, the name that it is connecting to, and the worker waits until
 *	  there is none, before it locks the database.
 *
 * No client is missed: a client records the name before it checks whether
 * that is closed, and a worker closes it before it looks for clients, with a
 * memory barrier on either side.
 *
 * If a worker exits, its exit callback opens the name.  A crash re-creates
 * all of this.
 *
 * Locks: a spinlock protects the names, for as long as it takes to compare a
 * few.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "connect.h"
#include "guc.h"
#include "registry.h"

/* Interval at which a waiting session checks, unless woken, in ms. */
#define CONNECT_INTERVAL	100

/* Interval at which a worker checks whether clients have arrived, in ms. */
#define ARRIVAL_INTERVAL	1

typedef struct ConnectSharedState
{
	slock_t		lock;
	pg_atomic_uint32 nclosed;	/* number of names below */
	NameData	closed[TESTDB_MAX_WORKERS]; /* by worker number; "" if none */
	ConditionVariable cv;		/* sessions wait here */

	/*
	 * For each process, by its place in the array of PGPROCs: the hash of the
	 * name of the database that it is connecting to, or 0.  Written by that
	 * process.
	 */
	pg_atomic_uint32 coming[FLEXIBLE_ARRAY_MEMBER];
} ConnectSharedState;

static ConnectSharedState *connect_state = NULL;

/* This worker's number, or -1. */
static int	place = -1;

/* True if this process has recorded the database that it is connecting to. */
static bool is_connecting = false;

/*
 * Return the size of the shared memory, in bytes.
 */
static Size
connect_size(void)
{
	return add_size(offsetof(ConnectSharedState, coming),
					mul_size(MaxBackends, sizeof(pg_atomic_uint32)));
}

/*
 * Reserve shared memory; from shmem_request_hook only.
 */
void
connect_shmem_request(void)
{
	RequestAddinShmemSpace(connect_size());
}

/*
 * Create the shared memory, or attach to it; from shmem_startup_hook only,
 * with AddinShmemInitLock held.
 */
void
connect_shmem_init(void)
{
	bool		found;

	connect_state = ShmemInitStruct("testdb connect", connect_size(), &found);
	if (found)
		return;
	SpinLockInit(&connect_state->lock);
	pg_atomic_init_u32(&connect_state->nclosed, 0);
	memset(connect_state->closed, 0, sizeof(connect_state->closed));
	ConditionVariableInit(&connect_state->cv);
	for (int i = 0; i < MaxBackends; i++)
		pg_atomic_init_u32(&connect_state->coming[i], 0);
}

/*
 * Return the hash of a name, never 0.
 */
static uint32
hash_name(const char *name)
{
	uint32		hash = hash_bytes((const unsigned char *) name, strlen(name));

	return hash == 0 ? 1 : hash;
}

/*
 * Return this process's entry in coming.
 */
static pg_atomic_uint32 *
my_word(void)
{
	return &connect_state->coming[MyProc - ProcGlobal->allProcs];
}

/*
 * Record that this session has arrived in its database, or was refused.
 */
void
connect_arrived(void)
{
	if (!is_connecting)
		return;
	is_connecting = false;
	pg_atomic_write_u32(my_word(), 0);
}

/*
 * A before_shmem_exit callback of a session that is connecting.
 */
static void
connect_exit(int code pg_attribute_unused(), Datum arg pg_attribute_unused())
{
	connect_arrived();
}

/*
 * Report whether a name is closed.  Takes and releases the spinlock, and the
 * registry's locks if there are clones to be restored.
 */
static bool
is_closed(const char *name)
{
	bool		closed = false;

	if (pg_atomic_read_u32(&connect_state->nclosed) > 0)
	{
		SpinLockAcquire(&connect_state->lock);
		for (int i = 0; i < TESTDB_MAX_WORKERS && !closed; i++)
			closed = strcmp(NameStr(connect_state->closed[i]), name) == 0;
		SpinLockRelease(&connect_state->lock);
	}
	return closed || registry_is_unrestored(name);
}

/*
 * If the database with this name is being reset, wait until that has
 * finished.  For a client that has just been authenticated, so
 * authentication_timeout no longer matters.
 *
 * Errors: FATAL, 57P03, after testdb.timeout.
 */
static void
wait_until_open(const char *name)
{
	static uint32 wait_event = 0;
	uint32		event = wait_event_compat(&wait_event, "TestdbConnect");
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   testdb_timeout);

	disable_timeout(STATEMENT_TIMEOUT, false);
	ConditionVariablePrepareToSleep(&connect_state->cv);
	while (is_closed(name))
	{
		long		rest = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
														   deadline);

		if (rest <= 0)
			ereport(FATAL,
					(errcode(ERRCODE_CANNOT_CONNECT_NOW),
					 errmsg("database \"%s\" is being reset", name),
					 errdetail("The connection waited %d ms for the reset to finish.", testdb_timeout),
					 errhint("Try again, or increase \"%s\".", "testdb.timeout")));
		(void) ConditionVariableTimedSleep(&connect_state->cv,
										   Min(rest, CONNECT_INTERVAL), event);
	}
	ConditionVariableCancelSleep();
}

/*
 * Record that this session is connecting to the database with this name, and
 * wait until it may do so.
 *
 * Errors: those of wait_until_open.
 */
void
connect_wait(const char *name)
{
	if (MyProc == NULL || MyProc - ProcGlobal->allProcs >= MaxBackends)
		return;
	before_shmem_exit(connect_exit, (Datum) 0);
	for (;;)
	{
		is_connecting = true;
		pg_atomic_write_u32(my_word(), hash_name(name));
		pg_memory_barrier();
		if (!is_closed(name))
			return;
		connect_arrived();
		wait_until_open(name);
	}
}

/*
 * Record that this process is worker number index.
 */
void
connect_take_place(int index)
{
	place = index;
	connect_open();
}

/*
 * Close the name of a database, until connect_open, instead of another one that
 * this worker has closed.
 */
void
connect_close(const char *name)
{
	connect_open();
	SpinLockAcquire(&connect_state->lock);
	strlcpy(NameStr(connect_state->closed[place]), name, NAMEDATALEN);
	SpinLockRelease(&connect_state->lock);
	pg_atomic_fetch_add_u32(&connect_state->nclosed, 1);
	pg_memory_barrier();
}

/*
 * Report whether a client is connecting to the database with this name.
 */
static bool
is_client_connecting(uint32 hash)
{
	for (int i = 0; i < MaxBackends; i++)
		if (pg_atomic_read_u32(&connect_state->coming[i]) == hash)
			return true;
	return false;
}

/*
 * Wait until the clients that were connecting when the name was closed have
 * arrived, at most timeout_ms.
 */
void
connect_await_arrivals(const char *name, int timeout_ms)
{
	static uint32 wait_event = 0;
	uint32		hash = hash_name(name);
	TimestampTz start = GetCurrentTimestamp();

	while (is_client_connecting(hash) &&
		   !TimestampDifferenceExceeds(start, GetCurrentTimestamp(), timeout_ms))
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 ARRIVAL_INTERVAL,
						 wait_event_compat(&wait_event, "TestdbArrivals"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Open the name that this worker has closed, if any, and wake waiting
 * sessions.
 */
void
connect_open(void)
{
	bool		closed;

	if (place < 0)
		return;
	SpinLockAcquire(&connect_state->lock);
	closed = NameStr(connect_state->closed[place])[0] != '\0';
	NameStr(connect_state->closed[place])[0] = '\0';
	SpinLockRelease(&connect_state->lock);
	if (!closed)
		return;
	pg_atomic_fetch_sub_u32(&connect_state->nclosed, 1);
	connect_wake();
}

/*
 * Wake waiting sessions, since a clone has been restored.
 */
void
connect_wake(void)
{
	ConditionVariableBroadcast(&connect_state->cv);
}
