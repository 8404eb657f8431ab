/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev_uring.c - the device by io_uring, one ring per queue.
 *
 * Always holds:
 *   1. At most DEPTH operations are in the ring, each in a slot of its own and with one completion to
 *      come; the rest wait in `waiting`.  The completion queue has twice as many entries as the submission queue, and that has
 *      room for all slots and guests, so io_uring_get_sqe() cannot fail.
 *   2. An entry is in the submission queue from its preparation until the kernel has taken it.  Outside dev_poll() that is
 *      empty unless the kernel was short of memory, or guests wait for the next dev_poll().
 *   3. There is a single thing to wait for.  Each completion signals the queue's eventfd, which is also what posts and wakes signal.  A shared
 *      queue's owner waits for completions, and the ring watches the eventfd.
 *   4. Completions of slots, of guests and of the watch are told apart by the lowest bits of their user data.
 *
 * No SINGLE_ISSUER and no DEFER_TASKRUN: a queue may change hands between threads.  The registered
 * file saves the kernel a reference count per operation; without it the results are the same.
 */
#include "core/dev_uring.h"

#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/dev_engine.h"
#include "core/tsan.h"
#include "core/uring_limits.h"

#define DEPTH 128u
#define SHARED_ENTRIES (2 * DEV_GUESTS_MAX)
static_assert(DEPTH + DEV_GUESTS_MAX < SHARED_ENTRIES, "there is an entry for everything");
#define STUCK_RETRY_MS 10 /* when the kernel had no memory for a submission */
#define DEATH_GRACE_MS 5000 /* for completions of what a broken ring had taken */

/* What a completion is of: the lowest bits of its user data. */
enum tag { TAG_SLOT, TAG_GUEST, TAG_WATCH, TAG_MASK };

struct slot {
	struct dev_io *io; /* NULL: free */
	STAILQ_ENTRY(slot) link; /* in free */
	struct iovec *room; /* ENGINE_IOV_MAX entries for a continued transfer */
};
STAILQ_HEAD(slot_list, slot);

struct uring_queue {
	struct engine_queue base;
	struct io_uring ring;
	bool fixed_file; /* the ring has files of its own: 0 is the device, or nothing, see prep_sqe() */
	bool by_number; /* the device's file is not one of them */
	bool shared;
	bool watching; /* shared: the ring has an eye on the eventfd */
	bool dead; /* io_uring_enter() failed for good */
	int64_t give_up_ms; /* when dead: on the monotonic clock, see fail_taken() */
	struct slot slots[DEPTH];
	struct slot_list free;
	unsigned nused; /* slots with an operation */
	struct dev_io_list waiting;
	struct iovec *rooms; /* all slots' `room`; untouched pages cost nothing */
};

#define ROOMS_BYTES ((size_t)DEPTH * ENGINE_IOV_MAX * sizeof(struct iovec))

static void prep_sqe(struct uring_queue *q, struct slot *slot, struct io_uring_sqe *sqe)
{
	struct dev_io *io = slot->io;
	bool fixed = q->fixed_file && !q->by_number;
	int fd = fixed ? 0 : q->base.pub.dev->fd;
	const struct iovec *iov;
	int niov;

	switch (io->op) {
	case DEV_READ:
		niov = engine_iov_rest(io, &iov, slot->room);
		io_uring_prep_readv(sqe, fd, iov, (unsigned)niov, io->off + io->moved);
		break;
	case DEV_WRITE:
		if (engine_flushes(io)) {
			io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
			break;
		}
		niov = engine_iov_rest(io, &iov, slot->room);
		io_uring_prep_writev2(sqe, fd, iov, (unsigned)niov, io->off + io->moved,
				      io->flags & DEV_DURABLE ? RWF_DSYNC : 0);
		break;
	case DEV_FLUSH:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	case DEV_DISCARD:
		io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)io->off,
					(off_t)io->len);
		break;
	}
	if (fixed)
		io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, slot);
}

/* The whole operation although a part may have been done: it is the kernel's as a whole until its completion. */
static void give_buffers(struct slot *slot)
{
	const struct dev_io *io = slot->io;

	if (io->op == DEV_WRITE)
		tsan_reads(io->iov, io->niov);
	if (io->op == DEV_READ)
		tsan_wrote(io->iov, io->niov);
	tsan_give(slot);
}

