/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev_sim.c - the simulated device: when operations complete, in which order, and how they fail.
 *
 * What is in memory and what a cut leaves of it is sim_store.c's.  Here an operation is submitted with a due time in
 * polls of its queue, and has its effect at the moment its callback runs; until then it is in flight.  Every random
 * choice is drawn at a place that depends on the sequence of calls alone, so that a seed is a history.
 *
 * In a struct dev_io of this engine `moved` is the due time, `result` the injected error, and `priv` what a
 * flush covers, which is a write number.
 */
#include "core/dev_sim.h"

#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/dev_engine.h"
#include "core/sim_store.h"

struct fault {
	enum sim_fault mode;
	uint64_t left; /* operations until it strikes */
	int err;
	uint64_t off, len; /* len 0: anywhere */
};

struct sim_queue {
	struct engine_queue base;
	LIST_ENTRY(sim_queue) link;
	struct dev_io_list pending; /* in random order, none due before its time */
	struct dev_io_list ready; /* due in the present poll; still in flight */
	uint64_t tick; /* polls so far */
};

struct sim_dev {
	struct engine_dev base;
	struct sim_config cfg;
	struct sim_store *store;
	uint64_t rng;
	uint64_t seq; /* number of the last write that took effect */
	uint64_t nwrites; /* writes and flushes submitted */
	uint64_t cut_at; /* the power goes when nwrites gets there; 0: never */
	bool cut;
	uint32_t digest;
	struct fault faults[4]; /* by enum dev_op */
	LIST_HEAD(, sim_queue) queues;
};

static struct sim_dev *sim_of(struct dev *dev)
{
	return (struct sim_dev *)dev;
}

/* --- effects --- */

enum extent_of_write { WRITE_DURABLE, WRITE_VOLATILE, WRITE_SOME };

/* Buffers and lengths are multiples of the sector, so no sector is split between iovecs. */
static int apply_write(struct sim_dev *dev, struct sim_store *to, const struct dev_io *io,
		       enum extent_of_write how, uint64_t seq)
{
	uint64_t sectno = io->off / dev->cfg.sector;

	for (int i = 0; i < io->niov; i++) {
		const char *p = io->iov[i].iov_base;

		for (size_t at = 0; at < io->iov[i].iov_len; at += dev->cfg.sector, sectno++) {
			if (how == WRITE_SOME && (sim_random(&dev->rng) & 1))
				continue;
			int err = sim_store_write(to, sectno, p + at, how == WRITE_DURABLE, seq);
			if (err)
				return err;
		}
	}
	return 0;
}

