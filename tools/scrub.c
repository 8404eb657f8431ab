/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub.c - holdfast scrub: reads a whole volume, verifies every checksum, mends what exists twice, names what is lost.
 *
 * On a mounted volume the daemon does it and this program starts, watches and cancels it; each question opens the directory anew, so that
 * umount is not held up.  An image that is not mounted is opened here as a mount would open it, and the same code runs.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/image_lock.h"
#include "core/size.h"
#include "core/stop.h"
#include "fs/scrub_job.h"
#include "tools/scrub_output.h"

enum action { RUN, START, STATUS, CANCEL };

struct job {
	const char *path;
	enum action action;
	bool no_repair;
	uint64_t rate;
	struct stop stop;
	struct scrub_output out;
	uint32_t nshown; /* findings */
};

/* --- a mounted volume -------------------------------------------------------------------------- */

/* 0, or a negative errno; -1 (EPERM has its own) after a message about the path. */
#define SAID (-100000)

static int ask(const struct job *job, unsigned long request, void *arg)
{
	int fd = tool_open_mount(job->path), err;

	if (fd < 0)
		return SAID;
	err = tool_ioctl(fd, request, arg);
	close(fd);
	return err;
}

static int refused(const struct job *job, int err)
{
	switch (err) {
	case SAID:
		return TOOL_FOUND;
	case -EBUSY:
		return tool_refuse(job->path,
				   "is being scrubbed already; --status shows how far, --cancel ends it");
	case -ESRCH:
		return tool_refuse(job->path, "no scrub is running");
	default:
		return tool_ioctl_failed(job->path, err);
	}
}

/* Findings that are new since the last time; who may not see them sees their number. */
static void show_new(struct job *job, const struct holdfast_scrub_status *st)
{
	static struct holdfast_scrub_finding f;

	for (; job->nshown < st->nfindings; job->nshown++) {
		memset(&f, 0, sizeof(f));
		f.id = st->id;
		f.index = job->nshown;
		if (ask(job, HOLDFAST_IOC_SCRUB_FINDING, &f))
			return;
		scrub_output_finding(&job->out, &f);
	}
}

static int status_of(const struct holdfast_scrub_status *st)
{
	bool clean = st->bad_copies <= st->repaired && !st->lost_meta && !st->lost_data;

	return st->state == HOLDFAST_SCRUB_DONE && clean ? TOOL_OK : TOOL_FOUND;
}

static void wait_a_little(const struct job *job, const struct holdfast_scrub_status *st)
{
	/* A small volume takes no time. */
	long ms = st->ms < 300 ? 20 : st->ms < 3000 ? 100 : 500;
	struct timespec t = {.tv_nsec = ms * 1000000};

	nanosleep(&t, NULL);
	(void)job;
}

/* The scrub `id`, until it ends. */
static int follow(struct job *job, uint32_t id)
{
	struct holdfast_scrub_status st = {0};
	bool asked_to_stop = false;

	for (;;) {
		memset(&st, 0, sizeof(st));
		int err = ask(job, HOLDFAST_IOC_SCRUB_STATUS, &st);

		if (err)
			return refused(job, err);
		if (st.id != id)
			return tool_refuse(job->path,
					   "another scrub has been started; --status shows that one");
		show_new(job, &st);
		if (st.state != HOLDFAST_SCRUB_RUNNING)
			break;
		scrub_output_progress(&job->out, &st);
		if (!asked_to_stop && stop_wanted(&job->stop)) {
			asked_to_stop = true;
			(void)ask(job, HOLDFAST_IOC_SCRUB_CANCEL, NULL);
		}
		wait_a_little(job, &st);
	}
	scrub_output_end(&job->out, &st);
	return status_of(&st);
}

static int start(struct job *job, uint32_t *id)
{
	struct holdfast_scrub_start io = {
		.rate = job->rate,
		.flags = job->no_repair ? HOLDFAST_SCRUB_NO_REPAIR : 0,
	};
	int err = ask(job, HOLDFAST_IOC_SCRUB_START, &io);

	*id = io.id;
	return err ? refused(job, err) : TOOL_OK;
}

