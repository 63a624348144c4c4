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
 * The life of a clone:
 *
 *						  +---------- taken ----------+
 *						  v                           |
 *		(none) --add--> CREATING ---> LEASED          |
 *							|          |              |
 *							|          v              |
 *							|      DROPPING           |
 *							|       |    |            |
 *							|       |    v            |
 *							|       | RETURNED     SPARE --+
 *							|       |    |         ^       |
 *							|       |    v         |       |
 *							|       | RESTORING ---+       |
 *							|       |    |                 |
 *							+-------+----+----> GARBAGE <--+
 *												   |
 *									(none) <--remove
 *
 *	CREATING	Set by the worker that makes the database, before anything of
 *				it exists, or by who takes a spare.  If that process fails or
 *				dies, it or its exit callback changes the state to GARBAGE.
 *	LEASED		Set by the same process when the database is complete and its
 *				lease is on disk; found so at server start.
 *	DROPPING	Set by the worker that drops or resets it, so that no other
 *				does.  LEASED again if that is refused, and REWINDING, marked as
 *				unrestored, if a reset fails in the middle.
 *	RETURNED	Set by the worker that dropped it: the row in pg_database has
 *				the name of the next life, and is marked invalid.
 *	RESTORING	Set by the worker that restores; its exit callback makes it
 *				GARBAGE.
 *	SPARE		Set by the same worker: the database equals the snapshot's
 *				version.  In the template's list of spares.
 *	TOUCHED		Set by a process that was refused in a spare: a worker takes it
 *				back, as if it had been dropped.
 *	GARBAGE		Some worker removes whatever there is of the database, then
 *				the entry.  Failing that, it tries again later.
 *
 * A clone may have a time at which it is to be dropped, or after which, if
 * nobody is in it.  next_due is the earliest of them, or earlier.
 *
 * A crash at any point ends in a restart that reads the disk: what is
 * recorded there as held comes back as LEASED, everything else is removed.
 *
 * A template has a counter and a version.  generation goes up before each
 * user's commit in the template's database (freshness.c), version with each change of
 * its snapshot (snapshot.c).  A snapshot is fresh if it was taken at the
 * current generation; a spare is if its version is the snapshot's.  unverified
 * says that a session has been in the template and may have changed it without
 * a transaction ID, or that maintenance did; whether it did is found out when nobody is in it.
 *
 * Limits.  A clone counts to testdb.max_clones_per_role for its payer: the role
 * that asked for it, whoever owns it now.  It does from the moment at which
 * registry_charge() allows it to be handed out, under the registry lock held
 * exclusively, so that no two calls are both the last, until it is dropped; also
 * while it is DROPPING, as that may be refused, and its replacement does after a
 * reset.  Spares have no payer: they make way for others.  A crash leaves the
 * owner that the lease has as the payer.  A database that CREATE DATABASE made has
 * none.
 *
 * The last eighth of testdb.max_clones and of testdb.max_templates, which is
 * none if that is below 8, is not for a role that is no superuser and that
 * has its fair share already: the limit divided by one more than the number of
 * roles that have clones, the caller being one of them.  Resets are exempt.
 * A template counts to each role that has clones of it.
 *
 * No spare is made ahead in the last eighth of testdb.max_clones either, since
 * what is CREATING can't make way for a clone.  Of errors in making
 * them, one with the same SQLSTATE is logged once in REFILL_LOG_INTERVAL for
 * each template.
 *
 * Locks.  The registry lock guards membership: which clones and templates
 * have an entry.  Each template has a mutex, which guards the fields of its
 * entry and of its clones' entries.  Whoever needs both takes the registry
 * lock first.  Both are held for microseconds only: nothing here reads a
 * file or touches a catalog, and registry_wait_for_spare sleeps without them.
 * Callers get copies.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "registry.h"

#define REGISTRY_TRANCHE	"testdb_registry"
#define TEMPLATE_TRANCHE	"testdb_template"

/* next_due if no clone is ever due. */
#define NEVER_DUE			((uint64) PG_INT64_MAX)

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

/* How many roles are told apart when fair shares are counted. */
#define MAX_SHARERS			64

/* How long other workers leave a clone alone that one is removing, in ms. */
#define GARBAGE_CLAIM		(60 * 1000)

/*
 * When to try again to drop or remove a clone, in s: the first time, which
 * doubles with each failure, and the longest; and after how many s a failure
 * that is like the last one is logged again.
 */
#define RETRY_FIRST			1
#define RETRY_LONGEST		300
#define RETRY_DOUBLINGS		10
#define FAILURE_LOG_INTERVAL 3600

/* A clone's entry.  Membership: registry lock.  Fields: template's mutex. */
typedef struct CloneEntry
{
	TestdbClone clone;			/* clone.oid is the hash key, never changed */
	int			slot;			/* of its template; never changed */
	Oid			payer;			/* the role that it counts to, or InvalidOid */
	TimestampTz retry_at;		/* not to be dropped or removed before */
	int			failures;		/* how often that has failed in this life */
	uint32		failure;		/* hash of the last error */
	TimestampTz failure_logged_at;
	dlist_node	node;			/* SPARE: in the template's list */
} CloneEntry;

/* When the worker that restores looks at a template's returned clones again. */
typedef enum RestoreLook
{
	LOOK_WHEN_WOKEN,
	LOOK_LATER,					/* after GATHER_TIME */
	LOOK_SOON					/* after GATHER_TIME_URGENT */
} RestoreLook;

/* A template's entry.  Membership: registry lock.  Fields: mutex. */
typedef struct TemplateEntry
{
	LWLock	   *mutex;			/* never changed */
	TestdbTemplate template;	/* template.oid: registry lock; InvalidOid if
								 * the slot is free */
	dlist_head	spares;			/* last one ready first: what is in caches */
	SpareDemand demands[MAX_DEMANDS];	/* what owners want */
	TimestampTz peak_at;		/* when template.peak was last reached or lowered */
	int			nwaiting;		/* sessions that sleep on spare_cv */
	int			refill_sqlstate;	/* of the last failure that was logged */
	TimestampTz refill_logged_at;	/* when that was; 0 if never */
	TimestampTz returned_at;	/* when the first clone was RETURNED that is
								 * still so */
	RestoreLook look;			/* LOOK_WHEN_WOKEN if none is */
	ConditionVariable spare_cv; /* sessions wait here for a spare; no lock */
} TemplateEntry;

