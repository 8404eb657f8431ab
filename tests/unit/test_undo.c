/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_undo.c - the undo file gives back every byte: after random writes, after a repair that a power cut ended anywhere, after
 * failures of the file itself; and it is refused where it would do harm.
 *
 * The file is in memory and knows what of it is durable: after a cut each sector behind that is there, or zeros, or the file ends before it.
 */
#include "tests/unit/fsck_rig.h"

#include <sys/mman.h>
#include <unistd.h>

#include "core/crc32c.h"
#include "core/dev_undo.h"
#include "core/sim_store.h"

struct memory {
	uint8_t *bytes;
	size_t len, cap, durable;
	unsigned calls, fail_at;	/* the fail_at-th call fails, and all behind it; 0: none */
};

static bool memory_fails(struct memory *m)
{
	m->calls++;
	return m->fail_at && m->calls >= m->fail_at;
}

static int memory_append(void *arg, const void *bytes, size_t len)
{
	struct memory *m = arg;

	if (memory_fails(m))
		return -ENOSPC;
	if (m->len + len > m->cap) {
		m->cap = 2 * (m->len + len);
		m->bytes = realloc(m->bytes, m->cap);
		assert_non_null(m->bytes);
	}
	memcpy(m->bytes + m->len, bytes, len);
	m->len += len;
	return 0;
}

static int memory_sync(void *arg)
{
	struct memory *m = arg;

	if (memory_fails(m))
		return -EIO;
	m->durable = m->len;
	return 0;
}

static struct undo_sink memory_sink(struct memory *m)
{
	return (struct undo_sink){.append = memory_append, .sync = memory_sync, .arg = m};
}

/* The power was cut. */
static void memory_settle(struct memory *m, uint64_t seed)
{
	for (size_t at = m->durable; at < m->len; at += UNDO_ALIGN) {
		uint64_t what = sim_random(&seed) % 4;

		if (what == 0)
			memset(m->bytes + at, 0, UNDO_ALIGN);
		if (what == 1 && sim_random(&seed) % 4 == 0)
			m->len = at;
	}
}

static int memory_fd(const struct memory *m)
{
	int fd = memfd_create("undo", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, m->bytes, m->len), m->len);
	return fd;
}

static int undo_flags(struct dev_queue *q, const struct memory *m, unsigned flags, struct undo_info *info)
{
	const struct diag d = {.emit = rig_emit};
	int fd = memory_fd(m);
	int err = undo_apply(fd, "undo", q, flags, &d, info);

	close(fd);
	return err;
}

static int undo(struct dev_queue *q, const struct memory *m, struct undo_info *info)
{
	return undo_flags(q, m, 0, info);
}

/* Index of the first byte that differs, or the size. */
static uint64_t difference(struct dev *a, struct dev *b)
{
	static uint8_t x[1 << 16], y[1 << 16];

	for (uint64_t at = 0; at < a->size; at += sizeof(x)) {
		dev_sim_peek(a, at, x, sizeof(x));
		dev_sim_peek(b, at, y, sizeof(y));
		for (size_t i = 0; memcmp(x, y, sizeof(x)) != 0 && i < sizeof(x); i++)
			if (x[i] != y[i])
				return at + i;
	}
	return a->size;
}

#define assert_same(a, b) assert_int_equal(difference(a, b), (a)->size)

/* --- a device under the filter ----------------------------------------------------------------- */

struct bed {
	struct bench b;		/* its device is the simulated one, and its queue a queue of that */
	struct dev *original;
	struct memory m;
	struct dev *filter;
	struct dev_queue *q;
};

static void bed_filter(struct bed *d)
{
	struct super sb = bench_super(&d->b);
	struct undo_sink sink = memory_sink(&d->m);

	assert_int_equal(dev_sim_clone(d->b.r.dev, &d->original), 0);
	dev_queue_destroy(d->b.r.q);
	assert_int_equal(dev_undo_create(d->b.r.dev, &sb, &sink, 1, &d->filter), 0);
	d->q = rig_queue(d->filter);
	d->b.r.q = NULL;
}

/* The filter goes, with the device; a copy of that stays. */
static void bed_unfilter(struct bed *d)
{
	struct dev *copy;

	dev_queue_destroy(d->q);
	assert_int_equal(dev_sim_clone(d->b.r.dev, &copy), 0);
	dev_close(d->filter);
	d->b.r.dev = copy;
	d->b.r.q = rig_queue(copy);
}

