/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attr.c - getattr, setattr, statfs.
 *
 * Who may change what, and which mode bits a change of owner clears, the kernel has decided before.  Changes of size are
 * truncate.c's, with all that comes in the same call.
 */
#include "fs/acl.h"

#define SECTORS_PER_BLOCK (BLOCK_SIZE / 512)
#define NSEC_PER_SEC 1000000000L
#define INODES_PER_BLOCK 8u /* statfs: what a free block is good for, at a guess */

#define SET_KNOWN                                                                                            \
	(FS_SET_MODE | FS_SET_UID | FS_SET_GID | FS_SET_SIZE | FS_SET_ATIME | FS_SET_MTIME | FS_SET_CTIME |  \
	 FS_SET_ATIME_NOW | FS_SET_MTIME_NOW | FS_SET_KILL_PRIV)

/* Inline contents take no blocks, but programs take a file with contents and without blocks for a hole. */
static uint64_t inode_sectors(const struct disk_inode *di)
{
	if (mode_is(di, S_IFREG) && get64(di->flags) & INODE_INLINE)
		return (get64(di->size) + 511) / 512;
	return get64(di->nblocks) * SECTORS_PER_BLOCK;
}

void inode_to_attr(uint64_t ino, const struct disk_inode *di, struct fs_attr *out)
{
	*out = (struct fs_attr){
		.ino = ino,
		.size = get64(di->size),
		.blocks = inode_sectors(di),
		.rdev = get64(di->rdev),
		.generation = get64(di->generation),
		.mode = get32(di->mode),
		.nlink = get32(di->nlink),
		.uid = get32(di->uid),
		.gid = get32(di->gid),
		.atime = time_decode(&di->atime),
		.mtime = time_decode(&di->mtime),
		.ctime = time_decode(&di->ctime),
		.btime = time_decode(&di->btime),
	};
}

/* --- getattr --- */

struct attr_get {
	uint64_t ino;
	struct fs_attr *out;
};

static int getattr_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct attr_get *g = arg;
	struct disk_inode di;
	int err = inode_get(fs, g->ino, miss, &di);

	(void)q;
	if (!err)
		inode_to_attr(g->ino, &di, g->out);
	return err;
}

int fs_getattr(struct fs *fs, struct dev_queue *q, uint64_t ino, struct fs_attr *out)
{
	struct attr_get g = {ino, out};

	return fs_look_shut_too(fs, q, getattr_step, &g);
}

/* --- setattr --- */

struct attr_set {
	uint64_t ino;
	unsigned set;
	const struct fs_attr *in;
	struct fs_attr *out;
};

bool mode_kill_priv(struct disk_inode *di)
{
	uint32_t mode = get32(di->mode), kept = mode & ~(uint32_t)S_ISUID;

	if (mode_is(di, S_IFDIR))
		return false;
	if (mode & S_IXGRP)
		kept &= ~(uint32_t)S_ISGID;
	di->mode = put32(kept);
	return kept != mode;
}

void attr_apply(struct fs *fs, struct disk_inode *di, unsigned set, const struct fs_attr *in,
		const struct timespec *now)
{
	(void)fs;
	if (set & FS_SET_KILL_PRIV)
		mode_kill_priv(di);
	if (set & FS_SET_MODE)
		di->mode = put32((get32(di->mode) & S_IFMT) | (in->mode & 07777));
	if (set & FS_SET_UID)
		di->uid = put32(in->uid);
	if (set & FS_SET_GID)
		di->gid = put32(in->gid);
	if (set & (FS_SET_ATIME | FS_SET_ATIME_NOW))
		di->atime = time_encode(set & FS_SET_ATIME_NOW ? now : &in->atime);
	if (set & (FS_SET_MTIME | FS_SET_MTIME_NOW))
		di->mtime = time_encode(set & FS_SET_MTIME_NOW ? now : &in->mtime);
	di->ctime = time_encode(set & FS_SET_CTIME ? &in->ctime : now);
}

static int setattr_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct attr_set *s = arg;
	struct disk_inode di;
	struct timespec now;
	uint64_t lsn = 0;
	struct txn t;
	int err = inode_get(fs, s->ino, miss, &di);

	if (!err)
		err = flags_check_attr(fs, s->ino, &di, s->set, s->in);
	if (err)
		return err;
	fs_now(fs, &now);
	attr_apply(fs, &di, s->set, s->in, &now);
	txn_begin(&t, fs->v);
	/* Times of what was written may come in a cached write's wake, and an item of the same length takes no room in the end. */
	txn_cached(&t);
	inode_put(&t, s->ino, &di);
	if (s->set & FS_SET_MODE)
		err = acl_follow_mode(fs, &t, s->ino, &di, miss);
	if (!err)
		err = txn_commit(&t, q, 0, miss, NULL, &lsn);
	txn_end(&t);
	if (err)
		return err;
	inode_changed(fs, s->ino, lsn, false);
	inode_to_attr(s->ino, &di, s->out);
	return 0;
}

static bool nsec_valid(const struct timespec *ts)
{
	return ts->tv_nsec >= 0 && ts->tv_nsec < NSEC_PER_SEC;
}

static bool set_valid(unsigned set, const struct fs_attr *in)
{
	if (set & ~SET_KNOWN)
		return false;
	return (!(set & FS_SET_ATIME) || nsec_valid(&in->atime)) &&
	       (!(set & FS_SET_MTIME) || nsec_valid(&in->mtime)) &&
	       (!(set & FS_SET_CTIME) || nsec_valid(&in->ctime));
}

int fs_setattr(struct fs *fs, struct dev_queue *q, uint64_t ino, unsigned set, const struct fs_attr *in,
	       struct fs_attr *out)
{
	struct attr_set s = {ino, set, in, out};

	if (!set_valid(set, in))
		return -EINVAL;
	if (!(set & FS_SET_SIZE))
		return fs_run(fs, q, setattr_step, &s);
	int err = truncate_setattr(fs, q, ino, set, in);
	return err ? err : fs_getattr(fs, q, ino, out);
}

/* --- statfs --- */

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* What is left for contents when the items that describe these have their blocks: one extent with its checksums fills up to half a
 * node, in two copies, for every EXTENT_MAX_BLOCKS blocks. */
static uint64_t for_contents(uint64_t nblocks)
{
	return nblocks - (nblocks + EXTENT_MAX_BLOCKS) / (EXTENT_MAX_BLOCKS + 1);
}

int fs_statfs(struct fs *fs, struct fs_statfs *out)
{
	struct alloc_space space;

	volume_share(fs->v);
	alloc_get_space(fs->v->alloc, &space);
	out->blocks = fs->v->sb.nblocks;
	out->bfree = less(space.nfree + space.npending, space.reserved);
	out->bavail = less(out->bfree, space.emergency + space.cached);
	out->ffree = out->bavail * INODES_PER_BLOCK;
	out->bavail = for_contents(out->bavail);
	out->files = fs->v->ninodes + out->ffree;
	volume_unshare(fs->v);
	return 0;
}
