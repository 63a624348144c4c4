/*-------------------------------------------------------------------------
 *
 * room.h
 *	  Computing the space needed to restore a directory from a snapshot.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_ROOM_H
#define TESTDB_ROOM_H

#include "filesync.h"

extern bool room_to_restore(const FilesyncManifest *manifest, const char *dir,
							const FilesyncNames *names,
							uint64_t *bytes, uint64_t *files);
extern void room_to_refresh(const FilesyncManifest *manifest,
							const FilesyncManifest *old,
							uint64_t *bytes, uint64_t *files);

#endif							/* TESTDB_ROOM_H */
