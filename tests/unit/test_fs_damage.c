/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_fs_damage.c - what is valid by itself and wrong in its context: a journal record that the state before it does not fit, extents
 * that share blocks, and a bitmap that was asked for too late.  None of it may end in an assertion.
 */
#include "tests/unit/data_rig.h"

#define RUN 4u

/* Commits what `record` records, reading what is missing. */
static int commit(struct data *d, int (*record)(struct data *d, struct txn *t, struct miss *miss))
{
	struct volume *v = d->r.v;

	for (;;) {
		struct miss miss = {0};
		struct txn t;

		volume_lock(v);
		txn_begin(&t, v);
		int err = record(d, &t, &miss);
		if (!err)
			err = txn_commit(&t, d->q, 0, &miss, NULL, NULL);
		txn_end(&t);
		volume_unlock(v);
		if (err != -EAGAIN)
			return err;
		assert_int_equal(volume_provide(v, d->q, &miss), 0);
	}
}

/* --- replay ------------------------------------------------------------------------------------ */

/* Appends the frame of a transaction that the running volume would never make, without applying it. */
static void append(struct data *d, struct txn *t)
{
	struct disk_txn head = {.type = RECORD_TXN, .nops = put32(t->nops)};
	uint64_t lsn;

	memcpy(t->buf, &head, sizeof(head));
	assert_int_equal(log_append(d->r.v->log, d->q, t->buf, t->len, NULL, &lsn), 0);
	assert_int_equal(log_sync_wait(d->r.v->log, d->q, lsn), 0);
}

/* A block whose contents the log has is freed, and in the same transaction gets contents that build on what it was. */
static void test_contents_of_a_freed_block(void **state)
{
	struct data d;
	struct txn t;

	(void)state;
	data_create(&d, MB(8), 128, 0, 1);
	data_write(&d, 0, 0, KB(6), false);
	uint64_t blkno = data_walk(&d, 0, 1).blkno;
	assert_int_not_equal(blkno, 0);
	volume_lock(d.r.v);
	assert_non_null(stage_get(d.r.v->stage, blkno));
	txn_begin(&t, d.r.v);
	txn_free(&t, blkno, 1);
	txn_data(&t, blkno, 100, "abc", 3, false, NULL);
	volume_unlock(d.r.v);
	append(&d, &t);
	volume_lock(d.r.v);
	txn_end(&t);
	volume_unlock(d.r.v);
	dev_sim_cut(d.r.dev);
	fs_close(d.fs, d.q);
	rig_after_cut(&d.r, 1);
	assert_int_equal(volume_open(d.r.q, &d.r.cfg, &d.r.diag, &d.r.v), -EUCLEAN);
	d.r.v = NULL;
	rig_destroy(&d.r);
	for (unsigned i = 0; i < NFILES; i++)
		model_fini(&d.m[i]);
}

/* --- extents ----------------------------------------------------------------------------------- */

static void put_extent(struct data *d, struct txn *t, uint64_t file, uint64_t blkno, uint32_t n)
{
	struct disk_extent e = {.blkno = put64(blkno), .nblocks = put32(n), .flags = put32(EXTENT_UNWRITTEN)};
	struct key key = key_make(d->ino[0], ITEM_EXTENT, file);

	txn_put(t, &key, &e, sizeof(e));
}

/* Two extents of file 0 that have all but one block in common. */
static int record_shared(struct data *d, struct txn *t, struct miss *miss)
{
	struct disk_inode di;
	uint64_t blkno, n;
	int err = inode_get(d->fs, d->ino[0], miss, &di);

	if (!err)
		err = txn_alloc(t, 0, RUN, miss, &blkno, &n);
	if (err)
		return err;
	assert_int_equal(n, RUN);
	put_extent(d, t, 0, blkno, RUN);
	put_extent(d, t, 100, blkno + 1, RUN - 1);
	di.size = put64(MB(1));
	di.nblocks = put64(2 * RUN - 1);
	inode_put(t, d->ino[0], &di);
	return 0;
}

static void test_shared_blocks_are_not_freed_twice(void **state)
{
	struct data d;
	struct alloc_space before, after;

	(void)state;
	data_create(&d, MB(8), 128, 0, 2);
	data_write(&d, 1, 0, KB(100), false);
	assert_int_equal(commit(&d, record_shared), 0);
	volume_lock(d.r.v);
	alloc_get_space(d.r.v->alloc, &before);
	volume_unlock(d.r.v);
	assert_int_equal(data_set_size(&d, 0, 0), -EUCLEAN);
	volume_lock(d.r.v);
	alloc_get_space(d.r.v->alloc, &after);
	alloc_assert(d.r.v->alloc);
	tree_assert(d.r.v->tree);
	volume_unlock(d.r.v);
	assert_int_equal(after.npending, before.npending);
	assert_int_equal(data_attr(&d, 0).size, MB(1));
	/* Unlinked, it stays on the list of orphans; the volume goes on, and comes back. */
	assert_int_equal(fs_unlink(d.fs, d.q, INO_ROOT, "a", 1), 0);
	fs_forget(d.fs, d.q, d.ino[0], 1);
	assert_true(data_same(&d, &d.m[1], 1, 0, KB(100)));
	assert_int_equal(fs_sync(d.fs, d.q, 0, false), 0);
	data_crash(&d, 3);
	assert_true(data_same(&d, &d.m[1], 1, 0, KB(100)));
	data_destroy(&d);
}

/* --- bitmaps ----------------------------------------------------------------------------------- */

/*
 * Two steps miss a bitmap; one reads it and goes on, and a checkpoint is about to write it to its other slot, when the second one gets
 * round to reading.  What is in that slot then proves nothing.
 */
static void test_outdated_bitmap_miss(void **state)
{
	struct miss miss = {.kind = MISS_BITMAP, .group = 0};
	uint8_t *old = dev_alloc(BLOCK_SIZE, true);
	struct data d;
	unsigned slot;
	uint32_t csum;

	(void)state;
	data_create(&d, MB(8), 128, 0, 4);
	data_reopen(&d);
	volume_lock(d.r.v);
	assert_true(alloc_wants(d.r.v->alloc, 0));
	volume_unlock(d.r.v);
	data_write(&d, 0, 0, KB(100), false);
	data_checkpoint(&d);
	volume_lock(d.r.v);
	assert_false(alloc_wants(d.r.v->alloc, 0));
	alloc_bitmap_where(d.r.v->alloc, 0, &slot, &csum);
	volume_unlock(d.r.v);
	/* As if the checkpoint had not come so far. */
	for (unsigned copy = 0; copy < 2; copy++)
		dev_sim_poke(d.r.dev, bitmap_blkno(&d.r.v->sb, 0, slot, copy) * BLOCK_SIZE, old, BLOCK_SIZE);
	assert_int_equal(volume_provide(d.r.v, d.q, &miss), 0);
	assert_int_equal(d.r.v->error_count, 0);
	data_check(&d);
	/* The next checkpoint writes the other slot. */
	data_write(&d, 1, 0, KB(100), false);
	data_reopen(&d);
	data_check(&d);
	data_destroy(&d);
	free(old);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_contents_of_a_freed_block),
		cmocka_unit_test(test_shared_blocks_are_not_freed_twice),
		cmocka_unit_test(test_outdated_bitmap_miss),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
