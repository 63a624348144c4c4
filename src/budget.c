/*-------------------------------------------------------------------------
 *
 * budget.c
 *	  The disk space that unused databases may take, and the lifetime of
 *	  snapshots.
 *
 * Spares, and dropped clones that are kept to be recycled, may take
 * testdb.max_spare_size together; unless that is set, a quarter of the sum of
 * the free space (space.c) and of what they take already.  Beyond it no
 * spares are created, and dropped clones are removed.  Exceptions: spares
 * requested by testdb_prewarm are always created, and one dropped clone of
 * each template is kept, so that clones of a template larger than the limit
 * are still recycled one by one.
 *
 * Workers decide at the same time.  Between the decision to keep a database
 * and the time when its state says so, a worker has a reservation (space.c),
 * which counts as kept.  So both count for an instant: a clone may be removed
 * that could have been kept, but never is too much kept.
 *
 * The size of a database is taken to be that of its template: examining its
 * files would take longer than creating it.
 *
 * A snapshot of a template that has no clones, and has not been used for
 * testdb.snapshot_timeout, is removed by worker 0; it is taken again when it
 * is needed.  The times of last use are in that worker's memory: after its
 * restart, they begin at the time of the restart.
 *
 * Locks: those of templates.c, and the lock of a snapshot that is removed
 * (snapshot.c).
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "budget.h"
#include "guc.h"
#include "job.h"
#include "snapshot.h"
#include "space.h"
#include "templates.h"

#define MEGABYTE			(UINT64CONST(1024) * 1024)

/* Minimum interval between checks of snapshots, in ms. */
#define EXPIRE_INTERVAL		10000

/* The last use of a template that was noticed. */
typedef struct LastUse
{
	Oid			oid;
	int64		uses;			/* the sum of its counters at that time */
	TimestampTz seen_at;
} LastUse;

/* Has this worker a reservation? */
static bool reserved = false;

static LastUse *uses = NULL;	/* in TopMemoryContext */
static int	nuses = 0;

/*
 * Return the maximum of what may be kept, in bytes, given what is kept now.
 *
 * Errors: if the free space cannot be determined.
 */
static uint64
get_limit(uint64 kept)
{
	if (testdb_max_spare_size >= 0)
		return testdb_max_spare_size * MEGABYTE;
	return (Max(space_get_free(), 0) + kept) / 4;
}

/*
 * Return how much more may be kept, in bytes.  Acquires and releases the
 * registry lock and mutexes.
 *
 * Errors: if the free space cannot be determined.
 */
uint64
budget_left(void)
{
	uint64		kept = registry_kept_bytes(InvalidOid);
	uint64		limit = get_limit(kept);

	return limit > kept ? limit - kept : 0;
}

/*
 * Report whether another spare of this template may be created.  Locks and
 * errors as for budget_left.
 */
bool
budget_allows_spare(Oid template_oid)
{
	uint64		bytes;
	uint64		files;

	snapshot_measure(template_oid, &bytes, &files);
	return bytes <= budget_left();
}

/*
 * Reserve bytes of what may be kept, or, if alone is true, regardless of the
 * limit if no other worker has a reservation.  False if that is not possible.
 */
static bool
reserve(uint64 bytes, bool alone)
{
	uint64		others = space_reserve_kept(bytes);
	uint64		kept;

	reserved = true;
	kept = registry_kept_bytes(InvalidOid);
	if (kept + others + bytes <= get_limit(kept) || (alone && others == 0))
		return true;
	budget_release();
	return false;
}

/*
 * Report whether a clone of this template that is dropped may be kept to be
 * recycled.  Then the space is reserved until budget_release.  Locks and
 * errors as for budget_left.
 */
bool
budget_reserve_return(Oid template_oid)
{
	TestdbTemplate template;

	return registry_template(template_oid, &template) &&
		reserve(template.bytes, registry_kept_bytes(template_oid) == 0);
}

