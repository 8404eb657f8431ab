/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commit.c - group commit: from a closed group to durable_lsn and its waiters.
 *
 * The first groups, LOG_FLYING of them, may be on their way to the device.  One is started as soon as somebody waits for it
 * or much has gathered, and nothing keeps it pending; whoever makes the last of these true calls commit_pick_locked().  What lands
 * before an older one is acknowledged with it, since recovery stops at the first group that is missing.
 * The I/O goes through the queue of a waiter (the leader), because that is polled until the waiter's LSN is durable; if that is another
 * thread's, the start is posted there.  So nobody who merely appends has to keep polling for the sake of others.
 *
 * No retry: after a failed write or flush the kernel may mark the lost pages clean and report success next time.  The first
 * failure is final: waiters get -EIO, nothing more is written, durable_lsn stays.
 */
#include "core/bug.h"
#include "journal/log_impl.h"

#include <string.h>

/* --- which group, on which queue --- */

void commit_close_locked(struct log *l)
{
	struct log_group *g = l->open;

	LOCK_ASSERT_HELD(&l->lock);
	g->end = group_closed_end(g->frames_end);
	g->open = false;
	g->pending--;
	l->append_lsn = g->end;
	l->open = NULL;
	STAILQ_INSERT_TAIL(&l->closed, g, link);
}

/* The LSN up to which groups have been started. */
static uint64_t started_locked(const struct log *l)
{
	uint64_t lsn = l->durable_lsn;
	const struct log_group *g;

	STAILQ_FOREACH(g, &l->flying, link)
		lsn = g->end;
	return lsn;
}

/* Among those who wait for more than has been started: the caller's queue, since that needs no hand-over; else the first one's; NULL: nobody
 * waits yet. */
static struct dev_queue *leader_locked(struct log *l, struct dev_queue *q)
{
	uint64_t started = started_locked(l);
	struct dev_queue *first = NULL;
	struct log_waiter *w;

	STAILQ_FOREACH(w, &l->waiters, link) {
		if (w->lsn <= started)
			continue;
		if (w->q == q)
			return q;
		if (!first)
			first = w->q;
	}
	return first;
}

/* Of a group that is closed: are its frames and the data that they name made durable by one flush? */
static bool is_one_flush(const struct log_group *g)
{
	return g->has_data && g->data_bytes <= LOG_UNFLUSHED_MAX;
}

static void start_posted(struct dev_task *task)
{
	struct log_group *g = (struct log_group *)((char *)task - offsetof(struct log_group, task));

	commit_start(g, g->q);
}

/*
 * Is it better to let more gather?  Each group more under way makes all of them slower (measured: two at a time took 1.6 times as long as one, four 2.3
 * times, whatever was in them); so beside what is under way only a group goes that at least as many wait for.
 */
static bool should_gather_locked(const struct log *l)
{
	uint64_t started = started_locked(l);
	const struct log_waiter *w;
	int more = 0;

	if (!l->nflying)
		return false;
	STAILQ_FOREACH(w, &l->waiters, link)
		more += w->lsn > started ? 1 : -1;
	return more < 0;
}

struct log_group *commit_pick_locked(struct log *l, struct dev_queue *q)
{
	LOCK_ASSERT_HELD(&l->lock);
	if (l->error || l->nflying == LOG_FLYING)
		return NULL;

	struct dev_queue *leader = leader_locked(l, q);

	if ((!leader || should_gather_locked(l)) && l->append_lsn - started_locked(l) <= LOG_START_BYTES)
		return NULL;
	/* Even if it has to wait for holds: they are those of frames up to here, not of later ones. */
	if (STAILQ_EMPTY(&l->closed) && l->open)
		commit_close_locked(l);
	struct log_group *g = STAILQ_FIRST(&l->closed);

	if (!g || g->pending)
		return NULL;
	STAILQ_REMOVE_HEAD(&l->closed, link);
	assert(g->start == started_locked(l));
	STAILQ_INSERT_TAIL(&l->flying, g, link);
	l->nflying++;
	g->q = leader ? leader : q;
	if (g->q == q)
		return g;
	/* Under the lock: the leader cannot have gone while its waiter is on the list. */
	g->task.run = start_posted;
	dev_post(g->q, &g->task);
	return NULL;
}

