/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alloc_window.c - room behind files that grow.
 *
 * Without it the blocks of files that are written at the same time, or grow bit by bit, would lie among each other.  There are few
 * windows, so they are simply looked through.
 */
#include "core/alloc_impl.h"

#include <string.h>

const uint64_t *windows_mask(const struct alloc *a, uint32_t group, uint64_t owner, uint64_t buf[GROUP_WORDS])
{
	const uint64_t *live = a->group[group].mem->live, *masked = live;

	for (unsigned i = 0; i < a->nwindows; i++) {
		const struct window *w = &a->window[i];

		if (blkno_group(w->from) != group || w->owner == owner || w->from == w->to)
			continue;
		if (masked == live)
			masked = memcpy(buf, live, GROUP_WORDS * sizeof(live[0]));
		bits_set(buf, w->from % GROUP_BLOCKS, w->from % GROUP_BLOCKS + (w->to - w->from));
	}
	return masked;
}

/* The owner's window, or the one that it gets; NULL: it has none and needs none. */
static struct window *window_find(struct alloc *a, uint64_t owner, bool needed)
{
	struct window *oldest = &a->window[0];

	for (unsigned i = 0; i < a->nwindows; i++) {
		if (a->window[i].owner == owner)
			return &a->window[i];
		if (a->window[i].used < oldest->used)
			oldest = &a->window[i];
	}
	if (!needed)
		return NULL;
	return a->nwindows < ALLOC_WINDOWS ? &a->window[a->nwindows++] : oldest;
}

void window_set(struct alloc *a, uint64_t owner, uint64_t from, uint64_t room, bool needed)
{
	const struct group_bits *m = from < a->sb->nblocks ? a->group[blkno_group(from)].mem : NULL;
	size_t bit = from % GROUP_BLOCKS, end = bit + room < GROUP_BLOCKS ? bit + room : GROUP_BLOCKS;
	uint64_t to = from + (m ? bits_next(m->live, bit, end) - bit : 0);
	struct window *w = window_find(a, owner, needed && to > from);

	if (!w)
		return;
	for (unsigned i = 0; i < a->nwindows; i++) {
		const struct window *other = &a->window[i];

		/* One that is empty is in the middle of what is free when what was in front of it has been freed. */
		if (other != w && other->from != other->to && other->from < to && other->to > from)
			to = other->from > from ? other->from : from;
	}
	*w = (struct window){.owner = owner, .from = from, .to = to, .used = ++a->window_clock};
}

void windows_assert(const struct alloc *a)
{
	assert(a->nwindows <= ALLOC_WINDOWS);
	for (unsigned i = 0; i < a->nwindows; i++) {
		const struct window *w = &a->window[i];
		bool empty = w->from == w->to;

		assert(w->from <= w->to && (empty || blkno_group(w->from) == blkno_group(w->to - 1)));
		for (unsigned k = 0; k < i; k++) {
			const struct window *v = &a->window[k];

			assert(w->owner != v->owner);
			assert(empty || v->from == v->to || w->to <= v->from || v->to <= w->from);
		}
	}
}
