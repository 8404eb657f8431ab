/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree_insert.c - put and patch, and the splits they cause.
 *
 * Runs after tree_prepare(): every node on the way is in memory, memory and blocks for copies and splits are there; nothing can
 * fail.  The path is made dirty on the way down, so that splits find their parents writable on the way up.
 */
#include "core/tree_impl.h"

#include <string.h>

#define SLOT ((unsigned)sizeof(struct disk_slot))

void tree_dirty_path(struct tree *t, const struct key *key, bool lower, struct path *path)
{
	struct disk_ptr *ptr = &t->root;
	unsigned level, i;

	for (level = t->level;; level--) {
		struct disk_node *p;

		path->node[level] = cache_dirty(t, ptr);
		if (level == 0)
			return;
		p = path->node[level]->page;
		i = page_child(p, key, false);
		/* The separator of a later split of that child must find its place behind slot 0. */
		if (i == 0 && lower && !slot_before(&p->slot[0], key))
			page_set_key(p, 0, key);
		path->index[level] = i;
		ptr = page_ptr(p, i);
	}
}

/* --- splits ----------------------------------------------------------------------------------- */

/*
 * How many of the items go to the left node, given that an item of `need` bytes (with its slot) is to be inserted as number i:
 * counted with the new item.  Behind the last item: all others stay, because ascending keys (new inodes, appended extents)
 * would leave half-full nodes behind.  Else the cut nearest to the middle; it leaves either side at
 * most half of everything plus half an item, which fits (MAX_ITEM).
 */
static unsigned choose_cut(const struct disk_node *p, unsigned i, unsigned need)
{
	unsigned n = page_nitems(p), total = page_used(p) + need, left = 0, c;

	if (i == n)
		return n;
	for (c = 0; c < n; c++) {
		unsigned old = c < i ? c : c - 1;
		unsigned size = c == i ? need : SLOT + page_len(p, old);

		/* Would item c, half of it at least, reach behind the middle? */
		if (2 * left + size > total)
			break;
		left += size;
	}
	return c;
}

/* A new root above the old one, which *key is going into. */
static void grow_root(struct tree *t, struct path *path, const struct key *key)
{
	struct node *old = path->node[t->level], *root;
	struct disk_ptr ptr = ptr_temp(old);
	struct key lo = slot_key(&old->page->slot[0]);

	assert(t->level < MAX_LEVEL);
	if (key_cmp(key, &lo) < 0)
		lo = *key;
	root = cache_new(t, t->level + 1);
	page_insert(root->page, 0, &lo, &ptr, sizeof(ptr));
	/* Only of a leaf.  What is lower has to change the root first: tree_dirty_path(). */
	old->lo = lo;
	t->level++;
	t->root = ptr_temp(root);
	path->node[t->level] = root;
	path->index[t->level] = 0;
}

/* Of leaves: what the left one no longer has. */
static void split_range(struct node *left, struct node *right, const struct key *sep)
{
	if (!left->ranged)
		return;
	right->ranged = true;
	right->lo = *sep;
	right->hi = left->hi;
	right->has_hi = left->has_hi;
	left->hi = *sep;
	left->has_hi = true;
}

/* Inserts into the path's node of `level` at slot i, splitting it, and so its ancestors, if there is no room. */
static void insert_at(struct tree *t, struct path *path, unsigned level, unsigned i, const struct key *key,
		      const void *val, unsigned len)
{
	struct disk_node *left = path->node[level]->page, *right;
	unsigned need = SLOT + len, cut;
	struct disk_ptr ptr;
	struct key sep;
	struct node *n;

	if (page_used(left) + need <= NODE_SPACE) {
		page_insert(left, i, key, val, len);
		return;
	}
	if (level == t->level)
		grow_root(t, path, key);
	n = cache_new(t, level);
	right = n->page;
	cut = choose_cut(left, i, need);
	if (i < cut) {
		page_append(right, left, cut - 1);
		page_truncate(left, cut - 1);
		page_insert(left, i, key, val, len);
	} else {
		page_append(right, left, cut);
		page_truncate(left, cut);
		page_insert(right, i - cut, key, val, len);
	}
	t->splits++;
	ptr = ptr_temp(n);
	sep = slot_key(&right->slot[0]);
	split_range(path->node[level], n, &sep);
	insert_at(t, path, level + 1, path->index[level + 1] + 1, &sep, &ptr, sizeof(ptr));
}

