/* SPDX-License-Identifier: Apache-2.0 */
/*
 * data.h - what the files that change contents share.  Not for others.
 *
 * Always: bytes behind a file's end in a written block are zeros, so that growing a file needs no I/O; a block gets data
 * written straight to its home at most once after it was allocated, and later changes of it go through the log (or to
 * other blocks), so that no crash finds a home half old and half new that the log cannot put right.
 *
 * Steps return two codes beyond those of fs_step_fn, which never leave these files:
 *   -EINPROGRESS   the content of a home block is needed first: base_read();
 *   -ERESTART      something was done, or decided differently: run the step again.
 */
#ifndef HOLDFAST_FS_DATA_H
#define HOLDFAST_FS_DATA_H

#include "fs/extmap.h"

#define BLOCKS_OF(bytes) (((bytes) >> BLOCK_SHIFT) + (((bytes) & (BLOCK_SIZE - 1)) != 0))

/* Blocks of the largest file: behind every block of every file. */
#define FILE_BLOCKS (UINT64_C(1) << (63 - BLOCK_SHIFT))

/* Extents that one bounded transaction changes. */
#define STEP_ITEMS 400u

/*
 * Each of them may lie in a leaf of its own, which takes two blocks until the next checkpoint, so a removal of so many may want more than is kept for
 * removals: then the next try is one of fewer.  0: that was the least.  More than one, since an extent in front of the range counts.
 */
static inline unsigned fewer_items(unsigned max)
{
	return max > 16 ? max / 8 : max > 2 ? 2 : 0;
}

/* Contents are those of regular files: -EISDIR, -EINVAL for everything else. */
int file_check(const struct disk_inode *di);

/* mtime and ctime are now. */
void file_touch(struct fs *fs, struct disk_inode *di);

/* Reports a block of file data that is not what it was: -EIO.  Lock shared: -ENOLCK, and nothing else. */
int file_damaged(struct fs *fs, uint64_t ino, uint64_t block, uint64_t blkno);

/* --- inline contents --- */

/* Contents of a file that has INODE_INLINE; the rest of `buf` is zeros. */
int inline_get(struct fs *fs, uint64_t ino, const struct disk_inode *di, struct miss *miss, uint8_t buf[INLINE_MAX]);
/* Makes `len` bytes the contents, and the size: sets the flag and size in *di; nothing inline remains for len 0. */
void inline_put(struct txn *t, uint64_t ino, struct disk_inode *di, const void *buf, uint64_t len);
/* A transaction of its own that moves them to block 0, `cached` for a cached write; to the reader nothing changes.  Updates *di. */
int inline_to_block(struct fs *fs, struct dev_queue *q, uint64_t ino, bool cached, struct disk_inode *di, struct miss *miss);

/* --- bases: home blocks of which a part is to be changed through the log --- */

struct base {
	uint64_t blkno;
	uint32_t csum;
	bool valid;
	uint8_t *page;
};

struct base_set {
	struct base have[2];	/* an operation changes parts of at most two blocks: its first and its last */
	struct base bad;	/* what was last read and did not verify */
	struct base *want;
	uint64_t ino, block;	/* whose: for messages */
	unsigned epoch;
};

void base_fini(struct base_set *s);

/*
 * In a step: the present content of block `block` of the file, which is written and mapped to blkno with `csum`.  *base is what txn_data()
 * wants: NULL if the content is staged.  -EINPROGRESS: must be read, see above.  -EIO: it was read and is damaged.
 */
int base_get(struct fs *fs, struct base_set *s, unsigned which, uint64_t ino, uint64_t block, uint64_t blkno,
	     uint32_t csum, const uint8_t **content, const void **base);
/* After -EINPROGRESS, without the lock: the read, to be submitted, and its result. */
void base_read_init(struct base_set *s, struct dev_io *io, dev_done_fn *done);
int base_arrived(struct fs *fs, struct base_set *s, int err);

/* fs_run() for steps that return -EINPROGRESS and -ERESTART. */
int data_run(struct fs *fs, struct dev_queue *q, fs_step_fn *step, void *arg, struct base_set *bases);

/* The same without waiting: for operations that are under way while their worker does other things.  `done` runs on q's thread, perhaps before
 * data_start() returns. */
struct data_task {
	fs_step_fn *step;
	void *arg;
	struct base_set *bases;		/* NULL: the step never returns -EINPROGRESS */
	void (*done)(struct data_task *t, int err);
	/* private */
	struct fs *fs;
	struct dev_queue *q;
	struct provide provide;
	struct dev_io io;
};
void data_start(struct fs *fs, struct dev_queue *q, struct data_task *t);

/* The file was read: its time of access, if it is due.  The last thing in a step, for it changes the tree.  A
 * reader does not wait for space or journal, nor fail for want of them. */
int file_atime(struct fs *fs, struct dev_queue *q, uint64_t ino, struct disk_inode *di, struct miss *miss);
/* The second half of it, for who has found it due. */
int file_atime_set(struct fs *fs, struct dev_queue *q, uint64_t ino, struct disk_inode *di, const struct timespec *now,
		   struct miss *miss);

/* Zeros in bytes [at, at + len) of a block, through the log, if it is written.  Errors as base_get(). */
int zero_part(struct extmap *m, struct txn *t, struct base_set *s, unsigned which, uint64_t block, unsigned at,
	      unsigned len);

/* --- fallocate.c --- */

enum falloc_kind { FALLOC_RESERVE, FALLOC_PUNCH, FALLOC_ZERO };

struct falloc {
	enum falloc_kind kind;
	bool keep_size;
	bool prefix;		/* one transaction's worth of the range will do: `end` says then how far it went */
	uint64_t ino, off, end;	/* bytes */
	uint64_t next, last;	/* file blocks: where the next window begins; behind the last one */
	bool in_place;		/* no room for other blocks: zeros through the log */
	unsigned max;		/* extents that one window has */
	struct base_set base;
};

/* A step that does one window: a transaction, or why not.  For data_run() and data_start(). */
int falloc_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss);
/* For it: the range becomes a hole, and the file longer if that lies behind its end; one step is all of it, or of its beginning. */
void falloc_init_hole(struct falloc *f, uint64_t ino, uint64_t off, uint64_t end);

/* --- truncate.c --- */

/*
 * To be called by a step that moves the end or maps blocks behind it: old contents there, of a truncation that is not finished, must be
 * gone first.  0: nothing is there.  -ERESTART: some was removed.
 */
int truncate_pending(struct fs *fs, struct dev_queue *q, uint64_t ino, struct miss *miss);

#endif
