/* SPDX-License-Identifier: Apache-2.0 */
/*
 * read.c - reads a file's contents: what is in memory is copied under the lock, the rest read from the device and verified.
 *
 * Always: what a read returns is what its step saw, in one moment.  A block that does not verify may have been changed under the
 * read (a checkpoint places newer content at its home): the step runs again, and only if it still finds the same block with
 * the same checksum is the block damaged.
 */
#include <stdlib.h>
#include <string.h>

#include "core/bug.h"
#include "core/crc32c.h"
#include "fs/data.h"

/* So much of what follows is read at a time, and verified while the rest is on its way. */
#define PIECE_BLOCKS 64u

enum rkind { R_ZERO, R_MEMORY, R_DEVICE };

struct rblock {
	uint64_t blkno;
	uint64_t bad_blkno;	/* what was read before and did not verify; 0: nothing */
	uint32_t csum, bad_csum;
	enum rkind kind;
};

/* Blocks that follow each other in the file and on the device. */
struct rrun {
	struct dev_io io;
	struct read *r;
	unsigned first, n;	/* in read.blk */
};

struct read {
	struct fs *fs;
	struct dev_queue *q;
	struct fs_io *io;
	uint64_t first;		/* file block */
	unsigned nblocks;	/* that the present run of the step is about */
	unsigned pending;
	unsigned epoch;
	int err;
	bool bad;		/* some block did not verify */
	size_t len;		/* bytes to be returned */
	struct provide provide;
	bool counted;
	struct rblock *blk;	/* in the same memory */
	struct rrun *run;	/* likewise */
};

static void read_go(struct read *r);

static void *block_buf(const struct read *r, unsigned i)
{
	return (uint8_t *)r->io->buf + ((size_t)i << BLOCK_SHIFT);
}

static void read_end(struct read *r, ssize_t result)
{
	struct fs_io *io = r->io;

	io->result = result < 0 ? fs_verdict(r->fs, (int)result) : result;
	if (result >= 0)
		io->data = (uint8_t *)io->buf + (io->off & (BLOCK_SIZE - 1));
	free(r);
	io->done(io);
}

/* --- the step ---------------------------------------------------------------------------------- */

static int map_block(struct read *r, unsigned i, uint64_t blkno, uint32_t csum)
{
	struct rblock *b = &r->blk[i];
	const void *staged = stage_get(r->fs->v->stage, blkno);

	b->blkno = blkno;
	b->csum = csum;
	b->kind = staged ? R_MEMORY : R_DEVICE;
	if (staged)
		memcpy(block_buf(r, i), staged, BLOCK_SIZE);
	else if (b->bad_blkno == blkno && b->bad_csum == csum)
		return file_damaged(r->fs, r->io->ino, r->first + i, blkno);
	return 0;
}

/* What an extent at file block `file` says about the blocks wanted. */
static int map_extent(struct read *r, uint64_t file, const void *val, unsigned len)
{
	struct extent e = extent_decode(file, val);
	uint64_t end = file + e.n, first = file > r->first ? file : r->first;
	int err = 0;

	if (!e.written)
		return 0;
	if (len != extent_item_len(&e))
		return inode_corrupt(r->fs, r->io->ino, "extent of a wrong length");
	if (end > r->first + r->nblocks)
		end = r->first + r->nblocks;
	for (uint64_t b = first; b < end && !err; b++)
		err = map_block(r, (unsigned)(b - r->first), extent_blkno(&e, b), extent_item_csum(val, b - file));
	return err;
}

/* The extent that starts at or before the first block.  *next: where to go on. */
static int map_first(struct read *r, struct miss *miss, uint64_t *next)
{
	struct key key = key_make(r->io->ino, ITEM_EXTENT, r->first), found;
	const void *val;
	unsigned len;
	int err = tree_seek_back(r->fs->v->tree, &key, miss, &found, &val, &len);

	*next = r->first;
	if (err)
		return err == -ENOENT ? 0 : err;
	if (found.object != r->io->ino || found.type != ITEM_EXTENT)
		return 0;
	struct extent e = extent_decode(found.offset, val);
	uint64_t end = e.file + e.n;
	if (end > *next)
		*next = end;
	return end > r->first ? map_extent(r, found.offset, val, len) : 0;
}

