/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub.h - reads all of an open volume and verifies every checksum, while it is in use.
 *
 * Superblocks, roots, tables, bitmaps and tree nodes are read in both copies, also where the first is good; a bad copy is rewritten from
 * the good one, read back, and verified.  File contents have one copy: what is lost is reported with the file's name.  The journal is not
 * looked at: it is read only after a crash, and classified then.
 *
 * Works beside any operation and checkpoint (see scrub.c for how), on a volume that is read-only or has failed too, and needs
 * no kernel.  A scrub is one thread's, with a queue of its own.
 */
#ifndef HOLDFAST_FS_SCRUB_H
#define HOLDFAST_FS_SCRUB_H

#include "fs/fs.h"

enum scrub_kind {
	SCRUB_COPY, /* one copy of metadata; the other is good */
	SCRUB_META, /* metadata in all copies */
	SCRUB_DATA, /* contents of a file */
};

struct scrub_finding {
	enum scrub_kind kind;
	bool repaired;
	const char *text; /* one line: what, where */
	uint64_t blkno; /* the first one */
	uint64_t ino, off, len; /* SCRUB_DATA: which bytes of which file */
	const char *path; /* SCRUB_DATA: from the volume's root; NULL: unknown, or removed meanwhile */
};

struct scrub_result {
	uint64_t done, total; /* bytes; `total` is what was in use at the beginning */
	uint64_t meta_blocks, data_blocks; /* verified */
	uint64_t bad_copies; /* of metadata whose other copy was good */
	uint64_t repaired; /* blocks of metadata rewritten */
	uint64_t lost_meta; /* blocks of metadata with no good copy */
	uint64_t lost_data; /* blocks of file contents */
	uint64_t lost_files; /* with names or without */
};

struct scrub_config {
	bool no_repair;
	uint64_t rate; /* bytes per second at most; 0: as fast as the device */
	/* Asked often, with no lock held and nothing pinned: the callee may use the volume.  True: stop.  NULL: never. */
	bool (*cancelled)(void *arg);
	/* Strings end with the call.  Files come last.  A root may be held: must not wait for a checkpoint. */
	void (*found)(void *arg, const struct scrub_finding *f);
	void (*progress)(void *arg, const struct scrub_result *so_far); /* NULL: nobody looks */
	/* NULL: the monotonic clock.  `wait` returns after `ms`, or earlier; it serves the queue. */
	uint64_t (*now_ms)(void *arg);
	void (*wait)(void *arg, struct dev_queue *q, unsigned ms);
	void *arg;
};

/* Nothing is left to be mended or mourned. */
static inline bool scrub_is_clean(const struct scrub_result *r)
{
	return r->bad_copies <= r->repaired && !r->lost_meta && !r->lost_data;
}

/* 0: everything was looked at, *out says how it is.  -ECANCELED, -ENOMEM, -EIO (no root to start from): *out is what came until then. */
int scrub_run(struct fs *fs, struct dev_queue *q, const struct scrub_config *cfg, struct scrub_result *out);

#endif
