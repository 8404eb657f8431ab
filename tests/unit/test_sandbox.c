/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_sandbox.c - what a sandboxed process can still do, and what not; each test in a process of its own.
 *
 * fs/sandbox.c is included, so that its parts can be tried one by one: behind seccomp nobody would see whether Landlock holds.
 */
#include "fs/sandbox.c"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <syslog.h>

#include <cmocka.h>

#include "core/dev.h"
#include "core/uring_limits.h"

#define BLOCK 4096u

/* In the children, where cmocka's assertions would be lost: says where, and ends. */
#define MUST(cond)                                                                                                     \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			dprintf(2, "line %d: %s (errno %d)\n", __LINE__, #cond, errno);                                \
			_exit(1);                                                                                      \
		}                                                                                                      \
	} while (0)
#define MUST_FAIL(call, error)                                                                                         \
	do {                                                                                                           \
		errno = 0;                                                                                             \
		MUST((call) < 0 && errno == (error));                                                                  \
	} while (0)

static void run_child(void (*child)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		alarm(60);
		child();
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static int make_file(const char *name)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	MUST(fd >= 0 && ftruncate(fd, 64 * BLOCK) == 0);
	return fd;
}

/* --- capabilities --- */

static uint64_t bounding_set(void)
{
	uint64_t set = 0;

	for (int cap = 0; cap < 64; cap++)
		if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1)
			set |= UINT64_C(1) << cap;
	return set;
}

static uint64_t effective_set(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[2];

	MUST(syscall(SYS_capget, &head, sets) == 0);
	MUST(sets[0].effective == sets[0].permitted && sets[1].effective == sets[1].permitted);
	MUST(!sets[0].inheritable && !sets[1].inheritable);
	return sets[0].effective | (uint64_t)sets[1].effective << 32;
}

static void drop_all(void)
{
	MUST(sandbox_drop_capabilities(0) == 0);
	MUST(effective_set() == 0 && bounding_set() == 0);
	MUST_FAIL(sethostname("x", 1), EPERM);
	MUST_FAIL(chroot("/"), EPERM);
}

static void drop_some(void)
{
	uint64_t keep = UINT64_C(1) << CAP_SYS_ADMIN;

	MUST(sandbox_drop_capabilities(keep) == 0);
	MUST(effective_set() == keep && bounding_set() == keep);
	MUST(unshare(CLONE_NEWUTS) == 0);
	MUST_FAIL(chroot("/"), EPERM);
}

static void test_capabilities(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	run_child(drop_all);
	run_child(drop_some);
}

/* --- Landlock --- */

static void landlocked(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(9)};
	char buf[16] = "still here";
	int fd = make_file("landlocked"), sock = socket(AF_INET, SOCK_STREAM, 0);

	MUST(sandbox_no_new_privileges() == 0);

	int abi = landlock();

	MUST(abi >= 1);
	MUST_FAIL(open("/etc/passwd", O_RDONLY), EACCES);
	MUST_FAIL(open("landlocked", O_RDWR), EACCES);
	MUST_FAIL(open("/", O_RDONLY | O_DIRECTORY), EACCES);
	MUST_FAIL(open("new", O_WRONLY | O_CREAT, 0600), EACCES);
	MUST_FAIL(mkdir("new", 0700), EACCES);
	MUST_FAIL(unlink("landlocked"), EACCES);
	MUST_FAIL(execl("/bin/true", "true", NULL), EACCES);
	MUST_FAIL(mount("none", "/", "tmpfs", 0, NULL), EPERM);
	if (abi >= 4 && sock >= 0) {
		inet_pton(AF_INET, "127.0.0.1", &in.sin_addr);
		MUST_FAIL(connect(sock, (struct sockaddr *)&in, sizeof(in)), EACCES);
		MUST_FAIL(bind(sock, (struct sockaddr *)&in, sizeof(in)), EACCES);
	}
	if (abi >= 6)
		MUST_FAIL(kill(getppid(), 0), EPERM);
	MUST(pwrite(fd, buf, sizeof(buf), 0) == sizeof(buf) && pread(fd, buf, sizeof(buf), 0) == sizeof(buf));
	MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BLOCK) == 0);
}

static void test_landlock(void **state)
{
	(void)state;
	if (syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) < 0) {
		fprintf(stderr, "SKIPPED: this kernel has no Landlock\n");
		skip();
	}
	run_child(landlocked);
	unlink("landlocked");
}

/* --- seccomp --- */