static void take_buffers(struct slot *slot)
{
	const struct dev_io *io = slot->io;

	tsan_take(slot);
	if (io->op == DEV_WRITE)
		tsan_reads(io->iov, io->niov);
	if (io->op == DEV_READ)
		tsan_wrote(io->iov, io->niov);
}

static void slot_send(struct uring_queue *q, struct slot *slot)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

	assert(sqe);
	prep_sqe(q, slot, sqe);
	give_buffers(slot);
}

/* Gives the slot back and its operation to the caller. */
static struct dev_io *slot_release(struct uring_queue *q, struct slot *slot)
{
	struct dev_io *io = slot->io;

	slot->io = NULL;
	STAILQ_INSERT_HEAD(&q->free, slot, link);
	q->nused--;
	return io;
}

static void fill_slots(struct uring_queue *q)
{
	while (!STAILQ_EMPTY(&q->waiting) && !STAILQ_EMPTY(&q->free)) {
		struct slot *slot = STAILQ_FIRST(&q->free);

		slot->io = STAILQ_FIRST(&q->waiting);
		STAILQ_REMOVE_HEAD(&q->free, link);
		STAILQ_REMOVE_HEAD(&q->waiting, link);
		q->nused++;
		slot_send(q, slot);
	}
}

static unsigned count_unsent(const struct uring_queue *q)
{
	return io_uring_sq_ready(&q->ring);
}

static void *untag(uint64_t data)
{
	return (void *)(uintptr_t)(data & ~(uint64_t)TAG_MASK);
}

/* Of slots; guests learn it from dev_uring_failed(). */
static void fail_unsent(struct uring_queue *q)
{
	const struct io_uring_sq *sq = &q->ring.sq;
	unsigned shift = q->shared ? 1 : 0;

	for (unsigned i = sq->sqe_tail - count_unsent(q); i != sq->sqe_tail; i++) {
		uint64_t data = sq->sqes[(i & sq->ring_mask) << shift].user_data;

		if ((data & TAG_MASK) == TAG_SLOT)
			engine_put_done(&q->base, slot_release(q, untag(data)), -EIO);
	}
}

/*
 * The ring is of no more use.  What the kernel has not taken fails at once; what it has taken still owns its
 * buffers and can still complete, because completions arrive through memory.  It gets some time.
 */
static void ring_died(struct uring_queue *q, int err)
{
	q->dead = true;
	q->give_up_ms = engine_now_ms() + DEATH_GRACE_MS;
	diag(q->base.pub.dev->diag, DIAG_ERR, "%s: io_uring failed: %s (errno %d)", q->base.pub.dev->path,
	     strerror(-err), -err);
	fail_unsent(q);
	while (!STAILQ_EMPTY(&q->waiting)) {
		struct dev_io *io = STAILQ_FIRST(&q->waiting);

		STAILQ_REMOVE_HEAD(&q->waiting, link);
		engine_put_done(&q->base, io, -EIO);
	}
}

/* After the grace a hang is worse than a buffer that the kernel might still touch. */
static void fail_taken(struct uring_queue *q)
{
	for (unsigned i = 0; i < DEPTH; i++)
		if (q->slots[i].io)
			engine_put_done(&q->base, slot_release(q, &q->slots[i]), -EIO);
}

/* Out of memory for now, or interrupted: the entries stay in the queue and are offered again. */
static bool is_passing(int err)
{
	return err == -EAGAIN || err == -EBUSY || err == -EINTR || err == -ENOMEM;
}

static void send_unsent(struct uring_queue *q)
{
	/* Asked of the ring itself each time: a submission may stop at a bad entry. */
	while (count_unsent(q)) {
		int rc = io_uring_submit(&q->ring);

		if (rc == -EINTR || rc > 0)
			continue;
		if (rc < 0 && !is_passing(rc))
			ring_died(q, rc);
		return;
	}
}

/* What waits for time to pass instead of a completion must still bring an epoll(7) user back to dev_poll(). */
static void stay_readable(struct uring_queue *q)
{
	if (q->dead ? q->nused : count_unsent(q))
		engine_signal(&q->base);
}

static void uring_submit(struct dev_queue *dq, struct dev_io *io)
{
	struct uring_queue *q = (struct uring_queue *)dq;
	engine_begin(&q->base, io);

	int err = engine_refuses(dq->dev, io);

	if (q->dead)
		err = -EIO;
	if (err) {
		engine_put_done(&q->base, io, err);
	} else if (io->op == DEV_DISCARD && dq->dev->is_block) {
		/* The ring has no operation for it before Linux 6.12. */
		engine_put_done(&q->base, io, engine_discard_now(dq->dev, io->off, io->len));
	} else {
		STAILQ_INSERT_TAIL(&q->waiting, io, link);
		/* One system call for the whole batch, in kick(): after a callback; of a shared queue always. */
		if (!q->base.polling && !q->shared) {
			fill_slots(q);
			send_unsent(q);
			stay_readable(q);
		}
	}
}

