/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree_rig.h - a tree over a real allocator and a "device" that is an array of block images, for tests.
 *
 * Checkpoints write here what the real ones write; blocks that the allocator releases lose their images, so that a read
 * of one fails the test.  Misses are served through the verifiers.
 */
#ifndef HOLDFAST_TESTS_UNIT_TREE_RIG_H
#define HOLDFAST_TESTS_UNIT_TREE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/tree.h"

#define RIG_STALE 8

struct rig {
	struct super sb;
	struct alloc *alloc;
	struct tree *tree;
	void **image;		/* by blkno; NULL: nothing there */
	uint64_t generation, cache_nodes, seed;
	bool raw;		/* leaves hold items that item_check() does not know */
	bool frozen;		/* a checkpoint is being written */
	struct tree_freeze tf;
	struct alloc_freeze af;
	uint8_t table_slot[MAX_TABLES / 8];
	uint64_t nbitmap_misses;
	uint64_t nfree0;	/* blocks that were free at first */
	/* Arrivals to be repeated when they are out of date. */
	struct miss stale_miss[RIG_STALE];
	char stale_block[RIG_STALE][BLOCK_SIZE];
	unsigned nstale;
};

static inline uint64_t rig_rand(struct rig *r)
{
	r->seed ^= r->seed << 13;
	r->seed ^= r->seed >> 7;
	r->seed ^= r->seed << 17;
	return r->seed;
}

static inline uint64_t rig_below(struct rig *r, uint64_t n)
{
	return (rig_rand(r) >> 16) % n;
}

static inline void rig_write(struct rig *r, uint64_t blkno, const void *block)
{
	assert_true(blkno < r->sb.nblocks);
	if (!r->image[blkno])
		r->image[blkno] = malloc(BLOCK_SIZE);
	memcpy(r->image[blkno], block, BLOCK_SIZE);
}

static inline const void *rig_read(const struct rig *r, uint64_t blkno)
{
	assert_true(blkno < r->sb.nblocks);
	assert_non_null(r->image[blkno]);
	return r->image[blkno];
}

static inline uint64_t rig_reserved(const struct rig *r)
{
	struct alloc_space s;

	alloc_get_space(r->alloc, &s);
	return s.reserved;
}

static inline uint64_t rig_nfree(const struct rig *r)
{
	struct alloc_space s;

	alloc_get_space(r->alloc, &s);
	return s.nfree;
}

static inline void rig_check(struct rig *r)
{
	tree_assert(r->tree);
	assert_int_equal(rig_reserved(r), 2 * tree_ndirty(r->tree));
}

/* --- misses ----------------------------------------------------------------------------------- */

static inline void rig_provide_node(struct rig *r, struct tree *t, const struct miss *m)
{
	unsigned copy;

	for (copy = 0; copy < 2; copy++) {
		uint64_t blkno = get64(m->ptr.blkno[copy]);
		const void *block = rig_read(r, blkno);

		if (r->raw && m->level == 0)
			assert_int_equal(header_check(block, MAGIC_NODE, &r->sb, blkno, NULL), 0);
		else
			assert_int_equal(node_check(block, &r->sb, &m->ptr, blkno, m->level, &m->lo,
						    m->has_hi ? &m->hi : NULL, NULL), 0);
		assert_int_equal(tree_node_arrived(t, m, block), 0);
	}
	if (t == r->tree && rig_below(r, 8) == 0) {
		unsigned i = r->nstale < RIG_STALE ? r->nstale++ : (unsigned)rig_below(r, RIG_STALE);

		r->stale_miss[i] = *m;
		memcpy(r->stale_block[i], rig_read(r, get64(m->ptr.blkno[0])), BLOCK_SIZE);
	}
}

static inline void rig_provide(struct rig *r, struct tree *t, const struct miss *m)
{
	uint32_t csum;
	unsigned slot;
	const void *block;

	if (m->kind == MISS_NODE) {
		rig_provide_node(r, t, m);
		return;
	}
	assert_int_equal(m->kind, MISS_BITMAP);
	r->nbitmap_misses++;
	alloc_bitmap_where(r->alloc, m->group, &slot, &csum);
	block = rig_read(r, bitmap_blkno(&r->sb, m->group, slot, 0));
	assert_int_equal(bitmap_check(block, &r->sb, m->group, slot, csum, NULL), 0);
	assert_int_equal(alloc_bitmap_arrived(r->alloc, m->group, block), 0);
}

/* An old read completes late. */
static inline void rig_deliver_stale(struct rig *r)
{
	unsigned i;

	if (r->nstale == 0)
		return;
	i = (unsigned)rig_below(r, r->nstale);
	assert_int_equal(tree_node_arrived(r->tree, &r->stale_miss[i], r->stale_block[i]), 0);
}

static inline void rig_reserve(struct rig *r, uint64_t n)
{
	struct miss m;
	int err;

	while ((err = alloc_prepare_reserve(r->alloc, n, false, &m)) == -EAGAIN)
		rig_provide(r, r->tree, &m);
	assert_int_equal(err, 0);
}

/* --- life ------------------------------------------------------------------------------------- */

