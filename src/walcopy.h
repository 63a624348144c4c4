/*-------------------------------------------------------------------------
 *
 * walcopy.h
 *	  WAL records of copied databases, and the consumers of WAL.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_WALCOPY_H
#define TESTDB_WALCOPY_H

extern const char *find_wal_consumer(void);
extern bool database_is_logged(void);
extern bool database_has_wal_consumer(void);
extern void database_log_copy(Oid oid, Oid template_oid, bool again);
extern void database_flush_all(void);
extern void database_log_removal(Oid oid, Oid tablespace);
extern void database_end_log(void);

#endif							/* TESTDB_WALCOPY_H */
