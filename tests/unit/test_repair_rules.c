/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_repair_rules.c - what the rules of a rebuild prefer, case by case: which of several claims wins, what becomes of
 * contents without an inode, what lost+found does when names are taken; and combinations.
 */
#include "tests/unit/repair_rig.h"

/* --- helpers ----------------------------------------------------------------------------------- */

static void expect_repaired(struct bench *b, struct told *t)
{
	assert_int_equal(repair(b, true, t), 0);
	assert_int_equal(bench_check(b, true), 0);
	assert_int_equal(b->res.nerrors, 0);
	assert_true(b->res.root_clean);
}

struct opened {
	struct fs *fs;
	struct fs_config cfg;
};

static void fs_begin(struct bench *b, struct opened *o)
{
	o->cfg = (struct fs_config){0};
	bench_open(b);
	assert_int_equal(fs_open(b->r.v, b->r.q, &o->cfg, &o->fs), 0);
}

static void fs_end(struct bench *b, struct opened *o)
{
	fs_close(o->fs, b->r.q);
	bench_close(b);
}

/* The inode that a path of one or two names leads to; 0: none. */
static uint64_t look(struct bench *b, struct opened *o, uint64_t dir, const char *name, struct fs_attr *a)
{
	if (fs_lookup(o->fs, b->r.q, dir, name, strlen(name), a))
		return 0;
	fs_forget(o->fs, b->r.q, a->ino, 1);
	return a->ino;
}

static uint64_t find(struct bench *b, uint64_t dir, const char *name, struct fs_attr *a)
{
	struct opened o;

	fs_begin(b, &o);
	uint64_t ino = look(b, &o, dir, name, a);

	fs_end(b, &o);
	return ino;
}

static char hash_name_buf[32];

static const char *hash_name(uint64_t ino)
{
	snprintf(hash_name_buf, sizeof(hash_name_buf), "#%llu", (unsigned long long)ino);
	return hash_name_buf;
}

static void drop_entry(struct bench *b, uint64_t dir, const char *name)
{
	item_del(b, dirent_key(b, dir, name));
}

/* All blocks of the data file say 'd'; 0 if not, or if it cannot be read. */
static bool is_intact(struct bench *b, uint64_t ino, size_t len)
{
	struct opened o;
	char *buf = malloc(len);
	bool ok;

	assert_non_null(buf);
	fs_begin(b, &o);
	ok = fs_pread(o.fs, b->r.q, ino, buf, len, 0) == (ssize_t)len;
	for (size_t i = 0; ok && i < len; i++)
		ok = buf[i] == 'd';
	fs_end(b, &o);
	free(buf);
	return ok;
}

/* --- lost inodes ------------------------------------------------------------------------------- */

static void test_contents_without_an_inode_are_kept(void **state)
{
	struct fs_attr a;
	struct bench b;
	struct told t;

	bench_clone(&b, *state);
	bench_open(&b);
	item_del(&b, key_make(b.data, ITEM_INODE, 0));
	item_del(&b, key_make(b.dir, ITEM_INODE, 0));
	item_del(&b, key_make(b.sym, ITEM_INODE, 0));
	item_del(&b, key_make(b.tiny, ITEM_INODE, 0));
	bench_close(&b);
	expect_repaired(&b, &t);
	/* The names are still there, and what they name. */
	assert_int_equal(find(&b, INO_ROOT, "dir", &a), b.dir);
	assert_int_equal(a.mode, S_IFDIR | 0700);
	assert_int_equal(find(&b, b.dir, "data", &a), b.data);
	assert_int_equal(a.mode, S_IFREG | 0600);
	assert_int_equal(a.size, DATA_BLOCKS * BLOCK_SIZE);
	assert_true(is_intact(&b, b.data, DATA_BLOCKS * BLOCK_SIZE));
	assert_int_equal(find(&b, b.dir, "sym", &a), b.sym);
	assert_true(S_ISLNK(a.mode) && a.size == 1500);
	assert_int_equal(find(&b, b.dir, "tiny", &a), b.tiny);
	assert_true(is_intact(&b, b.tiny, 100));
	assert_true(told_lost(&t, b.data) && told_lost(&t, b.dir));
	rig_destroy(&b.r);
}

