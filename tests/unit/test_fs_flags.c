/* SPDX-License-Identifier: Apache-2.0 */
/* test_fs_flags.c - the flags of chattr(1) on the simulated device: what they refuse, who inherits them, what the volume says about them. */
#include <linux/fs.h>
#undef BLOCK_SIZE /* core/format.h has ours */

#include "tests/unit/names_rig.h"

#include <fcntl.h>
#include <sys/xattr.h>

#define ROOT_UID 0u
#define USER_UID 1000u /* of names_cred */

static uint32_t flags_of(struct names *n, uint64_t ino)
{
	uint32_t flags = ~0u;

	assert_int_equal(fs_get_flags(n->fs, n->q, ino, &flags), 0);
	return flags;
}

static int set(struct names *n, uint64_t ino, uint32_t flags)
{
	return fs_set_flags(n->fs, n->q, ROOT_UID, ino, INODE_USER_FLAGS, flags);
}

static int try_make(struct names *n, uint64_t dir, const char *name)
{
	int err = try_create(n, dir, name, S_IFREG | 0600);

	if (!err)
		fs_forget(n->fs, n->q, n->attr.ino, 1);
	return err;
}

static int try_set(struct names *n, uint64_t ino, unsigned what, uint64_t size)
{
	struct fs_attr in = {.mode = 0640, .uid = 5, .gid = 6, .size = size}, out;

	return fs_setattr(n->fs, n->q, ino, what, &in, &out);
}

struct put {
	struct fs_io io;
	struct dev_event done;
};

static void put_done(struct fs_io *io)
{
	dev_event_set(&((struct put *)io)->done);
}

/* One write, as of a descriptor with O_APPEND or not, or of the kernel's cache. */
static ssize_t put(struct names *n, uint64_t ino, uint64_t off, bool append, bool cached)
{
	char text[] = "0123456789";
	struct put p = {
		.io = {.ino = ino, .off = off, .len = 10, .buf = text, .append = append, .cached = cached, .done = put_done},
	};

	dev_event_init(&p.done, n->q);
	fs_write(n->fs, n->q, &p.io);
	volume_event_wait(n->r.v, &p.done);
	return p.io.result;
}

/* --- what is stored ----------------------------------------------------------------------------- */

static void kept_and_seen(void **state)
{
	struct names n;

	(void)state;
	names_create(&n, 16 << 20, 0);
	uint64_t f = make(&n, INO_ROOT, "f", S_IFREG | 0644), d = make(&n, INO_ROOT, "d", S_IFDIR | 0755);
	uint64_t p = make(&n, INO_ROOT, "p", S_IFIFO | 0600);

	assert_int_equal(flags_of(&n, f), 0);
	assert_int_equal(n.r.v->sb.incompat, 0);
	/* Nothing is claimed where nothing is set. */
	assert_int_equal(set(&n, f, 0), 0);
	assert_int_equal(n.r.v->sb.incompat, 0);
	assert_int_equal(set(&n, f, INODE_USER_FLAGS & ~INODE_DIRSYNC), 0);
	assert_int_equal(set(&n, d, INODE_USER_FLAGS), 0);
	assert_int_equal(n.r.v->sb.incompat, FEATURE_INCOMPAT_INODE_FLAGS);
	assert_int_equal(set(&n, f, INODE_DIRSYNC), -EOPNOTSUPP);
	assert_int_equal(set(&n, f, FS_COMPR_FL), -EOPNOTSUPP);
	assert_int_equal(set(&n, f, INODE_INLINE), -EOPNOTSUPP);
	assert_int_equal(set(&n, p, INODE_IMMUTABLE), -EOPNOTSUPP);
	assert_int_equal(set(&n, p, INODE_NODUMP | INODE_NOATIME), 0);
	/* Those outside the mask stay. */
	assert_int_equal(fs_set_flags(n.fs, n.q, ROOT_UID, d, INODE_IMMUTABLE | INODE_SYNC, INODE_SYNC), 0);
	assert_int_equal(flags_of(&n, d), INODE_USER_FLAGS & ~INODE_IMMUTABLE);
	names_reopen(&n);
	assert_int_equal(n.r.v->sb.incompat, FEATURE_INCOMPAT_INODE_FLAGS);
	assert_int_equal(flags_of(&n, f), INODE_USER_FLAGS & ~INODE_DIRSYNC);
	assert_int_equal(flags_of(&n, d), INODE_USER_FLAGS & ~INODE_IMMUTABLE);
	assert_int_equal(flags_of(&n, p), INODE_NODUMP | INODE_NOATIME);
	names_destroy(&n);
}

