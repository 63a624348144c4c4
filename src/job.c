/*-------------------------------------------------------------------------
 *
 * job.c
 *	  What a background worker does: make, hand out, take back and remove
 *	  databases.
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
 * On an ERROR, and on FATAL through job_exit(), the registry's entry
 * becomes GARBAGE; some worker then finds out what there is and removes it.
 * After a crash of the server worker 0 finds the lease, and does the same if
 * step 5 was not reached.  With the native method step 1 is that of snapshot.c,
 * and step 4 enters a row and copies the snapshot.
 *
 * For a drop:
 *
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
 * If the drop is refused (a session that does not end, say), the lease is HELD
 * again, and the clone stays as it was.
 *
 * A reset closes the clone's name (connect.c), makes it DROPPING, ends its
 * sessions, and restores it as restore.c says.  What ends in the middle of that
 * is REWINDING, and left to worker 0.  Where a clone can't be restored, another
 * one is made, as above up to step 4, and put into its place:
 *
 *	1  new one marked as invalid		a clone as before; the new one is garbage
 *	2  registry: DROPPING				the same
 *	3  lease of the new one: HELD		the same: it is invalid
 *	4  rows: names exchanged, the old	a clone with the new content; the old one,
 *	   one invalid, commit				which is invalid, is garbage
 *	5  registry: new one LEASED			the same
 *	6  the old one is dropped			a clone with the new content
 *
 * Locks.  A worker holds no LWLock while it does any of this; heavyweight
 * locks as database.c says, waiting for each at most testdb.lock_timeout.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/twophase.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "connect.h"
#include "database.h"
#include "debug.h"
#include "droppable.h"
#include "forget.h"
#include "gate.h"
#include "guc.h"
#include "job.h"
#include "lease.h"
#include "recycle.h"
#include "registry.h"
#include "request.h"
#include "restore.h"
#include "rewind.h"
#include "snapshot.h"
#include "space.h"
#include "spare.h"

/* How often to roll back prepared transactions, if there are always new ones. */
#define PREPARED_TRIES		10

/* How long clients that are on their way to a database are waited for, in ms. */
#define ARRIVAL_TIMEOUT		1000

/* How often, and how long, to wait for what others are about to free. */
#define ROOM_NAPS			400
#define ROOM_NAP_US			5000

/* How often room is made for a clone, if others take it each time. */
#define ROOM_TRIES			10

/* The end of a name that testdb chooses: an underscore and a serial. */
#define NAME_SUFFIX_SIZE	16

/* What this worker is at, for job_exit(). */
typedef struct WorkerJob
{
	int			request;		/* slot of the request, or -1 */
	Oid			clone;			/* the clone in hand, or InvalidOid */
	CloneState	state;			/* the state that it has in the registry */
	bool		spoiled;		/* DROPPING: its content is lost */
	bool		resetting;		/* DROPPING: not to be dropped; its lease on disk is
								 * still HELD */
	bool		unrestored;		/* DROPPING: its content is to be restored; its
								 * lease on disk is REWINDING */
	bool		damaged;		/* a snapshot was found to be damaged: the same
								 * again takes it anew */
	bool		had_room;		/* when make_room() ended, the registry had a
								 * place for one more clone, or a spare for it */
	Oid			made;			/* the clone that will replace it, CREATING, or
								 * InvalidOid */
	Oid			victim;			/* a spare that makes room, DROPPING, or InvalidOid */
	Oid			garbage;		/* the clone that is being removed, or InvalidOid */
} WorkerJob;

static WorkerJob job = {.request = -1};
static MemoryContext job_cxt = NULL;	/* reset each turn */

/*
 * Begin a turn: what the last one has allocated is freed.
 */
