/* SPDX-License-Identifier: Apache-2.0 */
/* do_volume.c - what is done to the volume as a whole: discarding what is free, its label, shutting it down. */
#include "tests/sim/sim.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- discarding -------------------------------------------------------------------------------- */

struct tr {
	struct fs_trim t;	/* first */
	struct dev_event done;
	struct sim *s;
	uint32_t label;
	bool waited, cancel;
	int want;
};

static bool tr_cancelled(struct fs_trim *t)
{
	struct tr *tr = (struct tr *)t;

	return tr->cancel || tr->s->closing;
}

static bool tr_excused(struct tr *tr)
{
	struct sim *s = tr->s;

	if (tr->t.result == -EINTR)
		return tr_cancelled(&tr->t);
	if (tr->t.result == -EROFS)
		return s->v->resting;
	return tr->t.result == -EBUSY && s->trims_met;
}

static void tr_done(struct fs_trim *t)
{
	struct tr *tr = (struct tr *)t;
	struct sim *s = tr->s;

	s->ntrims--;
	trace(s, " <trim %u: %d, %llu bytes>", tr->label, t->result, (unsigned long long)t->trimmed);
	if (t->trimmed % BLOCK_SIZE || t->trimmed > t->len || t->trimmed > (uint64_t)s->plan->geo.nblocks * BLOCK_SIZE)
		violation(s, "trim", "%llu bytes are trimmed", (unsigned long long)t->trimmed);
	if (!t->result && s->v->resting)
		violation(s, "trim", "at rest");
	s->earlier_ends = true;
	if (!tr_excused(tr) && judge(s, t->result, 0))
		same_rc(s, t->result, tr->want);
	s->earlier_ends = false;
	s->cov->trims += !t->result;
	s->cov->trimmed += t->trimmed / BLOCK_SIZE;
	if (tr->waited)
		dev_event_set(&tr->done);
	else
		free(tr);
}

static void do_trim(struct sim *s, const struct op *op)
{
	uint64_t size = (uint64_t)s->plan->geo.nblocks * BLOCK_SIZE;
	struct tr *tr = calloc(1, sizeof(*tr));

	if (!tr)
		abort();
	*tr = (struct tr){.s = s, .label = op->label, .waited = op->r[0] % 2, .cancel = op->r[0] % 16 == 5};
	tr->t = (struct fs_trim){.len = UINT64_MAX, .cancelled = tr_cancelled, .done = tr_done};
	if (op->r[1] % 2) {
		tr->t.start = op->r[2] % (size + size / 16);
		tr->t.len = op->r[3] % size;
	}
	tr->t.minlen = op->r[1] % 8 < 5 ? 0 : op->r[4] % (64 * BLOCK_SIZE);
	tr->want = tr->t.start >= size || tr->t.len < BLOCK_SIZE ? -EINVAL : 0;
	trace(s, "%llu bytes at %llu, runs of %llu", (unsigned long long)tr->t.len, (unsigned long long)tr->t.start,
	      (unsigned long long)tr->t.minlen);
	dev_event_init(&tr->done, s->q);
	/* Whichever of them finds the other at it gives up. */
	s->trims_met = s->ntrims++ && (s->trims_met || s->ntrims > 1);
	bool waited = tr->waited;

	fs_trim(s->fs, s->q, &tr->t);
	if (!waited)
		return;
	world_wait(s, &tr->done);
	free(tr);
}

/* --- the label --------------------------------------------------------------------------------- */

/* Some of them are as long as they may be. */
static void label_text(unsigned n, char text[LABEL_BYTES])
{
	memset(text, 0, LABEL_BYTES);
	if (!n) {
		strcpy(text, "sim");
		return;
	}
	int len = snprintf(text, LABEL_BYTES, "%u.", n);
	size_t more = n * 83 % (LABEL_BYTES - (size_t)len);

	memset(text + len, 'a' + (int)(n % 26), more);
}

static bool is_label(const struct sim *s, unsigned n)
{
	char text[LABEL_BYTES];

	label_text(n, text);
	return !memcmp(text, s->v->sb.label, LABEL_BYTES);
}

static void do_label(struct sim *s)
{
	unsigned changes = s->model->nrec;
	char text[LABEL_BYTES];

	if (s->nlabels + 1 == LABELS_MAX)
		return;
	label_text(++s->nlabels, text);
	s->labelling = true;
	int rc = volume_set_label(s->v, s->q, text);

	s->labelling = false;
	trace(s, "%.16s...: %d", text, rc);
	if (!is_label(s, rc ? s->label : s->nlabels))
		violation(s, "label", "it is shown as another");
	/* As fs/control.c answers. */
	if (rc && s->shut)
		rc = -EIO;
	if (!judge(s, rc, 0))
		return;
	same_rc(s, rc, 0);
	s->label = s->nsettled = s->nlabels;
	s->cov->labels++;
	acked(s, changes);
}

void label_judge(struct sim *s)
{
	unsigned n = s->label;

	/* The copy that counts may be one that a lying device never wrote, but nothing that was never set. */
	for (unsigned k = s->nlabels + 1; !is_label(s, n) && k-- > (faults_damage(s) ? 0 : s->nsettled + 1);)
		n = k;
	if (!is_label(s, n))
		violation(s, "label", "it is neither the last one nor one that was being set");
	s->label = n;
	s->nsettled = s->nlabels;
}

