/* SPDX-License-Identifier: Apache-2.0 */
/* do_attr.c - operations on attributes and extended attributes. */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#define XATTR_NAMES 6u

/* --- attributes -------------------------------------------------------------------------------- */

static void do_getattr(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, PICK_ANY, op->r[0]);
	struct fs_attr attr;

	if (!t.ino)
		return;
	int rc = fs_getattr(s->fs, s->q, t.ino, &attr);

	trace(s, "inode %llu: %d", (unsigned long long)t.ino, rc);
	if (!judge(s, rc, 0))
		return;
	same_rc(s, rc, 0);
	same_attr(s, t.ino, &attr);
}

static struct timespec time_of(uint64_t random)
{
	return (struct timespec){.tv_sec = (int64_t)(random % 4000000000) - 1000000000,
				 .tv_nsec = (int64_t)((random >> 33) % 1000000000)};
}

static struct fs_attr wish_of(const struct op *op, uint64_t size)
{
	return (struct fs_attr){
		.mode = op->r[2] & 07777,
		.uid = op->r[2] >> 16 & 0xffff,
		.gid = op->r[2] >> 32 & 0xffff,
		.size = size,
		.atime = time_of(op->r[3]),
		.mtime = time_of(op->r[4]),
		.ctime = time_of(op->r[3] ^ op->r[4]),
	};
}

uint64_t acl_blocks(const struct sim *s, uint64_t ino, const char *name)
{
	const struct minode *i = model_get(s->model, ino);
	const struct mxattr *x = i ? model_xattr(i, name) : NULL;

	return x ? 8 + 2 * x->value->len / 1024 : 0;
}

static void set_attr(struct sim *s, const struct op *op, struct target *t, unsigned set, uint64_t size)
{
	struct fs_attr wish = wish_of(op, size), out = {0};
	struct mattr to = {wish.mode, wish.uid, wish.gid, wish.size, wish.atime, wish.mtime, wish.ctime};
	const struct minode *i = model_get(s->model, t->ino);
	bool grows = set & FS_SET_SIZE && i && size > i->size;

	int rc = fs_setattr(s->fs, s->q, t->ino, set, &wish, &out);

	trace(s, "inode %llu, what 0x%x, size %llu: %d", (unsigned long long)t->ino, set, (unsigned long long)size, rc);
	if (!judge(s, rc, (grows ? 8 : 4) + acl_blocks(s, t->ino, MODEL_ACL_ACCESS)))
		return;
	same_rc(s, rc, model_setattr(s->model, t->ino, set, &to));
	if (rc)
		return;
	same_attr(s, t->ino, &out);
	obey(s, t->ino, false);
}

static void do_setattr(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, PICK_ANY, op->r[0]);
	unsigned set = op->r[1] & 0x1ff & ~FS_SET_SIZE;

	if (t.ino && target_take(s, &t)) {
		set_attr(s, op, &t, set, 0);
		target_drop(s, &t);
	}
}

static uint64_t size_of(struct sim *s, const struct op *op, uint64_t size)
{
	uint64_t span = s->plan->profile->span, r = op->r[2] >> 8;

	switch (op->r[2] % 12) {
	case 0:
		return 0;
	case 1:
		return size;
	case 2:
		return r % 1500;
	case 3:
		return r % (span / MODEL_PAGE + 1) * MODEL_PAGE;
	case 4:
		return op->r[3] % 16 ? r % span : UINT64_C(1) << 40 | r % span;
	case 5:
		return op->r[3] % 32 ? size + r % 9000 : UINT64_MAX - r % 1000;
	default:
		return size ? r % size : 0;
	}
}

static void do_truncate(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, op->r[0] % 32 ? PICK_FILE : PICK_ANY, op->r[1]);
	unsigned set = FS_SET_SIZE | (op->r[3] % 8 ? 0 : op->r[4] & 0x1ff);

	drain(s);
	if (!t.ino || !target_take(s, &t))
		return;
	set_attr(s, op, &t, set, size_of(s, op, model_get(s->model, t.ino)->size));
	target_drop(s, &t);
}

void do_attr(struct sim *s, const struct op *op)
{
	switch (op->kind) {
	case OP_GETATTR:
		do_getattr(s, op);
		break;
	case OP_SETATTR:
		do_setattr(s, op);
		break;
	default:
		do_truncate(s, op);
		break;
	}
}

/* --- extended attributes ----------------------------------------------------------------------- */

static void xattr_name(uint64_t random, char name[300])
{
	unsigned n = (unsigned)(random % XATTR_NAMES);
	int len = sprintf(name, "user.%u", n);

	if (n == XATTR_NAMES - 1) {
		memset(name + len, 'z', 255 - (size_t)len);
		name[255] = 0;
	}
	if (random % 256 == 255)
		strcpy(name, "");
}

