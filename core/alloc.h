/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alloc.h - free space.
 *
 * Bitmaps in groups of GROUP_BLOCKS, read on demand, each on disk in two slots (times two copies); the tables,
 * read at open, say which slot is current and how many blocks are free.  Knows nothing of the tree.
 *
 * Numbered invariants (alloc_assert() checks them):
 *   1. A block is in exactly one state: free, used, freed-pending, or free and being trimmed.  The live bitmap has a 1 for the
 *      latter three: nothing is handed out before alloc_release() has forgotten it, or alloc_trim_end().
 *   2. nfree (sum over groups of clear live bits) >= reserved + emergency + cached, except that ALLOC_CACHED may
 *      dip into the last part, ALLOC_OWNED, if that is empty, into three quarters of the second, and ALLOC_URGENT into both; `reserved` blocks are those
 *      the next checkpoint will need.
 *   3. What alloc_freeze() snapshots has a 0 for every block freed before the freeze or being trimmed, and a 1 for none
 *      allocated after it.
 *
 * All functions: the caller holds the lock that the object lives under (the volume's), except where said.
 */
#ifndef HOLDFAST_CORE_ALLOC_H
#define HOLDFAST_CORE_ALLOC_H

#include "core/miss.h"

struct alloc;

struct alloc_space {
	uint64_t nblocks;	/* of the volume */
	uint64_t nfree;		/* clear live bits: can be handed out now */
	uint64_t npending;	/* freed, waiting for a checkpoint (frozen or not), or being trimmed */
	uint64_t ntrimmed;	/* of these: being trimmed */
	uint64_t reserved;	/* promised to the next checkpoint's metadata */
	uint64_t emergency;	/* kept for removals */
	uint64_t cached;	/* kept for data that somebody has been promised room for: alloc_keep_cached() */
};

/* What of the free blocks a change may use. */
enum alloc_level {
	ALLOC_NORMAL,		/* all but what is kept */
	ALLOC_URGENT,		/* all: it gives more back */
	ALLOC_CACHED,		/* all but what is kept for removals */
	ALLOC_OWNED,		/* three quarters of what is kept for removals, too: contents of blocks that a file has already */
	ALLOC_OWNED_CACHED,	/* the same of data that ALLOC_CACHED is for */
};

/*
 * Takes the tables' contents: `tables` is sb->ntables blocks of BLOCK_SIZE that passed table_check() (copied).
 * `table_slots` as in disk_root.  Checks that the sum of free counts is root's nfree: -EUCLEAN otherwise.
 */
int alloc_create(const struct super *sb, const void *tables, const uint8_t *table_slots, uint64_t root_nfree,
		 const struct diag *diag, struct alloc **out);
/* A freshly formatted volume: every group uninit, only fixed areas used. */
int alloc_create_empty(const struct super *sb, const struct diag *diag, struct alloc **out);
void alloc_destroy(struct alloc *a);

void alloc_get_space(const struct alloc *a, struct alloc_space *out);

/* From now on `n` blocks are for ALLOC_CACHED only. */
void alloc_keep_cached(struct alloc *a, uint64_t n);

/* Must the bitmap of `group` still be read?  Only then is it on disk as alloc_bitmap_where() says: once it is in memory a freeze
 * names the other slot before that is written. */
bool alloc_wants(const struct alloc *a, uint32_t group);
/* Where the current bitmap of `group` is on disk, for the loader: slot and csum that bitmap_check() wants. */
void alloc_bitmap_where(const struct alloc *a, uint32_t group, unsigned *slot, uint32_t *csum);
/* The loader's result: `block` passed bitmap_check() (copied).  A second arrival is ignored.
 * -EUCLEAN if it disagrees with the table's free count or leaves a fixed block free. */
int alloc_bitmap_arrived(struct alloc *a, uint32_t group, const void *block);

/*
 * Makes sure that blocks [blkno, +n) can be freed without I/O: their groups' bitmaps are in memory and all bits set.
 * -EAGAIN + *miss; -EUCLEAN if the range leaves the volume, touches a fixed area or is not used; 0.
 */
int alloc_prepare_free(struct alloc *a, uint64_t blkno, uint64_t n, struct miss *miss);

/*
 * alloc_prepare_free() looks at the state before the transaction.  On a damaged volume extents and nodes may name the same blocks, and
 * then each of them may be freed, but not both.  So between alloc_claims_begin() and alloc_claims_check() all that the transaction
 * would free is noted, with who names it; -EUCLEAN from the latter if two do.  The same owner may claim the same blocks again.
 * Outside these two nothing is noted.  -ENOMEM.
 */
void alloc_claims_begin(struct alloc *a);
int alloc_claim(struct alloc *a, uint64_t blkno, uint64_t n, uint64_t owner);
int alloc_claims_check(struct alloc *a);

/* Reads the bitmap of a block's group, for alloc_is_used().  -EAGAIN + *miss; -EUCLEAN if it is no data block. */
int alloc_prepare_look(struct alloc *a, uint64_t blkno, struct miss *miss);
/* Is it used, and not freed since?  After alloc_prepare_look(). */
bool alloc_is_used(const struct alloc *a, uint64_t blkno);

/* As alloc_prepare_free() but for replay's OP_ALLOC: all bits must be clear. */
int alloc_prepare_mark(struct alloc *a, uint64_t blkno, uint64_t n, struct miss *miss);

/*
 * Makes sure that `n` more blocks than now reserved could be handed out one by one without I/O: counts the free
 * blocks in loaded groups, naming another group in *miss while there is one with free blocks (-EAGAIN).
 * Not enough in the whole volume: -EAGAIN with MISS_SPACE if pending frees would help, else -ENOSPC.
 * `level` says which of them count.  Changes nothing.
 */
int alloc_prepare_reserve(struct alloc *a, uint64_t n, enum alloc_level level, struct miss *miss);

/* Adds to (or takes from) what the next checkpoint is promised.  Only after alloc_prepare_reserve() in the same
 * critical section, or for nodes whose reservation ends. */
void alloc_reserve(struct alloc *a, uint64_t n);
void alloc_unreserve(struct alloc *a, uint64_t n);

/* Where blocks should be, and whose they are. */
struct alloc_place {
	uint64_t goal;	/* a blkno; 0: anywhere, see below */
	uint64_t owner;	/* an inode number; 0: of nobody who would have room kept */
	uint64_t room;	/* how many blocks the owner is likely to want behind them; 0: none */
};

static inline struct alloc_place alloc_at(uint64_t goal)
{
	return (struct alloc_place){.goal = goal};
}

/*
 * Hands out up to `want` blocks in one run, as near behind the goal as it can: the run at goal if
 * goal is free, else the first run of `want` and `room` from there in goal's group and the following ones, else the longest run
 * met.  At least 1.  Marks them used at once.  With goal 0 starts at a moving cursor so that
 * files started one after the other lie together.  Leaves `keep` blocks free, beyond what is reserved and what `level` may not use.
 * -EAGAIN + *miss, -ENOSPC as above.  Cost: bounded by the groups with free blocks, never by the used ones of full groups.
 *
 * An owner who did not get what it had asked to go on with has a window from then on: the free ones of the `room` blocks behind what it got.
 * Others get those only where they would have less than they want without, and nodes as ever.  It moves along with what the owner gets; of
 * ALLOC_WINDOWS the one that was not used for longest makes place for another, and all are gone with the object.  (Reservation windows as in ext3,
 * fs/ext3/balloc.c, but nothing is counted as used, and a file that nothing gets in the way of needs none.)
 */
int alloc_get(struct alloc *a, struct alloc_place place, uint64_t want, uint64_t keep, enum alloc_level level, struct miss *miss,
	      uint64_t *blkno, uint64_t *n);
#define ALLOC_WINDOWS 64u

/* Takes back what alloc_get() gave since the last freeze and nobody has used: immediately free again. */
void alloc_unget(struct alloc *a, uint64_t blkno, uint64_t n);

/* Marks free blocks used (replay).  After alloc_prepare_mark(), and an alloc_prepare_reserve() that counted them: else
 * they may be the very blocks in memory that are promised to nodes. */
void alloc_mark(struct alloc *a, uint64_t blkno, uint64_t n);

/* Frees: pending until the checkpoint after the next freeze is durable.  After alloc_prepare_free(). */
void alloc_free(struct alloc *a, uint64_t blkno, uint64_t n);

/* One block for a tree node, from the reservation (reserved - 1), without I/O; `copy` 0 and 1 come from areas far apart
 * where there is room.  Never fails: alloc_prepare_reserve() promised it. */
uint64_t alloc_node_block(struct alloc *a, unsigned copy);

/* --- discarding what is free --- */

/*
 * Keeps free blocks from being handed out, so that they can be discarded without the lock: in one group, from *next on and below `end`, runs
 * of at least `minlen`, `max` blocks at most, and no more than an eighth of what could be handed out (who lacks space meanwhile is told to
 * wait for it).  `each` sees the runs; there may be none.  *next: where to go on.  To be given back by alloc_trim_end() if *n is not 0.
 * -EBUSY: somebody is at it.  -EAGAIN + *miss, -ENOMEM.
 */
int alloc_trim_begin(struct alloc *a, uint64_t *next, uint64_t end, uint64_t minlen, uint64_t max, struct miss *miss,
		     void (*each)(void *arg, uint64_t blkno, uint64_t n), void *arg, uint64_t *n);
void alloc_trim_end(struct alloc *a);
/* Is there anything to be given back so? */
bool alloc_is_trimming(const struct alloc *a);

/* --- checkpoint --- */

/* A block image to write: aligned memory that the freeze owns, both addresses. */
struct alloc_image {
	uint64_t blkno[2];
	void *block;
};
struct alloc_freeze {
	struct alloc_image *image;	/* changed bitmaps, then changed tables; sealed, generation as given */
	unsigned nimages;
	uint64_t nfree;			/* as this snapshot has it */
	uint8_t table_slot[MAX_TABLES / 8];
	uint32_t table_csum[MAX_TABLES];
};

/*
 * Snapshot of the state as of now for checkpoint `generation`: images of every bitmap and table that
 * changed since the last freeze, flipped to their other slots; frees so far become "frozen".  The caller calls it after tree_freeze() has
 * allocated the nodes' blocks and freed the old ones.  One freeze at a time.  -ENOMEM.
 */
int alloc_freeze(struct alloc *a, uint64_t generation, struct alloc_freeze *out);
/* The root that names the snapshot is durable: frozen frees become free. */
void alloc_release(struct alloc *a, struct alloc_freeze *f);
/* The runs that alloc_release() will hand back (to discard them first). */
void alloc_each_frozen(const struct alloc *a, void (*each)(void *arg, uint64_t blkno, uint64_t n), void *arg);
/* Frees the images' memory only (the checkpoint failed; the volume is frozen for good). */
void alloc_freeze_drop(struct alloc_freeze *f);

void alloc_assert(const struct alloc *a);

#endif
