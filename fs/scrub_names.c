/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub_names.c - the names of damaged files.
 *
 * A file does not know its names: all directories are gone through once for those that are wanted, in the tree as it is now.  Directories
 * know their parents, so the rest of the path costs one look through each.  Names may change meanwhile; then one that was is told.
 */
#include "fs/scrub_impl.h"

#include <stdlib.h>
#include <string.h>

#define STEP_ENTRIES 500u /* looked at in one critical section */
#define MAX_DEPTH 4096u
#define PATH_ROOM 4096u

/* Entries in [next, end) are handed out. */
struct scan {
	struct key next;
	uint64_t last_object; /* where it ends */
	bool done; /* also set by `entry` when it has what it wants */
	void (*entry)(struct scan *scan, uint64_t dir, uint64_t ino, const uint8_t *name, unsigned len);
};

static void scan_entry(struct scan *scan, const struct tree_cursor *c)
{
	struct disk_dirent de;

	memcpy(&de, c->val, sizeof(de));
	scan->entry(scan, c->key.object, get64(de.ino), (const uint8_t *)c->val + sizeof(de), de.name_len);
}

/* The first key behind `k`. */
static struct key key_after(const struct key *k)
{
	if (k->offset < UINT64_MAX)
		return key_make(k->object, k->type, k->offset + 1);
	return key_make(k->object, k->type + 1, 0);
}

/* Where the next entry at or behind an item that is none may be.  False: nowhere. */
static bool key_skip(struct key *next, const struct key *k)
{
	if (k->type > ITEM_DIRENT && k->object == UINT64_MAX)
		return false;
	*next = key_make(k->type > ITEM_DIRENT ? k->object + 1 : k->object, ITEM_DIRENT, 0);
	return true;
}

static int scan_step(struct scrub *s, struct scan *scan, struct miss *miss)
{
	struct tree *tree = s->v->tree;
	struct tree_cursor c;
	int err = tree_first(tree, &c, &scan->next, miss);

	for (unsigned n = 0; !err && n < STEP_ENTRIES && !scan->done; n++) {
		if (c.key.object > scan->last_object) {
			scan->done = true;
		} else if (c.key.type == ITEM_DIRENT) {
			scan_entry(scan, &c);
			scan->next = key_after(&c.key);
			err = tree_next(tree, &c, miss);
		} else if (key_skip(&scan->next, &c.key)) {
			err = tree_first(tree, &c, &scan->next, miss);
		} else {
			scan->done = true;
		}
	}
	if (err && err != -EAGAIN)
		scan->done = true;
	return err;
}

/* What cannot be read is passed over. */
static void scan_run(struct scrub *s, struct scan *scan)
{
	while (!scan->done && !(s->cfg->cancelled && s->cfg->cancelled(s->cfg->arg))) {
		struct miss miss = {.kind = MISS_NONE};

		volume_lock(s->v);
		int err = scan_step(s, scan, &miss);
		volume_unlock(s->v);
		if (err != -EAGAIN || !volume_provide(s->v, s->q, &miss))
			continue;
		if (miss.kind != MISS_NODE || !miss.has_hi)
			return;
		scan->next = miss.hi;
	}
}

/* --- all directories, for the files ------------------------------------------------------------ */

struct wanted {
	struct scan scan;
	struct scrub_lost **lost; /* by inode */
	struct name *name; /* theirs */
	unsigned n, missing;
};

struct name {
	uint64_t dir; /* 0: not found */
	char *text; /* owned */
};

static int by_ino(const void *a, const void *b)
{
	const struct scrub_lost *x = *(struct scrub_lost *const *)a, *y = *(struct scrub_lost *const *)b;

	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

static void wanted_entry(struct scan *scan, uint64_t dir, uint64_t ino, const uint8_t *name, unsigned len)
{
	struct wanted *w = (struct wanted *)scan;
	unsigned lo = 0, hi = w->n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (w->lost[mid]->ino < ino)
			lo = mid + 1;
		else
			hi = mid;
	}
	/* The first range of the inode stands for all of them; the first name will do. */
	if (lo == w->n || w->lost[lo]->ino != ino || w->name[lo].dir)
		return;
	w->name[lo].text = strndup((const char *)name, len);
	w->name[lo].dir = dir;
}

