/*-------------------------------------------------------------------------
 *
 * memory.c
 *	  The memory that the machine and the container have left.
 *
 * Files in a tmpfs occupy memory.  The size of the tmpfs limits what it may
 * occupy, which can be more than is available: by default it is half of all
 * memory, whatever other programs use, and in a container it often exceeds
 * the container's limit.  If memory is exhausted, the kernel kills processes.
 *
 * The machine's available memory is in /proc/meminfo.  A container is a
 * control group (cgroup) of processes, whose memory is limited by its own
 * limit and by those of all groups above it.  There are two versions of the
 * interface; both can be mounted, and version 2 may not control memory.  A
 * group's usage includes the page cache, which the kernel reclaims: all
 * inactive pages are counted as free here, and half of the active ones.
 * Files in a tmpfs count as neither.
 *
 * If /proc/self/cgroup names a group that is not below the root of the mount,
 * the name is from outside the container, and the mount point is the
 * container's own group.
 *
 * Plain POSIX: no header of PostgreSQL here.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "memory.h"
#include "mount.h"

/* A version of the interface: names of files, and of lines in memory.stat */
typedef struct CgroupVersion
{
	const char *type;			/* type of its file system */
	const char *option;			/* mount option by which it is found, or NULL */
	const char *limit;
	const char *usage;
	const char *inactive;
	const char *active;
} CgroupVersion;

static const CgroupVersion versions[] = {
	{"cgroup2", NULL, "memory.max", "memory.current", "inactive_file ", "active_file "},
	{"cgroup", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
	"total_inactive_file ", "total_active_file "},
};

/* The mount of a version's hierarchy, as last read. */
typedef struct CgroupMount
{
	time_t		read_at;		/* s, on a monotonic clock; 0 if never */
	bool		found;
	char		root[PATH_MAX]; /* the mounted directory of the hierarchy */
	char		point[PATH_MAX];	/* where it is mounted */
} CgroupMount;

/* For how long a mount is remembered, in s. */
#define MOUNT_AGE	10

/* Version 1 has a number close to the maximum if there is no limit. */
#define NO_LIMIT	(INT64_MAX / 2)

/*
 * Read the number that follows a word at the beginning of a line of a file;
 * an empty word stands for the first line.  False if there is none: it may be
 * "max", which means no limit.
 */
static bool
read_number(const char *path, const char *word, int64_t *number)
{
	FILE	   *file = fopen(path, "r");
	char		line[256];
	size_t		length = strlen(word);
	bool		found = false;

	if (file == NULL)
		return false;
	while (!found && fgets(line, sizeof(line), file) != NULL)
		if (strncmp(line, word, length) == 0)
		{
			char	   *end;

			errno = 0;
			*number = strtoll(line + length, &end, 10);
			found = end != line + length && (errno == 0 || *number == INT64_MAX);
			break;
		}
	fclose(file);
	return found;
}

/*
 * The same for a file in a directory.
 */
static bool
read_number_in(const char *dir, const char *name, const char *word, int64_t *number)
{
	char		path[PATH_MAX];

	return snprintf(path, sizeof(path), "%s/%s", dir, name) < (int) sizeof(path) &&
		read_number(path, word, number);
}

/*
 * Set *room to the lesser of itself and these values, by the free bytes.
 */
static void
take_least(MemoryRoom *room, int64_t free, int64_t total, bool container)
{
	if (free < 0)
		free = 0;
	if (free >= room->free)
		return;
	room->free = free;
	room->total = total;
	room->container = container;
}

/*
 * Take the limit of one control group into account, if it has one.
 */
static void
consider_group(const char *dir, const CgroupVersion *version, MemoryRoom *room)
{
	int64_t		limit;
	int64_t		usage;
	int64_t		inactive = 0;
	int64_t		active = 0;

	if (!read_number_in(dir, version->limit, "", &limit) || limit >= NO_LIMIT ||
		!read_number_in(dir, version->usage, "", &usage))
		return;
	(void) read_number_in(dir, "memory.stat", version->inactive, &inactive);
	(void) read_number_in(dir, "memory.stat", version->active, &active);
	take_least(room, limit - usage + inactive + active / 2, limit, true);
}

/*
 * Report whether a line of /proc/self/cgroup, "number:controllers:path",
 * belongs to this version.
 */
