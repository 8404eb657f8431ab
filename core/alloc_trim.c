/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alloc_trim.c - free blocks that are kept from being handed out for as long as it takes to discard them.
 *
 * They look used to everybody who searches, and free to a checkpoint that is made meanwhile: a crash then leaves them what they are.
 * Neither the newest root nor anything behind it uses them, for else they would be used or pending (alloc.h, 1).
 */
#include "core/alloc_impl.h"

#include <stdlib.h>

#define TRIM_SHARE 8u /* of what could be handed out, at most one part in so many */

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t spare(uint64_t have, uint64_t held)
{
	return have > held ? have - held : 0;
}

/* What may be taken now: the promises of alloc.h, 2 must hold without it. */
static uint64_t trim_budget(const struct alloc *a, uint64_t max)
{
	max = least(max, spare(a->nfree, a->reserved + alloc_kept(a, ALLOC_NORMAL)) / TRIM_SHARE);
	return least(max, spare(a->nfree_loaded, a->reserved));
}

/* Runs in [from, to) of the group's bits, to `p`; returns where to go on. */
static uint64_t trim_collect(const uint64_t live[GROUP_WORDS], uint64_t from, uint64_t to, uint64_t minlen, uint64_t max,
			     struct pend *p)
{
	while (p->count < max && (from = bits_next_clear(live, from, to)) < to) {
		uint64_t end = bits_next(live, from, to), n = least(end - from, max - p->count);

		if (end - from >= minlen) {
			bits_set(p->bits, (size_t)from, (size_t)(from + n));
			p->count += (uint32_t)n;
			end = from + n;
		}
		from = end;
	}
	return from;
}

static void trim_take(struct alloc *a, struct pend *p)
{
	struct group *g = &a->group[p->group];

	for (uint32_t w = 0; w < GROUP_WORDS; w++)
		g->mem->live[w] |= p->bits[w];
	g->nfree = (uint16_t)(g->nfree - p->count);
	if (g->nfree == 0)
		bit_put(a->nonfull, p->group, false);
	a->nfree -= p->count;
	a->nfree_loaded -= p->count;
	a->npending += p->count;
	g->mem->trim = a->trim = p;
}

int alloc_trim_begin(struct alloc *a, uint64_t *next, uint64_t end, uint64_t minlen, uint64_t max, struct miss *miss,
		     void (*each)(void *arg, uint64_t blkno, uint64_t n), void *arg, uint64_t *n)
{
	uint32_t group = blkno_group(*next);
	uint64_t first = group_first(group), from = *next - first, to = least(end - first, GROUP_BLOCKS);

	*n = 0;
	if (a->trim)
		return -EBUSY;
	if (!a->group[group].nfree) {
		*next = first + to;
		return 0;
	}
	int err = group_provide(a, group, miss);
	if (err)
		return err;
	max = trim_budget(a, max);
	if (!max) {
		*next = end;
		return 0;
	}
	struct pend *p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->group = group;
	*next = first + trim_collect(a->group[group].mem->live, from, to, minlen, max, p);
	if (!p->count) {
		free(p);
		return 0;
	}
	*n = p->count;
	trim_take(a, p);
	for (size_t at = bits_next(p->bits, 0, GROUP_BLOCKS), stop; at < GROUP_BLOCKS;
	     at = bits_next(p->bits, stop, GROUP_BLOCKS)) {
		stop = bits_next_clear(p->bits, at, GROUP_BLOCKS);
		each(arg, first + at, stop - at);
	}
	return 0;
}

void alloc_trim_end(struct alloc *a)
{
	struct pend *p = a->trim;
	struct group_bits *m = a->group[p->group].mem;

	for (uint32_t w = 0; w < GROUP_WORDS; w++)
		m->live[w] &= ~p->bits[w];
	m->trim = a->trim = NULL;
	a->npending -= p->count;
	group_give(a, p->group, p->count);
	free(p);
}

bool alloc_is_trimming(const struct alloc *a)
{
	return a->trim;
}
