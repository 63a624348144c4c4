/*-------------------------------------------------------------------------
 *
 * database.h
 *	  Creating and dropping a database through core.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_DATABASE_H
#define TESTDB_DATABASE_H

#include "guc.h"
#include "registry.h"
#include "request.h"
#include "storage/lockdefs.h"
#include "utils/hsearch.h"

/* The fields of a database's row that callers need. */
typedef struct DatabaseInfo
{
	Oid			oid;
	NameData	name;
	Oid			owner;
	bool		is_template;
} DatabaseInfo;

extern void database_report_role_limit(Oid role, int n);
extern bool database_lookup(Oid oid, DatabaseInfo *info);
extern Oid	database_choose_oid(void);
extern bool database_lock_idle(Oid oid, const char *name, int *nprepared);
extern bool database_lock_at_once(Oid oid, uint16 subid, LOCKMODE mode);
extern bool database_try_lock_idle(Oid oid);
extern void database_create(Oid oid, const char *name, Oid owner,
							const char *template_name, TestdbMethod method);
extern bool database_lock(Oid oid, DatabaseInfo *info);
extern TransactionId database_find_settings_changer(Oid oid);
extern bool database_try_lock(Oid oid, TransactionId *changer);
extern bool database_drop(Oid oid);
extern bool database_end_drop(void);
extern Oid	database_last_locked(void);
extern TransactionId database_last_changer(void);
extern bool database_lock_was_refused(void);
extern void database_remove_files(Oid oid);
extern void database_secure_session(int lock_timeout_ms);
extern bool database_is_invalid(Oid oid);

extern char *database_obstacle(Oid oid);
extern TestdbMethod database_core_method(void);
extern List *database_list_dependents(Oid role);
extern bool database_is_recyclable(Oid oid);
extern void database_check_droppable(Oid oid, const char *name);
extern void database_end_autovacuum(Oid oid);

#endif							/* TESTDB_DATABASE_H */
