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

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

/* A mount of a file system. */
typedef struct MountPlace
{
	char		root[PATH_MAX]; /* the mounted directory of the file system */
	char		point[PATH_MAX];	/* where it is mounted */
} MountPlace;

extern bool mount_has_option(const char *table, dev_t device, const char *type,
							 const char *option);
extern bool mount_find(const char *table, const char *type, const char *option,
					   int number, MountPlace *place);

#endif							/* TESTDB_MOUNT_H */
