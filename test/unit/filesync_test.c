/*-------------------------------------------------------------------------
 *
 * filesync_test.c
 *	  Tests of filesync.c and the files beside it, without a server.  Prints TAP.
 *
 * Every system call and allocation of theirs goes through a wrapper of the
 * linker (-Wl,--wrap), which counts it, lets it fail, or changes the world just
 * before it; they themselves are compiled as they are.  From the project's root:
 *
 *	gcc -std=gnu99 -O1 -g -Isrc -o /tmp/filesync_test \
 *		test/unit/filesync_test.c $(sed -n 's/^ \* Sources: //p' \
 *			test/unit/filesync_test.c) \
 *		$(sed -n 's/^WRAP(\([a-z_0-9]*\)).*$/-Wl,--wrap=\1/p' \
 *			test/unit/filesync_test.c)
 *	prove -e '' /tmp/filesync_test
 *
 * Files are made below FILESYNC_TEST_DIR, else /dev/shm, else /tmp.  Some
 * tests need to be root, to mount something or to become somebody else, and
 * are skipped otherwise.  With FILESYNC_TEST_QUICK set, so are the slow ones
 * (for valgrind).
 *
 * Sources: src/filesync.c src/manifest.c src/filecopy.c src/fileio.c src/inotify.c
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "filesync.h"

#define SECOND INT64_C(1000000000)

/*
 * Faults
 */
typedef enum FaultKind
{
	FAULT_NONE,
	FAULT_ERRNO,				/* a system call fails with fault_errno */
	FAULT_SHORT,				/* a transfer is cut to half */
	FAULT_MEMORY				/* an allocation fails */
} FaultKind;

static bool armed = false;		/* inside a call of filesync */
static FaultKind fault_kind = FAULT_NONE;
static int	fault_errno;
static int	fault_at;			/* which call is to fail */
static int	fault_calls;		/* calls that could have been it */
static bool fault_fired;
static const char *fault_function;	/* that failed */

/* Called before each wrapped call while armed, with the function's name. */
static void (*hook) (const char *function, const char *path) = NULL;

/* Wrapped calls while armed. */
enum
{
	N_OPEN, N_CLOSE, N_READ, N_WRITE, N_RANGE, N_STAT, N_TIMES, N_UNLINK,
	N_CLONE, N_FSYNC, N_OTHER, N_COUNTERS
};
static int	ncalls[N_COUNTERS];

/* The wrapped functions; the compile command takes them from these lines. */
#define WRAP(function) extern __typeof__(function) __wrap_##function, __real_##function;
WRAP(open)
WRAP(openat)
WRAP(close)
WRAP(read)
WRAP(write)
WRAP(copy_file_range)
WRAP(sync_file_range)
WRAP(fstat)
WRAP(fstatat)
WRAP(futimens)
WRAP(ftruncate)
WRAP(fsync)
WRAP(ioctl)
WRAP(mkdir)
WRAP(rmdir)
WRAP(unlink)
WRAP(unlinkat)
WRAP(rename)
WRAP(fdopendir)
WRAP(readdir)
WRAP(clock_gettime)
WRAP(inotify_init1)
WRAP(inotify_add_watch)
WRAP(inotify_rm_watch)
WRAP(malloc)
WRAP(calloc)
WRAP(realloc)

/* Whether a call may fail with EINTR, on some file system. */
static bool
interruptible(const char *function)
{
	static const char *const never[] = {"fstat", "fdopendir", "readdir",
		"rename", "ioctl", "clock_gettime", "inotify_init1", "inotify_rm_watch",
	"malloc", "calloc", "realloc"};
	size_t		i;

	for (i = 0; i < sizeof(never) / sizeof(never[0]); i++)
	{
		if (strcmp(function, never[i]) == 0)
			return false;
	}
	return true;
}

/* Whether this call is the one to fail.  Sets errno. */
static bool
fault(FaultKind kind, int counter, const char *function, const char *path)
{
	if (!armed)
		return false;
	if (counter >= 0)
		ncalls[counter]++;
	if (hook != NULL)
	{
		armed = false;
		hook(function, path);
		armed = true;
	}
	if (kind != fault_kind || (fault_errno == EINTR && !interruptible(function)))
		return false;
	if (++fault_calls != fault_at)
		return false;
	fault_fired = true;
	fault_function = function;
	errno = kind == FAULT_MEMORY ? ENOMEM : fault_errno;
	return true;
}

#define FAIL_IF_WANTED(counter, function, path) \
	do { \
		if (fault(FAULT_ERRNO, counter, function, path)) \
			return -1; \
	} while (0)

/* How much of a transfer of len bytes is to be done. */
static size_t
cut(size_t len)
{
	if (armed && fault_kind == FAULT_SHORT && len > 1 &&
		++fault_calls == fault_at)
	{
		fault_fired = true;
		return len > 8 ? len / 16 : 1;
	}
	return len;
}

int
__wrap_open(const char *path, int flags,...)
{
	va_list		args;
	mode_t		mode;

	va_start(args, flags);
	mode = va_arg(args, mode_t);
	va_end(args);
	FAIL_IF_WANTED(N_OPEN, "open", path);
	return __real_open(path, flags, mode);
}

int
__wrap_openat(int fd, const char *path, int flags,...)
{
	va_list		args;
	mode_t		mode;

	va_start(args, flags);
	mode = va_arg(args, mode_t);
	va_end(args);
	FAIL_IF_WANTED(N_OPEN, "openat", path);
	return __real_openat(fd, path, flags, mode);
}

int
__wrap_close(int fd)
{
	bool		written = (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
	int			rc = __real_close(fd);

	FAIL_IF_WANTED(N_CLOSE, written ? "close_written" : "close", NULL);
	return rc;
}

ssize_t
__wrap_read(int fd, void *data, size_t len)
{
	FAIL_IF_WANTED(N_READ, "read", NULL);
	return __real_read(fd, data, cut(len));
}

ssize_t
__wrap_write(int fd, const void *data, size_t len)
{
	FAIL_IF_WANTED(N_WRITE, "write", NULL);
	return __real_write(fd, data, cut(len));
}

ssize_t
__wrap_copy_file_range(int in, off64_t * in_pos, int out, off64_t * out_pos,
					   size_t len, unsigned int flags)
{
	FAIL_IF_WANTED(N_RANGE, "copy_file_range", NULL);
	return __real_copy_file_range(in, in_pos, out, out_pos, cut(len), flags);
}

int
__wrap_sync_file_range(int fd, off64_t start, off64_t len, unsigned int flags)
{
	FAIL_IF_WANTED(N_OTHER, "sync_file_range", NULL);
	return __real_sync_file_range(fd, start, len, flags);
}

int
__wrap_fstat(int fd, struct stat *st)
{
	FAIL_IF_WANTED(N_STAT, "fstat", NULL);
	return __real_fstat(fd, st);
}

int
__wrap_fstatat(int fd, const char *path, struct stat *st, int flags)
{
	FAIL_IF_WANTED(N_STAT, "fstatat", path);
	return __real_fstatat(fd, path, st, flags);
}

int
__wrap_futimens(int fd, const struct timespec *times)
{
	FAIL_IF_WANTED(N_TIMES, "futimens", NULL);
	return __real_futimens(fd, times);
}

int
__wrap_ftruncate(int fd, off_t len)
{
	FAIL_IF_WANTED(N_OTHER, "ftruncate", NULL);
	return __real_ftruncate(fd, len);
}

int
__wrap_fsync(int fd)
{
	FAIL_IF_WANTED(N_FSYNC, "fsync", NULL);
	return __real_fsync(fd);
}

int
__wrap_ioctl(int fd, unsigned long request,...)
{
	va_list		args;
	void	   *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	FAIL_IF_WANTED(request == FICLONE ? N_CLONE : N_OTHER,
				   request == FICLONE ? "FICLONE" : "ioctl", NULL);
	return __real_ioctl(fd, request, arg);
}

int
__wrap_mkdir(const char *path, mode_t mode)
{
	FAIL_IF_WANTED(N_OTHER, "mkdir", path);
	return __real_mkdir(path, mode);
}

int
__wrap_rmdir(const char *path)
{
	FAIL_IF_WANTED(N_OTHER, "rmdir", path);
	return __real_rmdir(path);
}

int
__wrap_unlink(const char *path)
{
	FAIL_IF_WANTED(N_UNLINK, "unlink", path);
	return __real_unlink(path);
}

int
__wrap_unlinkat(int fd, const char *path, int flags)
{
	FAIL_IF_WANTED(N_UNLINK, "unlinkat", path);
	return __real_unlinkat(fd, path, flags);
}

int
__wrap_rename(const char *old, const char *new)
{
	FAIL_IF_WANTED(N_OTHER, "rename", old);
	return __real_rename(old, new);
}

DIR *
__wrap_fdopendir(int fd)
{
	if (fault(FAULT_ERRNO, N_OTHER, "fdopendir", NULL))
		return NULL;
	return __real_fdopendir(fd);
}

struct dirent *
__wrap_readdir(DIR *stream)
{
	if (fault(FAULT_ERRNO, -1, "readdir", NULL))
		return NULL;
	return __real_readdir(stream);
}

int
__wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
	FAIL_IF_WANTED(-1, "clock_gettime", NULL);
	return __real_clock_gettime(clock, ts);
}

int
__wrap_inotify_init1(int flags)
{
	FAIL_IF_WANTED(N_OTHER, "inotify_init1", NULL);
	return __real_inotify_init1(flags);
}

int
__wrap_inotify_add_watch(int fd, const char *path, uint32_t mask)
{
	FAIL_IF_WANTED(N_OTHER, "inotify_add_watch", path);
	return __real_inotify_add_watch(fd, path, mask);
}

int
__wrap_inotify_rm_watch(int fd, int wd)
{
	FAIL_IF_WANTED(N_OTHER, "inotify_rm_watch", NULL);
	return __real_inotify_rm_watch(fd, wd);
}

void *
__wrap_malloc(size_t size)
{
	if (fault(FAULT_MEMORY, -1, "malloc", NULL))
		return NULL;
	return __real_malloc(size);
}

void *
__wrap_calloc(size_t n, size_t size)
{
	if (fault(FAULT_MEMORY, -1, "calloc", NULL))
		return NULL;
	return __real_calloc(n, size);
}

void *
__wrap_realloc(void *old, size_t size)
{
	if (fault(FAULT_MEMORY, -1, "realloc", NULL))
		return NULL;
	return __real_realloc(old, size);
}

/* Evaluate a call of filesync, with the wrappers at work. */
#define RUN(call) \
	(memset(ncalls, 0, sizeof(ncalls)), armed = true, result = (call), \
	 armed = false, result)
static bool result;

/*
 * TAP
 */
static int	ntests = 0;
static int	nfailed = 0;
static FilesyncError error;
static FilesyncStats stats;

static bool
ok(bool passed, const char *format,...)
{
	va_list		args;

	printf("%sok %d - ", passed ? "" : "not ", ++ntests);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	if (!passed)
	{
		nfailed++;
		printf("#   last error: %d %s\n", error.saved_errno, error.message);
	}
	fflush(stdout);
	return passed;
}

static bool
is_int(int64_t got, int64_t wanted, const char *what)
{
	bool		passed = ok(got == wanted, "%s", what);

	if (!passed)
		printf("#   got %lld, wanted %lld\n", (long long) got,
			   (long long) wanted);
	return passed;
}

static void
skip(const char *what, const char *why)
{
	printf("ok %d # SKIP %s: %s\n", ++ntests, what, why);
}

/* The counters of the last call, in order, then emptied. */
static void
is_stats(unsigned examined, unsigned compared, unsigned copied,
		 unsigned created, unsigned removed, const char *what)
{
	bool		passed = stats.examined == examined &&
		stats.compared == compared && stats.copied == copied &&
		stats.created == created && stats.removed == removed;

	ok(passed, "%s", what);
	if (!passed)
		printf("#   examined %d compared %d copied %d created %d removed %d\n",
			   (int) stats.examined, (int) stats.compared, (int) stats.copied,
			   (int) stats.created, (int) stats.removed);
	memset(&stats, 0, sizeof(stats));
}

