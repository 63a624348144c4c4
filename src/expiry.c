/*-------------------------------------------------------------------------
 *
 * expiry.c
 *	  Expiry of leases.
 *
 * A clone may have a time at which it is to be dropped, or an idle time after
 * which it is to be dropped if it has no sessions.  next_due is the earliest
 * of them, or earlier.  Failed drops are retried, with a delay that doubles
 * each time.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/procarray.h"
#include "utils/timestamp.h"

#include "expiry.h"
#include "registry_internal.h"

/*
 * Delays before dropping or removing a clone is retried, in s: the first one,
 * which doubles with each failure, and the longest; and the interval at which
 * the same failure is logged again, in s.
 */
#define RETRY_FIRST			1

#define RETRY_LONGEST		300

#define RETRY_DOUBLINGS		10

#define FAILURE_LOG_INTERVAL 3600

/*
 * Lower next_due, if this is earlier.
 */
void
lower_next_due(TimestampTz due)
{
	uint64		old = pg_atomic_read_u64(&registry->next_due);

	while ((uint64) due < old &&
		   !pg_atomic_compare_exchange_u64(&registry->next_due, &old, (uint64) due))
		;
}

/*
 * Return the time when a clone is to be dropped, or checked for that: 0 if
 * never.
 */
TimestampTz
clone_due(const TestdbClone *clone)
{
	TimestampTz due = clone->expires_at;

	if (clone->terms.idle_timeout > 0)
	{
		TimestampTz idle = clone->used_at +
			clone->terms.idle_timeout * USECS_PER_SEC;

		if (due == 0 || idle < due)
			due = idle;
	}
	return due;
}

/*
 * Fill in the fields of a clone that is handed out now with these terms.  It
 * is the caller's copy, or an entry whose mutex is held exclusively.
 */
void
registry_apply_terms(TestdbClone *clone, const LeaseTerms *terms)
{
	TimestampTz due;

	clone->lease = registry_next_serial();
	clone->terms = *terms;
	clone->created_at = GetCurrentTimestamp();
	clone->used_at = clone->created_at;
	clone->expires_at = terms->lifetime > 0 ?
		clone->created_at + terms->lifetime * USECS_PER_SEC : 0;
	due = clone_due(clone);
	if (due != 0)
		lower_next_due(due);
}

/*
 * Make the clones due that were to be dropped with this session.  Takes and
 * releases the registry lock and mutexes.
 */
void
registry_end_session(int pid)
{
	CloneScan	scan;
	CloneEntry *entry;
	TimestampTz now = GetCurrentTimestamp();

	clone_scan_begin(&scan, LW_EXCLUSIVE);
	while ((entry = clone_scan_next(&scan)) != NULL)
		if (entry->clone.terms.session_pid == pid &&
			(entry->clone.state == CLONE_LEASED ||
			 entry->clone.state == CLONE_DROPPING ||
			 entry->clone.state == CLONE_REWINDING))
			entry->clone.expires_at = now;
	clone_scan_end(&scan);
	lower_next_due(now);
}

/*
 * Record that a clone is used now, if it is LEASED and its sealed flag is as
 * given; false if not.  Takes and releases the registry lock and a mutex.
 */
static bool
note_use(Oid oid, bool sealed)
{
	CloneEntry *entry;
	bool		counts = false;

	entry = clone_acquire(oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		counts = entry->clone.state == CLONE_LEASED &&
			entry->clone.terms.sealed == sealed;
		if (counts)
			entry->clone.used_at = GetCurrentTimestamp();
		clone_release(entry);
	}

	return counts;
}

/*
 * Record that a session is in a clone; false if that need not be recorded
 * again when the session ends.  A session in a finished template is
 * autovacuum, and is not a use.  Takes and releases the registry lock and a
 * mutex.
 */
bool
registry_touch(Oid oid)
{
	return note_use(oid, false);
}

/*
 * Record that a finished template was requested.  Takes and releases the
 * registry lock and a mutex.
 */
void
registry_note_build_used(Oid oid)
{
	(void) note_use(oid, true);
}

