/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alloc_get.c - searching for free blocks.
 *
 * What keeps it cheap on a full or fragmented volume: full groups are passed over 64 at a time; a group whose
 * longest run is known to be too short is passed over without a look at its bits; a search that found anything at all
 * gives up after SEARCH_GROUPS groups; room is a wish, for which little is read.  A group's bits are scanned by words, runs inside a word
 * by shifting, never bit by bit.
 */
#include "core/alloc_impl.h"
#include "core/bug.h"

#include <string.h>

#define SEARCH_GROUPS 64u
/* For room alone bitmaps are not read farther away than this. */
#define ROOM_GROUPS 4u

/* A node cursor that meets a used block looks for this many free ones in a row: checkpoints write
 * nodes in the order in which they get their blocks. */
#define NODE_RUN 16u

struct run {
	uint32_t from, len;
};

/* --- runs in one group ------------------------------------------------------------------------ */

/* Remembers the longest run; true once that is long enough. */
static bool run_offer(struct run *best, uint32_t from, uint32_t len, uint32_t want)
{
	if (len > best->len)
		*best = (struct run){.from = from, .len = len};
	return best->len >= want;
}

/* The first run of `want` set bits in a word, else its first longest run. */
static struct run word_run(uint64_t bits, uint32_t want)
{
	struct run run = {0, 0};

	/* After k rounds a bit says that a run of k + 1 begins there. */
	for (; bits && run.len < want; bits &= bits >> 1)
		run = (struct run){.from = (uint32_t)__builtin_ctzll(bits), .len = run.len + 1};
	return run;
}

/*
 * The first run of at least `want` clear bits that begins in [from, GROUP_BLOCKS), else the longest;
 * length 0 if there is none.
 */
static struct run run_search(const uint64_t live[GROUP_WORDS], uint32_t from, uint32_t want)
{
	struct run best = {0, 0}, open = {0, 0}; /* `open` reaches the current word's first bit */

	for (uint32_t w = from / 64; w < GROUP_WORDS; w++) {
		uint64_t bits = ~live[w];

		if (w == from / 64)
			bits &= UINT64_MAX << (from % 64);
		if (bits == 0) {
			open.len = 0;
			continue;
		}
		uint32_t head = bits == UINT64_MAX ? 64 : (uint32_t)__builtin_ctzll(~bits);

		if (open.len == 0)
			open.from = w * 64;
		open.len += head;
		if (run_offer(&best, open.from, open.len, want))
			break;
		if (head == 64)
			continue;
		uint32_t tail = bits >> 63 ? (uint32_t)__builtin_clzll(~bits) : 0;
		struct run inner = word_run(bits >> head << head, want);

		if (run_offer(&best, w * 64 + inner.from, inner.len, want))
			break;
		open = (struct run){.from = w * 64 + 64 - tail, .len = tail};
	}
	return best;
}

/* --- runs in the volume ----------------------------------------------------------------------- */

struct search {
	uint32_t want;
	uint32_t need; /* the part of `want` that is worth reading for, however far away */
	uint32_t met; /* groups behind the first */
	bool memory_only; /* leave groups alone whose bits are not in memory */
	bool stay; /* go back to the beginning of the first group before leaving it */
	bool anyones; /* look into windows of others than `owner`, too */
	uint64_t owner;
	bool has_skipped;
	uint32_t skipped; /* not in memory, with free blocks, but surely without `want` in a row */
	uint64_t blkno; /* the best so far */
	uint32_t len;
};

/* No run of the group is longer than this. */
static uint32_t group_bound(const struct group *g)
{
	return g->max_run < g->nfree ? g->max_run : g->nfree;
}

/* A group's bits are wanted: 1 to look at them, 0 to pass on, -EAGAIN, -ENOMEM. */
static int search_enter(struct alloc *a, struct search *s, uint32_t group, struct miss *miss)
{
	const struct group *g = &a->group[group];
	uint32_t bound = group_bound(g);

	if (bound <= s->len || (!g->mem && s->memory_only))
		return 0;
	if (!g->mem && !g->uninit && s->len >= s->need && s->met >= ROOM_GROUPS)
		return 0;
	if (!g->mem && !g->uninit && bound < s->want) {
		if (!s->has_skipped)
			s->skipped = group;
		s->has_skipped = true;
		return 0;
	}
	int err = group_provide(a, group, miss);
	return err ? err : 1;
}

static int search_visit(struct alloc *a, struct search *s, uint32_t group, uint32_t from, struct miss *miss)
{
	struct group *g = &a->group[group];
	int enter = search_enter(a, s, group, miss);

	if (enter <= 0)
		return enter;
	/* There is no point in going on for more than the group may have. */
	uint32_t want = group_bound(g) < s->want ? group_bound(g) : s->want;
	uint64_t buf[GROUP_WORDS];
	const uint64_t *live = s->anyones ? g->mem->live : windows_mask(a, group, s->owner, buf);
	struct run run = run_search(live, from, want);

	if (from == 0 && run.len < want && live == g->mem->live)
		g->max_run = (uint16_t)run.len;
	if (run.len > s->len) {
		s->blkno = group_first(group) + run.from;
		s->len = run.len < s->want ? run.len : s->want;
	}
	return 0;
}

/* The group to visit after `group`, going around; ngroups if there is none. */
static uint32_t search_next(const struct alloc *a, const struct search *s, uint32_t group)
{
	uint32_t ngroups = a->sb->ngroups;
	size_t next;

	if (s->memory_only) {
		next = bits_next_without(a->nonfull, a->absent, (size_t)group + 1, ngroups);
		return (uint32_t)(next < ngroups ? next
						 : bits_next_without(a->nonfull, a->absent, 0, ngroups));
	}
	next = bits_next(a->nonfull, (size_t)group + 1, ngroups);
	return (uint32_t)(next < ngroups ? next : bits_next(a->nonfull, 0, ngroups));
}

