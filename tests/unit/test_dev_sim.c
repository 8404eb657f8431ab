/* SPDX-License-Identifier: Apache-2.0 */
/* test_dev_sim.c - the fault model of core/dev_sim.h, and the trace of core/dev_record.h. */
#include "tests/unit/dev_fixture.h"

#include "core/crc32c.h"
#include "core/sim_store.h"

#define SECTOR 512u
#define SEEDS 400u

static void open_sim(struct fixture *f, uint64_t size, uint64_t seed, bool in_order)
{
	struct sim_config cfg = {.size = size, .sector = SECTOR, .seed = seed, .in_order = in_order};

	memset(f, 0, sizeof(*f));
	assert_int_equal(dev_sim_create(&cfg, NULL, &f->dev), 0);
	assert_int_equal(dev_queue_create(f->dev, &f->q), 0);
}

static void close_sim(struct fixture *f)
{
	dev_queue_destroy(f->q);
	dev_close(f->dev);
}

/* Cuts the power (unless that is done) and comes back with a new queue. */
static void power_cycle(struct fixture *f, uint64_t seed)
{
	dev_sim_cut(f->dev);
	dev_queue_destroy(f->q);
	dev_sim_reboot(f->dev, seed);
	assert_int_equal(dev_queue_create(f->dev, &f->q), 0);
}

static void write_byte(struct fixture *f, uint64_t sectno, unsigned nsect, int byte, unsigned flags)
{
	unsigned char *buf = dev_alloc(nsect * SECTOR, false);

	memset(buf, byte, nsect * SECTOR);
	assert_int_equal(dev_write(f->q, sectno * SECTOR, buf, nsect * SECTOR, flags), 0);
	free(buf);
}

/* The byte that fills sector `sectno`. */
static int byte_at(struct fixture *f, uint64_t sectno)
{
	unsigned char sect[SECTOR];

	dev_sim_peek(f->dev, sectno * SECTOR, sect, SECTOR);
	for (unsigned i = 1; i < SECTOR; i++)
		assert_int_equal(sect[i], sect[0]); /* never torn within a sector */
	return sect[0];
}

/* --- one seed, one history --- */

struct order {
	struct probe p;
	uint32_t *crc;
	unsigned id;
};

static void note_order(struct dev_io *io, int err)
{
	struct order *o = (struct order *)io;

	*o->crc = crc32c(*o->crc, &o->id, sizeof(o->id));
	*o->crc = crc32c(*o->crc, &err, sizeof(err));
	--*o->p.left;
}

/* A mixed load; *order tells in which order it completed. */
static uint32_t run_history(uint64_t seed, bool in_order, uint32_t *order, unsigned char *contents)
{
	enum { N = 200 };
	struct fixture f;
	struct order o[N];
	unsigned char *buf = dev_alloc(N * SECTOR, false);
	uint64_t rng = 42;
	uint32_t digest;
	int left = N;

	open_sim(&f, 64 * SECTOR, seed, in_order);
	fill(buf, N * SECTOR, 1);
	*order = 0;
	for (unsigned i = 0; i < N; i++) {
		enum dev_op op = i % 10 == 9 ? DEV_FLUSH : i % 3 ? DEV_WRITE : DEV_READ;

		dev_io_rw(&o[i].p.io, op, 0, sim_random(&rng) % 64 * SECTOR, buf + i * SECTOR, SECTOR,
			  note_order);
		o[i].p.left = &left;
		o[i].crc = order;
		o[i].id = i;
		dev_submit(f.q, &o[i].p.io);
		if (i % 4 == 0)
			dev_poll(f.q, 0);
	}
	wait_for(&f, &left);
	digest = dev_sim_digest(f.dev);
	power_cycle(&f, 5);
	dev_sim_peek(f.dev, 0, contents, 64 * SECTOR);
	close_sim(&f);
	free(buf);
	return digest;
}

static void one_seed_is_one_history(void **state)
{
	unsigned char *a = malloc(64 * SECTOR), *b = malloc(64 * SECTOR);
	uint32_t order_a, order_b, order_c;
	unsigned differ = 0;

	(void)state;
	for (uint64_t seed = 0; seed < 20; seed++) {
		assert_int_equal(run_history(seed, false, &order_a, a),
				 run_history(seed, false, &order_b, b));
		assert_int_equal(order_a, order_b);
		assert_memory_equal(a, b, 64 * SECTOR);
		run_history(seed + 1, false, &order_c, b);
		differ += order_c != order_a;
	}
	assert_int_equal(differ, 20);
	run_history(1, true, &order_a, a);
	run_history(2, true, &order_b, b);
	assert_int_equal(order_a, order_b); /* in order: nothing left to the seed */
	free(a);
	free(b);
}

static void digest_sees_everything(void **state)
{
	struct fixture f[5];
	uint32_t d[5];

	(void)state;
	for (int i = 0; i < 5; i++)
		open_sim(&f[i], 64 * SECTOR, 1, false);
	write_byte(&f[0], 1, 1, 'a', 0);
	write_byte(&f[1], 1, 1, 'b', 0);
	write_byte(&f[2], 2, 1, 'a', 0);
	write_byte(&f[3], 1, 1, 'a', DEV_DURABLE);
	write_byte(&f[4], 1, 1, 'a', 0);
	assert_int_equal(dev_sim_digest(f[0].dev), dev_sim_digest(f[4].dev));
	assert_int_equal(dev_flush(f[4].q), 0);
	for (int i = 0; i < 5; i++) {
		d[i] = dev_sim_digest(f[i].dev);
		for (int k = 0; k < i; k++)
			assert_int_not_equal(d[i], d[k]);
		close_sim(&f[i]);
	}
}

/* --- power cuts --- */

static void durable_data_survives(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		struct fixture f;

		open_sim(&f, 64 * SECTOR, seed, false);
		write_byte(&f, 0, 4, 'o', 0);
		write_byte(&f, 0, 4, 'f', 0);
		assert_int_equal(dev_flush(f.q), 0);
		write_byte(&f, 8, 4, 'd', DEV_DURABLE);
		write_byte(&f, 16, 4, 'x', 0); /* not covered by what came before */
		power_cycle(&f, seed);
		for (unsigned i = 0; i < 4; i++) {
			assert_int_equal(byte_at(&f, i), 'f');
			assert_int_equal(byte_at(&f, 8 + i), 'd');
			assert_true(byte_at(&f, 16 + i) == 'x' || byte_at(&f, 16 + i) == 0);
		}
		close_sim(&f);
	}
}

