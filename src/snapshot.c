/*-------------------------------------------------------------------------
 *
 * snapshot.c
 *	  Private copies of the templates' files.
 *
 * pg_testdb/snapshots/<oid> holds a copy of a template's directory, taken
 * while nobody was in the template and its buffers were flushed, and
 * pg_testdb/snapshots/<oid>.manifest says what is in it (filesync.c).  Clones
 * are made and restored from there, so that a session that sits in the
 * template is in nobody's way.  Snapshots do not outlive the server: they are
 * removed at its start, and so need not be durable.
 *
 * A template to which nobody can connect (ALLOW_CONNECTIONS false, as
 * testdb_template_finish leaves it) has no copy: its own files are the snapshot,
 * with a manifest of their own.  Whoever copies from them has locked the template,
 * with nobody in it, and unchanged since the manifest was made; autovacuum and
 * some background workers may enter it even so.  Once it is open again a copy is
 * taken as soon as nobody is in it; until then nothing is made from its files.
 *
 * A snapshot is brought up to date when something is asked of the template
 * that it does not hold yet:
 *
 *	- a transaction has been committed in the template (its generation has
 *	  moved): wait until nobody is in it, checkpoint, and compare its files
 *	  with the snapshot's, by size and time;
 *	- the template's horizons have moved, or a session without a transaction
 *	  ID has been in it (unverified), and nobody is in it now: the same with
 *	  a flush instead of the checkpoint.  As long as somebody is, the snapshot
 *	  is used as it is, with its own horizons, if pg_xact is kept for these;
 *	- its row in pg_database or its settings have changed: the files need not
 *	  be looked at.
 *
 * The files have a version, and what belongs to them in shared catalogs has
 * one: numbers never used before, whenever something has changed.  Clones of
 * older versions are brought up to date before they are handed out.
 *
 * While a snapshot is being changed the registry says that there is none.  If
 * that fails, or the process dies, it stays so, and the next one who needs it
 * takes it anew.
 *
 * Snapshots are files like others, and somebody may lay hands on them while the
 * server runs: clean up what looks ten years old, say.  Whoever reads a file of
 * a snapshot finds out whether it is the one that was written (filesync.c).  If
 * not, the template's entry says that the snapshot is damaged, the copy that was
 * begun is given up, and the next one who needs the snapshot takes it anew, as
 * soon as nobody is in the template.  Until then spares are handed out, and
 * clones restored for which the damaged files are not needed.
 *
 * With wal_level above minimal others may make the same clones by what WAL
 * tells them, and what it can tell them is to copy the template.  The snapshot
 * then is of use only while nobody is in the template, which is what the
 * snapshot holds (snapshot_lock_source).  It is not used while somebody does
 * follow WAL (database_is_followed says why).
 *
 * Locks.  The template's database is locked as CREATE DATABASE locks it
 * (ShareLock, no session in it) while its files are read.  The snapshot itself
 * has a heavyweight lock of its own, which is the template's object with 1 as
 * the sub-object: ShareLock to copy from it, ExclusiveLock to change it.  Being
 * heavyweight locks, they can be waited for with a timeout, are seen in
 * pg_locks, and are released whatever happens.
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

/* How often a template is entered whose place others take. */
#define ENTRY_TRIES		3

/* A manifest that this process has read. */
typedef struct CachedManifest
{
	Oid			oid;
	uint64		serial;
	FilesyncManifest *manifest;
} CachedManifest;

static List *manifests = NIL;	/* of CachedManifest, in TopMemoryContext */

PGDLLEXPORT void testdb_visitor_main(Datum main_arg);

/*
 * Raise a failure of filesync.c.  53100 if the disk is full.
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
 * Log why a template's snapshot must be taken anew.  In a transaction.
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
 * Deal with a failure to copy from a template's snapshot, which is locked: note
 * that it is damaged, if that is why.  In a transaction.
 *
 * Errors: whatever else it is.
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
 * For filesync.c: go on as long as nobody wants this process to stop.
 */
static bool
go_on(void *arg pg_attribute_unused())
{
	return InterruptHoldoffCount > 0 ||
		!(InterruptPending && (QueryCancelPending || ProcDiePending));
}

/*
 * The options with which database directories are written.  durable is for
 * those that must survive a crash of the system.
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
	options.check = go_on;
	return options;
}

/*
 * The path of a template's snapshot, or with a suffix of its manifest, in path
 * (MAXPGPATH bytes).
 */
void
snapshot_path(Oid oid, const char *suffix, char *path)
{
	snprintf(path, MAXPGPATH, "%s/%u%s", TESTDB_SNAPSHOT_DIR, oid, suffix);
}

/*
 * The path of the directory that has the files of a template's snapshot, in path
 * (MAXPGPATH bytes).
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
 * The options with which a clone's directory is written from a snapshot.
 */
static FilesyncOptions
get_clone_options(const TestdbTemplate *template)
{
	FilesyncOptions options = get_options(true);

	options.mtime_steps = template->in_place ? 2 : 1;
	return options;
}

