/* SPDX-License-Identifier: Apache-2.0 */
/* fuse_raw.c - see the header. */
#include "fs/fuse_raw.h"

#include <linux/fuse.h>
#include <linux/stat.h>
#include <stdlib.h>
#include <sys/sysmacros.h>

#include "fs/fuse_ops.h"

/* --- SYNCFS --- */

struct syncfs {
	struct fs_sync sync; /* first: see syncfs_done() */
	struct worker *worker;
	uint64_t unique;
};

static void syncfs_done(struct fs_sync *sync)
{
	struct syncfs *s = (struct syncfs *)sync;
	struct worker *w = s->worker;

	worker_answer(w, s->unique, sync->result, NULL, 0);
	free(s);
	worker_end(w);
}

static void start_syncfs(struct worker *w, uint64_t unique)
{
	struct syncfs *s = calloc(1, sizeof(*s));

	if (!s) {
		worker_answer(w, unique, -ENOMEM, NULL, 0);
		return;
	}
	s->worker = w;
	s->unique = unique;
	s->sync.done = syncfs_done;
	fs_flush_times(worker_fs(w), worker_queue(w), 0);
	worker_begin(w);
	fs_fsync(worker_fs(w), worker_queue(w), &s->sync);
}

/* --- STATX: protocol 7.39, which the header of Debian 12 does not have --- */

#define OPCODE_STATX 52

struct sx_time {
	int64_t sec;
	uint32_t nsec;
	int32_t pad;
};

struct sx_out {
	uint64_t valid_sec; /* how long the kernel may believe it */
	uint32_t valid_nsec;
	uint32_t flags;
	uint64_t pad[2];
	/* struct fuse_statx */
	uint32_t mask, blksize;
	uint64_t attributes;
	uint32_t nlink, uid, gid;
	uint16_t mode, pad1;
	uint64_t ino, size, blocks;
	uint64_t attributes_mask;
	struct sx_time atime, btime, ctime, mtime;
	uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
	uint64_t pad2[14];
};
static_assert(sizeof(struct sx_out) == 32 + 256, "as the kernel has it");
static_assert(offsetof(struct sx_out, atime) == 32 + 64, "as the kernel has it");

static struct sx_time sx_time(const struct timespec *ts)
{
	return (struct sx_time){.sec = ts->tv_sec, .nsec = (uint32_t)ts->tv_nsec};
}

static void do_statx(struct worker *w, const struct fuse_in_header *in)
{
	struct fs *fs = worker_fs(w);
	struct fs_attr a;
	bool expired;
	int err = fs_getattr(fs, worker_queue(w), in->nodeid, &a);

	if (err) {
		worker_answer(w, in->unique, err, NULL, 0);
		return;
	}
	struct sx_out out = {
		.valid_sec = (uint64_t)CACHE_SECONDS,
		.mask = STATX_BASIC_STATS | STATX_BTIME,
		.blksize = BLOCK_SIZE,
		.nlink = a.nlink,
		.uid = a.uid,
		.gid = a.gid,
		.mode = (uint16_t)a.mode,
		.ino = a.ino,
		.size = a.size,
		.blocks = a.blocks,
		.atime = sx_time(&a.atime),
		.btime = sx_time(&a.btime),
		.ctime = sx_time(&a.ctime),
		.mtime = sx_time(&a.mtime),
		.rdev_major = major(a.rdev),
		.rdev_minor = minor(a.rdev),
	};
	/* As with SETATTR: see admit.h. */
	if (fs_is_low(fs) && fs_has_writers(fs, in->nodeid, &expired)) {
		fs_set_expired(fs, in->nodeid, true);
		out.valid_sec = 0;
	}
	worker_answer(w, in->unique, 0, &out, sizeof(out));
}

/* --- all of them --- */

bool fuse_raw_request(struct worker *w, void *message)
{
	struct fuse_in_header *in = message;

	switch (in->opcode) {
	case FUSE_SYNCFS:
		start_syncfs(w, in->unique);
		return true;
	case OPCODE_STATX:
		do_statx(w, in);
		return true;
	case FUSE_CREATE:
		worker_answer(w, in->unique, -ENOSYS, NULL, 0);
		return true;
	case FUSE_TMPFILE:
		in->opcode = FUSE_CREATE;
		return false;
	default:
		return false;
	}
}
