/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Every difference between the supported major versions of PostgreSQL.
 *
 * No other file tests PG_VERSION_NUM.  To drop support for a version, delete
 * its branches here.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_COMPAT_H
#define TESTDB_COMPAT_H

#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "catalog/pg_tablespace_d.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/autovacuum.h"
#if PG_VERSION_NUM >= 160000
#include "replication/logicallauncher.h"
#endif
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/shmem.h"
#include "storage/smgr.h"
#include "utils/acl.h"
#include "utils/backend_status.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/relmapper.h"
#include "utils/pgstat_internal.h"
#if PG_VERSION_NUM >= 170000
#include "utils/wait_event.h"
#endif

#if PG_VERSION_NUM < 150000
#error "testdb needs PostgreSQL 15 or newer"
#endif

/*
 * The library is compiled with -fvisibility=hidden, so that its short names
 * cannot meet those of the server or of other libraries.  16 marks symbols to
 * be exported; 15 leaves that to the platform's default.
 */
#if PG_VERSION_NUM < 160000
#undef PGDLLEXPORT
#define PGDLLEXPORT __attribute__((visibility("default")))
#endif

/*
 * PG_MODULE_MAGIC.  From 18 on it can include the library's version, which
 * pg_get_loaded_modules() shows.
 */
#if PG_VERSION_NUM >= 180000
#define TESTDB_MODULE_MAGIC \
	PG_MODULE_MAGIC_EXT(.name = "testdb", .version = TESTDB_VERSION)
#else
#define TESTDB_MODULE_MAGIC PG_MODULE_MAGIC
#endif

/*
 * PG_FUNCTION_INFO_V1 for an exported function; before 16 it does not mark
 * the function itself.
 */
#define SQL_FUNCTION(name) \
	PGDLLEXPORT Datum name(PG_FUNCTION_ARGS); \
	PG_FUNCTION_INFO_V1(name)

/*
 * Return entry idx (1 to pgstat_fetch_stat_numbackends()) of this
 * transaction's copy of the backend status array.  Renamed in 16.
 */
static inline LocalPgBackendStatus *
pgstat_local_beentry_compat(int idx)
{
#if PG_VERSION_NUM >= 160000
	return pgstat_get_local_beentry_by_index(idx);
#else
	return pgstat_fetch_stat_local_beentry(idx);
#endif
}

/*
 * Return the OID of the object of an entry of the cumulative statistics.
 * Renamed in 18.
 */
static inline Oid
pgstat_entry_object_compat(const PgStatShared_HashEntry *entry)
{
#if PG_VERSION_NUM >= 180000
	return (Oid) entry->key.objid;
#else
	return entry->key.objoid;
#endif
}

/*
 * Drop all matching entries of the cumulative statistics, in one pass.  18
 * added a function for that; this does the same.
 */
static inline void
pgstat_drop_matching_compat(bool (*matches) (PgStatShared_HashEntry *, Datum),
							Datum arg)
{
#if PG_VERSION_NUM >= 180000
	pgstat_drop_matching_entries(matches, arg);
#else
	dshash_seq_status scan;
	PgStatShared_HashEntry *entry;
	bool		freed = true;

	dshash_seq_init(&scan, pgStatLocal.shared_hash, true);
	while ((entry = dshash_seq_next(&scan)) != NULL)
	{
		if (entry->dropped || !matches(entry, arg))
			continue;

		/*
		 * Processes with a reference release it at their next garbage
		 * collection.
		 */
		entry->dropped = true;
		if (pg_atomic_sub_fetch_u32(&entry->refcount, 1) == 0)
		{
			dsa_pointer body = entry->body;

			dshash_delete_current(&scan);
			dsa_free(pgStatLocal.dsa, body);
		}
		else
			freed = false;
	}
	dshash_seq_term(&scan);
	if (!freed)
		pgstat_request_entry_refs_gc();
#endif
}

/*
 * Report whether this process is an autovacuum worker.  17 replaced the
 * function by a macro.
 */
static inline bool
is_autovacuum_worker_compat(void)
{
#if PG_VERSION_NUM >= 170000
	return AmAutoVacuumWorkerProcess();
#else
	return IsAutoVacuumWorkerProcess();
#endif
}

