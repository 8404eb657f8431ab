/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_scrub.c - the scrub on a simulated device: every kind of block in every copy, what is lost, names, pace, and changes
 * between its steps.
 */
#include "tests/unit/data_rig.h"

#include "fs/scrub.h"
#include "fsck/check.h"

#define MANY 400u /* files, so that the tree has many nodes */
#define SEEN 64u

struct seen {
	enum scrub_kind kind;
	bool repaired;
	uint64_t blkno, ino, off, len;
	char path[300];
};

struct scrubber {
	struct data d;
	struct scrub_result res;
	struct scrub_config cfg;
	struct seen seen[SEEN];
	unsigned nseen;
	unsigned calls, cancel_at; /* of `cancelled`; 0: never */
	uint64_t clock_ms;
	void (*between)(struct scrubber *s); /* changes something; NULL */
};

static bool on_cancelled(void *arg)
{
	struct scrubber *s = arg;

	if (s->between)
		s->between(s);
	return ++s->calls == s->cancel_at;
}

static void on_found(void *arg, const struct scrub_finding *f)
{
	struct scrubber *s = arg;

	assert_non_null(f->text);
	if (s->nseen == SEEN)
		return;
	struct seen *seen = &s->seen[s->nseen++];
	*seen = (struct seen){f->kind, f->repaired, f->blkno, f->ino, f->off, f->len, ""};
	if (f->path)
		snprintf(seen->path, sizeof(seen->path), "%s", f->path);
}

static uint64_t on_now(void *arg)
{
	return ((struct scrubber *)arg)->clock_ms;
}

static void on_wait(void *arg, struct dev_queue *q, unsigned ms)
{
	struct scrubber *s = arg;

	assert_true(ms > 0);
	s->clock_ms += ms;
	dev_poll(q, 0);
}

static int scrub(struct scrubber *s)
{
	s->nseen = s->calls = 0;
	s->cfg.cancelled = on_cancelled;
	s->cfg.found = on_found;
	s->cfg.arg = s;
	return scrub_run(s->d.fs, s->d.q, &s->cfg, &s->res);
}

static void scrub_clean(struct scrubber *s)
{
	assert_int_equal(scrub(s), 0);
	assert_int_equal(s->nseen, 0);
	assert_true(scrub_is_clean(&s->res));
	assert_int_equal(s->res.bad_copies, 0);
	assert_int_equal(s->res.done, s->res.total);
}

/* One finding: a copy that was mended; and nothing is left of it. */
static void scrub_mends(struct scrubber *s, uint64_t blkno)
{
	assert_int_equal(scrub(s), 0);
	assert_int_equal(s->nseen, 1);
	assert_int_equal(s->seen[0].kind, SCRUB_COPY);
	assert_true(s->seen[0].repaired);
	assert_int_equal(s->seen[0].blkno, blkno);
	assert_true(scrub_is_clean(&s->res));
	assert_true(s->res.repaired >= 1);
	scrub_clean(s);
}

/* --- a volume, and what is where --------------------------------------------------------------- */

static uint64_t make(struct scrubber *s, uint64_t dir, const char *name, uint32_t mode)
{
	struct fs_cred cred = {.uid = 0, .gid = 0};
	struct fs_attr attr;

	assert_int_equal(fs_create(s->d.fs, s->d.q, &cred, dir, name, strlen(name), mode, 0, &attr), 0);
	fs_forget(s->d.fs, s->d.q, attr.ino, 1);
	return attr.ino;
}

static struct scrubber *make_volume(uint64_t cache_bytes)
{
	struct scrubber *s = calloc(1, sizeof(*s));
	char name[40];

	assert_non_null(s);
	data_create(&s->d, MB(32), 256, cache_bytes, 1);
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "a file of many, number %u", i);
		make(s, INO_ROOT, name, S_IFREG | 0600);
	}
	data_write(&s->d, 0, 0, KB(1000), false);
	data_write(&s->d, 1, KB(8), KB(20), false);
	data_write(&s->d, 2, 0, 100, false);
	assert_int_equal(fs_sync(s->d.fs, s->d.q, 0, false), 0);
	data_checkpoint(&s->d);
	return s;
}

