/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_repair.c - every kind of damage is repaired: a second check, contents included, finds nothing, what was not damaged is still
 * there, and the volume mounts.
 */
#include "tests/unit/repair_rig.h"

struct fixture {
	struct bench b;
	struct sight before;
};

/* --- each kind of damage ----------------------------------------------------------------------- */

static int expected(enum mend mend, bool all)
{
	switch (mend) {
	case LOSES:
		return all ? 0 : -EPERM;
	case KEEPS_LOG_BAD:
		return -EBADMSG;
	case NO_ROOT:
		return all ? 0 : -ENODATA;
	default:
		return 0;
	}
}

static void check_result(struct bench *b, const struct hit *h, bool all)
{
	bool data_bad = h->mend == KEEPS_DATA_BAD;

	assert_int_equal(bench_check(b, true), 0);
	if (b->res.nerrors != (data_bad ? 1 : 0) || !b->res.root_clean)
		fail_msg("%s (-%c): %llu errors are left, clean: %d", h->name, all ? 'y' : 'p', (unsigned long long)b->res.nerrors,
			 b->res.root_clean);
}

static void check_survivors(struct bench *b, const struct fixture *f, const struct hit *h, const struct told *t)
{
	struct sight after;

	sight_take(b, &after);
	unsigned missing = sight_missing(&f->before, &after, t);

	if (h->changes == SOME ? !t->lost_unknown : missing != h->changes)
		fail_msg("%s: %u inodes are gone or changed, %u expected", h->name, missing, h->changes);
	free(after.seen);
}

static void repair_hit(const struct fixture *f, const struct hit *h, bool all)
{
	struct bench b;
	struct told t;

	bench_clone(&b, &f->b);
	h->run(&b);
	int err = repair(&b, all, &t);

	if (err != expected(h->mend, all))
		fail_msg("%s (-%c): returned %d", h->name, all ? 'y' : 'p', err);
	if (h->mend == MENDS && (t.lost || t.lost_unknown))
		fail_msg("%s (-%c): something was lost", h->name, all ? 'y' : 'p');
	if (h->mend == LOSES && !t.lost && !t.lost_unknown)
		fail_msg("%s (-%c): nothing is said to be lost", h->name, all ? 'y' : 'p');
	if (!err) {
		check_result(&b, h, all);
		check_survivors(&b, f, h, &t);
	}
	rig_destroy(&b.r);
}

static void test_repairs(void **state)
{
	for (unsigned i = 0; i < nhits; i++)
		repair_hit(*state, &hits[i], true);
}

static void test_repairs_what_loses_nothing(void **state)
{
	for (unsigned i = 0; i < nhits; i++)
		repair_hit(*state, &hits[i], false);
}

/* What would lose something is left exactly as it is, save for copies. */
static void test_refusal_changes_nothing(void **state)
{
	const struct fixture *f = *state;

	for (unsigned i = 0; i < nhits; i++) {
		struct bench b;
		struct told t;

		if (hits[i].mend == MENDS || hits[i].mend == KEEPS_DATA_BAD)
			continue;
		bench_clone(&b, &f->b);
		hits[i].run(&b);
		uint64_t writes = dev_sim_writes(b.r.dev);

		assert_true(repair(&b, false, &t) < 0);
		assert_int_equal(dev_sim_writes(b.r.dev), writes);
		rig_destroy(&b.r);
	}
}

/* --- repairs that are interrupted -------------------------------------------------------------- */

static bool is_mended(const struct hit *h)
{
	return h->mend == MENDS || h->mend == LOSES;
}

/* What an undisturbed repair leaves, and how many writes and flushes it needs. */
static uint64_t undisturbed(const struct fixture *f, const struct hit *h, struct sight *out)
{
	struct bench b;
	struct told t;

	bench_clone(&b, &f->b);
	h->run(&b);
	uint64_t writes = dev_sim_writes(b.r.dev);

	assert_int_equal(repair(&b, true, &t), 0);
	writes = dev_sim_writes(b.r.dev) - writes;
	sight_take(&b, out);
	rig_destroy(&b.r);
	return writes;
}

