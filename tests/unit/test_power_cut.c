/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_power_cut.c - the promise, checked: the power goes at every single write and flush of a script that does everything a file
 * system can do.  What comes back, whole tree and contents, is a moment that was, not before the last sync that returned; and
 * fsck has nothing to say about it.
 *
 * The truth is what the same script left behind on a device whose power never went: one snapshot after each operation.
 *
 * HOLDFAST_LONG=1 tries many survivors of each cut and many more lives.  HOLDFAST_TEST_CUT=N: only the N-th write.
 */
#include "tests/unit/power_cut_snap.h"

#include <sys/xattr.h>

#include "core/sim_store.h"
#include "fsck/check.h"

#define KB(n)   ((uint64_t)(n) << 10)
#define FAR     ((uint64_t)3 << 40)
#define COMB    780u		/* extents: more than one transaction of a truncation removes */
#define MANY    60u
#define BLK(n)  ((uint64_t)(n) * BLOCK_SIZE)

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO  FALLOC_FL_ZERO_RANGE
#define KEEP  FALLOC_FL_KEEP_SIZE
#define OWNER (FS_SET_MODE | FS_SET_UID | FS_SET_GID)
#define TIMES (FS_SET_ATIME | FS_SET_MTIME)
#define FILE_ (S_IFREG | 0644)

#define T50 "fifty bytes of a target, again and again until: 50"
#define T500 T50 T50 T50 T50 T50 T50 T50 T50 T50 T50

