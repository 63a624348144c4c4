/*-------------------------------------------------------------------------
 *
 * stats.h
 *	  Statistics.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_STATS_H
#define TESTDB_STATS_H

#include "registry.h"

extern void registry_add_stats(Oid oid, const TemplateStats *stats);
extern void registry_audit(RegistryAudit *audit);
extern void registry_reset_stats(void);
extern void registry_note_error(Oid oid, const char *message);
extern void registry_note_served(Oid oid);
extern void registry_note_passed_on(Oid oid, const char *reason);

#endif							/* TESTDB_STATS_H */