/* --- mutations -------------------------------------------------------------------------------- */

/* Gives slot i another value, if there is room in the leaf. */
static bool replace_in(struct disk_node *leaf, unsigned i, const void *val, unsigned len)
{
	if (page_used(leaf) - page_len(leaf, i) + len > NODE_SPACE)
		return false;
	page_resize(leaf, i, len);
	if (len)
		memcpy(page_value(leaf, i), val, len);
	return true;
}

/* Gives slot i of the path's leaf another length, with `val` as its value if it does not fit where it is. */
static void replace_value(struct tree *t, struct path *path, unsigned i, const struct key *key, const void *val,
			  unsigned len)
{
	struct disk_node *leaf = path->node[0]->page;

	if (replace_in(leaf, i, val, len))
		return;
	page_delete(leaf, i);
	insert_at(t, path, 0, i, key, val, len);
}

/* tree_put() where the leaf is known, dirty, and has room for it. */
static bool put_in(struct tree *t, const struct key *key, const void *val, unsigned len, bool *is_new)
{
	struct node *n = leaf_recall_dirty(t, key);

	if (!n)
		return false;

	struct disk_node *leaf = n->page;
	unsigned i = page_search(leaf, key);

	*is_new = i == page_nitems(leaf) || !slot_is(&leaf->slot[i], key);
	if (!*is_new)
		return replace_in(leaf, i, val, len);
	if (page_used(leaf) + SLOT + len > NODE_SPACE)
		return false;
	page_insert(leaf, i, key, val, len);
	return true;
}

bool tree_put(struct tree *t, const struct key *key, const void *val, unsigned len)
{
	struct disk_node *leaf;
	struct path path;
	bool is_new;
	unsigned i;

	assert(len <= MAX_ITEM);
	if (put_in(t, key, val, len, &is_new))
		return is_new;
	tree_dirty_path(t, key, true, &path);
	leaf = path.node[0]->page;
	i = page_search(leaf, key);
	if (i < page_nitems(leaf) && slot_is(&leaf->slot[i], key)) {
		replace_value(t, &path, i, key, val, len);
		return false;
	}
	insert_at(t, &path, 0, i, key, val, len);
	return true;
}

/* tree_patch() likewise, of bytes that are there. */
static bool patch_in(struct tree *t, const struct key *key, unsigned at, const void *bytes, unsigned len)
{
	struct node *n = leaf_recall_dirty(t, key);

	if (!n)
		return false;

	unsigned i = page_search(n->page, key);

	assert(i < page_nitems(n->page) && slot_is(&n->page->slot[i], key));
	if (at + len > page_len(n->page, i))
		return false;
	if (len)
		memcpy((char *)page_value(n->page, i) + at, bytes, len);
	return true;
}

void tree_patch(struct tree *t, const struct key *key, unsigned at, const void *bytes, unsigned len)
{
	struct disk_node *leaf;
	char value[MAX_ITEM];
	struct path path;
	unsigned i, old;

	if (patch_in(t, key, at, bytes, len))
		return;
	tree_dirty_path(t, key, false, &path);
	leaf = path.node[0]->page;
	i = page_search(leaf, key);
	assert(i < page_nitems(leaf) && slot_is(&leaf->slot[i], key));
	old = page_len(leaf, i);
	assert(at <= old && at + len <= MAX_ITEM);
	if (len == 0)
		return;
	if (at + len <= old) {
		memcpy((char *)page_value(leaf, i) + at, bytes, len);
		return;
	}
	memcpy(value, page_value(leaf, i), at);
	memcpy(value + at, bytes, len);
	replace_value(t, &path, i, key, value, at + len);
}
