/* SPDX-License-Identifier: Apache-2.0 */
/* report.c - one line, to one of two places. */
#define FUSE_USE_VERSION 314
#include "fs/report.h"

#include <fuse_log.h>
#include <stdio.h>
#include <syslog.h>

static void emit(void *arg, enum diag_level level, const char *line)
{
	struct report *r = arg;

	/* The levels are syslog's. */
	if (r->to_syslog)
		syslog((int)level, "%s", line);
	else if (level != DIAG_INFO || r->verbose)
		fprintf(stderr, "%s: %s\n", r->program, line);
}

void report_init(struct report *r, const char *program, bool verbose)
{
	r->program = program;
	r->verbose = verbose;
	r->to_syslog = false;
	r->diag = (struct diag){.emit = emit, .arg = r};
}

static void log_of_libfuse(enum fuse_log_level level, const char *fmt, va_list ap)
{
	vsyslog((int)level, fmt, ap);
}

void report_to_syslog(struct report *r)
{
	openlog(r->program, LOG_PID, LOG_DAEMON);
	fuse_set_log_func(log_of_libfuse);
	r->to_syslog = true;
}
