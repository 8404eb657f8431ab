/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev.h - the outside world: one block device or image file, asynchronous, with callbacks.
 *
 * A struct dev is the open device; it is shared by all threads.  A struct dev_queue is one
 * thread's way to it: operations are submitted to a queue, and their callbacks run inside
 * dev_poll() on that queue, so on the thread that owns it.  dev_submit() never blocks and never
 * runs a callback itself.  An operation that the engine has no room for waits in the queue.
 *
 * Engines, chosen at open, with the same results:
 *   uring    io_uring, one ring per queue;
 *   threads  pread/pwrite/fdatasync in a small pool, for where io_uring is denied;
 *   sim      memory with a volatile write cache, single-threaded, seeded (dev_sim.h);
 *   record   a filter over another device that logs to a trace (dev_record.h).
 *
 * Engines loop over short transfers, retry EINTR and EAGAIN, and report anything else as
 * a negative errno in the callback, after a diag line with operation, offset and errno.
 *
 * Ordering: operations in flight together are unordered.  A flush covers the writes whose
 * completion was seen before the flush was submitted, and no others.
 *
 * A buffer belongs to the operation from dev_submit() until its callback runs.
 */
#ifndef HOLDFAST_CORE_DEV_H
#define HOLDFAST_CORE_DEV_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "core/err.h"

enum dev_op { DEV_READ, DEV_WRITE, DEV_FLUSH, DEV_DISCARD };

/* dev_io.flags, for DEV_WRITE: on stable storage (data and what is needed to read it back)
 * when the callback runs, this operation's own bytes only. */
#define DEV_DURABLE 1u

struct dev;
struct dev_queue;
struct dev_io;

typedef void dev_done_fn(struct dev_io *io, int err);

/*
 * One operation.  The caller fills the first part, owns the memory, and keeps it and the
 * buffers in place until `done` ran.  `off` and `len` are bytes, multiples of dev->align, and
 * so are the addresses and lengths of the iovecs (of dev->mem_align).  len == sum of the iovecs for
 * reads and writes; ignored for flush.
 */
struct dev_io {
	enum dev_op op;
	unsigned flags;
	uint64_t off;
	uint64_t len;
	const struct iovec *iov;
	int niov;
	dev_done_fn *done;	/* err: 0 or negative errno.  Runs once, in dev_poll() */
	struct iovec one;	/* for single-buffer operations; see dev_io_rw() */

	/* Engine's own from submit to done. */
	STAILQ_ENTRY(dev_io) link;
	uint64_t moved;		/* bytes transferred so far */
	int result;
	struct dev_queue *queue;
	void *priv;
	struct {
		uint64_t due, place;
		bool in_parts;
	} sim;			/* dev_sim.c's */
};

/* A function to run on a queue's own thread; memory is the caller's until it ran. */
struct dev_task {
	void (*run)(struct dev_task *task);
	STAILQ_ENTRY(dev_task) link;
};

/* Counters since open; each moves by one per operation, bytes by the operation's length. */
struct dev_stats {
	uint64_t reads, writes, durable_writes, flushes, discards;
	uint64_t read_bytes, write_bytes;
	uint64_t errors;	/* operations that ended in an error */
	uint64_t in_flight;	/* submitted, callback not yet run */
};

struct dev_ops;

/* Public part of every device.  Set at open, constant afterwards, but for `shut`, and what dev_make_writable() changes. */
struct dev {
	const struct dev_ops *ops;
	const struct diag *diag;
	char *path;		/* for messages */
	uint64_t size;		/* bytes */
	uint32_t align;		/* offsets and lengths: 512..4096, power of two */
	uint32_t mem_align;	/* buffer addresses; at most 4096 */
	uint32_t sector;	/* the largest unit assumed to be written atomically: logical sector */
	_Atomic bool read_only;
	bool is_block;		/* a block device, not a file */
	bool can_discard;	/* false while read_only */
	uint32_t queue_depth;	/* operations of one queue that the engine has under way at most; 0: no limit */
	bool limited;		/* uring: the kernel refuses in our rings what the engine does not use */
	int fd;			/* of the device; -1 for sim.  Owned by the dev */
	_Atomic bool shut;	/* by dev_shut() */
};

/* Public part of every queue. */
struct dev_queue {
	struct dev *dev;
};

struct dev_ops {
	const char *name;	/* "uring", "threads", "sim", "record" */
	void (*close)(struct dev *dev);
	int (*queue_create)(struct dev *dev, struct dev_queue **out);
	void (*queue_destroy)(struct dev_queue *q);
	void (*submit)(struct dev_queue *q, struct dev_io *io);
	int (*poll)(struct dev_queue *q, int timeout_ms);
	int (*queue_fd)(struct dev_queue *q);
	void (*wake)(struct dev_queue *q);
	void (*post)(struct dev_queue *q, struct dev_task *task);
	void (*stats)(struct dev *dev, struct dev_stats *out);
};

