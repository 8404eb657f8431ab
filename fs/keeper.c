/* SPDX-License-Identifier: Apache-2.0 */
/* keeper.c - see the header.  Orders and answers are messages of a SOCK_SEQPACKET pair. */
#include "fs/keeper.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/dirty.h"
#include "fs/helper.h"
#include "fs/sandbox.h"

/* How often it looks whether the daemon has been killed but does not end. */
#define LOOK_MS 5000

#define STATUS_FD PROC_FD /* its /proc/PID/status, if it was given that */

#define FUSECTL_MAGIC 0x65735543 /* FUSE_CTL_SUPER_MAGIC of Linux, fs/fuse/control.c */

enum order { MOUNT = 1, SETTLE, SETTLE_AND_DETACH, OPEN_FOR_WRITING, UNMOUNT };

struct request {
	uint32_t order;
	uint32_t ratio; /* with SETTLE*: for mount_point_settle() */
};

struct answer {
	int err;
	bool is_blk;
};

/* --- the keeper's side -------------------------------------------------------------------------------- */

/* `fd` -1: none goes along. */
static bool send_answer(const struct answer *a, int fd)
{
	char room[CMSG_SPACE(sizeof(int))] __attribute__((aligned(_Alignof(struct cmsghdr)))) = {0};
	struct iovec iov = {.iov_base = (void *)a, .iov_len = sizeof(*a)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		m.msg_control = room;
		m.msg_controllen = sizeof(room);
		CMSG_FIRSTHDR(&m)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&m)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&m)->cmsg_len = CMSG_LEN(sizeof(fd));
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &fd, sizeof(fd));
	}
	return sendmsg(SOCKET_FD, &m, MSG_NOSIGNAL) == sizeof(*a);
}

