/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_alloc.c - the allocator against a model that has a byte per block.
 *
 * The rig keeps what the freezes wrote as a device would, so bitmaps are loaded on demand from real images,
 * and the volume can be opened again from any snapshot whose root would be durable.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"

/* HELD: free, and being trimmed. */
enum state { FREE, USED, PENDING, FROZEN, HELD, FIXED, NSTATES };

struct rig {
	struct super sb;
	struct alloc *a;
	uint8_t *model; /* enum state of each block */
	uint64_t count[NSTATES];
	uint64_t reserved;
	uint64_t generation;

	void **disk; /* blocks that freezes wrote, by address; NULL: never */
	bool is_freezing;
	struct alloc_freeze freeze;
	struct alloc_freeze durable; /* no images: only what the root would say */
	uint8_t *frozen_model; /* as the running freeze shows it: FREE, USED or FIXED */
	uint8_t *durable_model;
	unsigned nloads;
	uint64_t rng;
};

/* --- model ------------------------------------------------------------------------------------ */

static uint64_t rig_random(struct rig *r, uint64_t below)
{
	r->rng ^= r->rng << 13;
	r->rng ^= r->rng >> 7;
	r->rng ^= r->rng << 17;
	return (r->rng >> 11) % below;
}

static void model_move(struct rig *r, uint64_t blkno, uint64_t n, enum state from, enum state to)
{
	for (uint64_t b = blkno; b < blkno + n; b++) {
		assert_int_equal(r->model[b], from);
		r->model[b] = (uint8_t)to;
	}
	r->count[from] -= n;
	r->count[to] += n;
}

static bool model_all(const struct rig *r, uint64_t blkno, uint64_t n, enum state want)
{
	for (uint64_t b = blkno; b < blkno + n; b++)
		if (r->model[b] != want)
			return false;
	return true;
}

static void model_count(struct rig *r)
{
	memset(r->count, 0, sizeof(r->count));
	for (uint64_t b = 0; b < r->sb.nblocks; b++)
		r->count[r->model[b]]++;
}

static void rig_check(const struct rig *r)
{
	struct alloc_space s;

	alloc_get_space(r->a, &s);
	assert_int_equal(s.nblocks, r->sb.nblocks);
	assert_int_equal(s.nfree, r->count[FREE]);
	assert_int_equal(s.npending, r->count[PENDING] + r->count[FROZEN] + r->count[HELD]);
	assert_int_equal(s.ntrimmed, r->count[HELD]);
	assert_int_equal(s.reserved, r->reserved);
}

static void rig_open(struct rig *r, uint64_t nblocks)
{
	memset(r, 0, sizeof(*r));
	r->rng = UINT64_C(0x9e3779b97f4a7c15);
	r->sb.nblocks = nblocks;
	r->sb.journal_nblocks = MIN_JOURNAL;
	memset(r->sb.uuid, 0x5a, UUID_BYTES);
	assert_int_equal(super_layout(&r->sb), 0);
	r->model = calloc(3, nblocks);
	r->disk = calloc(nblocks, sizeof(r->disk[0]));
	assert_true(r->model && r->disk);
	r->frozen_model = r->model + nblocks;
	r->durable_model = r->frozen_model + nblocks;
	for (uint64_t b = 0; b < nblocks; b++)
		r->model[b] = super_is_fixed(&r->sb, b) ? FIXED : FREE;
	model_count(r);
	assert_int_equal(alloc_create_empty(&r->sb, NULL, &r->a), 0);
	rig_check(r);
}

static void rig_close(struct rig *r)
{
	if (r->is_freezing)
		alloc_freeze_drop(&r->freeze);
	alloc_destroy(r->a);
	for (uint64_t b = 0; b < r->sb.nblocks; b++)
		free(r->disk[b]);
	free(r->disk);
	free(r->model);
}

/* --- the device ------------------------------------------------------------------------------- */

static void disk_write(struct rig *r, uint64_t blkno, const void *block)
{
	assert_true(blkno < r->sb.nblocks && super_is_fixed(&r->sb, blkno));
	if (!r->disk[blkno])
		r->disk[blkno] = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
	assert_non_null(r->disk[blkno]);
	memcpy(r->disk[blkno], block, BLOCK_SIZE);
}

static bool table_bit(const uint8_t *slots, uint32_t t)
{
	return slots[t / 8] >> (t % 8) & 1;
}

/* What the root of freeze `f` leads to, with both copies alike and every verifier content. */
static const struct disk_table *disk_table(const struct rig *r, const struct alloc_freeze *f, uint32_t t)
{
	unsigned slot = table_bit(f->table_slot, t);
	const void *block = r->disk[table_blkno(&r->sb, t, slot, 0)];
	const void *copy = r->disk[table_blkno(&r->sb, t, slot, 1)];

	assert_true(block && copy);
	assert_memory_equal(block, copy, BLOCK_SIZE);
	assert_int_equal(table_check(block, &r->sb, t, slot, f->table_csum[t], NULL), 0);
	return block;
}

static const struct disk_bitmap *disk_bitmap(const struct rig *r, uint32_t group, unsigned slot,
					     uint32_t csum)
{
	const void *block = r->disk[bitmap_blkno(&r->sb, group, slot, 0)];
	const void *copy = r->disk[bitmap_blkno(&r->sb, group, slot, 1)];

	assert_true(block && copy);
	assert_memory_equal(block, copy, BLOCK_SIZE);
	assert_int_equal(bitmap_check(block, &r->sb, group, slot, csum, NULL), 0);
	return block;
}

/* Every block of the volume is on disk as the model of that snapshot has it. */
static void disk_check(const struct rig *r, const struct alloc_freeze *f, const uint8_t *model)
{
	uint64_t nfree = 0;

	for (uint32_t group = 0; group < r->sb.ngroups; group++) {
		const struct disk_table *t = disk_table(r, f, group / TABLE_GROUPS);
		const struct disk_table_entry *e = &t->entry[group % TABLE_GROUPS];
		uint32_t info = get32(e->info);
		const struct disk_bitmap *bm = NULL;

		nfree += TABLE_NFREE(info);
		if (!(info & TABLE_UNINIT))
			bm = disk_bitmap(r, group, (info & TABLE_SLOT) != 0, get32(e->csum));
		for (uint32_t i = 0; i < group_nblocks(&r->sb, group); i++) {
			uint64_t b = (uint64_t)group * GROUP_BLOCKS + i;
			bool used = bm ? bm->bits[i / 8] >> (i % 8) & 1 : super_is_fixed(&r->sb, b);

			if (used != (model[b] != FREE))
				fail_msg("block %llu: used %d, model %u", (unsigned long long)b, used,
					 model[b]);
		}
	}
	assert_int_equal(nfree, f->nfree);
}

