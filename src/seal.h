/*-------------------------------------------------------------------------
 *
 * seal.h
 *	  Finishing a template that has been built.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_SEAL_H
#define TESTDB_SEAL_H

#include "request.h"

extern void seal_template(const RequestArgs *args, RequestResult *result);
extern bool seal_vacuum(Oid database);

#endif							/* TESTDB_SEAL_H */