static const struct op script[] = {
	{act_make, "/d", NULL, 0, 0, S_IFDIR | 0755},
	{act_make, "/d/sub", NULL, 0, 0, S_IFDIR | 02775},
	{act_make, "/a", NULL, 0, 0, FILE_},
	{act_hold, "/a", NULL, 0, 0, 0},
	{act_write, "/a", NULL, 0, KB(256), LENT},			/* straight home */
	{act_sync, "@0", NULL, 0, 0, 0},
	{act_make, "/d/tiny", NULL, 0, 0, FILE_},
	{act_write, "/d/tiny", NULL, 0, 100, 0},		/* inline */
	{act_write, "/d/tiny", NULL, 60, 500, 0},
	{act_sync, "/d/tiny", NULL, 0, 0, 1},
	{act_write, "/d/tiny", NULL, 560, 1500, 0},		/* out of the inode */
	{act_write, "/d/tiny", NULL, 2060, 5000, 0},		/* from one block into the next */
	{act_write, "/a", NULL, KB(256), KB(10) + 5, 0},
	{act_write, "/a", NULL, KB(266) + 5, 100, 0},
	{act_sync, "@0", NULL, 0, 0, 1},
	{act_write, "/a", NULL, 1000, 50, 0},
	{act_write, "/a", NULL, KB(8), KB(16), 0},		/* through the log */
	{act_write, "/a", NULL, 30001, 20000, LENT},
	{act_make, "/link", "d/tiny", 0, 0, 0},
	{act_make, "/d/long", T500 T500 T500 T500 T500 T500, 0, 0, 0},
	{act_link, "/a", "/d/hard", 0, 0, 0},
	{act_rename, "/d/tiny", "/small", 0, 0, RENAME_NOREPLACE},
	{act_sync, NULL, NULL, 0, 0, 0},
	{act_write, "/a", NULL, KB(4), KB(200), LENT},		/* to other blocks */
	{act_write, "/a", NULL, 100001, 3000, 0},		/* of what just moved */
	{act_write, "/a", NULL, 20000, 150000, 0},
	{act_sync_late, NULL, NULL, 0, 0, 0},
	{act_rename, "/d/sub", "/sub", 0, 0, 0},
	{act_sync, "/sub", NULL, 0, 0, 0},
	{act_make, "/sub/f", NULL, 0, 0, FILE_},
	{act_write, "/sub/f", NULL, 0, BLOCK_SIZE, LENT},
	{act_checkpoint, NULL, NULL, 0, 0, 0},
	{act_write, "/sub/f", NULL, 4000, 200, 0},
	{act_make, "/b", NULL, 0, 0, FILE_},
	{act_write, "/b", NULL, 0, 700, 0},
	{act_rename, "/b", "/d/hard", 0, 0, 0},			/* one of two links is replaced */
	{act_rename, "/d/hard", "/sub", 0, 0, RENAME_EXCHANGE},	/* a file and a directory change places */
	{act_rename, "/d/hard/f", "/small", 0, 0, RENAME_EXCHANGE},
	{act_make, "/e", NULL, 0, 0, S_IFDIR | 0700},
	{act_rename, "/d/hard", "/e", 0, 0, 0},			/* in place of an empty directory */
	{act_xattr, "/a", "user.small", 0, 20, 0},
	{act_xattr, "/d", "user.of-a-directory", 0, 300, XATTR_CREATE},
	{act_xattr, "/a", "user.big", 0, KB(64), 0},
	{act_sync, "@0", NULL, 0, 0, 0},
	{act_xattr, "/a", "user.big", 0, 30000, XATTR_REPLACE},
	{act_sync, "@0", NULL, 0, 0, 0},			/* of nothing but what stands in front of it; and so on */
	{act_xattr, "/a", "user.small", 0, 3000, 0},
	{act_sync, "@0", NULL, 0, 0, 0},
	{act_setattr, "/a", NULL, 0641, 0, OWNER},
	{act_sync, "@0", NULL, 0, 0, 0},
	{act_setattr, "/d", NULL, 12345, 0, TIMES},
	{act_rename, "/a", "/d/a", 0, 0, 0},
	{act_sync, "@0", NULL, 0, 0, 0},
	{act_link, "/d/a", "/a", 0, 0, 0},
	{act_sync, "@0", NULL, 0, 0, 0},
	{act_unlink, "/d/a", NULL, 0, 0, 0},
	{act_sync, "@0", NULL, 0, 0, 0},
	{act_setattr, "/a", NULL, 150000, 0, FS_SET_SIZE | FS_SET_MODE},
	{act_sync, "@0", NULL, 0, 0, 1},
	{act_setattr, "/a", NULL, 180000, 0, FS_SET_SIZE},
	{act_write, "/a", NULL, 170000, 5000, 0},
	{act_write_amid, "/a", NULL, BLK(41) + 500, 1000, 4},	/* of a page that is being placed home */
	{act_write_amid, "/a", NULL, KB(30), KB(100), 8},
	{act_write_amid, "/sub", NULL, 10, 20, 16},
	{act_fallocate, "/a", NULL, 5000, 60000, PUNCH},
	{act_fallocate, "/a", NULL, 70001, 40000, ZERO},
	{act_write, "/a", NULL, 6000, 100, 0},			/* into the hole, in part and whole */
	{act_write, "/a", NULL, BLK(4), BLK(2), LENT},
	{act_sync, "@0", NULL, 0, 0, 1},
	{act_fallocate, "/a", NULL, 0, 250000, 0},
	{act_sync, "@0", NULL, 0, 0, 1},
	{act_write, "/a", NULL, 200000, 3000, 0},		/* into what is reserved, in part and whole */
	{act_write, "/a", NULL, BLK(52), BLK(4), LENT},
	{act_write, "/a", NULL, BLK(53) + 9, 100, 0},		/* of what may still be in flight */
	{act_fallocate, "/a", NULL, 100000, 120000, ZERO | KEEP},
	{act_sync, "@0", NULL, 0, 0, 1},
	{act_setattr, "/comb", NULL, BLK(20) + 100, 0, FS_SET_SIZE},	/* many transactions, one truncation */
	{act_setattr, "/comb", NULL, BLK(2 * COMB), 0, FS_SET_SIZE},
	{act_write, "/comb", NULL, BLK(30) - 7, 20, 0},
	{act_sync, NULL, NULL, 0, 0, 0},
	{act_hold, "/teeth", NULL, 0, 0, 1},
	{act_unlink, "/teeth", NULL, 0, 0, 0},
	{act_write, "@1", NULL, 50, KB(100), LENT},		/* deleted, and yet there */
	{act_setattr, "@1", NULL, 70000, 0, FS_SET_SIZE},
	{act_xattr, "@1", "user.unseen", 0, 5000, 0},
	{act_sync, "@1", NULL, 0, 0, 0},
	{act_write_amid, "/comb", NULL, BLK(40) + 1, 30000, 1},
	{act_hold, NULL, NULL, 0, 0, 1},
	{act_unlink_amid, "/comb", NULL, 0, 5, 0},
	{act_make, "/x", NULL, 0, 0, FILE_},
	{act_write, "/x", NULL, 0, FS_IO_MAX, LENT},
	{act_unlink, "/x", NULL, 0, 0, 0},
	{act_make, "/x", NULL, 0, 0, FILE_ | S_ISUID},
	{act_write, "/x", NULL, 77, 300000, 0},
	{act_hold, "/x", NULL, 0, 0, 1},
	{act_rename, "/small", "/x", 0, 0, 0},			/* a file's last link is replaced */
	{act_sync, "/x", NULL, 0, 0, 0},
	{act_hold, NULL, NULL, 0, 0, 1},
	{act_sync_late, NULL, NULL, 0, 0, 0},
	{act_make, "/t", NULL, 0, 0, S_IFDIR | 0755},
	{act_make, "/t/u", NULL, 0, 0, S_IFDIR | 0755},
	{act_rename, "/t", "/e/f", 0, 0, RENAME_EXCHANGE},
	{act_unlink, "/e/f/u", NULL, 0, 0, S_IFDIR},
	{act_unlink, "/e/f", NULL, 0, 0, S_IFDIR},
	{act_make, "/fifo", NULL, 0, 0, S_IFIFO | 0600},
	{act_make, "/d/tty", NULL, 0x440, 0, S_IFCHR | 0620},
	{act_make, "/far", NULL, 0, 0, FILE_},
	{act_write, "/far", NULL, FAR + 9, KB(40), 0},
	{act_write, "/far", NULL, FAR + KB(20), KB(64), LENT},
	{act_setattr_amid, "/far", NULL, FAR + KB(48), 3, FS_SET_SIZE},
	{act_setattr, "/far", NULL, 10, 0, FS_SET_SIZE},
	{act_sync_late, NULL, NULL, 0, 0, 0},
	{act_read, "/a", NULL, 0, KB(200), 0},
	{act_xattr, "/a", "user.big", 0, 0, -1},
	{act_xattr, "/a", "user.small", 0, 0, -1},
	{act_make, "/i", NULL, 0, 0, FILE_},
	{act_write, "/i", NULL, 0, 900, 0},
	{act_setattr, "/i", NULL, 300, 0, FS_SET_SIZE},
	{act_setattr, "/i", NULL, 1000, 0, FS_SET_SIZE},
	{act_fallocate, "/i", NULL, 100, 100, PUNCH},
	{act_setattr, "/i", NULL, 5000, 0, FS_SET_SIZE},
	{act_sync, "/i", NULL, 0, 0, 0},
	{act_setattr, "/i", NULL, 0, 0, FS_SET_SIZE},
	{act_write, "/i", NULL, 0, 10, 0},
	{act_rename_amid, "/x", "/i", 0, 8, 0},
	{act_rename, "/many/f7", "/many/g7", 0, 0, 0},
	{act_unlink, "/many/f30", NULL, 0, 0, 0},
	{act_rename, "/many/f8", "/d/f8", 0, 0, 0},
	{act_write, "/a", NULL, 3, KB(60), 0},
	{act_write, "/a", NULL, 0, KB(250), LENT},
	{act_sync, "/many", NULL, 0, 0, 0},
	{act_write, "/a", NULL, KB(50) + 1, KB(20), 0},
	{act_hold, NULL, NULL, 0, 0, 0},
	{act_unlink_amid, "/a", NULL, 0, 12, 0},
	{act_setattr, "/d/f8", NULL, 99, 0, OWNER | TIMES},
	{act_rename, "/d/f8", "/d/f9", 0, 0, RENAME_WHITEOUT},
	{act_rename, "/d/f9", "/d/f8", 0, 0, RENAME_WHITEOUT},	/* in place of the first one */
	{act_sync, "/d", NULL, 0, 0, 0},
	/* The last ones: with or without it, inode numbers given out later would differ. */
	{act_nameless, "/d", NULL, 0, 0, 1},
	{act_write, "@1", NULL, 50, KB(100), LENT},
	{act_sync, "@1", NULL, 0, 0, 0},
};

