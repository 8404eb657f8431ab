/* SPDX-License-Identifier: Apache-2.0 */
/* test_fs_names.c - names: create, look up, link, unlink, directories, symlinks, reading directories. */
#include "tests/unit/names_rig.h"

/* Two names of one hash value under the rig's hash key, found by search (2^28 names). */
#define TWIN_A "c96b6fed95d422"
#define TWIN_B "5aacfc170a1857"

static int setup(void **state)
{
	return names_setup(state, 32 * MEGABYTE, 0);
}

static int setup_big(void **state)
{
	return names_setup(state, 256 * MEGABYTE, 0);
}

/* Room for 64 nodes: most of what is read must be loaded. */
static int setup_tiny_cache(void **state)
{
	return names_setup(state, 128 * MEGABYTE, 64 * BLOCK_SIZE);
}

/* --- create and look up --- */

static void create_gives_what_was_asked(void **state)
{
	struct names *n = *state;
	static const uint32_t type[] = {S_IFREG, S_IFDIR, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK};

	for (unsigned i = 0; i < 6; i++) {
		char name[8] = {'t', (char)('0' + i)};
		bool device = type[i] == S_IFCHR || type[i] == S_IFBLK;

		assert_int_equal(fs_create(n->fs, n->q, &names_cred, INO_ROOT, name, 2, type[i] | 0640, 0x123,
					   &n->attr),
				 0);
		struct fs_attr a = n->attr, b = attr_of(n, n->attr.ino);
		assert_memory_equal(&a, &b, sizeof(a));
		assert_true(a.ino >= INO_FIRST);
		assert_int_equal(a.mode, type[i] | 0640);
		assert_int_equal(a.nlink, type[i] == S_IFDIR ? 2 : 1);
		assert_int_equal(a.uid, 1000);
		assert_int_equal(a.gid, 100);
		assert_int_equal(a.rdev, device ? 0x123 : 0);
		assert_int_equal(a.size, 0);
		assert_int_equal(a.generation, n->r.v->generation);
		assert_int_equal(a.btime.tv_sec, n->clock.tv_sec);
		assert_int_equal(a.btime.tv_nsec, n->clock.tv_nsec);
		struct fs_attr root = attr_of(n, INO_ROOT);
		assert_int_equal(root.size, i + 1);
		assert_int_equal(root.mtime.tv_sec, n->clock.tv_sec);
		assert_int_equal(root.ctime.tv_sec, n->clock.tv_sec);
		fs_forget(n->fs, n->q, a.ino, 1);
	}
	assert_int_equal(attr_of(n, INO_ROOT).nlink, 3);
}

static void create_refuses(void **state)
{
	struct names *n = *state;
	uint64_t file = make(n, INO_ROOT, "file", S_IFREG | 0644), inodes = n->r.v->ninodes;

	assert_int_equal(try_create(n, INO_ROOT, "file", S_IFREG), -EEXIST);
	assert_int_equal(try_create(n, INO_ROOT, ".", S_IFDIR), -EEXIST);
	assert_int_equal(try_create(n, INO_ROOT, "..", S_IFREG), -EEXIST);
	assert_int_equal(try_create(n, file, "x", S_IFREG), -ENOTDIR);
	assert_int_equal(try_create(n, 999, "x", S_IFREG), -ESTALE);
	assert_int_equal(try_create(n, 0, "x", S_IFREG), -ESTALE);
	assert_int_equal(try_create(n, INO_ROOT, "", S_IFREG), -EINVAL);
	assert_int_equal(try_create(n, INO_ROOT, "a/b", S_IFREG), -EINVAL);
	assert_int_equal(fs_create(n->fs, n->q, &names_cred, INO_ROOT, "a\0b", 3, S_IFREG, 0, &n->attr),
			 -EINVAL);
	assert_int_equal(try_create(n, INO_ROOT, "x", S_IFLNK), -EINVAL);
	assert_int_equal(try_create(n, INO_ROOT, "x", 0644), -EINVAL);
	assert_int_equal(n->r.v->ninodes, inodes);
	assert_int_equal(known(n), 0);
}

