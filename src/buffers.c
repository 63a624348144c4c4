/*-------------------------------------------------------------------------
 *
 * buffers.c
 *	  A database's pages in shared buffers, and its cumulative statistics.
 *
 * Before the files of a database are replaced its pages must be dropped, or
 * they would be written over the new files.  These are the pages of a set of
 * relations, which is collected from the names of changed files, and from all
 * buffer headers, read without a lock: since pages may become dirty at any
 * time, callers do that when the database cannot have sessions.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xloginsert.h"
#include "common/controldata_utils.h"
#include "storage/fd.h"
#include "storage/md.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "buffers.h"
#include "compat.h"

/* An entry of a set of relations. */
typedef struct RelationKey
{
	Oid			database;
	Oid			relation;		/* the number in its files' names */
} RelationKey;

/* An entry of a set of relations; the key comes first. */
typedef struct RelationEntry
{
	RelationKey key;
	bool		discarded;		/* its pages have been dropped */
	bool		in_file;		/* one of its files has changed */
	XLogRecPtr	lsn;			/* the newest of its dirty pages */
} RelationEntry;

/* Some databases. */
typedef struct DatabaseList
{
	Oid		   *oids;			/* sorted */
	int			n;
} DatabaseList;

/*
 * For pgstat_drop_matching_compat: report whether this is an entry of one of
 * these databases.
 */
static bool
is_entry_of(PgStatShared_HashEntry *entry, Datum arg)
{
	const DatabaseList *list = (const DatabaseList *) DatumGetPointer(arg);

	return OidIsValid(entry->key.dboid) &&
		bsearch(&entry->key.dboid, list->oids, list->n, sizeof(Oid), oid_cmp) != NULL;
}

/*
 * Drop the cumulative statistics of databases without sessions, so that they
 * start from zero.
 *
 * DROP DATABASE does that by a pass over those of the whole server.  Here one
 * pass serves all of these databases.
 */
void
database_drop_statistics(const Oid *oids, int n)
{
	DatabaseList list = {.n = n};

	list.oids = palloc(n * sizeof(Oid));
	memcpy(list.oids, oids, n * sizeof(Oid));
	qsort(list.oids, n, sizeof(Oid), oid_cmp);
	pgstat_drop_matching_compat(is_entry_of, PointerGetDatum(&list));
	pfree(list.oids);
}

/*
 * Report whether an entry of such a database is of an object of its template.
 * Objects created in the clone have a larger OID than the database.
 */
static bool
is_of_template(PgStatShared_HashEntry *entry)
{
	return pgstat_entry_object_compat(entry) < entry->key.dboid;
}

/*
 * For pgstat_drop_matching_compat: report whether it is of another object.
 */
static bool
is_of_clone(PgStatShared_HashEntry *entry, Datum arg)
{
	return is_entry_of(entry, arg) && !is_of_template(entry);
}

/*
 * Set an entry's counters to zero, as pgstat_reset_matching_entries does.
 */
static void
reset_entry(PgStatShared_HashEntry *entry, TimestampTz now)
{
	PgStatShared_Common *header = dsa_get_address(pgStatLocal.dsa, entry->body);
	PgStat_Kind kind = entry->key.kind;
	const PgStat_KindInfo *info = pgstat_get_kind_info(kind);

	LWLockAcquire(&header->lock, LW_EXCLUSIVE);
	memset(pgstat_get_entry_data(kind, header), 0, pgstat_get_entry_len(kind));
	if (info->reset_timestamp_cb)
		info->reset_timestamp_cb(header, now);
	LWLockRelease(&header->lock);
}

/*
 * Reset the cumulative statistics of databases that are rewound, whose
 * sessions stay, none of which is in a transaction.
 *
 * A dropped entry remains, marked as dropped, until all sessions have
 * released it.  If its object reappears by the rewind and is dropped again
 * before that, older minor releases fail after the commit, which is a PANIC.
 * So entries of the template's objects are reset, and reused if they are
 * marked; those of other objects are dropped.
 *
 * One pass over the whole server's entries does it, unless there are others.
 */
