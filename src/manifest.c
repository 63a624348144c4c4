/*-------------------------------------------------------------------------
 *
 * manifest.c
 *	  Manifests: the files of a directory with their sizes and times.
 *
 * A manifest has the size of each file and the times that filesync.c compares,
 * and is kept in a file of its own.  Sets of names, such as those of changed
 * files, are here, too: both find a name by its hash.  Plain POSIX.
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
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "filesync_internal.h"

/*
 * A manifest's file: this header, the records, and the names in their order,
 * each with its NUL.  All in the machine's byte order, which the magic number
 * identifies.
 */
typedef struct ManifestHeader
{
	uint64_t	magic;
	uint32_t	version;
	uint32_t	count;			/* of records and names */
	uint64_t	text_len;		/* bytes of the names */
	uint64_t	tag;
	uint64_t	checksum;		/* of everything, this being 0 */
} ManifestHeader;

#define MANIFEST_MAGIC UINT64_C(0x74646266696c6573)
#define MANIFEST_VERSION 2
#define MANIFEST_MAX_SIZE (INT64_C(1) << 30)

/* The state of filesync_scan(). */
typedef struct ScanState
{
	FilesyncManifest *manifest;
	int64_t		now;			/* before the first stat */
	FilesyncError *error;
} ScanState;

/*
 * Return the name with this index.
 */
const char *
table_name(const NameTable *table, uint32_t index)
{
	return table->text + table->offsets[index];
}

/*
 * Return the slot that holds a name, or the empty one that it would get.
 * There must be one: nslots > count.
 */
static uint32_t *
table_slot(const NameTable *table, const char *name)
{
	uint32_t	hash = UINT32_C(2166136261);
	uint32_t	i;
	const char *c;

	for (c = name; *c != '\0'; c++)
		hash = (hash ^ (unsigned char) *c) * UINT32_C(16777619);
	hash ^= hash >> 15;

	for (i = hash & (table->nslots - 1); table->slots[i] != 0;
		 i = (i + 1) & (table->nslots - 1))
	{
		if (strcmp(table_name(table, table->slots[i] - 1), name) == 0)
			break;
	}
	return &table->slots[i];
}

/*
 * Return the index of a name, or NO_INDEX.
 */
uint32_t
table_find(const NameTable *table, const char *name)
{
	if (table->count == 0)
		return NO_INDEX;
	return *table_slot(table, name) - 1;
}

/*
 * Make the table's hash twice as large.  False if there is no memory, with
 * nothing changed.
 */
static bool
table_rehash(NameTable *table)
{
	uint32_t	nslots = table->nslots ? table->nslots * 2 : 64;
	uint32_t   *slots = calloc(nslots, sizeof(uint32_t));
	uint32_t	i;

	if (slots == NULL)
		return false;
	free(table->slots);
	table->slots = slots;
	table->nslots = nslots;
	for (i = 0; i < table->count; i++)
		*table_slot(table, table_name(table, i)) = i + 1;
	return true;
}

/*
 * Make room for one more name of len bytes, including NUL.  False if there is
 * no memory; the table remains valid.
 */
static bool
table_reserve(NameTable *table, size_t len)
{
	if (table->count == table->size)
	{
		uint32_t	size = table->size ? table->size * 2 : 32;
		uint32_t   *offsets = realloc(table->offsets, size * sizeof(uint32_t));

		if (offsets == NULL)
			return false;
		table->offsets = offsets;
		table->size = size;
	}
	if (len > table->text_size - table->text_len)
	{
		size_t		size = (size_t) table->text_size * 2 + len + 256;
		char	   *text = size <= INT32_MAX ? realloc(table->text, size) : NULL;

		if (text == NULL)
			return false;
		table->text = text;
		table->text_size = (uint32_t) size;
	}
	return table->count < table->nslots / 2 || table_rehash(table);
}

/*
 * Add a name, which may be in the table already.  False if there is no
 * memory.
 */