static void opening(void **state)
{
	static const struct {
		uint32_t flags;
		int write, append;
	} cases[] = {
		{0, 0, 0},
		{INODE_SYNC | INODE_NODUMP | INODE_NOATIME, 0, 0},
		{INODE_APPEND, -EPERM, 0},
		{INODE_IMMUTABLE, -EPERM, -EPERM},
		{INODE_IMMUTABLE | INODE_APPEND, -EPERM, -EPERM},
	};
	struct names n;

	(void)state;
	names_create(&n, 16 << 20, 0);
	uint64_t f = make(&n, INO_ROOT, "f", S_IFREG | 0644);

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(fs_has_flags(n.fs), i > 1);
		assert_int_equal(set(&n, f, cases[i].flags), 0);
		assert_int_equal(fs_check_open(n.fs, n.q, f, false), cases[i].write);
		assert_int_equal(fs_check_open(n.fs, n.q, f, true), cases[i].append);
	}
	names_destroy(&n);
}

static void who_may(void **state)
{
	struct names n;

	(void)state;
	names_create(&n, 16 << 20, 0);
	uint64_t f = make(&n, INO_ROOT, "f", S_IFREG | 0644);

	assert_int_equal(fs_set_flags(n.fs, n.q, USER_UID + 1, f, INODE_USER_FLAGS, INODE_NODUMP), -EPERM);
	assert_int_equal(fs_set_flags(n.fs, n.q, USER_UID, f, INODE_USER_FLAGS, INODE_NODUMP), 0);
	assert_int_equal(fs_set_flags(n.fs, n.q, USER_UID, f, INODE_USER_FLAGS, INODE_NODUMP | INODE_IMMUTABLE), -EPERM);
	assert_int_equal(fs_set_flags(n.fs, n.q, USER_UID, f, INODE_USER_FLAGS, INODE_APPEND), -EPERM);
	assert_int_equal(set(&n, f, INODE_IMMUTABLE), 0);
	assert_int_equal(fs_set_flags(n.fs, n.q, USER_UID, f, INODE_USER_FLAGS, 0), -EPERM);
	/* What stays as it is takes no privilege. */
	assert_int_equal(fs_set_flags(n.fs, n.q, USER_UID, f, INODE_USER_FLAGS, INODE_IMMUTABLE | INODE_NODUMP), 0);
	names_destroy(&n);
}

static void inheritance(void **state)
{
	struct names n;

	(void)state;
	names_create(&n, 16 << 20, 0);
	uint64_t d = make(&n, INO_ROOT, "d", S_IFDIR | 0755);

	assert_int_equal(set(&n, d, INODE_USER_FLAGS & ~INODE_IMMUTABLE), 0);
	assert_int_equal(flags_of(&n, make(&n, d, "f", S_IFREG | 0644)), INODE_SYNC | INODE_NODUMP | INODE_NOATIME);
	assert_int_equal(flags_of(&n, make(&n, d, "d", S_IFDIR | 0755)), INODE_SYNC | INODE_NODUMP | INODE_NOATIME | INODE_DIRSYNC);
	assert_int_equal(flags_of(&n, make(&n, d, "p", S_IFIFO | 0755)), INODE_NODUMP | INODE_NOATIME);
	uint64_t l = make_symlink(&n, d, "l", "target");
	assert_int_equal(flags_of(&n, l), INODE_NODUMP | INODE_NOATIME);
	char target[MAX_SYMLINK + 1];
	assert_int_equal(fs_readlink(n.fs, n.q, l, target), 0);
	assert_string_equal(target, "target");
	names_destroy(&n);
}

/* --- what is refused ---------------------------------------------------------------------------- */

