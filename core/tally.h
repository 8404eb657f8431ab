/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tally.h - counters that every thread writes all the time, for statistics: each thread has a cache line of its own.
 *
 * Two threads with the same slot (thread.h) may lose a count.
 */
#ifndef HOLDFAST_CORE_TALLY_H
#define HOLDFAST_CORE_TALLY_H

#include <stdatomic.h>
#include <stdint.h>

#include "core/thread.h"

#define TALLY_COUNTERS 4u

struct tally {
	struct {
		_Atomic uint64_t n[TALLY_COUNTERS];
		char gap[THREAD_LINE - TALLY_COUNTERS * sizeof(uint64_t)];
	} of[THREAD_SLOTS];
};

static inline void tally_add(struct tally *t, unsigned which, uint64_t n)
{
	_Atomic uint64_t *c = &t->of[thread_slot()].n[which];

	atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n, memory_order_relaxed);
}

static inline uint64_t tally_sum(const struct tally *t, unsigned which)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < THREAD_SLOTS; i++)
		sum += atomic_load_explicit(&t->of[i].n[which], memory_order_relaxed);
	return sum;
}

#endif
