/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_dev.c - one list of tests for every engine of core/dev.h, and what concerns single engines.
 *
 * io_uring denied or absent is a failure, unless HOLDFAST_ALLOW_NO_URING=1 says that it is known.
 */
#include <liburing.h>

#include "tests/unit/dev_fixture.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "core/dev_engine.h"

#define BLOCK 4096u
#define HANG_SECONDS 300

/* --- every engine --- */

static void round_trip(void **state)
{
	struct fixture *f = *state;
	unsigned char *out = dev_alloc(BLOCK, false), *in = dev_alloc(BLOCK, true);
	static const unsigned char patterns[] = {0xa5, 0x5a};

	for (int i = 0; i < 2; i++) {
		memset(out, patterns[i], BLOCK);
		assert_int_equal(dev_write(f->q, (uint64_t)(3 + i) * BLOCK, out, BLOCK, i ? DEV_DURABLE : 0),
				 0);
		assert_int_equal(dev_flush(f->q), 0);
		assert_int_equal(dev_read(f->q, (uint64_t)(3 + i) * BLOCK, in, BLOCK), 0);
		assert_memory_equal(in, out, BLOCK);
	}
	assert_int_equal(dev_read(f->q, 2 * BLOCK, in, BLOCK), 0);
	memset(out, 0, BLOCK);
	assert_memory_equal(in, out, BLOCK);
	assert_string_equal(f->messages, "");
	free(out);
	free(in);
}

static void last_block(void **state)
{
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(BLOCK, false);

	fill(buf, BLOCK, 1);
	assert_int_equal(dev_write(f->q, f->dev->size - BLOCK, buf, BLOCK, 0), 0);
	memset(buf, 0, BLOCK);
	assert_int_equal(dev_read(f->q, f->dev->size - BLOCK, buf, BLOCK), 0);
	assert_filled(buf, BLOCK, 1);
	free(buf);
}

static void sixteen_disjoint_writes(void **state)
{
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(16 * BLOCK, false);
	struct probe p[16];
	int left = 16;

	for (unsigned i = 0; i < 16; i++)
		fill(buf + i * BLOCK, BLOCK, i);
	for (unsigned i = 0; i < 16; i++)
		probe_submit(f, &p[i], &left, DEV_WRITE, 0, (uint64_t)(15 - i) * BLOCK, buf + i * BLOCK,
			     BLOCK);
	wait_for(f, &left);
	memset(buf, 0, 16 * BLOCK);
	assert_int_equal(dev_read(f->q, 0, buf, 16 * BLOCK), 0);
	for (unsigned i = 0; i < 16; i++) {
		assert_int_equal(p[i].err, 0);
		assert_int_equal(p[i].calls, 1);
		assert_filled(buf + (15 - i) * BLOCK, BLOCK, i);
	}
	free(buf);
}

/* Many times the ring's depth, submitted before anything is reaped. */
static void thousands_in_flight(void **state)
{
	enum { N = 2000 };
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(N * BLOCK, false);
	struct probe *p = calloc(N, sizeof(*p));
	struct dev_stats st;
	int left = N;

	fill(buf, N * BLOCK, 5);
	for (unsigned i = 0; i < N; i++)
		probe_submit(f, &p[i], &left, DEV_WRITE, 0, (uint64_t)i * BLOCK, buf + i * BLOCK, BLOCK);
	assert_int_equal(left, N); /* no callback outside dev_poll() */
	dev_get_stats(f->dev, &st);
	assert_int_equal(st.in_flight, N);
	wait_for(f, &left);
	memset(buf, 0, N * BLOCK);
	left = N;
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(p[i].err, 0);
		assert_int_equal(p[i].calls, 1);
		probe_submit(f, &p[i], &left, DEV_READ, 0, (uint64_t)i * BLOCK, buf + i * BLOCK, BLOCK);
	}
	wait_for(f, &left);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(p[i].err, 0);
	assert_filled(buf, N * BLOCK, 5);
	dev_get_stats(f->dev, &st);
	assert_int_equal(st.in_flight, 0);
	free(p);
	free(buf);
}

static void vector_of_256_pages(void **state)
{
	enum { N = 256 };
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(N * BLOCK, false);
	struct iovec iov[N];
	struct probe p;
	int left = 1;

	for (unsigned i = 0; i < N; i++) {
		/* Backwards in memory, so that order matters. */
		iov[i] = (struct iovec){.iov_base = buf + (N - 1 - i) * BLOCK, .iov_len = BLOCK};
		fill(iov[i].iov_base, BLOCK, i);
	}
	probe_submit_vector(f, &p, &left, DEV_WRITE, 7 * BLOCK, iov, N);
	wait_for(f, &left);
	assert_int_equal(p.err, 0);
	memset(buf, 0, N * BLOCK);
	assert_int_equal(dev_read(f->q, 7 * BLOCK, buf, N * BLOCK), 0);
	for (unsigned i = 0; i < N; i++)
		assert_filled(buf + i * BLOCK, BLOCK, i);
	free(buf);
}

