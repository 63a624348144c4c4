/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  Protecting spares from sessions that find them in pg_database.
 *
 * Clients are refused as soon as they are authenticated, before they are in
 * the spare, so that they leave nothing there: no pages in shared buffers, no
 * hint bits.  (A background worker is refused later, by core, and the spare
 * is TOUCHED then: see freshness.c.)
 *
 * What a command does to a spare never reaches a clone that is handed out.  A
 * spare is closed in its row (spare_row.c opens it), but its owner,
 * superusers, and roles that may alter a role can still alter it by its name.
 * ALTER DATABASE and ALTER ROLE ... IN DATABASE call the object access hook
 * of freshness.c, which withdraws the spare.  COMMENT, SECURITY LABEL and
 * GRANT do not call it; they are caught here, with the same effect.  Other
 * changes of the row (DROP OWNED, UPDATE) are detected by its xmin when the
 * spare is handed out.
 *
 * While a database is being handed out, restored or created, its state
 * belongs to another process, and the command is refused.  A command that
 * begins before a clone is dropped, and ends after, holds a lock on the
 * database or on its row, which the worker that drops it waits for.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "tcop/utility.h"
#include "utils/timeout.h"

/*
 * Port, without the headers of the libraries that the server was built with,
 * which building an extension does not require.  What they would define is a
 * pointer in any case, or comes last, so the offsets of Port's members are
 * the same.
 */
#undef ENABLE_GSS
#undef USE_OPENSSL
#include "libpq/auth.h"
#include "libpq/libpq-be.h"

#include "connect.h"
#include "freshness.h"
#include "guard.h"
#include "guc.h"
#include "registry.h"
#include "spares.h"
#include "start.h"

static ProcessUtility_hook_type prev_process_utility = NULL;
static ClientAuthentication_hook_type prev_client_authentication = NULL;

/*
 * ClientAuthentication_hook: see the head of this file.
 */
static void
guard_client_authentication(Port *port, int status)
{
	if (prev_client_authentication)
		prev_client_authentication(port, status);

	if (status == STATUS_OK && port->database_name != NULL &&
		port->database_name[0] != '\0')
	{
		if (strcmp(port->database_name, testdb_database) != 0 && !start_is_ready())
		{
			/* The client is authenticated: authentication_timeout is over. */
			disable_timeout(STATEMENT_TIMEOUT, false);
			start_let();
		}
		connect_wait(port->database_name);
	}
	if (status == STATUS_OK && port->database_name != NULL &&
		registry_is_spare(port->database_name))
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("database \"%s\" has not been handed out by testdb_clone",
						port->database_name),
				 errdetail("testdb keeps it ready for the next call of testdb_clone.")));
}

/*
 * Withdraw the database with this name, if it has not been handed out; it is
 * removed at the end of the transaction.  Does nothing if there is no such
 * database.
 *
 * Errors: 55000 if another process is working on it.
 */
static void
guard_database(const char *name)
{
	Oid			oid = get_database_oid(name, true);
	TestdbClone clone;

	if (!OidIsValid(oid) || freshness_note_altered(oid) ||
		!registry_lookup(oid, &clone))
		return;
	if (clone.state == CLONE_CREATING || clone.state == CLONE_RESTORING)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("database \"%s\" has not been handed out by testdb_clone",
						name),
				 errdetail("testdb is still preparing it.")));
}

/*
 * ProcessUtility_hook: see the head of this file.
 */
static void
guard_process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
					  ProcessUtilityContext context, ParamListInfo params,
					  QueryEnvironment *env, DestReceiver *dest,
					  QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;

	if (IsA(stmt, CommentStmt) &&
		((CommentStmt *) stmt)->objtype == OBJECT_DATABASE)
		guard_database(strVal(((CommentStmt *) stmt)->object));
	else if (IsA(stmt, SecLabelStmt) &&
			 ((SecLabelStmt *) stmt)->objtype == OBJECT_DATABASE)
		guard_database(strVal(((SecLabelStmt *) stmt)->object));
	else if (IsA(stmt, GrantStmt) &&
			 ((GrantStmt *) stmt)->objtype == OBJECT_DATABASE)
	{
		ListCell   *lc;

		foreach(lc, ((GrantStmt *) stmt)->objects)
			guard_database(strVal(lfirst(lc)));
	}

	if (prev_process_utility)
		prev_process_utility(pstmt, query, read_only_tree, context, params, env,
							 dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params, env,
								dest, qc);
}

/*
 * Install the hooks; called once per process, from _PG_init.
 */
void
guard_install_hooks(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = guard_process_utility;
	prev_client_authentication = ClientAuthentication_hook;
	ClientAuthentication_hook = guard_client_authentication;
}