static bool
line_is_of(const char *line, const CgroupVersion *version)
{
	const char *list = strchr(line, ':');
	const char *end = list ? strchr(list + 1, ':') : NULL;
	size_t		length;

	if (end == NULL)
		return false;
	list++;
	if (version->option == NULL)
		return end == list;
	length = strlen(version->option);
	for (const char *at = list; at < end; at += strcspn(at, ",:") + 1)
		if (strcspn(at, ",:") == length && strncmp(at, version->option, length) == 0)
			return true;
	return false;
}

/*
 * Put the path of this process's group, from a file in the format of
 * /proc/self/cgroup, into path (PATH_MAX bytes); false if there is none.
 */
static bool
find_group(const char *table, const CgroupVersion *version, char *path)
{
	FILE	   *file = fopen(table, "r");
	char		line[PATH_MAX + 256];
	bool		found = false;

	if (file == NULL)
		return false;
	while (!found && fgets(line, sizeof(line), file) != NULL)
		if (line_is_of(line, version))
		{
			line[strcspn(line, "\n")] = '\0';
			found = snprintf(path, PATH_MAX, "%s",
							 strchr(strchr(line, ':') + 1, ':') + 1) < PATH_MAX;
		}
	fclose(file);
	return found;
}

/*
 * Return the mount of a version's hierarchy, or NULL if there is none.  It is
 * remembered for MOUNT_AGE, since the table of mounts can be long, and this is
 * called often; not in tests, which have a root of their own.
 */
static const CgroupMount *
get_mount(const char *root, const CgroupVersion *version)
{
	static CgroupMount mounts[sizeof(versions) / sizeof(versions[0])];
	CgroupMount *mount = &mounts[version - versions];
	struct timespec now = {0};
	char		table[PATH_MAX];

	(void) clock_gettime(CLOCK_MONOTONIC, &now);
	if (root[0] != '\0' || mount->read_at == 0 || now.tv_sec - mount->read_at >= MOUNT_AGE)
	{
		mount->found =
			snprintf(table, sizeof(table), "%s/proc/self/mountinfo", root) < PATH_MAX &&
			mount_find(table, version->type, version->option, mount->root, mount->point);
		mount->read_at = root[0] != '\0' ? 0 : now.tv_sec;
	}
	return mount->found ? mount : NULL;
}

/*
 * Take all groups of one version into account that contain this process: its
 * own, and those above it up to the mount point.
 */
static void
consider_version(const char *root, const CgroupVersion *version, MemoryRoom *room)
{
	const CgroupMount *mount = get_mount(root, version);
	char		table[PATH_MAX];
	char		group[PATH_MAX];
	char		dir[2 * PATH_MAX];
	size_t		length;
	size_t		top;

	if (mount == NULL ||
		snprintf(table, sizeof(table), "%s/proc/self/cgroup", root) >= PATH_MAX ||
		!find_group(table, version, group))
		return;

	length = strcmp(mount->root, "/") == 0 ? 0 : strlen(mount->root);
	if (strncmp(group, mount->root, length) != 0 ||
		(group[length] != '/' && group[length] != '\0') ||
		strncmp(group, "/..", 3) == 0)
		group[length = 0] = '\0';
	if (snprintf(dir, sizeof(dir), "%s%s%s", root, mount->point, group + length) >= (int) sizeof(dir))
		return;
	top = strlen(root) + strlen(mount->point);
	for (;;)
	{
		char	   *slash;

		consider_group(dir, version, room);
		slash = strrchr(dir, '/');
		if (slash == NULL || (size_t) (slash - dir) < top)
			break;
		*slash = '\0';
	}
}

/*
 * Determine the tightest limit on the memory of this process: the machine's
 * memory, or that of a control group.  root is prepended to all paths; it is
 * "" except in tests.  False if nothing is known.
 */
bool
memory_get_room(const char *root, MemoryRoom *room)
{
	char		path[PATH_MAX];
	int64_t		available;
	int64_t		total = 0;

	room->free = INT64_MAX;
	room->total = 0;
	room->container = false;
	if (snprintf(path, sizeof(path), "%s/proc/meminfo", root) < PATH_MAX &&
		read_number(path, "MemAvailable:", &available))
	{
		(void) read_number(path, "MemTotal:", &total);
		take_least(room, available * 1024, total * 1024, false);
	}
	for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++)
		consider_version(root, &versions[i], room);
	return room->free != INT64_MAX;
}
