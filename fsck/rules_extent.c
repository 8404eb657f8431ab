/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rules_extent.c - extents: what is cut off them, and who keeps a block that several claim.
 *
 * Of extents that overlap in a file the first keeps the place.  Of several claims to one block of the device the one whose checksum
 * the contents match wins, then an unwritten one (which has no contents), then the first; a block that a node is in and whose claim does not match is
 * lost, for that node's bytes are not the file's.  Whatever loses becomes a hole.
 */
#include "fsck/rebuild_impl.h"

#include <stdlib.h>
#include <string.h>

#include "core/bits.h"
#include "core/crc32c.h"

/* An extent and which of its blocks are kept. */
struct cut {
	uint64_t offset, blkno;
	uint32_t n;
	bool written;
	const uint8_t *csum;	/* 4 bytes a block, not aligned */
	uint64_t keep[BITS_WORDS(EXTENT_MAX_BLOCKS)];
};

static uint64_t size_in_blocks(uint64_t size)
{
	return (size >> BLOCK_SHIFT) + (size % BLOCK_SIZE != 0);
}

static bool bit(const struct cut *x, uint32_t i)
{
	return bit_get(x->keep, i);
}

static uint32_t cut_count(const struct cut *x)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < x->n; i++)
		n += bit(x, i);
	return n;
}

/* --- within the file --------------------------------------------------------------------------- */

static bool is_inline(struct rebuilder *r)
{
	const struct object *o = r->o;

	if (r->pass == PASS_COLLECT)
		return get64(o->di.flags) & INODE_INLINE && o->inline_bytes;
	return rec_at(r, o->rec)->flags & FIX_INLINE;
}

static void cut_by_file(struct rebuilder *r, struct cut *x)
{
	struct object *o = r->o;
	uint64_t end = x->n, behind = size_in_blocks(get64(o->di.size));
	uint64_t begin = o->end_block > x->offset ? o->end_block - x->offset : 0;

	if (x->written && !o->orphan && !o->made && x->offset + end > behind)
		end = behind > x->offset ? behind - x->offset : 0;
	if (is_inline(r))
		end = 0;
	if (begin < end)
		bits_set(x->keep, begin, end);
	if (x->offset + x->n > o->end_block)
		o->end_block = x->offset + x->n;
	if (begin < end && x->written)
		o->end_written = x->offset + end;
}

/* --- claims ------------------------------------------------------------------------------------ */

static int collect(struct rebuilder *r, const struct cut *x)
{
	struct object *o = r->o;
	uint64_t ndup, first;
	uint32_t kept = cut_count(x);
	int err = blockset_add(&r->busy, x->blkno, x->n, &ndup, &first);

	if (err)
		return err;
	o->nblocks += kept;
	o->nblocks_seen += x->n;
	o->ncut += x->written ? x->n - kept : 0;
	if (!ndup)
		return 0;
	/* Which of them were in already is not known any more. */
	r->have_shared = true;
	return blockset_add(&r->shared, x->blkno, x->n, &ndup, &first);
}

static unsigned claim_score(struct rebuilder *r, const struct cut *x, uint32_t i, void *block)
{
	uint64_t blkno = x->blkno + i;
	le32 csum;

	if (!x->written)
		return CLAIM_UNWRITTEN;
	int err = r->src->data ? r->src->data(r->src, blkno, block) : -ENOENT;

	if (err == -ENOENT)
		err = dev_read(r->q, blkno * BLOCK_SIZE, block, BLOCK_SIZE);
	memcpy(&csum, x->csum + 4 * (size_t)i, sizeof(csum));
	return !err && crc32c(0, block, BLOCK_SIZE) == get32(csum) ? CLAIM_MATCHES : CLAIM_WRONG;
}

static int claim(struct rebuilder *r, const struct cut *x)
{
	auto_free void *block = NULL;

	for (uint32_t i = 0; i < x->n; i++) {
		if (!bit(x, i) || !blockset_has(&r->shared, x->blkno + i))
			continue;
		if (!block)
			block = dev_alloc(BLOCK_SIZE, false);
		struct fix_claim *c = block ? list_add(&r->claims, sizeof(*c)) : NULL;

		if (!c)
			return -ENOMEM;
		*c = (struct fix_claim){x->blkno + i, r->o->ino, x->offset + i, claim_score(r, x, i, block)};
	}
	return 0;
}

static int claim_cmp(const void *a, const void *b)
{
	const struct fix_claim *x = a, *y = b;

	if (x->blkno != y->blkno)
		return x->blkno < y->blkno ? -1 : 1;
	if (x->score != y->score)
		return x->score > y->score ? -1 : 1;
	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	return x->file_block < y->file_block ? -1 : x->file_block > y->file_block;
}

