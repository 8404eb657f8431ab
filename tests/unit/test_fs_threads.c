/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_fs_threads.c - four threads at the same few names, with a thread that makes checkpoints and removes orphans and one that
 * scrubs, as the daemon has them.  For what a thread sanitizer sees, and for what the items must agree on in the end.
 */
#include <pthread.h>
#include <unistd.h>

#include "tests/unit/names_rig.h"

#include "fs/scrub.h"

#define THREADS 4u
#define OPS 4000u
#define SCRUBS 3u
#define DIRS 6u
#define NAMES 8u

struct shared {
	struct names n;
	uint64_t dir[DIRS];
	_Atomic bool wanted, stop, no_scrub;
	_Atomic unsigned finished; /* workers that have done all their operations */
	_Atomic unsigned done[8]; /* by operation: how many succeeded */
	_Atomic unsigned scrubs;
};

struct worker {
	pthread_t thread;
	struct shared *s;
	struct dev_queue *q;
	uint64_t seed;
};

static unsigned pick(struct worker *w, unsigned n)
{
	w->seed = w->seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (unsigned)(w->seed >> 33) % n;
}

static void want(void *arg)
{
	struct shared *s = arg;

	atomic_store(&s->wanted, true);
}

/* cmocka's asserts belong to its own thread. */
static void must_be(int err, bool allowed)
{
	if (err && !allowed)
		fprintf(stderr, "unexpected error %d\n", err);
	assert(!err || allowed);
}

static int count_only(void *arg, const struct fs_dirent *e)
{
	unsigned *n = arg;

	(void)e;
	return ++*n > 5;
}

static int do_rename(struct worker *w, uint64_t dir, const char *name)
{
	static const unsigned flags[] = {0, 0, RENAME_EXCHANGE, RENAME_NOREPLACE};
	struct shared *s = w->s;
	char to = (char)('a' + pick(w, NAMES));
	int err = fs_rename(s->n.fs, w->q, &names_cred, dir, name, 1, s->dir[pick(w, DIRS)], &to, 1, flags[pick(w, 4)]);

	must_be(err, err == -ENOENT || err == -EEXIST || err == -EISDIR || err == -ENOTDIR ||
			     err == -ENOTEMPTY || err == -EINVAL);
	return err;
}

/* The new name of an inode that somebody else may be removing. */
static int do_link(struct worker *w, uint64_t dir, const char *name)
{
	struct shared *s = w->s;
	char to = (char)('a' + pick(w, NAMES));
	struct fs_attr a, b;
	int err = fs_lookup(s->n.fs, w->q, dir, name, 1, &a);

	must_be(err, err == -ENOENT);
	if (err)
		return err;
	err = fs_link(s->n.fs, w->q, a.ino, s->dir[pick(w, DIRS)], &to, 1, &b);
	must_be(err, err == -EEXIST || err == -ENOENT || err == -EPERM);
	fs_forget(s->n.fs, w->q, a.ino, err ? 1 : 2);
	return err;
}

/* Held across its own removal, it must stay whole. */
static int do_hold(struct worker *w, uint64_t dir, const char *name)
{
	struct fs *fs = w->s->n.fs;
	struct fs_attr a, b;
	int err = fs_lookup(fs, w->q, dir, name, 1, &a);

	must_be(err, err == -ENOENT);
	if (err)
		return err;
	err = fs_unlink(fs, w->q, dir, name, 1);
	must_be(err, err == -ENOENT || err == -EISDIR);
	must_be(fs_getattr(fs, w->q, a.ino, &b), false);
	assert(a.mode == b.mode);
	must_be(fs_setxattr(fs, w->q, a.ino, "user.x", &a, sizeof(a), 0), false);
	fs_forget(fs, w->q, a.ino, 1);
	return err;
}

