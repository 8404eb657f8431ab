/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meta.h - reading metadata blocks, which exist twice.
 *
 * The first copy that its verifier accepts wins; a copy before it that could not be read or did not verify is rewritten
 * from the good one (unless the device is read-only), and a diag line says so.
 */
#ifndef HOLDFAST_CORE_META_H
#define HOLDFAST_CORE_META_H

#include "core/dev.h"
#include "core/format.h"

/* One read in progress; the caller owns it and its `block` (4096 bytes, dev_alloc()) until `done` ran. */
struct meta_read {
	uint64_t blkno[2];
	void *block;
	/* Is `block`, read from `blkno`, the one wanted?  0 or -EUCLEAN; must not block. */
	int (*verify)(struct meta_read *r, uint64_t blkno);
	/* 0: block holds a verified copy.  Else the first copy's error.  Runs in dev_poll(). */
	void (*done)(struct meta_read *r, int err);
	const char *what;	/* for messages: "tree node", ... */
	bool no_repair;
	bool bad_copy;		/* out: copy 0 was not good, and is as it was */
	unsigned nrepaired;	/* out: copies rewritten */

	/* private */
	struct dev_queue *q;
	struct dev_io io;
	unsigned copy;
	int err0;
};

void meta_read_start(struct meta_read *r, struct dev_queue *q);
/* The same, waiting (dev_poll on q).  `done` is not used. */
int meta_read_wait(struct meta_read *r, struct dev_queue *q);

#endif
