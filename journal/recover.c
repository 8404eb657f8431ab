/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recover.c - from a device to an open volume: superblock, root, tables; replay.c does the rest.
 *
 * Replay is in memory, by the code that committed the transactions.  A read-write open then makes a checkpoint of the result, whose root
 * starts the log one whole lap further on: every remain of a torn write on the device has an LSN below that, and since a
 * frame's CRC covers its LSN none can ever be taken for a new frame.  A crash before that root is durable replays again.
 *
 * Nothing is written, bad copies are not repaired either, before everything that can refuse the volume has been looked at.
 */
#include "journal/volume_impl.h"

#include <stdlib.h>
#include <string.h>

#define DEFAULT_CACHE (64u << 20)

/* --- superblock --------------------------------------------------------------------------------- */

/* Of several reasons why there is no superblock, the one that helps most. */
static int super_worse(int a, int b)
{
	static const int order[] = {-ENOTSUP, -ENOSPC, -EUCLEAN, -EIO, -ENOENT};

	for (unsigned i = 0; i < sizeof(order) / sizeof(order[0]); i++)
		if (a == order[i] || b == order[i])
			return order[i];
	return a ? a : b;
}

static void super_repair(struct dev_queue *q, const struct super *sb, unsigned bad, void *block)
{
	for (unsigned copy = 0; copy < SUPER_COPIES; copy++) {
		if (!(bad & 1u << copy))
			continue;
		super_encode(sb, copy, block);
		if (!dev_write(q, super_blkno(sb->nblocks, copy) * BLOCK_SIZE, block, BLOCK_SIZE, DEV_DURABLE))
			diag(q->dev->diag, DIAG_WARNING, "%s: superblock copy %u repaired", q->dev->path, copy);
	}
}

/* Does it say the same, save for what an open volume may change? */
static bool super_is_version(const struct super *one, const struct super *sb)
{
	struct super same = *one;

	same.incompat = sb->incompat;
	memcpy(same.label, sb->label, sizeof(same.label));
	return memcmp(&same, sb, sizeof(same)) == 0;
}

/* Tries all copies; *bad: those that do not agree with the first good one.  A feature counts if any copy has it: it is never taken back, and
 * the first copy may be one that a device has not written. */
static int super_find(struct dev_queue *q, const struct diag *d, struct super *sb, unsigned *bad, void *block)
{
	uint64_t nblocks = q->dev->size >> BLOCK_SHIFT;
	int worst = 0;
	bool found = false;

	*bad = 0;
	if (nblocks < MIN_BLOCKS)
		return -ENOENT;
	for (unsigned copy = 0; copy < SUPER_COPIES; copy++) {
		uint64_t blkno = super_blkno(found ? sb->nblocks : nblocks, copy);
		struct super one;
		int err = dev_read(q, blkno * BLOCK_SIZE, block, BLOCK_SIZE);

		if (err == -ENOMEM)
			return err;
		if (!err)
			err = super_decode(block, blkno, nblocks, NULL, &one);
		if (!err && !found) {
			*sb = one;
			found = true;
		} else if (err || memcmp(&one, sb, sizeof(one)) != 0) {
			*bad |= 1u << copy;
			worst = super_worse(worst, err);
			if (!err && super_is_version(&one, sb) && one.incompat & ~sb->incompat) {
				sb->incompat |= one.incompat;
				*bad = (2u << copy) - 1;
			}
		}
	}
	if (found)
		return 0;
	if (worst == -EUCLEAN)
		corrupt(d, "%s: no superblock copy is intact", q->dev->path);
	return worst;
}

int volume_read_super(struct dev_queue *q, const struct diag *d, struct super *sb)
{
	void *block = dev_alloc(BLOCK_SIZE, false);
	unsigned bad;
	int err;

	if (!block)
		return -ENOMEM;
	err = super_find(q, d, sb, &bad, block);
	free(block);
	return err;
}

/* --- root --------------------------------------------------------------------------------------- */