static void bed_free(struct bed *d)
{
	rig_destroy(&d->b.r);
	dev_close(d->original);
	free(d->m.bytes);
}

/* A volume with a journal to be replayed. */
static void bed_create(struct bed *d, const struct bench *from)
{
	struct fs_config cfg = {0};
	struct fs *fs;
	char name[16];

	memset(d, 0, sizeof(*d));
	bench_clone(&d->b, from);
	bench_open(&d->b);
	assert_int_equal(fs_open(d->b.r.v, d->b.r.q, &cfg, &fs), 0);
	for (unsigned i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "late%03u", i);
		bench_write(&d->b, fs, bench_make(&d->b, fs, INO_ROOT, name, S_IFREG | 0644), 3000 * (i % 4));
	}
	assert_int_equal(fs_pwrite(fs, d->b.r.q, d->b.data, "changed", 7, BLOCK_SIZE), 7);
	assert_int_equal(fs_sync(fs, d->b.r.q, 0, false), 0);
	dev_sim_cut(d->b.r.dev);
	fs_close(fs, d->b.r.q);
	rig_after_cut(&d->b.r, 1);
	bed_filter(d);
}

/* What fsck.holdfast does to it. */
static int bed_replay(struct bed *d)
{
	const struct diag diag = {.emit = rig_emit};
	struct volume_config cfg = {0};
	struct volume *v;
	int err = volume_open(d->q, &cfg, &diag, &v);

	return err ? err : volume_close(v, d->q);
}

/* --- tests ------------------------------------------------------------------------------------- */

static void test_repair_and_undo(void **state)
{
	struct undo_info info;
	struct bed d;

	bed_create(&d, *state);
	assert_int_equal(bed_replay(&d), 0);
	assert_int_equal(dev_undo_finish(d.q), 0);
	assert_true(dev_undo_saved(d.filter) > 0);
	uint64_t saved = dev_undo_saved(d.filter);

	bed_unfilter(&d);
	assert_true(difference(d.b.r.dev, d.original) < d.original->size);
	assert_int_equal(undo(d.b.r.q, &d.m, &info), 0);
	assert_true(info.complete);
	assert_int_equal(info.bytes, saved * BLOCK_SIZE);
	assert_same(d.b.r.dev, d.original);
	/* A second time is no harm. */
	assert_int_equal(undo(d.b.r.q, &d.m, &info), 0);
	assert_same(d.b.r.dev, d.original);
	bed_free(&d);
}

/* The power goes at every write of the repair; what the device and the file then hold, together, is the original. */
static void test_cut_everywhere(void **state)
{
	uint64_t n = 1, ncut = 0;

	for (bool cut = true; cut; n++) {
		struct undo_info info;
		struct bed d;

		bed_create(&d, *state);
		dev_sim_cut_after(d.b.r.dev, n);
		bed_replay(&d);
		cut = dev_sim_is_cut(d.b.r.dev);
		ncut += cut;
		if (!cut)
			dev_sim_cut(d.b.r.dev);
		dev_queue_destroy(d.q);
		dev_sim_reboot(d.b.r.dev, n);
		d.q = rig_queue(d.filter);
		memory_settle(&d.m, n);
		bed_unfilter(&d);
		assert_int_equal(undo(d.b.r.q, &d.m, &info), 0);
		assert_false(info.complete);
		assert_same(d.b.r.dev, d.original);
		bed_free(&d);
	}
	assert_true(ncut > 10);
}

/* The file can be written no further, from any of its calls on. */
static void test_file_fails(void **state)
{
	unsigned nfailed = 0;

	for (unsigned at = 3;; at++) {
		struct undo_info info;
		struct bed d;

		bed_create(&d, *state);
		d.m.fail_at = at;
		int err = bed_replay(&d);

		nfailed += err != 0;
		bed_unfilter(&d);
		assert_int_equal(undo(d.b.r.q, &d.m, &info), 0);
		assert_same(d.b.r.dev, d.original);
		bed_free(&d);
		if (!err)
			break;
	}
	assert_true(nfailed > 5);
}

