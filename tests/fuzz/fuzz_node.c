/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_node.c - target: the verifiers of nodes and items, and what the tree does with a node that passed.
 *
 * The node is one of a base's, number how, edited (EDIT_BYTES), or the input's own bytes (pad & 1).  Then it is the root of a tree, that is
 * read in all ways and, if it is a leaf, changed: EDIT_ITEM_NEW puts, EDIT_ITEM_BYTES patches, EDIT_ITEM_DEL deletes the item
 * `index`.  The tree's own checks must hold after each, and what it would write must pass the verifier.
 */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/image.h"

#include <string.h>

#include "core/tree_impl.h"

struct run {
	const struct base *b;
	const struct input *in;
	struct alloc *alloc;
	struct tree *tree;
};

/* --- items by themselves ----------------------------------------------------------------------- */

static void check_items(const struct run *r)
{
	for (unsigned i = 0; i < r->in->n; i++) {
		const struct edit *e = &r->in->edit[i];
		const struct item *it = &r->b->item[get16(e->index) % r->b->nitems];
		struct key key = it->key;
		uint8_t val[MAX_ITEM + 8];
		unsigned at = get16(e->offset) % MAX_ITEM, len = it->len;

		memcpy(val, it->val, it->len);
		if (e->what & 1)
			key.offset = edit_value(e);
		else
			memcpy(val + at, e->value, edit_len(e));
		if (e->what & 2 && at + edit_len(e) > len)
			memset(val + len, 0, at - (len < at ? len : at)), len = at + edit_len(e);
		if (e->what & 4)
			key.type = e->aux;
		if (e->what & 8)
			key.object = e->aux;
		(void)item_check(&r->b->sb, &key, val, len < MAX_ITEM ? len : MAX_ITEM, &fuzz_diag);
	}
}

/* --- a tree of one node ------------------------------------------------------------------------ */

static void read_all(struct run *r)
{
	struct key lowest = key_make(0, 0, 0), highest = key_make(UINT64_MAX, UINT8_MAX, UINT64_MAX), prev = lowest, found;
	struct tree_cursor c;
	struct miss miss;
	const void *val;
	unsigned len, n = 0;
	int err;

	for (err = tree_first(r->tree, &c, &lowest, &miss); !err; err = tree_next(r->tree, &c, &miss)) {
		assert(n++ == 0 || key_cmp(&prev, &c.key) < 0);
		prev = c.key;
		assert(tree_lookup(r->tree, &c.key, &miss, &val, &len) == 0 && val == c.val && len == c.len);
	}
	/* An inner node's children are not there. */
	assert(err == -ENOENT || err == -EAGAIN);
	err = tree_seek_back(r->tree, &highest, &miss, &found, &val, &len);
	assert(err == -EAGAIN || (n ? !err && key_cmp(&found, &prev) == 0 : err == -ENOENT));
	for (unsigned i = 0; i < r->b->nitems; i += 1 + r->b->nitems / 16)
		(void)tree_lookup(r->tree, &r->b->item[i].key, &miss, &val, &len);
}

static void change_one(struct run *r, const struct edit *e)
{
	const struct item *it = &r->b->item[get16(e->index) % r->b->nitems];
	struct key key = it->key;
	struct tree_cost cost = {0};
	struct miss miss;
	const void *val;
	unsigned old, len = get16(e->offset) % (MAX_ITEM + 1);
	static const uint8_t bytes[MAX_ITEM];

	if (e->what & 3)
		key.offset = edit_value(e);
	if (tree_prepare(r->tree, &key, e->kind == EDIT_ITEM_DEL ? 0 : len, &cost, &miss))
		return;
	if (alloc_prepare_reserve(r->alloc, 2 * cost.nodes, true, &miss))
		return;
	bool exists = tree_lookup(r->tree, &key, &miss, &val, &old) == 0;

	if (e->kind == EDIT_ITEM_NEW)
		assert(tree_put(r->tree, &key, bytes, len) == !exists);
	if (e->kind == EDIT_ITEM_DEL && exists)
		tree_del(r->tree, &key);
	if (e->kind == EDIT_ITEM_BYTES && exists) {
		unsigned at = e->aux % (old + 1);

		tree_patch(r->tree, &key, at, bytes, len < MAX_ITEM - at ? len : MAX_ITEM - at);
	}
	tree_assert(r->tree);
	alloc_assert(r->alloc);
}