static void immutable_file(void **state)
{
	struct names n;

	(void)state;
	names_create(&n, 16 << 20, 0);
	uint64_t f = make(&n, INO_ROOT, "f", S_IFREG | 0644);

	assert_int_equal(put(&n, f, 0, false, false), 10);
	make(&n, INO_ROOT, "g", S_IFREG | 0644);
	assert_int_equal(fs_setxattr(n.fs, n.q, f, "user.a", "x", 1, 0), 0);
	assert_int_equal(set(&n, f, INODE_IMMUTABLE), 0);
	assert_int_equal(put(&n, f, 0, false, false), -EPERM);
	assert_int_equal(put(&n, f, 10, true, false), -EPERM);
	assert_int_equal(put(&n, f, 0, false, true), -EPERM);
	assert_int_equal(try_set(&n, f, FS_SET_SIZE, 0), -EPERM);
	assert_int_equal(try_set(&n, f, FS_SET_SIZE, 100000), -EPERM);
	for (unsigned bit = 1; bit <= FS_SET_MTIME_NOW; bit <<= 1)
		assert_int_equal(try_set(&n, f, bit, 0), -EPERM);
	assert_int_equal(try_set(&n, f, FS_SET_ATIME | FS_SET_MTIME | FS_SET_ATIME_NOW | FS_SET_MTIME_NOW, 0), -EPERM);
	assert_int_equal(fs_setxattr(n.fs, n.q, f, "user.a", "y", 1, 0), -EPERM);
	assert_int_equal(fs_setxattr(n.fs, n.q, f, "user.b", "y", 1, 0), -EPERM);
	assert_int_equal(fs_removexattr(n.fs, n.q, f, "user.a"), -EPERM);
	assert_int_equal(fs_fallocate(n.fs, n.q, f, 0, 0, 5000), -EPERM);
	assert_int_equal(fs_fallocate(n.fs, n.q, f, FALLOC_FL_KEEP_SIZE, 0, 5000), -EPERM);
	assert_int_equal(try_link(&n, f, INO_ROOT, "other"), -EPERM);
	assert_int_equal(fs_unlink(n.fs, n.q, INO_ROOT, "f", 1), -EPERM);
	assert_int_equal(try_rename(&n, INO_ROOT, "f", INO_ROOT, "h", 0), -EPERM);
	assert_int_equal(try_rename(&n, INO_ROOT, "g", INO_ROOT, "f", 0), -EPERM);
	assert_int_equal(try_rename(&n, INO_ROOT, "g", INO_ROOT, "f", RENAME_EXCHANGE), -EPERM);
	assert_int_equal(try_rename(&n, INO_ROOT, "f", INO_ROOT, "f", 0), 0);
	char text[16];
	assert_int_equal(fs_pread(n.fs, n.q, f, text, sizeof(text), 0), 10);
	/* Until it is taken back. */
	assert_int_equal(set(&n, f, 0), 0);
	assert_int_equal(put(&n, f, 0, false, false), 10);
	assert_int_equal(try_rename(&n, INO_ROOT, "g", INO_ROOT, "f", 0), 0);
	names_destroy(&n);
}

