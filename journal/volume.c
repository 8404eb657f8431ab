/* SPDX-License-Identifier: Apache-2.0 */
/*
 * volume.c - what an open volume does besides transactions and checkpoints: failing for good, serving misses, keeping track of
 * readers.
 */
#include "journal/ahead.h"
#include "journal/volume_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- failing for good --------------------------------------------------------------------------- */

/* False: something else came first. */
static bool fail_mark(struct volume *v, int err, const char *why, const char *what)
{
	int none = 0;

	if (atomic_load(&v->failed))
		return false;
	/* A reader of failed_why looks at `failed` first; a lost race between two causes mixes no text, as both print one line
	 * and the winner's stays. */
	if (!atomic_compare_exchange_strong(&v->failing, &none, 1))
		return false;
	snprintf(v->failed_why, sizeof(v->failed_why), "%s%s%s", why, *what ? ": " : "", what);
	atomic_store(&v->failed, err);
	return true;
}

void volume_fail(struct volume *v, int err, const char *why)
{
	if (!fail_mark(v, err, why, strerror(-err)))
		return;
	diag(v->diag, DIAG_ERR, "%s: %s; the volume is read-only from now on", v->dev->path, v->failed_why);
	if (v->log)
		log_fail(v->log, err, why);
}

void volume_shutdown(struct volume *v, const char *why)
{
	if (atomic_exchange(&v->shut, true))
		return;
	/* The reason before the device: what fails from then on is no news. */
	fail_mark(v, -EIO, why, "");
	diag(v->diag, DIAG_NOTICE, "%s: %s; nothing is read or written any more", v->dev->path, why);
	if (v->log)
		log_stop(v->log);
	dev_shut(v->dev);
}

void volume_log_failed(void *arg, int err, const char *what)
{
	volume_fail(arg, err, what);
}

int volume_writable(struct volume *v)
{
	if (v->flags & VOLUME_READ_ONLY)
		return -EROFS;
	return atomic_load(&v->failed) ? -EIO : 0;
}

uint64_t volume_now_sec(const struct volume *v)
{
	struct timespec now;

	if (!v->clock)
		return (uint64_t)time(NULL);
	v->clock(v->clock_arg, &now);
	return (uint64_t)now.tv_sec;
}

void volume_note_damage(struct volume *v)
{
	LOCK_ASSERT_HELD(&v->lock);
	v->error_count++;
	v->last_error_sec = volume_now_sec(v);
}

void volume_forget_damage(struct volume *v)
{
	LOCK_ASSERT_HELD(&v->lock);
	v->error_count = v->last_error_sec = 0;
}

/* --- readers ------------------------------------------------------------------------------------ */

unsigned volume_read_begin(struct volume *v)
{
	VOLUME_ASSERT_SHARED(v);
	atomic_fetch_add(&v->readers[v->epoch], 1);
	return v->epoch;
}

int volume_root_begin(struct volume *v, unsigned *epoch, uint64_t *generation)
{
	LOCK_ASSERT_HELD(&v->lock);
	/* One that has frozen would not wait for us, and its successor would write the slots that we read. */
	if (v->checkpoint_running)
		return -EAGAIN;
	*epoch = volume_read_begin(v);
	*generation = v->generation;
	return 0;
}

/*
 * The last reader of an epoch that a checkpoint waits for wakes it.  `drain_queue` is set before the count is read by the checkpoint, and
 * read after the count has changed here, so one of the two sees the other.  The wake is under the lock, under which the checkpoint takes
 * its queue back: the queue may be destroyed then.
 */
void volume_read_end(struct volume *v, unsigned epoch)
{
	struct dev_queue *q;

	if (atomic_fetch_sub(&v->readers[epoch], 1) != 1 || !atomic_load(&v->drain_queue))
		return;
	volume_lock(v);
	q = atomic_load(&v->drain_queue);
	if (q)
		dev_wake(q);
	volume_unlock(v);
}

/* Freed blocks that are no reason for a checkpoint; on a small volume a 64th of it. */
#define PENDING_LEAST ((64u << 20) / BLOCK_SIZE)

/* --- asking for a checkpoint --------------------------------------------------------------------- */

uint64_t volume_room(const struct volume *v)
{
	struct alloc_space s;

	alloc_get_space(v->alloc, &s);
	uint64_t has = s.nfree + s.npending, kept = s.reserved + s.emergency;
	return has > kept ? has - kept : 0;
}

void volume_note_space(struct volume *v)
{
	if (v->watch.low || volume_room(v) >= v->watch.below)
		return;
	v->watch.low = true;
	v->watch.fn(v->watch.arg);
}

void volume_want_checkpoint(struct volume *v)
{
	LOCK_ASSERT_HELD(&v->lock);
	if (v->checkpoint_wanted)
		return;
	v->checkpoint_wanted = true;
	if (v->want_checkpoint_fn)
		v->want_checkpoint_fn(v->want_checkpoint_arg);
}

