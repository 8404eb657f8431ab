/* SPDX-License-Identifier: Apache-2.0 */
/*
 * do_cached.c - a kernel that caches writes: it acknowledges them while there is room, and hands them over later.
 *
 * What has been acknowledged is not part of the order before it comes, so the model learns of it only then.  It must not be refused, however full the
 * volume has become, whatever the flags of the file say by now.  Without plan.cached_bytes it is what was stored through mmap(2): it comes
 * at once, and may be refused.
 */
#include "tests/sim/sim.h"

#include "fs/fs_impl.h"

void cached_low(void *sim)
{
	struct sim *s = sim;

	/* The one who tells all those who write comes to run sooner or later. */
	s->told_in = 1 + (unsigned)(hash_mix(s->plan->seed, s->op ? s->op->label : 0) % 40);
}

void cached_poll(struct sim *s)
{
	if (!s->told_in || !s->fs || --s->told_in)
		return;
	fs_told(s->fs);
	s->told = true;
}

static uint64_t pages_of(uint64_t off, uint64_t len)
{
	return (off + len - 1) / MODEL_PAGE - off / MODEL_PAGE + 1;
}

static uint64_t pages_under_way(const struct sim *s)
{
	uint64_t n = 0;

	for (unsigned k = 0; k < s->ncached; k++)
		n += pages_of(s->cached[k].off, s->cached[k].len);
	return n;
}

/* --- they come --------------------------------------------------------------------------------- */

static void note_room(struct sim *s)
{
	uint64_t kept = fs_cached_reserve(s->plan->cached_bytes);

	volume_lock(s->v);
	uint64_t room = volume_room(s->v);
	volume_unlock(s->v);
	s->cov->cached_tight += room < kept + 100;
	s->cov->cached_held += fs_is_low(s->fs) && s->told_in && room <= kept + kept / 2;
}

/* The times were kept by who cached it. */
static void send_times(struct sim *s, uint64_t ino)
{
	const unsigned set = FS_SET_MTIME | FS_SET_CTIME;
	struct fs_attr in = {.mtime = s->clock, .ctime = s->clock}, out;
	struct mattr to = {.mtime = s->clock, .ctime = s->clock};
	int rc = fs_setattr(s->fs, s->q, ino, set, &in, &out);

	if (rc == -ENOSPC && !world_is_cut(s))
		violation(s, "cached", "no room for the times of what was acknowledged before");
	if (judge(s, rc, 0))
		same_rc(s, rc, model_cached_times(s->model, ino, &to));
}

static void hand_over(struct sim *s)
{
	struct cached c = s->cached[0];
	struct op op = {.kind = OP_WRITEBACK, .label = c.label, .r = {0, 0, 0, 0, hash_mix(c.label, c.off)}};

	trace(s, " [%u: inode %llu, %u bytes at %llu", c.label, (unsigned long long)c.ino, c.len, (unsigned long long)c.off);
	note_room(s);
	start_write(s, &op, c.ino, c.off, c.len);
	send_times(s, c.ino);
	trace(s, "]");
	fs_released(s->fs, c.ino);
	s->ncached--;
	for (unsigned k = 0; k < s->ncached; k++)
		s->cached[k] = s->cached[k + 1];
	forget(s, c.ino);
	forget_orphan(s, c.ino);
}

void cached_all(struct sim *s)
{
	while (s->ncached && !world_is_cut(s))
		hand_over(s);
}

static void do_writeback(struct sim *s, const struct op *op)
{
	unsigned n = op->r[0] % 2 ? CACHED_MAX : 1 + (unsigned)(op->r[0] >> 8) % 4;

	drain(s);
	while (n-- && s->ncached && !world_is_cut(s))
		hand_over(s);
}

/* --- they are acknowledged --------------------------------------------------------------------- */

static bool is_admitted(struct sim *s)
{
	s->told = s->told && fs_look_low(s->fs);
	if (!s->told)
		return true;
	int rc = fs_admit(s->fs, s->q, false);

	trace(s, "admitted: %d ", rc);
	s->cov->cached_refused += rc == -ENOSPC;
	if (judge(s, rc, 8))
		same_rc(s, rc, 0);
	return !rc;
}

static void acknowledge(struct sim *s, const struct op *op)
{
	struct target t = target_entry(s, PICK_FILE, op->r[1]);
	uint64_t budget = s->plan->cached_bytes / MODEL_PAGE, off;
	uint32_t len = (uint32_t)(1 + (op->r[3] >> 8) % (op->r[3] % 4 ? 6000 : s->plan->cached_bytes / 2));

	drain(s);
	if (!t.ino)
		return;
	off = draw_off(s, op, model_get(s->model, t.ino));
	while (s->ncached && !world_is_cut(s) && (s->ncached == CACHED_MAX || pages_under_way(s) + pages_of(off, len) > budget))
		hand_over(s);
	if (world_is_cut(s) || !is_admitted(s) || !target_take(s, &t))
		return;
	fs_opened(s->fs, t.ino);
	s->cached[s->ncached++] = (struct cached){t.ino, off, len, op->label};
	s->cov->cached++;
	trace(s, "inode %llu, %u bytes at %llu, %u under way", (unsigned long long)t.ino, len, (unsigned long long)off, s->ncached);
	/* The reference is given back when it comes. */
}

/* Through mmap(2): whole pages, or up to the end. */
static void store(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, PICK_FILE, op->r[1]);

	drain(s);
	if (!t.ino || !target_take(s, &t))
		return;
	const struct minode *i = model_get(s->model, t.ino);
	uint64_t off = draw_off(s, op, i) / MODEL_PAGE * MODEL_PAGE;
	uint64_t len = (1 + op->r[3] % 8) * MODEL_PAGE;

	if (off < i->size) {
		len = len < i->size - off ? len : i->size - off;
		trace(s, "inode %llu, %llu bytes at %llu", (unsigned long long)t.ino, (unsigned long long)len, (unsigned long long)off);
		start_write(s, op, t.ino, off, (size_t)len);
	}
	target_drop(s, &t);
}

void do_cached(struct sim *s, const struct op *op)
{
	if (op->kind == OP_WRITEBACK)
		do_writeback(s, op);
	else if (s->plan->cached_bytes)
		acknowledge(s, op);
	else
		store(s, op);
}
