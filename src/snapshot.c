/*-------------------------------------------------------------------------
 *
 * snapshot.c
 *	  Private copies of the templates' files.
 *
 * pg_testdb/snapshots/<oid> is a copy of a template's directory, taken while
 * the template had no sessions and its buffers were flushed;
 * pg_testdb/snapshots/<oid>.manifest describes its files (filesync.c).
 * Clones are copied and restored from it, so sessions in the template do not
 * block them.  They need not be durable, since they are removed at server
 * start.
 *
 * A template that allows no connections (ALLOW_CONNECTIONS false, as set by
 * testdb_template_finish) has no copy: its own files serve as the snapshot,
 * and have a manifest.  A process that copies them has locked the template
 * and checked that it has no sessions and is unchanged since the manifest was
 * written, since autovacuum and some background workers may connect to it
 * nevertheless.  If it is opened again, a copy is taken as soon as it has no
 * sessions; until then its files are not used.
 *
 * A snapshot is updated when a clone is requested and the template may have
 * changed:
 *
 *	- a transaction has been committed in the template (its generation has
 *	  changed): wait until it has no sessions, checkpoint, and compare its
 *	  files with the snapshot's, by size and time;
 *	- the template's horizons have advanced, or a session may have changed it
 *	  without a transaction ID (unverified), and it has no sessions now: the
 *	  same with a flush instead of the checkpoint.  As long as it has sessions,
 *	  the snapshot is used as it is, with its own horizons, if pg_xact is kept
 *	  for these;
 *	- its row in pg_database or its configuration parameters have changed: the
 *	  files are not compared.
 *
 * The files have a version, and so have the rows in shared catalogs: each
 * gets a new, unique number whenever something has changed.  Spares of older
 * versions are updated before they are handed out.
 *
 * While a snapshot is being changed, the registry records that there is none.
 * If that fails, the next process that needs the snapshot takes it again.
 *
 * The files of a snapshot may be modified or removed by other programs, such
 * as one that deletes old files.  A process that reads one checks that it is
 * the file that was written (filesync.c).  If not, the snapshot is recorded
 * as damaged, the copy is given up, and the snapshot is taken again as soon
 * as it is needed and the template has no sessions.  Until then spares are
 * handed out, and clones restored that do not need the damaged files.
 *
 * With wal_level above minimal WAL consumers may replay the creation of a
 * clone, as a copy of the template.  Therefore the snapshot then can be used
 * only while the template has no sessions and is equal to the snapshot
 * (snapshot_lock_source).  It is not used while there is a WAL consumer (see
 * database_has_wal_consumer).
 *
 * Locks.  While the template's files are read, its database is locked as in
 * CREATE DATABASE (ShareLock, no sessions).  The snapshot has a heavyweight
 * lock of its own, on the template's object with 1 as the sub-object:
 * ShareLock to copy from it, ExclusiveLock to change it.  Such locks have a
 * timeout, are shown in pg_locks, and are released on error and exit.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "catalog/pg_tablespace_d.h"
#include "common/file_perm.h"
#include "common/relpath.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/bgwriter.h"
#include "storage/bufmgr.h"
#include "storage/fd.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/relcache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "database.h"
#include "dbcatalog.h"
#include "debug.h"
#include "filesync.h"
#include "lease.h"
#include "registry.h"
#include "room.h"
#include "sessions.h"
#include "signals.h"
#include "snapshot.h"
#include "space.h"
#include "stats.h"
#include "templates.h"
#include "visitor.h"
#include "walcopy.h"

/*
 * Maximum number of tries to enter a template, if its entry is reused
 * meanwhile.
 */
#define ENTRY_TRIES		3

/* A manifest cached by this process. */
typedef struct CachedManifest
{
	Oid			oid;
	uint64		serial;
	FilesyncManifest *manifest;
} CachedManifest;

static List *manifests = NIL;	/* of CachedManifest, in TopMemoryContext */

PGDLLEXPORT void testdb_visitor_main(Datum main_arg);

/*
 * Raise a failure of filesync.c as an error; 53100 if the file system is
 * full.
 */
static void
report_filesync_error(const FilesyncError *error)
{
	CHECK_FOR_INTERRUPTS();
	errno = error->saved_errno;
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg_internal("%s", error->message),
			 error->saved_errno == ENOSPC ?
			 errhint("Drop databases that are no longer needed, or make the file system of the data directory larger.") : 0));
}

/*
 * Log that a template's snapshot must be taken again, and why.  In a
 * transaction.
 */
