/*-------------------------------------------------------------------------
 *
 * clone.c
 *	  Creating clones and spares, and handing them out.
 *
 * A clone is recorded before it exists, and the records have its state
 * (lease.c on disk, registry.c in memory):
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
 * After a server crash worker 0 finds the lease, and removes what exists of
 * the database if step 5 was not reached.  With the native method step 1 is
 * that of snapshot.c, and step 4 inserts a row and copies the snapshot.  For
 * a spare, steps 5 to 7 are replaced by the lease UNWANTED and the state
 * SPARE.
 *
 * Before step 1 other roles' spares are given up if there is no room.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "mb/pg_wchar.h"
#include "utils/timestamp.h"

#include "buffers.h"
#include "budget.h"
#include "compat.h"
#include "dbcatalog.h"
#include "debug.h"
#include "drop.h"
#include "expiry.h"
#include "job.h"
#include "job_internal.h"
#include "lease.h"
#include "quota.h"
#include "recycle.h"
#include "signals.h"
#include "snapshot.h"
#include "space.h"
#include "spare_row.h"
#include "spares.h"
#include "stats.h"
#include "templates.h"
#include "victims.h"
#include "walcopy.h"

/* How long to wait for room that other processes are about to make, in ms. */
#define ROOM_WAIT			5000

/*
 * How often to check meanwhile for events that are not announced, in ms: a
 * process answers barriers again, or a removal is due to be retried.
 */
#define ROOM_CHECK			500

/* Size of the suffix of a generated name: an underscore and a serial. */
#define NAME_SUFFIX_SIZE	16

/*
 * Generate a name for a clone of the template with this name, which no other
 * call returns, in *name.
 */
void
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
 * Check that the role has the privileges to clone the database, and get the
 * template's name and owner in *template.  Done by get_template in
 * functions.c already, but without the locks.
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
 * Get the name for a clone: the requested one, or a generated one.
 *
 * Errors: 42P04 if it is in use.
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
 * Enter a clone that is about to be created: steps 2 and 3 above.
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

	job.entering = true;
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
	budget_release();
	job.entering = false;
	if (args->kind != REQUEST_RESET)
		job.clone = clone->oid;

	/*
	 * Only one worker was woken to create spares: are more missing?  What is
	 * missing from now on, this one sees when it is done.
	 */
	if (clone->ahead)
	{
		if (registry_lacks_spares())
			request_wake_worker();
		registry_announce_look();
	}
	debug_point("clone-entered");
	lease_write(clone, LEASE_CREATING);
	debug_point("clone-recorded");
}

/*
 * Count a clone that was handed out without a ready spare.
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
 * testdb.max_templates is reached, or if a copy of this many bytes and files
 * would not leave enough space: spares are given up, but not the role's own
 * of this template if uses_spares is set.  Called outside of a transaction;
 * returns outside of one.  If that does not help, the caller will fail with
 * the proper error.
 */
void
make_room(const RequestArgs *args, bool uses_spares, uint64 bytes, uint64 files)
{
	TestdbClone victim;
	long		left_ms = ROOM_WAIT;
	bool		coming;
	bool		has_spare = false;

	while (args->kind != REQUEST_RESET && registry_let_go(&victim.oid))
		lease_remove(victim.oid);

	/* On a full file system the checkpoint of a drop would be a PANIC. */
	while (!database_is_full())
	{
		uint32		changes = registry_room_changes();
		bool		found;

		found = registry_take_template_victim(args->database, &victim, &coming);
		if (found && victim.state == CLONE_LEASED)
		{
			lease_remove(victim.oid);
			continue;
		}
		has_spare = !found && !coming && uses_spares &&
			registry_count_spares(args->database, args->role, false) > 0;
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
			TimestampTz start = GetCurrentTimestamp();

			if (!coming || left_ms <= 0)
				break;
			(void) registry_await_room(changes, Min(left_ms, ROOM_CHECK));
			left_ms -= Max(1, TimestampDifferenceMilliseconds(start,
															  GetCurrentTimestamp()));
			continue;
		}
		job_begin_work();
		(void) database_drop(victim.oid);
		finish_removal(victim.oid);
	}
	job.had_room = has_spare || !registry_is_full();
}

/*
 * Hand out a clone, which is complete and committed: steps 5 and 6 above.
 * from is its state so far.
 *
 * Errors: 53400 if the role's limit is reached; 3D000 if the clone was
 * dropped concurrently.
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
		/* To look up the role's name. */
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

	/* Its user does not know about it yet. */
	registry_hold(clone->oid);
	debug_point("clone-leased");
	result->oid = clone->oid;
	result->lease = clone->lease;
	result->name = clone->name;
}

