/*-------------------------------------------------------------------------
 *
 * debug.c
 *	  Named points at which a process can be made to fail, for tests.
 *
 * Whatever testdb does is a sequence of steps, and a process can end between
 * any two of them.  debug_point("name") stands there.  With
 *
 *		testdb.debug_point = 'name kill'
 *
 * a process that comes to it kills itself as kill -9 would; with "fatal" it
 * ends with a FATAL error, as by pg_terminate_backend(), and with "error" it
 * raises an error that is caught like any other.  t/025_points.pl goes through
 * all of them.
 *
 * All of this is there only if the library was built with DEBUG=1.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <signal.h>
#include <unistd.h>

#include "utils/guc.h"

#include "debug.h"

#ifdef TESTDB_DEBUG

static char *testdb_debug_point = NULL;

/*
 * Define the setting; called by guc_define.
 */
void
debug_define(void)
{
	DefineCustomStringVariable("testdb.debug_point",
							   "Names a point in the code, and what happens to a process that comes there.",
							   "The name is followed by kill, fatal or error. Only for tests of testdb itself.",
							   &testdb_debug_point,
							   "",
							   PGC_SIGHUP, GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   NULL, NULL, NULL);
}

/*
 * Come to a point of this name.
 *
 * Errors: XX000 at the one that is set.
 */
void
debug_point(const char *name)
{
	size_t		length = strlen(name);
	const char *action;

	if (testdb_debug_point == NULL || testdb_debug_point[0] == '\0' ||
		strncmp(testdb_debug_point, name, length) != 0 ||
		testdb_debug_point[length] != ' ')
		return;
	action = testdb_debug_point + length + 1;
	if (strcmp(action, "kill") == 0)
		(void) kill(getpid(), SIGKILL);
	ereport(strcmp(action, "fatal") == 0 ? FATAL : ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("debug point \"%s\" was reached", name)));
}

#endif							/* TESTDB_DEBUG */