/*
 * What is freed can be used again after the next checkpoint.  Where that is long in coming the free space left is used up to its last crumbs, and
 * files are in as many pieces.  A node that is to be written anew gives back as much as it takes, so checkpoints for the sake of nodes would gain
 * nothing; nor do they end a trim.
 */
static bool volume_pending_much(const struct volume *v)
{
	struct alloc_space s;

	alloc_get_space(v->alloc, &s);
	uint64_t kept = s.reserved + s.emergency, usable = s.nfree > kept ? s.nfree - kept : 0;
	uint64_t least = s.nblocks / 64 < PENDING_LEAST ? s.nblocks / 64 : PENDING_LEAST;
	uint64_t freed = s.npending - s.ntrimmed, gain = freed > s.reserved ? freed - s.reserved : 0;

	return gain > least && gain > usable / 4;
}

bool volume_checkpoint_due(struct volume *v)
{
	LOCK_ASSERT_HELD(&v->lock);
	/* One that was asked for is due on a failed volume too: it tells those who wait. */
	if (v->checkpoint_wanted)
		return true;
	if (!v->log || volume_writable(v))
		return false;
	return log_used(v->log) > log_size(v->log) / 2 ||
	       tree_ndirty(v->tree) * BLOCK_SIZE > v->dirty_limit || stage_bytes(v->stage) > v->dirty_limit ||
	       (!v->checkpoint_running && volume_pending_much(v));
}

int volume_service(struct volume *v, struct dev_queue *q)
{
	bool due;

	volume_lock(v);
	due = volume_checkpoint_due(v);
	volume_unlock(v);
	return due && !v->want_checkpoint_fn ? volume_checkpoint(v, q, CHECKPOINT_FORCE) : 0;
}

void volume_event_wait(struct volume *v, struct dev_event *ev)
{
	unsigned idle = 0;

	if (v->want_checkpoint_fn) {
		dev_event_wait(ev);
		return;
	}
	while (!atomic_load(&ev->set)) {
		if (dev_poll(ev->q, 10)) {
			idle = 0;
			continue;
		}
		/* A failed checkpoint has failed the volume and told all who wait; there is nobody else to tell here. */
		(void)volume_service(v, ev->q);
		assert(++idle < 1000000);
	}
}

/* --- misses ------------------------------------------------------------------------------------- */

static void provide_finish(struct provide *p, int err)
{
	free(p->read.block);
	volume_read_end(p->v, p->epoch);
	p->done(p, err);
}

static struct provide *provide_of(struct meta_read *r)
{
	return (struct provide *)((char *)r - offsetof(struct provide, read));
}

static int provide_verify_node(struct meta_read *r, uint64_t blkno)
{
	struct provide *p = provide_of(r);
	const struct miss *m = &p->miss;

	return node_check(r->block, &p->v->sb, &m->ptr, blkno, m->level, &m->lo, m->has_hi ? &m->hi : NULL,
			  p->loud ? p->v->diag : NULL);
}

static int provide_verify_bitmap(struct meta_read *r, uint64_t blkno)
{
	struct provide *p = provide_of(r);

	(void)blkno;
	return bitmap_check(r->block, &p->v->sb, p->miss.group, p->slot, p->csum, p->v->diag);
}

/*
 * Between the step that missed a node and this read the node may have been replaced and its block reused.  So one failure only
 * makes the step run again; if that misses the very same node, the second failure is damage.
 */
static bool node_is_suspect(struct volume *v, const struct disk_ptr *ptr)
{
	struct volume_suspect *s = &v->suspect[get64(ptr->blkno[0]) % 64];
	bool again = s->blkno == get64(ptr->blkno[0]) && s->generation == get64(ptr->generation);

	s->blkno = get64(ptr->blkno[0]);
	s->generation = get64(ptr->generation);
	return again;
}

static void provide_node_done(struct meta_read *r, int err)
{
	struct provide *p = provide_of(r);
	struct volume *v = p->v;

	volume_lock(v);
	v->stats.repairs += r->nrepaired;
	if (!err) {
		err = tree_node_arrived(v->tree, &p->miss, r->block);
	} else if (!p->loud) {
		node_is_suspect(v, &p->miss.ptr);
		err = 0;
	} else {
		volume_note_damage(v);
		err = err == -EUCLEAN ? -EIO : err;
	}
	volume_unlock(v);
	provide_finish(p, err);
}

static void provide_bitmap_done(struct meta_read *r, int err)
{
	struct provide *p = provide_of(r);
	struct volume *v = p->v;

	volume_lock(v);
	v->stats.repairs += r->nrepaired;
	if (!err)
		err = alloc_bitmap_arrived(v->alloc, p->miss.group, r->block);
	if (err)
		volume_note_damage(v);
	volume_unlock(v);
	provide_finish(p, err == -EUCLEAN ? -EIO : err);
}

static void provide_checkpointed(struct dev_task *task)
{
	struct volume_waiter *w = (struct volume_waiter *)task;
	struct provide *p = (struct provide *)((char *)w - offsetof(struct provide, waiter));

	p->done(p, w->err);
}

/*
 * A full journal or volume: the next checkpoint's end runs the step again.  Who lacks space, or only wants what there is under a root, does not
 * end a rest by asking for one: he has it, or it is on its way.
 */