/*
 * Create a clone through core's CREATE DATABASE, and commit: steps 1 to 4
 * above.  False if the template is in use, as recorded in *result.  Called
 * outside of a transaction; returns outside of one.
 *
 * Errors: 3D000 if the template no longer exists; 42501; 42P04; 53100, 53400;
 * those of CREATE DATABASE.
 */
bool
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

	/* Every page is written to WAL, too. */
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

	/* A reset only requires the privileges on the clone. */
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
 * Create a clone in the same way, and hand it out.
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
 * Raise the error, 3D000, that the template of the clone with this name no
 * longer exists.
 */
void
report_template_gone(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_DATABASE),
			 errmsg("template of database \"%s\" does not exist", name),
			 errdetail("It has been dropped in the meantime.")));
}

/*
 * Raise the error, 55000, that the row of a spare was changed.
 */
static void
report_spare_changed(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("database \"%s\" was changed before it was handed out", name),
			 errhint("Call the function again to get another database.")));
}

/*
 * Hand out a spare that has been taken from the registry, under the requested
 * name, if any.  state is its state in the registry.  Commits the transaction.
 */
static void
hand_out_spare(const RequestArgs *args, TestdbClone *clone, CloneState state,
			   RequestResult *result)
{
	TemplateRow row;

	job.clone = clone->oid;
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
			 spare_open(clone, row.clone_limit, true))
		debug_point("spare-opened");
	else
		report_spare_changed(NameStr(clone->name));
	job_commit_work();
	hand_out(args, clone, state, result);
}

/*
 * Report whether a template's snapshot, which is locked, is known to be
 * damaged.  If that was found out after *template was read, record that the
 * job should be retried.
 */
bool
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
 * Ensure that clones can be copied from a template's snapshot, which is
 * locked: false if it is damaged, or if snapshot_lock_source fails.
 */
bool
lock_source(const TestdbTemplate *template)
{
	return !is_damaged(template) && snapshot_lock_source(template);
}

/*
 * Hand out a spare of a template whose snapshot is locked, if there is one;
 * one that is behind the snapshot is updated first.  True if one was handed
 * out, with the transaction committed.
 */
static bool
use_spare(const RequestArgs *args, const TestdbTemplate *template,
		  RequestResult *result)
{
	TestdbClone clone;
	SpareWish	wish = {
		.template_oid = args->database,
		.owner = args->role,
		.row = template->row,
		.row_is_known = true,
		.ignore_unverified = true,
		.waiting = true,
		.terms = &args->terms
	};
	SpareRefill refill;			/* this worker looks anyway */

	registry_check_share_with_spare(args->database, args->role);
	if (registry_take_spare(&wish, &clone, &refill) == SPARE_TAKEN)
	{
		hand_out_spare(args, &clone, CLONE_CREATING, result);
		return true;
	}
	/* For other requests the session has done that, in find_spare. */
	if (args->name_given)
		registry_note_miss(args->database, args->role);
	while (lock_source(template) &&
		   registry_take_stale_spare(args->database, args->role, &clone))
	{
		job.clone = clone.oid;
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
 * Report whether a template has an undamaged snapshot, or needs no copy as
 * its snapshot.  Called outside of a transaction.
 */
static bool
has_source(Oid oid)
{
	TestdbTemplate template;
	TemplateRow row;
	bool		closed;

	if (registry_template(oid, &template) && template.has_snapshot &&
		!template.in_place)
		return !template.damaged;
	job_begin_work();
	closed = database_read_row(oid, &row) && row.closed;
	job_commit_work();
	return closed;
}

/*
 * Make room for a clone by the native method: for two copies if the snapshot
 * must be taken, too.  Called outside of a transaction.
 */
void
make_native_room(const RequestArgs *args)
{
	uint64		bytes;
	uint64		files;
	int			copies = has_source(args->database) ? 1 : 2;

	snapshot_measure(args->database, &bytes, &files);
	make_room(args, true, copies * bytes, copies * files);
}

/*
 * Begin a transaction in which a template can be cloned by the native method:
 * its snapshot is up to date and locked.  With check_rights, the privileges
 * of the requesting role are checked, and *info is set.
 *
 * On failure, returns false, with no transaction open: result->busy is true
 * if the template is in use, false if the native method cannot be used.
 *
 * Errors: those of snapshot_ensure; 42501.
 */
bool
begin_native(const RequestArgs *args, bool check_rights, TestdbTemplate *template,
			 DatabaseInfo *info, RequestResult *result)
{
	SnapshotStatus status;

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
			database_keeps_horizons(args->database, &template->row))
			return true;
	}

	/* If it has just changed, the caller will try again. */
	result->busy = status != SNAPSHOT_IMPOSSIBLE;
	result->oid = InvalidOid;
	job_commit_work();
	return false;
}

