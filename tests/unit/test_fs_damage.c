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

/* Opens what a crash left with these transactions; -EUCLEAN, and nothing was written. */
static void refused(struct data *d, struct txn *t, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		append(d, &t[i]);
	volume_lock(d->r.v);
	for (unsigned i = n; i-- > 0;)
		txn_end(&t[i]);
	volume_unlock(d->r.v);
	dev_sim_cut(d->r.dev);
	fs_close(d->fs, d->q);
	rig_after_cut(&d->r, 1);
	uint64_t writes = dev_sim_writes(d->r.dev);

	assert_int_equal(volume_open(d->r.q, &d->r.cfg, &d->r.diag, &d->r.v), -EUCLEAN);
	assert_int_equal(dev_sim_writes(d->r.dev), writes);
	d->r.v = NULL;
	rig_destroy(&d->r);
	for (unsigned i = 0; i < NFILES; i++)
		model_fini(&d->m[i]);
}

static void begin(struct data *d, struct txn *t)
{
	volume_lock(d->r.v);
	txn_begin(t, d->r.v);
	volume_unlock(d->r.v);
}

/* A block of the data area that is free. */
static uint64_t free_block(struct data *d)
{
	uint64_t blkno, n;
	struct miss miss;
	struct txn t;

	volume_lock(d->r.v);
	txn_begin(&t, d->r.v);
	assert_int_equal(txn_alloc(&t, alloc_at(0), 1, &miss, &blkno, &n), 0);
	txn_end(&t);
	volume_unlock(d->r.v);
	return blkno;
}

static void test_contents_of_a_free_block(void **state)
{
	struct data d;
	struct txn t;

	(void)state;
	data_create(&d, MB(8), 128, 0, 1);
	data_write(&d, 0, 0, KB(6), false);
	begin(&d, &t);
	txn_data(&t, free_block(&d), 100, "abc", 3, true, NULL);
	refused(&d, &t, 1);
}

static void test_contents_of_no_bytes(void **state)
{
	struct data d;
	struct txn t;

	(void)state;
	data_create(&d, MB(8), 128, 0, 1);
	data_write(&d, 0, 0, KB(6), false);
	begin(&d, &t);
	txn_data(&t, data_walk(&d, 0, 1).blkno, 100, "", 0, false, NULL);
	refused(&d, &t, 1);
}

/* As many operations as fit a frame, which no writer would make; each would cost two blocks of memory. */
static void test_too_many_contents(void **state)
{
	struct data d;
	struct txn t;

	(void)state;
	data_create(&d, MB(64), 4096, 0, 1);
	data_write(&d, 0, 0, KB(6), false);
	uint64_t blkno = data_walk(&d, 0, 1).blkno;
	begin(&d, &t);
	for (unsigned i = 0; i <= TXN_MAX_DATA; i++) {
		t.err = 0;	/* txn_data() does not let us */
		txn_data(&t, blkno, i, "a", 1, false, NULL);
	}
	assert_int_equal(t.err, -EFBIG);
	refused(&d, &t, 1);
}

/* The most that is allowed, all of one block: one base is read, and it is quick. */
static void test_many_contents_of_a_block(void **state)
{
	struct data d;
	struct txn t;

	(void)state;
	data_create(&d, MB(64), 4096, 0, 1);
	data_write(&d, 0, 0, KB(6), false);
	data_reopen(&d);
	uint64_t blkno = data_walk(&d, 0, 1).blkno;
	begin(&d, &t);
	for (unsigned i = 0; i < TXN_MAX_DATA; i++)
		txn_data(&t, blkno, i, "a", 1, false, NULL);
	append(&d, &t);
	volume_lock(d.r.v);
	txn_end(&t);
	volume_unlock(d.r.v);
	dev_sim_cut(d.r.dev);
	fs_close(d.fs, d.q);
	rig_after_cut(&d.r, 1);
	struct dev_stats before, after;
	dev_get_stats(d.r.dev, &before);
	assert_int_equal(volume_open(d.r.q, &d.r.cfg, &d.r.diag, &d.r.v), 0);
	dev_get_stats(d.r.dev, &after);
	assert_true(after.reads - before.reads < 100);
	volume_lock(d.r.v);
	alloc_assert(d.r.v->alloc);
	volume_unlock(d.r.v);
	rig_destroy(&d.r);
	for (unsigned i = 0; i < NFILES; i++)
		model_fini(&d.m[i]);
}

/* --- opening ----------------------------------------------------------------------------------- */

