/*-------------------------------------------------------------------------
 *
 * states.c
 *	  The states of a clone, and all changes of them.
 *
 * src/README lists the changes; the table below has the same, which
 * t/000_meta.pl compares.  A library with TESTDB_DEBUG, or a server with
 * assertions, PANICs on any other.
 *
 * In a transitional state a clone has one process as its owner, in other
 * states none.  A process that fails releases its clones by
 * registry_release_all(), and so does one that exits, in a before_shmem_exit
 * callback: each clone gets its fallback state, GARBAGE unless set otherwise.
 * After the crash of a process, shared memory is initialized again.
 *
 *	CREATING	Transitional.  Entered by the worker that creates the database,
 *				before anything of it exists, or by the process that takes a
 *				spare.
 *	LEASED		The database is complete and its lease is on disk; also entered at
 *				server start.  The worker that has handed it out remains its owner
 *				until the session for which it was created has the answer.
 *	DROPPING	Transitional: it is being dropped or reset.  LEASED again if that
 *				is refused; REWINDING, marked as unrestored, if a reset fails
 *				halfway.
 *	REWINDING	Transitional, unless it is marked as unrestored: then worker 0
 *				tries to restore it until that succeeds.
 *	RETURNED	It was dropped, and is to be recycled: its row in pg_database has
 *				its new name, and is marked as invalid.
 *	RESTORING	Transitional: it is being restored to become a spare.  Like those
 *				that are RETURNED, in the template's list of clones to come.
 *	SPARE		The database is equal to the snapshot's version.  In the
 *				template's list of spares.
 *	TOUCHED		Was a spare; a session has been in it, which may have changed it:
 *				a worker drops it, like a clone in use.
 *	GARBAGE		A worker will remove whatever exists of the database, then the
 *				entry.
 *	REMOVING	Transitional: a worker does so.  GARBAGE again if that fails, to
 *				be retried later.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "debug.h"
#include "registry_internal.h"
#include "request.h"
#include "signals.h"

/* Is release_at_exit registered? */
static bool exit_registered = false;

#if defined(TESTDB_DEBUG) || defined(USE_ASSERT_CHECKING)

/* A change of state, and the function that makes it. */
typedef struct StateEdge
{
	CloneState	from;			/* CLONE_NONE: the entry is created */
	CloneState	to;				/* CLONE_NONE: the entry is removed */
	const char *by;
} StateEdge;