static void durable_is_for_its_own_bytes(void **state)
{
	unsigned lost = 0;

	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		struct fixture f;

		open_sim(&f, 64 * SECTOR, seed, false);
		write_byte(&f, 0, 1, 'v', 0);
		write_byte(&f, 8, 1, 'd', DEV_DURABLE);
		power_cycle(&f, seed);
		lost += byte_at(&f, 0) == 0;
		close_sim(&f);
	}
	assert_in_range(lost, SEEDS / 5, SEEDS * 4 / 5);
}

/* Each version of a sector turns up, and all mixtures of a write's sectors. */
static void any_subset_survives(void **state)
{
	unsigned seen[4] = {0}, masks[16] = {0};

	(void)state;
	for (uint64_t seed = 0; seed < 4 * SEEDS; seed++) {
		struct fixture f;
		unsigned mask = 0;

		open_sim(&f, 64 * SECTOR, 1, false);
		for (int v = 1; v <= 3; v++)
			write_byte(&f, 20, 1, v, 0);
		write_byte(&f, 0, 4, 'n', 0);
		power_cycle(&f, seed);
		seen[byte_at(&f, 20)]++;
		for (unsigned i = 0; i < 4; i++)
			mask |= (unsigned)(byte_at(&f, i) == 'n') << i;
		masks[mask]++;
		close_sim(&f);
	}
	for (int v = 0; v < 4; v++)
		assert_true(seen[v] > 0);
	for (int m = 0; m < 16; m++)
		assert_true(masks[m] > 0);
}

static void the_last_write_is_torn_where_asked(void **state)
{
	(void)state;
	for (uint64_t left = 0; left <= 5; left++) {
		struct fixture f;

		open_sim(&f, 64 * SECTOR, 1, false);
		write_byte(&f, 10, 4, 'd', DEV_DURABLE);
		write_byte(&f, 2, 1, 'v', 0);
		write_byte(&f, 10, 4, 'n', 0);
		dev_sim_cut(f.dev);
		dev_queue_destroy(f.q);
		assert_int_equal(dev_sim_reboot_torn(f.dev, left), 4);
		assert_int_equal(dev_queue_create(f.dev, &f.q), 0);
		assert_int_equal(byte_at(&f, 2), 'v');
		for (unsigned i = 0; i < 4; i++)
			assert_int_equal(byte_at(&f, 10 + i), i < left ? 'n' : 'd');
		assert_int_equal(dev_flush(f.q), 0);
		dev_sim_cut(f.dev);
		dev_queue_destroy(f.q);
		assert_int_equal(dev_sim_reboot_torn(f.dev, 0), 0);
		assert_int_equal(dev_queue_create(f.dev, &f.q), 0);
		assert_int_equal(byte_at(&f, 2), 'v');
		close_sim(&f);
	}
}

/* A flush in flight together with a write promises nothing about it. */
static void flush_covers_what_was_complete(void **state)
{
	unsigned lost[2] = {0}, n[2] = {0};

	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		unsigned char *buf = dev_alloc(SECTOR, false);
		struct fixture f;
		struct probe w, fl;
		int left = 2, write_first;

		open_sim(&f, 64 * SECTOR, seed, false);
		memset(buf, 'w', SECTOR);
		probe_submit(&f, &w, &left, DEV_WRITE, 0, 0, buf, SECTOR);
		probe_submit(&f, &fl, &left, DEV_FLUSH, 0, 0, NULL, 0);
		wait_for(&f, &left);
		write_first = w.left_after > fl.left_after;
		power_cycle(&f, seed);
		n[write_first]++;
		lost[write_first] += byte_at(&f, 0) == 0;
		close_sim(&f);
		free(buf);
	}
	for (int i = 0; i < 2; i++)
		assert_in_range(lost[i], n[i] / 5, n[i] * 4 / 5);
	assert_true(n[0] > 50 && n[1] > 50);
}

static void cut_counts_writes_and_flushes(void **state)
{
	struct fixture f;
	unsigned char *buf = dev_alloc(SECTOR, true);

	(void)state;
	open_sim(&f, 64 * SECTOR, 3, false);
	write_byte(&f, 0, 1, 'a', 0);
	assert_int_equal(dev_sim_writes(f.dev), 1);
	dev_sim_cut_after(f.dev, 3);
	write_byte(&f, 1, 1, 'b', 0);
	assert_int_equal(dev_read(f.q, 0, buf, SECTOR), 0);
	assert_int_equal(dev_flush(f.q), 0);
	assert_false(dev_sim_is_cut(f.dev));
	assert_int_equal(dev_write(f.q, 2 * SECTOR, buf, SECTOR, DEV_DURABLE), -EIO);
	assert_true(dev_sim_is_cut(f.dev));
	assert_int_equal(dev_sim_writes(f.dev), 4);
	assert_int_equal(dev_read(f.q, 0, buf, SECTOR), -EIO);
	assert_int_equal(dev_flush(f.q), -EIO);
	assert_int_equal(dev_write(f.q, 0, buf, SECTOR, 0), -EIO);
	power_cycle(&f, 1);
	assert_false(dev_sim_is_cut(f.dev));
	assert_int_equal(byte_at(&f, 0), 'a');
	assert_int_equal(byte_at(&f, 1), 'b');
	dev_sim_cut_after(f.dev, 1);
	dev_sim_cut_after(f.dev, 0);
	write_byte(&f, 0, 1, 'c', 0);
	close_sim(&f);
	free(buf);
}

