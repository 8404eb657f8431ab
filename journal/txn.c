/* SPDX-License-Identifier: Apache-2.0 */
/*
 * txn.c - records a transaction and commits it.
 *
 * The payload that goes into the frame is built while recording, and it is what gets applied: payload.c knows how, and
 * recovery uses the same functions, so that a replayed volume cannot differ from the one that crashed.
 */
#include "core/bug.h"
#include "journal/txn.h"

#include <stdlib.h>
#include <string.h>

void txn_begin(struct txn *t, struct volume *v)
{
	LOCK_ASSERT_HELD(&v->lock);
	t->v = v;
	t->buf = t->small;
	t->cap = sizeof(t->small);
	t->len = sizeof(struct disk_txn);
	t->nops = t->ndata = 0;
	t->run = NULL;
	t->nruns = t->cap_runs = 0;
	t->base = NULL;
	t->nbases = t->cap_bases = 0;
	t->err = 0;
	t->committed = false;
	t->level = ALLOC_NORMAL;
	memset(t->buf, 0, sizeof(struct disk_txn));
}

void txn_end(struct txn *t)
{
	LOCK_ASSERT_HELD(&t->v->lock);
	for (unsigned i = t->nruns; !t->committed && i-- > 0;)
		alloc_unget(t->v->alloc, t->run[i].blkno, t->run[i].n);
	if (t->buf != t->small)
		free(t->buf);
	free(t->run);
	free(t->base);
}

static bool txn_room(struct txn *t, uint32_t more)
{
	uint32_t cap = t->cap;
	uint8_t *bigger;

	if (t->err)
		return false;
	if (more <= t->cap - t->len)
		return true;
	while (cap - t->len < more) {
		if (cap > UINT32_MAX / 2) {
			t->err = -EFBIG;
			return false;
		}
		cap *= 2;
	}
	bigger = realloc(t->buf == t->small ? NULL : t->buf, cap);
	if (!bigger) {
		t->err = -ENOMEM;
		return false;
	}
	if (t->buf == t->small)
		memcpy(bigger, t->small, t->len);
	t->buf = bigger;
	t->cap = cap;
	return true;
}

/* One operation and its bytes (NULL: none), padded to 8. */
static void txn_op(struct txn *t, const struct disk_op *op, const void *bytes)
{
	uint32_t len = get32(op->len);
	uint32_t padded = (len + 7) & ~7u;

	if (!txn_room(t, (uint32_t)sizeof(*op) + padded))
		return;
	memcpy(t->buf + t->len, op, sizeof(*op));
	t->len += sizeof(*op);
	if (bytes)
		memcpy(t->buf + t->len, bytes, len);
	memset(t->buf + t->len + len, 0, padded - len);
	t->len += padded;
	t->nops++;
	t->ndata += op->op == OP_DATA;
	if (t->nops > TXN_MAX_OPS || t->ndata > TXN_MAX_DATA)
		t->err = -EFBIG;
}

static struct disk_op key_op(enum op_type op, const struct key *key, unsigned at, unsigned len)
{
	return (struct disk_op){
		.op = (uint8_t)op,
		.type = key->type,
		.at = put16((uint16_t)at),
		.len = put32(len),
		.object = put64(key->object),
		.offset = put64(key->offset),
	};
}

void txn_put(struct txn *t, const struct key *key, const void *val, unsigned len)
{
	struct disk_op op = key_op(OP_PUT, key, 0, len);

	assert(len <= MAX_ITEM);
	txn_op(t, &op, val);
}

void txn_del(struct txn *t, const struct key *key)
{
	struct disk_op op = key_op(OP_DEL, key, 0, 0);

	txn_op(t, &op, NULL);
}

void txn_patch(struct txn *t, const struct key *key, unsigned at, const void *bytes, unsigned len)
{
	struct disk_op op = key_op(OP_PATCH, key, at, len);

	assert(at + len <= MAX_ITEM);
	txn_op(t, &op, bytes);
}

static void txn_range(struct txn *t, enum op_type type, uint64_t blkno, uint64_t n)
{
	struct disk_op op = {.op = (uint8_t)type, .object = put64(blkno), .offset = put64(n)};

	txn_op(t, &op, NULL);
}

static bool txn_grow(struct txn *t, void **array, unsigned n, unsigned *cap, size_t size)
{
	unsigned bigger_cap = *cap ? *cap * 2 : 16;
	void *bigger;

	if (n < *cap)
		return true;
	bigger = realloc(*array, bigger_cap * size);
	if (!bigger) {
		t->err = -ENOMEM;
		return false;
	}
	*array = bigger;
	*cap = bigger_cap;
	return true;
}

/* Room that data leaves for the metadata of its own transaction: its records' leaves and their paths, twice each. */
static uint64_t txn_keep(const struct txn *t)
{
	return 64 + t->len / 256;
}

