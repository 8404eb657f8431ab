/* SPDX-License-Identifier: Apache-2.0 */
/* test_fs_times.c - access times: when they move, and with lazytime when they are written. */
#include "tests/unit/names_rig.h"

static int setup(void **state)
{
	return names_setup(state, 8 * MEGABYTE, 0);
}

/* A file with contents, known to us (one reference). */
static uint64_t make_file(struct names *n, const char *name)
{
	assert_int_equal(try_create(n, INO_ROOT, name, S_IFREG | 0644), 0);
	uint64_t ino = n->attr.ino;
	assert_int_equal(fs_pwrite(n->fs, n->q, ino, "contents", 8, 0), 8);
	return ino;
}

static void read_file(struct names *n, uint64_t ino)
{
	char buf[8];

	assert_int_equal(fs_pread(n->fs, n->q, ino, buf, sizeof(buf), 0), 8);
}

static int64_t atime(struct names *n, uint64_t ino)
{
	return attr_of(n, ino).atime.tv_sec;
}

static void again(struct names *n, struct fs_config cfg)
{
	cfg.clock = names_clock;
	cfg.clock_arg = n;
	n->cfg = cfg;
	names_reopen(n);
}

static uint64_t txns(struct names *n)
{
	return n->r.v->stats.txns;
}

/* A day less a second is not a day. */
static void relatime_by_the_second(void **state)
{
	struct names *n = *state;
	uint64_t ino = make_file(n, "f");

	read_file(n, ino);
	int64_t at = atime(n, ino);
	n->clock.tv_sec = at + 86400 - 2; /* the clock moves by one when it is asked */
	read_file(n, ino);
	assert_int_equal(atime(n, ino), at);
	/* Found due, it is asked again by the step that is alone: that is the time. */
	read_file(n, ino);
	assert_int_equal(atime(n, ino), at + 86401);
	/* One from the future stays, as with ext4, until something changes. */
	struct fs_attr set = {.atime = {.tv_sec = n->clock.tv_sec + 1000000}, .mtime = {.tv_sec = 5}};
	assert_int_equal(fs_setattr(n->fs, n->q, ino, FS_SET_ATIME | FS_SET_MTIME, &set, &n->attr), 0);
	read_file(n, ino);
	assert_int_equal(atime(n, ino), set.atime.tv_sec);
	fs_forget(n->fs, n->q, ino, 1);
}

static int take_none(void *arg, const struct fs_dirent *e)
{
	(void)arg;
	(void)e;
	return 0;
}

static void nodiratime(void **state)
{
	struct names *n = *state;

	again(n, (struct fs_config){.atime = FS_STRICTATIME, .nodiratime = true});
	uint64_t ino = make_file(n, "f");
	int64_t dir = atime(n, INO_ROOT), file = atime(n, ino);

	assert_int_equal(fs_readdir(n->fs, n->q, INO_ROOT, 0, false, take_none, NULL), 0);
	read_file(n, ino);
	assert_int_equal(atime(n, INO_ROOT), dir);
	assert_true(atime(n, ino) > file);
	fs_set_times(n->fs, n->q, FS_STRICTATIME, false, false);
	assert_int_equal(fs_readdir(n->fs, n->q, INO_ROOT, 0, false, take_none, NULL), 0);
	assert_true(atime(n, INO_ROOT) > dir);
	fs_forget(n->fs, n->q, ino, 1);
}

/* What writes a lazy time. */
enum how { NOTHING, FLUSH, FLUSH_ALL, CHANGE, FORGET, A_DAY, SETTLE, OPTION_OFF, CLOSE };

static void write_it(struct names *n, uint64_t ino, enum how how)
{
	struct fs_attr set = {.mode = 0600};

	switch (how) {
	case FLUSH:
		fs_flush_times(n->fs, n->q, ino);
		break;
	case FLUSH_ALL:
		fs_flush_times(n->fs, n->q, 0);
		break;
	case CHANGE:
		assert_int_equal(fs_setattr(n->fs, n->q, ino, FS_SET_MODE, &set, &n->attr), 0);
		break;
	case FORGET:
		fs_forget(n->fs, n->q, ino, 1);
		break;
	case A_DAY:
		assert_false(fs_service(n->fs, n->q));
		n->clock.tv_sec += 86400;
		assert_true(fs_service(n->fs, n->q));
		break;
	case SETTLE:
		fs_settle(n->fs, n->q);
		break;
	case OPTION_OFF:
		fs_set_times(n->fs, n->q, FS_STRICTATIME, false, false);
		break;
	case CLOSE:
		names_reopen(n);
		break;
	default:
		break;
	}
}

