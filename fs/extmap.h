/* SPDX-License-Identifier: Apache-2.0 */
/*
 * extmap.h - the extents of a range of a file: loaded into host form, edited, and written back as the cheapest
 * transaction records that lead from what was to what is.
 *
 * A map belongs to one step: it is loaded, edited and emitted in one critical section of the volume's lock, and the
 * tree is not changed in between except by the commit that ends it.
 *
 * Always: both vectors ascend without overlap, and `old` is what the tree holds.  Out of memory is remembered and returned by
 * extmap_emit(), so that edits need no checks.
 */
#ifndef HOLDFAST_FS_EXTMAP_H
#define HOLDFAST_FS_EXTMAP_H

#include <string.h>

#include "fs/fs_impl.h"

struct extent {
	uint64_t file;		/* its first block in the file */
	uint64_t blkno;		/* its first block on the device */
	uint32_t n;		/* blocks, 1..EXTENT_MAX_BLOCKS */
	uint32_t csum;		/* index of its first checksum in the pool; meaningless if not written */
	bool written;
	bool edited;		/* differs, as a piece, from what is in the tree */
};

struct extent_vec {
	struct extent *e;
	unsigned n, cap;
};

struct extmap {
	struct fs *fs;
	uint64_t ino;
	uint64_t end;		/* the map is complete below this file block */
	struct extent_vec old;	/* as in the tree */
	struct extent_vec cur;	/* as edited */
	uint32_t *pool;		/* checksums; only ever appended to */
	unsigned npool, cap_pool;
	int err;
};

void extmap_init(struct extmap *m, struct fs *fs, uint64_t ino);
void extmap_fini(struct extmap *m);

/*
 * Loads what overlaps [first, end) and the neighbour on each side, forgetting what the map had.  After `max` extents it stops: m->end
 * then is less than `end`.  -EAGAIN, -ENOMEM, -EUCLEAN (extents overlap).
 */
int extmap_load(struct extmap *m, uint64_t first, uint64_t end, unsigned max, struct miss *miss);

/* The extent that holds `block`, or NULL: a hole.  Valid until the next edit. */
const struct extent *extmap_find(const struct extmap *m, uint64_t block);
/* The first extent that ends behind `block`, or NULL. */
const struct extent *extmap_next(const struct extmap *m, uint64_t block);
/* The last extent that ends at or before `block`, or NULL. */
const struct extent *extmap_before(const struct extmap *m, uint64_t block);

/* An extent item in host form, without its checksums.  Values in tree nodes are not aligned. */
static inline struct extent extent_decode(uint64_t file, const void *val)
{
	struct disk_extent de;

	memcpy(&de, val, sizeof(de));
	return (struct extent){
		.file = file,
		.blkno = get64(de.blkno),
		.n = get32(de.nblocks),
		.written = !(get32(de.flags) & EXTENT_UNWRITTEN),
	};
}

/* The bytes that such an item has. */
static inline unsigned extent_item_len(const struct extent *e)
{
	return (unsigned)sizeof(struct disk_extent) + (e->written ? 4 * e->n : 0);
}

static inline uint64_t extent_blkno(const struct extent *e, uint64_t block)
{
	return e->blkno + (block - e->file);
}

static inline uint32_t extmap_csum(const struct extmap *m, const struct extent *e, uint64_t block)
{
	return m->pool[e->csum + (block - e->file)];
}

/* Edits; only inside what was loaded.  Blocks [first, first + n) become those from blkno on, with these checksums
 * (NULL: unwritten). */
void extmap_set(struct extmap *m, uint64_t first, uint64_t n, uint64_t blkno, const uint32_t *csum);
/* Blocks [first, end) become a hole. */
void extmap_cut(struct extmap *m, uint64_t first, uint64_t end);
/* The same, and what was there is freed.  Returns how many blocks. */
uint64_t extmap_release(struct extmap *m, struct txn *t, uint64_t first, uint64_t end);

/* Records the difference.  Afterwards the map is of no further use. */
int extmap_emit(struct extmap *m, struct txn *t);

#endif
