/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source_fill.c - the items below a root; where nodes are lost, those of the newest leaves that the scan has found.
 *
 * A lost leaf's place is known from its parent, and nothing newer than the pointer to it belongs there.  What is left of it
 * is older versions: better than nothing, and said to be so.  Of a lost inner node's leaves the current ones are still there as a rule, but so
 * are older versions and leaves that are gone.  The bitmaps tell them apart: a current leaf's blocks are in use.
 *
 * At each key the best leaf wins: one in use before one that is not, then the newer.  An older one gives only what lies outside the ranges,
 * from first to last key, of all better ones: what a better leaf does not have between two of its keys does not exist.
 *
 * Extents of leaves that may be out of date name blocks that may hold other things by now.  Only blocks that match their checksums
 * are handed out.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/bits.h"
#include "core/crc32c.h"
#include "fsck/salvage.h"

/* Leaves out of date that are told of one by one. */
#define STALE_TOLD 50u

/* A leaf, or the part of it, that may fill keys in [lo, hi). */
struct filler {
	struct key lo, hi;
	const struct scan_node *node;
	uint8_t rank;		/* higher is better */
};
enum { RANK_STALE, RANK_UNKNOWN, RANK_USED };

/* What is taken of a leaf: keys in [lo, hi), disjoint and ascending. */
struct segment {
	struct key lo, hi;
	const struct scan_node *node;
	bool trusted;
};

/* Which blocks of an extent hold what the checksums say. */
struct verdict {
	uint64_t match[BITS_WORDS(EXTENT_MAX_BLOCKS)];
};

struct item {
	struct key key;
	const void *val;
	unsigned len;
};

struct fill_source {
	struct item_source s;
	struct dev_queue *q;
	const struct super *sb;
	struct rootmap *map;
	const struct scan *scan;
	const struct repair_opts *opts;
	struct item_source *walk;
	struct list segments;
	struct fill_stats stats;
	/* struct verdict, in the order of the extents: made in the first pass, which also tells; the blocks of an extent that the rules drop
	 * are free for the new tree, and look different afterwards. */
	struct list verdicts;
	uint64_t next_verdict;
	bool judged;		/* the first pass is over */

	struct item walked;	/* the next one of the walk */
	bool have_walked, walk_over;

	uint64_t next_segment;
	bool in_segment;
	struct disk_node *leaf;	/* of the segment before next_segment; 4096 bytes */
	unsigned slot;
	/* An extent that is handed out in pieces. */
	struct key ext_key;
	struct disk_extent ext;
	uint32_t ext_at;	/* blocks dealt with */
	le32 csum[EXTENT_MAX_BLOCKS];
	uint8_t piece[MAX_ITEM];
	uint8_t *data;		/* EXTENT_MAX_BLOCKS blocks */
	uint64_t match[BITS_WORDS(EXTENT_MAX_BLOCKS)];
};

static struct fill_source *self(struct item_source *s)
{
	return (struct fill_source *)s;
}

static struct key key_next(struct key k)
{
	if (++k.offset == 0 && ++k.type == 0)
		k.object++;
	return k;
}

/* --- choosing leaves --------------------------------------------------------------------------- */

static uint8_t rank_of(struct fill_source *f, const struct scan_node *n)
{
	enum rootmap_use a = rootmap_get(f->map, n->blkno[0]), b = rootmap_get(f->map, n->blkno[1]);

	if (a == ROOTMAP_FREE || b == ROOTMAP_FREE)
		return RANK_STALE;
	return a == ROOTMAP_USED && b == ROOTMAP_USED ? RANK_USED : RANK_UNKNOWN;
}

/* May the leaf stand in for what was lost there? */
static bool may_fill(const struct lost_range *r, const struct scan_node *n, uint8_t rank)
{
	struct key end = key_next(n->last);

	if (n->generation > r->generation || key_cmp(&end, &r->lo) <= 0 || (r->has_hi && key_cmp(&n->first, &r->hi) >= 0))
		return false;
	/* Below a lost inner node current leaves are to be found by themselves. */
	return r->level == 0 || rank != RANK_STALE;
}

