/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sync.c - waits until what was changed is durable.
 *
 * An fsync waits for the log up to the inode's own last change, and for nothing if that is already there.  Log waiters are called on
 * whatever thread saw the group's write end; `done` is brought back to the caller's own.
 */
#include "fs/fs_impl.h"

/* What to sync to. */
static uint64_t sync_lsn(struct fs *fs, const struct fs_sync *s)
{
	const struct inode *inode = s->ino ? inode_find(fs, s->ino) : NULL;

	if (!inode)
		return fs->v->applied_lsn;
	return s->datasync ? inode->lsn_data : inode->lsn_change;
}

static void sync_posted(struct dev_task *task)
{
	struct fs_sync *s = (struct fs_sync *)((char *)task - offsetof(struct fs_sync, task));

	s->done(s);
}

static void sync_durable(struct log_waiter *w, int err)
{
	struct fs_sync *s = (struct fs_sync *)((char *)w - offsetof(struct fs_sync, waiter));

	s->result = err;
	dev_post(s->q, &s->task);
}

void fs_fsync(struct fs *fs, struct dev_queue *q, struct fs_sync *s)
{
	struct volume *v = fs->v;
	uint64_t lsn;

	s->q = q;
	s->task.run = sync_posted;
	s->waiter.done = sync_durable;
	volume_lock(v);
	lsn = sync_lsn(fs, s);
	if (s->datasync)
		fs->stats.fdatasyncs++;
	else
		fs->stats.fsyncs++;
	volume_unlock(v);
	/* Without a log nothing was ever changed. */
	int err = volume_is_shut(v) ? -EIO : v->log ? log_sync(v->log, q, lsn, &s->waiter) : 0;
	if (err == -EINPROGRESS)
		return;
	s->result = err;
	s->done(s);
}

struct sync_wait {
	struct fs_sync sync;
	struct dev_event done;
};

static void sync_wait_done(struct fs_sync *s)
{
	struct sync_wait *w = (struct sync_wait *)((char *)s - offsetof(struct sync_wait, sync));

	dev_event_set(&w->done);
}

int fs_sync(struct fs *fs, struct dev_queue *q, uint64_t ino, bool datasync)
{
	struct sync_wait w = {.sync = {.ino = ino, .datasync = datasync, .done = sync_wait_done}};

	dev_event_init(&w.done, q);
	fs_fsync(fs, q, &w.sync);
	volume_event_wait(fs->v, &w.done);
	return w.sync.result;
}

int fs_shutdown(struct fs *fs, struct dev_queue *q, bool flush)
{
	/* As after a power cut it is the journal that has what was made durable, so there is no checkpoint. */
	int err = flush && !volume_is_shut(fs->v) ? fs_sync(fs, q, 0, false) : 0;

	volume_shutdown(fs->v, "shut down by ioctl");
	return err;
}