/*
 * Make a clone that is CREATING GARBAGE.
 */
static void
discard_clone(Oid oid)
{
	(void) registry_set_state(oid, CLONE_CREATING, CLONE_GARBAGE);
	request_wake_workers();
	if (job.clone == oid)
		job.clone = InvalidOid;
}

/*
 * Roll back the creation of a clone, which becomes GARBAGE.
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
 * Create a clone from the snapshot, and commit.  Called in the transaction of
 * begin_native; returns outside of one.
 *
 * False, with nothing done, if lock_source fails; false, with a GARBAGE clone
 * left behind, if the snapshot is found to be damaged, the template's
 * dependencies have changed, or a WAL consumer appeared meanwhile.
 *
 * Errors: 3D000, 55000 for the template; 42P04; 53100, 53400; those of the
 * file system.
 */
bool
copy_snapshot(const RequestArgs *args, const TestdbTemplate *template,
			  const DatabaseInfo *info, TestdbClone *clone)
{
	TimestampTz start = GetCurrentTimestamp();
	bool		consumed = false;

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
		consumed = database_has_wal_consumer();
	}
	job_commit_work();
	if (consumed)
	{
		/* The next attempt may use the same name. */
		if (!registry_is_stuck() && !database_is_full() &&
			registry_set_state(clone->oid, CLONE_CREATING, CLONE_REMOVING))
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
 * Create a clone by the native method: hand out a spare, or copy the
 * snapshot.  False if the template cannot be cloned by this method; else
 * *result has the clone, or is busy.
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
 * Make a clone, which is complete and committed, a SPARE. from is its state
 * so far.
 */
static void
publish_spare(TestdbClone *clone, CloneState from)
{
	clone->state = CLONE_SPARE;
	(void) registry_update(clone, from);
	job.clone = InvalidOid;
	registry_announce_spare(clone->template_oid);
	registry_note_created();
}

/*
 * Create or update a spare for a role whose demand is not met.  *result has
 * the spare if one was created, or tells if the template is in use (busy), or
 * if none can be created (missing).
 * Called outside of a transaction; returns outside of one.
 *
 * Errors: those of begin_native and copy_snapshot.
 */
void
make_spare(const RequestArgs *args, RequestResult *result)
{
	TestdbTemplate template;
	TestdbClone clone;
	DatabaseInfo info;

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
		if (recycle_update_spare(&clone, &template))
		{
			job_commit_work();
			publish_spare(&clone, CLONE_RESTORING);
		}
		else
		{
			/*
			 * The snapshot is damaged, or a WAL consumer has appeared: the
			 * spare cannot be used.
			 */
			(void) is_damaged(&template);
			job_commit_work();
			(void) registry_set_state(clone.oid, CLONE_RESTORING, CLONE_GARBAGE);
			job.clone = InvalidOid;
			request_wake_workers();
			result->busy = true;
		}
	}
	else if (registry_count_spares(args->database, args->role, false) >= args->wanted)
		job_commit_work();
	else if (copy_snapshot(args, &template, &info, &clone))
	{
		debug_point("spare-complete");
		lease_write(&clone, LEASE_UNWANTED);
		debug_point("spare-unwanted");
		publish_spare(&clone, CLONE_CREATING);
		result->oid = clone.oid;
	}
	else
		result->busy = true;
}

/*
 * Create a clone by the requested method, or the nearest one that is
 * possible, and hand it out.  *result has the clone, or tells that the
 * template is in use (busy), or, for a served request, that it cannot be
 * cloned by the native method (missing).  Called outside of a transaction;
 * returns outside of one.
 *
 * Errors: those of create_clone, begin_native, copy_snapshot and hand_out;
 * 55000 if a spare's row was changed.
 */
void
make_clone(const RequestArgs *args, RequestResult *result)
{
	if (args->method == TESTDB_METHOD_NATIVE && make_native_clone(args, result))
		return;
	if (args->served)
		result->missing = true;
	else
		make_core_clone(args, result);
}
