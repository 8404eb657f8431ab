/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image_base.c - the volumes that inputs are edits of, made by the operations of fs/, and what is in them.
 *
 * They are the same in every process: clock, keys and the device's order are fixed.  (But for the wall clock in the roots, which
 * nothing depends on.)
 */
#include "tests/fuzz/image.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/fs.h"

#define BASE_BYTES   ((uint64_t)MIN_BLOCKS * BLOCK_SIZE)
#define BASE_JOURNAL MIN_JOURNAL
#define KB(n)	     ((uint64_t)(n) << 10)

struct maker {
	struct dev *dev;
	struct dev_queue *q;
	struct volume *v;
	struct fs *fs;
};

static void maker_clock(void *arg, struct timespec *now)
{
	(void)arg;
	*now = (struct timespec){.tv_sec = 1700000000};
}

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "cannot make the base volumes: %s\n", what);
	abort();
}

static void maker_open(struct maker *m, bool discard)
{
	struct volume_config cfg = {.flags = discard ? VOLUME_DISCARD : 0, .cache_bytes = KB(256)};
	struct fs_config fcfg = {.clock = maker_clock};

	must(volume_open(m->q, &cfg, NULL, &m->v) == 0, "volume_open");
	must(fs_open(m->v, m->q, &fcfg, &m->fs) == 0, "fs_open");
}

static void maker_begin(struct maker *m, uint64_t bytes)
{
	struct sim_config cfg = {.size = bytes, .sector = 4096, .seed = 1, .in_order = true};
	struct format_params p = {
		.nblocks = bytes >> BLOCK_SHIFT,
		.journal_nblocks = BASE_JOURNAL,
		.uuid = "0123456789abcde",
		.hash_key = "a secret of 16b",
		.label = "fuzz",
		.now_sec = 1700000000,
		.root_mode = 0755,
	};

	must(dev_sim_create(&cfg, NULL, &m->dev) == 0, "dev_sim_create");
	must(dev_queue_create(m->dev, &m->q) == 0, "dev_queue_create");
	must(volume_format(m->q, &p, NULL, NULL, NULL) == 0, "volume_format");
	maker_open(m, false);
}

static void maker_close(struct maker *m)
{
	fs_close(m->fs, m->q);
	must(volume_close(m->v, m->q) == 0, "volume_close");
}

/* A crash: the device goes on as a copy of what it is now, and the old one's end is not seen. */
static void maker_crash(struct maker *m)
{
	struct dev *copy;

	must(fs_sync(m->fs, m->q, 0, false) == 0, "fs_sync");
	must(dev_sim_clone(m->dev, &copy) == 0, "dev_sim_clone");
	maker_close(m);
	dev_queue_destroy(m->q);
	dev_close(m->dev);
	m->dev = copy;
	must(dev_queue_create(m->dev, &m->q) == 0, "dev_queue_create");
}

/* --- what is in them --------------------------------------------------------------------------- */

static uint64_t make(struct maker *m, uint64_t dir, const char *name, uint32_t mode)
{
	const struct fs_cred cred = {.uid = 1000, .gid = 100};
	struct fs_attr attr;

	must(fs_create(m->fs, m->q, &cred, dir, name, strlen(name), mode, 0, &attr) == 0, name);
	return attr.ino;
}

static void drop(struct maker *m, uint64_t ino)
{
	fs_forget(m->fs, m->q, ino, 1);
}

