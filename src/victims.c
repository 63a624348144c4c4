/*-------------------------------------------------------------------------
 *
 * victims.c
 *	  What gives way when testdb.max_clones, testdb.max_templates or the disk is
 *	  full.
 *
 * Spares give way, and clones that wait to become spares again: for a clone those
 * of the template that has the most of them, for a template those of the one that
 * nobody has asked for the longest time.  Whoever takes one drops it.
 *
 * Databases that CREATE DATABASE made stay for as long as their owners like, and
 * so must not use up places that testdb's callers need.  They are let go: testdb
 * forgets that it made them, and they are ordinary databases from then on.  Those
 * that nobody has used for the longest time are, when only the last eighth of
 * testdb.max_clones is left; and all of a template, when its place is needed.
 * Whoever lets one go removes its lease, after the entry: a crash in between brings
 * the entry back.
 *
 * Locks: the registry lock, then a template's mutex, as registry.c says.
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
 * Take a spare, or a clone that waits to become one again, that makes room for
 * something else, one of the template that has the most of them, but none of
 * this owner of spared_template: it becomes DROPPING, and is copied to *clone.
 * False if there is none; *coming then says whether somebody is about to make
 * room in another way.  Takes and releases the registry lock and mutexes.
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
 * Has somebody a clone who counts on testdb for it?  The registry lock is held.
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
 * When a template was last asked for a clone; 0 if it was not since the server's
 * start.
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
 * The template whose place can be had by another: of those of whose clones none
 * is held, the one that was asked for the longest time ago; or NULL.  held has
 * room for a flag for each.  The registry lock is held exclusively.
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
 * Take one of the clones of a template that gives way, as
 * registry_take_template_victim says.  The registry lock and the mutex are held
 * exclusively.
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
 * Take a clone of a template that gives its place among testdb.max_templates to
 * another, if that has none and none is free.  *clone is a copy of it, and either
 * DROPPING, to be dropped by the caller, or LEASED: then it has been let go.
 * False if there is none, or no need; *coming says whether there may be one soon.
 * Takes and releases the registry lock.
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
		/* Who waits for a spare looks at the list with the mutex alone. */
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
 * Let go of the database that CREATE DATABASE made and that was used longest ago,
 * if only the last eighth of testdb.max_clones is left: *oid is its OID.  False if
 * there is none, or no need.  Takes and releases the registry lock.
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
