/* SPDX-License-Identifier: Apache-2.0 */
/* image.c - from an input to a device: parsing, edits of blocks, the order of things. */
#include "tests/fuzz/image.h"

#include <stdlib.h>
#include <string.h>

void input_parse(const uint8_t *data, size_t size, struct input *in)
{
	memset(in, 0, sizeof(*in));
	if (size < sizeof(in->head)) {
		in->head.fix = FIX_ALL;
		return;
	}
	memcpy(&in->head, data, sizeof(in->head));
	data += sizeof(in->head);
	size -= sizeof(in->head);
	while (size >= sizeof(in->edit[0]) && in->n < MAX_EDITS) {
		memcpy(&in->edit[in->n++], data, sizeof(in->edit[0]));
		in->edit[in->n - 1].kind %= NEDITS;
		data += sizeof(in->edit[0]);
		size -= sizeof(in->edit[0]);
	}
}

/* --- objects ----------------------------------------------------------------------------------- */

static unsigned where_node(const struct image *im, unsigned index, uint64_t blkno[2])
{
	const struct disk_ptr *node = im->node ? im->node : im->base->node;
	unsigned n = im->node ? im->nnodes : im->base->nnodes;

	if (!n)
		return 0;
	for (unsigned i = 0; i < 2; i++)
		blkno[i] = get64(node[index % n].blkno[i]);
	return 2;
}

unsigned image_where(const struct image *im, unsigned object, unsigned index, uint64_t blkno[2])
{
	const struct base *b = im->base;
	const struct super *sb = &b->sb;

	/* As the base has them: an edit of these blocks does not lead elsewhere. */
	switch (object % NOBJECTS) {
	case OBJ_SUPER:
		blkno[0] = blkno[1] = super_blkno(sb->nblocks, index % SUPER_COPIES);
		return 1;
	case OBJ_ROOT: {
		unsigned slot = (get64(b->root.h.generation) + index) & 1;

		for (unsigned i = 0; i < 2; i++)
			blkno[i] = root_blkno(sb, slot, i);
		return 2;
	}
	case OBJ_TABLE:
		for (unsigned i = 0; i < 2; i++)
			blkno[i] = table_blkno(sb, 0, (b->root.table_slot[0] ^ index) & 1, i);
		return 2;
	case OBJ_BITMAP:
		for (unsigned i = 0; i < 2; i++)
			blkno[i] = bitmap_blkno(sb, 0, (b->bitmap_slot ^ index) & 1, i);
		return 2;
	case OBJ_NODE:
		return where_node(im, index, blkno);
	case OBJ_JOURNAL:
		blkno[0] = blkno[1] = sb->journal_blkno + index % sb->journal_nblocks;
		return 1;
	case OBJ_DATA:
		if (!b->ndata)
			return 0;
		blkno[0] = blkno[1] = b->data[index % b->ndata];
		return 1;
	default:
		blkno[0] = blkno[1] = index % sb->nblocks;
		return 1;
	}
}

/* --- edits of blocks --------------------------------------------------------------------------- */

static void poke_copies(struct image *im, const struct edit *e, const uint64_t blkno[2], unsigned n, unsigned at,
			const void *bytes, unsigned len)
{
	for (unsigned i = 0; i < n; i++) {
		bool skip = n > 1 && (e->what & (i ? WHAT_COPY0 : WHAT_COPY1));

		if (!skip)
			dev_sim_poke(im->dev, blkno[i] * BLOCK_SIZE + at, bytes, len);
	}
}

static void edit_bytes(struct image *im, const struct edit *e)
{
	unsigned at = get16(e->offset) % BLOCK_SIZE, len = edit_len(e);
	uint64_t blkno[2];
	unsigned n = image_where(im, e->what, get16(e->index), blkno);

	if (len > BLOCK_SIZE - at)
		len = BLOCK_SIZE - at;
	poke_copies(im, e, blkno, n, at, e->value, len);
}

static void edit_copy(struct image *im, const struct edit *e)
{
	uint8_t block[BLOCK_SIZE];
	uint64_t to[2], from[2];
	unsigned n = image_where(im, e->what, get16(e->index), to);

	if (!n || !image_where(im, e->aux, (unsigned)edit_value(e) & 0xffff, from))
		return;
	dev_sim_peek(im->dev, from[e->len & 1] * BLOCK_SIZE, block, BLOCK_SIZE);
	poke_copies(im, e, to, n, 0, block, BLOCK_SIZE);
}

