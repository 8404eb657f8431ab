/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xattr.c - extended attributes: a head item with the name and the value's beginning, and items with the rest of it.
 *
 * Names are taken as they come: which namespaces there are and who may use them, the kernel and the glue decide.  ACLs are
 * attributes like others, with values that must make sense, and with a mode beside them: acl.h.
 */
#include <string.h>
#include <sys/xattr.h>

#include "core/bug.h"
#include "fs/acl.h"
#include "fs/hashed.h"

#define CHUNKS_MAX ((MAX_XATTR - XATTR_HEAD_MAX + XATTR_CHUNK - 1) / XATTR_CHUNK)
static_assert(CHUNKS_MAX <= 128, "a chunk's number has 7 bits");

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

static int xattr_name_check(const struct fs *fs, const char *name)
{
	size_t len = strlen(name);

	if (len < 1 || len > MAX_NAME)
		return -ERANGE;
	return fs->cfg.no_acl && acl_kind(name) != ACL_IS_NONE ? -EOPNOTSUPP : 0;
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
static int xattr_match(struct fs *fs, const struct tree_cursor *c, const char *name, size_t len, void *pos)
{
	struct disk_xattr xa;
	const char *found;

	if (!xattr_decode(c->val, c->len, &xa, &found))
		return inode_corrupt(fs, c->key.object, "malformed xattr");
	if (xa.name_len != len || memcmp(found, name, len))
		return 0;
	*(struct xattr_pos *)pos = (struct xattr_pos){
		.offset = c->key.offset,
		.found = true,
		.value_len = get32(xa.value_len),
		.head_len = head_bytes(get32(xa.value_len)),
		.head = (const uint8_t *)found + len,
	};
	return 1;
}

int xattr_find(struct fs *fs, uint64_t ino, const char *name, struct miss *miss, struct xattr_pos *pos)
{
	size_t len = strlen(name);
	struct key first = key_make(ino, ITEM_XATTR, xattr_offset(&fs->v->sb, name, len));
	uint64_t free;
	int found = hashed_find(fs, &first, name, len, xattr_match, pos, miss, &free);

	if (found)
		return found < 0 ? found : 0;
	*pos = (struct xattr_pos){.offset = free};
	return 0;
}

/* --- set and remove --- */

static void put_head(struct txn *t, uint64_t ino, uint64_t offset, const char *name, const uint8_t *val, size_t len)
{
	size_t name_len = strlen(name);
	struct disk_xattr xa = {.value_len = put32((uint32_t)len), .name_len = (uint8_t)name_len};
	struct key key = key_make(ino, ITEM_XATTR, offset);
	uint8_t item[sizeof(xa) + MAX_NAME + XATTR_HEAD_MAX];
	unsigned head = head_bytes(len);

	memcpy(item, &xa, sizeof(xa));
	memcpy(item + sizeof(xa), name, name_len);
	if (head)
		memcpy(item + sizeof(xa) + name_len, val, head);
	txn_put(t, &key, item, (unsigned)(sizeof(xa) + name_len + head));
}

static void put_chunks(struct txn *t, uint64_t ino, uint64_t offset, const uint8_t *val, size_t len)
{
	for (unsigned i = 0; i < chunk_count(len); i++) {
		struct key key = chunk_key(ino, offset, i);

		txn_put(t, &key, val + XATTR_HEAD_MAX + (size_t)i * XATTR_CHUNK, chunk_bytes(len, i));
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

void xattr_record(struct txn *t, uint64_t ino, const char *name, const uint8_t *val, size_t len,
		  const struct xattr_pos *pos)
{
	struct key key = key_make(ino, ITEM_XATTR, pos->offset);

	if (!val) {
		txn_del(t, &key);
		del_chunks(t, ino, pos, 0);
		return;
	}
	put_head(t, ino, pos->offset, name, val, len);
	put_chunks(t, ino, pos->offset, val, len);
	if (pos->found && !BUG(XATTR_CHUNK_LEFT))
		del_chunks(t, ino, pos, chunk_count(len));
}

/* Items that are to be deleted must exist. */
int xattr_check(struct fs *fs, uint64_t ino, const struct xattr_pos *pos, struct miss *miss)
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

uint64_t xattr_first_place(struct fs *fs, const char *name, uint64_t taken)
{
	uint64_t offset = xattr_offset(&fs->v->sb, name, strlen(name));

	return offset == taken ? offset + 1 : offset;
}

struct xattr_set {
	uint64_t ino;
	const char *name;
	const uint8_t *val; /* NULL: remove */
	size_t len;
	int flags;
	enum acl_kind kind;
	const struct acl *acl; /* that is set; else NULL */
};

static int check_set(const struct xattr_set *s, const struct xattr_pos *pos)
{
	if (pos->found)
		return s->flags & XATTR_CREATE ? -EEXIST : 0;
	if (!s->val || s->flags & XATTR_REPLACE)
		return -ENODATA;
	return pos->offset ? 0 : -ENOSPC;
}

/* What an ACL that is set means for the mode; *keep: there is something left to store. */
static int set_acl(const struct xattr_set *s, struct disk_inode *di, bool *keep)
{
	uint32_t mode = get32(di->mode);
	int err = acl_may_have(s->kind, di);

	if (err || s->kind != ACL_IS_ACCESS)
		return err;
	*keep = !acl_to_mode(s->acl, &mode);
	if (s->flags & FS_XATTR_KILL_SGID)
		mode &= ~(uint32_t)S_ISGID;
	if (!BUG(ACL_WITHOUT_MODE))
		di->mode = put32(mode);
	return 0;
}

static int set_commit(struct fs *fs, struct dev_queue *q, const struct xattr_set *s, const struct xattr_pos *pos,
		      const uint8_t *val, struct disk_inode *di, struct miss *miss)
{
	struct timespec now;
	uint64_t lsn = 0;
	struct txn t;

	fs_now(fs, &now);
	di->ctime = time_encode(&now);
	txn_begin(&t, fs->v);
	if (BUG(ACL_IN_TWO)) {
		inode_put(&t, s->ino, di);
		int early = txn_commit(&t, q, 0, miss, NULL, NULL);
		txn_end(&t);
		if (early)
			return early;
		txn_begin(&t, fs->v);
	}
	if (val || pos->found)
		xattr_record(&t, s->ino, s->name, val, s->len, pos);
	inode_put(&t, s->ino, di);
	int err = txn_commit(&t, q, val ? 0 : TXN_URGENT, miss, NULL, &lsn);
	txn_end(&t);
	if (err)
		return err;
	inode_changed(fs, s->ino, lsn, false);
	if (s->kind == ACL_IS_DEFAULT && !BUG(DEFAULT_ACL_STALE))
		acl_default_changed(fs, s->ino, val != NULL);
	return 0;
}

static int set_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	const struct xattr_set *s = arg;
	struct xattr_pos pos;
	struct disk_inode di;
	bool keep = true;
	int err = inode_get(fs, s->ino, miss, &di);

	if (!err)
		err = flags_check_free(&di);
	if (!err)
		err = xattr_find(fs, s->ino, s->name, miss, &pos);
	if (!err)
		err = check_set(s, &pos);
	if (!err)
		err = xattr_check(fs, s->ino, &pos, miss);
	if (!err && s->acl)
		err = set_acl(s, &di, &keep);
	return err ? err : set_commit(fs, q, s, &pos, keep ? s->val : NULL, &di, miss);
}

int fs_setxattr(struct fs *fs, struct dev_queue *q, uint64_t ino, const char *name, const void *val,
		size_t len, int flags)
{
	struct xattr_set s = {ino, name, len ? val : (const void *)"", len, flags, acl_kind(name), NULL};
	uint8_t bytes[ACL_MAX_BYTES];
	struct acl acl;
	int err = xattr_name_check(fs, name);

	if (err)
		return err;
	if (len > MAX_XATTR)
		return -E2BIG;
	if (flags & ~(XATTR_CREATE | XATTR_REPLACE | FS_XATTR_KILL_SGID))
		return -EINVAL;
	if (s.kind != ACL_IS_NONE) {
		err = acl_decode(s.val, len, &acl);
		if (err)
			return err;
		s.acl = &acl;
		s.val = bytes;
		s.len = acl_encode(&acl, bytes);
	}
	return fs_run(fs, q, set_step, &s);
}

int fs_removexattr(struct fs *fs, struct dev_queue *q, uint64_t ino, const char *name)
{
	struct xattr_set s = {.ino = ino, .name = name, .kind = acl_kind(name)};
	int err = xattr_name_check(fs, name);

	return err ? err : fs_run(fs, q, set_step, &s);
}

/* --- get --- */

int xattr_value(struct fs *fs, uint64_t ino, const struct xattr_pos *pos, struct miss *miss, uint8_t *buf)
{
	memcpy(buf, pos->head, pos->head_len);
	buf += pos->head_len;
	for (unsigned i = 0; i < chunk_count(pos->value_len); i++) {
		struct key key = chunk_key(ino, pos->offset, i);
		const void *val;
		unsigned len;
		int err = tree_lookup(fs->v->tree, &key, miss, &val, &len);

		if (err == -ENOENT || (!err && len != chunk_bytes(pos->value_len, i)))
			return inode_corrupt(fs, ino, "value of an xattr is incomplete");
		if (err)
			return err;
		memcpy(buf, val, len);
		buf += len;
	}
	return 0;
}

struct xattr_get {
	uint64_t ino;
	const char *name;
	uint8_t *buf;
	size_t room; /* 0: only the length is wanted */
	size_t len; /* out */
	bool is_acl;
};

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
	err = xattr_value(fs, g->ino, &pos, miss, g->buf);
	if (!err && g->is_acl && !acl_valid(g->buf, g->len))
		return inode_corrupt(fs, g->ino, "invalid ACL");
	return err;
}

int fs_getxattr(struct fs *fs, struct dev_queue *q, uint64_t ino, const char *name, void *buf, size_t *len)
{
	struct xattr_get g = {ino, name, buf, *len, 0, acl_kind(name) != ACL_IS_NONE};
	int err = xattr_name_check(fs, name);

	if (!err)
		err = fs_look(fs, q, get_step, &g);
	if (!err)
		*len = g.len;
	return err;
}

/* --- list --- */

struct xattr_list {
	uint64_t ino;
	bool trusted;
	char *buf;
	size_t room; /* 0: only the length is wanted */
	size_t len; /* out */
};

static bool name_is(const char *name, size_t len, const char *want)
{
	return len == strlen(want) && !memcmp(name, want, len);
}

static bool is_hidden(const struct fs *fs, const struct xattr_list *l, const char *name, size_t len)
{
	static const char trusted[] = "trusted.";

	if (!l->trusted && len >= sizeof(trusted) - 1 && !memcmp(name, trusted, sizeof(trusted) - 1))
		return true;
	return fs->cfg.no_acl && (name_is(name, len, ACL_NAME_ACCESS) || name_is(name, len, ACL_NAME_DEFAULT));
}

static int list_name(struct fs *fs, struct xattr_list *l, const struct tree_cursor *c)
{
	struct disk_xattr xa;
	const char *name;

	if (!xattr_decode(c->val, c->len, &xa, &name))
		return inode_corrupt(fs, l->ino, "malformed xattr");
	if (is_hidden(fs, l, name, xa.name_len))
		return 0;
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

int fs_listxattr(struct fs *fs, struct dev_queue *q, uint64_t ino, bool trusted, char *buf, size_t *len)
{
	struct xattr_list l = {.ino = ino, .trusted = trusted, .buf = buf, .room = *len};
	int err = fs_look(fs, q, list_step, &l);

	if (!err)
		*len = l.len;
	return err;
}
