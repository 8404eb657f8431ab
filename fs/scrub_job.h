/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub_job.h - the scrub of a mounted volume: a thread of its own, at idle priority, that others start, ask and cancel.
 *
 * It keeps the findings of the last scrub, as many as SCRUB_JOB_FINDINGS, until the next one begins.
 */
#ifndef HOLDFAST_FS_SCRUB_JOB_H
#define HOLDFAST_FS_SCRUB_JOB_H

#include "fs/ioctl.h"
#include "fs/scrub.h"

#define SCRUB_JOB_FINDINGS 2000u

struct scrub_job;

/* Makes the queue. */
int scrub_job_create(struct dev *dev, struct scrub_job **out);
/* Starts the thread, which waits. */
int scrub_job_serve(struct scrub_job *job, struct fs *fs);
/* Cancels what is running and joins the thread.  Before the fs is closed; `q` is the caller's, and served meanwhile.  NULL is fine. */
void scrub_job_destroy(struct scrub_job *job, struct dev_queue *q);

/* Any thread.  Errors as in ioctl.h. */
int scrub_job_start(struct scrub_job *job, struct holdfast_scrub_start *io);
int scrub_job_cancel(struct scrub_job *job);
void scrub_job_status(struct scrub_job *job, struct holdfast_scrub_status *out);
int scrub_job_finding(struct scrub_job *job, struct holdfast_scrub_finding *io);

/* What a result says, into a status; also for who scrubs an image without a daemon. */
void scrub_status_put(struct holdfast_scrub_status *st, const struct scrub_result *r);

#endif
