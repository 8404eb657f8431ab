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
		return (op->type == 0 || op->type == OP_DATA_FRESH) && offset == 0 && len > 0 &&
		       len <= BLOCK_SIZE && at <= BLOCK_SIZE - len && run_in_range(sb, object, 1);
	case OP_NEXT_INO:
		return op->type == 0 && at == 0 && len == 0 && offset == 0 && object > INO_FIRST;
	case OP_HOME:
		return op->type == 0 && at == 0 && len == sizeof(struct disk_home);
	default:
		return false;
	}
}

/* The bytes of an operation whose shape is right. */
static bool op_bytes_ok(const struct super *sb, const struct disk_op *op, const void *bytes)
{
	struct disk_home home;

	if (op->op != OP_HOME)
		return true;
	memcpy(&home, bytes, sizeof(home));
	uint64_t n = get64(home.nblocks);

	return n <= EXTENT_MAX_BLOCKS && run_in_range(sb, get64(home.blkno), n) &&
	       get64(op->offset) <= MAX_FILE_SIZE / BLOCK_SIZE - n;
}

int payload_check(const struct volume *v, const void *payload, uint32_t len)
{
	const struct disk_txn *head = payload;
	uint32_t pos = sizeof(*head), nops = 0, ndata = 0;

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
		    !op_shape_ok(&v->sb, &op) || !op_bytes_ok(&v->sb, &op, (const uint8_t *)payload + pos + sizeof(op)))
			return corrupt(v->diag, "%s: journal: operation %u (type %u) is malformed", v->dev->path, nops,
				       op.op);
		key = op_key(&op);
		if (op.op == OP_PUT &&
		    item_check(&v->sb, &key, (const uint8_t *)payload + pos + sizeof(op), bytes, v->diag))
			return -EUCLEAN;
		pos += (uint32_t)sizeof(op) + ((bytes + 7) & ~7u);
		nops++;
		ndata += op.op == OP_DATA;
		if (nops > TXN_MAX_OPS || ndata > TXN_MAX_DATA)
			return corrupt(v->diag, "%s: journal: a transaction of too many operations", v->dev->path);
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

/* Nodes claim their blocks by their own addresses, which are block numbers; so extents are numbered from another place. */
#define OWNER_EXTENT (UINT64_C(1) << 62)

static int prepare_free(struct volume *v, const struct disk_op *op, unsigned number, struct miss *miss)
{
	uint64_t blkno = get64(op->object), n = get64(op->offset);
	int err = alloc_prepare_free(v->alloc, blkno, n, miss);

	return err ? err : alloc_claim(v->alloc, blkno, n, OWNER_EXTENT | number);
}

/* What a payload needs. */
struct needs {
	struct tree_cost cost;
	unsigned npages, nfrees;
	uint64_t nmarks;	/* blocks that replay takes without asking; txn_alloc() has taken its own already */
};

static int prepare_op(struct volume *v, const struct disk_op *op, bool replay, struct needs *n, struct miss *miss)
{
	struct key key = op_key(op);

	switch (op->op) {
	case OP_PUT:
	case OP_PATCH:
		return tree_prepare(v->tree, &key, get32(op->len), &n->cost, miss);
	case OP_DEL:
		return tree_prepare(v->tree, &key, TREE_SHRINKS, &n->cost, miss);
	case OP_FREE:
		return prepare_free(v, op, n->nfrees++, miss);
	case OP_ALLOC:
		n->nmarks += replay ? get64(op->offset) : 0;
		return replay ? alloc_prepare_mark(v->alloc, get64(op->object), get64(op->offset), miss) : 0;
	case OP_DATA:
		n->npages++;
		return replay ? alloc_prepare_look(v->alloc, get64(op->object), miss) : 0;
	default:
		return 0;
	}
}

int payload_touch(struct volume *v, const struct disk_op *op, struct miss *miss)
{
	struct needs n = {0};

	return prepare_op(v, op, true, &n, miss);
}

static int prepare_ops(struct volume *v, const void *payload, uint32_t len, bool replay, struct needs *n, struct miss *miss)
{
	const struct disk_op *op;
	uint32_t pos = sizeof(struct disk_txn);
	int err = 0;

	alloc_claims_begin(v->alloc);
	while (!err && (op = payload_next(payload, len, &pos)))
		err = prepare_op(v, op, replay, n, miss);
	int clash = alloc_claims_check(v->alloc);

	return err ? err : clash;
}

int payload_prepare(struct volume *v, const void *payload, uint32_t len, enum alloc_level level, bool replay,
		    struct miss *miss)
{
	struct needs n = {0};
	int err = prepare_ops(v, payload, len, replay, &n, miss);

	if (!err)
		err = alloc_prepare_reserve(v->alloc, 2 * n.cost.nodes + n.nmarks, level, miss);
	if (err)
		return err;
	return n.npages ? stage_prepare(v->stage, n.npages) : 0;
}

/* --- apply ------------------------------------------------------------------------------------ */

int txn_base_cmp(const void *a, const void *b)
{
	const struct txn_base *x = a, *y = b;

	return x->blkno < y->blkno ? -1 : x->blkno > y->blkno;
}

static const void *find_base(const struct txn_base *base, unsigned nbases, uint64_t blkno)
{
	struct txn_base key = {.blkno = blkno};
	const struct txn_base *found = nbases ? bsearch(&key, base, nbases, sizeof(*base), txn_base_cmp) : NULL;

	return found ? found->base : NULL;
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
		if (!alloc_is_used(v->alloc, get64(op->object)))
			return wrong_target(v, op);
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
