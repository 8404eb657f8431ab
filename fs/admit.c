/* SPDX-License-Identifier: Apache-2.0 */
/* admit.c - see the header. */
#include "fs/admit.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <time.h>

#include "fs/inval.h"

#define BATCH 256u

/*
 * Rounds through all files with writers: the first at once.  The later ones are for replies to LINK and SETATTR that were on their way then.
 */
static const int64_t round_ms[] = {20, 1000, 30000};
#define ROUNDS (sizeof(round_ms) / sizeof(round_ms[0]))

/* To be answered by its worker, for a request that came through a ring is answered there. */
struct answer {
	struct dev_task task; /* first: see answer_now() */
	struct worker *worker;
	fuse_req_t req;
	uint64_t ino;
	bool is_open; /* else GETATTR */
	struct fuse_file_info fi;
	struct stat st;
	STAILQ_ENTRY(answer) link;
};

struct admit {
	struct fs *fs;
	struct inval *inval;
	pthread_t thread;
	bool has_thread;

	pthread_mutex_t mutex; /* nothing is done under it but what stands here; locking.md */
	pthread_cond_t cond;
	/* under mutex */
	bool stop, low;
	STAILQ_HEAD(, answer) answers;

	/* the thread's own */
	int64_t round_due_ms; /* 0: none is to come */
	unsigned round;
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* --- from others --- */

void admit_space_low(void *admit)
{
	struct admit *a = admit;

	pthread_mutex_lock(&a->mutex);
	a->low = true;
	pthread_cond_signal(&a->cond);
	pthread_mutex_unlock(&a->mutex);
}

static void answer_now(struct dev_task *task)
{
	struct answer *answer = (struct answer *)task;
	struct worker *w = answer->worker;

	if (answer->is_open)
		fuse_reply_open(answer->req, &answer->fi);
	else
		fuse_reply_attr(answer->req, &answer->st, CACHE_SECONDS);
	free(answer);
	worker_end(w);
}

static void answer_later(struct admit *a, const struct answer *what)
{
	struct answer *answer = malloc(sizeof(*answer));
	struct worker *w = call_of(what->req).worker;

	if (!answer) {
		fuse_reply_err(what->req, ENOMEM);
		return;
	}
	*answer = *what;
	answer->task.run = answer_now;
	answer->worker = w;
	worker_begin(w);
	pthread_mutex_lock(&a->mutex);
	STAILQ_INSERT_TAIL(&a->answers, answer, link);
	pthread_cond_signal(&a->cond);
	pthread_mutex_unlock(&a->mutex);
}

void admit_open(struct admit *a, fuse_req_t req, uint64_t ino, const struct fuse_file_info *fi)
{
	struct answer answer = {.req = req, .ino = ino, .is_open = true, .fi = *fi};

	answer_later(a, &answer);
}

void admit_getattr(struct admit *a, fuse_req_t req, const struct fs_attr *attr)
{
	struct answer answer = {.req = req, .ino = attr->ino};

	fuse_glue_stat(attr, &answer.st);
	answer_later(a, &answer);
}

/* --- the thread --- */

static void tell_all(struct admit *a)
{
	uint64_t ino[BATCH], cursor = 0;
	unsigned n;
	bool more;

	do {
		more = fs_writers(a->fs, &cursor, ino, BATCH, &n);
		for (unsigned i = 0; i < n; i++)
			inval_attributes(a->inval, ino[i]);
	} while (more);
}

static void answer_all(struct admit *a)
{
	struct answer *answer;

	for (;;) {
		pthread_mutex_lock(&a->mutex);
		answer = STAILQ_FIRST(&a->answers);
		if (answer)
			STAILQ_REMOVE_HEAD(&a->answers, link);
		pthread_mutex_unlock(&a->mutex);
		if (!answer)
			return;
		inval_attributes(a->inval, answer->ino);
		dev_post(worker_queue(answer->worker), &answer->task);
	}
}

static void rounds(struct admit *a)
{
	pthread_mutex_lock(&a->mutex);
	bool first = a->low;
	a->low = false;
	pthread_mutex_unlock(&a->mutex);
	if (first)
		a->round = 0;
	else if (!a->round_due_ms || now_ms() < a->round_due_ms)
		return;
	a->round_due_ms = 0;
	if (!first && !fs_look_low(a->fs))
		return;
	tell_all(a);
	fs_told(a->fs);
	a->round_due_ms = now_ms() + round_ms[a->round];
	if (a->round + 1 < ROUNDS)
		a->round++;
}

/* Waits for something to do; false: the end. */
static bool wait_for_work(struct admit *a)
{
	struct timespec at = {.tv_sec = a->round_due_ms / 1000, .tv_nsec = a->round_due_ms % 1000 * 1000000};

	pthread_mutex_lock(&a->mutex);
	if (STAILQ_EMPTY(&a->answers) && !a->low && !a->stop) {
		if (a->round_due_ms)
			pthread_cond_timedwait(&a->cond, &a->mutex, &at);
		else
			pthread_cond_wait(&a->cond, &a->mutex);
	}
	bool stop = a->stop;
	pthread_mutex_unlock(&a->mutex);
	return !stop;
}

static void *admit_main(void *arg)
{
	struct admit *a = arg;

	while (wait_for_work(a)) {
		rounds(a);
		answer_all(a);
	}
	return NULL;
}

/* --- life --- */

int admit_create(struct admit **out)
{
	struct admit *a = calloc(1, sizeof(*a));
	pthread_condattr_t attr;

	if (!a)
		return -ENOMEM;
	STAILQ_INIT(&a->answers);
	pthread_mutex_init(&a->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&a->cond, &attr);
	pthread_condattr_destroy(&attr);
	*out = a;
	return 0;
}

int admit_start(struct admit *a, struct fs *fs, struct inval *inval)
{
	a->fs = fs;
	a->inval = inval;
	int err = -pthread_create(&a->thread, NULL, admit_main, a);
	a->has_thread = !err;
	return err;
}

void admit_end(struct admit *a)
{
	if (!a || !a->has_thread)
		return;
	pthread_mutex_lock(&a->mutex);
	a->stop = true;
	pthread_cond_signal(&a->cond);
	pthread_mutex_unlock(&a->mutex);
	pthread_join(a->thread, NULL);
	a->has_thread = false;
}

void admit_destroy(struct admit *a)
{
	if (!a)
		return;
	admit_end(a);
	assert(STAILQ_EMPTY(&a->answers));
	pthread_cond_destroy(&a->cond);
	pthread_mutex_destroy(&a->mutex);
	free(a);
}
