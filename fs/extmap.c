/* SPDX-License-Identifier: Apache-2.0 */
/* extmap.c - see extmap.h. */
#include "fs/extmap.h"

#include <stdlib.h>
#include <string.h>

/* --- memory ------------------------------------------------------------------------------------ */

void extmap_init(struct extmap *m, struct fs *fs, uint64_t ino)
{
	*m = (struct extmap){.fs = fs, .ino = ino};
}

void extmap_fini(struct extmap *m)
{
	free(m->old.e);
	free(m->cur.e);
	free(m->pool);
}

static bool map_grow(struct extmap *m, void **array, unsigned need, unsigned *cap, size_t size)
{
	unsigned bigger = *cap ? *cap : 16;
	void *p;

	if (need <= *cap)
		return true;
	while (bigger < need)
		bigger *= 2;
	p = realloc(*array, bigger * size);
	if (!p) {
		m->err = -ENOMEM;
		return false;
	}
	*array = p;
	*cap = bigger;
	return true;
}

static bool vec_room(struct extmap *m, struct extent_vec *v, unsigned need)
{
	return map_grow(m, (void **)&v->e, need, &v->cap, sizeof(*v->e));
}

/* Room for `n` checksums at the pool's end; NULL without memory. */
static uint32_t *pool_add(struct extmap *m, unsigned n, uint32_t *at)
{
	if (!map_grow(m, (void **)&m->pool, m->npool + n, &m->cap_pool, sizeof(*m->pool)))
		return NULL;
	*at = m->npool;
	m->npool += n;
	return m->pool + *at;
}

/* --- loading ----------------------------------------------------------------------------------- */

static int load_item(struct extmap *m, uint64_t file, const void *val, unsigned len)
{
	const struct extent *last = m->old.n ? &m->old.e[m->old.n - 1] : NULL;
	struct extent e = extent_decode(file, val);

	if (len != extent_item_len(&e))
		return inode_corrupt(m->fs, m->ino, "extent of a wrong length");
	if (last && last->file + last->n > file)
		return inode_corrupt(m->fs, m->ino, "extents overlap");
	if (!vec_room(m, &m->old, m->old.n + 1))
		return -ENOMEM;
	if (e.written) {
		uint32_t *csum = pool_add(m, e.n, &e.csum);

		if (!csum)
			return -ENOMEM;
		for (uint32_t i = 0; i < e.n; i++)
			csum[i] = extent_item_csum(val, i);
	}
	m->old.e[m->old.n++] = e;
	return 0;
}

/* Where loading begins: at the last extent that starts before `first`, if there is one. */
static int load_start(struct extmap *m, uint64_t first, struct miss *miss, struct key *start)
{
	struct key found, key;
	const void *val;
	unsigned len;
	int err;

	*start = key_make(m->ino, ITEM_EXTENT, first);
	if (first == 0)
		return 0;
	key = key_make(m->ino, ITEM_EXTENT, first - 1);
	err = tree_seek_back(m->fs->v->tree, &key, miss, &found, &val, &len);
	if (err)
		return err == -ENOENT ? 0 : err;
	if (found.object == m->ino && found.type == ITEM_EXTENT)
		*start = found;
	return 0;
}

int extmap_load(struct extmap *m, uint64_t first, uint64_t end, unsigned max, struct miss *miss)
{
	struct tree *tree = m->fs->v->tree;
	struct tree_cursor c;
	struct key start;
	int err;

	m->old.n = m->cur.n = m->npool = 0;
	m->err = 0;
	m->end = end;
	err = load_start(m, first, miss, &start);
	if (err)
		return err;
	for (err = tree_first(tree, &c, &start, miss); !err; err = tree_next(tree, &c, miss)) {
		if (c.key.object != m->ino || c.key.type != ITEM_EXTENT || c.key.offset > end)
			break;
		if (m->old.n >= max && c.key.offset < end) {
			m->end = c.key.offset;
			break;
		}
		err = load_item(m, c.key.offset, c.val, c.len);
		if (err)
			return err;
	}
	if (err && err != -ENOENT)
		return err;
	if (!vec_room(m, &m->cur, m->old.n))
		return -ENOMEM;
	if (m->old.n)
		memcpy(m->cur.e, m->old.e, m->old.n * sizeof(*m->old.e));
	m->cur.n = m->old.n;
	return 0;
}

/* --- looking ----------------------------------------------------------------------------------- */