/* Callbacks run. */
static int slot_done(struct uring_queue *q, struct slot *slot, int res)
{
	take_buffers(slot);
	if (!engine_advance(slot->io, res, engine_dev_of(q->base.pub.dev)->grain)) {
		if (!q->dead) {
			slot_send(q, slot);
			return 0;
		}
		slot->io->result = -EIO;
	}

	struct dev_io *io = slot_release(q, slot);

	engine_finish(&q->base, io, io->result);
	return 1;
}

static int guest_done(struct dev_guest *guest, int res, bool more)
{
	tsan_take(guest);
	guest->done(guest, res, more);
	return 1;
}

static int reap(struct engine_queue *base)
{
	struct uring_queue *q = (struct uring_queue *)base;
	struct io_uring_cqe *cqe;
	int ran = 0;

	while (io_uring_peek_cqe(&q->ring, &cqe) == 0) {
		uint64_t data = cqe->user_data;
		bool more = cqe->flags & IORING_CQE_F_MORE;
		int res = cqe->res;

		io_uring_cqe_seen(&q->ring, cqe);
		switch (data & TAG_MASK) {
		case TAG_SLOT:
			ran += slot_done(q, untag(data), res);
			break;
		case TAG_GUEST:
			ran += guest_done(untag(data), res, more);
			break;
		default:
			q->watching = more;
		}
	}
	return ran;
}

/*
 * In one go for as long as the ring likes, and never read: every signal is a completion, so a count that has been seen may
 * stand.  Where it ends, what was signalled meanwhile completes the next one at once.
 */
static void watch(struct uring_queue *q)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

	assert(sqe);
	io_uring_prep_poll_multishot(sqe, q->base.efd, POLLIN);
	io_uring_sqe_set_data64(sqe, TAG_WATCH);
	q->watching = true;
}

/*
 * Is only I/O of the device to be handed over?  Then the answer takes its time, and one system call may hand over and wait.  What goes to guests
 * may wake those who have the next thing for us, so a look before waiting is worth its call.
 */
static bool sends_slots_only(const struct uring_queue *q)
{
	const struct io_uring_sq *sq = &q->ring.sq;

	for (unsigned i = sq->sqe_tail - count_unsent(q); i != sq->sqe_tail; i++)
		if ((sq->sqes[(i & sq->ring_mask) << 1].user_data & TAG_MASK) != TAG_SLOT)
			return false;
	return count_unsent(q) > 0;
}

static int kick(struct engine_queue *base, bool waits)
{
	struct uring_queue *q = (struct uring_queue *)base;
	int64_t left;

	if (!q->dead) {
		fill_slots(q);
		if (q->shared && !q->watching)
			watch(q);
		/* Then wait_in_ring() does it. */
		if (waits && q->shared && sends_slots_only(q))
			return -1;
		send_unsent(q);
	}
	if (!q->dead)
		return count_unsent(q) ? STUCK_RETRY_MS : -1;
	if (!q->nused)
		return -1;
	left = q->give_up_ms - engine_now_ms();
	if (left > 0)
		return (int)left;
	fail_taken(q);
	return 0;
}

/* Hands over what is there, and waits for a completion.  True: done, or not worth another try before the next look. */
static bool send_and_wait(struct uring_queue *q, int64_t wait_ms, struct __kernel_timespec *ts)
{
	struct io_uring_cqe *cqe;
	int rc = wait_ms < 0 ? io_uring_submit_and_wait(&q->ring, 1)
			     : io_uring_submit_and_wait_timeout(&q->ring, &cqe, 1, ts, NULL);

	if (rc >= 0 || rc == -EINTR || rc == -ETIME)
		return true;
	if (is_passing(rc))
		return false;
	ring_died(q, rc);
	return true;
}

