/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_volume.c - transactions, checkpoints and recovery, without any POSIX: a volume holds numbered inode items whose contents are
 * known from how many transactions have been applied, so that any state can be compared with any prefix of the history.
 */
#include "tests/unit/volume_rig.h"

#include <sys/stat.h>

#include "core/crc32c.h"

#define ITEMS 40u

/* Transaction number n: sets item n % ITEMS to n; and every third rewrites one data block that all share. */
static void record_step(struct txn *t, uint64_t n)
{
	struct disk_inode di = {.size = put64(n), .mode = put32(S_IFREG | 0644), .nlink = put32(1)};
	struct key key = key_make(INO_FIRST + n % ITEMS, ITEM_INODE, 0);

	if (n <= ITEMS)
		txn_new_ino(t);
	txn_put(t, &key, &di, sizeof(di));
}

static int commit_step(struct volume *v, struct dev_queue *q, uint64_t n, uint64_t *lsn)
{
	for (;;) {
		struct miss miss = {0};
		struct txn t;
		int err;

		volume_lock(v);
		txn_begin(&t, v);
		record_step(&t, n);
		err = txn_commit(&t, q, 0, &miss, NULL, lsn);
		txn_end(&t);
		volume_unlock(v);
		if (err != -EAGAIN)
			return err;
		err = volume_provide(v, q, &miss);
		if (err)
			return err;
	}
}

static int item_get(struct volume *v, struct dev_queue *q, uint64_t ino, uint64_t *size)
{
	for (;;) {
		struct key key = key_make(ino, ITEM_INODE, 0);
		struct miss miss = {0};
		const void *val;
		unsigned len;
		int err;

		volume_lock(v);
		err = tree_lookup(v->tree, &key, &miss, &val, &len);
		if (!err)
			*size = get64(((const struct disk_inode *)val)->size);
		volume_unlock(v);
		if (err != -EAGAIN)
			return err;
		assert_int_equal(volume_provide(v, q, &miss), 0);
	}
}

/* The number of transactions whose effect the volume shows; fails if it is no prefix of 1..max. */
static uint64_t prefix_of(struct volume *v, struct dev_queue *q, uint64_t max)
{
	uint64_t newest = 0, seen[ITEMS] = {0};

	for (uint64_t i = 0; i < ITEMS; i++) {
		int err = item_get(v, q, INO_FIRST + i, &seen[i]);

		assert_true(err == 0 || err == -ENOENT);
		if (!err && seen[i] > newest)
			newest = seen[i];
	}
	assert_true(newest <= max);
	for (uint64_t n = newest; n > 0 && n + ITEMS > newest; n--)
		assert_int_equal(seen[n % ITEMS], n);
	return newest;
}

static void test_format_open_close(void **state)
{
	struct rig r;

	(void)state;
	rig_create(&r, 8 << 20, 0, 1);
	assert_string_equal(r.v->sb.label, "rig");
	assert_true(r.v->recovery.was_clean);
	assert_int_equal(r.v->ninodes, 1);
	volume_lock(r.v);
	alloc_assert(r.v->alloc);
	tree_assert(r.v->tree);
	volume_unlock(r.v);
	rig_reopen(&r);
	assert_true(r.v->recovery.was_clean);
	rig_destroy(&r);
}

static void test_transactions_survive_close(void **state)
{
	struct rig r;

	(void)state;
	rig_create(&r, 8 << 20, MIN_JOURNAL, 2);
	for (uint64_t n = 1; n <= 500; n++)
		assert_int_equal(commit_step(r.v, r.q, n, NULL), 0);
	rig_reopen(&r);
	assert_true(r.v->recovery.was_clean);
	assert_int_equal(prefix_of(r.v, r.q, 500), 500);
	assert_int_equal(r.v->ninodes, 1 + ITEMS);
	rig_destroy(&r);
}

/* Many laps of a tiny journal: the steps that find it full wait for checkpoints, and everything is there after a kill. */
static void test_laps_of_the_journal(void **state)
{
	struct rig r;
	uint64_t lsn = 0;

	(void)state;
	rig_create(&r, 8 << 20, MIN_JOURNAL, 3);
	for (uint64_t n = 1; n <= 20000; n++) {
		assert_int_equal(commit_step(r.v, r.q, n, &lsn), 0);
		if (n % 50 == 0)
			assert_int_equal(log_sync_wait(r.v->log, r.q, lsn), 0);
	}
	assert_true(r.v->stats.checkpoints > 4);
	assert_int_equal(log_sync_wait(r.v->log, r.q, lsn), 0);
	rig_after_cut(&r, 99);
	assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
	assert_int_equal(prefix_of(r.v, r.q, 20000), 20000);
	rig_destroy(&r);
}

static bool is_due(struct volume *v)
{
	bool due;

	volume_lock(v);
	due = volume_checkpoint_due(v);
	volume_unlock(v);
	return due;
}

/* Half of the journal is one group, still open at the checkpoint, which cannot trim it: another checkpoint does, although nothing has
 * changed, and then none is due.  Whoever makes them while they are due would else never rest. */
static void test_due_checkpoints_end(void **state)
{
	unsigned made = 0;
	struct rig r;

	(void)state;
	rig_create(&r, 8 << 20, MIN_JOURNAL, 4);
	for (uint64_t n = 1; !is_due(r.v); n++)
		assert_int_equal(commit_step(r.v, r.q, n, NULL), 0);
	for (; is_due(r.v) && made < 10; made++)
		assert_int_equal(volume_checkpoint(r.v, r.q, 0), 0);
	assert_int_equal(made, 2);
	assert_int_equal(log_used(r.v->log), 0);
	rig_destroy(&r);
}

/* The workload of the power cut test: returns the last transaction that a sync acknowledged. */
static uint64_t run_until_cut(struct rig *r, uint64_t *tried)
{
	uint64_t acked = 0, lsn = 0, n;

	for (n = 1; n <= 300; n++) {
		if (commit_step(r->v, r->q, n, &lsn))
			break;
		if (n % 7 == 0) {
			if (log_sync_wait(r->v->log, r->q, lsn))
				break;
			acked = n;
		}
		if (n % 61 == 0 && volume_checkpoint(r->v, r->q, CHECKPOINT_FORCE))
			break;
	}
	*tried = n;
	return acked;
}

/*
 * The power goes at every single write or flush of the workload, checkpoints included; then again at every one of the first recovery's.
 * What comes back is a prefix that holds what was acknowledged.
 */
