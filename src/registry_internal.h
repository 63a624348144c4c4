/*-------------------------------------------------------------------------
 *
 * registry_internal.h
 *	  The registry's entries, for the files that implement policies on them.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_REGISTRY_INTERNAL_H
#define TESTDB_REGISTRY_INTERNAL_H

#include "lib/ilist.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "utils/hsearch.h"
#include "registry.h"

/* Value of next_due if no clone expires. */
#define NEVER_DUE			((uint64) PG_INT64_MAX)

/* A clone's entry.  Membership: registry lock.  Fields: template's mutex. */
typedef struct CloneEntry
{
	TestdbClone clone;			/* clone.oid is the hash key, never changed */
	int			slot;			/* index of its template; never changed */
	Oid			payer;			/* role whose limit it counts towards, or
								 * InvalidOid */
	int			owner_pid;		/* PID of the owner, or 0 */
	CloneState	fallback;		/* state that it gets if the owner fails or
								 * exits */
	TimestampTz retry_at;		/* no drop or removal is tried before this
								 * time */
	int			failures;		/* number of failed tries since it was created
								 * or recycled */
	uint32		failure;		/* hash of the last error */
	TimestampTz failure_logged_at;
	dlist_node	node;			/* SPARE, RETURNED, RESTORING: in a list of
								 * the template's */
} CloneEntry;

/* When worker 0 will next check a template's returned clones. */
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
	dlist_head	spares;			/* most recent one first: its pages are likely
								 * cached */
	dlist_head	coming;			/* RETURNED and RESTORING */
	SpareDemand demands[MAX_DEMANDS];	/* the owners' targets */
	TimestampTz peak_at;		/* when template.peak was last reached or
								 * lowered */
	int			nwaiting;		/* number of sessions sleeping on spare_cv */
	int			refill_sqlstate;	/* SQLSTATE of the last logged failure to
									 * create a spare */
	TimestampTz refill_logged_at;	/* when that was logged; 0 if never */
	TimestampTz returned_at;	/* when the longest-waiting RETURNED clone got
								 * that state */
	RestoreLook look;			/* LOOK_WHEN_WOKEN if none is RETURNED */
	ConditionVariable spare_cv; /* sessions waiting for a spare; no lock */
} TemplateEntry;

typedef struct RegistrySharedState
{
	LWLock	   *lock;			/* the registry lock; never changed */
	pg_atomic_uint64 serial;	/* see registry_next_serial; no lock */
	pg_atomic_uint32 epoch;		/* see registry_epoch; no lock to read */
	pg_atomic_uint32 recheck;	/* see registry_set_recheck; no lock */
	pg_atomic_uint64 next_due;	/* a TimestampTz; lowered without a lock,
								 * raised by registry_take_expired */
	pg_atomic_uint64 settings_generation;	/* incremented by each change of
											 * pg_db_role_setting; no lock */
	pg_atomic_uint64 settings_prepared; /* number of transactions prepared
										 * that changed it, roughly; no lock */
	pg_atomic_uint64 settings_settled;	/* how many of them have ended for
										 * sure; no lock */
	pg_atomic_uint32 stuck;		/* see registry_set_stuck; no lock */
	pg_atomic_uint32 lease_removals;	/* see registry_lease_removals; no
										 * lock */
	pg_atomic_uint32 nwrites;	/* see registry_count_write; no lock */
	pg_atomic_uint64 refill_told;	/* when workers were woken for lack of
									 * spares; 0 if one has looked since */
	pg_atomic_uint64 refill_soon;	/* when a worker last announced that it
									 * will look for missing spares without
									 * being woken; 0 if one has looked since */
	pg_atomic_uint32 room_changes;	/* see registry_await_room; no lock */
	ConditionVariable room_cv;	/* workers waiting for room; no lock */
	pg_atomic_uint32 ngarbage;	/* clones in these states; changed under a */
	pg_atomic_uint32 nreturned; /* mutex, read without as a hint */
	pg_atomic_uint32 nunrestored;	/* likewise; clones whose rewind was
									 * interrupted */
	pg_atomic_uint32 ntouched;
	pg_atomic_uint32 uninstalled;	/* 1 after testdb_uninstall(); changed
									 * under the registry lock and all
									 * mutexes, read under either, or without
									 * as a hint */
	int			nclones;		/* registry lock */
	TemplateEntry templates[FLEXIBLE_ARRAY_MEMBER];
} RegistrySharedState;

/* A scan of all clones, or of all templates: see clone_scan_begin. */
typedef struct CloneScan
{
	HASH_SEQ_STATUS seq;
	LWLockMode	mode;
	CloneEntry *entry;			/* the locked entry, or NULL */
	bool		ended;
} CloneScan;

typedef struct TemplateScan
{
	int			next;
	LWLockMode	mode;
	TemplateEntry *entry;		/* the locked entry, or NULL */
} TemplateScan;

extern RegistrySharedState *registry;
extern HTAB *clone_hash;

extern CloneEntry *clone_acquire(Oid oid, LWLockMode mode);
extern void clone_release(CloneEntry *entry);
extern TemplateEntry *template_acquire(Oid oid, LWLockMode mode);
extern void template_release(TemplateEntry *entry);
extern void clone_scan_begin(CloneScan *scan, LWLockMode mode);
extern CloneEntry *clone_scan_next(CloneScan *scan);
extern void clone_scan_end(CloneScan *scan);
extern void template_scan_begin(TemplateScan *scan, LWLockMode mode);
extern TemplateEntry *template_scan_next(TemplateScan *scan);
extern void template_scan_end(TemplateScan *scan);
extern TemplateEntry *template_find(Oid oid);
extern bool template_is_unused(const TemplateEntry *entry);
extern TemplateEntry *template_enter(Oid oid, Oid *evicted);
extern CloneEntry *clone_find(Oid oid);
extern bool registry_is_nearly_full(void);
extern void registry_forget_entry_as(CloneEntry *entry, const char *by);
extern TemplateEntry *clone_template(CloneEntry *entry);
extern void clone_set_state_as(CloneEntry *entry, CloneState state, const char *by);
extern void clone_begin_state(CloneEntry *entry, CloneState state, const char *by);
extern void clone_set_unrestored(CloneEntry *entry, bool unrestored);
extern bool clone_is_passing(const CloneEntry *entry);
extern void clone_end_state(CloneEntry *entry, const char *by);
extern void lower_next_due(TimestampTz due);
extern TimestampTz clone_due(const TestdbClone *clone);
extern void report_uninstalled(void);
extern int	spares_limit(const TestdbTemplate *template);
extern void want_none(TemplateEntry *entry);
extern void discard_spares(TemplateEntry *entry);

/* As in registry.h. */
#define clone_set_state(entry, state) \
	clone_set_state_as(entry, state, __func__)
#define registry_forget_entry(entry) \
	registry_forget_entry_as(entry, __func__)

#endif							/* TESTDB_REGISTRY_INTERNAL_H */
