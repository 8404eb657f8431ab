/* SPDX-License-Identifier: Apache-2.0 */
/* sandbox.c - see the header.  Why a refused call is EPERM and not the end of the process: docs/design.md. */
#include "fs/sandbox.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Sanitizers look at /proc, write reports to files, start processes and trace each other: no use under Landlock and seccomp. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* --- capabilities ----------------------------------------------------------------------------------- */

int sandbox_drop_capabilities(uint64_t keep)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[2];

	/* The bounding set first: it takes a capability.  Who has none has nothing to bound either. */
	for (int cap = 0; cap < 64 && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(keep >> cap & 1))
			prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (syscall(SYS_capget, &head, sets) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		sets[i].permitted &= (uint32_t)(keep >> (32 * i));
		sets[i].effective &= sets[i].permitted;
		sets[i].inheritable = 0;
	}
	return syscall(SYS_capset, &head, sets) < 0 ? -errno : 0;
}

int sandbox_no_new_privileges(void)
{
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

/* --- who looks in ------------------------------------------------------------------------------------- */

/* A core dump shall be made all the same, of the place where it happened. */
static void crashed(int sig)
{
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	raise(sig);
}

/* Without capabilities it could be traced by whoever has the same user id, were it root in a container, and be made to do anything with the image and the mount. */
static void refuse_tracers(void)
{
	static const int fatal[] = {SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS};
	/* The signal that it raises waits for its end, and does then what it does by default. */
	struct sigaction sa = {.sa_handler = crashed, .sa_flags = (int)SA_RESETHAND};

	for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++)
		sigaction(fatal[i], &sa, NULL);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

/* --- Landlock ------------------------------------------------------------------------------------------ */

/* The kernel's header may be older than the kernel. */
struct landlock_rights {
	uint64_t fs, net, scoped;
};

static const struct {
	int abi;
	struct landlock_rights rights;
} landlock_table[] = {
	{1, {.fs = (1u << 13) - 1}},
	{2, {.fs = 1u << 13}}, /* REFER */
	{3, {.fs = 1u << 14}}, /* TRUNCATE */
	{4, {.net = 1u << 0 | 1u << 1}}, /* BIND_TCP, CONNECT_TCP */
	{5, {.fs = 1u << 15}}, /* IOCTL_DEV */
	{6, {.scoped = 1u << 0 | 1u << 1}}, /* abstract sockets, signals: of nobody else */
};

/* Every right that the kernel knows of is denied, and no rule gives any back.  Returns the kernel's ABI. */
static int landlock(void)
{
	int abi = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	struct landlock_rights denied = {0};

	if (abi < 0)
		return -errno;
	for (size_t i = 0; i < sizeof(landlock_table) / sizeof(landlock_table[0]); i++) {
		if (landlock_table[i].abi > abi)
			break;
		denied.fs |= landlock_table[i].rights.fs;
		denied.net |= landlock_table[i].rights.net;
		denied.scoped |= landlock_table[i].rights.scoped;
	}

	int fd = (int)syscall(SYS_landlock_create_ruleset, &denied, sizeof(denied), 0);

	if (fd < 0)
		return -errno;

	int err = syscall(SYS_landlock_restrict_self, fd, 0) < 0 ? -errno : 0;

	close(fd);
	return err ? err : abi;
}

/* --- seccomp ---------------------------------------------------------------------------------------------- */

/* With any arguments.  Hot ones are better here than below: the kernel then answers from a bitmap, without running the filter. */
static const int allowed[] = {
	/* image, connection, queues, messages */
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64), SCMP_SYS(pwrite64),
	SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(preadv2), SCMP_SYS(pwritev2), SCMP_SYS(fsync),
	SCMP_SYS(fdatasync), SCMP_SYS(fallocate), SCMP_SYS(flock), SCMP_SYS(lseek), SCMP_SYS(fstat), SCMP_SYS(close),
	SCMP_SYS(dup), SCMP_SYS(dup2), SCMP_SYS(dup3), SCMP_SYS(io_uring_enter), SCMP_SYS(poll), SCMP_SYS(ppoll),
	SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(sendto), SCMP_SYS(recvmsg),
	SCMP_SYS(connect),
	/* memory */
	SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk),
	/* threads and signals */
	SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity),
	SCMP_SYS(gettid), SCMP_SYS(getpid), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
	SCMP_SYS(sigaltstack), SCMP_SYS(restart_syscall), SCMP_SYS(wait4), SCMP_SYS(exit), SCMP_SYS(exit_group),
	/* time, chance, and what harms nobody to know */
	SCMP_SYS(clock_gettime), SCMP_SYS(clock_getres), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep),
	SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(getrandom), SCMP_SYS(sysinfo), SCMP_SYS(uname), SCMP_SYS(getuid),
	SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(getrusage),
};

#define ANY UINT32_MAX

/* <linux/ioprio.h> is younger than the call. */
#define IOPRIO_WHO_PROCESS 1

