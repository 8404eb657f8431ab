/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share.h - lets those who only look share a lock that those who change something have alone.
 *
 * A share stands beside a struct lock.  Who has taken the lock and closed the share is alone with what the lock protects.  Who
 * shares is so with others of his kind, and must change nothing but what is made for that.  Each thread counts itself on a cache line of its own, so
 * sharing costs the same however many do it; who closes the share pays for that, by looking at all of these lines.
 *
 * Who wants to be alone goes first: from share_close() on nobody new gets in, save through the lock.
 */
#ifndef HOLDFAST_CORE_SHARE_H
#define HOLDFAST_CORE_SHARE_H

#include "core/lock.h"
#include "core/thread.h"

#include <stdint.h>

enum share_state {
	SHARE_OPEN,
	SHARE_CLOSED,	/* somebody is alone, or waits to be */
	SHARE_ASLEEP,	/* likewise, and whoever leaves wakes him */
};

struct share {
	_Atomic uint32_t state;
	_Atomic uint32_t used;	/* slots behind it never had anybody; only grows */
	char gap[THREAD_LINE - 2 * sizeof(uint32_t)];
	struct share_slot {
		_Atomic uint32_t inside;	/* more than 1 if threads have the same slot */
		char gap[THREAD_LINE - sizeof(uint32_t)];
	} slot[THREAD_SLOTS];
};

/* The slow ways, for the functions below. */
void share_use(struct share *s, unsigned slot);
void share_queue(struct share *s, struct share_slot *slot, struct lock *l);
void share_wake(struct share_slot *slot);
void share_drain(struct share *s, struct share_slot *slot);

/* Does this thread share anything? */
static inline bool share_is_mine(void)
{
	return thread_me.shares;
}

static inline void share_leave(struct share *s, struct share_slot *slot)
{
	atomic_fetch_sub(&slot->inside, 1);
	if (__builtin_expect(atomic_load(&s->state) == SHARE_ASLEEP, 0))
		share_wake(slot);
}

/*
 * Waits while somebody is alone.  `l`: the lock that the share stands beside; neither held nor shared by the caller.
 *
 * The order is what makes it right, here and in share_close(): we are counted before we look whether it is closed, and it is closed before
 * anybody is looked for.  All of that is sequentially consistent, so one of the two sees the other.
 */
static inline void share_begin(struct share *s, struct lock *l)
{
	unsigned i = thread_slot();
	struct share_slot *slot = &s->slot[i];

	assert(!share_is_mine());
	if (__builtin_expect(i >= atomic_load_explicit(&s->used, memory_order_acquire), 0))
		share_use(s, i);
	atomic_fetch_add(&slot->inside, 1);
	if (__builtin_expect(atomic_load(&s->state) != SHARE_OPEN, 0))
		share_queue(s, slot, l);
	thread_me.shares++;
}

static inline void share_end(struct share *s)
{
	thread_me.shares--;
	share_leave(s, &s->slot[thread_slot()]);
}

/* With the lock taken: waits until nobody shares, and lets nobody in. */
static inline void share_close(struct share *s)
{
	assert(!share_is_mine());
	atomic_store(&s->state, SHARE_CLOSED);
	for (unsigned i = 0, n = atomic_load(&s->used); i < n; i++)
		if (__builtin_expect(atomic_load(&s->slot[i].inside) != 0, 0))
			share_drain(s, &s->slot[i]);
}

/* Before the lock is dropped. */
static inline void share_open(struct share *s)
{
	atomic_store_explicit(&s->state, SHARE_OPEN, memory_order_release);
}

#endif
