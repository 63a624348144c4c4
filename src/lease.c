/*-------------------------------------------------------------------------
 *
 * lease.c
 *	  The leases: what is recorded on disk about each database created by
 *	  testdb.
 *
 * A file pg_testdb/clones/<oid> per database records that testdb created it,
 * from which template, for whom, and its state.  testdb only drops databases
 * that have one.  It is written before the action that it announces:
 *
 *	CREATING	before the database's directory and row are made
 *	HELD		when it is complete, before it is handed out
 *	UNWANTED	before the first irreversible step of its removal, or of
 *				its recycling; also while it is a spare
 *	REWINDING	from before the files of a clone in use are restored until they
 *				are; if found at server start, the restore is repeated
 *	(removed)	after the removal of its row was committed
 *
 * After a crash, then: CREATING and UNWANTED mean that whatever exists of the
 * database must be removed, and that its name was not handed out (or is no
 * longer used); HELD means that it is kept, or, if it has no row, that it was
 * dropped with plain SQL.  An invalid file protects its database: testdb then
 * never touches it, and logs that.
 *
 * A base backup contains leases that its WAL contradicts: see origin.c.
 *
 * Each file is one fixed-size struct with a checksum, small enough to be
 * written by a single system call within one sector.  Only one process writes
 * the file of a given database at a time: the owner of its entry in the
 * registry.  LEASED has no owner: a process that changes the terms, or begins
 * a drop, holds a self-conflicting lock on the database,
 * ShareUpdateExclusiveLock or AccessExclusiveLock, from before it reads the
 * entry until the file is written.  No lock is taken here.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "lease.h"
#include "signals.h"

#define LEASE_MAGIC		0x7465737A
#define LEASE_VERSION	3

/* The content of a file. */
typedef struct LeaseFile
{
	uint32		magic;
	uint32		version;
	Oid			oid;
	Oid			template_oid;
	Oid			owner;
	uint32		state;			/* a LeaseState */
	TimestampTz created_at;
	TimestampTz expires_at;
	int64		lifetime;
	int32		idle_timeout;
	bool		session;		/* ends with a session, and so with the server */
	bool		native;
	bool		database;		/* created by CREATE DATABASE */
	NameData	template_name;
	char		label[TESTDB_MAX_LABEL + 1];
	NameData	build;			/* as in LeaseTerms */
	bool		sealed;
	pg_crc32c	crc;			/* of all before it */
} LeaseFile;

StaticAssertDecl(sizeof(LeaseFile) <= 512,
				 "a lease must fit into one disk sector");

/* A file that this process has open, by its database. */
typedef struct KeptLease
{
	Oid			oid;			/* InvalidOid: none */
	File		file;
	uint32		removals;		/* registry_lease_removals() before it was
								 * last found to be there */
} KeptLease;

static KeptLease kept[64];		/* by oid modulo their number */

/*
 * Compute the checksum of a file's content.
 */
static pg_crc32c
lease_checksum(const LeaseFile *file)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, file, offsetof(LeaseFile, crc));
	FIN_CRC32C(crc);
	return crc;
}

/*
 * Put the path of a database's file, relative to the data directory, into
 * path (MAXPGPATH bytes).
 */
static void
lease_path(Oid oid, char *path)
{
	static const char folder[] = TESTDB_LEASE_DIR "/";
	int			length = sizeof(folder) - 1;

	/* Called for each clone handed out: snprintf is far slower. */
	memcpy(path, folder, length);
	length += pg_ultoa_n(oid, path + length);
	path[length] = '\0';
}

/*
 * Create the directories of testdb's files, if they do not exist.
 *
 * Errors: those of the file system.
 */
void
lease_make_directories(void)
{
	static const char *const dirs[] = {TESTDB_DIR, TESTDB_LEASE_DIR};

	for (int i = 0; i < (int) lengthof(dirs); i++)
	{
		if (MakePGDirectory(dirs[i]) == 0)
			fsync_fname(i == 0 ? "." : dirs[i - 1], true);
		else if (errno != EEXIST)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not create directory \"%s\": %m", dirs[i])));
	}
}

/*
 * Fill in the content of a file.
 */
