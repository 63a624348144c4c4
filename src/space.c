/*-------------------------------------------------------------------------
 *
 * space.c
 *	  Room in the data directory's file system: what copies in flight still need,
 *	  and a reserve.
 *
 * Whether there is room for a copy is asked of the file system before it is
 * begun.  Two workers that ask at the same time would both be told that there
 * is, where there is room for one.  So each says beforehand how much it is going
 * to need, and what others have said before counts as taken.  That is too much by
 * what they have written already: who asks at the limit may be refused although
 * the room would just do.
 *
 * To drop a database takes a checkpoint, and a checkpoint that finds no room is a
 * PANIC.  So that a full file system can be relieved by dropping something, a few
 * files without content lie in pg_testdb/reserve, which are removed first.  They
 * are made again when there is room.
 *
 * Locks.  The space lock guards what is in shared memory, and is held for an
 * instant.  Of the reserve whoever comes first takes what there is.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file_perm.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "compat.h"
#include "guc.h"
#include "lease.h"
#include "registry.h"
#include "space.h"

#define SPACE_TRANCHE		"testdb_space"
#define RESERVE_DIR			TESTDB_DIR "/reserve"

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
	bool		reserve;		/* is there a reserve, as far as is known? */
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

/*
 * Note whether there is a reserve; what was known before.  Takes and releases the
 * space lock.
 */
static bool
note_reserve(bool there)
{
	bool		was;

	LWLockAcquire(space->lock, LW_EXCLUSIVE);
	was = space->reserve;
	space->reserve = there;
	LWLockRelease(space->lock);
	return was;
}

/*
 * Put the path of one of the reserve's files into path (MAXPGPATH bytes).
 */
static void
reserve_path(int number, char *path)
{
	snprintf(path, MAXPGPATH, "%s/%d", RESERVE_DIR, number);
}

/*
 * Make one of the reserve's files; false if that is impossible.
 */
static bool
make_reserve_file(int number)
{
	static const char zeros[SPACE_RESERVE_BYTES / SPACE_RESERVE_FILES];
	char		path[MAXPGPATH];
	bool		done;
	int			fd;

	reserve_path(number, path);
	fd = OpenTransientFile(path, O_CREAT | O_WRONLY | PG_BINARY);
	if (fd < 0)
		return false;
	done = pg_pwrite(fd, zeros, sizeof(zeros), 0) == sizeof(zeros);
	return CloseTransientFile(fd) == 0 && done;
}

/*
 * Make the reserve, if there is none.  The caller knows that there is room for
 * it; failing all the same is no harm.  For worker 0.
 */
void
space_keep_reserve(void)
{
	if (registry_is_uninstalled() || note_reserve(true))
		return;
	(void) MakePGDirectory(RESERVE_DIR);
	for (int i = 0; i < SPACE_RESERVE_FILES; i++)
		if (!make_reserve_file(i))
		{
			(void) space_give_reserve();
			break;
		}
	if (registry_is_uninstalled())
		space_remove_reserve();
}

/*
 * Remove the reserve with its directory: none will be made.
 */
void
space_remove_reserve(void)
{
	(void) space_give_reserve();
	(void) rmdir(RESERVE_DIR);
}

/*
 * Give up the reserve; false if there was none.
 */
bool
space_give_reserve(void)
{
	char		path[MAXPGPATH];
	bool		found = false;

	for (int i = 0; i < SPACE_RESERVE_FILES; i++)
	{
		reserve_path(i, path);
		found = unlink(path) == 0 || found;
	}
	(void) note_reserve(false);
	return found;
}
