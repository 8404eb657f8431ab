/* SPDX-License-Identifier: Apache-2.0 */
/* spin.c - see the header. */
#include "fs/spin.h"

#include <sched.h>
#include <time.h>

#define FIRST_GUESS_NS 100000u
#define WEIGHT 8 /* of the past in the average, in samples */
#define PROBE_EVERY 32 /* waits: sleeping makes them longer, so what is usual must be found out awake */

void spin_init(struct spin *s, unsigned limit_us)
{
	*s = (struct spin){.limit_ns = (uint64_t)limit_us * 1000, .usual_ns = FIRST_GUESS_NS};
}

uint64_t spin_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* One that takes for ever counts as a few that take too long. */
static void note(struct spin *s, uint64_t ns)
{
	uint64_t most = 4 * s->limit_ns;

	ns = ns < most ? ns : most;
	s->usual_ns = (s->usual_ns * (WEIGHT - 1) + ns) / WEIGHT;
}

static uint64_t budget_ns(struct spin *s)
{
	uint64_t twice = 2 * s->usual_ns;

	if (s->usual_ns <= s->limit_ns)
		return twice < s->limit_ns ? twice : s->limit_ns;
	if (++s->since_probe < PROBE_EVERY)
		return 0;
	s->since_probe = 0;
	return s->limit_ns;
}

bool spin_until(struct spin *s, bool (*look)(void *arg), void *arg)
{
	uint64_t budget = s->limit_ns ? budget_ns(s) : 0, begin, now;

	if (!budget)
		return false;
	begin = now = spin_now();
	while (now - begin < budget) {
		sched_yield();
		if (look(arg)) {
			note(s, spin_now() - begin);
			return true;
		}
		now = spin_now();
	}
	return false;
}

void spin_slept(struct spin *s, uint64_t since_ns)
{
	note(s, spin_now() - since_ns);
}