/* Provides what an operation misses; false if that is not a bitmap. */
static bool rig_provide(struct rig *r, const struct miss *miss)
{
	unsigned slot;
	uint32_t csum;

	if (miss->kind != MISS_BITMAP)
		return false;
	alloc_bitmap_where(r->a, miss->group, &slot, &csum);
	assert_int_equal(alloc_bitmap_arrived(r->a, miss->group, disk_bitmap(r, miss->group, slot, csum)), 0);
	r->nloads++;
	rig_check(r);
	return true;
}

/* Runs a call until it does not miss a bitmap any more. */
#define RETRY(r, miss, call)                                                                                 \
	({                                                                                                   \
		int retry_err;                                                                               \
                                                                                                             \
		do                                                                                           \
			retry_err = (call);                                                                  \
		while (retry_err == -EAGAIN && rig_provide((r), (miss)));                                    \
		retry_err;                                                                                   \
	})

/* --- operations on both ------------------------------------------------------------------------ */

static int rig_get_at(struct rig *r, struct alloc_place place, uint64_t want, uint64_t keep, bool urgent, struct miss *miss,
		      uint64_t *blkno, uint64_t *n)
{
	int err = RETRY(r, miss, alloc_get(r->a, place, want, keep, urgent, miss, blkno, n));

	if (!err) {
		assert_true(*n >= 1 && *n <= want);
		assert_true(*blkno < r->sb.nblocks && *n <= r->sb.nblocks - *blkno);
		model_move(r, *blkno, *n, FREE, USED);
	}
	return err;
}

static int rig_get(struct rig *r, uint64_t goal, uint64_t want, uint64_t keep, bool urgent, struct miss *miss,
		   uint64_t *blkno, uint64_t *n)
{
	return rig_get_at(r, alloc_at(goal), want, keep, urgent, miss, blkno, n);
}

static int rig_free(struct rig *r, uint64_t blkno, uint64_t n)
{
	struct miss miss = {0};
	int err = RETRY(r, &miss, alloc_prepare_free(r->a, blkno, n, &miss));

	if (err)
		return err;
	alloc_free(r->a, blkno, n);
	model_move(r, blkno, n, USED, PENDING);
	return 0;
}

static int rig_reserve(struct rig *r, uint64_t n, bool urgent, struct miss *miss)
{
	int err = RETRY(r, miss, alloc_prepare_reserve(r->a, n, urgent, miss));

	if (err)
		return err;
	alloc_reserve(r->a, n);
	r->reserved += n;
	return 0;
}

static uint64_t rig_node_block(struct rig *r, unsigned copy)
{
	uint64_t blkno = alloc_node_block(r->a, copy);

	model_move(r, blkno, 1, FREE, USED);
	r->reserved--;
	return blkno;
}

static void rig_freeze(struct rig *r)
{
	assert_false(r->is_freezing);
	assert_int_equal(alloc_freeze(r->a, ++r->generation, &r->freeze), 0);
	r->is_freezing = true;
	for (unsigned i = 0; i < r->freeze.nimages; i++)
		for (unsigned copy = 0; copy < 2; copy++)
			disk_write(r, r->freeze.image[i].blkno[copy], r->freeze.image[i].block);
	for (uint64_t b = 0; b < r->sb.nblocks; b++) {
		if (r->model[b] == PENDING)
			r->model[b] = FROZEN;
		r->frozen_model[b] = r->model[b] == FROZEN || r->model[b] == HELD ? FREE : r->model[b];
	}
	r->count[FROZEN] += r->count[PENDING];
	r->count[PENDING] = 0;
	assert_int_equal(r->freeze.nfree, r->count[FREE] + r->count[FROZEN] + r->count[HELD]);
	disk_check(r, &r->freeze, r->frozen_model);
}

static void release_run(void *arg, uint64_t blkno, uint64_t n)
{
	struct rig *r = arg;

	model_move(r, blkno, n, FROZEN, FREE);
}

static void rig_release(struct rig *r)
{
	assert_true(r->is_freezing);
	alloc_each_frozen(r->a, release_run, r);
	assert_int_equal(r->count[FROZEN], 0);
	r->durable = r->freeze;
	memcpy(r->durable_model, r->frozen_model, r->sb.nblocks);
	alloc_release(r->a, &r->freeze);
	assert_int_equal(r->freeze.nimages, 0);
	r->is_freezing = false;
	rig_check(r);
}

static void *rig_tables(struct rig *r)
{
	uint8_t *tables = aligned_alloc(BLOCK_SIZE, (size_t)r->sb.ntables * BLOCK_SIZE);

	assert_non_null(tables);
	for (uint32_t t = 0; t < r->sb.ntables; t++)
		memcpy(tables + (size_t)t * BLOCK_SIZE, disk_table(r, &r->durable, t), BLOCK_SIZE);
	return tables;
}

/* The power goes: back to the last snapshot that was released. */
static void rig_reopen(struct rig *r)
{
	void *tables = rig_tables(r);
	struct alloc *a;

	assert_int_equal(alloc_create(&r->sb, tables, r->durable.table_slot, r->durable.nfree + 1, NULL, &a),
			 -EUCLEAN);
	assert_int_equal(alloc_create(&r->sb, tables, r->durable.table_slot, r->durable.nfree, NULL, &a), 0);
	free(tables);
	if (r->is_freezing)
		alloc_freeze_drop(&r->freeze);
	r->is_freezing = false;
	alloc_destroy(r->a);
	r->a = a;
	memcpy(r->model, r->durable_model, r->sb.nblocks);
	model_count(r);
	r->reserved = 0;
	rig_check(r);
	/* The slots that the durable root names have survived whatever was written after it. */
	disk_check(r, &r->durable, r->durable_model);
}

/* --- random histories -------------------------------------------------------------------------- */