static void test_power_cut_everywhere(void **state)
{
	(void)state;
	for (uint64_t cut = 1;; cut++) {
		struct rig r;
		uint64_t tried, acked, found;
		int err;

		rig_create(&r, 4 << 20, MIN_JOURNAL, cut);
		dev_sim_cut_after(r.dev, cut);
		acked = run_until_cut(&r, &tried);
		if (!dev_sim_is_cut(r.dev)) {
			rig_destroy(&r);
			assert_true(cut > 50);
			return;
		}
		rig_after_cut(&r, cut * 7919);
		dev_sim_cut_after(r.dev, 1 + cut % 12);
		err = volume_open(r.q, &r.cfg, &r.diag, &r.v);
		if (err) {
			r.v = NULL;
			rig_after_cut(&r, cut * 104729);
			assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
		} else {
			dev_sim_cut_after(r.dev, 0);
		}
		found = prefix_of(r.v, r.q, tried);
		assert_true(found >= acked);
		volume_lock(r.v);
		alloc_assert(r.v->alloc);
		tree_assert(r.v->tree);
		volume_unlock(r.v);
		/* And on from there, cleanly. */
		assert_int_equal(commit_step(r.v, r.q, found + 1, NULL), 0);
		rig_reopen(&r);
		assert_int_equal(prefix_of(r.v, r.q, found + 1), found + 1);
		rig_destroy(&r);
	}
}

/* --- read-only, and then not ---------------------------------------------------------------------- */

static void open_read_only(struct rig *r)
{
	r->cfg.flags = VOLUME_READ_ONLY;
	assert_int_equal(volume_open(r->q, &r->cfg, &r->diag, &r->v), 0);
	r->cfg.flags = 0;
	assert_null(r->v->log);
	assert_int_equal(volume_writable(r->v), -EROFS);
}

/* One state of the device after a crash of the workload, always the same for `cut`; the last transaction tried. */
static uint64_t crashed(struct rig *r, uint64_t cut)
{
	uint64_t tried;

	rig_create(r, 4 << 20, MIN_JOURNAL, cut);
	dev_sim_cut_after(r->dev, cut);
	run_until_cut(r, &tried);
	rig_after_cut(r, cut * 7919);
	return tried;
}

/* What a reader has seen is what comes back, wherever the power goes while the volume becomes writable; and it goes on from there. */
static void test_begin_writing_everywhere(void **state)
{
	unsigned cuts = 0;

	(void)state;
	for (uint64_t cut = 10; cut < 75; cut += 6) {
		for (uint64_t k = 1;; k++) {
			struct rig r;
			uint64_t tried = crashed(&r, cut), writes = dev_sim_writes(r.dev), found;
			int err;

			open_read_only(&r);
			found = prefix_of(r.v, r.q, tried);
			assert_int_equal(dev_sim_writes(r.dev), writes);
			dev_sim_cut_after(r.dev, k);
			err = volume_begin_writing(r.v, r.q);
			if (!dev_sim_is_cut(r.dev)) {
				assert_int_equal(err, 0);
				dev_sim_cut_after(r.dev, 0);
				assert_int_equal(volume_writable(r.v), 0);
				assert_int_equal(volume_begin_writing(r.v, r.q), 0);
				assert_int_equal(prefix_of(r.v, r.q, tried), found);
				uint64_t lsn;
				assert_int_equal(commit_step(r.v, r.q, found + 1, &lsn), 0);
				assert_int_equal(log_sync_wait(r.v->log, r.q, lsn), 0);
				rig_after_cut(&r, k);
				assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
				assert_int_equal(prefix_of(r.v, r.q, found + 1), found + 1);
				rig_destroy(&r);
				break;
			}
			/* The last write may have been done and the answer lost; else it has failed, and takes no changes. */
			cuts++;
			if (err)
				assert_int_not_equal(volume_writable(r.v), 0);
			rig_after_cut(&r, cut * 31 + k);
			assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
			assert_int_equal(prefix_of(r.v, r.q, tried), found);
			volume_lock(r.v);
			alloc_assert(r.v->alloc);
			tree_assert(r.v->tree);
			volume_unlock(r.v);
			rig_destroy(&r);
		}
	}
	assert_true(cuts > 40);
}

/* As root `block` is, but for its count of mounts, in both copies. */
static void root_change(struct rig *r, const struct super *sb, void *block, uint64_t mount_count)
{
	struct disk_root *root = block;
	unsigned slot = get64(root->h.generation) & 1;

	root->mount_count = put64(mount_count);
	header_seal(root);
	for (unsigned copy = 0; copy < 2; copy++)
		assert_int_equal(dev_write(r->q, root_blkno(sb, slot, copy) * BLOCK_SIZE, root, BLOCK_SIZE, DEV_DURABLE), 0);
}

/* Whatever is no longer what was opened is seen: also a root of the same generation, and another superblock. */
static void test_look_again(void **state)
{
	void *root = dev_alloc(BLOCK_SIZE, false);
	uint64_t tried, count;
	struct rig r;
	struct super sb;

	(void)state;
	tried = crashed(&r, 60);
	open_read_only(&r);
	assert_int_equal(volume_look_again(r.v, r.q), 0);
	(void)prefix_of(r.v, r.q, tried);
	assert_int_equal(volume_look_again(r.v, r.q), 0);
	assert_int_equal(volume_read_super(r.q, NULL, &sb), 0);
	assert_int_equal(volume_read_root(r.q, &sb, NULL, false, root), 0);
	count = get64(((struct disk_root *)root)->mount_count);
	root_change(&r, &sb, root, count + 1);
	assert_int_equal(volume_look_again(r.v, r.q), -ESTALE);
	assert_int_equal(volume_begin_writing(r.v, r.q), -ESTALE);
	root_change(&r, &sb, root, count);
	assert_int_equal(volume_look_again(r.v, r.q), 0);
	sb.label[0] ^= 1;
	for (unsigned copy = 0; copy < SUPER_COPIES; copy++) {
		super_encode(&sb, copy, root);
		assert_int_equal(dev_write(r.q, super_blkno(sb.nblocks, copy) * BLOCK_SIZE, root, BLOCK_SIZE, DEV_DURABLE), 0);
	}
	assert_int_equal(volume_look_again(r.v, r.q), -ESTALE);
	free(root);
	rig_destroy(&r);
}

/* Then nothing is written, and it stays what it is. */
static void test_begin_writing_refused(void **state)
{
	struct rig r, other;
	uint64_t tried = crashed(&r, 60), found, writes;

	(void)state;
	open_read_only(&r);
	found = prefix_of(r.v, r.q, tried);
	writes = dev_sim_writes(r.dev);
	r.dev->read_only = true;
	assert_int_equal(volume_begin_writing(r.v, r.q), -EROFS);
	r.dev->read_only = false;
	r.v->sb.ro_compat |= 1u << 31;
	assert_int_equal(volume_begin_writing(r.v, r.q), -EROFS);
	r.v->sb.ro_compat &= ~(1u << 31);
	r.v->flags |= VOLUME_NO_RECOVERY;
	assert_int_equal(volume_begin_writing(r.v, r.q), -EROFS);
	r.v->flags &= ~VOLUME_NO_RECOVERY;
	assert_int_equal(dev_sim_writes(r.dev), writes);

	/* Somebody else has written meanwhile, past all locks. */
	other = r;
	assert_int_equal(volume_open(other.q, &other.cfg, &other.diag, &other.v), 0);
	assert_int_equal(volume_close(other.v, other.q), 0);
	writes = dev_sim_writes(r.dev);
	assert_int_equal(volume_begin_writing(r.v, r.q), -ESTALE);
	assert_int_equal(dev_sim_writes(r.dev), writes);
	assert_int_equal(volume_writable(r.v), -EROFS);
	assert_int_equal(prefix_of(r.v, r.q, tried), found);
	rig_destroy(&r);
}

