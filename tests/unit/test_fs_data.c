/* SPDX-License-Identifier: Apache-2.0 */
/* test_fs_data.c - contents of files: reading, writing, truncating, reserving, punching, seeking, against a model. */
#include "tests/unit/data_rig.h"

/* --- one thing at a time ----------------------------------------------------------------------- */

static void test_inline(void **state)
{
	struct data d;

	(void)state;
	data_create(&d, MB(32), 128, 0, 1);
	data_write(&d, 0, 0, 100, false);
	assert_int_equal(data_blocks(&d, 0), 0);
	data_write(&d, 0, 900, 124, false);
	assert_int_equal(data_attr(&d, 0).size, 1024);
	assert_int_equal(data_blocks(&d, 0), 0);
	data_check(&d);
	data_truncate(&d, 0, 50);
	data_truncate(&d, 0, 1000);
	data_check(&d);
	/* One byte more than fits. */
	data_write(&d, 0, 1024, 1, false);
	assert_int_equal(data_blocks(&d, 0), 1);
	data_check(&d);
	data_reopen(&d);
	data_check(&d);
	data_truncate(&d, 0, 0);
	assert_int_equal(data_blocks(&d, 0), 0);
	data_write(&d, 0, 10, 10, false);
	assert_int_equal(data_blocks(&d, 0), 0);
	/* Growing over the limit, and writing far away, moves them to a block. */
	data_truncate(&d, 0, 5000);
	assert_int_equal(data_blocks(&d, 0), 1);
	data_write(&d, 1, 3, 500, false);
	data_write(&d, 1, FAR + 17, 4000, false);
	assert_int_equal(data_blocks(&d, 1), 2);
	data_check(&d);
	data_destroy(&d);
}

static void test_errors(void **state)
{
	uint8_t buf[8] = {0};
	struct data d;
	uint64_t pos;

	(void)state;
	data_create(&d, MB(32), 128, 0, 1);
	assert_int_equal(fs_pwrite(d.fs, d.q, INO_ROOT, buf, 8, 0), -EISDIR);
	assert_int_equal(fs_pread(d.fs, d.q, INO_ROOT, buf, 8, 0), -EISDIR);
	assert_int_equal(fs_pwrite(d.fs, d.q, 9999, buf, 8, 0), -ESTALE);
	assert_int_equal(fs_pwrite(d.fs, d.q, d.ino[0], buf, 8, MAX_FILE_SIZE - 7), -EFBIG);
	assert_int_equal(fs_pwrite(d.fs, d.q, d.ino[0], buf, 7, MAX_FILE_SIZE - 7), 7);
	assert_int_equal(data_attr(&d, 0).size, MAX_FILE_SIZE);
	assert_int_equal(fs_pread(d.fs, d.q, d.ino[0], buf, 8, MAX_FILE_SIZE - 7), 7);
	assert_int_equal(data_set_size(&d, 0, MAX_FILE_SIZE + 1), -EFBIG);
	assert_int_equal(data_set_size(&d, 0, 0), 0);
	assert_int_equal(fs_pwrite(d.fs, d.q, d.ino[0], buf, 0, 100), 0);
	assert_int_equal(data_attr(&d, 0).size, 0);
	assert_int_equal(fs_pread(d.fs, d.q, d.ino[0], buf, 8, 0), 0);
	assert_int_equal(data_fallocate(&d, 0, 0, 0, 0), -EINVAL);
	assert_int_equal(data_fallocate(&d, 0, FALLOC_FL_PUNCH_HOLE, 0, 1), -EOPNOTSUPP);
	assert_int_equal(data_fallocate(&d, 0, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), -EOPNOTSUPP);
	assert_int_equal(data_fallocate(&d, 0, 0, MAX_FILE_SIZE, 1), -EFBIG);
	assert_int_equal(data_fallocate(&d, 0, 0, 0, MB(64)), -ENOSPC);
	assert_int_equal(data_blocks(&d, 0), 0);
	assert_int_equal(fs_lseek(d.fs, d.q, d.ino[0], 0, SEEK_DATA, &pos), -ENXIO);
	assert_int_equal(fs_lseek(d.fs, d.q, d.ino[0], 0, SEEK_SET, &pos), -EINVAL);
	data_check(&d);
	data_destroy(&d);
}

