/*-------------------------------------------------------------------------
 *
 * templates.c
 *	  Templates: their snapshots, and whether clones are up to date.
 *
 * A template has a generation, which is incremented before each commit of a
 * user's transaction in it (freshness.c), and a version, which changes with
 * each change of its snapshot (snapshot.c).  A snapshot is up to date if it
 * was taken at the current generation, a spare if it has the snapshot's
 * version.  unverified means that a session may have changed the template
 * without a transaction ID, or maintenance did; its files are compared when
 * it has no sessions.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "registry_internal.h"
#include "templates.h"

/*
 * Report whether a template's row and configuration parameters are unchanged
 * since its snapshot was last updated.
 */
static bool
template_row_is_same(const TestdbTemplate *template, const TemplateRow *row)
{
	return template->settings_generation ==
		pg_atomic_read_u64(&registry->settings_generation) &&
		registry_settings_in_doubt() == 0 &&
		template->row.xmin == row->xmin &&
		ItemPointerEquals(unconstify(ItemPointerData *, &template->row.tid),
						  unconstify(ItemPointerData *, &row->tid));
}

/*
 * Report how far a template's snapshot is behind the template, and a clone
 * behind the snapshot: BEHIND_ flags, 0 if not at all.  row is the template's
 * row as just read by the caller, or NULL to ignore the row; clone may be
 * NULL, too.  If template is in its entry, not a copy, the mutex must be
 * held.
 *
 * This does not tell if a snapshot is too old for the server's pg_xact; see
 * snapshot_lock_current for that.
 */
int
registry_behind(const TestdbTemplate *template, const TemplateRow *row,
				const TestdbClone *clone)
{
	int			behind = 0;

	if (!template->has_snapshot)
		behind |= BEHIND_MISSING;
	if (template->generation != template->snapshot_generation)
		behind |= BEHIND_COMMITS;
	if (template->unverified)
		behind |= BEHIND_UNVERIFIED;
	if (row != NULL && !template_row_is_same(template, row))
		behind |= BEHIND_ROW;
	if (clone != NULL && clone->version != template->version)
		behind |= BEHIND_CLONE_FILES;
	if (clone != NULL && clone->row_version != template->row_version)
		behind |= BEHIND_CLONE_ROW;
	return behind;
}

/*
 * Copy a template's entry to *template; false if it has none.  Acquires and
 * releases the registry lock and a mutex.
 */
bool
registry_template(Oid oid, TestdbTemplate *template)
{
	TemplateEntry *entry;

	entry = template_acquire(oid, LW_SHARED);
	if (entry != NULL)
	{
		*template = entry->template;
		template_release(entry);
	}

	return entry != NULL;
}

/*
 * Return the version of a template's row and configuration parameters; 0 if
 * they have changed since its snapshot was last updated.  row is the row as
 * just read by the caller.  Acquires and releases the registry lock and a
 * mutex.
 */
uint64
registry_row_version(Oid oid, const TemplateRow *row)
{
	TestdbTemplate template;

	if (!registry_template(oid, &template) ||
		(registry_behind(&template, row, NULL) & BEHIND_ROW))
		return 0;
	return template.row_version;
}

/*
 * Ensure that a template has an entry, before its snapshot is taken, so that
 * no commit in it is missed.  False if all entries are in use.  If the entry
 * of a template without clones was reused for that, *evicted is its OID, and
 * the caller must remove its snapshot; else InvalidOid.  Acquires and
 * releases the registry lock.
 */
bool
registry_enter_template(Oid oid, Oid *evicted)
{
	TemplateEntry *entry;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry = template_enter(oid, evicted);
	LWLockRelease(registry->lock);

	return entry != NULL;
}

/*
 * Store the description of a template's snapshot from *new; counters that
 * other processes change are not touched.  verified means that the files were
 * compared while the template had no sessions.  Acquires and releases the
 * registry lock and a mutex.
 */
void
registry_set_snapshot(const TestdbTemplate *new, bool verified)
{
	TemplateEntry *entry;

	entry = template_acquire(new->oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		TestdbTemplate *template = &entry->template;

		template->has_snapshot = true;
		if (verified)
		{
			template->dropped = false;	/* the OID was reused */
			template->unverified = false;
			template->damaged = false;
			template->in_place = new->in_place;
		}
		template->snapshot_generation = new->snapshot_generation;
		template->settings_generation = new->settings_generation;
		template->settings = new->settings;
		template->version = new->version;
		template->manifest = new->manifest;
		template->lsn = new->lsn;
		template->row_version = new->row_version;
		template->row = new->row;
		template->dependencies = new->dependencies;
		template->files = new->files;
		template->bytes = new->bytes;
		template->taken_at = new->taken_at;
		template->obstacle[0] = '\0';
		template_release(entry);
	}
}

