/*-------------------------------------------------------------------------
 *
 * serve.c
 *	  CREATE DATABASE and DROP DATABASE, served by testdb's workers.
 *
 * A ProcessUtility hook lets the workers execute these commands if the result
 * is the same as without testdb.  Other commands are passed on to core:
 * options unknown to this file, cases that testdb does not support, and
 * errors.  The hook raises almost no errors itself: if a check fails, or a
 * worker reports a failure, the command is passed on, and core either raises
 * its own error, with its own messages and order of checks; or succeeds, if
 * the failure is testdb's only (testdb.max_clones, no room for a snapshot, a
 * lock).
 *
 * A database created this way (LeaseTerms.database) has no lifetime, no idle
 * timeout and no session scope; it does not count towards
 * testdb.max_clones_per_role; its entry is given up when it is needed
 * (victims.c); and its row is the one that core would create, without the
 * template's privileges and configuration parameters.  Its lease records
 * that, for the time after a crash.
 *
 * CREATE DATABASE:
 *
 *	step								if the session or the server fails here
 *	1  checks, here						nothing has happened
 *	2  worker: a clone, with its row,	as for testdb_clone (clone.c): after the
 *	   its files and its lease			restart the database exists and is
 *										complete, or nothing of it exists
 *	3  command tag						the database exists
 *
 * DROP DATABASE:
 *
 *	1  checks, here						nothing has happened
 *	2  sessions in it exit, or, with	the same
 *	   FORCE, are terminated
 *	3  worker: locks it, checks that	as for testdb_drop
 *	   it has no sessions, drops it
 *
 * When a template has been dropped, by testdb or by core, its spares are
 * removed before the command ends, and so is its snapshot, whether commands
 * are served or not.  If the session ends before that, the workers do it.
 *
 * A clone whose reset or rewind was interrupted has the files of two states.
 * Neither CREATE DATABASE nor ALTER DATABASE SET TABLESPACE copies it, served
 * or not: they wait until it is restored.
 *
 * Like core, DROP DATABASE waits for other sessions to exit for up to 5 s,
 * but checks more often.  Of two concurrent commands for the same name, one
 * succeeds, because of the worker's lock on the database, or the unique index
 * on pg_database, as in core.
 *
 * Intended differences: a template can be copied while it has sessions, if
 * its snapshot is up to date (snapshot.c); and a template that is in use and
 * has changed is waited for for testdb.template_timeout instead of 5 s.
 *
 * Locks: none are held here while waiting for a worker.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_database.h"
#include "catalog/pg_tablespace_d.h"
#include "commands/dbcommands.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "storage/procsignal.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "database.h"
#include "debug.h"
#include "guc.h"
#include "handout.h"
#include "registry.h"
#include "request.h"
#include "serve.h"
#include "sessions.h"
#include "signals.h"
#include "snapshot.h"
#include "start.h"
#include "stats.h"
#include "templates.h"

/*
 * How long to wait for other sessions to exit from a database that is
 * dropped, in ms: as core does.
 */
#define LEAVE_TIMEOUT	5000

static ProcessUtility_hook_type prev_process_utility = NULL;

/*
 * Record that a command is passed on to core, and why, for its template,
 * unless that is InvalidOid.  Returns false.
 */
static bool
pass_on(Oid template, const char *command, const char *reason)
{
	ereport(DEBUG1,
			(errmsg_internal("testdb passes on %s: %s", command, reason)));
	if (OidIsValid(template))
		registry_note_passed_on(template, reason);
	return false;
}

/*
 * Report whether an option's value is this string, ignoring case if
 * ignore_case.
 */
static bool
is_string(Node *arg, const char *value, bool ignore_case)
{
	if (value == NULL || !IsA(arg, String))
		return false;
	return (ignore_case ? pg_strcasecmp : strcmp) (strVal(arg), value) == 0;
}

/*
 * Read a boolean option, as defGetBoolean does, into *value; false if it is
 * not a boolean.
 */
static bool
read_boolean(Node *arg, bool *value)
{
	if (IsA(arg, Integer) && (intVal(arg) == 0 || intVal(arg) == 1))
		*value = intVal(arg) != 0;
	else if (is_string(arg, "true", true) || is_string(arg, "on", true))
		*value = true;
	else if (is_string(arg, "false", true) || is_string(arg, "off", true))
		*value = false;
	else
		return false;
	return true;
}

