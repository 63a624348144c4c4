/*-------------------------------------------------------------------------
 *
 * spares.c
 *	  The number of clones kept ready, and the sessions that wait for them.
 *
 * Demand.  For each template, the demands of up to MAX_DEMANDS owners are
 * tracked: the number of spares that each should have.  A miss raises it,
 * idleness lowers it.  Returned clones count as spares on their way.  If
 * there is no room, spares are given up: see victims.c.
 *
 * No spare is created in the last eighth of testdb.max_clones, since one that
 * is CREATING cannot be given up for a clone.  Errors in creating spares are
 * logged once per template and REFILL_LOG_INTERVAL if they have the same
 * SQLSTATE.
 *
 * Locks: the registry lock, then a template's mutex, as described in
 * registry.c.  A session that waits for a spare sleeps without them.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "expiry.h"
#include "guc.h"
#include "registry_internal.h"
#include "signals.h"
#include "spares.h"
#include "templates.h"

/*
 * For how long returned clones may accumulate, in ms, while there are spares,
 * and if there are none or a session waits.
 */
#define GATHER_TIME			20

#define GATHER_TIME_URGENT	3

/*
 * How long a worker that was woken, or that announced to look for missing
 * spares without being woken, has to do so, in ms.
 */
#define REFILL_PATIENCE		100

/*
 * For how long a worker that has created a spare looks for missing ones
 * without being woken, and how often, in ms: others may be requested, and
 * waking a worker is a fifth of what handing out a spare takes.
 */
#define STANDBY_TIME		1000
#define STANDBY_PAUSE		10

/*
 * Time without a request, in ms, after which an owner's demand is halved, and
 * so is the high-water mark of clones in use.
 */
#define IDLE_TIME			(60 * 1000)

/* Interval at which the same failure to create a spare is logged, in ms. */
#define REFILL_LOG_INTERVAL	(600 * 1000)

/* When this worker last created a spare; 0 if not within STANDBY_TIME. */
static TimestampTz spare_created_at = 0;

/*
 * Report whether there is a clone to be restored.  Takes no lock.
 */
bool
registry_has_returned(void)
{
	return pg_atomic_read_u32(&registry->nreturned) > 0;
}

/*
 * Report whether there is a spare with this name.  Acquires and releases the
 * registry lock and mutexes.
 */
bool
registry_is_spare(const char *name)
{
	TemplateScan scan;
	TemplateEntry *template;
	bool		found = false;

	template_scan_begin(&scan, LW_SHARED);
	while (!found && (template = template_scan_next(&scan)) != NULL)
	{
		dlist_iter	iter;

		dlist_foreach(iter, &template->spares)
		{
			CloneEntry *entry = dlist_container(CloneEntry, node, iter.cur);

			if (strcmp(NameStr(entry->clone.name), name) == 0)
				found = true;
		}
	}
	template_scan_end(&scan);

	return found;
}

/*
 * Find a clone that is TOUCHED, make it DROPPING and copy its entry to
 * *clone; false if there is none.  Acquires and releases the registry lock
 * and mutexes.
 */
bool
registry_take_touched(TestdbClone *clone)
{
	CloneScan	scan;
	CloneEntry *entry;
	bool		found = false;

	if (pg_atomic_read_u32(&registry->ntouched) == 0)
		return false;

	clone_scan_begin(&scan, LW_EXCLUSIVE);
	while (!found && (entry = clone_scan_next(&scan)) != NULL)
		if (entry->clone.state == CLONE_TOUCHED)
		{
			clone_set_state(entry, CLONE_DROPPING);
			*clone = entry->clone;
			found = true;
		}
	clone_scan_end(&scan);

	return found;
}

/*
 * Return the number of an owner's spares that are equal to the snapshot, or
 * most if there are more.  The mutex must be held.
 */
static int
count_spares_to(TemplateEntry *entry, Oid owner, int most)
{
	dlist_iter	iter;
	int			n = 0;

	dlist_foreach(iter, &entry->spares)
	{
		CloneEntry *spare = dlist_container(CloneEntry, node, iter.cur);

		if (n >= most)
			break;
		if (spare->clone.owner == owner &&
			!(registry_behind(&entry->template, NULL, &spare->clone) & BEHIND_CLONE))
			n++;
	}
	return n;
}

/*
 * Return the number of an owner's spares that are equal to the snapshot.  The
 * mutex must be held.
 */