/* The first run of `want` free blocks in [from, to), no group's border inside; remembers the longest. */
static bool model_run(const struct rig *r, uint64_t from, uint64_t to, uint64_t want, uint64_t *found,
		      uint64_t *longest)
{
	uint64_t run = 0;

	for (uint64_t b = from; b < to; b++) {
		if (b % GROUP_BLOCKS == 0)
			run = 0;
		run = r->model[b] == FREE ? run + 1 : 0;
		if (run > *longest)
			*longest = run;
		if (run == want) {
			*found = b + 1 - want;
			return true;
		}
	}
	return false;
}

/* The run at a free goal, else the first run behind it that is long enough, else the longest of all. */
static void check_placement(struct rig *r, uint64_t goal, uint64_t want, uint64_t blkno, uint64_t n,
			    uint64_t run_at_goal)
{
	uint64_t found, longest = 0;
	bool is_goal = !super_is_fixed(&r->sb, goal);

	if (run_at_goal > 0) {
		assert_int_equal(blkno, goal);
		assert_int_equal(n, run_at_goal);
		return;
	}
	/* Look at the state of before.  Without a goal a cursor decides where, but not how much. */
	model_move(r, blkno, n, USED, FREE);
	if (model_run(r, is_goal ? goal : 0, r->sb.nblocks, want, &found, &longest) ||
	    (is_goal && model_run(r, 0, r->sb.nblocks, want, &found, &longest))) {
		assert_int_equal(n, want);
		if (is_goal)
			assert_int_equal(blkno, found);
	} else {
		assert_int_equal(n, longest);
	}
	model_move(r, blkno, n, FREE, USED);
}

static void step_get(struct rig *r)
{
	uint64_t goal = rig_random(r, 4) ? rig_random(r, r->sb.nblocks) : 0;
	uint64_t want = 1 + rig_random(r, rig_random(r, 2) ? 8 : 2000), keep = rig_random(r, 10), blkno, n;
	bool urgent = rig_random(r, 4) == 0;
	struct miss miss = {0};
	struct alloc_space s;
	uint64_t run = 0;

	alloc_get_space(r->a, &s);
	uint64_t held = r->reserved + keep + (urgent ? 0 : s.emergency);
	uint64_t most = s.nfree > held ? s.nfree - held : 0, limit = most < want ? most : want;

	while (goal > 0 && run < limit && goal + run < r->sb.nblocks && r->model[goal + run] == FREE &&
	       (run == 0 || (goal + run) % GROUP_BLOCKS != 0))
		run++;
	int err = rig_get(r, goal, want, keep, urgent, &miss, &blkno, &n);

	if (limit == 0) {
		bool helps = s.nfree + s.npending + s.reserved > held;

		assert_int_equal(err, helps ? -EAGAIN : -ENOSPC);
		assert_int_equal(miss.kind, helps ? MISS_SPACE : MISS_NONE);
		return;
	}
	assert_int_equal(err, 0);
	check_placement(r, goal, limit, blkno, n, run);
	if (rig_random(r, 5) == 0) {
		uint64_t back = 1 + rig_random(r, n);

		alloc_unget(r->a, blkno + n - back, back);
		model_move(r, blkno + n - back, back, USED, FREE);
	}
}

/* For one of more owners than there are windows.  Where that may be is test_alloc_window.c's; here, that it is free. */
static void step_get_with_room(struct rig *r)
{
	struct alloc_place place = {
		.goal = rig_random(r, 4) ? rig_random(r, r->sb.nblocks) : 0,
		.owner = 1 + rig_random(r, ALLOC_WINDOWS + 20),
		.room = rig_random(r, 500),
	};
	struct miss miss = {0};
	uint64_t blkno, n;
	int err = rig_get_at(r, place, 1 + rig_random(r, 300), 0, false, &miss, &blkno, &n);

	assert_true(!err || err == -EAGAIN || err == -ENOSPC);
}

/* A run of used blocks around a random place, or a random range that may be anything. */
static void step_free(struct rig *r)
{
	uint64_t blkno = rig_random(r, r->sb.nblocks), n = 1 + rig_random(r, 1000);

	if (n > r->sb.nblocks - blkno)
		n = r->sb.nblocks - blkno;
	if (rig_random(r, 4)) {
		uint64_t end = blkno;

		while (end < blkno + n && r->model[end] == USED)
			end++;
		if (end == blkno)
			return;
		n = end - blkno;
	}
	int expect = model_all(r, blkno, n, USED) ? 0 : -EUCLEAN;
	assert_int_equal(rig_free(r, blkno, n), expect);
}

static void step_free_scattered(struct rig *r)
{
	uint64_t blkno = rig_random(r, r->sb.nblocks - 4000);

	for (uint64_t b = blkno; b < blkno + 4000; b += 1 + rig_random(r, 6))
		if (r->model[b] == USED)
			assert_int_equal(rig_free(r, b, 1), 0);
}

static void step_mark(struct rig *r)
{
	uint64_t blkno = rig_random(r, r->sb.nblocks), n = 1 + rig_random(r, 40);
	struct miss miss = {0};

	if (n > r->sb.nblocks - blkno)
		n = r->sb.nblocks - blkno;
	if (RETRY(r, &miss, alloc_prepare_reserve(r->a, n, true, &miss)) != 0)
		return;
	int err = RETRY(r, &miss, alloc_prepare_mark(r->a, blkno, n, &miss));

	assert_int_equal(err, model_all(r, blkno, n, FREE) ? 0 : -EUCLEAN);
	if (err)
		return;
	/* Loading for the mark only adds to what is in memory. */
	alloc_mark(r->a, blkno, n);
	model_move(r, blkno, n, FREE, USED);
}

static void step_reserve(struct rig *r)
{
	uint64_t n = 1 + rig_random(r, 300);
	bool urgent = rig_random(r, 2);
	struct miss miss = {0};
	struct alloc_space s;

	alloc_get_space(r->a, &s);
	uint64_t need = n + s.reserved + (urgent ? 0 : s.emergency);
	int err = rig_reserve(r, n, urgent, &miss);

	if (s.nfree >= need)
		assert_int_equal(err, 0);
	else if (s.nfree + s.npending + s.reserved >= need)
		assert_true(err == -EAGAIN && miss.kind == MISS_SPACE);
	else
		assert_int_equal(err, -ENOSPC);
	if (!err && rig_random(r, 4) == 0) {
		alloc_unreserve(r->a, n / 2);
		r->reserved -= n / 2;
	}
}

