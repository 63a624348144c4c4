/*-------------------------------------------------------------------------
 *
 * drop.h
 *	  Taking clones back.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_DROP_H
#define TESTDB_DROP_H

#include "registry.h"

extern void job_collect_garbage(const TestdbClone *clone);

#endif							/* TESTDB_DROP_H */