/* The fields of a template's row. */
typedef struct SourceRow
{
	Oid			oid;
	Oid			tablespace;
	bool		usable;			/* by the current user, and valid */
	int			encoding;
	char		provider;
	char	   *collate;
	char	   *ctype;
	char	   *locale;			/* NULL if the provider is libc */
	char	   *rules;
	char	   *version;		/* of the collation; NULL if there is none */
} SourceRow;

/*
 * Return a text column of a template's row, or NULL; anum is 0 if there is no
 * such column.
 */
static char *
get_text(HeapTuple tuple, AttrNumber anum)
{
	bool		isnull = true;
	Datum		datum = 0;

	if (anum != 0)
		datum = SysCacheGetAttr(DATABASEOID, tuple, anum, &isnull);
	return isnull ? NULL : TextDatumGetCString(datum);
}

/*
 * Read the row of the template with this name; false if there is none.
 */
static bool
read_source(const char *name, SourceRow *source)
{
	Oid			oid = get_database_oid(name, true);
	HeapTuple	tuple = OidIsValid(oid) ?
		SearchSysCache1(DATABASEOID, ObjectIdGetDatum(oid)) : NULL;
	Form_pg_database form;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_database) GETSTRUCT(tuple);
	source->oid = oid;
	source->tablespace = form->dattablespace;
	source->usable = form->datconnlimit >= DATCONNLIMIT_UNLIMITED &&
		(form->datistemplate || database_ownercheck_compat(oid, GetUserId()));
	source->encoding = form->encoding;
	source->provider = form->datlocprovider;
	source->collate = get_text(tuple, Anum_pg_database_datcollate);
	source->ctype = get_text(tuple, Anum_pg_database_datctype);
	source->locale = get_text(tuple, ANUM_DATLOCALE_COMPAT);
	source->rules = get_text(tuple, ANUM_DATICURULES_COMPAT);
	source->version = get_text(tuple, Anum_pg_database_datcollversion);
	ReleaseSysCache(tuple);
	return true;
}

/*
 * Report whether the value of a locale option, or of the encoding, is equal
 * to the template's.
 */
static bool
matches_source(const char *option, Node *arg, const SourceRow *source)
{
	bool		icu = source->provider == COLLPROVIDER_ICU;

	if (strcmp(option, "encoding") == 0)
		return IsA(arg, Integer) ? intVal(arg) == source->encoding :
			IsA(arg, String) && pg_valid_server_encoding(strVal(arg)) == source->encoding;
	if (strcmp(option, "locale") == 0)
		return is_string(arg, source->collate, false) &&
			is_string(arg, source->ctype, false) &&
			(source->provider == COLLPROVIDER_LIBC || is_string(arg, source->locale, false));
	if (strcmp(option, "lc_collate") == 0)
		return is_string(arg, source->collate, false);
	if (strcmp(option, "lc_ctype") == 0)
		return is_string(arg, source->ctype, false);
	if (strcmp(option, "icu_locale") == 0)
		return icu && is_string(arg, source->locale, false) &&
			is_canonical_locale_compat(source->locale);
	if (strcmp(option, "icu_rules") == 0)
		return icu && is_string(arg, source->rules, false);
	if (strcmp(option, "builtin_locale") == 0)
		return !icu && source->provider != COLLPROVIDER_LIBC &&
			is_string(arg, source->locale, false);
	if (strcmp(option, "locale_provider") == 0)
		return is_string(arg, icu ? "icu" :
						 source->provider == COLLPROVIDER_LIBC ? "libc" : "builtin", true);
	return false;
}

/*
 * Store the value of an option of CREATE DATABASE, for the new row or its
 * owner, in *args; false if it is another option, or core would reject its
 * value.
 */
