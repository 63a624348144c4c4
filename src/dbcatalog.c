/*-------------------------------------------------------------------------
 *
 * dbcatalog.c
 *	  The rows of databases in the shared catalogs.
 *
 * A clone's row in pg_database is a copy of its template's, except for the
 * few columns that must differ; so are its rows in pg_db_role_setting, and
 * those in pg_shdepend for the objects in it.  It has no comments and no
 * security labels.  A served CREATE DATABASE creates rows without the
 * template's privileges and configuration parameters.
 *
 * Locks.  RowExclusiveLock on the catalogs that are written, as core takes
 * it, and the tuple lock of the row in pg_database.  Callers of functions
 * that write have locked the database.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/multixact.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/indexing.h"
#include "catalog/dependency.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_shdepend.h"
#include "commands/comment.h"
#include "commands/seclabel.h"
#include "commands/vacuum.h"
#include "common/hashfn.h"
#include "nodes/makefuncs.h"
#include "replication/slot.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "compat.h"
#include "database.h"
#include "dbcatalog.h"
#include "registry.h"
#include "sessions.h"
#include "templates.h"

/*
 * Return the connection limit of a template's clones: the template's own,
 * except that 0, which protects a template from changes, is not inherited.
 */
static int32
clone_connection_limit(const FormData_pg_database *template)
{
	return template->datconnlimit == 0 ? DATCONNLIMIT_UNLIMITED : template->datconnlimit;
}

/*
 * Read the fields of a template's current row in pg_database that *row needs;
 * false if there is none.  Any session may call it, in a transaction.
 */
bool
database_read_row(Oid oid, TemplateRow *row)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(oid));
	Form_pg_database form;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_database) GETSTRUCT(tuple);
	row->xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
	row->tid = tuple->t_self;
	row->frozenxid = form->datfrozenxid;
	row->minmxid = form->datminmxid;
	row->clone_limit = clone_connection_limit(form);
	row->closed = !form->datallowconn;
	ReleaseSysCache(tuple);
	return true;
}

/*
 * Report whether the server still has the pg_xact and pg_multixact needed by
 * files that were copied when a template's row was *then.  The horizons of a
 * template's row advance when it is vacuumed; what an older copy needs
 * remains as long as any database needs it.
 *
 * The result stays true until the end of the transaction if
 * database_lock_horizons was called before.  False if the template no longer
 * exists.
 */
bool
database_keeps_horizons(Oid template_oid, const TemplateRow *then)
{
	TemplateRow now;
	TransactionId oldest;
	MultiXactId oldest_multi;
	MultiXactId next_multi;

	if (!database_read_row(template_oid, &now))
		return false;
	if (now.frozenxid == then->frozenxid && now.minmxid == then->minmxid)
		return true;

	LWLockAcquire(XidGenLock, LW_SHARED);
	oldest = TransamVariables->oldestXid;
	LWLockRelease(XidGenLock);
	ReadMultiXactIdRange(&oldest_multi, &next_multi);
	return TransactionIdPrecedesOrEquals(oldest, then->frozenxid) &&
		MultiXactIdPrecedesOrEquals(oldest_multi, then->minmxid);
}

/*
 * Get the horizons for a clone's row: those of the snapshot, from which its
 * files were copied; or if it has none that can be used, those of the
 * template's row.
 */
static void
get_horizons(const FormData_pg_database *template, TransactionId *frozenxid,
			 MultiXactId *minmxid)
{
	TestdbTemplate entry;
	bool		has_snapshot = registry_template(template->oid, &entry) &&
		entry.has_snapshot &&
		database_keeps_horizons(template->oid, &entry.row);

	*frozenxid = has_snapshot ? entry.row.frozenxid : template->datfrozenxid;
	*minmxid = has_snapshot ? entry.row.minmxid : template->datminmxid;
}

/*
 * Return a hash of the dependencies of the objects in a database: its rows in
 * pg_shdepend, regardless of their order.
 */
