/* SPDX-License-Identifier: Apache-2.0 */
/* model.c - versions of inodes, history and hashes: see model.h. */
#include "tests/sim/model.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* --- memory ------------------------------------------------------------------------------------ */

/* A harness without memory has nothing to say. */
static void *need(void *p)
{
	if (!p)
		abort();
	return p;
}

static void *grow(void *array, unsigned n, unsigned *cap, size_t size)
{
	if (n < *cap)
		return array;
	*cap = *cap ? 2 * *cap : 64;
	return need(reallocarray(array, *cap, size));
}

/* --- hashes ------------------------------------------------------------------------------------ */

#define PRIME_A UINT64_C(0x9e3779b97f4a7c15)
#define PRIME_B UINT64_C(0xc2b2ae3d27d4eb4f)

static uint64_t fold(uint64_t x)
{
	x ^= x >> 32;
	x *= UINT64_C(0xd6e8feb86659fd93);
	return x ^ x >> 32;
}

uint64_t hash_mix(uint64_t a, uint64_t b)
{
	return fold(a * PRIME_A + fold(b ^ PRIME_B));
}

static uint64_t load64(const uint8_t *p)
{
	uint64_t x;

	memcpy(&x, p, sizeof(x));
	return x;
}

static uint64_t rotate(uint64_t x, unsigned n)
{
	return x << n | x >> (64 - n);
}

/* Four lanes, so that a page takes a fraction of a microsecond. */
uint64_t hash_bytes(uint64_t seed, const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t lane[4] = {seed ^ PRIME_A, seed + PRIME_B, ~seed, seed * PRIME_A + len};

	for (; len >= 32; p += 32, len -= 32)
		for (unsigned i = 0; i < 4; i++)
			lane[i] = rotate((lane[i] ^ load64(p + 8 * i)) * PRIME_A, 29);
	uint64_t h = hash_mix(hash_mix(lane[0], lane[1]), hash_mix(lane[2], lane[3]));
	for (; len; p++, len--)
		h = (h ^ *p) * PRIME_B + 1;
	return fold(h);
}

struct blob *blob_new(const void *data, size_t len)
{
	struct blob *b = need(malloc(sizeof(*b) + len + 1));

	b->refs = 1;
	b->len = (uint32_t)len;
	if (len)
		memcpy(b->data, data, len);
	b->data[len] = 0;
	b->hash = hash_bytes(1, data, len);
	return b;
}

void blob_put(struct blob *b)
{
	if (b && --b->refs == 0)
		free(b);
}

uint64_t mblock_hash(const struct mblock *b)
{
	return b->page ? hash_mix(b->block + 1, b->page->hash) : 0;
}

uint64_t mentry_hash(const void *name, size_t len, uint64_t ino, uint32_t type)
{
	return hash_mix(hash_bytes(2, name, len), hash_mix(ino, type));
}

uint64_t mxattr_hash(const struct mxattr *x)
{
	return hash_mix(hash_bytes(3, x->name->data, x->name->len), x->value->hash);
}

static uint64_t hash_time(uint64_t h, const struct timespec *t)
{
	return hash_mix(hash_mix(h, (uint64_t)t->tv_sec), (uint64_t)t->tv_nsec);
}

uint64_t minode_hash(const struct minode *i)
{
	uint64_t h = hash_mix(i->ino, i->mode);

	h = hash_mix(h, (uint64_t)i->nlink << 32 | i->uid);
	h = hash_mix(h, i->gid);
	h = hash_mix(h, i->rdev);
	h = hash_mix(h, i->size);
	h = hash_mix(h, i->flags);
	h = hash_time(h, i->lazy ? &i->stored_atime : &i->atime);
	h = hash_time(h, &i->mtime);
	h = hash_time(h, &i->ctime);
	h = hash_time(h, &i->btime);
	if (S_ISDIR(i->mode))
		h = hash_mix(h, i->parent);
	if (i->target)
		h = hash_mix(h, i->target->hash);
	return hash_mix(h, i->sum);
}

/* --- vectors ----------------------------------------------------------------------------------- */

/* What an element refers to, once more or once less. */
static void element_ref(const struct minode *i, const struct mvec *v, unsigned at, int by)
{
	struct blob *ref[2] = {NULL, NULL};

	if (v == i->blocks) {
		ref[0] = v->block[at].page;
	} else if (v == i->entries) {
		ref[0] = v->entry[at].name;
	} else {
		ref[0] = v->xattr[at].name;
		ref[1] = v->xattr[at].value;
	}
	for (unsigned k = 0; k < 2; k++) {
		if (ref[k] && by > 0)
			ref[k]->refs++;
		else if (ref[k])
			blob_put(ref[k]);
	}
}

