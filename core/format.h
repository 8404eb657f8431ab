/* SPDX-License-Identifier: Apache-2.0 */
/*
 * format.h - every byte that Holdfast keeps on a device.  docs/format.md is the normative text; a
 * test compares the two.  No I/O here: structures, accessors, geometry, verifiers.
 *
 * Integers are little-endian behind le16/le32/le64, one-member structs that do not mix with host
 * values.  Fields are naturally aligned; padding has a name, is written as zero and is checked.
 * The unit is the 4 KiB block; a "blkno" counts blocks from the start of the device.
 */
#ifndef HOLDFAST_CORE_FORMAT_H
#define HOLDFAST_CORE_FORMAT_H

#include <assert.h>
#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/err.h"

typedef struct { uint16_t raw; } le16;
typedef struct { uint32_t raw; } le32;
typedef struct { uint64_t raw; } le64;

static inline uint16_t get16(le16 v) { return le16toh(v.raw); }
static inline uint32_t get32(le32 v) { return le32toh(v.raw); }
static inline uint64_t get64(le64 v) { return le64toh(v.raw); }
static inline le16 put16(uint16_t v) { return (le16){htole16(v)}; }
static inline le32 put32(uint32_t v) { return (le32){htole32(v)}; }
static inline le64 put64(uint64_t v) { return (le64){htole64(v)}; }

#define BLOCK_SIZE  4096u
#define BLOCK_SHIFT 12
#define UUID_BYTES  16

/* --- common header of every metadata block -------------------------------------------------- */

/*
 * `csum` is the CRC-32C of bytes 4..4095 of the block.  `blkno` names the addresses of the block's two
 * identical copies (superblocks: own address and 0), so a block that was written to the wrong place
 * is recognised; `uuid` is the volume's, so one of an older volume is; `generation` is that of the
 * checkpoint that wrote it.
 */
struct disk_header {
	le32 csum;
	le32 magic;
	le64 blkno[2];
	le64 generation;
	uint8_t uuid[UUID_BYTES];
};
static_assert(sizeof(struct disk_header) == 48, "disk_header");

#define MAGIC_SUPER  0x53464c48u	/* "HLFS" */
#define MAGIC_ROOT   0x52464c48u	/* "HLFR" */
#define MAGIC_NODE   0x4e464c48u	/* "HLFN" */
#define MAGIC_BITMAP 0x42464c48u	/* "HLFB" */
#define MAGIC_TABLE  0x54464c48u	/* "HLFT" */

/* --- superblock ------------------------------------------------------------------------------ */

#define SUPER_SIGNATURE "HOLDFAST"
#define FORMAT_VERSION  1u
#define LABEL_BYTES     256	/* with the terminating NUL */
#define SUPER_COPIES    3

/* Features this code knows.  Unknown compat: ignore; ro_compat: mount read-only; incompat: refuse. */
#define FEATURE_COMPAT_KNOWN    0u
#define FEATURE_RO_COMPAT_KNOWN 0u
#define FEATURE_INCOMPAT_INODE_FLAGS 1u	/* inodes may have INODE_USER_FLAGS */
#define FEATURE_INCOMPAT_KNOWN  FEATURE_INCOMPAT_INODE_FLAGS

/* Identity and geometry; only the label and features change after mkfs.  Copies at blocks 16, 32 and nblocks - 1. */
struct disk_super {
	struct disk_header h;
	uint8_t signature[8];
	le32 version;
	le32 block_size;
	le32 compat;
	le32 ro_compat;
	le32 incompat;
	le32 ngroups;
	le64 nblocks;
	le64 journal_blkno;
	le64 journal_nblocks;
	le64 table_blkno[2];	/* per copy: first block of the area of 2 * ntables blocks */
	le64 bitmap_blkno[2];	/* per copy: first block of the area of 2 * ngroups blocks */
	le32 ntables;
	le32 created_nsec;
	le64 created_sec;
	uint8_t hash_key[16];	/* secret of the directory and xattr name hash */
	uint8_t label[LABEL_BYTES];
	uint8_t pad[BLOCK_SIZE - 424];
};
static_assert(sizeof(struct disk_super) == BLOCK_SIZE, "disk_super");
static_assert(offsetof(struct disk_super, pad) == 424, "disk_super.pad");

/* --- checkpoint root --------------------------------------------------------------------------- */

