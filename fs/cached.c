/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cached.c - the room that is kept for writes which were acknowledged before they arrive: those of a kernel that caches them.
 *
 * Always:
 *   1. Only cached writes, and changes of attributes that belong to them, use the last `reserve` blocks; everything else that takes room
 *      ends in -ENOSPC before (ALLOC_NORMAL), and so does fs_admit().
 *   2. So what was acknowledged while there was more than that finds its place: `reserve` covers all that can be on its way.
 *   3. `low` becomes true while there is still room for as much again, plus what may be written until all who can
 *      write have been told.
 *
 *   4. Until those have been told, cached writes leave some more than the reserve: else it could be used up by what is acknowledged
 *      without asking, before the one who tells them has come to run.
 *
 * What happens at `low` is the caller's (admit.c): from then on it asks fs_admit() before more is acknowledged.
 */
#include "fs/fs_impl.h"

/*
 * What a block of data may cost until the next checkpoint, in 1/16 blocks: itself, and in the worst case a leaf of its own, split off for
 * its extent or its inline contents, in two copies; 1/16 is for the nodes above the leaves.
 */
#define COST_16THS (16 + 2 * 16 + 1)
/* One transaction's nodes on their way to a checkpoint: txn_keep() of the largest, and as much for what it replaces. */
#define RESERVE_BASE 512u
/* Known inodes for which one block more is written while those with writers are looked for among them. */
#define KNOWN_PER_BLOCK 16u

uint64_t fs_cached_reserve(uint64_t bytes)
{
	uint64_t nblocks = (bytes + BLOCK_SIZE - 1) / BLOCK_SIZE;

	return nblocks * COST_16THS / 16 + RESERVE_BASE;
}

static void went_low(void *arg)
{
	struct fs *fs = arg;

	fs->low = true;
	fs->told = !fs->cfg.space_low;
	if (fs->cfg.space_low)
		fs->cfg.space_low(fs->cfg.low_arg);
}

void cached_known_changed(struct fs *fs)
{
	if (fs->reserve)
		fs->v->watch.below = 2 * fs->reserve + fs->ninodes / KNOWN_PER_BLOCK;
}

void cached_open(struct fs *fs)
{
	if (!fs->cfg.cached_bytes)
		return;
	fs->reserve = fs_cached_reserve(fs->cfg.cached_bytes);
	volume_lock(fs->v);
	alloc_keep_cached(fs->v->alloc, fs->reserve);
	fs->v->watch = (struct volume_watch){.fn = went_low, .arg = fs};
	cached_known_changed(fs);
	volume_note_space(fs->v);
	volume_unlock(fs->v);
}

bool cached_hold(struct fs *fs, struct fs_stall *s)
{
	LOCK_ASSERT_HELD(&fs->v->lock);
	if (!fs->low || fs->told || volume_room(fs->v) > fs->reserve + fs->reserve / 2)
		return false;
	STAILQ_INSERT_TAIL(&fs->held, s, link);
	return true;
}

void fs_told(struct fs *fs)
{
	struct fs_stall_list go = STAILQ_HEAD_INITIALIZER(go);
	struct fs_stall *s;

	volume_lock(fs->v);
	fs->told = true;
	STAILQ_CONCAT(&go, &fs->held);
	volume_unlock(fs->v);
	while ((s = STAILQ_FIRST(&go))) {
		STAILQ_REMOVE_HEAD(&go, link);
		dev_post(s->q, &s->task);
	}
}

void cached_close(struct fs *fs)
{
	if (!fs->reserve)
		return;
	fs->reserve = 0;
	alloc_keep_cached(fs->v->alloc, 0);
	fs->v->watch = (struct volume_watch){0};
}

bool fs_is_low(const struct fs *fs)
{
	return fs->low;
}

bool fs_look_low(struct fs *fs)
{
	struct volume *v = fs->v;

	volume_lock(v);
	/* Some more than it took to become low, or it would come and go with every write. */
	if (v->watch.low && volume_room(v) > v->watch.below + fs->reserve / 2) {
		fs->low = false;
		v->watch.low = false;
	}
	bool low = fs->low;
	volume_unlock(v);
	return low;
}

/* --- admission --- */

struct admit_step {
	bool deep;
	bool waited; /* for a checkpoint */
};

static int admit_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct admit_step *a = arg;
	struct alloc_space s;
	int err = volume_writable(fs->v);

	(void)q;
	uint64_t kept = a->deep ? fs->reserve / 2 : fs->reserve;

	if (err || volume_room(fs->v) > kept)
		return err;
	/* What the next checkpoint is promised comes back with it, as far as it replaces something. */
	alloc_get_space(fs->v->alloc, &s);
	if (a->waited || !s.reserved || s.nfree + s.npending <= kept + s.emergency)
		return -ENOSPC;
	a->waited = true;
	*miss = (struct miss){.kind = MISS_SPACE};
	return -EAGAIN;
}

int fs_admit(struct fs *fs, struct dev_queue *q, bool deep)
{
	struct admit_step a = {.deep = deep};

	return fs_run(fs, q, admit_step, &a);
}

/* --- who can write --- */

void fs_opened(struct fs *fs, uint64_t ino)
{
	volume_lock(fs->v);
	struct inode *inode = inode_find(fs, ino);
	/* Whoever opens a file that nobody could write to has asked for its attributes if they had expired. */
	if (inode && !inode->nwriters++)
		inode->expired = false;
	volume_unlock(fs->v);
}

void fs_released(struct fs *fs, uint64_t ino)
{
	volume_lock(fs->v);
	struct inode *inode = inode_find(fs, ino);
	if (inode && inode->nwriters)
		inode->nwriters--;
	volume_unlock(fs->v);
}

bool fs_has_writers(struct fs *fs, uint64_t ino, bool *expired)
{
	volume_share(fs->v);
	const struct inode *inode = inode_find(fs, ino);
	bool has = inode && inode->nwriters;
	*expired = inode && inode->expired;
	volume_unshare(fs->v);
	return has;
}

void fs_set_expired(struct fs *fs, uint64_t ino, bool expired)
{
	volume_lock(fs->v);
	struct inode *inode = inode_find(fs, ino);
	if (inode)
		inode->expired = expired;
	volume_unlock(fs->v);
}

/* Buckets looked at under one hold of the lock. */
#define KNOWN_BUCKETS 256u

bool fs_writers(struct fs *fs, uint64_t *cursor, uint64_t *ino, unsigned n, unsigned *got)
{
	uint64_t bucket = *cursor >> 32, skip = *cursor & UINT32_MAX;

	*got = 0;
	volume_lock(fs->v);
	/* When the table doubles, bucket b becomes b and b + its old size: what was in those below comes a second time, no more. */
	for (unsigned i = 0; i < KNOWN_BUCKETS && bucket < fs->nhash && *got < n; i++) {
		uint64_t at = 0;

		for (struct inode *inode = fs->hash[bucket]; inode && *got < n; inode = inode->hash_next, at++)
			if (at >= skip && inode->nwriters)
				ino[(*got)++] = inode->ino;
		skip = *got < n ? 0 : at;
		bucket += *got < n;
	}
	bool more = bucket < fs->nhash;
	volume_unlock(fs->v);
	*cursor = bucket << 32 | skip;
	return more;
}