static void put(struct maker *m, uint64_t ino, uint64_t off, uint64_t len)
{
	uint8_t *buf = malloc(len);

	must(buf, "memory");
	for (uint64_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(1 + (ino * 7 + off + i) % 251);
	must(fs_pwrite(m->fs, m->q, ino, buf, len, off) == (ssize_t)len, "fs_pwrite");
	free(buf);
}

static void resize(struct maker *m, uint64_t ino, uint64_t size)
{
	struct fs_attr attr = {.size = size};

	must(fs_setattr(m->fs, m->q, ino, FS_SET_SIZE, &attr, &attr) == 0, "fs_setattr");
}

static void fill_names(struct maker *m, unsigned nfiles)
{
	const struct fs_cred cred = {.uid = 0, .gid = 0};
	static const char value[3000] = "value";
	uint64_t dir = make(m, INO_ROOT, "dir", S_IFDIR | 0755), sub = make(m, dir, "sub", S_IFDIR | 0700), ino;
	char name[64], target[1501];
	struct fs_attr attr;

	for (unsigned i = 0; i < nfiles; i++) {
		snprintf(name, sizeof(name), "file%03u", i);
		ino = make(m, i % 3 ? dir : INO_ROOT, name, S_IFREG | 0644);
		if (i % 4 == 0)
			put(m, ino, 0, 1 + i % 900);
		drop(m, ino);
	}
	drop(m, make(m, sub, "fifo", S_IFIFO | 0600));
	drop(m, make(m, sub, "chr", S_IFCHR | 0600));
	memset(target, 't', sizeof(target) - 1);
	target[sizeof(target) - 1] = '\0';
	must(fs_symlink(m->fs, m->q, &cred, dir, "long", 4, target, &attr) == 0, "fs_symlink");
	must(fs_symlink(m->fs, m->q, &cred, dir, "short", 5, "dir/sub", &attr) == 0, "fs_symlink");
	ino = make(m, dir, "attrs", S_IFREG | 0644);
	must(fs_setxattr(m->fs, m->q, ino, "user.small", "x", 1, 0) == 0, "fs_setxattr");
	must(fs_setxattr(m->fs, m->q, ino, "user.big", value, sizeof(value), 0) == 0, "fs_setxattr");
	must(fs_link(m->fs, m->q, ino, sub, "again", 5, &attr) == 0, "fs_link");
}

static void fill_data(struct maker *m)
{
	uint64_t dir = make(m, INO_ROOT, "data", S_IFDIR | 0755), ino;

	ino = make(m, dir, "plain", S_IFREG | 0644);
	put(m, ino, 0, KB(40));
	ino = make(m, dir, "sparse", S_IFREG | 0644);
	for (unsigned i = 0; i < 12; i++)
		put(m, ino, KB(8) * i * i, KB(4));
	ino = make(m, dir, "unwritten", S_IFREG | 0644);
	must(fs_fallocate(m->fs, m->q, ino, FALLOC_FL_KEEP_SIZE, KB(4), KB(60)) == 0, "fs_fallocate");
	put(m, ino, KB(16), KB(8));
	ino = make(m, dir, "patched", S_IFREG | 0644);
	put(m, ino, 0, KB(20));
	put(m, ino, 5000, 100);
	ino = make(m, dir, "empty", S_IFREG | 0644);
	ino = make(m, dir, "short", S_IFREG | 0644);
	put(m, ino, 0, 5001);
}

/* Every kind of operation behind the last checkpoint. */
static void fill_pending(struct maker *m)
{
	uint64_t ino;
	struct fs_attr attr;

	fill_names(m, 12);
	fill_data(m);
	must(volume_checkpoint(m->v, m->q, CHECKPOINT_FORCE) == 0, "volume_checkpoint");
	must(fs_lookup(m->fs, m->q, INO_ROOT, "data", 4, &attr) == 0, "lookup");
	uint64_t dir = attr.ino;

	must(fs_lookup(m->fs, m->q, dir, "plain", 5, &attr) == 0, "lookup");
	put(m, attr.ino, 100, 200);
	put(m, attr.ino, KB(4), KB(4));
	must(fs_sync(m->fs, m->q, 0, false) == 0, "fs_sync");
	must(fs_lookup(m->fs, m->q, dir, "sparse", 6, &attr) == 0, "lookup");
	resize(m, attr.ino, KB(9));
	ino = make(m, dir, "new", S_IFREG | 0644);
	put(m, ino, 0, KB(9));
	must(fs_setxattr(m->fs, m->q, ino, "user.new", "value", 5, 0) == 0, "fs_setxattr");
	must(fs_sync(m->fs, m->q, 0, false) == 0, "fs_sync");
	must(fs_rename(m->fs, m->q, NULL, dir, "new", 3, INO_ROOT, "moved", 5, 0) == 0, "fs_rename");
	must(fs_unlink(m->fs, m->q, dir, "patched", 7) == 0, "fs_unlink");
	drop(m, make(m, INO_ROOT, "inline", S_IFREG | 0600));
	must(fs_unlink(m->fs, m->q, INO_ROOT, "inline", 6) == 0, "fs_unlink");
}

/* Unlinked but open files, of which one has xattrs, and a truncation that is not finished. */
static void fill_orphans(struct maker *m)
{
	char name[16];

	for (unsigned i = 0; i < 5; i++) {
		snprintf(name, sizeof(name), "gone%u", i);
		uint64_t ino = make(m, INO_ROOT, name, S_IFREG | 0644);

		put(m, ino, 0, i < 2 ? 700 : KB(4) * i);
		if (i % 2)
			must(fs_setxattr(m->fs, m->q, ino, "user.a", "b", 1, 0) == 0, "fs_setxattr");
		must(fs_unlink(m->fs, m->q, INO_ROOT, name, strlen(name)) == 0, "fs_unlink");
	}
	uint64_t ino = make(m, INO_ROOT, "comb", S_IFREG | 0644);

	/* Extents that never join: more than one transaction truncates. */
	for (unsigned i = 0; i < 270; i++)
		must(fs_fallocate(m->fs, m->q, ino, 0, KB(8) * i, KB(4)) == 0, "fs_fallocate");
	resize(m, ino, KB(4));
	must(volume_checkpoint(m->v, m->q, CHECKPOINT_FORCE) == 0, "volume_checkpoint");
}

/* Three levels. */
static void fill_deep(struct maker *m)
{
	char name[16];

	for (unsigned i = 0; i < 240; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		uint64_t ino = make(m, INO_ROOT, name, S_IFREG | 0644);

		put(m, ino, 0, INLINE_MAX);
		drop(m, ino);
	}
}

/* --- looking into them ------------------------------------------------------------------------- */

static void *grown(void *array, unsigned n, size_t size)
{
	void *bigger = (n & (n - 1)) ? array : realloc(array, (n ? 2 * (size_t)n : 1) * size);

	must(bigger, "memory");
	return bigger;
}

static void base_add_item(struct base *b, const struct disk_node *p, unsigned i)
{
	const struct disk_slot *s = &p->slot[i];
	struct item it = {.key = slot_key(s), .len = get16(s->len), .val = (const uint8_t *)p + get16(s->pos)};
	struct disk_extent ex;

	b->item = grown(b->item, b->nitems, sizeof(*b->item));
	b->item[b->nitems++] = it;
	if (it.key.type != ITEM_EXTENT)
		return;
	memcpy(&ex, it.val, sizeof(ex));
	b->data = grown(b->data, b->ndata, sizeof(*b->data));
	b->data[b->ndata++] = get64(ex.blkno);
}

static void base_walk(struct base *b, const struct disk_ptr *ptr)
{
	struct disk_node *p = dev_alloc(BLOCK_SIZE, false);

	must(p, "memory");
	b->node = grown(b->node, b->nnodes, sizeof(*b->node));
	b->pages = grown(b->pages, b->nnodes, sizeof(*b->pages));
	b->pages[b->nnodes] = (uint8_t *)p;
	b->node[b->nnodes++] = *ptr;
	dev_sim_peek(b->dev, get64(ptr->blkno[0]) * BLOCK_SIZE, p, BLOCK_SIZE);
	for (unsigned i = 0; i < get16(p->nitems); i++) {
		if (p->level)
			base_walk(b, (const struct disk_ptr *)((const char *)p + get16(p->slot[i].pos)));
		else
			base_add_item(b, p, i);
	}
}

static void base_space(struct base *b)
{
	auto_free struct disk_bitmap *bm = dev_alloc(BLOCK_SIZE, false);
	auto_free struct disk_table *t = dev_alloc(BLOCK_SIZE, false);

	must(bm && t && b->sb.ngroups == 1, "memory");
	dev_sim_peek(b->dev, table_blkno(&b->sb, 0, b->root.table_slot[0] & 1, 0) * BLOCK_SIZE, t, BLOCK_SIZE);
	b->bitmap_slot = (get32(t->entry[0].info) & TABLE_SLOT) != 0;
	dev_sim_peek(b->dev, bitmap_blkno(&b->sb, 0, b->bitmap_slot, 0) * BLOCK_SIZE, bm, BLOCK_SIZE);
	for (uint64_t i = super_data_begin(&b->sb); i < super_data_end(&b->sb); i++) {
		if (bm->bits[i / 8] >> (i % 8) & 1)
			continue;
		b->free = grown(b->free, b->nfree, sizeof(*b->free));
		b->free[b->nfree++] = i;
	}
}

static void base_log(struct base *b, struct dev_queue *q)
{
	uint64_t lsn = get64(b->root.replay_lsn), applied = get64(b->root.applied_lsn);
	struct log_reader *r;
	const void *payload;
	uint32_t len;

	must(log_reader_open(q, &b->sb, lsn, &r) == 0, "log_reader_open");
	while (log_reader_next(r, &payload, &len, &lsn) == 0) {
		if (lsn <= applied)
			continue;
		b->frame = grown(b->frame, b->nframes, sizeof(*b->frame));
		b->frame[b->nframes++] = (struct frame_at){.lsn = lsn - len - FRAME_OVERHEAD, .len = len};
	}
	log_reader_close(r);
	b->log_end = (lsn + BLOCK_SIZE - 1) & ~(uint64_t)(BLOCK_SIZE - 1);
}

static void base_read(struct base *b, struct dev_queue *q)
{
	auto_free uint8_t *block = dev_alloc(BLOCK_SIZE, false);

	must(block && volume_read_super(q, NULL, &b->sb) == 0, "volume_read_super");
	must(volume_read_root(q, &b->sb, NULL, false, block) == 0, "volume_read_root");
	memcpy(&b->root, block, BLOCK_SIZE);
	base_walk(b, &b->root.tree);
	base_space(b);
	base_log(b, q);
}

static void base_make(struct base *b, unsigned n)
{
	struct maker m = {0};

	maker_begin(&m, n == BASE_DEEP ? 2 * BASE_BYTES : BASE_BYTES);
	if (n == BASE_NAMES)
		fill_names(&m, 60);
	if (n == BASE_DATA)
		fill_data(&m);
	if (n == BASE_PENDING)
		fill_pending(&m);
	if (n == BASE_ORPHANS)
		fill_orphans(&m);
	if (n == BASE_DEEP)
		fill_deep(&m);
	if (n == BASE_PENDING || n == BASE_ORPHANS)
		maker_crash(&m);
	else
		maker_close(&m);
	b->dev = m.dev;
	base_read(b, m.q);
	dev_queue_destroy(m.q);
}

const struct base *fuzz_base_get(unsigned n)
{
	static struct base bases[NBASES];
	struct base *b = &bases[n % NBASES];

	if (!b->dev)
		base_make(b, n % NBASES);
	return b;
}
