/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crew.c - the threads that a mount has in the background, as coroutines: one makes checkpoints, one removes large files.
 *
 * Each has a queue of its own, as in fs/background.c.  Whoever would wait in dev_poll() lets the others run instead, and
 * whoever is in the middle of something may be interrupted at any poll; so operations begin in the middle of checkpoints, and
 * checkpoints in the middle of operations.  No lock is held across a poll, therefore one thread is enough, and whose
 * turn it is comes from the plan.
 */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <ucontext.h>

#include "core/dev_engine.h"

#define STACK_BYTES (256u << 10)

struct member {
	ucontext_t at;
	void *stack;
	struct crew *crew;
	struct dev_queue *q;
	void (*work)(struct member *m);
	bool alive, idle, wanted, stop;
};

struct crew {
	struct sim *sim;
	ucontext_t client;	/* whose operations the plan lists */
	struct member *running;	/* NULL: the client */
	struct member checkpointer, remover;
	bool forced;
	uint64_t rng;
};

static void member_main(unsigned hi, unsigned lo)
{
	struct member *m = (struct member *)((uintptr_t)hi << 32 | lo);

	m->work(m);
	m->alive = false;
	/* uc_link leads back to the client. */
}

static void switch_to(struct crew *c, struct member *m)
{
	c->running = m;
	swapcontext(&c->client, &m->at);
	c->running = NULL;
}

/* Has it anything to do? */
static bool is_ready(const struct member *m)
{
	struct engine_queue *q = (struct engine_queue *)m->q;

	if (!m->alive)
		return false;
	return !m->idle || m->wanted || m->stop || q->pending || !STAILQ_EMPTY(&q->tasks);
}

void crew_yield(struct crew *c)
{
	struct member *m = c->running, *first = &c->checkpointer, *second = &c->remover;

	if (m) {
		swapcontext(&m->at, &c->client);
		return;
	}
	if (sim_random(&c->rng) & 1) {
		first = &c->remover;
		second = &c->checkpointer;
	}
	if (is_ready(first))
		switch_to(c, first);
	else if (is_ready(second))
		switch_to(c, second);
	/* Those who remove large files also store times of access. */
	lazy_look(c->sim);
}

static void idle(struct member *m)
{
	m->idle = true;
	dev_poll(m->q, -1);
	m->idle = false;
}

static void checkpointer_work(struct member *m)
{
	struct crew *c = m->crew;
	struct sim *s = c->sim;

	while (!m->stop) {
		if (!m->wanted) {
			idle(m);
			continue;
		}
		unsigned flags = c->forced ? CHECKPOINT_FORCE : 0, changes = s->model->nrec;

		m->wanted = c->forced = false;
		if (!volume_checkpoint(s->v, m->q, flags) && flags)
			acked(s, changes);
	}
}

static void remover_work(struct member *m)
{
	struct sim *s = m->crew->sim;

	while (!m->stop) {
		if (m->wanted && s->fs)
			m->wanted = fs_service(s->fs, m->q);
		idle(m);
	}
}

static void member_start(struct crew *c, struct member *m, void (*work)(struct member *m))
{
	uintptr_t p = (uintptr_t)m;

	*m = (struct member){.crew = c, .work = work, .alive = true, .stack = malloc(STACK_BYTES)};
	if (!m->stack || dev_queue_create(c->sim->dev, &m->q))
		abort();
	getcontext(&m->at);
	m->at.uc_stack.ss_sp = m->stack;
	m->at.uc_stack.ss_size = STACK_BYTES;
	m->at.uc_link = &c->client;
	makecontext(&m->at, (void (*)(void))member_main, 2, (unsigned)(p >> 32), (unsigned)p);
}

/* The client may have the only turn left: goes on until it has ended. */
static void member_end(struct crew *c, struct member *m)
{
	m->stop = true;
	while (m->alive) {
		switch_to(c, m);
		dev_poll(c->sim->q, 0);
	}
}

static void member_free(struct member *m)
{
	if (m->q)
		dev_queue_destroy(m->q);
	free(m->stack);
	*m = (struct member){0};
}

struct crew *crew_start(struct sim *s)
{
	struct crew *c = calloc(1, sizeof(*c));

	if (!c)
		abort();
	c->sim = s;
	c->rng = s->plan->seed + s->life;
	member_start(c, &c->checkpointer, checkpointer_work);
	return c;
}

void crew_serve(struct crew *c)
{
	member_start(c, &c->remover, remover_work);
}

void crew_end_service(struct crew *c)
{
	while (c->remover.alive) {
		c->remover.stop = true;
		crew_yield(c);
		dev_poll(c->sim->q, 0);
	}
}

void crew_end(struct crew *c)
{
	if (c->remover.alive)
		member_end(c, &c->remover);
	member_end(c, &c->checkpointer);
	member_free(&c->remover);
	member_free(&c->checkpointer);
	free(c);
}

void crew_force(struct crew *c)
{
	c->forced = c->checkpointer.wanted = true;
}

void crew_want_checkpoint(void *arg)
{
	struct crew *c = ((struct sim *)arg)->crew;

	if (c)
		c->checkpointer.wanted = true;
}

void crew_want_service(void *arg)
{
	struct crew *c = ((struct sim *)arg)->crew;

	if (c)
		c->remover.wanted = true;
}