struct disk_ptr {
	le64 blkno[2];		/* both 0: no node */
	le64 generation;
	le32 csum;		/* equals the node's header csum */
	le32 pad;
};
static_assert(sizeof(struct disk_ptr) == 32, "disk_ptr");

#define MAX_TABLES 768u
#define ROOT_CLEAN 1u		/* flags: the log is empty, nothing was ever written behind replay_lsn */

/* Two slots, written alternately (slot = generation & 1), each in two copies. */
struct disk_root {
	struct disk_header h;
	le64 replay_lsn;	/* replay starts here, at a group; a multiple of BLOCK_SIZE */
	le64 applied_lsn;	/* frames that end at or below it are in the tree already; < replay_lsn + journal */
	le64 next_ino;
	le64 ninodes;
	le64 nfree;		/* free blocks, as the bitmaps of this root have them */
	le64 flags;
	le64 written_sec;	/* wall clock, information only */
	le64 mount_count;
	le64 error_count;	/* damage met since mkfs, or a check that found none */
	le64 last_error_sec;
	struct disk_ptr tree;
	uint8_t tree_level;	/* of the root node; 0 = a leaf */
	uint8_t pad0[7];
	uint8_t table_slot[MAX_TABLES / 8];	/* bit t: current slot of table block t */
	le32 table_csum[MAX_TABLES];		/* header csum of the current table blocks */
	uint8_t pad[BLOCK_SIZE - 3336];
};
static_assert(sizeof(struct disk_root) == BLOCK_SIZE, "disk_root");
static_assert(offsetof(struct disk_root, pad) == 3336, "disk_root.pad");

/* --- free space: bitmaps in groups, and the table that says which slot is current -------------- */

#define GROUP_BLOCKS ((BLOCK_SIZE - 64) * 8)	/* 32256 blocks, 126 MiB */

/* Bit b of byte b/8 (LSB first) set: block group * GROUP_BLOCKS + b is used (or behind the volume's end). */
struct disk_bitmap {
	struct disk_header h;
	le32 group;
	le32 nfree;		/* clear bits */
	uint8_t pad[8];
	uint8_t bits[GROUP_BLOCKS / 8];
};
static_assert(sizeof(struct disk_bitmap) == BLOCK_SIZE, "disk_bitmap");

struct disk_table_entry {
	le32 csum;		/* header csum of the group's current bitmap block; 0 if uninit */
	le32 info;
};
#define TABLE_NFREE(info)  ((info) & 0xffffu)
#define TABLE_UNINIT       0x40000000u	/* never written: only the fixed areas are used */
#define TABLE_SLOT         0x80000000u	/* the current slot, 0 or 1 */
#define TABLE_INFO_KNOWN   (0xffffu | TABLE_UNINIT | TABLE_SLOT)
#define TABLE_GROUPS       504u

/* Entry e of table block t describes group t * TABLE_GROUPS + e. */
struct disk_table {
	struct disk_header h;
	le32 index;
	le32 nentries;
	uint8_t pad[8];
	struct disk_table_entry entry[TABLE_GROUPS];
};
static_assert(sizeof(struct disk_table) == BLOCK_SIZE, "disk_table");

/* --- tree nodes ------------------------------------------------------------------------------- */

struct disk_slot {
	le64 object;
	le64 offset;
	uint8_t type;
	uint8_t pad0;
	le16 pos;		/* of the value, from the start of the block */
	le16 len;
	le16 pad1;
};
static_assert(sizeof(struct disk_slot) == 24, "disk_slot");

/*
 * A slotted page.  Slots in ascending key order from `slot` on; values packed against the end of
 * the block in slot order: slot 0's value ends at 4096, slot i's ends where slot i-1's begins.
 * The gap between slots and values is zero when written.
 * In inner nodes (level > 0) a value is a struct disk_ptr and no key below it is lower than the slot's
 * key: child i's keys are in [slot i's key, slot i+1's key or the node's own upper bound).  Slot 0's key may be
 * higher than the parent's key for the node; a search takes slot 0 for minus infinity, an insertion below it lowers
 * it.  Only a root may be empty, and only a leaf.
 */
struct disk_node {
	struct disk_header h;
	le16 nitems;
	le16 data_pos;		/* where the last slot's value begins; 4096 when empty */
	uint8_t level;
	uint8_t pad[11];
	struct disk_slot slot[];
};
static_assert(sizeof(struct disk_node) == 64, "disk_node");