/* Whoever removes a large one needs all its nodes in memory at once: with a cache below what mount(8) takes they would evict
 * each other for ever. */
static size_t value_len(const struct sim *s, uint64_t random)
{
	if (s->plan->cache_bytes && s->plan->cache_bytes < 1 << 20)
		return random % 8 ? (random >> 8) % 300 : (random >> 8) % 3000;
	switch (random % 8) {
	case 0:
		return (random >> 8) % 65537;
	case 1:
		return (random >> 8) % 5000;
	case 2:
		return 760 + (random >> 8) % 20;
	default:
		return (random >> 8) % 300;
	}
}

static void do_setxattr(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, PICK_ANY, op->r[0]);
	size_t len = value_len(s, op->r[2]);
	int flags = op->r[3] % 6 == 1 ? XATTR_CREATE : op->r[3] % 6 == 2 ? XATTR_REPLACE : 0;
	char name[300];

	xattr_name(op->r[1], name);
	pattern(s->lab->other, len, 0, op->label);
	if (!t.ino || !target_take(s, &t))
		return;
	int rc = fs_setxattr(s->fs, s->q, t.ino, name, s->lab->other, len, flags);

	trace(s, "inode %llu %.20s, %zu bytes, flags %d: %d", (unsigned long long)t.ino, name, len, flags, rc);
	/* `other` may have been used by what ran meanwhile. */
	pattern(s->lab->other, len, 0, op->label);
	if (judge(s, rc, 8 + len / 1024))
		same_rc(s, rc, model_setxattr(s->model, t.ino, name, s->lab->other, len, flags));
	if (!rc)
		obey(s, t.ino, false);
	target_drop(s, &t);
}

static void remove_xattr(struct sim *s, const struct op *op, const char *name)
{
	struct target t = target_pick(s, PICK_ANY, op->r[0]);

	if (!t.ino || !target_take(s, &t))
		return;
	int rc = fs_removexattr(s->fs, s->q, t.ino, name);

	trace(s, "inode %llu %.30s: %d", (unsigned long long)t.ino, name, rc);
	if (judge(s, rc, 0))
		same_rc(s, rc, model_removexattr(s->model, t.ino, name));
	if (!rc)
		obey(s, t.ino, false);
	target_drop(s, &t);
}

static void do_removexattr(struct sim *s, const struct op *op)
{
	char name[300];

	xattr_name(op->r[1], name);
	remove_xattr(s, op, name);
}

/* --- ACLs -------------------------------------------------------------------------------------- */

static uint8_t *acl_add(uint8_t *p, unsigned tag, unsigned perm, uint32_t id)
{
	const uint8_t e[8] = {(uint8_t)tag, 0, (uint8_t)perm, 0, (uint8_t)id, (uint8_t)(id >> 8), (uint8_t)(id >> 16), (uint8_t)(id >> 24)};

	memcpy(p, e, sizeof(e));
	return p + sizeof(e);
}

/* One in four is as the mode says it, one in eight is none. */
static size_t acl_make(const struct sim *s, const struct op *op, uint8_t *buf)
{
	uint64_t a = op->r[2], b = op->r[3];
	bool tiny_cache = s->plan->cache_bytes && s->plan->cache_bytes < 1 << 20;
	unsigned users = a % 4 ? a >> 2 & 3 : 0, groups = a % 4 ? a >> 4 & 1 : 0;
	uint8_t *p = buf;

	if (a % 64 == 63 && !tiny_cache)
		users = (unsigned)(a >> 8) % 540;
	memcpy(p, "\2\0\0", 4);
	p = acl_add(p + 4, 1, a >> 20 & 7, UINT32_MAX);
	for (unsigned i = 0; i < users; i++)
		p = acl_add(p, 2, (b >> i % 32) & 7, 1000 + i);
	p = acl_add(p, 4, a >> 23 & 7, UINT32_MAX);
	if (groups)
		p = acl_add(p, 8, a >> 26 & 7, 100);
	if (users + groups || a >> 29 & 1)
		p = acl_add(p, 16, a >> 30 & 7, UINT32_MAX);
	p = acl_add(p, 32, a >> 33 & 7, UINT32_MAX);
	size_t len = (size_t)(p - buf);
	if (op->r[4] % 8 == 0)
		buf[(op->r[4] >> 3) % len] ^= (uint8_t)(1u << (op->r[4] >> 32) % 8);
	else if (op->r[4] % 64 == 1)
		len = (op->r[4] >> 6) % len;
	return len;
}

