/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev_threads.c - the device by preadv2, pwritev2 and fdatasync in a small pool of threads.
 *
 * For where io_uring is denied.  The pool belongs to the device and serves all its queues; a thread is started
 * when an operation finds none idle, up to MAX_THREADS, and stays until the device is closed.  A worker
 * runs an operation to its end and hands it to the queue's inbox; the callback runs on the queue's thread.
 */
#include "core/dev_engine.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_THREADS 8

struct threads_dev {
	struct engine_dev base;
	struct lock lock; /* all below; never held across I/O */
	pthread_cond_t work; /* jobs is not empty, or closing */
	struct dev_io_list jobs;
	unsigned njobs;
	unsigned nthreads;
	unsigned nidle; /* waiting for `work` */
	bool closing;
	pthread_t threads[MAX_THREADS];
};

static int64_t transfer_once(const struct dev *dev, const struct dev_io *io, struct iovec *room)
{
	const struct iovec *iov;
	off_t off = (off_t)(io->off + io->moved);
	int niov;
	ssize_t rc;

	switch (io->op) {
	case DEV_READ:
		niov = engine_iov_rest(io, &iov, room);
		rc = preadv(dev->fd, iov, niov, off);
		break;
	case DEV_WRITE:
		if (engine_flushes(io)) {
			rc = fdatasync(dev->fd);
			break;
		}
		niov = engine_iov_rest(io, &iov, room);
		rc = pwritev2(dev->fd, iov, niov, off, io->flags & DEV_DURABLE ? RWF_DSYNC : 0);
		break;
	default:
		rc = fdatasync(dev->fd);
		break;
	}
	return rc < 0 ? -errno : rc;
}

static int run_job(struct engine_dev *dev, struct dev_io *io)
{
	struct iovec room[ENGINE_IOV_MAX];

	if (io->op == DEV_DISCARD)
		return engine_discard_now(&dev->pub, io->off, io->len);
	while (!engine_advance(io, transfer_once(&dev->pub, io, room), dev->grain))
		;
	return io->result;
}

/* The next job, or NULL when the device closes. */
static struct dev_io *next_job_locked(struct threads_dev *dev)
{
	struct dev_io *io;

	while (STAILQ_EMPTY(&dev->jobs) && !dev->closing) {
		dev->nidle++;
		/* The mutex is let go in there: it must not look like ours meanwhile. */
		atomic_store_explicit(&dev->lock.owner, (pthread_t)0, memory_order_relaxed);
		pthread_cond_wait(&dev->work, &dev->lock.mutex);
		atomic_store_explicit(&dev->lock.owner, pthread_self(), memory_order_relaxed);
		dev->nidle--;
	}
	io = STAILQ_FIRST(&dev->jobs);
	if (io) {
		STAILQ_REMOVE_HEAD(&dev->jobs, link);
		dev->njobs--;
	}
	return io;
}

static void *worker(void *arg)
{
	struct threads_dev *dev = arg;

	for (;;) {
		lock_take(&dev->lock);
		struct dev_io *io = next_job_locked(dev);
		lock_drop(&dev->lock);
		if (!io)
			return NULL;

		int err = run_job(&dev->base, io);

		engine_put_done(engine_queue_of(io->queue), io, err);
	}
}

/* Signals are for the program's own threads. */
static int start_thread_locked(struct threads_dev *dev)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&dev->threads[dev->nthreads], NULL, worker, dev);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!err)
		dev->nthreads++;
	return -err;
}

static void threads_submit(struct dev_queue *dq, struct dev_io *io)
{
	struct threads_dev *dev = (struct threads_dev *)dq->dev;
	struct engine_queue *q = engine_queue_of(dq);
	engine_begin(q, io);

	int err = engine_refuses(dq->dev, io);

	if (err) {
		engine_put_done(q, io, err);
		return;
	}
	lock_take(&dev->lock);
	if (dev->nidle <= dev->njobs && dev->nthreads < MAX_THREADS)
		err = start_thread_locked(dev);
	/* One thread is enough to get on with. */
	if (dev->nthreads) {
		STAILQ_INSERT_TAIL(&dev->jobs, io, link);
		dev->njobs++;
		err = 0;
		pthread_cond_signal(&dev->work);
	}
	lock_drop(&dev->lock);
	if (err)
		engine_put_done(q, io, err);
}

static int threads_poll(struct dev_queue *dq, int timeout_ms)
{
	static const struct engine_hooks none = {0};

	return engine_poll(engine_queue_of(dq), timeout_ms, &none);
}

static int threads_queue_create(struct dev *dev, struct dev_queue **out)
{
	struct engine_queue *q = calloc(1, sizeof(*q));
	int err;

	if (!q)
		return -ENOMEM;
	err = engine_queue_init(q, dev, true);
	if (err) {
		free(q);
		return err;
	}
	*out = &q->pub;
	return 0;
}

static void threads_queue_destroy(struct dev_queue *dq)
{
	struct engine_queue *q = engine_queue_of(dq);

	while (q->pending)
		threads_poll(dq, -1);
	engine_queue_fini(q);
	free(q);
}

static void threads_close(struct dev *pub)
{
	struct threads_dev *dev = (struct threads_dev *)pub;

	lock_take(&dev->lock);
	dev->closing = true;
	pthread_cond_broadcast(&dev->work);
	lock_drop(&dev->lock);
	for (unsigned i = 0; i < dev->nthreads; i++)
		pthread_join(dev->threads[i], NULL);
	pthread_cond_destroy(&dev->work);
	lock_fini(&dev->lock);
	engine_dev_fini(pub);
	free(dev);
}

static const struct dev_ops threads_ops = {
	.name = "threads",
	.close = threads_close,
	.queue_create = threads_queue_create,
	.queue_destroy = threads_queue_destroy,
	.submit = threads_submit,
	.poll = threads_poll,
	.queue_fd = engine_queue_fd,
	.wake = engine_wake,
	.post = engine_post,
	.stats = engine_stats,
};

int dev_threads_create(const struct engine_dev *proto, struct dev **out)
{
	struct threads_dev *dev = calloc(1, sizeof(*dev));

	if (!dev)
		return -ENOMEM;
	dev->base = *proto;
	dev->base.pub.ops = &threads_ops;
	dev->base.pub.queue_depth = MAX_THREADS;
	dev->base.pub.limited = false;
	lock_init(&dev->lock);
	pthread_cond_init(&dev->work, NULL);
	STAILQ_INIT(&dev->jobs);
	*out = &dev->base.pub;
	return 0;
}
