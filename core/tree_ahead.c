/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree_ahead.c - which leaves are read together with one that is missing.
 *
 * A checkpoint writes leaves in the order of their keys, so neighbours often follow each other on the device, and some more
 * blocks in one read cost little beside the read itself.  But leaves that nobody uses push others out of memory.  So there is a
 * credit: a leaf that was read ahead and is used earns some, one that is evicted unused costs some.  Without credit only
 * one in AHEAD_PROBE misses reads ahead, to see whether it would help by now.
 */
#include "core/tree_impl.h"

#define AHEAD_EARNS 8u /* a read that is saved is worth about so many blocks more in another */
#define AHEAD_PROBE 64u
#define AHEAD_SHARE 64u /* of what the cache may hold, at most, is read ahead at a time; a smaller one does without */

void cache_ahead_used(struct tree *t, struct node *n)
{
	atomic_store_explicit(&n->ahead, false, memory_order_relaxed);
	t->ahead_credit += AHEAD_EARNS;
	if (t->ahead_credit > TREE_AHEAD_CREDIT)
		t->ahead_credit = TREE_AHEAD_CREDIT;
}

void cache_ahead_wasted(struct tree *t)
{
	if (t->ahead_credit)
		t->ahead_credit--;
}

static bool ahead_pays(const struct tree *t)
{
	if (t->held || t->limit < AHEAD_SHARE * TREE_AHEAD)
		return false;
	return t->ahead_credit || t->misses % AHEAD_PROBE == 0;
}

/* Is child `i` not in memory, and its block the one at this distance from `blkno`? */
static bool follows(const struct tree *t, const struct disk_node *p, unsigned i, uint64_t blkno)
{
	return get64(page_ptr(p, i)->blkno[0]) == blkno && !cache_find(t, blkno);
}

static struct miss miss_of_leaf(const struct disk_node *p, unsigned i)
{
	return (struct miss){
		.kind = MISS_NODE,
		.ptr = *page_ptr(p, i),
		.lo = slot_key(&p->slot[i]),
		.hi = slot_key(&p->slot[i + 1]),
		.has_hi = true,
	};
}

unsigned tree_ahead(struct tree *t, const struct miss *miss, struct miss *out, unsigned *self)
{
	struct node *parent;
	unsigned index, first, end, n = 0;

	*self = 0;
	out[0] = *miss;
	if (miss->level || !ahead_pays(t) || !tree_missed(t, miss, &parent, &index) || !parent)
		return 1;

	const struct disk_node *p = parent->page;
	uint64_t blkno = get64(miss->ptr.blkno[0]);
	unsigned lo = index - index % TREE_AHEAD, hi = lo + TREE_AHEAD;

	/* Where the parent's last child ends is not known here. */
	if (hi > page_nitems(p) - 1)
		hi = page_nitems(p) - 1;
	for (first = index; first > lo && follows(t, p, first - 1, blkno - (index - first) - 1); first--)
		;
	for (end = index + 1; end < hi && follows(t, p, end, blkno + (end - index)); end++)
		;
	for (unsigned i = first; i < end; i++)
		out[n++] = i == index ? *miss : miss_of_leaf(p, i);
	*self = index - first;
	return n;
}