#define NODE_SPACE   (BLOCK_SIZE - (unsigned)sizeof(struct disk_node))
#define MAX_ITEM     1280u	/* bytes of a value; three of them and their slots fit a node */
#define MAX_LEVEL    12u
#define MAX_NODE_ITEMS (NODE_SPACE / (unsigned)sizeof(struct disk_slot))
static_assert(3 * (MAX_ITEM + sizeof(struct disk_slot)) <= NODE_SPACE, "three items a node");

/* --- items ------------------------------------------------------------------------------------ */

/* Keys compare by object, then type, then offset. */
struct key {
	uint64_t object;
	uint64_t offset;
	uint8_t type;
};

enum item_type {
	ITEM_INODE = 1,		/* object = inode number, offset 0: struct disk_inode */
	ITEM_INLINE = 2,	/* offset = byte offset: contents of a small file, a symlink's target */
	ITEM_XATTR = 3,		/* offset = xattr_offset(): struct disk_xattr */
	ITEM_XATTR_MORE = 4,	/* offset = xattr offset << 7 | chunk: the value's next XATTR_CHUNK bytes */
	ITEM_DIRENT = 5,	/* offset = dirent_offset(): struct disk_dirent */
	ITEM_EXTENT = 6,	/* offset = first file block: struct disk_extent */
	ITEM_ORPHAN = 7,	/* object 0, offset = inode number, empty: unlinked, to be removed */
};

#define INO_VOLUME 0u		/* object of items that belong to no inode */
#define INO_ROOT   1u
#define INO_FIRST  16u		/* first number given to files; 2..15 are reserved */

#define MAX_FILE_SIZE ((uint64_t)INT64_MAX)
#define MAX_NAME      255u
#define MAX_SYMLINK   4095u
#define MAX_LINKS     65000u
#define INLINE_MAX    1024u	/* a regular file of at most this many bytes may be inline, in one item */
#define INLINE_CHUNK  1024u	/* symlink targets: items of this many bytes at offsets 0, 1024, ... */

struct disk_time {
	le64 sec;		/* signed */
	le32 nsec;
	le32 pad;
};

#define INODE_INLINE   1u	/* flags: contents are in ITEM_INLINE, there are no extents */
/* Those that users set and see; the numbers are those of Linux (FS_*_FL). */
#define INODE_SYNC      0x8u	/* changes are acknowledged when durable */
#define INODE_IMMUTABLE 0x10u
#define INODE_APPEND    0x20u	/* contents: only to be appended to; directories: no entry may go */
#define INODE_NODUMP    0x40u	/* backup programs leave it out */
#define INODE_NOATIME   0x80u
#define INODE_DIRSYNC   0x10000u	/* directories: as INODE_SYNC, for entries */
#define INODE_USER_FLAGS                                                                                              \
	(INODE_SYNC | INODE_IMMUTABLE | INODE_APPEND | INODE_NODUMP | INODE_NOATIME | INODE_DIRSYNC)
#define INODE_FLAGS_KNOWN (INODE_INLINE | INODE_USER_FLAGS)

struct disk_inode {
	le64 size;		/* bytes; directories: number of entries */
	le64 nblocks;		/* blocks in its extents */
	le32 mode;		/* as st_mode */
	le32 uid;
	le32 gid;
	le32 nlink;		/* directories: 2 + number of subdirectories */
	le64 rdev;
	le64 flags;
	le64 parent;		/* directories: inode number of "..", else 0 */
	le64 generation;	/* of the checkpoint current when it was made */
	struct disk_time atime, mtime, ctime, btime;
};
static_assert(sizeof(struct disk_inode) == 128, "disk_inode");

/* Entries whose names hash alike take successive offsets (collision index in the low byte). */
struct disk_dirent {
	le64 ino;
	uint8_t ftype;		/* DT_* of <dirent.h> */
	uint8_t name_len;
	uint8_t pad[6];
	uint8_t name[];
};
static_assert(sizeof(struct disk_dirent) == 16, "disk_dirent");

#define XATTR_HEAD_MAX 768u	/* value bytes in the head item */
#define XATTR_CHUNK    1024u
#define MAX_XATTR      65536u
struct disk_xattr {
	le32 value_len;
	uint8_t name_len;
	uint8_t pad[3];
	uint8_t name[];		/* then the first min(value_len, XATTR_HEAD_MAX) bytes of the value */
};
static_assert(sizeof(struct disk_xattr) == 8, "disk_xattr");