static int
count_spares(TemplateEntry *entry, Oid owner)
{
	return count_spares_to(entry, owner, INT_MAX);
}

/*
 * Return the number of clones, of all owners, that are to be restored as
 * spares.  The mutex must be held.
 */
static int
count_all_coming(const TemplateEntry *entry)
{
	return entry->template.nclones[CLONE_RETURNED] +
		entry->template.nclones[CLONE_RESTORING];
}

/*
 * Return the number of an owner's clones that are to be restored as spares,
 * or most if there are more.  The mutex must be held.
 */
static int
count_coming_to(TemplateEntry *entry, Oid owner, int most)
{
	dlist_iter	iter;
	int			n = 0;

	dlist_foreach(iter, &entry->coming)
	{
		if (n >= most)
			break;
		n += dlist_container(CloneEntry, node, iter.cur)->clone.owner == owner;
	}
	return n;
}

/*
 * Return the number of an owner's clones that are to be restored as spares.
 * The mutex must be held.
 */
static int
count_coming(TemplateEntry *entry, Oid owner)
{
	return count_coming_to(entry, owner, INT_MAX);
}

/*
 * Return the number of an owner's spares that are equal to the snapshot or
 * are being created.  The registry lock and the mutex must be held.
 */
static int
count_ahead(TemplateEntry *template, Oid owner)
{
	int			n = count_spares(template, owner);
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;

	if (template->template.nclones[CLONE_CREATING] == 0)
		return n;
	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
		n += entry->clone.state == CLONE_CREATING && entry->clone.ahead &&
			entry->clone.owner == owner && clone_template(entry) == template;
	return n;
}

/*
 * Return the maximum number of spares to create for one owner of a template's
 * clones.
 */
int
spares_limit(const TestdbTemplate *template)
{
	return template->spares_limit >= 0 ? template->spares_limit : testdb_spares;
}

/*
 * Return an owner's demand for a template, after entering it if there is
 * none, in place of the one that was used longest ago.  The mutex must be
 * held exclusively.
 */
static SpareDemand *
get_demand(TemplateEntry *entry, Oid owner)
{
	SpareDemand *oldest = &entry->demands[0];

	for (int i = 0; i < MAX_DEMANDS; i++)
	{
		SpareDemand *demand = &entry->demands[i];

		if (demand->owner == owner)
			return demand;
		if (demand->used_at < oldest->used_at)
			oldest = demand;
	}
	oldest->owner = owner;
	oldest->wanted = 0;
	oldest->used_at = 0;
	return oldest;
}

/*
 * Record a request of an owner for a clone; a miss raises the number of
 * spares to be kept ready, which is returned.  The mutex must be held
 * exclusively.
 */
static int
note_demand(TemplateEntry *entry, Oid owner, bool miss, TimestampTz now)
{
	SpareDemand *demand = get_demand(entry, owner);

	demand->used_at = now;
	if (miss)
		demand->wanted = Min(Max(demand->wanted * 2, 1),
							 spares_limit(&entry->template));
	return demand->wanted;
}

/*
 * Record that a clone is created for an owner because there was no spare; for
 * a caller that has not called registry_take_spare.  Acquires and releases
 * the registry lock and a mutex.
 */
void
registry_note_miss(Oid template_oid, Oid owner)
{
	TemplateEntry *entry;

	entry = template_acquire(template_oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		(void) note_demand(entry, owner, true, GetCurrentTimestamp());
		template_release(entry);
	}
}

/*
 * Return the spare of a template that satisfies a wish; NULL if there is none
 * that is equal to the snapshot, or if it is left for sessions that have been
 * waiting, unless the caller is one of them.  The mutex must be held.
 */
static CloneEntry *
find_spare(TemplateEntry *template, const SpareWish *wish)
{
	dlist_iter	iter;

	dlist_foreach(iter, &template->spares)
	{
		CloneEntry *entry = dlist_container(CloneEntry, node, iter.cur);

		if (entry->clone.owner != wish->owner ||
			(registry_behind(&template->template, NULL, &entry->clone) & BEHIND_CLONE))
			continue;
		if (!wish->waiting && template->nwaiting > 0 &&
			count_spares(template, wish->owner) <= template->nwaiting)
			return NULL;
		return entry;
	}
	return NULL;
}

/*
 * Report whether a worker was to look for missing spares since the time in
 * *at, which is 0 if one has looked, and may still do so in time.
 */
