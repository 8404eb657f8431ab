/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree_impl.h - what the files of the tree share: the tree, its nodes in memory, and work on pages.
 *
 *   tree.c          create, descend, lookups, cursors
 *   tree_cache.c    nodes in memory: slabs, hash table, eviction, copying on write
 *   tree_ahead.c    which leaves are read together with one that is missing
 *   tree_node.c     one page: insert, delete, resize, split, merge
 *   tree_prepare.c  what a mutation needs and costs
 *   tree_insert.c   put, patch, splits
 *   tree_remove.c   delete, merges, removal of empty nodes
 *   tree_freeze.c   freeze and thaw
 *   tree_check.c    the invariants
 */
#ifndef HOLDFAST_CORE_TREE_IMPL_H
#define HOLDFAST_CORE_TREE_IMPL_H

#include <stdatomic.h>
#include <sys/queue.h>

#include "core/tally.h"
#include "core/tree.h"

enum node_state { NODE_FREE, NODE_CLEAN, NODE_DIRTY, NODE_FROZEN };

struct node {
	uint64_t addr;		/* the first address, or TREE_TEMP | counter */
	struct node *hash_next;
	struct disk_node *page;
	_Atomic uint64_t stamp;	/* tree->clock when it was last moved in the list of clean nodes */
	enum node_state state;
	bool detached;		/* frozen, and replaced by a newer version: not in the hash table */
	_Atomic bool ahead;	/* read ahead, and not used yet */
	/* Of a leaf that the tree points to: all keys from `lo` to before `hi` (!has_hi: without end) belong to it.  Others may, too. */
	bool ranged, has_hi;
	struct key lo, hi;
	TAILQ_ENTRY(node) link;	/* free, clean (least recently used first) or frozen */
};
TAILQ_HEAD(node_list, node);

#define TREE_AHEAD_CREDIT 256u	/* at first, and at most */
#define TREE_NOTES 1024u	/* of leaves: see leaf_recall() */

struct slab;
SLIST_HEAD(slab_list, slab);

struct tree {
	struct alloc *alloc;
	const struct diag *diag;
	uint8_t uuid[UUID_BYTES];
	struct disk_ptr root;
	unsigned level;		/* of the root node */

	struct node **bucket;	/* never fewer than nodes exist, so that mutations need not grow it */
	unsigned bucket_bits;
	struct slab_list slabs;
	struct node_list free, clean, frozen;
	uint64_t nnodes, nfree, nclean, ndirty, nfrozen;
	uint64_t limit;		/* of clean nodes */
	_Atomic uint64_t clock;
	_Atomic bool moving;	/* see cache_use() */
	uint64_t temp;		/* the last temporary address given */
	_Atomic(struct node *) note[TREE_NOTES];	/* see leaf_recall() */

	bool prune;		/* a leaf may be empty */
	bool held;		/* nothing is evicted */
	struct tree_frozen_node *frozen_array;	/* of the freeze that is not thawed yet */
	uint32_t ahead_credit;	/* see tree_ahead.c */

	uint64_t splits, merges, copies, evictions;
	_Atomic uint64_t misses;
	struct tally lookups;
};

/* The nodes from the root (node[level]) to a leaf (node[0]); index[l] is the slot taken in node[l], l > 0. */
struct path {
	struct node *node[MAX_LEVEL + 1];
	unsigned index[MAX_LEVEL + 1];
};

#define CACHE_LINE 64u

/* --- pages ------------------------------------------------------------------------------------ */

static inline unsigned page_nitems(const struct disk_node *p)
{
	return get16(p->nitems);
}

static inline unsigned page_used(const struct disk_node *p)
{
	return get16(p->nitems) * (unsigned)sizeof(struct disk_slot) + BLOCK_SIZE - get16(p->data_pos);
}

static inline void *page_value(const struct disk_node *p, unsigned i)
{
	return (char *)p + get16(p->slot[i].pos);
}

static inline unsigned page_len(const struct disk_node *p, unsigned i)
{
	return get16(p->slot[i].len);
}

/* Inner pages only.  Aligned: all their values are 32 bytes long. */
static inline struct disk_ptr *page_ptr(const struct disk_node *p, unsigned i)
{
	return page_value(p, i);
}

/*
 * Is the slot's key lower than *k?  With branches, on purpose: in the binary search below, guessing right half of the time
 * fetches the next slot while this one is on its way; without branches lookups took half as long again.
 */
static inline bool slot_before(const struct disk_slot *s, const struct key *k)
{
	uint64_t object = get64(s->object);

	if (object != k->object)
		return object < k->object;
	if (s->type != k->type)
		return s->type < k->type;
	return get64(s->offset) < k->offset;
}

static inline bool slot_is(const struct disk_slot *s, const struct key *k)
{
	return get64(s->object) == k->object && s->type == k->type && get64(s->offset) == k->offset;
}

