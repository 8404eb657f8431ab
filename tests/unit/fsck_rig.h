/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fsck_rig.h - a volume with one of everything on a sim device, and ways to damage it: items through transactions, so that all
 * checksums are right; blocks by hand, resealed or not.
 */
#ifndef HOLDFAST_TESTS_FSCK_RIG_H
#define HOLDFAST_TESTS_FSCK_RIG_H

#include "tests/unit/volume_rig.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/xattr.h>

#include "fs/fs.h"
#include "fsck/check.h"

#define BENCH_BYTES   ((uint64_t)16 << 20)
#define BENCH_JOURNAL 256u
#define BENCH_FILES   300u	/* enough for a tree of two levels */
#define DATA_BLOCKS   3u

#define BIG_XATTR   "user.big"
#define SMALL_XATTR "user.small"
#define BIG_BYTES   3000u	/* a head and three parts */

struct bench {
	struct rig r;
	uint64_t dir, sub, data, twin, sym, fifo, tiny, attrs;	/* inode numbers */
	uint64_t found[FSCK_NCODES];
	struct fsck_result res;
};

/* --- building ---------------------------------------------------------------------------------- */

static inline uint64_t bench_make(struct bench *b, struct fs *fs, uint64_t parent, const char *name, uint32_t mode)
{
	const struct fs_cred cred = {.uid = 0, .gid = 0};
	struct fs_attr attr;

	assert_int_equal(fs_create(fs, b->r.q, &cred, parent, name, strlen(name), mode, 0, &attr), 0);
	fs_forget(fs, b->r.q, attr.ino, 1);
	return attr.ino;
}

static inline uint64_t bench_make_symlink(struct bench *b, struct fs *fs, uint64_t parent, const char *name)
{
	const struct fs_cred cred = {.uid = 0, .gid = 0};
	struct fs_attr attr;
	char target[1501];

	memset(target, 't', sizeof(target) - 1);
	target[sizeof(target) - 1] = '\0';
	assert_int_equal(fs_symlink(fs, b->r.q, &cred, parent, name, strlen(name), target, &attr), 0);
	fs_forget(fs, b->r.q, attr.ino, 1);
	return attr.ino;
}

static inline void bench_write(struct bench *b, struct fs *fs, uint64_t ino, size_t len)
{
	char *bytes = malloc(len);

	assert_non_null(bytes);
	memset(bytes, 'd', len);
	assert_int_equal(fs_pwrite(fs, b->r.q, ino, bytes, len, 0), len);
	free(bytes);
}

static inline void bench_fill(struct bench *b, struct fs *fs)
{
	static const char value[BIG_BYTES] = "value";
	struct fs_attr attr;
	char name[16];

	b->dir = bench_make(b, fs, INO_ROOT, "dir", S_IFDIR | 0755);
	b->sub = bench_make(b, fs, b->dir, "sub", S_IFDIR | 0755);
	b->data = bench_make(b, fs, b->dir, "data", S_IFREG | 0644);
	bench_write(b, fs, b->data, DATA_BLOCKS * BLOCK_SIZE);
	assert_int_equal(fs_fallocate(fs, b->r.q, b->data, FALLOC_FL_KEEP_SIZE, 8 * BLOCK_SIZE, 2 * BLOCK_SIZE), 0);
	b->twin = bench_make(b, fs, b->dir, "twin", S_IFREG | 0644);
	attr.size = DATA_BLOCKS * BLOCK_SIZE;
	assert_int_equal(fs_setattr(fs, b->r.q, b->twin, FS_SET_SIZE, &attr, &attr), 0);
	b->sym = bench_make_symlink(b, fs, b->dir, "sym");
	b->fifo = bench_make(b, fs, b->dir, "fifo", S_IFIFO | 0600);
	b->tiny = bench_make(b, fs, b->dir, "tiny", S_IFREG | 0644);
	bench_write(b, fs, b->tiny, 100);
	b->attrs = bench_make(b, fs, b->dir, "attrs", S_IFREG | 0644);
	assert_int_equal(fs_setxattr(fs, b->r.q, b->attrs, SMALL_XATTR, "x", 1, 0), 0);
	assert_int_equal(fs_setxattr(fs, b->r.q, b->attrs, BIG_XATTR, value, sizeof(value), 0), 0);
	assert_int_equal(fs_link(fs, b->r.q, b->attrs, b->sub, "again", 5, &attr), 0);
	fs_forget(fs, b->r.q, b->attrs, 1);
	for (unsigned i = 0; i < BENCH_FILES; i++) {
		snprintf(name, sizeof(name), "file%03u", i);
		bench_make(b, fs, INO_ROOT, name, S_IFREG | 0644);
	}
}

