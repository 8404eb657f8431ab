/* SPDX-License-Identifier: Apache-2.0 */
/* The room that is kept for writes that were acknowledged before they arrive. */
#include "tests/unit/data_rig.h"

#define BUDGET KB(512)	/* what may be on its way at a time */
#define PAGES (BUDGET / BLOCK_SIZE)
#define TEETH 6000u	/* extents of the comb: one block each, with a hole behind it */
#define SMALL 60u	/* files that are to have inline contents */

struct cached {
	struct data d;
	uint64_t comb, big;
	uint64_t small[SMALL];
	unsigned low;	/* times that it became so */
};

static void low(void *arg)
{
	((struct cached *)arg)->low++;
}

struct waited {
	struct fs_io io;
	struct dev_event done;
};

static void waited_done(struct fs_io *io)
{
	dev_event_set(&((struct waited *)io)->done);
}

static ssize_t cached_write(struct data *d, uint64_t ino, const void *buf, uint64_t len, uint64_t off)
{
	uint64_t done = 0;

	while (done < len) {
		struct waited w = {.io = {.ino = ino, .off = off + done, .len = len - done, .cached = true, .done = waited_done}};

		w.io.buf = (uint8_t *)buf + done;
		dev_event_init(&w.done, d->q);
		fs_write(d->fs, d->q, &w.io);
		volume_event_wait(d->r.v, &w.done);
		if (w.io.result <= 0)
			return w.io.result;
		done += (uint64_t)w.io.result;
	}
	return (ssize_t)done;
}

static uint64_t room(struct data *d)
{
	volume_lock(d->r.v);
	uint64_t n = volume_room(d->r.v);
	volume_unlock(d->r.v);
	return n;
}

/* As statfs has them, before it takes the contents' own metadata off: an eighth of the inodes that it thinks there is room for. */
static uint64_t avail(struct data *d)
{
	struct fs_statfs s;

	assert_int_equal(fs_statfs(d->fs, &s), 0);
	return s.ffree / 8;
}

static uint64_t make(struct data *d, const char *prefix, unsigned i)
{
	struct fs_cred cred = {0};
	struct fs_attr attr;
	char name[32];

	snprintf(name, sizeof(name), "%s%u", prefix, i);
	assert_int_equal(fs_create(d->fs, d->q, &cred, INO_ROOT, name, strlen(name), S_IFREG | 0644, 0, &attr), 0);
	return attr.ino;
}

/* A volume with a comb, whose leaves are full, and files that are still empty; `budget` 0: nobody caches. */
static void setup(struct cached *c, uint64_t seed, uint64_t budget)
{
	uint8_t block[BLOCK_SIZE] = {1};

	memset(c, 0, sizeof(*c));
	data_create(&c->d, MB(64), 512, 0, seed);
	c->comb = make(&c->d, "comb", 0);
	for (unsigned i = 0; i < TEETH; i++)
		assert_int_equal(fs_pwrite(c->d.fs, c->d.q, c->comb, block, BLOCK_SIZE, (uint64_t)i * 2 * BLOCK_SIZE), BLOCK_SIZE);
	for (unsigned i = 0; i < SMALL; i++)
		c->small[i] = make(&c->d, "small", i);
	c->d.cfg.cached_bytes = budget;
	c->d.cfg.space_low = low;
	c->d.cfg.low_arg = c;
	data_reopen(&c->d);
}

/* By ordinary means, until there is nothing left for these. */
static void fill_up(struct cached *c)
{
	uint8_t *buf = calloc(1, MB(1));
	uint64_t big = make(&c->d, "big", 0), off = 0;
	ssize_t n;

	c->big = big;
	assert_non_null(buf);
	for (uint64_t len = MB(1); len; len /= 2) {
		while ((n = fs_pwrite(c->d.fs, c->d.q, big, buf, len, off)) > 0)
			off += (uint64_t)n;
		assert_int_equal(n, -ENOSPC);
	}
	/* What is left behind by the metadata's needs is theirs again after a checkpoint. */
	data_checkpoint(&c->d);
	for (uint64_t len = KB(64); len; len /= 2)
		while ((n = fs_pwrite(c->d.fs, c->d.q, big, buf, len, off)) > 0)
			off += (uint64_t)n;
	free(buf);
}

