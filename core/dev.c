/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev.c - opening a device, and the calls that are the same for every engine.
 *
 * Opening finds out what the device is before an engine sees it: kind, size, alignment, whether O_DIRECT works
 * on this file (asked of statx(2) and then tried, because some file systems accept the flag and refuse the read).
 */
#include "core/dev_engine.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Linux 6.1's; older headers lack the fields, which sit at fixed places in the 256 bytes. */
#define WANT_DIOALIGN 0x2000u
#define DIO_MEM_ALIGN_AT 152
#define DIO_OFFSET_ALIGN_AT 156

#define MIN_ALIGN 512u
#define MAX_ALIGN 4096u
#define SETTLE_MS 5

static uint32_t clamp_align(uint64_t n)
{
	return n < MIN_ALIGN ? MIN_ALIGN : n > MAX_ALIGN ? MAX_ALIGN : (uint32_t)n;
}

/*
 * Fills in the file's alignment for O_DIRECT.  False: statx says that it cannot be had.  A kernel or file
 * system that does not say gets the largest we know, and the trial read decides.
 */
static bool ask_dio_align(struct dev *dev)
{
	struct statx sx = {0};
	uint32_t mem, off;

	dev->align = dev->mem_align = MAX_ALIGN;
	if (statx(dev->fd, "", AT_EMPTY_PATH, WANT_DIOALIGN, &sx) < 0 || !(sx.stx_mask & WANT_DIOALIGN))
		return true;
	memcpy(&mem, (char *)&sx + DIO_MEM_ALIGN_AT, sizeof(mem));
	memcpy(&off, (char *)&sx + DIO_OFFSET_ALIGN_AT, sizeof(off));
	if (!off || off > MAX_ALIGN || mem > MAX_ALIGN)
		return false;
	dev->align = clamp_align(off);
	dev->mem_align = clamp_align(mem);
	return true;
}

/*
 * With the physical block as the alignment the drive never rewrites a neighbour's sector to change ours; a power
 * cut in the middle of that would tear sectors that nobody wrote.
 */
static int ask_block_dev(struct dev *dev)
{
	int logical = 0;
	unsigned physical = 0;

	if (ioctl(dev->fd, BLKGETSIZE64, &dev->size) < 0 || ioctl(dev->fd, BLKSSZGET, &logical) < 0)
		return -errno;
	if (ioctl(dev->fd, BLKPBSZGET, &physical) < 0 || (int)physical < logical)
		physical = (unsigned)logical;
	dev->align = dev->mem_align = clamp_align(physical);
	dev->sector = clamp_align((unsigned)logical);
	return 0;
}

static bool trial_read(const struct dev *dev)
{
	auto_free void *buf = dev_alloc(dev->align, false);
	ssize_t rc;

	if (!buf)
		return false;
	do
		rc = pread(dev->fd, buf, dev->align, 0);
	while (rc < 0 && errno == EINTR);
	/* Anything else is the business of who reads that block for its contents. */
	return rc >= 0 || errno != EINVAL;
}

/* Sets the descriptor's flags; returns whether it is O_DIRECT now. */
static bool set_direct(struct dev *dev, unsigned flags)
{
	/* O_NONBLOCK would make io_uring answer EAGAIN, O_APPEND would override offsets. */
	int fl = fcntl(dev->fd, F_GETFL) & ~(O_NONBLOCK | O_APPEND | O_DIRECT);
	bool want = !(flags & DEV_OPEN_BUFFERED) && (dev->is_block || ask_dio_align(dev));

	if (want && fcntl(dev->fd, F_SETFL, fl | O_DIRECT) == 0 && trial_read(dev))
		return true;
	fcntl(dev->fd, F_SETFL, fl);
	return false;
}

/* Asks without doing anything: a range behind the end, or an empty one. */
static bool ask_discard(struct dev *dev)
{
	int err;

	if (dev->read_only)
		return false;
	if (dev->is_block) {
		err = engine_discard_now(dev, 0, 0);
		return !err || err == -EINVAL;
	}
	return engine_discard_now(dev, (dev->size + MAX_ALIGN) & ~(uint64_t)(MAX_ALIGN - 1), MAX_ALIGN) == 0;
}

/*
 * On FUSE (and through it on who knows what) the kernel forgets RWF_DSYNC for writes that complete asynchronously: with io_uring the
 * file system below was never told to make anything durable.
 */
static bool forgets_dsync(const struct dev *dev)
{
	struct statfs sf;

	return !dev->is_block && fstatfs(dev->fd, &sf) == 0 && sf.f_type == FUSE_SUPER_MAGIC;
}

