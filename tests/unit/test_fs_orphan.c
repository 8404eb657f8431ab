/* SPDX-License-Identifier: Apache-2.0 */
/* test_fs_orphan.c - the life of what has no name any more; power cuts; full volumes. */
#include "tests/unit/names_rig.h"

#include <linux/falloc.h>

#define BIG_XATTRS 30u

static int setup(void **state)
{
	return names_setup(state, 128 * MEGABYTE, 0);
}

/* Room for little more than what one transaction of a removal wants at a time. */
static int setup_tiny_cache(void **state)
{
	return names_setup(state, 128 * MEGABYTE, MEGABYTE);
}

static int setup_small(void **state)
{
	return names_setup(state, 8 * MEGABYTE, 0);
}

static int setup_medium(void **state)
{
	return names_setup(state, 32 * MEGABYTE, 0);
}

static void serve(struct names *n)
{
	unsigned rounds = 0;

	while (fs_service(n->fs, n->q))
		assert_true(++rounds < 10000);
	assert_true(STAILQ_EMPTY(&n->fs->reap));
}

static uint64_t orphan_items(struct names *n)
{
	struct key key = key_make(INO_VOLUME, ITEM_ORPHAN, 0), found;
	struct miss miss;
	const void *val;
	unsigned len;
	uint64_t count = 0;

	for (;;) {
		volume_lock(n->r.v);
		int err = tree_seek(n->r.v->tree, &key, &miss, &found, &val, &len);
		volume_unlock(n->r.v);
		if (err == -EAGAIN) {
			assert_int_equal(volume_provide(n->r.v, n->q, &miss), 0);
			continue;
		}
		if (err || found.object != INO_VOLUME)
			return count;
		count++;
		key.offset = found.offset + 1;
	}
}

/* A file of more items than a few transactions remove. */
static uint64_t make_big(struct names *n, const char *name)
{
	static uint8_t val[MAX_XATTR];
	uint64_t ino = make(n, INO_ROOT, name, S_IFREG | 0644);

	for (unsigned i = 0; i < BIG_XATTRS; i++) {
		char xattr[16];

		snprintf(xattr, sizeof(xattr), "user.%u", i);
		assert_int_equal(fs_setxattr(n->fs, n->q, ino, xattr, val, sizeof(val), 0), 0);
	}
	return ino;
}

static void count_calls(void *arg)
{
	++*(unsigned *)arg;
}

static void open_ones_live_until_forgotten(void **state)
{
	struct names *n = *state;
	uint64_t free_before = 0;
	struct fs_statfs s;

	names_reopen(n);
	fs_statfs(n->fs, &s);
	free_before = s.bfree;
	uint64_t ino = make_big(n, "big");
	assert_int_equal(fs_pwrite(n->fs, n->q, ino, "some bytes", 10, MEGABYTE), 10);
	assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, "big", 3, &n->attr), 0);
	assert_int_equal(try_unlink(n, INO_ROOT, "big"), 0);
	assert_int_equal(orphan_items(n), 1);
	assert_int_equal(attr_of(n, ino).nlink, 0);
	char buf[10];
	assert_int_equal(fs_pread(n->fs, n->q, ino, buf, 10, MEGABYTE), 10);
	assert_memory_equal(buf, "some bytes", 10);
	/* Everything that does not need a name still works. */
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, "user.new", "x", 1, 0), 0);
	assert_int_equal(fs_pwrite(n->fs, n->q, ino, "more", 4, 0), 4);
	serve(n);
	assert_int_equal(attr_of(n, ino).size, MEGABYTE + 10);
	unsigned calls = 0;
	n->fs->cfg.want_service = count_calls;
	n->fs->cfg.service_arg = &calls;
	fs_forget(n->fs, n->q, ino, 1);
	assert_int_equal(calls, 1);
	assert_int_equal(orphan_items(n), 1);
	serve(n);
	assert_int_equal(orphan_items(n), 0);
	assert_int_equal(fs_getattr(n->fs, n->q, ino, &n->attr), -ESTALE);
	assert_int_equal(known(n), 0);
	names_reopen(n);
	fs_statfs(n->fs, &s);
	assert_int_equal(s.bfree, free_before);
}

