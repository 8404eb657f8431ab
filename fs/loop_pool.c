/* SPDX-License-Identifier: Apache-2.0 */
/* loop_pool.c - free lists; what exceeds them goes back to malloc(3). */
#include "fs/loop_pool.h"

#include <assert.h>
#include <stdlib.h>

#include "core/dev.h"

static unsigned class_of(size_t len)
{
	unsigned c = 0;

	assert(len <= POOL_MAX_BYTES);
	while (((size_t)4096 << c) + 4096 < len)
		c++;
	return c;
}

static size_t class_bytes(unsigned c)
{
	return ((size_t)4096 << c) + 4096;
}

void pool_init(struct pool *p, struct big_pool *big)
{
	p->big = big;
	for (unsigned c = 0; c < POOL_CLASSES; c++) {
		SLIST_INIT(&p->free[c]);
		p->nfree[c] = 0;
	}
}

void pool_fini(struct pool *p)
{
	for (unsigned c = 0; c < POOL_CLASSES; c++) {
		while (!SLIST_EMPTY(&p->free[c])) {
			struct pool_item *item = SLIST_FIRST(&p->free[c]);

			SLIST_REMOVE_HEAD(&p->free[c], link);
			free(item);
		}
	}
}

void *pool_get(struct pool *p, size_t len)
{
	unsigned c = class_of(len);

	if (c == POOL_CLASSES)
		return big_pool_get(p->big);

	struct pool_item *item = SLIST_FIRST(&p->free[c]);

	if (!item)
		return dev_alloc(class_bytes(c), false);
	SLIST_REMOVE_HEAD(&p->free[c], link);
	p->nfree[c]--;
	return item;
}

void pool_put(struct pool *p, void *mem, size_t len)
{
	unsigned c = class_of(len);
	struct pool_item *item = mem;

	if (c == POOL_CLASSES) {
		big_pool_put(p->big, mem);
		return;
	}
	if ((p->nfree[c] + 1) * class_bytes(c) > POOL_KEEP) {
		free(mem);
		return;
	}
	SLIST_INSERT_HEAD(&p->free[c], item, link);
	p->nfree[c]++;
}
