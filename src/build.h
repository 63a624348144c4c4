/*-------------------------------------------------------------------------
 *
 * build.h
 *	  Templates that are built once, by the first session that needs them.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_BUILD_H
#define TESTDB_BUILD_H

extern void build_shmem_request(void);
extern void build_shmem_init(void);
extern void build_note_vacuumed(Oid database);

#endif							/* TESTDB_BUILD_H */
