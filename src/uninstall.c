/*-------------------------------------------------------------------------
 *
 * uninstall.c
 *	  Removing spares and snapshots from a server, before testdb is removed.
 *
 * A server that is started without the library would keep spares and
 * snapshots forever.  testdb_uninstall() drops them beforehand, and ensures
 * that no others are created:
 *
 *	step								if the server crashes after it
 *	1  pg_testdb/uninstalled written	spares and snapshots are removed at the
 *										start, as always, and the reserve; no
 *										others are created
 *	2  registry: uninstalled; spares	the same
 *	   and returned clones are GARBAGE
 *	3  all that is not LEASED removed	the same
 *	4  snapshots and reserve removed	the same
 *	5  the remaining clones reported
 *
 * So the file, the mark, is the durable state; the registry's flag is its
 * copy in memory.  Worker 0 reads it at server start, before anything is
 * served.  If the call fails at any step the mark stays, and the call can be
 * repeated.
 *
 * While it exists no clone, spare or snapshot is created: processes that
 * begin one check the flag under the registry lock (registry_add) or under
 * the snapshot's lock (snapshot.c), and those begun before are waited for.
 * So after step 4 there are none.  A rewind that was interrupted by a crash
 * is exempt: its clone is in use, and must get its content.
 *
 * Clones in use stay: they are ordinary databases for a server without testdb.
 * They can be kept and dropped, which does not make them spares, but not reset
 * or rewound, which takes a snapshot.
 *
 * The mark is removed by testdb_install(), and by CREATE EXTENSION testdb in
 * any database, if the library is loaded: its creator wants to use it.  It
 * remains if the server is started without the library, or restarted with it,
 * which must not undo the removal before the configuration is changed.
 *
 * Locks.  A process that writes or removes the mark holds a lock on
 * pg_extension as a shared object, so that mark and flag agree; it is
 * acquired before any of the other locks.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "database.h"
#include "debug.h"
#include "functions.h"
#include "guc.h"
#include "lease.h"
#include "registry.h"
#include "request.h"
#include "signals.h"
#include "snapshot.h"
#include "space.h"
#include "start.h"
#include "templates.h"
#include "testdb.h"
#include "uninstall.h"

#define MARK_FILE		TESTDB_DIR "/uninstalled"

/* Interval at which the remaining databases are counted, in ms. */
#define POLL_PAUSE		20

SQL_FUNCTION(testdb_uninstall);
SQL_FUNCTION(testdb_install);

/*
 * Write the mark.  Durable on return, if fsync is on.
 *
 * Errors: those of the file system.
 */
static void
write_mark(void)
{
	int			fd = OpenTransientFile(MARK_FILE, O_CREAT | O_WRONLY | PG_BINARY);

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", MARK_FILE)));
	if (pg_fsync(fd) != 0)
		ereport(data_sync_elevel(ERROR),
				(errcode_for_file_access(),
				 errmsg("could not fsync file \"%s\": %m", MARK_FILE)));
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", MARK_FILE)));
	fsync_fname(TESTDB_DIR, true);
}

/*
 * Remove the mark, if it is there.
 *
 * Errors: those of the file system.
 */
static void
remove_mark(void)
{
	if (unlink(MARK_FILE) == 0)
		fsync_fname(TESTDB_DIR, true);
	else if (errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", MARK_FILE)));
}

/*
 * At server start, in worker 0, when the registry has been rebuilt: restore
 * the state recorded by the mark.  In a transaction.
 */
void
uninstall_restore(void)
{
	struct stat st;

	LockSharedObject(ExtensionRelationId, InvalidOid, 0, ExclusiveLock);
	if (lstat(MARK_FILE, &st) == 0)
	{
		registry_set_uninstalled(true);
		space_remove_reserve();
		ereport(LOG,
				(errmsg("testdb does not create databases because it has been uninstalled"),
				 errhint("Remove it from \"%s\", or call testdb_install() to use it again.",
						 "shared_preload_libraries")));
	}
	UnlockSharedObject(ExtensionRelationId, InvalidOid, 0, ExclusiveLock);
}

/*
 * Remove the mark, and use testdb again.  In a transaction, but does not
 * depend on its commit.
 *
 * Errors: those of the file system.
 */
void
uninstall_undo(void)
{
	LockSharedObject(ExtensionRelationId, InvalidOid, 0, ExclusiveLock);
	remove_mark();
	registry_set_uninstalled(false);
	UnlockSharedObject(ExtensionRelationId, InvalidOid, 0, ExclusiveLock);
}

/*
 * Raise an error unless a superuser calls this function, where it can be
 * called.
 */
static void
check_superuser(const char *function)
{
	testdb_check_library();
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to call %s", function),
				 errdetail("Only superusers may call it.")));
	check_callable(function);
}

