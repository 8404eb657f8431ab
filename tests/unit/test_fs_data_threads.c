/* SPDX-License-Identifier: Apache-2.0 */
/* test_fs_data_threads.c - contents of files under several threads and a checkpoint thread, on the real engines. */
#include "tests/unit/data_rig.h"

#include <pthread.h>

#define VOLUME_BYTES MB(96)
#define NOPS 250

/* Each thread has one file of its own, and reads the others'. */
struct worker {
	pthread_t thread;
	struct data d;		/* shares r.v and fs with the others; has its own queue and model */
	unsigned f;
};

struct party {
	struct rig r;
	struct fs *fs;
	struct worker worker[NFILES];
	pthread_t checkpointer;
	struct dev_queue *ckpt_q;
	_Atomic bool stop;
};

static void want_checkpoint(void *arg)
{
	dev_wake(((struct party *)arg)->ckpt_q);
}

static void *checkpointer_main(void *arg)
{
	struct party *p = arg;

	while (!p->stop) {
		bool due;

		dev_poll(p->ckpt_q, 20);
		volume_lock(p->r.v);
		due = volume_checkpoint_due(p->r.v);
		volume_unlock(p->r.v);
		if (due)
			assert_int_equal(volume_checkpoint(p->r.v, p->ckpt_q, 0), 0);
	}
	return NULL;
}

static void work_write(struct worker *w, uint64_t off, uint64_t len)
{
	bool async = data_random(&w->d, 2);

	data_write(&w->d, w->f, off, len, async);
}

static void work_op(struct worker *w)
{
	struct data *d = &w->d;
	uint64_t off = data_random(d, MB(2)), len = 1 + data_random(d, data_random(d, 3) ? KB(300) : 5000);
	uint8_t other[BLOCK_SIZE];

	switch (data_random(d, 8)) {
	case 0 ... 3:
		work_write(w, off, len);
		break;
	case 4:
		assert_true(data_same(d, &d->m[w->f], w->f, off, len));
		break;
	case 5:
		data_truncate(d, w->f, off);
		break;
	case 6:
		assert_int_equal(fs_sync(d->fs, d->q, d->ino[w->f], data_random(d, 2)), 0);
		break;
	default:
		/* Whatever it is by now, it is not damaged. */
		assert_true(fs_pread(d->fs, d->q, d->ino[(w->f + 1) % NFILES], other, BLOCK_SIZE, off) >= 0);
		break;
	}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < NOPS; i++)
		work_op(w);
	assert_true(data_all_same(&w->d, &w->d.m[w->f], w->f));
	while (w->d.unreleased)
		dev_poll(w->d.q, 10);
	return NULL;
}

static struct dev *party_dev(enum dev_engine engine)
{
	const char *dir = getenv("TMPDIR");
	char path[4096];
	struct dev *dev;

	snprintf(path, sizeof(path), "%s/holdfast-data-XXXXXX", dir ? dir : "/tmp");
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, VOLUME_BYTES), 0);
	close(fd);
	int err = dev_open(path, engine, 0, NULL, &dev);
	unlink(path);
	if ((err == -ENOSYS || err == -EPERM) && engine == DEV_ENGINE_URING) {
		print_message("io_uring: %s\n", strerror(-err));
		skip();
	}
	assert_int_equal(err, 0);
	return dev;
}

static void party_open(struct party *p, enum dev_engine engine)
{
	struct fs_config cfg = {.atime = FS_RELATIME};

	memset(p, 0, sizeof(*p));
	p->r.diag.emit = rig_emit;
	p->r.dev = party_dev(engine);
	p->r.q = rig_queue(p->r.dev);
	p->ckpt_q = rig_queue(p->r.dev);
	rig_format(p->r.q, 512);
	p->r.cfg = (struct volume_config){.cache_bytes = KB(64), .want_checkpoint = want_checkpoint, .arg = p};
	assert_int_equal(volume_open(p->r.q, &p->r.cfg, &p->r.diag, &p->r.v), 0);
	assert_int_equal(fs_open(p->r.v, p->r.q, &cfg, &p->fs), 0);
}

static void party_start(struct party *p)
{
	for (unsigned i = 0; i < NFILES; i++) {
		struct data *d = &p->worker[i].d;

		d->r = p->r;
		d->fs = p->fs;
		d->q = p->r.q;
		d->rnd = i;
		data_make(d, i);
		model_init(&d->m[i]);
		d->q = rig_queue(p->r.dev);
		p->worker[i].f = i;
	}
	for (unsigned i = 0; i < NFILES; i++)
		memcpy(p->worker[i].d.ino, (uint64_t[]){p->worker[0].d.ino[0], p->worker[1].d.ino[1], p->worker[2].d.ino[2]},
		       sizeof(p->worker[i].d.ino));
	assert_int_equal(pthread_create(&p->checkpointer, NULL, checkpointer_main, p), 0);
	for (unsigned i = 0; i < NFILES; i++)
		assert_int_equal(pthread_create(&p->worker[i].thread, NULL, worker_main, &p->worker[i]), 0);
}

static void party_run(enum dev_engine engine)
{
	struct party p;

	party_open(&p, engine);
	party_start(&p);
	for (unsigned i = 0; i < NFILES; i++)
		pthread_join(p.worker[i].thread, NULL);
	p.stop = true;
	dev_wake(p.ckpt_q);
	pthread_join(p.checkpointer, NULL);
	assert_true(p.r.v->stats.checkpoints > 3);
	fs_close(p.fs, p.r.q);
	p.r.cfg.want_checkpoint = NULL;
	rig_reopen(&p.r);
	assert_int_equal(fs_open(p.r.v, p.r.q, NULL, &p.fs), 0);
	for (unsigned i = 0; i < NFILES; i++) {
		struct data *d = &p.worker[i].d;

		d->r = p.r;
		d->fs = p.fs;
		assert_true(data_all_same(d, &d->m[i], i));
		dev_queue_destroy(d->q);
		model_fini(&d->m[i]);
	}
	fs_close(p.fs, p.r.q);
	dev_queue_destroy(p.ckpt_q);
	rig_destroy(&p.r);
}

static void test_uring(void **state)
{
	(void)state;
	party_run(DEV_ENGINE_URING);
}

static void test_threads(void **state)
{
	(void)state;
	party_run(DEV_ENGINE_THREADS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_uring),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
