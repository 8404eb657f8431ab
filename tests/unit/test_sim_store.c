/* SPDX-License-Identifier: Apache-2.0 */
/* test_sim_store.c - exactly which versions of a sector core/sim_store.h lets survive. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/sim_store.h"

#define SECTOR 512u
#define SECTNO 9u
#define SEEDS 200u

static void write_version(struct sim_store *st, unsigned v, bool durable)
{
	unsigned char sect[SECTOR];

	memset(sect, (int)v, SECTOR);
	assert_int_equal(sim_store_write(st, SECTNO, sect, durable, v), 0);
}

static unsigned version(struct sim_store *st)
{
	unsigned char v;

	sim_store_read(st, SECTNO * SECTOR, &v, 1);
	return v;
}

/* Versions 1..n, of which `durable` (0: none) is written as such; then a flush up to `upto`, then a cut. */
static unsigned survivor(unsigned n, unsigned durable, unsigned upto, uint64_t seed)
{
	struct sim_store *st;
	unsigned v;

	assert_int_equal(sim_store_create(64 * SECTOR, SECTOR, seed, &st), 0);
	for (v = 1; v <= n; v++)
		write_version(st, v, v == durable);
	sim_store_commit(st, upto);
	assert_int_equal(version(st), n);
	sim_store_settle(st, seed);
	v = version(st);
	sim_store_settle(st, seed + 1); /* what has survived is durable */
	assert_int_equal(version(st), v);
	sim_store_free(st);
	return v;
}

static void exactly_what_is_not_covered(void **state)
{
	(void)state;
	for (unsigned n = 1; n <= 8; n++)
		for (unsigned upto = 0; upto <= n; upto++) {
			unsigned seen[9] = {0};

			for (uint64_t seed = 0; seed < SEEDS; seed++)
				seen[survivor(n, 0, upto, seed)]++;
			for (unsigned v = 0; v <= 8; v++)
				assert_int_equal(seen[v] > 0, v >= upto && v <= n);
		}
}

/* More versions than are kept: whichever are forgotten, nothing older than the covered one comes back. */
static void forgetting_never_undoes_a_flush(void **state)
{
	unsigned older_than_newest = 0;

	(void)state;
	for (unsigned n = 9; n <= 40; n++)
		for (unsigned upto = 0; upto <= n; upto++)
			for (uint64_t seed = 0; seed < 60; seed++) {
				unsigned v = survivor(n, 0, upto, seed);

				assert_in_range(v, upto, n);
				older_than_newest += v < n;
			}
	assert_true(older_than_newest > 1000);
}

/* The newest is volatile until a flush covers it by its own number. */
static void forgetting_never_vouches_for_the_newest(void **state)
{
	unsigned lost = 0;

	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++)
		lost += survivor(30, 0, 29, seed) == 29;
	assert_in_range(lost, SEEDS / 5, SEEDS * 4 / 5);
}

static void durable_write_ends_the_past(void **state)
{
	unsigned seen[7] = {0};

	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++)
		seen[survivor(6, 4, 0, seed)]++;
	for (unsigned v = 0; v <= 6; v++)
		assert_int_equal(seen[v] > 0, v >= 4);
}

static void settled_alike_from_one_seed(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++)
		assert_int_equal(survivor(20, 0, 3, seed), survivor(20, 0, 3, seed));
}

static void holes(void **state)
{
	struct sim_store *st;

	(void)state;
	assert_int_equal(sim_store_create(64 * SECTOR, SECTOR, 1, &st), 0);
	assert_true(sim_store_hole(st, SECTNO) > 0);
	write_version(st, 1, true);
	assert_int_equal(sim_store_hole(st, SECTNO), 0);
	assert_int_equal(sim_store_hole(st, 16), 8); /* to the end of its page */
	sim_store_free(st);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exactly_what_is_not_covered),
		cmocka_unit_test(forgetting_never_undoes_a_flush),
		cmocka_unit_test(forgetting_never_vouches_for_the_newest),
		cmocka_unit_test(durable_write_ends_the_past),
		cmocka_unit_test(settled_alike_from_one_seed),
		cmocka_unit_test(holes),
	};

	return cmocka_run_group_tests_name("sim store", tests, NULL, NULL);
}
