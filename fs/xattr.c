/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xattr.c - extended attributes: a head item with the name and the value's beginning, and items with the rest of it.
 *
 * Names are taken as they come: which namespaces there are and who may use them, the kernel decides.
 */
#include <string.h>
#include <sys/xattr.h>

#include "core/bug.h"
#include "fs/fs_impl.h"

#define CHUNKS_MAX ((MAX_XATTR - XATTR_HEAD_MAX + XATTR_CHUNK - 1) / XATTR_CHUNK)
static_assert(CHUNKS_MAX <= 128, "a chunk's number has 7 bits");

/* Where a name's items are. */
struct xattr_pos {
	uint64_t
		offset; /* of the head; if there is none: where it would go, 0 if all collision indexes are taken */
	bool found;
	uint32_t value_len;
	unsigned head_len; /* bytes of the value in the head */
	const uint8_t *head; /* those; valid until the next call that may mutate */
};

static unsigned head_bytes(size_t value_len)
{
	return value_len < XATTR_HEAD_MAX ? (unsigned)value_len : XATTR_HEAD_MAX;
}

static unsigned chunk_count(size_t value_len)
{
	return (unsigned)((value_len - head_bytes(value_len) + XATTR_CHUNK - 1) / XATTR_CHUNK);
}

static unsigned chunk_bytes(size_t value_len, unsigned chunk)
{
	size_t left = value_len - XATTR_HEAD_MAX - (size_t)chunk * XATTR_CHUNK;

	return left < XATTR_CHUNK ? (unsigned)left : XATTR_CHUNK;
}

static struct key chunk_key(uint64_t ino, uint64_t head, unsigned chunk)
{
	return key_make(ino, ITEM_XATTR_MORE, head << 7 | chunk);
}

static int name_len_check(const char *name)
{
	size_t len = strlen(name);

	return len < 1 || len > MAX_NAME ? -ERANGE : 0;
}

/* --- finding --- */

/* Head in an item's value, which need not be aligned. */
static bool xattr_decode(const void *val, unsigned len, struct disk_xattr *out, const char **name)
{
	if (len < sizeof(*out))
		return false;
	memcpy(out, val, sizeof(*out));
	*name = (const char *)val + sizeof(*out);
	return get32(out->value_len) <= MAX_XATTR &&
	       len == sizeof(*out) + out->name_len + head_bytes(get32(out->value_len));
}

/* One item of the hash value: 1 if it is the name's, 0 if it is another's, or an error. */
static int xattr_match(struct fs *fs, const struct tree_cursor *c, const char *name, size_t len,
		       struct xattr_pos *pos)
{
	struct disk_xattr xa;
	const char *found;

	if (!xattr_decode(c->val, c->len, &xa, &found))
		return inode_corrupt(fs, c->key.object, "malformed xattr");
	if (xa.name_len != len || memcmp(found, name, len))
		return 0;
	*pos = (struct xattr_pos){
		.offset = c->key.offset,
		.found = true,
		.value_len = get32(xa.value_len),
		.head_len = head_bytes(get32(xa.value_len)),
		.head = (const uint8_t *)found + len,
	};
	return 1;
}

static int xattr_find(struct fs *fs, uint64_t ino, const char *name, struct miss *miss, struct xattr_pos *pos)
{
	size_t len = strlen(name);
	uint64_t first = xattr_offset(&fs->v->sb, name, len), free = first;
	struct key key = key_make(ino, ITEM_XATTR, first);
	struct tree_cursor c;
	int err;

	for (err = tree_first(fs->v->tree, &c, &key, miss); !err; err = tree_next(fs->v->tree, &c, miss)) {
		if (c.key.object != ino || c.key.type != ITEM_XATTR ||
		    c.key.offset - first >= HASH_COLLISIONS)
			break;
		int match = xattr_match(fs, &c, name, len, pos);
		if (match)
			return match < 0 ? match : 0;
		if (c.key.offset == free)
			free++;
	}
	if (err && err != -ENOENT)
		return err;
	*pos = (struct xattr_pos){.offset = free - first < HASH_COLLISIONS ? free : 0};
	return 0;
}

/* --- set and remove --- */

