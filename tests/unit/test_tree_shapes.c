/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_tree_shapes.c - the tree with many items, with none, and in the corners: empty leaves, a damaged image, the
 * cost's bound where it is tight.  Random histories are test_tree.c's.
 */
#include "tree_rig.h"

/* --- many items ------------------------------------------------------------------------------- */

#define MANY 200000u
#define MANY_LEN 40u

static struct key many_key(unsigned i)
{
	return key_make(16 + i / 50, ITEM_XATTR_MORE, (256u << 7) + i % 50);
}

static void many_value(unsigned i, uint8_t v[MANY_LEN])
{
	memset(v, (int)(i * 7 & 0xff), MANY_LEN);
	memcpy(v, &i, sizeof(i));
}

static void many_put(struct rig *r, unsigned i)
{
	struct key key = many_key(i);
	uint8_t v[MANY_LEN];

	many_value(i, v);
	assert_true(rig_put(r, &key, v, MANY_LEN));
}

static void many_check(struct rig *r)
{
	struct key key = many_key(0);
	struct tree_cursor c;
	uint8_t v[MANY_LEN];
	struct miss miss;
	unsigned i = 0;
	int err;

	for (err = tree_first(r->tree, &c, &key, &miss); !err; err = tree_next(r->tree, &c, &miss), i++) {
		struct key want = many_key(i);

		many_value(i, v);
		assert_int_equal(key_cmp(&want, &c.key), 0);
		assert_int_equal(c.len, MANY_LEN);
		assert_memory_equal(c.val, v, MANY_LEN);
	}
	assert_int_equal(err, -ENOENT);
	assert_int_equal(i, MANY);
}

static unsigned *shuffled(struct rig *r)
{
	unsigned *order = malloc(MANY * sizeof(*order)), i;

	for (i = 0; i < MANY; i++) {
		unsigned j = (unsigned)rig_below(r, i + 1);

		order[i] = order[j];
		order[j] = i;
	}
	return order;
}

/* Deletes everything, with a checkpoint on the way, and expects nothing to be left. */
static void many_delete(struct rig *r, const unsigned *order, bool backwards)
{
	struct tree_stats stats;
	unsigned i;

	for (i = 0; i < MANY; i++) {
		unsigned at = backwards ? MANY - 1 - i : i;
		struct key key = many_key(order ? order[at] : at);

		rig_del(r, &key);
		if (i == MANY / 2) {
			rig_check(r);
			rig_freeze(r);
			rig_thaw(r);
		}
	}
	rig_check(r);
	rig_freeze(r);
	tree_get_stats(r->tree, &stats);
	assert_int_equal(stats.level, 0);
	assert_int_equal(stats.frozen, 1);
	assert_int_equal(r->tf.nnodes, 1);
	assert_int_equal(get16(((const struct disk_node *)r->tf.node[0].block)->nitems), 0);
	rig_thaw(r);
	rig_check(r);
	/* The next checkpoint gives the last replaced blocks back: all are free but the leaf's. */
	rig_freeze(r);
	rig_thaw(r);
	assert_int_equal(rig_nfree(r), r->nfree0 - 2);
}

/* How full the leaves are on average, in percent. */
static unsigned many_fill(const struct rig *r)
{
	return (unsigned)(100 * MANY * (MANY_LEN + sizeof(struct disk_slot)) / (tree_ndirty(r->tree) * NODE_SPACE));
}

static void test_ascending(void **state)
{
	struct rig r;
	unsigned i;

	(void)state;
	rig_init(&r, 100000, 1000000, 1);
	for (i = 0; i < MANY; i++)
		many_put(&r, i);
	rig_check(&r);
	many_check(&r);
	assert_true(many_fill(&r) >= 95);
	many_delete(&r, NULL, false);
	rig_destroy(&r);
}

static void test_descending(void **state)
{
	struct rig r;
	unsigned i;

	(void)state;
	rig_init(&r, 100000, 1000000, 2);
	for (i = MANY; i-- > 0;)
		many_put(&r, i);
	rig_check(&r);
	many_check(&r);
	assert_true(many_fill(&r) >= 48);
	many_delete(&r, NULL, true);
	rig_destroy(&r);
}

static void test_random(void **state)
{
	unsigned *order, i;
	struct rig r;

	(void)state;
	rig_init(&r, 100000, 1000000, 3);
	order = shuffled(&r);
	for (i = 0; i < MANY; i++)
		many_put(&r, order[i]);
	rig_check(&r);
	many_check(&r);
	assert_true(many_fill(&r) >= 60);
	many_delete(&r, order, false);
	free(order);
	rig_destroy(&r);
}

