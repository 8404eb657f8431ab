/* SPDX-License-Identifier: Apache-2.0 */
/* scrub_job.c - see the header. */
#include "fs/scrub_job.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/lock.h"

/* <linux/ioprio.h> is younger than the call. */
#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_IDLE (3 << 13)

struct finding {
	struct scrub_finding f;
	char *text, *path; /* owned */
};

struct scrub_job {
	struct fs *fs;
	struct dev_queue *q;
	pthread_t thread;
	bool has_thread;
	_Atomic bool cancel, stop, ended;
	struct dev_queue *_Atomic ender; /* whom to wake when `ended` is set */

	struct lock lock; /* a leaf; everything below */
	bool wanted; /* started, not yet begun */
	struct scrub_config cfg; /* of the one that is wanted or runs */
	struct holdfast_scrub_status st;
	uint64_t begun_ms;
	struct finding *findings;
	uint32_t last_id;
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* --- what the scrub calls ---------------------------------------------------------------------- */

static bool job_cancelled(void *arg)
{
	struct scrub_job *job = arg;

	return job->cancel || job->stop;
}

/* Lock held. */
void scrub_status_put(struct holdfast_scrub_status *st, const struct scrub_result *r)
{
	st->done = r->done;
	st->total = r->total;
	st->meta_blocks = r->meta_blocks;
	st->data_blocks = r->data_blocks;
	st->bad_copies = r->bad_copies;
	st->repaired = r->repaired;
	st->lost_meta = r->lost_meta;
	st->lost_data = r->lost_data;
	st->lost_files = r->lost_files;
}

static void put_result(struct scrub_job *job, const struct scrub_result *r)
{
	job->st.ms = now_ms() - job->begun_ms;
	scrub_status_put(&job->st, r);
}

static void job_progress(void *arg, const struct scrub_result *so_far)
{
	struct scrub_job *job = arg;

	lock_take(&job->lock);
	put_result(job, so_far);
	lock_drop(&job->lock);
}

static void job_found(void *arg, const struct scrub_finding *f)
{
	struct scrub_job *job = arg;
	struct finding copy = {.f = *f, .text = strdup(f->text), .path = f->path ? strdup(f->path) : NULL};

	lock_take(&job->lock);
	if (copy.text && job->st.nfindings < SCRUB_JOB_FINDINGS)
		job->findings[job->st.nfindings++] = copy;
	else
		copy.f.text = NULL;
	lock_drop(&job->lock);
	if (copy.f.text)
		return;
	free(copy.text);
	free(copy.path);
}

/* --- the thread -------------------------------------------------------------------------------- */

/* Lock held, or the thread has ended. */
static void forget_findings(struct scrub_job *job)
{
	for (unsigned i = 0; i < job->st.nfindings; i++) {
		free(job->findings[i].text);
		free(job->findings[i].path);
	}
	job->st.nfindings = 0;
}

static void say_how_it_ended(struct scrub_job *job, const struct scrub_result *r, int err)
{
	const struct volume *v = fs_volume(job->fs);

	if (err)
		diag(v->diag, DIAG_NOTICE, "%s: scrub %s", v->dev->path,
		     err == -ECANCELED ? "cancelled" : strerror(-err));
	else
		diag(v->diag, DIAG_NOTICE,
		     "%s: scrub: %llu blocks of metadata and %llu of data verified; %llu repaired, %llu "
		     "blocks of metadata and "
		     "%llu of data (%llu files) lost",
		     v->dev->path, (unsigned long long)r->meta_blocks, (unsigned long long)r->data_blocks,
		     (unsigned long long)r->repaired, (unsigned long long)r->lost_meta,
		     (unsigned long long)r->lost_data, (unsigned long long)r->lost_files);
}

static void run_one(struct scrub_job *job)
{
	struct scrub_result r;
	int err = scrub_run(job->fs, job->q, &job->cfg, &r);

	say_how_it_ended(job, &r, err);
	lock_take(&job->lock);
	put_result(job, &r);
	job->st.error = err == -ECANCELED ? 0 : err;
	job->st.state = !err                ? HOLDFAST_SCRUB_DONE
			: err == -ECANCELED ? HOLDFAST_SCRUB_CANCELLED
					    : HOLDFAST_SCRUB_FAILED;
	lock_drop(&job->lock);
}

static bool take_order(struct scrub_job *job)
{
	bool wanted;

	lock_take(&job->lock);
	wanted = job->wanted;
	job->wanted = false;
	lock_drop(&job->lock);
	return wanted;
}

static void *job_main(void *arg)
{
	struct scrub_job *job = arg;

	/* Both are the thread's alone, and hints. */
	setpriority(PRIO_PROCESS, 0, 19);
	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE);
	while (!job->stop) {
		if (take_order(job))
			run_one(job);
		else
			dev_poll(job->q, -1);
	}
	job->ended = true;
	dev_wake(job->ender);
	return NULL;
}

