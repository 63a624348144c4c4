/*-------------------------------------------------------------------------
 *
 * freshness.h
 *	  Noticing changes of templates, and connections to spares.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_FRESHNESS_H
#define TESTDB_FRESHNESS_H

extern bool freshness_note_altered(Oid oid);
extern void freshness_install_hooks(void);

#endif							/* TESTDB_FRESHNESS_H */
