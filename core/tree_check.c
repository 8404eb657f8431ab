/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree_check.c - asserts the invariants that tree.h numbers.
 *
 * For tests and debug builds: walks all that is in memory below the root.  Nodes behind one that has been evicted are not seen.
 */
#include "core/tree_impl.h"

struct checker {
	struct tree *tree;
	uint64_t ndirty, nfrozen, nclean;	/* met in the walk */
	bool empty;				/* met an empty leaf below the root */
};

static void check_page(const struct disk_node *p)
{
	unsigned n = page_nitems(p), end = BLOCK_SIZE, i;

	for (i = 0; i < n; i++) {
		struct key key = slot_key(&p->slot[i]);

		assert(get16(p->slot[i].pos) + page_len(p, i) == end);
		assert(i == 0 || slot_before(&p->slot[i - 1], &key));
		assert(page_len(p, i) <= MAX_ITEM);
		assert(p->level == 0 || page_len(p, i) == sizeof(struct disk_ptr));
		end = get16(p->slot[i].pos);
	}
	assert(get16(p->data_pos) == end);
	assert(page_used(p) <= NODE_SPACE);
}

static void count_node(struct checker *c, const struct node *n)
{
	c->ndirty += n->state == NODE_DIRTY;
	c->nfrozen += n->state == NODE_FROZEN;
	c->nclean += n->state == NODE_CLEAN;
	assert(n->state != NODE_FREE && !n->detached);
	assert((n->state == NODE_DIRTY) == ((n->addr & TREE_TEMP) != 0));
	assert(n->state == NODE_DIRTY || get64(n->page->h.blkno[0]) == n->addr);
}

/* What a leaf says to be its own. */
static void check_range(const struct node *n, unsigned level, const struct key *lo, const struct key *hi)
{
	if (!n->ranged)
		return;
	assert(level == 0);
	assert(key_cmp(&n->lo, lo) >= 0);
	assert(!hi || (n->has_hi && key_cmp(&n->hi, hi) <= 0));
}

static void check_node(struct checker *c, const struct disk_ptr *ptr, unsigned level, enum node_state parent,
		       const struct key *lo, const struct key *hi)
{
	struct node *n = cache_find(c->tree, get64(ptr->blkno[0]));
	const struct disk_node *p;
	unsigned i;

	if (!n) {
		assert(!ptr_is_temp(ptr));
		return;
	}
	p = n->page;
	count_node(c, n);
	assert(n->state != NODE_DIRTY || parent == NODE_DIRTY);		/* 1 */
	assert(n->state != NODE_FROZEN || parent != NODE_CLEAN);
	assert(p->level == level);
	check_page(p);
	assert(page_in_range(p, lo, hi));
	check_range(n, level, lo, hi);
	if (page_nitems(p) == 0) {					/* 6 */
		assert(level == 0 && n->state == NODE_DIRTY);
		c->empty = true;
	}
	for (i = 0; level > 0 && i < page_nitems(p); i++) {
		struct key child = slot_key(&p->slot[i]), next;

		if (i + 1 < page_nitems(p))
			next = slot_key(&p->slot[i + 1]);
		check_node(c, page_ptr(p, i), level - 1, n->state, &child, i + 1 < page_nitems(p) ? &next : hi);
	}
}

static void check_lists(const struct tree *t)
{
	uint64_t nfree = 0, nclean = 0, nfrozen = 0, stamp = 0;
	const struct node *n;

	TAILQ_FOREACH(n, &t->free, link) {
		assert(n->state == NODE_FREE);
		nfree++;
	}
	TAILQ_FOREACH(n, &t->clean, link) {
		assert(n->state == NODE_CLEAN && n->stamp > stamp && cache_find(t, n->addr) == n);
		stamp = n->stamp;
		nclean++;
	}
	TAILQ_FOREACH(n, &t->frozen, link) {
		assert(n->state == NODE_FROZEN && (n->detached || cache_find(t, n->addr) == n));
		nfrozen++;
	}
	assert(nfree == t->nfree && nclean == t->nclean && nfrozen == t->nfrozen);
	assert(nfree + nclean + nfrozen + t->ndirty == t->nnodes);
}

void tree_assert(struct tree *t)
{
	struct checker c = {.tree = t};
	struct alloc_space space;
	struct node *root = cache_find(t, get64(t->root.blkno[0]));
	struct key lo = key_make(0, 0, 0);

	check_lists(t);
	if (root && t->level == 0 && page_nitems(root->page) == 0) {
		count_node(&c, root);
		check_page(root->page);
	} else {
		check_node(&c, &t->root, t->level, NODE_DIRTY, &lo, NULL);
	}
	assert(c.ndirty == t->ndirty);		/* dirty nodes are always reachable */
	assert(c.nfrozen <= t->nfrozen && c.nclean <= t->nclean);
	assert(!c.empty || t->prune);
	alloc_get_space(t->alloc, &space);
	assert(space.reserved >= 2 * t->ndirty);	/* 2 */
}
