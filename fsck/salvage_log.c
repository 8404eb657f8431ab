/* SPDX-License-Identifier: Apache-2.0 */
/*
 * salvage_log.c - the transactions that a salvage lays over the tree.
 *
 * With a root it is known where they begin.  Without one the groups say where they are: each carries an LSN that lies less than a lap below its
 * own.  Laying more transactions over a tree than it lacks does no harm, as long as none is missing in between: they hold
 * values, so the last word on each item is the same.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fsck/salvage.h"
#include "journal/log_read_impl.h"

#define READ_BLOCKS 256u

struct group {
	uint64_t lsn, end;
};

/* --- reading forward --------------------------------------------------------------------------- */

/* Transactions from `start` that end above `applied`.  -EUCLEAN ends them too: what comes behind builds on it. */
static int read_on(struct dev_queue *q, const struct super *sb, uint64_t start, uint64_t applied, struct overlay *o,
		   struct log_tail *tail)
{
	struct log_reader *r;
	const void *payload;
	uint64_t end_lsn;
	uint32_t len;
	int err = log_reader_open(q, sb, start, &r);

	if (err)
		return err;
	bool wrong = false;

	while (!(err = log_reader_next(r, &payload, &len, &end_lsn))) {
		if (end_lsn <= applied || wrong)
			continue;
		err = overlay_add(o, payload, len);
		wrong = err == -EUCLEAN;
		if (err && !wrong)
			break;
	}
	if (err == -ENOENT)
		err = log_reader_tail(r, tail);
	log_reader_close(r);
	if (!err && wrong)
		tail->kind = LOG_TAIL_DAMAGED;
	return err;
}

int salvage_log_of_root(struct dev_queue *q, const struct super *sb, const struct disk_root *root, struct overlay *o,
			struct salvage_log *out)
{
	struct log_tail tail;
	int err = read_on(q, sb, get64(root->replay_lsn), get64(root->applied_lsn), o, &tail);

	if (err)
		return err;
	out->gap = log_tail_refuses(tail.kind);
	out->restart_lsn = log_restart_lsn(sb, &tail);
	return 0;
}

/* --- finding groups ---------------------------------------------------------------------------- */

/* Is there a group's head in this block of the journal, of whatever lap? */
static bool group_get(const struct super *sb, uint64_t block, const uint8_t *bytes, struct group *out)
{
	uint64_t size = region_bytes(sb), at = block * BLOCK_SIZE;
	struct disk_group g;
	struct frame f;

	memcpy(&g, bytes + sizeof(struct disk_frame), sizeof(g));
	uint64_t durable = get64(g.durable_lsn);

	if (durable > UINT64_MAX / 2)
		return false;
	uint64_t lsn = durable + (at + size - durable % size) % size;

	f.state = frame_decode(sb, lsn, bytes, GROUP_FRAME_BYTES, &f.payload, &f.len);
	if (f.state != FRAME_OK || !reader_group_ok(&f, lsn, lsn + size, &g))
		return false;
	*out = (struct group){lsn, lsn + get64(g.len)};
	return true;
}

static int group_cmp(const void *a, const void *b)
{
	const struct group *x = a, *y = b;

	return x->lsn < y->lsn ? -1 : x->lsn > y->lsn;
}

static int groups_of_run(struct dev_queue *q, const struct super *sb, uint64_t at, uint64_t n, uint8_t *buf, struct list *out,
			 uint64_t *unreadable)
{
	uint64_t blkno = sb->journal_blkno + at;
	int err = dev_read(q, blkno * BLOCK_SIZE, buf, n * BLOCK_SIZE);
	bool one_by_one = err != 0;

	if (err == -ENOMEM)
		return err;
	for (uint64_t i = 0; i < n; i++) {
		struct group g, *slot;

		if (one_by_one && dev_read(q, (blkno + i) * BLOCK_SIZE, buf + i * BLOCK_SIZE, BLOCK_SIZE)) {
			++*unreadable;
			continue;
		}
		if (!group_get(sb, at + i, buf + i * BLOCK_SIZE, &g))
			continue;
		slot = list_add(out, sizeof(*slot));
		if (!slot)
			return -ENOMEM;
		*slot = g;
	}
	return 0;
}

static int groups_find(struct dev_queue *q, const struct super *sb, struct list *out, uint64_t *unreadable)
{
	auto_free uint8_t *buf = dev_alloc((uint64_t)READ_BLOCKS * BLOCK_SIZE, false);
	int err = buf ? 0 : -ENOMEM;

	for (uint64_t at = 0; !err && at < sb->journal_nblocks; at += READ_BLOCKS) {
		uint64_t left = sb->journal_nblocks - at;

		err = groups_of_run(q, sb, at, left < READ_BLOCKS ? left : READ_BLOCKS, buf, out, unreadable);
	}
	if (out->n)
		qsort(out->item, out->n, sizeof(struct group), group_cmp);
	return err;
}

/* --- without a root ---------------------------------------------------------------------------- */

/* Index of the first group of the run that ends with the last one. */
static uint64_t run_begin(const struct list *groups)
{
	const struct group *g = groups->item;
	uint64_t i = groups->n - 1;

	while (i && g[i - 1].end == g[i].lsn && g[groups->n - 1].end - g[i - 1].lsn <= UINT64_MAX / 2)
		i--;
	return i;
}

/* A frame in the middle of the run may be bad: then only what is behind it follows without a gap. */
static int read_newest(struct dev_queue *q, const struct super *sb, const struct list *groups, struct overlay *o,
		       struct salvage_log *out)
{
	const struct group *g = groups->item;
	uint64_t size = region_bytes(sb), i = run_begin(groups), last = groups->n - 1;

	/* The ring holds a lap. */
	while (g[last].end - g[i].lsn > size)
		i++;
	for (;;) {
		struct log_tail tail;
		int err = read_on(q, sb, g[i].lsn, 0, o, &tail);

		if (err || tail.end_lsn >= g[last].lsn)
			return err;
		out->gap = true;
		overlay_reset(o);
		while (g[i].lsn <= tail.end_lsn)
			i++;
	}
}

/*
 * Above every LSN that can have been written.  If no group is left to tell, a number that only grows: seconds, times more than a
 * journal can write in one.
 */
static uint64_t restart_lsn(const struct super *sb, const struct list *groups, uint64_t unreadable)
{
	const struct group *g = groups->item;
	uint64_t size = region_bytes(sb), seen = groups->n ? g[groups->n - 1].end : 0;
	uint64_t by_time = (uint64_t)time(NULL) << 26;

	if ((!groups->n || unreadable) && seen < by_time)
		seen = by_time;
	return block_round_up(seen) + 2 * size;
}

int salvage_log_newest(struct dev_queue *q, const struct super *sb, struct overlay *o, struct salvage_log *out)
{
	struct list groups = {0};
	uint64_t unreadable = 0;
	int err = groups_find(q, sb, &groups, &unreadable);

	*out = (struct salvage_log){.gap = unreadable != 0};
	if (!err && groups.n)
		err = read_newest(q, sb, &groups, o, out);
	out->restart_lsn = restart_lsn(sb, &groups, unreadable);
	free(groups.item);
	return err;
}
