/* SPDX-License-Identifier: Apache-2.0 */
/* loop.c - see the header. */
#define FUSE_USE_VERSION 314
#include "fs/loop.h"

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/dev_uring.h"
#include "fs/fuse_raw.h"
#include "fs/loop_pool.h"
#include "fs/mount_options.h"
#include "fs/ring.h"
#include "fs/spin.h"

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
static_assert(sizeof(struct request) <= RING_ROOM, "a ring's entry has room for it");

/* Of INIT; <linux/fuse.h> may be older.  The upper half of the flags is a word of its own. */
#define INIT_HANDLE_KILLPRIV_V2 (1u << 28)
#define INIT_SETXATTR_EXT (1u << 29)
#define INIT_EXT (1u << 30)
#define INIT2_OVER_IO_URING (1u << (41 - 32))

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
	int phase; /* as seen by the worker */
	struct spin spin; /* what became of waiting awake for the only thing begun */
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
	struct fuse_init_out init_takes; /* of what libfuse does not know; only the flags */
	bool setxattr_ext; /* SETXATTR has flags of its own; set before the gate opens */
	bool kills_priv; /* setuid and setgid are ours to clear; likewise */
	unsigned nrings; /* queues of the kernel */
	unsigned nworkers, nthreads; /* threads: those that run, the first ones */
	struct worker workers[];
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
	if (r) {
		r->worker = w;
		r->entry = NULL;
	}
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

	if (!r->entry)
		request_recycle(r);
	worker_end(w);
}

bool worker_lends_entry(const struct worker *w)
{
	return w->current && w->current->entry;
}

struct reply_room worker_reply_room(struct worker *w, size_t len)
{
	assert(len <= FS_READ_ROOM(MOUNT_MAX_IO));
	if (worker_lends_entry(w))
		return (struct reply_room){.mem = ring_entry_payload(w->current->entry), .len = len};
	return (struct reply_room){.mem = worker_alloc(w, len), .len = len, .own = true};
}

