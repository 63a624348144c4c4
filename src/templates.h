/*-------------------------------------------------------------------------
 *
 * templates.h
 *	  Templates: their snapshots, and whether clones are up to date.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_TEMPLATES_H
#define TESTDB_TEMPLATES_H

#include "registry.h"

/* How far a template's snapshot is behind: see registry_behind. */
#define BEHIND_MISSING		0x01	/* there is no snapshot */
#define BEHIND_COMMITS		0x02	/* something was committed in the template */
#define BEHIND_UNVERIFIED	0x04	/* its files may have changed without a
									 * commit */
#define BEHIND_ROW			0x08	/* its row or configuration parameters
									 * have changed */
#define BEHIND_CONTENT		(BEHIND_MISSING | BEHIND_COMMITS)

/* How far a clone is behind the snapshot. */
#define BEHIND_CLONE_FILES	0x10
#define BEHIND_CLONE_ROW	0x20
#define BEHIND_CLONE		(BEHIND_CLONE_FILES | BEHIND_CLONE_ROW)

/* templates */
extern int	registry_behind(const TestdbTemplate *template, const TemplateRow *row,
							const TestdbClone *clone);
extern bool registry_template(Oid oid, TestdbTemplate *template);
extern uint64 registry_row_version(Oid oid, const TemplateRow *row);
extern bool registry_enter_template(Oid oid, Oid *evicted);
extern void registry_set_snapshot(const TestdbTemplate *template, bool verified);
extern void registry_clear_snapshot(Oid oid, const char *obstacle);
extern bool registry_set_damaged(Oid oid);
extern int	registry_forget_template(Oid oid);
extern TestdbTemplate *registry_list_templates(int *ntemplates);
extern bool template_has_clones(const TestdbTemplate *template);
extern void template_get_space(const TestdbTemplate *template, TemplateSpace *space);
extern uint64 registry_kept_bytes(Oid template_oid);
extern bool registry_drop_idle_snapshot(Oid oid);
extern bool registry_is_template(Oid oid);
extern uint32 registry_epoch(void);
extern void registry_template_changed(Oid oid);
extern void registry_settings_changed(void);
extern uint64 registry_settings_generation(void);
extern void registry_settings_prepared(void);
extern uint64 registry_settings_in_doubt(void);
extern void registry_settings_settled(uint64 doubt);
extern void registry_template_left(Oid oid);

#endif							/* TESTDB_TEMPLATES_H */
