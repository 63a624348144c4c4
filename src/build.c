/*-------------------------------------------------------------------------
 *
 * build.c
 *	  Templates that are built once, by the first session that needs them.
 *
 * Parallel workers of a test suite start at the same moment and all need the
 * same template.  testdb_template_begin lets one of them build it, and the
 * others wait.  A template is identified by a name and a fingerprint of what
 * it is made from.
 *
 * It is a clone of its base, with a lease (lease.c) that has the name and, as
 * label, the fingerprint.  So it is recorded on disk before it is created,
 * and removed when it should be:
 *
 *	state		lease						registry
 *	building	HELD, of a session			LEASED, session_pid is the builder's
 *	ready		HELD, sealed, of none		LEASED, sealed
 *
 * The session that builds has a claim in shared memory, from before the
 * database is created until it is finished or canceled.  No two claims have
 * the same name and fingerprint; a session that finds one waits on a
 * condition variable until it is released, and checks again.  Claims are
 * released when their session exits, in a before_shmem_exit callback; the
 * exit also makes the session's clones due, so that a worker drops the
 * unfinished database.  The next builder need not wait for that: it chooses a
 * name that is free.  After a server crash there are no claims, and databases
 * with a lease of a session are removed.
 *
 *	step								if the builder ends here
 *	1  claim							nothing; the next is the builder
 *	2  clone, by a worker (clone.c)		the worker drops it
 *	3  claim: the clone's OID, answer	the clone is dropped, as its session ended
 *	4  testdb_template_finish (seal.c)	the same, until the lease is sealed
 *	5  claim released					a finished template
 *
 * The search for a finished template is done first without a claim, then once
 * more with it: since step 5 comes last, a builder that has its claim sees
 * what was finished before.
 *
 * Beyond testdb.kept_templates, the least recently used finished templates of
 * the same name and owner are dropped, except those with clones.
 *
 * Locks: the build lock protects the claims, and is held for microseconds,
 * with no other lock.  Every function here that needs it takes and releases
 * it, unless its comment says otherwise.  Sessions wait without a lock.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "common/hashfn.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "budget.h"
#include "build.h"
#include "compat.h"
#include "database.h"
#include "debug.h"
#include "evict.h"
#include "expiry.h"
#include "functions.h"
#include "handout.h"
#include "job_internal.h"
#include "lease.h"
#include "registry.h"
#include "request.h"
#include "seal.h"
#include "sessions.h"
#include "start.h"
#include "templates.h"
#include "testdb.h"

SQL_FUNCTION(testdb_template_begin);
SQL_FUNCTION(testdb_template_finish);
SQL_FUNCTION(testdb_template_cancel);
SQL_FUNCTION(testdb_template_drop);
SQL_FUNCTION(testdb_builds);

#define BUILD_TRANCHE		"testdb_build"

/* Maximum number of templates being built at one time. */
#define MAX_BUILDS			128

/* Number of spares created when a template is finished. */
#define FIRST_SPARES		2

/* A template being built.  All fields: build lock. */
typedef struct BuildClaim
{
	int			pid;			/* the builder; 0 if the entry is free */
	TimestampTz since;
	NameData	name;
	char		fingerprint[TESTDB_MAX_LABEL + 1];
	NameData	base;			/* name of the template from which it is
								 * created */
	NameData	database_name;	/* "" before it is created */
	Oid			database;		/* InvalidOid before it is created */
	bool		vacuumed;		/* seal.c has vacuumed it */
} BuildClaim;

typedef struct BuildSharedState
{
	LWLock	   *lock;			/* the build lock; never changed */
	ConditionVariable changed;	/* sessions wait here for a claim's end; no
								 * lock */
	BuildClaim	claims[MAX_BUILDS];
} BuildSharedState;

static BuildSharedState *builds = NULL;

/*
 * Reserve shared memory; from shmem_request_hook only.
 */
