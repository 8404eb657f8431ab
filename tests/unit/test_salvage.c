/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_salvage.c - lost nodes and lost roots: what is still on the device comes back, and nothing else does; with a journal over it; with the
 * power going in the middle; and after random destruction.
 *
 * The volume has a history: several checkpoints, files changed and removed between them, so that the device is full of nodes and data that
 * are out of date.
 */
#include "tests/unit/repair_rig.h"

#include "core/sim_store.h"

#define SALVAGE_BYTES ((uint64_t)24 << 20)
#define ROUNDS	      4u
#define PER_ROUND     450u	/* files: enough for a tree of three levels */

struct history {
	struct bench b;
	struct sight before;
};

/* --- the volume -------------------------------------------------------------------------------- */

static void make_file(struct bench *b, struct fs *fs, uint64_t dir, unsigned round, unsigned i)
{
	char name[32];

	snprintf(name, sizeof(name), "file%u-%u", round, i);
	uint64_t ino = bench_make(b, fs, dir, name, S_IFREG | 0644);

	if (i % 5 == 0) {
		uint8_t bytes[9000];

		memset(bytes, (int)(i + round), sizeof(bytes));
		assert_int_equal(fs_pwrite(fs, b->r.q, ino, bytes, sizeof(bytes), 0), sizeof(bytes));
	}
}

static void remove_file(struct bench *b, struct fs *fs, uint64_t dir, unsigned round, unsigned i)
{
	char name[32];

	snprintf(name, sizeof(name), "file%u-%u", round, i);
	assert_int_equal(fs_unlink(fs, b->r.q, dir, name, strlen(name)), 0);
}

static uint64_t round_dir(const struct bench *b, unsigned round)
{
	return round % 2 ? b->dir : INO_ROOT;
}

/* Files are made, some of those of the round before go, and a checkpoint. */
static void history_round(struct bench *b, struct fs *fs, unsigned round)
{
	for (unsigned i = 0; i < PER_ROUND; i++)
		make_file(b, fs, round_dir(b, round), round, i);
	for (unsigned i = 1; round && i < PER_ROUND; i += 3)
		remove_file(b, fs, round_dir(b, round - 1), round - 1, i);
	assert_int_equal(volume_checkpoint(b->r.v, b->r.q, CHECKPOINT_FORCE), 0);
}

static void history_create(struct history *h)
{
	struct fs_config cfg = {0};
	struct bench *b = &h->b;
	struct fs *fs;

	memset(h, 0, sizeof(*h));
	rig_create(&b->r, SALVAGE_BYTES, BENCH_JOURNAL, 1);
	assert_int_equal(fs_open(b->r.v, b->r.q, &cfg, &fs), 0);
	bench_fill(b, fs);
	for (unsigned round = 0; round < ROUNDS; round++)
		history_round(b, fs, round);
	fs_close(fs, b->r.q);
	assert_int_equal(volume_close(b->r.v, b->r.q), 0);
	b->r.v = NULL;
	sight_take(b, &h->before);
}

/* The journal gets work of all kinds, and the power goes.  `after`: what a replay makes of it. */
static void add_journal(struct bench *b, struct sight *after)
{
	struct fs_config cfg = {0};
	struct fs *fs;

	bench_open(b);
	assert_int_equal(fs_open(b->r.v, b->r.q, &cfg, &fs), 0);
	for (unsigned i = 0; i < 40; i++)
		make_file(b, fs, i % 2 ? b->dir : INO_ROOT, 9, i);
	for (unsigned i = 2; i < 200; i += 3)
		remove_file(b, fs, INO_ROOT, 0, i);
	/* Small overwrites of old contents, in the log; one of them of a file that is new. */
	assert_int_equal(fs_pwrite(fs, b->r.q, b->data, "changed", 7, BLOCK_SIZE + 100), 7);
	assert_int_equal(fs_pwrite(fs, b->r.q, b->data, "again", 5, BLOCK_SIZE + 102), 5);
	assert_int_equal(fs_setxattr(fs, b->r.q, b->tiny, "user.new", "x", 1, 0), 0);
	assert_int_equal(fs_sync(fs, b->r.q, 0, false), 0);
	dev_sim_cut(b->r.dev);
	fs_close(fs, b->r.q);
	rig_after_cut(&b->r, 1);
	sight_take(b, after);
}

