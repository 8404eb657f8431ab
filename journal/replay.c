/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replay.c - the log's transactions, applied in memory by the code that committed them; and what becomes of the log's end.
 *
 * The journal may be damaged, or hostile.  Each transaction is checked before anything else looks at it; what one may need of memory is
 * bounded (TXN_MAX_OPS, TXN_MAX_DATA), and so is what all of them may leave.
 */
#include "core/bug.h"
#include "journal/volume_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "journal/log_stake.h"

/* Inodes that a refusal names. */
#define STAKE_SHOWN 6u

/* --- replay ------------------------------------------------------------------------------------- */

/*
 * The bases of one transaction's data ops: blocks that are on the device only.  Each once, however often it is named, so there are at most
 * TXN_MAX_DATA of them.
 */
struct bases {
	struct txn_base *base;	/* sorted */
	unsigned n;
};

static void bases_free(struct bases *b)
{
	for (unsigned i = 0; i < b->n; i++)
		free((void *)b->base[i].base);
	free(b->base);
	*b = (struct bases){0};
}

/* The blocks that need one. */
static int bases_list(struct volume *v, const void *payload, uint32_t len, struct bases *b)
{
	const struct disk_op *op;
	uint32_t pos = sizeof(struct disk_txn);
	unsigned n = 0;

	b->base = calloc(TXN_MAX_DATA, sizeof(*b->base));
	if (!b->base)
		return -ENOMEM;
	volume_lock(v);
	while ((op = payload_next(payload, len, &pos)))
		if (op->op == OP_DATA && op->type != OP_DATA_FRESH && !stage_get(v->stage, get64(op->object)))
			b->base[n++].blkno = get64(op->object);
	volume_unlock(v);
	qsort(b->base, n, sizeof(*b->base), txn_base_cmp);
	for (unsigned i = 0; i < n; i++)
		if (!b->n || b->base[b->n - 1].blkno != b->base[i].blkno)
			b->base[b->n++] = b->base[i];
	return 0;
}

/*
 * Nothing here says what checksum the block should have, and what replay makes of it is going to be written back: so it is read until
 * it comes out the same twice.  What is damaged on the medium stays so, and its file's checksums tell.
 */
static int base_read_twice(struct dev_queue *q, uint64_t blkno, void *block)
{
	auto_free void *again = dev_alloc(BLOCK_SIZE, false);
	int err = again ? dev_read(q, blkno * BLOCK_SIZE, block, BLOCK_SIZE) : -ENOMEM;

	for (unsigned tries = 0; !err && tries < 4; tries++) {
		err = dev_read(q, blkno * BLOCK_SIZE, again, BLOCK_SIZE);
		if (err || !memcmp(block, again, BLOCK_SIZE))
			return err;
		memcpy(block, again, BLOCK_SIZE);
	}
	return err ? err : -EIO;
}

static int base_read(struct dev_queue *q, struct txn_base *base)
{
	void *block = dev_alloc(BLOCK_SIZE, false);

	if (!block)
		return -ENOMEM;
	base->base = block;
	return base_read_twice(q, base->blkno, block);
}

static bool has_data(const void *payload, uint32_t len)
{
	const struct disk_op *op;
	uint32_t pos = sizeof(struct disk_txn);

	while ((op = payload_next(payload, len, &pos)))
		if (op->op == OP_DATA)
			return true;
	return false;
}

static int bases_read(struct volume *v, struct dev_queue *q, const void *payload, uint32_t len, struct bases *b)
{
	int err = has_data(payload, len) ? bases_list(v, payload, len, b) : 0;

	for (unsigned i = 0; !err && i < b->n; i++) {
		err = base_read(q, &b->base[i]);
		v->recovery.unreadable_data |= err == -EIO;
	}
	return err;
}

/* Nothing can be checkpointed in the middle of a replay; the crashed daemon had room for the same changes. */
static int replay_provide(struct volume *v, struct dev_queue *q, const struct miss *miss)
{
	return miss->kind == MISS_SPACE ? -ENOSPC : volume_provide(v, q, miss);
}

