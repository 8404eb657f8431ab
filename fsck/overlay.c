/* SPDX-License-Identifier: Apache-2.0 */
/*
 * overlay.c - transactions laid over a stream of items.
 *
 * They are not replayed: of each item all operations are kept, in order, and applied when its key comes by.  An operation that does not fit what it
 * meets (it patches an item that is lost) is passed over and told of.  Logged contents of blocks are kept as whole pages, as a mount
 * does; a page counts only if an extent of the result has its checksum.
 *
 * Memory: what the journal holds, and 64 bytes an operation.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "fsck/salvage.h"
#include "journal/txn.h"

struct change {
	struct key key;
	uint64_t seq;
	uint8_t *bytes;		/* OP_PUT, OP_PATCH */
	uint32_t len;
	uint16_t at;
	uint8_t op;
};

struct page {
	uint64_t blkno;		/* UINT64_MAX: none here */
	uint8_t *bytes;		/* NULL: freed since */
	bool matches;		/* an extent of the result has its checksum */
};

struct overlay {
	struct item_source s;
	struct dev_queue *q;
	const struct super *sb;
	struct item_source *base;
	const struct repair_opts *opts;
	struct list changes;	/* struct change; sealed: ascending by key, then seq */
	struct page *page;	/* open addressing; cap_pages is a power of two */
	uint64_t npages, cap_pages;
	uint64_t next_ino, txns;
	bool told;

	uint64_t next_change;
	struct key key;		/* of the base's next item */
	const void *val;
	unsigned len;
	bool have_base, base_over;
	uint8_t out[MAX_ITEM];
};

static struct overlay *self(struct item_source *s)
{
	return (struct overlay *)s;
}

/* --- pages ------------------------------------------------------------------------------------- */

/* Where the page of `blkno` is, or is to be. */
static struct page *page_slot(const struct overlay *o, uint64_t blkno)
{
	uint64_t i = blkno * UINT64_C(0x9e3779b97f4a7c15) & (o->cap_pages - 1);

	while (o->page[i].blkno != UINT64_MAX && o->page[i].blkno != blkno)
		i = (i + 1) & (o->cap_pages - 1);
	return &o->page[i];
}

static struct page *page_find(const struct overlay *o, uint64_t blkno)
{
	struct page *p = o->cap_pages ? page_slot(o, blkno) : NULL;

	return p && p->blkno == blkno && p->bytes ? p : NULL;
}

static int pages_grow(struct overlay *o)
{
	struct overlay bigger = {.cap_pages = o->cap_pages ? 2 * o->cap_pages : 64};

	bigger.page = calloc(bigger.cap_pages, sizeof(bigger.page[0]));
	if (!bigger.page)
		return -ENOMEM;
	for (uint64_t i = 0; i < bigger.cap_pages; i++)
		bigger.page[i].blkno = UINT64_MAX;
	for (uint64_t i = 0; i < o->cap_pages; i++)
		if (o->page[i].blkno != UINT64_MAX)
			*page_slot(&bigger, o->page[i].blkno) = o->page[i];
	free(o->page);
	o->page = bigger.page;
	o->cap_pages = bigger.cap_pages;
	return 0;
}

static int page_get(struct overlay *o, uint64_t blkno, struct page **out)
{
	int err = 2 * o->npages >= o->cap_pages ? pages_grow(o) : 0;

	if (err)
		return err;
	*out = page_slot(o, blkno);
	if ((*out)->blkno == UINT64_MAX) {
		(*out)->blkno = blkno;
		o->npages++;
	}
	return 0;
}

/* What an operation without OP_DATA_FRESH leaves as it is comes from the device; if that cannot be read there is no page. */
static int add_data(struct overlay *o, const struct disk_op *op)
{
	bool fresh = op->type == OP_DATA_FRESH;
	struct page *p;
	int err = page_get(o, get64(op->object), &p);

	if (err)
		return err;
	if (!p->bytes) {
		p->bytes = dev_alloc(BLOCK_SIZE, true);
		if (!p->bytes)
			return -ENOMEM;
		err = fresh ? 0 : dev_read(o->q, p->blkno * BLOCK_SIZE, p->bytes, BLOCK_SIZE);
		if (err) {
			free(p->bytes);
			p->bytes = NULL;
			return err == -ENOMEM ? err : 0;
		}
	}
	if (fresh)
		memset(p->bytes, 0, BLOCK_SIZE);
	memcpy(p->bytes + get16(op->at), op + 1, get32(op->len));
	return 0;
}

