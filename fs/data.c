/* SPDX-License-Identifier: Apache-2.0 */
/* data.c - see data.h. */
#include "fs/data.h"

#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"

int file_check(const struct disk_inode *di)
{
	if (mode_is(di, S_IFREG))
		return 0;
	return mode_is(di, S_IFDIR) ? -EISDIR : -EINVAL;
}

void file_touch(struct fs *fs, struct disk_inode *di)
{
	struct timespec now;

	fs_now(fs, &now);
	di->mtime = di->ctime = time_encode(&now);
}

int file_atime(struct fs *fs, struct dev_queue *q, uint64_t ino, struct disk_inode *di, struct miss *miss)
{
	struct timespec now;

	fs_now(fs, &now);
	return atime_due(fs, di, &now) ? file_atime_set(fs, q, ino, di, &now, miss) : 0;
}

int file_atime_set(struct fs *fs, struct dev_queue *q, uint64_t ino, struct disk_inode *di, const struct timespec *now,
		   struct miss *miss)
{
	int err = atime_set(fs, q, ino, di, now, miss);

	return err == -EAGAIN && (miss->kind == MISS_NODE || miss->kind == MISS_BITMAP) ? err : 0;
}

int file_damaged(struct fs *fs, uint64_t ino, uint64_t block, uint64_t blkno)
{
	VOLUME_ASSERT_SHARED(fs->v);
	if (!volume_is_alone(fs->v))
		return -ENOLCK;
	corrupt(fs->v->diag, "%s: inode %llu: checksum of the data at byte %llu (device block %llu) does not match",
		fs->v->dev->path, (unsigned long long)ino, (unsigned long long)(block << BLOCK_SHIFT),
		(unsigned long long)blkno);
	volume_note_damage(fs->v);
	fs->stats.csum_errors++;
	return -EIO;
}

/* --- inline contents --------------------------------------------------------------------------- */

int inline_get(struct fs *fs, uint64_t ino, const struct disk_inode *di, struct miss *miss, uint8_t buf[INLINE_MAX])
{
	struct key key = key_make(ino, ITEM_INLINE, 0);
	uint64_t size = get64(di->size);
	const void *val;
	unsigned len;
	int err = tree_lookup(fs->v->tree, &key, miss, &val, &len);

	if (err == -ENOENT)
		return inode_corrupt(fs, ino, "its inline contents are missing");
	if (err)
		return err;
	if (len > INLINE_MAX || size > INLINE_MAX)
		return inode_corrupt(fs, ino, "inline contents too long");
	memset(buf, 0, INLINE_MAX);
	memcpy(buf, val, len < size ? len : size);
	return 0;
}

void inline_put(struct txn *t, uint64_t ino, struct disk_inode *di, const void *buf, uint64_t len)
{
	struct key key = key_make(ino, ITEM_INLINE, 0);
	uint64_t flags = get64(di->flags);

	assert(len <= INLINE_MAX);
	if (len)
		txn_put(t, &key, buf, (unsigned)len);
	else if (flags & INODE_INLINE)
		txn_del(t, &key);
	di->flags = put64(len ? flags | INODE_INLINE : flags & ~(uint64_t)INODE_INLINE);
	di->size = put64(len);
}

static int inline_move(struct txn *t, uint64_t ino, struct disk_inode *di, const uint8_t *page, struct miss *miss)
{
	struct {
		struct disk_extent head;
		le32 csum;
	} item = {.head = {.nblocks = put32(1)}, .csum = put32(crc32c(0, page, BLOCK_SIZE))};
	struct key from = key_make(ino, ITEM_INLINE, 0), to = key_make(ino, ITEM_EXTENT, 0);
	uint64_t blkno, n;
	int err = txn_alloc(t, alloc_at(0), 1, miss, &blkno, &n);

	if (err)
		return err;
	item.head.blkno = put64(blkno);
	txn_del(t, &from);
	txn_data(t, blkno, 0, page, (unsigned)get64(di->size), true, NULL);
	txn_put(t, &to, &item, sizeof(item.head) + sizeof(item.csum));
	di->flags = put64(get64(di->flags) & ~(uint64_t)INODE_INLINE);
	di->nblocks = put64(1);
	inode_put(t, ino, di);
	return 0;
}

int inline_to_block(struct fs *fs, struct dev_queue *q, uint64_t ino, bool cached, struct disk_inode *di, struct miss *miss)
{
	uint8_t page[BLOCK_SIZE] = {0};
	struct disk_inode moved = *di;
	struct txn t;
	uint64_t lsn;
	int err = inline_get(fs, ino, di, miss, page);

	if (err)
		return err;
	txn_begin(&t, fs->v);
	if (cached)
		txn_cached(&t);
	err = inline_move(&t, ino, &moved, page, miss);
	if (!err)
		err = txn_commit(&t, q, 0, miss, NULL, &lsn);
	txn_end(&t);
	if (err)
		return err;
	atime_went_along(fs, ino, lsn);
	*di = moved;
	return 0;
}

/* --- bases ------------------------------------------------------------------------------------- */

