/* SPDX-License-Identifier: Apache-2.0 */
/* What a file has already can be written on a full volume: data, and what fallocate has reserved. */
#include "tests/unit/data_rig.h"

#include "core/crc32c.h"

#define TEETH 6000u	/* extents of the comb: one block each, with a hole behind it */
#define SPAN  WINDOW	/* what is reserved, of file 0 */

/* Extents that fill leaves. */
static void make_comb(struct data *d)
{
	uint8_t block[BLOCK_SIZE] = {1};

	for (unsigned i = 0; i < TEETH; i++)
		assert_int_equal(fs_pwrite(d->fs, d->q, d->ino[1], block, BLOCK_SIZE, (uint64_t)i * 2 * BLOCK_SIZE), BLOCK_SIZE);
}

/* With data, and then with names, until there is no room for one more. */
static void fill_up(struct data *d)
{
	struct fs_cred cred = {0};
	struct fs_attr attr;
	uint8_t *buf = calloc(1, MB(1));
	uint64_t off = 0;
	char name[16];
	ssize_t n = 0;
	int err = 0;

	assert_non_null(buf);
	for (unsigned round = 0; round < 2; round++) {
		for (uint64_t len = MB(1); len; len /= 2)
			while ((n = fs_pwrite(d->fs, d->q, d->ino[2], buf, len, off)) > 0)
				off += (uint64_t)n;
		data_checkpoint(d);
	}
	assert_int_equal(n, -ENOSPC);
	for (unsigned i = 0; i < 20000 && !err; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		err = fs_create(d->fs, d->q, &cred, INO_ROOT, name, strlen(name), S_IFREG | 0644, 0, &attr);
	}
	assert_int_equal(err, -ENOSPC);
	free(buf);
}

static void check_all(struct data *d)
{
	assert_true(data_same(d, &d->m[0], 0, 0, SPAN));
	assert_int_equal(data_attr(d, 0).size, d->m[0].size);
}

/* A file with SPAN reserved, behind its end if `keep`, on a volume that is full otherwise. */
static void setup(struct data *d, uint64_t seed, bool keep)
{
	data_create(d, MB(64), 512, 0, seed);
	make_comb(d);
	data_write(d, 0, 0, KB(64), false);
	assert_int_equal(data_fallocate(d, 0, keep ? FALLOC_FL_KEEP_SIZE : 0, KB(64), SPAN - KB(64)), 0);
	if (!keep)
		d->m[0].size = SPAN;
	fill_up(d);
	assert_int_equal(fs_pwrite(d->fs, d->q, d->ino[2], "x", 1, FAR), -ENOSPC);
}

/* All of it in pieces of `piece`: every other one, then those between, so that each splits what is reserved. */
static void write_all(struct data *d, uint64_t piece)
{
	for (unsigned odd = 1; odd < 3; odd++)
		for (uint64_t off = odd * piece; off + piece <= SPAN; off += 2 * piece)
			data_write(d, 0, off, piece, false);
}

static void test_pieces(void **state)
{
	static const uint64_t piece[] = {KB(64), KB(4), KB(20), KB(36), 5000, 700 * 1024, MB(1)};

	(void)state;
	for (unsigned i = 0; i < 2 * sizeof(piece) / sizeof(piece[0]); i++) {
		struct data d;

		setup(&d, i + 1, i % 2);
		uint64_t nblocks = data_blocks(&d, 0);

		write_all(&d, piece[i / 2]);
		check_all(&d);
		/* Nothing was allocated for it, and nothing is left behind. */
		assert_int_equal(data_blocks(&d, 0), nblocks);
		assert_int_equal(fs_sync(d.fs, d.q, 0, false), 0);
		data_crash(&d, i);
		check_all(&d);
		/* All of it again, as data now. */
		write_all(&d, piece[i / 2]);
		check_all(&d);
		data_reopen(&d);
		check_all(&d);
		data_destroy(&d);
	}
}

/* Anywhere, over what is data and what is reserved, up to the very end; and removals get through still. */
static void test_random(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= 6; seed++) {
		struct data d;

		setup(&d, seed, false);
		for (unsigned i = 0; i < 400; i++) {
			uint64_t off = data_random(&d, SPAN), len = 1 + data_random(&d, i % 8 ? KB(12) : KB(300));

			data_write(&d, 0, off, len < SPAN - off ? len : SPAN - off, i % 2);
			if (i % 100 == 99) {
				assert_int_equal(fs_sync(d.fs, d.q, 0, false), 0);
				data_crash(&d, seed);
				check_all(&d);
			}
		}
		check_all(&d);
		assert_int_equal(data_set_size(&d, 1, BLOCK_SIZE), 0);
		assert_int_equal(fs_unlink(d.fs, d.q, INO_ROOT, "c", 1), 0);
		fs_forget(d.fs, d.q, d.ino[2], 1);
		while (fs_service(d.fs, d.q))
			;
		data_checkpoint(&d);
		data_make(&d, 2);
		data_write(&d, 2, 0, MB(3), false);
		data_destroy(&d);
	}
}

