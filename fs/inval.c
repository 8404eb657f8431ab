/* SPDX-License-Identifier: Apache-2.0 */
/* inval.c - see the header. */
#define FUSE_USE_VERSION 314
#include "fs/inval.h"

#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "fs/fs.h"

/* A file that shares its bit with one that is cached costs a system call for nothing. */
#define NBITS (1u << 17)

struct inval {
	struct fuse_session *se;
	struct fs *fs;
	pthread_t thread;
	pthread_mutex_t mutex; /* a leaf; covers `jobs`, `ending`, `ended` */
	pthread_cond_t changed;
	STAILQ_HEAD(, inval_job) jobs;
	bool ending;
	struct dev_event *ended; /* set by the thread when it ends; before `ending` */
	_Atomic uint64_t cached[NBITS / 64]; /* by inode number; never cleared */
};

static uint64_t bit_of(uint64_t ino)
{
	return ino * 0x9e3779b97f4a7c15u >> 47;
}

void inval_note_cached(struct inval *i, uint64_t ino)
{
	uint64_t bit = bit_of(ino), mask = (uint64_t)1 << bit % 64;

	/* Mostly set already: then the line stays shared between processors. */
	if (!(atomic_load(&i->cached[bit / 64]) & mask))
		atomic_fetch_or(&i->cached[bit / 64], mask);
}

static bool may_be_cached(struct inval *i, uint64_t ino)
{
	uint64_t bit = bit_of(ino);

	return atomic_load(&i->cached[bit / 64]) >> bit % 64 & 1;
}

bool inval_begin(struct inval *i, struct inval_job *job)
{
	bool begin;

	job->dropped = job->what == INVAL_CACHED && !may_be_cached(i, job->ino);
	if (job->dropped)
		return false;
	pthread_mutex_lock(&i->mutex);
	begin = !i->ending;
	if (begin) {
		STAILQ_INSERT_TAIL(&i->jobs, job, link);
		pthread_cond_signal(&i->changed);
	}
	pthread_mutex_unlock(&i->mutex);
	return begin;
}

static bool drop_one(struct inval *i, uint64_t ino, off_t off, off_t len)
{
	int err = fuse_lowlevel_notify_inval_inode(i->se, ino, off, len);

	/* A file that the kernel does not know has nothing in its cache. */
	return !err || err == -ENOENT;
}

void inval_attributes(struct inval *i, uint64_t ino)
{
	(void)drop_one(i, ino, -1, 0);
}

static bool drop_all(struct inval *i)
{
	uint64_t n, *inos = fs_known_inodes(i->fs, &n);
	bool dropped = inos;

	for (uint64_t k = 0; k < n; k++)
		dropped &= drop_one(i, inos[k], 0, 0);
	free(inos);
	return dropped;
}

static bool drop(struct inval *i, const struct inval_job *job)
{
	switch (job->what) {
	case INVAL_CACHED: return drop_one(i, job->ino, (off_t)job->off, (off_t)job->len);
	case INVAL_FILE: return drop_one(i, job->ino, 0, 0);
	case INVAL_ALL: return drop_all(i);
	}
	return false;
}

static void *inval_main(void *arg)
{
	struct inval *i = arg;

	pthread_mutex_lock(&i->mutex);
	for (;;) {
		struct inval_job *job = STAILQ_FIRST(&i->jobs);

		if (!job && i->ending)
			break;
		if (!job) {
			pthread_cond_wait(&i->changed, &i->mutex);
			continue;
		}
		STAILQ_REMOVE_HEAD(&i->jobs, link);
		bool ending = i->ending;
		pthread_mutex_unlock(&i->mutex);
		job->dropped = !ending && drop(i, job);
		dev_post(job->q, &job->done);
		pthread_mutex_lock(&i->mutex);
	}
	pthread_mutex_unlock(&i->mutex);
	dev_event_set(i->ended);
	return NULL;
}

int inval_start(struct fuse_session *se, struct fs *fs, struct inval **out)
{
	struct inval *i = calloc(1, sizeof(*i));
	int err;

	if (!i)
		return -ENOMEM;
	i->se = se;
	i->fs = fs;
	STAILQ_INIT(&i->jobs);
	pthread_mutex_init(&i->mutex, NULL);
	pthread_cond_init(&i->changed, NULL);
	err = -pthread_create(&i->thread, NULL, inval_main, i);
	if (err) {
		free(i);
		return err;
	}
	*out = i;
	return 0;
}

void inval_end(struct inval *i, struct dev_queue *q)
{
	struct dev_event ended;

	if (!i)
		return;
	dev_event_init(&ended, q);
	pthread_mutex_lock(&i->mutex);
	i->ended = &ended;
	i->ending = true;
	pthread_cond_signal(&i->changed);
	pthread_mutex_unlock(&i->mutex);
	dev_event_wait(&ended);
	pthread_join(i->thread, NULL);
}

void inval_destroy(struct inval *i)
{
	if (!i)
		return;
	pthread_mutex_destroy(&i->mutex);
	pthread_cond_destroy(&i->changed);
	free(i);
}
