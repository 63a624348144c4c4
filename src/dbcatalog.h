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

/* The native method. */
/*
 * datconnlimit of a database that is kept closed until it is handed out.  No
 * command can set it, so that what testdb has closed is told from what its
 * owner has; and it is not invalid, so that it goes on holding back pg_xact.
 */
#define DATCONNLIMIT_CLOSED	(-3)

/* Who can connect to a clone, by its row in pg_database. */
typedef enum RowAccess
{
	ROW_OPEN,					/* whoever may */
	ROW_CLOSED,					/* nobody: it is ready to be handed out */
	ROW_INVALID					/* nobody: its files are not complete */
} RowAccess;

extern bool database_read_row(Oid oid, TemplateRow *row);
extern bool database_keeps_horizons(Oid template_oid, const TemplateRow *then);
extern uint64 database_dependencies(Oid oid);
extern void database_sync_dependencies(Oid oid, Oid template_oid,
									   uint64 fingerprint);
extern uint64 database_settings(Oid oid);
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