void
job_begin_turn(void)
{
	if (job_cxt == NULL)
		job_cxt = AllocSetContextCreate(TopMemoryContext, "testdb worker",
										ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(job_cxt);
	MemoryContextReset(job_cxt);
	snapshot_forget_gone();
}

/*
 * Show in pg_stat_activity what this worker does; NULL if nothing.
 */
void
job_report(const char *activity)
{
	pgstat_report_activity(activity ? STATE_RUNNING : STATE_IDLE, activity);
}

/*
 * Start a transaction with a snapshot, as a utility command would have it.
 */
void
job_begin_work(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Commit it.  What is allocated afterwards lives until the end of the turn.
 */
void
job_commit_work(void)
{
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		registry_count_write();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(job_cxt);
}

/*
 * What describe says of a database, for the detail of an error, after the failed
 * transaction's end; NULL if it can't say anything.  It may read catalogs, and so
 * fail, if it is these that are locked.
 */
static char *
describe_obstacle(char *(*describe) (Oid oid), Oid oid)
{
	char	   *volatile text = NULL;

	PG_TRY();
	{
		job_begin_work();
		text = describe(oid);
		if (text)
			text = MemoryContextStrdup(job_cxt, text);
		job_commit_work();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(job_cxt);
		FlushErrorState();
		HOLD_INTERRUPTS();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
		MemoryContextSwitchTo(job_cxt);
	}
	PG_END_TRY();
	return text;
}

/*
 * For describe_obstacle: who has not released its files.
 */
static char *
describe_barrier(Oid oid pg_attribute_unused())
{
	return droppable_end_barrier();
}

/*
 * Put the error of a barrier that timed out into words that say who is in the
 * way.
 */
static void
explain_barrier(ErrorData *edata)
{
	char	   *processes = describe_obstacle(describe_barrier, InvalidOid);

	recycle_note_stuck(processes);
	edata->sqlerrcode = ERRCODE_OBJECT_IN_USE;
	edata->message = "timed out waiting for other processes to release their files";
	edata->detail = processes ? processes :
		"testdb worker waited for all processes of the server.";
	edata->hint = "A process may be waiting for a client that has begun a COPY and sends nothing, or be a background worker that sleeps without looking. Terminate it if it need not go on.";
}

/*
 * The same for a lock that could not be had in time.
 */
static void
explain_lock(ErrorData *edata)
{
	char	   *lockers = describe_obstacle(droppable_describe_lockers,
											database_last_locked());

	edata->message = "testdb worker could not obtain a lock in time";
	edata->detail = psprintf("It waited %d ms for a lock that another session holds.%s%s",
							 testdb_lock_timeout, lockers ? " " : "",
							 lockers ? lockers : "");
	edata->hint = "Find the session that holds a lock on the database, on pg_database or on another shared catalog, perhaps your own transaction. See \"testdb.lock_timeout\".";
}

/*
 * End the failed transaction, and return the error, which lives until the end
 * of the turn.  From PG_CATCH only.
 *
 * A lock timeout is put into the words of the caller, who set none.
 */
ErrorData *
job_rollback_work(void)
{
	ErrorData  *edata;
	bool		stuck;
	bool		dropping;

	disable_timeout(STATEMENT_TIMEOUT, false);
	space_release();
	MemoryContextSwitchTo(job_cxt);
	edata = CopyErrorData();
	FlushErrorState();
	HOLD_INTERRUPTS();
	AbortOutOfAnyTransaction();
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(job_cxt);

	if (edata->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		explain_lock(edata);
	dropping = database_end_drop();
	stuck = recycle_end_barrier() || dropping;
	if (stuck && edata->message_id != NULL &&
		strcmp(edata->message_id, "canceling statement due to statement timeout") == 0)
		explain_barrier(edata);
	else if (dropping && edata->sqlerrcode == ERRCODE_OBJECT_IN_USE)
	{
		char	   *sessions = describe_obstacle(database_describe_sessions,
												 database_last_locked());

		if (sessions)
			edata->detail = sessions;
	}
	return edata;
}

/*
 * Make garbage of what this worker has in hand besides the clone that it is
 * about.
 */
static void
discard_others(void)
{
	if (!OidIsValid(job.made) && !OidIsValid(job.victim))
		return;
	(void) registry_set_state(job.made, CLONE_CREATING, CLONE_GARBAGE);
	(void) registry_set_state(job.victim, CLONE_DROPPING, CLONE_GARBAGE);
	request_wake_workers();
	job.made = InvalidOid;
	job.victim = InvalidOid;
}

/*
 * Leave a clone that is DROPPING, and whose content is neither the old nor the
 * new, to worker 0, which restores it.
 */
static void
leave_unrestored(Oid oid)
{
	job.unrestored = false;
	registry_set_unrestored(oid);
	(void) registry_set_state(oid, CLONE_DROPPING, CLONE_REWINDING);
	request_wake_workers();
}

/*
 * Give back what this worker has in hand, because it must end: the request gets
 * an error, an unfinished clone becomes garbage, and garbage is free to be
 * removed by others at once.
 */
void
job_exit(void)
{
	space_release();
	recycle_abandon();
	if (OidIsValid(job.garbage))
	{
		registry_postpone_garbage(job.garbage, 0);
		request_wake_workers();
	}
	discard_others();
	if (OidIsValid(job.clone) && job.unrestored)
		leave_unrestored(job.clone);
	else if (OidIsValid(job.clone) &&
		registry_set_state(job.clone, job.state,
						   job.state == CLONE_DROPPING && job.resetting &&
						   !job.spoiled ? CLONE_LEASED : CLONE_GARBAGE))
		request_wake_workers();
	if (job.request >= 0)
	{
		ErrorData	edata = {0};

		edata.sqlerrcode = ERRCODE_ADMIN_SHUTDOWN;
		edata.message = "testdb worker ended before it had finished";
		edata.hint = "Try again; see the server log.";
		request_fail(job.request, &edata);
	}
}

/*
 * Commit the removal of a clone, of which there is nothing left, then remove
 * its lease and its entry.
 */
static void
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
	snprintf(activity, sizeof(activity), "%s: creating \"%s\" from \"%s\"",
			 args->kind == REQUEST_RESET ? "testdb_reset" : "testdb_clone",
			 NameStr(clone->name), NameStr(template->name));
	job_report(activity);

	if (args->kind != REQUEST_RESET && !superuser_arg(args->role))
		registry_check_share(args->database, args->role,
							 args->kind == REQUEST_SPARE);
	clone->oid = database_choose_oid();
	clone->template_oid = args->database;
	clone->template_name = template->name;
	clone->owner = args->role;
	clone->created_at = GetCurrentTimestamp();
	clone->state = CLONE_CREATING;
	clone->ahead = args->kind == REQUEST_SPARE;
	(void) registry_add(clone, args->kind == REQUEST_RESET, ERROR);
	if (args->kind == REQUEST_RESET)
		job.made = clone->oid;
	else
	{
		job.clone = clone->oid;
		job.state = CLONE_CREATING;
	}
	debug_point("clone-entered");
	lease_write(clone, LEASE_CREATING);
	debug_point("clone-recorded");
}

/*
 * Count a clone for which no spare was ready.
 */
static void
count_miss(Oid template_oid)
{
	TemplateStats stats = {0};

	stats.clones = 1;
	stats.misses = 1;
	registry_add_stats(template_oid, &stats);
}

/*
 * Count a copy that was begun at start.
 */
static void
count_copy(Oid template_oid, TimestampTz start)
{
	TemplateStats stats = {0};

	stats.copies = 1;
	stats.copy_us = GetCurrentTimestamp() - start;
	registry_add_stats(template_oid, &stats);
}

/*
 * Make room for one more clone of a template, if testdb.max_clones or
 * testdb.max_templates is reached, or if a copy of so many bytes and files
 * would not leave enough space: spares of others are given up for it, and the
 * role's own if it has no use for them.  In no transaction.  Whoever needs the
 * room finds out whether that has helped.
 */
static void
make_room(const RequestArgs *args, bool uses_spares, uint64 bytes, uint64 files)
{
	TestdbClone victim;
	int			naps = 0;
	int			ncoming;
	bool		coming;
	bool		has_spare = false;

	/* A checkpoint, which dropping takes, would be the end of a full one. */
	while (!database_is_full())
	{
		bool		found;

		found = registry_take_template_victim(args->database, &victim, &coming);
		has_spare = !found && !coming && uses_spares &&
			registry_count_spares(args->database, args->role, &ncoming) > 0;
		if (has_spare)
			break;
		if (!found &&
			((args->kind != REQUEST_RESET && registry_is_full()) ||
			 !database_has_space(bytes, files)))
		{
			found = registry_take_victim(uses_spares ? args->database : InvalidOid,
										 args->role, &victim, &coming);
			if (!found && registry_take_garbage(&victim))
			{
				job_collect_garbage(&victim);
				continue;
			}
		}
		if (!found)
		{
			if (!coming || ++naps > ROOM_NAPS)
				break;
			pg_usleep(ROOM_NAP_US);
			CHECK_FOR_INTERRUPTS();
			continue;
		}
		job.victim = victim.oid;
		job_begin_work();
		(void) database_drop(victim.oid);
		finish_removal(victim.oid);
		job.victim = InvalidOid;
	}
	job.had_room = has_spare || !registry_is_full();
}

/*
 * Make a clone, which is complete and committed, the caller's: steps 5 and 6
 * above.  from is the state that it has had until now.
 */
static void
hand_out(const RequestArgs *args, TestdbClone *clone, CloneState from,
		 RequestResult *result)
{
	int			n;

	registry_apply_terms(clone, &args->terms);
	debug_point("clone-complete");
	if (args->role_limit > 0 &&
		!registry_charge(clone->oid, args->role, args->role_limit, &n))
	{
		/* For the role's name. */
		job_begin_work();
		database_report_role_limit(args->role, n);
	}
	lease_write(clone, LEASE_HELD);
	debug_point("clone-held");
	clone->state = CLONE_LEASED;
	if (!registry_update(clone, from))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("database \"%s\" was dropped while it was being created",
						NameStr(clone->name))));
	job.state = CLONE_LEASED;
	debug_point("clone-leased");
	result->oid = clone->oid;
	result->lease = clone->lease;
	result->name = clone->name;
}

