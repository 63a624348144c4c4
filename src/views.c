/*-------------------------------------------------------------------------
 *
 * views.c
 *	  Set-returning functions behind the views.
 *
 * They show copies of what is in shared memory; the views join them with
 * pg_database, so that a clone that was renamed or dropped with plain SQL is
 * shown as it is now.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "registry.h"
#include "testdb.h"

SQL_FUNCTION(testdb_clones);
SQL_FUNCTION(testdb_templates);

/* How many sessions a database has. */
typedef struct SessionCount
{
	Oid			database;		/* hash key */
	int			count;
} SessionCount;

/*
 * Count the sessions in every database, in one pass over the server's table of
 * them: a hash table of SessionCount in the current memory context.
 */
static HTAB *
count_sessions(void)
{
	HASHCTL		info;
	HTAB	   *counts;
	int			n;

	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(Oid);
	info.entrysize = sizeof(SessionCount);
	info.hcxt = CurrentMemoryContext;
	counts = hash_create("testdb session counts", 64, &info,
						 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	n = pgstat_fetch_stat_numbackends();
	for (int i = 1; i <= n; i++)
	{
		PgBackendStatus *status = &pgstat_local_beentry_compat(i)->backendStatus;
		SessionCount *entry;
		bool		found;

		if (status->st_backendType != B_BACKEND)
			continue;
		entry = hash_search(counts, &status->st_databaseid, HASH_ENTER, &found);
		entry->count = found ? entry->count + 1 : 1;
	}
	return counts;
}

/*
 * testdb_clones(): one row per clone that is handed out.
 */
Datum
testdb_clones(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TestdbClone *clones;
	HTAB	   *counts;
	int			n;

	testdb_check_preloaded();
	InitMaterializedSRF(fcinfo, 0);

	counts = count_sessions();
	clones = registry_list(&n);
	for (int i = 0; i < n; i++)
	{
		Datum		values[5];
		bool		nulls[5] = {false};
		SessionCount *sessions;

		if (clones[i].state != CLONE_LEASED)
			continue;
		sessions = hash_search(counts, &clones[i].oid, HASH_FIND, NULL);
		values[0] = ObjectIdGetDatum(clones[i].oid);
		values[1] = ObjectIdGetDatum(clones[i].template_oid);
		values[2] = NameGetDatum(&clones[i].template_name);
		values[3] = TimestampTzGetDatum(clones[i].created_at);
		values[4] = Int32GetDatum(sessions ? sessions->count : 0);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * What can be said of a template's snapshot, in a word.
 */
static const char *
describe_state(const TestdbTemplate *template)
{
	if (template->obstacle[0] != '\0')
		return "copied by CREATE DATABASE";
	if (!template->has_snapshot)
		return "no snapshot";
	if (template->generation != template->snapshot_generation)
		return "changed since";
	return "current";
}

/*
 * testdb_templates(): one row per template that is known.
 */
Datum
testdb_templates(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TestdbTemplate *templates;
	int			n;

	testdb_check_preloaded();
	InitMaterializedSRF(fcinfo, 0);

	templates = registry_list_templates(&n);
	for (int i = 0; i < n; i++)
	{
		TestdbTemplate *template = &templates[i];
		Datum		values[11];
		bool		nulls[11] = {false};
		int			c = 0;

		values[c++] = ObjectIdGetDatum(template->oid);
		values[c++] = CStringGetTextDatum(template->obstacle[0] ? "file_copy" : "native");
		nulls[c] = template->obstacle[0] == '\0';
		values[c++] = CStringGetTextDatum(template->obstacle);
		values[c++] = CStringGetTextDatum(describe_state(template));
		values[c++] = Int64GetDatum((int64) template->generation);
		values[c++] = Int32GetDatum(template->nclones[CLONE_LEASED]);
		values[c++] = Int32GetDatum(template->nclones[CLONE_SPARE]);
		values[c++] = Int32GetDatum(template->nclones[CLONE_RETURNED] +
									template->nclones[CLONE_RESTORING]);
		for (int k = c; k < c + 3; k++)
			nulls[k] = template->taken_at == 0;
		values[c++] = Int32GetDatum(template->files);
		values[c++] = Int64GetDatum((int64) template->bytes);
		values[c++] = TimestampTzGetDatum(template->taken_at);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
