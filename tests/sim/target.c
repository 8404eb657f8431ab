/* SPDX-License-Identifier: Apache-2.0 */
/*
 * target.c - what an operation is about.
 *
 * Each candidate draws a number from its own label and the operation's random number, and the lowest wins.  So leaving out an
 * operation that made another candidate seldom changes who wins: plans can be shortened.
 */
#include "tests/sim/sim.h"

#include <string.h>

struct race {
	uint64_t random, best;
	struct target winner;
	bool any;
};

static bool has_flags(const struct sim *s, uint64_t ino)
{
	const struct minode *i = model_get(s->model, ino);

	return i && i->flags;
}

static bool is_wanted(uint32_t mode, enum pick what)
{
	switch (what) {
	case PICK_FILE:
		return S_ISREG(mode);
	case PICK_DIR:
		return S_ISDIR(mode);
	case PICK_LINK:
		return S_ISLNK(mode);
	case PICK_NODIR:
		return !S_ISDIR(mode);
	default:
		return true;
	}
}

static bool race_run(struct race *r, uint64_t label)
{
	uint64_t score = hash_mix(r->random, label);

	if (r->any && score >= r->best)
		return false;
	r->any = true;
	r->best = score;
	return true;
}

static void race_entries(struct sim *s, struct race *r, enum pick what)
{
	const struct model *m = s->model;

	for (uint64_t ino = 0; ino < m->ntab; ino++) {
		const struct minode *dir = m->tab[ino];

		if (!dir || !dir->entries)
			continue;
		for (unsigned k = 0; k < dir->entries->n; k++) {
			const struct mentry *e = &dir->entries->entry[k];

			if (!is_wanted(e->type, what) || (what == PICK_FLAGGED && !has_flags(s, e->ino)) || !race_run(r, hash_mix(dir->label, e->name->hash)))
				continue;
			r->winner = (struct target){.ino = e->ino, .dir = ino, .len = e->name->len};
			memcpy(r->winner.name, e->name->data, e->name->len);
		}
	}
}

static void race_held(struct sim *s, struct race *r, enum pick what)
{
	for (unsigned i = 0; i < HELD_MAX; i++) {
		const struct minode *inode = s->held[i].ino ? model_get(s->model, s->held[i].ino) : NULL;

		if (inode && is_wanted(inode->mode, what) && (what != PICK_FLAGGED || inode->flags) && race_run(r, s->held[i].label + (UINT64_C(1) << 40)))
			r->winner = (struct target){.ino = inode->ino};
	}
}

struct target target_pick(struct sim *s, enum pick what, uint64_t random)
{
	struct race r = {.random = random};

	race_entries(s, &r, what);
	race_held(s, &r, what);
	if ((what == PICK_ANY || what == PICK_DIR || (what == PICK_FLAGGED && has_flags(s, MODEL_ROOT))) && race_run(&r, 1))
		r.winner = (struct target){.ino = MODEL_ROOT};
	return r.winner;
}

struct target target_entry(struct sim *s, enum pick what, uint64_t random)
{
	struct race r = {.random = random};

	race_entries(s, &r, what);
	return r.winner;
}

uint64_t target_dir(struct sim *s, uint64_t random)
{
	if (random % 3 == 0)
		return MODEL_ROOT;
	return target_pick(s, random % 32 ? PICK_DIR : PICK_ANY, random).ino;
}

bool target_take(struct sim *s, struct target *t)
{
	struct fs_attr attr;

	if (!t->dir)
		return true;
	lazy_look(s);
	int rc = fs_lookup(s->fs, s->q, t->dir, t->name, t->len, &attr);

	if (!judge(s, rc, 0))
		return false;
	same_rc(s, rc, 0);
	same_attr(s, t->ino, &attr);
	t->taken = true;
	return true;
}

void target_drop(struct sim *s, struct target *t)
{
	if (t->taken)
		forget(s, t->ino);
	t->taken = false;
}

/* Few different ones, so that they collide; some as long as they may be, some of odd bytes. */
size_t name_make(struct sim *s, uint64_t random, char name[256])
{
	unsigned n = (unsigned)(random % s->plan->profile->nnames);
	int len = snprintf(name, 256, "n%u", n);

	if (n % 7 == 5) {
		memset(name + len, 'x', 255 - (size_t)len);
		len = 255;
	} else if (n % 7 == 6) {
		name[len++] = (char)0xff;
		name[len++] = '\n';
	}
	return (size_t)len;
}
