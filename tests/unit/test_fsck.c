/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_fsck.c - every kind of damage gets its finding and no other; and random damage is survived.
 */
#include "tests/unit/fsck_hits.h"

static uint64_t found_set(const struct bench *b)
{
	uint64_t set = 0;

	for (unsigned i = 0; i < FSCK_NCODES; i++) {
		assert_int_equal(b->found[i], b->res.count[i]);
		if (b->found[i])
			set |= UINT64_C(1) << i;
	}
	return set;
}

static void show_difference(const char *name, uint64_t got, uint64_t want)
{
	for (unsigned i = 0; i < FSCK_NCODES; i++)
		if ((got ^ want) >> i & 1)
			print_error("%s: %s %s was %s\n", name, fsck_code_info(i)->code, fsck_code_info(i)->name,
				    got >> i & 1 ? "found" : "not found");
	fail();
}

/* --- tests ------------------------------------------------------------------------------------- */

static void test_hits(void **state)
{
	for (unsigned i = 0; i < nhits; i++) {
		struct bench b;

		bench_clone(&b, *state);
		hits[i].run(&b);
		assert_int_equal(bench_check(&b, true), 0);
		if (found_set(&b) != hits[i].want)
			show_difference(hits[i].name, found_set(&b), hits[i].want);
		rig_destroy(&b.r);
	}
}

static void test_every_code_has_a_hit(void **state)
{
	uint64_t all = 0;

	(void)state;
	static_assert(FSCK_NCODES <= 64, "a set of codes is one word");
	for (unsigned i = 0; i < nhits; i++)
		all |= hits[i].want;
	assert_int_equal(all, (UINT64_C(1) << FSCK_NCODES) - 1);
}

/* Nothing is written: not to a good volume, and not to a bad one. */
static void test_writes_nothing(void **state)
{
	for (unsigned i = 0; i < nhits; i++) {
		struct bench b;

		bench_clone(&b, *state);
		hits[i].run(&b);
		uint64_t writes = dev_sim_writes(b.r.dev);

		assert_int_equal(bench_check(&b, true), 0);
		assert_int_equal(dev_sim_writes(b.r.dev), writes);
		rig_destroy(&b.r);
	}
}

static void test_counts(void **state)
{
	struct bench b;

	bench_clone(&b, *state);
	assert_int_equal(bench_check(&b, true), 0);
	assert_true(b.res.root_clean);
	assert_true(b.res.roots_ok);
	assert_int_equal(b.res.nerrors, 0);
	assert_int_equal(b.res.ndirs, 3);
	assert_int_equal(b.res.nfiles, BENCH_FILES + 4);
	assert_int_equal(b.res.nothers, 2);
	assert_int_equal(b.res.data_blocks, DATA_BLOCKS);
	rig_destroy(&b.r);
}

/* --- how contents lie -------------------------------------------------------------------------- */

/* The first of `n` blocks in a row, marked used. */
static uint64_t blocks_alloc(struct bench *b, unsigned n)
{
	uint64_t first = block_alloc(b);

	for (unsigned i = 1; i < n; i++)
		assert_int_equal(block_alloc(b), first + i);
	return first;
}

static void unwritten_add(struct bench *b, uint64_t ino, uint64_t file_block, uint64_t blkno, uint32_t n)
{
	unwritten_put(b, ino, file_block, blkno, n);
	inode_add(b, ino, 0, 0, (int)n);
}

/* One whose contents nobody looks at. */
static void written_add(struct bench *b, uint64_t ino, uint64_t file_block, uint64_t blkno)
{
	struct disk_extent ex = {.blkno = put64(blkno), .nblocks = put32(1)};
	uint8_t val[sizeof(ex) + sizeof(le32)] = {0};

	memcpy(val, &ex, sizeof(ex));
	item_put(b, key_make(ino, ITEM_EXTENT, file_block), val, sizeof(val));
	inode_add(b, ino, 0, 0, 1);
}

static void pieces_are(struct bench *b, uint64_t nmapped, uint64_t nsplit, uint64_t nextents, uint64_t npieces, uint64_t nblocks)
{
	assert_int_equal(bench_check(b, false), 0);
	assert_int_equal(b->res.nmapped, nmapped);
	assert_int_equal(b->res.nsplit, nsplit);
	assert_int_equal(b->res.nextents, nextents);
	assert_int_equal(b->res.npieces, npieces);
	assert_int_equal(b->res.nmapped_blocks, nblocks);
}

