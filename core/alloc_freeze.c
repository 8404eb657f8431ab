/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alloc_freeze.c - snapshots of free space for a checkpoint, and the checks of the allocator's state.
 *
 * The snapshot shows the frees before it as free although nobody may use those blocks yet: once a root
 * names the snapshot they are, and until then the live bitmap keeps them.  So releasing changes no bitmap that
 * would have to be written again.
 */
#include "core/alloc_impl.h"
#include "core/bug.h"

#include <stdlib.h>
#include <string.h>

/* --- images ----------------------------------------------------------------------------------- */

/* Free blocks of a group as the running freeze shows them. */
static uint32_t group_frozen_nfree(const struct group *g)
{
	const struct group_bits *m = g->mem;

	return g->nfree + (m && m->frozen ? m->frozen->count : 0) + (m && m->trim ? m->trim->count : 0);
}

static void bitmap_build(struct alloc *a, uint32_t group, uint64_t generation, struct alloc_image *image)
{
	struct group *g = &a->group[group];
	const struct pend *frozen = g->mem->frozen, *trim = g->mem->trim;
	struct disk_bitmap *b = image->block;

	g->slot = g->uninit ? 0 : BUG(BITMAP_SLOT_NOT_FLIPPED) ? g->slot : !g->slot;
	g->uninit = false;
	for (unsigned copy = 0; copy < 2; copy++)
		image->blkno[copy] = bitmap_blkno(a->sb, group, g->slot, copy);
	header_init(b, MAGIC_BITMAP, a->sb->uuid, image->blkno[0], image->blkno[1], generation);
	b->group = put32(group);
	b->nfree = put32(group_frozen_nfree(g));
	for (uint32_t w = 0; w < GROUP_WORDS; w++) {
		uint64_t free = (frozen ? frozen->bits[w] : 0) | (trim ? trim->bits[w] : 0);
		le64 raw = put64(g->mem->live[w] & ~free);

		memcpy(b->bits + 8 * (size_t)w, &raw, sizeof(raw));
	}
	g->csum = header_seal(b);
}

static void table_build(struct alloc *a, uint32_t t, uint64_t generation, struct alloc_image *image)
{
	uint32_t first = t * TABLE_GROUPS, left = a->sb->ngroups - first;
	uint32_t n = left < TABLE_GROUPS ? left : TABLE_GROUPS;
	struct disk_table *table = image->block;

	if (!BUG(TABLE_SLOT_NOT_FLIPPED))
		a->table_slot[t / 8] ^= (uint8_t)(1u << (t % 8));

	unsigned slot = a->table_slot[t / 8] >> (t % 8) & 1;

	for (unsigned copy = 0; copy < 2; copy++)
		image->blkno[copy] = table_blkno(a->sb, t, slot, copy);
	header_init(table, MAGIC_TABLE, a->sb->uuid, image->blkno[0], image->blkno[1], generation);
	table->index = put32(t);
	table->nentries = put32(n);
	for (uint32_t e = 0; e < n; e++) {
		const struct group *g = &a->group[first + e];
		uint32_t info = group_frozen_nfree(g);

		info |= g->uninit ? TABLE_UNINIT : g->slot ? TABLE_SLOT : 0;
		table->entry[e].csum = put32(g->csum);
		table->entry[e].info = put32(info);
	}
	a->table_csum[t] = header_seal(table);
}

/* One piece of memory for all images, zeroed; the first image's block is its address. */
static int images_alloc(struct alloc_freeze *out, unsigned nimages)
{
	uint8_t *blocks;

	out->image = calloc(nimages, sizeof(out->image[0]));
	blocks = aligned_alloc(BLOCK_SIZE, (size_t)nimages * BLOCK_SIZE);
	if (!out->image || !blocks) {
		free(out->image);
		out->image = NULL;	/* alloc_freeze_drop() follows */
		free(blocks);
		return -ENOMEM;
	}
	memset(blocks, 0, (size_t)nimages * BLOCK_SIZE);
	for (unsigned i = 0; i < nimages; i++)
		out->image[i].block = blocks + (size_t)i * BLOCK_SIZE;
	out->nimages = nimages;
	return 0;
}

/* --- freeze ----------------------------------------------------------------------------------- */

/* Frees so far become frozen.  Prepared but empty places stay: somebody counts on them. */
static void pending_freeze(struct alloc *a)
{
	struct pend **link = &a->pending;

	assert(!a->frozen);
	while (*link) {
		struct pend *p = *link;
		struct group_bits *m = a->group[p->group].mem;

		if (p->count == 0) {
			link = &p->next;
			continue;
		}
		*link = p->next;
		p->next = a->frozen;
		a->frozen = p;
		m->frozen = p;
		m->pending = NULL;
	}
}

static void images_build(struct alloc *a, uint64_t generation, struct alloc_freeze *out)
{
	uint32_t ngroups = a->sb->ngroups, ntables = a->sb->ntables;
	unsigned i = 0;

	for (size_t g = bits_next(a->dirty, 0, ngroups); g < ngroups; g = bits_next(a->dirty, g + 1, ngroups))
		bitmap_build(a, (uint32_t)g, generation, &out->image[i++]);
	for (size_t t = bits_next(a->table_dirty, 0, ntables); t < ntables;
	     t = bits_next(a->table_dirty, t + 1, ntables))
		table_build(a, (uint32_t)t, generation, &out->image[i++]);
	assert(i == out->nimages);
}