/* More iovecs than one system call takes, in the smallest pieces and in uneven ones. */
static void vector_beyond_iov_max(void **state)
{
	struct fixture *f = *state;
	uint64_t unit = f->dev->mem_align, total = 0;
	int n = 2600;
	struct iovec *iov = calloc((size_t)n, sizeof(*iov));
	unsigned char *buf = dev_alloc(DEVICE_BYTES, false), *in = dev_alloc(DEVICE_BYTES, true);
	struct probe p;
	int left = 1;

	fill(buf, DEVICE_BYTES, 11);
	for (int i = 0; i < n; i++) {
		iov[i] = (struct iovec){.iov_base = buf + total, .iov_len = i % 5 ? unit : 3 * unit};
		total += iov[i].iov_len;
	}
	iov[n - 1].iov_len += (f->dev->align - total % f->dev->align) % f->dev->align;
	total += (f->dev->align - total % f->dev->align) % f->dev->align;
	assert_true(total <= DEVICE_BYTES);
	probe_submit_vector(f, &p, &left, DEV_WRITE, 0, iov, n);
	wait_for(f, &left);
	assert_int_equal(p.err, 0);

	for (int i = 0; i < n; i++)
		iov[i].iov_base = in + ((unsigned char *)iov[i].iov_base - buf);
	left = 1;
	probe_submit_vector(f, &p, &left, DEV_READ, 0, iov, n);
	wait_for(f, &left);
	assert_int_equal(p.err, 0);
	assert_memory_equal(in, buf, total);
	free(iov);
	free(buf);
	free(in);
}

struct chain {
	struct probe p;
	struct fixture *f;
	unsigned char *buf;
	int steps;
	int left;
};

static void chain_done(struct dev_io *io, int err)
{
	struct chain *c = (struct chain *)io;

	assert_int_equal(err, 0);
	if (!--c->steps) {
		c->left = 0;
		return;
	}
	dev_io_rw(io, c->steps & 1 ? DEV_WRITE : DEV_READ, 0, (uint64_t)c->steps * BLOCK, c->buf, BLOCK,
		  chain_done);
	dev_submit(c->f->q, io);
}

static void callbacks_submit(void **state)
{
	struct fixture *f = *state;
	struct chain c[300];

	for (int i = 0; i < 300; i++) {
		c[i] = (struct chain){.f = f, .steps = 10, .left = 1, .buf = dev_alloc(BLOCK, true)};
		dev_io_rw(&c[i].p.io, DEV_WRITE, 0, 0, c[i].buf, BLOCK, chain_done);
		dev_submit(f->q, &c[i].p.io);
	}
	for (int i = 0; i < 300; i++) {
		wait_for(f, &c[i].left);
		free(c[i].buf);
	}
}

static void counters(void **state)
{
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(2 * BLOCK, true);
	struct dev_stats a, b;

	dev_get_stats(f->dev, &a);
	assert_int_equal(dev_write(f->q, 0, buf, 2 * BLOCK, 0), 0);
	assert_int_equal(dev_write(f->q, 0, buf, BLOCK, DEV_DURABLE), 0);
	assert_int_equal(dev_read(f->q, 0, buf, BLOCK), 0);
	assert_int_equal(dev_flush(f->q), 0);
	dev_get_stats(f->dev, &b);
	assert_int_equal(b.writes - a.writes, 2);
	assert_int_equal(b.durable_writes - a.durable_writes, 1);
	assert_int_equal(b.write_bytes - a.write_bytes, 3 * BLOCK);
	assert_int_equal(b.reads - a.reads, 1);
	assert_int_equal(b.read_bytes - a.read_bytes, BLOCK);
	assert_int_equal(b.flushes - a.flushes, 1);
	assert_int_equal(b.discards - a.discards, 0);
	assert_int_equal(b.errors - a.errors, 0);
	assert_int_equal(b.in_flight, 0);
	free(buf);
}

static void discarded_reads_as_zeros(void **state)
{
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(16 * BLOCK, false), *zeros = dev_alloc(8 * BLOCK, true);

	assert_true(f->dev->can_discard);
	fill(buf, 16 * BLOCK, 2);
	assert_int_equal(dev_write(f->q, 0, buf, 16 * BLOCK, 0), 0);
	assert_int_equal(dev_discard(f->q, 4 * BLOCK, 8 * BLOCK), 0);
	memset(buf, 0xee, 16 * BLOCK);
	assert_int_equal(dev_read(f->q, 0, buf, 16 * BLOCK), 0);
	assert_memory_equal(buf + 4 * BLOCK, zeros, 8 * BLOCK);
	memset(zeros, 0, BLOCK);
	assert_memory_not_equal(buf, zeros, 4 * BLOCK);
	assert_memory_not_equal(buf + 12 * BLOCK, zeros, 4 * BLOCK);
	free(buf);
	free(zeros);
}

static void read_only_is_ebadf(void **state)
{
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(BLOCK, true);

	f->dev->read_only = true;
	assert_int_equal(dev_write(f->q, 0, buf, BLOCK, 0), -EBADF);
	assert_int_equal(dev_discard(f->q, 0, BLOCK), -EBADF);
	assert_int_equal(dev_read(f->q, 0, buf, BLOCK), 0);
	assert_int_equal(dev_flush(f->q), 0);
	assert_non_null(strstr(f->messages, "write at 0+4096"));
	free(buf);
}

struct counted_task {
	struct dev_task task;
	int *runs;
};

static void count_task(struct dev_task *task)
{
	++*((struct counted_task *)task)->runs;
}

static void posted_to_oneself(void **state)
{
	struct fixture *f = *state;
	int runs = 0;
	struct counted_task t[3];

	for (int i = 0; i < 3; i++) {
		t[i] = (struct counted_task){.task.run = count_task, .runs = &runs};
		dev_post(f->q, &t[i].task);
	}
	assert_int_equal(runs, 0);
	assert_int_equal(dev_poll(f->q, -1), 3);
	assert_int_equal(runs, 3);
	assert_int_equal(dev_poll(f->q, 0), 0);
}

