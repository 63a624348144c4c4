/*-------------------------------------------------------------------------
 *
 * uri.h
 *	  Connection URIs for clones.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_URI_H
#define TESTDB_URI_H

#include "utils/guc.h"

extern bool uri_check(char **newval, void **extra, GucSource source);

#endif							/* TESTDB_URI_H */
