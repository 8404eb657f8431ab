/* SPDX-License-Identifier: Apache-2.0 */
/*
 * checkpoint.c - makes the tree on the device catch up with the log.
 *
 * Under the lock, in one go: everything dirty is frozen (tree, bitmaps, staged pages), as of one LSN.  Then, without it:
 *
 *   1. the log is made durable up to that LSN.  Staged pages overwrite live blocks in place, so the frames that can
 *      restore them must be on media first;
 *   2. nodes, bitmaps, tables and staged pages are written, and flushed;
 *   3. the root is written, both copies, durably.  Now the new state counts;
 *   4. readers of the old state are waited for, blocks it freed are discarded if asked for, and under the lock handed back; the log
 *      is trimmed.
 *
 * A crash before 3 leaves the old root, whose blocks nobody has touched but for staged pages, which replay restores.  An error
 * freezes the volume: the log still holds everything, and the next mount's replay is the way back.
 */
#include "core/bug.h"
#include "journal/volume_impl.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* One block to write; sorted by blkno so that neighbours go out as one vectored write. */
struct ckpt_block {
	uint64_t blkno;
	const void *block;
};

struct ckpt {
	struct volume *v;
	struct dev_queue *q;
	unsigned flags;
	struct tree_freeze tree;
	struct alloc_freeze alloc;
	const struct stage_page *page;
	uint64_t npages;
	struct disk_root *root;
	uint64_t applied_lsn;
	uint64_t replay_lsn;
	unsigned old_epoch;

	uint64_t in_flight; /* bytes */
	uint64_t unflushed; /* bytes written since the last flush */
	int io_err;
};

#define CKPT_IOV 64
#define REST_WAIT_MS 2

/*
 * What a checkpoint that nobody waits for has under way, and how much it leaves in the device's cache: a log group that somebody does wait
 * for finds no more than that in front of it.
 */
#define CKPT_FLIGHT (512u << 10)
#define CKPT_UNFLUSHED (2u << 20)
#define CKPT_URGENT_FLIGHT (32u << 20)

struct ckpt_io {
	struct dev_io io;
	struct ckpt *c;
	struct iovec iov[];
};

static void ckpt_written(struct dev_io *io, int err)
{
	struct ckpt_io *w = (struct ckpt_io *)io;
	struct ckpt *c = w->c;

	if (err && !c->io_err)
		c->io_err = err;
	c->in_flight -= io->len;
	free(w);
}

static int ckpt_submit(struct ckpt *c, const struct ckpt_block *b, unsigned n)
{
	struct ckpt_io *w = malloc(sizeof(*w) + n * sizeof(struct iovec));

	if (!w)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++)
		w->iov[i] = (struct iovec){.iov_base = (void *)b[i].block, .iov_len = BLOCK_SIZE};
	w->c = c;
	w->io = (struct dev_io){
		.op = DEV_WRITE,
		.off = b[0].blkno * BLOCK_SIZE,
		.len = (uint64_t)n * BLOCK_SIZE,
		.iov = w->iov,
		.niov = (int)n,
		.done = ckpt_written,
	};
	c->in_flight += w->io.len;
	c->unflushed += w->io.len;
	dev_submit(c->q, &w->io);
	return 0;
}

static int block_cmp(const void *a, const void *b)
{
	const struct ckpt_block *x = a, *y = b;

	return x->blkno < y->blkno ? -1 : x->blkno > y->blkno;
}

static void ckpt_drain(struct ckpt *c, uint64_t limit)
{
	while (c->in_flight > limit)
		dev_poll(c->q, -1);
}

/* Somebody waits for it, or soon will. */
static bool ckpt_urgent(const struct ckpt *c)
{
	struct volume *v = c->v;

	if (c->flags & CHECKPOINT_CLEAN || !v->log)
		return true;
	volume_lock(v);
	bool waited_for = !STAILQ_EMPTY(&v->waiters);
	volume_unlock(v);
	return waited_for || log_used(v->log) > log_size(v->log) / 4 * 3;
}

static int ckpt_throttle(struct ckpt *c)
{
	bool urgent = ckpt_urgent(c);

	ckpt_drain(c, urgent ? CKPT_URGENT_FLIGHT : CKPT_FLIGHT);
	if (urgent || c->unflushed < CKPT_UNFLUSHED)
		return 0;
	ckpt_drain(c, 0);
	c->unflushed = 0;
	return dev_flush(c->q);
}

