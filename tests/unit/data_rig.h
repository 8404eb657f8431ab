/* SPDX-License-Identifier: Apache-2.0 */
/*
 * data_rig.h - files on a sim device beside a model of their contents, for the tests of reading and writing.
 *
 * The model of a file is a size and two windows of plain bytes, one at its start and one far behind 1 TiB; what
 * lies elsewhere is never written and reads as zeros.
 */
#ifndef HOLDFAST_TESTS_DATA_RIG_H
#define HOLDFAST_TESTS_DATA_RIG_H

#include "tests/unit/volume_rig.h"

#include <fcntl.h>
#include <unistd.h>

#include "fs/extmap.h"

#define KB(n) ((uint64_t)(n) << 10)
#define MB(n) ((uint64_t)(n) << 20)
#define NFILES 3

#define FAR    ((uint64_t)3 << 40)
#define WINDOW MB(3)

struct model {
	uint64_t size;
	uint8_t *window[2];	/* from 0 on, from FAR on */
};

struct data {
	struct rig r;
	struct fs *fs;
	struct dev_queue *q;	/* == r.q */
	struct fs_config cfg;
	struct timespec clock;
	uint64_t rnd;
	uint64_t ino[NFILES];
	struct model m[NFILES];
	unsigned unreleased;	/* writes whose buffer has not come back */
};

/* --- the model --------------------------------------------------------------------------------- */

static inline void model_init(struct model *m)
{
	m->size = 0;
	for (int i = 0; i < 2; i++) {
		m->window[i] = calloc(1, WINDOW);
		assert_non_null(m->window[i]);
	}
}

static inline void model_fini(struct model *m)
{
	free(m->window[0]);
	free(m->window[1]);
}

static inline void model_copy(struct model *to, const struct model *from)
{
	to->size = from->size;
	for (int i = 0; i < 2; i++)
		memcpy(to->window[i], from->window[i], WINDOW);
}

static inline uint8_t *model_at(const struct model *m, uint64_t off, uint64_t len)
{
	if (off >= FAR) {
		assert_true(off - FAR + len <= WINDOW);
		return m->window[1] + (off - FAR);
	}
	assert_true(off + len <= WINDOW);
	return m->window[0] + off;
}

static inline void model_write(struct model *m, uint64_t off, const void *buf, uint64_t len)
{
	memcpy(model_at(m, off, len), buf, len);
	if (off + len > m->size)
		m->size = off + len;
}

static inline void model_truncate(struct model *m, uint64_t size)
{
	for (int i = 0; i < 2; i++) {
		uint64_t base = i ? FAR : 0, from = size > base ? size - base : 0;

		if (from < WINDOW)
			memset(m->window[i] + from, 0, WINDOW - from);
	}
	m->size = size;
}

static inline void model_zero(struct model *m, uint64_t off, uint64_t len)
{
	memset(model_at(m, off, len), 0, len);
}

/* --- the volume -------------------------------------------------------------------------------- */

