/*-------------------------------------------------------------------------
 *
 * functions.c
 *	  The SQL-callable functions: arguments, privileges, errors.
 *
 * A function resolves its arguments to OIDs in the caller's session, with the
 * caller's privileges; a worker does the work (request.c, worker.c), and
 * checks what it relies on again under its own locks.  As with nextval(),
 * ROLLBACK undoes nothing.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "database.h"
#include "debug.h"
#include "evict.h"
#include "expiry.h"
#include "functions.h"
#include "handout.h"
#include "lease.h"
#include "quota.h"
#include "signals.h"
#include "snapshot.h"
#include "spares.h"
#include "start.h"
#include "stats.h"
#include "templates.h"
#include "testdb.h"

/* Longest lifetime that a caller can request, in seconds. */
#define MAX_LIFETIME		(INT64CONST(100) * SECS_PER_YEAR)

SQL_FUNCTION(testdb_clone);

SQL_FUNCTION(testdb_drop);

SQL_FUNCTION(testdb_drop_all);

SQL_FUNCTION(testdb_keep);

SQL_FUNCTION(testdb_reset);

SQL_FUNCTION(testdb_rewind);

SQL_FUNCTION(testdb_rewind_current);

SQL_FUNCTION(testdb_stats_reset);

SQL_FUNCTION(testdb_prewarm);

SQL_FUNCTION(testdb_template_set);

/*
 * Raise an error unless testdb's functions can be called in this transaction.
 */
void
check_callable(const char *function)
{
	testdb_check_library();
	PreventCommandDuringRecovery(function);
	PreventCommandIfReadOnly(function);
}

/*
 * As check_callable, for functions that create databases or take snapshots.
 */
void
check_usable(const char *function)
{
	check_callable(function);
	registry_check_installed();
}

/*
 * Lock an object as LockSharedObject does, but wait no longer than
 * testdb.timeout.
 *
 * Errors: 55P03 after testdb.timeout, or the session's lock_timeout.
 */
void
lock_within_timeout(Oid class, Oid object, uint16 subobject, LOCKMODE mode)
{
	char		timeout[16];
	int			nest = NewGUCNestLevel();

	snprintf(timeout, sizeof(timeout), "%d", testdb_timeout);
	if (LockTimeout == 0 || LockTimeout > testdb_timeout)
		(void) set_config_option("lock_timeout", timeout, PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	LockSharedObject(class, object, subobject, mode);
	AtEOXact_GUC(true, nest);
}

/*
 * Return argument number argno, the name of a database; what describes it in
 * messages.
 *
 * Errors: 22004 if it is NULL, 42602 if it is empty or too long.
 */
char *
get_name_argument(FunctionCallInfo fcinfo, int argno, const char *what)
{
	char	   *name;

	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", what)));
	name = text_to_cstring(PG_GETARG_TEXT_PP(argno));
	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("%s must not be empty", what)));
	if (strlen(name) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("%s is too long", what),
				 errdetail("\"%s\" has %zu bytes; a database name has at most %d.",
						   name, strlen(name), NAMEDATALEN - 1)));
	return name;
}

/*
 * Return the OID of the database with this name, and fill *info; or
 * InvalidOid.  The search sees what workers have committed since this
 * transaction began.
 *
 * A session often uses the same databases repeatedly.  *last is the one found
 * last; if it still has this name according to the catalog cache, no search
 * is needed.  Some templates, and one dropped database, are remembered.
 */
static Oid
find_database_info(const char *name, Oid *last, DatabaseInfo *info)
{
	AcceptInvalidationMessages();
	if (!OidIsValid(*last) || !database_lookup(*last, info) ||
		strcmp(NameStr(info->name), name) != 0)
	{
		InvalidateCatalogSnapshot();
		*last = get_database_oid(name, true);
		if (OidIsValid(*last) && !database_lookup(*last, info))
			*last = InvalidOid;
	}
	return *last;
}

/*
 * As find_database_info, but return only the OID.
 */
Oid
find_database(const char *name)
{
	static Oid	last = InvalidOid;
	DatabaseInfo info;

	return find_database_info(name, &last, &info);
}

