/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verify.c - is the data there that the last groups name?
 *
 * A GROUP_ONE_FLUSH group was written behind data that goes straight to its place, and one flush made both durable.  Was it never
 * acknowledged, then after a power cut its frames may be whole and some of that data lost.  OP_HOME says what was written where.  So when
 * all has been replayed, each such block is compared with its checksum.
 *
 * What counts is the checksum that the block has in the end, not the one that its own transaction gave it: later transactions may have
 * changed the block through the log, and a checkpoint, or a recovery, that was interrupted may have placed that already.  And a block that is
 * no longer mapped there says nothing.  None is written directly twice before a root forgets the first time (a freed block is not
 * used again before that, a written one never overwritten in place), so a wrong block is the fault of the one transaction that names it.
 *
 * The log is then cut where the group begins: it was not acknowledged, nor any behind it.  That may bring back mappings which the group had taken away,
 * so all is replayed and looked at again, once for each such group at most.  A group that is proven durable is not looked at, and of the others a
 * writer leaves few (UNPROVEN_MAX).
 *
 * What the device cannot read may be what a power cut has torn, or what was acknowledged and has died since: as with the end of the journal
 * itself (LOG_TAIL_UNREADABLE), nobody goes on from here but on the user's word.
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
	bool rewrite;
	bool lost;			/* a block is not what it should be */
	bool unreadable;		/* and because it cannot be read */
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

	if (err != -ENOMEM && (err || crc32c(0, block, BLOCK_SIZE) != csum))
		err = dev_read(vf->q, blkno * BLOCK_SIZE, block, BLOCK_SIZE);
	if (err == -ENOMEM)
		return err;
	vf->lost |= err || crc32c(0, block, BLOCK_SIZE) != csum;
	vf->unreadable |= err;
	if (err && !(vf->v->flags & VOLUME_TRUNCATE_LOG)) {
		corrupt(vf->v->diag,
			"%s: block %llu cannot be read (device error), to which one of the journal's last transactions has written: acknowledged "
			"changes may be lost",
			vf->v->dev->path, (unsigned long long)blkno);
		return -EBADMSG;
	}
	return 0;
}

/* Those blocks of the run that were just read and are what they should be. */
static int write_back(struct verify *vf, const struct run *r, uint32_t first, uint32_t end)
{
	int err = 0;

	for (uint32_t i = first, n; !err && i < end; i += n) {
		for (n = 0; i + n < end && r->on_device[i + n]; n++)
			;
		if (n)
			err = dev_write(vf->q, (r->blkno + i) * BLOCK_SIZE, vf->data + (uint64_t)(i - first) * BLOCK_SIZE,
					(uint64_t)n * BLOCK_SIZE, 0);
		else
			n = 1;
	}
	return err;
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

		if (i + 1 < end)
			crc32c_prefetch(block + BLOCK_SIZE, BLOCK_SIZE);
		if (r->on_device[i] && (bad || crc32c(0, block, BLOCK_SIZE) != r->csum[i]))
			err = read_again(vf, r->blkno + i, r->csum[i], block);
	}
	return !err && !vf->lost && vf->rewrite ? write_back(vf, r, first, end) : err;
}

static int verify_home(struct verify *vf, const struct disk_op *op)
{
	struct disk_home home;

	memcpy(&home, op + 1, sizeof(home));
	auto_free struct run *r = calloc(1, sizeof(*r));

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

/* Until data is missing, or all is seen that was replayed. */
static int verify_log(struct verify *vf, struct log_reader *r, uint64_t applied)
{
	const void *payload;
	uint64_t end_lsn = 0;
	uint32_t len;
	int err = 0;

	while (!err && !vf->lost && end_lsn < vf->v->recovery.replayed_lsn) {
		err = log_reader_next(r, &payload, &len, &end_lsn);
		if (!err && end_lsn > applied && log_reader_group_flags(r) & GROUP_ONE_FLUSH)
			err = verify_txn(vf, payload, len);
	}
	/* It was read to there a moment ago. */
	return err == -ENOENT ? -EIO : err;
}

/* *group: where the group begins in which data is missing, if vf->lost. */
static int verify(struct verify *vf, uint64_t start, uint64_t applied, uint64_t *group)
{
	const struct volume_recovery *rec = &vf->v->recovery;
	uint64_t from = rec->tail.proven_lsn > start ? rec->tail.proven_lsn : start;
	struct log_reader *r;

	if (from >= rec->replayed_lsn || BUG(HOME_NOT_VERIFIED))
		return 0;
	int err = log_reader_open(vf->q, &vf->v->sb, from, &r);

	if (err)
		return err;
	vf->data = dev_alloc((uint64_t)EXTENT_MAX_BLOCKS * BLOCK_SIZE, false);
	err = vf->data ? verify_log(vf, r, applied) : -ENOMEM;
	*group = log_reader_group_start(r);
	free(vf->data);
	log_reader_close(r);
	return err;
}

int recover_verify(struct volume *v, struct dev_queue *q, uint64_t start, uint64_t applied)
{
	struct verify vf = {.v = v, .q = q};
	uint64_t group;
	int err = verify(&vf, start, applied, &group);

	if (err || !vf.lost)
		return err;
	/* No transaction ends at 1. */
	v->recovery.unwritten_lsn = group ? group : 1;
	v->recovery.unreadable_data |= vf.unreadable;
	return -ERESTART;
}

int recover_rewrite(struct volume *v, struct dev_queue *q, uint64_t start, uint64_t applied)
{
	struct verify vf = {.v = v, .q = q, .rewrite = true};
	uint64_t group;
	int err = verify(&vf, start, applied, &group);

	/* It was there a moment ago. */
	return !err && vf.lost ? -EIO : err;
}