static void provide_checkpoint(struct provide *p, struct dev_queue *q)
{
	struct volume *v = p->v;
	int err;

	p->waiter.q = q;
	p->waiter.task.run = provide_checkpointed;
	p->waiter.err = 0;
	volume_lock(v);
	err = volume_writable(v);
	bool rests = v->resting && p->miss.kind == MISS_SPACE;
	if (err || (rests && v->clean)) {
		p->waiter.err = err ? -EROFS : 0;
		dev_post(q, &p->waiter.task);
	} else {
		STAILQ_INSERT_TAIL(&v->waiters, &p->waiter, link);
		if (!rests)
			volume_want_checkpoint(v);
	}
	volume_unlock(v);
}

static void provide_outdated(struct dev_task *task)
{
	struct volume_waiter *w = (struct volume_waiter *)task;
	struct provide *p = (struct provide *)((char *)w - offsetof(struct provide, waiter));

	free(p->read.block);
	p->done(p, 0);
}

/* Lock held. */
static bool provide_is_wanted(struct volume *v, const struct miss *miss)
{
	return miss->kind == MISS_NODE ? tree_wants(v->tree, miss) : alloc_wants(v->alloc, miss->group);
}

static void provide_ahead_done(struct provide *p, bool arrived, int err)
{
	if (arrived)
		provide_finish(p, err);
	else
		meta_read_start(&p->read, p->waiter.q);
}

/*
 * The lock was let go between the step and here.  A bitmap that has arrived since may be on its way to its other slot, which then
 * holds anything yet.  A node that the tree still points to cannot be handed out from now on until this
 * reader ends.  Of one that it does not, a block may be somebody else's already: the other copy would be good, and the repair
 * would overwrite what is not ours.
 */
static void provide_block(struct provide *p, struct dev_queue *q)
{
	struct volume *v = p->v;
	struct meta_read *r = &p->read;
	const struct miss *m = &p->miss;
	struct ahead *ahead = NULL;

	volume_lock(v);
	if (!provide_is_wanted(v, m)) {
		volume_unlock(v);
		p->waiter.task.run = provide_outdated;
		dev_post(q, &p->waiter.task);
		return;
	}
	p->epoch = volume_read_begin(v);
	v->stats.loads++;
	if (m->kind == MISS_NODE) {
		struct volume_suspect *s = &v->suspect[get64(m->ptr.blkno[0]) % 64];

		p->loud = s->blkno == get64(m->ptr.blkno[0]) && s->generation == get64(m->ptr.generation);
		for (unsigned i = 0; i < 2; i++)
			r->blkno[i] = get64(m->ptr.blkno[i]);
		r->verify = provide_verify_node;
		r->done = provide_node_done;
		r->what = "tree node";
		if (!p->loud)
			ahead = ahead_plan(v, m);
	} else {
		alloc_bitmap_where(v->alloc, m->group, &p->slot, &p->csum);
		for (unsigned i = 0; i < 2; i++)
			r->blkno[i] = bitmap_blkno(&v->sb, m->group, p->slot, i);
		r->verify = provide_verify_bitmap;
		r->done = provide_bitmap_done;
		r->what = "allocation bitmap";
	}
	r->no_repair = volume_no_repair(v);
	volume_unlock(v);
	p->waiter.q = q;
	if (ahead)
		ahead_start(ahead, q, p, provide_ahead_done);
	else
		meta_read_start(r, q);
}

static void provide_no_memory(struct dev_task *task)
{
	struct volume_waiter *w = (struct volume_waiter *)task;
	struct provide *p = (struct provide *)((char *)w - offsetof(struct provide, waiter));

	p->done(p, -ENOMEM);
}

void volume_provide_start(struct volume *v, struct dev_queue *q, const struct miss *miss, struct provide *p,
			  void (*done)(struct provide *p, int err))
{
	assert(!volume_is_alone(v) && !share_is_mine());
	assert(miss->kind != MISS_NONE);
	memset(&p->read, 0, sizeof(p->read));
	p->v = v;
	p->miss = *miss;
	p->done = done;
	if (miss->kind == MISS_SPACE || miss->kind == MISS_JOURNAL) {
		provide_checkpoint(p, q);
		return;
	}
	p->read.block = dev_alloc(BLOCK_SIZE, false);
	if (!p->read.block) {
		p->waiter.task.run = provide_no_memory;
		dev_post(q, &p->waiter.task);
		return;
	}
	provide_block(p, q);
}

struct provide_waiting {
	struct provide p;
	struct dev_event ev;
	int err;
};

static void provide_waited(struct provide *p, int err)
{
	struct provide_waiting *w = (struct provide_waiting *)p;

	w->err = err;
	dev_event_set(&w->ev);
}

int volume_provide(struct volume *v, struct dev_queue *q, const struct miss *miss)
{
	struct provide_waiting w;

	dev_event_init(&w.ev, q);
	volume_provide_start(v, q, miss, &w.p, provide_waited);
	volume_event_wait(v, &w.ev);
	return w.err;
}