static void destroy_waits(void **state)
{
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(500 * BLOCK, true);
	static struct probe p[500];
	int left = 500;

	for (unsigned i = 0; i < 500; i++)
		probe_submit(f, &p[i], &left, DEV_WRITE, 0, (uint64_t)i * BLOCK, buf + i * BLOCK, BLOCK);
	dev_queue_destroy(f->q);
	f->q = NULL;
	assert_int_equal(left, 0);
	free(buf);
}

/* --- engines on real files --- */

static void *poster(void *arg)
{
	struct fixture *f = arg;
	static struct counted_task t[5000];
	static int runs;

	runs = 0;
	for (int i = 0; i < 5000; i++) {
		t[i] = (struct counted_task){.task.run = count_task, .runs = &runs};
		dev_post(f->q, &t[i].task);
	}
	return &runs;
}

static void posts_from_another_thread(void **state)
{
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(BLOCK, true);
	int ran = 0;
	pthread_t th;
	void *runs;

	assert_int_equal(pthread_create(&th, NULL, poster, f), 0);
	while (ran < 5000)
		ran += dev_poll(f->q, -1);
	pthread_join(th, &runs);
	assert_int_equal(ran, 5000);
	assert_int_equal(*(int *)runs, 5000);
	assert_int_equal(dev_write(f->q, 0, buf, BLOCK, 0), 0);
	free(buf);
}

struct ping {
	struct fixture *f;
	struct dev_event there;
	struct dev_event back;
	struct dev_queue *q2;
};

static void *pong(void *arg)
{
	struct ping *p = arg;

	for (int i = 0; i < 500; i++) {
		dev_event_wait(&p->there);
		atomic_store(&p->there.set, false);
		dev_event_set(&p->back);
	}
	return NULL;
}

/* A single lost wake would end this in a hang. */
static void events_between_threads(void **state)
{
	struct fixture *f = *state;
	struct ping p = {.f = f};
	pthread_t th;

	assert_int_equal(open_queue(f, f->dev, &p.q2), 0);
	dev_event_init(&p.there, p.q2);
	dev_event_init(&p.back, f->q);
	assert_int_equal(pthread_create(&th, NULL, pong, &p), 0);
	for (int i = 0; i < 500; i++) {
		dev_event_set(&p.there);
		dev_event_wait(&p.back);
		atomic_store(&p.back.set, false);
	}
	pthread_join(th, NULL);
	dev_queue_destroy(p.q2);
}

static void *wake_later(void *arg)
{
	struct fixture *f = arg;

	usleep(20000);
	dev_wake(f->q);
	return NULL;
}

static void wake_and_timeout(void **state)
{
	struct fixture *f = *state;
	pthread_t th;
	int64_t t0;

	dev_wake(f->q);
	assert_int_equal(dev_poll(f->q, -1), 0); /* a wake before the wait is not lost */
	assert_int_equal(pthread_create(&th, NULL, wake_later, f), 0);
	assert_int_equal(dev_poll(f->q, -1), 0);
	pthread_join(th, NULL);
	t0 = engine_now_ms();
	assert_int_equal(dev_poll(f->q, 30), 0);
	assert_true(engine_now_ms() - t0 >= 29);
}

static bool fd_readable(struct fixture *f, int timeout_ms)
{
	struct pollfd p = {.fd = dev_queue_fd(f->q), .events = POLLIN};

	return poll(&p, 1, timeout_ms) == 1;
}

static void queue_fd_tells(void **state)
{
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(BLOCK, true);
	struct counted_task t = {.task.run = count_task};
	struct probe p;
	int left = 1, runs = 0;

	while (dev_poll(f->q, 0))
		;
	assert_false(fd_readable(f, 0));
	probe_submit(f, &p, &left, DEV_WRITE, 0, 0, buf, BLOCK);
	while (left) {
		assert_true(fd_readable(f, 10000));
		dev_poll(f->q, 0);
	}
	dev_poll(f->q, 0);
	assert_false(fd_readable(f, 0));
	t.runs = &runs;
	dev_post(f->q, &t.task);
	assert_true(fd_readable(f, 10000));
	assert_int_equal(dev_poll(f->q, 0), 1);
	assert_false(fd_readable(f, 0));
	free(buf);
}

struct writer {
	struct fixture *f;
	unsigned id;
	int errors;
};

static void *write_own_blocks(void *arg)
{
	struct writer *w = arg;
	unsigned char *buf = dev_alloc(BLOCK, false);
	struct dev_queue *q;

	w->errors += open_queue(w->f, w->f->dev, &q) != 0;
	for (unsigned i = 0; i < 50; i++) {
		fill(buf, BLOCK, w->id * 1000 + i);
		w->errors += dev_write(q, (uint64_t)(i * 4 + w->id) * BLOCK, buf, BLOCK, 0) != 0;
	}
	dev_queue_destroy(q);
	free(buf);
	return NULL;
}

static void four_threads_four_queues(void **state)
{
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(BLOCK, false);
	struct writer w[4];
	pthread_t th[4];

	for (unsigned i = 0; i < 4; i++) {
		w[i] = (struct writer){.f = f, .id = i};
		assert_int_equal(pthread_create(&th[i], NULL, write_own_blocks, &w[i]), 0);
	}
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(th[i], NULL);
		assert_int_equal(w[i].errors, 0);
	}
	for (unsigned i = 0; i < 200; i++) {
		assert_int_equal(dev_read(f->q, (uint64_t)i * BLOCK, buf, BLOCK), 0);
		assert_filled(buf, BLOCK, i % 4 * 1000 + i / 4);
	}
	free(buf);
}