/*
 * Put a manifest into this process's cache, instead of an older one of that
 * template; it belongs to the cache from then on.
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
 * The manifest of a template's snapshot; it belongs to the cache.  The
 * snapshot is locked.  NULL if it is damaged, which is noted.
 *
 * Errors: if this process or the system is short of something.
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
 * Drop a template's manifest from this process's cache.
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
 * Drop from this process's cache the manifests of templates that have gone, if
 * any has since the last call.
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
 * Remove whatever there is under a path, which may be nothing: unlike rmtree
 * also what nobody may read, and no link is followed.  False if something
 * stays, for the reason in errno.
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
 * Remove the manifest of a template's snapshot, and a new one that was not
 * finished.  Failing that is for who writes the next one to find.
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
 * Remove a template's snapshot from disk.  Failing that is logged: what stays
 * is removed by the next attempt, or at the server's start.
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
 * See that there is a directory for snapshots, in which files can be made.
 *
 * Errors: 42809 if something else is in its place; whatever the file system
 * says.
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
 * Remove the directory for snapshots, with all that is in it.
 *
 * Errors: whatever the file system says.
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
 * Make an empty directory for snapshots, in place of an old one.
 *
 * Errors: as make_snapshot_dir.
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
 * and leaves it, so that it gets its pg_internal.init.
 */
void
testdb_visitor_main(Datum main_arg)
{
	database_init_visitor(DatumGetObjectId(main_arg));
}

/*
 * Has a template no pg_internal.init, the file that saves the first session of
 * each clone from reading the catalogs?  DDL and a restart of the server remove
 * it.
 *
 * A visitor makes one.  If it can't, clones will have no such file: their first
 * session is slower.
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
 * For filesync.c: does a file of the template belong into a snapshot?  Not
 * those that some session left behind when it was killed: temporary relations
 * (t<number>_<number>), and a pg_internal.init under its working name.
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
 * How much room a copy of a template takes, in bytes and files: what is known of
 * its snapshot, or what its files are now.  Somebody may change them meanwhile:
 * 0 if they can't be read.
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
 * Raise an error unless a database still is the one that the caller meant and
 * called name.
 *
 * The OID says that, except for a database that testdb made, which keeps it from
 * one life to the next: that is a template only while it has the same lease, a
 * number that is 0 for all others.
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
 * Is the snapshot behind what is committed in the template, or too old for the
 * server's pg_xact?  Until it is brought up to date, no clone can be made from it.
 */
static bool
is_behind(const TestdbTemplate *template)
{
	return (registry_behind(template, NULL, NULL) & BEHIND_CONTENT) ||
		!database_keeps_horizons(template->oid, &template->row);
}

/*
 * May the template's files differ from the snapshot's, though nothing has been
 * committed there, or should these be elsewhere?  They are looked at when nobody is
 * in it.
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
 * Copy the template's files, which are in *now, to a new snapshot, in place of
 * an old one, whose state does not matter.  Its manifest goes to *copy.
 *
 * Errors: 53100, and whatever else the file system says; 42809.
 */
static void
take_anew(Oid oid, const FilesyncManifest *now, FilesyncManifest **copy,
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
 * The same where the old snapshot is in order, as far as is known, by copying
 * what has changed.  False, with nothing that could be used left, if it is not.
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
 * Are a template's files, which are in *now, what they were when they were made its
 * snapshot in place?
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
 * Copy the template's files to a new snapshot, or bring the snapshot to what
 * they are.  Both are locked.  Its manifest goes to *copy; true if anything of it
 * was changed.
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
			take_anew(template->oid, now, copy, &stats);
	}
	PG_FINALLY();
	{
		filesync_manifest_free(now);
	}
	PG_END_TRY();
	return !same && stats.copied + stats.created + stats.removed > 0;
}

/*
 * Make the template's own files its snapshot, and remove one that was a copy.  Both
 * are locked.  The manifest goes to *own; true if any of them has changed since it
 * was made so before.
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
 * Bring the snapshot to what the template's files are, with a new version if
 * anything of it was changed.  Both are locked.  closed says that nobody can
 * connect to the template.
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

	/* The same files in another place have other times. */
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
 * Bring a snapshot's files up to date.  The template is locked, with nobody in
 * it, and so is the snapshot; closed as in sync_files.
 */
static void
refresh_files(TestdbTemplate *template, bool closed)
{
	database_check_space(NULL, 0, 0);

	/*
	 * A checkpoint also carries out pending removals of files, which would
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
	 * What the files' objects depend on can't change without a commit in the
	 * template, so it belongs to the files.
	 */
	template->dependencies = database_dependencies(template->oid);
}

/*
 * Bring the snapshot up to date: its files, if with_files says that the
 * template is locked with nobody in it, and what is known of its row.
 * *template gets what was entered.  False if the template's place in the registry
 * was taken by another meanwhile.
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
		/* The files, whose horizons these are, are as old as they were. */
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
 * Enter a template that has no entry, so that from now on its commits are
 * noticed.  In a transaction.
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
 * Copy what is known of a template to *template, after entering it if it has no
 * entry.  As long as it has no clones another template may take its place at
 * once: false if that happens again and again.
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
 * Enter why a template can't be cloned by the native method.
 */