/* Copies that were bad when it was opened are not touched before, and are good then. */
static void test_begin_writing_repairs(void **state)
{
	struct rig r;
	uint64_t writes, table[2];

	(void)state;
	rig_create(&r, 8 << 20, MIN_JOURNAL, 7);
	for (uint64_t n = 1; n <= 50; n++)
		assert_int_equal(commit_step(r.v, r.q, n, NULL), 0);
	rig_reopen(&r);
	assert_int_equal(volume_close(r.v, r.q), 0);

	void *root = dev_alloc(BLOCK_SIZE, false);
	struct super sb;
	assert_int_equal(volume_read_super(r.q, NULL, &sb), 0);
	assert_int_equal(volume_read_root(r.q, &sb, NULL, false, root), 0);
	for (unsigned copy = 0; copy < 2; copy++)
		table[copy] = table_blkno(&sb, 0, ((struct disk_root *)root)->table_slot[0] & 1, copy) * BLOCK_SIZE;
	free(root);
	dev_sim_flip(r.dev, table[0] + 100, 1);
	dev_sim_flip(r.dev, super_blkno(sb.nblocks, 1) * BLOCK_SIZE + 100, 1);

	open_read_only(&r);
	writes = dev_sim_writes(r.dev);
	assert_int_equal(prefix_of(r.v, r.q, 50), 50);
	assert_int_equal(dev_sim_writes(r.dev), writes);
	assert_int_equal(volume_begin_writing(r.v, r.q), 0);
	/* As a crash would leave it, since closing writes tables anew. */
	rig_after_cut(&r, 1);
	for (unsigned copy = 0; copy < SUPER_COPIES; copy++)
		if (copy != 1)
			dev_sim_flip(r.dev, super_blkno(sb.nblocks, copy) * BLOCK_SIZE + 100, 1);
	dev_sim_flip(r.dev, table[1] + 100, 1);
	assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
	assert_int_equal(prefix_of(r.v, r.q, 50), 50);
	rig_destroy(&r);
}

/* --- staged data -------------------------------------------------------------------------------- */

struct block_file {
	uint64_t blkno;
	uint8_t want[BLOCK_SIZE];
};

static int try_write_logged(struct rig *r, struct block_file *f, unsigned at, const void *bytes, unsigned len,
			    bool fresh, uint64_t *lsn, struct miss *miss)
{
	static uint8_t base[BLOCK_SIZE] __attribute__((aligned(4096)));
	struct txn t;
	uint64_t n;
	int err = 0;

	assert_int_equal(dev_read(r->q, f->blkno * BLOCK_SIZE, base, sizeof(base)), 0);
	volume_lock(r->v);
	txn_begin(&t, r->v);
	if (fresh)
		err = txn_alloc(&t, alloc_at(0), 1, miss, &f->blkno, &n);
	if (!err) {
		txn_data(&t, f->blkno, at, bytes, len, fresh, base);
		err = txn_commit(&t, r->q, 0, miss, NULL, lsn);
	}
	txn_end(&t);
	volume_unlock(r->v);
	return err;
}

static int write_logged(struct rig *r, struct block_file *f, unsigned at, const void *bytes, unsigned len, bool fresh,
			uint64_t *lsn)
{
	struct miss miss = {0};
	int err;

	while ((err = try_write_logged(r, f, at, bytes, len, fresh, lsn, &miss)) == -EAGAIN)
		assert_int_equal(volume_provide(r->v, r->q, &miss), 0);
	if (!err)
		memcpy(f->want + at, bytes, len);
	return err;
}

static void check_block(struct rig *r, const struct block_file *f)
{
	static uint8_t have[BLOCK_SIZE] __attribute__((aligned(4096)));
	const void *staged;

	assert_int_equal(dev_read(r->q, f->blkno * BLOCK_SIZE, have, sizeof(have)), 0);
	volume_lock(r->v);
	staged = stage_get(r->v->stage, f->blkno);
	assert_memory_equal(staged ? staged : have, f->want, BLOCK_SIZE);
	volume_unlock(r->v);
}

/* Bytes in the log: readable at once, replayed after a cut at any write of the checkpoint that places them home, and home after it. */
static void test_logged_data(void **state)
{
	(void)state;
	for (uint64_t cut = 0; cut < 14; cut++) {
		struct rig r;
		struct block_file f = {0};
		uint64_t lsn;

		rig_create(&r, 4 << 20, MIN_JOURNAL, 50 + cut);
		assert_int_equal(write_logged(&r, &f, 100, "hello", 5, true, &lsn), 0);
		check_block(&r, &f);
		assert_int_equal(volume_checkpoint(r.v, r.q, 0), 0);
		assert_int_equal(stage_bytes(r.v->stage), 0);
		check_block(&r, &f);
		assert_int_equal(write_logged(&r, &f, 3000, "second", 6, false, &lsn), 0);
		assert_int_equal(write_logged(&r, &f, 103, "p, third", 8, false, &lsn), 0);
		check_block(&r, &f);
		assert_int_equal(log_sync_wait(r.v->log, r.q, lsn), 0);
		dev_sim_cut_after(r.dev, cut);
		(void)volume_checkpoint(r.v, r.q, CHECKPOINT_FORCE);
		rig_after_cut(&r, cut);
		assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
		check_block(&r, &f);
		rig_reopen(&r);
		check_block(&r, &f);
		rig_destroy(&r);
	}
}

/* What was synced is there; the rest of the block may be newer. */
static void check_synced(struct rig *r, const struct block_file *f)
{
	static uint8_t have[BLOCK_SIZE] __attribute__((aligned(4096)));
	const uint8_t *staged;

	assert_int_equal(dev_read(r->q, f->blkno * BLOCK_SIZE, have, sizeof(have)), 0);
	volume_lock(r->v);
	staged = stage_get(r->v->stage, f->blkno);
	for (unsigned i = 0; i < BLOCK_SIZE; i++)
		assert_true(!f->want[i] || (staged ? staged : have)[i] == f->want[i]);
	volume_unlock(r->v);
}

static bool root_is_clean(struct rig *r)
{
	struct disk_root *root = dev_alloc(BLOCK_SIZE, false);

	assert_int_equal(volume_read_root(r->q, &r->v->sb, NULL, false, root), 0);
	bool clean = get64(root->flags) & ROOT_CLEAN;
	free(root);
	return clean;
}

