/* SPDX-License-Identifier: Apache-2.0 */
/* test_fs_data_faults.c - contents of files on full volumes and failing devices, and after power cuts. */
#include "tests/unit/data_rig.h"

/* --- no space ---------------------------------------------------------------------------------- */

/* As write(2) on a full disk: what fits is written, and counts. */
static ssize_t write_some(struct data *d, unsigned f, uint64_t off, uint64_t len)
{
	uint8_t *buf = malloc(len);

	assert_non_null(buf);
	data_fill(d, buf, len);
	ssize_t n = fs_pwrite(d->fs, d->q, d->ino[f], buf, len, off);
	if (n > 0)
		model_write(&d->m[f], off, buf, (uint64_t)n);
	else
		assert_int_equal(n, -ENOSPC);
	free(buf);
	return n;
}

static void fill_up(struct data *d)
{
	uint64_t off[NFILES] = {0};

	for (unsigned i = 0; i < 1000; i++) {
		unsigned f = i % NFILES;
		ssize_t n = write_some(d, f, off[f], KB(200) + i);

		if (n < 0)
			return;
		off[f] += (uint64_t)n;
	}
	fail_msg("a volume without end");
}

static void test_full(void **state)
{
	struct data d;

	(void)state;
	data_create(&d, MB(8), 128, 0, 1);
	fill_up(&d);
	assert_int_equal(write_some(&d, 0, d.m[0].size + KB(8), KB(64)), -ENOSPC);
	data_check(&d);
	/* What is there can be overwritten, small and large, again and again. */
	for (unsigned i = 0; i < 40; i++) {
		uint64_t off = data_random(&d, d.m[i % 3].size - KB(500)), len = 1 + data_random(&d, KB(500));

		for (uint64_t done = 0; done < len;) {
			ssize_t n = write_some(&d, i % 3, off + done, len - done);

			assert_true(n > 0);
			done += (uint64_t)n;
		}
	}
	data_check(&d);
	/* Zeroing finds a way too. */
	assert_int_equal(data_fallocate(&d, 1, FALLOC_FL_ZERO_RANGE, KB(9), KB(800)), 0);
	model_zero(&d.m[1], KB(9), KB(800));
	data_check(&d);
	assert_int_equal(fs_sync(d.fs, d.q, 0, false), 0);
	data_crash(&d, 7);
	data_check(&d);
	assert_int_equal(data_fallocate(&d, 2, 0, 0, MB(7)), -ENOSPC);
	/* Removing makes room. */
	data_truncate(&d, 0, KB(100));
	assert_true(write_some(&d, 0, d.m[0].size, MB(1)) == MB(1));
	data_check(&d);
	data_reopen(&d);
	data_check(&d);
	data_destroy(&d);
}

/* Somebody else has all but the emergency reserve. */
static void take_blocks(struct data *d)
{
	struct miss miss = {0};
	uint64_t blkno, n;
	int err;

	volume_lock(d->r.v);
	do
		err = alloc_get(d->r.v->alloc, alloc_at(0), 1000, 0, false, &miss, &blkno, &n);
	while (!err);
	volume_unlock(d->r.v);
	assert_int_equal(err, -ENOSPC);
}

/* The emergency reserve is for whatever gives something back, small files included. */
static void test_full_truncate_inline(void **state)
{
	struct data d;

	(void)state;
	data_create(&d, MB(4), 128, KB(64), 5);
	data_write(&d, 2, 0, 1000, false);
	data_checkpoint(&d);
	take_blocks(&d);
	assert_int_equal(fs_pwrite(d.fs, d.q, d.ino[2], "x", 1, 0), -ENOSPC);
	assert_int_equal(data_fallocate(&d, 2, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100, 50), 0);
	model_zero(&d.m[2], 100, 50);
	data_truncate(&d, 2, 10);
	data_truncate(&d, 2, 0);
	data_check(&d);
	data_reopen(&d);
	data_check(&d);
	data_destroy(&d);
}