static void immutable_directory(void **state)
{
	struct names n;

	(void)state;
	names_create(&n, 16 << 20, 0);
	uint64_t d = make(&n, INO_ROOT, "d", S_IFDIR | 0755), f = make(&n, d, "f", S_IFREG | 0644);

	make(&n, d, "sub", S_IFDIR | 0755);
	make(&n, INO_ROOT, "g", S_IFREG | 0644);
	assert_int_equal(set(&n, d, INODE_IMMUTABLE), 0);
	assert_int_equal(try_make(&n, d, "new"), -EPERM);
	assert_int_equal(try_make(&n, d, "f"), -EEXIST);
	assert_int_equal(fs_tmpfile(n.fs, n.q, &names_cred, d, 0600, &n.attr), -EPERM);
	assert_int_equal(fs_symlink(n.fs, n.q, &names_cred, d, "l", 1, "t", &n.attr), -EPERM);
	assert_int_equal(try_link(&n, f, d, "new"), -EPERM);
	assert_int_equal(try_link(&n, f, INO_ROOT, "new"), 0);
	assert_int_equal(fs_unlink(n.fs, n.q, d, "f", 1), -EPERM);
	assert_int_equal(fs_unlink(n.fs, n.q, d, "none", 4), -ENOENT);
	assert_int_equal(fs_rmdir(n.fs, n.q, d, "sub", 3), -EPERM);
	assert_int_equal(fs_rmdir(n.fs, n.q, INO_ROOT, "d", 1), -EPERM);
	assert_int_equal(try_rename(&n, d, "f", INO_ROOT, "x", 0), -EPERM);
	assert_int_equal(try_rename(&n, d, "f", d, "x", 0), -EPERM);
	assert_int_equal(try_rename(&n, INO_ROOT, "g", d, "x", 0), -EPERM);
	assert_int_equal(try_rename(&n, INO_ROOT, "g", d, "f", RENAME_EXCHANGE), -EPERM);
	/* What is in it is another's. */
	assert_int_equal(put(&n, f, 0, false, false), 10);
	names_destroy(&n);
}

static void append_only(void **state)
{
	const unsigned now = FS_SET_ATIME | FS_SET_MTIME | FS_SET_ATIME_NOW | FS_SET_MTIME_NOW;
	struct names n;

	(void)state;
	names_create(&n, 16 << 20, 0);
	uint64_t d = make(&n, INO_ROOT, "d", S_IFDIR | 0755), f = make(&n, d, "f", S_IFREG | 0644);

	assert_int_equal(put(&n, f, 0, false, false), 10);
	assert_int_equal(set(&n, f, INODE_APPEND), 0);
	assert_int_equal(put(&n, f, 10, true, false), 10);
	assert_int_equal(put(&n, f, 20, false, false), -EPERM);
	assert_int_equal(put(&n, f, 19, true, false), -EPERM);
	assert_int_equal(put(&n, f, 21, true, false), -EPERM);
	assert_int_equal(put(&n, f, 0, false, true), -EPERM);
	assert_int_equal(try_set(&n, f, FS_SET_SIZE, 30), -EPERM);
	assert_int_equal(try_set(&n, f, FS_SET_SIZE | now, 30), -EPERM);
	assert_int_equal(try_set(&n, f, FS_SET_MODE, 0), -EPERM);
	assert_int_equal(try_set(&n, f, FS_SET_MTIME, 0), -EPERM);
	assert_int_equal(try_set(&n, f, now, 0), 0);
	assert_int_equal(fs_setxattr(n.fs, n.q, f, "user.a", "x", 1, 0), -EPERM);
	assert_int_equal(fs_fallocate(n.fs, n.q, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 5), -EPERM);
	assert_int_equal(fs_fallocate(n.fs, n.q, f, FALLOC_FL_ZERO_RANGE, 0, 5), -EPERM);
	assert_int_equal(fs_fallocate(n.fs, n.q, f, FALLOC_FL_KEEP_SIZE, 0, 50000), 0);
	assert_int_equal(try_link(&n, f, d, "g"), -EPERM);
	assert_int_equal(fs_unlink(n.fs, n.q, d, "f", 1), -EPERM);
	assert_int_equal(set(&n, f, 0), 0);
	/* A directory: entries come, none goes. */
	assert_int_equal(set(&n, d, INODE_APPEND), 0);
	assert_int_equal(try_make(&n, d, "new"), 0);
	assert_int_equal(fs_unlink(n.fs, n.q, d, "new", 3), -EPERM);
	assert_int_equal(try_rename(&n, d, "f", INO_ROOT, "f", 0), -EPERM);
	assert_int_equal(try_rename(&n, d, "f", d, "new", 0), -EPERM);
	make(&n, INO_ROOT, "g", S_IFREG | 0644);
	assert_int_equal(try_rename(&n, INO_ROOT, "g", d, "g", 0), 0);
	names_destroy(&n);
}

