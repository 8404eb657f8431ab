/* SPDX-License-Identifier: Apache-2.0 */
/*
 * do_io.c - operations on contents.
 *
 * Writes are asynchronous, and several may be under way: the order in which they count is that in which `done` runs.  What is
 * done by one that ends in the middle of another operation's waiting comes before that operation, as long as the latter's
 * commit is the last thing it does; so operations that do something after it wait first for all writes to be done (drain()).
 */
#include "tests/sim/sim.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/fs_impl.h"

/* --- where and how much ------------------------------------------------------------------------ */

size_t draw_len(struct sim *s, uint64_t random)
{
	const struct profile *p = s->plan->profile;
	unsigned dice = (unsigned)(random % (unsigned)(p->small + p->medium + p->large));
	uint64_t r = random >> 8;
	size_t len;

	if (dice < p->small)
		len = 1 + (size_t)(r % 1500);
	else if (dice < (unsigned)p->small + p->medium)
		len = 1 + (size_t)(r % (r % 3 ? 20000 : 66000));
	else
		len = 66000 + (size_t)(r % (r % 8 ? 250000 : FS_IO_MAX - 66000));
	/* Whole blocks, about half of them. */
	if (random >> 40 & 1 && len >= MODEL_PAGE)
		len &= ~(size_t)(MODEL_PAGE - 1);
	return len;
}

uint64_t draw_off(struct sim *s, const struct op *op, const struct minode *i)
{
	uint64_t span = s->plan->profile->span, r = op->r[2] >> 8, size = i->size < span ? i->size : span;

	switch (op->r[2] % 8) {
	case 0:
		return 0;
	case 1:
		return i->size;
	case 2:
		return op->r[3] % 16 ? r % span : (UINT64_C(1) << (32 + r % 31)) - r % 5000;
	case 3:
	case 4:
		return r % (span / MODEL_PAGE + 1) * MODEL_PAGE;
	case 5:
		return (size / MODEL_PAGE) * MODEL_PAGE;
	default:
		return size ? r % size : 0;
	}
}

/* --- writes ------------------------------------------------------------------------------------ */

struct wr {
	struct fs_io io;	/* first */
	struct dev_event done;
	struct sim *s;
	uint8_t *mem;
	uint32_t label;
	bool answered, lent, released, waited;
	bool forced;		/* whatever the flags say */
	bool early;		/* began before a shutdown */
};

static void wr_free(struct wr *w)
{
	free(w->mem);
	free(w);
}

/* Acknowledged before it came, by who keeps the times: is never refused. */
static bool is_promised(const struct wr *w)
{
	return w->io.cached && w->s->plan->cached_bytes;
}

static void wr_forbidden(struct sim *s, const struct wr *w)
{
	const struct minode *i = model_get(s->model, w->io.ino);

	if (w->forced && i && minode_check_free(i))
		s->cov->cached_forced++;
	if (w->io.append && i && i->flags & INODE_APPEND && w->io.result > 0)
		s->cov->flag_append++;
	if (w->io.result > 0 && i && w->io.must_sync != !!(i->flags & INODE_SYNC))
		violation(s, "flags", "inode %llu: a write is %sto be made durable", (unsigned long long)w->io.ino,
			  w->io.must_sync ? "" : "not ");
}

/* Takes the model to where the write has taken the order. */
static void wr_model(struct wr *w)
{
	struct sim *s = w->s;
	const struct fs_io *io = &w->io;
	size_t n = io->result > 0 ? (size_t)io->result : io->len;
	uint32_t label = s->model->label;
	uint64_t want = 12 + io->len / MODEL_PAGE;

	if (is_promised(w) && (io->result == -ENOSPC || (io->result >= 0 && n < io->len)) && !world_is_cut(s))
		violation(s, "cached", "%zd of %zu bytes, which were acknowledged before", io->result, io->len);
	if (!judge(s, io->result < 0 ? (int)io->result : 0, want))
		return;
	if (n > io->len || (io->result >= 0 && !n && io->len))
		violation(s, "result", "a write of %zu bytes wrote %zd", io->len, io->result);
	if (n < io->len && !world_is_cut(s))
		no_space(s, want);
	s->cov->shortened += n < io->len;
	s->model->label = w->label;
	s->model->now = s->clock;
	unsigned how = (io->append ? MODEL_APPEND : 0) | (is_promised(w) ? MODEL_KEEP_TIMES : 0) | (w->forced ? MODEL_FORCED : 0);

	wr_forbidden(s, w);
	same_rc(s, io->result < 0 ? (int)io->result : 0, model_write(s->model, io->ino, io->buf, n, io->off, how));
	s->model->label = label;
}

