/* SPDX-License-Identifier: Apache-2.0 */
/* test_fs_xattr.c - extended attributes of all sizes, and the other attributes. */
#include <sys/xattr.h>

#include "tests/unit/names_rig.h"

/* Two names of one hash value under the rig's hash key. */
#define TWIN_A "user.7dfc45d63cb200"
#define TWIN_B "user.69e4794191a100"

static int setup(void **state)
{
	return names_setup(state, 64 * MEGABYTE, 0);
}

static int setup_tiny_cache(void **state)
{
	return names_setup(state, 64 * MEGABYTE, 64 * BLOCK_SIZE);
}

static void fill(uint8_t *buf, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(i * 131 + (i >> 8) + seed);
}

static uint64_t count_items(struct names *n, uint64_t ino, uint8_t type)
{
	struct key key = key_make(ino, type, 0), found;
	struct miss miss;
	const void *val;
	unsigned len;
	uint64_t count = 0;
	int err;

	for (;;) {
		volume_lock(n->r.v);
		err = tree_seek(n->r.v->tree, &key, &miss, &found, &val, &len);
		volume_unlock(n->r.v);
		if (err == -EAGAIN) {
			assert_int_equal(volume_provide(n->r.v, n->q, &miss), 0);
			continue;
		}
		if (err || found.object != ino || found.type != type)
			return count;
		count++;
		key = found;
		key.offset++;
	}
}

static void check_value(struct names *n, uint64_t ino, const char *name, const uint8_t *want, size_t len)
{
	static uint8_t buf[MAX_XATTR + 1];
	size_t got = 0;

	assert_int_equal(fs_getxattr(n->fs, n->q, ino, name, NULL, &got), 0);
	assert_int_equal(got, len);
	if (len > 0) {
		got = len - 1;
		if (got)
			assert_int_equal(fs_getxattr(n->fs, n->q, ino, name, buf, &got), -ERANGE);
		got = len;
		memset(buf, 0xee, sizeof(buf));
		assert_int_equal(fs_getxattr(n->fs, n->q, ino, name, buf, &got), 0);
		assert_int_equal(got, len);
		assert_memory_equal(buf, want, len);
		assert_int_equal(buf[len], 0xee);
	}
}

static void values_of_all_sizes(void **state)
{
	struct names *n = *state;
	static const size_t len[] = {0,    1,    767, 768,   769,   1000,  1791, 1792,  1793,
				     4096, 5000, 768, 20000, 65535, 65536, 0,    65536, 1};
	uint64_t ino = make(n, INO_ROOT, "file", S_IFREG | 0644);
	uint8_t *val = malloc(MAX_XATTR + 1);
	char name[256];

	memset(name, 'n', 255);
	name[255] = 0;
	for (unsigned i = 0; i < sizeof(len) / sizeof(len[0]); i++) {
		fill(val, len[i], i);
		int64_t before = attr_of(n, ino).ctime.tv_sec;
		assert_int_equal(fs_setxattr(n->fs, n->q, ino, "user.a", val, len[i], 0), 0);
		assert_true(attr_of(n, ino).ctime.tv_sec > before);
		assert_int_equal(fs_setxattr(n->fs, n->q, ino, name, val, len[i], 0), 0);
		check_value(n, ino, "user.a", val, len[i]);
		if (i % 3 == 0)
			names_reopen(n);
		check_value(n, ino, "user.a", val, len[i]);
		check_value(n, ino, name, val, len[i]);
		size_t chunks = len[i] <= XATTR_HEAD_MAX ? 0 : (len[i] - XATTR_HEAD_MAX + 1023) / 1024;
		assert_int_equal(count_items(n, ino, ITEM_XATTR), 2);
		assert_int_equal(count_items(n, ino, ITEM_XATTR_MORE), 2 * chunks);
	}
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, "user.a", val, MAX_XATTR + 1, 0), -E2BIG);
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, "user.a", val, 9999, 0), 0);
	assert_int_equal(fs_removexattr(n->fs, n->q, ino, "user.a"), 0);
	assert_int_equal(count_items(n, ino, ITEM_XATTR_MORE), 0);
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, "user.a", val, 9999, 0), 0);
	/* They go with the inode. */
	assert_int_equal(try_unlink(n, INO_ROOT, "file"), 0);
	while (fs_service(n->fs, n->q))
		;
	assert_int_equal(count_items(n, ino, ITEM_XATTR), 0);
	assert_int_equal(count_items(n, ino, ITEM_XATTR_MORE), 0);
	free(val);
}