/* A call that must fail with this errno, and say something. */
#define FAILS(call, errnum, what) \
	do { \
		memset(&error, 0, sizeof(error)); \
		(void) RUN(call); \
		ok(!result && error.saved_errno == (errnum) && \
		   error.message[0] != '\0', "%s", what); \
	} while (0)

#define WORKS(call, what) ok(RUN(call), "%s", what)

/*
 * Files
 */
static char root[PATH_MAX];		/* of all that is made here */
static char T[PATH_MAX];		/* the template ... */
static char S[PATH_MAX];		/* ... its snapshot ... */
static char C[PATH_MAX];		/* ... and a clone */

static const char *
path_of(const char *dir, const char *name)
{
	static char paths[4][2 * PATH_MAX];
	static int	next = 0;

	next = (next + 1) % 4;
	snprintf(paths[next], sizeof(paths[next]), "%s/%s", dir, name);
	return paths[next];
}

static void
must(bool done, const char *what)
{
	if (done)
		return;
	printf("Bail out! %s: %s\n", what, strerror(errno));
	exit(1);
}

static int
sh(const char *format,...)
{
	char		command[4 * PATH_MAX];
	va_list		args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	return system(command);
}

/* Bytes that differ from place to place, and from seed to seed. */
static void
fill(char *data, size_t len, unsigned seed)
{
	uint32_t	x = seed * 2654435761u + 1;
	size_t		i;

	for (i = 0; i < len; i += sizeof(x))
	{
		x = x * 1664525u + 1013904223u;
		memcpy(data + i, &x, len - i < sizeof(x) ? len - i : sizeof(x));
	}
}

static void
set_time(const char *dir, const char *name, int64_t mtime)
{
	struct timespec times[2];

	times[0].tv_sec = 0;
	times[0].tv_nsec = UTIME_OMIT;
	times[1].tv_sec = mtime / SECOND;
	times[1].tv_nsec = mtime % SECOND;
	must(utimensat(AT_FDCWD, path_of(dir, name), times,
				   AT_SYMLINK_NOFOLLOW) == 0, "utimensat");
}

static int64_t
get_time(const char *dir, const char *name)
{
	struct stat st;

	must(lstat(path_of(dir, name), &st) == 0, path_of(dir, name));
	return st.st_mtim.tv_sec * SECOND + st.st_mtim.tv_nsec;
}

static int64_t
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * SECOND + ts.tv_nsec;
}

/* Write a file in place, or make it. */
static void
put(const char *dir, const char *name, size_t size, unsigned seed)
{
	char	   *data = malloc(size + 1);
	int			fd = open(path_of(dir, name), O_WRONLY | O_CREAT, 0600);

	fill(data, size, seed);
	must(fd >= 0 && ftruncate(fd, (off_t) size) == 0 &&
		 write(fd, data, size) == (ssize_t) size, path_of(dir, name));
	close(fd);
	free(data);
}

/* The same with an mtime that is not racy; a minute, and some, ago. */
static void
put_old(const char *dir, const char *name, size_t size, unsigned seed)
{
	put(dir, name, size, seed);
	set_time(dir, name, (now() / SECOND - 60) * SECOND + 123456789 + seed);
}

static bool
exists(const char *dir, const char *name)
{
	struct stat st;

	return lstat(path_of(dir, name), &st) == 0;
}

static bool
marked(const char *dir)
{
	return exists(dir, FILESYNC_UNFINISHED);
}

static ino_t
inode(const char *dir, const char *name)
{
	struct stat st;

	must(lstat(path_of(dir, name), &st) == 0, name);
	return st.st_ino;
}

static bool
same_file(const char *a, const char *b)
{
	FILE	   *fa = fopen(a, "r");
	FILE	   *fb = fopen(b, "r");
	char		da[65536];
	char		db[65536];
	size_t		na = 0;
	size_t		nb = 0;
	bool		same = fa && fb;

	while (same)
	{
		na = fread(da, 1, sizeof(da), fa);
		nb = fread(db, 1, sizeof(db), fb);
		same = na == nb && memcmp(da, db, na) == 0;
		if (na == 0)
			break;
	}
	if (fa)
		fclose(fa);
	if (fb)
		fclose(fb);
	return same;
}

static int
count_files(const char *dir)
{
	DIR		   *stream = opendir(dir);
	int			n = 0;

	if (stream == NULL)
		return -1;
	while (readdir(stream) != NULL)
		n++;
	closedir(stream);
	return n - 2;
}

/* Whether two directories have the same names and contents. */
static bool
same_dir(const char *dir_a, const char *dir_b)
{
	char		a[PATH_MAX];
	char		b[PATH_MAX];
	DIR		   *stream = opendir(dir_a);
	struct dirent *entry;
	bool		same = stream && count_files(dir_a) == count_files(dir_b);

	/* These may come from path_of(), which is about to be called. */
	snprintf(a, sizeof(a), "%s", dir_a);
	snprintf(b, sizeof(b), "%s", dir_b);
	while (same && (entry = readdir(stream)) != NULL)
	{
		if (entry->d_name[0] == '.' && (entry->d_name[1] == '\0' ||
										strcmp(entry->d_name, "..") == 0))
			continue;
		same = same_file(path_of(a, entry->d_name), path_of(b, entry->d_name));
	}
	if (stream)
		closedir(stream);
	return same;
}

static int
count_fds(void)
{
	return count_files("/proc/self/fd");
}

static int
wipe_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void) st;
	(void) type;
	(void) ftw;
	return remove(path);
}

/* Remove a directory with all that is in it, or a file, or nothing. */
static void
wipe(const char *dir)
{
	must(nftw(dir, wipe_one, 16, FTW_DEPTH | FTW_PHYS) == 0 ||
		 errno == ENOENT, dir);
}

static void
fresh(const char *dir)
{
	wipe(dir);
	must(mkdir(dir, 0700) == 0, dir);
}

/* A template with a file of every size that matters. */
static void
make_template(void)
{
	static const size_t sizes[] = {0, 1, 8191, 8192, 8193, 262143, 262144,
	262145, 524288, 1048576, 3 * 262144 + 5};
	size_t		i;

	fresh(T);
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
	{
		char		name[32];

		snprintf(name, sizeof(name), "%zu", sizes[i]);
		put_old(T, name, sizes[i], (unsigned) i);
	}
}

/* A small template, for when many copies are made. */
static void
make_small_template(void)
{
	fresh(T);
	put_old(T, "empty", 0, 1);
	put_old(T, "one", 8192, 2);
	put_old(T, "two", 300000, 3);
	put_old(T, "three", 16384, 4);
}

/* Whether a set has a name. */
static bool
contains(const FilesyncNames *names, const char *name)
{
	uint32_t	i;

	for (i = 0; i < filesync_names_count(names); i++)
	{
		if (strcmp(filesync_names_get(names, i), name) == 0)
			return true;
	}
	return false;
}

/* The functions that take a task, in a line. */
static bool
copy_dir(const char *source, const FilesyncManifest *manifest,
		 const char *target, const FilesyncOptions *options,
		 FilesyncManifest **copy, FilesyncStats *counts, FilesyncError *why)
{
	FilesyncTask task = {source, manifest, target, options, counts, why};

	return filesync_copy_dir(&task, copy);
}

static bool
refresh(const char *source, const FilesyncManifest *manifest,
		const char *target, const FilesyncManifest *old_copy,
		const FilesyncOptions *options, FilesyncManifest **copy,
		FilesyncStats *counts, FilesyncError *why)
{
	FilesyncTask task = {source, manifest, target, options, counts, why};

	return filesync_refresh(&task, old_copy, copy);
}

static bool
restore_full(const char *source, const FilesyncManifest *manifest,
			 const char *target, const FilesyncOptions *options,
			 FilesyncStats *counts, FilesyncError *why)
{
	FilesyncTask task = {source, manifest, target, options, counts, why};

	return filesync_restore_full(&task);
}

static bool
restore_changed(const char *source, const FilesyncManifest *manifest,
				const char *target, const FilesyncNames *names,
				const FilesyncOptions *options, FilesyncStats *counts,
				FilesyncError *why)
{
	FilesyncTask task = {source, manifest, target, options, counts, why};

	return filesync_restore_changed(&task, names);
}

static FilesyncManifest *
scan(const char *dir)
{
	FilesyncManifest *manifest = NULL;

	must(filesync_scan(dir, NULL, &manifest, &error), error.message);
	return manifest;
}

/* Snapshot and clone of the template; returns the snapshot's manifest. */
static FilesyncManifest *
make_chain(void)
{
	FilesyncManifest *manifest = NULL;

	wipe(S);
	wipe(C);
	must(copy_dir(T, NULL, S, NULL, &manifest, NULL, &error) &&
		 copy_dir(S, manifest, C, NULL, NULL, NULL, &error),
		 error.message);
	return manifest;
}

/*
 * Scanning and racy files
 */
static bool
hide_temp(const char *name, void *arg)
{
	(void) arg;
	return strncmp(name, "tmp", 3) != 0;
}

static void
unlink_before_stat(const char *function, const char *path)
{
	if (strcmp(function, "fstatat") == 0 && strcmp(path, "8192") == 0)
		unlink(path_of(T, path));
}

static void
test_scan(void)
{
	FilesyncManifest *manifest;
	FilesyncFile file;
	FilesyncOptions options = {0};

	make_template();
	WORKS(filesync_scan(T, NULL, &manifest, &error), "scan");
	is_int(filesync_manifest_count(manifest), 11, "scan finds all files");
	is_int(ncalls[N_STAT], 11, "scan makes one stat per file");
	ok(filesync_manifest_find(manifest, "8193", &file) && file.size == 8193 &&
	   file.mtime == get_time(T, "8193") && !file.racy &&
	   file.origin == FILESYNC_ORIGIN_UNKNOWN, "scan tells size and mtime");
	ok(!filesync_manifest_find(manifest, "8194", &file), "unknown name");
	is_int((int64_t) filesync_manifest_space(manifest, 4096),
		   4096 + 8192 * 2 + 12288 + 262144 * 2 + 266240 + 524288 + 1048576 +
		   3 * 262144 + 4096, "space in blocks");
	filesync_manifest_free(manifest);

	hook = unlink_before_stat;
	WORKS(filesync_scan(T, NULL, &manifest, &error),
		  "scan while a file disappears");
	hook = NULL;
	is_int(filesync_manifest_count(manifest), 10, "it is left out");
	filesync_manifest_free(manifest);

	fresh(T);
	WORKS(filesync_scan(T, NULL, &manifest, &error), "scan of an empty directory");
	is_int(filesync_manifest_count(manifest), 0, "finds nothing");
	ok(!filesync_manifest_find(manifest, "a", &file), "also by name");
	filesync_manifest_free(manifest);

	put(T, "a", 10, 1);
	mkdir(path_of(T, "tmpdir"), 0700);
	FAILS(filesync_scan(T, NULL, &manifest, &error), EISDIR,
		  "scan refuses a subdirectory");
	ok(manifest == NULL, "and gives no manifest");
	options.filter = hide_temp;
	WORKS(filesync_scan(T, &options, &manifest, &error),
		  "unless the filter hides it");
	is_int(filesync_manifest_count(manifest), 1, "then the rest is found");
	filesync_manifest_free(manifest);
	must(symlink("a", path_of(T, "link")) == 0, "symlink");
	FAILS(filesync_scan(T, &options, &manifest, &error), ELOOP,
		  "scan refuses a symbolic link");
	unlink(path_of(T, "link"));
	must(mkfifo(path_of(T, "fifo"), 0600) == 0, "mkfifo");
	FAILS(filesync_scan(T, &options, &manifest, &error), EINVAL,
		  "scan refuses a pipe");
	unlink(path_of(T, "fifo"));
	put(T, FILESYNC_UNFINISHED, 0, 0);
	FAILS(filesync_scan(T, &options, &manifest, &error), EBUSY,
		  "scan refuses an unfinished directory");
	FAILS(filesync_scan(path_of(root, "nowhere"), NULL, &manifest, &error),
		  ENOENT, "scan of a missing directory");
	wipe(C);
	must(symlink(T, C) == 0, "symlink");
	FAILS(filesync_scan(C, NULL, &manifest, &error), ENOTDIR,
		  "scan refuses a directory through a link");
	wipe(C);
}