int alloc_freeze(struct alloc *a, uint64_t generation, struct alloc_freeze *out)
{
	unsigned nimages = a->ndirty + bits_count(a->table_dirty, BITS_WORDS(MAX_TABLES));

	assert(!a->frozen_exists);
	memset(out, 0, sizeof(*out));
	if (nimages > 0) {
		int err = images_alloc(out, nimages);

		if (err)
			return err;
	}
	a->frozen_exists = true;
	out->nfree = a->nfree + (BUG(NFREE_MISCOUNTED) ? 0 : a->npending);
	pending_freeze(a);
	images_build(a, generation, out);
	memcpy(out->table_slot, a->table_slot, sizeof(out->table_slot));
	memcpy(out->table_csum, a->table_csum, sizeof(out->table_csum));
	memset(a->dirty, 0, BITS_WORDS(a->sb->ngroups) * sizeof(a->dirty[0]));
	memset(a->table_dirty, 0, sizeof(a->table_dirty));
	a->ndirty = 0;
	return 0;
}

void alloc_freeze_drop(struct alloc_freeze *f)
{
	if (f->nimages > 0)
		free(f->image[0].block);
	free(f->image);
	f->image = NULL;
	f->nimages = 0;
}

static void pend_release(struct alloc *a, const struct pend *p)
{
	struct group_bits *m = a->group[p->group].mem;

	for (uint32_t w = 0; w < GROUP_WORDS; w++)
		m->live[w] &= ~p->bits[w];
	m->frozen = NULL;
	a->npending -= p->count;
	group_give(a, p->group, p->count);
}

void alloc_release(struct alloc *a, struct alloc_freeze *f)
{
	assert(a->frozen_exists);
	while (a->frozen) {
		struct pend *p = a->frozen;

		a->frozen = p->next;
		pend_release(a, p);
		free(p);
	}
	a->frozen_exists = false;
	alloc_freeze_drop(f);
}

void alloc_each_frozen(const struct alloc *a, void (*each)(void *arg, uint64_t blkno, uint64_t n), void *arg)
{
	for (const struct pend *p = a->frozen; p; p = p->next)
		for (size_t from = bits_next(p->bits, 0, GROUP_BLOCKS), to; from < GROUP_BLOCKS;
		     from = bits_next(p->bits, to, GROUP_BLOCKS)) {
			to = bits_next_clear(p->bits, from, GROUP_BLOCKS);
			each(arg, group_first(p->group) + from, to - from);
		}
}

/* --- invariants ------------------------------------------------------------------------------- */

static void pend_assert(const struct pend *p, const struct group_bits *m, const struct pend *other)
{
	assert(bits_count(p->bits, GROUP_WORDS) == p->count);
	for (uint32_t w = 0; w < GROUP_WORDS; w++) {
		assert((p->bits[w] & ~m->live[w]) == 0);
		assert(!other || (p->bits[w] & other->bits[w]) == 0);
	}
}

static uint32_t longest_run(const uint64_t live[GROUP_WORDS])
{
	size_t longest = 0;

	for (size_t from = bits_next_clear(live, 0, GROUP_BLOCKS), to; from < GROUP_BLOCKS;
	     from = bits_next_clear(live, to, GROUP_BLOCKS)) {
		to = bits_next(live, from, GROUP_BLOCKS);
		if (to - from > longest)
			longest = to - from;
	}
	return (uint32_t)longest;
}

static void group_assert(const struct alloc *a, uint32_t group)
{
	const struct group *g = &a->group[group];
	const struct group_bits *m = g->mem;
	uint64_t fixed[GROUP_WORDS];

	assert(bit_get(a->nonfull, group) == (g->nfree > 0));
	if (!m) {
		assert(bit_get(a->absent, group) == (g->nfree > 0));
		assert(!bit_get(a->dirty, group));
		return;
	}
	assert(!bit_get(a->absent, group));
	assert(GROUP_BLOCKS - bits_count(m->live, GROUP_WORDS) == g->nfree);
	assert(longest_run(m->live) <= g->max_run);
	group_fixed_bits(a->sb, group, fixed);
	for (uint32_t w = 0; w < GROUP_WORDS; w++)
		assert((fixed[w] & ~m->live[w]) == 0);
	if (m->pending)
		pend_assert(m->pending, m, m->frozen);
	if (m->frozen)
		pend_assert(m->frozen, m, m->pending);
	if (m->trim) {
		pend_assert(m->trim, m, m->pending);
		pend_assert(m->trim, m, m->frozen);
	}
}

static uint64_t pend_assert_list(const struct alloc *a, bool is_frozen)
{
	uint64_t n = 0;

	for (const struct pend *p = is_frozen ? a->frozen : a->pending; p; p = p->next) {
		const struct group_bits *m = a->group[p->group].mem;

		assert(p == (is_frozen ? m->frozen : m->pending));
		n += p->count;
	}
	return n;
}

void alloc_assert(const struct alloc *a)
{
	uint64_t nfree = 0, nfree_loaded = 0;
	uint32_t ndirty = bits_count(a->dirty, BITS_WORDS(a->sb->ngroups));

	for (uint32_t group = 0; group < a->sb->ngroups; group++) {
		group_assert(a, group);
		nfree += a->group[group].nfree;
		nfree_loaded += a->group[group].mem ? a->group[group].nfree : 0;
	}
	assert(nfree == a->nfree && nfree_loaded == a->nfree_loaded);
	assert(ndirty == a->ndirty);
	assert(a->reserved <= a->nfree_loaded);
	assert(!a->trim || a->group[a->trim->group].mem->trim == a->trim);
	assert(pend_assert_list(a, false) + pend_assert_list(a, true) + (a->trim ? a->trim->count : 0) == a->npending);
	assert(!a->frozen || a->frozen_exists);
	windows_assert(a);
}
