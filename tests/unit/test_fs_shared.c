/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_fs_shared.c - operations that only read share the volume's lock: they do not wait for each other, and what they find is one moment's,
 * whatever others change meanwhile.  Also for what a thread sanitizer sees.
 */
#include <pthread.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/unit/names_rig.h"

#define READERS 3u
#define WRITERS 2u
#define ROUNDS 1500u /* of each writer */
#define NAMES 40u /* in a directory that comes and goes */
#define SMALL 600u /* inline */
#define LARGE (160u << 10) /* straight to its home */
#define KNOWN 2600u /* more than the table of known inodes begins with */

struct shared {
	struct names n;
	struct dev *dev;
	struct dev_queue *background_q;
	pthread_t background;
	uint64_t dir, attrs, contents, x, y, link;
	_Atomic bool wanted, stop, quiet, no_background;
	_Atomic unsigned writers, readers;
	_Atomic unsigned looks[8], lengths[3];
	_Atomic unsigned vanished;
};

struct worker {
	pthread_t thread;
	struct shared *s;
	struct dev_queue *q;
	uint64_t seed;
	unsigned index;
	uint8_t *buf;
	_Atomic bool *done;
};

static unsigned pick(struct worker *w, unsigned n)
{
	w->seed = w->seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (unsigned)(w->seed >> 33) % n;
}

/* cmocka's asserts belong to its own thread. */
static void must_be(int err, bool allowed)
{
	if (err && !allowed)
		fprintf(stderr, "unexpected error %d\n", err);
	assert(!err || allowed);
}

static void want(void *arg)
{
	struct shared *s = arg;

	atomic_store(&s->wanted, true);
}

/* --- those who change ------------------------------------------------------------------------------ */

static const size_t lengths[] = {SMALL, 2 * BLOCK_SIZE, LARGE};

/* Every version is of one byte. */
static void write_contents(struct worker *w, unsigned round)
{
	struct fs *fs = w->s->n.fs;
	size_t len = lengths[pick(w, 3)];
	struct fs_attr in = {.size = len}, out;

	memset(w->buf, (int)(1 + round % 255), len);
	assert(fs_pwrite(fs, w->q, w->s->contents, w->buf, len, 0) == (ssize_t)len);
	/* What was longer has another byte behind that, until here. */
	must_be(fs_setattr(fs, w->q, w->s->contents, FS_SET_SIZE, &in, &out), false);
}

static void set_attrs(struct worker *w, unsigned round)
{
	struct fs_attr in = {.uid = round, .gid = round, .mtime = {.tv_sec = round}}, out;
	char value[300];

	must_be(fs_setattr(w->s->n.fs, w->q, w->s->attrs, FS_SET_UID | FS_SET_GID | FS_SET_MTIME, &in, &out), false);
	memset(value, (int)round, sizeof(value));
	must_be(fs_setxattr(w->s->n.fs, w->q, w->s->attrs, "user.v", value, 1 + pick(w, sizeof(value)), 0), false);
}

static void change_names(struct worker *w)
{
	struct shared *s = w->s;
	char name = (char)('0' + pick(w, NAMES));
	struct fs_attr attr;
	int err;

	must_be(fs_rename(s->n.fs, w->q, NULL, INO_ROOT, "x", 1, INO_ROOT, "y", 1, RENAME_EXCHANGE), false);
	err = fs_create(s->n.fs, w->q, &names_cred, s->dir, &name, 1, S_IFREG | 0600, 0, &attr);
	must_be(err, err == -EEXIST);
	if (!err)
		fs_forget(s->n.fs, w->q, attr.ino, 1);
	name = (char)('0' + pick(w, NAMES));
	err = fs_unlink(s->n.fs, w->q, s->dir, &name, 1);
	must_be(err, err == -ENOENT);
}

static void *write_all(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		if (w->index == 0)
			write_contents(w, i);
		else
			set_attrs(w, i);
		change_names(w);
		dev_poll(w->q, 0);
	}
	atomic_fetch_sub(&w->s->writers, 1);
	while (!atomic_load(&w->s->stop))
		dev_poll(w->q, 1);
	return NULL;
}