int txn_alloc(struct txn *t, struct alloc_place place, uint64_t want, struct miss *miss, uint64_t *blkno, uint64_t *n)
{
	struct txn_run run;
	int err;

	if (t->err)
		return t->err;
	if (!txn_grow(t, (void **)&t->run, t->nruns, &t->cap_runs, sizeof(*t->run)))
		return t->err;
	err = alloc_get(t->v->alloc, place, want, txn_keep(t), t->level, miss, &run.blkno, &run.n);
	if (err)
		return err;
	t->run[t->nruns++] = run;
	txn_range(t, OP_ALLOC, run.blkno, run.n);
	*blkno = run.blkno;
	*n = run.n;
	return 0;
}

void txn_free(struct txn *t, uint64_t blkno, uint64_t n)
{
	txn_range(t, OP_FREE, blkno, n);
}

void txn_data(struct txn *t, uint64_t blkno, unsigned at, const void *bytes, unsigned len, bool fresh,
	      const void *base)
{
	struct disk_op op = {
		.op = OP_DATA,
		.type = fresh ? OP_DATA_FRESH : 0,
		.at = put16((uint16_t)at),
		.len = put32(len),
		.object = put64(blkno),
	};

	assert(at + len <= BLOCK_SIZE);
	if (base && !fresh) {
		if (!txn_grow(t, (void **)&t->base, t->nbases, &t->cap_bases, sizeof(*t->base)))
			return;
		t->base[t->nbases++] = (struct txn_base){blkno, base};
	}
	txn_op(t, &op, bytes);
}

void txn_home(struct txn *t, uint64_t ino, uint64_t file, uint64_t blkno, uint64_t n)
{
	struct disk_home home = {.blkno = put64(blkno), .nblocks = put64(n)};
	struct disk_op op = {.op = OP_HOME, .len = put32(sizeof(home)), .object = put64(ino), .offset = put64(file)};

	assert(n > 0 && n <= EXTENT_MAX_BLOCKS);
	txn_op(t, &op, &home);
}

uint64_t txn_new_ino(struct txn *t)
{
	uint64_t ino = t->v->next_ino;
	struct disk_op op = {.op = OP_NEXT_INO, .object = put64(ino + 1)};

	txn_op(t, &op, NULL);
	return ino;
}

/* The journal is full until a checkpoint trims it. */
static int txn_append(struct txn *t, struct dev_queue *q, struct miss *miss, struct log_hold *hold, uint64_t *lsn)
{
	int err = log_append(t->v->log, q, t->buf, t->len, hold, lsn);

	if (err == -ENOSPC) {
		miss->kind = MISS_JOURNAL;
		return -EAGAIN;
	}
	return err == -EIO ? -EROFS : err;
}

int txn_commit(struct txn *t, struct dev_queue *q, unsigned flags, struct miss *miss, struct log_hold *hold,
	       uint64_t *lsn)
{
	struct volume *v = t->v;
	struct disk_txn head = {.type = RECORD_TXN, .nops = put32(t->nops)};
	uint64_t end;
	int err;

	LOCK_ASSERT_HELD(&v->lock);
	assert(!t->committed);
	if (t->err)
		return t->err;
	err = volume_writable(v);
	if (err)
		return -EROFS;
	/* The root is marked clean, and nobody would replay what is appended now: another one must come first. */
	if (v->resting && !BUG(CLEAN_ROOT_LEFT)) {
		miss->kind = MISS_JOURNAL;
		return -EAGAIN;
	}
	/* Memory is bounded, and recovery takes no more than that: the checkpoint that is due, or under way, comes first. */
	if (t->ndata && stage_bytes(v->stage) >= volume_stage_limit(v)) {
		miss->kind = MISS_JOURNAL;
		return -EAGAIN;
	}
	memcpy(t->buf, &head, sizeof(head));
	if (t->nbases > 1)
		qsort(t->base, t->nbases, sizeof(*t->base), txn_base_cmp);
	err = payload_prepare(v, t->buf, t->len, flags & TXN_URGENT ? ALLOC_URGENT : t->level, false, miss);
	/* Each mention of it is one meeting with damage, as elsewhere; the operation fails, the volume goes on. */
	if (err == -EUCLEAN)
		volume_note_damage(v);
	if (err)
		return err;
	err = txn_append(t, q, miss, hold, &end);
	if (err)
		return err;
	err = payload_apply(v, t->buf, t->len, t->base, t->nbases, false);
	assert(!err);
	t->committed = true;
	v->applied_lsn = end;
	v->stats.txns++;
	if (lsn)
		*lsn = end;
	if (volume_checkpoint_due(v))
		volume_want_checkpoint(v);
	volume_note_space(v);
	return 0;
}
