/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs.h - POSIX semantics over a volume.  No libfuse here: the same operations run under FUSE, in the simulator, in
 * tests and in tools.
 *
 * Every function takes the queue of the thread that calls it.  Unless marked "async", functions wait (serving q) for metadata that is
 * not in memory and return 0 or a negative errno; none of them waits for durability except fs_sync().  Async ones return at once
 * and run `done` on q's thread in dev_poll(), or, if nothing had to be waited for, before they return.
 *
 * Permission bits are not checked here (the kernel does: default_permissions); types, links, flags and limits are.
 *
 * An inode is known (fs_lookup, fs_create, ... and readdir-plus count one reference each) until fs_forget() has taken all
 * references back; an unlinked one lives as long as it is known.
 */
#ifndef HOLDFAST_FS_FS_H
#define HOLDFAST_FS_FS_H

#include <sys/stat.h>
#include <time.h>

#include "journal/volume.h"

struct fs;

enum fs_atime { FS_RELATIME, FS_NOATIME, FS_STRICTATIME };

struct fs_config {
	enum fs_atime atime;
	bool no_acl;			/* ACLs are neither shown nor inherited; those that exist still follow chmod */
	bool nodiratime;		/* reading directories leaves theirs alone */
	bool lazytime;			/* see fs_flush_times() */
	bool sync;			/* every change is acknowledged only when durable: callers use fs_fsync() before they reply */
	void (*clock)(void *arg, struct timespec *now);	/* NULL: CLOCK_REALTIME */
	void *clock_arg;
	/* Background work (large removals) is waiting, or there are lazy times now (fs_lazy_left()): call fs_service() soon, from any thread.
	 * NULL: the owner calls it by itself. */
	void (*want_service)(void *arg);
	void *service_arg;
	/*
	 * Not 0: writes with fs_io.cached bring data that was acknowledged before, of which there are at most so many bytes at a time.
	 * Room for them is kept (fs_cached_reserve()), and whoever acknowledges them keeps their files' times.  `space_low` is called once
	 * (any thread, volume lock held, must not block) when the room goes to an end: from then on fs_is_low() says so, until fs_look_low();
	 * and cached writes may be made to wait until fs_told().
	 */
	uint64_t cached_bytes;
	void (*space_low)(void *arg);
	void *low_arg;
};

/* On a writable volume also removes what a crash left unlinked (small ones at once, large ones through fs_service()). */
int fs_open(struct volume *v, struct dev_queue *q, const struct fs_config *cfg, struct fs **out);
/*
 * volume_begin_writing() with what fs_open() would have done: what a crash left unlinked is removed (small ones at once, large ones through fs_service()).
 * Operations may be under way.  As volume_begin_writing(), or -EIO if it cannot be read what is to be removed.
 */
int fs_begin_writing(struct fs *fs, struct dev_queue *q);
/* Drops all references (so that unlinked files go), waits for data in flight.  The volume stays open. */
void fs_close(struct fs *fs, struct dev_queue *q);

struct fs_cred {
	uint32_t uid, gid;
	uint32_t umask;			/* of whoever creates; a default ACL of the directory overrides it */
};

struct fs_attr {
	uint64_t ino;
	uint64_t size;
	uint64_t blocks;		/* of 512 bytes, as st_blocks */
	uint64_t rdev;
	uint64_t generation;
	uint32_t mode, nlink, uid, gid;
	struct timespec atime, mtime, ctime, btime;
};

/* --- names --- */

/* `name` need not be terminated; 1..255 bytes, else -ENAMETOOLONG/-EINVAL.  "." and ".." are looked up too, and "/", which is
 * the same as ".": the inode itself, of whatever type.  */
int fs_lookup(struct fs *fs, struct dev_queue *q, uint64_t parent, const char *name, size_t len, struct fs_attr *out);

