/* SPDX-License-Identifier: Apache-2.0 */
/* test_verify.c - recovery looks whether the data is there that the last groups name (journal/verify.c). */
#include "tests/unit/data_rig.h"

#define LEN KB(128)	/* goes straight home */

static void setup(struct data *d)
{
	data_create(d, MB(16), 0, 0, 1);
	data_checkpoint(d);
}

static void sync_all(struct data *d)
{
	assert_int_equal(fs_sync(d->fs, d->q, 0, false), 0);
}

/* The device block of a file's block. */
static uint64_t home(struct data *d, unsigned f, uint64_t block)
{
	return data_walk(d, f, block).blkno;
}

/* The power goes; the device comes back without what was in flight. */
static void power_off(struct data *d)
{
	dev_sim_cut(d->r.dev);
	fs_close(d->fs, d->q);
	rig_after_cut(&d->r, 1);
}

static void power_on(struct data *d)
{
	assert_int_equal(volume_open(d->r.q, &d->r.cfg, &d->r.diag, &d->r.v), 0);
	data_open(d);
}

static const struct volume_recovery *recovery(struct data *d)
{
	return &d->r.v->recovery;
}

/* As if it had never been written. */
static void wipe(struct data *d, uint64_t blkno)
{
	static const uint8_t zeros[BLOCK_SIZE];

	dev_sim_poke(d->r.dev, blkno << BLOCK_SHIFT, zeros, BLOCK_SIZE);
}

static void all_there(void **state)
{
	struct data d;

	(void)state;
	setup(&d);
	data_write(&d, 0, 0, LEN, false);
	data_write(&d, 1, 0, LEN, false);
	sync_all(&d);
	power_off(&d);
	power_on(&d);
	assert_int_equal(recovery(&d)->unwritten_lsn, 0);
	assert_true(recovery(&d)->frames >= 2);
	data_check(&d);
	data_destroy(&d);
}

/* What comes before is kept, the transaction itself and all behind it are not. */
static void cut_where_data_is_missing(void **state)
{
	struct model before;
	struct data d;

	(void)state;
	setup(&d);
	data_write(&d, 0, 0, LEN, false);
	model_init(&before);
	model_copy(&before, &d.m[1]);
	data_write(&d, 1, 0, LEN, false);
	uint64_t blkno = home(&d, 1, 5);

	data_write(&d, 2, 0, 100, false);
	sync_all(&d);
	power_off(&d);
	wipe(&d, blkno);
	power_on(&d);
	assert_int_not_equal(recovery(&d)->unwritten_lsn, 0);
	assert_int_equal(recovery(&d)->dropped_frames, 2);
	model_copy(&d.m[1], &before);
	model_truncate(&d.m[2], 0);
	data_check(&d);
	/* And that is what there is from now on. */
	data_write(&d, 1, KB(8), LEN, false);
	sync_all(&d);
	data_crash(&d, 2);
	data_check(&d);
	model_fini(&before);
	data_destroy(&d);
}

/* A later group says that this one was durable: then its data is damaged, and nothing else is lost for it. */
static void proven_is_not_cut(void **state)
{
	uint8_t buf[BLOCK_SIZE];
	struct data d;

	(void)state;
	setup(&d);
	data_write(&d, 0, 0, LEN, false);
	uint64_t blkno = home(&d, 0, 5);

	sync_all(&d);
	data_write(&d, 1, 0, 100, false);
	sync_all(&d);
	power_off(&d);
	wipe(&d, blkno);
	power_on(&d);
	assert_int_equal(recovery(&d)->unwritten_lsn, 0);
	assert_int_equal(fs_pread(d.fs, d.q, d.ino[0], buf, sizeof(buf), 5 * BLOCK_SIZE), -EIO);
	assert_true(data_same(&d, &d.m[0], 0, 0, 5 * BLOCK_SIZE));
	assert_true(data_same(&d, &d.m[1], 1, 0, 100));
	data_destroy(&d);
}

/* Behind a root that has it, neither. */
static void below_the_root_is_not_cut(void **state)
{
	struct data d;

	(void)state;
	setup(&d);
	data_write(&d, 0, 0, LEN, false);
	uint64_t blkno = home(&d, 0, 5);

	data_checkpoint(&d);
	power_off(&d);
	wipe(&d, blkno);
	power_on(&d);
	assert_int_equal(recovery(&d)->unwritten_lsn, 0);
	data_destroy(&d);
}

/* Whole blocks that later transactions of the log hold do not depend on what is at home. */
static void overwritten_through_the_log(void **state)
{
	struct data d;

	(void)state;
	setup(&d);
	data_write(&d, 0, 0, LEN, false);
	data_write(&d, 0, 5 * BLOCK_SIZE, BLOCK_SIZE, false);
	uint64_t blkno = home(&d, 0, 5);

	sync_all(&d);
	power_off(&d);
	wipe(&d, blkno);
	power_on(&d);
	assert_int_equal(recovery(&d)->unwritten_lsn, 0);
	data_check(&d);
	data_destroy(&d);
}

