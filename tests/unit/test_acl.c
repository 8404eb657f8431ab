/* SPDX-License-Identifier: Apache-2.0 */
/* test_acl.c - ACLs as values: which bytes are one, and what they and a mode make of each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/acl.h"

/* "o7 u5:1000 g4 G6:50 m7 r0": owner, named user, group, named group, mask, other; returns the bytes' length. */
static size_t bytes_of(const char *text, uint8_t *out)
{
	static const char letters[] = "ougGmr";
	static const uint16_t tags[] = {0x01, 0x02, 0x04, 0x08, 0x10, 0x20};
	uint8_t *p = out;

	memcpy(p, "\2\0\0\0", 4);
	p += 4;
	while (*text) {
		char *end;
		uint16_t tag = tags[strchr(letters, *text) - letters];
		uint16_t perm = (uint16_t)strtoul(text + 1, &end, 10);
		uint32_t id = *end == ':' ? (uint32_t)strtoul(end + 1, &end, 10) : UINT32_MAX;

		/* Little-endian, as this machine is. */
		memcpy(p, &tag, 2);
		memcpy(p + 2, &perm, 2);
		memcpy(p + 4, &id, 4);
		p += 8;
		text = *end ? end + 1 : end;
	}
	return (size_t)(p - out);
}

static int verdict(const char *text)
{
	uint8_t buf[8192];
	struct acl acl;

	return acl_decode(buf, bytes_of(text, buf), &acl);
}

static void which_are_valid(void **state)
{
	static const char *const good[] = {
		"o7 g5 r0",
		"o0 g0 r0",
		"o7 g5 m7 r0",
		"o7 u5:1000 g4 m7 r0",
		"o7 u5:1000 u1:1001 u0:5 g4 G6:50 G7:0 m7 r7",
		"o7 u5:1000 u5:1000 g4 m7 r0", /* the kernel lets it pass, too */
		"o6 g4 G1:4294967294 m1 r0",
	};
	static const char *const bad[] = {
		"",
		"o7",
		"g5 r0",
		"o7 r0",
		"o7 g5",
		"o7 g5 m7",
		"g5 o7 r0",
		"o7 g5 r0 r0",
		"o7 o7 g5 r0",
		"o7 g5 g5 r0",
		"o7 g5 m1 m1 r0",
		"o7 g5 r0 m7",
		"o7 u5:1000 g5 r0", /* no mask */
		"o7 g5 G5:1000 r0",
		"o7 g5 u5:1000 m7 r0",
		"u5:1000 o7 g5 m7 r0",
		"o7 G5:1000 g5 m7 r0",
		"o7 g5 m7 G5:1000 r0",
		"o8 g5 r0",
		"o7 g5 r65535",
		"o7 u9:1000 g5 m7 r0",
		"o7 u5:4294967295 g5 m7 r0",
		"o7 g5 G5:4294967295 m7 r0",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		if (verdict(good[i]) != 0)
			fail_msg("\"%s\" was refused", good[i]);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (verdict(bad[i]) != -EINVAL)
			fail_msg("\"%s\" gave %d", bad[i], verdict(bad[i]));
	}
}

static void bytes_around(void **state)
{
	uint8_t buf[ACL_MAX_BYTES + 16], back[ACL_MAX_BYTES];
	struct acl acl;
	size_t len = bytes_of("o7 u5:1000 g4 m7 r0", buf);

	(void)state;
	for (size_t cut = 0; cut < len; cut++)
		assert_int_equal(acl_decode(buf, cut, &acl), -EINVAL);
	buf[len] = 0;
	assert_int_equal(acl_decode(buf, len + 1, &acl), -EINVAL);
	for (unsigned version = 0; version < 4; version++) {
		buf[0] = (uint8_t)version;
		assert_int_equal(acl_decode(buf, len, &acl), version == 2 ? 0 : -EINVAL);
	}
	buf[0] = 2;
	buf[3] = 1;
	assert_int_equal(acl_decode(buf, len, &acl), -EINVAL);
	buf[3] = 0;
	/* Tags that are none, one of them two at once. */
	static const uint8_t tags[] = {0, 3, 5, 0x40, 0x80, 0xff};
	for (size_t i = 0; i < sizeof(tags); i++) {
		buf[12] = tags[i];
		assert_int_equal(acl_decode(buf, len, &acl), -EINVAL);
	}
	buf[12] = 2;
	buf[13] = 1;
	assert_int_equal(acl_decode(buf, len, &acl), -EINVAL);
	buf[13] = 0;
	/* Ids of the others mean nothing, and are always the same in what is stored. */
	memset(buf + 8, 0x55, 4);
	assert_int_equal(acl_decode(buf, len, &acl), 0);
	memset(buf + 8, 0xff, 4);
	assert_int_equal(acl_encode(&acl, back), len);
	assert_memory_equal(back, buf, len);
}