struct trim_seen {
	struct rig *r;
	uint64_t next, end;	/* runs lie here, ascending */
	uint64_t total;
};

static void trim_run(void *arg, uint64_t blkno, uint64_t n)
{
	struct trim_seen *t = arg;

	assert_true(n && blkno >= t->next && blkno + n <= t->end);
	t->next = blkno + n;
	t->total += n;
	model_move(t->r, blkno, n, FREE, HELD);
}

/* In what was passed over no run of at least `minlen` free blocks is left. */
static void check_passed(const struct rig *r, uint64_t from, uint64_t to, uint64_t minlen)
{
	uint64_t run = 0;

	for (uint64_t b = from; b < to; b++) {
		run = r->model[b] == FREE ? run + 1 : 0;
		assert_true(run < minlen);
	}
}

static void step_trim_begin(struct rig *r)
{
	uint64_t begin = super_data_begin(&r->sb), end = super_data_end(&r->sb), n;
	uint64_t first = begin + rig_random(r, end - begin), minlen = rig_random(r, 3) ? 1 : 1 + rig_random(r, 40);
	uint64_t max = 1 + rig_random(r, 3000), next = first;
	struct trim_seen t = {.r = r, .next = first, .end = end};
	struct miss miss = {0};
	struct alloc_space s;

	alloc_get_space(r->a, &s);
	uint64_t kept = s.reserved + s.emergency + s.cached, most = s.nfree > kept ? (s.nfree - kept) / 8 : 0;
	int err = RETRY(r, &miss, alloc_trim_begin(r->a, &next, end, minlen, max, &miss, trim_run, &t, &n));

	if (r->count[HELD] > t.total) {
		assert_true(err == -EBUSY && next == first);
		return;
	}
	assert_int_equal(err, 0);
	assert_int_equal(n, t.total);
	assert_true(n <= max && n <= most);
	assert_true(next > first && next <= end && next >= t.next);
	/* Where so little may be taken that it is nothing, the rest is left out. */
	if (n)
		check_passed(r, first, next, minlen);
}

static void step_trim_end(struct rig *r)
{
	uint64_t from, to = 0;

	if (!r->count[HELD])
		return;
	alloc_trim_end(r->a);
	for (from = 0; from < r->sb.nblocks; from = to) {
		for (to = from; to < r->sb.nblocks && r->model[to] == r->model[from]; to++)
			;
		if (r->model[from] == HELD)
			model_move(r, from, to - from, HELD, FREE);
	}
}

static void step_trim(struct rig *r)
{
	if (r->count[HELD] && rig_random(r, 3))
		step_trim_end(r);
	else
		step_trim_begin(r);
}

static void step_checkpoint(struct rig *r)
{
	if (r->is_freezing) {
		rig_release(r);
		return;
	}
	while (r->reserved >= 2)
		for (unsigned copy = 0; copy < 2; copy++)
			rig_node_block(r, copy);
	rig_freeze(r);
}

static void random_history(uint64_t nblocks, uint64_t seed, unsigned nsteps, bool rooms)
{
	struct rig r;
	unsigned nreopened = 0, ntrims = 0;

	rig_open(&r, nblocks);
	r.rng ^= seed * UINT64_C(0x2545f4914f6cdd1d);
	rig_freeze(&r);
	rig_release(&r);
	for (unsigned i = 0; i < nsteps; i++) {
		/* Phases of mostly getting, then of mostly freeing. */
		unsigned what = (unsigned)rig_random(&r, 100), bias = i / 600 % 2 ? 20 : 60;

		if (what < bias)
			rooms ? step_get_with_room(&r) : step_get(&r);
		else if (what < 80)
			rig_random(&r, 3) ? step_free(&r) : step_free_scattered(&r);
		else if (what < 84)
			step_mark(&r);
		else if (what < 90)
			step_reserve(&r);
		else if (what < 92 && r.reserved > 0)
			rig_node_block(&r, what & 1);
		else if (what < 95)
			step_trim(&r), ntrims += r.count[HELD] > 0;
		else if (what == 99 && rig_random(&r, 6) == 0)
			rig_reopen(&r), nreopened++;
		else if (what >= 95)
			step_checkpoint(&r);
		rig_check(&r);
		if (i % 16 == 0)
			alloc_assert(r.a);
	}
	alloc_assert(r.a);
	assert_true(nreopened > 0 && r.nloads > nreopened / 2 && r.generation > 10 && ntrims > 10);
	rig_close(&r);
}

static void test_random_small(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 6; seed++)
		random_history(9000, seed, 4000, seed & 1);
}

static void test_random_groups(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 3; seed++)
		random_history(3 * GROUP_BLOCKS + 7000, seed, 3000, seed & 1);
}

/* The tail's fixed areas begin in the last group but one. */
static void test_random_straddling(void **state)
{
	(void)state;
	random_history(2 * GROUP_BLOCKS + 5, 42, 2500, false);
}

/* --- space ------------------------------------------------------------------------------------ */

static uint64_t fill(struct rig *r, bool urgent, int *last_err, struct miss *miss)
{
	uint64_t total = 0, blkno, n;

	while ((*last_err = rig_get(r, 0, 256, 0, urgent, miss, &blkno, &n)) == 0)
		total += n;
	return total;
}

