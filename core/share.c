/* SPDX-License-Identifier: Apache-2.0 */
/* share.c - see the header; and the numbers of thread.h. */
#include "core/share.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Looks before sleeping: most who share stay for less than a microsecond, and most who are alone for a few. */
#define SPINS 100u

_Thread_local struct thread thread_me;

unsigned thread_number(void)
{
	static _Atomic unsigned last;

	thread_me.number = 1 + atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) % THREAD_SLOTS;
	return thread_me.number;
}

void share_use(struct share *s, unsigned slot)
{
	uint32_t used = atomic_load(&s->used);

	while (used <= slot && !atomic_compare_exchange_weak(&s->used, &used, slot + 1))
		;
}

static void spin(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* Nobody is alone while we have the lock, nor looks who is inside. */
void share_queue(struct share *s, struct share_slot *slot, struct lock *l)
{
	assert(!lock_is_mine(l));
	share_leave(s, slot);
	for (unsigned i = 0; i < SPINS; i++, spin()) {
		if (atomic_load(&s->state) != SHARE_OPEN)
			continue;
		/* As in share_begin(). */
		atomic_fetch_add(&slot->inside, 1);
		if (atomic_load(&s->state) == SHARE_OPEN)
			return;
		share_leave(s, slot);
	}
	lock_take(l);
	atomic_fetch_add(&slot->inside, 1);
	lock_drop(l);
}

void share_wake(struct share_slot *slot)
{
	syscall(SYS_futex, &slot->inside, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Who leaves lowers the count and then looks at `state`; we change that and then sleep only if the count is still the same. */
void share_drain(struct share *s, struct share_slot *slot)
{
	uint32_t inside;

	for (unsigned i = 0; i < SPINS; i++, spin())
		if (!atomic_load(&slot->inside))
			return;
	atomic_store(&s->state, SHARE_ASLEEP);
	while ((inside = atomic_load(&slot->inside)))
		syscall(SYS_futex, &slot->inside, FUTEX_WAIT_PRIVATE, inside, NULL, NULL, 0);
}