static void wr_done(struct fs_io *io)
{
	struct wr *w = (struct wr *)io;
	struct sim *s = w->s;

	w->answered = true;
	s->nunanswered--;
	s->write_ends = true;
	s->earlier_ends = w->early;
	wr_model(w);
	s->write_ends = s->earlier_ends = false;
	if (!w->waited)
		trace(s, " <write %u: %zd>", w->label, io->result);
	if (w->waited)
		dev_event_set(&w->done);
	else if (!w->lent)
		wr_free(w);
}

static void wr_release(struct fs_io *io)
{
	struct wr *w = (struct wr *)io;

	/* Whoever still used it would be seen. */
	memset(w->mem, 0xee, io->len < MODEL_PAGE ? io->len : MODEL_PAGE);
	w->s->nlent--;
	w->released = true;
	if (!w->waited)
		wr_free(w);
}

void start_write(struct sim *s, const struct op *op, uint64_t ino, uint64_t off, size_t len)
{
	struct wr *w = calloc(1, sizeof(*w));

	if (!w)
		abort();
	w->mem = dev_alloc(len + MODEL_PAGE, false);
	if (!w->mem)
		abort();
	w->s = s;
	w->label = op->label;
	w->lent = op->kind == OP_WRITE_LENT || (op->kind != OP_WRITE && op->r[4] % 2);
	w->waited = op->kind != OP_WRITE_ASYNC;
	w->io = (struct fs_io){.ino = ino, .off = off, .len = len, .done = wr_done};
	w->early = !s->shut;
	w->io.append = op->kind == OP_APPEND && op->r[2] % 2;
	w->io.cached = op->kind == OP_CACHED || op->kind == OP_WRITEBACK;
	bool settle = op->kind == OP_CACHED && op->r[0] % 4 == 0 && fs_settle_begin(s->fs, ino);
	w->forced = w->io.cached && (settle || s->plan->cached_bytes);
	w->io.buf = w->mem + (w->lent && op->r[4] % 16 ? off % MODEL_PAGE : op->r[4] % 8);
	w->io.release = w->lent ? wr_release : NULL;
	pattern(w->io.buf, len, off, op->label);
	dev_event_init(&w->done, s->q);
	s->nunanswered++;
	s->nlent += w->lent;
	bool waited = w->waited;

	fs_write(s->fs, s->q, &w->io);
	if (!waited)
		return;
	world_wait(s, &w->done);
	if (settle)
		fs_settle_end(s->fs, ino);
	trace(s, ": %zd", w->io.result);
	bool must_sync = w->io.result > 0 && w->io.must_sync;

	w->waited = false;
	if (!w->lent || w->released)
		wr_free(w);
	if (must_sync)
		obey(s, ino, false);
}

static void do_write(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, op->r[0] % 64 ? PICK_FILE : PICK_ANY, op->r[1]);
	size_t len = draw_len(s, op->r[3]);

	if (!t.ino || !target_take(s, &t))
		return;
	const struct minode *i = model_get(s->model, t.ino);
	uint64_t off = op->kind == OP_APPEND ? i->size : draw_off(s, op, i);

	if (op->kind == OP_OVERWRITE && i->size) {
		off = off % i->size;
		len = len < i->size - off ? len : (size_t)(i->size - off);
	}
	trace(s, "inode %llu, %zu bytes at %llu", (unsigned long long)t.ino, len, (unsigned long long)off);
	start_write(s, op, t.ino, off, len);
	/* One that goes on meanwhile needs no reference: whoever unlinks waits for it first. */
	target_drop(s, &t);
}

/* --- copies ------------------------------------------------------------------------------------ */

struct cp {
	struct fs_copy copy;	/* first */
	struct dev_event done;
	struct sim *s;
	uint64_t sum;		/* of the pieces */
	unsigned pieces;
	bool waited, released;
};

