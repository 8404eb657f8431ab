/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree.h - the copy-on-write B+tree of items.
 *
 * Nodes are slotted pages (format.h: struct disk_node), the same bytes in memory and on disk.  A node on disk is never
 * changed: the first change after a freeze copies it ("dirty"); the next freeze gives dirty nodes two addresses,
 * generation and checksum; the caller writes them and then a root.  In memory, nodes live in a hash table by
 * their first address; a dirty node has a temporary one with the top bit set (TREE_TEMP), and parents name it in
 * their pointers, so that navigation is the same for both.
 *
 * No I/O here: a node that is not in memory is a miss (miss.h).  Mutation is in two steps: tree_prepare_*() walks the path and
 * returns -EAGAIN for what is missing, without having changed anything; when all of a transaction's keys are prepared,
 * in the same critical section, the mutations run and cannot fail.
 *
 * Numbered invariants (tree_assert() checks them, node_check() those of a page):
 *   1. A dirty node's ancestors are dirty.
 *   2. Every dirty node holds 2 blocks of the allocator's reservation.
 *   3. Frozen nodes are immutable and in memory until tree_thaw().
 *   4. Dirty and frozen nodes are not evicted; clean ones are, least recently used first, above the limit.
 *   5. Every node that can be found by its address is one that the tree, as it is now, points to.
 *   6. No node but the root is empty, save for dirty leaves, which the next freeze removes: a node goes away before that
 *      only by being merged with a dirty neighbour, so that the keys prepared together with the deleted one still have
 *      their paths in memory.
 *
 * Values returned by lookups point into nodes: valid until the next mutation, arrival or freeze, or the lock's release.
 * All functions: under the volume's lock; tree_lookup(), tree_first(), tree_next() and tree_seek*() may share it.
 */
#ifndef HOLDFAST_CORE_TREE_H
#define HOLDFAST_CORE_TREE_H

#include "core/alloc.h"
#include "core/miss.h"

#define TREE_TEMP (UINT64_C(1) << 63)

struct tree;

struct tree_stats {
	uint64_t cached, dirty, frozen;		/* nodes now in memory, and of those */
	uint64_t lookups, misses, splits, merges, copies, evictions;
	uint64_t limit;				/* of clean nodes */
	unsigned level;				/* of the root node */
};

/*
 * `root` NULL (or blkno 0): an empty tree (a dirty empty leaf; the allocator must have 2 blocks to reserve). `cache_nodes`: limit
 * of clean nodes in memory; raised to what one lookup needs.  It must have room for the paths of all keys that the operations
 * running at a time want together, or they keep evicting each other's nodes.  -EUCLEAN (root_level), -ENOMEM.
 */
int tree_create(const struct super *sb, struct alloc *alloc, const struct disk_ptr *root, unsigned root_level,
		uint64_t cache_nodes, const struct diag *diag, struct tree **out);
void tree_destroy(struct tree *t);
void tree_get_stats(const struct tree *t, struct tree_stats *out);

/*
 * Between hold and let go nothing is evicted: for one who works alone and needs more nodes at once than the cache may have room for (a
 * transaction of a damaged journal can name any number), and who would otherwise wait for them for ever.
 */
void tree_hold(struct tree *t);
void tree_let_go(struct tree *t);

/*
 * Does the tree still lack, and point to, the node that *miss asked for?  It may have arrived or been replaced since, and its blocks may
 * even belong to others by now; or the way to it has been evicted, then the next descent asks again.
 */
bool tree_wants(struct tree *t, const struct miss *miss);

/* The loader's result: `block` passed node_check() for the miss's ptr, level and range (copied).  A second arrival, or one for a
 * node that is no longer wanted, is harmless.  -ENOMEM; -EUCLEAN: empty, but not the root. */
int tree_node_arrived(struct tree *t, const struct miss *miss, const void *block);

/*
 * Read-ahead of leaves.  tree_ahead(): the leaf that *miss, which the tree wants, asked for, and its neighbours that are worth being read with
 * it: one node pointer after the other of the same parent, none in memory, and their first copies follow each other on the device.  What
 * each would have been missed as, in that order; *self is the one of *miss.  Returns their number, 1: only that one.
 *
 * tree_ahead_arrived() is tree_node_arrived() for a neighbour, to be called before the one that was missed.  Whether such leaves are used before
 * they are evicted decides whether more are read.
 */
#define TREE_AHEAD 16u
unsigned tree_ahead(struct tree *t, const struct miss *miss, struct miss *out, unsigned *self);
void tree_ahead_arrived(struct tree *t, const struct miss *miss, const void *block);

