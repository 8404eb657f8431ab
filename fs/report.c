/* SPDX-License-Identifier: Apache-2.0 */
/* report.c - one line, to one of two places. */
#define FUSE_USE_VERSION 314
#include "fs/report.h"

#include <fuse_log.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

static void emit(void *arg, enum diag_level level, const char *line)
{
	struct report *r = arg;

	if (r->hold && level <= DIAG_ERR) {
		if (!atomic_exchange(&r->taken, true))
			snprintf(r->held, sizeof(r->held), "%s", line);
		return;
	}
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
	r->hold = false;
	r->held[0] = '\0';
	r->diag = (struct diag){.emit = emit, .arg = r};
}

void report_hold(struct report *r)
{
	r->held[0] = '\0';
	r->taken = false;
	r->hold = true;
}

void report_let_go(struct report *r)
{
	r->hold = false;
	r->held[0] = '\0';
}

void report_failure(struct report *r, const char *path, const char *why)
{
	size_t n = strlen(path);
	const char *detail = r->held;

	r->hold = false;
	/* What the layers say often begins with the path, too. */
	if (strncmp(detail, path, n) == 0 && detail[n] == ':')
		detail += n + 1 + (detail[n + 1] == ' ');
	if (detail[0])
		diag(&r->diag, DIAG_ERR, "%s: %s (%s)", path, why, detail);
	else
		diag(&r->diag, DIAG_ERR, "%s: %s", path, why);
}

static void log_of_libfuse(enum fuse_log_level level, const char *fmt, va_list ap)
{
	vsyslog((int)level, fmt, ap);
}

void report_open_syslog(struct report *r)
{
	/* Both read files, which will be out of reach: the time zone's for the time in each line. */
	tzset();
	openlog(r->program, LOG_PID | LOG_NDELAY, LOG_DAEMON);
}

void report_to_syslog(struct report *r)
{
	fuse_set_log_func(log_of_libfuse);
	r->to_syslog = true;
}
