/*-------------------------------------------------------------------------
 *
 * exits.c
 *	  Waking processes that wait for sessions to leave a database.
 *
 * A process that waits for that sets its watch, checks whether there are
 * sessions, and sleeps on its latch.  A session that has left sets the
 * latches of the processes that watch its database.  Sessions unknown to
 * freshness.c leave without that, so waiting processes check again from time
 * to time.
 *
 * No lock is taken.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "exits.h"

/*
 * For each process, by its index in the array of PGPROCs: the database whose
 * sessions it waits for, or InvalidOid.  No lock: it is set before the
 * process checks for sessions, and read by a session that has left the array.
 */
static pg_atomic_uint32 *exit_watches = NULL;

/*
 * Return the size of the shared memory, in bytes.
 */
static Size
exits_size(void)
{
	return mul_size(MaxBackends, sizeof(pg_atomic_uint32));
}

/*
 * Reserve shared memory; from shmem_request_hook only.
 */
void
exits_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(exits_size()));
}

/*
 * Create the watches, or attach to them; from shmem_startup_hook only, with
 * AddinShmemInitLock held.
 */
void
exits_shmem_init(void)
{
	bool		found;

	exit_watches = ShmemInitStruct("testdb exits", exits_size(), &found);
	for (int i = 0; i < MaxBackends && !found; i++)
		pg_atomic_init_u32(&exit_watches[i], InvalidOid);
}

/*
 * Set this process's latch whenever a session that freshness.c knows has left
 * this database, from now on; InvalidOid to end that.  After an error, the
 * latch may be set without need.
 */
void
exits_watch(Oid database)
{
	Size		index = MyProc - ProcGlobal->allProcs;

	Assert(index < (Size) MaxBackends);
	pg_atomic_write_u32(&exit_watches[index], database);
	pg_memory_barrier();
}

/*
 * Wake the processes that watch a database that this process was connected
 * to, and has left.  Needs no PGPROC.
 */
void
exits_announce(Oid database)
{
	pg_memory_barrier();
	for (int i = 0; i < MaxBackends; i++)
		if (pg_atomic_read_u32(&exit_watches[i]) == database)
			SetLatch(&ProcGlobal->allProcs[i].procLatch);
}
