/* SPDX-License-Identifier: Apache-2.0 */
/*
 * locks.c - operations of fs/ without FUSE, from 1, 2, 4, ... threads: how many there are in a second, and how long each holds the
 * volume lock alone, which is what all processors together cannot get below.  Operations that share it are not bounded by that.
 *
 * Makes a volume in FILE, which it replaces, and removes it; -r: only rows with this text in their names.  Each row runs twice for every
 * number of threads: once only counted, once with the clock read behind the taking and before the dropping of the volume lock.  The linker
 * puts the functions here in the place of those that take and drop a mutex (--wrap), so what is measured is the product's own code, as it is
 * built.  What reading the clock adds is measured first, and taken off.  All of this is done ROUNDS times, and the highest rate and the
 * shortest times are shown: whatever else a machine does can only make them worse.  Time in which the lock passes from one thread to the next
 * is not seen: the bound is one that cannot be reached.
 *
 * A thread makes checkpoints when one is wanted, as the daemon's does.  Its time under the lock is shown apart, by operation.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fs/fs.h"

#define VOLUME_BYTES (UINT64_C(4) << 30)
#define MAX_THREADS 64u
#define DIRS 10u
#define FILES 1000u /* in each */
#define INLINE_BYTES 512u
#define PIECE 4096u
#define PIECES 16384u /* of the file on the device */
#define POLL_EACH 16u /* operations */
#define CALIBRATION 100000u
#define NOT_ALONE 1.0 /* ns: what nobody holds the lock for, but for a wait now and then */

struct held {
	uint64_t times, ns;
};

struct bench {
	struct dev *dev;
	struct volume *v;
	struct fs *fs;
	struct dev_queue *q;
	double seconds;
	unsigned rounds;
	uint64_t dir[DIRS], file[DIRS * FILES];
	uint64_t device, staged, small;
	_Atomic bool wanted, stop;
	_Atomic unsigned running;
	_Atomic uint64_t background_ns;
};

struct part {
	struct bench *b;
	struct dev_queue *q;
	pthread_t thread;
	void (*op)(struct part *p);
	uint64_t seed, own;
	uint64_t made, dir; /* so many files, the last of them there */
	unsigned index;
	uint8_t *buf;
	/* of the last run */
	uint64_t ops;
	double seconds;
	struct held held;
};

__attribute__((noreturn)) static void die(const char *what, int err)
{
	fprintf(stderr, "locks: %s: %s\n", what, strerror(-err));
	exit(1);
}

static void must(const char *what, int err)
{
	if (err)
		die(what, err);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* --- the clock around the volume lock ------------------------------------------------------------- */

static pthread_mutex_t *_Atomic watched;
static _Atomic bool timed; /* may change while the checkpoint thread holds the lock */
static double clock_ns; /* what reading the clock adds to a time under the lock */
static __thread struct held held;
static __thread uint64_t since; /* 0: this time is not taken */

int __real_pthread_mutex_lock(pthread_mutex_t *m);
int __real_pthread_mutex_unlock(pthread_mutex_t *m);
int __wrap_pthread_mutex_lock(pthread_mutex_t *m);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *m);

int __wrap_pthread_mutex_lock(pthread_mutex_t *m)
{
	int err = __real_pthread_mutex_lock(m);

	if (m == watched)
		since = timed ? now_ns() : 0;
	return err;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *m)
{
	if (m == watched && since) {
		held.ns += now_ns() - since;
		held.times++;
		since = 0;
	}
	return __real_pthread_mutex_unlock(m);
}

static double smaller(double a, double b)
{
	return a < b ? a : b;
}

static void calibrate(void)
{
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;

	watched = &m;
	timed = true;
	clock_ns = 1e9;
	for (unsigned round = 0; round < 20; round++) {
		held = (struct held){0};
		for (unsigned i = 0; i < CALIBRATION; i++) {
			pthread_mutex_lock(&m);
			pthread_mutex_unlock(&m);
		}
		if (held.times != CALIBRATION)
			die("the lock is not seen", -ENOSYS);
		clock_ns = smaller(clock_ns, (double)held.ns / CALIBRATION);
	}
	watched = NULL;
	timed = false;
	held = (struct held){0};
}

/* --- operations ----------------------------------------------------------------------------------- */

static const struct fs_cred cred;

static uint64_t pick(struct part *p, uint64_t n)
{
	p->seed = p->seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (p->seed >> 33) % n;
}

