/*-------------------------------------------------------------------------
 *
 * room.c
 *	  Computing the space needed to restore a directory from a snapshot.
 *
 * filesync.c removes extra files, and then creates missing ones and rewrites
 * in place those that differ.  So the space needed is the growth of files
 * that are missing or shorter, or have holes, less the size of the extra
 * ones.  A file that becomes shorter is not counted: it may be rewritten
 * after another one that grows.
 *
 * The caller ensures that no process has an extra file open, which would
 * continue to occupy its space, or writes to the directory.  A truncated
 * file, which PostgreSQL removes at the next checkpoint, is counted by its
 * future size.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "filesync.h"
#include "room.h"

/* The assumed block size of the file system. */
#define ROOM_BLOCK		4096

/* The unit of st_blocks. */
#define STAT_BLOCK		512

/* The counts so far. */
typedef struct RoomCount
{
	const FilesyncManifest *manifest;
	int			dir;			/* a descriptor */
	uint64_t	grown_bytes;
	uint64_t	made_files;
	uint64_t	extra_bytes;
	uint64_t	extra_files;
} RoomCount;

/*
 * Return the space that a file of this size occupies, in bytes.
 */
static uint64_t
round_up(int64_t size)
{
	return ((uint64_t) size + ROOM_BLOCK - 1) / ROOM_BLOCK * ROOM_BLOCK;
}

/*
 * Count the file with this name, which is in the manifest if wanted is not
 * NULL.
 */
static void
count_file(RoomCount *count, const char *name, const FilesyncFile *wanted)
{
	struct stat st;
	uint64_t	occupied = 0;
	bool		there = fstatat(count->dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;

	if (there)
		occupied = (uint64_t) st.st_blocks * STAT_BLOCK;
	if (wanted == NULL)
	{
		if (there && S_ISREG(st.st_mode))
		{
			count->extra_bytes += occupied;
			count->extra_files++;
		}
		return;
	}
	if (!there)
		count->made_files++;
	if (occupied < (uint64_t) wanted->size)
		count->grown_bytes += round_up(wanted->size) - occupied / ROOM_BLOCK * ROOM_BLOCK;
}

/*
 * Count all files of the directory that are not in the manifest.  False if it
 * cannot be read.
 */
static bool
count_extra(RoomCount *count)
{
	struct dirent *entry;
	DIR		   *dir;
	int			fd = openat(count->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	dir = fd < 0 ? NULL : fdopendir(fd);
	if (dir == NULL)
	{
		if (fd >= 0)
			close(fd);
		return false;
	}
	while ((entry = readdir(dir)) != NULL)
	{
		FilesyncFile file;

		if (!filesync_manifest_find(count->manifest, entry->d_name, &file))
			count_file(count, entry->d_name, NULL);
	}
	closedir(dir);
	return true;
}

/*
 * Count the files with these names, or all if names is NULL.
 */
static bool
count_all(RoomCount *count, const FilesyncNames *names)
{
	FilesyncFile file;

	if (names != NULL)
	{
		for (uint32_t i = 0; i < filesync_names_count(names); i++)
		{
			const char *name = filesync_names_get(names, i);

			count_file(count, name,
					   filesync_manifest_find(count->manifest, name, &file) ? &file : NULL);
		}
		return true;
	}
	for (uint32_t i = 0; i < filesync_manifest_count(count->manifest); i++)
	{
		filesync_manifest_get(count->manifest, i, &file);
		count_file(count, file.name, &file);
	}
	return count_extra(count);
}

/*
 * Compute how many more bytes and files a directory will take when it has the
 * content described by a manifest, from the files with these names, or from
 * all if names is NULL, by one stat for each.  False, with errno set, on
 * failure.
 */
bool
room_to_restore(const FilesyncManifest *manifest, const char *dir,
				const FilesyncNames *names, uint64_t *bytes, uint64_t *files)
{
	RoomCount	count = {.manifest = manifest};
	bool		ok;

	count.dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (count.dir < 0)
		return false;
	ok = count_all(&count, names);
	close(count.dir);

	*bytes = count.grown_bytes > count.extra_bytes ?
		count.grown_bytes - count.extra_bytes : 0;
	*files = count.made_files > count.extra_files ?
		count.made_files - count.extra_files : 0;
	return ok;
}

/*
 * The same for a directory that is a copy with the manifest old, from the
 * manifests alone.
 */
void
room_to_refresh(const FilesyncManifest *manifest, const FilesyncManifest *old,
				uint64_t *bytes, uint64_t *files)
{
	FilesyncFile file;
	FilesyncFile old_file;

	*bytes = *files = 0;
	for (uint32_t i = 0; i < filesync_manifest_count(manifest); i++)
	{
		uint64_t	had = 0;

		filesync_manifest_get(manifest, i, &file);
		if (filesync_manifest_find(old, file.name, &old_file))
			had = round_up(old_file.size);
		else
			(*files)++;
		if (round_up(file.size) > had)
			*bytes += round_up(file.size) - had;
	}
}