typedef struct RegistrySharedState
{
	LWLock	   *lock;			/* the registry lock; never changed */
	pg_atomic_uint64 serial;	/* see registry_next_serial; no lock */
	pg_atomic_uint32 epoch;		/* see registry_epoch; no lock to read */
	pg_atomic_uint32 recheck;	/* see registry_set_recheck; no lock */
	pg_atomic_uint64 next_due;	/* a TimestampTz; lowered without a lock, raised
								 * by registry_take_expired */
	pg_atomic_uint64 settings_generation;	/* goes up with each change of
											 * pg_db_role_setting; no lock */
	pg_atomic_uint32 settings_prepared; /* may a prepared transaction change
										 * that?  no lock */
	pg_atomic_uint32 stuck;		/* see registry_set_stuck; no lock */
	pg_atomic_uint32 nwrites;	/* see registry_count_write; no lock */
	pg_atomic_uint32 refill_told;	/* have workers been told that spares run
									 * short since one last looked?  no lock */
	pg_atomic_uint32 ngarbage;	/* clones in these states; changed under a */
	pg_atomic_uint32 nreturned; /* mutex, read without as a hint */
	pg_atomic_uint32 nunrestored;	/* the same; clones whose rewinding was
									 * interrupted */
	pg_atomic_uint32 ntouched;
	pg_atomic_uint32 uninstalled;	/* may no databases be made?  changed under the
									 * registry lock and all mutexes, read under
									 * either, or without as a hint */
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
static TemplateEntry *
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
static bool
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
static TemplateEntry *
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
static CloneEntry *
clone_find(Oid oid)
{
	Assert(LWLockHeldByMe(registry->lock));

	return (CloneEntry *) hash_search(clone_hash, &oid, HASH_FIND, NULL);
}

/*
 * The entry of a clone's template.  The registry lock is held, so that
 * neither can go.
 */
static TemplateEntry *
clone_template(CloneEntry *entry)
{
	return &registry->templates[entry->slot];
}

/*
 * Take an entry out of, or put it into, what depends on its state: counters
 * and the list of spares.  The template's mutex, or the registry lock, is held
 * exclusively.
 */
static void
clone_leave_state(CloneEntry *entry)
{
	TemplateEntry *template = clone_template(entry);

	template->template.nclones[entry->clone.state]--;
	if (entry->clone.state == CLONE_GARBAGE)
		pg_atomic_fetch_sub_u32(&registry->ngarbage, 1);
	else if (entry->clone.state == CLONE_RETURNED)
	{
		pg_atomic_fetch_sub_u32(&registry->nreturned, 1);
		if (template->template.nclones[CLONE_RETURNED] == 0)
			template->look = LOOK_WHEN_WOKEN;
	}
	else if (entry->clone.state == CLONE_TOUCHED)
		pg_atomic_fetch_sub_u32(&registry->ntouched, 1);
	else if (entry->clone.state == CLONE_SPARE)
		dlist_delete(&entry->node);
}

static void
clone_enter_state(CloneEntry *entry, CloneState state)
{
	TemplateEntry *template = clone_template(entry);

	/* What was begun before testdb_uninstall() is of no use. */
	if ((state == CLONE_SPARE || state == CLONE_RETURNED) && registry_is_uninstalled())
		state = CLONE_GARBAGE;
	entry->clone.state = state;
	template->template.nclones[state]++;
	if (state == CLONE_CREATING || state == CLONE_RETURNED || state == CLONE_SPARE)
		entry->failures = 0;	/* another life */
	if (state == CLONE_LEASED && entry->clone.terms.database)
		entry->payer = InvalidOid;
	else if (state == CLONE_LEASED && !OidIsValid(entry->payer))
		entry->payer = entry->clone.owner;
	else if (state != CLONE_LEASED && state != CLONE_DROPPING)
		entry->payer = InvalidOid;
	if (state == CLONE_LEASED &&
		template->template.nclones[state] >= template->template.peak)
	{
		template->template.peak = template->template.nclones[state];
		template->peak_at = entry->clone.used_at;
	}
	if (state == CLONE_GARBAGE)
		pg_atomic_fetch_add_u32(&registry->ngarbage, 1);
	else if (state == CLONE_RETURNED)
	{
		pg_atomic_fetch_add_u32(&registry->nreturned, 1);
		if (template->template.nclones[state] == 1)
			template->returned_at = GetCurrentTimestamp();
	}
	else if (state == CLONE_TOUCHED)
		pg_atomic_fetch_add_u32(&registry->ntouched, 1);
	else if (state == CLONE_SPARE)
		dlist_push_head(&template->spares, &entry->node);
}

/*
 * Lower next_due, if this is earlier.
 */
static void
lower_next_due(TimestampTz due)
{
	uint64		old = pg_atomic_read_u64(&registry->next_due);

	while ((uint64) due < old &&
		   !pg_atomic_compare_exchange_u64(&registry->next_due, &old, (uint64) due))
		;
}

/*
 * When a clone is to be dropped, or to be looked at for that: 0 if never.
 */
static TimestampTz
clone_due(const TestdbClone *clone)
{
	TimestampTz due = clone->expires_at;

	if (clone->terms.idle_timeout > 0)
	{
		TimestampTz idle = clone->used_at +
			clone->terms.idle_timeout * USECS_PER_SEC;

		if (due == 0 || idle < due)
			due = idle;
	}
	return due;
}

/*
 * Change an entry's state.  The template's mutex is held exclusively.
 *
 * A clone that could not be dropped keeps the time at which that is tried again,
 * as registry_note_failure has set it.
 */
static void
clone_change_state(CloneEntry *entry, CloneState state)
{
	if (entry->clone.state != CLONE_DROPPING ||
		(state != CLONE_LEASED && state != CLONE_GARBAGE))
		entry->retry_at = 0;
	clone_leave_state(entry);
	clone_enter_state(entry, state);
	if (state == CLONE_LEASED && clone_due(&entry->clone) != 0)
		lower_next_due(Max(clone_due(&entry->clone), entry->retry_at));
}

/* Who has how many clones and templates, as count_shares finds it. */
typedef struct Shares
{
	int			nroles;			/* roles that have clones, or are the one meant */
	Oid			roles[MAX_SHARERS];
	int			clones;			/* of all */
	int			own_clones;		/* of the role */
	int			templates;
	int			own_templates;
	char	   *seen;			/* for each template: 1 if it has clones, 2 if it
								 * has some of the role */
} Shares;

/*
 * Does an entry count in shares, and to whom?  InvalidOid if not.  A spare does
 * only if another is asked for.
 */
static Oid
clone_sharer(const CloneEntry *entry, bool spare)
{
	if (OidIsValid(entry->payer))
		return entry->payer;
	if (entry->clone.state == CLONE_CREATING ||
		(spare && entry->clone.state != CLONE_GARBAGE))
		return entry->clone.owner;
	return InvalidOid;
}

/*
 * Count what there is, and what the role has of it; spare as above.  The
 * registry lock is held exclusively.
 */
static void
count_shares(Oid role, bool spare, Shares *shares)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;

	shares->nroles = 1;
	shares->roles[0] = role;
	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		Oid			sharer = clone_sharer(entry, spare);
		int			i = 0;

		if (!OidIsValid(sharer))
			continue;
		shares->clones++;
		shares->own_clones += sharer == role;
		shares->seen[entry->slot] |= sharer == role ? 3 : 1;
		while (i < shares->nroles && shares->roles[i] != sharer)
			i++;
		if (i == shares->nroles && i < MAX_SHARERS)
			shares->roles[shares->nroles++] = sharer;
	}
	for (int i = 0; i < testdb_max_templates; i++)
	{
		shares->templates += (shares->seen[i] & 1) != 0;
		shares->own_templates += (shares->seen[i] & 2) != 0;
	}
}

