/*-------------------------------------------------------------------------
 *
 * debug.c
 *	  Named points at which a process can be made to fail, for tests.
 *
 * testdb's operations are sequences of steps, and a process can exit between
 * any two of them.  There is a debug_point("name") in these places.  With
 *
 *		testdb.debug_point = 'name kill'
 *
 * a process that reaches it kills itself with SIGKILL; with "fatal" it exits
 * with a FATAL error, like pg_terminate_backend(), and with "error" it raises
 * an error that is caught like any other.  With "wait" it waits until the
 * parameter is changed, and with "stop" it stops itself, until it gets
 * SIGCONT.  t/013_killed_at_points.pl and the two files after it test all
 * points.
 *
 * At debug_planted("name"), the action "plant" causes a mistake, for tests of
 * the checks that should detect it.
 *
 * All of this is only compiled with DEBUG=1.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/guc.h"

#include "compat.h"
#include "debug.h"

#ifdef TESTDB_DEBUG

static char *testdb_debug_point = NULL;

/*
 * Define testdb.debug_point; called by guc_define.
 */
void
debug_define(void)
{
	DefineCustomStringVariable("testdb.debug_point",
							   "Names a point in the code, and what happens to a process that comes there.",
							   "The name is followed by kill, fatal, error, wait, stop or plant. Only for tests of testdb itself.",
							   &testdb_debug_point,
							   "",
							   PGC_SIGHUP, GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   NULL, NULL, NULL);
}

/*
 * Return the action at this point: the rest of the parameter's value, if it
 * is for this point, else NULL.
 */
static const char *
action_at(const char *name)
{
	size_t		length = strlen(name);

	if (testdb_debug_point == NULL || testdb_debug_point[0] == '\0' ||
		strncmp(testdb_debug_point, name, length) != 0 ||
		testdb_debug_point[length] != ' ')
		return NULL;
	return testdb_debug_point + length + 1;
}

/*
 * Report whether to wait at this point.
 */
static bool
waits_at(const char *name)
{
	const char *action = action_at(name);

	return action != NULL && strcmp(action, "wait") == 0;
}

/*
 * Wait at a point until it is no longer set.
 */
static void
wait_at(const char *name)
{
	static uint32 wait_event = 0;

	ereport(LOG, (errmsg("debug point \"%s\" was reached", name)));
	while (waits_at(name))
	{
		/* An earlier wait may have reset the latch that the reload set. */
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			continue;
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1,
						 wait_event_compat(&wait_event, "TestdbDebugPoint"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Mark a point with this name.
 *
 * Errors: XX000 if the action at it is "error", or FATAL.
 */
void
debug_point(const char *name)
{
	const char *action = action_at(name);

	if (action == NULL)
		return;
	if (waits_at(name))
	{
		wait_at(name);
		return;
	}
	if (strcmp(action, "stop") == 0)
	{
		(void) kill(getpid(), SIGSTOP);
		return;
	}
	if (strcmp(action, "kill") == 0)
		(void) kill(getpid(), SIGKILL);
	ereport(strcmp(action, "fatal") == 0 ? FATAL : ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("debug point \"%s\" was reached", name)));
}

/*
 * Report whether to make the mistake with this name.
 */
bool
debug_planted(const char *name)
{
	const char *action = action_at(name);

	return action != NULL && strcmp(action, "plant") == 0;
}

#endif							/* TESTDB_DEBUG */
