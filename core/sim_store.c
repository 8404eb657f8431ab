/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_store.c - sparse memory with the versions that a power cut may leave.
 *
 * Always holds:
 *   1. A sector without a struct history is durable as it is; its page, or the absence of one, says what is in it.
 *   2. history.old[0] is the durable version; `seq` grows along old[] and cur_seq is above all of them.
 *   3. A page with more than one reference is never written.
 */
#include "core/sim_store.h"

#include <errno.h>
#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#define PAGE SIM_STORE_PAGE
#define CHUNK_PAGES 512u
#define CHUNK_BYTES ((uint64_t)PAGE * CHUNK_PAGES)
#define MAX_OLD 8u /* versions kept besides the current one */
#define MAX_SPARES 4096u

struct page {
	_Atomic unsigned refs; /* stores that share it */
	unsigned char data[PAGE];
};

struct version {
	uint64_t seq;
	unsigned char *data; /* NULL: zeros */
};

struct history {
	TAILQ_ENTRY(history) link;
	uint64_t sectno;
	uint64_t cur_seq; /* of the version in the page */
	unsigned nold; /* at least 1 */
	struct version old[MAX_OLD];
};

/* A buffer for an old version while it has none; saves a trip to malloc for each write and flush. */
struct spare {
	struct spare *next;
};

/* 2 MiB of the device. */
struct chunk {
	struct page *pages[CHUNK_PAGES];
	struct history **hist; /* by sector within the chunk; NULL until something is volatile */
};

struct sim_store {
	uint64_t size;
	uint32_t sector;
	uint64_t rng;
	uint64_t nchunks;
	struct chunk **chunks; /* NULL where nothing was ever written */
	TAILQ_HEAD(history_list, history) volatiles, idle; /* idle: for the next sectors that become volatile */
	struct spare *spares;
	unsigned nspares;
};

/* splitmix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. */
uint64_t sim_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

/* --- pages --- */

static void page_put(struct page *page)
{
	if (page && atomic_fetch_sub_explicit(&page->refs, 1, memory_order_acq_rel) == 1)
		free(page);
}

static struct page *page_lookup(const struct sim_store *st, uint64_t off)
{
	const struct chunk *chunk = st->chunks[off / CHUNK_BYTES];

	return chunk ? chunk->pages[off % CHUNK_BYTES / PAGE] : NULL;
}

static struct chunk *chunk_get(struct sim_store *st, uint64_t off)
{
	struct chunk **slot = &st->chunks[off / CHUNK_BYTES];

	if (!*slot)
		*slot = calloc(1, sizeof(**slot));
	return *slot;
}

/* The page at `off`, ours alone; NULL when out of memory. */
static struct page *page_own(struct sim_store *st, uint64_t off)
{
	struct chunk *chunk = chunk_get(st, off);

	if (!chunk)
		return NULL;

	struct page **slot = &chunk->pages[off % CHUNK_BYTES / PAGE];
	struct page *old = *slot, *page;

	if (old && atomic_load_explicit(&old->refs, memory_order_acquire) == 1)
		return old;
	page = malloc(sizeof(*page));
	if (!page)
		return NULL;
	atomic_init(&page->refs, 1);
	if (old)
		memcpy(page->data, old->data, PAGE);
	else
		memset(page->data, 0, PAGE);
	*slot = page;
	page_put(old);
	return page;
}

void sim_store_read(struct sim_store *st, uint64_t off, void *buf, uint64_t len)
{
	unsigned char *p = buf;

	while (len) {
		uint64_t in_page = off % PAGE;
		uint64_t n = len < PAGE - in_page ? len : PAGE - in_page;
		const struct page *page = page_lookup(st, off);

		if (page)
			memcpy(p, page->data + in_page, n);
		else
			memset(p, 0, n);
		p += n;
		off += n;
		len -= n;
	}
}

/* --- histories --- */

