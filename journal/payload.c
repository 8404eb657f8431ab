/* SPDX-License-Identifier: Apache-2.0 */
/*
 * payload.c - checks, prepares and applies the operations of one transaction.
 *
 * Always: a payload is applied whole, after everything that could fail has been done.  Bytes from the log pass payload_check()
 * before anything else looks at them.
 */
#include "core/bug.h"
#include "journal/txn.h"

#include <stdlib.h>
#include <string.h>

const struct disk_op *payload_next(const void *payload, uint32_t len, uint32_t *pos)
{
	const struct disk_op *op;

	if (*pos >= len)
		return NULL;
	op = (const struct disk_op *)((const uint8_t *)payload + *pos);
	*pos += (uint32_t)sizeof(*op) + ((get32(op->len) + 7) & ~7u);
	return op;
}

static struct key op_key(const struct disk_op *op)
{
	return key_make(get64(op->object), op->type, get64(op->offset));
}

static const void *op_bytes(const struct disk_op *op)
{
	return op + 1;
}

/* --- check ------------------------------------------------------------------------------------ */

static bool run_in_range(const struct super *sb, uint64_t blkno, uint64_t n)
{
	return n > 0 && blkno < sb->nblocks && n <= sb->nblocks - blkno && !super_is_fixed(sb, blkno) &&
	       super_fixed_end(sb, blkno) >= blkno + n;
}

static bool key_known(const struct disk_op *op)
{
	return op->type >= ITEM_INODE && op->type <= ITEM_ORPHAN;
}

static bool op_shape_ok(const struct super *sb, const struct disk_op *op)
{
	uint64_t object = get64(op->object), offset = get64(op->offset);
	uint32_t len = get32(op->len), at = get16(op->at);

	switch (op->op) {
	case OP_PUT:
		return key_known(op) && at == 0 && len <= MAX_ITEM;
	case OP_DEL:
		return key_known(op) && at == 0 && len == 0;
	case OP_PATCH:
		return key_known(op) && len <= MAX_ITEM && at <= MAX_ITEM - len;
	case OP_ALLOC:
	case OP_FREE:
		return op->type == 0 && at == 0 && len == 0 && run_in_range(sb, object, offset);
	case OP_DATA:
		return (op->type == 0 || op->type == OP_DATA_FRESH) && offset == 0 && len <= BLOCK_SIZE &&
		       at <= BLOCK_SIZE - len && run_in_range(sb, object, 1);
	case OP_NEXT_INO:
		return op->type == 0 && at == 0 && len == 0 && offset == 0 && object > INO_FIRST;
	default:
		return false;
	}
}

int payload_check(const struct volume *v, const void *payload, uint32_t len)
{
	const struct disk_txn *head = payload;
	uint32_t pos = sizeof(*head), nops = 0;

	if (len < sizeof(*head) || head->type != RECORD_TXN)
		return corrupt(v->diag, "%s: journal: a record that is not a transaction", v->dev->path);
	while (pos < len) {
		struct disk_op op;
		uint32_t bytes;
		struct key key;

		if (len - pos < sizeof(op))
			return corrupt(v->diag, "%s: journal: operation %u is cut off", v->dev->path, nops);
		memcpy(&op, (const uint8_t *)payload + pos, sizeof(op));
		bytes = get32(op.len);
		if (bytes > BLOCK_SIZE || ((bytes + 7) & ~7u) > len - pos - sizeof(op) ||
		    !op_shape_ok(&v->sb, &op))
			return corrupt(v->diag, "%s: journal: operation %u (type %u) is malformed", v->dev->path, nops,
				       op.op);
		key = op_key(&op);
		if (op.op == OP_PUT &&
		    item_check(&v->sb, &key, (const uint8_t *)payload + pos + sizeof(op), bytes, v->diag))
			return -EUCLEAN;
		pos += (uint32_t)sizeof(op) + ((bytes + 7) & ~7u);
		nops++;
	}
	if (nops != get32(head->nops))
		return corrupt(v->diag, "%s: journal: %u operations where %u are announced", v->dev->path, nops,
			       get32(head->nops));
	return 0;
}

/* --- prepare ---------------------------------------------------------------------------------- */

static int wrong_target(const struct volume *v, const struct disk_op *op)
{
	return corrupt(v->diag, "%s: journal: operation %u on an item (%llu, %u, %llu) that does not fit the volume",
		       v->dev->path, op->op, (unsigned long long)get64(op->object), op->type,
		       (unsigned long long)get64(op->offset));
}

static int run_cmp(const void *a, const void *b)
{
	const struct txn_run *x = a, *y = b;

	return x->blkno < y->blkno ? -1 : x->blkno > y->blkno;
}

/*
 * Extents that share blocks, on a damaged volume, would free them twice: each time rightly, as far as the state before the transaction
 * can tell.
 */
static int prepare_frees(struct volume *v, const void *payload, uint32_t len, unsigned n)
{
	auto_free struct txn_run *run = malloc(n * sizeof(*run));
	const struct disk_op *op;
	uint32_t pos = sizeof(struct disk_txn);
	unsigned i = 0;

	if (!run)
		return -ENOMEM;
	while ((op = payload_next(payload, len, &pos)))
		if (op->op == OP_FREE)
			run[i++] = (struct txn_run){get64(op->object), get64(op->offset)};
	qsort(run, n, sizeof(*run), run_cmp);
	for (i = 1; i < n; i++)
		if (run[i].blkno < run[i - 1].blkno + run[i - 1].n)
			return corrupt(v->diag, "%s: block %llu is to be freed twice", v->dev->path,
				       (unsigned long long)run[i].blkno);
	return 0;
}

