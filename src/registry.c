/*-------------------------------------------------------------------------
 *
 * registry.c
 *	  Shared memory: templates, their snapshots, and the databases created
 *	  from them.
 *
 * The registry is the copy in shared memory of what the leases record on disk
 * (see lease.c).  It is rebuilt from them whenever shared memory is
 * initialized: at server start, and after the crash of a process.  This file
 * accesses neither catalogs nor files.
 *
 * After a crash at any point, clones whose lease is HELD become LEASED again,
 * and all others are removed.
 *
 * This file is the store: the entries and the access to them.  Their states
 * are in states.c, and the policies in spares.c, victims.c, expiry.c,
 * quota.c, templates.c, stats.c and signals.c; all of these include
 * registry_internal.h.
 *
 * Locks.  The registry lock protects membership: which clones and templates
 * have an entry.  Each template has a mutex, an LWLock as well, which
 * protects the fields of its entry and of its clones' entries.  A process
 * that needs both acquires the registry lock first.  Both are held for
 * microseconds only: nothing here reads a file or a catalog, and
 * registry_wait_for_spare sleeps without them.  clone_acquire,
 * template_acquire and the scans acquire and release both.  Code that changes
 * the membership, or needs a consistent view of all entries, acquires the
 * registry lock exclusively, which implies exclusive access to all fields,
 * since mutexes are only acquired under it; except in end_wait (spares.c).
 * Callers of this module get copies.
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
 * Return the size of the shared memory without the hash table, in bytes.
 */
static Size
registry_state_size(void)
{
	return add_size(offsetof(RegistrySharedState, templates),
					mul_size(testdb_max_templates, sizeof(TemplateEntry)));
}

/*
 * Return the maximum number of clones: in addition to testdb.max_clones, one
 * for each worker that replaces a clone by a new one.
 */
static int
clone_capacity(void)
{
	return testdb_max_clones + testdb_workers;
}

/*
 * Return the size of the registry's shared memory, in bytes.
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
 * The serial starts at the current time in microseconds, so that names
 * derived from it differ from those of earlier runs of the server: no server
 * creates more than one database per microsecond.
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
		/* There may be transactions that were prepared before. */
		pg_atomic_init_u64(&registry->settings_prepared, 1);
		pg_atomic_init_u64(&registry->settings_settled, 0);
		pg_atomic_init_u32(&registry->stuck, 0);
		pg_atomic_init_u32(&registry->lease_removals, 0);
		pg_atomic_init_u32(&registry->nwrites, 0);
		pg_atomic_init_u64(&registry->refill_told, 0);
		pg_atomic_init_u64(&registry->refill_soon, 0);
		pg_atomic_init_u32(&registry->room_changes, 0);
		ConditionVariableInit(&registry->room_cv);
		for (int i = 0; i < testdb_max_templates; i++)
		{
			registry->templates[i].mutex = &mutexes[i].lock;
			dlist_init(&registry->templates[i].spares);
			dlist_init(&registry->templates[i].coming);
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
 * Return the entry of a template, or NULL if it has none; with InvalidOid,
 * return an unused entry, or NULL if all are in use.  The registry lock must
 * be held.
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
 * Report whether a template has no clones.  The registry lock must be held
 * exclusively.
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
 * Return the entry of a template, after creating it if there is none; NULL if
 * all testdb.max_templates entries are in use.  If the entry of a template
 * without clones was reused for that, *evicted is its OID, else InvalidOid.
 * The registry lock must be held exclusively.
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
		dlist_init(&entry->coming);
		pg_atomic_fetch_add_u32(&registry->epoch, 1);
	}
	return entry;
}

/*
 * Return the entry of a clone, or NULL.  The registry lock must be held.
 */
CloneEntry *
clone_find(Oid oid)
{
	Assert(LWLockHeldByMe(registry->lock));

	return (CloneEntry *) hash_search(clone_hash, &oid, HASH_FIND, NULL);
}

/*
 * Return the entry of a clone's template.  The registry lock must be held, so
 * that neither entry can be removed.
 */
TemplateEntry *
clone_template(CloneEntry *entry)
{
	return &registry->templates[entry->slot];
}

/*
 * Return the entry of a clone, locked; NULL if it has none, and then no lock
 * is held.  Acquires the registry lock in shared mode and the template's
 * mutex in the given mode: LW_SHARED to read the fields, LW_EXCLUSIVE to
 * change them.  Both are held until clone_release.
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
 * Release the locks acquired by clone_acquire.
 */
void
clone_release(CloneEntry *entry)
{
	LWLockRelease(clone_template(entry)->mutex);
	LWLockRelease(registry->lock);
}

/*
 * Return the entry of a template, locked in the same way until
 * template_release; NULL if it has none, and then no lock is held.  The
 * fields of its clones' entries are protected as well.
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
 * Release the locks acquired by template_acquire.
 */
void
template_release(TemplateEntry *entry)
{
	LWLockRelease(entry->mutex);
	LWLockRelease(registry->lock);
}

/*
 * Begin a scan of all clones.  The registry lock is held in shared mode until
 * clone_scan_end, so that no entries are added or removed; the mutex of the
 * entry that clone_scan_next returned is held in the given mode until the
 * next call.
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
 * Return the next clone's entry, locked; NULL at the end, with only the
 * registry lock held.
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
 * Release all locks of a scan.  It need not have reached its end.
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
 * Begin a scan of all templates, in the same way.
 */
void
template_scan_begin(TemplateScan *scan, LWLockMode mode)
{
	LWLockAcquire(registry->lock, LW_SHARED);
	scan->next = 0;
	scan->mode = mode;
	scan->entry = NULL;
}

/*
 * Return the next template's entry, locked; NULL at the end, with only the
 * registry lock held.
 */
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