/* As write_logged(), but where the power may go meanwhile. */
static int write_if_power(struct rig *r, struct block_file *f, unsigned at, const char *text, bool fresh)
{
	struct miss miss = {0};
	uint64_t lsn;
	int err;

	while ((err = try_write_logged(r, f, at, text, (unsigned)strlen(text), fresh, &lsn, &miss)) == -EAGAIN) {
		err = volume_provide(r->v, r->q, &miss);
		if (err)
			return err;
	}
	if (!err)
		err = log_sync_wait(r->v->log, r->q, lsn);
	if (!err)
		memcpy(f->want + at, text, strlen(text));
	return err;
}

/*
 * At rest the device is as after an unmount, and nothing is written; the next change waits for a root that is not clean, for what
 * is appended behind a clean one nobody replays.  With the power cut at each write of both.
 */
static void test_rest(void **state)
{
	unsigned ncuts = 0, nwhole = 0;

	(void)state;
	for (uint64_t cut = 0; cut < 30; cut++) {
		struct block_file f = {0};
		struct rig r;

		rig_create(&r, 4 << 20, MIN_JOURNAL, 250 + cut);
		assert_int_equal(write_if_power(&r, &f, 100, "hello", true), 0);
		dev_sim_cut_after(r.dev, cut);
		if (volume_rest(r.v, r.q) == 0) {
			uint64_t writes = dev_sim_writes(r.dev);

			assert_true(root_is_clean(&r));
			assert_int_equal(volume_rest(r.v, r.q), 0);
			assert_int_equal(volume_service(r.v, r.q), 0);
			assert_int_equal(dev_sim_writes(r.dev), writes);
			nwhole += write_if_power(&r, &f, 3000, "second", false) == 0;
		} else {
			ncuts++;
		}
		rig_after_cut(&r, cut);
		assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
		check_synced(&r, &f);
		rig_destroy(&r);
	}
	assert_true(ncuts > 3 && nwhole > 3 && ncuts + nwhole < 30);
}

static int write_unsynced(struct rig *r, struct block_file *f, unsigned at, const char *text)
{
	struct miss miss;
	uint64_t lsn;
	int err;

	while ((err = try_write_logged(r, f, at, text, (unsigned)strlen(text), true, &lsn, &miss)) == -EAGAIN) {
		err = volume_provide(r->v, r->q, &miss);
		if (err)
			return err;
	}
	return err;
}

static void test_rest_ends(void **state)
{
	struct block_file f = {0};
	struct rig r;

	(void)state;
	rig_create(&r, 4 << 20, MIN_JOURNAL, 280);
	assert_int_equal(write_if_power(&r, &f, 100, "hello", true), 0);
	/* By closing, without another root; by waking, with one that is not clean. */
	assert_int_equal(volume_rest(r.v, r.q), 0);
	uint64_t generation = r.v->generation;
	rig_reopen(&r);
	assert_true(r.v->recovery.was_clean);
	assert_int_equal(r.v->generation, generation + 1);
	assert_int_equal(volume_rest(r.v, r.q), 0);
	assert_int_equal(volume_wake(r.v, r.q), 0);
	assert_false(r.v->resting || root_is_clean(&r));
	assert_int_equal(volume_wake(r.v, r.q), 0);
	rig_reopen(&r);
	assert_true(r.v->recovery.was_clean);
	check_block(&r, &f);
	/* One that has failed, or takes no changes, does not rest. */
	volume_fail(r.v, -EIO, "test");
	assert_int_equal(volume_rest(r.v, r.q), -EIO);
	assert_int_equal(volume_wake(r.v, r.q), -EIO);
	rig_destroy(&r);
}

/* Somebody who would like a checkpoint, not for a change: a scrub, a trim. */
struct asker {
	struct dev_task task;
	struct rig *r;
	struct provide provide;
	bool running; /* asks when a checkpoint is being made */
	bool asked, answered;
	int err;
};

static void asker_told(struct provide *p, int err)
{
	struct asker *a = (struct asker *)((char *)p - offsetof(struct asker, provide));

	a->answered = true;
	a->err = err;
}

static void asker_asks(struct dev_task *task)
{
	struct miss miss = {.kind = MISS_SPACE};
	struct asker *a = (struct asker *)task;

	if (!a->r->v->resting || a->r->v->checkpoint_running != a->running) {
		dev_post(a->r->q, task);
		return;
	}
	a->asked = true;
	volume_provide_start(a->r->v, a->r->q, &miss, &a->provide, asker_told);
}

/* He is content with the one that begins the rest, whenever he asks; but is told if that fails. */
static void test_rest_is_left_alone(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		struct block_file f = {0};
		struct rig r;
		struct asker a = {.task.run = asker_asks, .r = &r, .running = i % 2};

		rig_create(&r, 4 << 20, MIN_JOURNAL, 290 + i);
		/* Not synced: so there are waits before the checkpoint, too. */
		assert_int_equal(write_unsynced(&r, &f, 100, "hello"), 0);
		if (i >= 2)
			dev_sim_fail(r.dev, i == 2 ? DEV_WRITE : DEV_FLUSH, 1, SIM_FAULT_ONCE, -EIO, 0, 0);
		dev_post(r.q, &a.task);
		assert_int_equal(volume_rest(r.v, r.q), i < 2 ? 0 : -EIO);
		while (!a.answered)
			assert_true(dev_poll(r.q, 0) > 0);
		assert_int_equal(a.err, i < 2 ? 0 : -EROFS);
		if (i < 2) {
			uint64_t writes = dev_sim_writes(r.dev);

			assert_int_equal(volume_service(r.v, r.q), 0);
			/* And when it has begun there is nothing to wait for. */
			a.answered = false;
			a.running = false;
			asker_asks(&a.task);
			while (!a.answered)
				assert_true(dev_poll(r.q, 0) > 0);
			assert_int_equal(a.err, 0);
			assert_int_equal(volume_service(r.v, r.q), 0);
			assert_true(r.v->resting && root_is_clean(&r));
			assert_int_equal(dev_sim_writes(r.dev), writes);
		}
		rig_destroy(&r);
	}
}

/* What replay changes a part of is going to be written back whole: one bad reading must not become what the block holds. */
static void test_misread_base(void **state)
{
	struct block_file f = {0};
	struct rig r;
	uint64_t lsn;

	(void)state;
	rig_create(&r, 4 << 20, MIN_JOURNAL, 70);
	assert_int_equal(write_logged(&r, &f, 100, "hello", 5, true, &lsn), 0);
	assert_int_equal(volume_checkpoint(r.v, r.q, 0), 0);
	assert_int_equal(write_logged(&r, &f, 3000, "second", 6, false, &lsn), 0);
	assert_int_equal(log_sync_wait(r.v->log, r.q, lsn), 0);
	rig_after_cut(&r, 1);
	dev_sim_trouble(r.dev, SIM_MISDIRECTED, DEV_READ, 1, SIM_FAULT_ONCE, f.blkno * BLOCK_SIZE, BLOCK_SIZE);
	assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
	assert_int_equal(dev_sim_struck(r.dev, SIM_MISDIRECTED, DEV_READ), 1);
	check_block(&r, &f);
	rig_destroy(&r);
}

