/*-------------------------------------------------------------------------
 *
 * space.c
 *	  Space in the data directory's file system: reservations of copies in
 *	  progress and of what is to be kept, and a reserve.
 *
 * The free space is that of the file system.  If it is in memory, the machine
 * or the container may have less left (memory.c), and the minimum counts,
 * since the kernel kills processes that take more.  Shared buffers that have
 * not been used yet count as used: they take memory as soon as a session reads
 * that much, even from clones that exist.  A lack of memory does not
 * prevent a drop: its checkpoint needs hardly any.
 *
 * The free space is checked before a copy is begun.  Two workers that check
 * at the same time would both find space that suffices for one.  So each
 * reserves what it is going to need, and space reserved by others counts as
 * used.  This overestimates, since part of it may already have been written:
 * close to the limit a copy may be refused although the space would suffice.
 *
 * Dropping a database requires a checkpoint, and a checkpoint without free
 * space is a PANIC.  So that databases can be dropped on a full file system,
 * there are a few placeholder files in pg_testdb/reserve, which are removed
 * first.  They are created again when there is space.
 *
 * Locks.  The space lock protects SpaceSharedState, and is held for an
 * instant.  Every function here that needs it takes and releases it, unless
 * its comment says otherwise.  The reserve is taken without a lock, by the
 * first worker that needs it.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "guc.h"
#include "lease.h"
#include "memory.h"
#include "registry.h"
#include "signals.h"
#include "space.h"
#include "templates.h"
#include <sys/statvfs.h>
#ifdef __linux__
#include <sys/vfs.h>
#endif
#include "nodes/makefuncs.h"
#include "storage/bufmgr.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

#define SPACE_TRANCHE		"testdb_space"
#define RESERVE_DIR			TESTDB_DIR "/reserve"

/* What one worker needs; zero if nothing. */
typedef struct SpaceNeed
{
	uint64		bytes;			/* for the copy that it makes */
	uint64		files;
	uint64		kept;			/* of what is to be kept ready: see budget.c */
} SpaceNeed;

/* All fields are protected by the space lock. */
typedef struct SpaceSharedState
{
	LWLock	   *lock;			/* the space lock; never changed */
	SpaceNeed	needs[TESTDB_MAX_WORKERS];	/* by worker number */
	bool		reserve;		/* is there a reserve, as far as known? */
} SpaceSharedState;

static SpaceSharedState *space = NULL;

/* This worker's number, or -1. */
static int	place = -1;

/*
 * Return the size of the shared memory, in bytes.
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
 * Create the shared memory, or attach to it; from shmem_startup_hook only,
 * with AddinShmemInitLock held.
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
 * Record that this process is worker number index.
 */
void
space_take_place(int index)
{
	place = index;
	space_release();
	(void) space_reserve_kept(0);
}

/*
 * Sum up the reservations of other workers.  The space lock is held.
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
 * Reserve space for this worker's copy, in bytes and files, until
 * space_release; *other_bytes and *other_files are reserved by other workers.
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
 * Get the space reserved by other workers, in bytes and files.
 */
void
space_get_reserved(uint64 *bytes, uint64 *files)
{
	LWLockAcquire(space->lock, LW_SHARED);
	sum_others(bytes, files);
	LWLockRelease(space->lock);
}

/*
 * Release the reservation, if any: this worker's copy is complete, or was
 * given up.
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
 * Record that this worker is about to keep a database of so many bytes ready,
 * or with 0 that it no longer is; return what the other workers are about to
 * keep, in bytes.  What a worker records before it looks at what is kept is
 * seen by those that look after it.
 */
uint64
space_reserve_kept(uint64 bytes)
{
	uint64		others = 0;

	if (place < 0)
		return 0;
	LWLockAcquire(space->lock, LW_EXCLUSIVE);
	space->needs[place].kept = bytes;
	for (int i = 0; i < TESTDB_MAX_WORKERS; i++)
		if (i != place)
			others += space->needs[i].kept;
	LWLockRelease(space->lock);
	return others;
}

