/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ioctl.h - what a program can ask the daemon of a mounted volume, by ioctl(2) on any file or directory of the mount.
 *
 * The structures have a fixed layout (host byte order, no pointers, no holes) and begin with the same head.  They only ever grow at their
 * end; a request is recognised by its number alone, and as many bytes are copied as both sides know.  So an older tool works with a
 * newer daemon and the other way round; the caller zeroes what it hands over, and what the daemon did not know of stays zero.
 *
 * Errors: ENOTTY no Holdfast mount, or a daemon that does not know the request; EPERM neither root nor the one who mounted the volume;
 * and those of each request.
 */
#ifndef HOLDFAST_FS_IOCTL_H
#define HOLDFAST_FS_IOCTL_H

#include <stdint.h>
#include <sys/ioctl.h>

#define HOLDFAST_IOC_MAGIC   UINT64_C(0x31544346444c4f48) /* "HOLDFCT1" */
#define HOLDFAST_IOC_TYPE    0xe7

struct holdfast_head {
	uint64_t magic; /* out: HOLDFAST_IOC_MAGIC */
	uint32_t bytes; /* out: of the daemon's structure */
	uint32_t pad;
};

/* --- statistics: no privilege --- */

enum holdfast_state {
	HOLDFAST_OK,
	HOLDFAST_READ_ONLY,
	HOLDFAST_FAILED, /* read-only since something failed; `reason` says what */
};

/* Strings are terminated. */
struct holdfast_stats {
	struct holdfast_head head;
	uint32_t state; /* enum holdfast_state */
	uint32_t ncounters; /* those that the daemon has */
	uint64_t mounted_sec; /* since when, seconds of the epoch */
	uint64_t now_ms; /* of the daemon's monotonic clock: for rates */
	uint8_t uuid[16];
	char label[256];
	char source[256]; /* the image or device, as much of it as fits */
	char options[256]; /* of the mount, those that matter to the daemon */
	char engine[16]; /* "uring", "threads" */
	char transport[16]; /* "fuse", "fuseblk" */
	char version[32]; /* of the daemon */
	char reason[192]; /* HOLDFAST_FAILED */
	uint64_t counter[128]; /* in the order of STATS_COUNTERS, fs/stats.h */
};

#define HOLDFAST_NR_STATS  1
#define HOLDFAST_IOC_STATS _IOR(HOLDFAST_IOC_TYPE, HOLDFAST_NR_STATS, struct holdfast_stats)

#endif
