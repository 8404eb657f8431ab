/* SPDX-License-Identifier: Apache-2.0 */
/*
 * salvage_root.c - which node was the root of the tree, when no root says so.
 *
 * A checkpoint that changes anything writes a new root node, so of each generation the node of the highest level is the root, if it is the
 * only one of that level.  The newest generation alone may be that of a checkpoint that was interrupted and has no root node; then its
 * highest node is one that the tree before names an older version of, and leads to less.
 */
#include <stdlib.h>
#include <string.h>

#include "fsck/salvage.h"

struct candidate {
	const struct scan_node *node;
	bool unique;
	uint64_t reached;	/* nodes below it that are there, itself included */
};

struct prober {
	struct dev_queue *q;
	const struct super *sb;
	const struct scan *scan;
	uint8_t *block[MAX_LEVEL];	/* by level */
};

/* Nodes below `n` that the scan has.  Leaves are not read again. */
static int probe(struct prober *p, const struct scan_node *n, uint64_t *reached)
{
	const struct disk_node *block = (const struct disk_node *)p->block[n->level];

	++*reached;
	if (n->level == 0)
		return 0;
	int err = scan_read(p->q, p->sb, n, p->block[n->level]);

	if (err)
		return err == -EIO ? 0 : err;
	for (unsigned i = 0; !err && i < get16(block->nitems); i++) {
		struct disk_ptr ptr;

		memcpy(&ptr, p->block[n->level] + get16(block->slot[i].pos), sizeof(ptr));
		const struct scan_node *child = scan_find(p->scan, &ptr);

		/* Levels fall, so this ends. */
		if (child && child->level + 1u == n->level)
			err = probe(p, child, reached);
	}
	return err;
}

static int probe_candidate(struct prober *p, struct candidate *c)
{
	int err = 0;

	for (unsigned level = 0; !err && level <= c->node->level; level++) {
		if (!p->block[level])
			p->block[level] = dev_alloc(BLOCK_SIZE, false);
		err = p->block[level] ? 0 : -ENOMEM;
	}
	return err ? err : probe(p, c->node, &c->reached);
}

/* Of generation `below` - 1 or the next lower one that has a unique highest node. */
static bool next_candidate(const struct scan *scan, uint64_t below, struct candidate *out)
{
	const struct scan_node *n = scan->nodes.item;

	do {
		*out = (struct candidate){.unique = true};
		for (uint64_t i = 0; i < scan->nodes.n; i++) {
			const struct scan_node *best = out->node;

			if (n[i].generation >= below || (best && n[i].generation < best->generation))
				continue;
			if (best && n[i].generation == best->generation) {
				if (n[i].level < best->level)
					continue;
				out->unique = n[i].level > best->level;
			} else {
				out->unique = true;
			}
			out->node = &n[i];
		}
		below = out->node ? out->node->generation : 0;
	} while (out->node && !out->unique);
	return out->node != NULL;
}

static int choose(struct prober *p, const struct scan_node **out)
{
	struct candidate newest, older;

	if (!next_candidate(p->scan, UINT64_MAX, &newest))
		return -ENOENT;
	*out = newest.node;
	/* The generation before has a root that is higher: has the tree shrunk, or is the newest not finished?  The journal has what an
	 * unfinished one was made of, and most of what the tree was before it shrank is gone soon. */
	if (!next_candidate(p->scan, newest.node->generation, &older) || older.node->level <= newest.node->level)
		return 0;
	int err = probe_candidate(p, &newest);

	if (!err)
		err = probe_candidate(p, &older);
	if (!err && older.reached > newest.reached)
		*out = older.node;
	return err;
}

int salvage_root(struct dev_queue *q, const struct super *sb, const struct scan *scan, struct disk_root *root)
{
	struct prober p = {.q = q, .sb = sb, .scan = scan};
	const struct scan_node *node = NULL;
	int err = choose(&p, &node);

	for (unsigned level = 0; level < MAX_LEVEL; level++)
		free(p.block[level]);
	if (err)
		return err;
	memset(root, 0, BLOCK_SIZE);
	root->h.generation = put64(node->generation);
	root->tree = scan_ptr(node);
	root->tree_level = node->level;
	return 0;
}