/*
 * Record whether there is a reserve; return what was recorded before.
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
 * Create one of the reserve's files; false on failure.
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
 * Create the reserve, if there is none.  The caller knows that there is space
 * for it; a failure is harmless.  For worker 0.
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
 * Remove the reserve and its directory, when no more will be created.
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

/* What a checkpoint should find free: bytes, inodes. */
#define CHECKPOINT_SPACE	(2 * 1024 * 1024)

#define CHECKPOINT_FILES	20

/* Number of inodes that testdb leaves free. */
#define MIN_FREE_FILES		1000

/*
 * For how long the free memory is remembered, in ms, and how many bytes it
 * must exceed the wanted amount for that.
 */
#define MEMORY_AGE			100

#define MEMORY_PLENTY		(INT64CONST(512) * 1024 * 1024)

/*
 * For how long a number of unused shared buffers is remembered, in ms; if
 * memory is scarce because of it, this many times what counting has taken.
 */
#define BUFFERS_AGE			10000
#define BUFFERS_PAUSES		10

/* The types of file systems in memory, as returned by statfs(2). */
#define TYPE_TMPFS			0x01021994

#define TYPE_RAMFS			0x858458f6

/* The free space, and its limit. */
typedef struct SpaceRoom
{
	int64		bytes;			/* beyond testdb.min_free_space; may be
								 * negative */
	int64		files;			/* beyond MIN_FREE_FILES */
	bool		in_memory;		/* memory is the limit: */
	MemoryRoom	memory;
} SpaceRoom;

static void get_space(SpaceRoom *room);

/*
 * Report whether the data directory's file system is so full that a
 * checkpoint could fail, which is a PANIC.
 *
 * Errors: those of get_space.
 */
bool
database_is_full(void)
{
	SpaceRoom	room;

	get_space(&room);
	return room.bytes + (int64) testdb_min_free_space * 1024 * 1024 < CHECKPOINT_SPACE ||
		room.files + MIN_FREE_FILES < CHECKPOINT_FILES;
}

/*
 * Ensure that there is space for a checkpoint: if not, give up the reserve.
 * False if that is not enough.
 *
 * Errors: those of get_space.
 */
bool
database_make_checkpoint_room(void)
{
	return !database_is_full() ||
		(space_give_reserve() && !database_is_full());
}

/*
 * Get the free space of the data directory's file system beyond
 * testdb.min_free_space, in bytes, and its free inodes beyond MIN_FREE_FILES;
 * both negative if less.  A file system that does not count inodes, or
 * blocks, is taken to have any number of them.
 *
 * Errors: if they cannot be determined.
 */
static void
get_space(SpaceRoom *room)
{
	struct statvfs fs;

	if (statvfs(DataDir, &fs) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not determine the free space of \"%s\": %m", DataDir)));
	room->in_memory = false;
	room->bytes = fs.f_blocks == 0 ? PG_INT64_MAX / 2 :
		(int64) fs.f_bavail * (int64) fs.f_frsize -
		(int64) testdb_min_free_space * 1024 * 1024;
	room->files = fs.f_files == 0 ? PG_INT64_MAX / 2 :
		(int64) fs.f_favail - MIN_FREE_FILES;
}

/*
 * Report whether the data directory is in memory.
 */
static bool
is_in_memory(void)
{
#ifdef __linux__
	static int	known = -1;
	struct statfs fs;

	if (known < 0 && statfs(DataDir, &fs) == 0)
		known = (uint32) fs.f_type == TYPE_TMPFS || (uint32) fs.f_type == TYPE_RAMFS;
	return known > 0;
#else
	return false;
#endif
}

/*
 * Return how much memory shared buffers will take in addition to what they
 * take now, in bytes.  To count takes 10 ms per GB, so the last number is
 * returned if it is not old: it usually only decreases.  If it exceeds spare,
 * the bytes that the caller can do without, it is counted again sooner.  If
 * counting fails, the last number is returned; at first, 0.
 */
