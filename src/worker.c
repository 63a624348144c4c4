/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The background workers: they make and drop databases.
 *
 * testdb.workers static workers are started by the postmaster when recovery
 * is finished, and restarted when they end.  They stay connected to
 * testdb.database.  The first of them rebuilds the registry from the leases
 * on disk before anything else is done.  After that all do the same: take the
 * oldest request; else remove a clone that nobody wants; else sleep.
 *
 * What a worker makes is recorded before it is there, and the record says how
 * far it has come (lease.c on disk, registry.c in memory).  For a clone:
 *
 *	step								if it fails here, there remains
 *	1  lock the template, look at it	nothing
 *	2  registry: CREATING				an entry
 *	3  lease: CREATING					and a file
 *	4  createdb(), commit				and a directory, or all of a database
 *	5  lease: HELD						the same
 *	6  registry: LEASED					a clone without a user
 *	7  answer							(the session, or request.c, has it)
 *
 * On an ERROR, and on FATAL through worker_exit(), the registry's entry
 * becomes GARBAGE; some worker then finds out what there is and removes it.
 * After a crash of the server worker 0 finds the lease, and does the same if
 * step 5 was not reached.  With the native method step 1 is that of snapshot.c,
 * and step 4 enters a row and copies the snapshot.
 *
 * For a drop:
 *
 *	1  lease: UNWANTED					a clone that will be dropped again
 *	2  dropdb(), commit					a row, valid or marked invalid; or none
 *	3  lease removed					an entry
 *	4  registry: entry removed			nothing
 *
 * And for one after which the clone is recycled:
 *
 *	1  lease: UNWANTED					a clone that will be dropped again
 *	2  sessions ended, row reset and	a row with another name, marked invalid
 *	   renamed, commit
 *	3  registry: RETURNED				the same, known to recycle.c
 *
 * If the drop is refused (a prepared transaction in the clone, say), the lease
 * is HELD again, and the clone stays as it was.
 *
 * Locks.  A worker holds no LWLock while it does any of this; heavyweight
 * locks as database.c says, waiting for each at most testdb.lock_timeout.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "catalog/pg_tablespace_d.h"
#include "commands/dbcommands.h"
#include "libpq/pqsignal.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "database.h"
#include "guc.h"
#include "lease.h"
#include "recycle.h"
#include "registry.h"
#include "request.h"
#include "snapshot.h"
#include "worker.h"

/* How long an idle worker sleeps at most, in ms. */
#define IDLE_SLEEP			60000
/* The same while something waits to be removed. */
#define GARBAGE_SLEEP		1000
/* How often spares that nobody wants are given up, in ms. */
#define DEMAND_INTERVAL		10000
/* When to try again to remove a clone, after an error, in ms. */
#define GARBAGE_RETRY		10000

/* The end of a name that testdb chooses: an underscore and a serial. */
#define NAME_SUFFIX_SIZE	16

/* What this worker is at, for worker_exit(). */
typedef struct WorkerJob
{
	int			request;		/* slot of the request, or -1 */
	Oid			clone;			/* the clone in hand, or InvalidOid */
	CloneState	state;			/* the state that it has in the registry */
} WorkerJob;

static int	worker_index = -1;
static MemoryContext worker_cxt = NULL; /* reset each turn */
static WorkerJob job = {-1, InvalidOid, CLONE_CREATING};

PGDLLEXPORT void testdb_worker_main(Datum main_arg);

/*
 * Register the workers; from _PG_init, in the postmaster.
 */
void
worker_register_all(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "testdb", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "testdb_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "testdb worker", BGW_MAXLEN);
	for (int i = 0; i < testdb_workers; i++)
	{
		snprintf(worker.bgw_name, BGW_MAXLEN, "testdb worker %d", i);
		worker.bgw_main_arg = Int32GetDatum(i);
		RegisterBackgroundWorker(&worker);
	}
}

/*
 * Show in pg_stat_activity what this worker does; NULL if nothing.
 */
static void
report_activity(const char *activity)
{
	pgstat_report_activity(activity ? STATE_RUNNING : STATE_IDLE, activity);
}

/*
 * Start a transaction with a snapshot, as a utility command would have it.
 */
