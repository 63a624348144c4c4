/*-------------------------------------------------------------------------
 *
 * exits.h
 *	  Waking processes that wait for sessions to leave a database.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_EXITS_H
#define TESTDB_EXITS_H

extern void exits_shmem_request(void);
extern void exits_shmem_init(void);
extern void exits_watch(Oid database);
extern void exits_announce(Oid database);

#endif							/* TESTDB_EXITS_H */
