/*-------------------------------------------------------------------------
 *
 * filesync_internal.h
 *	  Declarations shared by filesync.c and the files beside it.
 *
 * Plain POSIX: no header of PostgreSQL here.  Functions of fileio.c have
 * names in fs_; those that can fail return false, or -1, with the error set.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_FILESYNC_INTERNAL_H
#define TESTDB_FILESYNC_INTERNAL_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "filesync.h"

/*
 * Flags of every open.  O_NONBLOCK does nothing to a regular file, but keeps
 * us from waiting forever for the other side of a pipe that replaced it.
 */
#define OPEN_FLAGS (O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)

#define NANOSECONDS INT64_C(1000000000)

#define NO_INDEX UINT32_MAX

/* Repeat a call until it is not interrupted by a signal. */
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

/* A file in a manifest; part of the file format. */
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

/* A file to be created or rewritten. */
typedef struct Change
{
	uint32_t	index;			/* in the manifest */
	bool		create;
	bool		compare;		/* leave it if its content is right */
	int64_t		old_size;		/* maximum size of the file to be rewritten */
} Change;

/* One call of the functions that change a directory. */
typedef struct SyncRun
{
	const FilesyncOptions *options;
	FilesyncOptions defaults;	/* used if the caller has no options */
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
	int64_t		now;			/* before anything was read */
	uint32_t	unchecked;		/* files since the last check */
	char	   *buffer;			/* 2 * BUFFER_SIZE, or NULL */
	unsigned char *seen;		/* one byte per file of the manifest */
	FilesyncNames *extra;		/* to be removed */
	Change	   *changes;
	size_t		nchanges;
	size_t		changes_size;	/* allocated */
} SyncRun;

/*
 * Callback of fs_walk_directory() for each file; false, with the error set,
 * ends the walk.
 */
typedef bool (*WalkCallback) (const char *name, const struct stat *st,
							  void *arg);

/* A walk through a directory. */
typedef struct Walk
{
	int			fd;				/* of the directory */
	const char *dir;			/* its path, for messages */
	const FilesyncOptions *options; /* whose filter hides names; or NULL */
	WalkCallback callback;
	void	   *arg;			/* for the callback */
	bool		unfinished;		/* set: the directory has the marker */
	FilesyncError *error;
} Walk;

/* The content of one file that is copied to, or compared with, another. */
typedef struct Transfer
{
	int			in;				/* descriptors, at the beginning */
	int			out;
	const char *name;			/* of both, for messages */
	int64_t		size;			/* that both should have */
	int64_t		copied;			/* bytes so far */
} Transfer;

/* fileio.c */
extern bool fs_fail(FilesyncError *error, int errnum, const char *what,
					const char *dir, const char *name);
extern bool fs_fail_file(FilesyncError *error, int errnum, const char *dir,
						 const char *name, const char *what);
extern bool fs_fail_text(FilesyncError *error, int errnum, const char *format,
						 ...) PRINTF_ARGS(3, 4);
extern bool fs_fail_memory(FilesyncError *error);
extern bool fs_fail_not_regular(FilesyncError *error, const char *dir,
								const char *name, const struct stat *st);
extern bool fs_fail_unfinished(FilesyncError *error, const char *dir);
extern bool fs_blame_source(FilesyncError *error);
extern void fs_close_quietly(int fd);
extern bool fs_close_written(int fd);
extern int64_t fs_current_time(void);
extern int64_t fs_stat_mtime(const struct stat *st);
extern bool fs_mtime_is_racy(int64_t mtime, int64_t now);
extern bool fs_name_is_valid(const char *name);
extern int	fs_open_directory(const char *dir, FilesyncError *error);
extern bool fs_walk_directory(Walk *walk);
extern bool fs_write_all(int fd, const char *data, size_t len);
extern ssize_t fs_read_all(int fd, char *data, size_t len);
extern bool fs_sync_fd(int fd);
extern bool fs_sync_parent(const char *path, FilesyncError *error);

/* manifest.c */
extern const char *table_name(const NameTable *table, uint32_t index);
extern uint32_t table_find(const NameTable *table, const char *name);
extern bool table_add(NameTable *table, const char *name);
extern void table_free(NameTable *table);
extern FilesyncManifest *manifest_create(void);
extern bool manifest_add(FilesyncManifest *manifest, const char *name,
						 const FileRecord *record);
extern FilesyncManifest *scan_directory(int fd, const char *dir,
										const FilesyncOptions *options,
										FilesyncError *error);
extern bool origin_matches(const FileRecord *source, const FileRecord *copy);

/* filecopy.c */
extern bool check_point(SyncRun *run, uint32_t files);
extern bool copy_content(SyncRun *run, Transfer *transfer);
extern bool compare_content(SyncRun *run, const Transfer *transfer, bool *same);

#endif							/* TESTDB_FILESYNC_INTERNAL_H */
