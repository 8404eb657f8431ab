/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree_cache.c - the nodes in memory.
 *
 * Nodes come in slabs that live as long as the tree; a node that is not in use is in the free list.  Who is in which state:
 *   free      in t->free
 *   clean     in t->clean and in the hash table; the page is what the device has
 *   dirty     in the hash table under a temporary address; holds 2 blocks of the allocator's reservation
 *   frozen    in t->frozen; in the hash table too, unless `detached`: a newer, dirty version has taken its place
 *
 * Eviction happens where a node becomes clean (an arrival, a thaw), never in lookups or mutations.
 */
#include "core/bug.h"
#include "core/page_pool.h"
#include "core/tree_impl.h"

#include <stdlib.h>
#include <string.h>

#define SLAB_NODES  32u
#define BUCKET_BITS 10u

struct slab {
	SLIST_ENTRY(slab) link;
	char *pages;		/* aligned to blocks, for direct I/O */
	struct node node[SLAB_NODES];
};

/* --- hash table and slabs --------------------------------------------------------------------- */

static void hash_insert(struct tree *t, struct node *n)
{
	struct node **b = cache_bucket(t, n->addr);

	n->hash_next = *b;
	*b = n;
}

static void hash_remove(struct tree *t, struct node *n)
{
	struct node **p = cache_bucket(t, n->addr);

	while (*p != n)
		p = &(*p)->hash_next;
	*p = n->hash_next;
}

static int hash_grow(struct tree *t)
{
	struct node **old = t->bucket, *n, *next;
	uint64_t i, nold = UINT64_C(1) << t->bucket_bits;
	struct node **bucket = calloc(2 * nold, sizeof(struct node *));

	if (!bucket)
		return -ENOMEM;
	t->bucket = bucket;
	t->bucket_bits++;
	for (i = 0; i < nold; i++) {
		for (n = old[i]; n; n = next) {
			next = n->hash_next;
			hash_insert(t, n);
		}
	}
	free(old);
	return 0;
}

static void node_free(struct tree *t, struct node *n)
{
	n->state = NODE_FREE;
	n->ranged = false;
	page_poison(n->page);
	TAILQ_INSERT_HEAD(&t->free, n, link);
	t->nfree++;
}

static struct node *node_alloc(struct tree *t)
{
	struct node *n = TAILQ_FIRST(&t->free);

	assert(n);	/* cache_reserve() */
	TAILQ_REMOVE(&t->free, n, link);
	t->nfree--;
	page_unpoison(n->page);
	n->detached = false;
	atomic_store_explicit(&n->ahead, false, memory_order_relaxed);
	return n;
}

static int slab_add(struct tree *t)
{
	struct slab *s;
	unsigned i;

	if (t->nnodes + SLAB_NODES > UINT64_C(1) << t->bucket_bits && hash_grow(t))
		return -ENOMEM;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->pages = aligned_alloc(BLOCK_SIZE, SLAB_NODES * BLOCK_SIZE);
	if (!s->pages) {
		free(s);
		return -ENOMEM;
	}
	SLIST_INSERT_HEAD(&t->slabs, s, link);
	for (i = 0; i < SLAB_NODES; i++) {
		s->node[i].page = (struct disk_node *)(s->pages + (size_t)i * BLOCK_SIZE);
		node_free(t, &s->node[i]);
	}
	t->nnodes += SLAB_NODES;
	return 0;
}

int cache_create(struct tree *t)
{
	SLIST_INIT(&t->slabs);
	TAILQ_INIT(&t->free);
	TAILQ_INIT(&t->clean);
	TAILQ_INIT(&t->frozen);
	t->bucket_bits = BUCKET_BITS;
	t->bucket = calloc(UINT64_C(1) << BUCKET_BITS, sizeof(struct node *));
	return t->bucket ? 0 : -ENOMEM;
}