/* There is no room but what the script makes. */
static const struct op full_script[] = {
	{act_write, "/full0", NULL, 5000, 100, 0},
	{act_write, "/full0", NULL, KB(20), KB(64), LENT},
	{act_write, "/full1", NULL, KB(10) + 1, KB(200), LENT | SHORT},	/* in place, for want of other blocks */
	{act_sync, NULL, NULL, 0, 0, 0},
	{act_fallocate, "/full2", NULL, KB(9), KB(300), ZERO | KEEP},
	{act_write, "/full0", NULL, KB(2000), KB(100), LENT | SHORT},
	{act_make, "/one-more", NULL, 0, 0, FILE_},
	{act_xattr, "/full0", "user.big", 0, KB(64), 0},
	{act_sync_late, NULL, NULL, 0, 0, 0},
	{act_rename, "/full3", "/full2", 0, 0, 0},			/* what it frees ... */
	{act_write, "/full1", NULL, KB(1500), KB(600), LENT | SHORT},	/* ... is to be had after a checkpoint */
	{act_write, "/full1", NULL, KB(3), KB(500), LENT | SHORT},
	{act_sync, "/full1", NULL, 0, 0, 0},
	{act_setattr, "/full0", NULL, KB(100) + 7, 0, FS_SET_SIZE},
	{act_write, "/full1", NULL, 0, KB(300), LENT | SHORT},
	{act_write, "/full1", NULL, KB(100), KB(300), LENT | SHORT},
	{act_write, "/full1", NULL, KB(200), KB(300), LENT | SHORT},
	{act_fallocate, "/full1", NULL, KB(50), KB(100), PUNCH},
	{act_fallocate, "/full2", NULL, KB(3000), KB(9000), 0},
	{act_write, "/full2", NULL, KB(900), KB(1000), LENT | SHORT},
	{act_sync, NULL, NULL, 0, 0, 0},
	{act_unlink, "/full1", NULL, 0, 0, 0},
	{act_write_amid, "/full2", NULL, KB(40), KB(900), 3},
	{act_write, "/full2", NULL, 1, KB(900), SHORT},
};