/* Closed when it returns: r.v is NULL. */
static inline void bench_create(struct bench *b)
{
	struct fs_config cfg = {0};
	struct fs *fs;

	memset(b, 0, sizeof(*b));
	rig_create(&b->r, BENCH_BYTES, BENCH_JOURNAL, 1);
	assert_int_equal(fs_open(b->r.v, b->r.q, &cfg, &fs), 0);
	bench_fill(b, fs);
	fs_close(fs, b->r.q);
	assert_int_equal(volume_close(b->r.v, b->r.q), 0);
	b->r.v = NULL;
}

static inline void bench_clone(struct bench *b, const struct bench *from)
{
	*b = *from;
	assert_int_equal(dev_sim_clone(from->r.dev, &b->r.dev), 0);
	b->r.q = rig_queue(b->r.dev);
}

static inline void bench_open(struct bench *b)
{
	assert_int_equal(volume_open(b->r.q, &b->r.cfg, &b->r.diag, &b->r.v), 0);
}

static inline void bench_close(struct bench *b)
{
	assert_int_equal(volume_close(b->r.v, b->r.q), 0);
	b->r.v = NULL;
}

/* --- items, through transactions; the volume is open ------------------------------------------- */

struct change {
	enum { CHANGE_PUT, CHANGE_DEL, CHANGE_ALLOC, CHANGE_FREE } what;
	struct key key;
	const void *val;
	unsigned len;
	uint64_t blkno;		/* FREE: which; ALLOC: out */
};

static inline int change_try(struct bench *b, struct change *ch, struct miss *miss)
{
	struct txn t;
	uint64_t n;
	int err = 0;

	txn_begin(&t, b->r.v);
	if (ch->what == CHANGE_PUT)
		txn_put(&t, &ch->key, ch->val, ch->len);
	else if (ch->what == CHANGE_DEL)
		txn_del(&t, &ch->key);
	else if (ch->what == CHANGE_ALLOC)
		err = txn_alloc(&t, alloc_at(0), 1, miss, &ch->blkno, &n);
	else
		txn_free(&t, ch->blkno, 1);
	if (!err)
		err = txn_commit(&t, b->r.q, 0, miss, NULL, NULL);
	txn_end(&t);
	return err;
}

static inline void change(struct bench *b, struct change *ch)
{
	struct miss miss;
	int err;

	do {
		miss = (struct miss){0};
		volume_lock(b->r.v);
		err = change_try(b, ch, &miss);
		volume_unlock(b->r.v);
		if (err == -EAGAIN)
			assert_int_equal(volume_provide(b->r.v, b->r.q, &miss), 0);
	} while (err == -EAGAIN);
	assert_int_equal(err, 0);
}

static inline void item_put(struct bench *b, struct key key, const void *val, unsigned len)
{
	change(b, &(struct change){.what = CHANGE_PUT, .key = key, .val = val, .len = len});
}

static inline void item_del(struct bench *b, struct key key)
{
	change(b, &(struct change){.what = CHANGE_DEL, .key = key});
}

static inline uint64_t block_alloc(struct bench *b)
{
	struct change ch = {.what = CHANGE_ALLOC};

	change(b, &ch);
	return ch.blkno;
}

/* The item must exist; MAX_ITEM bytes at `val`.  Returns its length. */
static inline unsigned item_get(struct bench *b, struct key key, void *val)
{
	const void *at;
	struct miss miss;
	unsigned len;
	int err;

	for (;;) {
		miss = (struct miss){0};
		volume_lock(b->r.v);
		err = tree_lookup(b->r.v->tree, &key, &miss, &at, &len);
		if (!err)
			memcpy(val, at, len);
		volume_unlock(b->r.v);
		if (err != -EAGAIN)
			break;
		assert_int_equal(volume_provide(b->r.v, b->r.q, &miss), 0);
	}
	assert_int_equal(err, 0);
	return len;
}

static inline struct disk_inode inode_read(struct bench *b, uint64_t ino)
{
	struct disk_inode di;
	uint8_t val[MAX_ITEM];

	assert_int_equal(item_get(b, key_make(ino, ITEM_INODE, 0), val), sizeof(di));
	memcpy(&di, val, sizeof(di));
	return di;
}

static inline void inode_write(struct bench *b, uint64_t ino, const struct disk_inode *di)
{
	item_put(b, key_make(ino, ITEM_INODE, 0), di, sizeof(*di));
}

/* Adds to an inode's counters. */
static inline void inode_add(struct bench *b, uint64_t ino, int size, int nlink, int nblocks)
{
	struct disk_inode di = inode_read(b, ino);

	di.size = put64(get64(di.size) + (uint64_t)(int64_t)size);
	di.nlink = put32(get32(di.nlink) + (uint32_t)nlink);
	di.nblocks = put64(get64(di.nblocks) + (uint64_t)(int64_t)nblocks);
	inode_write(b, ino, &di);
}

static inline struct key dirent_key(struct bench *b, uint64_t dir, const char *name)
{
	return key_make(dir, ITEM_DIRENT, dirent_offset(&b->r.v->sb, name, strlen(name)));
}

