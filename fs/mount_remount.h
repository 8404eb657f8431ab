/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mount_remount.h - `mount -o remount`: what is served on a directory goes on with other options.
 *
 * Two must agree: the kernel, which keeps writers away from a read-only mount, and the daemon, which does everything else (the kernel
 * does not tell it).  Towards read-only the kernel comes first, since it knows who has files open for writing, and then the daemon makes the
 * volume clean; towards read-write it is the other way round, so that no change comes too early.
 */
#ifndef HOLDFAST_FS_MOUNT_REMOUNT_H
#define HOLDFAST_FS_MOUNT_REMOUNT_H

#include "core/err.h"
#include "fs/mount_options.h"

/* What the command line asks for; a message for every failure, and then nothing has changed, unless the message says so. */
enum mount_status mount_remount(const struct mount_options *opts, const struct diag *diag);

#endif
