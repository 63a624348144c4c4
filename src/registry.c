/*-------------------------------------------------------------------------
 *
 * registry.c
 *	  Shared memory: templates, their snapshots, and the databases that
 *	  testdb made from them.
 *
 * The registry is the server's memory of what is also recorded on disk (see
 * lease.c).  It is rebuilt from there whenever shared memory is: at server
 * start, and after the crash of a process.  It knows neither catalogs nor
 * files.
 *
 * A crash at any point ends in a restart that reads the disk: what is
 * recorded there as held comes back as LEASED, everything else is removed.
 *
 * This file is the store: entries, and who may read and change them.  states.c has
 * their states.  What is decided about them is in files beside it, which share
 * registry_internal.h: spares.c, victims.c, expiry.c, quota.c, templates.c, stats.c, signals.c.
 *
 * Locks.  The registry lock guards membership: which clones and templates
 * have an entry.  Each template has a mutex, which guards the fields of its
 * entry and of its clones' entries.  Whoever needs both takes the registry
 * lock first.  Both are held for microseconds only: nothing here reads a
 * file or touches a catalog, and registry_wait_for_spare sleeps without them.
 * clone_acquire, template_acquire and the scans take and release both; only who
 * changes the membership, or has to see all entries at one time, takes the
 * registry lock itself, exclusively, which keeps everybody from all mutexes.
 * Callers get copies.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "registry.h"
#include "registry_internal.h"
#include "signals.h"

#define REGISTRY_TRANCHE	"testdb_registry"

#define TEMPLATE_TRANCHE	"testdb_template"

RegistrySharedState *registry = NULL;

HTAB	   *clone_hash = NULL;

/*
 * Size of the part of shared memory that is not the hash table, in bytes.
 */
static Size
registry_state_size(void)
{
	return add_size(offsetof(RegistrySharedState, templates),
					mul_size(testdb_max_templates, sizeof(TemplateEntry)));
}

/*
 * How many clones there can be: besides testdb.max_clones, one for each worker
 * that replaces a clone by a new one.
 */
static int
clone_capacity(void)
{
	return testdb_max_clones + testdb_workers;
}

/*
 * Shared memory that the registry needs, in bytes.
 */
Size
registry_shmem_size(void)
{
	return add_size(MAXALIGN(registry_state_size()),
					hash_estimate_size(clone_capacity(), sizeof(CloneEntry)));
}

/*
 * Reserve shared memory and locks; from shmem_request_hook only.
 */
void
registry_shmem_request(void)
{
	RequestAddinShmemSpace(registry_shmem_size());
	RequestNamedLWLockTranche(REGISTRY_TRANCHE, 1);
	RequestNamedLWLockTranche(TEMPLATE_TRANCHE, testdb_max_templates);
}

/*
 * Create the registry, or attach to it; from shmem_startup_hook only, with
 * AddinShmemInitLock held.
 *
 * The serial starts at the current time in microseconds, so that names made
 * from it differ from those of the server's earlier lives: nobody can make
 * more than one database in a microsecond.
 */
void
registry_shmem_init(void)
{
	HASHCTL		info;
	bool		found;

	registry = ShmemInitStruct("testdb registry", registry_state_size(), &found);
	if (!found)
	{
		LWLockPadded *mutexes = GetNamedLWLockTranche(TEMPLATE_TRANCHE);

		memset(registry, 0, registry_state_size());
		registry->lock = &GetNamedLWLockTranche(REGISTRY_TRANCHE)->lock;
		pg_atomic_init_u64(&registry->serial, (uint64) GetCurrentTimestamp());
		pg_atomic_init_u32(&registry->epoch, 1);
		pg_atomic_init_u32(&registry->recheck, 0);
		pg_atomic_init_u64(&registry->next_due, NEVER_DUE);
		pg_atomic_init_u32(&registry->ngarbage, 0);
		pg_atomic_init_u32(&registry->nreturned, 0);
		pg_atomic_init_u32(&registry->nunrestored, 0);
		pg_atomic_init_u32(&registry->ntouched, 0);
		pg_atomic_init_u32(&registry->uninstalled, 0);
		pg_atomic_init_u64(&registry->settings_generation, 1);
		pg_atomic_init_u32(&registry->settings_prepared, 0);
		pg_atomic_init_u32(&registry->stuck, 0);
		pg_atomic_init_u32(&registry->nwrites, 0);
		pg_atomic_init_u32(&registry->refill_told, 0);
		pg_atomic_init_u32(&registry->room_changes, 0);
		ConditionVariableInit(&registry->room_cv);
		for (int i = 0; i < testdb_max_templates; i++)
		{
			registry->templates[i].mutex = &mutexes[i].lock;
			dlist_init(&registry->templates[i].spares);
			ConditionVariableInit(&registry->templates[i].spare_cv);
		}
	}

	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(Oid);
	info.entrysize = sizeof(CloneEntry);
	clone_hash = shmem_init_hash_compat("testdb clones", clone_capacity(),
										&info, HASH_ELEM | HASH_BLOBS);
}

