/*-------------------------------------------------------------------------
 *
 * filesync.c
 *	  Bringing one directory to the content of another.
 *
 * The directories are flat, as a database's is: a subdirectory, a symbolic
 * link or anything else that is no regular file is an error.  Nothing here
 * knows PostgreSQL, so all of it can be tested without a server.
 *
 * There are three kinds of directories, and a chain between them:
 *
 *		template  ->  snapshot  ->  clone
 *
 * Others write to templates and clones at any time; the snapshot is private.
 * The mtime tells whether a file of a copy is still equal to its source,
 * without reading it.  A write to a file sets its mtime to the current time,
 * so an mtime that was set to a time long past cannot result from a write.
 *
 * Clone and snapshot.  A file of the snapshot with mtime S has a copy in the
 * clone with mtime S - FILESYNC_MTIME_OFFSET.  The two are equal if and only
 * if their sizes are, and their mtimes are that far apart.  This requires
 * that S always identifies one content of that file; see below how S is
 * chosen.
 *
 * Snapshot and template.  A file of the template with mtime T might be
 * written once more within the same tick of the clock after it was copied,
 * with the same T: it is racy as long as T is younger than FILESYNC_RACY_AGE.
 * So the copy's entry in the snapshot's manifest has origin = T if the source
 * was not racy when it was copied, and FILESYNC_ORIGIN_UNKNOWN if it was.
 * Unchanged means: same size, and origin = T.
 *
 * The choice of S.  If the source was not racy, S = T -
 * FILESYNC_MTIME_OFFSET: T identifies one content, so S does, and a new
 * snapshot gets the same S.  If it was racy, T cannot be used, and S is the
 * time of the copy minus one and a half offsets: no two copies share it, and
 * it never equals a time of the first kind.  Either way S is long past, so a
 * file of the snapshot is never racy itself, and every file of a clone can be
 * marked.
 *
 * A template is mostly flushed just before its first snapshot, which makes
 * most of its files racy.  filesync_refresh() resolves that later: it reads
 * files that may differ, and if the content is the same it keeps the
 * snapshot's file and S, and so the clones, and records the origin.
 *
 * A template to which no process can write needs no snapshot:
 * filesync_adopt() makes a manifest of its own files, and gives racy ones an
 * mtime half an offset ago, which no write and no other copy sets.  A clone
 * copied from the template itself, with mtime_steps = 2, carries the marks
 * that a copy of a snapshot taken then would have carried.
 *
 * Damage.  A snapshot is private, but its files may be modified or removed by
 * other programs or by mistake.  So the manifest of a copy also has the mtime
 * that the file system showed for each file after writing it, possibly
 * rounded.  Before a file of the snapshot is read, its size and this time
 * must be those of the manifest; if it is missing, unreadable or another
 * file, the error blames the source.  Files that are not read are only
 * checked by filesync_is_intact().
 *
 * All this needs file systems that keep nanoseconds.  On others, and while
 * the clock is far behind, files are copied more often than needed, never
 * less often.
 *
 * The change set.  inotify reports the names that changed in a clone, so not
 * even a stat per file is needed.  If the watch breaks, that is reported, and
 * the caller makes a full comparison.
 *
 * Crashes and errors.  Any error leaves the target unusable, until a full
 * restore.  With FILESYNC_MARK the directory records that itself:
 * FILESYNC_UNFINISHED is created before the first change and removed after
 * the last.  The marker costs two system calls per call that changes
 * anything; a caller that keeps a durable record of its own can do without.
 * One of the two is needed with FILESYNC_FSYNC: a file's mark may reach the
 * disk before its content does.
 *
 * Memory comes from malloc(); what a function returns belongs to the caller.
 * There is no global state.  Descriptors are not inherited by a program that
 * is executed, and links are never followed: the last component of a
 * directory's path is opened as a directory, all else relative to it.
 *
 * Beside this file: manifest.c has manifests and sets of names, filecopy.c
 * the content of single files, inotify.c the change set, fileio.c what all of
 * them use.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "filesync_internal.h"

/*
 * Return the mtime for the copy of a file.  See the head of this file.
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
 * Report whether a file of the target, by its size and mtime, is an unchanged
 * copy.
 */
