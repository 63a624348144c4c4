/*-------------------------------------------------------------------------
 *
 * mount.h
 *	  Mounted file systems and their options.
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
extern bool mount_find(const char *table, const char *type, const char *option,
					   char *root, char *point);

#endif							/* TESTDB_MOUNT_H */