/* A page that changes while its frozen version is being placed home: the frozen one is what goes home. */
static void test_stage_freeze_copies(void **state)
{
	const struct stage_page *pages;
	struct stage *s;
	uint64_t n;
	char flight[2 * BLOCK_SIZE] = "flying";

	(void)state;
	assert_int_equal(stage_create(&s), 0);
	assert_int_equal(stage_prepare(s, 4), 0);
	stage_write(s, 7, 0, "one", 4, true, NULL);
	assert_int_equal(stage_freeze(s, &pages, &n), 0);
	assert_int_equal(n, 1);
	stage_write(s, 7, 0, "two", 4, false, NULL);
	assert_string_equal(pages[0].page, "one");
	assert_string_equal(stage_get(s, 7), "two");
	stage_thaw(s);
	assert_string_equal(stage_get(s, 7), "two");
	assert_int_equal(stage_bytes(s), BLOCK_SIZE);
	stage_drop(s, 0, 100);
	assert_null(stage_get(s, 7));
	assert_int_equal(stage_flight_begin(s, 20, 2, flight), 0);
	assert_string_equal(stage_get(s, 20), "flying");
	stage_write(s, 20, 6, "!", 2, false, NULL);
	assert_string_equal(stage_get(s, 20), "flying!");
	assert_string_equal(flight, "flying");
	stage_flight_end(s, 20, 2, flight);
	assert_string_equal(stage_get(s, 20), "flying!");
	assert_null(stage_get(s, 21));
	stage_destroy(s);
}

/* --- damage ------------------------------------------------------------------------------------- */

static void flip_block(struct rig *r, uint64_t blkno)
{
	dev_sim_flip(r->dev, blkno * BLOCK_SIZE + 1234, 3);
}

/* A root's copy whose write the device has lost is as valid as it was two checkpoints ago: the other copy shows that it is not the last. */
static void test_lost_root_write(void **state)
{
	uint8_t *block = dev_alloc(BLOCK_SIZE, false);

	(void)state;
	for (unsigned copy = 0; copy < 2; copy++) {
		struct rig r;
		uint64_t generation, blkno, lsn;

		rig_create(&r, 8 << 20, MIN_JOURNAL, 80 + copy);
		for (uint64_t n = 1; n <= 3; n++) {
			assert_int_equal(commit_step(r.v, r.q, n, &lsn), 0);
			generation = r.v->generation + 1;
			blkno = root_blkno(&r.v->sb, generation & 1, copy);
			if (n == 3)
				dev_sim_trouble(r.dev, SIM_LOST, DEV_WRITE, 1, SIM_FAULT_ONCE, blkno * BLOCK_SIZE, BLOCK_SIZE);
			assert_int_equal(volume_checkpoint(r.v, r.q, CHECKPOINT_FORCE), 0);
		}
		assert_int_equal(dev_sim_struck(r.dev, SIM_LOST, DEV_WRITE), 1);
		rig_after_cut(&r, 1);
		assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
		/* The mount's own checkpoint follows on the one that was made last. */
		assert_int_equal(r.v->generation, generation + 1);
		assert_int_equal(prefix_of(r.v, r.q, 3), 3);
		dev_sim_peek(r.dev, blkno * BLOCK_SIZE, block, BLOCK_SIZE);
		assert_int_equal(get64(((struct disk_root *)block)->h.generation), generation);
		rig_destroy(&r);
	}
	free(block);
}

/* A crash between the two writes of a root leaves a second copy that is valid and out of date.  That the read of the first goes astray, once, must not
 * make it the one that counts, let alone be put over the first. */
static void test_astray_root_read(void **state)
{
	struct rig r;
	uint64_t generation, lsn;

	(void)state;
	rig_create(&r, 8 << 20, MIN_JOURNAL, 90);
	for (uint64_t n = 1; n <= 3; n++) {
		assert_int_equal(commit_step(r.v, r.q, n, &lsn), 0);
		generation = r.v->generation + 1;
		if (n == 3)
			dev_sim_trouble(r.dev, SIM_LOST, DEV_WRITE, 1, SIM_FAULT_ONCE, root_blkno(&r.v->sb, generation & 1, 1) * BLOCK_SIZE,
					BLOCK_SIZE);
		assert_int_equal(volume_checkpoint(r.v, r.q, CHECKPOINT_FORCE), 0);
	}
	uint64_t first = root_blkno(&r.v->sb, generation & 1, 0) * BLOCK_SIZE;

	rig_after_cut(&r, 1);
	dev_sim_trouble(r.dev, SIM_MISDIRECTED, DEV_READ, 1, SIM_FAULT_ONCE, first, BLOCK_SIZE);
	assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
	assert_int_equal(dev_sim_struck(r.dev, SIM_MISDIRECTED, DEV_READ), 1);
	assert_int_equal(r.v->generation, generation + 1);
	assert_int_equal(prefix_of(r.v, r.q, 3), 3);
	rig_destroy(&r);
}

/* Whatever exists in copies: one may rot, the other is used, and the bad one is whole again afterwards. */
static void test_bad_copy_is_repaired(void **state)
{
	struct rig r;
	struct disk_root *root = dev_alloc(BLOCK_SIZE, true);
	struct super sb;
	uint8_t *block = dev_alloc(BLOCK_SIZE, false);
	uint64_t blkno;

	(void)state;
	rig_create(&r, 8 << 20, MIN_JOURNAL, 4);
	for (uint64_t n = 1; n <= 100; n++)
		assert_int_equal(commit_step(r.v, r.q, n, NULL), 0);
	sb = r.v->sb;
	assert_int_equal(volume_close(r.v, r.q), 0);
	assert_int_equal(volume_read_root(r.q, &sb, NULL, false, root), 0);
	blkno = get64(root->tree.blkno[0]);
	flip_block(&r, blkno);
	flip_block(&r, SUPER_BLKNO0);
	flip_block(&r, get64(root->h.blkno[0]));
	assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
	assert_int_equal(prefix_of(r.v, r.q, 100), 100);
	assert_true(r.v->stats.repairs > 0);
	dev_sim_peek(r.dev, SUPER_BLKNO0 * BLOCK_SIZE, block, BLOCK_SIZE);
	assert_int_equal(super_decode(block, SUPER_BLKNO0, sb.nblocks, NULL, &sb), 0);
	dev_sim_peek(r.dev, blkno * BLOCK_SIZE, block, BLOCK_SIZE);
	assert_int_equal(header_check(block, MAGIC_NODE, &sb, blkno, NULL), 0);
	rig_destroy(&r);
	free(root);
	free(block);
}