/* The kernel moves at most 0x7ffff000 bytes in one call: what is beyond comes from a continued transfer. */
static void continues_after_a_short_read(void **state)
{
	enum { N = 1024 };
	struct fixture *f = *state, big = {.kind = f->kind};
	const uint64_t piece = 17 * 128 * 1024, size = N * piece;
	unsigned char *common = dev_alloc(piece, false), *first = dev_alloc(piece, true),
		      *last = dev_alloc(piece, true);
	struct iovec iov[N];
	struct probe p;
	int left = 1;

	assert_true(size > 0x7ffff000);
	open_file_dev(&big, size, &big.dev);
	assert_int_equal(open_queue(&big, big.dev, &big.q), 0);
	fill(common, BLOCK, 1);
	assert_int_equal(dev_write(big.q, 0, common, BLOCK, 0), 0);
	fill(common, BLOCK, 2);
	assert_int_equal(dev_write(big.q, size - BLOCK, common, BLOCK, 0), 0);
	for (unsigned i = 0; i < N; i++)
		iov[i] = (struct iovec){.iov_base = i ? i == N - 1 ? last : common : first, .iov_len = piece};
	probe_submit_vector(&big, &p, &left, DEV_READ, 0, iov, N);
	wait_for(&big, &left);
	assert_int_equal(p.err, 0);
	assert_filled(first, BLOCK, 1);
	assert_filled(last + piece - BLOCK, BLOCK, 2);
	dev_queue_destroy(big.q);
	dev_close(big.dev);
	free(common);
	free(first);
	free(last);
}

/* The first half of the write fits under the limit, the continuation does not: never a success. */
static void error_after_a_short_write(void **state)
{
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(8 * BLOCK, false);
	struct rlimit old, tight;
	int err;

	fill(buf, 8 * BLOCK, 3);
	getrlimit(RLIMIT_FSIZE, &old);
	tight = (struct rlimit){.rlim_cur = 100 * BLOCK, .rlim_max = old.rlim_max};
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &tight);
	err = dev_write(f->q, 96 * BLOCK, buf, 8 * BLOCK, 0);
	setrlimit(RLIMIT_FSIZE, &old);
	signal(SIGXFSZ, SIG_DFL);
	assert_int_equal(err, -EFBIG);
	assert_non_null(strstr(f->messages, "write at 393216+32768"));
	assert_int_equal(dev_read(f->q, 96 * BLOCK, buf, 4 * BLOCK), 0);
	assert_filled(buf, 4 * BLOCK, 3); /* so the first half did move */
	free(buf);
}

static void read_of_a_shrunken_file(void **state)
{
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(8 * BLOCK, true);
	struct dev_stats st;

	assert_int_equal(ftruncate(f->dev->fd, 10 * BLOCK + 100), 0);
	assert_int_equal(dev_read(f->q, 8 * BLOCK, buf, 8 * BLOCK), -EIO);
	assert_int_equal(dev_read(f->q, 12 * BLOCK, buf, BLOCK), -EIO);
	assert_int_equal(dev_read(f->q, 8 * BLOCK, buf, 2 * BLOCK), 0);
	assert_non_null(strstr(f->messages, "read at 32768+32768"));
	dev_get_stats(f->dev, &st);
	assert_int_equal(st.errors, 2);
	free(buf);
}

static void errno_of_the_kernel(void **state)
{
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(BLOCK, true);
	char *path = make_file(DEVICE_BYTES);
	struct fixture ro = {.kind = f->kind};

	assert_int_equal(dev_open(path, f->kind->engine, f->kind->flags | DEV_OPEN_READ_ONLY, NULL, &ro.dev),
			 0);
	assert_int_equal(open_queue(&ro, ro.dev, &ro.q), 0);
	assert_true(ro.dev->read_only);
	assert_false(ro.dev->can_discard);
	ro.dev->read_only = false; /* past our own refusal */
	assert_int_equal(dev_write(ro.q, 0, buf, BLOCK, 0), -EBADF);
	assert_int_equal(dev_discard(ro.q, 0, BLOCK), -EBADF);
	assert_int_equal(dev_read(ro.q, 0, buf, BLOCK), 0);
	dev_queue_destroy(ro.q);
	dev_close(ro.dev);
	unlink(path);
	free(path);
	free(buf);
}

static void closed_descriptor(void **state)
{
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(BLOCK, true);
	bool registered = f->kind->engine == DEV_ENGINE_URING && !f->kind->plain_fd;
	int want = registered ? 0 : -EBADF; /* a registered file is held by the ring */
	int saved = dup(f->dev->fd);

	close(f->dev->fd);
	assert_int_equal(dev_write(f->q, 0, buf, BLOCK, 0), want);
	assert_int_equal(dev_read(f->q, 0, buf, BLOCK), want);
	assert_int_equal(dev_flush(f->q), want);
	assert_int_equal(dup2(saved, f->dev->fd), f->dev->fd);
	close(saved);
	assert_int_equal(dev_read(f->q, 0, buf, BLOCK), 0);
	free(buf);
}