static void
begin_work(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Commit it.  What is allocated afterwards lives until the end of the turn.
 */
static void
commit_work(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(worker_cxt);
}

/*
 * End the failed transaction, and return the error, which lives until the end
 * of the turn.  From PG_CATCH only.
 *
 * A lock timeout is put into the words of the caller, who set none.
 */
static ErrorData *
rollback_work(void)
{
	ErrorData  *edata;

	MemoryContextSwitchTo(worker_cxt);
	edata = CopyErrorData();
	FlushErrorState();
	HOLD_INTERRUPTS();
	AbortOutOfAnyTransaction();
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(worker_cxt);

	if (edata->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
	{
		edata->message = "testdb worker could not obtain a lock in time";
		edata->detail = psprintf("It waited %d ms for a lock that another session holds.",
								 testdb_lock_timeout);
		edata->hint = "Find the session that holds a lock on the database, on pg_database or on another shared catalog, perhaps your own transaction. See \"testdb.lock_timeout\".";
	}
	return edata;
}

/*
 * What the worker has in hand, if it must end: the request gets an error, an
 * unfinished clone becomes garbage.  A before_shmem_exit callback, registered
 * before those that end a transaction, and so called after them.
 */
static void
worker_exit(int code pg_attribute_unused(), Datum arg pg_attribute_unused())
{
	recycle_abandon();
	if (OidIsValid(job.clone) &&
		registry_set_state(job.clone, job.state, CLONE_GARBAGE))
		request_wake_workers();
	if (job.request >= 0)
	{
		ErrorData	edata = {0};

		edata.sqlerrcode = ERRCODE_ADMIN_SHUTDOWN;
		edata.message = "testdb worker ended before it had finished";
		edata.hint = "Try again; see the server log.";
		request_fail(job.request, &edata);
	}
	request_worker_detach(worker_index);
}

/*
 * Commit the removal of a clone, of which there is nothing left, then remove
 * its lease and its entry.
 */
static void
finish_removal(Oid oid)
{
	commit_work();
	lease_remove(oid);
	registry_remove(oid);
}

/*
 * A name for a clone of the named template that no other call will get, in
 * *name.
 */
static void
choose_name(const char *template_name, NameData *name)
{
	static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
	char		suffix[NAME_SUFFIX_SIZE];
	char	   *p = suffix + sizeof(suffix) - 1;
	uint64		serial = registry_next_serial();
	int			len;

	*p = '\0';
	for (; serial != 0; serial /= 36)
		*--p = digits[serial % 36];
	*--p = '_';

	len = pg_mbcliplen(template_name, strlen(template_name),
					   NAMEDATALEN - 1 - strlen(p));
	snprintf(NameStr(*name), NAMEDATALEN, "%.*s%s", len, template_name, p);
}

/*
 * Raise an error if there is a database of that name.
 */
static void
check_name_free(const char *name)
{
	if (OidIsValid(get_database_oid(name, true)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_DATABASE),
				 errmsg("database \"%s\" already exists", name)));
}

/*
 * Check that the role may clone the database; get_template in functions.c has
 * done so, but that was before the locks.
 */
static void
check_template_rights(Oid oid, Oid role, DatabaseInfo *template)
{
	if (!database_lookup(oid, template))
		elog(ERROR, "cache lookup failed for database %u", oid);
	if (!template->is_template && !has_privs_of_role(role, template->owner))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_DATABASE, NameStr(template->name));
}

/*
 * The name for a clone: the one that was asked for, or a new one.
 */
static void
get_clone_name(const RequestArgs *args, const DatabaseInfo *template,
			   NameData *name)
{
	if (args->name_given)
		*name = args->name;
	else
		choose_name(NameStr(template->name), name);
	check_name_free(NameStr(*name));
}

/*
 * Enter a clone that is about to be made: steps 2 and 3 above.
 */
static void
begin_clone(const RequestArgs *args, const DatabaseInfo *template,
			TestdbClone *clone)
{
	char		activity[3 * NAMEDATALEN];

	memset(clone, 0, sizeof(*clone));
	get_clone_name(args, template, &clone->name);
	snprintf(activity, sizeof(activity), "testdb_clone: creating \"%s\" from \"%s\"",
			 NameStr(clone->name), NameStr(template->name));
	report_activity(activity);

	clone->oid = database_choose_oid();
	clone->template_oid = args->database;
	clone->template_name = template->name;
	clone->owner = args->role;
	clone->created_at = GetCurrentTimestamp();
	clone->state = CLONE_CREATING;
	(void) registry_add(clone, ERROR);
	job.clone = clone->oid;
	job.state = CLONE_CREATING;
	lease_write(clone, LEASE_CREATING);
}

