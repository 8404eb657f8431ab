/* SPDX-License-Identifier: Apache-2.0 */
/* test_printable.c - what is shown of hostile names, and that messages are one line each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/err.h"
#include "core/printable.h"

/* clang-format off */
static const struct {
	const char *text, *put, *made;
} cases[] = {
	{"", "", ""},
	{"plain \\ text~", "plain \\ text~", "plain \\ text~"},
	{"a\nb\tc\x7f", "a\\012b\\011c\\177", "a?b?c?"},
	{"\x1b[2J", "\\033[2J", "?[2J"},
	/* UTF-8, up to the first and last that there are; U+00A0 is no control character any more. */
	{"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xc2\xa0", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xc2\xa0",
	 "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xc2\xa0"},
	{"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"},
	/* CSI alone, as UTF-8, and as UTF-8 that is longer than it must be. */
	{"\x9b" "2J", "\\2332J", "?2J"},
	{"\xc2\x9b" "2J", "\xc2\\2332J", "\xc2?2J"},
	{"\xe0\x82\x9b", "\xe0\\202\\233", "\xe0??"},
	{"\xf0\x80\x82\x9b", "\xf0\\200\\202\\233", "\xf0???"},
	/* Latin-1, and a character cut off. */
	{"gr\xfc\xdf" "e", "gr\xfc\xdf" "e", "gr\xfc\xdf" "e"},
	{"\xe2\x82", "\xe2\\202", "\xe2?"},
	{"\xf8\x88\x80\x80\x80", "\xf8\\210\\200\\200\\200", "\xf8????"},
};
/* clang-format on */

static void test_cases(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *put = NULL, made[64];
		size_t len;
		FILE *f = open_memstream(&put, &len);

		assert_non_null(f);
		printable_put(f, cases[i].text);
		assert_int_equal(fclose(f), 0);
		assert_string_equal(put, cases[i].put);
		free(put);
		strcpy(made, cases[i].text);
		printable_make(made);
		assert_string_equal(made, cases[i].made);
	}
}

static void keep(void *arg, enum diag_level level, const char *line)
{
	assert_int_equal(level, DIAG_ERR);
	strcpy(arg, line);
}

static void test_messages(void **state)
{
	char line[600];
	struct diag d = {.emit = keep, .arg = line};

	(void)state;
	diag(&d, DIAG_ERR, "inode %d (%s) is lost", 7, "x)\nroot: all is well\x1b[K");
	assert_string_equal(line, "inode 7 (x)?root: all is well?[K) is lost");
	assert_int_equal(corrupt(&d, "%s", "\xc2\x9b"), -EUCLEAN);
	assert_string_equal(line, "\xc2?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cases),
		cmocka_unit_test(test_messages),
	};

	return cmocka_run_group_tests_name("printable", tests, NULL, NULL);
}
