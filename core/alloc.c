/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alloc.c - the state of the allocator: opening it, bitmaps that arrive, what is promised, what is
 * freed.
 *
 * Searching is alloc_get.c's, checkpoints are alloc_freeze.c's.  The invariants are in alloc.h.  Added here:
 *   4. nfree_loaded >= reserved: a node's block never needs I/O, nor memory.
 */
#include "core/alloc_impl.h"
#include "core/bug.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* --- groups ----------------------------------------------------------------------------------- */

void group_fixed_bits(const struct super *sb, uint32_t group, uint64_t bits[GROUP_WORDS])
{
	uint64_t first = group_first(group), size = group_nblocks(sb, group);

	memset(bits, 0, GROUP_WORDS * sizeof(bits[0]));
	for (uint64_t at = 0, end; at < size; at = end) {
		end = super_fixed_end(sb, first + at) - first;
		if (end > size)
			end = size;
		if (super_is_fixed(sb, first + at))
			bits_set(bits, at, end);
	}
	if (size < GROUP_BLOCKS)
		bits_set(bits, size, GROUP_BLOCKS);
}

void group_mark_dirty(struct alloc *a, uint32_t group)
{
	if (bit_get(a->dirty, group))
		return;
	bit_put(a->dirty, group, true);
	bit_put(a->table_dirty, group / TABLE_GROUPS, true);
	a->ndirty++;
}

/* The bits are in memory from now on. */
static void group_attach(struct alloc *a, uint32_t group, struct group_bits *mem)
{
	struct group *g = &a->group[group];

	g->mem = mem;
	bit_put(a->absent, group, false);
	a->nfree_loaded += g->nfree;
}

int group_provide(struct alloc *a, uint32_t group, struct miss *miss)
{
	struct group *g = &a->group[group];

	if (g->mem)
		return 0;
	if (!g->uninit) {
		*miss = (struct miss){.kind = MISS_BITMAP, .group = group};
		return -EAGAIN;
	}
	struct group_bits *mem = calloc(1, sizeof(*mem));

	if (!mem)
		return -ENOMEM;
	group_fixed_bits(a->sb, group, mem->live);
	group_attach(a, group, mem);
	return 0;
}

void group_take(struct alloc *a, const struct piece *p)
{
	struct group *g = &a->group[p->group];
	uint32_t n = p->to - p->from;

	assert(bits_all_clear(g->mem->live, p->from, p->to));
	bits_set(g->mem->live, p->from, p->to);
	g->nfree = (uint16_t)(g->nfree - n);
	if (g->nfree == 0)
		bit_put(a->nonfull, p->group, false);
	a->nfree -= n;
	a->nfree_loaded -= n;
	group_mark_dirty(a, p->group);
}

/* The caller has cleared `n` live bits.  They may have joined two runs, so the hint starts anew. */
void group_give(struct alloc *a, uint32_t group, uint32_t n)
{
	struct group *g = &a->group[group];

	if (n == 0)
		return;
	g->nfree = (uint16_t)(g->nfree + n);
	g->max_run = g->nfree;
	bit_put(a->nonfull, group, true);
	a->nfree += n;
	a->nfree_loaded += n;
}

/* --- open and close --------------------------------------------------------------------------- */

/*
 * Removals must get through when nothing else does; a small volume cannot spare much for that.  Most of it is for ALLOC_OWNED, too: an extent of
 * 256 reserved blocks, when it is written, adds its checksums to the tree, which is about one block.
 */
static uint64_t emergency_blocks(uint64_t nblocks)
{
	uint64_t n = nblocks / 256;

	if (n > 4096)
		n = nblocks / 1024 > 4096 ? nblocks / 1024 : 4096;
	if (n < 64)
		n = 64;
	return n < nblocks / 16 ? n : nblocks / 16;
}

static void alloc_init_cursors(struct alloc *a)
{
	uint64_t begin = super_data_begin(a->sb), ndata = super_data_end(a->sb) - begin;

	/* Nodes in the middle of each half of the volume, away from where files begin. */
	a->cursor = begin;
	a->node_cursor[0] = begin + ndata / 4;
	a->node_cursor[1] = begin + ndata / 4 + ndata / 2;
}

static struct alloc *alloc_new(const struct super *sb, const struct diag *diag)
{
	struct alloc *a = calloc(1, sizeof(*a));
	struct super *copy = malloc(sizeof(*copy));
	size_t nwords = BITS_WORDS(sb->ngroups);

