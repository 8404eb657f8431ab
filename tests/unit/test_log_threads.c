/* SPDX-License-Identifier: Apache-2.0 */
/* test_log_threads.c - the log (journal/log.h) under many threads, on the real engines. */
#include "tests/unit/log_rig.h"

#include <fcntl.h>
#include <unistd.h>

#define NTHREADS   8u
#define NSYNCERS   16u
#define NFRAMES    300u
#define NASKED     20000u
#define LAP_BLOCKS 4096u

struct range {
	uint64_t start, end;
	uint32_t thread;
};

struct crew;

struct member {
	struct crew *crew;
	pthread_t thread;
	uint32_t index;
	struct dev_queue *q;
	struct range ranges[NFRAMES];
	unsigned nsynced, nfailed;
};

struct crew {
	struct rig r;
	char path[4096];
	struct member *members;
	unsigned nmembers;
	_Atomic bool stop;
};

/* A frame of thread t: salt t, so that it tells whose it is. */
static int append(struct member *m, uint32_t number, uint32_t len, struct log_hold *hold, uint64_t *end)
{
	uint8_t *payload = malloc(len);

	rig_payload(m->index, number, len, payload);
	int err = log_append(m->crew->r.l, m->q, payload, len, hold, end);

	free(payload);
	return err;
}

static enum dev_engine engine_of(void **state)
{
	return *(const enum dev_engine *)*state;
}

/* Skips the test, visibly, where the kernel denies io_uring. */
static void crew_open(struct crew *c, void **state, unsigned nmembers, unsigned open_flags, uint64_t lsn)
{
	const char *dir = getenv("TMPDIR");
	struct super sb = rig_super(LAP_BLOCKS);
	struct dev *dev;

	memset(c, 0, sizeof(*c));
	snprintf(c->path, sizeof(c->path), "%s/holdfast-log-XXXXXX", dir ? dir : "/tmp");
	int fd = mkstemp(c->path);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)(sb.nblocks * BLOCK_SIZE)), 0);
	close(fd);
	int err = dev_open(c->path, engine_of(state), open_flags, NULL, &dev);

	unlink(c->path);
	if ((err == -ENOSYS || err == -EPERM) && engine_of(state) == DEV_ENGINE_URING) {
		print_message("io_uring: %s\n", strerror(-err));
		skip();
	}
	assert_int_equal(err, 0);
	rig_open_dev(&c->r, dev, LAP_BLOCKS, lsn);
	c->members = calloc(nmembers, sizeof(*c->members));
	assert_non_null(c->members);
	c->nmembers = nmembers;
	for (unsigned i = 0; i < nmembers; i++) {
		c->members[i].crew = c;
		c->members[i].index = i;
		assert_int_equal(dev_queue_create(dev, &c->members[i].q), 0);
	}
}

static void crew_run(struct crew *c, void *(*work)(void *))
{
	for (unsigned i = 0; i < c->nmembers; i++)
		assert_int_equal(pthread_create(&c->members[i].thread, NULL, work, &c->members[i]), 0);
	for (unsigned i = 0; i < c->nmembers; i++)
		assert_int_equal(pthread_join(c->members[i].thread, NULL), 0);
}

static void crew_close(struct crew *c)
{
	for (unsigned i = 0; i < c->nmembers; i++)
		dev_queue_destroy(c->members[i].q);
	free(c->members);
	rig_close(&c->r);
}

/* --- ranges --- */

static void *append_many(void *arg)
{
	struct member *m = arg;
	uint64_t rng = m->index;

	for (uint32_t i = 0; i < NFRAMES; i++) {
		uint32_t len = MIN_TXN + (uint32_t)(rig_random(&rng) % 3000);
		uint64_t end = 0;

		m->nfailed += append(m, i, len, NULL, &end) != 0;
		m->ranges[i] = (struct range){.start = end - FRAME_OVERHEAD - len, .end = end, .thread = m->index};
		if (i % 50 == 49)
			m->nfailed += log_sync_wait(m->crew->r.l, m->q, end) != 0;
	}
	return NULL;
}