void
build_shmem_request(void)
{
	RequestAddinShmemSpace(sizeof(BuildSharedState));
	RequestNamedLWLockTranche(BUILD_TRANCHE, 1);
}

/*
 * Create the shared memory, or attach to it; from shmem_startup_hook only,
 * with AddinShmemInitLock held.
 */
void
build_shmem_init(void)
{
	bool		found;

	builds = ShmemInitStruct("testdb builds", sizeof(BuildSharedState), &found);
	if (found)
		return;
	memset(builds, 0, sizeof(*builds));
	builds->lock = &GetNamedLWLockTranche(BUILD_TRANCHE)->lock;
	ConditionVariableInit(&builds->changed);
}

/*
 * Return the claim with this name and fingerprint, or NULL.  The build lock
 * is held.
 */
static BuildClaim *
find_claim(const BuildClaim *wanted)
{
	for (int i = 0; i < MAX_BUILDS; i++)
	{
		BuildClaim *claim = &builds->claims[i];

		if (claim->pid != 0 &&
			strcmp(NameStr(claim->name), NameStr(wanted->name)) == 0 &&
			strcmp(claim->fingerprint, wanted->fingerprint) == 0)
			return claim;
	}
	return NULL;
}

/*
 * Claim a name and fingerprint for this session; false if there is a claim,
 * which is copied to *other.
 *
 * Errors: 53400 if too many templates are being built.
 */
static bool
take_claim(const BuildClaim *wanted, BuildClaim *other)
{
	BuildClaim *claim;
	bool		taken = false;

	LWLockAcquire(builds->lock, LW_EXCLUSIVE);
	claim = find_claim(wanted);
	if (claim != NULL)
		*other = *claim;
	for (int i = 0; claim == NULL && i < MAX_BUILDS && !taken; i++)
		if (builds->claims[i].pid == 0)
		{
			builds->claims[i] = *wanted;
			builds->claims[i].pid = MyProcPid;
			builds->claims[i].since = GetCurrentTimestamp();
			taken = true;
		}
	LWLockRelease(builds->lock);
	if (claim == NULL && !taken)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many templates are being built"),
				 errdetail("At most %d templates can be built at one time.", MAX_BUILDS)));
	return taken;
}

/*
 * Copy the claim with this name and fingerprint to *other; false if there is
 * none.
 */
static bool
read_claim(const BuildClaim *wanted, BuildClaim *other)
{
	BuildClaim *claim;

	LWLockAcquire(builds->lock, LW_SHARED);
	claim = find_claim(wanted);
	if (claim != NULL)
		*other = *claim;
	LWLockRelease(builds->lock);
	return claim != NULL;
}

/*
 * Release the claims of a process (0: any), for the database with this OID
 * (InvalidOid: any), or this name if it is not NULL, and wake waiting
 * sessions.  Returns the number of claims released.
 */
static int
release_claims(int pid, Oid database, const char *database_name)
{
	int			n = 0;

	LWLockAcquire(builds->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_BUILDS; i++)
	{
		BuildClaim *claim = &builds->claims[i];

		if (claim->pid == 0 || (pid != 0 && claim->pid != pid) ||
			(OidIsValid(database) && claim->database != database) ||
			(database_name && strcmp(NameStr(claim->database_name), database_name) != 0))
			continue;
		memset(claim, 0, sizeof(*claim));
		n++;
	}
	LWLockRelease(builds->lock);
	if (n > 0)
		ConditionVariableBroadcast(&builds->changed);
	return n;
}

/*
 * Release this session's claim with this name and fingerprint, which has no
 * database yet.
 */
static void
give_up_claim(const BuildClaim *wanted)
{
	BuildClaim *claim;

	LWLockAcquire(builds->lock, LW_EXCLUSIVE);
	claim = find_claim(wanted);
	if (claim != NULL && claim->pid == MyProcPid)
		memset(claim, 0, sizeof(*claim));
	LWLockRelease(builds->lock);
	ConditionVariableBroadcast(&builds->changed);
}