/* Descriptor numbers are used again at once; nothing may remember whose they were. */
static void recycled_descriptors(void **state)
{
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(BLOCK, false);
	char *paths[24];

	for (int i = 0; i < 24; i++)
		paths[i] = make_file(16 * BLOCK);
	for (unsigned round = 0; round < 48; round++) {
		struct fixture one = {.kind = f->kind};

		assert_int_equal(dev_open(paths[round % 24], f->kind->engine, f->kind->flags, NULL, &one.dev),
				 0);
		assert_int_equal(open_queue(&one, one.dev, &one.q), 0);
		if (round < 24) {
			fill(buf, BLOCK, round);
			assert_int_equal(dev_write(one.q, BLOCK, buf, BLOCK, 0), 0);
		} else {
			assert_int_equal(dev_read(one.q, BLOCK, buf, BLOCK), 0);
			assert_filled(buf, BLOCK, round - 24);
		}
		dev_queue_destroy(one.q);
		dev_close(one.dev);
	}
	for (int i = 0; i < 24; i++) {
		unlink(paths[i]);
		free(paths[i]);
	}
	free(buf);
}

static void open_says_what_it_found(void **state)
{
	struct fixture *f = *state;
	char *path = make_file(10 * BLOCK + 700), *fifo = make_file(0);
	struct dev *dev = NULL;

	assert_int_equal(dev_open("/dev/null", f->kind->engine, 0, NULL, &dev), -ENOTBLK);
	assert_int_equal(dev_open("/", f->kind->engine, 0, NULL, &dev), -ENOTBLK);
	assert_int_equal(dev_open("/nonexistent/image", f->kind->engine, 0, NULL, &dev), -ENOENT);
	unlink(fifo);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(dev_open(fifo, f->kind->engine, DEV_OPEN_READ_ONLY, NULL, &dev), -ENOTBLK);
	assert_null(dev);
	assert_int_equal(dev_open(path, f->kind->engine, f->kind->flags, NULL, &dev), 0);
	assert_int_equal(dev->size, (10 * BLOCK + 700) / dev->align * dev->align);
	assert_true(dev->align >= 512 && dev->align <= 4096 && dev->mem_align <= 4096);
	assert_false(dev->is_block);
	assert_string_equal(dev->path, path);
	dev_close(dev);
	unlink(path);
	unlink(fifo);
	free(path);
	free(fifo);
}

/* Flags of the caller's descriptor that would change what reads and writes do. */
static void flags_of_a_given_descriptor(void **state)
{
	struct fixture *f = *state, one = {.kind = f->kind};
	unsigned char *buf = dev_alloc(BLOCK, false);
	char *path = make_file(16 * BLOCK);
	int fd = open(path, O_RDWR | O_APPEND | O_NONBLOCK | O_CLOEXEC);
	struct stat st;

	assert_int_equal(dev_open_fd(fd, path, f->kind->engine, f->kind->flags, NULL, &one.dev), 0);
	assert_int_equal(one.dev->fd, fd);
	assert_int_equal(fcntl(fd, F_GETFL) & (O_APPEND | O_NONBLOCK), 0);
	assert_int_equal(open_queue(&one, one.dev, &one.q), 0);
	fill(buf, BLOCK, 4);
	assert_int_equal(dev_write(one.q, 2 * BLOCK, buf, BLOCK, 0), 0);
	memset(buf, 0, BLOCK);
	assert_int_equal(dev_read(one.q, 2 * BLOCK, buf, BLOCK), 0);
	assert_filled(buf, BLOCK, 4);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 16 * BLOCK);
	dev_queue_destroy(one.q);
	dev_close(one.dev);
	assert_int_equal(fcntl(fd, F_GETFD), -1); /* it was the device's */
	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	assert_int_equal(dev_open_fd(fd, "null", f->kind->engine, 0, NULL, &one.dev), -ENOTBLK);
	assert_int_not_equal(fcntl(fd, F_GETFD), -1); /* still ours after a failure */
	close(fd);
	unlink(path);
	free(path);
	free(buf);
}

