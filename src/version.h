/*-------------------------------------------------------------------------
 *
 * version.h
 *	  Checking that the library and the extension have the same version.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_VERSION_H
#define TESTDB_VERSION_H

extern void version_check(void);
extern void version_install_hooks(void);

#endif							/* TESTDB_VERSION_H */