/*
 * Record the database of this session's claim.
 */
static void
set_claim_database(const BuildClaim *wanted, const RequestResult *made)
{
	BuildClaim *claim;

	LWLockAcquire(builds->lock, LW_EXCLUSIVE);
	claim = find_claim(wanted);
	if (claim != NULL && claim->pid == MyProcPid)
	{
		claim->database = made->oid;
		claim->database_name = made->name;
	}
	LWLockRelease(builds->lock);
}

/*
 * Record that a database that is being built has been vacuumed; called by the
 * process that has done so.
 */
void
build_note_vacuumed(Oid database)
{
	LWLockAcquire(builds->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_BUILDS; i++)
		if (builds->claims[i].pid != 0 && builds->claims[i].database == database)
			builds->claims[i].vacuumed = true;
	LWLockRelease(builds->lock);
}

/*
 * Report whether that was recorded.
 */
static bool
is_vacuumed(Oid database)
{
	bool		vacuumed = false;

	LWLockAcquire(builds->lock, LW_SHARED);
	for (int i = 0; i < MAX_BUILDS; i++)
		vacuumed = vacuumed || (builds->claims[i].pid != 0 &&
								builds->claims[i].database == database &&
								builds->claims[i].vacuumed);
	LWLockRelease(builds->lock);
	return vacuumed;
}

/*
 * before_shmem_exit callback: release this session's claims, so that other
 * sessions can build the templates.
 */
static void
build_exit(int code pg_attribute_unused(), Datum arg pg_attribute_unused())
{
	ConditionVariableCancelSleep();
	(void) release_claims(MyProcPid, InvalidOid, NULL);
}

/*
 * Fill *wanted with the name and fingerprint in the first two arguments of a
 * function; all other fields are zero.
 *
 * Errors: 22004, 42602, 22001, 22023.
 */
static void
get_build_arguments(FunctionCallInfo fcinfo, BuildClaim *wanted)
{
	char	   *fingerprint;

	memset(wanted, 0, sizeof(*wanted));
	namestrcpy(&wanted->name, get_name_argument(fcinfo, 0, "template name"));
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("fingerprint must not be null")));
	fingerprint = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (fingerprint[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("fingerprint must not be empty")));
	if (strlen(fingerprint) > TESTDB_MAX_LABEL)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("fingerprint is too long"),
				 errdetail("It has %zu bytes; a fingerprint has at most %d.",
						   strlen(fingerprint), TESTDB_MAX_LABEL),
				 errhint("Use a hash of it.")));
	strlcpy(wanted->fingerprint, fingerprint, sizeof(wanted->fingerprint));
}

/*
 * Report whether a clone is a finished template with this name, and this
 * fingerprint unless that is "".  Fills *info with its present row.
 */
static bool
is_ready(const TestdbClone *clone, const BuildClaim *wanted, DatabaseInfo *info)
{
	return clone->terms.sealed && clone->state == CLONE_LEASED &&
		strcmp(NameStr(clone->terms.build), NameStr(wanted->name)) == 0 &&
		(wanted->fingerprint[0] == '\0' ||
		 strcmp(clone->terms.label, wanted->fingerprint) == 0) &&
		database_lookup(clone->oid, info);
}

/*
 * Find the finished template with this name and fingerprint, record its use,
 * and check that the caller may clone it; false if there is none.
 *
 * Errors: those of get_template.
 */
static bool
find_ready(const BuildClaim *wanted, Name database)
{
	TestdbClone *clones;
	DatabaseInfo info;
	uint64		lease;
	int			n;

	AcceptInvalidationMessages();
	clones = registry_list_builds(&n);
	for (int i = 0; i < n; i++)
		if (is_ready(&clones[i], wanted, &info))
		{
			(void) get_template(NameStr(info.name), &lease);
			registry_note_build_used(clones[i].oid);
			*database = info.name;
			pfree(clones);
			return true;
		}
	pfree(clones);
	return false;
}

