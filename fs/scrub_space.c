/* SPDX-License-Identifier: Apache-2.0 */
/* scrub_space.c - superblocks, the root that is not the newest, allocation tables and bitmaps. */
#include "fs/scrub_impl.h"

#include <stdlib.h>
#include <string.h>

/* --- superblocks ------------------------------------------------------------------------------- */

static int super_verify(struct scrub *s, void *arg, const void *block, uint64_t blkno, const struct diag *d)
{
	struct super sb;
	int err = super_decode(block, blkno, s->v->dev->size >> BLOCK_SHIFT, d, &sb);

	(void)arg;
	if (!err && memcmp(&sb, &s->v->sb, sizeof(sb)) != 0)
		return corrupt(d, "says something else than the volume's");
	return err ? -EUCLEAN : 0;
}

static void super_bad(struct scrub *s, unsigned copy, uint64_t blkno)
{
	bool repaired = false;
	auto_free void *good = dev_alloc(BLOCK_SIZE, true);

	if (good) {
		super_encode(&s->v->sb, copy, good);
		repaired = scrub_rewrite(s, blkno, good, super_verify, NULL);
	}
	s->res->bad_copies++;
	scrub_found(s, SCRUB_COPY, repaired, blkno, "superblock: copy %u at block %llu is bad%s", copy,
		    (unsigned long long)blkno, repaired ? ", rewritten" : "");
}

int scrub_supers(struct scrub *s)
{
	auto_free void *block = dev_alloc(BLOCK_SIZE, false);

	if (!block)
		return -ENOMEM;
	volume_super_begin(s->v, s->q);
	for (unsigned copy = 0; copy < SUPER_COPIES; copy++) {
		uint64_t blkno = super_blkno(s->v->sb.nblocks, copy);
		int err = dev_read(s->q, blkno * BLOCK_SIZE, block, BLOCK_SIZE);

		s->res->meta_blocks++;
		if (err || super_verify(s, NULL, block, blkno, NULL))
			super_bad(s, copy, blkno);
	}
	volume_super_end(s->v);
	return scrub_pace(s);
}

/* --- the root before the newest ---------------------------------------------------------------- */

/*
 * It is of use only if the newest is lost.  The next checkpoint overwrites it, at any time: what was read counts only if none has begun.
 * True: all is well, or cannot be known now.
 */
static bool other_root_good(struct scrub *s, uint64_t *blkno)
{
	unsigned slot = (s->generation + 1) & 1;
	bool good = true;

	for (unsigned copy = 0; copy < 2 && good; copy++) {
		*blkno = root_blkno(&s->v->sb, slot, copy);
		good = !dev_read(s->q, *blkno * BLOCK_SIZE, s->scratch, BLOCK_SIZE) &&
		       !root_check(s->scratch, &s->v->sb, slot, NULL);
	}
	volume_lock(s->v);
	if (s->v->checkpoint_running || s->v->generation != s->generation)
		good = true;
	volume_unlock(s->v);
	return good;
}

/* A volume that takes no changes may be as a crash has left it: then a torn older root is nothing. */
int scrub_other_root(struct scrub *s)
{
	uint64_t blkno;
	bool good;
	int err = scrub_hold(s);

	if (err)
		return err;
	good = other_root_good(s, &blkno);
	bool clean = get64(s->root->flags) & ROOT_CLEAN;
	scrub_let_go(s);
	s->res->meta_blocks += 2;
	if (good || (s->v->flags & VOLUME_READ_ONLY && !clean))
		return scrub_pace(s);

	bool repaired = false;

	if (s->repair) {
		uint64_t newest = s->generation;

		scrub_checkpoint(s);
		err = scrub_hold(s);
		if (err)
			return err;
		/* The next one was written there; by now it may be the older one itself. */
		repaired = s->generation > newest;
		scrub_let_go(s);
	}
	s->res->bad_copies++;
	s->res->repaired += repaired;
	scrub_found(s, SCRUB_COPY, repaired, blkno,
		    "checkpoint root before the newest: copy at block %llu is bad%s",
		    (unsigned long long)blkno, repaired ? ", replaced by a checkpoint" : "");
	return scrub_pace(s);
}

/* --- tables and bitmaps ------------------------------------------------------------------------ */

#define BITMAPS 64u /* of groups that are read at once, under one hold */

struct space {
	uint32_t t; /* the table */
	bool have; /* ... is in `table`, as a root with this checksum of it names it */
	uint32_t csum;
	struct disk_table *table;
	uint8_t *blocks; /* 2 * BITMAPS */
	struct scrub_pair pair[BITMAPS];
	uint32_t group[BITMAPS];
	unsigned n;
};

static int table_verify(struct scrub *s, void *arg, const void *block, uint64_t blkno, const struct diag *d)
{
	uint32_t t = *(uint32_t *)arg;
	unsigned slot = s->root->table_slot[t / 8] >> (t % 8) & 1;

	(void)blkno;
	return table_check(block, &s->v->sb, t, slot, get32(s->root->table_csum[t]), d);
}

