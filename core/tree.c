/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree.c - life of a tree, descents, lookups and cursors.
 *
 * A descent follows pointers from t->root down and needs every node on its way in memory; where one is not, it starts over slowly
 * to find the bounds that the loader wants (tree_miss()).  Nothing here changes the tree; pages are only read.
 */
#include "core/tree_impl.h"

#include <stdlib.h>
#include <string.h>

int tree_create(const struct super *sb, struct alloc *alloc, const struct disk_ptr *root, unsigned root_level,
		uint64_t cache_nodes, const struct diag *d, struct tree **out)
{
	struct tree *t;

	if (root_level > MAX_LEVEL)
		return corrupt(d, "tree: a root of level %u", root_level);
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->alloc = alloc;
	t->diag = d;
	t->limit = cache_nodes;
	t->ahead_credit = TREE_AHEAD_CREDIT;
	memcpy(t->uuid, sb->uuid, UUID_BYTES);
	if (cache_create(t) || cache_reserve(t, 1)) {
		tree_destroy(t);
		return -ENOMEM;
	}
	if (root && get64(root->blkno[0])) {
		t->root = *root;
		t->level = root_level;
	} else {
		t->root = ptr_temp(cache_new(t, 0));
	}
	*out = t;
	return 0;
}

void tree_destroy(struct tree *t)
{
	if (!t)
		return;
	cache_destroy(t);
	free(t->frozen_array);
	free(t);
}

void tree_get_stats(const struct tree *t, struct tree_stats *out)
{
	*out = (struct tree_stats){
		.cached = t->nclean + t->ndirty + t->nfrozen,
		.dirty = t->ndirty,
		.frozen = t->nfrozen,
		.lookups = tally_sum(&t->lookups, 0),
		.misses = t->misses,
		.splits = t->splits,
		.merges = t->merges,
		.copies = t->copies,
		.evictions = t->evictions,
		.limit = t->limit,
		.level = t->level,
	};
}

uint64_t tree_ndirty(const struct tree *t)
{
	return t->ndirty;
}

/* --- descents --------------------------------------------------------------------------------- */

int tree_wrong_level(struct tree *t, const struct node *n, unsigned level)
{
	return corrupt(t->diag, "tree: block %llu is pointed to as level %u and as level %u",
		       (unsigned long long)n->addr, level, n->page->level);
}

int tree_miss(struct tree *t, const struct key *key, bool before, unsigned level, struct miss *miss)
{
	struct disk_ptr *ptr = &t->root;
	unsigned l;

	*miss = (struct miss){.kind = MISS_NODE, .level = level};
	for (l = t->level; l > level; l--) {
		const struct disk_node *p = cache_find(t, get64(ptr->blkno[0]))->page;
		unsigned i = page_child(p, key, before);

		miss->lo = slot_key(&p->slot[i]);
		if (i + 1 < page_nitems(p)) {
			miss->hi = slot_key(&p->slot[i + 1]);
			miss->has_hi = true;
		}
		ptr = page_ptr(p, i);
	}
	assert(!ptr_is_temp(ptr));	/* dirty nodes are in memory */
	miss->ptr = *ptr;
	t->misses++;
	return -EAGAIN;
}

/* Where a descent has come to. */
struct spot {
	const struct disk_node *leaf;
	const struct disk_slot *lower;	/* all keys in leaves before this one are lower than its key; NULL: no such leaf */
	const struct disk_slot *upper;	/* the next leaf's keys begin here; NULL: no next leaf */
};

static int descend(struct tree *t, const struct key *key, bool before, struct spot *s, struct miss *miss)
{
	const struct disk_ptr *ptr = &t->root;
	unsigned level, i;
	struct node *n;

	tally_add(&t->lookups, 0, 1);
	s->lower = s->upper = NULL;
	for (level = t->level;; level--) {
		int err = tree_node_get(t, ptr, level, &n);

		if (__builtin_expect(err, 0))
			return err == -ENOENT ? tree_miss(t, key, before, level, miss) : err;
		if (level == 0)
			break;
		i = page_child(n->page, key, before);
		if (i > 0)
			s->lower = &n->page->slot[i];
		if (i + 1 < page_nitems(n->page))
			s->upper = &n->page->slot[i + 1];
		ptr = page_ptr(n->page, i);
	}
	s->leaf = n->page;
	if (!before)
		leaf_remember(t, key, n);
	return 0;
}