static void
is_racy(const char *name, int64_t mtime, bool wanted)
{
	FilesyncManifest *manifest;
	FilesyncFile file;

	set_time(T, "a", mtime);
	manifest = scan(T);
	filesync_manifest_find(manifest, "a", &file);
	ok(file.racy == wanted, "%s: %sracy", name, wanted ? "" : "not ");
	filesync_manifest_free(manifest);
}

static void
test_racy(void)
{
	int64_t		second = now() / SECOND * SECOND;

	fresh(T);
	put(T, "a", 1, 1);
	is_racy("now", now(), true);
	is_racy("0.5 s ago", now() - SECOND / 2 + 1, true);
	is_racy("1.1 s ago", now() - SECOND * 11 / 10, false);
	is_racy("in the future", now() + 1000 * SECOND, true);
	is_racy("2 whole seconds ago", second - 2 * SECOND + SECOND, true);
	is_racy("4 whole seconds ago", second - 4 * SECOND, false);
	is_racy("long ago", 1, false);
}

/*
 * Copying
 */
static void
check_copy(int flags, const char *what)
{
	FilesyncManifest *manifest;
	FilesyncOptions options = {0};
	FilesyncFile file;
	struct stat st;
	mode_t		mask = umask(0);

	options.flags = flags;
	options.file_mode = 0640;
	options.dir_mode = 0750;
	wipe(S);
	memset(&stats, 0, sizeof(stats));
	ok(RUN(copy_dir(T, NULL, S, &options, &manifest, &stats, &error)),
	   "copy, %s", what);
	umask(mask);
	ok(same_dir(T, S), "the contents are the same");
	is_int((int64_t) stats.bytes, 1 + 8191 + 8192 + 8193 + 262143 + 262144 +
		   262145 + 524288 + 1048576 + 3 * 262144 + 5, "bytes are counted");
	is_stats(11, 0, 0, 11, 0, "so are files");
	ok(stat(path_of(S, "1"), &st) == 0 && (st.st_mode & 07777) == 0640,
	   "a file's mode is the one given");
	ok(stat(S, &st) == 0 && (st.st_mode & 07777) == 0750,
	   "so is the directory's");
	is_int(get_time(S, "1"), get_time(T, "1") - FILESYNC_MTIME_OFFSET,
		   "a copy is marked by its mtime");
	ok(filesync_manifest_find(manifest, "1", &file) &&
	   file.mtime == get_time(S, "1") && file.origin == get_time(T, "1") &&
	   !file.racy, "its manifest knows the origin");
	filesync_manifest_free(manifest);
}

static void
grow_before_open(const char *function, const char *path)
{
	if (strcmp(function, "openat") == 0 && strcmp(path, "8192") == 0)
		must(truncate(path_of(T, path), 8193) == 0, "truncate");
}

static void
test_copy(void)
{
	FilesyncManifest *manifest;
	FilesyncFile file;

	make_template();
	check_copy(0, "in the kernel");
	is_int(ncalls[N_CLONE], 1, "sharing was tried once");
	is_int(ncalls[N_READ] + ncalls[N_WRITE], 0, "nothing was read");
	check_copy(FILESYNC_NO_CLONE, "through a buffer");
	is_int(ncalls[N_CLONE] + ncalls[N_RANGE], 0, "nothing was shared");
	check_copy(FILESYNC_FSYNC | FILESYNC_MARK, "durable and marked");
	is_int(ncalls[N_FSYNC], 11 + 4,
		   "fsync of each file, of the directory thrice, of its parent");

	manifest = scan(T);
	wipe(S);
	WORKS(copy_dir(T, manifest, S, NULL, NULL, NULL, &error),
		  "copy with a known manifest");
	ok(same_dir(T, S), "the contents are the same");
	is_int(ncalls[N_OPEN], 1 + 1 + 10 + 11, "opens: directories, files");
	is_int(ncalls[N_CLOSE], 1 + 1 + 10 + 11, "closes: the same");
	is_int(ncalls[N_STAT], 1, "stats: for the marker");
	is_int(ncalls[N_RANGE], 10, "one copy per file with content");
	is_int(ncalls[N_TIMES], 11, "one setting of times per file");
	FAILS(copy_dir(T, manifest, S, NULL, NULL, NULL, &error),
		  ENOTEMPTY, "copy into a directory with files");
	ok(same_dir(T, S), "which are left alone");
	fresh(S);
	WORKS(copy_dir(T, manifest, S, NULL, NULL, NULL, &error),
		  "copy into an empty directory");
	ok(same_dir(T, S), "the contents are the same");
	fresh(S);
	put(S, FILESYNC_UNFINISHED, 0, 0);
	FAILS(copy_dir(T, manifest, S, NULL, NULL, NULL, &error), EBUSY,
		  "copy into an unfinished one");
	put(T, FILESYNC_UNFINISHED, 0, 0);
	wipe(S);
	FAILS(copy_dir(T, manifest, S, NULL, NULL, NULL, &error), EBUSY,
		  "copy of an unfinished one");
	unlink(path_of(T, FILESYNC_UNFINISHED));
	wipe(S);
	put(root, "S", 1, 1);
	FAILS(copy_dir(T, manifest, S, NULL, NULL, NULL, &error), ENOTDIR,
		  "copy to a file");
	wipe(S);

	hook = grow_before_open;
	FAILS(copy_dir(T, manifest, S, NULL, NULL, NULL, &error), EAGAIN,
		  "copy of a file that grows meanwhile");
	wipe(S);
	hook = NULL;
	must(truncate(path_of(T, "8192"), 8000) == 0, "truncate");
	FAILS(copy_dir(T, manifest, S, NULL, NULL, NULL, &error), EAGAIN,
		  "copy of a file that has become shorter");
	wipe(S);
	unlink(path_of(T, "8192"));
	FAILS(copy_dir(T, manifest, S, NULL, NULL, NULL, &error), ENOENT,
		  "copy of a file that is gone");
	filesync_manifest_free(manifest);

	fresh(T);
	put_old(T, "a", 10, 1);
	manifest = scan(T);
	unlink(path_of(T, "a"));
	wipe(S);
	FAILS(copy_dir(T, manifest, S, NULL, NULL, NULL, &error), ENOENT,
		  "copy of nothing but that");
	ok(access(S, F_OK) != 0, "leaves no empty directory");
	filesync_manifest_free(manifest);
	put_old(T, "a", 33 * 1024 * 1024 + 1, 1);
	put(T, "racy", 10, 2);
	wipe(S);
	WORKS(copy_dir(T, NULL, S, NULL, &manifest, NULL, &error),
		  "copy of a file of more than one piece, and of a racy one");
	ok(same_dir(T, S), "the contents are the same");
	ok(filesync_manifest_find(manifest, "racy", &file) && !file.racy &&
	   file.origin == FILESYNC_ORIGIN_UNKNOWN &&
	   file.mtime == get_time(S, "racy"), "the racy one's origin is unknown");
	ok(llabs(now() - get_time(S, "racy") - FILESYNC_MTIME_OFFSET * 3 / 2) <
	   10 * SECOND, "its copy is long past, and marked as nothing else");
	filesync_manifest_free(manifest);
}

/*
 * Restoring
 */
static void
dirty_clone(void)
{
	put(C, "8192", 8192, 99);	/* same size */
	put(C, "8193", 9000, 99);	/* longer */
	put(C, "524288", 100, 99);	/* shorter */
	put(C, "262145", 0, 99);	/* empty */
	put(C, "0", 77, 99);		/* not empty any more */
	unlink(path_of(C, "1"));
	unlink(path_of(C, "1048576"));
	put(C, "extra", 5, 5);
	put(C, "extra_empty", 0, 5);
}

static void
check_restore(const FilesyncManifest *manifest, int flags, const char *what)
{
	FilesyncOptions options = {0};
	ino_t		before[3];

	options.flags = flags;
	dirty_clone();
	before[0] = inode(C, "8192");
	before[1] = inode(C, "8193");
	before[2] = inode(C, "0");
	memset(&stats, 0, sizeof(stats));
	ok(RUN(restore_full(S, manifest, C, &options, &stats, &error)),
	   "restore, %s", what);
	is_stats(11, 0, 5, 2, 2, "counters of it");
	ok(same_dir(S, C), "the contents are the same");
	ok(before[0] == inode(C, "8192") && before[1] == inode(C, "8193") &&
	   before[2] == inode(C, "0"), "files are rewritten in place");
	ok(!marked(C), "no marker is left");
	WORKS(restore_full(S, manifest, C, &options, &stats, &error),
		  "restore again");
	is_stats(11, 0, 0, 0, 0, "there is nothing to do");
}

static void
test_restore(void)
{
	FilesyncManifest *manifest;
	FilesyncOptions mark = {0};
	int64_t		dir_time;

	mark.flags = FILESYNC_MARK;
	make_template();
	manifest = make_chain();
	dir_time = get_time(C, ".");
	WORKS(restore_full(S, manifest, C, &mark, &stats, &error),
		  "restore what is unchanged");
	is_stats(11, 0, 0, 0, 0, "no file is touched");
	is_int(get_time(C, "."), dir_time, "no marker is made");
	is_int(ncalls[N_OPEN], 3, "opens: the directories, and for reading it");
	is_int(ncalls[N_STAT], 11 + 1, "one stat per file");
	check_restore(manifest, 0, "in the kernel");
	check_restore(manifest, FILESYNC_NO_CLONE, "through a buffer");
	check_restore(manifest, FILESYNC_MARK, "with the marker");
	check_restore(manifest, FILESYNC_MARK | FILESYNC_FSYNC, "durable");

	set_time(C, "1", now());
	WORKS(restore_full(S, manifest, C, NULL, &stats, &error),
		  "restore a file that was touched");
	is_stats(11, 0, 1, 0, 0, "it is rewritten");
	is_int(get_time(C, "1"), get_time(S, "1") - FILESYNC_MTIME_OFFSET,
		   "and marked again");

	put(C, "8193", 8192, 98);
	set_time(C, "8193", get_time(S, "8193") - FILESYNC_MTIME_OFFSET);
	WORKS(restore_full(S, manifest, C, NULL, &stats, &error),
		  "restore a file of another size with the right mtime");
	is_stats(11, 0, 1, 0, 0, "it is rewritten");

	put(C, FILESYNC_UNFINISHED, 0, 0);
	put(C, "8192", 8192, 98);
	WORKS(restore_full(S, manifest, C, NULL, &stats, &error),
		  "restore what is unfinished");
	ok(!marked(C) && same_dir(S, C), "finishes it");
	put(C, FILESYNC_UNFINISHED, 0, 0);
	WORKS(restore_full(S, manifest, C, NULL, NULL, &error),
		  "also when there is nothing to do");
	ok(!marked(C), "the marker goes");

	mkdir(path_of(C, "sub"), 0700);
	FAILS(restore_full(S, manifest, C, NULL, NULL, &error), EISDIR,
		  "restore refuses a subdirectory");
	rmdir(path_of(C, "sub"));
	unlink(path_of(C, "8192"));
	must(symlink("8193", path_of(C, "8192")) == 0, "symlink");
	FAILS(restore_full(S, manifest, C, NULL, NULL, &error), ELOOP,
		  "restore refuses a symbolic link");
	unlink(path_of(C, "8192"));
	FAILS(restore_full(S, manifest, path_of(root, "nowhere"), NULL,
					   NULL, &error), ENOENT,
		  "restore to a missing directory");
	unlink(path_of(S, "8192"));
	FAILS(restore_full(S, manifest, C, &mark, NULL, &error), ENOENT,
		  "restore from a snapshot that lacks a file");
	ok(marked(C), "the target is marked");
	filesync_manifest_free(manifest);
}

