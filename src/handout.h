/*-------------------------------------------------------------------------
 *
 * handout.h
 *	  Getting a clone, in the caller's session.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_HANDOUT_H
#define TESTDB_HANDOUT_H

#include "request.h"

extern bool handout_wait_for_template(Oid template, long *pause_ms,
									  TimestampTz deadline);
extern bool handout_await_rewind(const RequestArgs *args, TimestampTz deadline);
extern void handout_log_slow(const char *command, const RequestArgs *args,
							 const RequestResult *result, TimestampTz start);
extern int	handout_errdetail_busy(int nsessions, int nprepared);

extern void report_own_database(void);
extern void report_template_in_use(Oid template, const char *name, int nprepared);
extern void perform(RequestArgs *args, TimestampTz deadline, RequestResult *result);
extern void perform_with_template(RequestArgs *args, Oid template, const char *name,
								  RequestResult *result);

#endif							/* TESTDB_HANDOUT_H */
