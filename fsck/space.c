/* SPDX-License-Identifier: Apache-2.0 */
/*
 * space.c - allocation tables and bitmaps, and whether they say what the walk has found.
 *
 * A group whose bitmap is lost cannot be compared; a volume with lost tree nodes cannot tell leaked blocks.
 */
#include "fsck/check_impl.h"

#include <stdio.h>
#include <string.h>

/* A run of blocks about which the same is wrong; runs go on across words and groups. */
struct run {
	enum fsck_code code;
	const char *what;
	uint64_t blkno, n;
};

struct space {
	struct check *c;
	uint64_t nfree;			/* summed over the tables */
	bool tables_lost;
	struct run leaked, unmarked;
	uint64_t data_begin, data_end;	/* neither lies in a fixed area */
	uint8_t *block[2];		/* the copies that are being looked at */
	struct disk_table *table;
};

/* --- two copies -------------------------------------------------------------------------------- */

/* Returns a good one, having mended the other if that is wanted, or NULL after a finding. */
static const void *pick_copy(struct space *sp, const uint64_t blkno[2], bool ok[2], struct catcher k[2], const char *what,
			     enum fsck_code one_bad, enum fsck_code both_bad, int *err)
{
	if (!ok[0] && !ok[1]) {
		found(sp->c, both_bad, AT_BLOCK(blkno[0]), "%s: both copies are bad: %s", what, catcher_reason(&k[0]));
		return NULL;
	}
	for (unsigned i = 0; i < 2; i++) {
		if (ok[i])
			continue;
		found(sp->c, one_bad, AT_BLOCK(blkno[i]), "%s: copy %u at block %llu: %s; the other copy is good", what, i,
		      (unsigned long long)blkno[i], catcher_reason(&k[i]));
		*err = check_heal(sp->c, one_bad, blkno[i], sp->block[!i]);
		if (*err)
			return NULL;
	}
	return sp->block[ok[0] ? 0 : 1];
}

static const struct disk_table *table_read(struct space *sp, uint32_t t, int *err)
{
	struct check *c = sp->c;
	unsigned slot = c->root->table_slot[t / 8] >> (t % 8) & 1;
	uint64_t blkno[2] = {table_blkno(&c->sb, t, slot, 0), table_blkno(&c->sb, t, slot, 1)};
	struct catcher k[2];
	char what[48];
	bool ok[2];

	for (unsigned i = 0; i < 2; i++) {
		catcher_init(&k[i]);
		*err = check_read(c, blkno[i], sp->block[i], &k[i]);
		if (*err == -ENOMEM)
			return NULL;
		ok[i] = !*err && !table_check(sp->block[i], &c->sb, t, slot, get32(c->root->table_csum[t]), &k[i].diag);
	}
	*err = 0;
	snprintf(what, sizeof(what), "allocation table %u", t);
	return pick_copy(sp, blkno, ok, k, what, FSCK_TABLE_COPY, FSCK_TABLE_LOST, err);
}

static const struct disk_bitmap *bitmap_read(struct space *sp, uint32_t g, uint32_t info, uint32_t csum, int *err)
{
	struct check *c = sp->c;
	unsigned slot = (info & TABLE_SLOT) != 0;
	uint64_t blkno[2] = {bitmap_blkno(&c->sb, g, slot, 0), bitmap_blkno(&c->sb, g, slot, 1)};
	struct catcher k[2];
	char what[48];
	bool ok[2];

	for (unsigned i = 0; i < 2; i++) {
		catcher_init(&k[i]);
		*err = check_read(c, blkno[i], sp->block[i], &k[i]);
		if (*err == -ENOMEM)
			return NULL;
		ok[i] = !*err && !bitmap_check(sp->block[i], &c->sb, g, slot, csum, &k[i].diag);
	}
	*err = 0;
	snprintf(what, sizeof(what), "allocation bitmap of group %u", g);
	return pick_copy(sp, blkno, ok, k, what, FSCK_BITMAP_COPY, FSCK_BITMAP_LOST, err);
}

/* --- runs -------------------------------------------------------------------------------------- */

static void run_end(struct space *sp, struct run *r)
{
	if (r->n)
		found(sp->c, r->code, AT_BLOCK(r->blkno), "blocks %llu..%llu (%llu) %s", (unsigned long long)r->blkno,
		      (unsigned long long)(r->blkno + r->n - 1), (unsigned long long)r->n, r->what);
	r->n = 0;
}

static void run_add(struct space *sp, struct run *r, uint64_t blkno)
{
	if (r->n && r->blkno + r->n != blkno)
		run_end(sp, r);
	if (!r->n)
		r->blkno = blkno;
	r->n++;
}

static void runs_add_word(struct space *sp, struct run *r, uint64_t first, uint64_t bits)
{
	for (; bits; bits &= bits - 1)
		run_add(sp, r, first + (unsigned)__builtin_ctzll(bits));
}