/* Names from a list that ends with NULL. */
static FilesyncNames *
names_of(const char *name,...)
{
	FilesyncNames *names = filesync_names_create();
	va_list		args;

	va_start(args, name);
	for (; name != NULL; name = va_arg(args, const char *))
		must(filesync_names_add(names, name), name);
	va_end(args);
	return names;
}

static void
test_restore_changed(void)
{
	FilesyncManifest *manifest;
	FilesyncNames *names;
	FilesyncOptions mark = {0};

	make_template();
	manifest = make_chain();
	dirty_clone();
	names = names_of("8192", "8193", "524288", "262145", "0", "1", "1048576",
					 "extra", "extra_empty", "came_and_went", "8191",
					 FILESYNC_UNFINISHED, NULL);
	mark.flags = FILESYNC_MARK;
	memset(&stats, 0, sizeof(stats));
	WORKS(restore_changed(S, manifest, C, names, &mark, &stats,
						  &error), "restore by names");
	is_stats(11, 0, 5, 2, 2, "counters of it");
	ok(same_dir(S, C), "the contents are the same");
	WORKS(restore_full(S, manifest, C, NULL, &stats, &error),
		  "a full comparison agrees");
	is_stats(11, 0, 0, 0, 0, "nothing is left to do");
	filesync_names_free(names);

	put(C, "8192", 8192, 97);
	put(C, "8193", 8193, 97);
	put(C, "1", 1, 97);
	put(C, "extra", 5, 97);
	names = names_of("8192", "8193", "1", NULL);
	WORKS(restore_changed(S, manifest, C, names, NULL, &stats,
						  &error), "restore three files");
	is_stats(3, 0, 3, 0, 0, "only these");
	ok(exists(C, "extra"), "what isn't named is left alone");
	is_int(ncalls[N_OPEN] + ncalls[N_CLOSE] + ncalls[N_READ] +
		   ncalls[N_WRITE] + ncalls[N_RANGE] + ncalls[N_STAT] +
		   ncalls[N_TIMES] + ncalls[N_UNLINK] + ncalls[N_CLONE] +
		   ncalls[N_FSYNC] + ncalls[N_OTHER], 7 + 3 * 8,
		   "seven system calls, and eight per file");
	unlink(path_of(C, "extra"));

	put(C, FILESYNC_UNFINISHED, 0, 0);
	FAILS(restore_changed(S, manifest, C, names, NULL, NULL, &error),
		  EBUSY, "restore by names refuses what is unfinished");
	unlink(path_of(C, FILESYNC_UNFINISHED));
	unlink(path_of(C, "8192"));
	must(symlink("1", path_of(C, "8192")) == 0, "symlink");
	FAILS(restore_changed(S, manifest, C, names, NULL, NULL, &error),
		  ELOOP, "restore by names refuses a symbolic link");
	unlink(path_of(C, "8192"));
	must(mkdir(path_of(C, "8192"), 0700) == 0, "mkdir");
	FAILS(restore_changed(S, manifest, C, names, NULL, NULL, &error),
		  EISDIR, "and a subdirectory");
	filesync_names_free(names);
	names = filesync_names_create();
	WORKS(restore_changed(S, manifest, C, names, NULL, NULL, &error),
		  "restore no names");
	filesync_names_free(names);
	filesync_manifest_free(manifest);
}

/*
 * The chain from template to clone over time
 */
/*
 * How many files of the template, as it is, the snapshot's manifest does not know
 * to be equal: their names go to line, after ! or, if it has none, -; after + what
 * only the snapshot has.
 */
static uint32_t
diff_now(const FilesyncManifest *copy, char *line)
{
	FilesyncManifest *manifest = scan(T);
	FilesyncFile file;
	FilesyncFile other;
	uint32_t	n = 0;
	uint32_t	i;

	line[0] = '\0';
	for (i = 0; i < filesync_manifest_count(manifest); i++)
	{
		bool		found;

		filesync_manifest_get(manifest, i, &file);
		found = filesync_manifest_find(copy, file.name, &other);
		if (found && !file.racy && file.size == other.size &&
			file.mtime == other.origin)
			continue;
		sprintf(line + strlen(line), "%c%s ", found ? '!' : '-', file.name);
		n++;
	}
	for (i = 0; i < filesync_manifest_count(copy); i++)
	{
		filesync_manifest_get(copy, i, &file);
		if (filesync_manifest_find(manifest, file.name, &other))
			continue;
		sprintf(line + strlen(line), "+%s ", file.name);
		n++;
	}
	filesync_manifest_free(manifest);
	return n;
}

/* Refresh the snapshot from the template as it is; the manifest is replaced. */
static bool
refresh_now(FilesyncManifest **copy, const FilesyncOptions *options)
{
	FilesyncManifest *manifest = scan(T);
	FilesyncManifest *new_copy;
	bool		done;

	memset(&stats, 0, sizeof(stats));
	done = RUN(refresh(T, manifest, S, *copy, options, &new_copy,
					   &stats, &error));
	filesync_manifest_free(manifest);
	if (!done)
		return false;
	filesync_manifest_free(*copy);
	*copy = new_copy;
	return true;
}

/* A file of the snapshot's manifest must say what the disk says. */
static bool
manifest_is_true(const FilesyncManifest *manifest, const char *dir)
{
	uint32_t	i;

	for (i = 0; i < filesync_manifest_count(manifest); i++)
	{
		FilesyncFile file;
		struct stat st;

		filesync_manifest_get(manifest, i, &file);
		if (stat(path_of(dir, file.name), &st) != 0 ||
			st.st_size != file.size || get_time(dir, file.name) != file.mtime)
			return false;
	}
	return (int) i == count_files(dir);
}

static int	opened;
static int	synced_unmarked;

static void
watch_syncing(const char *function, const char *path)
{
	if (strcmp(function, "openat") == 0 && strcmp(path, "zchanged") == 0)
		opened++;
	if (strcmp(function, "fsync") == 0 && !marked(S))
		synced_unmarked++;
}

/* What was changed is what is synced, and marked until then. */
static void
test_refresh_durable(FilesyncManifest **copy)
{
	FilesyncOptions options = {0};

	options.flags = FILESYNC_MARK | FILESYNC_FSYNC;
	put(T, "zchanged", 10, 1);
	put(T, "zgone", 10, 1);
	must(refresh_now(copy, NULL), error.message);
	put(T, "zchanged", 10, 2);
	opened = synced_unmarked = 0;
	hook = watch_syncing;
	ok(refresh_now(copy, &options), "durable refresh of one file among others");
	hook = NULL;
	is_stats(5, 3, 1, 0, 0, "the others are the same");
	is_int(ncalls[N_FSYNC], 1 + 3, "one file is synced, and the directory");
	is_int(opened, 2 + 2 + 1, "opens of it: comparing, copying, syncing");
	is_int(synced_unmarked, 1, "the marker goes before the last sync");
	unlink(path_of(T, "zchanged"));
	unlink(path_of(T, "zgone"));
	must(refresh_now(copy, NULL), error.message);
}

static void
test_refresh(void)
{
	FilesyncManifest *copy;
	char		line[1000];
	int64_t		racy_time;
	int64_t		snapshot_time;

	make_template();
	copy = make_chain();
	is_int(diff_now(copy, line), 0, "a snapshot equals its template");
	put(T, "8192", 8192, 50);
	put(T, "new", 10, 50);
	unlink(path_of(T, "1"));
	is_int(diff_now(copy, line), 3, "then the template changes");
	ok(strstr(line, "!8192 ") && strstr(line, "-new ") && strstr(line, "+1 "),
	   "the differences have names");
	ok(refresh_now(&copy, NULL), "refresh");
	is_stats(11, 0, 1, 1, 1, "does what is needed");
	ok(same_dir(T, S) && manifest_is_true(copy, S), "the contents are the same");
	is_int(diff_now(copy, line), 2, "what was racy can't be told to be equal");
	WORKS(restore_full(S, copy, C, NULL, &stats, &error),
		  "bring a clone up to date");
	is_stats(11, 0, 1, 1, 1, "does as much");
	ok(same_dir(S, C), "the contents are the same");

	/* Time goes by, so that nothing is racy any more. */
	snapshot_time = get_time(S, "8192");
	racy_time = now() - 2 * SECOND;
	set_time(T, "8192", racy_time);
	set_time(T, "new", racy_time);
	ok(refresh_now(&copy, NULL), "refresh later");
	is_stats(11, 2, 0, 0, 0, "compares these, and changes nothing");
	is_int(get_time(S, "8192"), snapshot_time, "the snapshot's mtime stays");
	ok(manifest_is_true(copy, S), "and the manifest is right");
	is_int(diff_now(copy, line), 0, "the snapshot equals its template");
	ok(refresh_now(&copy, NULL), "refresh again");
	is_stats(11, 0, 0, 0, 0, "there is nothing to do");
	ok(manifest_is_true(copy, S), "and the manifest is right");
	WORKS(restore_full(S, copy, C, NULL, &stats, &error),
		  "the clones' marks are good");
	is_stats(11, 0, 0, 0, 0, "there is nothing to do");
	filesync_manifest_free(copy);

	/* Another size with the same mtime, which no clock makes. */
	fresh(T);
	put_old(T, "a", 8192, 1);
	copy = make_chain();
	racy_time = get_time(T, "a");
	put(T, "a", 8193, 1);
	set_time(T, "a", racy_time);
	is_int(diff_now(copy, line), 1, "a change of size is seen");
	filesync_manifest_free(copy);

	/* Written, copied, and written again with the same size and mtime. */
	fresh(T);
	put(T, "a", 8192, 1);
	put(T, "b", 8192, 2);
	racy_time = now();
	set_time(T, "a", racy_time);
	set_time(T, "b", racy_time);
	copy = make_chain();
	snapshot_time = get_time(S, "a");
	put(T, "a", 8192, 3);
	set_time(T, "a", racy_time);
	ok(diff_now(copy, line) == 2, "a second write within the tick is suspected");
	set_time(T, "a", racy_time - 5 * SECOND);
	set_time(T, "b", racy_time - 5 * SECOND);
	ok(refresh_now(&copy, NULL), "refresh");
	is_stats(2, 1, 1, 0, 0, "finds it");
	ok(same_dir(T, S) && get_time(S, "a") != snapshot_time,
	   "the snapshot has it, with another mtime");
	WORKS(restore_full(S, copy, C, NULL, &stats, &error),
		  "a clone of the first snapshot is brought up to date");
	is_stats(2, 0, 1, 0, 0, "by that file");
	ok(same_dir(T, C), "the contents are the same");

	/* The same, far behind the start of the file. */
	put(T, "big", 300000, 1);
	ok(refresh_now(&copy, NULL), "refresh with a larger file");
	must(truncate(path_of(T, "big"), 299999) == 0 &&
		 truncate(path_of(T, "big"), 300000) == 0, "truncate");
	ok(refresh_now(&copy, NULL), "refresh when its last byte has changed");
	is_stats(3, 0, 1, 0, 0, "finds it");
	ok(same_dir(T, S), "the contents are the same");
	WORKS(restore_full(S, copy, C, NULL, NULL, &error), "and restore");

	/* The same, with the file racy at each copy. */
	put(T, "a", 8192, 4);
	ok(refresh_now(&copy, NULL), "refresh from a racy file");
	snapshot_time = get_time(S, "a");
	WORKS(restore_full(S, copy, C, NULL, NULL, &error), "and restore");
	put(T, "a", 8192, 5);
	set_time(T, "a", now());
	ok(refresh_now(&copy, NULL), "refresh, racy again");
	ok(get_time(S, "a") != snapshot_time, "each copy has its own mtime");
	WORKS(restore_full(S, copy, C, NULL, NULL, &error), "and restore");
	ok(same_dir(T, S) && same_dir(T, C), "the contents are the same");

	test_refresh_durable(&copy);
	put(S, FILESYNC_UNFINISHED, 0, 0);
	ok(!refresh_now(&copy, NULL) && error.saved_errno == EBUSY,
	   "refresh refuses an unfinished snapshot");
	filesync_manifest_free(copy);
}

