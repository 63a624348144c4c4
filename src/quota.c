/*-------------------------------------------------------------------------
 *
 * quota.c
 *	  How many clones and templates a role may have.
 *
 * A clone counts toward testdb.max_clones_per_role for its payer: the role
 * that requested it, even if another one owns it now.  It counts from when
 * registry_charge() allows it to be handed out, under the registry lock held
 * exclusively, so that concurrent calls cannot exceed the limit, until it is
 * dropped; also while it is DROPPING, as that may fail; after a reset its
 * replacement counts.  Spares have no payer, since they can be given up.
 * After a crash the owner in the lease is the payer.  A database created by
 * CREATE DATABASE has none.
 *
 * The last eighth of testdb.max_clones and of testdb.max_templates, which is
 * zero if that is below 8, is not available to a role that is not a superuser
 * and already has its fair share: the limit divided by one more than the
 * number of roles that have clones, including the caller.  Resets are exempt.
 * A template counts for each role that has clones of it.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "guc.h"
#include "quota.h"
#include "registry_internal.h"

/* Maximum number of roles distinguished when counting shares. */
#define MAX_SHARERS			64

/* Clones and templates in use, as counted by count_shares. */
typedef struct Shares
{
	int			nroles;			/* roles with clones, and the role itself */
	Oid			roles[MAX_SHARERS];
	int			clones;			/* of all */
	int			own_clones;		/* of the role */
	int			templates;
	int			own_templates;
	char	   *seen;			/* for each template: 1 if it has clones, 2 if
								 * it has some of the role */
} Shares;

/*
 * Return the role for which an entry counts, or InvalidOid.  A spare, ready
 * or being created, counts only if another one is requested.
 */
static Oid
clone_sharer(const CloneEntry *entry, bool spare)
{
	if (OidIsValid(entry->payer))
		return entry->payer;
	if ((entry->clone.state == CLONE_CREATING && !entry->clone.ahead) ||
		(spare && entry->clone.state != CLONE_GARBAGE &&
		 entry->clone.state != CLONE_REMOVING))
		return entry->clone.owner;
	return InvalidOid;
}

/*
 * Count the clones and templates in use, in total and by the role; spare as
 * above.  The registry lock is held exclusively.
 */
static void
count_shares(Oid role, bool spare, Shares *shares)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;

	shares->nroles = 1;
	shares->roles[0] = role;
	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		Oid			sharer = clone_sharer(entry, spare);
		int			i = 0;

		if (!OidIsValid(sharer))
			continue;
		shares->clones++;
		shares->own_clones += sharer == role;
		shares->seen[entry->slot] |= sharer == role ? 3 : 1;
		while (i < shares->nroles && shares->roles[i] != sharer)
			i++;
		if (i == shares->nroles && i < MAX_SHARERS)
			shares->roles[shares->nroles++] = sharer;
	}
	for (int i = 0; i < testdb_max_templates; i++)
	{
		shares->templates += (shares->seen[i] & 1) != 0;
		shares->own_templates += (shares->seen[i] & 2) != 0;
	}
}

/*
 * Report whether a role that has own of the used items, of at most limit, may
 * not have one more.  False if all are in use, which is another error.
 */
static bool
exceeds_share(int used, int own, int limit, int nroles)
{
	return used < limit && used >= limit - limit / 8 && own >= limit / (nroles + 1);
}

/*
 * Raise an error, 53400, if a role that is not a superuser has its fair share
 * of clones, or of templates if this one has no clones yet, and only the last
 * eighth is left; spare means that a spare is to be created.  Takes and
 * releases the registry lock.
 *
 * Concurrent calls may each get one of the last eighth; there are no more of
 * them than workers.
 */
void
registry_check_share(Oid template_oid, Oid role, bool spare)
{
	Shares		shares = {0};
	TemplateEntry *template;
	bool		new_template;
	bool		too_many_clones;
	bool		too_many_templates;

	shares.seen = palloc0(testdb_max_templates);
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	count_shares(role, spare, &shares);
	template = template_find(template_oid);
	new_template = template == NULL ||
		shares.seen[template - registry->templates] == 0;
	LWLockRelease(registry->lock);
	pfree(shares.seen);

	too_many_clones = exceeds_share(shares.clones, shares.own_clones,
									testdb_max_clones, shares.nroles);
	too_many_templates = new_template &&
		exceeds_share(shares.templates, shares.own_templates,
					  testdb_max_templates, shares.nroles);
	if (too_many_clones)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases created by testdb"),
				 errdetail("%d of %d are in use, %d of them by this role; the rest is reserved for other roles.",
						   shares.clones, testdb_max_clones, shares.own_clones),
				 errhint("Drop some with testdb_drop, or increase \"%s\".",
						 "testdb.max_clones")));
	if (too_many_templates)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many templates have clones"),
				 errdetail("%d of %d are in use, %d of them by this role; the rest is reserved for other roles.",
						   shares.templates, testdb_max_templates, shares.own_templates),
				 errhint("Drop all clones of a template, or increase \"%s\".",
						 "testdb.max_templates")));
}

/*
 * The same for a spare that is to be handed out, which was not in use when it
 * was created.  Cheap, and without a lock, unless only the last eighth of
 * testdb.max_clones is left, including all spares.
 */
void
registry_check_share_with_spare(Oid template_oid, Oid role)
{
	if (registry_is_nearly_full() && !superuser_arg(role))
		registry_check_share(template_oid, role, false);
}

/*
 * Count the clones that a role pays for.  The registry lock is held
 * exclusively.
 */
static int
count_paid(Oid role)
{
	HASH_SEQ_STATUS scan;
	CloneEntry *entry;
	int			n = 0;

	hash_seq_init(&scan, clone_hash);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (entry->payer == role)
			n++;
	return n;
}

/*
 * Return the number of clones that a role pays for.  Acquires and releases
 * the registry lock.
 */
int
registry_count_paid(Oid role)
{
	int			n;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	n = count_paid(role);
	LWLockRelease(registry->lock);

	return n;
}

/*
 * Charge a clone that is about to be handed out to a role.  False, with
 * nothing changed, if the role has limit of them already; *n is how many it
 * has.  Takes and releases the registry lock.
 */
bool
registry_charge(Oid oid, Oid role, int limit, int *n)
{
	CloneEntry *entry;
	bool		done;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	*n = count_paid(role);
	done = *n < limit;
	entry = done ? clone_find(oid) : NULL;
	if (entry != NULL)
		entry->payer = role;
	LWLockRelease(registry->lock);

	return done;
}
