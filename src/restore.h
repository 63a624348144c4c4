/*-------------------------------------------------------------------------
 *
 * restore.h
 *	  Restoring a clone in place, while no session accesses it.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_RESTORE_H
#define TESTDB_RESTORE_H

#include "registry.h"

/* How restore_database has ended. */
typedef enum RestoreResult
{
	RESTORE_DONE,				/* committed; the clone is LEASED */
	RESTORE_NOT_BEGUN,			/* the clone is as it was */
	RESTORE_FAILED				/* its content is partly restored */
} RestoreResult;

extern Oid	restore_owner(const TestdbClone *clone, Oid owner);
extern RestoreResult restore_database(TestdbClone *clone, bool *begun);

#endif							/* TESTDB_RESTORE_H */
