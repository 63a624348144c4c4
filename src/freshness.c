/*-------------------------------------------------------------------------
 *
 * freshness.c
 *	  Noticing what changes a template, and who connects to a spare.
 *
 * Every process that is connected to a database calls a transaction callback
 * before it commits, the first time at the end of its own start.  What the
 * callback does, in a database that is a template:
 *
 *	- If the transaction has a transaction ID, or is being prepared, the
 *	  template's generation goes up.  That is before the commit can be seen by
 *	  anybody, so that who has seen it gets no older clone.  Between the two
 *	  nobody can take a new snapshot, since this session is in the template.
 *	  If the commit then fails, the snapshot is compared with the template once
 *	  too often.
 *	- If only maintenance wrote in it (VACUUM, ANALYZE, autovacuum; see below),
 *	  nothing has changed that a query could tell: clones of the state before
 *	  go on being handed out, and the template is marked as unverified, so that
 *	  it is looked at when nobody is in it.
 *	- If it has none, it may still have changed files: nextval() within what
 *	  it has logged ahead, hint bits, VACUUM.  When the session ends, the
 *	  template is marked as unverified.
 *
 * What counts as maintenance.  A transaction counts as a user's unless all of
 * it is known to be something else: it is run by an autovacuum worker, or by
 * VACUUM or ANALYZE as a client's own statement outside a transaction block,
 * begun before the transaction had an ID; and neither the executor, nor
 * another utility statement, nor a function that is not built in has been
 * started in it.  Those commands use none of these themselves, so what does
 * is the user's code, such as a function in an index expression, which may
 * write, or the next statement of a pipeline.  VACUUM runs many transactions,
 * and each is judged by itself.  VACUUM FULL, CLUSTER and REINDEX build
 * indexes anew from what the user's functions return now, so that queries may
 * find other rows: they count as a user's change.
 *
 * In a clone that has not been handed out the session is refused.  In one that
 * has, the registry is told when a session begins and ends.
 *
 * Whether the database is a template is found out at the first call and
 * remembered as long as the registry's epoch is the same.  A database becomes
 * a template for us, gets its entry, before its snapshot is taken, which needs
 * that nobody is in it: a session that is in it later has come later, and
 * finds the entry.
 *
 * What other sessions do to a template (ALTER DATABASE, GRANT, DROP) is seen
 * in its row in pg_database when a clone is asked for, except its settings,
 * which are rows of another catalog: an object access hook notes that some
 * have changed, and the callback says so before the commit and after it, so
 * that whoever reads them in between reads them again.  What is prepared first
 * and committed later by another session is not seen then: as long as there may
 * be such a transaction, the settings are read each time.
 *
 * The same hook notes that a template or clone is dropped, makes way when a
 * role is, and gives up a spare that somebody alters or drops.
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
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_proc.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
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
#include "templates.h"

static object_access_hook_type prev_object_access_hook = NULL;
static ExecutorStart_hook_type prev_ExecutorStart_hook = NULL;
static ProcessUtility_hook_type prev_ProcessUtility_hook = NULL;

/* Of this session: is it in a template, as of which epoch? */
static bool in_template = false;
static uint32 known_epoch = 0;

/* Will this session mark its template as unverified when it ends? */
static bool exit_registered = false;

/* Of this session's transaction: what to note when it is committed. */
static bool something_dropped = false;
static bool settings_changed = false;

/* Is a maintenance statement of the client being executed? */
static bool in_maintenance = false;

/*
 * Of this session's transaction: did such a statement begin or end in it, and
 * has anything else been executed in it that may have written?
 */
static bool xact_maintenance = false;
static bool xact_user = false;

/*
 * Spares, or those that were to be, that it has altered or dropped, which go
 * when it ends; TopTransactionContext.
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
 * An on_proc_exit callback of sessions in a database that testdb made, after
 * they have left it.
 */
static void
freshness_left(int code pg_attribute_unused(), Datum arg)
{
	exits_announce(DatumGetObjectId(arg));
}