static struct history **hist_slot(const struct sim_store *st, uint64_t sectno)
{
	struct chunk *chunk = st->chunks[sectno * st->sector / CHUNK_BYTES];

	return chunk && chunk->hist ? &chunk->hist[sectno % (CHUNK_BYTES / st->sector)] : NULL;
}

static struct history *hist_lookup(const struct sim_store *st, uint64_t sectno)
{
	struct history **slot = hist_slot(st, sectno);

	return slot ? *slot : NULL;
}

static struct history *hist_get(struct sim_store *st, uint64_t sectno)
{
	struct chunk *chunk = chunk_get(st, sectno * st->sector);
	struct history *h;

	if (!chunk)
		return NULL;
	if (!chunk->hist)
		chunk->hist = calloc(CHUNK_BYTES / st->sector, sizeof(*chunk->hist));
	if (!chunk->hist)
		return NULL;
	h = *hist_slot(st, sectno);
	if (h)
		return h;
	h = TAILQ_FIRST(&st->idle);
	if (h)
		TAILQ_REMOVE(&st->idle, h, link);
	else
		h = malloc(sizeof(*h));
	if (!h)
		return NULL;
	h->sectno = sectno;
	h->cur_seq = 0;
	h->nold = 0;
	TAILQ_INSERT_TAIL(&st->volatiles, h, link);
	*hist_slot(st, sectno) = h;
	return h;
}

static void *spare_get(struct sim_store *st)
{
	struct spare *s = st->spares;

	if (!s)
		return malloc(st->sector);
	st->spares = s->next;
	st->nspares--;
	return s;
}

static void spare_put(struct sim_store *st, void *data)
{
	struct spare *s = data;

	if (!s || st->nspares == MAX_SPARES) {
		free(s);
		return;
	}
	s->next = st->spares;
	st->spares = s;
	st->nspares++;
}

static void hist_drop(struct sim_store *st, struct history *h)
{
	for (unsigned i = 0; i < h->nold; i++)
		spare_put(st, h->old[i].data);
	TAILQ_REMOVE(&st->volatiles, h, link);
	*hist_slot(st, h->sectno) = NULL;
	TAILQ_INSERT_HEAD(&st->idle, h, link);
}

/*
 * Makes room by forgetting a version in the middle.  Its successor inherits its number: if a flush under
 * way covers the forgotten version, nothing older may come back.  The newest old version stays: the current one
 * must not inherit, it would pass for durable.
 */
static void hist_forget_one(struct sim_store *st, struct history *h)
{
	unsigned i = 1 + (unsigned)(sim_random(&st->rng) % (h->nold - 2));

	spare_put(st, h->old[i].data);
	h->old[i + 1].seq = h->old[i].seq;
	h->nold--;
	memmove(&h->old[i], &h->old[i + 1], (h->nold - i) * sizeof(h->old[0]));
}

/* Saves the current version, which is about to be overwritten, as an old one. */
static int hist_push(struct sim_store *st, uint64_t sectno, uint64_t seq)
{
	const struct page *page = page_lookup(st, sectno * st->sector);
	unsigned char *copy = NULL;
	struct history *h;

	if (page) {
		copy = spare_get(st);
		if (!copy)
			return -ENOMEM;
		memcpy(copy, page->data + sectno * st->sector % PAGE, st->sector);
	}
	h = hist_get(st, sectno);
	if (!h) {
		spare_put(st, copy);
		return -ENOMEM;
	}
	if (h->nold == MAX_OLD)
		hist_forget_one(st, h);
	h->old[h->nold++] = (struct version){.seq = h->cur_seq, .data = copy};
	h->cur_seq = seq;
	return 0;
}

