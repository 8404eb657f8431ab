/* SPDX-License-Identifier: Apache-2.0 */
/* test_json.c - what the emitter writes, byte for byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "core/json.h"

struct sink {
	char *text;
	size_t len;
	struct json j;
};

static void sink_open(struct sink *s)
{
	FILE *f = open_memstream(&s->text, &s->len);

	assert_non_null(f);
	s->j = json_make(f);
}

static void sink_expect(struct sink *s, const char *want)
{
	fclose(s->j.out);
	assert_string_equal(s->text, want);
	free(s->text);
}

static void test_nesting(void **state)
{
	struct sink s;

	(void)state;
	sink_open(&s);
	json_object(&s.j, NULL);
	json_u64(&s.j, "a", UINT64_MAX);
	json_array(&s.j, "list");
	json_i64(&s.j, NULL, -1);
	json_object(&s.j, NULL);
	json_end_object(&s.j);
	json_object(&s.j, NULL);
	json_bool(&s.j, "yes", true);
	json_bool(&s.j, "no", false);
	json_end_object(&s.j);
	json_end_array(&s.j);
	json_array(&s.j, "empty");
	json_end_array(&s.j);
	json_string(&s.j, "last", "");
	json_end_object(&s.j);
	sink_expect(&s, "{\"a\":18446744073709551615,\"list\":[-1,{},{\"yes\":true,\"no\":false}],\"empty\":[],\"last\":\"\"}\n");
}

static void text_is(const char *value, const char *want)
{
	struct sink s;

	sink_open(&s);
	json_array(&s.j, NULL);
	json_string(&s.j, NULL, value);
	json_end_array(&s.j);
	sink_expect(&s, want);
}

static void test_strings(void **state)
{
	(void)state;
	text_is("plain", "[\"plain\"]\n");
	text_is("\"\\\n\x01\x7f", "[\"\\\"\\\\\\u000a\\u0001\\u007f\"]\n");
	text_is("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x90\xa2", "[\"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x90\xa2\"]\n");
}

/* Cut sequences, overlong forms, surrogates, beyond Unicode: one replacement for each byte that fits nowhere. */
static void test_not_utf8(void **state)
{
	(void)state;
	text_is("\xc3", "[\"\\ufffd\"]\n");
	text_is("\xe2\x82", "[\"\\ufffd\\ufffd\"]\n");
	text_is("a\xff" "b", "[\"a\\ufffdb\"]\n");
	text_is("\xc0\x80", "[\"\\ufffd\\ufffd\"]\n");
	text_is("\xed\xa0\x80", "[\"\\ufffd\\ufffd\\ufffd\"]\n");
	text_is("\xf4\x90\x80\x80", "[\"\\ufffd\\ufffd\\ufffd\\ufffd\"]\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nesting),
		cmocka_unit_test(test_strings),
		cmocka_unit_test(test_not_utf8),
	};

	return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