/* What was stored through mmap before is written all the same, while that is being waited for. */
static void settling(void **state)
{
	struct names n;

	(void)state;
	names_create(&n, 16 << 20, 0);
	assert_int_equal(try_create(&n, INO_ROOT, "f", S_IFREG | 0644), 0);
	uint64_t f = n.attr.ino;

	assert_int_equal(put(&n, f, 0, false, false), 10);
	assert_int_equal(set(&n, f, INODE_IMMUTABLE), 0);
	assert_true(fs_settle_begin(n.fs, f));
	assert_int_equal(put(&n, f, 0, false, false), -EPERM);
	assert_int_equal(put(&n, f, 0, false, true), 10);
	fs_settle_end(n.fs, f);
	assert_int_equal(put(&n, f, 0, false, true), -EPERM);
	assert_false(fs_settle_begin(n.fs, 12345));
	names_destroy(&n);
}

static void synchronous(void **state)
{
	struct names n;

	(void)state;
	names_create(&n, 16 << 20, 0);
	uint64_t d = make(&n, INO_ROOT, "d", S_IFDIR | 0755), f = make(&n, INO_ROOT, "f", S_IFREG | 0644);

	assert_false(fs_must_sync(n.fs, n.q, f, false));
	assert_int_equal(set(&n, d, INODE_DIRSYNC), 0);
	assert_int_equal(set(&n, f, INODE_SYNC), 0);
	assert_true(fs_must_sync(n.fs, n.q, d, true));
	assert_false(fs_must_sync(n.fs, n.q, d, false));
	assert_true(fs_must_sync(n.fs, n.q, f, false));
	assert_false(fs_must_sync(n.fs, n.q, INO_ROOT, true));
	assert_int_equal(set(&n, d, INODE_SYNC), 0);
	assert_true(fs_must_sync(n.fs, n.q, d, true));
	struct put p = {.io = {.ino = f, .len = 1, .buf = "x", .done = put_done}};
	dev_event_init(&p.done, n.q);
	fs_write(n.fs, n.q, &p.io);
	volume_event_wait(n.r.v, &p.done);
	assert_true(p.io.must_sync);
	names_destroy(&n);
}

/* --- the superblock, and power cuts ------------------------------------------------------------- */

struct labels {
	bool old, new;
};

/* All copies are one again. */
static void copies_agree(struct names *n)
{
	auto_free void *block = dev_alloc(BLOCK_SIZE, false);

	for (unsigned copy = 0; copy < SUPER_COPIES; copy++) {
		uint64_t blkno = super_blkno(n->r.v->sb.nblocks, copy);
		struct super sb;

		assert_int_equal(dev_read(n->q, blkno * BLOCK_SIZE, block, BLOCK_SIZE), 0);
		assert_int_equal(super_decode(block, blkno, n->r.dev->size >> BLOCK_SHIFT, NULL, &sb), 0);
		assert_memory_equal(&sb, &n->r.v->sb, sizeof(sb));
	}
}

/* True: the power was cut. */
static bool cut_at(uint64_t at, uint64_t seed, struct labels *seen)
{
	struct names n;
	uint32_t flags = 0;

	names_create(&n, 8 << 20, 0);
	uint64_t f = make(&n, INO_ROOT, "f", S_IFREG | 0644);
	assert_int_equal(fs_sync(n.fs, n.q, 0, false), 0);
	dev_sim_cut_after(n.r.dev, at);
	int label_err = volume_set_label(n.r.v, n.q, "another");
	int flag_err = set(&n, f, INODE_NODUMP), sync_err = fs_sync(n.fs, n.q, 0, false);
	bool cut = dev_sim_is_cut(n.r.dev);

	fs_close(n.fs, n.q);
	rig_after_cut(&n.r, seed);
	assert_int_equal(volume_open(n.r.q, &n.r.cfg, NULL, &n.r.v), 0);
	names_open(&n);

	bool is_new = strcmp(n.r.v->sb.label, "another") == 0;

	assert_true(is_new || (label_err && strcmp(n.r.v->sb.label, "rig") == 0));
	seen->new |= is_new;
	seen->old |= !is_new;
	assert_int_equal(fs_get_flags(n.fs, n.q, f, &flags), 0);
	if (!flag_err && !sync_err)
		assert_int_equal(flags, INODE_NODUMP);
	if (flags)
		assert_int_equal(n.r.v->sb.incompat, FEATURE_INCOMPAT_INODE_FLAGS);
	copies_agree(&n);
	names_destroy(&n);
	return cut;
}

