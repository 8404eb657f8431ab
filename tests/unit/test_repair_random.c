/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_repair_random.c - whatever was done to a volume, a repair ends in one that checks clean and can be walked, or says why
 * not.
 *
 * HOLDFAST_SEEDS=N: so many seeds.  HOLDFAST_SEED=N: only that one.
 */
#include "tests/unit/repair_rig.h"

#define SEEDS 150u

static uint64_t next_random(uint64_t *seed)
{
	*seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *seed >> 33;
}

static void each_seed(void **state, unsigned dflt, void (*one)(struct bench *from, uint64_t seed))
{
	const char *only = getenv("HOLDFAST_SEED"), *many = getenv("HOLDFAST_SEEDS");
	uint64_t n = many ? strtoull(many, NULL, 10) : dflt;

	if (only) {
		one(*state, strtoull(only, NULL, 10));
		return;
	}
	for (uint64_t seed = 1; seed <= n; seed++)
		one(*state, seed);
}

/* --- damage ------------------------------------------------------------------------------------ */

/* A block of metadata in use: superblocks, roots, tables, bitmaps, nodes. */
static uint64_t random_metadata(struct bench *b, const struct super *sb, uint64_t *seed)
{
	uint64_t base[] = {SUPER_BLKNO0, SUPER_BLKNO1, sb->nblocks - 3, sb->table_blkno[0], sb->table_blkno[1]};
	struct disk_root root;

	if (next_random(seed) % 4 == 0)
		return (base[next_random(seed) % 5] + next_random(seed) % 4) % sb->nblocks;
	if (volume_read_root(b->r.q, sb, NULL, false, &root))
		return ROOT_BLKNO;
	uint8_t node[BLOCK_SIZE] __attribute__((aligned(8)));
	const struct disk_node *n = (const struct disk_node *)node;
	struct disk_ptr ptr = root.tree;

	block_peek(b, get64(ptr.blkno[0]), node);
	if (n->level == 1 && get16(n->nitems) && get16(n->nitems) < 100 && next_random(seed) % 8)
		memcpy(&ptr, node + get16(n->slot[next_random(seed) % get16(n->nitems)].pos) % (BLOCK_SIZE - sizeof(ptr)), sizeof(ptr));
	return get64(ptr.blkno[next_random(seed) % 2]) % sb->nblocks;
}

static void scribble(uint8_t *block, uint64_t *seed)
{
	switch (next_random(seed) % 4) {
	case 0:
		memset(block, 0, BLOCK_SIZE);
		break;
	case 1:
		for (unsigned i = 0; i < BLOCK_SIZE; i++)
			block[i] = (uint8_t)next_random(seed);
		break;
	default:
		for (uint64_t i = next_random(seed) % 3 + 1; i; i--)
			block[next_random(seed) % BLOCK_SIZE] = (uint8_t)next_random(seed);
		if (next_random(seed) % 2)
			header_seal(block);
	}
}

static void damage_blocks(struct bench *b, const struct super *sb, uint64_t *seed)
{
	for (uint64_t i = next_random(seed) % 10 + 1; i; i--) {
		uint64_t blkno = random_metadata(b, sb, seed);
		uint8_t block[BLOCK_SIZE] __attribute__((aligned(8)));
		bool both = next_random(seed) % 2;

		block_peek(b, blkno, block);
		uint64_t other = get64(((struct disk_header *)block)->blkno[0]) == blkno ? get64(((struct disk_header *)block)->blkno[1]) :
											 get64(((struct disk_header *)block)->blkno[0]);

		scribble(block, seed);
		block_poke(b, blkno, block);
		if (both && other && other < sb->nblocks)
			block_poke(b, other, block);
	}
}

