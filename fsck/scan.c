/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scan.c - looks at every block for what it says of itself.
 *
 * A node proves what it is without a parent: magic, checksum, the volume's UUID, its own address; and then it must be well-formed.  Only that
 * it is current nobody can see.
 */
#include "fsck/scan.h"

#include <stdlib.h>
#include <string.h>

#define READ_BLOCKS 512u

struct scanner {
	struct dev_queue *q;
	const struct super *sb;
	const struct scan_opts *opts;
	struct scan *out;
	uint8_t *buf;
};

/* --- one block --------------------------------------------------------------------------------- */

static bool keys_ascend(const struct disk_node *n)
{
	for (unsigned i = 1; i < get16(n->nitems); i++) {
		struct key a = slot_key(&n->slot[i - 1]), b = slot_key(&n->slot[i]);

		if (key_cmp(&a, &b) >= 0)
			return false;
	}
	return get16(n->nitems) > 0;
}

static struct disk_ptr own_ptr(const struct disk_node *n)
{
	return (struct disk_ptr){
		.blkno = {n->h.blkno[0], n->h.blkno[1]}, .generation = n->h.generation, .csum = n->h.csum};
}

/* Of a leaf also single items may be wrong: those are for the rules of the rebuild. */
static bool node_ok(const struct super *sb, const struct disk_node *n, uint64_t blkno)
{
	const struct key lowest = key_make(0, 0, 0);
	struct disk_ptr ptr = own_ptr(n);

	if (n->level >= MAX_LEVEL || !ptr_in_range(sb, &ptr) || !get64(ptr.generation))
		return false;
	if (!node_check(n, sb, &ptr, blkno, n->level, &lowest, NULL, NULL))
		return get16(n->nitems) > 0;
	return n->level == 0 && !node_check_form(n, sb, &ptr, blkno, 0, NULL) && keys_ascend(n);
}

static void note_generation(struct scanner *s, uint64_t generation)
{
	if (generation > s->out->max_generation)
		s->out->max_generation = generation;
}

static int take_node(struct scanner *s, const struct disk_node *n, uint64_t blkno)
{
	struct scan_node *node = list_add(&s->out->nodes, sizeof(*node));
	unsigned last = get16(n->nitems) - 1u;

	if (!node)
		return -ENOMEM;
	*node = (struct scan_node){
		.blkno = {get64(n->h.blkno[0]), get64(n->h.blkno[1])},
		.generation = get64(n->h.generation),
		.first = slot_key(&n->slot[0]),
		.last = slot_key(&n->slot[last]),
		.csum = get32(n->h.csum),
		.level = n->level,
		.copies = blkno == get64(n->h.blkno[0]) ? 1 : 2,
	};
	note_generation(s, node->generation);
	/* Numbers are given out in ascending order, so one near the top is no number. */
	if (n->level == 0 && node->last.object >= s->out->next_ino && node->last.object < UINT64_MAX / 2)
		s->out->next_ino = node->last.object + 1;
	return 0;
}

static int look_at(struct scanner *s, const void *block, uint64_t blkno)
{
	const struct disk_header *h = block;

	switch (get32(h->magic)) {
	case MAGIC_NODE:
		return node_ok(s->sb, block, blkno) ? take_node(s, block, blkno) : 0;
	case MAGIC_TABLE:
	case MAGIC_BITMAP:
		if (!header_check(block, get32(h->magic), s->sb, blkno, NULL))
			note_generation(s, get64(h->generation));
		return 0;
	default:
		return 0;
	}
}

/* --- all of them ------------------------------------------------------------------------------- */

/* One bad sector fails the whole read. */
static int scan_blocks(struct scanner *s, uint64_t blkno, uint64_t n)
{
	int err = dev_read(s->q, blkno * BLOCK_SIZE, s->buf, n * BLOCK_SIZE);
	bool one_by_one = err != 0;

	if (err == -ENOMEM)
		return err;
	err = 0;
	for (uint64_t i = 0; !err && i < n; i++) {
		uint8_t *block = s->buf + i * BLOCK_SIZE;

		if (one_by_one && dev_read(s->q, (blkno + i) * BLOCK_SIZE, block, BLOCK_SIZE))
			s->out->unreadable++;
		else
			err = look_at(s, block, blkno + i);
	}
	return err;
}

