/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image_items.c - edits of items: the volume's items as one list, edited, sorted, and laid out in nodes again.
 *
 * The nodes take the places of the base's nodes, then free blocks.  Which blocks are marked used is image_fix.c's.
 */
#include "tests/fuzz/image.h"

#include <stdlib.h>
#include <string.h>

#include "core/tree_impl.h"

#define ITEM_ROOM 2048u	/* bytes for an edited value, longer than any item may be */

static bool is_item_edit(const struct edit *e)
{
	return e->kind >= EDIT_ITEM_BYTES && e->kind <= EDIT_ITEM_ALIAS && !(e->what & WHAT_LATE);
}

bool image_has_items(const struct input *in)
{
	for (unsigned i = 0; i < in->n; i++)
		if (is_item_edit(&in->edit[i]))
			return true;
	return false;
}

/* --- edits ------------------------------------------------------------------------------------- */

/* Gives the item a value of its own. */
static uint8_t *item_own(struct item *it)
{
	uint8_t *val = calloc(1, ITEM_ROOM);

	if (!val)
		return NULL;
	memcpy(val, it->val, it->len < ITEM_ROOM ? it->len : ITEM_ROOM);
	if (it->edited)
		free((void *)it->val);
	it->val = val;
	it->edited = true;
	return val;
}

static void edit_key(struct key *key, unsigned field, uint64_t value)
{
	if (field == 1)
		key->object = value;
	if (field == 2)
		key->type = (uint8_t)value;
	if (field == 3)
		key->offset = value;
}

static void edit_value_bytes(struct item *it, unsigned offset, const void *bytes, unsigned len)
{
	uint8_t *val = item_own(it);

	if (!val)
		return;
	offset %= MAX_ITEM;
	memcpy(val + offset, bytes, len);
	if (it->len < offset + len)
		it->len = offset + len;
}

static void edit_alias(const struct image *im, struct item *it, const struct edit *e)
{
	uint64_t blkno[2];

	if (!image_where(im, e->aux, (unsigned)edit_value(e) & 0xffff, blkno))
		return;
	le64 v = put64(blkno[e->len & 1]);

	if (e->offset.raw % 16 == 0)	/* mostly: an extent's address */
		edit_value_bytes(it, 0, &v, sizeof(v));
	else
		edit_value_bytes(it, get16(e->offset), &v, sizeof(v));
}

static void edit_item(struct image *im, const struct edit *e)
{
	struct item *it = &im->item[get16(e->index) % im->nitems];
	struct item copy = *it;

	switch (e->kind) {
	case EDIT_ITEM_BYTES:
		if (e->what & 3)
			edit_key(&it->key, e->what & 3, edit_value(e));
		else
			edit_value_bytes(it, get16(e->offset), e->value, edit_len(e));
		break;
	case EDIT_ITEM_DEL:
		if (it->edited)
			free((void *)it->val);
		*it = im->item[--im->nitems];
		break;
	case EDIT_ITEM_NEW:
		copy.edited = false;
		if (it->edited && !item_own(&copy))
			return;
		edit_key(&copy.key, e->what & 3, edit_value(e));
		im->item[im->nitems++] = copy;
		break;
	case EDIT_ITEM_RESIZE:
		if (!item_own(it))
			return;
		it->len = get16(e->offset) % (MAX_ITEM + 1);
		break;
	case EDIT_ITEM_ALIAS:
		edit_alias(im, it, e);
		break;
	}
}

/* Names go where readers look for them. */
static void fix_hash(const struct image *im, struct item *it)
{
	struct disk_dirent de;
	struct disk_xattr xa;
	uint64_t index = it->key.offset % HASH_COLLISIONS;

	if (it->key.type == ITEM_DIRENT && it->len > sizeof(de)) {
		memcpy(&de, it->val, sizeof(de));
		if (sizeof(de) + de.name_len <= it->len)
			it->key.offset = dirent_offset(&im->sb, it->val + sizeof(de), de.name_len) | index;
	} else if (it->key.type == ITEM_XATTR && it->len > sizeof(xa)) {
		memcpy(&xa, it->val, sizeof(xa));
		if (sizeof(xa) + xa.name_len <= it->len)
			it->key.offset = xattr_offset(&im->sb, it->val + sizeof(xa), xa.name_len) | index;
	}
}

static int item_cmp(const void *a, const void *b)
{
	const struct item *x = a, *y = b;

	return key_cmp(&x->key, &y->key);
}

