/* SPDX-License-Identifier: Apache-2.0 */
/* meta.c - reads a metadata block from whichever of its two copies is good, and repairs the other. */
#include "core/bug.h"
#include "core/meta.h"

#include <string.h>

static void meta_try(struct meta_read *r);

static void meta_finish(struct meta_read *r, int err)
{
	r->done(r, err);
}

static void meta_repaired(struct dev_io *io, int err)
{
	struct meta_read *r = (struct meta_read *)((char *)io - offsetof(struct meta_read, io));

	if (!err) {
		r->nrepaired++;
		diag(r->q->dev->diag, DIAG_WARNING, "%s: %s at block %llu repaired from its copy at block %llu",
		     r->q->dev->path, r->what, (unsigned long long)r->blkno[0], (unsigned long long)r->blkno[1]);
	}
	/* A copy that cannot be rewritten is no reason not to use the good one. */
	meta_finish(r, 0);
}

static void meta_got(struct dev_io *io, int err)
{
	struct meta_read *r = (struct meta_read *)((char *)io - offsetof(struct meta_read, io));

	if (!err)
		err = r->verify(r, r->blkno[r->copy]);
	if (!err && r->copy == 0) {
		meta_finish(r, 0);
		return;
	}
	if (!err) {
		if (r->no_repair || r->q->dev->read_only) {
			r->bad_copy = true;
			meta_finish(r, 0);
			return;
		}
		dev_io_rw(&r->io, DEV_WRITE, 0, r->blkno[0] * BLOCK_SIZE, r->block, BLOCK_SIZE, meta_repaired);
		dev_submit(r->q, &r->io);
		return;
	}
	if (r->copy == 0)
		r->err0 = err;
	if (r->copy == 0 && !BUG(SECOND_COPY_NOT_TRIED)) {
		r->copy = 1;
		meta_try(r);
		return;
	}
	meta_finish(r, r->err0);
}

static void meta_try(struct meta_read *r)
{
	dev_io_rw(&r->io, DEV_READ, 0, r->blkno[r->copy] * BLOCK_SIZE, r->block, BLOCK_SIZE, meta_got);
	dev_submit(r->q, &r->io);
}

void meta_read_start(struct meta_read *r, struct dev_queue *q)
{
	r->q = q;
	r->copy = 0;
	r->err0 = 0;
	r->nrepaired = 0;
	r->bad_copy = false;
	meta_try(r);
}

/* meta_read has no argument for its owner; the waiting form embeds one. */
struct meta_read_waiting {
	struct meta_read read;
	struct meta_read *orig;
	struct dev_event ev;
	int err;
};

static int waiting_verify(struct meta_read *r, uint64_t blkno)
{
	struct meta_read_waiting *w = (struct meta_read_waiting *)r;

	return w->orig->verify(w->orig, blkno);
}

static void waiting_done(struct meta_read *r, int err)
{
	struct meta_read_waiting *w = (struct meta_read_waiting *)r;

	w->err = err;
	dev_event_set(&w->ev);
}

int meta_read_wait(struct meta_read *r, struct dev_queue *q)
{
	struct meta_read_waiting w = {.read = *r, .orig = r};

	w.read.verify = waiting_verify;
	w.read.done = waiting_done;
	dev_event_init(&w.ev, q);
	meta_read_start(&w.read, q);
	dev_event_wait(&w.ev);
	r->nrepaired = w.read.nrepaired;
	r->bad_copy = w.read.bad_copy;
	return w.err;
}
