/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mount_point.h - the directory to mount on, dead mounts in the way, and mount(2) itself.
 *
 * As root the mount is ours: fuseblk on a block device (the volume's own, or a loop device on the image file), because only then
 * do sync(2) and syncfs(2) reach the daemon and umount(8) waits for it; else plain fuse.  Without the right to mount,
 * libfuse has fusermount3 do it.
 */
#ifndef HOLDFAST_FS_MOUNT_POINT_H
#define HOLDFAST_FS_MOUNT_POINT_H

#include <stdbool.h>

#include "core/err.h"
#include "fs/mount_options.h"
#include "fs/mount_source.h"

struct fuse_session;
struct fuse_lowlevel_ops;

struct mount_point {
	char *dir; /* canonical */
	bool is_blk; /* mounted as fuseblk */
	bool by_helper; /* mounted by fusermount3, which must unmount it too */
	dev_t dev; /* of the mount; 0: not settled */
	int proc_fd; /* /proc of the mount namespace that was left for another one; -1: none was */
};

/* Enters the mount namespace `ns`: a pid or a path.  Single-threaded only. */
int mount_point_enter_ns(const char *ns, const struct diag *diag);

/* Before that: /proc as it is seen here, or -1. */
int mount_point_open_proc(void);

/*
 * What ext4 does when a device that is mounted is mounted on another directory: the same file system is seen there too.  False: opts->image is no block
 * device whose volume root has mounted and whose daemon is alive, and nothing was done.  Else *err says what became of it, after a message if not 0; -EBUSY: it is
 * mounted read-only and this is not, or the other way round, or it is mounted there.
 */
bool mount_point_again(const struct mount_options *opts, const struct diag *diag, int *err);

/*
 * Finds `dir`.  The lock on `src` is held, so a Holdfast mount of it that still hangs about is dead: such mounts, and a
 * dead Holdfast mount on `dir`, are detached first (not if `look_only`).  A message for every failure.
 */
int mount_point_find(const char *dir, const struct mount_source *src, bool look_only, const struct diag *diag,
		     struct mount_point *out);
void mount_point_free(struct mount_point *mp);

/* A libfuse session that would mount `src` with these options.  NULL: no memory. */
struct fuse_session *mount_point_session(const struct mount_source *src, const struct mount_options *opts,
					 const struct fuse_lowlevel_ops *ops, size_t ops_bytes, void *user);

/* Mounts; returns the connection's descriptor, or a negative errno after a message, and then nothing is mounted. */
int mount_point_mount(struct mount_point *mp, const struct mount_source *src, const struct mount_options *opts,
		      const struct diag *diag);

/* What is mounted on `dir`, if it is ours: the canonical path, and the options that the kernel shows, of this mount and of the file
 * system, "a,b,c".  free(3) both.  -EINVAL: something else or nothing. */
int mount_point_shown(const char *dir, char **point, char **options);

/*
 * Once the first request has been served: remembers which mount is ours, and lets the kernel read further ahead than its
 * default of 128 KiB, where that is allowed.  `ratio` not 0: limits what it may hold that is dirty (dirty.h); false: it could not.
 */
bool mount_point_settle(struct mount_point *mp, uint32_t ratio);

/* A directory on which a settled mount, or a copy of it, can be seen now; free(3).  NULL: none. */
char *mount_point_seen(const struct mount_point *mp);

/*
 * Detaches (lazily), a settled mount with all its copies in this mount namespace, whatever their directories are called by now; -EINVAL if it is on none any
 * more.  On fuseblk with no file open this waits until the daemon has answered DESTROY, so it must not be called by a thread that the answer depends on.
 */
int mount_point_unmount(const struct mount_point *mp);

#endif