/* --- groups ------------------------------------------------------------------------------------ */

/* Bits of the word at `first` that are used whatever the tree says; bitmap_check() has seen to them. */
static uint64_t fixed_bits(const struct space *sp, uint64_t first)
{
	uint64_t bits = 0;

	if (first >= sp->data_begin && first + 64 <= sp->data_end)
		return 0;
	for (unsigned i = 0; i < 64; i++)
		if (first + i < sp->data_begin || first + i >= sp->data_end)
			bits |= UINT64_C(1) << i;
	return bits;
}

static uint64_t bitmap_bits(const struct disk_bitmap *b, uint32_t word)
{
	le64 raw;

	memcpy(&raw, b->bits + 8 * (size_t)word, sizeof(raw));
	return get64(raw);
}

/* `b` NULL: the group was never written, so nothing of it but fixed blocks is marked. */
static void group_compare(struct space *sp, uint32_t g, const struct disk_bitmap *b)
{
	const uint64_t *used = sp->c->used.group[g];

	if (!b && !used)
		return;
	for (uint32_t w = 0; w < GROUP_WORDS; w++) {
		uint64_t first = (uint64_t)g * GROUP_BLOCKS + 64 * (uint64_t)w, fixed = fixed_bits(sp, first);
		uint64_t want = fixed | (used ? used[w] : 0), have = b ? bitmap_bits(b, w) : fixed;

		if (want == have)
			continue;
		runs_add_word(sp, &sp->unmarked, first, want & ~have);
		if (!sp->c->lost_nodes)
			runs_add_word(sp, &sp->leaked, first, have & ~want);
	}
}

static int group_check(struct space *sp, uint32_t g, const struct disk_table_entry *e)
{
	uint32_t info = get32(e->info);
	const struct disk_bitmap *b = NULL;
	int err = 0;

	sp->nfree += TABLE_NFREE(info);
	if (!(info & TABLE_UNINIT)) {
		b = bitmap_read(sp, g, info, get32(e->csum), &err);
		if (!b)
			return err;
		if (get32(b->nfree) != TABLE_NFREE(info))
			found(sp->c, FSCK_TABLE_NFREE, AT_BLOCK(get64(b->h.blkno[0])),
			      "group %u: the table counts %u free blocks, the bitmap has %u", g, TABLE_NFREE(info), get32(b->nfree));
	}
	group_compare(sp, g, b);
	return 0;
}

static int table_check_groups(struct space *sp, uint32_t t)
{
	uint32_t first = t * TABLE_GROUPS;
	int err = 0;
	const struct disk_table *found_table = table_read(sp, t, &err);

	if (!found_table) {
		sp->tables_lost = true;
		return err;
	}
	memcpy(sp->table, found_table, BLOCK_SIZE);	/* its buffer is needed for the bitmaps */
	for (uint32_t e = 0; !err && e < get32(sp->table->nentries); e++) {
		err = group_check(sp, first + e, &sp->table->entry[e]);
		if (!err)
			err = check_tick(sp->c, 4, first + e, sp->c->sb.ngroups);
	}
	return err;
}

static int space_run(struct space *sp)
{
	struct check *c = sp->c;
	uint64_t want = get64(c->root->nfree);
	int err = 0;

	for (uint32_t t = 0; !err && t < c->sb.ntables; t++)
		err = table_check_groups(sp, t);
	if (err)
		return err;
	run_end(sp, &sp->unmarked);
	run_end(sp, &sp->leaked);
	if (!sp->tables_lost && sp->nfree != want)
		found(c, FSCK_ROOT_NFREE, AT_NOWHERE, "the root counts %llu free blocks, the tables %llu", (unsigned long long)want,
		      (unsigned long long)sp->nfree);
	if (c->lost_nodes)
		found(c, FSCK_NOT_CHECKED, AT_NOWHERE,
		      "leaked blocks, link counts and missing inodes could not be checked, as parts of the tree are lost");
	return 0;
}

int check_space(struct check *c)
{
	auto_free uint8_t *blocks = dev_alloc(3 * BLOCK_SIZE, false);
	struct space sp = {
		.c = c,
		.leaked = {.code = FSCK_SPACE_LEAKED, .what = "are marked used, but belong to nothing"},
		.unmarked = {.code = FSCK_SPACE_UNMARKED, .what = "are in use, but marked free"},
		.data_begin = super_fixed_end(&c->sb, 0),
	};

	if (!blocks)
		return -ENOMEM;
	sp.data_end = super_fixed_end(&c->sb, sp.data_begin);
	sp.block[0] = blocks;
	sp.block[1] = blocks + BLOCK_SIZE;
	sp.table = (struct disk_table *)(blocks + 2 * BLOCK_SIZE);
	return space_run(&sp);
}
