/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock.h - a mutex that knows whether it is held.
 *
 * docs/locking.md is the table of all locks.  None of them may be held across device I/O.
 * LOCK_ASSERT_HELD() checks ownership, in release builds too: it is one comparison.
 */
#ifndef HOLDFAST_CORE_LOCK_H
#define HOLDFAST_CORE_LOCK_H

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct lock {
	pthread_mutex_t mutex;
	_Atomic(pthread_t) owner;	/* 0 when free; only its own thread can compare equal */
};

static inline void lock_init(struct lock *l)
{
	pthread_mutex_init(&l->mutex, NULL);
	atomic_init(&l->owner, (pthread_t)0);
}

static inline void lock_fini(struct lock *l)
{
	pthread_mutex_destroy(&l->mutex);
}

static inline void lock_take(struct lock *l)
{
	pthread_mutex_lock(&l->mutex);
	atomic_store_explicit(&l->owner, pthread_self(), memory_order_relaxed);
}

static inline void lock_drop(struct lock *l)
{
	atomic_store_explicit(&l->owner, (pthread_t)0, memory_order_relaxed);
	pthread_mutex_unlock(&l->mutex);
}

static inline bool lock_is_mine(struct lock *l)
{
	return atomic_load_explicit(&l->owner, memory_order_relaxed) == pthread_self();
}

#define LOCK_ASSERT_HELD(l) assert(lock_is_mine(l))
#define LOCK_ASSERT_NOT_HELD(l) assert(!lock_is_mine(l))

#endif
