/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fallocate.c - reserves, zeroes and frees ranges of a file; finds data and holes in it.
 *
 * A range is worked through in windows, one bounded transaction each.  A new size comes with the last of them.
 *
 * Always: blocks that have held data never become unwritten where they are.  Data written straight to such a block could reach
 * it before the transaction that gave up the old content is durable, and a crash in between would leave neither.  So what
 * ZERO_RANGE zeroes gets other blocks, or, if there are none, zeros through the log.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/crc32c.h"
#include "fs/data.h"

/* Blocks of one window that allocates. */
#define WINDOW_BLOCKS (UINT64_C(64) << 20 >> BLOCK_SHIFT)
/* ... that zeroes through the log: each costs a page of memory until the next checkpoint. */
#define WINDOW_LOGGED 256u

/* --- small files ------------------------------------------------------------------------------- */

static bool grows(const struct falloc *f, const struct disk_inode *di)
{
	return !f->keep_size && f->end > get64(di->size);
}

/* What only removes may use the emergency reserve. */
static unsigned falloc_urgency(const struct falloc *f)
{
	return f->kind == FALLOC_PUNCH && f->keep_size ? TXN_URGENT : 0;
}

static int falloc_inline(struct fs *fs, struct dev_queue *q, struct falloc *f, struct disk_inode *di,
			 struct miss *miss)
{
	uint64_t size = get64(di->size), lsn;
	uint8_t buf[INLINE_MAX];
	struct txn t;
	int err = inline_get(fs, f->ino, di, miss, buf);

	if (err)
		return err;
	uint64_t end = f->end < size ? f->end : size;
	if (f->kind != FALLOC_RESERVE && f->off < end)
		memset(buf + f->off, 0, end - f->off);
	txn_begin(&t, fs->v);
	file_touch(fs, di);
	inline_put(&t, f->ino, di, buf, grows(f, di) ? f->end : size);
	inode_put(&t, f->ino, di);
	err = txn_commit(&t, q, falloc_urgency(f), miss, NULL, &lsn);
	txn_end(&t);
	if (err)
		return err;
	inode_changed(fs, f->ino, lsn, true);
	f->next = f->last;
	return 0;
}

/* --- one window of blocks ---------------------------------------------------------------------- */

/* Whole blocks of the range: a punched one may also reach over the end of the file. */
static uint64_t whole_first(const struct falloc *f)
{
	return BLOCKS_OF(f->off);
}

static uint64_t whole_end(const struct falloc *f, const struct disk_inode *di)
{
	return f->kind == FALLOC_PUNCH && f->end >= get64(di->size) ? BLOCKS_OF(f->end) : f->end >> BLOCK_SHIFT;
}

/* The range's part of block `block`, if that is partial and in the window. */
static int zero_edge(struct falloc *f, struct extmap *m, struct txn *t, unsigned which, uint64_t block, uint64_t end)
{
	uint64_t start = block << BLOCK_SHIFT;
	uint64_t from = f->off > start ? f->off - start : 0;
	uint64_t to = f->end - start < BLOCK_SIZE ? f->end - start : BLOCK_SIZE;

	if (block < f->next || block >= end)
		return 0;
	return zero_part(m, t, &f->base, which, block, (unsigned)from, (unsigned)(to - from));
}

static int zero_edges(struct falloc *f, const struct disk_inode *di, struct extmap *m, struct txn *t, uint64_t end)
{
	uint64_t first = f->off >> BLOCK_SHIFT, last = f->end >> BLOCK_SHIFT;
	int err = 0;

	if (first < whole_first(f))
		err = zero_edge(f, m, t, 0, first, end);
	if (!err && last >= whole_end(f, di) && f->end & (BLOCK_SIZE - 1) && (last > first || first == whole_first(f)))
		err = zero_edge(f, m, t, 1, last, end);
	return err;
}