static void test_full_random(void **state)
{
	int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	struct data d;

	(void)state;
	data_create(&d, MB(6), 128, KB(64), 2);
	fill_up(&d);
	for (unsigned i = 0; i < 600; i++) {
		unsigned f = (unsigned)data_random(&d, NFILES);
		uint64_t off = data_random(&d, MB(2)), len = 1 + data_random(&d, KB(300));

		if (data_random(&d, 10) == 0) {
			data_truncate(&d, f, off);
		} else if (data_random(&d, 8) == 0) {
			assert_int_equal(data_fallocate(&d, f, punch, off, len), 0);
			model_zero(&d.m[f], off, len);
		} else {
			write_some(&d, f, off, len);
		}
		if (i % 50 == 0)
			data_check(&d);
		if (i % 200 == 0) {
			assert_int_equal(fs_sync(d.fs, d.q, 0, false), 0);
			data_crash(&d, i);
		}
	}
	data_check(&d);
	data_destroy(&d);
}

/* --- damage and errors ------------------------------------------------------------------------- */

static ssize_t read_block(struct data *d, unsigned f, uint64_t block)
{
	uint8_t buf[BLOCK_SIZE];
	ssize_t n = fs_pread(d->fs, d->q, d->ino[f], buf, BLOCK_SIZE, block << BLOCK_SHIFT);

	if (n > 0)
		assert_memory_equal(buf, model_at(&d->m[f], block << BLOCK_SHIFT, BLOCK_SIZE), n);
	return n;
}

static void test_bit_flip(void **state)
{
	uint8_t buf[BLOCK_SIZE] = {1};
	struct data d;

	(void)state;
	data_create(&d, MB(16), 128, 0, 1);
	data_write(&d, 0, 0, KB(128), true);
	assert_int_equal(fs_sync(d.fs, d.q, 0, false), 0);
	data_checkpoint(&d);
	uint64_t blkno = data_walk(&d, 0, 9).blkno;
	dev_sim_flip(d.r.dev, (blkno << BLOCK_SHIFT) + 77, 3);
	uint64_t errors = d.r.v->error_count;
	for (uint64_t b = 0; b < 32; b++)
		assert_int_equal(read_block(&d, 0, b), b == 9 ? -EIO : (ssize_t)BLOCK_SIZE);
	assert_int_equal(data_stats(&d).csum_errors, 1);
	assert_int_equal(d.r.v->error_count, errors + 1);
	assert_false(data_same(&d, &d.m[0], 0, 0, KB(128)));
	/* Changing a part of it would make the rest look good. */
	assert_int_equal(fs_pwrite(d.fs, d.q, d.ino[0], buf, 10, KB(36) + 5), -EIO);
	assert_int_equal(data_set_size(&d, 0, KB(36) + 100), -EIO);
	assert_int_equal(data_fallocate(&d, 0, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, KB(36) + 5, 10), -EIO);
	assert_int_equal(data_attr(&d, 0).size, KB(128));
	/* Replacing it heals it. */
	data_write(&d, 0, KB(36), KB(4), true);
	data_check(&d);
	data_reopen(&d);
	data_check(&d);
	data_destroy(&d);
}

static void test_read_error(void **state)
{
	struct data d;

	(void)state;
	data_create(&d, MB(16), 128, 0, 1);
	data_write(&d, 0, 0, KB(128), true);
	assert_int_equal(fs_sync(d.fs, d.q, 0, false), 0);
	data_checkpoint(&d);
	uint64_t blkno = data_walk(&d, 0, 9).blkno;
	dev_sim_fail(d.r.dev, DEV_READ, 1, SIM_FAULT_ONCE, -EIO, blkno << BLOCK_SHIFT, BLOCK_SIZE);
	assert_int_equal(read_block(&d, 0, 9), -EIO);
	assert_int_equal(data_stats(&d).csum_errors, 0);
	data_check(&d);
	dev_sim_fail(d.r.dev, DEV_READ, 1, SIM_FAULT_ONCE, -EIO, blkno << BLOCK_SHIFT, BLOCK_SIZE);
	assert_int_equal(fs_pwrite(d.fs, d.q, d.ino[0], "x", 1, KB(36) + 5), -EIO);
	data_write(&d, 0, KB(36) + 5, 1, true);
	data_check(&d);
	data_destroy(&d);
}