/* All that the payload needs, into memory. */
static int replay_load(struct volume *v, struct dev_queue *q, const void *payload, uint32_t len)
{
	const struct disk_op *op;
	uint32_t pos = sizeof(struct disk_txn);
	int err = 0;

	while (!err && (op = payload_next(payload, len, &pos))) {
		do {
			struct miss miss = {0};

			volume_lock(v);
			err = payload_touch(v, op, &miss);
			volume_unlock(v);
			if (err != -EAGAIN)
				break;
			err = replay_provide(v, q, &miss);
		} while (!err);
	}
	return err;
}

/*
 * No daemon lets more contents gather in the log than volume_stage_limit(), at most 4 * VOLUME_MAX_DIRTY, and a transaction.  A journal that asks for
 * much more memory is none that one of ours has written.
 */
#define MAX_REPLAYED (8 * (uint64_t)VOLUME_MAX_DIRTY)

static int replay_step(struct volume *v, const void *payload, uint32_t len, const struct bases *bases, struct miss *miss)
{
	int err = payload_prepare(v, payload, len, ALLOC_URGENT, true, miss);

	if (!err && stage_bytes(v->stage) > MAX_REPLAYED)
		err = corrupt(v->diag, "%s: journal: holds more file contents than can be pending", v->dev->path);
	return err ? err : payload_apply(v, payload, len, bases->base, bases->n, true);
}

static int replay_payload(struct volume *v, struct dev_queue *q, const void *payload, uint32_t len)
{
	struct bases bases = {0};
	int err = payload_check(v, payload, len);

	if (!err)
		err = bases_read(v, q, payload, len, &bases);
	if (!err)
		err = replay_load(v, q, payload, len);
	while (!err) {
		struct miss miss = {0};

		volume_lock(v);
		err = replay_step(v, payload, len, &bases, &miss);
		volume_unlock(v);
		if (err != -EAGAIN)
			break;
		err = replay_provide(v, q, &miss);
	}
	bases_free(&bases);
	return err;
}

static int replay_one(struct volume *v, struct dev_queue *q, const void *unaligned, uint32_t len)
{
	auto_free void *payload = malloc(len);
	int err;

	if (!payload)
		return -ENOMEM;
	memcpy(payload, unaligned, len);
	volume_lock(v);
	tree_hold(v->tree);
	volume_unlock(v);
	err = replay_payload(v, q, payload, len);
	volume_lock(v);
	tree_let_go(v->tree);
	volume_unlock(v);
	return err;
}

/* "inodes 17, 18 and 3 more", or nothing. */
static void stake_text(const struct log_stake *s, char *text, size_t size)
{
	unsigned shown = s->ninos < STAKE_SHOWN ? s->ninos : STAKE_SHOWN;
	int n = snprintf(text, size, "%s", shown ? ", of inodes " : "");

	for (unsigned i = 0; i < shown && n >= 0 && (size_t)n < size; i++)
		n += snprintf(text + n, size - (size_t)n, "%s%llu", i ? ", " : "", (unsigned long long)s->ino[i]);
	if (s->ninos > shown && n >= 0 && (size_t)n < size)
		snprintf(text + n, size - (size_t)n, " and %u%s more", s->ninos - shown, s->more ? " or" : "");
}

/* One line: why, and what would be lost. */
static int refuse_tail(struct volume *v, struct log_reader *r)
{
	const struct log_tail *t = &v->recovery.tail;
	auto_free struct log_stake *stake = malloc(sizeof(*stake));
	struct log_tail again;
	char inodes[120];

	if (!stake)
		return -ENOMEM;
	log_stake_init(stake, &v->sb, v->dev);
	int err = log_reader_tail_each(r, &again, log_stake_add, stake);

	if (!err && t->kind == LOG_TAIL_DAMAGED) {
		stake_text(stake, inodes, sizeof(inodes));
		corrupt(v->diag,
			"%s: the journal is damaged at LSN %llu, %llu bytes before what was durable; acknowledged changes would be "
			"lost, %llu whole transactions among them%s",
			v->dev->path, (unsigned long long)t->end_lsn,
			(unsigned long long)(t->proven_lsn > t->end_lsn ? t->proven_lsn - t->end_lsn : 0),
			(unsigned long long)stake->txns, inodes);
	} else if (!err) {
		corrupt(v->diag,
			"%s: the journal cannot be read at LSN %llu (device error, %llu blocks in all): acknowledged changes may be "
			"lost",
			v->dev->path, (unsigned long long)t->end_lsn, (unsigned long long)t->nunreadable);
	}
	log_stake_fini(stake);
	return err ? err : -EBADMSG;
}

