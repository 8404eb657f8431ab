/* SPDX-License-Identifier: Apache-2.0 */
/* page_pool.c - see page_pool.h. */
#include "core/page_pool.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "core/big_pool.h"

#define SMALL_PAGES 64u	 /* of the first slab: many pools stay small */
#define LARGE_PAGES 512u /* of the others: a huge page */
#define LARGE_BYTES ((size_t)LARGE_PAGES * BLOCK_SIZE)
#define KEEP_PAGES  4096u /* by an empty pool */

struct page_slab {
	TAILQ_ENTRY(page_slab) link;
	uint8_t *pages;
	unsigned npages;
	unsigned nfresh;	/* the last ones: never given out, so they have cost no memory yet */
};

void page_pool_init(struct page_pool *p)
{
	*p = (struct page_pool){0};
	TAILQ_INIT(&p->slabs);
}

/* A large slab is not malloc(3)'s: that leaves as much beside it and writes a word there, which may become a huge page as well.  NULL: no memory. */
static uint8_t *pages_alloc(unsigned npages)
{
	if (npages != LARGE_PAGES)
		return aligned_alloc(BLOCK_SIZE, (size_t)npages * BLOCK_SIZE);

	uint8_t *pages = map_aligned(LARGE_BYTES);

	if (pages)
		(void)madvise(pages, LARGE_BYTES, MADV_HUGEPAGE);
	return pages;
}

static void pages_free(uint8_t *pages, unsigned npages)
{
	if (npages == LARGE_PAGES)
		munmap(pages, LARGE_BYTES);
	else
		free(pages);
}

/* All pages are here. */
static void slabs_free(struct page_pool *p, uint64_t keep)
{
	struct page_slab *s;

	assert(p->nused == 0);
	while (p->npages > keep) {
		s = TAILQ_FIRST(&p->slabs);
		TAILQ_REMOVE(&p->slabs, s, link);
		for (unsigned i = 0; i < s->npages; i++)
			page_unpoison(s->pages + (size_t)i * BLOCK_SIZE);
		p->npages -= s->npages;
		pages_free(s->pages, s->npages);
		free(s);
	}
	p->nback = 0;
	TAILQ_FOREACH(s, &p->slabs, link)
		s->nfresh = s->npages;
}

void page_pool_fini(struct page_pool *p)
{
	slabs_free(p, 0);
	free(p->back);
}

/* With room in `back` for its pages. */
static int slab_add(struct page_pool *p)
{
	unsigned npages = p->npages ? LARGE_PAGES : SMALL_PAGES;
	uint64_t cap = p->npages + npages;
	struct page_slab *s;

	if (cap > p->cap_back) {
		void **bigger = reallocarray(p->back, 2 * cap, sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		p->back = bigger;
		p->cap_back = 2 * cap;
	}
	s = malloc(sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->pages = pages_alloc(npages);
	if (!s->pages) {
		free(s);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < npages; i++)
		page_poison(s->pages + (size_t)i * BLOCK_SIZE);
	s->npages = s->nfresh = npages;
	TAILQ_INSERT_HEAD(&p->slabs, s, link);
	p->npages += npages;
	return 0;
}

int page_pool_reserve(struct page_pool *p, uint64_t n)
{
	int err = 0;

	while (!err && p->npages - p->nused < n)
		err = slab_add(p);
	return err;
}

static void *fresh_page(struct page_pool *p)
{
	struct page_slab *s = TAILQ_FIRST(&p->slabs);

	assert(s && s->nfresh);	/* page_pool_reserve() */
	void *page = s->pages + (size_t)(s->npages - s->nfresh) * BLOCK_SIZE;

	if (!--s->nfresh) {
		TAILQ_REMOVE(&p->slabs, s, link);
		TAILQ_INSERT_TAIL(&p->slabs, s, link);
	}
	return page;
}

void *page_get(struct page_pool *p)
{
	/* The last one that came back is the likeliest to be in the processor's cache. */
	void *page = p->nback ? p->back[--p->nback] : fresh_page(p);

	p->nused++;
	page_unpoison(page);
	return page;
}

void page_put(struct page_pool *p, void *page)
{
	assert(p->nused > 0);
	page_poison(page);
	p->back[p->nback++] = page;
	if (!--p->nused && p->npages > KEEP_PAGES)
		slabs_free(p, KEEP_PAGES);
}
