/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report.h - where the mount's messages go: stderr while somebody waits for the command, syslog afterwards.
 */
#ifndef HOLDFAST_FS_REPORT_H
#define HOLDFAST_FS_REPORT_H

#include <stdbool.h>

#include "core/err.h"

struct report {
	struct diag diag; /* for those who report; refers to this structure, so it must stay where it is */
	const char *program;
	bool verbose; /* DIAG_INFO on stderr too */
	_Atomic bool to_syslog;
	_Atomic bool hold, taken;	/* while opening: see report_hold() */
	char held[500];		/* the first error held back */
};

void report_init(struct report *r, const char *program, bool verbose);

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

#endif