/* A clone made from the template itself, before there is a snapshot. */
static void
test_direct_clone(void)
{
	FilesyncManifest *manifest;
	FilesyncManifest *copy;
	FilesyncOptions options = {0};

	make_template();
	put(T, "racy", 100, 1);
	manifest = scan(T);
	options.mtime_steps = 2;
	wipe(C);
	wipe(S);
	WORKS(copy_dir(T, manifest, C, &options, NULL, NULL, &error),
		  "clone the template");
	WORKS(copy_dir(T, manifest, S, NULL, &copy, NULL, &error),
		  "then take the snapshot");
	memset(&stats, 0, sizeof(stats));
	WORKS(restore_full(S, copy, C, NULL, &stats, &error),
		  "restore the clone");
	is_stats(12, 0, 1, 0, 0, "only the racy file is copied");
	filesync_manifest_free(copy);
	filesync_manifest_free(manifest);

	fresh(C);
	manifest = scan(T);
	WORKS(restore_full(T, manifest, C, NULL, NULL, &error),
		  "restore from the template");
	memset(&stats, 0, sizeof(stats));
	WORKS(restore_full(T, manifest, C, NULL, &stats, &error),
		  "and again");
	is_stats(12, 0, 1, 0, 0, "a racy file is always copied");
	filesync_manifest_free(manifest);
}

/* Clones of a template that is closed, and no snapshot. */
static void
test_adopt(void)
{
	FilesyncManifest *manifest;
	FilesyncManifest *again;
	FilesyncOptions options = {0};
	FilesyncFile file;

	make_template();
	put(T, "racy", 100, 1);
	options.mtime_steps = 2;
	wipe(C);
	wipe(S);
	WORKS(filesync_adopt(T, NULL, &manifest, &error), "adopt a template");
	is_int(ncalls[N_TIMES], 1, "the racy file gets another time");
	ok(filesync_manifest_find(manifest, "racy", &file) && !file.racy &&
	   file.mtime == get_time(T, "racy") &&
	   file.mtime < now() - FILESYNC_MTIME_OFFSET / 2, "which is long past");
	ok(filesync_manifest_find(manifest, "8193", &file) &&
	   file.mtime == get_time(T, "8193") &&
	   file.mtime > now() - FILESYNC_MTIME_OFFSET / 2, "no other file does");
	ok(RUN(filesync_is_intact(T, manifest, NULL, &error)), "it is intact");

	WORKS(copy_dir(T, manifest, C, &options, NULL, NULL, &error), "clone it");
	memset(&stats, 0, sizeof(stats));
	WORKS(restore_full(T, manifest, C, &options, &stats, &error), "restore the clone");
	is_stats(12, 0, 0, 0, 0, "there is nothing to do");
	put(C, "racy", 100, 2);
	put(C, "8193", 8193, 2);
	WORKS(restore_full(T, manifest, C, &options, &stats, &error),
		  "restore the clone after changes");
	is_stats(12, 0, 2, 0, 0, "what was changed is copied");
	ok(same_dir(T, C), "the contents are the same");

	WORKS(filesync_adopt(T, NULL, &again, &error), "adopt it again");
	is_int(ncalls[N_TIMES], 0, "no file gets another time");
	ok(filesync_manifest_is_same(manifest, again), "nothing has changed");
	filesync_manifest_free(again);
	again = scan(T);
	ok(filesync_manifest_is_same(manifest, again), "a scan says so, too");
	filesync_manifest_free(again);

	WORKS(copy_dir(T, NULL, S, NULL, &again, NULL, &error), "then take a snapshot");
	WORKS(restore_full(S, again, C, NULL, &stats, &error), "restore the clone from it");
	is_stats(12, 0, 0, 0, 0, "there is nothing to do");
	filesync_manifest_free(again);

	put(T, "racy", 100, 3);
	again = scan(T);
	ok(!filesync_manifest_is_same(manifest, again), "a write is noticed");
	filesync_manifest_free(again);
	FAILS(filesync_is_intact(T, manifest, NULL, &error), EAGAIN, "also by the manifest");
	ok(error.source, "as the source's fault");
	put(C, "racy", 100, 2);
	FAILS(restore_full(T, manifest, C, &options, NULL, &error), EAGAIN,
		  "and before it is copied");
	WORKS(filesync_adopt(T, NULL, &again, &error), "adopt what was written");
	ok(!filesync_manifest_is_same(manifest, again), "it is not the same");
	filesync_manifest_free(manifest);
	WORKS(restore_full(T, again, C, &options, NULL, &error), "restore the clone");
	ok(same_dir(T, C), "the contents are the same");

	put(T, "new", 1, 1);
	manifest = scan(T);
	ok(!filesync_manifest_is_same(again, manifest), "a new file is noticed");
	filesync_manifest_free(manifest);
	unlink(path_of(T, "new"));
	unlink(path_of(T, "1"));
	manifest = scan(T);
	ok(!filesync_manifest_is_same(again, manifest), "so is one that is gone");
	filesync_manifest_free(manifest);
	filesync_manifest_free(again);
	FAILS(filesync_adopt(path_of(root, "nowhere"), NULL, &manifest, &error), ENOENT,
		  "adopt a missing directory");
}

/*
 * Odd names, and swaps behind our back
 */