static void test_full_volume(void **state)
{
	struct rig r;
	struct miss miss = {0};
	struct alloc_space s;
	uint64_t blkno, n;
	int err;

	(void)state;
	rig_open(&r, 20000);
	alloc_get_space(r.a, &s);
	assert_int_equal(s.emergency, 78);
	uint64_t nfree = s.nfree;

	assert_int_equal(fill(&r, false, &err, &miss), nfree - 78);
	assert_int_equal(err, -ENOSPC);
	assert_int_equal(alloc_prepare_reserve(r.a, 1, false, &miss), -ENOSPC);
	assert_int_equal(alloc_prepare_reserve(r.a, 78, true, &miss), 0);
	assert_int_equal(alloc_prepare_reserve(r.a, 79, true, &miss), -ENOSPC);

	/* Promised blocks are out of reach even for urgent work; kept ones too. */
	assert_int_equal(rig_reserve(&r, 70, true, &miss), 0);
	assert_int_equal(rig_get(&r, 0, 10, 5, true, &miss, &blkno, &n), 0);
	assert_int_equal(n, 3);
	assert_int_equal(rig_get(&r, 0, 10, 0, true, &miss, &blkno, &n), 0);
	assert_int_equal(n, 5);
	/* 70 free blocks are 70 promised ones; a checkpoint might turn those into free ones. */
	assert_int_equal(rig_get(&r, 0, 10, 0, true, &miss, &blkno, &n), -EAGAIN);
	assert_int_equal(miss.kind, MISS_SPACE);
	for (unsigned i = 0; i < 70; i++)
		rig_node_block(&r, i & 1);
	assert_int_equal(r.count[FREE], 0);
	miss.kind = MISS_NONE;
	assert_int_equal(rig_get(&r, 0, 1, 0, true, &miss, &blkno, &n), -ENOSPC);
	assert_int_equal(miss.kind, MISS_NONE);

	/* What is freed helps only after a checkpoint, and not before its end. */
	assert_int_equal(rig_free(&r, blkno, 1), 0);
	for (unsigned stage = 0; stage < 2; stage++) {
		miss.kind = MISS_NONE;
		assert_int_equal(rig_get(&r, 0, 1, 0, true, &miss, &blkno, &n), -EAGAIN);
		assert_int_equal(miss.kind, MISS_SPACE);
		assert_int_equal(alloc_prepare_reserve(r.a, 1, true, &miss), -EAGAIN);
		assert_int_equal(miss.kind, MISS_SPACE);
		assert_int_equal(alloc_prepare_reserve(r.a, 2, true, &miss), -ENOSPC);
		assert_int_equal(rig_get(&r, 0, 1, 0, false, &miss, &blkno, &n), -ENOSPC);
		if (stage == 0)
			rig_freeze(&r);
	}
	rig_release(&r);
	assert_int_equal(rig_get(&r, 0, 1, 0, true, &miss, &blkno, &n), 0);
	alloc_assert(r.a);
	rig_close(&r);
}

static void test_emergency_sizes(void **state)
{
	static const uint64_t size[][2] = {
		{MIN_BLOCKS, 64}, {MIN_BLOCKS + 15, 64}, {16384, 64},
		{25600, 100},     {1u << 20, 4096},      {1u << 22, 4096},  {1u << 24, 1u << 14},
	};

	(void)state;
	for (unsigned i = 0; i < sizeof(size) / sizeof(size[0]); i++) {
		struct super sb = {.nblocks = size[i][0], .journal_nblocks = MIN_JOURNAL};
		struct alloc_space s;
		struct alloc *a;

		assert_int_equal(super_layout(&sb), 0);
		assert_int_equal(alloc_create_empty(&sb, NULL, &a), 0);
		alloc_get_space(a, &s);
		assert_int_equal(s.emergency, size[i][1]);
		assert_true(s.emergency <= sb.nblocks / 16);
		alloc_destroy(a);
	}
}

/* Every other block is free, in all groups: runs of one, handed out until none is left. */
static void test_fragmented(void **state)
{
	struct rig r;
	struct miss miss = {0};
	struct alloc_space s;
	uint64_t blkno, n, got = 0;
	int err;

	(void)state;
	rig_open(&r, 5 * GROUP_BLOCKS);
	fill(&r, true, &err, &miss);
	assert_int_equal(r.count[FREE], 0);
	for (uint64_t b = super_data_begin(&r.sb); b < super_data_end(&r.sb); b += 2)
		assert_int_equal(rig_free(&r, b, 1), 0);
	rig_freeze(&r);
	rig_release(&r);
	rig_reopen(&r);
	alloc_get_space(r.a, &s);
	uint64_t nfree = s.nfree;
	assert_int_equal(nfree, (super_data_end(&r.sb) - super_data_begin(&r.sb) + 1) / 2);
	while ((err = rig_get(&r, got % 3 ? blkno + 1 : 0, 256, 0, true, &miss, &blkno, &n)) == 0) {
		assert_int_equal(n, 1);
		got++;
	}
	assert_int_equal(err, -ENOSPC);
	assert_int_equal(got, nfree);
	assert_int_equal(r.nloads, r.sb.ngroups);
	alloc_assert(r.a);
	rig_close(&r);
}

/* One hole that is long enough, far away, is found in spite of many short ones, and only once. */
static void test_finds_the_hole(void **state)
{
	struct rig r;
	struct miss miss = {0};
	uint64_t blkno, n;
	int err;

	(void)state;
	rig_open(&r, 4 * GROUP_BLOCKS);
	fill(&r, true, &err, &miss);
	for (uint64_t b = super_data_begin(&r.sb); b < 2 * GROUP_BLOCKS; b += 20)
		assert_int_equal(rig_free(&r, b, 7), 0);
	uint64_t hole = 3 * GROUP_BLOCKS + 64 * 5 - 3;
	assert_int_equal(rig_free(&r, hole, 200), 0);
	rig_freeze(&r);
	rig_release(&r);

	uint64_t goal = super_data_begin(&r.sb) + 8;
	assert_int_equal(rig_get(&r, goal, 200, 0, true, &miss, &blkno, &n), 0);
	assert_true(blkno == hole && n == 200);
	assert_int_equal(rig_get(&r, goal, 200, 0, true, &miss, &blkno, &n), 0);
	assert_int_equal(n, 7);
	alloc_unget(r.a, hole, 200);
	model_move(&r, hole, 200, USED, FREE);
	assert_int_equal(rig_get(&r, goal, 8, 0, true, &miss, &blkno, &n), 0);
	assert_true(blkno == hole && n == 8);
	assert_int_equal(rig_get(&r, goal, 7, 0, true, &miss, &blkno, &n), 0);
	assert_true(blkno > goal && blkno <= goal + 40 && n == 7);
	alloc_assert(r.a);
	rig_close(&r);
}