static void free_volume(struct scrubber *s)
{
	data_destroy(&s->d);
	free(s);
}

static void peek(struct scrubber *s, uint64_t blkno, void *block)
{
	dev_sim_peek(s->d.r.dev, blkno * BLOCK_SIZE, block, BLOCK_SIZE);
}

static void flip(struct scrubber *s, uint64_t blkno)
{
	dev_sim_flip(s->d.r.dev, blkno * BLOCK_SIZE + 1000, 3);
}

/* The scrub begins with a checkpoint: these hold for the root that it will make. */
static uint64_t next_generation(struct scrubber *s)
{
	return s->d.r.v->generation + 1;
}

static void root_now(struct scrubber *s, struct disk_root *root)
{
	peek(s, root_blkno(&s->d.r.v->sb, s->d.r.v->generation & 1, 0), root);
}

enum place { TABLE, BITMAP, TREE_ROOT, LEAF, LAST_LEAF };

/* Where the copies of a block of this kind are.  Nothing has changed since the last checkpoint, so the next one leaves them there. */
static void find(struct scrubber *s, enum place what, uint64_t at[2])
{
	const struct super *sb = &s->d.r.v->sb;
	static _Alignas(4096) uint8_t root_block[BLOCK_SIZE], block[BLOCK_SIZE];
	struct disk_root *root = (void *)root_block;
	struct disk_table *table = (void *)block;
	struct disk_node *node = (void *)block;
	struct disk_ptr ptr;
	unsigned slot;

	root_now(s, root);
	slot = root->table_slot[0] & 1;
	peek(s, table_blkno(sb, 0, slot, 0), table);
	for (unsigned copy = 0; copy < 2; copy++) {
		at[copy] = table_blkno(sb, 0, slot, copy);
		if (what == BITMAP)
			at[copy] =
				bitmap_blkno(sb, 0, get32(table->entry[0].info) & TABLE_SLOT ? 1 : 0, copy);
	}
	if (what == TABLE || what == BITMAP)
		return;
	ptr = root->tree;
	assert_true(root->tree_level >= 1);
	for (unsigned level = root->tree_level; what != TREE_ROOT && level > 0; level--) {
		peek(s, get64(ptr.blkno[0]), node);
		memcpy(&ptr, block + get16(node->slot[what == LEAF ? 0 : get16(node->nitems) - 1].pos),
		       sizeof(ptr));
	}
	for (unsigned copy = 0; copy < 2; copy++)
		at[copy] = get64(ptr.blkno[copy]);
}

/* --- one copy ---------------------------------------------------------------------------------- */

static void test_nothing_wrong(void **state)
{
	struct scrubber *s = make_volume(0);
	struct timespec before = data_attr(&s->d, 0).atime;

	(void)state;
	scrub_clean(s);
	assert_int_equal(s->res.data_blocks, 250 + 5);
	assert_true(s->res.meta_blocks > 30);
	assert_int_equal(data_attr(&s->d, 0).atime.tv_sec, before.tv_sec);
	data_check(&s->d);
	data_reopen(&s->d);
	scrub_clean(s);
	free_volume(s);
}

static void test_superblocks(void **state)
{
	struct scrubber *s = make_volume(0);

	(void)state;
	for (unsigned copy = 0; copy < SUPER_COPIES; copy++) {
		uint64_t blkno = super_blkno(s->d.r.v->sb.nblocks, copy);

		flip(s, blkno);
		scrub_mends(s, blkno);
	}
	free_volume(s);
}

static void test_one_copy_of_each(void **state)
{
	static const enum place kinds[] = {TABLE, BITMAP, TREE_ROOT, LEAF};
	struct scrubber *s = make_volume(0);

	(void)state;
	for (unsigned k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		for (unsigned copy = 0; copy < 2; copy++) {
			uint64_t at[2];

			find(s, kinds[k], at);
			flip(s, at[copy]);
			scrub_mends(s, at[copy]);
		}
	}
	data_check(&s->d);
	free_volume(s);
}

