/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mount_options.h - the command line of mount.holdfast and its -o options, parsed.
 *
 * Takes every option that mount(8) hands on or that users of other file systems type, and refuses what it does not
 * know.  Touches nothing outside its memory; says what is wrong on stderr.
 */
#ifndef HOLDFAST_FS_MOUNT_OPTIONS_H
#define HOLDFAST_FS_MOUNT_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/dev.h"
#include "fs/fs.h"

/* mount(8)'s exit statuses; it passes those of a helper on as they are. */
enum mount_status {
	MOUNT_OK = 0,
	MOUNT_USAGE = 1,
	MOUNT_SYSTEM = 2,
	MOUNT_FAILED = 32,
};

#define MOUNT_MAX_IO (1u << 20) /* largest READ and WRITE: 256 pages, the kernel's limit */

#define MOUNT_MAX_COMMIT_SEC (24u * 3600)

/* Less would not hold the paths that the operations of all workers need at one time. */
#define MOUNT_MIN_CACHE (UINT64_C(4) << 20)

/* How requests come from the kernel. */
enum mount_transport { TRANSPORT_AUTO, TRANSPORT_URING, TRANSPORT_DEV };

struct mount_options {
	const char *program; /* for messages */
	const char *image, *dir; /* as typed */
	const char *ns; /* -N: pid or path of a mount namespace; NULL */
	bool fake, verbose, sloppy;
	bool show_help, show_version;

	const char *unknown; /* first option that nobody knows; NULL */
	const char *shown; /* one that only the kernel shows; NULL */
	char *given; /* all of -o, "a,b,c", for a remount.  Owned */
	bool by_mount; /* it is mount(8) that has made it.  Set by the caller */
	bool remount;
	bool read_only, no_recovery, discard;
	bool sync, dirsync; /* changes (of directories) are answered only when durable */
	bool no_acl;
	bool foreground;
	bool plain; /* never fuseblk */
	bool no_handles; /* the kernel opens nothing by a file handle */
	bool writeback; /* the kernel caches writes */
	bool no_sandbox; /* nothing of sandbox.h */
	bool allow_other;
	bool allow_idmap; /* the kernel may map users of the mount: it does not say then whose request one is */
	enum fs_atime atime;
	bool nodiratime, lazytime;
	enum dev_engine engine;
	enum mount_transport transport;
	unsigned commit_sec; /* 0: no timer */
	uint64_t cache_bytes; /* limit of clean metadata in memory */
	unsigned max_read;
	unsigned long ms_flags; /* MS_* of mount(2) */
	char *kernel_opts; /* security contexts, for mount(2)'s data; NULL: none.  Owned */
};

/* Fills *opts (strings point into argv).  MOUNT_OK, or MOUNT_USAGE or MOUNT_SYSTEM after a message. */
enum mount_status mount_options_parse(int argc, char **argv, struct mount_options *opts);
void mount_options_free(struct mount_options *opts);

/*
 * Once the image is open: one that is write-protected is mounted read-only whatever was asked for, and what needs that is refused for
 * others.  As mount_options_parse().
 */
enum mount_status mount_options_access(struct mount_options *opts, bool write_protected);

/*
 * For a remount: what is so now ("a,b,c", taken apart), with the changes in `given` (likewise; may be NULL), which are those of *opts.  Strings of
 * *out point into both lists.  As mount_options_parse().
 */
enum mount_status mount_options_change(const struct mount_options *opts, char *now, char *given, struct mount_options *out);

void mount_options_usage(const char *program);

/*
 * The options that libfuse and fusermount3 are to see, "a,b,c", with `fsname` escaped.  NULL: no memory.  free(3) it.
 */
char *mount_options_for_fuse(const struct mount_options *opts, const char *fsname);

/* The options that matter to the daemon, "rw,relatime,commit=5,...": as much as fits. */
void mount_options_describe(const struct mount_options *opts, char *text, size_t room);

#endif
