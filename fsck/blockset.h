/* SPDX-License-Identifier: Apache-2.0 */
/* blockset.h - a set of block numbers: bitmaps by allocation group, in memory only where something was added. */
#ifndef HOLDFAST_FSCK_BLOCKSET_H
#define HOLDFAST_FSCK_BLOCKSET_H

#include "core/format.h"

struct blockset {
	uint64_t nblocks;
	uint32_t ngroups;
	uint64_t **group;	/* GROUP_WORDS words each, host order; NULL: nothing of this group is in */
};

#define GROUP_WORDS (GROUP_BLOCKS / 64)

int blockset_init(struct blockset *s, const struct super *sb);
void blockset_fini(struct blockset *s);

/* Blocks beyond the volume are never in. */
bool blockset_has(const struct blockset *s, uint64_t blkno);

/* The range lies in the volume.  *ndup: how many were in already, *first_dup the first of them.  -ENOMEM. */
int blockset_add(struct blockset *s, uint64_t blkno, uint64_t n, uint64_t *ndup, uint64_t *first_dup);

/* Adds all of `from`, a set for the same volume. */
int blockset_merge(struct blockset *s, const struct blockset *from);

/* Is any of these blocks in?  The range lies in the volume. */
bool blockset_has_any(const struct blockset *s, uint64_t blkno, uint64_t n);

#endif