static void
log_damage(Oid oid, const FilesyncError *error)
{
	DatabaseInfo info;

	if (database_lookup(oid, &info))
		ereport(LOG,
				(errmsg("snapshot of template \"%s\" must be taken anew: %s",
						NameStr(info.name), error->message)));
}

/*
 * Handle a failure to copy from a template's snapshot, which is locked: if
 * files of the snapshot are the cause, record that it is damaged.  In a
 * transaction.
 *
 * Errors: any other failure.
 */
static void
note_damage(const TestdbTemplate *template, const FilesyncError *error)
{
	if (!error->source)
		report_filesync_error(error);
	if (registry_set_damaged(template->oid))
		log_damage(template->oid, error);
}

/*
 * Callback of filesync.c: continue unless this process should stop.
 */
static bool
may_continue(void *arg pg_attribute_unused())
{
	return InterruptHoldoffCount > 0 ||
		!(InterruptPending && (QueryCancelPending || ProcDiePending));
}

/*
 * Return the options for writing directories.  durable: to survive a system
 * crash.
 */
static FilesyncOptions
get_options(bool durable)
{
	FilesyncOptions options;

	memset(&options, 0, sizeof(options));
	if (durable && enableFsync)
		options.flags |= FILESYNC_FSYNC;
	options.file_mode = pg_file_create_mode;
	options.dir_mode = pg_dir_create_mode;
	options.check = may_continue;
	return options;
}

/*
 * Put the path of a template's snapshot, or with a suffix of its manifest,
 * into path (MAXPGPATH bytes).
 */
void
snapshot_path(Oid oid, const char *suffix, char *path)
{
	snprintf(path, MAXPGPATH, "%s/%u%s", TESTDB_SNAPSHOT_DIR, oid, suffix);
}

/*
 * Put the path of the directory that has the files of a template's snapshot
 * into path (MAXPGPATH bytes).
 */
void
snapshot_source_path(const TestdbTemplate *template, char *path)
{
	char	   *own;

	if (!template->in_place)
	{
		snapshot_path(template->oid, "", path);
		return;
	}
	own = GetDatabasePath(template->oid, DEFAULTTABLESPACE_OID);
	strlcpy(path, own, MAXPGPATH);
	pfree(own);
}

/*
 * Return the options for writing a clone's directory from a snapshot.
 */
static FilesyncOptions
get_clone_options(const TestdbTemplate *template)
{
	FilesyncOptions options = get_options(true);

	options.mtime_steps = template->in_place ? 2 : 1;
	return options;
}

/*
 * Put a manifest into this process's cache, in place of an older one of that
 * template; the cache takes ownership.
 */
static void
cache_manifest(Oid oid, uint64 serial, FilesyncManifest *manifest)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	CachedManifest *cached = NULL;
	ListCell   *lc;

	foreach(lc, manifests)
	{
		if (((CachedManifest *) lfirst(lc))->oid == oid)
			cached = lfirst(lc);
	}
	if (cached == NULL)
	{
		cached = palloc0_object(CachedManifest);
		cached->oid = oid;
		manifests = lappend(manifests, cached);
	}
	if (cached->manifest)
		filesync_manifest_free(cached->manifest);
	cached->serial = serial;
	cached->manifest = manifest;
	MemoryContextSwitchTo(old);
}

/*
 * Return the manifest of a template's snapshot, which is locked; it is owned
 * by the cache.  NULL if it is damaged, which is recorded.
 *
 * Errors: if resources of the process or the system are exhausted.
 */
static const FilesyncManifest *
get_manifest(const TestdbTemplate *template)
{
	FilesyncManifest *manifest;
	FilesyncError error;
	char		path[MAXPGPATH];
	ListCell   *lc;

	foreach(lc, manifests)
	{
		CachedManifest *cached = lfirst(lc);

		if (cached->oid == template->oid && cached->serial == template->manifest)
			return cached->manifest;
	}

	snapshot_path(template->oid, ".manifest", path);
	if (!filesync_manifest_read(path, &manifest, &error))
	{
		note_damage(template, &error);
		return NULL;
	}
	if (filesync_manifest_tag(manifest) != template->manifest)
	{
		filesync_manifest_free(manifest);
		error.saved_errno = EBADMSG;
		error.source = true;
		snprintf(error.message, sizeof(error.message),
				 "manifest \"%s\" is of another version", path);
		note_damage(template, &error);
		return NULL;
	}
	cache_manifest(template->oid, template->manifest, manifest);
	return manifest;
}

/*
 * Remove a template's manifest from this process's cache.
 */
