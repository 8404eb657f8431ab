/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image_lock.h - who may touch an image or a device: one lock that the mount, mkfs, fsck and the tools all take, and
 * what the kernel says about mounts.
 *
 * The lock is flock(2) on the image itself, so it ends with the process however that dies, and is inherited by fork().
 * A loop device stands for its backing file: locking it locks that file as well, so that an image mounted through a loop
 * device cannot be opened by its path, nor the other way round.
 */
#ifndef HOLDFAST_CORE_IMAGE_LOCK_H
#define HOLDFAST_CORE_IMAGE_LOCK_H

#include <stdbool.h>
#include <stddef.h>

#define IMAGE_LOCK_SHARED     1u	/* readers among themselves */
#define IMAGE_LOCK_NO_BACKING 2u	/* the caller has already locked the loop device's file */

/*
 * Locks what the open descriptor `fd` refers to.  For a whole loop device that maps its file from offset 0, *backing_fd is a
 * second descriptor, of that file, which the caller keeps open as long as it keeps the lock; else -1.
 * -EBUSY: somebody else has it, after trying for a second.  For udev locks block devices for a moment whenever they appear or
 * change; and a descriptor that an io_uring knows stays open a little while after its process has ended.  For that reason give
 * the device an open file description of its own, and lock another: then the lock ends with its last close(2).
 */
int image_lock(int fd, unsigned flags, int *backing_fd);

/*
 * The shared lock of `from` is that of `to` as well, another descriptor of the same, and then no longer that of `from`.  There is no moment
 * without it.  -EBUSY, and nothing has changed.
 */
int image_lock_pass(int from, int to);

/*
 * Makes the shared lock of `fd`, and of `backing_fd` if that is not -1, one that nobody shares; without a moment between the two.
 * -EBUSY: others share it; it is shared again, but for a moment it was gone: somebody may have had it alone, and written.
 * -ENOLCK: as it was to be shared again somebody had it alone, so there is none now.  Does not wait.
 */
int image_lock_raise(int fd, int backing_fd);
/* The way back. */
void image_lock_lower(int fd, int backing_fd);

/*
 * Is `path` mounted, by any file system: the block device; the file itself as a FUSE source; or a loop device on the file?
 * Fills `where` (terminated) with the mount point if known.  `where` may be NULL.
 */
bool image_is_mounted(const char *path, char *where, size_t where_bytes);

/* Is the open `fd` a write-protected block device?  Some kernels open one for writing, and refuse each write. */
bool image_is_protected(int fd);

/* Is the block device `path` claimed exclusively: mounted anywhere (other mount namespaces too), swap, part of an array?
 * False for files and for what cannot be opened. */
bool image_is_claimed(const char *path);

#endif
