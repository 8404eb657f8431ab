/* SPDX-License-Identifier: Apache-2.0 */
/*
 * journal.c - what the log holds, and how it ends.
 *
 * The log is not replayed: the root's state is consistent by itself.  But a checkpoint that was interrupted may have placed logged data
 * home already, where the root's checksums are of what was there before; so those blocks are noted.
 */
#include "fsck/check_impl.h"

#include <string.h>

#include "journal/txn.h"

/* Notes the blocks whose contents a transaction holds. */
static int note_data(struct check *c, const void *payload, uint32_t len)
{
	const struct disk_op *op;
	uint32_t pos = sizeof(struct disk_txn);
	uint64_t ndup, first;

	while ((op = payload_next(payload, len, &pos))) {
		int err = op->op == OP_DATA ? blockset_add(&c->logged, get64(op->object), 1, &ndup, &first) : 0;

		if (err)
			return err;
	}
	return 0;
}

static int check_frame(struct check *c, const void *payload, uint32_t len, uint64_t end_lsn)
{
	struct catcher k;

	catcher_init(&k);
	/* payload_check() needs a volume only for its geometry, its device's name and where to complain. */
	struct volume v = {.dev = c->q->dev, .diag = &k.diag, .sb = c->sb};
	int err = payload_check(&v, payload, len);

	if (err == -EUCLEAN) {
		found(c, FSCK_LOG_MALFORMED, AT_NOWHERE, "journal: the transaction before LSN %llu: %s",
		      (unsigned long long)end_lsn, k.text);
		return 0;
	}
	if (err)
		return err;
	err = note_data(c, payload, len);
	c->res->log_frames++;
	c->res->log_bytes += len + FRAME_OVERHEAD;
	return err;
}

static uint64_t log_blkno(const struct check *c, uint64_t lsn)
{
	return c->sb.journal_blkno + lsn / BLOCK_SIZE % c->sb.journal_nblocks;
}

static void judge_tail(struct check *c)
{
	const struct log_tail *t = &c->res->tail;

	if (t->kind == LOG_TAIL_DAMAGED)
		found(c, FSCK_LOG_DAMAGED, AT_NOWHERE,
		      "journal: damaged at LSN %llu, %llu bytes before what was durable: acknowledged changes would be lost; of those behind "
		      "the damage %llu whole transactions (%llu bytes) can be read",
		      (unsigned long long)t->end_lsn,
		      (unsigned long long)(t->proven_lsn > t->end_lsn ? t->proven_lsn - t->end_lsn : 0),
		      (unsigned long long)c->res->stake_frames, (unsigned long long)c->res->stake_bytes);
	if (t->kind == LOG_TAIL_UNREADABLE)
		found(c, FSCK_LOG_UNREADABLE, AT_BLOCK(log_blkno(c, t->end_lsn)),
		      "journal: cannot be read at LSN %llu (device error, %llu blocks in all): acknowledged changes may be lost; behind it %llu "
		      "whole transactions (%llu bytes) can be read",
		      (unsigned long long)t->end_lsn, (unsigned long long)t->nunreadable,
		      (unsigned long long)c->res->stake_frames, (unsigned long long)c->res->stake_bytes);
	if (t->kind == LOG_TAIL_TORN)
		found(c, FSCK_LOG_TORN, AT_NOWHERE,
		      "journal: ends at LSN %llu; behind it lie %llu bytes, %llu whole transactions, none of which was acknowledged",
		      (unsigned long long)t->end_lsn, (unsigned long long)t->lost_bytes, (unsigned long long)t->lost_frames);
}

static void judge_frames(struct check *c)
{
	unsigned long long n = c->res->log_frames, bytes = c->res->log_bytes;

	if (!n)
		return;
	if (get64(c->root->flags) & ROOT_CLEAN)
		found(c, FSCK_LOG_UNCLEAN, AT_NOWHERE, "journal: holds %llu transactions behind a root that is marked clean", n);
	else
		found(c, FSCK_LOG_PENDING, AT_NOWHERE,
		      "journal: %llu transactions (%llu bytes) are to be replayed; what follows is about the state before them", n,
		      bytes);
}

static int read_log(struct check *c, struct log_reader *r)
{
	uint64_t applied = get64(c->root->applied_lsn), end_lsn;
	const void *payload;
	uint32_t len;
	int err;

	while (!(err = log_reader_next(r, &payload, &len, &end_lsn))) {
		/* What the root covers is in the tree already, and at home. */
		err = end_lsn > applied ? check_frame(c, payload, len, end_lsn) : 0;
		if (!err)
			err = check_tick(c, 1, 0, 1);
		if (err)
			return err;
	}
	return err == -ENOENT ? log_reader_tail(r, &c->res->tail) : err;
}

int check_journal(struct check *c)
{
	struct log_reader *r;
	int err = log_reader_open(c->q, &c->sb, get64(c->root->replay_lsn), &r);

	if (err == -EUCLEAN) {
		found(c, FSCK_LOG_UNREADABLE, AT_NOWHERE, "journal: the root names LSN %llu, where none can begin",
		      (unsigned long long)get64(c->root->replay_lsn));
		return 0;
	}
	if (err)
		return err;
	err = read_log(c, r);
	if (!err)
		judge_frames(c);
	if (!err && log_tail_refuses(c->res->tail.kind))
		err = check_stake(c, r);
	if (!err)
		judge_tail(c);
	log_reader_close(r);
	return err;
}

/* Pointless on a volume that is damaged anyhow. */
int check_replay(struct check *c)
{
	struct volume_recovery rec = {0};
	struct volume_config cfg = {.flags = VOLUME_READ_ONLY, .recovery = &rec};
	struct catcher k;
	struct volume *v;

	if (!c->res->log_frames || c->res->nerrors)
		return 0;
	catcher_init(&k);
	int err = volume_open(c->q, &cfg, &k.diag, &v);
	if (!err) {
		volume_close(v, c->q);
		if (rec.unwritten_lsn)
			found(c, FSCK_LOG_TORN, AT_NOWHERE,
			      "journal: from LSN %llu on, %llu transactions will be cut: data that they name was not written, none was acknowledged",
			      (unsigned long long)rec.unwritten_lsn, (unsigned long long)rec.dropped_frames);
		return 0;
	}
	if (err == -ENOMEM)
		return err;
	found(c, FSCK_LOG_REPLAY, AT_NOWHERE, "journal: cannot be replayed: %s", k.text[0] ? k.text : strerror(-err));
	return 0;
}
