/*-------------------------------------------------------------------------
 *
 * views.c
 *	  Set-returning functions behind the views.
 *
 * They return copies of the entries in shared memory; the views join them
 * with pg_database, so that a clone that was renamed or dropped with plain
 * SQL is shown as it is now.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "database.h"
#include "guc.h"
#include "registry.h"
#include "request.h"
#include "start.h"
#include "stats.h"
#include "templates.h"
#include "testdb.h"

SQL_FUNCTION(testdb_clones);
SQL_FUNCTION(testdb_templates);
SQL_FUNCTION(testdb_stats);
SQL_FUNCTION(testdb_audit);

/* The number of sessions of a database. */
typedef struct SessionCount
{
	Oid			database;		/* hash key */
	int			count;
} SessionCount;

/*
 * Count the sessions of every database, in one pass over the backend status
 * array.  Returns a hash table of SessionCount in the current memory context.
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
 * Put a time, or NULL if it is 0.
 */
static void
put_time(Datum *value, bool *null, TimestampTz time)
{
	*value = TimestampTzGetDatum(time);
	*null = time == 0;
}

/*
 * Report whether the current user may see a clone's sessions and label, by
 * the rules of pg_stat_activity.
 */
static bool
may_see(const TestdbClone *clone)
{
	DatabaseInfo info;

	if (!database_lookup(clone->oid, &info))
		return false;
	return has_privs_of_role(GetUserId(), info.owner) ||
		has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}

/*
 * testdb_clones(): one row per database created by testdb.  After a server
 * start it waits until the registry has been rebuilt.
 */
