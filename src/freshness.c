/*-------------------------------------------------------------------------
 *
 * freshness.c
 *	  Noticing changes of templates, and connections to spares.
 *
 * Every process that is connected to a database calls a transaction callback
 * before it commits, the first time at the end of its own startup.  In a
 * database that is a template, the callback does this:
 *
 *	- If the transaction has a transaction ID, or is being prepared, the
 *	  template's generation is incremented.  That is done before the commit is
 *	  visible to other sessions, so that a session that has seen it never gets
 *	  an older clone.  Between the two no snapshot can be taken, since this
 *	  session is in the template.  If the commit then fails, the snapshot is
 *	  compared with the template in vain.
 *	- If only maintenance wrote in it (VACUUM, ANALYZE, autovacuum; see below),
 *	  no query result has changed: clones of the previous state are still
 *	  handed out, and the template is marked as unverified, so that its files
 *	  are compared when it has no sessions.
 *	- If it has none, it may still have changed files: nextval() within the
 *	  values logged in advance, hint bits, VACUUM.  When the session ends, the
 *	  template is marked as unverified.
 *
 * What counts as maintenance.  A transaction counts as a user's unless all of
 * it is known to be something else: it is run by an autovacuum worker, or by
 * VACUUM or ANALYZE as a client's own statement outside a transaction block,
 * begun before the transaction had an ID; and neither the executor, nor
 * another utility statement, nor a function that is not built in has been
 * started in it.  Those commands use none of these themselves, so any use is
 * by the user's code, such as a function in an index expression, which may
 * write, or the next statement of a pipeline.  VACUUM runs many transactions,
 * and each is judged by itself.  VACUUM FULL, CLUSTER and REINDEX rebuild
 * indexes from the present results of the user's functions, so that queries
 * may find other rows: they count as a user's change.
 *
 * In a clone that has not been handed out the session is refused.  In one
 * that has been, the session's start and end are recorded in the registry.
 *
 * Whether the database is a template is determined at the first call and
 * remembered as long as the registry's epoch is the same.  A database gets
 * its entry as a template before its snapshot is taken, while nobody is in
 * it: so any session in it later has connected later, and finds the entry.
 *
 * What other sessions do to a template (ALTER DATABASE, GRANT, DROP) is seen
 * in its row in pg_database when a clone is requested, except its settings,
 * which are rows of another catalog: an object access hook notes that some
 * have changed, and the callback reports it before the commit and after it,
 * so that a session which reads them in between reads them again.  A
 * transaction that is prepared first and committed later by another session
 * is not seen then: as long as there may be such a transaction, each request
 * is executed by a worker, which reads the settings.
 *
 * The same hook notes that a template or clone is dropped, removes spares
 * that would prevent DROP ROLE, and gives up a spare that is altered or
 * dropped.
 *
 * Locks: those of registry.c, for an instant.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_proc.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "connect.h"
#include "database.h"
#include "exits.h"
#include "expiry.h"
#include "freshness.h"
#include "gate.h"
#include "guc.h"
#include "lease.h"
#include "registry.h"
#include "request.h"
#include "signals.h"
#include "spares.h"
#include "start.h"
#include "templates.h"

static object_access_hook_type prev_object_access_hook = NULL;
static ExecutorStart_hook_type prev_ExecutorStart_hook = NULL;
static ProcessUtility_hook_type prev_ProcessUtility_hook = NULL;

/* Is this session in a template, as of known_epoch? */
static bool in_template = false;
static uint32 known_epoch = 0;

/* True if it was looked up whether this session is in a clone. */
static bool looked_up = false;

/* True if this session will mark its template as unverified at exit. */
static bool exit_registered = false;

/* What to record when the current transaction is committed. */
static bool something_dropped = false;
static bool settings_changed = false;

/* True while a maintenance statement of the client is executed. */
static bool in_maintenance = false;

/*
 * In the current transaction: such a statement began or ended; anything else
 * was executed that may have written.
 */
static bool xact_maintenance = false;
static bool xact_user = false;

/*
 * Spares, or future ones, that the transaction has altered or dropped, and
 * which are removed at its end; in TopTransactionContext.
 */
