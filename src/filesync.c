/*-------------------------------------------------------------------------
 *
 * filesync.c
 *	  Bringing one directory to the content of another.
 *
 * The directories are flat, as a database's is: a subdirectory, a symbolic
 * link or anything else that is no regular file is an error.  Nothing here
 * knows PostgreSQL, so that all of it can be tested without a server.
 *
 * There are three kinds of directories, and a chain between them:
 *
 *		template  ->  snapshot  ->  clone
 *
 * Others write to templates and clones at any time; the snapshot is private.
 * Which files of a copy still equal their source is known without reading
 * them, from times of last modification.  A write to a file moves its mtime
 * to the clock's now, so an mtime that was set to a value long past cannot
 * come back by itself.
 *
 * Clone and snapshot.  A file of the snapshot with mtime S has a copy in the
 * clone with mtime S - FILESYNC_MTIME_OFFSET.  The two are equal if and only
 * if their sizes are, and their mtimes are that far apart.  This needs S to
 * stand for one content of that file for ever; see below how S is chosen.
 *
 * Snapshot and template.  A file of the template with mtime T might be
 * written once more within the same tick of the clock after it was copied,
 * with the same T: it is racy as long as T is younger than FILESYNC_RACY_AGE.
 * So the copy's entry in the snapshot's manifest has origin = T if the source
 * was not racy when it was copied, and FILESYNC_ORIGIN_UNKNOWN if it was.
 * Unchanged means: same size, and origin = T.
 *
 * The choice of S.  If the source was not racy, S = T - FILESYNC_MTIME_OFFSET:
 * T stands for one content, so S does, and taking the snapshot anew leads to
 * the same S.  If it was racy, T won't do, and S is the time of the copying
 * minus one and a half offsets: no two copies share it, and it never meets a
 * time of the first kind.  Either way S is long past, so that a file of the
 * snapshot is never racy itself, and every file of a clone can be marked.
 *
 * A template is mostly flushed just before its first snapshot, which makes
 * most of its files racy.  filesync_refresh() settles that later: it reads
 * files that only seem to differ, and where the content is the same it keeps
 * the snapshot's file and S, and so the clones, and records the origin.
 *
 * A clone copied from the template itself, with mtime_steps = 2, carries the
 * marks that a copy of the snapshot would have carried, except for files that
 * were racy: those equal no snapshot, and the first full comparison copies
 * them.
 *
 * Damage.  A snapshot is private, but no more than a directory: somebody cleans
 * up old files, restores a backup, or makes a mistake.  So the manifest of a
 * copy also has the mtime that the file system showed for each file when that
 * was written, rounded or not.  Before a file of the snapshot is read, its size
 * and this time must be those of the manifest; what is missing, can't be read or
 * is another file is the source's fault, and the error says so.  What is not
 * read is not looked at, except by filesync_is_intact().
 *
 * All this needs file systems that keep nanoseconds.  On others, and while the
 * clock is far behind, files are copied more often than needed: never less.
 *
 * The change set.  inotify tells the names that changed in a clone, so that
 * not even a stat per file is needed.  Whatever breaks the watch is reported,
 * and the caller makes a full comparison.
 *
 * Crashes and errors.  Any error leaves the target unusable, until a full
 * restore or filesync_remove_dir().  With FILESYNC_MARK the directory says so
 * itself: FILESYNC_UNFINISHED is made before the first change and removed
 * after the last.  The marker costs two system calls per call that changes
 * anything; a caller that keeps a durable record of its own can do without.
 * One of the two is needed with FILESYNC_FSYNC: a file's mark may reach the
 * disk before its content does.
 *
 * Memory comes from malloc(); what a function returns belongs to the caller.
 * There is no state but what is passed in.  Descriptors are not inherited by
 * a program that is executed, and links are never followed: the last component
 * of a directory's path is opened as a directory, all else relative to it.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/fs.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#endif

#include "filesync.h"

#if defined(__linux__) && \
	(!defined(__GLIBC__) || __GLIBC__ > 2 || __GLIBC_MINOR__ >= 27)
#define HAVE_COPY_IN_KERNEL
#endif

/*
 * Flags of every open.  O_NONBLOCK does nothing to a regular file, but keeps
 * us from waiting for ever for the other side of a pipe that took its place.
 */
#define OPEN_FLAGS (O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)

#define NANOSECONDS INT64_C(1000000000)

/* Times beyond this, in either direction, are taken as unknown. */
#define TIME_LIMIT INT64_C(8000000000000000000)

/* Larger buffers than this were no faster, and leave the CPU's cache. */
#define BUFFER_SIZE (256 * 1024)

/* Bytes to copy in the kernel before asking whether to go on. */
#define KERNEL_COPY_SIZE (32 * 1024 * 1024)

#define DEFAULT_CHECK_EVERY 64

#define NO_INDEX UINT32_MAX

/* Room for a path in an error's message, which has a few words besides. */
#define MESSAGE_PATH_SIZE 1200

/* Call until it isn't interrupted by a signal. */
#define RETRY(result, call) \
	do \
	{ \
		(result) = (call); \
	} while ((result) < 0 && errno == EINTR)

#ifdef __GNUC__
#define PRINTF_ARGS(f, a) __attribute__((format(printf, f, a)))
#else
#define PRINTF_ARGS(f, a)
#endif

/* Names, each with an index in order of arrival, found by hash. */
typedef struct NameTable
{
	char	   *text;			/* the names, each with its NUL */
	uint32_t	text_len;
	uint32_t	text_size;		/* allocated */
	uint32_t   *offsets;		/* of each name in text */
	uint32_t	count;
	uint32_t	size;			/* allocated offsets */
	uint32_t   *slots;			/* index + 1, or 0: open addressing */
	uint32_t	nslots;			/* power of 2, at least twice the count */
} NameTable;

struct FilesyncNames
{
	NameTable	table;
};

/* What a manifest knows of a file; part of the file format. */
typedef struct FileRecord
{
	int64_t		size;
	int64_t		mtime;
	int64_t		origin;
	int64_t		kept;			/* mtime that the file system shows, or
								 * KEPT_UNKNOWN if others may write to it */
	uint32_t	flags;
	uint32_t	reserved;		/* 0 */
} FileRecord;

#define KEPT_UNKNOWN	INT64_MIN

#define RECORD_RACY		0x01

struct FilesyncManifest
{
	NameTable	names;
	FileRecord *records;		/* in the order of names */
	uint32_t	size;			/* allocated records */
	uint64_t	tag;
};

/*
 * A manifest's file: this header, the records, and the names in their order,
 * each with its NUL.  All in the byte order of the machine, which the magic
 * number shows.
 */
typedef struct ManifestHeader
{
	uint64_t	magic;
	uint32_t	version;
	uint32_t	count;			/* of records and names */
	uint64_t	text_len;		/* bytes of the names */
	uint64_t	tag;
	uint64_t	checksum;		/* of everything, this being 0 */
} ManifestHeader;

#define MANIFEST_MAGIC UINT64_C(0x74646266696c6573)
#define MANIFEST_VERSION 2
#define MANIFEST_MAX_SIZE (INT64_C(1) << 30)

/* A file to be made or rewritten. */
typedef struct Change
{
	uint32_t	index;			/* in the manifest */
	bool		create;
	bool		compare;		/* leave it if its content is right */
	int64_t		old_size;		/* of what is rewritten, at most */
} Change;

/* One call of the functions that change a directory. */
typedef struct SyncRun
{
	const FilesyncOptions *options;
	FilesyncOptions defaults;	/* what options points to if there are none */
	FilesyncStats *stats;
	FilesyncStats unwanted;		/* same for stats */
	FilesyncError *error;
	const FilesyncManifest *manifest;	/* of the source */
	FilesyncManifest *own_manifest; /* same, if it was made here */
	FilesyncManifest *copy;		/* of the target as it will be, or NULL */
	const FilesyncManifest *old_copy;	/* of the target as it was, or NULL */
	const char *source;
	const char *target;
	int			source_fd;
	int			target_fd;
	bool		made_target;
	bool		marked;			/* the target has the marker */
	bool		try_clone;		/* not yet known to be impossible */
	bool		try_kernel_copy;
	int64_t		now;			/* before anything was looked at */
	uint32_t	unchecked;		/* files since the last check */
	char	   *buffer;			/* 2 * BUFFER_SIZE, or NULL */
	unsigned char *seen;		/* one byte per file of the manifest */
	FilesyncNames *extra;		/* to be removed */
	Change	   *changes;
	size_t		nchanges;
	size_t		changes_size;	/* allocated */
} SyncRun;

/* What walk_directory() calls; false, with the error set, ends the walk. */
typedef bool (*WalkCallback) (const char *name, const struct stat *st,
							  void *arg);

/* The state of filesync_scan(). */
typedef struct ScanState
{
	FilesyncManifest *manifest;
	int64_t		now;			/* before the first stat */
	FilesyncError *error;
} ScanState;

static bool fail_text(FilesyncError *error, int errnum, const char *format,
					  ...) PRINTF_ARGS(3, 4);

/*
 * Append a name to a message of the given size, what isn't printable ASCII as
 * \xNN, since a file's name need not be text in anybody's encoding.
 */
static void
append_name(char *message, size_t size, const char *name)
{
	size_t		len = strlen(message);

	for (; *name != '\0' && len + 5 < size; name++)
	{
		unsigned char c = (unsigned char) *name;

		if (c >= 0x20 && c < 0x7f && c != '\\')
			len += (size_t) snprintf(message + len, size - len, "%c", c);
		else
			len += (size_t) snprintf(message + len, size - len, "\\x%02x", c);
	}
}

/*
 * Put the path of a file, or of the directory if name is NULL, into a buffer,
 * cut off where it doesn't fit.
 */
static void
format_path(char *path, size_t size, const char *dir, const char *name)
{
	snprintf(path, size, "%.900s%s", dir, name ? "/" : "");
	if (name != NULL)
		append_name(path, size, name);
}

