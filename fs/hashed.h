/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hashed.h - items that are found by a name's hash: directory entries and heads of xattrs.
 *
 * Their keys' offsets are the hash value and what follows, one for each name that has it, HASH_COLLISIONS at most; where one was removed there is a gap.
 */
#ifndef HOLDFAST_FS_HASHED_H
#define HOLDFAST_FS_HASHED_H

#include "fs/fs_impl.h"

/* Is it the name's?  1, and *pos says what it is; 0; or an error. */
typedef int hashed_match_fn(struct fs *fs, const struct tree_cursor *c, const char *name, size_t len, void *pos);

/*
 * The name's item, from that of `first` on, which has its hash.  1: found, see above; 0: there is none, and *free is the first offset where there
 * could be, or 0 if all are taken; or an error, -EAGAIN + *miss.  Volume lock, shared will do.
 */
static inline int hashed_find(struct fs *fs, const struct key *first, const char *name, size_t len, hashed_match_fn *match, void *pos,
			      struct miss *miss, uint64_t *free)
{
	struct tree_cursor c;
	int err;

	*free = first->offset;
	for (err = tree_first(fs->v->tree, &c, first, miss); !err; err = tree_next(fs->v->tree, &c, miss)) {
		if (c.key.object != first->object || c.key.type != first->type || c.key.offset - first->offset >= HASH_COLLISIONS)
			break;
		int found = match(fs, &c, name, len, pos);
		if (found)
			return found;
		if (c.key.offset == *free)
			++*free;
	}
	if (err && err != -ENOENT)
		return err;
	if (*free - first->offset >= HASH_COLLISIONS)
		*free = 0;
	return 0;
}

#endif