/* Free runs that end or begin with a word are not joined over the full word between them. */
static void test_word_borders(void **state)
{
	struct rig r;
	struct miss miss = {0};
	uint64_t blkno, n, word = GROUP_BLOCKS + 64 * 3;
	int err;

	(void)state;
	rig_open(&r, 3 * GROUP_BLOCKS);
	fill(&r, true, &err, &miss);
	assert_int_equal(rig_free(&r, word - 5, 5), 0);
	assert_int_equal(rig_free(&r, word + 64, 6), 0);
	assert_int_equal(rig_free(&r, word + 192, 64), 0);
	assert_int_equal(rig_free(&r, word + 320, 130), 0);
	rig_freeze(&r);
	rig_release(&r);
	static const uint64_t expect[][3] = {
		{10, 192, 10}, {129, 320, 129}, {55, 202, 54}, {6, 64, 6}, {6, 0, 5}, {6, 449, 1},
	};
	for (unsigned i = 0; i < sizeof(expect) / sizeof(expect[0]); i++) {
		assert_int_equal(rig_get(&r, GROUP_BLOCKS, expect[i][0], 0, true, &miss, &blkno, &n), 0);
		assert_int_equal(n, expect[i][2]);
		assert_int_equal(blkno, expect[i][1] ? word + expect[i][1] : word - 5);
	}
	assert_int_equal(r.count[FREE], 0);
	rig_close(&r);
}

/* --- freezes ---------------------------------------------------------------------------------- */

static void test_freeze_writes_what_changed(void **state)
{
	struct rig r;
	struct miss miss = {0};
	uint64_t blkno, n, later;

	(void)state;
	/* Two tables. */
	rig_open(&r, (uint64_t)(TABLE_GROUPS + 2) * GROUP_BLOCKS);
	assert_int_equal(r.sb.ntables, 2);
	rig_freeze(&r);
	assert_int_equal(r.freeze.nimages, 2); /* an empty volume: just the tables */
	rig_release(&r);
	rig_freeze(&r);
	assert_int_equal(r.freeze.nimages, 0);
	rig_release(&r);

	assert_int_equal(rig_get(&r, 7 * GROUP_BLOCKS + 5, 10, 0, false, &miss, &blkno, &n), 0);
	assert_true(blkno == 7 * GROUP_BLOCKS + 5 && n == 10);
	rig_freeze(&r);
	assert_int_equal(r.freeze.nimages, 2); /* one bitmap, its table */
	assert_int_equal(((struct disk_header *)r.freeze.image[0].block)->magic.raw, put32(MAGIC_BITMAP).raw);
	assert_int_equal(get64(((struct disk_header *)r.freeze.image[1].block)->generation), r.generation);
	/* Handed out after the freeze: not in its images, but in the next ones. */
	assert_int_equal(rig_get(&r, 7 * GROUP_BLOCKS + 15, 1, 0, false, &miss, &later, &n), 0);
	assert_int_equal(rig_free(&r, blkno, 3), 0);
	rig_release(&r);
	rig_freeze(&r);
	assert_int_equal(r.freeze.nimages, 2);
	rig_release(&r);
	rig_freeze(&r);
	assert_int_equal(r.freeze.nimages, 0); /* releasing is no change */
	rig_release(&r);
	alloc_assert(r.a);
	rig_close(&r);
}

static void test_prepared_frees_survive_a_freeze(void **state)
{
	struct rig r;
	struct miss miss = {0};
	uint64_t blkno, n;

	(void)state;
	rig_open(&r, 2 * GROUP_BLOCKS);
	assert_int_equal(rig_get(&r, 0, 100, 0, false, &miss, &blkno, &n), 0);
	assert_int_equal(alloc_prepare_free(r.a, blkno, 50, &miss), 0);
	rig_freeze(&r);
	alloc_free(r.a, blkno, 50);
	model_move(&r, blkno, 50, USED, PENDING);
	rig_release(&r);
	assert_int_equal(rig_free(&r, blkno, 1), -EUCLEAN);
	rig_freeze(&r);
	assert_int_equal(rig_free(&r, blkno, 1), -EUCLEAN);
	assert_int_equal(rig_free(&r, blkno + 50, 50), 0);
	rig_release(&r);
	assert_int_equal(rig_free(&r, blkno, 1), -EUCLEAN);
	alloc_assert(r.a);
	rig_close(&r);
}

static void test_bad_ranges(void **state)
{
	struct rig r;
	struct miss miss = {0};

	(void)state;
	rig_open(&r, 2 * GROUP_BLOCKS);
	uint64_t begin = super_data_begin(&r.sb), end = super_data_end(&r.sb);
	uint64_t bad[][2] = {
		{0, 1},
		{begin - 1, 1},
		{begin - 1, 2},
		{end, 1},
		{end - 1, 2},
		{r.sb.nblocks, 1},
		{UINT64_MAX, 1},
		{UINT64_MAX, UINT64_MAX},
		{begin, UINT64_MAX},
		{begin, 0},
		{r.sb.nblocks - 1, 1},
		{64, 5},
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(alloc_prepare_free(r.a, bad[i][0], bad[i][1], &miss), -EUCLEAN);
		assert_int_equal(alloc_prepare_mark(r.a, bad[i][0], bad[i][1], &miss), -EUCLEAN);
	}
	assert_int_equal(alloc_prepare_mark(r.a, begin, end - begin, &miss), 0);
	alloc_mark(r.a, begin, end - begin);
	model_move(&r, begin, end - begin, FREE, USED);
	rig_check(&r);
	assert_int_equal(alloc_prepare_mark(r.a, end - 1, 1, &miss), -EUCLEAN);
	assert_int_equal(rig_free(&r, begin, end - begin), 0);
	alloc_assert(r.a);
	rig_close(&r);
}

/* --- nodes ------------------------------------------------------------------------------------ */

static void check_node_sequence(uint64_t nblocks)
{
	struct rig r;
	struct miss miss = {0};
	uint64_t prev[2] = {0, 0};

	rig_open(&r, nblocks);
	assert_int_equal(rig_reserve(&r, 200, false, &miss), 0);
	for (unsigned i = 0; i < 100; i++) {
		for (unsigned copy = 0; copy < 2; copy++) {
			uint64_t blkno = rig_node_block(&r, copy);

			if (i > 0)
				assert_int_equal(blkno, prev[copy] + 1);
			prev[copy] = blkno;
		}
		assert_true(prev[1] > prev[0] && prev[1] - prev[0] > nblocks / 4);
	}
	alloc_assert(r.a);
	rig_close(&r);
}

