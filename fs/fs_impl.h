/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_impl.h - what the files of fs/ share.  Not for others.
 *
 * fs.c      open/close, table of known inodes, the step driver, inode items, orphans
 * dir.c     entries: find, add, remove; lookup, create, link, unlink, rmdir;  rename.c;  readdir.c (with readlink)
 * attr.c    getattr, setattr, statfs;  flags.c;  xattr.c, and acl.c for what ACLs and modes have to do with each other;  lazytime.c  access times
 * extmap.c  the extents of a range: read them, edit them, turn the edit into transaction records
 * data.c    what changes of contents share: inline contents, bases of logged changes
 * read.c write.c (write_plan.c write_io.c) copy.c truncate.c fallocate.c (with lseek and bmap) sync.c
 * cached.c  the room for data that was acknowledged before it arrives
 */
#ifndef HOLDFAST_FS_FS_IMPL_H
#define HOLDFAST_FS_FS_IMPL_H

#include "core/tally.h"
#include "fs/fs.h"
#include "journal/txn.h"

/* What is known of a directory's default ACL (acl.c). */
enum default_acl { DEFAULT_ACL_UNKNOWN, DEFAULT_ACL_NONE, DEFAULT_ACL_SOME };

/*
 * An inode that somebody knows.  What it is lives in the tree (struct disk_inode); here is only what must not be on disk.
 * Under the volume's lock; who shares it may add references, and inodes: inode_know().
 */
struct inode {
	/* What nearly every operation looks at comes first. */
	uint64_t ino;
	struct inode *hash_next;
	uint64_t nlookup;	/* references; 0 only while pinned or being removed.  Atomic where the lock is shared */
	uint64_t lsn_change;	/* what fsync syncs to */
	uint64_t lsn_data;	/* what fdatasync syncs to */
	uint32_t npin;		/* operations that need it to stay */
	uint32_t nwriters;	/* fs_opened() */
	uint32_t settling;	/* fs_settle_begin() less fs_settle_end(); each is a pin too */
	bool orphan;		/* without a name: to be removed when nlookup and npin are 0 */
	bool queued;		/* on fs->reap */
	bool expired;		/* fs_set_expired() */
	bool trimming;		/* contents behind its end are still being removed (truncate.c) */
	bool lazy;		/* on fs->lazy: atime is newer than the item's (lazytime.c) */
	uint8_t default_acl;	/* enum default_acl: a promise, changed with the attribute */
	uint64_t goal;		/* block behind the last one allocated for it */
	struct timespec atime;
	int64_t lazy_since;
	TAILQ_ENTRY(inode) lazy_link;
	STAILQ_ENTRY(inode) reap_link;
};

STAILQ_HEAD(fs_stall_list, fs_stall);

/* What is counted while the lock is shared. */
enum fs_looked { FS_READS, FS_READ_BYTES };

struct fs {
	struct volume *v;
	struct fs_config cfg;
	struct lock known;		/* among those who share v->lock: one adds an inode */
	struct tally looked;		/* enum fs_looked */
	/* under v->lock */
	struct inode **hash;
	uint64_t nhash, ninodes;
	STAILQ_HEAD(, inode) reap;	/* to be removed (orphans) or trimmed behind their end, in bounded transactions */
	uint64_t reaping;		/* of them, those that somebody works on */
	bool reap_stuck; /* the last removal ended with an error: nobody is asked for that again */
	TAILQ_HEAD(, inode) lazy;	/* longest first */
	uint64_t nlazy;
	_Atomic int64_t lazy_seconds;	/* how long one may wait */
	uint64_t flight_bytes;
	struct fs_stall_list stalled;	/* writers whose `done` waits for flight_bytes to sink */
	struct fs_stats stats;
	struct dev_event *idle;		/* fs_close waits for flight_bytes == 0 */
	uint64_t reserve;		/* blocks kept for cached writes; 0: none */
	_Atomic bool low;		/* v->watch.low, to be read without the lock */
	bool told;			/* since it is low: fs_told() */
	struct fs_stall_list held;	/* cached writes that wait for that */
	uint64_t dir_moves;		/* directories that changed their parent since open; see rename.c */
};

struct fs_stall {
	struct dev_task task;
	struct dev_queue *q;
	STAILQ_ENTRY(fs_stall) link;
};