/* Read again before it is taken for bad: if a read went astray, the slot's other copy may be valid and out of date, and would be put over this one. */
static int root_read_copy(struct dev_queue *q, const struct super *sb, unsigned slot, unsigned copy, void *block)
{
	int err = 0;

	for (unsigned try = 0; try < 2; try++) {
		err = dev_read(q, root_blkno(sb, slot, copy) * BLOCK_SIZE, block, BLOCK_SIZE);
		if (!err)
			err = root_check(block, sb, slot, NULL);
		if (!err)
			break;
	}
	return err;
}

static uint64_t root_generation(const void *block)
{
	return get64(((const struct disk_root *)block)->h.generation);
}

/* A copy that cannot be rewritten is no reason not to use the good one. */
static void root_repair(struct dev_queue *q, const struct super *sb, unsigned slot, unsigned copy, const void *good,
			bool expected)
{
	uint64_t blkno = root_blkno(sb, slot, copy);

	if (!dev_write(q, blkno * BLOCK_SIZE, good, BLOCK_SIZE, DEV_DURABLE) && !expected)
		diag(q->dev->diag, DIAG_WARNING, "%s: root at block %llu repaired from its other copy", q->dev->path,
		     (unsigned long long)blkno);
}

/*
 * The newer of the slot's two copies.  Both are looked at: nothing else says of which checkpoint they must be, so a first copy whose write
 * was lost is valid, and out of date.  A second one that is behind the first is what a crash leaves between the two writes.
 * *bad is set if they differ and stay so.
 */
static int root_read_slot(struct dev_queue *q, const struct super *sb, unsigned slot, bool repair, void *block,
			  bool *bad)
{
	auto_free void *other = dev_alloc(BLOCK_SIZE, false);
	int err[2];

	if (!other)
		return -ENOMEM;
	err[0] = root_read_copy(q, sb, slot, 0, block);
	err[1] = root_read_copy(q, sb, slot, 1, other);
	/* That says nothing about the copy. */
	if (err[0] == -ENOMEM || err[1] == -ENOMEM)
		return -ENOMEM;
	if (err[0] && err[1])
		return err[0];
	unsigned best = err[0] || (!err[1] && root_generation(other) > root_generation(block));
	bool same = !err[0] && !err[1] && root_generation(other) == root_generation(block);

	if (best)
		memcpy(block, other, BLOCK_SIZE);
	if (repair && !same)
		root_repair(q, sb, slot, !best, block, !err[!best] && !best);
	else if (!same)
		*bad = true;
	return 0;
}

int root_find(struct dev_queue *q, const struct super *sb, const struct diag *d, bool repair, struct root_found *out)
{
	void *block[2] = {dev_alloc(BLOCK_SIZE, false), dev_alloc(BLOCK_SIZE, false)};
	int err[2] = {-ENOMEM, -ENOMEM};
	bool bad = false;
	unsigned newest;

	for (unsigned slot = 0; slot < 2 && block[0] && block[1]; slot++)
		err[slot] = root_read_slot(q, sb, slot, repair, block[slot], &bad);
	/* The slot that could not be looked at may be the newer one. */
	if (err[0] == -ENOMEM || err[1] == -ENOMEM) {
		free(block[0]);
		free(block[1]);
		return -ENOMEM;
	}
	out->both = !err[0] && !err[1];
	out->bad_copy = bad;
	if (out->both)
		newest = root_generation(block[1]) > root_generation(block[0]);
	else
		newest = err[0] ? 1 : 0;
	free(block[!newest]);
	if (err[newest]) {
		free(block[newest]);
		return err[0] == -EUCLEAN ? corrupt(d, "%s: neither root is intact", q->dev->path) : err[0];
	}
	out->block = block[newest];
	return 0;
}

int volume_read_root(struct dev_queue *q, const struct super *sb, const struct diag *d, bool repair, void *block)
{
	struct root_found found;
	int err = root_find(q, sb, d, repair, &found);

	if (err)
		return err;
	memcpy(block, found.block, BLOCK_SIZE);
	free(found.block);
	return 0;
}

/* --- tables ------------------------------------------------------------------------------------- */

