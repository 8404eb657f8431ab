/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev_undo.c - saves what a block held before it is overwritten for the first time.
 *
 * A write to blocks that are not saved yet waits: its blocks are read, and when all reads that are under way have come back, everything
 * they brought becomes one batch of the undo file.  When that is durable the writes go down.  So what a crash may leave on the device
 * differs from the original only in blocks that the undo file has.
 *
 * Always: a block's bit in `saved` is set before any write to it is passed down.  Hence two writes to one block may both read it: the
 * later one to be settled finds the bit set and drops what it has read.
 *
 * A failure of the undo file is for good: no write passes from then on, save to blocks that are saved.
 */
#include "core/dev_undo.h"

#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"

#define CHUNK_BLOCKS	32768u		/* of the set of saved blocks */
#define READ_AHEAD	(8u << 20)	/* bytes of old contents in memory, unless a single write has more */

struct undo_dev {
	struct dev pub;
	struct dev *below;
	struct super sb;
	struct undo_writer w;
	uint64_t **saved;	/* chunks of CHUNK_BLOCKS bits; NULL: none */
	uint64_t nchunks, nsaved;
	int failed;
};

struct undo_io {
	struct dev_io io;	/* what goes below */
	struct dev_io *up;
	STAILQ_ENTRY(undo_io) link;
	uint8_t *old;		/* what [off, off + len) held; NULL: not needed */
	uint64_t off, len;
	int read_err;
	uint8_t *bad;		/* by block of `old`: cannot be read even by itself; NULL: none */
};

struct undo_queue {
	struct dev_queue pub;
	struct dev_queue *below;
	STAILQ_HEAD(, dev_io) over;	/* to be completed with io->result */
	STAILQ_HEAD(, undo_io) waiting;	/* for others' old contents to leave memory */
	STAILQ_HEAD(, undo_io) held;	/* read; to be saved, then passed down */
	unsigned reading;
	uint64_t held_bytes;		/* of old contents: being read, and held */
};

static struct undo_dev *undo_of(struct dev *dev)
{
	return (struct undo_dev *)dev;
}

/* --- the set of saved blocks ------------------------------------------------------------------- */

static bool is_saved(const struct undo_dev *dev, uint64_t blkno)
{
	const uint64_t *chunk = dev->saved[blkno / CHUNK_BLOCKS];
	uint64_t bit = blkno % CHUNK_BLOCKS;

	return chunk && chunk[bit / 64] >> (bit % 64) & 1;
}

static bool all_saved(const struct undo_dev *dev, uint64_t off, uint64_t len)
{
	for (uint64_t b = off / BLOCK_SIZE; b * BLOCK_SIZE < off + len; b++)
		if (!is_saved(dev, b))
			return false;
	return true;
}

/* Memory for the bits of a range. */
static int saved_prepare(struct undo_dev *dev, uint64_t off, uint64_t len)
{
	for (uint64_t c = off / BLOCK_SIZE / CHUNK_BLOCKS; c * CHUNK_BLOCKS * BLOCK_SIZE < off + len; c++) {
		if (!dev->saved[c])
			dev->saved[c] = calloc(CHUNK_BLOCKS / 64, sizeof(uint64_t));
		if (!dev->saved[c])
			return -ENOMEM;
	}
	return 0;
}

static void saved_set(struct undo_dev *dev, uint64_t off, uint64_t len)
{
	for (uint64_t b = off / BLOCK_SIZE; b * BLOCK_SIZE < off + len; b++) {
		dev->nsaved += !is_saved(dev, b);
		dev->saved[b / CHUNK_BLOCKS][b % CHUNK_BLOCKS / 64] |= UINT64_C(1) << (b % 64);
	}
}

/* --- passing on -------------------------------------------------------------------------------- */

static void put_over(struct undo_queue *q, struct dev_io *io, int err)
{
	io->result = err;
	STAILQ_INSERT_TAIL(&q->over, io, link);
	dev_wake(q->below);
}

