/* SPDX-License-Identifier: Apache-2.0 */
/* big_pool.c - see big_pool.h. */
#include "core/big_pool.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/queue.h>
#include <unistd.h>

#define SLAB_BYTES ((size_t)16 << 20)	/* and so aligned, that a buffer's address leads to its slab */
#define SLAB_HEAD  4096u
#define MAX_BUFFER (2u << 20)
#define KEEP_IDLE  2u	/* slabs */
#define HUGE_SHARE 64u	/* of the machine's memory */

struct free_buffer {
	SLIST_ENTRY(free_buffer) link;
};

/* At the start of its memory. */
struct slab {
	TAILQ_ENTRY(slab) link;	/* while it has buffers to give */
	SLIST_HEAD(, free_buffer) back;
	bool huge;
	unsigned nused;
	unsigned nfresh;	/* the last ones: never given out, so they have cost no memory yet */
};

struct big_pool {
	pthread_mutex_t lock;
	size_t bytes;
	size_t huge;		/* still to be had */
	unsigned nidle;		/* slabs of which nothing is in use */
	unsigned nslabs;
	TAILQ_HEAD(, slab) slabs; /* that have buffers to give; idle ones last */
};

static_assert(sizeof(struct slab) <= SLAB_HEAD, "the head has room");

static unsigned per_slab(const struct big_pool *p)
{
	return (unsigned)((SLAB_BYTES - SLAB_HEAD) / p->bytes);
}

struct big_pool *big_pool_create(size_t bytes, size_t huge)
{
	struct big_pool *p = calloc(1, sizeof(*p));

	assert(bytes && bytes % 4096 == 0 && bytes <= MAX_BUFFER);
	if (!p)
		return NULL;
	pthread_mutex_init(&p->lock, NULL);
	p->bytes = bytes;
	p->huge = huge;
	TAILQ_INIT(&p->slabs);
	return p;
}

void *map_aligned(size_t bytes)
{
	char *mem = mmap(NULL, 2 * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		return NULL;

	size_t before = (bytes - (uintptr_t)mem % bytes) % bytes;

	if (before)
		munmap(mem, before);
	munmap(mem + before + bytes, bytes - before);
	return mem + before;
}

static struct slab *slab_add(struct big_pool *p)
{
	char *mem = map_aligned(SLAB_BYTES);

	if (!mem)
		return NULL;

	struct slab *s = (struct slab *)mem;
	bool huge = p->huge >= SLAB_BYTES;

	if (huge)
		p->huge -= SLAB_BYTES;
	/* Said of the others too: many systems make huge pages wherever nobody objects, and then each of many small messages costs 2 MiB. */
	(void)madvise(mem, SLAB_BYTES, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	SLIST_INIT(&s->back);
	s->huge = huge;
	s->nfresh = per_slab(p);
	TAILQ_INSERT_TAIL(&p->slabs, s, link);
	p->nslabs++;
	p->nidle++;
	return s;
}

static void slab_free(struct big_pool *p, struct slab *s)
{
	assert(!s->nused);
	TAILQ_REMOVE(&p->slabs, s, link);
	p->huge += s->huge ? SLAB_BYTES : 0;
	p->nidle--;
	p->nslabs--;
	munmap(s, SLAB_BYTES);
}

void big_pool_destroy(struct big_pool *p)
{
	if (!p)
		return;
	while (!TAILQ_EMPTY(&p->slabs))
		slab_free(p, TAILQ_FIRST(&p->slabs));
	assert(!p->nslabs);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static void *slab_get(struct big_pool *p, struct slab *s)
{
	void *buf = SLIST_FIRST(&s->back);

	if (buf)
		SLIST_REMOVE_HEAD(&s->back, link);
	else
		buf = (char *)s + SLAB_HEAD + p->bytes * (per_slab(p) - s->nfresh--);
	p->nidle -= !s->nused++;
	if (s->nused == per_slab(p))
		TAILQ_REMOVE(&p->slabs, s, link);
	return buf;
}

void *big_pool_get(struct big_pool *p)
{
	void *buf = NULL;

	pthread_mutex_lock(&p->lock);

	struct slab *s = TAILQ_FIRST(&p->slabs);

	if (!s)
		s = slab_add(p);
	if (s)
		buf = slab_get(p, s);
	pthread_mutex_unlock(&p->lock);
	return buf;
}

void big_pool_put(struct big_pool *p, void *buf)
{
	struct slab *s = (struct slab *)((uintptr_t)buf & ~(SLAB_BYTES - 1));
	struct free_buffer *b = buf;

	pthread_mutex_lock(&p->lock);
	assert(s->nused);
	SLIST_INSERT_HEAD(&s->back, b, link);
	if (s->nused == per_slab(p))
		TAILQ_INSERT_HEAD(&p->slabs, s, link);
	if (!--s->nused) {
		TAILQ_REMOVE(&p->slabs, s, link);
		TAILQ_INSERT_TAIL(&p->slabs, s, link);
		if (p->nidle++ == KEEP_IDLE)
			slab_free(p, s);
	}
	pthread_mutex_unlock(&p->lock);
}

size_t huge_pages_share(void)
{
	return (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE) / HUGE_SHARE;
}
