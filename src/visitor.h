/*-------------------------------------------------------------------------
 *
 * visitor.h
 *	  Short-lived workers that connect to a database.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_VISITOR_H
#define TESTDB_VISITOR_H

extern bool database_visit(Oid oid, const char *function, const char *name);
extern void database_init_visitor(Oid oid);
extern bool database_rollback_prepared(Oid oid);

#endif							/* TESTDB_VISITOR_H */