static int apply_discard(struct sim_dev *dev, struct sim_store *to, const struct dev_io *io, bool durable,
			 uint64_t seq)
{
	uint64_t sectno = io->off / dev->cfg.sector;
	uint64_t end = sectno + io->len / dev->cfg.sector;

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

static int apply_read(struct sim_dev *dev, const struct dev_io *io)
{
	uint64_t off = io->off;

	for (int i = 0; i < io->niov; i++) {
		sim_store_read(dev->store, off, io->iov[i].iov_base, io->iov[i].iov_len);
		off += io->iov[i].iov_len;
	}
	return 0;
}

/* What remains of an operation that ends in an injected error. */
static void apply_failed(struct sim_dev *dev, const struct dev_io *io)
{
	if (io->op == DEV_WRITE)
		apply_write(dev, dev->store, io, WRITE_SOME, ++dev->seq);
	/* No caller may make anything of these bytes. */
	if (io->op == DEV_READ)
		for (int i = 0; i < io->niov; i++)
			memset(io->iov[i].iov_base, 0xdd, io->iov[i].iov_len);
}

static int apply(struct sim_dev *dev, const struct dev_io *io)
{
	if (dev->cut)
		return -EIO;
	if (io->result) {
		if (io->result != -EBADF || !dev->base.pub.read_only)
			apply_failed(dev, io);
		return io->result;
	}
	switch (io->op) {
	case DEV_READ:
		return apply_read(dev, io);
	case DEV_WRITE:
		return apply_write(dev, dev->store, io,
				   io->flags & DEV_DURABLE ? WRITE_DURABLE : WRITE_VOLATILE, ++dev->seq);
	case DEV_FLUSH:
		sim_store_commit(dev->store, (uint64_t)(uintptr_t)io->priv);
		return 0;
	case DEV_DISCARD:
		return apply_discard(dev, dev->store, io, false, ++dev->seq);
	}
	return -EINVAL;
}

/* Writes and discards in flight take effect in `to`; returns the first error. */
static int apply_in_flight(struct sim_dev *dev, struct sim_store *to, bool durable)
{
	struct sim_queue *q;
	int err = 0;

	LIST_FOREACH(q, &dev->queues, link)
	{
		struct dev_io_list *lists[] = {&q->ready, &q->pending};

		for (int i = 0; i < 2; i++) {
			struct dev_io *io;

			STAILQ_FOREACH(io, lists[i], link)
			{
				int rc = 0;

				if (io->result)
					continue;
				if (io->op == DEV_WRITE)
					rc = apply_write(dev, to, io,
							 durable ? WRITE_DURABLE : WRITE_VOLATILE,
							 ++dev->seq);
				if (io->op == DEV_DISCARD)
					rc = apply_discard(dev, to, io, durable, ++dev->seq);
				err = err ? err : rc;
			}
		}
	}
	return err;
}

/* --- submission and completion --- */

static void digest_io(struct sim_dev *dev, const struct dev_io *io)
{
	bool flush = io->op == DEV_FLUSH;
	uint64_t words[4] = {io->op, io->flags, flush ? 0 : io->off, flush ? 0 : io->len};

	dev->digest = crc32c(dev->digest, words, sizeof(words));
	if (io->op == DEV_WRITE)
		for (int i = 0; i < io->niov; i++)
			dev->digest = crc32c(dev->digest, io->iov[i].iov_base, io->iov[i].iov_len);
}

static int inject(struct sim_dev *dev, const struct dev_io *io)
{
	struct fault *f = &dev->faults[io->op];

	if (f->mode == SIM_FAULT_NONE)
		return 0;
	if (f->len && io->op != DEV_FLUSH && (io->off >= f->off + f->len || f->off >= io->off + io->len))
		return 0;
	if (f->left && --f->left)
		return 0;
	if (f->mode == SIM_FAULT_ONCE)
		f->mode = SIM_FAULT_NONE;
	return f->err;
}

/* Most operations take a few polls; some are overtaken by everything else. */
static uint64_t draw_delay(struct sim_dev *dev)
{
	uint64_t r = sim_random(&dev->rng);

	return r % 16 ? (r >> 8) % 4 : (r >> 8) % 32;
}

static void enqueue(struct sim_dev *dev, struct sim_queue *q, struct dev_io *io)
{
	io->moved = q->tick + 1;
	if (dev->cfg.in_order) {
		STAILQ_INSERT_TAIL(&q->pending, io, link);
		return;
	}
	io->moved += draw_delay(dev);
	if (sim_random(&dev->rng) & 1)
		STAILQ_INSERT_TAIL(&q->pending, io, link);
	else
		STAILQ_INSERT_HEAD(&q->pending, io, link);
}

static void sim_submit(struct dev_queue *dq, struct dev_io *io)
{
	struct sim_dev *dev = sim_of(dq->dev);

	engine_begin(engine_queue_of(dq), io);
	digest_io(dev, io);
	io->result = engine_refuses(dq->dev, io);
	if (!io->result)
		io->result = inject(dev, io);
	if (io->op == DEV_FLUSH)
		io->priv = (void *)(uintptr_t)dev->seq;
	enqueue(dev, (struct sim_queue *)dq, io);
	if ((io->op == DEV_WRITE || io->op == DEV_FLUSH) && ++dev->nwrites == dev->cut_at)
		dev_sim_cut(&dev->base.pub);
}

static void collect_ready(struct sim_queue *q)
{
	struct dev_io_list later = STAILQ_HEAD_INITIALIZER(later);
	struct dev_io *io;

	q->tick++;
	while ((io = STAILQ_FIRST(&q->pending))) {
		STAILQ_REMOVE_HEAD(&q->pending, link);
		if (io->moved <= q->tick)
			STAILQ_INSERT_TAIL(&q->ready, io, link);
		else
			STAILQ_INSERT_TAIL(&later, io, link);
	}
	STAILQ_CONCAT(&q->pending, &later);
}

static int run_ready(struct sim_queue *q)
{
	struct dev_io *io;
	int ran = 0;

	while ((io = STAILQ_FIRST(&q->ready))) {
		STAILQ_REMOVE_HEAD(&q->ready, link);
		engine_finish(&q->base, io, apply(sim_of(q->base.pub.dev), io));
		ran++;
	}
	return ran;
}

/* Waiting is only letting time pass: while something is in flight it will come. */
static int sim_poll(struct dev_queue *dq, int timeout_ms)
{
	struct sim_queue *q = (struct sim_queue *)dq;
	bool woken = false;
	int ran = 0;

	assert(!q->base.polling);
	q->base.polling = true;
	do {
		collect_ready(q);
		ran += run_ready(q);
		ran += engine_run_inbox(&q->base, &woken);
	} while (!ran && timeout_ms && !STAILQ_EMPTY(&q->pending));
	q->base.polling = false;
	return ran;
}

static int sim_queue_create(struct dev *dev, struct dev_queue **out)
{
	struct sim_queue *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	engine_queue_init(&q->base, dev, false);
	STAILQ_INIT(&q->pending);
	STAILQ_INIT(&q->ready);
	LIST_INSERT_HEAD(&sim_of(dev)->queues, q, link);
	*out = &q->base.pub;
	return 0;
}

static void sim_queue_destroy(struct dev_queue *dq)
{
	struct sim_queue *q = (struct sim_queue *)dq;

	while (q->base.pending)
		sim_poll(dq, -1);
	LIST_REMOVE(q, link);
	engine_queue_fini(&q->base);
	free(q);
}

static void sim_close(struct dev *pub)
{
	struct sim_dev *dev = sim_of(pub);

	assert(LIST_EMPTY(&dev->queues));
	sim_store_free(dev->store);
	engine_dev_fini(pub);
	free(dev);
}

static const struct dev_ops sim_ops = {
	.name = "sim",
	.close = sim_close,
	.queue_create = sim_queue_create,
	.queue_destroy = sim_queue_destroy,
	.submit = sim_submit,
	.poll = sim_poll,
	.queue_fd = engine_queue_fd,
	.wake = engine_wake,
	.post = engine_post,
	.stats = engine_stats,
};

/* --- what tests do to it --- */

/* A device without a store, or NULL. */
static struct sim_dev *sim_alloc(const struct sim_config *cfg, const struct diag *diag)
{
	struct sim_dev *dev = calloc(1, sizeof(*dev));
	char *path = strdup("sim");

	if (!dev || !path) {
		free(dev);
		free(path);
		return NULL;
	}
	dev->cfg = *cfg;
	dev->rng = cfg->seed;
	dev->base.grain = 1;
	dev->base.pub = (struct dev){
		.ops = &sim_ops,
		.diag = diag,
		.path = path,
		.size = cfg->size,
		.align = cfg->sector,
		.mem_align = cfg->sector,
		.sector = cfg->sector,
		.can_discard = true,
		.fd = -1,
	};
	LIST_INIT(&dev->queues);
	return dev;
}

int dev_sim_create(const struct sim_config *cfg, const struct diag *diag, struct dev **out)
{
	struct sim_dev *dev;
	int err;

	assert(cfg->sector == 512 || cfg->sector == 4096);
	assert(cfg->size && cfg->size % cfg->sector == 0);
	dev = sim_alloc(cfg, diag);
	if (!dev)
		return -ENOMEM;
	err = sim_store_create(cfg->size, cfg->sector, ~cfg->seed, &dev->store);
	if (err)
		sim_close(&dev->base.pub);
	else
		*out = &dev->base.pub;
	return err;
}

int dev_sim_clone(struct dev *pub, struct dev **out)
{
	struct sim_dev *dev = sim_of(pub), *copy = sim_alloc(&dev->cfg, pub->diag);
	int err;

	if (!copy)
		return -ENOMEM;
	copy->base.pub.read_only = pub->read_only;
	err = sim_store_clone(dev->store, ~dev->cfg.seed, &copy->store);
	/* At a cut they have been put into the store already. */
	if (!err && !dev->cut)
		err = apply_in_flight(dev, copy->store, true);
	if (err)
		sim_close(&copy->base.pub);
	else
		*out = &copy->base.pub;
	return err;
}

void dev_sim_cut(struct dev *pub)
{
	struct sim_dev *dev = sim_of(pub);

	if (dev->cut)
		return;
	/* An error is -ENOMEM: that write did not reach the cache, as it well might not have. */
	(void)apply_in_flight(dev, dev->store, false);
	dev->cut = true;
}

void dev_sim_cut_after(struct dev *pub, uint64_t n)
{
	struct sim_dev *dev = sim_of(pub);

	dev->cut_at = n ? dev->nwrites + n : 0;
}

bool dev_sim_is_cut(struct dev *pub)
{
	return sim_of(pub)->cut;
}

uint64_t dev_sim_writes(struct dev *pub)
{
	return sim_of(pub)->nwrites;
}

static void power_on(struct sim_dev *dev)
{
	dev->cut = false;
	dev->cut_at = 0;
}

void dev_sim_reboot(struct dev *pub, uint64_t seed)
{
	struct sim_dev *dev = sim_of(pub);

	assert(dev->cut && LIST_EMPTY(&dev->queues));
	sim_store_settle(dev->store, seed);
	power_on(dev);
}

uint64_t dev_sim_reboot_torn(struct dev *pub, uint64_t nsectors)
{
	struct sim_dev *dev = sim_of(pub);

	assert(dev->cut && LIST_EMPTY(&dev->queues));
	uint64_t n = sim_store_settle_torn(dev->store, nsectors);

	power_on(dev);
	return n;
}

void dev_sim_fail(struct dev *pub, enum dev_op op, uint64_t n, enum sim_fault mode, int err, uint64_t off,
		  uint64_t len)
{
	assert(mode == SIM_FAULT_NONE || (n >= 1 && err < 0));
	sim_of(pub)->faults[op] = (struct fault){.mode = mode, .left = n, .err = err, .off = off, .len = len};
}

void dev_sim_flip(struct dev *pub, uint64_t byte, unsigned bit)
{
	assert(byte < pub->size && bit < 8);
	sim_store_flip(sim_of(pub)->store, byte, bit);
}

void dev_sim_peek(struct dev *pub, uint64_t off, void *buf, uint64_t len)
{
	assert(off <= pub->size && len <= pub->size - off);
	sim_store_read(sim_of(pub)->store, off, buf, len);
}

void dev_sim_poke(struct dev *pub, uint64_t off, const void *buf, uint64_t len)
{
	assert(off <= pub->size && len <= pub->size - off);
	sim_store_poke(sim_of(pub)->store, off, buf, len);
}

uint32_t dev_sim_digest(struct dev *pub)
{
	return sim_of(pub)->digest;
}
