/* SPDX-License-Identifier: Apache-2.0 */
/* test_fs_copy.c - copies within the volume: contents, holes, ends, errors, damage, what a full volume leaves. */
#include "tests/unit/data_rig.h"

#include <linux/falloc.h>
#include <sys/stat.h>

static int64_t copy(struct data *d, unsigned in, uint64_t off_in, unsigned out, uint64_t off_out, uint64_t len)
{
	return fs_copy_wait(d->fs, d->q, d->ino[in], off_in, d->ino[out], off_out, len);
}

/* Both: the real one and the model, inside the windows. */
static void copy_both(struct data *d, unsigned in, uint64_t off_in, unsigned out, uint64_t off_out, uint64_t len)
{
	uint64_t size = d->m[in].size, n = off_in >= size ? 0 : size - off_in < len ? size - off_in : len;

	assert_int_equal(copy(d, in, off_in, out, off_out, len), n);
	if (n)
		model_write(&d->m[out], off_out, model_at(&d->m[in], off_in, n), n);
}

static uint64_t seek_to(struct data *d, unsigned f, uint64_t off, int whence)
{
	uint64_t pos = UINT64_MAX;
	int err = fs_lseek(d->fs, d->q, d->ino[f], off, whence, &pos);

	assert_true(err == 0 || err == -ENXIO);
	return pos;
}

/* --- contents ---------------------------------------------------------------------------------- */

/* What a copy is made from and to: sizes around what is kept in another form, around blocks, around what one write takes. */
static const uint64_t sizes[] = {0, 1, 700, 1024, 1025, 4096, 5000, KB(64), KB(300) + 7, MB(1), MB(1) + 1, MB(2) + 5};
static const uint64_t places[][2] = {{0, 0}, {0, 100}, {100, 0}, {4096, 8192}, {333, 333}, {4095, 1}, {KB(500), 10}};

static void test_shapes(void **state)
{
	struct data d;

	(void)state;
	data_create(&d, MB(64), 1024, 0, 1);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		for (unsigned k = 0; k < sizeof(places) / sizeof(places[0]); k++) {
			data_truncate(&d, 0, 0);
			data_truncate(&d, 1, 0);
			if (sizes[i])
				data_write(&d, 0, 0, sizes[i], i % 2);
			if (k % 3)
				data_write(&d, 1, 0, k % 3 == 1 ? 600 : KB(200), false);
			if (i % 3 == 0)
				data_checkpoint(&d);
			copy_both(&d, 0, places[k][0], 1, places[k][1], k % 2 ? MB(2) : sizes[i] / 2 + 1);
		}
		data_check(&d);
	}
	/* Within one file. */
	copy_both(&d, 0, 0, 0, MB(2) + 5, 1000);
	copy_both(&d, 0, MB(1), 0, 17, KB(700));
	data_check(&d);
	data_reopen(&d);
	data_check(&d);
	data_destroy(&d);
}

static void random_change(struct data *d)
{
	unsigned f = (unsigned)data_random(d, NFILES), g = (unsigned)data_random(d, NFILES);
	uint64_t len = 1 + data_random(d, data_random(d, 2) ? 3000 : KB(400)), off = data_random(d, MB(2));
	uint64_t to = data_random(d, MB(2));

	if (data_random(d, 2)) {
		off &= ~UINT64_C(4095);
		to &= ~UINT64_C(4095);
	}
	switch (data_random(d, 8)) {
	case 0:
		data_write(d, f, off, len, data_random(d, 2));
		break;
	case 1:
		data_truncate(d, f, data_random(d, 4) ? off : data_random(d, 2000));
		break;
	case 2:
		assert_int_equal(data_fallocate(d, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len), 0);
		model_zero(&d->m[f], off, len);
		break;
	case 3:
		assert_int_equal(data_fallocate(d, f, FALLOC_FL_KEEP_SIZE, off, len), 0);
		break;
	case 4:
		off = 0;
		to = 0;
		len = MB(1);
		/* fall through */
	default:
		if (f == g && off < to + len && to < off + len)
			assert_int_equal(copy(d, f, off, g, to, len), -EINVAL);
		else
			copy_both(d, f, off, g, to, len);
		break;
	}
}

