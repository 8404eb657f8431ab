/* SPDX-License-Identifier: Apache-2.0 */
/*
 * truncate.c - see truncate.h.
 *
 * Tried in memory first, so that nothing is written before it is known that the cut leaves a volume that opens.
 */
#include "fsck/truncate.h"

#include <stdlib.h>

#define READ_BLOCKS 256u

static int try_open(struct dev_queue *q, const struct diag *d, unsigned flags, uint64_t stop, struct volume_recovery *out)
{
	struct volume_config cfg = {.flags = VOLUME_TRUNCATE_LOG | flags, .replay_stop = stop, .recovery = out};
	struct volume *v;

	*out = (struct volume_recovery){0};
	int err = volume_open(q, &cfg, d, &v);

	return err ? err : volume_close(v, q);
}

/* Blocks [blkno, blkno + n): those that cannot be read are written, whereupon a drive puts others in their place. */
static int heal_run(struct dev_queue *q, uint64_t blkno, uint64_t n, void *buf, const void *zeros)
{
	int err = dev_read(q, blkno * BLOCK_SIZE, buf, n * BLOCK_SIZE);

	if (!err || err == -ENOMEM)
		return err;
	err = 0;
	for (uint64_t b = blkno; !err && b < blkno + n; b++)
		if (dev_read(q, b * BLOCK_SIZE, buf, BLOCK_SIZE))
			err = dev_write(q, b * BLOCK_SIZE, zeros, BLOCK_SIZE, 0);
	return err;
}

/* The journal is empty now, and a new one would be lost in the same place. */
static int heal_journal(struct dev_queue *q, const struct diag *d)
{
	auto_free void *buf = dev_alloc((uint64_t)READ_BLOCKS * BLOCK_SIZE, false);
	auto_free void *zeros = dev_alloc(BLOCK_SIZE, true);
	struct super sb;
	int err = buf && zeros ? volume_read_super(q, d, &sb) : -ENOMEM;

	for (uint64_t at = 0; !err && at < sb.journal_nblocks; at += READ_BLOCKS) {
		uint64_t left = sb.journal_nblocks - at;

		err = heal_run(q, sb.journal_blkno + at, left < READ_BLOCKS ? left : READ_BLOCKS, buf, zeros);
	}
	return err ? err : dev_flush(q);
}

int truncate_journal(struct dev_queue *q, const struct diag *d, struct volume_recovery *out)
{
	uint64_t stop = 0;
	int err = try_open(q, NULL, VOLUME_READ_ONLY, 0, out);

	/* A transaction that does not fit, or builds on what cannot be read: cut in front of it.  Where replay has not begun, something else is wrong. */
	if ((err == -EUCLEAN || (err == -EIO && out->unreadable_data)) && out->replayed_lsn) {
		stop = out->replayed_lsn;
		err = try_open(q, d, VOLUME_READ_ONLY, stop, out);
	} else if (err) {
		err = try_open(q, d, VOLUME_READ_ONLY, 0, out);	/* once more, loudly */
	} else if (!log_tail_refuses(out->tail.kind) && !out->unreadable_data) {
		return -ENODATA;
	}
	if (!err)
		err = try_open(q, d, 0, stop, out);
	if (!err && out->tail.nunreadable && heal_journal(q, d))
		diag(d, DIAG_WARNING, "%s: journal: unreadable blocks could not be overwritten", q->dev->path);
	return err;
}