static uint64_t make(struct bench *b, struct dev_queue *q, uint64_t parent, const char *name, uint32_t mode)
{
	struct fs_attr attr;

	must(name, fs_create(b->fs, q, &cred, parent, name, strlen(name), mode, 0, &attr));
	return attr.ino;
}

static void op_getattr(struct part *p)
{
	struct fs_attr attr;

	must("getattr", fs_getattr(p->b->fs, p->q, p->b->file[pick(p, DIRS * FILES)], &attr));
}

static void op_lookup(struct part *p)
{
	uint64_t i = pick(p, DIRS * FILES);
	struct fs_attr attr;
	char name[32];

	snprintf(name, sizeof(name), "f%04u", (unsigned)(i % FILES));
	must("lookup", fs_lookup(p->b->fs, p->q, p->b->dir[i / FILES], name, strlen(name), &attr));
	if (attr.ino != p->b->file[i])
		die("lookup finds another file", -EILSEQ);
}

struct wait {
	struct fs_io io;
	struct dev_event done;
};

static void io_done(struct fs_io *io)
{
	dev_event_set(&((struct wait *)io)->done);
}

static void do_read(struct part *p, uint64_t ino, uint64_t off, size_t len)
{
	struct wait w = {.io = {.ino = ino, .off = off, .len = len, .buf = p->buf, .done = io_done}};
	uint64_t first;

	dev_event_init(&w.done, p->q);
	fs_read(p->b->fs, p->q, &w.io);
	volume_event_wait(p->b->v, &w.done);
	if (w.io.result != (ssize_t)len)
		die("read", w.io.result < 0 ? (int)w.io.result : -EIO);
	memcpy(&first, w.io.data, sizeof(first));
	if (first != off + 1)
		die("read finds other contents", -EILSEQ);
}

static void op_read_inline(struct part *p)
{
	do_read(p, p->b->small, 0, INLINE_BYTES);
}

static void op_read_memory(struct part *p)
{
	do_read(p, p->b->staged, 0, PIECE);
}

static void op_read_device(struct part *p)
{
	do_read(p, p->b->device, pick(p, PIECES) * PIECE, PIECE);
}

static void do_write(struct bench *b, struct dev_queue *q, uint64_t ino, uint64_t off, uint8_t *buf,
		     size_t len)
{
	uint64_t first = off + 1;

	memcpy(buf, &first, sizeof(first));
	if (fs_pwrite(b->fs, q, ino, buf, len, off) != (ssize_t)len)
		die("write", -EIO);
}

static void op_overwrite(struct part *p)
{
	do_write(p->b, p->q, p->own, 0, p->buf, PIECE);
}

static void op_create(struct part *p)
{
	struct fs_attr attr;
	char name[40];

	if (p->made % FILES == 0) {
		snprintf(name, sizeof(name), "dir%u.%" PRIu64, p->index, p->made);
		p->dir = make(p->b, p->q, INO_ROOT, name, S_IFDIR | 0755);
	}
	snprintf(name, sizeof(name), "n%" PRIu64, p->made++);
	must("create",
	     fs_create(p->b->fs, p->q, &cred, p->dir, name, strlen(name), S_IFREG | 0644, 0, &attr));
}

static const struct row {
	const char *name;
	void (*op)(struct part *p);
	void (*beside)(struct part *p); /* what the first thread does meanwhile, which is not counted */
} rows[] = {
	{"getattr", op_getattr, NULL},
	{"lookup", op_lookup, NULL},
	{"read 512 bytes, inline", op_read_inline, NULL},
	{"read 4 KiB, in memory", op_read_memory, NULL}, /* before what makes checkpoints */
	{"read 4 KiB, device", op_read_device, NULL},
	{"overwrite 4 KiB", op_overwrite, NULL},
	{"create", op_create, NULL},
	{"getattr, one overwrites", op_getattr, op_overwrite},
	{"overwrite, one looks", op_overwrite, op_getattr},
};

/* --- running them --------------------------------------------------------------------------------- */

