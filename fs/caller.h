/* SPDX-License-Identifier: Apache-2.0 */
/*
 * caller.h - whose request is it, where the kernel does not say.
 *
 * With -o allow_idmap requests that make no inode carry no user and no group, only the calling thread's id.  As long as its request is not
 * answered the thread waits, and is who it was; so /proc tells.  The daemon cannot look there (sandbox.h), so a process of its own does, which was
 * forked off before.  It is told a number and answers with one, reads nothing of the image, waits for nobody, so that workers may wait for it, and ends
 * with the daemon.
 *
 * What it tells is the thread's own user.  A thread of the kernel, or of an overlay, that works for somebody else is not who it works for: so this
 * is for requests that only programs make by themselves, ioctl(2), and for what may be told to any of root's threads.
 */
#ifndef HOLDFAST_FS_CALLER_H
#define HOLDFAST_FS_CALLER_H

#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

/* As the kernel says it, and of groups too; nobody has this number. */
#define CALLER_UNKNOWN UINT32_MAX

struct callers {
	int fd; /* to the process; -1: there is none */
	pid_t pid;
	pthread_mutex_t mutex; /* a question and its answer */
};

/* With one thread only, before the sandbox.  0 or a negative errno. */
int callers_start(struct callers *c);

/*
 * The user (of file access) of a thread, by its number in our namespace of processes: as our namespace of users has it.  CALLER_UNKNOWN: there is none, or
 * /proc is not there, or of another namespace, or does not show it, or shows somebody whom our namespace does not know.  Any thread.
 */
uint32_t callers_uid(struct callers *c, uint32_t tid);

void callers_end(struct callers *c);

#endif
