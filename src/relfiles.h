/*-------------------------------------------------------------------------
 *
 * relfiles.h
 *	  Which relation a file of a template's snapshot belongs to.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_RELFILES_H
#define TESTDB_RELFILES_H

#include "registry.h"

/* What is known of a file: the file's number, and whose it is. */
typedef struct RelFile
{
	Oid			number;			/* relfilenode, also of mapped relations */
	Oid			oid;			/* the relation */
	char		relkind;
} RelFile;

extern bool relfiles_are_known(const TestdbTemplate *template);
extern const RelFile *relfiles_find(const TestdbTemplate *template, Oid number);

#endif							/* TESTDB_RELFILES_H */