/*
 * A step misses a node; before that is read, the node is replaced, a checkpoint frees its blocks, and one of them gets a new owner.  The
 * other still holds the old node, and that is no reason to "repair" the first.
 */
static void test_outdated_miss_repairs_nothing(void **state)
{
	struct rig r;
	uint8_t *theirs = dev_alloc(BLOCK_SIZE, true), *now = dev_alloc(BLOCK_SIZE, true);
	struct key key = key_make(INO_ROOT, ITEM_INODE, 0);
	struct miss miss = {0};
	const void *val;
	unsigned len;

	(void)state;
	rig_create(&r, 8 << 20, MIN_JOURNAL, 6);
	rig_reopen(&r);
	volume_lock(r.v);
	assert_int_equal(tree_lookup(r.v->tree, &key, &miss, &val, &len), -EAGAIN);
	volume_unlock(r.v);
	assert_int_equal(miss.kind, MISS_NODE);
	assert_int_equal(commit_step(r.v, r.q, 1, NULL), 0);
	assert_int_equal(volume_checkpoint(r.v, r.q, CHECKPOINT_FORCE), 0);
	uint64_t off = get64(miss.ptr.blkno[0]) * BLOCK_SIZE;

	strcpy((char *)theirs, "of a new owner");
	assert_int_equal(dev_write(r.q, off, theirs, BLOCK_SIZE, DEV_DURABLE), 0);
	assert_int_equal(volume_provide(r.v, r.q, &miss), 0);
	dev_sim_peek(r.dev, off, now, BLOCK_SIZE);
	assert_memory_equal(now, theirs, BLOCK_SIZE);
	assert_int_equal(r.v->stats.repairs, 0);
	rig_destroy(&r);
	free(theirs);
	free(now);
}

static void test_both_copies_bad_is_an_error(void **state)
{
	struct rig r;
	struct disk_root *root = dev_alloc(BLOCK_SIZE, true);
	struct super sb;
	struct miss miss = {0};
	struct key key = key_make(INO_ROOT, ITEM_INODE, 0);
	const void *val;
	unsigned len;
	int err;

	(void)state;
	rig_create(&r, 8 << 20, MIN_JOURNAL, 5);
	sb = r.v->sb;
	assert_int_equal(volume_close(r.v, r.q), 0);
	assert_int_equal(volume_read_root(r.q, &sb, NULL, false, root), 0);
	flip_block(&r, get64(root->tree.blkno[0]));
	flip_block(&r, get64(root->tree.blkno[1]));
	r.cfg.flags = VOLUME_READ_ONLY;
	assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
	for (;;) {
		volume_lock(r.v);
		err = tree_lookup(r.v->tree, &key, &miss, &val, &len);
		volume_unlock(r.v);
		assert_int_equal(err, -EAGAIN);
		err = volume_provide(r.v, r.q, &miss);
		if (err)
			break;
	}
	assert_int_equal(err, -EIO);
	rig_destroy(&r);
	free(root);
}

static void test_log_failure_freezes(void **state)
{
	struct rig r;
	uint64_t lsn, size;

	(void)state;
	rig_create(&r, 8 << 20, MIN_JOURNAL, 6);
	assert_int_equal(commit_step(r.v, r.q, 1, &lsn), 0);
	assert_int_equal(log_sync_wait(r.v->log, r.q, lsn), 0);
	assert_int_equal(commit_step(r.v, r.q, 2, &lsn), 0);
	dev_sim_fail(r.dev, DEV_WRITE, 1, SIM_FAULT_ONCE, -EIO, 0, 0);
	assert_int_equal(log_sync_wait(r.v->log, r.q, lsn), -EIO);
	/* The device works again, and yet nothing is acknowledged any more. */
	assert_int_equal(log_sync_wait(r.v->log, r.q, lsn), -EIO);
	assert_int_equal(commit_step(r.v, r.q, 3, &lsn), -EROFS);
	assert_int_equal(volume_checkpoint(r.v, r.q, CHECKPOINT_FORCE), -EIO);
	assert_true(strlen(r.v->failed_why) > 0);
	assert_int_equal(item_get(r.v, r.q, INO_FIRST + 2, &size), 0);
	rig_after_cut(&r, 1);
	assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
	assert_true(prefix_of(r.v, r.q, 2) >= 1);
	rig_destroy(&r);
}

/* A group that nobody waits for is on its way when the volume fails: closing waits for it, and only for it. */
static void test_failed_volume_closes_with_a_group_in_flight(void **state)
{
	struct rig r;
	struct dev_stats before, after;
	uint64_t n = 0;

	(void)state;
	rig_create(&r, 16 << 20, 1024, 7);
	dev_get_stats(r.dev, &before);
	do {
		assert_int_equal(commit_step(r.v, r.q, ++n, NULL), 0);
		dev_get_stats(r.dev, &after);
	} while (after.durable_writes == before.durable_writes && n < 20000);
	assert_true(after.in_flight > 0);
	volume_fail(r.v, -EIO, "the test wants it");
	assert_int_equal(volume_close(r.v, r.q), -EIO);
	dev_get_stats(r.dev, &after);
	assert_int_equal(after.in_flight, 0);
	assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
	assert_true(prefix_of(r.v, r.q, n) > 0);
	rig_destroy(&r);
}

/* --- shutdown --- */

/* Shuts the volume down in the `left`-th poll of its queue from now on. */
struct shutter {
	struct dev_task task;
	struct rig *r;
	uint64_t left;
};

static void shutter_run(struct dev_task *task)
{
	struct shutter *s = (struct shutter *)task;

	if (s->left && --s->left) {
		dev_post(s->r->q, task);
		return;
	}
	if (s->left == 0)
		volume_shutdown(s->r->v, "a test");
}

/* Commits, now and then syncs, and makes two checkpoints, until something says no.  Returns the transactions that were committed. */
static uint64_t work_until_shut(struct rig *r, uint64_t *synced)
{
	uint64_t lsn, n;

	*synced = 0;
	for (n = 0; n < 62; n++) {
		if (commit_step(r->v, r->q, n + 1, &lsn))
			return n;
		if (n % 3 == 2 && log_sync_wait(r->v->log, r->q, lsn) == 0)
			*synced = n + 1;
		if (n % 25 == 24 && volume_checkpoint(r->v, r->q, CHECKPOINT_FORCE) == 0)
			*synced = n + 1;
	}
	return n;
}

