/* SPDX-License-Identifier: Apache-2.0 */
/* loop.c - see the header. */
#define FUSE_USE_VERSION 314
#include "fs/loop.h"

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "fs/fs.h"
#include "fs/loop_pool.h"
#include "fs/mount_options.h"

#define PAYLOAD_AT 4096u /* of a WRITE, in a request's memory */
#define WRITE_HEADER (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))
#define MESSAGE_AT (PAYLOAD_AT - WRITE_HEADER)
#define MESSAGE_MAX (WRITE_HEADER + MOUNT_MAX_IO)
#define REQUEST_MEM (PAYLOAD_AT + MOUNT_MAX_IO)
#define REQUESTS_KEPT 8 /* free buffers a worker holds on to */
#define BATCH 16 /* requests between looks at the queue */
#define OOM_WAIT_MS 10

static_assert(WRITE_HEADER == 80, "libfuse and the kernel agree on this");
static_assert(sizeof(struct request) <= MESSAGE_AT, "the message follows");

enum phase { HELD, RUN, DRAIN, QUIT };

struct worker {
	struct loop *loop;
	struct dev_queue *q;
	int epfd;
	pthread_t thread;
	bool has_thread;
	bool listens; /* the connection is in epfd */
	bool drained;
	uint64_t busy;
	struct request *current; /* what the next message is read to, or is being handled */
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
	unsigned nworkers, nthreads; /* threads: those that run, the first ones */
	struct worker workers[];
};

/* SYNCFS under way. */
struct syncfs {
	struct fs_sync sync;
	struct worker *worker;
	uint64_t unique;
};

/* --- buffers ---------------------------------------------------------------------------------- */

static char *message_of(struct request *r)
{
	return (char *)r + MESSAGE_AT;
}

static struct request *request_get(struct worker *w)
{
	struct request *r = SLIST_FIRST(&w->free);

	if (r) {
		SLIST_REMOVE_HEAD(&w->free, link);
		w->nfree--;
		return r;
	}
	r = dev_alloc(REQUEST_MEM, false);
	if (r)
		r->worker = w;
	return r;
}

static void request_recycle(struct request *r)
{
	struct worker *w = r->worker;

	if (w->nfree == REQUESTS_KEPT) {
		free(r);
		return;
	}
	SLIST_INSERT_HEAD(&w->free, r, link);
	w->nfree++;
}

struct request *worker_keep(struct worker *w)
{
	struct request *r = w->current;

	assert(r);
	w->current = NULL;
	worker_begin(w);
	return r;
}

void request_put(struct request *r)
{
	struct worker *w = r->worker;

	request_recycle(r);
	worker_end(w);
}

void *worker_alloc(struct worker *w, size_t len)
{
	return pool_get(&w->pool, len);
}

void worker_free(struct worker *w, void *p, size_t len)
{
	pool_put(&w->pool, p, len);
}

void worker_begin(struct worker *w)
{
	w->busy++;
}

void worker_end(struct worker *w)
{
	assert(w->busy > 0);
	w->busy--;
}

struct worker *loop_self(const struct loop *l)
{
	return pthread_getspecific(l->self);
}

struct dev_queue *worker_queue(struct worker *w)
{
	return w->q;
}

/* --- requests ----------------------------------------------------------------------------------- */

static void end_loop(struct loop *l, enum loop_end end)
{
	int goes_on = LOOP_GOES_ON;

	/* The first reason stands: after DESTROY the connection vanishes as well. */
	if (atomic_compare_exchange_strong(&l->end, &goes_on, (int)end))
		dev_wake(l->owner);
}

/* The answer to a request that libfuse does not see. */
static void answer(struct loop *l, uint64_t unique, int err)
{
	struct fuse_out_header out = {.len = sizeof(out), .error = err, .unique = unique};

	/* An error means that nobody waits any more. */
	if (write(l->fd, &out, sizeof(out)) < 0 && errno != ENOENT && errno != ENODEV &&
	    errno != ECONNABORTED)
		diag(l->diag, DIAG_WARNING, "answering the kernel: %s", strerror(errno));
}

static void syncfs_done(struct fs_sync *sync)
{
	struct syncfs *s = (struct syncfs *)sync;
	struct worker *w = s->worker;

	answer(w->loop, s->unique, sync->result);
	free(s);
	worker_end(w);
}

static void start_syncfs(struct worker *w, uint64_t unique)
{
	struct syncfs *s = calloc(1, sizeof(*s));

	if (!s) {
		answer(w->loop, unique, -ENOMEM);
		return;
	}
	s->worker = w;
	s->unique = unique;
	s->sync.done = syncfs_done;
	worker_begin(w);
	fs_fsync(w->loop->fs, w->q, &s->sync);
}