/* Changes the newest root, in both copies, and seals it. */
static void change_root(struct dev *dev, const struct super *sb, void (*change)(struct disk_root *root))
{
	struct disk_root root[2];
	unsigned slot;

	for (slot = 0; slot < 2; slot++)
		dev_sim_peek(dev, root_blkno(sb, slot, 0) * BLOCK_SIZE, &root[slot], BLOCK_SIZE);
	slot = get64(root[1].h.generation) > get64(root[0].h.generation);
	change(&root[slot]);
	header_seal(&root[slot]);
	for (unsigned copy = 0; copy < 2; copy++)
		dev_sim_poke(dev, root_blkno(sb, slot, copy) * BLOCK_SIZE, &root[slot], BLOCK_SIZE);
}

static void far_lsn(struct disk_root *root)
{
	root->replay_lsn = root->applied_lsn = put64(UINT64_C(1) << 63);
}

static void far_unclean_lsn(struct disk_root *root)
{
	/* The last one that there may be, but the log would go on one lap further. */
	root->replay_lsn = root->applied_lsn = put64((UINT64_C(1) << 63) - BLOCK_SIZE);
	root->flags = put64(0);
}

/* The last thing that can refuse is the LSN where the log goes on; until then nothing is written, not even what could be repaired. */
static void lsn_refused(void (*change)(struct disk_root *root))
{
	struct data d;
	struct super sb;

	data_create(&d, MB(8), 128, 0, 1);
	data_write(&d, 0, 0, KB(6), false);
	sb = d.r.v->sb;
	fs_close(d.fs, d.q);
	assert_int_equal(volume_close(d.r.v, d.q), 0);
	d.r.v = NULL;
	change_root(d.r.dev, &sb, change);
	dev_sim_flip(d.r.dev, SUPER_BLKNO0 * BLOCK_SIZE + 100, 1);
	dev_sim_flip(d.r.dev, root_blkno(&sb, 0, 0) * BLOCK_SIZE + 1000, 1);
	dev_sim_flip(d.r.dev, root_blkno(&sb, 1, 0) * BLOCK_SIZE + 1000, 1);
	uint64_t writes = dev_sim_writes(d.r.dev);
	int err = volume_open(d.r.q, &d.r.cfg, &d.r.diag, &d.r.v);

	if (!err)
		fail_msg("opened");
	assert_int_equal(dev_sim_writes(d.r.dev), writes);
	d.r.v = NULL;
	rig_destroy(&d.r);
	for (unsigned i = 0; i < NFILES; i++)
		model_fini(&d.m[i]);
}

static void test_lsn_near_the_end(void **state)
{
	(void)state;
	lsn_refused(far_lsn);
	lsn_refused(far_unclean_lsn);
}