/* Somebody has taken every block but those that are kept for removals. */
static void take_blocks(struct data *d)
{
	struct miss miss = {0};
	uint64_t blkno, n;
	int err;

	data_checkpoint(d);
	do {
		volume_lock(d->r.v);
		err = alloc_get(d->r.v->alloc, alloc_at(0), 1000, 0, ALLOC_NORMAL, &miss, &blkno, &n);
		volume_unlock(d->r.v);
		if (err == -EAGAIN)
			err = volume_provide(d->r.v, d->q, &miss);
	} while (!err);
	assert_int_equal(err, -ENOSPC);
}

static void written(struct fs_io *io)
{
	(void)io;
}

/* While a write waits for what is beside it in a block, what was reserved behind goes, and so there is room, but not in the file. */
static void test_taken_meanwhile(void **state)
{
	const uint64_t off = KB(64) - 100, len = 200;
	struct fs_attr size = {.size = KB(64)}, attr;
	uint8_t data[200], back[200];
	struct fs_io io = {.buf = data, .off = off, .len = len, .result = -EBUSY, .done = written};
	struct data d;

	(void)state;
	setup(&d, 77, false);
	take_blocks(&d);
	memset(data, 7, sizeof(data));
	io.ino = d.ino[0];
	fs_write(d.fs, d.q, &io);
	assert_int_equal(io.result, -EBUSY);
	assert_int_equal(fs_setattr(d.fs, d.q, d.ino[0], FS_SET_SIZE, &size, &attr), 0);
	assert_int_equal(io.result, -EBUSY);
	while (io.result == -EBUSY) {
		dev_poll(d.q, 1);
		data_checkpoint(&d);
	}
	assert_int_equal(io.result, len);
	assert_int_equal(fs_pread(d.fs, d.q, d.ino[0], back, len, off), len);
	assert_memory_equal(back, data, len);
	data_destroy(&d);
}

/* What lies beside a piece is filled only where there is no room, only up to the end of the file, and never what is data. */
static void test_what_is_filled(void **state)
{
	uint64_t pos;
	struct data d;

	(void)state;
	data_create(&d, MB(64), 512, 0, 1);
	assert_int_equal(data_fallocate(&d, 0, 0, 0, SPAN), 0);
	d.m[0].size = SPAN;
	data_write(&d, 0, MB(1) + KB(64), KB(4), false);
	assert_int_equal(data_stats(&d).filled, 0);
	assert_int_equal(fs_lseek(d.fs, d.q, d.ino[0], 0, SEEK_DATA, &pos), 0);
	assert_int_equal(pos, MB(1) + KB(64));
	take_blocks(&d);
	data_write(&d, 0, MB(1) + KB(100), KB(4), false);
	assert_int_equal(data_stats(&d).filled, 256 - 16 - 1 - 1);
	take_blocks(&d);
	data_write(&d, 0, MB(2) + KB(100), KB(4), false);
	assert_int_equal(data_stats(&d).filled, 256 - 16 - 1 - 1 + 255);
	assert_int_equal(fs_lseek(d.fs, d.q, d.ino[0], 0, SEEK_DATA, &pos), 0);
	assert_int_equal(pos, MB(1) + KB(64));
	check_all(&d);
	data_destroy(&d);

	/* Behind the end what is reserved stays so. */
	setup(&d, 2, true);
	take_blocks(&d);
	data_write(&d, 0, KB(128), KB(64), false);
	assert_int_equal(data_stats(&d).filled, 16);
	assert_int_equal(data_attr(&d, 0).size, KB(192));
	check_all(&d);
	data_destroy(&d);
}

/* --- power cuts -------------------------------------------------------------------------------- */

#define STEPS 30u

/* What each step writes; every fifth is followed by a sync, every eleventh by a checkpoint. */
static void step_draw(struct data *d, unsigned n, uint64_t *off, uint64_t *len, uint8_t *buf)
{
	d->rnd = n;
	*off = KB(64) + data_random(d, SPAN - KB(264));
	/* So many, through the log, are still one write. */
	*len = 1 + data_random(d, n % 3 ? KB(10) : KB(200));
	data_fill(d, buf, *len);
}

static uint32_t digest(const uint8_t *bytes, uint64_t size)
{
	return crc32c(crc32c(0, &size, sizeof(size)), bytes, size);
}

static uint32_t digest_of_file(struct data *d, uint8_t *buf)
{
	uint64_t size = data_attr(d, 0).size;

	assert_true(size <= SPAN);
	assert_int_equal(fs_pread(d->fs, d->q, d->ino[0], buf, size, 0), size);
	return digest(buf, size);
}