/* Sequential writes make long extents, whose records stay small. */
static void test_append(void **state)
{
	struct log_stats before, after;
	struct data d;

	(void)state;
	data_create(&d, MB(32), 512, 0, 1);
	for (unsigned i = 0; i < 64; i++)
		data_write(&d, 0, i * KB(32), KB(32), true);
	assert_int_equal(data_walk(&d, 0, 0).extents, 2);
	log_get_stats(d.r.v->log, &before);
	data_write(&d, 0, MB(2), KB(20), true);
	data_write(&d, 0, MB(2) + KB(20), KB(20), true);
	log_get_stats(d.r.v->log, &after);
	assert_true(after.append_bytes - before.append_bytes < 2 * 360);
	/* Little data goes through the log, and making it durable takes no flush. */
	assert_int_equal(fs_sync(d.fs, d.q, d.ino[0], true), 0);
	log_get_stats(d.r.v->log, &before);
	data_write(&d, 0, MB(2) + KB(40), KB(16), true);
	assert_int_equal(fs_sync(d.fs, d.q, d.ino[0], true), 0);
	log_get_stats(d.r.v->log, &after);
	assert_true(after.append_bytes - before.append_bytes > KB(16));
	assert_int_equal(after.groups, before.groups + 1);
	assert_int_equal(after.flushes, before.flushes);
	data_check(&d);
	/* A small overwrite costs its bytes and little more, and moves nothing. */
	uint64_t blkno = data_walk(&d, 0, 100).blkno;
	log_get_stats(d.r.v->log, &before);
	data_write(&d, 0, 100 * KB(4) + 100, 512, true);
	log_get_stats(d.r.v->log, &after);
	assert_true(after.append_bytes - before.append_bytes < 512 + 320);
	assert_int_equal(data_walk(&d, 0, 100).blkno, blkno);
	/* A large one moves its whole blocks. */
	data_write(&d, 0, KB(100), KB(400), true);
	assert_int_not_equal(data_walk(&d, 0, 100).blkno, blkno);
	data_check(&d);
	data_reopen(&d);
	data_check(&d);
	data_destroy(&d);
}

/* What was just written is read from memory while it is on its way, and from the device afterwards. */
static void test_in_flight(void **state)
{
	struct dev_stats before, after;
	struct data d;

	(void)state;
	data_create(&d, MB(32), 512, 0, 1);
	data_write(&d, 0, 100, MB(1) - 1000, true);
	assert_int_equal(d.unreleased, 1);
	assert_true(data_stats(&d).flight_bytes > 0);
	dev_get_stats(d.r.dev, &before);
	assert_true(data_same(&d, &d.m[0], 0, 0, MB(1)));
	dev_get_stats(d.r.dev, &after);
	assert_int_equal(after.reads, before.reads);
	/* Overwriting in flight: in place through the log, and to other blocks. */
	data_write(&d, 0, KB(40) + 5, 3000, true);
	data_write(&d, 0, KB(200), KB(300), true);
	data_truncate(&d, 0, KB(800) + 1);
	assert_true(data_same(&d, &d.m[0], 0, 0, MB(1)));
	assert_int_equal(fs_sync(d.fs, d.q, d.ino[0], true), 0);
	assert_int_equal(d.unreleased, 0);
	assert_int_equal(data_stats(&d).flight_bytes, 0);
	data_checkpoint(&d);
	dev_get_stats(d.r.dev, &before);
	data_check(&d);
	dev_get_stats(d.r.dev, &after);
	assert_true(after.reads > before.reads);
	data_destroy(&d);
}

struct seek_wait {
	struct fs_seek s; /* first */
	struct dev_event done;
};

static void seek_done(struct fs_seek *s)
{
	dev_event_set(&((struct seek_wait *)s)->done);
}

/* fs_seek(), and that fs_lseek() says the same. */
static struct fs_seek seek_hole(struct data *d, unsigned f, uint64_t off, int whence)
{
	struct seek_wait w = {.s = {.ino = d->ino[f], .off = off, .whence = whence, .done = seek_done}};
	uint64_t pos = 0;