static bool
mark_matches(const SyncRun *run, const FileRecord *source,
			 const struct stat *st)
{
	return !(source->flags & RECORD_RACY) && source->size == st->st_size &&
		copy_mtime(run, source) == fs_stat_mtime(st);
}

/*
 * Set up a run, with nothing open.
 */
static void
run_init(SyncRun *run, const FilesyncTask *task)
{
	memset(run, 0, sizeof(*run));
	run->options = task->options ? task->options : &run->defaults;
	run->stats = task->stats ? task->stats : &run->unwanted;
	run->error = task->error;
	run->manifest = task->manifest;
	run->source = task->source;
	run->target = task->target;
	run->source_fd = -1;
	run->target_fd = -1;
	run->try_clone = !(run->options->flags & FILESYNC_NO_CLONE);
	/* The kernel, too, shares extents where it can. */
	run->try_kernel_copy = run->try_clone;
	run->now = fs_current_time();
}

/*
 * Release everything that a run holds, except the copy's manifest.
 */
static void
run_end(SyncRun *run)
{
	fs_close_quietly(run->source_fd);
	fs_close_quietly(run->target_fd);
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
		return fs_fail_unfinished(run->error, dir);
	if (errno != ENOENT)
		return fs_fail(run->error, errno, "stat file", dir, FILESYNC_UNFINISHED);
	return true;
}

/*
 * Open the source, which must be finished.  Returns false with the error set.
 */
static bool
open_source_dir(SyncRun *run)
{
	run->source_fd = fs_open_directory(run->source, run->error);
	if (run->source_fd < 0 ||
		!refuse_unfinished(run, run->source_fd, run->source))
		return fs_blame_source(run->error);
	return true;
}

/*
 * Plan to create or rewrite a file.  Returns the change, valid until the next
 * one, or NULL with the error set.
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
			fs_fail_memory(run->error);
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
 * Plan to create a file.  Returns false with the error set.
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
 * Plan to rewrite a file, with the size it has now.  Returns false with the
 * error set.
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
 * Plan to remove a file.  Returns false with the error set.
 */
static bool
plan_remove(SyncRun *run, const char *name)
{
	if (run->extra == NULL)
		run->extra = filesync_names_create();
	if (run->extra == NULL || !table_add(&run->extra->table, name))
		return fs_fail_memory(run->error);
	return true;
}

/*
 * Walk callback: plan the changes of one file of the target.
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
 * Plan the changes of the whole target, by one stat per file.  Sets
 * run->marked if an earlier run left the marker.
 */
static bool
plan_directory(SyncRun *run)
{
	uint32_t	count = run->manifest->names.count;
	Walk		walk = {
		.fd = run->target_fd,
		.dir = run->target,
		.callback = plan_file,
		.arg = run,
		.error = run->error
	};
	uint32_t	i;

	run->seen = calloc(count + 1, 1);
	if (run->seen == NULL)
		return fs_fail_memory(run->error);
	if (!fs_walk_directory(&walk))
		return false;
	run->marked = walk.unfinished;
	for (i = 0; i < count; i++)
	{
		if (!run->seen[i] && !plan_create(run, i))
			return false;
	}
	return true;
}

/*
 * Plan the changes of one name, whether or not such a file exists.
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
		return fs_fail_not_regular(run->error, run->target, name, &st);
	if (errno != ENOENT)
		return fs_fail(run->error, errno, "stat file", run->target, name);

	run->stats->examined++;
	if (index != NO_INDEX && !plan_create(run, index))
		return false;
	return check_point(run, 1);
}

/*
 * Create the marker before the first change, if requested, and make it
 * durable if the changes are to be.  Returns false with the error set.
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
		return fs_fail(run->error, errno, "create file", run->target,
					   FILESYNC_UNFINISHED);
	run->marked = true;
	if (!fs_close_written(fd))
		return fs_fail(run->error, errno, "close file", run->target,
					   FILESYNC_UNFINISHED);
	if ((run->options->flags & FILESYNC_FSYNC) && !fs_sync_fd(run->target_fd))
		return fs_fail(run->error, errno, "fsync directory", run->target, NULL);
	return true;
}

/*
 * Remove one file of the target; it may not exist.  Returns false with the
 * error set.
 */