/* --- those who look --------------------------------------------------------------------------------- */

struct wait {
	struct fs_io io;
	struct dev_event done;
};

static void io_done(struct fs_io *io)
{
	dev_event_set(&((struct wait *)io)->done);
}

/* One read, which is one moment's: of the file's beginning, one version. */
static void look_at_contents(struct worker *w)
{
	struct wait r = {.io = {.ino = w->s->contents, .len = LARGE, .buf = w->buf, .done = io_done}};

	dev_event_init(&r.done, w->q);
	fs_read(w->s->n.fs, w->q, &r.io);
	dev_event_wait(&r.done);
	assert(r.io.result >= 0);
	const uint8_t *got = r.io.data;
	size_t len = (size_t)r.io.result, same = 0;

	while (same < len && got[same] == got[0])
		same++;
	assert(len == 0 || got[0] != 0);
	/* All of it, or a shorter version in front of a longer one. */
	for (unsigned i = 0; i < 3; i++) {
		if (same == lengths[i])
			atomic_fetch_add(&w->s->lengths[i], 1);
		else if (i == 2)
			assert(same == 0 || same == lengths[0] || same == lengths[1]);
	}
	for (size_t i = same; i < len; i++)
		assert(got[i] == got[len - 1]);
}

static void look_at_attrs(struct worker *w)
{
	struct fs_attr a;

	must_be(fs_getattr(w->s->n.fs, w->q, w->s->attrs, &a), false);
	assert(a.uid == a.gid && a.mtime.tv_sec == a.uid);
}

static void look_at_xattr(struct worker *w)
{
	uint8_t value[300];
	size_t len = sizeof(value);
	int err = fs_getxattr(w->s->n.fs, w->q, w->s->attrs, "user.v", value, &len);

	must_be(err, err == -ENODATA);
	for (size_t i = 0; !err && i < len; i++)
		assert(value[i] == value[0]);
	len = sizeof(value);
	must_be(fs_listxattr(w->s->n.fs, w->q, w->s->attrs, true, (char *)value, &len), false);
	assert(len == 0 || len == sizeof("user.v"));
}

static void look_up_exchanged(struct worker *w)
{
	struct shared *s = w->s;
	struct fs_attr a;

	must_be(fs_lookup(s->n.fs, w->q, INO_ROOT, pick(w, 2) ? "x" : "y", 1, &a), false);
	assert(a.ino == s->x || a.ino == s->y);
	fs_forget(s->n.fs, w->q, a.ino, 1);
}

/* Nobody else holds most of them: they become known here, to several at once. */
static void look_up_passing(struct worker *w)
{
	struct shared *s = w->s;
	char name = (char)('0' + pick(w, NAMES));
	struct fs_attr a, b;
	int err = fs_lookup(s->n.fs, w->q, s->dir, &name, 1, &a);

	must_be(err, err == -ENOENT);
	if (err)
		return;
	/* Held, it stays, with or without a name. */
	must_be(fs_getattr(s->n.fs, w->q, a.ino, &b), false);
	assert(b.mode == a.mode && b.generation == a.generation);
	atomic_fetch_add(&s->vanished, b.nlink == 0);
	fs_forget(s->n.fs, w->q, a.ino, 1);
}

struct list {
	struct worker *w;
	uint64_t ino[2 * NAMES];
	unsigned n;
};

static int list_add(void *arg, const struct fs_dirent *e)
{
	struct list *l = arg;

	if (l->n == NAMES / 2)
		return 1;
	if (e->attr) {
		assert(e->attr->ino == e->ino && S_ISREG(e->attr->mode) && e->attr->nlink == 1);
		l->ino[l->n++] = e->ino;
	}
	return 0;
}

static void list_names(struct worker *w)
{
	struct list l = {.w = w};

	must_be(fs_readdir(w->s->n.fs, w->q, w->s->dir, 0, true, list_add, &l), false);
	while (l.n)
		fs_forget(w->s->n.fs, w->q, l.ino[--l.n], 1);
}