static int by_start(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

/*
 * Sorted, the ranges do not overlap, and where one does not begin where the one before ended there lie only padding, up to a block
 * boundary, and a group's frame.
 */
static void check_ranges(struct range *all, unsigned n)
{
	uint64_t at = 0;

	qsort(all, n, sizeof(*all), by_start);
	for (unsigned i = 0; i < n; i++) {
		if (all[i].start != at)
			assert_int_equal(all[i].start, group_closed_end(at) + GROUP_FRAME_BYTES);
		at = all[i].end;
	}
}

/* Reads the device: frame i is of all[i]'s thread, and each thread's come in order. */
static void check_readback(struct crew *c, const struct range *all, unsigned n)
{
	uint32_t next[NTHREADS] = {0};
	struct log_reader *reader;
	const void *payload;
	uint64_t end;
	uint32_t len;

	assert_int_equal(log_reader_open(c->r.q, &c->r.sb, c->r.lsn, &reader), 0);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(log_reader_next(reader, &payload, &len, &end), 0);
		assert_int_equal(end, all[i].end);
		assert_int_equal(len + FRAME_OVERHEAD, all[i].end - all[i].start);
		assert_int_equal(rig_check_payload(all[i].thread, payload, len), next[all[i].thread]++);
	}
	assert_int_equal(log_reader_next(reader, &payload, &len, &end), -ENOENT);
	log_reader_close(reader);
}

static void ranges_are_disjoint_and_gapless(void **state)
{
	struct range *all = calloc(NTHREADS * NFRAMES, sizeof(*all));
	struct crew c;

	crew_open(&c, state, NTHREADS, 0, 0);
	crew_run(&c, append_many);
	rig_sync(&c.r, log_append_lsn(c.r.l));
	for (unsigned i = 0; i < NTHREADS; i++) {
		assert_int_equal(c.members[i].nfailed, 0);
		memcpy(all + i * NFRAMES, c.members[i].ranges, sizeof(c.members[i].ranges));
	}
	check_ranges(all, NTHREADS * NFRAMES);
	check_readback(&c, all, NTHREADS * NFRAMES);
	crew_close(&c);
	free(all);
}

/* --- group commit --- */

static void *sync_each(void *arg)
{
	struct member *m = arg;
	struct log *l = m->crew->r.l;

	for (uint32_t i = 0; i < NFRAMES; i++) {
		uint64_t end;

		m->nfailed += append(m, i, 100, NULL, &end) != 0;
		m->nfailed += log_sync_wait(l, m->q, end) != 0;
		m->nfailed += log_durable_lsn(l) < end;
		m->nsynced++;
	}
	return NULL;
}

static void syncs_share_writes(void **state)
{
	struct dev_stats st;
	struct crew c;

	crew_open(&c, state, NSYNCERS, 0, 0);
	crew_run(&c, sync_each);
	for (unsigned i = 0; i < NSYNCERS; i++)
		assert_int_equal(c.members[i].nfailed, 0);
	dev_get_stats(c.r.dev, &st);
	print_message("%u syncs, %llu durable writes\n", NSYNCERS * NFRAMES, (unsigned long long)st.durable_writes);
	assert_true(st.durable_writes + st.flushes < NSYNCERS * NFRAMES / 2);
	assert_true(st.durable_writes > 0);
	crew_close(&c);
}

/* --- everything at once --- */

