/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree.c - which state of the model the real tree is.
 *
 * The sum of the hashes of all inodes is looked for in the model's history, so one walk decides about any number of
 * possible states; only if none fits are they looked at one by one: to say what is wrong, or, where a fault has made parts unreadable, to
 * compare the rest.
 */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

#include "fsck/check.h"

/* --- one state --------------------------------------------------------------------------------- */

/* The model's inode in that state, as far as it can be compared: what is unreadable of the real one is left out. */
static uint64_t readable_hash(const struct walk *w, const struct minode *want, const struct wnode *got)
{
	struct minode i = *want;

	if (got->bad) {
		i.sum = 0;
		i.flags = 0;
		i.target = NULL;
		return minode_hash(&i);
	}
	for (unsigned k = 0; k < w->nbad; k++) {
		const struct mblock *b = w->bad[k].ino == i.ino ? model_block(want, w->bad[k].block) : NULL;

		if (b)
			i.sum -= mblock_hash(b);
	}
	return minode_hash(&i);
}

static uint64_t found_hash(const struct wnode *got)
{
	struct minode i = got->i;

	if (!got->bad)
		return got->i.hash;
	i.sum = 0;
	i.flags = 0;
	i.target = NULL;
	return minode_hash(&i);
}

static bool differs(const struct walk *w, const struct minode *want, const struct wnode *got)
{
	if (!want && !got)
		return false;
	if (!got)
		return !w->holes;
	return !want || readable_hash(w, want, got) != found_hash(got);
}

static const struct minode *linked(const struct model *m, uint64_t ino)
{
	const struct minode *i = model_get(m, ino);

	return i && i->nlink ? i : NULL;
}

static unsigned count_differences(const struct model *m, const struct walk *w)
{
	unsigned n = 0;

	for (uint64_t ino = 0; ino < m->ntab || ino < w->nat; ino++)
		n += differs(w, linked(m, ino), walk_get(w, ino));
	return n;
}

/* --- saying what is wrong ---------------------------------------------------------------------- */

