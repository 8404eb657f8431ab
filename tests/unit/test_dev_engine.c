/* SPDX-License-Identifier: Apache-2.0 */
/* test_dev_engine.c - how core/dev_engine.h continues a transfer that was cut short. */
#include "tests/unit/dev_fixture.h"

#include "core/dev_engine.h"

static void results_of_a_call(void **state)
{
	struct dev_io io = {.op = DEV_WRITE, .len = 8192};

	(void)state;
	assert_false(engine_advance(&io, -EINTR, 512));
	assert_false(engine_advance(&io, -EAGAIN, 512));
	assert_int_equal(io.moved, 0);
	assert_false(engine_advance(&io, 1000, 512));
	assert_int_equal(io.moved, 512); /* O_DIRECT goes on at a sector */
	assert_false(engine_advance(&io, 1, 1));
	assert_int_equal(io.moved, 513); /* the page cache goes on anywhere */
	assert_true(engine_advance(&io, 8192 - 513, 1));
	assert_int_equal(io.result, 0);
	io.moved = 512;
	assert_true(engine_advance(&io, 0, 1));
	assert_int_equal(io.result, -EIO);
	assert_true(engine_advance(&io, 100, 512));
	assert_int_equal(io.result, -EIO);
	assert_true(engine_advance(&io, 8192, 1)); /* more than was asked for */
	assert_int_equal(io.result, -EIO);
	assert_true(engine_advance(&io, -ENOSPC, 1));
	assert_int_equal(io.result, -ENOSPC);
	io.op = DEV_FLUSH;
	assert_false(engine_advance(&io, -EINTR, 1));
	assert_true(engine_advance(&io, 0, 1));
	assert_int_equal(io.result, 0);
}

/* Every rest of a vector, as bytes, is the rest of the bytes. */
static void rest_of_a_vector(void **state)
{
	static unsigned char mem[4096];
	struct dev dev = {.align = 16};
	struct dev_queue q = {.dev = &dev};
	static const size_t lens[] = {16, 1, 15, 160, 7, 9, 48, 256};
	struct iovec iov[8], room[ENGINE_IOV_MAX];
	struct dev_io io = {.op = DEV_READ, .iov = iov, .niov = 8, .queue = &q};

	(void)state;
	for (int i = 0; i < 8; i++) {
		iov[i] = (struct iovec){.iov_base = mem + io.len, .iov_len = lens[i]};
		io.len += lens[i];
	}
	for (io.moved = 0; io.moved < io.len; io.moved++) {
		const struct iovec *rest;
		const unsigned char *next = mem + io.moved;
		int n = engine_iov_rest(&io, &rest, room);

		for (int i = 0; i < n; i++) {
			assert_ptr_equal(rest[i].iov_base, next);
			assert_true(rest[i].iov_len > 0);
			next += rest[i].iov_len;
		}
		assert_ptr_equal(next, mem + io.len);
	}
}

/* A vector too long for one call is cut where O_DIRECT can go on. */
static void long_vector_is_cut_aligned(void **state)
{
	enum { N = 3001 };
	static unsigned char mem[N * 512 + 4096];
	static struct iovec iov[N], room[ENGINE_IOV_MAX];
	struct dev dev = {.align = 4096};
	struct dev_queue q = {.dev = &dev};
	struct dev_io io = {.op = DEV_READ, .iov = iov, .niov = N, .queue = &q};
	int calls = 0;

	(void)state;
	for (int i = 0; i < N; i++)
		iov[i] = (struct iovec){.iov_base = mem + (size_t)i * 512, .iov_len = 512};
	iov[0].iov_len = 0; /* shift everything: 1024 entries are no multiple of 4096 */
	iov[0].iov_base = mem + 512;
	io.len = (uint64_t)(N - 1) * 512;
	while (io.moved < io.len) {
		const struct iovec *rest;
		int n = engine_iov_rest(&io, &rest, room);
		uint64_t total = 0;

		assert_true(n >= 1 && n <= ENGINE_IOV_MAX);
		assert_ptr_equal(rest[0].iov_base, mem + 512 + io.moved);
		for (int i = 0; i < n; i++)
			total += rest[i].iov_len;
		assert_int_equal(total % 4096, 0);
		io.moved += total;
		calls++;
	}
	assert_int_equal(io.moved, io.len);
	assert_int_equal(calls, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(results_of_a_call),
		cmocka_unit_test(rest_of_a_vector),
		cmocka_unit_test(long_vector_is_cut_aligned),
	};

	return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