static List *altered_spares = NIL;

/*
 * A before_shmem_exit callback of sessions in a template or a clone.
 */
static void
freshness_exit(int code pg_attribute_unused(), Datum arg)
{
	registry_template_left(DatumGetObjectId(arg));
	(void) registry_touch(DatumGetObjectId(arg));
}

/*
 * An on_proc_exit callback of sessions in a database created by testdb, after
 * they have left it.
 */
static void
freshness_left(int code pg_attribute_unused(), Datum arg)
{
	exits_announce(DatumGetObjectId(arg));
}

/*
 * Terminate this session, since its database is not restored yet.
 */
static void
report_unrestored(void)
{
	ereport(FATAL,
			(errcode(ERRCODE_CANNOT_CONNECT_NOW),
			 errmsg("the database is being restored after an interrupted rewind"),
			 errhint("Try again in a moment.")));
}

/*
 * Terminate this session if its database is a clone that has not been handed
 * out.
 *
 * This is the session's first transaction, before its client has received
 * anything.  Clients do not get here, since guard.c refuses them before they
 * are in the database, nor do processes that may not connect to a closed
 * database, whose transaction is aborted (see below): this is for background
 * workers that may.
 */
static void
check_not_spare(const TestdbClone *clone)
{
	DatabaseInfo info;

	if (clone->unrestored)
		report_unrestored();
	if (clone->state != CLONE_SPARE && clone->state != CLONE_TOUCHED &&
		clone->state != CLONE_RETURNED && clone->state != CLONE_RESTORING)
		return;

	/* The session may have left something there: do not hand it out. */
	if (registry_set_state(MyDatabaseId, CLONE_SPARE, CLONE_TOUCHED))
		request_wake_workers();
	ereport(FATAL,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("database \"%s\" has not been handed out by testdb_clone",
					database_lookup(MyDatabaseId, &info) ? NameStr(info.name) : "?"),
			 errdetail("testdb keeps it ready for the next call of testdb_clone.")));
}

/*
 * Terminate this session if it is in a clone whose rewind was interrupted by
 * a server crash, while the registry does not know that yet.
 */
static void
check_not_interrupted(void)
{
	TestdbClone clone;
	LeaseState	state;
	bool		session;

	if (lease_read(MyDatabaseId, &clone, &state, &session) &&
		state == LEASE_REWINDING && !session)
		report_unrestored();
}

/*
 * Determine what this session's database is, at its first transaction and
 * whenever a template has been entered or forgotten; whether it is a clone, at
 * the first one when the registry has been rebuilt.
 */
static void
classify_database(void)
{
	bool		first = known_epoch == 0;
	bool		in_clone = false;
	bool		ready = start_is_ready();
	TestdbClone clone;

	known_epoch = registry_epoch();
	if (first && IsUnderPostmaster && !ready && !RecoveryInProgress())
		check_not_interrupted();
	if (!looked_up && registry_lookup(MyDatabaseId, &clone))
	{
		looked_up = true;
		/* Without postmaster: no workers, and no shared memory at that time. */
		if (IsUnderPostmaster)
			on_proc_exit(freshness_left, ObjectIdGetDatum(MyDatabaseId));
		check_not_spare(&clone);
		in_clone = registry_touch(MyDatabaseId);
	}
	looked_up = looked_up || ready;
	in_template = registry_is_template(MyDatabaseId);
	if ((in_template || in_clone) && !exit_registered)
	{
		before_shmem_exit(freshness_exit, ObjectIdGetDatum(MyDatabaseId));
		exit_registered = true;
	}
}

/*
 * Record in the registry, after the commit, what the hook below has noted.
 */
static void
publish_notes(void)
{
	if (settings_changed)
		registry_settings_changed();
	if (something_dropped)
	{
		registry_set_recheck();
		request_wake_workers();
	}
}

/*
 * Forget them.  Altered spares can be removed now, however the transaction
 * ended, since they were not handed out.
 */