static void look_at_link(struct worker *w)
{
	char target[MAX_SYMLINK + 1];

	must_be(fs_readlink(w->s->n.fs, w->q, w->s->link, target), false);
	assert(!strcmp(target, "where it leads"));
}

static void look_at_space(struct worker *w)
{
	struct fs_statfs sf;

	must_be(fs_statfs(w->s->n.fs, &sf), false);
	assert(sf.bfree <= sf.blocks && sf.bavail <= sf.bfree);
	assert(!fs_has_flags(w->s->n.fs));
}

static void (*const looks[])(struct worker *w) = {look_at_contents, look_at_attrs, look_at_xattr, look_up_exchanged,
						  look_up_passing,  list_names,    look_at_link,  look_at_space};
#define NLOOKS (sizeof(looks) / sizeof(looks[0]))

static void *look_at_all(void *arg)
{
	struct worker *w = arg;

	while (atomic_load(&w->s->writers)) {
		unsigned i = pick(w, NLOOKS);

		looks[i](w);
		atomic_fetch_add(&w->s->looks[i], 1);
		dev_poll(w->q, 0);
	}
	atomic_fetch_sub(&w->s->readers, 1);
	while (!atomic_load(&w->s->stop))
		dev_poll(w->q, 1);
	return NULL;
}

/* --- the volume ------------------------------------------------------------------------------------- */

/* More checkpoints than anybody asks for.  Orphans are for another thread, which may have to wait for one. */
static void *background(void *arg)
{
	struct shared *s = arg;

	for (unsigned i = 0; !atomic_load(&s->no_background); i++) {
		if (atomic_exchange(&s->wanted, false) || i % 8 == 0)
			assert(!volume_checkpoint(s->n.r.v, s->background_q, CHECKPOINT_FORCE));
		do
			dev_poll(s->background_q, 1);
		while (atomic_load(&s->quiet));
	}
	atomic_store(&s->no_background, false);
	return NULL;
}

static uint64_t made(struct shared *s, const char *name, uint32_t mode)
{
	assert_int_equal(try_create(&s->n, INO_ROOT, name, mode), 0);
	return s->n.attr.ino;
}

static struct shared *shared_open(uint64_t cache_bytes)
{
	struct shared *s = calloc(1, sizeof(*s));
	char path[] = "/tmp/holdfast-test-shared-XXXXXX";
	int fd = mkstemp(path);

	assert_non_null(s);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 64 << 20), 0);
	assert_int_equal(dev_open_fd(fd, path, DEV_ENGINE_THREADS, DEV_OPEN_BUFFERED, NULL, &s->dev), 0);
	unlink(path);
	s->n.r.dev = s->dev;
	s->n.r.q = rig_queue(s->dev);
	rig_format(s->n.r.q, 0);
	s->n.r.cfg = (struct volume_config){.cache_bytes = cache_bytes, .want_checkpoint = want, .arg = s};
	assert_int_equal(volume_open(s->n.r.q, &s->n.r.cfg, NULL, &s->n.r.v), 0);
	names_open(&s->n);
	s->background_q = rig_queue(s->dev);
	s->dir = made(s, "dir", S_IFDIR | 0755);
	s->attrs = made(s, "attrs", S_IFREG | 0644);
	s->contents = made(s, "contents", S_IFREG | 0644);
	s->x = made(s, "x", S_IFREG | 0644);
	s->y = made(s, "y", S_IFDIR | 0755);
	assert_int_equal(fs_symlink(s->n.fs, s->n.q, &names_cred, INO_ROOT, "link", 4, "where it leads", &s->n.attr), 0);
	s->link = s->n.attr.ino;
	struct fs_attr in = {.mtime = {.tv_sec = 0}};
	assert_int_equal(fs_setattr(s->n.fs, s->n.q, s->attrs, FS_SET_UID | FS_SET_GID | FS_SET_MTIME, &in, &s->n.attr), 0);
	assert_int_equal(pthread_create(&s->background, NULL, background, s), 0);
	return s;
}

