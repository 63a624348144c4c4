/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  Statistics: for testdb_stats, testdb_templates, and tests.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "mb/pg_wchar.h"

#include "guc.h"
#include "registry_internal.h"
#include "stats.h"

/*
 * Add to the statistics of a template.  Takes and releases the registry lock
 * and a mutex.
 */
void
registry_add_stats(Oid oid, const TemplateStats *stats)
{
	TemplateEntry *entry;

	entry = template_acquire(oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		TemplateStats *sum = &entry->template.stats;

		sum->clones += stats->clones;
		sum->hits += stats->hits;
		sum->misses += stats->misses;
		sum->copies += stats->copies;
		sum->recycled += stats->recycled;
		sum->drops += stats->drops;
		sum->reaped += stats->reaped;
		sum->files += stats->files;
		sum->bytes += stats->bytes;
		sum->copy_us += stats->copy_us;
		sum->recycle_us += stats->recycle_us;
		sum->drop_us += stats->drop_us;
		sum->snapshot_us += stats->snapshot_us;
		sum->rewinds += stats->rewinds;
		sum->rewind_waits += stats->rewind_waits;
		sum->rewind_us += stats->rewind_us;
		sum->served += stats->served;
		sum->passed_on += stats->passed_on;
		template_release(entry);
	}
}

/*
 * Compare the registry's counters and lists with its entries.  Takes and
 * releases the registry lock, exclusively, so that nothing changes.
 */
void
registry_audit(RegistryAudit *audit)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;

	memset(audit, 0, sizeof(*audit));
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	audit->nclones[0] = registry->nclones;
	audit->ngarbage[0] = pg_atomic_read_u32(&registry->ngarbage);
	audit->nreturned[0] = pg_atomic_read_u32(&registry->nreturned);
	audit->ntouched[0] = pg_atomic_read_u32(&registry->ntouched);
	for (int i = 0; i < testdb_max_templates; i++)
	{
		TemplateEntry *template = &registry->templates[i];
		dlist_iter	iter;

		audit->nwaiting += template->nwaiting;
		for (int k = 0; k < CLONE_NSTATES; k++)
			audit->nstates[0] += template->template.nclones[k];
		dlist_foreach(iter, &template->spares)
			audit->nspares[0]++;
		dlist_foreach(iter, &template->coming)
			audit->ncoming[0]++;
	}
	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		audit->nclones[1]++;
		audit->nstates[1]++;
		audit->ngarbage[1] += entry->clone.state == CLONE_GARBAGE;
		audit->nreturned[1] += entry->clone.state == CLONE_RETURNED;
		audit->ntouched[1] += entry->clone.state == CLONE_TOUCHED;
		audit->nspares[1] += entry->clone.state == CLONE_SPARE;
		audit->ncoming[1] += entry->clone.state == CLONE_RETURNED ||
			entry->clone.state == CLONE_RESTORING;
		if (clone_is_passing(entry))
		{
			audit->nowners[0]++;
			audit->nowners[1] += entry->owner_pid != 0 && kill(entry->owner_pid, 0) == 0;
		}
	}
	LWLockRelease(registry->lock);
}

/*
 * Set all statistics to zero.  Takes and releases the registry lock and
 * mutexes.
 */
void
registry_reset_stats(void)
{
	TemplateScan scan;
	TemplateEntry *entry;

	template_scan_begin(&scan, LW_EXCLUSIVE);
	while ((entry = template_scan_next(&scan)) != NULL)
		memset(&entry->template.stats, 0, sizeof(TemplateStats));
	template_scan_end(&scan);
}

/*
 * Record an error that was not reported to a session, truncated to fit; an
 * empty string clears it.  Takes and releases the registry lock and a mutex.
 */
void
registry_note_error(Oid oid, const char *message)
{
	TemplateEntry *entry;
	int			len = pg_mbcliplen(message, strlen(message),
								   sizeof(entry->template.last_error) - 1);

	entry = template_acquire(oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		memcpy(entry->template.last_error, message, len);
		entry->template.last_error[len] = '\0';
		template_release(entry);
	}
}

/*
 * Count a CREATE DATABASE command that was served.  Takes and releases the
 * registry lock and a mutex.
 */
void
registry_note_served(Oid oid)
{
	TemplateStats stats = {.served = 1};

	registry_add_stats(oid, &stats);
}

/*
 * Count one that was passed on to core, and record the reason.  Does nothing
 * if the template has no entry.  Takes and releases the registry lock and a
 * mutex.
 */
void
registry_note_passed_on(Oid oid, const char *reason)
{
	TemplateStats stats = {.passed_on = 1};
	TemplateEntry *entry;

	registry_add_stats(oid, &stats);
	entry = template_acquire(oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		int			len = pg_mbcliplen(reason, strlen(reason),
									   sizeof(entry->template.passed_on_reason) - 1);

		memcpy(entry->template.passed_on_reason, reason, len);
		entry->template.passed_on_reason[len] = '\0';
		template_release(entry);
	}
}
