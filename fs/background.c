/* SPDX-License-Identifier: Apache-2.0 */
/* background.c - two threads of the same shape: wait on the queue until wanted, work, again. */
#include "fs/background.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define HOUR_MS 3600000
#define PERIOD_FILE "/proc/sys/vm/dirtytime_expire_seconds" /* for how long lazy times wait, here as on other file systems */
/* How often that is read, as long as there are any, and what could not be removed is tried again. */
#define PERIOD_MS 1000
#define IDLE_MS 30000 /* unchanged for so long: checkpoint, so that the next mount has nothing to replay */

struct background;

struct job {
	struct background *b;
	struct dev_queue *q;
	pthread_t thread;
	bool has_thread;
	_Atomic bool wanted;
	_Atomic bool stop;
};

/* Somebody wants the volume to rest. */
struct rest {
	struct dev_event done;
	int err;
};

struct background {
	const struct diag *diag;
	struct volume *v;
	struct fs *fs;
	struct job checkpoint, service;
	struct rest *_Atomic rest;
	_Atomic bool no_service; /* asked for by the owner */
	struct dev_queue *ender; /* whom to tell that it is so; set before no_service */
	_Atomic bool service_ended;
	int period_fd; /* of PERIOD_FILE, or -1 */
	int64_t period_read_ms; /* when that was last read.  Of the service thread */
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void job_want(struct job *job)
{
	atomic_store(&job->wanted, true);
	dev_wake(job->q);
}

void background_want_checkpoint(void *background)
{
	job_want(&((struct background *)background)->checkpoint);
}

void background_want_service(void *background)
{
	job_want(&((struct background *)background)->service);
}

/* --- checkpoints --- */

static bool is_due(struct volume *v)
{
	bool due;

	volume_lock(v);
	due = volume_checkpoint_due(v);
	volume_unlock(v);
	return due;
}

/* Nothing has been changed since `*seen_lsn`, but something since the last checkpoint.  Moves *seen_lsn. */
static bool is_idle(struct volume *v, uint64_t *seen_lsn)
{
	bool idle;

	volume_lock(v);
	idle = v->applied_lsn == *seen_lsn && v->applied_lsn != v->checkpoint_lsn;
	*seen_lsn = v->applied_lsn;
	volume_unlock(v);
	return idle && !volume_writable(v);
}

int background_rest(struct background *b, struct dev_queue *q)
{
	struct rest *none = NULL, rest;

	dev_event_init(&rest.done, q);
	if (!atomic_compare_exchange_strong(&b->rest, &none, &rest))
		return -EBUSY;
	job_want(&b->checkpoint);
	dev_event_wait(&rest.done);
	return rest.err;
}

static bool rest_if_asked(struct background *b)
{
	struct rest *rest = atomic_load(&b->rest);

	if (!rest)
		return false;
	rest->err = volume_rest(b->v, b->checkpoint.q);
	atomic_store(&b->rest, NULL);
	dev_event_set(&rest->done);
	return true;
}

static void *checkpoint_main(void *arg)
{
	struct job *job = arg;
	struct volume *v = job->b->v;
	int64_t idle_at = now_ms() + IDLE_MS;
	uint64_t seen_lsn = 0;

	while (!job->stop) {
		bool wanted = atomic_exchange(&job->wanted, false);
		int64_t left = idle_at - now_ms();

		if (rest_if_asked(job->b))
			continue;

		if (left <= 0) {
			wanted |= is_idle(v, &seen_lsn);
			left = IDLE_MS;
			idle_at = now_ms() + IDLE_MS;
		}
		/* An error has made the volume read-only and has been reported: nothing to do about it here. */
		if (wanted || is_due(v))
			(void)volume_checkpoint(v, job->q, 0);
		else
			dev_poll(job->q, (int)left);
	}
	return NULL;
}

/* --- removals, and times that are old enough --- */

/* 0: there is none. */
static unsigned read_period(int fd)
{
	char text[16];
	ssize_t n = fd < 0 ? 0 : pread(fd, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	return (unsigned)strtoul(text, NULL, 10);
}

/* The administrator may have changed it.  Nothing tells us so. */
static void look_at_period(struct background *b)
{
	if (now_ms() < b->period_read_ms + PERIOD_MS || fs_lazy_left(b->fs) < 0)
		return;
	b->period_read_ms = now_ms();
	fs_set_lazy_period(b->fs, read_period(b->period_fd));
}

/* For how long the service thread has nothing to do. */
static int64_t service_pause(struct background *b)
{
	int64_t left = fs_lazy_left(b->fs);

	if (left < 0)
		return fs_service_left(b->fs) ? PERIOD_MS : HOUR_MS;
	/* One that is due now could not be written. */
	return left && left < PERIOD_MS ? left : PERIOD_MS;
}

static void *service_main(void *arg)
{
	struct job *job = arg;
	struct background *b = job->b;
	int64_t look_at = now_ms();

	while (!job->stop) {
		if (b->no_service && !b->service_ended) {
			b->service_ended = true;
			dev_wake(b->ender);
		}

		int64_t left = look_at - now_ms();

		/* Serving the queue between two pieces of work: its I/O is part of other threads' commits. */
		if (!b->no_service && (atomic_exchange(&job->wanted, false) || left <= 0)) {
			look_at_period(b);
			if (fs_service(b->fs, job->q))
				job->wanted = true;
			look_at = now_ms() + service_pause(b);
			dev_poll(job->q, 0);
		} else {
			dev_poll(job->q, b->no_service || left > HOUR_MS ? HOUR_MS : (int)left);
		}
	}
	return NULL;
}

/* --- life --- */

static int job_init(struct job *job, struct background *b, struct dev *dev)
{
	job->b = b;
	return dev_queue_create(dev, &job->q);
}

static int job_start(struct job *job, void *(*main)(void *))
{
	int err = -pthread_create(&job->thread, NULL, main, job);

	job->has_thread = !err;
	return err;
}

static void job_stop(struct job *job)
{
	if (!job->has_thread)
		return;
	job->stop = true;
	dev_wake(job->q);
	pthread_join(job->thread, NULL);
	job->has_thread = false;
}

int background_create(struct dev *dev, const struct diag *diag, struct background **out)
{
	struct background *b = calloc(1, sizeof(*b));
	int err;

	if (!b)
		return -ENOMEM;
	b->diag = diag;
	b->period_fd = open(PERIOD_FILE, O_RDONLY | O_CLOEXEC);
	b->period_read_ms = INT64_MIN / 2;
	err = job_init(&b->checkpoint, b, dev);
	if (!err)
		err = job_init(&b->service, b, dev);
	if (err) {
		background_destroy(b);
		return err;
	}
	*out = b;
	return 0;
}

int background_start_checkpoints(struct background *b, struct volume *v)
{
	if (b->checkpoint.has_thread)
		return 0;
	b->v = v;
	return job_start(&b->checkpoint, checkpoint_main);
}

int background_start_service(struct background *b, struct fs *fs)
{
	if (b->service.has_thread)
		return 0;
	b->fs = fs;
	return job_start(&b->service, service_main);
}

void background_end_service(struct background *b, struct dev_queue *q)
{
	if (!b->service.has_thread)
		return;
	b->ender = q;
	b->no_service = true;
	dev_wake(b->service.q);
	while (!b->service_ended)
		dev_poll(q, -1);
}

void background_destroy(struct background *b)
{
	if (!b)
		return;
	job_stop(&b->service);
	job_stop(&b->checkpoint);
	if (b->service.q)
		dev_queue_destroy(b->service.q);
	if (b->checkpoint.q)
		dev_queue_destroy(b->checkpoint.q);
	if (b->period_fd >= 0)
		close(b->period_fd);
	free(b);
}

/* --- commit timer --- */

void commit_timer_init(struct commit_timer *t, struct volume *v, struct dev_queue *q, unsigned interval_sec)
{
	*t = (struct commit_timer){.v = v, .q = q};
	if (v->log)
		t->interval_ms = interval_sec * 1000;
	t->next_ms = now_ms() + t->interval_ms;
}

/* An error is the log's: it has turned the volume read-only and said so. */
static void timer_done(struct log_waiter *w, int err)
{
	struct commit_timer *t = (struct commit_timer *)((char *)w - offsetof(struct commit_timer, waiter));
	struct dev_queue *q = t->q;

	(void)err;
	t->busy = false;
	dev_wake(q);
}

static void start_commit(struct commit_timer *t)
{
	uint64_t lsn = log_append_lsn(t->v->log);

	if (t->busy || lsn <= log_durable_lsn(t->v->log))
		return;
	t->waiter = (struct log_waiter){.lsn = lsn, .done = timer_done};
	t->busy = true;
	if (log_sync(t->v->log, t->q, lsn, &t->waiter) != -EINPROGRESS)
		t->busy = false;
}

void commit_timer_set(struct commit_timer *t, unsigned interval_sec)
{
	if (!t->v->log)
		return;
	t->interval_ms = interval_sec * 1000;
	dev_wake(t->q);
}

int commit_timer_run(struct commit_timer *t)
{
	int64_t interval = t->interval_ms, left = t->next_ms - now_ms();

	if (!interval)
		return -1;
	/* Longer than it can be: the interval has been made shorter. */
	if (left <= 0 || left > interval) {
		start_commit(t);
		left = interval;
		t->next_ms = now_ms() + left;
	}
	return (int)left;
}

int commit_timer_finish(struct commit_timer *t)
{
	int err = 0;

	if (t->v->log)
		err = log_sync_wait(t->v->log, t->q, log_append_lsn(t->v->log));
	while (t->busy)
		dev_poll(t->q, -1);
	return err;
}