/*
 * Set the error for a failed system call: could not <what> "dir/name": reason.
 * name may be NULL.  Returns false, for the caller to return.
 */
static bool
fail(FilesyncError *error, int errnum, const char *what, const char *dir,
	 const char *name)
{
	char		path[MESSAGE_PATH_SIZE];

	format_path(path, sizeof(path), dir, name);
	return fail_text(error, errnum, "could not %s \"%s\": %s", what, path,
					 strerror(errnum));
}

/*
 * Set the error for what is wrong with a file: file "dir/name" <what>.
 * Returns false.
 */
static bool
fail_file(FilesyncError *error, int errnum, const char *dir, const char *name,
		  const char *what)
{
	char		path[MESSAGE_PATH_SIZE];

	format_path(path, sizeof(path), dir, name);
	return fail_text(error, errnum, "file \"%s\" %s", path, what);
}

/*
 * Set the error to a message made as by printf().  Returns false.
 */
static bool
fail_text(FilesyncError *error, int errnum, const char *format,...)
{
	va_list		args;

	error->saved_errno = errnum;
	error->source = false;
	va_start(args, format);
	vsnprintf(error->message, sizeof(error->message), format, args);
	va_end(args);
	return false;
}

/*
 * Set the error to "out of memory".  Returns false.
 */
static bool
fail_memory(FilesyncError *error)
{
	return fail_text(error, ENOMEM, "out of memory");
}

/*
 * Say of the error that was just set that the source is to blame for it, unless
 * this process or the system is short of something.  Returns false.
 */
static bool
blame_source(FilesyncError *error)
{
	error->source = error->saved_errno != ENOMEM &&
		error->saved_errno != EMFILE && error->saved_errno != ENFILE;
	return false;
}

/*
 * Close what was only read from: there is nothing to be lost by a failure.
 * Keeps errno.
 */
static void
close_quietly(int fd)
{
	int			save_errno = errno;

	if (fd >= 0)
		(void) close(fd);
	errno = save_errno;
}

/*
 * Now, in nanoseconds.  0 if there is no clock, which makes all files racy.
 */
static int64_t
current_time(void)
{
	struct timespec ts;

	if (clock_gettime(CLOCK_REALTIME, &ts) < 0)
		return 0;
	return (int64_t) ts.tv_sec * NANOSECONDS + ts.tv_nsec;
}

/*
 * A file's mtime in nanoseconds, at most TIME_LIMIT in either direction.
 */
static int64_t
stat_mtime(const struct stat *st)
{
#ifdef __APPLE__
	const struct timespec *ts = &st->st_mtimespec;
#else
	const struct timespec *ts = &st->st_mtim;
#endif

	if (ts->tv_sec >= TIME_LIMIT / NANOSECONDS)
		return TIME_LIMIT;
	if (ts->tv_sec <= -TIME_LIMIT / NANOSECONDS)
		return -TIME_LIMIT;
	return (int64_t) ts->tv_sec * NANOSECONDS + ts->tv_nsec;
}

/*
 * Whether a file with this mtime might be written after now without getting
 * another.  Kernels stamp files with a clock that lags by a tick of up to
 * 10 ms, file systems may keep whole seconds or two of them only.
 */
static bool
mtime_is_racy(int64_t mtime, int64_t now)
{
	int64_t		age = FILESYNC_RACY_AGE;

	if (mtime % NANOSECONDS == 0)
		age = FILESYNC_RACY_AGE_COARSE;
	return mtime > now - age || mtime <= -TIME_LIMIT;
}

/*
 * Whether a name can be that of a file in a directory.
 */
static bool
name_is_valid(const char *name)
{
	return name[0] != '\0' && strchr(name, '/') == NULL &&
		strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/*
 * The name of the given index.
 */
static const char *
table_name(const NameTable *table, uint32_t index)
{
	return table->text + table->offsets[index];
}

/*
 * The slot that holds a name, or the empty one that it would get.  There must
 * be one: nslots > count.
 */
static uint32_t *
table_slot(const NameTable *table, const char *name)
{
	uint32_t	hash = UINT32_C(2166136261);
	uint32_t	i;
	const char *c;

	for (c = name; *c != '\0'; c++)
		hash = (hash ^ (unsigned char) *c) * UINT32_C(16777619);
	hash ^= hash >> 15;

	for (i = hash & (table->nslots - 1); table->slots[i] != 0;
		 i = (i + 1) & (table->nslots - 1))
	{
		if (strcmp(table_name(table, table->slots[i] - 1), name) == 0)
			break;
	}
	return &table->slots[i];
}

/*
 * The index of a name, or NO_INDEX.
 */
static uint32_t
table_find(const NameTable *table, const char *name)
{
	if (table->count == 0)
		return NO_INDEX;
	return *table_slot(table, name) - 1;
}

/*
 * Make the table's hash twice as large.  False if there is no memory, with
 * nothing changed.
 */
static bool
table_rehash(NameTable *table)
{
	uint32_t	nslots = table->nslots ? table->nslots * 2 : 64;
	uint32_t   *slots = calloc(nslots, sizeof(uint32_t));
	uint32_t	i;

	if (slots == NULL)
		return false;
	free(table->slots);
	table->slots = slots;
	table->nslots = nslots;
	for (i = 0; i < table->count; i++)
		*table_slot(table, table_name(table, i)) = i + 1;
	return true;
}

/*
 * Make room for one more name of len bytes, NUL included.  False if there is
 * no memory; the table is good either way.
 */
static bool
table_reserve(NameTable *table, size_t len)
{
	if (table->count == table->size)
	{
		uint32_t	size = table->size ? table->size * 2 : 32;
		uint32_t   *offsets = realloc(table->offsets, size * sizeof(uint32_t));

		if (offsets == NULL)
			return false;
		table->offsets = offsets;
		table->size = size;
	}
	if (len > table->text_size - table->text_len)
	{
		size_t		size = (size_t) table->text_size * 2 + len + 256;
		char	   *text = size <= INT32_MAX ? realloc(table->text, size) : NULL;

		if (text == NULL)
			return false;
		table->text = text;
		table->text_size = (uint32_t) size;
	}
	return table->count < table->nslots / 2 || table_rehash(table);
}

/*
 * Add a name that may be there already.  False if there is no memory.
 */
static bool
table_add(NameTable *table, const char *name)
{
	size_t		len = strlen(name) + 1;
	uint32_t   *slot;

	if (table_find(table, name) != NO_INDEX)
		return true;
	if (!table_reserve(table, len))
		return false;

	memcpy(table->text + table->text_len, name, len);
	slot = table_slot(table, name);
	table->offsets[table->count] = table->text_len;
	table->text_len += (uint32_t) len;
	*slot = ++table->count;
	return true;
}

/*
 * Free a table's memory, but not the table.
 */
static void
table_free(NameTable *table)
{
	free(table->text);
	free(table->offsets);
	free(table->slots);
}

/*
 * A new, empty set of names, for filesync_names_free().  NULL if there is no
 * memory.
 */
FilesyncNames *
filesync_names_create(void)
{
	return calloc(1, sizeof(FilesyncNames));
}

/*
 * Free a set of names; NULL is fine.
 */
void
filesync_names_free(FilesyncNames *names)
{
	if (names == NULL)
		return;
	table_free(&names->table);
	free(names);
}

/*
 * Add a copy of a name to a set, which may have it already.  False, with errno
 * set, if it can't be the name of a file (EINVAL) or there is no memory: the
 * set isn't complete any more, and a full comparison is needed.
 */
bool
filesync_names_add(FilesyncNames *names, const char *name)
{
	if (!name_is_valid(name))
	{
		errno = EINVAL;
		return false;
	}
	if (!table_add(&names->table, name))
	{
		errno = ENOMEM;
		return false;
	}
	return true;
}

/*
 * Whether a set has a name.
 */
bool
filesync_names_contains(const FilesyncNames *names, const char *name)
{
	return table_find(&names->table, name) != NO_INDEX;
}

/*
 * The number of names in a set.
 */
uint32_t
filesync_names_count(const FilesyncNames *names)
{
	return names->table.count;
}

/*
 * One name of a set, in order of arrival; index is less than the count.  Good
 * until the set is changed.
 */
const char *
filesync_names_get(const FilesyncNames *names, uint32_t index)
{
	return table_name(&names->table, index);
}

/*
 * Empty a set, and keep its memory for the next names.
 */
void
filesync_names_clear(FilesyncNames *names)
{
	if (names->table.nslots > 0)
		memset(names->table.slots, 0,
			   names->table.nslots * sizeof(uint32_t));
	names->table.count = 0;
	names->table.text_len = 0;
}

/*
 * A new, empty manifest.  NULL if there is no memory.
 */
static FilesyncManifest *
manifest_create(void)
{
	return calloc(1, sizeof(FilesyncManifest));
}

/*
 * Add a file that the manifest doesn't have.  False if it has it, or if there
 * is no memory.
 */
static bool
manifest_add(FilesyncManifest *manifest, const char *name,
			 const FileRecord *record)
{
	uint32_t	index = manifest->names.count;

	if (index == manifest->size)
	{
		uint32_t	size = manifest->size ? manifest->size * 2 : 32;
		FileRecord *records = realloc(manifest->records,
									  size * sizeof(FileRecord));

		if (records == NULL)
			return false;
		manifest->records = records;
		manifest->size = size;
	}
	if (!table_add(&manifest->names, name))
		return false;
	if (manifest->names.count == index)
		return false;
	manifest->records[index] = *record;
	return true;
}

/*
 * Free a manifest; NULL is fine.
 */
void
filesync_manifest_free(FilesyncManifest *manifest)
{
	if (manifest == NULL)
		return;
	table_free(&manifest->names);
	free(manifest->records);
	free(manifest);
}

/*
 * The number of files in a manifest.
 */
uint32_t
filesync_manifest_count(const FilesyncManifest *manifest)
{
	return manifest->names.count;
}

/*
 * The bytes that a copy occupies on a file system with blocks of this many
 * bytes, not counting what it needs for the files themselves (inodes, names).
 */
uint64_t
filesync_manifest_space(const FilesyncManifest *manifest, uint32_t block_size)
{
	uint64_t	blocks = 0;
	uint32_t	i;

	for (i = 0; i < manifest->names.count; i++)
	{
		uint64_t	size = (uint64_t) manifest->records[i].size;

		blocks += size / block_size + (size % block_size != 0);
	}
	return blocks * block_size;
}

/*
 * What the manifest says of its file with this index, which is less than the
 * count.  The name is good as long as the manifest.
 */
void
filesync_manifest_get(const FilesyncManifest *manifest, uint32_t index,
					  FilesyncFile *file)
{
	const FileRecord *record = &manifest->records[index];

	file->name = table_name(&manifest->names, index);
	file->size = record->size;
	file->mtime = record->mtime;
	file->origin = record->origin;
	file->racy = (record->flags & RECORD_RACY) != 0;
}

/*
 * Look up a file by its name.  False if the manifest hasn't got it; then file
 * is unchanged.
 */
bool
filesync_manifest_find(const FilesyncManifest *manifest, const char *name,
					   FilesyncFile *file)
{
	uint32_t	index = table_find(&manifest->names, name);

	if (index == NO_INDEX)
		return false;
	filesync_manifest_get(manifest, index, file);
	return true;
}

/*
 * The number that the caller gave to filesync_manifest_set_tag(), or 0.  It is
 * part of the manifest's file; say, the generation that the snapshot has.
 */
uint64_t
filesync_manifest_tag(const FilesyncManifest *manifest)
{
	return manifest->tag;
}

/*
 * Give the manifest a number of the caller's.
 */
void
filesync_manifest_set_tag(FilesyncManifest *manifest, uint64_t tag)
{
	manifest->tag = tag;
}

/*
 * Open a directory, not through a symbolic link as the last part of its path.
 * Returns the descriptor, or -1 with the error set.
 */
static int
open_directory(const char *dir, FilesyncError *error)
{
	int			fd;

	RETRY(fd, open(dir, O_RDONLY | O_DIRECTORY | OPEN_FLAGS));
	if (fd < 0)
		fail(error, errno, "open directory", dir, NULL);
	return fd;
}

/*
 * Refuse what is no regular file.  Returns false with the error set.
 */
static bool
fail_not_regular(FilesyncError *error, const char *dir, const char *name,
				 const struct stat *st)
{
	int			errnum = EINVAL;

	if (S_ISDIR(st->st_mode))
		errnum = EISDIR;
	else if (S_ISLNK(st->st_mode))
		errnum = ELOOP;
	return fail_file(error, errnum, dir, name, "is not a regular file");
}

/*
 * One step of walk_directory(): name is neither "." nor "..".
 */
static bool
walk_entry(int fd, const char *dir, const char *name, WalkCallback callback,
		   void *arg, FilesyncError *error)
{
	struct stat st;
	int			rc;

	RETRY(rc, fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW));
	if (rc < 0)
	{
		/* Removed since readdir() saw it: as if it had never been there. */
		if (errno == ENOENT)
			return true;
		return fail(error, errno, "stat file", dir, name);
	}
	if (!S_ISREG(st.st_mode))
		return fail_not_regular(error, dir, name, &st);
	return callback(name, &st, arg);
}

