/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model.h - what a filesystem is, in plain memory: the truth that the simulation compares with.
 *
 * Knows POSIX and docs/, and nothing of how Holdfast does it; shares no code with fs/.  There is no device here, no space that runs
 * out and no error but those that a caller earns.
 *
 * Every change becomes one record of a history, with a hash of the whole tree after it, and can be taken back; so the tree after
 * any number of changes is at hand when a power cut has to be judged.
 *
 * Always:
 *   1. A version of an inode is never changed once its change is committed: a later change copies it.  The bytes that it
 *      consists of (pages, names, values) are shared between versions by reference counts.
 *   2. model->hash is the sum of the hashes of all inodes with links, each over everything that can be seen of it.
 *   3. rec[n] belongs to the state after n changes; rec[0] is where this life began.
 */
#ifndef HOLDFAST_TESTS_SIM_MODEL_H
#define HOLDFAST_TESTS_SIM_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

#define MODEL_PAGE 4096u
#define MODEL_ROOT 1u

/* --- bytes that versions share --- */

struct blob {
	unsigned refs;
	uint32_t len;
	uint64_t hash;
	uint8_t data[];
};

uint64_t hash_bytes(uint64_t seed, const void *data, size_t len);
uint64_t hash_mix(uint64_t a, uint64_t b);
struct blob *blob_new(const void *data, size_t len);
void blob_put(struct blob *b);

/* --- inodes --- */

enum mstate {
	M_HOLE,
	M_UNWRITTEN,	/* reserved; reads as zeros */
	M_DATA,		/* page NULL: zeros, and whether that is data or a hole is nobody's promise */
};

struct mblock {
	uint64_t block;
	struct blob *page;	/* NULL: zeros */
	enum mstate state;	/* never M_HOLE: those are not listed */
};

struct mentry {
	struct blob *name;
	uint64_t ino;
	uint32_t type;		/* S_IFMT bits */
};

struct mxattr {
	struct blob *name, *value;
};

/* A vector of one of those: blocks ascending, others in any order.  Each version has its own. */
struct mvec {
	unsigned n, cap;
	union {
		struct mblock *block;
		struct mentry *entry;
		struct mxattr *xattr;
		void *any;
	};
};

struct minode {
	unsigned refs;
	uint64_t ino;
	uint64_t label;		/* of the operation that made it: what stays the same when others are left out */
	uint32_t mode, nlink, uid, gid;
	uint32_t flags;		/* of chattr(1) */
	uint64_t rdev, size, parent;
	struct timespec atime, mtime, ctime, btime;
	/* The time of access is newer than what is stored, which is this; the hash has what is stored. */
	bool lazy;
	struct timespec stored_atime;
	struct blob *target;	/* symlinks */
	struct mvec *blocks, *entries, *xattrs;	/* NULL: none */
	uint64_t sum;		/* of the hashes of their elements */
	uint64_t hash;
	/* So small that the first block may be kept in another way, which SEEK_HOLE shows. */
	bool first_loose;
	/* The last change of it, and of what fdatasync covers, as numbers of records. */
	unsigned changed, changed_data;
};

struct mrec {
	uint64_t hash, next_ino;
	unsigned undo;		/* entries of model->undo that belong to earlier records */
	uint32_t label;		/* of the operation */
	/* A fallocate() that takes several transactions: may be seen half done.  len 0: not one. */
	uint64_t ino, off, len;
	int mode;
	struct timespec now;
};

struct mundo {
	uint64_t ino;
	struct minode *old;	/* NULL: there was none */
};

struct model {
	struct minode **tab;	/* by number */
	unsigned ntab;
	uint64_t next_ino;	/* all numbers given out are below */
	uint64_t hash;
	uint64_t nblocks;	/* that regular files occupy, unlinked ones included */
	struct mrec *rec;
	unsigned nrec, cap_rec;	/* the last one is rec[nrec] */
	struct mundo *undo;
	unsigned nundo, cap_undo;
	unsigned open_undo;	/* where the change under way began */
	struct timespec now;
	uint32_t label;
};

struct model *model_new(uint32_t root_mode, const struct timespec *now);
void model_free(struct model *m);
/* An independent one in the same state, with an empty history. */
struct model *model_clone(const struct model *m);

/* Takes changes back until only the first n are there. */
void model_rollback(struct model *m, unsigned n);
/* What is there now is where a new life begins: unlinked inodes go, the history is empty. */
void model_rebase(struct model *m);

struct minode *model_get(const struct model *m, uint64_t ino);

/* --- a change (for the files of the model) --- */

struct minode *model_edit(struct model *m, uint64_t ino);
struct minode *model_add(struct model *m, uint64_t ino);
void model_del(struct model *m, uint64_t ino);
void model_commit(struct model *m);
void minode_touch(struct model *m, struct minode *i, bool data);
uint64_t minode_hash(const struct minode *i);

/* Sets an attribute; `value` NULL: there is none. */
void minode_put_xattr(struct minode *i, const char *name, const void *value, size_t len);
/* The mode was set; a new inode gets what its directory hands down. */
void minode_follow_mode(struct minode *i);
void minode_inherit(struct minode *i, const struct minode *dir, uint32_t umask);