/* What is allocated may go on where the file's blocks in front of it end. */
static struct alloc_place hole_place(struct extmap *m, uint64_t block)
{
	const struct extent *e = extmap_before(m, block);
	const struct inode *inode = inode_find(m->fs, m->ino);

	if (e && e->file + e->n == block)
		return (struct alloc_place){.goal = e->blkno + e->n, .owner = m->ino};
	return (struct alloc_place){.goal = inode ? inode->goal : 0, .owner = m->ino};
}

/* Unwritten blocks into the holes of [f->next, *end); *end becomes less if that is much work. */
static int fill_holes(struct falloc *f, struct extmap *m, struct txn *t, struct disk_inode *di, struct miss *miss,
		      uint64_t *end)
{
	unsigned nruns = 0;

	for (uint64_t block = f->next; block < *end;) {
		const struct extent *e = extmap_next(m, block);
		uint64_t blkno, n, bound = e && e->file < *end ? e->file : *end;

		if (e && e->file <= block) {
			block = e->file + e->n;
			continue;
		}
		if (nruns++ == STEP_ITEMS) {
			*end = block;
			return 0;
		}
		int err = txn_alloc(t, hole_place(m, block), bound - block, miss, &blkno, &n);
		if (err)
			return err;
		extmap_set(m, block, n, blkno, NULL);
		di->nblocks = put64(get64(di->nblocks) + n);
		block += n;
		if (m->err)
			return m->err;
	}
	return 0;
}

/* Written whole blocks of the window become holes (to be filled again), or zeros where they are. */
static int zero_written(struct falloc *f, struct extmap *m, struct txn *t, struct disk_inode *di, uint64_t first,
			uint64_t end)
{
	static const uint8_t zeros[BLOCK_SIZE];
	uint32_t csum = crc32c(0, zeros, BLOCK_SIZE);

	while (first < end) {
		const struct extent *e = extmap_next(m, first);

		if (!e || e->file >= end)
			break;
		uint64_t from = e->file > first ? e->file : first, to = e->file + e->n < end ? e->file + e->n : end;
		uint64_t blkno = extent_blkno(e, from);
		bool written = e->written;

		first = to;
		if (written && !f->in_place)
			di->nblocks = put64(get64(di->nblocks) - extmap_release(m, t, from, to));
		for (; written && f->in_place && from < to; from++, blkno++) {
			txn_data(t, blkno, 0, zeros, 8, true, NULL);
			extmap_set(m, from, 1, blkno, &csum);
		}
		if (m->err)
			return m->err;
	}
	return 0;
}

/* Changes the whole blocks of the window [f->next, *end). */
static int falloc_blocks(struct falloc *f, struct extmap *m, struct txn *t, struct disk_inode *di, struct miss *miss,
			 uint64_t *end)
{
	uint64_t first = whole_first(f), last = whole_end(f, di);
	int err = 0;

	if (first < f->next)
		first = f->next;
	if (last > *end)
		last = *end;
	if (f->kind == FALLOC_PUNCH && first < last) {
		uint64_t freed = extmap_release(m, t, first, last), had = get64(di->nblocks);

		di->nblocks = put64(freed < had ? had - freed : 0);
	} else if (f->kind == FALLOC_ZERO && first < last) {
		err = zero_written(f, m, t, di, first, last);
	}
	return err || f->kind == FALLOC_PUNCH ? err : fill_holes(f, m, t, di, miss, end);
}

static uint64_t window_end(const struct falloc *f)
{
	uint64_t max = f->in_place ? WINDOW_LOGGED : WINDOW_BLOCKS;

	return f->kind == FALLOC_PUNCH || f->last - f->next < max ? f->last : f->next + max;
}

static int falloc_record(struct falloc *f, struct extmap *m, struct txn *t, struct disk_inode *di, struct miss *miss,
			 uint64_t *end)
{
	int err = extmap_load(m, f->next, window_end(f), f->max, miss);

	*end = m->end;
	if (!err && f->kind != FALLOC_RESERVE)
		err = zero_edges(f, di, m, t, *end);
	if (!err)
		err = falloc_blocks(f, m, t, di, miss, end);
	return err ? err : extmap_emit(m, t);
}

