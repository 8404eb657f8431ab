/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop_pool.h - recycled buffers of one worker, by size class: 4096 << n bytes and a page more, so that a power of two fits
 * together with the page that alignment may cost.  Those of the largest class are all workers' together.  One thread only.
 */
#ifndef HOLDFAST_FS_LOOP_POOL_H
#define HOLDFAST_FS_LOOP_POOL_H

#include <stddef.h>
#include <sys/queue.h>

#include "core/big_pool.h"

#define POOL_CLASSES 8 /* 8 KiB .. 512 KiB + 4 KiB; what is larger comes from `big` */
#define POOL_MAX_BYTES ((size_t)(1u << 20) + 4096)
#define POOL_KEEP (8u << 20) /* free bytes kept per class */

struct pool_item {
	SLIST_ENTRY(pool_item) link;
};

struct pool {
	SLIST_HEAD(, pool_item) free[POOL_CLASSES];
	size_t nfree[POOL_CLASSES];
	struct big_pool *big;
};

/* `big`: has buffers of POOL_MAX_BYTES; the caller's. */
void pool_init(struct pool *p, struct big_pool *big);
void pool_fini(struct pool *p);
/* 4096-aligned; NULL: no memory.  Free with the same `len`. */
void *pool_get(struct pool *p, size_t len);
void pool_put(struct pool *p, void *mem, size_t len);

#endif