static void setgid_directories_pass_their_group_on(void **state)
{
	struct names *n = *state;
	uint64_t dir = make(n, INO_ROOT, "dir", S_IFDIR | 02755);
	struct fs_attr in = {.gid = 77};

	assert_int_equal(fs_setattr(n->fs, n->q, dir, FS_SET_GID, &in, &n->attr), 0);
	make(n, dir, "sub", S_IFDIR | 0755);
	assert_int_equal(n->attr.gid, 77);
	assert_int_equal(n->attr.mode, S_IFDIR | 02755);
	make(n, dir, "file", S_IFREG | 0755);
	assert_int_equal(n->attr.gid, 77);
	assert_int_equal(n->attr.mode, S_IFREG | 0755);
}

static void names_of_all_lengths_and_bytes(void **state)
{
	struct names *n = *state;
	uint64_t ino[2][256] = {0};
	char name[256];

	for (unsigned round = 0; round < 2; round++) {
		for (unsigned len = 1; len <= 255; len++) {
			memset(name, 'x', len);
			if (round == 0) {
				assert_int_equal(fs_create(n->fs, n->q, &names_cred, INO_ROOT, name, len,
							   S_IFREG, 0, &n->attr),
						 0);
				ino[0][len] = n->attr.ino;
				continue;
			}
			assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, name, len, &n->attr), 0);
			assert_int_equal(n->attr.ino, ino[0][len]);
		}
		for (unsigned byte = 1; byte <= 255; byte++) {
			if (byte == '/' || byte == '.' || (byte == 'x'))
				continue;
			name[0] = (char)byte;
			if (round == 0) {
				assert_int_equal(fs_create(n->fs, n->q, &names_cred, INO_ROOT, name, 1,
							   S_IFREG, 0, &n->attr),
						 0);
				ino[1][byte] = n->attr.ino;
				continue;
			}
			assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, name, 1, &n->attr), 0);
			assert_int_equal(n->attr.ino, ino[1][byte]);
		}
	}
	char longer[256];
	memset(longer, 'x', 256);
	assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, longer, 256, &n->attr), -ENAMETOOLONG);
	assert_int_equal(fs_create(n->fs, n->q, &names_cred, INO_ROOT, longer, 256, S_IFREG, 0, &n->attr),
			 -ENAMETOOLONG);
	assert_int_equal(fs_unlink(n->fs, n->q, INO_ROOT, longer, 256), -ENAMETOOLONG);
	names_reopen(n);
	for (unsigned len = 1; len <= 255; len++) {
		memset(name, 'x', len);
		assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, name, len, &n->attr), 0);
		assert_int_equal(n->attr.ino, ino[0][len]);
		assert_int_equal(fs_unlink(n->fs, n->q, INO_ROOT, name, len), 0);
	}
}

static void lookup_counts_references(void **state)
{
	struct names *n = *state;
	uint64_t dir = make(n, INO_ROOT, "dir", S_IFDIR | 0755), file = make(n, dir, "file", S_IFREG | 0644);

	assert_int_equal(known(n), 0);
	assert_int_equal(fs_lookup(n->fs, n->q, dir, "file", 4, &n->attr), 0);
	assert_int_equal(fs_lookup(n->fs, n->q, dir, "file", 4, &n->attr), 0);
	assert_int_equal(n->attr.ino, file);
	assert_int_equal(known(n), 1);
	fs_forget(n->fs, n->q, file, 1);
	assert_int_equal(known(n), 1);
	fs_forget(n->fs, n->q, file, 5);
	assert_int_equal(known(n), 0);
	fs_forget(n->fs, n->q, file, 1);

	assert_int_equal(try_lookup(n, dir, "none"), -ENOENT);
	assert_int_equal(try_lookup(n, file, "x"), -ENOTDIR);
	assert_int_equal(try_lookup(n, 12345, "x"), -ESTALE);
	assert_int_equal(ino_of(n, dir, "."), dir);
	assert_int_equal(ino_of(n, file, "."), file);
	/* What the kernel calls an inode that it has by a handle only. */
	assert_int_equal(ino_of(n, dir, "/"), dir);
	assert_int_equal(ino_of(n, file, "/"), file);
	assert_int_equal(try_lookup(n, 12345, "/"), -ESTALE);
	assert_int_equal(try_lookup(n, dir, "a/"), -EINVAL);
	assert_int_equal(ino_of(n, dir, ".."), INO_ROOT);
	assert_int_equal(ino_of(n, INO_ROOT, ".."), INO_ROOT);
	assert_int_equal(try_lookup(n, file, ".."), -ENOTDIR);
	assert_int_equal(try_lookup(n, 12345, "."), -ESTALE);
	assert_int_equal(known(n), 0);
}