	dev_event_init(&w.done, d->q);
	fs_seek(d->fs, d->q, &w.s);
	dev_event_wait(&w.done);
	assert_int_equal(fs_lseek(d->fs, d->q, d->ino[f], off, whence, &pos), w.s.result);
	if (!w.s.result)
		assert_int_equal(w.s.pos, pos);
	return w.s;
}

static uint64_t seek(struct data *d, unsigned f, uint64_t off, int whence)
{
	struct fs_seek s = seek_hole(d, f, off, whence);

	assert_true(s.result == 0 || s.result == -ENXIO);
	return s.result ? UINT64_MAX : s.pos;
}

static void seek_says(struct data *d, uint64_t off, int whence, uint64_t begin, uint64_t end)
{
	struct fs_seek s = seek_hole(d, 1, off, whence);

	assert_int_equal(s.begin, begin);
	assert_int_equal(s.end, end);
	assert_int_equal(s.size, data_attr(d, 1).size);
}

static void test_seek(void **state)
{
	struct data d;

	(void)state;
	data_create(&d, MB(32), 512, 0, 1);
	data_write(&d, 0, 5, 100, false);
	assert_int_equal(seek(&d, 0, 50, SEEK_DATA), 50);
	assert_int_equal(seek(&d, 0, 50, SEEK_HOLE), 105);
	assert_int_equal(seek(&d, 0, 105, SEEK_HOLE), UINT64_MAX);
	data_write(&d, 1, KB(40) + 100, KB(20), false);
	assert_int_equal(seek(&d, 1, 0, SEEK_DATA), KB(40));
	assert_int_equal(seek(&d, 1, KB(41), SEEK_DATA), KB(41));
	assert_int_equal(seek(&d, 1, 10, SEEK_HOLE), 10);
	assert_int_equal(seek(&d, 1, KB(40), SEEK_HOLE), KB(60) + 100);
	assert_int_equal(data_fallocate(&d, 1, 0, KB(64), KB(64)), 0);
	model_truncate(&d.m[1], KB(128));
	assert_int_equal(seek(&d, 1, KB(40), SEEK_HOLE), KB(64));
	assert_int_equal(seek(&d, 1, KB(64), SEEK_DATA), UINT64_MAX);
	data_write(&d, 1, KB(80), KB(8), true);
	assert_int_equal(seek(&d, 1, KB(64), SEEK_DATA), KB(80));
	assert_int_equal(seek(&d, 1, KB(80), SEEK_HOLE), KB(88));
	data_truncate(&d, 1, KB(84));
	assert_int_equal(seek(&d, 1, KB(80), SEEK_HOLE), KB(84));
	data_write(&d, 1, FAR, 10, true);
	assert_int_equal(seek(&d, 1, KB(100), SEEK_DATA), FAR);
	/* The holes that the answers speak of. */
	seek_says(&d, 10, SEEK_DATA, 10, KB(40));
	seek_says(&d, KB(41), SEEK_DATA, KB(41), KB(41));
	seek_says(&d, 10, SEEK_HOLE, 10, KB(40));
	seek_says(&d, KB(40), SEEK_HOLE, KB(64), KB(80));
	seek_says(&d, KB(80), SEEK_HOLE, KB(84), FAR);
	seek_says(&d, FAR, SEEK_HOLE, FAR + 10, FAR + 10);
	seek_says(&d, FAR + 10, SEEK_DATA, FAR + 10, FAR + 10);
	data_truncate(&d, 1, FAR + MB(1));
	seek_says(&d, FAR, SEEK_HOLE, FAR / KB(4) * KB(4) + KB(4), FAR + MB(1));
	seek_says(&d, FAR + KB(8), SEEK_DATA, FAR + KB(8), FAR + MB(1));
	data_check(&d);
	data_destroy(&d);
}

static uint64_t bmap(struct data *d, unsigned f, uint64_t block)
{
	uint64_t blkno = 1;

	assert_int_equal(fs_bmap(d->fs, d->q, d->ino[f], block, &blkno), 0);
	return blkno;
}

