/*-------------------------------------------------------------------------
 *
 * sessions.h
 *	  The sessions in a database: waiting, terminating, describing.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_SESSIONS_H
#define TESTDB_SESSIONS_H

#include "lib/stringinfo.h"
#include "utils/backend_status.h"

extern bool database_signal_sessions(Oid oid, bool all, bool spare_starting);
extern int	database_count_prepared(const char *name);
extern void database_let_leave(Oid oid);
extern bool database_end_sessions(Oid oid, const char *name, bool let_left);
extern bool sessions_begin_description(StringInfo buf, int nfound, int max,
									   const PgBackendStatus *status);
extern char *sessions_end_description(StringInfo buf, int nfound, int max);
extern char *database_describe_sessions(Oid oid);

#endif							/* TESTDB_SESSIONS_H */