#define COUNT(array) ((unsigned)(sizeof(array) / sizeof((array)[0])))

/* --- the truth --------------------------------------------------------------------------------- */

/* A kind of device and of use; and what the uncut run of the script was like. */
struct scene {
	const char *name;
	const struct op *script;
	unsigned nops;
	bool full;		/* operations may find no room, and what they find depends on what was before */
	bool sync;		/* a sync behind each operation */
	unsigned checkpoint;	/* one behind every n-th operation; 0: only where the script says so */
	uint64_t bytes, journal_nblocks;
	uint32_t sector;
	bool in_order;
	uint64_t seed;		/* of the device: the order in which things complete */
	unsigned every;		/* n-th write is a case */
	unsigned survivors;	/* tried for each */
	struct volume_config cfg;

	struct run image;	/* closed: formatted, and what the script finds there */
	uint64_t writes;	/* of the script */
	char **snap;		/* nops + 1 */
};

static void must(struct run *c, const char *what, int err)
{
	if (err)
		fail_msg("%s: %s (operation %u): %s", c->label, what, c->at, strerror(-err));
}

static void image_op(struct run *c, const struct op op)
{
	must(c, op.a, run_op(c, &op, 0));
}

/* Extents of one block with holes between them; some are written. */
static void image_comb(struct run *c, const char *path, unsigned n)
{
	image_op(c, (struct op){act_make, path, NULL, 0, 0, FILE_});
	for (unsigned i = 0; i < n; i++)
		image_op(c, (struct op){act_fallocate, path, NULL, BLK(2 * i), BLOCK_SIZE, 0});
	for (unsigned i = 0; i < n; i += 100)
		image_op(c, (struct op){act_write, path, NULL, BLK(2 * i) + 10, 5000, 0});
}

static void image_many(struct run *c)
{
	char name[32];

	image_op(c, (struct op){act_make, "/many", NULL, 0, 0, S_IFDIR | 0755});
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "/many/f%u", i);
		image_op(c, (struct op){act_make, name, NULL, 0, 0, FILE_});
	}
}

