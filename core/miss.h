/* SPDX-License-Identifier: Apache-2.0 */
/*
 * miss.h - what a lookup lacks.
 *
 * No lock is ever held across device I/O.  So code that runs under the volume's lock and needs a block
 * that is not in memory does not read it: it fills a struct miss, returns -EAGAIN without having
 * changed anything, and the operation's driver drops the lock, provides what is missing (volume.h:
 * volume_provide()) and runs the operation again from its start.  -EAGAIN never leaves the fs layer.
 */
#ifndef HOLDFAST_CORE_MISS_H
#define HOLDFAST_CORE_MISS_H

#include "core/format.h"

enum miss_kind {
	MISS_NONE,
	MISS_NODE,	/* a tree node: ptr, level, lo, hi */
	MISS_BITMAP,	/* a group's bitmap block: group */
	MISS_SPACE,	/* no free blocks, but a checkpoint would give some back */
	MISS_JOURNAL,	/* no room in the journal before a checkpoint */
};

struct miss {
	enum miss_kind kind;
	struct disk_ptr ptr;
	unsigned level;
	struct key lo, hi;	/* keys of the node are in [lo, hi) */
	bool has_hi;
	uint32_t group;
};

#endif
