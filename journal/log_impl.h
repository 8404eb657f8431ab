/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log_impl.h - what log.c, commit.c and log_read.c share, and what their tests look at.
 *
 * A group's life: open (frames are reserved in it) -> closed (its end is known; queued behind older ones) -> in flight (flush and
 * write, or write and flush) -> landed (durable, but perhaps not all before it) -> freed.  Groups lie end to end from durable_lsn to append_lsn: those in flight,
 * the closed ones, the open one, each kind in LSN order.  They are started in that order, and may land in any; durable_lsn rises only with the first.
 */
#ifndef HOLDFAST_JOURNAL_LOG_IMPL_H
#define HOLDFAST_JOURNAL_LOG_IMPL_H

#include "core/lock.h"
#include "journal/log.h"

#define LOG_CHUNK        (256u << 10)
#define LOG_SPARE_CHUNKS 24u		/* kept for the next groups; the rest goes back to malloc */
#define LOG_START_BYTES  (1u << 20)	/* so much not yet durable starts a group without a waiter */
#define LOG_FLYING	 4u		/* groups in flight at a time */
#define LOG_UNFLUSHED_MAX (8u << 20)	/* data of a group that is not flushed before it, and that recovery may have to read */
#define LOG_IO_IOVS      256u		/* iovecs of one dev_io; IOV_MAX is 1024 */
#define LOG_PAYLOAD_MAX  (4u << 20)
#define GROUP_FRAME_BYTES (FRAME_OVERHEAD + (unsigned)sizeof(struct disk_group))

struct log_chunk {
	STAILQ_ENTRY(log_chunk) link;
	uint8_t *bytes;		/* LOG_CHUNK, dev_alloc() */
};
STAILQ_HEAD(log_chunk_list, log_chunk);
STAILQ_HEAD(log_group_list, log_group);
STAILQ_HEAD(log_waiter_list, log_waiter);

/* A place in a group's chunks.  at == LOG_CHUNK stands for the start of the next chunk, which may not exist yet. */
struct log_cursor {
	struct log_chunk *chunk;
	uint32_t at;
};

struct log_group_io {
	struct dev_io io;
	struct log_group *group;
};

struct log_group {
	struct log *log;
	STAILQ_ENTRY(log_group) link;	/* in log->closed, then in log->flying */

	bool landed;		/* under log->lock */
	/* Under log->lock until started; then the leader's alone. */
	uint64_t start, end;	/* LSNs; `end` is aligned once closed */
	unsigned pending;	/* reasons not to write it yet: being open, copies under way, holds */
	bool open;
	bool has_data;		/* some frame names data: a flush is needed */
	uint64_t data_bytes;	/* such data */
	uint64_t frames_end;	/* where the padding begins */
	struct log_cursor fill;	/* at frames_end */

	/* Grown under log->lock.  A copier walks only chunks that its reservation found in place. */
	struct log_chunk_list chunks;
	unsigned nchunks;
	struct iovec *iov;	/* nchunks + 1: the region's end may split one */
	struct log_group_io *io;

	/* The leader's. */
	struct dev_queue *q;
	struct dev_task task;
	unsigned ios_left;
	int err;
};

struct log {
	struct dev *dev;
	struct super sb;
	const struct diag *diag;
	log_failed_fn *failed;
	void *failed_arg;
	uint64_t size;		/* bytes of the region */

	struct lock lock;
	/* All below under lock. */
	_Atomic uint64_t durable_lsn;	/* written under lock; read without by the fast path of log_sync() */
	uint64_t append_lsn;
	uint64_t tail;		/* oldest LSN that recovery still needs: log_trim() */
	struct log_group *open;
	struct log_group_list closed;
	struct log_group_list flying;	/* the first has not landed, unless the log has failed */
	unsigned nflying;
	struct log_waiter_list waiters;	/* all of them wait for more than durable_lsn */
	int error;
	struct log_stats stats;
	struct log_chunk_list spare;
	unsigned nspare;
};

static inline uint64_t region_bytes(const struct super *sb)
{
	return sb->journal_nblocks << BLOCK_SHIFT;
}

/* Device offset of the byte at `lsn`. */
static inline uint64_t region_offset(const struct super *sb, uint64_t lsn)
{
	return (sb->journal_blkno << BLOCK_SHIFT) + lsn % region_bytes(sb);
}

static inline uint32_t region_max_payload(const struct super *sb)
{
	uint64_t quarter = region_bytes(sb) / 4;

	return quarter < LOG_PAYLOAD_MAX ? (uint32_t)quarter : LOG_PAYLOAD_MAX;
}

/* Geometry in range, `lsn` a block boundary with room for laps to come?  LSNs come from a root, so this is no assert. */
int region_check(const struct super *sb, uint64_t lsn, const struct diag *d);

static inline uint64_t block_round_up(uint64_t lsn)
{
	return (lsn + BLOCK_SIZE - 1) & ~(uint64_t)(BLOCK_SIZE - 1);
}

/* --- log.c: groups in memory --- */

/* Where a group with frames up to `frames_end` will end: padding has room for a frame, or is none. */
uint64_t group_closed_end(uint64_t frames_end);

void cursor_write(struct log_cursor *c, const void *bytes, uint64_t n);

/* Encodes a frame at `at`, which moves behind it. */
void group_encode(const struct log *l, struct log_cursor *at, uint64_t lsn, const void *payload,
		  uint32_t len);

/* Keeps some chunks for the next groups.  Under log->lock. */
void group_free_locked(struct log_group *g);

/* --- commit.c --- */

/* Closes the open group; it joins the closed ones.  Under log->lock. */
void commit_close_locked(struct log *l);

/*
 * The group that is to be started now, or NULL: called after whatever may have made one ready, under log->lock; the caller then
 * drops the lock and hands the result to commit_start().  `q`: the caller's own queue.
 */
struct log_group *commit_pick_locked(struct log *l, struct dev_queue *q);
void commit_start(struct log_group *g, struct dev_queue *q);

/* --- log_tail.c --- */

/* What is known at the end of the log; each combination is exactly one row of log_tail_cases. */
#define TAIL_ALIEN  1u	/* stop == FRAME_ALIEN */
#define TAIL_PROOF  2u	/* a group's durable_lsn lies behind the end */
#define TAIL_INSIDE 4u	/* the end is not a group's end */
#define TAIL_TRACE  8u	/* a valid frame of this lap lies behind the end */
#define TAIL_UNREADABLE 16u	/* the frame there reaches into a block that the device cannot read */
#define TAIL_FACTS  32u	/* combinations; TAIL_FACTS - 1: all of them */

struct log_tail_case {
	const char *name;
	unsigned mask, facts;	/* applies if (known & mask) == facts */
	enum log_tail_kind kind;
};
#define LOG_TAIL_CASES 6
extern const struct log_tail_case log_tail_cases[LOG_TAIL_CASES];

#endif
