/* SPDX-License-Identifier: Apache-2.0 */
/* test_frame.c - frames by themselves: known answers, and everything that must not decode. */
#include "core/crc32c.h"
#include "journal/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct super test_super(void)
{
	struct super sb = {.nblocks = 4096};

	for (unsigned i = 0; i < UUID_BYTES; i++)
		sb.uuid[i] = (uint8_t)(0xa0 + i);
	return sb;
}

/* Frames made by another program, bit by bit from docs/format.md, for the uuid a0a1...af. */
struct answer {
	uint64_t lsn;
	uint32_t len;
	const char *frame;	/* FRAME_OVERHEAD + len bytes */
};
static const struct answer answers[] = {
	{0, 0, "HFJ1\0\0\0\0\x7c\x01\xba\x9c"},
	{0x091a2b3c4d5e6f78, 0, "HFJ1\0\0\0\0\xf3\x9a\x4d\xc2"},
	{4096, 8, "HFJ1\x08\0\0\0\x02\0\0\0\0\0\0\0\x95\xf9\x03\x6a"},
	{4132, 8, "HFJ1\x08\0\0\0holdfast\x8c\xf5\x9c\xc6"},
	{0x100000001000, 24,
	 "HFJ1\x18\0\0\0\x01\0\0\0\0\0\0\0\0\x10\0\0\0\x10\0\0\0\x20\0\0\0\0\0\0\x58\x4c\x5c\x5d"},
};

static void known_answers(void **state)
{
	(void)state;

	struct super sb = test_super();

	for (unsigned i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		const struct answer *a = &answers[i];
		const uint8_t *want = (const uint8_t *)a->frame;
		const void *payload;
		uint8_t out[64];
		uint32_t len;

		frame_encode(&sb, a->lsn, want + sizeof(struct disk_frame), a->len, out);
		assert_memory_equal(out, want, FRAME_OVERHEAD + a->len);
		assert_int_equal(frame_decode(&sb, a->lsn, want, FRAME_OVERHEAD + a->len, &payload, &len), FRAME_OK);
		assert_int_equal(len, a->len);
		assert_ptr_equal(payload, want + sizeof(struct disk_frame));
	}
}

/* 300 bytes i * 7 mod 256 at LSN 2^40. */
static void known_answer_long(void **state)
{
	(void)state;

	struct super sb = test_super();
	struct disk_frame f = {.magic = put32(FRAME_MAGIC), .len = put32(300)};
	uint8_t payload[300];

	for (unsigned i = 0; i < sizeof(payload); i++)
		payload[i] = (uint8_t)(i * 7);
	assert_int_equal(frame_crc(&sb, UINT64_C(1) << 40, &f, payload), 0xeae0295e);
}

static void sizes(void **state)
{
	(void)state;

	assert_int_equal(FRAME_OVERHEAD, 12);
	assert_int_equal(sizeof(struct disk_frame) + sizeof(le32), FRAME_OVERHEAD);
	for (unsigned i = 0; i < 4; i++)
		assert_int_not_equal(FRAME_MAGIC >> (8 * i) & 0xff, 0);
}

static void round_trip_every_length(void **state)
{
	(void)state;

	struct super sb = test_super();
	uint8_t payload[600], buf[700];

	for (unsigned i = 0; i < sizeof(payload); i++)
		payload[i] = (uint8_t)(i ^ 0x5a);
	for (uint32_t len = 0; len <= sizeof(payload); len++) {
		const void *got;
		uint32_t got_len = ~0u;

		memset(buf, 0xee, sizeof(buf));
		frame_encode(&sb, len, payload, len, buf + 1);
		assert_int_equal(buf[0], 0xee);
		assert_int_equal(buf[1 + FRAME_OVERHEAD + len], 0xee);
		assert_int_equal(frame_decode(&sb, len, buf + 1, sizeof(buf) - 1, &got, &got_len), FRAME_OK);
		assert_int_equal(got_len, len);
		assert_memory_equal(got, payload, len);
	}
}