/* The flush that is in flight at the cut covers nothing; the writes in flight may have come through. */
static void in_flight_at_the_cut(void **state)
{
	unsigned kept = 0, flushed = 0;

	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		unsigned char *buf = dev_alloc(SECTOR, false);
		struct probe w, fl;
		struct fixture f;
		int left = 2;

		open_sim(&f, 64 * SECTOR, seed, false);
		write_byte(&f, 0, 1, 'c', 0);
		memset(buf, 'w', SECTOR);
		dev_sim_cut_after(f.dev, 2);
		probe_submit(&f, &w, &left, DEV_WRITE, DEV_DURABLE, SECTOR, buf, SECTOR);
		probe_submit(&f, &fl, &left, DEV_FLUSH, 0, 0, NULL, 0);
		memset(buf, 'x', SECTOR); /* too late to matter */
		wait_for(&f, &left);
		assert_int_equal(w.err, -EIO);
		assert_int_equal(fl.err, -EIO);
		power_cycle(&f, seed);
		assert_int_not_equal(byte_at(&f, 1), 'x');
		kept += byte_at(&f, 1) == 'w';
		flushed += byte_at(&f, 0) == 'c';
		close_sim(&f);
		free(buf);
	}
	assert_in_range(kept, SEEDS / 5, SEEDS * 4 / 5);
	assert_in_range(flushed, SEEDS / 5, SEEDS * 4 / 5);
}

/* --- against a model --- */

#define MODEL_SECTORS 32u
#define MODEL_OPS 300u

/* What each sector may hold: versions lower..upper, where version v is the number of the write. */
struct model {
	struct fixture f;
	uint64_t rng;
	uint32_t next;
	uint32_t lower[MODEL_SECTORS], done[MODEL_SECTORS], upper[MODEL_SECTORS];
	bool busy[MODEL_SECTORS]; /* a write is in flight */
	int left;
};

struct model_io {
	struct dev_io io;
	struct model *m;
	uint32_t version;
	uint32_t covers[MODEL_SECTORS]; /* flush: `done` at its submission */
	unsigned char *buf;
};

static void model_done(struct dev_io *io, int err)
{
	struct model_io *mio = (struct model_io *)io;
	struct model *m = mio->m;

	assert_int_equal(err, 0);
	if (io->op == DEV_FLUSH)
		for (unsigned s = 0; s < MODEL_SECTORS; s++)
			m->lower[s] = mio->covers[s] > m->lower[s] ? mio->covers[s] : m->lower[s];
	for (uint64_t s = io->off / SECTOR; io->op == DEV_WRITE && s < (io->off + io->len) / SECTOR; s++) {
		m->busy[s] = false;
		m->done[s] = mio->version;
		if (io->flags & DEV_DURABLE)
			m->lower[s] = mio->version;
	}
	m->left--;
	free(mio->buf);
	free(mio);
}

static struct model_io *model_io(struct model *m, uint64_t first, uint64_t n)
{
	struct model_io *mio = calloc(1, sizeof(*mio));

	mio->m = m;
	mio->version = ++m->next;
	mio->buf = dev_alloc(n * SECTOR, true);
	for (uint64_t s = 0; s < n; s++)
		memcpy(mio->buf + s * SECTOR, &mio->version, sizeof(mio->version));
	dev_io_rw(&mio->io, DEV_WRITE, 0, first * SECTOR, mio->buf, n * SECTOR, model_done);
	return mio;
}

static void model_step(struct model *m)
{
	uint64_t r = sim_random(&m->rng), first = (r >> 8) % MODEL_SECTORS, n = 1 + (r >> 16) % 4;
	struct model_io *mio;

	if (r % 8 == 0) {
		mio = model_io(m, 0, 1);
		mio->io.op = DEV_FLUSH;
		memcpy(mio->covers, m->done, sizeof(m->done));
	} else {
		/* A few sectors get most of the writes, more than the sim keeps versions. */
		if (r % 8 < 5)
			first = (r >> 8) % 3, n = 1;
		if (first + n > MODEL_SECTORS)
			n = MODEL_SECTORS - first;
		for (uint64_t s = first; s < first + n; s++)
			if (m->busy[s])
				return;
		mio = model_io(m, first, n);
		mio->io.flags = (r >> 32) % 16 ? 0 : DEV_DURABLE;
		for (uint64_t s = first; s < first + n; s++) {
			m->busy[s] = true;
			m->upper[s] = mio->version;
		}
	}
	m->left++;
	dev_submit(m->f.q, &mio->io);
}

static uint32_t version_at(struct model *m, unsigned sectno)
{
	uint32_t v;

	dev_sim_peek(m->f.dev, (uint64_t)sectno * SECTOR, &v, sizeof(v));
	return v;
}

/* Returns how many sectors went back to something older than their last completed version. */
static unsigned run_model(uint64_t seed)
{
	struct model m = {.rng = seed};
	unsigned back = 0;

	open_sim(&m.f, MODEL_SECTORS * SECTOR, seed, false);
	for (int life = 0; life < 3; life++) {
		for (unsigned i = 0; i < MODEL_OPS; i++) {
			model_step(&m);
			if (sim_random(&m.rng) & 1)
				dev_poll(m.f.q, 0);
		}
		while (m.left)
			dev_poll(m.f.q, -1);
		for (unsigned s = 0; s < MODEL_SECTORS; s++)
			assert_int_equal(version_at(&m, s), m.upper[s]);
		power_cycle(&m.f, seed + (uint64_t)life);
		for (unsigned s = 0; s < MODEL_SECTORS; s++) {
			uint32_t v = version_at(&m, s);

			assert_in_range(v, m.lower[s], m.upper[s]);
			back += v < m.upper[s];
			m.lower[s] = m.done[s] = m.upper[s] = v;
		}
	}
	close_sim(&m.f);
	return back;
}

static void model_agrees(void **state)
{
	unsigned back = 0;

	(void)state;
	for (uint64_t seed = 0; seed < 300; seed++)
		back += run_model(seed);
	assert_true(back > 1000); /* the cuts did bite */
}

/* --- faults --- */