/* Until nothing fits any more. */
static void image_fill(struct run *c)
{
	uint64_t off[4] = {0};
	char name[32];
	int err = 0;

	for (unsigned i = 0; !err; i++) {
		struct op op = {act_write, name, NULL, off[i % 4], KB(150) + 1000 * i, SHORT};

		snprintf(name, sizeof(name), "/full%u", i % 4);
		if (i < 4)
			image_op(c, (struct op){act_make, name, NULL, 0, 0, FILE_});
		err = run_op(c, &op, 0);
		off[i % 4] += op.len;
	}
	assert_int_equal(err, -ENOSPC);
}

static void image_make(struct scene *s)
{
	struct sim_config cfg = {.size = s->bytes, .sector = s->sector, .seed = s->seed, .in_order = s->in_order};
	struct run *c = &s->image;

	memset(c, 0, sizeof(*c));
	snprintf(c->label, sizeof(c->label), "%s, image", s->name);
	c->r.diag.emit = rig_emit;
	c->r.cfg = s->cfg;
	assert_int_equal(dev_sim_create(&cfg, NULL, &c->r.dev), 0);
	c->r.q = rig_queue(c->r.dev);
	rig_format(c->r.q, s->journal_nblocks);
	must(c, "open", run_open(c));
	if (s->full) {
		image_fill(c);
	} else {
		image_comb(c, "/comb", COMB);
		image_comb(c, "/teeth", COMB / 2);
		image_many(c);
	}
	must(c, "close", run_close(c));
}

/* Operation `i`, and what the scene adds to it. */
static int scene_op(struct run *c, const struct scene *s, unsigned i)
{
	int err = run_op(c, &s->script[i], i);

	if (s->full && err == -ENOSPC)
		err = 0;
	if (!err && s->sync) {
		err = fs_sync(c->fs, c->r.q, 0, false);
		if (!err)
			c->acked = i + 1;
	}
	if (!err && s->checkpoint && i % s->checkpoint == 0) {
		err = volume_checkpoint(c->r.v, c->r.q, CHECKPOINT_FORCE);
		if (!err)
			c->acked = i + 1;
	}
	return err;
}

/* Does it leave what is to be seen as it was? */
static bool is_silent(const struct op *op)
{
	return op->act == act_sync || op->act == act_sync_late || op->act == act_checkpoint || op->act == act_hold ||
	       op->act == act_nameless || op->a[0] == '@';
}

static void run_label(struct run *c, const struct scene *s, uint64_t cut, uint64_t seed)
{
	snprintf(c->label, sizeof(c->label), "%s, cut %llu, survivors %llu", s->name, (unsigned long long)cut,
		 (unsigned long long)seed);
}

static void snap_all(struct scene *s)
{
	struct run c;

	s->snap = calloc(s->nops + 1, sizeof(*s->snap));
	assert_non_null(s->snap);
	run_clone(&c, &s->image);
	run_label(&c, s, 0, 0);
	must(&c, "open", run_open(&c));
	s->snap[0] = snapshot(&c);
	for (unsigned i = 0; i < s->nops; i++) {
		must(&c, "uncut run", scene_op(&c, s, i));
		s->snap[i + 1] = snapshot(&c);
		if (!s->full && (strcmp(s->snap[i], s->snap[i + 1]) == 0) != is_silent(&s->script[i]))
			fail_msg("%s: operation %u does not do what it should", c.label, i);
	}
	run_destroy(&c);
}

static void scene_begin(struct scene *s)
{
	struct run c;

	image_make(s);
	snap_all(s);
	/* Once more, without looking in between: these are the writes that are going to be cut. */
	run_clone(&c, &s->image);
	run_label(&c, s, 0, 0);
	must(&c, "open", run_open(&c));
	uint64_t before = dev_sim_writes(c.r.dev);
	for (unsigned i = 0; i < s->nops; i++)
		must(&c, "second uncut run", scene_op(&c, s, i));
	char *last = snapshot(&c);
	assert_string_equal(last, s->snap[s->nops]);
	free(last);
	must(&c, "close", run_close(&c));
	s->writes = dev_sim_writes(c.r.dev) - before;
	run_destroy(&c);
}