static inline void rig_init(struct rig *r, uint64_t nblocks, uint64_t cache_nodes, uint64_t seed)
{
	memset(r, 0, sizeof(*r));
	r->sb.nblocks = nblocks;
	r->sb.journal_nblocks = MIN_JOURNAL;
	memset(r->sb.uuid, 0x5a, UUID_BYTES);
	assert_int_equal(super_layout(&r->sb), 0);
	r->image = calloc(nblocks, sizeof(void *));
	r->seed = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	r->cache_nodes = cache_nodes;
	assert_int_equal(alloc_create_empty(&r->sb, NULL, &r->alloc), 0);
	r->nfree0 = rig_nfree(r);
	rig_reserve(r, 2);
	assert_int_equal(tree_create(&r->sb, r->alloc, NULL, 0, cache_nodes, NULL, &r->tree), 0);
}

static inline void rig_destroy(struct rig *r)
{
	uint64_t i;

	if (r->frozen)
		alloc_freeze_drop(&r->af);
	tree_destroy(r->tree);
	alloc_destroy(r->alloc);
	for (i = 0; i < r->sb.nblocks; i++)
		free(r->image[i]);
	free(r->image);
}

/* Nothing of what a node held before reaches the device. */
static inline void rig_check_gap(const struct disk_node *n)
{
	const char *p = (const char *)&n->slot[get16(n->nitems)], *end = (const char *)n + get16(n->data_pos);

	for (; p < end; p++)
		assert_int_equal(*p, 0);
}

static inline void rig_freeze(struct rig *r)
{
	uint64_t i, ndirty = tree_ndirty(r->tree);
	unsigned copy;

	assert_false(r->frozen);
	r->generation++;
	assert_int_equal(tree_freeze(r->tree, r->generation, &r->tf), 0);
	assert_true(r->tf.nnodes <= ndirty);
	assert_int_equal(rig_reserved(r), 0);
	assert_int_equal(alloc_freeze(r->alloc, r->generation, &r->af), 0);
	for (i = 0; i < r->tf.nnodes; i++) {
		rig_check_gap(r->tf.node[i].block);
		for (copy = 0; copy < 2; copy++)
			rig_write(r, r->tf.node[i].blkno[copy], r->tf.node[i].block);
	}
	for (i = 0; i < r->af.nimages; i++)
		for (copy = 0; copy < 2; copy++)
			rig_write(r, r->af.image[i].blkno[copy], r->af.image[i].block);
	r->frozen = true;
}

static inline void rig_forget(void *arg, uint64_t blkno, uint64_t n)
{
	struct rig *r = arg;

	for (; n > 0; n--, blkno++) {
		free(r->image[blkno]);
		r->image[blkno] = NULL;
	}
}

static inline void rig_thaw(struct rig *r)
{
	uint64_t i;
	unsigned copy;

	assert_true(r->frozen);
	for (i = 0; i < r->tf.nnodes; i++)
		for (copy = 0; copy < 2; copy++)
			assert_memory_equal(r->tf.node[i].block, rig_read(r, r->tf.node[i].blkno[copy]), BLOCK_SIZE);
	tree_thaw(r->tree, &r->tf);
	memcpy(r->table_slot, r->af.table_slot, sizeof(r->table_slot));
	alloc_each_frozen(r->alloc, rig_forget, r);
	alloc_release(r->alloc, &r->af);
	r->frozen = false;
}

/* Checkpoint, close, and open what is on the device. */
static inline void rig_reopen(struct rig *r)
{
	struct disk_ptr root;
	unsigned level;
	uint64_t nfree;
	char *tables;
	uint32_t t;

	rig_freeze(r);
	root = r->tf.root;
	level = r->tf.root_level;
	nfree = r->af.nfree;
	rig_thaw(r);
	tree_destroy(r->tree);
	alloc_destroy(r->alloc);
	tables = malloc((size_t)r->sb.ntables * BLOCK_SIZE);
	for (t = 0; t < r->sb.ntables; t++) {
		unsigned slot = r->table_slot[t / 8] >> (t % 8) & 1;

		memcpy(tables + (size_t)t * BLOCK_SIZE, rig_read(r, table_blkno(&r->sb, t, slot, 0)), BLOCK_SIZE);
	}
	assert_int_equal(alloc_create(&r->sb, tables, r->table_slot, nfree, NULL, &r->alloc), 0);
	assert_int_equal(tree_create(&r->sb, r->alloc, &root, level, r->cache_nodes, NULL, &r->tree), 0);
	free(tables);
}

/* --- single mutations, prepared and run ------------------------------------------------------- */

static inline void rig_prepare(struct rig *r, const struct key *key, unsigned grow)
{
	struct tree_cost cost;
	struct miss m;
	int err;

	do {
		cost = (struct tree_cost){0};
		err = tree_prepare(r->tree, key, grow, &cost, &m);
		if (err == -EAGAIN)
			rig_provide(r, r->tree, &m);
	} while (err == -EAGAIN);
	assert_int_equal(err, 0);
	rig_reserve(r, 2 * cost.nodes);
}

static inline bool rig_put(struct rig *r, const struct key *key, const void *val, unsigned len)
{
	rig_prepare(r, key, len);
	return tree_put(r->tree, key, val, len);
}

static inline void rig_del(struct rig *r, const struct key *key)
{
	rig_prepare(r, key, 0);
	tree_del(r->tree, key);
}

/* Serves misses of a lookup until it has its answer. */
#define rig_wait(r, t, m, call)                                                                                        \
	({                                                                                                             \
		int err_;                                                                                              \
		while ((err_ = (call)) == -EAGAIN)                                                                     \
			rig_provide(r, t, m);                                                                          \
		err_;                                                                                                  \
	})

#endif
