/*-------------------------------------------------------------------------
 *
 * handout.c
 *	  Getting a clone, in the caller's session: a spare, or a request.
 *
 * A spare is taken without a worker: its entry is taken from the registry,
 * its row opened in place (spare_row.c), its lease written.  Everything else
 * is done by a worker (request.c); waits take place here, so that the worker
 * is free for other requests.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/latch.h"
#include "storage/procarray.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "database.h"
#include "dbcatalog.h"
#include "debug.h"
#include "evict.h"
#include "handout.h"
#include "lease.h"
#include "quota.h"
#include "sessions.h"
#include "spare_row.h"
#include "spares.h"

/* Longest pause between two checks of a template in use, in ms. */
#define TEMPLATE_POLL_MAX	20

/* Interval between checks of a clone that is being rewound, in ms. */
#define REWIND_PAUSE		10

/*
 * Longest wait for a spare before a clone is requested from a worker, in ms.
 */
#define SPARE_WAIT			100

/*
 * Raise the error, 55006, that the caller is connected to the template.
 */
void
report_own_database(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("cannot clone the currently open database"),
			 errdetail("It can be copied when nobody is connected to it."),
			 errhint("Connect to another database, such as \"%s\", to call testdb_clone.",
					 testdb_database)));
}

/*
 * Raise the error, 55006, that a template is in use.
 */
void
report_template_in_use(Oid template, const char *name, int nprepared)
{
	char	   *sessions = database_describe_sessions(template);

	if (sessions == NULL && nprepared > 0)
		sessions = psprintf(ngettext("There is %d prepared transaction using the database.",
									 "There are %d prepared transactions using the database.",
									 nprepared),
							nprepared);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("source database \"%s\" is being accessed by other users", name),
			 sessions ? errdetail_internal("%s", sessions) : 0,
			 testdb_end_template_sessions ?
			 errhint("Members of the role that owns a template can have its sessions terminated, but not those of superusers, nor prepared transactions. testdb_clone waited %d ms; see \"%s\".",
					 testdb_template_timeout, "testdb.template_timeout") :
			 errhint("A template can be copied when nobody is connected to it. testdb_clone waited %d ms; see \"%s\" and \"%s\".",
					 testdb_template_timeout, "testdb.template_timeout",
					 "testdb.end_template_sessions")));
}

/*
 * Sleep until the template seems to have no sessions, at least *pause_ms
 * milliseconds, or until the deadline; false if that has passed.  Increases
 * *pause_ms.
 */
bool
handout_wait_for_template(Oid template, long *pause_ms, TimestampTz deadline)
{
	static uint32 wait_event = 0;
	uint32		event = wait_event_compat(&wait_event, "TestdbTemplate");

	do
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
														   deadline);

		if (left <= 0)
			return false;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(*pause_ms, left), event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	} while (CountDBBackends(template) > 0);
	*pause_ms = Min(*pause_ms * 2, TEMPLATE_POLL_MAX);
	return true;
}

/*
 * Set an error's detail to the number of sessions and prepared transactions
 * that use a database, in core's words.  Returns a dummy value, like
 * errdetail().
 */
int
handout_errdetail_busy(int nsessions, int nprepared)
{
	if (nsessions > 0 && nprepared > 0)
		return errdetail("There are %d other session(s) and %d prepared transaction(s) using the database.",
						 nsessions, nprepared);
	if (nprepared > 0)
		return errdetail_plural("There is %d prepared transaction using the database.",
								"There are %d prepared transactions using the database.",
								nprepared, nprepared);
	return errdetail_plural("There is %d other session using the database.",
							"There are %d other sessions using the database.",
							nsessions, nsessions);
}

/*
 * Wake those who have something to do after a clone was handed out: all
 * workers if it has a deadline, so that any one that is free knows it then;
 * usually one worker if there should be another spare.  Waking each takes
 * time from the session.
 */
static void
wake_after(const TestdbClone *clone, SpareRefill refill)
{
	if (refill == REFILL_WAKE_ALL || clone->expires_at != 0 ||
		clone->terms.idle_timeout != 0)
		request_wake_workers();
	else if (refill == REFILL_WAKE_ONE)
		request_wake_worker();
}

/*
 * Count a spare that was taken towards its role's limit, if that has one.
 *
 * Errors: 53400 if the role has as many; then the spare is given back.
 */
static void
charge_spare(const RequestArgs *args, const TestdbClone *clone, SpareRefill refill)
{
	int			n;

	if (args->role_limit <= 0 ||
		registry_charge(clone->oid, args->role, args->role_limit, &n))
		return;
	(void) registry_set_state(clone->oid, CLONE_CREATING, CLONE_SPARE);
	registry_announce_spare(args->database);
	wake_after(clone, refill);
	database_report_role_limit(args->role, n);
}

/*
 * Take a spare that has the template's committed content, if there is one,
 * without a worker and without changing a catalog.  Fills *result.  waited
 * means that this session has been waiting for a spare.
 *
 * Its row, which is closed, is opened; then the lease is written, and is on
 * disk before other processes can see the clone as LEASED.  If this process
 * is killed before that, the database is removed at the next server start; if
 * the server crashes later, and the opened row was not on disk, it is opened
 * again then.
 *
 * Errors: 53400, see quota.c; those of the file system.
 */
