/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree_prepare.c - what mutations need and cost, before the first of them runs.
 *
 * The cost is an upper bound for a transaction's mutations in any order.  Why it holds:
 *
 * Copies: each key's path is charged, node by node; the mutations change no others (merges take only dirty neighbours).
 *
 * Splits: items are small enough (MAX_ITEM) that a growing mutation splits at most one node of each level.  In a leaf that has room
 * for all bytes that the transaction adds anywhere nothing splits.  A merge could put contents there that were not counted, but
 * leaves MERGE_SLACK bytes free: so if the transaction adds no more than that, merges do not matter.  Where that
 * reasoning does not hold, one split is charged for every growing mutation so far, whichever leaf it goes to.  The same
 * for inner nodes, where each split below adds a slot and a pointer.  A merge, a root collapse: one node less, which pays for
 * the split that may undo it.
 */
#include "core/tree_impl.h"

#define PTR_BYTES ((unsigned)(sizeof(struct disk_slot) + sizeof(struct disk_ptr)))

/*
 * A split leaves two nodes that can take half a node before they split again, save for splits at the right edge, of
 * which one half is full: so n insertions into a new level make at most this many nodes of that level and those above.
 */
#define NEW_LEVEL_NODES(n) (1 + (n) / 32)

/* Nodes that hang in the tree where their keys do not belong: another pointer led to them first. */
static int check_place(struct tree *t, const struct node *n, const struct miss *bounds)
{
	if (page_in_range(n->page, &bounds->lo, bounds->has_hi ? &bounds->hi : NULL))
		return 0;
	return corrupt(t->diag, "tree: block %llu (level %u) is not where its keys belong",
		       (unsigned long long)n->addr, n->page->level);
}

static int prepare_node(struct tree *t, const struct node *n, struct tree_cost *cost, struct miss *miss)
{
	unsigned copy;

	if (n->state == NODE_DIRTY)
		return 0;
	for (copy = 0; copy < 2; copy++) {
		uint64_t blkno = get64(n->page->h.blkno[copy]);
		int err = alloc_prepare_free(t->alloc, blkno, 1, miss);

		if (!err)
			err = alloc_claim(t->alloc, blkno, 1, n->addr);
		if (err)
			return err;
	}
	cost->nodes++;
	return 0;
}

/* Walks to the leaf and charges the nodes that the last key's path did not have. */
static int prepare_path(struct tree *t, const struct key *key, struct tree_cost *cost, struct miss *miss)
{
	struct miss bounds = {.kind = MISS_NONE};
	const struct disk_ptr *ptr = &t->root;
	unsigned level, i;
	struct node *n;

	for (level = t->level;; level--) {
		int err = tree_node_get(t, ptr, level, &n);

		if (err)
			return err == -ENOENT ? tree_miss(t, key, false, level, miss) : err;
		/* Also of the last key's path: another pointer may have led to the node now. */
		err = check_place(t, n, &bounds);
		if (!err && cost->last[level] != n)
			err = prepare_node(t, n, cost, miss);
		if (err)
			return err;
		cost->last[level] = n;
		if (level == 0) {
			n->ranged = true;
			n->lo = bounds.lo;
			n->hi = bounds.hi;
			n->has_hi = bounds.has_hi;
			leaf_remember(t, key, n);
			return 0;
		}
		i = page_child(n->page, key, false);
		bounds.lo = slot_key(&n->page->slot[i]);
		if (i + 1 < page_nitems(n->page)) {
			bounds.hi = slot_key(&n->page->slot[i + 1]);
			bounds.has_hi = true;
		}
		ptr = page_ptr(n->page, i);
	}
}

/* One split (or new root) at `level` for each of `n` growing mutations, save for those charged before. */
static void charge_splits(struct tree_cost *cost, unsigned level, uint64_t n)
{
	if (n <= cost->nsplits[level])
		return;
	cost->nodes += n - cost->nsplits[level];
	cost->nsplits[level] = n;
}

static bool may_overflow(const struct node *n, uint64_t bytes)
{
	return bytes > MERGE_SLACK || page_used(n->page) + bytes > NODE_SPACE;
}

static int charge_growth(struct tree *t, struct tree_cost *cost)
{
	unsigned level = 0;

	if (!may_overflow(cost->last[0], cost->nbytes))
		return 0;
	for (;;) {
		charge_splits(cost, level, cost->nputs);
		if (level == t->level)
			break;
		level++;
		if (!may_overflow(cost->last[level], cost->nputs * PTR_BYTES))
			return 0;
	}
	if (level == MAX_LEVEL)
		return corrupt(t->diag, "tree: full at level %u", level);
	charge_splits(cost, level + 1, NEW_LEVEL_NODES(cost->nputs));
	return 0;
}

/* With grow == 0 it is a change in place, unless the key is new: then it is an item without bytes. */
static bool is_growing(const struct disk_node *leaf, const struct key *key, unsigned grow)
{
	unsigned i;

	if (grow)
		return grow != TREE_SHRINKS;
	i = page_search(leaf, key);
	return i == page_nitems(leaf) || !slot_is(&leaf->slot[i], key);
}

/* A leaf that is dirty, and all above it (tree.h), costs nothing unless it splits.  Counts the growth; false: it may. */
static bool is_free(const struct node *leaf, const struct key *key, unsigned grow, struct tree_cost *cost)
{
	if (!is_growing(leaf->page, key, grow))
		return true;

	uint64_t nbytes = cost->nbytes + grow + sizeof(struct disk_slot);

	if (may_overflow(leaf, nbytes))
		return false;
	cost->nputs++;
	cost->nbytes = nbytes;
	return true;
}

int tree_prepare(struct tree *t, const struct key *key, unsigned grow, struct tree_cost *cost, struct miss *miss)
{
	const struct node *leaf = leaf_recall_dirty(t, key);
	int err;

	if (leaf && is_free(leaf, key, grow, cost))
		return 0;
	err = prepare_path(t, key, cost, miss);
	if (err)
		return err;
	leaf = cost->last[0];
	if (is_growing(leaf->page, key, grow)) {
		cost->nputs++;
		cost->nbytes += grow + sizeof(struct disk_slot);
		err = charge_growth(t, cost);
		if (err)
			return err;
	}
	return cache_reserve(t, cost->nodes);
}
