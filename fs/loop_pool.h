/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop_pool.h - recycled buffers of one worker, by size class: 4096 << n bytes and a page more, so that a power of two fits
 * together with the page that alignment may cost.  One thread only.
 */
#ifndef HOLDFAST_FS_LOOP_POOL_H
#define HOLDFAST_FS_LOOP_POOL_H

#include <stddef.h>
#include <sys/queue.h>

#define POOL_CLASSES 9 /* 8 KiB .. 1 MiB + 4 KiB */
#define POOL_MAX_BYTES ((size_t)(1u << 20) + 4096)
#define POOL_KEEP (8u << 20) /* free bytes kept per class */

struct pool_item {
	SLIST_ENTRY(pool_item) link;
};

struct pool {
	SLIST_HEAD(, pool_item) free[POOL_CLASSES];
	size_t nfree[POOL_CLASSES];
};

void pool_init(struct pool *p);
void pool_fini(struct pool *p);
/* 4096-aligned; NULL: no memory.  Free with the same `len`. */
void *pool_get(struct pool *p, size_t len);
void pool_put(struct pool *p, void *mem, size_t len);

#endif
