/*-------------------------------------------------------------------------
 *
 * signals.h
 *	  Server-wide flags and counters.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_SIGNALS_H
#define TESTDB_SIGNALS_H

extern void registry_set_recheck(void);
extern bool registry_take_recheck(void);
extern void registry_set_uninstalled(bool uninstalled);
extern bool registry_is_uninstalled(void);
extern void registry_check_installed(void);
extern void registry_set_stuck(bool stuck);
extern bool registry_is_stuck(void);
extern uint32 registry_room_changes(void);
extern void registry_announce_room(void);
extern bool registry_await_room(uint32 changes, long timeout_ms);
extern void registry_count_lease_removal(void);
extern uint32 registry_lease_removals(void);
extern void registry_count_write(void);
extern bool registry_take_writes(uint32 n);

#endif							/* TESTDB_SIGNALS_H */