static int ckpt_write_sorted(struct ckpt *c, const struct ckpt_block *b, uint64_t n)
{
	int err = 0;

	for (uint64_t i = 0; i < n && !err && !c->io_err;) {
		unsigned run = 1;

		while (run < CKPT_IOV && i + run < n && b[i + run].blkno == b[i].blkno + run)
			run++;
		err = ckpt_throttle(c);
		if (!err)
			err = ckpt_submit(c, b + i, run);
		i += run;
	}
	ckpt_drain(c, 0);
	return err ? err : c->io_err;
}

static int ckpt_write_blocks(struct ckpt *c)
{
	uint64_t n = 0, max = 2 * c->tree.nnodes + 2 * (uint64_t)c->alloc.nimages + c->npages;
	struct ckpt_block *b = malloc((max + 1) * sizeof(*b));
	int err;

	if (!b)
		return -ENOMEM;
	for (uint64_t i = 0; i < c->tree.nnodes; i++)
		for (unsigned copy = 0; copy < (BUG(SECOND_COPY_NOT_WRITTEN) ? 1 : 2); copy++)
			b[n++] = (struct ckpt_block){c->tree.node[i].blkno[copy], c->tree.node[i].block};
	for (unsigned i = 0; i < c->alloc.nimages; i++)
		for (unsigned copy = 0; copy < 2; copy++)
			b[n++] = (struct ckpt_block){c->alloc.image[i].blkno[copy], c->alloc.image[i].block};
	for (uint64_t i = 0; i < c->npages && !BUG(PAGES_NOT_PLACED); i++)
		b[n++] = (struct ckpt_block){c->page[i].blkno, c->page[i].page};
	qsort(b, n, sizeof(*b), block_cmp);
	err = ckpt_write_sorted(c, b, n);
	free(b);
	return err;
}

static void ckpt_build_root(struct ckpt *c, uint64_t generation)
{
	struct volume *v = c->v;
	struct disk_root *r = c->root;
	unsigned slot = generation & 1;

	memset(r, 0, sizeof(*r));
	header_init(r, MAGIC_ROOT, v->sb.uuid, root_blkno(&v->sb, slot, 0), root_blkno(&v->sb, slot, 1), generation);
	r->replay_lsn = put64(c->replay_lsn);
	r->applied_lsn = put64(c->applied_lsn);
	r->next_ino = put64(BUG(NEXT_INO_NOT_SAVED) ? INO_FIRST : v->next_ino);
	r->ninodes = put64(v->ninodes);
	r->nfree = put64(c->alloc.nfree);
	r->flags = put64(c->flags & CHECKPOINT_CLEAN || BUG(ROOT_ALWAYS_CLEAN) ? ROOT_CLEAN : 0);
	/* What was never opened is being formatted: with its own time, so that the same arguments make the same image. */
	r->written_sec = put64(v->mount_count ? volume_now_sec(v) : (uint64_t)v->sb.created_sec);
	r->mount_count = put64(v->mount_count);
	r->error_count = put64(v->error_count);
	r->last_error_sec = put64(v->last_error_sec);
	r->tree = c->tree.root;
	r->tree_level = (uint8_t)c->tree.root_level;
	memcpy(r->table_slot, c->alloc.table_slot, sizeof(r->table_slot));
	for (unsigned i = 0; i < MAX_TABLES; i++)
		r->table_csum[i] = put32(c->alloc.table_csum[i]);
	header_seal(r);
}

/* Everything as of now.  Lock held; on failure nothing can go on (the caller fails the volume). */
static int ckpt_freeze(struct ckpt *c, uint64_t jump)
{
	struct volume *v = c->v;
	uint64_t generation = v->generation + 1;
	int err;

	/* Not by `jump`: a root may say that its log begins at LSN 0. */
	c->applied_lsn = v->log ? v->applied_lsn : jump;
	c->replay_lsn = v->log ? log_group_start(v->log) : jump;
	err = tree_freeze(v->tree, generation, &c->tree);
	if (err)
		return err;
	err = alloc_freeze(v->alloc, generation, &c->alloc);
	if (err)
		return err;
	err = stage_freeze(v->stage, &c->page, &c->npages);
	if (err)
		return err;
	ckpt_build_root(c, generation);
	c->old_epoch = v->epoch;
	v->epoch ^= 1;
	v->checkpoint_wanted = false;
	return 0;
}