static int run_over(struct undo_queue *q)
{
	struct dev_io *io;
	int ran = 0;

	while ((io = STAILQ_FIRST(&q->over))) {
		STAILQ_REMOVE_HEAD(&q->over, link);
		io->done(io, io->result);
		ran++;
	}
	return ran;
}

static void io_free(struct undo_io *uio)
{
	free(uio->bad);
	free(uio->old);
	free(uio);
}

static void below_done(struct dev_io *io, int err)
{
	struct undo_io *uio = (struct undo_io *)io;
	struct dev_io *up = uio->up;

	io_free(uio);
	up->done(up, err);
}

static void pass_down(struct undo_queue *q, struct undo_io *uio)
{
	const struct dev_io *up = uio->up;

	uio->io = (struct dev_io){
		.op = up->op,
		.flags = up->flags,
		.off = up->off,
		.len = up->len,
		.iov = up->iov,
		.niov = up->niov,
		.done = below_done,
	};
	dev_submit(q->below, &uio->io);
}

/* --- reading what is there --------------------------------------------------------------------- */

static void old_read(struct dev_io *io, int err)
{
	struct undo_io *uio = (struct undo_io *)io;
	struct undo_queue *q = (struct undo_queue *)uio->up->queue;

	uio->read_err = err;
	q->reading--;
	STAILQ_INSERT_TAIL(&q->held, uio, link);
}

static void read_old(struct undo_queue *q, struct undo_io *uio)
{
	uio->old = dev_alloc(uio->len, false);
	if (!uio->old) {
		put_over(q, uio->up, -ENOMEM);
		io_free(uio);
		return;
	}
	q->reading++;
	q->held_bytes += uio->len;
	dev_io_rw(&uio->io, DEV_READ, 0, uio->off, uio->old, uio->len, old_read);
	dev_submit(q->below, &uio->io);
}

static void read_more(struct undo_queue *q)
{
	struct undo_io *uio;

	while ((uio = STAILQ_FIRST(&q->waiting)) && (!q->held_bytes || q->held_bytes + uio->len <= READ_AHEAD)) {
		STAILQ_REMOVE_HEAD(&q->waiting, link);
		read_old(q, uio);
	}
}

/* --- saving ------------------------------------------------------------------------------------ */

struct batch {
	struct undo_extent *e;
	unsigned n, cap;
};

