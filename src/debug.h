/*-------------------------------------------------------------------------
 *
 * debug.h
 *	  Named points at which a process can be made to fail, for tests.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_DEBUG_H
#define TESTDB_DEBUG_H

#ifdef TESTDB_DEBUG
extern void debug_define(void);
extern void debug_point(const char *name);
extern bool debug_planted(const char *name);
#else
#define debug_define()		((void) 0)
#define debug_point(name)	((void) 0)
#define debug_planted(name)	false
#endif

#endif							/* TESTDB_DEBUG_H */