/*
 * Is one more of what there are limit of, of which used are in use, not for a
 * role that has own of them?  If all are in use, that is another error.
 */
static bool
exceeds_share(int used, int own, int limit, int nroles)
{
	return used < limit && used >= limit - limit / 8 && own >= limit / (nroles + 1);
}

/*
 * Raise an error, 53400, if a role that is no superuser has its fair share of
 * clones, or of templates if the one in question has no clones of anybody, and
 * only the last eighth is left; spare says that a spare is to be made.  Takes and
 * releases the registry lock.
 *
 * Calls at the same time may each get one of the last eighth: there are no more
 * of them than workers.
 */
void
registry_check_share(Oid template_oid, Oid role, bool spare)
{
	Shares		shares = {0};
	TemplateEntry *template;
	bool		new_template;
	bool		too_many_clones;
	bool		too_many_templates;

	shares.seen = palloc0(testdb_max_templates);
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	count_shares(role, spare, &shares);
	template = template_find(template_oid);
	new_template = template == NULL ||
		shares.seen[template - registry->templates] == 0;
	LWLockRelease(registry->lock);
	pfree(shares.seen);

	too_many_clones = exceeds_share(shares.clones, shares.own_clones,
									testdb_max_clones, shares.nroles);
	too_many_templates = new_template &&
		exceeds_share(shares.templates, shares.own_templates,
					  testdb_max_templates, shares.nroles);
	if (too_many_clones)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg(TOO_MANY_CLONES),
				 errdetail("%d of %d are in use, %d of them by this role; what is left is for others.",
						   shares.clones, testdb_max_clones, shares.own_clones),
				 errhint("Drop some with testdb_drop, or increase \"%s\".",
						 "testdb.max_clones")));
	if (too_many_templates)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many templates have clones"),
				 errdetail("%d of %d are in use, %d of them by this role; what is left is for others.",
						   shares.templates, testdb_max_templates, shares.own_templates),
				 errhint("Drop all clones of a template, or increase \"%s\".",
						 "testdb.max_templates")));
}

/*
 * Raise the error that no databases may be made.
 */
static void
report_uninstalled(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("testdb has been uninstalled from this server"),
			 errdetail("testdb_uninstall() was called; clones in use can still be kept and dropped."),
			 errhint("A superuser can call testdb_install() to use it again.")));
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
registry_add(const TestdbClone *clone, bool replaces, int elevel)
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
		clone_enter_state(entry, clone->state);
		registry->nclones++;
	}
	LWLockRelease(registry->lock);

	if (full || (template != NULL && entry == NULL))
		ereport(elevel,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg(TOO_MANY_CLONES),
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
 * How many clones count to a role.  The registry lock is held exclusively.
 */
static int
count_paid(Oid role)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;
	int			n = 0;

	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (entry->payer == role)
			n++;
	return n;
}

/*
 * The same, for who has not begun to make one.  Takes and releases the registry
 * lock.
 */
int
registry_count_paid(Oid role)
{
	int			n;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	n = count_paid(role);
	LWLockRelease(registry->lock);

	return n;
}

/*
 * Let a clone that is about to be handed out count to a role, unless that has
 * limit of them already: *n is how many it has.  False, with nothing changed,
 * if so.  Takes and releases the registry lock.
 */
bool
registry_charge(Oid oid, Oid role, int limit, int *n)
{
	CloneEntry *entry;
	bool		done;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	*n = count_paid(role);
	done = *n < limit;
	entry = done ? clone_find(oid) : NULL;
	if (entry != NULL)
		entry->payer = role;
	LWLockRelease(registry->lock);

	return done;
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
		LWLockAcquire(clone_template(entry)->mutex, LW_SHARED);
		*clone = entry->clone;
		LWLockRelease(clone_template(entry)->mutex);
	}
	LWLockRelease(registry->lock);

	return entry != NULL;
}

/*
 * Give a clone's entry the content of *clone, if its state is still the one
 * that is expected, and, if that is LEASED, its lease the same; false if not,
 * or if there is no such clone.
 * Takes and releases the registry lock and a mutex.
 */
bool
registry_update(const TestdbClone *clone, CloneState from)
{
	CloneEntry *entry;
	bool		done = false;

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = clone_find(clone->oid);
	if (entry != NULL)
	{
		LWLockAcquire(clone_template(entry)->mutex, LW_EXCLUSIVE);
		done = entry->clone.state == from &&
			(from != CLONE_LEASED || entry->clone.lease == clone->lease);
		if (done)
		{
			CloneState	state = entry->clone.state;

			entry->clone = *clone;
			entry->clone.state = state;
			clone_change_state(entry, clone->state);
		}
		LWLockRelease(clone_template(entry)->mutex);
	}
	LWLockRelease(registry->lock);

	return done;
}

/*
 * The clone that is LEASED under this number gets another state, and is copied
 * to *clone; false if it is no longer.  A clone keeps its OID from one lease to
 * the next: only the number tells which is meant.  Takes and releases the
 * registry lock and a mutex.
 */
bool
registry_end_lease(Oid oid, uint64 lease, CloneState to, TestdbClone *clone)
{
	if (!registry_lookup(oid, clone) || clone->lease != lease)
		return false;
	clone->state = to;
	return registry_update(clone, CLONE_LEASED);
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
registry_set_state(Oid oid, CloneState from, CloneState to)
{
	CloneEntry *entry;
	bool		done = false;

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = clone_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(clone_template(entry)->mutex, LW_EXCLUSIVE);
		done = entry->clone.state == from;
		if (done)
			clone_change_state(entry, to);
		LWLockRelease(clone_template(entry)->mutex);
	}
	LWLockRelease(registry->lock);

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

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = clone_find(clone->oid);
	if (entry != NULL)
	{
		LWLockAcquire(clone_template(entry)->mutex, LW_EXCLUSIVE);
		entry->clone.version = clone->version;
		entry->clone.row_version = clone->row_version;
		if (entry->clone.unrestored)
			pg_atomic_fetch_sub_u32(&registry->nunrestored, 1);
		entry->clone.unrestored = false;
		clone_leave_state(entry);
		clone_enter_state(entry, CLONE_LEASED);
		if (clone_due(&entry->clone) != 0)
			lower_next_due(clone_due(&entry->clone));
		LWLockRelease(clone_template(entry)->mutex);
	}
	LWLockRelease(registry->lock);
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

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = clone_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(clone_template(entry)->mutex, LW_EXCLUSIVE);
		if (!entry->clone.unrestored)
			pg_atomic_fetch_add_u32(&registry->nunrestored, 1);
		entry->clone.unrestored = true;
		LWLockRelease(clone_template(entry)->mutex);
	}
	LWLockRelease(registry->lock);
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
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;
	bool		found = false;

	if (!registry_has_unrestored())
		return false;
	LWLockAcquire(registry->lock, LW_SHARED);
	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		LWLockAcquire(clone_template(entry)->mutex, LW_SHARED);
		found = found || (entry->clone.unrestored &&
						  strcmp(NameStr(entry->clone.name), name) == 0);
		LWLockRelease(clone_template(entry)->mutex);
	}
	LWLockRelease(registry->lock);
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

		clone_leave_state(to);
		to->clone = *new;
		to->clone.lease = lease;
		to->clone.terms = from->clone.terms;
		to->clone.created_at = from->clone.created_at;
		to->clone.expires_at = from->clone.expires_at;
		to->clone.used_at = GetCurrentTimestamp();
		if (from->clone.unrestored)
			pg_atomic_fetch_sub_u32(&registry->nunrestored, 1);
		from->clone.unrestored = false;
		clone_enter_state(to, CLONE_LEASED);
		to->payer = from->payer;
		if (clone_due(&to->clone) != 0)
			lower_next_due(clone_due(&to->clone));
	}
	LWLockRelease(registry->lock);
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
		clone_leave_state(entry);
		if (entry->clone.unrestored)
			pg_atomic_fetch_sub_u32(&registry->nunrestored, 1);
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
	TimestampTz now;
	bool		found = false;

	if (pg_atomic_read_u32(&registry->ngarbage) == 0)
		return false;

	now = GetCurrentTimestamp();
	LWLockAcquire(registry->lock, LW_SHARED);
	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		LWLock	   *mutex = clone_template(entry)->mutex;

		LWLockAcquire(mutex, LW_EXCLUSIVE);
		if (entry->clone.state == CLONE_GARBAGE && entry->retry_at <= now)
		{
			entry->retry_at = TimestampTzPlusMilliseconds(now, GARBAGE_CLAIM);
			*clone = entry->clone;
			found = true;
		}
		LWLockRelease(mutex);
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
 * Is there any clone that waits to be restored?  Takes no lock.
 */