/*
 * The entry of a template, or NULL.  The registry lock is held.
 */
TemplateEntry *
template_find(Oid oid)
{
	Assert(LWLockHeldByMe(registry->lock));

	for (int i = 0; i < testdb_max_templates; i++)
		if (registry->templates[i].template.oid == oid)
			return &registry->templates[i];
	return NULL;
}

/*
 * Has a template no clones?  The registry lock is held exclusively.
 */
bool
template_is_unused(const TemplateEntry *entry)
{
	for (int i = 0; i < CLONE_NSTATES; i++)
		if (entry->template.nclones[i] > 0)
			return false;
	return true;
}

/*
 * The entry of a template, a new one if it has none; NULL if all are in use.
 * If the entry of a template without clones was taken for that, *evicted is
 * its OID.  The registry lock is held exclusively.
 */
TemplateEntry *
template_enter(Oid oid, Oid *evicted)
{
	TemplateEntry *entry = template_find(oid);

	Assert(LWLockHeldByMeInMode(registry->lock, LW_EXCLUSIVE));

	*evicted = InvalidOid;
	if (entry != NULL)
		return entry;
	entry = template_find(InvalidOid);
	for (int i = 0; entry == NULL && i < testdb_max_templates; i++)
		if (template_is_unused(&registry->templates[i]))
		{
			entry = &registry->templates[i];
			*evicted = entry->template.oid;
		}
	if (entry != NULL)
	{
		memset(&entry->template, 0, sizeof(entry->template));
		memset(entry->demands, 0, sizeof(entry->demands));
		entry->template.oid = oid;
		entry->template.spares_limit = -1;
		entry->refill_logged_at = 0;
		entry->look = LOOK_WHEN_WOKEN;
		dlist_init(&entry->spares);
		pg_atomic_fetch_add_u32(&registry->epoch, 1);
	}
	return entry;
}

/*
 * The entry of a clone, or NULL.  The registry lock is held.
 */
CloneEntry *
clone_find(Oid oid)
{
	Assert(LWLockHeldByMe(registry->lock));

	return (CloneEntry *) hash_search(clone_hash, &oid, HASH_FIND, NULL);
}

/*
 * The entry of a clone's template.  The registry lock is held, so that
 * neither can go.
 */
TemplateEntry *
clone_template(CloneEntry *entry)
{
	return &registry->templates[entry->slot];
}

/*
 * The entry of a clone, locked so that it stays and its fields can be read, or,
 * if mode is LW_EXCLUSIVE, be changed; NULL if it has none, and then no lock is
 * held.  The registry lock and the template's mutex are held until
 * clone_release, so nothing that takes long may be done meanwhile.
 */
CloneEntry *
clone_acquire(Oid oid, LWLockMode mode)
{
	CloneEntry *entry;

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = clone_find(oid);
	if (entry != NULL)
		LWLockAcquire(clone_template(entry)->mutex, mode);
	else
		LWLockRelease(registry->lock);
	return entry;
}

/*
 * Release what clone_acquire has locked.
 */