struct xattr_set {
	uint64_t ino;
	const char *name;
	const uint8_t *val; /* NULL: remove */
	size_t len;
	int flags;
};

static void put_head(struct txn *t, const struct xattr_set *s, uint64_t offset)
{
	size_t name_len = strlen(s->name);
	struct disk_xattr xa = {.value_len = put32((uint32_t)s->len), .name_len = (uint8_t)name_len};
	struct key key = key_make(s->ino, ITEM_XATTR, offset);
	uint8_t item[sizeof(xa) + MAX_NAME + XATTR_HEAD_MAX];
	unsigned head = head_bytes(s->len);

	memcpy(item, &xa, sizeof(xa));
	memcpy(item + sizeof(xa), s->name, name_len);
	if (head)
		memcpy(item + sizeof(xa) + name_len, s->val, head);
	txn_put(t, &key, item, (unsigned)(sizeof(xa) + name_len + head));
}

static void put_chunks(struct txn *t, const struct xattr_set *s, uint64_t offset)
{
	for (unsigned i = 0; i < chunk_count(s->len); i++) {
		struct key key = chunk_key(s->ino, offset, i);

		txn_put(t, &key, s->val + XATTR_HEAD_MAX + (size_t)i * XATTR_CHUNK, chunk_bytes(s->len, i));
	}
}

/* Those of the old value from number `keep` on. */
static void del_chunks(struct txn *t, uint64_t ino, const struct xattr_pos *pos, unsigned keep)
{
	for (unsigned i = keep; i < chunk_count(pos->value_len); i++) {
		struct key key = chunk_key(ino, pos->offset, i);

		txn_del(t, &key);
	}
}

static void record_set(struct txn *t, const struct xattr_set *s, const struct xattr_pos *pos)
{
	struct key key = key_make(s->ino, ITEM_XATTR, pos->offset);

	if (!s->val) {
		txn_del(t, &key);
		del_chunks(t, s->ino, pos, 0);
		return;
	}
	put_head(t, s, pos->offset);
	put_chunks(t, s, pos->offset);
	if (pos->found && !BUG(XATTR_CHUNK_LEFT))
		del_chunks(t, s->ino, pos, chunk_count(s->len));
}

static int check_set(const struct xattr_set *s, const struct xattr_pos *pos)
{
	if (pos->found)
		return s->flags & XATTR_CREATE ? -EEXIST : 0;
	if (!s->val || s->flags & XATTR_REPLACE)
		return -ENODATA;
	return pos->offset ? 0 : -ENOSPC;
}

/* Items that are to be deleted must exist. */
static int check_chunks(struct fs *fs, uint64_t ino, const struct xattr_pos *pos, struct miss *miss)
{
	for (unsigned i = 0; i < chunk_count(pos->value_len); i++) {
		struct key key = chunk_key(ino, pos->offset, i);
		const void *val;
		unsigned len;
		int err = tree_lookup(fs->v->tree, &key, miss, &val, &len);

		if (err == -ENOENT)
			return inode_corrupt(fs, ino, "value of an xattr is incomplete");
		if (err)
			return err;
	}
	return 0;
}

static int set_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	const struct xattr_set *s = arg;
	struct xattr_pos pos;
	struct disk_inode di;
	struct timespec now;
	uint64_t lsn = 0;
	struct txn t;
	int err = inode_get(fs, s->ino, miss, &di);

	if (!err)
		err = xattr_find(fs, s->ino, s->name, miss, &pos);
	if (!err)
		err = check_set(s, &pos);
	if (!err)
		err = check_chunks(fs, s->ino, &pos, miss);
	if (err)
		return err;
	fs_now(fs, &now);
	di.ctime = time_encode(&now);
	txn_begin(&t, fs->v);
	record_set(&t, s, &pos);
	inode_put(&t, s->ino, &di);
	err = txn_commit(&t, q, s->val ? 0 : TXN_URGENT, miss, NULL, &lsn);
	txn_end(&t);
	if (!err)
		inode_changed(fs, s->ino, lsn, false);
	return err;
}