static void test_node_sequence(void **state)
{
	(void)state;
	check_node_sequence(9000);
	check_node_sequence(GROUP_BLOCKS);
	check_node_sequence(20 * GROUP_BLOCKS);
}

/* Many generations of nodes on a small volume: the blocks are found again, all of them. */
static void test_node_churn(void **state)
{
	enum { NODES = 300 };
	static uint64_t node[NODES][2];
	struct rig r;
	struct miss miss = {0};

	(void)state;
	rig_open(&r, 2500);
	for (unsigned round = 0; round < 200; round++) {
		assert_int_equal(rig_reserve(&r, 2 * NODES, false, &miss), 0);
		for (unsigned i = 0; i < NODES; i++)
			for (unsigned copy = 0; copy < 2; copy++) {
				if (round > 0)
					assert_int_equal(rig_free(&r, node[i][copy], 1), 0);
				node[i][copy] = rig_node_block(&r, copy);
			}
		rig_freeze(&r);
		rig_release(&r);
		assert_int_equal(r.count[USED], 2 * NODES);
	}
	alloc_assert(r.a);
	rig_close(&r);
}

/* --- bitmaps on demand ------------------------------------------------------------------------ */

static void rig_populate(struct rig *r)
{
	struct miss miss = {0};
	uint64_t blkno, n;

	for (uint32_t g = 0; g < r->sb.ngroups; g++)
		assert_int_equal(rig_get(r, g * (uint64_t)GROUP_BLOCKS + 900, 10, 0, false, &miss, &blkno,
					 &n),
				 0);
	rig_freeze(r);
	rig_release(r);
	rig_reopen(r);
}

static void test_loads_what_it_needs(void **state)
{
	struct rig r;
	struct miss miss = {0};
	uint64_t blkno, n, goal = 4 * GROUP_BLOCKS + 20;

	(void)state;
	rig_open(&r, 8 * GROUP_BLOCKS);
	rig_populate(&r);
	assert_int_equal(alloc_get(r.a, alloc_at(goal), 5, 0, false, &miss, &blkno, &n), -EAGAIN);
	assert_true(miss.kind == MISS_BITMAP && miss.group == 4);
	assert_true(rig_provide(&r, &miss));
	assert_true(rig_provide(&r, &miss)); /* a second arrival changes nothing */
	assert_int_equal(alloc_get(r.a, alloc_at(goal), 5, 0, false, &miss, &blkno, &n), 0);
	assert_true(blkno == goal && n == 5);
	model_move(&r, blkno, n, FREE, USED);
	assert_int_equal(alloc_prepare_free(r.a, 2 * GROUP_BLOCKS + 900, 10, &miss), -EAGAIN);
	assert_true(miss.kind == MISS_BITMAP && miss.group == 2);
	assert_int_equal(alloc_prepare_mark(r.a, 3 * GROUP_BLOCKS + 7, 10, &miss), -EAGAIN);
	assert_true(miss.kind == MISS_BITMAP && miss.group == 3);

	/* More than the loaded group has; promised blocks are in memory, and stay there. */
	assert_int_equal(rig_reserve(&r, GROUP_BLOCKS + 10, false, &miss), 0);
	unsigned nloads = r.nloads;
	while (r.reserved > 0)
		rig_node_block(&r, r.reserved & 1);
	assert_int_equal(r.nloads, nloads);
	assert_true(nloads >= 2 && nloads < r.sb.ngroups);
	alloc_assert(r.a);
	rig_close(&r);
}

/* A group that surely lacks the run is read only if nothing else has anything. */
static void test_loads_promising_groups_first(void **state)
{
	struct rig r;
	struct miss miss = {0};
	uint64_t blkno, n;
	int err;

	(void)state;
	rig_open(&r, 5 * GROUP_BLOCKS);
	fill(&r, true, &err, &miss);
	assert_int_equal(rig_free(&r, GROUP_BLOCKS + 7, 5), 0);
	assert_int_equal(rig_free(&r, 2 * GROUP_BLOCKS + 7, 500), 0);
	rig_freeze(&r);
	rig_release(&r);
	rig_reopen(&r);
	assert_int_equal(alloc_get(r.a, alloc_at(1000), 501, 0, true, &miss, &blkno, &n), -EAGAIN);
	assert_true(miss.kind == MISS_BITMAP && miss.group == 1);
	assert_int_equal(alloc_get(r.a, alloc_at(1000), 100, 0, true, &miss, &blkno, &n), -EAGAIN);
	assert_true(miss.kind == MISS_BITMAP && miss.group == 2);
	assert_int_equal(rig_get(&r, 1000, 100, 0, true, &miss, &blkno, &n), 0);
	assert_true(blkno == 2 * GROUP_BLOCKS + 7 && n == 100 && r.nloads == 1);
	alloc_assert(r.a);
	rig_close(&r);
}

/* Room is a wish: what is wanted, once it is found, is not kept waiting until a device has shown whether there is more behind it far away. */
static void test_reads_little_for_room(void **state)
{
	struct alloc_place place = {.goal = 10 * GROUP_BLOCKS + 1000, .owner = 1, .room = 250};
	struct rig r;
	struct miss miss = {0};
	uint64_t blkno, n;
	int err;

	(void)state;
	rig_open(&r, 40 * GROUP_BLOCKS);
	fill(&r, true, &err, &miss);
	/* In each group enough for a run, but there is none but in one near by, and one far away. */
	for (uint64_t g = 10; g < 40; g++)
		for (uint64_t i = 0; i < 400; i++)
			assert_int_equal(rig_free(&r, g * GROUP_BLOCKS + 2000 + (g == 12 || g == 30 ? i : 2 * i), 1), 0);
	rig_freeze(&r);
	rig_release(&r);
	rig_reopen(&r);
	assert_int_equal(rig_get_at(&r, place, 1, 0, true, &miss, &blkno, &n), 0);
	assert_int_equal(blkno, 12 * GROUP_BLOCKS + 2000);
	assert_int_equal(r.nloads, 3);
	place.goal = 20 * GROUP_BLOCKS + 1000;
	assert_int_equal(rig_get_at(&r, place, 1, 0, true, &miss, &blkno, &n), 0);
	assert_int_equal(r.nloads, 3 + 5);
	/* What is wanted is looked for as far as ever. */
	assert_int_equal(rig_get_at(&r, place, 100, 0, true, &miss, &blkno, &n), 0);
	assert_int_equal(blkno, 30 * GROUP_BLOCKS + 2000);
	assert_int_equal(n, 100);
	rig_close(&r);
}