static bool
take_option(const DefElem *option, RequestArgs *args)
{
	RowOptions *row = &args->row;
	Node	   *arg = option->arg;

	if (strcmp(option->defname, "owner") == 0)
	{
		args->role = IsA(arg, String) ? get_role_oid(strVal(arg), true) : InvalidOid;
		return OidIsValid(args->role);
	}
	if (strcmp(option->defname, "is_template") == 0)
		return read_boolean(arg, &row->is_template);
	if (strcmp(option->defname, "allow_connections") == 0)
		return read_boolean(arg, &row->allow_connections);
	if (strcmp(option->defname, "connection_limit") == 0)
	{
		row->connection_limit = IsA(arg, Integer) ? intVal(arg) : DATCONNLIMIT_UNLIMITED;
		return IsA(arg, Integer) && intVal(arg) >= DATCONNLIMIT_UNLIMITED;
	}
	if (strcmp(option->defname, "strategy") == 0)
		return is_string(arg, "wal_log", true) || is_string(arg, "file_copy", true);
	return false;
}

/*
 * Return the name of the template.  NULL if its option is not a string, or if
 * any option is repeated.
 */
static const char *
get_template_name(const CreatedbStmt *stmt)
{
	const char *name = "template1";
	ListCell   *lc;
	ListCell   *other;

	foreach(lc, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		for_each_cell(other, stmt->options, lnext(stmt->options, lc))
		{
			if (strcmp(lfirst_node(DefElem, other)->defname, option->defname) == 0)
				return NULL;
		}
		if (strcmp(option->defname, "template") != 0 || option->arg == NULL)
			continue;
		if (!IsA(option->arg, String))
			return NULL;
		name = strVal(option->arg);
	}
	return name;
}

/*
 * Process the options of CREATE DATABASE, after read_source; returns NULL, or
 * the reason why the command cannot be served.
 */
static const char *
read_options(const CreatedbStmt *stmt, const SourceRow *source, RequestArgs *args)
{
	ListCell   *lc;

	foreach(lc, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);
		const char *name = option->defname;

		if (strcmp(name, "oid") == 0 || strcmp(name, "location") == 0 ||
			strcmp(name, "collation_version") == 0)
			return "an option that is not served";
		if (option->arg == NULL || strcmp(name, "template") == 0)
			continue;
		if (strcmp(name, "tablespace") == 0)
		{
			if (!superuser() || !is_string(option->arg, "pg_default", false))
				return "a tablespace";
		}
		else if (!take_option(option, args) &&
				 !matches_source(name, option->arg, source))
			return "an option with a value that is not served";
	}
	return NULL;
}

/*
 * Determine the collation version that core would record for the new
 * database; false if core would reject the template because of it.
 */
static bool
read_collation_version(const SourceRow *source, RowOptions *row)
{
	char	   *actual = get_collation_actual_version(source->provider,
													  source->provider == COLLPROVIDER_LIBC ?
													  source->collate : source->locale);

	if (actual && strlen(actual) >= NAMEDATALEN)
		return false;
	if (source->version && (actual == NULL || strcmp(actual, source->version) != 0))
		return false;
	if (actual)
		namestrcpy(&row->collation_version, actual);
	return true;
}

/*
 * Report whether a database was not created by testdb, or has been handed
 * out; *lease is its lease, or 0.
 */
static bool
is_available(Oid oid, uint64 *lease)
{
	TestdbClone clone;

	*lease = 0;
	if (!registry_lookup(oid, &clone))
		return true;
	*lease = clone.lease;
	return clone.state == CLONE_LEASED;
}

/*
 * Return NULL if this session can have commands served now, or the reason why
 * not.
 */
static const char *
check_serving(void)
{
	if (testdb_method != TESTDB_METHOD_NATIVE)
		return "testdb.method is not native";
	if (!start_is_ready() || request_workers_running() == 0)
		return "the workers are not ready";
	if (registry_is_uninstalled())
		return "testdb has been uninstalled";
	return NULL;
}

/*
 * Report whether the current user may create databases.  Core's own function
 * for that is not exported by the older minor releases of 15.
 */
static bool
may_create_databases(void)
{
	HeapTuple	tuple;
	bool		result = false;

	if (superuser())
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return result;
}

/*
 * Fill *args and *source for a CREATE DATABASE statement; returns NULL, or
 * the reason why it cannot be served.
 */
