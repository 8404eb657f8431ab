/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bug.h - deliberate mistakes, one of which a test build can switch on, to see that the tests find it.
 *
 * A check that cannot fail is worth nothing.  Each mistake stands where a programmer could have made it, as BUG(NAME) in a
 * condition.  In every program that is installed, and in every other test, BUG() is the constant false and the compiler
 * drops what depends on it.  Only the programs of tests/bugs/ have the files in question compiled once more, with
 * -DHOLDFAST_BUGS; docs/testing.md says how to run them and what they found, and tests/mount/test_bugs.py looks into what is installed.
 *
 * bug_active is a global, the only one: a mistake is a property of the code and not of an object, and handing a pointer
 * through every function for its sake would change the very code that is under test.  It exists in those test programs only.
 */
#ifndef HOLDFAST_CORE_BUG_H
#define HOLDFAST_CORE_BUG_H

/* X(enumerator, name, what goes wrong) */
/* clang-format off */
#define BUG_LIST(X) \
	/* The log. */ \
	X(DATA_FLUSH_LEFT_OUT, "data-flush-left-out", "no flush of the data that frames name") \
	X(DATA_NOT_AWAITED, "data-not-awaited", "frames are written before the writes of their data have ended") \
	X(DATA_ERROR_SWALLOWED, "data-error-swallowed", "a failed write of data does not fail the log") \
	X(ACK_BEFORE_WRITE, "ack-before-write", "a group is acknowledged when its write has been submitted") \
	X(LOG_NOT_DURABLE, "log-not-durable", "a group is written without durability, and acknowledged") \
	X(LOG_ERROR_IGNORED, "log-error-ignored", "a group whose write or flush failed is acknowledged") \
	X(JOURNAL_OVERRUN, "journal-overrun", "an append does not look whether the region has room") \
	X(CRC_WITHOUT_LSN, "crc-without-lsn", "a frame's checksum does not cover its LSN") \
	X(BAD_FRAME_ACCEPTED, "bad-frame-accepted", "a torn tail's frame is accepted, its checksum is not compared") \
	/* Recovery. */ \
	X(DAMAGE_TAKEN_FOR_TAIL, "damage-taken-for-tail", "a damaged middle of the log is cut off like a torn tail") \
	X(HOME_NOT_VERIFIED, "home-not-verified", "recovery does not look whether the data is there that the last groups name") \
	X(LAP_JUMP_LEFT_OUT, "lap-jump-left-out", "after a recovery the log goes on at the same LSN") \
	X(APPLIED_LSN_IGNORED, "applied-lsn-ignored", "frames that the root contains already are replayed again") \
	X(ALLOC_NOT_REPLAYED, "alloc-not-replayed", "replay does not mark the blocks that a frame allocates") \
	X(ROOT_ALWAYS_CLEAN, "root-always-clean", "every root claims that nothing was appended behind it") \
	/* Checkpoint. */ \
	X(HOME_BEFORE_FRAMES, "home-before-frames", "logged pages are placed home before their frames are durable") \
	X(ROOT_BEFORE_NODES, "root-before-nodes", "the root is written before the nodes and bitmaps it names") \
	X(ROOT_WITHOUT_FLUSH, "root-without-flush", "no flush between nodes and root") \
	X(ROOT_NOT_DURABLE, "root-not-durable", "the root is written without durability") \
	X(PAGES_NOT_PLACED, "pages-not-placed", "logged pages are not placed home") \
	X(SECOND_COPY_NOT_WRITTEN, "second-copy-not-written", "a node is written once") \
	X(FROZEN_PAGE_CHANGED, "frozen-page-changed", "a page that is being placed home is changed, not copied") \
	X(DISCARD_BEFORE_ROOT, "discard-before-root", "freed blocks are discarded while the old root needs them") \
	X(CLEAN_ROOT_LEFT, "clean-root-left", "what changes a volume at rest does not wait for a root that is not clean") \
	X(NEXT_INO_NOT_SAVED, "next-ino-not-saved", "the root does not keep the next inode number") \
	/* The volume. */ \
	X(LABEL_NOT_DURABLE, "label-not-durable", "the superblock is written without durability") \
	X(SHUT_FORGOTTEN, "shut-forgotten", "after a shutdown, what is in memory is still served") \
	/* Free space. */ \
	X(BITMAP_SLOT_NOT_FLIPPED, "bitmap-slot-not-flipped", "a bitmap is written over its current version") \
	X(TABLE_SLOT_NOT_FLIPPED, "table-slot-not-flipped", "an allocation table is written over its current version") \
	X(FREED_BLOCK_REUSED, "freed-block-reused", "a freed block is handed out before the root that forgets it") \
	X(NFREE_MISCOUNTED, "nfree-miscounted", "the root's count of free blocks lacks those just freed") \
	X(OLD_NODE_LEAKED, "old-node-leaked", "the second copy of a replaced node is never freed") \
	X(DATA_TAKES_PROMISED, "data-takes-promised", "data is given the blocks that were promised to nodes") \
	X(CACHED_ROOM_NOT_KEPT, "cached-room-not-kept", "no room is kept for writes that were acknowledged before they come") \
	X(TRIM_RELEASED_EARLY, "trim-released-early", "blocks are handed out again while they are being discarded") \
	/* Contents. */ \
	X(DATA_NOT_VERIFIED, "data-not-verified", "a read does not compare checksums") \
	X(SECOND_COPY_NOT_TRIED, "second-copy-not-tried", "a bad copy of metadata is final") \
	X(OVERWRITE_IN_PLACE, "overwrite-in-place", "whole blocks are overwritten at home, past the log") \
	X(CSUM_BEFORE_BYTES, "csum-before-bytes", "a partly written block's checksum lacks the new bytes") \
	X(FRESH_NOT_ZEROED, "fresh-not-zeroed", "the rest of a new block is whatever was in memory") \
	X(TRUNC_TAIL_LEFT, "trunc-tail-left", "a truncation leaves the bytes behind the end in the last block") \
	/* Names and attributes. */ \
	X(RENAME_IN_TWO, "rename-in-two", "a rename's entries and counts are two transactions") \
	X(ORPHAN_ITEM_DROPPED, "orphan-item-dropped", "an unlinked open file is not listed for removal") \
	X(NLINK_NOT_LOWERED, "nlink-not-lowered", "unlink leaves the link count") \
	X(MTIME_FORGOTTEN, "mtime-forgotten", "a write leaves the file's times") \
	X(XATTR_CHUNK_LEFT, "xattr-chunk-left", "a shorter value leaves the longer one's chunks") \
	X(ACL_WITHOUT_MODE, "acl-without-mode", "an access ACL that is set leaves the mode") \
	X(ACL_IN_TWO, "acl-in-two", "an access ACL and the mode change in two transactions") \
	X(ACL_LEFT_BY_CHMOD, "acl-left-by-chmod", "chmod leaves the access ACL") \
	X(DEFAULT_ACL_STALE, "default-acl-stale", "that a directory has a default ACL now is not noted") \
	X(FLAGS_NOT_IN_RENAME, "flags-not-in-rename", "a rename asks nobody for flags that forbid it") \
	X(LAZY_TIME_DROPPED, "lazy-time-dropped", "an inode is forgotten with a time of access that is only in memory") \
	X(CHANGE_NOT_NOTED, "change-not-noted", "an inode's last LSN is not kept: fsync returns early") \
	X(FDATASYNC_IGNORES_SIZE, "fdatasync-ignores-size", "fdatasync does not wait for a truncation")
/* clang-format on */

enum bug {
	BUG_NONE,
#define X(id, name, what) BUG_##id,
	BUG_LIST(X)
#undef X
	BUG_COUNT
};

#ifdef HOLDFAST_BUGS
extern enum bug bug_active;
const char *bug_name(enum bug bug);
const char *bug_what(enum bug bug);
enum bug bug_find(const char *name);	/* BUG_NONE: there is none of this name */
#define BUG(id) (__builtin_expect(bug_active == BUG_##id, 0))
#else
#define BUG(id) (BUG_##id == BUG_NONE)	/* false; a name that does not exist fails to compile */
#endif

#endif