bool
registry_has_returned(void)
{
	return pg_atomic_read_u32(&registry->nreturned) > 0;
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
		LWLockAcquire(clone_template(entry)->mutex, LW_EXCLUSIVE);
		entry->retry_at =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms);
		LWLockRelease(clone_template(entry)->mutex);
	}
	LWLockRelease(registry->lock);
}

/*
 * Copy all clones into an array in the current memory context; *nclones is
 * their number.  Takes and releases the registry lock and mutexes.
 */
TestdbClone *
registry_list(int *nclones)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;
	TestdbClone *clones;
	int			n = 0;

	LWLockAcquire(registry->lock, LW_SHARED);
	clones = palloc_array(TestdbClone, registry->nclones + 1);
	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		LWLockAcquire(clone_template(entry)->mutex, LW_SHARED);
		clones[n++] = entry->clone;
		LWLockRelease(clone_template(entry)->mutex);
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
 * Say that a clone or a template may have been dropped by plain SQL, so that
 * some worker should compare the registry with pg_database.
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
 * Does a template's snapshot hold what is committed in it, as far as is
 * known?  If ignore_unverified, what sessions without a transaction ID may
 * have done does not count.  The mutex is held.
 */
static bool
template_is_fresh(const TestdbTemplate *template, const TemplateRow *row,
				  bool ignore_unverified)
{
	return template->has_snapshot &&
		template->generation == template->snapshot_generation &&
		(ignore_unverified || !template->unverified) &&
		template_row_is_same(template, row);
}

/*
 * Does a clone equal its template's snapshot?  The mutex is held.
 */
static bool
clone_is_current(const TestdbClone *clone, const TestdbTemplate *template)
{
	return clone->version == template->version &&
		clone->row_version == template->row_version;
}

/*
 * Fill in what a clone gets when it is handed out on these terms, now.  It is
 * the caller's copy, or an entry whose mutex is held exclusively.
 */
void
registry_apply_terms(TestdbClone *clone, const LeaseTerms *terms)
{
	TimestampTz due;

	clone->lease = registry_next_serial();
	clone->terms = *terms;
	clone->created_at = GetCurrentTimestamp();
	clone->used_at = clone->created_at;
	clone->expires_at = terms->lifetime > 0 ?
		clone->created_at + terms->lifetime * USECS_PER_SEC : 0;
	due = clone_due(clone);
	if (due != 0)
		lower_next_due(due);
}

/*
 * Make due, at once, the clones that were to be dropped with this session.
 * Takes and releases the registry lock and mutexes.
 */
void
registry_end_session(int pid)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(registry->lock, LW_SHARED);
	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		LWLock	   *mutex = clone_template(entry)->mutex;

		LWLockAcquire(mutex, LW_EXCLUSIVE);
		if (entry->clone.terms.session_pid == pid &&
			(entry->clone.state == CLONE_LEASED ||
			 entry->clone.state == CLONE_DROPPING ||
			 entry->clone.state == CLONE_REWINDING))
			entry->clone.expires_at = now;
		LWLockRelease(mutex);
	}
	LWLockRelease(registry->lock);
	lower_next_due(now);
}

/*
 * Note that somebody is in a clone; false if that need not be noted again when
 * the session ends.  Takes and releases the registry lock and a mutex.
 */
bool
registry_touch(Oid oid)
{
	CloneEntry *entry;
	bool		counts = false;

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = clone_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(clone_template(entry)->mutex, LW_EXCLUSIVE);
		counts = entry->clone.state == CLONE_LEASED;
		if (counts)
			entry->clone.used_at = GetCurrentTimestamp();
		LWLockRelease(clone_template(entry)->mutex);
	}
	LWLockRelease(registry->lock);

	return counts;
}

/*
 * Find a clone whose time is over and copy it to *clone: it becomes DROPPING.
 * False if there is none; *delay_ms is then lowered to the time until there may
 * be one.  Takes and releases the registry lock and mutexes.
 *
 * A clone that is used is not idle: the count of sessions is taken from the
 * server, without any lock, since who connects in this instant would be too
 * late by an instant.
 */
bool
registry_take_expired(TestdbClone *clone, long *delay_ms)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;
	TimestampTz now = GetCurrentTimestamp();
	uint64		due = pg_atomic_read_u64(&registry->next_due);
	TimestampTz next = PG_INT64_MAX;
	bool		found = false;

	if (due == NEVER_DUE)
		return false;
	if ((TimestampTz) due > now)
	{
		*delay_ms = Min(*delay_ms, TimestampDifferenceMilliseconds(now, due));
		return false;
	}

	/* What is handed out from now on lowers it again by itself. */
	pg_atomic_write_u64(&registry->next_due, NEVER_DUE);
	LWLockAcquire(registry->lock, LW_SHARED);
	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		LWLock	   *mutex = clone_template(entry)->mutex;
		TimestampTz entry_due;

		LWLockAcquire(mutex, LW_EXCLUSIVE);
		if (entry->clone.state == CLONE_LEASED)
		{
			if (entry->clone.terms.idle_timeout > 0 &&
				CountDBBackends(entry->clone.oid) > 0)
				entry->clone.used_at = now;
			entry_due = Max(clone_due(&entry->clone), entry->retry_at);
			if (clone_due(&entry->clone) == 0)
				;
			else if (entry_due > now || found)
				next = Min(next, entry_due);
			else
			{
				clone_leave_state(entry);
				clone_enter_state(entry, CLONE_DROPPING);
				*clone = entry->clone;
				found = true;
			}
		}
		LWLockRelease(mutex);
	}
	LWLockRelease(registry->lock);
	if (next != PG_INT64_MAX)
	{
		lower_next_due(next);
		*delay_ms = Min(*delay_ms, TimestampDifferenceMilliseconds(now, next));
	}

	return found;
}

