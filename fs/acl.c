/* SPDX-License-Identifier: Apache-2.0 */
/* acl.c - see the header. */
#include "fs/acl.h"

#include <string.h>

#include "core/bug.h"

int acl_may_have(enum acl_kind kind, const struct disk_inode *di)
{
	if (mode_is(di, S_IFLNK))
		return -EOPNOTSUPP;
	return kind == ACL_IS_DEFAULT && !mode_is(di, S_IFDIR) ? -EACCES : 0;
}

/* --- stored ones --- */

/* The ACL that was found. */
static int acl_load(struct fs *fs, uint64_t ino, const struct xattr_pos *pos, struct miss *miss, struct acl *out)
{
	uint8_t val[ACL_MAX_BYTES];

	if (pos->value_len > sizeof(val))
		return inode_corrupt(fs, ino, "invalid ACL");
	int err = xattr_value(fs, ino, pos, miss, val);
	if (err)
		return err;
	return acl_decode(val, pos->value_len, out) ? inode_corrupt(fs, ino, "invalid ACL") : 0;
}

int acl_follow_mode(struct fs *fs, struct txn *t, uint64_t ino, const struct disk_inode *di, struct miss *miss)
{
	uint8_t val[ACL_MAX_BYTES];
	struct xattr_pos pos;
	struct acl acl;

	if (mode_is(di, S_IFLNK) || BUG(ACL_LEFT_BY_CHMOD))
		return 0;
	int err = xattr_find(fs, ino, ACL_NAME_ACCESS, miss, &pos);
	if (err || !pos.found)
		return err;
	err = acl_load(fs, ino, &pos, miss, &acl);
	if (err)
		return err;
	uint32_t old = 0;
	acl_to_mode(&acl, &old);
	if (old == (get32(di->mode) & 0777))
		return 0;
	acl_set_mode(&acl, get32(di->mode));
	xattr_record(t, ino, ACL_NAME_ACCESS, val, acl_encode(&acl, val), &pos);
	return 0;
}

/* --- default ACLs --- */

/*
 * Most directories have none, and each creation asks.  So what was found out is remembered with the known inode, which a parent is as
 * a rule: one search of the tree for each directory, not for each file.
 */
static void default_note(struct fs *fs, uint64_t ino, enum default_acl known)
{
	struct inode *inode = inode_find(fs, ino);

	if (inode)
		inode->default_acl = known;
}

void acl_default_changed(struct fs *fs, uint64_t ino, bool exists)
{
	default_note(fs, ino, exists ? DEFAULT_ACL_SOME : DEFAULT_ACL_NONE);
}

static int default_find(struct fs *fs, uint64_t dir, struct miss *miss, struct xattr_pos *pos)
{
	const struct inode *inode = inode_find(fs, dir);

	pos->found = false;
	if (inode && inode->default_acl == DEFAULT_ACL_NONE)
		return 0;
	int err = xattr_find(fs, dir, ACL_NAME_DEFAULT, miss, pos);
	if (!err)
		acl_default_changed(fs, dir, pos->found);
	return err;
}

/* --- creation --- */

int acl_from_dir(struct fs *fs, uint64_t dir, uint32_t umask, struct miss *miss, uint32_t *mode, struct acl_new *out)
{
	struct xattr_pos pos = {.found = false};
	struct acl acl;

	out->access_len = out->default_len = 0;
	if (S_ISLNK(*mode))
		return 0;
	int err = fs->cfg.no_acl ? 0 : default_find(fs, dir, miss, &pos);
	if (err)
		return err;
	if (!pos.found) {
		*mode &= ~(umask & 0777);
		return 0;
	}
	err = acl_load(fs, dir, &pos, miss, &acl);
	if (err)
		return err;
	if (S_ISDIR(*mode))
		out->default_len = acl_encode(&acl, out->deflt);
	if (!acl_inherit(&acl, mode))
		out->access_len = acl_encode(&acl, out->access);
	return 0;
}

void acl_record_new(struct fs *fs, struct txn *t, uint64_t ino, const struct acl_new *acl)
{
	struct xattr_pos pos = {.offset = 0};

	if (acl->access_len) {
		pos.offset = xattr_first_place(fs, ACL_NAME_ACCESS, 0);
		xattr_record(t, ino, ACL_NAME_ACCESS, acl->access, acl->access_len, &pos);
	}
	if (acl->default_len) {
		pos.offset = xattr_first_place(fs, ACL_NAME_DEFAULT, pos.offset);
		xattr_record(t, ino, ACL_NAME_DEFAULT, acl->deflt, acl->default_len, &pos);
	}
}
