/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inval.h - makes the kernel drop what it has cached: contents that an O_DIRECT write has replaced, or where a file has a hole, or of a file
 * that takes no more changes, or all.
 *
 * What was stored through a mapping is in the kernel's cache alone until it writes that back, and is no data to SEEK_DATA; dropping it
 * begins with writing it back (fs/fuse_io.c).
 *
 * What an O_DIRECT write replaces the kernel drops itself before such a write, and behind one that its caller waits for.  It does not behind
 * one that completes asynchronously (AIO, io_uring): what a buffered read had asked for meanwhile would stay cached, old as it is.  Nothing
 * tells the two kinds apart, so the daemon does it for both, but only for files that may be cached at all.
 *
 * Dropping waits for pages that are being read or written, that is for workers, and for what these wait for: a group of the log, say.  So a thread of
 * its own does it, whose queue carries nothing.
 */
#ifndef HOLDFAST_FS_INVAL_H
#define HOLDFAST_FS_INVAL_H

#include <sys/queue.h>

#include "core/dev.h"

struct fs;
struct fuse_session;
struct inval;

enum inval_what {
	INVAL_CACHED, /* a range, if contents of the file may be cached at all */
	INVAL_FILE, /* all contents, written back before; the kernel asks again for the attributes */
	INVAL_ALL, /* as INVAL_FILE, of all files */
};

/* The owner's until `done` is posted to q. */
struct inval_job {
	enum inval_what what;
	uint64_t ino; /* but for INVAL_ALL */
	uint64_t off, len; /* of INVAL_CACHED; len 0: to the end, wherever the kernel has that */
	struct dev_queue *q;
	struct dev_task done;
	bool dropped; /* the kernel has nothing any more that it had when the job began; false: the mount ends */
	STAILQ_ENTRY(inval_job) link;
};

/* Starts the thread.  `fs` stays open until inval_end() has returned. */
int inval_start(struct fuse_session *se, struct fs *fs, struct inval **out);

/* Some of the file's contents are about to reach the kernel's cache.  From any thread, before the contents are looked up. */
void inval_note_cached(struct inval *i, uint64_t ino);

/* The kernel is to ask again for the inode's attributes; what it has of the contents stays.  From any thread, also after inval_end(). */
void inval_attributes(struct inval *i, uint64_t ino);

/* Begins a job, from any thread, once the new contents are what others read.  False: `dropped` says whether there was nothing to do, and `done`
 * does not come. */
bool inval_begin(struct inval *i, struct inval_job *job);

/* Waits, serving q, for the job under way, and leaves the others undone: their `done` comes at once.  Workers must still be taking requests.  From
 * then on nothing is begun.  NULL is allowed. */
void inval_end(struct inval *i, struct dev_queue *q);

/* After inval_end(). */
void inval_destroy(struct inval *i);

#endif