static void
forget_manifest(Oid oid)
{
	ListCell   *lc;

	foreach(lc, manifests)
	{
		CachedManifest *cached = lfirst(lc);

		if (cached->oid == oid)
		{
			filesync_manifest_free(cached->manifest);
			manifests = foreach_delete_current(manifests, lc);
			pfree(cached);
		}
	}
}

/*
 * If any template has lost its entry since the last call, remove the
 * manifests of those without an entry from this process's cache.
 */
void
snapshot_forget_gone(void)
{
	static uint32 epoch = 0;
	ListCell   *lc;

	if (epoch == registry_epoch())
		return;
	epoch = registry_epoch();
	foreach(lc, manifests)
	{
		CachedManifest *cached = lfirst(lc);

		if (!registry_is_template(cached->oid))
		{
			filesync_manifest_free(cached->manifest);
			manifests = foreach_delete_current(manifests, lc);
			pfree(cached);
		}
	}
}

/*
 * Remove a file or directory, if it exists, including unreadable directories,
 * and without following links.  False, with errno set, if something remains.
 */
static bool
remove_tree(const char *path)
{
	struct stat st;
	struct dirent *entry;
	DIR		   *dir;

	check_stack_depth();
	if (lstat(path, &st) != 0)
		return errno == ENOENT;
	if (!S_ISDIR(st.st_mode))
		return unlink(path) == 0 || errno == ENOENT;

	(void) chmod(path, pg_dir_create_mode);
	dir = AllocateDir(path);
	while (dir != NULL && (entry = ReadDirExtended(dir, path, LOG)) != NULL)
	{
		char		name[MAXPGPATH * 2];

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		(void) remove_tree(name);
	}
	if (dir != NULL)
		FreeDir(dir);
	return rmdir(path) == 0 || errno == ENOENT;
}

/*
 * Remove the manifest of a template's snapshot, and an incomplete new one.  A
 * failure is noticed when the next one is written.
 */
static void
remove_manifest(Oid oid)
{
	char		path[MAXPGPATH];

	snapshot_path(oid, ".manifest", path);
	(void) remove_tree(path);
	snapshot_path(oid, ".manifest.new", path);
	(void) remove_tree(path);
}

/*
 * Remove a template's snapshot from disk.  The caller has locked it
 * exclusively, or its template was dropped.  A failure is logged; the next
 * attempt removes the rest.
 */
void
snapshot_remove(Oid oid)
{
	char		path[MAXPGPATH];

	forget_manifest(oid);
	remove_manifest(oid);
	snapshot_path(oid, "", path);
	if (!remove_tree(path))
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not remove directory \"%s\": %m", path)));
}

/*
 * Ensure that there is a directory for snapshots, with sufficient
 * permissions.
 *
 * Errors: 42809 if it is not a directory; those of the file system.
 */
static void
make_snapshot_dir(void)
{
	struct stat st;

	if (lstat(TESTDB_SNAPSHOT_DIR, &st) != 0)
	{
		if (MakePGDirectory(TESTDB_SNAPSHOT_DIR) != 0 && errno != EEXIST)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not create directory \"%s\": %m",
							TESTDB_SNAPSHOT_DIR)));
	}
	else if (!S_ISDIR(st.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a directory", TESTDB_SNAPSHOT_DIR),
				 errhint("Remove it: testdb makes a directory there.")));
	else if ((st.st_mode & S_IRWXU) != S_IRWXU)
		(void) chmod(TESTDB_SNAPSHOT_DIR, pg_dir_create_mode);
}

/*
 * Remove the directory for snapshots and its contents.
 *
 * Errors: those of the file system.
 */
void
snapshot_remove_dir(void)
{
	if (!remove_tree(TESTDB_SNAPSHOT_DIR))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove directory \"%s\": %m", TESTDB_SNAPSHOT_DIR)));
}

/*
 * Create an empty directory for snapshots, in place of an old one.
 *
 * Errors: as for make_snapshot_dir.
 */
void
snapshot_remove_all(void)
{
	make_snapshot_dir();
	snapshot_remove_dir();
	make_snapshot_dir();
}

/*
 * Entry point of the visitor: a background worker that connects to a database
 * and exits, which creates its pg_internal.init.
 */
void
testdb_visitor_main(Datum main_arg)
{
	database_init_visitor(DatumGetObjectId(main_arg));
}

/*
 * Report whether a template has no pg_internal.init, which saves the first
 * session of each clone from reading the catalogs.  DDL and a restart of the
 * server remove it; the visitor creates it.  If that fails, clones do
 * without.
 */
