/* SPDX-License-Identifier: Apache-2.0 */
/*
 * walk.c - visits every node of the tree in key order and looks at both copies of each.
 *
 * No recursion: a stack of at most MAX_LEVEL + 1 sets of siblings, each set read at once.  It ends on any input: levels fall strictly
 * on the way down, and no block is descended into twice.
 *
 * A repair walks leniently (check.lenient): a leaf whose page is whole is handed out although an item in it is wrong, and
 * a node counts as visited only when it was good, so that a wrong parent in front does not hide it from the right one.
 */
#include "fsck/check_impl.h"

#include <stdlib.h>
#include <string.h>

#define FANOUT (NODE_SPACE / (unsigned)(sizeof(struct disk_slot) + sizeof(struct disk_ptr)))

/* A node that a parent names: where, and which keys belong below it. */
struct child {
	struct disk_ptr ptr;
	struct key lo, hi;
	bool has_hi;
	bool skip;		/* has been visited through another parent */
	int err[2];		/* of reading its copies */
};

struct siblings {
	unsigned level, n, next;
	struct child child[FANOUT];
	uint8_t *blocks;	/* 2 * FANOUT: copies 0 and 1 of child 0, of child 1, ... */
};

struct walk {
	struct check *c;
	struct siblings *stack[MAX_LEVEL + 1];
	unsigned depth;
	const struct disk_node *leaf;	/* found by the last step */
	const struct child *leaf_child;
};

struct copy_read {
	struct dev_io io;
	int *err;
	unsigned *pending;
};

static void *child_block(const struct siblings *s, unsigned i, unsigned copy)
{
	return s->blocks + (2 * (size_t)i + copy) * BLOCK_SIZE;
}

/* --- reading ----------------------------------------------------------------------------------- */

static void copy_done(struct dev_io *io, int err)
{
	struct copy_read *r = (struct copy_read *)io;

	*r->err = err;
	--*r->pending;
}

static int siblings_read(struct check *c, struct siblings *s)
{
	struct copy_read *reads = calloc(2 * (size_t)s->n, sizeof(*reads));
	unsigned pending = 0;

	if (!reads)
		return -ENOMEM;
	for (unsigned i = 0; i < 2 * s->n; i++) {
		struct child *ch = &s->child[i / 2];
		uint64_t blkno = get64(ch->ptr.blkno[i % 2]);

		if (ch->skip)
			continue;
		pending++;
		dev_io_rw(&reads[i].io, DEV_READ, 0, blkno * BLOCK_SIZE, child_block(s, i / 2, i % 2), BLOCK_SIZE, copy_done);
		reads[i].err = &ch->err[i % 2];
		reads[i].pending = &pending;
		dev_submit(c->q, &reads[i].io);
	}
	while (pending)
		dev_poll(c->q, -1);
	free(reads);
	return 0;
}

/* Has the node been visited through another parent? */
static bool child_is_known(struct check *c, const struct child *ch, unsigned level)
{
	for (unsigned i = 0; i < 2; i++) {
		uint64_t blkno = get64(ch->ptr.blkno[i]);

		if (!blockset_has(&c->nodes, blkno))
			continue;
		found(c, FSCK_NODE_SHARED, AT_BLOCK(blkno), "node of level %u at block %llu: another parent names it too", level,
		      (unsigned long long)blkno);
		return true;
	}
	return false;
}

static int child_visit(struct check *c, const struct child *ch)
{
	uint64_t ndup, first;
	int err = 0;

	for (unsigned i = 0; !err && i < 2; i++)
		err = blockset_add(&c->nodes, get64(ch->ptr.blkno[i]), 1, &ndup, &first);
	return err;
}

/* Marks the node's blocks.  One that is another node's already is not visited again. */
static int child_claim(struct check *c, struct child *ch, unsigned level)
{
	int err = 0;

	if (!c->lenient) {
		ch->skip = child_is_known(c, ch, level);
		if (ch->skip)
			return 0;
		err = child_visit(c, ch);
	}
	for (unsigned i = 0; !err && i < 2; i++) {
		uint64_t blkno = get64(ch->ptr.blkno[i]);

		err = check_use(c, blkno, 1, AT_BLOCK(blkno), "a tree node");
	}
	return err;
}

static int siblings_claim_and_read(struct check *c, struct siblings *s)
{
	int err = 0;

	for (unsigned i = 0; !err && i < s->n; i++)
		err = child_claim(c, &s->child[i], s->level);
	return err ? err : siblings_read(c, s);
}