struct table_read {
	struct meta_read read;
	const struct super *sb;
	const struct diag *diag;
	uint32_t index, csum;
	unsigned slot;
};

static int table_verify(struct meta_read *r, uint64_t blkno)
{
	struct table_read *t = (struct table_read *)r;

	(void)blkno;
	return table_check(r->block, t->sb, t->index, t->slot, t->csum, t->diag);
}

static int tables_read(struct volume *v, struct dev_queue *q, const struct disk_root *root, bool no_repair, uint8_t *tables)
{
	for (uint32_t t = 0; t < v->sb.ntables; t++) {
		struct table_read tr = {
			.read = {.block = tables + (size_t)t * BLOCK_SIZE, .verify = table_verify, .what = "allocation table",
				 .no_repair = no_repair},
			.sb = &v->sb,
			.diag = v->diag,
			.index = t,
			.csum = get32(root->table_csum[t]),
			.slot = root->table_slot[t / 8] >> (t % 8) & 1,
		};
		int err;

		for (unsigned copy = 0; copy < 2; copy++)
			tr.read.blkno[copy] = table_blkno(&v->sb, t, tr.slot, copy);
		err = meta_read_wait(&tr.read, q);
		if (err)
			return err;
		v->bad_copies |= tr.read.bad_copy;
	}
	return 0;
}

/* --- open and close ----------------------------------------------------------------------------- */

int volume_new(struct dev *dev, const struct super *sb, const struct volume_config *cfg, const struct diag *d,
	       struct volume **out)
{
	struct volume *v = calloc(1, sizeof(*v));

	if (!v)
		return -ENOMEM;
	v->dev = dev;
	v->diag = d;
	v->sb = *sb;
	v->flags = cfg->flags;
	v->discard = cfg->flags & VOLUME_DISCARD;
	v->replay_stop = cfg->replay_stop;
	v->want_checkpoint_fn = cfg->want_checkpoint;
	v->want_checkpoint_arg = cfg->arg;
	v->clock = cfg->clock;
	v->clock_arg = cfg->clock_arg;
	v->dirty_limit = (cfg->cache_bytes ? cfg->cache_bytes : DEFAULT_CACHE) / 2;
	if (v->dirty_limit > VOLUME_MAX_DIRTY)
		v->dirty_limit = VOLUME_MAX_DIRTY;
	lock_init(&v->lock);
	STAILQ_INIT(&v->waiters);
	v->root_block = dev_alloc(BLOCK_SIZE, true);
	if (!v->root_block || stage_create(&v->stage)) {
		volume_free(v);
		return -ENOMEM;
	}
	*out = v;
	return 0;
}

void volume_free(struct volume *v)
{
	if (v->log)
		log_destroy(v->log);
	if (v->tree)
		tree_destroy(v->tree);
	if (v->alloc)
		alloc_destroy(v->alloc);
	stage_destroy(v->stage);
	free(v->root_block);
	lock_fini(&v->lock);
	free(v);
}

static int volume_load(struct volume *v, struct dev_queue *q, const struct disk_root *root, uint64_t cache_bytes)
{
	uint8_t *tables = dev_alloc((uint64_t)v->sb.ntables * BLOCK_SIZE, false);
	uint64_t cache = (cache_bytes ? cache_bytes : DEFAULT_CACHE) / BLOCK_SIZE;
	int err;

	if (!tables)
		return -ENOMEM;
	err = tables_read(v, q, root, volume_no_repair(v), tables);
	volume_lock(v);
	if (!err)
		err = alloc_create(&v->sb, tables, root->table_slot, get64(root->nfree), v->diag, &v->alloc);
	if (!err)
		err = tree_create(&v->sb, v->alloc, &root->tree, root->tree_level, cache, v->diag, &v->tree);
	v->generation = get64(root->h.generation);
	v->root_csum = get32(root->h.csum);
	v->next_ino = get64(root->next_ino);
	v->ninodes = get64(root->ninodes);
	v->mount_count = get64(root->mount_count);
	v->error_count = get64(root->error_count);
	v->last_error_sec = get64(root->last_error_sec);
	volume_unlock(v);
	free(tables);
	return err;
}

