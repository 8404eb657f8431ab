/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.c - the log in memory: groups, reservation, append.
 *
 * An append reserves its LSNs and its place in the open group's chunks under the lock and fills them without it; `pending`
 * keeps the group from being written before.  All sizes take this one way, so ranges are disjoint and without gaps.
 * Memory and room on the device for closing the group are part of the reservation: closing cannot fail.
 * When a group is written, and what follows from that, is commit.c's.
 */
#include "core/bug.h"
#include "core/crc32c.h"
#include "journal/log_impl.h"

#include <stdlib.h>
#include <string.h>

int region_check(const struct super *sb, uint64_t lsn, const struct diag *d)
{
	if (sb->journal_nblocks < MIN_JOURNAL || sb->journal_nblocks > MAX_JOURNAL)
		return corrupt(d, "journal: a region of %llu blocks",
			       (unsigned long long)sb->journal_nblocks);
	/* A mount uses up two laps at most; this leaves more than there will ever be. */
	if (lsn % BLOCK_SIZE || lsn > UINT64_MAX / 2)
		return corrupt(d, "journal: starts at the impossible LSN %llu", (unsigned long long)lsn);
	return 0;
}

int log_create(struct dev *dev, const struct super *sb, uint64_t lsn, const struct diag *diag,
	       log_failed_fn *failed, void *failed_arg, struct log **out)
{
	int err = region_check(sb, lsn, diag);

	if (err)
		return err;
	struct log *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->dev = dev;
	l->sb = *sb;
	l->diag = diag;
	l->failed = failed;
	l->failed_arg = failed_arg;
	l->size = region_bytes(sb);
	lock_init(&l->lock);
	atomic_init(&l->durable_lsn, lsn);
	l->append_lsn = lsn;
	l->tail = lsn;
	STAILQ_INIT(&l->closed);
	STAILQ_INIT(&l->flying);
	STAILQ_INIT(&l->waiters);
	STAILQ_INIT(&l->spare);
	*out = l;
	return 0;
}

/* --- chunks and groups --- */

static struct log_chunk *chunk_get_locked(struct log *l)
{
	struct log_chunk *c = STAILQ_FIRST(&l->spare);

	if (c) {
		STAILQ_REMOVE_HEAD(&l->spare, link);
		l->nspare--;
		return c;
	}
	c = malloc(sizeof(*c));
	if (!c)
		return NULL;
	c->bytes = dev_alloc(LOG_CHUNK, false);
	if (!c->bytes) {
		free(c);
		return NULL;
	}
	return c;
}

static void chunk_free(struct log_chunk *c)
{
	free(c->bytes);
	free(c);
}

static void chunk_put_locked(struct log *l, struct log_chunk *c)
{
	if (l->nspare >= LOG_SPARE_CHUNKS) {
		chunk_free(c);
		return;
	}
	STAILQ_INSERT_HEAD(&l->spare, c, link);
	l->nspare++;
}

void group_free_locked(struct log_group *g)
{
	while (!STAILQ_EMPTY(&g->chunks)) {
		struct log_chunk *c = STAILQ_FIRST(&g->chunks);

		STAILQ_REMOVE_HEAD(&g->chunks, link);
		chunk_put_locked(g->log, c);
	}
	free(g->iov);
	free(g->io);
	free(g);
}

/* Room in the arrays that describe the write of `nchunks` chunks, so that starting it needs no memory. */
static int group_grow_io(struct log_group *g, unsigned nchunks)
{
	struct iovec *iov = reallocarray(g->iov, nchunks + 1, sizeof(*iov));

	if (!iov)
		return -ENOMEM;
	g->iov = iov;
	/* Full ones, a part at the end, and one more because the region's end may cut one in two. */
	struct log_group_io *io = reallocarray(g->io, nchunks / LOG_IO_IOVS + 2, sizeof(*io));

	if (!io)
		return -ENOMEM;
	g->io = io;
	return 0;
}

/* Chunks for a group of `len` bytes.  On -ENOMEM it keeps what it got; nothing else has changed. */
static int group_grow_locked(struct log_group *g, uint64_t len)
{
	while ((uint64_t)g->nchunks * LOG_CHUNK < len) {
		int err = group_grow_io(g, g->nchunks + 1);

		if (err)
			return err;
		struct log_chunk *c = chunk_get_locked(g->log);

		if (!c)
			return -ENOMEM;
		STAILQ_INSERT_TAIL(&g->chunks, c, link);
		g->nchunks++;
	}
	return 0;
}

static void cursor_skip(struct log_cursor *c, uint64_t n)
{
	while (n) {
		if (c->at == LOG_CHUNK)
			*c = (struct log_cursor){.chunk = STAILQ_NEXT(c->chunk, link)};
		uint64_t step = n < LOG_CHUNK - c->at ? n : LOG_CHUNK - c->at;

		c->at += (uint32_t)step;
		n -= step;
	}
}

