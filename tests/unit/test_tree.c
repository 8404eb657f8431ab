/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_tree.c - the tree against a sorted array.
 *
 * Keys come from a small universe, numbered in key order, so the model is an array indexed by that number.  Random
 * transactions, lookups, freezes, thaws, late arrivals and reopenings follow each other; caches are tiny, so that
 * everything misses all the time.
 */
#include "tree_rig.h"

#include <stdio.h>

#define NKEYS 3000u

struct item {
	bool present;
	unsigned len;
	uint8_t bytes[MAX_ITEM];
};

struct model {
	struct item item[NKEYS];
};

enum op_kind { DO_PUT, DO_DEL, DO_PATCH, DO_REPUT };

struct op {
	enum op_kind kind;
	unsigned index, at, len;
	uint8_t bytes[MAX_ITEM];
};

#define MAX_OPS 24

/* --- keys and values -------------------------------------------------------------------------- */

static bool index_is_empty_item(const struct rig *r, unsigned i)
{
	return !r->raw && i < NKEYS / 8;
}

static struct key index_key(const struct rig *r, unsigned i)
{
	if (r->raw)
		return key_make(i / 64, (uint8_t)(i % 64 / 8), (uint64_t)(i % 8) << 60);
	if (index_is_empty_item(r, i))
		return key_make(INO_VOLUME, ITEM_ORPHAN, i + 1);
	return key_make(16 + i / 50, ITEM_XATTR_MORE, (256u << 7) + i % 50);
}

