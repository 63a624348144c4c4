/*-------------------------------------------------------------------------
 *
 * functions.h
 *	  Checks and look-ups shared by SQL-callable functions in several files.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_FUNCTIONS_H
#define TESTDB_FUNCTIONS_H

#include "fmgr.h"
#include "storage/lockdefs.h"

extern void check_callable(const char *function);
extern void check_usable(const char *function);
extern void lock_within_timeout(Oid class, Oid object, uint16 subobject,
								LOCKMODE mode);
extern char *get_name_argument(FunctionCallInfo fcinfo, int argno, const char *what);
extern Oid	find_database(const char *name);
extern Oid	get_template(const char *name, uint64 *lease);
extern uint64 check_owned(Oid oid, const char *name);
extern void check_role_limit(Oid role);
extern void register_session_scope(void);

#endif							/* TESTDB_FUNCTIONS_H */
