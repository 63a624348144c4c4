/*-------------------------------------------------------------------------
 *
 * states.c
 *	  The states of a clone, and all changes of them.
 *
 * src/README draws the changes; the table below has the same, which
 * t/000_meta.pl compares, and a library with TESTDB_DEBUG, or a server with
 * assertions, ends where another one is made.
 *
 *	CREATING	Set by the worker that makes the database, before anything of
 *				it exists, or by who takes a spare.  If that process fails or
 *				dies, it or its exit callback changes the state to GARBAGE.
 *	LEASED		Set by the same process when the database is complete and its
 *				lease is on disk; found so at server start.
 *	DROPPING	Set by the worker that drops or resets it, so that no other
 *				does.  LEASED again if that is refused, and REWINDING, marked as
 *				unrestored, if a reset fails in the middle.
 *	RETURNED	Set by the worker that dropped it: the row in pg_database has
 *				the name of the next life, and is marked invalid.
 *	RESTORING	Set by the worker that restores; its exit callback makes it
 *				GARBAGE.
 *	SPARE		Set by the same worker: the database equals the snapshot's
 *				version.  In the template's list of spares.
 *	TOUCHED		Set by a process that was refused in a spare: a worker takes it
 *				back, as if it had been dropped.
 *	GARBAGE		Some worker removes whatever there is of the database, then
 *				the entry.  Failing that, it tries again later.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "debug.h"
#include "registry_internal.h"
#include "signals.h"

#if defined(TESTDB_DEBUG) || defined(USE_ASSERT_CHECKING)

/* A change of state, and a function that makes it. */
typedef struct StateEdge
{
	CloneState	from;			/* CLONE_NONE: there is no entry yet */
	CloneState	to;				/* CLONE_NONE: there is none any more */
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
	{CLONE_CREATING, CLONE_SPARE, "take_spare"},
	{CLONE_CREATING, CLONE_GARBAGE, "discard_clone"},
	{CLONE_CREATING, CLONE_GARBAGE, "discard_others"},
	{CLONE_CREATING, CLONE_GARBAGE, "release_failed"},
	{CLONE_CREATING, CLONE_GARBAGE, "job_refill"},
	{CLONE_CREATING, CLONE_GARBAGE, "job_exit"},
	{CLONE_CREATING, CLONE_GARBAGE, "take_spare"},
	{CLONE_CREATING, CLONE_GARBAGE, "restore_clone"},
	{CLONE_CREATING, CLONE_NONE, "finish_removal"},
	{CLONE_LEASED, CLONE_LEASED, "change_terms"},
	{CLONE_LEASED, CLONE_LEASED, "seal_template"},
	{CLONE_LEASED, CLONE_DROPPING, "claim_clone"},
	{CLONE_LEASED, CLONE_DROPPING, "registry_take_expired"},
	{CLONE_LEASED, CLONE_REWINDING, "enter"},
	{CLONE_LEASED, CLONE_GARBAGE, "return_result"},
	{CLONE_LEASED, CLONE_GARBAGE, "release_failed"},
	{CLONE_LEASED, CLONE_GARBAGE, "job_exit"},
	{CLONE_LEASED, CLONE_NONE, "take_clone_of"},
	{CLONE_LEASED, CLONE_NONE, "registry_let_go"},
	{CLONE_LEASED, CLONE_NONE, "job_forget_dropped"},
	{CLONE_DROPPING, CLONE_LEASED, "release_clone"},
	{CLONE_DROPPING, CLONE_LEASED, "give_back"},
	{CLONE_DROPPING, CLONE_LEASED, "registry_finish_reset"},
	{CLONE_DROPPING, CLONE_LEASED, "job_exit"},
	{CLONE_DROPPING, CLONE_RETURNED, "registry_return"},
	{CLONE_DROPPING, CLONE_REWINDING, "job_leave_unrestored"},
	{CLONE_DROPPING, CLONE_GARBAGE, "give_back"},
	{CLONE_DROPPING, CLONE_GARBAGE, "replace_clone"},
	{CLONE_DROPPING, CLONE_GARBAGE, "job_retire"},
	{CLONE_DROPPING, CLONE_GARBAGE, "forget_notes"},
	{CLONE_DROPPING, CLONE_GARBAGE, "discard_others"},
	{CLONE_DROPPING, CLONE_GARBAGE, "release_failed"},
	{CLONE_DROPPING, CLONE_GARBAGE, "job_exit"},
	{CLONE_DROPPING, CLONE_NONE, "finish_removal"},
	{CLONE_REWINDING, CLONE_LEASED, "registry_finish_reset"},
	{CLONE_REWINDING, CLONE_LEASED, "let_go"},
	{CLONE_REWINDING, CLONE_DROPPING, "claim_unrestored"},
	{CLONE_REWINDING, CLONE_GARBAGE, "lose"},
	{CLONE_RETURNED, CLONE_RESTORING, "take_batch"},
	{CLONE_RETURNED, CLONE_DROPPING, "registry_take_victim"},
	{CLONE_RETURNED, CLONE_DROPPING, "take_clone_of"},
	{CLONE_RETURNED, CLONE_DROPPING, "freshness_note_altered"},
	{CLONE_RETURNED, CLONE_GARBAGE, "take_batch"},
	{CLONE_RETURNED, CLONE_GARBAGE, "registry_forget_template"},
	{CLONE_RETURNED, CLONE_GARBAGE, "registry_set_uninstalled"},
	{CLONE_RESTORING, CLONE_SPARE, "recycle_publish"},
	{CLONE_RESTORING, CLONE_SPARE, "publish_spare"},
	{CLONE_RESTORING, CLONE_LEASED, "hand_out"},
	{CLONE_RESTORING, CLONE_RETURNED, "put_back_others"},
	{CLONE_RESTORING, CLONE_RETURNED, "recycle_postpone"},
	{CLONE_RESTORING, CLONE_GARBAGE, "restore_returned"},
	{CLONE_RESTORING, CLONE_GARBAGE, "recycle_returned"},
	{CLONE_RESTORING, CLONE_GARBAGE, "recycle_forget"},
	{CLONE_RESTORING, CLONE_GARBAGE, "recycle_abandon"},
	{CLONE_RESTORING, CLONE_GARBAGE, "use_spare"},
	{CLONE_RESTORING, CLONE_GARBAGE, "make_spare"},
	{CLONE_RESTORING, CLONE_GARBAGE, "release_failed"},
	{CLONE_RESTORING, CLONE_GARBAGE, "job_refill"},
	{CLONE_RESTORING, CLONE_GARBAGE, "job_exit"},
	{CLONE_SPARE, CLONE_CREATING, "registry_take_spare"},
	{CLONE_SPARE, CLONE_RESTORING, "registry_take_stale_spare"},
	{CLONE_SPARE, CLONE_TOUCHED, "check_not_spare"},
	{CLONE_SPARE, CLONE_TOUCHED, "freshness_xact_callback"},
	{CLONE_SPARE, CLONE_DROPPING, "registry_take_victim"},
	{CLONE_SPARE, CLONE_DROPPING, "take_clone_of"},
	{CLONE_SPARE, CLONE_DROPPING, "freshness_note_altered"},
	{CLONE_SPARE, CLONE_GARBAGE, "discard_spares"},
	{CLONE_SPARE, CLONE_GARBAGE, "registry_lower_demand"},
	{CLONE_SPARE, CLONE_GARBAGE, "registry_purge_role"},
	{CLONE_SPARE, CLONE_GARBAGE, "registry_set_uninstalled"},
	{CLONE_SPARE, CLONE_NONE, "job_forget_dropped"},
	{CLONE_TOUCHED, CLONE_DROPPING, "registry_take_touched"},
	{CLONE_GARBAGE, CLONE_NONE, "finish_removal"}
};