static void dispatch(struct worker *w, size_t len)
{
	struct loop *l = w->loop;
	const struct fuse_in_header *in = (const void *)message_of(w->current);
	struct fuse_buf buf = {.mem = message_of(w->current), .size = len};

	switch (in->opcode) {
	case FUSE_SYNCFS:
		start_syncfs(w, in->unique);
		break;
	case FUSE_DESTROY:
		/* Nothing comes after it.  Whoever owns the loop closes the volume and then answers. */
		l->destroy = *in;
		end_loop(l, LOOP_DESTROYED);
		break;
	default:
		fuse_session_process_buf(l->se, &buf);
	}
}

static void stop_listening(struct worker *w)
{
	if (w->listens)
		epoll_ctl(w->epfd, EPOLL_CTL_DEL, w->loop->fd, NULL);
	w->listens = false;
}

static void read_failed(struct worker *w, int err)
{
	if (err != -ENODEV && err != -ECONNABORTED)
		diag(w->loop->diag, DIAG_ERR, "reading requests: %s", strerror(-err));
	stop_listening(w);
	end_loop(w->loop, LOOP_UNMOUNTED);
}

/* Reads one message to `current`: its length, 0 if there is none, or a negative errno when there will be none. */
static ssize_t read_message(struct worker *w)
{
	while (!w->current) {
		w->current = request_get(w);
		/* Lent buffers come back while the queue is served. */
		if (!w->current)
			dev_poll(w->q, OOM_WAIT_MS);
	}

	ssize_t n = read(w->loop->fd, message_of(w->current), MESSAGE_MAX);

	if (n >= 0)
		return n < (ssize_t)sizeof(struct fuse_in_header) ? -EIO : n;
	/* ENOENT: interrupted before we got it. */
	return errno == EAGAIN || errno == EINTR || errno == ENOENT ? 0 : -errno;
}

/* Handles what is there, up to a batch; returns how many. */
static int serve(struct worker *w)
{
	int served = 0;

	while (served < BATCH && w->listens &&
	       atomic_load_explicit(&w->loop->phase, memory_order_acquire) == RUN) {
		ssize_t n = read_message(w);

		if (n < 0)
			read_failed(w, (int)n);
		if (n <= 0)
			break;
		dispatch(w, (size_t)n);
		served++;
		if (w->busy)
			dev_poll(w->q, 0);
	}
	return served;
}

/* --- workers -------------------------------------------------------------------------------------- */

static void wait_for_something(struct worker *w)
{
	struct epoll_event ev[2];
	int n = epoll_wait(w->epfd, ev, 2, -1);

	for (int i = 0; i < n; i++)
		if (ev[i].data.ptr == w->q)
			dev_poll(w->q, 0);
}

static int wait_for_gate(struct loop *l)
{
	pthread_mutex_lock(&l->gate);
	while (l->phase == HELD)
		pthread_cond_wait(&l->opened, &l->gate);
	pthread_mutex_unlock(&l->gate);
	return l->phase;
}

static void note_drained(struct worker *w)
{
	if (w->drained || w->busy)
		return;
	w->drained = true;
	atomic_fetch_add(&w->loop->ndrained, 1);
	dev_wake(w->loop->owner);
}

/* Each worker its own entry, exclusive: one request wakes one of them. */
static void start_listening(struct worker *w)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.ptr = w->loop};

	w->listens = epoll_ctl(w->epfd, EPOLL_CTL_ADD, w->loop->fd, &ev) == 0;
	if (!w->listens)
		read_failed(w, -errno);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct loop *l = w->loop;
	int phase = wait_for_gate(l);

	pthread_setspecific(l->self, w);
	if (phase == RUN)
		start_listening(w);
	for (; phase != QUIT; phase = l->phase) {
		if (phase == DRAIN) {
			stop_listening(w);
			note_drained(w);
		}
		if (serve(w) == BATCH)
			dev_poll(w->q, 0);
		else if (l->phase == phase)
			/* The wake that followed a change of phase cannot have been consumed before this look at it. */
			wait_for_something(w);
	}
	return NULL;
}

