/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree_freeze.c - dirty nodes get their addresses and become immutable; later they become clean.
 *
 * One pass, children first, because a node's bytes contain its children's addresses and checksums.  Foreground work waits
 * meanwhile: little is done here but what the checksums cost.
 */
#include "core/tree_impl.h"

#include <stdlib.h>

struct freezer {
	struct tree *tree;
	struct tree_freeze *out;
	uint64_t generation;
};

/* The node that *ptr names temporarily, after all below it; *ptr becomes its final pointer. */
static void freeze_node(struct freezer *f, struct disk_ptr *ptr)
{
	struct tree *t = f->tree;
	struct node *n = cache_find(t, get64(ptr->blkno[0]));
	struct tree_frozen_node *entry;
	struct disk_node *p = n->page;
	unsigned i, nitems = page_nitems(p);

	for (i = 0; p->level > 0 && i < nitems; i++) {
		if (ptr_is_temp(page_ptr(p, i)))
			freeze_node(f, page_ptr(p, i));
	}
	entry = &f->out->node[f->out->nnodes++];
	entry->blkno[0] = alloc_node_block(t->alloc, 0);
	entry->blkno[1] = alloc_node_block(t->alloc, 1);
	entry->block = p;
	page_clear_gap(p);
	header_init(p, MAGIC_NODE, t->uuid, entry->blkno[0], entry->blkno[1], f->generation);
	*ptr = (struct disk_ptr){
		.blkno = {put64(entry->blkno[0]), put64(entry->blkno[1])},
		.generation = put64(f->generation),
		.csum = put32(header_seal(p)),
	};
	cache_freeze(t, n, entry->blkno[0]);
}

int tree_freeze(struct tree *t, uint64_t generation, struct tree_freeze *out)
{
	struct freezer f = {.tree = t, .out = out, .generation = generation};
	struct tree_frozen_node *array = NULL;

	assert(t->nfrozen == 0 && !t->frozen_array);
	if (t->ndirty > 0) {
		array = malloc(t->ndirty * sizeof(*array));
		if (!array)
			return -ENOMEM;
	}
	*out = (struct tree_freeze){.node = array};
	t->frozen_array = array;
	tree_prune(t);
	if (ptr_is_temp(&t->root))
		freeze_node(&f, &t->root);
	assert(t->ndirty == 0);
	out->root = t->root;
	out->root_level = t->level;
	return 0;
}

void tree_thaw(struct tree *t, struct tree_freeze *f)
{
	assert(f->node == t->frozen_array);
	cache_thaw(t);
	free(t->frozen_array);
	t->frozen_array = NULL;
	f->node = NULL;
	f->nnodes = 0;
}