/* Takes `n` references back; may remove an unlinked inode. */
void fs_forget(struct fs *fs, struct dev_queue *q, uint64_t ino, uint64_t n);

/* Creates a file, directory (S_IFDIR), device, fifo or socket.  Owner from cred, but the group of a setgid directory (and the bit for
 * subdirectories).  ACLs from the directory's default ACL, if it has one, else the umask is applied.  -EEXIST, -ENOENT (parent gone), -ENOTDIR, -ENOSPC, -EMLINK... One reference on success. */
int fs_create(struct fs *fs, struct dev_queue *q, const struct fs_cred *cred, uint64_t parent, const char *name, size_t len,
	      uint32_t mode, uint64_t rdev, struct fs_attr *out);
int fs_symlink(struct fs *fs, struct dev_queue *q, const struct fs_cred *cred, uint64_t parent, const char *name, size_t len,
	       const char *target, struct fs_attr *out);
/* buf of at least MAX_SYMLINK + 1 bytes; terminated. */
int fs_readlink(struct fs *fs, struct dev_queue *q, uint64_t ino, char *buf);
/* A regular file without a name, with the owner, mode and ACLs that fs_create() would give it in the directory `parent`: gone after a crash, and with its last
 * reference, unless fs_link() gives it a name before. -ENOENT (parent gone), -ENOTDIR, -ENOSPC. One reference on success. */
int fs_tmpfile(struct fs *fs, struct dev_queue *q, const struct fs_cred *cred, uint64_t parent, uint32_t mode,
	       struct fs_attr *out);
/* One reference on success.  A file without a name gets its first one while somebody holds a reference to it; who may do that to one that
 * has had names, the kernel decides. -EPERM (a directory), -EMLINK, -ENOENT (no links, and no reference), -EEXIST. */
int fs_link(struct fs *fs, struct dev_queue *q, uint64_t ino, uint64_t parent, const char *name, size_t len,
	    struct fs_attr *out);
int fs_unlink(struct fs *fs, struct dev_queue *q, uint64_t parent, const char *name, size_t len);
int fs_rmdir(struct fs *fs, struct dev_queue *q, uint64_t parent, const char *name, size_t len);
/* flags: RENAME_EXCHANGE, or any of RENAME_NOREPLACE and RENAME_WHITEOUT (a character device 0, mode 0, of owner `cred` takes the old
 * name; without it cred may be NULL); others -EINVAL. */
int fs_rename(struct fs *fs, struct dev_queue *q, const struct fs_cred *cred, uint64_t parent, const char *name, size_t len,
	      uint64_t newparent, const char *newname, size_t newlen, unsigned flags);

/*
 * Entries behind `cookie` (0: from the start; "." and ".." first) in cookie order.  `fill` gets each with the cookie to go on
 * behind it; non-zero from fill stops (that entry was not taken).  With `plus` each entry but "." and ".." comes with
 * attributes and a reference (also undone if fill refuses).  Stable under concurrent change: entries that stay are seen exactly once.
 */
struct fs_dirent {
	const char *name;
	size_t len;
	uint64_t ino;
	uint8_t ftype;		/* DT_* */
	uint64_t cookie;
	const struct fs_attr *attr;	/* with plus */
};
typedef int fs_fill_fn(void *arg, const struct fs_dirent *e);
int fs_readdir(struct fs *fs, struct dev_queue *q, uint64_t ino, uint64_t cookie, bool plus, fs_fill_fn *fill, void *arg);

/* --- attributes --- */

int fs_getattr(struct fs *fs, struct dev_queue *q, uint64_t ino, struct fs_attr *out);