/*
 * Describe the builder, for the detail of an error: process, user,
 * application, start time.
 */
static char *
describe_builder(const BuildClaim *claim)
{
	StringInfoData buf;
	int			n;

	initStringInfo(&buf);
	appendStringInfo(&buf, "Process %d", claim->pid);
	pgstat_clear_backend_activity_snapshot();
	n = pgstat_fetch_stat_numbackends();
	for (int i = 1; i <= n; i++)
	{
		PgBackendStatus *status = &pgstat_local_beentry_compat(i)->backendStatus;
		char	   *user;

		if (status->st_procpid != claim->pid)
			continue;
		user = OidIsValid(status->st_userid) ?
			GetUserNameFromId(status->st_userid, true) : NULL;
		if (user)
			appendStringInfo(&buf, " of user \"%s\"", user);
		if (status->st_appname && status->st_appname[0])
			appendStringInfo(&buf, " (application \"%s\")", status->st_appname);
	}
	appendStringInfo(&buf, " has been building it since %s.",
					 timestamptz_to_str(claim->since));
	return buf.data;
}

/*
 * Raise the error that a template is being built.
 */
static void
report_being_built(const BuildClaim *claim)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("template \"%s\" is being built", NameStr(claim->name)),
			 errdetail_internal("%s", describe_builder(claim)),
			 claim->pid == MyProcPid ?
			 errhint("That is this session: call testdb_template_finish or testdb_template_cancel first.") :
			 errhint("The template can be used once that session has called testdb_template_finish; if it ends first, call testdb_template_begin again. See \"%s\".",
					 "testdb.timeout")));
}

/*
 * Sleep until there is no claim to this name and fingerprint.
 *
 * Errors: 55006 after the deadline; interrupts.
 */
static void
wait_for_builder(const BuildClaim *wanted, TimestampTz deadline)
{
	static uint32 wait_event = 0;
	uint32		event = wait_event_compat(&wait_event, "TestdbTemplateBuild");
	BuildClaim	other;

	ConditionVariablePrepareToSleep(&builds->changed);
	while (read_claim(wanted, &other))
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
														   deadline);

		if (left <= 0)
		{
			ConditionVariableCancelSleep();
			report_being_built(&other);
		}
		(void) ConditionVariableTimedSleep(&builds->changed, left, event);
	}
	ConditionVariableCancelSleep();
}

/*
 * Report whether a name is that of a database, or of one that a worker is
 * creating, whose row is not visible yet, which may be for a builder that has
 * failed.
 */
static bool
is_name_taken(const char *name)
{
	TestdbClone *clones;
	bool		taken = OidIsValid(find_database(name));
	int			n;

	clones = registry_list(&n);
	for (int i = 0; i < n && !taken; i++)
		taken = (clones[i].state == CLONE_CREATING || clones[i].state == CLONE_GARBAGE ||
				 clones[i].state == CLONE_REMOVING) &&
			strcmp(NameStr(clones[i].name), name) == 0;
	pfree(clones);
	return taken;
}

/*
 * Choose a name for the database of a template, in *name: the template's, and
 * a hash of the fingerprint.  If that is taken (by one that is being dropped,
 * or whose fingerprint has the same hash), a serial number is added.
 */
static void
choose_build_name(const BuildClaim *wanted, NameData *name)
{
	char		suffix[16];
	int			len;

	snprintf(suffix, sizeof(suffix), "_%08x",
			 hash_bytes((const unsigned char *) wanted->fingerprint,
						strlen(wanted->fingerprint)));
	len = pg_mbcliplen(NameStr(wanted->name), strlen(NameStr(wanted->name)),
					   NAMEDATALEN - 1 - strlen(suffix));
	memset(name, 0, sizeof(*name));
	snprintf(NameStr(*name), NAMEDATALEN, "%.*s%s", len, NameStr(wanted->name), suffix);
	if (is_name_taken(NameStr(*name)))
	{
		NameData	taken = *name;

		choose_name(NameStr(taken), name);
	}
}

