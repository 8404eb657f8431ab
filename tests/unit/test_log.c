/* SPDX-License-Identifier: Apache-2.0 */
/* test_log.c - appending and group commit (journal/log.c, commit.c) on the simulated device. */
#include "tests/unit/log_rig.h"

#define LAP_BLOCKS 128u
#define LAP_BYTES  ((uint64_t)LAP_BLOCKS * BLOCK_SIZE)

/* Data that is flushed before the frames are written; and such that one flush does for both. */
#define MUCH (LOG_UNFLUSHED_MAX + 1)
#define LITTLE LOG_UNFLUSHED_MAX

static struct dev_stats stats_of(struct rig *r)
{
	struct dev_stats st;

	dev_get_stats(r->dev, &st);
	return st;
}

static struct log_stats log_stats_of(struct rig *r)
{
	struct log_stats st;

	log_get_stats(r->l, &st);
	return st;
}

static void poll_all(struct rig *r)
{
	while (dev_poll(r->q, -1) > 0)
		;
}

/* --- LSNs and groups --- */

static void lsn_arithmetic(void **state)
{
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 1, true, 40960);
	assert_int_equal(log_append_lsn(r.l), 40960);
	assert_int_equal(log_durable_lsn(r.l), 40960);
	assert_int_equal(log_size(r.l), LAP_BYTES);
	/* The group's frame is 36 bytes. */
	assert_int_equal(rig_append(&r, 0, 100, NULL), 40960 + 36 + 112);
	assert_int_equal(rig_append(&r, 1, 8, NULL), 40960 + 36 + 112 + 20);
	assert_int_equal(log_append_lsn(r.l), 40960 + 36 + 112 + 20);
	assert_int_equal(log_used(r.l), 36 + 112 + 20);
	log_assert(r.l);
	rig_sync(&r, log_append_lsn(r.l));
	assert_int_equal(log_durable_lsn(r.l), 40960 + 4096);
	assert_int_equal(log_append_lsn(r.l), 40960 + 4096);
	assert_int_equal(stats_of(&r).durable_writes, 1);
	assert_int_equal(stats_of(&r).flushes, 0);
	assert_int_equal(log_stats_of(&r).append_bytes, 132);
	assert_int_equal(log_stats_of(&r).group_bytes, 4096);
	rig_close(&r);
}

/* Groups whose frames leave every gap from 0 to 40 bytes in front of a block boundary. */
static void padding_for_every_gap(void **state)
{
	struct rig_seen seen;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 2, true, 0);
	for (uint32_t gap = 0; gap <= 40; gap++) {
		uint64_t start = log_append_lsn(r.l);
		uint64_t end = rig_append(&r, gap, 4096 - 36 - 12 - gap, NULL);
		uint64_t blocks = gap >= 1 && gap <= 11 ? 2 : 1;

		assert_int_equal(end, start + 4096 - gap);
		rig_sync(&r, end);
		assert_int_equal(log_append_lsn(r.l), start + blocks * 4096);
		log_assert(r.l);
	}
	rig_read(&r, r.dev, 0, r.salt, &seen);
	assert_int_equal(seen.count, 41);
	assert_int_equal(seen.tail.kind, LOG_TAIL_CLEAN);
	assert_int_equal(seen.tail.end_lsn, log_durable_lsn(r.l));
	rig_close(&r);
}

/* log_append() takes an empty payload; readers pass it over. */
static void empty_frame_is_valid(void **state)
{
	struct rig_seen seen;
	uint64_t end;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 3, true, 0);
	assert_int_equal(log_append(r.l, r.q, NULL, 0, NULL, &end), 0);
	assert_int_equal(end, 36 + 12);
	rig_append(&r, 7, 8, NULL);
	rig_sync(&r, log_append_lsn(r.l));
	rig_read(&r, r.dev, 0, r.salt, &seen);
	assert_int_equal(seen.count, 1);
	assert_int_equal(seen.first, 7);
	rig_close(&r);
}

static void durable_costs_nothing_again(void **state)
{
	struct rig_waiter w;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 4, false, 0);
	uint64_t end = rig_append(&r, 0, 500, NULL);

	rig_sync(&r, end);
	struct dev_stats before = stats_of(&r);

	rig_waiter_init(&w);
	assert_int_equal(log_sync(r.l, r.q, end, &w.w), 0);
	assert_int_equal(log_sync(r.l, r.q, log_append_lsn(r.l), &w.w), 0);
	assert_int_equal(log_sync(r.l, r.q, 0, &w.w), 0);
	rig_sync(&r, end);
	poll_all(&r);
	assert_int_equal(w.calls, 0);
	assert_int_equal(stats_of(&r).writes, before.writes);
	assert_int_equal(stats_of(&r).flushes, before.flushes);
	assert_int_equal(log_stats_of(&r).syncs, 1);
	rig_close(&r);
}