/*
 * Raise an error, 55000, if a database created by testdb, named name, has not
 * been handed out.
 */
static void
check_handed_out(const TestdbClone *clone, const char *name)
{
	if (clone->state != CLONE_LEASED && clone->state != CLONE_DROPPING &&
		clone->state != CLONE_REWINDING &&
		clone->state != CLONE_GARBAGE && clone->state != CLONE_REMOVING)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("database \"%s\" has not been handed out by testdb_clone",
						name),
				 errdetail("testdb keeps it ready for the next call of testdb_clone.")));
}

/*
 * Return the place of the OID of the template with this name; it is InvalidOid
 * if the name is not among the last ones for which this was called.
 */
static Oid *
remembered_template(const char *name)
{
	static struct
	{
		NameData	name;
		Oid			oid;
	}			known[16];
	static int	next = 0;

	for (int i = 0; i < (int) lengthof(known); i++)
		if (strcmp(NameStr(known[i].name), name) == 0)
			return &known[i].oid;
	next = (next + 1) % lengthof(known);
	namestrcpy(&known[next].name, name);
	known[next].oid = InvalidOid;
	return &known[next].oid;
}

/*
 * Find the template, check that the caller may clone it, and return its OID.
 * *lease is set to the number of its own lease, or to 0 if testdb did not
 * create it.  After a server start, waits until the registry has been
 * rebuilt.
 *
 * Errors: 3D000, 42501, 55000; 55006 if the workers are connected to it;
 * those of start_wait.
 */
Oid
get_template(const char *name, uint64 *lease)
{
	DatabaseInfo info;
	TestdbClone clone;
	Oid			oid = find_database_info(name, remembered_template(name), &info);

	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("template database \"%s\" does not exist", name)));
	if (!info.is_template && !has_privs_of_role(GetUserId(), info.owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to clone database \"%s\"", name),
				 errdetail("It is not marked as a template, and you are not a member of the role that owns it."),
				 errhint("Its owner can run ALTER DATABASE %s IS_TEMPLATE true.",
						 quote_identifier(name))));
	start_await();
	*lease = 0;
	if (registry_lookup(oid, &clone))
	{
		check_handed_out(&clone, name);
		*lease = clone.lease;
	}
	if (oid == MyDatabaseId && testdb_method != TESTDB_METHOD_NATIVE)
		report_own_database();
	if (oid == request_worker_database())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot clone database \"%s\"", name),
				 errdetail("The testdb workers are connected to it."),
				 errhint("Set \"%s\" to another database and restart the server.",
						 "testdb.database")));
	return oid;
}

/*
 * Fill *args for a request about the template named by argument 0, after
 * checking that the caller may clone it.
 */
static void
get_template_request(FunctionCallInfo fcinfo, RequestKind kind, RequestArgs *args)
{
	memset(args, 0, sizeof(*args));
	args->kind = kind;
	args->role = GetUserId();
	args->method = testdb_method;
	namestrcpy(&args->database_name, get_name_argument(fcinfo, 0, "template name"));
	args->database = get_template(NameStr(args->database_name), &args->lease);
}

/*
 * Convert an interval to seconds, at least 1; a month has 30 days.
 *
 * Errors: 22023 if it is not positive, or too long.
 */
static int64
get_lifetime(const Interval *interval)
{
	int64		days = (int64) interval->month * 30 + interval->day;
	int64		seconds = days * SECS_PER_DAY + interval->time / USECS_PER_SEC;

	if (seconds < 0 || (seconds == 0 && interval->time <= 0) ||
		seconds > MAX_LIFETIME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lifetime is out of range"),
				 errdetail("It must be positive, and at most %d years.",
						   (int) (MAX_LIFETIME / SECS_PER_YEAR))));
	return Max(seconds, 1);
}

/*
 * Copy argument number argno into label (TESTDB_MAX_LABEL + 1 bytes); "" if
 * it is NULL.
 *
 * Errors: 22001 if it is too long.
 */
