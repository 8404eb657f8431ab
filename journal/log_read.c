/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log_read.c - reading the log back: recovery, fsck.
 *
 * Every byte is hostile.  Lengths are checked against what may be there before anything is read or summed up; no claim of the
 * device's makes the buffer larger than the largest frame, or the work more than a few passes over the region.
 * A log never extends over more than one lap: LSNs read are in [start, limit).
 *
 * In the buffer lie bytes [buf_lsn, buf_lsn + buf_len) of the endless log; buf_lsn is a block boundary.
 */
#include "core/bug.h"
#include "journal/log_impl.h"

#include <stdlib.h>
#include <string.h>

#define READ_BYTES ((uint64_t)1 << 20)

struct log_reader {
	struct dev_queue *q;
	struct super sb;
	uint64_t start, limit;
	uint64_t lsn;		/* of the next frame */
	uint64_t group_end;	/* of the group that `lsn` is in; == lsn at a boundary */
	uint64_t proven;	/* highest durable_lsn met */
	bool ended;
	enum frame_state stop;	/* if ended */
	uint8_t *buf;
	uint64_t buf_lsn, buf_len, buf_cap;
	uint8_t *txn;		/* the last one handed out, if it lay badly in buf */
	uint32_t txn_cap;
};

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
	free(r->buf);
	free(r->txn);
	free(r);
}

/* --- bytes --- */

