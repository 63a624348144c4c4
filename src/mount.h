/*-------------------------------------------------------------------------
 *
 * mount.h
 *	  With what options a file system is mounted.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_MOUNT_H
#define TESTDB_MOUNT_H

#include <stdbool.h>
#include <sys/types.h>

extern bool mount_has_option(const char *table, dev_t device, const char *type,
							 const char *option);

#endif							/* TESTDB_MOUNT_H */
