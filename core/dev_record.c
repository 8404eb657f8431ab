/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev_record.c - writes down what goes to the device below.
 *
 * The trace is a sequence of records, all integers little-endian:
 *
 *   offset  size
 *        0     4  kind: 1 open, 2 write, 3 flush, 4 discard, 5 mark, 6 done
 *        4     4  flags  write: those of struct dev_io; done: the errno, 0 for success; open: alignment in bytes
 *        8     8  id     of the operation; a done record has the id of what is done.  open: "HFTRACE1"
 *       16     8  off    write, discard: bytes.  open: size of the device
 *       24     8  len    write, discard, mark: bytes.  open: sector size
 *       32   len  payload of write (the data) and mark (the text, without a NUL)
 *
 * The order is that of submissions and completions: a flush covers the writes whose done record stands before
 * the flush record, and no others.  Reads are not recorded.  An open record starts the log of each device.
 *
 * The payload is taken at submission.  An operation is passed down as a copy, because its own fields belong to it.
 */
#include "core/dev_record.h"

#include <stdlib.h>
#include <string.h>

#include "core/lock.h"

enum record_kind { REC_OPEN = 1, REC_WRITE, REC_FLUSH, REC_DISCARD, REC_MARK, REC_DONE };

#define RECORD_BYTES 32

struct record_dev {
	struct dev pub;
	struct dev *below;
	struct lock lock; /* all below; a leaf, held while writing to the trace */
	FILE *trace;
	uint64_t next_id;
	bool failed; /* the trace could not be written; said so once */
};

struct record_queue {
	struct dev_queue pub;
	struct dev_queue *below;
	STAILQ_HEAD(, dev_io) failed; /* could not be passed down for lack of memory */
};

struct record_io {
	struct dev_io io; /* what goes below */
	struct dev_io *up;
	uint64_t id;
};

static struct record_dev *record_of(struct dev *dev)
{
	return (struct record_dev *)dev;
}

static void put_le(unsigned char *p, uint64_t v, int nbytes)
{
	for (int i = 0; i < nbytes; i++)
		p[i] = (unsigned char)(v >> (8 * i));
}

static void put_bytes_locked(struct record_dev *dev, const void *p, size_t len)
{
	LOCK_ASSERT_HELD(&dev->lock);
	if (fwrite(p, 1, len, dev->trace) == len || dev->failed)
		return;
	dev->failed = true;
	diag(dev->pub.diag, DIAG_ERR, "%s: cannot write the trace: %s", dev->pub.path, strerror(errno));
}

static void put_record_locked(struct record_dev *dev, enum record_kind kind, uint32_t flags, uint64_t id,
			      uint64_t off, uint64_t len)
{
	unsigned char rec[RECORD_BYTES];

	put_le(rec, kind, 4);
	put_le(rec + 4, flags, 4);
	put_le(rec + 8, id, 8);
	put_le(rec + 16, off, 8);
	put_le(rec + 24, len, 8);
	put_bytes_locked(dev, rec, sizeof(rec));
}

/* Returns the operation's id. */
static uint64_t log_submit(struct record_dev *dev, const struct dev_io *io)
{
	static const enum record_kind kinds[] = {
		[DEV_WRITE] = REC_WRITE, [DEV_FLUSH] = REC_FLUSH, [DEV_DISCARD] = REC_DISCARD};
	bool flush = io->op == DEV_FLUSH;
	uint64_t id;

	lock_take(&dev->lock);
	id = ++dev->next_id;
	if (io->op != DEV_READ)
		put_record_locked(dev, kinds[io->op], io->flags, id, flush ? 0 : io->off,
				  flush ? 0 : io->len);
	if (io->op == DEV_WRITE)
		for (int i = 0; i < io->niov; i++)
			put_bytes_locked(dev, io->iov[i].iov_base, io->iov[i].iov_len);
	lock_drop(&dev->lock);
	return id;
}

static void log_done(struct record_dev *dev, const struct record_io *rio, int err)
{
	if (rio->io.op == DEV_READ)
		return;
	lock_take(&dev->lock);
	put_record_locked(dev, REC_DONE, (uint32_t)-err, rio->id, 0, 0);
	lock_drop(&dev->lock);
}

