/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_alloc_window.c - room behind what owners got: others stay out of it while they can.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/alloc.h"

/* A volume of which nothing but fixed areas is used. */
static struct alloc *fresh(uint64_t ngroups, struct super *sb)
{
	struct alloc *a;

	*sb = (struct super){.nblocks = ngroups * GROUP_BLOCKS, .journal_nblocks = MIN_JOURNAL};
	assert_int_equal(super_layout(sb), 0);
	assert_int_equal(alloc_create_empty(sb, NULL, &a), 0);
	return a;
}

static uint64_t nfree(const struct alloc *a)
{
	struct alloc_space s;

	alloc_get_space(a, &s);
	return s.nfree;
}

static uint64_t get(struct alloc *a, struct alloc_place place, uint64_t want, uint64_t *n)
{
	struct miss miss;
	uint64_t blkno;

	assert_int_equal(alloc_get(a, place, want, 0, ALLOC_URGENT, &miss, &blkno, n), 0);
	alloc_assert(a);
	return blkno;
}

/* All of it, in one run. */
static uint64_t get_whole(struct alloc *a, uint64_t goal, uint64_t owner, uint64_t room, uint64_t want)
{
	uint64_t n, blkno = get(a, (struct alloc_place){goal, owner, room}, want, &n);

	assert_int_equal(n, want);
	return blkno;
}

/* Files that grow by turns, each as large as all that it has: as many pieces as doublings, not as turns. */
static void test_growing_together(void **state)
{
	enum { FILES = 8, TURNS = 400, PIECE = 16 };
	struct super sb;
	struct alloc *a = fresh(8, &sb);
	uint64_t end[FILES] = {0};
	unsigned pieces[FILES] = {0};

	(void)state;
	for (unsigned turn = 0; turn < TURNS; turn++) {
		for (unsigned f = 0; f < FILES; f++) {
			for (uint64_t blkno, n, left = PIECE; left; left -= n) {
				blkno = get(a, (struct alloc_place){end[f], f + 1, (uint64_t)turn * PIECE}, left, &n);
				pieces[f] += blkno != end[f];
				end[f] = blkno + n;
			}
		}
	}
	for (unsigned f = 0; f < FILES; f++)
		assert_in_range(pieces[f], 1, 12);
	alloc_destroy(a);
}

/* A window comes of being in each other's way: what `owner` wanted is used, and so it gets `want` blocks somewhere else, and room behind them. */
static uint64_t get_window(struct alloc *a, uint64_t owner, uint64_t room, uint64_t want)
{
	uint64_t used = get_whole(a, 0, 0, 0, 1);

	return get_whole(a, used, owner, room, want);
}

/* Files written one after the other lie side by side. */
static void test_none_without_need(void **state)
{
	struct super sb;
	struct alloc *a = fresh(2, &sb);
	uint64_t first = get_whole(a, 0, 7, 100, 10);

	(void)state;
	assert_int_equal(get_whole(a, first + 10, 7, 100, 10), first + 10);
	assert_int_equal(get_whole(a, 0, 8, 100, 10), first + 20);
	alloc_destroy(a);
}

/* New files, and others' next blocks, are behind the window; the owner's own are in it. */
static void test_others_stay_out(void **state)
{
	struct super sb;
	struct alloc *a = fresh(2, &sb);
	uint64_t first = get_window(a, 7, 100, 10);

	(void)state;
	assert_int_equal(get_whole(a, 0, 0, 0, 10), first + 110);
	assert_int_equal(get_whole(a, first + 10, 8, 0, 5), first + 120);
	assert_int_equal(get_whole(a, first + 10, 7, 100, 20), first + 10);
	/* It goes along, and ends at what others have. */
	assert_int_equal(get_whole(a, first + 30, 8, 0, 5), first + 125);
	assert_int_equal(get_whole(a, first + 30, 7, 100, 80), first + 30);
	alloc_destroy(a);
}

