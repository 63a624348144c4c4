/*-------------------------------------------------------------------------
 *
 * job.h
 *	  What a background worker does.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_JOB_H
#define TESTDB_JOB_H

#include "registry.h"
#include "request.h"

extern void job_begin_turn(void);
extern void job_report(const char *activity);
extern void job_begin_work(void);
extern void job_commit_work(void);
extern ErrorData *job_rollback_work(void);
extern void job_exit(void);

extern void job_serve(int slot, const RequestArgs *args);
extern void job_reap(TestdbClone *clone);
extern void job_retire(TestdbClone *clone);
extern void job_collect_garbage(const TestdbClone *clone);
extern void job_forget_dropped(void);
extern void job_recycle(void);
extern void job_refill(Oid template_oid, Oid owner);
extern uint32 job_vacuum(void);

#endif							/* TESTDB_JOB_H */