static void test_only_cached_writes_use_it(void **state)
{
	uint64_t reserve = fs_cached_reserve(BUDGET);
	struct fs_cred cred = {0};
	struct fs_attr attr;
	struct cached c;
	uint8_t buf[BLOCK_SIZE] = {7};

	(void)state;
	setup(&c, 1, BUDGET);
	struct data *d = &c.d;
	uint64_t before = avail(d);
	assert_int_equal(room(d), before + reserve);
	assert_int_equal(fs_admit(d->fs, d->q, false), 0);
	fill_up(&c);
	assert_int_equal(c.low, 1);
	assert_true(fs_is_low(d->fs) && fs_look_low(d->fs));
	fs_told(d->fs);
	/* The others leave all of it, but for the nodes of their own transactions. */
	assert_true(room(d) + 200 > reserve);
	assert_true(avail(d) < 200);
	assert_int_equal(fs_pwrite(d->fs, d->q, d->ino[0], buf, BLOCK_SIZE, 0), -ENOSPC);
	assert_int_equal(fs_fallocate(d->fs, d->q, d->ino[0], 0, 0, MB(1)), -ENOSPC);
	int err = 0;
	for (unsigned i = 0; i < 20000 && !err; i++) {
		char name[16];

		snprintf(name, sizeof(name), "n%u", i);
		err = fs_create(d->fs, d->q, &cred, INO_ROOT, name, strlen(name), S_IFREG | 0644, 0, &attr);
	}
	assert_int_equal(err, -ENOSPC);
	/* Data that was acknowledged, its times, and removals. */
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(cached_write(d, d->ino[0], buf, BLOCK_SIZE, i * 2 * BLOCK_SIZE), BLOCK_SIZE);
	assert_int_equal(fs_admit(d->fs, d->q, false), -ENOSPC);
	attr.mtime = attr.ctime = (struct timespec){1234, 5};
	assert_int_equal(fs_setattr(d->fs, d->q, d->ino[0], FS_SET_MTIME | FS_SET_CTIME, &attr, &attr), 0);
	assert_int_equal(fs_unlink(d->fs, d->q, INO_ROOT, "big0", 4), 0);
	fs_forget(d->fs, d->q, c.big, 1);
	while (fs_service(d->fs, d->q))
		;
	/* There is room again, and the next time is told again. */
	assert_int_equal(fs_admit(d->fs, d->q, false), 0);
	assert_false(fs_look_low(d->fs));
	fill_up(&c);
	assert_int_equal(c.low, 2);
	data_destroy(d);
}

/* As many pages as may be on their way, each where it costs most, and times for each of them. */
static void worst(struct cached *c, uint64_t seed)
{
	struct data *d = &c->d;
	struct fs_attr attr = {.mtime = {1, 2}, .ctime = {3, 4}};
	uint8_t buf[BLOCK_SIZE];
	unsigned nsmall = 0;

	for (unsigned i = 0; i < PAGES; i++) {
		uint64_t ino = c->comb, off = ((uint64_t)i * (TEETH / PAGES) + seed % (TEETH / PAGES)) * 2 * BLOCK_SIZE + BLOCK_SIZE;
		uint64_t len = BLOCK_SIZE;

		if (nsmall < SMALL && data_random(d, 2)) {
			ino = c->small[nsmall++];
			off = 0;
			len = 900 + data_random(d, 124);
		}
		memset(buf, (int)(i % 255 + 1), sizeof(buf));
		assert_int_equal(cached_write(d, ino, buf, len, off), len);
		assert_int_equal(fs_setattr(d->fs, d->q, ino, FS_SET_MTIME | FS_SET_CTIME, &attr, &attr), 0);
	}
}

static void test_it_is_enough(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 12; seed++) {
		struct cached c;

		setup(&c, seed, BUDGET);
		fill_up(&c);
		fs_told(c.d.fs);
		uint64_t before = room(&c.d);
		worst(&c, seed);
		data_checkpoint(&c.d);
		uint64_t used = before - room(&c.d);
		/* The share for one transaction's nodes is still there. */
		assert_true(used <= fs_cached_reserve(BUDGET) - fs_cached_reserve(0));
		assert_int_equal(fs_sync(c.d.fs, c.d.q, 0, false), 0);
		data_crash(&c.d, seed);
		assert_int_equal(fs_admit(c.d.fs, c.d.q, false), -ENOSPC);
		data_destroy(&c.d);
	}
}