struct mvec *mvec_own(struct mvec **v, size_t size)
{
	if (!*v)
		*v = need(calloc(1, sizeof(**v)));
	(*v)->any = grow((*v)->any, (*v)->n, &(*v)->cap, size);
	return *v;
}

void mvec_remove(struct mvec *v, unsigned at, size_t size)
{
	char *p = (char *)v->any + at * size;

	v->n--;
	memmove(p, p + size, (v->n - at) * size);
}

void *mvec_insert(struct mvec *v, unsigned at, size_t size)
{
	v->any = grow(v->any, v->n, &v->cap, size);
	char *p = (char *)v->any + at * size;

	memmove(p + size, p, (v->n - at) * size);
	v->n++;
	return p;
}

static void mvec_put(const struct minode *i, struct mvec *v)
{
	if (!v)
		return;
	for (unsigned at = 0; at < v->n; at++)
		element_ref(i, v, at, -1);
	free(v->any);
	free(v);
}

/* A vector of a new version: its own copy, since most changes of a version change it. */
static struct mvec *mvec_copy(const struct minode *i, const struct mvec *v, size_t size)
{
	if (!v)
		return NULL;
	struct mvec *copy = need(calloc(1, sizeof(*copy)));

	copy->n = v->n;
	copy->cap = v->n + 4;
	copy->any = need(malloc(copy->cap * size));
	memcpy(copy->any, v->any, v->n * size);
	for (unsigned at = 0; at < v->n; at++)
		element_ref(i, v, at, 1);
	return copy;
}

/* --- versions ---------------------------------------------------------------------------------- */

static void minode_put(struct minode *i)
{
	if (!i || --i->refs)
		return;
	mvec_put(i, i->blocks);
	mvec_put(i, i->entries);
	mvec_put(i, i->xattrs);
	blob_put(i->target);
	free(i);
}

static struct minode *minode_copy(const struct minode *i)
{
	struct minode *copy = need(malloc(sizeof(*copy)));

	*copy = *i;
	copy->refs = 1;
	copy->blocks = mvec_copy(i, i->blocks, sizeof(struct mblock));
	copy->entries = mvec_copy(i, i->entries, sizeof(struct mentry));
	copy->xattrs = mvec_copy(i, i->xattrs, sizeof(struct mxattr));
	if (copy->target)
		copy->target->refs++;
	return copy;
}

struct minode *model_get(const struct model *m, uint64_t ino)
{
	return ino < m->ntab ? m->tab[ino] : NULL;
}

static void tab_set(struct model *m, uint64_t ino, struct minode *i)
{
	while (ino >= m->ntab) {
		unsigned n = m->ntab ? 2 * m->ntab : 256;

		m->tab = need(reallocarray(m->tab, n, sizeof(struct minode *)));
		memset(m->tab + m->ntab, 0, (n - m->ntab) * sizeof(struct minode *));
		m->ntab = n;
	}
	m->tab[ino] = i;
}

static void undo_push(struct model *m, uint64_t ino, struct minode *old)
{
	m->undo = grow(m->undo, m->nundo, &m->cap_undo, sizeof(*m->undo));
	m->undo[m->nundo++] = (struct mundo){ino, old};
}

static unsigned blocks_of(const struct minode *i)
{
	return i && i->blocks ? i->blocks->n : 0;
}

/* An inode's part of the model's sums: to be taken away before it changes, and added after. */
static void account(struct model *m, const struct minode *i, int by)
{
	if (!i)
		return;
	if (i->nlink)
		m->hash += by > 0 ? i->hash : -i->hash;
	m->nblocks += by > 0 ? blocks_of(i) : -(uint64_t)blocks_of(i);
}

/* In this change already? */
static bool is_edited(const struct model *m, uint64_t ino)
{
	for (unsigned k = m->open_undo; k < m->nundo; k++) {
		if (m->undo[k].ino == ino)
			return true;
	}
	return false;
}

struct minode *model_edit(struct model *m, uint64_t ino)
{
	struct minode *old = model_get(m, ino);

