/*-------------------------------------------------------------------------
 *
 * drop.c
 *	  Dropping or returning clones, and removing garbage.
 *
 *	step								if it fails here, there remains
 *	1  registry: DROPPING				a clone as before
 *	2  lease: UNWANTED					a clone that will be dropped again
 *	3  dropdb(), commit					a row, valid or marked invalid; or none
 *	4  lease removed					an entry
 *	5  registry: entry removed			nothing
 *
 * And for one after which the clone is recycled:
 *
 *	1, 2								as above
 *	3  sessions ended, row reset and	a row with another name, marked invalid
 *	   renamed, commit
 *	4  registry: RETURNED				the same, known to recycle.c
 *
 * If the drop fails (for example, if a session does not exit), the lease is
 * HELD again, and the clone stays as it was.  In background work it is
 * retried, at growing intervals.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "storage/procarray.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "budget.h"
#include "compat.h"
#include "dbcatalog.h"
#include "debug.h"
#include "drop.h"
#include "droppable.h"
#include "expiry.h"
#include "gate.h"
#include "job.h"
#include "job_internal.h"
#include "lease.h"
#include "rewind.h"
#include "sessions.h"
#include "signals.h"
#include "space.h"
#include "spares.h"
#include "stats.h"
#include "templates.h"
#include "visitor.h"

/* How often to roll back prepared transactions if new ones appear. */
#define PREPARED_TRIES		10

/* The number of these tries after which the row is repaired. */
#define REPAIR_TRY			3

/*
 * Commit the transaction in which a clone was removed, and remove its lease
 * and its entry.
 *
 * Errors: those of the file system.
 */
void
finish_removal(Oid oid)
{
	debug_point("removal-done");
	job_commit_work();
	(void) gate_open(oid);
	debug_point("removal-committed");
	lease_remove(oid);
	debug_point("removal-recorded");
	registry_remove(oid);
}

/*
 * Raise the error, 3D000, that a clone was dropped concurrently.
 */
void
report_clone_gone(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_DATABASE),
			 errmsg("database \"%s\" does not exist", name),
			 errdetail("It has been dropped in the meantime.")));
}

/*
 * Report whether a clone that is being dropped should be kept for reuse.
 */
static bool
is_worth_keeping(const TestdbClone *clone)
{
	TestdbTemplate template;

	if (!clone->native || clone->unrestored || registry_is_template(clone->oid) ||
		!registry_template(clone->template_oid, &template) ||
		!template.has_snapshot ||
		!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(clone->owner)) ||
		!SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(clone->template_oid)))
		return false;
	if (testdb_recycled == 0 || !database_is_recyclable(clone->oid))
		return false;

	/* Dropping needs a barrier and a checkpoint, neither of which works now. */
	if (registry_is_stuck() || database_is_full())
		return true;
	return registry_wants_clone_back(clone->template_oid, clone->owner) &&
		budget_reserve_return(clone->template_oid);
}

/*
 * Return a clone to be recycled, and commit: steps 3 and 4 above.  It is
 * locked and has no sessions.  False, with nothing done, if its template no
 * longer exists.
 */
static bool
return_clone(TestdbClone *clone)
{
	TestdbTemplate template;
	TemplateRow row;
	DatabaseInfo info;
	bool		wake;

	if (registry_is_template(clone->oid) ||
		!registry_template(clone->template_oid, &template) ||
		!database_read_row(clone->template_oid, &row) ||
		!database_lookup(clone->template_oid, &info))
		return false;
	choose_name(NameStr(info.name), &clone->name);
	clone->row_version = registry_row_version(clone->template_oid, &row);
	if (!database_reset_row(clone->oid, NameStr(clone->name), clone->owner,
							clone->template_oid, ROW_INVALID))
		return false;
	database_sync_dependencies(clone->oid, clone->template_oid,
							   template.dependencies);
	debug_point("return-row");
	job_commit_work();
	debug_point("return-committed");

	if (registry_return(clone, &wake) && wake)
		request_wake_workers();
	budget_release();
	debug_point("return-entered");
	return true;
}

/*
 * Raise the error that new prepared transactions keep appearing in a
 * database.
 */