/* Data in flight above which writers wait for the device. */
#define FLIGHT_LIMIT (64u << 20)

/* --- the step driver (fs.c) --- */

/* One try: under the lock.  -EAGAIN with *miss: is run again after volume_provide(). */
typedef int fs_step_fn(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss);
int fs_run(struct fs *fs, struct dev_queue *q, fs_step_fn *step, void *arg);

/*
 * The same for a step that only reads: it shares the lock with others of its kind.  What it uses must be made for that; what must be alone says
 * -ENOLCK then, having changed nothing (volume_is_alone()), and the step runs again with the lock held.  That code never leaves these functions.
 */
int fs_look(struct fs *fs, struct dev_queue *q, fs_step_fn *step, void *arg);
/* Even if the volume has been shut down: of what is in memory. */
int fs_look_shut_too(struct fs *fs, struct dev_queue *q, fs_step_fn *step, void *arg);
/* One try of such a step; -EIO if the volume has been shut down.  For those that must not wait for what is missed. */
int fs_look_once(struct fs *fs, struct dev_queue *q, fs_step_fn *step, void *arg, struct miss *miss);

/* What an operation that ended in `err` says: whatever fails on a volume that was shut down fails for that reason. */
static inline int fs_verdict(const struct fs *fs, int err)
{
	return err && volume_is_shut(fs->v) ? -EIO : err;
}

/* --- known inodes (fs.c); lock held --- */

/* NULL if nobody knows it.  Lock held or shared. */
struct inode *inode_find(struct fs *fs, uint64_t ino);
/* Adds `n` references, making the entry if need be.  A new entry's lsn_change and lsn_data are the volume's applied_lsn (its history is
 * unknown, so the safe choice).  NULL: no memory. */
struct inode *inode_ref(struct fs *fs, uint64_t ino, uint64_t n);
/* A reference for the reply of a step that only reads.  Lock held or shared.  -ENOMEM; -ENOLCK. */
int inode_know(struct fs *fs, uint64_t ino);
/* Takes `n` back (0 after lowering npin); frees the entry when nothing holds it, or queues it for removal if it is an orphan. */
void inode_unref(struct fs *fs, struct inode *inode, uint64_t n);
/* The same, but an orphan that nothing holds any more is returned, pinned, for inode_reap(); else NULL. */
struct inode *inode_unref_claim(struct fs *fs, struct inode *inode, uint64_t n);
/* Removes a claimed orphan if that takes few transactions, else queues it.  No lock held. */
void inode_reap(struct fs *fs, struct dev_queue *q, struct inode *inode);
/* Marks changes that a committed transaction made: contents/size/what fdatasync must cover, or only the rest.  No-op if not known. */
void inode_changed(struct fs *fs, uint64_t ino, uint64_t lsn, bool data);
/* Leaves the rest of an inode's removal to fs_service(), and asks for it.  Not queued yet.  Lock held. */
void reap_queue(struct fs *fs, struct inode *inode);
/* The in-memory side of "its last link is gone". If nobody knows it, makes an entry and queues it at once. -ENOMEM must be
 * met before commit: call inode_ref() for it first. */
void inode_orphaned(struct fs *fs, struct inode *inode);

/* --- room for cached writes (cached.c) --- */

void cached_open(struct fs *fs);
/* Lock held. */
void cached_close(struct fs *fs);
/* Must a cached write wait for fs_told()?  Then it is on fs->held, and its task will be posted.  Lock held. */
bool cached_hold(struct fs *fs, struct fs_stall *s);
/* `ninodes` has changed. */
void cached_known_changed(struct fs *fs);

/* --- inode items --- */

/* Damage that an operation met in what belongs to `ino`: reported and counted.  -EUCLEAN.  Lock shared: -ENOLCK, and nothing else. */
int inode_corrupt(struct fs *fs, uint64_t ino, const char *what);
/* The item of `ino` -> host copy.  -ESTALE if there is none; -EAGAIN. */
int inode_get(struct fs *fs, uint64_t ino, struct miss *miss, struct disk_inode *out);
void inode_put(struct txn *t, uint64_t ino, const struct disk_inode *di);
/* -ENOTDIR, or -ENOENT if it is a removed directory (nlink 0), else 0. */
int inode_get_dir(struct fs *fs, uint64_t ino, struct miss *miss, struct disk_inode *out);
void inode_to_attr(uint64_t ino, const struct disk_inode *di, struct fs_attr *out);
struct disk_time time_encode(const struct timespec *ts);
struct timespec time_decode(const struct disk_time *dt);
void fs_now(struct fs *fs, struct timespec *now);
static inline bool mode_is(const struct disk_inode *di, uint32_t type)
{
	return (get32(di->mode) & S_IFMT) == type;
}