static void the_table_of_known_inodes_grows(void **state)
{
	struct names *n = *state;
	char name[16];

	for (unsigned i = 0; i < 5000; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		assert_int_equal(try_create(n, INO_ROOT, name, S_IFREG | 0644), 0);
	}
	assert_int_equal(known(n), 5000);
	assert_true(n->fs->nhash >= 5000);
	for (unsigned i = 0; i < 5000; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		fs_forget(n->fs, n->q, ino_of(n, INO_ROOT, name), 1);
	}
	assert_int_equal(known(n), 0);
}

/* --- colliding names --- */

static void colliding_names_are_kept_apart(void **state)
{
	struct names *n = *state;
	const struct super *sb = &n->r.v->sb;

	assert_int_equal(dirent_offset(sb, TWIN_A, strlen(TWIN_A)),
			 dirent_offset(sb, TWIN_B, strlen(TWIN_B)));
	uint64_t a = make(n, INO_ROOT, TWIN_A, S_IFREG | 0644);
	assert_int_equal(ino_of(n, INO_ROOT, TWIN_B), 0);
	assert_int_equal(try_unlink(n, INO_ROOT, TWIN_B), -ENOENT);
	uint64_t b = make(n, INO_ROOT, TWIN_B, S_IFREG | 0644);
	assert_int_equal(ino_of(n, INO_ROOT, TWIN_A), a);
	assert_int_equal(ino_of(n, INO_ROOT, TWIN_B), b);
	/* The second one is found behind the gap that the first one leaves; the gap is filled again. */
	assert_int_equal(try_unlink(n, INO_ROOT, TWIN_A), 0);
	names_reopen(n);
	assert_int_equal(ino_of(n, INO_ROOT, TWIN_A), 0);
	assert_int_equal(ino_of(n, INO_ROOT, TWIN_B), b);
	a = make(n, INO_ROOT, TWIN_A, S_IFREG | 0644);
	assert_int_equal(ino_of(n, INO_ROOT, TWIN_A), a);
	assert_int_equal(ino_of(n, INO_ROOT, TWIN_B), b);
	names_check(n);
	/* Moved onto each other, and back and forth between themselves. */
	assert_int_equal(try_rename(n, INO_ROOT, TWIN_A, INO_ROOT, TWIN_B, RENAME_EXCHANGE), 0);
	assert_int_equal(ino_of(n, INO_ROOT, TWIN_A), b);
	assert_int_equal(try_rename(n, INO_ROOT, TWIN_A, INO_ROOT, TWIN_B, 0), 0);
	assert_int_equal(ino_of(n, INO_ROOT, TWIN_A), 0);
	assert_int_equal(ino_of(n, INO_ROOT, TWIN_B), b);
	assert_int_equal(try_rename(n, INO_ROOT, TWIN_B, INO_ROOT, TWIN_A, 0), 0);
	assert_int_equal(ino_of(n, INO_ROOT, TWIN_A), b);
	assert_int_equal(attr_of(n, INO_ROOT).size, 1);
}