/* --- nodes ------------------------------------------------------------------------------------- */

struct loader {
	struct image *im;
	unsigned nfree;		/* free blocks taken */
	struct disk_node *page;	/* being filled, one a level */
	unsigned top;
};

static bool node_place(struct loader *l, struct disk_ptr *ptr)
{
	struct image *im = l->im;
	const struct base *b = im->base;

	*ptr = (struct disk_ptr){.generation = b->root.h.generation};
	if (im->nnodes < b->nnodes) {
		memcpy(ptr->blkno, b->node[im->nnodes].blkno, sizeof(ptr->blkno));
	} else {
		if (l->nfree + 2 > b->nfree)
			return false;
		for (unsigned i = 0; i < 2; i++)
			ptr->blkno[i] = put64(b->free[l->nfree++]);
	}
	im->node[im->nnodes++] = *ptr;
	return true;
}

static bool load_item(struct loader *l, unsigned level, const struct key *key, const void *val, unsigned len);

/* The page of a level is full, or the last one: to the device with it, and to its parent. */
static bool load_flush(struct loader *l, unsigned level, bool last)
{
	struct image *im = l->im;
	struct disk_node *p = (struct disk_node *)((char *)l->page + level * BLOCK_SIZE);
	struct disk_ptr ptr;

	if (!node_place(l, &ptr))
		return false;
	page_clear_gap(p);
	header_init(p, MAGIC_NODE, im->sb.uuid, get64(ptr.blkno[0]), get64(ptr.blkno[1]), get64(ptr.generation));
	ptr.csum = put32(header_seal(p));
	for (unsigned i = 0; i < 2; i++)
		dev_sim_poke(im->dev, get64(ptr.blkno[i]) * BLOCK_SIZE, p, BLOCK_SIZE);
	if (last && level == l->top) {
		im->root.tree = ptr;
		im->root.tree_level = (uint8_t)level;
		return true;
	}
	struct key key = slot_key(&p->slot[0]);

	page_init(p, level);
	return level + 1 < MAX_LEVEL && load_item(l, level + 1, &key, &ptr, sizeof(ptr));
}

static bool load_item(struct loader *l, unsigned level, const struct key *key, const void *val, unsigned len)
{
	struct disk_node *p = (struct disk_node *)((char *)l->page + level * BLOCK_SIZE);

	if (level > l->top) {
		l->top = level;
		page_init(p, level);
	}
	if (page_used(p) + sizeof(struct disk_slot) + len > NODE_SPACE && !load_flush(l, level, false))
		return false;
	page_insert(p, page_nitems(p), key, val, len);
	return true;
}

static int load_all(struct image *im)
{
	auto_free struct disk_node *pages = dev_alloc(MAX_LEVEL * BLOCK_SIZE, true);
	struct loader l = {.im = im, .page = pages};
	bool ok = pages != NULL;

	if (!ok)
		return -ENOMEM;
	page_init(pages, 0);
	for (unsigned i = 0; ok && i < im->nitems; i++)
		if (i == 0 || key_cmp(&im->item[i - 1].key, &im->item[i].key) != 0)
			ok = load_item(&l, 0, &im->item[i].key, im->item[i].val,
				       im->item[i].len < MAX_ITEM ? im->item[i].len : MAX_ITEM);
	for (unsigned level = 0; ok && level <= l.top; level++)
		ok = load_flush(&l, level, true);
	return ok ? 0 : -ENOSPC;
}

int image_rebuild(struct image *im, const struct input *in)
{
	const struct base *b = im->base;

	im->item = malloc((b->nitems + MAX_EDITS) * sizeof(*im->item));
	if (!im->item)
		return -ENOMEM;
	memcpy(im->item, b->item, b->nitems * sizeof(*im->item));
	im->nitems = b->nitems;
	for (unsigned i = 0; i < in->n && im->nitems; i++)
		if (is_item_edit(&in->edit[i]))
			edit_item(im, &in->edit[i]);
	for (unsigned i = 0; in->head.fix & FIX_HASHES && i < im->nitems; i++)
		if (im->item[i].edited)
			fix_hash(im, &im->item[i]);
	qsort(im->item, im->nitems, sizeof(*im->item), item_cmp);
	im->node = calloc(b->nnodes + b->nfree, sizeof(*im->node));
	return im->node ? load_all(im) : -ENOMEM;
}
