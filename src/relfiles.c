/*-------------------------------------------------------------------------
 *
 * relfiles.c
 *	  Finding the relation of a file of a template's snapshot.
 *
 * A file's name is the relation's relfilenode, and only pg_class says which
 * relation has it.  A worker is connected to another database, so it reads
 * the pages of pg_class from the snapshot's files, as CREATE DATABASE does
 * with those of its template.  The snapshot was taken while the template had
 * no sessions, so a row is valid if its inserting transaction has committed,
 * and no deleting one has.  The pages are read into private memory: no hint
 * bit is set, and shared buffers are not used.
 *
 * The result is kept in this process until another version of a snapshot is
 * needed.
 *
 * Locks: the snapshot is locked by the caller, as snapshot.c says.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_class.h"
#include "storage/bufpage.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#include "compat.h"
#include "gate.h"
#include "relfiles.h"
#include "snapshot.h"

/*
 * Maximum number of templates whose files are remembered: all that one batch
 * of rewinds can have, since they are needed again after its commit, when the
 * snapshots are no longer locked.
 */
#define MAX_REMEMBERED	GATE_MAX

/* The files of one version of one snapshot, by number. */
typedef struct RelFileList
{
	Oid			template_oid;	/* InvalidOid if the entry is free */
	uint64		version;
	uint64		used;			/* the last use, counted */
	RelFile    *files;			/* in TopMemoryContext */
	int			n;
	int			space;
} RelFileList;

static RelFileList lists[MAX_REMEMBERED];
static uint64 nuses = 0;

/*
 * Report whether a row is valid, in a database in which no transaction was in
 * progress.
 */
static bool
row_is_valid(HeapTupleHeader tuple)
{
	if (!HeapTupleHeaderXminCommitted(tuple) &&
		(HeapTupleHeaderXminInvalid(tuple) ||
		 !TransactionIdDidCommit(HeapTupleHeaderGetRawXmin(tuple))))
		return false;
	if ((tuple->t_infomask & HEAP_XMAX_INVALID) ||
		HEAP_XMAX_IS_LOCKED_ONLY(tuple->t_infomask))
		return true;
	return !TransactionIdDidCommit(HeapTupleHeaderGetUpdateXid(tuple));
}

/*
 * Add the files of a row of pg_class to a list; dir is the snapshot's
 * directory.
 */
static void
add_row(RelFileList *list, Form_pg_class row, char *dir)
{
	Oid			number = row->relfilenode;
	RelFile    *file;

	if (row->relisshared || !RELKIND_HAS_STORAGE(row->relkind))
		return;
	if (!OidIsValid(number))
		number = mapped_relation_compat(dir, row->oid);
	if (list->n == list->space)
	{
		list->space = Max(list->space * 2, 256);
		list->files = list->files ?
			repalloc(list->files, list->space * sizeof(RelFile)) :
			MemoryContextAlloc(TopMemoryContext, list->space * sizeof(RelFile));
	}
	file = &list->files[list->n++];
	file->number = number;
	file->oid = row->oid;
	file->relkind = row->relkind;
}

/*
 * Add the files of the rows of a page of pg_class.
 */
static void
add_page(RelFileList *list, Page page, char *dir)
{
	OffsetNumber last;

	if (PageIsNew(page) || PageIsEmpty(page))
		return;
	last = PageGetMaxOffsetNumber(page);
	for (OffsetNumber i = FirstOffsetNumber; i <= last; i++)
	{
		ItemId		item = PageGetItemId(page, i);
		HeapTupleHeader tuple;

		if (!ItemIdIsNormal(item))
			continue;
		tuple = (HeapTupleHeader) PageGetItem(page, item);
		if (row_is_valid(tuple))
			add_row(list, (Form_pg_class) ((char *) tuple + tuple->t_hoff), dir);
	}
}

/*
 * Add the files of the rows of a file of pg_class; false if it does not
 * exist.
 *
 * Errors: those of the file system.
 */
static bool
add_file(RelFileList *list, const char *path, char *dir)
{
	PGAlignedBlock block;
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	int			nread;

	if (fd < 0 && errno == ENOENT)
		return false;
	while (fd >= 0 && (nread = read(fd, block.data, BLCKSZ)) == BLCKSZ)
		add_page(list, (Page) block.data, dir);
	if (fd < 0 || nread != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	CloseTransientFile(fd);
	return true;
}

/*
 * For qsort: compare files by number.
 */
static int
compare_files(const void *a, const void *b)
{
	Oid			na = ((const RelFile *) a)->number;
	Oid			nb = ((const RelFile *) b)->number;

	return na < nb ? -1 : na > nb;
}

/*
 * Read pg_class of a snapshot into a list.
 */
static void
fill_list(RelFileList *list, const TestdbTemplate *template)
{
	char		dir[MAXPGPATH];
	Oid			number;

	list->template_oid = InvalidOid;
	list->n = 0;
	snapshot_source_path(template, dir);
	number = mapped_relation_compat(dir, RelationRelationId);
	for (int segment = 0;; segment++)
	{
		char		path[MAXPGPATH + 32];

		if (segment == 0)
			snprintf(path, sizeof(path), "%s/%u", dir, number);
		else
			snprintf(path, sizeof(path), "%s/%u.%d", dir, number, segment);
		if (!add_file(list, path, dir))
			break;
	}
	if (list->n > 0)
		qsort(list->files, list->n, sizeof(RelFile), compare_files);
	list->version = template->version;
	list->template_oid = template->oid;
}

/*
 * Return the list of a template's files, of any version; if there is none,
 * the least recently used entry.
 */
static RelFileList *
find_list(Oid template_oid)
{
	RelFileList *oldest = &lists[0];

	for (int i = 0; i < MAX_REMEMBERED; i++)
	{
		if (lists[i].template_oid == template_oid)
			return &lists[i];
		if (lists[i].used < oldest->used)
			oldest = &lists[i];
	}
	return oldest;
}

/*
 * Report whether the files of a template's snapshot are known, so that
 * relfiles_find need not read it.
 */
bool
relfiles_are_known(const TestdbTemplate *template)
{
	const RelFileList *list = find_list(template->oid);

	return list->template_oid == template->oid && list->version == template->version;
}

/*
 * Return the relation of a file of a template's snapshot, by the number in
 * its name; NULL if there is none.  Valid until the next call.  The snapshot
 * is locked.
 *
 * Errors: those of the file system, if the snapshot's version is a new one.
 */
const RelFile *
relfiles_find(const TestdbTemplate *template, Oid number)
{
	RelFileList *list = find_list(template->oid);
	RelFile		key = {.number = number};

	list->used = ++nuses;
	if (list->template_oid != template->oid || list->version != template->version)
		fill_list(list, template);
	return list->n == 0 ? NULL :
		bsearch(&key, list->files, list->n, sizeof(RelFile), compare_files);
}