uint64
database_dependencies(Oid oid)
{
	Relation	rel = table_open(SharedDependRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	uint64		sum = 0;

	ScanKeyInit(&key, Anum_pg_shdepend_dbid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, SharedDependDependerIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_shdepend form = (Form_pg_shdepend) GETSTRUCT(tuple);
		uint32		fields[6];

		fields[0] = form->classid;
		fields[1] = form->objid;
		fields[2] = form->objsubid;
		fields[3] = form->refclassid;
		fields[4] = form->refobjid;
		fields[5] = form->deptype;
		sum += hash_bytes_extended((unsigned char *) fields, sizeof(fields), 1);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return sum;
}

/*
 * Make a clone's rows in pg_shdepend copies of the template's, whose hash,
 * from database_dependencies, is given.
 *
 * They are only read if they are equal already, which is usual: for a
 * thousand tables of an ordinary role, writing them takes longer than all
 * other work.
 */
void
database_sync_dependencies(Oid oid, Oid template_oid, uint64 fingerprint)
{
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (database_dependencies(oid) == fingerprint)
		return;

	rel = table_open(SharedDependRelationId, RowExclusiveLock);
	ScanKeyInit(&key, Anum_pg_shdepend_dbid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, SharedDependDependerIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		CatalogTupleDelete(rel, &tuple->t_self);
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);

	CommandCounterIncrement();
	copyTemplateDependencies(template_oid, oid);
}

/*
 * Return the rows of pg_db_role_setting for a database, as a List of
 * HeapTuple ordered by role.
 */
static List *
read_settings(Relation rel, Oid oid)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *settings = NIL;

	ScanKeyInit(&key, Anum_pg_db_role_setting_setdatabase,
				BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, DbRoleSettingDatidRolidIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		settings = lappend(settings, heap_copytuple(tuple));
	systable_endscan(scan);
	return settings;
}

/*
 * Return a hash of a database's rows in pg_db_role_setting.
 */
uint64
database_settings(Oid oid)
{
	Relation	rel = table_open(DbRoleSettingRelationId, AccessShareLock);
	ListCell   *lc;
	uint64		sum = 0;

	foreach(lc, read_settings(rel, oid))
	{
		HeapTuple	tuple = lfirst(lc);
		Oid			role = ((Form_pg_db_role_setting) GETSTRUCT(tuple))->setrole;
		bool		isnull;
		Datum		config = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
										  RelationGetDescr(rel), &isnull);

		if (!isnull)
		{
			struct varlena *value = PG_DETOAST_DATUM_PACKED(config);

			sum += hash_bytes_extended((unsigned char *) VARDATA_ANY(value),
									   VARSIZE_ANY_EXHDR(value), role);
		}
	}
	table_close(rel, AccessShareLock);
	return sum;
}

/*
 * Record that no prepared transaction can change a template's configuration
 * parameters unnoticed any more, if there is none.
 */
void
database_settle_settings(void)
{
	uint64		doubt = registry_settings_in_doubt();

	if (doubt != 0 && database_count_prepared(NULL) == 0)
		registry_settings_settled(doubt);
}

/*
 * Report whether two lists from read_settings are equal, except for the
 * database.
 */
static bool
settings_equal(Relation rel, List *a, List *b)
{
	ListCell   *la;
	ListCell   *lb;

	if (list_length(a) != list_length(b))
		return false;
	forboth(la, a, lb, b)
	{
		HeapTuple	ta = lfirst(la);
		HeapTuple	tb = lfirst(lb);
		Datum		da;
		Datum		db;
		bool		nulla;
		bool		nullb;

		if (((Form_pg_db_role_setting) GETSTRUCT(ta))->setrole !=
			((Form_pg_db_role_setting) GETSTRUCT(tb))->setrole)
			return false;
		da = heap_getattr(ta, Anum_pg_db_role_setting_setconfig,
						  RelationGetDescr(rel), &nulla);
		db = heap_getattr(tb, Anum_pg_db_role_setting_setconfig,
						  RelationGetDescr(rel), &nullb);
		if (nulla != nullb || (!nulla && !datum_image_eq(da, db, false, -1)))
			return false;
	}
	return true;
}

/*
 * Make a clone's rows in pg_db_role_setting copies of the template's (ALTER
 * DATABASE ... SET, and ALTER ROLE ... IN DATABASE ... SET).
 */
static void
sync_settings(Oid oid, Oid template_oid)
{
	Relation	rel = table_open(DbRoleSettingRelationId, RowExclusiveLock);
	List	   *wanted = read_settings(rel, template_oid);
	List	   *present = read_settings(rel, oid);
	ListCell   *lc;

	if (!settings_equal(rel, wanted, present))
	{
		foreach(lc, present)
			CatalogTupleDelete(rel, &((HeapTuple) lfirst(lc))->t_self);
		CommandCounterIncrement();
		foreach(lc, wanted)
		{
			Datum		values[Natts_pg_db_role_setting] = {0};
			bool		nulls[Natts_pg_db_role_setting] = {0};
			bool		replaces[Natts_pg_db_role_setting] = {0};

			values[Anum_pg_db_role_setting_setdatabase - 1] = ObjectIdGetDatum(oid);
			replaces[Anum_pg_db_role_setting_setdatabase - 1] = true;
			CatalogTupleInsert(rel, heap_modify_tuple(lfirst(lc),
													  RelationGetDescr(rel),
													  values, nulls, replaces));
		}
	}
	table_close(rel, RowExclusiveLock);
}

/*
 * Return a copy of the ACL in a row of pg_database, or NULL.
 */
static Acl *
get_acl(Relation rel, HeapTuple tuple)
{
	bool		isnull;
	Datum		acl = heap_getattr(tuple, Anum_pg_database_datacl,
								   RelationGetDescr(rel), &isnull);

	return isnull ? NULL : DatumGetAclPCopy(acl);
}

/* The columns of a clone's row that differ from its template's. */
typedef struct CloneRow
{
	Oid			oid;
	const char *name;
	Oid			owner;
	RowAccess	access;			/* which sessions can connect to it */
} CloneRow;

/*
 * Build a clone's row: the template's, except for the few columns that must
 * differ, so that columns added by later major versions are copied, and with
 * the horizons of its files.  The ACL is that which ALTER DATABASE ... OWNER
 * would make of the template's, except that the clone's owner has all
 * privileges, like the owner of a new database, even if those of the
 * template's owner were revoked.
 */
static HeapTuple
make_clone_tuple(Relation rel, HeapTuple template, const CloneRow *row)
{
	Datum		values[Natts_pg_database] = {0};
	bool		nulls[Natts_pg_database] = {0};
	bool		replaces[Natts_pg_database] = {0};
	Form_pg_database form = (Form_pg_database) GETSTRUCT(template);
	Acl		   *acl = get_acl(rel, template);
	NameData	namedata;
	TransactionId frozenxid;
	MultiXactId minmxid;

	get_horizons(form, &frozenxid, &minmxid);
	values[Anum_pg_database_datfrozenxid - 1] = TransactionIdGetDatum(frozenxid);
	replaces[Anum_pg_database_datfrozenxid - 1] = true;
	values[Anum_pg_database_datminmxid - 1] = MultiXactIdGetDatum(minmxid);
	replaces[Anum_pg_database_datminmxid - 1] = true;
	namestrcpy(&namedata, row->name);
	values[Anum_pg_database_oid - 1] = ObjectIdGetDatum(row->oid);
	replaces[Anum_pg_database_oid - 1] = true;
	values[Anum_pg_database_datname - 1] = NameGetDatum(&namedata);
	replaces[Anum_pg_database_datname - 1] = true;
	values[Anum_pg_database_datdba - 1] = ObjectIdGetDatum(row->owner);
	replaces[Anum_pg_database_datdba - 1] = true;
	values[Anum_pg_database_datistemplate - 1] = BoolGetDatum(false);
	replaces[Anum_pg_database_datistemplate - 1] = true;
	values[Anum_pg_database_datallowconn - 1] = BoolGetDatum(row->access == ROW_OPEN);
	replaces[Anum_pg_database_datallowconn - 1] = true;
	values[Anum_pg_database_datconnlimit - 1] =
		Int32GetDatum(row->access == ROW_INVALID ? DATCONNLIMIT_INVALID_DB :
					  row->access == ROW_CLOSED ? DATCONNLIMIT_CLOSED :
					  clone_connection_limit(form));
	replaces[Anum_pg_database_datconnlimit - 1] = true;
	if (acl)
	{
		AclItem		item;

		item.ai_grantee = row->owner;
		item.ai_grantor = row->owner;
		ACLITEM_SET_PRIVS_GOPTIONS(item, ACL_ALL_RIGHTS_DATABASE, ACL_NO_RIGHTS);
		acl = aclupdate(aclnewowner(acl, form->datdba, row->owner), &item,
						ACL_MODECHG_ADD, row->owner, DROP_CASCADE);
		values[Anum_pg_database_datacl - 1] = PointerGetDatum(acl);
		replaces[Anum_pg_database_datacl - 1] = true;
	}
	return heap_modify_tuple(template, RelationGetDescr(rel),
							 values, nulls, replaces);
}

/*
 * Build the row that CREATE DATABASE would create from a template's: without
 * its privileges.
 */
static HeapTuple
make_served_tuple(Relation rel, HeapTuple template, const TestdbClone *clone,
				  const RowOptions *options)
{
	Datum		values[Natts_pg_database] = {0};
	bool		nulls[Natts_pg_database] = {0};
	bool		replaces[Natts_pg_database] = {0};
	CloneRow	row = {clone->oid, NameStr(clone->name), clone->owner, ROW_OPEN};
	HeapTuple	tuple = make_clone_tuple(rel, template, &row);
	const char *version = NameStr(options->collation_version);

	values[Anum_pg_database_datistemplate - 1] = BoolGetDatum(options->is_template);
	replaces[Anum_pg_database_datistemplate - 1] = true;
	values[Anum_pg_database_datallowconn - 1] = BoolGetDatum(options->allow_connections);
	replaces[Anum_pg_database_datallowconn - 1] = true;
	values[Anum_pg_database_datconnlimit - 1] = Int32GetDatum(options->connection_limit);
	replaces[Anum_pg_database_datconnlimit - 1] = true;
	nulls[Anum_pg_database_datacl - 1] = true;
	replaces[Anum_pg_database_datacl - 1] = true;
	nulls[Anum_pg_database_datcollversion - 1] = version[0] == '\0';
	if (version[0] != '\0')
		values[Anum_pg_database_datcollversion - 1] = CStringGetTextDatum(version);
	replaces[Anum_pg_database_datcollversion - 1] = true;
	return heap_modify_tuple(tuple, RelationGetDescr(rel), values, nulls, replaces);
}

/*
 * Return a copy of the template's row; NULL if there is none, or if it is
 * invalid, because the template is being dropped.
 */
static HeapTuple
get_template_tuple(Oid template_oid)
{
	HeapTuple	tuple = SearchSysCacheCopy1(DATABASEOID,
											ObjectIdGetDatum(template_oid));

	if (HeapTupleIsValid(tuple) &&
		((Form_pg_database) GETSTRUCT(tuple))->datconnlimit == DATCONNLIMIT_INVALID_DB)
		return NULL;
	return tuple;
}

/*
 * Raise the error for a template without a row from get_template_tuple: 55000
 * if it is invalid, 3D000 if it no longer exists.
 */
static void
report_bad_template(Oid template_oid)
{
	DatabaseInfo info;

	if (database_lookup(template_oid, &info))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot use invalid database \"%s\" as template",
						NameStr(info.name)),
				 errhint("Use DROP DATABASE to drop invalid databases.")));
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_DATABASE),
			 errmsg("template database with OID %u does not exist", template_oid),
			 errdetail("It has been dropped in the meantime.")));
}

