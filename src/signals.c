/*-------------------------------------------------------------------------
 *
 * signals.c
 *	  What processes tell each other about the server as a whole.
 *
 * Single flags and counters in shared memory that no lock guards: that
 * something was dropped with plain SQL, that some process does not answer
 * barriers, how much was written to shared catalogs, and that testdb has been
 * uninstalled.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "registry_internal.h"
#include "signals.h"

/*
 * Raise the error that no databases may be made.
 */
void
report_uninstalled(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("testdb has been uninstalled from this server"),
			 errdetail("testdb_uninstall() was called; clones in use can still be kept and dropped."),
			 errhint("A superuser can call testdb_install() to use it again.")));
}

/*
 * Say that a clone or a template may have been dropped by plain SQL, so that
 * some worker should compare the registry with pg_database.
 */
void
registry_set_recheck(void)
{
	pg_atomic_write_u32(&registry->recheck, 1);
}

/*
 * Has registry_set_recheck been called since the last call of this function?
 */
bool
registry_take_recheck(void)
{
	return pg_atomic_read_u32(&registry->recheck) != 0 &&
		pg_atomic_exchange_u32(&registry->recheck, 0) != 0;
}

/*
 * Say whether databases may be made, from now on.  If not, what nobody has
 * got becomes garbage: now, or when it would become a spare.  Takes and
 * releases the registry lock, which keeps everybody from all mutexes.
 */
void
registry_set_uninstalled(bool uninstalled)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	pg_atomic_write_u32(&registry->uninstalled, uninstalled);
	if (uninstalled)
	{
		for (int i = 0; i < testdb_max_templates; i++)
			want_none(&registry->templates[i]);
		hash_seq_init(&scan, clone_hash);
		while ((entry = hash_seq_search(&scan)) != NULL)
			if (entry->clone.state == CLONE_SPARE ||
				entry->clone.state == CLONE_RETURNED)
			{
				clone_set_state(entry, CLONE_GARBAGE);
			}
	}
	LWLockRelease(registry->lock);
}

/*
 * May no databases be made?  Takes no lock; see the field.
 */
bool
registry_is_uninstalled(void)
{
	return pg_atomic_read_u32(&registry->uninstalled) != 0;
}

/*
 * Raise an error, 55000, if no databases may be made.  Not while a clone must
 * be restored whose rewinding was interrupted.  Takes no lock.
 */
void
registry_check_installed(void)
{
	if (registry_is_uninstalled() && !registry_has_unrestored())
		report_uninstalled();
}

/*
 * Say whether some process does not answer to a barrier, so that nothing can be
 * recycled or dropped: a client that has begun COPY FROM STDIN and sends
 * nothing, for example.  Takes no lock.
 *
 * As long as that is so, clones are made from the snapshot, which needs no
 * barrier, and of dropped ones those gather that need one.
 */
void
registry_set_stuck(bool stuck)
{
	pg_atomic_write_u32(&registry->stuck, stuck ? 1 : 0);
}

/*
 * What was said.  Takes no lock.
 */
bool
registry_is_stuck(void)
{
	return pg_atomic_read_u32(&registry->stuck) != 0;
}

/*
 * Count a transaction of a worker that changed shared catalogs, and so has left
 * a row in pg_database that nobody needs any more, or will.  Takes no lock.
 */
void
registry_count_write(void)
{
	pg_atomic_fetch_add_u32(&registry->nwrites, 1);
}

/*
 * Have there been that many since this was last true?  Takes no lock.
 */
bool
registry_take_writes(uint32 n)
{
	uint32		found = pg_atomic_read_u32(&registry->nwrites);

	return found >= n &&
		pg_atomic_compare_exchange_u32(&registry->nwrites, &found, 0);
}