/*
 * Return the wait event with this name, for pg_stat_activity.  Extensions can
 * define wait events from 17 on; before, all waits are shown as "Extension".
 * *cache is a static variable of the caller, initially zero.
 */
static inline uint32
wait_event_compat(uint32 *cache, const char *name)
{
#if PG_VERSION_NUM >= 170000
	if (*cache == 0)
		*cache = WaitEventExtensionNew(name);
	return *cache;
#else
	(void) cache;
	(void) name;
	return PG_WAIT_EXTENSION;
#endif
}

/*
 * Create a hash table in shared memory for size entries, or attach to it.  19
 * has one parameter for the initial and the maximum size.
 */
static inline HTAB *
shmem_init_hash_compat(const char *name, int64 size, HASHCTL *info, int flags)
{
#if PG_VERSION_NUM >= 190000
	return ShmemInitHash(name, size, info, flags);
#else
	return ShmemInitHash(name, size, size, info, flags);
#endif
}

/*
 * Flags of RequestCheckpoint, renamed in 19: not spread over time; and with
 * the pages of unlogged relations, which otherwise only a shutdown writes.
 */
#if PG_VERSION_NUM < 190000
#define CHECKPOINT_FAST				CHECKPOINT_IMMEDIATE
#define CHECKPOINT_FLUSH_UNLOGGED	CHECKPOINT_FLUSH_ALL
#endif

/*
 * A flag of background workers that may be terminated by a command on their
 * database, such as DROP DATABASE.  Before 19 it waits for them, for at most
 * 5 s, then fails.
 */
#if PG_VERSION_NUM < 190000
#define BGWORKER_INTERRUPTIBLE		0
#endif

/*
 * Get the relation whose page is in shared buffer number id (from 0), and
 * whether it is dirty; false if the buffer is unused.  Takes no lock, so the
 * result may be outdated.  The tag's fields were renamed in 16, the state was
 * widened in 19.
 */
static inline bool
buffer_relation_compat(int id, Oid *db, Oid *rel, bool *dirty)
{
	BufferDesc *buffer = GetBufferDescriptor(id);
#if PG_VERSION_NUM >= 190000
	uint64		state = pg_atomic_read_u64(&buffer->state);
#else
	uint32		state = pg_atomic_read_u32(&buffer->state);
#endif

	if (!(state & BM_TAG_VALID))
		return false;
#if PG_VERSION_NUM >= 160000
	*db = buffer->tag.dbOid;
	*rel = buffer->tag.relNumber;
#else
	*db = buffer->tag.rnode.dbNode;
	*rel = buffer->tag.rnode.relNode;
#endif
	*dirty = (state & BM_DIRTY) != 0;
	return true;
}

/*
 * The physical address of an open relation.  15 calls it RelFileNode.
 */
#if PG_VERSION_NUM >= 160000
#define RELATION_ADDRESS_COMPAT(rel)	((rel)->rd_locator)
#else
#define RELATION_ADDRESS_COMPAT(rel)	((rel)->rd_node)
#endif

/*
 * smgropen() for a relation in the default tablespace.  15 calls its address
 * RelFileNode.
 */
static inline SMgrRelation
smgr_open_compat(Oid tablespace, Oid db, Oid rel)
{
#if PG_VERSION_NUM >= 160000
	RelFileLocator address = {.spcOid = tablespace, .dbOid = db, .relNumber = rel};
#else
	RelFileNode address = {.spcNode = tablespace, .dbNode = db, .relNode = rel};
#endif

	/* -1: not a temporary relation; the symbol for that was renamed in 17. */
	return smgropen(address, -1);
}

/*
 * Drop all pages of n relations from shared buffers, in one pass.  Renamed in
 * 16.
 */
static inline void
drop_relations_buffers_compat(SMgrRelation *relations, int n)
{
#if PG_VERSION_NUM >= 160000
	DropRelationsAllBuffers(relations, n);
#else
	DropRelFileNodesAllBuffers(relations, n);
#endif
}

/*
 * Reset the time at which the logical replication launcher last started a
 * worker of a subscription, which it records from 16 on.
 */
