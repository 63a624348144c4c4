/*-------------------------------------------------------------------------
 *
 * upkeep.h
 *	  Background work of the workers.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_UPKEEP_H
#define TESTDB_UPKEEP_H

#include "registry.h"

extern void job_reap(TestdbClone *clone);
extern void job_retire(TestdbClone *clone);
extern uint32 job_vacuum(void);
extern void job_forget_dropped(void);
extern void job_recycle(void);
extern void job_refill(Oid template_oid, Oid owner);

#endif							/* TESTDB_UPKEEP_H */