static void refuses_everything(struct rig *r, uint64_t n)
{
	uint64_t lsn, writes = dev_sim_writes(r->dev);

	assert_true(volume_is_shut(r->v));
	assert_string_equal(r->v->failed_why, "a test");
	assert_int_equal(commit_step(r->v, r->q, n + 1, &lsn), -EROFS);
	if (log_append_lsn(r->v->log) > log_durable_lsn(r->v->log))
		assert_int_equal(log_sync_wait(r->v->log, r->q, log_append_lsn(r->v->log)), -EIO);
	assert_int_equal(volume_checkpoint(r->v, r->q, CHECKPOINT_FORCE), -EIO);
	volume_shutdown(r->v, "again");
	assert_int_equal(volume_close(r->v, r->q), 0);
	r->v = NULL;
	assert_int_equal(dev_sim_writes(r->dev), writes);
}

/* At every moment of a life: nothing reaches the device afterwards, closing is no error, and what was synced is there. */
static void test_shutdown_everywhere(void **state)
{
	bool shut = true, lost = false;

	(void)state;
	for (uint64_t at = 1; shut; at++) {
		struct rig r;
		struct shutter s = {.task.run = shutter_run, .r = &r, .left = at};
		uint64_t n, synced, got;

		rig_create(&r, 8 << 20, MIN_JOURNAL, at);
		dev_post(r.q, &s.task);
		n = work_until_shut(&r, &synced);
		shut = s.left == 0;
		s.left = 0;
		if (!shut)
			volume_shutdown(r.v, "a test");
		dev_settle(r.q);
		refuses_everything(&r, n);
		dev_queue_destroy(r.q);
		if (at % 2)
			dev_sim_cut(r.dev);
		/* The next mount opens the device anew. */
		atomic_store(&r.dev->shut, false);
		if (at % 2)
			dev_sim_reboot(r.dev, at);
		r.q = rig_queue(r.dev);
		assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
		got = prefix_of(r.v, r.q, n);
		assert_true(got >= synced);
		lost |= got < n;
		rig_destroy(&r);
	}
	/* It is no sync. */
	assert_true(lost);
}

/* Replaying twice gives what replaying once gives: opened read-only (in memory) first, then for good. */
static void test_replay_is_repeatable(void **state)
{
	struct rig r;
	uint64_t lsn = 0;
	uint32_t digest;

	(void)state;
	rig_create(&r, 8 << 20, MIN_JOURNAL, 8);
	for (uint64_t n = 1; n <= 60; n++)
		assert_int_equal(commit_step(r.v, r.q, n, &lsn), 0);
	assert_int_equal(log_sync_wait(r.v->log, r.q, lsn), 0);
	rig_after_cut(&r, 3);
	r.cfg.flags = VOLUME_READ_ONLY;
	digest = dev_sim_writes(r.dev);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
		assert_int_equal(prefix_of(r.v, r.q, 60), 60);
		assert_int_equal(r.v->recovery.frames, 60);
		assert_int_equal(commit_step(r.v, r.q, 61, NULL), -EROFS);
		assert_int_equal(volume_close(r.v, r.q), 0);
	}
	assert_int_equal(dev_sim_writes(r.dev), digest);
	r.cfg.flags = VOLUME_READ_ONLY | VOLUME_NO_RECOVERY;
	assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
	assert_int_equal(prefix_of(r.v, r.q, 60), 0);
	assert_int_equal(volume_close(r.v, r.q), 0);
	r.cfg.flags = 0;
	assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), 0);
	assert_int_equal(prefix_of(r.v, r.q, 60), 60);
	rig_destroy(&r);
}

/* A damaged frame with acknowledged ones behind it: refused, not truncated, and nothing is written. */
static void test_damage_below_durable_is_refused(void **state)
{
	struct rig r;
	uint64_t lsn = 0, first = 0, writes;

	(void)state;
	rig_create(&r, 8 << 20, MIN_JOURNAL, 9);
	for (uint64_t n = 1; n <= 20; n++) {
		assert_int_equal(commit_step(r.v, r.q, n, &lsn), 0);
		assert_int_equal(log_sync_wait(r.v->log, r.q, lsn), 0);
		if (n == 10)
			first = lsn;
	}
	rig_after_cut(&r, 3);
	dev_sim_flip(r.dev, JOURNAL_BLKNO * BLOCK_SIZE + (first - 20) % (MIN_JOURNAL * BLOCK_SIZE), 1);
	writes = dev_sim_writes(r.dev);
	assert_int_equal(volume_open(r.q, &r.cfg, &r.diag, &r.v), -EBADMSG);
	r.v = NULL;
	assert_int_equal(dev_sim_writes(r.dev), writes);
	rig_destroy(&r);
}

/* A volume filled with transactions that allocate: ENOSPC, nothing lost, and freeing makes room again, after a checkpoint. */
static void test_full_and_free(void **state)
{
	struct rig r;
	struct txn_run run[2048];
	struct alloc_space before, after;
	unsigned nruns = 0;

	(void)state;
	rig_create(&r, 8 << 20, MIN_JOURNAL, 10);
	volume_lock(r.v);
	alloc_get_space(r.v->alloc, &before);
	volume_unlock(r.v);
	for (;;) {
		struct miss miss = {0};
		struct txn t;
		int err;

		volume_lock(r.v);
		txn_begin(&t, r.v);
		err = txn_alloc(&t, alloc_at(0), 16, &miss, &run[nruns].blkno, &run[nruns].n);
		if (!err)
			err = txn_commit(&t, r.q, 0, &miss, NULL, NULL);
		txn_end(&t);
		volume_unlock(r.v);
		if (err == -EAGAIN)
			err = volume_provide(r.v, r.q, &miss) ?: -EAGAIN;
		if (!err)
			nruns++;
		else if (err != -EAGAIN) {
			assert_int_equal(err, -ENOSPC);
			break;
		}
		assert_true(nruns < 2048);
	}
	assert_true(nruns > 50);
	for (unsigned i = 0; i < nruns; i++) {
		struct miss miss = {0};
		struct txn t;
		int err;

		volume_lock(r.v);
		txn_begin(&t, r.v);
		txn_free(&t, run[i].blkno, run[i].n);
		err = txn_commit(&t, r.q, TXN_URGENT, &miss, NULL, NULL);
		txn_end(&t);
		volume_unlock(r.v);
		if (err == -EAGAIN) {
			assert_int_equal(volume_provide(r.v, r.q, &miss), 0);
			i--;
			continue;
		}
		assert_int_equal(err, 0);
	}
	rig_reopen(&r);
	volume_lock(r.v);
	alloc_get_space(r.v->alloc, &after);
	alloc_assert(r.v->alloc);
	volume_unlock(r.v);
	assert_int_equal(after.nfree, before.nfree);
	rig_destroy(&r);
}

/* One transaction: takes `*n` blocks if *blkno is 0 (fewer, if there is no such run), else frees them. */
static void take_or_free(struct rig *r, uint64_t *blkno, uint64_t *n)
{
	uint64_t want = *n;
	struct miss miss;
	struct txn t;
	int err;

	do {
		bool taken = false;

		volume_lock(r->v);
		txn_begin(&t, r->v);
		if (*blkno)
			txn_free(&t, *blkno, *n);
		err = *blkno ? 0 : txn_alloc(&t, alloc_at(0), want, &miss, blkno, n);
		taken = t.nruns > 0;
		if (!err)
			err = txn_commit(&t, r->q, 0, &miss, NULL, NULL);
		txn_end(&t);
		volume_unlock(r->v);
		if (err == -EAGAIN && taken)
			*blkno = 0;
	} while (err == -EAGAIN && !volume_provide(r->v, r->q, &miss));
	assert_int_equal(err, 0);
}