/*
 * Count the databases created by testdb that are not handed out, or are being
 * handed out or dropped; *oid is one of them.
 */
static int
count_unsettled(Oid *oid)
{
	TestdbClone *clones;
	int			n;
	int			nunsettled = 0;

	clones = registry_list(&n);
	for (int i = 0; i < n; i++)
		if (clones[i].state != CLONE_LEASED)
		{
			nunsettled++;
			*oid = clones[i].oid;
		}
	pfree(clones);
	return nunsettled;
}

/*
 * Wait until workers have removed the databases that are not handed out.
 *
 * Errors: 55006 after the deadline.
 */
static void
wait_until_settled(TimestampTz deadline)
{
	static uint32 wait_event = 0;
	uint32		event = wait_event_compat(&wait_event, "TestdbUninstall");
	Oid			oid = InvalidOid;
	int			n;

	while ((n = count_unsettled(&oid)) > 0)
	{
		if (GetCurrentTimestamp() >= deadline)
		{
			DatabaseInfo info;

			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg_plural("%d database created by testdb could not be removed in time",
								   "%d databases created by testdb could not be removed in time",
								   n, n),
					 database_lookup(oid, &info) ?
					 errdetail("Database \"%s\" is one of them.", NameStr(info.name)) :
					 errdetail("The database with OID %u is one of them.", oid),
					 errhint("See the server log for the reason. No new databases are created; call testdb_uninstall() again.")));
		}
		request_wake_workers();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 POLL_PAUSE, event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Remove all snapshots: the known ones, each under its lock, and whatever
 * else is in the directory.
 *
 * Errors: 55P03; 58030 and the like if something cannot be removed.
 */
static void
remove_snapshots(void)
{
	TestdbTemplate *templates;
	int			n;

	templates = registry_list_templates(&n);
	for (int i = 0; i < n; i++)
	{
		lock_within_timeout(DatabaseRelationId, templates[i].oid, SNAPSHOT_SUBID,
							ExclusiveLock);
		registry_clear_snapshot(templates[i].oid, "");
		snapshot_remove(templates[i].oid);
		UnlockSharedObject(DatabaseRelationId, templates[i].oid, SNAPSHOT_SUBID,
						   ExclusiveLock);
	}
	snapshot_remove_dir();
}

/*
 * Put the clones in use into the result of a set-returning function.
 */
static void
report_clones(ReturnSetInfo *rsinfo)
{
	TestdbClone *clones;
	int			n;

	clones = registry_list(&n);
	for (int i = 0; i < n; i++)
	{
		DatabaseInfo info;
		DatabaseInfo template;
		Datum		values[3];
		bool		nulls[3] = {false, false, false};

		if (clones[i].state != CLONE_LEASED || !database_lookup(clones[i].oid, &info))
			continue;
		if (!database_lookup(clones[i].template_oid, &template))
			template.name = clones[i].template_name;
		values[0] = NameGetDatum(&info.name);
		values[1] = NameGetDatum(&template.name);
		values[2] = DirectFunctionCall1(namein,
										CStringGetDatum(GetUserNameFromId(info.owner, false)));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/*
 * testdb_uninstall() returns the clones that are in use: name, template, owner
 */
Datum
testdb_uninstall(PG_FUNCTION_ARGS)
{
	TimestampTz deadline =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), testdb_timeout);

	check_superuser("testdb_uninstall()");
	InitMaterializedSRF(fcinfo, 0);
	start_wait(deadline);

	lock_within_timeout(ExtensionRelationId, InvalidOid, 0, ExclusiveLock);
	write_mark();
	debug_point("uninstall-marked");
	registry_set_uninstalled(true);
	debug_point("uninstall-closed");
	wait_until_settled(deadline);
	debug_point("uninstall-settled");
	remove_snapshots();
	debug_point("uninstall-snapshots");
	space_remove_reserve();
	report_clones((ReturnSetInfo *) fcinfo->resultinfo);
	UnlockSharedObject(ExtensionRelationId, InvalidOid, 0, ExclusiveLock);
	return (Datum) 0;
}

/*
 * testdb_install() returns void
 */
Datum
testdb_install(PG_FUNCTION_ARGS pg_attribute_unused())
{
	check_superuser("testdb_install()");
	start_await();
	uninstall_undo();
	PG_RETURN_VOID();
}