int sim_store_write(struct sim_store *st, uint64_t sectno, const void *data, bool durable, uint64_t seq)
{
	uint64_t off = sectno * st->sector;
	int err = durable ? 0 : hist_push(st, sectno, seq);
	struct page *page = err ? NULL : page_own(st, off);
	struct history *h = durable ? hist_lookup(st, sectno) : NULL;

	/* A version pushed in vain equals the current one: the contents are as they were. */
	if (!page)
		return -ENOMEM;
	if (h)
		hist_drop(st, h);
	if (data)
		memcpy(page->data + off % PAGE, data, st->sector);
	else
		memset(page->data + off % PAGE, 0, st->sector);
	return 0;
}

uint64_t sim_store_hole(struct sim_store *st, uint64_t sectno)
{
	uint64_t off = sectno * st->sector;

	if (!st->chunks[off / CHUNK_BYTES])
		return (CHUNK_BYTES - off % CHUNK_BYTES) / st->sector;
	if (!page_lookup(st, off))
		return (PAGE - off % PAGE) / st->sector;
	return 0;
}

/* The next written page from `off` on, as an offset; `end` or more: none before that. */
static uint64_t next_page(const struct sim_store *st, uint64_t off, uint64_t end)
{
	while (off < end && !page_lookup(st, off))
		off += st->chunks[off / CHUNK_BYTES] ? PAGE : CHUNK_BYTES - off % CHUNK_BYTES;
	return off;
}

uint64_t sim_store_pick(struct sim_store *st, uint64_t off, uint64_t len, uint64_t *state)
{
	uint64_t first = off - off % PAGE, end = off + len, npages = 0, low, high, at, k;

	for (at = next_page(st, first, end); at < end; at = next_page(st, at + PAGE, end))
		npages++;
	if (!npages)
		return UINT64_MAX;
	k = sim_random(state) % npages;
	for (at = next_page(st, first, end); k; k--)
		at = next_page(st, at + PAGE, end);
	low = at > off ? at : off;
	high = at + PAGE < end ? at + PAGE : end;
	return low + sim_random(state) % (high - low);
}

/* Makes old[i] the durable version. */
static void hist_promote(struct sim_store *st, struct history *h, unsigned i)
{
	for (unsigned k = 0; k < i; k++)
		spare_put(st, h->old[k].data);
	h->nold -= i;
	memmove(&h->old[0], &h->old[i], h->nold * sizeof(h->old[0]));
}

void sim_store_commit(struct sim_store *st, uint64_t upto)
{
	struct history *h, *next;

	for (h = TAILQ_FIRST(&st->volatiles); h; h = next) {
		unsigned i = h->nold - 1;

		next = TAILQ_NEXT(h, link);
		if (h->cur_seq <= upto) {
			hist_drop(st, h);
			continue;
		}
		while (i && h->old[i].seq > upto)
			i--;
		hist_promote(st, h, i);
	}
}

/* How the cut treats what is volatile; the extremes are rare among independent choices, so they are ways too. */
enum settle_way {
	ALL_LOST,
	ALL_KEPT,
	ANY_VERSION,
	OLD_OR_NEW,
	MOSTLY_OLD,
	MOSTLY_NEW,
	UP_TO_A_MOMENT,
	UP_TO_A_SECTOR, /* of the write at that moment: torn in the middle, as by a device that writes front to back */
	NWAYS
};

/* The index of the newest version up to write number `moment`. */
static unsigned pick_until(const struct history *h, uint64_t moment)
{
	unsigned i = 0;

	if (h->cur_seq <= moment)
		return h->nold;
	while (i + 1 < h->nold && h->old[i + 1].seq <= moment)
		i++;
	return i;
}

struct settle {
	enum settle_way way;
	uint64_t moment; /* number of a write */
	uint64_t edge; /* sectors below this have that write, too */
};