enum dev_engine { DEV_ENGINE_AUTO, DEV_ENGINE_URING, DEV_ENGINE_THREADS };

#define DEV_OPEN_READ_ONLY 1u
#define DEV_OPEN_BUFFERED  2u	/* no O_DIRECT, even where it would work */
#define DEV_OPEN_UNLIMITED 4u	/* rings without core/uring_limits.h */

/*
 * Opens `path` (an image file or a block device) with O_DIRECT where the file system below allows it
 * and through the page cache where not.  Takes no lock.  AUTO is uring, or threads when
 * io_uring_setup(2) is denied or absent.  On success *out is owned by the caller.
 * Errors: of open(2); -ENOTBLK for anything but a regular file or a block device.
 */
int dev_open(const char *path, enum dev_engine engine, unsigned flags, const struct diag *diag,
	     struct dev **out);

/* The same for a descriptor that the caller opened (say, to lock it first).  The dev owns `fd` on
 * success only.  `path` is for messages and is copied. */
int dev_open_fd(int fd, const char *path, enum dev_engine engine, unsigned flags,
		const struct diag *diag, struct dev **out);

/*
 * Of a device that was opened read-only: `fd` was opened for writing from the same file or device, and takes the place of the dev's own, also for
 * queues that there are; reads may be under way.  The dev owns it on success only.  -ESTALE: it is of something else; -EROFS: not for
 * writing.  Any thread, one at a time; no lock.
 */
int dev_make_writable(struct dev *dev, int fd);

/* All queues must have been destroyed. */
void dev_close(struct dev *dev);

/* One queue; use it from one thread at a time.  -ENOMEM, or what the engine's set-up says. */
int dev_queue_create(struct dev *dev, struct dev_queue **out);

/* Polls until nothing is in flight, then frees the queue. */
void dev_queue_destroy(struct dev_queue *q);

/* Hands `io` to the engine.  Never fails and never blocks: errors arrive in io->done.
 * An operation outside [0, dev->size) or misaligned is a bug of ours: assert. */
void dev_submit(struct dev_queue *q, struct dev_io *io);

/*
 * Reaps what has completed and runs callbacks and posted tasks; callbacks may submit.  If nothing is
 * ready waits up to timeout_ms (-1 without limit, 0 not at all) for a completion, a post or a wake.
 * Returns how many callbacks and tasks ran (0 after a mere wake or a timeout).  Must not be
 * called from a callback.  The sim engine returns 0 at once when nothing is in flight and nothing posted.
 */
int dev_poll(struct dev_queue *q, int timeout_ms);

/* A descriptor that polls readable when dev_poll(q, 0) has something to do; for epoll.  -1 for sim.
 * dev_poll() itself consumes the readiness. */
int dev_queue_fd(struct dev_queue *q);

/* Makes a dev_poll() that waits, or the next one, return.  From any thread. */
void dev_wake(struct dev_queue *q);

/* Runs `task` in dev_poll() of `q`, on its thread.  From any thread. */
void dev_post(struct dev_queue *q, struct dev_task *task);

void dev_get_stats(struct dev *dev, struct dev_stats *out);

/*
 * For good: whatever is submitted from now on ends in -EIO, without a message, and does not reach the device.  What was submitted
 * before goes its way.  Any thread.  Of engines, not of filters.
 */
void dev_shut(struct dev *dev);

/* Polls q until nothing is in flight on the whole device; the other queues must be polled by their owners.  After dev_shut() the device is
 * then left alone for ever.  Not from a callback. */
void dev_settle(struct dev_queue *q);

/* --- conveniences over the above, the same for every engine (dev.c) --- */

/* Fills `io` for one buffer. */
void dev_io_rw(struct dev_io *io, enum dev_op op, unsigned flags, uint64_t off, void *buf,
	       uint64_t len, dev_done_fn *done);

/*
 * Submit and wait: polls `q` until this operation is done (other callbacks of `q` run meanwhile).
 * Must not be called from a callback, nor with a lock held.
 */
int dev_read(struct dev_queue *q, uint64_t off, void *buf, uint64_t len);
int dev_write(struct dev_queue *q, uint64_t off, const void *buf, uint64_t len, unsigned flags);
int dev_flush(struct dev_queue *q);
int dev_discard(struct dev_queue *q, uint64_t off, uint64_t len);

/* A flag that another thread sets and that `q`'s owner waits for while serving `q`. */
struct dev_event {
	struct dev_queue *q;
	_Atomic bool set;
};
void dev_event_init(struct dev_event *ev, struct dev_queue *q);
/* Sets and wakes.  The waiter may free *ev as soon as `set` is seen: touches only the queue after. */
void dev_event_set(struct dev_event *ev);
/* Polls until set.  On a sim device, where nobody else could set it, asserts that progress is made. */
void dev_event_wait(struct dev_event *ev);

/* Memory for O_DIRECT: aligned to 4096, `len` rounded up to 4096; zeroed if `zero`.  free(3) it. */
void *dev_alloc(uint64_t len, bool zero);

#endif
