/* SPDX-License-Identifier: Apache-2.0 */
/*
 * newspace.c - blocks for the new nodes, then bitmaps, tables and roots of the new state.
 *
 * What the present root calls current is not written: bitmaps and tables go into the other slots, as a checkpoint's do.  Where it is not
 * known which slot is current (the table is lost), neither is of use to anybody.
 */
#include "fsck/rebuild_impl.h"

#include <stdlib.h>
#include <string.h>

#include "core/bits.h"

/* --- blocks ------------------------------------------------------------------------------------ */

/* The first block of [from, to) that is not busy, or `to`. */
static uint64_t free_search(const struct rebuilder *r, uint64_t from, uint64_t to)
{
	for (uint64_t b = from; b < to;) {
		const uint64_t *words = r->busy.group[b / GROUP_BLOCKS];
		uint64_t bit = b % GROUP_BLOCKS;

		if (!words)
			return b;
		uint64_t clear = ~words[bit / 64] & (UINT64_MAX << (bit % 64));

		if (!clear) {
			b += 64 - bit % 64;
			continue;
		}
		b += (unsigned)__builtin_ctzll(clear) - bit % 64;
		return b < to ? b : to;
	}
	return to;
}

static int free_take(struct rebuilder *r, unsigned copy, uint64_t *blkno)
{
	uint64_t begin = super_data_begin(r->sb), end = super_data_end(r->sb), ndup, first;
	uint64_t b = free_search(r, r->cursor[copy], end);
	int err;

	if (b == end)
		b = free_search(r, begin, end);
	if (b == end) {
		diag(r->opts->diag, DIAG_ERR,
		     "%s: there is no room for a new tree beside the old one; nothing was changed", r->q->dev->path);
		return -ENOSPC;
	}
	r->cursor[copy] = b + 1;
	err = blockset_add(&r->busy, b, 1, &ndup, &first);
	if (!err)
		err = blockset_add(&r->used, b, 1, &ndup, &first);
	*blkno = b;
	return err;
}

int newspace_get(void *arg, uint64_t blkno[2])
{
	struct rebuilder *r = arg;

	/* Copies lie apart: half of the volume, to begin with. */
	if (!r->cursor[0]) {
		r->cursor[0] = super_data_begin(r->sb);
		r->cursor[1] = (super_data_begin(r->sb) + super_data_end(r->sb)) / 2;
	}
	int err = free_take(r, 0, &blkno[0]);

	return err ? err : free_take(r, 1, &blkno[1]);
}

/* --- bitmaps and tables ------------------------------------------------------------------------ */

static int write_pair(struct rebuilder *r, const void *block)
{
	const struct disk_header *h = block;
	int err = 0;

	for (unsigned copy = 0; !err && copy < 2; copy++)
		err = dev_write(r->q, get64(h->blkno[copy]) * BLOCK_SIZE, block, BLOCK_SIZE, 0);
	return err;
}

/* Fixed blocks, and those behind the volume's end, count as used. */
static void bits_fill(const struct rebuilder *r, uint32_t g, uint64_t words[GROUP_WORDS])
{
	uint64_t base = (uint64_t)g * GROUP_BLOCKS, begin = super_data_begin(r->sb), end = super_data_end(r->sb);

	memcpy(words, r->used.group[g], GROUP_WORDS * sizeof(words[0]));
	if (begin > base)
		bits_set(words, 0, begin - base < GROUP_BLOCKS ? begin - base : GROUP_BLOCKS);
	if (end < base + GROUP_BLOCKS)
		bits_set(words, end > base ? end - base : 0, GROUP_BLOCKS);
}

static int bitmap_write(struct rebuilder *r, uint32_t g, unsigned slot, struct disk_table_entry *e)
{
	uint64_t *words = malloc(GROUP_WORDS * sizeof(*words));
	struct disk_bitmap *b = dev_alloc(BLOCK_SIZE, true);
	uint32_t nfree = 0;
	int err = words && b ? 0 : -ENOMEM;

	if (!err) {
		bits_fill(r, g, words);
		for (uint32_t w = 0; w < GROUP_WORDS; w++) {
			le64 raw = put64(words[w]);

			memcpy(b->bits + 8 * (size_t)w, &raw, sizeof(raw));
			nfree += (uint32_t)__builtin_popcountll(~words[w]);
		}
		header_init(b, MAGIC_BITMAP, r->sb->uuid, bitmap_blkno(r->sb, g, slot, 0), bitmap_blkno(r->sb, g, slot, 1),
			    r->generation);
		b->group = put32(g);
		b->nfree = put32(nfree);
		e->csum = put32(header_seal(b));
		e->info = put32(nfree | (slot ? TABLE_SLOT : 0));
		err = write_pair(r, b);
	}
	free(words);
	free(b);
	return err;
}