static const StateEdge edges[] = {
	{CLONE_NONE, CLONE_CREATING, "begin_clone"},
	{CLONE_NONE, CLONE_CREATING, "restore_clone"},
	{CLONE_NONE, CLONE_LEASED, "restore_clone"},
	{CLONE_NONE, CLONE_REWINDING, "restore_clone"},
	{CLONE_CREATING, CLONE_LEASED, "hand_out"},
	{CLONE_CREATING, CLONE_LEASED, "take_spare"},
	{CLONE_CREATING, CLONE_LEASED, "registry_replace"},
	{CLONE_CREATING, CLONE_SPARE, "publish_spare"},
	{CLONE_CREATING, CLONE_SPARE, "charge_spare"},
	{CLONE_CREATING, CLONE_GARBAGE, "discard_clone"},
	{CLONE_CREATING, CLONE_GARBAGE, "take_spare"},
	{CLONE_CREATING, CLONE_GARBAGE, "restore_clone"},
	{CLONE_CREATING, CLONE_GARBAGE, "registry_release_all"},
	{CLONE_CREATING, CLONE_REMOVING, "copy_snapshot"},
	{CLONE_LEASED, CLONE_LEASED, "change_terms"},
	{CLONE_LEASED, CLONE_LEASED, "seal_template"},
	{CLONE_LEASED, CLONE_DROPPING, "claim_clone"},
	{CLONE_LEASED, CLONE_DROPPING, "registry_take_expired"},
	{CLONE_LEASED, CLONE_REWINDING, "enter"},
	{CLONE_LEASED, CLONE_GARBAGE, "return_result"},
	{CLONE_LEASED, CLONE_GARBAGE, "registry_release_all"},
	{CLONE_LEASED, CLONE_NONE, "take_clone_of"},
	{CLONE_LEASED, CLONE_NONE, "registry_let_go"},
	{CLONE_LEASED, CLONE_NONE, "job_forget_dropped"},
	{CLONE_DROPPING, CLONE_LEASED, "release_clone"},
	{CLONE_DROPPING, CLONE_LEASED, "give_back"},
	{CLONE_DROPPING, CLONE_LEASED, "registry_finish_reset"},
	{CLONE_DROPPING, CLONE_LEASED, "registry_release_all"},
	{CLONE_DROPPING, CLONE_REWINDING, "job_leave_unrestored"},
	{CLONE_DROPPING, CLONE_REWINDING, "registry_release_all"},
	{CLONE_DROPPING, CLONE_RETURNED, "registry_return"},
	{CLONE_DROPPING, CLONE_GARBAGE, "give_back"},
	{CLONE_DROPPING, CLONE_GARBAGE, "replace_clone"},
	{CLONE_DROPPING, CLONE_GARBAGE, "job_retire"},
	{CLONE_DROPPING, CLONE_GARBAGE, "forget_notes"},
	{CLONE_DROPPING, CLONE_GARBAGE, "registry_release_all"},
	{CLONE_DROPPING, CLONE_REMOVING, "replace_clone"},
	{CLONE_DROPPING, CLONE_NONE, "finish_removal"},
	{CLONE_REWINDING, CLONE_LEASED, "registry_finish_reset"},
	{CLONE_REWINDING, CLONE_LEASED, "let_go"},
	{CLONE_REWINDING, CLONE_LEASED, "registry_release_all"},
	{CLONE_REWINDING, CLONE_DROPPING, "claim_unrestored"},
	{CLONE_REWINDING, CLONE_GARBAGE, "lose"},
	{CLONE_RETURNED, CLONE_DROPPING, "registry_take_victim"},
	{CLONE_RETURNED, CLONE_DROPPING, "take_clone_of"},
	{CLONE_RETURNED, CLONE_DROPPING, "freshness_note_altered"},
	{CLONE_RETURNED, CLONE_RESTORING, "take_batch"},
	{CLONE_RETURNED, CLONE_GARBAGE, "take_batch"},
	{CLONE_RETURNED, CLONE_GARBAGE, "registry_forget_template"},
	{CLONE_RETURNED, CLONE_GARBAGE, "registry_set_uninstalled"},
	{CLONE_RESTORING, CLONE_LEASED, "hand_out"},
	{CLONE_RESTORING, CLONE_RETURNED, "put_back_others"},
	{CLONE_RESTORING, CLONE_RETURNED, "recycle_postpone"},
	{CLONE_RESTORING, CLONE_SPARE, "recycle_publish"},
	{CLONE_RESTORING, CLONE_SPARE, "publish_spare"},
	{CLONE_RESTORING, CLONE_GARBAGE, "restore_returned"},
	{CLONE_RESTORING, CLONE_GARBAGE, "recycle_returned"},
	{CLONE_RESTORING, CLONE_GARBAGE, "recycle_forget"},
	{CLONE_RESTORING, CLONE_GARBAGE, "use_spare"},
	{CLONE_RESTORING, CLONE_GARBAGE, "make_spare"},
	{CLONE_RESTORING, CLONE_GARBAGE, "registry_release_all"},
	{CLONE_SPARE, CLONE_CREATING, "registry_take_spare"},
	{CLONE_SPARE, CLONE_DROPPING, "registry_take_victim"},
	{CLONE_SPARE, CLONE_DROPPING, "take_clone_of"},
	{CLONE_SPARE, CLONE_DROPPING, "freshness_note_altered"},
	{CLONE_SPARE, CLONE_RESTORING, "registry_take_stale_spare"},
	{CLONE_SPARE, CLONE_TOUCHED, "check_not_spare"},
	{CLONE_SPARE, CLONE_TOUCHED, "freshness_xact_callback"},
	{CLONE_SPARE, CLONE_GARBAGE, "discard_spares"},
	{CLONE_SPARE, CLONE_GARBAGE, "registry_lower_demand"},
	{CLONE_SPARE, CLONE_GARBAGE, "registry_purge_role"},
	{CLONE_SPARE, CLONE_GARBAGE, "registry_set_uninstalled"},
	{CLONE_SPARE, CLONE_NONE, "job_forget_dropped"},
	{CLONE_TOUCHED, CLONE_DROPPING, "registry_take_touched"},
	{CLONE_GARBAGE, CLONE_REMOVING, "registry_take_garbage"},
	{CLONE_REMOVING, CLONE_GARBAGE, "job_collect_garbage"},
	{CLONE_REMOVING, CLONE_GARBAGE, "registry_release_all"},
	{CLONE_REMOVING, CLONE_NONE, "finish_removal"}
};

