/*-------------------------------------------------------------------------
 *
 * registry.c
 *	  Shared memory: which databases testdb made, from which templates.
 *
 * The registry is the server's memory of what is also recorded on disk (see
 * lease.c).  It is rebuilt from there whenever shared memory is: at server
 * start, and after the crash of a process.  It knows neither catalogs nor
 * files.
 *
 * The life of a clone:
 *
 *		(none) --add--> CREATING --> LEASED --> GARBAGE --remove--> (none)
 *						    |                      ^
 *						    +----------------------+
 *
 *	CREATING	Set by the worker that makes the database, before anything of
 *				it exists.  If that worker fails or dies, it or its exit
 *				callback changes the state to GARBAGE.
 *	LEASED		Set by the same worker when the database is complete and its
 *				lease is on disk; found so at server start.  testdb_drop
 *				removes the entry; a caller who has gone in the meantime
 *				leaves GARBAGE.
 *	GARBAGE		Some worker removes whatever there is of the database, then
 *				the entry.  Failing that, it tries again later.
 *
 * A crash at any point ends in a restart that reads the disk: what is
 * recorded there as leased comes back as LEASED, everything else is removed.
 *
 * Locks.  The registry lock guards membership: which clones and templates
 * have an entry.  Each template's mutex guards the fields of its clones'
 * entries.  Whoever needs both takes the registry lock first.  Both are held
 * for microseconds only: nothing here reads a file, touches a catalog or
 * waits.  Callers get copies.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "registry.h"

#define REGISTRY_TRANCHE	"testdb_registry"
#define TEMPLATE_TRANCHE	"testdb_template"

/* A clone's entry.  Membership: registry lock.  Fields: template's mutex. */
typedef struct CloneEntry
{
	TestdbClone clone;			/* clone.oid is the hash key, never changed */
	int			template_slot;	/* never changed */
	TimestampTz retry_at;		/* GARBAGE: not to be tried before */
} CloneEntry;

/* A template's entry.  oid and nclones: registry lock. */
typedef struct TemplateEntry
{
	LWLock	   *mutex;			/* never changed */
	Oid			oid;			/* InvalidOid if the slot is free */
	int			nclones;		/* entries that refer to this slot */
} TemplateEntry;

typedef struct RegistrySharedState
{
	LWLock	   *lock;			/* the registry lock */
	pg_atomic_uint64 serial;	/* see registry_next_serial; no lock */
	pg_atomic_uint32 ngarbage;	/* clones in state GARBAGE; changed under the
								 * clone's mutex, read without a lock as a
								 * hint */
	pg_atomic_uint32 recheck;	/* see registry_set_recheck; no lock */
	int			nclones;		/* registry lock */
	TemplateEntry templates[FLEXIBLE_ARRAY_MEMBER];
} RegistrySharedState;

static RegistrySharedState *registry = NULL;
static HTAB *clone_hash = NULL;

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
 * Shared memory that the registry needs, in bytes.
 */
Size
registry_shmem_size(void)
{
	return add_size(MAXALIGN(registry_state_size()),
					hash_estimate_size(testdb_max_clones, sizeof(CloneEntry)));
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

		registry->lock = &GetNamedLWLockTranche(REGISTRY_TRANCHE)->lock;
		pg_atomic_init_u64(&registry->serial, (uint64) GetCurrentTimestamp());
		pg_atomic_init_u32(&registry->ngarbage, 0);
		pg_atomic_init_u32(&registry->recheck, 0);
		registry->nclones = 0;
		for (int i = 0; i < testdb_max_templates; i++)
		{
			registry->templates[i].mutex = &mutexes[i].lock;
			registry->templates[i].oid = InvalidOid;
			registry->templates[i].nclones = 0;
		}
	}

	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(Oid);
	info.entrysize = sizeof(CloneEntry);
	clone_hash = ShmemInitHash("testdb clones",
							   testdb_max_clones, testdb_max_clones,
							   &info, HASH_ELEM | HASH_BLOBS);
}

/*
 * The slot of a template, a new one if it has none; -1 if all are in use.
 * The registry lock is held exclusively.
 */
static int
template_slot_acquire(Oid oid)
{
	int			free_slot = -1;

	Assert(LWLockHeldByMeInMode(registry->lock, LW_EXCLUSIVE));

	for (int i = 0; i < testdb_max_templates; i++)
	{
		if (registry->templates[i].oid == oid)
			return i;
		if (free_slot < 0 && registry->templates[i].nclones == 0)
			free_slot = i;
	}
	if (free_slot >= 0)
		registry->templates[free_slot].oid = oid;
	return free_slot;
}

/*
 * The entry of a clone, or NULL.  The registry lock is held.
 */
static CloneEntry *
clone_find(Oid oid)
{
	Assert(LWLockHeldByMe(registry->lock));

	return (CloneEntry *) hash_search(clone_hash, &oid, HASH_FIND, NULL);
}

/*
 * The mutex that guards an entry's fields.  The registry lock is held, so
 * that the entry cannot go.
 */
static LWLock *
clone_mutex(CloneEntry *entry)
{
	return registry->templates[entry->template_slot].mutex;
}

/*
 * Change the state of an entry.  Its mutex is held exclusively, or the
 * registry lock is.
 */
static void
clone_change_state(CloneEntry *entry, CloneState to)
{
	if (entry->clone.state == CLONE_GARBAGE)
		pg_atomic_fetch_sub_u32(&registry->ngarbage, 1);
	entry->clone.state = to;
	if (to == CLONE_GARBAGE)
		pg_atomic_fetch_add_u32(&registry->ngarbage, 1);
}