void cache_destroy(struct tree *t)
{
	struct slab *s;

	while ((s = SLIST_FIRST(&t->slabs))) {
		unsigned i;

		SLIST_REMOVE_HEAD(&t->slabs, link);
		for (i = 0; i < SLAB_NODES; i++)
			page_unpoison(s->node[i].page);
		free(s->pages);
		free(s);
	}
	free(t->bucket);
}

int cache_reserve(struct tree *t, uint64_t n)
{
	while (t->nfree < n) {
		int err = slab_add(t);

		if (err)
			return err;
	}
	return 0;
}

/* --- clean nodes ------------------------------------------------------------------------------ */

/* Now is when it was last used.  Alone, or `moving`. */
static void stamp(struct tree *t, struct node *n)
{
	uint64_t now = atomic_load_explicit(&t->clock, memory_order_relaxed) + 1;

	atomic_store_explicit(&t->clock, now, memory_order_relaxed);
	atomic_store_explicit(&n->stamp, now, memory_order_relaxed);
}

void cache_use(struct tree *t, struct node *n)
{
	if (atomic_load_explicit(&t->moving, memory_order_relaxed) ||
	    atomic_exchange_explicit(&t->moving, true, memory_order_acquire))
		return;
	/* Somebody may have done it since we looked. */
	if (atomic_load_explicit(&n->ahead, memory_order_relaxed))
		cache_ahead_used(t, n);
	if (cache_is_old(t, n)) {
		TAILQ_REMOVE(&t->clean, n, link);
		TAILQ_INSERT_TAIL(&t->clean, n, link);
		stamp(t, n);
	}
	atomic_store_explicit(&t->moving, false, memory_order_release);
}

static void clean_add(struct tree *t, struct node *n)
{
	n->state = NODE_CLEAN;
	stamp(t, n);
	TAILQ_INSERT_TAIL(&t->clean, n, link);
	t->nclean++;
}

static void clean_remove(struct tree *t, struct node *n)
{
	TAILQ_REMOVE(&t->clean, n, link);
	t->nclean--;
}

static void cache_evict(struct tree *t)
{
	/* A seek may need two paths, to the leaf where its key belongs and to the next; less, and it could evict one while
	 * the other arrives, for ever.  (Empty leaves between the two are dirty.) */
	uint64_t paths = 2 * (t->level + 1);
	uint64_t limit = t->limit > paths ? t->limit : paths;

	while (t->nclean > limit && !t->held) {
		struct node *n = TAILQ_FIRST(&t->clean);

		clean_remove(t, n);
		hash_remove(t, n);
		if (n->ahead)
			cache_ahead_wasted(t);
		node_free(t, n);
		t->evictions++;
	}
}

void tree_hold(struct tree *t)
{
	t->held = true;
}

void tree_let_go(struct tree *t)
{
	t->held = false;
	cache_evict(t);
}

const struct disk_ptr *tree_missed(struct tree *t, const struct miss *miss, struct node **parent,
				   unsigned *index)
{
	const struct disk_ptr *ptr = &t->root;
	unsigned level = t->level;

	*parent = NULL;
	if (miss->level > level)
		return NULL;
	for (; level > miss->level; level--) {
		if (tree_node_get(t, ptr, level, parent))
			return NULL;
		*index = page_child((*parent)->page, &miss->lo, false);
		ptr = page_ptr((*parent)->page, *index);
	}
	return ptr;
}

bool tree_wants(struct tree *t, const struct miss *miss)
{
	struct node *parent;
	unsigned index;
	const struct disk_ptr *ptr = tree_missed(t, miss, &parent, &index);

	return ptr && get64(ptr->blkno[0]) == get64(miss->ptr.blkno[0]) &&
	       get64(ptr->generation) == get64(miss->ptr.generation) &&
	       get32(ptr->csum) == get32(miss->ptr.csum) && !cache_find(t, get64(ptr->blkno[0]));
}

bool tree_copy_cached(struct tree *t, const struct disk_ptr *ptr, void *block)
{
	const struct node *n = cache_find(t, get64(ptr->blkno[0]));

	if (!n || n->state == NODE_DIRTY || get32(n->page->h.csum) != get32(ptr->csum))
		return false;
	memcpy(block, n->page, BLOCK_SIZE);
	return true;
}

