/*-------------------------------------------------------------------------
 *
 * filesync.h
 *	  Bringing one directory to the content of another.
 *
 * Plain POSIX: no header of PostgreSQL here, in filesync.c, or in the files
 * beside it that share filesync_internal.h.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_FILESYNC_H
#define TESTDB_FILESYNC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Name of the file that marks its directory as partly changed.  Empty and
 * without a dot: pg_checksums reads every file of a database's directory, and
 * fails on a suffix that is not a segment number.
 */
#define FILESYNC_UNFINISHED "testdb_unfinished"

/* Ten years of 365 days, in nanoseconds: how much older a copy's mtime is. */
#define FILESYNC_MTIME_OFFSET INT64_C(315360000000000000)

/* An mtime younger than this, in nanoseconds, may still hide a write. */
#define FILESYNC_RACY_AGE INT64_C(1000000000)

/* Same for a file system that seems to keep whole seconds only. */
#define FILESYNC_RACY_AGE_COARSE INT64_C(3000000000)

/* FilesyncFile.origin if it is unknown what the file is equal to. */
#define FILESYNC_ORIGIN_UNKNOWN INT64_MIN

/* Options' flags */
#define FILESYNC_FSYNC		0x01	/* changes are durable on return */
#define FILESYNC_MARK		0x02	/* keep FILESYNC_UNFINISHED while changing */
#define FILESYNC_NO_CLONE	0x04	/* do not share extents with the source */

/* The reason of a failure; set by a function that fails. */
typedef struct FilesyncError
{
	int			saved_errno;	/* never 0 */
	bool		source;			/* the source cannot be read, or differs from
								 * its manifest */
	char		message[1400];	/* complete, without a period */
} FilesyncError;

/*
 * Counts of what was done, or begun by a call that failed.  Calls add to
 * them.
 */
typedef struct FilesyncStats
{
	uint64_t	examined;		/* files or names examined */
	uint64_t	compared;		/* files found equal by reading them */
	uint64_t	copied;			/* files rewritten in place */
	uint64_t	created;
	uint64_t	removed;
	uint64_t	bytes;			/* copied or shared, of both kinds of files */
} FilesyncStats;

/*
 * Both are called between files, and must return: a longjmp (an ereport, a
 * CHECK_FOR_INTERRUPTS) would leak descriptors and memory.  So a check
 * reports whether an interrupt is pending, and the caller of filesync handles
 * it.
 */
typedef bool (*FilesyncFilter) (const char *name, void *arg);
typedef bool (*FilesyncCheck) (void *arg);

/* All zeroes, or a NULL pointer instead, are the defaults. */
typedef struct FilesyncOptions
{
	int			flags;
	int			mtime_steps;	/* FILESYNC_MTIME_OFFSETs to go back; 0 means
								 * 1 */
	mode_t		file_mode;		/* of files made; 0 means 0600 */
	mode_t		dir_mode;		/* of directories made; 0 means 0700 */
	uint32_t	check_every;	/* files between checks; 0 means 64 */
	FilesyncCheck check;		/* false stops the call with ECANCELED */
	FilesyncFilter filter;		/* false hides a name of a scanned directory */
	void	   *arg;			/* for both */
} FilesyncOptions;

/* One file of a manifest.  Times are nanoseconds since the epoch. */
typedef struct FilesyncFile
{
	const char *name;			/* belongs to the manifest */
	int64_t		size;
	int64_t		mtime;
	int64_t		origin;			/* mtime of the file that this is a copy of */
	bool		racy;			/* its mtime does not tell whether it has
								 * changed since */
} FilesyncFile;

typedef struct FilesyncManifest FilesyncManifest;
typedef struct FilesyncNames FilesyncNames;

/* Arguments of functions that change a directory. */
typedef struct FilesyncTask
{
	const char *source;			/* the directory that has the content */
	const FilesyncManifest *manifest;	/* of the source */
	const char *target;			/* the directory that is changed */
	const FilesyncOptions *options; /* or NULL */
	FilesyncStats *stats;		/* or NULL */
	FilesyncError *error;
} FilesyncTask;

/* The events of a watched directory. */
typedef enum FilesyncEvent
{
	FILESYNC_NAME,				/* the file of this name may have changed */
	FILESYNC_ENTRY,				/* and the name was created, removed or
								 * renamed */
	FILESYNC_GONE,				/* no more events of this directory */
	FILESYNC_OVERFLOW			/* changes of any directory were lost */
} FilesyncEvent;

typedef void (*FilesyncWatchCallback) (int wd, FilesyncEvent event,
									   const char *name, void *arg);

/* manifests */
extern bool filesync_scan(const char *dir, const FilesyncOptions *options,
						  FilesyncManifest **manifest, FilesyncError *error);
extern bool filesync_adopt(const char *dir, const FilesyncOptions *options,
						   FilesyncManifest **manifest, FilesyncError *error);
extern bool filesync_manifest_is_same(const FilesyncManifest *old,
									  const FilesyncManifest *new);
extern void filesync_manifest_free(FilesyncManifest *manifest);
extern uint32_t filesync_manifest_count(const FilesyncManifest *manifest);
extern uint64_t filesync_manifest_space(const FilesyncManifest *manifest,
										uint32_t block_size);
extern void filesync_manifest_get(const FilesyncManifest *manifest,
								  uint32_t index, FilesyncFile *file);
extern bool filesync_manifest_find(const FilesyncManifest *manifest,
								   const char *name, FilesyncFile *file);
extern uint64_t filesync_manifest_tag(const FilesyncManifest *manifest);
extern void filesync_manifest_set_tag(FilesyncManifest *manifest,
									  uint64_t tag);
extern bool filesync_manifest_write(const FilesyncManifest *manifest,
									const char *path,
									const FilesyncOptions *options,
									FilesyncError *error);
extern bool filesync_manifest_read(const char *path,
								   FilesyncManifest **manifest,
								   FilesyncError *error);

/* directories */
extern bool filesync_copy_dir(const FilesyncTask *task,
							  FilesyncManifest **copy);
extern bool filesync_is_intact(const char *dir,
							   const FilesyncManifest *manifest,
							   const FilesyncNames *names,
							   FilesyncError *error);
extern bool filesync_refresh(const FilesyncTask *task,
							 const FilesyncManifest *old_copy,
							 FilesyncManifest **copy);
extern bool filesync_restore_full(const FilesyncTask *task);
extern bool filesync_restore_changed(const FilesyncTask *task,
									 const FilesyncNames *names);

/* sets of names */
extern FilesyncNames *filesync_names_create(void);
extern void filesync_names_free(FilesyncNames *names);
extern bool filesync_names_add(FilesyncNames *names, const char *name);
extern uint32_t filesync_names_count(const FilesyncNames *names);
extern const char *filesync_names_get(const FilesyncNames *names,
									  uint32_t index);
extern void filesync_names_clear(FilesyncNames *names);

/* watching for changes */
extern int	filesync_watch_open(FilesyncError *error);
extern int	filesync_watch_add(int fd, const char *dir, FilesyncError *error);
extern bool filesync_watch_remove(int fd, int wd, FilesyncError *error);
extern bool filesync_watch_drain(int fd, FilesyncWatchCallback callback,
								 void *arg, FilesyncError *error);

#endif							/* TESTDB_FILESYNC_H */
