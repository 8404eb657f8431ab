/* SPDX-License-Identifier: Apache-2.0 */
/* log_read_impl.h - the log's reader from inside: shared by log_read.c, which goes forward, and log_tail.c, which looks behind the end. */
#ifndef HOLDFAST_JOURNAL_LOG_READ_IMPL_H
#define HOLDFAST_JOURNAL_LOG_READ_IMPL_H

#include "journal/log_impl.h"

/* Blocks that are tried one by one after a read of many has failed. */
#define UNREADABLE_TRIES 1024u

struct log_reader {
	struct dev_queue *q;
	struct super sb;
	uint64_t start, limit;
	uint64_t lsn;		/* of the next frame */
	uint64_t group_end;	/* of the group that `lsn` is in; == lsn at a boundary */
	uint64_t group_start;	/* of the same */
	uint8_t group_flags;
	uint64_t proven;	/* highest durable_lsn met */
	bool ended;
	enum frame_state stop;	/* if ended */
	uint8_t *buf;
	uint64_t buf_lsn, buf_len, buf_cap;
	uint8_t *unreadable;	/* bit per block of the region: cannot be read.  NULL: none */
	uint64_t nunreadable;
	uint8_t *txn;		/* the last one handed out, if it lay badly in buf */
	uint32_t txn_cap;
};

struct frame {
	enum frame_state state;
	const void *payload;	/* in the buffer */
	uint32_t len;
};

static inline uint8_t record_type(const struct frame *f)
{
	return f->len ? *(const uint8_t *)f->payload : 0;
}

/* Makes [lsn, lsn + need) lie in the buffer.  Moves it: pointers into it end.  -ENOMEM only. */
int reader_fill(struct log_reader *r, uint64_t lsn, uint64_t need);

static inline uint8_t *reader_at(const struct log_reader *r, uint64_t lsn)
{
	return r->buf + (lsn - r->buf_lsn);
}

/* Could any block of [lsn, lsn + len) not be read, as far as it was tried? */
bool reader_unreadable(const struct log_reader *r, uint64_t lsn, uint64_t len);

/* Whole length that the frame at `lsn` claims, as far as the buffer shows its head; 0: no frame's magic there. */
uint64_t reader_claim(const struct log_reader *r, uint64_t lsn);

/* The frame at `lsn`, which has to end within `bound` bytes.  out->state is the verdict.  -ENOMEM. */
int reader_frame(struct log_reader *r, uint64_t lsn, uint64_t bound, struct frame *out);

/* A group's head as a writer of this format makes it at `lsn`, of a lap that ends at `limit`? */
bool reader_group_ok(const struct frame *f, uint64_t lsn, uint64_t limit, struct disk_group *out);

void reader_note_proof(struct log_reader *r, const struct disk_group *g);

/* Frames have no alignment; the structures in a transaction have.  Valid until the next call. */
int reader_align(struct log_reader *r, const struct frame *f, const void **payload);

#endif