/* The file that ends a mount's connection when something is written to it; or -1. */
static int open_abort(const struct mount_point *mp)
{
	char path[64];
	int dir = -1;

	if (mp->by_helper) {
		struct statfs sf;

		dir = open("/sys/fs/fuse/connections", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (dir >= 0 && (fstatfs(dir, &sf) < 0 || sf.f_type != FUSECTL_MAGIC)) {
			close(dir);
			dir = -1;
		}
	} else {
		/* Not what is mounted there: somebody else's namespace of mounts may have anything there. */
		int fs = fsopen("fusectl", FSOPEN_CLOEXEC);

		if (fs >= 0 && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
			dir = fsmount(fs, FSMOUNT_CLOEXEC, 0);
		if (fs >= 0)
			close(fs);
	}
	/* The kernel's own form of a device number. */
	snprintf(path, sizeof(path), "%u/abort", major(mp->dev) << 20 | minor(mp->dev));
	int fd = dir >= 0 ? openat(dir, path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW) : -1;

	if (dir >= 0)
		close(dir);
	return fd;
}

static bool kill_is_pending(const char *status)
{
	const char *pending = strstr(status, "\nSigPnd:\t");

	return pending && strtoull(pending + strlen("\nSigPnd:\t"), NULL, 16) >> (SIGKILL - 1) & 1;
}

/*
 * All threads of the daemon have been killed, but there is one that has not ended: another one than the first, or the first; or the kernel waits for
 * it, to write a core dump after a crash.
 */
static bool is_killed(void)
{
	char status[4096] = "";
	ssize_t n = pread(STATUS_FD, status, sizeof(status) - 1, 0);

	return n > 0 && (strstr(status, "\nState:\tZ") || strstr(status, "\nCoreDumping:\t1") || kill_is_pending(status));
}

/*
 * A thread of the daemon that has the kernel drop pages (inval.h) waits in the kernel until they are written, which the others do.  If these have
 * ended, it waits for good, and as long as it does the daemon's descriptors stay open, so that the kernel does not find out.
 * The mount would hang, and with it every sync(2) of the machine.
 */
static void end_killed(const struct mount_point *mp)
{
	int fd = mp->dev && is_killed() ? open_abort(mp) : -1;

	if (fd < 0)
		return;
	(void)!write(fd, "1", 1);
	close(fd);
}

/* False: the daemon has ended. */
static bool next_order(const struct mount_point *mp, struct request *r)
{
	ssize_t n;
	struct pollfd p = {.fd = SOCKET_FD, .events = POLLIN};

	while (poll(&p, 1, LOOK_MS) <= 0)
		end_killed(mp);
	do {
		n = recv(SOCKET_FD, r, sizeof(*r), 0);
	} while (n < 0 && errno == EINTR);
	return n == sizeof(*r);
}

static bool do_mount(struct mount_point *mp, const struct mount_source *src, const struct mount_options *o,
		     const struct diag *diag)
{
	int fd = mount_point_mount(mp, src, o, diag);
	struct answer a = {.err = fd < 0 ? fd : 0, .is_blk = mp->is_blk};
	bool sent = send_answer(&a, fd);

	if (fd < 0)
		return false;
	/* Only the daemon's: the connection must end with it. */
	close(fd);
	if (!sent)
		mount_point_unmount(mp);
	return sent;
}

/* Only where a remount can make use of it. */
static bool may_open(const struct mount_point *mp, const struct mount_source *src)
{
	return src->read_only && !mp->by_helper;
}

static bool do_settle(struct mount_point *mp, const struct mount_source *src, bool detach, uint32_t ratio)
{
	uint64_t keep = UINT64_C(1) << CAP_SYS_ADMIN | UINT64_C(1) << CAP_DAC_READ_SEARCH;
	bool limited = mount_point_settle(mp, ratio < DIRTY_RATIO_MAX ? ratio : DIRTY_RATIO_MAX);
	struct answer done = {.err = limited ? 0 : -EPERM};

	if (detach)
		helper_leave_stdio();
	/* To unmount, and to open a root directory that its owner has closed to others; perhaps an image that belongs to somebody.  fusermount3
	 * has its own privileges. */
	if (may_open(mp, src))
		keep |= UINT64_C(1) << CAP_DAC_OVERRIDE;
	if (!mp->by_helper) {
		sandbox_drop_capabilities(keep);
		sandbox_no_new_privileges();
	}
	return send_answer(&done, -1);
}

static bool do_open(const struct mount_point *mp, const struct mount_source *src)
{
	int fd = may_open(mp, src) ? mount_source_open_again(src) : -EOPNOTSUPP;
	struct answer a = {.err = fd < 0 ? fd : 0};
	bool ok = send_answer(&a, fd);

	if (fd >= 0)
		close(fd);
	return ok;
}

static void do_unmount(const struct mount_point *mp)
{
	auto_free char *dir = mount_point_seen(mp);
	int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	if (fd >= 0) {
		syncfs(fd);
		close(fd);
	}

	struct answer a = {.err = mount_point_unmount(mp)};

	send_answer(&a, -1);
}

/* None is taken out of turn, and each once, but for opening the image; anything else is not from our daemon any more. */
static void take_orders(struct mount_point *mp, const struct mount_source *src, const struct mount_options *o,
			const struct diag *diag)
{
	struct request r;

	if (!next_order(mp, &r) || r.order != MOUNT || !do_mount(mp, src, o, diag))
		return;
	/* Nobody has been told of the mount yet. */
	if (!next_order(mp, &r)) {
		mount_point_unmount(mp);
		return;
	}
	if (r.order == SETTLE || r.order == SETTLE_AND_DETACH) {
		if (!do_settle(mp, src, r.order == SETTLE_AND_DETACH, r.ratio) || !next_order(mp, &r))
			return;
		while (r.order == OPEN_FOR_WRITING)
			if (!do_open(mp, src) || !next_order(mp, &r))
				return;
	}
	if (r.order == UNMOUNT)
		do_unmount(mp);
}

_Noreturn static void keeper_main(int fd, int status, struct mount_point mp, const struct mount_source *src,
				  const struct mount_options *o, const struct diag *diag)
{
	/* It goes when the daemon goes, and signals to the whole group tell that. */
	static const int ignored[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGPIPE};

	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		signal(ignored[i], SIG_IGN);
	prctl(PR_SET_NAME, "holdfast-keeper");
	if (helper_take(fd, status))
		take_orders(&mp, src, o, diag);
	_exit(0);
}

/* --- the daemon's side ---------------------------------------------------------------------------------- */

/*
 * For the keeper: -1, or our status.  Opened here, as later it may not (sandbox.c), depending on how /proc is mounted.  `proc` is /proc as it was before any other
 * namespace was entered, or -1.
 */
static int open_status(int proc)
{
	struct statfs sf;
	int fd = proc >= 0 ? openat(proc, "self/status", O_RDONLY | O_CLOEXEC) : open("/proc/self/status", O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && (fstatfs(fd, &sf) < 0 || sf.f_type != PROC_SUPER_MAGIC)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

int keeper_start(const struct mount_point *mp, const struct mount_source *src, const struct mount_options *o,
		 const struct diag *diag, struct keeper *out)
{
	int fd, status = open_status(mp->proc_fd);
	pid_t pid = helper_fork(&fd);

	if (pid == 0)
		keeper_main(fd, status, *mp, src, o, diag);
	if (status >= 0)
		close(status);
	if (pid < 0)
		return (int)pid;
	*out = (struct keeper){.fd = fd, .pid = pid};
	return 0;
}

/* Returns a descriptor that came along, or 0; a negative errno: the keeper's, or -EPIPE without one. */
static int receive(struct keeper *k, struct answer *a, int flags)
{
	char room[CMSG_SPACE(sizeof(int))] __attribute__((aligned(_Alignof(struct cmsghdr))));
	struct iovec iov = {.iov_base = a, .iov_len = sizeof(*a)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
	int fd = 0;
	ssize_t n;

	do {
		n = recvmsg(k->fd, &m, flags | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return -EAGAIN;
	if (n != sizeof(*a))
		return -EPIPE;
	if (CMSG_FIRSTHDR(&m))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return a->err ? a->err : fd;
}

static int send_order(struct keeper *k, enum order order, uint32_t ratio)
{
	struct request r = {.order = order, .ratio = ratio};

	return send(k->fd, &r, sizeof(r), MSG_NOSIGNAL) == sizeof(r) ? 0 : -EPIPE;
}

static int ask(struct keeper *k, enum order order, uint32_t ratio, struct answer *a)
{
	int err = send_order(k, order, ratio);

	return err ? err : receive(k, a, 0);
}

int keeper_mount(struct keeper *k, struct mount_point *mp, bool *said)
{
	struct answer a = {0};
	int fd = ask(k, MOUNT, 0, &a);

	*said = a.err;
	if (fd > 0)
		mp->is_blk = a.is_blk;
	if (fd)
		return fd;
	/* It has mounted, but there was no room for the descriptor here: recvmsg(2) drops it then, and says no error. */
	keeper_unmount(k);
	return -EMFILE;
}

int keeper_settle(struct keeper *k, bool detach, uint32_t ratio)
{
	struct answer a;

	return ask(k, detach ? SETTLE_AND_DETACH : SETTLE, ratio, &a);
}

int keeper_open_for_writing(struct keeper *k)
{
	struct answer a;
	int fd = k->unmounting ? -EBUSY : ask(k, OPEN_FOR_WRITING, 0, &a);

	return fd ? fd : -EPIPE;
}

/* If the keeper is gone, its end of the socket tells so to who waits for the answer. */
void keeper_unmount(struct keeper *k)
{
	(void)send_order(k, UNMOUNT, 0);
	k->unmounting = true;
}

bool keeper_unmounted(struct keeper *k, int *err)
{
	struct answer a;
	int rc = k->unmounting ? receive(k, &a, MSG_DONTWAIT) : -EAGAIN;

	if (rc == -EAGAIN)
		return false;
	k->unmounting = false;
	*err = rc;
	return true;
}

void keeper_end(struct keeper *k)
{
	struct answer a;

	if (k->fd < 0)
		return;
	if (k->unmounting)
		(void)receive(k, &a, 0);
	close(k->fd);
	k->fd = -1;
	while (waitpid(k->pid, NULL, 0) < 0 && errno == EINTR)
		;
}
