/* SPDX-License-Identifier: Apache-2.0 */
/* test_fs_readdir.c - reading directories: cookies, references, and 50000 entries while others come and go. */
#include "tests/unit/names_rig.h"

#define MANY 50000u

struct taken {
	unsigned n, stop; /* refuses the entry after this many */
	uint64_t cookie; /* behind the last one taken */
	unsigned char *times; /* by number: how often "e<number>" came */
	unsigned others, dots, with_attr;
	uint64_t ino[256];
};

static int setup(void **state)
{
	return names_setup(state, 256 * MEGABYTE, 0);
}

static int setup_tiny_cache(void **state)
{
	return names_setup(state, 256 * MEGABYTE, 64 * BLOCK_SIZE);
}

static void check_entry(struct taken *t, const struct fs_dirent *e)
{
	char name[MAX_NAME + 1];

	memcpy(name, e->name, e->len);
	name[e->len] = 0;
	assert_true(e->cookie > t->cookie);
	if (name[0] == '.') {
		assert_int_equal(e->ftype, DT_DIR);
		assert_null(e->attr);
		t->dots++;
	} else if (name[0] == 'e') {
		unsigned i = (unsigned)atoi(name + 1);

		assert_int_equal(e->ftype, DT_REG);
		if (t->times)
			t->times[i]++;
	} else {
		t->others++;
	}
}

static int take(void *arg, const struct fs_dirent *e)
{
	struct taken *t = arg;

	if (t->n == t->stop)
		return 1;
	check_entry(t, e);
	t->cookie = e->cookie;
	if (e->attr) {
		assert_int_equal(e->attr->ino, e->ino);
		assert_int_equal(IFTODT(e->attr->mode), e->ftype);
		t->with_attr++;
	}
	assert_true(t->n < 256);
	t->ino[t->n++] = e->ino;
	return 0;
}

/* One call that takes at most `max`; 0 at the end. */
static unsigned read_some(struct names *n, uint64_t dir, bool plus, unsigned max, struct taken *t)
{
	t->n = 0;
	t->stop = max;
	assert_int_equal(fs_readdir(n->fs, n->q, dir, t->cookie, plus, take, t), 0);
	return t->n;
}

static void dots_and_types(void **state)
{
	struct names *n = *state;
	uint64_t dir = make(n, INO_ROOT, "dir", S_IFDIR | 0755);
	static const uint32_t type[] = {S_IFREG, S_IFDIR, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK};
	struct taken t = {0};

	for (unsigned i = 0; i < 6; i++)
		make(n, dir, (char[]){(char)('t' + i), 0}, type[i] | 0644);
	make_symlink(n, dir, "link", "x");
	assert_int_equal(read_some(n, dir, true, 100, &t), 9);
	assert_int_equal(t.ino[0], dir);
	assert_int_equal(t.ino[1], INO_ROOT);
	assert_int_equal(t.dots, 2);
	assert_int_equal(t.others, 7);
	assert_int_equal(t.with_attr, 7);
	assert_int_equal(known(n), 7);
	assert_int_equal(read_some(n, dir, true, 100, &t), 0);
	for (unsigned i = 2; i < 9; i++)
		fs_forget(n->fs, n->q, t.ino[i], 1);
	assert_int_equal(known(n), 0);
	assert_int_equal(fs_readdir(n->fs, n->q, t.ino[2], 0, false, take, &t),
			 S_ISDIR(attr_of(n, t.ino[2]).mode) ? 0 : -ENOTDIR);
	assert_int_equal(fs_readdir(n->fs, n->q, 999, 0, false, take, &t), -ESTALE);
}

/* Gives the references of the last call back: there were no others. */
static void forget_taken(struct names *n, uint64_t dir, struct taken *t)
{
	unsigned held = 0;

	for (unsigned i = 0; i < t->n; i++)
		held += t->ino[i] > dir;
	assert_int_equal(known(n), held);
	for (unsigned i = 0; i < t->n; i++)
		fs_forget(n->fs, n->q, t->ino[i], t->ino[i] > dir ? 1 : 0);
	assert_int_equal(known(n), 0);
}