static void lazy_times_are_written(void **state)
{
	struct names *n = *state;
	char name[] = "0";

	again(n, (struct fs_config){.atime = FS_STRICTATIME, .lazytime = true});
	for (enum how how = NOTHING; how <= CLOSE; how++) {
		name[0] = (char)('0' + how);
		uint64_t ino = make_file(n, name);
		names_sync(n);
		int64_t old = atime(n, ino);
		uint64_t before = txns(n);

		read_file(n, ino);
		read_file(n, ino);
		int64_t now = atime(n, ino);
		assert_true(now > old + 1);
		assert_int_equal(txns(n), before);
		write_it(n, ino, how);
		/* In one transaction, and not once more later. */
		if (how != CLOSE && how != NOTHING) {
			assert_int_equal(txns(n), before + 1);
			fs_flush_times(n->fs, n->q, 0);
			assert_int_equal(txns(n), before + 1);
		}
		if (how != CLOSE)
			names_sync(n);
		names_crash(n, how);
		if (how == NOTHING)
			assert_int_equal(atime(n, ino), old);
		else
			assert_int_equal(atime(n, ino), now);
	}
}

/* After another period than a day, and how long that is; a period of nothing is a day. */
static void period_of_lazy_times(void **state)
{
	struct names *n = *state;

	again(n, (struct fs_config){.atime = FS_STRICTATIME, .lazytime = true});
	uint64_t ino = make_file(n, "f");

	assert_int_equal(fs_lazy_left(n->fs), -1);
	read_file(n, ino);
	uint64_t before = txns(n);
	int64_t since = atime(n, ino);

	fs_set_lazy_period(n->fs, 100);
	n->clock = (struct timespec){.tv_sec = since + 40, .tv_nsec = 250000000};
	/* The clock moves by one when it is asked, before the answer or after it. */
	int64_t left = fs_lazy_left(n->fs);
	assert_true(left == 59750 || left == 58750);
	n->clock = (struct timespec){.tv_sec = since + 98};
	assert_false(fs_service(n->fs, n->q));
	assert_int_equal(txns(n), before);
	assert_true(fs_lazy_left(n->fs) <= 1000);
	n->clock.tv_sec = since + 1000;
	assert_int_equal(fs_lazy_left(n->fs), 0);
	fs_set_lazy_period(n->fs, 0);
	assert_false(fs_service(n->fs, n->q));
	assert_true(fs_lazy_left(n->fs) > 80000000);
	fs_set_lazy_period(n->fs, 100);
	assert_true(fs_service(n->fs, n->q));
	assert_int_equal(txns(n), before + 1);
	assert_int_equal(fs_lazy_left(n->fs), -1);

	/* At rest nothing can be written, so there is nothing to wait for. */
	read_file(n, ino);
	assert_true(fs_lazy_left(n->fs) > 0);
	n->r.v->resting = true;
	assert_int_equal(fs_lazy_left(n->fs), -1);
	n->r.v->resting = false;
	fs_forget(n->fs, n->q, ino, 1);
}

static unsigned nwanted;

static void count_wanted(void *arg)
{
	(void)arg;
	nwanted++;
}

/* Who serves is woken by the first of them: it looked at a clock, and there were none then. */
static void first_lazy_time_wakes(void **state)
{
	struct names *n = *state;

	again(n, (struct fs_config){.atime = FS_STRICTATIME, .lazytime = true, .want_service = count_wanted});
	uint64_t a = make_file(n, "a"), b = make_file(n, "b");

	nwanted = 0;
	read_file(n, a);
	assert_int_equal(nwanted, 1);
	read_file(n, a);
	read_file(n, b);
	assert_int_equal(nwanted, 1);
	fs_flush_times(n->fs, n->q, 0);
	read_file(n, b);
	assert_int_equal(nwanted, 2);
	fs_forget(n->fs, n->q, a, 1);
	fs_forget(n->fs, n->q, b, 1);
}

/* A file's contents move to a block before something that then fails: the time has gone along, once, and fsync covers it. */
static void moving_contents_takes_it_along(void **state)
{
	struct names *n = *state;

	again(n, (struct fs_config){.atime = FS_STRICTATIME, .lazytime = true});
	uint64_t ino = make_file(n, "f");
	names_sync(n);
	uint64_t before = txns(n);

	read_file(n, ino);
	int64_t now = atime(n, ino);
	assert_int_equal(fs_fallocate(n->fs, n->q, ino, 0, 0, 64 * MEGABYTE), -ENOSPC);
	assert_int_equal(attr_of(n, ino).blocks, 8);
	assert_int_equal(txns(n), before + 1);
	assert_int_equal(fs_sync(n->fs, n->q, ino, false), 0);
	fs_flush_times(n->fs, n->q, ino);
	assert_int_equal(txns(n), before + 1);
	names_crash(n, 1);
	assert_int_equal(atime(n, ino), now);
}