/*
 * Report whether a spare of this template may be created by this worker, for
 * which registry_next_refill was given left bytes.  Then the space is reserved
 * until budget_release, unless a stale spare is to be updated.  Locks and
 * errors as for budget_left.
 */
bool
budget_reserve_spare(Oid template_oid, uint64 left)
{
	TestdbTemplate template;

	return !registry_template(template_oid, &template) ||
		template.bytes > left || reserve(template.bytes, false);
}

/*
 * Release the reservation, if any: the database is counted as kept by now, or
 * is not going to be.
 */
void
budget_release(void)
{
	if (reserved)
		(void) space_reserve_kept(0);
	reserved = false;
}

/*
 * Report the available space in the server log.
 *
 * Errors: if the free space cannot be determined.
 */
void
budget_log(void)
{
	int64		free = Max(space_get_free(), 0);

	ereport(LOG,
			(errmsg("testdb has room for databases of %lld MB", (long long) free / (int64) MEGABYTE),
			 errdetail("%s Of it, %llu MB can be taken by databases that are kept ready.",
					   space_describe(), (unsigned long long) (get_limit(0) / MEGABYTE))));
}

/*
 * Return the time when a template was last used: now, if it has clones, or if
 * its counters have changed since the last call.
 */
static TimestampTz
get_last_use(const TestdbTemplate *template, TimestampTz now)
{
	const TemplateStats *stats = &template->stats;
	int64		count = stats->clones + stats->copies + stats->drops + stats->rewinds;
	LastUse    *use = NULL;
	bool		busy = false;

	for (int i = 0; i < nuses && use == NULL; i++)
		if (uses[i].oid == template->oid)
			use = &uses[i];
	busy = template_has_clones(template);
	if (use == NULL)
	{
		uses = uses ? repalloc_array(uses, LastUse, nuses + 1) :
			MemoryContextAlloc(TopMemoryContext, sizeof(LastUse));
		use = &uses[nuses++];
		use->oid = template->oid;
		busy = true;
	}
	if (busy || use->uses != count)
	{
		use->uses = count;
		use->seen_at = now;
	}
	return use->seen_at;
}

/*
 * Forget templates that have no entry any more.
 */
static void
forget_gone(void)
{
	int			n = 0;

	for (int i = 0; i < nuses; i++)
		if (registry_is_template(uses[i].oid))
			uses[n++] = uses[i];
	nuses = n;
}

/*
 * Remove a template's snapshot, unless it is in use again.
 */
static void
expire_snapshot(Oid oid)
{
	job_begin_work();
	if (snapshot_try_lock(oid) && registry_drop_idle_snapshot(oid))
		snapshot_remove(oid);
	job_commit_work();
}

/*
 * At intervals, remove the snapshots that have not been used for
 * testdb.snapshot_timeout; *delay_ms is lowered to the time after which to
 * call again.  For worker 0, outside of a transaction.
 */
void
budget_expire_snapshots(long *delay_ms)
{
	static TimestampTz last = 0;
	TimestampTz now = GetCurrentTimestamp();
	long		timeout = testdb_snapshot_timeout * 1000L;
	long		interval = Min(timeout, EXPIRE_INTERVAL);
	TestdbTemplate *templates;
	bool		more = false;
	int			n;

	if (testdb_snapshot_timeout == 0)
		return;
	if (!TimestampDifferenceExceeds(last, now, interval))
	{
		*delay_ms = Min(*delay_ms, interval);
		return;
	}
	last = now;
	forget_gone();
	templates = registry_list_templates(&n);
	for (int i = 0; i < n; i++)
	{
		if (!templates[i].has_snapshot || templates[i].in_place)
			continue;
		more = true;
		if (TimestampDifferenceExceeds(get_last_use(&templates[i], now), now, (int) timeout))
			expire_snapshot(templates[i].oid);
	}
	if (more)
		*delay_ms = Min(*delay_ms, interval);
}