static void
report_prepared(const char *name)
{
	char	   *transactions = droppable_describe_prepared(name);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("database \"%s\" is being used by prepared transactions", name),
			 transactions ? errdetail_internal("%s", transactions) : 0,
			 errhint("They could not be rolled back; see the server log for the reason.")));
}

/*
 * Raise the error that no process can be started to roll back prepared
 * transactions.  Outside a transaction.
 */
static void
report_no_visitor(const char *name)
{
	char	   *transactions;

	job_begin_work();
	transactions = droppable_describe_prepared(name);
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("could not roll back the prepared transactions in database \"%s\"", name),
			 errdetail("No background worker slot is free.%s%s",
					   transactions ? " " : "", transactions ? transactions : ""),
			 errhint("You might need to increase \"%s\", or run ROLLBACK PREPARED in that database.",
					 "max_worker_processes")));
}

/*
 * Reset the row of a clone in which no process could roll back prepared
 * transactions, keeping its name and owner, and commit: its locale or
 * tablespace may have been changed to one with which no process can connect.
 * It is marked as invalid, and since it gets its template's horizons, it is
 * never given back.  Ends the caller's transaction, which releases the lock,
 * and begins another.
 *
 * Errors: 55P03 after lock_timeout.
 */
static void
repair_row(Oid oid, const DatabaseInfo *info)
{
	TestdbClone clone;

	if (registry_lookup(oid, &clone))
		(void) database_reset_row(oid, NameStr(info->name), info->owner,
								  clone.template_oid, ROW_INVALID);
	job_commit_work();
	debug_point("drop-mended");
	job_begin_work();
}

/*
 * Lock a clone that is to be dropped or reset until the end of the
 * transaction; false if it does not exist (any more).  In a transaction,
 * which may be another one afterwards.
 *
 * Sessions and prepared transactions in the clone will be terminated or
 * rolled back anyway.  If one of them has locked the clone, or changed its
 * row (COMMENT ON DATABASE in an open or prepared transaction), that is done
 * now, since it would never release the lock.  Other processes' locks are
 * waited for, since the clone may have to remain as it is.
 *
 * Errors: those of database_lock; 53400 if no process can be started to roll
 * back prepared transactions.
 */
bool
lock_clone(Oid oid, DatabaseInfo *info)
{
	TransactionId changer;
	int			nsessions;
	int			nprepared;

	if (!database_try_lock(oid, &changer) && database_lookup(oid, info))
	{
		droppable_count_lockers_within(oid, changer, &nsessions, &nprepared);
		if (nsessions > 0)
			(void) database_signal_sessions(oid, true, false);
		if (nprepared > 0)
		{
			job_commit_work();
			if (!database_rollback_prepared(oid))
				report_no_visitor(NameStr(info->name));
			job_begin_work();
		}
	}
	return database_lock(oid, info);
}

/*
 * Lock a database until the end of the transaction, terminate the sessions in
 * it and roll back its prepared transactions; false if it does not exist (any
 * more).  In a transaction, which may be another one afterwards, since
 * prepared transactions can only be rolled back from within the database.
 * let_left is as for database_end_sessions.
 *
 * No process can connect to a database that is marked as invalid, so the mark
 * is removed for that time; superusers who connect then are terminated.  If
 * the row prevents even the process that rolls back from connecting, it is
 * repaired after a few failures: see repair_row.
 *
 * Errors: those of lock_clone and database_end_sessions; 55006 if sessions
 * that connect in between prepare new transactions each time; 53400 if no
 * process can be started to roll them back.
 */
bool
empty_database(Oid oid, bool let_left, DatabaseInfo *info)
{
	bool		invalid = false;

	for (int i = 0; lock_clone(oid, info); i++)
	{
		if (invalid)
			droppable_set_connection_limit(oid, DATCONNLIMIT_INVALID_DB);
		if (database_end_sessions(oid, NameStr(info->name), let_left && i == 0))
			return true;
		if (i == PREPARED_TRIES)
			report_prepared(NameStr(info->name));
		if (i == REPAIR_TRY)
		{
			repair_row(oid, info);
			if (!database_lock(oid, info))
				break;
		}
		invalid = database_is_invalid(oid);
		if (invalid)
			droppable_set_connection_limit(oid, 0);
		job_commit_work();
		if (!database_rollback_prepared(oid))
			report_no_visitor(NameStr(info->name));
		job_begin_work();
	}
	return false;
}

