/* SPDX-License-Identifier: Apache-2.0 */
/* loop.c - workers, and who owns the loop.  See the header. */
#define FUSE_USE_VERSION 314
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "fs/loop_impl.h"

#define BATCH 16 /* requests between looks at the queue */
#define OOM_WAIT_MS 10
#define HUGE_MAX ((size_t)64 << 20) /* of requests' memory */

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
	request_dispatch(w, message, len);
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
		loop_end_with(w->loop, LOOP_UNMOUNTED);
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
	loop_end_with(w->loop, LOOP_UNMOUNTED);
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
		request_dispatch(w, message_of(w->current), (size_t)n);
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

static void wait_for_something(struct worker *w)
{
	if (w->ring) {
		dev_poll(w->q, -1);
		return;
	}

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
	pool_init(&w->pool, l->big);
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
		big_pool_put(w->loop->big, r);
	}
	if (w->current)
		big_pool_put(w->loop->big, w->current);
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
	l->big = big_pool_create(POOL_MAX_BYTES, huge_pages_share() < HUGE_MAX ? huge_pages_share() : HUGE_MAX);
	if (!l->big)
		err = -ENOMEM;
	while (!err && l->nworkers < nworkers)
		err = worker_init(&l->workers[l->nworkers++], l, dev, nworkers, nrings);
	if (err) {
		loop_destroy(l);
		return err;
	}
	*out = l;
	return 0;
}

void loop_refuse_handles(struct loop *l)
{
	l->no_handles = true;
}

void loop_allow_idmap(struct loop *l)
{
	l->idmap = true;
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
	request_take_offers(l, w->ring != NULL, message_of(w->current), (size_t)n);
	request_dispatch(w, message_of(w->current), (size_t)n);
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

bool loop_has_idmap(const struct loop *l)
{
	return l->has_idmap;
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
		request_answer(l, l->destroy.unique, 0, NULL, 0);
}

void loop_destroy(struct loop *l)
{
	loop_quit(l);
	pthread_cond_destroy(&l->opened);
	pthread_mutex_destroy(&l->gate);
	pthread_key_delete(l->self);
	big_pool_destroy(l->big);
	free(l);
}
