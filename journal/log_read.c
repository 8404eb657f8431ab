/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log_read.c - reading the log back: recovery, fsck.
 *
 * Every byte is hostile.  Lengths are checked against what may be there before anything is read or summed up; no claim of the
 * device's makes the buffer larger than the largest frame, or the work more than a few passes over the region.
 * A log never extends over more than one lap: LSNs read are in [start, limit).
 *
 * In the buffer lie bytes [buf_lsn, buf_lsn + buf_len) of the endless log; buf_lsn is a block boundary.  A block that the device cannot
 * read is zeros there and is noted: nobody knows whether the log goes on in it, so that is for the tail to judge (log_tail.c).
 */
#include "journal/log_read_impl.h"

#include <stdlib.h>
#include <string.h>

#define READ_BYTES ((uint64_t)1 << 20)

int log_reader_open(struct dev_queue *q, const struct super *sb, uint64_t lsn, struct log_reader **out)
{
	int err = region_check(sb, lsn, q->dev->diag);

	if (err)
		return err;
	if ((sb->journal_blkno + sb->journal_nblocks) > q->dev->size >> BLOCK_SHIFT)
		return corrupt(q->dev->diag, "journal: its region ends behind the device");
	struct log_reader *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->q = q;
	r->sb = *sb;
	r->start = r->lsn = r->group_end = lsn;
	r->limit = lsn + region_bytes(sb);
	*out = r;
	return 0;
}

void log_reader_close(struct log_reader *r)
{
	if (!r)
		return;
	free(r->unreadable);
	free(r->buf);
	free(r->txn);
	free(r);
}

/* --- bytes --- */

static int note_unreadable(struct log_reader *r, uint64_t lsn, uint8_t *buf)
{
	uint64_t block = lsn % region_bytes(&r->sb) / BLOCK_SIZE;

	if (!r->unreadable)
		r->unreadable = calloc(r->sb.journal_nblocks / 8 + 1, 1);
	if (!r->unreadable)
		return -ENOMEM;
	r->nunreadable += !(r->unreadable[block / 8] >> (block % 8) & 1);
	r->unreadable[block / 8] |= (uint8_t)(1u << (block % 8));
	memset(buf, 0, BLOCK_SIZE);
	return 0;
}

bool reader_unreadable(const struct log_reader *r, uint64_t lsn, uint64_t len)
{
	for (uint64_t at = lsn & ~(uint64_t)(BLOCK_SIZE - 1); r->unreadable && at < lsn + len; at += BLOCK_SIZE) {
		uint64_t block = at % region_bytes(&r->sb) / BLOCK_SIZE;

		if (r->unreadable[block / 8] >> (block % 8) & 1)
			return true;
	}
	return false;
}

/* One bad sector fails the whole read.  A device that hardly reads at all is not asked for every single block: each may take seconds. */
static int read_blocks(struct log_reader *r, uint64_t lsn, uint8_t *buf, uint64_t len)
{
	bool patient = r->nunreadable < UNREADABLE_TRIES;
	int err = 0;

	for (uint64_t at = 0; !err && at < len; at += BLOCK_SIZE) {
		err = patient ? dev_read(r->q, region_offset(&r->sb, lsn + at), buf + at, BLOCK_SIZE) : -EIO;
		if (err && err != -ENOMEM)
			err = note_unreadable(r, lsn + at, buf + at);
	}
	return err;
}

/* Whole blocks that do not cross the region's end. */
static int read_run(struct log_reader *r, uint64_t lsn, uint8_t *buf, uint64_t len)
{
	int err = dev_read(r->q, region_offset(&r->sb, lsn), buf, len);

	return err && err != -ENOMEM ? read_blocks(r, lsn, buf, len) : err;
}

static int region_read(struct log_reader *r, uint64_t lsn, uint8_t *buf, uint64_t len)
{
	uint64_t size = region_bytes(&r->sb);
	uint64_t to_end = size - lsn % size;
	uint64_t first = len < to_end ? len : to_end;
	int err = read_run(r, lsn, buf, first);

	if (!err && first < len)
		err = read_run(r, lsn + first, buf + first, len - first);
	return err;
}

static int buffer_grow(struct log_reader *r, uint64_t cap)
{
	if (cap <= r->buf_cap)
		return 0;
	free(r->buf);
	r->buf_cap = r->buf_len = 0;
	r->buf = dev_alloc(cap, false);
	if (!r->buf)
		return -ENOMEM;
	r->buf_cap = cap;
	return 0;
}

int reader_fill(struct log_reader *r, uint64_t lsn, uint64_t need)
{
	assert(lsn >= r->start && lsn <= r->limit && need <= r->limit - lsn);
	if (lsn >= r->buf_lsn && lsn + need <= r->buf_lsn + r->buf_len)
		return 0;
	uint64_t from = lsn & ~(uint64_t)(BLOCK_SIZE - 1);
	uint64_t want = block_round_up(lsn + need) - from;

	want = want < READ_BYTES ? READ_BYTES : want;
	want = want < r->limit - from ? want : r->limit - from;
	int err = buffer_grow(r, want);

	if (err)
		return err;
	r->buf_len = 0;
	err = region_read(r, from, r->buf, want);
	if (err)
		return err;
	r->buf_lsn = from;
	r->buf_len = want;
	return 0;
}

