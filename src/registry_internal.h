/*-------------------------------------------------------------------------
 *
 * registry_internal.h
 *	  Entries of the registry, for the files that decide about them.
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

/* next_due if no clone is ever due. */
#define NEVER_DUE			((uint64) PG_INT64_MAX)

/* A clone's entry.  Membership: registry lock.  Fields: template's mutex. */
typedef struct CloneEntry
{
	TestdbClone clone;			/* clone.oid is the hash key, never changed */
	int			slot;			/* of its template; never changed */
	Oid			payer;			/* the role that it counts to, or InvalidOid */
	int			owner_pid;		/* the process that has it in hand, or 0 */
	CloneState	fallback;		/* what it becomes if that gives it up */
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
	TimestampTz peak_at;		/* when template.peak was last reached or
								 * lowered */
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
	pg_atomic_uint64 next_due;	/* a TimestampTz; lowered without a lock,
								 * raised by registry_take_expired */
	pg_atomic_uint64 settings_generation;	/* goes up with each change of
											 * pg_db_role_setting; no lock */
	pg_atomic_uint32 settings_prepared; /* may a prepared transaction change
										 * that?  no lock */
	pg_atomic_uint32 stuck;		/* see registry_set_stuck; no lock */
	pg_atomic_uint32 nwrites;	/* see registry_count_write; no lock */
	pg_atomic_uint32 refill_told;	/* have workers been told that spares run
									 * short since one last looked?  no lock */
	pg_atomic_uint32 room_changes;	/* see registry_await_room; no lock */
	ConditionVariable room_cv;	/* workers wait here for room; no lock */
	pg_atomic_uint32 ngarbage;	/* clones in these states; changed under a */
	pg_atomic_uint32 nreturned; /* mutex, read without as a hint */
	pg_atomic_uint32 nunrestored;	/* the same; clones whose rewinding was
									 * interrupted */
	pg_atomic_uint32 ntouched;
	pg_atomic_uint32 uninstalled;	/* may no databases be made?  changed
									 * under the registry lock and all
									 * mutexes, read under either, or without
									 * as a hint */
	int			nclones;		/* registry lock */
	TemplateEntry templates[FLEXIBLE_ARRAY_MEMBER];
} RegistrySharedState;

/* Going through all clones, or all templates: see clone_scan_begin. */
typedef struct CloneScan
{
	HASH_SEQ_STATUS seq;
	LWLockMode	mode;
	CloneEntry *entry;			/* the one that is locked, or NULL */
	bool		ended;
} CloneScan;

typedef struct TemplateScan
{
	int			next;
	LWLockMode	mode;
	TemplateEntry *entry;		/* the one that is locked, or NULL */
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