static int ckpt_write_root(struct ckpt *c)
{
	for (unsigned copy = 0; copy < 2; copy++) {
		uint64_t blkno = get64(c->root->h.blkno[copy]);
		unsigned how = BUG(ROOT_NOT_DURABLE) ? 0 : DEV_DURABLE;
		int err = dev_write(c->q, blkno * BLOCK_SIZE, c->root, BLOCK_SIZE, how);

		if (err)
			return err;
	}
	return 0;
}

struct run_list {
	struct txn_run *run;
	uint64_t n, cap;
};

static void run_collect(void *arg, uint64_t blkno, uint64_t n)
{
	struct run_list *l = arg;

	if (l->n == l->cap) {
		uint64_t cap = l->cap ? 2 * l->cap : 256;
		struct txn_run *bigger = realloc(l->run, cap * sizeof(*bigger));

		/* A discard is a hint; without memory it is not given. */
		if (!bigger)
			return;
		l->run = bigger;
		l->cap = cap;
	}
	l->run[l->n++] = (struct txn_run){blkno, n};
}

/* Before the blocks are handed back: a discard that overtakes a new write would destroy it. */
static void ckpt_discard(struct ckpt *c)
{
	struct volume *v = c->v;
	struct run_list l = {0};

	volume_lock(v);
	if (v->discard && v->dev->can_discard)
		alloc_each_frozen(v->alloc, run_collect, &l);
	volume_unlock(v);
	for (uint64_t i = 0; i < l.n; i++)
		if (dev_discard(c->q, l.run[i].blkno * BLOCK_SIZE, l.run[i].n * BLOCK_SIZE))
			break;
	free(l.run);
}

/* Recovery has no log yet; what it read from there may still be in the device's cache. */
static int ckpt_sync_log(struct ckpt *c)
{
	return c->v->log ? log_sync_wait(c->v->log, c->q, c->applied_lsn) : dev_flush(c->q);
}

static int ckpt_write(struct ckpt *c)
{
	int err = BUG(HOME_BEFORE_FRAMES) ? 0 : ckpt_sync_log(c);

	if (!err && BUG(ROOT_BEFORE_NODES))
		err = ckpt_write_root(c);
	if (!err)
		err = ckpt_write_blocks(c);
	if (!err && BUG(HOME_BEFORE_FRAMES))
		err = ckpt_sync_log(c);
	if (!err && BUG(DISCARD_BEFORE_ROOT))
		ckpt_discard(c);
	if (!err && !BUG(ROOT_WITHOUT_FLUSH))
		err = dev_flush(c->q);
	if (!err)
		err = ckpt_write_root(c);
	return err;
}

/* Nobody who mapped a file before the freeze still reads the blocks that are about to be handed back. */
static void ckpt_wait_readers(struct ckpt *c)
{
	struct volume *v = c->v;

	atomic_store(&v->drain_queue, c->q);
	while (atomic_load(&v->readers[c->old_epoch]))
		dev_poll(c->q, 100);
	volume_lock(v);
	atomic_store(&v->drain_queue, NULL);
	volume_unlock(v);
}

/* Lock held.  Those who waited run their step again, or learn that there is no hope. */
static void ckpt_wake(struct volume *v, int err)
{
	struct volume_waiter *w;

	while ((w = STAILQ_FIRST(&v->waiters))) {
		STAILQ_REMOVE_HEAD(&v->waiters, link);
		w->err = err ? -EROFS : 0;
		dev_post(w->q, &w->task);
	}
}

static void ckpt_finish(struct ckpt *c)
{
	struct volume *v = c->v;

	v->generation = get64(c->root->h.generation);
	v->checkpoint_lsn = c->applied_lsn;
	v->clean = c->flags & CHECKPOINT_CLEAN;
	if (!v->clean)
		v->resting = false;
	v->stats.checkpoints++;
	v->stats.checkpoint_nodes += c->tree.nnodes;
	v->stats.checkpoint_pages += c->npages;
	stage_thaw(v->stage);
	tree_thaw(v->tree, &c->tree);
	alloc_release(v->alloc, &c->alloc);
	if (v->log)
		log_trim(v->log, c->replay_lsn);
}