static void
lease_fill(LeaseFile *file, const TestdbClone *clone, LeaseState state)
{
	memset(file, 0, sizeof(*file));
	file->magic = LEASE_MAGIC;
	file->version = LEASE_VERSION;
	file->oid = clone->oid;
	file->template_oid = clone->template_oid;
	file->owner = clone->owner;
	file->state = state;
	file->created_at = clone->created_at;
	file->expires_at = clone->expires_at;
	file->lifetime = clone->terms.lifetime;
	file->idle_timeout = clone->terms.idle_timeout;
	file->session = clone->terms.session_pid != 0;
	file->native = clone->native;
	file->database = clone->terms.database;
	file->template_name = clone->template_name;
	strlcpy(file->label, clone->terms.label, sizeof(file->label));
	file->build = clone->terms.build;
	file->sealed = clone->terms.sealed;
	file->crc = lease_checksum(file);
}

/*
 * Write the content of a file; false with errno set if that fails.
 */
static bool
lease_put(int fd, const LeaseFile *file)
{
	errno = 0;
	if (pg_pwrite(fd, file, sizeof(*file), 0) == sizeof(*file))
		return true;
	/* if write didn't set errno, assume problem is no disk space */
	if (errno == 0)
		errno = ENOSPC;
	return false;
}

/*
 * Report whether a kept file is still there, and open: others may have removed
 * it, and fd.c may have closed it.  As long as no process has removed any,
 * that takes no system call: nothing but testdb removes or replaces them while
 * the server runs.
 */
static bool
is_there(KeptLease *keep)
{
	uint32		removals = registry_lease_removals();
	int			fd = FileGetRawDesc(keep->file);
	struct stat st;

	if (fd < 0)
		return false;
	if (keep->removals == removals)
		return true;
	keep->removals = removals;
	return fstat(fd, &st) == 0 && st.st_nlink > 0;
}

/*
 * Close a kept file.
 */
static void
close_kept(KeptLease *keep)
{
	keep->oid = InvalidOid;
	FileClose(keep->file);
}

/*
 * Close the files that this process has open, but others have removed.  That
 * frees their space, and takes longer than opening one: to be called when this
 * process waits anyway.
 */
void
lease_close_removed(void)
{
	for (int i = 0; i < (int) lengthof(kept); i++)
		if (OidIsValid(kept[i].oid) && !is_there(&kept[i]))
			close_kept(&kept[i]);
}

/*
 * Open the file of a database, or return it if this process has it open; -1
 * with errno set if it cannot be opened.
 *
 * A recycled database keeps its OID, so a session gets the same few again and
 * again.  A file that was removed, or closed by fd.c, is opened again.
 */
static int
lease_open_kept(Oid oid, const char *path)
{
	KeptLease  *keep = &kept[oid % lengthof(kept)];

	if (keep->oid == oid && is_there(keep))
		return FileGetRawDesc(keep->file);
	if (OidIsValid(keep->oid))
		close_kept(keep);
	keep->removals = registry_lease_removals();
	keep->file = PathNameOpenFile(path, O_WRONLY | PG_BINARY);
	if (keep->file < 0)
		return -1;
	keep->oid = oid;
	return FileGetRawDesc(keep->file);
}

/*
 * Open the file of a spare that this session may be handed out soon, so that
 * lease_hold need not.  If that fails, nothing is opened.
 */
void
lease_open_ahead(Oid oid)
{
	char		path[MAXPGPATH];

	lease_path(oid, path);
	(void) lease_open_kept(oid, path);
}

/*
 * Record that a database which has been a spare is handed out by this session:
 * as lease_write does, but the file is there, and stays open in this process.
 * Durable on return, if fsync is on.
 *
 * Errors: those of the file system; the old record may then be lost.
 */
void
lease_hold(const TestdbClone *clone)
{
	LeaseFile	file;
	char		path[MAXPGPATH];
	int			fd;

	lease_fill(&file, clone, LEASE_HELD);
	lease_path(clone->oid, path);
	fd = lease_open_kept(clone->oid, path);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	if (!lease_put(fd, &file))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	if (pg_fsync(fd) != 0)
		ereport(data_sync_elevel(ERROR),
				(errcode_for_file_access(),
				 errmsg("could not fsync file \"%s\": %m", path)));
}

/*
 * Record a database in the given state, instead of what was recorded before.
 * Durable on return, if fsync is on.
 *
 * Errors: those of the file system; the old record may then be lost.
 */
