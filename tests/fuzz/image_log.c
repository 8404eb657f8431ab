/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image_log.c - edits of the journal: bytes of pending transactions, and transactions that no program would write.
 *
 * New transactions stand behind the pending ones, in groups as the format wants them.  EDIT_OP: what is the operation, then
 *	put, del, patch   the key of item `index`, type `aux` if not 0; len & 1: `value` is the object, & 2: `value` is the offset;
 *	                  & 4: its bytes are that item's value; `offset`: at
 *	alloc, free       the block of object `aux`, number `index`; len & 1: `value` is the block; `offset` blocks
 *	data              the same block; value[0..1] bytes that are all value[2]; len & 2: fresh; `offset`: at
 *	next_ino, others  `value` is the object
 * EDIT_OP_BYTES then changes whatever is wanted.
 */
#include "tests/fuzz/image.h"

#include <stdlib.h>
#include <string.h>

#define PAYLOAD_MAX (120u << 10)
#define MAX_TXNS    64u

struct txn_at {
	uint32_t pos, len;
	uint32_t nops;
	bool new_group, one_flush;
};

struct log_edit {
	struct image *im;
	uint8_t *buf;		/* payloads, one after the other */
	uint32_t used;
	struct txn_at txn[MAX_TXNS];
	unsigned ntxns;
	uint32_t op;		/* where the last operation begins; 0: none */
};

/* --- the region -------------------------------------------------------------------------------- */

static uint64_t region_size(const struct image *im)
{
	return im->base->sb.journal_nblocks * BLOCK_SIZE;
}

static uint64_t region_off(const struct image *im, uint64_t lsn)
{
	return im->base->sb.journal_blkno * BLOCK_SIZE + lsn % region_size(im);
}

static void region_copy(const struct image *im, uint64_t lsn, uint8_t *bytes, uint64_t len, bool write)
{
	while (len) {
		uint64_t n = region_size(im) - lsn % region_size(im);

		n = n < len ? n : len;
		if (write)
			dev_sim_poke(im->dev, region_off(im, lsn), bytes, n);
		else
			dev_sim_peek(im->dev, region_off(im, lsn), bytes, n);
		bytes += n;
		lsn += n;
		len -= n;
	}
}

/* --- pending frames ---------------------------------------------------------------------------- */

static void edit_frame(struct image *im, const struct edit *e, bool fix)
{
	const struct frame_at *at = &im->base->frame[get16(e->index) % im->base->nframes];
	uint32_t len = at->len, pos = get16(e->offset) % len, n = edit_len(e);
	auto_free uint8_t *frame = malloc(len + FRAME_OVERHEAD);

	if (!frame)
		return;
	region_copy(im, at->lsn, frame, len + FRAME_OVERHEAD, false);
	memcpy(frame + sizeof(struct disk_frame) + pos, e->value, n < len - pos ? n : len - pos);
	if (fix) {
		struct disk_frame head = {.magic = put32(FRAME_MAGIC), .len = put32(len)};

		memcpy(frame, &head, sizeof(head));	/* an edit of the block may have changed it */
		le32 crc = put32(frame_crc(&im->sb, at->lsn, (struct disk_frame *)frame, frame + sizeof(struct disk_frame)));

		memcpy(frame + sizeof(struct disk_frame) + len, &crc, sizeof(crc));
	}
	region_copy(im, at->lsn, frame, len + FRAME_OVERHEAD, true);
}

/* --- new transactions -------------------------------------------------------------------------- */

static void *take(struct log_edit *l, uint32_t len)
{
	uint32_t padded = (len + 7) & ~7u;
	void *p = l->buf + l->used;

	if (PAYLOAD_MAX - l->used < padded)
		return NULL;
	l->used += padded;
	memset(p, 0, padded);
	return p;
}

static void txn_close(struct log_edit *l)
{
	if (!l->ntxns)
		return;
	struct txn_at *t = &l->txn[l->ntxns - 1];
	struct disk_txn head = {.type = RECORD_TXN, .nops = put32(t->nops)};

	t->len = l->used - t->pos;
	memcpy(l->buf + t->pos, &head, sizeof(head));
}

static void txn_open(struct log_edit *l, bool new_group)
{
	txn_close(l);
	l->op = 0;
	if (l->ntxns == MAX_TXNS || PAYLOAD_MAX - l->used < sizeof(struct disk_txn))
		return;
	l->txn[l->ntxns++] = (struct txn_at){.pos = l->used, .new_group = new_group};
	take(l, sizeof(struct disk_txn));
}

