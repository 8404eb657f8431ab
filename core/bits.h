/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bits.h - bit strings in uint64_t words, bit i being bit i % 64 of word i / 64.
 *
 * Ranges are [from, to).  Everything works a word at a time.
 */
#ifndef HOLDFAST_CORE_BITS_H
#define HOLDFAST_CORE_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BITS_WORDS(n) (((size_t)(n) + 63) / 64)

static inline bool bit_get(const uint64_t *w, size_t i)
{
	return w[i / 64] >> (i % 64) & 1;
}

static inline void bit_put(uint64_t *w, size_t i, bool value)
{
	uint64_t mask = UINT64_C(1) << (i % 64);

	w[i / 64] = value ? w[i / 64] | mask : w[i / 64] & ~mask;
}

/* The bits of word `i` that belong to [from, to); the word and the range overlap. */
static inline uint64_t bits_mask(size_t i, size_t from, size_t to)
{
	uint64_t mask = UINT64_MAX;

	if (from > i * 64)
		mask &= UINT64_MAX << (from % 64);
	if (to < (i + 1) * 64)
		mask &= (UINT64_C(1) << (to % 64)) - 1;
	return mask;
}

static inline void bits_set(uint64_t *w, size_t from, size_t to)
{
	for (size_t i = from / 64; i * 64 < to; i++)
		w[i] |= bits_mask(i, from, to);
}

static inline void bits_clear(uint64_t *w, size_t from, size_t to)
{
	for (size_t i = from / 64; i * 64 < to; i++)
		w[i] &= ~bits_mask(i, from, to);
}

static inline bool bits_all_set(const uint64_t *w, size_t from, size_t to)
{
	for (size_t i = from / 64; i * 64 < to; i++)
		if (~w[i] & bits_mask(i, from, to))
			return false;
	return true;
}

static inline bool bits_all_clear(const uint64_t *w, size_t from, size_t to)
{
	for (size_t i = from / 64; i * 64 < to; i++)
		if (w[i] & bits_mask(i, from, to))
			return false;
	return true;
}

/* The first bit in [from, to) that is set (bits_next) or clear (bits_next_clear), or `to`. */
static inline size_t bits_next_xor(const uint64_t *w, size_t from, size_t to, uint64_t invert)
{
	if (from >= to)
		return to;
	for (size_t i = from / 64; i * 64 < to; i++) {
		uint64_t hits = (w[i] ^ invert) & bits_mask(i, from, to);

		if (hits)
			return i * 64 + (size_t)__builtin_ctzll(hits);
	}
	return to;
}

static inline size_t bits_next(const uint64_t *w, size_t from, size_t to)
{
	return bits_next_xor(w, from, to, 0);
}

static inline size_t bits_next_clear(const uint64_t *w, size_t from, size_t to)
{
	return bits_next_xor(w, from, to, UINT64_MAX);
}

/* The first bit in [from, to) that is set in `w` and clear in `without`, or `to`. */
static inline size_t bits_next_without(const uint64_t *w, const uint64_t *without, size_t from, size_t to)
{
	if (from >= to)
		return to;
	for (size_t i = from / 64; i * 64 < to; i++) {
		uint64_t hits = w[i] & ~without[i] & bits_mask(i, from, to);

		if (hits)
			return i * 64 + (size_t)__builtin_ctzll(hits);
	}
	return to;
}

static inline uint32_t bits_count(const uint64_t *w, size_t nwords)
{
	uint32_t n = 0;

	for (size_t i = 0; i < nwords; i++)
		n += (uint32_t)__builtin_popcountll(w[i]);
	return n;
}

#endif
