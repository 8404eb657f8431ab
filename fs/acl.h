/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acl.h - POSIX ACLs of inodes, for xattr.c, attr.c, truncate.c and dir.c.
 *
 * An access ACL is stored only if it says more than the mode, and both change in one transaction: the mode's bits are always those that
 * acl_to_mode() finds.  Whether access is granted, the kernel decides.
 */
#ifndef HOLDFAST_FS_ACL_H
#define HOLDFAST_FS_ACL_H

#include "core/acl.h"
#include "fs/xattr.h"

/* --- an ACL is set --- */

/* Before an ACL of this kind becomes part of *di: may it?  -EACCES (a default ACL of what is no directory), -EOPNOTSUPP (a symlink). */
int acl_may_have(enum acl_kind kind, const struct disk_inode *di);

/* The inode's default ACL was set or removed. */
void acl_default_changed(struct fs *fs, uint64_t ino, bool exists);

/* --- chmod --- */

/* Records what the mode in *di makes of the access ACL, if there is one. */
int acl_follow_mode(struct fs *fs, struct txn *t, uint64_t ino, const struct disk_inode *di, struct miss *miss);

/* --- creation --- */

struct acl_new {
	size_t access_len, default_len; /* 0: none */
	uint8_t access[ACL_MAX_BYTES], deflt[ACL_MAX_BYTES];
};

/* What a new inode of this mode gets from its directory: *mode loses what the default ACL, or without one the umask, takes
 * from it.  Symlinks get nothing and lose nothing. */
int acl_from_dir(struct fs *fs, uint64_t dir, uint32_t umask, struct miss *miss, uint32_t *mode, struct acl_new *out);
void acl_record_new(struct fs *fs, struct txn *t, uint64_t ino, const struct acl_new *acl);

#endif