/*
 * Make a clone through core's CREATE DATABASE, and commit: steps 1 to 4 at the
 * head of this file.  False if the template is in use, which *result then says.
 */
static bool
create_clone(const RequestArgs *args, TestdbClone *clone, RequestResult *result)
{
	TestdbMethod method = args->method;
	TimestampTz start = GetCurrentTimestamp();
	DatabaseInfo template;
	uint64		bytes;
	uint64		files;

	if (method == TESTDB_METHOD_NATIVE)
		method = database_core_method();
	snapshot_measure(args->database, &bytes, &files);

	/* Every page goes through WAL, too. */
	if (method == TESTDB_METHOD_WAL_LOG)
		bytes *= 2;
	make_room(args, false, bytes, files);
	job_begin_work();
	if (!database_lock_idle(args->database, NameStr(args->database_name),
							&result->nprepared))
	{
		result->busy = true;
		job_commit_work();
		return false;
	}
	snapshot_check_identity(args->database, NameStr(args->database_name),
							args->lease);

	/* Who has a clone may have it reset. */
	if (args->kind != REQUEST_RESET)
		check_template_rights(args->database, args->role, &template);
	else
		(void) database_lookup(args->database, &template);
	database_check_space(NULL, bytes, files);
	begin_clone(args, &template, clone);
	database_create(clone->oid, NameStr(clone->name), args->role,
					NameStr(template.name), method);
	debug_point("clone-created");
	job_commit_work();
	space_release();
	count_copy(args->database, start);
	return true;
}

/*
 * The same, and hand it out.
 */
static void
make_core_clone(const RequestArgs *args, RequestResult *result)
{
	TestdbClone clone;

	if (!create_clone(args, &clone, result))
		return;
	count_miss(args->database);
	hand_out(args, &clone, CLONE_CREATING, result);
}

/*
 * Raise the error that the template of the named clone has been dropped in the
 * meantime.
 */
static void
report_template_gone(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_DATABASE),
			 errmsg("template of database \"%s\" does not exist", name),
			 errdetail("It has been dropped in the meantime.")));
}

/*
 * The same of the clone itself.
 */
static void
report_clone_gone(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_DATABASE),
			 errmsg("database \"%s\" does not exist", name),
			 errdetail("It has been dropped in the meantime.")));
}

/*
 * Raise the error that somebody has changed the row of a spare.
 */
static void
report_spare_changed(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("database \"%s\" was changed before it was handed out", name),
			 errhint("Call the function again: it gets another one.")));
}

/*
 * Hand out a spare that has been taken from the registry, under the name that
 * was asked for, if one was.  state is what it is in the registry.
 */
static void
hand_out_spare(const RequestArgs *args, TestdbClone *clone, CloneState state,
			   RequestResult *result)
{
	TemplateRow row;

	job.clone = clone->oid;
	job.state = state;
	if (args->name_given)
	{
		CommandCounterIncrement();
		check_name_free(NameStr(args->name));
		clone->name = args->name;
		if (args->served ? !database_serve_row(clone, &args->row) :
			!database_reset_row(clone->oid, NameStr(args->name), clone->owner,
								clone->template_oid, ROW_OPEN))
			report_template_gone(NameStr(args->name));
		debug_point("spare-renamed");
	}
	else if (database_read_row(clone->template_oid, &row) &&
			 spare_open(clone, row.clone_limit))
		database_flush();
	else
		report_spare_changed(NameStr(clone->name));
	job_commit_work();
	hand_out(args, clone, state, result);
}

/*
 * Is a template's snapshot, which is locked, known to be damaged?  If that has
 * been found out since *template was read, what is to be done with it is worth
 * doing again.
 */
static bool
is_damaged(const TestdbTemplate *template)
{
	TestdbTemplate now;

	if (!registry_template(template->oid, &now) || !now.damaged)
		return false;
	if (!template->damaged)
		job.damaged = true;
	return true;
}

