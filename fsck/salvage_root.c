/* SPDX-License-Identifier: Apache-2.0 */
/*
 * salvage_root.c - which node was the root of the tree, when no root says so.
 *
 * A checkpoint that changes anything writes a new root node, so of each generation the node of the highest level is the root, if it is the
 * only one of that level.  The newest generation alone may be that of a checkpoint that was interrupted and has no root node; then its
 * highest node is one that the tree before names an older version of, and leads to less.
 *
 * If the root node is lost as well, whatever is taken for it is a part of the tree only, and most leaves lie beside that.  Then all leaves
 * count, the newest at each key: some that were deleted come back, but nothing that is there is dropped.
 */
#include <stdlib.h>
#include <string.h>

#include "core/bits.h"
#include "fsck/salvage.h"

struct candidate {
	const struct scan_node *node;
	uint64_t reached;	/* nodes below it that are there, itself included */
	uint64_t leaves;	/* of those */
	struct key first, last;	/* of the leaves */
};

struct prober {
	struct dev_queue *q;
	const struct super *sb;
	const struct scan *scan;
	uint8_t *block[MAX_LEVEL];	/* by level */
	uint64_t *seen;			/* bit i: node i of the scan has been met below the candidate */
};

/* Nodes below `n` that the scan has.  Leaves are not read again. */
static int probe(struct prober *p, const struct scan_node *n, struct candidate *c)
{
	const struct disk_node *block = (const struct disk_node *)p->block[n->level];

	uint64_t index = (uint64_t)(n - (const struct scan_node *)p->scan->nodes.item);

	/* Pointers can be made that lead to one node many times, on every level. */
	if (bit_get(p->seen, index))
		return 0;
	bits_set(p->seen, index, index + 1);
	c->reached++;
	if (n->level == 0) {
		if (!c->leaves++)
			c->first = n->first;
		c->last = n->last;
		return 0;
	}
	int err = scan_read(p->q, p->sb, n, p->block[n->level]);

	if (err)
		return err == -EIO ? 0 : err;
	for (unsigned i = 0; !err && i < get16(block->nitems); i++) {
		struct disk_ptr ptr;

		memcpy(&ptr, p->block[n->level] + get16(block->slot[i].pos), sizeof(ptr));
		const struct scan_node *child = scan_find(p->scan, &ptr);

		/* Levels fall, so this ends. */
		if (child && child->level + 1u == n->level)
			err = probe(p, child, c);
	}
	return err;
}

static int probe_candidate(struct prober *p, struct candidate *c)
{
	free(p->seen);
	p->seen = calloc(BITS_WORDS(p->scan->nodes.n), sizeof(p->seen[0]));
	int err = p->seen ? 0 : -ENOMEM;

	for (unsigned level = 0; !err && level <= c->node->level; level++) {
		if (!p->block[level])
			p->block[level] = dev_alloc(BLOCK_SIZE, false);
		err = p->block[level] ? 0 : -ENOMEM;
	}
	return err ? err : probe(p, c->node, c);
}

/* --- candidates -------------------------------------------------------------------------------- */

/* All nodes, newest generation first, and of one generation the highest first. */
struct order {
	const struct scan_node **node;
	uint64_t n, next;
};

static int order_cmp(const void *a, const void *b)
{
	const struct scan_node *x = *(const struct scan_node *const *)a, *y = *(const struct scan_node *const *)b;

	if (x->generation != y->generation)
		return x->generation > y->generation ? -1 : 1;
	return x->level > y->level ? -1 : x->level < y->level;
}

static int order_init(struct order *o, const struct scan *scan)
{
	const struct scan_node *n = scan->nodes.item;

	*o = (struct order){.n = scan->nodes.n};
	if (!o->n)
		return -ENOENT;
	o->node = calloc(o->n, sizeof(o->node[0]));
	if (!o->node)
		return -ENOMEM;
	for (uint64_t i = 0; i < o->n; i++)
		o->node[i] = &n[i];
	qsort(o->node, o->n, sizeof(o->node[0]), order_cmp);
	return 0;
}

/* The highest node of the next generation that has only one such; NULL: there is no such generation any more. */
static const struct scan_node *order_next(struct order *o)
{
	while (o->next < o->n) {
		const struct scan_node *first = o->node[o->next++];
		bool unique = true;

		for (; o->next < o->n && o->node[o->next]->generation == first->generation; o->next++)
			unique = unique && o->node[o->next]->level < first->level;
		if (unique)
			return first;
	}
	return NULL;
}

/* --- choosing ---------------------------------------------------------------------------------- */

/* More leaves lie beside the candidate's than below it: it is a part of a tree whose root node is lost. */
static bool is_part(const struct scan *scan, const struct candidate *c)
{
	const struct scan_node *n = scan->nodes.item;
	uint64_t beside = 0;

	for (uint64_t i = 0; i < scan->nodes.n; i++)
		beside += n[i].level == 0 && (key_cmp(&n[i].last, &c->first) < 0 || key_cmp(&n[i].first, &c->last) > 0);
	return beside > c->leaves;
}

static int choose(struct prober *p, struct order *o, struct candidate *best)
{
	struct candidate older = {0};
	int err;

	*best = (struct candidate){.node = order_next(o)};
	if (!best->node)
		return 0;
	err = probe_candidate(p, best);
	older.node = order_next(o);
	/* The generation before has a root that is higher: has the tree shrunk, or is the newest not finished?  The journal has what an
	 * unfinished one was made of, and most of what the tree was before it shrank is gone soon. */
	if (err || !older.node || older.node->level <= best->node->level)
		return err;
	err = probe_candidate(p, &older);
	if (!err && older.reached > best->reached)
		*best = older;
	return err;
}

/* What cannot be read is filled with the leaves that were found, the newest at each key; so a root node that is nowhere makes a tree of all. */
static void root_of_all(const struct scan *scan, struct disk_root *root)
{
	const struct scan_node *any = scan->nodes.item;

	root->h.generation = put64(scan->max_generation);
	root->tree = scan_ptr(any);
	root->tree.generation = root->h.generation;
	root->tree.csum = put32(~any->csum);
	root->tree_level = MAX_LEVEL - 1;
}

int salvage_root(struct dev_queue *q, const struct super *sb, const struct scan *scan, struct disk_root *root)
{
	struct prober p = {.q = q, .sb = sb, .scan = scan};
	struct candidate best;
	struct order o;
	int err = order_init(&o, scan);

	if (!err)
		err = choose(&p, &o, &best);
	for (unsigned level = 0; level < MAX_LEVEL; level++)
		free(p.block[level]);
	free(p.seen);
	if (!err) {
		memset(root, 0, BLOCK_SIZE);
		if (best.node && !is_part(scan, &best)) {
			root->h.generation = put64(best.node->generation);
			root->tree = scan_ptr(best.node);
			root->tree_level = best.node->level;
		} else {
			root_of_all(scan, root);
		}
	}
	free(o.node);
	return err;
}