static int show_status(struct job *job)
{
	struct holdfast_scrub_status st = {0};
	int err = ask(job, HOLDFAST_IOC_SCRUB_STATUS, &st);

	if (err)
		return refused(job, err);
	scrub_output_begin(&job->out);
	show_new(job, &st);
	scrub_output_end(&job->out, &st);
	return st.state == HOLDFAST_SCRUB_NEVER || st.state == HOLDFAST_SCRUB_RUNNING ? TOOL_OK
										      : status_of(&st);
}

static int scrub_mount(struct job *job)
{
	uint32_t id;
	int status;

	if (job->action == STATUS)
		return show_status(job);
	if (job->action == CANCEL) {
		int err = ask(job, HOLDFAST_IOC_SCRUB_CANCEL, NULL);

		return err ? refused(job, err) : TOOL_OK;
	}
	status = start(job, &id);
	if (status || job->action == START)
		return status;
	scrub_output_begin(&job->out);
	return follow(job, id);
}

/* --- an image ---------------------------------------------------------------------------------- */

struct run {
	struct job *job;
	struct holdfast_scrub_status st;
	struct timespec begun;
};

static void put_result(struct run *run, const struct scrub_result *r)
{
	struct holdfast_scrub_status *st = &run->st;
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	st->ms = (uint64_t)((now.tv_sec - run->begun.tv_sec) * 1000 +
			    (now.tv_nsec - run->begun.tv_nsec) / 1000000);
	scrub_status_put(st, r);
}

static bool run_cancelled(void *arg)
{
	const struct run *run = arg;

	return stop_wanted(&run->job->stop);
}

static void run_progress(void *arg, const struct scrub_result *so_far)
{
	struct run *run = arg;

	put_result(run, so_far);
	scrub_output_progress(&run->job->out, &run->st);
}

static void run_found(void *arg, const struct scrub_finding *f)
{
	struct run *run = arg;
	static struct holdfast_scrub_finding io;

	io = (struct holdfast_scrub_finding){
		.kind = f->kind,
		.repaired = f->repaired,
		.blkno = f->blkno,
		.ino = f->ino,
		.off = f->off,
		.len = f->len,
	};
	snprintf(io.text, sizeof(io.text), "%s", f->text);
	snprintf(io.path, sizeof(io.path), "%s", f->path ? f->path : "");
	scrub_output_finding(&run->job->out, &io);
}

static int run_here(struct job *job, struct fs *fs, struct dev_queue *q)
{
	struct run run = {.job = job, .st.state = HOLDFAST_SCRUB_DONE};
	struct scrub_config cfg = {
		.no_repair = job->no_repair,
		.rate = job->rate,
		.cancelled = run_cancelled,
		.found = run_found,
		.progress = run_progress,
		.arg = &run,
	};
	struct scrub_result r;

	clock_gettime(CLOCK_MONOTONIC, &run.begun);
	scrub_output_begin(&job->out);
	int err = scrub_run(fs, q, &cfg, &r);
	put_result(&run, &r);
	run.st.error = err == -ECANCELED ? 0 : err;
	if (err)
		run.st.state = err == -ECANCELED ? HOLDFAST_SCRUB_CANCELLED : HOLDFAST_SCRUB_FAILED;
	scrub_output_end(&job->out, &run.st);
	return status_of(&run.st);
}

static int scrub_volume(struct job *job, struct image *im)
{
	struct volume_config cfg = {.flags = job->no_repair ? VOLUME_READ_ONLY : 0};
	struct volume *v;
	struct fs *fs;
	int err = volume_open(im->q, &cfg, &im->diag, &v), status = TOOL_FOUND;

	if (err)
		return tool_refuse(job->path, "%s; fsck.holdfast shows what is wrong",
				   im->said[0] ? im->said : tool_why_no_volume(err));
	/* What the scrub finds it reports by itself. */
	im->diag.emit = NULL;
	err = fs_open(v, im->q, NULL, &fs);
	if (!err) {
		status = run_here(job, fs, im->q);
		fs_close(fs, im->q);
	}
	int close_err = volume_close(v, im->q);

	if (err || close_err)
		status = tool_refuse(job->path, "%s", strerror(err ? -err : -close_err));
	return status;
}