/*
 * See that clones can be copied from a template's snapshot, which is locked, as
 * snapshot_lock_source does.
 */
static bool
lock_source(const TestdbTemplate *template)
{
	return !is_damaged(template) && snapshot_lock_source(template);
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
	bool		refill;

	if (registry_take_spare(args->database, args->role, &template->row, true,
							true, &args->terms, &clone, &refill) == SPARE_TAKEN)
	{
		hand_out_spare(args, &clone, CLONE_CREATING, result);
		return true;
	}
	while (lock_source(template) &&
		   registry_take_stale_spare(args->database, args->role, &clone))
	{
		job.clone = clone.oid;
		job.state = CLONE_RESTORING;
		if (recycle_update_spare(&clone, template))
		{
			count_miss(args->database);
			hand_out_spare(args, &clone, CLONE_RESTORING, result);
			return true;
		}
		(void) registry_set_state(clone.oid, CLONE_RESTORING, CLONE_GARBAGE);
		job.clone = InvalidOid;
	}
	return false;
}

/*
 * Make room for a clone by the native method.  The first time it takes twice as
 * much, for the snapshot.
 */
static void
make_native_room(const RequestArgs *args)
{
	TestdbTemplate template;
	uint64		bytes;
	uint64		files;
	int			copies = 2;

	if (registry_template(args->database, &template) &&
		template.has_snapshot && !template.damaged)
		copies = 1;
	snapshot_measure(args->database, &bytes, &files);
	make_room(args, true, copies * bytes, copies * files);
}

/*
 * Begin a transaction in which a template can be cloned by the native method:
 * its snapshot holds what is committed in it, and is locked.
 *
 * If that is not to be had, false, with no transaction: *result says if the
 * template is in use; if not, the native method can't be used.
 */
static bool
begin_native(const RequestArgs *args, bool check_rights, TestdbTemplate *template,
			 DatabaseInfo *info, RequestResult *result)
{
	SnapshotStatus status;
	TemplateRow row;

	job_begin_work();
	status = snapshot_ensure(args->database, NameStr(args->database_name),
							 args->lease, template, &result->nprepared);
	if (status == SNAPSHOT_FRESH)
	{
		if (check_rights)
			check_template_rights(args->database,
								  args->served ? args->caller : args->role, info);
		database_lock_horizons();
		if (snapshot_lock(args->database, template) &&
			database_read_row(args->database, &row) &&
			row.frozenxid == template->row.frozenxid &&
			row.minmxid == template->row.minmxid)
			return true;
	}

	/* If it was changed in this very instant it is looked at again. */
	result->busy = status != SNAPSHOT_IMPOSSIBLE;
	result->oid = InvalidOid;
	job_commit_work();
	return false;
}

/*
 * Make garbage of a clone that is CREATING.
 */
static void
discard_clone(Oid oid)
{
	(void) registry_set_state(oid, CLONE_CREATING, CLONE_GARBAGE);
	request_wake_workers();
	if (job.made == oid)
		job.made = InvalidOid;
	else
		job.clone = InvalidOid;
}

/*
 * Roll back what was begun to make a clone, which becomes garbage.
 */
static void
abandon_copy(const TestdbClone *clone)
{
	PopActiveSnapshot();
	AbortCurrentTransaction();
	MemoryContextSwitchTo(job_cxt);
	discard_clone(clone->oid);
}

/*
 * Make a clone from the snapshot, and commit; false if the template is being
 * changed, or if somebody must not be in it who is, with nothing done, or if
 * the snapshot is damaged or somebody has begun to follow WAL meanwhile, with
 * garbage left.
 */
static bool
copy_snapshot(const RequestArgs *args, const TestdbTemplate *template,
			  const DatabaseInfo *info, TestdbClone *clone)
{
	TimestampTz start = GetCurrentTimestamp();
	bool		followed = false;

	if (!lock_source(template))
	{
		job_commit_work();
		return false;
	}
	begin_clone(args, info, clone);
	database_insert_row(clone->oid, NameStr(clone->name), args->role, args->database,
						args->kind == REQUEST_SPARE ? ROW_CLOSED : ROW_OPEN);
	CommandCounterIncrement();
	if (args->served && !database_serve_row(clone, &args->row))
		report_template_gone(NameStr(clone->name));
	CommandCounterIncrement();
	(void) spare_note_row(clone);
	if (database_dependencies(clone->oid) != template->dependencies)
	{
		abandon_copy(clone);
		return false;
	}
	debug_point("clone-row");
	if (!snapshot_copy(template, clone->oid))
	{
		(void) is_damaged(template);
		abandon_copy(clone);
		return false;
	}
	debug_point("clone-files");
	if (database_is_logged())
	{
		database_log_copy(clone->oid, args->database, false);
		debug_point("clone-logged");
		database_end_log();
		debug_point("clone-checkpoint");
		followed = database_is_followed();
	}
	job_commit_work();
	if (followed)
	{
		/* The next attempt may want its name. */
		if (!registry_is_stuck() && !database_is_full())
			job_collect_garbage(clone);
		discard_clone(clone->oid);
		return false;
	}
	count_copy(args->database, start);
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

	make_native_room(args);
	if (!begin_native(args, true, &template, &info, result))
		return result->busy;
	if (args->name_given)
		check_name_free(NameStr(args->name));
	if (use_spare(args, &template, result))
		return true;
	if (copy_snapshot(args, &template, &info, &clone))
	{
		count_miss(args->database);
		hand_out(args, &clone, CLONE_CREATING, result);
	}
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

	if (!begin_native(args, true, &template, &info, result))
	{
		result->missing = !result->busy;
		return;
	}
	registry_want_spares(args->database, args->role, args->wanted);
	if (lock_source(&template) &&
		registry_take_stale_spare(args->database, args->role, &clone))
	{
		job.clone = clone.oid;
		job.state = CLONE_RESTORING;
		if (recycle_update_spare(&clone, &template))
		{
			job_commit_work();
			publish_spare(&clone, CLONE_RESTORING);
		}
		else if (is_damaged(&template))
		{
			job_commit_work();
			(void) registry_set_state(clone.oid, CLONE_RESTORING, CLONE_GARBAGE);
			job.clone = InvalidOid;
			request_wake_workers();
			result->busy = true;
		}
		else
			elog(ERROR, "spare %u cannot be brought up to date", clone.oid);
	}
	else if (registry_count_spares(args->database, args->role, &ncoming) >= args->wanted)
		job_commit_work();
	else if (copy_snapshot(args, &template, &info, &clone))
	{
		debug_point("spare-complete");
		lease_write(&clone, LEASE_UNWANTED);
		debug_point("spare-unwanted");
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
	if (args->method == TESTDB_METHOD_NATIVE && make_native_clone(args, result))
		return;
	if (args->served)
		result->missing = true;
	else
		make_core_clone(args, result);
}

/*
 * Should a clone that is being dropped be kept for another life?
 */
static bool
is_worth_keeping(const TestdbClone *clone)
{
	TestdbTemplate template;

	if (!clone->native || registry_is_template(clone->oid) ||
		!registry_template(clone->template_oid, &template) ||
		!template.has_snapshot ||
		!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(clone->owner)) ||
		!SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(clone->template_oid)))
		return false;
	if (testdb_recycled == 0 || !database_is_recyclable(clone->oid))
		return false;

	/* To drop it takes a barrier and a checkpoint, which are not to be had. */
	if (registry_is_stuck() || database_is_full())
		return true;
	return registry_wants_clone_back(clone->template_oid, clone->owner);
}

