/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev_sim.c - the simulated device: when operations complete, in which order, and how they fail.
 *
 * What is in memory and what a cut leaves of it is sim_store.c's; what an operation does to it, dev_sim_apply.c's; which
 * operation meets a trouble, sim_faults.c's.  Here an operation is submitted with a due time in polls of its queue, and
 * has its effect at the moment its callback runs; until then it is in flight.  Every random choice is drawn at a
 * place that depends on the sequence of calls alone, so that a seed is a history.
 */
#include "core/dev_sim_impl.h"

#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"

/* --- troubles --- */

/* Whether a write needs memory that was never written before. */
static bool into_hole(struct sim_dev *dev, const struct dev_io *io)
{
	uint64_t page = SIM_STORE_PAGE / dev->cfg.sector;
	uint64_t sectno = io->off / dev->cfg.sector, end = sectno + io->len / dev->cfg.sector;

	for (; sectno < end; sectno += page - sectno % page)
		if (sim_store_hole(dev->store, sectno))
			return true;
	return false;
}

/* Where a misdirected operation goes; home if there is no other place. */
static uint64_t elsewhere(struct sim_dev *dev, const struct dev_io *io)
{
	uint64_t home = io->off / dev->cfg.sector;
	uint64_t room =
		(dev->cfg.size - io->len) / dev->cfg.sector + 1; /* places for an operation of this length */
	unsigned nbits = 64 - (unsigned)__builtin_clzll(room);

	for (int tries = 0; tries < 16; tries++) {
		uint64_t r = sim_random(&dev->rng);
		uint64_t sectno = r & 1 ? home ^ 1ull << ((r >> 8) % nbits) : (r >> 8) % room;

		if (sectno != home && sectno < room)
			return sectno * dev->cfg.sector;
	}
	return io->off;
}