/* --- failure --- */

static void waiters_run(struct log_waiter_list *list, int err)
{
	while (!STAILQ_EMPTY(list)) {
		struct log_waiter *w = STAILQ_FIRST(list);

		STAILQ_REMOVE_HEAD(list, link);
		w->done(w, err);
	}
}

/* From now on nothing is written or acknowledged.  True: it had not failed before, and fail_tell() is to follow. */
static bool fail_locked(struct log *l, struct log_waiter_list *waiters)
{
	bool first = !l->error;

	LOCK_ASSERT_HELD(&l->lock);
	l->error = -EIO;
	STAILQ_CONCAT(waiters, &l->waiters);
	return first;
}

static void fail_tell(struct log *l, int err, const char *what, struct log_waiter_list *waiters)
{
	diag(l->diag, DIAG_ERR, "journal: %s failed: %s; nothing after LSN %llu will be acknowledged", what,
	     strerrordesc_np(-err), (unsigned long long)log_durable_lsn(l));
	/* Before the waiters: whoever learns of the failure finds it dealt with. */
	if (l->failed)
		l->failed(l->failed_arg, err, what);
	waiters_run(waiters, -EIO);
}

void log_fail(struct log *l, int err, const char *what)
{
	struct log_waiter_list waiters = STAILQ_HEAD_INITIALIZER(waiters);

	lock_take(&l->lock);
	bool first = fail_locked(l, &waiters);

	lock_drop(&l->lock);
	if (first)
		fail_tell(l, err, what, &waiters);
}

void log_stop(struct log *l)
{
	struct log_waiter_list waiters = STAILQ_HEAD_INITIALIZER(waiters);

	lock_take(&l->lock);
	fail_locked(l, &waiters);
	lock_drop(&l->lock);
	waiters_run(&waiters, -EIO);
}

/* --- the write --- */

/* All waiters that durable_lsn covers now, in the order of their arrival. */
static void take_covered_locked(struct log *l, struct log_waiter_list *out)
{
	struct log_waiter_list rest = STAILQ_HEAD_INITIALIZER(rest);

	while (!STAILQ_EMPTY(&l->waiters)) {
		struct log_waiter *w = STAILQ_FIRST(&l->waiters);

		STAILQ_REMOVE_HEAD(&l->waiters, link);
		if (w->lsn <= l->durable_lsn)
			STAILQ_INSERT_TAIL(out, w, link);
		else
			STAILQ_INSERT_TAIL(&rest, w, link);
	}
	STAILQ_CONCAT(&l->waiters, &rest);
}

static void publish_locked(struct log *l, const struct log_group *g, struct log_waiter_list *covered)
{
	/* BUG(ACK_BEFORE_WRITE) publishes out of order; nothing else does. */
	assert(g->end > l->durable_lsn || BUG(ACK_BEFORE_WRITE));
	if (g->end > l->durable_lsn)
		atomic_store_explicit(&l->durable_lsn, g->end, memory_order_release);
	l->stats.groups++;
	l->stats.group_bytes += g->end - g->start;
	l->stats.flushes += g->has_data;
	l->stats.one_flush += is_one_flush(g);
	take_covered_locked(l, covered);
}

/* Those that have landed and have nothing in front of them; once the log has failed, all that have. */
static void take_landed_locked(struct log *l, struct log_waiter_list *covered)
{
	struct log_group *g, *next;

	for (g = STAILQ_FIRST(&l->flying); g; g = next) {
		next = STAILQ_NEXT(g, link);
		if (!g->landed && !l->error)
			break;
		if (!g->landed)
			continue;
		if (!l->error)
			publish_locked(l, g, covered);
		STAILQ_REMOVE(&l->flying, g, log_group, link);
		l->nflying--;
		group_free_locked(g);
	}
}