void dev_record_mark(struct dev *pub, const char *text)
{
	struct record_dev *dev = record_of(pub);
	size_t len = strlen(text);

	lock_take(&dev->lock);
	put_record_locked(dev, REC_MARK, 0, ++dev->next_id, 0, len);
	put_bytes_locked(dev, text, len);
	lock_drop(&dev->lock);
}

static void below_done(struct dev_io *io, int err)
{
	struct record_io *rio = (struct record_io *)io;
	struct dev_io *up = rio->up;

	log_done(record_of(up->queue->dev), rio, err);
	free(rio);
	up->done(up, err);
}

static void record_submit(struct dev_queue *dq, struct dev_io *io)
{
	struct record_queue *q = (struct record_queue *)dq;
	struct record_io *rio = malloc(sizeof(*rio));

	io->queue = dq;
	if (!rio) {
		STAILQ_INSERT_TAIL(&q->failed, io, link);
		dev_wake(q->below);
		return;
	}
	rio->io = (struct dev_io){
		.op = io->op,
		.flags = io->flags,
		.off = io->off,
		.len = io->len,
		.iov = io->iov,
		.niov = io->niov,
		.done = below_done,
	};
	rio->up = io;
	rio->id = log_submit(record_of(dq->dev), io);
	dev_submit(q->below, &rio->io);
}

static int run_failed(struct record_queue *q)
{
	struct dev_io *io;
	int ran = 0;

	while ((io = STAILQ_FIRST(&q->failed))) {
		STAILQ_REMOVE_HEAD(&q->failed, link);
		io->done(io, -ENOMEM);
		ran++;
	}
	return ran;
}

static int record_poll(struct dev_queue *dq, int timeout_ms)
{
	struct record_queue *q = (struct record_queue *)dq;
	int ran = run_failed(q);

	return ran + dev_poll(q->below, ran ? 0 : timeout_ms);
}

static int record_queue_create(struct dev *dev, struct dev_queue **out)
{
	struct record_queue *q = calloc(1, sizeof(*q));
	int err;

	if (!q)
		return -ENOMEM;
	err = dev_queue_create(record_of(dev)->below, &q->below);
	if (err) {
		free(q);
		return err;
	}
	q->pub.dev = dev;
	STAILQ_INIT(&q->failed);
	*out = &q->pub;
	return 0;
}

static void record_queue_destroy(struct dev_queue *dq)
{
	struct record_queue *q = (struct record_queue *)dq;

	run_failed(q);
	dev_queue_destroy(q->below);
	free(q);
}

static int record_queue_fd(struct dev_queue *dq)
{
	return dev_queue_fd(((struct record_queue *)dq)->below);
}

static void record_wake(struct dev_queue *dq)
{
	dev_wake(((struct record_queue *)dq)->below);
}

static void record_post(struct dev_queue *dq, struct dev_task *task)
{
	dev_post(((struct record_queue *)dq)->below, task);
}

static void record_stats(struct dev *dev, struct dev_stats *out)
{
	dev_get_stats(record_of(dev)->below, out);
}

static void record_close(struct dev *pub)
{
	struct record_dev *dev = record_of(pub);

	if (fflush(dev->trace) && !dev->failed)
		diag(pub->diag, DIAG_ERR, "%s: cannot write the trace: %s", pub->path, strerror(errno));
	dev_close(dev->below);
	lock_fini(&dev->lock);
	free(dev);
}

static const struct dev_ops record_ops = {
	.name = "record",
	.close = record_close,
	.queue_create = record_queue_create,
	.queue_destroy = record_queue_destroy,
	.submit = record_submit,
	.poll = record_poll,
	.queue_fd = record_queue_fd,
	.wake = record_wake,
	.post = record_post,
	.stats = record_stats,
};

int dev_record_create(struct dev *below, FILE *trace, struct dev **out)
{
	struct record_dev *dev = calloc(1, sizeof(*dev));
	uint64_t magic;

	if (!dev)
		return -ENOMEM;
	/* The path and the descriptor stay the property of the device below. */
	dev->pub = *below;
	dev->pub.ops = &record_ops;
	dev->below = below;
	dev->trace = trace;
	lock_init(&dev->lock);

	magic = 0;
	for (int i = 0; i < 8; i++)
		magic |= (uint64_t)(unsigned char)"HFTRACE1"[i] << (8 * i);
	lock_take(&dev->lock);
	put_record_locked(dev, REC_OPEN, below->align, magic, below->size, below->sector);
	lock_drop(&dev->lock);
	*out = &dev->pub;
	return 0;
}
