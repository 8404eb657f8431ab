/* SPDX-License-Identifier: Apache-2.0 */
/* no_idmap.c - a read(2) for LD_PRELOAD that makes the kernel one that cannot map users of FUSE mounts: INIT does not offer it. */
#include <dlfcn.h>
#include <linux/fuse.h>
#include <unistd.h>

#define INIT2_ALLOW_IDMAP (1u << (40 - 32))

ssize_t read(int fd, void *buf, size_t len)
{
	ssize_t (*real)(int fd, void *buf, size_t len) = (ssize_t(*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");
	ssize_t n = real(fd, buf, len);
	struct fuse_in_header *in = buf;
	struct fuse_init_in *init = (void *)(in + 1);

	if (n >= (ssize_t)(sizeof(*in) + sizeof(*init)) && in->opcode == FUSE_INIT && in->len == (size_t)n)
		init->flags2 &= ~INIT2_ALLOW_IDMAP;
	return n;
}
