/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ioctl.h - what a program can ask the daemon of a mounted volume, by ioctl(2) on any file or directory of the mount.
 *
 * The structures have a fixed layout (host byte order, no pointers, no holes) and begin with the same head.  They only ever grow at their
 * end; a request is recognised by its number alone, and as many bytes are copied as both sides know.  So an older tool works with a
 * newer daemon and the other way round; the caller zeroes what it hands over, and what the daemon did not know of stays zero.
 *
 * Errors: ENOTTY no Holdfast mount, or a daemon that does not know the request; EPERM neither CAP_SYS_ADMIN nor the one who mounted the volume;
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

/*
 * Requests of other file systems that are answered as well, with their own numbers and structures (fs/control.c has the table):
 * EXT4_IOC_SHUTDOWN (XFS_IOC_GOINGDOWN) for CAP_SYS_ADMIN.  Its number says that the caller only reads, so the kernel does not bring us its flags:
 * it always syncs first, as the default flag means.  HOLDFAST_IOC_SHUTDOWN says what it means.
 */

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
	char sandbox[128]; /* what the daemon has given up; "off" */
	char requests[16]; /* how they come from the kernel: "io_uring", "/dev/fuse" */
};

/* --- scrub: starting, cancelling and its findings for CAP_SYS_ADMIN and the owner of the mount --- */

#define HOLDFAST_SCRUB_NO_REPAIR 1u

/* EBUSY: one is running. */
struct holdfast_scrub_start {
	struct holdfast_head head;
	uint64_t rate; /* in: bytes per second; 0: no limit */
	uint32_t flags; /* in */
	uint32_t id; /* out: of the scrub, never 0 */
};

enum holdfast_scrub_state { HOLDFAST_SCRUB_NEVER, HOLDFAST_SCRUB_RUNNING, HOLDFAST_SCRUB_DONE, HOLDFAST_SCRUB_CANCELLED,
			    HOLDFAST_SCRUB_FAILED };

/* Of the one that runs, or was the last. */
struct holdfast_scrub_status {
	struct holdfast_head head;
	uint32_t id;
	uint32_t state; /* enum holdfast_scrub_state */
	int32_t error; /* HOLDFAST_SCRUB_FAILED: negative errno */
	uint32_t nfindings; /* that can be asked for; more are only counted */
	uint64_t begun_sec; /* of the epoch */
	uint64_t ms; /* that it has taken */
	uint64_t rate;
	/* As in struct scrub_result. */
	uint64_t done, total, meta_blocks, data_blocks, bad_copies, repaired, lost_meta, lost_data, lost_files;
};

/* ENOENT: there are not so many; ESTALE: of another scrub. */
struct holdfast_scrub_finding {
	struct holdfast_head head;
	uint32_t id, index; /* in */
	uint32_t kind; /* enum scrub_kind, fs/scrub.h */
	uint32_t repaired;
	uint64_t blkno, ino, off, len;
	char text[512];
	char path[4096]; /* from the mount's root; empty: unknown or none */
};

/*
 * --- shutdown: CAP_SYS_ADMIN ---
 *
 * As if the power were cut, without unmounting: nothing is read or written any more and all requests end in EIO, until the volume is unmounted;
 * the next mount replays the journal.  When it returns nothing is on its way to the device any more.
 */
#define HOLDFAST_SHUTDOWN_FLUSH   0u /* sync everything first */
#define HOLDFAST_SHUTDOWN_LOGFLUSH 1u /* the same: here contents are part of what the journal makes durable */
#define HOLDFAST_SHUTDOWN_NOLOGFLUSH 2u /* at once: what was not synced may be lost */

/* EIO: it is shut down, but what was to be synced first could not be.  EINVAL: no such flag. */
struct holdfast_shutdown {
	struct holdfast_head head;
	uint32_t flags; /* in: HOLDFAST_SHUTDOWN_* */
	uint32_t pad;
};

/* --- remount: for CAP_SYS_ADMIN and the owner of the mount --- */

#define HOLDFAST_SET_ACCESS   1u /* read_only: rest, or work again */
#define HOLDFAST_SET_TIMES    2u /* atime, nodiratime, lazytime */
#define HOLDFAST_SET_DURABLE  4u /* sync, dirsync */
#define HOLDFAST_SET_COMMIT   8u /* commit_sec */
#define HOLDFAST_SET_DISCARD 16u /* discard */

/*
 * Changes how the volume is served.  With read_only it is made durable and marked clean, and nothing is written from then on; whoever asks
 * for that has made the mount read-only before, for the next change ends it.  EROFS: was mounted read-only; EIO: has failed.
 */
struct holdfast_remount {
	struct holdfast_head head;
	uint32_t set; /* in: HOLDFAST_SET_*, what is to be changed */
	uint32_t read_only, atime /* enum fs_atime */, nodiratime, lazytime, sync, dirsync, discard; /* in */
	uint32_t commit_sec; /* in */
	uint32_t pad;
	char options[256]; /* out: as in struct holdfast_stats */
};

#define HOLDFAST_NR_STATS  1
#define HOLDFAST_NR_SCRUB_START   2
#define HOLDFAST_NR_SCRUB_STATUS  3
#define HOLDFAST_NR_SCRUB_FINDING 4
#define HOLDFAST_NR_SCRUB_CANCEL  5 /* returns at once; ESRCH: none is running */
#define HOLDFAST_NR_SHUTDOWN 6
#define HOLDFAST_NR_REMOUNT       7
#define HOLDFAST_IOC_STATS _IOR(HOLDFAST_IOC_TYPE, HOLDFAST_NR_STATS, struct holdfast_stats)
#define HOLDFAST_IOC_SCRUB_START   _IOWR(HOLDFAST_IOC_TYPE, HOLDFAST_NR_SCRUB_START, struct holdfast_scrub_start)
#define HOLDFAST_IOC_SCRUB_STATUS  _IOR(HOLDFAST_IOC_TYPE, HOLDFAST_NR_SCRUB_STATUS, struct holdfast_scrub_status)
#define HOLDFAST_IOC_SCRUB_FINDING _IOWR(HOLDFAST_IOC_TYPE, HOLDFAST_NR_SCRUB_FINDING, struct holdfast_scrub_finding)
#define HOLDFAST_IOC_SCRUB_CANCEL  _IO(HOLDFAST_IOC_TYPE, HOLDFAST_NR_SCRUB_CANCEL)
#define HOLDFAST_IOC_SHUTDOWN _IOWR(HOLDFAST_IOC_TYPE, HOLDFAST_NR_SHUTDOWN, struct holdfast_shutdown)
#define HOLDFAST_IOC_REMOUNT       _IOWR(HOLDFAST_IOC_TYPE, HOLDFAST_NR_REMOUNT, struct holdfast_remount)

#endif