/* Appends an operation with its bytes. */
static void op_add(struct log_edit *l, struct disk_op op, const void *bytes, uint32_t len, int fill)
{
	if (!l->ntxns)
		txn_open(l, false);
	uint32_t at = l->used;
	uint8_t *p = take(l, (uint32_t)sizeof(op) + len);

	if (!p)
		return;
	op.len = put32(len);
	memcpy(p, &op, sizeof(op));
	if (bytes)
		memcpy(p + sizeof(op), bytes, len);
	else
		memset(p + sizeof(op), fill, len);
	l->op = at;
	l->txn[l->ntxns - 1].nops++;
}

static void edit_op_key(struct log_edit *l, const struct edit *e)
{
	const struct base *b = l->im->base;
	const struct item *it = &b->item[get16(e->index) % b->nitems];
	struct disk_op op = {
		.op = e->what % 8,
		.type = e->aux ? e->aux : it->key.type,
		.at = e->offset,
		.object = put64(e->len & 1 ? edit_value(e) : it->key.object),
		.offset = put64(e->len & 2 ? edit_value(e) : it->key.offset),
	};

	op_add(l, op, it->val, e->len & 4 ? it->len : 0, 0);
}

static void edit_op_blocks(struct log_edit *l, const struct edit *e)
{
	uint64_t blkno[2], v = edit_value(e);
	struct disk_op op = {.op = e->what % 8};
	uint32_t len = 0;

	if (op.op != OP_DATA && e->len & 1)
		blkno[0] = v;
	else if (!image_where(l->im, e->aux, get16(e->index), blkno))
		return;
	op.object = put64(blkno[0]);
	if (op.op == OP_DATA) {
		op.at = e->offset;
		op.type = e->len & 2 ? OP_DATA_FRESH : 0;
		len = (v & 0xffff) % (BLOCK_SIZE + 8);
	} else {
		op.offset = put64(get16(e->offset));
	}
	op_add(l, op, NULL, len, (int)(v >> 16 & 0xff));
}

/* An item's own blocks, if it is an extent, as if they had just been written straight home. */
static void edit_op_home(struct log_edit *l, const struct edit *e)
{
	const struct base *b = l->im->base;
	const struct item *it = &b->item[get16(e->index) % b->nitems];
	struct disk_op op = {
		.op = OP_HOME,
		.object = put64(e->len & 1 ? edit_value(e) : it->key.object),
		.offset = put64(e->len & 2 ? edit_value(e) : it->key.offset),
	};
	struct disk_home home = {.nblocks = put64(get16(e->offset))};

	if (it->len >= sizeof(home.blkno))
		memcpy(&home.blkno, it->val, sizeof(home.blkno));
	op_add(l, op, &home, e->len & 4 ? sizeof(home) - 1 : sizeof(home), 0);
}

static void edit_op(struct log_edit *l, const struct edit *e)
{
	unsigned op = e->what % 8;

	if (op == OP_ALLOC || op == OP_FREE || op == OP_DATA)
		edit_op_blocks(l, e);
	else if (op == OP_PUT || op == OP_DEL || op == OP_PATCH)
		edit_op_key(l, e);
	else if (op == 0 && e->what & 8)
		edit_op_home(l, e);
	else
		op_add(l, (struct disk_op){.op = (uint8_t)op, .object = put64(edit_value(e))}, NULL, 0, 0);
}

/* The last operation is the last thing in the buffer, so it can grow. */
static void edit_op_bytes(struct log_edit *l, const struct edit *e)
{
	uint32_t at = get16(e->offset) % (BLOCK_SIZE + 64), n = edit_len(e);

	if (!l->op)
		return;
	if (l->op + at + n > l->used) {
		uint32_t end = (l->op + at + n + 7) & ~7u;

		if (end > PAYLOAD_MAX)
			return;
		memset(l->buf + l->used, 0, end - l->used);
		l->used = end;
		le32 len = put32(end - l->op - (uint32_t)sizeof(struct disk_op));
		memcpy(l->buf + l->op + offsetof(struct disk_op, len), &len, sizeof(len));
	}
	memcpy(l->buf + l->op + at, e->value, n);
}

