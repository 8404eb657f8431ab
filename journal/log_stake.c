/* SPDX-License-Identifier: Apache-2.0 */
/* log_stake.c - collects what transactions touch that cannot be replayed. */
#include "journal/log_stake.h"

#include <stdlib.h>
#include <string.h>

#include "journal/txn.h"

void log_stake_init(struct log_stake *s, const struct super *sb, struct dev *dev)
{
	memset(s, 0, sizeof(*s));
	s->sb = sb;
	s->dev = dev;
}

void log_stake_fini(struct log_stake *s)
{
	free(s->name);
	s->name = NULL;
}

static void add_ino(struct log_stake *s, uint64_t ino)
{
	unsigned lo = 0, hi = s->ninos;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (s->ino[mid] < ino)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo < s->ninos && s->ino[lo] == ino)
		return;
	if (s->ninos == STAKE_INODES) {
		s->more = true;
		return;
	}
	memmove(&s->ino[lo + 1], &s->ino[lo], (s->ninos - lo) * sizeof(s->ino[0]));
	s->ino[lo] = ino;
	s->ninos++;
}

static struct stake_name *find_name(struct log_stake *s, uint64_t dir, uint64_t offset)
{
	for (unsigned i = 0; i < s->nnames; i++)
		if (s->name[i].dir == dir && s->name[i].offset == offset)
			return &s->name[i];
	return NULL;
}

/* `de` NULL: the entry goes. */
static int add_name(struct log_stake *s, uint64_t dir, uint64_t offset, const struct disk_dirent *de)
{
	struct stake_name *n = find_name(s, dir, offset);

	if (!n && s->nnames == STAKE_NAMES) {
		s->more = true;
		return 0;
	}
	if (!n) {
		struct stake_name *bigger = s->nnames % 64 ? s->name : reallocarray(s->name, s->nnames + 64, sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		s->name = bigger;
		n = &s->name[s->nnames++];
		*n = (struct stake_name){.dir = dir, .offset = offset};
	}
	if (!de)
		return 0;
	n->ino = get64(de->ino);
	n->len = de->name_len;
	memcpy(n->name, de->name, de->name_len);
	n->name[n->len] = '\0';
	return 0;
}

static int add_op(struct log_stake *s, const struct disk_op *op)
{
	if (op->op != OP_PUT && op->op != OP_DEL && op->op != OP_PATCH)
		return 0;
	/* An orphan item is about the inode in its offset, which other items of the transaction name as well. */
	if (op->type == ITEM_ORPHAN)
		return 0;
	add_ino(s, get64(op->object));
	if (op->type != ITEM_DIRENT)
		return 0;
	return add_name(s, get64(op->object), get64(op->offset),
			op->op == OP_PUT ? (const struct disk_dirent *)(op + 1) : NULL);
}

int log_stake_add(void *arg, const void *payload, uint32_t len, uint64_t end_lsn)
{
	struct log_stake *s = arg;
	/* payload_check() needs a volume only for its geometry, its device's name and where to complain. */
	struct volume v = {.dev = s->dev, .sb = *s->sb};
	const struct disk_op *op;
	uint32_t pos = sizeof(struct disk_txn);
	int err = payload_check(&v, payload, len);

	(void)end_lsn;
	if (err)
		return err == -EUCLEAN ? 0 : err;
	s->txns++;
	s->bytes += len + FRAME_OVERHEAD;
	while (!err && (op = payload_next(payload, len, &pos)))
		err = add_op(s, op);
	return err;
}
