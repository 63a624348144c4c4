/*-------------------------------------------------------------------------
 *
 * relfiles.h
 *	  Finding the relation of a file of a template's snapshot.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_RELFILES_H
#define TESTDB_RELFILES_H

#include "registry.h"

/* A file: its number and its relation. */
typedef struct RelFile
{
	Oid			number;			/* relfilenode, also of mapped relations */
	Oid			oid;			/* the relation */
	char		relkind;
} RelFile;

extern bool relfiles_are_known(const TestdbTemplate *template);
extern const RelFile *relfiles_find(const TestdbTemplate *template, Oid number);

#endif							/* TESTDB_RELFILES_H */
