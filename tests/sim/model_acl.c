/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model_acl.c - ACLs: acl(5), worked out on the bytes of the attributes.  Entries have 8 bytes: tag, permissions, id; the ones that
 * the mode shows are the first, the last, and the last but one (the mask, which stands there, or without one the group).
 */
#include "tests/sim/model.h"

#include <errno.h>
#include <string.h>
#include <sys/xattr.h>

#define HEAD 4u
#define ENTRY 8u
#define LONGEST 4096u
#define KILL_SGID 0x100 /* FS_XATTR_KILL_SGID */

enum { OWNER = 1, USER = 2, GROUP_OBJ = 4, GROUP = 8, MASK = 16, OTHER = 32 };

static unsigned half(const uint8_t *p)
{
	return p[0] | (unsigned)p[1] << 8;
}

/* As one letter each, or '?'. */
static char letter(const uint8_t *e)
{
	static const uint8_t nobody[4] = {0xff, 0xff, 0xff, 0xff};
	bool id = memcmp(e + 4, nobody, 4) != 0;

	if (half(e + 2) > 7)
		return '?';
	switch (half(e)) {
	case OWNER:
		return 'o';
	case USER:
		return id ? 'u' : '?';
	case GROUP_OBJ:
		return 'g';
	case GROUP:
		return id ? 'n' : '?';
	case MASK:
		return 'm';
	case OTHER:
		return 'r';
	default:
		return '?';
	}
}

/* o u* g n* m? r, and the m if there is a u or n. */
static int acl_check(const uint8_t *val, size_t len)
{
	char text[LONGEST / ENTRY + 2];
	size_t n = 0, at = 0;

	if (len > LONGEST - HEAD)
		return -E2BIG;
	if (len < HEAD || (len - HEAD) % ENTRY || memcmp(val, "\2\0\0", HEAD))
		return -EINVAL;
	for (size_t k = HEAD; k < len; k += ENTRY)
		text[n++] = letter(val + k);
	text[n] = 0;
	if (text[at++] != 'o')
		return -EINVAL;
	size_t users = strspn(text + at, "u");
	at += users;
	if (text[at++] != 'g')
		return -EINVAL;
	size_t groups = strspn(text + at, "n");
	at += groups;
	return strcmp(text + at, "mr") == 0 || (users + groups == 0 && strcmp(text + at, "r") == 0) ? 0 : -EINVAL;
}

/* Ids of those that have none are always the same. */
static void acl_tidy(uint8_t *val, size_t len)
{
	for (size_t k = HEAD; k < len; k += ENTRY) {
		if (half(val + k) != USER && half(val + k) != GROUP)
			memset(val + k + 4, 0xff, 4);
	}
}

static uint8_t *perm(uint8_t *val, size_t len, unsigned class)
{
	return class == 0 ? val + HEAD + 2 : val + len - (class == 1 ? 2 : 1) * ENTRY + 2;
}

static uint32_t bits(uint8_t *val, size_t len)
{
	return (uint32_t)(*perm(val, len, 0) << 6 | *perm(val, len, 1) << 3 | *perm(val, len, 2));
}

static bool is_plain(size_t len)
{
	return len == HEAD + 3 * ENTRY;
}

int model_setacl(struct model *m, uint64_t ino, bool deflt, const void *value, size_t len, int flags)
{
	const char *name = deflt ? MODEL_ACL_DEFAULT : MODEL_ACL_ACCESS;
	uint8_t val[LONGEST];
	int err = len > 65536 ? -E2BIG : acl_check(value, len);

	if (err)
		return err;
	const struct minode *had = model_get(m, ino);
	if (!had)
		return -ESTALE;
	if (minode_check_free(had))
		return -EPERM;
	if (model_xattr(had, name) ? flags & XATTR_CREATE : flags & XATTR_REPLACE)
		return flags & XATTR_CREATE && model_xattr(had, name) ? -EEXIST : -ENODATA;
	if (S_ISLNK(had->mode))
		return -EOPNOTSUPP;
	if (deflt && !S_ISDIR(had->mode))
		return -EACCES;
	memcpy(val, value, len);
	acl_tidy(val, len);
	struct minode *i = model_edit(m, ino);

	minode_put_xattr(i, name, !deflt && is_plain(len) ? NULL : val, len);
	if (!deflt)
		i->mode = (i->mode & ~(0777u | (flags & KILL_SGID ? S_ISGID : 0u))) | bits(val, len);
	i->ctime = m->now;
	minode_touch(m, i, false);
	model_commit(m);
	return 0;
}

void minode_follow_mode(struct minode *i)
{
	const struct mxattr *x = model_xattr(i, MODEL_ACL_ACCESS);
	uint8_t val[LONGEST];

	if (!x)
		return;
	size_t len = x->value->len;
	memcpy(val, x->value->data, len);
	for (unsigned class = 0; class < 3; class++)
		*perm(val, len, class) = i->mode >> (6 - 3 * class) & 7;
	minode_put_xattr(i, MODEL_ACL_ACCESS, val, len);
}

void minode_inherit(struct minode *i, const struct minode *dir, uint32_t umask)
{
	const struct mxattr *x = model_xattr(dir, MODEL_ACL_DEFAULT);
	uint8_t val[LONGEST];

	if (S_ISLNK(i->mode))
		return;
	if (!x) {
		i->mode &= ~umask;
		return;
	}
	size_t len = x->value->len;
	memcpy(val, x->value->data, len);
	if (S_ISDIR(i->mode))
		minode_put_xattr(i, MODEL_ACL_DEFAULT, val, len);
	for (unsigned class = 0; class < 3; class++)
		*perm(val, len, class) &= i->mode >> (6 - 3 * class) & 7;
	i->mode = (i->mode & ~0777u) | bits(val, len);
	if (!is_plain(len))
		minode_put_xattr(i, MODEL_ACL_ACCESS, val, len);
}
