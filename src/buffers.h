/*-------------------------------------------------------------------------
 *
 * buffers.h
 *	  A database's pages in shared buffers, and its cumulative statistics.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_BUFFERS_H
#define TESTDB_BUFFERS_H

#include "access/xlogdefs.h"
#include "utils/hsearch.h"

/* One relation of a set of those that may have changed. */
typedef struct RelationChange
{
	Oid			number;			/* relfilenode */
	XLogRecPtr	lsn;			/* the newest of its dirty pages;
								 * PG_UINT64_MAX if its files have changed */
} RelationChange;

extern void database_drop_statistics(const Oid *oids, int n);
extern void database_reset_statistics(const Oid *oids, int n);
extern bool database_is_checkpointing(void);
extern void database_discard_buffers(Oid oid);
extern HTAB *database_relations_create(void);
extern Oid	database_relation_of_file(const char *file);
extern void database_relations_add_file(HTAB *relations, Oid oid, const char *file);
extern void database_relations_add_dirty(HTAB *relations, Oid *oids, int noids);
extern RelationChange *database_relations_list(HTAB *relations, Oid oid, int *n);
extern void database_relations_discard(HTAB *relations);
extern void database_check_buffers(Oid oid);
extern void database_flush(void);

#endif							/* TESTDB_BUFFERS_H */
