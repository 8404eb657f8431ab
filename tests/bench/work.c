/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work.c - one workload, on whatever filesystem its directory is; bench.py runs it on several.
 *
 * big-lookup looks up among the first POPULATION names of the directory that big-create made; with -k they are in many directories, of so
 * many entries each.  -r makes each thread do no more operations per second than that.
 *
 * Prints one line of JSON: operations, seconds, bytes, the client's CPU seconds and latencies.  A workload does a number of operations (-n) or
 * goes on for a time (-s), with threads that have files of their own.  What changes something ends with syncfs(), which is part of its
 * time, unless each operation is durable by itself.  Any error ends the program: a figure of something else would be worse than none.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DIRS 20
#define PAGE 4096
#define CHUNK (1u << 20)
#define MAX_THREADS 64
#define PATH 128

struct job;

/* One thread's part. */
struct part {
	const struct job *job;
	unsigned id;
	uint64_t first, n; /* its operations, of a workload that counts */
	uint64_t ops, bytes;
	uint64_t random;
	double began, until; /* of a workload that takes a time */
	double *took; /* of each operation, seconds */
	uint64_t room;
	char *buf; /* CHUNK bytes, aligned */
	int fd;
	pthread_t thread;
};

struct workload {
	const char *name;
	void (*run)(struct part *p);
	bool timed; /* -s, not -n */
	bool syncs; /* syncfs() at the end */
};

struct job {
	const struct workload *what;
	int dir;
	uint64_t n, size, population, each;
	double seconds, rate;
	unsigned threads;
	bool direct;
};