void base_fini(struct base_set *s)
{
	free(s->have[0].page);
	free(s->have[1].page);
}

static bool base_is(const struct base *b, uint64_t blkno, uint32_t csum)
{
	return b->valid && b->blkno == blkno && b->csum == csum;
}

int base_get(struct fs *fs, struct base_set *s, unsigned which, uint64_t ino, uint64_t block, uint64_t blkno,
	     uint32_t csum, const uint8_t **content, const void **base)
{
	struct base *b = &s->have[which];

	*base = NULL;
	*content = stage_get(fs->v->stage, blkno);
	if (*content)
		return 0;
	if (base_is(b, blkno, csum)) {
		*base = *content = b->page;
		return 0;
	}
	if (base_is(&s->bad, blkno, csum))
		return file_damaged(fs, ino, block, blkno);
	if (!b->page)
		b->page = dev_alloc(BLOCK_SIZE, false);
	if (!b->page)
		return -ENOMEM;
	b->blkno = blkno;
	b->csum = csum;
	b->valid = false;
	s->want = b;
	s->ino = ino;
	s->block = block;
	s->epoch = volume_read_begin(fs->v);
	return -EINPROGRESS;
}

void base_read_init(struct base_set *s, struct dev_io *io, dev_done_fn *done)
{
	dev_io_rw(io, DEV_READ, 0, s->want->blkno << BLOCK_SHIFT, s->want->page, BLOCK_SIZE, done);
}

/* A block that does not verify may have been changed since the step looked: the step says, when it asks for it again. */
int base_arrived(struct fs *fs, struct base_set *s, int err)
{
	struct base *b = s->want;

	volume_read_end(fs->v, s->epoch);
	if (err) {
		diag(fs->v->diag, DIAG_ERR, "%s: inode %llu: data at byte %llu (device block %llu) could not be read",
		     fs->v->dev->path, (unsigned long long)s->ino, (unsigned long long)(s->block << BLOCK_SHIFT),
		     (unsigned long long)b->blkno);
		return -EIO;
	}
	b->valid = true;
	if (crc32c(0, b->page, BLOCK_SIZE) != b->csum) {
		s->bad = *b;
		s->bad.page = NULL;
		b->valid = false;
	}
	return 0;
}

int data_run(struct fs *fs, struct dev_queue *q, fs_step_fn *step, void *arg, struct base_set *bases)
{
	for (;;) {
		int err = fs_run(fs, q, step, arg);

		if (err == -EINPROGRESS) {
			err = dev_read(q, bases->want->blkno << BLOCK_SHIFT, bases->want->page, BLOCK_SIZE);
			err = base_arrived(fs, bases, err);
			if (err)
				return err;
		} else if (err != -ERESTART) {
			return err;
		}
	}
}

static void data_go(struct data_task *t);

static void data_provided(struct provide *p, int err)
{
	struct data_task *t = (struct data_task *)((char *)p - offsetof(struct data_task, provide));

	if (err)
		t->done(t, err);
	else
		data_go(t);
}

static void data_base_read(struct dev_io *io, int err)
{
	struct data_task *t = (struct data_task *)((char *)io - offsetof(struct data_task, io));

	err = base_arrived(t->fs, t->bases, err);
	if (err)
		t->done(t, err);
	else
		data_go(t);
}

static void data_go(struct data_task *t)
{
	struct volume *v = t->fs->v;
	struct miss miss;
	int err;

	do {
		miss = (struct miss){.kind = MISS_NONE};
		volume_lock(v);
		err = volume_is_shut(v) ? -EIO : t->step(t->fs, t->q, t->arg, &miss);
		if (err == -EAGAIN)
			v->stats.retries++;
		volume_unlock(v);
	} while (err == -ERESTART);
	if (err == -EAGAIN) {
		volume_provide_start(v, t->q, &miss, &t->provide, data_provided);
	} else if (err == -EINPROGRESS) {
		base_read_init(t->bases, &t->io, data_base_read);
		dev_submit(t->q, &t->io);
	} else {
		t->done(t, err);
	}
}

void data_start(struct fs *fs, struct dev_queue *q, struct data_task *t)
{
	t->fs = fs;
	t->q = q;
	data_go(t);
}

int zero_part(struct extmap *m, struct txn *t, struct base_set *s, unsigned which, uint64_t block, unsigned at,
	      unsigned len)
{
	static const uint8_t zeros[BLOCK_SIZE];
	const struct extent *e = extmap_find(m, block);
	uint8_t page[BLOCK_SIZE];
	const uint8_t *content;
	const void *base;

	if (!e || !e->written)
		return 0;
	uint64_t blkno = extent_blkno(e, block);
	int err = base_get(m->fs, s, which, m->ino, block, blkno, extmap_csum(m, e, block), &content, &base);

	if (err)
		return err;
	memcpy(page, content, BLOCK_SIZE);
	memset(page + at, 0, len);
	uint32_t csum = crc32c(0, page, BLOCK_SIZE);
	txn_data(t, blkno, at, zeros, len, false, base);
	extmap_set(m, block, 1, blkno, &csum);
	return 0;
}