static void small_ones_go_at_once(void **state)
{
	struct names *n = *state;
	unsigned calls = 0;

	n->cfg.want_service = count_calls;
	n->cfg.service_arg = &calls;
	names_reopen(n);
	uint64_t a = make(n, INO_ROOT, "a", S_IFREG | 0644), b = make(n, INO_ROOT, "b", S_IFDIR | 0755);
	assert_int_equal(fs_pwrite(n->fs, n->q, a, "x", 1, 0), 1);
	assert_int_equal(try_unlink(n, INO_ROOT, "a"), 0);
	assert_int_equal(try_rmdir(n, INO_ROOT, "b"), 0);
	assert_int_equal(fs_getattr(n->fs, n->q, a, &n->attr), -ESTALE);
	assert_int_equal(fs_getattr(n->fs, n->q, b, &n->attr), -ESTALE);
	assert_int_equal(calls, 0);
	assert_int_equal(n->r.v->ninodes, 1);
	assert_int_equal(orphan_items(n), 0);
}

static void closing_removes_what_is_open(void **state)
{
	struct names *n = *state;

	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(try_create(n, INO_ROOT, "x", i % 2 ? S_IFREG : S_IFDIR), 0);
		assert_int_equal(i % 2 ? try_unlink(n, INO_ROOT, "x") : try_rmdir(n, INO_ROOT, "x"), 0);
	}
	make_big(n, "big");
	assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, "big", 3, &n->attr), 0);
	assert_int_equal(try_unlink(n, INO_ROOT, "big"), 0);
	assert_int_equal(orphan_items(n), 21);
	names_reopen(n);
	assert_int_equal(orphan_items(n), 0);
	assert_int_equal(n->r.v->ninodes, 1);
}

/* A pinned inode is left alone; it goes when the pin does. */
static void pins_keep_them(void **state)
{
	struct names *n = *state;
	uint64_t ino = make(n, INO_ROOT, "a", S_IFREG | 0644);

	volume_lock(n->r.v);
	struct inode *inode = inode_ref(n->fs, ino, 1);
	inode->npin++;
	volume_unlock(n->r.v);
	assert_int_equal(try_unlink(n, INO_ROOT, "a"), 0);
	fs_forget(n->fs, n->q, ino, 1);
	serve(n);
	assert_int_equal(attr_of(n, ino).nlink, 0);
	volume_lock(n->r.v);
	inode->npin--;
	inode_unref(n->fs, inode, 0);
	volume_unlock(n->r.v);
	serve(n);
	assert_int_equal(fs_getattr(n->fs, n->q, ino, &n->attr), -ESTALE);
	assert_int_equal(known(n), 0);
}

/* A reference that comes while it waits for removal: it stays until that goes too. */
static void references_that_come_back_keep_them(void **state)
{
	struct names *n = *state;
	uint64_t ino = make_big(n, "big");

	assert_int_equal(try_unlink(n, INO_ROOT, "big"), 0);
	assert_int_equal(orphan_items(n), 1);
	volume_lock(n->r.v);
	assert_non_null(inode_ref(n->fs, ino, 1));
	volume_unlock(n->r.v);
	serve(n);
	assert_int_equal(attr_of(n, ino).nlink, 0);
	assert_int_equal(known(n), 1);
	fs_forget(n->fs, n->q, ino, 1);
	serve(n);
	assert_int_equal(fs_getattr(n->fs, n->q, ino, &n->attr), -ESTALE);
	assert_int_equal(known(n), 0);
}

/* --- files that begin without a name --- */

static uint64_t make_nameless(struct names *n, uint64_t dir)
{
	assert_int_equal(fs_tmpfile(n->fs, n->q, &names_cred, dir, 0640, &n->attr), 0);
	return n->attr.ino;
}

