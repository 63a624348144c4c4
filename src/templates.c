/*-------------------------------------------------------------------------
 *
 * templates.c
 *	  Templates: their snapshots, and whether clones are as they are now.
 *
 * A template has a counter and a version.  generation goes up before each user's
 * commit in the template's database (freshness.c), version with each change of its
 * snapshot (snapshot.c).  A snapshot is fresh if it was taken at the current
 * generation; a spare is if its version is the snapshot's.  unverified says that a
 * session has been in the template and may have changed it without a transaction ID,
 * or that maintenance did; whether it did is found out when nobody is in it.
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
 * Are a template's row and settings what they were when it was last looked at?
 */
static bool
template_row_is_same(const TestdbTemplate *template, const TemplateRow *row)
{
	return template->settings_generation ==
		pg_atomic_read_u64(&registry->settings_generation) &&
		pg_atomic_read_u32(&registry->settings_prepared) == 0 &&
		template->row.xmin == row->xmin &&
		ItemPointerEquals(unconstify(ItemPointerData *, &template->row.tid),
						  unconstify(ItemPointerData *, &row->tid));
}

/*
 * How far a template's snapshot is behind the template, and a clone behind the
 * snapshot: BEHIND_ flags, 0 if not at all.  row is what the caller has just read
 * of the template in pg_database, or NULL if the row does not matter; clone may be
 * NULL as well.  Of an entry, the mutex is held.
 *
 * Whether a snapshot is too old for the server's pg_xact is another matter, which
 * snapshot_lock_current finds out.
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
 * Find a template and copy it to *template; false if it has no entry.  Takes
 * and releases the registry lock and a mutex.
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
 * The version of a template's row and settings, if they are still those that
 * are known; 0 if not.  row is what the caller has just read.  Takes and
 * releases the registry lock and a mutex.
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
 * Make sure that a template has an entry, before its snapshot is taken, so
 * that no commit in it goes unnoticed.  False if all entries are in use.  If
 * the entry of a template without clones was taken for that, *evicted is its
 * OID: its snapshot must go.  Takes and releases the registry lock.
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
 * Enter what is now known of a template's snapshot, from *new; the counters
 * that others change are left alone.  verified says that the files were
 * compared, with no session in the template.  Takes and releases the registry
 * lock and a mutex.
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
			template->dropped = false;	/* another one has its OID */
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
 * Say that a template has no snapshot (any more).  If it can't have one,
 * obstacle says why, and its spares become garbage; else it is an empty
 * string.  Takes and releases the registry lock and a mutex.
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
 * Say that a template's snapshot, which is locked, must be taken anew.  The
 * clones that were made from it are none the worse for that: spares go on being
 * handed out.  False if that is known already.  Takes and releases the registry
 * lock and a mutex.
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
 * Is a database among those that nobody has got, or will get now that its
 * template has been dropped?  The registry lock is held exclusively.
 */
static bool
is_left_over(const TestdbClone *clone)
{
	return clone->state != CLONE_LEASED && clone->state != CLONE_REWINDING &&
		(clone->state != CLONE_CREATING || clone->ahead);
}

/*
 * Forget a template that has been dropped: its spares become garbage, also those
 * that are still being made; its entry goes when it has no clones.  Returns how
 * many databases made from it are still there that nobody has, so that it can be
 * called again.  Takes and releases the registry lock and a mutex.
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
		/* Who waits for a spare looks at the list with the mutex alone. */
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
 * Copy all templates into an array in the current memory context; *ntemplates
 * is their number.  Takes and releases the registry lock and mutexes.
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
 * What the copies of a template take, as it has been read.
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
 * Has a template, as it has been read, clones besides those that are being removed
 * or wait for that?
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
 * What databases take that nobody has got, or that are being made, in bytes: of
 * one template, or of all if that is InvalidOid.  Takes and releases the registry
 * lock and mutexes.
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
 * Say that a template has no snapshot any more, unless something was made from it
 * that may need it, or it is the template itself: then false.  Takes and releases
 * the registry lock and a mutex.
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
 * Has a database an entry as a template?  Takes and releases the registry
 * lock.
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
 * A number that changes whenever a template gets or loses its entry, so that
 * a session can remember whether it is in one.  Takes no lock.
 */
uint32
registry_epoch(void)
{
	return pg_atomic_read_u32(&registry->epoch);
}

/* What template_note should note. */
typedef enum TemplateNote
{
	NOTE_CHANGED,
	NOTE_LEFT
} TemplateNote;

/*
 * Note something about a template; nothing happens if it has no entry.  Takes
 * and releases the registry lock and a mutex.
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
 * Say that a transaction that wrote to a template is about to commit.
 */
void
registry_template_changed(Oid oid)
{
	template_note(oid, NOTE_CHANGED);
}

/*
 * Say that pg_db_role_setting is about to change, or has changed.  Takes no
 * lock.
 */
void
registry_settings_changed(void)
{
	pg_atomic_fetch_add_u64(&registry->settings_generation, 1);
}

/*
 * A number that goes up with each change of pg_db_role_setting.  Takes no lock.
 */
uint64
registry_settings_generation(void)
{
	return pg_atomic_read_u64(&registry->settings_generation);
}

/*
 * Say whether there may be a prepared transaction that changes
 * pg_db_role_setting when it is committed, which nobody will notice: until
 * there is none, no template's settings are taken as known.  Takes no lock.
 */
void
registry_settings_prepared(bool prepared)
{
	pg_atomic_write_u32(&registry->settings_prepared, prepared ? 1 : 0);
}

/*
 * What was said.  Takes no lock.
 */
bool
registry_has_settings_prepared(void)
{
	return pg_atomic_read_u32(&registry->settings_prepared) != 0;
}

/*
 * Say that a session that was in a template is ending.
 */
void
registry_template_left(Oid oid)
{
	template_note(oid, NOTE_LEFT);
}
