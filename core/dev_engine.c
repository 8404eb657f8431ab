/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev_engine.c - what the engines share: counters, the inbox, the poll loop, short transfers.
 *
 * No system call that moves data is made here, except the synchronous discard.
 */
#include "core/dev_engine.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

int engine_queue_init(struct engine_queue *q, struct dev *dev, bool with_efd)
{
	q->efd = -1;
	if (with_efd) {
		q->efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (q->efd < 0)
			return -errno;
	}
	q->pub.dev = dev;
	lock_init(&q->lock);
	STAILQ_INIT(&q->tasks);
	STAILQ_INIT(&q->done);
	q->woken = false;
	q->polling = false;
	q->pending = 0;
	return 0;
}

void engine_queue_fini(struct engine_queue *q)
{
	if (q->efd >= 0)
		close(q->efd);
	lock_fini(&q->lock);
}

static void count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

void engine_begin(struct engine_queue *q, struct dev_io *io)
{
	struct engine_counters *c = &engine_dev_of(q->pub.dev)->count;

	io->queue = &q->pub;
	io->moved = 0;
	io->result = 0;
	io->priv = NULL;
	q->pending++;
	/* In one order with the look at `shut`, engine_refuses(): what dev_settle() does not see here is refused there. */
	atomic_fetch_add(&c->in_flight, 1);
	count(&c->ops[io->op], 1);
	if (io->op == DEV_READ)
		count(&c->read_bytes, io->len);
	if (io->op == DEV_WRITE)
		count(&c->write_bytes, io->len);
	if (io->op == DEV_WRITE && (io->flags & DEV_DURABLE))
		count(&c->durable_writes, 1);
}

static void report(const struct dev *dev, const struct dev_io *io, int err)
{
	static const char *const names[] = {"read", "write", "flush", "discard"};

	if (io->op == DEV_FLUSH)
		diag(dev->diag, DIAG_ERR, "%s: flush: %s (errno %d)", dev->path, strerror(-err), -err);
	else
		diag(dev->diag, DIAG_ERR, "%s: %s at %llu+%llu: %s (errno %d)", dev->path, names[io->op],
		     (unsigned long long)io->off, (unsigned long long)io->len, strerror(-err), -err);
}

void engine_finish(struct engine_queue *q, struct dev_io *io, int err)
{
	struct engine_counters *c = &engine_dev_of(q->pub.dev)->count;

	assert(q->pending > 0);
	q->pending--;
	if (err) {
		count(&c->errors, 1);
		if (!q->pub.dev->shut)
			report(q->pub.dev, io, err);
	}
	/* Before the callback: whoever it wakes may ask at once whether anything is left. */
	atomic_fetch_sub_explicit(&c->in_flight, 1, memory_order_relaxed);
	io->done(io, err);
}

int engine_refuses(const struct dev *dev, const struct dev_io *io)
{
	if (atomic_load(&dev->shut))
		return -EIO;
	if (dev->read_only && (io->op == DEV_WRITE || io->op == DEV_DISCARD))
		return -EBADF;
	return 0;
}

/* Under the lock: once the owner has taken what was put in, nobody is on the way to `efd` any more, and
 * the queue may go. */
