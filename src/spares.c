/*-------------------------------------------------------------------------
 *
 * spares.c
 *	  How many clones are kept ready, for whom, and which give way.
 *
 * Demand.  Each owner that asks for clones of a template has a place among its
 * demands: how many spares it should have.  A call that had to wait raises the
 * number, idleness lowers it.  Returned clones count as spares to come.  If there
 * is no room, some give way: see victims.c.
 *
 * No spare is made ahead in the last eighth of testdb.max_clones, since what is
 * CREATING can't make way for a clone.  Of errors in making them, one with the same
 * SQLSTATE is logged once in REFILL_LOG_INTERVAL for each template.
 *
 * Locks: the registry lock, then a template's mutex, as registry.c says.  A session
 * that waits for a spare sleeps without them.
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

/* How long returned clones may gather while there are spares, and if not, in ms. */
#define GATHER_TIME			20

#define GATHER_TIME_URGENT	3

/*
 * After this time, in ms, without a call an owner wants fewer spares, and as
 * many clones are no longer expected to be in use as there were before.
 */
#define IDLE_TIME			(60 * 1000)

/* How often the same failure to make a spare is logged, in ms. */
#define REFILL_LOG_INTERVAL	(600 * 1000)

/*
 * Is there any clone that waits to be restored?  Takes no lock.
 */
bool
registry_has_returned(void)
{
	return pg_atomic_read_u32(&registry->nreturned) > 0;
}

/*
 * Report whether a spare will be handed out under this name.  Takes and
 * releases the registry lock and mutexes.
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
 * Take a clone that is TOUCHED: it becomes DROPPING, and is copied to *clone.
 * False if there is none.  Takes and releases the registry lock and mutexes.
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
 * How many spares an owner has that equal the snapshot.  The mutex is held.
 */
static int
count_spares(TemplateEntry *entry, Oid owner)
{
	dlist_iter	iter;
	int			n = 0;

	dlist_foreach(iter, &entry->spares)
	{
		CloneEntry *spare = dlist_container(CloneEntry, node, iter.cur);

		if (spare->clone.owner == owner &&
			!(registry_behind(&entry->template, NULL, &spare->clone) & BEHIND_CLONE))
			n++;
	}
	return n;
}

/*
 * How many clones, of any owner, are on their way to becoming a spare.  The
 * mutex is held.
 */
static int
count_coming(const TemplateEntry *entry)
{
	return entry->template.nclones[CLONE_RETURNED] +
		entry->template.nclones[CLONE_RESTORING];
}

/*
 * How many spares of a template may be made ahead for an owner.
 */
int
spares_limit(const TestdbTemplate *template)
{
	return template->spares_limit >= 0 ? template->spares_limit : testdb_spares;
}

/*
 * What an owner wants of a template; the owner who has not asked for the
 * longest time is forgotten if there is no place.  The mutex is held
 * exclusively.
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
 * Note that an owner asks for a clone, now; a miss raises the number of spares
 * that are to be kept ready, which is returned.  The mutex is held exclusively.
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
 * Note that a clone is made for an owner because no spare was ready, if the caller
 * has not looked for one itself.  Takes and releases the registry lock and a mutex.
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
 * The spare of a template that fits a wish, or NULL: if there is none that equals
 * the snapshot, or if others have been waiting for those that there are, unless
 * the caller is one of them.  The mutex is held.
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
 * Take a spare of a template for an owner, to hand it out: it becomes CREATING,
 * with the terms that it will have, and is copied to *clone.
 *
 * SPARE_STALE if the snapshot may be behind the template; SPARE_NONE if
 * find_spare has none.  If one was taken, *refill says that fewer are left, or on
 * their way, than there should be, and that the caller must wake workers for
 * that.  Takes and releases the registry lock and a mutex.
 */
SpareResult
registry_take_spare(const SpareWish *wish, TestdbClone *clone, bool *refill)
{
	TemplateEntry *template;
	CloneEntry *entry;
	SpareResult result = SPARE_STALE;
	int			behind;
	int			wanted;

	*refill = false;
	registry_prepare_to_own();
	template = template_acquire(wish->template_oid, LW_EXCLUSIVE);
	if (template == NULL)
		return result;
	behind = registry_behind(&template->template, &wish->row, NULL);
	if (wish->ignore_unverified)
		behind &= ~BEHIND_UNVERIFIED;
	if (behind == 0)
	{
		result = SPARE_NONE;
		entry = find_spare(template, wish);
		if (entry != NULL)
		{
			clone_set_state(entry, CLONE_CREATING);
			registry_apply_terms(&entry->clone, wish->terms);
			*clone = entry->clone;
			template->template.stats.clones++;
			template->template.stats.hits++;
			result = SPARE_TAKEN;
		}
		wanted = note_demand(template, wish->owner,
							 result == SPARE_NONE && !wish->waiting,
							 result == SPARE_TAKEN ? clone->created_at :
							 GetCurrentTimestamp());
		*refill = result == SPARE_TAKEN &&
			template->template.nclones[CLONE_SPARE] +
			count_coming(template) < wanted &&
			pg_atomic_exchange_u32(&registry->refill_told, 1) == 0;
	}
	template_release(template);

	return result;
}

/*
 * Stop waiting for a spare, however that ends.
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
 * Is a spare on its way to a session of this owner, which is among those who
 * wait, and none there yet?  The mutex is held.
 */
static bool
must_wait(TemplateEntry *entry, Oid owner)
{
	int			ncoming = count_coming(entry);

	return !registry_is_stuck() && ncoming >= entry->nwaiting &&
		count_spares(entry, owner) < entry->nwaiting;
}

/*
 * The sleep of registry_wait_for_spare, after a call of wake, unless that is
 * NULL; false after timeout_ms.
 */
