/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_truncate.c - a damaged journal: what is refused, what is said to be at stake, and what a truncation on the user's word leaves.
 */
#include "tests/unit/fsck_hits.h"

#include "core/dev_undo.h"
#include "fsck/truncate.h"

#define GROUPS 6u

/* A volume with GROUPS synced groups behind its checkpoint; group i makes /dir/new<i> of 5000 bytes and removes /file00<i>. */
struct late {
	struct bench b;
	uint64_t lsn[GROUPS + 1];	/* where they begin, and the end */
	char text[4000];		/* findings about what is at stake */
};

static void late_change(struct late *l, struct fs *fs, unsigned i)
{
	char name[16];

	snprintf(name, sizeof(name), "new%u", i);
	bench_write(&l->b, fs, bench_make(&l->b, fs, l->b.dir, name, S_IFREG | 0644), 5000);
	snprintf(name, sizeof(name), "file00%u", i);
	assert_int_equal(fs_unlink(fs, l->b.r.q, INO_ROOT, name, strlen(name)), 0);
	assert_int_equal(fs_sync(fs, l->b.r.q, 0, false), 0);
}

static void late_create(struct late *l, const struct bench *from)
{
	struct fs_config cfg = {0};
	struct fs *fs;

	memset(l, 0, sizeof(*l));
	bench_clone(&l->b, from);
	bench_open(&l->b);
	assert_int_equal(fs_open(l->b.r.v, l->b.r.q, &cfg, &fs), 0);
	for (unsigned i = 0; i < GROUPS; i++) {
		l->lsn[i] = log_append_lsn(l->b.r.v->log);
		late_change(l, fs, i);
	}
	l->lsn[GROUPS] = log_append_lsn(l->b.r.v->log);
	dev_sim_cut(l->b.r.dev);
	fs_close(fs, l->b.r.q);
	rig_after_cut(&l->b.r, 1);
}

static uint64_t log_off(struct late *l, uint64_t lsn)
{
	struct super sb = bench_super(&l->b);

	return sb.journal_blkno * BLOCK_SIZE + lsn % (sb.journal_nblocks * BLOCK_SIZE);
}

static void damage(struct late *l, unsigned group)
{
	dev_sim_flip(l->b.r.dev, log_off(l, l->lsn[group]) + 100, 3);
}

static bool exists(struct late *l, struct fs *fs, uint64_t dir, const char *fmt, unsigned i)
{
	struct fs_attr attr;
	char name[16];

	snprintf(name, sizeof(name), fmt, i);
	int err = fs_lookup(fs, l->b.r.q, dir, name, strlen(name), &attr);

	assert_true(err == 0 || err == -ENOENT);
	if (!err)
		fs_forget(fs, l->b.r.q, attr.ino, 1);
	return !err;
}

/* It mounts, shows exactly the first `n` groups, can be changed, and is clean. */
static void expect_prefix(struct late *l, unsigned n)
{
	struct fs_config cfg = {0};
	struct fs *fs;

	assert_int_equal(bench_check(&l->b, true), 0);
	assert_int_equal(l->b.res.nerrors, 0);
	bench_open(&l->b);
	assert_int_equal(fs_open(l->b.r.v, l->b.r.q, &cfg, &fs), 0);
	for (unsigned i = 0; i < GROUPS; i++) {
		assert_int_equal(exists(l, fs, l->b.dir, "new%u", i), i < n);
		assert_int_equal(exists(l, fs, INO_ROOT, "file00%u", i), i >= n);
	}
	bench_make(&l->b, fs, l->b.dir, "afterwards", S_IFREG | 0644);
	fs_close(fs, l->b.r.q);
	bench_close(&l->b);
	assert_int_equal(bench_check(&l->b, true), 0);
	assert_int_equal(l->b.res.nerrors, 0);
}

static int try_mount(struct late *l)
{
	struct volume *v;
	int err = volume_open(l->b.r.q, &l->b.r.cfg, &l->b.r.diag, &v);

	return err ? err : volume_close(v, l->b.r.q);
}

/* --- what is at stake -------------------------------------------------------------------------- */

static void note_stake(void *arg, const struct fsck_finding *f)
{
	struct late *l = arg;
	size_t have = strlen(l->text);

	if (f->code == FSCK_LOG_STAKE)
		snprintf(l->text + have, sizeof(l->text) - have, "%s\n", f->text);
}

static void note_stakes(struct late *l)
{
	struct fsck_opts opts = {.found = note_stake, .arg = l, .diag = &l->b.r.diag};

	l->text[0] = '\0';
	assert_int_equal(fsck_check_journal(l->b.r.q, &opts, &l->b.res), 0);
}

static void expect_named(const struct late *l, bool want, const char *fmt, unsigned i)
{
	char text[64];

	snprintf(text, sizeof(text), fmt, i);
	if ((strstr(l->text, text) != NULL) == want)
		return;
	print_error("%s was %s in:\n%s", text, want ? "not" : "", l->text);
	fail();
}

