/*-------------------------------------------------------------------------
 *
 * expiry.h
 *	  Expiry of leases.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_EXPIRY_H
#define TESTDB_EXPIRY_H

#include "registry.h"

/* leases */
extern void registry_apply_terms(TestdbClone *clone, const LeaseTerms *terms);
extern void registry_end_session(int pid);
extern bool registry_touch(Oid oid);
extern void registry_note_build_used(Oid oid);
extern bool registry_take_expired(TestdbClone *clone, long *delay_ms);
extern void registry_extend(Oid oid, int seconds);
extern bool registry_note_failure(Oid oid, uint32 hash, int *delay);
extern bool registry_has_failed(Oid oid);

#endif							/* TESTDB_EXPIRY_H */
