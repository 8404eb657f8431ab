/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spin.h - waits awake for what will happen soon.
 *
 * A processor that goes idle for the 100 us that a disk takes to make something durable wakes up late: by some 10 us, and on a virtual machine whose
 * host gives the processor to others, by milliseconds.  So a worker with one request in progress, which somebody waits for, looks again and again
 * for its completion for about as long as such completions have been taking, and sleeps only then.  Between looks it lets others run
 * (sched_yield(2)): what it uses up is time that nobody else wants.
 */
#ifndef HOLDFAST_FS_SPIN_H
#define HOLDFAST_FS_SPIN_H

#include <stdbool.h>
#include <stdint.h>

struct spin {
	uint64_t limit_ns; /* longer than that is never spun for; 0: not at all */
	uint64_t usual_ns; /* moving average of the time that was waited */
	unsigned since_probe;
};

/* `limit_us` as given by the user. */
void spin_init(struct spin *s, unsigned limit_us);

/* Calls look(arg) until it returns true, which is what this returns then, or until that is taking too long. */
bool spin_until(struct spin *s, bool (*look)(void *arg), void *arg);

/* When what was waited for has happened after all, behind a sleep that began `since_ns` (spin_now()). */
void spin_slept(struct spin *s, uint64_t since_ns);

/* The monotonic clock, ns. */
uint64_t spin_now(void);

#endif