static void without_a_name_they_go_with_the_last_reference(void **state)
{
	struct names *n = *state;
	uint64_t dir = make(n, INO_ROOT, "d", S_IFDIR | S_ISGID | 0755), file = make(n, INO_ROOT, "f", S_IFREG | 0644);
	struct fs_attr own = {.gid = 4711}, before;
	char buf[5];

	assert_int_equal(fs_setattr(n->fs, n->q, dir, FS_SET_GID, &own, &before), 0);
	uint64_t ino = make_nameless(n, dir);
	assert_int_equal(n->attr.mode, S_IFREG | 0640);
	assert_int_equal(n->attr.nlink, 0);
	assert_int_equal(n->attr.uid, names_cred.uid);
	assert_int_equal(n->attr.gid, 4711);
	assert_int_equal(n->attr.btime.tv_sec, n->clock.tv_sec);
	assert_int_equal(orphan_items(n), 1);
	/* The directory knows nothing of it. */
	struct fs_attr after = attr_of(n, dir);
	assert_memory_equal(&after, &before, sizeof(after));
	assert_int_equal(fs_pwrite(n->fs, n->q, ino, "bytes", 5, 100000), 5);
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, "user.x", "y", 1, 0), 0);
	serve(n);
	assert_int_equal(fs_pread(n->fs, n->q, ino, buf, 5, 100000), 5);
	assert_memory_equal(buf, "bytes", 5);
	names_check(n);
	fs_forget(n->fs, n->q, ino, 1);
	assert_int_equal(fs_getattr(n->fs, n->q, ino, &n->attr), -ESTALE);
	assert_int_equal(orphan_items(n), 0);
	assert_int_equal(known(n), 0);
	assert_int_equal(fs_tmpfile(n->fs, n->q, &names_cred, file, 0640, &n->attr), -ENOTDIR);
	assert_int_equal(fs_tmpfile(n->fs, n->q, &names_cred, 999, 0640, &n->attr), -ESTALE);
	/* Closing is the last reference's end as well. */
	make_nameless(n, dir);
	names_reopen(n);
	assert_int_equal(n->r.v->ninodes, 3);
	assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, "d", 1, &n->attr), 0);
	assert_int_equal(try_rmdir(n, INO_ROOT, "d"), 0);
	assert_int_equal(fs_tmpfile(n->fs, n->q, &names_cred, dir, 0640, &n->attr), -ENOENT);
	fs_forget(n->fs, n->q, dir, 1);
}

static void a_first_name_keeps_them(void **state)
{
	struct names *n = *state;
	uint64_t ino = make_nameless(n, INO_ROOT), dir = make(n, INO_ROOT, "d", S_IFDIR | 0755);
	char buf[5];

	assert_int_equal(fs_pwrite(n->fs, n->q, ino, "bytes", 5, 100000), 5);
	uint64_t txns = n->r.v->stats.txns;
	assert_int_equal(try_link(n, ino, dir, "name"), 0);
	assert_int_equal(n->r.v->stats.txns, txns + 1);
	assert_int_equal(n->attr.nlink, 1);
	assert_int_equal(orphan_items(n), 0);
	fs_forget(n->fs, n->q, ino, 1);
	serve(n);
	assert_int_equal(known(n), 0);
	names_check(n);
	assert_int_equal(ino_of(n, dir, "name"), ino);
	assert_int_equal(try_link(n, ino, dir, "other"), 0);
	assert_int_equal(n->attr.nlink, 2);
	names_sync(n);
	names_crash(n, 11);
	assert_int_equal(fs_pread(n->fs, n->q, ino, buf, 5, 100000), 5);
	assert_memory_equal(buf, "bytes", 5);
	/* Again without a name, and with one once more. */
	assert_int_equal(fs_lookup(n->fs, n->q, dir, "name", 4, &n->attr), 0);
	assert_int_equal(try_unlink(n, dir, "name"), 0);
	assert_int_equal(try_unlink(n, dir, "other"), 0);
	assert_int_equal(try_link(n, ino, dir, "third"), 0);
	assert_int_equal(try_link(n, ino, dir, "third"), -EEXIST);
	fs_forget(n->fs, n->q, ino, 1);
	assert_int_equal(attr_of(n, ino).nlink, 1);
	assert_int_equal(orphan_items(n), 0);
	/* Nobody holds it: its removal has been begun. */
	uint64_t big = make_big(n, "big");
	assert_int_equal(try_unlink(n, INO_ROOT, "big"), 0);
	assert_int_equal(attr_of(n, big).nlink, 0);
	assert_int_equal(try_link(n, big, INO_ROOT, "big"), -ENOENT);
	serve(n);
}

