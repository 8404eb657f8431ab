/* SPDX-License-Identifier: Apache-2.0 */
/*
 * txn.h - a transaction: one frame of physical changes, all of it or nothing of it.
 *
 * A step reads what it needs, then records changes here; nothing is visible until txn_commit(), not even to the step itself, so
 * a step must not change one key twice except by successive patches of disjoint bytes.  txn_commit() prepares every change
 * (-EAGAIN if something is missing), appends the frame, and applies it by the very code that replay uses.
 *
 *	struct txn t;
 *	txn_begin(&t, v);
 *	... reads; txn_put(&t, ...); txn_del(&t, ...);
 *	err = txn_commit(&t, q, 0, miss, NULL, &lsn);
 *	txn_end(&t);			always; undoes allocations if not committed
 *
 * Recording functions do not fail: out of memory is remembered and returned by txn_commit().
 * Begin to end is one critical section of the volume's lock.
 */
#ifndef HOLDFAST_JOURNAL_TXN_H
#define HOLDFAST_JOURNAL_TXN_H

#include "journal/volume.h"

struct txn_run {
	uint64_t blkno, n;
};
struct txn_base {
	uint64_t blkno;
	const void *base;
};
/* For qsort(3) and bsearch(3): by block. */
int txn_base_cmp(const void *a, const void *b);

struct txn {
	struct volume *v;
	uint8_t *buf;		/* the frame's payload so far */
	uint32_t len, cap;
	uint32_t nops, ndata;	/* operations; OP_DATA among them */
	struct txn_run *run;	/* allocated by txn_alloc(), given back if not committed */
	unsigned nruns, cap_runs;
	struct txn_base *base;	/* txn_data()'s bases; sorted by txn_commit() */
	unsigned nbases, cap_bases;
	int err;
	bool committed;
	enum alloc_level level;	/* without TXN_URGENT; txn_begin(): ALLOC_NORMAL */
	_Alignas(8) uint8_t small[4096];	/* buf starts here */
};

/* txn_commit() flags */
#define TXN_URGENT 1u		/* removes things, or adds nothing to the tree: may use the emergency reserve */

void txn_begin(struct txn *t, struct volume *v);
void txn_end(struct txn *t);

/* Right after txn_begin(): may use the room that alloc_keep_cached() keeps. */
static inline void txn_cached(struct txn *t)
{
	t->level = ALLOC_CACHED;
}

/* Likewise, after that: gives new contents to blocks that a file has already, and so may use a part of the emergency reserve: what it replaces of
 * the tree comes back with the next checkpoint. */
static inline void txn_owned(struct txn *t)
{
	t->level = t->level == ALLOC_CACHED ? ALLOC_OWNED_CACHED : ALLOC_OWNED;
}

void txn_put(struct txn *t, const struct key *key, const void *val, unsigned len);
void txn_del(struct txn *t, const struct key *key);
void txn_patch(struct txn *t, const struct key *key, unsigned at, const void *bytes, unsigned len);

/* Allocates data blocks now (alloc_get() with room kept for this transaction's metadata) and records it. */
int txn_alloc(struct txn *t, struct alloc_place place, uint64_t want, struct miss *miss, uint64_t *blkno, uint64_t *n);
/* Frees data blocks, staged content included. */
void txn_free(struct txn *t, uint64_t blkno, uint64_t n);

/*
 * File data into the log: bytes [at, at+len) of block `blkno`.  `fresh`: the rest is zeros.  Else, unless the block is staged, `base` (4096 verified
 * bytes as on the device; caller's until txn_end()) is the rest.
 */
void txn_data(struct txn *t, uint64_t blkno, unsigned at, const void *bytes, unsigned len, bool fresh,
	      const void *base);

/* Says that blocks [file, file + n) of an inode, 1 <= n <= EXTENT_MAX_BLOCKS, which this transaction maps to `blkno` on, are being written
 * there, with checksums as mapped: for txn_commit() with a hold. */
void txn_home(struct txn *t, uint64_t ino, uint64_t file, uint64_t blkno, uint64_t n);

/* The next free inode number; records that it is taken.  At most once a transaction. */
uint64_t txn_new_ino(struct txn *t);

/* Bytes that the recorded changes take in the log so far. */
static inline uint32_t txn_bytes(const struct txn *t)
{
	return t->len;
}

/*
 * -EAGAIN + *miss: nothing happened.  -ENOSPC, -ENOMEM, -EROFS (volume read-only or failed), -EFBIG: likewise.  0: committed; *lsn (may be NULL) is what to
 * log_sync() to.  `hold` as in log_append().
 */
int txn_commit(struct txn *t, struct dev_queue *q, unsigned flags, struct miss *miss, struct log_hold *hold,
	       uint64_t *lsn);

/* --- payloads: what commit and replay share --- */

/*
 * Checks a payload from the log completely (sizes, op types, key and value ranges) before anything of it is prepared.
 * -EUCLEAN through corrupt().
 */
int payload_check(const struct volume *v, const void *payload, uint32_t len);

/*
 * Everything that applying the payload needs is in memory, the blocks it will cost are there.  `replay`: also that what it allocates is
 * free.  -EAGAIN + *miss; -EUCLEAN; nothing changed.
 */
int payload_prepare(struct volume *v, const void *payload, uint32_t len, enum alloc_level level, bool replay,
		    struct miss *miss);

/*
 * For replay: gets what one operation needs into memory, before the payload as a whole is prepared.  Looking at all of them
 * again after each miss would take time that grows with the square of what a damaged journal can ask for.
 */
int payload_touch(struct volume *v, const struct disk_op *op, struct miss *miss);

/*
 * Applies it; cannot fail, except in replay: -EUCLEAN if an operation does not fit what it meets (the volume is then to be
 * thrown away).  `base`: the bases of data ops that need one, sorted by block.
 */
int payload_apply(struct volume *v, const void *payload, uint32_t len, const struct txn_base *base, unsigned nbases,
		  bool replay);

/* Walks a payload's operations: `*pos` starts at sizeof(struct disk_txn).  NULL behind the last. Only for payloads that passed the check
 * or that we built. */
const struct disk_op *payload_next(const void *payload, uint32_t len, uint32_t *pos);

#endif
