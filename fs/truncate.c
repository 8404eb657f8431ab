/* SPDX-License-Identifier: Apache-2.0 */
/*
 * truncate.c - changes of a file's size, and removal of what a file consists of.
 *
 * The first transaction of a truncation sets the size and zeroes the rest of the last block, so that to every reader it
 * is done.  What lies behind the end then goes in bounded transactions; if one is not enough, an orphan item says so on
 * disk, and `trimming` in memory, until the last of them.  Nobody may move the end forward meanwhile: truncate_pending().
 */
#include "core/bug.h"
#include "fs/acl.h"
#include "fs/data.h"

#include <string.h>

/* --- what is behind the end -------------------------------------------------------------------- */

/* Nothing is left behind the end.  (An unlinked file stays on the list: all of it is to go.) */
static void trim_done(struct fs *fs, uint64_t ino)
{
	struct inode *inode = inode_find(fs, ino);

	if (!inode)
		return;
	inode->trimming = false;
	if (inode->queued && !inode->orphan) {
		STAILQ_REMOVE(&fs->reap, inode, inode, reap_link);
		inode->queued = false;
		inode_unref(fs, inode, 0);
	}
}

/* Frees extents from `from` on, at most `max`; sets *left if there are more. */
static int remove_extents(struct extmap *m, struct txn *t, struct disk_inode *di, uint64_t from, unsigned max, struct miss *miss,
			  bool *left)
{
	int err = extmap_load(m, from, FILE_BLOCKS, max, miss);

	if (err)
		return err;
	*left = m->end < FILE_BLOCKS;
	uint64_t freed = extmap_release(m, t, from, m->end), had = get64(di->nblocks);

	di->nblocks = put64(freed < had ? had - freed : 0);
	return 0;
}

/* Deletes inline data, xattrs and entries, at most `max`. */
static int remove_items(struct fs *fs, struct txn *t, uint64_t ino, struct disk_inode *di, unsigned max, struct miss *miss,
			bool *left)
{
	struct key start = key_make(ino, ITEM_INLINE, 0);
	struct tree_cursor c;
	unsigned n = 0;
	int err;

	for (err = tree_first(fs->v->tree, &c, &start, miss); !err; err = tree_next(fs->v->tree, &c, miss)) {
		if (c.key.object != ino || c.key.type >= ITEM_EXTENT)
			return 0;
		if (n++ == max) {
			*left = true;
			return 0;
		}
		if (c.key.type == ITEM_INLINE)
			di->flags = put64(get64(di->flags) & ~(uint64_t)INODE_INLINE);
		txn_del(t, &c.key);
	}
	return err == -ENOENT ? 0 : err;
}

/* Has it nothing but its item?  What belongs to an inode follows that in the tree. */
static int look_bare(struct fs *fs, uint64_t ino, struct miss *miss, bool *bare)
{
	struct key key = key_make(ino, ITEM_INODE, 0);
	struct tree_cursor c;
	int err = tree_first(fs->v->tree, &c, &key, miss);

	if (!err)
		err = tree_next(fs->v->tree, &c, miss);
	if (err && err != -ENOENT)
		return err;
	*bare = err || c.key.object != ino;
	return 0;
}

static int remove_orphan(struct fs *fs, struct txn *t, uint64_t ino, struct miss *miss)
{
	struct key key = key_make(INO_VOLUME, ITEM_ORPHAN, ino);
	const void *val;
	unsigned len;
	int err = tree_lookup(fs->v->tree, &key, miss, &val, &len);

	if (!err)
		txn_del(t, &key);
	return err == -ENOENT ? 0 : err;
}

/* Records one transaction's share of the removal. */
static int remove_some(struct extmap *m, struct txn *t, struct disk_inode *di, bool all, unsigned max, struct miss *miss, bool *left)
{
	uint64_t from = all ? 0 : BLOCKS_OF(get64(di->size));
	struct disk_inode before = *di;
	bool bare = false;
	int err = all ? look_bare(m->fs, m->ino, miss, &bare) : 0;

	if (!err && !bare)
		err = remove_extents(m, t, di, from, max, miss, left);
	if (!err && all && !bare && !*left)
		err = remove_items(m->fs, t, m->ino, di, max, miss, left);
	if (!err && !*left && (all || get32(di->nlink)))
		err = remove_orphan(m->fs, t, m->ino, miss);
	if (err)
		return err;
	if (all && !*left) {
		struct key key = key_make(m->ino, ITEM_INODE, 0);

		txn_del(t, &key);
	} else if (memcmp(&before, di, sizeof(before)) != 0) {
		inode_put(t, m->ino, di);
	}
	return extmap_emit(m, t);
}