uint64_t reader_claim(const struct log_reader *r, uint64_t lsn)
{
	struct disk_frame f;

	memcpy(&f, reader_at(r, lsn), sizeof(f));
	return get32(f.magic) == FRAME_MAGIC ? (uint64_t)FRAME_OVERHEAD + get32(f.len) : 0;
}

int reader_frame(struct log_reader *r, uint64_t lsn, uint64_t bound, struct frame *out)
{
	uint64_t largest = (uint64_t)FRAME_OVERHEAD + region_max_payload(&r->sb);

	*out = (struct frame){.state = FRAME_SHORT};
	bound = bound < largest ? bound : largest;
	if (bound < FRAME_OVERHEAD)
		return 0;
	int err = reader_fill(r, lsn, FRAME_OVERHEAD);

	if (err)
		return err;
	uint64_t claim = reader_claim(r, lsn);

	if (claim && claim <= bound)
		err = reader_fill(r, lsn, claim);
	if (err)
		return err;
	uint64_t avail = r->buf_lsn + r->buf_len - lsn;

	out->state = frame_decode(&r->sb, lsn, reader_at(r, lsn), avail < bound ? avail : bound, &out->payload,
				  &out->len);
	return 0;
}

/* --- what may stand where --- */

static bool all_zero(const uint8_t *bytes, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		if (bytes[i])
			return false;
	return true;
}

bool reader_group_ok(const struct frame *f, uint64_t lsn, uint64_t limit, struct disk_group *out)
{
	if (f->len != sizeof(*out) || record_type(f) != RECORD_GROUP)
		return false;
	memcpy(out, f->payload, sizeof(*out));
	uint64_t len = get64(out->len);

	return !(out->flags & ~GROUP_ONE_FLUSH) && all_zero(out->pad, sizeof(out->pad)) && get64(out->durable_lsn) <= lsn &&
	       get64(out->durable_lsn) % BLOCK_SIZE == 0 &&
	       len >= BLOCK_SIZE && len % BLOCK_SIZE == 0 && len <= limit - lsn;
}

/* A frame inside a group of which `left` bytes remained in front of it. */
static bool member_ok(const struct frame *f, uint64_t left)
{
	uint64_t behind = left - FRAME_OVERHEAD - f->len;

	if (behind && behind < FRAME_OVERHEAD)
		return false;
	if (f->len == 0)
		return true;
	switch (record_type(f)) {
	case RECORD_TXN:
		return f->len >= sizeof(struct disk_txn);
	case RECORD_PAD:
		return !behind && all_zero((const uint8_t *)f->payload + 1, f->len - 1);
	default:
		return false;
	}
}

void reader_note_proof(struct log_reader *r, const struct disk_group *g)
{
	if (get64(g->durable_lsn) > r->proven)
		r->proven = get64(g->durable_lsn);
}

/* --- frame by frame --- */

/* The frame at r->lsn, if it is valid and may stand there: then the reader has moved behind it. */
static int advance(struct log_reader *r, struct frame *f)
{
	bool head = r->lsn == r->group_end;
	uint64_t bound = (head ? r->limit : r->group_end) - r->lsn;
	struct disk_group g;
	int err = reader_frame(r, r->lsn, bound, f);

	if (err || f->state != FRAME_OK)
		return err;
	if (head ? !reader_group_ok(f, r->lsn, r->limit, &g) : !member_ok(f, bound)) {
		f->state = FRAME_ALIEN;
		return 0;
	}
	if (head) {
		r->group_start = r->lsn;
		r->group_end = r->lsn + get64(g.len);
		r->group_flags = g.flags;
		reader_note_proof(r, &g);
	}
	r->lsn += FRAME_OVERHEAD + f->len;
	return 0;
}

int reader_align(struct log_reader *r, const struct frame *f, const void **payload)
{
	*payload = f->payload;
	if ((uintptr_t)f->payload % 8 == 0)
		return 0;
	if (r->txn_cap < f->len) {
		uint8_t *grown = realloc(r->txn, f->len);

		if (!grown)
			return -ENOMEM;
		r->txn = grown;
		r->txn_cap = f->len;
	}
	memcpy(r->txn, f->payload, f->len);
	*payload = r->txn;
	return 0;
}

unsigned log_reader_group_flags(const struct log_reader *r)
{
	return r->group_flags;
}

uint64_t log_reader_group_start(const struct log_reader *r)
{
	return r->group_start;
}

/*
 * The end of the log is final for a mount: what lies behind is given up.  So what seems to end it is read once more, from the
 * device, in case it was the reading that went wrong.
 */
static int advance_for_sure(struct log_reader *r, struct frame *f)
{
	int err = advance(r, f);

	if (err || f->state == FRAME_OK || f->state == FRAME_SHORT)
		return err;
	r->buf_len = 0;
	return advance(r, f);
}

int log_reader_next(struct log_reader *r, const void **payload, uint32_t *len, uint64_t *end_lsn)
{
	struct frame f;

	while (!r->ended) {
		int err = advance_for_sure(r, &f);

		if (err)
			return err;
		if (f.state != FRAME_OK) {
			r->ended = true;
			r->stop = f.state;
		} else if (record_type(&f) == RECORD_TXN) {
			*len = f.len;
			*end_lsn = r->lsn;
			err = reader_align(r, &f, payload);
			if (err)
				r->lsn -= FRAME_OVERHEAD + f.len;
			return err;
		}
	}
	return -ENOENT;
}
