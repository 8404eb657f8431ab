/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report.h - where the mount's messages go: stderr while somebody waits for the command, syslog afterwards.
 *
 * Messages come with locks held, and either way may block: the logger's files, or those of whoever reads stderr, may lie on
 * this very mount.  So while it is served they are queued, and a thread of their own writes them.
 */
#ifndef HOLDFAST_FS_REPORT_H
#define HOLDFAST_FS_REPORT_H

#include <stdbool.h>

#include "core/err.h"

struct report_queue;

struct report {
	struct diag diag; /* for those who report; refers to this structure, so it must stay where it is */
	const char *program; /* to syslog */
	const char *speaker; /* on stderr: whom the user has called */
	bool verbose; /* DIAG_INFO on stderr too */
	_Atomic bool to_syslog;
	_Atomic bool hold, taken;	/* while opening: see report_hold() */
	char held[500];		/* the first error held back */
	struct report_queue *_Atomic queue; /* NULL: whoever reports writes */
};

void report_init(struct report *r, const char *program, const char *speaker, bool verbose);

/*
 * From now on errors are held back, the first of them remembered: while a volume is being opened the layers below say what exactly
 * is wrong, and the command's one line is made of that.  */
void report_hold(struct report *r);
/* The opening has failed, and `why` is the summary: one line, with what was held back.  `path` is the image. */
void report_failure(struct report *r, const char *path, const char *why);
/* It has not: from now on errors are reported as they come. */
void report_let_go(struct report *r);

/* Opens the way to syslog, while it can be. */
void report_open_syslog(struct report *r);

/* From now on to syslog, libfuse's messages included.  */
void report_to_syslog(struct report *r);

/* From now on nobody waits for a reader of messages, and what does not fit is counted and said.  0 or a negative errno.  One per
 * process. */
int report_start_queue(struct report *r);

/* When all others have ended: writes what is queued, unless that takes seconds.  Nothing may be reported afterwards. */
void report_end_queue(struct report *r);

#endif