/*
 * Record in pg_shdepend the roles named in a clone's ACL, instead of those
 * named in the old one; either may be NULL.  An owner has no entry as a
 * grantee: neither the new one, nor the old one for the old ACL.
 */
static void
record_acl(Oid oid, Oid old_owner, Oid owner, const Acl *old_acl, const Acl *new_acl)
{
	Oid		   *old_members;
	Oid		   *new_members;
	int			nold = aclmembers(old_acl, &old_members);
	int			nnew = aclmembers(new_acl, &new_members);
	int			n = 0;

	for (int i = 0; i < nold; i++)
		if (old_members[i] != old_owner)
			old_members[n++] = old_members[i];
	updateAclDependencies(DatabaseRelationId, oid, 0, owner,
						  n, old_members, nnew, new_members);
}

/*
 * Insert the rows of a new database into the catalogs, as copies of the
 * template's; its files are not touched.  Other transactions see them after
 * the commit.
 *
 * As with CREATE DATABASE, the commit is flushed to disk, whatever
 * synchronous_commit is, since the lease is.
 *
 * Errors: 3D000 if the template no longer exists, 55000 if it is invalid.
 */
void
database_insert_row(Oid oid, const char *name, Oid owner, Oid template_oid,
					RowAccess access)
{
	Relation	rel = table_open(DatabaseRelationId, RowExclusiveLock);
	HeapTuple	template = get_template_tuple(template_oid);
	CloneRow	row = {oid, name, owner, access};
	HeapTuple	tuple;

	if (!HeapTupleIsValid(template))
		report_bad_template(template_oid);
	tuple = make_clone_tuple(rel, template, &row);
	CatalogTupleInsert(rel, tuple);
	recordDependencyOnOwner(DatabaseRelationId, oid, owner);
	record_acl(oid, InvalidOid, owner, NULL, get_acl(rel, tuple));
	copyTemplateDependencies(template_oid, oid);
	sync_settings(oid, template_oid);
	InvokeObjectPostCreateHook(DatabaseRelationId, oid, 0);
	table_close(rel, RowExclusiveLock);
	ForceSyncCommit();
}