static void a_crash_takes_them(void **state)
{
	struct names *n = *state;
	uint64_t gone = make_nameless(n, INO_ROOT), kept = make_nameless(n, INO_ROOT);

	assert_int_equal(fs_pwrite(n->fs, n->q, gone, "bytes", 5, 100000), 5);
	assert_int_equal(try_link(n, kept, INO_ROOT, "kept"), 0);
	names_sync(n);
	names_crash(n, 13);
	assert_int_equal(fs_getattr(n->fs, n->q, gone, &n->attr), -ESTALE);
	assert_int_equal(ino_of(n, INO_ROOT, "kept"), kept);
	assert_int_equal(orphan_items(n), 0);
	assert_int_equal(n->r.v->ninodes, 2);
}

/* --- across a crash --- */

static void a_crash_leaves_them_to_the_next_open(void **state)
{
	struct names *n = *state;
	char name[16];
	unsigned calls = 0;

	for (unsigned i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		assert_int_equal(try_create(n, INO_ROOT, name, i % 2 ? S_IFREG : S_IFDIR), 0);
		assert_int_equal(fs_setxattr(n->fs, n->q, n->attr.ino, "user.x", name, 16, 0), 0);
		assert_int_equal(i % 2 ? try_unlink(n, INO_ROOT, name) : try_rmdir(n, INO_ROOT, name), 0);
	}
	make_big(n, "big");
	assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, "big", 3, &n->attr), 0);
	assert_int_equal(try_unlink(n, INO_ROOT, "big"), 0);
	assert_int_equal(orphan_items(n), 301);
	names_sync(n);
	n->cfg.want_service = count_calls;
	n->cfg.service_arg = &calls;
	names_crash(n, 3);
	assert_int_equal(calls, 1);
	assert_true(orphan_items(n) > 0 && orphan_items(n) < 301);
	names_check(n);
	serve(n);
	assert_int_equal(orphan_items(n), 0);
	assert_int_equal(n->r.v->ninodes, 1);
	assert_int_equal(known(n), 0);
}

static void read_only_leaves_them(void **state)
{
	struct names *n = *state;

	assert_int_equal(try_create(n, INO_ROOT, "a", S_IFREG), 0);
	uint64_t ino = n->attr.ino;
	make(n, INO_ROOT, "b", S_IFREG | 0600);
	assert_int_equal(try_unlink(n, INO_ROOT, "a"), 0);
	names_sync(n);
	n->r.cfg.flags = VOLUME_READ_ONLY;
	names_crash(n, 5);
	assert_int_equal(attr_of(n, ino).nlink, 0);
	assert_int_equal(orphan_items(n), 1);
	assert_false(fs_service(n->fs, n->q));
	assert_int_equal(try_create(n, INO_ROOT, "c", S_IFREG), -EROFS);
	assert_int_equal(try_unlink(n, INO_ROOT, "b"), -EROFS);
	assert_int_equal(try_rename(n, INO_ROOT, "b", INO_ROOT, "c", 0), -EROFS);
	assert_int_equal(fs_setxattr(n->fs, n->q, ino, "user.x", "", 0, 0), -EROFS);
	assert_int_equal(known(n), 0);
	n->r.cfg.flags = 0;
	names_reopen(n);
	assert_int_equal(fs_getattr(n->fs, n->q, ino, &n->attr), -ESTALE);
}

/* A crash interrupts a truncation: shorter already, and listed, but with contents behind its end. */
static void interrupt_truncation(struct names *n, uint64_t ino, uint64_t size)
{
	struct disk_inode di;
	struct miss miss;
	struct txn t;

	volume_lock(n->r.v);
	assert_int_equal(inode_get(n->fs, ino, &miss, &di), 0);
	di.size = put64(size);
	txn_begin(&t, n->r.v);
	inode_put(&t, ino, &di);
	orphan_put(&t, ino);
	assert_int_equal(txn_commit(&t, n->q, 0, &miss, NULL, NULL), 0);
	txn_end(&t);
	volume_unlock(n->r.v);
	names_sync(n);
	names_crash(n, 9);
}

static void write_sparsely(struct names *n, uint64_t ino, unsigned nblocks)
{
	for (unsigned i = 0; i < nblocks; i++)
		assert_int_equal(fs_pwrite(n->fs, n->q, ino, "0123456789", 10, i * 2 * BLOCK_SIZE), 10);
	assert_int_equal(attr_of(n, ino).blocks, nblocks * 8);
}

