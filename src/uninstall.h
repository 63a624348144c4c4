/*-------------------------------------------------------------------------
 *
 * uninstall.h
 *	  Removing spares and snapshots from a server, before testdb is removed.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_UNINSTALL_H
#define TESTDB_UNINSTALL_H

extern void uninstall_restore(void);
extern void uninstall_undo(void);

#endif							/* TESTDB_UNINSTALL_H */