static void append_does_no_io(void **state)
{
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 5, false, 0);
	for (uint32_t i = 0; i < 100; i++)
		rig_append(&r, i, 1000, NULL);
	assert_int_equal(dev_poll(r.q, 0), 0);
	assert_int_equal(stats_of(&r).writes, 0);
	assert_int_equal(log_durable_lsn(r.l), 0);
	rig_sync(&r, log_append_lsn(r.l));
	assert_int_equal(stats_of(&r).writes, 1);
	rig_close(&r);
}

#define FLYING_WAITERS (1u << (LOG_FLYING - 1))

static unsigned first_waiter_of(unsigned group)
{
	return group ? 1u << (group - 1) : 0;
}

/* As many groups are in flight as may be, of one frame each.  Beside others only a group goes that as many wait for as for those. */
static void fly(struct rig *r, struct rig_waiter w[FLYING_WAITERS])
{
	for (uint32_t i = 0; i < LOG_FLYING; i++) {
		uint64_t end = rig_append(r, i, 100, NULL);

		for (unsigned k = first_waiter_of(i); k < first_waiter_of(i + 1); k++) {
			assert_int_equal(stats_of(r).writes, i);
			rig_waiter_init(&w[k]);
			assert_int_equal(log_sync(r->l, r->q, end, &w[k].w), -EINPROGRESS);
		}
		assert_int_equal(stats_of(r).writes, i + 1);
		assert_int_equal(log_append_lsn(r->l), 4096 * (i + 1));
	}
}

/* While as many groups are in flight as may be, the next one forms, and all who wait for it are served by one write. */
static void next_group_forms_meanwhile(void **state)
{
	struct rig_waiter first[FLYING_WAITERS], second[10];
	struct rig_seen seen;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 6, true, 0);
	fly(&r, first);
	for (uint32_t i = 0; i < 10; i++) {
		rig_waiter_init(&second[i]);
		uint64_t end = rig_append(&r, LOG_FLYING + i, 100, NULL);

		assert_int_equal(log_sync(r.l, r.q, end, &second[i].w), -EINPROGRESS);
	}
	assert_int_equal(stats_of(&r).writes, LOG_FLYING);
	log_assert(r.l);
	rig_wait(&r, &first[0]);
	assert_int_equal(first[0].err, 0);
	assert_true(log_durable_lsn(r.l) >= 4096);
	assert_int_equal(second[0].calls, 0);
	for (uint32_t i = 0; i < 10; i++) {
		rig_wait(&r, &second[i]);
		assert_int_equal(second[i].err, 0);
	}
	assert_int_equal(stats_of(&r).writes, LOG_FLYING + 1);
	assert_int_equal(log_stats_of(&r).groups, LOG_FLYING + 1);
	rig_read(&r, r.dev, 0, r.salt, &seen);
	assert_int_equal(seen.count, LOG_FLYING + 10);
	rig_close(&r);
}

/* Who waits alone beside a group of many waits until that has landed, unless much gathers. */
static void few_let_many_gather(void **state)
{
	for (unsigned much = 0; much <= 1; much++) {
		struct rig_waiter many[3], alone;
		uint64_t end;
		struct rig r;

		(void)state;
		rig_open(&r, 2048, 6, false, 0);
		end = rig_append(&r, 0, 100, NULL);
		for (unsigned i = 0; i < 3; i++) {
			rig_waiter_init(&many[i]);
			assert_int_equal(log_sync(r.l, r.q, end, &many[i].w), -EINPROGRESS);
		}
		rig_waiter_init(&alone);
		assert_int_equal(log_sync(r.l, r.q, rig_append(&r, 1, 100, NULL), &alone.w), -EINPROGRESS);
		assert_int_equal(stats_of(&r).writes, 1);
		for (unsigned i = 0; much && i < LOG_START_BYTES / 10000 + 1; i++)
			rig_append(&r, 2 + i, 10000, NULL);
		assert_int_equal(stats_of(&r).writes > 1, much);
		for (unsigned i = 0; i < 3; i++)
			rig_wait(&r, &many[i]);
		rig_wait(&r, &alone);
		assert_int_equal(alone.err, 0);
		log_drain(r.l, r.q);
		rig_close(&r);
	}
}

