/*-------------------------------------------------------------------------
 *
 * upkeep.c
 *	  Background work of the workers.
 *
 * Expired clones are dropped, spares that were connected to are reclaimed,
 * returned clones are restored, spares created, dead rows removed from shared
 * catalogs, and databases dropped with plain SQL forgotten.  A failure is
 * logged and shown in testdb_templates; no session gets it as an error.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "dbcatalog.h"
#include "debug.h"
#include "expiry.h"
#include "job.h"
#include "job_internal.h"
#include "lease.h"
#include "recycle.h"
#include "sessions.h"
#include "snapshot.h"
#include "spares.h"
#include "stats.h"
#include "templates.h"
#include "upkeep.h"

/*
 * Drop an expired clone; it is DROPPING.  If that fails, it is retried later.
 */
void
job_reap(TestdbClone *clone)
{
	TemplateStats stats = {0};
	DatabaseInfo info = {0};

	job_report("testdb: dropping an expired database");
	job.request = -1;
	job.clone = clone->oid;
	job.resetting = false;
	job.unrestored = false;
	(void) database_lock_was_refused();
	PG_TRY();
	{
		job_begin_work();
		job_report_database("dropping expired database", clone->oid, &info);
		if (lock_clone(clone->oid, &info) && !registry_has_failed(clone->oid))
		{
			char	   *sessions = database_describe_sessions(clone->oid);

			ereport(LOG,
					(errmsg("dropping expired database \"%s\", created from template \"%s\"",
							NameStr(info.name), NameStr(clone->template_name)),
					 sessions ? errdetail_internal("%s", sessions) : 0));
		}
		take_back(clone, false);
		stats.reaped = 1;
		registry_add_stats(clone->template_oid, &stats);
	}
	PG_CATCH();
	{
		ErrorData  *edata = job_rollback_work();

		/* First, so that no other worker retries immediately. */
		note_failure(clone, "could not drop expired database", NameStr(info.name), edata);
		if (OidIsValid(job.clone))
			give_back(job.clone);
	}
	PG_END_TRY();
}

/*
 * Reclaim a spare that was TOUCHED, and is DROPPING now, like a clone that
 * was used.
 */
void
job_retire(TestdbClone *clone)
{
	DatabaseInfo info = {0};

	job_report("testdb: reclaiming a spare");
	job.request = -1;
	job.clone = clone->oid;
	job.resetting = false;
	job.unrestored = false;
	PG_TRY();
	{
		job_begin_work();
		job_report_database("reclaiming spare", clone->oid, &info);
		(void) lock_clone(clone->oid, &info);
		take_back(clone, false);
	}
	PG_CATCH();
	{
		ErrorData  *edata = job_rollback_work();

		(void) registry_set_state(clone->oid, CLONE_DROPPING, CLONE_GARBAGE);
		job.clone = InvalidOid;
		ereport(LOG,
				(errcode(edata->sqlerrcode),
				 NameStr(info.name)[0] != '\0' ?
				 errmsg("could not reclaim database \"%s\": %s",
						NameStr(info.name), edata->message) :
				 errmsg("could not reclaim database with OID %u: %s",
						clone->oid, edata->message)));
	}
	PG_END_TRY();
}

/*
 * Remove dead rows from the shared catalogs that workers write to; return the
 * number of blocks of pg_database, or 0 if it was not vacuumed.
 *
 * Every drop leaves one, and autovacuum runs at most once a minute.
 */
uint32
job_vacuum(void)
{
	uint32		nblocks;

	job_report("testdb: vacuuming shared catalogs");
	nblocks = database_vacuum_catalogs();
	MemoryContextSwitchTo(job_cxt);
	return nblocks;
}

/*
 * Forget the clones and templates that have been dropped with plain SQL.
 */