static void random_run(uint64_t seed, uint64_t journal, uint64_t cache, unsigned nops)
{
	struct data d;

	data_create(&d, MB(64), journal, cache, seed);
	for (unsigned i = 0; i < nops; i++) {
		random_change(&d);
		if (data_random(&d, 40) == 0)
			data_checkpoint(&d);
		if (data_random(&d, 100) == 0) {
			assert_int_equal(fs_sync(d.fs, d.q, 0, false), 0);
			data_crash(&d, seed + i);
		}
		if (i % 40 == 0)
			data_check(&d);
	}
	data_check(&d);
	data_destroy(&d);
}

static void test_random(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4; i++)
		random_run(1 + i, 1024, i % 2 ? KB(32) : 0, 300);
}

/* --- holes ------------------------------------------------------------------------------------- */

static void test_holes_stay_holes(void **state)
{
	struct data d;

	(void)state;
	data_create(&d, MB(64), 1024, 0, 1);
	data_write(&d, 0, 0, KB(12), false);
	data_write(&d, 0, KB(200), KB(8), false);
	data_write(&d, 0, FAR, KB(4), false);
	assert_int_equal(data_fallocate(&d, 0, 0, KB(400), KB(100)), 0);	/* reserved only */
	data_write(&d, 1, 0, MB(1), false);
	copy_both(&d, 0, 0, 1, 0, KB(500));
	assert_int_equal(data_blocks(&d, 1), 5 + 256 - 125);
	assert_int_equal(seek_to(&d, 1, 0, SEEK_HOLE), KB(12));
	assert_int_equal(seek_to(&d, 1, KB(12), SEEK_DATA), KB(200));
	assert_int_equal(seek_to(&d, 1, KB(200), SEEK_HOLE), KB(208));
	assert_int_equal(seek_to(&d, 1, KB(208), SEEK_DATA), KB(500));
	/* All of it: three terabytes of hole are one piece. */
	assert_int_equal(copy(&d, 0, 0, 2, 0, UINT64_MAX), FAR + KB(4));
	model_copy(&d.m[2], &d.m[0]);
	assert_int_equal(data_blocks(&d, 2), 6);
	assert_int_equal(seek_to(&d, 2, KB(208), SEEK_DATA), FAR);
	/* Shifted by less than a block: what is whole of the hole stays one. */
	data_truncate(&d, 1, 0);
	copy_both(&d, 0, 0, 1, 100, KB(300));
	assert_int_equal(seek_to(&d, 1, 0, SEEK_HOLE), KB(16));
	assert_int_equal(seek_to(&d, 1, KB(16), SEEK_DATA), KB(200));
	/* A hole at the end makes the file longer, and nothing else. */
	data_truncate(&d, 1, 0);
	data_write(&d, 1, 0, 500, false);
	copy_both(&d, 0, KB(208), 1, 600, 300);		/* still kept in the inode */
	assert_int_equal(data_blocks(&d, 1), 0);
	copy_both(&d, 0, KB(208), 1, 300, KB(100));
	assert_int_equal(data_attr(&d, 1).size, 300 + KB(100));
	assert_int_equal(data_blocks(&d, 1), 1);
	data_check(&d);
	data_crash(&d, 3);
	data_destroy(&d);
}

