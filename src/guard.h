/*-------------------------------------------------------------------------
 *
 * guard.h
 *	  Keeping away from spares whoever finds them in pg_database.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_GUARD_H
#define TESTDB_GUARD_H

extern void guard_install_hooks(void);

#endif							/* TESTDB_GUARD_H */
