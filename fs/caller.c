/* SPDX-License-Identifier: Apache-2.0 */
/* caller.c - see the header.  Questions and answers are messages of a SOCK_SEQPACKET pair. */
#include "fs/caller.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/helper.h"
#include "fs/sandbox.h"

#define SOCKET_FD 3 /* the process's only descriptor beside stdio */
#define STATUS_BYTES 16384 /* what is looked for stands at its beginning, or behind the list of our own groups */

/* By default what the kernel shows for who has no number in a namespace; and an ordinary user, who is then not known either. */
#define OVERFLOW_UID 65534

/* --- the process ---------------------------------------------------------------------------------------- */

/*
 * With -N the mount namespace is that of a container, who may mount something on /proc, and files of his own on those in it.  So what is read is the
 * kernel's own, and not through another mount.
 */
static int open_status(const char *who)
{
	struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
			       .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS};
	int proc = open("/proc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), fd = -1;
	struct statfs sf;
	char path[32];

	if (proc < 0)
		return -1;
	snprintf(path, sizeof(path), "%s/status", who);
	if (fstatfs(proc, &sf) == 0 && sf.f_type == PROC_SUPER_MAGIC)
		fd = (int)syscall(SYS_openat2, proc, path, &how, sizeof(how));
	close(proc);
	return fd;
}

static bool read_status(const char *who, char *text)
{
	int fd = open_status(who);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, text, STATUS_BYTES - 1);
	close(fd);
	if (n <= 0)
		return false;
	text[n] = '\0';
	return true;
}

/* The numbers behind a name, `most` of them; how many there are, at most one more than that. */
static unsigned numbers_of(const char *text, const char *name, uint32_t *number, unsigned most)
{
	const char *at = strstr(text, name);
	unsigned n = 0;
	int used;

	/* Names of programs come before; they have no newline. */
	if (!at)
		return 0;
	for (at += strlen(name); *at == '\t' || *at == ' '; at += used) {
		uint32_t value;

		if (sscanf(at, " %u%n", &value, &used) != 1)
			break;
		if (n == most)
			return n + 1;
		number[n++] = value;
	}
	return n;
}

/* Numbers in /proc are those of our own namespace of processes if it is in that we have ours, and in no other one below. */
static bool is_our_proc(void)
{
	char text[STATUS_BYTES];
	uint32_t pid;

	return read_status("self", text) && numbers_of(text, "\nNSpid:", &pid, 1) == 1 && pid == (uint32_t)getpid();
}

static uint32_t uid_of(uint32_t tid)
{
	char text[STATUS_BYTES], who[16];
	uint32_t uid[4]; /* real, effective, saved, of file access */

	snprintf(who, sizeof(who), "%u", tid);
	if (!tid || !is_our_proc() || !read_status(who, text) || numbers_of(text, "\nUid:", uid, 4) != 4)
		return CALLER_UNKNOWN;
	return uid[3] == OVERFLOW_UID ? CALLER_UNKNOWN : uid[3];
}

_Noreturn static void callers_main(int fd)
{
	/* It goes when the daemon goes, and signals to the whole group tell that. */
	static const int ignored[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGPIPE};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	uint32_t number;

	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		signal(ignored[i], SIG_IGN);
	prctl(PR_SET_NAME, "holdfast-caller");
	/* Streams, image and lock are the daemon's. */
	for (int i = 0; null >= 0 && i < 3; i++)
		dup2(null, i);
	if (dup2(fd, SOCKET_FD) != SOCKET_FD || fcntl(SOCKET_FD, F_SETFD, FD_CLOEXEC) != 0)
		_exit(0);
	closefrom(SOCKET_FD + 1);
	sandbox_drop_capabilities(0);
	sandbox_no_new_privileges();
	while (recv(SOCKET_FD, &number, sizeof(number), 0) == sizeof(number)) {
		number = uid_of(number);
		if (send(SOCKET_FD, &number, sizeof(number), MSG_NOSIGNAL) != sizeof(number))
			break;
	}
	_exit(0);
}

/* --- the daemon ------------------------------------------------------------------------------------------- */

int callers_start(struct callers *c)
{
	int fd;
	pid_t pid = helper_fork(&fd);

	if (pid == 0)
		callers_main(fd);
	if (pid < 0)
		return (int)pid;
	c->fd = fd;
	c->pid = pid;
	pthread_mutex_init(&c->mutex, NULL);
	return 0;
}

/* Of one number; no other system call for that is in the sandbox's table. */
static bool receive(int fd, uint32_t *number)
{
	struct iovec iov = {.iov_base = number, .iov_len = sizeof(*number)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	do {
		n = recvmsg(fd, &m, 0);
	} while (n < 0 && errno == EINTR);
	return n == sizeof(*number);
}

uint32_t callers_uid(struct callers *c, uint32_t tid)
{
	uint32_t uid = CALLER_UNKNOWN;

	if (c->fd < 0)
		return uid;
	pthread_mutex_lock(&c->mutex);
	if (send(c->fd, &tid, sizeof(tid), MSG_NOSIGNAL) != sizeof(tid) || !receive(c->fd, &uid))
		uid = CALLER_UNKNOWN;
	pthread_mutex_unlock(&c->mutex);
	return uid;
}

void callers_end(struct callers *c)
{
	if (c->fd < 0)
		return;
	close(c->fd);
	c->fd = -1;
	pthread_mutex_destroy(&c->mutex);
	while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
		;
}