void
clone_release(CloneEntry *entry)
{
	LWLockRelease(clone_template(entry)->mutex);
	LWLockRelease(registry->lock);
}

/*
 * The entry of a template, locked like that, until template_release.  The
 * fields of its clones' entries are locked with it.
 */
TemplateEntry *
template_acquire(Oid oid, LWLockMode mode)
{
	TemplateEntry *entry;

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(oid);
	if (entry != NULL)
		LWLockAcquire(entry->mutex, mode);
	else
		LWLockRelease(registry->lock);
	return entry;
}

/*
 * Release what template_acquire has locked.
 */
void
template_release(TemplateEntry *entry)
{
	LWLockRelease(entry->mutex);
	LWLockRelease(registry->lock);
}

/*
 * Begin to go through all clones.  The registry lock is held until
 * clone_scan_end, so that none comes or goes, and mode is how the entry that
 * clone_scan_next has returned is locked until the next call.
 */
void
clone_scan_begin(CloneScan *scan, LWLockMode mode)
{
	LWLockAcquire(registry->lock, LW_SHARED);
	hash_seq_init(&scan->seq, clone_hash);
	scan->mode = mode;
	scan->entry = NULL;
	scan->ended = false;
}

/*
 * The next clone's entry, locked; NULL, with only the registry lock held, if
 * there is none.
 */
CloneEntry *
clone_scan_next(CloneScan *scan)
{
	if (scan->entry != NULL)
		LWLockRelease(clone_template(scan->entry)->mutex);
	scan->entry = hash_seq_search(&scan->seq);
	if (scan->entry != NULL)
		LWLockAcquire(clone_template(scan->entry)->mutex, scan->mode);
	else
		scan->ended = true;
	return scan->entry;
}

/*
 * Release all locks of a scan, whether it came to its end or not.
 */
void
clone_scan_end(CloneScan *scan)
{
	if (scan->entry != NULL)
		LWLockRelease(clone_template(scan->entry)->mutex);
	if (!scan->ended)
		hash_seq_term(&scan->seq);
	LWLockRelease(registry->lock);
}

/*
 * The same for all templates.
 */
void
template_scan_begin(TemplateScan *scan, LWLockMode mode)
{
	LWLockAcquire(registry->lock, LW_SHARED);
	scan->next = 0;
	scan->mode = mode;
	scan->entry = NULL;
}

TemplateEntry *
template_scan_next(TemplateScan *scan)
{
	if (scan->entry != NULL)
		LWLockRelease(scan->entry->mutex);
	scan->entry = NULL;
	while (scan->entry == NULL && scan->next < testdb_max_templates)
	{
		TemplateEntry *entry = &registry->templates[scan->next++];

		if (OidIsValid(entry->template.oid))
			scan->entry = entry;
	}
	if (scan->entry != NULL)
		LWLockAcquire(scan->entry->mutex, scan->mode);
	return scan->entry;
}

void
template_scan_end(TemplateScan *scan)
{
	if (scan->entry != NULL)
		LWLockRelease(scan->entry->mutex);
	LWLockRelease(registry->lock);
}

/*
 * Enter a clone, in state CREATING or LEASED, and its template, if that has
 * no entry.  replaces says that it will take the place of another, so that it
 * is not to count.  Takes and releases the registry lock.
 *
 * If testdb.max_clones or testdb.max_templates is reached, that is reported
 * as 53400 with the given elevel, and, if that is below ERROR, false is
 * returned.  After testdb_uninstall(), 55000, unless it replaces another.
 */