/*
 * Make a clone, which is complete and committed, the caller's: steps 5 and 6
 * above.  from is the state that it has had until now.
 */
static void
hand_out(TestdbClone *clone, CloneState from, RequestResult *result)
{
	lease_write(clone, LEASE_HELD);
	clone->state = CLONE_LEASED;
	if (!registry_update(clone, from))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("database \"%s\" was dropped while it was being created",
						NameStr(clone->name))));
	job.state = CLONE_LEASED;
	result->oid = clone->oid;
	result->name = clone->name;
}

/*
 * Make a clone through core's CREATE DATABASE: the steps at the head of this
 * file.  *result is the answer, which may be that the template is in use.
 */
static void
make_core_clone(const RequestArgs *args, RequestResult *result)
{
	TestdbMethod method = args->method;
	TestdbClone clone;
	DatabaseInfo template;

	if (method == TESTDB_METHOD_NATIVE)
		method = TESTDB_METHOD_FILE_COPY;
	begin_work();
	if (!database_lock_idle(args->database, NameStr(args->database_name),
							&result->nprepared))
	{
		result->busy = true;
		commit_work();
		return;
	}
	check_template_rights(args->database, args->role, &template);
	begin_clone(args, &template, &clone);
	database_create(clone.oid, NameStr(clone.name), args->role,
					NameStr(template.name), method);
	commit_work();
	hand_out(&clone, CLONE_CREATING, result);
}

/*
 * Hand out a spare that has been taken from the registry, under the name that
 * was asked for, if one was.  state is what it is in the registry.
 */
static void
hand_out_spare(const RequestArgs *args, TestdbClone *clone, CloneState state,
			   RequestResult *result)
{
	job.clone = clone->oid;
	job.state = state;
	if (args->name_given)
	{
		check_name_free(NameStr(args->name));
		database_reset_row(clone->oid, NameStr(args->name), clone->owner,
						   clone->template_oid, false);
		clone->name = args->name;
	}
	commit_work();
	clone->created_at = GetCurrentTimestamp();
	hand_out(clone, state, result);
}

/*
 * Hand out a spare of a template whose snapshot is locked, if there is one;
 * one that is behind the snapshot is brought up to date first.
 */
static bool
use_spare(const RequestArgs *args, const TestdbTemplate *template,
		  RequestResult *result)
{
	TestdbClone clone;

	if (registry_take_spare(args->database, args->role, &template->row, true,
							true, &clone) == SPARE_TAKEN)
	{
		hand_out_spare(args, &clone, CLONE_LEASED, result);
		return true;
	}
	while (registry_take_stale_spare(args->database, args->role, &clone))
	{
		job.clone = clone.oid;
		job.state = CLONE_RESTORING;
		if (recycle_update_spare(&clone, template))
		{
			hand_out_spare(args, &clone, CLONE_RESTORING, result);
			return true;
		}
		(void) registry_set_state(clone.oid, CLONE_RESTORING, CLONE_GARBAGE);
		job.clone = InvalidOid;
	}
	return false;
}

/*
 * Begin a transaction in which a template can be cloned by the native method:
 * its snapshot holds what is committed in it, and is locked.
 *
 * If that is not to be had, false, with no transaction: *result says if the
 * template is in use; if not, the native method can't be used.
 */
static bool
begin_native(const RequestArgs *args, TestdbTemplate *template,
			 DatabaseInfo *info, RequestResult *result)
{
	SnapshotStatus status;
	TemplateRow row;

	begin_work();
	status = snapshot_ensure(args->database, NameStr(args->database_name),
							 template, &result->nprepared);
	if (status == SNAPSHOT_FRESH)
	{
		check_template_rights(args->database, args->role, info);
		database_lock_horizons();
		if (snapshot_lock(args->database, template) &&
			database_read_row(args->database, &row) &&
			row.frozenxid == template->row.frozenxid &&
			row.minmxid == template->row.minmxid)
			return true;
	}

	/* If it was changed in this very instant it is looked at again. */
	result->busy = status != SNAPSHOT_IMPOSSIBLE;
	commit_work();
	return false;
}

/*
 * Make a clone from the snapshot, and commit; false, with nothing done, if the
 * template is being changed.
 */