	if (!a || !copy) {
		free(a);
		free(copy);
		return NULL;
	}
	*copy = *sb;
	a->sb = copy;
	a->diag = diag;
	a->group = calloc(sb->ngroups, sizeof(a->group[0]));
	a->nonfull = calloc(nwords, sizeof(uint64_t));
	a->absent = calloc(nwords, sizeof(uint64_t));
	a->dirty = calloc(nwords, sizeof(uint64_t));
	if (!a->group || !a->nonfull || !a->absent || !a->dirty) {
		alloc_destroy(a);
		return NULL;
	}
	a->emergency = emergency_blocks(sb->nblocks);
	alloc_init_cursors(a);
	return a;
}

static void alloc_add_group(struct alloc *a, uint32_t group, uint32_t csum, uint32_t info)
{
	struct group *g = &a->group[group];

	g->csum = csum;
	g->nfree = (uint16_t)TABLE_NFREE(info);
	g->max_run = g->nfree;
	g->slot = (info & TABLE_SLOT) != 0;
	g->uninit = (info & TABLE_UNINIT) != 0;
	bit_put(a->nonfull, group, g->nfree > 0);
	bit_put(a->absent, group, g->nfree > 0);
	a->nfree += g->nfree;
}

int alloc_create(const struct super *sb, const void *tables, const uint8_t *table_slots, uint64_t root_nfree,
		 const struct diag *diag, struct alloc **out)
{
	const struct disk_table *table = tables;
	struct alloc *a = alloc_new(sb, diag);

	if (!a)
		return -ENOMEM;
	for (uint32_t group = 0; group < sb->ngroups; group++) {
		const struct disk_table_entry *e = &table[group / TABLE_GROUPS].entry[group % TABLE_GROUPS];

		alloc_add_group(a, group, get32(e->csum), get32(e->info));
	}
	memcpy(a->table_slot, table_slots, sizeof(a->table_slot));
	for (uint32_t t = 0; t < sb->ntables; t++)
		a->table_csum[t] = get32(table[t].h.csum);
	if (a->nfree != root_nfree) {
		int err = corrupt(diag, "tables have %" PRIu64 " free blocks, the root %" PRIu64, a->nfree,
				  root_nfree);

		alloc_destroy(a);
		return err;
	}
	*out = a;
	return 0;
}

int alloc_create_empty(const struct super *sb, const struct diag *diag, struct alloc **out)
{
	struct alloc *a = alloc_new(sb, diag);

	if (!a)
		return -ENOMEM;
	for (uint32_t group = 0; group < sb->ngroups; group++)
		alloc_add_group(a, group, 0, TABLE_UNINIT | group_ndata(sb, group));
	/* No table is on disk yet: the first freeze writes them all. */
	bits_set(a->table_dirty, 0, sb->ntables);
	*out = a;
	return 0;
}

static void pend_free_list(struct pend *p)
{
	while (p) {
		struct pend *next = p->next;

		free(p);
		p = next;
	}
}

void alloc_destroy(struct alloc *a)
{
	if (!a)
		return;
	for (uint32_t group = 0; a->group && group < a->sb->ngroups; group++)
		free(a->group[group].mem);
	pend_free_list(a->pending);
	pend_free_list(a->frozen);
	free(a->trim);
	free(a->group);
	free(a->nonfull);
	free(a->absent);
	free(a->dirty);
	free(a->claim);
	free((void *)a->sb);
	free(a);
}

void alloc_get_space(const struct alloc *a, struct alloc_space *out)
{
	*out = (struct alloc_space){
		.nblocks = a->sb->nblocks,
		.nfree = a->nfree,
		.npending = a->npending,
		.ntrimmed = a->trim ? a->trim->count : 0,
		.reserved = a->reserved,
		.emergency = a->emergency,
		.cached = a->cached,
	};
}

void alloc_keep_cached(struct alloc *a, uint64_t n)
{
	if (BUG(CACHED_ROOM_NOT_KEPT))
		n = 0;
	a->cached = n;
}

/* --- bitmaps from disk ------------------------------------------------------------------------ */

bool alloc_wants(const struct alloc *a, uint32_t group)
{
	return !a->group[group].mem && !a->group[group].uninit;
}

void alloc_bitmap_where(const struct alloc *a, uint32_t group, unsigned *slot, uint32_t *csum)
{
	*slot = a->group[group].slot;
	*csum = a->group[group].csum;
}

static int bitmap_agrees(const struct alloc *a, uint32_t group, const uint64_t live[GROUP_WORDS])
{
	uint64_t fixed[GROUP_WORDS];
	uint32_t nfree = GROUP_BLOCKS - bits_count(live, GROUP_WORDS);

	if (nfree != a->group[group].nfree)
		return corrupt(a->diag, "group %" PRIu32 ": bitmap has %" PRIu32 " free blocks, table %u",
			       group, nfree, a->group[group].nfree);
	group_fixed_bits(a->sb, group, fixed);
	for (uint32_t w = 0; w < GROUP_WORDS; w++)
		if (fixed[w] & ~live[w])
			return corrupt(a->diag, "group %" PRIu32 ": bitmap leaves fixed blocks free", group);
	return 0;
}