/*
 * Take a clone back for another life, which is locked, with nobody in it, and
 * commit: steps 3 and 4 above.  False, with nothing done, if its template has
 * gone.
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
	debug_point("return-entered");
	return true;
}

/*
 * Raise the error that prepared transactions come to a database again and again.
 */
static void
report_prepared(const char *name)
{
	char	   *transactions = droppable_describe_prepared(name);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("database \"%s\" is being used by prepared transactions", name),
			 transactions ? errdetail_internal("%s", transactions) : 0,
			 errhint("They could not be rolled back; the server log says why.")));
}

/*
 * Raise the error that no process can be started to roll them back.  In no
 * transaction.
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
 * Lock a database until the transaction's end, and end what is in it; false if
 * it does not exist (any more).  In a transaction, which may be another one
 * afterwards: prepared transactions, which would keep it from being dropped,
 * and which nobody wants who drops it, can only be rolled back from within.
 * let_left is as for database_end_sessions.
 *
 * Nobody can connect to a database that is marked as invalid, so that the mark
 * is taken away for that long; superusers may then come in, and are ended.
 *
 * Errors: those of database_lock and database_end_sessions; 55006 if sessions
 * that come in between prepare new ones each time; 53400 if no process can be
 * started that rolls them back.
 */
static bool
empty_database(Oid oid, bool let_left, DatabaseInfo *info)
{
	bool		invalid = false;

	for (int i = 0; database_lock(oid, info); i++)
	{
		if (invalid)
			droppable_set_connection_limit(oid, DATCONNLIMIT_INVALID_DB);
		if (database_end_sessions(oid, NameStr(info->name), let_left && i == 0))
			return true;
		if (i == PREPARED_TRIES)
			report_prepared(NameStr(info->name));
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
 * Find the clone that a request means, lock it, and make it DROPPING.  In a
 * transaction; false if it has gone in the meantime.
 *
 * Errors: 55006 if another worker is at it.
 */
static bool
claim_clone(const RequestArgs *args, TestdbClone *clone)
{
	DatabaseInfo info;

	rewind_give_way(args->database);
	if (!database_lock(args->database, &info))
		return false;
	if (!registry_end_lease(args->database, args->lease, CLONE_DROPPING, clone))
	{
		if (registry_lookup(args->database, clone) && clone->lease == args->lease &&
			clone->state == CLONE_DROPPING)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("database \"%s\" is being dropped",
							NameStr(args->database_name)),
					 errdetail("Another session drops or resets it at this moment.")));
		return false;
	}
	job.spoiled = false;
	job.unrestored = false;
	job.resetting = args->kind == REQUEST_RESET;
	job.clone = args->database;
	job.state = CLONE_DROPPING;
	return true;
}

/*
 * Let a clone that claim_clone has claimed go on as it was.  It is HELD still.
 */
static void
release_clone(Oid oid)
{
	(void) registry_set_state(oid, CLONE_DROPPING, CLONE_LEASED);
	job.clone = InvalidOid;
}

/*
 * Has a clone that was to be dropped gone so far that nobody can have it back?
 * After the failed transaction's end.
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
 * After an error: a clone that was DROPPING stays with who has it, or becomes
 * GARBAGE if that is too late.  From PG_CATCH, after the transaction's end.
 */
static void
give_back(Oid oid)
{
	TestdbClone clone;

	job.clone = InvalidOid;
	if (is_lost(oid))
	{
		if (registry_set_state(oid, CLONE_DROPPING, CLONE_GARBAGE))
			request_wake_workers();
	}
	else if (registry_lookup(oid, &clone) && clone.state == CLONE_DROPPING)
	{
		if (!job.resetting)		/* it is HELD still */
			lease_write(&clone, LEASE_HELD);
		(void) registry_set_state(oid, CLONE_DROPPING, CLONE_LEASED);
		request_wake_workers();
	}
}

/*
 * Take back a clone, which is DROPPING and locked: the steps at the head of
 * this file, with the commit of the transaction that the caller has begun.
 * let_left is as for empty_database.
 *
 * Errors: those of database_drop; the caller then gives the clone back.
 */
static void
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

	stats.drops = 1;
	stats.drop_us = GetCurrentTimestamp() - start;
	registry_add_stats(clone->template_oid, &stats);
}

/*
 * Report whether anybody is in the clone that a request means, or has left a
 * prepared transaction there.  In a transaction, with the clone locked.
 */
