/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_ahead.c - leaves that are read together with one that is missing: fewer reads, the same contents; damage among them is nothing
 * until somebody wants the leaf; and where they are of no use they are not read.
 */
#include "tests/unit/volume_rig.h"

/* Items of which three fill a leaf; value i is known. */
#define VALUE 1000u
#define A_TXN 8u

static void value_of(uint64_t i, uint8_t *val)
{
	for (unsigned b = 0; b < VALUE; b++)
		val[b] = (uint8_t)(i * 31 + b);
}

static int put_step(struct rig *r, uint64_t first, unsigned n)
{
	uint8_t val[A_TXN][VALUE];

	for (;;) {
		struct miss miss = {0};
		struct txn t;
		int err;

		volume_lock(r->v);
		txn_begin(&t, r->v);
		for (unsigned i = 0; i < n; i++) {
			struct key key = key_make(INO_FIRST + first + i, ITEM_INLINE, 0);

			value_of(first + i, val[i]);
			txn_put(&t, &key, val[i], VALUE);
		}
		err = txn_commit(&t, r->q, 0, &miss, NULL, NULL);
		txn_end(&t);
		volume_unlock(r->v);
		if (err != -EAGAIN)
			return err;
		assert_int_equal(volume_provide(r->v, r->q, &miss), 0);
	}
}

/* A volume with `n` of them, closed and opened again with that cache. */
static void make(struct rig *r, uint64_t n, uint64_t cache_bytes)
{
	rig_create(r, 128 << 20, MIN_JOURNAL, 1);
	for (uint64_t i = 0; i < n; i += A_TXN)
		assert_int_equal(put_step(r, i, A_TXN), 0);
	r->cfg.cache_bytes = cache_bytes;
	rig_reopen(r);
}

/* What volume_provide() says, if it fails; else the value has been compared. */
static int get(struct rig *r, uint64_t i, struct disk_ptr *missed)
{
	struct key key = key_make(INO_FIRST + i, ITEM_INLINE, 0);
	uint8_t want[VALUE];

	value_of(i, want);
	for (;;) {
		struct miss miss = {0};
		const void *val;
		unsigned len;
		int err;

		volume_lock(r->v);
		err = tree_lookup(r->v->tree, &key, &miss, &val, &len);
		if (!err) {
			assert_int_equal(len, VALUE);
			assert_memory_equal(val, want, VALUE);
		}
		volume_unlock(r->v);
		if (!err)
			return 0;
		assert_int_equal(err, -EAGAIN);
		if (missed && miss.level == 0)
			*missed = miss.ptr;
		err = volume_provide(r->v, r->q, &miss);
		if (err)
			return err;
	}
}

static uint64_t nreads(struct rig *r)
{
	struct dev_stats s;

	dev_get_stats(r->dev, &s);
	return s.reads;
}

static void test_neighbours_come_along(void **state)
{
	const uint64_t n = 3000;
	struct rig r;

	(void)state;
	make(&r, n, 0);
	uint64_t reads = nreads(&r), loads = r.v->stats.loads;

	for (uint64_t i = 0; i < n; i++)
		assert_int_equal(get(&r, i, NULL), 0);
	reads = nreads(&r) - reads;
	loads = r.v->stats.loads - loads;
	assert_true(loads >= n / 3);
	assert_true(reads < loads / 8);
	volume_lock(r.v);
	tree_assert(r.v->tree);
	volume_unlock(r.v);
	rig_destroy(&r);
}

/* In a cache that has hardly room for what is wanted. */
static void test_not_in_a_small_cache(void **state)
{
	struct rig r;

	(void)state;
	make(&r, 600, 64 * BLOCK_SIZE);
	uint64_t reads = nreads(&r), loads = r.v->stats.loads;

	for (uint64_t i = 0; i < 600; i++)
		assert_int_equal(get(&r, i, NULL), 0);
	assert_int_equal(nreads(&r) - reads, r.v->stats.loads - loads);
	rig_destroy(&r);
}

