/* SPDX-License-Identifier: Apache-2.0 */
/*
 * siphash.c - SipHash-2-4 (Aumasson, Bernstein 2012), and the offsets of named items made of it.
 *
 * Keyed with a secret of the volume, so that nobody can prepare names that collide.
 */
#include "core/format.h"

#include <string.h>

struct sip {
	uint64_t v0, v1, v2, v3;
};

static uint64_t rotl(uint64_t x, unsigned n)
{
	return x << n | x >> (64 - n);
}

static uint64_t load64(const uint8_t *p)
{
	le64 raw;

	memcpy(&raw, p, sizeof(raw));
	return get64(raw);
}

static void sip_rounds(struct sip *s, unsigned n)
{
	while (n-- > 0) {
		s->v0 += s->v1;
		s->v1 = rotl(s->v1, 13) ^ s->v0;
		s->v0 = rotl(s->v0, 32);
		s->v2 += s->v3;
		s->v3 = rotl(s->v3, 16) ^ s->v2;
		s->v0 += s->v3;
		s->v3 = rotl(s->v3, 21) ^ s->v0;
		s->v2 += s->v1;
		s->v1 = rotl(s->v1, 17) ^ s->v2;
		s->v2 = rotl(s->v2, 32);
	}
}

static void sip_word(struct sip *s, uint64_t m)
{
	s->v3 ^= m;
	sip_rounds(s, 2);
	s->v0 ^= m;
}

uint64_t siphash24(const uint8_t key[16], const void *data, size_t len)
{
	uint64_t k0 = load64(key), k1 = load64(key + 8);
	struct sip s = {
		.v0 = k0 ^ UINT64_C(0x736f6d6570736575),
		.v1 = k1 ^ UINT64_C(0x646f72616e646f6d),
		.v2 = k0 ^ UINT64_C(0x6c7967656e657261),
		.v3 = k1 ^ UINT64_C(0x7465646279746573),
	};
	const uint8_t *p = data;
	uint8_t last[8] = {0};
	size_t left = len;

	for (; left >= 8; left -= 8, p += 8)
		sip_word(&s, load64(p));
	if (left > 0)
		memcpy(last, p, left);
	last[7] = (uint8_t)len;
	sip_word(&s, load64(last));
	s.v2 ^= 0xff;
	sip_rounds(&s, 4);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

/* Low byte clear, inside [256, top - 256): the collision index never carries, nor reaches `top` - 256. */
static uint64_t name_offset(const struct super *sb, const void *name, size_t len, unsigned nbits)
{
	uint64_t top = UINT64_C(1) << nbits;
	uint64_t h = siphash24(sb->hash_key, name, len) & (top - 1) & ~(uint64_t)(HASH_COLLISIONS - 1);

	if (h == 0)
		return HASH_COLLISIONS;
	if (h == top - HASH_COLLISIONS)
		return h - HASH_COLLISIONS;
	return h;
}

uint64_t dirent_offset(const struct super *sb, const void *name, size_t len)
{
	return name_offset(sb, name, len, 63);
}

uint64_t xattr_offset(const struct super *sb, const void *name, size_t len)
{
	return name_offset(sb, name, len, 56);
}