static int batch_add(struct batch *b, uint64_t off, uint32_t len, const uint8_t *bytes)
{
	struct undo_extent *last = b->n ? &b->e[b->n - 1] : NULL;

	if (last && last->off + last->len == off && (bytes ? last->bytes && (const uint8_t *)last->bytes + last->len == bytes : !last->bytes)) {
		last->len += len;
		return 0;
	}
	if (b->n == b->cap) {
		unsigned cap = b->cap ? 2 * b->cap : 64;
		struct undo_extent *bigger = reallocarray(b->e, cap, sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		b->e = bigger;
		b->cap = cap;
	}
	b->e[b->n++] = (struct undo_extent){.off = off, .len = len, .bytes = bytes};
	return 0;
}

/*
 * One bad sector fails the whole read.  What cannot be read by itself either has no contents that could be given back.  Other operations go on
 * meanwhile, and more may be held when this returns.
 */
static void reread(struct undo_queue *q, struct undo_io *uio)
{
	uio->bad = calloc(uio->len / BLOCK_SIZE + 1, 1);
	if (!uio->bad)
		return;
	uio->read_err = 0;
	for (uint64_t at = 0; at < uio->len; at += BLOCK_SIZE) {
		uint64_t left = uio->len - at;

		uio->bad[at / BLOCK_SIZE] =
			dev_read(q->below, uio->off + at, uio->old + at, left < BLOCK_SIZE ? left : BLOCK_SIZE) != 0;
	}
}

/* Adds those blocks of a held write that nobody has saved yet; they count as saved from here on. */
static int batch_io(struct undo_dev *dev, struct batch *b, const struct undo_io *uio)
{
	int err = uio->read_err ? -ENOMEM : saved_prepare(dev, uio->off, uio->len);

	for (uint64_t off = uio->off; !err && off < uio->off + uio->len; off += BLOCK_SIZE) {
		uint64_t left = uio->off + uio->len - off;
		uint32_t len = left < BLOCK_SIZE ? (uint32_t)left : BLOCK_SIZE;

		if (is_saved(dev, off / BLOCK_SIZE))
			continue;
		bool bad = uio->bad && uio->bad[(off - uio->off) / BLOCK_SIZE];

		err = batch_add(b, off, len, bad ? NULL : uio->old + (off - uio->off));
		if (!err)
			saved_set(dev, off, len);
	}
	return err;
}

static int save(struct undo_queue *q)
{
	struct undo_dev *dev = undo_of(q->pub.dev);
	struct batch b = {0};
	struct undo_io *uio;
	int err = dev->failed;

	STAILQ_FOREACH(uio, &q->held, link)
		if (!err)
			err = batch_io(dev, &b, uio);
	if (!err && b.n)
		err = undo_append(&dev->w, b.e, b.n);
	free(b.e);
	/* Blocks may be marked that are not in the file; but nothing is passed down any more. */
	if (err && !dev->failed) {
		dev->failed = err;
		diag(dev->pub.diag, DIAG_ERR, "%s: the undo file cannot be written: %s; nothing more is changed", dev->pub.path,
		     strerror(-err));
	}
	return err;
}

/* All reads are back: saves what they brought, and lets the writes go. */
static void settle(struct undo_queue *q)
{
	struct undo_io *uio;

	if (q->reading || STAILQ_EMPTY(&q->held))
		return;
	STAILQ_FOREACH(uio, &q->held, link)
		if (uio->read_err)
			reread(q, uio);
	if (q->reading)
		return;
	int err = save(q);

	while ((uio = STAILQ_FIRST(&q->held))) {
		STAILQ_REMOVE_HEAD(&q->held, link);
		q->held_bytes -= uio->len;
		free(uio->old);
		uio->old = NULL;
		if (!err) {
			pass_down(q, uio);
		} else {
			put_over(q, uio->up, err);
			io_free(uio);
		}
	}
	read_more(q);
}

/* --- the interface ----------------------------------------------------------------------------- */

static void submit_write(struct undo_queue *q, struct undo_io *uio)
{
	struct undo_dev *dev = undo_of(q->pub.dev);
	uint64_t end = uio->up->off + uio->up->len;

	if (dev->failed) {
		put_over(q, uio->up, dev->failed);
		io_free(uio);
		return;
	}
	if (all_saved(dev, uio->up->off, uio->up->len)) {
		pass_down(q, uio);
		return;
	}
	uio->off = uio->up->off & ~(uint64_t)(BLOCK_SIZE - 1);
	end = (end + BLOCK_SIZE - 1) & ~(uint64_t)(BLOCK_SIZE - 1);
	uio->len = (end < dev->pub.size ? end : dev->pub.size) - uio->off;
	STAILQ_INSERT_TAIL(&q->waiting, uio, link);
	read_more(q);
}

static void undo_submit(struct dev_queue *dq, struct dev_io *io)
{
	struct undo_queue *q = (struct undo_queue *)dq;
	struct undo_io *uio = calloc(1, sizeof(*uio));

	io->queue = dq;
	if (!uio || io->op == DEV_DISCARD) {
		put_over(q, io, uio ? 0 : -ENOMEM);
		free(uio);
		return;
	}
	uio->up = io;
	if (io->op == DEV_WRITE)
		submit_write(q, uio);
	else
		pass_down(q, uio);
}

static int undo_poll(struct dev_queue *dq, int timeout_ms)
{
	struct undo_queue *q = (struct undo_queue *)dq;
	int ran = run_over(q);

	ran += dev_poll(q->below, ran ? 0 : timeout_ms);
	settle(q);
	return ran + run_over(q);
}

static int undo_queue_create(struct dev *dev, struct dev_queue **out)
{
	struct undo_queue *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	int err = dev_queue_create(undo_of(dev)->below, &q->below);

	if (err) {
		free(q);
		return err;
	}
	q->pub.dev = dev;
	STAILQ_INIT(&q->over);
	STAILQ_INIT(&q->waiting);
	STAILQ_INIT(&q->held);
	*out = &q->pub;
	return 0;
}

static void undo_queue_destroy(struct dev_queue *dq)
{
	struct undo_queue *q = (struct undo_queue *)dq;

	while (q->reading || !STAILQ_EMPTY(&q->held) || !STAILQ_EMPTY(&q->waiting) || !STAILQ_EMPTY(&q->over))
		undo_poll(dq, -1);
	dev_queue_destroy(q->below);
	free(q);
}

static int undo_queue_fd(struct dev_queue *dq)
{
	return dev_queue_fd(((struct undo_queue *)dq)->below);
}

static void undo_wake(struct dev_queue *dq)
{
	dev_wake(((struct undo_queue *)dq)->below);
}

static void undo_post(struct dev_queue *dq, struct dev_task *task)
{
	dev_post(((struct undo_queue *)dq)->below, task);
}

static void undo_stats(struct dev *dev, struct dev_stats *out)
{
	dev_get_stats(undo_of(dev)->below, out);
}

static void undo_free(struct undo_dev *dev)
{
	for (uint64_t i = 0; dev->saved && i < dev->nchunks; i++)
		free(dev->saved[i]);
	free(dev->saved);
	free(dev);
}

static void undo_close(struct dev *pub)
{
	dev_close(undo_of(pub)->below);
	undo_free(undo_of(pub));
}

static const struct dev_ops undo_ops = {
	.name = "undo",
	.close = undo_close,
	.queue_create = undo_queue_create,
	.queue_destroy = undo_queue_destroy,
	.submit = undo_submit,
	.poll = undo_poll,
	.queue_fd = undo_queue_fd,
	.wake = undo_wake,
	.post = undo_post,
	.stats = undo_stats,
};

int dev_undo_create(struct dev *below, const struct super *sb, const struct undo_sink *sink, int64_t now_sec, struct dev **out)
{
	struct undo_dev *dev = calloc(1, sizeof(*dev));

	if (!dev)
		return -ENOMEM;
	/* The path and the descriptor stay the property of the device below. */
	dev->pub = *below;
	dev->pub.ops = &undo_ops;
	dev->pub.can_discard = false;
	dev->below = below;
	dev->sb = *sb;
	dev->nchunks = below->size / BLOCK_SIZE / CHUNK_BLOCKS + 1;
	dev->saved = calloc(dev->nchunks, sizeof(dev->saved[0]));
	int err = dev->saved ? undo_begin(&dev->w, sink, sb, below->size, now_sec) : -ENOMEM;

	if (err) {
		undo_free(dev);
		return err;
	}
	*out = &dev->pub;
	return 0;
}

int dev_undo_finish(struct dev_queue *q)
{
	struct undo_dev *dev = undo_of(q->dev);
	auto_free void *block = dev_alloc(BLOCK_SIZE, false);
	uint32_t csum[UNDO_ROOTS] = {0};

	if (!block)
		return -ENOMEM;
	if (dev->failed)
		return dev->failed;
	for (unsigned i = 0; i < UNDO_ROOTS; i++)
		if (!dev_read(q, root_blkno(&dev->sb, i / 2, i % 2) * BLOCK_SIZE, block, BLOCK_SIZE))
			csum[i] = crc32c(0, block, BLOCK_SIZE);
	return undo_end(&dev->w, csum);
}

uint64_t dev_undo_saved(const struct dev *dev)
{
	return ((const struct undo_dev *)dev)->nsaved;
}