static SpareResult
take_spare(const RequestArgs *args, bool waited, RequestResult *result)
{
	TestdbClone clone;
	SpareWish	wish = {.template_oid = args->database, .owner = args->role,
	.waiting = waited, .terms = &args->terms};
	SpareResult answer;
	SpareRefill refill;
	volatile bool opened = false;

	if (!database_read_row(args->database, &wish.row))
		return SPARE_STALE;
	registry_check_share_with_spare(args->database, args->role);
	answer = registry_take_spare(&wish, &clone, &refill);

	/* Ignore changes without a transaction ID as long as it has sessions. */
	if (answer == SPARE_STALE && CountDBBackends(args->database) > 0)
	{
		wish.ignore_unverified = true;
		answer = registry_take_spare(&wish, &clone, &refill);
	}
	if (answer != SPARE_TAKEN)
		return answer;
	charge_spare(args, &clone, refill);

	PG_TRY();
	{
		debug_point("taken");
		opened = spare_open(&clone, wish.row.clone_limit, false);
		debug_point("taken-open");
		if (opened)
			lease_hold(&clone);
		debug_point("taken-held");
	}
	PG_CATCH();
	{
		(void) registry_set_state(clone.oid, CLONE_CREATING, CLONE_GARBAGE);
		request_wake_workers();
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (!opened)
	{
		/* Its row was changed: discard it, and take another. */
		(void) registry_set_state(clone.oid, CLONE_CREATING, CLONE_GARBAGE);
		request_wake_workers();
		return take_spare(args, waited, result);
	}
	(void) registry_set_state(clone.oid, CLONE_CREATING, CLONE_LEASED);
	debug_point("taken-leased");
	wake_after(&clone, refill);
	result->oid = clone.oid;
	result->name = clone.name;
	return SPARE_TAKEN;
}

/*
 * Take a spare, waiting for one that is being prepared; false if there is
 * none, so that a worker is needed.
 */
static bool
find_spare(RequestArgs *args, RequestResult *result, TimestampTz deadline)
{
	bool		waited = false;

	if (args->method != TESTDB_METHOD_NATIVE || args->name_given)
		return false;
	for (;;)
	{
		SpareResult answer = take_spare(args, waited, result);
		long		left;

		if (answer == SPARE_TAKEN)
			return true;
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (answer == SPARE_STALE || left <= 0)
			return false;
		CHECK_FOR_INTERRUPTS();
		if (!registry_wait_for_spare(args->database, args->role,
									 request_wake_workers, Min(left, SPARE_WAIT)))
			return take_spare(args, true, result) == SPARE_TAKEN;
		waited = true;
	}
}

/*
 * To be called if a worker found that the clone of a request is not leased:
 * if it was being rewound, or is to be restored after an interrupted reset or
 * rewind, wait for that to finish; true if the request may be repeated.
 *
 * Errors: 57P03 after the deadline.
 */
bool
handout_await_rewind(const RequestArgs *args, TimestampTz deadline)
{
	static uint32 wait_event = 0;
	TestdbClone clone;

	for (;;)
	{
		if (!registry_lookup(args->database, &clone) || clone.lease != args->lease ||
			(clone.state != CLONE_REWINDING && clone.state != CLONE_LEASED))
			return false;
		if (GetCurrentTimestamp() >= deadline)
			ereport(ERROR,
					(errcode(ERRCODE_CANNOT_CONNECT_NOW),
					 errmsg("database \"%s\" is being restored",
							NameStr(args->database_name)),
					 errdetail("A reset or rewind of it was interrupted, or a rewind is in progress."),
					 errhint("See the server log for the reason. testdb_drop does not wait for the restore. You might need to increase \"%s\".",
							 "testdb.timeout")));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 REWIND_PAUSE, wait_event_compat(&wait_event, "TestdbRewound"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (clone.state == CLONE_LEASED)
			return true;
	}
}

/*
 * Have a worker execute a request.  If the sessions in a clone are to be
 * terminated, they are first given time to exit by themselves, here, so that
 * no worker waits for that.
 *
 * Errors: those of request_perform.
 */
void
perform(RequestArgs *args, TimestampTz deadline, RequestResult *result)
{
	if (args->kind == REQUEST_DROP || args->kind == REQUEST_RESET)
	{
		database_let_leave(args->database);
		args->let_left = true;
	}
	request_perform(args, deadline, result);
}

/*
 * Have a worker execute a request that needs the template up to date; name is
 * the template's in errors.  While the template is in use, wait here, so that
 * the worker is free for other requests, or terminate its sessions.
 *
 * Errors: those of request_perform; 55006 if the template is still in use
 * after testdb.template_timeout.
 */
void
perform_with_template(RequestArgs *args, Oid template, const char *name,
					  RequestResult *result)
{
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz deadline = TimestampTzPlusMilliseconds(start, testdb_timeout);
	TemplateWait wait = {
		.template = template,
		.name = name,
		.deadline = deadline,
		.template_deadline = TimestampTzPlusMilliseconds(start, testdb_template_timeout),
		.pause_ms = 1,
	};

	for (;;)
	{
		if (args->kind == REQUEST_CLONE && find_spare(args, result, deadline))
			return;
		perform(args, deadline, result);
		if (!result->busy)
			return;
		if (template == MyDatabaseId)
			report_own_database();
		if (!evict_or_wait(&wait, result->nprepared))
			report_template_in_use(template, name, result->nprepared);
	}
}

/*
 * Log a call if that is enabled by testdb.log_min_duration; command is its
 * name, start the time when it began, which may be 0 if logging is off.
 */
void
handout_log_slow(const char *command, const RequestArgs *args,
				 const RequestResult *result, TimestampTz start)
{
	int64		us;

	if (testdb_log_min_duration < 0)
		return;
	us = GetCurrentTimestamp() - start;
	if (us / 1000 >= testdb_log_min_duration)
		ereport(LOG,
				(errmsg("%s: \"%s\" from \"%s\": %lld.%03d ms", command,
						NameStr(result->name), NameStr(args->database_name),
						(long long) (us / 1000), (int) (us % 1000))));
}
