/* SPDX-License-Identifier: Apache-2.0 */
/*
 * streams.h - the standard streams of a program that opens images.
 *
 * Who is started with one of them closed ("2>&-", or a careless parent) would get its number for the next file that it opens; then every
 * message goes into the image.
 */
#ifndef HOLDFAST_CORE_STREAMS_H
#define HOLDFAST_CORE_STREAMS_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Descriptors 0 to 2 are open when this returns, those that were not on /dev/null.  False: there is none, so nothing should be opened. */
static inline bool streams_reserve(void)
{
	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
			return false;
	return true;
}

/* What was printed has arrived, or a message of `program` says that it has not. */
static inline bool streams_finish(const char *program)
{
	bool lost = ferror(stdout);

	if (!fflush(stdout) && !lost)
		return true;
	fprintf(stderr, "%s: standard output: %s\n", program, lost ? "not everything could be written" : strerror(errno));
	return false;
}

#endif
