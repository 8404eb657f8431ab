/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rules_names.c - entries against inodes, when all are known.
 *
 * An entry is dropped if what it names does not exist, is the root directory, is a directory that has an entry elsewhere (the one in the parent
 * that the directory names stays), or has no room for one more name; and one entry of every circle of directories. Then whatever
 * has no name left and is not about to be removed anyhow gets one in lost+found: "#" and its number.
 *
 * Counts, parents and types follow; nothing of them is believed.
 */
#include "fsck/rebuild_impl.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOST_FOUND "lost+found"

static struct fix_entry *entry_at(struct rebuilder *r, uint64_t i)
{
	return (struct fix_entry *)r->entries.item + i;
}

/* What an entry names, if it may be kept at all. */
static struct fix_inode *entry_target(struct rebuilder *r, const struct fix_entry *e)
{
	struct fix_inode *rec = rec_find(r, e->ino);

	return rec && !(rec->flags & FIX_GONE) && rec->ino != INO_ROOT ? rec : NULL;
}

/* --- entries ----------------------------------------------------------------------------------- */

static void entry_look(struct rebuilder *r, struct fix_entry *e)
{
	struct fix_inode *rec = entry_target(r, e);

	if (!rec) {
		e->dir_flags |= ENT_DROP;
		return;
	}
	/* Contents alone do not tell a short symlink from a short file. */
	if (rec->flags & FIX_MADE && rec->flags & FIX_INLINE && (e->dir_flags & ENT_FTYPE) == DT_LNK)
		rec->ftype = DT_LNK;
	if (rec->ftype == DT_DIR && !(e->dir_flags & ENT_DROP) && rec->parent == entry_dir(r, e)->ino)
		rec->flags |= FIX_AT_PARENT;
}

static void dir_take(struct rebuilder *r, struct fix_inode *rec, struct fix_inode *dir, struct fix_entry *e)
{
	bool here = rec->parent == dir->ino || !(rec->flags & FIX_AT_PARENT);

	if (rec->flags & FIX_TAKEN || !here || dir->subdirs + 2 >= MAX_LINKS) {
		e->dir_flags |= ENT_DROP;
		return;
	}
	rec->flags |= FIX_TAKEN;
	rec->parent = dir->ino;
	rec->entry = (uint64_t)(e - entry_at(r, 0));
	rec->refs = 1;
	dir->subdirs++;
	dir->size++;
}

static void entry_take(struct rebuilder *r, struct fix_entry *e)
{
	struct fix_inode *rec = entry_target(r, e), *dir = entry_dir(r, e);

	if (e->dir_flags & ENT_DROP)
		return;
	if (rec->ftype == DT_DIR) {
		dir_take(r, rec, dir, e);
		return;
	}
	if (rec->refs == MAX_LINKS) {
		e->dir_flags |= ENT_DROP;
		return;
	}
	rec->refs++;
	dir->size++;
}

/* --- circles ----------------------------------------------------------------------------------- */

static struct fix_inode *dir_up(struct rebuilder *r, const struct fix_inode *rec)
{
	return rec->flags & FIX_TAKEN ? rec_find(r, rec->parent) : NULL;
}

/* Takes the directory out of the one that it is in: it is its own ancestor there. */
static void dir_cut(struct rebuilder *r, struct fix_inode *rec)
{
	struct fix_inode *dir = rec_find(r, rec->parent);

	entry_at(r, rec->entry)->dir_flags |= ENT_DROP | ENT_LOOP;
	rec->flags &= (uint16_t)~FIX_TAKEN;
	rec->refs = 0;
	dir->subdirs--;
	dir->size--;
}

/* Every directory is on a path only once, so all of them together are linear. */
static void dir_trace(struct rebuilder *r, struct fix_inode *from)
{
	struct fix_inode *rec = from, *loop;

	while (rec && !(rec->flags & (FIX_ROOTED | FIX_PATH))) {
		rec->flags |= FIX_PATH;
		rec = dir_up(r, rec);
	}
	loop = rec && rec->flags & FIX_PATH ? rec : NULL;
	for (rec = from; rec && rec->flags & FIX_PATH; rec = dir_up(r, rec))
		rec->flags = (uint16_t)((rec->flags & ~FIX_PATH) | FIX_ROOTED);
	if (loop)
		dir_cut(r, loop);
}

/* --- lost+found -------------------------------------------------------------------------------- */

uint64_t name_hash(const struct rebuilder *r, const char *name)
{
	return dirent_offset(r->sb, name, strlen(name));
}