/* The first slot whose key is not lower than *k; nitems if there is none. */
static inline unsigned page_search(const struct disk_node *p, const struct key *k)
{
	const struct disk_slot *base = p->slot;
	unsigned n = page_nitems(p);

	if (n == 0)
		return 0;
	/* As a rule the page is not in the processor's nearest caches: all slots at a time instead of one after the other. */
	for (unsigned at = 0; at < n * (unsigned)sizeof(*base); at += CACHE_LINE)
		__builtin_prefetch((const char *)base + at);
	while (n > 1) {
		unsigned half = n / 2;

		if (slot_before(&base[half - 1], k))
			base += half;
		n -= half;
	}
	return (unsigned)(base - p->slot) + slot_before(base, k);
}

/* The child that *k belongs to; with `before`, the last one that has keys lower than *k (the first one if none has). */
static inline unsigned page_child(const struct disk_node *p, const struct key *k, bool before)
{
	unsigned i = page_search(p, k);

	if (!before && i < page_nitems(p) && slot_is(&p->slot[i], k))
		return i;
	return i > 0 ? i - 1 : 0;
}

void page_init(struct disk_node *p, unsigned level);
/* There must be room: page_used() + slot + len <= NODE_SPACE.  `val` lies outside the page. */
void page_insert(struct disk_node *p, unsigned i, const struct key *key, const void *val, unsigned len);
void page_delete(struct disk_node *p, unsigned i);
/* Changes the length of value i; keeps its first min(old, new) bytes.  There must be room. */
void page_resize(struct disk_node *p, unsigned i, unsigned len);
void page_set_key(struct disk_node *p, unsigned i, const struct key *key);
/* Appends slots [from, nitems) of `src` to `dst`.  Higher keys than dst's, and there must be room. */
void page_append(struct disk_node *dst, const struct disk_node *src, unsigned from);
/* Forgets slots [from, nitems). */
void page_truncate(struct disk_node *p, unsigned from);
/* Zeroes what is between slots and values. */
void page_clear_gap(struct disk_node *p);
/* Are its keys in [lo, hi)?  (hi NULL: no bound.)  Of a page that is sorted. */
bool page_in_range(const struct disk_node *p, const struct key *lo, const struct key *hi);

/* --- the cache -------------------------------------------------------------------------------- */

static inline struct node **cache_bucket(const struct tree *t, uint64_t addr)
{
	return &t->bucket[(addr * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - t->bucket_bits)];
}

static inline struct node *cache_find(const struct tree *t, uint64_t addr)
{
	struct node *n = *cache_bucket(t, addr);

	while (n && n->addr != addr)
		n = n->hash_next;
	return n;
}

/* A node that was read ahead is wanted.  See cache_use(). */
void cache_ahead_used(struct tree *t, struct node *n);
/* One is evicted that never was. */
void cache_ahead_wasted(struct tree *t);

/* Was a clean node not used recently?  Those that were (within an eighth of the limit) stay where they are. */
static inline bool cache_is_old(const struct tree *t, const struct node *n)
{
	return n->state == NODE_CLEAN && atomic_load_explicit(&t->clock, memory_order_relaxed) -
						 atomic_load_explicit(&n->stamp, memory_order_relaxed) > t->limit / 8;
}

/*
 * Marks a node as used that is old or was read ahead.  Among those who share the volume's lock one at a time does that, and the others leave it:
 * then the node is marked a little later, or evicted a little too early.
 */
void cache_use(struct tree *t, struct node *n);

int cache_create(struct tree *t);
void cache_destroy(struct tree *t);
/* Makes sure that the next n new nodes find memory.  -ENOMEM. */
int cache_reserve(struct tree *t, uint64_t n);
/* A dirty node with an empty page, in the hash table, holding 2 reserved blocks.  Memory comes from cache_reserve(). */
struct node *cache_new(struct tree *t, unsigned level);
/* Makes the node that *ptr names dirty if it is not, and changes *ptr (in a dirty parent, or the root) accordingly. */
struct node *cache_dirty(struct tree *t, struct disk_ptr *ptr);
/* A dirty node goes away. */
void cache_drop(struct tree *t, struct node *n);
/* A dirty node gets its address on disk and joins the frozen ones. */
void cache_freeze(struct tree *t, struct node *n, uint64_t addr);
/* The frozen nodes become clean, or go away if detached. */
void cache_thaw(struct tree *t);

static inline bool ptr_is_temp(const struct disk_ptr *ptr)
{
	return get64(ptr->blkno[0]) & TREE_TEMP;
}

static inline struct disk_ptr ptr_temp(const struct node *n)
{
	return (struct disk_ptr){.blkno[0] = put64(n->addr)};
}

/* --- walking ---------------------------------------------------------------------------------- */