#define FS_SET_MODE  0x01u
#define FS_SET_UID   0x02u
#define FS_SET_GID   0x04u
#define FS_SET_SIZE  0x08u
#define FS_SET_ATIME 0x10u
#define FS_SET_MTIME 0x20u
#define FS_SET_CTIME 0x40u
#define FS_SET_ATIME_NOW 0x80u
#define FS_SET_MTIME_NOW 0x100u
/* Of a file, setuid goes, and setgid where the group may execute: what a change by somebody without CAP_FSETID takes. */
#define FS_SET_KILL_PRIV 0x200u
/* Applies the fields of *in that `set` names, and ctime (now, or as given); size: see file.c, -EISDIR, -EINVAL, -EFBIG. */
int fs_setattr(struct fs *fs, struct dev_queue *q, uint64_t ino, unsigned set, const struct fs_attr *in,
	       struct fs_attr *out);

/*
 * Flags as chattr(1) has them: INODE_USER_FLAGS of core/format.h.  Operations that an immutable or append-only inode does not allow are
 * -EPERM, as on ext4; new inodes inherit some of their directory's.
 */
int fs_get_flags(struct fs *fs, struct dev_queue *q, uint64_t ino, uint32_t *flags);
/* Those in `mask` become what `flags` says.  For user `uid`: -EPERM unless it is the owner or root; root only for INODE_IMMUTABLE and
 * INODE_APPEND.  -EOPNOTSUPP: flags that we do not have, or not for this type. */
int fs_set_flags(struct fs *fs, struct dev_queue *q, uint32_t uid, uint64_t ino, uint32_t mask, uint32_t flags);
/* Did any inode ever have flags? */
bool fs_has_flags(struct fs *fs);
/* Opening `ino` for writing (append: O_APPEND): -EPERM if its flags do not allow that. */
int fs_check_open(struct fs *fs, struct dev_queue *q, uint64_t ino, bool append);
/*
 * A file has just become immutable or append-only: what the kernel had been given for it before, through mmap(2), is still to be written.
 * Between these two such writes (fs_io.cached) are let through.  False: there is nothing to wait for, and nothing to end.
 */
bool fs_settle_begin(struct fs *fs, uint64_t ino);
void fs_settle_end(struct fs *fs, uint64_t ino);
/* Is a change of it (`names`: of its entries) to be acknowledged only when durable, by its flags?  Costs nothing on a volume where no
 * inode ever had flags. */
bool fs_must_sync(struct fs *fs, struct dev_queue *q, uint64_t ino, bool names);

struct fs_statfs {
	uint64_t blocks, bfree, bavail, files, ffree;	/* blocks of 4096 */
};
int fs_statfs(struct fs *fs, struct fs_statfs *out);

/* flags: XATTR_CREATE, XATTR_REPLACE, FS_XATTR_KILL_SGID.  Names as given (namespace included), 1..255 bytes; values up to 65536.
 * -ENODATA, -EEXIST, -ERANGE (name), -E2BIG (value), -ENOSPC.
 * ACLs (core/acl.h) are values that must make sense: -EINVAL, -E2BIG; -EACCES (a default ACL where there is no directory), -EOPNOTSUPP (a
 * symlink; fs_config.no_acl).  An access ACL changes the mode, and is not kept if the mode says all of it. */
#define FS_XATTR_KILL_SGID 0x100	/* an access ACL takes the setgid bit with it */
int fs_setxattr(struct fs *fs, struct dev_queue *q, uint64_t ino, const char *name, const void *val, size_t len,
		int flags);
/* *len: in: size of buf (0: only asks), out: length of the value.  -ERANGE if buf is too small, -ENODATA; -EUCLEAN: an ACL
 * that makes no sense. */
int fs_getxattr(struct fs *fs, struct dev_queue *q, uint64_t ino, const char *name, void *buf, size_t *len);
/* Names with their NULs, one after the other; those of trusted.* only if `trusted`. */
int fs_listxattr(struct fs *fs, struct dev_queue *q, uint64_t ino, bool trusted, char *buf, size_t *len);
int fs_removexattr(struct fs *fs, struct dev_queue *q, uint64_t ino, const char *name);

/* --- contents --- */