/* On a read-only volume, so that no checkpoint puts it right on the way. */
static void test_root_copies(void **state)
{
	struct scrubber *s = make_volume(0);
	const struct super *sb = &s->d.r.v->sb;

	(void)state;
	fs_close(s->d.fs, s->d.q);
	assert_int_equal(volume_close(s->d.r.v, s->d.q), 0);
	s->d.r.cfg.flags = VOLUME_READ_ONLY;
	assert_int_equal(volume_open(s->d.q, &s->d.r.cfg, &s->d.r.diag, &s->d.r.v), 0);
	data_open(&s->d);
	sb = &s->d.r.v->sb;
	for (unsigned slot = 0; slot < 2; slot++) {
		for (unsigned copy = 0; copy < 2; copy++) {
			uint64_t blkno = root_blkno(sb, slot, copy);

			flip(s, blkno);
			assert_int_equal(scrub(s), 0);
			assert_int_equal(s->nseen, 1);
			assert_int_equal(s->seen[0].blkno, blkno);
			assert_false(s->seen[0].repaired);
			assert_false(scrub_is_clean(&s->res));
			flip(s, blkno);
			scrub_clean(s);
		}
	}
	/* Both copies of the newest: there is nothing to go by. */
	flip(s, root_blkno(sb, s->d.r.v->generation & 1, 0));
	flip(s, root_blkno(sb, s->d.r.v->generation & 1, 1));
	assert_int_equal(scrub(s), -EIO);
	assert_int_equal(s->res.lost_meta, 1);
	free_volume(s);
}

/* Whatever rots between the checkpoint at the start and the look at the roots is put right by another one. */
static void rot_roots(struct scrubber *s)
{
	if (s->calls == 0)
		for (unsigned i = 0; i < 4; i++)
			flip(s, root_blkno(&s->d.r.v->sb, i / 2, i % 2));
}

static void test_all_roots(void **state)
{
	struct scrubber *s = make_volume(0);
	uint64_t before = next_generation(s);

	(void)state;
	s->between = rot_roots;
	assert_int_equal(scrub(s), 0);
	assert_true(scrub_is_clean(&s->res));
	assert_true(s->res.repaired >= 3 && s->d.r.v->generation > before);
	s->between = NULL;
	scrub_clean(s);
	data_check(&s->d);
	data_reopen(&s->d);
	data_check(&s->d);
	free_volume(s);
}

/* The checkpoint that overwrites a bad older root may itself be the older one before anybody looks. */
static void rot_older_root(struct scrubber *s)
{
	uint64_t next = s->d.r.v->generation + 1;

	/* In front of the holds: for an estimate, for the look at that root, for the look at what has become of it. */
	if (s->calls == 2)
		flip(s, root_blkno(&s->d.r.v->sb, next & 1, 1));
	if (s->calls == 3)
		data_checkpoint(&s->d);
}

static void test_older_root(void **state)
{
	struct scrubber *s = make_volume(0);

	(void)state;
	s->between = rot_older_root;
	assert_int_equal(scrub(s), 0);
	assert_int_equal(s->nseen, 1);
	assert_true(s->seen[0].repaired);
	assert_true(scrub_is_clean(&s->res));
	s->between = NULL;
	scrub_clean(s);
	free_volume(s);
}

static void test_unreadable_copy(void **state)
{
	struct scrubber *s = make_volume(0);
	uint64_t at[2];

	(void)state;
	/* A sector that is gone until it is written again. */
	find(s, LEAF, at);
	dev_sim_fail(s->d.r.dev, DEV_READ, 1, SIM_FAULT_ONCE, -EIO, at[1] * BLOCK_SIZE, BLOCK_SIZE);
	scrub_mends(s, at[1]);
	/* One that stays bad, and one that cannot be written: told, each time, and no more. */
	for (enum dev_op op = DEV_READ; op <= DEV_WRITE; op++) {
		flip(s, at[1]);
		dev_sim_fail(s->d.r.dev, op, 1, SIM_FAULT_STICKY, -EIO, at[1] * BLOCK_SIZE, BLOCK_SIZE);
		assert_int_equal(scrub(s), 0);
		assert_int_equal(s->nseen, 1);
		assert_false(s->seen[0].repaired);
		assert_false(scrub_is_clean(&s->res));
		dev_sim_fail(s->d.r.dev, op, 0, SIM_FAULT_NONE, 0, 0, 0);
		assert_int_equal(scrub(s), 0);
		assert_true(scrub_is_clean(&s->res));
	}
	assert_int_equal(volume_writable(s->d.r.v), 0);
	scrub_clean(s);
	free_volume(s);
}