/*
 * Call back for each file of an open directory.  The names that the filter
 * refuses, if there is one, are passed over whatever they are.  The marker is
 * passed over too, and *unfinished set if it is there.  The callback may change
 * files, but not the directory: what readdir() makes of that is undefined.
 * Returns false with the error set, here or by the callback.
 */
static bool
walk_directory(int fd, const char *dir, const FilesyncOptions *filter,
			   WalkCallback callback, void *arg, bool *unfinished,
			   FilesyncError *error)
{
	bool		ok = true;
	int			walk_fd;
	DIR		   *stream;
	struct dirent *entry;

	*unfinished = false;
	/* The stream needs its own, since closedir() closes it. */
	RETRY(walk_fd, openat(fd, ".", O_RDONLY | O_DIRECTORY | OPEN_FLAGS));
	if (walk_fd < 0)
		return fail(error, errno, "open directory", dir, NULL);
	stream = fdopendir(walk_fd);
	if (stream == NULL)
	{
		close_quietly(walk_fd);
		return fail(error, errno, "open directory", dir, NULL);
	}

	while (ok && (errno = 0, entry = readdir(stream)) != NULL)
	{
		const char *name = entry->d_name;

		if (!name_is_valid(name))
			continue;
		if (strcmp(name, FILESYNC_UNFINISHED) == 0)
			*unfinished = true;
		else if (filter == NULL || filter->filter == NULL ||
				 filter->filter(name, filter->arg))
			ok = walk_entry(fd, dir, name, callback, arg, error);
	}
	if (ok && errno != 0)
		ok = fail(error, errno, "read directory", dir, NULL);
	(void) closedir(stream);
	return ok;
}

/*
 * Set the error that says that a directory has the marker.
 */
static bool
fail_unfinished(FilesyncError *error, const char *dir)
{
	return fail_text(error, EBUSY, "directory \"%.1000s\" is unfinished", dir);
}

/*
 * Walk callback: put a file into the manifest.
 */
static bool
scan_file(const char *name, const struct stat *st, void *arg)
{
	ScanState  *scan = arg;
	FileRecord	record = {0};

	record.size = st->st_size;
	record.mtime = stat_mtime(st);
	record.origin = FILESYNC_ORIGIN_UNKNOWN;
	record.kept = KEPT_UNKNOWN;
	record.flags = mtime_is_racy(record.mtime, scan->now) ? RECORD_RACY : 0;
	if (table_find(&scan->manifest->names, name) != NO_INDEX)
		return true;			/* readdir() may tell a new name twice */
	if (!manifest_add(scan->manifest, name, &record))
		return fail_memory(scan->error);
	return true;
}

/*
 * Make the manifest of an open directory.  See filesync_scan().
 */
static FilesyncManifest *
scan_directory(int fd, const char *dir, const FilesyncOptions *options,
			   FilesyncError *error)
{
	ScanState	scan;
	bool		unfinished;

	scan.manifest = manifest_create();
	scan.now = current_time();
	scan.error = error;
	if (scan.manifest == NULL)
	{
		fail_memory(error);
		return NULL;
	}
	if (!walk_directory(fd, dir, options, scan_file, &scan, &unfinished,
						error) ||
		(unfinished && !fail_unfinished(error, dir)))
	{
		filesync_manifest_free(scan.manifest);
		return NULL;
	}
	return scan.manifest;
}

/*
 * Make the manifest of a directory: one stat per file that the filter, if
 * there is one, lets pass.  Files that disappear meanwhile are left out; a
 * directory with the marker is refused (EBUSY).  No file's origin is known.
 * Of a snapshot, use the manifest that copying it gave, and not a scan: it is
 * also right if the file system rounds times.
 * Returns true, and the manifest to be freed, or false with the error set.
 */
bool
filesync_scan(const char *dir, const FilesyncOptions *options,
			  FilesyncManifest **manifest, FilesyncError *error)
{
	int			fd = open_directory(dir, error);

	*manifest = NULL;
	if (fd < 0)
		return false;
	*manifest = scan_directory(fd, dir, options, error);
	close_quietly(fd);
	return *manifest != NULL;
}

/*
 * Whether the file of a snapshot still is what a file of its template was
 * found to be.  The record of a file that is racy now is never trusted, though
 * only a clock that was set back makes one that has the right origin.
 */
static bool
origin_matches(const FileRecord *source, const FileRecord *copy)
{
	return !(source->flags & RECORD_RACY) &&
		source->size == copy->size && source->mtime == copy->origin;
}

/*
 * Compare the manifest of a template, just scanned, with that of its snapshot,
 * and call back (unless callback is NULL) for each file that differs or can't
 * be told not to.  Returns how many do: with 0, the snapshot is the template
 * as of the scan.  No I/O.
 */
uint32_t
filesync_diff(const FilesyncManifest *source, const FilesyncManifest *copy,
			  FilesyncDiffCallback callback, void *arg)
{
	uint32_t	differences = 0;
	uint32_t	i;

	for (i = 0; i < source->names.count; i++)
	{
		const char *name = table_name(&source->names, i);
		uint32_t	index = table_find(&copy->names, name);

		if (index != NO_INDEX &&
			origin_matches(&source->records[i], &copy->records[index]))
			continue;
		differences++;
		if (callback != NULL)
			callback(index == NO_INDEX ? FILESYNC_MISSING : FILESYNC_CHANGED,
					 name, arg);
	}
	for (i = 0; i < copy->names.count; i++)
	{
		const char *name = table_name(&copy->names, i);

		if (table_find(&source->names, name) != NO_INDEX)
			continue;
		differences++;
		if (callback != NULL)
			callback(FILESYNC_EXTRA, name, arg);
	}
	return differences;
}

/*
 * Continue a checksum over more bytes.  Each step is a bijection of the state,
 * so that one wrong byte is always found.
 */
static uint64_t
checksum_bytes(uint64_t sum, const void *data, size_t len)
{
	const unsigned char *byte = data;
	size_t		i;

	for (i = 0; i < len; i++)
		sum = (sum ^ byte[i]) * UINT64_C(1099511628211);
	return sum;
}

/*
 * The checksum of a manifest's image, with the header's taken as 0.
 */
static uint64_t
image_checksum(const char *image, size_t len)
{
	ManifestHeader header;
	uint64_t	sum = UINT64_C(14695981039346656037);

	memcpy(&header, image, sizeof(header));
	header.checksum = 0;
	sum = checksum_bytes(sum, &header, sizeof(header));
	return checksum_bytes(sum, image + sizeof(header), len - sizeof(header));
}

/*
 * Write all of a buffer.  Returns false with errno set.
 */