static const char *
decide_create(const CreatedbStmt *stmt, RequestArgs *args, SourceRow *source)
{
	const char *template = get_template_name(stmt);
	const char *reason;

	AcceptInvalidationMessages();
	InvalidateCatalogSnapshot();
	if (template == NULL || !read_source(template, source))
		return "there is no such template, or an option is repeated";
	if ((reason = check_serving()) != NULL)
		return reason;
	if (!source->usable || !may_create_databases())
		return "a privilege is missing, or the template is invalid";
	if (source->tablespace != DEFAULTTABLESPACE_OID)
		return "a tablespace";
	if (source->oid == MyDatabaseId || source->oid == request_worker_database())
		return "the template is the current database, or the workers'";

	memset(args, 0, sizeof(*args));
	args->kind = REQUEST_CLONE;
	args->served = true;
	args->caller = GetUserId();
	args->role = args->caller;
	args->database = source->oid;
	namestrcpy(&args->database_name, template);
	args->method = TESTDB_METHOD_NATIVE;
	args->name_given = true;
	namestrcpy(&args->name, stmt->dbname);
	args->terms.database = true;
	args->row.allow_connections = true;
	args->row.connection_limit = DATCONNLIMIT_UNLIMITED;
	if (!is_available(source->oid, &args->lease))
		return "the template has not been handed out";
	if ((reason = read_options(stmt, source, args)) != NULL)
		return reason;
	if (!can_set_role_compat(args->caller, args->role))
		return "a privilege is missing";
	if (!read_collation_version(source, &args->row))
		return "the version of the template's collation";
	if (strpbrk(stmt->dbname, "\r\n") != NULL ||
		OidIsValid(get_database_oid(stmt->dbname, true)))
		return "the name is in use, or not allowed";
	return NULL;
}

/*
 * Raise core's error for a template that is in use.
 */
static void
report_template_busy(const RequestArgs *args, int nprepared)
{
	int			nsessions = CountDBBackends(args->database);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("source database \"%s\" is being accessed by other users",
					NameStr(args->database_name)),
			 handout_errdetail_busy(nsessions, nprepared)));
}

/*
 * Return the current OID of the database with this name, or InvalidOid.
 */
static Oid
find_name(const char *name)
{
	AcceptInvalidationMessages();
	InvalidateCatalogSnapshot();
	return get_database_oid(name, true);
}

/*
 * After a worker has failed: wait until the remains of a database are
 * removed, for at most testdb.lock_timeout.  Returns immediately if the
 * database is in use.
 */