/* A device that was opened read-only gets a descriptor for writing: queues that there are write through it. */
static void made_writable(void **state)
{
	struct fixture *f = *state, one = {.kind = f->kind};
	unsigned char *buf = dev_alloc(BLOCK, false);
	char *path = make_file(16 * BLOCK), *other = make_file(16 * BLOCK);
	int was = open(path, O_RDONLY | O_CLOEXEC), fd;

	assert_int_equal(dev_open_fd(was, path, f->kind->engine, f->kind->flags | DEV_OPEN_READ_ONLY, NULL, &one.dev), 0);
	assert_int_equal(open_queue(&one, one.dev, &one.q), 0);
	fill(buf, BLOCK, 5);
	assert_int_equal(dev_write(one.q, 3 * BLOCK, buf, BLOCK, 0), -EBADF);
	fd = open(other, O_RDWR | O_CLOEXEC);
	assert_int_equal(dev_make_writable(one.dev, fd), -ESTALE);
	close(fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(dev_make_writable(one.dev, fd), -EROFS);
	close(fd);
	assert_true(one.dev->read_only);
	fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	int flags = fcntl(was, F_GETFL);
	assert_int_equal(dev_make_writable(one.dev, fd), 0);
	assert_int_equal(one.dev->fd, was);
	assert_int_equal(fcntl(fd, F_GETFD), -1); /* it is that one now */
	assert_int_equal(fcntl(was, F_GETFL), (flags & ~O_ACCMODE) | O_RDWR);
	assert_int_equal(fcntl(was, F_GETFD), FD_CLOEXEC);
	assert_int_equal(dev_write(one.q, 3 * BLOCK, buf, BLOCK, DEV_DURABLE), 0);
	assert_int_equal(dev_flush(one.q), 0);
	memset(buf, 0, BLOCK);
	assert_int_equal(dev_read(one.q, 3 * BLOCK, buf, BLOCK), 0);
	assert_filled(buf, BLOCK, 5);
	dev_queue_destroy(one.q);
	dev_close(one.dev);
	unlink(path);
	unlink(other);
	free(path);
	free(other);
	free(buf);
}

/* --- io_uring alone --- */

static int find_ring_fd(void)
{
	int found = -1;

	for (int fd = 3; fd < 256; fd++) {
		char link[64], target[64] = "";

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		if (readlink(link, target, sizeof(target) - 1) > 0 &&
		    !strcmp(target, "anon_inode:[io_uring]"))
			found = fd;
	}
	return found;
}

/* The ring's descriptor turns into something else under the engine: all ends in errors, nothing hangs. */
static void ring_death(void **state)
{
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(BLOCK, true);
	static struct probe p[400];
	int left = 400, null = open("/dev/null", O_RDWR), ring = find_ring_fd(), eio = 0;

	assert_true(ring >= 0);
	for (int i = 0; i < 200; i++)
		probe_submit(f, &p[i], &left, DEV_READ, 0, (uint64_t)i * BLOCK, buf, BLOCK);
	assert_int_equal(dup2(null, ring), ring);
	close(null);
	for (int i = 200; i < 400; i++)
		probe_submit(f, &p[i], &left, DEV_READ, 0, (uint64_t)i * BLOCK, buf, BLOCK);
	wait_for(f, &left);
	for (int i = 0; i < 400; i++) {
		assert_int_equal(p[i].calls, 1);
		assert_true(p[i].err == -EIO || (i < 200 && !p[i].err));
		eio += p[i].err == -EIO;
	}
	assert_true(eio >= 200);
	assert_int_equal(dev_write(f->q, 0, buf, BLOCK, 0), -EIO);
	assert_int_equal(dev_flush(f->q), -EIO);
	assert_non_null(strstr(f->messages, "io_uring failed"));
	free(buf);
}

/* --- guests of a shared queue --- */

struct visitor {
	struct dev_guest guest;
	int calls, res;
	bool more;
};

static void visitor_done(struct dev_guest *guest, int res, bool more)
{
	struct visitor *v = (struct visitor *)guest;

	v->calls++;
	v->res = res;
	v->more = more;
}

static void visitor_polls(struct fixture *f, struct visitor *v, bool multishot)
{
	struct io_uring_sqe *sqe = dev_uring_sqe(f->q, &v->guest);
	uint64_t data = sqe->user_data;

	if (multishot)
		io_uring_prep_poll_multishot(sqe, DEV_GUEST_FILE, POLLIN);
	else
		io_uring_prep_poll_add(sqe, DEV_GUEST_FILE, POLLIN);
	sqe->user_data = data;
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
}

/* A guest's file is not there before it is registered; then it completes among the device's operations. */
static void guests_come_back(void **state)
{
	struct fixture *f = *state;
	struct visitor once = {.guest.done = visitor_done}, often = once;
	unsigned char *buf = dev_alloc(BLOCK, true);
	int fds[2];

	visitor_polls(f, &once, false);
	while (!once.calls)
		dev_poll(f->q, -1);
	assert_int_equal(once.res, -EBADF);

	assert_int_equal(pipe2(fds, O_NONBLOCK), 0);
	assert_int_equal(dev_uring_guest_file(f->q, fds[0]), 0);
	visitor_polls(f, &once, false);
	visitor_polls(f, &often, true);
	assert_int_equal(dev_write(f->q, 0, buf, BLOCK, 0), 0);
	assert_int_equal(once.calls, 1);
	assert_int_equal(often.calls, 0);
	for (int i = 1; i <= 3; i++) {
		assert_int_equal(write(fds[1], "x", 1), 1);
		while (often.calls < i)
			assert_true(dev_poll(f->q, -1) > 0);
		assert_int_equal(dev_read(f->q, 0, buf, BLOCK), 0);
	}
	assert_int_equal(once.calls, 2);
	assert_int_equal(once.res & POLLIN, POLLIN);
	assert_false(once.more);
	assert_int_equal(often.calls, 3);
	assert_true(often.more);
	assert_false(dev_uring_failed(f->q));
	/* `often` is under way still: the queue goes all the same. */
	dev_queue_destroy(f->q);
	f->q = NULL;
	close(fds[0]);
	close(fds[1]);
	free(buf);
}

static void guests_are_limited(void **state)
{
	struct fixture *f = *state;
	struct visitor v = {.guest.done = visitor_done};
	struct io_uring_sqe *sqe = dev_uring_sqe(f->q, &v.guest);
	uint64_t data = sqe->user_data;
	char c;

	io_uring_prep_read(sqe, 0, &c, 1, 0);
	sqe->user_data = data;
	while (!v.calls)
		dev_poll(f->q, -1);
	assert_int_equal(v.res, -EACCES);
}

/* As many as may be, with the device's operations at their limit: there is room for all. */
static void guests_crowd(void **state)
{
	enum { N = 300 };
	static struct visitor v[DEV_GUESTS_MAX];
	static struct probe p[N];
	struct fixture *f = *state;
	unsigned char *buf = dev_alloc(BLOCK, true);
	int fds[2], left = N, done = 0;

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(dev_uring_guest_file(f->q, fds[0]), 0);
	for (unsigned i = 0; i < DEV_GUESTS_MAX; i++) {
		v[i] = (struct visitor){.guest.done = visitor_done};
		visitor_polls(f, &v[i], false);
	}
	for (int i = 0; i < N; i++)
		probe_submit(f, &p[i], &left, DEV_READ, 0, (uint64_t)i * BLOCK, buf, BLOCK);
	wait_for(f, &left);
	assert_int_equal(write(fds[1], "x", 1), 1);
	while (done < (int)DEV_GUESTS_MAX)
		done += dev_poll(f->q, 10000);
	for (unsigned i = 0; i < DEV_GUESTS_MAX; i++)
		assert_int_equal(v[i].calls, 1);
	close(fds[0]);
	close(fds[1]);
	free(buf);
}

static void only_rings_are_shared(void **state)
{
	struct fixture f = {.kind = &(struct kind){.engine = DEV_ENGINE_THREADS}};
	struct dev_queue *q;

	(void)state;
	open_file_dev(&f, DEVICE_BYTES, &f.dev);
	assert_int_equal(dev_uring_queue_create(f.dev, &q), -ENOTSUP);
	dev_close(f.dev);
}

/* --- denied system calls --- */

/* From here on `nr` (if arg1 >= 0: with that second argument) fails with EPERM in this process. */
static void deny_syscall(int nr, int arg1)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)nr, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)arg1, 0, arg1 < 0 ? 0 : 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = sizeof(filter) / sizeof(filter[0]), .filter = filter};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog)) {
		perror("seccomp");
		_exit(99);
	}
}