static void edit_op_repeat(struct log_edit *l, const struct edit *e)
{
	if (!l->op)
		return;
	uint32_t len = l->used - l->op;

	for (unsigned i = get16(e->index); i && PAYLOAD_MAX - l->used >= len; i--) {
		uint8_t *p = take(l, len);
		le64 object;

		memcpy(p, l->buf + l->op, len);
		memcpy(&object, p + offsetof(struct disk_op, object), sizeof(object));
		object = put64(get64(object) + edit_value(e));
		memcpy(p + offsetof(struct disk_op, object), &object, sizeof(object));
		l->op = (uint32_t)(p - l->buf);
		l->txn[l->ntxns - 1].nops++;
	}
}

/* --- groups ------------------------------------------------------------------------------------ */

static void put_frame(struct image *im, uint64_t *lsn, const void *payload, uint32_t len)
{
	auto_free uint8_t *frame = malloc(len + FRAME_OVERHEAD);

	if (frame) {
		frame_encode(&im->sb, *lsn, payload, len, frame);
		region_copy(im, *lsn, frame, len + FRAME_OVERHEAD, true);
	}
	*lsn += len + FRAME_OVERHEAD;
}

static uint64_t round_up(uint64_t lsn)
{
	return (lsn + BLOCK_SIZE - 1) & ~(uint64_t)(BLOCK_SIZE - 1);
}

static uint64_t group_end(uint64_t frames_end)
{
	uint64_t end = round_up(frames_end);

	return end != frames_end && end - frames_end < FRAME_OVERHEAD ? end + BLOCK_SIZE : end;
}

/* Transactions [from, to) as one group at `lsn`; returns where it ends. */
static uint64_t put_group(struct log_edit *l, uint64_t lsn, unsigned from, unsigned to)
{
	static const uint8_t pad[2 * BLOCK_SIZE] = {RECORD_PAD};
	uint64_t start = lsn, end = lsn + FRAME_OVERHEAD + sizeof(struct disk_group);

	for (unsigned i = from; i < to; i++)
		end += l->txn[i].len + FRAME_OVERHEAD;
	struct disk_group g = {
		.type = RECORD_GROUP,
		.flags = from < to && l->txn[from].one_flush ? GROUP_ONE_FLUSH : 0,
		.durable_lsn = put64(start),
		.len = put64(group_end(end) - start),
	};

	put_frame(l->im, &lsn, &g, sizeof(g));
	for (unsigned i = from; i < to; i++)
		put_frame(l->im, &lsn, l->buf + l->txn[i].pos, l->txn[i].len);
	if (lsn < group_end(end))
		put_frame(l->im, &lsn, pad, (uint32_t)(group_end(end) - lsn - FRAME_OVERHEAD));
	return lsn;
}

static void put_groups(struct log_edit *l)
{
	uint64_t lsn = l->im->base->log_end;
	unsigned from = 0;

	txn_close(l);
	for (unsigned i = 1; i <= l->ntxns; i++) {
		if (i < l->ntxns && !l->txn[i].new_group)
			continue;
		lsn = put_group(l, lsn, from, i);
		from = i;
	}
}

static void log_edit_one(struct log_edit *l, const struct edit *e, bool fix)
{
	switch (e->kind) {
	case EDIT_TXN:
		txn_open(l, e->len & 1);
		if (l->ntxns)
			l->txn[l->ntxns - 1].one_flush = e->len & 2;
		break;
	case EDIT_OP:
		edit_op(l, e);
		break;
	case EDIT_OP_BYTES:
		edit_op_bytes(l, e);
		break;
	case EDIT_OP_REPEAT:
		edit_op_repeat(l, e);
		break;
	case EDIT_FRAME:
		if (l->im->base->nframes)
			edit_frame(l->im, e, fix);
		break;
	}
}

int image_edit_log(struct image *im, const struct input *in)
{
	struct log_edit l = {.im = im};
	auto_free uint8_t *buf = NULL;

	for (unsigned i = 0; i < in->n; i++) {
		const struct edit *e = &in->edit[i];

		if (e->kind < EDIT_TXN || e->kind > EDIT_FRAME)
			continue;
		if (!buf)
			l.buf = buf = malloc(PAYLOAD_MAX);
		if (!buf)
			return -ENOMEM;
		log_edit_one(&l, e, in->head.fix & FIX_SUMS);
	}
	if (l.ntxns)
		put_groups(&l);
	return 0;
}