static void drop_pages(struct overlay *o, uint64_t blkno, uint64_t n)
{
	for (uint64_t i = 0; i < n && o->npages; i++) {
		struct page *p = page_find(o, blkno + i);

		if (!p)
			continue;
		free(p->bytes);
		p->bytes = NULL;
	}
}

/* --- transactions ------------------------------------------------------------------------------ */

static int add_change(struct overlay *o, const struct disk_op *op)
{
	struct change *c = list_add(&o->changes, sizeof(*c));

	if (!c)
		return -ENOMEM;
	*c = (struct change){
		.key = key_make(get64(op->object), op->type, get64(op->offset)),
		.seq = o->changes.n,
		.len = get32(op->len),
		.at = get16(op->at),
		.op = op->op,
	};
	if (!c->len)
		return 0;
	c->bytes = malloc(c->len);
	if (!c->bytes)
		return -ENOMEM;
	memcpy(c->bytes, op + 1, c->len);
	return 0;
}

static int add_op(struct overlay *o, const struct disk_op *op)
{
	switch (op->op) {
	case OP_PUT:
	case OP_DEL:
	case OP_PATCH:
		return add_change(o, op);
	case OP_FREE:
		drop_pages(o, get64(op->object), get64(op->offset));
		return 0;
	case OP_DATA:
		return add_data(o, op);
	case OP_NEXT_INO:
		if (get64(op->object) > o->next_ino)
			o->next_ino = get64(op->object);
		return 0;
	default:
		return 0;
	}
}

int overlay_add(struct overlay *o, const void *payload, uint32_t len)
{
	/* payload_check() needs a volume only for its geometry, its device's name and where to complain. */
	struct volume v = {.dev = o->q->dev, .diag = o->opts->diag, .sb = *o->sb};
	const struct disk_op *op;
	uint32_t pos = sizeof(struct disk_txn);
	int err = payload_check(&v, payload, len);

	while (!err && (op = payload_next(payload, len, &pos)))
		err = add_op(o, op);
	o->txns += !err;
	return err;
}

void overlay_reset(struct overlay *o)
{
	struct change *c = o->changes.item;

	for (uint64_t i = 0; i < o->changes.n; i++)
		free(c[i].bytes);
	o->changes.n = 0;
	for (uint64_t i = 0; i < o->cap_pages; i++)
		free(o->page[i].bytes);
	free(o->page);
	o->page = NULL;
	o->npages = o->cap_pages = o->txns = 0;
}

static int change_cmp(const void *a, const void *b)
{
	const struct change *x = a, *y = b;
	int cmp = key_cmp(&x->key, &y->key);

	return cmp ? cmp : x->seq < y->seq ? -1 : x->seq > y->seq;
}

void overlay_seal(struct overlay *o)
{
	if (o->changes.n)
		qsort(o->changes.item, o->changes.n, sizeof(struct change), change_cmp);
}

uint64_t overlay_next_ino(const struct overlay *o)
{
	return o->next_ino;
}

uint64_t overlay_txns(const struct overlay *o)
{
	return o->txns;
}

/* --- the stream -------------------------------------------------------------------------------- */

/* The item that is made in o->out. */
struct made {
	unsigned len;
	bool exists;
	bool missing;		/* it was patched, and nobody knows what it was */
};

static void apply(struct overlay *o, const struct change *c, struct made *m)
{
	switch (c->op) {
	case OP_PUT:
		*m = (struct made){.len = c->len, .exists = true};
		if (c->len)
			memcpy(o->out, c->bytes, c->len);
		break;
	case OP_DEL:
		*m = (struct made){0};
		break;
	default:
		if (!m->exists || c->at > m->len) {
			m->missing = true;
			break;
		}
		if (c->len)
			memcpy(o->out + c->at, c->bytes, c->len);
		if (c->at + c->len > m->len)
			m->len = c->at + c->len;
		break;
	}
}

static void tell_missing(struct overlay *o, const struct key *key)
{
	static const char text[] = "a change in the journal is given up, because what it changes is lost";

	if (!o->told && o->opts->note)
		o->opts->note(o->opts->arg,
			      &(struct rebuild_note){.what = REBUILD_LOST, .ino = key->object, .text = text});
}