Datum
testdb_clones(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TestdbClone *clones;
	HTAB	   *counts;
	int			n;

	testdb_check_library();
	start_await_for_view();
	InitMaterializedSRF(fcinfo, 0);

	counts = count_sessions();
	clones = registry_list(&n);
	for (int i = 0; i < n; i++)
	{
		TestdbClone *clone = &clones[i];
		Datum		values[10];
		bool		nulls[10] = {false};
		SessionCount *sessions = hash_search(counts, &clone->oid, HASH_FIND, NULL);

		values[0] = ObjectIdGetDatum(clone->oid);
		values[1] = ObjectIdGetDatum(clone->template_oid);
		values[2] = NameGetDatum(&clone->template_name);
		put_time(&values[3], &nulls[3], clone->created_at);
		values[4] = Int32GetDatum(sessions ? sessions->count : 0);
		values[5] = CStringGetTextDatum(clone->state == CLONE_LEASED &&
										NameStr(clone->terms.build)[0] != '\0' ?
										"template" :
										clone->state == CLONE_REWINDING && clone->unrestored ?
										"interrupted" : clone_state_name(clone->state));
		values[6] = CStringGetTextDatum(clone->terms.database ? "database" :
										clone->terms.session_pid ? "session" : "manual");
		values[7] = Int32GetDatum(clone->terms.session_pid);
		nulls[7] = clone->terms.session_pid == 0;
		put_time(&values[8], &nulls[8], clone->expires_at);
		values[9] = CStringGetTextDatum(clone->terms.label);
		nulls[9] = clone->terms.label[0] == '\0';
		if (clone->state != CLONE_LEASED && clone->state != CLONE_DROPPING &&
			clone->state != CLONE_REWINDING)
			nulls[6] = nulls[7] = nulls[8] = nulls[9] = true;
		if (!may_see(clone))
			nulls[4] = nulls[7] = nulls[9] = true;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * Return the state of a template's snapshot, in a word.
 */
static const char *
describe_state(const TestdbTemplate *template)
{
	if (template->obstacle[0] != '\0')
		return "copied by CREATE DATABASE";
	if (!template->has_snapshot)
		return "no snapshot";
	if (template->damaged)
		return "damaged";
	if (registry_behind(template, NULL, NULL) & BEHIND_COMMITS)
		return "changed since";
	return "current";
}

/*
 * Return the method by which a template is cloned, as a value of
 * testdb.method.
 */
static const char *
method_in_use(const TestdbTemplate *template)
{
	if (template->obstacle[0] == '\0')
		return "native";
	return database_core_method() == TESTDB_METHOD_WAL_LOG ? "wal_log" : "file_copy";
}

/*
 * testdb_templates(): one row per known template.
 */
Datum
testdb_templates(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TestdbTemplate *templates;
	int			n;

	testdb_check_library();
	start_await_for_view();
	InitMaterializedSRF(fcinfo, 0);

	templates = registry_list_templates(&n);
	for (int i = 0; i < n; i++)
	{
		TestdbTemplate *template = &templates[i];
		TemplateSpace space;
		Datum		values[19];
		bool		nulls[19] = {false};
		int			c = 0;

		values[c++] = ObjectIdGetDatum(template->oid);
		values[c++] = CStringGetTextDatum(method_in_use(template));
		nulls[c] = template->obstacle[0] == '\0';
		values[c++] = CStringGetTextDatum(template->obstacle);
		values[c++] = CStringGetTextDatum(describe_state(template));
		values[c++] = Int64GetDatum((int64) template->generation);
		values[c++] = Int32GetDatum(template->nclones[CLONE_LEASED]);
		values[c++] = Int32GetDatum(template->nclones[CLONE_SPARE]);
		values[c++] = Int32GetDatum(template->wanted);
		values[c++] = Int32GetDatum(template->nclones[CLONE_RETURNED] +
									template->nclones[CLONE_RESTORING]);
		for (int k = c; k < c + 3; k++)
			nulls[k] = template->taken_at == 0;
		values[c++] = Int32GetDatum(template->files);
		values[c++] = Int64GetDatum((int64) template->bytes);
		values[c++] = TimestampTzGetDatum(template->taken_at);
		nulls[c] = template->last_error[0] == '\0';
		values[c++] = CStringGetTextDatum(template->last_error);
		values[c++] = Int64GetDatum(template->stats.served);
		values[c++] = Int64GetDatum(template->stats.passed_on);
		nulls[c] = template->passed_on_reason[0] == '\0';
		values[c++] = CStringGetTextDatum(template->passed_on_reason);
		template_get_space(template, &space);
		values[c++] = Int64GetDatum((int64) space.snapshot);
		values[c++] = Int64GetDatum((int64) space.spares);
		values[c++] = Int64GetDatum((int64) space.clones);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * Convert microseconds to the milliseconds of a statistics view.
 */
static Datum
milliseconds(int64 us)
{
	return Float8GetDatum(us / 1000.0);
}

/*
 * testdb_stats(): one row per known template.
 */
Datum
testdb_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TestdbTemplate *templates;
	int			n;

	testdb_check_library();
	start_await_for_view();
	InitMaterializedSRF(fcinfo, 0);

	templates = registry_list_templates(&n);
	for (int i = 0; i < n; i++)
	{
		TemplateStats *stats = &templates[i].stats;
		TemplateSpace space;
		Datum		values[18];
		bool		nulls[18] = {false};
		int			c = 0;

		values[c++] = ObjectIdGetDatum(templates[i].oid);
		values[c++] = Int64GetDatum(stats->clones);
		values[c++] = Int64GetDatum(stats->hits);
		values[c++] = Int64GetDatum(stats->misses);
		values[c++] = Int64GetDatum(stats->copies);
		values[c++] = Int64GetDatum(stats->recycled);
		values[c++] = Int64GetDatum(stats->drops);
		values[c++] = Int64GetDatum(stats->reaped);
		values[c++] = Int64GetDatum(stats->files);
		values[c++] = Int64GetDatum(stats->bytes);
		values[c++] = milliseconds(stats->copy_us);
		values[c++] = milliseconds(stats->recycle_us);
		values[c++] = milliseconds(stats->drop_us);
		values[c++] = milliseconds(stats->snapshot_us);
		values[c++] = Int64GetDatum(stats->rewinds);
		values[c++] = Int64GetDatum(stats->rewind_waits);
		values[c++] = milliseconds(stats->rewind_us);
		template_get_space(&templates[i], &space);
		values[c++] = Int64GetDatum((int64) (space.snapshot + space.spares + space.clones));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * testdb_audit() returns text: a check of shared memory.  Each pair is the
 * value of a counter or list, and the number of entries found.
 *
 * The extension does not declare it; tests, and debugging sessions, can.
 */
Datum
testdb_audit(PG_FUNCTION_ARGS pg_attribute_unused())
{
	RegistryAudit audit;
	int			nused;
	int			nlost;

	testdb_check_library();
	registry_audit(&audit);
	request_audit(&nused, &nlost);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("requests %d lost %d waiting %d clones %d=%d states %d=%d spares %d=%d coming %d=%d garbage %d=%d returned %d=%d touched %d=%d owners %d=%d",
											  nused, nlost, audit.nwaiting,
											  audit.nclones[0], audit.nclones[1],
											  audit.nstates[0], audit.nstates[1],
											  audit.nspares[0], audit.nspares[1],
											  audit.ncoming[0], audit.ncoming[1],
											  audit.ngarbage[0], audit.ngarbage[1],
											  audit.nreturned[0], audit.nreturned[1],
											  audit.ntouched[0], audit.ntouched[1],
											  audit.nowners[0], audit.nowners[1])));
}