/*
 * Async.  One read or write; the caller owns the structure and the buffer until `done`.
 * Read: `buf` must hold FS_READ_ROOM(len) bytes, 4096-aligned: on success the `result` bytes asked for start at `data`, somewhere in it.
 * Write: at most FS_IO_MAX bytes, atomic across a crash.  If `buf` + (-off mod 4096) is 4096-aligned, whole blocks are written from it
 * without a copy.  `done` says that the write is part of the order (not that it is durable); after that the buffer may still be in use: it
 * is given back by `release` (may be NULL if a copy is to be made), once, after `done`, on q's thread; also if the write failed.
 * `result` is less than `len` if there was no room for more, as with write(2).
 */
#define FS_IO_MAX (1u << 20)
#define FS_READ_ROOM(len) ((((size_t)(len) + 4095) & ~(size_t)4095) + 4096)

struct fs_io {
	/* in */
	uint64_t ino;
	uint64_t off;
	size_t len;
	void *buf;
	bool no_atime;		/* read: leaves the time of the last access alone */
	bool cached;		/* write: was acknowledged before; see fs_config.cached_bytes */
	bool append;		/* write: of a descriptor that can do nothing else; an append-only file takes no other */
	bool kill_priv;		/* write: takes what FS_SET_KILL_PRIV does */
	void (*done)(struct fs_io *io);
	void (*release)(struct fs_io *io);
	/* out */
	const void *data;
	ssize_t result;		/* bytes, or negative errno */
	uint64_t lsn;		/* write: what to sync to */
	bool must_sync;		/* write: as fs_must_sync() */
	bool killed;		/* write: kill_priv has changed the mode, even if the write failed; never cleared */
	/* private to file code: */
	struct fs *fs;
	struct dev_queue *q;
	void *priv;
};
void fs_read(struct fs *fs, struct dev_queue *q, struct fs_io *io);
void fs_write(struct fs *fs, struct dev_queue *q, struct fs_io *io);
/* The same, waiting; any alignment of buf; loops over FS_IO_MAX pieces. */
ssize_t fs_pread(struct fs *fs, struct dev_queue *q, uint64_t ino, void *buf, size_t len, uint64_t off);
ssize_t fs_pwrite(struct fs *fs, struct dev_queue *q, uint64_t ino, const void *buf, size_t len, uint64_t off);

/*
 * Async.  Copies `len` bytes within the volume, from a regular file to the same or another, without anything that the caller need hold.
 * What is read is verified; no block is shared; holes, and what is only reserved, become holes in the destination.  Pieces of at most
 * FS_IO_MAX bytes of data, or of a hole of any length, follow each other, each one transaction: after a crash a beginning of the
 * copy is there.  `piece` (may be NULL) is told when [off_out + done, + n) has become part of the order.
 * `done`: result is the number of bytes: fewer than `len` at the end of the source, after FS_COPY_MAX bytes of data or 1024 pieces, when
 * there is no room for more, and when something failed behind the first piece; 0 at or behind the end.  Or -EINVAL (ranges overlap in
 * one file, or something else than files), -EISDIR, -EFBIG, -ENOSPC, -EIO (contents do not match their checksums).
 * The structure is the caller's again at `release`, once, after `done`, on q's thread; if that is NULL, at `done`.
 */
#define FS_COPY_MAX (64u << 20)

struct fs_copy {
	/* in */
	uint64_t ino_in, off_in, ino_out, off_out, len;
	void (*piece)(struct fs_copy *c, uint64_t done, uint64_t n, bool hole);
	void (*done)(struct fs_copy *c);
	void (*release)(struct fs_copy *c);
	/* out */
	int64_t result;
	bool must_sync;		/* as fs_must_sync() */
};
void fs_copy_range(struct fs *fs, struct dev_queue *q, struct fs_copy *c);
/* The same, waiting, until the data is home as well. */
int64_t fs_copy_wait(struct fs *fs, struct dev_queue *q, uint64_t ino_in, uint64_t off_in, uint64_t ino_out, uint64_t off_out,
		     uint64_t len);

