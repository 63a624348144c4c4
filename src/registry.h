/*-------------------------------------------------------------------------
 *
 * registry.h
 *	  Shared memory: templates, their snapshots, and the databases created
 *	  from them.
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

/* The states of a clone; see states.c. */
typedef enum CloneState
{
	CLONE_CREATING,				/* a worker is creating it, or a session takes
								 * a spare */
	CLONE_LEASED,				/* handed out to a session */
	CLONE_DROPPING,				/* a worker is dropping or resetting it */
	CLONE_REWINDING,			/* handed out; worker 0 is rewinding it */
	CLONE_RETURNED,				/* dropped; to be restored as a spare */
	CLONE_RESTORING,			/* a worker is restoring it */
	CLONE_SPARE,				/* ready to be handed out */
	CLONE_TOUCHED,				/* was a spare; a session has been in it */
	CLONE_GARBAGE,				/* no longer needed; a worker will remove it */
	CLONE_REMOVING				/* a worker is removing it */
} CloneState;

#define CLONE_NSTATES	(CLONE_REMOVING + 1)

/* The state of a database that has no entry. */
#define CLONE_NONE		CLONE_NSTATES

#define TESTDB_MAX_LABEL	200 /* bytes */

/* The terms of a lease. */
typedef struct LeaseTerms
{
	int			session_pid;	/* PID of the session at whose end it is
								 * dropped, or 0 */
	int64		lifetime;		/* seconds after being handed out when it is
								 * dropped, or 0 */
	int			idle_timeout;	/* seconds without a session after which it is
								 * dropped, or 0 */
	char		label[TESTDB_MAX_LABEL + 1];	/* set by the caller, or "";
												 * build: its fingerprint */
	bool		database;		/* created by CREATE DATABASE (serve.c) */
	NameData	build;			/* name of the template that is built in it
								 * (build.c), or "" */
	bool		sealed;			/* build: testdb_template_finish has been
								 * called */
} LeaseTerms;

/* A clone.  Callers of this module get copies. */
typedef struct TestdbClone
{
	Oid			oid;			/* the database */
	Oid			template_oid;	/* the template's OID */
	NameData	template_name;	/* the template's name when it was created */
	Oid			owner;			/* the role for which it was created */
	TimestampTz created_at;		/* when it was handed out, or its creation
								 * began */
	CloneState	state;
	bool		ahead;			/* CREATING: to become a spare */
	bool		native;			/* its files were copied from a snapshot */
	NameData	name;			/* its name; of a SPARE, the one that it will
								 * be handed out under */
	uint64		version;		/* version of the snapshot to which its files
								 * are equal, or were when it was handed out */
	uint64		row_version;	/* the same for its row in pg_database; 0 if
								 * unknown */
	bool		unrestored;		/* REWINDING: its content is partly restored */
	TransactionId row_xmin;		/* SPARE: xmin of its row in pg_database, by
								 * which a change of the row is detected */
	ItemPointerData row_tid;	/* and the row's ctid */
	uint64		lease;			/* LEASED: the lease's unique number */
	LeaseTerms	terms;			/* LEASED: the lease's terms */
	TimestampTz expires_at;		/* LEASED: when it is to be dropped, or 0 */
	TimestampTz used_at;		/* LEASED: when it last had a session */
} TestdbClone;

/*
 * A template's counters since testdb_stats_reset.  Times are in microseconds.
 */
typedef struct TemplateStats
{
	int64		clones;			/* clones handed out */
	int64		hits;			/* of these, spares */
	int64		misses;			/* of these, those without a ready spare */
	int64		copies;			/* databases created, from the snapshot or by
								 * core */
	int64		recycled;		/* clones restored as spares */
	int64		drops;			/* clones dropped by their users or expired */
	int64		reaped;			/* of these, expired */
	int64		rewinds;		/* clones restored under open sessions */
	int64		rewind_waits;	/* transactions that waited for a rewind */
	int64		rewind_us;		/* duration, from the request to the answer */
	int64		served;			/* CREATE DATABASE commands served */
	int64		passed_on;		/* CREATE DATABASE commands passed on to core */
	int64		files;			/* files copied to clones */
	int64		bytes;
	int64		copy_us;		/* duration of copies */
	int64		recycle_us;		/* duration of restores; a batch's is divided
								 * evenly */
	int64		drop_us;		/* duration of drops */
	int64		snapshot_us;	/* duration of snapshot updates */
} TemplateStats;

/*
 * The relevant fields of a template's row in pg_database, as they were when
 * its snapshot was last updated.  As long as they have not changed, clones
 * created at that time are current.
 */
typedef struct TemplateRow
{
	TransactionId xmin;			/* of the row */
	ItemPointerData tid;		/* ctid of the row */
	TransactionId frozenxid;
	MultiXactId minmxid;
	int32		clone_limit;	/* connection limit of its clones */
	bool		closed;			/* it allows no connections */
} TemplateRow;

