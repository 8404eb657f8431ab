/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image_fix.c - puts right what would give an edit away: from the leaves up to the root, then superblocks.
 *
 * It believes nothing either: a tree may have been edited into a circle.
 */
#include "tests/fuzz/image.h"

#include <stdlib.h>
#include <string.h>

#define MAX_FIXED_NODES 4096u

struct fixer {
	struct image *im;
	uint8_t *seen;		/* by block: a node was put right here */
	uint8_t *used;		/* by block: something has it */
	uint64_t ninodes, max_ino;
	unsigned nnodes;
};

static bool block_ok(const struct fixer *f, uint64_t blkno)
{
	return blkno < f->im->sb.nblocks;
}

static void mark(struct fixer *f, uint64_t blkno, uint64_t n)
{
	for (uint64_t i = 0; i < n && i < EXTENT_MAX_BLOCKS && blkno < f->im->sb.nblocks; i++, blkno++)
		f->used[blkno] = 1;
}

static void fix_leaf(struct fixer *f, const struct disk_node *p)
{
	for (unsigned i = 0; i < get16(p->nitems) && i < MAX_NODE_ITEMS; i++) {
		const struct disk_slot *s = &p->slot[i];
		struct disk_extent ex;

		if (s->type == ITEM_INODE) {
			f->ninodes++;
			if (get64(s->object) > f->max_ino)
				f->max_ino = get64(s->object);
		}
		if (s->type == ITEM_EXTENT && get16(s->pos) <= BLOCK_SIZE - sizeof(ex)) {
			memcpy(&ex, (const char *)p + get16(s->pos), sizeof(ex));
			mark(f, get64(ex.blkno), get32(ex.nblocks));
		}
	}
}

static void fix_node(struct fixer *f, struct disk_ptr *ptr, unsigned depth)
{
	_Alignas(8) uint8_t block[BLOCK_SIZE];
	struct disk_node *p = (struct disk_node *)block;
	uint64_t b0 = get64(ptr->blkno[0]), b1 = get64(ptr->blkno[1]);

	if (!block_ok(f, b0) || depth > MAX_LEVEL + 2)
		return;
	dev_sim_peek(f->im->dev, b0 * BLOCK_SIZE, block, BLOCK_SIZE);
	if (!f->seen[b0] && f->nnodes++ < MAX_FIXED_NODES) {
		f->seen[b0] = 1;
		for (unsigned i = 0; p->level && i < get16(p->nitems) && i < MAX_NODE_ITEMS; i++) {
			unsigned pos = get16(p->slot[i].pos);
			struct disk_ptr child;

			if (pos > BLOCK_SIZE - sizeof(child))
				continue;
			memcpy(&child, block + pos, sizeof(child));
			fix_node(f, &child, depth + 1);
			memcpy(block + pos, &child, sizeof(child));
		}
		if (!p->level)
			fix_leaf(f, p);
		header_init(p, MAGIC_NODE, f->im->sb.uuid, b0, b1, get64(ptr->generation));
		header_seal(p);
		dev_sim_poke(f->im->dev, b0 * BLOCK_SIZE, block, BLOCK_SIZE);
		if (block_ok(f, b1))
			dev_sim_poke(f->im->dev, b1 * BLOCK_SIZE, block, BLOCK_SIZE);
		mark(f, b0, 1);
		mark(f, b1, 1);
	}
	ptr->csum = p->h.csum;
}

/* --- free space -------------------------------------------------------------------------------- */