static int truncate_up_to(struct fs *fs, struct dev_queue *q, uint64_t ino, bool all, unsigned max, struct miss *miss, bool *more)
{
	struct disk_inode di, before;
	struct extmap m;
	struct txn t;
	uint64_t lsn = 0;
	bool left = false;
	int err = inode_get(fs, ino, miss, &di);

	if (err)
		return err;
	before = di;
	all = all && get32(di.nlink) == 0;
	extmap_init(&m, fs, ino);
	txn_begin(&t, fs->v);
	err = remove_some(&m, &t, &di, all, max, miss, &left);
	if (!err && t.nops)
		err = txn_commit(&t, q, TXN_URGENT, miss, NULL, &lsn);
	txn_end(&t);
	extmap_fini(&m);
	if (err)
		return err;
	if (memcmp(&before, &di, sizeof(di)) != 0)
		atime_went_along(fs, ino, lsn);
	if (!left && !all)
		trim_done(fs, ino);
	*more = left;
	return 0;
}

int truncate_some(struct fs *fs, struct dev_queue *q, uint64_t ino, bool all, struct miss *miss, bool *more)
{
	unsigned max = STEP_ITEMS;
	int err;

	do
		err = truncate_up_to(fs, q, ino, all, max, miss, more);
	while (err == -ENOSPC && (max = fewer_items(max)));
	return err;
}

int truncate_pending(struct fs *fs, struct dev_queue *q, uint64_t ino, struct miss *miss)
{
	struct inode *inode = inode_find(fs, ino);
	bool more;

	if (!inode || !(inode->trimming || (inode->queued && !inode->orphan)))
		return 0;
	int err = truncate_some(fs, q, ino, false, miss, &more);
	return err ? err : -ERESTART;
}

/* --- setting the size -------------------------------------------------------------------------- */

struct trunc {
	uint64_t ino;
	unsigned set;
	const struct fs_attr *in;
	struct base_set base;
	unsigned max; /* extents that the first transaction removes */
	bool more;
};

/* The inode item and the commit, which every way to a new size ends with. */
static int trunc_commit(struct fs *fs, struct dev_queue *q, struct trunc *tr, struct txn *t, struct disk_inode *di,
			unsigned flags, struct miss *miss)
{
	struct timespec now;
	uint64_t lsn;

	fs_now(fs, &now);
	di->size = put64(tr->in->size);
	di->mtime = time_encode(&now);
	attr_apply(fs, di, tr->set & ~FS_SET_SIZE, tr->in, &now);
	inode_put(t, tr->ino, di);
	int err = tr->set & FS_SET_MODE ? acl_follow_mode(fs, t, tr->ino, di, miss) : 0;
	if (!err)
		err = txn_commit(t, q, flags, miss, NULL, &lsn);
	if (!err)
		inode_changed(fs, tr->ino, lsn, !BUG(FDATASYNC_IGNORES_SIZE));
	return err;
}

static int trunc_inline(struct fs *fs, struct dev_queue *q, struct trunc *tr, struct disk_inode *di,
			struct miss *miss)
{
	uint8_t buf[INLINE_MAX];
	struct txn t;
	int err = inline_get(fs, tr->ino, di, miss, buf);

	if (err)
		return err;
	txn_begin(&t, fs->v);
	unsigned flags = tr->in->size < get64(di->size) ? TXN_URGENT : 0;
	inline_put(&t, tr->ino, di, buf, tr->in->size);
	err = trunc_commit(fs, q, tr, &t, di, flags, miss);
	txn_end(&t);
	return err;
}

static int trunc_grow(struct fs *fs, struct dev_queue *q, struct trunc *tr, struct disk_inode *di,
		      struct miss *miss)
{
	struct txn t;
	int err = truncate_pending(fs, q, tr->ino, miss);

	if (!err && get64(di->flags) & INODE_INLINE)
		err = inline_to_block(fs, q, tr->ino, false, di, miss);
	if (err)
		return err;
	txn_begin(&t, fs->v);
	err = trunc_commit(fs, q, tr, &t, di, 0, miss);
	txn_end(&t);
	return err;
}

/* More than one transaction: the entry stays, and says so, until the last.  Undone by trim_unpin(). */
static int trim_pin(struct fs *fs, struct txn *t, uint64_t ino)
{
	struct inode *inode = inode_ref(fs, ino, 0);

	if (!inode)
		return -ENOMEM;
	inode->npin++;
	orphan_put(t, ino);
	return 0;
}