/* A large read goes to the device in pieces: whichever has the bad block, all of it fails, and nothing else does. */
static void test_large_reads(void **state)
{
	static const uint64_t at[] = {0, 63, 64, 100, 191, 192, 255};
	uint8_t *buf = malloc(MB(1));
	struct data d;

	(void)state;
	data_create(&d, MB(16), 128, 0, 1);
	data_write(&d, 0, 0, MB(1), true);
	assert_int_equal(fs_sync(d.fs, d.q, 0, false), 0);
	data_checkpoint(&d);
	for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		uint64_t blkno = data_walk(&d, 0, at[i]).blkno;

		dev_sim_fail(d.r.dev, DEV_READ, 1, SIM_FAULT_ONCE, -EIO, blkno << BLOCK_SHIFT, BLOCK_SIZE);
		assert_int_equal(fs_pread(d.fs, d.q, d.ino[0], buf, MB(1), 0), -EIO);
		assert_true(data_same(&d, &d.m[0], 0, 0, MB(1)));
		dev_sim_flip(d.r.dev, (blkno << BLOCK_SHIFT) + 77, 3);
		assert_int_equal(fs_pread(d.fs, d.q, d.ino[0], buf, MB(1), 0), -EIO);
		assert_int_equal(data_stats(&d).csum_errors, i + 1);
		dev_sim_flip(d.r.dev, (blkno << BLOCK_SHIFT) + 77, 3);
		assert_true(data_same(&d, &d.m[0], 0, 0, MB(1)));
	}
	data_destroy(&d);
	free(buf);
}

/* Data that could not be brought home: the write was accepted, but nothing is ever said to be durable again. */
static void test_write_error(void **state)
{
	uint8_t *buf = malloc(KB(128));
	struct data d;

	(void)state;
	data_create(&d, MB(16), 128, 0, 1);
	data_write(&d, 0, 0, KB(64), true);
	assert_int_equal(fs_sync(d.fs, d.q, 0, false), 0);
	dev_sim_fail(d.r.dev, DEV_WRITE, 1, SIM_FAULT_ONCE, -EIO, 0, 0);
	memset(buf, 5, KB(128));
	assert_int_equal(data_start(&d, 1, 0, buf, KB(128)), KB(128));
	assert_int_equal(fs_sync(d.fs, d.q, d.ino[1], false), -EIO);
	assert_int_equal(fs_sync(d.fs, d.q, d.ino[1], true), -EIO);
	assert_int_equal(d.unreleased, 0);
	assert_int_not_equal(volume_writable(d.r.v), 0);
	assert_true(fs_pwrite(d.fs, d.q, d.ino[0], buf, 10, 0) < 0);
	assert_true(data_set_size(&d, 0, 10) < 0);
	assert_true(data_fallocate(&d, 0, 0, 0, MB(1)) < 0);
	/* What was there before is there, now and after a restart. */
	assert_true(data_all_same(&d, &d.m[0], 0));
	fs_close(d.fs, d.q);
	volume_close(d.r.v, d.q);
	assert_int_equal(volume_open(d.q, &d.r.cfg, &d.r.diag, &d.r.v), 0);
	data_open(&d);
	data_check(&d);
	free(buf);
	data_destroy(&d);
}

/* --- power cuts -------------------------------------------------------------------------------- */

#define SCRIPT_OPS 26

