/*-------------------------------------------------------------------------
 *
 * spare_row.h
 *	  Opening a spare through its row in pg_database.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_SPARE_ROW_H
#define TESTDB_SPARE_ROW_H

#include "registry.h"

extern bool spare_note_row(TestdbClone *clone);
extern bool spare_open(const TestdbClone *clone, int32 limit, bool flush);
extern bool spare_is_closed(Oid oid);
extern List *spare_list_closed(void);
extern void spare_repair(const TestdbClone *clone);

#endif							/* TESTDB_SPARE_ROW_H */