/* What is there goes, in as many pieces as that takes, each of which leaves a copy that ends there. */
static void test_a_hole_over_a_comb(void **state)
{
	const unsigned teeth = 1000;
	uint64_t before;
	struct data d;

	(void)state;
	data_create(&d, MB(64), 1024, 0, 1);
	assert_int_equal(data_set_size(&d, 0, MB(20)), 0);
	for (unsigned i = 0; i < teeth; i++)
		assert_int_equal(fs_pwrite(d.fs, d.q, d.ino[1], "tooth", 5, i * UINT64_C(8192)), 5);
	assert_int_equal(data_blocks(&d, 1), teeth);
	before = d.r.v->stats.txns;
	assert_int_equal(copy(&d, 0, 0, 1, 0, MB(20)), MB(20));
	assert_in_range(d.r.v->stats.txns - before, 3, 6);
	assert_int_equal(data_blocks(&d, 1), 0);
	assert_int_equal(data_attr(&d, 1).size, MB(20));
	/* A comb as the source: 1024 pieces, the caller goes on. */
	data_set_size(&d, 1, 0);
	for (unsigned i = 0; i < teeth; i++)
		assert_int_equal(fs_pwrite(d.fs, d.q, d.ino[1], "tooth", 5, i * UINT64_C(8192)), 5);
	int64_t n = copy(&d, 1, 0, 2, 0, MB(20)), all = (teeth - 1) * INT64_C(8192) + 5;
	assert_int_equal(n, 1024 * INT64_C(4096));
	assert_int_equal(copy(&d, 1, (uint64_t)n, 2, (uint64_t)n, MB(20)), all - n);
	assert_int_equal(data_blocks(&d, 2), teeth);
	data_destroy(&d);
}

/* --- how much, and how ------------------------------------------------------------------------- */

static void test_much(void **state)
{
	uint8_t *buf = malloc(MB(1));
	struct data d;

	(void)state;
	assert_non_null(buf);
	data_create(&d, MB(200), 4096, 0, 1);
	for (unsigned i = 0; i < 66; i++) {
		memset(buf, 1 + (int)i, MB(1));
		assert_int_equal(fs_pwrite(d.fs, d.q, d.ino[0], buf, MB(1), MB(i)), MB(1));
	}
	uint64_t before = d.r.v->stats.txns, reads = data_stats(&d).reads;
	assert_int_equal(copy(&d, 0, 0, 1, 0, MB(66)), FS_COPY_MAX);
	/* A transaction for each piece, none for the times of access in between. */
	assert_in_range(d.r.v->stats.txns - before, 64, 66);
	assert_int_equal(data_stats(&d).reads - reads, 64);
	assert_int_equal(copy(&d, 0, MB(64), 1, MB(64), MB(66)), MB(2));
	for (unsigned i = 0; i < 66; i++) {
		assert_int_equal(fs_pread(d.fs, d.q, d.ino[1], buf, MB(1), MB(i)), MB(1));
		assert_int_equal(buf[0], 1 + i);
		assert_memory_equal(buf, buf + 1, MB(1) - 1);
	}
	free(buf);
	data_destroy(&d);
}

/* Somebody else's requests are answered in between. */
struct long_copy {
	struct fs_copy c;
	bool done, released;
	uint64_t sum;
	unsigned pieces, holes;
};

static void long_piece(struct fs_copy *c, uint64_t done, uint64_t n, bool hole)
{
	struct long_copy *l = (struct long_copy *)c;

	assert_int_equal(done, l->sum);
	assert_true(!l->done);
	l->sum += n;
	l->pieces++;
	l->holes += hole;
}

static void long_done(struct fs_copy *c)
{
	struct long_copy *l = (struct long_copy *)c;

	assert_true(!l->done && !l->released);
	l->done = true;
}

static void long_released(struct fs_copy *c)
{
	struct long_copy *l = (struct long_copy *)c;

	assert_true(l->done && !l->released);
	l->released = true;
}