static void failures_strike_when_told(void **state)
{
	struct fixture f;
	unsigned char *buf = dev_alloc(SECTOR, true);

	(void)state;
	open_sim(&f, 64 * SECTOR, 3, false);
	dev_sim_fail(f.dev, DEV_READ, 3, SIM_FAULT_ONCE, -ENODATA, 0, 0);
	for (int i = 1; i <= 5; i++)
		assert_int_equal(dev_read(f.q, 0, buf, SECTOR), i == 3 ? -ENODATA : 0);
	dev_sim_fail(f.dev, DEV_WRITE, 2, SIM_FAULT_STICKY, -ENOSPC, 0, 0);
	for (int i = 1; i <= 5; i++)
		assert_int_equal(dev_write(f.q, 0, buf, SECTOR, 0), i >= 2 ? -ENOSPC : 0);
	assert_int_equal(dev_read(f.q, 0, buf, SECTOR), 0);
	dev_sim_fail(f.dev, DEV_WRITE, 1, SIM_FAULT_NONE, 0, 0, 0);
	assert_int_equal(dev_write(f.q, 0, buf, SECTOR, 0), 0);
	dev_sim_fail(f.dev, DEV_READ, 2, SIM_FAULT_STICKY, -EIO, 4 * SECTOR, 2 * SECTOR);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(dev_read(f.q, i * SECTOR, buf, SECTOR), i == 5 ? -EIO : 0);
	assert_int_equal(dev_read(f.q, 4 * SECTOR, buf, SECTOR), -EIO);
	dev_sim_fail(f.dev, DEV_FLUSH, 1, SIM_FAULT_ONCE, -EIO, 0, 0);
	assert_int_equal(dev_flush(f.q), -EIO);
	assert_int_equal(dev_flush(f.q), 0);
	close_sim(&f);
	free(buf);
}

static void failed_flush_flushes_nothing(void **state)
{
	unsigned lost = 0;

	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		struct fixture f;

		open_sim(&f, 64 * SECTOR, seed, false);
		write_byte(&f, 0, 1, 'v', 0);
		dev_sim_fail(f.dev, DEV_FLUSH, 1, SIM_FAULT_ONCE, -EIO, 0, 0);
		assert_int_equal(dev_flush(f.q), -EIO);
		power_cycle(&f, seed);
		lost += byte_at(&f, 0) == 0;
		close_sim(&f);
	}
	assert_in_range(lost, SEEDS / 5, SEEDS * 4 / 5);
}

static void flip_hits_every_copy(void **state)
{
	unsigned seen[3] = {0};

	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		struct fixture f;
		unsigned char sect[SECTOR];

		open_sim(&f, 64 * SECTOR, 2, false);
		write_byte(&f, 5, 1, 1, 0);
		write_byte(&f, 5, 1, 2, 0);
		dev_sim_flip(f.dev, 5 * SECTOR + 77, 6);
		power_cycle(&f, seed);
		dev_sim_peek(f.dev, 5 * SECTOR, sect, SECTOR);
		assert_true(sect[0] <= 2);
		assert_int_equal(sect[77], sect[0] ^ 0x40);
		assert_int_equal(sect[76], sect[0]);
		seen[sect[0]]++;
		close_sim(&f);
	}
	assert_true(seen[0] && seen[1] && seen[2]);
}

static void poke_is_durable(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 50; seed++) {
		struct fixture f;
		char buf[20] = "";

		open_sim(&f, 64 * SECTOR, 2, false);
		write_byte(&f, 0, 2, 'v', 0);
		dev_sim_poke(f.dev, SECTOR - 7, "across sectors", 14);
		power_cycle(&f, seed);
		dev_sim_peek(f.dev, SECTOR - 7, buf, 14);
		assert_string_equal(buf, "across sectors");
		close_sim(&f);
	}
}

static void clones_are_independent(void **state)
{
	const unsigned n = 300;
	unsigned char *buf = dev_alloc(DEVICE_BYTES, false), *orig = malloc(DEVICE_BYTES),
		      *now = malloc(DEVICE_BYTES);
	unsigned char *flying = dev_alloc(SECTOR, false);
	struct fixture f, c = {0};
	struct probe p;
	int left = 1;

	(void)state;
	open_sim(&f, DEVICE_BYTES, 4, false);
	fill(buf, DEVICE_BYTES, 8);
	assert_int_equal(dev_write(f.q, 0, buf, DEVICE_BYTES, 0), 0);
	dev_sim_peek(f.dev, 0, orig, DEVICE_BYTES);
	assert_memory_equal(orig, buf, DEVICE_BYTES);
	memset(flying, 'i', SECTOR);
	probe_submit(&f, &p, &left, DEV_WRITE, 0, n * SECTOR, flying, SECTOR);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(dev_sim_clone(f.dev, &c.dev), 0);
		assert_int_equal(dev_queue_create(c.dev, &c.q), 0);
		assert_int_equal(byte_at(&c, n), 'i'); /* in flight counts as written */
		write_byte(&c, i, 1, 'c', DEV_DURABLE);
		power_cycle(&c, i);
		assert_int_equal(byte_at(&c, i), 'c');
		assert_int_equal(byte_at(&c, n), 'i');
		close_sim(&c);
	}
	/* None of them has touched the original, and none lacked what was only volatile in it. */
	dev_sim_peek(f.dev, 0, now, DEVICE_BYTES);
	assert_memory_equal(now, orig, DEVICE_BYTES);
	assert_int_equal(dev_sim_clone(f.dev, &c.dev), 0);
	assert_int_equal(dev_queue_create(c.dev, &c.q), 0);
	power_cycle(&c, 1);
	wait_for(&f, &left);
	write_byte(&f, 0, 1, 'z', 0);
	dev_sim_cut(f.dev);
	dev_sim_peek(c.dev, 0, now, DEVICE_BYTES);
	memset(orig + (size_t)n * SECTOR, 'i', SECTOR);
	assert_memory_equal(now, orig, DEVICE_BYTES);
	close_sim(&c);
	assert_int_equal(dev_sim_clone(f.dev, &c.dev), 0);
	assert_false(dev_sim_is_cut(c.dev));
	assert_int_equal(dev_queue_create(c.dev, &c.q), 0);
	write_byte(&c, 0, 1, 'y', 0);
	close_sim(&c);
	close_sim(&f);
	free(buf);
	free(orig);
	free(now);
	free(flying);
}

