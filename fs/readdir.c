/* SPDX-License-Identifier: Apache-2.0 */
/*
 * readdir.c - reading directories and symlinks, whose atime that moves.
 *
 * Entries are in the order of their items, and a cookie is 1 + the offset of the item it is behind (1 and 2: behind "." and ".."); so it
 * stays good whatever is added and removed meanwhile.  They are collected in batches under the lock and given to the
 * caller outside it.  A step that lacks something keeps what it has collected, each entry being true as of the moment it was.
 */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "fs/dir.h"

#define BATCH 64u
#define COOKIE_DOT 1u
#define COOKIE_DDOT 2u

struct batch_entry {
	struct fs_dirent e;
	struct fs_attr attr;
	char name[MAX_NAME];
};

struct batch {
	uint64_t ino;
	uint64_t cookie; /* behind the last one collected */
	bool plus;
	bool end; /* there are no more */
	bool touch; /* atime is due */
	unsigned n;
	struct batch_entry entry[BATCH];
};

/* --- collecting --- */

static struct batch_entry *batch_add(struct batch *b, const char *name, size_t len, uint64_t ino,
				     uint8_t ftype, uint64_t cookie)
{
	struct batch_entry *be = &b->entry[b->n++];

	memcpy(be->name, name, len);
	be->e = (struct fs_dirent){
		.name = be->name, .len = len, .ino = ino, .ftype = ftype, .cookie = cookie};
	b->cookie = cookie;
	return be;
}

static void batch_add_dots(struct batch *b, const struct disk_inode *dir)
{
	if (b->cookie < COOKIE_DOT)
		batch_add(b, ".", 1, b->ino, DT_DIR, COOKIE_DOT);
	if (b->cookie < COOKIE_DDOT)
		batch_add(b, "..", 2, get64(dir->parent), DT_DIR, COOKIE_DDOT);
}

/* With a reference, if there is an inode: one that is damaged is listed all the same, so that it can be seen. */
static int batch_add_attr(struct fs *fs, uint64_t ino, struct miss *miss, struct disk_inode *di)
{
	int err = inode_get(fs, ino, miss, di);

	if (err)
		return err;
	return inode_know(fs, ino);
}

static int batch_add_item(struct fs *fs, struct batch *b, const struct tree_cursor *c, struct miss *miss)
{
	const char *name = (const char *)c->val + sizeof(struct disk_dirent);
	struct disk_dirent de;
	struct disk_inode di;
	int err = 0;

	if (c->len < sizeof(de))
		return inode_corrupt(fs, b->ino, "malformed directory entry");
	memcpy(&de, c->val, sizeof(de));
	if (c->len != sizeof(de) + de.name_len)
		return inode_corrupt(fs, b->ino, "malformed directory entry");
	uint64_t ino = get64(de.ino);
	if (b->plus)
		err = batch_add_attr(fs, ino, miss, &di);
	if (err && err != -ESTALE && err != -EUCLEAN)
		return err;
	struct batch_entry *be = batch_add(b, name, de.name_len, ino, de.ftype, c->key.offset + 1);
	if (b->plus && !err) {
		inode_to_attr(ino, &di, &be->attr);
		be->e.attr = &be->attr;
	}
	return 0;
}

static int batch_items(struct fs *fs, struct batch *b, struct miss *miss)
{
	struct key key = key_make(b->ino, ITEM_DIRENT, b->cookie);
	struct tree_cursor c;
	int err = 0;

	if (b->n == BATCH)
		return 0;
	for (err = tree_first(fs->v->tree, &c, &key, miss); !err; err = tree_next(fs->v->tree, &c, miss)) {
		if (c.key.object != b->ino || c.key.type != ITEM_DIRENT)
			break;
		err = batch_add_item(fs, b, &c, miss);
		if (err || b->n == BATCH)
			return err;
	}
	if (err && err != -ENOENT)
		return err;
	b->end = true;
	return 0;
}