static void test_no_repair(void **state)
{
	struct scrubber *s = make_volume(0);
	uint64_t at[2];

	(void)state;
	find(s, LEAF, at);
	flip(s, at[1]);
	s->cfg.no_repair = true;
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(scrub(s), 0);
		assert_int_equal(s->nseen, 1);
		assert_int_equal(s->res.bad_copies, 1);
		assert_int_equal(s->res.repaired, 0);
	}
	s->cfg.no_repair = false;
	scrub_mends(s, at[1]);
	free_volume(s);
}

/* --- both copies ------------------------------------------------------------------------------- */

static void test_node_in_memory(void **state)
{
	struct scrubber *s = make_volume(0);
	uint64_t at[2];

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		find(s, i ? LEAF : TREE_ROOT, at);
		flip(s, at[0]);
		flip(s, at[1]);
		assert_int_equal(scrub(s), 0);
		assert_int_equal(s->nseen, 1);
		assert_int_equal(s->res.repaired, 2);
		assert_true(scrub_is_clean(&s->res));
		scrub_clean(s);
	}
	data_reopen(&s->d);
	data_check(&s->d);
	free_volume(s);
}

static void test_lost_metadata(void **state)
{
	static const enum place kinds[] = {TABLE, BITMAP, LAST_LEAF};

	(void)state;
	for (unsigned k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		struct scrubber *s = make_volume(0);
		uint64_t at[2], errors;

		data_reopen(&s->d);
		errors = s->d.r.v->error_count;
		find(s, kinds[k], at);
		flip(s, at[0]);
		flip(s, at[1]);
		s->cfg.no_repair = true;
		/* Not to be met by the checkpoint, which would write it anew: as of a volume that takes no changes. */
		volume_fail(s->d.r.v, -EIO, "a test");
		assert_int_equal(scrub(s), 0);
		assert_int_equal(s->res.lost_meta, 1);
		assert_int_equal(s->nseen, 1);
		assert_int_equal(s->seen[0].kind, SCRUB_META);
		assert_int_equal(s->seen[0].blkno, at[0]);
		assert_false(scrub_is_clean(&s->res));
		assert_true(s->d.r.v->error_count > errors);
		/* The rest has been looked at: the contents, too, whose extents come behind the first leaf. */
		assert_true(s->res.data_blocks >= 5);
		fs_close(s->d.fs, s->d.q);
		volume_close(s->d.r.v, s->d.q);
		s->d.r.v = NULL;
		rig_destroy(&s->d.r);
		for (unsigned i = 0; i < NFILES; i++)
			model_fini(&s->d.m[i]);
		free(s);
	}
}

/* --- contents and names ------------------------------------------------------------------------ */

static uint64_t block_of(struct scrubber *s, unsigned f, uint64_t file_block)
{
	uint64_t blkno = data_walk(&s->d, f, file_block).blkno;

	assert_int_not_equal(blkno, 0);
	return blkno;
}

static const struct seen *seen_at(struct scrubber *s, uint64_t ino, uint64_t off)
{
	for (unsigned i = 0; i < s->nseen; i++)
		if (s->seen[i].kind == SCRUB_DATA && s->seen[i].ino == ino && s->seen[i].off == off)
			return &s->seen[i];
	fail_msg("inode %llu at %llu was not found", (unsigned long long)ino, (unsigned long long)off);
	return NULL;
}

