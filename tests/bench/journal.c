/* SPDX-License-Identifier: Apache-2.0 */
/*
 * journal.c - the journal alone, on a file: how many appends it makes durable, or takes, in a time.
 *
 *   synced    each thread appends a frame and waits until it is durable, again and again
 *   unsynced  one thread only appends.  A lap is three quarters of the region; its time is taken, that of the sync behind it is not: this
 *             is what an append costs its caller, however fast the device is
 *
 * Whatever is durable is trimmed at once, as if a checkpoint covered it.  Prints one line of JSON as work.c does.
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

#include "journal/log.h"

#define REGION_BLOCKS (64u << 8) /* 64 MiB */
#define REGION_AT 16u
#define MAX_THREADS 64
#define MAX_PAYLOAD 65536u
#define POLL_EACH 64u /* appends */

struct job {
	struct dev *dev;
	struct log *log;
	uint32_t len;
	double seconds;
	_Atomic unsigned running;
};

struct part {
	struct job *job;
	struct dev_queue *q;
	pthread_t thread;
	uint64_t ops, room;
	double *took;
	double seconds; /* of the appends only */
};

__attribute__((noreturn)) static void die(const char *what, int err)
{
	fprintf(stderr, "journal: %s: %s\n", what, strerror(-err));
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void note(struct part *p, double start)
{
	if (p->ops == p->room) {
		p->room = p->room ? p->room * 2 : 1024;
		p->took = realloc(p->took, p->room * sizeof(*p->took));
		if (!p->took)
			die("latencies", -ENOMEM);
	}
	p->took[p->ops++] = now() - start;
}

_Alignas(BLOCK_SIZE) static const char payload[MAX_PAYLOAD];

static void sync_all(struct part *p, uint64_t lsn)
{
	struct log *l = p->job->log;
	int err = log_sync_wait(l, p->q, lsn);

	if (err)
		die("sync", err);
	log_trim(l, log_durable_lsn(l));
}

static void *synced(void *arg)
{
	struct part *p = arg;
	double begin = now(), start;
	uint64_t lsn;

	while ((start = now()) < begin + p->job->seconds) {
		int err = log_append(p->job->log, p->q, payload, p->job->len, NULL, &lsn);

		if (err)
			die("append", err);
		sync_all(p, lsn);
		note(p, start);
	}
	p->seconds = now() - begin;
	/* Its queue may carry what others wait for. */
	for (p->job->running--; p->job->running;)
		dev_poll(p->q, 1);
	return NULL;
}

static void *unsynced(void *arg)
{
	struct part *p = arg;
	struct log *l = p->job->log;
	uint64_t lap = log_size(l) / 4 * 3, lsn = 0;

	while (p->seconds < p->job->seconds) {
		double start = now();

		while (log_used(l) < lap) {
			for (unsigned i = 0; i < POLL_EACH; i++) {
				int err = log_append(l, p->q, payload, p->job->len, NULL, &lsn);

				if (err)
					die("append", err);
			}
			p->ops += POLL_EACH;
			dev_poll(p->q, 0);
		}
		p->seconds += now() - start;
		sync_all(p, lsn);
	}
	return NULL;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void report(const struct part *parts, unsigned n, uint32_t len)
{
	uint64_t ops = 0, k = 0;
	double seconds = 0, *all;

	for (unsigned t = 0; t < n; t++) {
		ops += parts[t].ops;
		seconds = parts[t].seconds > seconds ? parts[t].seconds : seconds;
	}
	all = calloc(ops + 1, sizeof(*all));
	if (!all)
		die("latencies", -ENOMEM);
	for (unsigned t = 0; t < n && parts[t].took; k += parts[t++].ops)
		memcpy(all + k, parts[t].took, parts[t].ops * sizeof(*all));
	qsort(all, k, sizeof(*all), compare);
	printf("{\"ops\": %" PRIu64 ", \"seconds\": %.6f, \"bytes\": %" PRIu64
	       ", \"p50_us\": %.1f, \"p999_us\": %.1f}\n",
	       ops, seconds, ops * len, all[k / 2] * 1e6, all[k * 999 / 1000] * 1e6);
	free(all);
}

/* Its blocks are there before, as an image's are that has been in use, and not in the page cache, where writes past it would have to look for them. */
static void make_file(const char *path)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_DIRECT | O_CLOEXEC, 0600);

	if (fd < 0)
		die(path, -errno);
	for (uint64_t off = 0; off < (REGION_AT + REGION_BLOCKS) * (uint64_t)BLOCK_SIZE;
	     off += sizeof(payload))
		if (pwrite(fd, payload, sizeof(payload), (off_t)off) != sizeof(payload))
			die(path, -EIO);
	if (fsync(fd))
		die(path, -errno);
	close(fd);
}

static void run(struct job *j, void *(*what)(void *), unsigned n)
{
	struct part parts[MAX_THREADS] = {0};
	int err = 0;

	j->running = n;
	for (unsigned t = 0; t < n && !err; t++) {
		parts[t].job = j;
		err = dev_queue_create(j->dev, &parts[t].q);
	}
	for (unsigned t = 0; t < n && !err; t++)
		err = -pthread_create(&parts[t].thread, NULL, what, &parts[t]);
	if (err)
		die("start", err);
	for (unsigned t = 0; t < n; t++)
		pthread_join(parts[t].thread, NULL);
	report(parts, n, j->len);
	for (unsigned t = 0; t < n; t++) {
		log_drain(j->log, parts[t].q);
		dev_queue_destroy(parts[t].q);
		free(parts[t].took);
	}
}

static void failed(void *arg, int err, const char *what)
{
	(void)arg;
	die(what, err);
}

int main(int argc, char **argv)
{
	static const char usage[] =
		"usage: journal synced|unsynced FILE [-s SECONDS] [-t THREADS] [-b BYTES]\n";
	struct super sb = {.nblocks = REGION_AT + REGION_BLOCKS,
			   .journal_blkno = REGION_AT,
			   .journal_nblocks = REGION_BLOCKS};
	struct job j = {.len = 512, .seconds = 1};
	unsigned threads = 1;
	int c, err;

	while ((c = getopt(argc, argv, "s:t:b:")) != -1) {
		if (c == 's')
			j.seconds = strtod(optarg, NULL);
		else if (c == 't')
			threads = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 'b')
			j.len = (uint32_t)strtoul(optarg, NULL, 10);
		else
			argc = 0;
	}
	if (argc - optind != 2 || !threads || threads > MAX_THREADS || !j.len || j.len > MAX_PAYLOAD) {
		fputs(usage, stderr);
		return 2;
	}

	bool syncs = strcmp(argv[optind], "synced") == 0;

	make_file(argv[optind + 1]);
	err = dev_open(argv[optind + 1], DEV_ENGINE_AUTO, 0, NULL, &j.dev);
	if (!err)
		err = log_create(j.dev, &sb, 0, NULL, failed, NULL, &j.log);
	if (err)
		die(argv[optind + 1], err);
	run(&j, syncs ? synced : unsynced, syncs ? threads : 1);
	log_destroy(j.log);
	dev_close(j.dev);
	return 0;
}
