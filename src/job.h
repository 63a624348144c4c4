/*-------------------------------------------------------------------------
 *
 * job.h
 *	  The jobs of a background worker.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_JOB_H
#define TESTDB_JOB_H

#include "database.h"
#include "registry.h"
#include "request.h"

extern void job_begin_turn(void);
extern void job_report(const char *activity);
extern void job_report_database(const char *what, Oid oid, DatabaseInfo *info);
extern void job_begin_work(void);
extern void job_commit_work(void);
extern ErrorData *job_rollback_work(void);
extern void job_give_up(const ErrorData *edata);
extern void job_exit(void);

extern void job_serve(int slot, const RequestArgs *args);

#endif							/* TESTDB_JOB_H */
