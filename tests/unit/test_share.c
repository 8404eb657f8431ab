/* SPDX-License-Identifier: Apache-2.0 */
/* test_share.c - many who look, or one who changes: what must not overlap does not, and nobody is forgotten. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "core/share.h"

#define ROUNDS 3000u

struct pair {
	struct lock lock;
	struct share share;
	uint64_t a, b; /* the same, for who looks */
	pthread_barrier_t both;
	_Atomic bool through, stop;
	_Atomic unsigned looks, changes;
};

static struct pair *pair_new(void)
{
	struct pair *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	lock_init(&p->lock);
	pthread_barrier_init(&p->both, NULL, 2);
	return p;
}

static void pair_free(struct pair *p)
{
	pthread_barrier_destroy(&p->both);
	lock_fini(&p->lock);
	free(p);
}

static void start(pthread_t *t, void *(*run)(void *arg), void *arg)
{
	assert_int_equal(pthread_create(t, NULL, run, arg), 0);
}

static void rest_ms(long ms)
{
	nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static void be_alone(struct pair *p)
{
	lock_take(&p->lock);
	share_close(&p->share);
}

static void no_more(struct pair *p)
{
	share_open(&p->share);
	lock_drop(&p->lock);
}

/* --- two at a time -------------------------------------------------------------------------------- */

static void *meet(void *arg)
{
	struct pair *p = arg;

	share_begin(&p->share, &p->lock);
	pthread_barrier_wait(&p->both);
	share_end(&p->share);
	return NULL;
}

static void two_are_inside(void **state)
{
	struct pair *p = pair_new();
	pthread_t t[2];

	(void)state;
	assert_false(share_is_mine());
	start(&t[0], meet, p);
	start(&t[1], meet, p);
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	pair_free(p);
}

/* --- alone is alone --------------------------------------------------------------------------------- */

static void *change(void *arg)
{
	struct pair *p = arg;

	for (unsigned i = 0; i < ROUNDS || p->looks < ROUNDS; i++) {
		be_alone(p);
		p->a++;
		assert(p->a == p->b + 1);
		p->b++;
		no_more(p);
		p->changes++;
	}
	return NULL;
}

static void *look(void *arg)
{
	struct pair *p = arg;

	while (!p->stop) {
		share_begin(&p->share, &p->lock);
		assert(p->a == p->b && share_is_mine());
		share_end(&p->share);
		p->looks++;
	}
	return NULL;
}

static void changes_are_whole(void **state)
{
	struct pair *p = pair_new();
	pthread_t t[6];

	(void)state;
	for (unsigned i = 0; i < 6; i++)
		start(&t[i], i < 2 ? change : look, p);
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	p->stop = true;
	for (unsigned i = 2; i < 6; i++)
		pthread_join(t[i], NULL);
	assert_true(p->a == p->changes && p->a == p->b);
	pair_free(p);
}

/* --- waiting ---------------------------------------------------------------------------------------- */

struct visit {
	struct pair *p;
	unsigned slot;
	_Atomic bool inside, leave;
	pthread_t thread;
};

static void *stay(void *arg)
{
	struct visit *v = arg;

	v->slot = thread_slot();
	share_begin(&v->p->share, &v->p->lock);
	v->inside = true;
	while (!v->leave)
		rest_ms(1);
	share_end(&v->p->share);
	return NULL;
}

static void visit(struct visit *v)
{
	start(&v->thread, stay, v);
	while (!v->inside)
		rest_ms(1);
}

static void leave(struct visit *v)
{
	v->leave = true;
	pthread_join(v->thread, NULL);
}

static void *come_alone(void *arg)
{
	struct pair *p = arg;

	be_alone(p);
	p->through = true;
	no_more(p);
	return NULL;
}

static void *ask_number(void *arg)
{
	*(unsigned *)arg = thread_slot();
	return NULL;
}

/* Threads come and go until the next one gets the slot after `slot`. */
static void numbers_until(unsigned slot)
{
	unsigned got = THREAD_SLOTS;
	pthread_t t;

	while (got != slot) {
		start(&t, ask_number, &got);
		pthread_join(t, NULL);
	}
}

/* Two threads with the same slot: that one of them leaves is not enough.  Who waits sleeps by then, and is woken. */
static void all_must_leave(void **state)
{
	struct pair *p = pair_new();
	struct visit first = {.p = p}, second = {.p = p};
	pthread_t t;

	(void)state;
	visit(&first);
	numbers_until((first.slot + THREAD_SLOTS - 1) % THREAD_SLOTS);
	visit(&second);
	assert_int_equal(first.slot, second.slot);
	start(&t, come_alone, p);
	while (p->share.state != SHARE_ASLEEP)
		rest_ms(1);
	leave(&second);
	rest_ms(50);
	assert_false(p->through);
	leave(&first);
	pthread_join(t, NULL);
	assert_true(p->through);
	pair_free(p);
}

/* Nobody new gets in before who waits to be alone; and then all do. */
static void who_changes_goes_first(void **state)
{
	struct pair *p = pair_new();
	struct visit first = {.p = p};
	pthread_t t[2];

	(void)state;
	visit(&first);
	start(&t[0], come_alone, p);
	while (p->share.state == SHARE_OPEN)
		rest_ms(1);
	start(&t[1], look, p);
	rest_ms(50);
	assert_true(!p->through && !p->looks);
	leave(&first);
	pthread_join(t[0], NULL);
	while (!p->looks)
		rest_ms(1);
	p->stop = true;
	pthread_join(t[1], NULL);
	assert_int_equal(p->share.state, SHARE_OPEN);
	pair_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(two_are_inside),
		cmocka_unit_test(changes_are_whole),
		cmocka_unit_test(all_must_leave),
		cmocka_unit_test(who_changes_goes_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