/* mode: 0, FALLOC_FL_KEEP_SIZE, PUNCH_HOLE|KEEP_SIZE, ZERO_RANGE [|KEEP_SIZE]; others -EOPNOTSUPP.  What takes more than one
 * transaction (more than 400 extents to punch or to zero, or fewer on a full volume, more than 64 MiB to zero or to allocate, more than 1 MiB to zero where there
 * is no room for other blocks) may be partly there after a crash, and after -ENOSPC. */
int fs_fallocate(struct fs *fs, struct dev_queue *q, uint64_t ino, int mode, uint64_t off, uint64_t len);
/* whence: SEEK_DATA or SEEK_HOLE. -ENXIO. */
int fs_lseek(struct fs *fs, struct dev_queue *q, uint64_t ino, uint64_t off, int whence, uint64_t *out);

/*
 * Async.  The same, and the hole that the answer speaks of, [begin, end), as far as the file goes: from `off` to the data found, or to the end if
 * there is none; or the one found.  begin >= end: none.  `done` runs on q's thread, perhaps before fs_seek() returns.
 */
struct fs_seek {
	/* in */
	uint64_t ino, off;
	int whence;
	void (*done)(struct fs_seek *s);
	/* out */
	int result;		/* 0, and `pos`; or a negative errno */
	uint64_t pos;
	uint64_t begin, end, size;	/* if result is 0 or -ENXIO */
};
void fs_seek(struct fs *fs, struct dev_queue *q, struct fs_seek *s);

/* *blkno: the block of the device that block `block` of a regular file is in, or 0: it is in none of its own (a hole, reserved only, kept with the inode, or behind
 * the end).  The content may still be in memory, or in the journal.  -EISDIR, -EINVAL. */
int fs_bmap(struct fs *fs, struct dev_queue *q, uint64_t ino, uint64_t block, uint64_t *blkno);

/* --- room for what was acknowledged before (cached.c) --- */

/* Blocks kept for `bytes` of data, whatever files they are in and wherever they lie in them. */
uint64_t fs_cached_reserve(uint64_t bytes);

/*
 * May more data be acknowledged?  -ENOSPC if not even a checkpoint would make room besides what is kept; -EROFS, -EIO.  `deep`: half
 * of what is kept counts as room.
 */
int fs_admit(struct fs *fs, struct dev_queue *q, bool deep);

/* Has space_low been called?  Any thread, no lock. */
bool fs_is_low(const struct fs *fs);
/* The same, after a look whether that is over. */
bool fs_look_low(struct fs *fs);

/* From now on fs_admit() is asked before more is acknowledged.  After each call of space_low. */
void fs_told(struct fs *fs);

/* Somebody can write to this known inode now, or one less can. */
void fs_opened(struct fs *fs, uint64_t ino);
void fs_released(struct fs *fs, uint64_t ino);

/* Can somebody write to it?  *expired is what fs_set_expired() has last said of it. */
bool fs_has_writers(struct fs *fs, uint64_t ino, bool *expired);
void fs_set_expired(struct fs *fs, uint64_t ino, bool expired);

/*
 * Numbers of the inodes that have writers, *got of them (up to `n`, perhaps none); *cursor is 0 at first and not to be interpreted.  False: these
 * were the last.  All that have writers from the first call to the last are met.
 */
bool fs_writers(struct fs *fs, uint64_t *cursor, uint64_t *ino, unsigned n, unsigned *got);

/*
 * Async.  Tells the device that what is free in bytes [start, start + len) of it is of no use, in runs of at least `minlen` bytes; a part at
 * a time, which cannot be allocated meanwhile.  `result`: 0 and `trimmed`; -EINVAL (behind the end, less than a block), -EROFS
 * (also of a volume that rests, or begins to), -EOPNOTSUPP (the device cannot), -EBUSY (one is running), -EINTR, or the device's error, and what was trimmed before.
 */
