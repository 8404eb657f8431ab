/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log_tail.c - what lies behind the end of the log, and what that makes of the end.
 */
#include "core/bug.h"
#include "journal/log_read_impl.h"

#include <stdlib.h>
#include <string.h>

/*
 * An alien frame was written whole, to this place, by a program that knew more than we do, and may have been acknowledged: truncating
 * there is not ours to decide.  A proof names an LSN that was durable and cannot be read.  A block that the device does not give us, where
 * the log would go on, may hold anything: a device error is no end.  What is left was never acknowledged, since no
 * group is before all in front of it are durable: then it is only a matter of what to report.
 */
const struct log_tail_case log_tail_cases[LOG_TAIL_CASES] = {
	{"valid but not understood", TAIL_ALIEN, TAIL_ALIEN, LOG_TAIL_DAMAGED},
	{"a later group proves more", TAIL_ALIEN | TAIL_PROOF, TAIL_PROOF, LOG_TAIL_DAMAGED},
	{"cannot be read on", TAIL_ALIEN | TAIL_PROOF | TAIL_UNREADABLE, TAIL_UNREADABLE, LOG_TAIL_UNREADABLE},
	{"ends inside a group", TAIL_ALIEN | TAIL_PROOF | TAIL_UNREADABLE | TAIL_INSIDE, TAIL_INSIDE, LOG_TAIL_TORN},
	{"remains behind a group's end", TAIL_FACTS - 1, TAIL_TRACE, LOG_TAIL_TORN},
	{"nothing behind a group's end", TAIL_FACTS - 1, 0, LOG_TAIL_CLEAN},
};

struct scan {
	uint64_t trace_end;	/* behind the last trace of this lap */
	uint64_t nframes;	/* valid frames with a transaction */
	uint64_t budget;	/* bytes that may yet be summed up */
	log_survivor_fn *fn;	/* may be NULL */
	void *arg;
};

static int survivor(struct log_reader *r, struct scan *s, const struct frame *f, uint64_t end_lsn)
{
	const void *payload;

	if (!s->fn || record_type(f) != RECORD_TXN)
		return 0;
	int err = reader_align(r, f, &payload);

	return err ? err : s->fn(s->arg, payload, f->len, end_lsn);
}

/* The frames of a group of a later lap: its `len` bytes begin at `at` of this lap, and at `lsn` in truth. */
static int scan_later_group(struct log_reader *r, struct scan *s, uint64_t at, uint64_t lsn, uint64_t len)
{
	uint64_t pos = GROUP_FRAME_BYTES;

	len = len < r->limit - at ? len : r->limit - at;
	while (len - pos >= FRAME_OVERHEAD) {
		struct frame f;
		int err = reader_fill(r, at + pos, FRAME_OVERHEAD);
		uint64_t claim = err ? 0 : reader_claim(r, at + pos);

		if (err || claim < FRAME_OVERHEAD || claim > len - pos || claim > s->budget ||
		    claim > (uint64_t)FRAME_OVERHEAD + region_max_payload(&r->sb))
			return err;
		s->budget -= claim;
		err = reader_fill(r, at + pos, claim);
		if (err)
			return err;
		f.state = frame_decode(&r->sb, lsn + pos, reader_at(r, at + pos), claim, &f.payload, &f.len);
		if (f.state != FRAME_OK)
			return 0;
		pos += claim;
		err = survivor(r, s, &f, lsn + pos);
		if (err)
			return err;
	}
	return 0;
}

/*
 * A group of a later lap at the place of `lsn`?  Then the root that made us read here is out of date, and what it
 * proves durable is all the more missing.  Its own LSN is not in it, but close above its durable_lsn: less than a lap.
 */
static int scan_later_lap(struct log_reader *r, struct scan *s, uint64_t at)
{
	struct disk_group g;
	struct frame f;
	const uint8_t *head = reader_at(r, at) + sizeof(struct disk_frame);
	uint64_t size = region_bytes(&r->sb), lsn = at, durable;

	memcpy(&g, head, sizeof(g));
	durable = get64(g.durable_lsn);
	if (durable <= lsn || durable > UINT64_MAX / 2)
		return 0;
	lsn += (durable - lsn + size - 1) / size * size;
	f.state = frame_decode(&r->sb, lsn, head - sizeof(struct disk_frame), GROUP_FRAME_BYTES, &f.payload,
			       &f.len);
	if (f.state != FRAME_OK || !reader_group_ok(&f, lsn, lsn + size, &g))
		return 0;
	reader_note_proof(r, &g);
	return s->fn ? scan_later_group(r, s, at, lsn, get64(g.len)) : 0;
}

/*
 * Looks at `lsn`, where a frame's magic stands with at least FRAME_OVERHEAD bytes to the limit, and sets *next to where
 * to go on.  A group's head at a block boundary is always looked at; other frames while the budget lasts, for a hostile device
 * can begin a large frame at every fourth byte.
 */