/* When all is home: each block that is told holds what the file has there, and of what is not told it has zeros.  How many are told. */
static unsigned bmap_check(struct data *d, unsigned f)
{
	uint8_t block[BLOCK_SIZE];
	unsigned told = 0;

	assert_int_equal(fs_sync(d->fs, d->q, 0, false), 0);
	data_checkpoint(d);
	for (uint64_t at = 0; at < 2 * WINDOW; at += BLOCK_SIZE) {
		uint64_t off = at < WINDOW ? at : FAR + at - WINDOW, blkno = bmap(d, f, off / BLOCK_SIZE);

		memset(block, 0, sizeof(block));
		assert_true(blkno == 0 || off < d->m[f].size);
		if (blkno)
			dev_sim_peek(d->r.dev, blkno * BLOCK_SIZE, block, BLOCK_SIZE);
		assert_memory_equal(block, model_at(&d->m[f], off, BLOCK_SIZE), BLOCK_SIZE);
		told += blkno != 0;
	}
	return told;
}

static void test_bmap(void **state)
{
	uint64_t blkno = 5;
	struct data d;

	(void)state;
	data_create(&d, MB(32), 512, 0, 1);
	/* Nothing, and what is kept with the inode. */
	assert_int_equal(bmap(&d, 0, 0), 0);
	data_write(&d, 0, 5, 100, false);
	assert_int_equal(bmap(&d, 0, 0), 0);
	data_write(&d, 0, KB(8) + 5, 100, false);
	assert_int_equal(bmap_check(&d, 0), 2);
	/* Told before it is on the device, and it stays there. */
	data_write(&d, 1, KB(40) + 100, KB(20), true);
	blkno = bmap(&d, 1, 11);
	assert_int_equal(blkno, data_walk(&d, 1, 11).blkno);
	assert_int_equal(bmap_check(&d, 1), 6);
	assert_int_equal(bmap(&d, 1, 11), blkno);
	/* A change goes there, too, but in the journal first; much of it goes elsewhere. */
	data_write(&d, 1, KB(45), 10, true);
	assert_int_equal(bmap(&d, 1, 11), blkno);
	assert_int_equal(bmap_check(&d, 1), 6);
	data_write(&d, 1, 0, KB(200), true);
	assert_int_equal(bmap_check(&d, 1), 50);
	blkno = bmap(&d, 1, 11);
	data_write(&d, 1, 0, KB(200), true);
	assert_int_not_equal(bmap(&d, 1, 11), blkno);
	/* Reserved is not written, before the end and behind it. */
	assert_int_equal(data_fallocate(&d, 1, 0, KB(200), KB(100)), 0);
	model_truncate(&d.m[1], KB(300));
	assert_int_equal(data_fallocate(&d, 1, FALLOC_FL_KEEP_SIZE, KB(300), KB(100)), 0);
	data_write(&d, 1, KB(248), KB(4), true);
	assert_int_equal(bmap_check(&d, 1), 51);
	assert_int_equal(data_fallocate(&d, 1, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, KB(40), KB(8)), 0);
	model_zero(&d.m[1], KB(40), KB(8));
	data_write(&d, 1, FAR + 1, 1, true);
	assert_int_equal(bmap_check(&d, 1), 50);
	data_truncate(&d, 1, KB(100) + 1);
	assert_int_equal(bmap_check(&d, 1), 24);
	/* Another file's blocks, in the tree before ours and behind. */
	assert_int_equal(bmap_check(&d, 2), 0);
	data_write(&d, 2, KB(100), KB(4), true);
	assert_int_equal(bmap_check(&d, 2), 1);
	/* No block of any file, and no file. */
	blkno = 5;
	assert_int_equal(bmap(&d, 1, UINT64_MAX), 0);
	assert_int_equal(bmap(&d, 1, UINT64_MAX >> BLOCK_SHIFT), 0);
	assert_int_equal(fs_bmap(d.fs, d.q, INO_ROOT, 0, &blkno), -EISDIR);
	assert_int_equal(fs_bmap(d.fs, d.q, d.ino[2] + 1, 0, &blkno), -ESTALE);
	assert_int_equal(blkno, 5);
	data_reopen(&d);
	assert_int_equal(bmap_check(&d, 1), 24);
	data_check(&d);
	data_destroy(&d);
}