static void falloc_inode(struct fs *fs, struct falloc *f, struct txn *t, struct disk_inode *di, uint64_t end)
{
	bool grow = end == f->last && grows(f, di);

	file_touch(fs, di);
	if (grow)
		di->size = put64(f->end);
	inode_put(t, f->ino, di);
}

static int falloc_window(struct fs *fs, struct dev_queue *q, struct falloc *f, struct disk_inode *di,
			 struct miss *miss)
{
	uint64_t end, lsn;
	struct extmap m;
	struct txn t;

	extmap_init(&m, fs, f->ino);
	txn_begin(&t, fs->v);
	int err = falloc_record(f, &m, &t, di, miss, &end);
	if (!err && f->prefix && end < f->last) {
		f->last = end;
		f->end = end << BLOCK_SHIFT;
	}
	if (!err) {
		falloc_inode(fs, f, &t, di, end);
		err = txn_commit(&t, q, falloc_urgency(f), miss, NULL, &lsn);
	}
	txn_end(&t);
	extmap_fini(&m);
	if (err == -ENOSPC && f->kind == FALLOC_ZERO && !f->in_place) {
		f->in_place = true;
		return -ERESTART;
	}
	if (err == -ENOSPC && falloc_urgency(f) && fewer_items(f->max)) {
		f->max = fewer_items(f->max);
		return -ERESTART;
	}
	if (err)
		return err;
	inode_changed(fs, f->ino, lsn, true);
	f->next = end;
	return 0;
}

/* --- the operation ----------------------------------------------------------------------------- */

/* Even if all that the file has lay in the range there would not be enough: fails before anything is allocated. */
static bool hopeless(struct fs *fs, const struct falloc *f, const struct disk_inode *di)
{
	uint64_t want = f->last - f->next, have = get64(di->nblocks);
	struct alloc_space s;

	if (f->kind == FALLOC_PUNCH || want <= have)
		return false;
	alloc_get_space(fs->v->alloc, &s);
	uint64_t room = s.nfree + s.npending, kept = s.reserved + s.emergency + s.cached;
	return want - have > (room > kept ? room - kept : 0);
}

int falloc_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct falloc *f = arg;
	struct disk_inode di;
	int err = volume_writable(fs->v);

	if (!err)
		err = inode_get(fs, f->ino, miss, &di);
	if (!err)
		err = file_check(&di);
	if (!err)
		err = f->kind == FALLOC_RESERVE ? flags_check_mutable(&di) : flags_check_free(&di);
	if (!err)
		err = truncate_pending(fs, q, f->ino, miss);
	if (err)
		return err;
	if (get64(di.flags) & INODE_INLINE) {
		if ((f->kind == FALLOC_PUNCH && !grows(f, &di)) || f->end <= INLINE_MAX)
			return falloc_inline(fs, q, f, &di, miss);
		err = inline_to_block(fs, q, f->ino, false, &di, miss);
		if (err)
			return err;
	}
	if (hopeless(fs, f, &di))
		return -ENOSPC;
	return falloc_window(fs, q, f, &di, miss);
}

void falloc_init_hole(struct falloc *f, uint64_t ino, uint64_t off, uint64_t end)
{
	*f = (struct falloc){
		.kind = FALLOC_PUNCH,
		.prefix = true,
		.max = STEP_ITEMS,
		.ino = ino,
		.off = off,
		.end = end,
		.next = off >> BLOCK_SHIFT,
		.last = BLOCKS_OF(end),
	};
}

static int falloc_mode(struct falloc *f, int mode)
{
	f->keep_size = mode & FALLOC_FL_KEEP_SIZE;
	switch (mode & ~FALLOC_FL_KEEP_SIZE) {
	case 0:
		f->kind = FALLOC_RESERVE;
		return 0;
	case FALLOC_FL_ZERO_RANGE:
		f->kind = FALLOC_ZERO;
		return 0;
	case FALLOC_FL_PUNCH_HOLE:
		f->kind = FALLOC_PUNCH;
		return f->keep_size ? 0 : -EOPNOTSUPP;
	default:
		return -EOPNOTSUPP;
	}
}