static int worker_init(struct worker *w, struct loop *l, struct dev *dev)
{
	struct epoll_event ev = {.events = EPOLLIN};
	int err;

	*w = (struct worker){.loop = l, .epfd = -1};
	SLIST_INIT(&w->free);
	pool_init(&w->pool);
	err = dev_queue_create(dev, &w->q);
	if (err)
		return err;
	w->epfd = epoll_create1(EPOLL_CLOEXEC);
	ev.data.ptr = w->q;
	if (w->epfd < 0 || epoll_ctl(w->epfd, EPOLL_CTL_ADD, dev_queue_fd(w->q), &ev) < 0)
		return -errno;
	w->current = request_get(w);
	return w->current ? 0 : -ENOMEM;
}

static void worker_fini(struct worker *w)
{
	if (w->q)
		dev_queue_destroy(w->q);
	if (w->epfd >= 0)
		close(w->epfd);
	while (!SLIST_EMPTY(&w->free)) {
		struct request *r = SLIST_FIRST(&w->free);

		SLIST_REMOVE_HEAD(&w->free, link);
		free(r);
	}
	free(w->current);
	pool_fini(&w->pool);
}

/* --- the owner's side ------------------------------------------------------------------------------- */

int loop_create(struct dev *dev, unsigned nworkers, struct dev_queue *owner, const struct diag *diag,
		struct loop **out)
{
	struct loop *l = calloc(1, sizeof(*l) + nworkers * sizeof(struct worker));
	int err;

	if (!l)
		return -ENOMEM;
	err = -pthread_key_create(&l->self, NULL);
	if (err) {
		free(l);
		return err;
	}
	l->diag = diag;
	l->owner = owner;
	l->fd = -1;
	pthread_mutex_init(&l->gate, NULL);
	pthread_cond_init(&l->opened, NULL);
	while (!err && l->nworkers < nworkers)
		err = worker_init(&l->workers[l->nworkers++], l, dev);
	if (err) {
		loop_destroy(l);
		return err;
	}
	*out = l;
	return 0;
}

int loop_start(struct loop *l, struct fs *fs)
{
	int err = 0;

	l->fs = fs;
	for (unsigned i = 0; !err && i < l->nworkers; i++) {
		struct worker *w = &l->workers[i];

		err = -pthread_create(&w->thread, NULL, worker_main, w);
		w->has_thread = !err;
		l->nthreads += !err;
	}
	return err;
}

static void set_phase(struct loop *l, enum phase phase)
{
	pthread_mutex_lock(&l->gate);
	l->phase = (int)phase;
	pthread_cond_broadcast(&l->opened);
	pthread_mutex_unlock(&l->gate);
	for (unsigned i = 0; i < l->nworkers; i++)
		if (l->workers[i].has_thread)
			dev_wake(l->workers[i].q);
}

/* The kernel sends INIT as soon as it has mounted, and nothing else before it is answered. */
static ssize_t wait_for_init(struct loop *l, struct worker *w)
{
	struct pollfd p = {.fd = l->fd, .events = POLLIN};
	ssize_t n;

	while ((n = read_message(w)) == 0)
		poll(&p, 1, -1);
	return n;
}

int loop_begin(struct loop *l, struct fuse_session *se, const bool *inited)
{
	/* The workers are held: the first one's buffer is free to be used. */
	struct worker *w = &l->workers[0];
	ssize_t n;

	l->se = se;
	l->fd = fuse_session_fd(se);

	int flags = fcntl(l->fd, F_GETFL);

	if (flags < 0 || fcntl(l->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	n = wait_for_init(l, w);
	if (n < 0)
		return (int)n;
	dispatch(w, (size_t)n);
	if (!*inited)
		return -EPROTO;
	set_phase(l, RUN);
	return 0;
}

enum loop_end loop_ended(const struct loop *l)
{
	return (enum loop_end)l->end;
}

void loop_drain(struct loop *l)
{
	set_phase(l, DRAIN);
	while (l->ndrained < l->nthreads)
		dev_poll(l->owner, -1);
}

void loop_quit(struct loop *l)
{
	set_phase(l, QUIT);
	for (unsigned i = 0; i < l->nworkers; i++) {
		struct worker *w = &l->workers[i];

		if (w->has_thread)
			pthread_join(w->thread, NULL);
		w->has_thread = false;
	}
	/* A second round: destroying a queue may run callbacks that post to others. */
	for (unsigned i = 0; i < l->nworkers; i++)
		worker_fini(&l->workers[i]);
	l->nworkers = 0;
}

void loop_answer_destroy(struct loop *l)
{
	if (loop_ended(l) == LOOP_DESTROYED)
		answer(l, l->destroy.unique, 0);
}

void loop_destroy(struct loop *l)
{
	loop_quit(l);
	pthread_cond_destroy(&l->opened);
	pthread_mutex_destroy(&l->gate);
	pthread_key_delete(l->self);
	free(l);
}