/* --- shutting down ----------------------------------------------------------------------------- */

static void refused(struct sim *s, const char *what, int64_t rc)
{
	if (rc != -EIO)
		violation(s, "shut", "%s after a shutdown: %lld", what, (long long)rc);
	s->cov->shut_refused++;
}

static int list_none(void *arg, const struct fs_dirent *e)
{
	(void)arg;
	(void)e;
	return 0;
}

static void try_names(struct sim *s)
{
	const struct fs_cred cred = {.uid = 0};
	struct fs_attr attr = {.mode = 0700};

	refused(s, "lookup", fs_lookup(s->fs, s->q, MODEL_ROOT, "n1", 2, &attr));
	refused(s, "create", fs_create(s->fs, s->q, &cred, MODEL_ROOT, "shut", 4, S_IFREG | 0600, 0, &attr));
	refused(s, "symlink", fs_symlink(s->fs, s->q, &cred, MODEL_ROOT, "shut", 4, "down", &attr));
	refused(s, "tmpfile", fs_tmpfile(s->fs, s->q, &cred, MODEL_ROOT, 0600, &attr));
	refused(s, "unlink", fs_unlink(s->fs, s->q, MODEL_ROOT, "n1", 2));
	refused(s, "rmdir", fs_rmdir(s->fs, s->q, MODEL_ROOT, "n1", 2));
	refused(s, "rename", fs_rename(s->fs, s->q, &cred, MODEL_ROOT, "n1", 2, MODEL_ROOT, "n2", 2, 0));
	refused(s, "readdir", fs_readdir(s->fs, s->q, MODEL_ROOT, 0, false, list_none, NULL));
	refused(s, "setattr", fs_setattr(s->fs, s->q, MODEL_ROOT, FS_SET_MODE, &attr, &attr));
	refused(s, "setxattr", fs_setxattr(s->fs, s->q, MODEL_ROOT, "user.1", "x", 1, 0));
	refused(s, "removexattr", fs_removexattr(s->fs, s->q, MODEL_ROOT, "user.1"));
}

static void try_file(struct sim *s, uint64_t ino)
{
	struct fs_attr attr = {.size = 1};
	uint8_t byte[1] = {1};
	uint64_t pos;

	refused(s, "read", fs_pread(s->fs, s->q, ino, byte, 1, 0));
	refused(s, "write", fs_pwrite(s->fs, s->q, ino, byte, 1, 0));
	refused(s, "truncate", fs_setattr(s->fs, s->q, ino, FS_SET_SIZE, &attr, &attr));
	refused(s, "fallocate", fs_fallocate(s->fs, s->q, ino, FALLOC_FL_KEEP_SIZE, 0, 5000));
	refused(s, "punch", fs_fallocate(s->fs, s->q, ino, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, 5000));
	refused(s, "lseek", fs_lseek(s->fs, s->q, ino, 0, SEEK_HOLE, &pos));
	refused(s, "bmap", fs_bmap(s->fs, s->q, ino, 0, &pos));
	refused(s, "copy", fs_copy_wait(s->fs, s->q, ino, 0, ino, 1 << 20, 1));
	refused(s, "link", fs_link(s->fs, s->q, ino, MODEL_ROOT, "shut", 4, &attr));
	refused(s, "fsync", fs_sync(s->fs, s->q, ino, false));
}

static void try_all(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, PICK_FILE, op->r[1]);
	struct fs_statfs st;
	uint32_t flags;
	size_t len = 0;

	try_names(s);
	if (t.ino)
		try_file(s, t.ino);
	refused(s, "listxattr", fs_listxattr(s->fs, s->q, MODEL_ROOT, true, NULL, &len));
	refused(s, "getxattr", fs_getxattr(s->fs, s->q, MODEL_ROOT, "user.1", NULL, &len));
	refused(s, "getflags", fs_get_flags(s->fs, s->q, MODEL_ROOT, &flags));
	refused(s, "setflags", fs_set_flags(s->fs, s->q, 0, MODEL_ROOT, INODE_NODUMP, INODE_NODUMP));
	refused(s, "admission", fs_admit(s->fs, s->q, false));
	refused(s, "syncfs", fs_sync(s->fs, s->q, 0, false));
	same_rc(s, fs_statfs(s->fs, &st), 0);
}

static void do_shutdown(struct sim *s, const struct op *op)
{
	bool flush = op->r[0] % 2;
	unsigned n = s->model->nrec;
	int rc = fs_shutdown(s->fs, s->q, flush);

	trace(s, "%s: %d, %u changes", flush ? "with a sync" : "at once", rc, n);
	if (flush)
		synced(s, rc, n);
	else
		same_rc(s, rc, 0);
	s->shut = true;
	s->cov->shuts++;
	if (!world_is_cut(s))
		try_all(s, op);
}

void do_volume(struct sim *s, const struct op *op)
{
	switch (op->kind) {
	case OP_TRIM:
		do_trim(s, op);
		break;
	case OP_LABEL:
		do_label(s);
		break;
	default:
		if (!s->shut)
			do_shutdown(s, op);
	}
}
