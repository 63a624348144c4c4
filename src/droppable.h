/*-------------------------------------------------------------------------
 *
 * droppable.h
 *	  Making a database droppable, and describing what prevents that.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_DROPPABLE_H
#define TESTDB_DROPPABLE_H

extern void droppable_prepare(Oid oid);
extern void droppable_set_connection_limit(Oid oid, int limit);
extern char *droppable_describe_lockers(Oid oid, TransactionId changer);
extern void droppable_count_lockers_within(Oid oid, TransactionId changer,
										   int *nsessions, int *nprepared);
extern char *droppable_describe_prepared(const char *name);
extern void droppable_watch_barrier(void);
extern char *droppable_end_barrier(void);

#endif							/* TESTDB_DROPPABLE_H */
