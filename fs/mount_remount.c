/* SPDX-License-Identifier: Apache-2.0 */
/* mount_remount.c - see the header. */
#include "fs/mount_remount.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "fs/ioctl.h"
#include "fs/mount_point.h"

/* Of these a user has a say without the kernel. */
#define DAEMON_FLAGS (MS_NOATIME | MS_RELATIME | MS_STRICTATIME | MS_NODIRATIME | MS_LAZYTIME | MS_SYNCHRONOUS | MS_DIRSYNC | MS_SILENT)

/* For another remount. */
#define WAIT_TRIES 200
#define WAIT_NSEC  50000000

struct remount {
	const struct mount_options *asked;
	const struct diag *diag;
	int fd; /* of the mount's root */
	char *dir; /* canonical */
	char *now_text, *given_text; /* what the options' strings point into */
	char *now_again;
	struct mount_options before, after;
};

static enum mount_status refuse(const struct remount *r, const char *why)
{
	diag(r->diag, DIAG_ERR, "%s: %s", r->asked->dir, why);
	return MOUNT_FAILED;
}

static const char *why_not(int err)
{
	switch (err) {
	case ENOTTY:
		return "the daemon is of an older version that cannot remount: unmount and mount again";
	case EPERM:
		return "only root (CAP_SYS_ADMIN) and the user who has mounted the volume may remount it";
	case EROFS:
		return "cannot remount it read-write: the image is write-protected, or has features that this version cannot write";
	case EOPNOTSUPP:
		return "cannot remount it read-write: fusermount3, which has mounted it, knows no remount";
	case ETXTBSY:
		return "cannot remount it read-write: the image is in use by others, who only read it";
	case ESTALE:
		return "cannot remount it read-write: the image is not what it was when it was mounted";
	case EIO:
		return "the volume has failed and takes no changes; holdfast stats says why";
	case EBUSY:
		return "another remount is under way";
	default:
		return strerror(err);
	}
}

/* --- what is so now, and what is to be ------------------------------------------------------------------- */

static enum mount_status look(struct remount *r, char **shown)
{
	int err = mount_point_shown(r->asked->dir, &r->dir, shown);

	return err ? refuse(r, err == -EINVAL ? "no Holdfast volume is mounted here" : strerror(-err)) : MOUNT_OK;
}

/*
 * One at a time, else the kernel may be told first what the daemon is told last.  The lock of the mount's root is the kernel's alone, and goes with our
 * descriptor.  Anybody who may read that directory can hold it: so after ten seconds it goes without.
 */
static void wait_for_others(const struct remount *r)
{
	for (unsigned i = 0; i < WAIT_TRIES && flock(r->fd, LOCK_EX | LOCK_NB) < 0; i++)
		nanosleep(&(struct timespec){.tv_nsec = WAIT_NSEC}, NULL);
}

/* *shown: the options, as they are once nobody else changes them. */
static enum mount_status find_mount(struct remount *r, char **shown)
{
	enum mount_status st = look(r, shown);

	if (st != MOUNT_OK)
		return st;
	r->fd = open(r->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (r->fd < 0)
		return refuse(r, strerror(errno));
	wait_for_others(r);
	free(*shown);
	free(r->dir);
	*shown = r->dir = NULL;
	return look(r, shown);
}

/* The kernel's view, then the daemon's, which knows more. */
static enum mount_status read_now(struct remount *r)
{
	static struct holdfast_stats stats;
	auto_free char *shown = NULL;
	enum mount_status st = find_mount(r, &shown);

	if (st != MOUNT_OK)
		return st;
	if (ioctl(r->fd, HOLDFAST_IOC_STATS, &stats) < 0)
		return refuse(r, why_not(errno));
	stats.options[sizeof(stats.options) - 1] = '\0';
	if (asprintf(&r->now_text, "%s,%s", shown, stats.options) < 0)
		return MOUNT_SYSTEM;
	r->now_again = strdup(r->now_text);
	r->given_text = strdup(r->asked->given);
	return r->now_again && r->given_text ? MOUNT_OK : MOUNT_SYSTEM;
}

/* NULL, or what cannot be changed but would be. */
static const char *fixed_change(const struct mount_options *a, const struct mount_options *b)
{
	if (a->no_recovery != b->no_recovery)
		return "norecovery";
	if (a->engine != b->engine)
		return "engine=";
	if (a->transport != b->transport)
		return "transport=";
	if (a->cache_bytes != b->cache_bytes)
		return "cache=";
	if (a->max_read != b->max_read)
		return "max_read=";
	if (a->no_acl != b->no_acl)
		return "acl";
	if (a->plain != b->plain)
		return "plain";
	if (a->no_handles != b->no_handles)
		return "nohandles";
	if (a->writeback != b->writeback)
		return "writeback";
	if (a->no_sandbox != b->no_sandbox)
		return "nosandbox";
	if (a->allow_idmap != b->allow_idmap)
		return "allow_idmap";
	return a->allow_other != b->allow_other ? "allow_other" : NULL;
}

/* mount(8) passes what fstab has, also where the volume is too small for it or was mounted read-only.  What never cached goes on so. */
static void leave_out_writeback(struct remount *r)
{
	if (!r->before.writeback)
		r->after.writeback = false;
}

static enum mount_status decide(struct remount *r)
{
	enum mount_status st = read_now(r);
	const char *fixed;

