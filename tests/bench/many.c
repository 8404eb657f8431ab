/* SPDX-License-Identifier: Apache-2.0 */
/*
 * many.c - does one thing very often and says how long it took; scale.py runs it on several filesystems.
 *
 * Prints one line, "COUNT SECONDS".  What changes something ends with syncfs(), which is part of the time.  Random choices come
 * from a hash of their number, so that a later run can make the same ones: `gather` reads what `scatter` wrote, and looks
 * whether it is there.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PIECE 4096
#define NAME "f%08" PRIu64
#define NAME_SIZE 32

struct job {
	const char *path; /* directory, or file of scatter and gather */
	uint64_t n;       /* files, or pieces written */
	uint64_t picks;   /* lookup, gather: how many of them */
	uint64_t size;    /* scatter, gather: of the file */
	int fd;
	uint64_t count; /* result */
};

static int failed(const char *what)
{
	fprintf(stderr, "many: %s: %s\n", what, strerror(errno));
	return 1;
}

/* splitmix64 of the number. */
static uint64_t hash(uint64_t i)
{
	i = (i + 1) * 0x9e3779b97f4a7c15u;
	i = (i ^ i >> 30) * 0xbf58476d1ce4e5b9u;
	i = (i ^ i >> 27) * 0x94d049bb133111ebu;
	return i ^ i >> 31;
}

static const char *name_of(uint64_t i, char name[NAME_SIZE])
{
	snprintf(name, NAME_SIZE, NAME, i);
	return name;
}

/* --- one directory -------------------------------------------------------------------------------- */

static int create(struct job *j)
{
	char name[NAME_SIZE];

	for (; j->count < j->n; j->count++) {
		int fd = openat(j->fd, name_of(j->count, name), O_CREAT | O_EXCL | O_WRONLY, 0644);

		if (fd < 0 || close(fd) < 0)
			return failed(name);
	}
	return syncfs(j->fd) < 0 ? failed("syncfs") : 0;
}

/* As `ls -l` does. */
static int list(struct job *j)
{
	DIR *dir = fdopendir(dup(j->fd));
	struct dirent *de;
	struct stat st;

	if (!dir)
		return failed(j->path);
	while (errno = 0, (de = readdir(dir))) {
		if (de->d_name[0] != 'f')
			continue;
		if (fstatat(j->fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return failed(de->d_name);
		j->count++;
	}
	if (errno)
		return failed("readdir");
	closedir(dir);
	return j->count == j->n ? 0 : (errno = ENODATA, failed("wrong number of names"));
}

static int lookup(struct job *j)
{
	char name[NAME_SIZE];
	struct stat st;

	for (; j->count < j->picks; j->count++)
		if (fstatat(j->fd, name_of(hash(j->count) % j->n, name), &st, AT_SYMLINK_NOFOLLOW) < 0)
			return failed(name);
	return 0;
}

static int delete(struct job *j)
{
	char name[NAME_SIZE];

	for (; j->count < j->n; j->count++)
		if (unlinkat(j->fd, name_of(j->count, name), 0) < 0)
			return failed(name);
	return syncfs(j->fd) < 0 ? failed("syncfs") : 0;
}

/* Small changes of all kinds, until killed.  A thousand files are alive at a time; every 256 rounds are made durable. */
static int churn(struct job *j)
{
	char name[NAME_SIZE], other[NAME_SIZE + 2];

	for (uint64_t i = 0;; i++) {
		int fd = openat(j->fd, name_of(i, name), O_CREAT | O_EXCL | O_WRONLY, 0644);

		if (fd < 0 || pwrite(fd, name, sizeof(name), 0) < 0 || fchmod(fd, 0600) < 0 || close(fd) < 0)
			return failed(name);
		snprintf(other, sizeof(other), "%s.r", name);
		if (renameat(j->fd, name, j->fd, other) < 0)
			return failed(other);
		if (i >= 1000) {
			snprintf(other, sizeof(other), "%s.r", name_of(i - 1000, name));
			if (unlinkat(j->fd, other, 0) < 0)
				return failed(other);
		}
		if (i % 256 == 255 && syncfs(j->fd) < 0)
			return failed("syncfs");
	}
}

/* --- one file ------------------------------------------------------------------------------------- */

static uint64_t place_of(const struct job *j, uint64_t i)
{
	return hash(i) % (j->size / PIECE) * PIECE;
}

/* Two pieces at one place have the same contents. */
static void fill(uint64_t piece[PIECE / 8], uint64_t off)
{
	for (unsigned k = 0; k < PIECE / 8; k++)
		piece[k] = hash(off + k);
}

static int scatter(struct job *j)
{
	uint64_t piece[PIECE / 8];

	if (ftruncate(j->fd, (off_t)j->size) < 0)
		return failed("ftruncate");
	for (; j->count < j->n; j->count++) {
		uint64_t off = place_of(j, j->count);

		fill(piece, off);
		if (pwrite(j->fd, piece, PIECE, (off_t)off) != PIECE)
			return failed("pwrite");
	}
	return fsync(j->fd) < 0 ? failed("fsync") : 0;
}

static int gather(struct job *j)
{
	uint64_t expected[PIECE / 8], piece[PIECE / 8];

	/* Reading ahead would only be noise here, and the filesystems' defaults differ. */
	posix_fadvise(j->fd, 0, 0, POSIX_FADV_RANDOM);
	for (; j->count < j->picks; j->count++) {
		uint64_t off = place_of(j, hash(j->count) % j->n);

		fill(expected, off);
		if (pread(j->fd, piece, PIECE, (off_t)off) != PIECE)
			return failed("pread");
		if (memcmp(piece, expected, PIECE) != 0)
			return errno = EILSEQ, failed("wrong contents");
	}
	return 0;
}

/* --- main ----------------------------------------------------------------------------------------- */

static const struct action {
	const char *name;
	int (*run)(struct job *j);
	int flags;
} actions[] = {
	{"create", create, O_RDONLY | O_DIRECTORY},
	{"list", list, O_RDONLY | O_DIRECTORY},
	{"lookup", lookup, O_RDONLY | O_DIRECTORY},
	{"delete", delete, O_RDONLY | O_DIRECTORY},
	{"churn", churn, O_RDONLY | O_DIRECTORY},
	{"scatter", scatter, O_RDWR | O_CREAT},
	{"gather", gather, O_RDONLY},
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int run(const struct action *a, struct job *j)
{
	double start = now();
	int status;

	j->fd = open(j->path, a->flags | O_CLOEXEC, 0644);
	if (j->fd < 0)
		return failed(j->path);
	status = a->run(j);
	close(j->fd);
	if (!status)
		printf("%" PRIu64 " %.6f\n", j->count, now() - start);
	return status;
}

int main(int argc, char **argv)
{
	static const char usage[] = "usage: many ACTION PATH [N [PICKS [SIZE]]]\n";
	struct job j = {0};

	if (argc < 3 || argc > 6) {
		fputs(usage, stderr);
		return 2;
	}
	j.path = argv[2];
	j.n = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
	j.picks = argc > 4 ? strtoull(argv[4], NULL, 10) : 0;
	j.size = argc > 5 ? strtoull(argv[5], NULL, 10) : 0;
	for (size_t i = 0; i < sizeof(actions) / sizeof(actions[0]); i++)
		if (strcmp(argv[1], actions[i].name) == 0)
			return run(&actions[i], &j);
	fputs(usage, stderr);
	return 2;
}