/* What was not written then is written by an open that succeeds. */
static void test_copies_are_repaired_late(void **state)
{
	uint8_t *block = dev_alloc(BLOCK_SIZE, false);
	struct data d;
	struct super sb, again;

	(void)state;
	data_create(&d, MB(8), 128, 0, 1);
	data_write(&d, 0, 0, KB(6), false);
	sb = d.r.v->sb;
	data_reopen(&d);
	fs_close(d.fs, d.q);
	assert_int_equal(volume_close(d.r.v, d.q), 0);
	dev_sim_flip(d.r.dev, SUPER_BLKNO0 * BLOCK_SIZE + 100, 1);
	for (unsigned slot = 0; slot < 2; slot++)
		dev_sim_flip(d.r.dev, table_blkno(&sb, 0, slot, 0) * BLOCK_SIZE + 1000, 1);
	assert_int_equal(volume_open(d.r.q, &d.r.cfg, &d.r.diag, &d.r.v), 0);
	dev_sim_peek(d.r.dev, SUPER_BLKNO0 * BLOCK_SIZE, block, BLOCK_SIZE);
	assert_int_equal(super_decode(block, SUPER_BLKNO0, sb.nblocks, NULL, &again), 0);
	unsigned good = 0;
	for (unsigned slot = 0; slot < 2; slot++) {
		dev_sim_peek(d.r.dev, table_blkno(&sb, 0, slot, 0) * BLOCK_SIZE, block, BLOCK_SIZE);
		good += !header_check(block, MAGIC_TABLE, &sb, table_blkno(&sb, 0, slot, 0), NULL);
	}
	assert_true(good > 0);
	rig_destroy(&d.r);
	for (unsigned i = 0; i < NFILES; i++)
		model_fini(&d.m[i]);
	free(block);
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
		err = txn_alloc(t, alloc_at(0), RUN, miss, &blkno, &n);
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

/* The leaf that file 0's inode item is in, which is clean. */
static uint64_t leaf_of(struct data *d, struct miss *miss, int *err)
{
	struct key key = key_make(d->ino[0], ITEM_INODE, 0);
	const void *val;
	unsigned len;

	*err = tree_lookup(d->r.v->tree, &key, miss, &val, &len);
	if (*err)
		return 0;
	/* Pages are aligned. */
	return get64(((const struct disk_node *)((uintptr_t)val & ~(uintptr_t)(BLOCK_SIZE - 1)))->h.blkno[1]);
}

/* Frees, as part of some extent, a block of the very leaf that the transaction changes, and so frees too. */
static int record_free_of_a_leaf(struct data *d, struct txn *t, struct miss *miss)
{
	struct disk_inode di;
	int err;
	uint64_t blkno = leaf_of(d, miss, &err);

	if (!err)
		err = inode_get(d->fs, d->ino[0], miss, &di);
	if (err)
		return err;
	txn_free(t, blkno - 1, 2);
	inode_put(t, d->ino[0], &di);
	return 0;
}

static void test_a_node_is_not_freed_twice(void **state)
{
	struct data d;

	(void)state;
	data_create(&d, MB(8), 128, 0, 2);
	for (unsigned i = 0; i < 3; i++)	/* nodes lie behind each other, so that the block in front is used as well */
		data_write(&d, 1, i * KB(100), KB(100), false);
	data_checkpoint(&d);
	uint64_t errors = d.r.v->error_count;
	assert_int_equal(commit(&d, record_free_of_a_leaf), -EUCLEAN);
	assert_int_equal(d.r.v->error_count, errors + 1);
	volume_lock(d.r.v);
	alloc_assert(d.r.v->alloc);
	tree_assert(d.r.v->tree);
	volume_unlock(d.r.v);
	data_write(&d, 0, 0, KB(20), false);
	data_reopen(&d);
	data_check(&d);
	data_destroy(&d);
}

/* Two unwritten extents in the same place: a write to both cannot have both. */
static int record_twins(struct data *d, struct txn *t, struct miss *miss)
{
	struct disk_inode di;
	uint64_t blkno, n;
	int err = inode_get(d->fs, d->ino[0], miss, &di);

	if (!err)
		err = txn_alloc(t, alloc_at(0), RUN, miss, &blkno, &n);
	if (err)
		return err;
	assert_int_equal(n, RUN);
	put_extent(d, t, 0, blkno, RUN);
	put_extent(d, t, RUN, blkno, RUN);
	di.size = put64(MB(1));
	di.nblocks = put64(2 * RUN);
	inode_put(t, d->ino[0], &di);
	return 0;
}

static void test_twins_are_not_written_at_once(void **state)
{
	uint8_t *buf = calloc(2 * RUN, BLOCK_SIZE);
	struct data d;

	(void)state;
	data_create(&d, MB(8), 128, 0, 2);
	assert_int_equal(commit(&d, record_twins), 0);
	uint64_t errors = d.r.v->error_count;
	assert_int_equal(fs_pwrite(d.fs, d.q, d.ino[0], buf, 2 * RUN * BLOCK_SIZE, 0), -EUCLEAN);
	assert_int_equal(d.r.v->error_count, errors + 1);
	assert_int_equal(fs_pwrite(d.fs, d.q, d.ino[0], buf, RUN * BLOCK_SIZE, 0), RUN * BLOCK_SIZE);
	volume_lock(d.r.v);
	alloc_assert(d.r.v->alloc);
	tree_assert(d.r.v->tree);
	volume_unlock(d.r.v);
	/* What shares blocks can be neither removed nor trusted; the rest goes on. */
	data_write(&d, 1, 0, KB(20), false);
	assert_true(data_same(&d, &d.m[1], 1, 0, KB(20)));
	data_destroy(&d);
	free(buf);
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
		cmocka_unit_test(test_contents_of_a_free_block),
		cmocka_unit_test(test_contents_of_no_bytes),
		cmocka_unit_test(test_too_many_contents),
		cmocka_unit_test(test_many_contents_of_a_block),
		cmocka_unit_test(test_lsn_near_the_end),
		cmocka_unit_test(test_copies_are_repaired_late),
		cmocka_unit_test(test_shared_blocks_are_not_freed_twice),
		cmocka_unit_test(test_a_node_is_not_freed_twice),
		cmocka_unit_test(test_twins_are_not_written_at_once),
		cmocka_unit_test(test_outdated_bitmap_miss),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
