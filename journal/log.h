/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h - the endless log on its circular region: frames, groups, group commit, and reading it back.
 *
 * LSN = byte offset in the endless log; position on the device = LSN mod the region's size.  Frames gather in memory in the open
 * group.  A group is a RECORD_GROUP frame, the frames appended to it, and padding to a block boundary (a RECORD_PAD frame; an empty
 * frame if exactly FRAME_OVERHEAD bytes are left; one block more if fewer), so a block that holds acknowledged
 * frames is never written again.  A few groups are in flight at a time (LOG_FLYING); the next one forms meanwhile.
 *
 * To become durable a group passes: closed -> all its bytes copied -> written as whole blocks with DEV_DURABLE -> so are all before it ->
 * durable_lsn = its end -> waiters.  Frames may name file data that is on its way to its place (struct log_hold): then the group is not
 * written before that has ended.  If it is little data, the frames are written behind it, not durably, and one flush follows for both (GROUP_ONE_FLUSH: after
 * a power cut the frames may be there without the data, and recovery looks, verify.c).  If it is much, that would take long: then the
 * flush comes first.
 *
 * Numbered invariants (log_assert()):
 *   1. tail <= durable <= append; append - tail <= size, and closing the open group always fits.
 *   2. durable_lsn is only ever raised by the completion of a write that covers everything below it.
 *   3. After a failure nothing is written and durable_lsn never moves again.
 *
 * Thread-safe: own lock (rank below the volume's), never held across I/O nor while a callback runs.
 */
#ifndef HOLDFAST_JOURNAL_LOG_H
#define HOLDFAST_JOURNAL_LOG_H

#include "core/dev.h"
#include "core/format.h"

/* --- frames (frame.c): no state --- */

/* CRC of a frame at `lsn`. */
uint32_t frame_crc(const struct super *sb, uint64_t lsn, const struct disk_frame *f, const void *payload);

/* Encodes a whole frame (FRAME_OVERHEAD + len bytes) to `out`. */
void frame_encode(const struct super *sb, uint64_t lsn, const void *payload, uint32_t len, void *out);

enum frame_state {
	FRAME_OK,
	FRAME_SHORT,	/* fewer than FRAME_OVERHEAD bytes are there */
	FRAME_ZERO,	/* zeros where the magic should be */
	FRAME_MAGIC_BAD,
	FRAME_LENGTH,	/* the length leads behind `avail` */
	FRAME_CRC,
	FRAME_ALIEN,	/* valid, but not what may stand there: the reader's verdict, never frame_decode()'s */
};
/* Decodes the frame at `lsn` from `avail` bytes; on FRAME_OK sets *payload (into buf) and *len.  The length is checked
 * against `avail` before the CRC is computed over it. */
enum frame_state frame_decode(const struct super *sb, uint64_t lsn, const void *buf, uint64_t avail,
			      const void **payload, uint32_t *len);

/* --- writing (log.c, commit.c) --- */

struct log;
struct log_group;

/* Keeps the group from being written until the data that one of its frames names is. */
struct log_hold {
	uint64_t bytes;		/* of that data; the caller's to set */
	/* private */
	struct log_group *group;
};

struct log_stats {
	uint64_t appends, append_bytes;
	uint64_t groups, group_bytes;	/* groups made durable */
	uint64_t syncs;			/* log_sync() calls that had to wait */
	uint64_t flushes;		/* of these, groups that named data: each a flush of its own */
	uint64_t one_flush;		/* of these, groups whose frames were written before it */
};

/* The first failure, from then on; called once, without locks, from whatever thread saw it. */
typedef void log_failed_fn(void *arg, int err, const char *what);

/* An empty log whose next byte is `lsn` (a multiple of BLOCK_SIZE) and whose tail is there too. */
int log_create(struct dev *dev, const struct super *sb, uint64_t lsn, const struct diag *diag, log_failed_fn *failed,
	       void *failed_arg, struct log **out);
/* Nothing may be in flight or waiting (log_sync first, or the log has failed and its queues are idle or gone). */
void log_destroy(struct log *l);
/* Serves q until no group's I/O goes through it any more: a failure tells those who wait, but leaves in flight what is. */
void log_drain(struct log *l, struct dev_queue *q);

/* Largest payload that log_append() takes: a quarter of the region, at most 4 MiB. */
uint32_t log_max_payload(const struct log *l);

/*
 * Appends one frame: reserves under the lock, copies and checksums outside it.  No I/O of its own (but if the open group has grown
 * large and fewer than LOG_FLYING are in flight, the group is closed and started on `q`, whose owner must go on polling it).  *end_lsn: sync to that to have it durable.
 * `hold` not NULL: the frame names hold->bytes of data whose writes are yet to be submitted; the caller must log_release() it when they
 * have ended.  -ENOSPC: the region has no room before a trim; -EIO: the log has failed; -EFBIG; -ENOMEM.  Nothing changed then.
 */
int log_append(struct log *l, struct dev_queue *q, const void *payload, uint32_t len, struct log_hold *hold,
	       uint64_t *end_lsn);

/* The held data has been written (err 0), or not: then the log fails.  May start I/O on q. */
void log_release(struct log *l, struct dev_queue *q, struct log_hold *hold, int err);

struct log_waiter {
	uint64_t lsn;
	void (*done)(struct log_waiter *w, int err);	/* any thread, no locks; err: 0 or -EIO */
	/* private */
	STAILQ_ENTRY(log_waiter) link;
	struct dev_queue *q;
};

/*
 * Everything below `lsn` durable?  0: it already is, `done` will not run.  -EIO: failed, likewise.  -EINPROGRESS: `done` will run;
 * the first waiter's queue carries the I/O ("leader"), so its owner must keep polling it.
 */
int log_sync(struct log *l, struct dev_queue *q, uint64_t lsn, struct log_waiter *w);
/* The same, waiting: serves q meanwhile.  Not from a callback, not with a lock held. */
int log_sync_wait(struct log *l, struct dev_queue *q, uint64_t lsn);

/*
 * Ends the open group where it is and returns the append point, now a group boundary: what was appended so far lies below, what
 * comes later at or above.  That is where the replay of a checkpoint frozen at this moment starts.  No I/O; works after a failure.
 */
uint64_t log_seal(struct log *l);

/* A durable root covers everything below `lsn` (a group boundary, durable): that space is free again. */
void log_trim(struct log *l, uint64_t lsn);

uint64_t log_append_lsn(struct log *l);
/* Where the open group begins, or the append point if it is empty: a checkpoint's replay_lsn. */
uint64_t log_group_start(struct log *l);
uint64_t log_durable_lsn(struct log *l);
/* Bytes between tail and append point. */
uint64_t log_used(struct log *l);
uint64_t log_size(const struct log *l);
/* Sticky error (0 or -EIO). */
int log_error(struct log *l);
/* Makes it fail by order (a home write failed, say): waiters get -EIO. */
void log_fail(struct log *l, int err, const char *what);
/* The same without a message, nor telling log_failed_fn: the owner knows. */
void log_stop(struct log *l);
void log_get_stats(struct log *l, struct log_stats *out);
void log_assert(struct log *l);

/* --- reading (log_read.c, log_tail.c): recovery and fsck --- */

struct log_reader;

/* Reads from `lsn` (a group's start) with q; buffers at most what the largest frame needs. */
int log_reader_open(struct dev_queue *q, const struct super *sb, uint64_t lsn, struct log_reader **out);
void log_reader_close(struct log_reader *r);

/*
 * The next frame with a transaction: 0, payload (struct disk_txn first; aligned to 8; valid until the next call), its length, the LSN behind it.
 * Group and padding frames are checked and passed over.  -ENOENT: the first frame that does not validate, or that the device cannot read; see
 * log_reader_tail().  -ENOMEM.
 */
int log_reader_next(struct log_reader *r, const void **payload, uint32_t *len, uint64_t *end_lsn);
/* Of the group that the last transaction is in: GROUP_ONE_FLUSH or 0; where it begins. */
unsigned log_reader_group_flags(const struct log_reader *r);
uint64_t log_reader_group_start(const struct log_reader *r);

enum log_tail_kind {
	LOG_TAIL_CLEAN,		/* the log ends at a group's end with nothing of this lap behind it */
	LOG_TAIL_TORN,		/* remains of writes that were never acknowledged */
	LOG_TAIL_DAMAGED,	/* a later group proves that something lost here was durable */
	LOG_TAIL_UNREADABLE,	/* the device cannot read the block where it would go on; nobody knows whether it does */
};
/* May something acknowledged be lost?  Then nobody goes on from here but on the user's explicit word. */
static inline bool log_tail_refuses(enum log_tail_kind kind)
{
	return kind == LOG_TAIL_DAMAGED || kind == LOG_TAIL_UNREADABLE;
}

struct log_tail {
	enum log_tail_kind kind;
	uint64_t end_lsn;	/* behind the last valid frame */
	uint64_t lost_bytes;	/* TORN, DAMAGED: from there to the last trace of this lap */
	uint64_t lost_frames;	/* whole valid frames among those */
	uint64_t proven_lsn;	/* highest durable_lsn that any valid group of this lap, or a later one, carries */
	uint64_t lap_end;	/* no further was looked */
	uint64_t nunreadable;	/* blocks of the journal that the device could not read, wherever */
	enum frame_state stop;	/* what ended it */
};
/* After -ENOENT: looks at what lies behind, up to one lap.  Which (stop, later valid group, its durable_lsn, unreadable blocks) gives which
 * kind is one table, in log_tail.c.  -ENOMEM. */
int log_reader_tail(struct log_reader *r, struct log_tail *out);

/*
 * The same, and hands out every whole transaction that is found behind the end: payload as from log_reader_next(), which nobody has checked but
 * for its CRC.  Those of this lap are in LSN order; so are those of a later one, but the two are mixed.  A non-zero result ends it.
 */
typedef int log_survivor_fn(void *arg, const void *payload, uint32_t len, uint64_t end_lsn);
int log_reader_tail_each(struct log_reader *r, struct log_tail *out, log_survivor_fn *fn, void *arg);

/*
 * Where the log goes on after a replay that ended so: one lap further, above every LSN that the life before may have
 * written to.  Going on right at end_lsn would reuse LSNs: when then a group is torn, sectors that still hold the former life's
 * frames for the same LSNs would validate in the place of those that were lost.  (A durable root must name it before
 * anything is written there.)
 */
uint64_t log_restart_lsn(const struct super *sb, const struct log_tail *tail);

#endif