void note_filled(struct sim *s)
{
	struct fs_stats stats;

	fs_get_stats(s->fs, &stats);
	s->filled |= stats.filled > 0;
	s->cov->filled += stats.filled;
}

/* Certainly: what is reserved may have become zeros beside a write for which there was no room otherwise. */
static bool is_hole(struct sim *s, const struct minode *i, uint64_t block)
{
	const struct mblock *b = model_block(i, block);
	struct fs_stats stats;

	if (!b)
		return !(i->first_loose && !block);
	if (b->state == M_DATA || (i->first_loose && !block) || s->filled)
		return false;
	fs_get_stats(s->fs, &stats);
	return !stats.filled;
}

/* What has been copied as a hole is none, or the other way round? */
static const char *wrong_piece(struct sim *s, const struct minode *i, uint64_t off, uint64_t n, bool hole)
{
	uint64_t first = off / MODEL_PAGE, last = (off + n - 1) / MODEL_PAGE, found;

	if (hole)
		return model_next_nonzero(i, first, &found) && found <= last ? "data is copied as a hole" : NULL;
	for (uint64_t block = first; block <= last; block++) {
		if (is_hole(s, i, block))
			return "a hole is copied as data";
	}
	return NULL;
}

/* The model goes with each piece, at the moment when it counts. */
static void cp_piece(struct fs_copy *c, uint64_t done, uint64_t n, bool hole)
{
	struct cp *cp = (struct cp *)c;
	struct sim *s = cp->s;
	const struct minode *in = model_get(s->model, c->ino_in);
	const char *wrong = wrong_piece(s, in, c->off_in + done, n, hole);

	if (wrong || done != cp->sum || !n || done + n > c->len || c->off_in + done + n > in->size || (!hole && n > FS_IO_MAX))
		violation(s, "copy", "inode %llu, %llu bytes at %llu: %s", (unsigned long long)c->ino_in, (unsigned long long)n,
			  (unsigned long long)(c->off_in + done), wrong ? wrong : "an impossible piece");
	cp->sum += n;
	cp->pieces++;
	s->model->now = s->clock;
	if (hole) {
		model_copy_hole(s->model, c->ino_out, c->off_out + done, n);
		return;
	}
	model_read(in, s->lab->other, (size_t)n, c->off_in + done);
	same_rc(s, 0, model_write(s->model, c->ino_out, s->lab->other, (size_t)n, c->off_out + done, 0));
}

static void cp_done(struct fs_copy *c)
{
	dev_event_set(&((struct cp *)c)->done);
}

static void cp_release(struct fs_copy *c)
{
	struct cp *cp = (struct cp *)c;

	cp->s->nlent--;
	cp->released = true;
	if (!cp->waited)
		free(cp);
}

/* 0: *most bytes at most, as the model is now. */
static int copy_rules(struct sim *s, const struct fs_copy *c, uint64_t *most)
{
	const struct minode *in = model_get(s->model, c->ino_in);
	uint64_t limit = INT64_MAX, len = c->len;
	int err;

	*most = 0;
	if (!len)
		return 0;
	if (c->off_out >= limit)
		return -EFBIG;
	if (c->off_in >= limit)
		return 0;
	len = len < limit - c->off_out ? len : limit - c->off_out;
	len = len < limit - c->off_in ? len : limit - c->off_in;
	if (c->ino_in == c->ino_out && c->off_in < c->off_out + len && c->off_out < c->off_in + len)
		return -EINVAL;
	err = model_file_check(s->model, c->ino_in);
	if (err || c->off_in >= in->size)
		return err;
	*most = len < in->size - c->off_in ? len : in->size - c->off_in;
	err = model_file_check(s->model, c->ino_out);
	return err ? err : minode_check_free(model_get(s->model, c->ino_out));
}

/* Not all of it: there was no room, or a fault, or it is a comb. */
static void copy_short(struct sim *s, const struct cp *cp, uint64_t most)
{
	if (world_is_cut(s) || cp->pieces >= 1024 || faults_excuse(s, -EIO) || faults_excuse(s, -EROFS))
		return;
	no_space(s, 12 + (most - cp->sum) / MODEL_PAGE);
	s->cov->shortened++;
}