/* One item of a leaf, with all checksums right again. */
static void damage_item(struct disk_node *n, uint64_t *seed)
{
	struct disk_slot *s = &n->slot[next_random(seed) % get16(n->nitems)];
	struct disk_slot *t = &n->slot[next_random(seed) % get16(n->nitems)];
	uint8_t *val = (uint8_t *)n + get16(s->pos);
	unsigned len = get16(s->len);
	uint64_t at, big;

	switch (next_random(seed) % 8) {
	case 0:		/* key */
		s->object = put64(get64(s->object) + next_random(seed) % 3 - 1);
		break;
	case 1:
		s->offset = put64(get64(s->offset) + next_random(seed) % 5 - 2);
		break;
	case 2:
		s->type = (uint8_t)(next_random(seed) % 9);
		break;
	case 3:		/* somebody else's value */
		if (get16(t->len) == len)
			memcpy(val, (uint8_t *)n + get16(t->pos), len);
		break;
	case 4:		/* a large number somewhere */
		at = len >= 8 ? next_random(seed) % (len / 8) : 0;
		big = next_random(seed) << 33 | next_random(seed);
		if (len >= 8)
			memcpy(val + 8 * at, &big, 8);
		break;
	case 5:		/* a small one */
		at = len >= 8 ? next_random(seed) % (len / 8) : 0;
		big = next_random(seed) % 40;
		if (len >= 8)
			memcpy(val + 8 * at, &big, 8);
		break;
	default:
		if (len)
			val[next_random(seed) % len] ^= (uint8_t)(1u << next_random(seed) % 8);
	}
}

static void damage_items(struct bench *b, const struct super *sb, uint64_t *seed)
{
	uint8_t top[BLOCK_SIZE] __attribute__((aligned(8)));

	(void)sb;
	for (uint64_t i = next_random(seed) % 12 + 1; i; i--) {
		uint8_t leaf[BLOCK_SIZE] __attribute__((aligned(8)));

		top_peek(b, top);
		unsigned which = (unsigned)(next_random(seed) % get16(((struct disk_node *)top)->nitems));

		block_peek(b, get64(leaf_ptr(b, which).blkno[0]), leaf);
		damage_item((struct disk_node *)leaf, seed);
		leaf_publish(b, which, leaf);
	}
}

/* --- what must come of it ---------------------------------------------------------------------- */

static unsigned said;

static void count_lines(void *arg, enum diag_level level, const char *line)
{
	(void)arg;
	(void)level;
	said++;
	if (getenv("HOLDFAST_TEST_VERBOSE"))
		fprintf(stderr, "%s\n", line);
}

/* Contents may be bad; everything else is well. */
static void expect_well(struct bench *b, uint64_t seed, const char *what)
{
	struct sight s;

	if (bench_check(b, true) || b->res.nerrors != b->res.count[FSCK_DATA_CSUM] || !b->res.root_clean)
		fail_msg("seed %llu (%s): %llu errors are left", (unsigned long long)seed, what, (unsigned long long)b->res.nerrors);
	sight_take(b, &s);
	free(s.seen);
}

static void one(struct bench *from, uint64_t seed, const char *what, void (*damage)(struct bench *, const struct super *, uint64_t *))
{
	uint64_t random = seed;
	struct bench b;
	struct told t;

	bench_clone(&b, from);
	b.r.diag.emit = count_lines;
	struct super sb = bench_super(&b);

	next_random(&random);
	damage(&b, &sb, &random);
	said = 0;
	int err = repair(&b, true, &t);

	if (!err)
		expect_well(&b, seed, what);
	else if (err != -ENODATA && err != -EBADMSG && err != -EUCLEAN && err != -ENOENT && err != -ENOTSUP && err != -ENOSPC)
		fail_msg("seed %llu (%s): returned %d", (unsigned long long)seed, what, err);
	/* What the superblocks are about is the program's to say. */
	else if (!said && err != -ENOENT && err != -ENOTSUP && err != -ENOSPC)
		fail_msg("seed %llu (%s): returned %d without a word", (unsigned long long)seed, what, err);
	rig_destroy(&b.r);
}

static void one_blocks(struct bench *from, uint64_t seed)
{
	one(from, seed, "blocks", damage_blocks);
}

static void one_items(struct bench *from, uint64_t seed)
{
	one(from, seed, "items", damage_items);
}

static void test_random_blocks(void **state)
{
	each_seed(state, SEEDS, one_blocks);
}

static void test_random_items(void **state)
{
	each_seed(state, SEEDS, one_items);
}

/* --- */

static int setup(void **state)
{
	struct bench *b = malloc(sizeof(*b));

	assert_non_null(b);
	bench_create(b);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	rig_destroy(&b->r);
	free(b);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_blocks),
		cmocka_unit_test(test_random_items),
	};

	return cmocka_run_group_tests_name("repair_random", tests, setup, teardown);
}