struct fs_trim {
	uint64_t start, len, minlen;
	bool (*cancelled)(struct fs_trim *t);	/* asked between parts; NULL: never */
	void (*done)(struct fs_trim *t);
	int result;
	uint64_t trimmed;
	/* private */
	struct fs *fs;
	struct dev_queue *q;
	struct dev_task task;
	struct provide provide;
	uint64_t next, end;	/* blocks */
	struct trim_run *run;
	unsigned nruns, cap, pending;
	int err;
};
void fs_trim(struct fs *fs, struct dev_queue *q, struct fs_trim *t);

/* --- durability --- */

/* Async.  Waits for the inode's last change (datasync: that of contents and size; timestamps alone do not count).  ino 0: everything so far
 * (syncfs).  `result`: 0, or -EIO for ever once the log has failed. */
struct fs_sync {
	uint64_t ino;
	bool datasync;
	void (*done)(struct fs_sync *s);
	int result;
	/* private */
	struct log_waiter waiter;
	struct dev_task task;
	struct dev_queue *q;
};
void fs_fsync(struct fs *fs, struct dev_queue *q, struct fs_sync *s);
/* The same, waiting. */
int fs_sync(struct fs *fs, struct dev_queue *q, uint64_t ino, bool datasync);

/*
 * As if the power were cut now, for good: nothing reaches the device any more, and whatever is asked from now on, save for attributes that
 * are in memory and fs_statfs(), is -EIO.  `flush`: after a sync of everything, whose result this returns; it is shut down in any case.
 */
int fs_shutdown(struct fs *fs, struct dev_queue *q, bool flush);

/*
 * With `lazytime`, an access time that reading moves is kept in memory and written with the inode's next change, or by
 * this function, or when the inode is forgotten, or by fs_service() when it has waited for a period, or at fs_close().  A crash may lose it.  Who is asked for fsync
 * or syncfs calls this first, with the inode or 0 for all of them.  fs_getattr() always tells the newer time.
 */
void fs_flush_times(struct fs *fs, struct dev_queue *q, uint64_t ino);

/* How long a lazy time may wait; 0, and so it begins: a day.  Any thread, any lock. */
void fs_set_lazy_period(struct fs *fs, unsigned seconds);

/* Milliseconds until the first lazy time has waited for so long; -1: there is none, or none can be written now. */
int64_t fs_lazy_left(struct fs *fs);

/* Other rules from now on, as in fs_config. */
void fs_set_times(struct fs *fs, struct dev_queue *q, enum fs_atime atime, bool nodiratime, bool lazytime);

/* Ends what goes on by itself: unlinked files are removed, times written.  For who wants the volume to rest (volume_rest()) and lets
 * nobody change anything meanwhile. */
void fs_settle(struct fs *fs, struct dev_queue *q);

/* Does some of the background work; true while there is more that can be done now. */
bool fs_service(struct fs *fs, struct dev_queue *q);

/* There is some that was left, because it could not be done for want of memory, say.  Nobody is asked for it again (want_service): call fs_service() after a pause. */
bool fs_service_left(struct fs *fs);

struct fs_stats {
	uint64_t known_inodes;
	uint64_t flight_bytes;		/* data being written home in the background */
	uint64_t reads, read_bytes, writes, write_bytes, fsyncs, fdatasyncs;
	uint64_t csum_errors;
	uint64_t filled;		/* reserved blocks given zeros because there was no room for more extents */
};
void fs_get_stats(struct fs *fs, struct fs_stats *out);

/* Numbers of the inodes that are known now, root included; free(3) them.  NULL: no memory. */
uint64_t *fs_known_inodes(struct fs *fs, uint64_t *n);

struct volume *fs_volume(struct fs *fs);

#endif