static void test_fallocate(void **state)
{
	int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	struct data d;

	(void)state;
	data_create(&d, MB(64), 512, 0, 1);
	/* Reserving: size and blocks, and writes do not need more. */
	assert_int_equal(data_fallocate(&d, 0, FALLOC_FL_KEEP_SIZE, 0, MB(1)), 0);
	assert_int_equal(data_attr(&d, 0).size, 0);
	assert_int_equal(data_blocks(&d, 0), MB(1) / BLOCK_SIZE);
	assert_int_equal(data_fallocate(&d, 0, 0, KB(512), MB(1)), 0);
	model_truncate(&d.m[0], KB(512) + MB(1));
	assert_int_equal(data_blocks(&d, 0), (KB(512) + MB(1)) / BLOCK_SIZE);
	data_check(&d);
	uint64_t blkno = data_walk(&d, 0, 30).blkno;
	data_write(&d, 0, KB(100) + 3, KB(600), true);
	assert_int_equal(data_walk(&d, 0, 30).blkno, blkno);
	assert_int_equal(data_blocks(&d, 0), (KB(512) + MB(1)) / BLOCK_SIZE);
	data_check(&d);
	/* Punching: edges zeroed, the rest freed. */
	assert_int_equal(data_fallocate(&d, 0, punch, KB(200) + 9, KB(100)), 0);
	model_zero(&d.m[0], KB(200) + 9, KB(100));
	assert_int_equal(data_blocks(&d, 0), (KB(512) + MB(1) - KB(96)) / BLOCK_SIZE);
	data_check(&d);
	/* Zeroing: the range stays allocated, in blocks that never held data. */
	blkno = data_walk(&d, 0, 100).blkno;
	assert_int_equal(data_fallocate(&d, 0, FALLOC_FL_ZERO_RANGE, KB(150) + 1, KB(400)), 0);
	model_zero(&d.m[0], KB(150) + 1, KB(400));
	assert_int_equal(data_blocks(&d, 0), (KB(512) + MB(1)) / BLOCK_SIZE);
	assert_int_not_equal(data_walk(&d, 0, 100).blkno, blkno);
	data_check(&d);
	assert_int_equal(data_fallocate(&d, 0, FALLOC_FL_ZERO_RANGE, MB(1), MB(1)), 0);
	model_truncate(&d.m[0], MB(2));
	data_check(&d);
	data_reopen(&d);
	data_check(&d);
	/* Punching over the end takes the last block whole. */
	assert_int_equal(data_fallocate(&d, 0, punch, 0, MB(3)), 0);
	model_zero(&d.m[0], 0, MB(2));
	assert_int_equal(data_blocks(&d, 0), 0);
	data_check(&d);
	data_destroy(&d);
}

static void test_times(void **state)
{
	struct fs_attr a, b;
	struct data d;

	(void)state;
	data_create(&d, MB(32), 512, 0, 1);
	data_write(&d, 0, 0, 10, false);
	a = data_attr(&d, 0);
	assert_int_equal(a.mtime.tv_sec, a.ctime.tv_sec);
	/* relatime: the first read after a change, and no second one. */
	assert_true(data_same(&d, &d.m[0], 0, 0, 10));
	b = data_attr(&d, 0);
	assert_true(b.atime.tv_sec > a.atime.tv_sec);
	assert_int_equal(b.ctime.tv_sec, a.ctime.tv_sec);
	assert_true(data_same(&d, &d.m[0], 0, 0, 10));
	a = data_attr(&d, 0);
	assert_int_equal(b.atime.tv_sec, a.atime.tv_sec);
	assert_int_equal(data_fallocate(&d, 0, FALLOC_FL_KEEP_SIZE, 0, KB(64)), 0);
	b = data_attr(&d, 0);
	assert_true(b.mtime.tv_sec > a.mtime.tv_sec);
	assert_true(b.ctime.tv_sec > a.ctime.tv_sec);
	data_truncate(&d, 0, 5);
	a = data_attr(&d, 0);
	assert_true(a.mtime.tv_sec > b.mtime.tv_sec);
	data_destroy(&d);
}

struct killing {
	struct fs_io io;
	struct dev_event done;
};

static void killing_done(struct fs_io *io)
{
	dev_event_set(&((struct killing *)io)->done);
}

