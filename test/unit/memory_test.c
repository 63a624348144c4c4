/*-------------------------------------------------------------------------
 *
 * memory_test.c
 *	  Tests of memory.c, without a server.  Prints TAP.
 *
 * Sources: src/memory.c src/mount.c
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memory.h"

#define MB	INT64_C(1048576)

static int	ntests = 0;
static int	nfailed = 0;
static char root[] = "/tmp/memory_test.XXXXXX";

static void
must(int done, const char *what)
{
	if (done)
		return;
	perror(what);
	exit(1);
}

/* Write a file below the root, with the folders that it needs. */
static void
put(const char *name, const char *content)
{
	char		path[PATH_MAX];
	FILE	   *file;

	snprintf(path, sizeof(path), "%s/%s", root, name);
	for (char *slash = strchr(path + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/'))
	{
		*slash = '\0';
		must(mkdir(path, 0700) == 0 || errno == EEXIST, path);
		*slash = '/';
	}
	file = fopen(path, "w");
	must(file != NULL && fputs(content, file) >= 0 && fclose(file) == 0, path);
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void) st;
	(void) type;
	(void) ftw;
	return remove(path);
}

/* Begin with an empty root. */
static void
clear(void)
{
	must(nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0, root);
	must(mkdir(root, 0700) == 0, root);
}

/* What must be found: MB free of so many, -1 if nothing is known. */
static void
expect(const char *title, int64_t free_mb, int64_t total_mb, bool container)
{
	MemoryRoom	memory;
	bool		known = memory_get_room(root, &memory);
	bool		good;

	good = free_mb < 0 ? !known :
		known && memory.free == free_mb * MB && memory.total == total_mb * MB &&
		memory.container == container;
	ntests++;
	printf("%sok %d - %s\n", good ? "" : "not ", ntests, title);
	if (good)
		return;
	nfailed++;
	if (known)
		printf("#   %lld of %lld bytes free%s\n", (long long) memory.free,
			   (long long) memory.total, memory.container ? ", in a container" : "");
}

/* A machine with 1000 of 4000 MB free. */
static void
put_machine(void)
{
	clear();
	put("proc/meminfo",
		"MemTotal:        4096000 kB\n"
		"MemFree:          102400 kB\n"
		"MemAvailable:    1024000 kB\n"
		"Buffers:           10240 kB\n");
}

/* Mounts and groups of version 2 alone. */
static void
put_version_2(const char *group)
{
	char		line[200];

	put_machine();
	put("proc/self/mountinfo",
		"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
		"30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
	snprintf(line, sizeof(line), "0::%s\n", group);
	put("proc/self/cgroup", line);
}

/* The same of version 1, with mount_root as what is mounted, beside a version 2 that has nothing to say. */
static void
put_version_1(const char *mount_root, const char *group)
{
	char		text[600];

	put_machine();
	snprintf(text, sizeof(text),
			 "31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
			 "32 30 0:28 %s /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
			 "33 30 0:29 %s /sys/fs/cgroup/memory rw shared:4 - cgroup cgroup rw,memory\n",
			 mount_root, mount_root);
	put("proc/self/mountinfo", text);
	snprintf(text, sizeof(text), "9:name=systemd:/x\n4:cpu,cpuacct:/y\n3:memory:%s\n0::/\n", group);
	put("proc/self/cgroup", text);
}

static void
test_machine(void)
{
	clear();
	expect("nothing is known", -1, 0, false);
	put_machine();
	expect("what is available, not what is free", 1000, 4000, false);
	put("proc/meminfo", "MemTotal:        4096000 kB\nMemFree: 1024 kB\n");
	expect("an old kernel does not say what is available", -1, 0, false);
	put("proc/meminfo", "MemAvailable: much\n");
	expect("no number", -1, 0, false);
}

static void
test_version_2(void)
{
	put_version_2("/a/b");
	expect("no limit is there", 1000, 4000, false);
	put("sys/fs/cgroup/a/b/memory.max", "max\n");
	put("sys/fs/cgroup/a/b/memory.current", "104857600\n");
	expect("a group without a limit", 1000, 4000, false);
	put("sys/fs/cgroup/a/b/memory.max", "524288000\n");
	expect("a group with a limit", 400, 500, true);
	put("sys/fs/cgroup/a/b/memory.stat",
		"anon 1\nfile 52428800\nshmem 1\ninactive_anon 999999999\nactive_anon 999999999\n"
		"inactive_file 20971520\nactive_file 41943040\nslab 1\n");
	expect("the page cache can be had, half of what is active", 440, 500, true);
	put("sys/fs/cgroup/a/b/memory.high", "max\n");
	expect("no limit below that", 440, 500, true);
	put("sys/fs/cgroup/a/b/memory.high", "314572800\n");
	expect("the lower of two limits", 240, 300, true);
	put("sys/fs/cgroup/a/b/memory.max", "max\n");
	expect("the lower alone", 240, 300, true);
	put("sys/fs/cgroup/a/b/memory.high", "1048576000\n");
	put("sys/fs/cgroup/a/b/memory.max", "524288000\n");
	expect("one that is above the other", 440, 500, true);
	put("sys/fs/cgroup/a/b/memory.high", "max\n");
	put("sys/fs/cgroup/a/memory.max", "209715200\n");
	put("sys/fs/cgroup/a/memory.current", "199229440\n");
	expect("a group around it with less", 10, 200, true);
	put("sys/fs/cgroup/a/memory.current", "299229440\n");
	expect("a group that takes more than it may", 0, 200, true);
	put("sys/fs/cgroup/a/memory.max", "max\n");
	put("sys/fs/cgroup/a/b/memory.max", "52428800000\n");
	expect("a limit beyond what the machine has", 1000, 4000, false);
	put("proc/meminfo", "nothing\n");
	expect("then what is known", 49940, 50000, true);

	put_version_2("/");
	put("sys/fs/cgroup/memory.max", "104857600\n");
	put("sys/fs/cgroup/memory.current", "1048576\n");
	expect("a container's own group", 99, 100, true);
	put_version_2("/../other");
	put("sys/fs/cgroup/memory.max", "104857600\n");
	put("sys/fs/cgroup/memory.current", "1048576\n");
	expect("a group outside of what can be seen", 99, 100, true);
	put("sys/fs/cgroup/memory.current", "");
	expect("an empty file", 1000, 4000, false);
}

/*
 * A cgroup namespace of its own, with the root /slice/own, whose hierarchy was
 * mounted outside of it.
 */
static void
test_namespace(void)
{
	char		procs[50];
	const char *mounts = "30 22 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

	put_version_2("/");
	put("proc/self/mountinfo", mounts);
	put("sys/fs/cgroup/slice/other/memory.max", "10485760\n");
	put("sys/fs/cgroup/slice/other/memory.current", "0\n");
	put("sys/fs/cgroup/slice/own/memory.max", "209715200\n");
	put("sys/fs/cgroup/slice/own/memory.current", "104857600\n");
	put("sys/fs/cgroup/cgroup.procs", "1\n2\n");
	put("sys/fs/cgroup/slice/other/cgroup.procs", "3\n");
	put("sys/fs/cgroup/slice/own/cgroup.procs", "4\n0\n");
	expect("a namespace: no group that is seen has this process", 1000, 4000, false);
	snprintf(procs, sizeof(procs), "4\n%d\n0\n", (int) getpid());
	put("sys/fs/cgroup/slice/own/cgroup.procs", procs);
	expect("a namespace: the group with this process", 100, 200, true);
	put("sys/fs/cgroup/slice/memory.max", "104857600\n");
	put("sys/fs/cgroup/slice/memory.current", "52428800\n");
	expect("a namespace: a group around it with less", 50, 100, true);

	put("proc/self/cgroup", "0::/sub\n");
	put("sys/fs/cgroup/slice/own/sub/cgroup.procs", procs);
	put("sys/fs/cgroup/slice/own/sub/memory.max", "10485760\n");
	put("sys/fs/cgroup/slice/own/sub/memory.current", "1048576\n");
	expect("a namespace: a group in it", 9, 10, true);

	put("proc/self/cgroup", "0::/../third\n");
	put("sys/fs/cgroup/slice/third/cgroup.procs", procs);
	put("sys/fs/cgroup/slice/third/memory.max", "20971520\n");
	put("sys/fs/cgroup/slice/third/memory.current", "1048576\n");
	expect("a namespace: a group beside it", 19, 20, true);

	put("proc/self/cgroup", "0::/\n");
	put("proc/self/mountinfo",
		"30 22 0:26 /../other /mnt rw - cgroup2 cgroup2 rw\n"
		"31 22 0:26 /elsewhere /mnt2 rw - cgroup2 cgroup2 rw\n"
		"32 22 0:26 / /sys/fs/own rw - cgroup2 cgroup2 rw\n");
	put("mnt/memory.max", "1048576\n");
	put("mnt/memory.current", "0\n");
	put("mnt2/memory.max", "1048576\n");
	put("mnt2/memory.current", "0\n");
	put("sys/fs/own/memory.max", "209715200\n");
	put("sys/fs/own/memory.current", "0\n");
	expect("the mount that has the group, not the first", 200, 200, true);
}

static void
test_version_1(void)
{
	put_version_1("/", "/a");
	put("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
	put("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "104857600\n");
	expect("version 1: a group without a limit", 1000, 4000, false);
	put("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "524288000\n");
	put("sys/fs/cgroup/memory/a/memory.stat",
		"inactive_file 99999999\nactive_file 99999999\ntotal_inactive_file 10485760\ntotal_active_file 20971520\n");
	expect("version 1: a group with a limit", 420, 500, true);
	put("sys/fs/cgroup/memory/memory.limit_in_bytes", "209715200\n");
	put("sys/fs/cgroup/memory/memory.usage_in_bytes", "104857600\n");
	expect("version 1: a group around it with less", 100, 200, true);

	put_version_1("/docker/ab", "/docker/ab");
	put("sys/fs/cgroup/memory/memory.limit_in_bytes", "209715200\n");
	put("sys/fs/cgroup/memory/memory.usage_in_bytes", "104857600\n");
	expect("version 1: the mount is the container's group", 100, 200, true);
	put_version_1("/docker/ab", "/docker/ab/c");
	put("sys/fs/cgroup/memory/c/memory.limit_in_bytes", "209715200\n");
	put("sys/fs/cgroup/memory/c/memory.usage_in_bytes", "104857600\n");
	expect("version 1: a group below that", 100, 200, true);
	put_version_1("/docker/ab", "/docker/abc");
	put("sys/fs/cgroup/memory/c/memory.limit_in_bytes", "1048576\n");
	put("sys/fs/cgroup/memory/c/memory.usage_in_bytes", "0\n");
	put("sys/fs/cgroup/memory/memory.limit_in_bytes", "209715200\n");
	put("sys/fs/cgroup/memory/memory.usage_in_bytes", "104857600\n");
	expect("version 1: a group whose name begins the same", 100, 200, true);
	put("proc/self/cgroup", "3:memory\n0::/\n");
	expect("version 1: half a line", 1000, 4000, false);

	put("proc/self/mountinfo",
		"33 30 0:29 / /sys/fs/my\\040groups rw - cgroup none rw,memory\n");
	put("proc/self/cgroup", "3:hugetlb,memory:/x\n");
	put("sys/fs/my groups/x/memory.limit_in_bytes", "209715200\n");
	put("sys/fs/my groups/x/memory.usage_in_bytes", "104857600\n");
	expect("version 1: a place with a space, one of several controllers", 100, 200, true);
}

/* Shared memory of 8 MB, of which other processes use more and more. */
static void
test_untouched(void)
{
	char	   *shared = mmap(NULL, 8 * MB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	must(shared != MAP_FAILED, "mmap");
	for (int used = 0; used <= 8; used += 4)
	{
		pid_t		pid = fork();

		must(pid >= 0, "fork");
		if (pid == 0)
		{
			memset(shared, 1, used * MB);
			_exit(0);
		}
		must(waitpid(pid, NULL, 0) == pid, "waitpid");
		ntests++;
		if (memory_get_untouched(shared, 8 * MB) != (8 - used) * MB)
			nfailed++, printf("not ");
		printf("ok %d - shared memory of which %d of 8 MB are used\n", ntests, used);
	}
	munmap(shared, 8 * MB);
}

int
main(void)
{
	MemoryRoom	memory;
	MemoryRoom	again;

	must(mkdtemp(root) != NULL, root);
	test_machine();
	test_version_2();
	test_namespace();
	test_version_1();
	test_untouched();
	clear();
	must(rmdir(root) == 0, root);

	/* The system's own. */
	ntests++;
	if (!memory_get_room("", &memory) || memory.free <= 0 || memory.total < memory.free)
		nfailed++, printf("not ");
	printf("ok %d - this system\n", ntests);
	printf("# %lld of %lld MB free%s\n", (long long) (memory.free / MB),
		   (long long) (memory.total / MB), memory.container ? ", in a container" : "");

	/* Now the mounts are remembered. */
	ntests++;
	if (!memory_get_room("", &again) || again.total != memory.total ||
		again.container != memory.container)
		nfailed++, printf("not ");
	printf("ok %d - this system, the second time\n", ntests);

	printf("1..%d\n", ntests);
	return nfailed ? 1 : 0;
}