static bool
lacks_init_file(Oid oid)
{
	char	   *dir = GetDatabasePath(oid, DEFAULTTABLESPACE_OID);
	char	   *path = psprintf("%s/%s", dir, RELCACHE_INIT_FILENAME);
	struct stat st;

	return stat(path, &st) != 0 && stat(dir, &st) == 0;
}

/*
 * Callback of filesync.c: report whether a file of the template belongs into
 * a snapshot.  Leftovers of killed sessions do not: temporary relations
 * (t<number>_<number>), and a pg_internal.init under its temporary name.
 */
static bool
is_wanted(const char *name, void *arg pg_attribute_unused())
{
	if (name[0] == 't' && name[1] >= '0' && name[1] <= '9')
		return false;
	return strncmp(name, RELCACHE_INIT_FILENAME ".",
				   sizeof(RELCACHE_INIT_FILENAME)) != 0;
}

/*
 * Get the disk space that a copy of a template takes, in bytes and files:
 * from the description of its snapshot, or from its present files, which may
 * change concurrently. 0 if they cannot be read.
 */
void
snapshot_measure(Oid oid, uint64 *bytes, uint64 *files)
{
	TestdbTemplate template;
	FilesyncOptions options = get_options(false);
	FilesyncManifest *now;
	FilesyncError error;
	char	   *source;

	*bytes = *files = 0;
	if (registry_template(oid, &template) && template.has_snapshot)
	{
		*bytes = template.bytes;
		*files = template.files;
		return;
	}
	source = GetDatabasePath(oid, DEFAULTTABLESPACE_OID);
	options.filter = is_wanted;
	if (filesync_scan(source, &options, &now, &error))
	{
		*bytes = filesync_manifest_space(now, BLCKSZ);
		*files = filesync_manifest_count(now);
		filesync_manifest_free(now);
	}
	pfree(source);
}

/*
 * Raise an error unless a database still is the template that the caller
 * requested by this name: one created by testdb keeps its OID when it is
 * recycled, so it must also have the same lease, a number that is 0 for all
 * other databases.
 *
 * Errors: 3D000.
 */
void
snapshot_check_identity(Oid oid, const char *name, uint64 lease)
{
	DatabaseInfo info;
	TestdbClone clone;
	bool		same = database_lookup(oid, &info);

	if (same && registry_lookup(oid, &clone))
		same = clone.state == CLONE_LEASED && clone.lease == lease;
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("template database \"%s\" does not exist", name),
				 errdetail("It has been dropped in the meantime.")));
}

/*
 * Report whether the snapshot lacks what is committed in the template, or is
 * too old for the server's pg_xact.  Then no clone can be created from it.
 */
static bool
is_behind(const TestdbTemplate *template)
{
	return (registry_behind(template, NULL, NULL) & BEHIND_CONTENT) ||
		!database_keeps_horizons(template->oid, &template->row);
}

/*
 * Report whether the template's files may differ from the snapshot's although
 * nothing was committed in it, or the snapshot should be in another
 * directory.
 */
static bool
is_suspect(const TestdbTemplate *template, const TemplateRow *row)
{
	return (registry_behind(template, NULL, NULL) & BEHIND_UNVERIFIED) ||
		template->in_place != row->closed ||
		template->row.frozenxid != row->frozenxid ||
		template->row.minmxid != row->minmxid;
}

/*
 * Copy the template's files, described by *now, to a new snapshot, in place
 * of an old one in whatever state.  *copy is its manifest.
 *
 * Errors: 53100 and others of the file system; 42809.
 */
static void
take_snapshot(Oid oid, const FilesyncManifest *now, FilesyncManifest **copy,
			  FilesyncStats *stats)
{
	FilesyncOptions options = get_options(false);
	FilesyncError error;
	char		target[MAXPGPATH];
	FilesyncTask task = {.source = GetDatabasePath(oid, DEFAULTTABLESPACE_OID),
		.manifest = now, .target = target, .options = &options, .stats = stats,
	.error = &error};

	make_snapshot_dir();
	snapshot_remove(oid);
	database_check_space(NULL, filesync_manifest_space(now, BLCKSZ),
						 filesync_manifest_count(now));
	snapshot_path(oid, "", target);
	if (!filesync_copy_dir(&task, copy))
		report_filesync_error(&error);
	space_release();
}

/*
 * The same if the old snapshot is undamaged, as far as is known: copy the
 * files that have changed.  False if it turned out to be damaged; then it
 * must be taken again.
 */
