/* SPDX-License-Identifier: Apache-2.0 */
/*
 * super.c - changes the superblock of an open volume: its label, its features.
 *
 * Copy after copy, each durable before the next.  A power cut in between leaves old and new ones, and at most one that is torn; the first
 * good one counts (volume_open() puts it over the others), so it is all or nothing.  A volume at rest is woken first: where the root is
 * clean all copies are the same.  One change at a time: `super_busy`, also held by who
 * compares the copies on the device with volume.sb (scrub).
 */
#include "core/bug.h"
#include "journal/volume_impl.h"

#include <stdlib.h>
#include <string.h>

#define BUSY_WAIT_MS 2

void volume_super_begin(struct volume *v, struct dev_queue *q)
{
	LOCK_ASSERT_NOT_HELD(&v->lock);
	for (;;) {
		volume_lock(v);
		bool mine = !v->super_busy;
		v->super_busy = true;
		volume_unlock(v);
		if (mine)
			return;
		dev_poll(q, BUSY_WAIT_MS);
	}
}

void volume_super_end(struct volume *v)
{
	volume_lock(v);
	assert(v->super_busy);
	v->super_busy = false;
	volume_unlock(v);
}

int super_write(struct dev_queue *q, const struct super *sb)
{
	auto_free void *block = dev_alloc(BLOCK_SIZE, false);
	int err = block ? 0 : -ENOMEM;

	for (unsigned copy = 0; copy < SUPER_COPIES && !err; copy++) {
		super_encode(sb, copy, block);
		err = dev_write(q, super_blkno(sb->nblocks, copy) * BLOCK_SIZE, block, BLOCK_SIZE,
				BUG(LABEL_NOT_DURABLE) ? 0 : DEV_DURABLE);
	}
	return err;
}

static int change(struct volume *v, struct dev_queue *q, const char *label, uint32_t incompat)
{
	struct super sb;
	int err = volume_wake(v, q);

	if (err)
		return err;
	volume_lock(v);
	err = volume_writable(v);
	sb = v->sb;
	volume_unlock(v);
	if (err)
		return err;
	sb.incompat |= incompat;
	if (label) {
		memset(sb.label, 0, sizeof(sb.label));
		memcpy(sb.label, label, strnlen(label, LABEL_BYTES - 1));
	}
	err = super_write(q, &sb);
	/* Nobody knows which copies say what: as with a checkpoint, the next mount finds out. */
	if (err && err != -ENOMEM)
		volume_fail(v, err, "superblock");
	if (err)
		return err;
	volume_lock(v);
	v->sb.incompat = sb.incompat;
	memcpy(v->sb.label, sb.label, sizeof(sb.label));
	volume_unlock(v);
	return 0;
}

int volume_set_label(struct volume *v, struct dev_queue *q, const char *label)
{
	int err = v->log ? log_sync_wait(v->log, q, log_append_lsn(v->log)) : -EROFS;

	if (err)
		return err;
	volume_super_begin(v, q);
	err = change(v, q, label, 0);
	volume_super_end(v);
	return err;
}

int volume_add_feature(struct volume *v, struct dev_queue *q, uint32_t incompat)
{
	int err = 0;

	volume_super_begin(v, q);
	/* Somebody else may have been quicker. */
	if ((v->sb.incompat & incompat) != incompat)
		err = change(v, q, NULL, incompat);
	volume_super_end(v);
	return err;
}