static int scan_area(struct scanner *s, uint64_t from, uint64_t end)
{
	const struct scan_opts *o = s->opts;
	int err = 0;

	for (uint64_t at = from; !err && at < end; at += READ_BLOCKS) {
		if (o->cancelled && o->cancelled(o->arg))
			return -ECANCELED;
		if (o->progress)
			o->progress(o->arg, SCAN_PASS, at, s->sb->nblocks);
		err = scan_blocks(s, at, end - at < READ_BLOCKS ? end - at : READ_BLOCKS);
	}
	return err;
}

static int node_cmp(const void *a, const void *b)
{
	const struct scan_node *x = a, *y = b;

	for (unsigned i = 0; i < 2; i++)
		if (x->blkno[i] != y->blkno[i])
			return x->blkno[i] < y->blkno[i] ? -1 : 1;
	if (x->generation != y->generation)
		return x->generation < y->generation ? -1 : 1;
	return x->csum < y->csum ? -1 : x->csum > y->csum;
}

static void match_copies(struct list *l)
{
	struct scan_node *n = l->item;
	uint64_t kept = 0;

	if (!l->n)
		return;
	qsort(n, l->n, sizeof(*n), node_cmp);
	for (uint64_t i = 1; i < l->n; i++) {
		if (node_cmp(&n[kept], &n[i]) == 0)
			n[kept].copies |= n[i].copies;
		else
			n[++kept] = n[i];
	}
	l->n = kept + 1;
}

int scan_device(struct dev_queue *q, const struct super *sb, const struct scan_opts *opts, struct scan *out)
{
	struct scanner s = {.q = q, .sb = sb, .opts = opts, .out = out};

	*out = (struct scan){.next_ino = INO_FIRST};
	s.buf = dev_alloc((uint64_t)READ_BLOCKS * BLOCK_SIZE, false);
	int err = s.buf ? 0 : -ENOMEM;

	/* Tables, bitmaps, data, tables, bitmaps: all but the journal in front and the roots behind. */
	if (!err)
		err = scan_area(&s, sb->table_blkno[0], root_blkno(sb, 0, 1));
	free(s.buf);
	if (err)
		scan_free(out);
	else
		match_copies(&out->nodes);
	return err;
}

void scan_free(struct scan *s)
{
	free(s->nodes.item);
	s->nodes = (struct list){0};
}

struct disk_ptr scan_ptr(const struct scan_node *n)
{
	return (struct disk_ptr){
		.blkno = {put64(n->blkno[0]), put64(n->blkno[1])},
		.generation = put64(n->generation),
		.csum = put32(n->csum),
	};
}

const struct scan_node *scan_find(const struct scan *s, const struct disk_ptr *ptr)
{
	const struct scan_node want = {
		.blkno = {get64(ptr->blkno[0]), get64(ptr->blkno[1])},
		.generation = get64(ptr->generation),
		.csum = get32(ptr->csum),
	};

	return s->nodes.n ? bsearch(&want, s->nodes.item, s->nodes.n, sizeof(want), node_cmp) : NULL;
}

int scan_read(struct dev_queue *q, const struct super *sb, const struct scan_node *n, void *block)
{
	struct disk_ptr ptr = scan_ptr(n);

	for (unsigned copy = 0; copy < 2; copy++) {
		if (!(n->copies & 1u << copy))
			continue;
		int err = dev_read(q, n->blkno[copy] * BLOCK_SIZE, block, BLOCK_SIZE);

		if (err == -ENOMEM)
			return err;
		if (!err && !node_check_form(block, sb, &ptr, n->blkno[copy], n->level, NULL))
			return 0;
	}
	return -EIO;
}
