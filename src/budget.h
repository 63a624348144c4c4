/*-------------------------------------------------------------------------
 *
 * budget.h
 *	  The disk space that unused databases may take.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_BUDGET_H
#define TESTDB_BUDGET_H

#include "registry.h"

extern uint64 budget_left(void);
extern bool budget_allows_spare(Oid template_oid);
extern bool budget_reserve_return(Oid template_oid);
extern bool budget_reserve_spare(Oid template_oid, uint64 left);
extern void budget_release(void);
extern void budget_log(void);
extern void budget_expire_snapshots(long *delay_ms);

#endif							/* TESTDB_BUDGET_H */