/*
 * End this session, since its database is not restored yet.
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
 * Refuse to work in this clone, in which the session is, if it has not been
 * handed out.
 *
 * Nothing of the session has been seen by its client yet: this is the
 * transaction in which it starts.  Clients do not get here, since guard.c
 * refuses them before they are in the database, nor does who may not enter a
 * closed database, whose transaction is aborted (see below): it is for
 * background workers that may.
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

	/* What the session may have left there must not be handed out. */
	if (registry_set_state(MyDatabaseId, CLONE_SPARE, CLONE_TOUCHED))
		request_wake_workers();
	ereport(FATAL,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("database \"%s\" has not been handed out by testdb_clone",
					database_lookup(MyDatabaseId, &info) ? NameStr(info.name) : "?"),
			 errdetail("testdb keeps it ready for the next call of testdb_clone.")));
}

/*
 * Refuse to work in a clone whose rewinding was interrupted by a crash of the
 * server, while the registry does not know it yet.
 */
static void
check_not_interrupted(void)
{
	TestdbClone clone;
	LeaseState	state;

	if (lease_read(MyDatabaseId, &clone, &state) && state == LEASE_REWINDING)
		report_unrestored();
}

/*
 * Find out where this session is, at its first transaction and whenever a
 * template has been entered or forgotten.
 */
static void
look_around(void)
{
	bool		first = known_epoch == 0;
	bool		in_clone = false;
	TestdbClone clone;

	known_epoch = registry_epoch();
	if (first && IsUnderPostmaster && !request_is_ready())
		check_not_interrupted();
	if (first && registry_lookup(MyDatabaseId, &clone))
	{
		/* Without a postmaster there are no workers, and no shared memory by then. */
		if (IsUnderPostmaster)
			on_proc_exit(freshness_left, ObjectIdGetDatum(MyDatabaseId));
		check_not_spare(&clone);
		in_clone = registry_touch(MyDatabaseId);
	}
	in_template = registry_is_template(MyDatabaseId);
	if ((in_template || in_clone) && !exit_registered)
	{
		before_shmem_exit(freshness_exit, ObjectIdGetDatum(MyDatabaseId));
		exit_registered = true;
	}
}

/*
 * Tell the registry, after the commit, what the hook below has noted.
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
 * Forget them.  Spares that were altered are free to be removed now, however
 * the transaction ended: nobody has got them meanwhile.
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
 * Report whether all that this transaction has written is maintenance.
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
			if (known_epoch != registry_epoch())
				look_around();
			if (settings_changed)
			{
				registry_settings_changed();
				if (event == XACT_EVENT_PRE_PREPARE)
					registry_settings_prepared(true);
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
			forget_notes();
			break;
		default:
			break;
	}
}

/*
 * A role is being dropped: what is kept ready for it, or in which something
 * is its or was granted to it, must go first, or it would be in the way, and
 * nobody could tell what it is.
 *
 * The workers are given testdb.lock_timeout for that; if they do not manage,
 * DROP ROLE says what is left.
 */
static void
purge_role(Oid role)
{
	static uint32 wait_event = 0;
	TimestampTz start = GetCurrentTimestamp();

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
 * This transaction is going to alter a database, or has: if that is a spare,
 * or about to become one, it is not handed out any more, and goes at the end
 * of the transaction.  False if it is none.
 */
bool
freshness_note_altered(Oid oid)
{
	MemoryContext old;

	if (!registry_set_state(oid, CLONE_SPARE, CLONE_DROPPING) &&
		!registry_set_state(oid, CLONE_RETURNED, CLONE_DROPPING))
		return false;
	old = MemoryContextSwitchTo(TopTransactionContext);
	altered_spares = lappend_oid(altered_spares, oid);
	MemoryContextSwitchTo(old);
	return true;
}

/*
 * object_access_hook: note what is being done to templates and clones.
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

		/* Even FULL false: a value that can't be read is no error of ours. */
		if (strcmp(option->defname, "full") == 0)
			return false;
	}
	return true;
}

/*
 * ProcessUtility_hook: note which transactions are maintenance's.
 */
static void
freshness_ProcessUtility(PlannedStmt *pstmt, const char *query,
						 bool read_only_tree, ProcessUtilityContext context,
						 ParamListInfo params, QueryEnvironment *env,
						 DestReceiver *dest, QueryCompletion *qc)
{
	/* Its value must not be lost by a longjmp. */
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
	/* It may have begun another transaction, which is committed by the caller. */
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