/* --- one node ---------------------------------------------------------------------------------- */

static bool copy_ok(struct check *c, const struct siblings *s, unsigned i, unsigned copy, struct catcher *k)
{
	const struct child *ch = &s->child[i];
	uint64_t blkno = get64(ch->ptr.blkno[copy]);

	catcher_init(k);
	if (ch->err[copy]) {
		diag(&k->diag, DIAG_ERR, "node at block %llu: %s", (unsigned long long)blkno, strerror(-ch->err[copy]));
		return false;
	}
	return node_check(child_block(s, i, copy), &c->sb, &ch->ptr, blkno, s->level, &ch->lo, ch->has_hi ? &ch->hi : NULL,
			  &k->diag) == 0;
}

static int range_lost(struct check *c, const struct child *ch, unsigned level)
{
	c->lost_nodes++;
	c->gap = true;
	if (!c->lost)
		return 0;
	struct lost_range *r = list_add(c->lost, sizeof(*r));

	if (!r)
		return -ENOMEM;
	*r = (struct lost_range){ch->lo, ch->hi, get64(ch->ptr.generation), ch->has_hi, (uint8_t)level};
	return 0;
}

static void node_lost(struct check *c, const struct child *ch, unsigned level, const char *why)
{
	uint64_t blkno = get64(ch->ptr.blkno[0]);

	if (ch->has_hi)
		found(c, FSCK_NODE_LOST, AT_BLOCK(blkno),
		      "node of level %u at block %llu: both copies are bad: %s; inodes %llu to %llu cannot be checked", level,
		      (unsigned long long)blkno, why, (unsigned long long)ch->lo.object, (unsigned long long)ch->hi.object);
	else
		found(c, FSCK_NODE_LOST, AT_BLOCK(blkno),
		      "node of level %u at block %llu: both copies are bad: %s; inodes from %llu on cannot be checked", level,
		      (unsigned long long)blkno, why, (unsigned long long)ch->lo.object);
}

/* A copy of a leaf whose page is whole, whatever its items are; NULL if there is none. */
static const struct disk_node *child_pick_form(struct check *c, const struct siblings *s, unsigned i)
{
	const struct child *ch = &s->child[i];

	for (unsigned copy = 0; copy < 2 && s->level == 0; copy++) {
		uint64_t blkno = get64(ch->ptr.blkno[copy]);

		if (!ch->err[copy] && !node_check_form(child_block(s, i, copy), &c->sb, &ch->ptr, blkno, 0, NULL))
			return child_block(s, i, copy);
	}
	return NULL;
}

/* Reports a copy that is bad while the other is good, and mends it if that is wanted. */
static int child_copy_bad(struct check *c, const struct siblings *s, unsigned i, unsigned copy, const struct catcher *k)
{
	const struct disk_ptr *ptr = &s->child[i].ptr;
	uint64_t blkno = get64(ptr->blkno[copy]);

	found(c, FSCK_NODE_COPY, AT_BLOCK(blkno), "node of level %u at block %llu: %s; the other copy, at block %llu, is good",
	      s->level, (unsigned long long)blkno, catcher_reason(k), (unsigned long long)get64(ptr->blkno[!copy]));
	return check_heal(c, FSCK_NODE_COPY, blkno, child_block(s, i, !copy));
}

/* A good copy of child `i`; NULL if there is none, which has been reported then. */
static int child_pick(struct check *c, const struct siblings *s, unsigned i, const struct disk_node **out)
{
	const struct child *ch = &s->child[i];
	struct catcher k[2];
	bool ok[2];
	int err = 0;

	*out = NULL;
	if (ch->skip || (c->lenient && child_is_known(c, ch, s->level)))
		return range_lost(c, ch, s->level);
	for (unsigned copy = 0; copy < 2; copy++)
		ok[copy] = copy_ok(c, s, i, copy, &k[copy]);
	if (ok[0] || ok[1])
		*out = child_block(s, i, ok[0] ? 0 : 1);
	else if (c->lenient)
		*out = child_pick_form(c, s, i);
	if (!*out) {
		node_lost(c, ch, s->level, catcher_reason(&k[0]));
		return range_lost(c, ch, s->level);
	}
	for (unsigned copy = 0; !err && ok[0] != ok[1] && copy < 2; copy++)
		if (!ok[copy])
			err = child_copy_bad(c, s, i, copy, &k[copy]);
	return !err && c->lenient ? child_visit(c, ch) : err;
}

