/* SPDX-License-Identifier: Apache-2.0 */
/* signature.h - what is on a device already, and making it unrecognisable. */
#ifndef HOLDFAST_MKFS_SIGNATURE_H
#define HOLDFAST_MKFS_SIGNATURE_H

#include <stddef.h>
#include <stdint.h>

/*
 * Looks for a Holdfast volume, and with libblkid for other file systems, RAID members, volume managers and partition tables,
 * in the `size` bytes of the readable descriptor `fd`.  1: found, `what` (terminated) names it: "a file system of type ext4
 * labelled \"data\"".  0: nothing known.  Negative errno.
 */
int signature_find(int fd, uint64_t size, char *what, size_t what_bytes);

/*
 * Erases every such signature, and the places at both ends where old backups of them hide.  On stable storage when it returns.
 */
int signature_wipe(int fd, uint64_t size);

#endif