static void
wait_for_removal(Oid oid)
{
	static uint32 wait_event = 0;
	TimestampTz start = GetCurrentTimestamp();
	TestdbClone clone;

	while (registry_lookup(oid, &clone) &&
		   (clone.state == CLONE_GARBAGE || clone.state == CLONE_REMOVING ||
			clone.state == CLONE_CREATING) &&
		   !TimestampDifferenceExceeds(start, GetCurrentTimestamp(), testdb_lock_timeout))
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 2,
						 wait_event_compat(&wait_event, "TestdbServed"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Serve a CREATE DATABASE statement; false if it must be passed on to core.
 *
 * Errors: 55006 if the template remains in use; those of request_try_perform.
 */
static bool
serve_create(const CreatedbStmt *stmt)
{
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz deadline = TimestampTzPlusMilliseconds(start, testdb_timeout);
	TimestampTz template_deadline =
		TimestampTzPlusMilliseconds(start, testdb_template_timeout);
	SourceRow	source = {0};
	RequestArgs args;
	RequestResult result;
	const char *reason = decide_create(stmt, &args, &source);
	char	   *failure;
	long		pause_ms = 1;

	if (reason)
		return pass_on(source.oid, "CREATE DATABASE", reason);
	PreventInTransactionBlock(true, "CREATE DATABASE");
	for (;;)
	{
		failure = request_try_perform(&args, deadline, &result);
		if (failure)
		{
			wait_for_removal(find_name(stmt->dbname));
			return pass_on(source.oid, "CREATE DATABASE", failure);
		}
		if (result.missing)
			return pass_on(source.oid, "CREATE DATABASE", "the template cannot be cloned by the native method");
		if (!result.busy)
			break;
		if (!handout_wait_for_template(source.oid, &pause_ms,
									   Min(deadline, template_deadline)))
			report_template_busy(&args, result.nprepared);
	}
	handout_log_slow("CREATE DATABASE", &args, &result, start);
	registry_note_served(source.oid);
	return true;
}

/*
 * Fill *args for a DROP DATABASE statement, and *force; returns NULL, or the
 * reason why it cannot be served.
 */
static const char *
decide_drop(const DropdbStmt *stmt, RequestArgs *args, bool *force)
{
	TestdbClone clone;
	DatabaseInfo info;
	ListCell   *lc;
	Oid			oid;

	*force = false;
	foreach(lc, stmt->options)
	{
		if (strcmp(lfirst_node(DefElem, lc)->defname, "force") != 0)
			return "an option that is not served";
		*force = true;
	}
	AcceptInvalidationMessages();
	InvalidateCatalogSnapshot();
	oid = get_database_oid(stmt->dbname, true);
	if (!OidIsValid(oid) || !registry_lookup(oid, &clone) || clone.state != CLONE_LEASED)
		return "it was not created by testdb";
	if (check_serving() != NULL)
		return check_serving();
	if (!database_lookup(oid, &info) || info.is_template ||
		!database_ownercheck_compat(oid, GetUserId()))
		return "a privilege is missing, or it is a template";
	if (oid == MyDatabaseId || oid == request_worker_database() ||
		!database_is_recyclable(oid))
		return "it is in use";

	memset(args, 0, sizeof(*args));
	args->kind = REQUEST_DROP;
	args->served = true;
	args->role = GetUserId();
	args->database = oid;
	args->lease = clone.lease;
	args->let_left = true;
	namestrcpy(&args->database_name, stmt->dbname);
	return NULL;
}

/*
 * Report whether a database to be dropped has sessions or prepared
 * transactions.
 */
static bool
is_in_use(const RequestArgs *args)
{
	return CountDBBackends(args->database) > 0 ||
		database_count_prepared(NameStr(args->database_name)) > 0;
}

/*
 * Wait until a database to be dropped has no sessions and no prepared
 * transactions, at most until deadline.  With force its sessions are
 * terminated, except that those whose clients have just disconnected may
 * first exit by themselves.
 *
 * Errors: 55006, as core's; with force those of TerminateOtherDBBackends.
 */
static void
wait_for_leaving(const RequestArgs *args, bool force, TimestampTz deadline)
{
	int			nsessions;
	int			nprepared;

	if (CountDBBackends(args->database) > 0)
		database_let_leave(args->database);
	if (force && is_in_use(args))
		TerminateOtherDBBackends(args->database);
	for (;;)
	{
		if (CountDBBackends(args->database) > 0)
			database_let_leave(args->database);
		nsessions = CountDBBackends(args->database);
		nprepared = database_count_prepared(NameStr(args->database_name));
		if (nsessions == 0 && nprepared == 0)
			return;
		if (GetCurrentTimestamp() >= deadline)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("database \"%s\" is being accessed by other users",
							NameStr(args->database_name)),
					 handout_errdetail_busy(nsessions, nprepared)));
		database_end_autovacuum(args->database);
		pg_usleep(1000);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * After a worker has failed to drop a database: report whether it was dropped
 * nevertheless, which happens if the worker fails after the lease is
 * UNWANTED.
 */
static bool
was_dropped(const RequestArgs *args)
{
	wait_for_removal(args->database);
	return !OidIsValid(find_name(NameStr(args->database_name)));
}

/*
 * Serve a DROP DATABASE statement; false if it must be passed on to core.
 *
 * Errors: 55006 if the database remains in use; those of request_try_perform.
 */
static bool
serve_drop(const DropdbStmt *stmt)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz leave_deadline = TimestampTzPlusMilliseconds(now, LEAVE_TIMEOUT);
	TimestampTz deadline = TimestampTzPlusMilliseconds(now, testdb_timeout);
	RequestArgs args;
	RequestResult result;
	bool		force;
	const char *reason = decide_drop(stmt, &args, &force);
	char	   *failure;

	if (reason)
		return pass_on(InvalidOid, "DROP DATABASE", reason);
	PreventInTransactionBlock(true, "DROP DATABASE");
	do
	{
		wait_for_leaving(&args, force, leave_deadline);
		failure = request_try_perform(&args, deadline, &result);
		if (!failure && result.missing &&
			OidIsValid(find_name(NameStr(args.database_name))) &&
			handout_await_rewind(&args, deadline))
			result.busy = true;
		else if (failure || result.missing)
			return was_dropped(&args) ||
				pass_on(InvalidOid, "DROP DATABASE",
						failure ? failure : "it no longer exists, or was replaced");
	} while (result.busy);
	return true;
}

/*
 * Report whether CREATE and DROP DATABASE can be executed in this context: as
 * a statement of its own, outside of a transaction block.  Elsewhere core
 * raises an error.
 */
static bool
is_executable(ProcessUtilityContext context)
{
	return IsUnderPostmaster && context == PROCESS_UTILITY_TOPLEVEL &&
		!IsTransactionBlock() && !IsSubTransaction() &&
		!RecoveryInProgress() && !XactReadOnly && !IsInParallelMode();
}

/*
 * Report whether a command may be served in this context.
 */
static bool
may_serve(ProcessUtilityContext context)
{
	return testdb_serve_create_database && is_executable(context);
}

/*
 * Return the OID of the template that a DROP DATABASE statement names;
 * InvalidOid if it has no entry as a template, or nothing can be done about
 * it in this state.
 */
static Oid
find_dropped_template(const DropdbStmt *stmt)
{
	Oid			oid;

	if (!IsUnderPostmaster || !IsTransactionState() || RecoveryInProgress())
		return InvalidOid;
	oid = find_name(stmt->dbname);
	return OidIsValid(oid) && registry_is_template(oid) ? oid : InvalidOid;
}

/*
 * After DROP DATABASE of a template: remove its spares and snapshot, and wait
 * for that, at most testdb.lock_timeout.  The drop may not be committed yet,
 * but cannot be rolled back, so no error may be raised here: a cancel only
 * ends the wait.  What is left then, or after a failure, will be removed by
 * workers.
 */
static void
clear_template(Oid oid)
{
	static uint32 wait_event = 0;
	uint32		event = wait_event_compat(&wait_event, "TestdbDropped");
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   testdb_lock_timeout);

	CommandCounterIncrement();
	AcceptInvalidationMessages();
	if (SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(oid)))
		return;
	HOLD_INTERRUPTS();
	debug_point("template-dropped");
	while (registry_forget_template(oid) > 0)
	{
		request_wake_workers();
		if (QueryCancelPending || ProcDiePending || request_workers_running() == 0 ||
			GetCurrentTimestamp() >= deadline)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 2,
						 event);
		ResetLatch(MyLatch);
		if (ProcSignalBarrierPending)
			ProcessProcSignalBarrier();
	}
	QueryCancelPending = false;
	snapshot_remove(oid);
	debug_point("template-cleared");
	RESUME_INTERRUPTS();
	SetLatch(MyLatch);
}

