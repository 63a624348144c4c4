/*-------------------------------------------------------------------------
 *
 * origin.h
 *	  Whether the leases are those of a base backup.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_ORIGIN_H
#define TESTDB_ORIGIN_H

#include "lease.h"

extern bool origin_is_backup(void);
extern void origin_record(void);
extern LeaseState origin_settle(TestdbClone *clone, LeaseState state, bool session);
extern void origin_note_spares(void);

#endif							/* TESTDB_ORIGIN_H */