static bool
remove_file(SyncRun *run, const char *name)
{
	int			rc;

	RETRY(rc, unlinkat(run->target_fd, name, 0));
	if (rc < 0 && errno != ENOENT)
		return fs_fail(run->error, errno, "remove file", run->target, name);
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
		fs_fail(run->error, errno, "open file", run->source, name);
		fs_blame_source(run->error);
	}
	return fd;
}

/*
 * Check that a file of the source is still as the manifest says, if no other
 * process writes to it.  in is its descriptor, or -1 if it is not open.
 * Returns false with the error set: EAGAIN if it is not.
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
		fs_fail(run->error, errno, "stat file", run->source, name);
	else if (!S_ISREG(st.st_mode))
		fs_fail_not_regular(run->error, run->source, name, &st);
	else if (!(st.st_mode & S_IRUSR))
		fs_fail_file(run->error, EACCES, run->source, name, "is not readable");
	else if (st.st_size != record->size || fs_stat_mtime(&st) != record->kept)
		fs_fail_file(run->error, EAGAIN, run->source, name, "has been changed");
	else
		return true;
	return fs_blame_source(run->error);
}

/*
 * Open a file of the target for writing, or create it.  Returns the
 * descriptor, or -1 with the error set.
 */
static int
open_target_file(SyncRun *run, const char *name, bool create)
{
	int			flags = O_WRONLY | OPEN_FLAGS | (create ? O_CREAT | O_EXCL : 0);
	int			fd;

	RETRY(fd, openat(run->target_fd, name, flags,
					 run->options->file_mode ? run->options->file_mode : 0600));
	if (fd < 0)
		fs_fail(run->error, errno, create ? "create file" : "open file",
				run->target, name);
	return fd;
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
		return fs_fail(run->error, errno, "set times of file", run->target, name);
	return true;
}

/*
 * Record the mtime of an open file of the target in the copy's manifest, if
 * there is one.  Returns false with the error set.
 */
static bool
note_kept(SyncRun *run, int fd, uint32_t index)
{
	struct stat st;

	if (run->copy == NULL)
		return true;
	if (fstat(fd, &st) < 0)
		return fs_fail(run->error, errno, "stat file", run->target,
					   table_name(&run->manifest->names, index));
	run->copy->records[index].kept = fs_stat_mtime(&st);
	return true;
}

/*
 * Make an open file of the target equal to its source, including its times.
 * in is -1 if the source is empty.  Returns false with the error set.
 */
static bool
fill_file(SyncRun *run, int in, int out, const Change *change)
{
	const FileRecord *record = &run->manifest->records[change->index];
	const char *name = table_name(&run->manifest->names, change->index);
	Transfer	transfer = {.in = in, .out = out, .name = name, .size = record->size};
	int			rc;

	if (change->old_size > record->size)
	{
		RETRY(rc, ftruncate(out, record->size));
		if (rc < 0)
			return fs_fail(run->error, errno, "truncate file", run->target, name);
	}
	if (in >= 0 && !copy_content(run, &transfer))
		return false;
#ifdef SYNC_FILE_RANGE_WRITE
	/* Start the writing that sync_changes() will wait for. */
	if ((run->options->flags & FILESYNC_FSYNC) && record->size > 0)
		(void) sync_file_range(out, 0, 0, SYNC_FILE_RANGE_WRITE);
#endif
	return set_mtime(run, out, name, copy_mtime(run, record)) &&
		note_kept(run, out, change->index);
}

/*
 * Create or rewrite one file of the target.  A rewritten one keeps its inode,
 * so open descriptors remain valid.  Returns false with the error set.
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
	fs_close_quietly(in);
	if (out >= 0 && !fs_close_written(out) && ok)
		ok = fs_fail(run->error, errno, "close file", run->target, name);
	return ok;
}

/*
 * Record in the copy's manifest that a file of the target keeps its mtime, as
 * it was set and as the file system shows it.
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
 * Check whether a file that is to be rewritten already has the right content,
 * in which case it keeps its mtime.  Returns false with the error set.
 */