static void test_others_have_turns(void **state)
{
	struct data d;
	unsigned turns = 0;

	(void)state;
	data_create(&d, MB(64), 1024, 0, 1);
	for (unsigned i = 0; i < 8; i++) {
		uint8_t *buf = malloc(MB(1));

		assert_non_null(buf);
		memset(buf, 1 + (int)i, MB(1));
		assert_int_equal(fs_pwrite(d.fs, d.q, d.ino[0], buf, MB(1), MB(i) * 2), MB(1));
		free(buf);
	}
	struct long_copy l = {.c = {.ino_in = d.ino[0], .ino_out = d.ino[1], .len = MB(30), .piece = long_piece}};
	l.c.done = long_done;
	l.c.release = long_released;
	fs_copy_range(d.fs, d.q, &l.c);
	while (!l.done) {
		struct fs_attr attr;
		unsigned pieces;

		(void)volume_service(d.r.v, d.q);
		assert_int_equal(fs_getattr(d.fs, d.q, d.ino[1], &attr), 0);
		assert_int_equal(attr.size, l.sum);
		pieces = l.pieces;
		dev_poll(d.q, 1);
		/* One that has come from the device, and one that asks nothing of it. */
		assert_in_range(l.pieces - pieces, 0, 2);
		turns++;
	}
	assert_true(turns >= 8);
	assert_int_equal(l.c.result, MB(15));
	assert_int_equal(l.sum, MB(15));
	assert_int_equal(l.pieces, 15);
	assert_int_equal(l.holes, 7);
	while (!l.released)
		dev_poll(d.q, -1);
	data_destroy(&d);
}

static void test_times(void **state)
{
	struct data d;
	struct fs_attr in, out, past = {.atime = {.tv_sec = 5}};

	(void)state;
	data_create(&d, MB(16), 128, 0, 1);
	data_write(&d, 0, 0, KB(50), false);
	data_write(&d, 1, 0, KB(50), false);
	assert_int_equal(fs_setattr(d.fs, d.q, d.ino[0], FS_SET_ATIME, &past, &in), 0);
	out = data_attr(&d, 1);
	/* At the end there is nothing to copy, and nothing changes. */
	assert_int_equal(copy(&d, 0, KB(50), 1, 0, 10), 0);
	assert_int_equal(data_attr(&d, 1).mtime.tv_sec, out.mtime.tv_sec);
	assert_int_equal(copy(&d, 0, 0, 1, KB(10), 10), 10);
	assert_true(data_attr(&d, 1).mtime.tv_sec > out.mtime.tv_sec);
	assert_int_equal(data_attr(&d, 1).ctime.tv_sec, data_attr(&d, 1).mtime.tv_sec);
	assert_int_equal(data_attr(&d, 1).btime.tv_sec, out.btime.tv_sec);
	assert_int_equal(data_attr(&d, 0).mtime.tv_sec, in.mtime.tv_sec);
	assert_true(data_attr(&d, 0).atime.tv_sec > in.mtime.tv_sec);
	memcpy(model_at(&d.m[1], KB(10), 10), model_at(&d.m[0], 0, 10), 10);
	/* Durable like a write. */
	assert_int_equal(fs_sync(d.fs, d.q, d.ino[1], true), 0);
	data_crash(&d, 7);
	data_check(&d);
	data_destroy(&d);
}

/* --- what cannot be ---------------------------------------------------------------------------- */

