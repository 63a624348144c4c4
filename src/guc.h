/*-------------------------------------------------------------------------
 *
 * guc.h
 *	  The configuration parameters of testdb.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_GUC_H
#define TESTDB_GUC_H

/* The methods to create a database from its template. */
typedef enum TestdbMethod
{
	TESTDB_METHOD_NATIVE,		/* testdb's own: snapshots and recycling */
	TESTDB_METHOD_FILE_COPY,	/* core's CREATE DATABASE, STRATEGY file_copy */
	TESTDB_METHOD_WAL_LOG		/* core's CREATE DATABASE, STRATEGY wal_log */
} TestdbMethod;

#define TESTDB_MAX_WORKERS		64
#define TESTDB_MAX_CLONES		100000
#define TESTDB_MAX_TEMPLATES	10000

/* Set only at server start. */
extern int	testdb_workers;
extern char *testdb_database;
extern int	testdb_max_clones;
extern int	testdb_max_templates;

/*
 * Read by the workers; changed by a reload, and testdb.max_clones_per_role by
 * SET.
 */
extern int	testdb_lock_timeout;	/* ms */
extern int	testdb_recycled;
extern int	testdb_spares;
extern int	testdb_max_clones_per_role;
extern int	testdb_min_free_space;	/* MB */
extern int	testdb_max_spare_size;	/* MB; read in sessions, too */
extern int	testdb_snapshot_timeout;	/* s */
extern char *testdb_recycle_statement;
extern int	testdb_kept_templates;	/* read in sessions, too */

/* Read in the calling session. */
extern int	testdb_timeout;		/* ms */
extern int	testdb_template_timeout;
extern bool testdb_end_template_sessions;
extern int	testdb_rewind_timeout;	/* ms */
extern bool testdb_serve_create_database;
extern int	testdb_method;
extern int	testdb_lifetime;	/* s */
extern int	testdb_idle_timeout;	/* s */
extern int	testdb_log_min_duration;	/* ms */
extern char *testdb_uri_setting;

extern void guc_define(void);

#endif							/* TESTDB_GUC_H */