static bool
keep_if_same(SyncRun *run, const Change *change, bool *same)
{
	const FileRecord *record = &run->manifest->records[change->index];
	const char *name = table_name(&run->manifest->names, change->index);
	Transfer	transfer = {
		.in = open_source_file(run, name),
		.out = -1,
		.name = name,
		.size = record->size
	};
	bool		ok = transfer.in >= 0;

	*same = false;
	if (ok)
	{
		RETRY(transfer.out, openat(run->target_fd, name, O_RDONLY | OPEN_FLAGS));
		ok = transfer.out >= 0 ||
			fs_fail(run->error, errno, "open file", run->target, name);
	}
	ok = ok && compare_content(run, &transfer, same);
	fs_close_quietly(transfer.in);
	fs_close_quietly(transfer.out);
	if (ok && *same)
	{
		run->stats->compared++;
		keep_mtime(run, change->index);
	}
	return ok;
}

/*
 * fsync() every file that was created or rewritten.  Only after all are
 * written: a journaling file system then does most of the work in the first
 * call.  Returns false with the error set.
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
		ok = fs_sync_fd(fd) ||
			fs_fail(run->error, errno, "fsync file", run->target, name);
		if (!fs_close_written(fd) && ok)
			ok = fs_fail(run->error, errno, "close file", run->target, name);
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

	if (!fs_sync_fd(run->target_fd))
		return fs_fail(run->error, errno, "fsync directory", run->target, NULL);
	if (!run->made_target)
		return true;
	RETRY(fd, openat(run->target_fd, "..",
					 O_RDONLY | O_DIRECTORY | OPEN_FLAGS));
	if (fd < 0)
		return fs_fail(run->error, errno, "open directory", run->target, "..");
	ok = fs_sync_fd(fd) ||
		fs_fail(run->error, errno, "fsync directory", run->target, "..");
	fs_close_quietly(fd);
	return ok;
}

/*
 * After the last change: make everything durable, if requested, then remove
 * the marker.  Returns false with the error set.
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
	if (durable && !fs_sync_fd(run->target_fd))
		return fs_fail(run->error, errno, "fsync directory", run->target, NULL);
	return true;
}

/*
 * Remove the extra files.  This is done first, since it frees space.  Returns
 * false with the error set.
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
 * Execute the planned changes.  Returns false with the error set.
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
 * Build the manifest that the target will have on success.  Returns false
 * with the error set.
 */
static bool
make_copy_manifest(SyncRun *run)
{
	const FilesyncManifest *manifest = run->manifest;
	uint32_t	i;

	run->copy = manifest_create();
	if (run->copy == NULL)
		return fs_fail_memory(run->error);
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
			return fs_fail_memory(run->error);
	}
	return true;
}

/*
 * Pass the copy's manifest to a caller that requested it, on success; else
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
	return fs_fail(run->error, ENOTEMPTY, "copy into directory", run->target,
				   NULL);
}

/*
 * Create the target's directory, or accept an empty one, and open it.
 * Returns false with the error set.
 */
static bool
make_target_dir(SyncRun *run)
{
	mode_t		mode = run->options->dir_mode ? run->options->dir_mode : 0700;
	Walk		walk = {
		.dir = run->target,
		.callback = refuse_file,
		.arg = run,
		.error = run->error
	};
	int			rc;

	RETRY(rc, mkdir(run->target, mode));
	if (rc < 0 && errno != EEXIST)
		return fs_fail(run->error, errno, "create directory", run->target, NULL);
	run->made_target = (rc == 0);
	run->target_fd = fs_open_directory(run->target, run->error);
	if (run->target_fd < 0)
		return false;
	if (run->made_target)
		return true;
	walk.fd = run->target_fd;
	if (!fs_walk_directory(&walk))
		return false;
	return !walk.unfinished || fs_fail_unfinished(run->error, run->target);
}

/*
 * Plan to create all files of the manifest.  Returns false with the error
 * set.
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
 * If the task has no manifest, the source is scanned first, through the
 * options' filter.  The files are opened by the manifest's names.  A missing
 * one is an error (ENOENT), as is one of another size (EAGAIN): the caller
 * could not use the manifest either.  If copy is not NULL, it gets the
 * target's manifest, to be freed.
 *
 * Returns false with the error set.  Then the target is missing, empty, or an
 * incomplete copy, with the marker if requested.
 */
