/* SPDX-License-Identifier: Apache-2.0 */
/*
 * write_plan.c - what a write does: the step that decides for each block where its bytes go, and records the transaction.
 *
 *	block        whole in the request                       partly
 *	hole         few: allocated, through the log;           allocated, through the log
 *	             many: allocated, direct
 *	unwritten    likewise, its own block                    its own block, through the log
 *	written      few: its own block, through the log;       its own block, through the log
 *	             many: another block, direct
 *
 * "Direct" data is written home in the background; the frame that names it waits for that (log_hold), the caller does not.
 *
 * On a full volume what the file has already can be written still, whether it holds data or is only reserved: no extent is split
 * then, and the nodes' new places are lent from the emergency reserve (ALLOC_OWNED).  What the checksums add to the tree comes out of it.
 */
#include "fs/write_impl.h"

#include <stdlib.h>
#include <string.h>

#include "core/bug.h"
#include "core/crc32c.h"

/* Whole overwritten blocks up to here go through the log. */
#define LOGGED_BLOCKS ((64u << 10) / BLOCK_SIZE)
/* And new ones of requests up to here: a commit is then one durable write, without a flush for their sake. */
#define LOGGED_NEW ((16u << 10) / BLOCK_SIZE)

/* Room that is kept behind a file that grows, in blocks. */
#define ROOM_MIN 16u
#define ROOM_MAX 4096u

static void write_txn_begin(struct write *w, struct txn *t)
{
	txn_begin(t, w->fs->v);
	if (w->cached)
		txn_cached(t);
	if (w->owned)
		txn_owned(t);
}

/* Of a file whose contents are cached above us the times are kept there, too, and come by setattr. */
static void write_touch(struct write *w, struct disk_inode *di)
{
	if (!(w->cached && w->fs->reserve) && !BUG(MTIME_FORGOTTEN))
		file_touch(w->fs, di);
}

/* --- small files ------------------------------------------------------------------------------- */

/* Nothing but an inline item, or nothing at all, holds its contents, and that can stay so. */
static bool fits_inline(const struct write *w, const struct disk_inode *di)
{
	if (w->off + w->len > INLINE_MAX)
		return false;
	if (get64(di->flags) & INODE_INLINE)
		return true;
	return get64(di->nblocks) == 0 && get64(di->size) <= INLINE_MAX;
}

static void write_committed(struct write *w, uint64_t lsn)
{
	struct fs *fs = w->fs;

	w->lsn = lsn;
	inode_changed(fs, w->ino, lsn, true);
	fs->stats.writes++;
	fs->stats.write_bytes += w->len;
	fs->stats.filled += w->nfilled;
}

static int write_inline(struct write *w, struct disk_inode *di, struct miss *miss)
{
	uint64_t size = get64(di->size), end = w->off + w->len, lsn;
	uint8_t buf[INLINE_MAX] = {0};
	struct txn t;
	int err = get64(di->flags) & INODE_INLINE ? inline_get(w->fs, w->ino, di, miss, buf) : 0;

	if (err)
		return err;
	memcpy(buf + w->off, w->buf, w->len);
	write_txn_begin(w, &t);
	inline_put(&t, w->ino, di, buf, end > size ? end : size);
	write_touch(w, di);
	inode_put(&t, w->ino, di);
	err = txn_commit(&t, w->q, 0, miss, NULL, &lsn);
	txn_end(&t);
	if (!err)
		write_committed(w, lsn);
	return err;
}

/* --- where blocks go --------------------------------------------------------------------------- */

/* Fills in what is mapped now; returns how many whole blocks overwrite written ones. */
static unsigned plan_old(struct write *w)
{
	unsigned nover = 0;

	for (unsigned i = 0; i < w->nblocks; i++) {
		struct wblock *b = &w->blk[i];
		uint64_t block = w->first + i;
		const struct extent *e = extmap_find(&w->map, block);

		b->old_blkno = e ? extent_blkno(e, block) : 0;
		b->old_written = e && e->written;
		b->old_csum = b->old_written ? extmap_csum(&w->map, e, block) : 0;
		b->blkno = b->old_blkno;
		b->direct = false;
		if (wpart_whole(w, i) && b->old_written)
			nover++;
	}
	return nover;
}

/* Ends the request in front of block i, because there is no room for more: a short write. */
static int plan_shorten(struct write *w, unsigned i)
{
	if (i == 0)
		return -ENOSPC;
	w->len = ((w->first + i) << BLOCK_SHIFT) - w->off;
	w->nblocks = i;
	return -ERESTART;
}