static void worker_start(struct shared *s, struct worker *w, unsigned index, void *(*run)(void *arg))
{
	*w = (struct worker){.s = s, .q = rig_queue(s->dev), .seed = index + 1, .index = index};
	w->buf = dev_alloc(FS_READ_ROOM(LARGE), true);
	assert_non_null(w->buf);
	assert_int_equal(pthread_create(&w->thread, NULL, run, w), 0);
}

/* Every queue may carry what a checkpoint waits for: that ends first. */
static void shared_close(struct shared *s, struct worker *w, unsigned n)
{
	while (fs_service(s->n.fs, s->n.q))
		;
	atomic_store(&s->no_background, true);
	while (atomic_load(&s->no_background))
		dev_poll(s->n.q, 1);
	atomic_store(&s->stop, true);
	for (unsigned i = 0; i < n; i++)
		pthread_join(w[i].thread, NULL);
	pthread_join(s->background, NULL);
	s->n.r.v->want_checkpoint_fn = NULL;
	const uint64_t mine[] = {s->dir, s->attrs, s->contents, s->x, s->y, s->link};
	for (unsigned i = 0; i < 6; i++)
		fs_forget(s->n.fs, s->n.q, mine[i], 1);
	while (fs_service(s->n.fs, s->n.q))
		;
	assert_int_equal(known(&s->n), 0);
	names_check(&s->n);
	fs_close(s->n.fs, s->n.q);
	for (unsigned i = 0; i < n; i++) {
		dev_queue_destroy(w[i].q);
		free(w[i].buf);
	}
	dev_queue_destroy(s->background_q);
	rig_destroy(&s->n.r);
	free(s);
}

/* --- the tests -------------------------------------------------------------------------------------- */

/* In a small cache, so that steps miss, and share what they then find. */
static void what_is_found_is_whole(void **state)
{
	struct shared *s = shared_open(MEGABYTE / 4);
	struct worker w[READERS + WRITERS];

	(void)state;
	s->writers = WRITERS;
	s->readers = READERS;
	for (unsigned i = 0; i < READERS + WRITERS; i++)
		worker_start(s, &w[i], i, i < WRITERS ? write_all : look_at_all);
	while (s->writers || s->readers) {
		fs_service(s->n.fs, s->n.q);
		dev_poll(s->n.q, 1);
	}
	for (unsigned i = 0; i < NLOOKS; i++)
		assert_true(s->looks[i] > 0);
	for (unsigned i = 0; i < 3; i++)
		assert_true(s->lengths[i] > 0);
	volume_share(s->n.r.v);
	uint64_t checkpoints = s->n.r.v->stats.checkpoints;
	volume_unshare(s->n.r.v);
	assert_true(checkpoints > 3);
	shared_close(s, w, READERS + WRITERS);
}

static void *look_once(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < NLOOKS; i++)
		if (looks[i] != look_up_passing && looks[i] != look_up_exchanged && looks[i] != list_names)
			looks[i](w);
	struct fs_attr a;
	must_be(fs_lookup(w->s->n.fs, w->q, INO_ROOT, "x", 1, &a), false);	/* known */
	must_be(fs_lookup(w->s->n.fs, w->q, w->s->dir, "n", 1, &a), false);	/* not known */
	assert(a.ino != w->s->x);
	struct list l = {.w = w};
	must_be(fs_readdir(w->s->n.fs, w->q, w->s->dir, 0, true, list_add, &l), false);
	assert(l.n == 1 && l.ino[0] == a.ino);
	atomic_store(w->done, true);
	return NULL;
}

