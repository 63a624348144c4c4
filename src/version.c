/*-------------------------------------------------------------------------
 *
 * version.c
 *	  Checking that the library and the extension have the same version.
 *
 * The library is loaded when the server starts, and serves every database.
 * Which functions there are, with which arguments, is recorded in each
 * database that has the extension, when CREATE EXTENSION or ALTER EXTENSION
 * UPDATE runs a script.  After an upgrade the one may be ahead of the other,
 * until the server has been restarted and the extension updated; calling into
 * a mismatched library would be undefined.  So both must have the same
 * version.  The library's is TESTDB_VERSION, which the Makefile takes from
 * the control file.
 *
 * That is checked in three places:
 *
 *	- Each function checks it when it is called.  The result is remembered until
 *	  an extension is created, altered or dropped in the session's database.
 *	  Catalog changes of that kind send no invalidation messages, so an object
 *	  access hook does: it invalidates the relation cache's entry of
 *	  pg_extension, in every session of the database when the change is
 *	  committed.
 *	- The hook checks it before a function of ours is looked up in the library,
 *	  which may not have it, unless it is known that the versions are the same.
 *	- The hook checks it before the script of a newer version is run, since that
 *	  may declare functions that the library does not have.  An older version
 *	  is accepted: it may be the first step of an update.  Creating the
 *	  extension means using it, so the hook calls uninstall.c, too.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "uninstall.h"
#include "version.h"

static object_access_hook_type prev_object_access_hook = NULL;

/*
 * The number of possible changes of extensions seen by this session, and that
 * number when the versions were last found to be the same.
 */
static uint64 nchanges = 1;
static uint64 fits_as_of = 0;

/*
 * Return the version of the extension testdb in this database, palloc'd, as
 * seen by a snapshot (NULL: a current one); NULL if it has none.  Sets *oid
 * to its OID.
 */
static char *
read_extension_version(Snapshot snapshot, Oid *oid)
{
	char	   *version = NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Relation	rel;

	*oid = InvalidOid;
	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("testdb"));
	rel = table_open(ExtensionRelationId, AccessShareLock);
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_pg_extension_extversion,
										 RelationGetDescr(rel), &isnull);

		*oid = ((Form_pg_extension) GETSTRUCT(tuple))->oid;
		if (!isnull)
			version = TextDatumGetCString(value);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return version;
}

/*
 * Report whether a version is newer than the library's.  Numbers are compared
 * as such, from left to right, whatever separates them.
 */
static bool
is_newer(const char *version)
{
	const char *library = TESTDB_VERSION;

	while (*version != '\0' && *library != '\0')
	{
		char	   *version_end;
		char	   *library_end;
		unsigned long a = strtoul(version, &version_end, 10);
		unsigned long b = strtoul(library, &library_end, 10);

		if (a != b)
			return a > b;
		version = *version_end ? version_end + 1 : version_end;
		library = *library_end ? library_end + 1 : library_end;
	}
	return *version != '\0';
}

/*
 * Raise the error that the extension has another version than the library.
 */
static void
report_mismatch(const char *version)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("extension \"%s\" and its library have different versions", "testdb"),
			 errdetail("The extension has version %s, the loaded library version %s.",
					   version, TESTDB_VERSION),
			 is_newer(version) ?
			 errhint("Install version %s of the library if necessary, and restart the server.",
					 version) :
			 errhint("Run ALTER EXTENSION %s UPDATE to update the extension.", "testdb")));
}

/*
 * Raise an error, 55000, unless the extension in this database, if there is
 * one, has the library's version.
 *
 * Costs next to nothing, except at a session's first call and after changes.
 */
void
version_check(void)
{
	uint64		as_of;
	char	   *version;
	Oid			oid;

	/* A session in a transaction may not have accepted any for a while. */
	AcceptInvalidationMessages();
	as_of = nchanges;
	if (fits_as_of == as_of)
		return;
	version = read_extension_version(NULL, &oid);
	if (version != NULL)
	{
		if (strcmp(version, TESTDB_VERSION) != 0)
			report_mismatch(version);
		pfree(version);
	}

	/* Changes made while it was being read are checked next time. */
	fits_as_of = as_of;
}

/*
 * A relation cache callback: extensions may have changed.
 */
static void
version_relcache_callback(Datum arg pg_attribute_unused(), Oid relid)
{
	if (relid == ExtensionRelationId || relid == InvalidOid)
		nchanges++;
}

/*
 * Report whether a function is in the library according to the catalog.
 */
static bool
is_library_function(Oid oid)
{
	const char *suffix = "/testdb";
	HeapTuple	tuple;
	bool		found = false;

	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
	if (!HeapTupleIsValid(tuple))
		return false;
	if (((Form_pg_proc) GETSTRUCT(tuple))->prolang == ClanguageId)
	{
		bool		isnull;
		Datum		value = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_probin, &isnull);

		if (!isnull)
		{
			char	   *file = TextDatumGetCString(value);
			size_t		length = strlen(file);

			found = length >= strlen(suffix) &&
				strcmp(file + length - strlen(suffix), suffix) == 0;
			pfree(file);
		}
	}
	ReleaseSysCache(tuple);
	return found;
}

/*
 * object_access_hook: see the head of this file.
 *
 * For an extension it is called after the row in pg_extension is written, and
 * before the script runs.  pg_upgrade inserts rows without running any
 * script: functions check it later.
 */
static void
version_object_access(ObjectAccessType access, Oid class_id, Oid object_id,
					  int sub_id, void *arg)
{
	char	   *version;
	Oid			oid;

	if (prev_object_access_hook)
		prev_object_access_hook(access, class_id, object_id, sub_id, arg);

	if (access == OAT_FUNCTION_EXECUTE)
	{
		if (fits_as_of != nchanges && object_id >= FirstNormalObjectId &&
			is_library_function(object_id))
			version_check();
		return;
	}
	if (class_id != ExtensionRelationId)
		return;
	if (access == OAT_POST_CREATE || access == OAT_POST_ALTER || access == OAT_DROP)
		CacheInvalidateRelcacheByRelid(ExtensionRelationId);
	if ((access == OAT_POST_CREATE || access == OAT_POST_ALTER) && !IsBinaryUpgrade)
	{
		version = read_extension_version(SnapshotSelf, &oid);
		if (version != NULL && oid == object_id && is_newer(version))
			report_mismatch(version);
		if (access == OAT_POST_CREATE && version != NULL && oid == object_id)
			uninstall_undo();
	}
}

/*
 * Install the hook and the callback; called once per process, from _PG_init.
 */
void
version_install_hooks(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = version_object_access;
	CacheRegisterRelcacheCallback(version_relcache_callback, (Datum) 0);
}