/* A group that lands before an older one is acknowledged with that, not before. */
static void groups_land_in_any_order(void **state)
{
	unsigned early = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 50; seed++) {
		struct rig_waiter waiter[FLYING_WAITERS];
		unsigned acknowledged = 0;
		struct rig r;

		rig_open(&r, LAP_BLOCKS, seed, false, 0);
		fly(&r, waiter);
		while (acknowledged < LOG_FLYING) {
			dev_poll(r.q, -1);
			log_assert(r.l);
			while (acknowledged < LOG_FLYING && waiter[first_waiter_of(acknowledged)].calls)
				assert_int_equal(waiter[first_waiter_of(acknowledged++)].err, 0);
			for (unsigned i = 0; i < FLYING_WAITERS; i++)
				assert_int_equal(waiter[i].calls, i < first_waiter_of(acknowledged));
			assert_int_equal(log_durable_lsn(r.l), 4096 * acknowledged);
			early += LOG_FLYING - acknowledged > stats_of(&r).in_flight;
		}
		rig_close(&r);
	}
	assert_true(early > 10);
}

/* The second is lost: the first counts, and those behind, which may have been written, do not. */
static void nothing_behind_a_lost_group_counts(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 30; seed++) {
		struct rig_waiter waiter[FLYING_WAITERS];
		struct rig r;

		rig_open(&r, LAP_BLOCKS, seed, seed % 2, 0);
		dev_sim_fail(r.dev, DEV_WRITE, 2, SIM_FAULT_ONCE, -EREMOTEIO, 0, UINT64_MAX);
		fly(&r, waiter);
		for (unsigned i = 0; i < FLYING_WAITERS; i++)
			rig_wait(&r, &waiter[i]);
		assert_true(log_durable_lsn(r.l) <= 4096);
		assert_int_equal(waiter[0].err, log_durable_lsn(r.l) ? 0 : -EIO);
		for (unsigned i = 1; i < FLYING_WAITERS; i++)
			assert_int_equal(waiter[i].err, -EIO);
		assert_int_equal(r.nfailed, 1);
		rig_close(&r);
	}
}

static void large_group_starts_by_itself(void **state)
{
	struct rig r;

	(void)state;
	rig_open(&r, 2048, 7, false, 0);
	for (uint32_t i = 0; i < 16; i++)
		rig_append(&r, i, 60000, NULL);
	assert_int_equal(stats_of(&r).writes, 0);
	for (uint32_t i = 16; i < 30; i++)
		rig_append(&r, i, 60000, NULL);
	assert_int_equal(stats_of(&r).writes, 1);
	poll_all(&r);
	assert_true(log_durable_lsn(r.l) > LOG_START_BYTES);
	assert_true(log_durable_lsn(r.l) < log_append_lsn(r.l));
	/* And the one that grew large meanwhile follows without a waiter. */
	for (uint32_t i = 30; i < 80; i++)
		rig_append(&r, i, 60000, NULL);
	poll_all(&r);
	assert_true(log_append_lsn(r.l) - log_durable_lsn(r.l) <= LOG_START_BYTES);
	rig_close(&r);
}

static void seal_is_a_boundary(void **state)
{
	struct rig_seen seen;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 8, true, 8192);
	assert_int_equal(log_seal(r.l), 8192);
	assert_int_equal(log_group_start(r.l), 8192);
	rig_append(&r, 0, 100, NULL);
	assert_int_equal(log_group_start(r.l), 8192);
	assert_int_equal(log_seal(r.l), 12288);
	assert_int_equal(log_group_start(r.l), 12288);
	rig_append(&r, 1, 5000, NULL);
	assert_int_equal(log_group_start(r.l), 12288);
	uint64_t cut = log_seal(r.l);

	assert_int_equal(cut, 20480);
	rig_append(&r, 2, 100, NULL);
	log_assert(r.l);
	assert_int_equal(stats_of(&r).writes, 0);
	rig_sync(&r, log_append_lsn(r.l));
	assert_int_equal(log_stats_of(&r).groups, 3);
	rig_read(&r, r.dev, cut, r.salt, &seen);
	assert_int_equal(seen.first, 2);
	assert_int_equal(seen.count, 1);
	rig_read(&r, r.dev, 8192, r.salt, &seen);
	assert_int_equal(seen.count, 3);
	rig_close(&r);
}

/* --- holds --- */