static int hash_cmp(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* The first of NAME, NAME~1, NAME~2, ... whose hash is not among those in use (sorted). */
static void name_choose(struct rebuilder *r, const struct list *taken, const char *base, char *name, size_t size)
{
	uint64_t hash;

	snprintf(name, size, "%s", base);
	for (unsigned n = 1;; n++) {
		hash = name_hash(r, name);
		if (!taken->n || !bsearch(&hash, taken->item, taken->n, sizeof(hash), hash_cmp))
			return;
		snprintf(name, size, "%s~%u", base, n);
	}
}

static void taken_sort(struct list *taken)
{
	if (taken->n)
		qsort(taken->item, taken->n, sizeof(uint64_t), hash_cmp);
}

/* An index, since recs may move. */
static int lost_found_make(struct rebuilder *r, uint64_t *index)
{
	struct fix_inode *root = rec_at(r, 0);
	char name[32];

	if (root->subdirs + 2 >= MAX_LINKS) {
		diag(r->opts->diag, DIAG_ERR, "%s: the root directory has no room for " LOST_FOUND, r->q->dev->path);
		return -EMLINK;
	}
	taken_sort(&r->root_names);
	name_choose(r, &r->root_names, LOST_FOUND, name, sizeof(name));
	root->subdirs++;
	root->size++;
	uint64_t ino = r->next_ino++;
	int err = rules_make_inode(r, ino, DT_DIR, index);
	if (err)
		return err;
	rec_at(r, *index)->flags |= FIX_TAKEN | FIX_NEW;
	rec_at(r, *index)->parent = INO_ROOT;
	rec_at(r, *index)->refs = 1;
	r->lf_names.n = 0;
	return insert_entry(r, INO_ROOT, name, ino, DT_DIR);
}

static int lost_found_get(struct rebuilder *r, uint64_t *index)
{
	const struct fix_inode *rec = r->lf_ino ? rec_find(r, r->lf_ino) : NULL;

	if (!rec || rec->ftype != DT_DIR || !(rec->flags & FIX_TAKEN) || rec->parent != INO_ROOT)
		return lost_found_make(r, index);
	taken_sort(&r->lf_names);
	*index = (uint64_t)(rec - rec_at(r, 0));
	return 0;
}

static int reconnect(struct rebuilder *r, struct fix_inode *rec, struct fix_inode *dir)
{
	char base[24], name[40];

	if (rec->ftype == DT_DIR && dir->subdirs + 2 >= MAX_LINKS) {
		diag(r->opts->diag, DIAG_ERR, "%s: " LOST_FOUND " has no room for all directories without a name", r->q->dev->path);
		return -EMLINK;
	}
	snprintf(base, sizeof(base), "#%" PRIu64, rec->ino);
	name_choose(r, &r->lf_names, base, name, sizeof(name));
	int err = insert_entry(r, dir->ino, name, rec->ino, rec->ftype);
	if (err)
		return err;
	dir->size++;
	dir->subdirs += rec->ftype == DT_DIR;
	rec->refs = 1;
	if (rec->ftype == DT_DIR) {
		rec->parent = dir->ino;
		rec->flags |= FIX_TAKEN;
	}
	return note(r, REBUILD_KEPT, rec->ino, "had no name any more");
}

/* About to be removed by the next mount, and nothing says otherwise. */
static bool is_cleanup(const struct fix_inode *rec)
{
	return rec->flags & FIX_LISTED && !rec->nlink && !rec->refs && !(rec->ftype == DT_DIR && rec->size);
}

static int reconnect_all(struct rebuilder *r)
{
	uint64_t n = r->recs.n, lost_found = 0;
	int err = 0;

	for (uint64_t i = 0; !err && i < n; i++) {
		struct fix_inode *rec = rec_at(r, i);

		if (rec->ino == INO_ROOT || rec->refs || rec->flags & FIX_GONE)
			continue;
		if (is_cleanup(rec)) {
			rec->flags |= FIX_CLEANUP;
			continue;
		}
		if (!lost_found)
			err = lost_found_get(r, &lost_found);
		if (!err)
			err = reconnect(r, rec_at(r, i), rec_at(r, lost_found));
	}
	return err;
}

/* --- counts ------------------------------------------------------------------------------------ */

static int made_note(struct rebuilder *r, const struct fix_inode *rec)
{
	if (rec->flags & FIX_NEW)
		return 0;
	if (rec->ino == INO_ROOT)
		return note(r, REBUILD_LOST, rec->ino, "the root directory was lost; it was made anew");
	return note(r, REBUILD_LOST, rec->ino, "its inode was lost: owner, mode, times and size are made up");
}

static int rec_finish(struct rebuilder *r, struct fix_inode *rec)
{
	if (rec->flags & FIX_GONE)
		return 0;
	r->ninodes++;
	if (rec->flags & FIX_CLEANUP)
		rec->nlink = 0;
	else
		rec->nlink = rec->ftype == DT_DIR ? 2 + rec->subdirs : rec->refs;
	if (rec->ino == INO_ROOT)
		rec->parent = INO_ROOT;
	if (!(rec->flags & FIX_MADE))
		return 0;
	int err = insert_inode(r, rec);
	return err ? err : made_note(r, rec);
}

int names_decide(struct rebuilder *r)
{
	const struct fix_inode *last = rec_at(r, r->recs.n - 1);
	int err;

	r->next_ino = r->base->next_ino < INO_LIMIT ? r->base->next_ino : INO_FIRST;
	if (r->next_ino <= last->ino)
		r->next_ino = last->ino + 1;
	if (r->next_ino < INO_FIRST)
		r->next_ino = INO_FIRST;
	for (uint64_t i = 0; i < r->entries.n; i++)
		entry_look(r, entry_at(r, i));
	for (uint64_t i = 0; i < r->entries.n; i++)
		entry_take(r, entry_at(r, i));
	rec_at(r, 0)->flags |= FIX_ROOTED;
	for (uint64_t i = 0; i < r->recs.n; i++)
		if (rec_at(r, i)->ftype == DT_DIR)
			dir_trace(r, rec_at(r, i));
	err = reconnect_all(r);
	for (uint64_t i = 0; !err && i < r->recs.n; i++)
		err = rec_finish(r, rec_at(r, i));
	if (!err)
		inserts_sort(r);
	return err;
}
