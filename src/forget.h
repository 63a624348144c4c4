/*-------------------------------------------------------------------------
 *
 * forget.h
 *	  Making other libraries forget the previous uses of databases.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_FORGET_H
#define TESTDB_FORGET_H

extern bool forget_previous_uses(const Oid *oids, int n, char **message);

#endif							/* TESTDB_FORGET_H */