static inline uint64_t data_random(struct data *d, uint64_t n)
{
	uint64_t z = (d->rnd += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (z ^ (z >> 31)) % n;
}

static inline void data_clock(void *arg, struct timespec *now)
{
	struct data *d = arg;

	d->clock.tv_sec++;
	*now = d->clock;
}

static inline void data_open(struct data *d)
{
	d->q = d->r.q;
	assert_int_equal(fs_open(d->r.v, d->q, &d->cfg, &d->fs), 0);
}

static inline void data_make(struct data *d, unsigned i)
{
	struct fs_cred cred = {.uid = 0, .gid = 0};
	struct fs_attr attr;
	char name[2] = {(char)('a' + i), 0};

	assert_int_equal(fs_create(d->fs, d->q, &cred, INO_ROOT, name, 1, S_IFREG | 0644, 0, &attr), 0);
	d->ino[i] = attr.ino;
}

/* A volume with NFILES empty files. */
static inline void data_create(struct data *d, uint64_t bytes, uint64_t journal_nblocks, uint64_t cache_bytes,
			       uint64_t seed)
{
	memset(d, 0, sizeof(*d));
	d->rnd = seed;
	d->clock.tv_sec = 1700000000;
	d->cfg = (struct fs_config){.clock = data_clock, .clock_arg = d};
	rig_create(&d->r, bytes, journal_nblocks, seed);
	d->r.cfg.cache_bytes = cache_bytes;
	rig_reopen(&d->r);
	data_open(d);
	for (unsigned i = 0; i < NFILES; i++) {
		data_make(d, i);
		model_init(&d->m[i]);
	}
}

static inline void data_reopen(struct data *d)
{
	fs_close(d->fs, d->q);
	rig_reopen(&d->r);
	data_open(d);
}

/* The power goes and comes back. */
static inline void data_crash(struct data *d, uint64_t seed)
{
	if (!dev_sim_is_cut(d->r.dev))
		dev_sim_cut(d->r.dev);
	fs_close(d->fs, d->q);
	rig_after_cut(&d->r, seed);
	assert_int_equal(volume_open(d->r.q, &d->r.cfg, &d->r.diag, &d->r.v), 0);
	data_open(d);
}

static inline void data_destroy(struct data *d)
{
	fs_close(d->fs, d->q);
	assert_int_equal(d->unreleased, 0);
	rig_destroy(&d->r);
	for (unsigned i = 0; i < NFILES; i++)
		model_fini(&d->m[i]);
}

/* All is home: nothing staged, nothing in the log. */
static inline void data_checkpoint(struct data *d)
{
	assert_int_equal(volume_checkpoint(d->r.v, d->q, CHECKPOINT_FORCE), 0);
}

static inline void data_fill(struct data *d, uint8_t *buf, uint64_t len)
{
	uint64_t r = data_random(d, UINT64_MAX);

	for (uint64_t i = 0; i < len; i++)
		buf[i] = (uint8_t)((r + i * 7 + (i >> 8) * 13) % 251 + 1);
}

static inline struct fs_attr data_attr(struct data *d, unsigned f)
{
	struct fs_attr attr;

	assert_int_equal(fs_getattr(d->fs, d->q, d->ino[f], &attr), 0);
	return attr;
}

/* Blocks that it occupies: not one if it is inline, although stat(2) shows a sector then. */
static inline uint64_t data_blocks(struct data *d, unsigned f)
{
	return data_attr(d, f).blocks / 8;
}

static inline struct fs_stats data_stats(struct data *d)
{
	struct fs_stats s;

	fs_get_stats(d->fs, &s);
	return s;
}

/* --- operations on both ------------------------------------------------------------------------ */

struct data_io {
	struct fs_io io;
	struct data *d;
	uint8_t *mem;
	uint64_t mem_len;
	bool done, released, answered;
};

static inline void data_io_done(struct fs_io *io)
{
	((struct data_io *)io)->done = true;
}

static inline void data_io_release(struct fs_io *io)
{
	struct data_io *w = (struct data_io *)io;

	assert_true(w->done && !w->released);
	/* Whoever still used it would be seen. */
	memset(w->mem, 0xee, w->mem_len);
	free(w->mem);
	w->released = true;
	w->d->unreleased--;
	if (w->answered)
		free(w);
}

/* Begins a write from memory that needs no copy, and waits until it counts, not until its data is home. */
static inline ssize_t data_start(struct data *d, unsigned f, uint64_t off, const void *buf, uint64_t len)
{
	struct data_io *w = calloc(1, sizeof(*w));
	ssize_t result;

	assert_non_null(w);
	w->mem_len = len + BLOCK_SIZE;
	w->mem = dev_alloc(w->mem_len, false);
	assert_non_null(w->mem);
	w->d = d;
	w->io = (struct fs_io){.ino = d->ino[f], .off = off, .len = len, .done = data_io_done};
	w->io.release = data_io_release;
	w->io.buf = w->mem + off % BLOCK_SIZE;
	memcpy(w->io.buf, buf, len);
	d->unreleased++;
	fs_write(d->fs, d->q, &w->io);
	while (!w->done) {
		(void)volume_service(d->r.v, d->q);
		dev_poll(d->q, 1);
	}
	result = w->io.result;
	w->answered = true;
	if (w->released)
		free(w);
	return result;
}

static inline void data_write(struct data *d, unsigned f, uint64_t off, uint64_t len, bool async)
{
	uint8_t *buf = malloc(len);

	assert_non_null(buf);
	data_fill(d, buf, len);
	if (async && len <= FS_IO_MAX)
		assert_int_equal(data_start(d, f, off, buf, len), len);
	else
		assert_int_equal(fs_pwrite(d->fs, d->q, d->ino[f], buf, len, off), len);
	model_write(&d->m[f], off, buf, len);
	free(buf);
}

static inline int data_set_size(struct data *d, unsigned f, uint64_t size)
{
	struct fs_attr attr = {.size = size};

	return fs_setattr(d->fs, d->q, d->ino[f], FS_SET_SIZE, &attr, &attr);
}

static inline void data_truncate(struct data *d, unsigned f, uint64_t size)
{
	assert_int_equal(data_set_size(d, f, size), 0);
	model_truncate(&d->m[f], size);
}

static inline int data_fallocate(struct data *d, unsigned f, int mode, uint64_t off, uint64_t len)
{
	return fs_fallocate(d->fs, d->q, d->ino[f], mode, off, len);
}

/* Says where contents differ first, for whoever has to find out why. */
static inline void data_differs(const struct model *m, unsigned f, uint64_t off, const uint8_t *buf, ssize_t got,
				uint64_t want)
{
	uint64_t i = 0;

	while (got > 0 && i < want && i < (uint64_t)got && buf[i] == *model_at(m, off + i, 1))
		i++;
	if (getenv("HOLDFAST_TEST_VERBOSE"))
		fprintf(stderr, "file %u, read at %llu: %lld of %llu bytes, the first wrong one at %llu\n", f,
			(unsigned long long)off, (long long)got, (unsigned long long)want,
			(unsigned long long)(off + i));
}

/* Does [off, off + len) read as the model says? */
static inline bool data_same(struct data *d, const struct model *m, unsigned f, uint64_t off, uint64_t len)
{
	uint64_t want = off >= m->size ? 0 : m->size - off < len ? m->size - off : len;
	uint8_t *buf = malloc(len);

	assert_non_null(buf);
	ssize_t got = fs_pread(d->fs, d->q, d->ino[f], buf, len, off);
	bool same = got == (ssize_t)want && (!want || !memcmp(buf, model_at(m, off, want), want));
	if (!same)
		data_differs(m, f, off, buf, got, want);
	free(buf);
	return same;
}

static inline bool data_all_same(struct data *d, const struct model *m, unsigned f)
{
	return data_attr(d, f).size == m->size && data_same(d, m, f, 0, WINDOW) && data_same(d, m, f, FAR, WINDOW);
}

/* --- what the items of a file must agree on ---------------------------------------------------- */

struct data_walk {
	struct data *d;
	uint64_t ino, next, blocks, extents;
	uint64_t blkno;		/* where file block `want` is; 0 if nowhere */
	uint64_t want;
};

static inline int data_walk_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct data_walk *w = arg;
	struct extmap m;

	(void)q;
	extmap_init(&m, fs, w->ino);
	int err = extmap_load(&m, w->next, UINT64_C(1) << 51, 50, miss);
	for (unsigned i = 0; !err && i < m.cur.n; i++) {
		const struct extent *e = &m.cur.e[i];

		if (e->file < w->next || e->file >= m.end)
			continue;
		w->blocks += e->n;
		w->extents++;
		if (e->file <= w->want && w->want < e->file + e->n)
			w->blkno = extent_blkno(e, w->want);
	}
	if (!err)
		w->next = m.end;
	extmap_fini(&m);
	return err;
}

static inline struct data_walk data_walk(struct data *d, unsigned f, uint64_t want)
{
	struct data_walk w = {.d = d, .ino = d->ino[f], .want = want};

	while (w.next < UINT64_C(1) << 51)
		assert_int_equal(fs_run(d->fs, d->q, data_walk_step, &w), 0);
	return w;
}

static inline void data_check(struct data *d)
{
	for (unsigned f = 0; f < NFILES; f++) {
		assert_true(data_all_same(d, &d->m[f], f));
		assert_int_equal(data_walk(d, f, 0).blocks, data_blocks(d, f));
	}
	volume_lock(d->r.v);
	tree_assert(d->r.v->tree);
	alloc_assert(d->r.v->alloc);
	volume_unlock(d->r.v);
}

#endif
