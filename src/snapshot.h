/*-------------------------------------------------------------------------
 *
 * snapshot.h
 *	  Private copies of the templates' files.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_SNAPSHOT_H
#define TESTDB_SNAPSHOT_H

#include "filesync.h"
#include "registry.h"

#define TESTDB_SNAPSHOT_DIR		"pg_testdb/snapshots"

/* Sub-object ID of a template's snapshot, in locks: see snapshot.c. */
#define SNAPSHOT_SUBID	1

/* Results of snapshot_ensure. */
typedef enum SnapshotStatus
{
	SNAPSHOT_FRESH,				/* it has what is committed in the template */
	SNAPSHOT_BUSY,				/* it has not, and the template is in use */
	SNAPSHOT_IMPOSSIBLE			/* the native method cannot be used */
} SnapshotStatus;

extern void snapshot_remove_all(void);
extern void snapshot_forget_gone(void);
extern void snapshot_enter_template(Oid oid);
extern void snapshot_check_identity(Oid oid, const char *name, uint64 lease);
extern SnapshotStatus snapshot_ensure(Oid oid, const char *name, uint64 lease,
									  TestdbTemplate *template, int *nprepared);
extern bool snapshot_lock_current(Oid oid, TestdbTemplate *template);
extern bool snapshot_lock(Oid oid, TestdbTemplate *template);
extern bool snapshot_try_lock(Oid oid);
extern bool snapshot_lock_source(const TestdbTemplate *template);
extern bool snapshot_is_intact(const TestdbTemplate *template,
							   const FilesyncNames *names);
extern bool snapshot_copy(const TestdbTemplate *template, Oid clone);
extern void snapshot_room(const TestdbTemplate *template, Oid clone,
						  const FilesyncNames *names, uint64 *bytes, uint64 *files);
extern bool snapshot_restore(const TestdbTemplate *template, Oid clone,
							 const FilesyncNames *names);
extern void snapshot_remove(Oid oid);
extern void snapshot_remove_dir(void);
extern void snapshot_measure(Oid oid, uint64 *bytes, uint64 *files);

extern void snapshot_source_path(const TestdbTemplate *template, char *path);
extern void snapshot_path(Oid oid, const char *suffix, char *path);

#endif							/* TESTDB_SNAPSHOT_H */
