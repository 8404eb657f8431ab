/* SPDX-License-Identifier: Apache-2.0 */
/*
 * daemon.h - a mounted volume from opening it to closing it.
 *
 * Start-up does everything that can fail before it mounts, and reports readiness only when the kernel's first request has been
 * served; so a failure is a message and an exit status of the command that the user typed, never a dead mount.
 *
 * The end is one sequence whatever caused it (umount, a signal, an abort): requests drained, file system closed, log durable,
 * threads joined, last checkpoint, device closed and with it the lock; only then is the kernel's DESTROY answered, for
 * which umount(2) of a fuseblk mount waits.
 */
#ifndef HOLDFAST_FS_DAEMON_H
#define HOLDFAST_FS_DAEMON_H

#include "fs/mount_options.h"
#include "fs/mount_point.h"
#include "fs/mount_source.h"
#include "fs/report.h"

/*
 * Opens, mounts, serves until unmounted, closes.  `ready_fd` >= 0: a pipe to the waiting command; one byte MOUNT_OK is written to it
 * when the mount is usable, and the process detaches from its stdio.  -1: foreground.  Takes src->fd and src->backing_fd over.
 * Returns the exit status; every failure has been reported.
 */
enum mount_status daemon_run(const struct mount_options *opts, struct mount_source *src,
			     struct mount_point *mp, struct report *report, int ready_fd);

/* Everything but mounting: can the volume be opened?  Read-only whatever `opts` says. */
enum mount_status daemon_try(const struct mount_options *opts, struct mount_source *src,
			     struct report *report);

#endif