/* A target of one item looks like a small file; the entry knows better. */
static void test_short_symlink_without_an_inode(void **state)
{
	const struct fs_cred cred = {.uid = 0, .gid = 0};
	struct fs_attr a;
	struct opened o;
	struct bench b;
	struct told t;

	bench_clone(&b, *state);
	fs_begin(&b, &o);
	assert_int_equal(fs_symlink(o.fs, b.r.q, &cred, b.dir, "short", 5, "to/there", &a), 0);
	fs_forget(o.fs, b.r.q, a.ino, 1);
	fs_end(&b, &o);
	uint64_t ino = a.ino;

	bench_open(&b);
	item_del(&b, key_make(ino, ITEM_INODE, 0));
	bench_close(&b);
	expect_repaired(&b, &t);
	assert_int_equal(find(&b, b.dir, "short", &a), ino);
	assert_true(S_ISLNK(a.mode) && a.size == 8);
	rig_destroy(&b.r);
}

static void test_cut_off_symlink_goes(void **state)
{
	struct fs_attr a;
	struct bench b;
	struct told t;

	bench_clone(&b, *state);
	bench_open(&b);
	item_del(&b, key_make(b.sym, ITEM_INLINE, INLINE_CHUNK));
	bench_close(&b);
	expect_repaired(&b, &t);
	assert_int_equal(find(&b, b.dir, "sym", &a), 0);
	assert_true(told_lost(&t, b.sym));
	rig_destroy(&b.r);
}

static void test_root_directory_is_made_again(void **state)
{
	struct fs_attr a;
	struct bench b;
	struct told t;

	bench_clone(&b, *state);
	bench_open(&b);
	item_del(&b, key_make(INO_ROOT, ITEM_INODE, 0));
	bench_close(&b);
	expect_repaired(&b, &t);
	assert_int_equal(find(&b, INO_ROOT, "dir", &a), b.dir);
	assert_true(told_lost(&t, INO_ROOT));
	rig_destroy(&b.r);
}

/* Another kind of inode in its place: its contents cannot stay, the entries of the root are gone with it. */
static void test_root_directory_that_is_a_file(void **state)
{
	struct fs_attr a;
	struct bench b;
	struct told t;

	bench_clone(&b, *state);
	bench_open(&b);
	struct disk_inode di = inode_read(&b, INO_ROOT);

	di.mode = put32(S_IFREG | 0644);
	di.parent = put64(0);
	inode_write(&b, INO_ROOT, &di);
	bench_close(&b);
	expect_repaired(&b, &t);
	assert_int_equal(find(&b, INO_ROOT, "dir", &a), b.dir);
	rig_destroy(&b.r);
}

static void test_impossible_number(void **state)
{
	struct bench b;
	struct told t;

	bench_clone(&b, *state);
	bench_open(&b);
	struct disk_inode di = inode_read(&b, b.fifo);

	inode_write(&b, UINT64_C(1) << 63, &di);
	inode_write(&b, UINT64_MAX, &di);
	bench_close(&b);
	expect_repaired(&b, &t);
	assert_true(told_lost(&t, UINT64_C(1) << 63));
	assert_true(b.res.sb.nblocks && get64(bench_root(&b).next_ino) < UINT64_C(1) << 62);
	rig_destroy(&b.r);
}

/* --- blocks claimed twice ---------------------------------------------------------------------- */

static uint8_t extent_val[MAX_ITEM];

/* A written extent of another file over the blocks of the data file, with the checksums given or wrong ones. */
static void claim_blocks(struct bench *b, uint64_t ino, bool right)
{
	unsigned len = item_get(b, key_make(b->data, ITEM_EXTENT, 0), extent_val);

	if (!right)
		extent_val[sizeof(struct disk_extent)] ^= 1;
	item_put(b, key_make(ino, ITEM_EXTENT, 0), extent_val, len);
	inode_add(b, ino, 0, 0, DATA_BLOCKS);
}

