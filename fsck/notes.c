/* SPDX-License-Identifier: Apache-2.0 */
/*
 * notes.c - what a rebuild tells: gathered while it decides, told when the names are known.
 *
 * Names are not kept of all inodes, only of those that a note is about and of the directories above them.  They come by in the last pass.
 */
#include "fsck/rebuild_impl.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of a path that is told. */
#define PATH_ROOM 4096

static struct fix_note *note_add(struct rebuilder *r, enum rebuild_what what, uint64_t ino, const char *fmt, va_list ap)
{
	struct fix_note *n = list_add(&r->notes, sizeof(*n));

	if (!n)
		return NULL;
	n->what = what;
	n->ino = ino;
	if (vasprintf(&n->text, fmt, ap) < 0)
		n->text = NULL;
	return n->text ? n : NULL;
}

int note(struct rebuilder *r, enum rebuild_what what, uint64_t ino, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	const struct fix_note *n = note_add(r, what, ino, fmt, ap);
	va_end(ap);
	return n ? 0 : -ENOMEM;
}

int note_entry(struct rebuilder *r, enum rebuild_what what, uint64_t dir, const void *name, unsigned len, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	struct fix_note *n = note_add(r, what, dir, fmt, ap);
	va_end(ap);
	if (n)
		n->name = strndup(name, len);
	return n && n->name ? 0 : -ENOMEM;
}

bool notes_any_lost(const struct rebuilder *r)
{
	const struct fix_note *n = r->notes.item;
	const struct fix_entry *e = r->entries.item;

	for (uint64_t i = 0; i < r->notes.n; i++)
		if (n[i].what == REBUILD_LOST)
			return true;
	/* Notes about entries are made when they come by. */
	for (uint64_t i = 0; i < r->entries.n; i++)
		if (e[i].dir_flags & ENT_DROP && !(e[i].dir_flags & ENT_LOOP))
			return true;
	return false;
}

/* --- names ------------------------------------------------------------------------------------- */

static void want_up(struct rebuilder *r, struct fix_inode *rec)
{
	while (rec && !(rec->flags & FIX_NAMED)) {
		rec->flags |= FIX_NAMED;
		r->want_names = true;
		rec = rec->ftype == DT_DIR && rec->ino != INO_ROOT ? rec_find(r, rec->parent) : NULL;
	}
}

int notes_prepare(struct rebuilder *r)
{
	const struct fix_note *n = r->notes.item;
	const struct fix_entry *e = r->entries.item;
	const struct fix_insert *in = r->inserts.item;

	for (uint64_t i = 0; i < r->notes.n; i++)
		if (n[i].ino != FSCK_NOWHERE)
			want_up(r, rec_find(r, n[i].ino));
	for (uint64_t i = 0; i < r->entries.n; i++) {
		if (e[i].dir_flags & ENT_DROP) {
			want_up(r, entry_dir(r, &e[i]));
			continue;
		}
		/* A file's directories are found from its entries. */
		const struct fix_inode *rec = r->want_names ? rec_find(r, e[i].ino) : NULL;

		if (rec && rec->flags & FIX_NAMED)
			want_up(r, entry_dir(r, &e[i]));
	}
	for (uint64_t i = 0; i < r->inserts.n; i++)
		if (in[i].key.type == ITEM_DIRENT)
			want_up(r, rec_find(r, in[i].key.object));
	return 0;
}

int notes_name(struct rebuilder *r, uint64_t dir, const void *name, unsigned len, uint64_t ino)
{
	const struct fix_inode *rec = rec_find(r, ino);

	if (!rec || !(rec->flags & FIX_NAMED))
		return 0;
	struct fix_name *fn = list_add(&r->names, sizeof(*fn));

	if (!fn)
		return -ENOMEM;
	*fn = (struct fix_name){.ino = ino, .dir = dir, .name = strndup(name, len)};
	return fn->name ? 0 : -ENOMEM;
}

static int name_cmp(const void *a, const void *b)
{
	const struct fix_name *x = a, *y = b;

	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	return x->dir < y->dir ? -1 : x->dir > y->dir;
}

static const struct fix_name *name_find(const struct rebuilder *r, uint64_t ino)
{
	const struct fix_name *fn = r->names.item;
	uint64_t lo = 0, hi = r->names.n;

	while (lo < hi) {
		uint64_t mid = lo + (hi - lo) / 2;

		if (fn[mid].ino < ino)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < r->names.n && fn[lo].ino == ino ? &fn[lo] : NULL;
}

/* --- paths ------------------------------------------------------------------------------------- */

/* Puts "/name" in front of what is at *pos; false: no room. */
static bool path_prepend(char *path, size_t *pos, const char *name)
{
	size_t len = strlen(name);

	if (len + 1 > *pos)
		return false;
	*pos -= len;
	memcpy(path + *pos, name, len);
	path[--*pos] = '/';
	return true;
}

/* In `path`, from the end; NULL: there is none, or it is too long. */
static const char *path_of(const struct rebuilder *r, const struct fix_note *n, char path[PATH_ROOM])
{
	size_t pos = PATH_ROOM - 1;
	uint64_t ino = n->ino;

	path[pos] = '\0';
	if (n->name && !path_prepend(path, &pos, n->name))
		return NULL;
	while (ino != INO_ROOT) {
		const struct fix_name *fn = name_find(r, ino);

		if (!fn || !path_prepend(path, &pos, fn->name))
			return NULL;
		ino = fn->dir;
	}
	return path[pos] ? path + pos : "/";
}

void notes_tell(struct rebuilder *r)
{
	const struct fix_note *n = r->notes.item;
	char path[PATH_ROOM];

	if (r->names.n)
		qsort(r->names.item, r->names.n, sizeof(struct fix_name), name_cmp);
	for (uint64_t i = 0; i < r->notes.n; i++) {
		struct rebuild_note out = {
			.what = n[i].what,
			.ino = n[i].ino,
			.path = n[i].ino == FSCK_NOWHERE ? NULL : path_of(r, &n[i], path),
			.text = n[i].text,
		};

		if (n[i].what == REBUILD_LOST)
			r->out->nlost++;
		else
			r->out->nkept++;
		if (r->opts->note)
			r->opts->note(r->opts->arg, &out);
	}
}

void notes_free(struct rebuilder *r)
{
	struct fix_note *n = r->notes.item;
	struct fix_name *fn = r->names.item;

	for (uint64_t i = 0; i < r->notes.n; i++) {
		free(n[i].name);
		free(n[i].text);
	}
	for (uint64_t i = 0; i < r->names.n; i++)
		free(fn[i].name);
	free(n);
	free(fn);
}