static void test_lost_contents(void **state)
{
	struct scrubber *s = make_volume(0);
	uint64_t dir = INO_ROOT;

	(void)state;
	for (unsigned i = 0; i < 5; i++)
		dir = make(s, dir, (char[]){(char)('p' + i), ' ', 0}, S_IFDIR | 0755);
	assert_int_equal(fs_rename(s->d.fs, s->d.q, NULL, INO_ROOT, "a", 1, dir, "new name", 8, 0), 0);
	data_checkpoint(&s->d);
	flip(s, block_of(s, 0, 17));
	flip(s, block_of(s, 0, 18));
	flip(s, block_of(s, 0, 30));
	dev_sim_fail(s->d.r.dev, DEV_READ, 1, SIM_FAULT_STICKY, -EIO, block_of(s, 1, 3) * BLOCK_SIZE,
		     BLOCK_SIZE);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(scrub(s), 0);
		assert_int_equal(s->nseen, 3);
		assert_int_equal(s->res.lost_data, 4);
		assert_int_equal(s->res.lost_files, 2);
		assert_int_equal(s->res.lost_meta, 0);
		assert_int_equal(seen_at(s, s->d.ino[0], 17 * BLOCK_SIZE)->len, 2 * BLOCK_SIZE);
		assert_int_equal(seen_at(s, s->d.ino[0], 30 * BLOCK_SIZE)->len, BLOCK_SIZE);
		assert_string_equal(seen_at(s, s->d.ino[0], 30 * BLOCK_SIZE)->path,
				    "p /q /r /s /t /new name");
		assert_string_equal(seen_at(s, s->d.ino[1], 3 * BLOCK_SIZE)->path, "b");
	}
	/* Unlinked and still open: lost, without a name.  Then it is gone. */
	assert_int_equal(fs_unlink(s->d.fs, s->d.q, dir, "new name", 8), 0);
	dev_sim_fail(s->d.r.dev, DEV_READ, 0, SIM_FAULT_NONE, 0, 0, 0);
	assert_int_equal(scrub(s), 0);
	assert_int_equal(s->nseen, 2);
	assert_string_equal(seen_at(s, s->d.ino[0], 17 * BLOCK_SIZE)->path, "");
	fs_forget(s->d.fs, s->d.q, s->d.ino[0], 1);
	assert_int_equal(fs_service(s->d.fs, s->d.q), false);
	scrub_clean(s);
	free_volume(s);
}

/* More ranges than names are looked up for. */
static void test_a_great_loss(void **state)
{
	struct scrubber *s = make_volume(0);

	(void)state;
	data_write(&s->d, 1, MB(1), MB(2), false);
	for (unsigned i = 0; i < 12; i++)
		data_write(&s->d, 0, MB(i) / 4, KB(100), false);
	data_checkpoint(&s->d);
	for (unsigned i = 0; i < 512; i += 2)
		flip(s, block_of(s, 1, 256 + i));
	assert_int_equal(scrub(s), 0);
	assert_int_equal(s->res.lost_data, 256);
	assert_int_equal(s->res.lost_files, 1);
	assert_int_equal(s->nseen, SEEN);
	assert_string_equal(s->seen[SEEN - 1].path, "b");
	free_volume(s);
}

/* --- pace -------------------------------------------------------------------------------------- */

static void test_rate(void **state)
{
	struct scrubber *s = make_volume(0);

	(void)state;
	s->cfg.now_ms = on_now;
	s->cfg.wait = on_wait;
	s->cfg.rate = 100000;
	scrub_clean(s);
	uint64_t expected = s->res.total * 1000 / s->cfg.rate;
	assert_true(s->clock_ms > expected * 9 / 10 && s->clock_ms < expected * 11 / 10 + 100);
	/* It is asked while it waits: not only once for each piece of work. */
	assert_true(s->calls > s->clock_ms / 300);
	s->cfg.rate = 0;
	uint64_t before = s->clock_ms;
	scrub_clean(s);
	assert_int_equal(s->clock_ms, before);
	free_volume(s);
}

static void test_cancel_anywhere(void **state)
{
	struct scrubber *s = make_volume(0);
	unsigned n;

	(void)state;
	flip(s, block_of(s, 0, 1));
	for (n = 1; n < 10000; n++) {
		s->cancel_at = n;
		int err = scrub(s);

		if (!err)
			break;
		assert_int_equal(err, -ECANCELED);
		assert_int_equal(s->calls, n);
	}
	assert_true(n > 8 && n < 10000);
	assert_int_equal(s->res.lost_data, 1);
	data_checkpoint(&s->d);
	free_volume(s);
}

/* --- changes meanwhile ------------------------------------------------------------------------- */