static void
forget_notes(void)
{
	ListCell   *lc;

	foreach(lc, altered_spares)
		(void) registry_set_state(lfirst_oid(lc), CLONE_DROPPING, CLONE_GARBAGE);
	if (altered_spares != NIL)
		request_wake_workers();
	altered_spares = NIL;
	something_dropped = false;
	settings_changed = false;
	xact_maintenance = false;
	xact_user = false;
}

/*
 * Report whether this transaction has written only maintenance.
 */
static bool
is_maintenance(void)
{
	return !xact_user &&
		(in_maintenance || xact_maintenance || is_autovacuum_worker_compat());
}

/*
 * The transaction callback.
 */
static void
freshness_xact_callback(XactEvent event, void *arg pg_attribute_unused())
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			if (!OidIsValid(MyDatabaseId))
				break;
			gate_learn();
			connect_arrived();
			if (known_epoch != registry_epoch() || (!looked_up && start_is_ready()))
				classify_database();
			if (settings_changed)
			{
				registry_settings_changed();
				if (event == XACT_EVENT_PRE_PREPARE)
					registry_settings_prepared();
			}
			if (in_template &&
				(event == XACT_EVENT_PRE_PREPARE ||
				 TransactionIdIsValid(GetTopTransactionIdIfAny())))
			{
				if (event == XACT_EVENT_PRE_COMMIT && is_maintenance())
					registry_template_left(MyDatabaseId);
				else
					registry_template_changed(MyDatabaseId);
			}
			break;
		case XACT_EVENT_COMMIT:
			publish_notes();
			forget_notes();
			break;
		case XACT_EVENT_ABORT:
			if (known_epoch == 0 && OidIsValid(MyDatabaseId) &&
				registry_set_state(MyDatabaseId, CLONE_SPARE, CLONE_TOUCHED))
				request_wake_workers();
			forget_notes();
			break;
		case XACT_EVENT_PREPARE:
			/* Again, since others could not see that it is prepared before. */
			if (settings_changed)
				registry_settings_prepared();
			forget_notes();
			break;
		default:
			break;
	}
}

/*
 * Have the workers remove the spares that belong to a role or depend on it, and
 * wait for that.  They have until start + testdb.lock_timeout.
 */