static int scan_frame(struct log_reader *r, struct scan *s, uint64_t lsn, uint64_t *next)
{
	uint64_t claim = reader_claim(r, lsn);
	bool head = lsn % BLOCK_SIZE == 0 && claim == GROUP_FRAME_BYTES;
	struct disk_group g;
	struct frame f;

	*next = lsn + 1;
	if (!head && claim > s->budget)
		return 0;
	s->budget -= head ? 0 : claim;
	int err = reader_frame(r, lsn, r->limit - lsn, &f);

	if (err)
		return err;
	if (f.state != FRAME_OK) {
		return head ? scan_later_lap(r, s, lsn) : 0;
	}
	*next = s->trace_end = lsn + claim;
	s->nframes += record_type(&f) == RECORD_TXN;
	if (head && reader_group_ok(&f, lsn, r->limit, &g))
		reader_note_proof(r, &g);
	return survivor(r, s, &f, lsn + claim);
}

static int scan(struct log_reader *r, struct scan *s)
{
	const le32 magic = put32(FRAME_MAGIC);
	uint64_t lsn = r->lsn;

	while (r->limit - lsn >= FRAME_OVERHEAD) {
		int err = reader_fill(r, lsn, FRAME_OVERHEAD);

		if (err)
			return err;
		uint64_t avail = r->buf_lsn + r->buf_len - lsn;
		uint64_t look = avail < BLOCK_SIZE ? avail : BLOCK_SIZE;
		const uint8_t *hit = memmem(reader_at(r, lsn), look, &magic, sizeof(magic));

		if (!hit) {
			/* A magic may begin in the last bytes. */
			lsn += look - (sizeof(magic) - 1);
			continue;
		}
		lsn = r->buf_lsn + (uint64_t)(hit - r->buf);
		if (r->limit - lsn < FRAME_OVERHEAD)
			break;
		err = reader_fill(r, lsn, FRAME_OVERHEAD);
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

/* Does the frame that should stand at the end reach into a block that could not be read? */
static int stopped_at_unreadable(struct log_reader *r, bool *out)
{
	uint64_t bound = r->limit - r->lsn, claim;
	int err;

	*out = false;
	if (bound < FRAME_OVERHEAD)
		return 0;
	err = reader_fill(r, r->lsn, FRAME_OVERHEAD);
	if (err)
		return err;
	claim = reader_claim(r, r->lsn);
	*out = reader_unreadable(r, r->lsn, claim > FRAME_OVERHEAD && claim <= bound ? claim : FRAME_OVERHEAD);
	return 0;
}

int log_reader_tail_each(struct log_reader *r, struct log_tail *out, log_survivor_fn *fn, void *arg)
{
	struct scan s = {.trace_end = r->lsn, .budget = 2 * region_bytes(&r->sb), .fn = fn, .arg = arg};
	bool unreadable, inside = r->lsn != r->group_end;
	unsigned facts;

	assert(r->ended);
	int err = scan(r, &s);

	if (!err)
		err = stopped_at_unreadable(r, &unreadable);
	if (err)
		return err;
	facts = (r->stop == FRAME_ALIEN ? TAIL_ALIEN : 0) | (r->proven > r->lsn ? TAIL_PROOF : 0) |
		(unreadable ? TAIL_UNREADABLE : 0) | (inside ? TAIL_INSIDE : 0) | (s.trace_end > r->lsn ? TAIL_TRACE : 0);
	/* What a group was to hold is lost up to its end, whether or not a valid frame is left there. */
	if (inside && s.trace_end < r->group_end)
		s.trace_end = r->group_end;
	*out = (struct log_tail){
		.kind = classify(BUG(DAMAGE_TAKEN_FOR_TAIL) ? facts & ~TAIL_PROOF : facts),
		.end_lsn = r->lsn,
		.lost_bytes = s.trace_end - r->lsn,
		.lost_frames = s.nframes,
		.proven_lsn = r->proven,
		.lap_end = r->limit,
		.nunreadable = r->nunreadable,
		.stop = r->stop,
	};
	return 0;
}

int log_reader_tail(struct log_reader *r, struct log_tail *out)
{
	return log_reader_tail_each(r, out, NULL, NULL);
}

uint64_t log_restart_lsn(const struct super *sb, const struct log_tail *tail)
{
	uint64_t seen = tail->end_lsn + tail->lost_bytes;

	if (BUG(LAP_JUMP_LEFT_OUT))
		return block_round_up(tail->end_lsn);
	/* What could not be read may have been written up to the end of the lap. */
	if (tail->nunreadable && seen < tail->lap_end)
		seen = tail->lap_end;
	/* A life never writes a whole lap beyond what it knows durable. */
	return block_round_up(seen > tail->proven_lsn ? seen : tail->proven_lsn) + region_bytes(sb);
}
