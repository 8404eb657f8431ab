/* SPDX-License-Identifier: Apache-2.0 */
/* test_verify.c - recovery looks whether the data is there that the last groups name (journal/verify.c). */
#include "tests/unit/data_rig.h"

#include "fsck/truncate.h"

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

/* A file's contents, all of which go straight home; where block 5 of it is. */
static uint64_t write_home(struct data *d, unsigned f)
{
	data_write(d, f, 0, LEN, false);
	return home(d, f, 5);
}

/* All was synced; then the power goes, and this block was lost with it. */
static void lose(struct data *d, uint64_t blkno)
{
	sync_all(d);
	power_off(d);
	wipe(d, blkno);
	power_on(d);
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

/* Groups before it are kept, its own is not. */
static void cut_where_data_is_missing(void **state)
{
	struct model before;
	struct data d;

	(void)state;
	setup(&d);
	data_write(&d, 0, 0, LEN, false);
	sync_all(&d);
	model_init(&before);
	model_copy(&before, &d.m[1]);
	uint64_t blkno = write_home(&d, 1);

	data_write(&d, 2, 0, 100, false);
	lose(&d, blkno);
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
	uint64_t blkno = write_home(&d, 0);

	sync_all(&d);
	data_write(&d, 1, 0, 100, false);
	lose(&d, blkno);
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
	uint64_t blkno = write_home(&d, 0);

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

	lose(&d, blkno);
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
	uint64_t blkno = write_home(&d, 0);

	data_truncate(&d, 0, BLOCK_SIZE);
	lose(&d, blkno);
	assert_int_equal(recovery(&d)->unwritten_lsn, 0);
	data_check(&d);
	data_destroy(&d);
}

static void note_done(struct log_waiter *w, int err)
{
	assert_int_equal(err, 0);
	w->q = NULL;
}

/* Everything up to now, without waiting. */
static void sync_begin(struct data *d, struct log_waiter *w)
{
	*w = (struct log_waiter){.done = note_done};
	assert_int_equal(log_sync(d->r.v->log, d->q, log_append_lsn(d->r.v->log), w), -EINPROGRESS);
}

static void sync_end(struct data *d, struct log_waiter *w)
{
	while (w->q)
		dev_poll(d->q, -1);
}

/*
 * Three groups, of which the first is acknowledged and not proven by the others.  The cut in front of the third takes a truncation with it, and
 * what that had hidden, of the second, is missing too.
 */
static void cut_twice(void **state)
{
	struct log_waiter w[4];
	struct data d;

	(void)state;
	setup(&d);
	sync_all(&d);
	uint64_t durable = log_durable_lsn(d.r.v->log);
	const struct super *sb = &d.r.v->sb;

	/* The first one is on its way until the others have been begun. */
	dev_sim_trouble(d.r.dev, SIM_SLOW, DEV_WRITE, 1, SIM_FAULT_ONCE, sb->journal_blkno << BLOCK_SHIFT,
			sb->journal_nblocks << BLOCK_SHIFT);
	data_write(&d, 2, 0, 100, true);
	sync_begin(&d, &w[0]);
	data_write(&d, 1, 0, LEN, true);
	uint64_t hidden = home(&d, 1, 3);

	sync_begin(&d, &w[1]);
	data_write(&d, 0, 0, LEN, true);
	uint64_t missing = home(&d, 0, 5);

	data_truncate(&d, 1, 0);
	/* Beside two that one waits for each. */
	sync_begin(&d, &w[2]);
	sync_begin(&d, &w[3]);
	assert_int_equal(log_durable_lsn(d.r.v->log), durable);
	for (unsigned i = 0; i < 4; i++)
		sync_end(&d, &w[i]);
	power_off(&d);
	wipe(&d, hidden);
	wipe(&d, missing);
	power_on(&d);
	assert_int_equal(recovery(&d)->tail.proven_lsn, durable);
	model_truncate(&d.m[0], 0);
	model_truncate(&d.m[1], 0);
	data_check(&d);
	data_destroy(&d);
}

static void fail_reads(struct data *d, uint64_t blkno)
{
	dev_sim_fail(d->r.dev, DEV_READ, 1, blkno ? SIM_FAULT_STICKY : SIM_FAULT_NONE, -EIO, blkno << BLOCK_SHIFT, BLOCK_SIZE);
}

/* As at the end of the journal: it goes on when the device can read it again, or on the user's word without the group. */
static void unreadable_is_refused(void **state)
{
	(void)state;
	for (unsigned word = 0; word < 2; word++) {
		struct data d;

		setup(&d);
		uint64_t blkno = write_home(&d, 0);

		sync_all(&d);
		power_off(&d);
		fail_reads(&d, blkno);
		uint64_t writes = dev_sim_writes(d.r.dev);

		assert_int_equal(volume_open(d.r.q, &d.r.cfg, &d.r.diag, &d.r.v), -EBADMSG);
		assert_int_equal(dev_sim_writes(d.r.dev), writes);
		if (word)
			d.r.cfg.flags |= VOLUME_TRUNCATE_LOG;
		else
			fail_reads(&d, 0);
		power_on(&d);
		assert_int_equal(recovery(&d)->unreadable_data, word);
		if (word)
			model_truncate(&d.m[0], 0);
		data_check(&d);
		data_destroy(&d);
	}
}

/* The same by fsck's hand; also when part of the block was written through the log later, so that replay itself has to read it. */
static void unreadable_is_truncated(void **state)
{
	(void)state;
	for (unsigned partly = 0; partly < 2; partly++) {
		struct volume_recovery rec;
		struct data d;

		setup(&d);
		data_write(&d, 1, 0, 100, false);
		sync_all(&d);
		data_write(&d, 0, 0, LEN, false);
		if (partly)
			data_write(&d, 0, 5 * BLOCK_SIZE + 10, 100, false);
		uint64_t blkno = home(&d, 0, 5);

		sync_all(&d);
		power_off(&d);
		assert_int_equal(truncate_journal(d.r.q, &d.r.diag, &rec), -ENODATA);
		fail_reads(&d, blkno);
		assert_int_equal(volume_open(d.r.q, &d.r.cfg, &d.r.diag, &d.r.v), partly ? -EIO : -EBADMSG);
		assert_int_equal(truncate_journal(d.r.q, &d.r.diag, &rec), 0);
		power_on(&d);
		model_truncate(&d.m[0], 0);
		data_check(&d);
		data_destroy(&d);
	}
}

/* A write that fails leaves what was there: its frames are not written. */
static void failed_overwrite(void **state)
{
	uint8_t buf[LEN];
	struct data d;

	(void)state;
	setup(&d);
	data_write(&d, 0, 0, LEN, false);
	data_checkpoint(&d);
	memset(buf, 7, LEN);
	dev_sim_fail(d.r.dev, DEV_WRITE, 1, SIM_FAULT_ONCE, -EIO, 0, 0);
	assert_int_equal(data_start(&d, 0, 0, buf, LEN), LEN);
	assert_int_equal(fs_sync(d.fs, d.q, 0, false), -EIO);
	data_crash(&d, 3);
	assert_int_equal(recovery(&d)->frames, 0);
	data_check(&d);
	data_destroy(&d);
}

/* It may lie in a cache only, whose flush has failed before. */
static void written_once_more(void **state)
{
	struct data d;

	(void)state;
	setup(&d);
	uint64_t blkno = write_home(&d, 0);

	sync_all(&d);
	power_off(&d);
	dev_sim_fail(d.r.dev, DEV_WRITE, 1, SIM_FAULT_ONCE, -EIO, blkno << BLOCK_SHIFT, BLOCK_SIZE);
	assert_int_equal(volume_open(d.r.q, &d.r.cfg, &d.r.diag, &d.r.v), -EIO);
	power_on(&d);
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
		cmocka_unit_test(unreadable_is_refused),
		cmocka_unit_test(unreadable_is_truncated),
		cmocka_unit_test(failed_overwrite),
		cmocka_unit_test(written_once_more),
		cmocka_unit_test(too_much_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