/* Single ones here and there of more than the cache can hold. */
static void test_not_where_it_is_of_no_use(void **state)
{
	const uint64_t n = 21000, cache = 1024; /* three a leaf */
	uint64_t reads = 0, loads = 0, x = 1;
	struct rig r;

	(void)state;
	make(&r, n, cache * BLOCK_SIZE);
	for (unsigned i = 0; i < 4000; i++) {
		if (i == 1000) {
			reads = nreads(&r);
			loads = r.v->stats.loads;
		}
		x = x * UINT64_C(6364136223846793005) + 1442695040888963407;
		assert_int_equal(get(&r, (x >> 33) % n, NULL), 0);
	}
	reads = nreads(&r) - reads;
	loads = r.v->stats.loads - loads;
	assert_true(reads > 2000);
	assert_true(loads < 3 * reads);
	rig_destroy(&r);
}

static void flip(struct rig *r, uint64_t blkno)
{
	dev_sim_flip(r->dev, blkno * BLOCK_SIZE + 1234, 3);
}

/* The device's pointer to the leaf that has item i. */
static struct disk_ptr leaf_of(struct rig *r, uint64_t i)
{
	struct disk_ptr ptr = {0};

	rig_reopen(r);
	assert_int_equal(get(r, i, &ptr), 0);
	assert_true(get64(ptr.blkno[0]) != 0);
	rig_reopen(r);
	return ptr;
}

static void test_bad_first_copies(void **state)
{
	struct rig r;

	(void)state;
	make(&r, 600, 0);
	struct disk_ptr a = leaf_of(&r, 20), b = leaf_of(&r, 31);

	flip(&r, get64(a.blkno[0]));
	flip(&r, get64(b.blkno[0]));
	/* Nobody wants b yet. */
	assert_int_equal(get(&r, 20, NULL), 0);
	assert_int_equal(r.v->stats.repairs, 1);
	assert_int_equal(get(&r, 23, NULL), 0);
	assert_int_equal(r.v->stats.repairs, 1);
	assert_int_equal(get(&r, 31, NULL), 0);
	assert_int_equal(r.v->stats.repairs, 2);
	for (uint64_t i = 0; i < 600; i++)
		assert_int_equal(get(&r, i, NULL), 0);
	assert_int_equal(r.v->stats.repairs, 2);
	assert_int_equal(r.v->error_count, 0);
	rig_destroy(&r);
}

static void test_lost_neighbour(void **state)
{
	struct rig r;

	(void)state;
	make(&r, 600, 0);
	struct disk_ptr lost = leaf_of(&r, 31);

	flip(&r, get64(lost.blkno[0]));
	flip(&r, get64(lost.blkno[1]));
	assert_int_equal(get(&r, 20, NULL), 0);
	assert_int_equal(get(&r, 40, NULL), 0);
	assert_int_equal(r.v->error_count, 0);
	assert_int_equal(get(&r, 31, NULL), -EIO);
	assert_int_equal(r.v->error_count, 1);
	rig_destroy(&r);
}

/* A read that fails as a whole does not stand for the leaf. */
static void test_failed_read(void **state)
{
	struct rig r;

	(void)state;
	make(&r, 600, 0);
	assert_int_equal(get(&r, 100, NULL), 0);
	dev_sim_fail(r.dev, DEV_READ, 1, SIM_FAULT_ONCE, -EIO, 0, 128 << 20);
	assert_int_equal(get(&r, 400, NULL), 0);
	assert_int_equal(r.v->error_count, 0);
	rig_destroy(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_neighbours_come_along),
		cmocka_unit_test(test_not_in_a_small_cache),
		cmocka_unit_test(test_not_where_it_is_of_no_use),
		cmocka_unit_test(test_bad_first_copies),
		cmocka_unit_test(test_lost_neighbour),
		cmocka_unit_test(test_failed_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