static void do_setacl(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, PICK_ANY, op->r[0]);
	bool deflt = op->r[1] % 2;
	int flags = (op->r[1] >> 1) % 8 == 1 ? XATTR_CREATE : (op->r[1] >> 1) % 8 == 2 ? XATTR_REPLACE : 0;
	uint8_t buf[8192];
	size_t len = acl_make(s, op, buf);
	struct fs_attr attr;

	flags |= op->r[1] >> 8 & 1 ? FS_XATTR_KILL_SGID : 0;
	if (!t.ino || !target_take(s, &t))
		return;
	int rc = fs_setxattr(s->fs, s->q, t.ino, deflt ? MODEL_ACL_DEFAULT : MODEL_ACL_ACCESS, buf, len, flags);

	trace(s, "inode %llu %s ACL, %zu bytes, flags %x: %d", (unsigned long long)t.ino, deflt ? "default" : "access", len, flags, rc);
	if (judge(s, rc, 8 + len / 1024)) {
		same_rc(s, rc, model_setacl(s->model, t.ino, deflt, buf, len, flags));
		rc = s->shut ? -EIO : fs_getattr(s->fs, s->q, t.ino, &attr);
		if (judge(s, rc, 0))
			same_attr(s, t.ino, &attr);
	}
	target_drop(s, &t);
}

static void do_removeacl(struct sim *s, const struct op *op)
{
	remove_xattr(s, op, op->r[1] % 2 ? MODEL_ACL_DEFAULT : MODEL_ACL_ACCESS);
}

/* --- reading them ------------------------------------------------------------------------------ */

static int value_rc(const struct mxattr *x, const char *name, size_t room)
{
	if (!*name)
		return -ERANGE;
	if (!x)
		return -ENODATA;
	return room && room < x->value->len ? -ERANGE : 0;
}

static void do_getxattr(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, PICK_ANY, op->r[0]);
	size_t room = op->r[2] % 4 ? 65536 : value_len(s, op->r[2]), len = room;
	char name[300];

	xattr_name(op->r[1], name);
	if (!t.ino || !target_take(s, &t))
		return;
	int rc = fs_getxattr(s->fs, s->q, t.ino, name, s->lab->other, &len);
	const struct mxattr *x = model_xattr(model_get(s->model, t.ino), name);

	trace(s, "inode %llu %.20s into %zu bytes: %d", (unsigned long long)t.ino, name, room, rc);
	if (judge(s, rc, 0)) {
		same_rc(s, rc, value_rc(x, name, room));
		if (!rc && (len != x->value->len || (room && memcmp(s->lab->other, x->value->data, len))))
			violation(s, "xattr", "another value of %s", name);
	}
	target_drop(s, &t);
}

static void same_list(struct sim *s, const struct minode *i, const char *list, size_t len)
{
	unsigned n = 0;

	for (const char *name = list; name < list + len; name += strlen(name) + 1, n++) {
		if (!model_xattr(i, name))
			violation(s, "xattr", "%s is listed and not there", name);
	}
	if (n != (i->xattrs ? i->xattrs->n : 0))
		violation(s, "xattr", "%u extended attributes are listed", n);
}

static void do_listxattr(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, PICK_ANY, op->r[0]);
	size_t room = op->r[2] % 4 ? 4096 : (op->r[2] >> 8) % 64, len = room, all = 0;

	if (!t.ino || !target_take(s, &t))
		return;
	int rc = fs_listxattr(s->fs, s->q, t.ino, true, (char *)s->lab->other, &len);
	const struct minode *i = model_get(s->model, t.ino);

	for (unsigned k = 0; i->xattrs && k < i->xattrs->n; k++)
		all += i->xattrs->xattr[k].name->len + 1;
	trace(s, "inode %llu into %zu bytes: %d", (unsigned long long)t.ino, room, rc);
	if (judge(s, rc, 0)) {
		same_rc(s, rc, room && room < all ? -ERANGE : 0);
		if (!rc && len != all)
			violation(s, "xattr", "a list of %zu bytes, not %zu", len, all);
		if (!rc && room)
			same_list(s, i, (const char *)s->lab->other, len);
	}
	target_drop(s, &t);
}

void do_xattr(struct sim *s, const struct op *op)
{
	switch (op->kind) {
	case OP_SETXATTR:
		do_setxattr(s, op);
		break;
	case OP_GETXATTR:
		do_getxattr(s, op);
		break;
	case OP_LISTXATTR:
		do_listxattr(s, op);
		break;
	case OP_SETACL:
		do_setacl(s, op);
		break;
	case OP_REMOVEACL:
		do_removeacl(s, op);
		break;
	default:
		do_removexattr(s, op);
		break;
	}
}
