/* SPDX-License-Identifier: Apache-2.0 */
/* caller.c - see the header.  Questions and answers are messages of a SOCK_SEQPACKET pair. */
#include "fs/caller.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/helper.h"
#include "fs/sandbox.h"

#define LINE_BYTES 256 /* longer lines are of no interest */
#define MAP_BYTES  16384 /* more than the kernel lets a map have */
#define PATIENCE_SEC 10

/* By default what the kernel shows for who has no number in a namespace; and an ordinary user, who is then not known either. */
#define OVERFLOW_UID 65534

#define ABOUT_UID    UINT32_MAX
#define ABOUT_FIBMAP (UINT32_MAX - 1)

struct question {
	uint32_t nr;
	uint32_t tid;
	uint32_t about; /* the number of a capability, or ABOUT_UID, ABOUT_FIBMAP */
};

struct answer {
	uint32_t nr, tid; /* of the question */
	uint32_t is; /* 1: has it, or is there; 0: has not, is not; or the user */
};

/* --- the process ---------------------------------------------------------------------------------------- */

/* What the process looks at. */
struct proc {
	int given; /* PROC_FD, or -1: the one of our namespace of mounts, whichever that is now */
};

static int open_proc(const struct proc *p)
{
	struct statfs sf;
	int fd = p->given < 0 ? open("/proc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : dup(p->given);

	if (fd >= 0 && (fstatfs(fd, &sf) < 0 || sf.f_type != PROC_SUPER_MAGIC)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/*
 * Somebody may have mounted something on /proc, or files of his own on those in it.  So what is read is the kernel's own, and not through another
 * mount.
 */
static int open_file(const struct proc *p, const char *who, const char *name, uint64_t flags)
{
	struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS};
	int proc = open_proc(p), fd;
	char path[64];

	if (proc < 0) {
		errno = ENOSYS;
		return -1;
	}
	snprintf(path, sizeof(path), "%s/%s", who, name);
	fd = (int)syscall(SYS_openat2, proc, path, &how, sizeof(how));

	int err = errno;

	close(proc);
	errno = err;
	return fd;
}

/* The line of `who`'s status that begins with `name`, without that; false: there is none. */
static bool status_line(const struct proc *p, const char *who, const char *name, char *line)
{
	int fd = open_file(p, who, "status", O_RDONLY | O_NONBLOCK);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
	size_t len = strlen(name);
	bool begins = true, found = false;

	if (fd >= 0 && !f)
		close(fd);
	/* What is no beginning of a line does not count: names of programs have no newline, lists of groups may be longer than our memory. */
	while (f && !found && fgets(line, LINE_BYTES, f)) {
		found = begins && strncmp(line, name, len) == 0;
		begins = strchr(line, '\n');
	}
	if (f)
		fclose(f);
	if (found)
		memmove(line, line + len, strlen(line + len) + 1);
	return found;
}

/* The numbers in a line, `most` of them; how many there are, at most one more than that. */
static unsigned numbers_of(const char *at, uint32_t *number, unsigned most)
{
	uint32_t value;
	unsigned n = 0;
	int used;

	for (; sscanf(at, " %u%n", &value, &used) == 1; at += used) {
		if (n == most)
			return n + 1;
		number[n++] = value;
	}
	return n;
}

/* Numbers in /proc are those of our own namespace of processes if it is in that we have ours, and in no other one below. */
static bool is_our_proc(const struct proc *p)
{
	char line[LINE_BYTES];
	uint32_t pid;

	return status_line(p, "self", "NSpid:", line) && numbers_of(line, &pid, 1) == 1 && pid == (uint32_t)getpid();
}

static uint32_t uid_of(const struct proc *p, const char *who)
{
	char line[LINE_BYTES];
	uint32_t uid[4]; /* real, effective, saved, of file access */

	if (!status_line(p, who, "Uid:", line) || numbers_of(line, uid, 4) != 4)
		return CALLER_UNKNOWN;
	return uid[3] == OVERFLOW_UID ? CALLER_UNKNOWN : uid[3];
}

static uint64_t effective(const struct proc *p, const char *who)
{
	char line[LINE_BYTES];
	uint64_t caps;

	return status_line(p, who, "CapEff:", line) && sscanf(line, " %" SCNx64, &caps) == 1 ? caps : 0;
}

/* The name of a namespace of users, which no other one has as long as it exists. */
static bool user_namespace(const struct proc *p, const char *who, char *name, size_t room)
{
	int fd = open_file(p, who, "ns/user", O_PATH | O_NOFOLLOW);
	ssize_t n = fd < 0 ? -1 : readlinkat(fd, "", name, room);
	int err = errno;

	if (fd >= 0)
		close(fd);
	errno = err;
	if (n <= 0 || (size_t)n == room)
		return false;
	name[n] = '\0';
	return true;
}

static ssize_t read_map(const struct proc *p, const char *who, const char *name, char *map)
{
	int fd = open_file(p, who, name, O_RDONLY | O_NONBLOCK);
	ssize_t n = 0, got = fd < 0 ? -1 : 1;

	while (got > 0 && n < MAP_BYTES) {
		got = read(fd, map + n, (size_t)(MAP_BYTES - n));
		n += got > 0 ? got : 0;
	}
	if (fd >= 0)
		close(fd);
	return got ? -1 : n;
}

static bool same_map(const struct proc *p, const char *who, const char *name)
{
	static char ours[MAP_BYTES], theirs[MAP_BYTES];
	ssize_t n = read_map(p, "self", name, ours);

	return n >= 0 && read_map(p, who, name, theirs) == n && memcmp(ours, theirs, (size_t)n) == 0;
}

/*
 * What somebody may do in a namespace of users below ours does not count.  Its name takes a privilege to see of others; without that they are taken
 * for ours if they number users as we do.
 */
static bool in_our_namespace(const struct proc *p, const char *who)
{
	char ours[64], theirs[64];

	if (!user_namespace(p, "self", ours, sizeof(ours)))
		return errno == ENOENT; /* this kernel has but one */
	if (user_namespace(p, who, theirs, sizeof(theirs)))
		return strcmp(ours, theirs) == 0;
	return errno == EACCES && !effective(p, "self") && same_map(p, who, "uid_map") && same_map(p, who, "gid_map");
}

enum blocked_in { IS_RUNNING, IN_FIBMAP, IN_ANOTHER };

/*
 * The line has the number of the system call and its arguments as they were passed.  Of numbers that 32-bit programs have on such a kernel none is that of
 * ioctl(2) here and of swapon(2) there.  The kernel looks at 32 bits of a command.
 */
static enum blocked_in blocked_in(const struct proc *p, const char *who)
{
	int fd = open_file(p, who, "syscall", O_RDONLY | O_NONBLOCK);
	char line[LINE_BYTES];
	ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
	uint64_t arg[2];
	long nr;

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return IN_ANOTHER;
	line[n] = '\0';
	if (strcmp(line, "running\n") == 0)
		return IS_RUNNING;
	if (sscanf(line, "%ld %" SCNx64 " %" SCNx64, &nr, &arg[0], &arg[1]) != 3)
		return IN_ANOTHER;
	return nr == SYS_ioctl && (uint32_t)arg[1] == FIBMAP ? IN_FIBMAP : IN_ANOTHER;
}

/*
 * Who has just made a request may not be asleep yet, nor who goes from one wait to the next because of a signal; but nothing holds him up but other work for his
 * processor.  So there is a moment's patience, of less than a second in all.
 */
static bool in_fibmap(const struct proc *p, const char *who)
{
	for (useconds_t pause = 10; pause < 500000; pause *= 2) {
		enum blocked_in in = blocked_in(p, who);

		if (in != IS_RUNNING)
			return in == IN_FIBMAP;
		usleep(pause);
	}
	return false;
}

static uint32_t answer_to(const struct proc *p, const struct question *q)
{
	char who[16];

	snprintf(who, sizeof(who), "%u", q->tid);
	if (!q->tid || !is_our_proc(p))
		return q->about == ABOUT_UID ? CALLER_UNKNOWN : 0;
	if (q->about == ABOUT_UID)
		return uid_of(p, who);
	if (q->about == ABOUT_FIBMAP)
		return in_fibmap(p, who);
	return q->about < 64 && effective(p, who) >> q->about & 1 && in_our_namespace(p, who);
}

_Noreturn static void callers_main(int fd, int proc_fd)
{
	/* It goes when the daemon goes, and signals to the whole group tell that. */
	static const int ignored[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGPIPE};
	const struct proc proc = {.given = proc_fd >= 0 ? PROC_FD : -1};
	struct question q;

	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		signal(ignored[i], SIG_IGN);
	prctl(PR_SET_NAME, "holdfast-caller");
	helper_leave_stdio();
	if (!helper_take(fd, proc_fd))
		_exit(0);
	/* To see which namespace of users somebody else is in, and which system call.  And nobody looks into this process who may not look into any. */
	sandbox_drop_capabilities(UINT64_C(1) << CAP_SYS_PTRACE);
	sandbox_no_new_privileges();
	prctl(PR_SET_DUMPABLE, 0);
	while (recv(SOCKET_FD, &q, sizeof(q), 0) == sizeof(q)) {
		struct answer a = {.nr = q.nr, .tid = q.tid, .is = answer_to(&proc, &q)};

		if (send(SOCKET_FD, &a, sizeof(a), MSG_NOSIGNAL) != sizeof(a))
			break;
	}
	_exit(0);
}

/* --- the daemon ------------------------------------------------------------------------------------------- */

int callers_start(struct callers *c, int proc_fd)
{
	struct timeval patience = {.tv_sec = PATIENCE_SEC};
	int fd;
	pid_t pid = helper_fork(&fd);

	if (pid == 0)
		callers_main(fd, proc_fd);
	if (pid < 0)
		return (int)pid;
	*c = (struct callers){.fd = fd, .pid = pid};
	pthread_mutex_init(&c->mutex, NULL);
	return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ? -errno : 0;
}

/* No other system call for that is in the sandbox's table. */
static bool receive(int fd, struct answer *a, int flags)
{
	struct iovec iov = {.iov_base = a, .iov_len = sizeof(*a)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	do {
		n = recvmsg(fd, &m, flags);
	} while (n < 0 && errno == EINTR);
	return n == sizeof(*a);
}

/*
 * Nobody waits long more than once for a process that is stopped, or takes for his answer what was one to somebody before: a question whose answer is
 * still to come is the only one.
 */
static bool ask_locked(struct callers *c, const struct question *q, struct answer *a)
{
	if (c->owes && receive(c->fd, a, MSG_DONTWAIT))
		c->owes = false;
	if (c->owes || send(c->fd, q, sizeof(*q), MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(*q))
		return false;
	c->owes = !receive(c->fd, a, 0);
	return !c->owes && a->nr == q->nr && a->tid == q->tid;
}

static bool ask(struct callers *c, uint32_t tid, uint32_t about, uint32_t *is)
{
	struct question q = {.tid = tid, .about = about};
	struct answer a;

	if (c->fd < 0)
		return false;
	pthread_mutex_lock(&c->mutex);
	q.nr = ++c->nr;
	bool ok = ask_locked(c, &q, &a);
	pthread_mutex_unlock(&c->mutex);
	if (ok)
		*is = a.is;
	return ok;
}

uint32_t callers_uid(struct callers *c, uint32_t tid)
{
	uint32_t uid;

	return ask(c, tid, ABOUT_UID, &uid) ? uid : CALLER_UNKNOWN;
}

bool callers_capable(struct callers *c, uint32_t tid, unsigned cap)
{
	uint32_t has;

	return ask(c, tid, cap, &has) && has == 1;
}

bool callers_in_fibmap(struct callers *c, uint32_t tid)
{
	uint32_t is;

	return ask(c, tid, ABOUT_FIBMAP, &is) && is == 1;
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