/*
 * PANIC if a function may not make this change of state, or if the clone is
 * owned by another process.
 */
static void
check_edge(const CloneEntry *entry, CloneState from, CloneState to, const char *by)
{
	Oid			oid = entry->clone.oid;

	if (from != CLONE_NONE && from != CLONE_LEASED && entry->owner_pid != 0 &&
		entry->owner_pid != MyProcPid)
		elog(PANIC, "database %u is in state \"%s\" in the hands of process %d, not of %s()",
			 oid, clone_state_name(from), entry->owner_pid, by);
	for (Size i = 0; i < lengthof(edges); i++)
		if (edges[i].from == from && edges[i].to == to &&
			strcmp(edges[i].by, by) == 0)
			return;
	elog(PANIC, "database %u cannot go from state \"%s\" to \"%s\" by %s()",
		 oid, clone_state_name(from), clone_state_name(to), by);
}

#else
#define check_edge(entry, from, to, by)	((void) (by))
#endif

/*
 * Return the name of a state, as shown in testdb_clones.
 */
const char *
clone_state_name(CloneState state)
{
	static const char *const names[] = {
		[CLONE_CREATING] = "creating",
		[CLONE_LEASED] = "leased",
		[CLONE_DROPPING] = "dropping",
		[CLONE_REWINDING] = "rewinding",
		[CLONE_RETURNED] = "returned",
		[CLONE_RESTORING] = "restoring",
		[CLONE_SPARE] = "spare",
		[CLONE_TOUCHED] = "touched",
		[CLONE_GARBAGE] = "garbage",
		[CLONE_REMOVING] = "removing",
		[CLONE_NONE] = "none"
	};

	return names[state];
}

/*
 * before_shmem_exit callback of each process that has owned a clone.
 */
static void
release_at_exit(int code pg_attribute_unused(), Datum arg pg_attribute_unused())
{
	if (registry_release_all() > 0)
		request_wake_workers();
}

/*
 * Report whether a clone is in a transitional state, in which it must have an
 * owner.  The mutex must be held.
 */
bool
clone_is_passing(const CloneEntry *entry)
{
	switch (entry->clone.state)
	{
		case CLONE_CREATING:
		case CLONE_DROPPING:
		case CLONE_RESTORING:
		case CLONE_REMOVING:
			return true;
		case CLONE_REWINDING:
			return !entry->clone.unrestored;
		default:
			return false;
	}
}

/*
 * Report whether clones in this state are in a list of their template's.
 */
static bool
is_listed(CloneState state)
{
	return state == CLONE_SPARE || state == CLONE_RETURNED ||
		state == CLONE_RESTORING;
}

/*
 * Update what depends on an entry's state, before it is changed: counters and
 * the template's lists.  The mutex, or the registry lock, must be held
 * exclusively.
 */