int fs_setxattr(struct fs *fs, struct dev_queue *q, uint64_t ino, const char *name, const void *val,
		size_t len, int flags)
{
	struct xattr_set s = {ino, name, len ? val : (const void *)"", len, flags};
	int err = name_len_check(name);

	if (err)
		return err;
	if (len > MAX_XATTR)
		return -E2BIG;
	if (flags & ~(XATTR_CREATE | XATTR_REPLACE))
		return -EINVAL;
	return fs_run(fs, q, set_step, &s);
}

int fs_removexattr(struct fs *fs, struct dev_queue *q, uint64_t ino, const char *name)
{
	struct xattr_set s = {.ino = ino, .name = name};
	int err = name_len_check(name);

	return err ? err : fs_run(fs, q, set_step, &s);
}

/* --- get --- */

struct xattr_get {
	uint64_t ino;
	const char *name;
	uint8_t *buf;
	size_t room; /* 0: only the length is wanted */
	size_t len; /* out */
};

static int get_chunks(struct fs *fs, const struct xattr_get *g, const struct xattr_pos *pos,
		      struct miss *miss)
{
	uint8_t *to = g->buf + XATTR_HEAD_MAX;

	for (unsigned i = 0; i < chunk_count(pos->value_len); i++) {
		struct key key = chunk_key(g->ino, pos->offset, i);
		const void *val;
		unsigned len;
		int err = tree_lookup(fs->v->tree, &key, miss, &val, &len);

		if (err == -ENOENT || (!err && len != chunk_bytes(pos->value_len, i)))
			return inode_corrupt(fs, g->ino, "value of an xattr is incomplete");
		if (err)
			return err;
		memcpy(to, val, len);
		to += len;
	}
	return 0;
}

static int get_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct xattr_get *g = arg;
	struct xattr_pos pos;
	struct disk_inode di;
	int err = inode_get(fs, g->ino, miss, &di);

	(void)q;
	if (!err)
		err = xattr_find(fs, g->ino, g->name, miss, &pos);
	if (err)
		return err;
	if (!pos.found)
		return -ENODATA;
	g->len = pos.value_len;
	if (!g->room)
		return 0;
	if (g->room < g->len)
		return -ERANGE;
	memcpy(g->buf, pos.head, pos.head_len);
	return get_chunks(fs, g, &pos, miss);
}

int fs_getxattr(struct fs *fs, struct dev_queue *q, uint64_t ino, const char *name, void *buf, size_t *len)
{
	struct xattr_get g = {.ino = ino, .name = name, .buf = buf, .room = *len};
	int err = name_len_check(name);

	if (!err)
		err = fs_run(fs, q, get_step, &g);
	if (!err)
		*len = g.len;
	return err;
}

/* --- list --- */

struct xattr_list {
	uint64_t ino;
	char *buf;
	size_t room; /* 0: only the length is wanted */
	size_t len; /* out */
};

static int list_name(struct fs *fs, struct xattr_list *l, const struct tree_cursor *c)
{
	struct disk_xattr xa;
	const char *name;

	if (!xattr_decode(c->val, c->len, &xa, &name))
		return inode_corrupt(fs, l->ino, "malformed xattr");
	if (l->room) {
		if (l->room - l->len <= xa.name_len)
			return -ERANGE;
		memcpy(l->buf + l->len, name, xa.name_len);
		l->buf[l->len + xa.name_len] = 0;
	}
	l->len += xa.name_len + 1u;
	return 0;
}

static int list_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct xattr_list *l = arg;
	struct key key = key_make(l->ino, ITEM_XATTR, 0);
	struct disk_inode di;
	struct tree_cursor c;
	int err = inode_get(fs, l->ino, miss, &di);

	(void)q;
	l->len = 0;
	if (err)
		return err;
	for (err = tree_first(fs->v->tree, &c, &key, miss); !err; err = tree_next(fs->v->tree, &c, miss)) {
		if (c.key.object != l->ino || c.key.type != ITEM_XATTR)
			return 0;
		err = list_name(fs, l, &c);
		if (err)
			return err;
	}
	return err == -ENOENT ? 0 : err;
}

int fs_listxattr(struct fs *fs, struct dev_queue *q, uint64_t ino, char *buf, size_t *len)
{
	struct xattr_list l = {.ino = ino, .buf = buf, .room = *len};
	int err = fs_run(fs, q, list_step, &l);

	if (!err)
		*len = l.len;
	return err;
}
