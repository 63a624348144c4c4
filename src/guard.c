/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  Keeping away from spares whoever finds them in pg_database.
 *
 * Clients are refused as soon as they are authenticated, before they are in
 * the spare, so that they leave nothing there: no pages in shared buffers, no
 * hint bits.  (A background worker that tries is refused later, by core, and
 * the spare is TOUCHED then: see freshness.c.)
 *
 * What a command does to a spare never gets into somebody's clone.  A spare
 * is closed in its row (spare_row.c opens it), but its owner, a superuser,
 * and whoever may alter a role can still alter it by its name.  ALTER
 * DATABASE and ALTER ROLE ... IN DATABASE tell the object access hook of
 * freshness.c, which takes the spare away from those that can be handed out.
 * COMMENT, SECURITY LABEL and GRANT tell nobody; they are met here, and the
 * same is done.  What changes the row in other ways (DROP OWNED, UPDATE) is
 * found by its xmin when the spare is handed out.
 *
 * A database that is just being handed out, restored or made has a state that
 * belongs to another process: there the command is refused.  One that begins
 * before a clone is dropped, and ends after, holds a lock on the database, or
 * its row's, which the worker that drops it waits for.
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

/*
 * Port, without the headers of the libraries that the server was built with:
 * to build extensions they need not be there.  What they would define is a
 * pointer in any case, or comes last, so that Port's members are where they
 * are.
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
#include "request.h"
#include "spares.h"

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
		if (strcmp(port->database_name, testdb_database) != 0)
			request_let_start();
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
 * Take the database of that name, if it is one that nobody has got, away from
 * those that can be handed out, until the end of the transaction; it is removed
 * then.  Nothing happens if there is no such database.
 *
 * Errors: 55000 if some process is at work on it.
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