static void denied_ring_falls_back(void **state)
{
	struct fixture f = {.kind = &(struct kind){.engine = DEV_ENGINE_AUTO}};
	unsigned char *buf = dev_alloc(BLOCK, false);
	char *path = make_file(DEVICE_BYTES);
	struct dev *dev = NULL;

	(void)state;
	f.diag = (struct diag){.emit = fixture_emit, .arg = &f};
	assert_int_equal(dev_open(path, DEV_ENGINE_URING, 0, NULL, &dev), -EPERM);
	assert_null(dev);
	unlink(path);
	free(path);
	open_file_dev(&f, DEVICE_BYTES, &f.dev);
	assert_string_equal(f.dev->ops->name, "threads");
	assert_non_null(strstr(f.messages, "using threads"));
	assert_int_equal(open_queue(&f, f.dev, &f.q), 0);
	fill(buf, BLOCK, 9);
	assert_int_equal(dev_write(f.q, BLOCK, buf, BLOCK, DEV_DURABLE), 0);
	memset(buf, 0, BLOCK);
	assert_int_equal(dev_read(f.q, BLOCK, buf, BLOCK), 0);
	assert_filled(buf, BLOCK, 9);
	dev_queue_destroy(f.q);
	dev_close(f.dev);
	free(buf);
}

static void allowed_ring_is_chosen(void **state)
{
	struct fixture f = {.kind = &(struct kind){.engine = DEV_ENGINE_AUTO}};

	(void)state;
	open_file_dev(&f, DEVICE_BYTES, &f.dev);
	assert_string_equal(f.dev->ops->name, "uring");
	dev_close(f.dev);
}

/* --- running it --- */

#define ON_EACH(fn)                                                                                          \
	{                                                                                                    \
#fn, fn, fixture_open, fixture_close, NULL                                                   \
	}

static const struct CMUnitTest any_engine[] = {
	ON_EACH(round_trip),
	ON_EACH(last_block),
	ON_EACH(sixteen_disjoint_writes),
	ON_EACH(thousands_in_flight),
	ON_EACH(vector_of_256_pages),
	ON_EACH(vector_beyond_iov_max),
	ON_EACH(callbacks_submit),
	ON_EACH(counters),
	ON_EACH(discarded_reads_as_zeros),
	ON_EACH(posted_to_oneself),
	ON_EACH(destroy_waits),
};

/* Not through a filter, which has only a copy of the flag. */
static const struct CMUnitTest unfiltered[] = {
	ON_EACH(read_only_is_ebadf),
};

static const struct CMUnitTest on_files[] = {
	ON_EACH(posts_from_another_thread), ON_EACH(events_between_threads),
	ON_EACH(wake_and_timeout),          ON_EACH(four_threads_four_queues),
  	ON_EACH(error_after_a_short_write),
	ON_EACH(read_of_a_shrunken_file),   ON_EACH(errno_of_the_kernel),
	ON_EACH(closed_descriptor),         ON_EACH(recycled_descriptors),
	ON_EACH(open_says_what_it_found),   ON_EACH(flags_of_a_given_descriptor),
	ON_EACH(made_writable),
};

/* A shared queue is waited for in its ring only. */
static const struct CMUnitTest not_shared[] = {
	ON_EACH(queue_fd_tells),
};