int alloc_bitmap_arrived(struct alloc *a, uint32_t group, const void *block)
{
	const struct disk_bitmap *b = block;

	if (!alloc_wants(a, group))
		return 0;
	struct group_bits *mem = calloc(1, sizeof(*mem));

	if (!mem)
		return -ENOMEM;
	for (uint32_t w = 0; w < GROUP_WORDS; w++) {
		le64 raw;

		memcpy(&raw, b->bits + 8 * (size_t)w, sizeof(raw));
		mem->live[w] = get64(raw);
	}
	int err = bitmap_agrees(a, group, mem->live);
	if (err) {
		free(mem);
		return err;
	}
	group_attach(a, group, mem);
	return 0;
}

/* --- preparing -------------------------------------------------------------------------------- */

static int range_check(const struct alloc *a, uint64_t blkno, uint64_t n, const char *what)
{
	uint64_t begin = super_data_begin(a->sb), end = super_data_end(a->sb);

	if (n == 0 || blkno < begin || blkno >= end || n > end - blkno)
		return corrupt(a->diag, "blocks %" PRIu64 " +%" PRIu64 " to be %s are not data blocks", blkno,
			       n, what);
	return 0;
}

/* Used, and not freed already. */
static bool group_all_used(const struct group_bits *m, const struct piece *p)
{
	return bits_all_set(m->live, p->from, p->to) &&
	       (!m->pending || bits_all_clear(m->pending->bits, p->from, p->to)) &&
	       (!m->frozen || bits_all_clear(m->frozen->bits, p->from, p->to)) &&
	       (!m->trim || bits_all_clear(m->trim->bits, p->from, p->to));
}

/* A place for the group's freed blocks, so that freeing needs no memory. */
static struct pend *group_pend(struct alloc *a, uint32_t group)
{
	struct group_bits *m = a->group[group].mem;

	assert(m);
	if (m->pending)
		return m->pending;
	struct pend *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->group = group;
	p->next = a->pending;
	a->pending = p;
	m->pending = p;
	return p;
}

int alloc_prepare_free(struct alloc *a, uint64_t blkno, uint64_t n, struct miss *miss)
{
	int err = range_check(a, blkno, n, "freed");

	while (!err && n > 0) {
		uint64_t at = blkno;
		struct piece p = piece_take(&blkno, &n);
		const struct group *g = &a->group[p.group];
		bool never_used = !g->mem && g->uninit;

		if (!never_used)
			err = group_provide(a, p.group, miss);
		if (!err && (never_used || !group_all_used(g->mem, &p)))
			err = corrupt(a->diag, "blocks %" PRIu64 " +%" PRIu32 " to be freed are not in use",
				      at, p.to - p.from);
		if (!err && !group_pend(a, p.group))
			err = -ENOMEM;
	}
	return err;
}

void alloc_claims_begin(struct alloc *a)
{
	a->nclaims = 0;
	a->claiming = true;
}