/* With arguments that fit: an argument (by number) of which the bits in `mask` are `value`; `arg2` ANY: one condition only. */
static const struct {
	int nr;
	unsigned arg;
	uint64_t mask, value;
	unsigned arg2;
	uint64_t mask2, value2;
} limited[] = {
	/* No code but the program's own. */
	{SCMP_SYS(mmap), 2, PROT_EXEC, 0, ANY, 0, 0},
	{SCMP_SYS(mprotect), 2, PROT_EXEC, 0, ANY, 0, 0},
	/* Threads, no processes. */
	{SCMP_SYS(clone), 0, CLONE_THREAD, CLONE_THREAD, ANY, 0, 0},
	{SCMP_SYS(prctl), 0, ~0u, PR_SET_NAME, ANY, 0, 0},
	{SCMP_SYS(prctl), 0, ~0u, PR_SET_VMA, ANY, 0, 0},
	{SCMP_SYS(prctl), 0, ~0u, PR_SET_DUMPABLE, 1, ~0ull, 1},
	/* Of the calling thread only, not of its user's other processes; downwards, as it has no privilege. */
	{SCMP_SYS(setpriority), 0, ~0u, PRIO_PROCESS, 1, ~0u, 0},
	{SCMP_SYS(ioprio_set), 0, ~0u, IOPRIO_WHO_PROCESS, 1, ~0u, 0},
	/* Asking only. */
	{SCMP_SYS(prlimit64), 0, ~0u, 0, 2, ~0ull, 0},
	{SCMP_SYS(newfstatat), 3, AT_EMPTY_PATH, AT_EMPTY_PATH, ANY, 0, 0},
	{SCMP_SYS(fcntl), 1, ~0u, F_GETFD, ANY, 0, 0},
	{SCMP_SYS(fcntl), 1, ~0u, F_GETFL, ANY, 0, 0},
	{SCMP_SYS(fcntl), 1, ~0u, F_SETFL, ANY, 0, 0},
	{SCMP_SYS(ioctl), 1, ~0u, BLKDISCARD, ANY, 0, 0},
	{SCMP_SYS(io_uring_register), 1, ~0u, IORING_UNREGISTER_FILES, ANY, 0, 0},
	{SCMP_SYS(io_uring_register), 1, ~0u, IORING_REGISTER_FILES_UPDATE, ANY, 0, 0},
	/* Of the calling thread only. */
	{SCMP_SYS(sched_setaffinity), 0, ~0u, 0, ANY, 0, 0},
	/* syslog(3), when the logger has been started anew. */
	{SCMP_SYS(socket), 0, ~0u, AF_UNIX, 1, ~(uint64_t)SOCK_CLOEXEC & ~0u, SOCK_DGRAM},
};

static int add_limited(scmp_filter_ctx ctx)
{
	int err = 0;

	for (size_t i = 0; !err && i < sizeof(limited) / sizeof(limited[0]); i++) {
		const struct scmp_arg_cmp cmp[] = {
			SCMP_CMP64(limited[i].arg, SCMP_CMP_MASKED_EQ, limited[i].mask, limited[i].value),
			SCMP_CMP64(limited[i].arg2 == ANY ? 0 : limited[i].arg2, SCMP_CMP_MASKED_EQ, limited[i].mask2,
				   limited[i].value2),
		};

		err = seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, limited[i].nr, limited[i].arg2 == ANY ? 1 : 2, cmp);
	}
	return err;
}

static int add_rules(scmp_filter_ctx ctx)
{
	int err = 0;

	for (size_t i = 0; !err && i < sizeof(allowed) / sizeof(allowed[0]); i++)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
	if (!err)
		err = add_limited(ctx);
	/* abort(3), and nobody else's end. */
	if (!err)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
				       SCMP_A0_32(SCMP_CMP_EQ, (uint32_t)getpid()));
	/* Its flags are out of a filter's sight; told so, libc takes clone(2). */
	if (!err)
		err = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	return err;
}

static int filter_system_calls(void)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int err;

	if (!ctx)
		return -ENOMEM;
	err = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(EPERM));
	/* Where the kernel can: refusals are seen in its log.  And a tree instead of a list. */
	(void)seccomp_attr_set(ctx, SCMP_FLTATR_CTL_LOG, 1);
	(void)seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (!err)
		err = add_rules(ctx);
	if (!err)
		err = seccomp_load(ctx);
	seccomp_release(ctx);
	return err;
}

/* --- all of it -------------------------------------------------------------------------------------------- */

void sandbox_init(struct sandbox *s)
{
	snprintf(s->active, sizeof(s->active), "off");
}

void sandbox_add(struct sandbox *s, const char *part)
{
	size_t used = strcmp(s->active, "off") == 0 ? 0 : strlen(s->active);

	snprintf(s->active + used, sizeof(s->active) - used, "%s%s", used ? ", " : "", part);
}

static void note(struct sandbox *s, const struct diag *d, const char *part, int err)
{
	if (err)
		diag(d, DIAG_INFO, "sandbox without \"%s\": %s", part, strerror(-err));
	else
		sandbox_add(s, part);
}

void sandbox_enter(struct sandbox *s, const struct diag *d)
{
	char part[32];
	int abi;

	if (!SANITIZED)
		refuse_tracers();
	note(s, d, "no capabilities", sandbox_drop_capabilities(0));
	note(s, d, "no new privileges", sandbox_no_new_privileges());
	if (SANITIZED) {
		diag(d, DIAG_INFO, "sandbox without Landlock and seccomp: built with a sanitizer");
		return;
	}
	abi = landlock();
	snprintf(part, sizeof(part), abi < 0 ? "Landlock" : "Landlock %d", abi);
	note(s, d, part, abi < 0 ? abi : 0);
	note(s, d, "seccomp", filter_system_calls());
}
