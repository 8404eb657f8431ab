/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mount_source.h - the image file or block device that is to be mounted: found, opened, locked; and the loop device that the
 * kernel wants to see for an image file.
 *
 * The lock (core/image_lock.h) belongs to the open file, so it survives fork() and ends when the last process that
 * has it closes it or dies.
 */
#ifndef HOLDFAST_FS_MOUNT_SOURCE_H
#define HOLDFAST_FS_MOUNT_SOURCE_H

#include <stdbool.h>
#include <sys/types.h>

#include "core/err.h"

struct mount_source {
	char *path; /* canonical */
	int fd; /* locked.  -1: given away (to the dev) or not open */
	int backing_fd; /* a loop device's locked file, or -1 */
	bool is_block;
	bool read_only; /* opened for reading, with a lock that others share */
	bool write_protected; /* and that only because it could not be opened for writing */
	dev_t dev; /* of a block device itself; else that of the file system the image is on */
	ino_t ino;
};

/* Opens and locks `path`, for reading if that is asked for or if it is write-protected; a message for every failure.  -EBUSY: in use.  Else what open(2) said, or -ENOTBLK. */
int mount_source_open(const char *path, bool read_only, const struct diag *diag, struct mount_source *out);
void mount_source_close(struct mount_source *src);

/* The same image once more, for writing, with no lock.  -EROFS: it is write-protected; -ESTALE: something else is there now. */
int mount_source_open_again(const struct mount_source *src);

/*
 * Attaches a loop device to the image file, set to detach itself on last close, and returns an open descriptor; fills
 * `name` (/dev/loopN).  The loop device has its own open file of the image, so it does not keep the lock.
 * A negative errno where there are no loop devices to be had.
 */
int mount_source_attach_loop(const struct mount_source *src, char *name, size_t name_bytes);

#endif