static void test_pieces(void **state)
{
	struct bench b;

	bench_clone(&b, *state);
	/* Three blocks at 0, two unwritten ones at 8. */
	pieces_are(&b, 1, 1, 2, 2, DATA_BLOCKS + 2);

	bench_open(&b);
	uint64_t blkno = blocks_alloc(&b, 9);

	/* It goes on: from a written one to an unwritten one. */
	written_add(&b, b.twin, 0, blkno);
	unwritten_add(&b, b.twin, 1, blkno + 1, 2);
	bench_close(&b);
	pieces_are(&b, 2, 1, 4, 3, DATA_BLOCKS + 5);

	/* It goes on in the file but not on the device, twice, then on the device but not in the file. */
	bench_open(&b);
	unwritten_add(&b, b.attrs, 0, blkno + 4, 1);
	unwritten_add(&b, b.attrs, 1, blkno + 3, 1);
	unwritten_add(&b, b.attrs, 2, blkno + 5, 1);
	unwritten_add(&b, b.attrs, 4, blkno + 6, 1);
	bench_close(&b);
	pieces_are(&b, 3, 2, 8, 7, DATA_BLOCKS + 9);

	/* A file begins where the last one ended: nothing goes on. */
	bench_open(&b);
	unwritten_add(&b, b.attrs + 1, 5, blkno + 7, 2);
	bench_close(&b);
	pieces_are(&b, 4, 2, 9, 8, DATA_BLOCKS + 11);
	assert_int_equal(found_set(&b), 0);
	rig_destroy(&b.r);
}

/* Extents end at EXTENT_MAX_BLOCKS, pieces do not. */
static void test_pieces_longer_than_extents(void **state)
{
	const unsigned nblocks = 2 * EXTENT_MAX_BLOCKS + 1;
	struct bench b;

	bench_clone(&b, *state);
	bench_open(&b);
	uint64_t blkno = blocks_alloc(&b, nblocks);

	unwritten_add(&b, b.twin, 7, blkno, EXTENT_MAX_BLOCKS);
	unwritten_add(&b, b.twin, 7 + EXTENT_MAX_BLOCKS, blkno + EXTENT_MAX_BLOCKS, EXTENT_MAX_BLOCKS);
	unwritten_add(&b, b.twin, 7 + 2 * EXTENT_MAX_BLOCKS, blkno + 2 * EXTENT_MAX_BLOCKS, 1);
	bench_close(&b);
	pieces_are(&b, 2, 1, 5, 3, DATA_BLOCKS + 2 + nblocks);
	assert_int_equal(found_set(&b), 0);
	rig_destroy(&b.r);
}

/* The leaf that the inode's items end in, both copies. */
static void leaf_lose(struct bench *b, uint64_t ino)
{
	uint8_t node[BLOCK_SIZE] __attribute__((aligned(8)));
	const struct disk_node *n = (const struct disk_node *)node;
	unsigned i = 0;

	top_peek(b, node);
	while (i + 1u < get16(n->nitems) && slot_key(&n->slot[i + 1]).object <= ino)
		i++;
	struct disk_ptr ptr = leaf_ptr(b, i);

	for (unsigned copy = 0; copy < 2; copy++)
		block_flip(b, get64(ptr.blkno[copy]));
}

/* Files whose extents overlap, use others' blocks, or belong to what cannot have any; and those of which a part is lost. */
static void test_pieces_of_damaged_files(void **state)
{
	struct bench b;

	bench_clone(&b, *state);
	bench_open(&b);
	uint64_t blkno = blocks_alloc(&b, 3);

	unwritten_add(&b, b.twin, 0, blkno, 1);
	unwritten_put(&b, b.fifo, 0, blkno + 1, 1);
	unwritten_put(&b, b.tiny, 1, blkno + 2, 1);
	unwritten_add(&b, b.attrs, 0, data_blkno(&b), 1);
	bench_close(&b);
	pieces_are(&b, 2, 1, 3, 3, DATA_BLOCKS + 3);
	assert_int_equal(found_set(&b), SET(ITEM_KIND) | SET(INODE_NBLOCKS) | SET(INODE_INLINE) | SET(SPACE_SHARED));

	bench_open(&b);
	unwritten_add(&b, b.data, 1, block_alloc(&b), 1);
	bench_close(&b);
	pieces_are(&b, 1, 0, 1, 1, 1);

	rig_destroy(&b.r);

	bench_clone(&b, *state);
	leaf_lose(&b, b.data);
	pieces_are(&b, 0, 0, 0, 0, 0);
	rig_destroy(&b.r);
}

