/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev_sim_apply.c - what an operation of the simulated device does to the store, at its time, at a cut, or when it fails.
 */
#include "core/dev_sim_impl.h"

#include <string.h>

enum extent_of_write { WRITE_DURABLE, WRITE_VOLATILE, WRITE_SOME };

/* Some of an operation's bytes. */
struct part {
	uint64_t from, len;
};

static struct part rest_of(const struct dev_io *io)
{
	return (struct part){.from = io->moved, .len = io->len - io->moved};
}

/* Takes from the front of *part what is in this iovec, and returns how much; `from` counts from the iovec's start, and is left
 * counting from the next one's. */
static uint64_t take_iov(const struct iovec *iov, struct part *part, unsigned char **base)
{
	uint64_t n = iov->iov_len - part->from;

	if (part->from >= iov->iov_len) {
		part->from -= iov->iov_len;
		return 0;
	}
	*base = (unsigned char *)iov->iov_base + part->from;
	n = n < part->len ? n : part->len;
	part->from = 0;
	part->len -= n;
	return n;
}

/* Buffers and lengths are multiples of the sector, so no sector is split between iovecs. */
static int apply_write(struct sim_dev *dev, struct sim_store *to, const struct dev_io *io, struct part part,
		       enum extent_of_write how)
{
	uint64_t sectno = (io->sim.place + part.from) / dev->cfg.sector, seq = ++dev->seq;

	if (io->sim.place == NOWHERE)
		return 0;
	for (int i = 0; i < io->niov && part.len; i++) {
		unsigned char *p = NULL;
		uint64_t n = take_iov(&io->iov[i], &part, &p);

		for (uint64_t at = 0; at < n; at += dev->cfg.sector, sectno++) {
			if (how == WRITE_SOME && (sim_random(&dev->rng) & 1))
				continue;
			int err = sim_store_write(to, sectno, p + at, how == WRITE_DURABLE, seq);
			if (err)
				return err;
		}
	}
	return 0;
}

static int apply_discard(struct sim_dev *dev, struct sim_store *to, const struct dev_io *io, bool durable)
{
	uint64_t sectno = io->off / dev->cfg.sector, seq = ++dev->seq;
	uint64_t end = sectno + io->len / dev->cfg.sector;

	if (io->sim.place == NOWHERE)
		return 0;
	while (sectno < end) {
		uint64_t hole = sim_store_hole(to, sectno);

		if (hole) {
			sectno += hole;
			continue;
		}
		int err = sim_store_write(to, sectno++, NULL, durable, seq);
		if (err)
			return err;
	}
	return 0;
}

static int apply_read(struct sim_dev *dev, const struct dev_io *io, struct part part)
{
	uint64_t off = io->sim.place + part.from;

	for (int i = 0; i < io->niov && part.len; i++) {
		unsigned char *p = NULL;
		uint64_t n = take_iov(&io->iov[i], &part, &p);

		sim_store_read(dev->store, off, p, n);
		off += n;
	}
	return 0;
}

static int apply_flush(struct sim_dev *dev, const struct dev_io *io)
{
	if (io->sim.place != NOWHERE)
		sim_store_commit(dev->store, io->sim.place);
	return 0;
}

static int apply_part(struct sim_dev *dev, const struct dev_io *io, struct part part)
{
	switch (io->op) {
	case DEV_READ:
		return apply_read(dev, io, part);
	case DEV_WRITE:
		return apply_write(dev, dev->store, io, part,
				   io->flags & DEV_DURABLE ? WRITE_DURABLE : WRITE_VOLATILE);
	case DEV_FLUSH:
		return apply_flush(dev, io);
	case DEV_DISCARD:
		return apply_discard(dev, dev->store, io, false);
	}
	return -EINVAL;
}

/* What remains of an operation that ends in an injected error. */
static void apply_failed(struct sim_dev *dev, const struct dev_io *io)
{
	if (io->op == DEV_WRITE)
		apply_write(dev, dev->store, io, rest_of(io), WRITE_SOME);
	/* No caller may make anything of these bytes. */
	if (io->op == DEV_READ)
		for (int i = 0; i < io->niov; i++)
			memset(io->iov[i].iov_base, 0xdd, io->iov[i].iov_len);
}

/* Some of what is left of `io`, but not all unless that is one sector. */
static struct part draw_part(struct sim_dev *dev, const struct dev_io *io)
{
	struct part part = rest_of(io);
	uint64_t nsect = part.len / dev->cfg.sector;

	if (nsect > 1)
		part.len = dev->cfg.sector * (1 + sim_random(&dev->rng) % (nsect - 1));
	return part;
}

bool sim_apply(struct sim_dev *dev, struct dev_io *io, int *err)
{
	struct part part = rest_of(io);

	if (!dev->cut && io->sim.in_parts) {
		part = draw_part(dev, io);
		*err = apply_part(dev, io, part);
		io->moved += part.len;
		if (!*err && io->moved < io->len) {
			io->sim.in_parts = sim_random(&dev->rng) & 1;
			return false;
		}
		*err = *err ? *err : io->result;
		return true;
	}
	*err = dev->cut ? -EIO : io->result ? io->result : apply_part(dev, io, part);
	if (io->result && !dev->cut)
		apply_failed(dev, io);
	return true;
}

static int apply_list(struct sim_dev *dev, struct sim_store *to, const struct dev_io_list *list, bool durable)
{
	struct dev_io *io;
	int err = 0;

	STAILQ_FOREACH(io, list, link)
	{
		int rc = 0;

		if (io->result)
			continue;
		if (io->op == DEV_WRITE)
			rc = apply_write(dev, to, io, rest_of(io), durable ? WRITE_DURABLE : WRITE_VOLATILE);
		if (io->op == DEV_DISCARD)
			rc = apply_discard(dev, to, io, durable);
		err = err ? err : rc;
	}
	return err;
}

int sim_apply_in_flight(struct sim_dev *dev, struct sim_store *to, bool durable)
{
	struct sim_queue *q;
	int err = 0;

	LIST_FOREACH(q, &dev->queues, link)
	{
		int rc = apply_list(dev, to, &q->ready, durable);

		err = err ? err : rc;
		rc = apply_list(dev, to, &q->pending, durable);
		err = err ? err : rc;
	}
	return err;
}
