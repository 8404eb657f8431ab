/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alloc_impl.h - the allocator's state, shared by alloc.c, alloc_get.c and alloc_freeze.c.
 *
 * A group is described by 24 bytes that are always there and, once somebody needs its bits, by a
 * struct group_bits.  Freed blocks wait in a second bit string per group, the one of the coming
 * freeze or the one of the freeze under way.  Bits rather than lists of runs: a free costs the same in any order,
 * neighbours merge by themselves, memory is bounded by the groups touched, and it needs no memory at
 * the moment of freeing, which must not fail.
 */
#ifndef HOLDFAST_CORE_ALLOC_IMPL_H
#define HOLDFAST_CORE_ALLOC_IMPL_H

#include "core/alloc.h"
#include "core/bits.h"

#define GROUP_WORDS (GROUP_BLOCKS / 64)
static_assert(GROUP_BLOCKS % 64 == 0 && GROUP_BLOCKS <= UINT16_MAX, "groups are whole words, counts fit 16 bits");

/* Freed blocks of one group. */
struct pend {
	struct pend *next;	/* in alloc.pending or alloc.frozen */
	uint32_t group;
	uint32_t count;		/* set bits */
	uint64_t bits[GROUP_WORDS];
};

struct group_bits {
	struct pend *pending;	/* freed since the last freeze; may be empty (prepared only) */
	struct pend *frozen;	/* freed before it; its checkpoint is not yet durable */
	struct pend *trim;	/* free, but kept from being handed out */
	uint64_t live[GROUP_WORDS];	/* 1: used or freed-pending */
};

struct group {
	struct group_bits *mem;	/* NULL: bits are on disk, or follow from the geometry if uninit */
	uint32_t csum;		/* of the current bitmap on disk; 0 if uninit */
	uint16_t nfree;		/* clear live bits */
	uint16_t max_run;	/* no run of clear live bits is longer; lowered by searches that fail */
	uint8_t slot;		/* current on disk */
	bool uninit;		/* never written */
};

struct claim {
	uint64_t blkno, n, owner;
};

/* Free blocks [from, to) that others leave to `owner` as long as they can; in one group.  See alloc_get(). */
struct window {
	uint64_t owner, from, to;
	uint64_t used;	/* when: alloc's window_clock */
};

#define NODE_COPIES 2

struct alloc {
	const struct super *sb;	/* a copy, owned */
	const struct diag *diag;
	struct group *group;	/* sb->ngroups of them */

	/* A bit per group, so that a search passes over the uninteresting ones 64 at a time. */
	uint64_t *nonfull;	/* nfree > 0 */
	uint64_t *absent;	/* nfree > 0 and not in memory */
	uint64_t *dirty;	/* differs from what the last freeze wrote */
	uint32_t ndirty;

	uint64_t nfree;		/* sum over all groups */
	uint64_t nfree_loaded;	/* sum over groups in memory; >= reserved */
	uint64_t npending;	/* blocks in `pending`, `frozen` and `trim` */
	uint64_t reserved;
	uint64_t emergency;
	uint64_t cached;

	uint64_t cursor;			/* for new files */
	uint64_t node_cursor[NODE_COPIES];	/* for tree nodes */

	struct window window[ALLOC_WINDOWS];
	unsigned nwindows;
	uint64_t window_clock;

	/* What the transaction being prepared frees; the array stays for the next one. */
	struct claim *claim;
	unsigned nclaims, cap_claims;
	bool claiming;

	struct pend *pending, *frozen;
	struct pend *trim;	/* of one group; NULL: none */
	bool frozen_exists;	/* between alloc_freeze() and alloc_release() */

	uint8_t table_slot[MAX_TABLES / 8];
	uint32_t table_csum[MAX_TABLES];
	uint64_t table_dirty[BITS_WORDS(MAX_TABLES)];
};

static inline uint32_t blkno_group(uint64_t blkno)
{
	return (uint32_t)(blkno / GROUP_BLOCKS);
}

static inline uint64_t group_first(uint32_t group)
{
	return (uint64_t)group * GROUP_BLOCKS;
}

/* A piece of a block range inside one group: bits [from, to). */
struct piece {
	uint32_t group, from, to;
};

/* Takes the first piece off a non-empty range. */
static inline struct piece piece_take(uint64_t *blkno, uint64_t *n)
{
	struct piece p = {.group = blkno_group(*blkno), .from = (uint32_t)(*blkno % GROUP_BLOCKS)};
	uint64_t len = GROUP_BLOCKS - p.from;

	if (len > *n)
		len = *n;
	p.to = p.from + (uint32_t)len;
	*blkno += len;
	*n -= len;
	return p;
}

/* What of the free blocks is not for `level`.  While room is kept for cached writes, nobody else's contents come out of the emergency reserve, since
 * theirs was promised above all of it. */
static inline uint64_t alloc_kept(const struct alloc *a, enum alloc_level level)
{
	bool owned = level == ALLOC_OWNED || level == ALLOC_OWNED_CACHED;
	bool cached = level == ALLOC_CACHED || level == ALLOC_OWNED_CACHED;

	if (level == ALLOC_URGENT)
		return 0;
	return a->emergency / (owned && (cached || !a->cached) ? 4 : 1) + (cached ? 0 : a->cached);
}

/* Makes the bits of a group available: 0; -EAGAIN + *miss if they must be read; -ENOMEM. */
int group_provide(struct alloc *a, uint32_t group, struct miss *miss);

/* The bits of a group in which only fixed blocks are used. */
void group_fixed_bits(const struct super *sb, uint32_t group, uint64_t bits[GROUP_WORDS]);

void group_mark_dirty(struct alloc *a, uint32_t group);

/* Marks blocks of a group in memory used, or free, and keeps every count and hint. */
void group_take(struct alloc *a, const struct piece *p);
void group_give(struct alloc *a, uint32_t group, uint32_t n);

/* --- windows (alloc_window.c) --- */

/* The bits of a group with the windows of all but `owner` set: the group's own if there are none, else `buf`. */
const uint64_t *windows_mask(const struct alloc *a, uint32_t group, uint64_t owner, uint64_t buf[GROUP_WORDS]);

/*
 * `owner` got what ends in front of `from`: if it has a window or, `needed`, should get one, that is there from now on, as much of `room` as is free
 * in one group and in no other window.
 */
void window_set(struct alloc *a, uint64_t owner, uint64_t from, uint64_t room, bool needed);
void windows_assert(const struct alloc *a);

/* -EAGAIN with MISS_SPACE if a checkpoint could leave `need` blocks free, else -ENOSPC. */
int alloc_lack(const struct alloc *a, uint64_t need, struct miss *miss);

/* Brings free blocks into memory until there are `need` of them.  0; -EAGAIN + *miss; -ENOMEM. */
int alloc_load(struct alloc *a, uint64_t need, struct miss *miss);

#endif
