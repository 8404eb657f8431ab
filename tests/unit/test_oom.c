/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_oom.c - memory runs out: the n-th allocation fails, once or from then on, for each n until none fires.
 *
 * Each run is a life on a copy of a volume whose journal holds changes: replay, every kind of operation, a checkpoint, closing; or a check;
 * or a repair.  Whatever fails must say so, and afterwards, with memory, the volume opens, fsck has nothing to say, and what was
 * synced is there.  The linker leads the allocations of all that is linked statically here (--wrap), the simulated device's too.
 *
 * Up to EVERY each n is tried, then every STRIDE-th; HOLDFAST_LONG=1: each.
 */
#include "tests/unit/fsck_hits.h"

#include <errno.h>

#include "fsck/repair.h"

#define EVERY  40u
#define STRIDE 13u

/* --- allocations ------------------------------------------------------------------------------- */

static struct {
	unsigned long n, at;	/* seen since it was armed; which fails, 0: not armed */
	bool sticky, fired;
} oom;

static bool refuse(void)
{
	if (!oom.at)
		return false;
	oom.n++;
	bool now = oom.sticky ? oom.n >= oom.at : oom.n == oom.at;

	oom.fired = oom.fired || now;
	if (now)
		errno = ENOMEM;
	return now;
}

static void arm(unsigned long at, bool sticky)
{
	oom.n = 0;
	oom.at = at;
	oom.sticky = sticky;
	oom.fired = false;
}