	assert(old);
	if (is_edited(m, ino))
		return old;
	account(m, old, -1);
	undo_push(m, ino, old);
	m->tab[ino] = minode_copy(old);
	return m->tab[ino];
}

struct minode *model_add(struct model *m, uint64_t ino)
{
	struct minode *i = need(calloc(1, sizeof(*i)));

	assert(!model_get(m, ino));
	undo_push(m, ino, NULL);
	i->refs = 1;
	i->ino = ino;
	i->label = m->label;
	tab_set(m, ino, i);
	if (ino >= m->next_ino)
		m->next_ino = ino + 1;
	return i;
}

void model_del(struct model *m, uint64_t ino)
{
	account(m, m->tab[ino], -1);
	undo_push(m, ino, m->tab[ino]);
	m->tab[ino] = NULL;
}

void model_commit(struct model *m)
{
	for (unsigned k = m->open_undo; k < m->nundo; k++) {
		struct minode *i = m->tab[m->undo[k].ino];

		if (!i)
			continue;
		i->hash = minode_hash(i);
		account(m, i, 1);
	}
	m->nrec++;
	m->rec = grow(m->rec, m->nrec, &m->cap_rec, sizeof(*m->rec));
	m->rec[m->nrec] = (struct mrec){.hash = m->hash, .next_ino = m->next_ino, .undo = m->nundo, .label = m->label, .now = m->now};
	m->open_undo = m->nundo;
}

void minode_touch(struct model *m, struct minode *i, bool data)
{
	i->changed = m->nrec + 1;
	/* Every change stores all of it. */
	i->lazy = false;
	if (data)
		i->changed_data = m->nrec + 1;
}

/* --- history ----------------------------------------------------------------------------------- */

static void history_begin(struct model *m)
{
	for (unsigned k = 0; k < m->nundo; k++)
		minode_put(m->undo[k].old);
	m->nundo = m->open_undo = 0;
	m->nrec = 0;
	m->rec = grow(m->rec, 0, &m->cap_rec, sizeof(*m->rec));
	m->rec[0] = (struct mrec){.hash = m->hash, .next_ino = m->next_ino};
}

void model_rollback(struct model *m, unsigned n)
{
	assert(n <= m->nrec && m->open_undo == m->nundo);
	while (m->nundo > m->rec[n].undo) {
		struct mundo *u = &m->undo[--m->nundo];
		struct minode *i = m->tab[u->ino];

		account(m, i, -1);
		minode_put(i);
		m->tab[u->ino] = u->old;
		account(m, u->old, 1);
	}
	m->open_undo = m->nundo;
	m->nrec = n;
	m->next_ino = m->rec[n].next_ino;
	assert(m->hash == m->rec[n].hash);
}

void model_rebase(struct model *m)
{
	for (uint64_t ino = 0; ino < m->ntab; ino++) {
		struct minode *i = m->tab[ino];

		if (i && !i->nlink) {
			account(m, i, -1);
			minode_put(i);
			m->tab[ino] = NULL;
		} else if (i) {
			i->changed = i->changed_data = 0;
			if (i->lazy)
				i->atime = i->stored_atime;
			i->lazy = false;
		}
	}
	history_begin(m);
}

/* --- life -------------------------------------------------------------------------------------- */

struct model *model_new(uint32_t root_mode, const struct timespec *now)
{
	struct model *m = need(calloc(1, sizeof(*m)));

	m->next_ino = MODEL_ROOT;
	history_begin(m);
	struct minode *root = model_add(m, MODEL_ROOT);
	root->mode = S_IFDIR | root_mode;
	root->nlink = 2;
	root->parent = MODEL_ROOT;
	root->atime = root->mtime = root->ctime = root->btime = *now;
	model_commit(m);
	history_begin(m);
	return m;
}

struct model *model_clone(const struct model *m)
{
	struct model *copy = need(calloc(1, sizeof(*copy)));

	for (uint64_t ino = 0; ino < m->ntab; ino++) {
		struct minode *i = m->tab[ino];

		if (!i)
			continue;
		i->refs++;
		tab_set(copy, ino, i);
		account(copy, i, 1);
	}
	copy->next_ino = m->next_ino;
	history_begin(copy);
	return copy;
}

void model_free(struct model *m)
{
	history_begin(m);
	for (uint64_t ino = 0; ino < m->ntab; ino++)
		minode_put(m->tab[ino]);
	free(m->tab);
	free(m->rec);
	free(m->undo);
	free(m);
}
