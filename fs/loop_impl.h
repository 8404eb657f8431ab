/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop_impl.h - what loop.c (workers, and who owns the loop) and loop_request.c (a request's memory, and its way to a handler and back) share.
 * Not for others.
 */
#ifndef HOLDFAST_FS_LOOP_IMPL_H
#define HOLDFAST_FS_LOOP_IMPL_H

#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>

#include "core/dev_uring.h"
#include "fs/loop.h"
#include "fs/loop_pool.h"
#include "fs/mount_options.h"
#include "fs/ring.h"

#define PAYLOAD_AT 4096u /* of a WRITE, in a request's memory */
#define WRITE_HEADER (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))
#define MESSAGE_AT (PAYLOAD_AT - WRITE_HEADER)
#define MESSAGE_MAX (WRITE_HEADER + MOUNT_MAX_IO)

enum phase { HELD, RUN, DRAIN, QUIT };

struct worker {
	struct loop *loop;
	struct dev_queue *q;
	int epfd;
	pthread_t thread;
	bool has_thread;
	bool listens; /* to /dev/fuse: it is in epfd, or polled in the ring */
	bool drained;
	struct ring *ring; /* NULL: the queue is no shared one */
	struct dev_guest poll; /* with a ring: tells that /dev/fuse may be read */
	bool polls; /* that is under way */
	bool readable;
	uint64_t busy;
	unsigned nparked; /* worker_park() */
	struct request *current; /* what the next message is read to, or is being handled */
	uint32_t setxattr_flags; /* of the message that is being handled */
	bool kills_priv; /* that does */
	SLIST_HEAD(, request) free;
	unsigned nfree;
	struct pool pool;
};

struct loop {
	struct fs *fs;
	const struct diag *diag;
	struct dev_queue *owner;
	struct fuse_session *se; /* set before the gate opens */
	int fd; /* of the connection, non-blocking; the session's */
	pthread_key_t self;
	pthread_mutex_t gate;
	pthread_cond_t opened;
	_Atomic int phase; /* enum phase; leaves HELD under `gate` */
	_Atomic unsigned ndrained;
	_Atomic int end; /* enum loop_end */
	struct fuse_in_header destroy; /* written once, before `end` */
	bool over_rings; /* how requests come; set before the gate opens */
	uint64_t init_unique; /* of INIT while it is being handled, if the kernel offers what we take; 0 */
	bool no_handles; /* loop_refuse_handles() */
	bool idmap; /* loop_allow_idmap() */
	bool has_idmap; /* and so it is; set before the gate opens */
	struct fuse_init_out init_takes; /* of what libfuse does not know; only the flags */
	bool setxattr_ext; /* SETXATTR has flags of its own; set before the gate opens */
	bool kills_priv; /* setuid and setgid are ours to clear; likewise */
	struct big_pool *big; /* all workers' buffers for a request, or as large as one */
	unsigned nrings; /* queues of the kernel */
	unsigned nworkers, nthreads; /* threads: those that run, the first ones */
	struct worker workers[];
};

static inline char *message_of(struct request *r)
{
	return (char *)r + MESSAGE_AT;
}

/* A free request of the worker's, or a new one.  NULL: no memory. */
struct request *request_get(struct worker *w);

/* Has a message handled, by libfuse unless it does not know the request. */
void request_dispatch(struct worker *w, char *message, size_t len);

/* Before INIT is dispatched: takes what the kernel offers in it and libfuse does not know, `rings`: requests over io_uring as well.  What
 * has been agreed on is in the loop when the reply has gone. */
void request_take_offers(struct loop *l, bool rings, const char *message, size_t len);

/* The answer to a request that libfuse does not see. */
void request_answer(struct loop *l, uint64_t unique, int err, const void *body, size_t len);

/* The loop is over.  The first reason stands. */
void loop_end_with(struct loop *l, enum loop_end end);

#endif