/*
 * Set a clone's row, and its other rows in shared catalogs, to what they
 * would be if it had just been created from the template under this name.
 * access is who can connect to it: with ROW_CLOSED nobody until spare_open,
 * with ROW_INVALID nobody until database_revive and spare_open.
 *
 * The caller has locked the database against connections, and it has no
 * sessions.  The dependencies of the database's objects are left to
 * database_sync_dependencies.
 *
 * With ROW_INVALID, the commit need not be flushed, since the lease is
 * UNWANTED; else it is.
 *
 * Returns false, with nothing done, if the template no longer exists or is
 * invalid.  Errors: 3D000 if the database no longer exists.
 */
bool
database_reset_row(Oid oid, const char *name, Oid owner, Oid template_oid,
				   RowAccess access)
{
	Relation	rel = table_open(DatabaseRelationId, RowExclusiveLock);
	HeapTuple	template = get_template_tuple(template_oid);
	CloneRow	row = {oid, name, owner, access};
	HeapTuple	old;
	HeapTuple	new;
	ItemPointerData tid;
	Oid			old_owner;
	Acl		   *old_acl;
	Acl		   *new_acl;

	if (!HeapTupleIsValid(template))
	{
		table_close(rel, RowExclusiveLock);
		return false;
	}
	old = SearchSysCacheLockedCopy1(DATABASEOID, ObjectIdGetDatum(oid));
	if (!HeapTupleIsValid(old))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("database with OID %u does not exist", oid)));
	tid = old->t_self;
	new = make_clone_tuple(rel, template, &row);
	CatalogTupleUpdate(rel, &tid, new);
	UnlockTuple(rel, &tid, InplaceUpdateTupleLock);

	old_owner = ((Form_pg_database) GETSTRUCT(old))->datdba;
	if (old_owner != owner)
		changeDependencyOnOwner(DatabaseRelationId, oid, owner);
	old_acl = get_acl(rel, old);
	new_acl = get_acl(rel, new);
	if (old_acl || new_acl)
		record_acl(oid, old_owner, owner, old_acl, new_acl);
	DeleteSharedComments(oid, DatabaseRelationId);
	DeleteSharedSecurityLabel(oid, DatabaseRelationId);
	sync_settings(oid, template_oid);
	if (access != ROW_INVALID)
		ForceSyncCommit();
	InvokeObjectPostAlterHook(DatabaseRelationId, oid, 0);
	table_close(rel, RowExclusiveLock);
	return true;
}