/* The leaf that *key belongs to. */
static int find_leaf(struct tree *t, const struct key *key, const struct disk_node **leaf, struct miss *miss)
{
	const struct node *n = leaf_recall(t, key);
	struct spot s;

	if (n) {
		tally_add(&t->lookups, 0, 1);
		*leaf = n->page;
		return 0;
	}
	int err = descend(t, key, false, &s, miss);
	if (!err)
		*leaf = s.leaf;
	return err;
}

int tree_lookup(struct tree *t, const struct key *key, struct miss *miss, const void **val, unsigned *len)
{
	const struct disk_node *leaf;
	int err = find_leaf(t, key, &leaf, miss);

	if (err)
		return err;
	unsigned i = page_search(leaf, key);
	if (i == page_nitems(leaf) || !slot_is(&leaf->slot[i], key))
		return -ENOENT;
	*val = page_value(leaf, i);
	*len = page_len(leaf, i);
	return 0;
}

static void cursor_set(struct tree_cursor *c, unsigned i)
{
	c->index = i;
	c->key = slot_key(&c->leaf->slot[i]);
	c->val = page_value(c->leaf, i);
	c->len = page_len(c->leaf, i);
}

/* The lowest key that is higher. */
static struct key key_behind(const struct key *key)
{
	struct key k = *key;

	if (++k.offset == 0 && ++k.type == 0)
		k.object++;
	return k;
}

/* tree_first() without a descent.  Where the next leaf begins is not known, but that it is behind the last key. */
static bool first_in(struct tree *t, struct tree_cursor *c, const struct key *key)
{
	const struct node *n = leaf_recall(t, key);
	unsigned i = n ? page_search(n->page, key) : 0;

	if (!n || i == page_nitems(n->page))
		return false;

	struct key last = slot_key(&n->page->slot[page_nitems(n->page) - 1]);

	tally_add(&t->lookups, 0, 1);
	c->leaf = n->page;
	c->has_end = true;
	c->leaf_end = key_behind(&last);
	cursor_set(c, i);
	return true;
}

int tree_first(struct tree *t, struct tree_cursor *c, const struct key *key, struct miss *miss)
{
	struct key from = *key;
	struct spot s;
	unsigned i;

	if (first_in(t, c, &from))
		return 0;
	for (;;) {
		int err = descend(t, &from, false, &s, miss);

		if (err)
			return err;
		i = page_search(s.leaf, &from);
		if (i < page_nitems(s.leaf))
			break;
		if (!s.upper)
			return -ENOENT;
		from = slot_key(s.upper);
	}
	c->leaf = s.leaf;
	c->has_end = s.upper != NULL;
	if (s.upper)
		c->leaf_end = slot_key(s.upper);
	cursor_set(c, i);
	return 0;
}

int tree_next(struct tree *t, struct tree_cursor *c, struct miss *miss)
{
	if (c->index + 1 < page_nitems(c->leaf)) {
		cursor_set(c, c->index + 1);
		return 0;
	}
	if (!c->has_end)
		return -ENOENT;
	return tree_first(t, c, &c->leaf_end, miss);
}

int tree_seek(struct tree *t, const struct key *key, struct miss *miss, struct key *found, const void **val,
	      unsigned *len)
{
	struct tree_cursor c;
	int err = tree_first(t, &c, key, miss);

	if (err)
		return err;
	*found = c.key;
	*val = c.val;
	*len = c.len;
	return 0;
}

int tree_seek_back(struct tree *t, const struct key *key, struct miss *miss, struct key *found, const void **val,
		   unsigned *len)
{
	struct key from = *key;
	bool before = false;	/* from then on: keys lower than `from`, not equal */
	struct spot s;
	unsigned i;

	for (;;) {
		int err = descend(t, &from, before, &s, miss);

		if (err)
			return err;
		i = page_search(s.leaf, &from);
		if (!before && i < page_nitems(s.leaf) && slot_is(&s.leaf->slot[i], &from))
			i++;
		if (i > 0)
			break;
		if (!s.lower)
			return -ENOENT;
		from = slot_key(s.lower);
		before = true;
	}
	*found = slot_key(&s.leaf->slot[i - 1]);
	*val = page_value(s.leaf, i - 1);
	*len = page_len(s.leaf, i - 1);
	return 0;
}
