/* SPDX-License-Identifier: Apache-2.0 */
/*
 * empty.h - a filesystem in memory behind fs.h: what is left of Holdfast without a journal, a tree and a disk.
 *
 * The daemon's own objects are linked with it, so that requests take the same way through the same loop and transports, and what is
 * measured on it is what FUSE costs.  It has real names, attributes and contents, which are gone with the daemon; fsync returns at once.  The
 * image that the daemon wants is opened and left alone.
 *
 * empty.c       inodes, names and attributes: hash tables
 * empty_data.c  contents of files: tables of pieces
 * empty_none.c  what it has not
 *
 * Locks: a directory's `lock` guards its names, and nlink of the inodes that they lead to may change under it; rename takes two in the order of
 * inode numbers.  An inode's `lock` guards everything else in it.  It is taken inside the former, and no other inside it.
 */
#ifndef HOLDFAST_TESTS_EMPTY_H
#define HOLDFAST_TESTS_EMPTY_H

#include <pthread.h>

#include "fs/fs.h"

struct dir;

/* Pieces of PIECE bytes, but the first one may be shorter; NULL: zeros.  Behind the file's size they hold zeros. */
#define PIECE (1u << 20)
struct contents {
	char **piece;
	uint64_t npieces;
	size_t first; /* room of piece 0 */
};

struct node {
	pthread_rwlock_t lock;
	struct fs_attr attr;
	uint64_t refs; /* of the kernel */
	union {
		struct dir *dir;
		struct contents contents;
		char *target;
		struct node *next_free;
	};
};

/* Nodes by inode number, in parts that stay where they are. */
#define PART 4096u
#define NPARTS 65536u
struct fs {
	struct volume *volume;
	struct node *_Atomic part[NPARTS];
	pthread_mutex_t lock; /* of the next two */
	struct node *free;
	uint64_t nnodes; /* that have ever been in use, and the number 0 */
	_Atomic uint64_t known;
};

/* The kernel asks only for what it knows, which is there. */
static inline struct node *node_of(struct fs *fs, uint64_t ino)
{
	return &fs->part[ino / PART][ino % PART];
}

/* Lock held for writing. */
void node_touch(struct node *n, bool contents);
void contents_free(struct contents *c);
int contents_truncate(struct node *n, uint64_t size);

#endif
