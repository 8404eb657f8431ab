/* SPDX-License-Identifier: Apache-2.0 */
/* job.h - one run of fsck.holdfast: what its files share. */
#ifndef HOLDFAST_FSCK_JOB_H
#define HOLDFAST_FSCK_JOB_H

#include "core/stop.h"
#include "fsck/output.h"

#define PROGRAM "fsck.holdfast"

/* fsck(8) */
#define EXIT_CORRECTED   1u
#define EXIT_UNCORRECTED 4u
#define EXIT_OPERATION   8u
#define EXIT_USAGE       16u
#define EXIT_CANCELLED   32u

enum mode {
	MODE_ASK,	/* none of the options below */
	MODE_NEVER,	/* -n: nothing is written */
	MODE_PREEN,	/* -a, -p: whatever loses nothing */
	MODE_YES,	/* -y */
};

struct options {
	const char *path;
	enum mode mode;
	bool force, data, timing, truncate;
	const char *undo;	/* NULL: none */
};

struct job {
	struct options o;
	struct output out;
	struct outcome oc;
	struct fsck_result res;	/* of the last look */
	struct diag diag;
	struct stop stop;
	int fd, backing_fd;	/* those that are locked */
	struct dev *dev;
	struct dev_queue *q;
	struct undo_file *undo;
	int replay_err;	/* the journal should have been replayed, and was not */
	char error[300];
};

/* It cannot be gone on: one line, and the status.  Always negative. */
int give_up(struct job *job, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int give_up_errno(struct job *job, int err);

/* Yes from a terminal; where nobody can be asked, no. */
bool job_ask(struct job *job, const char *question);

/* Checks everything, showing findings and progress; good copies go over bad ones if `heal`.  No verdict: that is mend()'s. */
int job_check(struct job *job, bool heal);

/* mend.c: after a full check: repairs what it found, as far as the mode allows, checks again, and sets the exit status. */
int mend(struct job *job);

#endif
