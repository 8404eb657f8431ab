/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dir.h - what dir.c, rename.c and readdir.c share.  Not for others.
 *
 * An entry is an item at dirent_offset(name) + collision index.  Removals leave gaps among the indexes, so a
 * search looks at all items of the hash value; a new entry takes the lowest free index.
 */
#ifndef HOLDFAST_FS_DIR_H
#define HOLDFAST_FS_DIR_H

#include "fs/fs_impl.h"

struct dir_pos {
	uint64_t offset;	/* of the entry's item; without an entry: of the item it would get, 0 if all indexes are taken */
	uint64_t ino;		/* 0: no such entry */
	uint8_t ftype;		/* DT_* */
};

/* -EINVAL (empty, '/' or NUL inside), -ENAMETOOLONG, 0. */
int name_check(const char *name, size_t len);
/* Is it "." (1) or ".." (2)?  Else 0. */
unsigned name_dots(const char *name, size_t len);

/* 0 whether the entry exists or not (pos->ino); -EAGAIN, -EUCLEAN. */
int dir_find(struct fs *fs, uint64_t dir, const char *name, size_t len, struct miss *miss, struct dir_pos *pos);
void dir_put(struct txn *t, uint64_t dir, uint64_t offset, const char *name, size_t len, uint64_t ino, uint8_t ftype);
void dir_del(struct txn *t, uint64_t dir, uint64_t offset);

/* The directory's own fields after `entries` more entries (or fewer) and `subdirs` more subdirectories; mtime and ctime are now.
 * -EMLINK; -EUCLEAN if the counts cannot be. */
int dir_account(struct fs *fs, uint64_t dir, struct disk_inode *di, int entries, int subdirs, const struct timespec *now);

/* A new inode's item, with the link of its first name and nothing in it.  `mode` has the type.  A setgid directory passes its group on, and
 * to directories the bit. */
void inode_make(struct fs *fs, const struct fs_cred *cred, const struct disk_inode *dir, uint32_t mode, const struct timespec *now,
		struct disk_inode *di);

/* The inode loses a name: nlink (a directory's becomes 0: it must be empty, -ENOTEMPTY), ctime. -EUCLEAN. */
int inode_drop_link(struct fs *fs, uint64_t ino, struct disk_inode *di, const struct timespec *now);

#endif
