/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uring_limits.h - what the device's rings may be used for, enforced by the kernel.
 *
 * Operations in a ring are no system calls, so no seccomp filter sees them: whoever takes over the process could open files and
 * sockets through a ring.  A ring is therefore made disabled, restricted to what dev_uring.c does, and then enabled; after that
 * nobody can lift the restriction.  A new operation, flag or registration goes into the table in uring_limits.c.
 */
#ifndef HOLDFAST_CORE_URING_LIMITS_H
#define HOLDFAST_CORE_URING_LIMITS_H

#include <liburing.h>
#include <stdbool.h>

/*
 * For a ring made with IORING_SETUP_R_DISABLED, with everything registered that is to be; `shared`: with guests (core/dev_uring.h).  Zero, or what the kernel says (-EINVAL
 * before Linux 5.10); then the ring is of no use and must be made anew.
 */
int uring_limit_and_enable(struct io_uring *ring, bool shared);

#endif
