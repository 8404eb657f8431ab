/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verify.c - is the data there that the last groups name?
 *
 * A GROUP_ONE_FLUSH group was written beside the data that goes straight to its place, and one flush made both durable.  Was it never
 * acknowledged, then after a power cut its frames may be whole and some of that data lost.  OP_HOME says what was written where.  So when
 * all has been replayed, each such block is compared with its checksum.
 *
 * What counts is the checksum that the block has in the end, not the one that its own transaction gave it: later transactions may have
 * changed the block through the log, and a checkpoint, or a recovery, that was interrupted may have placed that already.  And a block that is
 * no longer mapped there says nothing.  None is written directly twice before a root forgets the first time (a freed block is not
 * used again before that, a written one never overwritten in place), so a wrong block is the fault of the one transaction that names it.
 *
 * The log is then cut in front of that: its group was not acknowledged, nor any behind it.  A group that is proven durable is not looked at, and
 * of the others a writer leaves few (UNPROVEN_MAX).  What the device cannot read cuts nothing: that is no sign of a write that never ended.
 */
#include "core/bug.h"
#include "core/crc32c.h"
#include "journal/volume_impl.h"

#include <stdlib.h>
#include <string.h>

struct verify {
	struct volume *v;
	struct dev_queue *q;
	uint8_t *data;			/* EXTENT_MAX_BLOCKS */
	uint64_t bytes;			/* named so far */
	bool lost;			/* a block is not what it should be */
};

struct run {
	uint64_t ino, file, blkno;
	uint32_t n;
	/* To be found on the device, with this checksum. */
	uint32_t csum[EXTENT_MAX_BLOCKS];
	bool on_device[EXTENT_MAX_BLOCKS];
};

/* The checksum of block i of the run, if it is still mapped there and written: 0.  Else -ENOENT; -EAGAIN + *miss. */
static int want_csum(struct volume *v, const struct run *r, uint32_t i, struct miss *miss, uint32_t *csum)
{
	struct key key = key_make(r->ino, ITEM_EXTENT, r->file + i), found;
	struct disk_extent e;
	const void *val;
	unsigned len;
	int err = tree_seek_back(v->tree, &key, miss, &found, &val, &len);

	if (err)
		return err;
	if (found.object != r->ino || found.type != ITEM_EXTENT)
		return -ENOENT;
	memcpy(&e, val, sizeof(e));
	uint64_t at = r->file + i - found.offset;

	if (at >= get32(e.nblocks) || get64(e.blkno) + at != r->blkno + i || get32(e.flags) & EXTENT_UNWRITTEN)
		return -ENOENT;
	*csum = extent_item_csum(val, at);
	return 0;
}

/* Judges the block if what it holds is in memory. */
static int look_up(struct verify *vf, struct run *r, uint32_t i, struct miss *miss)
{
	uint32_t csum;
	int err = want_csum(vf->v, r, i, miss, &csum);

	r->on_device[i] = false;
	if (err)
		return err == -ENOENT ? 0 : err;
	const void *staged = stage_get(vf->v->stage, r->blkno + i);

	if (staged) {
		vf->lost |= crc32c(0, staged, BLOCK_SIZE) != csum;
	} else {
		r->on_device[i] = true;
		r->csum[i] = csum;
	}
	return 0;
}

static int look_up_all(struct verify *vf, struct run *r)
{
	int err = 0;

	for (uint32_t i = 0; !err && i < r->n; i++) {
		do {
			struct miss miss = {0};

			volume_lock(vf->v);
			err = look_up(vf, r, i, &miss);
			volume_unlock(vf->v);
			if (err != -EAGAIN)
				break;
			err = volume_provide(vf->v, vf->q, &miss);
		} while (!err);
		/* Damage to the tree is met again by who reads the file. */
		if (err == -EUCLEAN || err == -EIO)
			err = 0;
	}
	return err;
}