static void copy(struct sim *s, struct cp *cp, const struct target *in, const struct target *out)
{
	struct fs_copy *c = &cp->copy;
	enum fs_atime atime = s->fs->cfg.atime;
	uint64_t most;
	int want = copy_rules(s, c, &most);

	/* When exactly the time of access changes could not be told. */
	s->fs->cfg.atime = FS_NOATIME;
	s->nlent++;
	fs_copy_range(s->fs, s->q, c);
	world_wait(s, &cp->done);
	s->fs->cfg.atime = atime;
	trace(s, "inode %llu, %llu bytes at %llu, to inode %llu at %llu: %lld, %u pieces", (unsigned long long)in->ino,
	      (unsigned long long)c->len, (unsigned long long)c->off_in, (unsigned long long)out->ino,
	      (unsigned long long)c->off_out, (long long)c->result, cp->pieces);
	if (c->result >= 0 && (uint64_t)c->result != cp->sum)
		violation(s, "copy", "%lld bytes, in pieces of %llu together", (long long)c->result, (unsigned long long)cp->sum);
	if (!judge(s, c->result < 0 ? (int)c->result : 0, 12 + (most < (8u << 20) ? most : 8u << 20) / MODEL_PAGE))
		return;
	same_rc(s, c->result < 0 ? (int)c->result : 0, want);
	if (!want && c->result < (int64_t)most)
		copy_short(s, cp, most);
}

static void do_copy(struct sim *s, const struct op *op)
{
	struct target in = target_pick(s, op->r[0] % 64 ? PICK_FILE : PICK_ANY, op->r[1]);
	struct target out = target_pick(s, op->r[0] % 61 ? PICK_FILE : PICK_ANY, op->r[4]);
	struct op to = *op;

	drain(s);
	if (!in.ino || !out.ino || !target_take(s, &in))
		return;
	if (!target_take(s, &out)) {
		target_drop(s, &in);
		return;
	}
	struct cp *cp = calloc(1, sizeof(*cp));

	if (!cp)
		abort();
	to.r[2] = op->r[0] >> 8;
	*cp = (struct cp){.s = s, .waited = true};
	cp->copy = (struct fs_copy){
		.ino_in = in.ino,
		.off_in = op->r[2] % 3 ? draw_off(s, op, model_get(s->model, in.ino)) : 0,
		.ino_out = out.ino,
		.off_out = op->r[2] % 3 ? draw_off(s, &to, model_get(s->model, out.ino)) : 0,
		.len = op->r[3] % 4 ? draw_len(s, op->r[3]) * (1 + op->r[4] % 8) : op->r[3] % 8 ? UINT64_MAX : UINT32_MAX,
		.piece = cp_piece,
		.done = cp_done,
		.release = cp_release,
	};
	dev_event_init(&cp->done, s->q);
	copy(s, cp, &in, &out);
	cp->waited = false;
	if (cp->released)
		free(cp);
	target_drop(s, &out);
	target_drop(s, &in);
}

/* --- reads ------------------------------------------------------------------------------------- */

struct rd {
	struct fs_io io;
	struct dev_event done;
};

static void rd_done(struct fs_io *io)
{
	dev_event_set(&((struct rd *)io)->done);
}

static size_t first_difference(const uint8_t *a, const uint8_t *b, size_t len)
{
	size_t at = 0;

	while (at < len && a[at] == b[at])
		at++;
	return at;
}