bool
table_add(NameTable *table, const char *name)
{
	size_t		len = strlen(name) + 1;
	uint32_t   *slot;

	if (table_find(table, name) != NO_INDEX)
		return true;
	if (!table_reserve(table, len))
		return false;

	memcpy(table->text + table->text_len, name, len);
	slot = table_slot(table, name);
	table->offsets[table->count] = table->text_len;
	table->text_len += (uint32_t) len;
	*slot = ++table->count;
	return true;
}

/*
 * Free a table's memory, but not the table.
 */
void
table_free(NameTable *table)
{
	free(table->text);
	free(table->offsets);
	free(table->slots);
}

/*
 * Create an empty set of names, to be freed by filesync_names_free().  NULL
 * if there is no memory.
 */
FilesyncNames *
filesync_names_create(void)
{
	return calloc(1, sizeof(FilesyncNames));
}

/*
 * Free a set of names; NULL is fine.
 */
void
filesync_names_free(FilesyncNames *names)
{
	if (names == NULL)
		return;
	table_free(&names->table);
	free(names);
}

/*
 * Add a copy of a name to a set, which may have it already.  False, with
 * errno set, if it cannot be the name of a file (EINVAL) or there is no
 * memory: the set is no longer complete, and a full comparison is needed.
 */
bool
filesync_names_add(FilesyncNames *names, const char *name)
{
	if (!fs_name_is_valid(name))
	{
		errno = EINVAL;
		return false;
	}
	if (!table_add(&names->table, name))
	{
		errno = ENOMEM;
		return false;
	}
	return true;
}

/*
 * Return the number of names in a set.
 */
uint32_t
filesync_names_count(const FilesyncNames *names)
{
	return names->table.count;
}

/*
 * Return a name of a set, in order of arrival; index is less than the count.
 * Valid until the set is changed.
 */
const char *
filesync_names_get(const FilesyncNames *names, uint32_t index)
{
	return table_name(&names->table, index);
}

/*
 * Empty a set, and keep its memory for the next names.
 */
void
filesync_names_clear(FilesyncNames *names)
{
	if (names->table.nslots > 0)
		memset(names->table.slots, 0,
			   names->table.nslots * sizeof(uint32_t));
	names->table.count = 0;
	names->table.text_len = 0;
}

/*
 * Create an empty manifest.  NULL if there is no memory.
 */
FilesyncManifest *
manifest_create(void)
{
	return calloc(1, sizeof(FilesyncManifest));
}

/*
 * Add a file to a manifest.  False if it is there already, or if there is no
 * memory.
 */
bool
manifest_add(FilesyncManifest *manifest, const char *name,
			 const FileRecord *record)
{
	uint32_t	index = manifest->names.count;

	if (index == manifest->size)
	{
		uint32_t	size = manifest->size ? manifest->size * 2 : 32;
		FileRecord *records = realloc(manifest->records,
									  size * sizeof(FileRecord));

		if (records == NULL)
			return false;
		manifest->records = records;
		manifest->size = size;
	}
	if (!table_add(&manifest->names, name))
		return false;
	if (manifest->names.count == index)
		return false;
	manifest->records[index] = *record;
	return true;
}

/*
 * Free a manifest; NULL is fine.
 */
void
filesync_manifest_free(FilesyncManifest *manifest)
{
	if (manifest == NULL)
		return;
	table_free(&manifest->names);
	free(manifest->records);
	free(manifest);
}

/*
 * Return the number of files in a manifest.
 */
uint32_t
filesync_manifest_count(const FilesyncManifest *manifest)
{
	return manifest->names.count;
}

/*
 * Return the bytes that a copy occupies on a file system with blocks of this
 * many bytes, not counting inodes and names.
 */
uint64_t
filesync_manifest_space(const FilesyncManifest *manifest, uint32_t block_size)
{
	uint64_t	blocks = 0;
	uint32_t	i;

	for (i = 0; i < manifest->names.count; i++)
	{
		uint64_t	size = (uint64_t) manifest->records[i].size;

		blocks += size / block_size + (size % block_size != 0);
	}
	return blocks * block_size;
}