static void scene_end(struct scene *s)
{
	for (unsigned i = 0; i <= s->nops; i++)
		free(s->snap[i]);
	free(s->snap);
	run_destroy(&s->image);
}

/* --- what is right ----------------------------------------------------------------------------- */

/* The first line that differs. */
static void show_difference(const char *want, const char *got)
{
	size_t same = 0;

	while (want[same] && want[same] == got[same])
		same++;
	while (same && want[same - 1] != '\n')
		same--;
	want += same;
	got += same;
	print_error("expected: %.*s\nfound:    %.*s\n", (int)strcspn(want, "\n"), want, (int)strcspn(got, "\n"), got);
}

static void no_moment(struct run *c, const struct scene *s, unsigned tried, const char *got)
{
	for (unsigned k = 0; k <= s->nops; k++) {
		if (strcmp(got, s->snap[k]) == 0)
			fail_msg("%s: %u operations survived, not %u to %u", c->label, k, c->acked, tried);
	}
	for (unsigned k = c->acked; k <= tried; k++) {
		print_error("%s: after %u operations:\n", c->label, k);
		show_difference(s->snap[k], got);
	}
	fail_msg("%s: the tree is none that ever was", c->label);
}

/* The tree is as it was after some number of operations between c->acked and `tried`: returns that number. */
static unsigned moment_of(struct run *c, const struct scene *s, unsigned tried)
{
	char *got = snapshot(c);
	unsigned k = c->acked;

	while (k <= tried && strcmp(got, s->snap[k]) != 0)
		k++;
	if (k > tried)
		no_moment(c, s, tried, got);
	free(got);
	return k;
}

static void fsck_found(void *arg, const struct fsck_finding *f)
{
	const struct fsck_code_info *info = fsck_code_info(f->code);

	print_error("%s: fsck: %s %s: %s\n", ((struct run *)arg)->label, info->code, info->name, f->text);
}

/* Closed cleanly there is nothing to find; after a cut, only what the next mount is for. */
static void fsck_must_pass(struct run *c, bool clean)
{
	struct fsck_opts opts = {.data = true, .try_replay = true, .arg = c, .diag = &c->r.diag};
	struct fsck_result res;

	must(c, "fsck", fsck_check(c->r.q, &opts, &res));
	if (!res.nerrors && (!clean || !res.ninfos)) {
		assert_true(!clean || res.root_clean);
		return;
	}
	opts.found = fsck_found;
	must(c, "fsck", fsck_check(c->r.q, &opts, &res));
	fail_msg("%s: fsck has findings %s", c->label, clean ? "after a clean end" : "before recovery");
}

/* --- one life after another -------------------------------------------------------------------- */

/* Operations from `from` on, until the script ends or the power does.  Returns how many may have been carried out, all lives
 * together. */
static unsigned live(struct run *c, const struct scene *s, unsigned from)
{
	for (unsigned i = from; i < s->nops; i++) {
		int err = scene_op(c, s, i);

		if (dev_sim_is_cut(c->r.dev))
			return i + 1;
		must(c, "operation", err);
	}
	return s->nops;
}

/* False: the power has gone again, at the `cut`-th write of it (0: it does not). */
static bool recover_once(struct run *c, uint64_t cut)
{
	dev_sim_cut_after(c->r.dev, cut);
	int err = run_open(c);

	while (!err && fs_service(c->fs, c->r.q))
		;
	if (dev_sim_is_cut(c->r.dev))
		return false;
	must(c, "recovery", err);
	dev_sim_cut_after(c->r.dev, 0);
	return true;
}

/* A read-only mount shows the same and writes nothing. */
static void look_only(struct run *c, const struct scene *s, unsigned tried)
{
	unsigned flags = c->r.cfg.flags;
	uint64_t writes = dev_sim_writes(c->r.dev);

	c->r.cfg.flags = VOLUME_READ_ONLY;
	must(c, "read-only open", run_open(c));
	c->acked = moment_of(c, s, tried);
	run_close(c);
	assert_int_equal(dev_sim_writes(c->r.dev), writes);
	c->r.cfg.flags = flags;
}