struct script_op {
	enum { OP_W, OP_TRUNC, OP_ALLOCATE, OP_SYNC, OP_CKPT } what;
	unsigned f;
	uint64_t off, len;
	int mode;
};

static const struct script_op script[SCRIPT_OPS] = {
	{OP_W, 0, 0, 300, 0},
	{OP_W, 0, 200, 500, 0},
	{OP_SYNC, 0, 0, 0, 0},
	{OP_W, 1, 0, KB(256), 0},			/* direct */
	{OP_W, 1, KB(256), KB(10) + 5, 0},		/* direct and logged */
	{OP_W, 0, 600, 3000, 0},			/* out of the inode */
	{OP_SYNC, 0, 0, 0, 0},
	{OP_W, 1, KB(8), KB(16), 0},			/* in place */
	{OP_W, 1, KB(99) + 1, 4000, 0},
	{OP_CKPT, 0, 0, 0, 0},
	{OP_W, 1, KB(30) + 7, KB(150), 0},		/* moved */
	{OP_W, 1, KB(99) + 1, 4000, 0},			/* of what just moved */
	{OP_W, 2, FAR + 9, KB(40), 0},
	{OP_SYNC, 0, 0, 0, 0},
	{OP_TRUNC, 1, KB(120) + 11, 0, 0},
	{OP_W, 1, KB(130), KB(20), 0},			/* reads zeros in between */
	{OP_ALLOCATE, 2, 0, KB(64), FALLOC_FL_KEEP_SIZE},
	{OP_W, 2, KB(20), KB(24), 0},			/* into what is reserved */
	{OP_ALLOCATE, 2, KB(22), KB(12), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE},
	{OP_W, 2, KB(20), KB(24), 0},
	{OP_CKPT, 0, 0, 0, 0},
	{OP_ALLOCATE, 1, KB(10) + 1, KB(50), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE},
	{OP_W, 1, 0, KB(130), 0},
	{OP_W, 1, 100, 100, 0},
	{OP_SYNC, 0, 0, 0, 0},
	{OP_TRUNC, 0, 10, 0, 0},
};

