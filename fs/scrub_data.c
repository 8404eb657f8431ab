/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub_data.c - file contents against the checksums in their extents.
 *
 * Nothing is held while a few extents are read at once.  What does not verify, or cannot be read, is read again as any reader of the
 * file would: by then the block may be another file's, or its newer contents may still be in memory.
 */
#include "fs/scrub_impl.h"

#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"

#define SLOTS 4u

struct slot {
	struct dev_io io;
	struct scrub_data *d;
	int err;
	uint64_t ino;
	struct extent e;
	const void *val; /* the item, in a leaf that stays */
	uint8_t *buf; /* EXTENT_MAX_BLOCKS blocks */
};

struct scrub_data {
	struct slot slot[SLOTS];
	unsigned n; /* slots filled */
	unsigned pending;
	uint8_t *again; /* for reading one block anew */
};

/* --- what does not verify ---------------------------------------------------------------------- */

struct reread {
	struct fs_io io;
	struct dev_event done;
};

static void reread_done(struct fs_io *io)
{
	struct reread *r = (struct reread *)((char *)io - offsetof(struct reread, io));

	dev_event_set(&r->done);
}

/* Can the file, as it is now, not be read there?  Every other error says that it is not the same file any more. */
static bool is_lost(struct scrub *s, struct scrub_data *d, uint64_t ino, uint64_t file_block)
{
	struct reread r = {
		.io =
			{
				.ino = ino,
				.off = file_block << BLOCK_SHIFT,
				.len = BLOCK_SIZE,
				.buf = d->again,
				.no_atime = true,
				.done = reread_done,
			},
	};

	dev_event_init(&r.done, s->q);
	fs_read(s->fs, s->q, &r.io);
	volume_event_wait(s->v, &r.done);
	return r.io.result == -EIO || r.io.result == -EUCLEAN;
}

static void note_lost(struct scrub *s, const struct slot *sl, unsigned i, bool unreadable)
{
	uint64_t off = (sl->e.file + i) << BLOCK_SHIFT;
	struct scrub_lost *last = s->nlost ? &s->lost[s->nlost - 1] : NULL;

	s->res->lost_data++;
	/* Files come one after the other. */
	if (s->res->lost_files == 0 || s->last_lost_ino != sl->ino)
		s->res->lost_files++;
	s->last_lost_ino = sl->ino;
	if (last && last->ino == sl->ino && last->off + last->len == off && last->unreadable == unreadable) {
		last->len += BLOCK_SIZE;
		return;
	}
	if (s->nlost < SCRUB_MAX_LOST)
		s->lost[s->nlost++] = (struct scrub_lost){
			.ino = sl->ino,
			.off = off,
			.len = BLOCK_SIZE,
			.blkno = sl->e.blkno + i,
			.unreadable = unreadable,
		};
}

static void judge_block(struct scrub *s, struct scrub_data *d, const struct slot *sl, unsigned i, int err)
{
	const uint8_t *block = sl->buf + ((size_t)i << BLOCK_SHIFT);

	s->res->data_blocks++;
	if (!err && crc32c(0, block, BLOCK_SIZE) == extent_item_csum(sl->val, i))
		return;
	if (is_lost(s, d, sl->ino, sl->e.file + i))
		note_lost(s, sl, i, err != 0);
}

/* One bad sector fails the read of the whole extent; the other blocks are still worth knowing about. */
static void judge(struct scrub *s, struct scrub_data *d, struct slot *sl)
{
	for (unsigned i = 0; i < sl->e.n; i++) {
		int err = 0;

		if (sl->err)
			err = dev_read(s->q, (sl->e.blkno + i) << BLOCK_SHIFT,
				       sl->buf + ((size_t)i << BLOCK_SHIFT), BLOCK_SIZE);
		judge_block(s, d, sl, i, err);
	}
}

/* --- reading ----------------------------------------------------------------------------------- */

static void slot_done(struct dev_io *io, int err)
{
	struct slot *sl = (struct slot *)io;

	sl->err = err;
	sl->d->pending--;
}

int scrub_data_flush(struct scrub *s, struct scrub_data *d)
{
	while (d->pending)
		dev_poll(s->q, -1);
	for (unsigned i = 0; i < d->n; i++)
		judge(s, d, &d->slot[i]);
	d->n = 0;
	return scrub_pace(s);
}

int scrub_data_extent(struct scrub *s, struct scrub_data *d, uint64_t ino, uint64_t file_block,
		      const void *val)
{
	struct slot *sl = &d->slot[d->n];
	uint64_t bytes;

	sl->e = extent_decode(file_block, val);
	bytes = (uint64_t)sl->e.n << BLOCK_SHIFT;
	s->res->done += bytes;
	if (!sl->e.written)
		return 0;
	sl->ino = ino;
	sl->val = val;
	d->n++;
	d->pending++;
	s->read_bytes += bytes;
	dev_io_rw(&sl->io, DEV_READ, 0, sl->e.blkno << BLOCK_SHIFT, sl->buf, bytes, slot_done);
	dev_submit(s->q, &sl->io);
	return d->n == SLOTS ? scrub_data_flush(s, d) : 0;
}

int scrub_data_begin(struct scrub *s, struct scrub_data **out)
{
	struct scrub_data *d = calloc(1, sizeof(*d));
	bool ok = d != NULL;

	if (ok)
		d->again = dev_alloc(FS_READ_ROOM(BLOCK_SIZE), false);
	ok = ok && d->again;
	for (unsigned i = 0; ok && i < SLOTS; i++) {
		d->slot[i].d = d;
		d->slot[i].buf = dev_alloc((uint64_t)EXTENT_MAX_BLOCKS << BLOCK_SHIFT, false);
		ok = d->slot[i].buf != NULL;
	}
	if (ok)
		*out = d;
	else
		scrub_data_end(s, d);
	return ok ? 0 : -ENOMEM;
}

void scrub_data_end(struct scrub *s, struct scrub_data *d)
{
	if (!d)
		return;
	/* One that was cancelled leaves reads behind. */
	while (d->pending)
		dev_poll(s->q, -1);
	for (unsigned i = 0; i < SLOTS; i++)
		free(d->slot[i].buf);
	free(d->again);
	free(d);
}
