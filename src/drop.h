/*-------------------------------------------------------------------------
 *
 * drop.h
 *	  Dropping or returning clones.
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
