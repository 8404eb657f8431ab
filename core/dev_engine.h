/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev_engine.h - what the engines of dev.h share.  Included by core/dev*.c and their tests only.
 *
 * Every engine's device begins with a struct engine_dev and every engine's queue with a struct
 * engine_queue.  An operation passes engine_begin() once at submit and engine_finish() once at
 * the end; those two keep the counters.
 */
#ifndef HOLDFAST_CORE_DEV_ENGINE_H
#define HOLDFAST_CORE_DEV_ENGINE_H

#include <limits.h>

#include "core/dev.h"
#include "core/lock.h"

/* iovecs per system call; the kernel's UIO_MAXIOV. */
#define ENGINE_IOV_MAX 1024

STAILQ_HEAD(dev_io_list, dev_io);
STAILQ_HEAD(dev_task_list, dev_task);

/* struct dev_stats, counted from many threads. */
struct engine_counters {
	_Atomic uint64_t ops[4]; /* by enum dev_op */
	_Atomic uint64_t durable_writes, read_bytes, write_bytes, errors, in_flight;
};

struct engine_dev {
	struct dev pub;
	struct engine_counters count;
	/* What a short transfer's progress is rounded down to: the alignment with O_DIRECT, which would
	 * refuse to go on in mid-sector, else 1. */
	uint32_t grain;
	/* RWF_DSYNC is not to be relied on: a flush follows each durable write. */
	bool flush_after;
};

/*
 * A queue's common part.  The inbox is how other threads, and the owner itself, hand things to the
 * next dev_poll(): whatever is put in is followed by a write to `efd`, and dev_poll() empties
 * `efd` before it looks into the inbox, so nothing put in can be slept through.
 */
struct engine_queue {
	struct dev_queue pub;
	struct lock lock; /* the inbox; a leaf: nothing else is taken under it */
	struct dev_task_list tasks; /* under lock */
	struct dev_io_list done; /* under lock: finished, io->result is set, callback to run */
	bool woken; /* under lock */
	int efd; /* -1: single-threaded, nobody waits */
	bool polling; /* owner's: inside dev_poll() */
	uint64_t pending; /* owner's: submitted, callback not yet run */
};

static inline struct engine_dev *engine_dev_of(struct dev *dev)
{
	return (struct engine_dev *)dev;
}

static inline struct engine_queue *engine_queue_of(struct dev_queue *q)
{
	return (struct engine_queue *)q;
}

/* What an engine adds to engine_poll(); either may be NULL. */
struct engine_hooks {
	/* Runs the callbacks of what the engine itself knows to be complete; returns how many. */
	int (*reap)(struct engine_queue *q);
	/* Last thing before a return, or before a wait, if `waits`.  Returns the longest wait in ms, -1 for any. */
	int (*kick)(struct engine_queue *q, bool waits);
	/* Waits, -1 for any time, instead of waiting for `efd`; which is then neither read nor emptied. */
	void (*wait)(struct engine_queue *q, int64_t wait_ms);
};

/* `with_efd` false: queue_fd is -1.  Zero, or what eventfd(2) says. */
int engine_queue_init(struct engine_queue *q, struct dev *dev, bool with_efd);
void engine_queue_fini(struct engine_queue *q);

/* Counts `io` in and resets the engine's fields in it. */
void engine_begin(struct engine_queue *q, struct dev_io *io);
/* Counts `io` out, reports an error's operation, offset and errno, and runs the callback. */
void engine_finish(struct engine_queue *q, struct dev_io *io, int err);
/* Leaves `io` for the next dev_poll() to finish.  From any thread. */
void engine_put_done(struct engine_queue *q, struct dev_io *io, int err);
/* Makes queue_fd readable, and nothing else. */
void engine_signal(struct engine_queue *q);
/* -EIO once the device is shut; -EBADF for what changes a read-only device, as the kernel would say for a read-only descriptor.  After
 * engine_begin(). */
int engine_refuses(const struct dev *dev, const struct dev_io *io);

/* dev_poll() around the hooks. */
int engine_poll(struct engine_queue *q, int timeout_ms, const struct engine_hooks *hooks);
/* Runs what is in the inbox; returns how many callbacks and tasks.  *woken: a wake was consumed. */
int engine_run_inbox(struct engine_queue *q, bool *woken);

/* Milliseconds of the monotonic clock. */
int64_t engine_now_ms(void);

/* Ready-made members of struct dev_ops. */
int engine_queue_fd(struct dev_queue *q);
void engine_wake(struct dev_queue *q);
void engine_post(struct dev_queue *q, struct dev_task *task);
void engine_stats(struct dev *dev, struct dev_stats *out);

/*
 * Digests the result of one system call for `io`: a byte count or negative errno.  True when the
 * operation is over and io->result says how; false when it is to be continued from io->moved.  A write continued
 * from its end wants a flush.
 */
bool engine_advance(struct dev_io *io, int64_t res, uint32_t grain);

/* Is the next system call for `io` a flush? */
static inline bool engine_flushes(const struct dev_io *io)
{
	return io->op == DEV_FLUSH || (io->op == DEV_WRITE && io->moved == io->len);
}

/*
 * The iovecs of what is left of `io`, at most ENGINE_IOV_MAX: io's own where they can be used as they are,
 * else a copy in `room` (ENGINE_IOV_MAX entries), cut so that the rest starts at a multiple of the alignment.
 * Returns their number, at least 1.
 */
int engine_iov_rest(const struct dev_io *io, const struct iovec **out, struct iovec *room);

/* ioctl(BLKDISCARD) or fallocate(2); a negative errno or 0. */
int engine_discard_now(struct dev *dev, uint64_t off, uint64_t len);

/* Frees what dev_open_fd() filled in: the descriptor and the path. */
void engine_dev_fini(struct dev *dev);

/*
 * Constructors.  They take over `proto`'s public part, its descriptor and its path on success only.
 * dev_uring_create() tries whether a ring can be set up, and says what setting it up said if not.
 */
int dev_uring_create(const struct engine_dev *proto, struct dev **out);
int dev_threads_create(const struct engine_dev *proto, struct dev **out);

#endif