__attribute__((noreturn)) static void die(const char *what, const char *name)
{
	fprintf(stderr, "work: %s %s: %s\n", what, name, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* splitmix64: of a number, so that any run can make the same choice. */
static uint64_t hash(uint64_t i)
{
	i = (i + 1) * 0x9e3779b97f4a7c15u;
	i = (i ^ i >> 30) * 0xbf58476d1ce4e5b9u;
	i = (i ^ i >> 27) * 0x94d049bb133111ebu;
	return i ^ i >> 31;
}

static uint64_t draw(struct part *p, uint64_t below)
{
	return hash(p->random++ * MAX_THREADS + p->id) % below;
}

/* --- taking time --- */

static bool goes_on(const struct part *p)
{
	return p->job->what->timed ? now() < p->until : p->ops < p->n;
}

static void note(struct part *p, double start)
{
	if (p->ops == p->room) {
		p->room = p->room ? p->room * 2 : 1024;
		p->took = realloc(p->took, p->room * sizeof(*p->took));
		if (!p->took)
			die("memory for", "latencies");
	}
	p->took[p->ops++] = now() - start;
	if (p->job->rate > 0) {
		double early = p->began + (double)p->ops / p->job->rate - now();

		if (early > 0)
			usleep((useconds_t)(early * 1e6));
	}
}

/* --- many names in some directories --- */

static void path_of(char path[PATH], const char *kind, uint64_t i)
{
	snprintf(path, PATH, "%s%" PRIu64 "/%s%08" PRIu64, "d", i % DIRS, kind, i);
}

#define EACH(p, body)                                                                                        \
	while (goes_on(p)) {                                                                                 \
		uint64_t i = (p)->first + (p)->ops;                                                          \
		double start = now();                                                                        \
		body;                                                                                        \
		note(p, start);                                                                              \
	}

static void name_create(struct part *p)
{
	char path[PATH];

	EACH(p, {
		path_of(path, "f", i);
		int fd = openat(p->job->dir, path, O_CREAT | O_EXCL | O_WRONLY, 0644);
		if (fd < 0)
			die("create", path);
		close(fd);
	});
}

static void name_stat(struct part *p)
{
	struct stat st;
	char path[PATH];

	EACH(p, {
		path_of(path, "f", p->first + hash(i) % p->n);
		if (fstatat(p->job->dir, path, &st, 0))
			die("stat", path);
	});
}

/* All of them, once. */
static void name_stat_all(struct part *p)
{
	struct stat st;
	char path[PATH];

	EACH(p, {
		path_of(path, "f", i);
		if (fstatat(p->job->dir, path, &st, 0))
			die("stat", path);
	});
}

static void name_open(struct part *p)
{
	char path[PATH];

	EACH(p, {
		path_of(path, "s", p->first + hash(i) % p->n);
		int fd = openat(p->job->dir, path, O_RDONLY);
		if (fd < 0 || read(fd, p->buf, CHUNK) < 0)
			die("open and read", path);
		close(fd);
	});
}

static void name_rename(struct part *p)
{
	char path[PATH], to[PATH];

	EACH(p, {
		path_of(path, "f", i);
		path_of(to, "r", i + 1);
		if (renameat(p->job->dir, path, p->job->dir, to))
			die("rename", path);
	});
}

static void name_unlink(struct part *p)
{
	char path[PATH];

	EACH(p, {
		path_of(path, "r", i + 1);
		if (unlinkat(p->job->dir, path, 0))
			die("unlink", path);
	});
}

static void name_mkdir(struct part *p)
{
	char path[PATH];

	EACH(p, {
		path_of(path, "m", i);
		if (mkdirat(p->job->dir, path, 0755))
			die("mkdir", path);
	});
}

static void name_rmdir(struct part *p)
{
	char path[PATH];

	EACH(p, {
		path_of(path, "m", i);
		if (unlinkat(p->job->dir, path, AT_REMOVEDIR))
			die("rmdir", path);
	});
}

static void name_churn(struct part *p)
{
	char path[PATH];

	EACH(p, {
		path_of(path, "c", i);
		int fd = openat(p->job->dir, path, O_CREAT | O_EXCL | O_WRONLY, 0644);
		if (fd < 0 || close(fd) || unlinkat(p->job->dir, path, 0))
			die("create and unlink", path);
	});
}

/* --- one large directory --- */

static void big_path(const struct job *j, char path[PATH], uint64_t i)
{
	if (j->each)
		snprintf(path, PATH, "k%" PRIu64 "/f%08" PRIu64, i / j->each, i);
	else
		snprintf(path, PATH, "big/f%08" PRIu64, i);
}

/* The directory of name `i`, if that is its first one. */
static void big_dir(const struct job *j, uint64_t i)
{
	char path[PATH];

	if (!j->each || i % j->each)
		return;
	snprintf(path, PATH, "k%" PRIu64, i / j->each);
	if (mkdirat(j->dir, path, 0755))
		die("mkdir", path);
}

static void big_create(struct part *p)
{
	char path[PATH];

	EACH(p, {
		big_dir(p->job, i);
		big_path(p->job, path, i);
		int fd = openat(p->job->dir, path, O_CREAT | O_EXCL | O_WRONLY, 0644);
		if (fd < 0)
			die("create", path);
		close(fd);
	});
}

static void big_lookup(struct part *p)
{
	struct stat st;
	char path[PATH];

	EACH(p, {
		big_path(p->job, path, hash(i) % p->job->population);
		if (fstatat(p->job->dir, path, &st, 0))
			die("lookup", path);
	});
}

static void big_lookup_all(struct part *p)
{
	struct stat st;
	char path[PATH];

	EACH(p, {
		big_path(p->job, path, i);
		if (fstatat(p->job->dir, path, &st, 0))
			die("lookup", path);
	});
}

static void list(struct part *p, bool stats)
{
	int fd = openat(p->job->dir, "big", O_RDONLY | O_DIRECTORY);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	double start = now();
	struct stat st;

	if (!d)
		die("list", "big");
	for (struct dirent *e; (e = readdir(d)); start = now()) {
		if (stats && fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW))
			die("stat", e->d_name);
		note(p, start);
	}
	closedir(d);
}

static void big_readdir(struct part *p)
{
	list(p, false);
}

static void big_ls(struct part *p)
{
	list(p, true);
}

/* --- small files: 4 to 16 KiB --- */

static size_t small_size(uint64_t i)
{
	return PAGE + hash(i) % (3 * PAGE);
}

static void small_write(struct part *p)
{
	char path[PATH];

	EACH(p, {
		path_of(path, "s", i);
		size_t size = small_size(i);
		int fd = openat(p->job->dir, path, O_CREAT | O_EXCL | O_WRONLY, 0644);
		if (fd < 0 || write(fd, p->buf, size) != (ssize_t)size)
			die("write", path);
		close(fd);
		p->bytes += size;
	});
}

static void small_read(struct part *p)
{
	char path[PATH];

	EACH(p, {
		path_of(path, "s", i);
		int fd = openat(p->job->dir, path, O_RDONLY);
		ssize_t n = fd < 0 ? -1 : read(fd, p->buf, CHUNK);
		if (n != (ssize_t)small_size(i))
			die("read", path);
		close(fd);
		p->bytes += (uint64_t)n;
	});
}

static void small_unlink(struct part *p)
{
	char path[PATH];

	EACH(p, {
		path_of(path, "s", i);
		if (unlinkat(p->job->dir, path, 0))
			die("unlink", path);
	});
}

/* --- one large file --- */

static int open_large(const struct part *p, int flags)
{
	int fd = openat(p->job->dir, "large", flags | (p->job->direct ? O_DIRECT : 0), 0644);

	if (fd < 0)
		die("open", "large");
	return fd;
}

static void write_large(struct part *p, int flags)
{
	int fd = open_large(p, flags);

	for (uint64_t off = 0; off < p->job->size; off += CHUNK) {
		double start = now();

		if (pwrite(fd, p->buf, CHUNK, (off_t)off) != CHUNK)
			die("write", "large");
		p->bytes += CHUNK;
		note(p, start);
	}
	if (fsync(fd))
		die("fsync", "large");
	close(fd);
}

static void seq_write(struct part *p)
{
	write_large(p, O_CREAT | O_TRUNC | O_WRONLY);
}

static void seq_overwrite(struct part *p)
{
	write_large(p, O_WRONLY);
}

static void seq_read(struct part *p)
{
	int fd = open_large(p, O_RDONLY);
	ssize_t n;

	for (double start = now(); (n = read(fd, p->buf, CHUNK)) > 0; start = now()) {
		p->bytes += (uint64_t)n;
		note(p, start);
	}
	if (n < 0 || p->bytes != p->job->size)
		die("read", "large");
	close(fd);
}

static off_t random_page(struct part *p)
{
	return (off_t)(draw(p, p->job->size / PAGE) * PAGE);
}

static void random_read(struct part *p)
{
	int fd = open_large(p, O_RDONLY);

	EACH(p, {
		(void)i;
		if (pread(fd, p->buf, PAGE, random_page(p)) != PAGE)
			die("read", "large");
		p->bytes += PAGE;
	});
	close(fd);
}

static void random_write(struct part *p)
{
	int fd = open_large(p, O_WRONLY);

	EACH(p, {
		(void)i;
		if (pwrite(fd, p->buf, PAGE, random_page(p)) != PAGE)
			die("write", "large");
		p->bytes += PAGE;
	});
	if (fsync(fd))
		die("fsync", "large");
	close(fd);
}

/* Blocks one after the other, each thread in a part of its own; a write is durable when it returns. */
static void write_through(struct part *p)
{
	int fd = open_large(p, O_WRONLY | O_DSYNC);
	uint64_t size = p->job->size / p->job->threads / PAGE * PAGE, first = size * p->id;

	EACH(p, {
		(void)i;
		if (pwrite(fd, p->buf, PAGE, (off_t)(first + p->ops * PAGE % size)) != PAGE)
			die("write", "large");
		p->bytes += PAGE;
	});
	close(fd);
}

static void random_write_synced(struct part *p)
{
	int fd = open_large(p, O_WRONLY);

	EACH(p, {
		(void)i;
		if (pwrite(fd, p->buf, PAGE, random_page(p)) != PAGE || fdatasync(fd))
			die("write", "large");
		p->bytes += PAGE;
	});
	close(fd);
}

/* --- durable one by one --- */

static int open_own(const struct part *p, const char *kind, int flags)
{
	char path[PATH];

	snprintf(path, sizeof(path), "%s%u", kind, p->id);

	int fd = openat(p->job->dir, path, flags, 0644);

	if (fd < 0)
		die("open", path);
	return fd;
}

static void append_synced(struct part *p)
{
	int fd = open_own(p, "log", O_CREAT | O_TRUNC | O_APPEND | O_WRONLY);

	EACH(p, {
		(void)i;
		if (write(fd, p->buf, 512) != 512 || fdatasync(fd))
			die("append", "log");
	});
	close(fd);
}

static void overwrite_synced(struct part *p)
{
	enum { PAGES = 1024 };
	int fd = open_own(p, "table", O_CREAT | O_TRUNC | O_WRONLY);

	for (int k = 0; k < PAGES; k++)
		if (pwrite(fd, p->buf, PAGE, (off_t)k * PAGE) != PAGE)
			die("write", "table");
	if (fsync(fd))
		die("fsync", "table");
	p->until = now() + p->job->seconds;
	EACH(p, {
		(void)i;
		if (pwrite(fd, p->buf, PAGE, (off_t)draw(p, PAGES) * PAGE) != PAGE || fdatasync(fd))
			die("overwrite", "table");
	});
	close(fd);
}

/* As an editor or a database replaces its settings: write beside, fsync, rename over. */
static void replace(struct part *p)
{
	char name[PATH], temp[PATH];

	snprintf(name, sizeof(name), "conf%u", p->id);
	snprintf(temp, sizeof(temp), "conf%u.new", p->id);
	EACH(p, {
		(void)i;
		int fd = openat(p->job->dir, temp, O_CREAT | O_TRUNC | O_WRONLY, 0644);
		if (fd < 0 || write(fd, p->buf, PAGE) != PAGE || fsync(fd) || close(fd) ||
		    renameat(p->job->dir, temp, p->job->dir, name))
			die("replace", name);
	});
}

static void create_synced(struct part *p)
{
	char path[PATH];

	EACH(p, {
		snprintf(path, sizeof(path), "d%u/y%u.%u-%08" PRIu64, p->id % DIRS, p->job->threads, p->id, i);
		int fd = openat(p->job->dir, path, O_CREAT | O_EXCL | O_WRONLY, 0644);
		if (fd < 0 || write(fd, p->buf, PAGE) != PAGE || fsync(fd))
			die("create", path);
		close(fd);
	});
}

/* --- all of them --- */

static const struct workload workloads[] = {
	{"create", name_create, false, true},
	{"stat", name_stat, false, false},
	{"stat-all", name_stat_all, false, false},
	{"open", name_open, false, false},
	{"rename", name_rename, false, true},
	{"unlink", name_unlink, false, true},
	{"mkdir", name_mkdir, false, true},
	{"rmdir", name_rmdir, false, true},
	{"churn", name_churn, false, true},
	{"big-create", big_create, false, true},
	{"big-lookup", big_lookup, false, false},
	{"big-lookup-all", big_lookup_all, false, false},
	{"big-readdir", big_readdir, false, false},
	{"big-ls", big_ls, false, false},
	{"small-write", small_write, false, true},
	{"small-read", small_read, false, false},
	{"small-unlink", small_unlink, false, true},
	{"seq-write", seq_write, false, false},
	{"seq-overwrite", seq_overwrite, false, false},
	{"seq-read", seq_read, false, false},
	{"random-read", random_read, true, false},
	{"random-write", random_write, false, false},
	{"random-write-synced", random_write_synced, true, false},
	{"write-through", write_through, true, false},
	{"append-synced", append_synced, true, false},
	{"overwrite-synced", overwrite_synced, true, false},
	{"replace", replace, true, false},
	{"create-synced", create_synced, true, false},
};

static void make_dirs(const struct job *j)
{
	char name[PATH];

	for (unsigned i = 0; i < DIRS; i++) {
		snprintf(name, sizeof(name), "d%u", i);
		if (mkdirat(j->dir, name, 0755) && errno != EEXIST)
			die("mkdir", name);
	}
	if (mkdirat(j->dir, "big", 0755) && errno != EEXIST)
		die("mkdir", "big");
}

static void *part_main(void *arg)
{
	struct part *p = arg;

	p->began = now();
	p->until = p->began + p->job->seconds;
	p->job->what->run(p);
	return NULL;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double cpu_seconds(void)
{
	struct rusage ru;

	getrusage(RUSAGE_SELF, &ru);
	return (double)ru.ru_utime.tv_sec + (double)ru.ru_stime.tv_sec +
	       (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
}

static void report(const struct job *j, const struct part *parts, double seconds)
{
	uint64_t ops = 0, bytes = 0, k = 0;

	for (unsigned t = 0; t < j->threads; t++) {
		ops += parts[t].ops;
		bytes += parts[t].bytes;
	}

	double *all = malloc((ops + 1) * sizeof(*all));

	if (!all)
		die("memory for", "latencies");
	for (unsigned t = 0; t < j->threads; t++) {
		memcpy(all + k, parts[t].took, parts[t].ops * sizeof(*all));
		k += parts[t].ops;
	}
	qsort(all, ops, sizeof(*all), compare);
	printf("{\"ops\": %" PRIu64 ", \"seconds\": %.6f, \"bytes\": %" PRIu64 ", \"cpu\": %.4f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
	       "\"p999_us\": %.1f}\n",
	       ops, seconds, bytes, cpu_seconds(), ops ? all[ops / 2] * 1e6 : 0, ops ? all[ops * 99 / 100] * 1e6 : 0,
	       ops ? all[ops * 999 / 1000] * 1e6 : 0);
	free(all);
}

static void run(struct job *j)
{
	struct part parts[MAX_THREADS] = {0};

	for (unsigned t = 0; t < j->threads; t++) {
		struct part *p = &parts[t];

		*p = (struct part){.job = j, .id = t, .n = j->n / j->threads, .first = j->n / j->threads * t};
		p->buf = aligned_alloc(PAGE, CHUNK);
		if (!p->buf)
			die("memory for", "a buffer");
		/* Nothing that compresses or is one repeated block. */
		for (size_t i = 0; i < CHUNK / 8; i++)
			((uint64_t *)(void *)p->buf)[i] = hash(i * MAX_THREADS + t);
	}

	double start = now();

	for (unsigned t = 0; t < j->threads; t++)
		if (pthread_create(&parts[t].thread, NULL, part_main, &parts[t]))
			die("start", "a thread");
	for (unsigned t = 0; t < j->threads; t++)
		pthread_join(parts[t].thread, NULL);
	if (j->what->syncs && syncfs(j->dir))
		die("syncfs", "");
	report(j, parts, now() - start);
	for (unsigned t = 0; t < j->threads; t++) {
		free(parts[t].took);
		free(parts[t].buf);
	}
}

static const char usage_text[] = "usage: work WORKLOAD DIR [-n COUNT] [-p POPULATION] [-s SECONDS] [-t THREADS] [-S BYTES] [-k ENTRIES] [-r RATE] [-d]\n";

static int usage(void)
{
	fputs(usage_text, stderr);
	for (size_t i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++)
		fprintf(stderr, "  %s\n", workloads[i].name);
	return 2;
}

int main(int argc, char **argv)
{
	struct job j = {.n = 10000, .seconds = 2, .threads = 1, .size = (uint64_t)256 << 20};
	int c;

	while ((c = getopt(argc, argv, "n:p:s:t:S:k:r:d")) != -1) {
		switch (c) {
		case 'n':
			j.n = strtoull(optarg, NULL, 10);
			break;
		case 'p':
			j.population = strtoull(optarg, NULL, 10);
			break;
		case 's':
			j.seconds = strtod(optarg, NULL);
			break;
		case 't':
			j.threads = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'S':
			j.size = strtoull(optarg, NULL, 10);
			break;
		case 'k':
			j.each = strtoull(optarg, NULL, 10);
			break;
		case 'r':
			j.rate = strtod(optarg, NULL);
			break;
		case 'd':
			j.direct = true;
			break;
		default:
			return usage();
		}
	}
	if (argc - optind != 2 || !j.threads || j.threads > MAX_THREADS || j.size % CHUNK)
		return usage();
	for (size_t i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++)
		if (strcmp(argv[optind], workloads[i].name) == 0)
			j.what = &workloads[i];
	if (!j.what)
		return usage();
	if (!j.population)
		j.population = j.n;
	j.dir = open(argv[optind + 1], O_RDONLY | O_DIRECTORY);
	if (j.dir < 0)
		die("open", argv[optind + 1]);
	make_dirs(&j);
	run(&j);
	return 0;
}
