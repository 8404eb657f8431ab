/* SPDX-License-Identifier: Apache-2.0 */
/*
 * roots.c - the superblock's three copies, and the two root slots of two copies each.
 *
 * A change of the superblock writes copy after copy.  All that it holds is in one sector, so a power cut leaves the new version in the first
 * copies and the old one in the others, and a root that is not clean.
 *
 * A checkpoint writes copy 0 of a slot, then copy 1.  So a power cut may leave one copy of one slot torn, or the second one older
 * than the first; that heals with the next checkpoint, and is damage only on a volume that was unmounted cleanly.
 */
#include "fsck/check_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "journal/volume.h"

/* --- superblocks ------------------------------------------------------------------------------- */

struct supers {
	struct super sb[SUPER_COPIES];
	bool ok[SUPER_COPIES];
};

static bool same_super(const struct super *a, const struct super *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

/* May it be what was there before `sb`, by an open volume's hand? */
static bool is_older_super(const struct super *old, const struct super *sb)
{
	struct super same = *old;

	same.incompat = sb->incompat;
	memcpy(same.label, sb->label, sizeof(same.label));
	return same_super(&same, sb) && !(old->incompat & ~sb->incompat);
}

static bool is_clean(struct check *c, void *block)
{
	return volume_read_root(c->q, &c->sb, NULL, false, block) || get64(((struct disk_root *)block)->flags) & ROOT_CLEAN;
}

/* Are they as a power cut in the middle of a change leaves them? */
static bool is_interrupted(struct check *c, const struct supers *s, void *block)
{
	for (unsigned copy = 0; copy < SUPER_COPIES; copy++) {
		if (!s->ok[copy])
			return false;
	}
	static_assert(SUPER_COPIES == 3, "two versions, of which one is in the middle");
	return same_super(&s->sb[0], &c->sb) && is_older_super(&s->sb[2], &s->sb[0]) &&
	       (same_super(&s->sb[1], &s->sb[0]) || same_super(&s->sb[1], &s->sb[2])) && !is_clean(c, block);
}

static void read_supers(struct check *c, struct supers *s, void *block)
{
	for (unsigned copy = 0; copy < SUPER_COPIES; copy++) {
		uint64_t blkno = super_blkno(c->sb.nblocks, copy);
		struct catcher k;

		catcher_init(&k);
		s->ok[copy] = !check_read(c, blkno, block, &k) &&
			      !super_decode(block, blkno, c->q->dev->size >> BLOCK_SHIFT, &k.diag, &s->sb[copy]);
	}
}

static int check_super_copy(struct check *c, unsigned copy, enum fsck_code differs, void *block)
{
	uint64_t blkno = super_blkno(c->sb.nblocks, copy);
	struct catcher k;
	struct super sb;

	catcher_init(&k);
	int err = check_read(c, blkno, block, &k);
	if (!err)
		err = super_decode(block, blkno, c->q->dev->size >> BLOCK_SHIFT, &k.diag, &sb);
	if (err == -ENOMEM)
		return err;
	if (!err && memcmp(&sb, &c->sb, sizeof(sb)) == 0)
		return 0;
	if (err == -ENOENT)
		found(c, FSCK_SUPER_COPY, AT_BLOCK(blkno), "superblock copy %u at block %llu: is not there", copy,
		      (unsigned long long)blkno);
	else if (err)
		found(c, FSCK_SUPER_COPY, AT_BLOCK(blkno), "superblock copy %u at block %llu: %s", copy,
		      (unsigned long long)blkno, catcher_reason(&k));
	else
		found(c, differs, AT_BLOCK(blkno), "superblock copy %u at block %llu differs from what counts", copy,
		      (unsigned long long)blkno);
	super_encode(&c->sb, copy, block);
	return check_heal(c, err ? FSCK_SUPER_COPY : differs, blkno, block);
}

static int check_features(struct check *c)
{
	uint32_t unknown = (c->sb.incompat & ~FEATURE_INCOMPAT_KNOWN) | (c->sb.ro_compat & ~FEATURE_RO_COMPAT_KNOWN);

	if (!unknown)
		return 0;
	diag(c->opts->diag, DIAG_ERR,
	     "%s: made by a newer version: unknown features (incompatible 0x%x, read-only compatible 0x%x)",
	     c->q->dev->path, c->sb.incompat & ~FEATURE_INCOMPAT_KNOWN, c->sb.ro_compat & ~FEATURE_RO_COMPAT_KNOWN);
	return -ENOTSUP;
}

int check_supers(struct check *c)
{
	int err = volume_read_super(c->q, c->opts->diag, &c->sb);

	if (err)
		return err;
	c->res->sb = c->sb;
	err = check_features(c);
	if (err)
		return err;
	auto_free void *block = dev_alloc(BLOCK_SIZE, false);
	auto_free struct supers *s = calloc(1, sizeof(*s));
	if (!block || !s)
		return -ENOMEM;
	read_supers(c, s, block);
	enum fsck_code differs = is_interrupted(c, s, block) ? FSCK_SUPER_INTERRUPTED : FSCK_SUPER_DIFFERS;
	for (unsigned copy = 0; !err && copy < SUPER_COPIES; copy++)
		err = check_super_copy(c, copy, differs, block);
	return err;
}

/* --- roots ------------------------------------------------------------------------------------- */

struct root_copy {
	struct disk_root *block;
	bool ok;
	char why[200];
};

static uint64_t root_generation(const struct root_copy *rc)
{
	return rc->ok ? get64(rc->block->h.generation) : 0;
}

static int read_root_copy(struct check *c, unsigned slot, unsigned copy, struct root_copy *out)
{
	struct catcher k;

	catcher_init(&k);
	int err = check_read(c, root_blkno(&c->sb, slot, copy), out->block, &k);
	if (!err)
		err = root_check(out->block, &c->sb, slot, &k.diag);
	if (err == -ENOMEM)
		return err;
	out->ok = err == 0;
	snprintf(out->why, sizeof(out->why), "%s", catcher_reason(&k));
	return 0;
}

/* Which of a slot's two copies a mount takes: the newer one that is good. */
static unsigned root_best(const struct root_copy copy[2])
{
	return root_generation(&copy[1]) > root_generation(&copy[0]);
}

/*
 * One slot's two copies, given whether a crash may be the reason for what they are.  The first is written first: if it is behind the second its
 * write was lost.
 */
static int judge_slot(struct check *c, const struct root_copy copy[2], unsigned slot, bool clean)
{
	enum fsck_code code = clean ? FSCK_ROOT_COPY : FSCK_ROOT_INTERRUPTED;
	uint64_t blkno = root_blkno(&c->sb, slot, 0);
	int err = 0;

	if (!copy[0].ok && !copy[1].ok) {
		found(c, FSCK_ROOT_SLOT, AT_BLOCK(blkno),
		      "root slot %u: both copies: %s; if it was the newer root, the changes since are lost", slot, copy[0].why);
		return 0;
	}
	for (unsigned i = 0; !err && i < 2; i++) {
		if (copy[i].ok)
			continue;
		found(c, code, AT_BLOCK(root_blkno(&c->sb, slot, i)), "root slot %u, copy %u at block %llu: %s; the other copy is good",
		      slot, i, (unsigned long long)root_blkno(&c->sb, slot, i), copy[i].why);
		err = check_heal(c, code, root_blkno(&c->sb, slot, i), copy[!i].block);
	}
	if (err || !copy[0].ok || !copy[1].ok || root_generation(&copy[0]) == root_generation(&copy[1]))
		return err;
	unsigned best = root_best(copy);

	code = best ? FSCK_ROOT_COPY : FSCK_ROOT_INTERRUPTED;
	found(c, code, AT_BLOCK(root_blkno(&c->sb, slot, !best)), "root slot %u: the copies are of checkpoints %llu and %llu", slot,
	      (unsigned long long)root_generation(&copy[0]), (unsigned long long)root_generation(&copy[1]));
	return check_heal(c, code, root_blkno(&c->sb, slot, !best), copy[best].block);
}

static void take_root(struct check *c, const struct disk_root *root)
{
	struct fsck_result *res = c->res;

	memcpy(c->root, root, BLOCK_SIZE);
	c->have_root = true;
	res->generation = get64(root->h.generation);
	res->ninodes = get64(root->ninodes);
	res->nfree = get64(root->nfree);
	res->error_count = get64(root->error_count);
	res->last_error_sec = get64(root->last_error_sec);
}

/* As a mount would choose: of each slot the newer good copy, of those the newer. */
static int judge_roots(struct check *c, struct root_copy copy[2][2])
{
	const struct root_copy *slot[2], *newest;
	int err = 0;

	for (unsigned s = 0; s < 2; s++)
		slot[s] = &copy[s][root_best(copy[s])];
	newest = root_generation(slot[1]) > root_generation(slot[0]) ? slot[1] : slot[0];
	if (!newest->ok) {
		found(c, FSCK_ROOT_LOST, AT_BLOCK(ROOT_BLKNO), "both checkpoint roots are lost: %s", copy[0][0].why);
		return 0;
	}
	bool clean = get64(newest->block->flags) & ROOT_CLEAN;

	for (unsigned s = 0; !err && s < 2; s++)
		err = judge_slot(c, copy[s], s, clean);
	c->res->root_clean = clean && slot[0]->ok && slot[1]->ok;
	take_root(c, newest->block);
	if (c->res->error_count)
		found(c, FSCK_ROOT_ERRORS, AT_NOWHERE, "damage was met %llu times while mounted",
		      (unsigned long long)c->res->error_count);
	return err;
}

int check_roots(struct check *c)
{
	auto_free uint8_t *blocks = dev_alloc(4 * BLOCK_SIZE, false);
	struct root_copy copy[2][2];
	int err = blocks ? 0 : -ENOMEM;

	for (unsigned i = 0; !err && i < 4; i++) {
		copy[i / 2][i % 2].block = (struct disk_root *)(blocks + i * BLOCK_SIZE);
		err = read_root_copy(c, i / 2, i % 2, &copy[i / 2][i % 2]);
	}
	if (err)
		return err;
	err = judge_roots(c, copy);
	c->res->roots_ok = c->res->nerrors == 0;
	return err;
}