static bool
may_still_look(pg_atomic_uint64 *at, TimestampTz now, uint64 *since)
{
	*since = pg_atomic_read_u64(at);
	return *since != 0 && !TimestampDifferenceExceeds(*since, now, REFILL_PATIENCE);
}

/*
 * Determine which workers to wake for lack of spares, at this time, and
 * record that they are.  pressing means that one is missing for which it is
 * not enough that a worker looks when it has created another, or after
 * STANDBY_PAUSE.
 */
static SpareRefill
tell_refill(TimestampTz now, bool pressing)
{
	uint64		told;
	uint64		soon;
	bool		coming = may_still_look(&registry->refill_soon, now, &soon);

	if (may_still_look(&registry->refill_told, now, &told) || (coming && !pressing))
		return REFILL_NONE;
	if (!pg_atomic_compare_exchange_u64(&registry->refill_told, &told, now))
		return REFILL_NONE;
	return told == 0 && (soon == 0 || coming) ? REFILL_WAKE_ONE : REFILL_WAKE_ALL;
}

/*
 * Announce that this worker is going to look for missing spares without being
 * woken: after it has created one, or after a pause.
 */
void
registry_announce_look(void)
{
	pg_atomic_write_u64(&registry->refill_soon, GetCurrentTimestamp());
}

/*
 * For STANDBY_TIME after this worker has created a spare, lower *delay_ms to
 * STANDBY_PAUSE, and announce that it will look for missing spares after that.
 */
void
registry_stand_by(long *delay_ms)
{
	TimestampTz now = GetCurrentTimestamp();

	/* The clock may have been set back. */
	if (now < spare_created_at ||
		TimestampDifferenceExceeds(spare_created_at, now, STANDBY_TIME))
		spare_created_at = 0;
	if (spare_created_at != 0)
	{
		*delay_ms = Min(*delay_ms, STANDBY_PAUSE);
		registry_announce_look();
	}
}

/*
 * Record that this worker has created a spare; see registry_stand_by.
 */
void
registry_note_created(void)
{
	spare_created_at = GetCurrentTimestamp();
}

/*
 * Take a spare of a template, to hand it out: it becomes CREATING, owned by
 * this process, with the terms of the wish, and its entry is copied to
 * *clone.
 *
 * Returns SPARE_STALE if the template has no entry, or its snapshot may be
 * behind it; SPARE_NONE if there is no suitable spare, see find_spare.  If
 * one was taken, *refill is set if fewer are left, including those on their
 * way, than there should be, and no worker is about to look: then the caller
 * must wake one.  A worker that looks after its present work, or a pause, is
 * enough as long as half of the spares are ready.  If none has looked within
 * REFILL_PATIENCE, the caller must wake all: that one may be stopped, or may
 * have ended.  Acquires and releases the registry lock and a mutex.
 */
SpareResult
registry_take_spare(const SpareWish *wish, TestdbClone *clone, SpareRefill *refill)
{
	TemplateEntry *template;
	CloneEntry *entry;
	SpareResult result = SPARE_STALE;
	TimestampTz now;
	int			behind;
	int			wanted;
	int			nspares;

	*refill = REFILL_NONE;
	registry_prepare_to_own();
	template = template_acquire(wish->template_oid, LW_EXCLUSIVE);
	if (template == NULL)
		return result;
	behind = registry_behind(&template->template,
							 wish->row_is_known ? NULL : &wish->row, NULL);
	if (wish->ignore_unverified)
		behind &= ~BEHIND_UNVERIFIED;
	if (behind == 0)
	{
		result = SPARE_NONE;
		entry = find_spare(template, wish);
		if (entry != NULL)
		{
			clone_set_state(entry, CLONE_CREATING);
			entry->clone.ahead = false;
			registry_apply_terms(&entry->clone, wish->terms);
			*clone = entry->clone;
			template->template.stats.clones++;
			template->template.stats.hits++;
			result = SPARE_TAKEN;
		}
		now = result == SPARE_TAKEN ? clone->created_at : GetCurrentTimestamp();
		wanted = note_demand(template, wish->owner,
							 result == SPARE_NONE && !wish->waiting, now);
		if (result == SPARE_TAKEN)
		{
			nspares = count_spares_to(template, wish->owner, wanted);
			if (nspares + count_coming_to(template, wish->owner, wanted - nspares) < wanted)
				*refill = tell_refill(now, nspares * 2 < wanted);
		}
	}
	template_release(template);

	return result;
}