static int64
get_unused_buffers(int64 spare)
{
	static int64 bytes = 0;
	static TimestampTz counted_at = 0;	/* 0: not counted yet */
	static int64 took = 0;		/* us */
	TimestampTz now = GetCurrentTimestamp();
	int64		age = now - counted_at;
	int64		counted;

	if (counted_at == 0 || age < 0 || age > INT64CONST(1000) * BUFFERS_AGE ||
		(bytes > Max(spare, 0) && age > BUFFERS_PAUSES * took))
	{
		counted = memory_get_untouched(BufferBlocks, (Size) NBuffers * BLCKSZ);
		if (counted < 0)
			return bytes;
		bytes = counted;
		counted_at = GetCurrentTimestamp();
		took = counted_at - now;
	}
	return bytes;
}

/*
 * Get the free memory; it is read again if it may be less than wanted bytes.
 * False if it is unknown.
 */
static bool
get_memory(int64 wanted, MemoryRoom *memory)
{
	static MemoryRoom last;
	static TimestampTz read_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (read_at == 0 || now < read_at ||
		TimestampDifferenceExceeds(read_at, now, MEMORY_AGE) ||
		last.free < MEMORY_PLENTY || last.free - MEMORY_PLENTY < wanted)
	{
		read_at = 0;
		if (!memory_get_room("", &last))
			return false;
		last.free = Max(last.free - get_unused_buffers(last.free - wanted), 0);
		read_at = now;
	}
	*memory = last;
	return true;
}

/*
 * Get the free space, for a caller that wants this many bytes.
 */
static void
get_room(uint64 wanted, SpaceRoom *room)
{
	int64		reserved = (int64) testdb_min_free_space * 1024 * 1024;

	get_space(room);
	if (!is_in_memory() || !get_memory((int64) wanted + reserved, &room->memory) ||
		room->memory.free - reserved >= room->bytes)
		return;
	room->bytes = room->memory.free - reserved;
	room->in_memory = true;
}

/*
 * Return the free space beyond testdb.min_free_space, in bytes; negative if
 * less.
 *
 * Errors: those of get_space.
 */
int64
space_get_free(void)
{
	SpaceRoom	room;

	get_room(0, &room);
	return room.bytes;
}

/*
 * Describe, in a sentence, what limits the free space.
 *
 * Errors: those of get_space.
 */
char *
space_describe(void)
{
	SpaceRoom	room;

	get_room(0, &room);
	if (!room.in_memory)
		return psprintf("That is what the file system of the data directory has free, less the %d MB of \"%s\".",
						testdb_min_free_space, "testdb.min_free_space");
	if (room.memory.container)
		return psprintf("The data directory is in memory, and that is what the server's control group may still use of its %lld MB, less the %d MB of \"%s\".",
						(long long) room.memory.total / (1024 * 1024),
						testdb_min_free_space, "testdb.min_free_space");
	return psprintf("The data directory is in memory, and that is what is left of the machine's %lld MB, less the %d MB of \"%s\".",
					(long long) room.memory.total / (1024 * 1024),
					testdb_min_free_space, "testdb.min_free_space");
}

/*
 * Report whether there is space for these bytes and files, in addition to
 * what others are copying.
 */
static bool
fits(uint64 bytes, uint64 files, uint64 other_bytes, uint64 other_files)
{
	SpaceRoom	room;

	get_room(bytes + other_bytes, &room);
	return room.bytes >= (int64) (bytes + other_bytes) &&
		room.files >= (int64) (files + other_files);
}

/*
 * Report whether there is space for a database of this size, in bytes and
 * files, in addition to the copies of other workers.
 *
 * Errors: those of get_space.
 */
bool
database_has_space(uint64 bytes, uint64 files)
{
	uint64		other_bytes;
	uint64		other_files;

	space_get_reserved(&other_bytes, &other_files);
	return fits(bytes, files, other_bytes, other_files);
}

/*
 * The same, and if there is space, reserve it until space_release;
 * job_rollback_work does that after an error.
 *
 * Errors: those of get_space.
 */
bool
database_reserve_space(uint64 bytes, uint64 files)
{
	uint64		other_bytes;
	uint64		other_files;

	space_reserve(bytes, files, &other_bytes, &other_files);
	if (fits(bytes, files, other_bytes, other_files))
		return true;
	space_release();
	return false;
}

