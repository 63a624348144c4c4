/*-------------------------------------------------------------------------
 *
 * reset.c
 *	  Resetting clones: their template's content again, sessions terminated.
 *
 * A reset closes the clone's name (connect.c), makes it DROPPING, ends its
 * sessions, and restores it as restore.c says.  If that is interrupted, the
 * clone becomes REWINDING, and is left to worker 0.  A clone that cannot be
 * restored is replaced by another one, created as in steps 1 to 4 of clone.c:
 *
 *	step								if it fails here, there remains
 *	1  new one marked as invalid		a clone as before; the new one is garbage
 *	2  registry: DROPPING				the same
 *	3  lease of the new one: HELD		the same: it is invalid
 *	4  rows: names exchanged, the old	a clone with the new content; the old one,
 *	   one invalid, commit				which is invalid, is garbage
 *	5  registry: new one LEASED			the same
 *	6  the old one is dropped			a clone with the new content
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"

#include "buffers.h"
#include "compat.h"
#include "connect.h"
#include "dbcatalog.h"
#include "debug.h"
#include "drop.h"
#include "forget.h"
#include "job.h"
#include "job_internal.h"
#include "lease.h"
#include "recycle.h"
#include "restore.h"
#include "sessions.h"
#include "signals.h"
#include "snapshot.h"
#include "space.h"
#include "stats.h"
#include "templates.h"

/* How long to wait for clients that are connecting to a database, in ms. */
#define ARRIVAL_TIMEOUT		1000

/*
 * Restore a clone in place, as restore.c says.  It is DROPPING, and locked by
 * the current transaction, as is its template's snapshot.  Returns false on
 * failure: *lost is set if its content is lost, so that it stays DROPPING;
 * otherwise *result says that the template was changed.
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
	if (!forget_previous_uses(&clone->oid, 1, &message))
		registry_note_error(clone->template_oid, message);

	/* It may be a template itself, changed without a commit in it. */
	registry_template_changed(clone->oid);
	request_wake_workers();
	return true;
}

/*
 * Create the clone that will replace another one, as args say, and commit.
 * False if the template is in use, which is set in *result.
 *
 * It has a name of its own and is marked as invalid: no session can connect
 * to it, and after a crash it is removed, even if its lease is HELD.
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
 * Replace the clone old, which is DROPPING and locked by the current
 * transaction, by the clone new, created by make_replacement, which gets its
 * name, owner and terms.  One commit does that: a crash or an error before it
 * leaves the old one, after it the new one; both leases say HELD then, but
 * one is of a database that is marked as invalid.
 *
 * The rest of the old one is removed, now or later.
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

	/* What is committed must be entered, even if this process is terminated. */
	HOLD_INTERRUPTS();
	job_commit_work();
	debug_point("replace-committed");
	job.unrestored = false;
	registry_replace(old->oid, new);
	RESUME_INTERRUPTS();
	debug_point("replace-entered");
	if (!registry_is_stuck() && !database_is_full() &&
		registry_set_state(old->oid, CLONE_DROPPING, CLONE_REMOVING))
		job_collect_garbage(old);
	(void) registry_set_state(old->oid, CLONE_DROPPING, CLONE_GARBAGE);
	job.clone = InvalidOid;
	request_wake_workers();
}

/*
 * Restore a clone in place, if possible.  Its template can be cloned by the
 * native method, as again says.  Returns false on failure: *lost is set if
 * its content is lost, so that it stays DROPPING; *result tells whether it no
 * longer exists or the template is in use.
 */
static bool
reset_in_place(const RequestArgs *args, const RequestArgs *again, TestdbClone *clone,
			   bool *lost, RequestResult *result)
{
	TestdbTemplate template;
	DatabaseInfo info;

	if (registry_is_stuck() || !begin_native(again, false, &template, &info, result))
		return false;

	/* There is no way back after ending sessions and changing files. */
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
 * Make room for restoring a clone in place, as args say, and for the snapshot
 * if there is none; it is checked again when the clone is locked.
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
 * Restore a clone to its template's content.  *result tells if it no longer
 * exists, or the template is in use.
 *
 * If it cannot be restored, a new one with the same terms replaces it; if
 * that cannot be created, the old one is not changed.
 */
void
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
		release_owned_clones();
		return;
	}
	replace_clone(&clone, &new);
}