/* The pointer that an edit means, inside `block`; NULL if there is none. */
static struct disk_ptr *edit_ptr(const struct edit *e, void *block)
{
	struct disk_node *p = block;
	unsigned slot, pos;

	if (e->what % NOBJECTS == OBJ_ROOT)
		return &((struct disk_root *)block)->tree;
	if (!p->level || !get16(p->nitems) || get16(p->nitems) > MAX_NODE_ITEMS)
		return NULL;
	slot = get16(e->offset) % get16(p->nitems);
	pos = get16(p->slot[slot].pos);
	return pos % 8 || pos > BLOCK_SIZE - sizeof(struct disk_ptr) ? NULL : (struct disk_ptr *)((char *)block + pos);
}

static void edit_ptr_alias(struct image *im, const struct edit *e)
{
	_Alignas(8) uint8_t block[BLOCK_SIZE];
	uint64_t in[2], to[2];
	unsigned object = e->what % NOBJECTS == OBJ_ROOT ? OBJ_ROOT : OBJ_NODE;
	unsigned n = image_where(im, object, get16(e->index), in);
	struct disk_ptr *ptr;

	if (!n || !image_where(im, e->aux, (unsigned)edit_value(e) & 0xffff, to))
		return;
	dev_sim_peek(im->dev, in[0] * BLOCK_SIZE, block, BLOCK_SIZE);
	ptr = edit_ptr(e, block);
	if (!ptr)
		return;
	if (e->len & 2)		/* both, so that it is another node as a whole */
		ptr->blkno[!(e->len & 1)] = put64(to[!(e->len & 1)]);
	ptr->blkno[e->len & 1] = put64(to[e->len & 1]);
	poke_copies(im, e, in, n, 0, block, BLOCK_SIZE);
}

static void edit_blocks(struct image *im, const struct input *in, unsigned late)
{
	for (unsigned i = 0; i < in->n; i++) {
		const struct edit *e = &in->edit[i];

		if ((e->what & WHAT_LATE) != late)
			continue;
		if (e->kind == EDIT_BYTES)
			edit_bytes(im, e);
		if (e->kind == EDIT_COPY)
			edit_copy(im, e);
		if (e->kind == EDIT_PTR_ALIAS)
			edit_ptr_alias(im, e);
	}
}

/* --- all of it --------------------------------------------------------------------------------- */

static void root_read(struct image *im)
{
	uint64_t blkno[2];

	image_where(im, OBJ_ROOT, 0, blkno);
	dev_sim_peek(im->dev, blkno[0] * BLOCK_SIZE, &im->root, BLOCK_SIZE);
}

static void root_write(struct image *im)
{
	uint64_t blkno[2];

	image_where(im, OBJ_ROOT, 0, blkno);
	for (unsigned i = 0; i < 2; i++)
		dev_sim_poke(im->dev, blkno[i] * BLOCK_SIZE, &im->root, BLOCK_SIZE);
}

static int image_apply(struct image *im, const struct input *in)
{
	int err = 0;

	root_read(im);
	if (image_has_items(in)) {
		err = image_rebuild(im, in);
		root_write(im);
	}
	if (err)
		return err;
	edit_blocks(im, in, 0);
	root_read(im);
	err = image_edit_log(im, in);
	if (!err && in->head.fix & FIX_SUMS)
		err = image_fix(im, in->head.fix);
	edit_blocks(im, in, WHAT_LATE);
	return err;
}

static void image_free(struct image *im)
{
	for (unsigned i = 0; i < im->nitems; i++)
		if (im->item[i].edited)
			free((void *)im->item[i].val);
	free(im->item);
	free(im->node);
}

struct dev *image_make(const struct input *in)
{
	struct image im = {.base = fuzz_base_get(in->head.base)};
	int err;

	im.sb = im.base->sb;
	if (dev_sim_clone(im.base->dev, &im.dev))
		return NULL;
	err = image_apply(&im, in);
	image_free(&im);
	if (err == -ENOMEM) {
		dev_close(im.dev);
		return NULL;
	}
	return im.dev;
}