/*
 * Get the file with this index, which is less than the count.  The name is
 * valid as long as the manifest.
 */
void
filesync_manifest_get(const FilesyncManifest *manifest, uint32_t index,
					  FilesyncFile *file)
{
	const FileRecord *record = &manifest->records[index];

	file->name = table_name(&manifest->names, index);
	file->size = record->size;
	file->mtime = record->mtime;
	file->origin = record->origin;
	file->racy = (record->flags & RECORD_RACY) != 0;
}

/*
 * Look up a file by its name.  False if it is not in the manifest; then file
 * is unchanged.
 */
bool
filesync_manifest_find(const FilesyncManifest *manifest, const char *name,
					   FilesyncFile *file)
{
	uint32_t	index = table_find(&manifest->names, name);

	if (index == NO_INDEX)
		return false;
	filesync_manifest_get(manifest, index, file);
	return true;
}

/*
 * Return the number set by filesync_manifest_set_tag(), or 0.  It is part of
 * the manifest's file; for example, the snapshot's generation.
 */
uint64_t
filesync_manifest_tag(const FilesyncManifest *manifest)
{
	return manifest->tag;
}

/*
 * Set the manifest's tag, a number of the caller.
 */
void
filesync_manifest_set_tag(FilesyncManifest *manifest, uint64_t tag)
{
	manifest->tag = tag;
}

/*
 * Walk callback: add a file to the manifest.
 */
static bool
scan_file(const char *name, const struct stat *st, void *arg)
{
	ScanState  *scan = arg;
	FileRecord	record = {0};

	record.size = st->st_size;
	record.mtime = fs_stat_mtime(st);
	record.origin = FILESYNC_ORIGIN_UNKNOWN;
	record.kept = KEPT_UNKNOWN;
	record.flags = fs_mtime_is_racy(record.mtime, scan->now) ? RECORD_RACY : 0;
	if (table_find(&scan->manifest->names, name) != NO_INDEX)
		return true;			/* readdir() may tell a new name twice */
	if (!manifest_add(scan->manifest, name, &record))
		return fs_fail_memory(scan->error);
	return true;
}

/*
 * Make the manifest of an open directory.  See filesync_scan().
 */
FilesyncManifest *
scan_directory(int fd, const char *dir, const FilesyncOptions *options,
			   FilesyncError *error)
{
	ScanState	scan;
	Walk		walk = {
		.fd = fd,
		.dir = dir,
		.options = options,
		.callback = scan_file,
		.arg = &scan,
		.error = error
	};

	scan.manifest = manifest_create();
	scan.now = fs_current_time();
	scan.error = error;
	if (scan.manifest == NULL)
	{
		fs_fail_memory(error);
		return NULL;
	}
	if (!fs_walk_directory(&walk) ||
		(walk.unfinished && !fs_fail_unfinished(error, dir)))
	{
		filesync_manifest_free(scan.manifest);
		return NULL;
	}
	return scan.manifest;
}

/*
 * Make the manifest of a directory: one stat per file that the filter, if
 * there is one, lets pass.  Files that disappear in the meantime are omitted;
 * a directory with the marker is refused (EBUSY).  No file's origin is known.
 * For a snapshot, use the manifest made by the copy, not a scan: it is also
 * right if the file system rounds times.  Returns true, and the manifest to
 * be freed, or false with the error set.
 */
bool
filesync_scan(const char *dir, const FilesyncOptions *options,
			  FilesyncManifest **manifest, FilesyncError *error)
{
	int			fd = fs_open_directory(dir, error);

	*manifest = NULL;
	if (fd < 0)
		return false;
	*manifest = scan_directory(fd, dir, options, error);
	fs_close_quietly(fd);
	return *manifest != NULL;
}

