/*-------------------------------------------------------------------------
 *
 * signals.c
 *	  Server-wide flags and counters.
 *
 * Flags and counters in shared memory, not protected by a lock: whether
 * databases may have been dropped with plain SQL, whether a process does not
 * answer barriers, changes that may have made room for another clone, writes
 * to shared catalogs, and whether testdb has been uninstalled.  Functions
 * here take no lock, except registry_set_uninstalled.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "registry_internal.h"
#include "signals.h"

/*
 * Raise the error, 55000, that no databases may be created.
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
 * Return the number of changes that may have made room for another clone: a
 * clone was removed, or can be given up now.
 */
uint32
registry_room_changes(void)
{
	return pg_atomic_read_u32(&registry->room_changes);
}

/*
 * Count such a change, and wake the processes that wait for one.  No LWLock
 * may be held.
 */
void
registry_announce_room(void)
{
	pg_atomic_fetch_add_u32(&registry->room_changes, 1);
	ConditionVariableBroadcast(&registry->room_cv);
}

/*
 * Sleep until there is another such change than those that
 * registry_room_changes had counted; false after timeout_ms.
 */
bool
registry_await_room(uint32 changes, long timeout_ms)
{
	static uint32 wait_event = 0;
	uint32		event = wait_event_compat(&wait_event, "TestdbRoom");
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	bool		changed;

	ConditionVariablePrepareToSleep(&registry->room_cv);
	while (!(changed = registry_room_changes() != changes) && timeout_ms > 0)
	{
		(void) ConditionVariableTimedSleep(&registry->room_cv, timeout_ms, event);
		timeout_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
	}
	ConditionVariableCancelSleep();
	return changed;
}

/*
 * Record that a clone or a template may have been dropped with plain SQL, so
 * that a worker should compare the registry with pg_database.
 */
void
registry_set_recheck(void)
{
	pg_atomic_write_u32(&registry->recheck, 1);
}

/*
 * Report whether registry_set_recheck has been called since the last call of
 * this function.
 */
bool
registry_take_recheck(void)
{
	return pg_atomic_read_u32(&registry->recheck) != 0 &&
		pg_atomic_exchange_u32(&registry->recheck, 0) != 0;
}

/*
 * Record whether testdb has been uninstalled.  If so, databases that are not
 * handed out become GARBAGE: now, or when they would become spares.  Acquires
 * and releases the registry lock, exclusively, so that no other process holds
 * a mutex.
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
 * Report whether testdb has been uninstalled; see the field for locks.
 */
bool
registry_is_uninstalled(void)
{
	return pg_atomic_read_u32(&registry->uninstalled) != 0;
}

/*
 * Raise an error, 55000, if testdb has been uninstalled, unless there is a
 * clone to be restored whose rewind was interrupted.
 */
void
registry_check_installed(void)
{
	if (registry_is_uninstalled() && !registry_has_unrestored())
		report_uninstalled();
}

/*
 * Record whether a process does not answer barriers, so that nothing can be
 * recycled or dropped: for example, one whose client has begun COPY FROM
 * STDIN and sends nothing.
 *
 * Until that is reset, clones are copied from the snapshot, which requires no
 * barrier, and dropped ones that require one are kept.
 */
void
registry_set_stuck(bool stuck)
{
	pg_atomic_write_u32(&registry->stuck, stuck ? 1 : 0);
}

/*
 * Report what registry_set_stuck has recorded.
 */
bool
registry_is_stuck(void)
{
	return pg_atomic_read_u32(&registry->stuck) != 0;
}

/*
 * Count a lease whose file has been removed, before its OID can be used for
 * another database.
 */
void
registry_count_lease_removal(void)
{
	pg_atomic_fetch_add_u32(&registry->lease_removals, 1);
}

/*
 * Return the number of leases whose files have been removed, which wraps
 * around.  While it stays the same, a file that was there still is.  Takes no
 * lock.
 */
uint32
registry_lease_removals(void)
{
	uint32		n = pg_atomic_read_u32(&registry->lease_removals);

	/* The file is looked at after that. */
	pg_read_barrier();
	return n;
}

/*
 * Count a transaction of a worker that changed shared catalogs, and so has
 * left, or will leave, a dead row in pg_database.
 */
void
registry_count_write(void)
{
	pg_atomic_fetch_add_u32(&registry->nwrites, 1);
}

/*
 * If at least n such transactions have been counted, reset the counter and
 * return true.
 */
bool
registry_take_writes(uint32 n)
{
	uint32		found = pg_atomic_read_u32(&registry->nwrites);

	return found >= n &&
		pg_atomic_compare_exchange_u32(&registry->nwrites, &found, 0);
}