int fs_fallocate(struct fs *fs, struct dev_queue *q, uint64_t ino, int mode, uint64_t off, uint64_t len)
{
	struct falloc f = {.ino = ino, .off = off, .end = off + len, .max = STEP_ITEMS};
	int err = falloc_mode(&f, mode);

	if (err)
		return err;
	if (len == 0)
		return -EINVAL;
	if (off > MAX_FILE_SIZE || len > MAX_FILE_SIZE - off)
		return -EFBIG;
	f.next = off >> BLOCK_SHIFT;
	f.last = BLOCKS_OF(f.end);
	while (!err && f.next < f.last)
		err = data_run(fs, q, falloc_step, &f, &f.base);
	base_fini(&f.base);
	return err;
}

/* --- lseek ------------------------------------------------------------------------------------- */

/* Extents looked at in one step. */
#define SEEK_ITEMS 1000u

struct seek {
	uint64_t ino, off;
	uint64_t pos;		/* from off to here everything is of the other kind */
	uint64_t size;
	bool data;
};

/* True: found, at s->pos. */
static bool seek_extent(struct seek *s, uint64_t file, const void *val)
{
	struct extent e = extent_decode(file, val);
	uint64_t block = s->pos >> BLOCK_SHIFT, end = file + e.n;

	if (end <= block)
		return false;
	if (s->data ? e.written : file > block || !e.written) {
		if (s->data && file > block)
			s->pos = file << BLOCK_SHIFT;
		return true;
	}
	s->pos = end < FILE_BLOCKS ? end << BLOCK_SHIFT : MAX_FILE_SIZE;
	return false;
}

/* The key of the extent that holds s->pos, or else of the first that could be behind it. */
static int seek_start(struct fs *fs, const struct seek *s, struct miss *miss, struct key *start)
{
	struct key key = key_make(s->ino, ITEM_EXTENT, s->pos >> BLOCK_SHIFT), found;
	const void *val;
	unsigned len;
	int err = tree_seek_back(fs->v->tree, &key, miss, &found, &val, &len);

	*start = key;
	if (!err && found.object == s->ino && found.type == ITEM_EXTENT)
		*start = found;
	return err == -ENOENT ? 0 : err;
}

/* -ENOENT: no extent is left. */
static int seek_extents(struct fs *fs, struct seek *s, struct miss *miss)
{
	struct tree_cursor c;
	struct key start;
	unsigned n = 0;
	int err = seek_start(fs, s, miss, &start);

	if (err)
		return err;
	for (err = tree_first(fs->v->tree, &c, &start, miss); !err; err = tree_next(fs->v->tree, &c, miss)) {
		if (c.key.object != s->ino || c.key.type != ITEM_EXTENT || s->pos >= s->size)
			return -ENOENT;
		if (n++ == SEEK_ITEMS)
			return -ERESTART;
		if (seek_extent(s, c.key.offset, c.val))
			return 0;
	}
	return err;
}

static int seek_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct seek *s = arg;
	struct disk_inode di;
	int err = inode_get(fs, s->ino, miss, &di);

	(void)q;
	if (!err)
		err = file_check(&di);
	if (err)
		return err;
	s->size = get64(di.size);
	if (s->off >= s->size)
		return -ENXIO;
	if (get64(di.flags) & INODE_INLINE)
		err = s->data ? 0 : -ENOENT;
	else
		err = seek_extents(fs, s, miss);
	if (err && err != -ENOENT)
		return err;
	if (s->data)
		return err || s->pos >= s->size ? -ENXIO : 0;
	/* Behind the last extent is a hole; the end of the file counts as one. */
	if ((err && get64(di.flags) & INODE_INLINE) || s->pos > s->size)
		s->pos = s->size;
	return 0;
}