static void change_something(struct scrubber *s)
{
	struct data *d = &s->d;
	unsigned f = (unsigned)data_random(d, NFILES);

	switch (data_random(d, 10)) {
	case 0:
		data_checkpoint(d);
		break;
	case 1:
		data_truncate(d, f, data_random(d, MB(1)));
		break;
	case 2:
		data_truncate(d, f, 0);
		break;
	case 3:
		make(s, INO_ROOT,
		     (char[]){(char)('A' + data_random(d, 26)), (char)('a' + data_random(d, 26)),
			      (char)('a' + data_random(d, 26)), (char)('a' + data_random(d, 26)), 0},
		     S_IFREG | 0600);
		break;
	case 4:
		assert_int_equal(fs_sync(d->fs, d->q, 0, false), 0);
		break;
	default:
		data_write(d, f, data_random(d, MB(1)), 1 + data_random(d, KB(200)), data_random(d, 2));
	}
}

/*
 * In the middle of a checkpoint no root is held: that checkpoint would not wait, and its successor would write the slots that are being
 * read.  On a queue of its own, as the daemon's thread.
 */
struct in_checkpoint {
	struct dev_task task; /* runs while the checkpoint waits for its writes */
	struct scrubber *s;
	struct dev_queue *q;
	int err;
	uint64_t meta_blocks;
};

static bool give_up_soon(void *arg)
{
	unsigned *calls = arg;

	return ++*calls > 20;
}

static void scrub_in_checkpoint(struct dev_task *task)
{
	struct in_checkpoint *in = (struct in_checkpoint *)task;
	unsigned calls = 0;
	struct scrub_config cfg = {.no_repair = true, .cancelled = give_up_soon, .arg = &calls};
	struct volume *v = in->s->d.r.v;

	assert_true(v->checkpoint_running);
	/* The one that it would ask for first cannot be made from here. */
	v->flags |= VOLUME_READ_ONLY;
	in->err = scrub_run(in->s->d.fs, in->q, &cfg, &in->s->res);
	v->flags &= ~VOLUME_READ_ONLY;
	in->meta_blocks = in->s->res.meta_blocks;
}

static void test_waits_for_a_checkpoint(void **state)
{
	struct scrubber *s = make_volume(0);
	struct in_checkpoint in = {.task.run = scrub_in_checkpoint, .s = s, .q = rig_queue(s->d.r.dev)};

	(void)state;
	data_write(&s->d, 0, 0, KB(100), false);
	dev_post(s->d.q, &in.task);
	data_checkpoint(&s->d);
	assert_int_equal(in.err, -ECANCELED);
	assert_int_equal(in.meta_blocks, SUPER_COPIES);
	assert_int_equal(atomic_load(&s->d.r.v->readers[0]) + atomic_load(&s->d.r.v->readers[1]), 0);
	dev_queue_destroy(in.q);
	scrub_clean(s);
	free_volume(s);
}

/* And a checkpoint that begins later waits for who holds the root. */
static void let_go(struct dev_task *task)
{
	struct in_checkpoint *in = (struct in_checkpoint *)task;

	/* The root is written, but nothing of the old one has been handed back. */
	if (in->s->d.r.v->generation == in->meta_blocks && in->err < 50) {
		in->err++;
		dev_post(in->s->d.q, task);
		return;
	}
	volume_read_end(in->s->d.r.v, in->s->calls);
}

static void test_a_checkpoint_waits(void **state)
{
	struct scrubber *s = make_volume(0);
	struct in_checkpoint in = {.task.run = let_go, .s = s};
	struct volume *v = s->d.r.v;

	(void)state;
	data_write(&s->d, 0, 0, KB(100), false);
	volume_lock(v);
	assert_int_equal(volume_root_begin(v, &s->calls, &in.meta_blocks), 0);
	volume_unlock(v);
	dev_post(s->d.q, &in.task);
	data_checkpoint(&s->d);
	assert_int_equal(in.err, 50);
	assert_int_equal(v->generation, in.meta_blocks + 1);
	scrub_clean(s);
	free_volume(s);
}

struct rewriting {
	struct dev_task task;
	struct volume *v;
	struct dev_queue *q;
	unsigned n;
};

