/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dirty.h - how much of a mount's data the kernel may hold that was acknowledged but not handed over.
 *
 * A FUSE mount has a strict limit of its own, at first 1 % of what the kernel lets be dirty altogether (vm.dirty_ratio, a share of the
 * memory that happens to be available, or vm.dirty_bytes).  It is only ever lowered here, as a share of the largest amount that
 * may become of that; so it holds whatever memory is in use.
 */
#ifndef HOLDFAST_FS_DIRTY_H
#define HOLDFAST_FS_DIRTY_H

#include <stdbool.h>
#include <stdint.h>

struct dirty_system {
	uint64_t total;		/* bytes that may ever be dirty, of all file systems */
	bool can_limit;		/* we may lower the limit of a mount */
};

#define DIRTY_RATIO_ONE 1000000u /* of max_ratio_fine: all of it */
#define DIRTY_RATIO_MAX 10000u	 /* 1 %: more is never asked for */

/* Reads files: before the sandbox. */
void dirty_look(struct dirty_system *out);

struct dirty_plan {
	uint64_t cached_bytes;	/* for fs_config; 0: what may be dirty is too much for the volume */
	uint32_t ratio;		/* for the mount, of DIRTY_RATIO_ONE; 0: leave it */
};

struct dirty_plan dirty_plan(const struct dirty_system *sys, uint64_t nblocks);

#endif