/* Through the page cache it would fill that with 2 GiB of zeros. */
static const struct CMUnitTest on_direct_files[] = {
	ON_EACH(continues_after_a_short_read),
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Runs a list of tests on `kind`; each test's fixture_open() receives it. */
static int run_list(const struct kind *kind, const char *list_name, const struct CMUnitTest *list, size_t n)
{
	struct CMUnitTest tests[32];
	char name[64];

	for (size_t i = 0; i < n; i++) {
		tests[i] = list[i];
		tests[i].initial_state = (void *)kind;
	}
	snprintf(name, sizeof(name), "%s on %s", list_name, kind->name);
	return _cmocka_run_group_tests(name, tests, n, NULL, NULL);
}

static int run_kind(const struct kind *kind)
{
	int failed = run_list(kind, "any engine", any_engine, COUNT(any_engine));

	if (!kind->record)
		failed += run_list(kind, "unfiltered", unfiltered, COUNT(unfiltered));
	if (!kind->sim)
		failed += run_list(kind, "files", on_files, COUNT(on_files));
	if (!kind->sim && !kind->shared)
		failed += run_list(kind, "own", not_shared, COUNT(not_shared));
	if (!kind->sim && !(kind->flags & DEV_OPEN_BUFFERED))
		failed += run_list(kind, "direct files", on_direct_files, COUNT(on_direct_files));
	return failed;
}

static int run_uring(void)
{
	static const struct CMUnitTest only[] = {ON_EACH(ring_death)};
	static const struct CMUnitTest guests[] = {
		ON_EACH(guests_come_back),
		ON_EACH(guests_are_limited),
		ON_EACH(guests_crowd),
		{"only_rings_are_shared", only_rings_are_shared, NULL, NULL, NULL},
	};
	static const struct CMUnitTest chosen[] = {cmocka_unit_test(allowed_ring_is_chosen)};
	static const struct kind kinds[] = {
		{.name = "uring", .engine = DEV_ENGINE_URING},
		{.name = "uring, buffered", .engine = DEV_ENGINE_URING, .flags = DEV_OPEN_BUFFERED},
		{.name = "uring, shared", .engine = DEV_ENGINE_URING, .shared = true},
		{.name = "uring, shared, unlimited", .engine = DEV_ENGINE_URING, .shared = true, .flags = DEV_OPEN_UNLIMITED},
	};
	int failed = 0;

	for (size_t i = 0; i < COUNT(kinds); i++)
		failed += run_kind(&kinds[i]);
	return failed + run_list(&kinds[0], "ring", only, 1) + run_list(&kinds[2], "ring", only, 1) +
	       run_list(&kinds[2], "guests", guests, COUNT(guests)) +
	       cmocka_run_group_tests_name("automatic choice", chosen, NULL, NULL);
}

static int run_plain_fd(void)
{
	static const struct kind kind = {.name = "uring, file not registered",
					 .engine = DEV_ENGINE_URING,
					 .plain_fd = true};

	deny_syscall(SYS_io_uring_register, 2 /* IORING_REGISTER_FILES */);
	return run_kind(&kind);
}

static void is_limited(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(f->dev->limited, !(f->kind->flags & DEV_OPEN_UNLIMITED));
}

/* A kernel that does not know limits, or has them denied, gives rings without. */
static void is_not_limited(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(f->dev->ops->name, "uring");
	assert_false(f->dev->limited);
}

static int run_limits_asked_for(void)
{
	static const struct CMUnitTest asked[] = {ON_EACH(is_limited), ON_EACH(round_trip)};
	static const struct kind kinds[] = {
		{.name = "uring", .engine = DEV_ENGINE_URING},
		{.name = "uring, unlimited", .engine = DEV_ENGINE_URING, .flags = DEV_OPEN_UNLIMITED},
	};

	return run_list(&kinds[0], "limits", asked, COUNT(asked)) + run_list(&kinds[1], "limits", asked, COUNT(asked));
}

static int run_no_limits(void)
{
	static const struct CMUnitTest denied[] = {ON_EACH(is_not_limited), ON_EACH(round_trip)};
	static const struct kind kind = {.name = "uring, limits denied", .engine = DEV_ENGINE_URING};

	deny_syscall(SYS_io_uring_register, 11 /* IORING_REGISTER_RESTRICTIONS */);
	return run_list(&kind, "limits", denied, COUNT(denied));
}

static int run_denied(void)
{
	static const struct CMUnitTest tests[] = {cmocka_unit_test(denied_ring_falls_back)};

	deny_syscall(SYS_io_uring_setup, -1);
	return cmocka_run_group_tests_name("io_uring_setup denied", tests, NULL, NULL);
}

static int run_others(void)
{
	static const struct kind kinds[] = {
		{.name = "threads", .engine = DEV_ENGINE_THREADS},
		{.name = "threads, buffered", .engine = DEV_ENGINE_THREADS, .flags = DEV_OPEN_BUFFERED},
		{.name = "sim", .sim = true},
		{.name = "record over sim", .sim = true, .record = true},
	};
	int failed = 0;

	for (size_t i = 0; i < COUNT(kinds); i++)
		failed += run_kind(&kinds[i]);
	return failed;
}

/* Each part in a process of its own: a denied system call stays denied. */
static int run_forked(int (*part)(void))
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		alarm(HANG_SECONDS);
		exit(part() != 0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return 1;
	if (WIFSIGNALED(status))
		fprintf(stderr, "test_dev: a part ended by signal %d (%d: hung)\n", WTERMSIG(status),
			SIGALRM);
	return !WIFEXITED(status) || WEXITSTATUS(status);
}

static bool have_uring(void)
{
	char *path = make_file(BLOCK);
	struct dev *dev;
	int err = dev_open(path, DEV_ENGINE_URING, 0, NULL, &dev);

	if (!err)
		dev_close(dev);
	unlink(path);
	free(path);
	return !err;
}

int main(void)
{
	const char *allowed = getenv("HOLDFAST_ALLOW_NO_URING");
	int failed = run_forked(run_others);

	failed += run_forked(run_denied);
	if (have_uring())
		return failed + run_forked(run_uring) + run_forked(run_plain_fd) +
			       run_forked(run_limits_asked_for) + run_forked(run_no_limits) !=
		       0;
	if (allowed && !strcmp(allowed, "1")) {
		fprintf(stderr, "SKIPPED: all tests of the uring engine: io_uring is not available here\n");
		return failed != 0;
	}
	fprintf(stderr, "FAILED: io_uring is not available (HOLDFAST_ALLOW_NO_URING=1 accepts that)\n");
	return 1;
}