/*
 * End the server if a function does not make this change of state.
 */
static void
check_edge(Oid oid, CloneState from, CloneState to, const char *by)
{
	for (Size i = 0; i < lengthof(edges); i++)
		if (edges[i].from == from && edges[i].to == to &&
			strcmp(edges[i].by, by) == 0)
			return;
	elog(PANIC, "database %u cannot go from state \"%s\" to \"%s\" by %s()",
		 oid, clone_state_name(from), clone_state_name(to), by);
}

#else
#define check_edge(oid, from, to, by)	((void) (by))
#endif

/*
 * The state of a clone, in a word.
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
		[CLONE_NONE] = "none"
	};

	return names[state];
}

/*
 * Take an entry out of, or put it into, what depends on its state: counters
 * and the list of spares.  The template's mutex, or the registry lock, is held
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
	else if (entry->clone.state == CLONE_SPARE)
		dlist_delete(&entry->node);
}

static void
enter_state(CloneEntry *entry, CloneState state)
{
	TemplateEntry *template = clone_template(entry);

	/* What was begun before testdb_uninstall(), or DROP DATABASE, is of no use. */
	if ((state == CLONE_SPARE || state == CLONE_RETURNED) &&
		(registry_is_uninstalled() || template->template.dropped))
		state = CLONE_GARBAGE;
	entry->clone.state = state;
	template->template.nclones[state]++;
	if (state == CLONE_CREATING || state == CLONE_RETURNED || state == CLONE_SPARE)
		entry->failures = 0;	/* another life */
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
	else if (state == CLONE_SPARE)
		dlist_push_head(&template->spares, &entry->node);
}

/*
 * Give an entry another state: the only way to do so.  by is the function that
 * does.  The template's mutex is held exclusively.
 */
void
clone_set_state_as(CloneEntry *entry, CloneState state, const char *by)
{
	if (debug_planted("illegal-state"))
		state = CLONE_TOUCHED;
	if (debug_planted("illegal-function"))
		by = "debug_planted";
	check_edge(entry->clone.oid, entry->clone.state, state, by);
	if (state == entry->clone.state)
		return;					/* it has got other terms */
	leave_state(entry);
	enter_state(entry, state);
}

/*
 * The first state of an entry that is new, and the end of one that is about to be
 * removed.  The registry lock is held exclusively.
 */
void
clone_begin_state(CloneEntry *entry, CloneState state, const char *by)
{
	check_edge(entry->clone.oid, CLONE_NONE, state, by);
	enter_state(entry, state);
}

void
clone_end_state(CloneEntry *entry, const char *by)
{
	check_edge(entry->clone.oid, entry->clone.state, CLONE_NONE, by);
	leave_state(entry);
}