/* The repair after the one that was disturbed must come to the same. */
static void repair_again(struct bench *b, const struct hit *h, const struct sight *want, uint64_t n)
{
	struct sight after;
	struct told t;

	int err = repair(b, true, &t);

	if (err)
		fail_msg("%s, write %llu: the second repair returned %d", h->name, (unsigned long long)n, err);
	check_result(b, h, true);
	memset(&t, 0, sizeof(t));
	sight_take(b, &after);
	if (sight_missing(want, &after, &t))
		fail_msg("%s, write %llu: something was lost by the interruption", h->name, (unsigned long long)n);
	free(after.seen);
}

static void cut_at(const struct fixture *f, const struct hit *h, const struct sight *want, uint64_t n)
{
	struct bench b;
	struct told t;

	bench_clone(&b, &f->b);
	h->run(&b);
	dev_sim_cut_after(b.r.dev, n);
	repair(&b, true, &t);
	rig_after_cut(&b.r, n);
	repair_again(&b, h, want, n);
	rig_destroy(&b.r);
}

static void fail_at(const struct fixture *f, const struct hit *h, const struct sight *want, uint64_t n)
{
	struct bench b;
	struct told t;

	bench_clone(&b, &f->b);
	h->run(&b);
	dev_sim_fail(b.r.dev, DEV_WRITE, n, SIM_FAULT_ONCE, -EIO, 0, 0);
	repair(&b, true, &t);
	dev_sim_fail(b.r.dev, DEV_WRITE, 0, SIM_FAULT_NONE, 0, 0, 0);
	repair_again(&b, h, want, n);
	rig_destroy(&b.r);
}

/* Instrumented code takes ten times as long, and looks for other mistakes than those that depend on where it is cut. */
#ifdef __SANITIZE_ADDRESS__
#define SPARSER 7u
#else
#define SPARSER 1u
#endif

/* All writes of some; of the others, which use the same mechanism, enough to meet each kind of write now and then. */
static unsigned step_of(const struct hit *h)
{
	static const char *const thorough[] = {"superblock copy", "root copy", "node copy", "bitmap lost", "leaf lost", "unreachable",
					       "crash"};
	const char *all = getenv("HOLDFAST_LONG");

	for (unsigned i = 0; i < sizeof(thorough) / sizeof(thorough[0]); i++)
		if (strcmp(thorough[i], h->name) == 0)
			return SPARSER;
	return all && strcmp(all, "1") == 0 ? 1 : 11 * SPARSER;
}

static void disturb(const struct fixture *f,
		    void (*how)(const struct fixture *, const struct hit *, const struct sight *, uint64_t))
{
	for (unsigned i = 0; i < nhits; i++) {
		struct sight want;

		if (!is_mended(&hits[i]))
			continue;
		uint64_t writes = undisturbed(f, &hits[i], &want);

		for (uint64_t n = 1 + i % step_of(&hits[i]); n <= writes; n += step_of(&hits[i]))
			how(f, &hits[i], &want, n);
		free(want.seen);
	}
}

static void test_power_cut_at_every_write(void **state)
{
	disturb(*state, cut_at);
}

static void test_error_at_every_write(void **state)
{
	disturb(*state, fail_at);
}

/* --- what is written when ---------------------------------------------------------------------- */

/* As if the power had gone when everything but the roots was written. */
static void repair_without_roots(struct bench *b)
{
	struct super sb = bench_super(b);
	uint8_t root[4][BLOCK_SIZE];
	struct told t;

	for (unsigned i = 0; i < 4; i++)
		block_peek(b, root_blkno(&sb, i / 2, i % 2), root[i]);
	assert_int_equal(repair(b, true, &t), 0);
	for (unsigned i = 0; i < 4; i++)
		block_poke(b, root_blkno(&sb, i / 2, i % 2), root[i]);
}