static bool
sleep_for_spare(TemplateEntry *entry, Oid owner, void (*wake) (void), long timeout_ms)
{
	static uint32 wait_event = 0;
	bool		wait;

	/* Waking would end the sleep, were it prepared before. */
	if (wake)
		wake();
	ConditionVariablePrepareToSleep(&entry->spare_cv);
	LWLockAcquire(entry->mutex, LW_SHARED);
	wait = must_wait(entry, owner);
	LWLockRelease(entry->mutex);
	return !wait ||
		!ConditionVariableTimedSleep(&entry->spare_cv, timeout_ms,
									 wait_event_compat(&wait_event, "TestdbSpare"));
}

/*
 * Sleep until a spare of a template may have become ready for this session;
 * false if none is on its way, or if timeout_ms milliseconds have passed.
 * Sessions are woken in the order in which they came.  wake is called when
 * this one can be seen to wait, if clones are restored sooner then.  Takes and
 * releases the registry lock and a mutex; holds none while it sleeps.
 *
 * The entry may go while we sleep, and another template get it.  We may then
 * be woken for nothing; the number of those who wait belongs to the place, and
 * stays right.
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
 * spares; all of them if no more are on their way.  Takes and releases the
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
		all = count_coming(entry) == 0;
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
 * How many clones of a template may gather before they are restored: as many
 * as there are spares, which are of no use to who waits, and half as many as
 * there are in use.  The mutex is held.
 */
static int
restore_threshold(const TemplateEntry *entry)
{
	int			nspares = entry->nwaiting > 0 ? 0 : entry->template.nclones[CLONE_SPARE];

	return Max(nspares, entry->template.nclones[CLONE_LEASED] / 2);
}

/*
 * Make a clone, which was DROPPING, RETURNED, with the content of *clone;
 * false if it is no longer that.  *wake says that the worker that restores
 * must be told: not if it will look by itself, and there are not enough
 * before.  Takes and releases the registry lock and a mutex.
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
 * Should the clones that were returned be restored now?  If not, *delay_ms is
 * lowered to the time, in ms, after which that must be asked again.
 *
 * More are allowed to gather, up to restore_threshold(): one checkpoint serves
 * all of them.  But not for long, least of all if somebody waits.  For the
 * worker that restores.  Takes and releases the registry lock and mutexes.
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
 * Has an owner a spare that is behind the snapshot?  The mutex is held.
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
 * Should a failure to make a spare of a template, with this SQLSTATE, be
 * logged?  If so, it is noted as logged.  Takes and releases the registry lock
 * and a mutex.
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
 * Find a template and an owner for whom a spare should be made ahead, of so many
 * bytes at most; false if there is none, or no place for one.  Takes and releases the registry lock and
 * mutexes.
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
	pg_atomic_write_u32(&registry->refill_told, 0);
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
				count_spares(entry, demand->owner) + count_coming(entry) < demand->wanted)
			{
				*template_oid = template->oid;
				*owner = demand->owner;
				found = true;
			}
		}
	}
	template_scan_end(&scan);

	return found;
}

/*
 * Have no spares of a template made ahead until somebody asks again.  Its
 * mutex is held exclusively.
 */
void
want_none(TemplateEntry *entry)
{
	for (int i = 0; i < MAX_DEMANDS; i++)
		entry->demands[i].wanted = 0;
}

/*
 * Give up what is kept ready for a role, or depends on it, as those do whose
 * OIDs are listed; the number of databases that are still there and that
 * nobody has, so that it can be asked again.  Takes and releases the registry
 * lock and mutexes.
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
			/* Those made instead would depend on it again. */
			if (entry->clone.owner != role)
				want_none(clone_template(entry));
			clone_set_state(entry, CLONE_GARBAGE);
		}
	}
	clone_scan_end(&clones);

	return n;
}

/*
 * Have at least this many spares of a template kept ready for an owner.  Takes
 * and releases the registry lock and a mutex.
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
 * Have no spares of a template made ahead for an owner, until it asks again.
 * Takes and releases the registry lock and a mutex.
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
 * Set how many spares of a template may be made ahead; -1 for testdb.spares.
 * Takes and releases the registry lock and a mutex.
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
 * Lower what owners want who have not asked for a clone lately, by half, and
 * make garbage of the spares that are then too many.  True if anything is left
 * that may be lowered later.  Takes and releases the registry lock and mutexes.
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
 * Take a spare that is behind the snapshot, to bring it up to date: it becomes
 * RESTORING, and is copied to *clone.  False if there is none for the owner;
 * any owner will do if that is InvalidOid.  Takes and releases the registry
 * lock and a mutex.
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
 * How many spares of a template an owner has; *ncoming is how many clones of
 * any owner are on their way to becoming one.  Takes and releases the
 * registry lock and a mutex.
 */
int
registry_count_spares(Oid template_oid, Oid owner, int *ncoming)
{
	TemplateEntry *template;
	int			n = 0;

	*ncoming = 0;
	template = template_acquire(template_oid, LW_SHARED);
	if (template != NULL)
	{
		n = count_spares(template, owner);
		*ncoming = count_coming(template);
		template_release(template);
	}

	return n;
}

/*
 * Should a clone that its owner drops be kept for another life?  As many are
 * as were in use at one time, and as are to be ready besides: with fewer, some
 * would be dropped while others are copied.  Takes and releases the registry
 * lock and a mutex.
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
		n = count_spares(entry, owner) + count_coming(entry);
		result = n < Max(testdb_recycled, entry->template.peak + wanted);
		template_release(entry);
	}

	return result;
}

/*
 * A template's spares become garbage.  Its mutex is held exclusively.
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