/* Part of a block: the rest comes from home.  A checkpoint that was interrupted may have placed the part there already. */
static void partly_overwritten(void **state)
{
	(void)state;
	for (unsigned placed = 0; placed < 2; placed++) {
		struct model whole;
		struct data d;

		setup(&d);
		data_write(&d, 0, 0, LEN, false);
		data_write(&d, 0, 5 * BLOCK_SIZE + 10, 100, false);
		uint64_t blkno = home(&d, 0, 5);

		sync_all(&d);
		power_off(&d);
		model_init(&whole);
		model_copy(&whole, &d.m[0]);
		if (placed)
			dev_sim_poke(d.r.dev, blkno << BLOCK_SHIFT, model_at(&whole, 5 * BLOCK_SIZE, BLOCK_SIZE), BLOCK_SIZE);
		else
			wipe(&d, blkno);
		power_on(&d);
		assert_int_equal(recovery(&d)->unwritten_lsn != 0, !placed);
		if (!placed)
			model_truncate(&d.m[0], 0);
		data_check(&d);
		model_fini(&whole);
		data_destroy(&d);
	}
}

static void truncated_away(void **state)
{
	struct data d;

	(void)state;
	setup(&d);
	data_write(&d, 0, 0, LEN, false);
	uint64_t blkno = home(&d, 0, 5);

	data_truncate(&d, 0, BLOCK_SIZE);
	sync_all(&d);
	power_off(&d);
	wipe(&d, blkno);
	power_on(&d);
	assert_int_equal(recovery(&d)->unwritten_lsn, 0);
	data_check(&d);
	data_destroy(&d);
}

/* The cut takes a truncation with it, and what that had hidden is missing, too: then all goes that is not proven. */
static void cut_twice(void **state)
{
	struct data d;

	(void)state;
	setup(&d);
	data_write(&d, 2, 0, 100, false);
	data_write(&d, 1, 0, LEN, false);
	uint64_t hidden = home(&d, 1, 3);

	data_write(&d, 0, 0, LEN, false);
	uint64_t missing = home(&d, 0, 5);

	data_truncate(&d, 1, 0);
	sync_all(&d);
	power_off(&d);
	wipe(&d, hidden);
	wipe(&d, missing);
	power_on(&d);
	assert_int_equal(recovery(&d)->frames, 0);
	for (unsigned f = 0; f < NFILES; f++)
		model_truncate(&d.m[f], 0);
	data_check(&d);
	data_destroy(&d);
}

static void unreadable_is_not_cut(void **state)
{
	uint8_t buf[BLOCK_SIZE];
	struct data d;

	(void)state;
	setup(&d);
	data_write(&d, 0, 0, LEN, false);
	uint64_t blkno = home(&d, 0, 5);

	sync_all(&d);
	power_off(&d);
	dev_sim_fail(d.r.dev, DEV_READ, 1, SIM_FAULT_STICKY, -EIO, blkno << BLOCK_SHIFT, BLOCK_SIZE);
	power_on(&d);
	assert_int_equal(recovery(&d)->unwritten_lsn, 0);
	assert_int_equal(fs_pread(d.fs, d.q, d.ino[0], buf, sizeof(buf), 5 * BLOCK_SIZE), -EIO);
	dev_sim_fail(d.r.dev, DEV_READ, 1, SIM_FAULT_NONE, 0, 0, 0);
	data_check(&d);
	data_destroy(&d);
}

/* Only a damaged journal names so much; nobody reads without end for its sake. */
static void too_much_is_refused(void **state)
{
	struct log_hold hold = {.bytes = 1};
	uint64_t blkno, lsn;
	struct miss miss = {0};
	struct data d;
	struct txn t;

	(void)state;
	setup(&d);
	data_write(&d, 0, 0, LEN, false);
	blkno = home(&d, 0, 0);
	volume_lock(d.r.v);
	txn_begin(&t, d.r.v);
	for (uint64_t bytes = 0; bytes <= UNPROVEN_MAX; bytes += EXTENT_MAX_BLOCKS * BLOCK_SIZE)
		txn_home(&t, d.ino[0], KB(4), blkno, EXTENT_MAX_BLOCKS);
	assert_int_equal(txn_commit(&t, d.q, 0, &miss, &hold, &lsn), 0);
	txn_end(&t);
	volume_unlock(d.r.v);
	log_release(d.r.v->log, d.q, &hold, 0);
	sync_all(&d);
	power_off(&d);
	assert_int_equal(volume_open(d.r.q, &d.r.cfg, &d.r.diag, &d.r.v), -EUCLEAN);
	dev_queue_destroy(d.r.q);
	dev_close(d.r.dev);
	for (unsigned f = 0; f < NFILES; f++)
		model_fini(&d.m[f]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_there),
		cmocka_unit_test(cut_where_data_is_missing),
		cmocka_unit_test(proven_is_not_cut),
		cmocka_unit_test(below_the_root_is_not_cut),
		cmocka_unit_test(overwritten_through_the_log),
		cmocka_unit_test(partly_overwritten),
		cmocka_unit_test(truncated_away),
		cmocka_unit_test(cut_twice),
		cmocka_unit_test(unreadable_is_not_cut),
		cmocka_unit_test(too_much_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