void
lease_write(const TestdbClone *clone, LeaseState state)
{
	LeaseFile	file;
	char		path[MAXPGPATH];
	int			fd;

	lease_fill(&file, clone, state);
	lease_path(clone->oid, path);
	/* Opening an existing one is faster without O_CREAT. */
	fd = OpenTransientFile(path, O_WRONLY | PG_BINARY);
	if (fd < 0 && errno == ENOENT)
		fd = OpenTransientFile(path, O_CREAT | O_WRONLY | PG_BINARY);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));

	if (!lease_put(fd, &file))
	{
		int			save_errno = errno;

		/* There may be no transaction that would do that at its end. */
		CloseTransientFile(fd);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	}
	if (pg_fsync(fd) != 0)
		ereport(data_sync_elevel(ERROR),
				(errcode_for_file_access(),
				 errmsg("could not fsync file \"%s\": %m", path)));
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", path)));
	if (state == LEASE_CREATING)
		fsync_fname(TESTDB_LEASE_DIR, true);
}

/*
 * Report whether the file of a database exists and is empty, as left by a
 * crash during the first lease_write().
 */
bool
lease_is_empty(Oid oid)
{
	char		path[MAXPGPATH];
	struct stat st;

	lease_path(oid, path);
	return stat(path, &st) == 0 && st.st_size == 0;
}

/*
 * Read the record of a database into *clone and *state; false if there is
 * none, or an invalid one (which is logged).  The clone's state in the
 * registry is not set.  *session says that it was to end with a session: at
 * server start it is unwanted, since the session has ended.
 */
bool
lease_read(Oid oid, TestdbClone *clone, LeaseState *state, bool *session)
{
	LeaseFile	file;
	char		path[MAXPGPATH];
	int			fd;
	int			nread;

	lease_path(oid, path);
	fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0 && errno == ENOENT)
		return false;
	nread = fd < 0 ? -1 : read(fd, &file, sizeof(file));
	if (nread < 0)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	if (fd >= 0)
		CloseTransientFile(fd);

	if (nread != sizeof(file) ||
		file.magic != LEASE_MAGIC || file.version != LEASE_VERSION ||
		file.oid != oid || file.crc != lease_checksum(&file) ||
		file.state < LEASE_CREATING || file.state > LEASE_REWINDING)
	{
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" is not a valid lease", path),
				 errdetail("testdb will not touch database %u.", oid),
				 errhint("If that database is not needed, drop it with DROP DATABASE and remove the file.")));
		return false;
	}

	memset(clone, 0, sizeof(*clone));
	clone->oid = file.oid;
	clone->template_oid = file.template_oid;
	clone->template_name = file.template_name;
	NameStr(clone->template_name)[NAMEDATALEN - 1] = '\0';
	clone->owner = file.owner;
	clone->created_at = file.created_at;
	clone->used_at = GetCurrentTimestamp();
	clone->expires_at = file.expires_at;
	clone->terms.lifetime = file.lifetime;
	clone->terms.idle_timeout = file.idle_timeout;
	strlcpy(clone->terms.label, file.label, sizeof(clone->terms.label));
	clone->native = file.native;
	clone->terms.database = file.database;
	clone->terms.build = file.build;
	NameStr(clone->terms.build)[NAMEDATALEN - 1] = '\0';
	clone->terms.sealed = file.sealed;
	*state = (LeaseState) file.state;
	*session = file.session;
	return true;
}

/*
 * Remove the record of a database, if there is one.
 *
 * Errors: those of the file system.
 */
void
lease_remove(Oid oid)
{
	char		path[MAXPGPATH];

	lease_path(oid, path);
	if (unlink(path) != 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
	registry_count_lease_removal();
	fsync_fname(TESTDB_LEASE_DIR, true);
}

/*
 * List the OIDs of the databases that have a record.  Names that are not
 * numbers are skipped.
 *
 * Errors: those of the file system.
 */
List *
lease_list(void)
{
	List	   *oids = NIL;
	DIR		   *dir = AllocateDir(TESTDB_LEASE_DIR);
	struct dirent *de;

	while ((de = ReadDir(dir, TESTDB_LEASE_DIR)) != NULL)
	{
		char	   *end;
		unsigned long oid;

		if (de->d_name[0] < '1' || de->d_name[0] > '9')
			continue;
		errno = 0;
		oid = strtoul(de->d_name, &end, 10);
		if (*end == '\0' && errno == 0 && oid <= OID_MAX)
			oids = lappend_oid(oids, (Oid) oid);
	}
	FreeDir(dir);
	return oids;
}
