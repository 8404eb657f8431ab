/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rebuild.h - repair by writing the tree anew: items flow in key order from a source, through the rules, into a bulk loader.
 *
 * Nothing is patched.  Two passes over the source: the first collects what must be known of the whole (inodes, entries, blocks used),
 * then everything that the format's rules between items leave open is decided, and the second pass streams the items, edited, into a new
 * tree.  Counts, parents, bitmaps and tables are computed from what is left.
 *
 * What always holds:
 *   1. Nothing that the present state needs is written before the new root is durable: nodes go to blocks that neither the source
 *      nor any extent of it uses, bitmaps and tables into the slots that are not current.  So a crash leaves the volume as it was, to be
 *      repaired again, or repaired.
 *   2. Both passes see the same items, or nothing is written.
 *   3. Whatever is dropped is told by name (struct rebuild_note).
 *
 * Memory: 64 bytes an inode, 16 a directory entry, 1 bit a block of groups that are in use, and what is proportional to the damage.
 */
#ifndef HOLDFAST_FSCK_REBUILD_H
#define HOLDFAST_FSCK_REBUILD_H

#include "core/dev.h"
#include "core/format.h"
#include "fsck/blockset.h"

/* --- where items come from --- */

/*
 * The owner embeds this as the first member of its own struct.  Functions return 0 or a negative errno, which ends the rebuild
 * with nothing changed, save where another meaning is given.  Those marked "may be NULL" are for sources that need them.
 */
struct item_source {
	/*
	 * The next item; keys ascend strictly.  The value stays where it is until the next call and need not be aligned.  It may be anything: items
	 * that item_check() refuses are dropped and reported.  -ENOENT: there are no more, also when called again.
	 */
	int (*next)(struct item_source *s, struct key *key, const void **val, unsigned *len);

	/* Back to the first item.  Called before the first next(), too. */
	int (*rewind)(struct item_source *s);

	/*
	 * Adds the blocks that must not be written before the new root is durable because the source, or a repair that begins again after
	 * a crash, reads them: the nodes.  Blocks of extents that were handed out are kept anyhow.  Called after the first pass.
	 */
	int (*keep)(struct item_source *s, struct blockset *keep);

	/*
	 * Contents of a data block, where they may be newer than what the device has (logged data): 0 and `block` filled.
	 * -ENOENT: the device has them.  May be NULL.
	 */
	int (*data)(struct item_source *s, uint64_t blkno, void *block);

	/*
	 * The new tree is written and about to be vouched for: the last chance to write logged data home, to blocks that are in
	 * `used` (those of the new state's extents).  A flush and the new root follow.  May be NULL.
	 */
	int (*settle)(struct item_source *s, const struct blockset *used);

	/* Parts of the tree that could not be read, known after the first pass: what is missing then may exist there. */
	uint64_t nlost;
};

/* --- what the new root goes on from --- */

struct rebuild_base {
	/* The newest root, or NULL: none is known.  Then no slot is taken for current. */
	const struct disk_root *root;
	/* The highest generation that anything on the device may have; the new roots are the next two. */
	uint64_t generation;
	/* At least this is the next inode number; the items may make it more. */
	uint64_t next_ino;
	/* The log goes on here, empty: replay_lsn and applied_lsn of the new roots, which are marked clean.  No frame that was ever
	 * written may validate from there on: log_restart_lsn(), or the replay_lsn of a root that is clean and has its other slot. */
	uint64_t log_lsn;
};

/* --- what is told --- */

enum rebuild_what {
	REBUILD_KEPT,		/* repaired, nothing lost */
	REBUILD_LOST,		/* something was dropped that may have held the user's data */
};

struct rebuild_note {
	enum rebuild_what what;
	uint64_t ino;		/* FSCK_NOWHERE: of no inode */
	const char *path;	/* NULL: not known.  In the repaired volume, if it is still there */
	const char *text;	/* one line, without the path; ends with the call */
};

struct rebuild_opts {
	/* Do nothing that drops anything: then -EPERM, the notes say what would be dropped, nothing is written. */
	bool lossless;
	/* Decide and tell, write nothing. */
	bool dry_run;
	void (*note)(void *arg, const struct rebuild_note *n);	/* may be NULL */
	void (*progress)(void *arg, unsigned pass, uint64_t done, uint64_t total);	/* passes 6..8; may be NULL */
	bool (*cancelled)(void *arg);	/* true: stop, -ECANCELED, nothing changed; may be NULL */
	void *arg;
	const struct diag *diag;	/* why it could not be done */
};

struct rebuild_result {
	uint64_t ninodes, nitems;	/* of the new tree */
	uint64_t nnodes;		/* written, each twice */
	uint64_t nkept, nlost;		/* notes of either kind */
	uint64_t generation;		/* of the newest root */
};

/*
 * Rebuilds.  0: the volume is the new one, both root slots are good.  Negative: nothing has changed (save blocks that are free, and
 * slots that are not current), diag says why: -ENOSPC no room for the new tree beside the old one, -EPERM see `lossless`,
 * -EUCLEAN the source told two different stories, -EMLINK, -ECANCELED, -ENOMEM, -EIO.
 */
int rebuild(struct dev_queue *q, const struct super *sb, const struct rebuild_base *base, struct item_source *src,
	    const struct rebuild_opts *opts, struct rebuild_result *out);

/* --- the tree that a root names, without what is unreadable (source_walk.c) --- */

/* Reads through `root`, which passed root_check() and is copied.  Release with walk_source_close(). */
int walk_source_open(struct dev_queue *q, const struct super *sb, const struct disk_root *root,
		     struct item_source **out);
void walk_source_close(struct item_source *s);

#endif