/* Takes all free indexes of a name's hash value but `leave` with entries that no search for it matches. */
static void crowd(struct names *n, uint64_t dir, const char *name, uint64_t ino, unsigned leave, bool add)
{
	uint64_t first = dirent_offset(&n->r.v->sb, name, strlen(name));

	for (unsigned i = 0; i < HASH_COLLISIONS - leave; i++) {
		char other[16];
		struct miss miss;
		struct txn t;
		int err;

		snprintf(other, sizeof(other), "crowd%u", i);
		do {
			volume_lock(n->r.v);
			txn_begin(&t, n->r.v);
			if (add)
				dir_put(&t, dir, first + i, other, strlen(other), ino, DT_REG);
			else
				dir_del(&t, dir, first + i);
			err = txn_commit(&t, n->q, 0, &miss, NULL, NULL);
			txn_end(&t);
			volume_unlock(n->r.v);
			if (err == -EAGAIN)
				assert_int_equal(volume_provide(n->r.v, n->q, &miss), 0);
		} while (err == -EAGAIN);
		assert_int_equal(err, 0);
	}
}

static void a_crowded_hash_value_ends_in_enospc(void **state)
{
	struct names *n = *state;
	uint64_t dir = make(n, INO_ROOT, "dir", S_IFDIR | 0755), ino = make(n, dir, "some", S_IFREG | 0644);

	crowd(n, dir, TWIN_A, ino, 1, true);
	uint64_t a = make(n, dir, TWIN_A, S_IFREG | 0644);
	assert_int_equal(ino_of(n, dir, TWIN_A), a);
	assert_int_equal(try_create(n, dir, TWIN_B, S_IFREG), -ENOSPC);
	assert_int_equal(try_link(n, ino, dir, TWIN_B), -ENOSPC);
	assert_int_equal(try_rename(n, dir, "some", dir, TWIN_B, 0), -ENOSPC);
	assert_int_equal(try_rename(n, dir, TWIN_A, dir, TWIN_B, RENAME_WHITEOUT), -ENOSPC);
	/* The slot that the old name leaves is the new one's. */
	assert_int_equal(try_rename(n, dir, TWIN_A, dir, TWIN_B, 0), 0);
	assert_int_equal(ino_of(n, dir, TWIN_A), 0);
	assert_int_equal(ino_of(n, dir, TWIN_B), a);
	assert_int_equal(try_rename(n, dir, TWIN_B, INO_ROOT, TWIN_A, 0), 0);
	assert_int_equal(try_rename(n, INO_ROOT, TWIN_A, dir, TWIN_A, 0), 0);
	assert_int_equal(ino_of(n, dir, TWIN_A), a);
	crowd(n, dir, TWIN_A, ino, 1, false);
	assert_int_equal(ino_of(n, dir, TWIN_A), a);
}

/* --- links, unlink, rmdir --- */

static void links_are_counted(void **state)
{
	struct names *n = *state;
	uint64_t dir = make(n, INO_ROOT, "dir", S_IFDIR | 0755), file = make(n, dir, "a", S_IFREG | 0644);

	assert_int_equal(fs_link(n->fs, n->q, file, INO_ROOT, "b", 1, &n->attr), 0);
	assert_int_equal(n->attr.nlink, 2);
	assert_int_equal(known(n), 1);
	fs_forget(n->fs, n->q, file, 1);
	assert_int_equal(try_link(n, file, INO_ROOT, "b"), -EEXIST);
	assert_int_equal(try_link(n, file, INO_ROOT, "."), -EEXIST);
	assert_int_equal(try_link(n, dir, INO_ROOT, "c"), -EPERM);
	assert_int_equal(try_link(n, 999, INO_ROOT, "c"), -ESTALE);
	assert_int_equal(try_link(n, file, file, "c"), -ENOTDIR);
	assert_int_equal(try_unlink(n, dir, "a"), 0);
	assert_int_equal(attr_of(n, file).nlink, 1);
	assert_int_equal(try_lookup(n, dir, "a"), -ENOENT);
	assert_int_equal(ino_of(n, INO_ROOT, "b"), file);
	/* While it is known it stays, and may get a name again. */
	assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, "b", 1, &n->attr), 0);
	assert_int_equal(try_unlink(n, INO_ROOT, "b"), 0);
	assert_int_equal(attr_of(n, file).nlink, 0);
	names_check(n);
	assert_int_equal(try_link(n, file, INO_ROOT, "c"), 0);
	assert_int_equal(n->attr.nlink, 1);
	names_check(n);
	assert_int_equal(try_unlink(n, INO_ROOT, "c"), 0);
	fs_forget(n->fs, n->q, file, 1);
	assert_int_equal(fs_getattr(n->fs, n->q, file, &n->attr), -ESTALE);
	assert_int_equal(known(n), 0);
}

