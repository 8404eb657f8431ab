/* SPDX-License-Identifier: Apache-2.0 */
/* mount_over.c - an open_tree(2) for LD_PRELOAD before which somebody mounts something else over the directory. */
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/mount.h>

int open_tree(int at, const char *path, unsigned flags)
{
	int (*real)(int at, const char *path, unsigned flags) =
		(int (*)(int, const char *, unsigned))dlsym(RTLD_NEXT, "open_tree");

	if (mount("over", path, "tmpfs", MS_NOSUID | MS_NODEV, NULL) < 0)
		abort();
	return real(at, path, flags);
}