/* --- its nodes --------------------------------------------------------------------------------- */

struct node {
	struct disk_ptr ptr;
	unsigned level;
	uint64_t lo, hi;	/* of a leaf: inodes that may have items in it */
};

struct nodes {
	struct node *node;
	unsigned n, cap;
};

static void nodes_below(struct bench *b, struct nodes *all, const struct disk_ptr *ptr, unsigned level, uint64_t lo)
{
	uint8_t block[BLOCK_SIZE] __attribute__((aligned(8)));
	const struct disk_node *n = (const struct disk_node *)block;

	block_peek(b, get64(ptr->blkno[0]), block);
	assert_int_equal(n->level, level);
	all->node = grow(all->node, all->n, &all->cap, sizeof(*all->node));
	unsigned self = all->n++;

	all->node[self] = (struct node){*ptr, level, lo, get64(n->slot[get16(n->nitems) - 1].object)};
	for (unsigned i = 0; level && i < get16(n->nitems); i++) {
		struct disk_ptr child;

		memcpy(&child, block + get16(n->slot[i].pos), sizeof(child));
		nodes_below(b, all, &child, level - 1, get64(n->slot[i].object));
	}
}

static struct nodes nodes_all(struct bench *b)
{
	struct disk_root root = bench_root(b);
	struct nodes all = {0};

	nodes_below(b, &all, &root.tree, root.tree_level, 0);
	/* From its parent's key to where the next leaf begins: what was there once and has been removed may come back. */
	for (unsigned i = 0; i < all.n; i++)
		for (unsigned k = i + 1; k < all.n && all.node[i].level == 0; k++)
			if (all.node[k].level == 0) {
				all.node[i].hi = all.node[k].lo;
				break;
			}
	return all;
}

static void destroy(struct bench *b, uint64_t blkno)
{
	uint8_t block[BLOCK_SIZE];

	memset(block, 0xa5, sizeof(block));
	block_poke(b, blkno, block);
}

static void destroy_node(struct bench *b, const struct node *n)
{
	for (unsigned copy = 0; copy < 2; copy++)
		destroy(b, get64(n->ptr.blkno[copy]));
}

static void destroy_roots(struct bench *b)
{
	struct super sb = bench_super(b);

	for (unsigned i = 0; i < 4; i++)
		destroy(b, root_blkno(&sb, i / 2, i % 2));
}

/* --- judging ----------------------------------------------------------------------------------- */

static bool same(const struct seen *a, const struct seen *b)
{
	return a->mode == b->mode && a->size == b->size && a->crc == b->crc && a->err == b->err;
}

/* Inodes outside [lo, hi] are exactly those of `want`, but for lost+found. */
static void expect_sight(struct bench *b, const struct sight *want, uint64_t lo, uint64_t hi)
{
	struct sight is;
	unsigned extra = 0;

	sight_take(b, &is);
	for (unsigned i = 0; i < want->n; i++) {
		const struct seen *was = &want->seen[i], *now = sight_find(&is, was->ino);

		if (was->ino >= lo && was->ino <= hi)
			continue;
		if (!now || !same(was, now))
			fail_msg("inode %llu is %s", (unsigned long long)was->ino, now ? "changed" : "gone");
	}
	for (unsigned i = 0; i < is.n; i++) {
		if (sight_find(want, is.seen[i].ino) || (is.seen[i].ino >= lo && is.seen[i].ino <= hi))
			continue;
		extra++;
		if (!S_ISDIR(is.seen[i].mode))
			fail_msg("inode %llu is new (%llu..%llu were lost)", (unsigned long long)is.seen[i].ino,
				 (unsigned long long)lo, (unsigned long long)hi);
	}
	assert_true(extra <= 1);
	free(is.seen);
}

/* Repaired; the second check finds nothing. */
static void salvage_it(struct bench *b, struct told *t)
{
	int err = repair(b, true, t);

	if (err)
		fail_msg("the repair returned %d", err);
	assert_int_equal(bench_check(b, true), 0);
	if (b->res.nerrors || !b->res.root_clean)
		fail_msg("%llu errors are left", (unsigned long long)b->res.nerrors);
}

#define NOBODY 1, 0

