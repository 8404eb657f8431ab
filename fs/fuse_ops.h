/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuse_ops.h - requests in, one call of fs.h, replies out.  The glue between libfuse's low-level API and fs/.
 *
 * fuse_ops.c  everything about names and attributes: run to completion on the worker that read the request
 * fuse_io.c   READ, WRITE, COPY_FILE_RANGE, FSYNC: started here, answered from their completion
 * fuse_control.c  ioctl(2)
 * fuse_raw.c  requests that libfuse does not know
 * fuse_reply.c  the replies to changes, which a mount with -o sync holds back until they are durable
 */
#ifndef HOLDFAST_FS_FUSE_OPS_H
#define HOLDFAST_FS_FUSE_OPS_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <stdatomic.h>

#include "fs/fs.h"
#include "fs/loop.h"

/* Nobody but the daemon changes the volume, so what the kernel has cached stays right. */
#define CACHE_SECONDS 1e9
/* How many requests that nobody waits for in a system call the kernel sends before one of them is answered. */
#define MAX_BACKGROUND 64

struct admit;
struct apart;
struct callers;
struct control;
struct inval;

/* The session's userdata. */
struct fuse_glue {
	struct fs *fs;
	struct loop *loop;
	struct control *control;
	struct inval *inval;
	struct apart *apart;
	struct callers *callers;
	struct admit *admit; /* the kernel caches writes; NULL: it does not */
	bool flags; /* the kernel asks at every open, since some inode may have flags that forbid it */
	bool strictatime; /* the kernel asks at every open, and forgets what it has cached */
	unsigned max_read;
	bool no_holes; /* the kernel cannot be made to hand over all that it has cached, and is to take everything for data */
	bool acl; /* POSIX ACLs are kept here and checked by the kernel */
	bool inited; /* INIT has been served */
	_Atomic bool handed_over; /* the kernel has handed over pages of its cache */
	_Atomic unsigned direct_waits; /* direct writes whose answer waits until nothing older is cached */
};

extern const struct fuse_lowlevel_ops fuse_glue_ops;
/* How libfuse's replies leave: through loop_send(). */
extern const struct fuse_custom_io fuse_glue_io;

/* --- among the glue's files --- */

/* What a handler needs, found from its request. */
struct call {
	struct fuse_glue *glue;
	struct fs *fs;
	struct worker *worker;
	struct dev_queue *q;
};
struct call call_of(fuse_req_t req);

/* The user whose request it is, CALLER_UNKNOWN if the kernel does not say. */
uint32_t fuse_glue_uid(fuse_req_t req);

void fuse_glue_stat(const struct fs_attr *attr, struct stat *st);
void fuse_glue_entry(const struct fs_attr *attr, struct fuse_entry_param *e);

/*
 * How long the kernel is to take these attributes for true, in a reply that it keeps in any case (admit.h).  times_only: of a SETATTR of mtime and
 * ctime, which as a rule is the kernel handing over its own, and then it looks at no reply.
 */
double fuse_glue_seconds(const struct fuse_glue *glue, const struct stat *st, bool times_only);

/* Takes setuid and setgid away before a request changes a file, one which does not say whether to.  Root's does not, if the kernel says that
 * it is root's, and its thread has CAP_FSETID. */
void fuse_glue_kill_priv(fuse_req_t req, fuse_ino_t ino);

enum change_kind { CHANGE_NAMES, CHANGE_FILE };

/* Reply to a change of `ino` (for names: the directory) that ended in `err` (0 or negative errno): nothing more; an entry; attributes. */
void reply_change(fuse_req_t req, enum change_kind kind, fuse_ino_t ino, int err);
void reply_change_entry(fuse_req_t req, fuse_ino_t dir, int err, const struct fs_attr *attr);
void reply_change_attr(fuse_req_t req, fuse_ino_t ino, int err, const struct fs_attr *attr, bool times_only);

void fuse_io_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void fuse_io_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		   struct fuse_file_info *fi);
void fuse_io_copy(fuse_req_t req, fuse_ino_t in, off_t off_in, struct fuse_file_info *fi_in, fuse_ino_t out, off_t off_out,
		  struct fuse_file_info *fi_out, size_t len, int flags);
void fuse_io_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void fuse_io_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);

void fuse_control_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi,
			unsigned flags, const void *in, size_t in_len, size_t out_room);

#endif
