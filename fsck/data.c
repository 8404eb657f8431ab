/* SPDX-License-Identifier: Apache-2.0 */
/*
 * data.c - reads file contents and compares them with their checksums, a few extents at a time beside the walk.
 *
 * Findings are made when a slot is taken again or at the end, never in a completion, since an extent that cannot be read at once is
 * read again block by block.
 */
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "fsck/check_impl.h"

#define SLOTS 4

struct data_slot {
	struct dev_io io;
	enum { SLOT_IDLE, SLOT_BUSY, SLOT_READ } state;
	int err;
	uint64_t ino, file_block, blkno;
	unsigned n;
	le32 csum[EXTENT_MAX_BLOCKS];
	uint8_t *buf;		/* EXTENT_MAX_BLOCKS blocks */
};

struct data_reader {
	struct data_slot slot[SLOTS];
	unsigned next;
};

static void slot_done(struct dev_io *io, int err)
{
	struct data_slot *s = (struct data_slot *)io;

	s->err = err;
	s->state = SLOT_READ;
}

static struct where slot_where(const struct data_slot *s, unsigned i)
{
	return (struct where){s->blkno + i, s->ino, (s->file_block + i) << BLOCK_SHIFT};
}

static void judge_block(struct check *c, const struct data_slot *s, unsigned i)
{
	struct where at = slot_where(s, i);

	c->res->data_blocks++;
	if (crc32c(0, s->buf + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) != get32(s->csum[i]) && !blockset_has(&c->logged, at.blkno))
		found(c, FSCK_DATA_CSUM, at, "inode %llu: contents at byte %llu (block %llu) do not match their checksum",
		      (unsigned long long)at.ino, (unsigned long long)at.offset, (unsigned long long)at.blkno);
}

/* One bad sector fails the whole read; the other blocks are still worth knowing about. */
static int reread(struct check *c, struct data_slot *s)
{
	for (unsigned i = 0; i < s->n; i++) {
		struct where at = slot_where(s, i);
		int err = dev_read(c->q, at.blkno * BLOCK_SIZE, s->buf + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);

		if (err == -ENOMEM)
			return err;
		if (err)
			found(c, FSCK_DATA_READ, at, "inode %llu: contents at byte %llu (block %llu) cannot be read: %s",
			      (unsigned long long)at.ino, (unsigned long long)at.offset, (unsigned long long)at.blkno,
			      strerror(-err));
		else
			judge_block(c, s, i);
	}
	return 0;
}

/* Waits for the slot's read and says what came of it. */
static int slot_reap(struct check *c, struct data_slot *s)
{
	while (s->state == SLOT_BUSY)
		dev_poll(c->q, -1);
	if (s->state == SLOT_IDLE)
		return 0;
	s->state = SLOT_IDLE;
	if (s->err)
		return reread(c, s);
	for (unsigned i = 0; i < s->n; i++)
		judge_block(c, s, i);
	return 0;
}

int data_verify(struct check *c, uint64_t ino, uint64_t file_block, uint64_t blkno, unsigned n, const le32 *csum)
{
	struct data_slot *s = &c->data->slot[c->data->next++ % SLOTS];
	int err = slot_reap(c, s);

	if (err)
		return err;
	s->ino = ino;
	s->file_block = file_block;
	s->blkno = blkno;
	s->n = n;
	memcpy(s->csum, csum, n * sizeof(*csum));
	s->state = SLOT_BUSY;
	dev_io_rw(&s->io, DEV_READ, 0, blkno * BLOCK_SIZE, s->buf, (uint64_t)n * BLOCK_SIZE, slot_done);
	dev_submit(c->q, &s->io);
	return check_tick(c, 1, c->nused, c->sb.nblocks - get64(c->root->nfree));
}

int data_begin(struct check *c)
{
	c->data = calloc(1, sizeof(*c->data));
	if (!c->data)
		return -ENOMEM;
	for (unsigned i = 0; i < SLOTS; i++) {
		c->data->slot[i].buf = dev_alloc((uint64_t)EXTENT_MAX_BLOCKS * BLOCK_SIZE, false);
		if (!c->data->slot[i].buf)
			return -ENOMEM;
	}
	return 0;
}

int data_end(struct check *c)
{
	int err = 0;

	for (unsigned i = 0; !err && i < SLOTS; i++)
		err = slot_reap(c, &c->data->slot[c->data->next++ % SLOTS]);
	return err;
}

void data_free(struct check *c)
{
	for (unsigned i = 0; c->data && i < SLOTS; i++) {
		/* A check that was cancelled leaves reads behind. */
		while (c->data->slot[i].state == SLOT_BUSY)
			dev_poll(c->q, -1);
		free(c->data->slot[i].buf);
	}
	free(c->data);
	c->data = NULL;
}
