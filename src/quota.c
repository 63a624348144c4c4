/*-------------------------------------------------------------------------
 *
 * quota.c
 *	  How many clones and templates a role may have.
 *
 * A clone counts to testdb.max_clones_per_role for its payer: the role that
 * asked for it, whoever owns it now.  It does from the moment at which
 * registry_charge() allows it to be handed out, under the registry lock held
 * exclusively, so that no two calls are both the last, until it is dropped;
 * also while it is DROPPING, as that may be refused, and its replacement does
 * after a reset.  Spares have no payer: they make way for others.  A crash
 * leaves the owner that the lease has as the payer.  A database that CREATE
 * DATABASE made has none.
 *
 * The last eighth of testdb.max_clones and of testdb.max_templates, which is
 * none if that is below 8, is not for a role that is no superuser and that
 * has its fair share already: the limit divided by one more than the number
 * of roles that have clones, the caller being one of them.  Resets are
 * exempt.  A template counts to each role that has clones of it.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "quota.h"
#include "registry_internal.h"

/* How many roles are told apart when fair shares are counted. */
#define MAX_SHARERS			64

/* Who has how many clones and templates, as count_shares finds it. */
typedef struct Shares
{
	int			nroles;			/* roles that have clones, or are the one meant */
	Oid			roles[MAX_SHARERS];
	int			clones;			/* of all */
	int			own_clones;		/* of the role */
	int			templates;
	int			own_templates;
	char	   *seen;			/* for each template: 1 if it has clones, 2 if it
								 * has some of the role */
} Shares;

/*
 * Does an entry count in shares, and to whom?  InvalidOid if not.  A spare does
 * only if another is asked for.
 */
static Oid
clone_sharer(const CloneEntry *entry, bool spare)
{
	if (OidIsValid(entry->payer))
		return entry->payer;
	if (entry->clone.state == CLONE_CREATING ||
		(spare && entry->clone.state != CLONE_GARBAGE))
		return entry->clone.owner;
	return InvalidOid;
}

/*
 * Count what there is, and what the role has of it; spare as above.  The
 * registry lock is held exclusively.
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
 * Is one more of what there are limit of, of which used are in use, not for a
 * role that has own of them?  If all are in use, that is another error.
 */
static bool
exceeds_share(int used, int own, int limit, int nroles)
{
	return used < limit && used >= limit - limit / 8 && own >= limit / (nroles + 1);
}

/*
 * Raise an error, 53400, if a role that is no superuser has its fair share of
 * clones, or of templates if the one in question has no clones of anybody,
 * and only the last eighth is left; spare says that a spare is to be made.
 * Takes and releases the registry lock.
 *
 * Calls at the same time may each get one of the last eighth: there are no more
 * of them than workers.
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
 * How many clones count to a role.  The registry lock is held exclusively.
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
 * The same, for who has not begun to make one.  Takes and releases the registry
 * lock.
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
 * Let a clone that is about to be handed out count to a role, unless that has
 * limit of them already: *n is how many it has.  False, with nothing changed,
 * if so.  Takes and releases the registry lock.
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