static void
wait_for_purge(Oid role, TimestampTz start)
{
	static uint32 wait_event = 0;

	while (registry_purge_role(role, database_list_dependents(role)) > 0 &&
		   !TimestampDifferenceExceeds(start, GetCurrentTimestamp(),
									   testdb_lock_timeout))
	{
		request_wake_workers();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 2,
						 wait_event_compat(&wait_event, "TestdbDropRole"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * A role is being dropped: spares that are owned by it, or in which it owns
 * objects or has privileges, must be removed first, since they would prevent
 * that, and users do not know them.
 *
 * A spare that is being created at this moment depends on the role as soon as
 * that is committed.  Its worker holds a lock on the role until then, and DROP
 * ROLE would wait for it later, only to find the spare.  So we wait for that
 * lock first, and look again.  We do not keep it, since a worker might wait for
 * it in the middle of creating a database that we would wait for.
 *
 * The workers have testdb.lock_timeout for that; if it does not suffice, DROP
 * ROLE reports what is left.
 */
static void
purge_role(Oid role)
{
	TimestampTz start;

	/*
	 * Spares from before the server's start are removed, too, when known.  If
	 * worker 0 waits for a row that this session has locked, that ends with
	 * its lock_timeout.
	 */
	start_let();
	start = GetCurrentTimestamp();
	wait_for_purge(role, start);
	LockSharedObject(AuthIdRelationId, role, 0, AccessExclusiveLock);
	UnlockSharedObject(AuthIdRelationId, role, 0, AccessExclusiveLock);
	wait_for_purge(role, start);
}

/*
 * Record that this transaction will alter, or has altered, a database.  If
 * that is a spare, or about to become one, it is no longer handed out, and
 * removed at the end of the transaction; false if not.
 */
bool
freshness_note_altered(Oid oid)
{
	MemoryContext old;

	registry_prepare_to_own();
	if (!registry_set_state(oid, CLONE_SPARE, CLONE_DROPPING) &&
		!registry_set_state(oid, CLONE_RETURNED, CLONE_DROPPING))
		return false;
	old = MemoryContextSwitchTo(TopTransactionContext);
	altered_spares = lappend_oid(altered_spares, oid);
	MemoryContextSwitchTo(old);
	return true;
}

/*
 * object_access_hook: note changes of templates and clones.
 */
static void
freshness_object_access(ObjectAccessType access, Oid class_id, Oid object_id,
						int sub_id, void *arg)
{
	TestdbClone clone;

	if (prev_object_access_hook)
		prev_object_access_hook(access, class_id, object_id, sub_id, arg);

	/* Built-in functions that write are volatile, and can be in no index. */
	if (access == OAT_FUNCTION_EXECUTE && !xact_user &&
		(object_id >= FirstNormalObjectId ||
		 (is_maintenance() && func_volatile(object_id) == PROVOLATILE_VOLATILE)))
		xact_user = true;
	if (access == OAT_DROP && class_id == DatabaseRelationId &&
		(registry_lookup(object_id, &clone) || registry_is_template(object_id)))
		something_dropped = true;
	if ((access == OAT_POST_ALTER || access == OAT_DROP) &&
		(class_id == DatabaseRelationId || class_id == DbRoleSettingRelationId))
		(void) freshness_note_altered(object_id);
	if (access == OAT_DROP && class_id == AuthIdRelationId)
		purge_role(object_id);
	if (class_id == DbRoleSettingRelationId)
		settings_changed = true;
}

/*
 * ExecutorStart_hook: VACUUM and ANALYZE do not use the executor, so this is a
 * user's query.
 */
static void
freshness_ExecutorStart(QueryDesc *query, int eflags)
{
	xact_user = true;
	if (prev_ExecutorStart_hook)
		prev_ExecutorStart_hook(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
}

/*
 * Report whether a statement is VACUUM, without FULL, or ANALYZE, as the
 * client's own, in a transaction that is its alone so far.
 */
static bool
begins_maintenance(const PlannedStmt *pstmt, ProcessUtilityContext context)
{
	ListCell   *lc;

	if (!IsA(pstmt->utilityStmt, VacuumStmt) ||
		context != PROCESS_UTILITY_TOPLEVEL || in_maintenance || xact_user ||
		IsTransactionBlock() || IsSubTransaction() ||
		TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return false;
	foreach(lc, castNode(VacuumStmt, pstmt->utilityStmt)->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		/* Even FULL false: parsing the value might fail. */
		if (strcmp(option->defname, "full") == 0)
			return false;
	}
	return true;
}

/*
 * ProcessUtility_hook: note which transactions are maintenance.
 */
static void
freshness_ProcessUtility(PlannedStmt *pstmt, const char *query,
						 bool read_only_tree, ProcessUtilityContext context,
						 ParamListInfo params, QueryEnvironment *env,
						 DestReceiver *dest, QueryCompletion *qc)
{
	/* Its value must survive a longjmp. */
	ProcessUtility_hook_type volatile next =
		prev_ProcessUtility_hook ? prev_ProcessUtility_hook : standard_ProcessUtility;

	if (!begins_maintenance(pstmt, context))
	{
		xact_user = true;
		next(pstmt, query, read_only_tree, context, params, env, dest, qc);
		return;
	}

	in_maintenance = true;
	xact_maintenance = true;
	PG_TRY();
	{
		next(pstmt, query, read_only_tree, context, params, env, dest, qc);
	}
	PG_FINALLY();
	{
		in_maintenance = false;
	}
	PG_END_TRY();
	/* It may have begun another transaction, which the caller commits. */
	xact_maintenance = true;
}

/*
 * Install the hooks; called once per process, from _PG_init.
 */
void
freshness_install_hooks(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = freshness_object_access;
	prev_ExecutorStart_hook = ExecutorStart_hook;
	ExecutorStart_hook = freshness_ExecutorStart;
	prev_ProcessUtility_hook = ProcessUtility_hook;
	ProcessUtility_hook = freshness_ProcessUtility;
	RegisterXactCallback(freshness_xact_callback, NULL);
}