	if (st == MOUNT_OK)
		st = mount_options_change(r->asked, r->now_again, NULL, &r->before);
	if (st == MOUNT_OK)
		st = mount_options_change(r->asked, r->now_text, r->given_text, &r->after);
	if (st != MOUNT_OK)
		return st;
	leave_out_writeback(r);
	fixed = fixed_change(&r->before, &r->after);
	if (!fixed)
		return MOUNT_OK;
	diag(r->diag, DIAG_ERR, "%s: %s cannot be changed by a remount: unmount and mount again", r->asked->dir, fixed);
	return MOUNT_FAILED;
}

/* --- doing it --------------------------------------------------------------------------------------------- */

static enum mount_status tell_daemon(const struct remount *r, const struct mount_options *o)
{
	struct holdfast_remount m = {
		.set = HOLDFAST_SET_ACCESS | HOLDFAST_SET_TIMES | HOLDFAST_SET_DURABLE | HOLDFAST_SET_COMMIT |
		       HOLDFAST_SET_DISCARD,
		.read_only = o->read_only,
		.atime = (uint32_t)o->atime,
		.nodiratime = o->nodiratime,
		.lazytime = o->lazytime,
		.sync = o->sync,
		.dirsync = o->dirsync,
		.discard = o->discard,
		.commit_sec = o->commit_sec,
	};

	return ioctl(r->fd, HOLDFAST_IOC_REMOUNT, &m) < 0 ? refuse(r, why_not(errno)) : MOUNT_OK;
}

/* Our own mount shall not be what is busy: an open directory is no writer, so it is not. */
static enum mount_status tell_kernel(const struct remount *r)
{
	bool may = geteuid() == 0;
	int err;

	if (!may && ((r->before.ms_flags ^ r->after.ms_flags) & ~(unsigned long)DAEMON_FLAGS) == 0)
		return MOUNT_OK;
	if (!may)
		return refuse(r, "only root can change this (fusermount3 knows no remount): unmount and mount again");
	if (mount("none", r->dir, NULL, MS_REMOUNT | r->after.ms_flags, NULL) == 0)
		return MOUNT_OK;
	err = errno;
	return refuse(r, err == EBUSY ? "is busy: files are open for writing, or removed and still open" : strerror(err));
}

/* Is the block device that the kernel sees below the mount read-only?  Then it refuses, and the daemon must not have gone ahead. */
static bool is_device_read_only(const struct remount *r)
{
	char path[60];
	struct stat st;
	FILE *f;

	/* Major 0: there is none. */
	if (fstat(r->fd, &st) < 0 || !major(st.st_dev))
		return false;
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/ro", major(st.st_dev), minor(st.st_dev));
	f = fopen(path, "re");
	if (!f)
		return false;
	bool read_only = fgetc(f) == '1';

	fclose(f);
	return read_only;
}

/* The kernel shall never show as read-only what can change, nor pass on changes to a daemon that takes none. */
static enum mount_status apply(const struct remount *r)
{
	bool kernel_first = r->after.read_only;

	if (r->before.read_only && !r->after.read_only && is_device_read_only(r))
		return refuse(r, "cannot remount it read-write: the image is write-protected, or was when it was mounted");
	enum mount_status st = kernel_first ? tell_kernel(r) : tell_daemon(r, &r->after);

	if (st != MOUNT_OK)
		return st;
	st = kernel_first ? tell_daemon(r, &r->after) : tell_kernel(r);
	if (st != MOUNT_OK && !kernel_first && r->before.read_only)
		(void)tell_daemon(r, &r->before);
	return st;
}

enum mount_status mount_remount(const struct mount_options *opts, const struct diag *diag)
{
	struct remount r = {.asked = opts, .diag = diag, .fd = -1};
	enum mount_status st = MOUNT_OK;

	if (opts->ns && mount_point_enter_ns(opts->ns, diag))
		return MOUNT_FAILED;
	st = decide(&r);
	if (st == MOUNT_OK && !opts->fake)
		st = apply(&r);
	if (r.fd >= 0)
		close(r.fd);
	mount_options_free(&r.before);
	mount_options_free(&r.after);
	free(r.now_text);
	free(r.now_again);
	free(r.given_text);
	free(r.dir);
	return st;
}
