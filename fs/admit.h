/* SPDX-License-Identifier: Apache-2.0 */
/*
 * admit.h - with -o writeback: makes the kernel ask before it takes more into its cache than there is room for.
 *
 * The kernel acknowledges a write(2) as soon as its cache has it.  First it wants to know the file's mode, and if what it has of that is not
 * valid it asks for the attributes, through the open file.  So when room goes to an end (fs_is_low()) the attributes of all files that
 * somebody can write to are declared invalid, and are kept so; a question through an open file is then answered with ENOSPC if
 * fs_admit() says so.  stat(2) and open(2) ask without the file; reading and seeking to the end ask through it, but only when
 * attributes have expired, since size is what the kernel itself knows best.
 *
 * What each request for such a file does while there is little room:
 *   OPEN      the file is declared invalid before the reply: whatever was found out on the way to it has been taken by then;
 *   GETATTR   likewise; so the kernel finds that something has happened meanwhile, gives the reply to the caller and does not keep it;
 *   SETATTR, LINK, LOOKUP, STATX    the kernel keeps these in any case, so they expire at once.  A question through the file may be a reader's
 *             then, so that it is refused only when half of what is kept has been used as well (`deep`);
 *   READDIRPLUS    comes without attributes.
 *
 * Telling the kernel (FUSE_NOTIFY_INVAL_INODE) may make it wait for requests that others have to answer.  So one thread does all that,
 * and nobody waits for it but those who have asked.
 */
#ifndef HOLDFAST_FS_ADMIT_H
#define HOLDFAST_FS_ADMIT_H

#include "fs/fuse_ops.h"

struct admit;

int admit_create(struct admit **out);
/* Starts the thread, which tells the kernel by `inval`; that stays until admit_destroy(). */
int admit_start(struct admit *a, struct fs *fs, struct inval *inval);
/* Ends the thread; nobody asks any more, and all have been answered (loop_drain()).  NULL is fine. */
void admit_end(struct admit *a);
/* Nor does anybody call admit_space_low().  Ends it if need be. */
void admit_destroy(struct admit *a);

/* For fs_config.space_low. */
void admit_space_low(void *admit);

/* Answer OPEN and GETATTR, on the worker that calls, once the kernel has been told that `ino` is invalid. */
void admit_open(struct admit *a, fuse_req_t req, uint64_t ino, const struct fuse_file_info *fi);
void admit_getattr(struct admit *a, fuse_req_t req, const struct fs_attr *attr);

#endif
