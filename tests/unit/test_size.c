/* SPDX-License-Identifier: Apache-2.0 */
/* test_size.c - sizes as typed and as shown. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "core/size.h"

static void parse_ok(const char *text, uint64_t want)
{
	uint64_t got = ~want;

	if (size_parse(text, &got) != 0)
		fail_msg("\"%s\" was refused", text);
	if (got != want)
		fail_msg("\"%s\" gave %llu", text, (unsigned long long)got);
}

static void parse_bad(const char *text, int want)
{
	uint64_t got = 77;
	int err = size_parse(text, &got);

	if (err != want)
		fail_msg("\"%s\" returned %d", text, err);
	assert_int_equal(got, 77);
}

static void test_units(void **state)
{
	(void)state;
	parse_ok("0", 0);
	parse_ok("4096", 4096);
	parse_ok("4096B", 4096);
	parse_ok("8s", 4096);
	parse_ok("3b", 12288);
	parse_ok("1k", 1024);
	parse_ok("1K", 1024);
	parse_ok("10M", UINT64_C(10) << 20);
	parse_ok("10G", UINT64_C(10) << 30);
	parse_ok("10GiB", UINT64_C(10) << 30);
	parse_ok("2t", UINT64_C(2) << 40);
	parse_ok("3P", UINT64_C(3) << 50);
	parse_ok("15E", UINT64_C(15) << 60);
	parse_ok("18446744073709551615", UINT64_MAX);
	parse_ok("000000000000000000000000000001", 1);
}

static void test_refused(void **state)
{
	static const char *const malformed[] = {"", "G", "-1", "+1", " 1", "1 ", "1.5G", "1GG", "1Gi", "1GB", "1x",
						"0x10", "1K2", "1iB", "1Bb", "1S"};

	(void)state;
	for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++)
		parse_bad(malformed[i], -EINVAL);
	parse_bad("18446744073709551616", -ERANGE);
	parse_bad("99999999999999999999999999", -ERANGE);
	parse_bad("16E", -ERANGE);
	parse_bad("18014398509481984K", -ERANGE);
}

static void test_format(void **state)
{
	char text[SIZE_TEXT];

	(void)state;
	assert_string_equal(size_format(0, text), "0 bytes");
	assert_string_equal(size_format(1023, text), "1023 bytes");
	assert_string_equal(size_format(1024, text), "1 KiB");
	assert_string_equal(size_format(1536, text), "1.5 KiB");
	assert_string_equal(size_format(UINT64_C(10) << 30, text), "10 GiB");
	assert_string_equal(size_format((UINT64_C(10) << 30) - 1, text), "9.9 GiB");
	assert_string_equal(size_format(UINT64_MAX, text), "15.9 EiB");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_units),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_format),
	};

	return cmocka_run_group_tests_name("size", tests, NULL, NULL);
}