int checkpoint_run(struct volume *v, struct dev_queue *q, unsigned flags, uint64_t jump)
{
	struct ckpt c = {.v = v, .q = q, .flags = flags, .root = v->root_block};
	int err;

	volume_lock(v);
	assert(!v->checkpoint_running);
	v->checkpoint_running = true;
	err = ckpt_freeze(&c, jump);
	volume_unlock(v);
	if (!err)
		err = ckpt_write(&c);
	if (!err) {
		ckpt_wait_readers(&c);
		ckpt_discard(&c);
	} else {
		volume_fail(v, err, "checkpoint");
	}
	volume_lock(v);
	if (!err)
		ckpt_finish(&c);
	else
		alloc_freeze_drop(&c.alloc);	/* what is frozen stays in memory: it is nowhere else */
	v->checkpoint_running = false;
	ckpt_wake(v, err);
	volume_unlock(v);
	return err;
}

int volume_checkpoint(struct volume *v, struct dev_queue *q, unsigned flags)
{
	bool idle;
	int err;

	LOCK_ASSERT_NOT_HELD(&v->lock);
	volume_lock(v);
	err = volume_writable(v);
	/* One that is due is made even if nothing has changed: the last one could not trim the group that was open then. */
	idle = v->applied_lsn == v->checkpoint_lsn && !volume_checkpoint_due(v) && !tree_ndirty(v->tree) &&
	       !(flags & (CHECKPOINT_FORCE | CHECKPOINT_CLEAN));
	if (err) {
		v->checkpoint_wanted = false;
		ckpt_wake(v, err);
	}
	volume_unlock(v);
	if (err || idle)
		return err;
	/* The last one: also the group that is open must be over, so that the next mount's log begins on a fresh block. */
	if (flags & CHECKPOINT_CLEAN)
		err = log_sync_wait(v->log, q, log_append_lsn(v->log));
	return err ? err : checkpoint_run(v, q, flags, 0);
}

bool volume_repair_begin(struct volume *v)
{
	LOCK_ASSERT_NOT_HELD(&v->lock);
	volume_lock(v);
	bool may = !v->resting;
	v->repairs += may;
	volume_unlock(v);
	return may;
}

void volume_repair_end(struct volume *v)
{
	LOCK_ASSERT_NOT_HELD(&v->lock);
	volume_lock(v);
	assert(v->repairs);
	v->repairs--;
	volume_unlock(v);
}

/* No repair and no part of a trim begins from here on.  What has begun writes to the device, a trim in its way. */
static void rest_wait_writes(struct volume *v, struct dev_queue *q)
{
	bool writes = true;

	while (writes) {
		volume_lock(v);
		writes = v->repairs || alloc_is_trimming(v->alloc);
		volume_unlock(v);
		if (writes)
			dev_poll(q, REST_WAIT_MS);
	}
}

/* Nothing is appended from here on until the rest is over, so the log can be made durable to its very end. */
static int rest_begin(struct volume *v, struct dev_queue *q)
{
	int err;

	rest_wait_writes(v, q);
	err = volume_checkpoint(v, q, CHECKPOINT_CLEAN);
	if (!err)
		return 0;
	/* Those who have not asked for another one, because of this. */
	volume_lock(v);
	ckpt_wake(v, err);
	volume_unlock(v);
	return err;
}

int volume_rest(struct volume *v, struct dev_queue *q)
{
	bool rests;
	int err;

	LOCK_ASSERT_NOT_HELD(&v->lock);
	volume_lock(v);
	err = volume_writable(v);
	rests = v->resting;
	v->resting |= !err;
	volume_unlock(v);
	return err || rests ? err : rest_begin(v, q);
}

int volume_wake(struct volume *v, struct dev_queue *q)
{
	struct miss miss = {.kind = MISS_JOURNAL};
	bool resting;
	int err = 0;

	/* The checkpoint that ends meanwhile may be the one that began the rest. */
	while (!err) {
		volume_lock(v);
		err = volume_writable(v);
		resting = v->resting;
		volume_unlock(v);
		if (!err && !resting)
			break;
		if (!err)
			err = volume_provide(v, q, &miss);
	}
	return err;
}