/* --- special cases ---------------------------------------------------------------------------- */

/* What each operation says of a tree without items. */
static void test_empty(void **state)
{
	struct key key = key_make(16, ITEM_XATTR_MORE, 256u << 7), found;
	struct tree_cursor c;
	struct miss miss;
	const void *val;
	struct rig r;
	unsigned len;

	(void)state;
	rig_init(&r, 4096, 4, 1);
	assert_int_equal(tree_lookup(r.tree, &key, &miss, &val, &len), -ENOENT);
	assert_int_equal(tree_seek(r.tree, &key, &miss, &found, &val, &len), -ENOENT);
	assert_int_equal(tree_seek_back(r.tree, &key, &miss, &found, &val, &len), -ENOENT);
	assert_int_equal(tree_first(r.tree, &c, &key, &miss), -ENOENT);
	assert_int_equal(tree_ndirty(r.tree), 1);
	rig_reopen(&r);
	assert_int_equal(tree_ndirty(r.tree), 0);
	assert_int_equal(rig_wait(&r, r.tree, &miss, tree_lookup(r.tree, &key, &miss, &val, &len)), -ENOENT);
	rig_freeze(&r);
	assert_int_equal(r.tf.nnodes, 0);
	rig_thaw(&r);
	assert_true(rig_put(&r, &key, "x", 1));
	assert_false(rig_put(&r, &key, "yz", 2));
	assert_int_equal(tree_lookup(r.tree, &key, &miss, &val, &len), 0);
	assert_int_equal(len, 2);
	rig_check(&r);
	rig_destroy(&r);
}

/* Leaves emptied between clean neighbours stay until the freeze, and everything walks across them. */
static void test_empty_leaves(void **state)
{
	struct key key = many_key(0), found;
	struct miss miss;
	const void *val;
	struct rig r;
	unsigned i, len, kept = 0;
	uint8_t v[MANY_LEN];

	(void)state;
	rig_init(&r, 4096, 1000, 1);
	for (i = 0; i < 2000; i++)
		many_put(&r, i);
	rig_freeze(&r);
	rig_thaw(&r);
	/* Only the first and the last item stay. */
	for (i = 1; i < 1999; i++) {
		key = many_key(i);
		rig_del(&r, &key);
		kept += tree_ndirty(r.tree) > 1;
	}
	assert_true(kept > 0);
	rig_check(&r);
	key = many_key(1);
	assert_int_equal(tree_seek(r.tree, &key, &miss, &found, &val, &len), 0);
	many_value(1999, v);
	assert_memory_equal(val, v, MANY_LEN);
	key = many_key(1998);
	assert_int_equal(tree_seek_back(r.tree, &key, &miss, &found, &val, &len), 0);
	many_value(0, v);
	assert_memory_equal(val, v, MANY_LEN);
	rig_freeze(&r);
	rig_check(&r);
	rig_destroy(&r);	/* with the freeze outstanding */
}

/* An image in which two pointers name one leaf: found, not followed. */
static void test_cross_link(void **state)
{
	struct disk_node *root;
	struct tree *t;
	struct key key;
	struct tree_cost cost = {0};
	struct miss miss;
	struct disk_ptr ptr;
	struct rig r;
	unsigned i;

	(void)state;
	rig_init(&r, 4096, 1000, 1);
	for (i = 0; i < 400; i++)
		many_put(&r, i);
	rig_freeze(&r);
	assert_int_equal(r.tf.root_level, 1);
	root = r.image[get64(r.tf.root.blkno[0])];
	memcpy((char *)root + get16(root->slot[2].pos), (char *)root + get16(root->slot[1].pos), sizeof(ptr));
	ptr = r.tf.root;
	ptr.csum = put32(header_seal(root));
	memcpy(r.image[get64(ptr.blkno[1])], root, BLOCK_SIZE);
	assert_int_equal(tree_create(&r.sb, r.alloc, &ptr, 1, 100, NULL, &t), 0);
	key = slot_key(&root->slot[1]);
	assert_int_equal(rig_wait(&r, t, &miss, tree_prepare(t, &key, 0, &cost, &miss)), 0);
	key = slot_key(&root->slot[2]);
	/* In the same transaction, and in one of its own. */
	assert_int_equal(rig_wait(&r, t, &miss, tree_prepare(t, &key, 0, &cost, &miss)), -EUCLEAN);
	cost = (struct tree_cost){0};
	assert_int_equal(rig_wait(&r, t, &miss, tree_prepare(t, &key, 0, &cost, &miss)), -EUCLEAN);
	tree_destroy(t);
	rig_destroy(&r);
}