static void failed_write_is_old_or_new(void **state)
{
	unsigned mixed = 0;

	(void)state;
	for (uint64_t seed = 0; seed < 100; seed++) {
		unsigned char *buf = dev_alloc(8 * SECTOR, false);
		struct fixture f;
		unsigned fresh = 0;

		open_sim(&f, 64 * SECTOR, seed, false);
		write_byte(&f, 0, 8, 'o', DEV_DURABLE);
		memset(buf, 'n', 8 * SECTOR);
		dev_sim_fail(f.dev, DEV_WRITE, 1, SIM_FAULT_ONCE, -EIO, 0, 0);
		assert_int_equal(dev_write(f.q, 0, buf, 8 * SECTOR, DEV_DURABLE), -EIO);
		for (unsigned s = 0; s < 8; s++) {
			assert_true(byte_at(&f, s) == 'o' || byte_at(&f, s) == 'n');
			fresh += byte_at(&f, s) == 'n';
		}
		mixed += fresh > 0 && fresh < 8;
		close_sim(&f);
		free(buf);
	}
	assert_true(mixed > 50);
}

/* --- troubles other than errors --- */

static void lost_writes_are_acknowledged(void **state)
{
	struct fixture f;

	(void)state;
	open_sim(&f, 64 * SECTOR, 3, false);
	write_byte(&f, 0, 4, 'o', DEV_DURABLE);
	dev_sim_trouble(f.dev, SIM_LOST, DEV_WRITE, 2, SIM_FAULT_ONCE, 0, 2 * SECTOR);
	for (int i = 0; i < 4; i++)
		write_byte(&f, 3, 1, 'a', 0); /* elsewhere: does not count */
	write_byte(&f, 0, 1, 'n', 0);
	write_byte(&f, 1, 1, 'n', DEV_DURABLE);
	write_byte(&f, 2, 1, 'n', 0);
	assert_int_equal(dev_sim_struck(f.dev, SIM_LOST, DEV_WRITE), 1);
	assert_int_equal(dev_sim_struck(f.dev, SIM_LOST, DEV_FLUSH), 0);
	assert_int_equal(byte_at(&f, 0), 'n');
	assert_int_equal(byte_at(&f, 1), 'o');
	assert_int_equal(byte_at(&f, 2), 'n');
	assert_int_equal(byte_at(&f, 3), 'a');
	dev_sim_trouble(f.dev, SIM_LOST, DEV_DISCARD, 1, SIM_FAULT_STICKY, 0, 0);
	assert_int_equal(dev_discard(f.q, 0, 4 * SECTOR), 0);
	assert_int_equal(byte_at(&f, 0), 'n');
	close_sim(&f);
}

static void lost_in_flight_at_the_cut(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 100; seed++) {
		unsigned char *buf = dev_alloc(SECTOR, false);
		struct fixture f;
		struct probe p;
		int left = 1;

		open_sim(&f, 64 * SECTOR, seed, false);
		memset(buf, 'w', SECTOR);
		dev_sim_trouble(f.dev, SIM_LOST, DEV_WRITE, 1, SIM_FAULT_STICKY, 0, 0);
		dev_sim_cut_after(f.dev, 1);
		probe_submit(&f, &p, &left, DEV_WRITE, 0, 0, buf, SECTOR);
		wait_for(&f, &left);
		power_cycle(&f, seed);
		assert_int_equal(byte_at(&f, 0), 0);
		close_sim(&f);
		free(buf);
	}
}

static void lost_flush_flushes_nothing(void **state)
{
	unsigned lost = 0;

	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		struct fixture f;

		open_sim(&f, 64 * SECTOR, seed, false);
		write_byte(&f, 0, 1, 'v', 0);
		dev_sim_trouble(f.dev, SIM_LOST, DEV_FLUSH, 1, SIM_FAULT_ONCE, 0, 0);
		assert_int_equal(dev_flush(f.q), 0);
		power_cycle(&f, seed);
		lost += byte_at(&f, 0) == 0;
		close_sim(&f);
	}
	assert_in_range(lost, SEEDS / 5, SEEDS * 4 / 5);
}

/* The bytes are whole, in one other place, and nothing else has changed. */
static void misdirected_writes_land_elsewhere(void **state)
{
	uint64_t places = 0;

	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		struct fixture f;
		unsigned first = 64, n = 0;

		open_sim(&f, 64 * SECTOR, seed, false);
		write_byte(&f, 0, 64, 'o', DEV_DURABLE);
		dev_sim_trouble(f.dev, SIM_MISDIRECTED, DEV_WRITE, 1, SIM_FAULT_ONCE, 0, 0);
		write_byte(&f, 20, 2, 'm', seed & 1 ? DEV_DURABLE : 0);
		assert_int_equal(dev_flush(f.q), 0);
		power_cycle(&f, seed);
		for (unsigned i = 0; i < 64; i++) {
			if (byte_at(&f, i) == 'o')
				continue;
			assert_int_equal(byte_at(&f, i), 'm');
			first = first < i ? first : i;
			n++;
		}
		assert_int_equal(n, 2);
		assert_int_equal(byte_at(&f, first + 1), 'm');
		assert_int_not_equal(first, 20);
		places |= (uint64_t)1 << first;
		write_byte(&f, 20, 2, 'n', 0); /* once */
		assert_int_equal(byte_at(&f, 20), 'n');
		close_sim(&f);
	}
	assert_true(__builtin_popcountll(places) > 40);
	assert_true(places & (1 << 21) && places & 1);
}

static void misdirected_reads_fetch_other_bytes(void **state)
{
	unsigned char *buf = dev_alloc(SECTOR, true);
	struct fixture f;

	(void)state;
	open_sim(&f, 8 * SECTOR, 6, false);
	for (unsigned i = 0; i < 8; i++)
		write_byte(&f, i, 1, (int)i + 1, 0);
	dev_sim_trouble(f.dev, SIM_MISDIRECTED, DEV_READ, 1, SIM_FAULT_STICKY, 0, 0);
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(dev_read(f.q, i % 8 * SECTOR, buf, SECTOR), 0);
		assert_in_range(buf[0], 1, 8);
		assert_int_not_equal(buf[0], i % 8 + 1);
	}
	close_sim(&f);
	/* There is no other place in a device of this size. */
	open_sim(&f, SECTOR, 6, false);
	write_byte(&f, 0, 1, 'a', 0);
	dev_sim_trouble(f.dev, SIM_MISDIRECTED, DEV_READ, 1, SIM_FAULT_STICKY, 0, 0);
	assert_int_equal(dev_read(f.q, 0, buf, SECTOR), 0);
	assert_int_equal(buf[0], 'a');
	close_sim(&f);
	free(buf);
}

