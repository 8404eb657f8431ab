/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xattr.h - what xattr.c and acl.c share: attributes of an inode within somebody's step and transaction.  Lock held.
 */
#ifndef HOLDFAST_FS_XATTR_H
#define HOLDFAST_FS_XATTR_H

#include "fs/fs_impl.h"

/* Where a name's items are. */
struct xattr_pos {
	uint64_t offset; /* of the head; if there is none: where it would go, 0 if all collision indexes are taken */
	bool found;
	uint32_t value_len;
	unsigned head_len; /* bytes of the value in the head */
	const uint8_t *head; /* those; valid until the next call that may mutate or look up */
};

/* 0 whether it exists or not; -EAGAIN, -EUCLEAN. */
int xattr_find(struct fs *fs, uint64_t ino, const char *name, struct miss *miss, struct xattr_pos *pos);

/* The value that was found, all pos->value_len bytes of it. */
int xattr_value(struct fs *fs, uint64_t ino, const struct xattr_pos *pos, struct miss *miss, uint8_t *buf);

/* Records that the attribute gets this value, or, with `val` NULL, that it goes; whose items must all be there: xattr_check(). */
void xattr_record(struct txn *t, uint64_t ino, const char *name, const uint8_t *val, size_t len,
		  const struct xattr_pos *pos);
int xattr_check(struct fs *fs, uint64_t ino, const struct xattr_pos *pos, struct miss *miss);

/* Where an attribute of an inode without any goes; `taken`: the place of another one, or 0. */
uint64_t xattr_first_place(struct fs *fs, const char *name, uint64_t taken);

#endif