static void one_op(struct worker *w)
{
	struct shared *s = w->s;
	struct fs *fs = s->n.fs;
	uint64_t dir = s->dir[pick(w, DIRS)];
	char name = (char)('a' + pick(w, NAMES));
	unsigned op = pick(w, 8), seen = 0;
	struct fs_attr a;
	int err;

	switch (op) {
	case 0:
	case 1:
		err = fs_create(fs, w->q, &names_cred, dir, &name, 1, op ? S_IFDIR : S_IFREG, 0, &a);
		must_be(err, err == -EEXIST);
		if (!err)
			fs_forget(fs, w->q, a.ino, 1);
		break;
	case 2:
		err = fs_unlink(fs, w->q, dir, &name, 1);
		must_be(err, err == -ENOENT || err == -EISDIR);
		break;
	case 3:
		err = fs_rmdir(fs, w->q, dir, &name, 1);
		must_be(err, err == -ENOENT || err == -ENOTDIR || err == -ENOTEMPTY);
		break;
	case 4:
		err = do_rename(w, dir, &name);
		break;
	case 5:
		err = do_link(w, dir, &name);
		break;
	case 6:
		err = do_hold(w, dir, &name);
		break;
	default:
		err = fs_readdir(fs, w->q, dir, 0, false, count_only, &seen);
		must_be(err, false);
	}
	if (!err)
		atomic_fetch_add(&s->done[op], 1);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < OPS || atomic_load(&w->s->scrubs) < SCRUBS; i++)
		one_op(w);
	/* Its queue may carry the log's writes, which others wait for: it is served to the end. */
	atomic_fetch_add(&w->s->finished, 1);
	while (!atomic_load(&w->s->stop))
		dev_poll(w->q, 1);
	return NULL;
}

/* The daemon's background thread. */
static void *background(void *arg)
{
	struct worker *w = arg;
	struct shared *s = w->s;

	while (!atomic_load(&s->stop)) {
		if (atomic_exchange(&s->wanted, false))
			assert(!volume_checkpoint(s->n.r.v, w->q, 0));
		fs_service(s->n.fs, w->q);
		dev_poll(w->q, 1);
	}
	return NULL;
}

static bool scrub_cancelled(void *arg)
{
	return atomic_load(&((struct worker *)arg)->s->no_scrub);
}

/* Finds nothing, whatever the others do meanwhile. */
static void *scrubber(void *arg)
{
	struct worker *w = arg;
	struct scrub_config cfg = {.cancelled = scrub_cancelled, .arg = w};
	struct scrub_result r;

	while (!atomic_load(&w->s->no_scrub)) {
		int err = scrub_run(w->s->n.fs, w->q, &cfg, &r);

		must_be(err, err == -ECANCELED);
		assert(scrub_is_clean(&r) && !r.bad_copies);
		atomic_fetch_add(&w->s->scrubs, err == 0);
	}
	return NULL;
}

static void open_on_file(struct shared *s, struct dev **dev)
{
	char path[] = "/tmp/holdfast-test-threads-XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 64 << 20), 0);
	assert_int_equal(dev_open_fd(fd, path, DEV_ENGINE_THREADS, DEV_OPEN_BUFFERED, NULL, dev), 0);
	unlink(path);
	s->n.r.dev = *dev;
	s->n.r.q = rig_queue(*dev);
	rig_format(s->n.r.q, 0);
	/* A cache of 1 MiB, so that operations miss and interleave; the checkpoints come from the thread. */
	s->n.r.cfg = (struct volume_config){.cache_bytes = MEGABYTE, .want_checkpoint = want, .arg = s};
	assert_int_equal(volume_open(s->n.r.q, &s->n.r.cfg, NULL, &s->n.r.v), 0);
	names_open(&s->n);
}

static void four_threads(void **state)
{
	struct shared *s = calloc(1, sizeof(*s));
	static void *(*const extra[])(void *arg) = {background, scrubber};
	struct worker w[THREADS + 2];
	struct dev *dev;

	(void)state;
	open_on_file(s, &dev);
	for (unsigned i = 0; i < DIRS; i++)
		s->dir[i] = make(&s->n, INO_ROOT, (char[]){(char)('0' + i), 0}, S_IFDIR | 0755);
	for (unsigned i = 0; i < THREADS + 2; i++) {
		w[i] = (struct worker){.s = s, .q = rig_queue(dev), .seed = i + 1};
		assert_int_equal(pthread_create(&w[i].thread, NULL, i < THREADS ? work : extra[i - THREADS], &w[i]), 0);
	}
	while (atomic_load(&s->finished) < THREADS)
		dev_poll(s->n.q, 1);
	/* What the background thread has in hand is still known; then nothing is. */
	for (unsigned i = 0; i < 1000 && known(&s->n); i++) {
		fs_service(s->n.fs, s->n.q);
		dev_poll(s->n.q, 1);
	}
	assert_int_equal(known(&s->n), 0);
	for (unsigned i = 0; i < 8; i++)
		assert_true(atomic_load(&s->done[i]) > 0);
	assert_true(atomic_load(&s->scrubs) >= SCRUBS);
	names_check(&s->n);
	/* A scrub may wait for a checkpoint: it ends first. */
	atomic_store(&s->no_scrub, true);
	pthread_join(w[THREADS + 1].thread, NULL);
	atomic_store(&s->stop, true);
	for (unsigned i = 0; i <= THREADS; i++)
		pthread_join(w[i].thread, NULL);
	/* From here on nobody else makes checkpoints. */
	s->n.r.v->want_checkpoint_fn = NULL;
	fs_close(s->n.fs, s->n.q);
	for (unsigned i = 0; i < THREADS + 2; i++)
		dev_queue_destroy(w[i].q);
	rig_destroy(&s->n.r);
	free(s);
}

