/*-------------------------------------------------------------------------
 *
 * database.h
 *	  Making and removing a database.
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
#include "utils/hsearch.h"

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

/* One relation of a set of those that may have changed. */
typedef struct RelationChange
{
	Oid			number;			/* relfilenode */
	XLogRecPtr	lsn;			/* the newest of its dirty pages; PG_UINT64_MAX if
								 * its files have changed */
} RelationChange;

/* What the caller needs to know of a database's row. */
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
extern bool database_try_lock_idle(Oid oid);
extern void database_create(Oid oid, const char *name, Oid owner,
							const char *template_name, TestdbMethod method);
extern bool database_lock(Oid oid, DatabaseInfo *info);
extern bool database_drop(Oid oid);
extern bool database_end_drop(void);
extern Oid	database_last_locked(void);
extern bool database_lock_was_refused(void);
extern bool database_is_full(void);
extern bool database_make_checkpoint_room(void);
extern void database_remove_files(Oid oid);
extern bool database_has_space(uint64 bytes, uint64 files);
extern bool database_reserve_space(uint64 bytes, uint64 files);
extern ErrorData *database_space_error(const char *name, uint64 bytes, uint64 files);
extern void database_check_space(const char *name, uint64 bytes, uint64 files);
extern int	database_count_prepared(const char *name);
extern bool database_visit(Oid oid, const char *function, const char *name);
extern void database_init_visitor(Oid oid);
extern bool database_rollback_prepared(Oid oid);
extern void database_secure_session(int lock_timeout_ms);
extern bool database_is_invalid(Oid oid);
extern char *database_describe_sessions(Oid oid);
extern void database_let_leave(Oid oid);
extern bool database_end_sessions(Oid oid, const char *name, bool let_left);

/* The native method. */
extern bool database_read_row(Oid oid, TemplateRow *row);
extern char *database_obstacle(Oid oid);
extern uint64 database_dependencies(Oid oid);
extern uint64 database_settings(Oid oid);
extern void database_insert_row(Oid oid, const char *name, Oid owner,
								Oid template_oid, RowAccess access);
extern bool database_is_logged(void);
extern bool database_is_followed(void);
extern TestdbMethod database_core_method(void);
extern void database_log_copy(Oid oid, Oid template_oid, bool again);
extern void database_end_log(void);
extern List *database_list_dependents(Oid role);
extern bool database_is_recyclable(Oid oid);
extern void database_check_droppable(Oid oid, const char *name);
extern bool database_reset_row(Oid oid, const char *name, Oid owner,
							   Oid template_oid, RowAccess access);
extern void database_sync_dependencies(Oid oid, Oid template_oid,
									   uint64 fingerprint);
extern void database_drop_statistics(const Oid *oids, int n);
extern void database_lock_horizons(void);
extern bool database_is_checkpointing(void);
extern void database_discard_buffers(Oid oid);
extern HTAB *database_relations_create(void);
extern Oid	database_relation_of_file(const char *file);
extern void database_relations_add_file(HTAB *relations, Oid oid, const char *file);
extern void database_relations_add_dirty(HTAB *relations, Oid *oids, int noids);
extern void database_relations_discard(HTAB *relations);
extern RelationChange *database_relations_list(HTAB *relations, Oid oid, int *n);
extern bool database_restore_row(Oid oid, Oid owner, Oid template_oid);
extern bool database_serve_row(const TestdbClone *clone, const RowOptions *options);
extern bool database_serve_again(Oid oid, Oid template_oid);
extern void database_end_autovacuum(Oid oid);
#ifdef TESTDB_DEBUG
extern void database_check_buffers(Oid oid);
#endif
extern bool database_revive(Oid oid, Oid template_oid, RowAccess access);
extern void database_flush(void);

extern uint32 database_vacuum_catalogs(void);

#endif							/* TESTDB_DATABASE_H */