/*
 * Create the database of a template that this session has a claim to.
 *
 * Errors: those of testdb_clone.
 */
static void
make_database(const BuildClaim *wanted, Name database)
{
	RequestArgs args;
	RequestResult result;

	memset(&args, 0, sizeof(args));
	args.kind = REQUEST_CLONE;
	args.role = GetUserId();
	args.method = testdb_method;
	args.database_name = wanted->base;
	args.database = get_template(NameStr(wanted->base), &args.lease);
	args.name_given = true;
	choose_build_name(wanted, &args.name);
	args.terms.session_pid = MyProcPid;
	args.terms.build = wanted->name;
	strlcpy(args.terms.label, wanted->fingerprint, sizeof(args.terms.label));
	args.role_limit = testdb_max_clones_per_role;
	check_role_limit(args.role);
	perform_with_template(&args, args.database, NameStr(wanted->base), &result);
	set_claim_database(wanted, &result);
	*database = result.name;
}

/*
 * Find a finished template, waiting for one that is being built; or become
 * its builder, and return true with a database to build it in.
 */
static bool
find_or_build(const BuildClaim *wanted, TimestampTz deadline, Name database)
{
	BuildClaim	other;
	volatile bool build = false;

	while (!find_ready(wanted, database))
	{
		if (!take_claim(wanted, &other))
		{
			if (other.pid == MyProcPid)
				report_being_built(&other);
			wait_for_builder(wanted, deadline);
			continue;
		}
		PG_TRY();
		{
			debug_point("build-claimed");
			build = !find_ready(wanted, database);
			if (build)
				make_database(wanted, database);
		}
		PG_CATCH();
		{
			give_up_claim(wanted);
			PG_RE_THROW();
		}
		PG_END_TRY();
		if (!build)
			give_up_claim(wanted);
		break;
	}
	return build;
}

/*
 * testdb_template_begin(name text, fingerprint text, base text,
 *						 OUT database name, OUT build boolean)
 */
Datum
testdb_template_begin(PG_FUNCTION_ARGS)
{
	static bool registered = false;
	TimestampTz deadline =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), testdb_timeout);
	BuildClaim	wanted;
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false};
	NameData	database;
	bool		build;

	check_usable("testdb_template_begin()");
	get_build_arguments(fcinfo, &wanted);
	namestrcpy(&wanted.base, PG_ARGISNULL(2) ? "template1" :
			   get_name_argument(fcinfo, 2, "base name"));
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!registered)
		before_shmem_exit(build_exit, (Datum) 0);
	registered = true;
	register_session_scope();
	start_wait(deadline);

	build = find_or_build(&wanted, deadline, &database);
	values[0] = NameGetDatum(&database);
	values[1] = BoolGetDatum(build);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values,
													  nulls)));
}

/*
 * Raise the error that there is no such database.
 */
static void
report_no_database(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_DATABASE),
			 errmsg("database \"%s\" does not exist", name)));
}

/*
 * Find the database named by argument 0, of a template being built, check
 * that the caller may finish or cancel it, and fill *args; false if there is
 * no such database.
 *
 * Errors: those of check_owned; 42809 if it is not one of
 * testdb_template_begin, 55000 if it is finished, 55006 if the session is in
 * it.
 */