static void do_read(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, op->r[0] % 64 ? PICK_FILE : PICK_ANY, op->r[1]);
	size_t len = op->r[3] % 4 ? draw_len(s, op->r[3]) : FS_IO_MAX;

	drain(s);
	if (!t.ino || !target_take(s, &t))
		return;
	const struct minode *i = model_get(s->model, t.ino);
	struct rd rd = {.io = {.ino = t.ino, .off = draw_off(s, op, i), .len = len, .buf = s->lab->room, .done = rd_done}};
	int want = model_file_check(s->model, t.ino);

	dev_event_init(&rd.done, s->q);
	fs_read(s->fs, s->q, &rd.io);
	world_wait(s, &rd.done);
	trace(s, "inode %llu, %zu bytes at %llu: %zd", (unsigned long long)t.ino, len, (unsigned long long)rd.io.off,
	      rd.io.result);
	int rc = rd.io.result < 0 ? (int)rd.io.result : 0;

	if (judge(s, rc, 0)) {
		same_rc(s, rc, want);
		size_t n = rc ? 0 : model_read(i, s->lab->other, len, rd.io.off);

		if (!rc && (size_t)rd.io.result != n)
			violation(s, "read", "inode %llu: %zd bytes at %llu, not %zu", (unsigned long long)t.ino, rd.io.result,
				  (unsigned long long)rd.io.off, n);
		if (!rc && memcmp(rd.io.data, s->lab->other, n))
			violation(s, "read", "inode %llu: wrong contents at byte %llu", (unsigned long long)t.ino,
				  (unsigned long long)rd.io.off + first_difference(rd.io.data, s->lab->other, n));
	}
	if (!want)
		same_atime(s, t.ino);
	target_drop(s, &t);
}

/* --- holes ------------------------------------------------------------------------------------- */

/* From `off` on it is all hole until *pos (-ENXIO: until the end). */
static const char *wrong_data(struct sim *s, const struct minode *i, uint64_t off, int rc, uint64_t pos)
{
	uint64_t found;
	bool any = model_next_nonzero(i, off / MODEL_PAGE, &found) && found * MODEL_PAGE < i->size;

	if (rc)
		return any ? "data is taken for a hole" : NULL;
	if (pos < off || pos >= i->size || (pos > off && pos % MODEL_PAGE))
		return "an impossible place";
	if (any && (found * MODEL_PAGE > off ? found * MODEL_PAGE : off) < pos)
		return "data is taken for a hole";
	return is_hole(s, i, pos / MODEL_PAGE) ? "a hole is taken for data" : NULL;
}

static const char *wrong_hole(struct sim *s, const struct minode *i, uint64_t off, uint64_t pos)
{
	if (pos < off || pos > i->size || (pos > off && pos < i->size && pos % MODEL_PAGE))
		return "an impossible place";
	for (uint64_t block = off / MODEL_PAGE; pos > off && block * MODEL_PAGE < pos; block++) {
		if (is_hole(s, i, block))
			return "a hole is taken for data";
	}
	const struct mblock *b = model_block(i, pos / MODEL_PAGE);

	return pos < i->size && b && b->page ? "data is taken for a hole" : NULL;
}

static void seek(struct sim *s, uint64_t ino, uint64_t off, int whence)
{
	uint64_t pos = 0;
	int rc = fs_lseek(s->fs, s->q, ino, off, whence, &pos);
	const struct minode *i = model_get(s->model, ino);
	int want = model_file_check(s->model, ino);
	const char *wrong;

	trace(s, "inode %llu, %s from %llu: %d, %llu", (unsigned long long)ino, whence == SEEK_DATA ? "data" : "hole",
	      (unsigned long long)off, rc, (unsigned long long)pos);
	if (!judge(s, rc, 0))
		return;
	if (want || off >= i->size) {
		same_rc(s, rc, want ? want : -ENXIO);
		return;
	}
	if (rc && (rc != -ENXIO || whence == SEEK_HOLE))
		same_rc(s, rc, 0);
	wrong = whence == SEEK_DATA ? wrong_data(s, i, off, rc, pos) : wrong_hole(s, i, off, pos);
	if (wrong)
		violation(s, "seek", "inode %llu: %s from %llu is %llu: %s", (unsigned long long)ino,
			  whence == SEEK_DATA ? "data" : "hole", (unsigned long long)off, (unsigned long long)pos, wrong);
}

static void do_lseek(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, op->r[0] % 32 ? PICK_FILE : PICK_ANY, op->r[1]);

	if (!t.ino || !target_take(s, &t))
		return;
	uint64_t off = draw_off(s, op, model_get(s->model, t.ino));

	if (off <= INT64_MAX)
		seek(s, t.ino, off, op->r[3] & 1 ? SEEK_DATA : SEEK_HOLE);
	target_drop(s, &t);
}