/* Whatever the size of the pieces, all entries come once, and refused ones keep no reference. */
static void pieces_of_all_sizes(void **state)
{
	struct names *n = *state;
	uint64_t dir = make(n, INO_ROOT, "dir", S_IFDIR | 0755);
	unsigned char times[300];
	char name[16];

	for (unsigned i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "e%u", i);
		make(n, dir, name, S_IFREG | 0644);
	}
	for (unsigned piece = 1; piece <= 128; piece += piece < 5 ? 1 : 41) {
		for (unsigned plus = 0; plus < 2; plus++) {
			struct taken t = {.times = times};

			memset(times, 0, sizeof(times));
			while (read_some(n, dir, plus, piece, &t)) {
				if (plus)
					forget_taken(n, dir, &t);
				assert_int_equal(known(n), 0);
			}
			for (unsigned i = 0; i < 300; i++)
				assert_int_equal(times[i], 1);
			assert_int_equal(t.dots, 2);
		}
	}
}

/*
 * Entries e0, e1, ... stay; n<i> come and go between the calls.  Those that stay are seen exactly once, in one pass.
 */
static void many_entries_while_others_change(void **state)
{
	struct names *n = *state;
	uint64_t dir = make(n, INO_ROOT, "dir", S_IFDIR | 0755), piece = 0;
	struct taken t = {.times = calloc(MANY, 1)};
	char name[16];

	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "e%u", i);
		make(n, dir, name, S_IFREG | 0644);
		if (i % 4096 == 0)
			assert_int_equal(volume_service(n->r.v, n->q), 0);
	}
	assert_int_equal(attr_of(n, dir).size, MANY);
	for (unsigned i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		make(n, dir, name, S_IFIFO | 0644);
	}
	while (read_some(n, dir, false, 100 + piece % 77, &t)) {
		/* One goes, one comes, one that stays gets other neighbours. */
		snprintf(name, sizeof(name), "n%u", (unsigned)(piece % 1000));
		assert_int_equal(try_unlink(n, dir, name), 0);
		snprintf(name, sizeof(name), "n%u", (unsigned)(1000 + piece));
		make(n, dir, name, S_IFIFO | 0644);
		if (++piece % 100 == 0)
			names_reopen(n);
		assert_true(piece < 1000);
	}
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(t.times[i], 1);
	assert_true(t.others <= 1000 + piece);
	free(t.times);
}

static void removing_while_reading_empties(void **state)
{
	struct names *n = *state;
	uint64_t dir = make(n, INO_ROOT, "dir", S_IFDIR | 0755);
	unsigned char times[2000] = {0};
	struct taken t = {.times = times};
	char name[16];

	for (unsigned i = 0; i < 2000; i++) {
		snprintf(name, sizeof(name), "e%u", i);
		make(n, dir, name, S_IFREG | 0644);
	}
	while (read_some(n, dir, true, 50, &t)) {
		for (unsigned i = 0; i < 2000; i++) {
			if (times[i] != 1)
				continue;
			snprintf(name, sizeof(name), "e%u", i);
			assert_int_equal(try_unlink(n, dir, name), 0);
			times[i]++;
		}
		forget_taken(n, dir, &t);
	}
	assert_int_equal(attr_of(n, dir).size, 0);
	assert_int_equal(try_rmdir(n, INO_ROOT, "dir"), 0);
}

/*
 * The device fails from its n-th read on, for each n until that is one too many: every operation does what it should or says
 * -EIO, keeps no reference then, and works when the device does again.
 */
