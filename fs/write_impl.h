/* SPDX-License-Identifier: Apache-2.0 */
/*
 * write_impl.h - one write request on its way: shared by write.c (which drives it), write_plan.c (which decides, in a step, what
 * goes where) and write_io.c (which brings data home).  Not for others.
 */
#ifndef HOLDFAST_FS_WRITE_IMPL_H
#define HOLDFAST_FS_WRITE_IMPL_H

#include "fs/data.h"

/* One block that the request touches. */
struct wblock {
	/* before */
	uint64_t old_blkno;	/* 0: a hole */
	uint32_t old_csum;
	bool old_written;
	/* decided */
	bool direct;		/* straight home, in the background; else through the log */
	uint64_t blkno;
	uint32_t csum;		/* of the whole block as it will be */
};

/* Data on its way home: blocks that follow each other in the file and on the device. */
struct wrun {
	struct dev_io io;
	struct write *w;
	uint64_t blkno, n;
	const uint8_t *bytes;
};

struct write {
	struct fs *fs;
	struct dev_queue *q;
	struct fs_io *io;
	void (*done)(struct fs_io *io);
	void (*release)(struct fs_io *io);
	uint64_t ino, off, len;	/* len: what is left of the request, when space is short */
	const uint8_t *buf;
	uint64_t first;		/* file block */
	unsigned nblocks;
	struct wblock *blk;
	bool cached;		/* fs_io's */
	bool in_place;		/* overwrite through the log, whatever the size: there is no room for anything else */
	bool owned;		/* nor for more of the tree: only blocks that the file has, and see fill_beside() */
	uint64_t nfilled;	/* blocks that it gave zeros */
	uint8_t *copy;		/* of the whole blocks, where the caller's memory will not do */
	struct extmap map;
	struct base_set base;
	struct dev_io base_io;
	struct provide provide;

	struct wrun *run;
	unsigned nruns, pending;
	uint64_t flight;	/* bytes in `run` */
	struct log_hold hold;
	int err;		/* of data on its way home */
	struct fs_stall stall;
	bool stalled;		/* `done` waits until less is in flight */
	bool acked, landed;
	uint64_t lsn;
};

/* The step (write_plan.c).  Besides what data.h says, -ENOBUFS: needs w->copy. */
int write_step(struct write *w, struct miss *miss);

/* The part of block i that the request covers: where it begins in the block, its length, its bytes. */
static inline unsigned wpart_at(const struct write *w, unsigned i)
{
	return i ? 0 : (unsigned)(w->off & (BLOCK_SIZE - 1));
}

static inline unsigned wpart_len(const struct write *w, unsigned i)
{
	uint64_t end = w->off + w->len - ((w->first + i) << BLOCK_SHIFT);

	return (end < BLOCK_SIZE ? (unsigned)end : BLOCK_SIZE) - wpart_at(w, i);
}

static inline const uint8_t *wpart_bytes(const struct write *w, unsigned i)
{
	return i ? w->buf + (((w->first + i) << BLOCK_SHIFT) - w->off) : w->buf;
}

static inline bool wpart_whole(const struct write *w, unsigned i)
{
	return wpart_len(w, i) == BLOCK_SIZE;
}

/* --- write_io.c --- */

/* Must whole blocks be copied before they can be written home? */
bool write_needs_copy(const struct write *w);
int write_make_copy(struct write *w);

/* In the step, before the commit: makes w->run of the direct blocks and lets readers see them.  -ENOMEM, -EUCLEAN: nothing
 * changed. */
int write_runs_begin(struct write *w);
/* The commit failed. */
void write_runs_undo(struct write *w);
/* Under the lock, after the commit: accounts; sets w->stalled. */
void write_runs_committed(struct write *w);
/* Without the lock.  In the end calls write_landed() (write.c), on q's thread. */
void write_runs_submit(struct write *w);

/* Nothing of the request is on its way any more. */
void write_landed(struct write *w);
/* `done` may run now. */
void write_ack(struct write *w);

#endif