/* Appends, data with holds that are released by and by, syncs by wait, over many laps; room comes from the trimmer. */
static void *mixed_work(void *arg)
{
	struct member *m = arg;
	struct log *l = m->crew->r.l;
	uint64_t rng = 100 + m->index, end;

	for (uint32_t i = 0; i < 4 * NFRAMES; i++) {
		uint64_t dice = rig_random(&rng);
		struct log_hold hold = {.bytes = dice % 16 ? 4096 : LOG_UNFLUSHED_MAX + 1};
		bool data = dice % 8 == 0;
		uint32_t len = dice % 128 == 1 ? 700000 : MIN_TXN + (uint32_t)(dice >> 8) % 6000;
		int err;

		while ((err = append(m, i, len, data ? &hold : NULL, &end)) == -ENOSPC)
			dev_poll(m->q, 1);
		m->nfailed += err != 0;
		if (err)
			break;
		dev_poll(m->q, 0);
		if (data)
			log_release(l, m->q, &hold, 0);
		if (dice % 8 == 3)
			m->nfailed += log_sync_wait(l, m->q, end) != 0;
	}
	return NULL;
}

static void *trim_and_assert(void *arg)
{
	struct member *m = arg;
	struct log *l = m->crew->r.l;

	while (!m->crew->stop) {
		uint64_t lsn = log_seal(l);

		m->nfailed += log_sync_wait(l, m->q, lsn) != 0;
		log_assert(l);
		log_trim(l, lsn);
		dev_poll(m->q, 1);
	}
	return NULL;
}

static void mixed_work_over_laps(void **state)
{
	struct member trimmer = {0};
	struct rig_seen seen;
	struct crew c;

	crew_open(&c, state, 4, 0, (uint64_t)(LAP_BLOCKS - 100) * BLOCK_SIZE);
	trimmer.crew = &c;
	assert_int_equal(dev_queue_create(c.r.dev, &trimmer.q), 0);
	assert_int_equal(pthread_create(&trimmer.thread, NULL, trim_and_assert, &trimmer), 0);
	crew_run(&c, mixed_work);
	c.stop = true;
	assert_int_equal(pthread_join(trimmer.thread, NULL), 0);
	dev_queue_destroy(trimmer.q);
	assert_int_equal(trimmer.nfailed, 0);
	for (unsigned i = 0; i < c.nmembers; i++)
		assert_int_equal(c.members[i].nfailed, 0);
	assert_true(log_append_lsn(c.r.l) > 2 * LAP_BLOCKS * (uint64_t)BLOCK_SIZE);
	/* Nothing follows what is durable. */
	rig_sync(&c.r, log_append_lsn(c.r.l));
	rig_read(&c.r, c.r.dev, log_durable_lsn(c.r.l), c.r.salt, &seen);
	assert_int_equal(seen.tail.kind, LOG_TAIL_CLEAN);
	crew_close(&c);
}

/* --- failure --- */

static void *sync_until_failure(void *arg)
{
	struct member *m = arg;
	struct log *l = m->crew->r.l;

	for (uint32_t i = 0; i < NFRAMES; i++) {
		uint64_t end;
		int err = append(m, i, 100, NULL, &end);

		if (!err)
			err = log_sync_wait(l, m->q, end);
		m->nsynced += err == 0;
		m->nfailed += err == -EIO;
	}
	return NULL;
}

/* The device takes no writes: everybody gets -EIO, nobody hangs, the reason is told once. */
static void failure_reaches_everybody(void **state)
{
	struct crew c;

	crew_open(&c, state, NSYNCERS, DEV_OPEN_READ_ONLY, 0);
	crew_run(&c, sync_until_failure);
	for (unsigned i = 0; i < NSYNCERS; i++) {
		assert_int_equal(c.members[i].nsynced, 0);
		assert_int_equal(c.members[i].nfailed, NFRAMES);
	}
	assert_int_equal(c.r.nfailed, 1);
	assert_int_equal(log_durable_lsn(c.r.l), 0);
	crew_close(&c);
}

static void count_failure(struct log_waiter *w, int err)
{
	struct rig_waiter *rw = (struct rig_waiter *)w;

	rw->err = err;
	rw->calls++;
}