/* The index of the surviving version; nold stands for the current one. */
static unsigned pick(const struct history *h, const struct settle *s, uint64_t random)
{
	unsigned any = (unsigned)((random >> 8) % (h->nold + 1));

	switch (s->way) {
	case ALL_LOST:
		return 0;
	case ALL_KEPT:
		return h->nold;
	case OLD_OR_NEW:
		return random & 1 ? h->nold : 0;
	case MOSTLY_OLD:
		return random & 7 ? 0 : any;
	case MOSTLY_NEW:
		return random & 7 ? h->nold : any;
	case UP_TO_A_MOMENT:
		return pick_until(h, s->moment);
	case UP_TO_A_SECTOR:
		return pick_until(h, h->sectno < s->edge || !s->moment ? s->moment : s->moment - 1);
	default:
		return any;
	}
}

static void settle_sector(struct sim_store *st, struct history *h, unsigned i)
{
	uint64_t off = h->sectno * st->sector;
	struct page *page = i < h->nold ? page_own(st, off) : NULL;

	/* Out of memory keeps the current version, which is one of those that may survive. */
	if (page && h->old[i].data)
		memcpy(page->data + off % PAGE, h->old[i].data, st->sector);
	else if (page)
		memset(page->data + off % PAGE, 0, st->sector);
	hist_drop(st, h);
}

static uint64_t version_seq(const struct history *h, unsigned i)
{
	return i < h->nold ? h->old[i].seq : h->cur_seq;
}

/* A moment between the first and the last of the writes that are volatile, one before them included. */
static uint64_t random_moment(struct sim_store *st, uint64_t *state)
{
	uint64_t low = UINT64_MAX, high = 0;
	struct history *h;

	TAILQ_FOREACH(h, &st->volatiles, link)
	{
		uint64_t first = version_seq(h, 1);

		low = first < low ? first : low;
		high = h->cur_seq > high ? h->cur_seq : high;
	}
	return high ? low - 1 + sim_random(state) % (high - low + 2) : 0;
}

/* The sectors that write number `seq` still has a version of: from *first on; returns up to where. */
static uint64_t write_range(struct sim_store *st, uint64_t seq, uint64_t *first)
{
	uint64_t end = 0;
	struct history *h;

	*first = UINT64_MAX;
	TAILQ_FOREACH(h, &st->volatiles, link)
	{
		if (version_seq(h, pick_until(h, seq)) != seq)
			continue;
		*first = h->sectno < *first ? h->sectno : *first;
		end = h->sectno >= end ? h->sectno + 1 : end;
	}
	*first = end ? *first : 0;
	return end;
}

static void settle_all(struct sim_store *st, const struct settle *s, uint64_t state)
{
	struct history *h;

	while ((h = TAILQ_FIRST(&st->volatiles))) {
		/* By the sector's number, not the list's order: a sector's fate is its own. */
		uint64_t own = state ^ (h->sectno * 0xd1342543de82ef95);

		settle_sector(st, h, pick(h, s, sim_random(&own)));
	}
}

void sim_store_settle(struct sim_store *st, uint64_t seed)
{
	uint64_t state = seed, first, end;
	struct settle s = {.way = (enum settle_way)(sim_random(&state) % NWAYS)};

	s.moment = random_moment(st, &state);
	end = write_range(st, s.moment, &first);
	s.edge = end > first ? first + sim_random(&state) % (end - first) : 0;
	settle_all(st, &s, state);
}

uint64_t sim_store_settle_torn(struct sim_store *st, uint64_t n)
{
	struct settle s = {.way = UP_TO_A_SECTOR};
	struct history *h;
	uint64_t first, end;

	TAILQ_FOREACH(h, &st->volatiles, link)
	s.moment = h->cur_seq > s.moment ? h->cur_seq : s.moment;
	end = write_range(st, s.moment, &first);
	s.edge = n < end - first ? first + n : end;
	settle_all(st, &s, 0);
	return end - first;
}

/* --- behind the back --- */

/* Where byte `off` is in version i of its sector (nold: the current one); NULL where that is all zeros. */
static unsigned char *locate(const struct sim_store *st, uint64_t off, const struct history *h, unsigned i)
{
	if (h && i < h->nold)
		return h->old[i].data ? h->old[i].data + off % st->sector : NULL;
	return page_lookup(st, off)->data + off % PAGE;
}