/* --- the stack --------------------------------------------------------------------------------- */

static struct siblings *walk_push(struct walk *w, unsigned level)
{
	struct siblings **s = &w->stack[w->depth];

	assert(w->depth <= MAX_LEVEL);
	if (!*s) {
		*s = calloc(1, sizeof(**s));
		if (!*s)
			return NULL;
		(*s)->blocks = dev_alloc(2 * (uint64_t)FANOUT * BLOCK_SIZE, false);
		if (!(*s)->blocks)
			return NULL;	/* walk_free() has the rest */
	}
	w->depth++;
	(*s)->level = level;
	(*s)->n = (*s)->next = 0;
	return *s;
}

/* The children of an inner node that has been verified. */
static int walk_down(struct walk *w, const struct disk_node *n, const struct child *parent)
{
	struct siblings *s = walk_push(w, n->level - 1u);

	if (!s)
		return -ENOMEM;
	/* 56 bytes a child at least, so a node that passed has no more than FANOUT. */
	s->n = get16(n->nitems);
	assert(s->n <= FANOUT);
	for (unsigned i = 0; i < s->n; i++) {
		struct child *ch = &s->child[i];
		bool last = i + 1 == s->n;

		*ch = (struct child){.lo = slot_key(&n->slot[i])};
		memcpy(&ch->ptr, (const uint8_t *)n + get16(n->slot[i].pos), sizeof(ch->ptr));
		ch->has_hi = !last || parent->has_hi;
		ch->hi = last ? parent->hi : slot_key(&n->slot[i + 1]);
	}
	return siblings_claim_and_read(w->c, s);
}

static int walk_begin(struct walk *w)
{
	const struct disk_root *root = w->c->root;

	if (get64(root->tree.blkno[0]) == 0)
		return 0;
	struct siblings *s = walk_push(w, root->tree_level);

	if (!s)
		return -ENOMEM;
	s->n = 1;
	s->child[0] = (struct child){.ptr = root->tree};
	return siblings_claim_and_read(w->c, s);
}

static int walk_step(struct walk *w)
{
	struct siblings *s = w->stack[w->depth - 1];
	const struct disk_node *n;

	if (s->next == s->n) {
		w->depth--;
		return 0;
	}
	unsigned i = s->next++;
	int err = child_pick(w->c, s, i, &n);

	if (err || !n)
		return err;
	if (s->level)
		return walk_down(w, n, &s->child[i]);
	w->leaf = n;
	w->leaf_child = &s->child[i];
	return 0;
}

int walk_open(struct check *c, struct walk **out)
{
	struct walk *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->c = c;
	int err = walk_begin(w);

	if (err)
		walk_close(w);
	else
		*out = w;
	return err;
}

void walk_close(struct walk *w)
{
	for (unsigned i = 0; w && i <= MAX_LEVEL; i++) {
		if (!w->stack[i])
			continue;
		free(w->stack[i]->blocks);
		free(w->stack[i]);
	}
	free(w);
}

int walk_next(struct walk *w, struct walk_leaf *out)
{
	w->leaf = NULL;
	while (w->depth && !w->leaf) {
		int err = walk_step(w);

		if (err)
			return err;
	}
	if (!w->leaf)
		return -ENOENT;
	*out = (struct walk_leaf){w->leaf, w->leaf_child->lo, w->leaf_child->hi, w->leaf_child->has_hi};
	return 0;
}

static int walk_all(struct check *c)
{
	uint64_t total = c->sb.nblocks - get64(c->root->nfree);
	struct walk_leaf leaf;
	struct walk *w;
	int err = walk_open(c, &w);

	if (err)
		return err;
	while (!(err = walk_next(w, &leaf))) {
		err = items_leaf(c, leaf.node);
		if (!err)
			err = check_tick(c, 1, c->nused, total);
		if (err)
			break;
	}
	walk_close(w);
	return err == -ENOENT ? 0 : err;
}

int check_tree(struct check *c)
{
	int err = items_begin(c);

	if (!err && c->opts->data)
		err = data_begin(c);
	if (!err)
		err = walk_all(c);
	if (!err)
		err = items_end(c);
	if (!err && c->opts->data)
		err = data_end(c);
	return err;
}