/* A block whose checksum is wrong in what was read of many, or that was not read: once more, alone. */
static int read_again(struct verify *vf, uint64_t blkno, uint32_t csum, uint8_t *block)
{
	int err = dev_read(vf->q, blkno * BLOCK_SIZE, block, BLOCK_SIZE);

	if (!err && crc32c(0, block, BLOCK_SIZE) != csum)
		err = dev_read(vf->q, blkno * BLOCK_SIZE, block, BLOCK_SIZE);
	if (!err)
		vf->lost |= crc32c(0, block, BLOCK_SIZE) != csum;
	return err == -ENOMEM ? err : 0;
}

static int compare(struct verify *vf, const struct run *r)
{
	uint32_t first = 0, end = r->n;
	int err = 0;

	while (first < end && !r->on_device[first])
		first++;
	while (end > first && !r->on_device[end - 1])
		end--;
	if (first == end)
		return 0;
	int bad = dev_read(vf->q, (r->blkno + first) * BLOCK_SIZE, vf->data, (uint64_t)(end - first) * BLOCK_SIZE);

	if (bad == -ENOMEM)
		return bad;
	for (uint32_t i = first; !err && i < end; i++) {
		uint8_t *block = vf->data + (uint64_t)(i - first) * BLOCK_SIZE;

		if (r->on_device[i] && (bad || crc32c(0, block, BLOCK_SIZE) != r->csum[i]))
			err = read_again(vf, r->blkno + i, r->csum[i], block);
	}
	return err;
}

static int verify_home(struct verify *vf, const struct disk_op *op)
{
	struct disk_home home;

	memcpy(&home, op + 1, sizeof(home));
	auto_free struct run *r = malloc(sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->ino = get64(op->object);
	r->file = get64(op->offset);
	r->blkno = get64(home.blkno);
	r->n = (uint32_t)get64(home.nblocks);
	vf->bytes += (uint64_t)r->n * BLOCK_SIZE;
	if (vf->bytes > UNPROVEN_MAX)
		return corrupt(vf->v->diag, "%s: journal: names more data that may be missing than any writer leaves",
			       vf->v->dev->path);
	int err = look_up_all(vf, r);

	return err ? err : compare(vf, r);
}

static int verify_txn(struct verify *vf, const void *payload, uint32_t len)
{
	const struct disk_op *op;
	uint32_t pos = sizeof(struct disk_txn);
	/* From the device once more, so it may have become something else. */
	int err = payload_check(vf->v, payload, len);

	while (!err && !vf->lost && (op = payload_next(payload, len, &pos)))
		if (op->op == OP_HOME)
			err = verify_home(vf, op);
	return err;
}

static int verify_log(struct verify *vf, struct log_reader *r, uint64_t applied, uint64_t end, uint64_t *lost_lsn)
{
	const void *payload;
	uint64_t end_lsn;
	uint32_t len;
	int err;

	while (!(err = log_reader_next(r, &payload, &len, &end_lsn)) && end_lsn <= end) {
		if (end_lsn <= applied || !(log_reader_group_flags(r) & GROUP_ONE_FLUSH))
			continue;
		err = verify_txn(vf, payload, len);
		if (err)
			return err;
		if (vf->lost) {
			*lost_lsn = end_lsn;
			return 0;
		}
	}
	return err == -ENOENT ? 0 : err;
}

int recover_verify(struct volume *v, struct dev_queue *q, uint64_t start, uint64_t applied, uint64_t *lost_lsn)
{
	uint64_t proven = v->recovery.tail.proven_lsn, from = proven > start ? proven : start;
	struct verify vf = {.v = v, .q = q};
	struct log_reader *r;

	*lost_lsn = 0;
	if (from >= v->recovery.replayed_lsn || BUG(HOME_NOT_VERIFIED))
		return 0;
	int err = log_reader_open(q, &v->sb, from, &r);

	if (err)
		return err;
	vf.data = dev_alloc((uint64_t)EXTENT_MAX_BLOCKS * BLOCK_SIZE, false);
	err = vf.data ? verify_log(&vf, r, applied, v->recovery.replayed_lsn, lost_lsn) : -ENOMEM;
	free(vf.data);
	log_reader_close(r);
	return err;
}