/*
 * End a session's wait for a spare, successful or not; also called on error
 * and exit.
 */
static void
end_wait(int code pg_attribute_unused(), Datum arg)
{
	TemplateEntry *entry = (TemplateEntry *) DatumGetPointer(arg);

	ConditionVariableCancelSleep();
	LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
	entry->nwaiting--;
	LWLockRelease(entry->mutex);
}

/*
 * Report whether one of the spares on their way is for this session, which is
 * counted in nwaiting, and none is ready yet.  The mutex must be held.
 */
static bool
must_wait(TemplateEntry *entry, Oid owner)
{
	return !registry_is_stuck() && count_all_coming(entry) >= entry->nwaiting &&
		count_coming_to(entry, owner, 1) > 0 &&
		count_spares(entry, owner) < entry->nwaiting;
}

/*
 * Sleep for registry_wait_for_spare, after calling wake, unless that is NULL;
 * false after timeout_ms.
 */
static bool
sleep_for_spare(TemplateEntry *entry, Oid owner, void (*wake) (void), long timeout_ms)
{
	static uint32 wait_event = 0;
	bool		wait;

	/* Before preparing to sleep: setting a latch would end the sleep. */
	if (wake)
		wake();
	ConditionVariablePrepareToSleep(&entry->spare_cv);
	/* An entry can be removed from a list without the mutex. */
	LWLockAcquire(registry->lock, LW_SHARED);
	LWLockAcquire(entry->mutex, LW_SHARED);
	wait = must_wait(entry, owner);
	LWLockRelease(entry->mutex);
	LWLockRelease(registry->lock);
	return !wait ||
		!ConditionVariableTimedSleep(&entry->spare_cv, timeout_ms,
									 wait_event_compat(&wait_event, "TestdbSpare"));
}

/*
 * Sleep until a spare of a template may be ready for this session; false if
 * none is on its way, or after timeout_ms milliseconds.  Sessions are woken
 * in the order in which they began to wait.  wake is called when this session
 * is counted as waiting, if clones are then restored sooner.  Acquires and
 * releases the registry lock and a mutex; holds none while it sleeps, or
 * calls wake.
 *
 * The entry may be reused for another template while we sleep.  Then we may
 * be woken in vain; nwaiting belongs to the slot, so it stays correct.
 */
bool
registry_wait_for_spare(Oid template_oid, Oid owner, void (*wake) (void),
						long timeout_ms)
{
	TemplateEntry *entry;
	bool		coming = false;
	volatile bool soon = false;
	volatile bool woken = false;

	entry = template_acquire(template_oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		entry->nwaiting++;
		coming = must_wait(entry, owner);
		if (!coming)
			entry->nwaiting--;
		soon = entry->look == LOOK_SOON;
		template_release(entry);
	}
	if (!coming)
		return false;

	PG_ENSURE_ERROR_CLEANUP(end_wait, PointerGetDatum(entry));
	{
		woken = sleep_for_spare(entry, owner, soon ? NULL : wake, timeout_ms);
	}
	PG_END_ENSURE_ERROR_CLEANUP(end_wait, PointerGetDatum(entry));
	end_wait(0, PointerGetDatum(entry));
	return woken;
}

/*
 * Wake the sessions that wait for a spare of a template, as many as there are
 * spares; all of them if no more are on their way.  Acquires and releases the
 * registry lock and a mutex.
 */
void
registry_announce_spare(Oid template_oid)
{
	TemplateEntry *entry;
	int			nspares = 0;
	bool		all = false;

	entry = template_acquire(template_oid, LW_SHARED);
	if (entry != NULL)
	{
		nspares = entry->template.nclones[CLONE_SPARE];
		all = count_all_coming(entry) == 0;
		template_release(entry);
	}
	if (entry == NULL)
		return;

	if (all)
		ConditionVariableBroadcast(&entry->spare_cv);
	else
		while (nspares-- > 0)
			ConditionVariableSignal(&entry->spare_cv);
}

/*
 * Return the number of returned clones at which they are restored without
 * further delay: the number of spares, which is taken as 0 if sessions wait
 * despite them, or half the number of clones in use, if that is more.  The
 * mutex must be held.
 */