static inline void
launcher_forget_compat(Oid subscription)
{
#if PG_VERSION_NUM >= 160000
	ApplyLauncherForgetWorkerStartTime(subscription);
#else
	(void) subscription;
#endif
}

/*
 * Return the configuration parameters that could terminate a worker or cancel
 * its transaction, and that may be set for its database: a list that ends
 * with NULL.
 */
static inline const char *const *
timeout_settings_compat(void)
{
	static const char *const names[] = {
		"statement_timeout",
		"idle_in_transaction_session_timeout",
		"idle_session_timeout",
#if PG_VERSION_NUM >= 170000
		"transaction_timeout",
#endif
		NULL
	};

	return names;
}

/*
 * The counters of transaction IDs.  Renamed in 17.
 */
#if PG_VERSION_NUM < 170000
#define TransamVariables ShmemVariableCache
#endif

/*
 * The local transaction ID of a process.  Moved in 17.
 */
#if PG_VERSION_NUM >= 170000
#define lxid_compat(proc)	((proc)->vxid.lxid)
#else
#define lxid_compat(proc)	((proc)->lxid)
#endif

/*
 * Return the file number of a mapped relation, from the map in a database's
 * directory.  Renamed in 16.
 */
static inline Oid
mapped_relation_compat(char *dir, Oid relation)
{
#if PG_VERSION_NUM >= 160000
	return RelationMapOidToFilenumberForDatabase(dir, relation);
#else
	return RelationMapOidToFilenodeForDatabase(dir, relation);
#endif
}

/*
 * Invalidate all processes' smgr cache entries of a relation in the default
 * tablespace.  15 calls its address RelFileNode.
 */
static inline void
invalidate_storage_compat(Oid db, Oid rel)
{
#if PG_VERSION_NUM >= 160000
	RelFileLocatorBackend address = {.locator = {.spcOid = DEFAULTTABLESPACE_OID, .dbOid = db, .relNumber = rel}};
#else
	RelFileNodeBackend address = {.node = {.spcNode = DEFAULTTABLESPACE_OID, .dbNode = db, .relNode = rel}};
#endif

	/* -1: not a temporary relation; the symbol for that was renamed in 17. */
	address.backend = -1;
	CacheInvalidateSmgr(address);
}

/*
 * The columns of pg_database with the locale of a provider other than libc,
 * and ICU's rules; 0 if there is no such column.  17 renamed the first, 16
 * added the second.
 */
#if PG_VERSION_NUM >= 170000
#define ANUM_DATLOCALE_COMPAT	Anum_pg_database_datlocale
#else
#define ANUM_DATLOCALE_COMPAT	Anum_pg_database_daticulocale
#endif
#if PG_VERSION_NUM >= 160000
#define ANUM_DATICURULES_COMPAT	Anum_pg_database_daticurules
#else
#define ANUM_DATICURULES_COMPAT	0
#endif

/*
 * Declared in utils/pg_locale.h, which requires the headers of the ICU
 * version that the server was built with.
 */
extern char *get_collation_actual_version(char collprovider, const char *collcollate);
#if PG_VERSION_NUM >= 160000
extern char *icu_language_tag(const char *loc_str, int elevel);
#endif

/*
 * Report whether CREATE DATABASE uses this ICU locale unchanged.  From 16 on
 * it converts it to a language tag, with a NOTICE.
 */
static inline bool
is_canonical_locale_compat(const char *locale)
{
#if PG_VERSION_NUM >= 160000
	char	   *tag = icu_language_tag(locale, DEBUG5);

	return tag != NULL && strcmp(tag, locale) == 0;
#else
	(void) locale;
	return true;
#endif
}

/*
 * Report whether a role owns a database.  16 has one function for all kinds
 * of objects.
 */
static inline bool
database_ownercheck_compat(Oid database, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, database, role);
#else
	return pg_database_ownercheck(database, role);
#endif
}

/*
 * Report whether a role may make another one the owner of objects that it
 * creates.  16 added an option of memberships for that.
 */
static inline bool
can_set_role_compat(Oid member, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return member_can_set_role(member, role);
#else
	return is_member_of_role(member, role);
#endif
}

#endif							/* TESTDB_COMPAT_H */
