/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stop.h - signals that ask a tool to stop, held back so that it can stop where it does no harm.
 *
 * No handler and no global: the signals are blocked and looked for.  Those that were ignored (nohup, a shell's background job)
 * stay ignored; blocked they would pend nevertheless.
 */
#ifndef HOLDFAST_CORE_STOP_H
#define HOLDFAST_CORE_STOP_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

struct stop {
	sigset_t set;
	bool held;
};

static inline void stop_hold(struct stop *s)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction old;

	sigemptyset(&s->set);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaddset(&s->set, signals[i]);
	s->held = pthread_sigmask(SIG_BLOCK, &s->set, NULL) == 0;
}

/* Has one arrived? */
static inline bool stop_wanted(const struct stop *s)
{
	sigset_t pending;

	if (!s->held || sigpending(&pending))
		return false;
	for (int sig = 1; sig < SIGRTMIN; sig++)
		if (sigismember(&s->set, sig) == 1 && sigismember(&pending, sig) == 1)
			return true;
	return false;
}

/* One that has arrived takes its effect now, which is usually the end of the process. */
static inline void stop_release(struct stop *s)
{
	if (s->held)
		pthread_sigmask(SIG_UNBLOCK, &s->set, NULL);
	s->held = false;
}

#endif
