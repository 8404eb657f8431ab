/* SPDX-License-Identifier: Apache-2.0 */
/* test_big_pool.c - core/big_pool.h. */
#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/big_pool.h"

#define BYTES ((1u << 20) + 4096u)
#define MANY 100u /* more than 96 MiB */
#define HUGE ((size_t)32 << 20)

static void *buffers[MANY];

/* Bytes that the process has mapped. */
static size_t mapped(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	size_t pages = 0;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%zu", &pages), 1);
	fclose(f);
	return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void take(struct big_pool *p, unsigned from, unsigned step)
{
	for (unsigned i = from; i < MANY; i += step) {
		buffers[i] = big_pool_get(p);
		assert_non_null(buffers[i]);
		assert_int_equal((uintptr_t)buffers[i] % 4096, 0);
		memset(buffers[i], (int)i, BYTES);
	}
}

/* Each buffer is one's own, all of it. */
static void look(void)
{
	for (unsigned i = 0; i < MANY; i++) {
		const uint8_t *buf = buffers[i];

		for (size_t at = 0; at < BYTES; at += 1021)
			assert_int_equal(buf[at], i);
		assert_int_equal(buf[BYTES - 1], i);
	}
}

static void give_back(struct big_pool *p, unsigned from, unsigned step)
{
	for (unsigned i = from; i < MANY; i += step)
		big_pool_put(p, buffers[i]);
}

static void buffers_are_ones_own(void **state)
{
	struct big_pool *p = big_pool_create(BYTES, HUGE);

	(void)state;
	assert_non_null(p);
	take(p, 0, 1);
	look();
	/* Others come back and go out again while some stay. */
	for (unsigned round = 0; round < 3; round++) {
		give_back(p, round, 3);
		take(p, round, 3);
		look();
	}
	give_back(p, 0, 1);
	big_pool_destroy(p);
	big_pool_destroy(NULL);
}

static void memory_goes_back(void **state)
{
	size_t before = mapped();
	struct big_pool *p = big_pool_create(BYTES, HUGE);

	(void)state;
	assert_non_null(p);
	for (unsigned round = 0; round < 5; round++) {
		take(p, 0, 1);
		assert_true(mapped() > before + (size_t)MANY * BYTES);
		/* In another order than that in which they went out. */
		give_back(p, 1, 2);
		give_back(p, 0, 2);
		assert_true(mapped() < before + ((size_t)36 << 20));
	}
	big_pool_destroy(p);
	assert_true(mapped() < before + ((size_t)4 << 20));
}

/* What /proc/self/smaps says of the mapping that has the address: may it, or shall it, be in huge pages ("hg"), or not at all ("nh")? */
static bool has_flag(const void *at, const char *flag)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	bool here = false, has = false;
	char *line = NULL;
	size_t room = 0;

	assert_non_null(f);
	while (getline(&line, &room, f) > 0) {
		uintptr_t from, to;

		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2)
			here = from <= (uintptr_t)at && (uintptr_t)at < to;
		else if (here && !strncmp(line, "VmFlags:", 8))
			has = strstr(line, flag);
	}
	free(line);
	fclose(f);
	return has;
}

/* What a system does where nothing is said may be either. */
static void huge_pages_are_bounded(void **state)
{
	size_t huge = 0, small = 0;

	(void)state;
	if (access("/sys/kernel/mm/transparent_hugepage/enabled", F_OK))
		skip();

	struct big_pool *p = big_pool_create(BYTES, HUGE);

	assert_non_null(p);
	take(p, 0, 1);
	for (unsigned i = 0; i < MANY; i++) {
		huge += has_flag(buffers[i], " hg") * BYTES;
		small += has_flag(buffers[i], " nh") * BYTES;
	}
	assert_in_range(huge, HUGE / 2, HUGE);
	assert_int_equal(huge + small, (size_t)MANY * BYTES);
	give_back(p, 0, 1);
	big_pool_destroy(p);
}

/* In a thread cmocka's assertions lead nowhere. */
static void *take_and_give(void *arg)
{
	for (unsigned i = 0; i < 2000; i++) {
		uint64_t *one = big_pool_get(arg), *other = big_pool_get(arg);

		assert(one && other && one != other);
		one[0] = one[BYTES / 8 - 1] = (uintptr_t)one;
		other[0] = other[BYTES / 8 - 1] = (uintptr_t)other + (uintptr_t)&one;
		assert(one[0] == (uintptr_t)one && one[BYTES / 8 - 1] == (uintptr_t)one);
		assert(other[BYTES / 8 - 1] == (uintptr_t)other + (uintptr_t)&one);
		big_pool_put(arg, i % 2 ? one : other);
		big_pool_put(arg, i % 2 ? other : one);
	}
	return NULL;
}

static void threads_share_it(void **state)
{
	struct big_pool *p = big_pool_create(BYTES, 0);
	pthread_t thread[4];

	(void)state;
	assert_non_null(p);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, take_and_give, p), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_join(thread[i], NULL), 0);
	big_pool_destroy(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buffers_are_ones_own),
		cmocka_unit_test(memory_goes_back),
		cmocka_unit_test(huge_pages_are_bounded),
		cmocka_unit_test(threads_share_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