/* --- one directory, for its name --------------------------------------------------------------- */

struct parent {
	struct scan scan;
	uint64_t ino;
	char text[MAX_NAME + 1];
};

static void parent_entry(struct scan *scan, uint64_t dir, uint64_t ino, const uint8_t *name, unsigned len)
{
	struct parent *p = (struct parent *)scan;

	(void)dir;
	if (ino != p->ino)
		return;
	memcpy(p->text, name, len);
	p->text[len] = '\0';
	scan->done = true;
}

struct parent_of {
	uint64_t ino, parent;
};

static int parent_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct parent_of *p = arg;
	struct disk_inode di;
	int err = inode_get(fs, p->ino, miss, &di);

	(void)q;
	if (!err)
		p->parent = get64(di.parent);
	return err;
}

/* The name of directory *dir, of which *dir then is the parent.  False: not to be found out. */
static bool dir_name(struct scrub *s, uint64_t *dir, char text[MAX_NAME + 1])
{
	struct parent_of of = {.ino = *dir};

	if (fs_run(s->fs, s->q, parent_step, &of))
		return false;
	struct parent p = {
		.scan = {.next = key_make(of.parent, ITEM_DIRENT, 0),
			 .last_object = of.parent,
			 .entry = parent_entry},
		.ino = *dir,
	};

	scan_run(s, &p.scan);
	*dir = of.parent;
	strcpy(text, p.text);
	return p.text[0] != '\0';
}

/* Puts "/name" in front of what is there.  False: no room. */
static bool prepend(char *room, size_t *at, const char *name)
{
	size_t len = strlen(name);

	if (*at < len + 1)
		return false;
	*at -= len;
	memcpy(room + *at, name, len);
	room[--*at] = '/';
	return true;
}

/* NULL: no memory, or not to be found out. */
static char *path_make(struct scrub *s, uint64_t dir, const char *name)
{
	auto_free char *room = malloc(PATH_ROOM);
	size_t at = PATH_ROOM - 1;
	bool ok = room != NULL;

	if (!ok)
		return NULL;
	room[at] = '\0';
	ok = prepend(room, &at, name);
	for (unsigned depth = 0; ok && dir != INO_ROOT && depth < MAX_DEPTH; depth++) {
		char text[MAX_NAME + 1];

		ok = dir_name(s, &dir, text) && prepend(room, &at, text);
	}
	/* What is known of it is better than nothing. */
	if (dir != INO_ROOT && !prepend(room, &at, "..."))
		return NULL;
	return strdup(room + at + 1);
}

static void give_path(struct scrub *s, struct wanted *w, unsigned first)
{
	auto_free char *path = NULL;

	if (w->name[first].dir && w->name[first].text)
		path = path_make(s, w->name[first].dir, w->name[first].text);
	for (unsigned i = first; path && i < w->n && w->lost[i]->ino == w->lost[first]->ino; i++)
		w->lost[i]->path = strdup(path);
}

void scrub_names(struct scrub *s)
{
	struct wanted w = {
		.scan = {.next = key_make(0, ITEM_DIRENT, 0),
			 .last_object = UINT64_MAX,
			 .entry = wanted_entry},
		.n = s->nlost,
	};

	if (!s->nlost)
		return;
	w.lost = calloc(w.n, sizeof(*w.lost));
	w.name = calloc(w.n, sizeof(*w.name));
	if (w.lost && w.name) {
		for (unsigned i = 0; i < w.n; i++)
			w.lost[i] = &s->lost[i];
		qsort(w.lost, w.n, sizeof(*w.lost), by_ino);
		scan_run(s, &w.scan);
		for (unsigned i = 0; i < w.n; i++)
			if (i == 0 || w.lost[i]->ino != w.lost[i - 1]->ino)
				give_path(s, &w, i);
		for (unsigned i = 0; i < w.n; i++)
			free(w.name[i].text);
	}
	free(w.name);
	free(w.lost);
}
