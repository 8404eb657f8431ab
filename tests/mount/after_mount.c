/* SPDX-License-Identifier: Apache-2.0 */
/*
 * after_mount.c - for LD_PRELOAD: a step behind mount(2) fails, the one that $AFTER_MOUNT names.  Who closes a descriptor that is not
 * open says so.
 *
 *   take   libfuse refuses the connection
 *   killed instead, the daemon dies there
 *   hand   the descriptor cannot be passed on to the daemon
 *   dup    nor kept, when fusermount3 has mounted
 *   flags  the connection's flags cannot be set
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct fuse_session;
struct fuse_custom_io;

int fuse_session_custom_io(struct fuse_session *se, const struct fuse_custom_io *io, int fd);

static bool fails(const char *step)
{
	const char *chosen = getenv("AFTER_MOUNT");

	return chosen && strcmp(chosen, step) == 0;
}

int fuse_session_custom_io(struct fuse_session *se, const struct fuse_custom_io *io, int fd)
{
	int (*real)(struct fuse_session *, const struct fuse_custom_io *, int) =
		(int (*)(struct fuse_session *, const struct fuse_custom_io *, int))dlsym(RTLD_NEXT, "fuse_session_custom_io");

	if (fails("killed"))
		raise(SIGKILL);
	return fails("take") ? -ENOMEM : real(se, io, fd);
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
	ssize_t (*real)(int, const struct msghdr *, int) = (ssize_t(*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg");

	if (m->msg_control && fails("hand")) {
		errno = ETOOMANYREFS;
		return -1;
	}
	return real(fd, m, flags);
}

int fcntl(int fd, int cmd, ...)
{
	/* Its name for programs whose offsets have 64 bits, as this one's have. */
	int (*real)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, "fcntl64");
	va_list ap;

	va_start(ap, cmd);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	if ((cmd == F_DUPFD_CLOEXEC && fails("dup")) || (cmd == F_SETFL && (long)arg & O_NONBLOCK && fails("flags"))) {
		errno = EMFILE;
		return -1;
	}
	return real(fd, cmd, arg);
}

int close(int fd)
{
	int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "close");
	int rc = real(fd);

	if (rc < 0 && errno == EBADF)
		dprintf(2, "descriptor %d closed twice\n", fd);
	return rc;
}
