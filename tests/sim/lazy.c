/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lazy.c - times of access that are kept in memory (fs_config.lazytime).
 *
 * When they are stored is the product's business: with the next change of the inode, when it is forgotten, a day later.  So it is looked at
 * after everything that may have done it: what is not in memory any more is stored, which is a change like others, and must be found
 * there; only for want of room may it be lost.  They are stored in the order in which they came.
 */
#include "tests/sim/sim.h"

#include "fs/fs_impl.h"

static bool same_instant(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool is_in_memory(struct sim *s, uint64_t ino)
{
	volume_lock(s->v);
	const struct inode *inode = inode_find(s->fs, ino);
	bool lazy = inode && inode->lazy;
	volume_unlock(s->v);
	return lazy;
}

static void add(struct sim *s, uint64_t ino)
{
	for (unsigned k = 0; k < s->nlazy; k++) {
		if (s->lazy[k] == ino)
			return;
	}
	if (s->nlazy == LAZY_MAX)
		violation(s, "lazy", "%u times of access are in memory", s->nlazy);
	s->lazy[s->nlazy++] = ino;
}

void lazy_read(struct sim *s, uint64_t ino)
{
	if (!s->plan->lazytime || !is_in_memory(s, ino)) {
		model_atime(s->model, ino);
		return;
	}
	model_atime_lazy(s->model, ino);
	add(s, ino);
	s->cov->lazy++;
}

/* May it be lost for another reason than the power? */
static bool may_be_lost(struct sim *s)
{
	return world_is_cut(s) || s->plan->faults || space_is_short(s, 8);
}

/* False: it is still there, or in the middle of another operation, which will tell. */
static bool is_over(struct sim *s, const struct minode *i)
{
	struct miss miss = {.kind = MISS_NONE};
	struct disk_inode di;

	if (is_in_memory(s, i->ino))
		return false;
	volume_lock(s->v);
	int err = inode_get(s->fs, i->ino, &miss, &di);
	volume_unlock(s->v);
	struct timespec atime = err ? i->atime : time_decode(&di.atime), ctime = err ? i->ctime : time_decode(&di.ctime);

	if (same_instant(&atime, &i->atime)) {
		s->cov->lazy_stored++;
		model_atime_store(s->model, i->ino);
		return true;
	}
	if (!same_instant(&atime, &i->stored_atime) || !same_instant(&ctime, &i->ctime))
		return false;
	if (!may_be_lost(s))
		violation(s, "lazy", "inode %llu: its time of access has been forgotten", (unsigned long long)i->ino);
	model_atime_lose(s->model, i->ino);
	return true;
}

void lazy_look(struct sim *s)
{
	unsigned left = 0;

	if (!s->fs || s->shut)
		return;
	for (unsigned k = 0; k < s->nlazy; k++) {
		const struct minode *i = model_get(s->model, s->lazy[k]);

		if (i && i->lazy && !is_over(s, i))
			s->lazy[left++] = s->lazy[k];
	}
	s->nlazy = left;
}

void lazy_flush(struct sim *s, uint64_t ino)
{
	if (!s->plan->lazytime)
		return;
	fs_flush_times(s->fs, s->q, ino);
	lazy_look(s);
}

void lazy_end(struct sim *s, bool stored)
{
	/* Some leave it to fs_close(), whose order is the same. */
	if (stored && (s->plan->seed & 2 || may_be_lost(s)))
		lazy_flush(s, 0);
	for (unsigned k = 0; k < s->nlazy; k++) {
		const struct minode *i = model_get(s->model, s->lazy[k]);

		if (!i || !i->lazy)
			continue;
		if (stored)
			model_atime_store(s->model, i->ino);
		s->cov->lazy_stored += stored;
		s->cov->lazy_lost += !stored;
	}
	s->nlazy = 0;
}