/*
 * Set a clone's row, and its other rows in shared catalogs, to what CREATE
 * DATABASE with these options would have created from its template, under the
 * name and for the owner in *clone.  The caller has locked it against
 * connections.  Sessions can connect to it after the commit, which is
 * flushed.
 *
 * Returns false, with nothing done, if the template no longer exists or is
 * invalid.  Errors: 3D000 if the database no longer exists.
 */
bool
database_serve_row(const TestdbClone *clone, const RowOptions *options)
{
	Relation	rel = table_open(DatabaseRelationId, RowExclusiveLock);
	HeapTuple	template = get_template_tuple(clone->template_oid);
	HeapTuple	old;
	ItemPointerData tid;
	Acl		   *acl;

	if (!HeapTupleIsValid(template))
	{
		table_close(rel, RowExclusiveLock);
		return false;
	}
	old = SearchSysCacheLockedCopy1(DATABASEOID, ObjectIdGetDatum(clone->oid));
	if (!HeapTupleIsValid(old))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("database \"%s\" does not exist", NameStr(clone->name))));
	tid = old->t_self;
	CatalogTupleUpdate(rel, &tid, make_served_tuple(rel, template, clone, options));
	UnlockTuple(rel, &tid, InplaceUpdateTupleLock);

	if (((Form_pg_database) GETSTRUCT(old))->datdba != clone->owner)
		changeDependencyOnOwner(DatabaseRelationId, clone->oid, clone->owner);
	acl = get_acl(rel, old);
	if (acl)
		record_acl(clone->oid, ((Form_pg_database) GETSTRUCT(old))->datdba, clone->owner,
				   acl, NULL);
	DeleteSharedComments(clone->oid, DatabaseRelationId);
	DeleteSharedSecurityLabel(clone->oid, DatabaseRelationId);
	DropSetting(clone->oid, InvalidOid);
	ForceSyncCommit();
	InvokeObjectPostAlterHook(DatabaseRelationId, clone->oid, 0);
	table_close(rel, RowExclusiveLock);
	return true;
}

