/*-------------------------------------------------------------------------
 *
 * spares.h
 *	  The number of clones kept ready, and the sessions that wait for them.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_SPARES_H
#define TESTDB_SPARES_H

#include "registry.h"

extern bool registry_has_returned(void);
extern bool registry_is_spare(const char *name);
extern bool registry_take_touched(TestdbClone *clone);

/* spares */
extern SpareResult registry_take_spare(const SpareWish *wish, TestdbClone *clone,
									   SpareRefill *refill);
extern void registry_note_miss(Oid template_oid, Oid owner);
extern bool registry_wait_for_spare(Oid template_oid, Oid owner,
									void (*wake) (void), long timeout_ms);
extern void registry_announce_spare(Oid template_oid);
extern void registry_announce_look(void);
extern void registry_stand_by(long *delay_ms);
extern void registry_note_created(void);
extern bool registry_return(TestdbClone *clone, bool *wake);
extern bool registry_should_restore(long *delay_ms);
extern bool registry_may_log_refill(Oid template_oid, int sqlstate);
extern bool registry_next_refill(uint64 left, Oid *template_oid, Oid *owner);
extern bool registry_lacks_spares(void);
extern int	registry_purge_role(Oid role, const List *oids);
extern void registry_want_spares(Oid template_oid, Oid owner, int wanted);
extern void registry_want_none(Oid template_oid, Oid owner);
extern void registry_limit_spares(Oid template_oid, int limit);
extern bool registry_lower_demand(void);
extern bool registry_take_stale_spare(Oid template_oid, Oid owner,
									  TestdbClone *clone);
extern int	registry_count_spares(Oid template_oid, Oid owner, bool created);
extern bool registry_wants_clone_back(Oid template_oid, Oid owner);

#endif							/* TESTDB_SPARES_H */
