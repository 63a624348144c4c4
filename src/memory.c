/*-------------------------------------------------------------------------
 *
 * memory.c
 *	  How much memory the machine and the container have left.
 *
 * What lies in a tmpfs is memory.  The size of the tmpfs says what it may take, not
 * what there is: on a laptop it is half of all memory, whatever else runs there, and
 * in a container often more than its limit.  Beyond that the kernel ends processes.
 *
 * Of the machine, /proc/meminfo says what is available.  Of containers, the kernel
 * bounds a control group (cgroup) of processes, and each of those that it is in, by
 * version 1 or 2 of the interface; both can be there, and version 2 without having
 * to do with memory.  A group's usage includes the page cache, which the kernel
 * gives back: inactive pages at once, of the active ones half are counted here.
 * What lies in a tmpfs is in neither.
 *
 * Where /proc/self/cgroup names a group that is not below the root of the mount, it
 * is a name from outside a container, and the mount is the container's own group.
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

#include "memory.h"
#include "mount.h"

/* A version of the interface: names of files, and of lines in memory.stat. */
typedef struct CgroupVersion
{
	const char *type;			/* of the file system */
	const char *option;			/* that its mount has; or NULL */
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

/* Version 1 writes a number near the greatest if there is no limit. */
#define NO_LIMIT	(INT64_MAX / 2)

/*
 * Read the number that follows a word at the beginning of a line of a file, or the
 * first of the file if the word is empty.  False if there is none: it may be "max".
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
 * The same of a file in a directory.
 */
static bool
read_number_in(const char *dir, const char *name, const char *word, int64_t *number)
{
	char		path[PATH_MAX];

	return snprintf(path, sizeof(path), "%s/%s", dir, name) < (int) sizeof(path) &&
		read_number(path, word, number);
}

/*
 * Let *room be what is less.
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
 * Consider the limit of one control group, if it has one.
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
 * Does a line of /proc/self/cgroup, "number:controllers:path", belong to this
 * version?
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
 * Put the path of this process's group, as the table says it, into path (PATH_MAX
 * bytes); false if it says nothing.
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
 * Consider all groups of one version that this process is in: its own, and those
 * around it up to the mount.
 */
static void
consider_version(const char *root, const CgroupVersion *version, MemoryRoom *room)
{
	char		table[PATH_MAX];
	char		mount_root[PATH_MAX];
	char		point[PATH_MAX];
	char		group[PATH_MAX];
	char		dir[2 * PATH_MAX];
	size_t		length;
	size_t		top;

	if (snprintf(table, sizeof(table), "%s/proc/self/mountinfo", root) >= PATH_MAX ||
		!mount_find(table, version->type, version->option, mount_root, point) ||
		snprintf(table, sizeof(table), "%s/proc/self/cgroup", root) >= PATH_MAX ||
		!find_group(table, version, group))
		return;

	length = strcmp(mount_root, "/") == 0 ? 0 : strlen(mount_root);
	if (strncmp(group, mount_root, length) != 0 ||
		(group[length] != '/' && group[length] != '\0') ||
		strncmp(group, "/..", 3) == 0)
		group[length = 0] = '\0';
	if (snprintf(dir, sizeof(dir), "%s%s%s", root, point, group + length) >= (int) sizeof(dir))
		return;
	top = strlen(root) + strlen(point);
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
 * Find out what leaves this process the least memory: the machine, or a control
 * group that it is in.  root is the folder to look in, "" but for tests.  False if
 * nothing is known.
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
