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
 * Files in a tmpfs count as neither.  Version 2 also has a lower limit,
 * memory.high.  The kernel kills no process above it, but suspends those that
 * allocate memory, so that a copy would hardly proceed.
 *
 * The names of groups in /proc/self/cgroup, and of the roots of mounts, are
 * relative to the root of the process's cgroup namespace.  If the process has
 * a namespace of its own, but the hierarchy was mounted outside of it, the
 * root of the mount is "/..", once for each level above.  The names of these
 * levels are unknown there, so the group is searched for, by its processes.
 *
 * If no mount has the group below its root, its name is from outside the
 * container, and the mount point is the container's own group.
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

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "memory.h"
#include "mount.h"

/* A version of the interface: names of files, and of lines in memory.stat */
typedef struct CgroupVersion
{
	const char *type;			/* type of its file system */
	const char *option;			/* mount option by which it is found, or NULL */
	const char *limit;
	const char *lower_limit;	/* NULL if there is no such thing */
	const char *usage;
	const char *inactive;
	const char *active;
} CgroupVersion;

static const CgroupVersion versions[] = {
	{"cgroup2", NULL, "memory.max", "memory.high", "memory.current",
	"inactive_file ", "active_file "},
	{"cgroup", "memory", "memory.limit_in_bytes", NULL, "memory.usage_in_bytes",
	"total_inactive_file ", "total_active_file "},
};

/* Where this process's group of a version was last found. */
typedef struct GroupPlace
{
	time_t		read_at;		/* s, on a monotonic clock; 0 if never */
	bool		found;
	char		group[PATH_MAX];	/* its name in /proc/self/cgroup */
	char		dir[2 * PATH_MAX];
	size_t		top;			/* length of the mount point in dir */
} GroupPlace;

/* For how long a place is remembered, in s. */
#define PLACE_AGE	10

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
 * Return the limit of one control group, the lower if it has two, in bytes;
 * NO_LIMIT or more if it has none.
 */
static int64_t
get_limit(const char *dir, const CgroupVersion *version)
{
	int64_t		limit;
	int64_t		lower;

	if (!read_number_in(dir, version->limit, "", &limit))
		limit = NO_LIMIT;
	if (version->lower_limit != NULL &&
		read_number_in(dir, version->lower_limit, "", &lower) && lower < limit)
		limit = lower;
	return limit;
}

/*
 * Take the limit of one control group into account, if it has one.
 */