/* Copies the node that *ptr names as it is on the device, if that is in memory. */
bool tree_copy_cached(struct tree *t, const struct disk_ptr *ptr, void *block);

/* 0 and the value (not aligned); -ENOENT; -EAGAIN + *miss; as all that walks: -EUCLEAN if two pointers name one node. */
int tree_lookup(struct tree *t, const struct key *key, struct miss *miss, const void **val, unsigned *len);

/* The first item with key >= *key (tree_seek), or the last with key <= *key (tree_seek_back): its key, value.  -ENOENT; -EAGAIN. */
int tree_seek(struct tree *t, const struct key *key, struct miss *miss, struct key *found, const void **val,
	      unsigned *len);
int tree_seek_back(struct tree *t, const struct key *key, struct miss *miss, struct key *found, const void **val,
		   unsigned *len);

/*
 * Iteration: a cursor stays in one leaf as long as it can, so that walking n items costs n steps and few descents.
 * for (err = tree_first(t, &c, &key, miss); !err; err = tree_next(t, &c, miss)) { c.key, c.val, c.len }   ends with -ENOENT.
 * No mutation in between.
 */
struct tree_cursor {
	struct key key;
	const void *val;
	unsigned len;
	/* private */
	const struct disk_node *leaf;
	unsigned index;
	struct key leaf_end;
	bool has_end;
};
int tree_first(struct tree *t, struct tree_cursor *c, const struct key *key, struct miss *miss);
int tree_next(struct tree *t, struct tree_cursor *c, struct miss *miss);

/*
 * What a transaction's mutations will cost, summed over its keys by the preparing calls: an upper bound of the nodes that
 * become dirty.  Zero it, prepare every key, then alloc_prepare_reserve(2 * nodes).
 */
struct tree_cost {
	uint64_t nodes;
	/* private */
	const void *last[MAX_LEVEL + 1];	/* the path of the last key, by level: charged already */
	uint64_t nputs, nbytes;			/* that grow the tree, so far */
	uint64_t nsplits[MAX_LEVEL + 2];	/* charged, by the level of the node that splits; the last: new roots */
};

/*
 * The path to `key` is in memory, and the blocks that its clean nodes free when copied are prepared (alloc_prepare_free()).
 * `grow`: bytes of value that a put or growing patch may add; TREE_SHRINKS: the key is to be deleted.  One call per mutation, all before the first
 * mutation; these may then run in any order.  0, -EAGAIN + *miss, -EUCLEAN, -ENOMEM.
 */
#define TREE_SHRINKS UINT32_MAX
int tree_prepare(struct tree *t, const struct key *key, unsigned grow, struct tree_cost *cost, struct miss *miss);

/* Mutations, after preparation; they cannot fail.  Bytes given must not lie in the tree's nodes.
 * tree_put returns true if the key is new.  len <= MAX_ITEM. */
bool tree_put(struct tree *t, const struct key *key, const void *val, unsigned len);
/* The key exists (assert). */
void tree_del(struct tree *t, const struct key *key);
/* The key exists and at <= its length, at + len <= MAX_ITEM (assert): overwrites, and appends what reaches past the end. */
void tree_patch(struct tree *t, const struct key *key, unsigned at, const void *bytes, unsigned len);

/* --- checkpoint --- */

struct tree_frozen_node {
	uint64_t blkno[2];
	const void *block;	/* sealed; stays until tree_thaw() */
};
struct tree_freeze {
	struct tree_frozen_node *node;	/* children before their parents; ascending keys within a level as far as possible */
	uint64_t nnodes;
	struct disk_ptr root;		/* the tree as of the freeze */
	unsigned root_level;
};

/*
 * Removes empty nodes, gives every dirty node two blocks from the reservation, seals it with `generation` and makes it frozen.  The
 * blocks of the versions replaced since the last freeze were freed (alloc_free) as they were replaced.  One freeze at a time: the last one
 * is thawed.  An empty tree is a root that is an empty leaf.  With no dirty node: nnodes 0 and the root as it is.
 * -ENOMEM (nothing changed).
 */
int tree_freeze(struct tree *t, uint64_t generation, struct tree_freeze *out);
/* They are on disk and the root is durable: frozen nodes become clean, and evictable; those replaced meanwhile go away. */
void tree_thaw(struct tree *t, struct tree_freeze *f);

/* Dirty nodes now, for deciding when to checkpoint. */
uint64_t tree_ndirty(const struct tree *t);

/* Walks everything in memory and asserts the invariants; for tests and debug builds. */
void tree_assert(struct tree *t);

#endif