int scrub_job_create(struct dev *dev, struct scrub_job **out)
{
	struct scrub_job *job = calloc(1, sizeof(*job));
	int err = -ENOMEM;

	if (!job)
		return err;
	job->findings = calloc(SCRUB_JOB_FINDINGS, sizeof(*job->findings));
	if (job->findings)
		err = dev_queue_create(dev, &job->q);
	if (err)
		goto free_job;
	lock_init(&job->lock);
	*out = job;
	return 0;

free_job:
	free(job->findings);
	free(job);
	return err;
}

int scrub_job_serve(struct scrub_job *job, struct fs *fs)
{
	int err;

	job->fs = fs;
	err = -pthread_create(&job->thread, NULL, job_main, job);
	job->has_thread = !err;
	return err;
}

static void end_thread(struct scrub_job *job, struct dev_queue *q)
{
	job->ender = q;
	job->stop = true;
	dev_wake(job->q);
	while (!job->ended)
		dev_poll(q, -1);
	pthread_join(job->thread, NULL);
}

void scrub_job_destroy(struct scrub_job *job, struct dev_queue *q)
{
	if (!job)
		return;
	if (job->has_thread)
		end_thread(job, q);
	dev_queue_destroy(job->q);
	lock_fini(&job->lock);
	forget_findings(job);
	free(job->findings);
	free(job);
}

/* --- what others ask --------------------------------------------------------------------------- */

int scrub_job_start(struct scrub_job *job, struct holdfast_scrub_start *io)
{
	int err = io->flags & ~HOLDFAST_SCRUB_NO_REPAIR ? -EINVAL : 0;

	lock_take(&job->lock);
	if (!err && job->st.state == HOLDFAST_SCRUB_RUNNING)
		err = -EBUSY;
	if (!err) {
		forget_findings(job);
		job->cfg = (struct scrub_config){
			.no_repair = io->flags & HOLDFAST_SCRUB_NO_REPAIR,
			.rate = io->rate,
			.cancelled = job_cancelled,
			.found = job_found,
			.progress = job_progress,
			.arg = job,
		};
		if (!++job->last_id)
			job->last_id = 1;
		job->st = (struct holdfast_scrub_status){
			.id = job->last_id,
			.state = HOLDFAST_SCRUB_RUNNING,
			.begun_sec = (uint64_t)time(NULL),
			.rate = io->rate,
		};
		job->begun_ms = now_ms();
		job->cancel = false;
		job->wanted = true;
		io->id = job->last_id;
	}
	lock_drop(&job->lock);
	if (!err)
		dev_wake(job->q);
	return err;
}

int scrub_job_cancel(struct scrub_job *job)
{
	bool running;

	lock_take(&job->lock);
	running = job->st.state == HOLDFAST_SCRUB_RUNNING;
	if (running)
		job->cancel = true;
	lock_drop(&job->lock);
	if (running)
		dev_wake(job->q);
	return running ? 0 : -ESRCH;
}

void scrub_job_status(struct scrub_job *job, struct holdfast_scrub_status *out)
{
	lock_take(&job->lock);
	if (job->st.state == HOLDFAST_SCRUB_RUNNING)
		job->st.ms = now_ms() - job->begun_ms;
	*out = job->st;
	lock_drop(&job->lock);
}

static void copy_finding(const struct finding *f, struct holdfast_scrub_finding *io)
{
	io->kind = f->f.kind;
	io->repaired = f->f.repaired;
	io->blkno = f->f.blkno;
	io->ino = f->f.ino;
	io->off = f->f.off;
	io->len = f->f.len;
	snprintf(io->text, sizeof(io->text), "%s", f->text);
	snprintf(io->path, sizeof(io->path), "%s", f->path ? f->path : "");
}

int scrub_job_finding(struct scrub_job *job, struct holdfast_scrub_finding *io)
{
	int err = 0;

	lock_take(&job->lock);
	if (io->id != job->st.id)
		err = -ESTALE;
	else if (io->index >= job->st.nfindings)
		err = -ENOENT;
	else
		copy_finding(&job->findings[io->index], io);
	lock_drop(&job->lock);
	return err;
}
