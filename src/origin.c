/*-------------------------------------------------------------------------
 *
 * origin.c
 *	  Leases that came with a base backup.
 *
 * Leases are files.  A base backup contains those of the time when it was
 * taken, and neither a standby nor the recovery from an archive changes them.
 * What WAL changes there is the row in pg_database, which is closed while a
 * clone is a spare, and opened before it is handed out (spare_row.c).  So
 * when such a server begins to accept changes, by promotion or otherwise at
 * the end of its recovery, the row decides, and the leases are corrected:
 *
 *	row						lease			becomes
 *	none					any				removed
 *	invalid					any				UNWANTED: it was being dropped, or
 *											recycled
 *	closed by testdb		any, or none	UNWANTED: a spare
 *	open					CREATING,		HELD: handed out since, with terms that
 *							UNWANTED		are unknown: no deadline, no label
 *	open					HELD			the same; its lifetime begins again
 *	open					HELD, of a		UNWANTED: the session has ended.  HELD
 *							session			and sealed if it is a template that was
 *											finished since (seal.c)
 *	open					REWINDING		the same: its files in the backup may be
 *											incomplete, so it is restored again
 *	open					none			none: a clone created since; testdb does
 *											not know that it did
 *
 * On the server that wrote the leases they decide, not the rows: an open row
 * may be that of a spare that was about to be handed out, or of a clone that
 * was about to be removed.
 *
 * To tell the two cases apart, pg_testdb/origin has the timeline on which the
 * leases were written, and a checksum of backup_label.old, which is what
 * becomes of a base backup's label at the end of recovery.  Another timeline
 * means the end of an archive recovery or a promotion; another label, that
 * the server was started from a base backup without one of these.  The file
 * is written when all leases have been corrected, so that this is repeated
 * after a crash.  A server without it was upgraded from a version that did
 * not write it: the leases are taken for its own.
 *
 * Only worker 0 calls this, at server start, in a transaction.  No locks.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "database.h"
#include "dbcatalog.h"
#include "expiry.h"
#include "origin.h"
#include "spare_row.h"

#define ORIGIN_FILE			TESTDB_DIR "/origin"
#define ORIGIN_TEMP_FILE	TESTDB_DIR "/origin.tmp"

/* Of a base backup's label this many bytes count: it has about 250. */
#define LABEL_MAX			4096

/* The content of the file. */
typedef struct Origin
{
	TimeLineID	timeline;
	pg_crc32c	label;			/* checksum of backup_label.old; 0: none */
} Origin;

/*
 * Read at most size bytes of a file; their number, or -1 if it does not exist
 * or cannot be read, which is logged.
 */
static int
read_file(const char *path, void *data, int size)
{
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	int			nread = fd < 0 ? -1 : (int) read(fd, data, size);

	if (nread < 0 && errno != ENOENT)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	if (fd >= 0)
		CloseTransientFile(fd);
	return nread;
}

/*
 * Determine the present timeline and label.
 */
static void
get_current(Origin *origin)
{
	char		label[LABEL_MAX];
	int			length = read_file(BACKUP_LABEL_OLD, label, sizeof(label));

	memset(origin, 0, sizeof(*origin));
	origin->timeline = GetWALInsertionTimeLine();
	if (length > 0)
	{
		INIT_CRC32C(origin->label);
		COMP_CRC32C(origin->label, label, length);
		FIN_CRC32C(origin->label);
	}
}

/*
 * Report whether the leases were written by another server, of which this one
 * is a copy, or by this one before it was restored.  A label that was removed
 * does not count.
 */
bool
origin_is_backup(void)
{
	Origin		then;
	Origin		now;

	if (read_file(ORIGIN_FILE, &then, sizeof(then)) != sizeof(then))
		return false;
	get_current(&now);
	return now.timeline != then.timeline ||
		(now.label != 0 && now.label != then.label);
}