static int loser_cmp(const void *a, const void *b)
{
	const struct fix_claim *x = a, *y = b;

	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

/* All losers of one inode. */
static int losers_note(struct rebuilder *r, const struct fix_claim *c, uint64_t n)
{
	struct fix_inode *rec = rec_find(r, c->ino);
	uint64_t nwritten = 0;

	for (uint64_t i = 0; i < n; i++)
		nwritten += c[i].score != CLAIM_UNWRITTEN;
	assert(rec && rec->nblocks >= n);
	rec->nblocks -= n;
	if (!nwritten)
		return note(r, REBUILD_KEPT, c->ino, "%llu blocks without contents belong to others and were cut off", (unsigned long long)n);
	return note(r, REBUILD_LOST, c->ino, "%llu blocks of contents are used elsewhere and were lost; they read as zeros",
		    (unsigned long long)nwritten);
}

static int losers_tell(struct rebuilder *r, struct list *losers)
{
	struct fix_claim *c = losers->item;
	int err = 0;

	if (losers->n)
		qsort(c, losers->n, sizeof(*c), loser_cmp);
	for (uint64_t i = 0, n; !err && i < losers->n; i += n) {
		for (n = 1; i + n < losers->n && c[i + n].ino == c[i].ino; n++)
			;
		err = losers_note(r, c + i, n);
	}
	return err;
}

int claims_decide(struct rebuilder *r)
{
	struct fix_claim *c = r->claims.item;
	struct list losers = {0};
	uint64_t nwinners = 0;
	int err = 0;

	if (r->claims.n)
		qsort(c, r->claims.n, sizeof(*c), claim_cmp);
	for (uint64_t i = 0; !err && i < r->claims.n; i++) {
		bool first = !i || c[i].blkno != c[i - 1].blkno;

		if (first && !(c[i].score == CLAIM_WRONG && blockset_has(&r->nodes, c[i].blkno))) {
			/* Never behind i, and its block number stays to be compared with. */
			c[nwinners++] = c[i];
			continue;
		}
		struct fix_claim *l = list_add(&losers, sizeof(*l));

		if (l)
			*l = c[i];
		else
			err = -ENOMEM;
	}
	r->claims.n = nwinners;
	if (!err)
		err = losers_tell(r, &losers);
	free(losers.item);
	return err;
}

static bool is_winner(const struct rebuilder *r, uint64_t blkno, uint64_t ino, uint64_t file_block)
{
	const struct fix_claim *c = r->claims.item;
	uint64_t lo = 0, hi = r->claims.n;

	while (lo < hi) {
		uint64_t mid = lo + (hi - lo) / 2;

		if (c[mid].blkno < blkno)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < r->claims.n && c[lo].blkno == blkno && c[lo].ino == ino && c[lo].file_block == file_block;
}

/* --- the result -------------------------------------------------------------------------------- */

/* Blocks [from, to) of the extent as an item of their own. */
static int emit_piece(struct rebuilder *r, const struct cut *x, uint32_t from, uint32_t to)
{
	struct key key = key_make(r->o->ino, ITEM_EXTENT, x->offset + from);
	struct disk_extent ex = {
		.blkno = put64(x->blkno + from),
		.nblocks = put32(to - from),
		.flags = put32(x->written ? 0 : EXTENT_UNWRITTEN),
	};
	size_t ncsum = x->written ? 4 * (size_t)(to - from) : 0;
	uint8_t val[MAX_ITEM];
	uint64_t ndup, first;
	int err = blockset_add(&r->used, x->blkno + from, to - from, &ndup, &first);

	if (err)
		return err;
	/* Two claims to one block have been settled, unless the source tells another story now. */
	if (ndup)
		return -EUCLEAN;
	memcpy(val, &ex, sizeof(ex));
	memcpy(val + sizeof(ex), x->csum + 4 * (size_t)from, ncsum);
	return emit(r, &key, val, (unsigned)(sizeof(ex) + ncsum));
}

static int write_pieces(struct rebuilder *r, struct cut *x)
{
	int err = 0;

	for (uint32_t i = 0; r->have_shared && i < x->n; i++)
		if (bit(x, i) && blockset_has(&r->shared, x->blkno + i))
			bit_put(x->keep, i, is_winner(r, x->blkno + i, r->o->ino, x->offset + i));
	for (uint32_t i = 0, from; !err && i < x->n;) {
		from = i;
		while (i < x->n && bit(x, i))
			i++;
		if (i > from)
			err = emit_piece(r, x, from, i);
		else
			i++;
	}
	return err;
}

int extent_item(struct rebuilder *r, const struct key *key, const void *val, unsigned len)
{
	struct disk_extent ex;
	struct cut x = {.offset = key->offset, .csum = (const uint8_t *)val + sizeof(ex)};

	(void)len;	/* item_check() has compared it */
	memcpy(&ex, val, sizeof(ex));
	x.blkno = get64(ex.blkno);
	x.n = get32(ex.nblocks);
	x.written = !(get32(ex.flags) & EXTENT_UNWRITTEN);
	cut_by_file(r, &x);
	switch (r->pass) {
	case PASS_COLLECT:
		return collect(r, &x);
	case PASS_CLAIM:
		return claim(r, &x);
	default:
		return write_pieces(r, &x);
	}
}