/*
 * Try again to drop a clone in so many seconds.  Takes and releases the
 * registry lock and a mutex.
 */
void
registry_extend(Oid oid, int seconds)
{
	CloneEntry *entry;
	TimestampTz at = GetCurrentTimestamp() + seconds * USECS_PER_SEC;

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = clone_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(clone_template(entry)->mutex, LW_EXCLUSIVE);
		entry->retry_at = at;
		LWLockRelease(clone_template(entry)->mutex);
	}
	LWLockRelease(registry->lock);
	lower_next_due(at);
}

/*
 * Note that dropping or removing a clone has failed with an error of that hash.
 * It is tried again in *delay seconds, later each time.  Should the failure be
 * logged?  Not if the last one was the same, unless that is long ago.  Takes and
 * releases the registry lock and a mutex.
 */
bool
registry_note_failure(Oid oid, uint32 hash, int *delay)
{
	CloneEntry *entry;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz at = 0;
	bool		log = true;

	*delay = RETRY_FIRST;
	LWLockAcquire(registry->lock, LW_SHARED);
	entry = clone_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(clone_template(entry)->mutex, LW_EXCLUSIVE);
		*delay = Min(RETRY_FIRST << Min(entry->failures, RETRY_DOUBLINGS), RETRY_LONGEST);
		at = now + *delay * USECS_PER_SEC;
		log = entry->failures == 0 || entry->failure != hash ||
			now - entry->failure_logged_at >= FAILURE_LOG_INTERVAL * USECS_PER_SEC;
		entry->failures++;
		entry->failure = hash;
		if (log)
			entry->failure_logged_at = now;
		entry->retry_at = at;
		LWLockRelease(clone_template(entry)->mutex);
	}
	LWLockRelease(registry->lock);
	if (at != 0)
		lower_next_due(at);
	return log;
}

/*
 * Has dropping or removing a clone failed before?  Takes and releases the
 * registry lock and a mutex.
 */
bool
registry_has_failed(Oid oid)
{
	CloneEntry *entry;
	bool		failed = false;

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = clone_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(clone_template(entry)->mutex, LW_SHARED);
		failed = entry->failures > 0;
		LWLockRelease(clone_template(entry)->mutex);
	}
	LWLockRelease(registry->lock);

	return failed;
}

/*
 * Take a spare, or a clone that waits to become one again, that makes room for
 * something else, one of the template that has the most of them, but none of
 * this owner of spared_template: it becomes DROPPING, and is copied to *clone.
 * False if there is none; *coming then says whether somebody is about to make
 * room in another way.  Takes and releases the registry lock and mutexes.
 */
bool
registry_take_victim(Oid spared_template, Oid spared_owner, TestdbClone *clone,
					 bool *coming)
{
	CloneEntry *victim = NULL;
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;
	int			most = 0;
	bool		found = false;

	*coming = false;
	LWLockAcquire(registry->lock, LW_SHARED);
	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		TemplateEntry *template = clone_template(entry);
		int			nspares;
		CloneState	state;

		LWLockAcquire(template->mutex, LW_SHARED);
		state = entry->clone.state;
		nspares = template->template.nclones[CLONE_SPARE] +
			template->template.nclones[CLONE_RETURNED];
		if ((state == CLONE_SPARE ||
			 (state == CLONE_RETURNED && !registry_is_stuck())) &&
			nspares > most &&
			(entry->clone.template_oid != spared_template ||
			 entry->clone.owner != spared_owner))
		{
			victim = entry;
			most = nspares;
		}
		else if (state == CLONE_DROPPING || state == CLONE_RETURNED ||
				 state == CLONE_RESTORING || state == CLONE_GARBAGE ||
				 (state == CLONE_CREATING && entry->clone.ahead))
			*coming = true;
		LWLockRelease(template->mutex);
	}
	if (victim != NULL)
	{
		LWLock	   *mutex = clone_template(victim)->mutex;

		LWLockAcquire(mutex, LW_EXCLUSIVE);
		*coming = true;
		if (victim->clone.state == CLONE_SPARE ||
			victim->clone.state == CLONE_RETURNED)
		{
			clone_leave_state(victim);
			clone_enter_state(victim, CLONE_DROPPING);
			*clone = victim->clone;
			found = true;
		}
		LWLockRelease(mutex);
	}
	LWLockRelease(registry->lock);

	return found;
}

/*
 * Has a template clones that nobody has, and no others?  The registry lock is
 * held exclusively.
 */
static bool
template_is_spare(const TemplateEntry *entry)
{
	return !template_is_unused(entry) &&
		entry->template.nclones[CLONE_CREATING] == 0 &&
		entry->template.nclones[CLONE_LEASED] == 0;
}

/*
 * Take a clone that nobody has of a template that has no others, so that its
 * place among testdb.max_templates can be had by another template, if that has
 * none and none is free: it becomes DROPPING, and is copied to *clone.  False
 * if there is none, or no need; *coming says whether there may be one soon.
 * Takes and releases the registry lock.
 */
bool
registry_take_template_victim(Oid template_oid, TestdbClone *clone, bool *coming)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;
	bool		found = false;
	bool		needed;

	*coming = false;
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	needed = template_find(template_oid) == NULL &&
		template_find(InvalidOid) == NULL;
	for (int i = 0; needed && i < testdb_max_templates; i++)
		if (template_is_unused(&registry->templates[i]))
			needed = false;
	if (needed)
	{
		hash_seq_init(&scan, clone_hash);
		while (!found && (entry = hash_seq_search(&scan)) != NULL)
		{
			if (entry->clone.state == CLONE_CREATING && entry->clone.ahead &&
				clone_template(entry)->template.nclones[CLONE_LEASED] == 0)
				*coming = true;
			if (!template_is_spare(clone_template(entry)))
				continue;
			*coming = true;
			if (entry->clone.state != CLONE_SPARE &&
				entry->clone.state != CLONE_RETURNED)
				continue;
			memset(clone_template(entry)->demands, 0,
				   sizeof(clone_template(entry)->demands));
			clone_leave_state(entry);
			clone_enter_state(entry, CLONE_DROPPING);
			*clone = entry->clone;
			found = true;
		}
		if (found)
			hash_seq_term(&scan);
	}
	LWLockRelease(registry->lock);

	return found;
}

/*
 * Report whether a spare will be handed out under this name.  Takes and
 * releases the registry lock and mutexes.
 */