/* Until the root is there the damaged volume is as it was: the same findings, as often. */
static void old_state_stays(const struct bench *from, const struct hit *h)
{
	uint64_t before[FSCK_NCODES];
	struct bench b;

	bench_clone(&b, from);
	h->run(&b);
	assert_int_equal(bench_check(&b, true), 0);
	memcpy(before, b.found, sizeof(before));
	repair_without_roots(&b);
	assert_int_equal(bench_check(&b, true), 0);
	for (unsigned code = 0; code < FSCK_NCODES; code++)
		if (b.found[code] != before[code])
			fail_msg("%s: %s found %llu times, before it was %llu", h->name, fsck_code_info(code)->name,
				 (unsigned long long)b.found[code], (unsigned long long)before[code]);
	rig_destroy(&b.r);
}

/* Damage that only a rebuild repairs; what a mount would do about the journal writes other things. */
static bool needs_rebuild(const struct hit *h)
{
	bool needs = false;

	for (unsigned code = 0; code < FSCK_NCODES; code++)
		if (h->want >> code & 1 && repair_way(code) == REPAIR_REBUILD)
			needs = true;
	return needs && is_mended(h) && !(h->want & SET(LOG_UNCLEAN));
}

/* Again on a volume that comes from a rebuild: its nodes are where the next one would look for blocks first. */
static void test_old_state_stays_until_the_root(void **state)
{
	const struct fixture *f = *state;
	struct bench again;
	struct told t;

	bench_clone(&again, &f->b);
	bench_open(&again);
	inode_add(&again, again.dir, 1, 0, 0);
	bench_close(&again);
	assert_int_equal(repair(&again, true, &t), 0);
	for (unsigned i = 0; i < nhits; i++) {
		if (!needs_rebuild(&hits[i]))
			continue;
		old_state_stays(&f->b, &hits[i]);
		old_state_stays(&again, &hits[i]);
	}
	rig_destroy(&again.r);
}

/* Neither slot names the old tree any more, whose blocks are free now. */
static void test_both_roots_are_new(void **state)
{
	const struct fixture *f = *state;

	for (unsigned i = 0; i < nhits; i++) {
		struct disk_root root[2];
		struct bench b;
		struct told t;

		if (!needs_rebuild(&hits[i]))
			continue;
		bench_clone(&b, &f->b);
		hits[i].run(&b);
		assert_int_equal(repair(&b, true, &t), 0);
		struct super sb = bench_super(&b);

		for (unsigned slot = 0; slot < 2; slot++) {
			block_peek(&b, root_blkno(&sb, slot, 0), &root[slot]);
			assert_int_equal(root_check(&root[slot], &sb, slot, NULL), 0);
		}
		assert_memory_equal(&root[0].tree, &root[1].tree, sizeof(root[0].tree));
		assert_memory_equal(root[0].table_csum, root[1].table_csum, sizeof(root[0].table_csum));
		rig_destroy(&b.r);
	}
}

/* --- */

static int setup(void **state)
{
	struct fixture *f = malloc(sizeof(*f));

	assert_non_null(f);
	bench_create(&f->b);
	sight_take(&f->b, &f->before);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	rig_destroy(&f->b.r);
	free(f->before.seen);
	free(f);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_repairs),
		cmocka_unit_test(test_repairs_what_loses_nothing),
		cmocka_unit_test(test_refusal_changes_nothing),
		cmocka_unit_test(test_old_state_stays_until_the_root),
		cmocka_unit_test(test_both_roots_are_new),
		cmocka_unit_test(test_power_cut_at_every_write),
		cmocka_unit_test(test_error_at_every_write),
	};

	return cmocka_run_group_tests_name("repair", tests, setup, teardown);
}
