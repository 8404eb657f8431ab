/* SPDX-License-Identifier: Apache-2.0 */
/* do_flags.c - the flags of chattr(1): setting and reading them, and what must be durable because of them. */
#include "tests/sim/sim.h"

static void wish_flags(const struct op *op, uint32_t *mask, uint32_t *flags)
{
	uint64_t r = op->r[2];

	*mask = INODE_USER_FLAGS;
	switch (op->r[1] % 12) {
	case 0:
	case 1:
	case 2:
	case 3:
		*flags = 0;
		break;
	case 4:
	case 5:
		*flags = INODE_IMMUTABLE;
		break;
	case 6:
	case 7:
		*flags = INODE_APPEND;
		break;
	case 8:
		/* Any; and bits that are none. */
		*mask = (uint32_t)r & (r >> 40 & 1 ? UINT32_MAX : INODE_USER_FLAGS);
		*flags = (uint32_t)(r >> 32) & *mask;
		break;
	default:
		*mask = (uint32_t)r & INODE_USER_FLAGS & ~(INODE_IMMUTABLE | INODE_APPEND);
		*flags = (uint32_t)(r >> 32) & *mask;
	}
}

static void do_setflags(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, op->r[1] % 12 < 3 ? PICK_FLAGGED : PICK_ANY, op->r[0]);
	uint32_t mask, flags;

	wish_flags(op, &mask, &flags);
	drain(s);
	if (!t.ino || !target_take(s, &t))
		return;
	uint32_t uid = op->r[3] % 8 == 0 ? model_get(s->model, t.ino)->uid : op->r[3] % 8 == 1 ? 4242 : 0;
	int rc = fs_set_flags(s->fs, s->q, uid, t.ino, mask, flags);

	trace(s, "inode %llu, %x of %x, for user %u: %d", (unsigned long long)t.ino, flags, mask, uid, rc);
	if (judge(s, rc, 8)) {
		same_rc(s, rc, model_setflags(s->model, uid, t.ino, mask, flags));
		s->cov->flags += !rc;
		if (!rc)
			obey(s, t.ino, false);
	}
	target_drop(s, &t);
}

static void do_getflags(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, op->r[1] % 2 ? PICK_FLAGGED : PICK_ANY, op->r[0]);
	uint32_t flags = 0;

	if (!t.ino || !target_take(s, &t))
		return;
	int rc = fs_get_flags(s->fs, s->q, t.ino, &flags);

	trace(s, "inode %llu: %d, %x", (unsigned long long)t.ino, rc, flags);
	if (judge(s, rc, 0)) {
		same_rc(s, rc, 0);
		if (flags != model_get(s->model, t.ino)->flags)
			violation(s, "flags", "inode %llu: %x, not %x", (unsigned long long)t.ino, flags,
				  model_get(s->model, t.ino)->flags);
	}
	target_drop(s, &t);
}

void obey(struct sim *s, uint64_t ino, bool names)
{
	const struct minode *i = model_get(s->model, ino);

	if (s->shut || world_is_cut(s) || !i)
		return;
	bool want = i->flags & (INODE_SYNC | (names ? INODE_DIRSYNC : 0)), got = fs_must_sync(s->fs, s->q, ino, names);

	if (want != got && !world_is_cut(s) && !(got && s->plan->faults))
		violation(s, "flags", "inode %llu: a change is %sto be made durable", (unsigned long long)ino, got ? "" : "not ");
	if (!got)
		return;
	unsigned n = s->model->nrec;
	int rc = fs_sync(s->fs, s->q, 0, false);

	trace(s, ", durable: %d", rc);
	s->cov->flag_sync++;
	synced(s, rc, n);
}

void do_flags(struct sim *s, const struct op *op)
{
	if (op->kind == OP_SETFLAGS)
		do_setflags(s, op);
	else
		do_getflags(s, op);
}