bool
registry_is_spare(const char *name)
{
	bool		found = false;

	LWLockAcquire(registry->lock, LW_SHARED);
	for (int i = 0; i < testdb_max_templates && !found; i++)
	{
		TemplateEntry *template = &registry->templates[i];
		dlist_iter	iter;

		if (!OidIsValid(template->template.oid))
			continue;
		LWLockAcquire(template->mutex, LW_SHARED);
		dlist_foreach(iter, &template->spares)
		{
			CloneEntry *entry = dlist_container(CloneEntry, node, iter.cur);

			if (strcmp(NameStr(entry->clone.name), name) == 0)
				found = true;
		}
		LWLockRelease(template->mutex);
	}
	LWLockRelease(registry->lock);

	return found;
}

/*
 * Take a clone that is TOUCHED: it becomes DROPPING, and is copied to *clone.
 * False if there is none.  Takes and releases the registry lock and mutexes.
 */
bool
registry_take_touched(TestdbClone *clone)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;
	bool		found = false;

	if (pg_atomic_read_u32(&registry->ntouched) == 0)
		return false;

	LWLockAcquire(registry->lock, LW_SHARED);
	hash_seq_init(&scan, clone_hash);
	while (!found && (entry = hash_seq_search(&scan)) != NULL)
	{
		LWLock	   *mutex = clone_template(entry)->mutex;

		LWLockAcquire(mutex, LW_EXCLUSIVE);
		if (entry->clone.state == CLONE_TOUCHED)
		{
			clone_leave_state(entry);
			clone_enter_state(entry, CLONE_DROPPING);
			*clone = entry->clone;
			found = true;
		}
		LWLockRelease(mutex);
	}
	if (found)
		hash_seq_term(&scan);
	LWLockRelease(registry->lock);

	return found;
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
			clone_is_current(&spare->clone, &entry->template))
			n++;
	}
	return n;
}

/*
 * How many spares of a template may be made ahead for an owner.
 */
static int
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
 * Take a spare of a template for an owner, to hand it out: it becomes CREATING,
 * with the terms that it will have, and is copied to *clone.
 *
 * row is what the caller has just read of the template in pg_database;
 * ignore_unverified as in template_is_fresh.  SPARE_STALE if the snapshot may
 * be behind the template; SPARE_NONE if there is no spare that equals it, or
 * if others have been waiting for those that there are, unless the caller is
 * one of them.  If one was taken, *refill says that fewer are left, or on
 * their way, than there should be, and that the caller must wake workers for
 * that.  Takes and releases the registry lock and a mutex.
 */
SpareResult
registry_take_spare(Oid template_oid, Oid owner, const TemplateRow *row,
					bool ignore_unverified, bool waiting,
					const LeaseTerms *terms, TestdbClone *clone, bool *refill)
{
	TemplateEntry *template;
	SpareResult result = SPARE_STALE;
	dlist_iter	iter;

	*refill = false;
	LWLockAcquire(registry->lock, LW_SHARED);
	template = template_find(template_oid);
	if (template != NULL)
	{
		LWLockAcquire(template->mutex, LW_EXCLUSIVE);
		if (template_is_fresh(&template->template, row, ignore_unverified))
		{
			int			wanted;

			result = SPARE_NONE;
			dlist_foreach(iter, &template->spares)
			{
				CloneEntry *entry = dlist_container(CloneEntry, node, iter.cur);

				if (entry->clone.owner != owner ||
					!clone_is_current(&entry->clone, &template->template))
					continue;
				if (!waiting && template->nwaiting > 0 &&
					count_spares(template, owner) <= template->nwaiting)
					break;
				clone_leave_state(entry);
				clone_enter_state(entry, CLONE_CREATING);
				registry_apply_terms(&entry->clone, terms);
				*clone = entry->clone;
				template->template.stats.clones++;
				template->template.stats.hits++;
				result = SPARE_TAKEN;
				break;
			}
			wanted = note_demand(template, owner, result == SPARE_NONE && !waiting,
								 result == SPARE_TAKEN ? clone->created_at :
								 GetCurrentTimestamp());
			*refill = result == SPARE_TAKEN &&
				template->template.nclones[CLONE_SPARE] +
				template->template.nclones[CLONE_RETURNED] +
				template->template.nclones[CLONE_RESTORING] < wanted &&
				pg_atomic_exchange_u32(&registry->refill_told, 1) == 0;
		}
		LWLockRelease(template->mutex);
	}
	LWLockRelease(registry->lock);

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
	int			ncoming = entry->template.nclones[CLONE_RETURNED] +
		entry->template.nclones[CLONE_RESTORING];

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

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(template_oid);
	if (entry != NULL)
	{
		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
		entry->nwaiting++;
		coming = must_wait(entry, owner);
		if (!coming)
			entry->nwaiting--;
		soon = entry->look == LOOK_SOON;
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);
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

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(template_oid);
	if (entry != NULL)
	{
		LWLockAcquire(entry->mutex, LW_SHARED);
		nspares = entry->template.nclones[CLONE_SPARE];
		all = entry->template.nclones[CLONE_RETURNED] +
			entry->template.nclones[CLONE_RESTORING] == 0;
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);
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
	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(clone->template_oid);
	if (entry != NULL)
	{
		LWLockAcquire(entry->mutex, LW_SHARED);
		*wake = entry->look == LOOK_WHEN_WOKEN ||
			entry->template.nclones[CLONE_RETURNED] >= restore_threshold(entry);
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);
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
	bool		result = false;
	TimestampTz now;

	if (pg_atomic_read_u32(&registry->nreturned) == 0)
		return false;

	now = GetCurrentTimestamp();
	LWLockAcquire(registry->lock, LW_SHARED);
	for (int i = 0; i < testdb_max_templates && !result; i++)
	{
		TemplateEntry *entry = &registry->templates[i];
		TimestampTz due;
		int			nreturned;

		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
		nreturned = entry->template.nclones[CLONE_RETURNED];
		if (OidIsValid(entry->template.oid) && nreturned > 0)
		{
			bool		urgent = entry->template.nclones[CLONE_SPARE] == 0 ||
				entry->nwaiting > 0;

			due = TimestampTzPlusMilliseconds(entry->returned_at,
											  urgent ? GATHER_TIME_URGENT : GATHER_TIME);
			result = now >= due || nreturned >= restore_threshold(entry);
			entry->look = result ? LOOK_WHEN_WOKEN : urgent ? LOOK_SOON : LOOK_LATER;
			if (!result)
				*delay_ms = Min(*delay_ms, TimestampDifferenceMilliseconds(now, due));
		}
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);

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
			!clone_is_current(&spare->clone, &entry->template))
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

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(template_oid);
	if (entry != NULL)
	{
		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
		result = entry->refill_logged_at == 0 ||
			entry->refill_sqlstate != sqlstate ||
			TimestampDifferenceExceeds(entry->refill_logged_at, now,
									   REFILL_LOG_INTERVAL);
		if (result)
		{
			entry->refill_sqlstate = sqlstate;
			entry->refill_logged_at = now;
		}
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);

	return result;
}

/*
 * Find a template and an owner for whom a spare should be made ahead; false if
 * there is none, or no place for one.  Takes and releases the registry lock and
 * mutexes.
 */
