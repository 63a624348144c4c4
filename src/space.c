/*-------------------------------------------------------------------------
 *
 * space.c
 *	  Room in the data directory's file system that copies in flight still need.
 *
 * Whether there is room for a copy is asked of the file system before it is
 * begun.  Two workers that ask at the same time would both be told that there
 * is, where there is room for one.  So each says beforehand how much it is going
 * to need, and what others have said before counts as taken.  That is too much by
 * what they have written already: who asks at the limit may be refused although
 * the room would just do.
 *
 * Locks.  The space lock guards all of it, and is held for an instant.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "compat.h"
#include "guc.h"
#include "space.h"

#define SPACE_TRANCHE		"testdb_space"

/* What one worker's copy needs; zero if it makes none. */
typedef struct SpaceNeed
{
	uint64		bytes;
	uint64		files;
} SpaceNeed;

/* All fields are protected by the space lock. */
typedef struct SpaceSharedState
{
	LWLock	   *lock;			/* the space lock; never changed */
	SpaceNeed	needs[TESTDB_MAX_WORKERS];	/* by worker number */
} SpaceSharedState;

static SpaceSharedState *space = NULL;

/* This worker's number, or -1. */
static int	place = -1;

/*
 * Shared memory that is needed, in bytes.
 */
Size
space_shmem_size(void)
{
	return sizeof(SpaceSharedState);
}

/*
 * Reserve shared memory and the lock; from shmem_request_hook only.
 */
void
space_shmem_request(void)
{
	RequestAddinShmemSpace(space_shmem_size());
	RequestNamedLWLockTranche(SPACE_TRANCHE, 1);
}

/*
 * Create it, or attach to it; from shmem_startup_hook only, with
 * AddinShmemInitLock held.
 */
void
space_shmem_init(void)
{
	bool		found;

	space = ShmemInitStruct("testdb space", space_shmem_size(), &found);
	if (found)
		return;
	memset(space, 0, sizeof(*space));
	space->lock = &GetNamedLWLockTranche(SPACE_TRANCHE)->lock;
}

/*
 * Say that this process is worker number index.
 */
void
space_take_place(int index)
{
	place = index;
	space_release();
}

/*
 * What other workers' copies need.  The space lock is held.
 */
static void
sum_others(uint64 *bytes, uint64 *files)
{
	*bytes = *files = 0;
	for (int i = 0; i < TESTDB_MAX_WORKERS; i++)
		if (i != place)
		{
			*bytes += space->needs[i].bytes;
			*files += space->needs[i].files;
		}
}

/*
 * Say what this worker's copy needs, until space_release; *other_bytes and
 * *other_files are what others had said by then.  Takes and releases the space
 * lock.
 */
void
space_reserve(uint64 bytes, uint64 files, uint64 *other_bytes, uint64 *other_files)
{
	Assert(place >= 0);

	LWLockAcquire(space->lock, LW_EXCLUSIVE);
	sum_others(other_bytes, other_files);
	space->needs[place].bytes = bytes;
	space->needs[place].files = files;
	LWLockRelease(space->lock);
}

/*
 * What other workers' copies need now.  Takes and releases the space lock.
 */
void
space_get_reserved(uint64 *bytes, uint64 *files)
{
	LWLockAcquire(space->lock, LW_SHARED);
	sum_others(bytes, files);
	LWLockRelease(space->lock);
}

/*
 * This worker's copy is complete, or will never be.  Nothing happens if there
 * is none.  Takes and releases the space lock.
 */
void
space_release(void)
{
	if (place < 0)
		return;
	LWLockAcquire(space->lock, LW_EXCLUSIVE);
	space->needs[place].bytes = 0;
	space->needs[place].files = 0;
	LWLockRelease(space->lock);
}