/* Everything that reads what is in memory is done while somebody else shares the lock, and does not end. */
static void readers_do_not_wait(void **state)
{
	struct shared *s = shared_open(0);
	_Atomic bool done = false;
	struct worker w = {.s = s, .done = &done};
	unsigned rounds = 0;
	uint64_t ino;

	(void)state;
	assert_int_equal(try_create(&s->n, s->dir, "n", S_IFREG | 0644), 0);
	ino = s->n.attr.ino;
	fs_forget(s->n.fs, s->n.q, ino, 1);
	/* Times of access move first, for that is a change. */
	uint8_t buf[SMALL];
	memset(buf, 1, SMALL);
	assert_int_equal(fs_pwrite(s->n.fs, s->n.q, s->contents, buf, SMALL, 0), SMALL);
	assert_int_equal(fs_pread(s->n.fs, s->n.q, s->contents, buf, SMALL, 0), SMALL);
	struct list l = {.n = 0};
	char target[MAX_SYMLINK + 1];
	assert_int_equal(fs_readdir(s->n.fs, s->n.q, s->dir, 0, false, list_add, &l), 0);
	assert_int_equal(fs_readlink(s->n.fs, s->n.q, s->link, target), 0);

	/* Whoever waits to be alone goes first, so there must be nobody. */
	atomic_store(&s->quiet, true);
	usleep(100000);
	w.q = rig_queue(s->dev);
	w.buf = dev_alloc(FS_READ_ROOM(LARGE), true);
	assert_non_null(w.buf);
	volume_share(s->n.r.v);
	assert_int_equal(pthread_create(&w.thread, NULL, look_once, &w), 0);
	while (!done && rounds++ < 20000)
		usleep(1000);
	bool was_done = done;
	volume_unshare(s->n.r.v);
	atomic_store(&s->quiet, false);
	pthread_join(w.thread, NULL);
	assert_true(was_done);
	fs_forget(s->n.fs, s->n.q, s->x, 1);
	fs_forget(s->n.fs, s->n.q, ino, 2);
	dev_queue_destroy(w.q);
	free(w.buf);
	shared_close(s, NULL, 0);
}

static void *look_up_many(void *arg)
{
	struct worker *w = arg;
	struct fs_attr a;
	char name[16];

	for (unsigned i = 0; i < KNOWN; i++) {
		snprintf(name, sizeof(name), "%u", w->index ? i : KNOWN - 1 - i);
		must_be(fs_lookup(w->s->n.fs, w->q, w->s->dir, name, strlen(name), &a), false);
	}
	atomic_fetch_sub(&w->s->readers, 1);
	while (!atomic_load(&w->s->stop))
		dev_poll(w->q, 1);
	return NULL;
}

/*
 * The table grows under those who add to it, and each inode is there once, with all its references.  In a cache that all nodes fit into, but
 * in which most of them are not recently used when they are used again: so they are moved in its list all the time.
 */
static void known_to_many(void **state)
{
	struct shared *s = shared_open(2 * MEGABYTE);
	uint64_t before = known(&s->n), ino[KNOWN];
	struct worker w[READERS];
	char name[16];

	(void)state;
	for (unsigned i = 0; i < KNOWN; i++) {
		snprintf(name, sizeof(name), "%u", i);
		assert_int_equal(try_create(&s->n, s->dir, name, S_IFREG | 0644), 0);
		ino[i] = s->n.attr.ino;
		fs_forget(s->n.fs, s->n.q, ino[i], 1);
	}
	assert_int_equal(known(&s->n), before);
	assert_true(s->n.fs->nhash < KNOWN);
	s->readers = READERS;
	for (unsigned i = 0; i < READERS; i++)
		worker_start(s, &w[i], i, look_up_many);
	while (s->readers)
		dev_poll(s->n.q, 1);
	assert_int_equal(known(&s->n), before + KNOWN);
	assert_true(s->n.fs->nhash >= KNOWN);
	for (unsigned i = 0; i < KNOWN; i++)
		fs_forget(s->n.fs, s->n.q, ino[i], READERS - 1);
	assert_int_equal(known(&s->n), before + KNOWN);
	for (unsigned i = 0; i < KNOWN; i++)
		fs_forget(s->n.fs, s->n.q, ino[i], 1);
	assert_int_equal(known(&s->n), before);
	shared_close(s, w, READERS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_found_is_whole),
		cmocka_unit_test(readers_do_not_wait),
		cmocka_unit_test(known_to_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