static bool
copy_snapshot(const RequestArgs *args, const TestdbTemplate *template,
			  const DatabaseInfo *info, TestdbClone *clone)
{
	begin_clone(args, info, clone);
	database_insert_row(clone->oid, NameStr(clone->name), args->role, args->database);
	CommandCounterIncrement();
	if (database_dependencies(clone->oid) != template->dependencies)
	{
		PopActiveSnapshot();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(worker_cxt);
		(void) registry_set_state(clone->oid, CLONE_CREATING, CLONE_GARBAGE);
		job.clone = InvalidOid;
		return false;
	}
	snapshot_copy(template, clone->oid);
	commit_work();
	clone->native = true;
	clone->version = template->version;
	clone->row_version = template->row_version;
	return true;
}

/*
 * Make a clone by the native method: hand out a spare, or make one from the
 * snapshot; false if the template can't be cloned like that.
 */
static bool
make_native_clone(const RequestArgs *args, RequestResult *result)
{
	TestdbTemplate template;
	TestdbClone clone;
	DatabaseInfo info;

	if (!begin_native(args, &template, &info, result))
		return result->busy;
	if (args->name_given)
		check_name_free(NameStr(args->name));
	if (use_spare(args, &template, result))
		return true;
	if (copy_snapshot(args, &template, &info, &clone))
		hand_out(&clone, CLONE_CREATING, result);
	else
		result->busy = true;
	return true;
}

/*
 * Make a clone, which is complete and committed, a spare.  from is the state
 * that it has had until now.
 */
static void
publish_spare(TestdbClone *clone, CloneState from)
{
	clone->state = CLONE_SPARE;
	(void) registry_update(clone, from);
	job.clone = InvalidOid;
	registry_announce_spare(clone->template_oid);
}

/*
 * Make a spare for a role that wants some, if it has less than that.  *result
 * says if the template is in use, or if none can be made.
 */
static void
make_spare(const RequestArgs *args, RequestResult *result)
{
	TestdbTemplate template;
	TestdbClone clone;
	DatabaseInfo info;
	int			ncoming;

	if (!begin_native(args, &template, &info, result))
	{
		result->missing = !result->busy;
		return;
	}
	registry_want_spares(args->database, args->role, args->wanted);
	if (registry_take_stale_spare(args->database, args->role, &clone))
	{
		job.clone = clone.oid;
		job.state = CLONE_RESTORING;
		if (!recycle_update_spare(&clone, &template))
			elog(ERROR, "spare %u cannot be brought up to date", clone.oid);
		commit_work();
		publish_spare(&clone, CLONE_RESTORING);
	}
	else if (registry_count_spares(args->database, args->role, &ncoming) >= args->wanted)
		commit_work();
	else if (copy_snapshot(args, &template, &info, &clone))
	{
		lease_write(&clone, LEASE_UNWANTED);
		publish_spare(&clone, CLONE_CREATING);
	}
	else
		result->busy = true;
}

/*
 * Make a clone in the way that was asked for, or the nearest that is possible.
 */
static void
make_clone(const RequestArgs *args, RequestResult *result)
{
	if (args->method != TESTDB_METHOD_NATIVE || !make_native_clone(args, result))
		make_core_clone(args, result);
}

/*
 * Should a clone that is being dropped be kept for another life?
 */
static bool
is_worth_keeping(const TestdbClone *clone)
{
	TestdbTemplate template;
	int			nspares;
	int			ncoming;

	if (!clone->native || registry_is_template(clone->oid) ||
		!registry_template(clone->template_oid, &template) ||
		!template.has_snapshot ||
		!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(clone->owner)) ||
		!SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(clone->template_oid)))
		return false;
	nspares = registry_count_spares(clone->template_oid, clone->owner, &ncoming);
	return nspares + ncoming < Max(testdb_recycled, template.peak) &&
		testdb_recycled > 0 &&
		database_is_recyclable(clone->oid);
}

/*
 * Take a clone back for another life, which is locked, with nobody in it, and
 * commit: steps 2 and 3 above.  False, with nothing done, if its template has
 * gone.
 */