/* A promise of all that is in memory: data must be found elsewhere, by loading. */
static void test_data_leaves_promised_blocks_in_memory(void **state)
{
	struct rig r;
	struct miss miss = {0};
	struct alloc_space s;
	uint64_t blkno, n;

	(void)state;
	/* Of five groups the node cursors begin in the second and the fourth, which have no fixed blocks. */
	rig_open(&r, 5 * GROUP_BLOCKS);
	rig_populate(&r);
	assert_int_equal(rig_reserve(&r, 1, false, &miss), 0);
	assert_int_equal(r.nloads, 2); /* a place for each copy */
	uint64_t goal = miss.group * (uint64_t)GROUP_BLOCKS + 3000;
	assert_int_equal(rig_reserve(&r, 2 * (GROUP_BLOCKS - 10) - 1, false, &miss), 0);
	assert_int_equal(r.nloads, 2);
	assert_int_equal(alloc_get(r.a, alloc_at(goal), 1, 0, false, &miss, &blkno, &n), -EAGAIN);
	assert_true(miss.kind == MISS_BITMAP && miss.group != goal / GROUP_BLOCKS);
	assert_int_equal(rig_get(&r, goal, 1, 0, false, &miss, &blkno, &n), 0);
	assert_int_equal(blkno, goal);
	assert_int_equal(r.nloads, 3);
	alloc_get_space(r.a, &s);
	assert_int_equal(s.reserved, r.reserved);
	while (r.reserved > 0)
		rig_node_block(&r, r.reserved & 1);
	assert_int_equal(r.nloads, 3);
	alloc_assert(r.a);
	rig_close(&r);
}

static void test_refuses_wrong_bitmaps(void **state)
{
	_Alignas(8) uint8_t block[BLOCK_SIZE];
	struct disk_bitmap *b = (void *)block;
	struct rig r;
	unsigned slot;
	uint32_t csum;

	(void)state;
	rig_open(&r, 2 * GROUP_BLOCKS);
	rig_populate(&r);
	alloc_bitmap_where(r.a, 0, &slot, &csum);
	memcpy(block, disk_bitmap(&r, 0, slot, csum), BLOCK_SIZE);

	b->bits[GROUP_BLOCKS / 8 - 1] |= 0x80; /* one more used */
	assert_int_equal(alloc_bitmap_arrived(r.a, 0, block), -EUCLEAN);
	b->bits[0] &= 0xfe; /* but the boot block free: the sum is right */
	assert_int_equal(alloc_bitmap_arrived(r.a, 0, block), -EUCLEAN);
	alloc_assert(r.a);
	struct miss miss = {.kind = MISS_BITMAP, .group = 0};
	assert_true(rig_provide(&r, &miss));
	alloc_assert(r.a);
	rig_close(&r);
}

/* --- much -------------------------------------------------------------------------------------- */

/* A million frees of one block each, out of order, on a volume of 1 TiB; and all of it again. */
static void test_million_frees(void **state)
{
	enum { EXTENT = 256, N = 4096 };
	static uint64_t extent[N];
	struct super sb = {.nblocks = UINT64_C(1) << 28, .journal_nblocks = 32768};
	struct miss miss = {0};
	struct alloc_freeze f;
	struct alloc_space s, empty;
	struct alloc *a;
	uint64_t n;

	(void)state;
	assert_int_equal(super_layout(&sb), 0);
	assert_int_equal(alloc_create_empty(&sb, NULL, &a), 0);
	alloc_get_space(a, &empty);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < N; i++) {
			assert_int_equal(alloc_get(a, alloc_at(i ? extent[i - 1] + EXTENT : 0), EXTENT, 0, false, &miss,
						   &extent[i], &n),
					 0);
			for (uint64_t more; n < EXTENT; n += more) { /* a group's end */
				uint64_t at;

				alloc_unget(a, extent[i], n);
				assert_int_equal(alloc_get(a, alloc_at(0), EXTENT, 0, false, &miss, &at, &more), 0);
				extent[i] = at;
				n = 0;
			}
		}
		for (unsigned k = 0; k < EXTENT; k++)
			for (unsigned i = 0; i < N; i++) {
				uint64_t b = extent[(i * 1237) % N] + (k * 37) % EXTENT;

				assert_int_equal(alloc_prepare_free(a, b, 1, &miss), 0);
				alloc_free(a, b, 1);
			}
		alloc_get_space(a, &s);
		assert_int_equal(s.npending, (uint64_t)EXTENT * N);
		assert_int_equal(s.nfree + s.npending, empty.nfree);
		assert_int_equal(alloc_freeze(a, round + 1, &f), 0);
		assert_int_equal(f.nfree, empty.nfree);
		alloc_release(a, &f);
		alloc_get_space(a, &s);
		assert_true(s.npending == 0 && s.nfree == empty.nfree);
	}
	alloc_destroy(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_small),
		cmocka_unit_test(test_random_groups),
		cmocka_unit_test(test_random_straddling),
		cmocka_unit_test(test_full_volume),
		cmocka_unit_test(test_emergency_sizes),
		cmocka_unit_test(test_fragmented),
		cmocka_unit_test(test_finds_the_hole),
		cmocka_unit_test(test_word_borders),
		cmocka_unit_test(test_freeze_writes_what_changed),
		cmocka_unit_test(test_prepared_frees_survive_a_freeze),
		cmocka_unit_test(test_bad_ranges),
		cmocka_unit_test(test_node_sequence),
		cmocka_unit_test(test_node_churn),
		cmocka_unit_test(test_loads_what_it_needs),
		cmocka_unit_test(test_loads_promising_groups_first),
		cmocka_unit_test(test_reads_little_for_room),
		cmocka_unit_test(test_data_leaves_promised_blocks_in_memory),
		cmocka_unit_test(test_refuses_wrong_bitmaps),
		cmocka_unit_test(test_million_frees),
	};

	return cmocka_run_group_tests_name("alloc", tests, NULL, NULL);
}
