/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub.c - see the headers.
 *
 * Metadata is read as the last durable root has it, in batches.  For each batch that root is held (volume_root_begin()): nothing of it is
 * rewritten or handed out, so what does not verify is damaged, and a bad copy can be rewritten without asking anybody.  Between two
 * batches the root may become another; the walk goes on with the key where it stopped, in whatever tree there is then.  A hold is short,
 * since the next checkpoint waits for it; pace is kept between holds.
 *
 * File contents are read with nothing held at all.  The blocks may meanwhile belong to others, or hold something newer: a block that
 * does not verify is only suspected, and the file's present contents are read at that place as any reader would.  Only if those cannot be
 * had is something lost.
 */
#include "fs/scrub_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BUSY_WAIT_MS 2u /* a checkpoint is being made */
#define WAIT_MS 200u

/* --- pace -------------------------------------------------------------------------------------- */

static uint64_t now_ms(const struct scrub *s)
{
	struct timespec ts;

	if (s->cfg->now_ms)
		return s->cfg->now_ms(s->cfg->arg);
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void wait_ms(struct scrub *s, unsigned ms)
{
	if (s->cfg->wait)
		s->cfg->wait(s->cfg->arg, s->q, ms);
	else
		dev_poll(s->q, (int)ms);
}

static int cancelled(struct scrub *s)
{
	assert(!s->held);
	if (volume_is_shut(s->v))
		return -EIO;
	return s->cfg->cancelled && s->cfg->cancelled(s->cfg->arg) ? -ECANCELED : 0;
}

/* Time that was lost otherwise is not made up for: no burst. */
static int keep_rate(struct scrub *s)
{
	double base = s->due_ms > s->paced_ms ? s->due_ms : s->paced_ms;
	int err = 0;

	s->due_ms = base + (double)s->read_bytes * 1000 / (double)s->cfg->rate;
	s->read_bytes = 0;
	for (;;) {
		double now = (double)now_ms(s), left = s->due_ms - now;

		s->paced_ms = now;
		if (err || left < 1)
			return err;
		wait_ms(s, left < WAIT_MS ? (unsigned)left : WAIT_MS);
		err = cancelled(s);
	}
}

int scrub_pace(struct scrub *s)
{
	int err = cancelled(s);

	if (s->res->done > s->res->total)
		s->res->done = s->res->total;
	if (s->cfg->progress)
		s->cfg->progress(s->cfg->arg, s->res);
	return err || !s->cfg->rate ? err : keep_rate(s);
}

/* --- findings ---------------------------------------------------------------------------------- */

static void report(struct scrub *s, const struct scrub_finding *f)
{
	/* That nothing can be read then says nothing about the volume. */
	if (volume_is_shut(s->v))
		return;
	diag(s->v->diag, DIAG_WARNING, "%s: scrub: %s", s->v->dev->path, f->text);
	if (s->cfg->found)
		s->cfg->found(s->cfg->arg, f);
}

void scrub_found(struct scrub *s, enum scrub_kind kind, bool repaired, uint64_t blkno, const char *fmt, ...)
{
	struct scrub_finding f = {.kind = kind, .repaired = repaired, .blkno = blkno};
	char text[320];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	f.text = text;
	report(s, &f);
}

void scrub_note_damage(struct scrub *s)
{
	volume_lock(s->v);
	volume_note_damage(s->v);
	volume_unlock(s->v);
}

void scrub_lost_meta(struct scrub *s, uint64_t blkno, const char *what, const struct scrub_why *why)
{
	if (volume_is_shut(s->v))
		return;
	s->res->lost_meta++;
	scrub_found(s, SCRUB_META, false, blkno, "%s at block %llu is lost, both copies are bad: %s", what,
		    (unsigned long long)blkno, why->text);
}

static void report_lost(struct scrub *s)
{
	for (unsigned i = 0; i < s->nlost; i++) {
		const struct scrub_lost *l = &s->lost[i];
		struct scrub_finding f = {
			.kind = SCRUB_DATA,
			.blkno = l->blkno,
			.ino = l->ino,
			.off = l->off,
			.len = l->len,
			.path = l->path,
		};
		char text[400];

		snprintf(text, sizeof(text),
			 "inode %llu (%s): %llu bytes at byte %llu (block %llu) are lost: %s",
			 (unsigned long long)l->ino, l->path ? l->path : "no name found",
			 (unsigned long long)l->len, (unsigned long long)l->off, (unsigned long long)l->blkno,
			 l->unreadable ? "the device cannot read them" : "checksum");
		f.text = text;
		report(s, &f);
	}
}

/* --- blocks that exist twice ------------------------------------------------------------------- */

struct copy_read {
	struct dev_io io;
	int *err;
	unsigned *pending;
};

static void copy_done(struct dev_io *io, int err)
{
	struct copy_read *r = (struct copy_read *)io;

	*r->err = err;
	--*r->pending;
}

int scrub_read(struct scrub *s, struct scrub_pair *p, unsigned n)
{
	struct copy_read *reads = calloc(2 * (size_t)n, sizeof(*reads));
	unsigned pending = 2 * n;

	if (!reads)
		return -ENOMEM;
	for (unsigned i = 0; i < 2 * n; i++) {
		struct scrub_pair *one = &p[i / 2];

		reads[i].err = &one->err[i % 2];
		reads[i].pending = &pending;
		dev_io_rw(&reads[i].io, DEV_READ, 0, one->blkno[i % 2] * BLOCK_SIZE, one->block[i % 2],
			  BLOCK_SIZE, copy_done);
		dev_submit(s->q, &reads[i].io);
	}
	while (pending)
		dev_poll(s->q, -1);
	free(reads);
	s->read_bytes += 2 * (uint64_t)n * BLOCK_SIZE;
	s->res->done += 2 * (uint64_t)n * BLOCK_SIZE;
	s->res->meta_blocks += 2 * n;
	return 0;
}

static void keep_reason(void *arg, enum diag_level level, const char *line)
{
	struct scrub_why *why = arg;

	(void)level;
	snprintf(why->text, sizeof(why->text), "%s", line);
}

static bool copy_is_good(struct scrub *s, const struct scrub_pair *p, unsigned copy, scrub_verify_fn *verify,
			 void *arg, struct scrub_why *why)
{
	struct diag d = {.emit = keep_reason, .arg = why};

	why->text[0] = '\0';
	if (!p->err[copy])
		return verify(s, arg, p->block[copy], p->blkno[copy], &d) == 0;
	snprintf(why->text, sizeof(why->text), "%s", strerror(-p->err[copy]));
	return false;
}

/* Nothing is written then: see volume_rest(). */
static bool is_resting(struct scrub *s)
{
	volume_lock(s->v);
	bool resting = s->v->resting;
	volume_unlock(s->v);
	return resting;
}

bool scrub_rewrite(struct scrub *s, uint64_t blkno, const void *good, scrub_verify_fn *verify, void *arg)
{
	if (!s->repair || !volume_repair_begin(s->v))
		return false;
	int err = dev_write(s->q, blkno * BLOCK_SIZE, good, BLOCK_SIZE, DEV_DURABLE);
	volume_repair_end(s->v);
	if (err || dev_read(s->q, blkno * BLOCK_SIZE, s->scratch, BLOCK_SIZE) || verify(s, arg, s->scratch, blkno, NULL))
		return false;
	s->res->repaired++;
	volume_lock(s->v);
	s->v->stats.repairs++;
	volume_unlock(s->v);
	return true;
}

const void *scrub_settle(struct scrub *s, struct scrub_pair *p, scrub_verify_fn *verify, void *arg,
			 const char *what, struct scrub_why *why)
{
	struct scrub_why reason[2];
	bool good[2];

	for (unsigned i = 0; i < 2; i++)
		good[i] = copy_is_good(s, p, i, verify, arg, &reason[i]);
	if (!good[0] && !good[1]) {
		*why = reason[0];
		return NULL;
	}
	if (good[0] && good[1])
		return p->block[0];

	unsigned bad = good[0] ? 1 : 0;
	bool repaired = scrub_rewrite(s, p->blkno[bad], p->block[!bad], verify, arg);

	s->res->bad_copies++;
	scrub_found(s, SCRUB_COPY, repaired, p->blkno[bad], "%s: copy at block %llu is bad%s: %s", what,
		    (unsigned long long)p->blkno[bad], repaired ? ", rewritten from the other" : "",
		    reason[bad].text);
	return p->block[!bad];
}

/* --- the root ---------------------------------------------------------------------------------- */

static int root_verify(struct scrub *s, void *arg, const void *block, uint64_t blkno, const struct diag *d)
{
	uint64_t generation = *(uint64_t *)arg;
	const struct disk_root *root = block;
	int err = root_check(block, &s->v->sb, generation & 1, d);

	(void)blkno;
	if (!err && get64(root->h.generation) != generation)
		return corrupt(d, "is of checkpoint %llu, not %llu",
			       (unsigned long long)get64(root->h.generation), (unsigned long long)generation);
	return err;
}

/* -EUCLEAN: no good copy, and *why. */
static int root_load(struct scrub *s, uint64_t generation, struct scrub_why *why)
{
	auto_free uint8_t *blocks = dev_alloc(2 * BLOCK_SIZE, false);
	struct scrub_pair p = {.block = {blocks, blocks + BLOCK_SIZE}};
	const void *good;

	if (!blocks)
		return -ENOMEM;
	for (unsigned i = 0; i < 2; i++)
		p.blkno[i] = root_blkno(&s->v->sb, generation & 1, i);
	int err = scrub_read(s, &p, 1);
	if (err)
		return err;
	good = scrub_settle(s, &p, root_verify, &generation, "checkpoint root", why);
	if (!good)
		return -EUCLEAN;
	memcpy(s->root, good, BLOCK_SIZE);
	s->generation = generation;
	return 0;
}

/* What it said is still in memory: the next checkpoint writes another one. */
static int root_replace(struct scrub *s, uint64_t lost, const struct scrub_why *why)
{
	uint64_t blkno = root_blkno(&s->v->sb, lost & 1, 0), now;

	scrub_note_damage(s);
	scrub_checkpoint(s);
	volume_lock(s->v);
	now = s->v->generation;
	volume_unlock(s->v);
	if (now == lost) {
		scrub_lost_meta(s, blkno, "the newest checkpoint root", why);
		return -EIO;
	}
	s->res->bad_copies += 2;
	s->res->repaired += 2;
	scrub_found(s, SCRUB_COPY, true, blkno,
		    "checkpoint root: both copies were bad, replaced by a checkpoint: %s", why->text);
	return 0;
}

void scrub_let_go(struct scrub *s)
{
	assert(s->held);
	s->held = false;
	volume_read_end(s->v, s->epoch);
}

static int hold(struct scrub *s, uint64_t *generation)
{
	int err;

	for (;;) {
		err = cancelled(s);
		if (err)
			return err;
		volume_lock(s->v);
		err = volume_root_begin(s->v, &s->epoch, generation);
		volume_unlock(s->v);
		if (err != -EAGAIN)
			break;
		wait_ms(s, BUSY_WAIT_MS);
	}
	s->held = true;
	return 0;
}

int scrub_hold(struct scrub *s)
{
	for (;;) {
		struct scrub_why why;
		uint64_t generation;
		int err = hold(s, &generation);

		if (err || generation == s->generation)
			return err;
		err = root_load(s, generation, &why);
		if (!err)
			return 0;
		scrub_let_go(s);
		if (err == -EUCLEAN)
			err = root_replace(s, generation, &why);
		if (err)
			return err;
	}
}

void scrub_checkpoint(struct scrub *s)
{
	struct miss miss = {.kind = MISS_SPACE};

	assert(!s->held);
	/* All that there is lies under the root of one that rests. */
	if (is_resting(s))
		return;
	/* A volume that takes no changes makes none, and fails this at once. */
	(void)volume_provide(s->v, s->q, &miss);
}

/* --- the whole --------------------------------------------------------------------------------- */

static int estimate(struct scrub *s)
{
	const struct super *sb = &s->v->sb;
	int err = scrub_hold(s);

	if (err)
		return err;
	scrub_let_go(s);

	uint64_t fixed = SUPER_COPIES + 4 + 2 * ((uint64_t)sb->ntables + sb->ngroups);
	uint64_t data = super_data_end(sb) - super_data_begin(sb), nfree = get64(s->root->nfree);

	s->res->total = (fixed + (nfree < data ? data - nfree : 0)) * BLOCK_SIZE;
	return 0;
}

static int scrub_all(struct scrub *s)
{
	int err;

	/* So that what was there when it was asked for is under the root. */
	scrub_checkpoint(s);
	err = scrub_supers(s);
	if (!err)
		err = estimate(s);
	if (!err)
		err = scrub_other_root(s);
	if (!err)
		err = scrub_space(s);
	if (!err)
		err = scrub_tree(s);
	if (!err)
		s->res->done = s->res->total;
	/* What was found before it was cancelled is told as well, without names. */
	if (!err)
		scrub_names(s);
	report_lost(s);
	return err ? err : scrub_pace(s);
}

static void scrub_free(struct scrub *s)
{
	for (unsigned i = 0; i < s->nlost; i++)
		free(s->lost[i].path);
	free(s->lost);
	free(s->scratch);
	free(s->root);
}

int scrub_run(struct fs *fs, struct dev_queue *q, const struct scrub_config *cfg, struct scrub_result *out)
{
	struct scrub s = {.fs = fs, .v = fs->v, .q = q, .cfg = cfg, .res = out};
	int err = -ENOMEM;

	memset(out, 0, sizeof(*out));
	s.repair = !cfg->no_repair && !(fs->v->flags & VOLUME_READ_ONLY) && !fs->v->dev->read_only;
	s.paced_ms = (double)now_ms(&s);
	s.scratch = dev_alloc(BLOCK_SIZE, false);
	s.root = dev_alloc(BLOCK_SIZE, false);
	s.lost = calloc(SCRUB_MAX_LOST, sizeof(*s.lost));
	if (s.scratch && s.root && s.lost)
		err = scrub_all(&s);
	scrub_free(&s);
	return err;
}
