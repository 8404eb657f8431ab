/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check_impl.h - what the files of the checker share.  Not for others.
 *
 * check.c    the order of things, findings;  roots.c  superblocks and roots
 * journal.c  the log;  stake.c, paths.c  what a damaged one costs
 * walk.c     the tree, node by node, in key order; both copies
 * items.c    the items of one inode as they come;  contents.c  extents, inline data, xattrs;  data.c  file contents
 * names.c    entries against inodes, when all are known
 * space.c    tables and bitmaps against the blocks that the walk met
 *
 * After a lost node something is missing that was not wrong by itself.  So whatever is only known to be missing or miscounted is
 * not reported where a lost node may be the reason.
 */
#ifndef HOLDFAST_FSCK_CHECK_IMPL_H
#define HOLDFAST_FSCK_CHECK_IMPL_H

#include "fsck/blockset.h"
#include "fsck/check.h"

/* What the names pass needs of an inode. */
struct inode_rec {
	uint64_t ino;
	uint64_t parent;	/* directories */
	uint32_t nlink;
	uint32_t refs;		/* entries of it met */
	uint32_t subdirs;	/* of a directory: entries of directories in it */
	uint8_t ftype;		/* DT_* */
	uint8_t flags;
};
#define REC_ORPHAN  1u		/* listed as one */
#define REC_ROOTED  2u		/* directories: its ancestors lead to the root, or are known not to */
#define REC_PATH    4u		/* on the path that is being followed */

/* A directory entry: whose (index into recs, or ENTRY_NO_DIR), what. */
struct entry_rec {
	uint64_t ino;
	uint64_t dir_ftype;	/* index << 4 | DT_* */
};
#define ENTRY_NO_DIR (UINT64_MAX >> 4)

struct list {
	void *item;
	uint64_t n, cap;
};

/* What a node that cannot be read was to hold: keys in [lo, hi). */
struct lost_range {
	struct key lo, hi;
	uint64_t generation;	/* of the pointer to it */
	bool has_hi;
	uint8_t level;
};

struct data_reader;
struct item_state;

struct check {
	struct dev_queue *q;
	const struct fsck_opts *opts;
	struct fsck_result *res;
	struct super sb;
	struct disk_root *root;		/* the newest; 4096 bytes */
	bool have_root;

	struct blockset used;		/* blocks that something refers to; fixed areas not included */
	struct blockset nodes;		/* those of tree nodes among them */
	struct blockset logged;		/* contents are in the log, so the device's may differ */
	uint64_t nused;
	uint64_t lost_nodes;
	bool gap;			/* items are missing just before the next one */
	bool lenient;			/* a repair walks: see walk.c */
	struct list *lost;		/* struct lost_range, ascending: those of lost nodes.  NULL: nobody wants to know */

	struct list recs;		/* struct inode_rec, ascending */
	struct list entries;		/* struct entry_rec */
	struct list orphans;		/* uint64_t, ascending */
	uint64_t next_orphan;		/* index: the first that no inode has been met for */
	uint64_t nflagged, first_flagged;	/* inodes with INODE_USER_FLAGS; the first of them */

	struct item_state *items;	/* of the inode that is being walked */
	struct data_reader *data;
	uint64_t ticks;
};

struct where {
	uint64_t blkno, ino, offset;
};
#define AT_NOWHERE  ((struct where){FSCK_NOWHERE, FSCK_NOWHERE, FSCK_NOWHERE})
#define AT_BLOCK(b) ((struct where){(b), FSCK_NOWHERE, FSCK_NOWHERE})
#define AT_INO(i)   ((struct where){FSCK_NOWHERE, (i), FSCK_NOWHERE})

/* Reports one finding. */
void found(struct check *c, enum fsck_code code, struct where at, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* -ECANCELED if the caller wants to stop; shows progress now and then. */
int check_tick(struct check *c, unsigned pass, uint64_t done, uint64_t total);

/* A new element at the end, zeroed; NULL: no memory. */
void *list_add(struct list *l, size_t item_bytes);

/* Catches what a verifier says, so that a finding can repeat it. */
struct catcher {
	struct diag diag;
	char text[200];
};
void catcher_init(struct catcher *k);
/* What was said, without where: verifiers of blocks that exist twice name the first copy. */
const char *catcher_reason(const struct catcher *k);

/* Reads one block; the verdict on a failure in `k`.  0 or -EIO, -ENOMEM. */
int check_read(struct check *c, uint64_t blkno, void *block, struct catcher *k);

/* Writes the good `block` over the copy at `blkno`, about which `code` was reported, if healing is wanted. */
int check_heal(struct check *c, enum fsck_code code, uint64_t blkno, const void *block);

/* The leaves below c->root in key order; nodes met go to c->nodes and c->used.  walk_next(): -ENOENT at the end. */
struct walk;
struct walk_leaf {
	const struct disk_node *node;	/* until the next call */
	struct key lo, hi;		/* keys in [lo, hi) belong there */
	bool has_hi;
};
int walk_open(struct check *c, struct walk **out);
int walk_next(struct walk *w, struct walk_leaf *out);
void walk_close(struct walk *w);

/* source_walk.c, for sources above it: the lost ranges of the pass so far, and the blocks of nodes that were good. */
struct item_source;
const struct list *walk_source_lost(const struct item_source *s);
const struct blockset *walk_source_nodes(const struct item_source *s);

int check_supers(struct check *c);
int check_roots(struct check *c);
int check_journal(struct check *c);
int check_replay(struct check *c);
struct log_reader;
/* stake.c: of a reader whose tail refuses. */
int check_stake(struct check *c, struct log_reader *r);
int check_tree(struct check *c);
int check_names(struct check *c);
int check_space(struct check *c);

/* items.c: from the walk, in key order. */
int items_begin(struct check *c);
int items_leaf(struct check *c, const struct disk_node *n);
int items_end(struct check *c);
void items_free(struct check *c);

/* Blocks that something uses; reports those used twice. */
int check_use(struct check *c, uint64_t blkno, uint64_t n, struct where at, const char *what);

/* data.c: verifies contents in the background of the walk.  `csum`: n values, copied. */
int data_begin(struct check *c);
int data_verify(struct check *c, uint64_t ino, uint64_t file_block, uint64_t blkno, unsigned n, const le32 *csum);
int data_end(struct check *c);
void data_free(struct check *c);

#endif