static uint32_t fix_bitmap(struct fixer *f, bool from_use, struct disk_bitmap *b, const uint64_t blkno[2])
{
	const struct super *sb = &f->im->sb;
	uint32_t nfree = 0;

	for (uint64_t i = 0; from_use && i < GROUP_BLOCKS; i++) {
		bool used = i >= sb->nblocks || super_is_fixed(sb, i) || f->used[i];

		b->bits[i / 8] = (uint8_t)((b->bits[i / 8] & ~(1u << (i % 8))) | (unsigned)used << (i % 8));
	}
	for (unsigned i = 0; i < sizeof(b->bits); i++)
		nfree += 8 - (uint32_t)__builtin_popcount(b->bits[i]);
	b->nfree = put32(nfree);
	header_init(b, MAGIC_BITMAP, sb->uuid, blkno[0], blkno[1], get64(b->h.generation));
	header_seal(b);
	return nfree;
}

static void put_copies(struct fixer *f, const uint64_t blkno[2], const void *block)
{
	for (unsigned i = 0; i < 2; i++)
		dev_sim_poke(f->im->dev, blkno[i] * BLOCK_SIZE, block, BLOCK_SIZE);
}

/* The bitmap, its table's entry, the table, what the root says of it. */
static void fix_space(struct fixer *f, bool from_use, struct disk_root *root)
{
	_Alignas(8) uint8_t block[BLOCK_SIZE], bits[BLOCK_SIZE];
	struct disk_table *t = (struct disk_table *)block;
	uint64_t at[2];
	uint32_t nfree;

	image_where(f->im, OBJ_BITMAP, 0, at);
	dev_sim_peek(f->im->dev, at[0] * BLOCK_SIZE, bits, BLOCK_SIZE);
	nfree = fix_bitmap(f, from_use, (struct disk_bitmap *)bits, at);
	put_copies(f, at, bits);
	image_where(f->im, OBJ_TABLE, 0, at);
	dev_sim_peek(f->im->dev, at[0] * BLOCK_SIZE, block, BLOCK_SIZE);
	t->entry[0].csum = ((struct disk_header *)bits)->csum;
	if (from_use) {
		t->entry[0].info = put32((get32(t->entry[0].info) & ~0xffffu) | nfree);
		root->nfree = put64(nfree);
	}
	header_init(t, MAGIC_TABLE, f->im->sb.uuid, at[0], at[1], get64(t->h.generation));
	header_seal(t);
	put_copies(f, at, block);
	root->table_csum[0] = t->h.csum;
}

/* --- roots and superblocks --------------------------------------------------------------------- */

static void fix_root(struct fixer *f, unsigned fix)
{
	struct disk_root *root = &f->im->root;
	uint64_t at[2];

	fix_node(f, &root->tree, 0);
	fix_space(f, fix & FIX_SPACE, root);
	if (fix & FIX_COUNTS) {
		root->ninodes = put64(f->ninodes);
		if (get64(root->next_ino) <= f->max_ino && f->max_ino < UINT64_MAX / 2)
			root->next_ino = put64(f->max_ino + 1);
	}
	image_where(f->im, OBJ_ROOT, 0, at);
	header_seal(root);
	put_copies(f, at, root);
	/* The other slot is merely what it is. */
	uint8_t block[BLOCK_SIZE];

	image_where(f->im, OBJ_ROOT, 1, at);
	dev_sim_peek(f->im->dev, at[0] * BLOCK_SIZE, block, BLOCK_SIZE);
	header_seal(block);
	put_copies(f, at, block);
}

static void fix_supers(struct fixer *f)
{
	uint8_t block[BLOCK_SIZE];

	for (unsigned i = 0; i < SUPER_COPIES; i++) {
		uint64_t off = super_blkno(f->im->sb.nblocks, i) * BLOCK_SIZE;

		dev_sim_peek(f->im->dev, off, block, BLOCK_SIZE);
		header_seal(block);
		dev_sim_poke(f->im->dev, off, block, BLOCK_SIZE);
	}
}

int image_fix(struct image *im, unsigned fix)
{
	auto_free uint8_t *marks = calloc(2, im->sb.nblocks);
	struct fixer f = {.im = im, .seen = marks, .used = marks + im->sb.nblocks};

	if (!marks)
		return -ENOMEM;
	fix_root(&f, fix);
	fix_supers(&f);
	return 0;
}