/* Pages that this extent vouches for. */
static void match_pages(struct overlay *o, const struct key *key, const uint8_t *val, unsigned len)
{
	struct disk_extent ex;

	if (!o->npages || key->type != ITEM_EXTENT || item_check(o->sb, key, val, len, NULL))
		return;
	memcpy(&ex, val, sizeof(ex));
	for (uint32_t i = 0; i < get32(ex.nblocks) && !(get32(ex.flags) & EXTENT_UNWRITTEN); i++) {
		struct page *p = page_find(o, get64(ex.blkno) + i);
		le32 csum;

		memcpy(&csum, val + sizeof(ex) + i * sizeof(csum), sizeof(csum));
		if (p && !p->matches)
			p->matches = crc32c(0, p->bytes, BLOCK_SIZE) == get32(csum);
	}
}

static int base_peek(struct overlay *o)
{
	if (o->have_base || o->base_over)
		return 0;
	int err = o->base->next(o->base, &o->key, &o->val, &o->len);

	o->s.nlost = o->base->nlost;
	o->have_base = !err;
	o->base_over = err == -ENOENT;
	return o->base_over ? 0 : err;
}

/* All changes of the next changed key, over the base's item if it has that key. */
static void make(struct overlay *o, struct key *key, struct made *m)
{
	const struct change *c = o->changes.item;

	*key = c[o->next_change].key;
	*m = (struct made){0};
	if (o->have_base && key_cmp(&o->key, key) == 0) {
		m->exists = o->len <= MAX_ITEM;
		m->len = m->exists ? o->len : 0;
		memcpy(o->out, o->val, m->len);
		o->have_base = false;
	}
	while (o->next_change < o->changes.n && key_cmp(&c[o->next_change].key, key) == 0)
		apply(o, &c[o->next_change++], m);
	if (m->missing)
		tell_missing(o, key);
}

static int overlay_next(struct item_source *s, struct key *key, const void **val, unsigned *len)
{
	struct overlay *o = self(s);
	struct made m = {0};

	do {
		const struct change *c = o->changes.item;
		int err = base_peek(o);

		if (err)
			return err;
		if (o->have_base && (o->next_change == o->changes.n || key_cmp(&o->key, &c[o->next_change].key) < 0)) {
			*key = o->key;
			*val = o->val;
			*len = o->len;
			o->have_base = false;
			match_pages(o, key, *val, *len);
			return 0;
		}
		if (o->next_change == o->changes.n) {
			o->told = true;
			return -ENOENT;
		}
		make(o, key, &m);
	} while (!m.exists);
	*val = o->out;
	*len = m.len;
	match_pages(o, key, o->out, m.len);
	return 0;
}

static int overlay_rewind(struct item_source *s)
{
	struct overlay *o = self(s);

	o->next_change = 0;
	o->have_base = o->base_over = false;
	return o->base->rewind(o->base);
}

static int overlay_keep(struct item_source *s, struct blockset *keep)
{
	return self(s)->base->keep(self(s)->base, keep);
}

static int overlay_data(struct item_source *s, uint64_t blkno, void *block)
{
	const struct page *p = page_find(self(s), blkno);

	if (!p || !p->matches)
		return -ENOENT;
	memcpy(block, p->bytes, BLOCK_SIZE);
	return 0;
}

/* As a checkpoint does, which an interrupted one may have begun already. */
static int overlay_settle(struct item_source *s, const struct blockset *used)
{
	struct overlay *o = self(s);
	int err = 0;

	for (uint64_t i = 0; !err && i < o->cap_pages; i++) {
		const struct page *p = &o->page[i];

		if (p->bytes && p->matches && blockset_has(used, p->blkno))
			err = dev_write(o->q, p->blkno * BLOCK_SIZE, p->bytes, BLOCK_SIZE, 0);
	}
	return err;
}

/* --- life -------------------------------------------------------------------------------------- */

int overlay_create(struct dev_queue *q, const struct super *sb, struct item_source *base, const struct repair_opts *opts,
		   struct overlay **out)
{
	struct overlay *o = calloc(1, sizeof(*o));

	if (!o)
		return -ENOMEM;
	o->s = (struct item_source){
		.next = overlay_next,
		.rewind = overlay_rewind,
		.keep = overlay_keep,
		.data = overlay_data,
		.settle = overlay_settle,
	};
	o->q = q;
	o->sb = sb;
	o->base = base;
	o->opts = opts;
	*out = o;
	return 0;
}

void overlay_free(struct overlay *o)
{
	if (!o)
		return;
	overlay_reset(o);
	free(o->changes.item);
	free(o);
}

struct item_source *overlay_source(struct overlay *o)
{
	return &o->s;
}
