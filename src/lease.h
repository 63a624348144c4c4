/*-------------------------------------------------------------------------
 *
 * lease.h
 *	  The leases: what is recorded on disk about each database created by
 *	  testdb.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_LEASE_H
#define TESTDB_LEASE_H

#include "nodes/pg_list.h"
#include "registry.h"

/* In the data directory. */
#define TESTDB_DIR			"pg_testdb"
#define TESTDB_LEASE_DIR	TESTDB_DIR "/clones"

/* The state of a database.  The numbers are on disk: never reuse one. */
typedef enum LeaseState
{
	LEASE_CREATING = 1,			/* its row may or may not be committed */
	LEASE_HELD = 2,				/* complete, handed out */
	LEASE_UNWANTED = 3,			/* not handed out; to be removed */
	LEASE_REWINDING = 4			/* handed out, but must be restored */
} LeaseState;

extern void lease_make_directories(void);
extern void lease_write(const TestdbClone *clone, LeaseState state);
extern void lease_close_removed(void);
extern void lease_open_ahead(Oid oid);
extern void lease_hold(const TestdbClone *clone);
extern bool lease_is_empty(Oid oid);
extern bool lease_read(Oid oid, TestdbClone *clone, LeaseState *state, bool *session);
extern void lease_remove(Oid oid);
extern List *lease_list(void);

#endif							/* TESTDB_LEASE_H */