/* Asks again and again, without waiting for the answers, until told that the log has failed. */
static void *ask_until_failure(void *arg)
{
	struct member *m = arg;
	struct rig_waiter *w = calloc(NASKED, sizeof(*w));
	unsigned n = 0, calls = 0;
	uint64_t end;
	int err = append(m, 0, 100, NULL, &end);

	assert_non_null(w);
	while (!err || err == -EINPROGRESS) {
		rig_waiter_init(&w[n]);
		w[n].w.done = count_failure;
		err = n < NASKED - 1 ? log_sync(m->crew->r.l, m->q, end, &w[n].w) : log_sync_wait(m->crew->r.l, m->q, end);
		n += err == -EINPROGRESS;
		dev_poll(m->q, 0);
	}
	m->nfailed = err == -EIO;
	while (calls < n) {
		dev_poll(m->q, 0);
		for (calls = 0; calls < n && w[calls].calls; calls++)
			m->nsynced += w[calls].err != -EIO;
	}
	free(w);
	return NULL;
}

/* A group that was lost is the last one: nobody comes between its failure and that of the log. */
static void nothing_follows_a_failed_group(void **state)
{
	struct crew c;

	for (unsigned round = 0; round < 500; round++) {
		crew_open(&c, state, 4, DEV_OPEN_READ_ONLY, 0);
		crew_run(&c, ask_until_failure);
		for (unsigned i = 0; i < c.nmembers; i++) {
			assert_int_equal(c.members[i].nsynced, 0);
			assert_int_equal(c.members[i].nfailed, 1);
		}
		assert_int_equal(c.r.nfailed, 1);
		crew_close(&c);
	}
}

static void *fail_it(void *arg)
{
	struct member *m = arg;

	/* Somewhere in the middle of the others' work. */
	while (log_durable_lsn(m->crew->r.l) < 100 * BLOCK_SIZE)
		usleep(100);
	log_fail(m->crew->r.l, -ENODEV, "test");
	return NULL;
}

static void failure_by_order_amid_work(void **state)
{
	struct member failer = {0};
	uint64_t synced = 0;
	struct crew c;

	crew_open(&c, state, NTHREADS, 0, 0);
	failer.crew = &c;
	assert_int_equal(pthread_create(&failer.thread, NULL, fail_it, &failer), 0);
	crew_run(&c, sync_until_failure);
	assert_int_equal(pthread_join(failer.thread, NULL), 0);
	for (unsigned i = 0; i < NTHREADS; i++) {
		assert_int_equal(c.members[i].nsynced + c.members[i].nfailed, NFRAMES);
		synced += c.members[i].nsynced;
	}
	assert_true(synced > 0);
	assert_int_equal(c.r.nfailed, 1);
	assert_int_equal(c.r.failed_err, -ENODEV);
	crew_close(&c);
}

int main(void)
{
	enum dev_engine uring = DEV_ENGINE_URING, threads = DEV_ENGINE_THREADS;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(ranges_are_disjoint_and_gapless, &threads),
		cmocka_unit_test_prestate(syncs_share_writes, &threads),
		cmocka_unit_test_prestate(mixed_work_over_laps, &threads),
		cmocka_unit_test_prestate(failure_reaches_everybody, &threads),
		cmocka_unit_test_prestate(nothing_follows_a_failed_group, &threads),
		cmocka_unit_test_prestate(failure_by_order_amid_work, &threads),
		cmocka_unit_test_prestate(ranges_are_disjoint_and_gapless, &uring),
		cmocka_unit_test_prestate(syncs_share_writes, &uring),
		cmocka_unit_test_prestate(mixed_work_over_laps, &uring),
		cmocka_unit_test_prestate(failure_reaches_everybody, &uring),
		cmocka_unit_test_prestate(nothing_follows_a_failed_group, &uring),
		cmocka_unit_test_prestate(failure_by_order_amid_work, &uring),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