static int region_read(struct log_reader *r, uint64_t lsn, uint8_t *buf, uint64_t len)
{
	uint64_t size = region_bytes(&r->sb);
	uint64_t to_end = size - lsn % size;
	uint64_t first = len < to_end ? len : to_end;
	int err = dev_read(r->q, region_offset(&r->sb, lsn), buf, first);

	if (!err && first < len)
		err = dev_read(r->q, region_offset(&r->sb, lsn + first), buf + first, len - first);
	return err == -ENOMEM ? err : err ? -EIO : 0;
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

/* Makes [lsn, lsn + need) lie in the buffer.  Moves it: pointers into it end. */
static int fill(struct log_reader *r, uint64_t lsn, uint64_t need)
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

static uint8_t *at_lsn(const struct log_reader *r, uint64_t lsn)
{
	return r->buf + (lsn - r->buf_lsn);
}

/* Whole length that the frame at `lsn` claims, as far as the buffer shows its head; 0: no frame's magic there. */
static uint64_t frame_claim(const struct log_reader *r, uint64_t lsn)
{
	struct disk_frame f;

	memcpy(&f, at_lsn(r, lsn), sizeof(f));
	return get32(f.magic) == FRAME_MAGIC ? (uint64_t)FRAME_OVERHEAD + get32(f.len) : 0;
}

struct frame {
	enum frame_state state;
	const void *payload;	/* in the buffer */
	uint32_t len;
};

/* The frame at `lsn`, which has to end within `bound` bytes.  0 or the device's error; out->state is the verdict. */
static int frame_at(struct log_reader *r, uint64_t lsn, uint64_t bound, struct frame *out)
{
	uint64_t largest = (uint64_t)FRAME_OVERHEAD + region_max_payload(&r->sb);

	*out = (struct frame){.state = FRAME_SHORT};
	bound = bound < largest ? bound : largest;
	if (bound < FRAME_OVERHEAD)
		return 0;
	int err = fill(r, lsn, FRAME_OVERHEAD);

	if (err)
		return err;
	uint64_t claim = frame_claim(r, lsn);

	if (claim && claim <= bound)
		err = fill(r, lsn, claim);
	if (err)
		return err;
	uint64_t avail = r->buf_lsn + r->buf_len - lsn;

	out->state = frame_decode(&r->sb, lsn, at_lsn(r, lsn), avail < bound ? avail : bound, &out->payload,
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

static uint8_t record_type(const struct frame *f)
{
	return f->len ? *(const uint8_t *)f->payload : 0;
}

/* A group's head as a writer of this format makes it at `lsn`, of a lap that ends at `limit`? */
static bool group_ok(const struct frame *f, uint64_t lsn, uint64_t limit, struct disk_group *out)
{
	if (f->len != sizeof(*out) || record_type(f) != RECORD_GROUP)
		return false;
	memcpy(out, f->payload, sizeof(*out));
	uint64_t len = get64(out->len);

	return all_zero(out->pad, sizeof(out->pad)) && get64(out->durable_lsn) <= lsn &&
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

static void note_proof(struct log_reader *r, const struct disk_group *g)
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
	int err = frame_at(r, r->lsn, bound, f);

	if (err || f->state != FRAME_OK)
		return err;
	if (head ? !group_ok(f, r->lsn, r->limit, &g) : !member_ok(f, bound)) {
		f->state = FRAME_ALIEN;
		return 0;
	}
	if (head) {
		r->group_end = r->lsn + get64(g.len);
		note_proof(r, &g);
	}
	r->lsn += FRAME_OVERHEAD + f->len;
	return 0;
}

/* Frames have no alignment; the structures in a transaction have. */
static int align_payload(struct log_reader *r, const struct frame *f, const void **payload)
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

int log_reader_next(struct log_reader *r, const void **payload, uint32_t *len, uint64_t *end_lsn)
{
	struct frame f;

	while (!r->ended) {
		int err = advance(r, &f);

		if (err)
			return err;
		if (f.state != FRAME_OK) {
			r->ended = true;
			r->stop = f.state;
		} else if (record_type(&f) == RECORD_TXN) {
			*len = f.len;
			*end_lsn = r->lsn;
			err = align_payload(r, &f, payload);
			if (err)
				r->lsn -= FRAME_OVERHEAD + f.len;
			return err;
		}
	}
	return -ENOENT;
}

/* --- what lies behind the end --- */

/*
 * An alien frame was written whole, to this place, by a program that knew more than we do, and may have been acknowledged: truncating
 * there is not ours to decide.  A proof names an LSN that was durable and cannot be read.  What is left was never
 * acknowledged, since groups become durable in LSN order: then it is only a matter of what to report.
 */
const struct log_tail_case log_tail_cases[LOG_TAIL_CASES] = {
	{"valid but not understood", TAIL_ALIEN, TAIL_ALIEN, LOG_TAIL_DAMAGED},
	{"a later group proves more", TAIL_ALIEN | TAIL_PROOF, TAIL_PROOF, LOG_TAIL_DAMAGED},
	{"ends inside a group", TAIL_ALIEN | TAIL_PROOF | TAIL_INSIDE, TAIL_INSIDE, LOG_TAIL_TORN},
	{"remains behind a group's end", TAIL_FACTS - 1, TAIL_TRACE, LOG_TAIL_TORN},
	{"nothing behind a group's end", TAIL_FACTS - 1, 0, LOG_TAIL_CLEAN},
};

struct scan {
	uint64_t trace_end;	/* behind the last trace of this lap */
	uint64_t nframes;	/* valid frames with a transaction */
	uint64_t budget;	/* bytes that may yet be summed up */
};

/*
 * A group of a later lap at the place of `lsn`?  Then the root that made us read here is out of date, and what it
 * proves durable is all the more missing.  Its own LSN is not in it, but close above its durable_lsn: less than a lap.
 */
static void scan_later_lap(struct log_reader *r, uint64_t lsn)
{
	struct disk_group g;
	struct frame f;
	const uint8_t *head = at_lsn(r, lsn) + sizeof(struct disk_frame);
	uint64_t size = region_bytes(&r->sb), durable;

	memcpy(&g, head, sizeof(g));
	durable = get64(g.durable_lsn);
	if (durable <= lsn || durable > UINT64_MAX / 2)
		return;
	lsn += (durable - lsn + size - 1) / size * size;
	f.state = frame_decode(&r->sb, lsn, head - sizeof(struct disk_frame), GROUP_FRAME_BYTES, &f.payload,
			       &f.len);
	if (f.state == FRAME_OK && group_ok(&f, lsn, lsn + size, &g))
		note_proof(r, &g);
}

/*
 * Looks at `lsn`, where a frame's magic stands with at least FRAME_OVERHEAD bytes to the limit, and sets *next to where
 * to go on.  A group's head at a block boundary is always looked at; other frames while the budget lasts, for a hostile device
 * can begin a large frame at every fourth byte.
 */
static int scan_frame(struct log_reader *r, struct scan *s, uint64_t lsn, uint64_t *next)
{
	uint64_t claim = frame_claim(r, lsn);
	bool head = lsn % BLOCK_SIZE == 0 && claim == GROUP_FRAME_BYTES;
	struct disk_group g;
	struct frame f;

	*next = lsn + 1;
	if (!head && claim > s->budget)
		return 0;
	s->budget -= head ? 0 : claim;
	int err = frame_at(r, lsn, r->limit - lsn, &f);

	if (err)
		return err;
	if (f.state != FRAME_OK) {
		if (head)
			scan_later_lap(r, lsn);
		return 0;
	}
	*next = s->trace_end = lsn + claim;
	s->nframes += record_type(&f) == RECORD_TXN;
	if (head && group_ok(&f, lsn, r->limit, &g))
		note_proof(r, &g);
	return 0;
}

static int scan(struct log_reader *r, struct scan *s)
{
	const le32 magic = put32(FRAME_MAGIC);
	uint64_t lsn = r->lsn;

	while (r->limit - lsn >= FRAME_OVERHEAD) {
		int err = fill(r, lsn, FRAME_OVERHEAD);

		if (err)
			return err;
		uint64_t avail = r->buf_lsn + r->buf_len - lsn;
		uint64_t look = avail < BLOCK_SIZE ? avail : BLOCK_SIZE;
		const uint8_t *hit = memmem(at_lsn(r, lsn), look, &magic, sizeof(magic));

		if (!hit) {
			/* A magic may begin in the last bytes. */
			lsn += look - (sizeof(magic) - 1);
			continue;
		}
		lsn = r->buf_lsn + (uint64_t)(hit - r->buf);
		if (r->limit - lsn < FRAME_OVERHEAD)
			break;
		err = fill(r, lsn, FRAME_OVERHEAD);
		if (!err)
			err = scan_frame(r, s, lsn, &lsn);
		if (err)
			return err;
	}
	return 0;
}

static enum log_tail_kind classify(unsigned facts)
{
	for (unsigned i = 0; i < LOG_TAIL_CASES; i++)
		if ((facts & log_tail_cases[i].mask) == log_tail_cases[i].facts)
			return log_tail_cases[i].kind;
	assert(!"the table covers every combination");
	return LOG_TAIL_DAMAGED;
}

int log_reader_tail(struct log_reader *r, struct log_tail *out)
{
	struct scan s = {.trace_end = r->lsn, .budget = 2 * region_bytes(&r->sb)};
	bool inside = r->lsn != r->group_end;
	unsigned facts;

	assert(r->ended);
	int err = scan(r, &s);

	if (err)
		return err;
	facts = (r->stop == FRAME_ALIEN ? TAIL_ALIEN : 0) | (r->proven > r->lsn ? TAIL_PROOF : 0) |
		(inside ? TAIL_INSIDE : 0) | (s.trace_end > r->lsn ? TAIL_TRACE : 0);
	/* What a group was to hold is lost up to its end, whether or not a valid frame is left there. */
	if (inside && s.trace_end < r->group_end)
		s.trace_end = r->group_end;
	*out = (struct log_tail){
		.kind = BUG(DAMAGE_TAKEN_FOR_TAIL) ? LOG_TAIL_TORN : classify(facts),
		.end_lsn = r->lsn,
		.lost_bytes = s.trace_end - r->lsn,
		.lost_frames = s.nframes,
		.proven_lsn = r->proven,
		.stop = r->stop,
	};
	return 0;
}

uint64_t log_restart_lsn(const struct super *sb, const struct log_tail *tail)
{
	uint64_t seen = tail->end_lsn + tail->lost_bytes;

	if (BUG(LAP_JUMP_LEFT_OUT))
		return block_round_up(tail->end_lsn);
	/* A life never writes a whole lap beyond what it knows durable. */
	return block_round_up(seen > tail->proven_lsn ? seen : tail->proven_lsn) + region_bytes(sb);
}