static int batch_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct batch *b = arg;
	struct disk_inode dir;
	struct timespec now;
	int err = inode_get_dir(fs, b->ino, miss, &dir);

	(void)q;
	if (err)
		return err;
	fs_now(fs, &now);
	b->touch = atime_due(fs, &dir, &now);
	batch_add_dots(b, &dir);
	return batch_items(fs, b, miss);
}

/* --- giving them out --- */

/* The references of those from `first` on are taken back. */
static void batch_drop(struct fs *fs, struct batch *b, unsigned first)
{
	volume_lock(fs->v);
	for (unsigned i = first; i < b->n; i++) {
		if (b->entry[i].e.attr)
			inode_unref(fs, inode_find(fs, b->entry[i].e.ino), 1);
	}
	volume_unlock(fs->v);
}

/* How many were taken. */
static unsigned batch_fill(struct fs *fs, struct batch *b, fs_fill_fn *fill, void *arg)
{
	unsigned i = 0;

	while (i < b->n && !fill(arg, &b->entry[i].e))
		i++;
	if (i < b->n) {
		batch_drop(fs, b, i);
		b->end = true;
	}
	return i;
}

/*
 * Where attributes cannot be read, names still can: the rest comes without them.  What could be read is given out before an
 * error is returned to who asks for what is behind it.
 */
int fs_readdir(struct fs *fs, struct dev_queue *q, uint64_t ino, uint64_t cookie, bool plus, fs_fill_fn *fill,
	       void *arg)
{
	auto_free struct batch *b = malloc(sizeof(*b));
	bool touch = false, taken = false;
	int err = 0;

	if (!b)
		return -ENOMEM;
	b->ino = ino;
	b->cookie = cookie;
	b->plus = plus;
	b->end = b->touch = false;
	while (!b->end && !err) {
		b->n = 0;
		err = fs_look(fs, q, batch_step, b);
		if ((err == -EUCLEAN || err == -EIO) && b->plus) {
			b->plus = false;
			err = 0;
		}
		touch |= b->touch;
		taken |= batch_fill(fs, b, fill, arg) > 0;
	}
	if (touch)
		atime_touch(fs, q, ino);
	return taken ? 0 : err;
}

/* --- readlink --- */

struct readlink {
	uint64_t ino;
	char *buf;
	bool touch;
};

static int readlink_chunks(struct fs *fs, uint64_t ino, uint64_t size, char *buf, struct miss *miss)
{
	for (uint64_t at = 0; at < size;) {
		struct key key = key_make(ino, ITEM_INLINE, at);
		uint64_t want = size - at < INLINE_CHUNK ? size - at : INLINE_CHUNK;
		const void *val;
		unsigned len;
		int err = tree_lookup(fs->v->tree, &key, miss, &val, &len);

		if (err == -ENOENT || (!err && len != want))
			return inode_corrupt(fs, ino, "target of the symlink is incomplete");
		if (err)
			return err;
		memcpy(buf + at, val, len);
		at += len;
	}
	buf[size] = 0;
	return 0;
}

static int readlink_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct readlink *r = arg;
	struct disk_inode di;
	struct timespec now;
	int err = inode_get(fs, r->ino, miss, &di);

	(void)q;
	if (err)
		return err;
	if (!mode_is(&di, S_IFLNK))
		return -EINVAL;
	if (get64(di.size) > MAX_SYMLINK)
		return inode_corrupt(fs, r->ino, "target of the symlink is too long");
	fs_now(fs, &now);
	r->touch = atime_due(fs, &di, &now);
	return readlink_chunks(fs, r->ino, get64(di.size), r->buf, miss);
}

int fs_readlink(struct fs *fs, struct dev_queue *q, uint64_t ino, char *buf)
{
	struct readlink r = {ino, buf, false};
	int err = fs_look(fs, q, readlink_step, &r);

	if (!err && r.touch)
		atime_touch(fs, q, ino);
	return err;
}
