/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree_node.c - one slotted page.
 *
 * The layout is canonical at all times (format.h: struct disk_node): values lie packed against the end of the page in slot
 * order.  So inserting, deleting and resizing move all values of the slots behind, which are one piece of memory.
 * Knows nothing of other nodes; callers have made sure of room.
 */
#include "core/tree_impl.h"

#include <string.h>

#define SLOT ((unsigned)sizeof(struct disk_slot))

/* Where the value before slot i begins: slot i's value ends here. */
static unsigned value_end(const struct disk_node *p, unsigned i)
{
	return i == 0 ? BLOCK_SIZE : get16(p->slot[i - 1].pos);
}

/* Moves the values of slots [i, nitems), and data_pos, by `delta` bytes towards the end of the page. */
static void shift_values(struct disk_node *p, unsigned i, int delta)
{
	unsigned n = page_nitems(p), from = get16(p->data_pos), end = value_end(p, i);
	char *base = (char *)p;

	if (delta == 0)
		return;
	memmove(base + (int)from + delta, base + from, end - from);
	for (; i < n; i++)
		p->slot[i].pos = put16((uint16_t)((int)get16(p->slot[i].pos) + delta));
	p->data_pos = put16((uint16_t)((int)from + delta));
}

void page_init(struct disk_node *p, unsigned level)
{
	memset(p, 0, sizeof(*p));
	p->data_pos = put16(BLOCK_SIZE);
	p->level = (uint8_t)level;
}

void page_set_key(struct disk_node *p, unsigned i, const struct key *key)
{
	p->slot[i].object = put64(key->object);
	p->slot[i].offset = put64(key->offset);
	p->slot[i].type = key->type;
}

void page_insert(struct disk_node *p, unsigned i, const struct key *key, const void *val, unsigned len)
{
	unsigned n = page_nitems(p), end = value_end(p, i);

	assert(i <= n && len <= MAX_ITEM && page_used(p) + SLOT + len <= NODE_SPACE);
	shift_values(p, i, -(int)len);
	memmove(&p->slot[i + 1], &p->slot[i], (n - i) * SLOT);
	p->slot[i] = (struct disk_slot){.pos = put16((uint16_t)(end - len)), .len = put16((uint16_t)len)};
	page_set_key(p, i, key);
	if (len)
		memcpy(page_value(p, i), val, len);
	p->nitems = put16((uint16_t)(n + 1));
}

void page_delete(struct disk_node *p, unsigned i)
{
	unsigned n = page_nitems(p), len = page_len(p, i);

	assert(i < n);
	shift_values(p, i + 1, (int)len);
	memmove(&p->slot[i], &p->slot[i + 1], (n - i - 1) * SLOT);
	p->nitems = put16((uint16_t)(n - 1));
}

void page_resize(struct disk_node *p, unsigned i, unsigned len)
{
	unsigned old = page_len(p, i), pos = get16(p->slot[i].pos);
	int delta = (int)old - (int)len;
	char *base = (char *)p;

	assert(i < page_nitems(p) && len <= MAX_ITEM && (int)page_used(p) - delta <= (int)NODE_SPACE);
	/* The value itself moves with those behind it: down first when it grows, up last when it shrinks. */
	if (delta < 0)
		shift_values(p, i + 1, delta);
	memmove(base + (int)pos + delta, base + pos, old < len ? old : len);
	if (delta > 0)
		shift_values(p, i + 1, delta);
	p->slot[i].pos = put16((uint16_t)((int)pos + delta));
	p->slot[i].len = put16((uint16_t)len);
}

void page_append(struct disk_node *dst, const struct disk_node *src, unsigned from)
{
	unsigned nd = page_nitems(dst), ns = page_nitems(src), end = get16(dst->data_pos);
	unsigned begin = get16(src->data_pos), bytes, i;
	int delta;

	if (from == ns)
		return;
	bytes = value_end(src, from) - begin;
	assert(page_used(dst) + bytes + (ns - from) * SLOT <= NODE_SPACE);
	delta = (int)(end - bytes) - (int)begin;
	memcpy((char *)dst + end - bytes, (const char *)src + begin, bytes);
	for (i = from; i < ns; i++) {
		struct disk_slot *s = &dst->slot[nd + i - from];

		*s = src->slot[i];
		s->pos = put16((uint16_t)((int)get16(s->pos) + delta));
	}
	dst->nitems = put16((uint16_t)(nd + ns - from));
	dst->data_pos = put16((uint16_t)(end - bytes));
}

void page_truncate(struct disk_node *p, unsigned from)
{
	p->nitems = put16((uint16_t)from);
	p->data_pos = put16((uint16_t)value_end(p, from));
}

void page_clear_gap(struct disk_node *p)
{
	char *begin = (char *)&p->slot[page_nitems(p)];

	memset(begin, 0, (size_t)((char *)p + get16(p->data_pos) - begin));
}

bool page_in_range(const struct disk_node *p, const struct key *lo, const struct key *hi)
{
	unsigned n = page_nitems(p);
	struct key last;

	if (n == 0)
		return true;
	last = slot_key(&p->slot[n - 1]);
	return !slot_before(&p->slot[0], lo) && (!hi || key_cmp(&last, hi) < 0);
}
