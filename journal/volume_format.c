/* SPDX-License-Identifier: Apache-2.0 */
/*
 * volume_format.c - a new, empty volume.
 *
 * Order: old superblocks and roots are wiped first, so that nothing old can be taken for new, whatever happens; the new superblocks
 * come last, the first copy at the very end: until then the device is not a volume.
 */
#include "journal/volume_impl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define JOURNAL_CHUNK (1u << 20)

uint64_t volume_default_journal(uint64_t nblocks)
{
	uint64_t n = nblocks / 32;

	if (n < 256)
		n = nblocks / 8 < 256 ? nblocks / 8 : 256;
	if (n < MIN_JOURNAL)
		n = MIN_JOURNAL;
	return n > 65536 ? 65536 : n;
}

static int format_wipe(struct dev_queue *q, const struct super *sb)
{
	void *zero = dev_alloc(BLOCK_SIZE, true);
	int err = zero ? 0 : -ENOMEM;

	for (unsigned copy = 0; !err && copy < SUPER_COPIES; copy++)
		err = dev_write(q, super_blkno(sb->nblocks, copy) * BLOCK_SIZE, zero, BLOCK_SIZE, 0);
	for (unsigned i = 0; !err && i < 4; i++)
		err = dev_write(q, root_blkno(sb, i / 2, i % 2) * BLOCK_SIZE, zero, BLOCK_SIZE, 0);
	free(zero);
	return err ? err : dev_flush(q);
}

static int format_journal(struct dev_queue *q, const struct super *sb,
			  void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg)
{
	uint64_t total = sb->journal_nblocks * BLOCK_SIZE, done = 0;
	void *zero = dev_alloc(JOURNAL_CHUNK, true);
	int err = zero ? 0 : -ENOMEM;

	while (!err && done < total) {
		uint64_t len = total - done < JOURNAL_CHUNK ? total - done : JOURNAL_CHUNK;

		err = dev_write(q, sb->journal_blkno * BLOCK_SIZE + done, zero, len, 0);
		done += len;
		if (!err && progress)
			progress(arg, done, total);
	}
	free(zero);
	return err;
}

static int format_supers(struct dev_queue *q, const struct super *sb)
{
	static const unsigned order[SUPER_COPIES] = {2, 1, 0};
	void *block = dev_alloc(BLOCK_SIZE, true);
	int err = block ? 0 : -ENOMEM;

	for (unsigned i = 0; !err && i < SUPER_COPIES; i++) {
		super_encode(sb, order[i], block);
		err = dev_write(q, super_blkno(sb->nblocks, order[i]) * BLOCK_SIZE, block, BLOCK_SIZE, DEV_DURABLE);
	}
	free(block);
	return err;
}

static struct disk_inode root_inode(const struct format_params *p)
{
	struct disk_time now = {.sec = put64((uint64_t)p->now_sec), .nsec = put32(p->now_nsec)};

	return (struct disk_inode){
		.mode = put32(S_IFDIR | (p->root_mode & 07777)),
		.uid = put32(p->root_uid),
		.gid = put32(p->root_gid),
		.nlink = put32(2),
		.parent = put64(INO_ROOT),
		.generation = put64(1),
		.atime = now,
		.mtime = now,
		.ctime = now,
		.btime = now,
	};
}

/* Lock held. */
static int format_tree(struct volume *v, const struct format_params *p)
{
	struct disk_inode root = root_inode(p);
	struct key key = key_make(INO_ROOT, ITEM_INODE, 0);
	struct tree_cost cost = {0};
	struct miss miss = {0};
	int err = alloc_create_empty(&v->sb, v->diag, &v->alloc);

	if (!err)
		err = alloc_prepare_reserve(v->alloc, 2, ALLOC_URGENT, &miss);	/* the empty leaf's */
	if (!err)
		err = tree_create(&v->sb, v->alloc, NULL, 0, 1024, v->diag, &v->tree);
	if (!err)
		err = tree_prepare(v->tree, &key, sizeof(root), &cost, &miss);
	if (!err)
		err = alloc_prepare_reserve(v->alloc, 2 * cost.nodes, ALLOC_URGENT, &miss);
	if (err)
		return err == -EAGAIN ? -ENOSPC : err;
	tree_put(v->tree, &key, &root, sizeof(root));
	v->next_ino = INO_FIRST;
	v->ninodes = 1;
	return 0;
}

/* Two checkpoints: both root slots are valid from the first day, so a lost newer root is always noticed. */
static int format_roots(struct volume *v, struct dev_queue *q)
{
	int err = checkpoint_run(v, q, CHECKPOINT_CLEAN, v->sb.journal_nblocks * BLOCK_SIZE);

	return err ? err : checkpoint_run(v, q, CHECKPOINT_CLEAN, v->sb.journal_nblocks * BLOCK_SIZE);
}

int volume_format(struct dev_queue *q, const struct format_params *p, const struct diag *d,
		  void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg)
{
	struct volume_config cfg = {0};
	struct super sb = {.nblocks = p->nblocks, .created_sec = p->now_sec, .created_nsec = p->now_nsec};
	struct volume *v;
	int err;

	sb.journal_nblocks = p->journal_nblocks ? p->journal_nblocks : volume_default_journal(p->nblocks);
	memcpy(sb.uuid, p->uuid, sizeof(sb.uuid));
	memcpy(sb.hash_key, p->hash_key, sizeof(sb.hash_key));
	memcpy(sb.label, p->label, sizeof(sb.label));
	sb.label[LABEL_BYTES - 1] = '\0';
	err = super_layout(&sb);
	if (err)
		return err;
	if (sb.nblocks > q->dev->size >> BLOCK_SHIFT)
		return -EINVAL;
	err = volume_new(q->dev, &sb, &cfg, d, &v);
	if (err)
		return err;
	err = format_wipe(q, &sb);
	if (!err)
		err = format_journal(q, &sb, progress, arg);
	if (!err) {
		volume_lock(v);
		err = format_tree(v, p);
		volume_unlock(v);
	}
	if (!err)
		err = format_roots(v, q);
	if (!err)
		err = dev_flush(q);
	if (!err)
		err = format_supers(q, &sb);
	volume_free(v);
	return err;
}
