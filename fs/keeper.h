/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper.h - a process that keeps the right to mount and unmount this one volume, for a daemon that has given it up.
 *
 * Forked off the daemon before that looks at the image.  It was told then what to mount where; afterwards it takes three
 * orders, in this sequence and each once: mount, settle, unmount.  The second carries a limit, which it takes only
 * if it is below the kernel's own.  Between the last two it opens the image for writing, as often as it is told to, if root has mounted it
 * read-only: for a remount.  So the worst that somebody who has taken
 * over the daemon gets from it is an early unmount, and an image that he can write to.  It reads nothing from the image, holds neither its descriptor nor its lock,
 * gives up what these orders do not take, and ends when the daemon has ended, however that happened, having taken the mount away if it was not settled.
 * If that has been killed or has crashed but does not end, because one of its threads waits in the
 * kernel for the others, the keeper ends the connection.
 */
#ifndef HOLDFAST_FS_KEEPER_H
#define HOLDFAST_FS_KEEPER_H

#include <stdbool.h>
#include <sys/types.h>

#include "fs/mount_options.h"
#include "fs/mount_point.h"
#include "fs/mount_source.h"

struct keeper {
	int fd; /* to the process; readable when it has unmounted.  -1: none */
	pid_t pid;
	bool unmounting; /* asked for, no answer yet */
};

/* With one thread only.  0 or a negative errno. */
int keeper_start(const struct mount_point *mp, const struct mount_source *src, const struct mount_options *opts,
		 const struct diag *diag, struct keeper *out);

/* Mounts; fills mp->is_blk.  The connection's descriptor, or a negative errno, after a message if *said.  It has not said -EPIPE (it is gone) and -EMFILE (no
 * more descriptors here; it is told to unmount). */
int keeper_mount(struct keeper *k, struct mount_point *mp, bool *said);

/* mount_point_settle(), and with `detach` leaves stdio.  0 or a negative errno: -EPERM if the limit could not be set. */
int keeper_settle(struct keeper *k, bool detach, uint32_t ratio);

/*
 * A descriptor of the image, opened for writing; the caller's.  -EROFS: it is write-protected; -ESTALE: it is not where it was; -EOPNOTSUPP (the kernel
 * would not remount it), -EBUSY (it is being unmounted), -EPIPE.
 */
int keeper_open_for_writing(struct keeper *k);

/*
 * Begins: what is dirty through mmap is flushed (a lazy umount with files open would not do it), then the mount is detached.
 * Both are requests to the daemon, who serves them meanwhile.
 */
void keeper_unmount(struct keeper *k);

/* True once the unmounting that was begun is over; *err says how.  Does not wait. */
bool keeper_unmounted(struct keeper *k, int *err);

/* Waits until unmounting is over, if it was begun, and ends the process. */
void keeper_end(struct keeper *k);

#endif
