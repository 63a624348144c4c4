/*-------------------------------------------------------------------------
 *
 * space.c
 *	  Room in the data directory's file system: what copies in flight still need,
 *	  and a reserve.
 *
 * How much there is, the file system says.  If it is one in memory, it may be
 * more than the machine or the container has left (memory.c), and the least
 * counts: who takes more is ended by the kernel.  Dropping something is not
 * kept from for want of memory: the checkpoint that it takes needs hardly
 * any.
 *
 * Whether there is room for a copy is asked of the file system before it is
 * begun.  Two workers that ask at the same time would both be told that there
 * is, where there is room for one.  So each says beforehand how much it is
 * going to need, and what others have said before counts as taken.  That is
 * too much by what they have written already: who asks at the limit may be
 * refused although the room would just do.
 *
 * To drop a database takes a checkpoint, and a checkpoint that finds no room
 * is a PANIC.  So that a full file system can be relieved by dropping
 * something, a few files without content lie in pg_testdb/reserve, which are
 * removed first.  They are made again when there is room.
 *
 * Locks.  The space lock guards what is in shared memory, and is held for an
 * instant.  Of the reserve whoever comes first takes what there is.
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
#include "storage/fd.h"
#include "utils/timestamp.h"

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
 * Note whether there is a reserve; what was known before.  Takes and releases
 * the space lock.
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

/* What a checkpoint should find free: bytes, files. */
#define CHECKPOINT_SPACE	(2 * 1024 * 1024)

#define CHECKPOINT_FILES	20

/* How many files testdb leaves for others. */
#define MIN_FREE_FILES		1000

/*
 * For how long it is taken for granted how much memory is left, in ms, and
 * only if that is so many bytes more than is wanted.
 */
#define MEMORY_AGE			100

#define MEMORY_PLENTY		(INT64CONST(512) * 1024 * 1024)

/* The types of file systems in memory, as statfs(2) tells them. */
#define TYPE_TMPFS			0x01021994

#define TYPE_RAMFS			0x858458f6

/* How much room there is, and what bounds it. */
typedef struct SpaceRoom
{
	int64		bytes;			/* beyond testdb.min_free_space; may be negative */
	int64		files;			/* beyond MIN_FREE_FILES */
	bool		in_memory;		/* memory is what bounds it: */
	MemoryRoom	memory;
} SpaceRoom;

static void get_space(SpaceRoom *room);

/*
 * Is the data directory's file system so full that a checkpoint could fail,
 * which is a PANIC?
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
 * See that there is room for a checkpoint: if not, the reserve is given up.
 * False if that is not enough.
 */
bool
database_make_checkpoint_room(void)
{
	return !database_is_full() ||
		(space_give_reserve() && !database_is_full());
}

/*
 * How much more room there is in the data directory's file system than
 * testdb.min_free_space, in bytes, and how many more files it can take than
 * MIN_FREE_FILES; both negative if less.  A file system that does not count
 * its files, or its blocks, has room for any number.
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
 * Is the data directory in memory?
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
 * How much memory is left, as of now if it may be less than so many bytes;
 * false if that is not known.
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
		read_at = now;
	}
	*memory = last;
	return true;
}

/*
 * How much room there is, for a caller that wants so many bytes.
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
 * How much room there is, in bytes; negative if less than testdb.min_free_space.
 */
int64
space_get_free(void)
{
	SpaceRoom	room;

	get_room(0, &room);
	return room.bytes;
}

/*
 * Where that comes from, in a sentence.
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
 * Is there room for so many bytes and files, besides what others are copying?
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
 * Is there room for a database of so many bytes and files, besides what other
 * workers are copying?
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
 * The same; if there is, that room is this worker's until space_release, unless
 * the transaction fails.
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
 * What takes the room, in a sentence.
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
 * What is free, for an error's detail, after what others will take.
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
 * What can be done about a lack of room, for an error's hint.
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
 * The error, 53100, that there is no room for so many bytes and files: to
 * restore the database of that name, or for another one if it is NULL.  In
 * the current memory context.
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
 * Raise that error if there is no such room.  Else it is this worker's until
 * space_release, unless the transaction fails.
 */
void
database_check_space(const char *name, uint64 bytes, uint64 files)
{
	if (!database_reserve_space(bytes, files))
		ThrowErrorData(database_space_error(name, bytes, files));
}