/* Runs the steps until the power goes.  How many were accepted; *synced: how many must survive. */
static unsigned run_steps(struct data *d, uint8_t *buf, unsigned *synced)
{
	uint64_t off, len;

	*synced = 0;
	for (unsigned n = 0; n < STEPS; n++) {
		step_draw(d, n, &off, &len, buf);
		ssize_t done = data_start(d, 0, off, buf, len);
		if (done < 0)
			return n;
		assert_int_equal(done, len);
		if ((n % 5 == 4 && !fs_sync(d->fs, d->q, d->ino[0], false)) ||
		    (n % 11 == 10 && !volume_checkpoint(d->r.v, d->q, CHECKPOINT_FORCE)))
			*synced = n + 1;
	}
	return STEPS;
}

static void open_clone(struct data *d, struct dev *image)
{
	struct fs_attr attr;

	memset(d, 0, sizeof(*d));
	d->cfg = (struct fs_config){.clock = data_clock, .clock_arg = d, .atime = FS_NOATIME};
	d->r.diag.emit = rig_emit;
	assert_int_equal(dev_sim_clone(image, &d->r.dev), 0);
	d->r.q = rig_queue(d->r.dev);
	assert_int_equal(volume_open(d->r.q, &d->r.cfg, &d->r.diag, &d->r.v), 0);
	data_open(d);
	assert_int_equal(fs_lookup(d->fs, d->q, INO_ROOT, "a", 1, &attr), 0);
	d->ino[0] = attr.ino;
}

/* The power goes with the n-th write or flush: a beginning of the writes is there, and no part of one.  False: they end before. */
static bool cut_at(struct dev *image, uint64_t n, const uint32_t *want, uint8_t *buf, uint64_t *filled)
{
	unsigned synced, accepted, k;
	struct data d;

	open_clone(&d, image);
	take_blocks(&d);
	dev_sim_cut_after(d.r.dev, n);
	accepted = run_steps(&d, buf, &synced);
	bool cut = dev_sim_is_cut(d.r.dev);
	assert_true(cut || accepted == STEPS);
	*filled += data_stats(&d).filled;
	data_crash(&d, n);
	uint32_t got = digest_of_file(&d, buf);
	for (k = synced; k <= accepted + 1 && k <= STEPS && want[k] != got; k++)
		;
	assert_true(k <= accepted + 1 && k <= STEPS);
	fs_close(d.fs, d.q);
	rig_destroy(&d.r);
	return cut;
}

static void test_power_cuts(void **state)
{
	uint8_t *buf = malloc(SPAN);
	uint32_t want[STEPS + 1];

	(void)state;
	assert_non_null(buf);
	for (unsigned keep = 0; keep < 2; keep++) {
		uint64_t off, len, filled = 0;
		struct data d;

		setup(&d, 7 + keep, keep);
		want[0] = digest_of_file(&d, buf);
		for (unsigned n = 0; n < STEPS; n++) {
			step_draw(&d, n, &off, &len, buf);
			model_write(&d.m[0], off, buf, len);
			want[n + 1] = digest(d.m[0].window[0], d.m[0].size);
		}
		data_reopen(&d);
		fs_close(d.fs, d.q);
		assert_int_equal(volume_close(d.r.v, d.q), 0);
		for (uint64_t n = 1; cut_at(d.r.dev, n, want, buf, &filled); n++)
			;
		assert_true(filled > 1000);
		assert_int_equal(volume_open(d.r.q, &d.r.cfg, &d.r.diag, &d.r.v), 0);
		data_open(&d);
		data_destroy(&d);
	}
	free(buf);
}

/* What it can get at this level, as long as it asks. */
static uint64_t drain(struct data *d, enum alloc_level level)
{
	uint64_t blkno, n, total = 0;
	struct miss miss = {0};
	int err;

	do {
		volume_lock(d->r.v);
		err = alloc_get(d->r.v->alloc, alloc_at(0), 1000, 0, level, &miss, &blkno, &n);
		volume_unlock(d->r.v);
		if (err == -EAGAIN)
			assert_int_equal(volume_provide(d->r.v, d->q, &miss), 0);
		else if (!err)
			total += n;
	} while (err != -ENOSPC);
	return total;
}

/* Room that was promised to cached writes is there for them, whatever others have reserved and write. */
static void promise_is_kept(void **state)
{
	(void)state;
	for (uint64_t size = MB(64); size <= MB(1024); size *= 4) {
		const uint64_t promised = 900;
		struct data d;

		data_create(&d, size, 0, 0, 1);
		volume_lock(d.r.v);
		alloc_keep_cached(d.r.v->alloc, promised);
		volume_unlock(d.r.v);
		drain(&d, ALLOC_NORMAL);
		drain(&d, ALLOC_OWNED);
		assert_int_equal(drain(&d, ALLOC_CACHED), promised);
		data_destroy(&d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pieces),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_taken_meanwhile),
		cmocka_unit_test(test_what_is_filled),
		cmocka_unit_test(test_power_cuts),
		cmocka_unit_test(promise_is_kept),
	};

	return cmocka_run_group_tests_name("fs_reserved", tests, NULL, NULL);
}