static void change_all(struct run *r)
{
	struct tree_freeze f;

	for (unsigned i = 0; i < r->in->n; i++) {
		unsigned kind = r->in->edit[i].kind;

		if (kind == EDIT_ITEM_NEW || kind == EDIT_ITEM_DEL || kind == EDIT_ITEM_BYTES)
			change_one(r, &r->in->edit[i]);
	}
	if (tree_freeze(r->tree, get64(r->b->root.h.generation) + 1, &f))
		return;
	read_all(r);
	tree_thaw(r->tree, &f);
	tree_assert(r->tree);
}

static void use_node(struct run *r, const struct disk_node *p, const struct disk_ptr *ptr)
{
	struct miss miss = {.kind = MISS_NODE, .ptr = *ptr, .level = p->level};

	if (p->level > MAX_LEVEL || alloc_create_empty(&r->b->sb, &fuzz_diag, &r->alloc))
		return;
	for (unsigned i = 0; i < 2; i++)
		if (!alloc_prepare_mark(r->alloc, get64(ptr->blkno[i]), 1, &miss))
			alloc_mark(r->alloc, get64(ptr->blkno[i]), 1);
	miss = (struct miss){.kind = MISS_NODE, .ptr = *ptr, .level = p->level};
	if (!tree_create(&r->b->sb, r->alloc, ptr, p->level, 64, &fuzz_diag, &r->tree)) {
		if (!tree_node_arrived(r->tree, &miss, p)) {
			read_all(r);
			if (!p->level)
				change_all(r);
		}
		tree_destroy(r->tree);
	}
	alloc_destroy(r->alloc);
}

/* --- the node ---------------------------------------------------------------------------------- */

static void node_make(const struct run *r, const uint8_t *data, size_t size, const struct disk_ptr *ptr, uint8_t *block)
{
	size_t head = sizeof(struct fuzz_head);

	memset(block, 0, BLOCK_SIZE);
	if (r->in->head.pad & 1) {
		if (size > head)
			memcpy(block + sizeof(struct disk_header), data + head,
			       size - head < BLOCK_SIZE - sizeof(struct disk_header) ? size - head
										     : BLOCK_SIZE - sizeof(struct disk_header));
		header_init(block, MAGIC_NODE, r->b->sb.uuid, get64(ptr->blkno[0]), get64(ptr->blkno[1]), get64(ptr->generation));
		return;
	}
	memcpy(block, r->b->pages[r->in->head.how % r->b->nnodes], BLOCK_SIZE);
	for (unsigned i = 0; i < r->in->n; i++) {
		const struct edit *e = &r->in->edit[i];

		if (e->kind == EDIT_BYTES)
			memcpy(block + get16(e->offset) % (BLOCK_SIZE - 8), e->value, edit_len(e));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_Alignas(8) uint8_t block[BLOCK_SIZE];
	struct disk_node *p = (struct disk_node *)block;
	struct key lo = key_make(0, 0, 0);
	struct input in;

	input_parse(data, size, &in);
	struct run r = {.b = fuzz_base_get(in.head.base), .in = &in};
	struct disk_ptr ptr = r.b->node[in.head.how % r.b->nnodes];

	fuzz_begin();
	node_make(&r, data, size, &ptr, block);
	if (in.head.fix & FIX_SUMS)
		ptr.csum = put32(header_seal(block));
	check_items(&r);
	if (!node_check(block, &r.b->sb, &ptr, get64(ptr.blkno[0]), p->level, &lo, NULL, &fuzz_diag))
		use_node(&r, p, &ptr);
	fuzz_end();
	return 0;
}