static void held_group_waits_then_flushes_first(void **state)
{
	struct rig_waiter w, later;
	struct log_hold hold[2] = {{.bytes = MUCH / 2}, {.bytes = MUCH / 2 + 1}};
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 9, true, 0);
	rig_append(&r, 0, 100, &hold[0]);
	uint64_t end = rig_append(&r, 1, 100, &hold[1]);

	rig_waiter_init(&w);
	assert_int_equal(log_sync(r.l, r.q, end, &w.w), -EINPROGRESS);
	/* Closed at once: what comes now does not join the wait. */
	assert_int_equal(log_append_lsn(r.l), 4096);
	assert_int_equal(rig_append(&r, 2, 100, NULL), 4096 + 36 + 112);
	rig_waiter_init(&later);
	assert_int_equal(log_sync(r.l, r.q, log_append_lsn(r.l), &later.w), -EINPROGRESS);
	log_release(r.l, r.q, &hold[1], 0);
	assert_int_equal(dev_poll(r.q, 0), 0);
	assert_int_equal(stats_of(&r).writes + stats_of(&r).flushes, 0);

	log_release(r.l, r.q, &hold[0], 0);
	assert_int_equal(stats_of(&r).flushes, 1);
	assert_int_equal(stats_of(&r).writes, 0);
	assert_int_equal(dev_poll(r.q, -1), 1);
	assert_int_equal(stats_of(&r).durable_writes, 1);
	assert_int_equal(log_durable_lsn(r.l), 0);
	assert_int_equal(dev_poll(r.q, -1), 1);
	assert_int_equal(w.calls, 1);
	assert_int_equal(w.err, 0);
	assert_int_equal(log_durable_lsn(r.l), 4096);
	rig_wait(&r, &later);
	/* The second group named no data. */
	assert_int_equal(stats_of(&r).flushes, 1);
	assert_int_equal(log_stats_of(&r).flushes, 1);
	assert_int_equal(log_stats_of(&r).one_flush, 0);
	rig_close(&r);
}

static uint8_t head_flags(struct rig *r, uint64_t lsn)
{
	struct log_reader *reader;
	const void *payload;
	uint64_t end;
	uint32_t len;

	assert_int_equal(log_reader_open(r->q, &r->sb, lsn, &reader), 0);
	assert_int_equal(log_reader_next(reader, &payload, &len, &end), 0);
	uint8_t flags = (uint8_t)log_reader_group_flags(reader);

	log_reader_close(reader);
	return flags;
}

/* The frames follow the data, and one flush both. */
static void one_flush_for_data_and_frames(void **state)
{
	struct log_hold hold[2] = {{.bytes = LITTLE / 2}, {.bytes = LITTLE / 2}};
	struct rig_waiter w;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 9, true, 0);
	rig_append(&r, 0, 100, &hold[0]);
	uint64_t end = rig_append(&r, 1, 100, &hold[1]);

	rig_waiter_init(&w);
	assert_int_equal(log_sync(r.l, r.q, end, &w.w), -EINPROGRESS);
	log_release(r.l, r.q, &hold[1], 0);
	assert_int_equal(stats_of(&r).in_flight, 0);
	log_release(r.l, r.q, &hold[0], 0);
	assert_int_equal(dev_poll(r.q, -1), 1);
	assert_int_equal(stats_of(&r).writes, 1);
	assert_int_equal(stats_of(&r).durable_writes, 0);
	assert_int_equal(log_durable_lsn(r.l), 0);
	log_assert(r.l);
	assert_int_equal(w.calls, 0);
	assert_int_equal(dev_poll(r.q, -1), 1);
	assert_int_equal(stats_of(&r).flushes, 1);
	assert_int_equal(w.calls, 1);
	assert_int_equal(w.err, 0);
	assert_int_equal(log_durable_lsn(r.l), 4096);
	assert_int_equal(log_stats_of(&r).flushes, 1);
	assert_int_equal(log_stats_of(&r).one_flush, 1);
	assert_int_equal(head_flags(&r, 0), GROUP_ONE_FLUSH);
	/* Groups without data are as they were. */
	rig_sync(&r, rig_append(&r, 2, 100, NULL));
	assert_int_equal(stats_of(&r).durable_writes, 1);
	assert_int_equal(stats_of(&r).flushes, 1);
	assert_int_equal(head_flags(&r, 4096), 0);
	rig_close(&r);
}

static void hold_released_before_sync_still_flushes(void **state)
{
	(void)state;
	for (unsigned little = 0; little < 2; little++) {
		struct log_hold hold = {.bytes = little ? LITTLE : MUCH};
		struct rig r;

		rig_open(&r, LAP_BLOCKS, 10, true, 0);
		uint64_t end = rig_append(&r, 0, 100, &hold);

		log_release(r.l, r.q, &hold, 0);
		assert_null(hold.group);
		rig_sync(&r, end);
		assert_int_equal(stats_of(&r).flushes, 1);
		assert_int_equal(stats_of(&r).durable_writes, !little);
		rig_close(&r);
	}
}