bool
registry_next_refill(Oid *template_oid, Oid *owner)
{
	bool		found = false;
	bool		full;

	if (registry_is_uninstalled())
		return false;
	pg_atomic_write_u32(&registry->refill_told, 0);
	pg_memory_barrier();
	LWLockAcquire(registry->lock, LW_SHARED);
	full = registry->nclones >= testdb_max_clones - testdb_max_clones / 8;
	for (int i = 0; i < testdb_max_templates && !found; i++)
	{
		TemplateEntry *entry = &registry->templates[i];
		TestdbTemplate *template = &entry->template;

		if (!OidIsValid(template->oid))
			continue;
		LWLockAcquire(entry->mutex, LW_SHARED);
		if (template->has_snapshot &&
			template->generation == template->snapshot_generation)
			for (int k = 0; k < MAX_DEMANDS && !found; k++)
			{
				SpareDemand *demand = &entry->demands[k];

				if (OidIsValid(demand->owner) &&
					(!full || has_stale_spare(entry, demand->owner)) &&
					count_spares(entry, demand->owner) +
					template->nclones[CLONE_RETURNED] +
					template->nclones[CLONE_RESTORING] < demand->wanted)
				{
					*template_oid = template->oid;
					*owner = demand->owner;
					found = true;
				}
			}
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);

	return found;
}

/*
 * Have no spares of a template made ahead until somebody asks again.  Its
 * mutex is held exclusively.
 */
static void
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
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;
	int			n = 0;

	LWLockAcquire(registry->lock, LW_SHARED);
	for (int i = 0; i < testdb_max_templates; i++)
	{
		TemplateEntry *template = &registry->templates[i];

		LWLockAcquire(template->mutex, LW_EXCLUSIVE);
		for (int k = 0; k < MAX_DEMANDS; k++)
			if (template->demands[k].owner == role)
				template->demands[k].wanted = 0;
		LWLockRelease(template->mutex);
	}
	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		LWLock	   *mutex = clone_template(entry)->mutex;

		LWLockAcquire(mutex, LW_EXCLUSIVE);
		if (entry->clone.state != CLONE_LEASED &&
			(entry->clone.owner == role || list_member_oid(oids, entry->clone.oid)))
		{
			n++;
			if (entry->clone.state == CLONE_SPARE)
			{
				/* Those made instead would depend on it again. */
				if (entry->clone.owner != role)
					want_none(clone_template(entry));
				clone_leave_state(entry);
				clone_enter_state(entry, CLONE_GARBAGE);
			}
		}
		LWLockRelease(mutex);
	}
	LWLockRelease(registry->lock);

	return n;
}

/*
 * Say whether databases may be made, from now on.  If not, what nobody has got
 * becomes garbage: now, or when it would become a spare.  Takes and releases the
 * registry lock, which keeps everybody from all mutexes.
 */
void
registry_set_uninstalled(bool uninstalled)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	pg_atomic_write_u32(&registry->uninstalled, uninstalled);
	if (uninstalled)
	{
		for (int i = 0; i < testdb_max_templates; i++)
			want_none(&registry->templates[i]);
		hash_seq_init(&scan, clone_hash);
		while ((entry = hash_seq_search(&scan)) != NULL)
			if (entry->clone.state == CLONE_SPARE ||
				entry->clone.state == CLONE_RETURNED)
			{
				clone_leave_state(entry);
				clone_enter_state(entry, CLONE_GARBAGE);
			}
	}
	LWLockRelease(registry->lock);
}

/*
 * May no databases be made?  Takes no lock; see the field.
 */
bool
registry_is_uninstalled(void)
{
	return pg_atomic_read_u32(&registry->uninstalled) != 0;
}

/*
 * Raise an error, 55000, if no databases may be made.  Not while a clone must be
 * restored whose rewinding was interrupted.  Takes no lock.
 */
void
registry_check_installed(void)
{
	if (registry_is_uninstalled() && !registry_has_unrestored())
		report_uninstalled();
}

/*
 * Have at least this many spares of a template kept ready for an owner.  Takes
 * and releases the registry lock and a mutex.
 */
void
registry_want_spares(Oid template_oid, Oid owner, int wanted)
{
	TemplateEntry *entry;

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(template_oid);
	if (entry != NULL)
	{
		SpareDemand *demand;

		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
		demand = get_demand(entry, owner);
		demand->wanted = Max(demand->wanted, wanted);
		demand->used_at = GetCurrentTimestamp();
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);
}

/*
 * Have no spares of a template made ahead for an owner, until it asks again.
 * Takes and releases the registry lock and a mutex.
 */
void
registry_want_none(Oid template_oid, Oid owner)
{
	TemplateEntry *entry;

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(template_oid);
	if (entry != NULL)
	{
		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
		get_demand(entry, owner)->wanted = 0;
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);
}

/*
 * Set how many spares of a template may be made ahead; -1 for testdb.spares.
 * Takes and releases the registry lock and a mutex.
 */
void
registry_limit_spares(Oid template_oid, int limit)
{
	TemplateEntry *entry;

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(template_oid);
	if (entry != NULL)
	{
		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
		entry->template.spares_limit = limit;
		for (int i = 0; i < MAX_DEMANDS; i++)
			entry->demands[i].wanted = Min(entry->demands[i].wanted,
										   spares_limit(&entry->template));
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);
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
	bool		more = false;

	LWLockAcquire(registry->lock, LW_SHARED);
	for (int i = 0; i < testdb_max_templates; i++)
	{
		TemplateEntry *entry = &registry->templates[i];
		dlist_mutable_iter iter;

		if (!OidIsValid(entry->template.oid))
			continue;
		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
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
				clone_leave_state(spare);
				clone_enter_state(spare, CLONE_GARBAGE);
			}
			else
				more = true;
		}
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);

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

	LWLockAcquire(registry->lock, LW_SHARED);
	template = template_find(template_oid);
	if (template != NULL)
	{
		LWLockAcquire(template->mutex, LW_EXCLUSIVE);
		dlist_foreach(iter, &template->spares)
		{
			CloneEntry *entry = dlist_container(CloneEntry, node, iter.cur);

			if ((OidIsValid(owner) && entry->clone.owner != owner) ||
				clone_is_current(&entry->clone, &template->template))
				continue;
			clone_leave_state(entry);
			clone_enter_state(entry, CLONE_RESTORING);
			*clone = entry->clone;
			found = true;
			break;
		}
		LWLockRelease(template->mutex);
	}
	LWLockRelease(registry->lock);

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
	LWLockAcquire(registry->lock, LW_SHARED);
	template = template_find(template_oid);
	if (template != NULL)
	{
		LWLockAcquire(template->mutex, LW_SHARED);
		n = count_spares(template, owner);
		*ncoming = template->template.nclones[CLONE_RETURNED] +
			template->template.nclones[CLONE_RESTORING];
		LWLockRelease(template->mutex);
	}
	LWLockRelease(registry->lock);

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
	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(template_oid);
	if (entry != NULL)
	{
		int			wanted = 0;
		int			n;

		LWLockAcquire(entry->mutex, LW_SHARED);
		for (int i = 0; i < MAX_DEMANDS; i++)
			if (entry->demands[i].owner == owner)
				wanted = entry->demands[i].wanted;
		n = count_spares(entry, owner) + entry->template.nclones[CLONE_RETURNED] +
			entry->template.nclones[CLONE_RESTORING];
		result = n < Max(testdb_recycled, entry->template.peak + wanted);
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);

	return result;
}

