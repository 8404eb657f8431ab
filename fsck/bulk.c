/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bulk.c - the loader.
 *
 * Nodes are filled to FILL bytes only: a tree whose every node is full splits one at nearly every insertion that follows.
 */
#include "fsck/bulk.h"

#include <stdlib.h>
#include <string.h>

#define FILL (NODE_SPACE - NODE_SPACE / 8)

/* Nodes on their way to the device. */
#define IN_FLIGHT 64u

struct bulk_write {
	struct dev_io io[2];
	struct bulk *b;
	unsigned pending;
	uint8_t *page;
};

struct level {
	uint8_t *page;		/* a disk_node without header */
	struct key first;	/* of the open node, if it has items */
};

struct bulk {
	struct dev_queue *q;
	const struct super *sb;
	uint64_t generation;
	bulk_space_fn *space;
	void *space_arg;
	struct level level[MAX_LEVEL];
	unsigned nlevels;
	struct bulk_write write[IN_FLIGHT];
	uint8_t *pages;		/* those of write[], then those of level[] */
	uint64_t nnodes;
	int err;		/* of a write */
};

int bulk_open(struct dev_queue *q, const struct super *sb, uint64_t generation, bulk_space_fn *space, void *arg,
	      struct bulk **out)
{
	struct bulk *b = calloc(1, sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->pages = dev_alloc((uint64_t)(IN_FLIGHT + MAX_LEVEL) * BLOCK_SIZE, true);
	if (!b->pages) {
		free(b);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < IN_FLIGHT; i++) {
		b->write[i].b = b;
		b->write[i].page = b->pages + (size_t)i * BLOCK_SIZE;
	}
	for (unsigned l = 0; l < MAX_LEVEL; l++)
		b->level[l].page = b->pages + (size_t)(IN_FLIGHT + l) * BLOCK_SIZE;
	b->q = q;
	b->sb = sb;
	b->generation = generation;
	b->space = space;
	b->space_arg = arg;
	*out = b;
	return 0;
}

static void bulk_drain(struct bulk *b)
{
	for (unsigned i = 0; i < IN_FLIGHT; i++)
		while (b->write[i].pending)
			dev_poll(b->q, -1);
}

void bulk_close(struct bulk *b)
{
	if (!b)
		return;
	bulk_drain(b);
	free(b->pages);
	free(b);
}

/* --- writing ----------------------------------------------------------------------------------- */

static void copy_written(struct bulk *b, struct bulk_write *w, int err)
{
	if (err && !b->err)
		b->err = err;
	w->pending--;
}

static void copy0_written(struct dev_io *io, int err)
{
	struct bulk_write *w = (struct bulk_write *)((char *)io - offsetof(struct bulk_write, io[0]));

	copy_written(w->b, w, err);
}

static void copy1_written(struct dev_io *io, int err)
{
	struct bulk_write *w = (struct bulk_write *)((char *)io - offsetof(struct bulk_write, io[1]));

	copy_written(w->b, w, err);
}

static void page_submit(struct bulk *b, const void *page, const uint64_t blkno[2])
{
	static dev_done_fn *const done[2] = {copy0_written, copy1_written};
	struct bulk_write *w = &b->write[b->nnodes % IN_FLIGHT];

	while (w->pending)
		dev_poll(b->q, -1);
	memcpy(w->page, page, BLOCK_SIZE);
	w->pending = 2;
	for (unsigned copy = 0; copy < 2; copy++) {
		dev_io_rw(&w->io[copy], DEV_WRITE, 0, blkno[copy] * BLOCK_SIZE, w->page, BLOCK_SIZE, done[copy]);
		dev_submit(b->q, &w->io[copy]);
	}
	b->nnodes++;
}

/* --- nodes ------------------------------------------------------------------------------------- */

static unsigned page_used(const struct disk_node *n)
{
	return get16(n->nitems) * (unsigned)sizeof(n->slot[0]) + (get16(n->nitems) ? BLOCK_SIZE - get16(n->data_pos) : 0);
}

static void page_append(struct disk_node *n, const struct key *key, const void *val, unsigned len)
{
	unsigned i = get16(n->nitems);
	unsigned pos = (i ? get16(n->data_pos) : BLOCK_SIZE) - len;

	n->slot[i] = (struct disk_slot){
		.object = put64(key->object),
		.offset = put64(key->offset),
		.type = key->type,
		.pos = put16((uint16_t)pos),
		.len = put16((uint16_t)len),
	};
	memcpy((uint8_t *)n + pos, val, len);
	n->data_pos = put16((uint16_t)pos);
	n->nitems = put16((uint16_t)(i + 1));
}

/* Ends the open node of a level, writes it and starts an empty one.  What its parent must say of it. */
static int node_close(struct bulk *b, unsigned l, struct disk_ptr *ptr)
{
	struct disk_node *n = (struct disk_node *)b->level[l].page;
	uint64_t blkno[2];
	int err = b->err ? b->err : b->space(b->space_arg, blkno);

	if (err)
		return err;
	n->level = (uint8_t)l;
	header_init(n, MAGIC_NODE, b->sb->uuid, blkno[0], blkno[1], b->generation);
	*ptr = (struct disk_ptr){
		.blkno = {put64(blkno[0]), put64(blkno[1])},
		.generation = put64(b->generation),
		.csum = put32(header_seal(n)),
	};
	/* The other side of the check: these bytes are ours, so whatever is wrong with them is too. */
	assert(node_check(n, b->sb, ptr, blkno[0], l, &b->level[l].first, NULL, NULL) == 0);
	page_submit(b, n, blkno);
	memset(n, 0, BLOCK_SIZE);
	return 0;
}

static int level_add(struct bulk *b, unsigned l, const struct key *key, const void *val, unsigned len);

static int level_pass_up(struct bulk *b, unsigned l)
{
	struct key first = b->level[l].first;
	struct disk_ptr ptr;
	int err = node_close(b, l, &ptr);

	return err ? err : level_add(b, l + 1, &first, &ptr, sizeof(ptr));
}

/* Recursion goes up the levels, so no deeper than MAX_LEVEL. */
static int level_add(struct bulk *b, unsigned l, const struct key *key, const void *val, unsigned len)
{
	struct level *level = &b->level[l];
	struct disk_node *n = (struct disk_node *)level->page;
	unsigned used = page_used(n);

	assert(l < MAX_LEVEL && len <= MAX_ITEM);
	if (l == b->nlevels)
		b->nlevels++;
	if (used && used + sizeof(n->slot[0]) + len > FILL) {
		int err = level_pass_up(b, l);

		if (err)
			return err;
	}
	if (get16(n->nitems) == 0)
		level->first = *key;
	page_append(n, key, val, len);
	return 0;
}

int bulk_add(struct bulk *b, const struct key *key, const void *val, unsigned len)
{
	return level_add(b, 0, key, val, len);
}

int bulk_end(struct bulk *b, struct disk_ptr *root, unsigned *level, uint64_t *nnodes)
{
	struct disk_ptr ptr;
	unsigned l = 0;
	int err = 0;

	assert(b->nlevels);
	/* Passing up may open one level more. */
	for (; !err && l + 1 < b->nlevels; l++)
		err = level_pass_up(b, l);
	if (!err)
		err = node_close(b, l, &ptr);
	bulk_drain(b);
	if (!err)
		err = b->err;
	if (err)
		return err;
	*root = ptr;
	*level = l;
	*nnodes = b->nnodes;
	return 0;
}
