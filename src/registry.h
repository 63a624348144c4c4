/*-------------------------------------------------------------------------
 *
 * registry.h
 *	  Shared memory: which databases testdb made, from which templates.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_REGISTRY_H
#define TESTDB_REGISTRY_H

#include "datatype/timestamp.h"

/* The life of a clone; the changes are drawn at the head of registry.c. */
typedef enum CloneState
{
	CLONE_CREATING,				/* a worker is making it */
	CLONE_LEASED,				/* handed out to a caller */
	CLONE_GARBAGE				/* nobody wants it: a worker will remove it */
} CloneState;

/* One clone, as callers of this module get it: always a copy. */
typedef struct TestdbClone
{
	Oid			oid;			/* the database */
	Oid			template_oid;	/* what it was made from */
	NameData	template_name;	/* the template's name at that time */
	Oid			owner;			/* the role that asked for it */
	TimestampTz created_at;
	CloneState	state;
} TestdbClone;

extern Size registry_shmem_size(void);
extern void registry_shmem_request(void);
extern void registry_shmem_init(void);

extern bool registry_add(const TestdbClone *clone, int elevel);
extern bool registry_lookup(Oid oid, TestdbClone *clone);
extern bool registry_set_state(Oid oid, CloneState from, CloneState to);
extern void registry_remove(Oid oid);
extern bool registry_take_garbage(TestdbClone *clone);
extern bool registry_has_garbage(void);
extern void registry_postpone_garbage(Oid oid, int delay_ms);
extern TestdbClone *registry_list(int *nclones);
extern uint64 registry_next_serial(void);
extern void registry_set_recheck(void);
extern bool registry_take_recheck(void);

#endif							/* TESTDB_REGISTRY_H */