/*
 * Give a racy file an mtime that is not racy, and that no write and no other
 * call sets.  Returns false with the error set.
 */
static bool
settle_file(const char *dir, int dir_fd, const char *name, FileRecord *record,
			FilesyncError *error)
{
	int64_t		mtime = fs_current_time() - FILESYNC_MTIME_OFFSET / 2;
	int64_t		ns = (mtime % NANOSECONDS + NANOSECONDS) % NANOSECONDS;
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
	{.tv_sec = (time_t) ((mtime - ns) / NANOSECONDS), .tv_nsec = (long) ns}};
	struct stat st;
	int			rc;
	int			fd;

	RETRY(fd, openat(dir_fd, name, O_RDONLY | OPEN_FLAGS));
	if (fd < 0)
		return fs_fail(error, errno, "open file", dir, name);
	RETRY(rc, futimens(fd, times));
	if (rc < 0)
		fs_fail(error, errno, "set times of file", dir, name);
	else if ((rc = fstat(fd, &st)) < 0)
		fs_fail(error, errno, "stat file", dir, name);
	fs_close_quietly(fd);
	if (rc < 0)
		return false;
	record->size = st.st_size;
	record->mtime = mtime;
	record->kept = fs_stat_mtime(&st);
	record->flags = 0;
	return true;
}

/*
 * Make the manifest of a directory to which no process writes, and which will
 * be a source itself: see filesync.c.  Racy files get another mtime.  Returns
 * true, and the manifest to be freed, or false with the error set.
 */
bool
filesync_adopt(const char *dir, const FilesyncOptions *options,
			   FilesyncManifest **manifest, FilesyncError *error)
{
	int			fd = fs_open_directory(dir, error);
	bool		ok;

	*manifest = NULL;
	if (fd < 0)
		return false;
	*manifest = scan_directory(fd, dir, options, error);
	ok = *manifest != NULL;
	for (uint32_t i = 0; ok && i < (*manifest)->names.count; i++)
	{
		FileRecord *record = &(*manifest)->records[i];

		record->kept = record->mtime;
		if (record->flags & RECORD_RACY)
			ok = settle_file(dir, fd, table_name(&(*manifest)->names, i), record, error);
	}
	fs_close_quietly(fd);
	if (!ok)
	{
		filesync_manifest_free(*manifest);
		*manifest = NULL;
	}
	return ok;
}

/*
 * Report whether all files are the same in two manifests of a directory, with
 * the same mtimes.  False if one is racy in the second, newer manifest.
 */
bool
filesync_manifest_is_same(const FilesyncManifest *old, const FilesyncManifest *new)
{
	bool		same = old->names.count == new->names.count;

	for (uint32_t i = 0; same && i < new->names.count; i++)
	{
		const FileRecord *record = &new->records[i];
		uint32_t	k = table_find(&old->names, table_name(&new->names, i));

		same = k != NO_INDEX && !(record->flags & RECORD_RACY) &&
			record->size == old->records[k].size &&
			record->mtime == old->records[k].mtime;
	}
	return same;
}

/*
 * Report whether the file of a snapshot still equals the scanned file of its
 * template.  The record of a file that is racy now is never trusted, although
 * one with the right origin only results from a clock that was set back.
 */
bool
origin_matches(const FileRecord *source, const FileRecord *copy)
{
	return !(source->flags & RECORD_RACY) &&
		source->size == copy->size && source->mtime == copy->origin;
}

/*
 * Continue a checksum over more bytes.  Each step is a bijection of the
 * state, so a single wrong byte is always detected.
 */
static uint64_t
checksum_bytes(uint64_t sum, const void *data, size_t len)
{
	const unsigned char *byte = data;
	size_t		i;

	for (i = 0; i < len; i++)
		sum = (sum ^ byte[i]) * UINT64_C(1099511628211);
	return sum;
}

/*
 * Compute the checksum of a manifest's image, with that in the header taken
 * as 0.
 */