static void interrupted_truncations_are_finished(void **state)
{
	struct names *n = *state;
	uint64_t ino = make(n, INO_ROOT, "a", S_IFREG | 0644);

	write_sparsely(n, ino, 50);
	interrupt_truncation(n, ino, 3 * BLOCK_SIZE);
	assert_int_equal(orphan_items(n), 0);
	assert_int_equal(attr_of(n, ino).blocks, 2 * 8);
	assert_int_equal(attr_of(n, ino).size, 3 * BLOCK_SIZE);
	assert_int_equal(known(n), 0);
}

/* What the crash has left is removed when the volume becomes writable, also behind the end of a file that is known by then. */
static void they_go_when_writing_begins(void **state)
{
	struct names *n = *state;
	uint64_t big = make_big(n, "big"), part = make(n, INO_ROOT, "part", S_IFREG | 0644);
	unsigned calls = 0;
	char buf[10];

	assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, "big", 3, &n->attr), 0);
	assert_int_equal(try_create(n, INO_ROOT, "held", S_IFREG | 0644), 0);
	uint64_t held = n->attr.ino;
	assert_int_equal(fs_pwrite(n->fs, n->q, held, "0123456789", 10, 0), 10);
	assert_int_equal(try_unlink(n, INO_ROOT, "big"), 0);
	assert_int_equal(try_unlink(n, INO_ROOT, "held"), 0);
	write_sparsely(n, part, 50);
	n->r.cfg.flags = VOLUME_READ_ONLY;
	n->cfg.want_service = count_calls;
	n->cfg.service_arg = &calls;
	interrupt_truncation(n, part, 3 * BLOCK_SIZE);
	assert_int_equal(orphan_items(n), 3);
	assert_int_equal(attr_of(n, part).blocks, 50 * 8);

	assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, "part", 4, &n->attr), 0);
	n->r.dev->read_only = true;
	assert_int_equal(fs_begin_writing(n->fs, n->q), -EROFS);
	assert_false(fs_service(n->fs, n->q));
	assert_int_equal(orphan_items(n), 3);
	n->r.dev->read_only = false;
	calls = 0;
	assert_int_equal(fs_begin_writing(n->fs, n->q), 0);
	assert_true(calls > 0);
	serve(n);
	assert_int_equal(orphan_items(n), 0);
	assert_int_equal(fs_getattr(n->fs, n->q, big, &n->attr), -ESTALE);
	assert_int_equal(fs_getattr(n->fs, n->q, held, &n->attr), -ESTALE);
	assert_int_equal(attr_of(n, part).blocks, 2 * 8);
	assert_int_equal(try_create(n, INO_ROOT, "new", S_IFREG | 0644), 0);
	/* Of an inode that was known before, too. */
	assert_int_equal(fs_pwrite(n->fs, n->q, part, "abc", 3, 0), 3);
	assert_int_equal(fs_sync(n->fs, n->q, part, false), 0);
	n->r.cfg.flags = 0;
	names_crash(n, 4);
	assert_int_equal(fs_pread(n->fs, n->q, part, buf, 3, 0), 3);
	assert_memory_equal(buf, "abc", 3);
	assert_int_not_equal(ino_of(n, INO_ROOT, "new"), 0);
	names_check(n);
}

/* So long that opening leaves some of it; who moves the end forward finds nothing behind it all the same. */
static void what_was_behind_the_end_stays_gone(void **state)
{
	struct names *n = *state;
	uint64_t ino = make(n, INO_ROOT, "a", S_IFREG | 0644);
	struct fs_attr grow = {.size = 10000 * BLOCK_SIZE};
	char buf[10], zeros[10] = {0};

	write_sparsely(n, ino, 4000);
	interrupt_truncation(n, ino, 3 * BLOCK_SIZE);
	assert_int_equal(orphan_items(n), 1);
	assert_true(attr_of(n, ino).blocks > 1000 * 8);
	assert_int_equal(fs_setattr(n->fs, n->q, ino, FS_SET_SIZE, &grow, &n->attr), 0);
	for (unsigned i = 0; i < 4000; i++) {
		assert_int_equal(fs_pread(n->fs, n->q, ino, buf, 10, i * 2 * BLOCK_SIZE), 10);
		assert_memory_equal(buf, i < 2 ? "0123456789" : zeros, 10);
	}
	serve(n);
	assert_int_equal(orphan_items(n), 0);
	assert_int_equal(attr_of(n, ino).blocks, 2 * 8);
	assert_int_equal(known(n), 0);
}