/* After a reboot: recovery, in the middle of which the power may go again.  Returns how many operations are there. */
static unsigned recover(struct run *c, const struct scene *s, unsigned tried, uint64_t second, uint64_t seed)
{
	run_tick(c, s->nops + 1);
	if (!recover_once(c, second)) {
		run_reboot(c, seed + 1);
		assert_true(recover_once(c, 0));
	}
	volume_lock(c->r.v);
	tree_assert(c->r.v->tree);
	alloc_assert(c->r.v->alloc);
	volume_unlock(c->r.v);
	c->acked = moment_of(c, s, tried);
	return c->acked;
}

static void finish(struct run *c)
{
	must(c, "close", run_close(c));
	fsck_must_pass(c, true);
}

/* The rest of the script as if nothing had happened. */
static void go_on(struct run *c, const struct scene *s, unsigned from)
{
	must(c, "open", run_open(c));
	assert_int_equal(live(c, s, from), s->nops);
	c->acked = s->nops;
	moment_of(c, s, s->nops);
	finish(c);
}

/* The power goes at write `cut`, which may also be one of those of closing.  Returns how many operations may have been carried
 * out. */
static unsigned live_until(struct run *c, const struct scene *s, uint64_t cut, uint64_t seed)
{
	run_clone(c, &s->image);
	run_label(c, s, cut, seed);
	must(c, "open", run_open(c));
	dev_sim_cut_after(c->r.dev, cut);
	unsigned tried = live(c, s, 0);

	run_close(c);
	assert_true(dev_sim_is_cut(c->r.dev));
	return tried;
}

static void cut_case(const struct scene *s, uint64_t cut, uint64_t seed)
{
	uint64_t mix = cut * 31 + seed * 7;
	struct run c;
	unsigned tried = live_until(&c, s, cut, seed);

	run_reboot(&c, seed);
	if (mix % 4 == 0)
		fsck_must_pass(&c, false);
	if (mix % 4 == 1)
		look_only(&c, s, tried);
	unsigned k = recover(&c, s, tried, mix % 3 ? 0 : 1 + mix / 3 % 12, seed);
	finish(&c);
	if (mix % 8 == 0 && !s->full)
		go_on(&c, s, k);
	run_destroy(&c);
}

/* All that was written survives but the end of the last write, of which `left` sectors do.  Returns how many it has. */
static uint64_t torn_case(const struct scene *s, uint64_t cut, uint64_t left)
{
	struct run c;
	unsigned tried = live_until(&c, s, cut, left);
	uint64_t sectors = run_reboot_torn(&c, left);

	recover(&c, s, tried, 0, 0);
	finish(&c);
	run_destroy(&c);
	return sectors;
}

/* --- scenes ------------------------------------------------------------------------------------ */

static bool is_long(void)
{
	const char *value = getenv("HOLDFAST_LONG");

	return value && strcmp(value, "1") == 0;
}

static bool is_chosen(uint64_t cut)
{
	const char *only = getenv("HOLDFAST_TEST_CUT");

	return !only || strtoull(only, NULL, 10) == cut;
}

/* From one cut to the next.  AddressSanitizer looks at the code more than at the moment, and takes four times as long. */
static unsigned step_of(unsigned every)
{
#ifdef __SANITIZE_ADDRESS__
	every *= 4;
#endif
	return is_long() || getenv("HOLDFAST_TEST_CUT") ? 1 : every;
}

static void scene_run(struct scene *s)
{
	unsigned survivors = is_long() ? s->survivors * 8 : s->survivors;

	scene_begin(s);
	assert_true(s->writes > 80);
	for (uint64_t cut = 1; cut <= s->writes; cut += step_of(s->every)) {
		for (unsigned i = 0; i < survivors && is_chosen(cut); i++)
			cut_case(s, cut, cut * 1000 + i);
	}
	scene_end(s);
}

static struct scene scene_of(const char *name, uint64_t seed, unsigned every, unsigned survivors)
{
	return (struct scene){
		.name = name,
		.script = script,
		.nops = COUNT(script),
		.bytes = KB(16 << 10),
		.journal_nblocks = 256,
		.sector = 512,
		.seed = seed,
		.every = every,
		.survivors = survivors,
	};
}

