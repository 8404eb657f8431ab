/* SPDX-License-Identifier: Apache-2.0 */
/* keeper.c - see the header.  Orders and answers are messages of a SOCK_SEQPACKET pair. */
#include "fs/keeper.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/dirty.h"
#include "fs/helper.h"
#include "fs/sandbox.h"

#define SOCKET_FD 3 /* the keeper's only descriptor beside stdio */

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

/* False: the daemon has ended. */
static bool next_order(struct request *r)
{
	ssize_t n;

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
	bool ok = send_answer(&a, fd) && fd >= 0;

	/* Only the daemon's: the connection must end with it. */
	if (fd >= 0)
		close(fd);
	return ok;
}

/* The command's standard streams belong to whoever waits for it to end. */
static void leave_stdio(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	if (null >= 0)
		close(null);
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
		leave_stdio();
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

	if (!next_order(&r) || r.order != MOUNT || !do_mount(mp, src, o, diag))
		return;
	if (!next_order(&r))
		return;
	if (r.order == SETTLE || r.order == SETTLE_AND_DETACH) {
		if (!do_settle(mp, src, r.order == SETTLE_AND_DETACH, r.ratio) || !next_order(&r))
			return;
		while (r.order == OPEN_FOR_WRITING)
			if (!do_open(mp, src) || !next_order(&r))
				return;
	}
	if (r.order == UNMOUNT)
		do_unmount(mp);
}

_Noreturn static void keeper_main(int fd, struct mount_point mp, const struct mount_source *src,
				  const struct mount_options *o, const struct diag *diag)
{
	/* It goes when the daemon goes, and signals to the whole group tell that. */
	static const int ignored[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGPIPE};

	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		signal(ignored[i], SIG_IGN);
	prctl(PR_SET_NAME, "holdfast-keeper");
	/* The image and its lock, and the pipe to the waiting command, are the daemon's. */
	if (dup2(fd, SOCKET_FD) == SOCKET_FD && fcntl(SOCKET_FD, F_SETFD, FD_CLOEXEC) == 0) {
		closefrom(SOCKET_FD + 1);
		take_orders(&mp, src, o, diag);
	}
	_exit(0);
}

/* --- the daemon's side ---------------------------------------------------------------------------------- */

int keeper_start(const struct mount_point *mp, const struct mount_source *src, const struct mount_options *o,
		 const struct diag *diag, struct keeper *out)
{
	int fd;
	pid_t pid = helper_fork(&fd);

	if (pid == 0)
		keeper_main(fd, *mp, src, o, diag);
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

int keeper_mount(struct keeper *k, struct mount_point *mp)
{
	struct answer a;
	int fd = ask(k, MOUNT, 0, &a);

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