/* What removes them puts the inode, with a time of access that was in memory only until then: that is written then, and not again. */
static void removing_takes_a_time_along(void **state)
{
	struct names *n = *state;
	uint64_t ino = make(n, INO_ROOT, "a", S_IFREG | 0644);
	char buf[10];

	n->cfg.atime = FS_STRICTATIME;
	n->cfg.lazytime = true;
	write_sparsely(n, ino, 4000);
	interrupt_truncation(n, ino, 3 * BLOCK_SIZE);
	assert_int_equal(orphan_items(n), 1);
	assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, "a", 1, &n->attr), 0);
	assert_int_equal(fs_pread(n->fs, n->q, ino, buf, 10, 0), 10);
	int64_t now = attr_of(n, ino).atime.tv_sec;
	assert_int_equal(n->fs->nlazy, 1);
	fs_service(n->fs, n->q);
	assert_int_equal(n->fs->nlazy, 0);
	/* It may be the only change that a sync of the file has to wait for. */
	assert_int_equal(fs_sync(n->fs, n->q, ino, false), 0);
	names_crash(n, 3);
	assert_int_equal(attr_of(n, ino).atime.tv_sec, now);
	serve(n);
}

/* It gets its name while a truncation of it is not finished: that goes on, and is listed until it is done. */
static void a_name_amid_a_truncation(void **state)
{
	struct names *n = *state;
	uint64_t ino = make_nameless(n, INO_ROOT);

	write_sparsely(n, ino, 2000);
	volume_lock(n->r.v);
	struct inode *inode = inode_find(n->fs, ino);
	struct disk_inode di;
	struct miss miss;
	struct txn t;
	assert_int_equal(inode_get(n->fs, ino, &miss, &di), 0);
	di.size = put64(3 * BLOCK_SIZE);
	txn_begin(&t, n->r.v);
	inode_put(&t, ino, &di);
	assert_int_equal(txn_commit(&t, n->q, 0, &miss, NULL, NULL), 0);
	txn_end(&t);
	inode->trimming = true;
	volume_unlock(n->r.v);
	assert_int_equal(try_link(n, ino, INO_ROOT, "a"), 0);
	assert_int_equal(orphan_items(n), 1);
	names_sync(n);
	names_crash(n, 17);
	serve(n);
	assert_int_equal(orphan_items(n), 0);
	assert_int_equal(attr_of(n, ino).blocks, 2 * 8);
	assert_int_equal(ino_of(n, INO_ROOT, "a"), ino);
	assert_int_equal(known(n), 0);
}

/* Files come and go in a window; whatever moment the crash leaves, it is one that was, and not before the last sync. */
static void crashes_leave_a_moment_that_was(void **state)
{
	struct names *n = *state;
	unsigned next = 0, synced = 0;
	char name[24], gone[24];

	for (uint64_t seed = 1; seed <= 60; seed++) {
		unsigned steps = 5 + (unsigned)(seed * 37 % 50);

		for (unsigned i = 0; i < steps; i++, next++) {
			snprintf(name, sizeof(name), "f%u", next);
			make(n, INO_ROOT, name, next % 3 ? S_IFREG | 0644 : S_IFDIR | 0755);
			if (next < 10)
				continue;
			/* One moves into the place of another, or goes. */
			snprintf(gone, sizeof(gone), "f%u", next - 10);
			assert_int_equal((next - 10) % 3 ? try_unlink(n, INO_ROOT, gone)
							 : try_rmdir(n, INO_ROOT, gone),
					 0);
			if ((next + seed) % 23 == 0) {
				names_sync(n);
				synced = next;
			}
			if ((next + seed) % 41 == 0)
				assert_int_equal(volume_checkpoint(n->r.v, n->q, 0), 0);
		}
		names_crash(n, seed);
		names_check(n);
		unsigned first = 0;
		while (!ino_of(n, INO_ROOT, (snprintf(name, sizeof(name), "f%u", first), name)))
			assert_true(++first <= next);
		unsigned last = first;
		while (ino_of(n, INO_ROOT, (snprintf(name, sizeof(name), "f%u", last), name)))
			last++;
		assert_true(last - first == 10 || last - first == 11 || (first == 0 && last < 10));
		assert_int_equal(attr_of(n, INO_ROOT).size, last - first);
		assert_true(last > synced || synced == 0);
		/* The one that a crash kept from going goes now. */
		if (last - first == 11) {
			snprintf(name, sizeof(name), "f%u", first);
			assert_int_equal(first % 3 ? try_unlink(n, INO_ROOT, name)
						   : try_rmdir(n, INO_ROOT, name),
					 0);
		}
		next = last;
		synced = last - 1;
		names_sync(n);
	}
}