static void
get_label_argument(FunctionCallInfo fcinfo, int argno, char *label)
{
	char	   *words;

	label[0] = '\0';
	if (PG_ARGISNULL(argno))
		return;
	words = text_to_cstring(PG_GETARG_TEXT_PP(argno));
	if (strlen(words) > TESTDB_MAX_LABEL)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("label is too long"),
				 errdetail("It has %zu bytes; a label has at most %d.",
						   strlen(words), TESTDB_MAX_LABEL)));
	strcpy(label, words);
}

/*
 * A before_shmem_exit callback: give up the clones of this session's scope.
 */
static void
end_session_scope(int code pg_attribute_unused(),
				  Datum arg pg_attribute_unused())
{
	registry_end_session(MyProcPid);
	request_wake_workers();
}

/*
 * Ensure that the clones of this session's scope are dropped when it ends.
 */
void
register_session_scope(void)
{
	static bool registered = false;

	if (!registered)
		before_shmem_exit(end_session_scope, (Datum) 0);
	registered = true;
}

/*
 * Fill in the terms of a lease from the arguments of testdb_clone; NULL means
 * not specified.  (All defaults are NULL since each call reads them twice from
 * pg_proc, and NULL is the shortest there.)
 *
 * Errors: 22023, 22001.
 */
static void
get_terms(FunctionCallInfo fcinfo, LeaseTerms *terms)
{
	char	   *scope = PG_ARGISNULL(2) ? "manual" : text_to_cstring(PG_GETARG_TEXT_PP(2));

	if (strcmp(scope, "session") == 0)
		terms->session_pid = MyProcPid;
	else if (strcmp(scope, "manual") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid scope: \"%s\"", scope),
				 errhint("Valid scopes are \"manual\" and \"session\".")));
	terms->lifetime = PG_ARGISNULL(3) ? testdb_lifetime :
		get_lifetime(PG_GETARG_INTERVAL_P(3));
	terms->idle_timeout = testdb_idle_timeout;
	get_label_argument(fcinfo, 4, terms->label);

	if (terms->session_pid != 0)
		register_session_scope();
}

/*
 * Raise an error, 53400, if a role has as many clones as it may have, before
 * any work is done.  registry_charge() enforces the limit for concurrent
 * calls.
 */
void
check_role_limit(Oid role)
{
	int			n;

	if (testdb_max_clones_per_role == 0)
		return;
	n = registry_count_paid(role);
	if (n >= testdb_max_clones_per_role)
		database_report_role_limit(role, n);
}

/*
 * testdb_clone(template text, name text, scope text, lifetime interval,
 *				label text) returns name
 */
Datum
testdb_clone(PG_FUNCTION_ARGS)
{
	TimestampTz start = testdb_log_min_duration < 0 ? 0 : GetCurrentTimestamp();
	RequestArgs args;
	RequestResult result;
	Name		name;

	check_usable("testdb_clone()");
	get_template_request(fcinfo, REQUEST_CLONE, &args);
	if (!PG_ARGISNULL(1))
	{
		args.name_given = true;
		namestrcpy(&args.name, get_name_argument(fcinfo, 1, "database name"));
		if (OidIsValid(find_database(NameStr(args.name))))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_DATABASE),
					 errmsg("database \"%s\" already exists", NameStr(args.name))));
	}
	get_terms(fcinfo, &args.terms);
	args.role_limit = testdb_max_clones_per_role;
	check_role_limit(args.role);

	/* Nothing may fail between creating the clone and returning its name. */
	name = (Name) palloc0(NAMEDATALEN);
	perform_with_template(&args, args.database, NameStr(args.database_name),
						  &result);
	*name = result.name;
	handout_log_slow("testdb_clone", &args, &result, start);
	PG_RETURN_NAME(name);
}

/*
 * Check that a clone is owned by the caller, or by a role that the caller is
 * a member of, and return the number of its lease.
 *
 * Errors: 42809 if testdb did not create it, 42501, 55000.
 */
uint64
check_owned(Oid oid, const char *name)
{
	TestdbClone clone;
	DatabaseInfo info;

	if (!registry_lookup(oid, &clone))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("database \"%s\" was not created by testdb", name),
				 errdetail("testdb only manages databases that it created."),
				 errhint("Use DROP DATABASE to drop other databases.")));
	if (!database_lookup(oid, &info) ||
		!has_privs_of_role(GetUserId(), info.owner))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_DATABASE, name);
	check_handed_out(&clone, name);
	return clone.lease;
}