/*
 * Find an expired clone and copy it to *clone: it becomes DROPPING.  If there
 * is none, return false and lower *delay_ms to the time until there may be
 * one.  Takes and releases the registry lock and mutexes.
 *
 * A clone that is used is not idle: its sessions are counted without a lock,
 * since one that connects at this moment could as well be a moment too late.
 */
bool
registry_take_expired(TestdbClone *clone, long *delay_ms)
{
	CloneScan	scan;
	CloneEntry *entry;
	TimestampTz now = GetCurrentTimestamp();
	uint64		due = pg_atomic_read_u64(&registry->next_due);
	TimestampTz next = PG_INT64_MAX;
	bool		found = false;

	if (due == NEVER_DUE)
		return false;
	if ((TimestampTz) due > now)
	{
		*delay_ms = Min(*delay_ms, TimestampDifferenceMilliseconds(now, due));
		return false;
	}

	/* Clones handed out from now on lower it again. */
	pg_atomic_write_u64(&registry->next_due, NEVER_DUE);
	clone_scan_begin(&scan, LW_EXCLUSIVE);
	while ((entry = clone_scan_next(&scan)) != NULL)
	{
		TimestampTz entry_due;

		if (entry->clone.state != CLONE_LEASED)
			continue;
		if (entry->clone.terms.idle_timeout > 0 &&
			CountDBBackends(entry->clone.oid) > 0)
			entry->clone.used_at = now;
		entry_due = Max(clone_due(&entry->clone), entry->retry_at);
		if (clone_due(&entry->clone) == 0)
			continue;
		if (entry_due > now || found)
			next = Min(next, entry_due);
		else
		{
			clone_set_state(entry, CLONE_DROPPING);
			*clone = entry->clone;
			found = true;
		}
	}
	clone_scan_end(&scan);
	if (next != PG_INT64_MAX)
	{
		lower_next_due(next);
		*delay_ms = Min(*delay_ms, TimestampDifferenceMilliseconds(now, next));
	}

	return found;
}

/*
 * Retry to drop a clone in this many seconds.  Takes and releases the
 * registry lock and a mutex.
 */
void
registry_extend(Oid oid, int seconds)
{
	CloneEntry *entry;
	TimestampTz at = GetCurrentTimestamp() + seconds * USECS_PER_SEC;

	entry = clone_acquire(oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		entry->retry_at = at;
		clone_release(entry);
	}
	lower_next_due(at);
}

/*
 * Record that dropping or removing a clone has failed with an error of this
 * hash.  It is retried in *delay seconds, later each time.  Returns whether
 * the failure should be logged: not if the last one was the same, unless that
 * is long ago.  Takes and releases the registry lock and a mutex.
 */
bool
registry_note_failure(Oid oid, uint32 hash, int *delay)
{
	CloneEntry *entry;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz at = 0;
	bool		log = true;

	*delay = RETRY_FIRST;
	entry = clone_acquire(oid, LW_EXCLUSIVE);
	if (entry != NULL)
	{
		*delay = Min(RETRY_FIRST << Min(entry->failures, RETRY_DOUBLINGS), RETRY_LONGEST);
		at = now + *delay * USECS_PER_SEC;
		log = entry->failures == 0 || entry->failure != hash ||
			now - entry->failure_logged_at >= FAILURE_LOG_INTERVAL * USECS_PER_SEC;
		entry->failures++;
		entry->failure = hash;
		if (log)
			entry->failure_logged_at = now;
		entry->retry_at = at;
		clone_release(entry);
	}
	if (at != 0)
		lower_next_due(at);
	return log;
}

/*
 * Report whether dropping or removing a clone failed before.  Takes and
 * releases the registry lock and a mutex.
 */
bool
registry_has_failed(Oid oid)
{
	CloneEntry *entry;
	bool		failed = false;

	entry = clone_acquire(oid, LW_SHARED);
	if (entry != NULL)
	{
		failed = entry->failures > 0;
		clone_release(entry);
	}

	return failed;
}