static int prepare_op(struct volume *v, const struct disk_op *op, bool replay, struct tree_cost *cost,
		      unsigned *npages, struct miss *miss)
{
	struct key key = op_key(op);

	switch (op->op) {
	case OP_PUT:
	case OP_PATCH:
	case OP_DEL:
		return tree_prepare(v->tree, &key, get32(op->len), cost, miss);
	case OP_FREE:
		return alloc_prepare_free(v->alloc, get64(op->object), get64(op->offset), miss);
	case OP_ALLOC:
		return replay ? alloc_prepare_mark(v->alloc, get64(op->object), get64(op->offset), miss) : 0;
	case OP_DATA:
		++*npages;
		return 0;
	default:
		return 0;
	}
}

int payload_prepare(struct volume *v, const void *payload, uint32_t len, bool urgent, bool replay, struct miss *miss)
{
	struct tree_cost cost = {0};
	const struct disk_op *op;
	uint32_t pos = sizeof(struct disk_txn);
	unsigned npages = 0, nfrees = 0;
	uint64_t nmarks = 0;	/* blocks that replay takes without asking; txn_alloc() has taken its own already */
	int err;

	while ((op = payload_next(payload, len, &pos))) {
		err = prepare_op(v, op, replay, &cost, &npages, miss);
		if (err)
			return err;
		if (replay && op->op == OP_ALLOC)
			nmarks += get64(op->offset);
		nfrees += op->op == OP_FREE;
	}
	if (nfrees > 1) {
		err = prepare_frees(v, payload, len, nfrees);
		if (err)
			return err;
	}
	err = alloc_prepare_reserve(v->alloc, 2 * cost.nodes + nmarks, urgent, miss);
	if (err)
		return err;
	return npages ? stage_prepare(v->stage, npages) : 0;
}

/* --- apply ------------------------------------------------------------------------------------ */

static const void *find_base(const struct txn_base *base, unsigned nbases, uint64_t blkno)
{
	for (unsigned i = 0; i < nbases; i++)
		if (base[i].blkno == blkno)
			return base[i].base;
	return NULL;
}

/*
 * Replay looks at each target in the state that the operations before it have made; so far it was only known to be in memory.  What does
 * not fit ends the recovery, and with it this in-memory state.
 */
static int replay_target(struct volume *v, const struct disk_op *op, const struct txn_base *base, unsigned nbases)
{
	struct key key = op_key(op);
	struct miss miss = {0};
	const void *val;
	unsigned have;
	int err;

	switch (op->op) {
	case OP_DEL:
	case OP_PATCH:
		err = tree_lookup(v->tree, &key, &miss, &val, &have);
		if (err || (op->op == OP_PATCH && get16(op->at) > have))
			return wrong_target(v, op);
		return 0;
	case OP_ALLOC:
		return alloc_prepare_mark(v->alloc, get64(op->object), get64(op->offset), &miss);
	case OP_FREE:
		return alloc_prepare_free(v->alloc, get64(op->object), get64(op->offset), &miss);
	case OP_DATA:
		/* Staged when the bases were read, and freed since, by an operation of this very transaction. */
		if (op->type != OP_DATA_FRESH && !stage_get(v->stage, get64(op->object)) &&
		    !find_base(base, nbases, get64(op->object)))
			return wrong_target(v, op);
		return 0;
	default:
		return 0;
	}
}

static void apply_op(struct volume *v, const struct disk_op *op, const struct txn_base *base, unsigned nbases,
		     bool replay)
{
	uint64_t object = get64(op->object), offset = get64(op->offset);
	struct key key = op_key(op);

	switch (op->op) {
	case OP_PUT:
		if (tree_put(v->tree, &key, op_bytes(op), get32(op->len)) && key.type == ITEM_INODE)
			v->ninodes++;
		break;
	case OP_DEL:
		tree_del(v->tree, &key);
		if (key.type == ITEM_INODE)
			v->ninodes--;
		break;
	case OP_PATCH:
		tree_patch(v->tree, &key, get16(op->at), op_bytes(op), get32(op->len));
		break;
	case OP_ALLOC:
		if (replay && !BUG(ALLOC_NOT_REPLAYED))
			alloc_mark(v->alloc, object, offset);
		break;
	case OP_FREE:
		alloc_free(v->alloc, object, offset);
		stage_drop(v->stage, object, offset);
		break;
	case OP_DATA:
		stage_write(v->stage, object, get16(op->at), op_bytes(op), get32(op->len),
			    op->type == OP_DATA_FRESH, find_base(base, nbases, object));
		break;
	case OP_NEXT_INO:
		if (object > v->next_ino)
			v->next_ino = object;
		break;
	}
}

/* Patches leave an item for a moment in a state that no check would pass; whole transactions do not. */
static int replay_patched(struct volume *v, const void *payload, uint32_t len)
{
	const struct disk_op *op;
	uint32_t pos = sizeof(struct disk_txn);

	while ((op = payload_next(payload, len, &pos))) {
		struct key key = op_key(op);
		struct miss miss = {0};
		const void *val;
		unsigned have;

		if (op->op == OP_PATCH && !tree_lookup(v->tree, &key, &miss, &val, &have) &&
		    item_check(&v->sb, &key, val, have, v->diag))
			return -EUCLEAN;
	}
	return 0;
}

int payload_apply(struct volume *v, const void *payload, uint32_t len, const struct txn_base *base, unsigned nbases,
		  bool replay)
{
	const struct disk_op *op;
	uint32_t pos = sizeof(struct disk_txn);

	while ((op = payload_next(payload, len, &pos))) {
		int err = replay ? replay_target(v, op, base, nbases) : 0;

		if (err)
			return err;
		apply_op(v, op, base, nbases, replay);
	}
	return replay ? replay_patched(v, payload, len) : 0;
}