static bool
update_files(const TestdbTemplate *template, const FilesyncManifest *now,
			 FilesyncManifest **copy, FilesyncStats *stats)
{
	const FilesyncManifest *old = get_manifest(template);
	FilesyncOptions options = get_options(false);
	FilesyncError error;
	char		target[MAXPGPATH];
	FilesyncTask task = {.source = GetDatabasePath(template->oid, DEFAULTTABLESPACE_OID),
		.manifest = now, .target = target, .options = &options, .stats = stats,
	.error = &error};
	uint64		bytes;
	uint64		files;
	bool		ok;

	snapshot_path(template->oid, "", target);
	if (old == NULL)
		return false;
	room_to_refresh(now, old, &bytes, &files);
	database_check_space(NULL, bytes, files);
	ok = filesync_refresh(&task, old, copy);
	space_release();
	if (ok)
		return true;
	if (error.saved_errno == ECANCELED)
		report_filesync_error(&error);
	log_damage(template->oid, &error);
	return false;
}

/*
 * Report whether a template's files, described by *now, are those that were
 * adopted as its snapshot in place.
 */
static bool
is_same_in_place(const TestdbTemplate *template, const FilesyncManifest *now)
{
	const FilesyncManifest *old = NULL;

	if (template->has_snapshot && template->in_place && !template->damaged)
		old = get_manifest(template);
	return old != NULL && filesync_manifest_is_same(old, now);
}

/*
 * Copy the template's files to a new snapshot, or update the existing one.
 * Both are locked.  *copy is its manifest; returns true if any file has
 * changed.
 */
static bool
copy_files(const TestdbTemplate *template, const char *source, FilesyncManifest **copy)
{
	FilesyncOptions options = get_options(false);
	FilesyncStats stats = {0};
	FilesyncError error;
	FilesyncManifest *now;
	volatile bool same = false;

	options.filter = is_wanted;
	if (!filesync_scan(source, &options, &now, &error))
		report_filesync_error(&error);
	PG_TRY();
	{
		same = is_same_in_place(template, now);
		if (!template->has_snapshot || template->damaged || template->in_place ||
			!update_files(template, now, copy, &stats))
			take_snapshot(template->oid, now, copy, &stats);
	}
	PG_FINALLY();
	{
		filesync_manifest_free(now);
	}
	PG_END_TRY();
	return !same && stats.copied + stats.created + stats.removed > 0;
}

/*
 * Make the template's own files its snapshot, and remove one that was a copy.
 * Both are locked.  *own is the manifest; returns true if any file has
 * changed since the files were adopted before.
 */
static bool
adopt_files(const TestdbTemplate *template, const char *source, FilesyncManifest **own)
{
	FilesyncOptions options = get_options(false);
	FilesyncError error;
	bool		same;

	options.filter = is_wanted;
	if (!filesync_adopt(source, &options, own, &error))
		report_filesync_error(&error);
	same = is_same_in_place(template, *own);
	debug_point("snapshot-adopted");
	snapshot_remove(template->oid);
	return !same;
}

/*
 * Bring the snapshot up to date with the template's files, with a new version
 * if any file has changed.  Both are locked.  closed is true if the template
 * allows no connections.
 */
static void
sync_files(TestdbTemplate *template, bool closed)
{
	char	   *source = GetDatabasePath(template->oid, DEFAULTTABLESPACE_OID);
	char		path[MAXPGPATH];
	FilesyncOptions options = get_options(false);
	FilesyncError error;
	FilesyncManifest *copy = NULL;
	bool		changed = closed ? adopt_files(template, source, &copy) :
		copy_files(template, source, &copy);

	if (changed)
	{
		template->version = registry_next_serial();
		template->lsn = GetXLogInsertRecPtr();
	}

	/* The same files in another directory have other times. */
	if (changed || template->in_place != closed)
		template->manifest = registry_next_serial();
	template->in_place = closed;
	template->files = filesync_manifest_count(copy);
	template->bytes = filesync_manifest_space(copy, 1);
	filesync_manifest_set_tag(copy, template->manifest);
	debug_point("snapshot-manifest");
	remove_manifest(template->oid);
	snapshot_path(template->oid, ".manifest", path);
	if (filesync_manifest_write(copy, path, &options, &error))
		cache_manifest(template->oid, template->manifest, copy);
	else
	{
		filesync_manifest_free(copy);
		report_filesync_error(&error);
	}
}

/*
 * Update a snapshot's files.  The template is locked and has no sessions, and
 * the snapshot is locked; closed as in sync_files.
 */