static void signal_locked(struct engine_queue *q)
{
	uint64_t one = 1;

	LOCK_ASSERT_HELD(&q->lock);
	if (q->efd < 0)
		return;
	/* EAGAIN is a counter at its limit, and so readable. */
	while (write(q->efd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void engine_put_done(struct engine_queue *q, struct dev_io *io, int err)
{
	lock_take(&q->lock);
	io->result = err;
	STAILQ_INSERT_TAIL(&q->done, io, link);
	signal_locked(q);
	lock_drop(&q->lock);
}

void engine_signal(struct engine_queue *q)
{
	lock_take(&q->lock);
	signal_locked(q);
	lock_drop(&q->lock);
}

void engine_wake(struct dev_queue *dq)
{
	struct engine_queue *q = engine_queue_of(dq);

	lock_take(&q->lock);
	q->woken = true;
	signal_locked(q);
	lock_drop(&q->lock);
}

void engine_post(struct dev_queue *dq, struct dev_task *task)
{
	struct engine_queue *q = engine_queue_of(dq);

	lock_take(&q->lock);
	STAILQ_INSERT_TAIL(&q->tasks, task, link);
	signal_locked(q);
	lock_drop(&q->lock);
}

int engine_queue_fd(struct dev_queue *dq)
{
	return engine_queue_of(dq)->efd;
}

void engine_stats(struct dev *dev, struct dev_stats *out)
{
	struct engine_counters *c = &engine_dev_of(dev)->count;

	*out = (struct dev_stats){
		.reads = c->ops[DEV_READ],
		.writes = c->ops[DEV_WRITE],
		.durable_writes = c->durable_writes,
		.flushes = c->ops[DEV_FLUSH],
		.discards = c->ops[DEV_DISCARD],
		.read_bytes = c->read_bytes,
		.write_bytes = c->write_bytes,
		.errors = c->errors,
		.in_flight = atomic_load(&c->in_flight),
	};
}

int engine_run_inbox(struct engine_queue *q, bool *woken)
{
	struct dev_io_list done = STAILQ_HEAD_INITIALIZER(done);
	struct dev_task_list tasks = STAILQ_HEAD_INITIALIZER(tasks);
	int ran = 0;

	lock_take(&q->lock);
	STAILQ_CONCAT(&done, &q->done);
	STAILQ_CONCAT(&tasks, &q->tasks);
	*woken |= q->woken;
	q->woken = false;
	lock_drop(&q->lock);

	while (!STAILQ_EMPTY(&done)) {
		struct dev_io *io = STAILQ_FIRST(&done);

		STAILQ_REMOVE_HEAD(&done, link);
		engine_finish(q, io, io->result);
		ran++;
	}
	while (!STAILQ_EMPTY(&tasks)) {
		struct dev_task *task = STAILQ_FIRST(&tasks);

		STAILQ_REMOVE_HEAD(&tasks, link);
		task->run(task);
		ran++;
	}
	return ran;
}

int64_t engine_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void empty_efd(struct engine_queue *q)
{
	uint64_t n;

	while (read(q->efd, &n, sizeof(n)) < 0 && errno == EINTR)
		;
}

/* Waits for `efd`.  Returns early, as after a timeout, for any reason: the caller looks again. */
static void wait_efd(struct engine_queue *q, int64_t wait_ms)
{
	struct pollfd p = {.fd = q->efd, .events = POLLIN};

	poll(&p, 1, wait_ms > INT_MAX ? INT_MAX : (int)wait_ms);
}

static int64_t shorter(int64_t a_ms, int64_t b_ms)
{
	if (a_ms < 0)
		return b_ms;
	if (b_ms < 0)
		return a_ms;
	return a_ms < b_ms ? a_ms : b_ms;
}

int engine_poll(struct engine_queue *q, int timeout_ms, const struct engine_hooks *hooks)
{
	int64_t deadline = timeout_ms > 0 ? engine_now_ms() + timeout_ms : 0;
	int64_t left = timeout_ms;

	assert(!q->polling);
	for (;;) {
		bool woken = false;
		int ran = 0;

		/* First: what completes after this line makes `efd` readable again. */
		if (!hooks->wait)
			empty_efd(q);
		q->polling = true;
		if (hooks->reap)
			ran += hooks->reap(q);
		ran += engine_run_inbox(q, &woken);
		bool waits = !ran && !woken && timeout_ms;
		int limit = hooks->kick ? hooks->kick(q, waits) : -1;
		q->polling = false;

		if (timeout_ms > 0)
			left = deadline - engine_now_ms();
		if (ran || woken || !timeout_ms || (timeout_ms > 0 && left <= 0))
			return ran;
		if (hooks->wait)
			hooks->wait(q, shorter(left, limit));
		else
			wait_efd(q, shorter(left, limit));
	}
}

bool engine_advance(struct dev_io *io, int64_t res, uint32_t grain)
{
	if (res == -EINTR || res == -EAGAIN)
		return false;
	io->result = res < 0 ? (int)res : 0;
	if (res < 0 || engine_flushes(io) || io->op == DEV_DISCARD)
		return true;

	uint64_t step = (uint64_t)res - (uint64_t)res % grain;

	/* Nothing moved although something is left: the device ends before its end. */
	if (!step || step > io->len - io->moved) {
		io->result = -EIO;
		return true;
	}
	io->moved += step;
	return io->moved == io->len &&
	       !(io->flags & DEV_DURABLE && engine_dev_of(io->queue->dev)->flush_after);
}

/* Takes `excess` bytes off the end of iov[0..n); returns the entries left. */
static int iov_trim(struct iovec *iov, int n, uint64_t excess)
{
	while (excess && iov[n - 1].iov_len <= excess)
		excess -= iov[--n].iov_len;
	if (excess)
		iov[n - 1].iov_len -= excess;
	return n;
}

int engine_iov_rest(const struct dev_io *io, const struct iovec **out, struct iovec *room)
{
	uint64_t skip = io->moved, total = 0;
	int i = 0, n = 0;

	if (!io->moved && io->niov <= ENGINE_IOV_MAX) {
		*out = io->iov;
		return io->niov;
	}
	while (skip >= io->iov[i].iov_len)
		skip -= io->iov[i++].iov_len;
	for (; i < io->niov && n < ENGINE_IOV_MAX; i++, skip = 0) {
		room[n].iov_base = (char *)io->iov[i].iov_base + skip;
		room[n].iov_len = io->iov[i].iov_len - skip;
		total += room[n++].iov_len;
	}
	if (i < io->niov)
		n = iov_trim(room, n, (io->moved + total) % io->queue->dev->align);
	*out = room;
	return n;
}

int engine_discard_now(struct dev *dev, uint64_t off, uint64_t len)
{
	uint64_t range[2] = {off, len};
	int rc;

	do {
		if (dev->is_block)
			rc = ioctl(dev->fd, BLKDISCARD, range);
		else
			rc = fallocate(dev->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off,
				       (off_t)len);
	} while (rc < 0 && (errno == EINTR || errno == EAGAIN));
	return rc < 0 ? -errno : 0;
}

void engine_dev_fini(struct dev *dev)
{
	if (dev->fd >= 0)
		close(dev->fd);
	free(dev->path);
}
