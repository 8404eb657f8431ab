/* SPDX-License-Identifier: Apache-2.0 */
/* dev_fixture.h - a device of each kind for the tests of core/dev*. */
#ifndef HOLDFAST_TESTS_DEV_FIXTURE_H
#define HOLDFAST_TESTS_DEV_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/dev.h"
#include "core/dev_record.h"
#include "core/dev_sim.h"
#include "core/dev_uring.h"

#define DEVICE_BYTES ((uint64_t)16 << 20)

/* What a group of tests runs on. */
struct kind {
	const char *name;
	enum dev_engine engine;
	unsigned flags;
	bool sim, record;
	bool plain_fd; /* IORING_REGISTER_FILES is denied in this process */
	bool shared; /* queues of core/dev_uring.h */
};

struct fixture {
	const struct kind *kind;
	struct dev *dev;
	struct dev_queue *q;
	struct diag diag;
	char messages[2048]; /* the first ones */
	FILE *trace;
};

static inline void fixture_emit(void *arg, enum diag_level level, const char *line)
{
	struct fixture *f = arg;
	size_t used = strlen(f->messages);

	snprintf(f->messages + used, sizeof(f->messages) - used, "%d %s\n", (int)level, line);
}

/* Creates an empty file of `size` bytes and returns its path, to be freed. */
static inline char *make_file(uint64_t size)
{
	const char *dir = getenv("TMPDIR");
	char *path;
	int fd;

	assert_true(asprintf(&path, "%s/holdfast-test-dev-XXXXXX", dir ? dir : "/tmp") > 0);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
	return path;
}

static inline void open_file_dev(struct fixture *f, uint64_t size, struct dev **out)
{
	char *path = make_file(size);
	int err = dev_open(path, f->kind->engine, f->kind->flags, &f->diag, out);

	unlink(path);
	free(path);
	assert_int_equal(err, 0);
}

static inline int open_queue(const struct fixture *f, struct dev *dev, struct dev_queue **out)
{
	return f->kind->shared ? dev_uring_queue_create(dev, out) : dev_queue_create(dev, out);
}

static inline int fixture_open(void **state)
{
	const struct kind *kind = *state;
	struct fixture *f = calloc(1, sizeof(*f));
	struct sim_config cfg = {.size = DEVICE_BYTES, .sector = 512, .seed = 7};

	assert_non_null(f);
	f->kind = kind;
	f->diag = (struct diag){.emit = fixture_emit, .arg = f};
	if (kind->sim)
		assert_int_equal(dev_sim_create(&cfg, &f->diag, &f->dev), 0);
	else
		open_file_dev(f, DEVICE_BYTES, &f->dev);
	if (kind->record) {
		f->trace = tmpfile();
		assert_non_null(f->trace);
		assert_int_equal(dev_record_create(f->dev, f->trace, &f->dev), 0);
	}
	assert_int_equal(open_queue(f, f->dev, &f->q), 0);
	*state = f;
	return 0;
}

static inline int fixture_close(void **state)
{
	struct fixture *f = *state;
	struct dev_stats st;

	if (f->q)
		dev_queue_destroy(f->q);
	dev_get_stats(f->dev, &st);
	assert_int_equal(st.in_flight, 0);
	dev_close(f->dev);
	if (f->trace)
		fclose(f->trace);
	free(f);
	return 0;
}

/* An operation and what came of it. */
struct probe {
	struct dev_io io;
	int *left; /* counts down at completion */
	int left_after; /* what was left then; tells the order */
	int calls;
	int err;
};

static inline void probe_done(struct dev_io *io, int err)
{
	struct probe *p = (struct probe *)io;

	p->calls++;
	p->err = err;
	p->left_after = --*p->left;
}

static inline void probe_submit(struct fixture *f, struct probe *p, int *left, enum dev_op op, unsigned flags,
				uint64_t off, void *buf, uint64_t len)
{
	dev_io_rw(&p->io, op, flags, off, buf, len, probe_done);
	p->left = left;
	p->calls = 0;
	p->err = 1;
	dev_submit(f->q, &p->io);
}

static inline void probe_submit_vector(struct fixture *f, struct probe *p, int *left, enum dev_op op,
				       uint64_t off, const struct iovec *iov, int niov)
{
	uint64_t len = 0;

	for (int i = 0; i < niov; i++)
		len += iov[i].iov_len;
	p->io = (struct dev_io){
		.op = op, .off = off, .len = len, .iov = iov, .niov = niov, .done = probe_done};
	p->left = left;
	p->calls = 0;
	p->err = 1;
	dev_submit(f->q, &p->io);
}

static inline void wait_for(struct fixture *f, const int *left)
{
	while (*left > 0)
		dev_poll(f->q, -1);
	assert_int_equal(*left, 0);
}

/* Bytes that differ by place and by `salt`. */
static inline void fill(void *buf, size_t len, uint64_t salt)
{
	uint64_t *p = buf;

	for (size_t i = 0; i < len / sizeof(*p); i++)
		p[i] = (salt + 1) * 0x9e3779b97f4a7c15 + i * 0xd1342543de82ef95;
}

static inline void assert_filled(const void *buf, size_t len, uint64_t salt)
{
	void *want = dev_alloc(len, false);

	assert_non_null(want);
	fill(want, len, salt);
	assert_memory_equal(buf, want, len);
	free(want);
}

#endif