/* There is no space for block i's new place. */
static int plan_full(struct write *w, unsigned i, bool moving)
{
	if (!moving)
		return plan_shorten(w, i);
	w->in_place = true;
	return -ERESTART;
}

static uint64_t plan_goal(struct write *w)
{
	const struct extent *e = extmap_before(&w->map, w->first);
	const struct inode *inode = inode_find(w->fs, w->ino);

	if (e && e->file + e->n == w->first)
		return e->blkno + e->n;
	if (inode && inode->goal)
		return inode->goal;
	return e ? e->blkno + e->n : 0;
}

/*
 * A file that grows is likely to do so for a while: it may want as much again as it has.  One write may be all that there will be of a file;
 * but not one of as much as a request can have.
 */
static uint64_t plan_room(const struct write *w, const struct disk_inode *di)
{
	uint64_t nblocks = get64(di->nblocks);

	if (nblocks == 0)
		return w->len == FS_IO_MAX ? w->nblocks : 0;
	if (nblocks < ROOM_MIN)
		return ROOM_MIN;
	return nblocks < ROOM_MAX ? nblocks : ROOM_MAX;
}

/* New places for holes and, if `moving`, for whole blocks that are written. */
static int plan_alloc(struct write *w, struct txn *t, const struct disk_inode *di, bool moving, struct miss *miss, uint64_t *goal)
{
	struct alloc_place place = {.owner = w->ino, .room = plan_room(w, di)};
	unsigned i = 0;

	*goal = plan_goal(w);
	while (i < w->nblocks) {
		unsigned j = i;
		uint64_t blkno, n;

		while (j < w->nblocks && (!w->blk[j].old_blkno ||
					  (moving && w->blk[j].old_written && wpart_whole(w, j))))
			j++;
		if (j == i) {
			*goal = w->blk[i++].old_blkno + 1;
			continue;
		}
		place.goal = *goal;
		int err = w->owned ? -ENOSPC : txn_alloc(t, place, j - i, miss, &blkno, &n);
		if (err == -ENOSPC)
			return plan_full(w, i, moving);
		if (err)
			return err;
		*goal = blkno + n;
		for (; n; n--)
			w->blk[i++].blkno = blkno++;
	}
	return 0;
}

/* Overwriting in place: as many blocks as one frame can take. */
static int plan_log_limit(struct write *w)
{
	uint32_t room = log_max_payload(w->fs->v->log) / 2 / (BLOCK_SIZE + 64), n = 0;

	for (unsigned i = 0; i < w->nblocks; i++) {
		if (w->blk[i].old_written && n++ == room)
			return plan_shorten(w, i);
	}
	return 0;
}

static bool is_staged(const struct write *w, unsigned i)
{
	return stage_get(w->fs->v->stage, w->blk[i].blkno) != NULL;
}

static bool has_all_blocks(const struct write *w)
{
	for (unsigned i = 0; i < w->nblocks; i++) {
		if (!w->blk[i].old_blkno)
			return false;
	}
	return true;
}

/*
 * The file has all blocks, some of them only reserved, and there is no room left.  To begin with parting extents as long as their leaf takes it would
 * cost a leaf for each in the end.
 */
static bool plan_owned(const struct write *w)
{
	struct alloc_space s;
	bool unwritten = false;

	alloc_get_space(w->fs->v->alloc, &s);
	if (s.nfree + s.npending > s.reserved + s.emergency + (w->cached ? 0 : s.cached) || !has_all_blocks(w))
		return false;
	for (unsigned i = 0; i < w->nblocks; i++)
		unwritten |= !w->blk[i].old_written;
	return unwritten;
}

static int plan_blocks(struct write *w, struct txn *t, const struct disk_inode *di, struct miss *miss, uint64_t *goal)
{
	uint64_t end = w->first + w->nblocks;
	int err = extmap_load(&w->map, w->first, end, UINT32_MAX, miss);

	if (err)
		return err;
	unsigned nover = plan_old(w);
	/*
	 * It was so in an earlier run of the step.  If there is room by now, nothing is lost but that more zeros are written than need be; but
	 * somebody may have taken blocks from the file, and then new ones must be had.  (Not to and fro: commit() says it of who needs none.)
	 */
	bool owned = w->owned ? has_all_blocks(w) : plan_owned(w);

	if (owned != w->owned) {
		w->owned = owned;
		return -ERESTART;
	}
	bool small = w->nblocks <= LOGGED_NEW;
	bool moving = !w->in_place && nover > LOGGED_BLOCKS;
	if (w->in_place) {
		err = plan_log_limit(w);
		if (err)
			return err;
	}
	err = plan_alloc(w, t, di, moving, miss, goal);
	for (unsigned i = 0; !err && i < w->nblocks; i++)
		w->blk[i].direct = wpart_whole(w, i) && (moving || (!small && !w->blk[i].old_written) ||
							 (BUG(OVERWRITE_IN_PLACE) && !is_staged(w, i)));
	return err;
}

