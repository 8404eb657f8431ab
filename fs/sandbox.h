/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sandbox.h - what a daemon gives up before it looks at the first byte of an image.
 *
 * An image may be made to take over who parses it.  So the daemon first opens all it will ever need (image, rings, /dev/null, the
 * way to syslog, a keeper who mounts for it: keeper.h), and then, with one thread still, gives up the rest: capabilities,
 * privileges by execve(2), files and TCP (Landlock), and all system calls but those in sandbox.c's table (seccomp).  Threads
 * that it starts later inherit all that, and nothing brings it back.  And from before that on it can be traced by nobody without CAP_SYS_PTRACE.
 *
 * What goes beyond that later, a new system call or ioctl, goes into the table; a descriptor or a ring is made before.
 */
#ifndef HOLDFAST_FS_SANDBOX_H
#define HOLDFAST_FS_SANDBOX_H

#include <stdint.h>

#include "core/err.h"

struct sandbox {
	char active[112]; /* the parts that hold, for messages and statistics: "capabilities, seccomp"; "off" */
};

/* Nothing is given up (yet). */
void sandbox_init(struct sandbox *s);

/* Gives everything up.  Never fails: for each part that the kernel does not have there is a line, level DIAG_INFO. */
void sandbox_enter(struct sandbox *s, const struct diag *diag);

/* Adds a part that somebody else has seen to. */
void sandbox_add(struct sandbox *s, const char *part);

/* From all sets all capabilities but those in `keep`, a mask of 1 << CAP_...  0 or a negative errno. */
int sandbox_drop_capabilities(uint64_t keep);

/* No execve(2) gives this process, or a child, a privilege any more.  0 or a negative errno. */
int sandbox_no_new_privileges(void);

#endif