static int seek_check(uint64_t off, int whence)
{
	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	return off > MAX_FILE_SIZE ? -ENXIO : 0;
}

int fs_lseek(struct fs *fs, struct dev_queue *q, uint64_t ino, uint64_t off, int whence, uint64_t *out)
{
	struct seek s = {.ino = ino, .off = off, .pos = off, .data = whence == SEEK_DATA};
	int err = seek_check(off, whence);

	if (!err)
		err = data_run(fs, q, seek_step, &s, NULL);
	if (!err)
		*out = s.pos;
	return err;
}

/* --- the same, without waiting ----------------------------------------------------------------- */

struct look {
	struct data_task task;
	struct fs_seek *user;
	struct fs *fs;
	struct seek at, behind; /* the answer; the data behind a hole that it found */
};

static int look_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct look *l = arg;
	int err = seek_step(fs, q, &l->at, miss);

	if (err || l->at.data || l->at.pos >= l->at.size)
		return err;
	if (l->behind.pos < l->at.pos)
		l->behind.off = l->behind.pos = l->at.pos;
	err = seek_step(fs, q, &l->behind, miss);
	if (err == -ENXIO)
		l->behind.pos = l->at.size;
	return err == -ENXIO ? 0 : err;
}

static void look_done(struct data_task *task, int err)
{
	struct look *l = (struct look *)task;
	struct fs_seek *u = l->user;

	u->result = fs_verdict(l->fs, err);
	u->pos = l->at.pos;
	u->size = u->end = l->at.size;
	u->begin = err || l->at.data ? u->off : u->pos;
	if (!err && u->pos < u->size)
		u->end = l->at.data ? u->pos : l->behind.pos;
	free(l);
	u->done(u);
}

void fs_seek(struct fs *fs, struct dev_queue *q, struct fs_seek *s)
{
	int err = seek_check(s->off, s->whence);
	struct look *l = err ? NULL : calloc(1, sizeof(*l));

	if (!l) {
		s->result = err ? err : -ENOMEM;
		s->pos = s->begin = s->end = s->size = s->off;
		s->done(s);
		return;
	}
	l->user = s;
	l->fs = fs;
	l->task = (struct data_task){.step = look_step, .arg = l, .done = look_done};
	l->at = (struct seek){.ino = s->ino, .off = s->off, .pos = s->off, .data = s->whence == SEEK_DATA};
	l->behind = (struct seek){.ino = s->ino, .data = true};
	data_start(fs, q, &l->task);
}

/* --- bmap -------------------------------------------------------------------------------------- */

struct bmap {
	uint64_t ino, block, blkno;
};

static int bmap_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct bmap *b = arg;
	struct key key = key_make(b->ino, ITEM_EXTENT, b->block), found;
	struct disk_inode di;
	const void *val;
	unsigned len;
	int err = inode_get(fs, b->ino, miss, &di);

	(void)q;
	b->blkno = 0;
	if (!err)
		err = file_check(&di);
	if (err)
		return err;
	/* Behind the end are blocks that a truncation has not yet removed. */
	if (get64(di.flags) & INODE_INLINE || b->block >= BLOCKS_OF(get64(di.size)))
		return 0;
	err = tree_seek_back(fs->v->tree, &key, miss, &found, &val, &len);
	if (err)
		return err == -ENOENT ? 0 : err;
	if (found.object != b->ino || found.type != ITEM_EXTENT)
		return 0;

	struct extent e = extent_decode(found.offset, val);

	if (e.written && b->block - e.file < e.n)
		b->blkno = extent_blkno(&e, b->block);
	return 0;
}

int fs_bmap(struct fs *fs, struct dev_queue *q, uint64_t ino, uint64_t block, uint64_t *blkno)
{
	struct bmap b = {.ino = ino, .block = block};
	int err = fs_look(fs, q, bmap_step, &b);

	if (!err)
		*blkno = b.blkno;
	return err;
}