void cursor_write(struct log_cursor *c, const void *bytes, uint64_t n)
{
	const uint8_t *from = bytes;

	while (n) {
		if (c->at == LOG_CHUNK)
			*c = (struct log_cursor){.chunk = STAILQ_NEXT(c->chunk, link)};
		uint64_t step = n < LOG_CHUNK - c->at ? n : LOG_CHUNK - c->at;

		memcpy(c->chunk->bytes + c->at, from, step);
		c->at += (uint32_t)step;
		from += step;
		n -= step;
	}
}

void group_encode(const struct log *l, struct log_cursor *at, uint64_t lsn, const void *payload,
		  uint32_t len)
{
	struct disk_frame f = {.magic = put32(FRAME_MAGIC), .len = put32(len)};
	le32 crc = put32(frame_crc(&l->sb, lsn, &f, payload));

	cursor_write(at, &f, sizeof(f));
	cursor_write(at, payload, len);
	cursor_write(at, &crc, sizeof(crc));
}

uint64_t group_closed_end(uint64_t frames_end)
{
	uint64_t end = block_round_up(frames_end);

	return end != frames_end && end - frames_end < FRAME_OVERHEAD ? end + BLOCK_SIZE : end;
}

static struct log_group *group_create_locked(struct log *l)
{
	struct log_group *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	g->log = l;
	g->start = l->append_lsn;
	g->end = g->frames_end = g->start + GROUP_FRAME_BYTES;
	g->open = true;
	g->pending = 1;
	STAILQ_INIT(&g->chunks);
	return g;
}

/* --- append --- */

struct reservation {
	struct log_group *group;
	struct log_cursor at;
	uint64_t lsn;
};

/* The open group, or a new one, with memory up to its closed end should its frames end at `frames_end`. */
static int open_group_locked(struct log *l, uint64_t frames_end, struct log_group **out)
{
	struct log_group *g = l->open ? l->open : group_create_locked(l);

	if (!g)
		return -ENOMEM;
	int err = group_grow_locked(g, group_closed_end(frames_end) - g->start);

	if (err) {
		if (!l->open)
			group_free_locked(g);
		return err;
	}
	if (!l->open) {
		g->fill.chunk = STAILQ_FIRST(&g->chunks);
		cursor_skip(&g->fill, GROUP_FRAME_BYTES);
		l->open = g;
	}
	*out = g;
	return 0;
}

static int reserve_locked(struct log *l, uint32_t len, struct log_hold *hold, struct reservation *out)
{
	uint64_t lsn = l->append_lsn + (l->open ? 0 : GROUP_FRAME_BYTES);
	uint64_t end = lsn + FRAME_OVERHEAD + len;
	struct log_group *g;

	if (l->error)
		return -EIO;
	if (group_closed_end(end) - l->tail > l->size && !BUG(JOURNAL_OVERRUN))
		return -ENOSPC;
	int err = open_group_locked(l, end, &g);

	if (err)
		return err;
	*out = (struct reservation){.group = g, .at = g->fill, .lsn = lsn};
	cursor_skip(&g->fill, end - lsn);
	g->end = g->frames_end = end;
	g->pending++;
	if (hold) {
		hold->group = g;
		g->pending++;
		g->has_data = true;
		g->data_bytes += hold->bytes;
	}
	l->append_lsn = end;
	l->stats.appends++;
	l->stats.append_bytes += end - lsn;
	return 0;
}

/* One reason less to wait with the group; starts what that makes ready. */
static void pending_drop(struct log *l, struct log_group *g, struct dev_queue *q)
{
	lock_take(&l->lock);
	assert(g->pending > 0);
	g->pending--;
	struct log_group *ready = commit_pick_locked(l, q);

	lock_drop(&l->lock);
	if (ready)
		commit_start(ready, q);
}

int log_append(struct log *l, struct dev_queue *q, const void *payload, uint32_t len, struct log_hold *hold,
	       uint64_t *end_lsn)
{
	struct reservation r;

	if (len > log_max_payload(l))
		return -EFBIG;
	lock_take(&l->lock);
	int err = reserve_locked(l, len, hold, &r);

	lock_drop(&l->lock);
	if (err)
		return err;
	group_encode(l, &r.at, r.lsn, payload, len);
	if (hold && BUG(DATA_NOT_AWAITED))
		log_release(l, q, hold, 0);
	pending_drop(l, r.group, q);
	*end_lsn = r.lsn + FRAME_OVERHEAD + len;
	return 0;
}

void log_release(struct log *l, struct dev_queue *q, struct log_hold *hold, int err)
{
	struct log_group *g = hold->group;

	if (!g && BUG(DATA_NOT_AWAITED))
		return;
	hold->group = NULL;
	/* Before the group can go: its frames name what was not written. */
	if (err)
		log_fail(l, err, "write of data that the journal names");
	pending_drop(l, g, q);
}

/* --- the end of it, and small questions --- */

