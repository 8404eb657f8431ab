/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub_tree.c - both copies of every tree node, in key order, and the contents that the leaves name.
 *
 * A batch is one node of level 1 with its leaves.  The way down to it is read anew for each batch, because the root may be another one, but
 * a node that the pointer says to be the same is not.  `next` is the key from which on nothing has been looked at; items before it in the
 * batch's first leaf have been.
 */
#include "fs/scrub_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FANOUT (NODE_SPACE / (unsigned)(sizeof(struct disk_slot) + sizeof(struct disk_ptr)))

/* A node that is to be read: what its parent says of it. */
struct child {
	struct disk_ptr ptr;
	struct key lo, hi;
	bool has_hi;
	unsigned level;
};

struct walk {
	struct key next;
	bool end;
	/* The way down, by level: nodes verified earlier, reused while the pointers are the same. */
	struct disk_ptr known[MAX_LEVEL + 1];
	uint8_t *way; /* MAX_LEVEL + 1 blocks */
	/* The batch. */
	unsigned n;
	struct child child[FANOUT];
	struct scrub_pair pair[FANOUT];
	const struct disk_node *leaf[FANOUT]; /* NULL: lost */
	uint8_t *blocks; /* 2 * FANOUT */
	struct scrub_data *data;
};

/* --- one node ---------------------------------------------------------------------------------- */

static int node_verify(struct scrub *s, void *arg, const void *block, uint64_t blkno, const struct diag *d)
{
	const struct child *c = arg;

	return node_check(block, &s->v->sb, &c->ptr, blkno, c->level, &c->lo, c->has_hi ? &c->hi : NULL, d);
}

/* Both copies are bad, but the node is in memory. */
static bool node_from_memory(struct scrub *s, struct child *c, struct scrub_pair *p)
{
	bool cached, repaired = true;

	volume_lock(s->v);
	cached = tree_copy_cached(s->v->tree, &c->ptr, p->block[0]);
	volume_unlock(s->v);
	if (!cached || node_verify(s, c, p->block[0], p->blkno[0], NULL))
		return false;
	for (unsigned i = 0; i < 2; i++)
		repaired &= scrub_rewrite(s, p->blkno[i], p->block[0], node_verify, c);
	s->res->bad_copies += 2;
	scrub_found(s, SCRUB_COPY, repaired, p->blkno[0],
		    "tree node: both copies, at blocks %llu and %llu, are bad%s",
		    (unsigned long long)p->blkno[0], (unsigned long long)p->blkno[1],
		    repaired ? ", rewritten from memory" : "; memory has the node");
	return true;
}

/*
 * Lost on the device, and not in memory.  That matters only if the tree as it is now still needs it: if so, a lookup there fails.
 */
static bool node_is_needed(struct scrub *s, const struct child *c)
{
	for (;;) {
		struct miss miss = {.kind = MISS_NONE};
		const void *val;
		unsigned len;

		volume_lock(s->v);
		int err = tree_lookup(s->v->tree, &c->lo, &miss, &val, &len);
		volume_unlock(s->v);
		if (err != -EAGAIN)
			return err && err != -ENOENT;
		if (volume_provide(s->v, s->q, &miss))
			return true;
	}
}

static void node_lost(struct scrub *s, const struct child *c, const struct scrub_why *why)
{
	char what[120];

	if (!node_is_needed(s, c))
		return;
	if (c->has_hi)
		snprintf(what, sizeof(what), "tree node of level %u, of inodes %llu to %llu,", c->level,
			 (unsigned long long)c->lo.object, (unsigned long long)c->hi.object);
	else
		snprintf(what, sizeof(what), "tree node of level %u, of inodes from %llu on,", c->level,
			 (unsigned long long)c->lo.object);
	scrub_lost_meta(s, get64(c->ptr.blkno[0]), what, why);
}

/* A good copy of a node that has been read, or NULL: lost, which has been reported. */
static const void *node_settle(struct scrub *s, struct child *c, struct scrub_pair *p)
{
	struct scrub_why why;
	const void *good = scrub_settle(s, p, node_verify, c, "tree node", &why);

	if (good)
		return good;
	if (node_from_memory(s, c, p))
		return p->block[0];
	node_lost(s, c, &why);
	return NULL;
}

static void pair_of(struct scrub_pair *p, const struct child *c)
{
	for (unsigned i = 0; i < 2; i++)
		p->blkno[i] = get64(c->ptr.blkno[i]);
}

/* --- the way down ------------------------------------------------------------------------------ */

/* *out: the node, or NULL if it is lost. */
static int inner_get(struct scrub *s, struct walk *w, struct child *c, const struct disk_node **out)
{
	uint8_t *own = w->way + (size_t)c->level * BLOCK_SIZE;
	struct scrub_pair *p = &w->pair[0];
	const void *good;
	int err;

	*out = (const struct disk_node *)own;
	if (memcmp(&w->known[c->level], &c->ptr, sizeof(c->ptr)) == 0)
		return 0;
	memset(&w->known[c->level], 0, sizeof(c->ptr));
	pair_of(p, c);
	err = scrub_read(s, p, 1);
	if (err)
		return err;
	good = node_settle(s, c, p);
	if (!good) {
		*out = NULL;
		return 0;
	}
	memcpy(own, good, BLOCK_SIZE);
	w->known[c->level] = c->ptr;
	return 0;
}