/* A durable write of four sectors; the power goes while it is under way.  What came through before is a prefix that stays. */
static void parts_come_one_by_one(void **state)
{
	unsigned char *buf = dev_alloc(4 * SECTOR, false), *other = dev_alloc(SECTOR, false);
	unsigned partly = 0, between = 0;

	(void)state;
	memset(buf, 'n', 4 * SECTOR);
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		struct probe p, r;
		struct fixture f;
		int left = 1, reading = 1;
		unsigned n = 0;

		open_sim(&f, 64 * SECTOR, seed, seed & 1);
		dev_sim_trouble(f.dev, SIM_IN_PARTS, DEV_WRITE, 1, SIM_FAULT_ONCE, 0, 0);
		probe_submit(&f, &p, &left, DEV_WRITE, DEV_DURABLE, 0, buf, 4 * SECTOR);
		while (!byte_at(&f, 0))
			dev_poll(f.q, 0);
		while (n < 4 && byte_at(&f, n) == 'n')
			n++;
		assert_in_range(n, 1, 3);
		assert_int_equal(left, 1);
		probe_submit(&f, &r, &reading, DEV_READ, 0, 0, other, SECTOR);
		wait_for(&f, &reading);
		between += left;
		if (left)
			dev_sim_cut(f.dev);
		wait_for(&f, &left);
		power_cycle(&f, seed);
		for (unsigned i = 0; i < n; i++)
			assert_int_equal(byte_at(&f, i), 'n');
		partly += byte_at(&f, 3) != 'n';
		if (!p.err)
			assert_int_equal(byte_at(&f, 3), 'n');
		close_sim(&f);
	}
	assert_true(between > SEEDS / 10); /* others overtake the rest */
	assert_true(partly > SEEDS / 20);
	free(buf);
	free(other);
}

/* Many buffers, read and written in parts: the bytes are the same. */
static void parts_of_a_vector(void **state)
{
	unsigned char *buf = dev_alloc(8 * SECTOR, false), *back = dev_alloc(8 * SECTOR, true);
	struct sim_rates all = {.seed = 1};

	(void)state;
	fill(buf, 8 * SECTOR, 3);
	all.ppm[SIM_IN_PARTS][DEV_READ] = all.ppm[SIM_IN_PARTS][DEV_WRITE] = 1000000;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		const unsigned cut = 1 + seed % 7;
		struct iovec out[] = {{buf, cut * SECTOR}, {buf + cut * SECTOR, (8 - cut) * SECTOR}};
		struct iovec in[] = {{back, (8 - cut) * SECTOR}, {back + (8 - cut) * SECTOR, cut * SECTOR}};
		struct fixture f;
		struct probe p;
		int left = 2;

		open_sim(&f, 64 * SECTOR, seed, false);
		dev_sim_set_rates(f.dev, &all);
		memset(back, 0, 8 * SECTOR);
		left = 1;
		probe_submit_vector(&f, &p, &left, DEV_WRITE, 3 * SECTOR, out, 2);
		wait_for(&f, &left);
		left = 1;
		probe_submit_vector(&f, &p, &left, DEV_READ, 3 * SECTOR, in, 2);
		wait_for(&f, &left);
		assert_memory_equal(back, buf, 8 * SECTOR);
		assert_int_equal(dev_sim_struck(f.dev, SIM_IN_PARTS, DEV_READ), 1);
		close_sim(&f);
	}
	free(buf);
	free(back);
}

/* Short, and then an error: the classic of a disk that fills up. */
static void error_after_a_part(void **state)
{
	unsigned char *buf = dev_alloc(8 * SECTOR, false);

	(void)state;
	memset(buf, 'n', 8 * SECTOR);
	for (uint64_t seed = 0; seed < 100; seed++) {
		struct fixture f;

		open_sim(&f, 64 * SECTOR, seed, false);
		dev_sim_trouble(f.dev, SIM_IN_PARTS, DEV_WRITE, 1, SIM_FAULT_ONCE, 0, 0);
		dev_sim_fail(f.dev, DEV_WRITE, 1, SIM_FAULT_ONCE, -ENODATA, 0, 0);
		assert_int_equal(dev_write(f.q, 0, buf, 8 * SECTOR, 0), -ENODATA);
		assert_int_equal(byte_at(&f, 0), 'n');
		close_sim(&f);
	}
	free(buf);
}

static unsigned polls_until_done(struct fixture *f, const int *left)
{
	unsigned n = 0;

	for (; *left; n++)
		dev_poll(f->q, 0);
	return n;
}

static void slow_takes_hundreds_of_polls(void **state)
{
	unsigned char *buf = dev_alloc(SECTOR, true);
	unsigned writes = 0, flushes = 0;

	(void)state;
	for (uint64_t seed = 0; seed < 100; seed++) {
		struct fixture f;
		struct probe p;
		int left = 1;

		open_sim(&f, 64 * SECTOR, seed, false);
		dev_sim_trouble(f.dev, SIM_SLOW, DEV_WRITE, 2, SIM_FAULT_ONCE, 0, 0);
		probe_submit(&f, &p, &left, DEV_WRITE, 0, 0, buf, SECTOR);
		writes += polls_until_done(&f, &left);
		left = 1;
		probe_submit(&f, &p, &left, DEV_WRITE, 0, 0, buf, SECTOR);
		assert_in_range(polls_until_done(&f, &left), 64, 700);
		left = 1;
		probe_submit(&f, &p, &left, DEV_FLUSH, 0, 0, NULL, 0);
		flushes += polls_until_done(&f, &left);
		dev_sim_trouble(f.dev, SIM_SLOW, DEV_FLUSH, 1, SIM_FAULT_STICKY, 0, 0);
		assert_int_equal(dev_flush(f.q), 0); /* waits as long as it takes */
		close_sim(&f);
	}
	assert_true(flushes > 2 * writes);
	free(buf);
}