/*
 * Raise an error, 55006, if a database can be neither dropped nor reset
 * because this session or the workers are connected to it.  drop selects the
 * message.
 */
static void
check_can_be_left(Oid oid, const char *name, bool drop)
{
	if (oid == MyDatabaseId)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 drop ?
				 errmsg("cannot drop the currently open database") :
				 errmsg("cannot reset the currently open database"),
				 errhint("Connect to another database, such as \"%s\", to call %s.",
						 testdb_database, drop ? "testdb_drop" : "testdb_reset")));
	if (oid == request_worker_database())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 drop ?
				 errmsg("cannot drop database \"%s\"", name) :
				 errmsg("cannot reset database \"%s\"", name),
				 errdetail("The testdb workers are connected to it."),
				 errhint("Set \"%s\" to another database and restart the server.",
						 "testdb.database")));
}

/*
 * Report that there is no such database: an error, or a notice if missing_ok.
 * Returns false.
 */
static bool
report_missing(const char *name, bool missing_ok)
{
	if (!missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("database \"%s\" does not exist", name)));
	ereport(NOTICE,
			(errmsg("database \"%s\" does not exist, skipping", name)));
	return false;
}

/*
 * Fill *args for a request about the clone with this name, after checking
 * that the caller may; false if there is no such database.  After a server
 * start, waits until the registry has been rebuilt.
 *
 * Errors: those of check_owned and start_wait.
 */
static bool
get_clone_request(RequestKind kind, const char *name, TimestampTz deadline,
				  RequestArgs *args)
{
	memset(args, 0, sizeof(*args));
	args->kind = kind;
	args->role = GetUserId();
	args->method = testdb_method;
	namestrcpy(&args->database_name, name);
	args->database = find_database(name);
	if (!OidIsValid(args->database))
		return false;
	start_wait(deadline);
	args->lease = check_owned(args->database, name);
	return true;
}

/*
 * Raise an error, 42809, if the clone of a request is a template: one created
 * by CREATE DATABASE and marked IS_TEMPLATE, as for DROP DATABASE; or, unless
 * drop is true, one created by testdb_template_begin, whose content and terms
 * other functions must not change.
 */
static void
check_no_template(const RequestArgs *args, bool drop)
{
	TestdbClone clone;
	DatabaseInfo info;

	if (!registry_lookup(args->database, &clone))
		return;
	if (clone.terms.database && database_lookup(args->database, &info) && info.is_template)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("database \"%s\" is a template",
						NameStr(args->database_name)),
				 errdetail("It was created by CREATE DATABASE, and is marked IS_TEMPLATE."),
				 errhint("Use ALTER DATABASE ... IS_TEMPLATE false first.")));
	if (!drop && NameStr(clone.terms.build)[0] != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("database \"%s\" is a template",
						NameStr(args->database_name)),
				 errdetail("It was created by testdb_template_begin."),
				 errhint("See testdb_template_finish, testdb_template_cancel and testdb_template_drop.")));
}

/*
 * Check that the caller may clone the template of the clone in *args now,
 * since the clone is about to get its content.  Does nothing if either no
 * longer exists; the worker will report that.
 *
 * Errors: those of get_template.
 */
static void
check_template_of(const RequestArgs *args)
{
	TestdbClone clone;
	DatabaseInfo template;
	uint64		lease;

	if (registry_lookup(args->database, &clone) &&
		database_lookup(clone.template_oid, &template))
		(void) get_template(NameStr(template.name), &lease);
}

/*
 * Report whether a reset has replaced the database that was found by another
 * one with the same name.
 */
static bool
was_replaced(const RequestArgs *args)
{
	Oid			now = find_database(NameStr(args->database_name));

	return OidIsValid(now) && now != args->database;
}

/*
 * testdb_drop(name text, missing_ok boolean) returns boolean
 */