static int
restore_threshold(const TemplateEntry *entry)
{
	int			nspares = entry->nwaiting > 0 ? 0 : entry->template.nclones[CLONE_SPARE];

	return Max(nspares, entry->template.nclones[CLONE_LEASED] / 2);
}

/*
 * Make a clone that is DROPPING RETURNED, with the content of *clone; false
 * if it is not DROPPING.  *wake is true if the caller must wake worker 0: it
 * has no check of this template planned, or restore_threshold is reached.
 * Acquires and releases the registry lock and a mutex.
 */
bool
registry_return(TestdbClone *clone, bool *wake)
{
	TemplateEntry *entry;

	*wake = true;
	clone->state = CLONE_RETURNED;
	if (!registry_update(clone, CLONE_DROPPING))
		return false;
	entry = template_acquire(clone->template_oid, LW_SHARED);
	if (entry != NULL)
	{
		*wake = entry->look == LOOK_WHEN_WOKEN ||
			entry->template.nclones[CLONE_RETURNED] >= restore_threshold(entry);
		template_release(entry);
	}
	return true;
}

/*
 * Report whether returned clones should be restored now.  If not, *delay_ms
 * is lowered to the time, in ms, after which to check again.
 *
 * Up to restore_threshold, more are allowed to accumulate, since one
 * checkpoint serves all of them; but only briefly, and least of all if a
 * session waits.  For worker 0.  Acquires and releases the registry lock and
 * mutexes.
 */
bool
registry_should_restore(long *delay_ms)
{
	TemplateScan scan;
	TemplateEntry *entry;
	bool		result = false;
	TimestampTz now;

	if (pg_atomic_read_u32(&registry->nreturned) == 0)
		return false;

	now = GetCurrentTimestamp();
	template_scan_begin(&scan, LW_EXCLUSIVE);
	while (!result && (entry = template_scan_next(&scan)) != NULL)
	{
		int			nreturned = entry->template.nclones[CLONE_RETURNED];
		bool		urgent = entry->template.nclones[CLONE_SPARE] == 0 ||
			entry->nwaiting > 0;
		TimestampTz due;

		if (nreturned == 0)
			continue;
		due = TimestampTzPlusMilliseconds(entry->returned_at,
										  urgent ? GATHER_TIME_URGENT : GATHER_TIME);
		result = now >= due || nreturned >= restore_threshold(entry);
		entry->look = result ? LOOK_WHEN_WOKEN : urgent ? LOOK_SOON : LOOK_LATER;
		if (!result)
			*delay_ms = Min(*delay_ms, TimestampDifferenceMilliseconds(now, due));
	}
	template_scan_end(&scan);

	return result;
}

/*
 * Report whether an owner has a spare that is behind the snapshot.  The mutex
 * must be held.
 */
static bool
has_stale_spare(TemplateEntry *entry, Oid owner)
{
	dlist_iter	iter;

	dlist_foreach(iter, &entry->spares)
	{
		CloneEntry *spare = dlist_container(CloneEntry, node, iter.cur);

		if (spare->clone.owner == owner &&
			(registry_behind(&entry->template, NULL, &spare->clone) & BEHIND_CLONE))
			return true;
	}
	return false;
}

/*
 * Report whether a failure to create a spare of a template, with this
 * SQLSTATE, should be logged; if so, record that it was.  Acquires and
 * releases the registry lock and a mutex.
 */
bool
registry_may_log_refill(Oid template_oid, int sqlstate)
{
	TemplateEntry *entry;
	TimestampTz now = GetCurrentTimestamp();
	bool		result = true;

	entry = template_acquire(template_oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		result = entry->refill_logged_at == 0 ||
			entry->refill_sqlstate != sqlstate ||
			TimestampDifferenceExceeds(entry->refill_logged_at, now,
									   REFILL_LOG_INTERVAL);
		if (result)
		{
			entry->refill_sqlstate = sqlstate;
			entry->refill_logged_at = now;
		}
		template_release(entry);
	}

	return result;
}

/*
 * Find a template and an owner that has fewer spares than it should; false if
 * there is none.  A spare that takes more than left bytes, or that
 * testdb.max_clones has no room for, only counts if a stale one can be
 * updated instead.  The caller, a worker, looks again when it is done with
 * one.  Acquires and releases the registry lock and mutexes.
 */