static void
consider_group(const char *dir, const CgroupVersion *version, MemoryRoom *room)
{
	int64_t		limit = get_limit(dir, version);
	int64_t		usage;
	int64_t		inactive = 0;
	int64_t		active = 0;

	if (limit >= NO_LIMIT || !read_number_in(dir, version->usage, "", &usage))
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
 * Report whether this process is in the group with this directory.
 */
static bool
contains_us(const char *dir)
{
	char		path[2 * PATH_MAX];
	FILE	   *file;
	long		pid;
	bool		found = false;

	if (snprintf(path, sizeof(path), "%s/cgroup.procs", dir) >= (int) sizeof(path) ||
		(file = fopen(path, "r")) == NULL)
		return false;
	while (!found && fscanf(file, "%ld", &pid) == 1)
		found = pid == (long) getpid();
	fclose(file);
	return found;
}

/*
 * Append to dir (2 * PATH_MAX bytes) the path to this process's group, which
 * begins with this many directories of unknown names, and ends with rest.  If
 * it is not there, dir is as before, and the result false.
 */
static bool
search_group(char *dir, int levels, const char *rest)
{
	size_t		length = strlen(dir);
	size_t		room = 2 * PATH_MAX - length;
	struct dirent *entry;
	DIR		   *stream;
	bool		found = false;

	if (levels == 0)
		found = snprintf(dir + length, room, "%s", rest) < (int) room && contains_us(dir);
	else if ((stream = opendir(dir)) != NULL)
	{
		while (!found && (entry = readdir(stream)) != NULL)
			found = entry->d_type == DT_DIR && entry->d_name[0] != '.' &&
				snprintf(dir + length, room, "/%s", entry->d_name) < (int) room &&
				search_group(dir, levels - 1, rest);
		closedir(stream);
	}
	if (!found)
		dir[length] = '\0';
	return found;
}

/*
 * Return how often a path goes up at its beginning, by "/..", and set *rest to
 * what follows, without a slash at its end.
 */
static int
count_up(const char *path, const char **rest)
{
	int			n = 0;

	for (; strncmp(path, "/..", 3) == 0 && (path[3] == '/' || path[3] == '\0'); n++)
		path += 3;
	*rest = strcmp(path, "/") == 0 ? "" : path;
	return n;
}

/*
 * Put into place where a mount has the group that place names.  False if it
 * is not below the root of the mount; then the mount point is there.
 */
static bool
find_in_mount(const char *root, const MountPlace *mount, GroupPlace *place)
{
	const char *mounted;
	const char *group;
	int			levels = count_up(mount->root, &mounted) - count_up(place->group, &group);
	size_t		length = strlen(mounted);
	size_t		room;

	place->top = snprintf(place->dir, sizeof(place->dir), "%s%s", root, mount->point);
	if (place->top >= sizeof(place->dir))
		return false;
	if (levels > 0)
		return length == 0 && search_group(place->dir, levels, group);
	if (levels < 0 || strncmp(group, mounted, length) != 0 ||
		(group[length] != '/' && group[length] != '\0'))
		return false;
	room = sizeof(place->dir) - place->top;
	return snprintf(place->dir + place->top, room, "%s", group + length) < (int) room;
}

/*
 * Find the directory of the group that place names.
 */
static bool
find_place(const char *root, const CgroupVersion *version, GroupPlace *place)
{
	char		table[PATH_MAX];
	MountPlace	mount;

	if (snprintf(table, sizeof(table), "%s/proc/self/mountinfo", root) >= PATH_MAX)
		return false;
	for (int i = 0; mount_find(table, version->type, version->option, i, &mount); i++)
		if (find_in_mount(root, &mount, place))
			return true;
	if (!mount_find(table, version->type, version->option, 0, &mount))
		return false;
	(void) find_in_mount(root, &mount, place);
	return place->top < sizeof(place->dir);
}

/*
 * Return the place of this process's group of a version, or NULL if there is
 * none.  It is remembered for PLACE_AGE, since the table of mounts can be long,
 * and this is called often; not in tests, which have a root of their own.
 */
static const GroupPlace *
get_place(const char *root, const CgroupVersion *version)
{
	static GroupPlace places[sizeof(versions) / sizeof(versions[0])];
	GroupPlace *place = &places[version - versions];
	struct timespec now = {0};
	char		table[PATH_MAX];
	char		group[PATH_MAX];

	if (snprintf(table, sizeof(table), "%s/proc/self/cgroup", root) >= PATH_MAX ||
		!find_group(table, version, group))
		return NULL;
	(void) clock_gettime(CLOCK_MONOTONIC, &now);
	if (root[0] != '\0' || place->read_at == 0 || strcmp(group, place->group) != 0 ||
		now.tv_sec - place->read_at >= PLACE_AGE)
	{
		strcpy(place->group, group);
		place->found = find_place(root, version, place);
		place->read_at = root[0] != '\0' ? 0 : now.tv_sec;
	}
	return place->found ? place : NULL;
}

/*
 * Take all groups of one version into account that contain this process: its
 * own, and those above it up to the mount point.
 */
static void
consider_version(const char *root, const CgroupVersion *version, MemoryRoom *room)
{
	const GroupPlace *place = get_place(root, version);
	char		dir[2 * PATH_MAX];

	if (place == NULL)
		return;
	strcpy(dir, place->dir);
	for (;;)
	{
		char	   *slash;

		consider_group(dir, version, room);
		slash = strrchr(dir, '/');
		if (slash == NULL || (size_t) (slash - dir) < place->top)
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

/*
 * Report whether an address is in huge pages, by /proc/self/maps: 1 or 0, or
 * -1 if that is unknown.
 */
static int
is_in_huge_pages(uintptr_t address)
{
	FILE	   *file = fopen("/proc/self/maps", "r");
	char		line[PATH_MAX + 256];
	uintmax_t	first;
	uintmax_t	end;
	int			huge = -1;

	if (file == NULL)
		return -1;
	while (huge < 0 && fgets(line, sizeof(line), file) != NULL)
		if (sscanf(line, "%jx-%jx", &first, &end) == 2 && address >= first && address < end)
			huge = strstr(line, "hugepage") != NULL;
	fclose(file);
	return huge;
}

/*
 * Return how much of a range of shared memory is not in memory, in bytes,
 * usually since no process has used it yet: it will take memory once it is
 * used.  0 if it is in huge pages, which are reserved; -1 if that is unknown.
 */
int64_t
memory_get_untouched(const void *start, size_t size)
{
	unsigned char there[4096];
	uintptr_t	page = (uintptr_t) sysconf(_SC_PAGESIZE);
	uintptr_t	at = ((uintptr_t) start + page - 1) / page * page;
	uintptr_t	end = ((uintptr_t) start + size) / page * page;
	int64_t		untouched = 0;
	int			huge;

	if (at >= end)
		return 0;
	huge = is_in_huge_pages(at);
	if (huge != 0)
		return huge > 0 ? 0 : -1;
	while (at < end)
	{
		uintptr_t	pages = (end - at) / page;

		if (pages > sizeof(there))
			pages = sizeof(there);
		if (mincore((void *) at, pages * page, (void *) there) != 0)
			return -1;
		for (uintptr_t i = 0; i < pages; i++)
			if ((there[i] & 1) == 0)
				untouched += (int64_t) page;
		at += pages * page;
	}
	return untouched;
}