/* --- the bound of the cost, where it is tight --------------------------------------------------- */

static struct key bound_key(unsigned i)
{
	return key_make(1, 1, i);
}

static void bound_put(struct rig *r, unsigned i, unsigned len)
{
	static const uint8_t zeros[MAX_ITEM];
	struct key key = bound_key(i);

	assert_true(rig_put(r, &key, zeros, len));
}

static void bound_prepare(struct rig *r, unsigned i, unsigned grow, struct tree_cost *cost)
{
	struct key key = bound_key(i);
	struct miss miss;

	assert_int_equal(tree_prepare(r->tree, &key, grow, cost, &miss), 0);
}

/* Leaves of three of the largest items, and one transaction that splits up to `max` of them. */
static void bound_of_splits(unsigned nleaves, unsigned max)
{
	static const uint8_t zeros[MAX_ITEM];
	unsigned i, n = nleaves < max ? nleaves : max;
	struct tree_cost cost = {0};
	struct tree_stats stats;
	struct rig r;
	uint64_t before;

	rig_init(&r, 16384, 100, 1);
	for (i = 0; i < 3 * nleaves; i++)
		bound_put(&r, 2 * i, MAX_ITEM);
	before = tree_ndirty(r.tree);
	tree_get_stats(r.tree, &stats);
	for (i = 0; i < n; i++)
		bound_prepare(&r, 6 * i + 1, MAX_ITEM, &cost);
	rig_reserve(&r, 2 * cost.nodes);
	for (i = 0; i < n; i++) {
		struct key key = bound_key(6 * i + 1);

		tree_put(r.tree, &key, zeros, MAX_ITEM);
	}
	assert_true(tree_ndirty(r.tree) >= before + n);
	assert_true(tree_ndirty(r.tree) <= before + cost.nodes);
	/* And not far above it: one split for each inner level and put, if any. */
	assert_true(cost.nodes <= (uint64_t)n * (stats.level + 1) + 1 + n / 32);
	rig_check(&r);
	rig_destroy(&r);
}

/*
 * A deletion in leaf A lets it be merged with B; then two puts, at the right edge of B and into A, each of which A or B
 * by itself would have had room for.
 */
static void bound_of_merge(unsigned b2_len, unsigned put_len)
{
	static const uint8_t zeros[MAX_ITEM];
	/* C: 0..2, A: 10.. (14 and 15 fill it and go), B: 20 and 21. */
	static const struct { unsigned index, len; } put[] = {{0, 1280}, {1, 1280}, {2, 1280}, {10, 1280}, {12, 2},
							      {13, 40}, {14, 1280}, {15, 1280}, {20, 1280}};
	struct tree_cost cost = {0};
	struct rig r;
	struct key key;
	uint64_t before;
	unsigned i;

	rig_init(&r, 4096, 100, 1);
	for (i = 0; i < sizeof(put) / sizeof(put[0]); i++)
		bound_put(&r, put[i].index, put[i].len);
	bound_put(&r, 21, b2_len);
	for (i = 14; i <= 15; i++) {
		key = bound_key(i);
		rig_del(&r, &key);
	}
	before = tree_ndirty(r.tree);
	assert_int_equal(before, 4);
	bound_prepare(&r, 13, 0, &cost);
	bound_prepare(&r, 30, put_len, &cost);
	bound_prepare(&r, 11, put_len, &cost);
	rig_reserve(&r, 2 * cost.nodes);
	key = bound_key(13);
	tree_del(r.tree, &key);
	key = bound_key(30);
	tree_put(r.tree, &key, zeros, put_len);
	key = bound_key(11);
	tree_put(r.tree, &key, zeros, put_len);
	assert_true(tree_ndirty(r.tree) <= before + cost.nodes);
	rig_check(&r);
	rig_destroy(&r);
}

static void test_bound(void **state)
{
	unsigned nleaves;

	(void)state;
	for (nleaves = 1; nleaves < 160; nleaves++) {
		bound_of_splits(nleaves, 15);
		bound_of_splits(nleaves, 70);
	}
	bound_of_merge(76, MAX_ITEM);
	bound_of_merge(1280, 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_empty_leaves),
		cmocka_unit_test(test_cross_link),
		cmocka_unit_test(test_bound),
		cmocka_unit_test(test_ascending),
		cmocka_unit_test(test_descending),
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
