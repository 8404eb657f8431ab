/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.h - what is done when somebody makes one of the requests of ioctl.h.
 *
 * One table (control.c): number, size, who may, handler.  A new request is a structure in ioctl.h, a row and a function.
 * No libfuse here; fuse_control.c brings the requests.
 */
#ifndef HOLDFAST_FS_CONTROL_H
#define HOLDFAST_FS_CONTROL_H

#include <sys/types.h>

#include "fs/background.h"
#include "fs/caller.h"
#include "fs/mount_options.h"
#include "fs/scrub_job.h"
#include "fs/stats.h"

/* Which answers to changes wait until these are durable. */
struct durable_answers {
	_Atomic bool all, names; /* names: those of directories */
};

struct control {
	struct fs *fs;
	struct scrub_job *scrub;
	uid_t owner; /* who mounted the volume */
	struct callers *callers;
	/* Makes a volume that was mounted read-only one that takes changes; waits, serving q.  Errors: see mount_remount.c */
	int (*begin_writing)(void *arg, struct dev_queue *q);
	void *writing_arg;
	const char *transport;
	const char *requests; /* how they come */
	const char *sandbox; /* what the daemon has given up */
	uint64_t mounted_sec;
	/* What a remount changes beside the fs. */
	struct background *bg;
	struct commit_timer *timer;
	struct durable_answers durable;
	struct lock lock;
	struct mount_options now; /* under `lock`, as is: */
	char options[sizeof(((struct holdfast_stats *)0)->options)]; /* what `now` says */
};

void control_init(struct control *c, const struct mount_options *o);

#define CONTROL_MAX 8192u /* bytes of the largest structure */

/* What is still to be done when a request has been handled; it is answered behind that. */
enum control_then {
	THEN_ANSWER,
	THEN_STALE, /* the file's attributes are not what the kernel has: inval_attributes() */
	THEN_DROP_CACHES, /* the kernel's: INVAL_ALL */
	THEN_SETTLE, /* what was stored through mmap into a file that takes no more changes: INVAL_FILE, then fs_settle_end() */
	THEN_TRIM, /* fs_trim() of `trim`; the answer is a struct fstrim_range with what was trimmed */
};

struct control_caller {
	struct dev_queue *q; /* of the thread */
	uid_t uid; /* whose request it is; CALLER_UNKNOWN: `tid` must say */
	uint32_t tid; /* the thread */
	bool checked; /* by the kernel: may this caller change the file's flags in this way? */
	uint64_t ino; /* of the file it was made on */
	/* out */
	enum control_then then;
	struct fs_trim trim; /* its range */
};

/*
 * Does what `cmd` says.  `in`: `in_len` bytes from the caller.  On success up to `out_room` bytes are put to `out` and *out_len says how
 * many.  who->then counts after an error too.  Runs on any worker's thread; waits for what is not in memory or must be durable.
 */
int control_run(struct control *c, struct control_caller *who, unsigned cmd, const void *in, size_t in_len,
		void *out, size_t out_room, size_t *out_len);

/* All that there is to know now. */
void control_stats(struct control *c, struct holdfast_stats *out);

#endif