/* The table that the present root names, if it can be had. */
static bool old_table_read(struct rebuilder *r, uint32_t t, void *block)
{
	const struct disk_root *root = r->base->root;

	if (!root)
		return false;
	unsigned slot = root->table_slot[t / 8] >> (t % 8) & 1;

	for (unsigned copy = 0; copy < 2; copy++)
		if (!dev_read(r->q, table_blkno(r->sb, t, slot, copy) * BLOCK_SIZE, block, BLOCK_SIZE) &&
		    !table_check(block, r->sb, t, slot, get32(root->table_csum[t]), NULL))
			return true;
	return false;
}

static int table_fill(struct rebuilder *r, struct disk_table *table, const struct disk_table *old, uint64_t *nfree)
{
	uint32_t first = get32(table->index) * TABLE_GROUPS;
	int err = 0;

	for (uint32_t i = 0; !err && i < get32(table->nentries); i++) {
		struct disk_table_entry *e = &table->entry[i];
		uint32_t was = old ? get32(old->entry[i].info) : TABLE_UNINIT;
		unsigned slot = was & TABLE_UNINIT ? 0 : !(was & TABLE_SLOT);

		if (r->used.group[first + i])
			err = bitmap_write(r, first + i, slot, e);
		else
			e->info = put32(TABLE_UNINIT | group_ndata(r->sb, first + i));
		*nfree += TABLE_NFREE(get32(e->info));
	}
	return err;
}

static int table_write(struct rebuilder *r, uint32_t t, struct disk_root *root, uint64_t *nfree)
{
	uint32_t left = r->sb->ngroups - t * TABLE_GROUPS;
	unsigned slot = r->base->root ? !(r->base->root->table_slot[t / 8] >> (t % 8) & 1) : 0;
	struct disk_table *table = dev_alloc(BLOCK_SIZE, true), *old = dev_alloc(BLOCK_SIZE, false);
	int err = table && old ? 0 : -ENOMEM;

	if (!err) {
		header_init(table, MAGIC_TABLE, r->sb->uuid, table_blkno(r->sb, t, slot, 0), table_blkno(r->sb, t, slot, 1),
			    r->generation);
		table->index = put32(t);
		table->nentries = put32(left < TABLE_GROUPS ? left : TABLE_GROUPS);
		err = table_fill(r, table, old_table_read(r, t, old) ? old : NULL, nfree);
	}
	if (!err) {
		root->table_csum[t] = put32(header_seal(table));
		root->table_slot[t / 8] |= (uint8_t)(slot << (t % 8));
		err = write_pair(r, table);
	}
	free(table);
	free(old);
	return err;
}

int newspace_write(struct rebuilder *r, struct disk_root *root)
{
	uint64_t nfree = 0;
	int err = 0;

	for (uint32_t t = 0; !err && t < r->sb->ntables; t++)
		err = table_write(r, t, root, &nfree);
	root->nfree = put64(nfree);
	return err;
}

/* --- roots ------------------------------------------------------------------------------------- */

static int root_write(struct rebuilder *r, struct disk_root *root, uint64_t generation)
{
	unsigned slot = generation & 1;
	int err = 0;

	header_init(root, MAGIC_ROOT, r->sb->uuid, root_blkno(r->sb, slot, 0), root_blkno(r->sb, slot, 1), generation);
	header_seal(root);
	assert(root_check(root, r->sb, slot, NULL) == 0);
	for (unsigned copy = 0; !err && copy < 2; copy++)
		err = dev_write(r->q, get64(root->h.blkno[copy]) * BLOCK_SIZE, root, BLOCK_SIZE, DEV_DURABLE);
	return err;
}

/*
 * Twice: the first goes over the older of the two roots, and from then on the new state counts.  The second goes over the one that was the
 * newest until then, whose tree's blocks are free now.
 */
int newspace_write_roots(struct rebuilder *r, struct disk_root *root)
{
	int err = root_write(r, root, r->generation);

	return err ? err : root_write(r, root, r->generation + 1);
}
