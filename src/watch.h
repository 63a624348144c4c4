/*-------------------------------------------------------------------------
 *
 * watch.h
 *	  Watching which files of a clone change.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_WATCH_H
#define TESTDB_WATCH_H

#include "utils/hsearch.h"
#include "filesync.h"
#include "registry.h"

/* A directory that this process watches. */
typedef struct Watch
{
	int			wd;				/* watch descriptor; hash key */
	Oid			oid;			/* the clone */
	bool		broken;			/* changes may have been missed */
	bool		renewed;		/* a relation's file was created or removed */
	FilesyncNames *names;		/* what has changed; NULL if broken from the
								 * beginning */
} Watch;

extern HTAB *watches;

extern Watch *watch_find(Oid oid);
extern bool is_watched(Oid oid);
extern void watch_init(void);
extern void watch_drain(void);
extern const FilesyncNames *watch_names(const TestdbClone *clone,
										const TestdbTemplate *template);
extern void watch_restart(Oid oid);
extern const FilesyncNames *watch_current(Oid oid);

#endif							/* TESTDB_WATCH_H */