static void test_data_only_on_demand(void **state)
{
	struct bench b;

	bench_clone(&b, *state);
	hit_data(&b);
	assert_int_equal(bench_check(&b, false), 0);
	assert_int_equal(found_set(&b), 0);
	rig_destroy(&b.r);
}

/* A checkpoint that was interrupted may have brought logged data home: that is no damage as long as the log has it. */
static void test_logged_data_is_no_damage(void **state)
{
	struct fs_config cfg = {0};
	struct bench b;
	struct fs *fs;

	bench_clone(&b, *state);
	bench_open(&b);
	uint64_t blkno = data_blkno(&b);

	assert_int_equal(fs_open(b.r.v, b.r.q, &cfg, &fs), 0);
	assert_int_equal(fs_pwrite(fs, b.r.q, b.data, "new", 3, BLOCK_SIZE), 3);
	assert_int_equal(fs_sync(fs, b.r.q, 0, false), 0);
	dev_sim_cut(b.r.dev);
	fs_close(fs, b.r.q);
	rig_after_cut(&b.r, 1);
	dev_sim_poke(b.r.dev, (blkno + 1) * BLOCK_SIZE, "new", 3);
	assert_int_equal(bench_check(&b, true), 0);
	assert_int_equal(found_set(&b), SET(LOG_PENDING));
	rig_destroy(&b.r);
}

static bool cancel_now(void *arg)
{
	(void)arg;
	return true;
}

static void test_cancel(void **state)
{
	struct fsck_opts opts = {.data = true, .cancelled = cancel_now};
	struct bench b;

	bench_clone(&b, *state);
	assert_int_equal(fsck_check(b.r.q, &opts, &b.res), -ECANCELED);
	rig_destroy(&b.r);
}

static void count_finding(void *arg, const struct fsck_finding *f)
{
	(void)f;
	++*(unsigned *)arg;
}

/* What is not handed out is still counted. */
static void test_limit_per_code(void **state)
{
	unsigned shown = 0;
	struct fsck_opts opts = {.max_per_code = 2, .found = count_finding, .arg = &shown};
	struct bench b;

	bench_clone(&b, *state);
	for (unsigned copy = 0; copy < 3; copy++) {
		struct disk_ptr ptr = leaf_ptr(&b, copy);

		block_flip(&b, get64(ptr.blkno[0]));
	}
	assert_int_equal(fsck_check(b.r.q, &opts, &b.res), 0);
	assert_int_equal(shown, 2);
	assert_int_equal(b.res.count[FSCK_NODE_COPY], 3);
	rig_destroy(&b.r);
}

/* --- what is no volume ------------------------------------------------------------------------- */

static void test_not_a_volume(void **state)
{
	struct fsck_opts opts = {0};
	struct fsck_result res;
	struct bench b = {0};

	(void)state;
	b.r.dev = rig_dev(BENCH_BYTES, 1);
	b.r.q = rig_queue(b.r.dev);
	assert_int_equal(fsck_check(b.r.q, &opts, &res), -ENOENT);
	rig_destroy(&b.r);
}

static void test_all_superblocks_damaged(void **state)
{
	struct bench b;

	bench_clone(&b, *state);
	for (unsigned copy = 0; copy < SUPER_COPIES; copy++)
		block_flip(&b, super_blkno(BENCH_BYTES / BLOCK_SIZE, copy));
	assert_int_equal(bench_check(&b, false), -EUCLEAN);
	rig_destroy(&b.r);
}

static void test_unknown_feature(void **state)
{
	uint8_t block[BLOCK_SIZE];
	struct bench b;

	bench_clone(&b, *state);
	struct super sb = bench_super(&b);

	sb.incompat = 0x80000000;
	for (unsigned copy = 0; copy < SUPER_COPIES; copy++) {
		super_encode(&sb, copy, block);
		block_poke(&b, super_blkno(sb.nblocks, copy), block);
	}
	assert_int_equal(bench_check(&b, false), -ENOTSUP);
	rig_destroy(&b.r);
}

