/*-------------------------------------------------------------------------
 *
 * filecopy.c
 *	  Copying and comparing the content of single files, for filesync.c.
 *
 * By the fastest way available: extents are shared if the file system can,
 * else the kernel copies, else a buffer is used.  Plain POSIX.
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
#include <unistd.h>

#ifdef __linux__
#include <linux/fs.h>
#include <sys/ioctl.h>
#endif

#include "filesync_internal.h"

#if defined(__linux__) && \
	(!defined(__GLIBC__) || __GLIBC__ > 2 || __GLIBC_MINOR__ >= 27)
#define HAVE_COPY_IN_KERNEL
#endif

/* Larger buffers than this were no faster, and leave the CPU's cache. */
#define BUFFER_SIZE (256 * 1024)

/* Bytes to copy in the kernel between calls of the check. */
#define KERNEL_COPY_SIZE (32 * 1024 * 1024)

#define DEFAULT_CHECK_EVERY 64

/*
 * Call the caller's check, if this many more files or pieces of files make it
 * due.  Returns false with the error set if it says to stop.
 */
bool
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
	return fs_fail_text(run->error, ECANCELED, "canceled while changing \"%.1000s\"",
						run->target);
}

/*
 * Return the buffer for copying and comparing.  NULL, with the error set, if
 * there is no memory.
 */
static char *
run_buffer(SyncRun *run)
{
	if (run->buffer == NULL)
		run->buffer = malloc(2 * BUFFER_SIZE);
	if (run->buffer == NULL)
		fs_fail_memory(run->error);
	return run->buffer;
}

#ifdef __linux__

/*
 * Report whether the error of an attempt to share or to copy in the kernel
 * means that it never works here.  EPERM comes from sandboxes that do not
 * know the call.
 */
static bool
errno_is_unsupported(void)
{
	return errno == EOPNOTSUPP || errno == ENOTTY || errno == EXDEV ||
		errno == EINVAL || errno == ENOSYS || errno == EPERM;
}

#endif

/*
 * Share the source's extents, if the file system can.  Sets copied to the
 * resulting size, or leaves it unchanged if it cannot.  Returns false with
 * the error set.
 */
static bool
clone_content(SyncRun *run, Transfer *t)
{
#if defined(__linux__) && defined(FICLONE)
	struct stat st;
	int			rc;

	if (!run->try_clone)
		return true;
	RETRY(rc, ioctl(t->out, FICLONE, t->in));
	if (rc < 0)
	{
		if (!errno_is_unsupported())
			return fs_fail(run->error, errno, "write to file", run->target, t->name);
		run->try_clone = false;
		return true;
	}
	if (fstat(t->out, &st) < 0)
		return fs_fail(run->error, errno, "stat file", run->target, t->name);
	t->copied = st.st_size;
#else
	(void) run, (void) t;
#endif
	return true;
}

/*
 * Copy inside the kernel, at the descriptors' positions, until size bytes are
 * copied or it fails.  Requests one byte more than expected, to detect a
 * source that has grown.  Counts in copied.  Returns false with the error
 * set.
 */
static bool
kernel_copy(SyncRun *run, Transfer *t)
{
#ifdef HAVE_COPY_IN_KERNEL
	while (run->try_kernel_copy && t->copied < t->size)
	{
		int64_t		left = t->size - t->copied;
		ssize_t		n;

		RETRY(n, copy_file_range(t->in, NULL, t->out, NULL,
								 left <= KERNEL_COPY_SIZE ?
								 (size_t) left + 1 : KERNEL_COPY_SIZE, 0));
		if (n < 0 && !errno_is_unsupported())
			return fs_fail(run->error, errno, "write to file", run->target, t->name);
		if (n < 0)
			run->try_kernel_copy = false;
		if (n <= 0)
			break;
		t->copied += n;
		if (t->copied < t->size && !check_point(run, UINT16_MAX))
			return false;
	}
#else
	(void) run, (void) t;
#endif
	return true;
}

/*
 * The same with read() and write(), which always work.
 */
static bool
buffer_copy(SyncRun *run, Transfer *t)
{
	while (t->copied < t->size)
	{
		int64_t		left = t->size - t->copied;
		char	   *buffer = run_buffer(run);
		ssize_t		n;

		if (buffer == NULL)
			return false;
		RETRY(n, read(t->in, buffer,
					  left <= BUFFER_SIZE ? (size_t) left + 1 : BUFFER_SIZE));
		if (n < 0)
		{
			fs_fail(run->error, errno, "read file", run->source, t->name);
			return fs_blame_source(run->error);
		}
		if (n == 0)
			break;
		if (!fs_write_all(t->out, buffer, (size_t) n))
			return fs_fail(run->error, errno, "write to file", run->target, t->name);
		t->copied += n;
		if (t->copied < t->size && !check_point(run, 1))
			return false;
	}
	return true;
}

/*
 * Copy a file's content, by the fastest way available.  Returns false with
 * the error set: EAGAIN if the source does not have the size in its manifest.
 */
bool
copy_content(SyncRun *run, Transfer *t)
{
	t->copied = 0;
	if (!clone_content(run, t) || !kernel_copy(run, t) || !buffer_copy(run, t))
		return false;
	if (t->copied != t->size)
	{
		fs_fail_file(run->error, EAGAIN, run->source, t->name,
					 "is not as large as expected");
		return fs_blame_source(run->error);
	}
	run->stats->bytes += (uint64_t) t->size;
	return true;
}

/*
 * Compare two open files: *same is set if both have the same size bytes and
 * no more.  Returns false with the error set.
 */
bool
compare_content(SyncRun *run, const Transfer *t, bool *same)
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
		n = fs_read_all(t->in, buffer, BUFFER_SIZE);
		if (n < 0)
			return fs_fail(run->error, errno, "read file", run->source, t->name);
		m = fs_read_all(t->out, buffer + BUFFER_SIZE, BUFFER_SIZE);
		if (m < 0)
			return fs_fail(run->error, errno, "read file", run->target, t->name);
		if (n != m || memcmp(buffer, buffer + BUFFER_SIZE, (size_t) n) != 0)
			return true;
		done += n;
		if (!check_point(run, 1))
			return false;
	} while (n > 0);
	*same = (done == t->size);
	return true;
}