void
database_reset_statistics(const Oid *oids, int n)
{
	DatabaseList list = {.n = n};
	Datum		arg = PointerGetDatum(&list);
	TimestampTz now = GetCurrentTimestamp();
	List	   *marked = NIL;
	bool		others = false;
	dshash_seq_status scan;
	PgStatShared_HashEntry *entry;
	ListCell   *lc;

	list.oids = palloc(n * sizeof(Oid));
	memcpy(list.oids, oids, n * sizeof(Oid));
	qsort(list.oids, n, sizeof(Oid), oid_cmp);

	dshash_seq_init(&scan, pgStatLocal.shared_hash, false);
	while ((entry = dshash_seq_next(&scan)) != NULL)
	{
		if (!is_entry_of(entry, arg))
			continue;
		if (!is_of_template(entry))
			others = others || !entry->dropped;
		else if (!entry->dropped)
			reset_entry(entry, now);
		else
		{
			PgStatShared_HashEntry *copy = palloc(sizeof(*copy));

			copy->key = entry->key;
			marked = lappend(marked, copy);
		}
	}
	dshash_seq_term(&scan);

	if (others)
		pgstat_drop_matching_compat(is_of_clone, arg);
	foreach(lc, marked)
	{
		entry = lfirst(lc);
		(void) pgstat_get_entry_ref(entry->key.kind, entry->key.dboid,
									pgstat_entry_object_compat(entry), true, NULL);
	}
	list_free_deep(marked);
	pfree(list.oids);
}

/*
 * Report whether a checkpoint that began before this call is in progress.
 *
 * Recovery that starts from there applies WAL to the files as that checkpoint
 * left them.  A dirty page that was dropped from shared buffers before it was
 * written would be missing: unless WAL has images of full pages, recovery
 * would meet an older page than it expects, and PANIC.  Once the checkpoint
 * is complete, or if it begins after the last change of the page, all is
 * well.
 *
 * A checkpoint sets the redo pointer when it begins, and enters it into
 * pg_control when it is complete.  Our own copy of the former is as new as our
 * last WAL record.
 */
bool
database_is_checkpointing(void)
{
	XLogRecPtr	redo;
	ControlFileData *control;
	char		nothing = 0;
	bool		crc_ok;
	bool		result;

	/* A record must not be empty. */
	XLogBeginInsert();
	XLogRegisterData(&nothing, sizeof(nothing));
	(void) XLogInsert(RM_XLOG_ID, XLOG_NOOP);
	redo = GetRedoRecPtr();

	LWLockAcquire(ControlFileLock, LW_SHARED);
	control = get_controlfile(DataDir, &crc_ok);
	LWLockRelease(ControlFileLock);
	result = !crc_ok || control->checkPointCopy.redo != redo;
	pfree(control);
	return result;
}

/*
 * Drop a database's pages from shared buffers, and the checkpointer's pending
 * requests for its files, as dropdb() does.  No session is in it or can
 * connect to it.  Its files may be changed when the next checkpoint has
 * completed, and every process has closed them.
 */
void
database_discard_buffers(Oid oid)
{
	DropDatabaseBuffers(oid);
	ForgetDatabaseSyncRequests(oid);
}

/*
 * Create an empty set of relations, of any databases, in the current memory
 * context.
 */
HTAB *
database_relations_create(void)
{
	HASHCTL		info;

	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(RelationKey);
	info.entrysize = sizeof(RelationEntry);
	info.hcxt = CurrentMemoryContext;
	return hash_create("testdb relations", 64, &info,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * Add a relation to such a set, unless it is in it; return its entry.
 */
static RelationEntry *
add_relation(HTAB *relations, const RelationKey *key)
{
	bool		found;
	RelationEntry *entry = hash_search(relations, key, HASH_ENTER, &found);

	if (!found)
	{
		entry->discarded = false;
		entry->in_file = false;
		entry->lsn = InvalidXLogRecPtr;
	}
	return entry;
}

/*
 * Extract the relfilenode from the name of a file in a database's directory,
 * of any fork or segment; InvalidOid if it has none, or is of a temporary
 * relation, which only its own session opens.
 */
Oid
database_relation_of_file(const char *file)
{
	Oid			relation;
	char	   *end;

	if (file[0] < '1' || file[0] > '9')
		return InvalidOid;
	relation = (Oid) strtoul(file, &end, 10);
	return *end == '\0' || *end == '.' || *end == '_' ? relation : InvalidOid;
}

/*
 * Add the relation of a file in a database's directory to a set; does nothing
 * if the file is not a relation's.
 */
void
database_relations_add_file(HTAB *relations, Oid oid, const char *file)
{
	RelationKey key = {.database = oid, .relation = database_relation_of_file(file)};

	if (OidIsValid(key.relation))
		add_relation(relations, &key)->in_file = true;
}

/*
 * Add the relations of these databases that have dirty pages in shared
 * buffers to a set.  Sorts oids.  The databases have no sessions, so no more
 * pages become dirty.
 */
void
database_relations_add_dirty(HTAB *relations, Oid *oids, int noids)
{
	if (noids == 0)
		return;
	qsort(oids, noids, sizeof(Oid), oid_cmp);
	for (int i = 0; i < NBuffers; i++)
	{
		RelationKey key;
		bool		dirty;

		if (buffer_relation_compat(i, &key.database, &key.relation, &dirty) &&
			dirty &&
			bsearch(&key.database, oids, noids, sizeof(Oid), oid_cmp) != NULL)
		{
			RelationEntry *entry = add_relation(relations, &key);

			/* If another page has replaced it, this one is in its file. */
			entry->lsn = Max(entry->lsn, PageGetLSN((Page) BufferGetBlock(i + 1)));
		}
	}
}

/*
 * Return an array of the relations of a database in a set, in the current
 * memory context; *n is their number.
 */
RelationChange *
database_relations_list(HTAB *relations, Oid oid, int *n)
{
	HASH_SEQ_STATUS scan;
	RelationEntry *entry;
	RelationChange *list = palloc((hash_get_num_entries(relations) + 1) *
								  sizeof(RelationChange));

	*n = 0;
	hash_seq_init(&scan, relations);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->key.database != oid)
			continue;
		list[*n].number = entry->key.relation;
		list[(*n)++].lsn = entry->in_file ? PG_UINT64_MAX : entry->lsn;
	}
	return list;
}