static void test_the_claim_that_matches_wins(void **state)
{
	for (unsigned swap = 0; swap < 2; swap++) {
		struct bench b;
		struct told t;

		bench_clone(&b, *state);
		bench_open(&b);
		claim_blocks(&b, b.twin, swap);
		if (swap) {	/* now the file that comes first is the one that is wrong */
			unsigned len = item_get(&b, key_make(b.data, ITEM_EXTENT, 0), extent_val);

			for (unsigned i = 0; i < DATA_BLOCKS; i++)
				extent_val[sizeof(struct disk_extent) + 4 * i] ^= 1;
			item_put(&b, key_make(b.data, ITEM_EXTENT, 0), extent_val, len);
		}
		bench_close(&b);
		expect_repaired(&b, &t);
		assert_true(told_lost(&t, swap ? b.data : b.twin));
		assert_false(told_lost(&t, swap ? b.twin : b.data));
		assert_true(is_intact(&b, swap ? b.twin : b.data, DATA_BLOCKS * BLOCK_SIZE));
		rig_destroy(&b.r);
	}
}

/* A file that claims a node's block loses it: what is in there is the node. */
static void test_a_node_is_no_contents(void **state)
{
	struct bench b;
	struct told t;

	bench_clone(&b, *state);
	struct disk_ptr ptr = leaf_ptr(&b, 2);
	struct {
		struct disk_extent ex;
		le32 csum, pad;
	} val = {{.blkno = ptr.blkno[0], .nblocks = put32(1)}, put32(12345), put32(0)};

	bench_open(&b);
	item_put(&b, key_make(b.twin, ITEM_EXTENT, 0), &val, sizeof(val.ex) + sizeof(val.csum));
	inode_add(&b, b.twin, 0, 0, 1);
	bench_close(&b);
	/* That change is in another leaf. */
	assert_int_equal(get64(leaf_ptr(&b, 2).blkno[0]), get64(ptr.blkno[0]));
	expect_repaired(&b, &t);
	assert_true(told_lost(&t, b.twin));
	assert_int_equal(t.lost, 1);
	assert_int_equal(b.res.ndirs + b.res.nfiles + b.res.nothers, 3 + BENCH_FILES + 4 + 2);
	rig_destroy(&b.r);
}

/* --- lost+found -------------------------------------------------------------------------------- */

/* Twice: the second repair finds lost+found and what is in it. */
static void test_lost_found_is_used_again(void **state)
{
	struct fs_attr a;
	struct bench b;
	struct told t;

	bench_clone(&b, *state);
	bench_open(&b);
	drop_entry(&b, b.dir, "fifo");
	bench_close(&b);
	expect_repaired(&b, &t);
	uint64_t lf = find(&b, INO_ROOT, "lost+found", &a);

	assert_true(lf);
	assert_int_equal(a.mode, S_IFDIR | 0700);
	assert_int_equal(find(&b, lf, hash_name(b.fifo), &a), b.fifo);
	bench_open(&b);
	drop_entry(&b, b.dir, "tiny");
	drop_entry(&b, b.dir, "sub");
	bench_close(&b);
	expect_repaired(&b, &t);
	assert_int_equal(find(&b, INO_ROOT, "lost+found", &a), lf);
	assert_int_equal(a.nlink, 3);
	assert_int_equal(find(&b, lf, hash_name(b.fifo), &a), b.fifo);
	assert_int_equal(find(&b, lf, hash_name(b.tiny), &a), b.tiny);
	assert_int_equal(find(&b, lf, hash_name(b.sub), &a), b.sub);
	assert_int_equal(find(&b, b.sub, "again", &a), b.attrs);
	rig_destroy(&b.r);
}

