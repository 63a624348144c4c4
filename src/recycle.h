/*-------------------------------------------------------------------------
 *
 * recycle.h
 *	  Restoring returned clones for reuse.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_RECYCLE_H
#define TESTDB_RECYCLE_H

#include "utils/hsearch.h"

#include "filesync.h"
#include "registry.h"

extern void recycle_returned(void);
extern bool recycle_is_stuck(void);
extern bool recycle_end_barrier(void);
extern void recycle_note_stuck(const char *detail);
extern void recycle_postpone(void);
extern long recycle_pause(void);
extern bool recycle_is_possible(void);
extern void recycle_forget(void);
extern void recycle_publish(void);
extern void recycle_abandon(void);
extern void recycle_listen(void);
extern bool recycle_is_locked(Oid oid);
extern void recycle_check_barrier(void);
extern bool recycle_update_spare(TestdbClone *clone,
								 const TestdbTemplate *template);

extern bool recycle_needs_barrier(const TestdbClone *clone);
extern void recycle_add_changed(HTAB *relations, const Oid *oids, int n);
extern void recycle_log_restored(const TestdbClone *clone);
extern bool recycle_end_restoring(void);

#endif							/* TESTDB_RECYCLE_H */
