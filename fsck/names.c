/* SPDX-License-Identifier: Apache-2.0 */
/*
 * names.c - entries against inodes: every inode has as many names as it counts, every directory hangs below the root.
 *
 * Linear in inodes, plus a binary search for each entry.
 */
#include <dirent.h>

#include "fsck/check_impl.h"

static struct inode_rec *rec_find(struct check *c, uint64_t ino)
{
	struct inode_rec *rec = c->recs.item;
	uint64_t lo = 0, hi = c->recs.n;

	while (lo < hi) {
		uint64_t mid = lo + (hi - lo) / 2;

		if (rec[mid].ino == ino)
			return &rec[mid];
		if (rec[mid].ino < ino)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

/* --- entries ----------------------------------------------------------------------------------- */

static void entry_judge(struct check *c, const struct entry_rec *e)
{
	uint64_t index = e->dir_ftype >> 4;
	struct inode_rec *dir = index == ENTRY_NO_DIR ? NULL : (struct inode_rec *)c->recs.item + index;
	unsigned long long dir_ino = dir ? dir->ino : 0, ino = e->ino;
	struct inode_rec *rec = rec_find(c, e->ino);

	if (!rec) {
		if (!c->lost_nodes)
			found(c, FSCK_ENTRY_DANGLING, AT_INO(dir_ino), "directory %llu: has an entry of inode %llu, which does not exist",
			      dir_ino, ino);
		return;
	}
	rec->refs += rec->refs < UINT32_MAX;
	if (rec->ftype != (e->dir_ftype & 15))
		found(c, FSCK_ENTRY_TYPE, AT_INO(dir_ino), "directory %llu: the entry of inode %llu says type %u, the inode %u",
		      dir_ino, ino, (unsigned)(e->dir_ftype & 15), rec->ftype);
	if (rec->ftype != DT_DIR || !dir)
		return;
	dir->subdirs += dir->subdirs < UINT32_MAX;
	if (rec->parent != dir->ino)
		found(c, FSCK_DIR_PARENT, AT_INO(rec->ino), "directory %llu: names directory %llu as its parent, but is an entry of %llu",
		      ino, (unsigned long long)rec->parent, dir_ino);
}

/* --- inodes ------------------------------------------------------------------------------------ */

static void root_judge(struct check *c)
{
	const struct inode_rec *root = rec_find(c, INO_ROOT);

	if (!root && !c->lost_nodes)
		found(c, FSCK_ROOT_DIR, AT_INO(INO_ROOT), "the root directory (inode %u) is missing", INO_ROOT);
	if (!root)
		return;
	if (root->ftype != DT_DIR)
		found(c, FSCK_ROOT_DIR, AT_INO(INO_ROOT), "the root directory (inode %u) is not a directory", INO_ROOT);
	else if (root->parent != INO_ROOT)
		found(c, FSCK_ROOT_DIR, AT_INO(INO_ROOT), "the root directory names directory %llu as its parent",
		      (unsigned long long)root->parent);
	if (root->refs)
		found(c, FSCK_ROOT_DIR, AT_INO(INO_ROOT), "the root directory is an entry of another directory");
}

/* Links an inode must count, given the entries met. */
static uint32_t links_due(const struct inode_rec *rec)
{
	if (rec->ftype != DT_DIR)
		return rec->refs;
	return rec->refs || rec->ino == INO_ROOT ? 2 + rec->subdirs : 0;
}

static void rec_judge(struct check *c, const struct inode_rec *rec)
{
	unsigned long long ino = rec->ino;
	bool named = rec->refs || rec->ino == INO_ROOT;

	if (rec->ftype == DT_DIR && rec->refs > 1)
		found(c, FSCK_DIR_LINKS, AT_INO(ino), "directory %llu: has %u entries", ino, rec->refs);
	if (c->lost_nodes)
		return;
	if (!named && (rec->nlink || !(rec->flags & REC_ORPHAN)))
		found(c, FSCK_UNREACHABLE, AT_INO(ino), "inode %llu: no directory has an entry of it (it counts %u links)", ino,
		      rec->nlink);
	else if (rec->nlink != links_due(rec))
		found(c, FSCK_LINK_COUNT, AT_INO(ino), "inode %llu: counts %u links, there are %u", ino, rec->nlink, links_due(rec));
}

/* --- the tree of directories ------------------------------------------------------------------- */

static struct inode_rec *dir_up(struct check *c, const struct inode_rec *rec)
{
	struct inode_rec *up = rec->ino == INO_ROOT ? NULL : rec_find(c, rec->parent);

	return up && up->ftype == DT_DIR ? up : NULL;
}

/*
 * Follows the parents until they lead to the root, to what is known already, or out (which others have reported); or back.  Every
 * directory is on a path only once, so all of them together are linear.
 */
static void dir_trace(struct check *c, struct inode_rec *from)
{
	struct inode_rec *rec = from;

	while (rec && !(rec->flags & (REC_ROOTED | REC_PATH))) {
		rec->flags |= REC_PATH;
		rec = dir_up(c, rec);
	}
	if (rec && rec->flags & REC_PATH)
		found(c, FSCK_DIR_CYCLE, AT_INO(rec->ino), "directory %llu: is its own ancestor", (unsigned long long)rec->ino);
	for (rec = from; rec && rec->flags & REC_PATH; rec = dir_up(c, rec))
		rec->flags = (uint8_t)((rec->flags & ~REC_PATH) | REC_ROOTED);
}

int check_names(struct check *c)
{
	const struct entry_rec *e = c->entries.item;
	struct inode_rec *rec = c->recs.item;
	int err = 0;

	for (uint64_t i = 0; !err && i < c->entries.n; i++) {
		entry_judge(c, &e[i]);
		err = check_tick(c, 2, i, c->entries.n);
	}
	if (err)
		return err;
	root_judge(c);
	for (uint64_t i = 0; !err && i < c->recs.n; i++) {
		rec_judge(c, &rec[i]);
		if (rec[i].ftype == DT_DIR)
			dir_trace(c, &rec[i]);
		err = check_tick(c, 3, i, c->recs.n);
	}
	return err;
}