/*
 * Return the name of the database whose files a statement copies, or NULL.
 */
static const char *
get_copied_database(Node *stmt)
{
	ListCell   *lc;

	if (IsA(stmt, CreatedbStmt))
		return get_template_name((CreatedbStmt *) stmt);
	if (!IsA(stmt, AlterDatabaseStmt))
		return NULL;
	foreach(lc, ((AlterDatabaseStmt *) stmt)->options)
	{
		if (strcmp(lfirst_node(DefElem, lc)->defname, "tablespace") == 0)
			return ((AlterDatabaseStmt *) stmt)->dbname;
	}
	return NULL;
}

/*
 * Report whether the current user may execute a statement that copies this
 * database, so that core will not reject it for lack of a privilege, or for a
 * name that is in use.
 */
static bool
may_copy(Node *stmt, const char *copied)
{
	SourceRow	source;

	if (IsA(stmt, CreatedbStmt))
		return may_create_databases() && read_source(copied, &source) &&
			source.usable &&
			!OidIsValid(get_database_oid(((CreatedbStmt *) stmt)->dbname, true));
	return database_ownercheck_compat(get_database_oid(copied, true), GetUserId());
}

/*
 * If a statement copies a clone whose reset or rewind was interrupted, or that
 * is being rewound, wait until it is restored.  Returns the clone's OID; or
 * InvalidOid if what is copied is no clone, or must not be copied.
 *
 * Errors: 57P03 if it is not restored before the deadline; interrupts.
 */