/* The I/O goes where somebody polls: to the waiter's queue, not to that of whoever drops the last hold. */
static void leader_carries_the_io(void **state)
{
	(void)state;
	for (unsigned little = 0; little < 2; little++) {
		struct log_hold hold = {.bytes = little ? LITTLE : MUCH};
		struct dev_queue *other;
		struct rig_waiter w, next;
		struct rig r;

		rig_open(&r, LAP_BLOCKS, 11, true, 0);
		assert_int_equal(dev_queue_create(r.dev, &other), 0);
		uint64_t end = rig_append(&r, 0, 100, &hold);

		rig_waiter_init(&w);
		assert_int_equal(log_sync(r.l, r.q, end, &w.w), -EINPROGRESS);
		log_release(r.l, other, &hold, 0);
		assert_int_equal(dev_poll(other, 0), 0);
		assert_int_equal(stats_of(&r).flushes + stats_of(&r).writes, 0);

		/* And the group behind it is led by its own waiter. */
		rig_waiter_init(&next);
		end = rig_append(&r, 1, 100, NULL);
		assert_int_equal(log_sync(r.l, other, end, &next.w), -EINPROGRESS);
		rig_wait(&r, &w);
		poll_all(&r);
		assert_int_equal(next.calls, 0);
		while (!next.calls)
			assert_true(dev_poll(other, -1) > 0);
		assert_int_equal(next.err, 0);
		dev_queue_destroy(other);
		rig_close(&r);
	}
}

/* --- failure --- */

enum { NWAITERS = 6 };

struct doomed {
	struct rig r;
	struct log_hold hold;
	struct rig_waiter w[NWAITERS];
	uint64_t durable;	/* before anything goes wrong */
};

/* Something durable; then a group with data in flight, one behind it, and waiters for both. */
static void doom(struct doomed *d, enum dev_op op, uint64_t n, uint64_t data)
{
	struct rig *r = &d->r;

	d->hold = (struct log_hold){.bytes = data};
	rig_open(r, LAP_BLOCKS, 12, false, 0);
	rig_sync(r, rig_append(r, 0, 100, NULL));
	d->durable = log_durable_lsn(r->l);
	if (n)
		dev_sim_fail(r->dev, op, n, SIM_FAULT_ONCE, -EREMOTEIO, 0, 0);
	for (uint32_t i = 0; i < NWAITERS; i++) {
		uint64_t end = rig_append(r, 1 + i, 3000, i == 0 ? &d->hold : NULL);

		rig_waiter_init(&d->w[i]);
		assert_int_equal(log_sync(r->l, r->q, end, &d->w[i].w), -EINPROGRESS);
	}
}

/* After the failure, and after all I/O has ended: nothing is acknowledged, nothing written, nothing hangs. */
static void check_doomed(struct doomed *d, int err, unsigned ndurable)
{
	struct rig *r = &d->r;
	struct rig_waiter late;
	uint64_t end, durable = log_durable_lsn(r->l);

	for (unsigned i = 0; i < NWAITERS; i++) {
		assert_int_equal(d->w[i].calls, 1);
		assert_int_equal(d->w[i].err, i < ndurable ? 0 : -EIO);
	}
	assert_int_equal(r->nfailed, 1);
	assert_int_equal(r->failed_err, err);
	assert_int_equal(log_error(r->l), -EIO);
	struct dev_stats before = stats_of(r);

	rig_waiter_init(&late);
	assert_int_equal(rig_try_append(r, 99, 100, &end), -EIO);
	assert_int_equal(log_sync(r->l, r->q, log_append_lsn(r->l), &late.w), -EIO);
	assert_int_equal(log_sync_wait(r->l, r->q, durable + 1), -EIO);
	assert_int_equal(log_sync(r->l, r->q, durable, &late.w), 0);
	log_fail(r->l, -EIO, "again");
	poll_all(r);
	assert_int_equal(late.calls, 0);
	assert_int_equal(r->nfailed, 1);
	assert_int_equal(log_durable_lsn(r->l), durable);
	assert_int_equal(stats_of(r).writes, before.writes);
	assert_int_equal(stats_of(r).flushes, before.flushes);
	rig_close(r);
}

/* Of a group with much data or little. */
static void fail_first(enum dev_op op)
{
	for (unsigned little = 0; little < 2; little++) {
		struct doomed d;

		doom(&d, op, 1, little ? LITTLE : MUCH);
		log_release(d.r.l, d.r.q, &d.hold, 0);
		poll_all(&d.r);
		assert_int_equal(log_durable_lsn(d.r.l), d.durable);
		check_doomed(&d, -EREMOTEIO, 0);
	}
}

static void failed_flush(void **state)
{
	(void)state;
	fail_first(DEV_FLUSH);
}

static void failed_write(void **state)
{
	(void)state;
	fail_first(DEV_WRITE);
}