static int scrub_image(struct job *job)
{
	struct image im;
	int status;

	if (job->action != RUN)
		return tool_refuse(job->path, "is not a directory of a mounted volume");
	status = image_open(&im, job->path, job->no_repair ? IMAGE_SHARED : IMAGE_EXCLUSIVE);
	if (status)
		return status;
	status = scrub_volume(job, &im);
	image_close(&im);
	return status;
}

/* --- the command line -------------------------------------------------------------------------- */

static int set_rate(struct job *job, const char *argv0, const char *text)
{
	char what[100];

	if (size_parse(text, &job->rate) == 0 && job->rate)
		return TOOL_OK;
	snprintf(what, sizeof(what), "\"%.40s\" is not a rate, as 50M", text);
	return tool_usage(argv0, what);
}

static int set_action(struct job *job, const char *argv0, enum action action)
{
	if (job->action != RUN && job->action != action)
		return tool_usage(argv0, "only one of --start, --status and --cancel can be given");
	job->action = action;
	return TOOL_OK;
}

static int parse(struct job *job, int argc, char **argv)
{
	static const struct option longs[] = {
		{"json", no_argument, NULL, 'j'},
		{"rate", required_argument, NULL, 'r'},
		{"no-repair", no_argument, NULL, 'n'},
		{"start", no_argument, NULL, 's'},
		{"status", no_argument, NULL, 't'},
		{"cancel", no_argument, NULL, 'c'},
		{NULL, 0, NULL, 0},
	};
	int c, status = TOOL_OK;

	while (!status && (c = getopt_long(argc, argv, "n", longs, NULL)) != -1) {
		switch (c) {
		case 'j':
			job->out.json = true;
			break;
		case 'n':
			job->no_repair = true;
			break;
		case 'r':
			status = set_rate(job, argv[0], optarg);
			break;
		case 's':
		case 't':
		case 'c':
			status = set_action(job, argv[0], c == 's' ? START : c == 't' ? STATUS : CANCEL);
			break;
		default:
			return tool_usage(argv[0], NULL);
		}
	}
	if (status)
		return status;
	job->path = job->out.path = tool_operand(argc, argv);
	return job->path ? TOOL_OK : TOOL_USAGE;
}

static int scrub_verb(int argc, char **argv)
{
	struct job job = {0};
	int status = parse(&job, argc, argv);

	if (status)
		return status;
	stop_hold(&job.stop);
	return tool_is_dir(job.path) ? scrub_mount(&job) : scrub_image(&job);
}

const struct verb verb_scrub = {
	.name = "scrub",
	.synopsis = "[--rate SIZE] [-n] [--json] [--start|--status|--cancel] DIR|IMAGE|DEVICE",
	.summary = "Read everything, verify every checksum, mend what exists twice, name what is lost",
	.help = "  --rate SIZE        read at most so much per second, as 50M\n"
		"  -n, --no-repair    only look, write nothing\n"
		"  --json             the result as one JSON object\n"
		"  --start            DIR: start it and return\n"
		"  --status           DIR: show the one that runs, or the last one\n"
		"  --cancel           DIR: cancel the one that runs\n"
		"\n"
		"A mounted volume is scrubbed by its daemon, at idle priority, while it is in use; for root "
		"and the\n"
		"user who mounted it.  Ctrl-C cancels it.  An image is opened as a mount would open it.\n"
		"Exit status 1: something was found that could not be repaired, or the scrub was cancelled "
		"or failed.\n",
	.run = scrub_verb,
};