/* A label, and the first flag of a volume, with the power cut at every write: old or new, and no flag without its feature. */
static void power_cuts(void **state)
{
	struct labels seen = {0};
	bool cut = true;

	(void)state;
	for (uint64_t at = 1; cut; at++)
		for (uint64_t seed = 1; seed <= 8; seed++)
			cut = cut_at(at, seed, &seen);
	assert_true(seen.old && seen.new);
}

static bool root_is_clean(struct names *n)
{
	auto_free struct disk_root *root = dev_alloc(BLOCK_SIZE, false);

	assert_int_equal(volume_read_root(n->q, &n->r.v->sb, NULL, false, root), 0);
	return get64(root->flags) & ROOT_CLEAN;
}

/* Where the root is clean all copies are the same: so a volume at rest is woken first. */
static void changes_wake_a_volume_at_rest(void **state)
{
	struct names n;

	(void)state;
	names_create(&n, 8 << 20, 0);
	uint64_t f = make(&n, INO_ROOT, "f", S_IFREG | 0644);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(volume_rest(n.r.v, n.q), 0);
		assert_true(root_is_clean(&n));
		if (i == 0)
			assert_int_equal(volume_set_label(n.r.v, n.q, "another"), 0);
		else
			assert_int_equal(volume_add_feature(n.r.v, n.q, FEATURE_INCOMPAT_INODE_FLAGS), 0);
		assert_false(root_is_clean(&n));
	}
	assert_int_equal(set(&n, f, INODE_NODUMP), 0);
	names_destroy(&n);
}

/* A device that says it has written, and has not, takes back a label, but no feature. */
static void feature_of_any_copy_counts(void **state)
{
	(void)state;
	for (unsigned old = 0; old < SUPER_COPIES; old++) {
		uint8_t block[BLOCK_SIZE];
		struct names n;

		names_create(&n, 8 << 20, 0);
		uint64_t f = make(&n, INO_ROOT, "f", S_IFREG | 0644);
		struct super before = n.r.v->sb;
		assert_int_equal(volume_set_label(n.r.v, n.q, "another"), 0);
		assert_int_equal(set(&n, f, INODE_SYNC), 0);
		super_encode(&before, old, block);
		dev_sim_poke(n.r.dev, super_blkno(before.nblocks, old) * BLOCK_SIZE, block, BLOCK_SIZE);
		names_reopen(&n);
		assert_int_equal(n.r.v->sb.incompat, FEATURE_INCOMPAT_INODE_FLAGS);
		assert_string_equal(n.r.v->sb.label, old ? "another" : "rig");
		assert_true(fs_must_sync(n.fs, n.q, f, false));
		copies_agree(&n);
		names_destroy(&n);
	}
}

static void label_of_a_failing_device(void **state)
{
	struct names n;

	(void)state;
	names_create(&n, 8 << 20, 0);
	dev_sim_fail(n.r.dev, DEV_WRITE, 2, SIM_FAULT_ONCE, -EIO, 0, 0);
	assert_int_equal(volume_set_label(n.r.v, n.q, "another"), -EIO);
	assert_int_equal(volume_set_label(n.r.v, n.q, "again"), -EIO);
	assert_int_equal(try_make(&n, INO_ROOT, "f"), -EROFS);
	names_destroy(&n);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(kept_and_seen),
		cmocka_unit_test(opening),
		cmocka_unit_test(who_may),
		cmocka_unit_test(inheritance),
		cmocka_unit_test(immutable_file),
		cmocka_unit_test(immutable_directory),
		cmocka_unit_test(append_only),
		cmocka_unit_test(settling),
		cmocka_unit_test(synchronous),
		cmocka_unit_test(power_cuts),
		cmocka_unit_test(changes_wake_a_volume_at_rest),
		cmocka_unit_test(feature_of_any_copy_counts),
		cmocka_unit_test(label_of_a_failing_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