static void failed_second_write(void **state)
{
	struct doomed d;

	(void)state;
	doom(&d, DEV_WRITE, 2, MUCH);
	log_release(d.r.l, d.r.q, &d.hold, 0);
	poll_all(&d.r);
	/* The first group holds the first frame. */
	assert_int_equal(log_durable_lsn(d.r.l), d.durable + 4096);
	check_doomed(&d, -EREMOTEIO, 1);
}

static void failed_data(void **state)
{
	(void)state;
	for (unsigned little = 0; little < 2; little++) {
		struct doomed d;

		doom(&d, DEV_WRITE, 0, little ? LITTLE : MUCH);
		struct dev_stats before = stats_of(&d.r);

		log_release(d.r.l, d.r.q, &d.hold, -ENOSPC);
		poll_all(&d.r);
		assert_int_equal(stats_of(&d.r).writes, before.writes);
		assert_int_equal(stats_of(&d.r).flushes, before.flushes);
		check_doomed(&d, -ENOSPC, 0);
	}
}

/* By order, while a hold is outstanding that is released only later. */
static void failed_by_order(void **state)
{
	struct doomed d;

	(void)state;
	doom(&d, DEV_WRITE, 0, MUCH);
	log_fail(d.r.l, -ENODEV, "write of a node");
	log_release(d.r.l, d.r.q, &d.hold, 0);
	check_doomed(&d, -ENODEV, 0);
}

/* By order, with a flush (steps 0) or a write (steps 1) in flight: it ends quietly. */
static void failed_by_order_in_flight(void **state)
{
	(void)state;
	for (unsigned steps = 0; steps < 2; steps++) {
		struct doomed d;

		doom(&d, DEV_WRITE, 0, MUCH);
		log_release(d.r.l, d.r.q, &d.hold, 0);
		struct log_stats st = log_stats_of(&d.r);

		for (unsigned i = 0; i < steps; i++)
			assert_int_equal(dev_poll(d.r.q, -1), 1);
		assert_int_equal(stats_of(&d.r).in_flight, 1);
		struct dev_stats before = stats_of(&d.r);

		log_fail(d.r.l, -ENODEV, "write of a node");
		poll_all(&d.r);
		assert_int_equal(stats_of(&d.r).in_flight, 0);
		assert_int_equal(stats_of(&d.r).writes, before.writes);
		assert_int_equal(log_durable_lsn(d.r.l), d.durable);
		assert_int_equal(log_stats_of(&d.r).groups, st.groups);
		check_doomed(&d, -ENODEV, 0);
	}
}

/* The same with one flush: with the frames on their way (steps 0), or the flush behind them (1). */
static void failed_by_order_before_the_flush(void **state)
{
	(void)state;
	for (unsigned steps = 0; steps < 2; steps++) {
		struct doomed d;

		doom(&d, DEV_WRITE, 0, LITTLE);
		log_release(d.r.l, d.r.q, &d.hold, 0);
		for (unsigned i = 0; i < steps; i++)
			assert_int_equal(dev_poll(d.r.q, -1), 1);
		assert_int_equal(stats_of(&d.r).in_flight, 1);

		log_fail(d.r.l, -ENODEV, "write of a node");
		poll_all(&d.r);
		assert_int_equal(stats_of(&d.r).in_flight, 0);
		assert_int_equal(stats_of(&d.r).flushes, steps);
		assert_int_equal(log_durable_lsn(d.r.l), d.durable);
		check_doomed(&d, -ENODEV, 0);
	}
}

/* A start that was posted to another queue and is overtaken by a failure. */
static void failed_before_posted_start(void **state)
{
	struct dev_queue *other;
	struct rig_waiter w;
	struct rig r;

	(void)state;
	for (int polled = 0; polled < 2; polled++) {
		struct log_hold hold = {.bytes = MUCH};

		rig_open(&r, LAP_BLOCKS, 13, true, 0);
		assert_int_equal(dev_queue_create(r.dev, &other), 0);
		rig_waiter_init(&w);
		assert_int_equal(log_sync(r.l, other, rig_append(&r, 0, 100, &hold), &w.w), -EINPROGRESS);
		log_release(r.l, r.q, &hold, 0);
		log_fail(r.l, -EIO, "test");
		assert_int_equal(w.calls, 1);
		assert_int_equal(w.err, -EIO);
		if (polled)
			assert_int_equal(dev_poll(other, 0), 1);
		dev_queue_destroy(other);
		assert_int_equal(stats_of(&r).writes + stats_of(&r).flushes, 0);
		rig_close(&r);
	}
}

/* --- room --- */