#define EXTENT_MAX_BLOCKS 256u
#define EXTENT_UNWRITTEN  1u	/* flags: allocated, reads as zeros, no checksums */
struct disk_extent {
	le64 blkno;
	le32 nblocks;		/* 1..EXTENT_MAX_BLOCKS */
	le32 flags;
	le32 csum[];		/* CRC-32C of each block's 4096 bytes; absent if unwritten */
};
static_assert(sizeof(struct disk_extent) == 16, "disk_extent");
static_assert(sizeof(struct disk_extent) + 4 * EXTENT_MAX_BLOCKS <= MAX_ITEM, "extent fits");

/* Checksum of the i-th block of a written extent's item, which passed item_check(). */
static inline uint32_t extent_item_csum(const void *val, uint64_t i)
{
	le32 csum;

	memcpy(&csum, (const uint8_t *)val + sizeof(struct disk_extent) + 4 * i, sizeof(csum));
	return get32(csum);
}

/* --- journal ---------------------------------------------------------------------------------- */

/*
 * A frame: magic, len, payload of len bytes, crc.  crc = CRC-32C over the volume's uuid, the frame's
 * LSN (le64: offset of its first byte in the endless log), magic, len and payload.  So neither an earlier
 * lap of the ring nor another volume validates.  No alignment.
 */
struct disk_frame {
	le32 magic;
	le32 len;
};
#define FRAME_MAGIC    0x314a4648u	/* "HFJ1", no zero byte */
#define FRAME_OVERHEAD 12u

/* The first byte of a non-empty payload. */
enum record_type { RECORD_GROUP = 1, RECORD_TXN = 2, RECORD_PAD = 3 };

/* First frame of every group; groups begin and end on block boundaries. */
struct disk_group {
	uint8_t type;		/* RECORD_GROUP */
	uint8_t flags;		/* GROUP_ONE_FLUSH */
	uint8_t pad[6];
	le64 durable_lsn;	/* everything below was on media when this group was written */
	le64 len;		/* bytes of the whole group, padding included */
};
static_assert(sizeof(struct disk_group) == 24, "disk_group");
#define GROUP_ONE_FLUSH 1u	/* not flushed between the data that it names and itself: after a power cut that may be missing */

struct disk_txn {
	uint8_t type;		/* RECORD_TXN */
	uint8_t pad[3];
	le32 nops;
};
static_assert(sizeof(struct disk_txn) == 8, "disk_txn");

/*
 * Operations follow, each a struct disk_op and `len` bytes, padded with zeros to a multiple of 8.
 * They hold physical values; replay applies them in order.
 */
enum op_type {
	OP_PUT = 1,	/* key; the item's new value */
	OP_DEL = 2,	/* key; no bytes.  The item exists */
	OP_PATCH = 3,	/* key; overwrite the value's bytes at `at`; may reach past its end by whole appends */
	OP_ALLOC = 4,	/* object = blkno, offset = count.  Were free */
	OP_FREE = 5,	/* object = blkno, offset = count.  Were used; not reusable before the next root */
	OP_DATA = 6,	/* object = blkno, at = byte in the block: file data.  type = OP_DATA_FRESH or 0 */
	OP_NEXT_INO = 7,/* object = next inode number */
	OP_HOME = 8,	/* object = inode, offset = first file block, struct disk_home: data written straight to its place */
};
/* What replaying one transaction may need of memory follows from these. */
#define TXN_MAX_OPS  16384u
#define TXN_MAX_DATA 1024u	/* OP_DATA among them */
#define OP_DATA_FRESH 1u	/* the rest of the block is zeros; else it is what the block held */

struct disk_op {
	uint8_t op;
	uint8_t type;		/* the key's type */
	le16 at;
	le32 len;
	le64 object;
	le64 offset;
};
static_assert(sizeof(struct disk_op) == 24, "disk_op");

/* Of OP_HOME.  Changes nothing: it says what recovery is to look at, if the group is GROUP_ONE_FLUSH. */
struct disk_home {
	le64 blkno;
	le64 nblocks;		/* 1..EXTENT_MAX_BLOCKS */
};
static_assert(sizeof(struct disk_home) == 16, "disk_home");
#define UNPROVEN_MAX (64u << 20)	/* bytes of such data that recovery may have to look at */
#define UNPROVEN_GROUPS 16u		/* groups of that kind */

