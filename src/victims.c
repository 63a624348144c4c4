/*-------------------------------------------------------------------------
 *
 * victims.c
 *	  What is given up when testdb.max_clones, testdb.max_templates or the
 *	  disk is full.
 *
 * Spares and returned clones are given up: for a clone, those of the template
 * that has the most of them; for a template, those of the template whose last
 * request is the oldest.  The process that takes one drops it.
 *
 * Databases created by CREATE DATABASE have no lifetime, and must not occupy
 * all of testdb.max_clones.  They are let go: testdb removes their entries,
 * and they are ordinary databases from then on.  That is done with the least
 * recently used ones when only the last eighth of testdb.max_clones is left,
 * and with all of a template when its entry is needed.  The process that lets
 * one go removes its lease after the entry; a crash in between restores the
 * entry.
 *
 * Locks: the registry lock, then a template's mutex, as described in
 * registry.c.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "registry_internal.h"
#include "signals.h"
#include "victims.h"

/*
 * Take a spare or a returned clone, of the template that has the most of
 * them, to make room for another database: it becomes DROPPING, owned by this
 * process, and its entry is copied to *clone.  Those of spared_owner made
 * from spared_template are not taken.
 *
 * False if there is none; *coming then is true if another process is about to
 * make room.  Acquires and releases the registry lock and mutexes.
 */
bool
registry_take_victim(Oid spared_template, Oid spared_owner, TestdbClone *clone,
					 bool *coming)
{
	CloneEntry *victim = NULL;
	CloneScan	scan;
	CloneEntry *entry;
	int			most = 0;
	bool		found = false;

	*coming = false;
	clone_scan_begin(&scan, LW_SHARED);
	while ((entry = clone_scan_next(&scan)) != NULL)
	{
		TemplateEntry *template = clone_template(entry);
		CloneState	state = entry->clone.state;
		int			nspares = template->template.nclones[CLONE_SPARE] +
			template->template.nclones[CLONE_RETURNED];

		if ((state == CLONE_SPARE ||
			 (state == CLONE_RETURNED && !registry_is_stuck())) &&
			nspares > most &&
			(entry->clone.template_oid != spared_template ||
			 entry->clone.owner != spared_owner))
		{
			victim = entry;
			most = nspares;
		}
		else if (state == CLONE_DROPPING || state == CLONE_RETURNED ||
				 state == CLONE_RESTORING || state == CLONE_GARBAGE ||
				 state == CLONE_REMOVING ||
				 (state == CLONE_CREATING && entry->clone.ahead))
			*coming = true;
	}
	if (victim != NULL)
	{
		LWLock	   *mutex = clone_template(victim)->mutex;

		LWLockAcquire(mutex, LW_EXCLUSIVE);
		*coming = true;
		if (victim->clone.state == CLONE_SPARE ||
			victim->clone.state == CLONE_RETURNED)
		{
			clone_set_state(victim, CLONE_DROPPING);
			*clone = victim->clone;
			found = true;
		}
		LWLockRelease(mutex);
	}
	clone_scan_end(&scan);

	return found;
}

/*
 * Report whether a clone is in use, or is being created for a session, under
 * terms that do not allow it to be let go.  The registry lock must be held
 * exclusively.
 */
static bool
is_held(const TestdbClone *clone)
{
	switch (clone->state)
	{
		case CLONE_CREATING:
			return !clone->ahead;
		case CLONE_LEASED:
			return !clone->terms.database;
		case CLONE_REWINDING:
			return true;
		default:
			return false;
	}
}

/*
 * Return the time of the last request for a clone of a template; 0 if there
 * was none since server start.  The registry lock must be held exclusively.
 */
static TimestampTz
template_used_at(const TemplateEntry *entry)
{
	TimestampTz used_at = 0;

	for (int i = 0; i < MAX_DEMANDS; i++)
		used_at = Max(used_at, entry->demands[i].used_at);
	return used_at;
}

/*
 * Return the template whose entry can be reused: of those without clones in
 * use (see is_held) the one whose last request is the oldest; NULL if there
 * is none.  held is a work area of testdb.max_templates elements.  The
 * registry lock must be held exclusively.
 */
static TemplateEntry *
find_template_victim(bool *held)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;
	TemplateEntry *victim = NULL;

	memset(held, 0, testdb_max_templates * sizeof(bool));
	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (is_held(&entry->clone))
			held[entry->slot] = true;
	for (int i = 0; i < testdb_max_templates; i++)
	{
		TemplateEntry *template = &registry->templates[i];

		if (!held[i] &&
			(victim == NULL || template_used_at(template) < template_used_at(victim)))
			victim = template;
	}
	return victim;
}

/*
 * Take one of a template's clones, as described at
 * registry_take_template_victim; false if there is none.  The registry lock
 * and the mutex must be held exclusively.
 */
static bool
take_clone_of(TemplateEntry *template, TestdbClone *clone)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;
	CloneEntry *served = NULL;

	memset(template->demands, 0, sizeof(template->demands));
	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (clone_template(entry) != template)
			continue;
		if (entry->clone.state == CLONE_LEASED)
			served = entry;
		else if (entry->clone.state == CLONE_SPARE ||
				 entry->clone.state == CLONE_RETURNED)
		{
			hash_seq_term(&scan);
			clone_set_state(entry, CLONE_DROPPING);
			*clone = entry->clone;
			return true;
		}
	}
	if (served == NULL)
		return false;
	*clone = served->clone;
	registry_forget_entry(served);
	return true;
}

/*
 * If a template has no entry, and all testdb.max_templates entries have
 * clones, take a clone of a template that can give up its entry.  *clone is a
 * copy of its entry: either it is DROPPING, owned by this process, and the
 * caller must drop it, or it is LEASED, and has been let go.  False if there
 * is none, or no need; *coming is true if there may be one soon.  Acquires
 * and releases the registry lock and a mutex.
 */
bool
registry_take_template_victim(Oid template_oid, TestdbClone *clone, bool *coming)
{
	bool	   *held = palloc(testdb_max_templates * sizeof(bool));
	TemplateEntry *victim;
	bool		found = false;
	bool		needed;

	*coming = false;
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	needed = template_find(template_oid) == NULL &&
		template_find(InvalidOid) == NULL;
	for (int i = 0; needed && i < testdb_max_templates; i++)
		if (template_is_unused(&registry->templates[i]))
			needed = false;
	if (needed && (victim = find_template_victim(held)) != NULL)
	{
		LWLockAcquire(victim->mutex, LW_EXCLUSIVE);
		found = take_clone_of(victim, clone);
		LWLockRelease(victim->mutex);
		*coming = true;
	}
	LWLockRelease(registry->lock);
	pfree(held);

	return found;
}

/*
 * If only the last eighth of testdb.max_clones is left, let go of the least
 * recently used database created by CREATE DATABASE: its entry is removed,
 * and *oid is its OID.  False if there is none, or no need.  Acquires and
 * releases the registry lock.
 */
bool
registry_let_go(Oid *oid)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;
	CloneEntry *oldest = NULL;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	if (registry_is_nearly_full())
	{
		hash_seq_init(&scan, clone_hash);
		while ((entry = hash_seq_search(&scan)) != NULL)
			if (entry->clone.state == CLONE_LEASED && entry->clone.terms.database &&
				(oldest == NULL || entry->clone.used_at < oldest->clone.used_at))
				oldest = entry;
	}
	if (oldest != NULL)
	{
		*oid = oldest->clone.oid;
		registry_forget_entry(oldest);
	}
	LWLockRelease(registry->lock);

	return oldest != NULL;
}