int alloc_claim(struct alloc *a, uint64_t blkno, uint64_t n, uint64_t owner)
{
	if (!a->claiming)
		return 0;
	if (a->nclaims == a->cap_claims) {
		unsigned cap = a->cap_claims ? 2 * a->cap_claims : 64;
		struct claim *bigger = realloc(a->claim, cap * sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		a->claim = bigger;
		a->cap_claims = cap;
	}
	a->claim[a->nclaims++] = (struct claim){blkno, n, owner};
	return 0;
}

static int claim_cmp(const void *a, const void *b)
{
	const struct claim *x = a, *y = b;

	if (x->blkno != y->blkno)
		return x->blkno < y->blkno ? -1 : 1;
	return x->owner < y->owner ? -1 : x->owner > y->owner;
}

int alloc_claims_check(struct alloc *a)
{
	a->claiming = false;
	if (a->nclaims < 2)
		return 0;
	qsort(a->claim, a->nclaims, sizeof(*a->claim), claim_cmp);
	for (unsigned i = 1; i < a->nclaims; i++) {
		const struct claim *p = &a->claim[i - 1], *c = &a->claim[i];

		if (c->blkno >= p->blkno + p->n || (c->blkno == p->blkno && c->owner == p->owner))
			continue;
		return corrupt(a->diag, "block %" PRIu64 " is to be freed twice", c->blkno);
	}
	return 0;
}

int alloc_prepare_look(struct alloc *a, uint64_t blkno, struct miss *miss)
{
	int err = range_check(a, blkno, 1, "written");

	return err ? err : group_provide(a, blkno_group(blkno), miss);
}

bool alloc_is_used(const struct alloc *a, uint64_t blkno)
{
	uint64_t n = 1;
	struct piece p = piece_take(&blkno, &n);

	return group_all_used(a->group[p.group].mem, &p);
}

int alloc_prepare_mark(struct alloc *a, uint64_t blkno, uint64_t n, struct miss *miss)
{
	int err = range_check(a, blkno, n, "allocated");

	while (!err && n > 0) {
		uint64_t at = blkno;
		struct piece p = piece_take(&blkno, &n);

		err = group_provide(a, p.group, miss);
		if (!err && !bits_all_clear(a->group[p.group].mem->live, p.from, p.to))
			err = corrupt(a->diag, "blocks %" PRIu64 " +%" PRIu32 " to be allocated are in use",
				      at, p.to - p.from);
	}
	return err;
}

int alloc_lack(const struct alloc *a, uint64_t need, struct miss *miss)
{
	/*
	 * A checkpoint releases what is pending.  It also turns the reservation into node blocks and
	 * frees the versions these replace, so up to `reserved` blocks come back as well.
	 */
	if (a->nfree + a->npending + a->reserved < need)
		return -ENOSPC;
	*miss = (struct miss){.kind = MISS_SPACE};
	return -EAGAIN;
}

/*
 * The next group worth reading: behind the node cursor whose group has less left, so that the two
 * copies keep to their areas.
 */
static uint32_t alloc_absent_group(const struct alloc *a)
{
	uint32_t g0 = blkno_group(a->node_cursor[0]), g1 = blkno_group(a->node_cursor[1]);
	uint32_t from = a->group[g1].nfree < a->group[g0].nfree ? g1 : g0, ngroups = a->sb->ngroups;
	size_t next = bits_next(a->absent, from, ngroups);

	return (uint32_t)(next < ngroups ? next : bits_next(a->absent, 0, ngroups));
}

int alloc_load(struct alloc *a, uint64_t need, struct miss *miss)
{
	assert(need <= a->nfree);
	while (a->nfree_loaded < need) {
		int err = group_provide(a, alloc_absent_group(a), miss);

		if (err)
			return err;
	}
	return 0;
}

int alloc_prepare_reserve(struct alloc *a, uint64_t n, enum alloc_level level, struct miss *miss)
{
	uint64_t need = a->reserved + n + alloc_kept(a, level);

	if (n == 0)
		return 0;
	if (a->nfree < need)
		return alloc_lack(a, need, miss);
	/* Both copies' places, else the second would settle beside the first. */
	for (unsigned copy = 0; copy < NODE_COPIES; copy++) {
		uint32_t group = blkno_group(a->node_cursor[copy]);
		int err = bit_get(a->absent, group) ? group_provide(a, group, miss) : 0;

		if (err)
			return err;
	}
	return alloc_load(a, a->reserved + n, miss);
}

void alloc_reserve(struct alloc *a, uint64_t n)
{
	a->reserved += n;
	assert(a->reserved <= a->nfree_loaded);
}

void alloc_unreserve(struct alloc *a, uint64_t n)
{
	assert(n <= a->reserved);
	a->reserved -= n;
}

/* --- changing --------------------------------------------------------------------------------- */

void alloc_mark(struct alloc *a, uint64_t blkno, uint64_t n)
{
	while (n > 0) {
		struct piece p = piece_take(&blkno, &n);

		group_take(a, &p);
	}
}

void alloc_unget(struct alloc *a, uint64_t blkno, uint64_t n)
{
	while (n > 0) {
		struct piece p = piece_take(&blkno, &n);
		struct group_bits *m = a->group[p.group].mem;

		assert(group_all_used(m, &p));
		bits_clear(m->live, p.from, p.to);
		group_give(a, p.group, p.to - p.from);
	}
}

static void pend_add(struct alloc *a, struct pend *pend, const struct piece *p)
{
	bits_set(pend->bits, p->from, p->to);
	pend->count += p->to - p->from;
	a->npending += p->to - p->from;
}

void alloc_free(struct alloc *a, uint64_t blkno, uint64_t n)
{
	while (n > 0) {
		struct piece p = piece_take(&blkno, &n);
		struct pend *pend = group_pend(a, p.group);

		assert(pend);
		assert(group_all_used(a->group[p.group].mem, &p));
		if (BUG(FREED_BLOCK_REUSED))
			alloc_unget(a, group_first(p.group) + p.from, p.to - p.from);
		else
			pend_add(a, pend, &p);
		group_mark_dirty(a, p.group);
	}
}
