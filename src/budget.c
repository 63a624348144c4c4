/*-------------------------------------------------------------------------
 *
 * budget.c
 *	  How much room the databases may take that nobody has got, and for how long
 *	  snapshots.
 *
 * Spares, and clones that were dropped and are kept for another life, may take
 * testdb.max_spare_size together; unless that is set, a quarter of the room that
 * there is (space.c), with what they take already.  What is asked for by name, by
 * testdb_prewarm, is made all the same.  Beyond it nothing is made ahead, and dropped
 * clones are removed; but one of each template is kept, so that a template which is
 * larger than all that may be kept is still recycled, one for one.
 *
 * What a database takes is what its template takes: to look at its files takes
 * longer than to make one ahead.
 *
 * A snapshot of which nothing is left that was made from it, and that nobody has used
 * for testdb.snapshot_timeout, is removed by worker 0; it is taken anew when it is
 * needed.  When one was last used this worker remembers by itself, so that a worker
 * which was started again begins anew.
 *
 * Locks: those of templates.c, and for a snapshot that is removed its own (snapshot.c).
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

/* How often snapshots are looked at, at most, in ms. */
#define EXPIRE_INTERVAL		10000

/* When a template was last seen to be in use. */
typedef struct LastUse
{
	Oid			oid;
	int64		uses;			/* what had been counted then */
	TimestampTz seen_at;
} LastUse;

static LastUse *uses = NULL;	/* in TopMemoryContext */
static int	nuses = 0;

/*
 * What all that is kept may take, in bytes, when it takes so many.
 */
static uint64
get_limit(uint64 kept)
{
	if (testdb_max_spare_size >= 0)
		return testdb_max_spare_size * MEGABYTE;
	return (Max(space_get_free(), 0) + kept) / 4;
}

/*
 * How much more may be kept, in bytes.
 */
uint64
budget_left(void)
{
	uint64		kept = registry_kept_bytes(InvalidOid);
	uint64		limit = get_limit(kept);

	return limit > kept ? limit - kept : 0;
}

/*
 * May a clone of this template that is dropped be kept?
 */
bool
budget_allows_return(Oid template_oid)
{
	TestdbTemplate template;

	return registry_template(template_oid, &template) &&
		(template.bytes <= budget_left() || registry_kept_bytes(template_oid) == 0);
}

/*
 * May a spare of this template be made ahead?
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
 * Say in the server log how much room there is.
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
 * When a template was last used: now, if it has clones, or if something was done
 * with it since the last look.
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
 * Forget templates that have gone.
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
 * Remove a template's snapshot, unless somebody uses it by now.
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
 * From time to time, remove the snapshots that nobody has used for
 * testdb.snapshot_timeout; *delay_ms is lowered to the time after which that must be
 * done again.  For worker 0, in no transaction.
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
