/*-------------------------------------------------------------------------
 *
 * victims.h
 *	  What is given up when there is no room.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_VICTIMS_H
#define TESTDB_VICTIMS_H

#include "registry.h"

extern bool registry_take_victim(Oid spared_template, Oid spared_owner,
								 TestdbClone *clone, bool *coming);
extern bool registry_take_template_victim(Oid template_oid, TestdbClone *clone,
										  bool *coming);
extern bool registry_let_go(Oid *oid);

#endif							/* TESTDB_VICTIMS_H */