/* What was written before may be written again; a discard gives nothing back. */
static void full_refuses_new_memory(void **state)
{
	unsigned char *buf = dev_alloc(16 * SECTOR, true);
	struct fixture f;

	(void)state;
	open_sim(&f, 64 * SECTOR, 3, false);
	write_byte(&f, 0, 8, 'o', 0);
	dev_sim_trouble(f.dev, SIM_FULL, DEV_WRITE, 2, SIM_FAULT_STICKY, 0, 0);
	write_byte(&f, 0, 8, 'a', 0); /* needs none: does not count */
	write_byte(&f, 8, 1, 'b', 0);
	write_byte(&f, 10, 1, 'c', 0); /* the same block */
	assert_int_equal(dev_write(f.q, 16 * SECTOR, buf, SECTOR, 0), -ENOSPC);
	assert_int_equal(dev_write(f.q, 8 * SECTOR, buf, 16 * SECTOR, DEV_DURABLE), -ENOSPC);
	assert_int_equal(byte_at(&f, 8), 'b');
	assert_int_equal(dev_discard(f.q, 0, 8 * SECTOR), 0);
	write_byte(&f, 0, 8, 'd', 0);
	power_cycle(&f, 5);
	assert_int_equal(dev_write(f.q, 16 * SECTOR, buf, SECTOR, 0), -ENOSPC);
	dev_sim_trouble(f.dev, SIM_FULL, DEV_WRITE, 1, SIM_FAULT_ONCE, 0, 0);
	assert_int_equal(dev_write(f.q, 16 * SECTOR, buf, SECTOR, 0), -ENOSPC);
	write_byte(&f, 16, 1, 'e', 0);
	assert_int_equal(byte_at(&f, 16), 'e');
	close_sim(&f);
	free(buf);
}

/* Rates strike about as often as they say, alike for the same seed, and not the clone. */
static void rates_come_from_their_seed(void **state)
{
	enum { N = 1000 };
	unsigned char *buf = dev_alloc(SECTOR, true);
	struct sim_rates rates = {.seed = 9};
	uint8_t failed[2][N];

	(void)state;
	rates.ppm[SIM_ERROR][DEV_WRITE] = 100000;
	rates.ppm[SIM_SLOW][DEV_READ] = 1000000;
	for (int run = 0; run < 2; run++) {
		struct fixture f, c = {0};

		open_sim(&f, 64 * SECTOR, 3, false);
		dev_sim_set_rates(f.dev, &rates);
		for (int i = 0; i < N; i++) {
			int err = dev_write(f.q, 0, buf, SECTOR, 0);

			assert_true(err == 0 || err == -EIO);
			failed[run][i] = err != 0;
		}
		assert_in_range(dev_sim_struck(f.dev, SIM_ERROR, DEV_WRITE), N / 20, N / 5);
		assert_int_equal(dev_sim_struck(f.dev, SIM_SLOW, DEV_WRITE), 0);
		assert_int_equal(dev_sim_clone(f.dev, &c.dev), 0);
		assert_int_equal(dev_queue_create(c.dev, &c.q), 0);
		for (int i = 0; i < N; i++)
			assert_int_equal(dev_write(c.q, 0, buf, SECTOR, 0), 0);
		close_sim(&c);
		dev_sim_set_rates(f.dev, NULL);
		for (int i = 0; i < N; i++)
			assert_int_equal(dev_write(f.q, 0, buf, SECTOR, 0), 0);
		close_sim(&f);
	}
	assert_memory_equal(failed[0], failed[1], N);
	free(buf);
}

static void rot_finds_what_was_written(void **state)
{
	const uint64_t size = (uint64_t)1 << 30, at = 700 << 20;
	uint64_t rng = 1;
	struct fixture f;

	(void)state;
	open_sim(&f, size, 3, false);
	assert_int_equal(dev_sim_rot(f.dev, 0, size, &rng), UINT64_MAX);
	write_byte(&f, at / SECTOR, 8, 0, DEV_DURABLE);
	assert_int_equal(dev_sim_rot(f.dev, 0, at, &rng), UINT64_MAX);
	assert_int_equal(dev_sim_rot(f.dev, at + 4096, size - at - 4096, &rng), UINT64_MAX);
	for (int i = 0; i < 100; i++) {
		uint64_t from = at + rng % 4096, byte = dev_sim_rot(f.dev, from, size - from, &rng);
		unsigned char now;

		assert_in_range(byte, from, at + 4095);
		dev_sim_peek(f.dev, byte, &now, 1);
		assert_int_equal(__builtin_popcount(now), 1);
		dev_sim_poke(f.dev, byte, "", 1);
	}
	close_sim(&f);
}

static void idle_poll_returns(void **state)
{
	struct fixture f;

	(void)state;
	open_sim(&f, 64 * SECTOR, 3, false);
	assert_int_equal(dev_poll(f.q, -1), 0);
	assert_int_equal(dev_queue_fd(f.q), -1);
	dev_wake(f.q);
	write_byte(&f, 0, 1, 'a', 0); /* a wake does not end a wait for an operation */
	close_sim(&f);
}

/* Operations take their time, unless they are told to be done at the first poll. */
static void polls_that_an_operation_takes(void **state)
{
	unsigned char *buf = dev_alloc(SECTOR, true);
	unsigned first = 0;

	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		struct fixture f;
		struct probe p;
		int left = 1;

		open_sim(&f, 64 * SECTOR, seed, seed % 2);
		probe_submit(&f, &p, &left, DEV_WRITE, 0, 0, buf, SECTOR);
		dev_poll(f.q, 0);
		if (seed % 2)
			assert_int_equal(left, 0);
		else
			first += !left;
		wait_for(&f, &left);
		close_sim(&f);
	}
	assert_in_range(first, SEEDS / 2 / 10, SEEDS / 2 / 2);
	free(buf);
}