static int map_rest(struct read *r, uint64_t next, struct miss *miss)
{
	struct key key = key_make(r->io->ino, ITEM_EXTENT, next);
	uint64_t end = r->first + r->nblocks;
	struct tree *tree = r->fs->v->tree;
	struct tree_cursor c;
	int err;

	for (err = tree_first(tree, &c, &key, miss); !err; err = tree_next(tree, &c, miss)) {
		if (c.key.object != r->io->ino || c.key.type != ITEM_EXTENT || c.key.offset >= end)
			return 0;
		err = map_extent(r, c.key.offset, c.val, c.len);
		if (err)
			return err;
	}
	return err == -ENOENT ? 0 : err;
}

static int read_map(struct read *r, const struct disk_inode *di, struct miss *miss)
{
	uint64_t next;
	int err;

	for (unsigned i = 0; i < r->nblocks; i++)
		r->blk[i].kind = R_ZERO;
	if (get64(di->flags) & INODE_INLINE) {
		r->blk[0].kind = R_MEMORY;
		return inline_get(r->fs, r->io->ino, di, miss, r->io->buf);
	}
	if (!get64(di->nblocks))
		return 0;
	err = map_first(r, miss, &next);
	return err || next >= r->first + r->nblocks ? err : map_rest(r, next, miss);
}

static bool any_device(const struct read *r)
{
	for (unsigned i = 0; i < r->nblocks; i++) {
		if (r->blk[i].kind == R_DEVICE)
			return true;
	}
	return false;
}

static int read_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct read *r = arg;
	struct fs_io *io = r->io;
	struct disk_inode di;
	struct timespec now;
	bool due = false;
	int err = inode_get(fs, io->ino, miss, &di);

	if (!err)
		err = file_check(&di);
	if (err)
		return err;
	if (io->len && !io->no_atime) {
		fs_now(fs, &now);
		due = atime_due(fs, &di, &now);
	}
	/* Before all the work: it would have to be done again. */
	if (due && !volume_is_alone(fs->v))
		return -ENOLCK;
	uint64_t size = get64(di.size), len = io->len < FS_IO_MAX ? io->len : FS_IO_MAX;

	r->len = io->off >= size ? 0 : size - io->off < len ? (size_t)(size - io->off) : (size_t)len;
	r->nblocks = r->len ? (unsigned)(BLOCKS_OF(io->off + r->len) - r->first) : 0;
	if (r->len)
		err = read_map(r, &di, miss);
	if (!err && due)
		err = file_atime_set(fs, q, io->ino, &di, &now, miss);
	if (err)
		return err;
	if (!r->counted) {
		r->counted = true;
		tally_add(&fs->looked, FS_READS, 1);
		tally_add(&fs->looked, FS_READ_BYTES, r->len);
	}
	if (any_device(r))
		r->epoch = volume_read_begin(fs->v);
	return 0;
}

/* --- the device -------------------------------------------------------------------------------- */

/* Blocks that are not what their extents say are remembered. */
static void run_verify(const struct rrun *run)
{
	struct read *r = run->r;

	for (unsigned i = run->first; i < run->first + run->n; i++) {
		struct rblock *b = &r->blk[i];

		if (i + 1 < run->first + run->n)
			crc32c_prefetch(block_buf(r, i + 1), BLOCK_SIZE);
		if (BUG(DATA_NOT_VERIFIED) || crc32c(0, block_buf(r, i), BLOCK_SIZE) == b->csum)
			continue;
		b->bad_blkno = b->blkno;
		b->bad_csum = b->csum;
		r->bad = true;
	}
}

static void read_arrived(struct read *r)
{
	volume_read_end(r->fs->v, r->epoch);
	if (r->err) {
		if (!volume_is_shut(r->fs->v))
			diag(r->fs->v->diag, DIAG_ERR, "%s: inode %llu: data at byte %llu could not be read",
			     r->fs->v->dev->path, (unsigned long long)r->io->ino, (unsigned long long)r->io->off);
		read_end(r, -EIO);
	} else if (r->bad) {
		read_go(r);
	} else {
		read_end(r, (ssize_t)r->len);
	}
}

static void run_done(struct dev_io *io, int err)
{
	struct rrun *run = (struct rrun *)((char *)io - offsetof(struct rrun, io));
	struct read *r = run->r;

	if (err)
		r->err = err;
	else
		run_verify(run);
	if (--r->pending == 0)
		read_arrived(r);
}

