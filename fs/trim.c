/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trim.c - tells the device which blocks are free (FITRIM).
 *
 * In parts: free blocks of one group are kept from being handed out (alloc_trim_begin()), discarded without the lock, and given back.
 * Between two parts the thread serves others.
 */
#include <stdlib.h>

#include "core/bug.h"
#include "fs/fs_impl.h"

#define PART_BLOCKS (32u << 20 >> BLOCK_SHIFT)
#define PART_RUNS 256u /* operations at once */
#define GROUPS_AT_ONCE 64u /* looked at in a row without finding anything */

struct trim_run {
	struct dev_io io;
	struct fs_trim *t;
	uint64_t blkno, n;
};

static void trim_go(struct fs_trim *t);

static void trim_end(struct fs_trim *t, int err)
{
	free(t->run);
	t->result = fs_verdict(t->fs, err);
	t->done(t);
}

static void trim_posted(struct dev_task *task)
{
	trim_go((struct fs_trim *)((char *)task - offsetof(struct fs_trim, task)));
}

static void trim_later(struct fs_trim *t)
{
	t->task.run = trim_posted;
	dev_post(t->q, &t->task);
}

static void part_over(struct fs_trim *t)
{
	volume_lock(t->fs->v);
	if (!BUG(TRIM_RELEASED_EARLY))
		alloc_trim_end(t->fs->v->alloc);
	volume_unlock(t->fs->v);
	if (t->err)
		trim_end(t, t->err);
	else
		trim_later(t);
}

static void submit_next(struct fs_trim *t);

static void run_done(struct dev_io *io, int err)
{
	struct trim_run *r = (struct trim_run *)io;
	struct fs_trim *t = r->t;

	if (err && !t->err)
		t->err = err;
	if (!err)
		t->trimmed += r->n << BLOCK_SHIFT;
	if (--t->pending)
		return;
	if (t->nruns && !t->err)
		submit_next(t);
	else
		part_over(t);
}

static void submit_next(struct fs_trim *t)
{
	unsigned n = t->nruns < PART_RUNS ? t->nruns : PART_RUNS;
	struct trim_run *run = &t->run[t->nruns - n];

	t->nruns -= n;
	t->pending = n;
	for (unsigned i = 0; i < n; i++) {
		run[i].t = t;
		run[i].io = (struct dev_io){
			.op = DEV_DISCARD,
			.off = run[i].blkno << BLOCK_SHIFT,
			.len = run[i].n << BLOCK_SHIFT,
			.done = run_done,
		};
		dev_submit(t->q, &run[i].io);
	}
}

/* Lock held.  A run for which there is no memory is not discarded; nobody was promised that it would be. */
static void collect(void *arg, uint64_t blkno, uint64_t n)
{
	struct fs_trim *t = arg;

	if (t->nruns == t->cap) {
		unsigned cap = t->cap ? 2 * t->cap : 64;
		struct trim_run *bigger = reallocarray(t->run, cap, sizeof(*bigger));

		if (!bigger)
			return;
		t->run = bigger;
		t->cap = cap;
	}
	t->run[t->nruns].blkno = blkno;
	t->run[t->nruns++].n = n;
}

static void trim_provided(struct provide *p, int err)
{
	struct fs_trim *t = (struct fs_trim *)((char *)p - offsetof(struct fs_trim, provide));

	if (err)
		trim_end(t, err);
	else
		trim_go(t);
}

/* The next part, if any is found; *n: its blocks.  None while the volume rests, which waits for the last one: see volume_rest(). */
static int trim_step(struct fs_trim *t, struct miss *miss, uint64_t *n)
{
	struct volume *v = t->fs->v;
	uint64_t minlen = t->minlen >> BLOCK_SHIFT;
	int err = v->resting ? -EROFS : volume_writable(v);

	*n = 0;
	t->nruns = 0;
	for (unsigned i = 0; i < GROUPS_AT_ONCE && !err && !*n && t->next < t->end; i++)
		err = alloc_trim_begin(v->alloc, &t->next, t->end, minlen ? minlen : 1, PART_BLOCKS, miss, collect, t, n);
	return err;
}

static void trim_go(struct fs_trim *t)
{
	struct miss miss = {.kind = MISS_NONE};
	struct volume *v = t->fs->v;
	uint64_t n;

	if (t->cancelled && t->cancelled(t)) {
		trim_end(t, -EINTR);
		return;
	}
	volume_lock(v);
	int err = trim_step(t, &miss, &n);
	if (n && BUG(TRIM_RELEASED_EARLY))
		alloc_trim_end(v->alloc);
	volume_unlock(v);
	if (err == -EAGAIN)
		volume_provide_start(v, t->q, &miss, &t->provide, trim_provided);
	else if (err)
		trim_end(t, err);
	else if (n && t->nruns)
		submit_next(t);
	else if (n)
		part_over(t);
	else if (t->next < t->end)
		trim_later(t);
	else
		trim_end(t, 0);
}

/* What was freed lately is free only when a checkpoint has been made, and then it is what is most worth discarding. */
static void trim_begin(struct fs_trim *t)
{
	struct miss miss = {.kind = MISS_SPACE};
	struct volume *v = t->fs->v;
	struct alloc_space space;

	volume_lock(v);
	alloc_get_space(v->alloc, &space);
	volume_unlock(v);
	if (space.npending)
		volume_provide_start(v, t->q, &miss, &t->provide, trim_provided);
	else
		trim_go(t);
}

static int trim_range(struct fs_trim *t)
{
	const struct volume *v = t->fs->v;
	uint64_t size = v->sb.nblocks << BLOCK_SHIFT;

	if (v->flags & VOLUME_READ_ONLY)
		return -EROFS;
	if (!v->dev->can_discard)
		return -EOPNOTSUPP;
	if (t->start >= size || t->len < BLOCK_SIZE || t->minlen > (uint64_t)GROUP_BLOCKS << BLOCK_SHIFT)
		return -EINVAL;
	uint64_t len = t->len < size - t->start ? t->len : size - t->start;

	t->next = (t->start + BLOCK_SIZE - 1) >> BLOCK_SHIFT;
	t->end = (t->start + len) >> BLOCK_SHIFT;
	if (t->next < super_data_begin(&v->sb))
		t->next = super_data_begin(&v->sb);
	if (t->end > super_data_end(&v->sb))
		t->end = super_data_end(&v->sb);
	return 0;
}

void fs_trim(struct fs *fs, struct dev_queue *q, struct fs_trim *t)
{
	t->fs = fs;
	t->q = q;
	t->trimmed = 0;
	t->run = NULL;
	t->nruns = t->cap = t->pending = 0;
	t->err = 0;

	int err = trim_range(t);

	if (err)
		trim_end(t, err);
	else
		trim_begin(t);
}
