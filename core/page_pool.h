/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page_pool.h - memory in pieces of BLOCK_SIZE, aligned to it, for who has many of them for a while.
 *
 * malloc(3) puts its own words in front of each piece, so that an aligned one takes two pages of memory; and when many are freed it gives them back to
 * the system, which has to clear others for the next.  Here pages are cut from slabs, and those that come back are given out again.  Slabs are huge
 * pages if the system has them: pages that are taken one after the other are neighbours in memory then, and many fit one request of a device.
 * Not thread-safe: under the owner's lock.
 */
#ifndef HOLDFAST_CORE_PAGE_POOL_H
#define HOLDFAST_CORE_PAGE_POOL_H

#include <stdint.h>
#include <sys/queue.h>

#include "core/format.h"

/* A page that nobody has is out of bounds, as freed memory is. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define page_poison(p)   __asan_poison_memory_region(p, BLOCK_SIZE)
#define page_unpoison(p) __asan_unpoison_memory_region(p, BLOCK_SIZE)
#else
#define page_poison(p)   ((void)(p))
#define page_unpoison(p) ((void)(p))
#endif

struct page_slab;

struct page_pool {
	/* private */
	TAILQ_HEAD(page_slabs, page_slab) slabs;	/* first those with pages that were never given out */
	uint64_t npages, nused;
	void **back;		/* pages that were given back */
	uint64_t nback, cap_back;
};

void page_pool_init(struct page_pool *p);
/* Frees all memory.  No page is out. */
void page_pool_fini(struct page_pool *p);

/* Afterwards `n` calls of page_get() find memory, if none of page_put() comes between.  -ENOMEM. */
int page_pool_reserve(struct page_pool *p, uint64_t n);

/* A page with anything in it.  page_pool_reserve() has promised it. */
void *page_get(struct page_pool *p);
/* When the last one comes back, what is beyond 16 MiB goes back to the system. */
void page_put(struct page_pool *p, void *page);

#endif
