/*-------------------------------------------------------------------------
 *
 * inotify.c
 *	  Names changed in a directory, as reported by the kernel.
 *
 * Plain POSIX except inotify itself; watch.c collects the events.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <string.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/inotify.h>
#include <sys/ioctl.h>
#endif

#include "filesync_internal.h"

#ifdef __linux__

/*
 * The events to watch for in a directory.  Every way to change a file's
 * content through a system call is an IN_MODIFY: write, pwrite, writev,
 * truncation, fallocate, copying and sharing in the kernel.  It has to be
 * IN_MODIFY and not only IN_CLOSE_WRITE, because the server's processes keep
 * files open.  The others are about names.  IN_ATTRIB is omitted: owners and
 * permissions are not content.  (Linux reports IN_MODIFY if only the mtime is
 * set.)
 *
 * Not reported are writes through a shared mapping, which PostgreSQL does not
 * use for relation files, writes through a hard link in another directory,
 * and writes by another host.  The full comparison detects these.
 */
#define WATCH_MASK \
	(IN_MODIFY | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | \
	 IN_DELETE_SELF | IN_MOVE_SELF | \
	 IN_ONLYDIR | IN_DONT_FOLLOW | IN_EXCL_UNLINK)

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
		fs_fail_text(error, errno, "could not initialize inotify: %s",
					 strerror(errno));
	return fd;
}

/*
 * Watch a directory.  Writes are reported from now on; so bring it to a known
 * content afterwards, or ensure that no process writes to it until then.
 * Returns the number that the directory's events will carry, or -1 with the
 * error set: ENOSPC if the user has too many of them already.  Numbers are
 * not reused while fd is open.
 */
int
filesync_watch_add(int fd, const char *dir, FilesyncError *error)
{
	int			wd;

	RETRY(wd, inotify_add_watch(fd, dir, WATCH_MASK));
	if (wd < 0)
		fs_fail(error, errno, "watch directory", dir, NULL);
	return wd;
}

/*
 * Stop watching a directory.  Pending events may still arrive, so the caller
 * ignores those with an unknown number.  It is not an error if there is
 * nothing to do: the directory may have been removed, and the watch with it.
 * Returns false with the error set.
 */
bool
filesync_watch_remove(int fd, int wd, FilesyncError *error)
{
	if (inotify_rm_watch(fd, wd) == 0 || errno == EINVAL)
		return true;
	return fs_fail_text(error, errno, "could not remove inotify watch: %s",
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
 * Pass on all events before this call, and perhaps some later ones.  A write
 * is reported by the time that write() returns, so call this when the writing
 * processes have finished.  The meaning of the events:
 *
 *	FILESYNC_NAME: the name belongs to the change set of wd.
 *	FILESYNC_ENTRY: the same, and the name may now be that of another file, or
 *		of none.
 *	FILESYNC_GONE: the change set of wd is invalid.  The directory was removed,
 *		renamed or unmounted, or filesync_watch_remove() was called.  May be
 *		passed more than once.
 *	FILESYNC_OVERFLOW: all change sets are invalid (wd is -1).
 *
 * Returns false with the error set; all change sets are invalid then.
 */
bool
filesync_watch_drain(int fd, FilesyncWatchCallback callback, void *arg,
					 FilesyncError *error)
{
	int			pending = 0;

	/* Not until it is empty, since other processes may never stop writing. */
	if (ioctl(fd, FIONREAD, &pending) < 0)
		return fs_fail_text(error, errno, "could not query inotify: %s",
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
			return fs_fail_text(error, errno, "could not read from inotify: %s",
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
 * Without inotify every restore is a full comparison: these functions fail,
 * with ENOSYS.
 */
int
filesync_watch_open(FilesyncError *error)
{
	fs_fail_text(error, ENOSYS, "watching directories is not supported here");
	return -1;
}

int
filesync_watch_add(int fd, const char *dir, FilesyncError *error)
{
	(void) fd;
	fs_fail(error, ENOSYS, "watch directory", dir, NULL);
	return -1;
}

bool
filesync_watch_remove(int fd, int wd, FilesyncError *error)
{
	(void) fd;
	(void) wd;
	return fs_fail_text(error, ENOSYS,
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