/* --- when nothing can be written --- */

static void a_failed_volume_keeps_the_list(void **state)
{
	struct names *n = *state;

	assert_int_equal(try_create(n, INO_ROOT, "a", S_IFREG), 0);
	uint64_t a = n->attr.ino;
	assert_int_equal(try_unlink(n, INO_ROOT, "a"), 0);
	volume_fail(n->r.v, -EIO, "the test wants it");
	fs_forget(n->fs, n->q, a, 1);
	assert_false(STAILQ_EMPTY(&n->fs->reap));
	assert_false(fs_service(n->fs, n->q));
	assert_int_equal(attr_of(n, a).nlink, 0);
	assert_int_equal(try_create(n, INO_ROOT, "b", S_IFREG), -EROFS);
	assert_int_equal(try_lookup(n, INO_ROOT, "b"), -ENOENT);
	fs_close(n->fs, n->q);
	assert_int_not_equal(volume_close(n->r.v, n->q), 0);
	assert_int_equal(volume_open(n->r.q, &n->r.cfg, NULL, &n->r.v), 0);
	names_open(n);
}

/* Fills the volume with names until there is no room; everything can be removed again, and then it takes as many. */
static void a_full_volume_can_be_emptied(void **state)
{
	struct names *n = *state;
	unsigned made[2] = {0};
	char name[128];

	for (unsigned round = 0; round < 2; round++) {
		int err;

		for (;; made[round]++) {
			snprintf(name, sizeof(name), "%0100u", made[round]);
			err = try_create(n, INO_ROOT, name, S_IFREG | 0644);
			if (err)
				break;
			fs_forget(n->fs, n->q, n->attr.ino, 1);
		}
		assert_int_equal(err, -ENOSPC);
		assert_true(made[round] > 1000);
		struct fs_statfs s;
		fs_statfs(n->fs, &s);
		assert_true(s.bavail < s.blocks / 10);
		names_check(n);
		for (unsigned i = 0; i < made[round]; i++) {
			snprintf(name, sizeof(name), "%0100u", i);
			assert_int_equal(try_unlink(n, INO_ROOT, name), 0);
		}
		serve(n);
		assert_int_equal(n->r.v->ninodes, 1);
		names_check(n);
	}
	assert_true(made[1] >= made[0] - made[0] / 10);
}

#define SPREAD 3600u /* extents, one block each */
#define THINNED 30u /* of so many one stays */

static void punch(struct names *n, uint64_t ino, uint64_t first, uint64_t end)
{
	assert_int_equal(fs_fallocate(n->fs, n->q, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first * BLOCK_SIZE,
				      (end - first) * BLOCK_SIZE), 0);
}

/* A file whose few extents lie in many leaves: neighbours become one only where they are changed together. */
static uint64_t make_spread(struct names *n, const char *name)
{
	static const uint8_t block[BLOCK_SIZE] = {1};
	uint64_t ino = make(n, INO_ROOT, name, S_IFREG | 0644);

	for (uint64_t i = 0; i < SPREAD; i++)
		assert_int_equal(fs_pwrite(n->fs, n->q, ino, block, BLOCK_SIZE, 2 * i * BLOCK_SIZE), BLOCK_SIZE);
	for (uint64_t i = 0; i < SPREAD; i += THINNED) {
		punch(n, ino, 2 * i + 1, 2 * (i + THINNED));
		assert_int_equal(volume_checkpoint(n->r.v, n->q, 0), 0);
	}
	return ino;
}