/* --- recording --------------------------------------------------------------------------------- */

/* A partly covered block: what it will hold decides its checksum. */
static int record_part(struct write *w, struct txn *t, unsigned i)
{
	struct wblock *b = &w->blk[i];
	unsigned at = wpart_at(w, i), len = wpart_len(w, i);
	uint8_t page[BLOCK_SIZE];
	const uint8_t *content;
	const void *base = NULL;

	if (b->old_written) {
		int err = base_get(w->fs, &w->base, i ? 1 : 0, w->ino, w->first + i, b->blkno, b->old_csum, &content,
				   &base);
		if (err)
			return err;
		memcpy(page, content, BLOCK_SIZE);
	} else {
		memset(page, 0, BLOCK_SIZE);
	}
	if (!BUG(CSUM_BEFORE_BYTES))
		memcpy(page + at, wpart_bytes(w, i), len);
	b->csum = crc32c(0, page, BLOCK_SIZE);
	txn_data(t, b->blkno, at, wpart_bytes(w, i), len, !b->old_written, base);
	return 0;
}

/* Blocks from i on that are direct and follow each other, as many as one mention can have. */
static unsigned record_home(struct write *w, struct txn *t, unsigned i)
{
	unsigned n = 1;

	while (n < EXTENT_MAX_BLOCKS && i + n < w->nblocks && w->blk[i + n].direct && w->blk[i + n].blkno == w->blk[i].blkno + n)
		n++;
	txn_home(t, w->ino, w->first + i, w->blk[i].blkno, n);
	return n;
}

static int record_data(struct write *w, struct txn *t)
{
	for (unsigned i = 0; i < w->nblocks; i++) {
		struct wblock *b = &w->blk[i];

		if (b->direct) {
			i += record_home(w, t, i) - 1;
		} else if (!wpart_whole(w, i)) {
			int err = record_part(w, t, i);
			if (err)
				return err;
		} else {
			txn_data(t, b->blkno, 0, wpart_bytes(w, i), BLOCK_SIZE, true, NULL);
		}
	}
	return 0;
}

/* Frees what moved and maps the blocks as decided. */
static int record_extents(struct write *w, struct txn *t)
{
	uint32_t csum[FS_IO_MAX / BLOCK_SIZE + 1];
	unsigned i, j;

	for (i = 0; i < w->nblocks; i = j) {
		for (j = i; j < w->nblocks && w->blk[j].old_blkno && w->blk[j].blkno != w->blk[j].old_blkno;)
			j++;
		if (j > i)
			extmap_release(&w->map, t, w->first + i, w->first + j);
		else
			j = i + 1;
	}
	for (i = 0; i < w->nblocks; i = j) {
		for (j = i; j < w->nblocks && w->blk[j].blkno == w->blk[i].blkno + (j - i); j++)
			csum[j - i] = w->blk[j].csum;
		extmap_set(&w->map, w->first + i, j - i, w->blk[i].blkno, csum);
	}
	return extmap_emit(&w->map, t);
}

/* Zeros in unwritten blocks [from, to), which are those from blkno on, fewer than an extent can have. */
static void fill_zeros(struct write *w, struct txn *t, uint64_t from, uint64_t to, uint64_t blkno)
{
	static const uint8_t zeros[BLOCK_SIZE];
	uint32_t csum[EXTENT_MAX_BLOCKS];
	uint32_t n = 0;

	for (uint64_t block = from; block < to; block++, n++) {
		txn_data(t, blkno + n, 0, zeros, 8, true, NULL);
		csum[n] = n ? csum[0] : crc32c(0, zeros, BLOCK_SIZE);
	}
	if (n)
		extmap_set(&w->map, from, n, blkno, csum);
	w->nfilled += n;
}

/*
 * The rest of unwritten extents that are written in part: so they stay one item each, and the tree grows by their checksums only.  Nothing behind
 * the end of the file is written, so one at the end is parted all the same; but no more than once, since the next write there fills what is
 * in front of it.
 */
static void fill_beside(struct write *w, struct txn *t, const struct disk_inode *di)
{
	uint64_t last = w->first + w->nblocks, end = w->off + w->len;
	const struct extent *e = extmap_find(&w->map, w->first);

	w->nfilled = 0;
	if (end < get64(di->size))
		end = get64(di->size);
	if (e && !e->written)
		fill_zeros(w, t, e->file, w->first, e->blkno);
	e = extmap_find(&w->map, last - 1);
	if (!e || e->written)
		return;
	uint64_t to = e->file + e->n;

	if (to > BLOCKS_OF(end))
		to = BLOCKS_OF(end);
	if (to > last)
		fill_zeros(w, t, last, to, extent_blkno(e, last));
}