bool
registry_next_refill(uint64 left, Oid *template_oid, Oid *owner)
{
	TemplateScan scan;
	TemplateEntry *entry;
	bool		found = false;
	bool		full;

	if (registry_is_uninstalled())
		return false;
	pg_atomic_write_u64(&registry->refill_told, 0);
	pg_atomic_write_u64(&registry->refill_soon, 0);
	pg_memory_barrier();
	template_scan_begin(&scan, LW_SHARED);
	full = registry_is_nearly_full();
	while (!found && (entry = template_scan_next(&scan)) != NULL)
	{
		const TestdbTemplate *template = &entry->template;

		if (registry_behind(template, NULL, NULL) & BEHIND_CONTENT)
			continue;
		for (int i = 0; i < MAX_DEMANDS && !found; i++)
		{
			const SpareDemand *demand = &entry->demands[i];

			if (OidIsValid(demand->owner) &&
				((!full && template->bytes <= left) ||
				 has_stale_spare(entry, demand->owner)) &&
				count_ahead(entry, demand->owner) +
				count_coming(entry, demand->owner) < demand->wanted)
			{
				*template_oid = template->oid;
				*owner = demand->owner;
				found = true;
			}
		}
	}
	template_scan_end(&scan);
	if (found)
		registry_announce_look();

	return found;
}

/*
 * Report whether any spare is missing, whatever space it takes.  Locks as for
 * registry_next_refill.
 */
bool
registry_lacks_spares(void)
{
	Oid			template_oid;
	Oid			owner;

	return registry_next_refill(PG_UINT64_MAX, &template_oid, &owner);
}

/*
 * Reset all demands for spares of a template.  The mutex must be held
 * exclusively.
 */
void
want_none(TemplateEntry *entry)
{
	for (int i = 0; i < MAX_DEMANDS; i++)
		entry->demands[i].wanted = 0;
}

/*
 * Give up the spares that belong to a role, and those whose OIDs are listed,
 * which depend on it.  Returns the number of such databases that still exist
 * and are not leased, so the caller can call again until that is 0.  Acquires
 * and releases the registry lock and mutexes.
 */
int
registry_purge_role(Oid role, const List *oids)
{
	TemplateScan templates;
	TemplateEntry *template;
	CloneScan	clones;
	CloneEntry *entry;
	int			n = 0;

	template_scan_begin(&templates, LW_EXCLUSIVE);
	while ((template = template_scan_next(&templates)) != NULL)
		for (int i = 0; i < MAX_DEMANDS; i++)
			if (template->demands[i].owner == role)
				template->demands[i].wanted = 0;
	template_scan_end(&templates);

	clone_scan_begin(&clones, LW_EXCLUSIVE);
	while ((entry = clone_scan_next(&clones)) != NULL)
	{
		if (entry->clone.state == CLONE_LEASED ||
			(entry->clone.owner != role && !list_member_oid(oids, entry->clone.oid)))
			continue;
		n++;
		if (entry->clone.state == CLONE_SPARE)
		{
			/* New ones would depend on it again. */
			if (entry->clone.owner != role)
				want_none(clone_template(entry));
			clone_set_state(entry, CLONE_GARBAGE);
		}
	}
	clone_scan_end(&clones);

	return n;
}

/*
 * Raise an owner's demand for spares of a template to at least this number.
 * Acquires and releases the registry lock and a mutex.
 */
void
registry_want_spares(Oid template_oid, Oid owner, int wanted)
{
	TemplateEntry *entry;

	entry = template_acquire(template_oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		SpareDemand *demand;

		demand = get_demand(entry, owner);
		demand->wanted = Max(demand->wanted, wanted);
		demand->used_at = GetCurrentTimestamp();
		template_release(entry);
	}
}

/*
 * Reset an owner's demand for spares of a template, until its next request.
 * Acquires and releases the registry lock and a mutex.
 */
void
registry_want_none(Oid template_oid, Oid owner)
{
	TemplateEntry *entry;

	entry = template_acquire(template_oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		get_demand(entry, owner)->wanted = 0;
		template_release(entry);
	}
}

/*
 * Set the maximum number of spares of a template for each owner; -1 to use
 * testdb.spares.  Acquires and releases the registry lock and a mutex.
 */
void
registry_limit_spares(Oid template_oid, int limit)
{
	TemplateEntry *entry;

	entry = template_acquire(template_oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		entry->template.spares_limit = limit;
		for (int i = 0; i < MAX_DEMANDS; i++)
			entry->demands[i].wanted = Min(entry->demands[i].wanted,
										   spares_limit(&entry->template));
		template_release(entry);
	}
}