/* --- a name that goes while what a truncation has left is being removed ------------------------------------------------------- */

#define TRIMMED 6000u

struct trimming {
	struct names *n;
	struct dev_queue *q;
	_Atomic unsigned turn, served; /* trials begun; ended by the other thread */
	_Atomic unsigned last; /* trials whose last transaction has been made */
	_Atomic bool stop;
};

static void *trimmer(void *arg)
{
	struct trimming *t = arg;
	unsigned turn = 0;

	while (!atomic_load(&t->stop)) {
		dev_poll(t->q, 0);
		if (atomic_load(&t->turn) == turn)
			continue;
		while (fs_service(t->n->fs, t->q))
			;
		atomic_store(&t->served, ++turn);
	}
	return NULL;
}

/* With the lock held, which is let go in a moment. */
static void trim_is_over(void *arg)
{
	atomic_fetch_add(&((struct trimming *)arg)->last, 1);
}

/* As after a crash in the middle of a truncation; and trim_is_over() is called when the next transaction has been made. */
static uint64_t make_trimmed(struct names *n)
{
	struct volume *v = n->r.v;
	struct miss miss;
	struct txn t;

	assert_int_equal(try_create(n, INO_ROOT, "x", S_IFREG | 0644), 0);
	volume_lock(v);
	struct inode *inode = inode_find(n->fs, n->attr.ino);
	txn_begin(&t, v);
	orphan_put(&t, inode->ino);
	assert_int_equal(txn_commit(&t, n->q, 0, &miss, NULL, NULL), 0);
	txn_end(&t);
	inode->trimming = true;
	reap_queue(n->fs, inode);
	v->watch.below = UINT64_MAX;
	v->watch.low = false;
	volume_unlock(v);
	return n->attr.ino;
}

/* Whoever ends the truncation must not take it for the removal of the file. */
static void unlinked_at_the_end_of_a_truncation(void **state)
{
	struct shared *s = calloc(1, sizeof(*s));
	struct names *n = &s->n;
	struct trimming t = {.n = n};
	pthread_t thread;
	struct dev *dev;

	(void)state;
	open_on_file(s, &dev);
	t.q = rig_queue(dev);
	n->r.v->watch = (struct volume_watch){.fn = trim_is_over, .arg = &t};
	assert_int_equal(pthread_create(&thread, NULL, trimmer, &t), 0);
	for (unsigned i = 0; i < TRIMMED; i++) {
		uint64_t ino = make_trimmed(n);
		bool before = i % 16 == 0;

		if (before)
			assert_int_equal(try_unlink(n, INO_ROOT, "x"), 0);
		atomic_fetch_add(&t.turn, 1);
		while (atomic_load(&t.last) == i)
			;
		for (volatile unsigned wait = i % 64; wait; wait--)
			;
		if (!before)
			assert_int_equal(try_unlink(n, INO_ROOT, "x"), 0);
		while (atomic_load(&t.served) == i)
			;
		fs_forget(n->fs, n->q, ino, 1);
		while (fs_service(n->fs, n->q))
			;
		assert_int_equal(fs_getattr(n->fs, n->q, ino, &n->attr), -ESTALE);
		assert_int_equal(known(n), 0);
		if (atomic_exchange(&s->wanted, false))
			assert_int_equal(volume_checkpoint(n->r.v, n->q, 0), 0);
	}
	names_check(n);
	atomic_store(&t.stop, true);
	pthread_join(thread, NULL);
	n->r.v->watch = (struct volume_watch){0};
	n->r.v->want_checkpoint_fn = NULL;
	fs_close(n->fs, n->q);
	dev_queue_destroy(t.q);
	rig_destroy(&n->r);
	free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(four_threads), cmocka_unit_test(unlinked_at_the_end_of_a_truncation)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