static void
refresh_files(TestdbTemplate *template, bool closed)
{
	database_check_space(NULL, 0, 0);

	/*
	 * A checkpoint also executes pending unlinks of files, which would
	 * otherwise disappear while they are copied.
	 */
	if (!(registry_behind(template, NULL, NULL) & BEHIND_CONTENT))
		FlushDatabaseBuffers(template->oid);
	else
		RequestCheckpoint(CHECKPOINT_FAST | CHECKPOINT_FORCE |
						  CHECKPOINT_WAIT | CHECKPOINT_FLUSH_UNLOGGED);
	registry_clear_snapshot(template->oid, "");
	debug_point("snapshot-cleared");
	sync_files(template, closed);
	debug_point("snapshot-files");
	template->snapshot_generation = template->generation;

	/*
	 * The dependencies of the objects cannot change without a commit in the
	 * template, so they have the files' version.
	 */
	template->dependencies = database_dependencies(template->oid);
}

/*
 * Update the snapshot: its files, if with_files is set, for which the
 * template must be locked and have no sessions; and the description of its
 * row.  *template gets the new description.  False if the template's entry
 * was reused meanwhile.  Takes ExclusiveLock on the snapshot, and releases it
 * unless false is returned.
 */
static bool
refresh_snapshot(TestdbTemplate *template, bool with_files)
{
	TimestampTz start = GetCurrentTimestamp();
	TemplateStats stats = {0};
	TemplateRow row;
	uint64		settings_generation;
	uint64		settings;
	Oid			oid = template->oid;

	LockSharedObject(DatabaseRelationId, oid, SNAPSHOT_SUBID, ExclusiveLock);
	registry_check_installed();
	if (!database_read_row(oid, &row))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("template database with OID %u does not exist", oid)));
	if (!registry_template(oid, template))
		return false;

	if (with_files)
		refresh_files(template, row.closed);
	settings_generation = registry_settings_generation();
	settings = database_settings(template->oid);
	if (template->row_version == 0 || settings != template->settings ||
		template->row.xmin != row.xmin ||
		!ItemPointerEquals(&template->row.tid, &row.tid))
		template->row_version = registry_next_serial();
	template->settings_generation = settings_generation;
	template->settings = settings;
	if (!with_files)
	{
		/* The horizons are those of the files, which were not updated. */
		row.frozenxid = template->row.frozenxid;
		row.minmxid = template->row.minmxid;
	}
	template->row = row;
	template->taken_at = GetCurrentTimestamp();
	registry_set_snapshot(template, with_files);
	debug_point("snapshot-entered");
	stats.snapshot_us = template->taken_at - start;
	registry_add_stats(template->oid, &stats);
	UnlockSharedObject(DatabaseRelationId, template->oid, SNAPSHOT_SUBID, ExclusiveLock);
	return true;
}

/*
 * Create an entry for a template that has none, so that from now on its
 * commits are noticed.  If that evicts another template's entry, its snapshot
 * is removed, and stays locked until the end of the transaction.
 *
 * Errors: 53400 if testdb.max_templates is reached.
 */
void
snapshot_enter_template(Oid oid)
{
	Oid			evicted;

	if (!registry_enter_template(oid, &evicted))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many templates have clones"),
				 errdetail("All %d are in use.", testdb_max_templates),
				 errhint("Drop all clones of a template, or increase \"%s\".",
						 "testdb.max_templates")));
	if (OidIsValid(evicted))
	{
		LockSharedObject(DatabaseRelationId, evicted, SNAPSHOT_SUBID, ExclusiveLock);
		snapshot_remove(evicted);
	}
}

/*
 * Copy a template's entry to *template, after creating one if there is none;
 * false if it is reused repeatedly, which may happen as long as it has no
 * clones.
 *
 * Errors: those of snapshot_enter_template.
 */
static bool
read_entry(Oid oid, TestdbTemplate *template)
{
	for (int i = 0; i < ENTRY_TRIES; i++)
	{
		if (registry_template(oid, template))
			return true;
		snapshot_enter_template(oid);
	}
	return registry_template(oid, template);
}

/*
 * Record why a template cannot be cloned by the native method.
 */
static SnapshotStatus
refuse_native(Oid oid)
{
	char	   *obstacle = database_obstacle(oid);

	registry_clear_snapshot(oid, obstacle ? obstacle : "");
	return SNAPSHOT_IMPOSSIBLE;
}

/*
 * Report whether files can be copied from a template's snapshot only while
 * the template is locked and has no sessions.
 */
static bool
needs_locked_source(const TestdbTemplate *template)
{
	return template->in_place || database_is_logged();
}