/* --- geometry --------------------------------------------------------------------------------- */

#define SUPER_BLKNO0  16u
#define SUPER_BLKNO1  32u
#define ROOT_BLKNO    17u	/* slot s, copy 0; copy 1 is at nblocks - 3 + s */
#define JOURNAL_BLKNO 64u
#define MIN_BLOCKS    1024u	/* 4 MiB */
#define MIN_DATA      256u	/* blocks that the fixed areas must leave */
#define MIN_JOURNAL   128u	/* blocks */
#define MAX_JOURNAL   (1u << 20)	/* blocks: 4 GiB */
#define MAX_BLOCKS    ((uint64_t)MAX_TABLES * TABLE_GROUPS * GROUP_BLOCKS)

/* The superblock in host form: what every layer passes around. */
struct super {
	uint8_t uuid[UUID_BYTES];
	uint8_t hash_key[16];
	char label[LABEL_BYTES];
	uint64_t nblocks;
	uint64_t journal_blkno, journal_nblocks;
	uint64_t table_blkno[2], bitmap_blkno[2];
	uint32_t ngroups, ntables;
	uint32_t compat, ro_compat, incompat;
	int64_t created_sec;
	uint32_t created_nsec;
};

/* Those of INODE_USER_FLAGS that an inode of this mode may have. */
uint32_t inode_user_mask(uint32_t mode);

/* Where copy `copy` of these lives. */
static inline uint64_t super_blkno(uint64_t nblocks, unsigned copy)
{
	return copy == 0 ? SUPER_BLKNO0 : copy == 1 ? SUPER_BLKNO1 : nblocks - 1;
}

static inline uint64_t root_blkno(const struct super *sb, unsigned slot, unsigned copy)
{
	return copy == 0 ? ROOT_BLKNO + slot : sb->nblocks - 3 + slot;
}

static inline uint64_t table_blkno(const struct super *sb, uint32_t t, unsigned slot, unsigned copy)
{
	return sb->table_blkno[copy] + 2 * (uint64_t)t + slot;
}

static inline uint64_t bitmap_blkno(const struct super *sb, uint32_t group, unsigned slot, unsigned copy)
{
	return sb->bitmap_blkno[copy] + 2 * (uint64_t)group + slot;
}

/* Blocks of a group: GROUP_BLOCKS save for the last one. */
static inline uint32_t group_nblocks(const struct super *sb, uint32_t group)
{
	uint64_t left = sb->nblocks - (uint64_t)group * GROUP_BLOCKS;

	return left < GROUP_BLOCKS ? (uint32_t)left : GROUP_BLOCKS;
}

/* The blocks outside the fixed areas are one run, [super_data_begin(), super_data_end()). */
static inline uint64_t super_data_begin(const struct super *sb)
{
	return sb->bitmap_blkno[0] + 2 * (uint64_t)sb->ngroups;
}

static inline uint64_t super_data_end(const struct super *sb)
{
	return sb->table_blkno[1];
}

/* Blocks of a group outside the fixed areas: its free count as long as it is uninit. */
static inline uint32_t group_ndata(const struct super *sb, uint32_t group)
{
	uint64_t first = (uint64_t)group * GROUP_BLOCKS, end = first + group_nblocks(sb, group);

	if (first < super_data_begin(sb))
		first = super_data_begin(sb);
	if (end > super_data_end(sb))
		end = super_data_end(sb);
	return first < end ? (uint32_t)(end - first) : 0;
}

/*
 * Fills geometry fields of *sb (nblocks and journal_nblocks given, the rest of the identity untouched):
 * journal at JOURNAL_BLKNO, copy 0 of tables and bitmaps behind it, copy 1 before the root copies at the end.
 * -EINVAL if the volume is too small (less than MIN_DATA blocks remain) or too large for that, or the journal out of
 * range.
 */
int super_layout(struct super *sb);

/* Is `blkno` in a fixed area (superblocks, roots, journal, tables, bitmaps, blocks 0..63)? */
bool super_is_fixed(const struct super *sb, uint64_t blkno);

/* Next boundary: the smallest b > blkno where super_is_fixed() may change, or nblocks. */
uint64_t super_fixed_end(const struct super *sb, uint64_t blkno);

