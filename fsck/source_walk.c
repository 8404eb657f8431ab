/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source_walk.c - the items below a root, read with the checker's walk: whatever can be read of it.
 *
 * A leaf of which only single items are wrong is taken; items out of their order or place in it are passed over.
 */
#include "fsck/check_impl.h"
#include "fsck/rebuild.h"

#include <stdlib.h>
#include <string.h>

struct walk_source {
	struct item_source s;
	struct check c;
	struct fsck_opts opts;	/* says nothing to nobody */
	struct fsck_result res;
	struct walk *w;
	struct walk_leaf leaf;
	unsigned next;		/* slot of it */
	bool have_leaf;
	struct list lost;	/* struct lost_range: met in this pass */
	struct key last;	/* handed out */
	bool have_last;
};

static struct walk_source *self(struct item_source *s)
{
	return (struct walk_source *)s;
}

static void sets_free(struct walk_source *ws)
{
	blockset_fini(&ws->c.used);
	blockset_fini(&ws->c.nodes);
}

static int walk_source_rewind(struct item_source *s)
{
	struct walk_source *ws = self(s);
	int err;

	walk_close(ws->w);
	ws->w = NULL;
	sets_free(ws);
	ws->have_leaf = ws->have_last = false;
	ws->c.lost_nodes = 0;
	ws->lost.n = 0;
	ws->s.nlost = 0;
	err = blockset_init(&ws->c.used, &ws->c.sb);
	if (!err)
		err = blockset_init(&ws->c.nodes, &ws->c.sb);
	return err ? err : walk_open(&ws->c, &ws->w);
}

static bool in_place(const struct walk_source *ws, const struct key *key)
{
	if (ws->have_last && key_cmp(key, &ws->last) <= 0)
		return false;
	return key_cmp(key, &ws->leaf.lo) >= 0 && !(ws->leaf.has_hi && key_cmp(key, &ws->leaf.hi) >= 0);
}

static int walk_source_next(struct item_source *s, struct key *key, const void **val, unsigned *len)
{
	struct walk_source *ws = self(s);

	for (;;) {
		if (!ws->have_leaf || ws->next == get16(ws->leaf.node->nitems)) {
			int err = walk_next(ws->w, &ws->leaf);

			ws->s.nlost = ws->c.lost_nodes;
			ws->have_leaf = !err;
			ws->next = 0;
			if (err)
				return err;
			continue;
		}
		const struct disk_slot *slot = &ws->leaf.node->slot[ws->next++];

		*key = slot_key(slot);
		if (!in_place(ws, key)) {
			ws->c.lost_nodes++;
			continue;
		}
		ws->last = *key;
		ws->have_last = true;
		*val = (const uint8_t *)ws->leaf.node + get16(slot->pos);
		*len = get16(slot->len);
		return 0;
	}
}

static int walk_source_keep(struct item_source *s, struct blockset *keep)
{
	return blockset_merge(keep, &self(s)->c.used);
}

int walk_source_open(struct dev_queue *q, const struct super *sb, const struct disk_root *root, struct item_source **out)
{
	struct walk_source *ws = calloc(1, sizeof(*ws));

	if (!ws)
		return -ENOMEM;
	ws->s = (struct item_source){.next = walk_source_next, .rewind = walk_source_rewind, .keep = walk_source_keep};
	ws->c = (struct check){.q = q, .opts = &ws->opts, .res = &ws->res, .sb = *sb, .have_root = true, .lenient = true};
	ws->c.root = dev_alloc(BLOCK_SIZE, false);
	if (!ws->c.root) {
		free(ws);
		return -ENOMEM;
	}
	memcpy(ws->c.root, root, BLOCK_SIZE);
	ws->c.lost = &ws->lost;
	*out = &ws->s;
	return 0;
}

const struct list *walk_source_lost(const struct item_source *s)
{
	return &((const struct walk_source *)s)->lost;
}

const struct blockset *walk_source_nodes(const struct item_source *s)
{
	return &((const struct walk_source *)s)->c.nodes;
}

void walk_source_close(struct item_source *s)
{
	struct walk_source *ws = self(s);

	if (!ws)
		return;
	walk_close(ws->w);
	sets_free(ws);
	free(ws->lost.item);
	free(ws->c.root);
	free(ws);
}
