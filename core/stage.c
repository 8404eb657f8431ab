/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stage.c - block contents newer than the device's, in a hash table by block number.
 *
 * An entry exists while at least one of its three contents does.  They are ordered by age: flight (oldest), frozen, page
 * (newest); stage_get() answers with the newest.
 */
#include "core/stage.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "core/bug.h"
#include "core/format.h"
#include "core/page_pool.h"

struct staged {
	uint64_t blkno;
	void *page;		/* logged, changes in place */
	void *frozen;		/* logged, as of the freeze under way */
	const void *flight;	/* a writer's buffer */
	struct staged *next;
};

/* An entry set aside by stage_prepare(). */
struct spare {
	SLIST_ENTRY(spare) link;
};

struct stage {
	struct staged **bucket;
	uint64_t nbuckets, nentries;
	uint64_t npages;	/* logged pages, frozen ones included */
	struct page_pool pages;
	SLIST_HEAD(, spare) spares;
	unsigned nspares;
	struct stage_page *list;	/* of the freeze under way */
	uint64_t nlist;
};

#define MIN_BUCKETS 1024u

static uint64_t bucket_of(const struct stage *s, uint64_t blkno)
{
	return (blkno * UINT64_C(0x9e3779b97f4a7c15)) >> 20 & (s->nbuckets - 1);
}

static struct staged *stage_find(const struct stage *s, uint64_t blkno)
{
	struct staged *e = s->bucket[bucket_of(s, blkno)];

	while (e && e->blkno != blkno)
		e = e->next;
	return e;
}

/* Failure to grow costs speed, nothing else. */
static void stage_grow(struct stage *s)
{
	uint64_t old_n = s->nbuckets;
	struct staged **old = s->bucket;
	struct staged **bigger = calloc(old_n * 2, sizeof(*bigger));

	if (!bigger)
		return;
	s->bucket = bigger;
	s->nbuckets = old_n * 2;
	for (uint64_t i = 0; i < old_n; i++) {
		struct staged *e, *next;

		for (e = old[i]; e; e = next) {
			uint64_t b = bucket_of(s, e->blkno);

			next = e->next;
			e->next = s->bucket[b];
			s->bucket[b] = e;
		}
	}
	free(old);
}

static struct staged *stage_add(struct stage *s, struct staged *e, uint64_t blkno)
{
	uint64_t b;

	if (s->nentries >= s->nbuckets)
		stage_grow(s);
	b = bucket_of(s, blkno);
	*e = (struct staged){.blkno = blkno, .next = s->bucket[b]};
	s->bucket[b] = e;
	s->nentries++;
	return e;
}

/* Removes an entry that holds nothing any more. */
static void stage_prune(struct stage *s, struct staged *e)
{
	struct staged **p;

	if (e->page || e->frozen || e->flight)
		return;
	for (p = &s->bucket[bucket_of(s, e->blkno)]; *p != e; p = &(*p)->next)
		;
	*p = e->next;
	s->nentries--;
	free(e);
}

int stage_create(struct stage **out)
{
	struct stage *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->nbuckets = MIN_BUCKETS;
	s->bucket = calloc(s->nbuckets, sizeof(struct staged *));
	if (!s->bucket) {
		free(s);
		return -ENOMEM;
	}
	page_pool_init(&s->pages);
	SLIST_INIT(&s->spares);
	*out = s;
	return 0;
}

static void *spare_take(struct stage *s)
{
	struct spare *sp = SLIST_FIRST(&s->spares);

	assert(sp);	/* stage_prepare() was not called */
	SLIST_REMOVE_HEAD(&s->spares, link);
	s->nspares--;
	return sp;
}

static void page_drop(struct stage *s, void **page)
{
	if (!*page)
		return;
	page_put(&s->pages, *page);
	*page = NULL;
	s->npages--;
}

void stage_destroy(struct stage *s)
{
	if (!s)
		return;
	for (uint64_t i = 0; i < s->nbuckets; i++) {
		struct staged *e, *next;

		for (e = s->bucket[i]; e; e = next) {
			next = e->next;
			page_drop(s, &e->page);
			page_drop(s, &e->frozen);
			free(e);
		}
	}
	page_pool_fini(&s->pages);
	while (s->nspares)
		free(spare_take(s));
	free(s->list);
	free(s->bucket);
	free(s);
}