/*
 * Halve the demands of owners that have made no request for IDLE_TIME, and
 * make surplus spares GARBAGE.  True if any spares are left, which may become
 * surplus later.  Acquires and releases the registry lock and mutexes.
 */
bool
registry_lower_demand(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TemplateScan scan;
	TemplateEntry *entry;
	bool		more = false;

	template_scan_begin(&scan, LW_EXCLUSIVE);
	while ((entry = template_scan_next(&scan)) != NULL)
	{
		dlist_mutable_iter iter;

		if (TimestampDifferenceExceeds(entry->peak_at, now, IDLE_TIME))
		{
			entry->template.peak = Max(entry->template.nclones[CLONE_LEASED],
									   entry->template.peak / 2);
			entry->peak_at = now;
		}
		for (int k = 0; k < MAX_DEMANDS; k++)
			if (TimestampDifferenceExceeds(entry->demands[k].used_at, now, IDLE_TIME))
				entry->demands[k].wanted /= 2;
		dlist_foreach_modify(iter, &entry->spares)
		{
			CloneEntry *spare = dlist_container(CloneEntry, node, iter.cur);
			SpareDemand *demand = get_demand(entry, spare->clone.owner);

			if (TimestampDifferenceExceeds(demand->used_at, now, IDLE_TIME) &&
				count_spares(entry, demand->owner) > demand->wanted)
			{
				clone_set_state(spare, CLONE_GARBAGE);
			}
			else
				more = true;
		}
	}
	template_scan_end(&scan);

	return more;
}

/*
 * Take a spare that is behind the snapshot, of this owner, or of any if that
 * is InvalidOid, to update it: it becomes RESTORING, owned by this process,
 * and its entry is copied to *clone.  False if there is none.  Acquires and
 * releases the registry lock and a mutex.
 */
bool
registry_take_stale_spare(Oid template_oid, Oid owner, TestdbClone *clone)
{
	TemplateEntry *template;
	dlist_iter	iter;
	bool		found = false;

	template = template_acquire(template_oid, LW_EXCLUSIVE);
	if (template != NULL)
	{
		dlist_foreach(iter, &template->spares)
		{
			CloneEntry *entry = dlist_container(CloneEntry, node, iter.cur);

			if ((OidIsValid(owner) && entry->clone.owner != owner) ||
				!(registry_behind(&template->template, NULL, &entry->clone) & BEHIND_CLONE))
				continue;
			clone_set_state(entry, CLONE_RESTORING);
			*clone = entry->clone;
			found = true;
			break;
		}
		template_release(template);
	}

	return found;
}

/*
 * Return the number of a template's spares for an owner that are equal to the
 * snapshot; created means to count those that are being created, too.
 * Acquires and releases the registry lock and a mutex.
 */
int
registry_count_spares(Oid template_oid, Oid owner, bool created)
{
	TemplateEntry *template;
	int			n = 0;

	template = template_acquire(template_oid, LW_SHARED);
	if (template != NULL)
	{
		n = created ? count_ahead(template, owner) : count_spares(template, owner);
		template_release(template);
	}

	return n;
}

/*
 * Report whether a clone that is being dropped should be recycled: as long as
 * there are fewer spares than the high-water mark of clones in use plus the
 * owner's demand.  If fewer were kept, some would be dropped while others are
 * copied.  Acquires and releases the registry lock and a mutex.
 */
bool
registry_wants_clone_back(Oid template_oid, Oid owner)
{
	TemplateEntry *entry;
	bool		result = false;

	if (registry_is_uninstalled())
		return false;
	entry = template_acquire(template_oid, LW_SHARED);
	if (entry != NULL)
	{
		int			wanted = 0;
		int			n;

		for (int i = 0; i < MAX_DEMANDS; i++)
			if (entry->demands[i].owner == owner)
				wanted = entry->demands[i].wanted;
		n = count_spares(entry, owner) + count_coming(entry, owner);
		result = n < Max(testdb_recycled, entry->template.peak + wanted);
		template_release(entry);
	}

	return result;
}

/*
 * Make all spares of a template GARBAGE.  The mutex must be held exclusively.
 */
void
discard_spares(TemplateEntry *entry)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &entry->spares)
	{
		CloneEntry *spare = dlist_container(CloneEntry, node, iter.cur);

		clone_set_state(spare, CLONE_GARBAGE);
	}
}