/* Blocks from i on that one operation can read. */
static unsigned run_length(const struct read *r, unsigned i)
{
	unsigned n = 0;

	while (n < PIECE_BLOCKS && i + n < r->nblocks && r->blk[i + n].kind == R_DEVICE && r->blk[i + n].blkno == r->blk[i].blkno + n)
		n++;
	return n;
}

static unsigned runs_make(struct read *r)
{
	unsigned nruns = 0, n;

	for (unsigned i = 0; i < r->nblocks; i += n ? n : 1) {
		n = run_length(r, i);
		if (!n)
			continue;
		struct rrun *run = &r->run[nruns++];
		run->r = r;
		run->first = i;
		run->n = n;
		dev_io_rw(&run->io, DEV_READ, 0, r->blk[i].blkno << BLOCK_SHIFT, block_buf(r, i),
			  (uint64_t)n << BLOCK_SHIFT, run_done);
	}
	return nruns;
}

static void read_submit(struct read *r)
{
	unsigned nruns = runs_make(r);

	r->bad = false;
	r->pending = nruns;
	for (unsigned i = 0; i < nruns; i++)
		dev_submit(r->q, &r->run[i].io);
}

/* --- driving ----------------------------------------------------------------------------------- */

static void read_zero(struct read *r)
{
	for (unsigned i = 0; i < r->nblocks; i++) {
		if (r->blk[i].kind == R_ZERO)
			memset(block_buf(r, i), 0, BLOCK_SIZE);
	}
}

static void read_provided(struct provide *p, int err)
{
	struct read *r = (struct read *)((char *)p - offsetof(struct read, provide));

	if (err)
		read_end(r, err);
	else
		read_go(r);
}

static void read_go(struct read *r)
{
	struct miss miss;
	int err = fs_look_once(r->fs, r->q, read_step, r, &miss);

	if (err == -EAGAIN) {
		volume_provide_start(r->fs->v, r->q, &miss, &r->provide, read_provided);
		return;
	}
	if (err) {
		read_end(r, err);
		return;
	}
	read_zero(r);
	if (any_device(r))
		read_submit(r);
	else
		read_end(r, (ssize_t)r->len);
}

static int read_new(struct fs *fs, struct dev_queue *q, struct fs_io *io, struct read **out)
{
	uint64_t len = io->len < FS_IO_MAX ? io->len : FS_IO_MAX;
	uint64_t n = BLOCKS_OF((io->off & (BLOCK_SIZE - 1)) + len);
	size_t head = sizeof(struct read) + n * sizeof(struct rblock);
	struct read *r = malloc(head + n * sizeof(struct rrun));

	if (!r)
		return -ENOMEM;
	memset(r, 0, head);
	r->fs = fs;
	r->q = q;
	r->io = io;
	r->first = io->off >> BLOCK_SHIFT;
	r->blk = (struct rblock *)(r + 1);
	r->run = (struct rrun *)((char *)r + head);
	*out = r;
	return 0;
}

void fs_read(struct fs *fs, struct dev_queue *q, struct fs_io *io)
{
	struct read *r;
	int err = io->off > MAX_FILE_SIZE ? -EINVAL : read_new(fs, q, io, &r);

	if (err) {
		io->result = err;
		io->done(io);
		return;
	}
	read_go(r);
}

/* --- the same, waiting ------------------------------------------------------------------------- */

struct pread {
	struct fs_io io;
	struct dev_event done;
};

static void pread_done(struct fs_io *io)
{
	struct pread *p = (struct pread *)((char *)io - offsetof(struct pread, io));

	dev_event_set(&p->done);
}

ssize_t fs_pread(struct fs *fs, struct dev_queue *q, uint64_t ino, void *buf, size_t len, uint64_t off)
{
	auto_free void *room = dev_alloc(FS_READ_ROOM(len < FS_IO_MAX ? len : FS_IO_MAX), false);
	size_t done = 0;

	if (!room)
		return -ENOMEM;
	while (done < len) {
		struct pread p = {.io = {.ino = ino, .off = off + done, .buf = room, .done = pread_done}};

		p.io.len = len - done < FS_IO_MAX ? len - done : FS_IO_MAX;
		dev_event_init(&p.done, q);
		fs_read(fs, q, &p.io);
		volume_event_wait(fs->v, &p.done);
		if (p.io.result < 0)
			return done ? (ssize_t)done : p.io.result;
		if (p.io.result == 0)
			break;
		memcpy((uint8_t *)buf + done, p.io.data, (size_t)p.io.result);
		done += (size_t)p.io.result;
	}
	return (ssize_t)done;
}