Datum
testdb_drop(PG_FUNCTION_ARGS)
{
	RequestArgs args;
	RequestResult result;
	TimestampTz deadline;
	char	   *name;
	bool		missing_ok;

	check_callable("testdb_drop()");
	name = get_name_argument(fcinfo, 0, "database name");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("missing_ok must not be null")));
	missing_ok = PG_GETARG_BOOL(1);

	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), testdb_timeout);
	do
	{
		if (!get_clone_request(REQUEST_DROP, name, deadline, &args))
			PG_RETURN_BOOL(report_missing(name, missing_ok));
		check_no_template(&args, true);
		check_can_be_left(args.database, name, true);
		perform(&args, deadline, &result);
	} while (result.missing &&
			 (was_replaced(&args) || handout_await_rewind(&args, deadline)));
	PG_RETURN_BOOL(!result.missing || report_missing(name, missing_ok));
}

/*
 * Have a worker drop one of several clones.  Returns NULL on success, with
 * *missing set if the clone no longer existed; otherwise the error, in the
 * current memory context, with the transaction as it was before.
 *
 * Errors: 57014 if the query is canceled.
 */
static ErrorData *
try_drop(RequestArgs *args, bool *missing)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	TimestampTz deadline =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), testdb_timeout);
	ErrorData  *volatile edata = NULL;
	RequestResult result;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		DatabaseInfo info;

		do
			perform(args, deadline, &result);
		while (result.missing && database_lookup(args->database, &info) &&
			   handout_await_rewind(args, deadline));
		*missing = result.missing;
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;

	/* A cancel concerns the whole call; a timeout only this clone. */
	if (edata && edata->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		GetCurrentTimestamp() < deadline)
		ReThrowError(edata);
	return edata;
}

/*
 * Emit a WARNING for each clone that was not dropped, and raise an error,
 * 55006, with their number.  names and errors are parallel lists.
 */
static void
report_kept(List *names, List *errors, int64 ndropped)
{
	ListCell   *name;
	ListCell   *error;

	forboth(name, names, error, errors)
	{
		ErrorData  *edata = lfirst(error);

		ereport(WARNING,
				(errcode(edata->sqlerrcode),
				 errmsg("database \"%s\" was not dropped: %s",
						(char *) lfirst(name), edata->message),
				 edata->detail ? errdetail_internal("%s", edata->detail) : 0,
				 edata->hint ? errhint("%s", edata->hint) : 0));
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg_plural("%d database could not be dropped",
						   "%d databases could not be dropped",
						   list_length(names), list_length(names)),
			 errdetail_plural("%lld other was dropped.",
							  "%lld others were dropped.",
							  (unsigned long) ndropped, (long long) ndropped)));
}

/*
 * Report whether testdb_drop_all should drop a clone: it is the caller's, was
 * not created by CREATE DATABASE or testdb_template_begin, has this template
 * unless that is InvalidOid, and this label unless that is NULL.
 */
static bool
is_selected(const TestdbClone *clone, Oid template, const char *label, DatabaseInfo *info)
{
	return (clone->state == CLONE_LEASED || clone->state == CLONE_REWINDING) &&
		!clone->terms.database &&
		NameStr(clone->terms.build)[0] == '\0' &&
		(!OidIsValid(template) || clone->template_oid == template) &&
		(label == NULL || strcmp(clone->terms.label, label) == 0) &&
		database_lookup(clone->oid, info) && info->owner == GetUserId();
}

/*
 * testdb_drop_all(template text, label text) returns bigint
 *
 * Databases dropped concurrently by others are not counted; the one that the
 * caller is connected to is skipped with a notice.  If one cannot be dropped,
 * the others are dropped before the error is raised.
 */