static bool
return_clone(TestdbClone *clone)
{
	TestdbTemplate template;
	TemplateRow row;
	DatabaseInfo info;

	if (!registry_template(clone->template_oid, &template) ||
		!database_read_row(clone->template_oid, &row) ||
		!database_lookup(clone->template_oid, &info))
		return false;
	choose_name(NameStr(info.name), &clone->name);
	clone->row_version = registry_row_version(clone->template_oid, &row);
	database_reset_row(clone->oid, NameStr(clone->name), clone->owner,
					   clone->template_oid, true);
	database_sync_dependencies(clone->oid, clone->template_oid,
							   template.dependencies);
	commit_work();

	clone->state = CLONE_RETURNED;
	if (registry_update(clone, CLONE_LEASED))
		request_wake_workers();
	return true;
}

/*
 * Drop a clone: the steps at the head of this file.
 *
 * The clone was found by its OID, which it keeps when it is handed out again:
 * only if it still has the name that the caller gave is it the one that was
 * meant.  If not, *result says that it is missing.
 *
 * Errors: those of database_drop.
 */
static void
drop_clone(const RequestArgs *args, RequestResult *result)
{
	TestdbClone clone;
	DatabaseInfo info;
	char		activity[2 * NAMEDATALEN];
	const char *name = NameStr(args->database_name);

	snprintf(activity, sizeof(activity), "testdb_drop: dropping \"%s\"", name);
	report_activity(activity);

	begin_work();
	if (!database_lock(args->database, &info) ||
		strcmp(NameStr(info.name), name) != 0 ||
		!registry_lookup(args->database, &clone) ||
		clone.state != CLONE_LEASED)
	{
		result->missing = true;
		commit_work();
		return;
	}

	job.clone = clone.oid;
	job.state = CLONE_LEASED;
	lease_write(&clone, LEASE_UNWANTED);
	PG_TRY();
	{
		bool		keep = is_worth_keeping(&clone);

		database_end_sessions(clone.oid, name);
		if (!keep || !return_clone(&clone))
		{
			(void) database_drop(clone.oid);
			finish_removal(clone.oid);
		}
	}
	PG_CATCH();
	{
		ErrorData  *edata = rollback_work();

		job.clone = InvalidOid;
		if (registry_lookup(clone.oid, &clone) && clone.state == CLONE_LEASED)
			lease_write(&clone, LEASE_HELD);
		ReThrowError(edata);
	}
	PG_END_TRY();
}

/*
 * Serve one request, in whatever way it ends.
 */
static void
serve_request(int slot, const RequestArgs *args)
{
	RequestResult result;

	memset(&result, 0, sizeof(result));
	job.request = slot;
	job.clone = InvalidOid;
	PG_TRY();
	{
		if (args->kind == REQUEST_CLONE)
			make_clone(args, &result);
		else if (args->kind == REQUEST_SPARE)
			make_spare(args, &result);
		else
			drop_clone(args, &result);
		HOLD_INTERRUPTS();
		job.request = -1;
		job.clone = InvalidOid;
		request_finish(slot, &result);
		RESUME_INTERRUPTS();
	}
	PG_CATCH();
	{
		ErrorData  *edata = rollback_work();

		/*
		 * The garbage is there to be found before the caller hears of it, so
		 * that what the caller does next comes after it has been seen.
		 */
		if (OidIsValid(job.clone))
			(void) registry_set_state(job.clone, job.state, CLONE_GARBAGE);
		job.request = -1;
		job.clone = InvalidOid;
		request_fail(slot, edata);
	}
	PG_END_TRY();
}

/*
 * Remove a clone that nobody wants.  If that fails, say so in the log, and
 * try again later.
 */
static void
collect_garbage(const TestdbClone *clone)
{
	char		activity[2 * NAMEDATALEN];

	snprintf(activity, sizeof(activity), "testdb: removing database %u",
			 clone->oid);
	report_activity(activity);
	PG_TRY();
	{
		lease_write(clone, LEASE_UNWANTED);
		begin_work();
		if (!database_drop(clone->oid))
			database_remove_files(clone->oid);
		finish_removal(clone->oid);
	}
	PG_CATCH();
	{
		ErrorData  *edata = rollback_work();

		registry_postpone_garbage(clone->oid, GARBAGE_RETRY);
		ereport(LOG,
				(errcode(edata->sqlerrcode),
				 errmsg("could not remove database %u, made from template \"%s\": %s",
						clone->oid, NameStr(clone->template_name), edata->message),
				 edata->detail ? errdetail_internal("%s", edata->detail) : 0,
				 errhint("It will be tried again in %d seconds.",
						 GARBAGE_RETRY / 1000)));
	}
	PG_END_TRY();
}

