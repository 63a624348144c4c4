/*-------------------------------------------------------------------------
 *
 * registry.h
 *	  Shared memory: templates, their snapshots, and the databases that
 *	  testdb made from them.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_REGISTRY_H
#define TESTDB_REGISTRY_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"

/* The life of a clone; see states.c. */
typedef enum CloneState
{
	CLONE_CREATING,				/* a worker is making it */
	CLONE_LEASED,				/* handed out to a caller */
	CLONE_DROPPING,				/* a worker is taking it back */
	CLONE_REWINDING,			/* handed out, being rewound by worker 0 */
	CLONE_RETURNED,				/* dropped, to be restored */
	CLONE_RESTORING,			/* a worker is restoring it */
	CLONE_SPARE,				/* ready to be handed out */
	CLONE_TOUCHED,				/* was a spare, but somebody came near it */
	CLONE_GARBAGE,				/* nobody wants it: a worker will remove it */
	CLONE_REMOVING				/* a worker is removing it */
} CloneState;

#define CLONE_NSTATES	(CLONE_REMOVING + 1)

/* Of a database that has no entry. */
#define CLONE_NONE		CLONE_NSTATES

#define TESTDB_MAX_LABEL	200 /* bytes */

/* On what terms a clone is handed out. */
typedef struct LeaseTerms
{
	int			session_pid;	/* dropped when this session ends; 0 if not */
	int64		lifetime;		/* dropped so many seconds after it was handed
								 * out; 0 if not */
	int			idle_timeout;	/* dropped when nobody was in it for so many
								 * seconds; 0 if not */
	char		label[TESTDB_MAX_LABEL + 1];	/* the caller's words */
	bool		database;		/* made by CREATE DATABASE: its owner's alone */
	NameData	build;			/* a template of this name, with label as its
								 * fingerprint; "" if it is none (build.c) */
	bool		sealed;			/* build: it is finished */
} LeaseTerms;

/* One clone, as callers of this module get it: always a copy. */
typedef struct TestdbClone
{
	Oid			oid;			/* the database */
	Oid			template_oid;	/* what it was made from */
	NameData	template_name;	/* the template's name at that time */
	Oid			owner;			/* the role that asked for it */
	TimestampTz created_at;		/* when it was handed out, or begun */
	CloneState	state;
	bool		ahead;			/* CREATING: to become a spare */
	bool		native;			/* its files came from a snapshot */
	NameData	name;			/* SPARE: what it will be handed out as */
	uint64		version;		/* of the snapshot that its files equal, or
								 * did when it was handed out */
	uint64		row_version;	/* the same for its row; 0 if not known */
	bool		unrestored;		/* REWINDING: its content is neither the old
								 * nor the new */
	TransactionId row_xmin;		/* SPARE: xmin of its row in pg_database,
								 * which tells if somebody has changed that */
	ItemPointerData row_tid;	/* and where it stands */
	uint64		lease;			/* LEASED: a number that no other lease has */
	LeaseTerms	terms;			/* LEASED: on what terms */
	TimestampTz expires_at;		/* LEASED: when it is to be dropped; 0 if
								 * never */
	TimestampTz used_at;		/* LEASED: when somebody was last in it */
} TestdbClone;

/* What has been done for a template since testdb_stats_reset. */
typedef struct TemplateStats
{
	int64		clones;			/* handed out */
	int64		hits;			/* of them, spares that were ready */
	int64		misses;			/* of them, those for which there was none */
	int64		copies;			/* made from the snapshot or by CREATE
								 * DATABASE */
	int64		recycled;		/* restored for another life */
	int64		drops;			/* taken back */
	int64		reaped;			/* of them, because their time was over */
	int64		rewinds;		/* restored under open sessions */
	int64		rewind_waits;	/* transactions that waited for one */
	int64		rewind_us;		/* time from the request to the answer */
	int64		served;			/* CREATE DATABASE that was served */
	int64		passed_on;		/* or passed on to core */
	int64		files;			/* copied, to clones */
	int64		bytes;
	int64		copy_us;		/* time spent in making copies */
	int64		recycle_us;		/* in restoring, shared among a batch */
	int64		drop_us;		/* in taking back */
	int64		snapshot_us;	/* in bringing the snapshot up to date */
} TemplateStats;

/*
 * What pg_database and its companions said of a template when its snapshot
 * was brought up to date.  As long as that is what they say, a clone made then
 * is a faithful one.
 */
typedef struct TemplateRow
{
	TransactionId xmin;			/* of the row in pg_database */
	ItemPointerData tid;		/* where it stands */
	TransactionId frozenxid;
	MultiXactId minmxid;
	int32		clone_limit;	/* the connection limit that clones get */
	bool		closed;			/* nobody can connect to it */
} TemplateRow;

