/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.h - the checker: reads a volume as the last checkpoint left it, and says what is wrong with it.
 *
 * It writes nothing (save good copies over bad ones, if told to), believes nothing that it reads, and needs no mount: it has its own reader of the tree, which looks at both
 * copies of everything.  Works on any device, simulated ones included.  The programs decide what findings look like.
 *
 * Memory: 32 bytes an inode, 16 a directory entry, 1 bit a block of groups that are in use, 7 MiB for the walk.
 */
#ifndef HOLDFAST_FSCK_CHECK_H
#define HOLDFAST_FSCK_CHECK_H

#include "core/dev.h"
#include "core/format.h"
#include "journal/log.h"

/* INFO: worth knowing, nothing wrong. */
enum fsck_severity { FSCK_INFO, FSCK_ERROR };

/* Every finding: enumerator, stable code, stable name, severity, what it means. */
#define FSCK_CODES(X)                                                                                                  \
	X(SUPER_COPY, "FS101", "super-copy", FSCK_ERROR, "a copy of the superblock is damaged or unreadable")          \
	X(SUPER_DIFFERS, "FS102", "super-differs", FSCK_ERROR, "a copy of the superblock says something else")         \
	X(SUPER_INTERRUPTED, "FS103", "super-interrupted", FSCK_INFO, "a change of the label or the features was interrupted; the next mount ends it") \
	X(ROOT_COPY, "FS111", "root-copy", FSCK_ERROR, "a copy of a checkpoint root is damaged or unreadable")         \
	X(ROOT_SLOT, "FS112", "root-slot", FSCK_ERROR, "one of the two checkpoint roots is lost")                      \
	X(ROOT_LOST, "FS113", "root-lost", FSCK_ERROR, "both checkpoint roots are lost")                               \
	X(ROOT_INTERRUPTED, "FS114", "root-interrupted", FSCK_INFO, "a checkpoint was interrupted; the next one heals it") \
	X(ROOT_NFREE, "FS121", "root-nfree", FSCK_ERROR, "the root counts other free blocks than the tables")          \
	X(ROOT_NINODES, "FS122", "root-ninodes", FSCK_ERROR, "the root counts other inodes than there are")            \
	X(ROOT_NEXT_INO, "FS123", "root-next-ino", FSCK_ERROR, "an inode has a number that is not given out yet")      \
	X(ROOT_ERRORS, "FS124", "root-errors", FSCK_INFO, "damage was met while the volume was mounted")               \
	X(TABLE_COPY, "FS201", "table-copy", FSCK_ERROR, "a copy of an allocation table is damaged or unreadable")     \
	X(TABLE_LOST, "FS202", "table-lost", FSCK_ERROR, "both copies of an allocation table are")                     \
	X(TABLE_NFREE, "FS203", "table-nfree", FSCK_ERROR, "a table counts other free blocks than its bitmap")         \
	X(BITMAP_COPY, "FS211", "bitmap-copy", FSCK_ERROR, "a copy of an allocation bitmap is damaged or unreadable")  \
	X(BITMAP_LOST, "FS212", "bitmap-lost", FSCK_ERROR, "both copies of an allocation bitmap are")                  \
	X(SPACE_LEAKED, "FS221", "space-leaked", FSCK_ERROR, "blocks are marked used and belong to nothing")           \
	X(SPACE_UNMARKED, "FS222", "space-unmarked", FSCK_ERROR, "blocks in use are marked free")                      \
	X(SPACE_SHARED, "FS223", "space-shared", FSCK_ERROR, "blocks are used twice")                                  \
	X(NODE_COPY, "FS301", "node-copy", FSCK_ERROR, "a copy of a tree node is damaged or unreadable")               \
	X(NODE_LOST, "FS302", "node-lost", FSCK_ERROR, "both copies of a tree node are")                               \
	X(NODE_SHARED, "FS303", "node-shared", FSCK_ERROR, "a tree node has two parents")                              \
	X(ITEM_STRAY, "FS401", "item-stray", FSCK_ERROR, "items of an inode that does not exist")                      \
	X(ITEM_KIND, "FS402", "item-kind", FSCK_ERROR, "an item that this type of inode cannot have")                  \
	X(INODE_NBLOCKS, "FS403", "inode-nblocks", FSCK_ERROR, "an inode counts other blocks than its extents have")   \
	X(INODE_INLINE, "FS404", "inode-inline", FSCK_ERROR, "inline contents contradict the inode")                   \
	X(INODE_SYMLINK, "FS405", "inode-symlink", FSCK_ERROR, "a symlink's target is not as long as the inode says")  \
	X(INODE_FLAGS, "FS406", "inode-flags", FSCK_ERROR, "inodes have flags, and the superblock does not say that any may") \
	X(EXTENT_OVERLAP, "FS411", "extent-overlap", FSCK_ERROR, "extents of a file overlap")                          \
	X(EXTENT_BEYOND, "FS412", "extent-beyond", FSCK_ERROR, "written blocks behind the end of a file")              \
	X(XATTR_INCOMPLETE, "FS421", "xattr-incomplete", FSCK_ERROR, "parts of an extended attribute are missing")     \
	X(XATTR_STRAY, "FS422", "xattr-stray", FSCK_ERROR, "a part of an extended attribute that does not exist")      \
	X(XATTR_DUPLICATE, "FS423", "xattr-duplicate", FSCK_ERROR, "an extended attribute exists twice")               \
	X(XATTR_ACL, "FS424", "xattr-acl", FSCK_ERROR, "an access control list makes no sense")                          \
	X(DIR_SIZE, "FS431", "dir-size", FSCK_ERROR, "a directory counts other entries than it has")                   \
	X(DIR_DUPLICATE, "FS432", "dir-duplicate", FSCK_ERROR, "a name exists twice in a directory")                   \
	X(ROOT_DIR, "FS501", "root-dir", FSCK_ERROR, "the root directory is missing or malformed")                     \
	X(ENTRY_DANGLING, "FS502", "entry-dangling", FSCK_ERROR, "an entry of an inode that does not exist")           \
	X(ENTRY_TYPE, "FS503", "entry-type", FSCK_ERROR, "an entry says another type than its inode")                  \
	X(LINK_COUNT, "FS504", "link-count", FSCK_ERROR, "an inode counts other links than there are")                 \
	X(UNREACHABLE, "FS505", "unreachable", FSCK_ERROR, "an inode without an entry that is no orphan either")       \
	X(DIR_PARENT, "FS506", "dir-parent", FSCK_ERROR, "a directory names another parent than the one it is in")     \
	X(DIR_LINKS, "FS507", "dir-links", FSCK_ERROR, "a directory has more than one entry")                          \
	X(DIR_CYCLE, "FS508", "dir-cycle", FSCK_ERROR, "a directory is its own ancestor")                              \
	X(ORPHAN_STRAY, "FS511", "orphan-stray", FSCK_ERROR, "an orphan is listed that does not exist")                \
	X(ORPHAN_PENDING, "FS512", "orphan-pending", FSCK_INFO, "unlinked files that the next mount removes")          \
	X(DATA_CSUM, "FS601", "data-csum", FSCK_ERROR, "file contents do not match their checksum")                    \
	X(DATA_READ, "FS602", "data-read", FSCK_ERROR, "file contents cannot be read")                                 \
	X(LOG_DAMAGED, "FS701", "log-damaged", FSCK_ERROR, "the journal is damaged below what was durable")            \
	X(LOG_UNREADABLE, "FS702", "log-unreadable", FSCK_ERROR, "the journal cannot be read where it would go on")                       \
	X(LOG_UNCLEAN, "FS703", "log-unclean", FSCK_ERROR, "the root says that the journal is empty, but it is not")   \
	X(LOG_MALFORMED, "FS704", "log-malformed", FSCK_ERROR, "the journal holds a record that makes no sense")       \
	X(LOG_REPLAY, "FS705", "log-replay", FSCK_ERROR, "the journal cannot be replayed onto the volume")             \
	X(LOG_TORN, "FS711", "log-torn", FSCK_INFO, "the journal ends in writes that were never acknowledged")         \
	X(LOG_PENDING, "FS712", "log-pending", FSCK_INFO, "the journal holds changes that the next mount replays")     \
	X(LOG_STAKE, "FS713", "log-stake", FSCK_INFO, "acknowledged changes that a damaged journal would cost")         \
	X(NOT_CHECKED, "FS801", "not-checked", FSCK_INFO, "something could not be checked because of other damage")

