/* SPDX-License-Identifier: Apache-2.0 */
/* paths.h - names of inodes, for people: found by one walk over the directory entries of an open volume. */
#ifndef HOLDFAST_FSCK_PATHS_H
#define HOLDFAST_FSCK_PATHS_H

#include "journal/volume.h"

struct path_want {
	uint64_t ino;
	char *path;		/* out: of one of its names, from the root on; NULL: none was found.  free(3) it */
	/* private */
	uint64_t dir;		/* 0: no entry met */
	char name[MAX_NAME + 1];
};

/*
 * `want` is in ascending order of `ino`, zeroed otherwise.  What cannot be read is passed over.  -ENOMEM.
 */
int paths_find(struct volume *v, struct dev_queue *q, struct path_want *want, unsigned n);

/* The name of the entry at (dir, offset), terminated, and its inode.  -ENOENT, or why it cannot be read. */
int paths_entry(struct volume *v, struct dev_queue *q, uint64_t dir, uint64_t offset, char name[MAX_NAME + 1], uint64_t *ino);

#endif