static void set_nlink(struct names *n, uint64_t ino, uint32_t nlink)
{
	struct disk_inode di;
	struct miss miss;
	struct txn t;

	volume_lock(n->r.v);
	assert_int_equal(inode_get(n->fs, ino, &miss, &di), 0);
	di.nlink = put32(nlink);
	txn_begin(&t, n->r.v);
	inode_put(&t, ino, &di);
	assert_int_equal(txn_commit(&t, n->q, 0, &miss, NULL, NULL), 0);
	txn_end(&t);
	volume_unlock(n->r.v);
}

static void link_counts_have_a_limit(void **state)
{
	struct names *n = *state;
	uint64_t dir = make(n, INO_ROOT, "dir", S_IFDIR | 0755),
		 file = make(n, INO_ROOT, "a", S_IFREG | 0644);
	uint64_t sub = make(n, INO_ROOT, "sub", S_IFDIR | 0755);

	set_nlink(n, file, MAX_LINKS - 1);
	set_nlink(n, dir, MAX_LINKS - 1);
	assert_int_equal(try_link(n, file, INO_ROOT, "b"), 0);
	assert_int_equal(try_link(n, file, INO_ROOT, "c"), -EMLINK);
	make(n, dir, "x", S_IFDIR | 0755);
	assert_int_equal(try_create(n, dir, "y", S_IFDIR | 0755), -EMLINK);
	assert_int_equal(try_create(n, dir, "y", S_IFREG | 0755), 0);
	fs_forget(n->fs, n->q, n->attr.ino, 1);
	assert_int_equal(try_rename(n, INO_ROOT, "sub", dir, "z", 0), -EMLINK);
	assert_int_equal(try_rename(n, INO_ROOT, "sub", dir, "y", RENAME_EXCHANGE), -EMLINK);
	assert_int_equal(try_rename(n, INO_ROOT, "sub", dir, "x", 0), 0);
	assert_int_equal(ino_of(n, dir, "x"), sub);
	set_nlink(n, file, 2);
	set_nlink(n, dir, 3);
}

static void rmdir_and_unlink_refuse(void **state)
{
	struct names *n = *state;
	uint64_t dir = make(n, INO_ROOT, "dir", S_IFDIR | 0755), file = make(n, dir, "file", S_IFREG | 0644);

	assert_int_equal(try_rmdir(n, INO_ROOT, "dir"), -ENOTEMPTY);
	assert_int_equal(try_unlink(n, INO_ROOT, "dir"), -EISDIR);
	assert_int_equal(try_rmdir(n, dir, "file"), -ENOTDIR);
	assert_int_equal(try_rmdir(n, dir, "."), -EINVAL);
	assert_int_equal(try_rmdir(n, dir, ".."), -ENOTEMPTY);
	assert_int_equal(try_unlink(n, dir, "."), -EISDIR);
	assert_int_equal(try_unlink(n, dir, "none"), -ENOENT);
	assert_int_equal(try_unlink(n, file, "none"), -ENOTDIR);
	assert_int_equal(try_rmdir(n, INO_ROOT, "none"), -ENOENT);
	assert_int_equal(try_unlink(n, dir, "file"), 0);
	/* A removed directory that is known takes no entries and gives none. */
	assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, "dir", 3, &n->attr), 0);
	assert_int_equal(attr_of(n, INO_ROOT).nlink, 3);
	assert_int_equal(try_rmdir(n, INO_ROOT, "dir"), 0);
	assert_int_equal(attr_of(n, INO_ROOT).nlink, 2);
	assert_int_equal(attr_of(n, dir).nlink, 0);
	assert_int_equal(try_create(n, dir, "x", S_IFREG), -ENOENT);
	assert_int_equal(try_lookup(n, dir, "x"), -ENOENT);
	assert_int_equal(try_lookup(n, dir, "."), -ENOENT);
	assert_int_equal(try_lookup(n, dir, "/"), -ENOENT);
	assert_int_equal(try_lookup(n, dir, ".."), -ENOENT);
	make(n, INO_ROOT, "g", S_IFREG | 0644);
	assert_int_equal(try_rename(n, INO_ROOT, "g", dir, "g", 0), -ENOENT);
	fs_forget(n->fs, n->q, dir, 1);
	assert_int_equal(fs_getattr(n->fs, n->q, dir, &n->attr), -ESTALE);
}