#define FSCK_ENUM(name, code, title, severity, text) FSCK_##name,
enum fsck_code { FSCK_CODES(FSCK_ENUM) FSCK_NCODES };
#undef FSCK_ENUM

struct fsck_code_info {
	const char *code, *name;
	enum fsck_severity severity;
	const char *meaning;
};
const struct fsck_code_info *fsck_code_info(enum fsck_code code);

#define FSCK_NOWHERE UINT64_MAX

struct fsck_finding {
	enum fsck_code code;
	const char *text;	/* one line: where and what */
	/* What it is about; FSCK_NOWHERE: nothing of this kind. */
	uint64_t blkno, ino, offset;
};

struct fsck_opts {
	bool data;		/* read and verify all file contents */
	bool heal;		/* write good copies over bad ones, durably */
	bool try_replay;	/* replay a journal that holds something, in memory only, to see whether that works */
	unsigned max_per_code;	/* findings handed out of each code; 0: all.  The rest is counted */
	/* A finding.  Strings end with the call. */
	void (*found)(void *arg, const struct fsck_finding *f);
	/* `pass` 1..5; may be NULL. */
	void (*progress)(void *arg, unsigned pass, uint64_t done, uint64_t total);
	/* True: stop, return -ECANCELED; may be NULL. */
	bool (*cancelled)(void *arg);
	void *arg;
	const struct diag *diag;	/* why it cannot be checked at all */
};