static void report_tail(struct volume *v)
{
	const struct log_tail *t = &v->recovery.tail;

	if (t->kind == LOG_TAIL_TORN)
		diag(v->diag, DIAG_NOTICE,
		     "%s: journal: cut a torn tail of %llu bytes, %llu frames, none of which was acknowledged",
		     v->dev->path, (unsigned long long)t->lost_bytes, (unsigned long long)t->lost_frames);
	else if (t->nunreadable)
		diag(v->diag, DIAG_WARNING, "%s: journal: %llu blocks behind its end cannot be read", v->dev->path,
		     (unsigned long long)t->nunreadable);
	if (v->recovery.unwritten_lsn)
		diag(v->diag, DIAG_NOTICE,
		     "%s: journal: cut at LSN %llu, where data of the last transactions %s",
		     v->dev->path, (unsigned long long)v->recovery.unwritten_lsn,
		     v->recovery.unreadable_data ? "cannot be read" : "had not been written; none of them was acknowledged");
}

static int replay_tail(struct volume *v, struct dev_queue *q, struct log_reader *r, uint64_t start, uint64_t applied)
{
	int err = log_reader_tail(r, &v->recovery.tail);

	if (err)
		return err;
	if (log_tail_refuses(v->recovery.tail.kind) && !(v->flags & VOLUME_TRUNCATE_LOG))
		return refuse_tail(v, r);
	err = recover_verify(v, q, start, applied);
	if (!err)
		report_tail(v);
	return err;
}

/* A transaction behind applied_lsn.  Those behind the place where the log is cut off are only counted. */
static int replay_or_drop(struct volume *v, struct dev_queue *q, const void *payload, uint32_t len, uint64_t end_lsn)
{
	struct volume_recovery *rec = &v->recovery;
	int err;

	if ((v->replay_stop && end_lsn > v->replay_stop) || (rec->unwritten_lsn && end_lsn > rec->unwritten_lsn)) {
		rec->dropped_frames++;
		rec->dropped_bytes += len + FRAME_OVERHEAD;
		return 0;
	}
	err = replay_one(v, q, payload, len);
	if (err)
		return err;
	rec->frames++;
	rec->bytes += len + FRAME_OVERHEAD;
	rec->replayed_lsn = end_lsn;
	return 0;
}

int recover_replay(struct volume *v, struct dev_queue *q, const struct disk_root *root, bool both_roots, uint64_t *end)
{
	uint64_t start = get64(root->replay_lsn), applied = get64(root->applied_lsn), lsn = start;
	struct log_reader *r;
	const void *payload;
	uint32_t len;
	int err = log_reader_open(q, &v->sb, start, &r);

	if (err)
		return err;
	v->recovery.replayed_lsn = applied > start ? applied : start;
	while (!(err = log_reader_next(r, &payload, &len, &lsn))) {
		if (lsn <= applied && !BUG(APPLIED_LSN_IGNORED))
			continue;
		err = replay_or_drop(v, q, payload, len, lsn);
		if (err)
			break;
	}
	if (err == -ENOENT) {
		/* A clean root with no frame behind it needs no look at the whole region, unless a newer root may be lost. */
		v->recovery.was_clean = (get64(root->flags) & ROOT_CLEAN) && both_roots && !v->recovery.frames &&
					!v->recovery.dropped_frames;
		v->recovery.tail.end_lsn = start;
		err = v->recovery.was_clean ? 0 : replay_tail(v, q, r, start, applied);
	}
	*end = v->recovery.tail.end_lsn;
	log_reader_close(r);
	return err;
}