bool
filesync_copy_dir(const FilesyncTask *task, FilesyncManifest **copy)
{
	SyncRun		run;
	bool		ok;

	run_init(&run, task);
	ok = open_source_dir(&run);
	if (ok && run.manifest == NULL)
	{
		run.own_manifest = scan_directory(run.source_fd, run.source, run.options,
										  run.error);
		run.manifest = run.own_manifest;
		ok = run.manifest != NULL;
	}
	ok = ok && (copy == NULL || make_copy_manifest(&run)) &&
		plan_everything(&run) && make_target_dir(&run) && apply_changes(&run);
	/* This succeeds only if nothing was created in it. */
	if (!ok && run.made_target)
		(void) rmdir(run.target);
	give_copy_manifest(&run, ok, copy);
	run_end(&run);
	return ok;
}

/*
 * Report whether the files of a private directory are as in its manifest,
 * which was made by a copy into it, by one stat for each: those with these
 * names, or all if names is NULL.  False, with the error set, if not, or if
 * that cannot be determined; error->source distinguishes these.
 */
bool
filesync_is_intact(const char *dir, const FilesyncManifest *manifest,
				   const FilesyncNames *names, FilesyncError *error)
{
	FilesyncTask task = {.source = dir, .target = dir, .error = error};
	SyncRun		run;
	uint32_t	n = names ? filesync_names_count(names) : manifest->names.count;
	bool		ok;

	run_init(&run, &task);
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
 * scanned.  old_copy is the snapshot's own, as on disk: files of the snapshot
 * that are unchanged according to these are not accessed.  A file that might
 * have changed but has the same size is read first, and kept if it is the
 * same: if the counters then say that nothing was copied, created or removed,
 * the snapshot's content is what it was, with fewer files of unknown origin.
 *
 * copy gets the new manifest, to be freed; old_copy is left as it was.
 * Returns false with the error set.  Then the snapshot cannot be used, unless
 * the counters say that nothing was copied, created or removed, and it does
 * not have the marker.
 */
bool
filesync_refresh(const FilesyncTask *task, const FilesyncManifest *old_copy,
				 FilesyncManifest **copy)
{
	SyncRun		run;
	bool		ok;

	run_init(&run, task);
	run.old_copy = old_copy;
	ok = open_source_dir(&run) &&
		(run.target_fd = fs_open_directory(run.target, run.error)) >= 0 &&
		refuse_unfinished(&run, run.target_fd, run.target) &&
		make_copy_manifest(&run) && plan_refresh(&run) &&
		apply_changes(&run);
	give_copy_manifest(&run, ok, copy);
	run_end(&run);
	return ok;
}

/*
 * Bring a directory to the content of another with a manifest, by one stat
 * per file of the target: files that differ are rewritten in place, missing
 * ones created, extra ones removed.  A marker of an earlier run is ignored,
 * and removed in the end.  No process may write to either directory.
 *
 * A watch of the target reports all of this, too: drain it afterwards and
 * discard the events.
 *
 * Returns false with the error set.  Then the target is unusable, unless this
 * succeeds on it.
 */
bool
filesync_restore_full(const FilesyncTask *task)
{
	SyncRun		run;
	bool		ok;

	run_init(&run, task);
	ok = open_source_dir(&run) &&
		(run.target_fd = fs_open_directory(run.target, run.error)) >= 0 &&
		plan_directory(&run) && apply_changes(&run);
	run_end(&run);
	return ok;
}

/*
 * The same, but only for the files with these names: all that may have
 * changed since the target last had the manifest's content.  A target with
 * the marker is refused (EBUSY), since the names do not include what an
 * earlier run left unfinished.
 */
bool
filesync_restore_changed(const FilesyncTask *task, const FilesyncNames *names)
{
	SyncRun		run;
	uint32_t	i;
	bool		ok;

	run_init(&run, task);
	ok = open_source_dir(&run) &&
		(run.target_fd = fs_open_directory(run.target, run.error)) >= 0 &&
		refuse_unfinished(&run, run.target_fd, run.target);
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