static int describe(char *out, size_t room, const struct minode *want, const struct wnode *node)
{
	const struct minode *got = node ? &node->i : NULL;
	int n = snprintf(out, room, "; inode %llu", (unsigned long long)(want ? want->ino : got->ino));

#define SAY(...) n += snprintf(out + n, (size_t)n < room ? room - (size_t)n : 0, __VA_ARGS__)
#define FIELD(name, format, type)                                                                                      \
	if (want->name != got->name)                                                                                   \
	SAY(" " #name " " format " not " format, (type)got->name, (type)want->name)
#define TIME(name)                                                                                                     \
	if (memcmp(&want->name, &got->name, sizeof(want->name)))                                                       \
	SAY(" " #name " %lld.%09ld not %lld.%09ld", (long long)got->name.tv_sec, got->name.tv_nsec,                    \
	    (long long)want->name.tv_sec, want->name.tv_nsec)
	if (!want || !got) {
		SAY(want ? " (label %llu) is missing" : " is too many", (unsigned long long)(want ? want->label : 0));
		return n;
	}
	FIELD(mode, "%o", unsigned);
	FIELD(nlink, "%u", unsigned);
	FIELD(uid, "%u", unsigned);
	FIELD(gid, "%u", unsigned);
	FIELD(flags, "%x", unsigned);
	FIELD(size, "%llu", unsigned long long);
	FIELD(parent, "%llu", unsigned long long);
	TIME(atime);
	TIME(mtime);
	TIME(ctime);
	TIME(btime);
	if (want->sum != got->sum)
		SAY(" other contents, entries or xattrs");
#undef SAY
#undef FIELD
#undef TIME
	return n;
}

static void describe_all(const struct model *m, const struct walk *w, char *out, size_t room)
{
	size_t n = 0;

	for (uint64_t ino = 0; (ino < m->ntab || ino < w->nat) && n + 200 < room; ino++) {
		if (differs(w, linked(m, ino), walk_get(w, ino)))
			n += (size_t)describe(out + n, room - n, linked(m, ino), walk_get(w, ino));
	}
}

/* No state fits: the nearest is named, with what differs. */
static _Noreturn void no_moment(struct sim *s, const struct walk *w, unsigned floor)
{
	struct model *m = s->model;
	unsigned all = m->nrec, best = all, least = UINT32_MAX;
	char text[1400] = "";

	for (unsigned n = 0; n <= all; n++) {
		if (m->rec[n].hash == w->hash && walk_is_whole(w))
			violation(s, "durability", "%u changes survived of %u, and %u were acknowledged as durable", n, all,
				  s->acked);
	}
	for (unsigned n = all + 1; n-- > floor;) {
		model_rollback(m, n);
		unsigned differ = count_differences(m, w);

		if (differ >= least)
			continue;
		least = differ;
		best = n;
		describe_all(m, w, text, sizeof(text));
	}
	violation(s, "moment", "the tree is none that ever was; nearest: after %u of %u changes (%u acknowledged), "
			       "%u inodes differ%s",
		  best, all, s->acked, least, text);
}

/* --- half done --------------------------------------------------------------------------------- */

/* Blocks that are reserved show in nothing else. */
static bool same_use(const struct minode *i, uint64_t sectors, bool strict)
{
	uint64_t most = i->blocks ? i->blocks->n * UINT64_C(8) : 0;

	return most == sectors || (!strict && i->first_loose && most <= sectors + 8 && sectors <= most + 8);
}

/* Of change n + 1, which may be seen half done: the tree is as it was somewhere in it.  Leaves the model there. */
static bool part_fits(struct model *m, unsigned n, const struct walk *w, bool strict)
{
	const struct mrec r = m->rec[n + 1];
	const struct wnode *got = walk_get(w, r.ino);
	uint64_t first = r.off / MODEL_PAGE, last = (r.off + r.len) / MODEL_PAGE;

	for (uint64_t block = first + 1; block <= last && block - first < 20000; block++) {
		model_rollback(m, n);
		m->now = r.now;
		model_fallocate_part(m, r.ino, r.mode, r.off, block);
		if (m->hash == w->hash && (!got || same_use(model_get(m, r.ino), got->sectors, strict)))
			return true;
	}
	return false;
}

/* One of the changes that may be seen half done?  Looks at copies of the model, since it may be none. */
static bool any_part_fits(struct sim *s, const struct walk *w, unsigned floor)
{
	struct model *m = s->model;

	for (unsigned n = m->nrec; n-- > floor;) {
		if (!m->rec[n + 1].len)
			continue;
		/* Later changes cannot be had back; a tree that fits none of the earlier ones is told from what is left. */
		if (part_fits(m, n, w, true) || part_fits(m, n, w, false))
			return true;
		model_rollback(m, n);
	}
	return false;
}

/* The first block up to which it was done, if the inode is to be as found; UINT64_MAX: none. */
static uint64_t partly_up_to(struct model *m, const struct wnode *got, int mode, uint64_t off, uint64_t len, bool strict, bool any_use)
{
	uint64_t block = off / MODEL_PAGE, last = (off + len) / MODEL_PAGE, ino = got->i.ino;
	unsigned n = m->nrec;

	while (model_get(m, ino)->hash != got->i.hash || (!any_use && !same_use(model_get(m, ino), got->sectors, strict))) {
		model_rollback(m, n);
		if (block++ == last)
			return UINT64_MAX;
		model_fallocate_part(m, ino, mode, off, block);
	}
	return block;
}

bool tree_partly(struct sim *s, uint64_t ino, int mode, uint64_t off, uint64_t len)
{
	struct walk w;
	uint64_t block;

	walk_inode(&w, s, ino);
	if (world_is_cut(s)) {
		walk_end(&w);
		return false;
	}
	block = partly_up_to(s->model, &w.node[0], mode, off, len, true, false);
	if (block == UINT64_MAX)
		block = partly_up_to(s->model, &w.node[0], mode, off, len, false, false);
	/* How many were in use before is not known. */
	if (block == UINT64_MAX && s->loose_use)
		block = partly_up_to(s->model, &w.node[0], mode, off, len, false, true);
	if (block == UINT64_MAX)
		violation(s, "partly", "inode %llu: what has been done is none of its steps", (unsigned long long)ino);
	walk_end(&w);
	s->cov->partly++;
	trace(s, " (up to block %llu)", (unsigned long long)block);
	return true;
}

/* --- judging ----------------------------------------------------------------------------------- */

/* What is reserved, or holds zeros only, shows in the number of blocks and in nothing else. */
static bool uses_fit(const struct model *m, const struct walk *w)
{
	for (unsigned k = 0; k < w->n; k++) {
		const struct minode *i = model_get(m, w->node[k].i.ino);
		uint64_t least, most;

		if (i && !blocks_fit(i, w->node[k].sectors, &least, &most))
			return false;
		/* One block of these may be kept in another way; not more. */
		if (i && S_ISREG(i->mode) && (w->node[k].sectors + 8 < least * 8 || w->node[k].sectors > most * 8 + 8))
			return false;
	}
	return true;
}

/* The number of changes that are there; UINT32_MAX: none fits.  The model goes back to it. */
static unsigned find_whole(struct model *m, const struct walk *w, unsigned floor)
{
	for (unsigned n = floor; n <= m->nrec; n++) {
		if (m->rec[n].hash == w->hash) {
			bool alike = n < m->nrec && m->rec[n + 1].hash == w->hash;

			model_rollback(m, n);
			/* It was a later one that looks the same, and the way back to that is gone. */
			w->s->loose_use |= alike && !uses_fit(m, w);
			return n;
		}
	}
	return UINT32_MAX;
}

static unsigned find_readable(struct model *m, const struct walk *w, unsigned floor)
{
	for (unsigned n = m->nrec + 1; n-- > floor;) {
		model_rollback(m, n);
		if (count_differences(m, w))
			continue;
		/* A file without a name shows nowhere: whether it is there, and its number given out, cannot be told. */
		while (n > floor && m->rec[n - 1].hash == m->rec[n].hash)
			n--;
		model_rollback(m, n);
		return n;
	}
	return UINT32_MAX;
}

void tree_judge(struct sim *s)
{
	unsigned floor = faults_floor(s), all = s->model->nrec, n;
	struct walk w;

	walk_run(&w, s);
	bool whole = walk_is_whole(&w);

	if (whole)
		n = find_whole(s->model, &w, floor);
	else
		n = find_readable(s->model, &w, floor);
	if (n == UINT32_MAX && whole && any_part_fits(s, &w, floor)) {
		s->cov->partly++;
		n = s->model->nrec;
	}
	if (n == UINT32_MAX)
		no_moment(s, &w, floor);
	walk_end(&w);
	trace(s, "       %u of %u changes are there, %u were acknowledged%s\n", n, all, s->acked,
	      whole ? "" : "; not all of it can be read");
	s->cov->cut_lost += n < all;
	s->cov->shut_lost += n < all && s->was_shut;
	s->cov->cut_beyond += n > s->acked;
	model_rebase(s->model);
	s->acked = 0;
}

/* --- fsck -------------------------------------------------------------------------------------- */

static void fsck_found(void *arg, const struct fsck_finding *f)
{
	struct sim *s = arg;
	const struct fsck_code_info *info = fsck_code_info(f->code);

	trace(s, "       fsck: %s %s: %s\n", info->code, info->name, f->text);
	if (info->severity == FSCK_ERROR && !faults_damage(s))
		violation(s, "fsck", "%s %s: %s", info->code, info->name, f->text);
}

void tree_fsck(struct sim *s, bool clean)
{
	struct fsck_opts opts = {.data = true, .try_replay = true, .found = fsck_found, .arg = s, .diag = &s->diag};
	struct fsck_result res;

	/* What it says of errors that it meets itself is not about the volume. */
	faults_withdraw(s);
	int rc = fsck_check(s->q, &opts, &res);

	s->cov->fscks++;
	if (faults_damage(s))
		return;
	if (rc)
		violation(s, "fsck", "it cannot be checked: %s", strerror(-rc));
	if (clean && !s->plan->faults && (res.ninfos || !res.root_clean))
		violation(s, "fsck", "something is left over after an orderly end");
}
