/*-------------------------------------------------------------------------
 *
 * guard.h
 *	  Protecting spares from sessions that find them in pg_database.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_GUARD_H
#define TESTDB_GUARD_H

extern void guard_install_hooks(void);

#endif							/* TESTDB_GUARD_H */
