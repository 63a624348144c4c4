/*-------------------------------------------------------------------------
 *
 * rewind.h
 *	  Rewinding a clone to its template's content, under open sessions.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_REWIND_H
#define TESTDB_REWIND_H

extern bool rewind_turn(long *delay_ms);
extern void rewind_give_way(Oid oid);
extern bool rewind_is_pending(void);
extern void rewind_exit(void);

#endif							/* TESTDB_REWIND_H */
