/*-------------------------------------------------------------------------
 *
 * database.c
 *	  Making and removing a database.
 *
 * Everything here runs in a worker, inside a transaction that the worker
 * starts and ends, and knows nothing of the registry or of requests.
 *
 * The work itself is done by core's createdb() and dropdb().  Around them,
 * two things are done differently from CREATE and DROP DATABASE:
 *
 * - Whether the template is in use is found out under the lock that keeps new
 *   sessions out, and without waiting.  createdb() then never finds anybody,
 *   and never sleeps; who waits for the template to be left is the caller,
 *   not the worker.
 * - Sessions in a database to be dropped are ended and waited for in steps of
 *   a millisecond, so that dropdb() finds none: it would sleep 100 ms if only
 *   one of them, just disconnected by its client, was still on its way out.
 *
 * Locks.  Heavyweight locks only, on the database objects, as core takes them:
 * ShareLock on a template, AccessExclusiveLock on a database to be dropped;
 * both conflict with the RowExclusiveLock under which a session connects.
 * The transaction's end releases them.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <sys/stat.h>

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/catalog.h"
#include "catalog/indexing.h"
#include "catalog/pg_database.h"
#include "catalog/pg_tablespace.h"
#include "commands/dbcommands.h"
#include "common/relpath.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/value.h"
#include "parser/parse_node.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "access/twophase.h"

#include "compat.h"
#include "database.h"

/* How often sessions that do not end are told again, in ms. */
#define TERMINATE_INTERVAL	100

/* How many sessions an error's detail names. */
#define MAX_DESCRIBED		5

/*
 * Find a database by its OID and fill *info; false if there is none.
 */
bool
database_lookup(Oid oid, DatabaseInfo *info)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(oid));
	Form_pg_database form;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_database) GETSTRUCT(tuple);
	info->oid = form->oid;
	info->name = form->datname;
	info->owner = form->datdba;
	info->is_template = form->datistemplate;
	ReleaseSysCache(tuple);
	return true;
}

/*
 * Choose an OID that no database has, and no directory in the default
 * tablespace.
 *
 * The OID is needed before the database is made, so that what is about to be
 * made can be recorded first.  createdb() makes its own checks again.
 */
Oid
database_choose_oid(void)
{
	Relation	rel = table_open(DatabaseRelationId, AccessShareLock);
	Oid			oid;
	char	   *path;
	struct stat st;
	bool		taken;

	do
	{
		oid = GetNewOidWithIndex(rel, DatabaseOidIndexId, Anum_pg_database_oid);
		path = GetDatabasePath(oid, DEFAULTTABLESPACE_OID);
		taken = stat(path, &st) == 0;
		pfree(path);
	} while (taken);
	table_close(rel, AccessShareLock);
	return oid;
}

/*
 * End the autovacuum workers in a database.  createdb() and dropdb() do the
 * same: they come back by themselves.
 */
static void
end_autovacuum(Oid oid)
{
	int			n;

	pgstat_clear_backend_activity_snapshot();
	n = pgstat_fetch_stat_numbackends();
	for (int i = 1; i <= n; i++)
	{
		PgBackendStatus *status = &pgstat_local_beentry_compat(i)->backendStatus;

		if (status->st_databaseid == oid &&
			status->st_backendType == B_AUTOVAC_WORKER &&
			status->st_procpid != 0)
			(void) kill(status->st_procpid, SIGTERM);
	}
}

/*
 * The number of prepared transactions in a database.
 */
static int
count_prepared(const char *name)
{
	Oid			argtypes[1] = {NAMEOID};
	Datum		values[1] = {CStringGetDatum(name)};
	bool		isnull;
	int64		n;

	if (max_prepared_xacts == 0)
		return 0;

	SPI_connect();
	if (SPI_execute_with_args("SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_xacts"
							  " WHERE database OPERATOR(pg_catalog.=) $1",
							  1, argtypes, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not count prepared transactions");
	n = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
									1, &isnull));
	SPI_finish();
	return (int) n;
}

/*
 * Lock a template so that no session can connect to it, and find out whether
 * one is in it already; true if not.  *nprepared is the number of prepared
 * transactions that are in the way.  name is what the caller called it, for
 * the error.
 *
 * The ShareLock is kept until the transaction's end.
 *
 * Errors: 3D000 if the template has gone; 55P03 after lock_timeout.
 */
bool
database_lock_idle(Oid oid, const char *name, int *nprepared)
{
	DatabaseInfo info;

	*nprepared = 0;
	LockSharedObject(DatabaseRelationId, oid, 0, ShareLock);
	if (!database_lookup(oid, &info))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("template database \"%s\" does not exist", name),
				 errdetail("It has been dropped in the meantime.")));

	if (CountDBBackends(oid) > 0)
	{
		end_autovacuum(oid);
		return false;
	}
	*nprepared = count_prepared(NameStr(info.name));
	return *nprepared == 0;
}

/*
 * Make a database with the given OID, name and owner from a template, which
 * database_lock_idle has locked.
 *
 * Errors: those of CREATE DATABASE.
 */
