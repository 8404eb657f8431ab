/* SPDX-License-Identifier: Apache-2.0 */
/* test_spin.c - waiting awake: for how long, and when not at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fs/spin.h"

struct looks {
	unsigned n, until;
};

static bool look(void *arg)
{
	struct looks *l = arg;

	return ++l->n >= l->until;
}

static void off(void **state)
{
	struct looks l = {.until = 1};
	struct spin s;

	(void)state;
	spin_init(&s, 0);
	for (unsigned i = 0; i < 100; i++)
		assert_false(spin_until(&s, look, &l));
	assert_int_equal(l.n, 0);
}

static void what_comes_is_seen(void **state)
{
	struct looks l = {.until = 3};
	struct spin s;

	(void)state;
	spin_init(&s, 60000000);
	s.usual_ns = 30000000000;
	assert_true(spin_until(&s, look, &l));
	assert_int_equal(l.n, 3);
	assert_true(s.usual_ns < 30000000000);
}

static void what_does_not_come_ends(void **state)
{
	struct looks l = {.until = UINT32_MAX};
	struct spin s;

	(void)state;
	spin_init(&s, 1000);
	uint64_t begin = spin_now();
	assert_false(spin_until(&s, look, &l));
	assert_true(l.n > 0);
	/* Twice the first guess. */
	assert_true(spin_now() - begin >= 200000);
}

/* A disk that takes longer than the limit is not waited for awake, but now and then, to find out whether it still does. */
static void slow_things_are_slept_for(void **state)
{
	struct looks l = {.until = 1};
	unsigned awake = 0;
	struct spin s;

	(void)state;
	spin_init(&s, 300);
	for (unsigned i = 0; i < 50; i++)
		spin_slept(&s, spin_now() - 50000000);
	assert_true(s.usual_ns > 300000 && s.usual_ns <= 4 * 300000);
	l.until = UINT32_MAX;
	for (unsigned i = 0; i < 320; i++) {
		unsigned before = l.n;

		assert_false(spin_until(&s, look, &l));
		awake += l.n > before;
	}
	assert_int_equal(awake, 10);
	/* It has become fast. */
	l.until = 1;
	for (unsigned i = 0; i < 32 * 40 && s.usual_ns > 300000; i++)
		spin_until(&s, look, &l);
	assert_true(spin_until(&s, look, &l));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(off),
		cmocka_unit_test(what_comes_is_seen),
		cmocka_unit_test(what_does_not_come_ends),
		cmocka_unit_test(slow_things_are_slept_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
