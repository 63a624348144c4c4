/*-------------------------------------------------------------------------
 *
 * seal.c
 *	  Finishing a template that has been built.
 *
 * A template from testdb_template_begin (build.c) is a clone whose lease has
 * the name of a build.  testdb_template_finish makes it a template that
 * others may clone:
 *
 *	step								if the server crashes here
 *	1  VACUUM (FREEZE, ANALYZE) in it,	the database is dropped, as its
 *	   by a process of its own			session has ended
 *	2  row: is_template, and closed to	the same
 *	   connections; commit
 *	3  lease: HELD, sealed, of no		a finished template
 *	   session
 *	4  registry: the same				a finished template
 *
 * Step 1 is started by the session, so that no worker is busy for as long as
 * it takes; steps 2 to 4 are a worker's.
 *
 * Locks: the worker holds the database's AccessExclusiveLock in steps 2 and
 * 3, which are two transactions; in between no session can connect to it.  A
 * worker that drops the clone, since its builder's session has ended, waits
 * for that lock, and has made it DROPPING before: then step 4 detects that,
 * and fails.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_statistic.h"
#include "catalog/pg_statistic_ext_data.h"
#include "commands/dbcommands.h"
#include "commands/vacuum.h"
#include "nodes/makefuncs.h"
#include "parser/parse_node.h"
#include "storage/procarray.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "build.h"
#include "compat.h"
#include "database.h"
#include "debug.h"
#include "job.h"
#include "lease.h"
#include "seal.h"
#include "sessions.h"
#include "visitor.h"

PGDLLEXPORT void testdb_vacuum_main(Datum main_arg);

/*
 * Return the VacuumRelations of all tables of this database that VACUUM
 * processes, except shared catalogs, in cxt.  Other sessions would have to
 * read their caches of these anew.
 */
static List *
list_tables(MemoryContext cxt)
{
	List	   *tables = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	rel = table_open(RelationRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);
		MemoryContext old;

		if (form->relisshared ||
			(form->relkind != RELKIND_RELATION && form->relkind != RELKIND_MATVIEW &&
			 form->relkind != RELKIND_PARTITIONED_TABLE))
			continue;
		old = MemoryContextSwitchTo(cxt);
		tables = lappend(tables, makeVacuumRelation(NULL, form->oid, NIL));
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return tables;
}

/*
 * VACUUM (FREEZE) some tables, and ANALYZE them if told so.  Locked ones are
 * skipped.  Not in a transaction.
 *
 * Errors: those of VACUUM.
 */
static void
vacuum_now(List *tables, bool analyze, MemoryContext cxt)
{
	VacuumStmt *stmt = makeNode(VacuumStmt);

	stmt->is_vacuumcmd = true;
	stmt->rels = tables;
	stmt->options = list_make2(makeDefElem("freeze", NULL, -1),
							   makeDefElem("skip_locked", NULL, -1));
	if (analyze)
		stmt->options = lappend(stmt->options, makeDefElem("analyze", NULL, -1));
	StartTransactionCommand();

	/*
	 * VACUUM commits and begins transactions; its memory is in this context.
	 */
	PortalContext = cxt;
	ExecVacuum(make_parsestate(NULL), stmt, true);
	PortalContext = NULL;
	CommitTransactionCommand();

	/*
	 * Report what was written now: added later, it would come on top of what
	 * the next VACUUM of these tables reports.
	 */
	pgstat_report_stat(true);
}

/*
 * Entry point of a background worker that vacuums a database, which can only
 * be done from within it.
 */
void
testdb_vacuum_main(Datum main_arg)
{
	Oid			database = DatumGetObjectId(main_arg);
	MemoryContext cxt = CurrentMemoryContext;

	database_init_visitor(database);
	pgstat_report_activity(STATE_RUNNING, "testdb: vacuuming a template");
	vacuum_now(list_tables(cxt), true, cxt);

	/*
	 * The catalogs in which ANALYZE leaves its results were vacuumed before
	 * most of these were written, and autovacuum would come for the old ones.
	 */
	vacuum_now(list_make2(makeVacuumRelation(NULL, StatisticExtDataRelationId, NIL),
						  makeVacuumRelation(NULL, StatisticRelationId, NIL)), false, cxt);
	build_note_vacuumed(database);
}

/*
 * Have a process vacuum a database, and wait for its exit; false if it could
 * not be started.  On success it calls build_note_vacuumed.
 */
bool
seal_vacuum(Oid database)
{
	return database_visit(database, "testdb_vacuum_main", "testdb vacuum");
}

/*
 * Lock the template of a request, and copy its entry to *clone; false if it
 * was dropped concurrently.  In a transaction.
 */
static bool
lock_template(const RequestArgs *args, TestdbClone *clone, DatabaseInfo *info)
{
	return database_lock(args->database, info) &&
		registry_lookup(args->database, clone) &&
		clone->lease == args->lease && clone->state == CLONE_LEASED;
}

/*
 * Step 2 at the head of this file, except for the commit.
 */
static void
close_row(const char *name)
{
	AlterDatabaseStmt *stmt = makeNode(AlterDatabaseStmt);

	stmt->dbname = pstrdup(name);
	stmt->options =
		list_make2(makeDefElem("is_template", (Node *) makeBoolean(true), -1),
				   makeDefElem("allow_connections", (Node *) makeBoolean(false), -1));
	(void) AlterDatabase(make_parsestate(NULL), stmt, false);
}

/*
 * Make a database that has been built a finished template: steps 2 to 4.
 * *result is missing if it was dropped concurrently, busy if it has sessions.
 *
 * Errors: 55P03 if it cannot be locked; those of ALTER DATABASE and of the
 * file system.  Then it is unchanged, or closed, and sealing can be retried.
 */
void
seal_template(const RequestArgs *args, RequestResult *result)
{
	TestdbClone clone;
	DatabaseInfo info;
	char		activity[2 * NAMEDATALEN];

	snprintf(activity, sizeof(activity), "testdb_template_finish: \"%s\"",
			 NameStr(args->database_name));
	job_report(activity);

	job_begin_work();
	if (!lock_template(args, &clone, &info))
		result->missing = true;
	else
	{
		result->nprepared = database_count_prepared(NameStr(info.name));
		result->busy = result->nprepared > 0 || CountDBBackends(args->database) > 0;
	}
	if (!result->missing && !result->busy)
		close_row(NameStr(info.name));
	debug_point("seal-row");
	job_commit_work();
	debug_point("seal-committed");
	if (result->missing || result->busy)
		return;

	job_begin_work();
	result->missing = !lock_template(args, &clone, &info);
	if (!result->missing)
	{
		clone.terms.session_pid = 0;
		clone.terms.sealed = true;
		clone.expires_at = 0;
		clone.created_at = GetCurrentTimestamp();
		clone.used_at = clone.created_at;
		lease_write(&clone, LEASE_HELD);
		debug_point("seal-held");
		result->missing = !registry_update(&clone, CLONE_LEASED);
	}
	job_commit_work();
}