/* --- access times (lazytime.c) --- */

/* Must atime change now, by the mount's rule?  (relatime: older than mtime or ctime, or than a day.) */
bool atime_due(struct fs *fs, const struct disk_inode *di, const struct timespec *now);
/* Sets it to now: in memory with lazytime, else in a transaction.  A step's last act.  0, or as txn_commit(). */
int atime_set(struct fs *fs, struct dev_queue *q, uint64_t ino, struct disk_inode *di, const struct timespec *now,
	      struct miss *miss);
/* The same as an operation, if it is due; a full or failed volume is no reason for the reader to fail.  No lock held. */
void atime_touch(struct fs *fs, struct dev_queue *q, uint64_t ino);
/* inode_get(): the newer time, if there is one in memory. */
void atime_overlay(struct fs *fs, uint64_t ino, struct disk_inode *di);
/* The item has it now, or nobody wants it any more. */
void atime_written(struct fs *fs, struct inode *inode);
/* A transaction that nobody can see otherwise has put the item, with the time that inode_get() had given. */
void atime_went_along(struct fs *fs, uint64_t ino, uint64_t lsn);
/* For fs_service(): writes one that has waited long enough.  True: there may be more. */
bool atime_expire(struct fs *fs, struct dev_queue *q);

/* --- flags (flags.c): -EPERM or 0 --- */

/* Of the changes of setattr; contents are truncated elsewhere. */
int flags_check_attr(struct fs *fs, uint64_t ino, const struct disk_inode *di, unsigned set, const struct fs_attr *in);
int flags_check_write(struct fs *fs, const struct disk_inode *di, const struct fs_io *io);
/* An entry of `dir` that names `di` goes. */
int flags_check_remove(const struct disk_inode *dir, const struct disk_inode *di);
/* An entry is added to `dir`; or whatever an append-only inode allows is done to it. */
static inline int flags_check_mutable(const struct disk_inode *di)
{
	return get64(di->flags) & INODE_IMMUTABLE ? -EPERM : 0;
}
/* What neither allows: another name, another xattr, another size. */
static inline int flags_check_free(const struct disk_inode *di)
{
	return get64(di->flags) & (INODE_IMMUTABLE | INODE_APPEND) ? -EPERM : 0;
}
/* Those of INODE_USER_FLAGS that something of this mode has when it is made in `dir`. */
uint64_t flags_inherit(const struct disk_inode *dir, uint32_t mode);

/* --- removal (fs.c calls, truncate.c does) --- */

/* The orphan item: removal of `ino` is to be finished after a crash. */
static inline void orphan_put(struct txn *t, uint64_t ino)
{
	struct key key = key_make(INO_VOLUME, ITEM_ORPHAN, ino);

	txn_put(t, &key, "", 0);
}

static inline void orphan_del(struct txn *t, uint64_t ino)
{
	struct key key = key_make(INO_VOLUME, ITEM_ORPHAN, ino);

	txn_del(t, &key);
}

/*
 * One bounded transaction of removing everything behind block `from` of the inode's extents (and, if `all`, then its
 * inline data, xattrs, inode item and orphan item; else the orphan item).  Sets *more if another is needed.  A step: see fs_step_fn.
 */
int truncate_some(struct fs *fs, struct dev_queue *q, uint64_t ino, bool all, struct miss *miss, bool *more);

/* The size part of setattr, as a whole operation (its own transactions; other attributes of `set` go into the first). */
int truncate_setattr(struct fs *fs, struct dev_queue *q, uint64_t ino, unsigned set, const struct fs_attr *in);

/* Applies everything of `set` but the size to *di (attr.c). */
void attr_apply(struct fs *fs, struct disk_inode *di, unsigned set, const struct fs_attr *in, const struct timespec *now);
/* FS_SET_KILL_PRIV.  True: that has changed the mode. */
bool mode_kill_priv(struct disk_inode *di);

#endif