const void *stage_get(const struct stage *s, uint64_t blkno)
{
	const struct staged *e = stage_find(s, blkno);

	if (!e)
		return NULL;
	return e->page ? e->page : e->frozen ? e->frozen : e->flight;
}

int stage_prepare(struct stage *s, unsigned n)
{
	while (s->nspares < n) {
		struct spare *sp = malloc(sizeof(struct staged));

		if (!sp)
			return -ENOMEM;
		SLIST_INSERT_HEAD(&s->spares, sp, link);
		s->nspares++;
	}
	return page_pool_reserve(&s->pages, n);
}

int stage_flight_begin(struct stage *s, uint64_t blkno, uint64_t n, const void *bytes)
{
	for (uint64_t i = 0; i < n; i++) {
		struct staged *e = stage_find(s, blkno + i) ? NULL : malloc(sizeof(*e));

		if (!e) {
			stage_flight_end(s, blkno, i, bytes);
			return stage_find(s, blkno + i) ? -EUCLEAN : -ENOMEM;
		}
		stage_add(s, e, blkno + i)->flight = (const char *)bytes + i * BLOCK_SIZE;
	}
	return 0;
}

void stage_flight_end(struct stage *s, uint64_t blkno, uint64_t n, const void *bytes)
{
	for (uint64_t i = 0; i < n; i++) {
		struct staged *e = stage_find(s, blkno + i);

		assert(e && e->flight == (const char *)bytes + i * BLOCK_SIZE);
		e->flight = NULL;
		stage_prune(s, e);
	}
}

int stage_write(struct stage *s, uint64_t blkno, unsigned at, const void *bytes, unsigned len, bool fresh,
		const void *base)
{
	const void *old = stage_get(s, blkno);
	struct staged *e = stage_find(s, blkno);

	assert(at <= BLOCK_SIZE && len <= BLOCK_SIZE - at);
	if (!e)
		e = stage_add(s, spare_take(s), blkno);
	if (e->frozen && BUG(FROZEN_PAGE_CHANGED)) {
		memcpy((char *)e->frozen + at, bytes, len);
		return 0;
	}
	if (!e->page) {
		e->page = page_get(&s->pages);
		s->npages++;
		if (!fresh) {
			assert(old || base);
			memcpy(e->page, old ? old : base, BLOCK_SIZE);
		}
	}
	if (fresh)
		memset(e->page, BUG(FRESH_NOT_ZEROED) ? 0xa5 : 0, BLOCK_SIZE);
	memcpy((char *)e->page + at, bytes, len);
	return 0;
}

void stage_drop(struct stage *s, uint64_t blkno, uint64_t n)
{
	if (!s->nentries)
		return;
	for (uint64_t i = 0; i < n; i++) {
		struct staged *e = stage_find(s, blkno + i);

		if (!e)
			continue;
		page_drop(s, &e->page);
		stage_prune(s, e);
	}
}

uint64_t stage_bytes(const struct stage *s)
{
	return s->npages * BLOCK_SIZE;
}

static int page_cmp(const void *a, const void *b)
{
	const struct stage_page *x = a, *y = b;

	return x->blkno < y->blkno ? -1 : x->blkno > y->blkno;
}

int stage_freeze(struct stage *s, const struct stage_page **out, uint64_t *n)
{
	assert(!s->list);
	s->list = malloc((s->npages + 1) * sizeof(*s->list));
	if (!s->list)
		return -ENOMEM;
	s->nlist = 0;
	for (uint64_t i = 0; s->npages && i < s->nbuckets; i++)
		for (struct staged *e = s->bucket[i]; e; e = e->next) {
			if (!e->page)
				continue;
			assert(!e->frozen);
			e->frozen = e->page;
			e->page = NULL;
			s->list[s->nlist++] = (struct stage_page){e->blkno, e->frozen};
		}
	qsort(s->list, s->nlist, sizeof(*s->list), page_cmp);
	*out = s->list;
	*n = s->nlist;
	return 0;
}

void stage_thaw(struct stage *s)
{
	for (uint64_t i = 0; i < s->nlist; i++) {
		struct staged *e = stage_find(s, s->list[i].blkno);

		page_drop(s, &e->frozen);
		stage_prune(s, e);
	}
	free(s->list);
	s->list = NULL;
	s->nlist = 0;
}