/* --- random writes ----------------------------------------------------------------------------- */

struct random_io {
	struct dev_io io;
	unsigned *pending;
};

static void random_done(struct dev_io *io, int err)
{
	struct random_io *r = (struct random_io *)io;

	assert_int_equal(err, 0);
	--*r->pending;
	free(r->io.one.iov_base);
	free(r);
}

/* Whole and half blocks, overlapping, many at once; discards too. */
static void random_write(struct bed *d, uint64_t *rng, unsigned *pending)
{
	struct random_io *r = calloc(1, sizeof(*r));
	uint64_t len = 512 * (1 + sim_random(rng) % 40), off = 512 * (sim_random(rng) % (d->filter->size / 512 / 4));
	uint8_t *bytes = dev_alloc(len, false);

	assert_non_null(r);
	assert_non_null(bytes);
	memset(bytes, (int)sim_random(rng), len);
	dev_io_rw(&r->io, sim_random(rng) % 16 ? DEV_WRITE : DEV_DISCARD, 0, off, bytes, len, random_done);
	r->pending = pending;
	++*pending;
	dev_submit(d->q, &r->io);
}

static void test_random_writes(void **state)
{
	for (uint64_t seed = 1; seed <= 20; seed++) {
		uint64_t rng = seed;
		unsigned pending = 0;
		struct undo_info info;
		struct bed d;

		memset(&d, 0, sizeof(d));
		bench_clone(&d.b, *state);
		bed_filter(&d);
		for (unsigned i = 0; i < 300; i++) {
			random_write(&d, &rng, &pending);
			if (sim_random(&rng) % 4 == 0)
				dev_poll(d.q, 0);
		}
		while (pending)
			dev_poll(d.q, -1);
		bed_unfilter(&d);
		assert_int_equal(undo_flags(d.b.r.q, &d.m, UNDO_FORCE, &info), 0);
		assert_same(d.b.r.dev, d.original);
		bed_free(&d);
	}
}

/* What cannot be read can be overwritten, and is named; its neighbours are saved. */
static void test_unreadable(void **state)
{
	struct undo_info info;
	uint8_t block[3 * BLOCK_SIZE] __attribute__((aligned(4096)));
	uint64_t at = 200 * BLOCK_SIZE;
	struct bed d;

	memset(&d, 0, sizeof(d));
	bench_clone(&d.b, *state);
	bed_filter(&d);
	dev_sim_fail(d.b.r.dev, DEV_READ, 1, SIM_FAULT_STICKY, -EIO, at + BLOCK_SIZE, 512);
	memset(block, 7, sizeof(block));
	assert_int_equal(dev_write(d.q, at, block, sizeof(block), 0), 0);
	dev_sim_fail(d.b.r.dev, DEV_READ, 0, SIM_FAULT_NONE, 0, 0, 0);
	bed_unfilter(&d);
	assert_int_equal(undo(d.b.r.q, &d.m, &info), 0);
	assert_int_equal(info.unreadable, BLOCK_SIZE);
	assert_int_equal(info.bytes, 2 * BLOCK_SIZE);
	assert_int_equal(difference(d.b.r.dev, d.original), at + BLOCK_SIZE);
	bed_free(&d);
}

/* --- refusals ---------------------------------------------------------------------------------- */

static void bed_repaired(struct bed *d, const struct bench *from)
{
	bed_create(d, from);
	assert_int_equal(bed_replay(d), 0);
	assert_int_equal(dev_undo_finish(d->q), 0);
	bed_unfilter(d);
}

static void expect_refusal(struct bed *d, int want)
{
	uint64_t writes = dev_sim_writes(d->b.r.dev);
	struct undo_info info;

	assert_int_equal(undo(d->b.r.q, &d->m, &info), want);
	assert_int_equal(dev_sim_writes(d->b.r.dev), writes);
}

static void test_used_since(void **state)
{
	struct undo_info info;
	struct bed d;

	bed_repaired(&d, *state);
	bench_open(&d.b);
	bench_close(&d.b);
	expect_refusal(&d, -EPERM);
	assert_int_equal(undo_flags(d.b.r.q, &d.m, UNDO_FORCE, &info), 0);
	bed_free(&d);
}