/* The first half of a volume. */
static void test_cut_off(void **state)
{
	struct bench b, half = {0};
	uint8_t block[BLOCK_SIZE];

	bench_clone(&b, *state);
	half.r.dev = rig_dev(BENCH_BYTES / 2, 1);
	half.r.q = rig_queue(half.r.dev);
	for (uint64_t blkno = 0; blkno < BENCH_BYTES / 2 / BLOCK_SIZE; blkno++) {
		block_peek(&b, blkno, block);
		block_poke(&half, blkno, block);
	}
	assert_int_equal(bench_check(&half, false), -ENOSPC);
	rig_destroy(&half.r);
	rig_destroy(&b.r);
}

/* --- random damage ----------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *seed)
{
	*seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *seed >> 33;
}

/* Any result but a crash will do, as long as it is one of the documented ones. */
static void survive(struct bench *b, uint64_t seed)
{
	int err = bench_check(b, true);

	if (err && err != -ENOENT && err != -EUCLEAN && err != -ENOTSUP && err != -ENOSPC)
		fail_msg("seed %llu: returned %d", (unsigned long long)seed, err);
}

/* Bytes of blocks that mean something: the fixed ones, tables and bitmaps, and the first blocks of data. */
static uint64_t random_block(const struct super *sb, uint64_t *seed)
{
	uint64_t base[] = {16, SUPER_BLKNO1, sb->nblocks - 3, sb->table_blkno[0], sb->table_blkno[1], sb->journal_blkno,
			   sb->bitmap_blkno[0] + 2 * (uint64_t)sb->ngroups};

	return base[next_random(seed) % 7] + next_random(seed) % 3;
}

static void test_random_bytes(void **state)
{
	for (uint64_t n = 1; n <= 300; n++) {
		uint64_t seed = n;
		struct bench b;

		bench_clone(&b, *state);
		struct super sb = bench_super(&b);

		for (uint64_t i = next_random(&seed) % 8 + 1; i; i--) {
			uint64_t blkno = random_block(&sb, &seed);
			uint8_t block[BLOCK_SIZE];

			block_peek(&b, blkno, block);
			block[next_random(&seed) % BLOCK_SIZE] = (uint8_t)next_random(&seed);
			if (next_random(&seed) % 2)
				header_seal(block);
			block_poke(&b, blkno, block);
		}
		survive(&b, n);
		rig_destroy(&b.r);
	}
}

/* Leaves with right checksums and wrong contents: this is what gets past the verifiers. */
static void test_random_items(void **state)
{
	for (uint64_t n = 1; n <= 300; n++) {
		uint64_t seed = n;
		struct bench b;

		bench_clone(&b, *state);
		for (uint64_t i = next_random(&seed) % 4 + 1; i; i--) {
			uint8_t leaf[BLOCK_SIZE] __attribute__((aligned(8)));
			unsigned which = (unsigned)(next_random(&seed) % 3);
			const struct disk_node *node = (const struct disk_node *)leaf;

			block_peek(&b, get64(leaf_ptr(&b, which).blkno[0]), leaf);
			const struct disk_slot *s = &node->slot[next_random(&seed) % get16(node->nitems)];

			if (get16(s->len) && get16(s->pos) + get16(s->len) <= BLOCK_SIZE)
				leaf[get16(s->pos) + next_random(&seed) % get16(s->len)] = (uint8_t)(next_random(&seed) % 4);
			leaf_publish(&b, which, leaf);
		}
		survive(&b, n);
		rig_destroy(&b.r);
	}
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
		cmocka_unit_test(test_hits),
		cmocka_unit_test(test_every_code_has_a_hit),
		cmocka_unit_test(test_writes_nothing),
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_pieces),
		cmocka_unit_test(test_pieces_longer_than_extents),
		cmocka_unit_test(test_pieces_of_damaged_files),
		cmocka_unit_test(test_data_only_on_demand),
		cmocka_unit_test(test_logged_data_is_no_damage),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_limit_per_code),
		cmocka_unit_test(test_not_a_volume),
		cmocka_unit_test(test_all_superblocks_damaged),
		cmocka_unit_test(test_unknown_feature),
		cmocka_unit_test(test_cut_off),
		cmocka_unit_test(test_random_bytes),
		cmocka_unit_test(test_random_items),
	};

	return cmocka_run_group_tests_name("fsck", tests, setup, teardown);
}