static bool
get_build_request(FunctionCallInfo fcinfo, RequestKind kind, RequestArgs *args)
{
	TestdbClone clone;
	char	   *name = get_name_argument(fcinfo, 0, "database name");

	memset(args, 0, sizeof(*args));
	args->kind = kind;
	args->role = GetUserId();
	args->method = testdb_method;
	namestrcpy(&args->database_name, name);
	args->database = find_database(name);
	if (!OidIsValid(args->database))
		return false;
	start_await();
	args->lease = check_owned(args->database, name);
	if (!registry_lookup(args->database, &clone) || clone.lease != args->lease)
		report_no_database(name);
	if (NameStr(clone.terms.build)[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("database \"%s\" was not created by testdb_template_begin", name)));
	if (clone.terms.sealed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("template \"%s\" is finished", name),
				 errhint("Use testdb_template_drop to drop it.")));
	if (args->database == MyDatabaseId)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot finish or cancel the currently open database"),
				 errhint("Connect to another database, such as \"%s\".",
						 testdb_database)));
	return true;
}

/*
 * Raise the error that a database to be finished has sessions.
 */
static void
report_still_used(const RequestArgs *args, int nprepared)
{
	char	   *sessions = database_describe_sessions(args->database);

	if (sessions == NULL && nprepared > 0)
		sessions = psprintf(ngettext("There is %d prepared transaction using the database.",
									 "There are %d prepared transactions using the database.",
									 nprepared),
							nprepared);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("template \"%s\" is being accessed by other users",
					NameStr(args->database_name)),
			 sessions ? errdetail_internal("%s", sessions) : 0,
			 errhint("A template can be finished when nobody is connected to it. testdb_template_finish waited %d ms; see \"%s\" and \"%s\".",
					 testdb_template_timeout, "testdb.template_timeout",
					 "testdb.end_template_sessions")));
}

/*
 * Vacuum a database without sessions; a WARNING if that fails.
 */
static void
vacuum_build(const RequestArgs *args)
{
	if (seal_vacuum(args->database) && is_vacuumed(args->database))
		return;
	CHECK_FOR_INTERRUPTS();
	ereport(WARNING,
			(errmsg("template \"%s\" could not be vacuumed",
					NameStr(args->database_name)),
			 errhint("See the server log for the reason. You might need to increase \"%s\".",
					 "max_worker_processes")));
}

/*
 * Have a worker finish a template, as soon as it has no sessions.
 *
 * Errors: 3D000 if it no longer exists; 55006 if it still has sessions after
 * testdb.template_timeout; those of request_perform.
 */
static void
finish_build(const RequestArgs *args)
{
	TimestampTz now = GetCurrentTimestamp();
	RequestResult result = {0};
	TemplateWait wait = {
		.template = args->database,
		.name = NameStr(args->database_name),
		.deadline = TimestampTzPlusMilliseconds(now, Max(testdb_timeout, testdb_template_timeout)),
		.template_deadline = TimestampTzPlusMilliseconds(now, testdb_template_timeout),
		.pause_ms = 1,
	};
	bool		vacuumed = false;

	for (;;)
	{
		if (CountDBBackends(args->database) > 0)
		{
			database_let_leave(args->database);
			database_end_autovacuum(args->database);
		}
		if ((result.nprepared > 0 || CountDBBackends(args->database) > 0) &&
			!evict_or_wait(&wait, result.nprepared))
			report_still_used(args, result.nprepared);
		if (!vacuumed)
			vacuum_build(args);
		vacuumed = true;
		request_perform(args,
						TimestampTzPlusMilliseconds(GetCurrentTimestamp(), testdb_timeout),
						&result);
		if (result.missing)
			report_no_database(NameStr(args->database_name));
		if (!result.busy)
			return;
		if (GetCurrentTimestamp() >= wait.template_deadline)
			report_still_used(args, result.nprepared);
	}
}

/*
 * Create the first spares of a finished template, as far as possible.  The
 * session that has finished it may well take them.
 */
static void
make_first_spares(const RequestArgs *template)
{
	RequestArgs args = *template;
	RequestResult result;
	char	   *failure;

	if (testdb_method != TESTDB_METHOD_NATIVE || testdb_spares == 0)
		return;
	args.kind = REQUEST_SPARE;
	args.lease = registry_lease(args.database);
	for (args.wanted = 1; args.wanted <= Min(FIRST_SPARES, testdb_spares); args.wanted++)
	{
		if (!budget_allows_spare(args.database))
			return;
		failure = request_try_perform(&args,
									  TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
																  testdb_timeout),
									  &result);
		if (failure)
			ereport(LOG,
					(errmsg("could not create a spare: %s", failure)));
		if (failure || result.busy || result.missing)
			return;
		if (OidIsValid(result.oid))
			lease_open_ahead(result.oid);
	}
}