static void test_names_that_are_taken(void **state)
{
	struct fs_attr a;
	struct opened o;
	struct bench b;
	struct told t;

	bench_clone(&b, *state);
	fs_begin(&b, &o);
	bench_make(&b, o.fs, INO_ROOT, "lost+found", S_IFREG | 0644);
	uint64_t other = bench_make(&b, o.fs, INO_ROOT, "lost+found~1", S_IFDIR | 0755);

	fs_end(&b, &o);
	bench_open(&b);
	drop_entry(&b, b.dir, "fifo");
	bench_close(&b);
	expect_repaired(&b, &t);
	uint64_t lf = find(&b, INO_ROOT, "lost+found~2", &a);

	assert_true(lf && lf != other);
	assert_int_equal(find(&b, lf, hash_name(b.fifo), &a), b.fifo);
	assert_string_equal(t.last_path + strlen(t.last_path) - strlen(hash_name(b.fifo)), hash_name(b.fifo));
	rig_destroy(&b.r);
}

static void test_name_in_lost_found_that_is_taken(void **state)
{
	struct fs_attr a;
	struct opened o;
	char name[40];
	struct bench b;
	struct told t;

	bench_clone(&b, *state);
	fs_begin(&b, &o);
	uint64_t lf = bench_make(&b, o.fs, INO_ROOT, "lost+found", S_IFDIR | 0700);
	uint64_t other = bench_make(&b, o.fs, lf, hash_name(b.fifo), S_IFREG | 0644);

	fs_end(&b, &o);
	bench_open(&b);
	drop_entry(&b, b.dir, "fifo");
	bench_close(&b);
	expect_repaired(&b, &t);
	assert_int_equal(find(&b, lf, hash_name(b.fifo), &a), other);
	snprintf(name, sizeof(name), "%s~1", hash_name(b.fifo));
	assert_int_equal(find(&b, lf, name, &a), b.fifo);
	rig_destroy(&b.r);
}

/* Circles of one, two and three directories, and one that hangs below a circle. */
static void test_circles(void **state)
{
	struct fs_attr a;
	struct opened o;
	struct bench b;
	struct told t;
	uint64_t d[6];
	char name[8];

	bench_clone(&b, *state);
	fs_begin(&b, &o);
	for (unsigned i = 0; i < 6; i++) {
		snprintf(name, sizeof(name), "c%u", i);
		d[i] = bench_make(&b, o.fs, INO_ROOT, name, S_IFDIR | 0755);
	}
	uint64_t below = bench_make(&b, o.fs, d[1], "below", S_IFDIR | 0755);

	fs_end(&b, &o);
	/* c0 is in c0; c1 and c2 in each other; c3, c4, c5 one in the next. */
	static const unsigned up[6] = {0, 2, 1, 4, 5, 3};

	bench_open(&b);
	for (unsigned i = 0; i < 6; i++) {
		struct disk_inode di = inode_read(&b, d[i]);

		snprintf(name, sizeof(name), "c%u", i);
		drop_entry(&b, INO_ROOT, name);
		dirent_write(&b, d[up[i]], name, d[i], DT_DIR);
		di.parent = put64(d[up[i]]);
		inode_write(&b, d[i], &di);
	}
	bench_close(&b);
	expect_repaired(&b, &t);
	uint64_t lf = find(&b, INO_ROOT, "lost+found", &a);

	assert_int_equal(a.nlink, 5);	/* one of each circle */
	assert_true(find(&b, lf, hash_name(d[0]), &a) == d[0]);
	assert_int_equal(find(&b, d[1], "below", &a), below);
	rig_destroy(&b.r);
}

/* --- space ------------------------------------------------------------------------------------- */