/* Reports a pointer from another level to the node.  -EUCLEAN. */
int tree_wrong_level(struct tree *t, const struct node *n, unsigned level);

/* The node that *ptr names, if it is in memory, for a descent: 0; -ENOENT not in memory; -EUCLEAN. */
static inline int tree_node_get(struct tree *t, const struct disk_ptr *ptr, unsigned level, struct node **out)
{
	struct node *n = cache_find(t, get64(ptr->blkno[0]));

	*out = n;
	if (__builtin_expect(!n, 0))
		return -ENOENT;
	if (__builtin_expect(n->page->level != level, 0))
		return tree_wrong_level(t, n, level);
	if (__builtin_expect(atomic_load_explicit(&n->ahead, memory_order_relaxed) || cache_is_old(t, n), 0))
		cache_use(t, n);
	return 0;
}

/*
 * An operation comes to the same few leaves again and again: it looks, prepares, changes, and the next one goes on beside it.  So descents leave
 * notes of the leaf they came to.  A note may be old, or another key's, and nodes stay where they are in memory, no matter what they are used for; so
 * whether a leaf is right is its own to say (node.ranged).
 *
 * One note is the key's own.  Another is shared by keys that are likely to lie in the same leaf: inode numbers next to each other, names of a
 * directory whose hashes begin alike, extents of a file.
 */
static inline _Atomic(struct node *) *leaf_note(struct tree *t, uint64_t object, uint64_t offset)
{
	uint64_t h = object * UINT64_C(0x9e3779b97f4a7c15) ^ offset * UINT64_C(0xd6e8feb86659fd93);

	return &t->note[(h >> 32) % TREE_NOTES];
}

static inline _Atomic(struct node *) *leaf_note_own(struct tree *t, const struct key *key)
{
	return leaf_note(t, key->object, key->offset);
}

static inline _Atomic(struct node *) *leaf_note_near(struct tree *t, const struct key *key)
{
	return leaf_note(t, key->offset ? key->object : key->object >> 3, ~(key->offset >> 58));
}

static inline void leaf_note_set(_Atomic(struct node *) *note, struct node *n)
{
	if (atomic_load_explicit(note, memory_order_relaxed) != n)
		atomic_store_explicit(note, n, memory_order_relaxed);
}

/* `n` is a leaf.  Those who share the lock write notes, too; the last one stays. */
static inline void leaf_remember(struct tree *t, const struct key *key, struct node *n)
{
	leaf_note_set(leaf_note_own(t, key), n);
	leaf_note_set(leaf_note_near(t, key), n);
}

static inline bool leaf_has(const struct node *n, const struct key *key)
{
	return n && n->ranged && key_cmp(key, &n->lo) >= 0 && (!n->has_hi || key_cmp(key, &n->hi) < 0);
}

/* The leaf that *key belongs to; NULL: not known without a descent. */
static inline struct node *leaf_recall(struct tree *t, const struct key *key)
{
	struct node *n = atomic_load_explicit(leaf_note_own(t, key), memory_order_relaxed);

	if (!leaf_has(n, key)) {
		n = atomic_load_explicit(leaf_note_near(t, key), memory_order_relaxed);
		if (!leaf_has(n, key))
			return NULL;
	}
	if (__builtin_expect(atomic_load_explicit(&n->ahead, memory_order_relaxed) || cache_is_old(t, n), 0))
		cache_use(t, n);
	return n;
}

/* The same for who changes something there; NULL also if that would change more than the leaf, because it is not dirty. */
static inline struct node *leaf_recall_dirty(struct tree *t, const struct key *key)
{
	struct node *n = leaf_recall(t, key);

	return n && n->state == NODE_DIRTY ? n : NULL;
}

/* Fills *miss: the node at `level` on the way to *key (see page_child() for `before`).  -EAGAIN. */
int tree_miss(struct tree *t, const struct key *key, bool before, unsigned level, struct miss *miss);

/* The tree's pointer to what *miss asked for as it is now, its parent (NULL: it is the root) and place there; NULL: the way is not in memory. */
const struct disk_ptr *tree_missed(struct tree *t, const struct miss *miss, struct node **parent, unsigned *index);

/* The path to *key, all of it in memory, is made dirty.  With `lower`, *key is about to be inserted. */
void tree_dirty_path(struct tree *t, const struct key *key, bool lower, struct path *path);

/* A root with one child makes way for it. */
void tree_collapse(struct tree *t);
/* Removes the empty nodes. */
void tree_prune(struct tree *t);

/*
 * Two neighbours are merged if both fit in this; so a merged page always has room for MERGE_SLACK more bytes, which
 * tree_prepare.c counts on.
 */
#define MERGE_MAX   (NODE_SPACE / 4 * 3)
#define MERGE_SLACK (NODE_SPACE - MERGE_MAX)
#define MERGE_BELOW (NODE_SPACE / 3)	/* and only if one has at most this */

#endif
