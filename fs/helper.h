/* SPDX-License-Identifier: Apache-2.0 */
/* helper.h - processes beside the daemon, which it talks to by messages (keeper.h, caller.h). */
#ifndef HOLDFAST_FS_HELPER_H
#define HOLDFAST_FS_HELPER_H

#include <errno.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

/* fork(2), with *fd an end of a SOCK_SEQPACKET pair on either side, each its owner's.  0 in the new process; else its pid, or a negative errno, and then there is
 * no pair. */
static inline pid_t helper_fork(int *fd)
{
	int ends[2];

	*fd = -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;

	pid_t pid = fork();

	if (pid < 0)
		pid = -errno;
	close(ends[pid ? 1 : 0]);
	*fd = ends[pid ? 0 : 1];
	if (pid < 0) {
		close(*fd);
		*fd = -1;
	}
	return pid;
}

#endif