void worker_reply_room_put(struct worker *w, const struct reply_room *room)
{
	if (room->own)
		worker_free(w, room->mem, room->len);
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

uint32_t worker_setxattr_flags(const struct worker *w)
{
	return w->setxattr_flags;
}

/* --- requests ----------------------------------------------------------------------------------- */

static void end_loop(struct loop *l, enum loop_end end)
{
	int goes_on = LOOP_GOES_ON;

	/* The first reason stands: after DESTROY the connection vanishes as well. */
	if (atomic_compare_exchange_strong(&l->end, &goes_on, (int)end))
		dev_wake(l->owner);
}

/* Takes the kernel's offers: it learns so from the reply to INIT, which libfuse cannot say it in. */
static ssize_t send_init(struct loop *l, const struct iovec *iov, int n)
{
	struct fuse_init_out init;

	if (n != 2 || iov[1].iov_len < sizeof(init))
		return writev(l->fd, iov, n);
	memcpy(&init, iov[1].iov_base, sizeof(init));
	init.flags |= l->init_takes.flags;
	init.flags2 |= l->init_takes.flags2;

	struct iovec with[2] = {iov[0], {.iov_base = &init, .iov_len = sizeof(init)}};
	ssize_t sent = writev(l->fd, with, 2);

	l->over_rings = sent >= 0 && l->init_takes.flags2 & INIT2_OVER_IO_URING;
	l->setxattr_ext = sent >= 0 && l->init_takes.flags & INIT_SETXATTR_EXT;
	l->kills_priv = sent >= 0 && l->init_takes.flags & INIT_HANDLE_KILLPRIV_V2;
	return sent;
}

ssize_t loop_send(struct loop *l, const struct iovec *iov, int n)
{
	const struct fuse_out_header *out = iov[0].iov_base;
	const struct worker *w = loop_self(l);

	if (w && w->ring && ring_reply(w->ring, iov, n))
		return (ssize_t)out->len;
	if (l->init_unique && out->unique == l->init_unique && !out->error)
		return send_init(l, iov, n);
	return writev(l->fd, iov, n);
}

/* The answer to a request that libfuse does not see. */
static void answer(struct loop *l, uint64_t unique, int err, const void *body, size_t len)
{
	struct fuse_out_header out = {.len = (uint32_t)(sizeof(out) + len), .error = err, .unique = unique};
	struct iovec iov[] = {{&out, sizeof(out)}, {(void *)body, len}};

	/* An error means that nobody waits any more. */
	if (loop_send(l, iov, len ? 2 : 1) < 0 && errno != ENOENT && errno != ENODEV && errno != ECONNABORTED)
		diag(l->diag, DIAG_WARNING, "answering the kernel: %s", strerror(errno));
}

void worker_answer(struct worker *w, uint64_t unique, int err, const void *body, size_t len)
{
	answer(w->loop, unique, err, body, len);
}

bool worker_kills_priv(const struct worker *w)
{
	return w->kills_priv;
}

struct fs *worker_fs(struct worker *w)
{
	return w->loop->fs;
}

/* Takes the flags out that libfuse does not expect; the message then begins further on. */
static char *short_setxattr(struct worker *w, char *message, size_t *len)
{
	const size_t head = sizeof(struct fuse_in_header), more = sizeof(struct fuse_setxattr_in) - FUSE_COMPAT_SETXATTR_IN_SIZE;
	struct fuse_setxattr_in in;
	struct fuse_in_header h;

	if (*len < head + sizeof(in))
		return message;
	memcpy(&h, message, head);
	memcpy(&in, message + head, sizeof(in));
	w->setxattr_flags = in.setxattr_flags;
	h.len -= (uint32_t)more;
	*len -= more;
	message += more;
	memcpy(message, &h, head);
	memcpy(message + head, &in, FUSE_COMPAT_SETXATTR_IN_SIZE);
	return message;
}

/* Does a request take setuid and setgid away? */
static bool kills_priv(const char *message, size_t len)
{
	const struct fuse_in_header *in = (const void *)message;
	const void *body = message + sizeof(*in);

	if (in->opcode == FUSE_WRITE && len >= WRITE_HEADER)
		return ((const struct fuse_write_in *)body)->write_flags & FUSE_WRITE_KILL_SUIDGID;
	if (in->opcode != FUSE_SETATTR || len < sizeof(*in) + sizeof(struct fuse_setattr_in))
		return false;
	return ((const struct fuse_setattr_in *)body)->valid & FATTR_KILL_SUIDGID;
}

static void dispatch(struct worker *w, char *message, size_t len)
{
	struct loop *l = w->loop;

	w->kills_priv = l->kills_priv && kills_priv(message, len);
	w->setxattr_flags = 0;
	if (l->setxattr_ext && ((const struct fuse_in_header *)(const void *)message)->opcode == FUSE_SETXATTR)
		message = short_setxattr(w, message, &len);

	const struct fuse_in_header *in = (const void *)message;
	struct fuse_buf buf = {.mem = message, .size = len};

	if (in->opcode == FUSE_DESTROY) {
		/* Nothing comes after it.  Whoever owns the loop closes the volume and then answers. */
		l->destroy = *in;
		end_loop(l, LOOP_DESTROYED);
	} else if (!fuse_raw_request(w, message)) {
		fuse_session_process_buf(l->se, &buf);
	}
}

/* --- requests over io_uring ----------------------------------------------------------------------- */

/* Handles the next one that has come through the ring; false: none has. */
static bool serve_ring(struct worker *w)
{
	struct request *kept = w->current;
	size_t len;
	char *message;
	struct ring_entry *e = ring_next(w->ring, &message, &len);

	if (!e)
		return false;
	w->current = ring_entry_room(e);
	w->current->worker = w;
	w->current->entry = e;
	dispatch(w, message, len);
	w->current = kept;
	return true;
}

static void check_ring(struct worker *w)
{
	switch (ring_state(w->ring)) {
	case RING_WORKS:
	/* The kernel goes back to /dev/fuse, which the first worker reads. */
	case RING_REFUSED:
		break;
	case RING_GONE:
		end_loop(w->loop, LOOP_UNMOUNTED);
	}
}

static void poll_connection(struct worker *w)
{
	dev_uring_poll(w->q, &w->poll, w->loop->fd);
	w->polls = true;
}

static void connection_polled(struct dev_guest *guest, int res, bool more)
{
	struct worker *w = (struct worker *)((char *)guest - offsetof(struct worker, poll));

	(void)res;
	w->polls = more;
	w->readable = true;
}

/* Where this worker's requests come from, as seen by its processor. */
static void pin(unsigned cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	/* It may not be ours to use; then the scheduler decides. */
	(void)sched_setaffinity(0, sizeof(set), &set);
}

/* --- requests from /dev/fuse ------------------------------------------------------------------------ */

static void stop_listening(struct worker *w)
{
	if (w->listens && !w->ring)
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

/* Reads the next one and handles it; false: there is none. */
static bool serve_connection(struct worker *w)
{
	ssize_t n = read_message(w);

	if (n > 0) {
		dispatch(w, message_of(w->current), (size_t)n);
		return true;
	}
	w->readable = false;
	if (n < 0)
		read_failed(w, (int)n);
	else if (w->ring && !w->polls)
		poll_connection(w);
	return false;
}

static bool may_read(const struct worker *w)
{
	return w->listens && (!w->ring || w->readable);
}

/* Handles what is there, up to a batch; returns how many. */
static int serve(struct worker *w)
{
	int served = 0;

	while (served < BATCH && atomic_load_explicit(&w->loop->phase, memory_order_acquire) == RUN) {
		if (!(w->ring && serve_ring(w)) && !(may_read(w) && serve_connection(w)))
			break;
		served++;
		/* With a ring the replies go with the next look at it, and all at once. */
		if (w->busy && !w->ring)
			dev_poll(w->q, 0);
	}
	return served;
}

/* --- workers -------------------------------------------------------------------------------------- */

/* At what is there, without waiting.  True: something was. */
static bool look_epoll(struct worker *w, int timeout_ms)
{
	struct epoll_event ev[2];
	int n = epoll_wait(w->epfd, ev, 2, timeout_ms);

	for (int i = 0; i < n; i++)
		if (ev[i].data.ptr == w->q)
			dev_poll(w->q, 0);
	return n > 0;
}

static bool look(void *arg)
{
	struct worker *w = arg;

	return (w->ring ? dev_poll(w->q, 0) > 0 : look_epoll(w, 0)) || w->loop->phase != w->phase;
}

static void wait_for_something(struct worker *w)
{
	uint64_t since;

	/* A look may have consumed the wake that follows a change of phase. */
	if (w->busy == 1 && (spin_until(&w->spin, look, w) || w->loop->phase != w->phase))
		return;
	since = w->busy == 1 ? spin_now() : 0;
	if (w->ring)
		dev_poll(w->q, -1);
	else
		look_epoll(w, -1);
	if (since)
		spin_slept(&w->spin, since);
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

/*
 * With rings, the first worker reads what does not come through them.  If the kernel has not taken them, all do, and all wake
 * for each request: that happens only if somebody has switched them off while we were mounting.
 */
static void start_with_ring(struct worker *w)
{
	struct loop *l = w->loop;
	unsigned self = (unsigned)(w - l->workers);

	if (l->over_rings) {
		if (l->nworkers == l->nrings)
			pin(self);
		ring_begin(w->ring, l->fd);
	}
	if (self == 0 || !l->over_rings) {
		w->listens = w->readable = true;
		poll_connection(w);
	}
}

/* Each worker its own entry, exclusive: one request wakes one of them. */
static void start_listening(struct worker *w)
{
	if (w->ring) {
		start_with_ring(w);
		return;
	}

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
		w->phase = phase;
		if (phase == DRAIN) {
			stop_listening(w);
			note_drained(w);
		}
		if (w->ring && phase == RUN && l->over_rings)
			check_ring(w);
		if (serve(w) == BATCH)
			dev_poll(w->q, 0);
		else if (l->phase == phase)
			/* The wake that followed a change of phase cannot have been consumed before this look at it. */
			wait_for_something(w);
	}
	return NULL;
}

static int make_queue(struct worker *w, struct dev *dev)
{
	struct epoll_event ev = {.events = EPOLLIN};
	int err = dev_queue_create(dev, &w->q);

	if (err)
		return err;
	w->epfd = epoll_create1(EPOLL_CLOEXEC);
	ev.data.ptr = w->q;
	if (w->epfd < 0 || epoll_ctl(w->epfd, EPOLL_CTL_ADD, dev_queue_fd(w->q), &ev) < 0)
		return -errno;
	return 0;
}

static int make_ring_queue(struct worker *w, struct dev *dev, unsigned first, unsigned step, unsigned nrings)
{
	int err = dev_uring_queue_create(dev, &w->q);

	w->poll.done = connection_polled;
	return err ? err : ring_create(w->q, first, step, nrings, MOUNT_MAX_IO, w->loop->diag, &w->ring);
}

static int worker_init(struct worker *w, struct loop *l, struct dev *dev, unsigned nworkers, unsigned nrings)
{
	int err;

	*w = (struct worker){.loop = l, .epfd = -1};
	SLIST_INIT(&w->free);
	pool_init(&w->pool);
	if (nrings)
		err = make_ring_queue(w, dev, (unsigned)(w - l->workers), nworkers, nrings);
	else
		err = make_queue(w, dev);
	if (err)
		return err;
	w->current = request_get(w);
	return w->current ? 0 : -ENOMEM;
}

static void worker_fini(struct worker *w)
{
	if (w->q)
		dev_queue_destroy(w->q);
	ring_destroy(w->ring);
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

int loop_create(struct dev *dev, unsigned nworkers, unsigned nrings, struct dev_queue *owner,
		const struct diag *diag, struct loop **out)
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
	l->nrings = nrings;
	pthread_mutex_init(&l->gate, NULL);
	pthread_cond_init(&l->opened, NULL);
	while (!err && l->nworkers < nworkers)
		err = worker_init(&l->workers[l->nworkers++], l, dev, nworkers, nrings);
	if (err) {
		loop_destroy(l);
		return err;
	}
	*out = l;
	return 0;
}

void loop_set_spin(struct loop *l, unsigned limit_us)
{
	for (unsigned i = 0; i < l->nworkers; i++)
		spin_init(&l->workers[i].spin, limit_us);
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

/* What the kernel offers with INIT and we take, beyond what libfuse sees to. */
static void take_offers(struct loop *l, bool rings, const char *message, size_t len)
{
	struct fuse_in_header in;
	struct fuse_init_in init;

	if (len < sizeof(in) + sizeof(init))
		return;
	memcpy(&in, message, sizeof(in));
	memcpy(&init, message + sizeof(in), sizeof(init));
	l->init_takes.flags = init.flags & (INIT_SETXATTR_EXT | INIT_HANDLE_KILLPRIV_V2);
	if (rings && init.flags & INIT_EXT && init.flags2 & INIT2_OVER_IO_URING) {
		l->init_takes.flags |= INIT_EXT;
		l->init_takes.flags2 = INIT2_OVER_IO_URING;
	}
	if (l->init_takes.flags)
		l->init_unique = in.unique;
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
	take_offers(l, w->ring != NULL, message_of(w->current), (size_t)n);
	dispatch(w, message_of(w->current), (size_t)n);
	l->init_unique = 0;
	if (!*inited)
		return -EPROTO;
	set_phase(l, RUN);
	return 0;
}

bool loop_has_rings(const struct loop *l)
{
	return l->over_rings;
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
	if (loop_ended(l) == LOOP_DESTROYED && !l->over_rings)
		answer(l, l->destroy.unique, 0, NULL, 0);
}

void loop_destroy(struct loop *l)
{
	loop_quit(l);
	pthread_cond_destroy(&l->opened);
	pthread_mutex_destroy(&l->gate);
	pthread_key_delete(l->self);
	free(l);
}