/*
 * Get the options of a database created by CREATE DATABASE, as far as they
 * are in its row, to reset it.
 */
static void
get_row_options(HeapTuple tuple, Relation rel, RowOptions *options)
{
	Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
	bool		isnull;
	Datum		version = heap_getattr(tuple, Anum_pg_database_datcollversion,
									   RelationGetDescr(rel), &isnull);

	memset(options, 0, sizeof(*options));
	options->allow_connections = true;
	options->connection_limit = form->datconnlimit >= DATCONNLIMIT_UNLIMITED ?
		form->datconnlimit : DATCONNLIMIT_UNLIMITED;
	if (!isnull)
		strlcpy(NameStr(options->collation_version), TextDatumGetCString(version),
				NAMEDATALEN);
}

/*
 * Reset a row set by database_serve_row, with the database's present name,
 * owner and connection limit.  Otherwise as database_serve_row; false as well
 * if the database no longer exists.
 */
bool
database_serve_again(Oid oid, Oid template_oid)
{
	Relation	rel = table_open(DatabaseRelationId, RowExclusiveLock);
	HeapTuple	tuple = SearchSysCacheCopy1(DATABASEOID, ObjectIdGetDatum(oid));
	TestdbClone clone = {.oid = oid, .template_oid = template_oid};
	RowOptions	options;

	if (HeapTupleIsValid(tuple))
	{
		clone.name = ((Form_pg_database) GETSTRUCT(tuple))->datname;
		clone.owner = ((Form_pg_database) GETSTRUCT(tuple))->datdba;
		get_row_options(tuple, rel, &options);
	}
	table_close(rel, NoLock);
	return HeapTupleIsValid(tuple) && database_serve_row(&clone, &options);
}