static bool
write_all(int fd, const char *data, size_t len)
{
	while (len > 0)
	{
		ssize_t		n;

		RETRY(n, write(fd, data, len));
		if (n == 0)
			errno = ENOSPC;
		if (n <= 0)
			return false;
		data += n;
		len -= (size_t) n;
	}
	return true;
}

/*
 * Read until len bytes or the file's end.  Returns how many bytes, or -1 with
 * errno set.
 */
static ssize_t
read_all(int fd, char *data, size_t len)
{
	size_t		done = 0;

	while (done < len)
	{
		ssize_t		n;

		RETRY(n, read(fd, data + done, len - done));
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		done += (size_t) n;
	}
	return (ssize_t) done;
}

/*
 * fsync() an open file or directory.  Returns false with errno set.
 */
static bool
sync_fd(int fd)
{
	int			rc;

	RETRY(rc, fsync(fd));
	return rc == 0;
}

/*
 * Close a file that was written.  Interrupted or not, the descriptor is gone.
 * Returns false with errno set.
 */
static bool
close_written(int fd)
{
	return close(fd) == 0 || errno == EINTR;
}

/*
 * The bytes of a manifest's file, for free().  NULL if there is no memory.
 */
static char *
manifest_image(const FilesyncManifest *manifest, size_t *len)
{
	ManifestHeader header = {0};
	size_t		records_len = manifest->names.count * sizeof(FileRecord);
	char	   *image;

	*len = sizeof(header) + records_len + manifest->names.text_len;
	image = malloc(*len);
	if (image == NULL)
		return NULL;

	header.magic = MANIFEST_MAGIC;
	header.version = MANIFEST_VERSION;
	header.count = manifest->names.count;
	header.text_len = manifest->names.text_len;
	header.tag = manifest->tag;
	memcpy(image, &header, sizeof(header));
	if (header.count > 0)
	{
		memcpy(image + sizeof(header), manifest->records, records_len);
		memcpy(image + sizeof(header) + records_len, manifest->names.text,
			   manifest->names.text_len);
	}
	header.checksum = image_checksum(image, *len);
	memcpy(image, &header, sizeof(header));
	return image;
}

/*
 * Write a new file with this content.  An old one of the name is removed, not
 * written to: it may be a link to somewhere.  Returns false with the error set
 * and the file removed.
 */
static bool
write_new_file(const char *path, const char *data, size_t len, mode_t mode,
			   bool durable, FilesyncError *error)
{
	const char *what = NULL;
	int			save_errno;
	int			fd;

	(void) unlink(path);
	RETRY(fd, open(path, O_WRONLY | O_CREAT | O_EXCL | OPEN_FLAGS, mode));
	if (fd < 0)
		return fail(error, errno, "create file", path, NULL);

	if (!write_all(fd, data, len))
		what = "write to file";
	else if (durable && !sync_fd(fd))
		what = "fsync file";
	save_errno = errno;
	if (!close_written(fd) && what == NULL)
	{
		what = "close file";
		save_errno = errno;
	}
	if (what == NULL)
		return true;
	(void) unlink(path);
	return fail(error, save_errno, what, path, NULL);
}

/*
 * fsync() the directory that a path's last component is in.  Returns false
 * with the error set.
 */