static void *work(void *arg)
{
	struct part *p = arg;
	uint64_t begin, end = 0, stop;

	held = (struct held){0};
	p->op(p); /* the first read of a file moves its time */
	held = (struct held){0};
	p->ops = 0;
	begin = now_ns();
	stop = begin + (uint64_t)(p->b->seconds * 1e9);
	while ((end = now_ns()) < stop) {
		for (unsigned i = 0; i < POLL_EACH; i++)
			p->op(p);
		p->ops += POLL_EACH;
		dev_poll(p->q, 0);
	}
	p->seconds = (double)(end - begin) / 1e9;
	p->held = held;
	/* Its queue may carry what others wait for: it is served until the log is quiet. */
	must("sync", fs_sync(p->b->fs, p->q, 0, false));
	for (p->b->running--; p->b->running;)
		dev_poll(p->q, 1);
	return NULL;
}

static void want(void *arg)
{
	struct bench *b = arg;

	atomic_store(&b->wanted, true);
}

static void *background(void *arg)
{
	struct part *p = arg;
	struct bench *b = p->b;

	while (!atomic_load(&b->stop)) {
		if (atomic_exchange(&b->wanted, false))
			must("checkpoint", volume_checkpoint(b->v, p->q, 0));
		atomic_store(&b->background_ns, held.ns - (uint64_t)((double)held.times * clock_ns));
		dev_poll(p->q, 1);
	}
	return NULL;
}

struct sum {
	double ops, rate, times, ns, background;
};

static struct sum run(struct bench *b, struct part *parts, unsigned n, const struct row *row, bool with_clock)
{
	uint64_t background = b->background_ns;
	struct sum s = {0};

	timed = with_clock;
	b->running = n;
	for (unsigned i = 0; i < n; i++) {
		parts[i].op = i == 0 && row->beside ? row->beside : row->op;
		must("thread", -pthread_create(&parts[i].thread, NULL, work, &parts[i]));
	}
	while (b->running)
		dev_poll(b->q, 10);
	for (unsigned i = 0; i < n; i++) {
		pthread_join(parts[i].thread, NULL);
		if (i == 0 && row->beside)
			continue;
		s.ops += (double)parts[i].ops;
		s.rate += (double)parts[i].ops / parts[i].seconds;
		s.times += (double)parts[i].held.times;
		s.ns += (double)parts[i].held.ns;
	}
	timed = false;
	s.ns = (s.ns - s.times * clock_ns) / s.ops;
	s.times /= s.ops;
	s.background = (double)(b->background_ns - background) / s.ops;
	return s;
}

/* Returns the rate; `one`: that of one thread. */
static double run_row(struct bench *b, struct part *parts, unsigned n, const struct row *row, double one)
{
	struct sum best = {.ns = 1e12};
	char bound[32] = "-";
	double rate = 0;

	for (unsigned round = 0; round < b->rounds; round++) {
		struct sum counted = run(b, parts, n, row, false), clocked = run(b, parts, n, row, true);

		if (counted.rate > rate)
			rate = counted.rate;
		if (clocked.ns + clocked.background < best.ns + best.background)
			best = clocked;
	}
	if (best.ns + best.background > NOT_ALONE && !row->beside)
		snprintf(bound, sizeof(bound), "%.0f", 1e9 / (best.ns + best.background));
	printf("%-24s %7u %12.0f %9.2f %10.0f %8.2f %10.0f %12.0f %14s\n", row->name, n, rate, one ? rate / one : 1.0,
	       (n - (row->beside != NULL)) * 1e9 / rate, best.times, best.ns, best.background, bound);
	fflush(stdout);
	return rate;
}

/* --- the volume ----------------------------------------------------------------------------------- */

static void fill(struct bench *b)
{
	uint8_t *buf = dev_alloc(PIECE, true);
	char name[32];

	if (!buf)
		die("memory", -ENOMEM);
	for (unsigned d = 0; d < DIRS; d++) {
		snprintf(name, sizeof(name), "d%u", d);
		b->dir[d] = make(b, b->q, INO_ROOT, name, S_IFDIR | 0755);
		for (unsigned f = 0; f < FILES; f++) {
			snprintf(name, sizeof(name), "f%04u", f);
			b->file[d * FILES + f] = make(b, b->q, b->dir[d], name, S_IFREG | 0644);
		}
	}
	b->device = make(b, b->q, INO_ROOT, "device", S_IFREG | 0644);
	b->staged = make(b, b->q, INO_ROOT, "staged", S_IFREG | 0644);
	b->small = make(b, b->q, INO_ROOT, "small", S_IFREG | 0644);
	for (uint64_t i = 0; i < PIECES; i++)
		do_write(b, b->q, b->device, i * PIECE, buf, PIECE);
	do_write(b, b->q, b->small, 0, buf, INLINE_BYTES);
	must("sync", fs_sync(b->fs, b->q, 0, false));
	/* All of it goes home; what is written behind that stays in memory, as long as nobody asks for another checkpoint. */
	must("checkpoint", volume_checkpoint(b->v, b->q, CHECKPOINT_FORCE));
	atomic_store(&b->wanted, false);
	do_write(b, b->q, b->staged, 0, buf, PIECE);
	must("sync", fs_sync(b->fs, b->q, 0, false));
	free(buf);
}

