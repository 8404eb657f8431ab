/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuse_raw.h - requests that a kernel sends and libfuse 3.14 does not know, decoded and answered here.
 *
 * SYNCFS    starts a sync of everything, answered when that has ended
 * STATX     attributes with the time of birth, answered at once
 * TMPFILE   has the form of CREATE, arguments and answer alike: it is handed to libfuse as one; and a CREATE is refused here, so that the
 *           kernel goes on making files with MKNOD (see fuse_ops.c)
 */
#ifndef HOLDFAST_FS_FUSE_RAW_H
#define HOLDFAST_FS_FUSE_RAW_H

#include <stdbool.h>

struct worker;

/* Looks at a request.  True: it is answered, or will be.  False: libfuse is to handle it, as it is now. */
bool fuse_raw_request(struct worker *w, void *message);

#endif