/*
 * Record that the leases are this server's own.  Durable on return, if fsync
 * is on.
 *
 * Errors: those of the file system.
 */
void
origin_record(void)
{
	Origin		then;
	Origin		now;
	int			fd;

	get_current(&now);
	if (read_file(ORIGIN_FILE, &then, sizeof(then)) == sizeof(then) &&
		memcmp(&then, &now, sizeof(now)) == 0)
		return;
	fd = OpenTransientFile(ORIGIN_TEMP_FILE, O_CREAT | O_TRUNC | O_WRONLY | PG_BINARY);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", ORIGIN_TEMP_FILE)));
	errno = 0;
	if (write(fd, &now, sizeof(now)) != sizeof(now))
	{
		/* if write didn't set errno, assume problem is no disk space */
		if (errno == 0)
			errno = ENOSPC;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", ORIGIN_TEMP_FILE)));
	}
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", ORIGIN_TEMP_FILE)));
	(void) durable_rename(ORIGIN_TEMP_FILE, ORIGIN_FILE, ERROR);
}

/*
 * Report whether a database is a template to which nobody can connect, as
 * testdb_template_finish leaves it.
 */
static bool
is_finished_template(Oid oid)
{
	DatabaseInfo info;
	TemplateRow row;

	return database_lookup(oid, &info) && info.is_template &&
		database_read_row(oid, &row) && row.closed;
}

/*
 * Correct a lease that came with a base backup, according to the database's
 * row, which exists: see the head of this file.  *clone, state and session
 * are as lease_read returned them; *clone gets its new terms.  Writes the
 * lease, and returns its new state.
 *
 * Errors: those of the file system.
 */
LeaseState
origin_settle(TestdbClone *clone, LeaseState state, bool session)
{
	static const LeaseTerms unknown = {0};
	TimestampTz now = GetCurrentTimestamp();

	if (spare_is_closed(clone->oid) || database_is_invalid(clone->oid))
		state = LEASE_UNWANTED;
	else if (session && NameStr(clone->terms.build)[0] != '\0' &&
			 is_finished_template(clone->oid))
	{
		clone->terms.sealed = true;
		clone->created_at = now;
		clone->expires_at = 0;
		state = LEASE_HELD;
	}
	else if (session)
		state = LEASE_UNWANTED;
	else if (state == LEASE_CREATING || state == LEASE_UNWANTED)
	{
		registry_apply_terms(clone, &unknown);
		state = LEASE_HELD;
	}
	else if (clone->terms.lifetime > 0)
		clone->expires_at = now + clone->terms.lifetime * USECS_PER_SEC;
	lease_write(clone, state);
	return state;
}

/*
 * Return the template of a spare with this name, which consists of the
 * template's and a serial (choose_name); template1 if there is none of that
 * name any more.
 */
static Oid
guess_template(const char *spare, NameData *name)
{
	char	   *end;
	Oid			oid;

	namestrcpy(name, spare);
	end = strrchr(NameStr(*name), '_');
	if (end != NULL)
		*end = '\0';
	oid = get_database_oid(NameStr(*name), true);
	return OidIsValid(oid) ? oid : Template1DbOid;
}

/*
 * Write leases for the spares that have been created since the base backup,
 * so that they will be removed.  Only testdb can close a row in that way.
 *
 * Errors: those of the file system.
 */
void
origin_note_spares(void)
{
	List	   *known = lease_list();
	ListCell   *lc;

	foreach(lc, spare_list_closed())
	{
		TestdbClone clone;
		DatabaseInfo info;

		if (list_member_oid(known, lfirst_oid(lc)) ||
			!database_lookup(lfirst_oid(lc), &info))
			continue;
		memset(&clone, 0, sizeof(clone));
		clone.oid = info.oid;
		clone.owner = info.owner;
		clone.template_oid = guess_template(NameStr(info.name), &clone.template_name);
		clone.created_at = GetCurrentTimestamp();
		lease_write(&clone, LEASE_CREATING);
	}
}