static void read_errors_are_errors(void **state)
{
	struct names *n = *state;
	uint64_t dir = make(n, INO_ROOT, "dir", S_IFDIR | 0755);
	unsigned failures = 1, nth;
	char name[16];

	for (unsigned i = 0; i < 1500; i++) {
		snprintf(name, sizeof(name), "e%u", i);
		make(n, dir, name, S_IFREG | 0644);
	}
	for (nth = 1; failures; nth++) {
		struct taken t = {.stop = 200};

		failures = 0;
		names_reopen(n);
		dev_sim_fail(n->r.dev, DEV_READ, nth, SIM_FAULT_STICKY, -EIO, 0, 0);
		int err = fs_readdir(n->fs, n->q, dir, 0, true, take, &t);
		assert_true(err == 0 || (err == -EIO && t.n == 0));
		failures += err != 0 || t.with_attr < 198;
		for (unsigned i = 0; i < t.n; i++)
			fs_forget(n->fs, n->q, t.ino[i],
				  t.ino[i] > dir && inode_find(n->fs, t.ino[i]) ? 1 : 0);
		assert_int_equal(known(n), 0);
		err = try_lookup(n, dir, "e700");
		assert_true(err == 0 || err == -EIO);
		failures += err != 0;
		err = try_create(n, dir, "x", S_IFIFO);
		assert_true(err == 0 || err == -EIO);
		failures += err != 0;
		if (!err)
			fs_forget(n->fs, n->q, n->attr.ino, 1);
		dev_sim_fail(n->r.dev, DEV_READ, 1, SIM_FAULT_NONE, 0, 0, 0);
		assert_int_equal(ino_of(n, dir, "x") != 0, !err);
		if (!err)
			assert_int_equal(try_unlink(n, dir, "x"), 0);
		assert_int_equal(known(n), 0);
		assert_int_equal(attr_of(n, dir).size, 1500);
		assert_true(nth < 500);
	}
	assert_true(nth > 10);
}

static void reading_moves_atime(void **state)
{
	struct names *n = *state;
	uint64_t dir = make(n, INO_ROOT, "dir", S_IFDIR | 0755);
	uint64_t link = make_symlink(n, dir, "link", "target");
	char buf[MAX_SYMLINK + 1];

	for (unsigned mode = 0; mode < 3; mode++) {
		n->cfg.atime = (enum fs_atime)mode;
		make(n, dir, (char[]){(char)('0' + mode), 0}, S_IFREG);
		struct fs_attr set = {0};
		assert_int_equal(fs_setattr(n->fs, n->q, link, FS_SET_MTIME_NOW, &set, &n->attr), 0);
		names_reopen(n);
		for (unsigned again = 0; again < 2; again++) {
			struct taken t = {0};
			int64_t before[2] = {attr_of(n, dir).atime.tv_sec, attr_of(n, link).atime.tv_sec};
			bool moves = mode == FS_STRICTATIME || (mode == FS_RELATIME && !again);

			read_some(n, dir, false, 100, &t);
			assert_int_equal(fs_readlink(n->fs, n->q, link, buf), 0);
			assert_int_equal(attr_of(n, dir).atime.tv_sec > before[0], moves);
			assert_int_equal(attr_of(n, link).atime.tv_sec > before[1], moves);
		}
		/* After a day it is due again. */
		struct taken t = {0};
		int64_t before = attr_of(n, dir).atime.tv_sec;
		n->clock.tv_sec += 86400;
		read_some(n, dir, false, 100, &t);
		assert_int_equal(attr_of(n, dir).atime.tv_sec > before, mode != FS_NOATIME);
	}
}

int main(void)
{
#define WITH(test, how) cmocka_unit_test_setup_teardown(test, how, names_teardown)
	const struct CMUnitTest tests[] = {
		WITH(dots_and_types, setup),
		WITH(pieces_of_all_sizes, setup),
		WITH(pieces_of_all_sizes, setup_tiny_cache),
		WITH(many_entries_while_others_change, setup),
		WITH(many_entries_while_others_change, setup_tiny_cache),
		WITH(removing_while_reading_empties, setup),
		WITH(removing_while_reading_empties, setup_tiny_cache),
		WITH(read_errors_are_errors, setup),
		WITH(reading_moves_atime, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
