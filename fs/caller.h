/* SPDX-License-Identifier: Apache-2.0 */
/*
 * caller.h - what may the one do whose request it is, or what does he do?  Where the kernel does not say.
 *
 * A request carries the calling thread's id and its user, with -o allow_idmap not even that, and never its capabilities.  As long as its request is not
 * answered the thread waits, in the kernel, also if it is killed; it is who it was, and nobody else gets its number.  So /proc tells.  The daemon
 * cannot look there (sandbox.h), so a process of its own does, which was
 * forked off before.  It is told numbers and answers with numbers, reads nothing of the image, waits for nobody, but
 * for a moment for a thread that is about to sleep, so that workers may wait for it, and ends with the daemon.
 *
 * What it tells is of the thread itself.  A thread of the kernel, or of an overlay, that works for somebody else is not who it works for: so this
 * is for requests that only programs make by themselves, ioctl(2), for what may be told to any of root's threads, and to take away; and to find out whether
 * it is such a request, where another would look the same.  They are rare; no other ones come here.
 */
#ifndef HOLDFAST_FS_CALLER_H
#define HOLDFAST_FS_CALLER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* As the kernel says it, and of groups too; nobody has this number. */
#define CALLER_UNKNOWN UINT32_MAX

struct callers {
	int fd; /* to the process; -1: there is none */
	pid_t pid;
	pthread_mutex_t mutex; /* a question and its answer; protects the rest */
	uint32_t nr; /* of the last question */
	bool owes; /* the answer to that is still to come, but nobody waits for it any more */
};

/*
 * With one thread only, before the sandbox.  `proc_fd`: a /proc to look at, of our namespace of processes; -1: the one that is mounted where the
 * process is.  0 or a negative errno; callers_end() in either case.
 */
int callers_start(struct callers *c, int proc_fd);

/*
 * The user (of file access) of a thread, by its number in our namespace of processes: as our namespace of users has it.  CALLER_UNKNOWN: there is none, or
 * /proc is not there, or of another namespace, or does not show it, or shows somebody whom our namespace does not know, or there is no answer in
 * time.  Any thread.
 */
uint32_t callers_uid(struct callers *c, uint32_t tid);

/*
 * Is a capability, by its number, effective in a thread, and that in our own namespace of users?  False also where callers_uid() does not know.  Without the
 * right to see others' namespaces (CAP_SYS_PTRACE when the process was started), one that maps users just as ours does counts as ours.  Any thread.
 */
bool callers_capable(struct callers *c, uint32_t tid, unsigned cap);

/*
 * Is a thread, one that waits for its answer, in ioctl(2) with FIBMAP?  False also where callers_uid() does not know, of a 32-bit program on a kernel whose own
 * calls have other numbers, and of a thread that the process may not trace (its user is another one, or there was no CAP_SYS_PTRACE, or a security module is against it).
 * Any thread.
 */
bool callers_in_fibmap(struct callers *c, uint32_t tid);

void callers_end(struct callers *c);

#endif