static unsigned key_index(const struct rig *r, const struct key *k)
{
	unsigned lo = 0, hi = NKEYS - 1;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		struct key key = index_key(r, mid);

		if (key_cmp(&key, k) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static unsigned random_len(struct rig *r, unsigned index)
{
	unsigned max = r->raw ? MAX_ITEM : 1024;

	if (index_is_empty_item(r, index))
		return 0;
	switch (rig_below(r, 4)) {
	case 0:
		return max;
	case 1:
		return r->raw ? 0 : 1;
	case 2:
		return 1 + (unsigned)rig_below(r, max);
	default:
		return 1 + (unsigned)rig_below(r, 60);
	}
}

static void random_bytes(struct rig *r, uint8_t *p, unsigned n)
{
	while (n--)
		*p++ = (uint8_t)rig_rand(r);
}

/* --- transactions ----------------------------------------------------------------------------- */

static void make_op(struct rig *r, const struct model *m, unsigned index, unsigned grow_percent, struct op *op)
{
	const struct item *it = &m->item[index];

	*op = (struct op){.kind = DO_PUT, .index = index, .len = random_len(r, index)};
	if (it->present && rig_below(r, 100) >= grow_percent) {
		op->kind = DO_DEL;
	} else if (it->present && !index_is_empty_item(r, index)) {
		op->kind = (enum op_kind[]){DO_PUT, DO_PATCH, DO_REPUT}[rig_below(r, 3)];
		if (op->kind == DO_PATCH) {
			unsigned max = r->raw ? MAX_ITEM : 1024;

			op->at = (unsigned)rig_below(r, it->len + 1);
			op->len = (unsigned)rig_below(r, max - op->at + 1);
		}
	}
	random_bytes(r, op->bytes, op->len);
}

/* Distinct keys, half of the time close to each other. */
static unsigned make_txn(struct rig *r, const struct model *m, unsigned grow_percent, unsigned max, struct op *op)
{
	unsigned n = 1 + (unsigned)rig_below(r, max), base = (unsigned)rig_below(r, NKEYS - 64), i, j, made = 0;
	bool close = rig_below(r, 2);

	for (i = 0; i < n; i++) {
		unsigned index = close ? base + (unsigned)rig_below(r, 64) : (unsigned)rig_below(r, NKEYS);

		for (j = 0; j < made && op[j].index != index; j++)
			;
		if (j == made)
			make_op(r, m, index, grow_percent, &op[made++]);
	}
	return made;
}

static int prepare_op(struct rig *r, const struct model *m, const struct op *op, struct tree_cost *cost, struct miss *miss)
{
	struct key key = index_key(r, op->index);
	const struct item *it = &m->item[op->index];
	unsigned old = it->present ? it->len : 0, end = op->at + op->len;
	unsigned grow = op->kind != DO_DEL && end > old ? end - old : 0;
	int err = 0;

	if (op->kind == DO_REPUT)
		err = tree_prepare(r->tree, &key, 0, cost, miss);
	return err ? err : tree_prepare(r->tree, &key, grow, cost, miss);
}

static void assert_unchanged(struct rig *r, const struct tree_stats *a, const struct alloc_space *sa)
{
	struct tree_stats b;
	struct alloc_space sb;

	tree_get_stats(r->tree, &b);
	alloc_get_space(r->alloc, &sb);
	assert_int_equal(a->dirty, b.dirty);
	assert_int_equal(a->copies, b.copies);
	assert_int_equal(a->splits, b.splits);
	assert_int_equal(a->merges, b.merges);
	assert_int_equal(a->evictions, b.evictions);
	assert_memory_equal(sa, &sb, sizeof(sb));
}

static uint64_t prepare_txn(struct rig *r, const struct model *m, const struct op *op, unsigned n)
{
	struct tree_stats stats;
	struct alloc_space space;
	struct tree_cost cost;
	struct miss miss;
	unsigned i;
	int err;

again:
	tree_get_stats(r->tree, &stats);
	alloc_get_space(r->alloc, &space);
	cost = (struct tree_cost){0};
	for (i = 0; i < n; i++) {
		err = prepare_op(r, m, &op[i], &cost, &miss);
		if (err) {
			assert_int_equal(err, -EAGAIN);
			assert_unchanged(r, &stats, &space);
			rig_provide(r, r->tree, &miss);
			goto again;
		}
	}
	err = alloc_prepare_reserve(r->alloc, 2 * cost.nodes, false, &miss);
	if (err == -EAGAIN) {
		rig_provide(r, r->tree, &miss);
		goto again;
	}
	assert_int_equal(err, 0);
	assert_unchanged(r, &stats, &space);
	return cost.nodes;
}

static void run_op(struct rig *r, struct model *m, const struct op *op)
{
	struct key key = index_key(r, op->index);
	struct item *it = &m->item[op->index];

	switch (op->kind) {
	case DO_REPUT:
		tree_del(r->tree, &key);
		it->present = false;
		/* fall through */
	case DO_PUT:
		assert_int_equal(tree_put(r->tree, &key, op->bytes, op->len), !it->present);
		it->present = true;
		it->len = op->len;
		memcpy(it->bytes, op->bytes, op->len);
		break;
	case DO_DEL:
		tree_del(r->tree, &key);
		it->present = false;
		break;
	case DO_PATCH:
		tree_patch(r->tree, &key, op->at, op->bytes, op->len);
		memcpy(it->bytes + op->at, op->bytes, op->len);
		if (op->at + op->len > it->len)
			it->len = op->at + op->len;
		break;
	}
}

/* Runs the operations in random order.  The bound must hold at every moment. */
static void run_txn(struct rig *r, struct model *m, struct op *op, unsigned n)
{
	uint64_t bound = prepare_txn(r, m, op, n) + tree_ndirty(r->tree);

	while (n > 0) {
		unsigned i = (unsigned)rig_below(r, n);

		run_op(r, m, &op[i]);
		assert_true(tree_ndirty(r->tree) <= bound);
		assert_int_equal(rig_reserved(r), 2 * tree_ndirty(r->tree));
		op[i] = op[--n];
	}
}

/* --- comparisons ------------------------------------------------------------------------------ */

static void check_item(struct rig *r, const struct model *m, unsigned index, const struct key *key, const void *val,
		       unsigned len)
{
	struct key want = index_key(r, index);

	assert_int_equal(key_cmp(&want, key), 0);
	assert_true(m->item[index].present);
	assert_int_equal(len, m->item[index].len);
	assert_memory_equal(val, m->item[index].bytes, len);
}

static unsigned model_next(const struct model *m, unsigned i)
{
	while (i < NKEYS && !m->item[i].present)
		i++;
	return i;
}

static void check_lookups(struct rig *r, const struct model *m, unsigned i)
{
	struct key key = index_key(r, i), found;
	const void *val;
	struct miss miss;
	unsigned len, next = model_next(m, i), prev = i;
	int err;

	err = rig_wait(r, r->tree, &miss, tree_lookup(r->tree, &key, &miss, &val, &len));
	assert_int_equal(err, m->item[i].present ? 0 : -ENOENT);
	if (!err)
		check_item(r, m, i, &key, val, len);
	err = rig_wait(r, r->tree, &miss, tree_seek(r->tree, &key, &miss, &found, &val, &len));
	assert_int_equal(err, next < NKEYS ? 0 : -ENOENT);
	if (!err)
		check_item(r, m, next, &found, val, len);
	while (prev > 0 && !m->item[prev].present)
		prev--;
	err = rig_wait(r, r->tree, &miss, tree_seek_back(r->tree, &key, &miss, &found, &val, &len));
	assert_int_equal(err, m->item[prev].present ? 0 : -ENOENT);
	if (!err)
		check_item(r, m, prev, &found, val, len);
}

/* Walks up to `max` items from key i on; on a miss starts again behind the last one seen. */
static void check_walk(struct rig *r, struct tree *t, const struct model *m, unsigned i, unsigned max)
{
	struct tree_cursor c;
	struct key key = index_key(r, i);
	struct miss miss;
	int err = rig_wait(r, t, &miss, tree_first(t, &c, &key, &miss));

	for (i = model_next(m, i); !err && max > 0; i = model_next(m, i + 1), max--) {
		check_item(r, m, i, &c.key, c.val, c.len);
		assert_int_equal(key_index(r, &c.key), i);
		err = tree_next(t, &c, &miss);
		if (err == -EAGAIN) {
			rig_provide(r, t, &miss);
			key = i + 1 < NKEYS ? index_key(r, i + 1) : key_make(UINT64_MAX, UINT8_MAX, UINT64_MAX);
			err = rig_wait(r, t, &miss, tree_first(t, &c, &key, &miss));
		}
	}
	if (err) {
		assert_int_equal(err, -ENOENT);
		assert_int_equal(i, NKEYS);
	}
}

/* What the freeze has written is the model of that moment, to one who reads it from the device. */
static void check_frozen(struct rig *r, const struct model *snapshot)
{
	struct tree *t;

	assert_int_equal(tree_create(&r->sb, r->alloc, &r->tf.root, r->tf.root_level, 1 + rig_below(r, 8), NULL, &t), 0);
	check_walk(r, t, snapshot, 0, UINT32_MAX);
	tree_assert(t);
	tree_destroy(t);
}

/* --- random histories ------------------------------------------------------------------------- */

/* Adds up what happened, over the trees of a history. */
static void add_stats(struct rig *r, struct tree_stats *sum)
{
	struct tree_stats s;

	tree_get_stats(r->tree, &s);
	sum->misses += s.misses;
	sum->splits += s.splits;
	sum->merges += s.merges;
	sum->copies += s.copies;
	sum->evictions += s.evictions;
	if (s.level > sum->level)
		sum->level = s.level;
}

static void random_checkpoint(struct rig *r, const struct model *m, struct model *snapshot, struct tree_stats *sum)
{
	if (r->frozen) {
		check_frozen(r, snapshot);
		rig_thaw(r);
	} else if (rig_below(r, 4) == 0) {
		add_stats(r, sum);
		rig_reopen(r);
	} else {
		rig_freeze(r);
		memcpy(snapshot, m, sizeof(*m));
		check_frozen(r, snapshot);
	}
	rig_check(r);
}

static void run_history(bool raw, uint64_t seed, unsigned steps, struct tree_stats *sum)
{
	struct model *m = calloc(1, sizeof(*m)), *snapshot = calloc(1, sizeof(*m));
	static const uint64_t cache[] = {1, 4, 8, 16, 100000};
	struct op op[MAX_OPS];
	struct rig r;
	unsigned i, n;

	rig_init(&r, 70000, cache[seed % 5], seed);
	r.raw = raw;
	for (i = 0; i < steps; i++) {
		/* The tree grows and shrinks in waves. */
		unsigned grow_percent = i / 400 % 3 == 2 ? 20 : 85;
		/* All paths of a transaction must fit the cache together. */
		unsigned max = r.cache_nodes < 16 ? 1 : r.cache_nodes < 100 ? 4 : MAX_OPS;

		n = make_txn(&r, m, grow_percent, max, op);
		run_txn(&r, m, op, n);
		check_lookups(&r, m, (unsigned)rig_below(&r, NKEYS));
		if (rig_below(&r, 8) == 0)
			check_walk(&r, r.tree, m, (unsigned)rig_below(&r, NKEYS), 200);
		if (rig_below(&r, 8) == 0)
			rig_deliver_stale(&r);
		if (rig_below(&r, 16) == 0)
			rig_check(&r);
		if (rig_below(&r, 40) == 0)
			random_checkpoint(&r, m, snapshot, sum);
	}
	check_walk(&r, r.tree, m, 0, UINT32_MAX);
	alloc_assert(r.alloc);
	assert_true(r.nbitmap_misses > 0);
	add_stats(&r, sum);
	rig_destroy(&r);
	free(m);
	free(snapshot);
}

static void test_histories(void **state)
{
	const char *one = getenv("SEED");
	uint64_t first = one ? strtoull(one, NULL, 0) : 1, last = one ? first : 20, seed;
	struct tree_stats sum = {0};

	(void)state;
	for (seed = first; seed <= last; seed++) {
		fprintf(stderr, "SEED=%llu\n", (unsigned long long)seed);
		run_history(seed & 1, seed, 2500, &sum);
	}
	fprintf(stderr, "level %u, %llu misses, %llu splits, %llu merges, %llu copies, %llu evictions\n", sum.level,
		(unsigned long long)sum.misses, (unsigned long long)sum.splits, (unsigned long long)sum.merges,
		(unsigned long long)sum.copies, (unsigned long long)sum.evictions);
	if (one)
		return;
	assert_true(sum.level >= 2);
	assert_true(sum.misses > 1000 && sum.splits > 1000 && sum.merges > 1000);
	assert_true(sum.copies > 1000 && sum.evictions > 1000);
}

/* --- a few leaves, changed again and again ---------------------------------------------------- */

#define FEW_KEYS  400u	/* of the universe */
#define FEW_CLOSE 40u
#define FEW_OPS   24u

/* Any number of operations on the same keys, one after the other; what each is allowed to be depends on those before. */
static unsigned make_few(struct rig *r, const struct model *m, unsigned base, unsigned grow_percent, struct op *op)
{
	struct model *after = malloc(sizeof(*after));
	unsigned n = 1 + (unsigned)rig_below(r, FEW_OPS), i;

	memcpy(after, m, FEW_KEYS * sizeof(after->item[0]));
	for (i = 0; i < n; i++) {
		struct item *it;

		make_op(r, after, base + (unsigned)rig_below(r, FEW_CLOSE), grow_percent, &op[i]);
		if (op[i].kind == DO_REPUT)
			op[i].kind = DO_PUT;
		it = &after->item[op[i].index];
		if (op[i].kind == DO_PATCH)
			it->len = op[i].at + op[i].len > it->len ? op[i].at + op[i].len : it->len;
		else
			it->len = op[i].len;
		it->present = op[i].kind != DO_DEL;
	}
	free(after);
	return n;
}

/* As the journal does it: what an operation may add is all that it brings, and nothing is known of those before it. */
static uint64_t prepare_few(struct rig *r, const struct op *op, unsigned n)
{
	struct tree_cost cost;
	struct miss miss;
	unsigned i;
	int err;

	do {
		cost = (struct tree_cost){0};
		for (i = 0, err = 0; i < n && !err; i++) {
			struct key key = index_key(r, op[i].index);

			err = tree_prepare(r->tree, &key, op[i].kind == DO_DEL ? TREE_SHRINKS : op[i].len, &cost, &miss);
		}
		if (!err)
			err = alloc_prepare_reserve(r->alloc, 2 * cost.nodes, false, &miss);
		if (err == -EAGAIN)
			rig_provide(r, r->tree, &miss);
	} while (err == -EAGAIN);
	assert_int_equal(err, 0);
	return cost.nodes;
}

static void run_few(struct rig *r, struct model *m, const struct op *op, unsigned n)
{
	uint64_t bound = prepare_few(r, op, n) + tree_ndirty(r->tree);
	unsigned i;

	rig_check(r);
	for (i = 0; i < n; i++) {
		run_op(r, m, &op[i]);
		assert_true(tree_ndirty(r->tree) <= bound);
		rig_check(r);
	}
}

/* Leaves that are split, merged, emptied, frozen and evicted while notes lead to them: each step is checked. */
static void run_few_leaves(bool raw, uint64_t seed, unsigned steps, struct tree_stats *sum)
{
	struct model *m = calloc(1, sizeof(*m)), *snapshot = calloc(1, sizeof(*m));
	static const uint64_t cache[] = {1, 16, 100000};
	struct op op[FEW_OPS];
	unsigned i, k, base = 0;
	struct rig r;

	rig_init(&r, 70000, cache[seed % 3], seed);
	r.raw = raw;
	for (i = 0; i < steps; i++) {
		unsigned n;

		if (rig_below(&r, 8) == 0)
			base = (unsigned)rig_below(&r, FEW_KEYS - FEW_CLOSE);
		n = make_few(&r, m, base, (unsigned[]){85, 50, 20}[i / 40 % 3], op);
		if (r.cache_nodes < 16)
			n = 1;
		run_few(&r, m, op, n);
		for (k = 0; k < 4; k++)
			check_lookups(&r, m, base + (unsigned)rig_below(&r, FEW_CLOSE));
		if (rig_below(&r, 4) == 0)
			check_walk(&r, r.tree, m, base, FEW_CLOSE);
		if (rig_below(&r, 12) == 0)
			random_checkpoint(&r, m, snapshot, sum);
	}
	check_walk(&r, r.tree, m, 0, UINT32_MAX);
	alloc_assert(r.alloc);
	add_stats(&r, sum);
	rig_destroy(&r);
	free(m);
	free(snapshot);
}

static void test_few_leaves(void **state)
{
	const char *one = getenv("SEED");
	uint64_t first = one ? strtoull(one, NULL, 0) : 1, last = one ? first : 12, seed;
	struct tree_stats sum = {0};

	(void)state;
	for (seed = first; seed <= last; seed++) {
		fprintf(stderr, "few leaves, SEED=%llu\n", (unsigned long long)seed);
		run_few_leaves(seed / 3 & 1, seed, 600, &sum);
	}
	fprintf(stderr, "level %u, %llu splits, %llu merges, %llu copies\n", sum.level, (unsigned long long)sum.splits,
		(unsigned long long)sum.merges, (unsigned long long)sum.copies);
	if (one)
		return;
	assert_true(sum.splits > 500 && sum.merges > 500 && sum.copies > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_histories),
		cmocka_unit_test(test_few_leaves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