/* The group's I/O has ended, or was not begun because the log had failed.  `what` is for err != 0. */
static void group_end(struct log_group *g, int err, const char *what)
{
	struct log_waiter_list covered = STAILQ_HEAD_INITIALIZER(covered), failed = STAILQ_HEAD_INITIALIZER(failed);
	struct log_group *next = NULL;
	struct dev_queue *q = g->q;
	struct log *l = g->log;
	bool first = false;

	lock_take(&l->lock);
	assert(!g->landed);
	g->landed = true;
	/* In the critical section that makes room for another group: none may follow one that was lost. */
	if (err && !BUG(LOG_ERROR_IGNORED))
		first = fail_locked(l, &failed);
	take_landed_locked(l, &covered);
	next = commit_pick_locked(l, q);
	lock_drop(&l->lock);
	if (next)
		commit_start(next, q);
	if (first)
		fail_tell(l, err, what, &failed);
	/* Last: with its last waiter gone the log may be destroyed. */
	waiters_run(&covered, 0);
}

static void last_flush_done(struct dev_io *io, int err)
{
	struct log_group *g = ((struct log_group_io *)io)->group;

	g->ios_left = 0;
	group_end(g, err, "flush of a group and the data that it names");
}

/* Frames and data are written: makes both durable. */
static void group_flush(struct log_group *g)
{
	/* The log may have failed meanwhile, and then nothing is acknowledged any more. */
	if (log_error(g->log) || BUG(DATA_FLUSH_LEFT_OUT)) {
		group_end(g, 0, NULL);
		return;
	}
	g->io[0] = (struct log_group_io){.io = {.op = DEV_FLUSH, .done = last_flush_done}, .group = g};
	g->ios_left = 1;
	dev_submit(g->q, &g->io[0].io);
}

static void write_done(struct dev_io *io, int err)
{
	struct log_group *g = ((struct log_group_io *)io)->group;

	if (err && !g->err)
		g->err = err;
	if (--g->ios_left)
		return;
	if (is_one_flush(g) && (!g->err || BUG(LOG_ERROR_IGNORED)))
		group_flush(g);
	else
		group_end(g, g->err, "write of a group");
}

static unsigned write_flags(const struct log_group *g)
{
	bool later = is_one_flush(g) && !BUG(DATA_FLUSH_LEFT_OUT);

	return later || BUG(LOG_NOT_DURABLE) ? 0 : DEV_DURABLE;
}

/* Puts the group's chunks into dev_ios, cut where the region ends. */
static unsigned build_ios(struct log_group *g)
{
	struct log *l = g->log;
	struct log_chunk *c = STAILQ_FIRST(&g->chunks);
	struct log_group_io *gio = NULL;
	struct iovec *iov = g->iov;
	unsigned nios = 0;

	for (uint64_t lsn = g->start, n; lsn < g->end; lsn += n) {
		uint32_t at = (uint32_t)((lsn - g->start) % LOG_CHUNK);
		uint64_t region_left = l->size - lsn % l->size;

		if (!at && lsn > g->start)
			c = STAILQ_NEXT(c, link);
		n = LOG_CHUNK - at;
		n = n < g->end - lsn ? n : g->end - lsn;
		n = n < region_left ? n : region_left;
		if (!gio || region_left == l->size || gio->io.niov == LOG_IO_IOVS) {
			gio = &g->io[nios++];
			gio->group = g;
			gio->io = (struct dev_io){
				.op = DEV_WRITE,
				.flags = write_flags(g),
				.off = region_offset(&l->sb, lsn),
				.iov = iov,
				.done = write_done,
			};
		}
		*iov++ = (struct iovec){.iov_base = c->bytes + at, .iov_len = n};
		gio->io.niov++;
		gio->io.len += n;
	}
	return nios;
}

/* As group_end() does it when the write has ended. */
static void ack_early(struct log_group *g)
{
	struct log_waiter_list covered = STAILQ_HEAD_INITIALIZER(covered);

	lock_take(&g->log->lock);
	publish_locked(g->log, g, &covered);
	lock_drop(&g->log->lock);
	waiters_run(&covered, 0);
}