void
job_forget_dropped(void)
{
	TestdbClone *clones;
	TestdbTemplate *templates;
	int			n;

	templates = registry_list_templates(&n);
	for (int i = 0; i < n; i++)
	{
		DatabaseInfo info;
		bool		exists;

		job_begin_work();
		exists = database_lookup(templates[i].oid, &info);
		job_commit_work();
		if (!exists)
		{
			(void) registry_forget_template(templates[i].oid);
			snapshot_remove(templates[i].oid);
		}
	}

	clones = registry_list(&n);
	for (int i = 0; i < n; i++)
	{
		DatabaseInfo info;
		bool		exists;

		if (clones[i].state != CLONE_LEASED && clones[i].state != CLONE_SPARE)
			continue;
		job_begin_work();
		exists = database_lookup(clones[i].oid, &info);
		job_commit_work();
		if (!exists)
		{
			/* If it has an owner, that process will remove the entry. */
			if (registry_forget(clones[i].oid, clones[i].state))
				lease_remove(clones[i].oid);
		}
	}
}

/*
 * Restore the clones that were returned.  If that fails, they are removed; if
 * only because a process does not answer, it is retried later.
 */
void
job_recycle(void)
{
	job_report("testdb: recycling databases");
	PG_TRY();
	{
		job_begin_work();
		recycle_returned();
		debug_point("recycle-restored");
		job_commit_work();
		debug_point("recycle-committed");
		recycle_forget();
		recycle_publish();
		debug_point("recycle-published");
	}
	PG_CATCH();
	{
		bool		stuck = recycle_is_stuck();
		ErrorData  *edata = job_rollback_work();

		if (stuck)
			recycle_postpone();
		else
		{
			recycle_abandon();
			ereport(LOG,
					(errcode(edata->sqlerrcode),
					 errmsg("could not recycle databases: %s", edata->message),
					 edata->detail ? errdetail_internal("%s", edata->detail) : 0));
		}
	}
	PG_END_TRY();
}

/*
 * Create a spare, as args say, of a template that may no longer exist; false
 * if none can be created.
 */
static bool
refill(RequestArgs *args)
{
	RequestResult result = {0};
	DatabaseInfo info;
	bool		exists;

	job_begin_work();
	exists = database_lookup(args->database, &info) &&
		registry_is_template(args->database);
	job_commit_work();
	if (!exists)
		return false;
	args->database_name = info.name;
	job.damaged = false;
	(void) database_lock_was_refused();
	make_spare(args, &result);
	if (result.busy && job.damaged)
	{
		/* Retry, with a new snapshot. */
		result.busy = false;
		make_spare(args, &result);
	}
	return !result.busy && !result.missing;
}

/*
 * Record that a spare of a template could not be created, and log it unless
 * that was logged lately.
 */
static void
note_refill_failure(Oid template_oid, const ErrorData *edata)
{
	/* All other workers wait for locks: nothing to report. */
	if (database_lock_was_refused())
		return;
	registry_note_error(template_oid, edata->message);
	if (registry_may_log_refill(template_oid, edata->sqlerrcode))
		ereport(LOG,
				(errcode(edata->sqlerrcode),
				 errmsg("could not create a spare: %s", edata->message),
				 edata->detail ? errdetail_internal("%s", edata->detail) : 0));
}

/*
 * Create a spare, or bring one up to date.  If that fails, no more are
 * created for this owner until it requests a clone again.
 */
void
job_refill(Oid template_oid, Oid owner)
{
	RequestArgs args = {0};
	volatile bool done = false;

	job_report("testdb: making databases ahead");
	args.kind = REQUEST_SPARE;
	args.role = owner;
	args.database = template_oid;
	args.lease = registry_lease(template_oid);
	args.method = TESTDB_METHOD_NATIVE;
	args.wanted = registry_count_spares(template_oid, owner, true) + 1;
	job.request = -1;
	job.clone = InvalidOid;
	PG_TRY();
	{
		done = refill(&args);
	}
	PG_CATCH();
	{
		ErrorData  *edata = job_rollback_work();

		release_owned_clones();
		note_refill_failure(template_oid, edata);
	}
	PG_END_TRY();
	job.clone = InvalidOid;
	if (!done)
		registry_want_none(template_oid, owner);
}