/* A template, as callers of this module get it: always a copy. */
typedef struct TestdbTemplate
{
	Oid			oid;
	uint64		generation;		/* goes up with each commit in it */
	bool		unverified;		/* sessions were in it since the last look */
	bool		has_snapshot;
	bool		in_place;		/* the template's own files are the snapshot */
	bool		dropped;		/* the database has gone: nothing is kept
								 * ready */
	bool		damaged;		/* the snapshot, as somebody found who copied
								 * from it: it must be taken anew */
	uint64		snapshot_generation;	/* generation the snapshot has */
	uint64		settings_generation;	/* what registry_settings_generation
										 * was when its settings were read */
	uint64		settings;		/* fingerprint of its settings then */
	uint64		version;		/* new with each change of the snapshot */
	uint64		manifest;		/* new with each manifest that differs from
								 * the one before: for another version, or
								 * another place */
	XLogRecPtr	lsn;			/* no page of that version is newer */
	uint64		row_version;	/* new with each change of row and settings */
	TemplateRow row;			/* as it was for this version */
	uint64		dependencies;	/* fingerprint of its rows in pg_shdepend */
	int			files;
	uint64		bytes;
	TimestampTz taken_at;		/* when the snapshot was last looked at */
	char		obstacle[128];	/* why the native method is not used, or "" */
	int			nclones[CLONE_NSTATES]; /* how many are in which state */
	int			peak;			/* most that were handed out at one time, of
								 * late */
	int			spares_limit;	/* instead of testdb.spares, or -1 */
	int			wanted;			/* how many spares should be ready, for all
								 * owners together; set by
								 * registry_list_templates */
	char		last_error[128];	/* of what was done ahead or behind, or "" */
	char		passed_on_reason[128];	/* of the last one, or "" */
	TemplateStats stats;
} TestdbTemplate;

/*
 * What the copies of a template take, in bytes: so many times what it takes itself,
 * without what has been added to them, and as if file systems did not share blocks.
 */
typedef struct TemplateSpace
{
	uint64		snapshot;
	uint64		spares;			/* kept ready, being restored or removed */
	uint64		clones;			/* in use, or being made */
} TemplateSpace;

/* How many owners of a template's clones are remembered. */
#define MAX_DEMANDS		8

/* What one owner wants of a template. */
typedef struct SpareDemand
{
	Oid			owner;			/* InvalidOid if the place is free */
	int			wanted;			/* how many spares should be ready */
	TimestampTz used_at;		/* when it last asked for a clone */
} SpareDemand;

/* What spare somebody wants. */
typedef struct SpareWish
{
	Oid			template_oid;
	Oid			owner;
	TemplateRow row;			/* what the caller has just read of the
								 * template in pg_database */
	bool		ignore_unverified;	/* BEHIND_UNVERIFIED does not count */
	bool		waiting;		/* the caller has been waiting for one */
	const LeaseTerms *terms;	/* on what it will be handed out */
} SpareWish;

/* Answers of registry_take_spare. */
typedef enum SpareResult
{
	SPARE_TAKEN,
	SPARE_NONE,					/* there is none for this owner */
	SPARE_STALE					/* the template may have changed */
} SpareResult;

/* What is counted in shared memory: as noted, and as found by counting. */
typedef struct RegistryAudit
{
	int			nclones[2];
	int			nstates[2];		/* by the templates' counters of states */
	int			nspares[2];		/* in the templates' lists */
	int			ngarbage[2];
	int			nreturned[2];
	int			ntouched[2];
	int			nowners[2];		/* clones in passing states; of them, those
								 * whose owner lives */
	int			nwaiting;		/* sessions that wait for a spare */
} RegistryAudit;

extern Size registry_shmem_size(void);
extern void registry_shmem_request(void);
extern void registry_shmem_init(void);

/* what this process has in hand */
extern void registry_prepare_to_own(void);
extern void registry_hold(Oid oid);
extern void registry_disown(Oid oid);
extern bool registry_owns(Oid oid, CloneState state);
extern void registry_set_fallback(Oid oid, CloneState state);
extern int	registry_release_all(void);

/* clones */
extern const char *clone_state_name(CloneState state);
extern bool registry_add_as(const TestdbClone *clone, bool replaces, int elevel,
							const char *by);
extern bool registry_lookup(Oid oid, TestdbClone *clone);
extern bool registry_set_state_as(Oid oid, CloneState from, CloneState to,
								  const char *by);
extern bool registry_update_as(const TestdbClone *clone, CloneState from,
							   const char *by);
extern bool registry_end_lease_as(Oid oid, uint64 lease, CloneState to,
								  TestdbClone *clone, const char *by);
extern void registry_finish_reset(const TestdbClone *clone);
extern void registry_set_unrestored(Oid oid);
extern bool registry_has_unrestored(void);
extern bool registry_is_unrestored(const char *name);
extern void registry_replace(Oid old, const TestdbClone *new);
extern uint64 registry_lease(Oid oid);
extern void registry_remove_as(Oid oid, const char *by);
extern bool registry_forget_as(Oid oid, CloneState from, const char *by);
extern bool registry_take_garbage(TestdbClone *clone);
extern bool registry_has_garbage(void);
extern TestdbClone *registry_list(int *nclones);
extern TestdbClone *registry_list_builds(int *nbuilds);
extern uint64 registry_next_serial(void);

extern bool registry_is_full(void);

/* The function that changes a state is known by its name: see states.c. */
#define registry_add(clone, replaces, elevel) \
	registry_add_as(clone, replaces, elevel, __func__)
#define registry_set_state(oid, from, to) \
	registry_set_state_as(oid, from, to, __func__)
#define registry_update(clone, from) \
	registry_update_as(clone, from, __func__)
#define registry_end_lease(oid, lease, to, clone) \
	registry_end_lease_as(oid, lease, to, clone, __func__)
#define registry_forget(oid, from) \
	registry_forget_as(oid, from, __func__)
#define registry_remove(oid) \
	registry_remove_as(oid, __func__)

#endif							/* TESTDB_REGISTRY_H */