static Oid
await_restored(Node *stmt, const char *copied, TimestampTz deadline)
{
	RequestArgs args = {0};
	TestdbClone clone;

	args.database = find_name(copied);
	if (!OidIsValid(args.database) || !registry_lookup(args.database, &clone) ||
		!may_copy(stmt, copied))
		return InvalidOid;
	args.lease = clone.lease;
	namestrcpy(&args.database_name, copied);
	if ((clone.state != CLONE_REWINDING && !clone.unrestored) ||
		handout_await_rewind(&args, deadline))
		return args.database;

	/* Its content is lost, with its template, and so it is being removed. */
	wait_for_removal(args.database);
	return InvalidOid;
}

/*
 * Wait until a statement can rely on the registry, and on the files of the
 * database that it copies, whether commands are served or not:
 *
 *	- Just after the server's start, until worker 0 has rebuilt the registry,
 *	  for a limited time.  Sessions in the workers' database are let in before.
 *	- As await_restored does.
 *
 * Errors: those of await_restored.
 */
static void
await_state(Node *stmt, ProcessUtilityContext context)
{
	const char *copied = get_copied_database(stmt);

	if ((copied == NULL && !IsA(stmt, DropdbStmt)) || !is_executable(context))
		return;
	start_let();

	/* For one that is being rewound, lock_copied waits. */
	if (copied != NULL && registry_has_unrestored())
		(void) await_restored(stmt, copied,
							  TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														  testdb_timeout));
}

/*
 * Before core executes a statement that copies a clone: lock that, as core
 * does next, when no reset or rewind has left its files torn, so that none
 * does before core has the lock.  The lock is kept until the end of the
 * transaction.
 *
 * Errors: those of await_restored, and of waiting for a lock, as in core.
 */
static void
lock_copied(Node *stmt, ProcessUtilityContext context)
{
	const char *copied = get_copied_database(stmt);
	LOCKMODE	mode = IsA(stmt, CreatedbStmt) ? ShareLock : AccessExclusiveLock;
	TimestampTz deadline;
	Oid			oid;

	if (copied == NULL || !is_executable(context))
		return;
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), testdb_timeout);
	while (OidIsValid(oid = await_restored(stmt, copied, deadline)))
	{
		LockSharedObject(DatabaseRelationId, oid, 0, mode);
		if (find_name(copied) == oid && !registry_is_torn(oid))
			return;
		UnlockSharedObject(DatabaseRelationId, oid, 0, mode);

		/* A worker that ends releases its lock first, then the clone. */
		pg_usleep(10000L);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Serve a command, if it is a suitable CREATE or DROP DATABASE; false if it
 * must be passed on to core.
 */
static bool
serve(Node *stmt, ProcessUtilityContext context)
{
	if (IsA(stmt, CreatedbStmt))
		return may_serve(context) && serve_create((CreatedbStmt *) stmt);
	if (IsA(stmt, DropdbStmt))
		return may_serve(context) && serve_drop((DropdbStmt *) stmt);
	return false;
}

/*
 * ProcessUtility_hook: see the head of this file.
 */
static void
serve_process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
					  ProcessUtilityContext context, ParamListInfo params,
					  QueryEnvironment *env, DestReceiver *dest,
					  QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	Oid			template = InvalidOid;

	await_state(stmt, context);
	if (IsA(stmt, DropdbStmt))
		template = find_dropped_template((DropdbStmt *) stmt);
	if (!serve(stmt, context))
	{
		lock_copied(stmt, context);
		(prev_process_utility ? prev_process_utility : standard_ProcessUtility)
			(pstmt, query, read_only_tree, context, params, env, dest, qc);
	}
	if (OidIsValid(template))
		clear_template(template);
}

/*
 * Install the hook; called once per process, from _PG_init.
 */
void
serve_install_hooks(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = serve_process_utility;
}
