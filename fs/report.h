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
};

void report_init(struct report *r, const char *program, bool verbose);

/* From now on to syslog, libfuse's messages included.  */
void report_to_syslog(struct report *r);

#endif