/*
 * Enter a clone, in state CREATING or LEASED.  Takes and releases the registry
 * lock.
 *
 * If testdb.max_clones or testdb.max_templates is reached, that is reported
 * as 53400 with the given elevel, and, if that is below ERROR, false is
 * returned.
 */
bool
registry_add(const TestdbClone *clone, int elevel)
{
	CloneEntry *entry = NULL;
	int			slot = -1;
	bool		full;
	bool		found = false;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	full = registry->nclones >= testdb_max_clones;
	if (!full)
		slot = template_slot_acquire(clone->template_oid);
	if (slot >= 0)
		entry = hash_search(clone_hash, &clone->oid, HASH_ENTER_NULL, &found);
	if (entry != NULL && !found)
	{
		Assert(clone->state != CLONE_GARBAGE);
		entry->clone = *clone;
		entry->template_slot = slot;
		entry->retry_at = 0;
		registry->templates[slot].nclones++;
		registry->nclones++;
	}
	LWLockRelease(registry->lock);

	if (full || (slot >= 0 && entry == NULL))
		ereport(elevel,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases made by testdb"),
				 errdetail("All %d are in use.", testdb_max_clones),
				 errhint("Drop some with testdb_drop, or increase \"%s\".",
						 "testdb.max_clones")));
	else if (slot < 0)
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

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = clone_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(clone_mutex(entry), LW_SHARED);
		*clone = entry->clone;
		LWLockRelease(clone_mutex(entry));
	}
	LWLockRelease(registry->lock);

	return entry != NULL;
}

/*
 * Change a clone's state, if it is the one that is expected; false if it was
 * another, or if there is no such clone.  Takes and releases the registry
 * lock and a mutex.
 */
bool
registry_set_state(Oid oid, CloneState from, CloneState to)
{
	CloneEntry *entry;
	bool		done = false;

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = clone_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(clone_mutex(entry), LW_EXCLUSIVE);
		done = entry->clone.state == from;
		if (done && from != to)
			clone_change_state(entry, to);
		LWLockRelease(clone_mutex(entry));
	}
	LWLockRelease(registry->lock);

	return done;
}

/*
 * Forget a clone; nothing happens if it is not there.  Takes and releases the
 * registry lock.
 */
void
registry_remove(Oid oid)
{
	CloneEntry *entry;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry = clone_find(oid);
	if (entry != NULL)
	{
		if (entry->clone.state == CLONE_GARBAGE)
			pg_atomic_fetch_sub_u32(&registry->ngarbage, 1);
		registry->templates[entry->template_slot].nclones--;
		registry->nclones--;
		hash_search(clone_hash, &oid, HASH_REMOVE, NULL);
	}
	LWLockRelease(registry->lock);
}

/*
 * Find a clone that should be removed now and copy it to *clone; false if
 * there is none.  It is put off for a minute, so that no other worker takes
 * it at the same time.  Takes and releases the registry lock and mutexes.
 */
bool
registry_take_garbage(TestdbClone *clone)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;
	TimestampTz now = GetCurrentTimestamp();
	bool		found = false;

	if (pg_atomic_read_u32(&registry->ngarbage) == 0)
		return false;

	LWLockAcquire(registry->lock, LW_SHARED);
	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		LWLockAcquire(clone_mutex(entry), LW_EXCLUSIVE);
		if (entry->clone.state == CLONE_GARBAGE && entry->retry_at <= now)
		{
			entry->retry_at = TimestampTzPlusMilliseconds(now, 60 * 1000);
			*clone = entry->clone;
			found = true;
		}
		LWLockRelease(clone_mutex(entry));
		if (found)
		{
			hash_seq_term(&scan);
			break;
		}
	}
	LWLockRelease(registry->lock);

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
 * Say that a clone's removal failed and should be tried again in delay_ms
 * milliseconds.  Takes and releases the registry lock and a mutex.
 */
void
registry_postpone_garbage(Oid oid, int delay_ms)
{
	CloneEntry *entry;

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = clone_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(clone_mutex(entry), LW_EXCLUSIVE);
		entry->retry_at =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms);
		LWLockRelease(clone_mutex(entry));
	}
	LWLockRelease(registry->lock);
}

/*
 * Copy all clones into an array in the current memory context; *nclones is
 * their number.  Takes and releases the registry lock and mutexes.
 *
 * The array is made before the lock is taken, for the largest number that can
 * be: an error under an LWLock would be harmless, but the allocation may not
 * be quick.
 */
TestdbClone *
registry_list(int *nclones)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;
	TestdbClone *clones = palloc_array(TestdbClone, testdb_max_clones);
	int			n = 0;

	LWLockAcquire(registry->lock, LW_SHARED);
	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		LWLockAcquire(clone_mutex(entry), LW_SHARED);
		clones[n++] = entry->clone;
		LWLockRelease(clone_mutex(entry));
	}
	LWLockRelease(registry->lock);

	*nclones = n;
	return clones;
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
 * Say that a clone may have been dropped by plain SQL, so that some worker
 * should compare the registry with pg_database.
 */
void
registry_set_recheck(void)
{
	pg_atomic_write_u32(&registry->recheck, 1);
}

/*
 * Has registry_set_recheck been called since the last call of this function?
 */
bool
registry_take_recheck(void)
{
	return pg_atomic_read_u32(&registry->recheck) != 0 &&
		pg_atomic_exchange_u32(&registry->recheck, 0) != 0;
}