/*
 * Record that a template has no snapshot.  If the native method cannot be
 * used, obstacle is the reason, and its spares become GARBAGE; else it is an
 * empty string.  Acquires and releases the registry lock and a mutex.
 */
void
registry_clear_snapshot(Oid oid, const char *obstacle)
{
	TemplateEntry *entry;

	entry = template_acquire(oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		entry->template.has_snapshot = false;
		strlcpy(entry->template.obstacle, obstacle,
				sizeof(entry->template.obstacle));
		if (obstacle[0] != '\0')
			discard_spares(entry);
		template_release(entry);
	}
}

/*
 * Record that a template's snapshot, which is locked, must be taken again.
 * Clones that were copied from it are not affected: spares continue to be
 * handed out.  False if that was recorded before.  Acquires and releases the
 * registry lock and a mutex.
 */
bool
registry_set_damaged(Oid oid)
{
	TemplateEntry *entry;
	bool		news = false;

	entry = template_acquire(oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		news = !entry->template.damaged;
		entry->template.damaged = true;
		template_release(entry);
	}

	return news;
}

/*
 * Report whether a clone of a dropped template is not in use, and not about
 * to be.  The registry lock must be held exclusively.
 */
static bool
is_left_over(const TestdbClone *clone)
{
	return clone->state != CLONE_LEASED && clone->state != CLONE_REWINDING &&
		(clone->state != CLONE_CREATING || clone->ahead);
}

/*
 * Forget a template that has been dropped: its spares and returned clones
 * become GARBAGE, as will those still being created, and its entry is removed
 * once it has no clones.  Returns the number of databases created from it
 * that still exist and are not in use, so the caller can call again until
 * that is 0.  Acquires and releases the registry lock and a mutex.
 */
int
registry_forget_template(Oid oid)
{
	TemplateEntry *entry;
	HASH_SEQ_STATUS scan;
	CloneEntry *clone;
	int			nleft = 0;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry = template_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
		entry->template.has_snapshot = false;
		entry->template.dropped = true;
		discard_spares(entry);
		hash_seq_init(&scan, clone_hash);
		while ((clone = hash_seq_search(&scan)) != NULL)
		{
			if (clone_template(clone) != entry)
				continue;
			if (clone->clone.state == CLONE_RETURNED)
				clone_set_state(clone, CLONE_GARBAGE);
			nleft += is_left_over(&clone->clone);
		}
		LWLockRelease(entry->mutex);
		if (template_is_unused(entry))
		{
			entry->template.oid = InvalidOid;
			pg_atomic_fetch_add_u32(&registry->epoch, 1);
		}
	}
	LWLockRelease(registry->lock);

	return nleft;
}

/*
 * Return an array of copies of the templates' entries, allocated in the
 * current memory context; *ntemplates is their number.  Acquires and releases
 * the registry lock and mutexes.
 */
TestdbTemplate *
registry_list_templates(int *ntemplates)
{
	TestdbTemplate *templates = palloc_array(TestdbTemplate, testdb_max_templates);
	TemplateScan scan;
	TemplateEntry *entry;
	int			n = 0;

	template_scan_begin(&scan, LW_SHARED);
	while ((entry = template_scan_next(&scan)) != NULL)
	{
		templates[n] = entry->template;
		templates[n].wanted = 0;
		for (int k = 0; k < MAX_DEMANDS; k++)
			templates[n].wanted += entry->demands[k].wanted;
		n++;
	}
	template_scan_end(&scan);

	*ntemplates = n;
	return templates;
}

/*
 * Compute the disk space used by the copies of a template, from a copy of its
 * entry.
 */
void
template_get_space(const TestdbTemplate *template, TemplateSpace *space)
{
	const int  *n = template->nclones;

	space->snapshot = template->has_snapshot && !template->in_place ? template->bytes : 0;
	space->clones = template->bytes * (n[CLONE_CREATING] + n[CLONE_LEASED] +
									   n[CLONE_DROPPING] + n[CLONE_REWINDING]);
	space->spares = template->bytes * (n[CLONE_RETURNED] + n[CLONE_RESTORING] +
									   n[CLONE_SPARE] + n[CLONE_TOUCHED] +
									   n[CLONE_GARBAGE] + n[CLONE_REMOVING]);
}

/*
 * Report whether a template, by a copy of its entry, has clones other than
 * those that are being removed or wait for that.  (With the entry itself the
 * mutex must be held.)
 */
bool
template_has_clones(const TestdbTemplate *template)
{
	for (int state = 0; state < CLONE_NSTATES; state++)
		if (state != CLONE_GARBAGE && state != CLONE_REMOVING &&
			template->nclones[state] > 0)
			return true;
	return false;
}