static bool
sync_parent(const char *path, FilesyncError *error)
{
	const char *slash = strrchr(path, '/');
	char		dir[PATH_MAX] = ".";
	bool		ok;
	int			fd;

	if (slash != NULL)
		snprintf(dir, sizeof(dir), "%.*s", (int) (slash - path) + 1, path);
	RETRY(fd, open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	if (fd < 0)
		return fail(error, errno, "open directory", dir, NULL);
	ok = sync_fd(fd) || fail(error, errno, "fsync directory", dir, NULL);
	close_quietly(fd);
	return ok;
}

/*
 * Write a manifest to a file, atomically: to path with ".new" appended, then
 * renamed.  Only one process may do that at a time.  Options: file_mode, and
 * FILESYNC_FSYNC.
 * Returns false with the error set; then path has what it had, unless only the
 * last fsync failed.
 */
bool
filesync_manifest_write(const FilesyncManifest *manifest, const char *path,
						const FilesyncOptions *options, FilesyncError *error)
{
	bool		durable = options && (options->flags & FILESYNC_FSYNC);
	mode_t		mode = options && options->file_mode ? options->file_mode : 0600;
	char		new_path[PATH_MAX];
	char	   *image;
	size_t		len;
	bool		ok;

	if (snprintf(new_path, sizeof(new_path), "%s.new", path) >= PATH_MAX)
		return fail(error, ENAMETOOLONG, "create file", path, NULL);
	image = manifest_image(manifest, &len);
	if (image == NULL)
		return fail_memory(error);
	ok = write_new_file(new_path, image, len, mode, durable, error);
	free(image);
	if (!ok)
		return false;

	if (rename(new_path, path) < 0)
	{
		fail(error, errno, "rename to file", path, NULL);
		(void) unlink(new_path);
		return false;
	}
	return !durable || sync_parent(path, error);
}

/*
 * Read all of a file into memory.  Returns it, for free(), or NULL with the
 * error set.
 */
static char *
read_image(const char *path, size_t *len, FilesyncError *error)
{
	struct stat st;
	char	   *image = NULL;
	ssize_t		n;
	int			fd;

	RETRY(fd, open(path, O_RDONLY | OPEN_FLAGS));
	if (fd < 0)
	{
		fail(error, errno, "open file", path, NULL);
		return NULL;
	}
	if (fstat(fd, &st) < 0)
		fail(error, errno, "stat file", path, NULL);
	else if (!S_ISREG(st.st_mode) || st.st_size > MANIFEST_MAX_SIZE)
		fail_text(error, EBADMSG, "manifest \"%.1000s\" is damaged", path);
	else if ((image = malloc((size_t) st.st_size + 1)) == NULL)
		fail_memory(error);
	else if ((n = read_all(fd, image, (size_t) st.st_size)) < 0)
	{
		fail(error, errno, "read file", path, NULL);
		free(image);
		image = NULL;
	}
	else
		*len = (size_t) n;
	close_quietly(fd);
	return image;
}

/*
 * Whether an image is one that manifest_image() made, as far as lengths and
 * the checksum tell.  Fills the header.
 */
static bool
image_is_valid(const char *image, size_t len, ManifestHeader *header)
{
	if (len < sizeof(*header))
		return false;
	memcpy(header, image, sizeof(*header));
	if (header->magic != MANIFEST_MAGIC || header->version != MANIFEST_VERSION)
		return false;
	len -= sizeof(*header);
	if (len / sizeof(FileRecord) < header->count ||
		len - header->count * sizeof(FileRecord) != header->text_len)
		return false;
	return header->checksum ==
		image_checksum(image, len + sizeof(*header));
}

/*
 * Fill an empty manifest from an image whose checksum is right.  What could
 * not have been written is refused all the same.  Returns 0, or an errno.
 */
static int
manifest_parse(FilesyncManifest *manifest, const char *image,
			   const ManifestHeader *header)
{
	const char *record = image + sizeof(*header);
	const char *name = record + header->count * sizeof(FileRecord);
	const char *end = name + header->text_len;
	uint32_t	i;

	manifest->tag = header->tag;
	for (i = 0; i < header->count; i++)
	{
		FileRecord	copy;
		const char *name_end = memchr(name, '\0', (size_t) (end - name));

		memcpy(&copy, record, sizeof(copy));
		if (name_end == NULL || !name_is_valid(name) || copy.size < 0 ||
			(copy.flags & ~(uint32_t) RECORD_RACY) != 0 ||
			table_find(&manifest->names, name) != NO_INDEX)
			return EBADMSG;
		if (!manifest_add(manifest, name, &copy))
			return ENOMEM;
		name = name_end + 1;
		record += sizeof(copy);
	}
	return name == end ? 0 : EBADMSG;
}

/*
 * Read a manifest from a file.  Returns true, and the manifest to be freed, or
 * false with the error set: EBADMSG for a file that is no whole manifest.
 * error->source is false only if memory or descriptors are short.
 */
bool
filesync_manifest_read(const char *path, FilesyncManifest **manifest,
					   FilesyncError *error)
{
	ManifestHeader header;
	size_t		len = 0;
	char	   *image = read_image(path, &len, error);
	int			errnum = ENOMEM;

	*manifest = NULL;
	if (image == NULL)
		return blame_source(error);
	if (!image_is_valid(image, len, &header))
		errnum = EBADMSG;
	else if ((*manifest = manifest_create()) != NULL)
		errnum = manifest_parse(*manifest, image, &header);
	free(image);
	if (errnum == 0)
		return true;

	filesync_manifest_free(*manifest);
	*manifest = NULL;
	if (errnum == ENOMEM)
		return fail_memory(error);
	fail_text(error, errnum, "manifest \"%.1000s\" is damaged", path);
	return blame_source(error);
}

/*
 * The mtime that the copy of a file gets.  See the head of this file.
 */
static int64_t
copy_mtime(const SyncRun *run, const FileRecord *source)
{
	int			steps = run->options->mtime_steps;

	if (source->flags & RECORD_RACY)
		return run->now - FILESYNC_MTIME_OFFSET - FILESYNC_MTIME_OFFSET / 2;
	return source->mtime - (steps ? steps : 1) * FILESYNC_MTIME_OFFSET;
}

/*
 * Whether a file of the target, by its size and mtime, is an unchanged copy.
 */
static bool
mark_matches(const SyncRun *run, const FileRecord *source,
			 const struct stat *st)
{
	return !(source->flags & RECORD_RACY) && source->size == st->st_size &&
		copy_mtime(run, source) == stat_mtime(st);
}

/*
 * Ask the caller, after so many files or pieces of files, whether to go on.
 * Returns false with the error set if not.
 */
static bool
check_point(SyncRun *run, uint32_t files)
{
	uint32_t	every = run->options->check_every;

	run->unchecked += files;
	if (run->options->check == NULL ||
		run->unchecked < (every ? every : DEFAULT_CHECK_EVERY))
		return true;
	run->unchecked = 0;
	if (run->options->check(run->options->arg))
		return true;
	return fail_text(run->error, ECANCELED, "canceled while changing \"%.1000s\"",
					 run->target);
}

/*
 * The buffer for copying and comparing.  NULL, with the error set, if there is
 * no memory.
 */
static char *
run_buffer(SyncRun *run)
{
	if (run->buffer == NULL)
		run->buffer = malloc(2 * BUFFER_SIZE);
	if (run->buffer == NULL)
		fail_memory(run->error);
	return run->buffer;
}

/*
 * Set up a run, with nothing open.  options and stats may be NULL.
 */
static void
run_init(SyncRun *run, const char *source, const char *target,
		 const FilesyncOptions *options, FilesyncStats *stats,
		 FilesyncError *error)
{
	memset(run, 0, sizeof(*run));
	run->options = options ? options : &run->defaults;
	run->stats = stats ? stats : &run->unwanted;
	run->error = error;
	run->source = source;
	run->target = target;
	run->source_fd = -1;
	run->target_fd = -1;
	run->try_clone = !(run->options->flags & FILESYNC_NO_CLONE);
	/* The kernel, too, shares extents where it can. */
	run->try_kernel_copy = run->try_clone;
	run->now = current_time();
}

/*
 * Release all that a run holds, except for the copy's manifest.
 */
static void
run_end(SyncRun *run)
{
	close_quietly(run->source_fd);
	close_quietly(run->target_fd);
	filesync_manifest_free(run->own_manifest);
	filesync_names_free(run->extra);
	free(run->buffer);
	free(run->seen);
	free(run->changes);
}

/*
 * Refuse a directory that has the marker.  Returns false with the error set.
 */
static bool
refuse_unfinished(const SyncRun *run, int fd, const char *dir)
{
	struct stat st;
	int			rc;

	RETRY(rc, fstatat(fd, FILESYNC_UNFINISHED, &st, AT_SYMLINK_NOFOLLOW));
	if (rc == 0)
		return fail_unfinished(run->error, dir);
	if (errno != ENOENT)
		return fail(run->error, errno, "stat file", dir, FILESYNC_UNFINISHED);
	return true;
}

/*
 * Open the source, which must be finished.  Returns false with the error set.
 */
static bool
open_source_dir(SyncRun *run)
{
	run->source_fd = open_directory(run->source, run->error);
	if (run->source_fd < 0 ||
		!refuse_unfinished(run, run->source_fd, run->source))
		return blame_source(run->error);
	return true;
}

/*
 * Note a file to be made or rewritten.  Returns the change, good until the
 * next, or NULL with the error set.
 */
static Change *
plan_change(SyncRun *run, uint32_t index)
{
	Change	   *change;

	if (run->nchanges == run->changes_size)
	{
		size_t		size = run->changes_size ? run->changes_size * 2 : 32;
		Change	   *changes = realloc(run->changes, size * sizeof(Change));

		if (changes == NULL)
		{
			fail_memory(run->error);
			return NULL;
		}
		run->changes = changes;
		run->changes_size = size;
	}
	change = &run->changes[run->nchanges++];
	memset(change, 0, sizeof(*change));
	change->index = index;
	return change;
}

/*
 * Note a file to be made.  Returns false with the error set.
 */
static bool
plan_create(SyncRun *run, uint32_t index)
{
	Change	   *change = plan_change(run, index);

	if (change == NULL)
		return false;
	change->create = true;
	return true;
}

/*
 * Note a file to be rewritten, with the size it has now.  Returns false with
 * the error set.
 */
static bool
plan_rewrite(SyncRun *run, uint32_t index, int64_t old_size, bool compare)
{
	Change	   *change = plan_change(run, index);

	if (change == NULL)
		return false;
	change->old_size = old_size;
	change->compare = compare;
	return true;
}

/*
 * Note a file to be removed.  Returns false with the error set.
 */
static bool
plan_remove(SyncRun *run, const char *name)
{
	if (run->extra == NULL)
		run->extra = filesync_names_create();
	if (run->extra == NULL || !table_add(&run->extra->table, name))
		return fail_memory(run->error);
	return true;
}

/*
 * Walk callback: see what is to be done about one file of the target.
 */
static bool
plan_file(const char *name, const struct stat *st, void *arg)
{
	SyncRun    *run = arg;
	uint32_t	index = table_find(&run->manifest->names, name);

	run->stats->examined++;
	if (index == NO_INDEX)
		return plan_remove(run, name) && check_point(run, 1);
	if (run->seen != NULL)
		run->seen[index] = 1;
	if (!mark_matches(run, &run->manifest->records[index], st) &&
		!plan_rewrite(run, index, st->st_size, false))
		return false;
	return check_point(run, 1);
}

/*
 * See what is to be done about all of the target, by one stat per file.  Sets
 * run->marked if an earlier run left the marker.
 */
static bool
plan_directory(SyncRun *run)
{
	uint32_t	count = run->manifest->names.count;
	uint32_t	i;

	run->seen = calloc(count + 1, 1);
	if (run->seen == NULL)
		return fail_memory(run->error);
	if (!walk_directory(run->target_fd, run->target, NULL, plan_file, run,
						&run->marked, run->error))
		return false;
	for (i = 0; i < count; i++)
	{
		if (!run->seen[i] && !plan_create(run, i))
			return false;
	}
	return true;
}

/*
 * See what is to be done about one name, whether or not there is such a file.
 */
static bool
plan_name(SyncRun *run, const char *name)
{
	uint32_t	index = table_find(&run->manifest->names, name);
	struct stat st;
	int			rc;

	RETRY(rc, fstatat(run->target_fd, name, &st, AT_SYMLINK_NOFOLLOW));
	if (rc == 0 && S_ISREG(st.st_mode))
		return plan_file(name, &st, run);
	if (rc == 0)
		return fail_not_regular(run->error, run->target, name, &st);
	if (errno != ENOENT)
		return fail(run->error, errno, "stat file", run->target, name);

	run->stats->examined++;
	if (index != NO_INDEX && !plan_create(run, index))
		return false;
	return check_point(run, 1);
}

/*
 * Make the marker before the first change, if it is wanted, and durable if the
 * changes are to be.  Returns false with the error set.
 */
static bool
begin_changes(SyncRun *run)
{
	int			fd;

	if (run->marked || !(run->options->flags & FILESYNC_MARK))
		return true;
	RETRY(fd, openat(run->target_fd, FILESYNC_UNFINISHED,
					 O_WRONLY | O_CREAT | OPEN_FLAGS,
					 run->options->file_mode ? run->options->file_mode : 0600));
	if (fd < 0)
		return fail(run->error, errno, "create file", run->target,
					FILESYNC_UNFINISHED);
	run->marked = true;
	if (!close_written(fd))
		return fail(run->error, errno, "close file", run->target,
					FILESYNC_UNFINISHED);
	if ((run->options->flags & FILESYNC_FSYNC) && !sync_fd(run->target_fd))
		return fail(run->error, errno, "fsync directory", run->target, NULL);
	return true;
}

/*
 * Remove one file of the target; it may be gone.  Returns false with the error
 * set.
 */
static bool
remove_file(SyncRun *run, const char *name)
{
	int			rc;

	RETRY(rc, unlinkat(run->target_fd, name, 0));
	if (rc < 0 && errno != ENOENT)
		return fail(run->error, errno, "remove file", run->target, name);
	return true;
}

/*
 * Open a file of the source.  Returns the descriptor, or -1 with the error
 * set.
 */
static int
open_source_file(SyncRun *run, const char *name)
{
	int			fd;

	RETRY(fd, openat(run->source_fd, name, O_RDONLY | OPEN_FLAGS));
	if (fd < 0)
	{
		fail(run->error, errno, "open file", run->source, name);
		blame_source(run->error);
	}
	return fd;
}

/*
 * See that a file of the source still is what the manifest says, if nobody but
 * us writes to it.  in is its descriptor, or -1 if it is not open.  Returns false
 * with the error set: EAGAIN if it is another.
 */
static bool
check_source_file(SyncRun *run, int in, const char *name,
				  const FileRecord *record)
{
	struct stat st;
	int			rc;

	if (record->kept == KEPT_UNKNOWN)
		return true;
	if (in >= 0)
		RETRY(rc, fstat(in, &st));
	else
		RETRY(rc, fstatat(run->source_fd, name, &st, AT_SYMLINK_NOFOLLOW));
	if (rc < 0)
		fail(run->error, errno, "stat file", run->source, name);
	else if (!S_ISREG(st.st_mode))
		fail_not_regular(run->error, run->source, name, &st);
	else if (!(st.st_mode & S_IRUSR))
		fail_file(run->error, EACCES, run->source, name, "is not readable");
	else if (st.st_size != record->size || stat_mtime(&st) != record->kept)
		fail_file(run->error, EAGAIN, run->source, name, "has been changed");
	else
		return true;
	return blame_source(run->error);
}

/*
 * Open a file of the target for writing, or make it.  Returns the descriptor,
 * or -1 with the error set.
 */
static int
open_target_file(SyncRun *run, const char *name, bool create)
{
	int			flags = O_WRONLY | OPEN_FLAGS | (create ? O_CREAT | O_EXCL : 0);
	int			fd;

	RETRY(fd, openat(run->target_fd, name, flags,
					 run->options->file_mode ? run->options->file_mode : 0600));
	if (fd < 0)
		fail(run->error, errno, create ? "create file" : "open file",
			 run->target, name);
	return fd;
}

#ifdef __linux__

/*
 * Whether the error of an attempt to share or to copy in the kernel says that
 * it never works here.  EPERM comes from sandboxes that don't know the call.
 */
static bool
errno_is_unsupported(void)
{
	return errno == EOPNOTSUPP || errno == ENOTTY || errno == EXDEV ||
		errno == EINVAL || errno == ENOSYS || errno == EPERM;
}

#endif

/*
 * Share the source's extents, where the file system can.  Sets *copied to the
 * size that this made, or leaves it if it can't.  Returns false with the error
 * set.
 */
static bool
clone_content(SyncRun *run, int in, int out, const char *name, int64_t *copied)
{
#if defined(__linux__) && defined(FICLONE)
	struct stat st;
	int			rc;

	if (!run->try_clone)
		return true;
	RETRY(rc, ioctl(out, FICLONE, in));
	if (rc < 0)
	{
		if (!errno_is_unsupported())
			return fail(run->error, errno, "write to file", run->target, name);
		run->try_clone = false;
		return true;
	}
	if (fstat(out, &st) < 0)
		return fail(run->error, errno, "stat file", run->target, name);
	*copied = st.st_size;
#else
	(void) run, (void) in, (void) out, (void) name, (void) copied;
#endif
	return true;
}

/*
 * Copy inside the kernel, from and to where the descriptors stand, until size
 * bytes are copied or it can't be done.  Asks for one byte more than there
 * should be, to see a source that has grown.  Counts in *copied.  Returns
 * false with the error set.
 */
static bool
kernel_copy(SyncRun *run, int in, int out, const char *name, int64_t size,
			int64_t *copied)
{
#ifdef HAVE_COPY_IN_KERNEL
	while (run->try_kernel_copy && *copied < size)
	{
		int64_t		left = size - *copied;
		ssize_t		n;

		RETRY(n, copy_file_range(in, NULL, out, NULL,
								 left <= KERNEL_COPY_SIZE ?
								 (size_t) left + 1 : KERNEL_COPY_SIZE, 0));
		if (n < 0 && !errno_is_unsupported())
			return fail(run->error, errno, "write to file", run->target, name);
		if (n < 0)
			run->try_kernel_copy = false;
		if (n <= 0)
			break;
		*copied += n;
		if (*copied < size && !check_point(run, UINT16_MAX))
			return false;
	}
#else
	(void) run, (void) in, (void) out, (void) name, (void) size, (void) copied;
#endif
	return true;
}

/*
 * Same with read() and write(), which always can.
 */
static bool
buffer_copy(SyncRun *run, int in, int out, const char *name, int64_t size,
			int64_t *copied)
{
	while (*copied < size)
	{
		int64_t		left = size - *copied;
		char	   *buffer = run_buffer(run);
		ssize_t		n;

		if (buffer == NULL)
			return false;
		RETRY(n, read(in, buffer,
					  left <= BUFFER_SIZE ? (size_t) left + 1 : BUFFER_SIZE));
		if (n < 0)
		{
			fail(run->error, errno, "read file", run->source, name);
			return blame_source(run->error);
		}
		if (n == 0)
			break;
		if (!write_all(out, buffer, (size_t) n))
			return fail(run->error, errno, "write to file", run->target, name);
		*copied += n;
		if (*copied < size && !check_point(run, 1))
			return false;
	}
	return true;
}

/*
 * Copy a file's content, by the fastest way there is.  Returns false with the
 * error set: EAGAIN if the source hasn't got the size that its manifest says.
 */
static bool
copy_content(SyncRun *run, int in, int out, const char *name, int64_t size)
{
	int64_t		copied = 0;

	if (!clone_content(run, in, out, name, &copied) ||
		!kernel_copy(run, in, out, name, size, &copied) ||
		!buffer_copy(run, in, out, name, size, &copied))
		return false;
	if (copied != size)
	{
		fail_file(run->error, EAGAIN, run->source, name,
				  "is not as large as expected");
		return blame_source(run->error);
	}
	run->stats->bytes += (uint64_t) size;
	return true;
}

/*
 * Set the mtime of an open file of the target.  Returns false with the error
 * set.
 */
static bool
set_mtime(SyncRun *run, int fd, const char *name, int64_t mtime)
{
	struct timespec times[2];
	int64_t		ns = mtime % NANOSECONDS;
	int			rc;

	if (ns < 0)
		ns += NANOSECONDS;
	times[0].tv_sec = 0;
	times[0].tv_nsec = UTIME_OMIT;
	times[1].tv_sec = (time_t) ((mtime - ns) / NANOSECONDS);
	times[1].tv_nsec = (long) ns;
	RETRY(rc, futimens(fd, times));
	if (rc < 0)
		return fail(run->error, errno, "set times of file", run->target, name);
	return true;
}

/*
 * Let the copy's manifest, if there is one, say what mtime an open file of the
 * target has.  Returns false with the error set.
 */
static bool
note_kept(SyncRun *run, int fd, uint32_t index)
{
	struct stat st;

	if (run->copy == NULL)
		return true;
	if (fstat(fd, &st) < 0)
		return fail(run->error, errno, "stat file", run->target,
					table_name(&run->manifest->names, index));
	run->copy->records[index].kept = stat_mtime(&st);
	return true;
}

/*
 * Make an open file of the target what its source is, times included.  in is
 * -1 if the source is empty.  Returns false with the error set.
 */
static bool
fill_file(SyncRun *run, int in, int out, const Change *change)
{
	const FileRecord *record = &run->manifest->records[change->index];
	const char *name = table_name(&run->manifest->names, change->index);
	int			rc;

	if (change->old_size > record->size)
	{
		RETRY(rc, ftruncate(out, record->size));
		if (rc < 0)
			return fail(run->error, errno, "truncate file", run->target, name);
	}
	if (in >= 0 && !copy_content(run, in, out, name, record->size))
		return false;
#ifdef SYNC_FILE_RANGE_WRITE
	/* Start writing now what sync_changes() will wait for. */
	if ((run->options->flags & FILESYNC_FSYNC) && record->size > 0)
		(void) sync_file_range(out, 0, 0, SYNC_FILE_RANGE_WRITE);
#endif
	return set_mtime(run, out, name, copy_mtime(run, record)) &&
		note_kept(run, out, change->index);
}

/*
 * Make or rewrite one file of the target.  A rewritten one keeps its inode:
 * whoever has it open goes on seeing the file of that name.  Returns false
 * with the error set.
 */
static bool
sync_file(SyncRun *run, const Change *change)
{
	const FileRecord *record = &run->manifest->records[change->index];
	const char *name = table_name(&run->manifest->names, change->index);
	int			in = -1;
	int			out = -1;
	bool		ok;

	if (record->size > 0 && (in = open_source_file(run, name)) < 0)
		return false;
	ok = check_source_file(run, in, name, record) &&
		(out = open_target_file(run, name, change->create)) >= 0 &&
		fill_file(run, in, out, change);
	close_quietly(in);
	if (out >= 0 && !close_written(out) && ok)
		ok = fail(run->error, errno, "close file", run->target, name);
	return ok;
}

/*
 * Read two open files side by side, to see whether both have the same size
 * bytes and no more.  Returns false with the error set.
 */
static bool
compare_content(SyncRun *run, int in, int out, const char *name, int64_t size,
				bool *same)
{
	char	   *buffer = run_buffer(run);
	int64_t		done = 0;
	ssize_t		n;
	ssize_t		m;

	*same = false;
	if (buffer == NULL)
		return false;
	do
	{
		n = read_all(in, buffer, BUFFER_SIZE);
		if (n < 0)
			return fail(run->error, errno, "read file", run->source, name);
		m = read_all(out, buffer + BUFFER_SIZE, BUFFER_SIZE);
		if (m < 0)
			return fail(run->error, errno, "read file", run->target, name);
		if (n != m || memcmp(buffer, buffer + BUFFER_SIZE, (size_t) n) != 0)
			return true;
		done += n;
		if (!check_point(run, 1))
			return false;
	} while (n > 0);
	*same = (done == size);
	return true;
}

/*
 * Let the copy's manifest say that a file of the target keeps its mtime, as it
 * was set and as the file system shows it.
 */
static void
keep_mtime(SyncRun *run, uint32_t index)
{
	const char *name = table_name(&run->manifest->names, index);
	uint32_t	old = table_find(&run->old_copy->names, name);

	run->copy->records[index].mtime = run->old_copy->records[old].mtime;
	run->copy->records[index].kept = run->old_copy->records[old].kept;
}

/*
 * See whether a file that is to be rewritten has the right content already, in
 * which case it keeps its mtime.  Returns false with the error set.
 */
static bool
keep_if_same(SyncRun *run, const Change *change, bool *same)
{
	const FileRecord *record = &run->manifest->records[change->index];
	const char *name = table_name(&run->manifest->names, change->index);
	int			in = open_source_file(run, name);
	int			out = -1;
	bool		ok = in >= 0;

	*same = false;
	if (ok)
	{
		RETRY(out, openat(run->target_fd, name, O_RDONLY | OPEN_FLAGS));
		ok = out >= 0 ||
			fail(run->error, errno, "open file", run->target, name);
	}
	ok = ok && compare_content(run, in, out, name, record->size, same);
	close_quietly(in);
	close_quietly(out);
	if (ok && *same)
	{
		run->stats->compared++;
		keep_mtime(run, change->index);
	}
	return ok;
}

/*
 * fsync() every file that was made or rewritten.  Only after all are written:
 * a file system with a journal then does most of the work in the first call.
 * Returns false with the error set.
 */
static bool
sync_changes(SyncRun *run)
{
	size_t		i;

	for (i = 0; i < run->nchanges; i++)
	{
		const char *name = table_name(&run->manifest->names,
									  run->changes[i].index);
		int			fd = open_target_file(run, name, false);
		bool		ok;

		if (fd < 0)
			return false;
		ok = sync_fd(fd) ||
			fail(run->error, errno, "fsync file", run->target, name);
		if (!close_written(fd) && ok)
			ok = fail(run->error, errno, "close file", run->target, name);
		if (!ok || !check_point(run, 1))
			return false;
	}
	return true;
}

/*
 * fsync() the target's directory and, if it is new, the one that it is in.
 * Returns false with the error set.
 */
static bool
sync_target_dir(SyncRun *run)
{
	bool		ok;
	int			fd;

	if (!sync_fd(run->target_fd))
		return fail(run->error, errno, "fsync directory", run->target, NULL);
	if (!run->made_target)
		return true;
	RETRY(fd, openat(run->target_fd, "..",
					 O_RDONLY | O_DIRECTORY | OPEN_FLAGS));
	if (fd < 0)
		return fail(run->error, errno, "open directory", run->target, "..");
	ok = sync_fd(fd) ||
		fail(run->error, errno, "fsync directory", run->target, "..");
	close_quietly(fd);
	return ok;
}

/*
 * After the last change: make it all durable, if wanted, then take the marker
 * away.  Returns false with the error set.
 */
static bool
end_changes(SyncRun *run)
{
	bool		durable = (run->options->flags & FILESYNC_FSYNC) != 0;

	if (durable && (!sync_changes(run) || !sync_target_dir(run)))
		return false;
	if (!run->marked)
		return true;
	if (!remove_file(run, FILESYNC_UNFINISHED))
		return false;
	if (durable && !sync_fd(run->target_fd))
		return fail(run->error, errno, "fsync directory", run->target, NULL);
	return true;
}

/*
 * Remove the files that are to go.  First, since it makes room for the others.
 * Returns false with the error set.
 */
static bool
remove_extra(SyncRun *run)
{
	uint32_t	i;

	for (i = 0; run->extra != NULL && i < run->extra->table.count; i++)
	{
		run->stats->removed++;
		if (!begin_changes(run) ||
			!remove_file(run, table_name(&run->extra->table, i)) ||
			!check_point(run, 1))
			return false;
	}
	return true;
}

/*
 * Do what is planned.  Returns false with the error set.
 */
static bool
apply_changes(SyncRun *run)
{
	size_t		kept = 0;
	size_t		i;

	if (!remove_extra(run))
		return false;
	for (i = 0; i < run->nchanges; i++)
	{
		Change	   *change = &run->changes[i];
		bool		same = false;

		if (change->compare && !keep_if_same(run, change, &same))
			return false;
		if (same)
			continue;
		if (change->create)
			run->stats->created++;
		else
			run->stats->copied++;
		if (!begin_changes(run) || !sync_file(run, change) ||
			!check_point(run, 1))
			return false;
		run->changes[kept++] = *change;
	}
	run->nchanges = kept;
	if (kept == 0 && run->extra == NULL && !run->marked)
		return true;
	return end_changes(run);
}

/*
 * Make the manifest of the target as it will be if all goes well.  Returns
 * false with the error set.
 */
static bool
make_copy_manifest(SyncRun *run)
{
	const FilesyncManifest *manifest = run->manifest;
	uint32_t	i;

	run->copy = manifest_create();
	if (run->copy == NULL)
		return fail_memory(run->error);
	for (i = 0; i < manifest->names.count; i++)
	{
		const FileRecord *source = &manifest->records[i];
		FileRecord	record = {0};

		record.size = source->size;
		record.mtime = copy_mtime(run, source);
		record.origin = source->mtime;
		if (source->flags & RECORD_RACY)
			record.origin = FILESYNC_ORIGIN_UNKNOWN;
		record.kept = KEPT_UNKNOWN;
		if (!manifest_add(run->copy, table_name(&manifest->names, i), &record))
			return fail_memory(run->error);
	}
	return true;
}

/*
 * Pass the copy's manifest on to a caller who wants it, if all went well; else
 * free it.
 */
static void
give_copy_manifest(SyncRun *run, bool ok, FilesyncManifest **copy)
{
	if (!ok)
	{
		filesync_manifest_free(run->copy);
		run->copy = NULL;
	}
	if (copy != NULL)
		*copy = run->copy;
}

/*
 * Walk callback that accepts no file.
 */
static bool
refuse_file(const char *name, const struct stat *st, void *arg)
{
	SyncRun    *run = arg;

	(void) name;
	(void) st;
	return fail(run->error, ENOTEMPTY, "copy into directory", run->target,
				NULL);
}

/*
 * Make the target's directory, or accept an empty one, and open it.  Returns
 * false with the error set.
 */
static bool
make_target_dir(SyncRun *run)
{
	mode_t		mode = run->options->dir_mode ? run->options->dir_mode : 0700;
	bool		unfinished;
	int			rc;

	RETRY(rc, mkdir(run->target, mode));
	if (rc < 0 && errno != EEXIST)
		return fail(run->error, errno, "create directory", run->target, NULL);
	run->made_target = (rc == 0);
	run->target_fd = open_directory(run->target, run->error);
	if (run->target_fd < 0)
		return false;
	if (run->made_target)
		return true;
	if (!walk_directory(run->target_fd, run->target, NULL, refuse_file, run,
						&unfinished, run->error))
		return false;
	return !unfinished || fail_unfinished(run->error, run->target);
}

/*
 * Plan to make all files of the manifest.  Returns false with the error set.
 */
static bool
plan_everything(SyncRun *run)
{
	uint32_t	i;

	for (i = 0; i < run->manifest->names.count; i++)
	{
		if (!plan_create(run, i))
			return false;
		run->stats->examined++;
	}
	return true;
}

/*
 * Copy a directory to one that does not exist or is empty.
 *
 * manifest is the source's; if NULL, the source is scanned first, through the
 * options' filter.  The files are opened by the manifest's names, and one that
 * is gone by then is an error (ENOENT), as is one of another size (EAGAIN): a
 * manifest of what is no longer there is no good to the caller either.
 * If copy is not NULL, it gets the target's manifest, to be freed.
 *
 * Returns false with the error set.  Then the target is missing, empty, or the
 * beginning of a copy, with the marker if it was wanted: filesync_remove_dir()
 * takes it away.
 */
bool
filesync_copy_dir(const char *source, const FilesyncManifest *manifest,
				  const char *target, const FilesyncOptions *options,
				  FilesyncManifest **copy, FilesyncStats *stats,
				  FilesyncError *error)
{
	SyncRun		run;
	bool		ok;

	run_init(&run, source, target, options, stats, error);
	ok = open_source_dir(&run);
	if (ok && manifest == NULL)
	{
		run.own_manifest = scan_directory(run.source_fd, source, run.options,
										  error);
		manifest = run.own_manifest;
		ok = manifest != NULL;
	}
	run.manifest = manifest;
	ok = ok && (copy == NULL || make_copy_manifest(&run)) &&
		plan_everything(&run) && make_target_dir(&run) && apply_changes(&run);
	/* Nothing was made in it if that succeeds. */
	if (!ok && run.made_target)
		(void) rmdir(target);
	give_copy_manifest(&run, ok, copy);
	run_end(&run);
	return ok;
}

/*
 * Report whether the files of a private directory, by one stat of each, are what
 * its manifest says, which a copy into it gave: those with these names, or all if
 * names is NULL.  False, with the error set, if not, or if that can't be found
 * out; error->source tells which.
 */
bool
filesync_is_intact(const char *dir, const FilesyncManifest *manifest,
				   const FilesyncNames *names, FilesyncError *error)
{
	SyncRun		run;
	uint32_t	n = names ? filesync_names_count(names) : manifest->names.count;
	bool		ok;

	run_init(&run, dir, dir, NULL, NULL, error);
	ok = open_source_dir(&run);
	for (uint32_t i = 0; ok && i < n; i++)
	{
		const char *name = names ? filesync_names_get(names, i) :
			table_name(&manifest->names, i);
		uint32_t	index = names ? table_find(&manifest->names, name) : i;

		if (index != NO_INDEX)
			ok = check_source_file(&run, -1, name, &manifest->records[index]);
	}
	run_end(&run);
	return ok;
}

/*
 * Compare manifests to see which files of a snapshot might differ from their
 * template's.  Returns false with the error set.
 */
static bool
plan_refresh(SyncRun *run)
{
	const FilesyncManifest *manifest = run->manifest;
	const FilesyncManifest *old_copy = run->old_copy;
	bool		ok = true;
	uint32_t	i;

	for (i = 0; ok && i < manifest->names.count; i++)
	{
		const FileRecord *record = &manifest->records[i];
		uint32_t	old = table_find(&old_copy->names,
									 table_name(&manifest->names, i));

		run->stats->examined++;
		if (old == NO_INDEX)
			ok = plan_create(run, i);
		else if (origin_matches(record, &old_copy->records[old]))
			keep_mtime(run, i);
		else
			ok = plan_rewrite(run, i, INT64_MAX,
							  record->size == old_copy->records[old].size);
	}
	for (i = 0; ok && i < old_copy->names.count; i++)
	{
		const char *name = table_name(&old_copy->names, i);

		if (table_find(&manifest->names, name) == NO_INDEX)
			ok = plan_remove(run, name);
	}
	return ok;
}

/*
 * Bring a snapshot up to date with its template, whose manifest has just been
 * scanned.  old_copy is the snapshot's own, as it is on disk: no file of the
 * snapshot is looked at that these say is unchanged.  A file that might have
 * changed but is as large as before is read first, and left alone if it is the
 * same: if the counters then say that nothing was copied, created or removed,
 * the snapshot's content is what it was, with fewer files of unknown origin.
 *
 * copy gets the new manifest, to be freed; old_copy is left as it was.
 * Returns false with the error set.  Then the snapshot is good for nothing,
 * unless the counters say that nothing was copied, created or removed, and it
 * hasn't got the marker.
 */
bool
filesync_refresh(const char *source, const FilesyncManifest *manifest,
				 const char *target, const FilesyncManifest *old_copy,
				 const FilesyncOptions *options, FilesyncManifest **copy,
				 FilesyncStats *stats, FilesyncError *error)
{
	SyncRun		run;
	bool		ok;

	run_init(&run, source, target, options, stats, error);
	run.manifest = manifest;
	run.old_copy = old_copy;
	ok = open_source_dir(&run) &&
		(run.target_fd = open_directory(target, error)) >= 0 &&
		refuse_unfinished(&run, run.target_fd, target) &&
		make_copy_manifest(&run) && plan_refresh(&run) &&
		apply_changes(&run);
	give_copy_manifest(&run, ok, copy);
	run_end(&run);
	return ok;
}

/*
 * Bring a directory to the content of another with this manifest, by one stat
 * per file of the target: what differs is rewritten in place, what is missing
 * is made, what is extra is removed.  A marker of an earlier run doesn't
 * matter, and is gone afterwards.  Nobody may write to either directory.
 *
 * Whoever watches the target sees all of this, too: drain the watch afterwards
 * and forget what it tells.
 *
 * Returns false with the error set.  Then the target is unusable, unless this
 * or filesync_remove_dir() succeeds on it.
 */
bool
filesync_restore_full(const char *source, const FilesyncManifest *manifest,
					  const char *target, const FilesyncOptions *options,
					  FilesyncStats *stats, FilesyncError *error)
{
	SyncRun		run;
	bool		ok;

	run_init(&run, source, target, options, stats, error);
	run.manifest = manifest;
	ok = open_source_dir(&run) &&
		(run.target_fd = open_directory(target, error)) >= 0 &&
		plan_directory(&run) && apply_changes(&run);
	run_end(&run);
	return ok;
}

/*
 * The same, but only the files with these names are looked at: all that may
 * have changed since the target last had the manifest's content.  A target
 * with the marker is refused (EBUSY), since the names can't tell what an
 * earlier run left undone.
 */
bool
filesync_restore_changed(const char *source, const FilesyncManifest *manifest,
						 const char *target, const FilesyncNames *names,
						 const FilesyncOptions *options, FilesyncStats *stats,
						 FilesyncError *error)
{
	SyncRun		run;
	uint32_t	i;
	bool		ok;

	run_init(&run, source, target, options, stats, error);
	run.manifest = manifest;
	ok = open_source_dir(&run) &&
		(run.target_fd = open_directory(target, error)) >= 0 &&
		refuse_unfinished(&run, run.target_fd, target);
	for (i = 0; ok && i < names->table.count; i++)
	{
		const char *name = table_name(&names->table, i);

		/* A watch also sees our own marker come and go. */
		if (strcmp(name, FILESYNC_UNFINISHED) != 0)
			ok = plan_name(&run, name);
	}
	ok = ok && apply_changes(&run);
	run_end(&run);
	return ok;
}

/*
 * Walk callback: this file is to be removed.
 */
static bool
remove_later(const char *name, const struct stat *st, void *arg)
{
	(void) st;
	return plan_remove(arg, name);
}

/*
 * Remove all files of an open directory, the marker last, so that it holds as
 * long as a part is there.  Returns false with the error set.
 */
static bool
remove_content(SyncRun *run)
{
	bool		unfinished;

	return walk_directory(run->target_fd, run->target, NULL, remove_later, run,
						  &unfinished, run->error) &&
		remove_extra(run) &&
		(!unfinished || remove_file(run, FILESYNC_UNFINISHED));
}

/*
 * Remove a directory and the files in it.  None of them, if there is something
 * else in it; if the directory is missing, that is fine.  Makes no marker: it
 * must also work on a full disk.
 * Returns false with the error set, and may then be called again.
 */
bool
filesync_remove_dir(const char *dir, const FilesyncOptions *options,
					FilesyncStats *stats, FilesyncError *error)
{
	FilesyncOptions unmarked = {0};
	SyncRun		run;
	bool		ok;
	int			rc;

	if (options != NULL)
		unmarked = *options;
	unmarked.flags &= ~FILESYNC_MARK;
	run_init(&run, dir, dir, &unmarked, stats, error);
	run.target_fd = open_directory(dir, error);
	if (run.target_fd < 0)
		return error->saved_errno == ENOENT;
	ok = remove_content(&run);
	run_end(&run);
	if (!ok)
		return false;

	RETRY(rc, rmdir(dir));
	if (rc < 0 && errno != ENOENT)
		return fail(error, errno, "remove directory", dir, NULL);
	return !(unmarked.flags & FILESYNC_FSYNC) || sync_parent(dir, error);
}

#ifdef __linux__

/*
 * What to hear of a directory.  Every way to change a file's content through
 * a system call is an IN_MODIFY: write, pwrite, writev, truncation, fallocate,
 * copying and sharing in the kernel.  It has to be IN_MODIFY and not only
 * IN_CLOSE_WRITE, because the server's processes keep files open.  The others
 * are about names.  IN_ATTRIB is left out: owners and permissions are no
 * content.  (Linux calls it an IN_MODIFY if only the mtime is set.)
 *
 * Not heard of are writes through a shared mapping, which PostgreSQL doesn't
 * make of relation files, writes through a hard link in another directory, and
 * writes by another host.  The full comparison sees these.
 */
#define WATCH_MASK 	(IN_MODIFY | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | 	 IN_DELETE_SELF | IN_MOVE_SELF | 	 IN_ONLYDIR | IN_DONT_FOLLOW | IN_EXCL_UNLINK)

/*
 * Start watching, with no directory yet.  Returns a descriptor that becomes
 * readable when there is something to drain, or -1 with the error set: EMFILE
 * if the user has too many of them already.
 */
int
filesync_watch_open(FilesyncError *error)
{
	int			fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

	if (fd < 0)
		fail_text(error, errno, "could not initialize inotify: %s",
				  strerror(errno));
	return fd;
}

/*
 * Stop watching all directories.
 */
void
filesync_watch_close(int fd)
{
	close_quietly(fd);
}

/*
 * Watch a directory.  What is written to it from now on is told; so bring it
 * to a known content afterwards, or make sure that nobody writes until then.
 * Returns the number that the directory's events will carry, or -1 with the
 * error set: ENOSPC if the user has too many of them already.  Numbers are not
 * used again while fd is open.
 */
int
filesync_watch_add(int fd, const char *dir, FilesyncError *error)
{
	int			wd;

	RETRY(wd, inotify_add_watch(fd, dir, WATCH_MASK));
	if (wd < 0)
		fail(error, errno, "watch directory", dir, NULL);
	return wd;
}

/*
 * Stop watching a directory.  Events that are under way may still arrive, so
 * the caller ignores those with a number that it doesn't know.  Nothing to do
 * is fine: the directory may be gone, and the watch with it.
 * Returns false with the error set.
 */
bool
filesync_watch_remove(int fd, int wd, FilesyncError *error)
{
	if (inotify_rm_watch(fd, wd) == 0 || errno == EINVAL)
		return true;
	return fail_text(error, errno, "could not remove inotify watch: %s",
					 strerror(errno));
}

/*
 * Pass one event on.
 */
static void
tell_event(const struct inotify_event *event, const char *name,
		   FilesyncWatchCallback callback, void *arg)
{
	if (event->mask & IN_Q_OVERFLOW)
		callback(-1, FILESYNC_OVERFLOW, NULL, arg);
	else if ((event->mask & (IN_IGNORED | IN_UNMOUNT | IN_DELETE_SELF |
							 IN_MOVE_SELF)) || event->len == 0)
		callback(event->wd, FILESYNC_GONE, NULL, arg);
	else
		callback(event->wd,
				 (event->mask & IN_MODIFY) ? FILESYNC_NAME : FILESYNC_ENTRY,
				 name, arg);
}

/*
 * Pass on all that happened before this call, and perhaps a little more.  A
 * write is told by the time that write() returns, so call this when those who
 * write have ended.  What the callback must make of the events:
 *
 * FILESYNC_NAME: the name belongs to the change set of wd.
 * FILESYNC_ENTRY: so it does, and what has this name now may be another file
 * than before, or none.
 * FILESYNC_GONE: the change set of wd is of no use any more.  The directory was
 * removed, renamed or unmounted, or it is the echo of filesync_watch_remove().
 * May come more than once.
 * FILESYNC_OVERFLOW: no change set is of use any more (wd is -1).
 *
 * Returns false with the error set; all change sets are of no use then.
 */
bool
filesync_watch_drain(int fd, FilesyncWatchCallback callback, void *arg,
					 FilesyncError *error)
{
	int			pending = 0;

	/* Not until it is empty: others may go on writing for ever. */
	if (ioctl(fd, FIONREAD, &pending) < 0)
		return fail_text(error, errno, "could not query inotify: %s",
						 strerror(errno));
	while (pending > 0)
	{
		char		buffer[16 * 1024];
		struct inotify_event event;
		ssize_t		n;
		ssize_t		i;

		RETRY(n, read(fd, buffer, sizeof(buffer)));
		if (n == 0 || (n < 0 && errno == EAGAIN))
			break;
		if (n < 0)
			return fail_text(error, errno, "could not read from inotify: %s",
							 strerror(errno));
		for (i = 0; i < n; i += (ssize_t) (sizeof(event) + event.len))
		{
			memcpy(&event, buffer + i, sizeof(event));
			tell_event(&event, buffer + i + sizeof(event), callback, arg);
		}
		pending -= (int) n;
	}
	return true;
}

#else							/* !__linux__ */

/*
 * Without inotify every restore is a full comparison: watching fails, with
 * ENOSYS, and the rest is never reached.
 */
int
filesync_watch_open(FilesyncError *error)
{
	fail_text(error, ENOSYS, "watching directories is not supported here");
	return -1;
}

void
filesync_watch_close(int fd)
{
	(void) fd;
}

int
filesync_watch_add(int fd, const char *dir, FilesyncError *error)
{
	(void) fd;
	fail(error, ENOSYS, "watch directory", dir, NULL);
	return -1;
}

bool
filesync_watch_remove(int fd, int wd, FilesyncError *error)
{
	(void) fd;
	(void) wd;
	return fail_text(error, ENOSYS,
					 "watching directories is not supported here");
}

bool
filesync_watch_drain(int fd, FilesyncWatchCallback callback, void *arg,
					 FilesyncError *error)
{
	(void) callback;
	(void) arg;
	return filesync_watch_remove(fd, -1, error);
}

#endif							/* __linux__ */
