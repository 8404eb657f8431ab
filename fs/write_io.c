/* SPDX-License-Identifier: Apache-2.0 */
/*
 * write_io.c - brings direct data of committed writes home, and accounts for what is in flight.
 *
 * Always: a block is in the stage as "in flight" from before the commit that maps it until its write has ended, and the log's
 * hold is given back only after the last of a request's writes: so no reader and no frame ever sees the home without its data.
 */
#include <stdlib.h>
#include <string.h>

#include "core/bug.h"
#include "fs/write_impl.h"

/* The first whole block of the request. */
static unsigned first_whole(const struct write *w)
{
	return wpart_whole(w, 0) ? 0 : 1;
}

static unsigned count_whole(const struct write *w)
{
	unsigned n = w->nblocks - first_whole(w);

	return n && !wpart_whole(w, w->nblocks - 1) ? n - 1 : n;
}

bool write_needs_copy(const struct write *w)
{
	uintptr_t at = (uintptr_t)wpart_bytes(w, first_whole(w));

	return !w->release || at % w->fs->v->dev->mem_align;
}

int write_make_copy(struct write *w)
{
	uint64_t bytes = (uint64_t)count_whole(w) << BLOCK_SHIFT;

	w->copy = dev_alloc(bytes, false);
	if (!w->copy)
		return -ENOMEM;
	memcpy(w->copy, wpart_bytes(w, first_whole(w)), bytes);
	return 0;
}

static const uint8_t *direct_bytes(const struct write *w, unsigned i)
{
	if (!w->copy)
		return wpart_bytes(w, i);
	return w->copy + ((uint64_t)(i - first_whole(w)) << BLOCK_SHIFT);
}

/* Blocks from i on that follow each other and are direct. */
static unsigned run_length(const struct write *w, unsigned i)
{
	unsigned n = 0;

	while (i + n < w->nblocks && w->blk[i + n].direct && w->blk[i + n].blkno == w->blk[i].blkno + n)
		n++;
	return n;
}

static int runs_make(struct write *w)
{
	unsigned n;

	if (!w->run)
		w->run = malloc(w->nblocks * sizeof(*w->run));
	if (!w->run)
		return -ENOMEM;
	w->nruns = 0;
	w->flight = 0;
	for (unsigned i = 0; i < w->nblocks; i += n ? n : 1) {
		n = run_length(w, i);
		if (!n)
			continue;
		w->run[w->nruns++] = (struct wrun){
			.w = w, .blkno = w->blk[i].blkno, .n = n, .bytes = direct_bytes(w, i)};
		w->flight += (uint64_t)n << BLOCK_SHIFT;
	}
	w->hold.bytes = w->flight;
	return 0;
}

static void runs_end(struct write *w, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		stage_flight_end(w->fs->v->stage, w->run[i].blkno, w->run[i].n, w->run[i].bytes);
}

int write_runs_begin(struct write *w)
{
	int err = runs_make(w);

	for (unsigned i = 0; !err && i < w->nruns; i++) {
		err = stage_flight_begin(w->fs->v->stage, w->run[i].blkno, w->run[i].n, w->run[i].bytes);
		if (err)
			runs_end(w, i);
	}
	if (err == -EUCLEAN)
		return inode_corrupt(w->fs, w->ino, "blocks that it is given or owns unwritten have contents already");
	return err;
}

void write_runs_undo(struct write *w)
{
	runs_end(w, w->nruns);
	w->nruns = 0;
}

/* --- after the commit -------------------------------------------------------------------------- */

static void stall_over(struct dev_task *task)
{
	struct write *w = (struct write *)((char *)task - offsetof(struct write, stall.task));

	write_ack(w);
}

void write_runs_committed(struct write *w)
{
	struct fs *fs = w->fs;

	fs->flight_bytes += w->flight;
	w->stalled = fs->flight_bytes > FLIGHT_LIMIT;
	if (!w->stalled)
		return;
	w->stall.q = w->q;
	w->stall.task.run = stall_over;
	STAILQ_INSERT_TAIL(&fs->stalled, &w->stall, link);
}

/* Takes it off the account; whoever waited for that goes on. */
static void flight_over(struct fs *fs, uint64_t bytes)
{
	struct fs_stall_list go = STAILQ_HEAD_INITIALIZER(go);
	struct fs_stall *s;

	volume_lock(fs->v);
	fs->flight_bytes -= bytes;
	if (fs->flight_bytes <= FLIGHT_LIMIT)
		STAILQ_CONCAT(&go, &fs->stalled);
	if (!fs->flight_bytes && fs->idle)
		dev_event_set(fs->idle);
	volume_unlock(fs->v);
	while ((s = STAILQ_FIRST(&go))) {
		STAILQ_REMOVE_HEAD(&go, link);
		dev_post(s->q, &s->task);
	}
}

static void run_done(struct dev_io *io, int err)
{
	struct wrun *run = (struct wrun *)((char *)io - offsetof(struct wrun, io));
	struct write *w = run->w;
	struct volume *v = w->fs->v;

	if (err && !w->err && !BUG(DATA_ERROR_SWALLOWED))
		w->err = err;
	volume_lock(v);
	stage_flight_end(v->stage, run->blkno, run->n, run->bytes);
	volume_unlock(v);
	if (--w->pending)
		return;
	log_release(v->log, w->q, &w->hold, w->err);
	flight_over(w->fs, w->flight);
	write_landed(w);
}

void write_runs_submit(struct write *w)
{
	w->pending = w->nruns;
	for (unsigned i = 0; i < w->nruns; i++) {
		struct wrun *run = &w->run[i];

		dev_io_rw(&run->io, DEV_WRITE, 0, run->blkno << BLOCK_SHIFT, (void *)run->bytes, run->n << BLOCK_SHIFT,
			  run_done);
		dev_submit(w->q, &run->io);
	}
}