static inline void dirent_write(struct bench *b, uint64_t dir, const char *name, uint64_t ino, uint8_t ftype)
{
	struct disk_dirent de = {.ino = put64(ino), .ftype = ftype, .name_len = (uint8_t)strlen(name)};
	uint8_t val[sizeof(de) + MAX_NAME];

	memcpy(val, &de, sizeof(de));
	memcpy(val + sizeof(de), name, strlen(name));
	item_put(b, dirent_key(b, dir, name), val, (unsigned)(sizeof(de) + strlen(name)));
}

static inline void unwritten_put(struct bench *b, uint64_t ino, uint64_t file_block, uint64_t blkno, uint32_t n)
{
	struct disk_extent ex = {.blkno = put64(blkno), .nblocks = put32(n), .flags = put32(EXTENT_UNWRITTEN)};

	item_put(b, key_make(ino, ITEM_EXTENT, file_block), &ex, sizeof(ex));
}

/* First block of the data file. */
static inline uint64_t data_blkno(struct bench *b)
{
	struct disk_extent ex;
	uint8_t val[MAX_ITEM];

	item_get(b, key_make(b->data, ITEM_EXTENT, 0), val);
	memcpy(&ex, val, sizeof(ex));
	assert_int_equal(get32(ex.nblocks), DATA_BLOCKS);
	return get64(ex.blkno);
}

/* --- blocks, by hand; the volume is closed ----------------------------------------------------- */

static inline struct super bench_super(struct bench *b)
{
	struct super sb;

	assert_int_equal(volume_read_super(b->r.q, NULL, &sb), 0);
	return sb;
}

static inline void block_peek(struct bench *b, uint64_t blkno, void *block)
{
	dev_sim_peek(b->r.dev, blkno * BLOCK_SIZE, block, BLOCK_SIZE);
}

static inline void block_poke(struct bench *b, uint64_t blkno, const void *block)
{
	dev_sim_poke(b->r.dev, blkno * BLOCK_SIZE, block, BLOCK_SIZE);
}

static inline void block_flip(struct bench *b, uint64_t blkno)
{
	dev_sim_flip(b->r.dev, blkno * BLOCK_SIZE + 1000, 3);
}

static inline struct disk_root bench_root(struct bench *b)
{
	struct super sb = bench_super(b);
	struct disk_root root;

	assert_int_equal(volume_read_root(b->r.q, &sb, NULL, false, &root), 0);
	return root;
}

/* Seals, and writes both copies to where the header says. */
static inline uint32_t block_publish(struct bench *b, void *block)
{
	const struct disk_header *h = block;
	uint32_t csum = header_seal(block);

	for (unsigned i = 0; i < 2; i++)
		block_poke(b, get64(h->blkno[i]), block);
	return csum;
}

/* The tree's root node, which is one above the leaves. */
static inline void top_peek(struct bench *b, uint8_t *node)
{
	struct disk_root root = bench_root(b);

	assert_int_equal(root.tree_level, 1);
	block_peek(b, get64(root.tree.blkno[0]), node);
}

static inline void top_publish(struct bench *b, uint8_t *node)
{
	struct disk_root root = bench_root(b);

	root.tree.csum = put32(block_publish(b, node));
	block_publish(b, &root);
}

static inline uint8_t *top_value(uint8_t *node, unsigned i)
{
	const struct disk_node *n = (const struct disk_node *)node;

	assert_true(i < get16(n->nitems));
	return node + get16(n->slot[i].pos);
}

static inline struct disk_ptr leaf_ptr(struct bench *b, unsigned i)
{
	uint8_t node[BLOCK_SIZE] __attribute__((aligned(8)));
	struct disk_ptr ptr;

	top_peek(b, node);
	memcpy(&ptr, top_value(node, i), sizeof(ptr));
	return ptr;
}

/* Leaf `i` with a new content: the pointer to it and what is above are made to agree. */
static inline void leaf_publish(struct bench *b, unsigned i, void *leaf)
{
	uint8_t node[BLOCK_SIZE] __attribute__((aligned(8)));
	struct disk_ptr ptr = leaf_ptr(b, i);

	ptr.csum = put32(block_publish(b, leaf));
	top_peek(b, node);
	memcpy(top_value(node, i), &ptr, sizeof(ptr));
	top_publish(b, node);
}

/* --- checking ---------------------------------------------------------------------------------- */

static inline void bench_found(void *arg, const struct fsck_finding *f)
{
	struct bench *b = arg;

	b->found[f->code]++;
	assert_non_null(f->text);
	if (getenv("HOLDFAST_TEST_VERBOSE"))
		fprintf(stderr, "%s %s\n", fsck_code_info(f->code)->code, f->text);
}

static inline int bench_check(struct bench *b, bool data)
{
	struct fsck_opts opts = {.data = data, .try_replay = true, .found = bench_found, .arg = b, .diag = &b->r.diag};

	memset(b->found, 0, sizeof(b->found));
	return fsck_check(b->r.q, &opts, &b->res);
}

#endif