/* Of the root that is held; -EUCLEAN: lost. */
static int table_load(struct scrub *s, struct space *sp)
{
	unsigned slot = s->root->table_slot[sp->t / 8] >> (sp->t % 8) & 1;
	struct scrub_pair *p = &sp->pair[0];
	struct scrub_why why;
	const void *good;
	int err;

	if (sp->have && sp->csum == get32(s->root->table_csum[sp->t]))
		return 0;
	for (unsigned i = 0; i < 2; i++)
		p->blkno[i] = table_blkno(&s->v->sb, sp->t, slot, i);
	err = scrub_read(s, p, 1);
	if (err)
		return err;
	good = scrub_settle(s, p, table_verify, &sp->t, "allocation table", &why);
	if (!good) {
		scrub_note_damage(s);
		scrub_lost_meta(s, p->blkno[0], "allocation table", &why);
		return -EUCLEAN;
	}
	memcpy(sp->table, good, BLOCK_SIZE);
	sp->have = true;
	sp->csum = get32(s->root->table_csum[sp->t]);
	return 0;
}

struct bitmap_id {
	uint32_t group, info, csum;
};

static int bitmap_verify(struct scrub *s, void *arg, const void *block, uint64_t blkno, const struct diag *d)
{
	const struct bitmap_id *id = arg;

	(void)blkno;
	return bitmap_check(block, &s->v->sb, id->group, id->info & TABLE_SLOT ? 1 : 0, id->csum, d);
}

static struct bitmap_id bitmap_id(const struct space *sp, uint32_t e)
{
	const struct disk_table_entry *entry = &sp->table->entry[e];

	return (struct bitmap_id){sp->t * TABLE_GROUPS + e, get32(entry->info), get32(entry->csum)};
}

static int bitmaps_check(struct scrub *s, struct space *sp)
{
	int err = scrub_read(s, sp->pair, sp->n);

	for (unsigned i = 0; !err && i < sp->n; i++) {
		struct bitmap_id id = bitmap_id(sp, sp->group[i]);
		struct scrub_why why;

		if (scrub_settle(s, &sp->pair[i], bitmap_verify, &id, "allocation bitmap", &why))
			continue;
		scrub_note_damage(s);
		scrub_lost_meta(s, sp->pair[i].blkno[0], "allocation bitmap", &why);
	}
	return err;
}

/* Bitmaps of the table's entries from *e on, as many as fit. */
static void bitmaps_pick(struct scrub *s, struct space *sp, uint32_t *e, uint32_t end)
{
	for (sp->n = 0; *e < end && sp->n < BITMAPS; ++*e) {
		struct bitmap_id id = bitmap_id(sp, *e);

		/* Never written. */
		if (id.info & TABLE_UNINIT)
			continue;
		sp->group[sp->n] = *e;
		for (unsigned i = 0; i < 2; i++)
			sp->pair[sp->n].blkno[i] =
				bitmap_blkno(&s->v->sb, id.group, id.info & TABLE_SLOT ? 1 : 0, i);
		sp->n++;
	}
}

/* One hold: the table, and some of its bitmaps. */
static int space_batch(struct scrub *s, struct space *sp, uint32_t *e, uint32_t end)
{
	int err = scrub_hold(s);

	if (err)
		return err;
	err = table_load(s, sp);
	if (!err) {
		bitmaps_pick(s, sp, e, end);
		err = sp->n ? bitmaps_check(s, sp) : 0;
	}
	scrub_let_go(s);
	return err;
}

static int scrub_table(struct scrub *s, struct space *sp)
{
	uint32_t first = sp->t * TABLE_GROUPS, e = 0;
	uint32_t end = s->v->sb.ngroups - first < TABLE_GROUPS ? s->v->sb.ngroups - first : TABLE_GROUPS;
	int err = 0;

	sp->have = false;
	while (!err && e < end) {
		err = space_batch(s, sp, &e, end);
		/* Without a table nothing is known of its bitmaps. */
		if (err == -EUCLEAN)
			return scrub_pace(s);
		if (!err)
			err = scrub_pace(s);
	}
	return err;
}

int scrub_space(struct scrub *s)
{
	struct space sp = {0};
	int err = -ENOMEM;

	sp.table = dev_alloc(BLOCK_SIZE, false);
	sp.blocks = dev_alloc((uint64_t)2 * BITMAPS * BLOCK_SIZE, false);
	if (sp.table && sp.blocks) {
		for (unsigned i = 0; i < 2 * BITMAPS; i++)
			sp.pair[i / 2].block[i % 2] = sp.blocks + (size_t)i * BLOCK_SIZE;
		err = 0;
		for (sp.t = 0; !err && sp.t < s->v->sb.ntables; sp.t++)
			err = scrub_table(s, &sp);
	}
	free(sp.blocks);
	free(sp.table);
	return err;
}