static bool disarm(void)
{
	oom.at = 0;
	return oom.fired;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_reallocarray(void *p, size_t n, size_t size);
void *__real_aligned_alloc(size_t align, size_t n);
int __real_posix_memalign(void **out, size_t align, size_t n);
char *__real_strdup(const char *s);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_reallocarray(void *p, size_t n, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t n);
int __wrap_posix_memalign(void **out, size_t align, size_t n);
char *__wrap_strdup(const char *s);

void *__wrap_malloc(size_t n)
{
	return refuse() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return refuse() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
	return refuse() ? NULL : __real_realloc(p, n);
}

void *__wrap_reallocarray(void *p, size_t n, size_t size)
{
	return refuse() ? NULL : __real_reallocarray(p, n, size);
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
	return refuse() ? NULL : __real_aligned_alloc(align, n);
}

int __wrap_posix_memalign(void **out, size_t align, size_t n)
{
	return refuse() ? ENOMEM : __real_posix_memalign(out, align, n);
}

char *__wrap_strdup(const char *s)
{
	return refuse() ? NULL : __real_strdup(s);
}

/* --- a life ------------------------------------------------------------------------------------ */

#define BODY "what the file holds"

static char big[3 * BLOCK_SIZE];

/* -EIO and -EROFS: the journal could not be written, so the volume is frozen. */
static int allowed(int err)
{
	assert_true(!err || err == -ENOMEM || err == -EIO || err == -EROFS);
	return err;
}

static void bytes_allowed(ssize_t n, size_t len)
{
	assert_true(n == (ssize_t)len || n < 0);
	if (n < 0)
		allowed((int)n);
}

static int fill_none(void *arg, const struct fs_dirent *e)
{
	(void)arg;
	(void)e;
	return 0;
}

/* True: the file and its contents are durable. */
static bool life_promise(struct fs *fs, struct dev_queue *q)
{
	const struct fs_cred cred = {.uid = 0, .gid = 0};
	struct fs_attr attr;

	if (allowed(fs_create(fs, q, &cred, INO_ROOT, "kept", 4, S_IFREG | 0644, 0, &attr)))
		return false;
	bool ok = fs_pwrite(fs, q, attr.ino, BODY, sizeof(BODY), 0) == (ssize_t)sizeof(BODY) && !allowed(fs_sync(fs, q, attr.ino, false));

	fs_forget(fs, q, attr.ino, 1);
	return ok;
}

static void life_names(struct fs *fs, struct dev_queue *q)
{
	const struct fs_cred cred = {.uid = 0, .gid = 0};
	struct fs_attr dir, attr;

	if (!allowed(fs_symlink(fs, q, &cred, INO_ROOT, "sym", 3, "target", &attr)))
		fs_forget(fs, q, attr.ino, 1);
	if (allowed(fs_create(fs, q, &cred, INO_ROOT, "new", 3, S_IFDIR | 0755, 0, &dir)))
		return;
	if (!allowed(fs_create(fs, q, &cred, dir.ino, "a", 1, S_IFREG | 0644, 0, &attr))) {
		struct fs_attr again;

		if (!allowed(fs_link(fs, q, attr.ino, dir.ino, "b", 1, &again)))
			fs_forget(fs, q, attr.ino, 1);
		if (!allowed(fs_rename(fs, q, NULL, dir.ino, "a", 1, INO_ROOT, "moved", 5, 0)))
			allowed(fs_unlink(fs, q, INO_ROOT, "moved", 5));
		fs_forget(fs, q, attr.ino, 1);
	}
	allowed(fs_readdir(fs, q, INO_ROOT, 0, false, fill_none, NULL));
	if (!allowed(fs_create(fs, q, &cred, dir.ino, "d", 1, S_IFDIR | 0755, 0, &attr))) {
		fs_forget(fs, q, attr.ino, 1);
		allowed(fs_rmdir(fs, q, dir.ino, "d", 1));
	}
	fs_forget(fs, q, dir.ino, 1);
}

static void life_contents(struct fs *fs, struct dev_queue *q)
{
	const struct fs_cred cred = {.uid = 0, .gid = 0};
	struct fs_attr attr, set = {.size = 5000, .mode = S_IFREG | 0600};
	char value[3000] = "value";
	size_t len = sizeof(value);

	if (allowed(fs_create(fs, q, &cred, INO_ROOT, "data", 4, S_IFREG | 0644, 0, &attr)))
		return;
	uint64_t ino = attr.ino;

	bytes_allowed(fs_pwrite(fs, q, ino, big, sizeof(big), 0), sizeof(big));
	bytes_allowed(fs_pwrite(fs, q, ino, big, 100, 2000), 100);
	ssize_t got = fs_pread(fs, q, ino, big, sizeof(big), 0);
	allowed(got < 0 ? (int)got : 0);
	allowed(fs_fallocate(fs, q, ino, FALLOC_FL_KEEP_SIZE, 8 * BLOCK_SIZE, 2 * BLOCK_SIZE));
	allowed(fs_fallocate(fs, q, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BLOCK_SIZE));
	allowed(fs_setattr(fs, q, ino, FS_SET_SIZE | FS_SET_MODE, &set, &attr));
	if (!allowed(fs_setxattr(fs, q, ino, BIG_XATTR, value, sizeof(value), 0)) &&
	    !allowed(fs_getxattr(fs, q, ino, BIG_XATTR, value, &len)))
		allowed(fs_removexattr(fs, q, ino, BIG_XATTR));
	fs_forget(fs, q, ino, 1);
}

static bool life(struct bench *b)
{
	struct fs_config cfg = {0};
	struct volume *v;
	struct fs *fs;
	bool promised = false;

	if (allowed(volume_open(b->r.q, &b->r.cfg, &b->r.diag, &v)))
		return false;
	if (!allowed(fs_open(v, b->r.q, &cfg, &fs))) {
		promised = life_promise(fs, b->r.q);
		life_names(fs, b->r.q);
		life_contents(fs, b->r.q);
		allowed(volume_checkpoint(v, b->r.q, CHECKPOINT_FORCE));
		fs_close(fs, b->r.q);
	}
	allowed(volume_close(v, b->r.q));
	return promised;
}

/* --- what is left ------------------------------------------------------------------------------ */

static void file_is_there(struct fs *fs, struct dev_queue *q, const char *name)
{
	struct fs_attr attr;
	char body[sizeof(BODY)] = "";

	assert_int_equal(fs_lookup(fs, q, INO_ROOT, name, strlen(name), &attr), 0);
	assert_int_equal(fs_pread(fs, q, attr.ino, body, sizeof(body), 0), sizeof(body));
	assert_string_equal(body, BODY);
	fs_forget(fs, q, attr.ino, 1);
}

static void check_clean(struct bench *b)
{
	struct fsck_opts opts = {.data = true, .diag = &b->r.diag};
	struct fsck_result res;

	assert_int_equal(fsck_check(b->r.q, &opts, &res), 0);
	assert_int_equal(res.nerrors, 0);
}

static void look_after(struct bench *b, bool promised)
{
	struct fs_config cfg = {0};
	struct fs *fs;

	bench_open(b);
	assert_int_equal(fs_open(b->r.v, b->r.q, &cfg, &fs), 0);
	file_is_there(fs, b->r.q, "before");
	if (promised)
		file_is_there(fs, b->r.q, "kept");
	fs_close(fs, b->r.q);
	bench_close(b);
	check_clean(b);
}

/* --- runs -------------------------------------------------------------------------------------- */

static unsigned long next(unsigned long n)
{
	const char *full = getenv("HOLDFAST_LONG");

	return n + (n < EVERY || (full && *full == '1') ? 1 : STRIDE);
}

/* A volume that was not unmounted; "before" was synced. */
static void make_pending(struct bench *b)
{
	const struct fs_cred cred = {.uid = 0, .gid = 0};
	struct fs_config cfg = {0};
	struct fs_attr attr;
	struct fs *fs;

	bench_create(b);
	bench_open(b);
	assert_int_equal(fs_open(b->r.v, b->r.q, &cfg, &fs), 0);
	assert_int_equal(fs_create(fs, b->r.q, &cred, INO_ROOT, "before", 6, S_IFREG | 0644, 0, &attr), 0);
	assert_int_equal(fs_pwrite(fs, b->r.q, attr.ino, BODY, sizeof(BODY), 0), sizeof(BODY));
	assert_int_equal(fs_sync(fs, b->r.q, 0, false), 0);
	dev_sim_cut(b->r.dev);
	fs_close(fs, b->r.q);
	rig_after_cut(&b->r, 1);
}

static void run_life(bool sticky)
{
	struct bench base, b;
	bool fired = true;

	make_pending(&base);
	for (unsigned long n = 1; fired; n = next(n)) {
		bench_clone(&b, &base);
		arm(n, sticky);
		bool promised = life(&b);
		fired = disarm();
		if (getenv("HOLDFAST_TEST_VERBOSE"))
			fprintf(stderr, "life, allocation %lu%s: %s\n", n, sticky ? " and on" : "", promised ? "promised" : "-");
		look_after(&b, promised);
		rig_destroy(&b.r);
	}
	rig_destroy(&base.r);
}

static void run_fsck(const struct hit *hit, bool sticky)
{
	struct bench base, b;
	bool fired = true;

	bench_create(&base);
	if (hit)
		hit->run(&base);
	for (unsigned long n = 1; fired; n = next(n)) {
		struct fsck_opts opts = {.data = true, .heal = true, .try_replay = true, .diag = &base.r.diag};
		struct repair_opts ropts = {.all = true, .diag = &base.r.diag};
		struct repair_result rr;
		struct fsck_result res;

		bench_clone(&b, &base);
		arm(n, sticky);
		int err = fsck_check(b.r.q, &opts, &res);
		if (!err)
			err = fsck_repair(b.r.q, &res, &ropts, &rr);
		fired = disarm();
		assert_true(!err || (fired && (err == -ENOMEM || err == -EIO)));
		/* A repair with memory makes good what is left. */
		assert_int_equal(fsck_check(b.r.q, &opts, &res), 0);
		assert_int_equal(fsck_repair(b.r.q, &res, &ropts, &rr), 0);
		check_clean(&b);
		rig_destroy(&b.r);
	}
	rig_destroy(&base.r);
}

/* --- what cannot be removed -------------------------------------------------------------------- */

static void count_calls(void *arg)
{
	++*(unsigned *)arg;
}

/* Who works in the background is not asked to try the same again at once, and again; what is left is done after a pause. */
static void test_a_removal_waits_for_memory(void **state)
{
	const struct fs_cred cred = {.uid = 0, .gid = 0};
	unsigned calls = 0;
	struct fs_config cfg = {.want_service = count_calls, .service_arg = &calls};
	struct fs_attr attr;
	struct bench b;
	struct fs *fs;

	(void)state;
	bench_create(&b);
	bench_open(&b);
	struct dev_queue *q = b.r.q;
	assert_int_equal(fs_open(b.r.v, q, &cfg, &fs), 0);
	assert_int_equal(fs_create(fs, q, &cred, INO_ROOT, "gone", 4, S_IFREG | 0644, 0, &attr), 0);
	assert_int_equal(fs_pwrite(fs, q, attr.ino, big, sizeof(big), 0), sizeof(big));
	assert_int_equal(fs_unlink(fs, q, INO_ROOT, "gone", 4), 0);
	assert_false(fs_service_left(fs));
	arm(1, true);
	fs_forget(fs, q, attr.ino, 1);
	assert_int_equal(calls, 1);
	for (unsigned i = 0; i < 3; i++)
		assert_false(fs_service(fs, q));
	assert_true(disarm());
	assert_int_equal(calls, 1);
	assert_true(fs_service_left(fs));
	while (fs_service(fs, q))
		;
	assert_false(fs_service_left(fs));
	assert_int_equal(fs_getattr(fs, q, attr.ino, &attr), -ESTALE);
	fs_close(fs, q);
	bench_close(&b);
	check_clean(&b);
	rig_destroy(&b.r);
}

static void test_life_once(void **state)
{
	(void)state;
	run_life(false);
}

static void test_life_from_then_on(void **state)
{
	(void)state;
	run_life(true);
}

/* A slot that could not be read for want of memory is not one whose root is bad: the other's is older. */
static void test_no_older_root(void **state)
{
	auto_free struct disk_root *root = dev_alloc(BLOCK_SIZE, false);
	bool fired = true;
	uint64_t newest;
	struct super sb;
	struct bench b;

	(void)state;
	/* The newest in the one slot, and in the other. */
	for (unsigned turn = 0; turn < 2; turn++) {
		bench_create(&b);
		bench_open(&b);
		for (unsigned i = 0; i < turn; i++)
			assert_int_equal(volume_checkpoint(b.r.v, b.r.q, CHECKPOINT_FORCE), 0);
		bench_close(&b);
		assert_int_equal(volume_read_super(b.r.q, &b.r.diag, &sb), 0);
		assert_int_equal(volume_read_root(b.r.q, &sb, &b.r.diag, false, root), 0);
		newest = get64(root->h.generation);
		fired = true;
		for (unsigned long n = 1; fired; n++) {
			arm(n, false);
			int err = volume_read_root(b.r.q, &sb, &b.r.diag, false, root);
			fired = disarm();
			assert_int_equal(err, fired ? -ENOMEM : 0);
			assert_true(err || get64(root->h.generation) == newest);
		}
		rig_destroy(&b.r);
	}
}

/* Of each way to repair, one that all is well after. */
static void test_repair(void **state)
{
	unsigned done = 0;

	(void)state;
	run_fsck(NULL, false);
	for (unsigned i = 0; i < nhits && done < 3; i++) {
		if (hits[i].mend != LOSES)
			continue;
		run_fsck(&hits[i], done++ & 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_removal_waits_for_memory),
		cmocka_unit_test(test_life_once),
		cmocka_unit_test(test_life_from_then_on),
		cmocka_unit_test(test_repair),
		cmocka_unit_test(test_no_older_root),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