/* A terabyte with a few sectors written: sparse, and discarded at once. */
static void large_and_sparse(void **state)
{
	struct fixture f;
	const uint64_t size = (uint64_t)1 << 40;

	(void)state;
	open_sim(&f, size, 3, false);
	write_byte(&f, size / SECTOR - 1, 1, 'z', 0);
	write_byte(&f, size / SECTOR / 2, 1, 'm', 0);
	assert_int_equal(byte_at(&f, size / SECTOR - 1), 'z');
	assert_int_equal(dev_discard(f.q, 0, size), 0);
	assert_int_equal(byte_at(&f, size / SECTOR - 1), 0);
	assert_int_equal(byte_at(&f, size / SECTOR / 2), 0);
	close_sim(&f);
}

/* --- the recorder --- */

static uint64_t get_le(const unsigned char *p, int nbytes)
{
	uint64_t v = 0;

	while (nbytes--)
		v = v << 8 | p[nbytes];
	return v;
}

struct record {
	uint64_t kind, flags, id, off, len;
	unsigned char payload[4096];
};

static bool next_record(FILE *trace, struct record *r)
{
	unsigned char head[32];

	if (fread(head, 1, 32, trace) != 32)
		return false;
	*r = (struct record){.kind = get_le(head, 4),
			     .flags = get_le(head + 4, 4),
			     .id = get_le(head + 8, 8),
			     .off = get_le(head + 16, 8),
			     .len = get_le(head + 24, 8)};
	if (r->kind == 2 || r->kind == 5) {
		assert_true(r->len < sizeof(r->payload));
		assert_int_equal(fread(r->payload, 1, r->len, trace), r->len);
	}
	return true;
}

static void trace_has_it_all(void **state)
{
	static const uint64_t kinds[] = {1, 2, 6, 5, 3, 6, 4, 6, 2, 6};
	struct fixture f;
	struct record r[10];
	unsigned char buf[SECTOR];
	FILE *trace = tmpfile();
	struct dev *below;

	(void)state;
	open_sim(&f, 64 * SECTOR, 3, false);
	dev_queue_destroy(f.q);
	below = f.dev;
	assert_int_equal(dev_record_create(below, trace, &f.dev), 0);
	assert_int_equal(dev_queue_create(f.dev, &f.q), 0);
	assert_int_equal(dev_queue_fd(f.q), -1);
	write_byte(&f, 3, 2, 'r', DEV_DURABLE);
	dev_record_mark(f.dev, "synced");
	assert_int_equal(dev_flush(f.q), 0);
	assert_int_equal(dev_discard(f.q, 0, 4 * SECTOR), 0);
	{
		unsigned char *p = dev_alloc(SECTOR, true);

		assert_int_equal(dev_read(f.q, 0, p, SECTOR), 0);
		dev_sim_fail(below, DEV_WRITE, 1, SIM_FAULT_ONCE, -ENOSPC, 0, 0);
		assert_int_equal(dev_write(f.q, 0, p, SECTOR, 0), -ENOSPC);
		free(p);
	}
	close_sim(&f);

	rewind(trace);
	for (int i = 0; i < 10; i++) {
		assert_true(next_record(trace, &r[i]));
		assert_int_equal(r[i].kind, kinds[i]);
	}
	assert_false(next_record(trace, &r[0]));
	assert_int_equal(r[0].kind, 1);
	assert_memory_equal(&r[0].id, "HFTRACE1", 8);
	assert_int_equal(r[0].off, 64 * SECTOR);
	assert_int_equal(r[1].flags, DEV_DURABLE);
	assert_int_equal(r[1].off, 3 * SECTOR);
	assert_int_equal(r[1].len, 2 * SECTOR);
	memset(buf, 'r', SECTOR);
	assert_memory_equal(r[1].payload, buf, SECTOR);
	assert_memory_equal(r[1].payload + SECTOR, buf, SECTOR);
	assert_int_equal(r[2].id, r[1].id);
	assert_int_equal(r[2].flags, 0);
	assert_memory_equal(r[3].payload, "synced", 6);
	assert_int_equal(r[3].len, 6);
	assert_int_equal(r[5].id, r[4].id);
	assert_int_equal(r[6].len, 4 * SECTOR);
	assert_int_equal(r[9].id, r[8].id);
	assert_int_equal(r[9].flags, ENOSPC);
	fclose(trace);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_seed_is_one_history),
		cmocka_unit_test(digest_sees_everything),
		cmocka_unit_test(durable_data_survives),
		cmocka_unit_test(durable_is_for_its_own_bytes),
		cmocka_unit_test(any_subset_survives),
		cmocka_unit_test(the_last_write_is_torn_where_asked),
		cmocka_unit_test(flush_covers_what_was_complete),
		cmocka_unit_test(cut_counts_writes_and_flushes),
		cmocka_unit_test(in_flight_at_the_cut),
		cmocka_unit_test(model_agrees),
		cmocka_unit_test(failures_strike_when_told),
		cmocka_unit_test(failed_flush_flushes_nothing),
		cmocka_unit_test(failed_write_is_old_or_new),
		cmocka_unit_test(flip_hits_every_copy),
		cmocka_unit_test(poke_is_durable),
		cmocka_unit_test(clones_are_independent),
		cmocka_unit_test(lost_writes_are_acknowledged),
		cmocka_unit_test(lost_in_flight_at_the_cut),
		cmocka_unit_test(lost_flush_flushes_nothing),
		cmocka_unit_test(misdirected_writes_land_elsewhere),
		cmocka_unit_test(misdirected_reads_fetch_other_bytes),
		cmocka_unit_test(parts_come_one_by_one),
		cmocka_unit_test(parts_of_a_vector),
		cmocka_unit_test(error_after_a_part),
		cmocka_unit_test(slow_takes_hundreds_of_polls),
		cmocka_unit_test(full_refuses_new_memory),
		cmocka_unit_test(rates_come_from_their_seed),
		cmocka_unit_test(rot_finds_what_was_written),
		cmocka_unit_test(idle_poll_returns),
		cmocka_unit_test(polls_that_an_operation_takes),
		cmocka_unit_test(large_and_sparse),
		cmocka_unit_test(trace_has_it_all),
	};

	return cmocka_run_group_tests_name("sim", tests, NULL, NULL);
}
