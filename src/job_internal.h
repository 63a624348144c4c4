/*-------------------------------------------------------------------------
 *
 * job_internal.h
 *	  Declarations shared by the operations of a worker.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_JOB_INTERNAL_H
#define TESTDB_JOB_INTERNAL_H

#include "database.h"
#include "registry.h"
#include "request.h"

/*
 * The work in progress of this worker.  The clones that it owns are recorded
 * in the registry, too: see states.c.
 */
typedef struct WorkerJob
{
	int			request;		/* slot of the request, or -1 */
	Oid			clone;			/* the clone concerned, or InvalidOid */
	bool		resetting;		/* DROPPING: being reset; its lease on disk is
								 * still HELD */
	bool		unrestored;		/* DROPPING: its content is partly restored;
								 * its lease on disk is REWINDING */
	bool		damaged;		/* a snapshot was found to be damaged: a retry
								 * takes a new one */
	bool		entering;		/* the clone is being entered into the
								 * registry */
	bool		had_room;		/* after make_room(), testdb.max_clones
								 * allowed one more clone, or there was a
								 * spare for it */
} WorkerJob;

extern WorkerJob job;
extern MemoryContext job_cxt;

extern void release_owned_clones(void);
extern void job_leave_unrestored(Oid oid);
extern void finish_removal(Oid oid);
extern void choose_name(const char *template_name, NameData *name);
extern void make_room(const RequestArgs *args, bool uses_spares, uint64 bytes, uint64 files);
extern bool create_clone(const RequestArgs *args, TestdbClone *clone, RequestResult *result);
extern void report_template_gone(const char *name);
extern void report_clone_gone(const char *name);
extern bool is_damaged(const TestdbTemplate *template);
extern bool lock_source(const TestdbTemplate *template);
extern void make_native_room(const RequestArgs *args);
extern bool begin_native(const RequestArgs *args, bool check_rights, TestdbTemplate *template,
						 DatabaseInfo *info, RequestResult *result);
extern bool copy_snapshot(const RequestArgs *args, const TestdbTemplate *template,
						  const DatabaseInfo *info, TestdbClone *clone);
extern void make_spare(const RequestArgs *args, RequestResult *result);
extern void make_clone(const RequestArgs *args, RequestResult *result);
extern bool empty_database(Oid oid, bool let_left, DatabaseInfo *info);
extern bool lock_clone(Oid oid, DatabaseInfo *info);
extern bool claim_clone(const RequestArgs *args, TestdbClone *clone);
extern void release_clone(Oid oid);
extern void give_back(Oid oid);
extern void take_back(TestdbClone *clone, bool let_left);
extern void drop_clone(const RequestArgs *args, RequestResult *result);
extern void note_failure(const TestdbClone *clone, const char *what, const char *name,
						 const ErrorData *edata);
extern void reset_clone(const RequestArgs *args, RequestResult *result);

#endif							/* TESTDB_JOB_INTERNAL_H */