static void meet_troubles(struct sim_dev *dev, struct dev_io *io)
{
	struct sim_faults *f = &dev->faults;

	if (sim_faults_strike(f, SIM_ERROR, io))
		io->result = sim_faults_err(f, io->op);
	if (sim_faults_strike(f, SIM_MISDIRECTED, io))
		io->sim.place = elsewhere(dev, io);
	if (sim_faults_strike(f, SIM_LOST, io))
		io->sim.place = NOWHERE;
	if (sim_faults_strike(f, SIM_IN_PARTS, io))
		io->sim.in_parts = true;
	if (sim_faults_strike(f, SIM_SLOW, io))
		io->sim.due += 64 + sim_random(&dev->rng) % 512;
	if (io->op == DEV_WRITE && into_hole(dev, io) && sim_faults_strike(f, SIM_FULL, io)) {
		io->result = -ENOSPC;
		io->sim.place = NOWHERE;
	}
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

/* Most operations take a few polls; some are overtaken by everything else. */
static uint64_t draw_delay(struct sim_dev *dev, const struct dev_io *io)
{
	uint64_t r = sim_random(&dev->rng), often = io->op == DEV_FLUSH ? 12 : 4;

	return r % 16 ? (r >> 8) % often : (r >> 8) % 8 * often;
}

static void enqueue(struct sim_dev *dev, struct sim_queue *q, struct dev_io *io)
{
	bool in_order = dev->cfg.in_order;

	io->sim.due += q->tick + 1 + (in_order ? 0 : draw_delay(dev, io));
	if (io->sim.due < q->next_due)
		q->next_due = io->sim.due;
	if (in_order || (sim_random(&dev->rng) & 1))
		STAILQ_INSERT_TAIL(&q->pending, io, link);
	else
		STAILQ_INSERT_HEAD(&q->pending, io, link);
}

static void sim_submit(struct dev_queue *dq, struct dev_io *io)
{
	struct sim_dev *dev = sim_of(dq->dev);

	engine_begin(engine_queue_of(dq), io);
	digest_io(dev, io);
	io->sim.due = 0;
	io->sim.in_parts = false;
	io->sim.place = io->op == DEV_FLUSH ? dev->seq : io->off;
	io->result = engine_refuses(dq->dev, io);
	if (io->result)
		io->sim.place = NOWHERE;
	else if (dev->faults.any)
		meet_troubles(dev, io);
	enqueue(dev, (struct sim_queue *)dq, io);
	if (io->sim.place != NOWHERE && (io->op == DEV_WRITE || io->op == DEV_FLUSH) && ++dev->nwrites == dev->cut_at)
		dev_sim_cut(&dev->base.pub);
}

/* One poll: moves what is due to `ready`. */
static void collect_ready(struct sim_queue *q)
{
	struct dev_io_list later = STAILQ_HEAD_INITIALIZER(later);
	struct dev_io *io;

	if (++q->tick < q->next_due)
		return;
	q->next_due = UINT64_MAX;
	while ((io = STAILQ_FIRST(&q->pending))) {
		STAILQ_REMOVE_HEAD(&q->pending, link);
		if (io->sim.due <= q->tick) {
			STAILQ_INSERT_TAIL(&q->ready, io, link);
			continue;
		}
		STAILQ_INSERT_TAIL(&later, io, link);
		if (io->sim.due < q->next_due)
			q->next_due = io->sim.due;
	}
	STAILQ_CONCAT(&q->pending, &later);
}

static int run_ready(struct sim_queue *q)
{
	struct sim_dev *dev = sim_of(q->base.pub.dev);
	struct dev_io *io;
	int ran = 0, err;

	while ((io = STAILQ_FIRST(&q->ready))) {
		STAILQ_REMOVE_HEAD(&q->ready, link);
		if (!sim_apply(dev, io, &err)) {
			io->sim.due = 0;
			enqueue(dev, q, io);
			continue;
		}
		engine_finish(&q->base, io, err);
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
	q->next_due = UINT64_MAX;
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
		err = sim_apply_in_flight(dev, copy->store, true);
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
	(void)sim_apply_in_flight(dev, dev->store, false);
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
	struct sim_order order = {.mode = mode, .left = n, .err = err, .off = off, .len = len};

	assert(mode == SIM_FAULT_NONE || (n >= 1 && err < 0));
	sim_faults_order(&sim_of(pub)->faults, SIM_ERROR, op, &order);
}

void dev_sim_trouble(struct dev *pub, enum sim_trouble what, enum dev_op op, uint64_t n, enum sim_fault mode,
		     uint64_t off, uint64_t len)
{
	struct sim_order order = {.mode = mode, .left = n, .err = -EIO, .off = off, .len = len};

	assert(mode == SIM_FAULT_NONE || n >= 1);
	sim_faults_order(&sim_of(pub)->faults, what, op, &order);
}

void dev_sim_set_rates(struct dev *pub, const struct sim_rates *rates)
{
	const struct sim_rates none = {.seed = 0};

	sim_faults_set_rates(&sim_of(pub)->faults, rates ? rates : &none);
}

uint64_t dev_sim_struck(struct dev *pub, enum sim_trouble what, enum dev_op op)
{
	return sim_of(pub)->faults.struck[what][op];
}

uint64_t dev_sim_rot(struct dev *pub, uint64_t off, uint64_t len, uint64_t *state)
{
	uint64_t byte;

	assert(off <= pub->size && len <= pub->size - off);
	byte = sim_store_pick(sim_of(pub)->store, off, len, state);
	if (byte != UINT64_MAX)
		sim_store_flip(sim_of(pub)->store, byte, (unsigned)(sim_random(state) % 8));
	return byte;
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

void dev_sim_schedule(struct dev *pub, uint64_t seed, bool in_order)
{
	struct sim_dev *dev = sim_of(pub);

	dev->rng = seed;
	dev->cfg.in_order = in_order;
}

uint32_t dev_sim_digest(struct dev *pub)
{
	return sim_of(pub)->digest;
}