/*
 * Ensure that a template has a snapshot with all that is committed in it, and
 * copy the template's entry to *template.
 *
 * Called in a transaction, which may keep a ShareLock on the template.  name
 * and lease are as for snapshot_check_identity, *nprepared is as in
 * database_lock_idle.
 *
 * Errors: 3D000 if the template no longer exists; 53100, 53400; 55000 after
 * testdb_uninstall(); 55P03 after lock_timeout.
 */
SnapshotStatus
snapshot_ensure(Oid oid, const char *name, uint64 lease,
				TestdbTemplate *template, int *nprepared)
{
	TemplateRow row;
	bool		behind;
	bool		idle = false;

	*nprepared = 0;
	registry_check_installed();
	AcceptInvalidationMessages();
	snapshot_check_identity(oid, name, lease);
	database_settle_settings();
	if (!database_read_row(oid, &row))
		elog(ERROR, "cache lookup failed for database %u", oid);
	if (!read_entry(oid, template))
		return SNAPSHOT_BUSY;

	if (database_has_wal_consumer())
		return refuse_native(oid);

	/*
	 * Changes without a transaction ID can only be detected while the
	 * template has no sessions; the same is required by snapshot_lock_source,
	 * which does not wait, and for taking a damaged snapshot again, which
	 * does not affect spares.
	 */
	behind = is_behind(template);
	if (behind || template->damaged || needs_locked_source(template) ||
		(is_suspect(template, &row) && CountDBBackends(oid) == 0))
	{
		idle = database_lock_idle(oid, name, nprepared);
		snapshot_check_identity(oid, name, lease);
		if (idle && lacks_init_file(oid))
		{
			/* The visitor cannot connect while we hold the lock. */
			UnlockSharedObject(DatabaseRelationId, oid, 0, ShareLock);
			(void) database_visit(oid, "testdb_visitor_main", "testdb visitor");
			idle = database_lock_idle(oid, name, nprepared);
			snapshot_check_identity(oid, name, lease);
		}
		if (behind && !idle)
			return SNAPSHOT_BUSY;
	}
	if (idle)
	{
		if (!read_entry(oid, template))
			return SNAPSHOT_BUSY;
		behind = is_behind(template);
	}
	if (!behind && !(idle && (template->damaged || is_suspect(template, &row))) &&
		registry_row_version(oid, &row) != 0)
		return SNAPSHOT_FRESH;

	if (database_obstacle(oid))
		return refuse_native(oid);
	return refresh_snapshot(template, idle) ? SNAPSHOT_FRESH : SNAPSHOT_BUSY;
}

/*
 * Lock a template's snapshot in ShareLock, until the end of the transaction,
 * and copy the template's entry to *template; false if there is no snapshot.
 *
 * Errors: 55P03 after lock_timeout.
 */
bool
snapshot_lock(Oid oid, TestdbTemplate *template)
{
	LockSharedObject(DatabaseRelationId, oid, SNAPSHOT_SUBID, ShareLock);
	return registry_template(oid, template) && template->has_snapshot;
}

/*
 * Lock a template's snapshot in ExclusiveLock, until the end of the
 * transaction; false if that is not possible without waiting.
 */
bool
snapshot_try_lock(Oid oid)
{
	return database_lock_at_once(oid, SNAPSHOT_SUBID, ExclusiveLock);
}

/*
 * The same as snapshot_lock, but false as well if the snapshot is behind the
 * template, or is too old for the server's pg_xact.  The latter cannot change
 * until the end of the transaction if database_lock_horizons was called
 * before.
 */
bool
snapshot_lock_current(Oid oid, TestdbTemplate *template)
{
	return snapshot_lock(oid, template) && !is_behind(template);
}

/*
 * Ensure that files may be copied to clones from a template's snapshot, which
 * is locked.  If it is the template itself, or wal_level is above minimal,
 * the template is locked as well, until the end of the transaction; false if
 * it has sessions, had any since *template was read, or has changed, or if
 * there is a WAL consumer.
 *
 * Does not wait, since elsewhere the template is locked before its snapshot:
 * snapshot_ensure has waited.
 */
bool
snapshot_lock_source(const TestdbTemplate *template)
{
	TestdbTemplate now;

	if (!needs_locked_source(template))
		return true;
	return !(database_is_logged() && database_has_wal_consumer()) &&
		database_try_lock_idle(template->oid) &&
		registry_template(template->oid, &now) &&
		!(registry_behind(&now, NULL, NULL) & (BEHIND_CONTENT | BEHIND_UNVERIFIED)) &&
		now.version == template->version;
}