/* Applies `data` (or, if NULL, the mask `flip` to one byte) to a part of one sector, in all versions. */
static void change(struct sim_store *st, uint64_t off, const void *data, uint64_t len, unsigned char flip)
{
	struct history *h = hist_lookup(st, off / st->sector);
	struct page *page = page_own(st, off);

	assert(page);
	for (unsigned i = 0; i <= (h ? h->nold : 0); i++) {
		if (h && i < h->nold && !h->old[i].data) {
			h->old[i].data = calloc(1, st->sector);
			assert(h->old[i].data);
		}

		unsigned char *p = locate(st, off, h, i);

		if (data)
			memcpy(p, data, len);
		else
			*p ^= flip;
	}
}

void sim_store_flip(struct sim_store *st, uint64_t byte, unsigned bit)
{
	change(st, byte, NULL, 1, (unsigned char)(1u << bit));
}

void sim_store_poke(struct sim_store *st, uint64_t off, const void *buf, uint64_t len)
{
	const unsigned char *p = buf;

	while (len) {
		uint64_t room = st->sector - off % st->sector;
		uint64_t n = len < room ? len : room;

		change(st, off, p, n, 0);
		p += n;
		off += n;
		len -= n;
	}
}

/* --- the whole --- */

int sim_store_create(uint64_t size, uint32_t sector, uint64_t seed, struct sim_store **out)
{
	struct sim_store *st = calloc(1, sizeof(*st));

	if (!st)
		return -ENOMEM;
	st->size = size;
	st->sector = sector;
	st->rng = seed;
	st->nchunks = (size + CHUNK_BYTES - 1) / CHUNK_BYTES;
	TAILQ_INIT(&st->volatiles);
	TAILQ_INIT(&st->idle);
	st->chunks = calloc(st->nchunks, sizeof(struct chunk *));
	if (!st->chunks) {
		free(st);
		return -ENOMEM;
	}
	*out = st;
	return 0;
}

static int chunk_clone(const struct chunk *chunk, struct chunk **out)
{
	struct chunk *copy = calloc(1, sizeof(*copy));

	if (!copy)
		return -ENOMEM;
	for (unsigned i = 0; i < CHUNK_PAGES; i++) {
		copy->pages[i] = chunk->pages[i];
		if (copy->pages[i])
			atomic_fetch_add_explicit(&copy->pages[i]->refs, 1, memory_order_relaxed);
	}
	*out = copy;
	return 0;
}

int sim_store_clone(struct sim_store *st, uint64_t seed, struct sim_store **out)
{
	struct sim_store *copy = NULL;
	int err = sim_store_create(st->size, st->sector, seed, &copy);

	for (uint64_t i = 0; !err && i < st->nchunks; i++)
		if (st->chunks[i])
			err = chunk_clone(st->chunks[i], &copy->chunks[i]);
	if (err)
		sim_store_free(copy);
	else
		*out = copy;
	return err;
}

static void free_idle(struct sim_store *st)
{
	struct history *h;
	struct spare *s;

	while ((h = TAILQ_FIRST(&st->idle))) {
		TAILQ_REMOVE(&st->idle, h, link);
		free(h);
	}
	while ((s = st->spares)) {
		st->spares = s->next;
		free(s);
	}
}

void sim_store_free(struct sim_store *st)
{
	if (!st)
		return;
	while (!TAILQ_EMPTY(&st->volatiles))
		hist_drop(st, TAILQ_FIRST(&st->volatiles));
	free_idle(st);
	for (uint64_t i = 0; i < st->nchunks; i++) {
		if (!st->chunks[i])
			continue;
		for (unsigned k = 0; k < CHUNK_PAGES; k++)
			page_put(st->chunks[i]->pages[k]);
		free(st->chunks[i]->hist);
		free(st->chunks[i]);
	}
	free(st->chunks);
	free(st);
}