bool
registry_add_as(const TestdbClone *clone, bool replaces, int elevel, const char *by)
{
	CloneEntry *entry = NULL;
	TemplateEntry *template = NULL;
	Oid			evicted;
	bool		full;
	bool		found = false;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	if (!replaces && registry_is_uninstalled())
	{
		LWLockRelease(registry->lock);
		report_uninstalled();
	}
	full = registry->nclones >= (replaces ? clone_capacity() : testdb_max_clones);
	if (!full)
		template = template_enter(clone->template_oid, &evicted);
	if (template != NULL)
		entry = hash_search(clone_hash, &clone->oid, HASH_ENTER_NULL, &found);
	if (entry != NULL && !found)
	{
		entry->clone = *clone;
		entry->clone.lease = registry_next_serial();
		entry->slot = template - registry->templates;
		entry->payer = InvalidOid;
		entry->retry_at = 0;
		clone_begin_state(entry, clone->state, by);
		registry->nclones++;
	}
	LWLockRelease(registry->lock);

	if (full || (template != NULL && entry == NULL))
		ereport(elevel,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases created by testdb"),
				 errdetail("All %d are in use.", testdb_max_clones),
				 errhint("Drop some with testdb_drop, or increase \"%s\".",
						 "testdb.max_clones")));
	else if (template == NULL)
		ereport(elevel,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many templates have clones"),
				 errdetail("All %d are in use.", testdb_max_templates),
				 errhint("Drop all clones of a template, or increase \"%s\".",
						 "testdb.max_templates")));
	else if (found)
		elog(elevel, "database %u is in testdb's registry already", clone->oid);
	else
		return true;
	return false;
}

/*
 * Find a clone by its OID and copy it to *clone; false if testdb did not make
 * that database.  Takes and releases the registry lock and a mutex.
 */
bool
registry_lookup(Oid oid, TestdbClone *clone)
{
	CloneEntry *entry;

	entry = clone_acquire(oid, LW_SHARED);
	if (entry != NULL)
	{
		*clone = entry->clone;
		clone_release(entry);
	}

	return entry != NULL;
}

/*
 * Change an entry's state.  The template's mutex is held exclusively.
 *
 * A clone that could not be dropped or removed keeps the time at which that is
 * tried again, as registry_note_failure has set it.
 */
static void
change_state(CloneEntry *entry, CloneState state, const char *by)
{
	if ((entry->clone.state != CLONE_DROPPING && entry->clone.state != CLONE_REMOVING) ||
		(state != CLONE_LEASED && state != CLONE_GARBAGE))
		entry->retry_at = 0;
	clone_set_state_as(entry, state, by);
	if (state == CLONE_LEASED && clone_due(&entry->clone) != 0)
		lower_next_due(Max(clone_due(&entry->clone), entry->retry_at));
}

/*
 * Announce room to those who wait for it, if a clone in this state gives way to
 * another.  No lock is held.
 */
static void
announce_state(CloneState state)
{
	if (state == CLONE_SPARE || state == CLONE_RETURNED || state == CLONE_GARBAGE)
		registry_announce_room();
}

/*
 * Give a clone's entry the content of *clone, if its state is still the one
 * that is expected, and, if that is LEASED, its lease the same; false if not,
 * or if there is no such clone.
 * Takes and releases the registry lock and a mutex.
 */
bool
registry_update_as(const TestdbClone *clone, CloneState from, const char *by)
{
	CloneEntry *entry;
	bool		done = false;

	entry = clone_acquire(clone->oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		done = entry->clone.state == from &&
			(from != CLONE_LEASED || entry->clone.lease == clone->lease);
		if (done)
		{
			CloneState	state = entry->clone.state;

			entry->clone = *clone;
			entry->clone.state = state;
			change_state(entry, clone->state, by);
		}
		clone_release(entry);
	}
	if (done)
		announce_state(clone->state);

	return done;
}

/*
 * The clone that is LEASED under this number gets another state, and is copied
 * to *clone; false if it is no longer.  A clone keeps its OID from one lease to
 * the next: only the number tells which is meant.  Takes and releases the
 * registry lock and a mutex.
 */
bool
registry_end_lease_as(Oid oid, uint64 lease, CloneState to, TestdbClone *clone,
					  const char *by)
{
	if (!registry_lookup(oid, clone) || clone->lease != lease)
		return false;
	clone->state = to;
	return registry_update_as(clone, CLONE_LEASED, by);
}

/*
 * The number of a database's lease; 0 if testdb did not make it.  Takes and
 * releases the registry lock and a mutex.
 */
uint64
registry_lease(Oid oid)
{
	TestdbClone clone;

	return registry_lookup(oid, &clone) ? clone.lease : 0;
}

