/* SPDX-License-Identifier: Apache-2.0 */
/* test_crc32c.c - CRC-32C against RFC 3720's vectors, and the fast one against the plain one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/crc32c.h"

typedef uint32_t crc_fn(uint32_t crc, const void *data, size_t len);

static void check_vectors(crc_fn *crc)
{
	/* RFC 3720 B.4: an iSCSI SCSI Read (10) command PDU. */
	static const unsigned char pdu[48] = {
		0x01, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
		0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00,
		0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18, 0x28, 0x00, 0x00, 0x00,
		0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	};
	unsigned char buf[32];

	memset(buf, 0, sizeof(buf));
	assert_int_equal(crc(0, buf, 32), 0x8a9136aa);
	memset(buf, 0xff, sizeof(buf));
	assert_int_equal(crc(0, buf, 32), 0x62a8ab43);
	for (int i = 0; i < 32; i++)
		buf[i] = (unsigned char)i;
	assert_int_equal(crc(0, buf, 32), 0x46dd794e);
	for (int i = 0; i < 32; i++)
		buf[i] = (unsigned char)(31 - i);
	assert_int_equal(crc(0, buf, 32), 0x113fdb5c);
	assert_int_equal(crc(0, pdu, 48), 0xd9963a56);
	assert_int_equal(crc(0, "123456789", 9), 0xe3069283);
	assert_int_equal(crc(0, NULL, 0), 0);
}

static void vectors(void **state)
{
	(void)state;
	check_vectors(crc32c);
	check_vectors(crc32c_portable);
}

/* Exactly sized allocations, so that a sanitizer sees a read beyond either end of the portable one. */
static void same_as_portable(void **state)
{
	(void)state;
	srand(1);
	for (int round = 0; round < 3000; round++) {
		size_t skew = (size_t)rand() % 17;
		size_t len = (size_t)rand() % (round % 10 ? 300 : 20000);
		size_t cut = len ? (size_t)rand() % (len + 1) : 0;
		unsigned char *mem = malloc(skew + len + 1), *p = mem + skew;
		uint32_t start = round % 3 ? 0 : (uint32_t)rand();

		assert_non_null(mem);
		for (size_t i = 0; i < len; i++)
			p[i] = (unsigned char)rand();

		uint32_t whole = crc32c(start, p, len);

		assert_int_equal(whole, crc32c_portable(start, p, len));
		assert_int_equal(whole, crc32c(crc32c(start, p, cut), p + cut, len - cut));
		assert_int_equal(whole, crc32c_portable(crc32c(start, p, cut), p + cut, len - cut));
		if (len) {
			p[(size_t)rand() % len] ^= (unsigned char)(1u << (rand() % 8));
			assert_int_not_equal(whole, crc32c(start, p, len));
		}
		free(mem);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vectors),
		cmocka_unit_test(same_as_portable),
	};

	return cmocka_run_group_tests_name("crc32c", tests, NULL, NULL);
}
