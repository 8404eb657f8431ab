/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ahead.c - see the header.  core/tree_ahead.c says which neighbours.
 *
 * Nothing is said, repaired or counted as damage here: a neighbour that is not good stays where it is until somebody wants it, and
 * the leaf that was missed is read again in the ordinary way, which has two copies.
 */
#include "journal/ahead.h"

#include <stdlib.h>
#include <string.h>

struct ahead {
	struct dev_io io;
	struct volume *v;
	struct provide *p;
	ahead_done_fn *done;
	unsigned n, self;
	uint8_t *block; /* n of them */
	bool good[TREE_AHEAD];
	struct miss leaf[TREE_AHEAD];
};

struct ahead *ahead_plan(struct volume *v, const struct miss *miss)
{
	struct miss leaf[TREE_AHEAD];
	unsigned self, n = tree_ahead(v->tree, miss, leaf, &self);
	struct ahead *a = n > 1 ? calloc(1, sizeof(*a)) : NULL;

	if (!a)
		return NULL;
	a->block = dev_alloc((size_t)n * BLOCK_SIZE, false);
	if (!a->block) {
		free(a);
		return NULL;
	}
	a->v = v;
	a->n = n;
	a->self = self;
	memcpy(a->leaf, leaf, n * sizeof(leaf[0]));
	return a;
}

static void verify(struct ahead *a)
{
	for (unsigned i = 0; i < a->n; i++) {
		const struct miss *m = &a->leaf[i];

		a->good[i] = node_check(a->block + (size_t)i * BLOCK_SIZE, &a->v->sb, &m->ptr,
					get64(m->ptr.blkno[0]), m->level, &m->lo, m->has_hi ? &m->hi : NULL,
					NULL) == 0;
	}
}

/* The neighbours first, so that they cannot push out what was missed. */
static int enter(struct ahead *a)
{
	for (unsigned i = 0; i < a->n; i++)
		if (i != a->self && a->good[i])
			tree_ahead_arrived(a->v->tree, &a->leaf[i], a->block + (size_t)i * BLOCK_SIZE);
	return tree_node_arrived(a->v->tree, &a->leaf[a->self], a->block + (size_t)a->self * BLOCK_SIZE);
}

static void arrived(struct dev_io *io, int err)
{
	struct ahead *a = (struct ahead *)((char *)io - offsetof(struct ahead, io));
	struct volume *v = a->v;
	struct provide *p = a->p;
	ahead_done_fn *done = a->done;
	bool good;

	if (!err)
		verify(a);
	good = !err && a->good[a->self];
	if (good) {
		volume_lock(v);
		v->stats.loads += a->n - 1;
		err = enter(a);
		volume_unlock(v);
	}
	free(a->block);
	free(a);
	done(p, good, good ? err : 0);
}

void ahead_start(struct ahead *a, struct dev_queue *q, struct provide *p, ahead_done_fn *done)
{
	a->p = p;
	a->done = done;
	dev_io_rw(&a->io, DEV_READ, 0, get64(a->leaf[0].ptr.blkno[0]) << BLOCK_SHIFT, a->block,
		  (uint64_t)a->n << BLOCK_SHIFT, arrived);
	dev_submit(q, &a->io);
}