static void test_other_volume(void **state)
{
	struct bed d;

	bed_repaired(&d, *state);
	struct format_params p = {.nblocks = d.b.r.dev->size >> BLOCK_SHIFT, .uuid = "another volume!", .root_mode = 0755};

	assert_int_equal(volume_format(d.b.r.q, &p, NULL, NULL, NULL), 0);
	expect_refusal(&d, -EPERM);
	bed_free(&d);
}

/* Every sector of the file damaged in turn: found, unless it is the last batch, whose loss is a crash's. */
static void test_damaged_file(void **state)
{
	unsigned nrefused = 0;
	struct bed d;

	bed_repaired(&d, *state);
	for (size_t at = 0; at + UNDO_ALIGN < d.m.len; at += UNDO_ALIGN) {
		d.m.bytes[at + 20] ^= 4;
		expect_refusal(&d, -EUCLEAN);
		d.m.bytes[at + 20] ^= 4;
		nrefused++;
	}
	assert_true(nrefused > 100);
	d.m.bytes[0] ^= 4;
	expect_refusal(&d, -EINVAL);
	d.m.bytes[0] ^= 4;
	d.m.bytes[9] ^= 4;
	expect_refusal(&d, -EUCLEAN);
	d.m.len = 100;
	expect_refusal(&d, -EINVAL);
	bed_free(&d);
}

/* Random bytes with right checksums: whatever a batch claims, nothing is written outside the device. */
static void test_hostile_file(void **state)
{
	struct undo_info info;
	struct bed d;

	bed_repaired(&d, *state);
	for (uint64_t seed = 1; seed <= 2000; seed++) {
		struct memory m = {.bytes = malloc(8192), .len = 8192};
		uint64_t rng = seed;
		struct undo_batch b = {.magic = put32(UNDO_BATCH), .seq = put64(1), .nruns = put32(1 + (uint32_t)(sim_random(&rng) % 300))};

		memcpy(m.bytes, d.m.bytes, UNDO_ALIGN);
		for (size_t at = UNDO_ALIGN; at < m.len; at += 8) {
			le64 v = put64(sim_random(&rng) >> (sim_random(&rng) % 64) & ~(seed % 2 ? 511ull : 0));

			memcpy(m.bytes + at, &v, sizeof(v));
		}
		b.len = put64(512 * (1 + sim_random(&rng) % 16));
		if (UNDO_ALIGN + get64(b.len) <= m.len)
			b.body_csum = put32(crc32c(0, m.bytes + UNDO_ALIGN + sizeof(b), get64(b.len) - sizeof(b)));
		b.csum = put32(crc32c(0, (uint8_t *)&b + 8, sizeof(b) - 8));
		memcpy(m.bytes + UNDO_ALIGN, &b, sizeof(b));
		undo(d.b.r.q, &m, &info);
		free(m.bytes);
	}
	bed_free(&d);
}

static void test_file_on_disk(void **state)
{
	struct undo_file *f;
	struct bed d;
	char dir[] = "/tmp/holdfast-undo-XXXXXX", path[64];

	bed_repaired(&d, *state);
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/file", dir);
	assert_int_equal(undo_file_create(path, d.b.r.dev, &f), 0);
	struct undo_sink sink = undo_file_sink(f);

	assert_int_equal(sink.append(sink.arg, "bytes", 5), 0);
	assert_int_equal(sink.sync(sink.arg), 0);
	undo_file_close(f, true);
	assert_int_equal(undo_file_create(path, d.b.r.dev, &f), -EEXIST);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(undo_file_create(path, d.b.r.dev, &f), 0);
	undo_file_close(f, false);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(rmdir(dir), 0);
	bed_free(&d);
}

static int setup(void **state)
{
	static struct bench b;

	bench_create(&b);
	*state = &b;
	return 0;
}

static int teardown(void **state)
{
	rig_destroy(&((struct bench *)*state)->r);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_repair_and_undo), cmocka_unit_test(test_cut_everywhere),
		cmocka_unit_test(test_file_fails),	cmocka_unit_test(test_random_writes),
		cmocka_unit_test(test_unreadable),	cmocka_unit_test(test_used_since),
		cmocka_unit_test(test_other_volume),	cmocka_unit_test(test_damaged_file),
		cmocka_unit_test(test_hostile_file),	cmocka_unit_test(test_file_on_disk),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
