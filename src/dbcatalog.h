/*-------------------------------------------------------------------------
 *
 * dbcatalog.h
 *	  A database's rows in the shared catalogs.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_DBCATALOG_H
#define TESTDB_DBCATALOG_H

#include "registry.h"
#include "request.h"

/*
 * datconnlimit of a database that is kept closed until it is handed out.  No
 * command can set it, which distinguishes it from a database that its owner
 * has closed; and it does not mean invalid, so that the database still holds
 * back the truncation of pg_xact.
 */
#define DATCONNLIMIT_CLOSED	(-3)

/* Which sessions can connect to a clone, by its row in pg_database. */
typedef enum RowAccess
{
	ROW_OPEN,					/* those with the privilege */
	ROW_CLOSED,					/* none: it is ready to be handed out */
	ROW_INVALID					/* none: its files are not complete */
} RowAccess;

extern bool database_read_row(Oid oid, TemplateRow *row);
extern bool database_keeps_horizons(Oid template_oid, const TemplateRow *then);
extern uint64 database_dependencies(Oid oid);
extern void database_sync_dependencies(Oid oid, Oid template_oid,
									   uint64 fingerprint);
extern uint64 database_settings(Oid oid);
extern void database_settle_settings(void);
extern void database_insert_row(Oid oid, const char *name, Oid owner,
								Oid template_oid, RowAccess access);
extern bool database_reset_row(Oid oid, const char *name, Oid owner,
							   Oid template_oid, RowAccess access);
extern bool database_serve_row(const TestdbClone *clone, const RowOptions *options);
extern bool database_serve_again(Oid oid, Oid template_oid);
extern bool database_restore_row(Oid oid, Oid owner, Oid template_oid);
extern void database_lock_horizons(void);
extern bool database_revive(Oid oid, Oid template_oid, RowAccess access);
extern uint32 database_vacuum_catalogs(void);

#endif							/* TESTDB_DBCATALOG_H */