static void full_region(void **state)
{
	static const uint32_t sizes[] = {8, 100, 4036, 4048, 5000, 60000, LAP_BYTES / 4};

	(void)state;
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct rig_seen seen;
		uint32_t n = 0;
		uint64_t end;
		struct rig r;
		int err;

		rig_open(&r, LAP_BLOCKS, 14, false, 20480);
		while (!(err = rig_try_append(&r, n, sizes[i], &end)))
			n++;
		assert_int_equal(err, -ENOSPC);
		uint64_t before = log_append_lsn(r.l);

		assert_int_equal(rig_try_append(&r, n, sizes[i], &end), -ENOSPC);
		assert_int_equal(log_append_lsn(r.l), before);
		log_assert(r.l);
		assert_true(log_used(r.l) <= LAP_BYTES);
		assert_true(log_used(r.l) + sizes[i] + FRAME_OVERHEAD + BLOCK_SIZE > LAP_BYTES);
		rig_sync(&r, before);
		rig_read(&r, r.dev, 20480, r.salt, &seen);
		assert_int_equal(seen.count, n);
		assert_int_equal(seen.tail.kind, LOG_TAIL_CLEAN);
		log_trim(r.l, log_durable_lsn(r.l));
		rig_sync(&r, rig_append(&r, n, sizes[i], NULL));
		rig_close(&r);
	}
}

/* Many laps with random sizes, syncs and trims; after each sync the device reads back from the tail. */
static void many_laps(void **state)
{
	struct { uint64_t lsn; uint32_t number; } tail = {0, 0};
	uint64_t rng = 15, end;
	uint32_t next = 0;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 15, false, 0);
	while (log_append_lsn(r.l) < 12 * LAP_BYTES) {
		uint64_t dice = rig_random(&rng);
		uint64_t most = dice % 64 == 0 ? LAP_BYTES / 4 - 7 : 6000;
		uint32_t len = MIN_TXN + (uint32_t)((dice >> 8) % most);
		int err = rig_try_append(&r, next, len, &end);

		if (!err)
			next++;
		if (err || dice % 16 == 1) {
			struct rig_seen seen;

			rig_sync(&r, log_append_lsn(r.l));
			rig_read(&r, r.dev, tail.lsn, r.salt, &seen);
			assert_int_equal(seen.count, next - tail.number);
			assert_true(seen.first == tail.number || !seen.count);
			assert_int_equal(seen.tail.kind, LOG_TAIL_CLEAN);
			assert_int_equal(seen.tail.end_lsn, log_durable_lsn(r.l));
		}
		if (err || dice % 64 == 1) {
			tail.lsn = log_durable_lsn(r.l);
			tail.number = next;
			log_trim(r.l, tail.lsn);
			/* An older one changes nothing. */
			log_trim(r.l, 0);
			assert_int_equal(log_used(r.l), log_append_lsn(r.l) - tail.lsn);
		}
		log_assert(r.l);
	}
	rig_close(&r);
}

static void largest_payload(void **state)
{
	struct rig_seen seen;
	uint64_t end;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 16, false, 0);
	assert_int_equal(log_max_payload(r.l), LAP_BYTES / 4);
	assert_int_equal(rig_try_append(&r, 0, LAP_BYTES / 4 + 1, &end), -EFBIG);
	assert_int_equal(log_append_lsn(r.l), 0);
	rig_sync(&r, rig_append(&r, 0, LAP_BYTES / 4, NULL));
	rig_close(&r);

	/* So that the second of these lies across the region's end, and all of them across many chunks. */
	rig_open(&r, 8192, 17, false, (8192 - 1500) * (uint64_t)BLOCK_SIZE);
	assert_int_equal(log_max_payload(r.l), 4u << 20);
	assert_int_equal(rig_try_append(&r, 0, (4u << 20) + 1, &end), -EFBIG);
	for (uint32_t i = 0; i < 3; i++)
		rig_append(&r, i, 4u << 20, NULL);
	rig_sync(&r, log_append_lsn(r.l));
	rig_read(&r, r.dev, r.lsn, r.salt, &seen);
	assert_int_equal(seen.count, 3);
	rig_close(&r);
}

/* A group that needs more iovecs than one operation takes, across the region's end too. */
static void huge_group(void **state)
{
	const uint64_t nblocks = 24000, start = (nblocks - 6144) * BLOCK_SIZE;
	struct log_hold hold = {.bytes = MUCH};
	struct rig_seen seen;
	struct rig r;

	(void)state;
	rig_open(&r, nblocks, 18, false, start);
	rig_append(&r, 0, 8, &hold);
	for (uint32_t i = 1; i <= 22; i++)
		rig_append(&r, i, 4u << 20, NULL);
	assert_int_equal(stats_of(&r).writes, 0);
	log_release(r.l, r.q, &hold, 0);
	rig_sync(&r, log_append_lsn(r.l));
	/* The first was closed with the first large frame.  The second has 20 MiB to the region's end and 64 MiB and a bit behind. */
	assert_int_equal(log_stats_of(&r).groups, 2);
	assert_int_equal(stats_of(&r).writes, 1 + 3);
	rig_read(&r, r.dev, start, r.salt, &seen);
	assert_int_equal(seen.count, 23);
	rig_close(&r);
}

