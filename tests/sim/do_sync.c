/* SPDX-License-Identifier: Apache-2.0 */
/* do_sync.c - syncs, checkpoints, waiting; and one operation after the other. */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"

static const char *const names[] = {
#define OP_TEXT(name) #name,
	OPS(OP_TEXT)
#undef OP_TEXT
};

const char *op_name(enum op_kind kind)
{
	return names[kind];
}

/* --- waiting ----------------------------------------------------------------------------------- */

void drain(struct sim *s)
{
	while (s->nunanswered) {
		if (!dev_poll(s->q, 10) && !s->crew)
			(void)volume_service(s->v, s->q);
	}
}

void drain_all(struct sim *s)
{
	drain(s);
	while (s->nlate || s->nlent || s->ntrims) {
		if (!dev_poll(s->q, s->ntrims ? 10 : -1) && !s->crew)
			(void)volume_service(s->v, s->q);
	}
}

static void do_wait(struct sim *s, const struct op *op)
{
	unsigned n = (unsigned)(op->r[0] % 4 ? op->r[1] % 8 : op->r[1] % 64);

	trace(s, "%u polls", n);
	while (n--)
		dev_poll(s->q, 0);
	if (op->r[2] % 8 == 0)
		drain_all(s);
}

/* --- syncs ------------------------------------------------------------------------------------- */

/* What a sync of the inode (0: of everything) that begins now vouches for. */
static unsigned promise(struct sim *s, uint64_t ino, bool datasync)
{
	const struct minode *i = ino ? model_get(s->model, ino) : NULL;

	if (!i)
		return s->model->nrec;
	return datasync ? i->changed_data : i->changed;
}

void synced(struct sim *s, int rc, unsigned n)
{
	if (!judge(s, rc, 0))
		return;
	same_rc(s, rc, 0);
	acked(s, n);
}

static void do_fsync(struct sim *s, const struct op *op)
{
	bool data = op->kind == OP_FDATASYNC;
	struct target t = target_pick(s, PICK_ANY, op->r[0]);

	if (!t.ino || !target_take(s, &t))
		return;
	if (!data)
		lazy_flush(s, t.ino);
	unsigned n = promise(s, t.ino, data);
	int rc = fs_sync(s->fs, s->q, t.ino, data);

	trace(s, "inode %llu: %d, %u of %u changes", (unsigned long long)t.ino, rc, n, s->model->nrec);
	synced(s, rc, n);
	target_drop(s, &t);
}

static void do_syncfs(struct sim *s)
{
	lazy_flush(s, 0);
	unsigned n = s->model->nrec;
	int rc = fs_sync(s->fs, s->q, 0, false);

	trace(s, "%d, %u of %u changes", rc, n, s->model->nrec);
	synced(s, rc, n);
}

struct late {
	struct fs_sync sync;	/* first */
	struct sim *s;
	unsigned promise;
	uint32_t label;
};

static void late_done(struct fs_sync *sync)
{
	struct late *l = (struct late *)sync;
	struct sim *s = l->s;

	trace(s, " <sync %u: %d, %u changes>", l->label, sync->result, l->promise);
	s->nlate--;
	s->earlier_ends = true;
	synced(s, sync->result, l->promise);
	s->earlier_ends = false;
	free(l);
}

/* Others go on meanwhile. */
static void do_sync_late(struct sim *s, const struct op *op)
{
	struct target t = op->r[1] % 2 ? target_pick(s, PICK_ANY, op->r[0]) : (struct target){0};
	struct late *l = calloc(1, sizeof(*l));
	bool data = op->r[1] % 4 == 3;

	if (!l)
		abort();
	*l = (struct late){.sync = {.ino = t.ino, .datasync = data, .done = late_done}, .s = s, .label = op->label};
	if (!data)
		lazy_flush(s, t.ino);
	l->promise = promise(s, t.ino, data);
	s->nlate++;
	trace(s, "inode %llu", (unsigned long long)t.ino);
	fs_fsync(s->fs, s->q, &l->sync);
}

static bool root_is_clean(struct sim *s)
{
	struct disk_root *root = dev_alloc(BLOCK_SIZE, false);
	struct dev_stats before, after;

	if (!root)
		abort();
	dev_get_stats(s->q->dev, &before);
	int err = volume_read_root(s->q, &s->v->sb, NULL, false, root);
	dev_get_stats(s->q->dev, &after);
	/* Faults of the device are others' to judge: with both copies of the newest root unreadable, this is the one before. */
	bool clean = err || after.errors != before.errors || get64(root->flags) & ROOT_CLEAN;
	free(root);
	return clean;
}

/* What a remount to read-only does; the next change ends it. */
static void do_rest(struct sim *s)
{
	drain_all(s);
	fs_settle(s->fs, s->q);
	lazy_look(s);
	unsigned n = s->model->nrec;
	int rc = volume_rest(s->v, s->q);

	trace(s, "rest: %d, %u of %u changes", rc, n, s->model->nrec);
	synced(s, rc, n);
	if (!rc && s->v->resting && !root_is_clean(s))
		violation(s, "rest", "the root is not clean");
}