/* What the user sets, even to what it was, is not undone by an older reading. */
static void set_times_win(void **state)
{
	struct names *n = *state;

	again(n, (struct fs_config){.atime = FS_STRICTATIME, .lazytime = true});
	uint64_t ino = make_file(n, "f");
	struct fs_attr set = attr_of(n, ino);

	read_file(n, ino);
	assert_true(atime(n, ino) > set.atime.tv_sec);
	assert_int_equal(fs_setattr(n->fs, n->q, ino, FS_SET_ATIME, &set, &n->attr), 0);
	assert_int_equal(atime(n, ino), set.atime.tv_sec);
	fs_flush_times(n->fs, n->q, 0);
	fs_forget(n->fs, n->q, ino, 1);
	names_reopen(n);
	assert_int_equal(atime(n, ino), set.atime.tv_sec);
}

static void removed_files_have_no_times(void **state)
{
	struct names *n = *state;

	again(n, (struct fs_config){.atime = FS_STRICTATIME, .lazytime = true});
	uint64_t ino = make_file(n, "f");

	assert_int_equal(try_unlink(n, INO_ROOT, "f"), 0);
	read_file(n, ino);
	fs_forget(n->fs, n->q, ino, 1);
	fs_flush_times(n->fs, n->q, 0);
	assert_int_equal(known(n), 0);
	struct fs_attr attr;
	assert_int_equal(fs_getattr(n->fs, n->q, ino, &attr), -ESTALE);
}

/* Reading a volume at rest does not wake it, lazy or not; changing does. */
static void at_rest_times_stay(void **state)
{
	struct names *n = *state;

	for (unsigned lazy = 0; lazy < 2; lazy++) {
		again(n, (struct fs_config){.atime = FS_STRICTATIME, .lazytime = lazy});
		uint64_t ino = make_file(n, lazy ? "lazy" : "busy");

		read_file(n, ino);
		fs_settle(n->fs, n->q);
		assert_int_equal(volume_rest(n->r.v, n->q), 0);
		int64_t at = atime(n, ino);
		read_file(n, ino);
		fs_flush_times(n->fs, n->q, 0);
		assert_false(fs_service(n->fs, n->q));
		assert_int_equal(atime(n, ino), at);
		assert_true(n->r.v->resting);
		assert_int_equal(fs_pwrite(n->fs, n->q, ino, "c", 1, 0), 1);
		assert_false(n->r.v->resting);
		read_file(n, ino);
		assert_true(atime(n, ino) > at);
		fs_forget(n->fs, n->q, ino, 1);
	}
}

/* The end of everything in time: -292 billion years, 1901, 2038, 2446, and nanoseconds. */
static void times_of_all_ages(void **state)
{
	struct names *n = *state;
	static const struct timespec when[] = {
		{INT64_MIN, 0}, {-9999999999, 1}, {-2208988800, 999999999}, {-1, 999999999}, {0, 0}, {0, 1},
		{INT32_MAX, 999999999}, {(int64_t)INT32_MAX + 1, 0}, {15032385535, 0}, {15032385536, 0},
		{16725225600, 5}, {INT64_MAX, 999999999},
	};
	uint64_t ino = make_file(n, "f");

	for (unsigned i = 0; i < sizeof(when) / sizeof(when[0]); i++) {
		struct fs_attr set = {.atime = when[i], .mtime = when[i]};

		assert_int_equal(fs_setattr(n->fs, n->q, ino, FS_SET_ATIME | FS_SET_MTIME, &set, &n->attr), 0);
		fs_forget(n->fs, n->q, ino, 1);
		names_reopen(n);
		assert_int_equal(try_lookup(n, INO_ROOT, "f"), 0);
		assert_memory_equal(&n->attr.atime, &when[i], sizeof(when[i]));
		assert_memory_equal(&n->attr.mtime, &when[i], sizeof(when[i]));
		/* The time of change is not older, so reading moves it, whatever the distance and the direction. */
		read_file(n, ino);
		assert_int_equal(attr_of(n, ino).atime.tv_sec, n->clock.tv_sec);
	}
}

int main(void)
{
#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, names_teardown)
	const struct CMUnitTest tests[] = {
		WITH(relatime_by_the_second), WITH(nodiratime), WITH(lazy_times_are_written),
		WITH(period_of_lazy_times), WITH(first_lazy_time_wakes),
		WITH(moving_contents_takes_it_along), WITH(set_times_win), WITH(removed_files_have_no_times), WITH(at_rest_times_stay),
		WITH(times_of_all_ages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