void log_destroy(struct log *l)
{
	if (!l)
		return;
	/* Waits for a completion that has published its result and is about to leave the lock. */
	lock_take(&l->lock);
	assert(STAILQ_EMPTY(&l->waiters));
	while (!STAILQ_EMPTY(&l->flying)) {
		struct log_group *g = STAILQ_FIRST(&l->flying);

		/* Only starts that a failure overtook, on queues that are no longer polled. */
		assert(l->error && !g->ios_left);
		STAILQ_REMOVE_HEAD(&l->flying, link);
		group_free_locked(g);
	}
	if (l->open)
		group_free_locked(l->open);
	while (!STAILQ_EMPTY(&l->closed)) {
		struct log_group *g = STAILQ_FIRST(&l->closed);

		STAILQ_REMOVE_HEAD(&l->closed, link);
		group_free_locked(g);
	}
	while (!STAILQ_EMPTY(&l->spare)) {
		struct log_chunk *c = STAILQ_FIRST(&l->spare);

		STAILQ_REMOVE_HEAD(&l->spare, link);
		chunk_free(c);
	}
	lock_drop(&l->lock);
	lock_fini(&l->lock);
	free(l);
}

void log_drain(struct log *l, struct dev_queue *q)
{
	bool busy = true;

	while (busy) {
		struct log_group *g;

		lock_take(&l->lock);
		busy = false;
		STAILQ_FOREACH(g, &l->flying, link)
			busy |= !g->landed && g->q == q;
		lock_drop(&l->lock);
		if (busy)
			dev_poll(q, -1);
	}
}

uint64_t log_seal(struct log *l)
{
	lock_take(&l->lock);
	if (l->open)
		commit_close_locked(l);
	uint64_t lsn = l->append_lsn;

	lock_drop(&l->lock);
	return lsn;
}

void log_trim(struct log *l, uint64_t lsn)
{
	lock_take(&l->lock);
	assert(lsn % BLOCK_SIZE == 0 && lsn <= l->durable_lsn);
	if (lsn > l->tail)
		l->tail = lsn;
	lock_drop(&l->lock);
}

uint32_t log_max_payload(const struct log *l)
{
	return region_max_payload(&l->sb);
}

uint64_t log_append_lsn(struct log *l)
{
	lock_take(&l->lock);
	uint64_t lsn = l->append_lsn;

	lock_drop(&l->lock);
	return lsn;
}

uint64_t log_group_start(struct log *l)
{
	uint64_t lsn;

	lock_take(&l->lock);
	lsn = l->open ? l->open->start : l->append_lsn;
	lock_drop(&l->lock);
	return lsn;
}

uint64_t log_durable_lsn(struct log *l)
{
	return atomic_load_explicit(&l->durable_lsn, memory_order_acquire);
}

uint64_t log_used(struct log *l)
{
	lock_take(&l->lock);
	uint64_t used = l->append_lsn - l->tail;

	lock_drop(&l->lock);
	return used;
}

uint64_t log_size(const struct log *l)
{
	return l->size;
}

int log_error(struct log *l)
{
	lock_take(&l->lock);
	int err = l->error;

	lock_drop(&l->lock);
	return err;
}

void log_get_stats(struct log *l, struct log_stats *out)
{
	lock_take(&l->lock);
	*out = l->stats;
	lock_drop(&l->lock);
}

static void assert_group(const struct log *l, const struct log_group *g, uint64_t start)
{
	assert(g->log == l && g->start == start);
	assert(g->end > g->start + GROUP_FRAME_BYTES);
	assert((uint64_t)g->nchunks * LOG_CHUNK >= group_closed_end(g->frames_end) - g->start);
	assert(g->end == (g->open ? g->frames_end : group_closed_end(g->frames_end)));
	assert(!g->open || g->pending > 0);
}

void log_assert(struct log *l)
{
	struct log_group *g;
	struct log_waiter *w;

	lock_take(&l->lock);
	uint64_t at = l->durable_lsn;

	assert(l->tail <= at && at <= l->append_lsn);
	assert(group_closed_end(l->append_lsn) - l->tail <= l->size);
	/* After a failure the group in flight has gone and left a gap. */
	if (!l->error) {
		assert(STAILQ_EMPTY(&l->flying) || !STAILQ_FIRST(&l->flying)->landed);
		STAILQ_FOREACH(g, &l->flying, link) {
			assert_group(l, g, at);
			at = g->end;
		}
		STAILQ_FOREACH(g, &l->closed, link) {
			assert_group(l, g, at);
			at = g->end;
		}
		if (l->open) {
			assert_group(l, l->open, at);
			at = l->open->end;
		}
		assert(at == l->append_lsn);
	}
	assert(!l->error || STAILQ_EMPTY(&l->waiters));
	STAILQ_FOREACH(w, &l->waiters, link)
		assert(w->lsn > l->durable_lsn && w->lsn <= l->append_lsn);
	lock_drop(&l->lock);
}