void tree_holes(struct sim *s)
{
	for (uint64_t ino = 0; ino < s->model->ntab; ino++) {
		const struct minode *i = model_get(s->model, ino);

		for (uint64_t pos = 0; i && i->nlink && S_ISREG(i->mode) && pos < i->size;) {
			uint64_t data, hole;

			seek(s, ino, pos, SEEK_DATA);
			if (fs_lseek(s->fs, s->q, ino, pos, SEEK_DATA, &data))
				break;
			seek(s, ino, data, SEEK_HOLE);
			if (fs_lseek(s->fs, s->q, ino, data, SEEK_HOLE, &hole))
				break;
			pos = hole;
		}
	}
}

/* --- fallocate --------------------------------------------------------------------------------- */

static int mode_of(const struct op *op)
{
	int keep = op->r[4] & 1 ? FALLOC_FL_KEEP_SIZE : 0;

	if (op->r[4] % 64 == 9)
		return FALLOC_FL_COLLAPSE_RANGE;
	if (op->kind == OP_PUNCH)
		return FALLOC_FL_PUNCH_HOLE | (op->r[4] % 32 == 8 ? 0 : FALLOC_FL_KEEP_SIZE);
	return (op->kind == OP_ZERO ? FALLOC_FL_ZERO_RANGE : 0) | keep;
}

/* As fs/fs.h says: may it take more than one transaction? */
static bool takes_several(struct sim *s, const struct minode *i, int mode, uint64_t off, uint64_t len)
{
	uint64_t first = off / MODEL_PAGE, last = (off + len) / MODEL_PAGE + 1, n = 0;

	if (last - first > 16000)
		return true;
	if (mode & FALLOC_FL_ZERO_RANGE && last - first > 255 && space_is_short(s, last - first))
		return true;
	for (unsigned k = 0; i->blocks && k < i->blocks->n; k++)
		n += i->blocks->block[k].block + 1 >= first && i->blocks->block[k].block <= last;
	return n >= 395;
}

static void may_be_partly(struct sim *s, uint64_t ino, int mode, uint64_t off, uint64_t len)
{
	struct mrec *rec = &s->model->rec[s->model->nrec];

	rec->ino = ino;
	rec->mode = mode;
	rec->off = off;
	rec->len = len;
}

static void do_fallocate(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, op->r[0] % 64 ? PICK_FILE : PICK_ANY, op->r[1]);
	uint64_t len = op->r[3] % 32 == 7 ? 0 : draw_len(s, op->r[3]) * (1 + op->r[4] % 4);
	int mode = mode_of(op);

	drain(s);
	if (!t.ino || !target_take(s, &t))
		return;
	uint64_t off = draw_off(s, op, model_get(s->model, t.ino));
	bool several = takes_several(s, model_get(s->model, t.ino), mode, off, len);

	/* How far it got before an error would have to be guessed. */
	if (several && s->plan->faults) {
		target_drop(s, &t);
		return;
	}
	/* Else it would be seen at any of its steps. */
	if (several)
		lazy_flush(s, t.ino);
	int rc = fs_fallocate(s->fs, s->q, t.ino, mode, off, len);

	trace(s, "inode %llu, mode %d, %llu bytes at %llu%s: %d", (unsigned long long)t.ino, mode, (unsigned long long)len,
	      (unsigned long long)off, several ? ", in several steps" : "", rc);
	if (judge(s, rc, 12 + len / MODEL_PAGE)) {
		unsigned n = s->model->nrec;

		same_rc(s, rc, model_fallocate(s->model, t.ino, mode, off, len));
		if (s->model->nrec > n && several)
			may_be_partly(s, t.ino, mode, off, len);
		if (!rc)
			obey(s, t.ino, false);
	} else if (several && !s->shut && (world_is_cut(s) || !tree_partly(s, t.ino, mode, off, len))) {
		/* Some of its steps may have been done. */
		if (!model_fallocate(s->model, t.ino, mode, off, len))
			may_be_partly(s, t.ino, mode, off, len);
	}
	target_drop(s, &t);
}

void do_io(struct sim *s, const struct op *op)
{
	switch (op->kind) {
	case OP_COPY:
		do_copy(s, op);
		break;
	case OP_READ:
		do_read(s, op);
		break;
	case OP_LSEEK:
		do_lseek(s, op);
		break;
	case OP_RESERVE:
	case OP_PUNCH:
	case OP_ZERO:
		do_fallocate(s, op);
		break;
	default:
		do_write(s, op);
		break;
	}
}