static SnapshotStatus
refuse_native(Oid oid)
{
	char	   *obstacle = database_obstacle(oid);

	registry_clear_snapshot(oid, obstacle ? obstacle : "");
	return SNAPSHOT_IMPOSSIBLE;
}

/*
 * Can files be copied from a template's snapshot only while the template is locked,
 * with nobody in it?
 */
static bool
needs_locked_source(const TestdbTemplate *template)
{
	return template->in_place || database_is_logged();
}

/*
 * See that a template has a snapshot that holds what is committed in it, and
 * copy what is known of it to *template.
 *
 * Called in a transaction, which may keep a ShareLock on the template.  name
 * and lease as for snapshot_check_identity, *nprepared as in
 * database_lock_idle.
 *
 * Errors: 3D000 if it has gone; 53100, 53400; 55000 after testdb_uninstall();
 * 55P03 after lock_timeout.
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
	if (registry_has_settings_prepared() && database_count_prepared(NULL) == 0)
		registry_settings_prepared(false);
	if (!database_read_row(oid, &row))
		elog(ERROR, "cache lookup failed for database %u", oid);
	if (!read_entry(oid, template))
		return SNAPSHOT_BUSY;

	if (database_is_followed())
		return refuse_native(oid);

	/*
	 * Only if nobody is in the template can it be found out what was done
	 * there without a transaction ID; and only then will
	 * snapshot_lock_source, which does not wait, find it so.  A damaged
	 * snapshot can be taken anew only then, and is not in the way of spares.
	 */
	behind = is_behind(template);
	if (behind || template->damaged || needs_locked_source(template) ||
		(is_suspect(template, &row) && CountDBBackends(oid) == 0))
	{
		idle = database_lock_idle(oid, name, nprepared);
		snapshot_check_identity(oid, name, lease);
		if (idle && lacks_init_file(oid))
		{
			/* The visitor can't come as long as we have the lock. */
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
 * Lock a template's snapshot against changes until the end of the transaction,
 * and copy what is known of it to *template; false if there is none.
 */
bool
snapshot_lock(Oid oid, TestdbTemplate *template)
{
	LockSharedObject(DatabaseRelationId, oid, SNAPSHOT_SUBID, ShareLock);
	return registry_template(oid, template) && template->has_snapshot;
}

/*
 * Lock a template's snapshot, to change it, until the end of the transaction, if
 * that is possible without waiting.
 */
bool
snapshot_try_lock(Oid oid)
{
	return database_lock_at_once(oid, SNAPSHOT_SUBID, ExclusiveLock);
}

/*
 * The same as snapshot_lock, but false as well if the snapshot is known to be
 * behind the template, or is too old for the server's pg_xact.  pg_xact stays as it
 * is if database_lock_horizons was called before.
 */
bool
snapshot_lock_current(Oid oid, TestdbTemplate *template)
{
	return snapshot_lock(oid, template) && !is_behind(template);
}

/*
 * See that the files of a clone may be made from a template's snapshot, which is
 * locked.
 *
 * With wal_level above minimal, they may if others can make them from the
 * template itself, and so they may if the snapshot is the template: until the end of the transaction nobody can change it, and it
 * is what the snapshot was when *template was read.  False if somebody is in
 * it, or was since, and also if somebody follows WAL at this moment.
 *
 * Does not wait, since the template is locked before its snapshot elsewhere:
 * snapshot_ensure has done so where it could.
 */
bool
snapshot_lock_source(const TestdbTemplate *template)
{
	TestdbTemplate now;

	if (!needs_locked_source(template))
		return true;
	return !(database_is_logged() && database_is_followed()) &&
		database_try_lock_idle(template->oid) &&
		registry_template(template->oid, &now) &&
		!(registry_behind(&now, NULL, NULL) & (BEHIND_CONTENT | BEHIND_UNVERIFIED)) &&
		now.version == template->version;
}

/*
 * Count what was copied to a clone.
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
 * Report whether files of a snapshot, which is locked, are what was written to
 * it: those with these names, or all if names is NULL.  It takes a stat for each.
 * If not, that is noted.
 *
 * Errors: if that can't be found out.
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
 * Copy a snapshot, which is locked, to the directory of a new database.  False
 * if the snapshot was found to be damaged.
 *
 * Errors: 53100, and whatever the file system says.  Then, and if it was found
 * to be damaged, the directory is useless.
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
 * How much more room, in bytes and files, a clone will take when its directory
 * has been brought to the content of a snapshot, which is locked: in the files
 * with these names, or in all if names is NULL.  Where there is plenty, not so
 * much is counted: it may be as much as the whole takes.
 *
 * Errors: if that can't be found out.
 */
void
snapshot_room(const TestdbTemplate *template, Oid clone, const FilesyncNames *names,
			  uint64 *bytes, uint64 *files)
{
	const FilesyncManifest *manifest = get_manifest(template);
	char	   *target = GetDatabasePath(clone, DEFAULTTABLESPACE_OID);

	*bytes = template->bytes + (uint64) template->files * BLCKSZ;
	*files = template->files;

	/* Of a damaged snapshot nothing will be copied. */
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
 * Errors: as snapshot_copy.
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
