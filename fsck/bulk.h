/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bulk.h - builds a whole tree from items in ascending order: leaves from left to right, and above them the inner levels, with one
 * open node per level.
 *
 * Nodes go to blocks that the caller hands out, both copies, while the next ones are being filled.  Nothing is flushed.
 */
#ifndef HOLDFAST_FSCK_BULK_H
#define HOLDFAST_FSCK_BULK_H

#include "core/dev.h"
#include "core/format.h"

struct bulk;

/* Two free blocks for a node; -ENOSPC. */
typedef int bulk_space_fn(void *arg, uint64_t blkno[2]);

int bulk_open(struct dev_queue *q, const struct super *sb, uint64_t generation, bulk_space_fn *space, void *arg,
	      struct bulk **out);

/* Keys ascend strictly, and item_check() accepts the item.  0, -EIO (also of an earlier write), -ENOSPC. */
int bulk_add(struct bulk *b, const struct key *key, const void *val, unsigned len);

/* Closes the last nodes and waits for all writes.  At least one item was added.  What a root needs to name the tree. */
int bulk_end(struct bulk *b, struct disk_ptr *root, unsigned *level, uint64_t *nnodes);

/* Waits for what is in flight.  b may be NULL. */
void bulk_close(struct bulk *b);

#endif
