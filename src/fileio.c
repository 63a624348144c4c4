/*-------------------------------------------------------------------------
 *
 * fileio.c
 *	  Files and directories, and errors about them, for filesync.c.
 *
 * Plain POSIX; functions shared by filesync.c and the files beside it.
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
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "filesync_internal.h"

/* Times beyond this, in either direction, are taken as unknown. */
#define TIME_LIMIT INT64_C(8000000000000000000)

/* Space for a path in an error's message. */
#define MESSAGE_PATH_SIZE 1200

/*
 * Append a name to a message of the given size, with all but printable ASCII
 * as \xNN, since a file's name need not be text in any encoding.
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
 * truncated to fit.
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
bool
fs_fail(FilesyncError *error, int errnum, const char *what, const char *dir,
		const char *name)
{
	char		path[MESSAGE_PATH_SIZE];

	format_path(path, sizeof(path), dir, name);
	return fs_fail_text(error, errnum, "could not %s \"%s\": %s", what, path,
						strerror(errnum));
}

/*
 * Set the error about a file: file "dir/name" <what>.  Returns false.
 */
bool
fs_fail_file(FilesyncError *error, int errnum, const char *dir, const char *name,
			 const char *what)
{
	char		path[MESSAGE_PATH_SIZE];

	format_path(path, sizeof(path), dir, name);
	return fs_fail_text(error, errnum, "file \"%s\" %s", path, what);
}

/*
 * Set the error to a message made as by printf().  Returns false.
 */
bool
fs_fail_text(FilesyncError *error, int errnum, const char *format,...)
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
bool
fs_fail_memory(FilesyncError *error)
{
	return fs_fail_text(error, ENOMEM, "out of memory");
}

/*
 * Mark the error just set as the source's fault, unless this process or the
 * system lacks a resource.  Returns false.
 */
bool
fs_blame_source(FilesyncError *error)
{
	error->source = error->saved_errno != ENOMEM &&
		error->saved_errno != EMFILE && error->saved_errno != ENFILE;
	return false;
}

/*
 * Close a descriptor that was only read from, so a failure is harmless.
 * Keeps errno.
 */
void
fs_close_quietly(int fd)
{
	int			save_errno = errno;

	if (fd >= 0)
		(void) close(fd);
	errno = save_errno;
}

/*
 * Return the current time, in nanoseconds.  0 if there is no clock, which
 * makes all files racy.
 */
int64_t
fs_current_time(void)
{
	struct timespec ts;

	if (clock_gettime(CLOCK_REALTIME, &ts) < 0)
		return 0;
	return (int64_t) ts.tv_sec * NANOSECONDS + ts.tv_nsec;
}

/*
 * Return a file's mtime in nanoseconds, at most TIME_LIMIT in either
 * direction.
 */
int64_t
fs_stat_mtime(const struct stat *st)
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
 * Report whether a file with this mtime might be written after now and keep
 * it.  Kernels stamp files with a clock that lags by a tick of up to 10 ms,
 * and file systems may keep only whole seconds, or every other one.
 */
bool
fs_mtime_is_racy(int64_t mtime, int64_t now)
{
	int64_t		age = FILESYNC_RACY_AGE;

	if (mtime % NANOSECONDS == 0)
		age = FILESYNC_RACY_AGE_COARSE;
	return mtime > now - age || mtime <= -TIME_LIMIT;
}

/*
 * Report whether a name can be that of a file in a directory.
 */
