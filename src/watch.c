/*-------------------------------------------------------------------------
 *
 * watch.c
 *	  Watching which files of a clone change.
 *
 * This is known from inotify, if this process has restored the clone before:
 * from then on it watches the directory, and collects the names of files
 * written, created or removed.  If that fails (another worker 0, too many
 * events, no more watches), all files are compared by size and time.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "buffers.h"
#include "compat.h"
#include "templates.h"
#include "watch.h"

/* The watch of a clone. */
typedef struct WatchIndex
{
	Oid			oid;			/* hash key */
	int			wd;
} WatchIndex;

static HTAB *watch_index = NULL;	/* of WatchIndex */

static int	watch_fd = -1;

/*
 * Prepare this process for watching; nothing is watched if that fails.
 */
void
watch_init(void)
{
	HASHCTL		info;
	FilesyncError error;

	if (watches != NULL)
		return;
	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(int);
	info.entrysize = sizeof(Watch);
	info.hcxt = TopMemoryContext;
	watches = hash_create("testdb watches", 64, &info,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	info.keysize = sizeof(Oid);
	info.entrysize = sizeof(WatchIndex);
	watch_index = hash_create("testdb watch index", 64, &info,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	watch_fd = filesync_watch_open(&error);
	if (watch_fd < 0)
		ereport(LOG,
				(errmsg("inotify is not available: %s", error.message),
				 errdetail("All files of a database are compared when it is recycled.")));
}

/*
 * Return the watch of a clone, or NULL.
 */
Watch *
watch_find(Oid oid)
{
	WatchIndex *index;

	if (watches == NULL)
		return NULL;
	index = hash_search(watch_index, &oid, HASH_FIND, NULL);
	return index ? hash_search(watches, &index->wd, HASH_FIND, NULL) : NULL;
}

/*
 * Start to watch a clone's directory; if that fails, its files will be
 * compared.
 */
static void
watch_add(Oid oid)
{
	FilesyncError error;
	Watch	   *watch;
	WatchIndex *index;
	char	   *path;
	int			wd;

	if (watch_fd < 0)
		return;
	path = GetDatabasePath(oid, DEFAULTTABLESPACE_OID);
	wd = filesync_watch_add(watch_fd, path, &error);
	pfree(path);
	if (wd < 0)
		return;
	watch = hash_search(watches, &wd, HASH_ENTER, NULL);
	watch->oid = oid;
	watch->names = filesync_names_create();
	watch->broken = watch->names == NULL;
	watch->renewed = false;
	index = hash_search(watch_index, &oid, HASH_ENTER, NULL);
	index->wd = wd;
}

/*
 * Stop watching a clone's directory, if this process does.
 */
static void
watch_forget(Oid oid)
{
	FilesyncError error;
	Watch	   *watch = watch_find(oid);

	if (watch == NULL)
		return;
	(void) filesync_watch_remove(watch_fd, watch->wd, &error);
	if (watch->names)
		filesync_names_free(watch->names);
	hash_search(watches, &watch->wd, HASH_REMOVE, NULL);
	hash_search(watch_index, &oid, HASH_REMOVE, NULL);
}

/*
 * Mark every watch as broken.
 */
static void
watch_break_all(void)
{
	HASH_SEQ_STATUS scan;
	Watch	   *watch;

	hash_seq_init(&scan, watches);
	while ((watch = hash_seq_search(&scan)) != NULL)
		watch->broken = true;
}

/*
 * For filesync_watch_drain: collect an event.  A removed directory belonged
 * to a clone that was dropped.
 */
static void
watch_note(int wd, FilesyncEvent event, const char *name,
		   void *arg pg_attribute_unused())
{
	Watch	   *watch;

	if (event == FILESYNC_OVERFLOW)
	{
		watch_break_all();
		return;
	}
	watch = hash_search(watches, &wd, HASH_FIND, NULL);
	if (watch == NULL)
		return;
	if (event == FILESYNC_GONE)
		watch_forget(watch->oid);
	else if (!watch->broken)
	{
		if (!filesync_names_add(watch->names, name))
			watch->broken = true;
		if (event == FILESYNC_ENTRY && OidIsValid(database_relation_of_file(name)))
			watch->renewed = true;
	}
}

/*
 * Read all pending events.
 */
void
watch_drain(void)
{
	FilesyncError error;

	if (watch_fd >= 0 && !filesync_watch_drain(watch_fd, watch_note, NULL, &error))
		watch_break_all();
}

/*
 * Return the names of the files that changed in a clone since it was last
 * restored to this version, or NULL if that is not known.
 */
const FilesyncNames *
watch_names(const TestdbClone *clone, const TestdbTemplate *template)
{
	Watch	   *watch;

	if (registry_behind(template, NULL, clone) & BEHIND_CLONE_FILES)
		return NULL;
	watch = watch_find(clone->oid);
	return watch != NULL && !watch->broken ? watch->names : NULL;
}

/*
 * After a restore: forget the changes made by the restore itself, and start
 * to watch if that was not done yet.  The clone has no sessions.
 */
void
watch_restart(Oid oid)
{
	Watch	   *watch = watch_find(oid);

	if (watch != NULL && !watch->broken)
	{
		filesync_names_clear(watch->names);
		watch->renewed = false;
	}
	else
	{
		watch_forget(oid);
		watch_add(oid);
	}
}

/*
 * Report whether it is known which files of a clone have changed since it was
 * restored.
 */
bool
is_watched(Oid oid)
{
	Watch	   *watch = watch_find(oid);

	return watch != NULL && !watch->broken;
}

/*
 * Return the names of the files that have changed in a clone since it was
 * restored, or NULL if that is not known.
 */
const FilesyncNames *
watch_current(Oid oid)
{
	return is_watched(oid) ? watch_find(oid)->names : NULL;
}
