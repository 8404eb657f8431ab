/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lazytime.c - access times: when reading moves one, and where it is kept until it is written.
 *
 * Times of changes travel in the transaction that makes the change and cost nothing, so only access times can be lazy.  One that is
 * lies in its inode's entry of the table of known inodes, and on fs->lazy, oldest first.  inode_get() lays it over the item, so that
 * everybody sees it, and that whatever changes the inode writes it along; inode_changed() then takes it off.
 */
#include "fs/fs_impl.h"

#define DAY_SECONDS 86400

static bool time_reached(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec >= b->tv_nsec;
}

bool atime_due(struct fs *fs, const struct disk_inode *di, const struct timespec *now)
{
	struct timespec atime = time_decode(&di->atime);
	struct timespec mtime = time_decode(&di->mtime);
	struct timespec ctime = time_decode(&di->ctime);

	if (fs->cfg.atime == FS_NOATIME || get64(di->flags) & INODE_NOATIME || volume_writable(fs->v) || fs->v->resting)
		return false;
	if (fs->cfg.nodiratime && mode_is(di, S_IFDIR))
		return false;
	if (fs->cfg.atime == FS_STRICTATIME)
		return atime.tv_sec != now->tv_sec || atime.tv_nsec != now->tv_nsec;
	return time_reached(&mtime, &atime) || time_reached(&ctime, &atime) ||
	       atime.tv_sec <= now->tv_sec - DAY_SECONDS;
}

static int atime_commit(struct fs *fs, struct dev_queue *q, uint64_t ino, const struct disk_inode *di,
			struct miss *miss)
{
	struct txn t;
	uint64_t lsn;
	int err;

	txn_begin(&t, fs->v);
	inode_put(&t, ino, di);
	err = txn_commit(&t, q, 0, miss, NULL, &lsn);
	txn_end(&t);
	if (!err)
		inode_changed(fs, ino, lsn, false);
	return err;
}

int atime_set(struct fs *fs, struct dev_queue *q, uint64_t ino, struct disk_inode *di, const struct timespec *now,
	      struct miss *miss)
{
	LOCK_ASSERT_HELD(&fs->v->lock);
	struct inode *inode = fs->cfg.lazytime ? inode_find(fs, ino) : NULL;

	di->atime = time_encode(now);
	if (!inode)
		return atime_commit(fs, q, ino, di, miss);
	inode->atime = *now;
	if (!inode->lazy) {
		inode->lazy = true;
		inode->lazy_since = now->tv_sec;
		TAILQ_INSERT_TAIL(&fs->lazy, inode, lazy_link);
		/* Who serves has to look at the clock again. */
		if (fs->nlazy++ == 0 && fs->cfg.want_service)
			fs->cfg.want_service(fs->cfg.service_arg);
	}
	return 0;
}

void atime_overlay(struct fs *fs, uint64_t ino, struct disk_inode *di)
{
	const struct inode *inode = fs->nlazy ? inode_find(fs, ino) : NULL;

	if (inode && inode->lazy)
		di->atime = time_encode(&inode->atime);
}

void atime_written(struct fs *fs, struct inode *inode)
{
	if (!inode->lazy)
		return;
	TAILQ_REMOVE(&fs->lazy, inode, lazy_link);
	inode->lazy = false;
	fs->nlazy--;
}

void atime_went_along(struct fs *fs, uint64_t ino, uint64_t lsn)
{
	const struct inode *inode = fs->nlazy ? inode_find(fs, ino) : NULL;

	/* Whoever syncs the inode waits for it. */
	if (inode && inode->lazy)
		inode_changed(fs, ino, lsn, false);
}

static int touch_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	uint64_t ino = *(uint64_t *)arg;
	struct disk_inode di;
	struct timespec now;
	int err = inode_get(fs, ino, miss, &di);

	if (err)
		return err;
	fs_now(fs, &now);
	return atime_due(fs, &di, &now) ? atime_set(fs, q, ino, &di, &now, miss) : 0;
}

void atime_touch(struct fs *fs, struct dev_queue *q, uint64_t ino)
{
	fs_run(fs, q, touch_step, &ino);
}

/* --- writing them --------------------------------------------------------------------------------- */

static int flush_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	uint64_t ino = *(uint64_t *)arg;
	struct inode *inode = inode_find(fs, ino);
	struct disk_inode di;
	int err;

	/* A volume at rest is not woken for an access time. */
	if (!inode || !inode->lazy || fs->v->resting)
		return 0;
	err = inode_get(fs, ino, miss, &di);
	if (err == -ESTALE) {
		atime_written(fs, inode);
		return 0;
	}
	return err ? err : atime_commit(fs, q, ino, &di, miss);
}

/* The one that has waited longest, if since `before`; 0: none. */
static uint64_t lazy_first(struct fs *fs, int64_t before, uint64_t *n)
{
	uint64_t ino = 0;

	volume_lock(fs->v);
	if (!TAILQ_EMPTY(&fs->lazy) && TAILQ_FIRST(&fs->lazy)->lazy_since <= before && !fs->v->resting)
		ino = TAILQ_FIRST(&fs->lazy)->ino;
	*n = fs->nlazy;
	volume_unlock(fs->v);
	return ino;
}

/* Those who read meanwhile do not keep us here for ever. */
static void flush_all(struct fs *fs, struct dev_queue *q)
{
	uint64_t left, n, ino = lazy_first(fs, INT64_MAX, &left);

	while (ino && left-- && fs_run(fs, q, flush_step, &ino) == 0)
		ino = lazy_first(fs, INT64_MAX, &n);
}

void fs_flush_times(struct fs *fs, struct dev_queue *q, uint64_t ino)
{
	if (!ino)
		flush_all(fs, q);
	else
		fs_run(fs, q, flush_step, &ino);
}

bool atime_expire(struct fs *fs, struct dev_queue *q)
{
	struct timespec now;
	uint64_t n, ino = lazy_first(fs, INT64_MAX, &n);

	if (!ino)
		return false;
	fs_now(fs, &now);
	ino = lazy_first(fs, now.tv_sec - fs->lazy_seconds, &n);
	return ino && fs_run(fs, q, flush_step, &ino) == 0;
}

void fs_set_lazy_period(struct fs *fs, unsigned seconds)
{
	fs->lazy_seconds = seconds ? seconds : DAY_SECONDS;
}

int64_t fs_lazy_left(struct fs *fs)
{
	struct timespec now;
	int64_t left = -1;

	volume_lock(fs->v);
	if (!TAILQ_EMPTY(&fs->lazy) && !fs->v->resting && !volume_writable(fs->v)) {
		fs_now(fs, &now);
		left = (TAILQ_FIRST(&fs->lazy)->lazy_since + fs->lazy_seconds - now.tv_sec) * 1000 - now.tv_nsec / 1000000;
		left = left < 0 ? 0 : left;
	}
	volume_unlock(fs->v);
	return left;
}

void fs_set_times(struct fs *fs, struct dev_queue *q, enum fs_atime atime, bool nodiratime, bool lazytime)
{
	volume_lock(fs->v);
	fs->cfg.atime = atime;
	fs->cfg.nodiratime = nodiratime;
	fs->cfg.lazytime = lazytime;
	volume_unlock(fs->v);
	if (!lazytime)
		flush_all(fs, q);
}