static void
leave_state(CloneEntry *entry)
{
	TemplateEntry *template = clone_template(entry);

	template->template.nclones[entry->clone.state]--;
	if (entry->clone.state == CLONE_GARBAGE)
		pg_atomic_fetch_sub_u32(&registry->ngarbage, 1);
	else if (entry->clone.state == CLONE_RETURNED)
	{
		pg_atomic_fetch_sub_u32(&registry->nreturned, 1);
		if (template->template.nclones[CLONE_RETURNED] == 0)
			template->look = LOOK_WHEN_WOKEN;
	}
	else if (entry->clone.state == CLONE_TOUCHED)
		pg_atomic_fetch_sub_u32(&registry->ntouched, 1);
	if (is_listed(entry->clone.state))
		dlist_delete(&entry->node);
}

/*
 * Set an entry's state, and update what depends on it: counters, the
 * template's lists, the owner, which is this process in a transitional state,
 * the fallback and the payer.  Locks as for leave_state.
 */
static void
enter_state(CloneEntry *entry, CloneState state)
{
	TemplateEntry *template = clone_template(entry);

	/*
	 * After testdb_uninstall(), or DROP DATABASE of the template, no spares
	 * are kept.
	 */
	if ((state == CLONE_SPARE || state == CLONE_RETURNED) &&
		(registry_is_uninstalled() || template->template.dropped))
		state = CLONE_GARBAGE;
	entry->clone.state = state;
	entry->owner_pid = clone_is_passing(entry) ? MyProcPid : 0;
	entry->fallback = state == CLONE_REWINDING ? CLONE_LEASED : CLONE_GARBAGE;
	Assert(entry->owner_pid == 0 || exit_registered);
	template->template.nclones[state]++;
	if (state == CLONE_CREATING || state == CLONE_RETURNED || state == CLONE_SPARE)
		entry->failures = 0;	/* created or recycled */
	if (state == CLONE_LEASED && entry->clone.terms.database)
		entry->payer = InvalidOid;
	else if (state == CLONE_LEASED && !OidIsValid(entry->payer))
		entry->payer = entry->clone.owner;
	else if (state != CLONE_LEASED && state != CLONE_DROPPING &&
			 state != CLONE_REWINDING)
		entry->payer = InvalidOid;
	if (state == CLONE_LEASED &&
		template->template.nclones[state] >= template->template.peak)
	{
		template->template.peak = template->template.nclones[state];
		template->peak_at = entry->clone.used_at;
	}
	if (state == CLONE_GARBAGE)
		pg_atomic_fetch_add_u32(&registry->ngarbage, 1);
	else if (state == CLONE_RETURNED)
	{
		pg_atomic_fetch_add_u32(&registry->nreturned, 1);
		if (template->template.nclones[state] == 1)
			template->returned_at = GetCurrentTimestamp();
	}
	else if (state == CLONE_TOUCHED)
		pg_atomic_fetch_add_u32(&registry->ntouched, 1);
	if (is_listed(state))
		dlist_push_head(state == CLONE_SPARE ? &template->spares : &template->coming,
						&entry->node);
}

/*
 * Change an entry's state; no other function does that.  by is the name of the
 * calling function, for check_edge.  The mutex must be held exclusively.
 */
void
clone_set_state_as(CloneEntry *entry, CloneState state, const char *by)
{
	if (debug_planted("illegal-state"))
		state = CLONE_TOUCHED;
	if (debug_planted("illegal-function"))
		by = "debug_planted";
	check_edge(entry, entry->clone.state, state, by);
	if (state == entry->clone.state)
		return;					/* only its terms were changed */
	leave_state(entry);
	enter_state(entry, state);
}

/*
 * Set the first state of a new entry.  The registry lock must be held
 * exclusively.
 */
void
clone_begin_state(CloneEntry *entry, CloneState state, const char *by)
{
	check_edge(entry, CLONE_NONE, state, by);
	enter_state(entry, state);
}

/*
 * Update what depends on the state of an entry that is about to be removed.
 * The registry lock must be held exclusively.
 */
void
clone_end_state(CloneEntry *entry, const char *by)
{
	check_edge(entry, entry->clone.state, CLONE_NONE, by);
	leave_state(entry);
}

