/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock_gap.c - a flock(2) for LD_PRELOAD that makes the moment long in which a lock that could not be raised is gone.
 *
 * The first LOCK_EX that fails makes the file $LOCK_GAP/open, and returns when there is a file $LOCK_GAP/go; after a minute in any case.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

static void wait_in_gap(const char *folder)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/open", folder);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	snprintf(path, sizeof(path), "%s/go", folder);
	for (int i = 0; i < 6000 && access(path, F_OK) < 0; i++)
		usleep(10000);
}

int flock(int fd, int op)
{
	static bool once;
	int (*real)(int fd, int op) = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
	const char *folder = getenv("LOCK_GAP");
	int rc = real(fd, op), err = errno;

	if (rc < 0 && err == EWOULDBLOCK && op & LOCK_EX && folder && !once) {
		once = true;
		wait_in_gap(folder);
	}
	errno = err;
	return rc;
}