static void xattr_errors(void **state)
{
	struct names *n = *state;
	uint64_t ino = make(n, INO_ROOT, "dir", S_IFDIR | 0755);
	char buf[16], longer[257];
	size_t len = sizeof(buf);

	memset(longer, 'n', 256);
	longer[256] = 0;
	assert_int_equal(fs_getxattr(n->fs, n->q, ino, "user.x", buf, &len), -ENODATA);
	assert_int_equal(fs_removexattr(n->fs, n->q, ino, "user.x"), -ENODATA);
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, "user.x", "1", 1, XATTR_REPLACE), -ENODATA);
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, "user.x", "1", 1, XATTR_CREATE), 0);
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, "user.x", "2", 1, XATTR_CREATE), -EEXIST);
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, "user.x", "3", 1, XATTR_REPLACE), 0);
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, "user.x", "4", 1, 64), -EINVAL);
	check_value(n, ino, "user.x", (const uint8_t *)"3", 1);
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, "", "1", 1, 0), -ERANGE);
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, longer, "1", 1, 0), -ERANGE);
	assert_int_equal(fs_getxattr(n->fs, n->q, ino, longer, buf, &len), -ERANGE);
	assert_int_equal(fs_removexattr(n->fs, n->q, ino, ""), -ERANGE);
	assert_int_equal(fs_setxattr(n->fs, n->q, 999, "user.x", "1", 1, 0), -ESTALE);
	assert_int_equal(fs_getxattr(n->fs, n->q, 999, "user.x", buf, &len), -ESTALE);
	assert_int_equal(fs_removexattr(n->fs, n->q, 999, "user.x"), -ESTALE);
	assert_int_equal(fs_listxattr(n->fs, n->q, 999, true, buf, &len), -ESTALE);
}

static void lists_name_all(void **state)
{
	struct names *n = *state;
	uint64_t ino = make(n, INO_ROOT, "file", S_IFREG | 0644),
		 other = make(n, INO_ROOT, "other", S_IFREG | 0644);
	bool seen[200] = {false};
	char name[16], *list = malloc(8192);
	size_t len = 0, all = 0;

	assert_int_equal(fs_listxattr(n->fs, n->q, ino, true, NULL, &len), 0);
	assert_int_equal(len, 0);
	for (unsigned i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "user.%u", i);
		assert_int_equal(fs_setxattr(n->fs, n->q, ino, name, list, i * 7, 0), 0);
		all += strlen(name) + 1;
	}
	assert_int_equal(fs_setxattr(n->fs, n->q, other, "user.other", "", 0, 0), 0);
	assert_int_equal(fs_listxattr(n->fs, n->q, ino, true, NULL, &len), 0);
	assert_int_equal(len, all);
	len = all - 1;
	assert_int_equal(fs_listxattr(n->fs, n->q, ino, true, list, &len), -ERANGE);
	len = all;
	assert_int_equal(fs_listxattr(n->fs, n->q, ino, true, list, &len), 0);
	assert_int_equal(len, all);
	for (size_t at = 0; at < len; at += strlen(list + at) + 1) {
		unsigned i = (unsigned)atoi(list + at + 5);

		assert_false(seen[i]);
		seen[i] = true;
	}
	for (unsigned i = 0; i < 200; i++)
		assert_true(seen[i]);
	free(list);
}