/* --- tests ------------------------------------------------------------------------------------- */

/* Inner nodes, the top one too: their leaves are all there, and the bitmaps say which of them are current. */
static void test_inner_nodes(void **state)
{
	const struct history *h = *state;
	struct nodes all = nodes_all(&((struct history *)*state)->b);
	unsigned ndone = 0;

	assert_int_equal(all.node[0].level, 2);
	for (unsigned i = 0; i < all.n; i++) {
		struct bench b;
		struct told t;

		if (!all.node[i].level)
			continue;
		bench_clone(&b, &h->b);
		destroy_node(&b, &all.node[i]);
		salvage_it(&b, &t);
		expect_sight(&b, &h->before, NOBODY);
		rig_destroy(&b.r);
		ndone++;
	}
	assert_true(ndone >= 3);
	free(all.node);
}

/* A leaf: others are not touched; of its own, what older versions know. */
static void test_leaves(void **state)
{
	const struct history *h = *state;
	struct nodes all = nodes_all(&((struct history *)*state)->b);

	for (unsigned i = 0; i < all.n; i += 3) {
		struct bench b;
		struct told t;

		if (all.node[i].level)
			continue;
		bench_clone(&b, &h->b);
		destroy_node(&b, &all.node[i]);
		salvage_it(&b, &t);
		assert_true(t.lost_unknown);
		expect_sight(&b, &h->before, all.node[i].lo, all.node[i].hi);
		rig_destroy(&b.r);
	}
	free(all.node);
}

static void test_roots(void **state)
{
	const struct history *h = *state;
	struct bench b;
	struct told t;

	bench_clone(&b, &h->b);
	destroy_roots(&b);
	assert_int_equal(repair(&b, false, &t), -ENODATA);
	salvage_it(&b, &t);
	expect_sight(&b, &h->before, NOBODY);
	rig_destroy(&b.r);
}

static void test_roots_and_journal(void **state)
{
	const struct history *h = *state;
	struct sight after;
	struct bench b;
	struct told t;

	bench_clone(&b, &h->b);
	add_journal(&b, &after);
	destroy_roots(&b);
	salvage_it(&b, &t);
	expect_sight(&b, &after, NOBODY);
	free(after.seen);
	rig_destroy(&b.r);
}

static void test_nodes_and_journal(void **state)
{
	const struct history *h = *state;
	struct sight after;
	struct nodes all;
	struct bench from;

	bench_clone(&from, &h->b);
	add_journal(&from, &after);
	all = nodes_all(&from);
	for (unsigned i = 0; i < all.n; i += all.node[i].level ? 1 : 7) {
		struct bench b;
		struct told t;

		bench_clone(&b, &from);
		destroy_node(&b, &all.node[i]);
		salvage_it(&b, &t);
		if (all.node[i].level)
			expect_sight(&b, &after, NOBODY);
		else
			expect_sight(&b, &after, all.node[i].lo, all.node[i].hi);
		rig_destroy(&b.r);
	}
	free(all.node);
	free(after.seen);
	rig_destroy(&from.r);
}

/* Roots and the top of the tree: then leaves are all there is, without bitmaps to tell which are current.  Nothing that is current is lost. */
static void test_roots_and_top(void **state)
{
	struct history *h = *state;
	struct nodes all = nodes_all(&h->b);
	struct sight is;
	struct bench b;
	struct told t;

	bench_clone(&b, &h->b);
	destroy_roots(&b);
	destroy_node(&b, &all.node[0]);
	salvage_it(&b, &t);
	sight_take(&b, &is);
	assert_true(t.lost_unknown);
	for (unsigned i = 0; i < h->before.n; i++)
		assert_non_null(sight_find(&is, h->before.seen[i].ino));
	free(is.seen);
	free(all.node);
	rig_destroy(&b.r);
}

