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
		return -ENODATA;
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
	};

	return cmocka_run_group_tests_name("repair", tests, setup, teardown);
}