static void *thread_main(void *arg)
{
	*(int *)arg = prctl(PR_GET_SECCOMP, 0, 0, 0, 0) < 0 && errno == EPERM;
	errno = 0;
	*(int *)arg &= open("/etc/passwd", O_RDONLY) < 0 && errno == EPERM;
	return NULL;
}

static void refused(void)
{
	MUST(setsid() > 0);
	MUST(sandbox_no_new_privileges() == 0);
	MUST(filter_system_calls() == 0);
	MUST_FAIL(open("/etc/passwd", O_RDONLY), EPERM);
	MUST_FAIL(unlink("/nonexistent"), EPERM);
	MUST_FAIL(execl("/bin/true", "true", NULL), EPERM);
	MUST_FAIL(fork(), EPERM);
	MUST_FAIL(syscall(SYS_clone3, NULL, 0), ENOSYS);
	MUST_FAIL(ptrace(PTRACE_TRACEME, 0, NULL, NULL), EPERM);
	MUST_FAIL(syscall(SYS_process_vm_readv, getpid(), NULL, 0, NULL, 0, 0), EPERM);
	MUST_FAIL(kill(1, 0), EPERM);
	MUST_FAIL(syscall(SYS_tgkill, 1, 1, 0), EPERM);
	MUST_FAIL(socket(AF_INET, SOCK_STREAM, 0), EPERM);
	MUST_FAIL(socket(AF_INET, SOCK_DGRAM, 0), EPERM);
	MUST_FAIL(socket(AF_UNIX, SOCK_STREAM, 0), EPERM);
	MUST_FAIL(socket(AF_NETLINK, SOCK_RAW, 0), EPERM);
	MUST_FAIL(unshare(CLONE_NEWUSER), EPERM);
	MUST_FAIL(mount("none", "/", "tmpfs", 0, NULL), EPERM);
	MUST_FAIL(syscall(SYS_bpf, 0, NULL, 0), EPERM);
	MUST_FAIL(syscall(SYS_io_uring_setup, 1, NULL), EPERM);
	MUST_FAIL(syscall(SYS_io_uring_register, 0, 0, NULL, 0), EPERM);
	MUST_FAIL(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), EPERM);
	MUST_FAIL(prctl(PR_SET_DUMPABLE, 2, 0, 0, 0), EPERM);
	MUST_FAIL(fcntl(0, F_SETOWN, 1), EPERM);
	/* Not even of the group, which is ours alone behind setsid(2); nor of what else there may be ("the user's" are all of root's). */
	MUST_FAIL(setpriority(PRIO_PGRP, 0, 19), EPERM);
	MUST_FAIL(setpriority(PRIO_USER + 1, 0, 19), EPERM);
	MUST_FAIL(syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS + 1, 0, 3 << 13), EPERM);
	MUST_FAIL(setpriority(PRIO_PROCESS, getppid(), 19), EPERM);
	MUST_FAIL(syscall(SYS_ioctl, 0, 0x5401 /* TCGETS */, NULL), EPERM);
	errno = 0;
	MUST(mmap(NULL, BLOCK, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED &&
	     errno == EPERM);
}

static void granted(void)
{
	int fd = make_file("granted"), ok = 0;
	pthread_t t;
	char *p;

	openlog("test_sandbox", LOG_NDELAY, LOG_DAEMON);
	MUST(sandbox_no_new_privileges() == 0);
	MUST(filter_system_calls() == 0);
	MUST(write(fd, "x", 1) == 1 && fdatasync(fd) == 0);
	MUST(setpriority(PRIO_PROCESS, 0, 19) == 0);
	MUST(syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 3 << 13) == 0);
	MUST(pthread_create(&t, NULL, thread_main, &ok) == 0 && pthread_join(t, NULL) == 0 && ok == 1);
	p = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(p != MAP_FAILED && mprotect(p, BLOCK, PROT_READ) == 0);
	/* A logger that is started anew: connected to again. */
	MUST((fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) >= 0);
	closelog();
	syslog(LOG_DEBUG, "nobody may be there");
	free(malloc(64u << 20));
	abort();
}