/* What was read from a second copy while nothing was to be written.  Nodes among them wait until they are read again. */
static void repair_copies(struct volume *v, struct dev_queue *q, const struct disk_root *root, unsigned bad_supers)
{
	auto_free uint8_t *blocks = dev_alloc(((uint64_t)v->sb.ntables + 1) * BLOCK_SIZE, false);
	struct root_found again;

	/* A copy that stays bad for want of memory, or because it cannot be written, is found again by the next who reads it. */
	if (!blocks)
		return;
	if (bad_supers)
		super_repair(q, &v->sb, bad_supers, blocks);
	if (!v->bad_copies)
		return;
	if (!root_find(q, &v->sb, v->diag, true, &again))
		free(again.block);
	(void)tables_read(v, q, root, false, blocks);
}

/*
 * The replayed state becomes a root, and the log starts behind everything that a crash may have left on the device.  Its LSN follows from
 * what was read, so the log is made first: it may refuse.
 */
static int volume_go_on(struct volume *v, struct dev_queue *q, const struct disk_root *root, unsigned bad_supers)
{
	uint64_t lsn = v->recovery.was_clean ? v->log_end : log_restart_lsn(&v->sb, &v->recovery.tail);
	struct log *log;
	int err = log_create(v->dev, &v->sb, lsn, v->diag, volume_log_failed, v, &log);

	if (err)
		return err;
	err = recover_rewrite(v, q, get64(root->replay_lsn), get64(root->applied_lsn));
	if (err) {
		log_destroy(log);
		return err;
	}
	v->opening = false;
	repair_copies(v, q, root, bad_supers);
	volume_lock(v);
	v->mount_count++;
	volume_unlock(v);
	err = checkpoint_run(v, q, 0, lsn);
	if (err) {
		log_destroy(log);
		return err;
	}
	volume_lock(v);
	v->applied_lsn = v->checkpoint_lsn = lsn;
	v->log = log;
	v->flags &= ~VOLUME_READ_ONLY;
	volume_unlock(v);
	return 0;
}

static int features_check(struct dev *dev, const struct super *sb, unsigned flags, const struct diag *d)
{
	uint32_t incompat = sb->incompat & ~FEATURE_INCOMPAT_KNOWN;
	uint32_t ro = sb->ro_compat & ~FEATURE_RO_COMPAT_KNOWN;

	if (incompat) {
		diag(d, DIAG_ERR, "%s: unknown incompatible features 0x%x", dev->path, incompat);
		return -ENOTSUP;
	}
	if (ro && !(flags & VOLUME_READ_ONLY)) {
		diag(d, DIAG_ERR, "%s: unknown read-only compatible features 0x%x", dev->path, ro);
		return -EROFS;
	}
	return 0;
}

static int volume_open_root(struct volume *v, struct dev_queue *q, unsigned bad_supers, uint64_t cache_bytes)
{
	void (*want)(void *arg) = v->want_checkpoint_fn;
	struct root_found found;
	int err = root_find(q, &v->sb, v->diag, false, &found);

	if (err)
		return err;
	v->opening = true;
	v->bad_copies = found.bad_copy;
	err = volume_load(v, q, found.block, cache_bytes);
	if (!err && !(v->flags & VOLUME_NO_RECOVERY)) {
		/* Provide no checkpoints to a replay: inline ones would be made of half of it. */
		err = recover_replay(v, q, found.block, found.both, &v->log_end);
	}
	/* Who makes checkpoints does not know the volume yet. */
	v->want_checkpoint_fn = NULL;
	if (!err && !(v->flags & VOLUME_READ_ONLY))
		err = volume_go_on(v, q, found.block, bad_supers);
	v->want_checkpoint_fn = want;
	v->opening = false;
	free(found.block);
	return err;
}