/* Index of the first extent that ends behind `block`. */
static unsigned cur_index(const struct extmap *m, uint64_t block)
{
	unsigned lo = 0, hi = m->cur.n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (m->cur.e[mid].file + m->cur.e[mid].n > block)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

const struct extent *extmap_next(const struct extmap *m, uint64_t block)
{
	unsigned i = cur_index(m, block);

	return i < m->cur.n ? &m->cur.e[i] : NULL;
}

const struct extent *extmap_find(const struct extmap *m, uint64_t block)
{
	const struct extent *e = extmap_next(m, block);

	return e && e->file <= block ? e : NULL;
}

const struct extent *extmap_before(const struct extmap *m, uint64_t block)
{
	unsigned i = block ? cur_index(m, block - 1) : 0;

	if (i < m->cur.n && m->cur.e[i].file + m->cur.e[i].n <= block)
		return &m->cur.e[i];
	return i ? &m->cur.e[i - 1] : NULL;
}

/* --- editing ----------------------------------------------------------------------------------- */

/* Replaces extents [lo, hi) of the edited vector by `np` pieces. */
static void splice(struct extmap *m, unsigned lo, unsigned hi, const struct extent *piece, unsigned np)
{
	struct extent_vec *v = &m->cur;

	if (!vec_room(m, v, v->n - (hi - lo) + np))
		return;
	if (v->n > hi)
		memmove(v->e + lo + np, v->e + hi, (v->n - hi) * sizeof(*v->e));
	if (np)
		memcpy(v->e + lo, piece, np * sizeof(*piece));
	v->n = v->n - (hi - lo) + np;
}

/* The part [first, end) of an extent. */
static struct extent extent_part(const struct extent *e, uint64_t first, uint64_t end)
{
	struct extent part = *e;

	part.file = first;
	part.blkno = extent_blkno(e, first);
	part.n = (uint32_t)(end - first);
	part.csum += (uint32_t)(first - e->file);
	part.edited = true;
	return part;
}

void extmap_cut(struct extmap *m, uint64_t first, uint64_t end)
{
	unsigned lo = cur_index(m, first), hi = lo, np = 0;
	struct extent piece[2];

	if (m->err)
		return;
	while (hi < m->cur.n && m->cur.e[hi].file < end)
		hi++;
	if (hi == lo)
		return;
	const struct extent *a = &m->cur.e[lo], *z = &m->cur.e[hi - 1];

	if (a->file < first)
		piece[np++] = extent_part(a, a->file, first);
	if (z->file + z->n > end)
		piece[np++] = extent_part(z, end, z->file + z->n);
	splice(m, lo, hi, piece, np);
}

/* New checksums for blocks of extent e that stay where they are. */
static void set_in_place(struct extmap *m, struct extent *e, uint64_t first, uint64_t n, const uint32_t *csum)
{
	uint32_t at;

	if (!pool_add(m, e->n, &at))
		return;
	memcpy(m->pool + at, m->pool + e->csum, e->n * sizeof(*csum));
	memcpy(m->pool + at + (first - e->file), csum, n * sizeof(*csum));
	e->csum = at;
	e->edited = true;
}

/* At most EXTENT_MAX_BLOCKS, and none of them of two extents. */
static void set_piece(struct extmap *m, uint64_t first, uint32_t n, uint64_t blkno, const uint32_t *csum)
{
	struct extent e = {.file = first, .blkno = blkno, .n = n, .written = csum, .edited = true};

	extmap_cut(m, first, first + n);
	if (csum && !pool_add(m, n, &e.csum))
		return;
	if (csum)
		memcpy(m->pool + e.csum, csum, n * sizeof(*csum));
	unsigned at = cur_index(m, first);
	splice(m, at, at, &e, 1);
}

/* Extents are edited one by one, so that those whose blocks stay keep their bounds. */
void extmap_set(struct extmap *m, uint64_t first, uint64_t n, uint64_t blkno, const uint32_t *csum)
{
	for (uint64_t done = 0, k; done < n && !m->err; done += k) {
		uint64_t block = first + done;
		unsigned i = cur_index(m, block);
		struct extent *e = i < m->cur.n ? &m->cur.e[i] : NULL;
		uint64_t bound = !e ? UINT64_MAX : e->file <= block ? e->file + e->n : e->file;

		k = n - done < EXTENT_MAX_BLOCKS ? n - done : EXTENT_MAX_BLOCKS;
		if (k > bound - block)
			k = bound - block;
		if (csum && e && e->file <= block && e->written && extent_blkno(e, block) == blkno + done)
			set_in_place(m, e, block, k, csum + done);
		else
			set_piece(m, block, (uint32_t)k, blkno + done, csum ? csum + done : NULL);
	}
}

uint64_t extmap_release(struct extmap *m, struct txn *t, uint64_t first, uint64_t end)
{
	uint64_t run = 0, nrun = 0, total = 0;

	for (unsigned i = cur_index(m, first); i < m->cur.n && m->cur.e[i].file < end; i++) {
		const struct extent *e = &m->cur.e[i];
		uint64_t a = e->file > first ? e->file : first;
		uint64_t z = e->file + e->n < end ? e->file + e->n : end;
		uint64_t blkno = extent_blkno(e, a);

		if (nrun && run + nrun != blkno) {
			txn_free(t, run, nrun);
			nrun = 0;
		}
		if (!nrun)
			run = blkno;
		nrun += z - a;
		total += z - a;
	}
	if (nrun)
		txn_free(t, run, nrun);
	extmap_cut(m, first, end);
	return total;
}

/* --- writing back ------------------------------------------------------------------------------ */

static bool can_join(const struct extent *a, const struct extent *b)
{
	return (a->edited || b->edited) && a->written == b->written && a->file + a->n == b->file &&
	       a->blkno + a->n == b->blkno && a->n + b->n <= EXTENT_MAX_BLOCKS;
}

static void join(struct extmap *m, struct extent *a, const struct extent *b)
{
	uint32_t at;

	if (a->written && a->csum + a->n != b->csum) {
		if (!pool_add(m, a->n + b->n, &at))
			return;
		memcpy(m->pool + at, m->pool + a->csum, a->n * sizeof(*m->pool));
		memcpy(m->pool + at + a->n, m->pool + b->csum, b->n * sizeof(*m->pool));
		a->csum = at;
	}
	a->n += b->n;
	a->edited = true;
}

static void merge(struct extmap *m)
{
	struct extent *e = m->cur.e;
	unsigned out = 0;

	for (unsigned i = 0; i < m->cur.n && !m->err; i++) {
		if (out && can_join(&e[out - 1], &e[i]))
			join(m, &e[out - 1], &e[i]);
		else
			e[out++] = e[i];
	}
	m->cur.n = out;
}

static void emit_put(struct extmap *m, struct txn *t, const struct extent *e)
{
	struct {
		struct disk_extent head;
		le32 csum[EXTENT_MAX_BLOCKS];
	} item = {.head = {.blkno = put64(e->blkno), .nblocks = put32(e->n)}};
	struct key key = key_make(m->ino, ITEM_EXTENT, e->file);

	item.head.flags = put32(e->written ? 0 : EXTENT_UNWRITTEN);
	for (uint32_t i = 0; e->written && i < e->n; i++)
		item.csum[i] = put32(m->pool[e->csum + i]);
	txn_put(t, &key, &item, extent_item_len(e));
}

static unsigned op_cost(unsigned len)
{
	return (unsigned)sizeof(struct disk_op) + ((len + 7) & ~7u);
}

/* Checksums [from, to) of the item; NULL `t`: only says what it costs. */
static unsigned patch_csums(struct extmap *m, struct txn *t, const struct extent *e, uint32_t from, uint32_t to)
{
	struct key key = key_make(m->ino, ITEM_EXTENT, e->file);
	le32 csum[EXTENT_MAX_BLOCKS];
	unsigned len = 4 * (to - from);

	if (!t)
		return op_cost(len);
	for (uint32_t i = from; i < to; i++)
		csum[i - from] = put32(m->pool[e->csum + i]);
	txn_patch(t, &key, (unsigned)sizeof(struct disk_extent) + 4 * from, csum, len);
	return op_cost(len);
}

/* Equal words between two changed ones that are cheaper to write again than to skip. */
#define PATCH_GAP 6u

/* What makes `old` into `e`, which begins alike and is at least as long.  `t` as above. */
static unsigned patch_extent(struct extmap *m, struct txn *t, const struct extent *old, const struct extent *e)
{
	struct key key = key_make(m->ino, ITEM_EXTENT, e->file);
	le32 nblocks = put32(e->n);
	unsigned cost = 0;
	uint32_t from = 0, to = 0;

	if (e->n != old->n) {
		cost += op_cost(sizeof(nblocks));
		if (t)
			txn_patch(t, &key, offsetof(struct disk_extent, nblocks), &nblocks, sizeof(nblocks));
	}
	for (uint32_t i = 0; e->written && i < e->n; i++) {
		if (i < old->n && m->pool[old->csum + i] == m->pool[e->csum + i])
			continue;
		if (to && i - to > PATCH_GAP) {
			cost += patch_csums(m, t, e, from, to);
			from = i;
		} else if (!to) {
			from = i;
		}
		to = i + 1;
	}
	return to ? cost + patch_csums(m, t, e, from, to) : cost;
}

static void emit_change(struct extmap *m, struct txn *t, const struct extent *old, const struct extent *e)
{
	unsigned put = op_cost(extent_item_len(e));

	if (old->blkno != e->blkno || old->written != e->written || e->n < old->n ||
	    patch_extent(m, NULL, old, e) > put)
		emit_put(m, t, e);
	else
		patch_extent(m, t, old, e);
}

int extmap_emit(struct extmap *m, struct txn *t)
{
	unsigned o = 0, c = 0;

	if (!m->err)
		merge(m);
	if (m->err)
		return m->err;
	while (o < m->old.n || c < m->cur.n) {
		const struct extent *old = o < m->old.n ? &m->old.e[o] : NULL;
		const struct extent *e = c < m->cur.n ? &m->cur.e[c] : NULL;

		if (old && (!e || old->file < e->file)) {
			struct key key = key_make(m->ino, ITEM_EXTENT, old->file);

			txn_del(t, &key);
			o++;
		} else if (e && (!old || e->file < old->file)) {
			emit_put(m, t, e);
			c++;
		} else {
			if (e->edited)
				emit_change(m, t, old, e);
			o++;
			c++;
		}
	}
	return 0;
}
