/*-------------------------------------------------------------------------
 *
 * start.h
 *	  The time between the server's start and the rebuilt registry.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_START_H
#define TESTDB_START_H

#include "datatype/timestamp.h"

/* How long to wait for a first worker before reporting its absence, in ms. */
#define START_NO_WORKER_GRACE	5000

extern void start_shmem_request(void);
extern void start_shmem_init(void);
extern bool start_is_ready(void);
extern void start_set_ready(void);
extern void start_let(void);
extern void start_wait(TimestampTz deadline);
extern void start_await(void);
extern void start_await_for_view(void);
extern void start_ask_for_workers(void);
extern void start_report_no_worker(void);

#endif							/* TESTDB_START_H */
