/* SPDX-License-Identifier: Apache-2.0 */
/* proc.c - see proc.h. */
#include "tests/sim/proc.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

struct slot *slots_new(unsigned n)
{
	void *p = mmap(NULL, n * sizeof(struct slot), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		perror("sim: mmap");
		exit(2);
	}
	return p;
}

/* The one thing that cannot be handed down: the C library calls __assert_fail() with nothing but the text. */
static struct verdict *assertions;

void proc_assertions(struct verdict *v)
{
	assertions = v;
}

/* Instead of the C library's. */
void __assert_fail(const char *what, const char *file, unsigned line, const char *function)
{
	fprintf(stderr, "%s:%u: %s: assertion '%s' failed\n", file, line, function, what);
	if (!assertions)
		abort();
	assertions->failed = true;
	snprintf(assertions->kind, sizeof(assertions->kind), "assert %.20s", function);
	snprintf(assertions->text, sizeof(assertions->text), "%s:%u: %s: assertion '%s' failed", file, line, function, what);
	abort();
}

void proc_limit(void)
{
	const struct itimerval busy = {.it_value.tv_sec = SEED_SECONDS};

	setitimer(ITIMER_PROF, &busy, NULL);
	alarm(10 * SEED_SECONDS);
}

bool proc_verdict(struct verdict *v, int status)
{
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return false;
	if (v->failed)
		return true;
	v->failed = true;
	if (WIFSIGNALED(status) && (WTERMSIG(status) == SIGALRM || WTERMSIG(status) == SIGPROF))
		snprintf(v->kind, sizeof(v->kind), "hang");
	else if (WIFSIGNALED(status))
		snprintf(v->kind, sizeof(v->kind), "signal %d", WTERMSIG(status));
	else
		snprintf(v->kind, sizeof(v->kind), "exit %d", WEXITSTATUS(status));
	snprintf(v->text, sizeof(v->text), "the process ended: %s",
		 WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "see its messages");
	return true;
}

static _Noreturn void child(struct slot *slot, const struct plan *plan, FILE *out)
{
	struct lab *lab = lab_new(&slot->cov);

	proc_assertions(&slot->verdict);
	proc_limit();
	if (!out && !freopen("/dev/null", "w", stderr))
		_exit(2);
	run_plan(lab, plan, &slot->verdict, out);
	if (out)
		fflush(out);
	_exit(0);
}

bool proc_run(struct slot *slot, const struct plan *plan, FILE *out)
{
	int status;

	memset(&slot->verdict, 0, sizeof(slot->verdict));
	fflush(NULL);
	pid_t pid = fork();

	if (!pid)
		child(slot, plan, out);
	if (pid < 0 || waitpid(pid, &status, 0) < 0) {
		perror("sim: fork");
		exit(2);
	}
	return proc_verdict(&slot->verdict, status);
}
