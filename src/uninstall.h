/*-------------------------------------------------------------------------
 *
 * uninstall.h
 *	  Clearing a server of what testdb keeps ready, before it is removed.
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