static void
test_names(void)
{
	static const char *const odd[] = {"a b", "new\nline", "\xff\xfe\x01",
	"%s%n", "-rf", "...", "'\"\\", " "};
	char		longest[256];
	FilesyncManifest *manifest;
	FilesyncNames *names = filesync_names_create();
	size_t		i;

	memset(longest, '\xe9', 255);
	longest[255] = '\0';
	fresh(T);
	for (i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
	{
		put_old(T, odd[i], 100 + i, (unsigned) i);
		filesync_names_add(names, odd[i]);
	}
	put_old(T, longest, 5, 5);
	filesync_names_add(names, longest);
	manifest = make_chain();
	ok(same_dir(T, C), "odd names are copied");
	for (i = 0; i < filesync_names_count(names); i++)
		unlink(path_of(C, filesync_names_get(names, (uint32_t) i)));
	WORKS(restore_changed(S, manifest, C, names, NULL, NULL, &error),
		  "and restored by name");
	ok(same_dir(T, C), "the contents are the same");
	unlink(path_of(S, "\xff\xfe\x01"));
	unlink(path_of(C, "\xff\xfe\x01"));
	FAILS(restore_full(S, manifest, C, NULL, NULL, &error), ENOENT,
		  "an error about such a name");
	ok(strstr(error.message, "\\xff\\xfe\\x01\"") != NULL,
	   "has it in ASCII: %s", strrchr(error.message, '/'));
	filesync_manifest_free(manifest);

	ok(!filesync_names_add(names, "") && !filesync_names_add(names, ".") &&
	   !filesync_names_add(names, "..") && !filesync_names_add(names, "a/b") &&
	   errno == EINVAL, "what can't be a file's name is refused");
	is_int(filesync_names_count(names), 9, "names in the set");
	ok(filesync_names_add(names, "a b"), "add one again");
	is_int(filesync_names_count(names), 9, "there are no more");
	ok(contains(names, longest), "find one");
	filesync_names_clear(names);
	ok(filesync_names_count(names) == 0 &&
	   !contains(names, longest), "clear it");
	for (i = 0; i < 20000; i++)
	{
		char		name[20];

		snprintf(name, sizeof(name), "%zu", i % 10000);
		must(filesync_names_add(names, name), name);
	}
	is_int(filesync_names_count(names), 10000, "add many");
	ok(contains(names, "9999") &&
	   !contains(names, "10000") &&
	   strcmp(filesync_names_get(names, 42), "42") == 0, "and find them");
	filesync_names_free(names);
	filesync_names_free(NULL);
	filesync_manifest_free(NULL);
}

static void
link_before_open(const char *function, const char *path)
{
	if (strcmp(function, "openat") != 0 || strcmp(path, "one") != 0)
		return;
	unlink(path_of(C, path));
	must(symlink(path_of(root, "outside"), path_of(C, path)) == 0, "symlink");
}

static void
pipe_before_open(const char *function, const char *path)
{
	if (strcmp(function, "openat") != 0 || strcmp(path, "one") != 0)
		return;
	unlink(path_of(C, path));
	must(mkfifo(path_of(C, path), 0600) == 0, "mkfifo");
}

static void
pipe_before_source_open(const char *function, const char *path)
{
	if (strcmp(function, "openat") != 0 || strcmp(path, "one") != 0)
		return;
	unlink(path_of(S, path));
	must(mkfifo(path_of(S, path), 0600) == 0, "mkfifo");
}

static void
swap_directory(const char *function, const char *path)
{
	if (strcmp(function, "openat") != 0 || strcmp(path, "one") != 0)
		return;
	must(rename(C, path_of(root, "moved")) == 0 &&
		 symlink(path_of(root, "elsewhere"), C) == 0, "swap");
	hook = NULL;
}

static void
test_swaps(void)
{
	FilesyncManifest *manifest;

	make_small_template();
	manifest = make_chain();
	put(root, "outside", 8192, 7);
	put(root, "outside_before", 8192, 7);
	put(C, "one", 8192, 60);
	hook = link_before_open;
	FAILS(restore_full(S, manifest, C, NULL, NULL, &error), ELOOP,
		  "a link that takes a file's place is not followed");
	ok(same_file(path_of(root, "outside"), path_of(root, "outside_before")),
	   "what it points to is untouched");
	hook = NULL;
	unlink(path_of(C, "one"));
	put(C, "one", 8192, 60);
	alarm(20);
	hook = pipe_before_open;
	FAILS(restore_full(S, manifest, C, NULL, NULL, &error), ENXIO,
		  "nor does a pipe in its place stop us");
	unlink(path_of(C, "one"));
	hook = pipe_before_source_open;
	(void) RUN(restore_full(S, manifest, C, NULL, NULL, &error));
	ok(!result, "nor one in the source");
	alarm(0);
	filesync_manifest_free(manifest);

	manifest = make_chain();
	put(C, "one", 8192, 60);
	fresh(path_of(root, "elsewhere"));
	put(path_of(root, "elsewhere"), "one", 8192, 7);
	hook = swap_directory;
	WORKS(restore_full(S, manifest, C, NULL, NULL, &error),
		  "another directory in the target's place doesn't matter");
	hook = NULL;
	ok(same_dir(S, path_of(root, "moved")) &&
	   same_file(path_of(root, "elsewhere/one"), path_of(root, "outside")),
	   "the one that was opened is restored");
	wipe(C);
	wipe(path_of(root, "moved"));
	wipe(path_of(root, "elsewhere"));
	filesync_manifest_free(manifest);
}

/* As an ordinary user. */
static void
test_permissions(void)
{
	FilesyncManifest *manifest;
	uid_t		user = geteuid();

	make_small_template();
	manifest = make_chain();
	if (user == 0)
	{
		must(sh("chmod 755 '%s' && chown -R 65534 '%s' '%s' '%s'", root, T, S,
				C) == 0, "chown");
		must(seteuid(65534) == 0, "seteuid");
	}
	put(C, "one", 8192, 1);
	chmod(path_of(S, "one"), 0);
	FAILS(restore_full(S, manifest, C, NULL, NULL, &error), EACCES,
		  "a source that can't be read");
	chmod(path_of(S, "one"), 0600);
	chmod(path_of(C, "one"), 0400);
	FAILS(restore_full(S, manifest, C, NULL, NULL, &error), EACCES,
		  "a target that can't be written");
	chmod(path_of(C, "one"), 0600);
	WORKS(restore_full(S, manifest, C, NULL, NULL, &error),
		  "then it works");
	filesync_manifest_free(manifest);
	chmod(T, 0);
	FAILS(filesync_scan(T, NULL, &manifest, &error), EACCES,
		  "a directory that can't be read");
	chmod(T, 0700);
	must(seteuid(user) == 0, "seteuid");
}

/*
 * Manifests
 */
static bool
same_manifest(const FilesyncManifest *a, const FilesyncManifest *b)
{
	uint32_t	i;

	if (filesync_manifest_count(a) != filesync_manifest_count(b) ||
		filesync_manifest_tag(a) != filesync_manifest_tag(b))
		return false;
	for (i = 0; i < filesync_manifest_count(a); i++)
	{
		FilesyncFile fa;
		FilesyncFile fb;

		filesync_manifest_get(a, i, &fa);
		if (!filesync_manifest_find(b, fa.name, &fb) || fa.size != fb.size ||
			fa.mtime != fb.mtime || fa.origin != fb.origin ||
			fa.racy != fb.racy)
			return false;
	}
	return true;
}

static char *
slurp(const char *path, size_t *len)
{
	FILE	   *file = fopen(path, "r");
	char	   *data = malloc(1 << 20);

	must(file != NULL, path);
	*len = fread(data, 1, 1 << 20, file);
	fclose(file);
	return data;
}

static void
spew(const char *path, const char *data, size_t len)
{
	FILE	   *file = fopen(path, "w");

	must(file && fwrite(data, 1, len, file) == len && fclose(file) == 0, path);
}

/* Whether reading a manifest from these bytes is refused as it should be. */
static bool
refused(const char *path, const char *data, size_t len)
{
	FilesyncManifest *manifest = (FilesyncManifest *) &manifest;

	spew(path, data, len);
	if (!filesync_manifest_read(path, &manifest, &error))
		return manifest == NULL && error.saved_errno == EBADMSG;
	filesync_manifest_free(manifest);
	return false;
}

/* Give an image the checksum that it ought to have. */
static void
seal(char *data, size_t len)
{
	uint64_t	sum = UINT64_C(14695981039346656037);
	size_t		i;

	memset(data + 32, 0, 8);
	for (i = 0; i < len; i++)
		sum = (sum ^ (unsigned char) data[i]) * UINT64_C(1099511628211);
	memcpy(data + 32, &sum, 8);
}

static void
test_manifest_damage(const char *path)
{
	size_t		len;
	char	   *data = slurp(path, &len);
	char	   *copy = malloc(len + 10);
	size_t		names = len - strlen("empty,one,two,three,");
	bool		good = true;
	uint64_t	text_len;
	size_t		i;
	int			bit;

	for (i = 0; i < len; i++)
	{
		memcpy(copy, data, len);
		for (bit = 0; bit < 8; bit++)
		{
			copy[i] = (char) (data[i] ^ (1 << bit));
			good = refused(path, copy, len) && good;
		}
		copy[i] = (char) ~data[i];
		good = refused(path, copy, len) && good;
	}
	ok(good, "each bit and byte flipped, of %zu bytes, is found", len);
	good = true;
	for (i = 0; i < len; i++)
		good = refused(path, data, i) && good;
	ok(good, "so is a manifest cut off anywhere");
	memcpy(copy, data, len);
	memset(copy + len, 0, 10);
	ok(refused(path, copy, len + 1), "or too long");

	/* Whoever wrote these knew how to make the checksum. */
	seal(copy, len);
	ok(memcmp(copy, data, len) == 0, "a checksum made by hand");
	memcpy(copy + names, "../x", 4);
	seal(copy, len);
	ok(refused(path, copy, len), "a name that leads elsewhere");
	memcpy(copy, data, len);
	copy[names] = '\0';
	seal(copy, len);
	ok(refused(path, copy, len), "an empty name");
	memcpy(copy, data, len);
	memset(copy + names, 'a', len - names);
	seal(copy, len);
	ok(refused(path, copy, len), "a name without end");
	memcpy(copy, data, len);
	memset(copy + 40, 0xff, 8);
	seal(copy, len);
	ok(refused(path, copy, len), "a negative size");
	memcpy(copy, data, len);
	memset(copy + 12, 0xff, 4);
	seal(copy, len);
	ok(refused(path, copy, len), "a count far too large");
	text_len = len - 40 - UINT64_C(0xffffffff) * 32;
	memcpy(copy + 16, &text_len, 8);
	seal(copy, len);
	ok(refused(path, copy, len), "that is made up for by the names' length");
	ok(!refused(path, data, len), "and the right one is read");
	free(data);
	free(copy);
}

static void
test_manifest(void)
{
	FilesyncManifest *manifest;
	FilesyncManifest *again;
	FilesyncOptions options = {0};
	char		path[PATH_MAX];
	char		far_path[PATH_MAX];
	struct stat st;

	snprintf(path, sizeof(path), "%s", path_of(root, "manifest"));
	make_small_template();
	put(T, "one", 8192, 9);
	manifest = scan(T);
	filesync_manifest_set_tag(manifest, UINT64_C(0x123456789abcdef0));
	WORKS(filesync_manifest_write(manifest, path, NULL, &error),
		  "write a manifest");
	WORKS(filesync_manifest_read(path, &again, &error), "read it");
	ok(same_manifest(manifest, again), "it is the same");
	filesync_manifest_free(again);
	test_manifest_damage(path);

	options.flags = FILESYNC_FSYNC;
	options.file_mode = 0640;
	must(symlink("manifest.victim", path_of(root, "manifest.new")) == 0,
		 "symlink");
	WORKS(filesync_manifest_write(manifest, path, &options, &error),
		  "write it over the old one, durable");
	is_int(ncalls[N_FSYNC], 2, "fsync of file and directory");
	ok(!exists(root, "manifest.new") && !exists(root, "manifest.victim"),
	   "nothing is left, and no link followed");
	ok(stat(path, &st) == 0 && (st.st_mode & 07777) == 0640, "its mode");
	filesync_manifest_free(manifest);

	fresh(T);
	manifest = scan(T);
	must(chdir(root) == 0, "chdir");
	WORKS(filesync_manifest_write(manifest, "manifest", &options, &error),
		  "write an empty one, to the current directory");
	WORKS(filesync_manifest_read(path, &again, &error), "read it");
	ok(same_manifest(manifest, again), "it is the same");
	filesync_manifest_free(again);
	FAILS(filesync_manifest_write(manifest, path_of(root, "no/where"), NULL,
								  &error), ENOENT, "write to nowhere");
	memset(far_path, 'a', sizeof(far_path));
	far_path[sizeof(far_path) - 2] = '\0';
	FAILS(filesync_manifest_write(manifest, far_path, NULL, &error),
		  ENAMETOOLONG, "write to a path that is too long");
	FAILS(filesync_manifest_read(path_of(root, "nowhere"), &again, &error),
		  ENOENT, "read from nowhere");
	FAILS(filesync_manifest_read(root, &again, &error), EBADMSG,
		  "read from a directory");
	filesync_manifest_free(manifest);
}

/*
 * Checks, markers, removing
 */
static int	checks_left;
static int	checks_made;

static bool
count_check(void *arg)
{
	checks_made++;
	return arg == NULL || checks_left-- > 0;
}

static void
test_check(void)
{
	FilesyncManifest *manifest;
	FilesyncOptions options = {0};

	make_template();
	manifest = make_chain();
	options.flags = FILESYNC_MARK;
	options.check = count_check;
	options.check_every = 4;
	wipe(C);
	checks_made = 0;
	WORKS(copy_dir(S, manifest, C, &options, NULL, NULL, &error),
		  "copy with a check every four files");
	is_int(checks_made >= 2, true, "it is called");
	options.arg = &options;
	checks_left = 1;
	wipe(C);
	FAILS(copy_dir(S, manifest, C, &options, NULL, NULL, &error),
		  ECANCELED, "copy that is stopped by the second check");
	ok(marked(C), "it is marked");
	checks_left = 0;
	FAILS(restore_full(S, manifest, C, &options, NULL, &error),
		  ECANCELED, "restore that is stopped");
	options.arg = NULL;
	WORKS(restore_full(S, manifest, C, &options, NULL, &error),
		  "restore that is not");
	ok(same_dir(S, C) && !marked(C), "makes it whole");
	filesync_manifest_free(manifest);
}

/*
 * Watching
 */
static FilesyncNames *heard;
static FilesyncNames *heard_entries;	/* of them, as FILESYNC_ENTRY */
static int	heard_gone;
static int	heard_overflow;
static int	heard_wd;

static void
listen_to(int wd, FilesyncEvent event, const char *name, void *arg)
{
	(void) arg;
	heard_wd = wd;
	if (event == FILESYNC_NAME || event == FILESYNC_ENTRY)
	{
		if (!filesync_names_add(heard, name) ||
			(event == FILESYNC_ENTRY && !filesync_names_add(heard_entries, name)))
			heard_overflow++;
	}
	else if (event == FILESYNC_GONE)
		heard_gone++;
	else
		heard_overflow++;
}

/*
 * Whether exactly these names, separated by commas, were heard, with + where it
 * was FILESYNC_ENTRY.
 */
static void
is_heard(int fd, const char *wanted, const char *what)
{
	char		line[1000] = "";
	uint32_t	i;

	filesync_names_clear(heard);
	filesync_names_clear(heard_entries);
	heard_gone = heard_overflow = 0;
	if (!RUN(filesync_watch_drain(fd, listen_to, NULL, &error)))
		strcpy(line, error.message);
	for (i = 0; i < filesync_names_count(heard); i++)
	{
		const char *name = filesync_names_get(heard, i);

		sprintf(line + strlen(line), "%s%s%s", i ? "," : "",
				contains(heard_entries, name) ? "+" : "", name);
	}
	if (!ok(strcmp(line, wanted) == 0, "%s", what))
		printf("#   heard: %s\n", line);
}

static void
test_watch_writes(int watch)
{
	char		data[100] = "data";
	int			fd = open(path_of(C, "one"), O_RDWR);
	int			in = open(path_of(C, "two"), O_RDONLY);
	void	   *map;

	is_heard(watch, "", "opening and reading are not heard");
	must(pwrite(fd, data, 10, 100) == 10, "pwrite");
	is_heard(watch, "one", "pwrite, the file still open");
	must(write(fd, data, 10) == 10, "write");
	is_heard(watch, "one", "write");
	must(ftruncate(fd, 1000) == 0, "ftruncate");
	is_heard(watch, "one", "ftruncate");
	must(posix_fallocate(fd, 0, 10000) == 0, "posix_fallocate");
	is_heard(watch, "one", "posix_fallocate");
	must(copy_file_range(in, NULL, fd, NULL, 1000, 0) == 1000, "range");
	is_heard(watch, "one", "copy_file_range");
	must(truncate(path_of(C, "one"), 20000) == 0, "truncate");
	is_heard(watch, "one", "truncate by name");
	set_time(C, "one", 1);
	is_heard(watch, "one", "setting the mtime alone");
	chmod(path_of(C, "one"), 0640);
	is_heard(watch, "", "permissions are not heard");
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	must(map != MAP_FAILED, "mmap");
	memset(map, 1, 4096);
	msync(map, 4096, MS_SYNC);
	munmap(map, 4096);
	is_heard(watch, "", "nor is a write through a mapping");
	close(fd);
	is_heard(watch, "", "closing is not heard");
	close(in);
}

static void
test_watch_names(int watch)
{
	int			fd;

	fd = open(path_of(C, "new"), O_WRONLY | O_CREAT, 0600);
	is_heard(watch, "+new", "making a file");
	unlink(path_of(C, "new"));
	is_heard(watch, "+new", "removing a file");
	must(write(fd, "x", 1) == 1, "write");
	is_heard(watch, "", "writing to what is removed is not heard");
	close(fd);
	is_heard(watch, "", "nor is closing it");
	must(rename(path_of(C, "two"), path_of(C, "three")) == 0, "rename");
	is_heard(watch, "+two,+three", "renaming, over another");
	put(root, "outside", 10, 1);
	is_heard(watch, "", "other directories are not heard");
	must(rename(path_of(root, "outside"), path_of(C, "inside")) == 0 &&
		 rename(path_of(C, "one"), path_of(root, "outside")) == 0, "rename");
	is_heard(watch, "+inside,+one", "renaming into and out of it");
	must(link(path_of(C, "three"), path_of(C, "link")) == 0, "link");
	is_heard(watch, "+link", "linking");
	mkdir(path_of(C, "sub"), 0700);
	is_heard(watch, "+sub", "making a subdirectory");
	rmdir(path_of(C, "sub"));
	(void) filesync_watch_drain(watch, listen_to, NULL, &error);
}

static void
test_watch_restore(int watch, const FilesyncManifest *manifest)
{
	FilesyncNames *set;
	uint32_t	i;

	must(restore_full(S, manifest, C, NULL, NULL, &error),
		 error.message);
	(void) filesync_watch_drain(watch, listen_to, NULL, &error);
	put(C, "one", 8192, 61);
	put(C, "fresh", 10, 61);
	unlink(path_of(C, "three"));
	is_heard(watch, "one,+fresh,+three", "a test's changes");
	set = filesync_names_create();
	for (i = 0; i < filesync_names_count(heard); i++)
		filesync_names_add(set, filesync_names_get(heard, i));
	WORKS(restore_changed(S, manifest, C, set, NULL, NULL, &error),
		  "are undone by what was heard");
	ok(same_dir(S, C), "the contents are the same");
	is_heard(watch, "+fresh,one,+three", "our own changes are heard, too");
	filesync_names_free(set);
}

static void
test_watch_overflow(int watch)
{
	int			a = open(path_of(C, "one"), O_WRONLY);
	int			b = open(path_of(C, "two"), O_WRONLY);
	int			limit = 16384;
	int			i;
	FILE	   *file = fopen("/proc/sys/fs/inotify/max_queued_events", "r");

	if (file == NULL || fscanf(file, "%d", &limit) != 1 || limit > 200000)
		limit = 0;
	if (file)
		fclose(file);
	if (limit == 0)
	{
		skip("overflow", "the queue is too long");
		return;
	}
	for (i = 0; i < limit; i++)
		must(pwrite(a, "x", 1, 0) == 1 && pwrite(b, "x", 1, 0) == 1, "write");
	is_heard(watch, "one,two", "more writes than the queue holds");
	is_int(heard_overflow, 1, "the overflow is told");
	is_int(heard_wd, -1, "without a directory");
	is_heard(watch, "", "afterwards the queue is empty");
	must(pwrite(a, "x", 1, 0) == 1, "write");
	is_heard(watch, "one", "and works again");
	close(a);
	close(b);
}

static void
write_before_read(const char *function, const char *path)
{
	int			i;

	(void) path;
	for (i = 0; i < 500 && strcmp(function, "read") == 0; i++)
	{
		put(C, "one", 10, 1);
		put(C, "two", 10, 1);
	}
}

static void
test_watch(void)
{
	FilesyncManifest *manifest;
	int			watch;
	int			wd;
	int			second;

	heard = filesync_names_create();
	heard_entries = filesync_names_create();
	make_small_template();
	manifest = make_chain();
	watch = filesync_watch_open(&error);
	ok(watch >= 0 && fcntl(watch, F_GETFD) == FD_CLOEXEC, "open a watch");
	wd = filesync_watch_add(watch, C, &error);
	ok(wd >= 0, "add a directory");
	is_heard(watch, "", "nothing is heard yet");
	test_watch_writes(watch);
	test_watch_names(watch);
	test_watch_restore(watch, manifest);
	is_int(heard_wd, wd, "the directory's number is told");
	test_watch_overflow(watch);

	put(C, "one", 10, 1);
	hook = write_before_read;
	is_heard(watch, "one,two", "a drain ends, even if writing does not");
	hook = NULL;
	is_int(ncalls[N_READ], 1, "after what was there");
	is_heard(watch, "one,two", "the rest comes next time");

	second = filesync_watch_add(watch, S, &error);
	ok(second >= 0 && second != wd, "add another directory");
	put(S, "one", 10, 1);
	is_heard(watch, "one", "it is heard");
	is_int(heard_wd, second, "by its own number");
	ok(filesync_watch_remove(watch, second, &error), "remove it");
	put(S, "one", 10, 1);
	is_heard(watch, "", "it is not heard any more");
	is_int(heard_gone, 1, "but for the echo");
	ok(filesync_watch_remove(watch, second, &error), "remove it again");

	must(rename(C, path_of(root, "moved")) == 0, "rename");
	is_heard(watch, "", "rename the directory");
	ok(heard_gone == 1 && heard_wd == wd, "it is gone");
	wipe(path_of(root, "moved"));
	(void) RUN(filesync_watch_drain(watch, listen_to, NULL, &error));
	ok(heard_gone > 1, "remove it, and it is gone");
	ok(filesync_watch_add(watch, C, &error) == -1 &&
	   error.saved_errno == ENOENT, "add a missing directory");
	ok(filesync_watch_add(watch, path_of(S, "one"), &error) == -1 &&
	   error.saved_errno == ENOTDIR, "add a file");
	must(symlink(S, C) == 0, "symlink");
	ok(filesync_watch_add(watch, C, &error) == -1, "add a link");
	wipe(C);
	close(watch);
	filesync_names_free(heard);
	filesync_names_free(heard_entries);
	filesync_manifest_free(manifest);
}

/*
 * Many files
 */
static void
test_many(void)
{
	FilesyncManifest *manifest;
	FilesyncManifest *again;
	char		path[PATH_MAX];
	int			i;

	snprintf(path, sizeof(path), "%s", path_of(root, "manifest"));
	fresh(T);
	for (i = 0; i < 11302; i++)
	{
		char		name[20];

		snprintf(name, sizeof(name), "%d%s", 16384 + i / 2, i % 2 ? "_fsm" : "");
		put_old(T, name, i % 3 ? 10 : 0, (unsigned) i);
	}
	manifest = make_chain();
	ok(filesync_manifest_count(manifest) == 11302 && same_dir(T, C),
	   "copy 11302 files, twice");
	WORKS(filesync_manifest_write(manifest, path, NULL, &error),
		  "write their manifest");
	WORKS(filesync_manifest_read(path, &again, &error), "read it");
	ok(same_manifest(manifest, again), "it is the same");
	put(C, "20000", 10, 99);
	unlink(path_of(C, "20001_fsm"));
	put(C, "extra", 10, 99);
	memset(&stats, 0, sizeof(stats));
	WORKS(restore_full(S, again, C, NULL, &stats, &error),
		  "restore by it");
	is_stats(11302, 0, 1, 1, 1, "changes what is needed");
	ok(same_dir(T, C), "the contents are the same");
	filesync_manifest_free(manifest);
	filesync_manifest_free(again);
}

/*
 * A full file system, and one that shares extents
 */
static void
test_full_disk(void)
{
	FilesyncManifest *manifest;
	FilesyncOptions options = {0};
	char		disk[PATH_MAX];

	snprintf(disk, sizeof(disk), "%s", path_of(root, "disk"));
	fresh(disk);
	if (geteuid() != 0 ||
		sh("mount -t tmpfs -o size=300k none '%s' 2>/dev/null", disk) != 0)
	{
		skip("full file system", "can't mount one");
		return;
	}
	make_small_template();
	manifest = scan(T);
	options.flags = FILESYNC_MARK;
	FAILS(copy_dir(T, manifest, path_of(disk, "C"), &options, NULL,
				   NULL, &error), ENOSPC, "copy to a full disk");
	ok(marked(path_of(disk, "C")), "it is marked");
	options.flags |= FILESYNC_NO_CLONE;
	FAILS(restore_full(T, manifest, path_of(disk, "C"), &options,
					   NULL, &error), ENOSPC, "restore on it");
	ok(marked(path_of(disk, "C")), "it is marked");
	filesync_manifest_free(manifest);
	must(sh("umount '%s'", disk) == 0, "umount");
}

static void
test_sharing(const char *type, const char *mkfs, int megabytes)
{
	FilesyncManifest *manifest;
	char		disk[PATH_MAX];

	snprintf(disk, sizeof(disk), "%s", path_of(root, "shared"));
	fresh(disk);
	if (geteuid() != 0 ||
		sh("cd '%s' && truncate -s %dM image && %s image >/dev/null 2>&1 && "
		   "mount -o loop image '%s' 2>/dev/null", root, megabytes, mkfs,
		   disk) != 0)
	{
		skip(type, "can't mount such a file system");
		return;
	}
	make_template();
	wipe(path_of(disk, "S"));
	must(copy_dir(T, NULL, path_of(disk, "S"), NULL, &manifest, NULL,
				  &error), error.message);
	ok(same_dir(T, path_of(disk, "S")), "%s: copy from another file system",
	   type);
	WORKS(copy_dir(path_of(disk, "S"), manifest, path_of(disk, "C"),
				   NULL, NULL, NULL, &error), "share extents");
	is_int(ncalls[N_CLONE], 10, "of all files with content");
	is_int(ncalls[N_RANGE] + ncalls[N_READ] + ncalls[N_WRITE], 0,
		   "nothing is copied");
	ok(same_dir(T, path_of(disk, "C")), "the contents are the same");
	snprintf(S, sizeof(S), "%s", path_of(disk, "S"));
	snprintf(C, sizeof(C), "%s", path_of(disk, "C"));
	check_restore(manifest, FILESYNC_MARK | FILESYNC_FSYNC, "sharing");
	check_restore(manifest, FILESYNC_NO_CLONE, "not sharing");
	must(truncate(path_of(S, "8192"), 8193) == 0, "truncate");
	unlink(path_of(C, "8192"));
	FAILS(restore_full(S, manifest, C, NULL, NULL, &error), EAGAIN,
		  "share a file of another size");
	snprintf(S, sizeof(S), "%s", path_of(root, "S"));
	snprintf(C, sizeof(C), "%s", path_of(root, "C"));
	filesync_manifest_free(manifest);
	must(sh("umount '%s' && rm '%s/image'", disk, root) == 0, "umount");
}

/*
 * A fault at each call
 */
typedef struct Scenario
{
	const char *name;
	int			flags;
	void		(*setup) (void);
	bool		(*run) (const FilesyncOptions *options);
	bool		(*good) (void); /* after success */
	bool		(*bad) (void);	/* after failure: as promised, healable */
} Scenario;

static FilesyncManifest *chain_manifest;
static FilesyncManifest *template_manifest;
static FilesyncNames *chain_names;
static char B[PATH_MAX];		/* what the target was before */

static void
free_chain(void)
{
	filesync_manifest_free(chain_manifest);
	filesync_manifest_free(template_manifest);
	filesync_names_free(chain_names);
	chain_manifest = template_manifest = NULL;
	chain_names = NULL;
}

/* Keep what a directory has for later. */
static void
remember(const char *dir)
{
	wipe(B);
	must(copy_dir(dir, NULL, B, NULL, NULL, NULL, &error),
		 error.message);
}

static void
setup_copy(void)
{
	free_chain();
	make_small_template();
	wipe(C);
}

static bool
run_copy(const FilesyncOptions *options)
{
	return copy_dir(T, NULL, C, options, &chain_manifest, NULL,
					&error);
}

static bool
good_copy(void)
{
	return same_dir(T, C) && manifest_is_true(chain_manifest, C);
}

static bool
bad_copy(void)
{
	int			files = count_files(C);

	if (chain_manifest != NULL ||
		(files > 0 && !marked(C) && !same_dir(T, C)))
		return false;
	wipe(C);
	return copy_dir(T, NULL, C, NULL, NULL, NULL, &error) &&
		same_dir(T, C);
}

static void
setup_restore(void)
{
	free_chain();
	make_small_template();
	chain_manifest = make_chain();
	put(C, "one", 8192, 90);
	put(C, "two", 400000, 90);
	unlink(path_of(C, "three"));
	put(C, "extra", 10, 90);
	chain_names = names_of("one", "two", "three", "extra", NULL);
	remember(C);
}

static bool
run_restore(const FilesyncOptions *options)
{
	return restore_full(S, chain_manifest, C, options, NULL, &error);
}

static bool
run_changed(const FilesyncOptions *options)
{
	return restore_changed(S, chain_manifest, C, chain_names, options,
						   NULL, &error);
}

static bool
good_restore(void)
{
	bool		same = same_dir(S, C);

	memset(&stats, 0, sizeof(stats));
	return same &&
		restore_full(S, chain_manifest, C, NULL, &stats, &error) &&
		stats.examined == 4 && stats.copied + stats.created == 0;
}

static bool
bad_restore(void)
{
	return (marked(C) || same_dir(C, B) || same_dir(C, S)) &&
		run_restore(NULL) && good_restore();
}

/* Without the marker it's up to the caller to know, but a restore heals. */
static bool
bad_unmarked(void)
{
	return run_restore(NULL) && good_restore();
}

static void
setup_refresh(void)
{
	free_chain();
	make_small_template();
	put(T, "racy", 300001, 40);
	chain_manifest = make_chain();
	put(T, "one", 8192, 41);
	put(T, "new", 20, 41);
	unlink(path_of(T, "three"));
	set_time(T, "racy", now() - 10 * SECOND);
	template_manifest = scan(T);
	remember(S);
}

static bool
run_refresh(const FilesyncOptions *options)
{
	FilesyncManifest *copy;

	if (!refresh(T, template_manifest, S, chain_manifest, options,
				 &copy, NULL, &error))
		return false;
	filesync_manifest_free(chain_manifest);
	chain_manifest = copy;
	return true;
}

static bool
good_refresh(void)
{
	return same_dir(T, S) && manifest_is_true(chain_manifest, S);
}

static bool
bad_refresh(void)
{
	return marked(S) || same_dir(S, B) || same_dir(S, T);
}

static bool
run_scan(const FilesyncOptions *options)
{
	return filesync_scan(T, options, &chain_manifest, &error);
}

static void
setup_adopt(void)
{
	setup_copy();
	put(T, "racy", 300001, 40);
	put(T, "racy, too", 0, 40);
}

static bool
run_adopt(const FilesyncOptions *options)
{
	return filesync_adopt(T, options, &chain_manifest, &error);
}

static bool
good_adopt(void)
{
	return manifest_is_true(chain_manifest, T) &&
		filesync_is_intact(T, chain_manifest, NULL, &error);
}

static bool
good_scan(void)
{
	return manifest_is_true(chain_manifest, T);
}

static bool
bad_scan(void)
{
	return chain_manifest == NULL;
}

/* The file has an older manifest, of no files. */
static void
setup_manifest(void)
{
	FilesyncManifest *empty;

	setup_copy();
	wipe(S);
	fresh(S);
	empty = scan(S);
	must(filesync_manifest_write(empty, path_of(root, "manifest"), NULL,
								 &error), error.message);
	filesync_manifest_free(empty);
	template_manifest = scan(T);
}

static bool
run_write(const FilesyncOptions *options)
{
	return filesync_manifest_write(template_manifest,
								   path_of(root, "manifest"), options, &error);
}

static bool
good_write(void)
{
	return !exists(root, "manifest.new") &&
		filesync_manifest_read(path_of(root, "manifest"), &chain_manifest,
							   &error) &&
		same_manifest(chain_manifest, template_manifest);
}

static bool
bad_write(void)
{
	return filesync_manifest_read(path_of(root, "manifest"), &chain_manifest,
								  &error) &&
		(filesync_manifest_count(chain_manifest) == 0 ||
		 same_manifest(chain_manifest, template_manifest));
}

static void
setup_read(void)
{
	setup_manifest();
	must(run_write(NULL), error.message);
}

static bool
run_read(const FilesyncOptions *options)
{
	(void) options;
	return filesync_manifest_read(path_of(root, "manifest"), &chain_manifest,
								  &error);
}

static bool
good_read(void)
{
	return same_manifest(chain_manifest, template_manifest);
}

static void
setup_watch(void)
{
	setup_restore();
	heard = filesync_names_create();
	heard_entries = filesync_names_create();
}

/* A loss is told, by an error or by an event; else the name is heard. */
static bool
run_watch(const FilesyncOptions *options)
{
	int			fd = filesync_watch_open(&error);
	bool		done = false;
	int			wd;

	(void) options;
	heard_gone = heard_overflow = 0;
	if (fd < 0)
		return false;
	wd = filesync_watch_add(fd, C, &error);
	if (wd >= 0)
	{
		armed = false;
		put(C, "one", 10, 10);
		armed = true;
		done = filesync_watch_drain(fd, listen_to, NULL, &error) &&
			filesync_watch_remove(fd, wd, &error);
	}
	__real_close(fd);
	return done;
}

static bool
good_watch(void)
{
	bool		good = heard_overflow > 0 ||
		contains(heard, "one");

	filesync_names_free(heard);
	filesync_names_free(heard_entries);
	return good;
}

static bool
bad_watch(void)
{
	filesync_names_free(heard);
	filesync_names_free(heard_entries);
	return true;
}

static const Scenario scenarios[] = {
	{"copy", FILESYNC_MARK | FILESYNC_FSYNC, setup_copy, run_copy, good_copy, bad_copy},
	{"copy by buffer", FILESYNC_MARK | FILESYNC_NO_CLONE, setup_copy, run_copy, good_copy, bad_copy},
	{"restore", FILESYNC_MARK | FILESYNC_FSYNC, setup_restore, run_restore, good_restore, bad_restore},
	{"restore by buffer", FILESYNC_MARK | FILESYNC_NO_CLONE, setup_restore, run_restore, good_restore, bad_restore},
	{"restore unmarked", 0, setup_restore, run_restore, good_restore, bad_unmarked},
	{"restore by names", FILESYNC_MARK, setup_restore, run_changed, good_restore, bad_restore},
	{"refresh", FILESYNC_MARK | FILESYNC_FSYNC, setup_refresh, run_refresh, good_refresh, bad_refresh},
	{"refresh by buffer", FILESYNC_MARK | FILESYNC_NO_CLONE, setup_refresh, run_refresh, good_refresh, bad_refresh},
	{"scan", 0, setup_copy, run_scan, good_scan, bad_scan},
	{"adopt", 0, setup_adopt, run_adopt, good_adopt, bad_scan},
	{"write manifest", FILESYNC_FSYNC, setup_manifest, run_write, good_write, bad_write},
	{"read manifest", 0, setup_read, run_read, good_read, bad_scan},
	{"watch", 0, setup_watch, run_watch, good_watch, bad_watch},
};

/* Whether the failure of a function with an errno need not be an error. */
static bool
harmless(const char *function, int errnum)
{
	static const char *const hints[] = {"close", "sync_file_range",
	"clock_gettime", "unlink"};
	size_t		i;

	for (i = 0; i < sizeof(hints) / sizeof(hints[0]); i++)
	{
		if (strcmp(function, hints[i]) == 0)
			return true;
	}
	return errnum == EOPNOTSUPP && (strcmp(function, "FICLONE") == 0 ||
									strcmp(function, "copy_file_range") == 0);
}

/* Let the nth call fail.  Returns false when there is no nth call. */
static bool
try_fault(const Scenario *scenario, int nth, bool *passed)
{
	FilesyncOptions options = {0};
	int			fds;
	bool		done;
	bool		right;

	scenario->setup();
	options.flags = scenario->flags;
	memset(&error, 0, sizeof(error));
	fds = count_fds();
	fault_at = nth;
	fault_calls = 0;
	fault_fired = false;
	armed = true;
	done = scenario->run(&options);
	armed = false;
	right = count_fds() == fds;
	if (!right)
		printf("#   %s: call %d: a descriptor is left\n", scenario->name, nth);
	if (!done && (error.saved_errno == 0 || error.message[0] == '\0'))
	{
		right = false;
		printf("#   %s: call %d: no error is set\n", scenario->name, nth);
	}
	if (fault_fired && fault_kind == FAULT_ERRNO && fault_errno != EINTR &&
		(done ? !harmless(fault_function, fault_errno) :
		 error.saved_errno != fault_errno))
	{
		right = false;
		printf("#   %s: call %d: error of %s() not told: %s\n", scenario->name,
			   nth, fault_function, error.message);
	}

	/* Only true failures are failures. */
	if (!done && (!fault_fired || fault_kind == FAULT_SHORT ||
				  fault_errno == EINTR))
	{
		right = false;
		printf("#   %s: call %d: failed: %s\n", scenario->name, nth,
			   error.message);
	}
	if (!(done ? scenario->good() : scenario->bad()))
	{
		right = false;
		printf("#   %s: call %d: %s: %s\n", scenario->name, nth,
			   done ? "succeeded, and is wrong" : "failed, and is wrong",
			   error.message);
	}
	*passed = *passed && right;
	return fault_fired;
}

static void
test_faults(FaultKind kind, int errnum, const char *what)
{
	size_t		i;

	for (i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++)
	{
		bool		passed = true;
		int			nth = 1;

		fault_kind = kind;
		fault_errno = errnum;
		while (try_fault(&scenarios[i], nth, &passed))
			nth++;
		fault_kind = FAULT_NONE;
		fault_errno = 0;
		ok(passed, "%s at each of %d calls: %s", what, nth - 1,
		   scenarios[i].name);
	}
	free_chain();
}

int
main(void)
{
	const char *base = getenv("FILESYNC_TEST_DIR");
	bool		quick = getenv("FILESYNC_TEST_QUICK") != NULL;
	int			fds = count_fds();

	if (base == NULL)
		base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	snprintf(root, sizeof(root), "%s/filesync_test.XXXXXX", base);
	must(mkdtemp(root) != NULL, root);
	snprintf(T, sizeof(T), "%s", path_of(root, "T"));
	snprintf(S, sizeof(S), "%s", path_of(root, "S"));
	snprintf(C, sizeof(C), "%s", path_of(root, "C"));
	snprintf(B, sizeof(B), "%s", path_of(root, "B"));

	test_scan();
	test_racy();
	test_copy();
	test_restore();
	test_restore_changed();
	test_refresh();
	test_direct_clone();
	test_adopt();
	test_names();
	test_swaps();
	test_permissions();
	test_manifest();
	test_check();
	test_watch();
	test_full_disk();
	if (!quick)
	{
		test_many();
		test_sharing("btrfs", "mkfs.btrfs -q", 128);
		test_sharing("xfs", "mkfs.xfs -q", 400);
	}
	test_faults(FAULT_ERRNO, EIO, "EIO");
	test_faults(FAULT_ERRNO, EINTR, "EINTR");
	test_faults(FAULT_SHORT, 0, "short transfer");
	test_faults(FAULT_MEMORY, 0, "out of memory");
	if (!quick)
	{
		test_faults(FAULT_ERRNO, ENOSPC, "ENOSPC");
		test_faults(FAULT_ERRNO, EDQUOT, "EDQUOT");
		test_faults(FAULT_ERRNO, EOPNOTSUPP, "EOPNOTSUPP");
	}
	is_int(count_fds(), fds, "no descriptor is left open");

	must(chdir("/") == 0, "chdir");
	wipe(root);
	printf("1..%d\n", ntests);
	return nfailed != 0;
}