static void do_checkpoint(struct sim *s, const struct op *op)
{
	unsigned n = s->model->nrec;

	if (!s->crew && op->r[1] % 3 == 0) {
		do_rest(s);
		return;
	}
	if (world_want_checkpoint(s)) {
		trace(s, "asked for");
		for (unsigned i = op->r[0] % 16; i; i--)
			dev_poll(s->q, 1);
		return;
	}
	int rc = volume_checkpoint(s->v, s->q, CHECKPOINT_FORCE);

	trace(s, "%d, %u of %u changes", rc, n, s->model->nrec);
	synced(s, rc, n);
}

void do_sync(struct sim *s, const struct op *op)
{
	switch (op->kind) {
	case OP_FSYNC:
	case OP_FDATASYNC:
		do_fsync(s, op);
		break;
	case OP_SYNCFS:
		do_syncfs(s);
		break;
	case OP_SYNC_LATE:
		do_sync_late(s, op);
		break;
	case OP_CHECKPOINT:
		do_checkpoint(s, op);
		break;
	case OP_SERVICE:
		fs_service(s->fs, s->q);
		lazy_look(s);
		break;
	default:
		do_wait(s, op);
		break;
	}
}

/* --- all of them ------------------------------------------------------------------------------- */

static void do_statfs(struct sim *s)
{
	struct fs_statfs st;
	int rc = fs_statfs(s->fs, &st);

	same_rc(s, rc, 0);
	trace(s, "%llu of %llu free", (unsigned long long)st.bfree, (unsigned long long)st.blocks);
	if (st.blocks != s->plan->geo.nblocks || st.bfree > st.blocks || st.bavail > st.bfree)
		violation(s, "statfs", "%llu blocks, %llu free, %llu available", (unsigned long long)st.blocks,
			  (unsigned long long)st.bfree, (unsigned long long)st.bavail);
}

static void op_run(struct sim *s, const struct op *op)
{
	switch (op->kind) {
	case OP_GETATTR:
	case OP_SETATTR:
	case OP_TRUNCATE:
		do_attr(s, op);
		break;
	case OP_GETFLAGS:
	case OP_SETFLAGS:
		do_flags(s, op);
		break;
	case OP_CACHED:
	case OP_WRITEBACK:
		do_cached(s, op);
		break;
	case OP_TRIM:
	case OP_LABEL:
	case OP_SHUTDOWN:
		do_volume(s, op);
		break;
	case OP_SETXATTR:
	case OP_GETXATTR:
	case OP_LISTXATTR:
	case OP_REMOVEXATTR:
	case OP_SETACL:
	case OP_REMOVEACL:
		do_xattr(s, op);
		break;
	case OP_WRITE:
	case OP_WRITE_LENT:
	case OP_WRITE_ASYNC:
	case OP_APPEND:
	case OP_OVERWRITE:
	case OP_COPY:
	case OP_READ:
	case OP_LSEEK:
	case OP_RESERVE:
	case OP_PUNCH:
	case OP_ZERO:
		do_io(s, op);
		break;
	case OP_FSYNC:
	case OP_FDATASYNC:
	case OP_SYNCFS:
	case OP_SYNC_LATE:
	case OP_CHECKPOINT:
	case OP_SERVICE:
	case OP_WAIT:
		do_sync(s, op);
		break;
	case OP_STATFS:
		do_statfs(s);
		break;
	case OP_CUT:
		dev_sim_cut_after(s->dev, op->r[0]);
		trace(s, "at write %llu from here", (unsigned long long)op->r[0]);
		break;
	case OP_FAULT:
		faults_order(s, op);
		break;
	default:
		do_names(s, op);
		break;
	}
}

/* A step of time, so that no two changes look the same, and now and then a day: then times of access are due again. */
static void tick(struct sim *s, const struct op *op)
{
	uint64_t r = hash_mix(op->label, 77);

	s->clock.tv_nsec += 1 + (int64_t)(r % 5 ? r % 1000000 : 0);
	s->clock.tv_sec += r % 16 ? 0 : 1 + (int64_t)(r >> 8) % 90000;
	if (s->clock.tv_nsec >= 1000000000) {
		s->clock.tv_nsec -= 1000000000;
		s->clock.tv_sec++;
	}
}

void do_op(struct sim *s, const struct op *op)
{
	s->op = op;
	s->op_writes = dev_sim_writes(s->dev);
	s->cov->ops++;
	s->cov->amid += s->v->checkpoint_running;
	tick(s, op);
	s->model->now = s->clock;
	s->model->label = op->label;
	dev_sim_schedule(s->dev, hash_mix(s->plan->seed, op->label), s->plan->in_order);
	trace(s, "%6u %-12s ", op->label, op_name(op->kind));
	op_run(s, op);
	/* Before anybody else changes anything: one that has failed, even because the power went, may have stored one. */
	lazy_look(s);
	trace(s, "\n");
	if (!world_is_cut(s))
		world_service(s);
	s->digest = crc32c(s->digest, &s->model->hash, sizeof(s->model->hash));
}
