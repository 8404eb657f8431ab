/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mend.c - what fsck.holdfast does about findings, by its mode: nothing, what loses nothing, or everything; then it checks once more,
 * and only that check decides what is said to be repaired.
 */
#include "fsck/job.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fsck/repair.h"

static void show_note(void *arg, const struct rebuild_note *n)
{
	struct job *job = arg;

	output_note(&job->out, n);
}

static void show_progress(void *arg, unsigned pass, uint64_t done, uint64_t total)
{
	struct job *job = arg;

	output_progress(&job->out, pass, done, total);
}

static bool is_cancelled(void *arg)
{
	struct job *job = arg;

	return stop_wanted(&job->stop);
}

static uint64_t left(const struct job *job)
{
	return job->res.nerrors - job->res.nhealed;
}

/* Why nothing more was done; the findings stand. */
static void say_why(struct job *job, int err)
{
	switch (err) {
	case -EPERM:
		job->oc.advice = "run fsck.holdfast -y: a repair has to drop something";
		break;
	case -EBADMSG:
		job->oc.advice = job->res.count[FSCK_NODE_LOST] ?
					 "the journal is in the way; -y --truncate-journal gives up what it cannot give back" :
					 "the journal is in the way; --truncate-journal gives up what it cannot give back";
		break;
	case -ENODATA:
		job->oc.advice = "no checkpoint root is left";
		break;
	default:
		job->oc.advice = strerror(-err);
	}
}

static int run_repair(struct job *job, struct repair_result *rr)
{
	struct repair_opts opts = {
		.all = job->o.mode == MODE_YES,
		.drop_log = job->o.truncate,
		.note = show_note,
		.progress = job->out.progress_fd >= 0 ? show_progress : NULL,
		.cancelled = is_cancelled,
		.arg = job,
		.diag = &job->diag,
	};

	output_section(&job->out, "repairs");
	return fsck_repair(job->q, &job->res, &opts, rr);
}

static int check_again(struct job *job, uint64_t before)
{
	output_section(&job->out, "left");
	int err = job_check(job, false);

	if (err)
		return err;
	job->oc.nrepaired = before > job->res.nerrors ? before - job->res.nerrors : 0;
	if (job->oc.nrepaired)
		job->oc.status |= EXIT_CORRECTED;
	return 0;
}

/* Asked once, when it is known what there is. */
static bool may_mend(struct job *job)
{
	char question[120];

	if (job->o.mode == MODE_NEVER || job->o.mode == MODE_PREEN || job->o.mode == MODE_YES)
		return job->o.mode != MODE_NEVER;
	snprintf(question, sizeof(question), "%" PRIu64 " problem%s found. Repair, dropping what cannot be kept?", job->res.nerrors,
		 job->res.nerrors == 1 ? "" : "s");
	if (!job_ask(job, question))
		return false;
	job->o.mode = MODE_YES;
	return true;
}

/* What has been asked for was only looked at; now the good copies are written. */
static int heal_now(struct job *job)
{
	struct fsck_opts opts = {.data = job->o.data, .try_replay = true, .heal = true, .cancelled = is_cancelled, .arg = job};

	return fsck_check(job->q, &opts, &job->res);
}

static int mend_all(struct job *job, bool asked)
{
	uint64_t before = job->res.nerrors;
	struct repair_result rr;
	int err = asked ? heal_now(job) : 0;

	if (!err && left(job) > repair_left(&job->res, REPAIR_DATA))
		err = run_repair(job, &rr);
	if (err == -ECANCELED || err == -ENOMEM || err == -EIO)
		return err == -ECANCELED ? err : give_up_errno(job, err);
	if (err)
		say_why(job, err);
	job->oc.rebuilt = !err && rr.rebuilt;
	return check_again(job, before);
}

int mend(struct job *job)
{
	bool asked = job->o.mode == MODE_ASK;
	int err = job->res.nerrors && may_mend(job) ? mend_all(job, asked) : 0;

	/* Who was asked has answered with a signal. */
	if (!err && asked && job->res.nerrors && is_cancelled(job))
		err = -ECANCELED;
	if (!err && job->res.nerrors)
		job->oc.status |= EXIT_UNCORRECTED;
	if (!err && job->res.nerrors && !job->oc.advice)
		job->oc.advice = repair_left(&job->res, REPAIR_DATA) == job->res.nerrors ?
					 "contents exist once: restore these files, or delete them" :
				 job->o.mode == MODE_NEVER || job->o.mode == MODE_ASK ? "-p or -y repairs" :
											 NULL;
	return err;
}