/* A write that takes setuid away says so, also if it took several runs, of which one had committed the mode with the inline contents. */
static void test_kill_priv(void **state)
{
	uint8_t *buf = calloc(1, KB(64));
	struct data d;

	(void)state;
	data_create(&d, MB(32), 512, 0, 1);
	for (uint64_t len = 10; len <= KB(64); len += KB(32)) {
		for (uint32_t mode = 0; mode <= S_ISUID; mode += S_ISUID) {
			struct fs_attr attr = {.mode = 0711 | mode};
			struct killing k = {.io = {.ino = d.ino[0], .off = 0, .len = len, .buf = buf, .kill_priv = true, .done = killing_done}};

			data_truncate(&d, 0, 0);
			data_write(&d, 0, 0, 100, false);
			assert_int_equal(fs_setattr(d.fs, d.q, d.ino[0], FS_SET_MODE, &attr, &attr), 0);
			dev_event_init(&k.done, d.q);
			fs_write(d.fs, d.q, &k.io);
			volume_event_wait(d.r.v, &k.done);
			assert_int_equal(k.io.result, len);
			assert_int_equal(k.io.killed, mode != 0);
			assert_int_equal(fs_getattr(d.fs, d.q, d.ino[0], &attr), 0);
			assert_int_equal(attr.mode, S_IFREG | 0711);
		}
	}
	data_destroy(&d);
	free(buf);
}

/* An fsync of what is durable costs nothing; fdatasync does not wait for timestamps. */
static void test_sync(void **state)
{
	struct log_stats before, after;
	struct fs_attr attr = {.atime = {.tv_sec = 5}};
	struct data d;

	(void)state;
	data_create(&d, MB(32), 512, 0, 1);
	data_write(&d, 0, 0, KB(100), true);
	data_write(&d, 1, 0, 10, true);
	assert_int_equal(fs_sync(d.fs, d.q, d.ino[0], false), 0);
	log_get_stats(d.r.v->log, &before);
	assert_int_equal(fs_sync(d.fs, d.q, d.ino[0], false), 0);
	assert_int_equal(fs_setattr(d.fs, d.q, d.ino[0], FS_SET_ATIME, &attr, &attr), 0);
	assert_int_equal(fs_sync(d.fs, d.q, d.ino[0], true), 0);
	log_get_stats(d.r.v->log, &after);
	assert_int_equal(after.groups, before.groups);
	assert_int_equal(fs_sync(d.fs, d.q, d.ino[0], false), 0);
	log_get_stats(d.r.v->log, &after);
	assert_int_equal(after.groups, before.groups + 1);
	data_write(&d, 1, 0, 10, true);
	assert_int_equal(fs_sync(d.fs, d.q, 0, false), 0);
	assert_int_equal(log_durable_lsn(d.r.v->log), log_append_lsn(d.r.v->log));
	data_crash(&d, 3);
	data_check(&d);
	data_destroy(&d);
}

/* More extents than one transaction removes. */
static void test_truncate_many(void **state)
{
	struct data d;

	(void)state;
	data_create(&d, MB(32), 128, KB(64), 1);
	for (unsigned i = 0; i < 370; i++)
		data_write(&d, 0, i * KB(8), KB(4), true);
	for (unsigned i = 0; i < 350; i++)
		data_write(&d, 0, FAR + i * KB(8), KB(4), true);
	for (unsigned i = 0; i < 350; i++)
		data_write(&d, 0, FAR + i * KB(8) + KB(4), 1, true);
	assert_true(data_walk(&d, 0, 0).extents > 700);
	data_check(&d);
	data_truncate(&d, 0, KB(8) + 100);
	assert_int_equal(data_blocks(&d, 0), 2);
	assert_int_equal(data_walk(&d, 0, 0).extents, 2);
	data_truncate(&d, 0, MB(1));
	data_check(&d);
	data_destroy(&d);
}

/* What the first transaction of a truncation to one block leaves behind. */
static int begin_truncation(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	uint64_t ino = *(uint64_t *)arg;
	struct disk_inode di;
	struct txn t;
	int err = inode_get(fs, ino, miss, &di);

	if (err)
		return err;
	txn_begin(&t, fs->v);
	di.size = put64(BLOCK_SIZE);
	inode_put(&t, ino, &di);
	orphan_put(&t, ino);
	err = txn_commit(&t, q, 0, miss, NULL, NULL);
	txn_end(&t);
	if (!err)
		inode_find(fs, ino)->trimming = true;
	return err;
}