/*
 * Count the files and bytes copied to a clone.
 */
static void
count_files(Oid template_oid, const FilesyncStats *copied)
{
	TemplateStats stats = {0};

	stats.files = copied->copied + copied->created;
	stats.bytes = copied->bytes;
	registry_add_stats(template_oid, &stats);
}

/*
 * Report whether files of a snapshot, which is locked, are those that were
 * written to it: the files with these names, or all if names is NULL.  It
 * takes one stat() per file.  If not, that is recorded.
 *
 * Errors: if that cannot be determined.
 */
bool
snapshot_is_intact(const TestdbTemplate *template, const FilesyncNames *names)
{
	const FilesyncManifest *manifest = get_manifest(template);
	FilesyncError error;
	char		source[MAXPGPATH];

	if (manifest == NULL)
		return false;
	snapshot_source_path(template, source);
	if (filesync_is_intact(source, manifest, names, &error))
		return true;
	note_damage(template, &error);
	return false;
}

/*
 * Copy a snapshot, which is locked, to the directory of a new database.
 * False if the snapshot was found to be damaged.
 *
 * Errors: 53100 and others of the file system.  On failure, the directory is
 * unusable.
 */
bool
snapshot_copy(const TestdbTemplate *template, Oid clone)
{
	const FilesyncManifest *manifest = get_manifest(template);
	char		source[MAXPGPATH];
	FilesyncOptions options = get_clone_options(template);
	FilesyncStats stats = {0};
	FilesyncError error;
	FilesyncTask task = {.source = source, .manifest = manifest,
		.target = GetDatabasePath(clone, DEFAULTTABLESPACE_OID),
	.options = &options, .stats = &stats, .error = &error};
	bool		ok;

	if (manifest == NULL)
		return false;
	snapshot_source_path(template, source);
	database_check_space(NULL, template->bytes, template->files);
	ok = filesync_copy_dir(&task, NULL);
	space_release();
	if (ok)
		count_files(template->oid, &stats);
	else
		note_damage(template, &error);
	return ok;
}

/*
 * Get the additional disk space, in bytes and files, that a clone will take
 * once its directory has the content of a snapshot, which is locked: in the
 * files with these names, or in all if names is NULL.  With plenty of space,
 * the result may be the size of a whole copy.
 *
 * Errors: if that cannot be determined.
 */
void
snapshot_room(const TestdbTemplate *template, Oid clone, const FilesyncNames *names,
			  uint64 *bytes, uint64 *files)
{
	const FilesyncManifest *manifest = get_manifest(template);
	char	   *target = GetDatabasePath(clone, DEFAULTTABLESPACE_OID);

	*bytes = template->bytes + (uint64) template->files * BLCKSZ;
	*files = template->files;

	/* Nothing will be copied from a damaged snapshot. */
	if (manifest == NULL || (names == NULL && database_has_space(2 * *bytes, 2 * *files)))
		return;
	if (!room_to_restore(manifest, target, names, bytes, files))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read directory \"%s\": %m", target)));
	pfree(target);
}

/*
 * Bring the directory of a clone to the content of a snapshot, which is
 * locked: the files with these names, or all if names is NULL.  False if the
 * snapshot was found to be damaged.
 *
 * Errors: as for snapshot_copy.
 */
bool
snapshot_restore(const TestdbTemplate *template, Oid clone,
				 const FilesyncNames *names)
{
	const FilesyncManifest *manifest = get_manifest(template);
	char		source[MAXPGPATH];
	FilesyncOptions options = get_clone_options(template);
	FilesyncStats stats = {0};
	FilesyncError error;
	FilesyncTask task = {.source = source, .manifest = manifest,
		.target = GetDatabasePath(clone, DEFAULTTABLESPACE_OID),
	.options = &options, .stats = &stats, .error = &error};
	bool		ok;

	if (manifest == NULL)
		return false;
	snapshot_source_path(template, source);
	ok = names ? filesync_restore_changed(&task, names) : filesync_restore_full(&task);
	if (!ok)
	{
		note_damage(template, &error);
		return false;
	}
	count_files(template->oid, &stats);

#ifdef TESTDB_DEBUG
	if (names)
	{
		FilesyncStats check = {0};

		task.stats = &check;
		if (!filesync_restore_full(&task))
			report_filesync_error(&error);
		if (check.copied + check.created + check.removed > 0)
			elog(PANIC, "a change of database %u was not noticed", clone);
	}
#endif
	return true;
}
