/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rebuild_impl.h - what the files of the rebuild share.  Not for others.
 *
 * rebuild.c        the passes, and the order of writing
 * rules.c          an item by itself and among those of its inode: what is kept, in every pass alike
 * rules_extent.c   extents: what is cut off them, and who keeps a block that several claim
 * rules_names.c    entries against inodes, when all are known: who is dropped, who goes to lost+found
 * emit.c           the edited items, and those that are new, on their way into the loader
 * notes.c          what is told, with paths
 * newspace.c       blocks for the new nodes; bitmaps, tables and roots
 */
#ifndef HOLDFAST_FSCK_REBUILD_IMPL_H
#define HOLDFAST_FSCK_REBUILD_IMPL_H

#include "fsck/bulk.h"
#include "fsck/items.h"
#include "fsck/rebuild.h"

/* Numbers are given out in ascending order from 16 on, so none is near 2^63. */
#define INO_LIMIT (UINT64_C(1) << 63)

/* What is to become of an inode. */
struct fix_inode {
	uint64_t ino;
	uint64_t parent;	/* directories: as the item says; due once FIX_TAKEN */
	uint64_t size;		/* due */
	uint64_t nblocks;	/* due */
	uint64_t entry;		/* directories: index of the one that is kept, if FIX_TAKEN and not in lost+found */
	uint32_t nlink;		/* as the item says; due after names_decide() */
	uint32_t refs;		/* entries kept, new ones included */
	uint32_t subdirs;	/* of a directory, entries of directories kept in it */
	uint16_t flags;
	uint8_t ftype;		/* DT_* */
	uint8_t pad;
};
static_assert(sizeof(struct fix_inode) <= 64, "rebuild.h says what an inode costs");
#define FIX_MADE	1u	/* its inode item is lost or useless: a new one is made */
#define FIX_GONE	2u	/* dropped with all its items */
#define FIX_LISTED	4u	/* as an orphan */
#define FIX_INLINE	8u	/* contents are inline, due */
#define FIX_TAKEN	16u	/* directories: an entry of it is kept */
#define FIX_AT_PARENT	32u	/* directories: one of its entries is in the parent that it names */
#define FIX_ROOTED	64u	/* its parents lead to the root */
#define FIX_PATH	128u	/* on the path that is being followed */
#define FIX_NAMED	256u	/* its path will be told */
#define FIX_NEW		1024u	/* lost+found, which there was not */
#define FIX_CLEANUP	512u	/* an orphan that the next mount removes: left as it is */

/* A directory entry of the source, in its order. */
struct fix_entry {
	uint64_t ino;
	uint64_t dir_flags;	/* index of the directory in recs << 8 | flags */
};
#define ENT_FTYPE 15u
#define ENT_DROP  16u		/* not part of the result */
#define ENT_SAME  64u		/* its name is in the directory already */
#define ENT_LOOP  128u		/* it closed a circle of directories */

/* An item that the source does not have. */
struct fix_insert {
	struct key key;		/* of an entry: without its collision index */
	unsigned len;
	void *val;
};

/* A block that several extents, or an extent and a node, claim. */
struct fix_claim {
	uint64_t blkno, ino, file_block;
	unsigned score;		/* CLAIM_* */
};
enum { CLAIM_WRONG, CLAIM_UNWRITTEN, CLAIM_MATCHES };

struct fix_name {
	uint64_t ino;		/* of what is named */
	uint64_t dir;
	char *name;
};

struct fix_note {
	enum rebuild_what what;
	uint64_t ino;
	char *name;		/* an entry of directory `ino`; NULL: `ino` itself */
	char *text;
};

struct fix_attr {
	uint64_t ino, offset;
};

/* Of the inode whose items are passing by. */
struct object {
	uint64_t ino;		/* FSCK_NOWHERE: none yet */
	bool exists;		/* or will; its items may be kept */
	bool made;		/* FIX_MADE: nothing is known from an inode item */
	bool orphan;		/* listed as one */
	uint64_t rec;		/* index, if it exists */
	struct disk_inode di;	/* as the source has it */
	uint64_t nstray;	/* items of an inode that does not exist */
	uint64_t nmisfit;	/* items dropped because its type cannot have them */
	uint64_t nwrong;	/* items that make no sense */
	uint64_t ncut;		/* blocks of written extents that were cut off */

	uint64_t nblocks, nblocks_seen;	/* of extents: kept, and all */
	uint64_t end_block;	/* behind the last extent */
	uint64_t end_written;	/* behind the last written block kept */
	uint64_t inline_bytes;	/* without a hole, from 0 on */
	unsigned ninline;
	struct list heads;	/* struct attr_head, ascending */
	uint64_t next_head;
	struct name_set names;
};