/*
 * Forget the clones and templates that have been dropped with plain SQL.
 */
static void
forget_dropped(void)
{
	TestdbClone *clones;
	TestdbTemplate *templates;
	int			n;

	templates = registry_list_templates(&n);
	for (int i = 0; i < n; i++)
	{
		DatabaseInfo info;
		bool		exists;

		begin_work();
		exists = database_lookup(templates[i].oid, &info);
		commit_work();
		if (!exists)
		{
			registry_forget_template(templates[i].oid);
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
		begin_work();
		exists = database_lookup(clones[i].oid, &info);
		commit_work();
		if (!exists)
		{
			lease_remove(clones[i].oid);
			registry_remove(clones[i].oid);
		}
	}
}

/*
 * Enter one database into the registry, by what its lease says and whether it
 * is there; true if it lives on.
 */
static bool
restore_clone(Oid oid)
{
	TestdbClone clone;
	LeaseState	state;
	DatabaseInfo info;
	bool		exists;
	struct stat st;
	char	   *path;

	if (registry_lookup(oid, &clone))
		return clone.state == CLONE_LEASED;

	exists = database_lookup(oid, &info);
	if (!lease_read(oid, &clone, &state))
	{
		/* An empty file, say, left by a crash before anything was made. */
		path = GetDatabasePath(oid, DEFAULTTABLESPACE_OID);
		if (!exists && stat(path, &st) != 0)
			lease_remove(oid);
		return false;
	}
	if (state == LEASE_HELD && !exists)
	{
		lease_remove(oid);		/* dropped while testdb was not loaded */
		return false;
	}
	clone.state = state == LEASE_HELD ? CLONE_LEASED : CLONE_CREATING;
	if (!registry_add(&clone, LOG))
		return false;
	if (state != LEASE_HELD)
		(void) registry_set_state(oid, CLONE_CREATING, CLONE_GARBAGE);
	return state == LEASE_HELD;
}

/*
 * Rebuild the registry from the leases on disk.  An error ends the worker; it
 * is restarted, and goes on where it was.
 */
static void
rebuild_registry(void)
{
	List	   *oids;
	ListCell   *lc;
	int			nlive = 0;

	begin_work();
	lease_make_directories();
	snapshot_remove_all();
	oids = lease_list();
	foreach(lc, oids)
		if (restore_clone(lfirst_oid(lc)))
			nlive++;
	if (oids != NIL)
		ereport(LOG,
				(errmsg("testdb found %d databases that it made earlier, and %d leftovers",
						nlive, list_length(oids) - nlive)));
	commit_work();
	request_set_ready();
}

/*
 * Set what every transaction of a worker relies on.
 */
static void
apply_settings(void)
{
	char		timeout[16];

	snprintf(timeout, sizeof(timeout), "%d", testdb_lock_timeout);
	SetConfigOption("lock_timeout", timeout, PGC_SUSET, PGC_S_OVERRIDE);
	for (const char *const *name = timeout_settings_compat(); *name; name++)
		SetConfigOption(*name, "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off",
					PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed",
					PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("search_path", "pg_catalog, pg_temp",
					PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * Restore the clones that were returned.  If that fails, they are removed.
 */
static void
recycle(void)
{
	report_activity("testdb: recycling databases");
	PG_TRY();
	{
		begin_work();
		recycle_returned();
		commit_work();
		recycle_publish();
	}
	PG_CATCH();
	{
		ErrorData  *edata = rollback_work();

		recycle_abandon();
		ereport(LOG,
				(errcode(edata->sqlerrcode),
				 errmsg("could not recycle databases: %s", edata->message),
				 edata->detail ? errdetail_internal("%s", edata->detail) : 0));
	}
	PG_END_TRY();
}

/*
 * Make a spare ahead, or bring one up to date.  If that fails, no more are
 * made ahead for this owner until it asks for a clone again.
 */
static void
refill(Oid template_oid, Oid owner)
{
	RequestArgs args;
	RequestResult result;
	DatabaseInfo info;
	bool		failed;
	int			ncoming;

	report_activity("testdb: making databases ahead");
	memset(&args, 0, sizeof(args));
	memset(&result, 0, sizeof(result));
	args.kind = REQUEST_SPARE;
	args.role = owner;
	args.database = template_oid;
	args.method = TESTDB_METHOD_NATIVE;
	args.wanted = registry_count_spares(template_oid, owner, &ncoming) + 1;
	job.request = -1;
	job.clone = InvalidOid;
	PG_TRY();
	{
		begin_work();
		failed = !database_lookup(template_oid, &info);
		commit_work();
		if (!failed)
		{
			args.database_name = info.name;
			make_spare(&args, &result);
			failed = result.busy || result.missing;
		}
	}
	PG_CATCH();
	{
		ErrorData  *edata = rollback_work();

		if (OidIsValid(job.clone))
			(void) registry_set_state(job.clone, job.state, CLONE_GARBAGE);
		ereport(LOG,
				(errcode(edata->sqlerrcode),
				 errmsg("could not make a database ahead: %s", edata->message),
				 edata->detail ? errdetail_internal("%s", edata->detail) : 0));
		failed = true;
	}
	PG_END_TRY();
	job.clone = InvalidOid;
	if (failed)
		registry_want_none(template_oid, owner);
}

/*
 * Do one thing, if there is one to do; false if there was none, and *delay_ms
 * is then lowered to the time after which there may be, in ms.
 *
 * Worker 0 recycles.  Where there are others to serve requests meanwhile, that
 * comes first; else last, so that more of them gather.
 */
static bool
work_once(long *delay_ms)
{
	bool		recycler = worker_index == 0;
	RequestArgs args;
	TestdbClone clone;
	Oid			template;
	Oid			owner;
	int			slot;

	if (recycler)
		recycle_listen();
	if (recycler && testdb_workers > 1 && registry_should_restore(delay_ms))
		recycle();
	else if ((slot = request_take(&args)) >= 0)
		serve_request(slot, &args);
	else if (recycler && registry_should_restore(delay_ms))
		recycle();
	else if (registry_next_refill(&template, &owner))
		refill(template, owner);
	else if (registry_take_garbage(&clone))
		collect_garbage(&clone);
	else if (registry_take_recheck())
		forget_dropped();
	else
		return false;
	return true;
}

/*
 * From time to time, give up spares that nobody has asked for lately; true if
 * there may be more of them later.
 */
static bool
lower_demand(void)
{
	static TimestampTz last = 0;
	static bool more = true;
	TimestampTz now = GetCurrentTimestamp();

	if (TimestampDifferenceExceeds(last, now, DEMAND_INTERVAL))
	{
		more = registry_lower_demand();
		last = now;
	}
	return more;
}

/*
 * One turn: reload the settings if that was asked for, do one thing, or sleep.
 *
 * What has been asked for has its own error handling.  What can fail here is
 * an interrupt, such as pg_cancel_backend() on a worker that does nothing: it
 * is passed over.
 */
static void
worker_turn(void)
{
	long		delay_ms = IDLE_SLEEP;

	MemoryContextSwitchTo(worker_cxt);
	MemoryContextReset(worker_cxt);
	PG_TRY();
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			apply_settings();
		}

		if (!request_is_ready() || !work_once(&delay_ms))
		{
			if (registry_has_garbage())
				delay_ms = Min(delay_ms, GARBAGE_SLEEP);
			if (worker_index == 0 && lower_demand())
				delay_ms = Min(delay_ms, DEMAND_INTERVAL);
			report_activity(NULL);
			pgstat_report_stat(false);
			request_wait_for_work(delay_ms);
		}
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		ConditionVariableCancelSleep();
		edata = rollback_work();
		if (edata->sqlerrcode != ERRCODE_QUERY_CANCELED)
			ereport(LOG,
					(errcode(edata->sqlerrcode),
					 errmsg("error in testdb worker: %s", edata->message),
					 edata->detail ? errdetail_internal("%s", edata->detail) : 0));
	}
	PG_END_TRY();
}

/*
 * The workers' entry point; main_arg is the worker's number.
 */
void
testdb_worker_main(Datum main_arg)
{
	worker_index = DatumGetInt32(main_arg);
	before_shmem_exit(worker_exit, (Datum) 0);

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(testdb_database, NULL, 0);
	apply_settings();
	request_worker_attach(worker_index, MyDatabaseId);

	worker_cxt = AllocSetContextCreate(TopMemoryContext, "testdb worker",
									   ALLOCSET_DEFAULT_SIZES);
	if (worker_index == 0 && !request_is_ready())
		rebuild_registry();
	for (;;)
		worker_turn();
}
