/* SPDX-License-Identifier: Apache-2.0 */
/*
 * big_pool.h - large buffers of one size, recycled, in huge pages.
 *
 * A device takes so many pieces of physical memory per request, and not many more in all requests that it has before it (virtio: 254, and 256
 * with a queue of the usual length).  A mebibyte in ordinary pages is 256 of them: it becomes two requests, and no other fits beside them.
 * In huge pages it is one piece, or two.  And what malloc(3) gets anew for each large buffer the kernel has to clear each time.
 *
 * Thread-safe.
 */
#ifndef HOLDFAST_CORE_BIG_POOL_H
#define HOLDFAST_CORE_BIG_POOL_H

#include <stddef.h>

struct big_pool;

/*
 * Of buffers of `bytes`, a multiple of 4096, at most 2 MiB.  So much of them is in huge pages as fits `huge` bytes, if the system has any: of such, what is touched
 * first costs 2 MiB.  NULL: no memory.
 */
struct big_pool *big_pool_create(size_t bytes, size_t huge);
/* All buffers have come back.  NULL is fine. */
void big_pool_destroy(struct big_pool *p);

/* A buffer, 4096-aligned, with anything in it.  NULL: no memory. */
void *big_pool_get(struct big_pool *p);
/* Memory goes back to the system in pieces of 16 MiB, when two such are not in use at all already. */
void big_pool_put(struct big_pool *p, void *buf);

/* Memory of `bytes`, a power of two, aligned to as much and without anything beside it; for munmap(2).  NULL: none. */
void *map_aligned(size_t bytes);

/* How much memory may be in huge pages: a small part of the machine's, so that what they waste does not matter.  Bytes. */
size_t huge_pages_share(void);

#endif
