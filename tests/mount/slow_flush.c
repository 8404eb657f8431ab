/* SPDX-License-Identifier: Apache-2.0 */
/* slow_flush.c - calls for LD_PRELOAD that take 50 ms longer: with engine=threads, flushes and durable writes. */
#include <dlfcn.h>
#include <sys/uio.h>
#include <unistd.h>

int fdatasync(int fd)
{
	int (*real)(int fd) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");

	usleep(50000);
	return real(fd);
}

/* pwritev64v2 to the linker. */
ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t off, int flags)
{
	ssize_t (*real)(int, const struct iovec *, int, off_t, int) =
		(ssize_t(*)(int, const struct iovec *, int, off_t, int))dlsym(RTLD_NEXT, "pwritev64v2");

	if (flags & RWF_DSYNC)
		usleep(50000);
	return real(fd, iov, n, off, flags);
}
