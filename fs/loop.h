/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.h - the request loop: workers that take requests, have them handled, and serve their own dev_queue.
 *
 * A worker is a thread with a queue.  Requests come from /dev/fuse, and the worker waits for either of that and its queue; or through
 * the queue's ring (ring.h), from the processor that the worker is pinned to, and waiting for the queue is all it does.  Requests are handled
 * inline; what must wait for the device longer is answered from a completion on the same worker, which takes others meanwhile.
 * Requests that libfuse does not know go to fuse_raw.h.
 *
 * States: HELD (threads, once started, wait) -> RUN -> DRAIN (reads nothing more, serves its queue, finishes what it began) ->
 * QUIT.  In DRAIN every queue is still polled: others may wait for I/O that it carries.
 *
 * Always holds for a worker: `busy` counts requests begun but not answered plus buffers lent out; it is drained when that is 0.
 */
#ifndef HOLDFAST_FS_LOOP_H
#define HOLDFAST_FS_LOOP_H

#include <sys/queue.h>

#include "core/dev.h"

struct fs;
struct fuse_session;
struct loop;
struct worker;

struct ring_entry;

/*
 * The message of one request, placed so that the payload of a WRITE is 4096-aligned.  `room` is for whoever handles it, as long as
 * it is kept.
 */
#define REQUEST_ROOM 3072
struct request {
	struct worker *worker;
	struct ring_entry *entry; /* the message is in it, and its memory is the kernel's again once there is a reply; NULL: from /dev/fuse */
	SLIST_ENTRY(request) link;
	_Alignas(16) char room[REQUEST_ROOM];
};

enum loop_end {
	LOOP_GOES_ON,
	LOOP_DESTROYED, /* the kernel waits for loop_answer_destroy(): umount of fuseblk */
	LOOP_UNMOUNTED, /* the connection is gone */
};

/*
 * Makes the workers' queues; no threads yet.  `owner` is the queue of the thread that calls all functions here that do not say otherwise; it is
 * woken when the loop ends.  `nrings`: how many queues the kernel has for requests over io_uring; 0: they come from /dev/fuse.
 * -ENOTSUP: the device's engine cannot do that.
 */
int loop_create(struct dev *dev, unsigned nworkers, unsigned nrings, struct dev_queue *owner,
		const struct diag *diag, struct loop **out);

/* Before loop_begin(): the kernel is to make no dentries of file handles, if it can do without (Linux 6.9). */
void loop_refuse_handles(struct loop *l);

/* Before loop_begin(): mounts with mapped users (Linux 6.12), if the kernel can.  From then on only requests that make an inode say whose they are. */
void loop_allow_idmap(struct loop *l);

/* Starts the workers' threads, held.  After an error some of them run; the loop can be drained and destroyed all the same. */
int loop_start(struct loop *l, struct fs *fs);

/* Serves the first request (INIT) of the mounted session, then lets the workers go.  -EPROTO if the init handler has not set
 * *inited by then (libfuse and the kernel do not agree), and what read(2) says. */
int loop_begin(struct loop *l, struct fuse_session *se, const bool *inited);

/* Whether the kernel has agreed to send requests over io_uring; to map users. */
bool loop_has_rings(const struct loop *l);
bool loop_has_idmap(const struct loop *l);

/* Sends a reply or a notification, iov[0] being its struct fuse_out_header: what libfuse writes goes this way.  From any thread.  As writev(2). */
ssize_t loop_send(struct loop *l, const struct iovec *iov, int n);

enum loop_end loop_ended(const struct loop *l);

/* Stops reading requests and waits until all that were read have been answered.  The workers' queues are served on. */
void loop_drain(struct loop *l);

/* Ends the threads and their queues.  Nobody may depend on those any more. */
void loop_quit(struct loop *l);

/* After LOOP_DESTROYED: lets umount(2) return; if requests come over io_uring, the end of the session does that. */
void loop_answer_destroy(struct loop *l);

/* Quits if need be. */
void loop_destroy(struct loop *l);

/* --- for handlers, on a worker's thread --- */

struct worker *loop_self(const struct loop *l);
struct dev_queue *worker_queue(struct worker *w);
/* FUSE_SETXATTR_* of the request that is being handled; libfuse's handler is not told. */
uint32_t worker_setxattr_flags(const struct worker *w);
/* The request that is being handled, a WRITE or SETATTR, takes setuid and setgid away; libfuse's handler is not told that either. */
bool worker_kills_priv(const struct worker *w);
struct fs *worker_fs(struct worker *w);

/* Answers a request that libfuse does not see: with an error (0 or negative errno), or `len` bytes. */
void worker_answer(struct worker *w, uint64_t unique, int err, const void *body, size_t len);

/* One more thing begun; one ended. */
void worker_begin(struct worker *w);
void worker_end(struct worker *w);

/* Keeps the message that is being handled (begins); the worker goes on with another buffer.  Put ends. */
struct request *worker_keep(struct worker *w);
void request_put(struct request *r);

/* The message that is being handled is in a ring's entry. */
bool worker_lends_entry(const struct worker *w);

/*
 * A message will wait for the kernel, which may first want other requests served.  If it is in a ring's entry (`entry`, as worker_lends_entry()) it takes
 * the place of one meanwhile: false if half of them wait like that.  Else worker_unpark() follows.  On the worker's thread.
 */
bool worker_park(struct worker *w, bool entry);
void worker_unpark(struct worker *w, bool entry);

/* 4096-aligned memory of at least `len` bytes, recycled.  At most MOUNT_MAX_IO + 4096. */
void *worker_alloc(struct worker *w, size_t len);
void worker_free(struct worker *w, void *p, size_t len);

/*
 * The same for the reply to the message that is being handled, which costs no copy then where requests come over io_uring; the message's own
 * payload is overwritten.  After the reply, only `mem` of it may be looked at, and it is to be put.
 */
struct reply_room {
	void *mem; /* NULL: no memory */
	size_t len;
	bool own; /* of worker_alloc() */
	struct ring_entry *entry; /* else in it */
};
struct reply_room worker_reply_room(struct worker *w, size_t len);
void worker_reply_room_put(struct worker *w, const struct reply_room *room);
/* The reply that comes next is not to be given by the worker (apart.h); false: the caller has to see to that. */
bool reply_room_apart(const struct reply_room *room);

#endif