static void test_errors(void **state)
{
	struct data d;
	struct fs_cred cred = {0};
	struct fs_attr dir, fifo;

	(void)state;
	data_create(&d, MB(16), 128, 0, 1);
	data_write(&d, 0, 0, KB(50), false);
	assert_int_equal(fs_create(d.fs, d.q, &cred, INO_ROOT, "dir", 3, S_IFDIR | 0755, 0, &dir), 0);
	assert_int_equal(fs_create(d.fs, d.q, &cred, INO_ROOT, "fifo", 4, S_IFIFO | 0755, 0, &fifo), 0);
	assert_int_equal(copy(&d, 0, 0, 0, KB(49), KB(50)), -EINVAL);
	assert_int_equal(copy(&d, 0, 10, 0, 10, 1), -EINVAL);
	assert_int_equal(copy(&d, 0, 0, 1, 0, 0), 0);
	assert_int_equal(copy(&d, 0, UINT64_MAX, 1, 0, 10), 0);
	assert_int_equal(copy(&d, 0, 0, 1, MAX_FILE_SIZE, 10), -EFBIG);
	assert_int_equal(fs_copy_wait(d.fs, d.q, dir.ino, 0, d.ino[0], 0, 10), -EISDIR);
	assert_int_equal(fs_copy_wait(d.fs, d.q, d.ino[0], 0, dir.ino, 0, 10), -EISDIR);
	assert_int_equal(fs_copy_wait(d.fs, d.q, d.ino[0], 0, fifo.ino, 0, 10), -EINVAL);
	assert_int_equal(fs_copy_wait(d.fs, d.q, d.ino[0], 0, 999, 0, 10), -ESTALE);
	assert_int_equal(fs_copy_wait(d.fs, d.q, 999, 0, d.ino[0], 0, 10), -ESTALE);
	assert_int_equal(copy(&d, 0, 0, 1, MAX_FILE_SIZE - 10, 100), 10);
	data_set_size(&d, 1, 0);
	data_check(&d);
	assert_int_equal(fs_sync(d.fs, d.q, 0, false), 0);
	d.r.cfg.flags = VOLUME_READ_ONLY;
	data_reopen(&d);
	assert_int_equal(copy(&d, 0, 0, 1, 0, 10), -EROFS);
	d.r.cfg.flags = 0;
	data_reopen(&d);
	/* Not even nothing. */
	assert_int_equal(copy(&d, 0, KB(50), 1, 0, 10), 0);
	assert_int_equal(fs_shutdown(d.fs, d.q, true), 0);
	assert_int_equal(copy(&d, 0, KB(50), 1, 0, 10), -EIO);
	assert_int_equal(copy(&d, 0, 0, 1, 0, 10), -EIO);
	data_destroy(&d);
}

/* What does not match its checksum is not copied; what stands in front of it is. */
static void test_damage(void **state)
{
	struct data d;

	(void)state;
	data_create(&d, MB(16), 128, 0, 1);
	data_write(&d, 0, 0, MB(2), false);
	data_write(&d, 1, 0, KB(100), false);
	data_checkpoint(&d);
	dev_sim_flip(d.r.dev, data_walk(&d, 0, 300).blkno * BLOCK_SIZE + 77, 3);
	assert_int_equal(copy(&d, 0, MB(1), 1, 0, MB(1)), -EIO);
	assert_int_equal(copy(&d, 0, 300 * UINT64_C(4096) + 5, 1, 0, 10), -EIO);
	assert_true(data_same(&d, &d.m[1], 1, 0, WINDOW));
	assert_int_equal(copy(&d, 0, 0, 1, 0, MB(2)), MB(1));
	model_write(&d.m[1], 0, model_at(&d.m[0], 0, MB(1)), MB(1));
	assert_true(data_same(&d, &d.m[1], 1, 0, WINDOW));
	data_destroy(&d);
}

/* No room: a beginning of it, and the file is as long as that. */
static void test_full(void **state)
{
	uint8_t *buf = calloc(1, MB(1));
	struct data d;
	ssize_t n;

	(void)state;
	assert_non_null(buf);
	data_create(&d, MB(16), 128, 0, 1);
	data_write(&d, 0, 0, MB(3), false);
	for (uint64_t off = 0; (n = fs_pwrite(d.fs, d.q, d.ino[2], buf, KB(200), off)) > 0; off += (uint64_t)n)
		;
	assert_int_equal(n, -ENOSPC);
	assert_int_equal(data_set_size(&d, 2, data_attr(&d, 2).size - MB(2)), 0);
	int64_t got = copy(&d, 0, 0, 1, 0, MB(3));
	assert_in_range(got, KB(500), MB(2));
	assert_int_equal(data_attr(&d, 1).size, got);
	model_write(&d.m[1], 0, model_at(&d.m[0], 0, (uint64_t)got), (uint64_t)got);
	assert_true(data_same(&d, &d.m[1], 1, 0, WINDOW));
	while ((got = copy(&d, 0, 0, 1, (uint64_t)data_attr(&d, 1).size, MB(1))) > 0)
		;
	assert_int_equal(got, -ENOSPC);
	free(buf);
	data_destroy(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shapes),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_holes_stay_holes),
		cmocka_unit_test(test_a_hole_over_a_comb),
		cmocka_unit_test(test_much),
		cmocka_unit_test(test_others_have_turns),
		cmocka_unit_test(test_times),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
