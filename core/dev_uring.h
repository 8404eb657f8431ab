/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev_uring.h - a queue of the uring engine whose ring carries others' commands as well as the device's operations, so that one
 * system call submits and waits for all of them.
 *
 * Such a queue is used as any other.  Besides, its owner puts commands of its own into the ring (guests), and dev_poll() calls
 * them back.  dev_poll() waits in the ring, not for dev_queue_fd().
 */
#ifndef HOLDFAST_CORE_DEV_URING_H
#define HOLDFAST_CORE_DEV_URING_H

#include "core/dev.h"

struct io_uring_sqe;

/* Guests that may be under way at one time. */
#define DEV_GUESTS_MAX 512u

/* Address: a multiple of 8, as of everything with a pointer in it. */
struct dev_guest {
	/* In dev_poll(): a completion.  `more`: of a multishot command, which goes on. */
	void (*done)(struct dev_guest *guest, int res, bool more);
};

/* As dev_queue_create().  -ENOTSUP: another engine, or a kernel without what it takes (Linux 5.19). */
int dev_uring_queue_create(struct dev *dev, struct dev_queue **out);

/*
 * Room for one guest's command, 128 bytes, zeroed but for its user data; filled in, it is submitted by the next dev_poll().
 * From the queue's owner only.  NULL: the ring has failed.
 */
struct io_uring_sqe *dev_uring_sqe(struct dev_queue *q, struct dev_guest *guest);

/* Such a command: `guest` is called whenever `fd` may have become readable, until `more` is false. */
void dev_uring_poll(struct dev_queue *q, struct dev_guest *guest, int fd);

/* Registers a descriptor that guests use as file DEV_GUEST_FILE, with IOSQE_FIXED_FILE.  Once; a negative errno if the kernel will not. */
#define DEV_GUEST_FILE 1
int dev_uring_guest_file(struct dev_queue *q, int fd);

/* The ring has failed: no guest will be called back any more. */
bool dev_uring_failed(const struct dev_queue *q);

#endif