enum rebuild_pass { PASS_COLLECT, PASS_CLAIM, PASS_WRITE };

struct rebuilder {
	struct dev_queue *q;
	const struct super *sb;
	const struct rebuild_base *base;
	struct item_source *src;
	const struct rebuild_opts *opts;
	struct rebuild_result *out;
	enum rebuild_pass pass;

	/* of the first pass */
	struct list recs;		/* struct fix_inode, ascending */
	struct list entries;		/* struct fix_entry */
	struct list orphans;		/* uint64_t, ascending */
	struct list attrs;		/* struct fix_attr, ascending: attributes that are incomplete */
	struct list lf_names, root_names;	/* uint64_t: hashes of names that must not be used again in lost+found, in / */
	uint64_t lf_ino;		/* what / names "lost+found"; 0: nothing */
	struct blockset busy;		/* blocks of all extents, and the source's own */
	struct blockset nodes;		/* the source's own */
	struct blockset shared;		/* blocks that may be claimed twice */
	bool have_shared;
	uint64_t nitems;
	uint32_t digest;		/* of all items */

	/* decided */
	struct list claims;		/* struct fix_claim, ascending: the winners */
	struct list inserts;		/* struct fix_insert, ascending */
	struct list notes;		/* struct fix_note */
	struct list names;		/* struct fix_name */
	uint64_t next_ino;
	uint64_t ninodes;
	bool want_names;
	int64_t now;			/* time of what is made */

	/* of the pass that runs */
	struct object *o;
	uint64_t next_rec, next_entry, next_orphan, next_attr, next_insert;
	uint64_t seen_items;
	uint32_t seen_digest;

	/* the result */
	struct bulk *bulk;		/* NULL: nothing is written */
	struct key last;		/* emitted */
	struct blockset used;		/* blocks of extents, later of nodes */
	uint64_t cursor[2];		/* where to look for blocks for the copies of the next node */
	uint64_t generation;
	bool flagged;			/* an inode has INODE_USER_FLAGS */
};

static inline struct fix_inode *rec_at(struct rebuilder *r, uint64_t index)
{
	return (struct fix_inode *)r->recs.item + index;
}
struct fix_inode *rec_find(struct rebuilder *r, uint64_t ino);

static inline struct fix_inode *entry_dir(struct rebuilder *r, const struct fix_entry *e)
{
	return rec_at(r, e->dir_flags >> 8);
}

/* rules.c: one item of the source, in any pass; the end of them. */
int rules_item(struct rebuilder *r, const struct key *key, const void *val, unsigned len);
int rules_end(struct rebuilder *r);
/* The record of an inode whose item is missing, at the end of recs. */
int rules_make_inode(struct rebuilder *r, uint64_t ino, uint8_t ftype, uint64_t *index);

/* rules_extent.c */
int extent_item(struct rebuilder *r, const struct key *key, const void *val, unsigned len);
/* Between PASS_CLAIM and PASS_WRITE: who keeps what. */
int claims_decide(struct rebuilder *r);

/* rules_names.c: all that is left open by the first pass. */
int names_decide(struct rebuilder *r);
/* Offset of a name's hash, without a collision index. */
uint64_t name_hash(const struct rebuilder *r, const char *name);

/* emit.c */
int emit(struct rebuilder *r, const struct key *key, const void *val, unsigned len);
int emit_inode(struct rebuilder *r, const struct fix_inode *rec, const struct disk_inode *di);
int emit_entry(struct rebuilder *r, const struct fix_entry *e, const struct key *key, const void *val, unsigned len);
int emit_rest(struct rebuilder *r);
int insert_inode(struct rebuilder *r, const struct fix_inode *rec);
int insert_entry(struct rebuilder *r, uint64_t dir, const char *name, uint64_t ino, uint8_t ftype);
void inserts_sort(struct rebuilder *r);

/* notes.c.  A note about an inode; about an entry of directory `dir`. */
int note(struct rebuilder *r, enum rebuild_what what, uint64_t ino, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
int note_entry(struct rebuilder *r, enum rebuild_what what, uint64_t dir, const void *name, unsigned len, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));
/* Marks whose names are wanted; then each entry kept in the last pass is shown to notes_name(). */
int notes_prepare(struct rebuilder *r);
int notes_name(struct rebuilder *r, uint64_t dir, const void *name, unsigned len, uint64_t ino);
void notes_tell(struct rebuilder *r);
bool notes_any_lost(const struct rebuilder *r);
void notes_free(struct rebuilder *r);

/* newspace.c */
bulk_space_fn newspace_get;	/* arg: the rebuilder */
/* Bitmaps and tables of what is in `used` by now; then the roots. */
int newspace_write(struct rebuilder *r, struct disk_root *root);
int newspace_write_roots(struct rebuilder *r, struct disk_root *root);

#endif