/* What is freed is made usable while there is still more free than that, and once. */
static void test_freed_blocks_are_due(void **state)
{
	uint64_t blkno = 0, end, n, piece = 8, freed = 0;
	struct alloc_space s;
	struct rig r;

	(void)state;
	rig_create(&r, 8 << 20, MIN_JOURNAL, 11);
	volume_lock(r.v);
	alloc_get_space(r.v->alloc, &s);
	volume_unlock(r.v);
	n = s.nfree / 2;
	take_or_free(&r, &blkno, &n);
	assert_int_equal(volume_checkpoint(r.v, r.q, CHECKPOINT_FORCE), 0);
	for (end = blkno + n; !is_due(r.v) && blkno + piece <= end; blkno += piece, freed += piece)
		take_or_free(&r, &blkno, &piece);
	assert_in_range(freed, s.nfree / 10, s.nfree / 5);
	assert_int_equal(volume_checkpoint(r.v, r.q, 0), 0);
	assert_false(is_due(r.v));
	volume_lock(r.v);
	alloc_get_space(r.v->alloc, &s);
	volume_unlock(r.v);
	assert_int_equal(s.npending, 0);
	rig_destroy(&r);
}

/* As much is taken as leaves about `left` blocks for use. */
static void take_all_but(struct rig *r, uint64_t left)
{
	struct alloc_space s;

	for (;;) {
		uint64_t blkno = 0, n;

		volume_lock(r->v);
		alloc_get_space(r->v->alloc, &s);
		volume_unlock(r->v);
		if (s.nfree <= s.reserved + s.emergency + left)
			return;
		n = s.nfree - s.reserved - s.emergency - left;
		take_or_free(r, &blkno, &n);
	}
}

static void put_item(struct rig *r, uint64_t ino, uint64_t size)
{
	struct disk_inode di = {.size = put64(size), .mode = put32(S_IFREG | 0644), .nlink = put32(1)};
	struct key key = key_make(ino, ITEM_INODE, 0);
	struct miss miss;
	struct txn t;
	int err;

	do {
		volume_lock(r->v);
		txn_begin(&t, r->v);
		txn_put(&t, &key, &di, sizeof(di));
		err = txn_commit(&t, r->q, 0, &miss, NULL, NULL);
		txn_end(&t);
		volume_unlock(r->v);
	} while (err == -EAGAIN && !volume_provide(r->v, r->q, &miss));
	assert_int_equal(err, 0);
}

/* A checkpoint takes as many blocks for nodes as it gives back. */
static void test_changed_nodes_are_not_due(void **state)
{
	enum { MANY = 2000, STEP = 10 };
	struct alloc_space s;
	struct rig r;

	(void)state;
	rig_create(&r, 8 << 20, MIN_JOURNAL, 12);
	for (uint64_t i = 0; i < MANY; i++)
		put_item(&r, INO_FIRST + i, 0);
	take_all_but(&r, 400);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(volume_checkpoint(r.v, r.q, CHECKPOINT_FORCE), 0);
	for (uint64_t i = 0; i < MANY; i += STEP) {
		put_item(&r, INO_FIRST + i, 1);
		assert_false(is_due(r.v));
	}
	volume_lock(r.v);
	alloc_get_space(r.v->alloc, &s);
	volume_unlock(r.v);
	assert_true(s.npending > s.nblocks / 64 && s.npending > s.nfree / 4);
	rig_destroy(&r);
}

static void ignore_run(void *arg, uint64_t blkno, uint64_t n)
{
	(void)arg;
	(void)blkno;
	(void)n;
}

/* What is being discarded is not there sooner for a checkpoint: one would follow the other until the device is done. */
static void test_trimmed_blocks_are_not_due(void **state)
{
	struct alloc_space s;
	struct miss miss;
	uint64_t next, n;
	struct rig r;
	int err;

	(void)state;
	rig_create(&r, 8 << 20, MIN_JOURNAL, 13);
	next = super_data_begin(&r.v->sb);
	do {
		volume_lock(r.v);
		err = alloc_trim_begin(r.v->alloc, &next, super_data_end(&r.v->sb), 1, GROUP_BLOCKS, &miss, ignore_run, NULL, &n);
		volume_unlock(r.v);
	} while (err == -EAGAIN && !volume_provide(r.v, r.q, &miss));
	assert_int_equal(err, 0);
	take_all_but(&r, 2 * n);
	assert_int_equal(volume_checkpoint(r.v, r.q, CHECKPOINT_FORCE), 0);
	assert_false(is_due(r.v));
	volume_lock(r.v);
	alloc_get_space(r.v->alloc, &s);
	alloc_trim_end(r.v->alloc);
	volume_unlock(r.v);
	assert_true(s.npending == n && n > s.nblocks / 64);
	rig_destroy(&r);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_format_open_close),
		cmocka_unit_test(test_transactions_survive_close),
		cmocka_unit_test(test_laps_of_the_journal),
		cmocka_unit_test(test_due_checkpoints_end),
		cmocka_unit_test(test_power_cut_everywhere),
		cmocka_unit_test(test_begin_writing_everywhere),
		cmocka_unit_test(test_look_again),
		cmocka_unit_test(test_begin_writing_refused),
		cmocka_unit_test(test_begin_writing_repairs),
		cmocka_unit_test(test_logged_data),
		cmocka_unit_test(test_rest),
		cmocka_unit_test(test_rest_ends),
		cmocka_unit_test(test_rest_is_left_alone),
		cmocka_unit_test(test_stage_freeze_copies),
		cmocka_unit_test(test_bad_copy_is_repaired),
		cmocka_unit_test(test_outdated_miss_repairs_nothing),
		cmocka_unit_test(test_both_copies_bad_is_an_error),
		cmocka_unit_test(test_log_failure_freezes),
		cmocka_unit_test(test_failed_volume_closes_with_a_group_in_flight),
		cmocka_unit_test(test_shutdown_everywhere),
		cmocka_unit_test(test_replay_is_repeatable),
		cmocka_unit_test(test_damage_below_durable_is_refused),
		cmocka_unit_test(test_misread_base),
		cmocka_unit_test(test_lost_root_write),
		cmocka_unit_test(test_astray_root_read),
		cmocka_unit_test(test_full_and_free),
		cmocka_unit_test(test_freed_blocks_are_due),
		cmocka_unit_test(test_changed_nodes_are_not_due),
		cmocka_unit_test(test_trimmed_blocks_are_not_due),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