/*
 * As claim_clone, for a clone that is to be dropped and waits to be restored.
 * It is locked, so no worker can restore it.  Ends the sessions that wait at
 * its gate.
 */
static bool
claim_unrestored(const RequestArgs *args, TestdbClone *clone)
{
	if (args->kind != REQUEST_DROP ||
		!registry_lookup(args->database, clone) || clone->lease != args->lease ||
		!clone->unrestored ||
		!registry_set_state(args->database, CLONE_REWINDING, CLONE_DROPPING))
		return false;
	clone->state = CLONE_DROPPING;
	if (!args->served)
		gate_lose(args->database);
	return true;
}

/*
 * Find and lock the clone of a request, and make it DROPPING.  In a
 * transaction; false if it was dropped concurrently, or is being rewound.
 *
 * Errors: 55006 if another worker is dropping or resetting it.
 */
bool
claim_clone(const RequestArgs *args, TestdbClone *clone)
{
	DatabaseInfo info;
	bool		exists;

	rewind_give_way(args->database);
	if (!args->served && registry_lookup(args->database, clone) &&
		clone->lease == args->lease && clone->state == CLONE_LEASED)
		exists = lock_clone(args->database, &info);
	else
		exists = database_lock(args->database, &info);
	if (!exists)
		return false;
	if (!registry_end_lease(args->database, args->lease, CLONE_DROPPING, clone) &&
		!claim_unrestored(args, clone))
	{
		if (registry_lookup(args->database, clone) && clone->lease == args->lease &&
			clone->state == CLONE_DROPPING)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("database \"%s\" is being dropped",
							NameStr(args->database_name)),
					 errdetail("It is being dropped or reset by another session.")));
		return false;
	}
	job.unrestored = clone->unrestored;
	job.resetting = args->kind == REQUEST_RESET;
	job.clone = args->database;
	if (job.resetting)
		registry_set_fallback(clone->oid, CLONE_LEASED);
	return true;
}

/*
 * Release a clone that claim_clone has claimed, unchanged.  It is still HELD.
 */
void
release_clone(Oid oid)
{
	(void) registry_set_state(oid, CLONE_DROPPING, CLONE_LEASED);
	job.clone = InvalidOid;
}

/*
 * Report whether a clone cannot be given back after a failed drop.  After the
 * failed transaction's end.
 */
static bool
is_lost(Oid oid)
{
	DatabaseInfo info;
	bool		lost;

	HOLD_INTERRUPTS();
	job_begin_work();
	lost = !database_lookup(oid, &info) || database_is_invalid(oid);
	job_commit_work();
	RESUME_INTERRUPTS();
	return lost;
}

/*
 * After an error: make a DROPPING clone LEASED again, as it was, or GARBAGE
 * if it is too late for that.  From PG_CATCH, after the transaction's end.
 */
void
give_back(Oid oid)
{
	TestdbClone clone;

	job.clone = InvalidOid;
	if (is_lost(oid))
	{
		if (registry_set_state(oid, CLONE_DROPPING, CLONE_GARBAGE))
			request_wake_workers();
	}
	else if (job.unrestored && registry_lookup(oid, &clone))
	{
		lease_write(&clone, LEASE_REWINDING);
		job_leave_unrestored(oid);
	}
	else if (registry_lookup(oid, &clone) && clone.state == CLONE_DROPPING)
	{
		if (!job.resetting)		/* it is still HELD */
			lease_write(&clone, LEASE_HELD);
		(void) registry_set_state(oid, CLONE_DROPPING, CLONE_LEASED);
		request_wake_workers();
	}
}

/*
 * Drop or return a clone, which is DROPPING and locked: the steps at the head
 * of this file, including the commit of the caller's transaction.  let_left is
 * as for empty_database.
 *
 * Errors: those of database_drop; the caller then gives the clone back.
 */