/* An unfinished truncation is finished before anything can move the end over it: by the mount after a crash, or at the latest by
 * the write itself. */
static void test_truncate_interrupted(void **state)
{
	struct data d;

	(void)state;
	data_create(&d, MB(32), 128, KB(64), 1);
	for (unsigned f = 0; f < 3; f++) {
		for (unsigned i = 0; i < 300; i++)
			data_write(&d, f, i * KB(8), KB(4), true);
		assert_int_equal(fs_run(d.fs, d.q, begin_truncation, &d.ino[f]), 0);
		model_truncate(&d.m[f], BLOCK_SIZE);
	}
	assert_true(data_walk(&d, 0, 0).extents >= 300);
	assert_int_not_equal(bmap(&d, 0, 0), 0);
	assert_int_not_equal(data_walk(&d, 0, 2).blkno, 0);
	assert_int_equal(bmap(&d, 0, 2), 0);
	data_write(&d, 0, MB(1), KB(4), true);
	data_truncate(&d, 1, MB(2));
	assert_int_equal(data_walk(&d, 0, 0).extents, 2);
	assert_int_equal(data_walk(&d, 1, 0).extents, 1);
	assert_int_equal(fs_sync(d.fs, d.q, 0, false), 0);
	data_crash(&d, 5);
	assert_int_equal(data_walk(&d, 2, 0).extents, 1);
	data_truncate(&d, 2, MB(2));
	data_check(&d);
	data_destroy(&d);
}

/* --- everything at random ---------------------------------------------------------------------- */

static uint64_t random_len(struct data *d)
{
	static const uint64_t max[] = {16, 1024, 4096, 6000, KB(64), KB(70), KB(300), MB(1), MB(1) + KB(300)};
	uint64_t len = 1 + data_random(d, max[data_random(d, 9)]);

	return data_random(d, 3) ? len : (len + 4095) & ~(uint64_t)4095;
}

/* Often at a block's start, often where the file ends. */
static uint64_t random_off(struct data *d, unsigned f, uint64_t len)
{
	uint64_t base = data_random(d, 4) ? 0 : FAR, size = d->m[f].size;
	uint64_t off = data_random(d, data_random(d, 3) ? KB(256) : WINDOW - len);

	if (size >= base && size - base <= WINDOW - len && !data_random(d, 3))
		return size;
	if (data_random(d, 2))
		off &= ~(uint64_t)4095;
	if (data_random(d, 6) == 0)
		off = 0;
	return base + (off > WINDOW - len ? WINDOW - len : off);
}

static void random_fallocate(struct data *d, unsigned f, uint64_t off, uint64_t len)
{
	static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				    FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
	int mode = modes[data_random(d, 5)];

	assert_int_equal(data_fallocate(d, f, mode, off, len), 0);
	if (mode & (FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE))
		model_zero(&d->m[f], off, len);
	if (!(mode & FALLOC_FL_KEEP_SIZE) && off + len > d->m[f].size)
		d->m[f].size = off + len;
}

/* What the model has no data for may be either; what it has data for is data. */
static void random_seek(struct data *d, unsigned f, uint64_t off)
{
	uint64_t size = d->m[f].size, data = seek(d, f, off, SEEK_DATA), hole = seek(d, f, off, SEEK_HOLE);
	uint64_t base = off >= FAR ? FAR : 0, end = size - base < WINDOW ? size : base + WINDOW;

	if (off >= size) {
		assert_int_equal(data, UINT64_MAX);
		assert_int_equal(hole, UINT64_MAX);
		return;
	}
	assert_true(hole <= size && hole >= off && data >= off);
	assert_true(data == off || hole == off);
	for (uint64_t p = off; p < end && p < data; p++)
		assert_int_equal(*model_at(&d->m[f], p, 1), 0);
	for (uint64_t p = hole; p < end && p < (hole | 4095); p++)
		assert_int_equal(*model_at(&d->m[f], p, 1), 0);
}