static void test_seccomp(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	run_child(refused);
	pid = fork();
	if (pid == 0) {
		alarm(60);
		granted();
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	/* abort(3) ends it as it should. */
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
	unlink("granted");
}

/* --- all of it, around a device --- */

static void say(void *arg, enum diag_level level, const char *line)
{
	(void)arg;
	(void)level;
	dprintf(2, "%s\n", line);
}

static void use_device(enum dev_engine engine)
{
	const struct diag d = {.emit = say};
	unsigned char *buf = dev_alloc(BLOCK, false);
	int fd = make_file("device");
	struct sandbox box;
	struct dev_queue *q;
	struct dev *dev;

	MUST(dev_open_fd(fd, "device", engine, 0, &d, &dev) == 0 && dev_queue_create(dev, &q) == 0);
	MUST(dev->limited == (engine == DEV_ENGINE_URING));
	sandbox_init(&box);
	MUST(strcmp(box.active, "off") == 0);
	sandbox_enter(&box, &d);
	sandbox_add(&box, "last");
	MUST(strncmp(box.active, "no capabilities, no new privileges", 34) == 0 && strstr(box.active, ", last"));
	MUST(SANITIZED || strstr(box.active, ", seccomp"));
	memset(buf, 7, BLOCK);
	MUST(dev_write(q, 3 * BLOCK, buf, BLOCK, DEV_DURABLE) == 0);
	MUST(dev_write(q, 4 * BLOCK, buf, BLOCK, 0) == 0 && dev_flush(q) == 0);
	memset(buf, 0, BLOCK);
	MUST(dev_read(q, 3 * BLOCK, buf, BLOCK) == 0 && buf[0] == 7 && buf[BLOCK - 1] == 7);
	MUST(!dev->can_discard || dev_discard(q, 3 * BLOCK, BLOCK) == 0);
	dev_queue_destroy(q);
	dev_close(dev);
	free(buf);
}

static void use_uring(void)
{
	use_device(DEV_ENGINE_URING);
}

static void use_threads(void)
{
	use_device(DEV_ENGINE_THREADS);
}

static bool no_uring(void)
{
	const char *known = getenv("HOLDFAST_ALLOW_NO_URING");
	struct io_uring ring;

	if (io_uring_queue_init(2, &ring, 0) == 0) {
		io_uring_queue_exit(&ring);
		return false;
	}
	assert_true(known && strcmp(known, "1") == 0);
	return true;
}

static void test_device(void **state)
{
	(void)state;
	run_child(use_threads);
	if (!no_uring())
		run_child(use_uring);
	unlink("device");
}

/* --- rings --- */

/* What the ring says to an entry; a refused one is answered like any other. */
static int result_of(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	int res;

	assert_int_equal(io_uring_submit(ring), 1);
	assert_int_equal(io_uring_wait_cqe(ring, &cqe), 0);
	res = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return res;
}

static void test_ring_limits(void **state)
{
	char buf[8];
	struct iovec iov = {.iov_base = buf, .iov_len = sizeof(buf)};
	struct io_uring ring;
	int zero = open("/dev/zero", O_RDWR);

	(void)state;
	if (no_uring())
		skip();
	assert_int_equal(io_uring_queue_init(4, &ring, IORING_SETUP_R_DISABLED), 0);
	assert_int_equal(uring_limit_and_enable(&ring, false), 0);

	io_uring_prep_readv(io_uring_get_sqe(&ring), zero, &iov, 1, 0);
	assert_int_equal(result_of(&ring), sizeof(buf));
	io_uring_prep_writev2(io_uring_get_sqe(&ring), zero, &iov, 1, 0, 0);
	assert_int_equal(result_of(&ring), sizeof(buf));

	io_uring_prep_nop(io_uring_get_sqe(&ring));
	assert_int_equal(result_of(&ring), -EACCES);
	io_uring_prep_openat(io_uring_get_sqe(&ring), AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
	assert_int_equal(result_of(&ring), -EACCES);
	io_uring_prep_connect(io_uring_get_sqe(&ring), zero, NULL, 0);
	assert_int_equal(result_of(&ring), -EACCES);

	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	io_uring_prep_readv(sqe, zero, &iov, 1, 0);
	io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	assert_int_equal(result_of(&ring), -EACCES);
	assert_int_equal(io_uring_register_eventfd(&ring, zero), -EACCES);
	io_uring_queue_exit(&ring);
	close(zero);
}

/* In a folder of its own: the children write files by relative names. */
int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_capabilities),
		cmocka_unit_test(test_device),
		cmocka_unit_test(test_ring_limits),
		cmocka_unit_test(test_landlock),
		cmocka_unit_test(test_seccomp),
	};
	/* The last two would take from a sanitizer what it needs. */
	size_t n = sizeof(tests) / sizeof(tests[0]) - (SANITIZED ? 2 : 0);
	char dir[] = "/tmp/holdfast-test-sandbox-XXXXXX";
	int failed;

	if (!mkdtemp(dir) || chdir(dir))
		return 1;
	failed = _cmocka_run_group_tests("sandbox", tests, n, NULL, NULL);
	if (chdir("/") || rmdir(dir))
		return 1;
	return failed;
}