Datum
testdb_drop_all(PG_FUNCTION_ARGS)
{
	TestdbClone *clones;
	char		label[TESTDB_MAX_LABEL + 1];
	Oid			template = InvalidOid;
	int64		ndropped = 0;
	List	   *names = NIL;
	List	   *errors = NIL;
	int			n;

	check_callable("testdb_drop_all()");
	if (!PG_ARGISNULL(0))
	{
		char	   *name = get_name_argument(fcinfo, 0, "template name");

		template = find_database(name);
		if (!OidIsValid(template))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_DATABASE),
					 errmsg("template database \"%s\" does not exist", name)));
	}
	get_label_argument(fcinfo, 1, label);
	start_await();

	clones = registry_list(&n);
	for (int i = 0; i < n; i++)
	{
		RequestArgs args;
		DatabaseInfo info;
		ErrorData  *edata;
		bool		missing;

		if (!is_selected(&clones[i], template, PG_ARGISNULL(1) ? NULL : label, &info))
			continue;
		if (clones[i].oid == MyDatabaseId)
		{
			ereport(NOTICE,
					(errmsg("database \"%s\" is currently open, skipping",
							NameStr(info.name))));
			continue;
		}
		memset(&args, 0, sizeof(args));
		args.kind = REQUEST_DROP;
		args.role = GetUserId();
		args.database = clones[i].oid;
		args.database_name = info.name;
		args.lease = clones[i].lease;
		edata = try_drop(&args, &missing);
		if (edata)
		{
			names = lappend(names, pstrdup(NameStr(info.name)));
			errors = lappend(errors, edata);
		}
		else if (!missing)
			ndropped++;
	}
	if (names != NIL)
		report_kept(names, errors, ndropped);
	PG_RETURN_INT64(ndropped);
}

/*
 * testdb_reset(name text) returns void
 */
Datum
testdb_reset(PG_FUNCTION_ARGS)
{
	RequestArgs args;
	RequestResult result;
	TestdbClone clone;
	TimestampTz deadline;
	char	   *name;

	check_usable("testdb_reset()");
	name = get_name_argument(fcinfo, 0, "database name");
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), testdb_timeout);
	do
	{
		if (!get_clone_request(REQUEST_RESET, name, deadline, &args) ||
			!registry_lookup(args.database, &clone))
			(void) report_missing(name, false);
		check_no_template(&args, false);
		check_template_of(&args);
		check_can_be_left(args.database, name, false);
		perform_with_template(&args, clone.template_oid,
							  NameStr(clone.template_name), &result);
	} while (result.missing &&
			 (was_replaced(&args) || handout_await_rewind(&args, deadline)));
	if (result.missing)
		(void) report_missing(name, false);
	PG_RETURN_VOID();
}

/*
 * Lock a clone against being dropped or reset, or kept by another session,
 * until unlock_clone or the end of the transaction; false if it does not
 * exist (any more).  The lock does not conflict with sessions connected or
 * connecting to it.
 *
 * Errors: 55P03 after testdb.timeout, or the session's lock_timeout.
 */
static bool
lock_clone(Oid oid)
{
	DatabaseInfo info;

	lock_within_timeout(DatabaseRelationId, oid, 0, ShareUpdateExclusiveLock);
	return database_lookup(oid, &info);
}

/*
 * Release the lock acquired by lock_clone.
 */
static void
unlock_clone(Oid oid)
{
	UnlockSharedObject(DatabaseRelationId, oid, 0, ShareUpdateExclusiveLock);
}

/*
 * Change the terms of a locked clone, on disk and in the registry; false if
 * it no longer has the lease with this number.
 *
 * Errors: 55006 if it is being dropped; those of the file system.  The terms
 * are unchanged then.
 */
static bool
change_terms(Oid oid, const char *name, uint64 lease, const LeaseTerms *terms)
{
	TestdbClone clone;
	TimestampTz created_at;
	bool		done;

	if (!registry_lookup(oid, &clone) || clone.lease != lease ||
		(clone.state != CLONE_LEASED && clone.state != CLONE_DROPPING))
		return false;
	created_at = clone.created_at;
	done = clone.state == CLONE_LEASED;
	if (done)
	{
		registry_apply_terms(&clone, terms);
		clone.created_at = created_at;
		clone.lease = lease;
		lease_write(&clone, LEASE_HELD);
		debug_point("kept-held");

		/* It may just have expired. */
		done = registry_update(&clone, CLONE_LEASED);
	}
	if (!done)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("database \"%s\" is being dropped", name),
				 errdetail("It is being dropped or reset by another session.")));
	return true;
}

/*
 * testdb_keep(name text, lifetime interval) returns void
 *
 * A failed test may call it from within its clone.
 */