static bool
is_occupied(const RequestArgs *args)
{
	return CountDBBackends(args->database) > 0 ||
		database_count_prepared(NameStr(args->database_name)) > 0;
}

/*
 * Drop a clone.  *result says if it has gone in the meantime, or if it is in use,
 * which matters if the request is served for DROP DATABASE.
 *
 * Errors: those of take_back.
 */
static void
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
 * After an error: a clone that nobody waits for is dropped or removed later.
 * What has failed is said in the log, and shown in testdb_templates; the log
 * says it again only if it fails in another way, or after a long time.
 */
static void
note_failure(const TestdbClone *clone, const char *what, const ErrorData *edata)
{
	char	   *text = psprintf("%s %s", edata->message, edata->detail ? edata->detail : "");
	int			delay;

	/* All other workers wait for locks; that says nothing of this clone. */
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
				 errmsg("%s %u, made from template \"%s\": %s", what, clone->oid,
						NameStr(clone->template_name), edata->message),
				 edata->detail ? errdetail_internal("%s", edata->detail) : 0,
				 errhint("It will be tried again in %d s, then ever more rarely.", delay)));
}

/*
 * Drop a clone whose time is over; it is DROPPING.  If that is refused, it is
 * tried again later.
 */
void
job_reap(TestdbClone *clone)
{
	TemplateStats stats = {0};
	DatabaseInfo info;
	char		activity[2 * NAMEDATALEN];

	snprintf(activity, sizeof(activity), "testdb: dropping expired database %u",
			 clone->oid);
	job_report(activity);
	job.request = -1;
	job.clone = clone->oid;
	job.state = CLONE_DROPPING;
	job.resetting = false;
	(void) database_lock_was_refused();
	PG_TRY();
	{
		job_begin_work();
		if (database_lock(clone->oid, &info) && !registry_has_failed(clone->oid))
		{
			char	   *sessions = database_describe_sessions(clone->oid);

			ereport(LOG,
					(errmsg("dropping database \"%s\", made from template \"%s\": its time is over",
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

		/* First, so that no other worker tries again at once. */
		note_failure(clone, "could not drop expired database", edata);
		if (OidIsValid(job.clone))
			give_back(job.clone);
	}
	PG_END_TRY();
}

/*
 * Take back a spare that is TOUCHED, and now DROPPING, as if somebody had had
 * it.
 */
void
job_retire(TestdbClone *clone)
{
	DatabaseInfo info;

	job_report("testdb: taking back a spare");
	job.request = -1;
	job.clone = clone->oid;
	job.state = CLONE_DROPPING;
	job.resetting = false;
	PG_TRY();
	{
		job_begin_work();
		(void) database_lock(clone->oid, &info);
		take_back(clone, false);
	}
	PG_CATCH();
	{
		ErrorData  *edata = job_rollback_work();

		(void) registry_set_state(clone->oid, CLONE_DROPPING, CLONE_GARBAGE);
		(void) registry_set_state(clone->oid, CLONE_LEASED, CLONE_GARBAGE);
		job.clone = InvalidOid;
		ereport(LOG,
				(errcode(edata->sqlerrcode),
				 errmsg("could not take back database %u: %s",
						clone->oid, edata->message)));
	}
	PG_END_TRY();
}

/*
 * Restore a clone in place, which is DROPPING and locked by the transaction that
 * was begun, as restore.c says; its template's snapshot is locked, too.  False if
 * that was not done: *lost says whether its content is lost, so that it stays
 * DROPPING; *result, if not, that the template has been changed.
 */
static bool
restore_in_place(const RequestArgs *args, TestdbClone *clone, bool *lost,
				 RequestResult *result)
{
	DatabaseInfo info;
	RestoreResult done;
	char	   *message;

	if (!empty_database(clone->oid, args->let_left, &info))
		report_clone_gone(NameStr(args->database_name));
	debug_point("reset-empty");
	done = restore_database(clone, &job.unrestored);
	if (done != RESTORE_DONE)
	{
		*lost = done == RESTORE_FAILED;
		if (*lost)
			registry_set_unrestored(clone->oid);
		else
			release_clone(clone->oid);
		result->busy = !*lost;
		job_commit_work();
		return false;
	}
	job.clone = InvalidOid;
	if (!forget_former_lives(&clone->oid, 1, &message))
		registry_note_error(clone->template_oid, message);

	/* It may be a template itself: nobody committed what has changed there. */
	registry_template_changed(clone->oid);
	request_wake_workers();
	return true;
}

/*
 * Make the clone that will take the place of another, as args say, and commit.
 * False if the template is in use, which *result then says.
 *
 * It has a name of its own and is marked as invalid: nobody gets in, and after
 * a crash it is removed, whatever its lease says.
 */
static bool
make_replacement(const RequestArgs *args, TestdbClone *clone, RequestResult *result)
{
	TestdbTemplate template;
	DatabaseInfo info;
	bool		native = false;

	if (args->method == TESTDB_METHOD_NATIVE)
	{
		make_native_room(args);
		native = begin_native(args, false, &template, &info, result);
		if (native)
		{
			(void) database_lookup(args->database, &info);
			result->busy = !copy_snapshot(args, &template, &info, clone);
		}
	}
	if (!native && !result->busy)
		(void) create_clone(args, clone, result);
	if (result->busy)
		return false;

	job_begin_work();
	if (database_lock(clone->oid, &info))
		(void) database_end_sessions(clone->oid, NameStr(clone->name), false);
	if (!database_reset_row(clone->oid, NameStr(clone->name), clone->owner,
							args->database, ROW_INVALID))
		report_template_gone(NameStr(args->name));
	database_drop_statistics(&clone->oid, 1);
	debug_point("replacement-row");
	job_commit_work();
	debug_point("replacement-made");
	return true;
}

/*
 * Put the clone new, which make_replacement has made, into the place of the
 * clone old, which is DROPPING and locked by the transaction that was begun:
 * its name, its owner, its terms.  One commit does that: before it a crash, or
 * an error, leaves the old one, after it the new one; of the two leases, which
 * then both say HELD, one is of a database that is marked as invalid.
 *
 * What is left of the old one is removed, now or later.
 */
static void
replace_clone(TestdbClone *old, TestdbClone *new)
{
	DatabaseInfo info;
	DatabaseInfo unused;

	if (!empty_database(old->oid, false, &info))
		report_clone_gone(NameStr(new->name));
	database_check_droppable(old->oid, NameStr(info.name));
	new->state = CLONE_LEASED;
	new->name = info.name;
	new->row_version = 0;
	new->terms = old->terms;
	new->created_at = old->created_at;
	new->expires_at = old->expires_at;
	lease_write(new, LEASE_HELD);
	debug_point("replace-held");

	(void) database_lock(new->oid, &unused);
	choose_name(NameStr(old->template_name), &old->name);
	if (!database_reset_row(old->oid, NameStr(old->name), info.owner,
							old->template_oid, ROW_INVALID))
		report_template_gone(NameStr(info.name));
	CommandCounterIncrement();
	if (!database_reset_row(new->oid, NameStr(new->name), new->owner,
							new->template_oid, ROW_OPEN))
		report_template_gone(NameStr(info.name));
	CommandCounterIncrement();
	if (new->terms.database &&
		!database_serve_again(new->oid, new->template_oid))
		report_template_gone(NameStr(info.name));
	debug_point("replace-row");

	/* What is committed is entered, whoever wants this process to end. */
	HOLD_INTERRUPTS();
	job_commit_work();
	debug_point("replace-committed");
	job.spoiled = true;
	job.unrestored = false;
	registry_replace(old->oid, new);
	RESUME_INTERRUPTS();
	debug_point("replace-entered");
	job.made = InvalidOid;
	if (!registry_is_stuck() && !database_is_full())
		job_collect_garbage(old);
	(void) registry_set_state(old->oid, CLONE_DROPPING, CLONE_GARBAGE);
	job.clone = InvalidOid;
	request_wake_workers();
}

/*
 * Restore a clone in place, if it can be, whose template can be cloned by the
 * native method, as again says.  Else false: *lost says whether its content is
 * lost, so that it stays DROPPING; *result, whether it has gone or the template
 * is in use.
 */
static bool
reset_in_place(const RequestArgs *args, const RequestArgs *again, TestdbClone *clone,
			   bool *lost, RequestResult *result)
{
	TestdbTemplate template;
	DatabaseInfo info;

	if (registry_is_stuck() || !begin_native(again, false, &template, &info, result))
		return false;

	/* Once its sessions are ended and its files touched, there is no way back. */
	if (!lock_source(&template) || !snapshot_is_intact(&template, NULL))
	{
		(void) is_damaged(&template);
		result->busy = true;
		job_commit_work();
		return false;
	}
	connect_close(NameStr(args->database_name));
	if (!claim_clone(args, clone))
	{
		result->missing = true;
		job_commit_work();
		return false;
	}
	if (database_is_recyclable(clone->oid) && !recycle_is_locked(clone->oid))
		return restore_in_place(args, clone, lost, result);
	release_clone(clone->oid);
	job_commit_work();
	return false;
}

/*
 * Make room for restoring a clone in place, as args say, and for the snapshot if
 * there is none: whether that was enough is found out when the clone is locked.
 */
static void
make_reset_room(const RequestArgs *args, Oid clone)
{
	TestdbTemplate template;
	uint64		bytes;
	uint64		files;

	job_begin_work();
	if (snapshot_lock(args->database, &template) && !template.damaged)
		snapshot_room(&template, clone, NULL, &bytes, &files);
	else
	{
		snapshot_measure(args->database, &bytes, &files);
		bytes *= 2;
		files *= 2;
	}
	job_commit_work();
	make_room(args, false, bytes, files);
}

/*
 * Give a clone its template's content again.  *result says if it has gone, or
 * if the template is in use.
 *
 * Where it can't be restored a new one takes its place, on the same terms; if
 * that can't be made the old one stays as it is.
 */
static void
reset_clone(const RequestArgs *args, RequestResult *result)
{
	RequestArgs again = *args;
	TestdbClone clone;
	TestdbClone new;
	DatabaseInfo info;
	bool		lost = false;
	char		activity[2 * NAMEDATALEN];

	snprintf(activity, sizeof(activity), "testdb_reset: restoring \"%s\"",
			 NameStr(args->database_name));
	job_report(activity);

	database_check_space(NameStr(args->database_name), 0, 0);
	if (!registry_lookup(args->database, &clone))
	{
		result->missing = true;
		return;
	}
	job_begin_work();
	if (database_lookup(args->database, &info))
		clone.owner = restore_owner(&clone, info.owner);
	job_commit_work();
	again.role = clone.owner;
	again.database = clone.template_oid;
	again.database_name = clone.template_name;
	again.lease = registry_lease(clone.template_oid);
	again.method = clone.native ? TESTDB_METHOD_NATIVE : args->method;
	again.name_given = false;
	again.name = args->database_name;

	if (clone.native)
		make_reset_room(&again, clone.oid);
	if (clone.native && reset_in_place(args, &again, &clone, &lost, result))
		return;
	if (result->busy || result->missing)
		return;
	if (!make_replacement(&again, &new, result))
	{
		if (lost)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("template of database \"%s\" was changed in the meantime",
							NameStr(args->database_name))));
		return;
	}
	connect_close(NameStr(args->database_name));
	connect_await_arrivals(NameStr(args->database_name), ARRIVAL_TIMEOUT);
	job_begin_work();
	if (!lost && !claim_clone(args, &clone))
	{
		result->missing = true;
		job_commit_work();
		discard_others();
		return;
	}
	replace_clone(&clone, &new);
}

/*
 * Has a clone failed because another worker took the room that had been made
 * for it?
 */
static bool
has_lost_room(const RequestArgs *args, const ErrorData *edata)
{
	return args->kind == REQUEST_CLONE && !OidIsValid(job.clone) && job.had_room &&
		edata->sqlerrcode == ERRCODE_CONFIGURATION_LIMIT_EXCEEDED &&
		edata->message_id != NULL &&
		strcmp(edata->message_id, TOO_MANY_CLONES) == 0;
}

/*
 * Serve a request once.  False, with nothing done, if others were faster to
 * take the last room, or if a snapshot was found to be damaged, and may_repeat
 * says that this may be tried again.
 */
static bool
serve_once(int slot, const RequestArgs *args, bool may_repeat)
{
	RequestResult result;
	volatile bool served = true;

	memset(&result, 0, sizeof(result));
	job.request = slot;
	job.clone = InvalidOid;
	job.damaged = false;
	job.had_room = false;
	(void) database_lock_was_refused();
	PG_TRY();
	{
		if (args->kind == REQUEST_CLONE)
			make_clone(args, &result);
		else if (args->kind == REQUEST_SPARE)
			make_spare(args, &result);
		else if (args->kind == REQUEST_RESET)
			reset_clone(args, &result);
		else
			drop_clone(args, &result);
		served = !may_repeat || !result.busy || !job.damaged ||
			request_abandoned(slot);
		if (served)
		{
			HOLD_INTERRUPTS();
			job.request = -1;
			job.clone = InvalidOid;
			request_finish(slot, &result);
			RESUME_INTERRUPTS();
		}
	}
	PG_CATCH();
	{
		ErrorData  *edata = job_rollback_work();
		bool		refused = database_lock_was_refused();

		served = !may_repeat || !has_lost_room(args, edata) ||
			request_abandoned(slot);

		/* Somebody else made a database of that name in this instant. */
		if (edata->sqlerrcode == ERRCODE_UNIQUE_VIOLATION && args->name_given)
		{
			edata->sqlerrcode = ERRCODE_DUPLICATE_DATABASE;
			edata->message = psprintf("database \"%s\" already exists",
									  NameStr(args->name));
			edata->detail = NULL;
		}

		if (args->kind == REQUEST_RESET && OidIsValid(job.clone) && job.unrestored)
			edata->detail = psprintf("%s%sThe database is being restored, and new sessions wait until it is.",
									 edata->detail ? edata->detail : "",
									 edata->detail ? " " : "");

		/*
		 * The garbage is there to be found before the caller hears of it, so
		 * that what the caller does next comes after it has been seen.
		 */
		discard_others();
		if (OidIsValid(job.clone) && job.unrestored)
			leave_unrestored(job.clone);
		else if (OidIsValid(job.clone) && job.state == CLONE_DROPPING && !job.spoiled)
			give_back(job.clone);
		else if (OidIsValid(job.clone))
			(void) registry_set_state(job.clone, job.state, CLONE_GARBAGE);
		if (served)
		{
			job.request = -1;
			job.clone = InvalidOid;
			if (!refused || !request_requeue(slot))
				request_fail(slot, edata);
		}
	}
	PG_END_TRY();
	connect_open();
	return served;
}

/*
 * Serve one request, in whatever way it ends.
 */
void
job_serve(int slot, const RequestArgs *args)
{
	int			tries = 1;

	while (!serve_once(slot, args, tries < ROOM_TRIES))
		tries++;
}

/*
 * Remove a clone that nobody wants.  If that fails, say so in the log, and
 * try again later.
 */
void
job_collect_garbage(const TestdbClone *clone)
{
	DatabaseInfo info;
	bool		exists;
	char		activity[2 * NAMEDATALEN];

	snprintf(activity, sizeof(activity), "testdb: removing database %u",
			 clone->oid);
	job_report(activity);
	job.garbage = clone->oid;
	(void) database_lock_was_refused();
	PG_TRY();
	{
		job_begin_work();

		/* Under the lock, as others write the lease only with one. */
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

		note_failure(clone, "could not remove database", edata);
	}
	PG_END_TRY();
	job.garbage = InvalidOid;
}

/*
 * Remove dead rows from the shared catalogs that workers write to; the number
 * of blocks that pg_database has.
 *
 * Every drop leaves one.  Autovacuum comes once a minute, or never.
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
		job_begin_work();
		exists = database_lookup(clones[i].oid, &info);
		job_commit_work();
		if (!exists)
		{
			lease_remove(clones[i].oid);
			registry_remove(clones[i].oid);
		}
	}
}

/*
 * Restore the clones that were returned.  If that fails, they are removed; if
 * it is only that some process does not answer, it is tried again later.
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
 * Make a spare ahead, or bring one up to date.  If that fails, no more are
 * made ahead for this owner until it asks for a clone again.
 */
void
job_refill(Oid template_oid, Oid owner)
{
	RequestArgs args;
	RequestResult result;
	DatabaseInfo info;
	volatile bool failed;
	int			ncoming;

	job_report("testdb: making databases ahead");
	memset(&args, 0, sizeof(args));
	memset(&result, 0, sizeof(result));
	args.kind = REQUEST_SPARE;
	args.role = owner;
	args.database = template_oid;
	args.lease = registry_lease(template_oid);
	args.method = TESTDB_METHOD_NATIVE;
	args.wanted = registry_count_spares(template_oid, owner, &ncoming) + 1;
	job.request = -1;
	job.clone = InvalidOid;
	PG_TRY();
	{
		job_begin_work();
		failed = !database_lookup(template_oid, &info);
		job_commit_work();
		if (!failed)
		{
			args.database_name = info.name;
			job.damaged = false;
			make_spare(&args, &result);
			if (result.busy && job.damaged)
			{
				/* Once more: the snapshot is taken anew. */
				result.busy = false;
				make_spare(&args, &result);
			}
			failed = result.busy || result.missing;
		}
	}
	PG_CATCH();
	{
		ErrorData  *edata = job_rollback_work();

		discard_others();
		if (OidIsValid(job.clone))
			(void) registry_set_state(job.clone, job.state, CLONE_GARBAGE);
		registry_note_error(template_oid, edata->message);
		if (registry_may_log_refill(template_oid, edata->sqlerrcode))
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