bool
fs_name_is_valid(const char *name)
{
	return name[0] != '\0' && strchr(name, '/') == NULL &&
		strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/*
 * Open a directory, not through a symbolic link as the last part of its path.
 * Returns the descriptor, or -1 with the error set.
 */
int
fs_open_directory(const char *dir, FilesyncError *error)
{
	int			fd;

	RETRY(fd, open(dir, O_RDONLY | O_DIRECTORY | OPEN_FLAGS));
	if (fd < 0)
		fs_fail(error, errno, "open directory", dir, NULL);
	return fd;
}

/*
 * Refuse a file that is not regular.  Returns false with the error set.
 */
bool
fs_fail_not_regular(FilesyncError *error, const char *dir, const char *name,
					const struct stat *st)
{
	int			errnum = EINVAL;

	if (S_ISDIR(st->st_mode))
		errnum = EISDIR;
	else if (S_ISLNK(st->st_mode))
		errnum = ELOOP;
	return fs_fail_file(error, errnum, dir, name, "is not a regular file");
}

/*
 * Set the error that says that a directory has the marker.
 */
bool
fs_fail_unfinished(FilesyncError *error, const char *dir)
{
	return fs_fail_text(error, EBUSY, "directory \"%.1000s\" is unfinished", dir);
}

/*
 * One step of fs_walk_directory(): name is neither "." nor "..".
 */
static bool
walk_entry(const Walk *walk, const char *name)
{
	struct stat st;
	int			rc;

	RETRY(rc, fstatat(walk->fd, name, &st, AT_SYMLINK_NOFOLLOW));
	if (rc < 0)
	{
		/* Removed since readdir() returned it: ignore it. */
		if (errno == ENOENT)
			return true;
		return fs_fail(walk->error, errno, "stat file", walk->dir, name);
	}
	if (!S_ISREG(st.st_mode))
		return fs_fail_not_regular(walk->error, walk->dir, name, &st);
	return walk->callback(name, &st, walk->arg);
}

/*
 * Call back for each file of an open directory.  Names refused by the
 * options' filter, if there is one, are skipped whatever they are.  The
 * marker is skipped, too, and walk->unfinished tells whether it exists.  The
 * callback may change files, but not the directory, since the effect on
 * readdir() is undefined.  Returns false with the error set, here or by the
 * callback.
 */
bool
fs_walk_directory(Walk *walk)
{
	const FilesyncOptions *options = walk->options;
	bool		ok = true;
	int			walk_fd;
	DIR		   *stream;
	struct dirent *entry;

	walk->unfinished = false;
	/* The stream needs its own descriptor, since closedir() closes it. */
	RETRY(walk_fd, openat(walk->fd, ".", O_RDONLY | O_DIRECTORY | OPEN_FLAGS));
	if (walk_fd < 0)
		return fs_fail(walk->error, errno, "open directory", walk->dir, NULL);
	stream = fdopendir(walk_fd);
	if (stream == NULL)
	{
		fs_close_quietly(walk_fd);
		return fs_fail(walk->error, errno, "open directory", walk->dir, NULL);
	}

	while (ok && (errno = 0, entry = readdir(stream)) != NULL)
	{
		const char *name = entry->d_name;

		if (!fs_name_is_valid(name))
			continue;
		if (strcmp(name, FILESYNC_UNFINISHED) == 0)
			walk->unfinished = true;
		else if (options == NULL || options->filter == NULL ||
				 options->filter(name, options->arg))
			ok = walk_entry(walk, name);
	}
	if (ok && errno != 0)
		ok = fs_fail(walk->error, errno, "read directory", walk->dir, NULL);
	(void) closedir(stream);
	return ok;
}

/*
 * Write all of a buffer.  Returns false with errno set.
 */
bool
fs_write_all(int fd, const char *data, size_t len)
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
ssize_t
fs_read_all(int fd, char *data, size_t len)
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
bool
fs_sync_fd(int fd)
{
	int			rc;

	RETRY(rc, fsync(fd));
	return rc == 0;
}

/*
 * Close a file that was written.  The descriptor is closed even if the call
 * is interrupted.  Returns false with errno set.
 */
bool
fs_close_written(int fd)
{
	return close(fd) == 0 || errno == EINTR;
}

/*
 * fsync() the directory that a path's last component is in.  Returns false
 * with the error set.
 */
bool
fs_sync_parent(const char *path, FilesyncError *error)
{
	const char *slash = strrchr(path, '/');
	char		dir[PATH_MAX] = ".";
	bool		ok;
	int			fd;

	if (slash != NULL)
		snprintf(dir, sizeof(dir), "%.*s", (int) (slash - path) + 1, path);
	RETRY(fd, open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	if (fd < 0)
		return fs_fail(error, errno, "open directory", dir, NULL);
	ok = fs_sync_fd(fd) || fs_fail(error, errno, "fsync directory", dir, NULL);
	fs_close_quietly(fd);
	return ok;
}