static void bad_geometry(void **state)
{
	struct log_reader *reader;
	struct log *l;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 19, true, 0);
	struct super small = r.sb, beyond = r.sb;

	small.journal_nblocks = MIN_JOURNAL - 1;
	beyond.journal_blkno += 9;
	assert_int_equal(log_create(r.dev, &r.sb, 100, NULL, NULL, NULL, &l), -EUCLEAN);
	assert_int_equal(log_create(r.dev, &r.sb, UINT64_MAX - 4095, NULL, NULL, NULL, &l), -EUCLEAN);
	assert_int_equal(log_create(r.dev, &small, 0, NULL, NULL, NULL, &l), -EUCLEAN);
	assert_int_equal(log_reader_open(r.q, &r.sb, 100, &reader), -EUCLEAN);
	assert_int_equal(log_reader_open(r.q, &r.sb, UINT64_MAX - 4095, &reader), -EUCLEAN);
	assert_int_equal(log_reader_open(r.q, &small, 0, &reader), -EUCLEAN);
	assert_int_equal(log_reader_open(r.q, &beyond, 0, &reader), -EUCLEAN);
	rig_close(&r);
}

/* What is published as durable can be read, whatever is in flight: looked at after every step. */
static void published_is_readable(void **state)
{
	struct rig_waiter w[400];
	struct log_hold held = {0};
	uint64_t rng = 20;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 20, false, 0);
	for (uint32_t i = 0; i < 400; i++) {
		struct rig_seen seen;
		struct dev *copy;
		uint64_t dice = rig_random(&rng);

		if (!held.group)
			held.bytes = dice % 16 ? LITTLE / 2 : MUCH;
		uint64_t end = rig_append(&r, i, MIN_TXN + (uint32_t)(dice >> 8) % 900,
					  dice % 8 == 0 && !held.group ? &held : NULL);

		rig_waiter_init(&w[i]);
		if (dice % 4 == 1)
			log_sync(r.l, r.q, end, &w[i].w);
		if (dice % 16 >= 13)
			dev_poll(r.q, 0);
		if (dice % 8 == 5 && held.group)
			log_release(r.l, r.q, &held, 0);
		uint64_t durable = log_durable_lsn(r.l);

		log_assert(r.l);
		assert_int_equal(dev_sim_clone(r.dev, &copy), 0);
		rig_read(&r, copy, 0, r.salt, &seen);
		assert_true(seen.tail.end_lsn >= durable);
		assert_int_not_equal(seen.tail.kind, LOG_TAIL_DAMAGED);
		dev_close(copy);
	}
	if (held.group)
		log_release(r.l, r.q, &held, 0);
	rig_sync(&r, log_append_lsn(r.l));
	for (uint32_t i = 0; i < 400; i++)
		assert_true(w[i].calls == 0 || (w[i].calls == 1 && w[i].err == 0));
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lsn_arithmetic),
		cmocka_unit_test(padding_for_every_gap),
		cmocka_unit_test(empty_frame_is_valid),
		cmocka_unit_test(durable_costs_nothing_again),
		cmocka_unit_test(append_does_no_io),
		cmocka_unit_test(next_group_forms_meanwhile),
		cmocka_unit_test(few_let_many_gather),
		cmocka_unit_test(groups_land_in_any_order),
		cmocka_unit_test(nothing_behind_a_lost_group_counts),
		cmocka_unit_test(large_group_starts_by_itself),
		cmocka_unit_test(seal_is_a_boundary),
		cmocka_unit_test(held_group_waits_then_flushes_first),
		cmocka_unit_test(one_flush_for_data_and_frames),
		cmocka_unit_test(hold_released_before_sync_still_flushes),
		cmocka_unit_test(leader_carries_the_io),
		cmocka_unit_test(failed_flush),
		cmocka_unit_test(failed_write),
		cmocka_unit_test(failed_second_write),
		cmocka_unit_test(failed_data),
		cmocka_unit_test(failed_by_order),
		cmocka_unit_test(failed_by_order_in_flight),
		cmocka_unit_test(failed_by_order_before_the_flush),
		cmocka_unit_test(failed_before_posted_start),
		cmocka_unit_test(full_region),
		cmocka_unit_test(many_laps),
		cmocka_unit_test(largest_payload),
		cmocka_unit_test(huge_group),
		cmocka_unit_test(bad_geometry),
		cmocka_unit_test(published_is_readable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