static uint64_t
image_checksum(const char *image, size_t len)
{
	ManifestHeader header;
	uint64_t	sum = UINT64_C(14695981039346656037);

	memcpy(&header, image, sizeof(header));
	header.checksum = 0;
	sum = checksum_bytes(sum, &header, sizeof(header));
	return checksum_bytes(sum, image + sizeof(header), len - sizeof(header));
}

/*
 * Build the bytes of a manifest's file, to be freed by free().  NULL if there
 * is no memory.
 */
static char *
manifest_image(const FilesyncManifest *manifest, size_t *len)
{
	ManifestHeader header = {0};
	size_t		records_len = manifest->names.count * sizeof(FileRecord);
	char	   *image;

	*len = sizeof(header) + records_len + manifest->names.text_len;
	image = malloc(*len);
	if (image == NULL)
		return NULL;

	header.magic = MANIFEST_MAGIC;
	header.version = MANIFEST_VERSION;
	header.count = manifest->names.count;
	header.text_len = manifest->names.text_len;
	header.tag = manifest->tag;
	memcpy(image, &header, sizeof(header));
	if (header.count > 0)
	{
		memcpy(image + sizeof(header), manifest->records, records_len);
		memcpy(image + sizeof(header) + records_len, manifest->names.text,
			   manifest->names.text_len);
	}
	header.checksum = image_checksum(image, *len);
	memcpy(image, &header, sizeof(header));
	return image;
}

/*
 * Write a new file with this content; options as for
 * filesync_manifest_write().  An existing one is removed, not written to,
 * since it may be a link.  Returns false with the error set and the file
 * removed.
 */
static bool
write_new_file(const char *path, const char *data, size_t len,
			   const FilesyncOptions *options, FilesyncError *error)
{
	bool		durable = options && (options->flags & FILESYNC_FSYNC);
	mode_t		mode = options && options->file_mode ? options->file_mode : 0600;
	const char *what = NULL;
	int			save_errno;
	int			fd;

	(void) unlink(path);
	RETRY(fd, open(path, O_WRONLY | O_CREAT | O_EXCL | OPEN_FLAGS, mode));
	if (fd < 0)
		return fs_fail(error, errno, "create file", path, NULL);

	if (!fs_write_all(fd, data, len))
		what = "write to file";
	else if (durable && !fs_sync_fd(fd))
		what = "fsync file";
	save_errno = errno;
	if (!fs_close_written(fd) && what == NULL)
	{
		what = "close file";
		save_errno = errno;
	}
	if (what == NULL)
		return true;
	(void) unlink(path);
	return fs_fail(error, save_errno, what, path, NULL);
}

/*
 * Write a manifest to a file, atomically: to path with ".new" appended, then
 * renamed.  Only one process may do that at a time.  Options: file_mode, and
 * FILESYNC_FSYNC.  Returns false with the error set; then path is unchanged,
 * unless only the last fsync failed.
 */
bool
filesync_manifest_write(const FilesyncManifest *manifest, const char *path,
						const FilesyncOptions *options, FilesyncError *error)
{
	bool		durable = options && (options->flags & FILESYNC_FSYNC);
	char		new_path[PATH_MAX];
	char	   *image;
	size_t		len;
	bool		ok;

	if (snprintf(new_path, sizeof(new_path), "%s.new", path) >= PATH_MAX)
		return fs_fail(error, ENAMETOOLONG, "create file", path, NULL);
	image = manifest_image(manifest, &len);
	if (image == NULL)
		return fs_fail_memory(error);
	ok = write_new_file(new_path, image, len, options, error);
	free(image);
	if (!ok)
		return false;

	if (rename(new_path, path) < 0)
	{
		fs_fail(error, errno, "rename to file", path, NULL);
		(void) unlink(new_path);
		return false;
	}
	return !durable || fs_sync_parent(path, error);
}

/*
 * Read a whole file into memory.  Returns it, to be freed by free(), or NULL
 * with the error set.
 */
