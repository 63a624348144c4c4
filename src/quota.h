/*-------------------------------------------------------------------------
 *
 * quota.h
 *	  How many clones and templates a role may have.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_QUOTA_H
#define TESTDB_QUOTA_H

#include "registry.h"

extern void registry_check_share(Oid template_oid, Oid role, bool spare);
extern void registry_check_share_with_spare(Oid template_oid, Oid role);
extern int	registry_count_paid(Oid role);
extern bool registry_charge(Oid oid, Oid role, int limit, int *n);

#endif							/* TESTDB_QUOTA_H */