/* A template.  Callers of this module get copies. */
typedef struct TestdbTemplate
{
	Oid			oid;
	uint64		generation;		/* incremented by each commit in it */
	bool		unverified;		/* it may have been changed without a
								 * transaction ID since its files were last
								 * compared */
	bool		has_snapshot;
	bool		in_place;		/* the template's own files serve as the
								 * snapshot */
	bool		dropped;		/* the database has been dropped: no spares
								 * are kept */
	bool		damaged;		/* files of the snapshot were found to be
								 * modified: it must be taken again */
	uint64		snapshot_generation;	/* generation at which the snapshot
										 * was taken */
	uint64		settings_generation;	/* registry_settings_generation() when
										 * its configuration parameters were
										 * read */
	uint64		settings;		/* hash of its configuration parameters then */
	uint64		version;		/* changes with each change of the snapshot */
	uint64		manifest;		/* changes with each manifest that differs
								 * from the previous one: another version, or
								 * another directory */
	XLogRecPtr	lsn;			/* no page of the snapshot has a later LSN */
	uint64		row_version;	/* changes with each change of row and
								 * parameters */
	TemplateRow row;			/* as of this version */
	uint64		dependencies;	/* hash of its rows in pg_shdepend */
	int			files;
	uint64		bytes;
	TimestampTz taken_at;		/* when the snapshot was last updated */
	char		obstacle[128];	/* why the native method cannot be used, or "" */
	int			nclones[CLONE_NSTATES]; /* number of clones in each state */
	int			peak;			/* recent high-water mark of LEASED clones */
	int			spares_limit;	/* overrides testdb.spares, or -1 */
	int			wanted;			/* target number of spares, of all owners; set
								 * by registry_list_templates */
	char		last_error[128];	/* of work that no session waited for, or
									 * "" */
	char		passed_on_reason[128];	/* why the last CREATE DATABASE was
										 * passed on, or "" */
	TemplateStats stats;
} TestdbTemplate;

/*
 * Disk space used by the copies of a template, in bytes: the template's size
 * for each, regardless of data added to them and of blocks shared by the file
 * system.
 */
typedef struct TemplateSpace
{
	uint64		snapshot;
	uint64		spares;			/* ready, being restored or being removed */
	uint64		clones;			/* in use or being created */
} TemplateSpace;

/* Number of owners whose demand is tracked, for each template. */
#define MAX_DEMANDS		8

/* One owner's demand for spares of a template. */
typedef struct SpareDemand
{
	Oid			owner;			/* InvalidOid if the place is unused */
	int			wanted;			/* target number of spares */
	TimestampTz used_at;		/* when it last requested a clone */
} SpareDemand;

/* A request for a spare. */
typedef struct SpareWish
{
	Oid			template_oid;
	Oid			owner;
	TemplateRow row;			/* the template's row, as just read by the
								 * caller */
	bool		row_is_known;	/* ignore row: snapshot_ensure has just
								 * succeeded */
	bool		ignore_unverified;	/* accept a template that is
									 * BEHIND_UNVERIFIED */
	bool		waiting;		/* the caller has waited for one */
	const LeaseTerms *terms;	/* terms under which it will be handed out */
} SpareWish;

/* Results of registry_take_spare. */
typedef enum SpareResult
{
	SPARE_TAKEN,
	SPARE_NONE,					/* no spare is available to this owner */
	SPARE_STALE					/* the snapshot may be behind the template */
} SpareResult;

/* The workers to wake after a spare was taken, so that another is created. */
typedef enum SpareRefill
{
	REFILL_NONE,
	REFILL_WAKE_ONE,
	REFILL_WAKE_ALL				/* one was to look, and has not in time */
} SpareRefill;

/*
 * Counters in shared memory: [0] as stored, [1] as counted from the entries.
 */
typedef struct RegistryAudit
{
	int			nclones[2];
	int			nstates[2];		/* sum of the templates' counters by state */
	int			nspares[2];		/* in the templates' lists of spares */
	int			ncoming[2];		/* likewise, of clones to be restored */
	int			ngarbage[2];
	int			nreturned[2];
	int			ntouched[2];
	int			nowners[2];		/* clones in transitional states, and those of
								 * them whose owner exists */
	int			nwaiting;		/* sessions waiting for a spare */
} RegistryAudit;

extern Size registry_shmem_size(void);
extern void registry_shmem_request(void);
extern void registry_shmem_init(void);

/* clones owned by this process */
extern void registry_prepare_to_own(void);
extern void registry_hold(Oid oid);
extern void registry_disown(Oid oid);
extern bool registry_owns(Oid oid, CloneState state);
extern void registry_set_fallback(Oid oid, CloneState state);
extern bool registry_is_torn(Oid oid);
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
extern void registry_set_name(Oid oid, const NameData *name);
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

/*
 * These pass on the name of the calling function, for the checks of states.c.
 */
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
