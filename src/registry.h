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

#include "datatype/timestamp.h"
#include "storage/itemptr.h"

/* The life of a clone; the changes are drawn at the head of registry.c. */
typedef enum CloneState
{
	CLONE_CREATING,				/* a worker is making it */
	CLONE_LEASED,				/* handed out to a caller */
	CLONE_RETURNED,				/* dropped, to be restored */
	CLONE_RESTORING,			/* a worker is restoring it */
	CLONE_SPARE,				/* ready to be handed out */
	CLONE_GARBAGE				/* nobody wants it: a worker will remove it */
} CloneState;

#define CLONE_NSTATES	(CLONE_GARBAGE + 1)

/* One clone, as callers of this module get it: always a copy. */
typedef struct TestdbClone
{
	Oid			oid;			/* the database */
	Oid			template_oid;	/* what it was made from */
	NameData	template_name;	/* the template's name at that time */
	Oid			owner;			/* the role that asked for it */
	TimestampTz created_at;		/* when it was handed out, or begun */
	CloneState	state;
	bool		native;			/* its files came from a snapshot */
	NameData	name;			/* SPARE: what it will be handed out as */
	uint64		version;		/* of the snapshot that its files equal, or did
								 * when it was handed out */
	uint64		row_version;	/* the same for its row; 0 if not known */
} TestdbClone;

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
} TemplateRow;

/* A template, as callers of this module get it: always a copy. */
typedef struct TestdbTemplate
{
	Oid			oid;
	uint64		generation;		/* goes up with each commit in it */
	uint64		settings_generation;	/* and with each change of its settings */
	bool		unverified;		/* sessions were in it since the last look */
	bool		has_snapshot;
	uint64		snapshot_generation;	/* generation the snapshot has */
	uint64		snapshot_settings;	/* the same for settings_generation */
	uint64		version;		/* new with each change of the snapshot */
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
} TestdbTemplate;

/* How many owners of a template's clones are remembered. */
#define MAX_DEMANDS		8

/* What one owner wants of a template. */
typedef struct SpareDemand
{
	Oid			owner;			/* InvalidOid if the place is free */
	int			wanted;			/* how many spares should be ready */
	TimestampTz used_at;		/* when it last asked for a clone */
} SpareDemand;

/* Answers of registry_take_spare. */
typedef enum SpareResult
{
	SPARE_TAKEN,
	SPARE_NONE,					/* there is none for this owner */
	SPARE_STALE					/* the template may have changed */
} SpareResult;

extern Size registry_shmem_size(void);
extern void registry_shmem_request(void);
extern void registry_shmem_init(void);

/* clones */
extern bool registry_add(const TestdbClone *clone, int elevel);
extern bool registry_lookup(Oid oid, TestdbClone *clone);
extern bool registry_set_state(Oid oid, CloneState from, CloneState to);
extern bool registry_update(const TestdbClone *clone, CloneState from);
extern void registry_remove(Oid oid);
extern bool registry_take_garbage(TestdbClone *clone);
extern bool registry_has_garbage(void);
extern void registry_postpone_garbage(Oid oid, int delay_ms);
extern TestdbClone *registry_list(int *nclones);
extern uint64 registry_next_serial(void);
extern void registry_set_recheck(void);
extern bool registry_take_recheck(void);

/* spares */
extern SpareResult registry_take_spare(Oid template_oid, Oid owner,
									   const TemplateRow *row,
									   bool ignore_unverified, bool waiting,
									   TestdbClone *clone);
extern bool registry_wait_for_spare(Oid template_oid, long timeout_ms);
extern void registry_announce_spare(Oid template_oid);
extern bool registry_should_restore(long *delay_ms);
extern bool registry_next_refill(Oid *template_oid, Oid *owner);
extern void registry_want_spares(Oid template_oid, Oid owner, int wanted);
extern void registry_want_none(Oid template_oid, Oid owner);
extern void registry_limit_spares(Oid template_oid, int limit);
extern bool registry_lower_demand(void);
extern bool registry_take_stale_spare(Oid template_oid, Oid owner,
									  TestdbClone *clone);
extern int	registry_count_spares(Oid template_oid, Oid owner, int *ncoming);
extern bool registry_has_returned(void);

/* templates */
extern bool registry_template(Oid oid, TestdbTemplate *template);
extern uint64 registry_row_version(Oid oid, const TemplateRow *row);
extern bool registry_enter_template(Oid oid, Oid *evicted);
extern void registry_set_snapshot(const TestdbTemplate *template, bool verified);
extern void registry_clear_snapshot(Oid oid, const char *obstacle);
extern void registry_forget_template(Oid oid);
extern TestdbTemplate *registry_list_templates(int *ntemplates);
extern bool registry_is_template(Oid oid);
extern void registry_template_changed(Oid oid);
extern void registry_settings_changed(Oid oid);
extern void registry_template_left(Oid oid);
extern uint32 registry_epoch(void);

#endif							/* TESTDB_REGISTRY_H */