static char *
read_image(const char *path, size_t *len, FilesyncError *error)
{
	struct stat st;
	char	   *image = NULL;
	ssize_t		n;
	int			fd;

	RETRY(fd, open(path, O_RDONLY | OPEN_FLAGS));
	if (fd < 0)
	{
		fs_fail(error, errno, "open file", path, NULL);
		return NULL;
	}
	if (fstat(fd, &st) < 0)
		fs_fail(error, errno, "stat file", path, NULL);
	else if (!S_ISREG(st.st_mode) || st.st_size > MANIFEST_MAX_SIZE)
		fs_fail_text(error, EBADMSG, "manifest \"%.1000s\" is damaged", path);
	else if ((image = malloc((size_t) st.st_size + 1)) == NULL)
		fs_fail_memory(error);
	else if ((n = fs_read_all(fd, image, (size_t) st.st_size)) < 0)
	{
		fs_fail(error, errno, "read file", path, NULL);
		free(image);
		image = NULL;
	}
	else
		*len = (size_t) n;
	fs_close_quietly(fd);
	return image;
}

/*
 * Report whether an image was made by manifest_image(), according to lengths
 * and checksum.  Fills the header.
 */
static bool
image_is_valid(const char *image, size_t len, ManifestHeader *header)
{
	if (len < sizeof(*header))
		return false;
	memcpy(header, image, sizeof(*header));
	if (header->magic != MANIFEST_MAGIC || header->version != MANIFEST_VERSION)
		return false;
	len -= sizeof(*header);
	if (len / sizeof(FileRecord) < header->count ||
		len - header->count * sizeof(FileRecord) != header->text_len)
		return false;
	return header->checksum ==
		image_checksum(image, len + sizeof(*header));
}

/*
 * Fill an empty manifest from an image whose checksum is right.  Impossible
 * content is refused nevertheless.  Returns 0, or an errno.
 */
static int
manifest_parse(FilesyncManifest *manifest, const char *image,
			   const ManifestHeader *header)
{
	const char *record = image + sizeof(*header);
	const char *name = record + header->count * sizeof(FileRecord);
	const char *end = name + header->text_len;
	uint32_t	i;

	manifest->tag = header->tag;
	for (i = 0; i < header->count; i++)
	{
		FileRecord	copy;
		const char *name_end = memchr(name, '\0', (size_t) (end - name));

		memcpy(&copy, record, sizeof(copy));
		if (name_end == NULL || !fs_name_is_valid(name) || copy.size < 0 ||
			(copy.flags & ~(uint32_t) RECORD_RACY) != 0 ||
			table_find(&manifest->names, name) != NO_INDEX)
			return EBADMSG;
		if (!manifest_add(manifest, name, &copy))
			return ENOMEM;
		name = name_end + 1;
		record += sizeof(copy);
	}
	return name == end ? 0 : EBADMSG;
}

/*
 * Read a manifest from a file.  Returns true, and the manifest to be freed,
 * or false with the error set: EBADMSG for a file that is not a complete
 * manifest.  error->source is false only if memory or descriptors are short.
 */
bool
filesync_manifest_read(const char *path, FilesyncManifest **manifest,
					   FilesyncError *error)
{
	ManifestHeader header;
	size_t		len = 0;
	char	   *image = read_image(path, &len, error);
	int			errnum = ENOMEM;

	*manifest = NULL;
	if (image == NULL)
		return fs_blame_source(error);
	if (!image_is_valid(image, len, &header))
		errnum = EBADMSG;
	else if ((*manifest = manifest_create()) != NULL)
		errnum = manifest_parse(*manifest, image, &header);
	free(image);
	if (errnum == 0)
		return true;

	filesync_manifest_free(*manifest);
	*manifest = NULL;
	if (errnum == ENOMEM)
		return fs_fail_memory(error);
	fs_fail_text(error, errnum, "manifest \"%.1000s\" is damaged", path);
	return fs_blame_source(error);
}
