/*-------------------------------------------------------------------------
 *
 * functions.h
 *	  What SQL-callable functions in several files check and look up.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_FUNCTIONS_H
#define TESTDB_FUNCTIONS_H

#include "fmgr.h"

extern void check_callable(const char *function);
extern void check_usable(const char *function);
extern char *get_name_argument(FunctionCallInfo fcinfo, int argno, const char *what);
extern Oid	find_database(const char *name);
extern Oid	get_template(const char *name, uint64 *lease);
extern uint64 check_owned(Oid oid, const char *name);
extern void check_role_limit(Oid role);
extern void register_session_scope(void);

#endif							/* TESTDB_FUNCTIONS_H */