struct fsck_result {
	struct super sb;
	uint64_t generation;
	bool root_clean;	/* the newest root is marked clean and both slots are good */
	bool roots_ok;		/* no finding about superblocks or roots */
	uint64_t ninodes, nfree;	/* as the root says */
	uint64_t error_count, last_error_sec;
	/* Of the full check: */
	uint64_t nfiles, ndirs, nothers, norphans;
	/* How contents lie, of regular files that have extents and about whose extents nothing was found.  A piece is a run
	 * of extents that continue in the file and on the device. */
	uint64_t nmapped, nsplit;	/* such files; those in more than one piece */
	uint64_t nextents, npieces, nmapped_blocks;
	uint64_t log_frames, log_bytes;	/* yet to be replayed */
	struct log_tail tail;
	uint64_t stake_frames, stake_bytes;	/* of a damaged log: whole transactions behind the damage */
	uint64_t data_blocks;	/* verified */
	uint64_t nerrors, ninfos;
	uint64_t count[FSCK_NCODES];
	/* With opts.heal: findings that are mended by now; counted above too. */
	uint64_t nhealed;
	uint64_t healed[FSCK_NCODES];
};

/*
 * Checks everything.  0: done, out->nerrors says how it is.  Negative: it cannot be checked, diag says why: -ENOENT not a volume,
 * -EUCLEAN no superblock copy is intact, -ENOTSUP newer version or unknown features, -ENOSPC the device is shorter than the volume,
 * -ECANCELED, -ENOMEM, -EIO.
 */
int fsck_check(struct dev_queue *q, const struct fsck_opts *opts, struct fsck_result *out);

/* The same, but only superblocks and roots: a few reads. */
int fsck_check_roots(struct dev_queue *q, const struct fsck_opts *opts, struct fsck_result *out);

/* The same, and the journal: how it ends, and what is at stake. */
int fsck_check_journal(struct dev_queue *q, const struct fsck_opts *opts, struct fsck_result *out);

#endif