static void colliding_xattrs_are_kept_apart(void **state)
{
	struct names *n = *state;
	uint64_t ino = make(n, INO_ROOT, "file", S_IFREG | 0644);
	uint8_t a[5000], b[3000];

	assert_int_equal(xattr_offset(&n->r.v->sb, TWIN_A, strlen(TWIN_A)),
			 xattr_offset(&n->r.v->sb, TWIN_B, strlen(TWIN_B)));
	fill(a, sizeof(a), 1);
	fill(b, sizeof(b), 2);
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, TWIN_A, a, sizeof(a), 0), 0);
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, TWIN_B, b, sizeof(b), XATTR_CREATE), 0);
	names_reopen(n);
	check_value(n, ino, TWIN_A, a, sizeof(a));
	check_value(n, ino, TWIN_B, b, sizeof(b));
	assert_int_equal(fs_removexattr(n->fs, n->q, ino, TWIN_A), 0);
	check_value(n, ino, TWIN_B, b, sizeof(b));
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, TWIN_A, b, 10, XATTR_REPLACE), -ENODATA);
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, TWIN_A, b, 1000, 0), 0);
	check_value(n, ino, TWIN_A, b, 1000);
	check_value(n, ino, TWIN_B, b, sizeof(b));
}

/* --- the other attributes --- */

static void setattr_sets_what_is_named(void **state)
{
	struct names *n = *state;
	uint64_t ino = make(n, INO_ROOT, "file", S_IFREG | 0644);
	const struct fs_attr in = {
		.mode = S_IFDIR | 04711,
		.uid = 5,
		.gid = 6,
		.atime = {-5, 999999999},
		.mtime = {INT64_C(1) << 40, 1},
		.ctime = {77, 3},
	};

	for (unsigned set = 0; set < 0x200; set++) {
		if (set & FS_SET_SIZE)
			continue;
		struct fs_attr old = attr_of(n, ino), a;
		struct timespec before = n->clock;

		assert_int_equal(fs_setattr(n->fs, n->q, ino, set, &in, &a), 0);
		struct timespec now = n->clock;
		assert_int_equal(now.tv_sec - before.tv_sec, 1);
		struct fs_attr want = old;
		if (set & FS_SET_MODE)
			want.mode = S_IFREG | 04711;
		if (set & FS_SET_UID)
			want.uid = 5;
		if (set & FS_SET_GID)
			want.gid = 6;
		if (set & FS_SET_ATIME)
			want.atime = in.atime;
		if (set & FS_SET_ATIME_NOW)
			want.atime = now;
		if (set & FS_SET_MTIME)
			want.mtime = in.mtime;
		if (set & FS_SET_MTIME_NOW)
			want.mtime = now;
		/* Even if nothing is set. */
		want.ctime = set & FS_SET_CTIME ? in.ctime : now;
		assert_memory_equal(&a, &want, sizeof(a));
		a = attr_of(n, ino);
		assert_memory_equal(&a, &want, sizeof(a));
	}
	names_reopen(n);
	assert_int_equal(attr_of(n, ino).uid, 5);
	struct fs_attr bad = {.mtime = {0, 1000000000}}, a;
	assert_int_equal(fs_setattr(n->fs, n->q, ino, FS_SET_MTIME, &bad, &a), -EINVAL);
	bad.mtime.tv_nsec = -1;
	assert_int_equal(fs_setattr(n->fs, n->q, ino, FS_SET_MTIME, &bad, &a), -EINVAL);
	assert_int_equal(fs_setattr(n->fs, n->q, ino, 0x8000, &bad, &a), -EINVAL);
	assert_int_equal(fs_setattr(n->fs, n->q, 999, FS_SET_UID, &bad, &a), -ESTALE);
	assert_int_equal(fs_getattr(n->fs, n->q, 999, &a), -ESTALE);
}