static void random_op(struct data *d)
{
	unsigned f = (unsigned)data_random(d, NFILES);
	uint64_t len = random_len(d), off = random_off(d, f, len);

	switch (data_random(d, 16)) {
	case 0 ... 5:
		data_write(d, f, off, len, data_random(d, 2));
		break;
	case 6 ... 8:
		assert_true(data_same(d, &d->m[f], f, off, len));
		break;
	case 9:
		data_truncate(d, f, data_random(d, 3) ? off : data_random(d, 2000));
		break;
	case 10 ... 12:
		random_fallocate(d, f, off, len);
		break;
	case 13:
		random_seek(d, f, off);
		break;
	case 14:
		assert_int_equal(fs_sync(d->fs, d->q, d->ino[f], data_random(d, 2)), 0);
		break;
	default:
		dev_poll(d->q, 0);
		break;
	}
}

static uint64_t space_left(struct data *d)
{
	struct alloc_space s;

	/* The second one takes back what the first one's own metadata replaced. */
	data_checkpoint(d);
	data_checkpoint(d);
	volume_lock(d->r.v);
	alloc_get_space(d->r.v->alloc, &s);
	volume_unlock(d->r.v);
	return s.nfree + s.npending;
}

static void random_run(uint64_t seed, uint64_t journal, uint64_t cache, unsigned nops)
{
	struct data d;

	data_create(&d, MB(64), journal, cache, seed);
	uint64_t space = space_left(&d);
	for (unsigned i = 0; i < nops; i++) {
		random_op(&d);
		if (data_random(&d, 60) == 0)
			data_checkpoint(&d);
		if (data_random(&d, 150) == 0)
			data_reopen(&d);
		if (data_random(&d, 150) == 0) {
			assert_int_equal(fs_sync(d.fs, d.q, 0, false), 0);
			data_crash(&d, seed + i);
		}
		if (i % 50 == 0)
			data_check(&d);
	}
	data_check(&d);
	for (unsigned f = 0; f < NFILES; f++)
		data_truncate(&d, f, 0);
	data_check(&d);
	/* Nothing has leaked. */
	assert_int_equal(space_left(&d), space);
	data_destroy(&d);
}

static unsigned runs(void)
{
	const char *n = getenv("HOLDFAST_TEST_SEEDS");

	return n ? (unsigned)atoi(n) : 1;
}

static void test_random_tiny(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4 * runs(); i++)
		random_run(1 + i, 128, KB(32), 400);
}

static void test_random(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 3 * runs(); i++)
		random_run(1001 + i, 1024, 0, 600);
}

static void nobody(void *arg)
{
	(void)arg;
}

/* While the checkpoint takes its time, what is staged does not grow without end: recovery would refuse it. */
static void test_staged_is_bounded(void **state)
{
	struct data_io w;
	struct data d;
	uint64_t off = 0;

	(void)state;
	data_create(&d, MB(64), 1024, KB(512), 3);
	d.r.v->want_checkpoint_fn = nobody;
	do {
		uint64_t staged = stage_bytes(d.r.v->stage);

		assert_true(staged <= volume_stage_limit(d.r.v) + MB(4));
		memset(&w, 0, sizeof(w));
		w.d = &d;
		w.io = (struct fs_io){.ino = d.ino[0], .off = off, .len = 1, .buf = "x", .done = data_io_done};
		fs_write(d.fs, d.q, &w.io);
		for (unsigned i = 0; i < 1000 && !w.done; i++)
			dev_poll(d.q, 0);
		off += KB(8);
	} while (w.done && off < MB(32));
	assert_false(w.done);
	assert_true(stage_bytes(d.r.v->stage) >= volume_stage_limit(d.r.v));
	assert_int_equal(volume_checkpoint(d.r.v, d.q, 0), 0);
	while (!w.done)
		dev_poll(d.q, 1);
	assert_int_equal(w.io.result, 1);
	d.r.v->want_checkpoint_fn = NULL;
	data_destroy(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inline),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_append),
		cmocka_unit_test(test_in_flight),
		cmocka_unit_test(test_seek),
		cmocka_unit_test(test_bmap),
		cmocka_unit_test(test_fallocate),
		cmocka_unit_test(test_times),
		cmocka_unit_test(test_kill_priv),
		cmocka_unit_test(test_sync),
		cmocka_unit_test(test_staged_is_bounded),
		cmocka_unit_test(test_truncate_many),
		cmocka_unit_test(test_truncate_interrupted),
		cmocka_unit_test(test_random_tiny),
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
