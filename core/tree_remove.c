/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree_remove.c - deletion, merges, and the removal of empty nodes.
 *
 * A deletion may touch only what tree_prepare() saw: the path.  So a node that has become small is merged with a neighbour
 * only if that one is dirty, hence in memory and paid for; else it stays small, which is legal.  An empty leaf stays too, until
 * the freeze: its keys may be prepared for an insertion that comes next, and the path they would take without it is not.
 */
#include "core/tree_impl.h"

/* Merges children i and i + 1 of `parent` if both are dirty and fit. */
static bool merge_children(struct tree *t, struct node *parent, unsigned i)
{
	const struct disk_ptr *lptr, *rptr;
	struct node *left, *right;

	if (i + 1 >= page_nitems(parent->page))
		return false;
	lptr = page_ptr(parent->page, i);
	rptr = page_ptr(parent->page, i + 1);
	if (!ptr_is_temp(lptr) || !ptr_is_temp(rptr))
		return false;
	left = cache_find(t, get64(lptr->blkno[0]));
	right = cache_find(t, get64(rptr->blkno[0]));
	if (page_used(left->page) + page_used(right->page) > MERGE_MAX)
		return false;
	page_append(left->page, right->page, 0);
	/* Otherwise its own range is right still. */
	if (right->ranged) {
		left->hi = right->hi;
		left->has_hi = right->has_hi;
	}
	cache_drop(t, right);
	page_delete(parent->page, i + 1);
	t->merges++;
	return true;
}

void tree_collapse(struct tree *t)
{
	while (t->level > 0 && ptr_is_temp(&t->root)) {
		struct node *root = cache_find(t, get64(t->root.blkno[0]));

		if (page_nitems(root->page) > 1)
			return;
		t->root = *page_ptr(root->page, 0);
		t->level--;
		cache_drop(t, root);
	}
}

static void rebalance(struct tree *t, struct path *path)
{
	unsigned level;

	for (level = 0; level < t->level; level++) {
		struct node *parent = path->node[level + 1];
		unsigned i = path->index[level + 1];

		if (page_used(path->node[level]->page) > MERGE_BELOW)
			break;
		if ((i == 0 || !merge_children(t, parent, i - 1)) && !merge_children(t, parent, i))
			break;
	}
	tree_collapse(t);
}

/* Where the leaf is known, dirty, and stays large enough. */
static bool del_in(struct tree *t, const struct key *key)
{
	struct node *n = leaf_recall_dirty(t, key);

	if (!n)
		return false;

	unsigned i = page_search(n->page, key);

	assert(i < page_nitems(n->page) && slot_is(&n->page->slot[i], key));
	if (page_used(n->page) - page_len(n->page, i) - (unsigned)sizeof(struct disk_slot) <= MERGE_BELOW)
		return false;
	page_delete(n->page, i);
	return true;
}

void tree_del(struct tree *t, const struct key *key)
{
	struct disk_node *leaf;
	struct path path;
	unsigned i;

	if (del_in(t, key))
		return;
	tree_dirty_path(t, key, false, &path);
	leaf = path.node[0]->page;
	i = page_search(leaf, key);
	assert(i < page_nitems(leaf) && slot_is(&leaf->slot[i], key));
	page_delete(leaf, i);
	if (page_nitems(leaf) == 0)
		t->prune = true;
	rebalance(t, &path);
}

/* Below a dirty inner node: removes children that are empty, or are so once their own empty children are gone. */
static void prune_children(struct tree *t, struct node *n)
{
	unsigned i = 0;

	while (i < page_nitems(n->page)) {
		const struct disk_ptr *ptr = page_ptr(n->page, i);
		struct node *child;

		if (!ptr_is_temp(ptr)) {
			i++;
			continue;
		}
		child = cache_find(t, get64(ptr->blkno[0]));
		if (child->page->level > 0)
			prune_children(t, child);
		if (page_nitems(child->page) > 0) {
			i++;
			continue;
		}
		page_delete(n->page, i);
		cache_drop(t, child);
	}
}

void tree_prune(struct tree *t)
{
	struct node *root;

	if (!t->prune)
		return;
	t->prune = false;
	if (t->level == 0)
		return;
	root = cache_find(t, get64(t->root.blkno[0]));
	prune_children(t, root);
	if (page_nitems(root->page) == 0) {
		page_init(root->page, 0);
		t->level = 0;
	}
	tree_collapse(t);
}