static void zeros_never_decode(void **state)
{
	(void)state;

	struct super sb = {0};
	static const uint8_t zeros[4096];
	const void *payload;
	uint32_t len;

	for (uint64_t avail = 0; avail <= sizeof(zeros); avail++) {
		enum frame_state want = avail < FRAME_OVERHEAD ? FRAME_SHORT : FRAME_ZERO;

		assert_int_equal(frame_decode(&sb, 0, zeros, avail, &payload, &len), want);
	}
}

static void any_flipped_bit_is_seen(void **state)
{
	(void)state;

	struct super sb = test_super();
	uint8_t buf[FRAME_OVERHEAD + 33];
	const void *payload = NULL;
	uint32_t len = 0;

	for (unsigned i = 0; i < 33; i++)
		buf[8 + i] = (uint8_t)i;
	frame_encode(&sb, 8192, memcpy((uint8_t[33]){0}, buf + 8, 33), 33, buf);
	for (unsigned bit = 0; bit < 8 * sizeof(buf); bit++) {
		buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_not_equal(frame_decode(&sb, 8192, buf, sizeof(buf), &payload, &len), FRAME_OK);
		buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_null(payload);
	assert_int_equal(len, 0);
	assert_int_equal(frame_decode(&sb, 8192, buf, sizeof(buf), &payload, &len), FRAME_OK);
}

static void other_place_or_volume_is_rejected(void **state)
{
	(void)state;

	struct super sb = test_super();
	uint8_t buf[FRAME_OVERHEAD + 5];
	const void *payload;
	uint32_t len;

	frame_encode(&sb, 4096, "hello", 5, buf);
	for (unsigned bit = 0; bit < 64; bit++)
		assert_int_equal(frame_decode(&sb, 4096 ^ UINT64_C(1) << bit, buf, sizeof(buf), &payload, &len),
				 FRAME_CRC);
	for (unsigned bit = 0; bit < 8 * UUID_BYTES; bit++) {
		struct super other = sb;

		other.uuid[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(frame_decode(&other, 4096, buf, sizeof(buf), &payload, &len), FRAME_CRC);
	}
}

/* Each buffer is exactly as large as `avail` says, so that a sanitizer sees any byte too many. */
static void length_is_bounded_by_avail(void **state)
{
	(void)state;

	struct super sb = test_super();
	uint8_t whole[FRAME_OVERHEAD + 100];
	uint8_t body[100] = {1};
	const void *payload;
	uint32_t len;

	frame_encode(&sb, 0, body, sizeof(body), whole);
	for (uint64_t avail = 0; avail < sizeof(whole); avail++) {
		uint8_t *part = malloc(avail ? avail : 1);

		assert_non_null(part);
		memcpy(part, whole, avail);
		assert_int_equal(frame_decode(&sb, 0, part, avail, &payload, &len),
				 avail < FRAME_OVERHEAD ? FRAME_SHORT : FRAME_LENGTH);
		free(part);
	}
	memset(whole + 4, 0xff, 4);
	assert_int_equal(frame_decode(&sb, 0, whole, sizeof(whole), &payload, &len), FRAME_LENGTH);
}

static void wrong_magic(void **state)
{
	(void)state;

	struct super sb = test_super();
	uint8_t buf[FRAME_OVERHEAD];
	const void *payload;
	uint32_t len;

	frame_encode(&sb, 0, NULL, 0, buf);
	buf[3] = '2';
	assert_int_equal(frame_decode(&sb, 0, buf, sizeof(buf), &payload, &len), FRAME_MAGIC_BAD);
	memset(buf, 0, 4);
	assert_int_equal(frame_decode(&sb, 0, buf, sizeof(buf), &payload, &len), FRAME_ZERO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known_answers),
		cmocka_unit_test(known_answer_long),
		cmocka_unit_test(sizes),
		cmocka_unit_test(round_trip_every_length),
		cmocka_unit_test(zeros_never_decode),
		cmocka_unit_test(any_flipped_bit_is_seen),
		cmocka_unit_test(other_place_or_volume_is_rejected),
		cmocka_unit_test(length_is_bounded_by_avail),
		cmocka_unit_test(wrong_magic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
