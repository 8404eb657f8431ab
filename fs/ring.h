/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ring.h - requests of the kernel that come through an io_uring (Linux 6.14): one worker's entries in its queue's ring.
 *
 * The kernel has one queue of requests per processor, and takes as many requests out of it as there are entries waiting. An entry is a
 * command in the ring: it completes when a request has been put into its memory, and is committed, with the reply in the same memory, for
 * the next one.  FORGET and INTERRUPT do not come this way but through /dev/fuse, like everything before the entries are there.
 *
 * All functions are called by the worker's thread, but for those that make and destroy.
 */
#ifndef HOLDFAST_FS_RING_H
#define HOLDFAST_FS_RING_H

#include "core/dev.h"

/* Entries per queue of the kernel: requests that one processor may have under way, those that wait for the disk included. */
#define RING_DEPTH 16

/* Memory that goes with a request and that the kernel leaves alone. */
#define RING_ROOM 3328u

struct ring;

/* One request. */
struct ring_entry;

/* The kernel would offer it: a switch of the fuse module. */
bool ring_enabled(void);
/* How many queues the kernel would have: the possible processors.  0: unknown. */
unsigned ring_kernel_queues(void);

/*
 * `q` is of dev_uring_queue_create() and outlives the ring's last dev_poll().  The entries are those of the kernel's queues first, first + step, ...
 * below `nqueues`; at most DEV_GUESTS_MAX - 1 of them.  `payload`: the connection's max_write or its max_pages in bytes, whichever is more, a
 * multiple of 4096.  -ENOMEM; -E2BIG.
 */
int ring_create(struct dev_queue *q, unsigned first, unsigned step, unsigned nqueues, size_t payload, const struct diag *diag,
		struct ring **out);
/* After `q` is destroyed. */
void ring_destroy(struct ring *r);

/* After INIT was answered: offers all entries, for the connection `fd`. */
void ring_begin(struct ring *r, int fd);

/* Whether requests come, or may come. */
enum ring_state {
	RING_WORKS,
	RING_REFUSED, /* by the kernel from the beginning: all requests come through /dev/fuse */
	RING_GONE, /* no entry is left: the connection has ended, or the ring is broken */
};
enum ring_state ring_state(const struct ring *r);

/* The next request that has arrived, whole and in one piece; NULL: none.  Its memory is the caller's until it replies. */
struct ring_entry *ring_next(struct ring *r, char **message, size_t *len);

/* RING_ROOM bytes, 16-aligned.  The caller's until the next request of this entry has been taken from ring_next(). */
void *ring_entry_room(struct ring_entry *e);

/* The reply may make the kernel wait for other requests of this ring: a thread of the kernel's own does that then, at some more cost. */
void ring_entry_apart(struct ring_entry *e);

/*
 * Where the reply's payload goes, 4096-aligned, with 4096 bytes to spare behind it: a reply that is there already is not copied.  What came behind
 * the request's fixed part (names, data to be written) is in the same place.
 */
void *ring_entry_payload(struct ring_entry *e);

/* Sends a reply, iov[0] being its struct fuse_out_header.  False: the request did not come through this ring. */
bool ring_reply(struct ring *r, const struct iovec *iov, int n);

#endif
