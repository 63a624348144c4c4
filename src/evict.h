/*-------------------------------------------------------------------------
 *
 * evict.h
 *	  Terminating the sessions that are connected to a changed template.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_EVICT_H
#define TESTDB_EVICT_H

#include "datatype/timestamp.h"

/* A caller's wait for a template that is in use. */
typedef struct TemplateWait
{
	Oid			template;
	const char *name;			/* for the server log */
	TimestampTz deadline;		/* of the whole call */
	TimestampTz template_deadline;	/* of waiting for sessions to leave */
	TimestampTz evict_deadline; /* of terminating them; 0: not begun */
	long		pause_ms;		/* the next pause, at least 1 */
} TemplateWait;

extern bool evict_or_wait(TemplateWait *wait, int nprepared);

#endif							/* TESTDB_EVICT_H */