/*
 * From `goal` to the end of its group, then group after group, once around at most.  The volume has
 * free blocks.  0 and s->blkno, s->len (0 only if memory_only); -EAGAIN + *miss; -ENOMEM.
 */
static int search_run(struct alloc *a, struct search *s, uint64_t goal, struct miss *miss)
{
	uint32_t home = blkno_group(goal), ngroups = a->sb->ngroups, group = home, done = 0;

	s->met = 0;
	int err = search_visit(a, s, home, (uint32_t)(goal % GROUP_BLOCKS), miss);

	if (!err && s->len < s->want && s->stay)
		err = search_visit(a, s, home, 0, miss);
	while (!err && s->len < s->want && done < ngroups) {
		uint32_t next = search_next(a, s, group);

		if (next == ngroups)
			break;
		/* A distance that does not grow means that the search has come around. */
		done += next > group ? next - group : next + ngroups - group;
		if (done > ngroups || (s->met >= SEARCH_GROUPS && (s->len > 0 || s->has_skipped)))
			break;
		err = search_visit(a, s, next, 0, miss);
		s->met++;
		group = next;
	}
	if (!err && s->len == 0 && s->has_skipped)
		err = group_provide(a, s->skipped, miss);
	return err;
}

/* At most `want` free blocks at `goal` itself, if any: contiguity is worth more than length. */
static int search_at(struct alloc *a, struct search *s, uint64_t goal, uint32_t want, struct miss *miss)
{
	uint32_t group = blkno_group(goal), from = (uint32_t)(goal % GROUP_BLOCKS);
	uint32_t end = from + want < GROUP_BLOCKS ? from + want : GROUP_BLOCKS;
	uint64_t buf[GROUP_WORDS];

	if (a->group[group].nfree == 0)
		return 0;
	int err = group_provide(a, group, miss);
	if (err)
		return err;
	s->blkno = goal;
	s->len = (uint32_t)bits_next(windows_mask(a, group, s->owner, buf), from, end) - from;
	return 0;
}

/* Finds without taking `want` blocks; others' windows are no obstacle if there would be less without them. */
static int search(struct alloc *a, struct search *s, const struct alloc_place *at, uint32_t want, struct miss *miss)
{
	bool anywhere = at->goal < super_data_begin(a->sb) || at->goal >= super_data_end(a->sb);
	uint64_t from = anywhere ? a->cursor : at->goal;
	int err = anywhere ? 0 : search_at(a, s, from, want, miss);

	if (err || s->len > 0)
		return err;
	s->need = want;
	s->want = want + at->room < GROUP_BLOCKS ? want + (uint32_t)at->room : GROUP_BLOCKS;
	err = search_run(a, s, from, miss);
	if (err || s->len >= want || (at->room == 0 && a->nwindows == 0))
		return err;
	s->anyones = true;
	s->want = want;
	return search_run(a, s, from, miss);
}

int alloc_get(struct alloc *a, struct alloc_place place, uint64_t want, uint64_t keep, enum alloc_level level, struct miss *miss,
	      uint64_t *blkno, uint64_t *n)
{
	uint64_t kept = a->reserved + keep;
	uint64_t held = BUG(DATA_TAKES_PROMISED) ? 0 : kept + alloc_kept(a, level);
	struct search s = {.owner = place.owner};

	assert(want > 0);
	if (a->nfree <= held)
		return alloc_lack(a, held + 1, miss);
	if (want > a->nfree - held)
		want = a->nfree - held;
	if (want > GROUP_BLOCKS)
		want = GROUP_BLOCKS;
	/* Where space is short, others have as much use for it. */
	if (place.room > a->nfree / 16)
		place.room = a->nfree / 16;
	int err = search(a, &s, &place, (uint32_t)want, miss);
	if (err)
		return err;
	assert(s.len > 0);
	if (s.len > want)
		s.len = (uint32_t)want;
	/* What is promised must stay available without I/O. */
	err = alloc_load(a, kept + s.len, miss);
	if (err)
		return err;
	alloc_mark(a, s.blkno, s.len);
	if (place.goal == 0)
		a->cursor = s.blkno + s.len;
	if (place.owner)
		window_set(a, place.owner, s.blkno + s.len, place.room, place.goal != 0 && s.blkno != place.goal);
	*blkno = s.blkno;
	*n = s.len;
	return 0;
}

/* --- nodes ------------------------------------------------------------------------------------ */

static bool is_free_in_memory(const struct alloc *a, uint64_t blkno)
{
	const struct group_bits *m = a->group[blkno_group(blkno)].mem;

	return m && !bit_get(m->live, blkno % GROUP_BLOCKS);
}

uint64_t alloc_node_block(struct alloc *a, unsigned copy)
{
	uint64_t blkno = a->node_cursor[copy];

	assert(a->reserved > 0);
	if (!is_free_in_memory(a, blkno)) {
		struct search s = {.want = NODE_RUN, .need = NODE_RUN, .memory_only = true, .stay = true, .anyones = true};
		int err = search_run(a, &s, blkno, NULL);

		/* Invariant 4: there are free blocks in memory, and looking at them needs nothing. */
		assert(!err && s.len > 0);
		blkno = s.blkno;
	}
	alloc_mark(a, blkno, 1);
	a->reserved--;
	/* The volume's last block is fixed, so there is always a next one. */
	a->node_cursor[copy] = blkno + 1;
	return blkno;
}