static void trim_unpin(struct fs *fs, uint64_t ino)
{
	struct inode *inode = inode_find(fs, ino);

	inode->npin--;
	inode_unref(fs, inode, 0);
}

/* Zeroes what of the last block is behind the new end. */
static int trunc_edge(struct extmap *m, struct txn *t, struct trunc *tr, uint64_t old_size)
{
	uint64_t size = tr->in->size, block = size >> BLOCK_SHIFT;
	unsigned at = size & (BLOCK_SIZE - 1);
	uint64_t used = old_size - (block << BLOCK_SHIFT);

	if (!at || old_size == size || BUG(TRUNC_TAIL_LEFT))
		return 0;
	return zero_part(m, t, &tr->base, 0, block, at, (used < BLOCK_SIZE ? (unsigned)used : BLOCK_SIZE) - at);
}

static int trunc_record(struct extmap *m, struct txn *t, struct trunc *tr, struct disk_inode *di, struct miss *miss)
{
	uint64_t size = tr->in->size;
	int err = extmap_load(m, size >> BLOCK_SHIFT, FILE_BLOCKS, tr->max, miss);

	if (!err)
		err = trunc_edge(m, t, tr, get64(di->size));
	if (err)
		return err;
	uint64_t from = BLOCKS_OF(size);
	uint64_t freed = from < m->end ? extmap_release(m, t, from, m->end) : 0, had = get64(di->nblocks);

	di->nblocks = put64(freed < had ? had - freed : 0);
	tr->more = m->end < FILE_BLOCKS;
	return extmap_emit(m, t);
}

static int trunc_shrink(struct fs *fs, struct dev_queue *q, struct trunc *tr, struct disk_inode *di,
			struct miss *miss)
{
	struct extmap m;
	struct txn t;
	bool pinned = false;

	extmap_init(&m, fs, tr->ino);
	txn_begin(&t, fs->v);
	int err = trunc_record(&m, &t, tr, di, miss);
	if (!err && tr->more) {
		err = trim_pin(fs, &t, tr->ino);
		pinned = !err;
	}
	if (!err)
		err = trunc_commit(fs, q, tr, &t, di, TXN_URGENT, miss);
	txn_end(&t);
	extmap_fini(&m);
	if (pinned && err)
		trim_unpin(fs, tr->ino);
	else if (pinned)
		inode_find(fs, tr->ino)->trimming = true;
	if (err != -ENOSPC || !fewer_items(tr->max))
		return err;
	tr->max = fewer_items(tr->max);
	return -ERESTART;
}

static int trunc_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct trunc *tr = arg;
	uint64_t size = tr->in->size;
	struct disk_inode di;
	int err = volume_writable(fs->v);

	tr->more = false;
	if (!err)
		err = inode_get(fs, tr->ino, miss, &di);
	if (!err)
		err = file_check(&di);
	if (!err)
		err = flags_check_free(&di);
	if (err)
		return err;
	if (get64(di.flags) & INODE_INLINE && size <= INLINE_MAX)
		return trunc_inline(fs, q, tr, &di, miss);
	if (size > get64(di.size))
		return trunc_grow(fs, q, tr, &di, miss);
	return trunc_shrink(fs, q, tr, &di, miss);
}

static int trim_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct trunc *tr = arg;

	return truncate_some(fs, q, tr->ino, false, miss, &tr->more);
}

/* To the caller the truncation has happened; what could not be removed now is fs_service()'s. */
static void trim(struct fs *fs, struct dev_queue *q, struct trunc *tr)
{
	int err = 0;

	while (tr->more && !err)
		err = fs_run(fs, q, trim_step, tr);
	volume_lock(fs->v);
	struct inode *inode = inode_find(fs, tr->ino);
	if (inode->trimming && !inode->orphan && !inode->queued)
		reap_queue(fs, inode);
	trim_unpin(fs, tr->ino);
	volume_unlock(fs->v);
}

int truncate_setattr(struct fs *fs, struct dev_queue *q, uint64_t ino, unsigned set, const struct fs_attr *in)
{
	struct trunc tr = {.ino = ino, .set = set, .in = in, .max = STEP_ITEMS};

	if (in->size > MAX_FILE_SIZE)
		return -EFBIG;
	int err = data_run(fs, q, trunc_step, &tr, &tr.base);
	if (!err && tr.more)
		trim(fs, q, &tr);
	base_fini(&tr.base);
	return err;
}