static void group_write(struct log_group *g)
{
	unsigned nios = build_ios(g);

	g->ios_left = nios;
	for (unsigned i = 0; i < nios; i++)
		dev_submit(g->q, &g->io[i].io);
	if (BUG(ACK_BEFORE_WRITE))
		ack_early(g);
}

static void flush_done(struct dev_io *io, int err)
{
	struct log_group *g = ((struct log_group_io *)io)->group;

	g->ios_left = 0;
	/* The log may have failed meanwhile, and then nothing is written any more. */
	if (err || log_error(g->log))
		group_end(g, err, "flush of data that the journal names");
	else
		group_write(g);
}

/* The frame that heads the group and those that fill it up to a block boundary. */
static void group_finish(struct log_group *g, uint64_t durable_lsn)
{
	static const uint8_t zeros[BLOCK_SIZE + FRAME_OVERHEAD];
	struct disk_group head = {
		.type = RECORD_GROUP,
		.flags = is_one_flush(g) ? GROUP_ONE_FLUSH : 0,
		.durable_lsn = put64(durable_lsn),
		.len = put64(g->end - g->start),
	};
	struct log_cursor start = {.chunk = STAILQ_FIRST(&g->chunks)};
	uint64_t gap = g->end - g->frames_end;

	group_encode(g->log, &start, g->start, &head, sizeof(head));
	if (gap == FRAME_OVERHEAD) {
		group_encode(g->log, &g->fill, g->frames_end, NULL, 0);
	} else if (gap) {
		uint8_t pad[sizeof(zeros)];

		memcpy(pad, zeros, sizeof(pad));
		pad[0] = RECORD_PAD;
		group_encode(g->log, &g->fill, g->frames_end, pad, (uint32_t)(gap - FRAME_OVERHEAD));
	}
}

void commit_start(struct log_group *g, struct dev_queue *q)
{
	struct log *l = g->log;

	assert(g->q == q);
	if (log_error(l)) {
		group_end(g, 0, NULL);
		return;
	}
	group_finish(g, log_durable_lsn(l));
	if (!g->has_data || is_one_flush(g) || BUG(DATA_FLUSH_LEFT_OUT)) {
		group_write(g);
		return;
	}
	/* The frames vouch for the data they name, so that must be on media first; else a power cut leaves good frames over
	 * garbage.  The holds saw the data's completions, so a flush submitted now covers them. */
	g->io[0] = (struct log_group_io){.io = {.op = DEV_FLUSH, .done = flush_done}, .group = g};
	g->ios_left = 1;
	dev_submit(q, &g->io[0].io);
}

/* --- waiting for it --- */

int log_sync(struct log *l, struct dev_queue *q, uint64_t lsn, struct log_waiter *w)
{
	struct log_group *ready = NULL;
	int err = -EINPROGRESS;

	if (lsn <= log_durable_lsn(l))
		return 0;
	lock_take(&l->lock);
	assert(lsn <= l->append_lsn);
	if (lsn <= l->durable_lsn) {
		err = 0;
	} else if (l->error) {
		err = -EIO;
	} else {
		w->lsn = lsn;
		w->q = q;
		STAILQ_INSERT_TAIL(&l->waiters, w, link);
		l->stats.syncs++;
		ready = commit_pick_locked(l, q);
	}
	lock_drop(&l->lock);
	if (ready)
		commit_start(ready, q);
	return err;
}

struct sync_wait {
	struct log_waiter waiter;
	struct dev_event event;
	int err;
};

static void sync_wait_done(struct log_waiter *w, int err)
{
	struct sync_wait *s = (struct sync_wait *)w;

	s->err = err;
	dev_event_set(&s->event);
}

int log_sync_wait(struct log *l, struct dev_queue *q, uint64_t lsn)
{
	struct sync_wait s = {.waiter.done = sync_wait_done};

	dev_event_init(&s.event, q);
	int err = log_sync(l, q, lsn, &s.waiter);

	if (err != -EINPROGRESS)
		return err;
	dev_event_wait(&s.event);
	return s.err;
}