static void record_inode(struct write *w, struct txn *t, struct disk_inode *di)
{
	uint64_t end = w->off + w->len, nblocks = get64(di->nblocks);

	for (unsigned i = 0; i < w->nblocks; i++)
		nblocks += !w->blk[i].old_blkno;
	di->nblocks = put64(nblocks);
	if (end > get64(di->size))
		di->size = put64(end);
	write_touch(w, di);
	inode_put(t, w->ino, di);
}

static int record(struct write *w, struct txn *t, struct disk_inode *di)
{
	int err = record_data(w, t);

	if (!err && w->owned)
		fill_beside(w, t, di);
	if (!err)
		err = record_extents(w, t);
	if (!err)
		record_inode(w, t, di);
	return err;
}

/* --- the step ---------------------------------------------------------------------------------- */

static bool any_direct(const struct write *w)
{
	for (unsigned i = 0; i < w->nblocks; i++) {
		if (w->blk[i].direct)
			return true;
	}
	return false;
}

static bool any_moved(const struct write *w)
{
	for (unsigned i = 0; i < w->nblocks; i++) {
		if (w->blk[i].old_blkno && w->blk[i].blkno != w->blk[i].old_blkno)
			return true;
	}
	return false;
}

/* Nothing but data is overwritten: what the tree takes for that comes back with the next checkpoint, all of it. */
static bool only_overwrites(const struct write *w)
{
	for (unsigned i = 0; i < w->nblocks; i++) {
		if (!w->blk[i].old_written)
			return false;
	}
	return true;
}

/* Readers find direct data in memory from the commit on: so it is put there before. */
static int commit(struct write *w, struct txn *t, bool direct, struct miss *miss, uint64_t *lsn)
{
	int err = direct ? write_runs_begin(w) : 0;

	if (err)
		return err;
	unsigned flags = w->owned && only_overwrites(w) ? TXN_URGENT : 0;
	err = txn_commit(t, w->q, flags, miss, direct ? &w->hold : NULL, lsn);
	if (err && direct)
		write_runs_undo(w);
	if (err == -ENOSPC && any_moved(w))
		return plan_full(w, 0, true);
	if (err != -ENOSPC || t->nruns || w->owned)
		return err;
	w->owned = true;
	return -ERESTART;
}

static int write_blocks_txn(struct write *w, struct txn *t, struct disk_inode *di, struct miss *miss)
{
	uint64_t goal, lsn;
	int err = plan_blocks(w, t, di, miss, &goal);

	if (err)
		return err;
	bool direct = any_direct(w);
	if (direct && !w->copy && write_needs_copy(w))
		return -ENOBUFS;
	err = record(w, t, di);
	if (!err)
		err = commit(w, t, direct, miss, &lsn);
	if (err)
		return err;
	write_committed(w, lsn);
	struct inode *inode = inode_find(w->fs, w->ino);
	if (inode && t->nruns)
		inode->goal = goal;
	if (direct)
		write_runs_committed(w);
	return 0;
}

static int write_blocks(struct write *w, struct disk_inode *di, struct miss *miss)
{
	struct txn t;

	write_txn_begin(w, &t);
	int err = write_blocks_txn(w, &t, di, miss);
	txn_end(&t);
	return err;
}

int write_step(struct write *w, struct miss *miss)
{
	struct fs *fs = w->fs;
	struct disk_inode di;
	int err = volume_writable(fs->v);

	if (!err)
		err = inode_get(fs, w->ino, miss, &di);
	if (!err)
		err = file_check(&di);
	if (!err)
		err = flags_check_write(fs, &di, w->io);
	if (err)
		return err;
	w->io->must_sync = get64(di.flags) & INODE_SYNC;
	/* What an earlier run, or an earlier piece of the request, has found stands: it may have been committed with inline contents. */
	w->io->killed |= w->io->kill_priv && mode_kill_priv(&di);
	if (w->off + w->len > get64(di.size))
		err = truncate_pending(fs, w->q, w->ino, miss);
	if (err)
		return err;
	if (fits_inline(w, &di))
		return write_inline(w, &di, miss);
	if (get64(di.flags) & INODE_INLINE) {
		err = inline_to_block(fs, w->q, w->ino, w->cached, &di, miss);
		if (err)
			return err;
	}
	return write_blocks(w, &di, miss);
}
