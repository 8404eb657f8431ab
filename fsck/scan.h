/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scan.h - every tree node of this volume that is still on the device, whoever names it, or nobody.
 *
 * Memory: 80 bytes a node found, twice that while the copies are matched.
 */
#ifndef HOLDFAST_FSCK_SCAN_H
#define HOLDFAST_FSCK_SCAN_H

#include "core/dev.h"
#include "fsck/check_impl.h"

struct scan_node {
	uint64_t blkno[2];
	uint64_t generation;
	struct key first, last;	/* of its slots; nitems is not 0 */
	uint32_t csum;
	uint8_t level;
	uint8_t copies;		/* bit c: copy c is good */
};

struct scan {
	struct list nodes;	/* struct scan_node, ascending by blkno[0], blkno[1]; both copies are one */
	uint64_t max_generation;	/* of any metadata block of the volume */
	uint64_t next_ino;	/* above every inode that any leaf knows */
	uint64_t unreadable;	/* blocks */
};

struct scan_opts {
	void (*progress)(void *arg, unsigned pass, uint64_t done, uint64_t total);	/* may be NULL */
	bool (*cancelled)(void *arg);	/* may be NULL */
	void *arg;
};

/* Reads the whole data area, and tables and bitmaps.  -ENOMEM, -ECANCELED; what cannot be read is passed over. */
int scan_device(struct dev_queue *q, const struct super *sb, const struct scan_opts *opts, struct scan *out);
void scan_free(struct scan *s);

/* The node that `ptr` names, or NULL. */
const struct scan_node *scan_find(const struct scan *s, const struct disk_ptr *ptr);
struct disk_ptr scan_ptr(const struct scan_node *n);

/* Reads it again, from a copy that was good.  -EIO if neither is now. */
int scan_read(struct dev_queue *q, const struct super *sb, const struct scan_node *n, void *block);

/* The pass that progress() is told of. */
#define SCAN_PASS 9u

#endif