/*
 * Record whether a clone's content is partly restored; one that is REWINDING
 * has no owner then.  The mutex must be held exclusively.
 */
void
clone_set_unrestored(CloneEntry *entry, bool unrestored)
{
	if (entry->clone.unrestored != unrestored)
		pg_atomic_fetch_add_u32(&registry->nunrestored, unrestored ? 1 : -1);
	entry->clone.unrestored = unrestored;
	if (unrestored && entry->clone.state == CLONE_REWINDING)
		entry->owner_pid = 0;
}

/*
 * Ensure that the clones owned by this process are released when it exits;
 * must be called before it becomes the owner of any.  A worker calls this
 * before it registers its own exit callback, which therefore runs first.
 */
void
registry_prepare_to_own(void)
{
	if (!exit_registered)
		before_shmem_exit(release_at_exit, (Datum) 0);
	exit_registered = true;
}

/*
 * Make this process the owner of a clone that is LEASED, until
 * registry_disown: its user does not know about it yet.  Nothing happens if
 * it has no entry, another state or an owner.  Acquires and releases the
 * registry lock and a mutex.
 */
void
registry_hold(Oid oid)
{
	CloneEntry *entry;

	entry = clone_acquire(oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		if (entry->owner_pid == 0 && entry->clone.state == CLONE_LEASED)
			entry->owner_pid = MyProcPid;
		clone_release(entry);
	}
}

/*
 * End the ownership of a clone that is LEASED.  Nothing happens if this
 * process is not its owner.  Acquires and releases the registry lock and a
 * mutex.
 */
void
registry_disown(Oid oid)
{
	CloneEntry *entry;

	entry = clone_acquire(oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		if (entry->owner_pid == MyProcPid && entry->clone.state == CLONE_LEASED)
			entry->owner_pid = 0;
		clone_release(entry);
	}
}

/*
 * Report whether this process is the owner of a clone that is in this state.
 * Acquires and releases the registry lock and a mutex.
 */
bool
registry_owns(Oid oid, CloneState state)
{
	CloneEntry *entry;
	bool		result = false;

	entry = clone_acquire(oid, LW_SHARED);
	if (entry != NULL)
	{
		result = entry->owner_pid == MyProcPid && entry->clone.state == state;
		clone_release(entry);
	}

	return result;
}

/*
 * Set the state that a clone will get if this process, its owner, releases
 * it.  Nothing happens if it is not the owner.  Acquires and releases the
 * registry lock and a mutex.
 */
void
registry_set_fallback(Oid oid, CloneState state)
{
	CloneEntry *entry;

	entry = clone_acquire(oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		if (entry->owner_pid == MyProcPid)
			entry->fallback = state;
		clone_release(entry);
	}
}

/*
 * Report whether a clone's files are those of a restore that has not finished:
 * it is to be repeated, or its worker has ended just now, or is at work.
 * Acquires and releases the registry lock and a mutex.
 */
bool
registry_is_torn(Oid oid)
{
	CloneEntry *entry = clone_acquire(oid, LW_SHARED);
	bool		torn;

	if (entry == NULL)
		return false;
	torn = entry->clone.state == CLONE_REWINDING || entry->clone.unrestored ||
		(entry->clone.state == CLONE_DROPPING && entry->fallback == CLONE_REWINDING);
	clone_release(entry);
	return torn;
}

/*
 * Release all clones owned by this process; returns their number.  Acquires
 * and releases the registry lock and mutexes.
 */
int
registry_release_all(void)
{
	CloneScan	scan;
	CloneEntry *entry;
	int			n = 0;

	clone_scan_begin(&scan, LW_EXCLUSIVE);
	while ((entry = clone_scan_next(&scan)) != NULL)
	{
		if (entry->owner_pid != MyProcPid)
			continue;
		if (entry->fallback == CLONE_REWINDING)
			clone_set_unrestored(entry, true);
		clone_set_state(entry, entry->fallback);
		n++;
	}
	clone_scan_end(&scan);
	if (n > 0)
		registry_announce_room();

	return n;
}