/*
 * Report whether a clone's row differs from the one that database_reset_row
 * would build.
 */
static bool
row_differs(Relation rel, HeapTuple old, HeapTuple new)
{
	Form_pg_database from = (Form_pg_database) GETSTRUCT(new);
	Form_pg_database to = (Form_pg_database) GETSTRUCT(old);
	Acl		   *old_acl = get_acl(rel, old);
	Acl		   *new_acl = get_acl(rel, new);

	return from->datdba != to->datdba ||
		from->datconnlimit != to->datconnlimit ||
		from->datallowconn != to->datallowconn ||
		from->datistemplate != to->datistemplate ||
		(old_acl == NULL) != (new_acl == NULL) ||
		(old_acl != NULL && !aclequal(old_acl, new_acl));
}

/*
 * Do what database_reset_row does, under the clone's present name and for
 * this owner, with ROW_OPEN; but write only what differs.  The caller has
 * locked the database against connections.
 *
 * Returns false, with nothing done, if the template or the database no longer
 * exists.
 */
bool
database_restore_row(Oid oid, Oid owner, Oid template_oid)
{
	Relation	rel = table_open(DatabaseRelationId, RowExclusiveLock);
	HeapTuple	template = get_template_tuple(template_oid);
	HeapTuple	old = SearchSysCacheCopy1(DATABASEOID, ObjectIdGetDatum(oid));
	bool		done = HeapTupleIsValid(template) && HeapTupleIsValid(old);

	if (done)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(old);
		CloneRow	row = {oid, NameStr(form->datname), owner, ROW_OPEN};
		HeapTuple	new = make_clone_tuple(rel, template, &row);
		Form_pg_database from;

		from = (Form_pg_database) GETSTRUCT(new);
		if (row_differs(rel, old, new))
		{
			done = database_reset_row(oid, NameStr(form->datname), owner,
									  template_oid, ROW_OPEN);
			table_close(rel, NoLock);
			return done;
		}
		DeleteSharedComments(oid, DatabaseRelationId);
		DeleteSharedSecurityLabel(oid, DatabaseRelationId);
		sync_settings(oid, template_oid);
		if (form->datfrozenxid != from->datfrozenxid ||
			form->datminmxid != from->datminmxid)
			done = database_revive(oid, template_oid, ROW_OPEN);
	}
	table_close(rel, NoLock);
	return done;
}

/*
 * Prevent changes of datfrozenxid and datminmxid of all databases, until the
 * end of the transaction.  A clone's row gets those of its snapshot: held
 * from before database_keeps_horizons until the row is committed, this lock
 * prevents the truncation of pg_xact in between, when only the clone needs
 * it.  vac_update_datfrozenxid() takes the same lock.
 */
void
database_lock_horizons(void)
{
	LockDatabaseFrozenIds(ShareLock);
}