static int add_filler(struct list *l, const struct lost_range *r, const struct scan_node *n, uint8_t rank)
{
	struct filler *x = list_add(l, sizeof(*x));
	struct key end = key_next(n->last);

	if (!x)
		return -ENOMEM;
	*x = (struct filler){.lo = n->first, .hi = end, .node = n, .rank = rank};
	if (key_cmp(&x->lo, &r->lo) < 0)
		x->lo = r->lo;
	if (r->has_hi && key_cmp(&r->hi, &x->hi) < 0)
		x->hi = r->hi;
	return 0;
}

/* Index of the first lost range that ends above `key`. */
static uint64_t range_after(const struct list *lost, const struct key *key)
{
	const struct lost_range *r = lost->item;
	uint64_t lo = 0, hi = lost->n;

	while (lo < hi) {
		uint64_t mid = lo + (hi - lo) / 2;

		if (r[mid].has_hi && key_cmp(&r[mid].hi, key) <= 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int collect_fillers(struct fill_source *f, struct list *out)
{
	const struct list *lost = walk_source_lost(f->walk);
	const struct blockset *known = walk_source_nodes(f->walk);
	const struct lost_range *r = lost->item;
	const struct scan_node *n = f->scan->nodes.item;
	int err = 0;

	for (uint64_t i = 0; !err && i < f->scan->nodes.n; i++) {
		if (n[i].level || blockset_has(known, n[i].blkno[0]) || blockset_has(known, n[i].blkno[1]))
			continue;
		uint8_t rank = rank_of(f, &n[i]);

		for (uint64_t k = range_after(lost, &n[i].first); !err && k < lost->n && key_cmp(&r[k].lo, &n[i].last) <= 0; k++)
			if (may_fill(&r[k], &n[i], rank))
				err = add_filler(out, &r[k], &n[i], rank);
	}
	return err;
}

/* --- who wins where ---------------------------------------------------------------------------- */

static bool better(const struct filler *a, const struct filler *b)
{
	if (a->rank != b->rank)
		return a->rank > b->rank;
	if (a->node->generation != b->node->generation)
		return a->node->generation > b->node->generation;
	return a->node->blkno[0] < b->node->blkno[0];
}

static int filler_cmp(const void *a, const void *b)
{
	const struct filler *x = a, *y = b;
	int cmp = key_cmp(&x->lo, &y->lo);

	return cmp ? cmp : better(x, y) ? -1 : better(y, x);
}

/* Those that have begun, the best on top. */
struct heap {
	const struct filler **item;
	uint64_t n;
};

static void heap_push(struct heap *h, const struct filler *x)
{
	uint64_t i = h->n++;

	for (; i && better(x, h->item[(i - 1) / 2]); i = (i - 1) / 2)
		h->item[i] = h->item[(i - 1) / 2];
	h->item[i] = x;
}

static void heap_pop(struct heap *h)
{
	const struct filler *x = h->item[--h->n];
	uint64_t i = 0, child;

	for (; (child = 2 * i + 1) < h->n; i = child) {
		if (child + 1 < h->n && better(h->item[child + 1], h->item[child]))
			child++;
		if (!better(h->item[child], x))
			break;
		h->item[i] = h->item[child];
	}
	h->item[i] = x;
}

static int add_segment(struct fill_source *f, const struct filler *x, const struct key *lo, const struct key *hi)
{
	if (key_cmp(lo, hi) >= 0)
		return 0;
	struct segment *seg = list_add(&f->segments, sizeof(*seg));

	if (!seg)
		return -ENOMEM;
	*seg = (struct segment){.lo = *lo, .hi = *hi, .node = x->node, .trusted = x->rank == RANK_USED};
	f->stats.leaves++;
	f->stats.stale += !seg->trusted;
	return 0;
}

/* `x` in ascending order of lo. */
static int sweep(struct fill_source *f, const struct filler *x, uint64_t n, struct heap *h)
{
	struct key pos = key_make(0, 0, 0);
	uint64_t i = 0;
	int err = 0;

	while (!err && (h->n || i < n)) {
		if (!h->n) {
			if (key_cmp(&pos, &x[i].lo) < 0)
				pos = x[i].lo;
			heap_push(h, &x[i++]);
			continue;
		}
		const struct filler *top = h->item[0];

		if (key_cmp(&top->hi, &pos) <= 0) {
			heap_pop(h);
		} else if (i < n && key_cmp(&x[i].lo, &top->hi) < 0) {
			if (better(&x[i], top)) {
				err = add_segment(f, top, &pos, &x[i].lo);
				if (key_cmp(&pos, &x[i].lo) < 0)
					pos = x[i].lo;
			}
			heap_push(h, &x[i++]);
		} else {
			err = add_segment(f, top, &pos, &top->hi);
			pos = top->hi;
		}
	}
	return err;
}

/* With a root the stale ones are few, and it is known that something newer was there. */
static void tell_stale(const struct fill_source *f)
{
	const struct segment *seg = f->segments.item;
	unsigned told = 0;
	char text[160];

	for (uint64_t i = 0; f->map->root && f->opts->note && i < f->segments.n && told < STALE_TOLD; i++) {
		if (seg[i].trusted)
			continue;
		told++;
		snprintf(text, sizeof(text), "inodes %llu to %llu are as they were at checkpoint %llu, what came later is lost",
			 (unsigned long long)seg[i].lo.object, (unsigned long long)seg[i].hi.object,
			 (unsigned long long)seg[i].node->generation);
		f->opts->note(f->opts->arg, &(struct rebuild_note){.what = REBUILD_LOST, .ino = FSCK_NOWHERE, .text = text});
	}
}

static int choose_leaves(struct fill_source *f)
{
	struct list fillers = {0};
	struct heap h = {0};
	int err = collect_fillers(f, &fillers);

	if (!err && fillers.n) {
		qsort(fillers.item, fillers.n, sizeof(struct filler), filler_cmp);
		h.item = calloc(fillers.n, sizeof(h.item[0]));
		err = h.item ? sweep(f, fillers.item, fillers.n, &h) : -ENOMEM;
	}
	free(h.item);
	free(fillers.item);
	if (!err)
		tell_stale(f);
	return err;
}

/* --- extents that may be out of date ----------------------------------------------------------- */

static uint64_t extent_compare(struct fill_source *f, struct verdict *out)
{
	uint64_t blkno = get64(f->ext.blkno), n = get32(f->ext.nblocks), bad = 0;
	bool whole = !dev_read(f->q, blkno * BLOCK_SIZE, f->data, n * BLOCK_SIZE);

	for (uint64_t i = 0; i < n; i++) {
		uint8_t *block = f->data + i * BLOCK_SIZE;

		if ((whole || !dev_read(f->q, (blkno + i) * BLOCK_SIZE, block, BLOCK_SIZE)) &&
		    crc32c(0, block, BLOCK_SIZE) == get32(f->csum[i]))
			bits_set(out->match, i, i + 1);
		else
			bad++;
	}
	return bad;
}

static void tell_dropped(struct fill_source *f, uint64_t bad)
{
	char text[160];

	f->stats.dropped += bad;
	snprintf(text, sizeof(text), "%llu of %u blocks of contents from byte %llu on are overwritten or damaged, and given up",
		 (unsigned long long)bad, get32(f->ext.nblocks), (unsigned long long)(f->ext_key.offset << BLOCK_SHIFT));
	if (f->opts->note)
		f->opts->note(f->opts->arg,
			      &(struct rebuild_note){.what = REBUILD_LOST, .ino = f->ext_key.object, .text = text});
}

static int extent_verify(struct fill_source *f)
{
	struct verdict *v;

	if (f->judged) {
		v = (struct verdict *)f->verdicts.item + f->next_verdict;
		if (f->next_verdict++ >= f->verdicts.n)
			return -EUCLEAN;	/* a leaf reads differently */
	} else {
		v = list_add(&f->verdicts, sizeof(*v));
		if (!v)
			return -ENOMEM;
		uint64_t bad = extent_compare(f, v);

		if (bad)
			tell_dropped(f, bad);
	}
	memcpy(f->match, v->match, sizeof(f->match));
	return 0;
}

/* An extent of a leaf that is not trusted; one without contents is none. */
static int extent_begin(struct fill_source *f, const struct item *it)
{
	memcpy(&f->ext, it->val, sizeof(f->ext));
	if (get32(f->ext.flags) & EXTENT_UNWRITTEN)
		return 0;
	f->ext_key = it->key;
	f->ext_at = 0;
	memcpy(f->csum, (const uint8_t *)it->val + sizeof(f->ext), it->len - sizeof(f->ext));
	return extent_verify(f);
}

/* The next run of blocks that match. */
static bool extent_piece(struct fill_source *f, struct item *it)
{
	uint32_t n = get32(f->ext.nblocks), from, end;

	for (from = f->ext_at; from < n && !bit_get(f->match, from); from++)
		;
	for (end = from; end < n && bit_get(f->match, end); end++)
		;
	f->ext_at = end;
	if (from == end)
		return false;
	struct disk_extent ex = {.blkno = put64(get64(f->ext.blkno) + from), .nblocks = put32(end - from)};

	memcpy(f->piece, &ex, sizeof(ex));
	memcpy(f->piece + sizeof(ex), &f->csum[from], (end - from) * sizeof(le32));
	*it = (struct item){.key = f->ext_key, .val = f->piece, .len = (unsigned)(sizeof(ex) + (end - from) * sizeof(le32))};
	it->key.offset += from;
	return true;
}

/* --- the items of segments --------------------------------------------------------------------- */

/* The next item of the leaf in the segment's range; false: none. */
static bool leaf_item(struct fill_source *f, const struct segment *seg, struct item *it)
{
	while (f->slot < get16(f->leaf->nitems)) {
		const struct disk_slot *slot = &f->leaf->slot[f->slot++];
		struct key key = slot_key(slot);

		if (key_cmp(&key, &seg->lo) < 0)
			continue;
		if (key_cmp(&key, &seg->hi) >= 0)
			return false;
		*it = (struct item){.key = key, .val = (const uint8_t *)f->leaf + get16(slot->pos), .len = get16(slot->len)};
		return true;
	}
	return false;
}

static int segment_enter(struct fill_source *f)
{
	struct segment *seg = (struct segment *)f->segments.item + f->next_segment++;
	int err = scan_read(f->q, f->sb, seg->node, f->leaf);

	f->slot = 0;
	f->in_segment = !err;
	return err == -EIO ? 0 : err;
}

/* The next item of the segment that comes next, or goes on.  -ENOENT: it has no more. */
static int segment_next(struct fill_source *f, struct item *it)
{
	int err = f->in_segment ? 0 : segment_enter(f);

	while (!err && f->in_segment) {
		const struct segment *seg = (struct segment *)f->segments.item + f->next_segment - 1;

		if (f->ext_at < get32(f->ext.nblocks) && extent_piece(f, it))
			return 0;
		f->ext.nblocks = put32(0);
		if (!leaf_item(f, seg, it)) {
			f->in_segment = false;
			break;
		}
		bool extent = it->key.type == ITEM_EXTENT && !item_check(f->sb, &it->key, it->val, it->len, NULL);

		if (!extent || seg->trusted)
			return 0;
		err = extent_begin(f, it);
	}
	return err ? err : -ENOENT;
}

/* --- both together ----------------------------------------------------------------------------- */

static int walk_peek(struct fill_source *f)
{
	if (f->have_walked || f->walk_over)
		return 0;
	struct item *w = &f->walked;
	int err = f->walk->next(f->walk, &w->key, &w->val, &w->len);

	f->have_walked = !err;
	f->walk_over = err == -ENOENT;
	return f->walk_over ? 0 : err;
}

/* Does the segment that comes next, or goes on, lie before the walk's next item?  Ranges of the two are disjoint. */
static bool segment_is_first(const struct fill_source *f)
{
	const struct segment *seg = f->segments.item;

	if (f->in_segment)
		return true;
	if (f->next_segment == f->segments.n)
		return false;
	return f->walk_over || key_cmp(&seg[f->next_segment].lo, &f->walked.key) < 0;
}

static int next_any(struct fill_source *f, struct item *it)
{
	for (;;) {
		int err = walk_peek(f);

		f->s.nlost = f->walk->nlost;
		if (err)
			return err;
		if (!segment_is_first(f))
			break;
		err = segment_next(f, it);
		if (err != -ENOENT)
			return err;
	}
	if (!f->have_walked) {
		f->judged = true;
		return -ENOENT;
	}
	*it = f->walked;
	f->have_walked = false;
	return 0;
}

static int fill_next(struct item_source *s, struct key *key, const void **val, unsigned *len)
{
	struct item it;
	int err = next_any(self(s), &it);

	if (err)
		return err;
	*key = it.key;
	*val = it.val;
	*len = it.len;
	return 0;
}

static int fill_rewind(struct item_source *s)
{
	struct fill_source *f = self(s);

	f->have_walked = f->walk_over = f->in_segment = false;
	f->next_segment = f->next_verdict = 0;
	if (!f->judged)
		f->verdicts.n = 0;
	f->ext.nblocks = put32(0);
	f->ext_at = 0;
	s->nlost = 0;
	return f->walk->rewind(f->walk);
}

static int fill_keep(struct item_source *s, struct blockset *keep)
{
	struct fill_source *f = self(s);
	const struct segment *seg = f->segments.item;
	int err = f->walk->keep(f->walk, keep);

	for (uint64_t i = 0; !err && i < f->segments.n; i++)
		for (unsigned copy = 0; !err && copy < 2; copy++) {
			uint64_t ndup, first;

			if (seg[i].node->copies & 1u << copy)
				err = blockset_add(keep, seg[i].node->blkno[copy], 1, &ndup, &first);
		}
	return err;
}

/* --- life -------------------------------------------------------------------------------------- */

/* A whole walk, to know what is missing. */
static int walk_all(struct item_source *w)
{
	const void *val;
	struct key key;
	unsigned len;
	int err = w->rewind(w);

	while (!err)
		err = w->next(w, &key, &val, &len);
	return err == -ENOENT ? 0 : err;
}

int fill_source_open(struct dev_queue *q, const struct super *sb, const struct disk_root *root, struct rootmap *map,
		     const struct scan *scan, const struct repair_opts *opts, struct item_source **out)
{
	struct fill_source *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	f->s = (struct item_source){.next = fill_next, .rewind = fill_rewind, .keep = fill_keep};
	f->q = q;
	f->sb = sb;
	f->map = map;
	f->scan = scan;
	f->opts = opts;
	f->leaf = dev_alloc(BLOCK_SIZE, false);
	f->data = dev_alloc((uint64_t)EXTENT_MAX_BLOCKS * BLOCK_SIZE, false);
	int err = f->leaf && f->data ? walk_source_open(q, sb, root, &f->walk) : -ENOMEM;

	if (!err)
		err = walk_all(f->walk);
	if (!err)
		err = choose_leaves(f);
	if (err)
		fill_source_close(&f->s);
	else
		*out = &f->s;
	return err;
}

void fill_source_close(struct item_source *s)
{
	struct fill_source *f = self(s);

	if (!f)
		return;
	walk_source_close(f->walk);
	free(f->segments.item);
	free(f->verdicts.item);
	free(f->leaf);
	free(f->data);
	free(f);
}

const struct fill_stats *fill_source_stats(const struct item_source *s)
{
	return &((const struct fill_source *)s)->stats;
}
