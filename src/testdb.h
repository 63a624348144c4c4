/*-------------------------------------------------------------------------
 *
 * testdb.h
 *	  Checks made by every SQL-callable function.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_H
#define TESTDB_H

extern void testdb_check_library(void);

#endif							/* TESTDB_H */