/*
 * Make a clone whose files are complete a valid database again, with the
 * snapshot's horizons: ROW_OPEN, or ROW_CLOSED until spare_open.
 *
 * That is an in-place update, since it must not be rolled back, and leaves no
 * dead row.  The transaction has no ID, so its commit does not flush it: the
 * caller calls database_flush before the clone is handed out.
 *
 * Returns false, with nothing done, if the template no longer exists or is
 * invalid.  Errors: 3D000 if the database no longer exists.
 */
bool
database_revive(Oid oid, Oid template_oid, RowAccess access)
{
	Relation	rel = table_open(DatabaseRelationId, RowExclusiveLock);
	HeapTuple	template = get_template_tuple(template_oid);
	Form_pg_database from;
	Form_pg_database to;
	TransactionId frozenxid;
	MultiXactId minmxid;
	ScanKeyData key;
	HeapTuple	tuple;
	void	   *state;

	if (!HeapTupleIsValid(template))
	{
		table_close(rel, RowExclusiveLock);
		return false;
	}
	from = (Form_pg_database) GETSTRUCT(template);
	get_horizons(from, &frozenxid, &minmxid);
	ScanKeyInit(&key, Anum_pg_database_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(oid));
	systable_inplace_update_begin(rel, DatabaseOidIndexId, true, NULL, 1, &key,
								  &tuple, &state);
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("database with OID %u does not exist", oid)));
	to = (Form_pg_database) GETSTRUCT(tuple);
	to->datallowconn = access == ROW_OPEN;
	to->datconnlimit = access == ROW_OPEN ? clone_connection_limit(from) :
		DATCONNLIMIT_CLOSED;
	to->datfrozenxid = frozenxid;
	to->datminmxid = minmxid;
	systable_inplace_update_finish(state, tuple);
	heap_freetuple(tuple);
	table_close(rel, RowExclusiveLock);
	return true;
}

/*
 * Remove dead rows from the shared catalogs that are written for each
 * database, like VACUUM (TRUNCATE false), which never blocks readers.  A
 * catalog that is being vacuumed, or is locked otherwise, is skipped.
 * Returns the number of blocks of pg_database, or 0 if it was skipped.
 *
 * Called outside of a transaction.  Memory is allocated in the current memory
 * context, which may be another one on return.
 */
uint32
database_vacuum_catalogs(void)
{
	static const struct
	{
		Oid			oid;
		char	   *name;
	}			catalogs[] = {
		{DatabaseRelationId, "pg_database"},
		{SharedDependRelationId, "pg_shdepend"},
		{DbRoleSettingRelationId, "pg_db_role_setting"},
	};
	VacuumStmt *stmt = makeNode(VacuumStmt);
	MemoryContext cxt = CurrentMemoryContext;
	uint32		nblocks = 0;

	stmt->is_vacuumcmd = true;
	stmt->options = list_make1(makeDefElem("truncate", (Node *) makeString("off"), -1));
	StartTransactionCommand();
	for (int i = 0; i < (int) lengthof(catalogs); i++)
	{
		MemoryContext old;
		Relation	rel;

		if (!ConditionalLockRelationOid(catalogs[i].oid, ShareUpdateExclusiveLock))
			continue;
		rel = table_open(catalogs[i].oid, NoLock);
		if (catalogs[i].oid == DatabaseRelationId)
			nblocks = RelationGetNumberOfBlocks(rel);
		table_close(rel, ShareUpdateExclusiveLock);
		old = MemoryContextSwitchTo(cxt);
		stmt->rels = lappend(stmt->rels,
							 makeVacuumRelation(makeRangeVar("pg_catalog",
															 catalogs[i].name, -1),
												InvalidOid, NIL));
		MemoryContextSwitchTo(old);
	}

	/*
	 * VACUUM commits and begins transactions; its memory is in this context.
	 */
	PortalContext = cxt;
	if (stmt->rels != NIL)
		ExecVacuum(make_parsestate(NULL), stmt, true);
	PortalContext = NULL;
	CommitTransactionCommand();
	return nblocks;
}