/* --- symlinks --- */

static void symlinks_of_all_lengths(void **state)
{
	struct names *n = *state;
	static const unsigned len[] = {1, 100, 1023, 1024, 1025, 2048, 4094, 4095};
	char target[4098], buf[MAX_SYMLINK + 1], name[8];

	for (unsigned i = 0; i < 8; i++) {
		for (unsigned k = 0; k < len[i]; k++)
			target[k] = (char)('a' + k % 23);
		target[len[i]] = 0;
		snprintf(name, sizeof(name), "l%u", i);
		uint64_t ino = make_symlink(n, INO_ROOT, name, target);
		assert_int_equal(n->attr.size, len[i]);
		assert_int_equal(n->attr.mode, S_IFLNK | 0777);
		assert_int_equal(fs_readlink(n->fs, n->q, ino, buf), 0);
		assert_string_equal(buf, target);
		names_reopen(n);
		assert_int_equal(fs_readlink(n->fs, n->q, ino, buf), 0);
		assert_string_equal(buf, target);
		if (i % 2)
			assert_int_equal(try_unlink(n, INO_ROOT, name), 0);
	}
	memset(target, 'x', 4096);
	target[4096] = 0;
	assert_int_equal(fs_symlink(n->fs, n->q, &names_cred, INO_ROOT, "y", 1, target, &n->attr),
			 -ENAMETOOLONG);
	assert_int_equal(fs_symlink(n->fs, n->q, &names_cred, INO_ROOT, "y", 1, "", &n->attr), -ENOENT);
	assert_int_equal(fs_symlink(n->fs, n->q, &names_cred, INO_ROOT, "l0", 2, "z", &n->attr), -EEXIST);
	assert_int_equal(fs_readlink(n->fs, n->q, INO_ROOT, buf), -EINVAL);
	assert_int_equal(fs_readlink(n->fs, n->q, make(n, INO_ROOT, "f", S_IFREG), buf), -EINVAL);
}

int main(void)
{
#define WITH(test, how) cmocka_unit_test_setup_teardown(test, how, names_teardown)
	const struct CMUnitTest tests[] = {
		WITH(create_gives_what_was_asked, setup),
		WITH(create_refuses, setup),
		WITH(setgid_directories_pass_their_group_on, setup),
		WITH(names_of_all_lengths_and_bytes, setup),
		WITH(names_of_all_lengths_and_bytes, setup_tiny_cache),
		WITH(lookup_counts_references, setup),
		WITH(the_table_of_known_inodes_grows, setup_big),
		WITH(colliding_names_are_kept_apart, setup),
		WITH(a_crowded_hash_value_ends_in_enospc, setup),
		WITH(links_are_counted, setup),
		WITH(link_counts_have_a_limit, setup),
		WITH(rmdir_and_unlink_refuse, setup),
		WITH(symlinks_of_all_lengths, setup),
		WITH(symlinks_of_all_lengths, setup_tiny_cache),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