void
take_back(TestdbClone *clone, bool let_left)
{
	TimestampTz start = GetCurrentTimestamp();
	TemplateStats stats = {0};
	DatabaseInfo info;
	Oid			oid = clone->oid;

	debug_point("drop-claimed");
	if (database_lookup(oid, &info))
		lease_write(clone, LEASE_UNWANTED);
	debug_point("drop-unwanted");
	if (!empty_database(oid, let_left, &info))
		finish_removal(oid);
	else
	{
		debug_point("drop-empty");
		if (!is_worth_keeping(clone) || !return_clone(clone))
		{
			(void) database_drop(oid);
			finish_removal(oid);
		}
	}
	job.clone = InvalidOid;
	job.unrestored = false;

	stats.drops = 1;
	stats.drop_us = GetCurrentTimestamp() - start;
	registry_add_stats(clone->template_oid, &stats);
}

/*
 * Report whether there are sessions or prepared transactions in the clone of
 * a request.  In a transaction, with the clone locked.
 */
static bool
is_occupied(const RequestArgs *args)
{
	return CountDBBackends(args->database) > 0 ||
		database_count_prepared(NameStr(args->database_name)) > 0;
}

/*
 * Drop a clone.  Sets *result if it was dropped concurrently, or if it is in
 * use and the request is served for DROP DATABASE.
 *
 * Errors: those of take_back.
 */
void
drop_clone(const RequestArgs *args, RequestResult *result)
{
	TestdbClone clone;
	char		activity[2 * NAMEDATALEN];

	snprintf(activity, sizeof(activity), "testdb_drop: dropping \"%s\"",
			 NameStr(args->database_name));
	job_report(activity);

	job_begin_work();
	if (claim_clone(args, &clone))
	{
		if (args->served && is_occupied(args))
		{
			result->busy = true;
			job_commit_work();
			give_back(args->database);
		}
		else
			take_back(&clone, args->let_left);
	}
	else
	{
		result->missing = true;
		job_commit_work();
	}
}

/*
 * After an error in background work on a clone: schedule a retry.  The
 * failure is logged, and shown in testdb_templates; it is logged again only
 * if the error differs, or after a long time.  name is the database's, or ""
 * if it has none.
 */
void
note_failure(const TestdbClone *clone, const char *what, const char *name,
			 const ErrorData *edata)
{
	char	   *text = psprintf("%s %s", edata->message, edata->detail ? edata->detail : "");
	int			delay;

	/* All other workers wait for locks: not this clone's fault. */
	if (database_lock_was_refused())
	{
		registry_extend(clone->oid, 1);
		return;
	}
	registry_note_error(clone->template_oid, edata->message);
	if (registry_note_failure(clone->oid, hash_bytes((unsigned char *) text, strlen(text)),
							  &delay))
		ereport(LOG,
				(errcode(edata->sqlerrcode),
				 name[0] != '\0' ?
				 errmsg("%s \"%s\", created from template \"%s\": %s", what, name,
						NameStr(clone->template_name), edata->message) :
				 errmsg("%s with OID %u, created from template \"%s\": %s", what, clone->oid,
						NameStr(clone->template_name), edata->message),
				 edata->detail ? errdetail_internal("%s", edata->detail) : 0,
				 errhint("It will be retried in %d s, and less often after that.", delay)));
}

/*
 * Remove a clone, which is REMOVING.  On failure, log it and make the clone
 * GARBAGE, to be retried later.
 */
void
job_collect_garbage(const TestdbClone *clone)
{
	DatabaseInfo info = {0};
	bool		exists;

	job_report("testdb: removing a database");
	(void) database_lock_was_refused();
	PG_TRY();
	{
		job_begin_work();
		job_report_database("removing database", clone->oid, &info);

		/*
		 * Under the lock, since other processes write the lease only under
		 * it.
		 */
		exists = empty_database(clone->oid, false, &info);
		lease_write(clone, LEASE_UNWANTED);
		debug_point("garbage-unwanted");
		if (!exists || !database_drop(clone->oid))
			database_remove_files(clone->oid);
		finish_removal(clone->oid);
	}
	PG_CATCH();
	{
		ErrorData  *edata = job_rollback_work();

		note_failure(clone, "could not remove database", NameStr(info.name), edata);
		(void) registry_set_state(clone->oid, CLONE_REMOVING, CLONE_GARBAGE);
	}
	PG_END_TRY();
}