static void test_stakes_are_named(void **state)
{
	struct late l;

	late_create(&l, *state);
	damage(&l, 2);
	note_stakes(&l);
	assert_int_equal(l.b.res.tail.kind, LOG_TAIL_DAMAGED);
	assert_int_equal(l.b.res.tail.end_lsn < l.lsn[3], 1);
	assert_true(l.b.res.stake_frames >= 3 * (GROUPS - 3));
	/* Those before the damage are not at stake; its first transaction cannot be read; those behind it can. */
	for (unsigned i = 0; i < GROUPS; i++) {
		expect_named(&l, i >= 3, "at stake: /dir/new%u (inode", i);
		expect_named(&l, i >= 2, "at stake: /file00%u (inode", i);
	}
	rig_destroy(&l.b.r);
}

static void keep_line(void *arg, enum diag_level level, const char *line)
{
	(void)level;
	snprintf(arg, 500, "%s", line);
}

/* The mount's own line says how much, and of which inodes. */
static void test_refusal_names_stakes(void **state)
{
	char line[500] = "";
	struct late l;

	late_create(&l, *state);
	damage(&l, 2);
	l.b.r.diag = (struct diag){.emit = keep_line, .arg = line};
	uint64_t writes = dev_sim_writes(l.b.r.dev);

	assert_int_equal(try_mount(&l), -EBADMSG);
	assert_int_equal(dev_sim_writes(l.b.r.dev), writes);
	assert_non_null(strstr(line, "whole transactions among them, of inodes 1, "));
	assert_non_null(strstr(line, " more"));
	l.b.r.diag.emit = rig_emit;
	rig_destroy(&l.b.r);
}

/* --- truncation -------------------------------------------------------------------------------- */

static int truncate_it(struct late *l, struct volume_recovery *rec)
{
	return truncate_journal(l->b.r.q, &l->b.r.diag, rec);
}

/* Damage in each group but the last, where it would be a torn tail. */
static void test_every_group(void **state)
{
	for (unsigned g = 0; g + 1 < GROUPS; g++) {
		struct volume_recovery rec;
		struct late l;

		late_create(&l, *state);
		damage(&l, g);
		assert_int_equal(try_mount(&l), -EBADMSG);
		assert_int_equal(truncate_it(&l, &rec), 0);
		assert_int_equal(rec.tail.kind, LOG_TAIL_DAMAGED);
		assert_true(rec.tail.end_lsn >= l.lsn[g] && rec.tail.end_lsn < l.lsn[g + 1]);
		assert_int_equal(rec.tail.end_lsn + rec.tail.lost_bytes, l.lsn[GROUPS]);
		expect_prefix(&l, g);
		rig_destroy(&l.b.r);
	}
}

static void unreadable_one(struct late *l, unsigned g)
{
	struct volume_recovery rec;
	uint64_t off = log_off(l, l->lsn[g]);
	uint8_t block[BLOCK_SIZE], zeros[BLOCK_SIZE] = {0};

	dev_sim_fail(l->b.r.dev, DEV_READ, 1, SIM_FAULT_STICKY, -EIO, off, 512);
	assert_int_equal(try_mount(l), -EBADMSG);
	assert_int_equal(bench_check(&l->b, false), 0);
	assert_int_equal(l->b.found[g + 1 < GROUPS ? FSCK_LOG_DAMAGED : FSCK_LOG_UNREADABLE], 1);
	assert_int_equal(truncate_it(l, &rec), 0);
	/* A drive would have put another block in its place now. */
	dev_sim_peek(l->b.r.dev, off, block, sizeof(block));
	assert_memory_equal(block, zeros, sizeof(block));
}

static void test_unreadable(void **state)
{
	for (unsigned g = 0; g < GROUPS; g++) {
		struct late l;

		late_create(&l, *state);
		unreadable_one(&l, g);
		/* If not, it is no harm as long as nothing is there. */
		assert_int_equal(try_mount(&l), 0);
		dev_sim_fail(l.b.r.dev, DEV_READ, 0, SIM_FAULT_NONE, 0, 0, 0);
		expect_prefix(&l, g);
		rig_destroy(&l.b.r);
	}
}

static void expect_refusal(struct late *l)
{
	uint64_t writes = dev_sim_writes(l->b.r.dev);
	struct volume_recovery rec;

	assert_int_equal(truncate_it(l, &rec), -ENODATA);
	assert_int_equal(dev_sim_writes(l->b.r.dev), writes);
}

