/* SPDX-License-Identifier: Apache-2.0 */
/* test_page_pool.c - core/page_pool.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/page_pool.h"

#define MANY 10000u /* 39 MiB, more than an empty pool keeps */

static void *pages[MANY];

static void take(struct page_pool *p, unsigned from, unsigned to)
{
	assert_int_equal(page_pool_reserve(p, to - from), 0);
	for (unsigned i = from; i < to; i++) {
		pages[i] = page_get(p);
		assert_int_equal((uintptr_t)pages[i] % BLOCK_SIZE, 0);
		memset(pages[i], (int)(i % 251), BLOCK_SIZE);
	}
}

/* Each page is one's own, all of it. */
static void look(unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i++) {
		const uint8_t *page = pages[i];

		for (unsigned at = 0; at < BLOCK_SIZE; at += 511)
			assert_int_equal(page[at], i % 251);
	}
}

static void pages_are_ones_own(void **state)
{
	struct page_pool p;

	(void)state;
	page_pool_init(&p);
	take(&p, 0, MANY);
	look(0, MANY);
	/* Others come back and go out again while some stay. */
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = round; i < MANY; i += 2)
			page_put(&p, pages[i]);
		assert_int_equal(page_pool_reserve(&p, MANY / 2), 0);
		for (unsigned i = round; i < MANY; i += 2) {
			pages[i] = page_get(&p);
			memset(pages[i], (int)(i % 251), BLOCK_SIZE);
		}
		look(0, MANY);
	}
	for (unsigned i = 0; i < MANY; i++)
		page_put(&p, pages[i]);
	page_pool_fini(&p);
}

/* Bytes that the process has mapped. */
static size_t mapped(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	size_t n = 0;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%zu", &n), 1);
	fclose(f);
	return n * (size_t)sysconf(_SC_PAGESIZE);
}

/* What lies beside a slab could become a huge page of which a word is used.  And nothing stays. */
static void nothing_lies_beside(void **state)
{
	const size_t bytes = (size_t)MANY * BLOCK_SIZE;
	size_t before = mapped();
	struct page_pool p;

	(void)state;
	page_pool_init(&p);
	take(&p, 0, MANY);
	assert_in_range(mapped() - before, bytes - ((size_t)1 << 20), bytes + ((size_t)8 << 20));
	for (unsigned i = 0; i < MANY; i++)
		page_put(&p, pages[i]);
	page_pool_fini(&p);
	assert_true(mapped() < before + ((size_t)4 << 20));
}

/* What came back is given out before new memory is; an empty pool keeps a part. */
static void memory_is_used_again(void **state)
{
	struct page_pool p;

	(void)state;
	page_pool_init(&p);
	take(&p, 0, 100);
	uint64_t npages = p.npages;

	for (unsigned i = 0; i < 1000; i++) {
		page_put(&p, pages[i % 100]);
		take(&p, i % 100, i % 100 + 1);
	}
	assert_int_equal(p.npages, npages);
	take(&p, 100, MANY);
	assert_true(p.npages > 4096);
	for (unsigned i = 0; i < MANY; i++) {
		assert_true(p.npages > 4096);
		page_put(&p, pages[i]);
	}
	assert_in_range(p.npages, 4096 - 512 + 64, 4096);
	take(&p, 0, MANY);
	look(0, MANY);
	for (unsigned i = 0; i < MANY; i++)
		page_put(&p, pages[i]);
	page_pool_fini(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_lies_beside),
		cmocka_unit_test(pages_are_ones_own),
		cmocka_unit_test(memory_is_used_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