Datum
testdb_keep(PG_FUNCTION_ARGS)
{
	RequestArgs args;
	TestdbClone clone;
	LeaseTerms	terms;
	TimestampTz deadline;
	char	   *name;
	bool		kept;

	check_callable("testdb_keep()");
	name = get_name_argument(fcinfo, 0, "database name");
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), testdb_timeout);
	do
	{
		if (!get_clone_request(REQUEST_DROP, name, deadline, &args) ||
			!registry_lookup(args.database, &clone))
			(void) report_missing(name, false);
		check_no_template(&args, false);

		terms = clone.terms;
		terms.session_pid = 0;
		terms.idle_timeout = 0;
		terms.lifetime = PG_ARGISNULL(1) ? 0 : get_lifetime(PG_GETARG_INTERVAL_P(1));
		kept = lock_clone(args.database) &&
			change_terms(args.database, name, args.lease, &terms);
		unlock_clone(args.database);
	} while (!kept && handout_await_rewind(&args, deadline));
	if (!kept)
		(void) report_missing(name, false);
	request_wake_workers();
	PG_RETURN_VOID();
}

/*
 * testdb_stats_reset() returns void
 */
Datum
testdb_stats_reset(PG_FUNCTION_ARGS pg_attribute_unused())
{
	testdb_check_library();
	registry_reset_stats();
	PG_RETURN_VOID();
}

/*
 * Return argument number argno, a number of spares.
 *
 * Errors: 22004 if it is NULL, 22023 if it is out of range.
 */
static int
get_spares_argument(FunctionCallInfo fcinfo, int argno, int min)
{
	int			spares;

	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("number of spares must not be null")));
	spares = PG_GETARG_INT32(argno);
	if (spares < min || spares > testdb_max_clones)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of spares %d is out of range", spares),
				 errdetail("It must be between %d and %d, the value of \"%s\".",
						   min, testdb_max_clones, "testdb.max_clones")));
	return spares;
}

/*
 * Raise the error that no spares of a template can be created.
 */
static void
report_no_spares(const RequestArgs *args)
{
	TestdbTemplate template;
	bool		known = registry_template(args->database, &template);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot create spares of database \"%s\"",
					NameStr(args->database_name)),
			 known && template.obstacle[0] ?
			 errdetail("The native method cannot be used: %s.", template.obstacle) : 0,
			 errhint("testdb_clone copies it when it is called.")));
}

/*
 * testdb_prewarm(template text, spares integer) returns integer
 */
Datum
testdb_prewarm(PG_FUNCTION_ARGS)
{
	RequestArgs args;
	RequestResult result;
	int			wanted;
	int			ready;

	check_usable("testdb_prewarm()");
	get_template_request(fcinfo, REQUEST_SPARE, &args);
	wanted = get_spares_argument(fcinfo, 1, 0);
	if (args.method != TESTDB_METHOD_NATIVE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("spares need the native method"),
				 errhint("Set \"%s\" to \"native\".", "testdb.method")));

	/*
	 * The first request also refreshes the snapshot, so that only current
	 * spares are counted afterwards.
	 */
	do
	{
		args.wanted = wanted;
		perform_with_template(&args, args.database,
							  NameStr(args.database_name), &result);
		if (result.missing)
			report_no_spares(&args);
		ready = registry_count_spares(args.database, args.role, false);
		CHECK_FOR_INTERRUPTS();
	} while (ready < wanted);
	PG_RETURN_INT32(ready);
}

/*
 * testdb_template_set(template text, spares integer) returns void
 */
Datum
testdb_template_set(PG_FUNCTION_ARGS)
{
	char	   *name;
	Oid			oid;
	uint64		lease;
	DatabaseInfo info;
	int			spares = -1;

	check_usable("testdb_template_set()");
	name = get_name_argument(fcinfo, 0, "template name");
	oid = get_template(name, &lease);
	if (!database_lookup(oid, &info) ||
		!has_privs_of_role(GetUserId(), info.owner))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_DATABASE, name);
	if (!PG_ARGISNULL(1))
		spares = get_spares_argument(fcinfo, 1, 0);
	snapshot_enter_template(oid);
	registry_limit_spares(oid, spares);
	PG_RETURN_VOID();
}