/*
 * For qsort: templates, most recently used first.
 */
static int
compare_use(const void *a, const void *b)
{
	const TestdbClone *left = a;
	const TestdbClone *right = b;

	if (left->used_at != right->used_at)
		return left->used_at > right->used_at ? -1 : 1;
	if (left->created_at != right->created_at)
		return left->created_at > right->created_at ? -1 : 1;
	return 0;
}

/*
 * Report whether a template has clones that are in use, or about to be.
 */
static bool
has_clones(Oid oid)
{
	TestdbTemplate template;

	return registry_template(oid, &template) &&
		template.nclones[CLONE_LEASED] + template.nclones[CLONE_DROPPING] +
		template.nclones[CLONE_REWINDING] + template.nclones[CLONE_CREATING] > 0;
}

/*
 * Drop surplus finished templates of a name and owner, least recently used
 * first.  Failures are logged, and retried the next time.
 */
static void
drop_old_templates(const BuildClaim *wanted, Oid owner)
{
	TestdbClone *clones;
	int			nkept = 0;
	int			n;

	if (testdb_kept_templates == 0)
		return;
	clones = registry_list_builds(&n);
	qsort(clones, n, sizeof(TestdbClone), compare_use);
	for (int i = 0; i < n; i++)
	{
		DatabaseInfo info;
		RequestArgs args;
		RequestResult result;
		char	   *failure;

		if (clones[i].owner != owner || !is_ready(&clones[i], wanted, &info) ||
			nkept++ < testdb_kept_templates || has_clones(clones[i].oid) ||
			clones[i].oid == MyDatabaseId)
			continue;
		memset(&args, 0, sizeof(args));
		args.kind = REQUEST_DROP;
		args.role = owner;
		args.database = clones[i].oid;
		args.lease = clones[i].lease;
		args.database_name = info.name;
		failure = request_try_perform(&args,
									  TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
																  testdb_timeout),
									  &result);
		ereport(LOG,
				(failure ?
				 errmsg("could not drop template \"%s\": %s", NameStr(info.name), failure) :
				 errmsg("dropped template \"%s\", which was the least recently used",
						NameStr(info.name)),
				 errdetail("Its fingerprint was \"%s\".", clones[i].terms.label),
				 errhint("See \"%s\".", "testdb.kept_templates")));
	}
}

/*
 * testdb_template_finish(database text) returns void
 */
Datum
testdb_template_finish(PG_FUNCTION_ARGS)
{
	RequestArgs args;
	TestdbClone clone;
	BuildClaim	wanted;

	check_usable("testdb_template_finish()");
	if (!get_build_request(fcinfo, REQUEST_SEAL, &args))
		report_no_database(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	finish_build(&args);
	(void) release_claims(0, args.database, NULL);
	debug_point("build-finished");
	make_first_spares(&args);

	memset(&wanted, 0, sizeof(wanted));
	if (registry_lookup(args.database, &clone))
	{
		wanted.name = clone.terms.build;
		drop_old_templates(&wanted, clone.owner);
	}
	PG_RETURN_VOID();
}

/*
 * testdb_template_cancel(database text) returns void
 */
Datum
testdb_template_cancel(PG_FUNCTION_ARGS)
{
	RequestArgs args;
	RequestResult result;

	check_callable("testdb_template_cancel()");
	if (!get_build_request(fcinfo, REQUEST_DROP, &args))
	{
		/* It was dropped already; end the waiting for it. */
		if (release_claims(MyProcPid, InvalidOid, NameStr(args.database_name)) == 0)
			report_no_database(NameStr(args.database_name));
		PG_RETURN_VOID();
	}
	perform(&args,
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), testdb_timeout),
			&result);
	(void) release_claims(0, args.database, NULL);
	PG_RETURN_VOID();
}