/* An element's share of minode.sum. */
uint64_t mblock_hash(const struct mblock *b);
uint64_t mentry_hash(const void *name, size_t len, uint64_t ino, uint32_t type);
uint64_t mxattr_hash(const struct mxattr *x);

/* Creates the vector if there is none yet. */
struct mvec *mvec_own(struct mvec **v, size_t size);
void mvec_remove(struct mvec *v, unsigned at, size_t size);
void *mvec_insert(struct mvec *v, unsigned at, size_t size);

/* --- operations: 0 or a negative errno, as fs/fs.h says ------------------------------------------ */

struct mcred {
	uint32_t uid, gid, umask;
};

int model_lookup(struct model *m, uint64_t parent, const char *name, size_t len, uint64_t *ino);
/* `ino` is the number that the real one chose. */
int model_create(struct model *m, const struct mcred *cred, uint64_t parent, const char *name, size_t len, uint32_t mode,
		 uint64_t rdev, uint64_t ino);
/* Without a name: unlinked from the beginning. */
int model_tmpfile(struct model *m, const struct mcred *cred, uint64_t parent, uint32_t mode, uint64_t ino);
int model_symlink(struct model *m, const struct mcred *cred, uint64_t parent, const char *name, size_t len,
		  const char *target, uint64_t ino);
int model_link(struct model *m, uint64_t ino, uint64_t parent, const char *name, size_t len);
int model_remove(struct model *m, uint64_t parent, const char *name, size_t len, bool is_rmdir);
/* With RENAME_WHITEOUT, `ino` is the number of what takes the old name, and `cred` its owner. */
int model_rename(struct model *m, const struct mcred *cred, uint64_t parent, const char *name, size_t len, uint64_t newparent,
		 const char *newname, size_t newlen, unsigned flags, uint64_t ino);
const struct mentry *model_find(const struct minode *dir, const char *name, size_t len);

/* What `set` names of *to; the bits are those of fs/fs.h. */
struct mattr {
	uint32_t mode, uid, gid;
	uint64_t size;
	struct timespec atime, mtime, ctime;
};
int model_setattr(struct model *m, uint64_t ino, unsigned set, const struct mattr *to);
/* mtime and ctime of what was acknowledged before, whatever the flags say by now. */
int model_cached_times(struct model *m, uint64_t ino, const struct mattr *to);
bool model_atime_due(const struct model *m, const struct minode *i, bool strict);
void model_atime(struct model *m, uint64_t ino);
/* The same, in memory only; then it is stored, or lost. */
void model_atime_lazy(struct model *m, uint64_t ino);
void model_atime_store(struct model *m, uint64_t ino);
void model_atime_lose(struct model *m, uint64_t ino);
int model_setxattr(struct model *m, uint64_t ino, const char *name, const void *value, size_t len, int flags);
int model_removexattr(struct model *m, uint64_t ino, const char *name);
const struct mxattr *model_xattr(const struct minode *i, const char *name);
/* ACLs are attributes; these of which others follow. */
/* For user `uid`: those in `mask` become what `flags` says. */
int model_setflags(struct model *m, uint32_t uid, uint64_t ino, uint32_t mask, uint32_t flags);
/* 0, or -EPERM: a change that an immutable inode does not allow; one that an append-only inode does not allow either. */
int minode_check_mutable(const struct minode *i);
int minode_check_free(const struct minode *i);
/* Those that something of this mode inherits from its directory. */
uint32_t minode_inherited_flags(const struct minode *dir, uint32_t mode);
#define MODEL_ACL_ACCESS  "system.posix_acl_access"
#define MODEL_ACL_DEFAULT "system.posix_acl_default"
int model_setacl(struct model *m, uint64_t ino, bool deflt, const void *value, size_t len, int flags);

/* `how`: of a descriptor that only appends; whoever has the data in a cache keeps the times; it was acknowledged before, whatever the flags say. */
#define MODEL_APPEND	 1u
#define MODEL_KEEP_TIMES 2u
#define MODEL_FORCED	 4u
int model_write(struct model *m, uint64_t ino, const void *buf, size_t len, uint64_t off, unsigned how);
/* A hole is copied to [off, off + len): what is there goes, and the file becomes so long at least. */
void model_copy_hole(struct model *m, uint64_t ino, uint64_t off, uint64_t len);
/* Fills buf; returns how many bytes there are. */
size_t model_read(const struct minode *i, void *buf, size_t len, uint64_t off);
int model_fallocate(struct model *m, uint64_t ino, int mode, uint64_t off, uint64_t len);
int model_file_check(const struct model *m, uint64_t ino);
/* The block's entry, or NULL for a hole. */
const struct mblock *model_block(const struct minode *i, uint64_t block);
/* The first that is not all zeros, at or behind `block`; false if there is none. */
bool model_next_nonzero(const struct minode *i, uint64_t block, uint64_t *found);
/* Truncates without a change of its own: for those of setattr. */
void model_resize(struct minode *i, uint64_t size);
/* The same as far as blocks below `block` go, which is what its first few transactions make of it. */
void model_fallocate_part(struct model *m, uint64_t ino, int mode, uint64_t off, uint64_t block);

#endif