/* A file claims every block that there is, so there is no room for a second tree: said, and nothing is changed. */
static void test_full_volume(void **state)
{
	struct bench b;
	struct told t;

	bench_clone(&b, *state);
	struct super sb = bench_super(&b);

	bench_open(&b);
	for (uint64_t blkno = super_data_begin(&sb); blkno < super_data_end(&sb); blkno += EXTENT_MAX_BLOCKS) {
		uint64_t n = super_data_end(&sb) - blkno;

		unwritten_put(&b, b.twin, blkno, blkno, n < EXTENT_MAX_BLOCKS ? (uint32_t)n : EXTENT_MAX_BLOCKS);
	}
	bench_close(&b);
	uint64_t writes = dev_sim_writes(b.r.dev);

	assert_int_equal(repair(&b, true, &t), -ENOSPC);
	assert_int_equal(dev_sim_writes(b.r.dev), writes);
	assert_true(is_intact(&b, b.data, DATA_BLOCKS * BLOCK_SIZE));
	rig_destroy(&b.r);
}

/* --- combinations ------------------------------------------------------------------------------ */

static void flip_bitmap(struct bench *b)
{
	struct super sb = bench_super(b);

	for (unsigned slot = 0; slot < 2; slot++)
		for (unsigned copy = 0; copy < 2; copy++)
			block_flip(b, bitmap_blkno(&sb, 0, slot, copy));
}

/* Much at once: everything that is in place comes from one rebuild. */
static void test_combination(void **state)
{
	struct fs_attr a;
	struct bench b;
	struct told t;

	bench_clone(&b, *state);
	bench_open(&b);
	item_del(&b, key_make(b.fifo, ITEM_INODE, 0));		/* dangling */
	drop_entry(&b, b.dir, "tiny");				/* unreachable */
	inode_add(&b, b.attrs, 0, 5, 0);			/* links */
	inode_add(&b, b.data, 0, 0, 7);				/* blocks */
	dirent_write(&b, INO_ROOT, "sub too", b.sub, DT_REG);	/* second entry, of a wrong type */
	unwritten_put(&b, b.sym, 0, block_alloc(&b), 1);	/* what a symlink cannot have */
	bench_close(&b);
	flip_bitmap(&b);
	block_flip(&b, SUPER_BLKNO0);
	block_flip(&b, get64(leaf_ptr(&b, 0).blkno[0]));
	expect_repaired(&b, &t);
	assert_int_equal(find(&b, b.dir, "fifo", &a), 0);
	assert_int_equal(find(&b, b.dir, "sub", &a), b.sub);
	assert_int_equal(find(&b, INO_ROOT, "sub too", &a), 0);
	uint64_t lf = find(&b, INO_ROOT, "lost+found", &a);
	assert_int_equal(find(&b, lf, hash_name(b.tiny), &a), b.tiny);
	assert_int_equal(find(&b, b.dir, "attrs", &a), b.attrs);
	assert_int_equal(a.nlink, 2);
	assert_true(is_intact(&b, b.data, DATA_BLOCKS * BLOCK_SIZE));
	rig_destroy(&b.r);
}

/* --- */

static int setup(void **state)
{
	struct bench *b = malloc(sizeof(*b));

	assert_non_null(b);
	bench_create(b);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	rig_destroy(&b->r);
	free(b);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_contents_without_an_inode_are_kept),
		cmocka_unit_test(test_short_symlink_without_an_inode),
		cmocka_unit_test(test_cut_off_symlink_goes),
		cmocka_unit_test(test_root_directory_is_made_again),
		cmocka_unit_test(test_root_directory_that_is_a_file),
		cmocka_unit_test(test_impossible_number),
		cmocka_unit_test(test_the_claim_that_matches_wins),
		cmocka_unit_test(test_a_node_is_no_contents),
		cmocka_unit_test(test_lost_found_is_used_again),
		cmocka_unit_test(test_names_that_are_taken),
		cmocka_unit_test(test_name_in_lost_found_that_is_taken),
		cmocka_unit_test(test_circles),
		cmocka_unit_test(test_full_volume),
		cmocka_unit_test(test_combination),
	};

	return cmocka_run_group_tests_name("repair_rules", tests, setup, teardown);
}
