/* SPDX-License-Identifier: Apache-2.0 */
/*
 * paths.c - from inode numbers to names.
 *
 * A file's inode does not say where its names are, so one walk over all entries finds a name for everything that is wanted.  Directories
 * name their parent, so the way up from there is short searches.
 */
#include "fsck/paths.h"

#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 64		/* directories of a path; deeper ones are not named */
#define PATH_BYTES 4096

/* --- reading the tree -------------------------------------------------------------------------- */

/* Non-zero ends the walk. */
typedef int visit_fn(void *arg, const struct key *key, const void *val, unsigned len);

/* Items from `key` on, until `visit` has enough. */
static int visit_from(struct volume *v, struct dev_queue *q, struct key key, visit_fn *visit, void *arg)
{
	for (;;) {
		struct tree_cursor c;
		struct miss miss = {0};

		volume_lock(v);
		int err = tree_first(v->tree, &c, &key, &miss);

		while (!err) {
			/* After a miss the last item comes again; nobody minds. */
			key = c.key;
			err = visit(arg, &c.key, c.val, c.len);
			if (!err)
				err = tree_next(v->tree, &c, &miss);
		}
		volume_unlock(v);
		if (err != -EAGAIN)
			return err == -ENOENT ? 0 : err;
		err = volume_provide(v, q, &miss);
		if (err)
			return err;
	}
}

static bool dirent_get(const struct key *key, const void *val, unsigned len, struct disk_dirent *de, char name[MAX_NAME + 1])
{
	if (key->type != ITEM_DIRENT || len < sizeof(*de))
		return false;
	memcpy(de, val, sizeof(*de));
	if (len < sizeof(*de) + de->name_len)
		return false;
	memcpy(name, (const uint8_t *)val + sizeof(*de), de->name_len);
	name[de->name_len] = '\0';
	return true;
}

/* --- one item ---------------------------------------------------------------------------------- */

struct get {
	struct key key;
	uint8_t val[MAX_ITEM];
	unsigned len;		/* 0: not there */
};

static int get_visit(void *arg, const struct key *key, const void *val, unsigned len)
{
	struct get *g = arg;

	if (key_cmp(key, &g->key) == 0) {
		memcpy(g->val, val, len);
		g->len = len;
	}
	return 1;
}

static int get_item(struct volume *v, struct dev_queue *q, struct get *g)
{
	g->len = 0;
	int err = visit_from(v, q, g->key, get_visit, g);

	return err < 0 ? err : g->len ? 0 : -ENOENT;
}

int paths_entry(struct volume *v, struct dev_queue *q, uint64_t dir, uint64_t offset, char name[MAX_NAME + 1], uint64_t *ino)
{
	struct get g = {.key = key_make(dir, ITEM_DIRENT, offset)};
	struct disk_dirent de;
	int err = get_item(v, q, &g);

	if (err)
		return err;
	if (!dirent_get(&g.key, g.val, g.len, &de, name))
		return -ENOENT;
	*ino = get64(de.ino);
	return 0;
}

/* --- the walk ---------------------------------------------------------------------------------- */

struct search {
	struct path_want *want;
	unsigned n;
};

static struct path_want *want_find(const struct search *s, uint64_t ino)
{
	unsigned lo = 0, hi = s->n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (s->want[mid].ino == ino)
			return &s->want[mid];
		if (s->want[mid].ino < ino)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

static int search_visit(void *arg, const struct key *key, const void *val, unsigned len)
{
	struct disk_dirent de;
	char name[MAX_NAME + 1];

	if (!dirent_get(key, val, len, &de, name))
		return 0;
	struct path_want *w = want_find(arg, get64(de.ino));

	if (w && !w->dir) {
		w->dir = key->object;
		memcpy(w->name, name, sizeof(w->name));
	}
	return 0;
}

/* --- the way up -------------------------------------------------------------------------------- */

struct child {
	uint64_t dir, ino;
	bool found;
	char name[MAX_NAME + 1];
};

static int child_visit(void *arg, const struct key *key, const void *val, unsigned len)
{
	struct child *ch = arg;
	struct disk_dirent de;

	if (key->object != ch->dir || key->type > ITEM_DIRENT)
		return 1;
	ch->found = dirent_get(key, val, len, &de, ch->name) && get64(de.ino) == ch->ino;
	return ch->found;
}

/* Puts "/name" in front of what is at *at; false: no room. */
static bool prepend(char *buf, size_t *at, const char *name)
{
	size_t n = strlen(name);

	if (*at < n + 1)
		return false;
	*at -= n;
	memcpy(buf + *at, name, n);
	buf[--*at] = '/';
	return true;
}

static bool go_up(struct volume *v, struct dev_queue *q, uint64_t *dir, char *buf, size_t *at)
{
	struct get g = {.key = key_make(*dir, ITEM_INODE, 0)};
	struct disk_inode di;

	if (get_item(v, q, &g) || g.len != sizeof(di))
		return false;
	memcpy(&di, g.val, sizeof(di));
	struct child ch = {.dir = get64(di.parent), .ino = *dir};

	if (visit_from(v, q, key_make(ch.dir, ITEM_DIRENT, 0), child_visit, &ch) < 0 || !ch.found || !prepend(buf, at, ch.name))
		return false;
	*dir = ch.dir;
	return true;
}

static int build(struct volume *v, struct dev_queue *q, struct path_want *w)
{
	char buf[PATH_BYTES];
	size_t at = sizeof(buf) - 1;
	uint64_t dir = w->dir;

	buf[at] = '\0';
	if (w->ino == INO_ROOT)
		buf[--at] = '/';
	else if (!dir || !prepend(buf, &at, w->name))
		return 0;
	for (unsigned depth = 0; w->ino != INO_ROOT && dir != INO_ROOT; depth++)
		if (depth == MAX_DEPTH || !go_up(v, q, &dir, buf, &at))
			return 0;
	w->path = strdup(buf + at);
	return w->path ? 0 : -ENOMEM;
}

int paths_find(struct volume *v, struct dev_queue *q, struct path_want *want, unsigned n)
{
	struct search s = {.want = want, .n = n};
	int err = visit_from(v, q, key_make(INO_ROOT, ITEM_INODE, 0), search_visit, &s);

	if (err == -ENOMEM)
		return err;
	err = 0;
	for (unsigned i = 0; !err && i < n; i++)
		err = build(v, q, &want[i]);
	return err;
}