/*
 * testdb_template_drop(name text, fingerprint text) returns bigint
 */
Datum
testdb_template_drop(PG_FUNCTION_ARGS)
{
	TimestampTz deadline =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), testdb_timeout);
	BuildClaim	wanted;
	BuildClaim	other;
	TestdbClone *clones;
	int64		ndropped = 0;
	int			n;

	check_callable("testdb_template_drop()");
	if (PG_ARGISNULL(1))
	{
		memset(&wanted, 0, sizeof(wanted));
		namestrcpy(&wanted.name, get_name_argument(fcinfo, 0, "template name"));
	}
	else
		get_build_arguments(fcinfo, &wanted);
	start_wait(deadline);
	if (wanted.fingerprint[0] != '\0' && read_claim(&wanted, &other))
		report_being_built(&other);

	AcceptInvalidationMessages();
	clones = registry_list_builds(&n);
	for (int i = 0; i < n; i++)
	{
		DatabaseInfo info;
		RequestArgs args;
		RequestResult result;

		if (!is_ready(&clones[i], &wanted, &info))
			continue;
		if (wanted.fingerprint[0] == '\0' && !has_privs_of_role(GetUserId(), info.owner))
			continue;
		memset(&args, 0, sizeof(args));
		args.kind = REQUEST_DROP;
		args.role = GetUserId();
		args.database = clones[i].oid;
		args.lease = check_owned(clones[i].oid, NameStr(info.name));
		args.database_name = info.name;
		perform(&args, deadline, &result);
		ndropped += !result.missing;
	}
	PG_RETURN_INT64(ndropped);
}

/*
 * Emit a row of testdb_builds(); claim is NULL for a finished template, clone
 * for one whose database does not exist yet.
 */
static void
put_build(ReturnSetInfo *rsinfo, const BuildClaim *claim, const TestdbClone *clone)
{
	Datum		values[8];
	bool		nulls[8] = {false};

	nulls[0] = claim && !OidIsValid(claim->database);
	values[0] = ObjectIdGetDatum(claim ? claim->database : clone->oid);
	values[1] = NameGetDatum(claim ? &claim->name : &clone->terms.build);
	values[2] = CStringGetTextDatum(claim ? claim->fingerprint : clone->terms.label);
	values[3] = CStringGetTextDatum(claim ? "building" : "ready");
	nulls[4] = claim == NULL;
	values[4] = Int32GetDatum(claim ? claim->pid : 0);
	values[5] = NameGetDatum(claim ? &claim->base : &clone->template_name);
	nulls[6] = nulls[7] = claim != NULL;
	values[6] = TimestampTzGetDatum(claim ? 0 : clone->created_at);
	values[7] = TimestampTzGetDatum(claim ? 0 : clone->used_at);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * testdb_builds(): one row per template that is being built, or was.
 */
Datum
testdb_builds(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	BuildClaim *claims = palloc_array(BuildClaim, MAX_BUILDS);
	TestdbClone *clones;
	int			n;

	testdb_check_library();
	start_await_for_view();
	InitMaterializedSRF(fcinfo, 0);

	LWLockAcquire(builds->lock, LW_SHARED);
	memcpy(claims, builds->claims, sizeof(builds->claims));
	LWLockRelease(builds->lock);
	for (int i = 0; i < MAX_BUILDS; i++)
		if (claims[i].pid != 0)
			put_build(rsinfo, &claims[i], NULL);

	clones = registry_list_builds(&n);
	for (int i = 0; i < n; i++)
		if (clones[i].terms.sealed && clones[i].state == CLONE_LEASED)
			put_build(rsinfo, NULL, &clones[i]);
	return (Datum) 0;
}
