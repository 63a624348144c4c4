/*-------------------------------------------------------------------------
 *
 * exits.h
 *	  Who waits for the sessions in a database to leave it.
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