/* Of a shared queue.  Any error is as good as a completion: the caller looks again. */
static void wait_in_ring(struct engine_queue *base, int64_t wait_ms)
{
	struct uring_queue *q = (struct uring_queue *)base;
	struct __kernel_timespec ts = {.tv_sec = wait_ms / 1000, .tv_nsec = wait_ms % 1000 * 1000000};
	struct pollfd p = {.fd = base->efd, .events = POLLIN};
	struct io_uring_cqe *cqe;

	if (!q->dead && count_unsent(q)) {
		if (send_and_wait(q, wait_ms, &ts))
			return;
		/* Some time later, then. */
		wait_ms = wait_ms < 0 || wait_ms > STUCK_RETRY_MS ? STUCK_RETRY_MS : wait_ms;
		ts = (struct __kernel_timespec){.tv_nsec = wait_ms * 1000000};
	}
	/* After a submission the answer to it may be there already: then no second system call. */
	if (io_uring_cq_ready(&q->ring))
		return;
	if (q->dead)
		poll(&p, 1, wait_ms > INT_MAX ? INT_MAX : (int)wait_ms);
	else if (wait_ms < 0)
		io_uring_wait_cqe(&q->ring, &cqe);
	else
		io_uring_wait_cqe_timeout(&q->ring, &cqe, &ts);
}

static int uring_poll(struct dev_queue *dq, int timeout_ms)
{
	static const struct engine_hooks own = {.reap = reap, .kick = kick};
	static const struct engine_hooks shared = {.reap = reap, .kick = kick, .wait = wait_in_ring};
	struct uring_queue *q = (struct uring_queue *)dq;

	int ran = engine_poll(&q->base, timeout_ms, q->shared && !q->dead ? &shared : &own);

	stay_readable(q);
	return ran;
}

/* Stands, for the sanitizer, for the address space: a ring is mapped unseen, perhaps where another thread's has been. */
static const char ring_memory;

static void unmap_ring(struct uring_queue *q)
{
	tsan_give(&ring_memory);
	io_uring_queue_exit(&q->ring);
}

/*
 * A ring, its eventfd and, if the kernel lets us, the registered file; with an empty place behind it for the guests'.  A device that is
 * read-only may get another file (dev_make_writable()), which a ring would not notice, and a limited one could not be told.
 */
static int make_ring(struct uring_queue *q, unsigned flags)
{
	/* FAST_POLL stands for Linux 5.7, by when all operations used here had arrived. */
	const unsigned needed = IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_FAST_POLL |
				(q->shared ? IORING_FEAT_EXT_ARG : 0);
	/* One bad command of a guest must not hold up the others. */
	struct io_uring_params params = {
		.flags = flags | (q->shared ? IORING_SETUP_SQE128 | IORING_SETUP_SUBMIT_ALL : 0),
	};
	int files[] = {q->by_number ? -1 : q->base.pub.dev->fd, -1};
	int err = io_uring_queue_init_params(q->shared ? SHARED_ENTRIES : DEPTH, &q->ring, &params);

	if (err)
		return err;
	tsan_take(&ring_memory);
	err = (params.features & needed) == needed ? 0 : -ENOSYS;
	if (!err && !q->shared)
		err = io_uring_register_eventfd(&q->ring, q->base.efd);
	if (err) {
		unmap_ring(q);
		return err;
	}
	q->fixed_file = io_uring_register_files(&q->ring, files, q->shared ? 2 : 1) == 0;
	return 0;
}

static int make_limited_ring(struct uring_queue *q)
{
	int err = make_ring(q, IORING_SETUP_R_DISABLED);

	if (err)
		return err;
	err = uring_limit_and_enable(&q->ring, q->shared);
	if (err)
		unmap_ring(q);
	return err;
}

/* The trial ring of dev_uring_create() finds out whether the kernel knows limits; it is the same for all that follow. */
static int setup_ring(struct uring_queue *q)
{
	if (q->base.pub.dev->limited)
		return make_limited_ring(q);
	return make_ring(q, 0);
}