/* The child in whose range *key is. */
static unsigned child_index(const struct disk_node *n, const struct key *key)
{
	unsigned i = 0;

	for (; i + 1u < get16(n->nitems); i++) {
		struct key k = slot_key(&n->slot[i + 1]);

		if (key_cmp(&k, key) > 0)
			break;
	}
	return i;
}

static struct child child_make(const struct disk_node *n, unsigned i, const struct child *parent)
{
	bool last = i + 1u == get16(n->nitems);
	struct child c = {
		.lo = slot_key(&n->slot[i]),
		.has_hi = !last || parent->has_hi,
		.hi = last ? parent->hi : slot_key(&n->slot[i + 1]),
		.level = parent->level - 1,
	};

	memcpy(&c.ptr, (const uint8_t *)n + get16(n->slot[i].pos), sizeof(c.ptr));
	return c;
}

/* --- one batch --------------------------------------------------------------------------------- */

/* The leaves to be read, from `next` on, under one node of level 1. */
static int batch_pick(struct scrub *s, struct walk *w)
{
	struct child c = {.ptr = s->root->tree, .level = s->root->tree_level};
	const struct disk_node *n;

	while (c.level) {
		int err = inner_get(s, w, &c, &n);

		if (err)
			return err;
		if (!n || c.level == 1)
			break;
		c = child_make(n, child_index(n, &w->next), &c);
	}
	w->n = 0;
	if (c.level == 0)
		w->child[w->n++] = c;
	else if (n)
		for (unsigned i = child_index(n, &w->next); i < get16(n->nitems); i++)
			w->child[w->n++] = child_make(n, i, &c);
	w->end = !c.has_hi;
	if (c.has_hi)
		w->next = c.hi;
	return 0;
}

static int batch_read(struct scrub *s, struct walk *w)
{
	int err;

	for (unsigned i = 0; i < w->n; i++)
		pair_of(&w->pair[i], &w->child[i]);
	err = w->n ? scrub_read(s, w->pair, w->n) : 0;
	for (unsigned i = 0; !err && i < w->n; i++)
		w->leaf[i] = node_settle(s, &w->child[i], &w->pair[i]);
	return err;
}

static int batch_metadata(struct scrub *s, struct walk *w)
{
	int err = scrub_hold(s);

	if (err)
		return err;
	if (get64(s->root->tree.blkno[0])) {
		err = batch_pick(s, w);
		if (!err)
			err = batch_read(s, w);
	} else {
		w->n = 0;
		w->end = true;
	}
	scrub_let_go(s);
	return err ? err : scrub_pace(s);
}

static int leaf_contents(struct scrub *s, struct walk *w, const struct disk_node *n, const struct key *from)
{
	int err = 0;

	for (unsigned i = 0; !err && i < get16(n->nitems); i++) {
		struct key k = slot_key(&n->slot[i]);

		if (k.type == ITEM_EXTENT && key_cmp(&k, from) >= 0)
			err = scrub_data_extent(s, w->data, k.object, k.offset,
						(const uint8_t *)n + get16(n->slot[i].pos));
	}
	return err;
}

static int batch_contents(struct scrub *s, struct walk *w, const struct key *from)
{
	int err = 0;

	for (unsigned i = 0; !err && i < w->n; i++)
		if (w->leaf[i])
			err = leaf_contents(s, w, w->leaf[i], from);
	return err ? err : scrub_data_flush(s, w->data);
}

/* --- all --------------------------------------------------------------------------------------- */

static int walk_all(struct scrub *s, struct walk *w)
{
	int err = 0;

	while (!err && !w->end) {
		struct key from = w->next;

		err = batch_metadata(s, w);
		if (!err)
			err = batch_contents(s, w, &from);
	}
	return err;
}

int scrub_tree(struct scrub *s)
{
	struct walk *w = calloc(1, sizeof(*w));
	int err = -ENOMEM;

	if (!w)
		return err;
	w->way = dev_alloc((MAX_LEVEL + 1) * BLOCK_SIZE, false);
	w->blocks = dev_alloc((uint64_t)2 * FANOUT * BLOCK_SIZE, false);
	if (w->way && w->blocks)
		err = scrub_data_begin(s, &w->data);
	if (!err) {
		for (unsigned i = 0; i < 2 * FANOUT; i++)
			w->pair[i / 2].block[i % 2] = w->blocks + (size_t)i * BLOCK_SIZE;
		err = walk_all(s, w);
		scrub_data_end(s, w->data);
	}
	free(w->blocks);
	free(w->way);
	free(w);
	return err;
}