/* A window in front of another ends there, and what is inside another is none. */
static void test_windows_do_not_overlap(void **state)
{
	struct super sb;
	struct alloc *a = fresh(2, &sb);
	uint64_t first = get_window(a, 1, 20, 10), second = get_window(a, 2, 100, 10);

	(void)state;
	assert_int_equal(second, first + 31);
	assert_int_equal(get_whole(a, first + 10, 1, 100, 10), first + 10);
	assert_int_equal(get_whole(a, first + 20, 1, 100, 5), first + 20);
	/* 3 gets what is behind both. */
	assert_int_equal(get_whole(a, first + 25, 3, 0, 5), second + 110);
	assert_int_equal(get_whole(a, first + 25, 1, 100, 5), first + 25);
	assert_int_equal(get_whole(a, second + 10, 2, 100, 100), second + 10);
	alloc_destroy(a);
}

/* One of which nothing is left ends no other. */
static void test_empty_is_none(void **state)
{
	struct super sb;
	struct alloc *a = fresh(2, &sb);
	uint64_t first = get_window(a, 1, 100, 10);

	(void)state;
	assert_int_equal(get_whole(a, first + 10, 1, 0, 5), first + 10);
	alloc_unget(a, first, 15);
	assert_int_equal(get_window(a, 2, 100, 10), first + 1);
	assert_int_equal(get_whole(a, 0, 0, 0, 10), first + 111);
	assert_int_equal(get_whole(a, first + 11, 2, 100, 50), first + 11);
	alloc_destroy(a);
}

/* Who may want more goes where more is free, and who does not fills the gap. */
static void test_jump_has_room(void **state)
{
	struct super sb;
	struct alloc *a = fresh(2, &sb);
	uint64_t first = get_whole(a, 0, 0, 0, 10), gap = first + 10;

	(void)state;
	assert_int_equal(get_whole(a, gap + 50, 0, 0, 10), gap + 50);
	assert_int_equal(get_whole(a, first, 1, 100, 20), gap + 60);
	assert_int_equal(get_whole(a, first, 2, 0, 20), gap);
	alloc_destroy(a);
}

/* No block is lost to windows: a full volume is full. */
static void test_windows_yield(void **state)
{
	struct super sb;
	struct alloc *a = fresh(2, &sb);
	uint64_t n, end = 0;
	struct miss miss;

	(void)state;
	for (uint64_t owner = 1; owner <= ALLOC_WINDOWS; owner++)
		get_window(a, owner, 1000, 10);
	while (nfree(a) > 0)
		end = get(a, (struct alloc_place){end, 1000, 10000}, 4096, &n) + n;
	assert_int_equal(alloc_get(a, alloc_at(0), 1, 0, ALLOC_URGENT, &miss, &end, &n), -ENOSPC);
	alloc_destroy(a);
}

/* A run that is long enough is taken from a window rather than a short one beside it. */
static void test_want_goes_before_windows(void **state)
{
	struct super sb;
	struct alloc *a = fresh(2, &sb);
	uint64_t n, window = get_window(a, 1, 200, 10) + 10, last = 0;

	(void)state;
	/* Nothing else is left but the window and a few single blocks. */
	while (nfree(a) > 200)
		last = get(a, alloc_at(0), nfree(a) - 200, &n);
	assert_int_equal(nfree(a), 200);
	alloc_unget(a, last, 1);
	assert_int_equal(get_whole(a, 0, 2, 0, 1), last);
	alloc_unget(a, last, 1);
	assert_int_equal(get_whole(a, 0, 2, 0, 50), window);
	alloc_destroy(a);
}

/* The one that was not used for longest goes. */
static void test_as_many_as_there_are(void **state)
{
	struct super sb;
	struct alloc *a = fresh(4, &sb);
	uint64_t first = get_window(a, 1, 50, 10), second = get_window(a, 2, 50, 10);

	(void)state;
	assert_int_equal(get_whole(a, first + 10, 1, 50, 1), first + 10);
	for (uint64_t owner = 3; owner <= ALLOC_WINDOWS + 1; owner++)
		get_window(a, owner, 50, 10);
	assert_int_equal(get_whole(a, second + 10, 1000, 0, 10), second + 10);
	assert_true(get_whole(a, first + 11, 1000, 0, 10) != first + 11);
	alloc_destroy(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_growing_together),
		cmocka_unit_test(test_none_without_need),
		cmocka_unit_test(test_others_stay_out),
		cmocka_unit_test(test_windows_do_not_overlap),
		cmocka_unit_test(test_empty_is_none),
		cmocka_unit_test(test_jump_has_room),
		cmocka_unit_test(test_windows_yield),
		cmocka_unit_test(test_want_goes_before_windows),
		cmocka_unit_test(test_as_many_as_there_are),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
