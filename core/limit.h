/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limit.h - the largest file that a process may write ("ulimit -f"), which counts offsets in an image, too.
 *
 * Behind it a write ends the process by a signal, as if there had been a crash.  Without that it is an error like others.
 */
#ifndef HOLDFAST_CORE_LIMIT_H
#define HOLDFAST_CORE_LIMIT_H

#include <signal.h>
#include <sys/resource.h>

/* From now on such a write is -EFBIG. */
static inline void limit_is_error(void)
{
	signal(SIGXFSZ, SIG_IGN);
}

/* For who changes an image that is there, which becomes no longer by that: no limit, or the highest that may be had.  As limit_is_error(). */
static inline void limit_lift(void)
{
	struct rlimit r = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};

	limit_is_error();
	if (setrlimit(RLIMIT_FSIZE, &r) == 0 || getrlimit(RLIMIT_FSIZE, &r) < 0)
		return;
	r.rlim_cur = r.rlim_max;
	setrlimit(RLIMIT_FSIZE, &r);
}

#endif
