/* SPDX-License-Identifier: Apache-2.0 */
/* rootmap.h - whether a block was in use when a root was made, as its bitmaps have it; read on demand. */
#ifndef HOLDFAST_FSCK_ROOTMAP_H
#define HOLDFAST_FSCK_ROOTMAP_H

#include "core/dev.h"
#include "core/format.h"

enum rootmap_use { ROOTMAP_UNKNOWN, ROOTMAP_FREE, ROOTMAP_USED };

struct rootmap {
	struct dev_queue *q;
	const struct super *sb;
	const struct disk_root *root;	/* NULL: nothing is known */
	uint8_t **group;		/* bitmap blocks by group; NULL: not read yet */
	uint8_t *state;			/* by group */
};

int rootmap_init(struct rootmap *m, struct dev_queue *q, const struct super *sb, const struct disk_root *root);
void rootmap_fini(struct rootmap *m);

/* UNKNOWN also when the bitmap cannot be read, or memory is short. */
enum rootmap_use rootmap_get(struct rootmap *m, uint64_t blkno);

#endif