/*
 * Give a clone another state, if its state is still the one that is expected;
 * false if not, or if there is no such clone.  Nothing else of its entry
 * changes.  Takes and releases the registry lock and a mutex.
 */
bool
registry_set_state_as(Oid oid, CloneState from, CloneState to, const char *by)
{
	CloneEntry *entry;
	bool		done = false;

	entry = clone_acquire(oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		done = entry->clone.state == from;
		if (done)
			change_state(entry, to, by);
		clone_release(entry);
	}
	if (done)
		announce_state(to);

	return done;
}

/*
 * A clone that is DROPPING, because it was reset, is LEASED again, with a new
 * content; its terms are what has become of them meanwhile.  Takes and releases
 * the registry lock and a mutex.
 */
void
registry_finish_reset(const TestdbClone *clone)
{
	CloneEntry *entry;

	entry = clone_acquire(clone->oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		entry->clone.version = clone->version;
		entry->clone.row_version = clone->row_version;
		clone_set_unrestored(entry, false);
		clone_set_state(entry, CLONE_LEASED);
		if (clone_due(&entry->clone) != 0)
			lower_next_due(clone_due(&entry->clone));
		clone_release(entry);
	}
}

/*
 * Note that the content of a clone that is REWINDING is neither the old nor the
 * new, so that nobody may see it.  Takes and releases the registry lock and a
 * mutex.
 */
void
registry_set_unrestored(Oid oid)
{
	CloneEntry *entry;

	entry = clone_acquire(oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		clone_set_unrestored(entry, true);
		clone_release(entry);
	}
}

/*
 * Is there any such clone?  Takes no lock.
 */
bool
registry_has_unrestored(void)
{
	return pg_atomic_read_u32(&registry->nunrestored) > 0;
}

/*
 * Report whether the clone of this name, as far as the registry knows it, is one
 * of those.  Takes and releases the registry lock and mutexes, if there are any.
 */
bool
registry_is_unrestored(const char *name)
{
	CloneScan	scan;
	CloneEntry *entry;
	bool		found = false;

	if (!registry_has_unrestored())
		return false;
	clone_scan_begin(&scan, LW_SHARED);
	while (!found && (entry = clone_scan_next(&scan)) != NULL)
		found = entry->clone.unrestored &&
			strcmp(NameStr(entry->clone.name), name) == 0;
	clone_scan_end(&scan);
	return found;
}

/*
 * The clone new, which is CREATING, is LEASED on the terms of the clone old,
 * which stays DROPPING.  Takes and releases the registry lock.
 */
void
registry_replace(Oid old, const TestdbClone *new)
{
	CloneEntry *from;
	CloneEntry *to;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	from = clone_find(old);
	to = clone_find(new->oid);
	if (from != NULL && to != NULL)
	{
		uint64		lease = to->clone.lease;
		CloneState	state = to->clone.state;

		to->clone = *new;
		to->clone.state = state;
		to->clone.lease = lease;
		to->clone.terms = from->clone.terms;
		to->clone.created_at = from->clone.created_at;
		to->clone.expires_at = from->clone.expires_at;
		to->clone.used_at = GetCurrentTimestamp();
		clone_set_unrestored(from, false);
		from->fallback = CLONE_GARBAGE;
		clone_set_state(to, CLONE_LEASED);
		to->payer = from->payer;
		if (clone_due(&to->clone) != 0)
			lower_next_due(clone_due(&to->clone));
	}
	LWLockRelease(registry->lock);
}

/*
 * Remove a clone's entry.  The registry lock is held exclusively.
 */
void
registry_forget_entry_as(CloneEntry *entry, const char *by)
{
	Oid			oid = entry->clone.oid;

	clone_end_state(entry, by);
	clone_set_unrestored(entry, false);
	registry->nclones--;
	hash_search(clone_hash, &oid, HASH_REMOVE, NULL);
}

/*
 * Forget a clone; nothing happens if it is not there.  Takes and releases the
 * registry lock.
 */
