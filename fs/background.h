/* SPDX-License-Identifier: Apache-2.0 */
/*
 * background.h - what a mounted volume does on its own account: checkpoints, removal of large files, writing lazy times, the commit timer.
 *
 * Checkpoints and removals have a thread and a queue each, because a removal may have to wait for a checkpoint.  The
 * commit timer runs on the owner's thread (the one that calls everything here that does not say otherwise), so that neither
 * delays it.
 */
#ifndef HOLDFAST_FS_BACKGROUND_H
#define HOLDFAST_FS_BACKGROUND_H

#include "fs/fs.h"

struct background;

/* Makes the queues and opens a file, so before the sandbox; the wake-up functions below may be called from now on. */
int background_create(struct dev *dev, const struct diag *diag, struct background **out);

/* For volume_config.want_checkpoint and fs_config.want_service.  Any thread, any lock held; never wait. */
void background_want_checkpoint(void *background);
void background_want_service(void *background);

/*
 * volume_rest(), made by the thread that makes checkpoints; waits, serving q.  One at a time, from any thread but those of `b`: -EBUSY.
 */
int background_rest(struct background *b, struct dev_queue *q);

/* Start a thread each, if it does not run yet.  On volumes that take no changes they find nothing to do. */
int background_start_checkpoints(struct background *b, struct volume *v);
int background_start_service(struct background *b, struct fs *fs);

/* No fs_service() from now on; returns when none is running.  Serves `q`, the owner's, meanwhile. */
void background_end_service(struct background *b, struct dev_queue *q);

/* Joins the threads and frees everything.  NULL is fine. */
void background_destroy(struct background *b);

/* --- commit timer --- */

struct commit_timer {
	struct volume *v;
	struct dev_queue *q;
	_Atomic unsigned interval_ms; /* 0: never */
	int64_t next_ms;
	_Atomic bool busy; /* a commit is under way */
	struct log_waiter waiter;
};

void commit_timer_init(struct commit_timer *t, struct volume *v, struct dev_queue *q, unsigned interval_sec);
/* Another interval from now on; any thread. */
void commit_timer_set(struct commit_timer *t, unsigned interval_sec);
/* Starts a commit if it is time and there is something to commit.  Returns the ms until the next look, -1: none. */
int commit_timer_run(struct commit_timer *t);
/* Makes everything durable, and waits for what the timer has begun. */
int commit_timer_finish(struct commit_timer *t);

#endif