/* The power goes in the middle of a salvage: the next one makes it good. */
static void test_cut(void **state)
{
	const struct history *h = *state;
	struct sight after;
	struct nodes all;
	struct bench from;
	bool cut = true;

	bench_clone(&from, &h->b);
	add_journal(&from, &after);
	all = nodes_all(&from);
	for (uint64_t n = 1; cut; n += 1 + n / 3) {
		struct bench b;
		struct told t;

		bench_clone(&b, &from);
		if (n % 2)
			destroy_node(&b, &all.node[0]);
		else
			destroy_roots(&b);
		dev_sim_cut_after(b.r.dev, n);
		repair(&b, true, &t);
		cut = dev_sim_is_cut(b.r.dev);
		rig_after_cut(&b.r, n);
		assert_int_equal(bench_check(&b, true), 0);
		if (b.res.nerrors)
			salvage_it(&b, &t);
		expect_sight(&b, &after, NOBODY);
		rig_destroy(&b.r);
	}
	free(all.node);
	free(after.seen);
	rig_destroy(&from.r);
}

/* --- random destruction ------------------------------------------------------------------------ */

/* A block of metadata: one of the tree, or of the fixed areas. */
static uint64_t random_victim(const struct super *sb, const struct nodes *all, uint64_t *rng)
{
	const struct node *n = &all->node[sim_random(rng) % all->n];
	uint64_t what = sim_random(rng) % 16;

	if (what == 0)
		return root_blkno(sb, sim_random(rng) % 2, sim_random(rng) % 2);
	if (what == 1)
		return super_blkno(sb->nblocks, sim_random(rng) % 2);
	if (what == 2)
		return sb->table_blkno[0] + sim_random(rng) % (super_data_begin(sb) - sb->table_blkno[0]);
	if (what == 3)
		return sb->table_blkno[1] + sim_random(rng) % 4;
	if (what == 4)
		return sb->journal_blkno + sim_random(rng) % sb->journal_nblocks;
	/* The higher a node, the more it hurts. */
	for (unsigned tries = 0; tries < 20 && n->level == 0 && what < 8; tries++)
		n = &all->node[sim_random(rng) % all->n];
	return get64(n->ptr.blkno[sim_random(rng) % 2]);
}

static void destroy_randomly(struct bench *b, const struct super *sb, const struct nodes *all, uint64_t *rng)
{
	uint64_t blkno = random_victim(sb, all, rng);
	uint8_t block[BLOCK_SIZE] __attribute__((aligned(8)));

	if (sim_random(rng) % 3) {
		destroy(b, blkno);
	} else if (sim_random(rng) % 2) {
		dev_sim_flip(b->r.dev, blkno * BLOCK_SIZE + sim_random(rng) % BLOCK_SIZE, 2);
	} else {
		/* Bytes that make no sense, under a right checksum. */
		block_peek(b, blkno, block);
		block[48 + sim_random(rng) % (BLOCK_SIZE - 48)] ^= (uint8_t)(1 + sim_random(rng) % 255);
		header_seal(block);
		block_poke(b, blkno, block);
	}
}

static void random_round(const struct bench *from, const struct super *sb, const struct nodes *all, uint64_t seed)
{
	uint64_t rng = seed;
	struct bench b;
	struct told t;

	bench_clone(&b, from);
	for (unsigned k = 1 + sim_random(&rng) % 40; k; k--)
		destroy_randomly(&b, sb, all, &rng);
	int err = repair(&b, true, &t);

	/* A damaged journal is the user's to decide about. */
	if (err && err != -EBADMSG)
		fail_msg("seed %llu: the repair returned %d", (unsigned long long)seed, err);
	if (!err) {
		assert_int_equal(bench_check(&b, true), 0);
		if (b.res.nerrors)
			fail_msg("seed %llu: %llu errors are left", (unsigned long long)seed, (unsigned long long)b.res.nerrors);
		bench_open(&b);
		bench_close(&b);
	}
	rig_destroy(&b.r);
}

static void test_random(void **state)
{
	const char *more = getenv("HOLDFAST_TEST_SEEDS");
	const char *one = getenv("HOLDFAST_SEED");
	uint64_t seeds = one ? strtoull(one, NULL, 10) : 60 * (more ? strtoull(more, NULL, 10) : 1);
	struct history *h = *state;
	struct super sb = bench_super(&h->b);
	struct sight after;
	struct bench late;

	bench_clone(&late, &h->b);
	add_journal(&late, &after);
	struct nodes clean = nodes_all(&h->b), dirty = nodes_all(&late);

	for (uint64_t seed = one ? seeds : 1; seed <= seeds; seed++)
		random_round(seed % 2 ? &h->b : &late, &sb, seed % 2 ? &clean : &dirty, seed);
	free(clean.node);
	free(dirty.node);
	free(after.seen);
	rig_destroy(&late.r);
}