/* What fsync and fdatasync must wait for. */
static void changes_are_remembered_by_kind(void **state)
{
	struct names *n = *state;
	struct fs_attr in = {.mode = 0600};

	assert_int_equal(try_create(n, INO_ROOT, "dir", S_IFDIR | 0755), 0);
	uint64_t dir = n->attr.ino;
	assert_int_equal(try_create(n, dir, "file", S_IFREG | 0644), 0);
	uint64_t file = n->attr.ino;
	struct inode *d, *f;
	volume_lock(n->r.v);
	d = inode_find(n->fs, dir);
	f = inode_find(n->fs, file);
	volume_unlock(n->r.v);
	uint64_t lsn = n->r.v->applied_lsn;
	assert_int_equal(f->lsn_change, lsn);
	assert_int_equal(f->lsn_data, lsn);
	assert_int_equal(d->lsn_data, lsn);
	assert_int_equal(fs_setattr(n->fs, n->q, file, FS_SET_MODE, &in, &in), 0);
	assert_int_equal(f->lsn_data, lsn);
	assert_int_equal(f->lsn_change, n->r.v->applied_lsn);
	assert_true(f->lsn_change > lsn);
	assert_int_equal(d->lsn_change, lsn);
	assert_int_equal(try_rename(n, dir, "file", INO_ROOT, "g", 0), 0);
	assert_int_equal(d->lsn_data, n->r.v->applied_lsn);
	assert_int_equal(f->lsn_change, n->r.v->applied_lsn);
	assert_int_equal(try_link(n, file, dir, "h"), 0);
	assert_int_equal(d->lsn_data, n->r.v->applied_lsn);
	assert_int_equal(f->lsn_change, n->r.v->applied_lsn);
	assert_int_equal(try_unlink(n, dir, "h"), 0);
	assert_int_equal(d->lsn_data, n->r.v->applied_lsn);
	assert_int_equal(f->lsn_change, n->r.v->applied_lsn);
	assert_int_equal(f->lsn_data, lsn);
	/* Nothing is known of the history of one that was not known. */
	fs_forget(n->fs, n->q, file, 1);
	assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, "g", 1, &n->attr), 0);
	volume_lock(n->r.v);
	f = inode_find(n->fs, file);
	assert_int_equal(f->lsn_data, n->r.v->applied_lsn);
	volume_unlock(n->r.v);
}

static void statfs_counts(void **state)
{
	struct names *n = *state;
	struct fs_statfs a, b;

	assert_int_equal(fs_statfs(n->fs, &a), 0);
	assert_int_equal(a.blocks, 64 * MEGABYTE / BLOCK_SIZE);
	assert_true(a.bavail > a.blocks / 2 && a.bavail < a.bfree && a.bfree < a.blocks);
	assert_int_equal(a.files - a.ffree, 1);
	for (unsigned i = 0; i < 100; i++)
		make(n, INO_ROOT, (char[]){(char)('0' + i / 10), (char)('0' + i % 10), 0}, S_IFREG | 0644);
	names_reopen(n);
	assert_int_equal(fs_statfs(n->fs, &b), 0);
	assert_int_equal(b.files - b.ffree, 101);
	assert_true(b.bfree < a.bfree);
}

/* df(1) and programs that fill a volume go by bavail; half a megabyte is what they leave for odds and ends. */
static void what_is_available_can_be_had(void **state)
{
	struct names *n = *state;
	const uint64_t spare = MEGABYTE / 2;
	struct fs_statfs s;

	for (int allocate = 0; allocate < 2; allocate++) {
		uint64_t file = make(n, INO_ROOT, "f", S_IFREG | 0644);

		assert_int_equal(fs_statfs(n->fs, &s), 0);
		uint64_t len = s.bavail * BLOCK_SIZE - spare;
		assert_true(len > 50 * MEGABYTE);
		if (allocate) {
			assert_int_equal(fs_fallocate(n->fs, n->q, file, 0, 0, len), 0);
		} else {
			static char buf[MEGABYTE];
			for (uint64_t off = 0; off < len; off += MEGABYTE) {
				size_t k = len - off < MEGABYTE ? len - off : MEGABYTE;
				assert_int_equal(fs_pwrite(n->fs, n->q, file, buf, k, off), k);
			}
		}
		assert_int_equal(fs_statfs(n->fs, &s), 0);
		assert_true(s.bavail * BLOCK_SIZE < 2 * spare);
		assert_int_equal(try_unlink(n, INO_ROOT, "f"), 0);
		fs_forget(n->fs, n->q, file, 1);
		names_reopen(n);
	}
}

int main(void)
{
#define WITH(test, how) cmocka_unit_test_setup_teardown(test, how, names_teardown)
	const struct CMUnitTest tests[] = {
		WITH(values_of_all_sizes, setup),
		WITH(values_of_all_sizes, setup_tiny_cache),
		WITH(xattr_errors, setup),
		WITH(lists_name_all, setup),
		WITH(lists_name_all, setup_tiny_cache),
		WITH(colliding_xattrs_are_kept_apart, setup),
		WITH(setattr_sets_what_is_named, setup),
		WITH(changes_are_remembered_by_kind, setup),
		WITH(statfs_counts, setup),
		WITH(what_is_available_can_be_had, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