/* The model after `n` operations; contents follow from the operation's number. */
static void script_byte(uint8_t *buf, uint64_t len, unsigned n)
{
	for (uint64_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(1 + (n * 37 + i + (i >> 9)) % 255);
}

static void script_model(struct model *m, const struct script_op *op, unsigned n, uint8_t *buf)
{
	m += op->f;
	if (op->what == OP_W) {
		script_byte(buf, op->len, n);
		model_write(m, op->off, buf, op->len);
	} else if (op->what == OP_TRUNC) {
		model_truncate(m, op->off);
	} else if (op->what == OP_ALLOCATE && op->mode != FALLOC_FL_KEEP_SIZE) {
		model_zero(m, op->off, op->len);
	}
}

static int script_do(struct data *d, const struct script_op *op, unsigned n, uint8_t *buf)
{
	ssize_t done;

	switch (op->what) {
	case OP_W:
		script_byte(buf, op->len, n);
		done = data_start(d, op->f, op->off, buf, op->len);
		return done < 0 ? (int)done : 0;
	case OP_TRUNC:
		return data_set_size(d, op->f, op->off);
	case OP_ALLOCATE:
		return data_fallocate(d, op->f, op->mode, op->off, op->len);
	case OP_SYNC:
		return fs_sync(d->fs, d->q, 0, false);
	default:
		return volume_checkpoint(d->r.v, d->q, CHECKPOINT_FORCE);
	}
}

/* Runs until something fails.  Returns how many were accepted; *synced: how many must survive. */
static unsigned script_run(struct data *d, unsigned *synced, uint8_t *buf)
{
	unsigned n;

	*synced = 0;
	for (n = 0; n < SCRIPT_OPS; n++) {
		if (script_do(d, &script[n], n, buf))
			return n;
		if (script[n].what == OP_SYNC || script[n].what == OP_CKPT)
			*synced = n;
	}
	return n;
}

static bool script_matches(struct data *d, const struct model *m)
{
	for (unsigned f = 0; f < NFILES; f++) {
		if (!data_all_same(d, &m[f], f))
			return false;
	}
	return true;
}

/* The files must be as they were after some number of operations between `synced` and `accepted` + 1. */
static void script_check(struct data *d, unsigned synced, unsigned accepted, uint8_t *buf)
{
	struct model m[NFILES];
	bool found = false;

	for (unsigned f = 0; f < NFILES; f++)
		model_init(&m[f]);
	for (unsigned n = 0; n <= accepted && n <= SCRIPT_OPS && !found; n++) {
		if (n >= synced)
			found = script_matches(d, m);
		if (n < SCRIPT_OPS)
			script_model(m, &script[n], n, buf);
		if (n == accepted && !found)
			found = script_matches(d, m);
	}
	assert_true(found);
	for (unsigned f = 0; f < NFILES; f++)
		model_fini(&m[f]);
}

static void cut_take(struct data *d, struct dev *image)
{
	memset(d, 0, sizeof(*d));
	d->clock.tv_sec = 1800000000;
	d->cfg = (struct fs_config){.clock = data_clock, .clock_arg = d, .atime = FS_NOATIME};
	d->r.diag.emit = rig_emit;
	assert_int_equal(dev_sim_clone(image, &d->r.dev), 0);
	d->r.q = rig_queue(d->r.dev);
	assert_int_equal(volume_open(d->r.q, &d->r.cfg, &d->r.diag, &d->r.v), 0);
	data_open(d);
	for (unsigned i = 0; i < NFILES; i++) {
		struct fs_attr attr;
		char name = (char)('a' + i);

		assert_int_equal(fs_lookup(d->fs, d->q, INO_ROOT, &name, 1, &attr), 0);
		d->ino[i] = attr.ino;
	}
}

static void cut_end(struct data *d)
{
	fs_close(d->fs, d->q);
	assert_int_equal(d->unreleased, 0);
	rig_destroy(&d->r);
}

/* False: the script ended before the cut. */
static bool cut_at(struct dev *image, uint64_t n, uint8_t *buf)
{
	unsigned synced, accepted;
	struct data d;

	cut_take(&d, image);
	dev_sim_cut_after(d.r.dev, n);
	accepted = script_run(&d, &synced, buf);
	bool cut = dev_sim_is_cut(d.r.dev);
	assert_true(cut || accepted == SCRIPT_OPS);
	data_crash(&d, n);
	script_check(&d, synced, accepted, buf);
	/* Life goes on. */
	assert_int_equal(script_do(&d, &script[3], 3, buf), 0);
	assert_int_equal(script_do(&d, &script[10], 10, buf), 0);
	assert_int_equal(fs_sync(d.fs, d.q, 0, false), 0);
	cut_end(&d);
	return cut;
}

static void test_power_cut(void **state)
{
	uint8_t *buf = malloc(FS_IO_MAX);
	struct data d;
	uint64_t n = 1;

	(void)state;
	assert_non_null(buf);
	data_create(&d, MB(12), 256, 0, 1);
	fs_close(d.fs, d.q);
	assert_int_equal(volume_close(d.r.v, d.q), 0);
	d.r.v = NULL;
	while (cut_at(d.r.dev, n, buf))
		n++;
	assert_true(n > 40);
	rig_destroy(&d.r);
	for (unsigned i = 0; i < NFILES; i++)
		model_fini(&d.m[i]);
	free(buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_full_truncate_inline),
		cmocka_unit_test(test_full_random),
		cmocka_unit_test(test_bit_flip),
		cmocka_unit_test(test_read_error),
		cmocka_unit_test(test_large_reads),
		cmocka_unit_test(test_write_error),
		cmocka_unit_test(test_power_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