static void end_rewriting(struct dev_task *task)
{
	struct rewriting *r = (struct rewriting *)task;

	assert_true(r->v->resting && !r->v->checkpoint_running);
	assert_false(volume_repair_begin(r->v));
	if (++r->n < 50)
		dev_post(r->q, task);
	else
		volume_repair_end(r->v);
}

/* Once it has begun nothing is written behind its back. */
static void test_a_rest_waits(void **state)
{
	struct scrubber *s = make_volume(0);
	struct rewriting r = {.task.run = end_rewriting, .v = s->d.r.v, .q = s->d.q};

	(void)state;
	data_write(&s->d, 0, 0, KB(100), false);
	assert_true(volume_repair_begin(r.v));
	dev_post(s->d.q, &r.task);
	assert_int_equal(volume_rest(r.v, s->d.q), 0);
	assert_int_equal(r.n, 50);
	assert_int_equal(volume_wake(r.v, s->d.q), 0);
	scrub_clean(s);
	free_volume(s);
}

static void check_volume(struct scrubber *s)
{
	struct fsck_opts opts = {.data = true, .try_replay = true};
	struct fsck_result res;

	data_reopen(&s->d);
	assert_int_equal(fsck_check(s->d.q, &opts, &res), 0);
	assert_int_equal(res.nerrors, 0);
}

static void test_changes_meanwhile(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= 12; seed++) {
		struct scrubber *s = make_volume(KB(512));

		s->d.rnd = seed;
		s->between = change_something;
		for (unsigned i = 0; i < 4; i++) {
			scrub_clean(s);
			assert_true(s->calls > 8);
		}
		s->between = NULL;
		data_check(&s->d);
		check_volume(s);
		free_volume(s);
	}
}

/* The same, and one copy of something rots now and then: never the loser is what was good. */
static void change_and_rot(struct scrubber *s)
{
	uint64_t at[2];

	change_something(s);
	if (data_random(&s->d, 3))
		return;
	find(s, (enum place)data_random(&s->d, 4), at);
	for (unsigned copy = 0; copy < 2; copy++) {
		static _Alignas(4096) uint8_t block[2][BLOCK_SIZE];

		peek(s, at[0], block[0]);
		peek(s, at[1], block[1]);
		/* Not both. */
		if (memcmp(block[0], block[1], BLOCK_SIZE) == 0) {
			flip(s, at[data_random(&s->d, 2)]);
			return;
		}
	}
}

static void test_rot_meanwhile(void **state)
{
	uint64_t mended = 0;

	(void)state;
	for (unsigned seed = 1; seed <= 12; seed++) {
		struct scrubber *s = make_volume(KB(512));

		s->d.rnd = seed;
		s->between = change_and_rot;
		for (unsigned i = 0; i < 3; i++) {
			assert_int_equal(scrub(s), 0);
			assert_int_equal(s->res.lost_meta, 0);
			assert_int_equal(s->res.lost_data, 0);
			assert_true(scrub_is_clean(&s->res));
			mended += s->res.repaired;
		}
		s->between = NULL;
		data_checkpoint(&s->d);
		assert_int_equal(scrub(s), 0);
		assert_true(scrub_is_clean(&s->res));
		scrub_clean(s);
		data_check(&s->d);
		check_volume(s);
		free_volume(s);
	}
	assert_true(mended > 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_wrong),      cmocka_unit_test(test_superblocks),
		cmocka_unit_test(test_one_copy_of_each),   cmocka_unit_test(test_root_copies),
		cmocka_unit_test(test_all_roots),          cmocka_unit_test(test_unreadable_copy),
		cmocka_unit_test(test_no_repair),          cmocka_unit_test(test_node_in_memory),
		cmocka_unit_test(test_lost_metadata),      cmocka_unit_test(test_lost_contents),
		cmocka_unit_test(test_a_great_loss),       cmocka_unit_test(test_rate),
		cmocka_unit_test(test_cancel_anywhere),    cmocka_unit_test(test_changes_meanwhile),
		cmocka_unit_test(test_rot_meanwhile),      cmocka_unit_test(test_waits_for_a_checkpoint),
		cmocka_unit_test(test_a_checkpoint_waits), cmocka_unit_test(test_a_rest_waits), cmocka_unit_test(test_older_root),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