/* *rec: of the attempt before, if there was one.  -ERESTART: once more. */
static int volume_open_super(struct dev_queue *q, const struct super *sb, unsigned bad, const struct volume_config *cfg,
			     const struct diag *d, struct volume_recovery *rec, struct volume **out)
{
	struct volume *v;
	int err = volume_new(q->dev, sb, cfg, d, &v);

	if (err)
		return err;
	v->recovery.unwritten_lsn = rec->unwritten_lsn;
	v->recovery.unreadable_data = rec->unreadable_data;
	err = volume_open_root(v, q, bad, cfg->cache_bytes);
	*rec = v->recovery;
	if (err)
		volume_free(v);
	else
		*out = v;
	return err;
}

int volume_open(struct dev_queue *q, const struct volume_config *cfg, const struct diag *d, struct volume **out)
{
	bool writing = !(cfg->flags & VOLUME_READ_ONLY);
	struct volume_recovery rec = {0};
	struct super sb;
	void *block;
	unsigned bad;
	int err;

	if (writing && (q->dev->read_only || (cfg->flags & VOLUME_NO_RECOVERY)))
		return -EROFS;
	block = dev_alloc(BLOCK_SIZE, false);
	if (!block)
		return -ENOMEM;
	err = super_find(q, d, &sb, &bad, block);
	if (!err)
		err = features_check(q->dev, &sb, cfg->flags, d);
	free(block);
	if (err)
		return err;
	err = -ERESTART;
	for (unsigned i = 0; err == -ERESTART && i < UNPROVEN_GROUPS + 1; i++)
		err = volume_open_super(q, &sb, bad, cfg, d, &rec, out);
	if (err == -ERESTART)
		err = corrupt(d, "%s: journal: more groups without their data than any writer leaves", q->dev->path);
	if (cfg->recovery)
		*cfg->recovery = rec;
	return err;
}

/* The superblock and the root as they are on the device, if they are those that the volume was opened with. */
static int find_again(struct volume *v, struct dev_queue *q, unsigned *bad_supers, struct root_found *found)
{
	auto_free void *block = dev_alloc(BLOCK_SIZE, false);
	struct super sb;
	int err = block ? super_find(q, v->diag, &sb, bad_supers, block) : -ENOMEM;

	if (err)
		return err;
	if (memcmp(&sb, &v->sb, sizeof(sb)) != 0)
		return -ESTALE;
	err = root_find(q, &sb, v->diag, false, found);
	if (err)
		return err;
	const struct disk_root *root = found->block;

	/* Two of one generation there are if a repair was undone in between. */
	if (get64(root->h.generation) == v->generation && get32(root->h.csum) == v->root_csum)
		return 0;
	free(found->block);
	return -ESTALE;
}

int volume_look_again(struct volume *v, struct dev_queue *q)
{
	struct root_found found;
	unsigned bad;
	int err = find_again(v, q, &bad, &found);

	if (!err)
		free(found.block);
	return err;
}

int volume_begin_writing(struct volume *v, struct dev_queue *q)
{
	struct root_found found;
	unsigned bad;
	int err;

	LOCK_ASSERT_NOT_HELD(&v->lock);
	err = volume_writable(v);
	if (err != -EROFS)
		return err;
	if (atomic_load(&v->failed))
		return -EIO;
	if (v->dev->read_only || v->flags & VOLUME_NO_RECOVERY)
		return -EROFS;
	err = features_check(v->dev, &v->sb, 0, v->diag);
	if (!err)
		err = find_again(v, q, &bad, &found);
	if (err)
		return err;
	v->bad_copies |= found.bad_copy;
	err = volume_go_on(v, q, found.block, bad);
	free(found.block);
	return err;
}

int volume_close(struct volume *v, struct dev_queue *q)
{
	int err = 0;

	if (v->log) {
		err = volume_writable(v);
		/* One that rests has a clean root. */
		if (!err && !v->resting)
			err = volume_checkpoint(v, q, CHECKPOINT_CLEAN);
		/* As was asked for. */
		if (volume_is_shut(v))
			err = 0;
		/* If it failed, before or just now, a group that nobody waited for may still be on its way. */
		log_drain(v->log, q);
	}
	volume_free(v);
	return err;
}
