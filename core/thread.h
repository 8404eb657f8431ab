/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thread.h - a small number for each thread, so that what many threads write all the time can lie on a cache line of each.
 *
 * Numbers are given in the order in which threads first ask, and begin again behind THREAD_SLOTS: no two threads of a mount have the same, but
 * nothing may depend on that for more than speed.
 */
#ifndef HOLDFAST_CORE_THREAD_H
#define HOLDFAST_CORE_THREAD_H

#define THREAD_SLOTS 128u
#define THREAD_LINE  128u	/* bytes; processors fetch cache lines in pairs */

struct thread {
	unsigned number;	/* slot + 1; 0: has not asked yet */
	unsigned shares;	/* of volume locks, that it holds: share.h */
};
extern _Thread_local struct thread thread_me;

/* Gives the calling thread its number. */
unsigned thread_number(void);

static inline unsigned thread_slot(void)
{
	unsigned n = thread_me.number;

	return (__builtin_expect(n != 0, 1) ? n : thread_number()) - 1;
}

#endif