static int node_arrived(struct tree *t, const struct miss *miss, const void *block, bool ahead)
{
	const struct disk_node *page = block;
	uint64_t addr = get64(miss->ptr.blkno[0]);
	struct node *n;

	assert(miss->kind == MISS_NODE && page->level == miss->level);
	if (!tree_wants(t, miss))
		return 0;
	if (page_nitems(page) == 0 && t->level > 0)
		return corrupt(t->diag, "tree: block %llu is an empty node below the root",
			       (unsigned long long)addr);
	if (cache_reserve(t, 1))
		return -ENOMEM;
	n = node_alloc(t);
	memcpy(n->page, page, BLOCK_SIZE);
	n->addr = addr;
	atomic_store_explicit(&n->ahead, ahead, memory_order_relaxed);
	hash_insert(t, n);
	clean_add(t, n);
	cache_evict(t);
	return 0;
}

int tree_node_arrived(struct tree *t, const struct miss *miss, const void *block)
{
	return node_arrived(t, miss, block, false);
}

void tree_ahead_arrived(struct tree *t, const struct miss *miss, const void *block)
{
	const struct disk_node *page = block;

	/* What is wrong with it is told to who wants it. */
	if (page_nitems(page))
		(void)node_arrived(t, miss, block, true);
}

/* --- dirty nodes ------------------------------------------------------------------------------ */

static void dirty_add(struct tree *t, struct node *n)
{
	n->state = NODE_DIRTY;
	n->addr = TREE_TEMP | ++t->temp;
	hash_insert(t, n);
	t->ndirty++;
	alloc_reserve(t->alloc, 2);
}

struct node *cache_new(struct tree *t, unsigned level)
{
	struct node *n = node_alloc(t);

	page_init(n->page, level);
	dirty_add(t, n);
	return n;
}

struct node *cache_dirty(struct tree *t, struct disk_ptr *ptr)
{
	struct node *n = cache_find(t, get64(ptr->blkno[0]));
	unsigned copy;

	assert(n);	/* tree_prepare() */
	if (n->state == NODE_DIRTY)
		return n;
	for (copy = 0; copy < (BUG(OLD_NODE_LEAKED) ? 1 : 2); copy++)
		alloc_free(t->alloc, get64(n->page->h.blkno[copy]), 1);
	hash_remove(t, n);
	if (n->state == NODE_CLEAN) {
		clean_remove(t, n);
	} else {
		struct node *old = n;

		n = node_alloc(t);
		memcpy(n->page, old->page, BLOCK_SIZE);
		n->ranged = old->ranged;
		n->has_hi = old->has_hi;
		n->lo = old->lo;
		n->hi = old->hi;
		old->detached = true;
		old->ranged = false;
	}
	dirty_add(t, n);
	*ptr = ptr_temp(n);
	t->copies++;
	return n;
}

void cache_drop(struct tree *t, struct node *n)
{
	assert(n->state == NODE_DIRTY);
	hash_remove(t, n);
	t->ndirty--;
	alloc_unreserve(t->alloc, 2);
	node_free(t, n);
}

/* --- frozen nodes ----------------------------------------------------------------------------- */

void cache_freeze(struct tree *t, struct node *n, uint64_t addr)
{
	hash_remove(t, n);
	n->addr = addr;
	hash_insert(t, n);
	n->state = NODE_FROZEN;
	TAILQ_INSERT_TAIL(&t->frozen, n, link);
	t->ndirty--;
	t->nfrozen++;
}

void cache_thaw(struct tree *t)
{
	struct node *n;

	while ((n = TAILQ_FIRST(&t->frozen))) {
		TAILQ_REMOVE(&t->frozen, n, link);
		t->nfrozen--;
		if (n->detached)
			node_free(t, n);
		else
			clean_add(t, n);
	}
	cache_evict(t);
}