/* --- sealing and checking --------------------------------------------------------------------- */

/* Fills the common header (all but csum) of a block. */
void header_init(void *block, uint32_t magic, const uint8_t uuid[UUID_BYTES], uint64_t blkno0, uint64_t blkno1,
		 uint64_t generation);

/* Computes and stores csum; returns it.  Last step before a block is written. */
uint32_t header_seal(void *block);

/*
 * Verifiers: used after reading, before writing, and by fsck.  They report through corrupt(d, ...) with the address
 * and what is wrong, and return 0 or -EUCLEAN; with d == NULL silently.  A block that passes can be
 * walked without further bounds checks on what its verifier covers.
 */
int header_check(const void *block, uint32_t magic, const struct super *sb, uint64_t blkno, const struct diag *d);

/*
 * Superblock read from `blkno` of a device of `dev_nblocks` blocks.  Checks checksum, signature, version, and that the geometry
 * is what super_layout() yields and fits the device, then fills *sb (features included, not judged).
 * -EUCLEAN damaged, -ENOENT no Holdfast signature here at all, -ENOTSUP another version, -ENOSPC device smaller than the volume.
 */
int super_decode(const void *block, uint64_t blkno, uint64_t dev_nblocks, const struct diag *d, struct super *sb);

/* Builds and seals copy `copy`. */
void super_encode(const struct super *sb, unsigned copy, void *block);

/* A root in `slot`, read from either copy: header, slot parity, pointer bounds, padding, counters in range. */
int root_check(const void *block, const struct super *sb, unsigned slot, const struct diag *d);

/*
 * A node read through `ptr` (blkno: where it was read): header, both addresses, generation and csum equal to the pointer's,
 * level == `level`, slots and values canonical, keys ascending and inside [lo, hi) (hi NULL: no upper bound), inner
 * values are pointers in range, and in leaves item_check() of each item.
 */
int node_check(const void *block, const struct super *sb, const struct disk_ptr *ptr, uint64_t blkno, unsigned level,
	       const struct key *lo, const struct key *hi, const struct diag *d);

/* Only the page of it: header and pointer as above, every slot and value inside the block.  Keys and values may be anything. */
int node_check_form(const void *block, const struct super *sb, const struct disk_ptr *ptr, uint64_t blkno, unsigned level,
		    const struct diag *d);

/* A leaf item by itself: known type, length, field ranges (extents inside the volume, names, times...). */
int item_check(const struct super *sb, const struct key *key, const void *val, unsigned len, const struct diag *d);

int bitmap_check(const void *block, const struct super *sb, uint32_t group, unsigned slot, uint32_t csum,
		 const struct diag *d);
int table_check(const void *block, const struct super *sb, uint32_t index, unsigned slot, uint32_t csum,
		const struct diag *d);

/* A node pointer's addresses are in the volume, distinct and not in a fixed area. */
bool ptr_in_range(const struct super *sb, const struct disk_ptr *ptr);

/* --- keys and names --------------------------------------------------------------------------- */

static inline int key_cmp(const struct key *a, const struct key *b)
{
	if (a->object != b->object)
		return a->object < b->object ? -1 : 1;
	if (a->type != b->type)
		return a->type < b->type ? -1 : 1;
	if (a->offset != b->offset)
		return a->offset < b->offset ? -1 : 1;
	return 0;
}

static inline struct key key_make(uint64_t object, uint8_t type, uint64_t offset)
{
	return (struct key){.object = object, .offset = offset, .type = type};
}

static inline struct key slot_key(const struct disk_slot *s)
{
	return key_make(get64(s->object), s->type, get64(s->offset));
}

/* Collision indexes per hash value, for entries and for xattrs. */
#define HASH_COLLISIONS 256u

/*
 * Offset of the first item a name may have: keyed hash of the name, low byte clear.  Directory entries: 63 bits, at least 256 and
 * below 2^63 - 256, so that offset + 1 is a readdir cookie (1 and 2 are behind "." and "..").  Xattrs: 56 bits, at least 256.
 * The hash is SipHash-2-4 (Aumasson, Bernstein 2012) with the volume's hash_key.
 */
uint64_t dirent_offset(const struct super *sb, const void *name, size_t len);
uint64_t xattr_offset(const struct super *sb, const void *name, size_t len);

uint64_t siphash24(const uint8_t key[16], const void *data, size_t len);

#endif