/*
 * Describe what uses the space, in a sentence.
 */
static char *
describe_use(void)
{
	TestdbTemplate *templates;
	TemplateSpace sum = {0};
	int			n;

	templates = registry_list_templates(&n);
	for (int i = 0; i < n; i++)
	{
		TemplateSpace one;

		template_get_space(&templates[i], &one);
		sum.clones += one.clones;
		sum.spares += one.spares;
		sum.snapshot += one.snapshot;
	}
	pfree(templates);
	return psprintf("Clones in use take about %llu MB, spares and databases being removed %llu MB, snapshots %llu MB.",
					(unsigned long long) sum.clones / (1024 * 1024),
					(unsigned long long) sum.spares / (1024 * 1024),
					(unsigned long long) sum.snapshot / (1024 * 1024));
}

/*
 * Describe the free space, without what others will take, for an error's
 * detail.
 */
static char *
describe_free(const SpaceRoom *room, uint64 other_bytes)
{
	int64		free_kb = (room->bytes - (int64) other_bytes) / 1024 +
		(int64) testdb_min_free_space * 1024;

	if (!room->in_memory)
		return psprintf("%lld kB are free", (long long) free_kb);
	if (room->memory.container)
		return psprintf("%lld kB are free of the %lld kB of memory that the server's control group may use, and the data directory is in memory",
						(long long) free_kb, (long long) room->memory.total / 1024);
	return psprintf("%lld kB are free of the machine's %lld kB of memory, and the data directory is in memory",
					(long long) free_kb, (long long) room->memory.total / 1024);
}

/*
 * Return a hint for an error about a lack of space.
 */
static char *
hint_room(const SpaceRoom *room)
{
	if (!room->in_memory)
		return "Drop databases that are no longer needed, or make the file system of the data directory larger.";
	if (room->memory.container)
		return "Drop databases that are no longer needed, raise the memory limit of the container, or put the data directory on a disk.";
	return "Drop databases that are no longer needed, end other programs, or put the data directory on a disk.";
}

/*
 * Build the error, 53100, that there is no space for these bytes and files:
 * to restore the database with this name, or for another one if it is NULL.
 * In the current memory context.
 */
ErrorData *
database_space_error(const char *name, uint64 bytes, uint64 files)
{
	ErrorData  *edata = palloc0(sizeof(ErrorData));
	const char *what = name ? psprintf("to restore database \"%s\"", name) :
		"for another database";
	SpaceRoom	room;
	int64		free_files;
	uint64		other_bytes;
	uint64		other_files;

	space_get_reserved(&other_bytes, &other_files);
	get_room(bytes + other_bytes, &room);
	free_files = room.files - (int64) other_files;
	edata->elevel = ERROR;
	edata->sqlerrcode = ERRCODE_DISK_FULL;
	if (room.bytes - (int64) other_bytes < (int64) bytes || free_files >= (int64) files)
	{
		edata->message = psprintf("not enough free space %s", what);
		edata->detail = psprintf("It needs %llu kB more than the %d MB of \"%s\"; %s. %s",
								 (unsigned long long) bytes / 1024,
								 testdb_min_free_space, "testdb.min_free_space",
								 describe_free(&room, other_bytes), describe_use());
		edata->hint = hint_room(&room);
	}
	else
	{
		edata->message = psprintf("not enough free inodes %s", what);
		edata->detail = psprintf(name ? "It needs %llu more inodes; the file system has %lld left." :
								 "It has %llu files; the file system has %lld inodes left.",
								 (unsigned long long) files,
								 (long long) Max(free_files, 0));
		edata->hint = "Drop databases that are no longer needed, or give the file system of the data directory more inodes.";
	}
	return edata;
}

/*
 * As database_reserve_space, but raise the error of database_space_error if
 * there is not enough space.
 *
 * Errors: 53100; those of get_space.
 */
void
database_check_space(const char *name, uint64 bytes, uint64 files)
{
	if (!database_reserve_space(bytes, files))
		ThrowErrorData(database_space_error(name, bytes, files));
}