/* A journal that is whole, torn, or empty is not cut: a mount does what is right. */
static void test_undamaged(void **state)
{
	struct late l;

	late_create(&l, *state);
	expect_refusal(&l);
	damage(&l, GROUPS - 1);
	expect_refusal(&l);
	assert_int_equal(try_mount(&l), 0);
	expect_refusal(&l);
	expect_prefix(&l, GROUPS - 1);
	rig_destroy(&l.b.r);
}

/* A transaction that no volume of ours would write: the journal is cut in front of it, and it is counted. */
static void test_transaction_that_does_not_fit(void **state)
{
	struct volume_recovery rec;
	struct late l;

	memset(&l, 0, sizeof(l));
	bench_clone(&l.b, *state);
	for (unsigned i = 0; i < nhits; i++)
		if (hits[i].want & SET(LOG_REPLAY))
			hits[i].run(&l.b);
	assert_int_equal(try_mount(&l), -EUCLEAN);
	assert_int_equal(truncate_it(&l, &rec), 0);
	assert_int_equal(rec.dropped_frames, 1);
	assert_int_equal(rec.frames, 0);
	expect_prefix(&l, 0);
	rig_destroy(&l.b.r);
}

/* Lost tree nodes are no business of a truncation. */
static void test_damaged_tree(void **state)
{
	struct volume_recovery rec;
	struct late l;

	late_create(&l, *state);
	damage(&l, 2);
	struct disk_root root = bench_root(&l.b);

	for (unsigned i = 0; i < 2; i++)
		block_flip(&l.b, get64(root.tree.blkno[i]));
	uint64_t writes = dev_sim_writes(l.b.r.dev);

	assert_int_equal(truncate_it(&l, &rec), -EIO);
	assert_int_equal(dev_sim_writes(l.b.r.dev), writes);
	rig_destroy(&l.b.r);
}

/* The power goes at any write of it: the journal is still damaged and refused, or it is cut; never in between. */
static void test_cut_everywhere(void **state)
{
	unsigned ndone = 0, nrefused = 0;

	for (uint64_t n = 1;; n++) {
		struct volume_recovery rec;
		struct late l;

		late_create(&l, *state);
		damage(&l, 3);
		dev_sim_cut_after(l.b.r.dev, n);
		int err = truncate_it(&l, &rec);
		bool cut = dev_sim_is_cut(l.b.r.dev);

		rig_after_cut(&l.b.r, n);
		if (err) {
			err = try_mount(&l);
			assert_true(err == 0 || err == -EBADMSG);
			nrefused += err != 0;
		}
		if (err)
			assert_int_equal(truncate_it(&l, &rec), 0);
		else
			ndone++;
		expect_prefix(&l, 3);
		rig_destroy(&l.b.r);
		if (!cut)
			break;
	}
	assert_true(nrefused > 3);
	assert_true(ndone > 0);
}

/* --- undone ------------------------------------------------------------------------------------ */

static int keep_nothing(void *arg, const void *bytes, size_t len)
{
	(void)bytes;
	*(size_t *)arg += len;
	return 0;
}

static int sync_nothing(void *arg)
{
	(void)arg;
	return 0;
}

/* It writes through whatever queue it is given, so the undo file has all of it. */
static void test_through_the_undo_filter(void **state)
{
	struct volume_recovery rec;
	struct dev *filter, *copy;
	size_t bytes = 0;
	struct late l;

	late_create(&l, *state);
	damage(&l, 1);
	struct super sb = bench_super(&l.b);
	struct undo_sink sink = {.append = keep_nothing, .sync = sync_nothing, .arg = &bytes};

	dev_queue_destroy(l.b.r.q);
	assert_int_equal(dev_undo_create(l.b.r.dev, &sb, &sink, 0, &filter), 0);
	l.b.r.q = rig_queue(filter);
	assert_int_equal(truncate_it(&l, &rec), 0);
	assert_true(bytes > dev_undo_saved(filter) * BLOCK_SIZE);
	assert_true(dev_undo_saved(filter) > 4);
	dev_queue_destroy(l.b.r.q);
	assert_int_equal(dev_sim_clone(l.b.r.dev, &copy), 0);
	dev_close(filter);
	l.b.r.dev = copy;
	l.b.r.q = rig_queue(copy);
	expect_prefix(&l, 1);
	rig_destroy(&l.b.r);
}

static int setup(void **state)
{
	static struct bench b;

	bench_create(&b);
	*state = &b;
	return 0;
}

static int teardown(void **state)
{
	rig_destroy(&((struct bench *)*state)->r);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stakes_are_named),
		cmocka_unit_test(test_refusal_names_stakes),
		cmocka_unit_test(test_every_group),
		cmocka_unit_test(test_unreadable),
		cmocka_unit_test(test_undamaged),
		cmocka_unit_test(test_transaction_that_does_not_fit),
		cmocka_unit_test(test_damaged_tree),
		cmocka_unit_test(test_cut_everywhere),
		cmocka_unit_test(test_through_the_undo_filter),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