void
registry_remove_as(Oid oid, const char *by)
{
	CloneEntry *entry;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry = clone_find(oid);
	if (entry != NULL)
		registry_forget_entry_as(entry, by);
	LWLockRelease(registry->lock);
	registry_announce_room();
}

/*
 * The same, if its state is still the one that is expected; false if not, or if it
 * is not there.
 */
bool
registry_forget_as(Oid oid, CloneState from, const char *by)
{
	CloneEntry *entry;
	bool		done;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry = clone_find(oid);
	done = entry != NULL && entry->clone.state == from;
	if (done)
		registry_forget_entry_as(entry, by);
	LWLockRelease(registry->lock);
	if (done)
		registry_announce_room();

	return done;
}

/*
 * Find a clone that should be removed now: it becomes REMOVING, and is copied to
 * *clone; false if there is none.  Takes and releases the registry lock and
 * mutexes.
 */
bool
registry_take_garbage(TestdbClone *clone)
{
	CloneScan	scan;
	CloneEntry *entry;
	TimestampTz now;
	bool		found = false;

	if (pg_atomic_read_u32(&registry->ngarbage) == 0)
		return false;

	now = GetCurrentTimestamp();
	clone_scan_begin(&scan, LW_EXCLUSIVE);
	while (!found && (entry = clone_scan_next(&scan)) != NULL)
		if (entry->clone.state == CLONE_GARBAGE && entry->retry_at <= now)
		{
			clone_set_state(entry, CLONE_REMOVING);
			*clone = entry->clone;
			found = true;
		}
	clone_scan_end(&scan);

	return found;
}

/*
 * Is there any clone that should be removed, now or later?  Takes no lock.
 */
bool
registry_has_garbage(void)
{
	return pg_atomic_read_u32(&registry->ngarbage) > 0;
}

/*
 * Copy clones into an array in the current memory context, all, or only those that
 * are templates of build.c; *nclones is their number.  Takes and releases the
 * registry lock and mutexes.
 */
static TestdbClone *
list_clones(bool builds_only, int *nclones)
{
	HASH_SEQ_STATUS seq;
	CloneScan	scan;
	CloneEntry *entry;
	TestdbClone *clones;
	int			n = 0;
	int			nbuilds = 0;

	clone_scan_begin(&scan, LW_SHARED);
	if (builds_only)
	{
		/* Without the mutex: one that changes meanwhile may be missed or not. */
		hash_seq_init(&seq, clone_hash);
		while ((entry = hash_seq_search(&seq)) != NULL)
			nbuilds += NameStr(entry->clone.terms.build)[0] != '\0';
	}
	else
		nbuilds = registry->nclones;
	clones = palloc_array(TestdbClone, nbuilds + 1);
	while ((entry = clone_scan_next(&scan)) != NULL)
		if (n < nbuilds + 1 &&
			(!builds_only || NameStr(entry->clone.terms.build)[0] != '\0'))
			clones[n++] = entry->clone;
	clone_scan_end(&scan);

	*nclones = n;
	return clones;
}

/*
 * Copy all clones; see list_clones.
 */
TestdbClone *
registry_list(int *nclones)
{
	return list_clones(false, nclones);
}

/*
 * Copy those that are templates which testdb_template_begin has made.
 */
TestdbClone *
registry_list_builds(int *nbuilds)
{
	return list_clones(true, nbuilds);
}

/*
 * A number that no other call of this or an earlier server life got.
 */
uint64
registry_next_serial(void)
{
	return pg_atomic_fetch_add_u64(&registry->serial, 1);
}

/*
 * Report whether only the last eighth of testdb.max_clones is left, for clones that
 * somebody asks for.  The registry lock is held.
 */
bool
registry_is_nearly_full(void)
{
	return registry->nclones >= testdb_max_clones - testdb_max_clones / 8;
}

/*
 * Is testdb.max_clones reached?  Takes and releases the registry lock.
 */
bool
registry_is_full(void)
{
	bool		full;

	LWLockAcquire(registry->lock, LW_SHARED);
	full = registry->nclones >= testdb_max_clones;
	LWLockRelease(registry->lock);

	return full;
}