static void test_every_write(void **state)
{
	struct scene s = scene_of("every write", 1, 1, 2);

	(void)state;
	scene_run(&s);
}

/* Frames of one write that were whole count, the others do not, wherever it ends. */
static void test_torn_writes(void **state)
{
	struct scene s = scene_of("torn writes", 9, 0, 0);

	(void)state;
	scene_begin(&s);
	for (uint64_t cut = 1; cut <= s.writes; cut += step_of(1)) {
		uint64_t left = 1 + cut % 3, sectors = is_chosen(cut) ? left + 1 : 0;

		while (left < sectors) {
			sectors = torn_case(&s, cut, left);
			left += is_long() ? 1 : 1 + sectors / 5;
		}
	}
	scene_end(&s);
}

static void test_every_operation_synced(void **state)
{
	struct scene s = scene_of("every operation synced", 2, 1, 1);

	(void)state;
	s.sync = true;
	scene_run(&s);
}

static void test_many_checkpoints(void **state)
{
	struct scene s = scene_of("many checkpoints", 3, 4, 1);

	(void)state;
	s.checkpoint = 2;
	scene_run(&s);
}

static void test_in_order(void **state)
{
	struct scene s = scene_of("in order", 4, 2, 1);

	(void)state;
	s.in_order = true;
	scene_run(&s);
}

static void test_large_sectors(void **state)
{
	struct scene s = scene_of("large sectors", 5, 2, 1);

	(void)state;
	s.sector = 4096;
	scene_run(&s);
}

/* Nodes come and go, checkpoints follow each other, and freed blocks are discarded. */
static void test_tiny_cache(void **state)
{
	struct scene s = scene_of("tiny cache", 6, 2, 1);

	(void)state;
	s.cfg = (struct volume_config){.cache_bytes = KB(256), .flags = VOLUME_DISCARD};
	scene_run(&s);
}

static void test_full(void **state)
{
	struct scene s = scene_of("full", 7, 1, 2);

	(void)state;
	s.full = true;
	s.script = full_script;
	s.nops = COUNT(full_script);
	s.bytes = KB(7 << 10);
	s.journal_nblocks = 160;
	scene_run(&s);
}

/* One volume through many power cuts, until the script has come to its end. */
static void lives(const struct scene *s, uint64_t seed)
{
	uint64_t state = seed;
	unsigned done = 0;
	struct run c;

	run_clone(&c, &s->image);
	run_label(&c, s, 0, seed);
	must(&c, "open", run_open(&c));
	for (;;) {
		dev_sim_cut_after(c.r.dev, 1 + sim_random(&state) % (s->writes / 4));
		unsigned tried = live(&c, s, done);

		if (!dev_sim_is_cut(c.r.dev))
			break;
		run_reboot(&c, sim_random(&state));
		done = recover(&c, s, tried, sim_random(&state) % 24, sim_random(&state));
	}
	dev_sim_cut_after(c.r.dev, 0);
	c.acked = s->nops;
	moment_of(&c, s, s->nops);
	finish(&c);
	run_destroy(&c);
}

static void test_many_lives(void **state)
{
	struct scene s = scene_of("many lives", 8, 0, 0);

	(void)state;
	scene_begin(&s);
	for (unsigned i = 0; i < (is_long() ? 1000 : 30); i++)
		lives(&s, i);
	scene_end(&s);
}

/* With arguments it runs a part, so that two can run at a time. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_write),
		cmocka_unit_test(test_torn_writes),
		cmocka_unit_test(test_every_operation_synced),
		cmocka_unit_test(test_many_checkpoints),
		cmocka_unit_test(test_in_order),
		cmocka_unit_test(test_large_sectors),
		cmocka_unit_test(test_tiny_cache),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_many_lives),
	};

	if (argc == 3 && strcmp(argv[1], "--only") == 0)
		cmocka_set_test_filter(argv[2]);
	else if (argc == 3 && strcmp(argv[1], "--skip") == 0)
		cmocka_set_skip_filter(argv[2]);
	else if (argc > 1)
		return 2;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
