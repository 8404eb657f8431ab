/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image_mutate.c - libFuzzer's mutations, of edits instead of bytes: an input is a list of records, and stays one.
 *
 * Only in programs with libFuzzer.
 */
#include "tests/fuzz/image.h"

#include <string.h>

#include "core/sim_store.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *data1, size_t size1, const uint8_t *data2, size_t size2, uint8_t *out,
				 size_t max_size, unsigned int seed);

#define HEAD sizeof(struct fuzz_head)
#define EDIT sizeof(struct edit)

static unsigned below(uint64_t *rng, unsigned n)
{
	return (unsigned)(sim_random(rng) >> 16) % n;
}

/* Numbers at which something begins or ends. */
static uint64_t number(uint64_t *rng)
{
	static const uint64_t edges[] = {
		0, 1, 2, 3, 16, 255, 256, 257, 1024, 4095, 4096, 4097, 65000, 65535, 65536, GROUP_BLOCKS, UINT32_MAX,
		(uint64_t)1 << 32, (uint64_t)1 << 51, (uint64_t)1 << 52, INT64_MAX, (uint64_t)1 << 63, UINT64_MAX - 4095, UINT64_MAX,
	};
	unsigned way = below(rng, 4);

	if (way == 0)
		return edges[below(rng, sizeof(edges) / sizeof(edges[0]))];
	if (way == 1)
		return below(rng, 1024);
	if (way == 2)
		return edges[below(rng, sizeof(edges) / sizeof(edges[0]))] + below(rng, 9) - 4;
	return sim_random(rng) >> below(rng, 64);
}

static void edit_random(uint64_t *rng, struct edit *e)
{
	le64 v = put64(number(rng));

	e->kind = (uint8_t)below(rng, NEDITS);
	e->what = (uint8_t)below(rng, below(rng, 8) ? 8 : 256);
	e->index = put16((uint16_t)below(rng, 512));
	e->offset = put16((uint16_t)(below(rng, 2) ? 8 * below(rng, 40) : below(rng, BLOCK_SIZE)));
	e->len = (uint8_t)below(rng, below(rng, 4) ? 8 : 256);
	e->aux = (uint8_t)below(rng, 16);
	memcpy(e->value, &v, sizeof(v));
}

static void edit_change(uint64_t *rng, struct edit *e)
{
	struct edit fresh;

	edit_random(rng, &fresh);
	switch (below(rng, 8)) {
	case 0:
		e->what = fresh.what;
		break;
	case 1:
		e->index = fresh.index;
		break;
	case 2:
		e->index = put16((uint16_t)(get16(e->index) + below(rng, 5) - 2));
		break;
	case 3:
		e->offset = fresh.offset;
		break;
	case 4:
		e->len = fresh.len;
		break;
	case 5:
		e->aux = fresh.aux;
		break;
	case 6:
		memcpy(e->value, fresh.value, sizeof(e->value));
		break;
	default:
		LLVMFuzzerMutate(e->value, sizeof(e->value), sizeof(e->value));
	}
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	uint64_t rng = seed;
	size_t n = size > HEAD ? (size - HEAD) / EDIT : 0, max = max_size > HEAD ? (max_size - HEAD) / EDIT : 0;
	uint8_t *edits = data + HEAD;

	if (max_size < HEAD + EDIT)
		return LLVMFuzzerMutate(data, size, max_size);
	if (size < HEAD)
		memset(data, 0, HEAD);
	max = max < MAX_EDITS ? max : MAX_EDITS;
	for (unsigned i = 1 + below(&rng, 3); i; i--) {
		unsigned way = below(&rng, 16);
		struct edit e;

		if (way == 0)
			data[below(&rng, HEAD)] = (uint8_t)below(&rng, below(&rng, 2) ? 16 : 256);
		if (way == 1)
			data[1] = FIX_ALL;
		if (way >= 2 && way < 6 && n < max) {		/* a new one, anywhere */
			size_t at = below(&rng, (unsigned)n + 1);

			edit_random(&rng, &e);
			memmove(edits + (at + 1) * EDIT, edits + at * EDIT, (n - at) * EDIT);
			memcpy(edits + at * EDIT, &e, EDIT);
			n++;
		}
		if (way == 6 && n) {
			size_t at = below(&rng, (unsigned)n);

			memmove(edits + at * EDIT, edits + (at + 1) * EDIT, (n - at - 1) * EDIT);
			n--;
		}
		if (way == 7 && n && n < max) {			/* one again, a little different */
			memcpy(&e, edits + below(&rng, (unsigned)n) * EDIT, EDIT);
			edit_change(&rng, &e);
			memcpy(edits + n++ * EDIT, &e, EDIT);
		}
		if (way >= 8 && n) {
			size_t at = below(&rng, (unsigned)n);

			memcpy(&e, edits + at * EDIT, EDIT);
			edit_change(&rng, &e);
			memcpy(edits + at * EDIT, &e, EDIT);
		}
	}
	return HEAD + n * EDIT;
}

/* The beginning of one, the end of the other. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *data1, size_t size1, const uint8_t *data2, size_t size2, uint8_t *out,
				 size_t max_size, unsigned int seed)
{
	uint64_t rng = seed;
	size_t n1 = size1 > HEAD ? (size1 - HEAD) / EDIT : 0, n2 = size2 > HEAD ? (size2 - HEAD) / EDIT : 0, len;

	if (size1 < HEAD || max_size < HEAD)
		return 0;
	n1 = below(&rng, (unsigned)n1 + 1);
	size_t from = below(&rng, (unsigned)n2 + 1);

	len = HEAD + n1 * EDIT;
	len = len < max_size ? len : max_size;
	memcpy(out, data1, len);
	for (; from < n2 && len + EDIT <= max_size; from++, len += EDIT)
		memcpy(out + len, data2 + HEAD + from * EDIT, EDIT);
	return len;
}