static int setup_slots(struct uring_queue *q)
{
	q->rooms = mmap(NULL, ROOMS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (q->rooms == MAP_FAILED)
		return -ENOMEM;
	STAILQ_INIT(&q->free);
	STAILQ_INIT(&q->waiting);
	for (unsigned i = 0; i < DEPTH; i++) {
		q->slots[i].room = q->rooms + (size_t)i * ENGINE_IOV_MAX;
		STAILQ_INSERT_TAIL(&q->free, &q->slots[i], link);
	}
	return 0;
}

static int make_queue(struct dev *dev, bool shared, struct dev_queue **out)
{
	struct uring_queue *q = calloc(1, sizeof(*q));
	int err;

	if (!q)
		return -ENOMEM;
	q->shared = shared;
	q->by_number = dev->read_only;
	err = engine_queue_init(&q->base, dev, true);
	if (err)
		goto free_queue;
	err = setup_slots(q);
	if (err)
		goto fini_base;
	err = setup_ring(q);
	if (err)
		goto unmap_rooms;
	*out = &q->base.pub;
	return 0;

unmap_rooms:
	munmap(q->rooms, ROOMS_BYTES);
fini_base:
	engine_queue_fini(&q->base);
free_queue:
	free(q);
	return err;
}

static int uring_queue_create(struct dev *dev, struct dev_queue **out)
{
	return make_queue(dev, false, out);
}

static void uring_queue_destroy(struct dev_queue *dq)
{
	struct uring_queue *q = (struct uring_queue *)dq;

	while (q->base.pending)
		uring_poll(dq, -1);
	/* Else the kernel lets go of the file only when it takes down the ring, some time after close(2). */
	if (q->fixed_file)
		io_uring_unregister_files(&q->ring);
	unmap_ring(q);
	munmap(q->rooms, ROOMS_BYTES);
	engine_queue_fini(&q->base);
	free(q);
}

static void uring_close(struct dev *dev)
{
	engine_dev_fini(dev);
	free(dev);
}

static const struct dev_ops uring_ops = {
	.name = "uring",
	.close = uring_close,
	.queue_create = uring_queue_create,
	.queue_destroy = uring_queue_destroy,
	.submit = uring_submit,
	.poll = uring_poll,
	.queue_fd = engine_queue_fd,
	.wake = engine_wake,
	.post = engine_post,
	.stats = engine_stats,
};

int dev_uring_create(const struct engine_dev *proto, struct dev **out)
{
	struct engine_dev *dev = malloc(sizeof(*dev));
	struct dev_queue *trial;
	int err;

	if (!dev)
		return -ENOMEM;
	*dev = *proto;
	dev->pub.ops = &uring_ops;
	dev->pub.queue_depth = DEPTH;
	/* Whoever asks for io_uring learns here that it is denied, not at the first queue. */
	err = uring_queue_create(&dev->pub, &trial);
	if (err && dev->pub.limited) {
		dev->pub.limited = false;
		err = uring_queue_create(&dev->pub, &trial);
	}
	if (err) {
		free(dev);
		return err;
	}
	uring_queue_destroy(trial);
	*out = &dev->pub;
	return 0;
}

/* --- guests ------------------------------------------------------------------------------------ */

int dev_uring_queue_create(struct dev *dev, struct dev_queue **out)
{
	if (dev->ops != &uring_ops)
		return -ENOTSUP;

	int err = make_queue(dev, true, out);

	return err == -EINVAL || err == -ENOSYS ? -ENOTSUP : err;
}

static struct uring_queue *shared_queue_of(const struct dev_queue *dq)
{
	struct uring_queue *q = (struct uring_queue *)dq;

	assert(dq->dev->ops == &uring_ops && q->shared);
	return q;
}

struct io_uring_sqe *dev_uring_sqe(struct dev_queue *dq, struct dev_guest *guest)
{
	struct uring_queue *q = shared_queue_of(dq);

	if (q->dead)
		return NULL;

	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

	assert(sqe);
	memset(sqe, 0, 2 * sizeof(*sqe));
	io_uring_sqe_set_data64(sqe, (uintptr_t)guest | TAG_GUEST);
	tsan_give(guest);
	return sqe;
}

void dev_uring_poll(struct dev_queue *dq, struct dev_guest *guest, int fd)
{
	struct io_uring_sqe *sqe = dev_uring_sqe(dq, guest);
	uint64_t data = sqe ? sqe->user_data : 0;

	if (!sqe)
		return;
	io_uring_prep_poll_multishot(sqe, fd, POLLIN);
	io_uring_sqe_set_data64(sqe, data);
}

int dev_uring_guest_file(struct dev_queue *dq, int fd)
{
	struct uring_queue *q = shared_queue_of(dq);

	if (!q->fixed_file)
		return -ENOTSUP;

	int rc = io_uring_register_files_update(&q->ring, DEV_GUEST_FILE, &fd, 1);

	return rc < 0 ? rc : rc == 1 ? 0 : -EIO;
}

bool dev_uring_failed(const struct dev_queue *dq)
{
	return shared_queue_of(dq)->dead;
}