/* --- flags ------------------------------------------------------------------------------------- */

static void set_flags(struct bench *b, struct fs *fs, uint64_t ino, uint32_t flags)
{
	assert_int_equal(fs_set_flags(fs, b->r.q, 0, ino, INODE_USER_FLAGS, flags), 0);
}

static void check_flags(struct bench *b, struct fs *fs, uint64_t ino, uint32_t want)
{
	uint32_t flags;

	assert_int_equal(fs_get_flags(fs, b->r.q, ino, &flags), 0);
	assert_int_equal(flags, want);
}

/* As it was before any inode had flags, in all copies. */
static void forget_feature(struct bench *b)
{
	struct super sb = bench_super(b);

	assert_int_equal(sb.incompat, FEATURE_INCOMPAT_INODE_FLAGS);
	sb.incompat = 0;
	assert_int_equal(super_write(b->r.q, &sb), 0);
}

/* Neither the flags nor what the superblock must say of them gets lost; where it does not say so, it does afterwards. */
static void flags_round(const struct bench *from, bool roots, bool feature)
{
	struct fs_config cfg = {0};
	struct bench b;
	struct told t;
	struct fs *fs;

	bench_clone(&b, from);
	if (!feature)
		forget_feature(&b);
	if (roots) {
		destroy_roots(&b);
	} else {
		struct nodes all = nodes_all(&b);

		for (unsigned i = 1; i < all.n; i++)
			if (all.node[i].level == 1)
				destroy_node(&b, &all.node[i]);
		free(all.node);
	}
	assert_int_equal(repair(&b, true, &t), 0);
	assert_int_equal(bench_check(&b, true), 0);
	assert_int_equal(b.res.nerrors, 0);
	assert_int_equal(bench_super(&b).incompat, FEATURE_INCOMPAT_INODE_FLAGS);
	bench_open(&b);
	assert_int_equal(fs_open(b.r.v, b.r.q, &cfg, &fs), 0);
	check_flags(&b, fs, b.data, INODE_IMMUTABLE | INODE_NODUMP);
	check_flags(&b, fs, b.tiny, INODE_APPEND | INODE_SYNC);
	check_flags(&b, fs, b.dir, INODE_DIRSYNC | INODE_APPEND);
	check_flags(&b, fs, b.sym, INODE_NOATIME);
	check_flags(&b, fs, b.twin, 0);
	fs_close(fs, b.r.q);
	bench_close(&b);
	rig_destroy(&b.r);
}

static void test_flags(void **state)
{
	struct history *h = *state;
	struct fs_config cfg = {0};
	struct bench b;
	struct fs *fs;

	bench_clone(&b, &h->b);
	bench_open(&b);
	assert_int_equal(fs_open(b.r.v, b.r.q, &cfg, &fs), 0);
	set_flags(&b, fs, b.data, INODE_IMMUTABLE | INODE_NODUMP);
	set_flags(&b, fs, b.tiny, INODE_APPEND | INODE_SYNC);
	set_flags(&b, fs, b.dir, INODE_DIRSYNC | INODE_APPEND);
	set_flags(&b, fs, b.sym, INODE_NOATIME);
	fs_close(fs, b.r.q);
	bench_close(&b);
	for (unsigned i = 0; i < 4; i++)
		flags_round(&b, i & 1, i & 2);
	rig_destroy(&b.r);
}

static int setup(void **state)
{
	struct history *h = malloc(sizeof(*h));

	assert_non_null(h);
	history_create(h);
	*state = h;
	return 0;
}

static int teardown(void **state)
{
	struct history *h = *state;

	rig_destroy(&h->b.r);
	free(h->before.seen);
	free(h);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inner_nodes),
		cmocka_unit_test(test_leaves),
		cmocka_unit_test(test_roots),
		cmocka_unit_test(test_roots_and_journal),
		cmocka_unit_test(test_nodes_and_journal),
		cmocka_unit_test(test_roots_and_top),
		cmocka_unit_test(test_flags),
		cmocka_unit_test(test_cut),
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests_name("salvage", tests, setup, teardown);
}
