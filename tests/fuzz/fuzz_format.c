/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_format.c - target: the verifiers of blocks at fixed places, and single frames.
 *
 * The block is one of a base's, edited (EDIT_BYTES), or (how & 1) the input's own bytes.  how >> 1: which kind.  What passes is
 * looked at again: sizes must lie inside the device, and what is written from the decoded form must be the same bytes.
 */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/image.h"

#include <string.h>

#define DEV_BLOCKS ((uint64_t)1 << 40)

union block {
	uint8_t bytes[BLOCK_SIZE];
	struct disk_super super;
	struct disk_root root;
	struct disk_frame frame;
};

static void check_super(const union block *b, unsigned copy, uint64_t dev_nblocks)
{
	union block again;
	struct super sb;
	uint64_t blkno = super_blkno(get64(b->super.nblocks), copy);

	if (super_decode(b->bytes, blkno, dev_nblocks, &fuzz_diag, &sb))
		return;
	assert(sb.nblocks <= dev_nblocks && sb.nblocks <= MAX_BLOCKS && sb.ntables <= MAX_TABLES);
	assert(super_data_begin(&sb) + MIN_DATA <= super_data_end(&sb) && super_data_end(&sb) < sb.nblocks);
	assert(root_blkno(&sb, 1, 1) < super_blkno(sb.nblocks, 2));
	for (unsigned c = 0; c < 2; c++)
		assert(bitmap_blkno(&sb, sb.ngroups - 1, 1, c) < sb.nblocks);
	/* Which copy it is the address says; small volumes have no two copies in one place. */
	for (unsigned c = 0; c < SUPER_COPIES; c++) {
		if (super_blkno(sb.nblocks, c) != blkno)
			continue;
		super_encode(&sb, c, again.bytes);
		assert(memcmp(again.bytes, b->bytes, BLOCK_SIZE) == 0);
	}
}

static void check_root(const union block *b, const struct super *sb, unsigned slot)
{
	if (root_check(b->bytes, sb, slot, &fuzz_diag))
		return;
	assert(get64(b->root.nfree) <= sb->nblocks && b->root.tree_level < MAX_LEVEL);
	assert(get64(b->root.tree.blkno[0]) == 0 || ptr_in_range(sb, &b->root.tree));
}

static void check_frame(const union block *b, const struct super *sb, uint64_t lsn, uint64_t avail)
{
	const void *payload;
	uint32_t len;

	if (frame_decode(sb, lsn, b->bytes, avail, &payload, &len) != FRAME_OK)
		return;
	assert(len <= avail - FRAME_OVERHEAD);
	assert((const uint8_t *)payload >= b->bytes && (const uint8_t *)payload + len <= b->bytes + avail);
}

static void fix_frame(union block *b, const struct super *sb, uint64_t lsn)
{
	uint32_t len = get32(b->frame.len);

	b->frame.magic = put32(FRAME_MAGIC);
	if (len > BLOCK_SIZE - FRAME_OVERHEAD)
		return;
	le32 crc = put32(frame_crc(sb, lsn, &b->frame, b->bytes + sizeof(struct disk_frame)));

	memcpy(b->bytes + sizeof(struct disk_frame) + len, &crc, sizeof(crc));
}

enum kind { KIND_SUPER, KIND_ROOT, KIND_TABLE, KIND_BITMAP, KIND_FRAME, NKINDS };

static void block_make(const struct image *im, const struct input *in, const uint8_t *data, size_t size, enum kind kind,
		       union block *b)
{
	static const uint8_t object[NKINDS] = {OBJ_SUPER, OBJ_ROOT, OBJ_TABLE, OBJ_BITMAP, OBJ_JOURNAL};
	size_t head = sizeof(struct fuzz_head);
	uint64_t blkno[2];

	memset(b, 0, sizeof(*b));
	if (in->head.how & 1) {
		if (size > head)
			memcpy(b, data + head, size - head < sizeof(*b) ? size - head : sizeof(*b));
		return;
	}
	image_where(im, object[kind], 0, blkno);
	dev_sim_peek(im->base->dev, blkno[0] * BLOCK_SIZE, b, BLOCK_SIZE);
	for (unsigned i = 0; i < in->n; i++) {
		unsigned at = get16(in->edit[i].offset) % (BLOCK_SIZE - 8);

		memcpy(b->bytes + at, in->edit[i].value, edit_len(&in->edit[i]));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in;
	union block b;

	input_parse(data, size, &in);
	struct image im = {.base = fuzz_base_get(in.head.base)};
	const struct super *sb = &im.base->sb;
	unsigned slot = get64(im.base->root.h.generation) & 1;
	enum kind kind = (enum kind)(in.head.how / 2 % NKINDS);
	uint64_t lsn = in.head.pad * (uint64_t)BLOCK_SIZE;

	fuzz_begin();
	block_make(&im, &in, data, size, kind, &b);
	if (in.head.fix & FIX_SUMS && kind == KIND_FRAME)
		fix_frame(&b, sb, lsn);
	else if (in.head.fix & FIX_SUMS)
		header_seal(b.bytes);
	if (kind == KIND_SUPER)
		check_super(&b, in.head.pad % SUPER_COPIES, in.head.pad & 0x80 ? sb->nblocks : DEV_BLOCKS);
	if (kind == KIND_ROOT)
		check_root(&b, sb, slot);
	if (kind == KIND_TABLE)
		(void)table_check(b.bytes, sb, 0, im.base->root.table_slot[0] & 1, get32(b.super.h.csum), &fuzz_diag);
	if (kind == KIND_BITMAP)
		(void)bitmap_check(b.bytes, sb, 0, im.base->bitmap_slot, get32(b.super.h.csum), &fuzz_diag);
	if (kind == KIND_FRAME)
		check_frame(&b, sb, lsn, in.head.pad & 1 ? size % BLOCK_SIZE : BLOCK_SIZE);
	fuzz_end();
	return 0;
}