static int ask_device(struct engine_dev *e, unsigned flags)
{
	struct dev *dev = &e->pub;
	struct stat st;
	bool direct;

	if (fstat(dev->fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return -ENOTBLK;
	dev->is_block = S_ISBLK(st.st_mode);
	dev->read_only = (flags & DEV_OPEN_READ_ONLY) || (fcntl(dev->fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
	dev->size = (uint64_t)st.st_size;

	int err = dev->is_block ? ask_block_dev(dev) : 0;

	if (err)
		return err;
	direct = set_direct(dev, flags);
	if (!direct && !dev->is_block)
		dev->align = dev->mem_align = MIN_ALIGN;
	if (!dev->is_block)
		dev->sector = direct ? dev->align : MIN_ALIGN;
	e->grain = direct ? dev->align : 1;
	e->flush_after = forgets_dsync(dev);
	dev->can_discard = ask_discard(dev);
	dev->size &= ~(uint64_t)(dev->align - 1);
	return 0;
}

static int start_engine(const struct engine_dev *e, enum dev_engine engine, struct dev **out)
{
	int err;

	if (engine == DEV_ENGINE_THREADS)
		return dev_threads_create(e, out);
	err = dev_uring_create(e, out);
	if (!err || engine == DEV_ENGINE_URING)
		return err;
	diag(e->pub.diag, DIAG_NOTICE, "%s: io_uring is not available (%s), using threads", e->pub.path,
	     strerror(-err));
	return dev_threads_create(e, out);
}

int dev_open_fd(int fd, const char *path, enum dev_engine engine, unsigned flags, const struct diag *diag,
		struct dev **out)
{
	struct engine_dev e = {.pub = {.fd = fd, .diag = diag, .limited = !(flags & DEV_OPEN_UNLIMITED)}};
	int err;

	e.pub.path = strdup(path);
	if (!e.pub.path)
		return -ENOMEM;
	err = ask_device(&e, flags);
	if (!err)
		err = start_engine(&e, engine, out);
	if (err)
		free(e.pub.path);
	return err;
}

static bool is_same(int a, int b)
{
	struct stat one, two;

	return fstat(a, &one) == 0 && fstat(b, &two) == 0 && one.st_dev == two.st_dev && one.st_ino == two.st_ino &&
	       one.st_rdev == two.st_rdev && (one.st_mode & S_IFMT) == (two.st_mode & S_IFMT);
}

int dev_make_writable(struct dev *dev, int fd)
{
	int fl = fcntl(dev->fd, F_GETFL);

	if (!is_same(dev->fd, fd))
		return -ESTALE;
	if (fl < 0 || (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR)
		return -EROFS;
	/* The one number means the other file from one moment to the next, and no engine has an eye on more than the number. */
	if (fcntl(fd, F_SETFL, fl) < 0 || dup3(fd, dev->fd, O_CLOEXEC) < 0)
		return -errno;
	close(fd);
	dev->read_only = false;
	dev->can_discard = ask_discard(dev);
	return 0;
}

int dev_open(const char *path, enum dev_engine engine, unsigned flags, const struct diag *diag,
	     struct dev **out)
{
	struct stat st;
	int fd, err;

	/* Before open(2), which would wait for a FIFO's other end. */
	if (stat(path, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return -ENOTBLK;
	fd = open(path, (flags & DEV_OPEN_READ_ONLY ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = dev_open_fd(fd, path, engine, flags, diag, out);
	if (err)
		close(fd);
	return err;
}

void dev_close(struct dev *dev)
{
	dev->ops->close(dev);
}

int dev_queue_create(struct dev *dev, struct dev_queue **out)
{
	return dev->ops->queue_create(dev, out);
}

void dev_queue_destroy(struct dev_queue *q)
{
	q->dev->ops->queue_destroy(q);
}

static void check_vector(const struct dev *dev, const struct dev_io *io)
{
	const uint64_t mask = dev->mem_align - 1;
	uint64_t sum = 0;

	for (int i = 0; i < io->niov; i++) {
		assert(io->iov[i].iov_len > 0);
		assert((((uintptr_t)io->iov[i].iov_base | io->iov[i].iov_len) & mask) == 0);
		assert(io->iov[i].iov_len <= io->len - sum);
		sum += io->iov[i].iov_len;
	}
	assert(sum == io->len);
}

static void check_io(const struct dev *dev, const struct dev_io *io)
{
	assert(io->done);
	assert(io->op <= DEV_DISCARD);
	if (io->op == DEV_FLUSH)
		return;
	assert(io->len > 0);
	assert(((io->off | io->len) & (dev->align - 1)) == 0);
	assert(io->off <= dev->size && io->len <= dev->size - io->off);
	if (io->op != DEV_DISCARD)
		check_vector(dev, io);
}

void dev_submit(struct dev_queue *q, struct dev_io *io)
{
	check_io(q->dev, io);
	q->dev->ops->submit(q, io);
}

int dev_poll(struct dev_queue *q, int timeout_ms)
{
	return q->dev->ops->poll(q, timeout_ms);
}

int dev_queue_fd(struct dev_queue *q)
{
	return q->dev->ops->queue_fd(q);
}

void dev_wake(struct dev_queue *q)
{
	q->dev->ops->wake(q);
}

void dev_post(struct dev_queue *q, struct dev_task *task)
{
	q->dev->ops->post(q, task);
}

void dev_get_stats(struct dev *dev, struct dev_stats *out)
{
	dev->ops->stats(dev, out);
}

void dev_shut(struct dev *dev)
{
	atomic_store(&dev->shut, true);
}

void dev_settle(struct dev_queue *q)
{
	struct dev_stats stats;

	dev_get_stats(q->dev, &stats);
	while (stats.in_flight) {
		dev_poll(q, SETTLE_MS);
		dev_get_stats(q->dev, &stats);
	}
}

void dev_io_rw(struct dev_io *io, enum dev_op op, unsigned flags, uint64_t off, void *buf, uint64_t len,
	       dev_done_fn *done)
{
	*io = (struct dev_io){
		.op = op,
		.flags = flags,
		.off = off,
		.len = len,
		.one = {.iov_base = buf, .iov_len = len},
		.niov = 1,
		.done = done,
	};
	io->iov = &io->one;
}

struct sync_io {
	struct dev_io io;
	bool done;
	int err;
};

static void sync_done(struct dev_io *io, int err)
{
	struct sync_io *s = (struct sync_io *)io;

	s->err = err;
	s->done = true;
}

/* A poll of a single-threaded device that runs nothing would run nothing for ever. */
static void poll_once(struct dev_queue *q)
{
	int ran = dev_poll(q, -1);

	assert(ran > 0 || dev_queue_fd(q) >= 0);
}

static int submit_and_wait(struct dev_queue *q, enum dev_op op, unsigned flags, uint64_t off, void *buf,
			   uint64_t len)
{
	struct sync_io s = {.done = false};

	dev_io_rw(&s.io, op, flags, off, buf, len, sync_done);
	dev_submit(q, &s.io);
	while (!s.done)
		poll_once(q);
	return s.err;
}

int dev_read(struct dev_queue *q, uint64_t off, void *buf, uint64_t len)
{
	return submit_and_wait(q, DEV_READ, 0, off, buf, len);
}

int dev_write(struct dev_queue *q, uint64_t off, const void *buf, uint64_t len, unsigned flags)
{
	/* A write reads only; struct iovec has no const. */
	return submit_and_wait(q, DEV_WRITE, flags, off, (void *)buf, len);
}

int dev_flush(struct dev_queue *q)
{
	return submit_and_wait(q, DEV_FLUSH, 0, 0, NULL, 0);
}

int dev_discard(struct dev_queue *q, uint64_t off, uint64_t len)
{
	return submit_and_wait(q, DEV_DISCARD, 0, off, NULL, len);
}

void dev_event_init(struct dev_event *ev, struct dev_queue *q)
{
	ev->q = q;
	atomic_init(&ev->set, false);
}

void dev_event_set(struct dev_event *ev)
{
	struct dev_queue *q = ev->q;

	atomic_store_explicit(&ev->set, true, memory_order_release);
	dev_wake(q);
}

void dev_event_wait(struct dev_event *ev)
{
	while (!atomic_load_explicit(&ev->set, memory_order_acquire))
		poll_once(ev->q);
}

void *dev_alloc(uint64_t len, bool zero)
{
	uint64_t rounded = (len + MAX_ALIGN - 1) & ~(uint64_t)(MAX_ALIGN - 1);
	void *p;

	if (rounded < len || rounded > PTRDIFF_MAX)
		return NULL;
	p = aligned_alloc(MAX_ALIGN, rounded ? rounded : MAX_ALIGN);
	if (p && zero)
		memset(p, 0, rounded ? rounded : MAX_ALIGN);
	return p;
}