void
database_create(Oid oid, const char *name, Oid owner,
				const char *template_name, TestdbMethod method)
{
	CreatedbStmt *stmt = makeNode(CreatedbStmt);
	const char *strategy = method == TESTDB_METHOD_WAL_LOG ? "wal_log" : "file_copy";
	Node	   *owner_arg = (Node *) makeString(GetUserNameFromId(owner, false));
	Node	   *template_arg = (Node *) makeString(pstrdup(template_name));
	Node	   *strategy_arg = (Node *) makeString(pstrdup(strategy));

	/* A Float is how the grammar passes integers beyond the range of int. */
	Node	   *oid_arg = (Node *) makeFloat(psprintf("%u", oid));

	stmt->dbname = pstrdup(name);
	stmt->options = list_make4(makeDefElem("owner", owner_arg, -1),
							   makeDefElem("template", template_arg, -1),
							   makeDefElem("strategy", strategy_arg, -1),
							   makeDefElem("oid", oid_arg, -1));
	createdb(make_parsestate(NULL), stmt);
}

/*
 * End all sessions in a database, which is locked against new ones, and wait
 * until they have gone.
 *
 * Errors: 55006 if prepared transactions are in it, or if a session has not
 * ended after testdb.lock_timeout.
 */
static void
end_sessions(Oid oid, const char *name)
{
	static uint32 wait_event = 0;
	uint32		event = wait_event_compat(&wait_event, "TestdbSessionEnd");
	TimestampTz start = GetCurrentTimestamp();
	int			steps = 0;

	/* This also refuses prepared transactions, which dropdb() waits for. */
	TerminateOtherDBBackends(oid);
	while (CountDBBackends(oid) > 0)
	{
		if (++steps % TERMINATE_INTERVAL == 0)
			TerminateOtherDBBackends(oid);

		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(),
									   testdb_lock_timeout))
		{
			char	   *sessions = database_describe_sessions(oid);

			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("database \"%s\" is being accessed by other users",
							name),
					 sessions ? errdetail_internal("%s", sessions) : 0,
					 errhint("They were told to end, but have not within %d ms. See \"%s\".",
							 testdb_lock_timeout, "testdb.lock_timeout")));
		}

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 1L, event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Drop a database, ending whatever is connected to it; false if it does not
 * exist (any more).
 *
 * Errors: those of DROP DATABASE; 55006 as end_sessions; 55P03 after
 * lock_timeout.
 */
bool
database_drop(Oid oid)
{
	DatabaseInfo info;

	LockSharedObject(DatabaseRelationId, oid, 0, AccessExclusiveLock);
	if (!database_lookup(oid, &info))
		return false;
	end_sessions(oid, NameStr(info.name));
	dropdb(NameStr(info.name), false, false);
	return true;
}

/*
 * Remove the directories of a database that has no row in pg_database, in
 * every tablespace; the leftovers of a crash.
 */
void
database_remove_files(Oid oid)
{
	Relation	rel = table_open(TableSpaceRelationId, AccessShareLock);
	TableScanDesc scan = table_beginscan_catalog(rel, 0, NULL);
	HeapTuple	tuple;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Oid			tablespace = ((Form_pg_tablespace) GETSTRUCT(tuple))->oid;
		char	   *path;
		struct stat st;

		if (tablespace == GLOBALTABLESPACE_OID)
			continue;
		path = GetDatabasePath(oid, tablespace);
		if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode))
		{
			if (!rmtree(path, true))
				ereport(WARNING,
						(errmsg("some useless files may be left behind in old database directory \"%s\"",
								path)));
			else
				ereport(LOG,
						(errmsg("removed directory \"%s\" of a database that was not completed",
								path)));
		}
		pfree(path);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
}

/*
 * Say who is connected to a database, for the detail of an error; NULL if
 * nobody is.  Any process may call it.
 *
 * It says what pg_stat_activity shows to everybody: process ID, user,
 * application.
 */
char *
database_describe_sessions(Oid oid)
{
	StringInfoData buf;
	int			nbackends;
	int			nfound = 0;

	initStringInfo(&buf);
	pgstat_clear_backend_activity_snapshot();
	nbackends = pgstat_fetch_stat_numbackends();
	for (int i = 1; i <= nbackends; i++)
	{
		PgBackendStatus *status = &pgstat_local_beentry_compat(i)->backendStatus;
		char	   *user;

		if (status->st_databaseid != oid || status->st_procpid == 0)
			continue;
		if (nfound++ >= MAX_DESCRIBED)
			continue;
		if (nfound > 1)
			appendStringInfoChar(&buf, ' ');
		user = OidIsValid(status->st_userid) ?
			GetUserNameFromId(status->st_userid, true) : NULL;
		appendStringInfo(&buf, "Process %d", status->st_procpid);
		if (user)
			appendStringInfo(&buf, " of user \"%s\"", user);
		if (status->st_appname && status->st_appname[0])
			appendStringInfo(&buf, " (application \"%s\")", status->st_appname);
		appendStringInfoString(&buf, " is connected to it.");
	}
	if (nfound > MAX_DESCRIBED)
		appendStringInfo(&buf, " And %d more.", nfound - MAX_DESCRIBED);
	return nfound > 0 ? buf.data : NULL;
}