static void make_volume(struct bench *b, const char *path)
{
	struct format_params format = {
		.nblocks = VOLUME_BYTES >> BLOCK_SHIFT,
		.uuid = "locks benchmark",
		.hash_key = "a secret of 16b",
		.label = "locks",
		.root_mode = 0755,
	};
	struct volume_config cfg = {.want_checkpoint = want, .arg = b};
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, (off_t)VOLUME_BYTES))
		die(path, -errno);
	close(fd);
	must(path, dev_open(path, DEV_ENGINE_AUTO, 0, NULL, &b->dev));
	must("queue", dev_queue_create(b->dev, &b->q));
	must("format", volume_format(b->q, &format, NULL, NULL, NULL));
	must("open", volume_open(b->q, &cfg, NULL, &b->v));
	must("open", fs_open(b->v, b->q, NULL, &b->fs));
}

static void part_init(struct bench *b, struct part *p, unsigned index)
{
	char name[32];

	*p = (struct part){.b = b,
			   .index = index,
			   .seed = index + 1,
			   .buf = dev_alloc(FS_READ_ROOM(PIECE), true)};
	if (!p->buf)
		die("memory", -ENOMEM);
	must("queue", dev_queue_create(b->dev, &p->q));
	snprintf(name, sizeof(name), "own%u", index);
	p->own = make(b, b->q, INO_ROOT, name, S_IFREG | 0644);
}

int main(int argc, char **argv)
{
	static const char usage[] = "usage: locks FILE [-s SECONDS] [-t THREADS] [-n ROUNDS] [-r ROW]\n";
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	struct part parts[MAX_THREADS], checkpoints = {0};
	unsigned threads = online > 0 ? (unsigned)online : 1;
	struct bench b = {.seconds = 0.3, .rounds = 5};
	const char *only = "";
	int c;

	while ((c = getopt(argc, argv, "s:t:n:r:")) != -1) {
		if (c == 's')
			b.seconds = strtod(optarg, NULL);
		else if (c == 't')
			threads = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 'n')
			b.rounds = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 'r')
			only = optarg;
		else
			argc = 0;
	}
	if (argc - optind != 1 || !threads || threads > MAX_THREADS || !b.rounds || b.seconds <= 0) {
		fputs(usage, stderr);
		return 2;
	}
	calibrate();
	make_volume(&b, argv[optind]);
	for (unsigned i = 0; i < threads; i++)
		part_init(&b, &parts[i], i);
	fill(&b);
	watched = &b.v->lock.mutex;
	checkpoints.b = &b;
	must("queue", dev_queue_create(b.dev, &checkpoints.q));
	must("thread", -pthread_create(&checkpoints.thread, NULL, background, &checkpoints));

	printf("reading the clock adds %.1f ns, which are taken off\n\n", clock_ns);
	printf("%-24s %7s %12s %9s %10s %8s %10s %12s %14s\n", "", "threads", "ops/s", "by one", "ns/op", "locks/op",
	       "ns alone", "+checkpoint", "at most ops/s");
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		double one = 0;

		for (unsigned n = rows[i].beside ? 2 : 1; n <= threads && strstr(rows[i].name, only); n *= 2) {
			double rate = run_row(&b, parts, n, &rows[i], one);

			one = one ? one : rate;
		}
	}

	atomic_store(&b.stop, true);
	pthread_join(checkpoints.thread, NULL);
	/* From here on nobody else makes checkpoints. */
	b.v->want_checkpoint_fn = NULL;
	watched = NULL;
	fs_close(b.fs, b.q);
	must("close", volume_close(b.v, b.q));
	for (unsigned i = 0; i < threads; i++) {
		dev_queue_destroy(parts[i].q);
		free(parts[i].buf);
	}
	dev_queue_destroy(checkpoints.q);
	dev_queue_destroy(b.q);
	dev_close(b.dev);
	unlink(argv[optind]);
	return 0;
}