/*
 * Return the disk space, in bytes, used by databases that are not handed out
 * or are being created: of one template, or of all if that is InvalidOid.
 * Acquires and releases the registry lock and mutexes.
 */
uint64
registry_kept_bytes(Oid template_oid)
{
	TemplateScan scan;
	TemplateEntry *entry;
	uint64		sum = 0;

	template_scan_begin(&scan, LW_SHARED);
	while ((entry = template_scan_next(&scan)) != NULL)
	{
		const int  *n = entry->template.nclones;

		if (!OidIsValid(template_oid) || entry->template.oid == template_oid)
			sum += entry->template.bytes *
				(n[CLONE_CREATING] + n[CLONE_RETURNED] + n[CLONE_RESTORING] +
				 n[CLONE_SPARE] + n[CLONE_TOUCHED]);
	}
	template_scan_end(&scan);
	return sum;
}

/*
 * Record that a template has no snapshot, unless it has clones that may need
 * it, or it serves as its own snapshot: then false.  The snapshot must be
 * locked exclusively.  Acquires and releases the registry lock and a mutex.
 */
bool
registry_drop_idle_snapshot(Oid oid)
{
	TemplateEntry *entry = template_acquire(oid, LW_EXCLUSIVE);
	bool		idle;

	if (entry == NULL)
		return false;
	idle = entry->template.has_snapshot && !entry->template.in_place &&
		!template_has_clones(&entry->template);
	if (idle)
		entry->template.has_snapshot = false;
	template_release(entry);
	return idle;
}

/*
 * Report whether a database has an entry as a template.  Acquires and
 * releases the registry lock.
 */
bool
registry_is_template(Oid oid)
{
	bool		found;

	LWLockAcquire(registry->lock, LW_SHARED);
	found = template_find(oid) != NULL;
	LWLockRelease(registry->lock);

	return found;
}

/*
 * Return a number that changes whenever a template's entry is created or
 * removed, so that a session can cache whether its database is a template.
 * Takes no lock.
 */
uint32
registry_epoch(void)
{
	return pg_atomic_read_u32(&registry->epoch);
}

/* What template_note records. */
typedef enum TemplateNote
{
	NOTE_CHANGED,
	NOTE_LEFT
} TemplateNote;

/*
 * Record an event in a template's entry, if it has one.  Acquires and
 * releases the registry lock and a mutex.
 */
static void
template_note(Oid oid, TemplateNote note)
{
	TemplateEntry *entry;

	entry = template_acquire(oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		switch (note)
		{
			case NOTE_CHANGED:
				entry->template.generation++;
				break;
			case NOTE_LEFT:
				entry->template.unverified = true;
				break;
		}
		template_release(entry);
	}
}

/*
 * Record that a transaction that has written to a template is about to
 * commit.  Acquires and releases the registry lock and a mutex.
 */
void
registry_template_changed(Oid oid)
{
	template_note(oid, NOTE_CHANGED);
}

/*
 * Record that pg_db_role_setting is about to change, or has changed.  Takes
 * no lock.
 */
void
registry_settings_changed(void)
{
	pg_atomic_fetch_add_u64(&registry->settings_generation, 1);
}

/*
 * Return a number that increases with each change of pg_db_role_setting.
 * Takes no lock.
 */
uint64
registry_settings_generation(void)
{
	return pg_atomic_read_u64(&registry->settings_generation);
}

/*
 * Record that a transaction is being prepared, or has been, whose commit will
 * change pg_db_role_setting unnoticed: as long as there may be one, no
 * template's configuration parameters are considered known.  Takes no lock.
 */
void
registry_settings_prepared(void)
{
	(void) pg_atomic_fetch_add_u64(&registry->settings_prepared, 1);
}

/*
 * Return 0 if there is no such transaction; otherwise a number that is to be
 * passed to registry_settings_settled, if there is no prepared transaction
 * after this call.  Takes no lock.
 */
uint64
registry_settings_in_doubt(void)
{
	uint64		prepared = pg_atomic_read_u64(&registry->settings_prepared);

	return prepared == pg_atomic_read_u64(&registry->settings_settled) ? 0 : prepared;
}

/*
 * Record that all such transactions have ended, unless one was prepared since
 * registry_settings_in_doubt returned this number.  They may have changed
 * pg_db_role_setting.  Takes no lock.
 */
void
registry_settings_settled(uint64 doubt)
{
	uint64		settled = pg_atomic_read_u64(&registry->settings_settled);

	registry_settings_changed();
	while (settled < doubt &&
		   !pg_atomic_compare_exchange_u64(&registry->settings_settled, &settled, doubt))
		continue;
}

/*
 * Record that a session that was connected to a template is exiting.
 * Acquires and releases the registry lock and a mutex.
 */
void
registry_template_left(Oid oid)
{
	template_note(oid, NOTE_LEFT);
}
