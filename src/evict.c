/*-------------------------------------------------------------------------
 *
 * evict.c
 *	  Terminating the sessions that are connected to a changed template.
 *
 * A template that has changed is copied when it has no sessions.  A caller
 * that needs that waits, or, with testdb.end_template_sessions, terminates
 * the sessions in it.  This runs in the caller's session, between two
 * requests to the workers: a worker that finds the template in use has
 * released its lock on it and reports that.
 *
 *	- The caller must be a member of the role that owns the template, or a
 *	  superuser; otherwise it waits as it would without the setting.
 *	- Sessions of superusers are terminated for superusers only, as
 *	  pg_terminate_backend() does.  As long as there is such a session, none is
 *	  terminated, since that would not help.  The same is true of prepared
 *	  transactions, which are never rolled back in a template.
 *	- Only client sessions are terminated.  Autovacuum workers are terminated by
 *	  the testdb worker (database_lock_idle); other processes are waited for.  A
 *	  client that is still connecting is terminated once it is connected, since
 *	  before its connection would be reported as refused.
 *
 * The clone has what a terminated session has committed, since the template
 * is checked after its exit.  Clients that reconnect are terminated each
 * time, until evict_deadline.
 *
 * Locks: none.  There is no state, so a crash leaves nothing.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/backend_status.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "database.h"
#include "evict.h"
#include "guc.h"
#include "handout.h"
#include "sessions.h"

/* Interval at which sessions are looked for and terminated, in ms. */
#define TERMINATE_INTERVAL		100

/*
 * Report whether the caller wants to terminate the sessions in a template,
 * and may do so.
 */
static bool
may_evict(Oid template)
{
	DatabaseInfo info;

	return testdb_end_template_sessions &&
		database_lookup(template, &info) &&
		has_privs_of_role(GetUserId(), info.owner);
}

/*
 * Report whether a process is a client's session in a template.
 */
static bool
is_session(const PgBackendStatus *status, Oid template)
{
	return status->st_databaseid == template && status->st_procpid != 0 &&
		status->st_backendType == B_BACKEND;
}

/*
 * Terminate a session, and say why in the server log.
 */
static void
terminate(const PgBackendStatus *status, const char *name)
{
	char	   *user = GetUserNameFromId(status->st_userid, true);

	ereport(LOG,
			(errmsg("terminating process %d of user \"%s\", which is connected to template database \"%s\"",
					status->st_procpid, user ? user : "?", name),
			 errdetail("The template has changed and can be copied when nobody is connected to it."),
			 errhint("See \"%s\".", "testdb.end_template_sessions"),
			 errhidestmt(true)));

	/* Including its child processes, as pg_terminate_backend() does. */
#ifdef HAVE_SETSID
	(void) kill(-status->st_procpid, SIGTERM);
#else
	(void) kill(status->st_procpid, SIGTERM);
#endif
}

/*
 * Terminate the client sessions in a template; false, with nothing done, if
 * one of them is a superuser's and the caller is not a superuser.  *terminated
 * lists the processes already terminated and logged.
 */
static bool
terminate_sessions(Oid template, const char *name, List **terminated)
{
	int			n;

	pgstat_clear_backend_activity_snapshot();
	n = pgstat_fetch_stat_numbackends();
	for (int i = 1; i <= n && !superuser(); i++)
	{
		PgBackendStatus *status = &pgstat_local_beentry_compat(i)->backendStatus;

		if (is_session(status, template) &&
			(!OidIsValid(status->st_userid) || superuser_arg(status->st_userid)))
			return false;
	}
	for (int i = 1; i <= n; i++)
	{
		PgBackendStatus *status = &pgstat_local_beentry_compat(i)->backendStatus;

		if (!is_session(status, template) || status->st_state == STATE_UNDEFINED ||
			list_member_int(*terminated, status->st_procpid))
			continue;
		terminate(status, name);
		*terminated = lappend_int(*terminated, status->st_procpid);
	}
	return true;
}

/*
 * Terminate the sessions in a template and wait until there are none, giving
 * time to those whose clients have just disconnected; false if there are some
 * that the caller may not terminate, or that have not exited at the deadline.
 */
static bool
evict_sessions(const TemplateWait *wait)
{
	TimestampTz next_at = 0;
	List	   *terminated = NIL;

	database_let_leave(wait->template);
	while (CountDBBackends(wait->template) > 0)
	{
		TimestampTz now = GetCurrentTimestamp();

		CHECK_FOR_INTERRUPTS();
		if (now >= wait->evict_deadline)
			return false;
		if (now >= next_at)
		{
			if (!terminate_sessions(wait->template, wait->name, &terminated))
				return false;
			next_at = TimestampTzPlusMilliseconds(now, TERMINATE_INTERVAL);
		}
		database_let_leave(wait->template);
	}
	return true;
}

/*
 * Wait until a template seems to have no sessions, after a worker has found
 * it in use, with nprepared prepared transactions.  Its sessions are
 * terminated if that is configured and allowed; they have testdb.lock_timeout
 * to exit, even if template_deadline is earlier.  False after the deadline.
 */
bool
evict_or_wait(TemplateWait *wait, int nprepared)
{
	TimestampTz limit = Min(wait->deadline, wait->template_deadline);

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz until = limit;

		if (nprepared == 0 && may_evict(wait->template))
		{
			until = Min(limit, TimestampTzPlusMilliseconds(now, TERMINATE_INTERVAL));
			if (wait->evict_deadline == 0)
				wait->evict_deadline =
					Min(wait->deadline,
						Max(wait->template_deadline,
							TimestampTzPlusMilliseconds(now, testdb_lock_timeout)));
			if (now < wait->evict_deadline && evict_sessions(wait))
				return true;
		}
		if (handout_wait_for_template(wait->template, &wait->pause_ms, until))
			return true;
		if (GetCurrentTimestamp() >= limit)
			return false;
	}
}