/*
 * Find a template and copy it to *template; false if it has no entry.  Takes
 * and releases the registry lock and a mutex.
 */
bool
registry_template(Oid oid, TestdbTemplate *template)
{
	TemplateEntry *entry;

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(entry->mutex, LW_SHARED);
		*template = entry->template;
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);

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
		!template_row_is_same(&template, row))
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

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(new->oid);
	if (entry != NULL)
	{
		TestdbTemplate *template = &entry->template;

		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
		template->has_snapshot = true;
		if (verified)
		{
			template->unverified = false;
			template->damaged = false;
		}
		template->snapshot_generation = new->snapshot_generation;
		template->settings_generation = new->settings_generation;
		template->settings = new->settings;
		template->version = new->version;
		template->lsn = new->lsn;
		template->row_version = new->row_version;
		template->row = new->row;
		template->dependencies = new->dependencies;
		template->files = new->files;
		template->bytes = new->bytes;
		template->taken_at = new->taken_at;
		template->obstacle[0] = '\0';
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);
}

/*
 * A template's spares become garbage.  Its mutex is held exclusively.
 */
static void
discard_spares(TemplateEntry *entry)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &entry->spares)
	{
		CloneEntry *spare = dlist_container(CloneEntry, node, iter.cur);

		clone_leave_state(spare);
		clone_enter_state(spare, CLONE_GARBAGE);
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

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
		entry->template.has_snapshot = false;
		strlcpy(entry->template.obstacle, obstacle,
				sizeof(entry->template.obstacle));
		if (obstacle[0] != '\0')
			discard_spares(entry);
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);
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

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
		news = !entry->template.damaged;
		entry->template.damaged = true;
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);

	return news;
}

/*
 * Forget a template that has been dropped: its spares become garbage, its
 * entry goes when it has no clones.  Takes and releases the registry lock and
 * a mutex.
 */
void
registry_forget_template(Oid oid)
{
	TemplateEntry *entry;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry = template_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
		entry->template.has_snapshot = false;
		discard_spares(entry);
		LWLockRelease(entry->mutex);
		if (template_is_unused(entry))
		{
			entry->template.oid = InvalidOid;
			pg_atomic_fetch_add_u32(&registry->epoch, 1);
		}
	}
	LWLockRelease(registry->lock);
}

/*
 * Copy all templates into an array in the current memory context; *ntemplates
 * is their number.  Takes and releases the registry lock and mutexes.
 */
TestdbTemplate *
registry_list_templates(int *ntemplates)
{
	TestdbTemplate *templates = palloc_array(TestdbTemplate, testdb_max_templates);
	int			n = 0;

	LWLockAcquire(registry->lock, LW_SHARED);
	for (int i = 0; i < testdb_max_templates; i++)
	{
		TemplateEntry *entry = &registry->templates[i];

		if (!OidIsValid(entry->template.oid))
			continue;
		LWLockAcquire(entry->mutex, LW_SHARED);
		templates[n] = entry->template;
		templates[n].wanted = 0;
		for (int k = 0; k < MAX_DEMANDS; k++)
			templates[n].wanted += entry->demands[k].wanted;
		n++;
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);

	*ntemplates = n;
	return templates;
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

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
		switch (note)
		{
			case NOTE_CHANGED:
				entry->template.generation++;
				break;
			case NOTE_LEFT:
				entry->template.unverified = true;
				break;
		}
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);
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
 * Say whether some process does not answer to a barrier, so that nothing can be
 * recycled or dropped: a client that has begun COPY FROM STDIN and sends
 * nothing, for example.  Takes no lock.
 *
 * As long as that is so, clones are made from the snapshot, which needs no
 * barrier, and of dropped ones those gather that need one.
 */
void
registry_set_stuck(bool stuck)
{
	pg_atomic_write_u32(&registry->stuck, stuck ? 1 : 0);
}

/*
 * What was said.  Takes no lock.
 */
bool
registry_is_stuck(void)
{
	return pg_atomic_read_u32(&registry->stuck) != 0;
}

/*
 * Count a transaction of a worker that changed shared catalogs, and so has left
 * a row in pg_database that nobody needs any more, or will.  Takes no lock.
 */
void
registry_count_write(void)
{
	pg_atomic_fetch_add_u32(&registry->nwrites, 1);
}

/*
 * Have there been that many since this was last true?  Takes no lock.
 */
bool
registry_take_writes(uint32 n)
{
	uint32		found = pg_atomic_read_u32(&registry->nwrites);

	return found >= n &&
		pg_atomic_compare_exchange_u32(&registry->nwrites, &found, 0);
}

/*
 * Say that a session that was in a template is ending.
 */
void
registry_template_left(Oid oid)
{
	template_note(oid, NOTE_LEFT);
}

/*
 * Add to what has been done for a template.  Takes and releases the registry
 * lock and a mutex.
 */
void
registry_add_stats(Oid oid, const TemplateStats *stats)
{
	TemplateEntry *entry;

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(oid);
	if (entry != NULL)
	{
		TemplateStats *sum = &entry->template.stats;

		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
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
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);
}

/*
 * Count what the registry's counters and lists say there is, and what there is.
 * Nothing is changed meanwhile.  Takes and releases the registry lock.
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
	LWLockAcquire(registry->lock, LW_SHARED);
	for (int i = 0; i < testdb_max_templates; i++)
	{
		TemplateEntry *entry = &registry->templates[i];

		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
		memset(&entry->template.stats, 0, sizeof(TemplateStats));
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);
}

/*
 * Remember an error that no session was told of, cut to what there is room
 * for; an empty string forgets it.  Takes and releases the registry lock and a
 * mutex.
 */
void
registry_note_error(Oid oid, const char *message)
{
	TemplateEntry *entry;
	int			len = pg_mbcliplen(message, strlen(message),
								   sizeof(entry->template.last_error) - 1);

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(oid);
	if (entry != NULL)
	{
		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
		memcpy(entry->template.last_error, message, len);
		entry->template.last_error[len] = '\0';
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);
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
 * Count one that was passed on to core, and note why.  Nothing happens if the
 * template has no entry.  Takes and releases the registry lock and a mutex.
 */
void
registry_note_passed_on(Oid oid, const char *reason)
{
	TemplateStats stats = {.passed_on = 1};
	TemplateEntry *entry;

	registry_add_stats(oid, &stats);
	LWLockAcquire(registry->lock, LW_SHARED);
	entry = template_find(oid);
	if (entry != NULL)
	{
		int			len = pg_mbcliplen(reason, strlen(reason),
									   sizeof(entry->template.passed_on_reason) - 1);

		LWLockAcquire(entry->mutex, LW_EXCLUSIVE);
		memcpy(entry->template.passed_on_reason, reason, len);
		entry->template.passed_on_reason[len] = '\0';
		LWLockRelease(entry->mutex);
	}
	LWLockRelease(registry->lock);
}