static void the_longest(void **state)
{
	static char text[16 * (ACL_MAX_ENTRIES + 1)];
	static uint8_t buf[16384];
	char *p;

	(void)state;
	for (unsigned n = ACL_MAX_ENTRIES; n <= ACL_MAX_ENTRIES + 1; n++) {
		p = text + sprintf(text, "o7 ");
		for (unsigned i = 4; i < n; i++)
			p += sprintf(p, "u5:%u ", i);
		sprintf(p, "g4 m7 r0");
		struct acl acl;
		size_t len = bytes_of(text, buf);
		assert_int_equal(len, 4 + 8 * n);
		assert_int_equal(acl_decode(buf, len, &acl), n == ACL_MAX_ENTRIES ? 0 : -E2BIG);
	}
}

static struct acl acl_of(const char *text)
{
	uint8_t buf[1024];
	struct acl acl;

	assert_int_equal(acl_decode(buf, bytes_of(text, buf), &acl), 0);
	return acl;
}

static void same_acl(const struct acl *a, const char *text)
{
	struct acl want = acl_of(text);

	assert_int_equal(a->n, want.n);
	for (unsigned i = 0; i < a->n; i++) {
		assert_int_equal(a->entry[i].tag, want.entry[i].tag);
		assert_int_equal(a->entry[i].id, want.entry[i].id);
		if (a->entry[i].perm != want.entry[i].perm)
			fail_msg("\"%s\": entry %u has %u", text, i, a->entry[i].perm);
	}
}

static void to_a_mode(void **state)
{
	static const struct {
		const char *acl;
		uint32_t mode;
		bool plain;
	} rows[] = {
		{"o7 g5 r0", 0750, true},	     {"o0 g0 r7", 0007, true},
		{"o6 g6 m4 r2", 0642, false},	     {"o6 u7:1 g0 m7 r0", 0670, false},
		{"o6 g1 G7:1 m2 r4", 0624, false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct acl acl = acl_of(rows[i].acl);
		uint32_t mode = 0106777;
		assert_int_equal(acl_to_mode(&acl, &mode), rows[i].plain);
		assert_int_equal(mode, 0106000 | rows[i].mode);
		same_acl(&acl, rows[i].acl);
	}
}

static void from_chmod(void **state)
{
	struct acl acl = acl_of("o6 u7:1 g4 m7 r0");

	(void)state;
	acl_set_mode(&acl, 0102751);
	same_acl(&acl, "o7 u7:1 g4 m5 r1");
	acl = acl_of("o6 g4 r0");
	acl_set_mode(&acl, 0027);
	same_acl(&acl, "o0 g2 r7");
}

static void inherited(void **state)
{
	static const struct {
		const char *dir;
		uint32_t asked, gets;
		const char *acl;
		bool plain;
	} rows[] = {
		{"o7 g5 r0", 0666, 0640, "o6 g4 r0", true},
		{"o7 g5 r0", 0777, 0750, "o7 g5 r0", true},
		{"o4 g4 r4", 0200, 0000, "o0 g0 r0", true},
		{"o7 u7:1 g5 m7 r5", 0666, 0664, "o6 u7:1 g5 m6 r4", false},
		{"o7 u7:1 g5 m5 r0", 0777, 0750, "o7 u7:1 g5 m5 r0", false},
		{"o7 g5 G7:1 m0 r7", 0777, 0707, "o7 g5 G7:1 m0 r7", false},
		{"o7 g7 m7 r7", 0604, 0604, "o6 g7 m0 r4", false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct acl acl = acl_of(rows[i].dir);
		uint32_t mode = 0102000 | rows[i].asked;
		assert_int_equal(acl_inherit(&acl, &mode), rows[i].plain);
		assert_int_equal(mode, 0102000 | rows[i].gets);
		same_acl(&acl, rows[i].acl);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(which_are_valid), cmocka_unit_test(bytes_around), cmocka_unit_test(the_longest),
		cmocka_unit_test(to_a_mode),	   cmocka_unit_test(from_chmod),   cmocka_unit_test(inherited),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