/*
 * Drop all pages of the relations in a set from shared buffers, except those
 * already dropped.
 */
void
database_relations_discard(HTAB *relations)
{
	long		n = hash_get_num_entries(relations);
	SMgrRelation *list = palloc(Max(n, 1) * sizeof(SMgrRelation));
	HASH_SEQ_STATUS scan;
	RelationEntry *entry;

	n = 0;
	hash_seq_init(&scan, relations);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (!entry->discarded)
			list[n++] = smgr_open_compat(DEFAULTTABLESPACE_OID, entry->key.database,
										 entry->key.relation);
		entry->discarded = true;
	}
	if (n > 0)
		drop_relations_buffers_compat(list, (int) n);
	for (long i = 0; i < n; i++)
		smgrclose(list[i]);
	pfree(list);
}

/*
 * Compare every page of a database in shared buffers with its file: PANIC if
 * one differs, since recycling relies on them being equal.  The database has
 * no sessions, so all pages are clean.
 */
void
database_check_buffers(Oid oid)
{
	if (DataChecksumsEnabled())
		return;					/* the copy in the file has one */
	for (int i = 0; i < NBuffers; i++)
	{
		BufferDesc *buffer = GetBufferDescriptor(i);
		PGAlignedBlock block;
		BlockNumber number = buffer->tag.blockNum;
		ForkNumber	fork = buffer->tag.forkNum;
		Oid			db;
		Oid			rel;
		Oid			now;
		bool		dirty;
		char		path[MAXPGPATH];
		int			fd;
		bool		same;

		if (!buffer_relation_compat(i, &db, &rel, &dirty) || db != oid)
			continue;
		snprintf(path, sizeof(path), "base/%u/%u%s%s", db, rel,
				 fork == MAIN_FORKNUM ? "" : "_",
				 fork == MAIN_FORKNUM ? "" : forkNames[fork]);
		if (number / RELSEG_SIZE > 0)
			snprintf(path + strlen(path), sizeof(path) - strlen(path), ".%u",
					 (unsigned) (number / RELSEG_SIZE));
		fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
		same = fd >= 0 &&
			pg_pread(fd, block.data, BLCKSZ,
					 (off_t) (number % RELSEG_SIZE) * BLCKSZ) == BLCKSZ &&
			memcmp(block.data, BufferGetBlock(i + 1), BLCKSZ) == 0;
		if (fd >= 0)
			CloseTransientFile(fd);

		/* It may have been replaced by another one. */
		if (!same && buffer_relation_compat(i, &now, &rel, &dirty) && now == oid)
			elog(PANIC, "page %u of file \"%s\" is another one in shared buffers",
				 number, path);
	}
}

/*
 * Flush this transaction's WAL records so far, in a transaction that has no
 * ID, and whose commit would not flush them.
 */
void
database_flush(void)
{
	if (!XLogRecPtrIsInvalid(XactLastRecEnd))
		XLogFlush(XactLastRecEnd);
}
