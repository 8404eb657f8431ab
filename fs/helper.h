/* SPDX-License-Identifier: Apache-2.0 */
/* helper.h - processes beside the daemon, which it talks to by messages (keeper.h, caller.h). */
#ifndef HOLDFAST_FS_HELPER_H
#define HOLDFAST_FS_HELPER_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

/* What such a process keeps beside stdio. */
#define SOCKET_FD 3 /* to the daemon */
#define PROC_FD	  4 /* a /proc to look at, or a file there, if it was given one */

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

/* In the new process: `fd` becomes SOCKET_FD and `proc_fd`, if not -1, PROC_FD; all others above stdio are closed, for they are the daemon's. */
static inline bool helper_take(int fd, int proc_fd)
{
	/* Out of the way of the numbers that they get. */
	int sock = fcntl(fd, F_DUPFD, PROC_FD + 1), proc = proc_fd >= 0 ? fcntl(proc_fd, F_DUPFD, PROC_FD + 1) : -1;

	if (sock < 0 || (proc_fd >= 0 && proc < 0))
		return false;
	if (dup3(sock, SOCKET_FD, O_CLOEXEC) != SOCKET_FD || (proc >= 0 && dup3(proc, PROC_FD, O_CLOEXEC) != PROC_FD))
		return false;
	closefrom(proc >= 0 ? PROC_FD + 1 : SOCKET_FD + 1);
	return true;
}

/* The command's standard streams belong to whoever waits for it to end. */
static inline void helper_leave_stdio(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	if (null >= 0)
		close(null);
}

#endif