static void test_without_it_they_fail(void **state)
{
	struct cached c;
	uint8_t buf[BLOCK_SIZE] = {1};
	ssize_t n = 0;

	(void)state;
	setup(&c, 3, 0);
	fill_up(&c);
	for (unsigned i = 0; i < PAGES && n >= 0; i++)
		n = cached_write(&c.d, c.comb, buf, BLOCK_SIZE, (uint64_t)i * 40 * 2 * BLOCK_SIZE + BLOCK_SIZE);
	assert_int_equal(n, -ENOSPC);
	assert_int_equal(c.low, 0);
	data_destroy(&c.d);
}

/* Whoever is to be told may come late: what arrives meanwhile waits, and nothing of what is kept is used. */
static void test_it_waits_until_all_are_told(void **state)
{
	struct cached c;
	uint8_t buf[BLOCK_SIZE] = {1};
	struct waited w = {.io = {.buf = buf, .len = BLOCK_SIZE, .cached = true, .done = waited_done}};

	(void)state;
	setup(&c, 1, BUDGET);
	fill_up(&c);
	assert_int_equal(c.low, 1);
	uint64_t before = room(&c.d);
	w.io.ino = c.d.ino[0];
	dev_event_init(&w.done, c.d.q);
	fs_write(c.d.fs, c.d.q, &w.io);
	dev_poll(c.d.q, 20);
	assert_int_equal(w.io.result, 0);
	assert_int_equal(room(&c.d), before);
	fs_told(c.d.fs);
	volume_event_wait(c.d.r.v, &w.done);
	assert_int_equal(w.io.result, BLOCK_SIZE);
	data_destroy(&c.d);
}