/*
 * Release all locks of a scan of templates.
 */
void
template_scan_end(TemplateScan *scan)
{
	if (scan->entry != NULL)
		LWLockRelease(scan->entry->mutex);
	LWLockRelease(registry->lock);
}

/*
 * Create the entry of a clone, in the state given in *clone, and of its
 * template if that has none.  replaces says that it will replace another
 * clone, so it may exceed testdb.max_clones.  by is the calling function, for
 * the checks of states.c.  Acquires and releases the registry lock.
 *
 * If testdb.max_clones or testdb.max_templates is reached, that is reported
 * as 53400 with the given elevel, and false is returned if that is below
 * ERROR.
 *
 * Errors: 55000 after testdb_uninstall(), unless replaces is set.
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
 * Copy a clone's entry to *clone; false if testdb did not create that
 * database.  Acquires and releases the registry lock and a mutex.
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
 * Change the state of an entry.  The template's mutex must be held
 * exclusively.
 *
 * A clone whose drop or removal failed keeps the time of the next try, as set
 * by registry_note_failure.
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
 * Announce room to processes that wait for it, if a clone in this state can
 * be given up for another.  No lock may be held.
 */
static void
announce_state(CloneState state)
{
	if (state == CLONE_SPARE || state == CLONE_RETURNED || state == CLONE_GARBAGE)
		registry_announce_room();
}

/*
 * Replace a clone's entry by *clone, its state included, if its state is
 * still from, and, if that is LEASED, its lease the same; false if not, or if
 * it has no entry.  by is as in registry_add_as.  Acquires and releases the
 * registry lock and a mutex.
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
 * Change the state of the clone that is LEASED with this lease number, and
 * copy its entry to *clone; false if it no longer is.  The number identifies
 * the lease, since a clone keeps its OID from one lease to the next.  by is
 * as in registry_add_as.  Acquires and releases the registry lock and a
 * mutex.
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
 * Return the number of a database's lease; 0 if testdb did not create it.
 * Acquires and releases the registry lock and a mutex.
 */
uint64
registry_lease(Oid oid)
{
	TestdbClone clone;

	return registry_lookup(oid, &clone) ? clone.lease : 0;
}

/*
 * Change a clone's state from one to another, and nothing else of its entry;
 * false if it has another state, or no entry.  by is as in registry_add_as.
 * Acquires and releases the registry lock and a mutex.
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
 * Make a clone that is DROPPING or REWINDING LEASED again, with the versions
 * in *clone.  Its terms are not changed: they may have been updated in the
 * meantime.  Nothing happens if it has no entry.  Acquires and releases the
 * registry lock and a mutex.
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
 * Record that the content of a clone that is being reset or rewound is partly
 * restored, so that no session may see it.  Acquires and releases the
 * registry lock and a mutex.
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
 * Report whether there is such a clone.  Takes no lock.
 */
bool
registry_has_unrestored(void)
{
	return pg_atomic_read_u32(&registry->nunrestored) > 0;
}

/*
 * Report whether the clone with this name, according to the registry, is such
 * a clone.  Acquires and releases the registry lock and mutexes, if there are
 * any.
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
 * Record the name of a clone that may have been renamed, by which sessions
 * that connect to it are recognized while it is to be restored.  Acquires and
 * releases the registry lock and a mutex.
 */
void
registry_set_name(Oid oid, const NameData *name)
{
	CloneEntry *entry = clone_acquire(oid, LW_EXCLUSIVE);

	if (entry != NULL)
	{
		entry->clone.name = *name;
		clone_release(entry);
	}
}

/*
 * Make the clone new, which is CREATING, LEASED under the terms of the clone
 * old, which stays DROPPING.  Nothing happens if one of them has no entry.
 * Acquires and releases the registry lock.
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
 * Remove a clone's entry.  by is as in registry_add_as.  The registry lock
 * must be held exclusively.
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
 * Remove a clone's entry, if it has one.  by is as in registry_add_as.
 * Acquires and releases the registry lock.
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
 * The same, if its state is still from; false if not, or if it has no entry.
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
 * Find a clone that is GARBAGE and due to be removed, make it REMOVING and
 * copy its entry to *clone; false if there is none.  Acquires and releases
 * the registry lock and mutexes.
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
 * Report whether there is a clone that is GARBAGE, due or not.  Takes no
 * lock.
 */
bool
registry_has_garbage(void)
{
	return pg_atomic_read_u32(&registry->ngarbage) > 0;
}

/*
 * Return an array of copies of the clones' entries, allocated in the current
 * memory context; with builds_only, of those that are builds of a template
 * (build.c).  *nclones is their number.  Acquires and releases the registry
 * lock and mutexes.
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
		/* Read without the mutexes: a concurrent change may be missed. */
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
 * Return copies of all clones' entries; see list_clones.
 */
TestdbClone *
registry_list(int *nclones)
{
	return list_clones(false, nclones);
}

/*
 * Return copies of the entries of the templates created by
 * testdb_template_begin; see list_clones.
 */
TestdbClone *
registry_list_builds(int *nbuilds)
{
	return list_clones(true, nbuilds);
}

/*
 * Return a number that no other call returns, in this or an earlier run of
 * the server.  Takes no lock.
 */
uint64
registry_next_serial(void)
{
	return pg_atomic_fetch_add_u64(&registry->serial, 1);
}

/*
 * Report whether only the last eighth of testdb.max_clones is left, which is
 * kept for clones requested by sessions.  Without the registry lock the result
 * may be outdated.
 */
bool
registry_is_nearly_full(void)
{
	return registry->nclones >= testdb_max_clones - testdb_max_clones / 8;
}

/*
 * Report whether testdb.max_clones is reached.  Acquires and releases the
 * registry lock.
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