/* Until not even a byte finds room. */
static void fill(struct names *n)
{
	static uint8_t buf[MEGABYTE];
	uint64_t ino = make(n, INO_ROOT, "fill", S_IFREG | 0644), at = 0;

	for (size_t len = sizeof(buf); len; len /= 2)
		for (ssize_t got; (got = fs_pwrite(n->fs, n->q, ino, buf, len, at)) > 0;)
			at += (uint64_t)got;
	while (!try_create(n, INO_ROOT, (char[]){(char)('a' + at++ % 26), (char)('a' + at / 26 % 26), (char)('a' + at / 676 % 26), 0}, S_IFREG))
		fs_forget(n->fs, n->q, n->attr.ino, 1);
}

/* What a removal takes of the tree at a time must not be more than what is kept for removals. */
static void is_free_again(struct names *n, uint64_t before)
{
	struct fs_statfs s;

	serve(n);
	assert_int_equal(orphan_items(n), 0);
	assert_int_equal(volume_checkpoint(n->r.v, n->q, 0), 0);
	fs_statfs(n->fs, &s);
	assert_true(s.bfree >= before + SPREAD / THINNED);
}

static uint64_t make_full(struct names *n, uint64_t *bfree)
{
	uint64_t ino = make_spread(n, "spread");
	struct fs_statfs s;

	fill(n);
	assert_int_equal(volume_checkpoint(n->r.v, n->q, 0), 0);
	fs_statfs(n->fs, &s);
	assert_true(s.bavail < 10);
	*bfree = s.bfree;
	return ino;
}

static void what_is_spread_goes_from_a_full_volume(void **state)
{
	struct names *n = *state;
	uint64_t bfree, ino = make_full(n, &bfree);

	assert_int_equal(try_unlink(n, INO_ROOT, "spread"), 0);
	is_free_again(n, bfree);
	assert_int_equal(fs_getattr(n->fs, n->q, ino, &n->attr), -ESTALE);
}

static void what_is_spread_is_truncated_on_a_full_volume(void **state)
{
	struct names *n = *state;
	struct fs_attr in = {.size = 5000};
	uint64_t bfree, ino = make_full(n, &bfree);

	assert_int_equal(fs_setattr(n->fs, n->q, ino, FS_SET_SIZE, &in, &n->attr), 0);
	assert_int_equal(n->attr.size, 5000);
	is_free_again(n, bfree - 1);
	assert_int_equal(attr_of(n, ino).blocks, BLOCK_SIZE / 512);
}

static void what_is_spread_is_punched_on_a_full_volume(void **state)
{
	struct names *n = *state;
	uint64_t bfree, ino = make_full(n, &bfree);

	punch(n, ino, 1, 2 * SPREAD);
	is_free_again(n, bfree - 1);
	assert_int_equal(attr_of(n, ino).blocks, BLOCK_SIZE / 512);
}

int main(void)
{
#define WITH(test, how) cmocka_unit_test_setup_teardown(test, how, names_teardown)
	const struct CMUnitTest tests[] = {
		WITH(open_ones_live_until_forgotten, setup),
		WITH(open_ones_live_until_forgotten, setup_tiny_cache),
		WITH(small_ones_go_at_once, setup),
		WITH(closing_removes_what_is_open, setup),
		WITH(pins_keep_them, setup),
		WITH(references_that_come_back_keep_them, setup),
		WITH(without_a_name_they_go_with_the_last_reference, setup),
		WITH(a_first_name_keeps_them, setup),
		WITH(a_first_name_keeps_them, setup_tiny_cache),
		WITH(a_crash_takes_them, setup),
		WITH(removing_takes_a_time_along, setup),
		WITH(a_name_amid_a_truncation, setup),
		WITH(a_crash_leaves_them_to_the_next_open, setup),
		WITH(a_crash_leaves_them_to_the_next_open, setup_tiny_cache),
		WITH(read_only_leaves_them, setup),
		WITH(interrupted_truncations_are_finished, setup),
		WITH(they_go_when_writing_begins, setup),
		WITH(what_was_behind_the_end_stays_gone, setup),
		WITH(crashes_leave_a_moment_that_was, setup),
		WITH(crashes_leave_a_moment_that_was, setup_tiny_cache),
		WITH(a_failed_volume_keeps_the_list, setup),
		WITH(a_full_volume_can_be_emptied, setup_small),
		WITH(what_is_spread_goes_from_a_full_volume, setup_medium),
		WITH(what_is_spread_is_truncated_on_a_full_volume, setup_medium),
		WITH(what_is_spread_is_punched_on_a_full_volume, setup_medium),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