static bool same_time(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static void test_times_are_their_keepers(void **state)
{
	uint8_t buf[2 * BLOCK_SIZE] = {1};
	struct cached c;

	(void)state;
	setup(&c, 1, BUDGET);
	/* Inline, then a block, then more. */
	for (unsigned i = 0; i < 3; i++) {
		uint64_t len = i == 0 ? 100 : i * BLOCK_SIZE;
		struct fs_attr before = data_attr(&c.d, 0);

		assert_int_equal(cached_write(&c.d, c.d.ino[0], buf, len, 0), len);
		struct fs_attr after = data_attr(&c.d, 0);
		assert_int_equal(after.size, len);
		assert_true(same_time(before.mtime, after.mtime) && same_time(before.ctime, after.ctime));
		assert_int_equal(fs_pwrite(c.d.fs, c.d.q, c.d.ino[0], buf, len, 0), len);
		struct fs_attr direct = data_attr(&c.d, 0);
		assert_false(same_time(direct.mtime, after.mtime) || same_time(direct.ctime, after.ctime));
	}
	/* Where nobody keeps times, pages that were stored through a mapping are changes like others. */
	c.d.cfg.cached_bytes = 0;
	data_reopen(&c.d);
	struct fs_attr before = data_attr(&c.d, 0);
	assert_int_equal(cached_write(&c.d, c.d.ino[0], buf, BLOCK_SIZE, 0), BLOCK_SIZE);
	struct fs_attr after = data_attr(&c.d, 0);
	assert_false(same_time(before.mtime, after.mtime) || same_time(before.ctime, after.ctime));
	data_destroy(&c.d);
}

static int set_times(struct data *d, uint64_t ino, unsigned set, int64_t mtime, int64_t ctime)
{
	struct fs_attr attr = {.mtime = {mtime, 7}, .ctime = {ctime, 7}};

	return fs_setattr(d->fs, d->q, ino, set, &attr, &attr);
}

/* Of immutable and append-only files: times of what was written before, while there can be such; and "now", which comes as a time. */
static void test_times_of_protected_files(void **state)
{
	const unsigned kept = FS_SET_MTIME | FS_SET_CTIME, touch = kept | FS_SET_ATIME_NOW;
	struct cached c;

	(void)state;
	setup(&c, 1, BUDGET);
	struct fs_attr attr;
	uint64_t ino = make(&c.d, "protected", 0);
	assert_int_equal(fs_set_flags(c.d.fs, c.d.q, 0, ino, INODE_APPEND, INODE_APPEND), 0);
	assert_int_equal(set_times(&c.d, ino, touch, 5, 5), 0);
	assert_int_equal(set_times(&c.d, ino, touch, 5, 6), -EPERM);
	assert_int_equal(set_times(&c.d, ino, touch | FS_SET_MODE, 5, 5), -EPERM);
	assert_int_equal(set_times(&c.d, ino, kept | FS_SET_ATIME, 5, 5), -EPERM);
	assert_int_equal(set_times(&c.d, ino, kept, 5, 5), -EPERM);
	fs_opened(c.d.fs, ino);
	assert_int_equal(set_times(&c.d, ino, kept, 8, 8), 0);
	assert_int_equal(fs_getattr(c.d.fs, c.d.q, ino, &attr), 0);
	assert_int_equal(attr.mtime.tv_sec, 8);
	assert_int_equal(set_times(&c.d, ino, kept, 8, 9), -EPERM);
	assert_int_equal(fs_set_flags(c.d.fs, c.d.q, 0, ino, INODE_IMMUTABLE, INODE_IMMUTABLE), 0);
	assert_int_equal(set_times(&c.d, ino, kept, 10, 10), 0);
	assert_int_equal(set_times(&c.d, ino, touch, 10, 10), -EPERM);
	fs_released(c.d.fs, ino);
	assert_int_equal(set_times(&c.d, ino, kept, 10, 10), -EPERM);
	/* Where the kernel keeps no times, these are somebody's wish. */
	assert_int_equal(fs_set_flags(c.d.fs, c.d.q, 0, ino, INODE_IMMUTABLE, 0), 0);
	c.d.cfg.cached_bytes = 0;
	data_reopen(&c.d);
	fs_opened(c.d.fs, ino);
	assert_int_equal(set_times(&c.d, ino, touch, 5, 5), -EPERM);
	assert_int_equal(set_times(&c.d, ino, kept, 5, 5), -EPERM);
	data_destroy(&c.d);
}

/* All that somebody can write to, however the table grows meanwhile and however few are asked for at a time. */
static void test_writers(void **state)
{
	static unsigned seen[20000];
	uint64_t ino[7], cursor = 0;
	unsigned got, n = 0;
	struct cached c;
	bool more, expired;

	(void)state;
	data_create(&c.d, MB(32), 128, 0, 1);
	uint64_t first = make(&c.d, "k", 0), last = first;
	for (unsigned i = 1; i < 900; i++)
		last = make(&c.d, "k", i);
	for (uint64_t i = first; i <= last; i += 3) {
		fs_opened(c.d.fs, i);
		fs_opened(c.d.fs, i + 1);
		fs_released(c.d.fs, i + 1);
	}
	do {
		more = fs_writers(c.d.fs, &cursor, ino, 7, &got);
		for (unsigned i = 0; i < got; i++)
			seen[ino[i]]++;
		if (++n == 3)
			for (unsigned i = 900; i < 1500; i++)
				make(&c.d, "k", i);
	} while (more);
	for (uint64_t i = first; i <= last; i++) {
		bool has = (i - first) % 3 == 0;

		assert_true(has ? seen[i] == 1 || seen[i] == 2 : seen[i] == 0);
		assert_int_equal(fs_has_writers(c.d.fs, i, &expired), has);
		assert_false(expired);
	}
	fs_set_expired(c.d.fs, first, true);
	assert_true(fs_has_writers(c.d.fs, first, &expired) && expired);
	data_destroy(&c.d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_only_cached_writes_use_it),
		cmocka_unit_test(test_it_is_enough),
		cmocka_unit_test(test_it_waits_until_all_are_told),
		cmocka_unit_test(test_without_it_they_fail),
		cmocka_unit_test(test_times_are_their_keepers),
		cmocka_unit_test(test_times_of_protected_files),
		cmocka_unit_test(test_writers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