/*
 * Have the clone in *args rewound; parked means that the session is connected
 * to it, and waits at its gate.
 *
 * Errors: those of request_perform; 55006 if the template is in use.
 */
static void
rewind_clone(RequestArgs *args, TimestampTz deadline, bool parked)
{
	RequestResult result;
	TestdbClone clone;
	TemplateWait wait = {
		.deadline = deadline,
		.template_deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														 testdb_template_timeout),
		.pause_ms = 1,
	};

	args->wait_ms = testdb_rewind_timeout;
	for (;;)
	{
		if (parked)
			request_perform_parked(args, deadline, &result);
		else
			request_perform(args, deadline, &result);
		if (result.notice[0])
			ereport(NOTICE,
					(errmsg("terminated sessions in database \"%s\"",
							NameStr(args->database_name)),
					 errdetail_internal("%s", result.notice)));
		if (result.missing && OidIsValid(find_database(NameStr(args->database_name))) &&
			handout_await_rewind(args, deadline))
			continue;
		if (result.missing)
			(void) report_missing(NameStr(args->database_name), false);
		if (!result.busy)
			break;
		if (!registry_lookup(args->database, &clone))
			continue;

		/* For example, its snapshot was found to be damaged. */
		if (wait.pause_ms == 1 && CountDBBackends(clone.template_oid) == 0)
			wait.template_deadline = Max(wait.template_deadline,
										 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 2));
		wait.template = clone.template_oid;
		wait.name = NameStr(clone.template_name);
		if (!evict_or_wait(&wait, result.nprepared))
			report_template_in_use(clone.template_oid, NameStr(clone.template_name),
								   result.nprepared);
	}
}

/*
 * Find the clone to be rewound, and check that the caller owns it and may
 * clone its template.
 */
static void
get_rewind_request(const char *name, TimestampTz deadline, RequestArgs *args)
{
	if (!get_clone_request(REQUEST_REWIND, name, deadline, args))
		(void) report_missing(name, false);
	check_no_template(args, false);
	check_template_of(args);
}

/*
 * testdb_rewind(name text, force boolean) returns void
 */
Datum
testdb_rewind(PG_FUNCTION_ARGS)
{
	TimestampTz deadline =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), testdb_timeout);
	RequestArgs args;
	char	   *name;

	check_usable("testdb_rewind()");
	name = get_name_argument(fcinfo, 0, "database name");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("force must not be null")));
	get_rewind_request(name, deadline, &args);
	if (args.database == MyDatabaseId)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot rewind the currently open database in a transaction"),
				 errhint("Use CALL testdb_rewind(), outside a transaction block.")));
	args.force = PG_GETARG_BOOL(1);
	rewind_clone(&args, deadline, false);
	PG_RETURN_VOID();
}

/*
 * Report whether a procedure may end the transaction where it is called.
 */
static bool
is_nonatomic(FunctionCallInfo fcinfo)
{
	return fcinfo->context != NULL && IsA(fcinfo->context, CallContext) &&
		!castNode(CallContext, fcinfo->context)->atomic;
}

/*
 * testdb_rewind(): a procedure that rewinds the session's own database
 */
Datum
testdb_rewind_current(PG_FUNCTION_ARGS)
{
	TimestampTz deadline =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), testdb_timeout);
	RequestArgs args;

	check_usable("testdb_rewind()");
	if (!is_nonatomic(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("testdb_rewind() cannot run inside a transaction block"),
				 errhint("Call it at top level, with CALL testdb_rewind(), outside a transaction block.")));
	if (OidIsValid(MyProc->tempNamespaceId))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot rewind the currently open database"),
				 errdetail("The session has had temporary tables, whose catalog entries would be lost."),
				 errhint("Connect again, or call testdb_rewind in another database.")));
	get_rewind_request(get_database_name(MyDatabaseId), deadline, &args);
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	SPI_commit();
	rewind_clone(&args, deadline, true);
	SPI_finish();
	AcceptInvalidationMessages();
	PG_RETURN_VOID();
}
