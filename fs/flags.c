/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flags.c - the flags that chattr(1) sets, and what immutable and append-only inodes refuse.
 *
 * The kernel knows nothing of them.  Whether it asks about opening is the glue's to arrange (fs_check_open()).
 */
#include "fs/fs_impl.h"

/* --- what they refuse --- */

/*
 * A kernel that caches writes keeps the times of a file's changes, and "now" comes from it as a time: the same for both.  Nobody else
 * chooses the ctime, so one who sets the mtime to something else is told from it.
 */
static bool is_kernels_now(const struct fs *fs, unsigned set, const struct fs_attr *in)
{
	return fs->cfg.cached_bytes && set & FS_SET_MTIME && set & FS_SET_CTIME && in->mtime.tv_sec == in->ctime.tv_sec &&
	       in->mtime.tv_nsec == in->ctime.tv_nsec;
}

int flags_check_attr(struct fs *fs, uint64_t ino, const struct disk_inode *di, unsigned set, const struct fs_attr *in)
{
	const unsigned times = FS_SET_ATIME | FS_SET_MTIME | FS_SET_CTIME | FS_SET_ATIME_NOW | FS_SET_MTIME_NOW;
	uint64_t flags = get64(di->flags);
	const struct inode *inode;
	bool now;

	if (!(flags & (INODE_IMMUTABLE | INODE_APPEND)))
		return 0;
	now = !(set & ~times) && (set & FS_SET_MTIME_NOW || is_kernels_now(fs, set, in));
	/* The times of writes that were acknowledged before follow them, as flags_check_write() lets these pass. */
	inode = now && set == (FS_SET_MTIME | FS_SET_CTIME) ? inode_find(fs, ino) : NULL;
	if (inode && inode->nwriters)
		return 0;
	/* utimes(2) without times is for whoever may write. */
	return flags & INODE_IMMUTABLE || !(now && set & FS_SET_ATIME_NOW) ? -EPERM : 0;
}

int flags_check_write(struct fs *fs, const struct disk_inode *di, const struct fs_io *io)
{
	uint64_t flags = get64(di->flags);
	const struct inode *inode;

	if (!(flags & (INODE_IMMUTABLE | INODE_APPEND)))
		return 0;
	/* Where the kernel caches writes (cfg.cached_bytes), what it hands over was acknowledged long ago: better late than lost. */
	inode = io->cached ? inode_find(fs, io->ino) : NULL;
	if (inode && (inode->settling || fs->cfg.cached_bytes))
		return 0;
	if (flags & INODE_IMMUTABLE)
		return -EPERM;
	return flags & INODE_APPEND && !(io->append && io->off == get64(di->size)) ? -EPERM : 0;
}

int flags_check_remove(const struct disk_inode *dir, const struct disk_inode *di)
{
	return (get64(dir->flags) | get64(di->flags)) & (INODE_IMMUTABLE | INODE_APPEND) ? -EPERM : 0;
}

/* --- what a new inode inherits --- */

uint64_t flags_inherit(const struct disk_inode *dir, uint32_t mode)
{
	const uint64_t inherited = INODE_SYNC | INODE_NODUMP | INODE_NOATIME | INODE_DIRSYNC;

	return get64(dir->flags) & inherited & inode_user_mask(mode);
}

/* --- getting and setting --- */

struct flags_get {
	uint64_t ino;
	uint32_t *flags;
};

static int get_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct flags_get *g = arg;
	struct disk_inode di;
	int err = inode_get(fs, g->ino, miss, &di);

	(void)q;
	if (!err)
		*g->flags = (uint32_t)get64(di.flags) & INODE_USER_FLAGS;
	return err;
}

int fs_get_flags(struct fs *fs, struct dev_queue *q, uint64_t ino, uint32_t *flags)
{
	struct flags_get g = {ino, flags};

	return fs_look(fs, q, get_step, &g);
}

struct flags_set {
	uint64_t ino;
	uint32_t uid, mask, flags;
};

static int check_set(const struct flags_set *s, const struct disk_inode *di, uint64_t flags)
{
	if (s->flags & ~inode_user_mask(get32(di->mode)))
		return -EOPNOTSUPP;
	if (s->uid == 0)
		return 0;
	if (s->uid != get32(di->uid) || (get64(di->flags) ^ flags) & (INODE_IMMUTABLE | INODE_APPEND))
		return -EPERM;
	return 0;
}

static int set_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	const struct flags_set *s = arg;
	struct disk_inode di;
	struct timespec now;
	uint64_t lsn = 0;
	struct txn t;
	int err = inode_get(fs, s->ino, miss, &di);

	if (err)
		return err;
	uint64_t flags = (get64(di.flags) & ~(uint64_t)s->mask) | s->flags;
	err = check_set(s, &di, flags);
	if (err)
		return err;
	fs_now(fs, &now);
	di.flags = put64(flags);
	di.ctime = time_encode(&now);
	txn_begin(&t, fs->v);
	inode_put(&t, s->ino, &di);
	err = txn_commit(&t, q, 0, miss, NULL, &lsn);
	txn_end(&t);
	if (!err)
		inode_changed(fs, s->ino, lsn, false);
	return err;
}

bool fs_has_flags(struct fs *fs)
{
	volume_share(fs->v);
	bool has = fs->v->sb.incompat & FEATURE_INCOMPAT_INODE_FLAGS;
	volume_unshare(fs->v);
	return has;
}

int fs_set_flags(struct fs *fs, struct dev_queue *q, uint32_t uid, uint64_t ino, uint32_t mask, uint32_t flags)
{
	struct flags_set s = {.ino = ino, .uid = uid, .mask = mask, .flags = flags};
	int err = 0;

	if (flags & ~(mask & INODE_USER_FLAGS))
		return -EOPNOTSUPP;
	/* Durable before any inode has one: a program that does not know them must not open the volume. */
	if (flags && !fs_has_flags(fs))
		err = volume_add_feature(fs->v, q, FEATURE_INCOMPAT_INODE_FLAGS);
	return err ? fs_verdict(fs, err) : fs_run(fs, q, set_step, &s);
}

bool fs_settle_begin(struct fs *fs, uint64_t ino)
{
	volume_lock(fs->v);
	struct inode *inode = inode_find(fs, ino);
	if (inode) {
		inode->settling++;
		inode->npin++;
	}
	volume_unlock(fs->v);
	return inode != NULL;
}

void fs_settle_end(struct fs *fs, uint64_t ino)
{
	volume_lock(fs->v);
	struct inode *inode = inode_find(fs, ino);
	assert(inode && inode->settling);
	inode->settling--;
	inode->npin--;
	inode_unref(fs, inode, 0);
	volume_unlock(fs->v);
}

int fs_check_open(struct fs *fs, struct dev_queue *q, uint64_t ino, bool append)
{
	uint32_t flags = 0;
	int err = fs_has_flags(fs) ? fs_get_flags(fs, q, ino, &flags) : 0;

	if (err)
		return err;
	return flags & INODE_IMMUTABLE || (flags & INODE_APPEND && !append) ? -EPERM : 0;
}

bool fs_must_sync(struct fs *fs, struct dev_queue *q, uint64_t ino, bool names)
{
	uint32_t flags;

	if (!fs_has_flags(fs))
		return false;
	/* One that cannot be read any more: rather once too often. */
	return fs_get_flags(fs, q, ino, &flags) || flags & (INODE_SYNC | (names ? INODE_DIRSYNC : 0));
}
