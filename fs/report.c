/* SPDX-License-Identifier: Apache-2.0 */
/* report.c - one line, to one of two places, by way of a queue. */
#define FUSE_USE_VERSION 314
#include "fs/report.h"

#include <fuse_log.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#define QUEUE_LINES 256u
#define PATIENCE_SEC 3 /* for a reader, at the end */

struct report_line {
	enum diag_level level;
	unsigned lost; /* before this one */
	char text[512];
};

/* Outlives its report if the thread never comes back from a write. */
struct report_queue {
	const char *speaker;
	bool to_syslog, verbose;
	pthread_t thread;
	pthread_mutex_t mutex; /* a leaf; everything below */
	pthread_cond_t filled, emptied;
	struct report_line lines[QUEUE_LINES];
	unsigned first, n; /* the one being written is counted */
	unsigned lost; /* after the last one */
	bool ending;
	_Atomic unsigned unwritten; /* n, for a signal handler */
};

/* What has no argument refers to it: libfuse's messages, and the handler of fatal signals. */
static struct report_queue *_Atomic queue_of_process;

/* The levels are syslog's. */
static void write_line(const char *speaker, bool to_syslog, bool verbose, enum diag_level level,
		       const char *line)
{
	char text[640];
	int n;

	if (to_syslog) {
		syslog((int)level, "%s", line);
		return;
	}
	if (level == DIAG_INFO && !verbose)
		return;
	n = snprintf(text, sizeof(text), "%s: %s\n", speaker, line);
	/* Past stdio: its lock, held while nobody reads, would keep exit(3) waiting. */
	if (n > 0 && write(STDERR_FILENO, text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1) < 0)
		return;
}

/* --- the queue --------------------------------------------------------------------------------- */

static void queue_put(struct report_queue *q, enum diag_level level, const char *text)
{
	pthread_mutex_lock(&q->mutex);
	if (q->n == QUEUE_LINES) {
		q->lost++;
	} else {
		struct report_line *l = &q->lines[(q->first + q->n++) % QUEUE_LINES];

		l->level = level;
		l->lost = q->lost;
		q->lost = 0;
		snprintf(l->text, sizeof(l->text), "%s", text);
		atomic_fetch_add(&q->unwritten, 1);
		pthread_cond_signal(&q->filled);
	}
	pthread_mutex_unlock(&q->mutex);
}

static void write_lost(const struct report_queue *q, unsigned lost)
{
	char text[64];

	if (!lost)
		return;
	snprintf(text, sizeof(text), "%u messages lost here: too many at once", lost);
	write_line(q->speaker, q->to_syslog, q->verbose, DIAG_WARNING, text);
}

/* The line stays where it is while it is written, without the lock. */
static void write_first(struct report_queue *q)
{
	const struct report_line *l = &q->lines[q->first];
	unsigned lost;

	pthread_mutex_unlock(&q->mutex);
	write_lost(q, l->lost);
	write_line(q->speaker, q->to_syslog, q->verbose, l->level, l->text);
	pthread_mutex_lock(&q->mutex);
	q->first = (q->first + 1) % QUEUE_LINES;
	q->n--;
	atomic_fetch_sub(&q->unwritten, 1);
	if (q->n || !q->lost)
		return;
	lost = q->lost;
	q->lost = 0;
	pthread_mutex_unlock(&q->mutex);
	write_lost(q, lost);
	pthread_mutex_lock(&q->mutex);
}

static void *queue_main(void *arg)
{
	struct report_queue *q = arg;

	pthread_mutex_lock(&q->mutex);
	for (;;) {
		if (q->n) {
			write_first(q);
			continue;
		}
		if (q->ending)
			break;
		pthread_cond_wait(&q->filled, &q->mutex);
	}
	pthread_cond_signal(&q->emptied);
	q->ending = false;
	pthread_mutex_unlock(&q->mutex);
	return NULL;
}

/*
 * What led to a failed assertion may still be queued: the thread gets a second to write it.  Only what a signal handler may do; the
 * signal then takes its course.
 */
static void before_death(int sig)
{
	const struct report_queue *q = queue_of_process;
	const struct timespec pause = {.tv_nsec = 10000000};

	for (int i = 0; q && i < 100 && atomic_load(&q->unwritten); i++)
		nanosleep(&pause, NULL);
	/* Somebody else may have sent it, and then nothing brings it again.  Delivered when this returns. */
	raise(sig);
}

static void catch_death(void)
{
	static const int fatal[] = {SIGABRT, SIGSEGV, SIGBUS};
	struct sigaction sa = {.sa_handler = before_death, .sa_flags = (int)SA_RESETHAND}, old;

	/* A sanitizer has its own. */
	for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++)
		if (sigaction(fatal[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
			sigaction(fatal[i], &sa, NULL);
}

int report_start_queue(struct report *r)
{
	struct report_queue *q = calloc(1, sizeof(*q));
	int err;

	if (!q)
		return -ENOMEM;
	q->speaker = r->speaker;
	q->to_syslog = r->to_syslog;
	q->verbose = r->verbose;
	pthread_mutex_init(&q->mutex, NULL);
	pthread_cond_init(&q->filled, NULL);
	pthread_cond_init(&q->emptied, NULL);
	err = -pthread_create(&q->thread, NULL, queue_main, q);
	if (err) {
		free(q);
		return err;
	}
	queue_of_process = q;
	r->queue = q;
	catch_death();
	return 0;
}

void report_end_queue(struct report *r)
{
	struct report_queue *q = r->queue;
	struct timespec until;
	bool stuck = false;

	if (!q)
		return;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE_SEC;
	pthread_mutex_lock(&q->mutex);
	q->ending = true;
	pthread_cond_signal(&q->filled);
	while (q->ending && !stuck)
		stuck = pthread_cond_timedwait(&q->emptied, &q->mutex, &until) != 0;
	stuck = q->ending;
	pthread_mutex_unlock(&q->mutex);
	/* Exiting ends it; joining would wait for the reader. */
	if (stuck)
		return;
	pthread_join(q->thread, NULL);
	queue_of_process = NULL;
	r->queue = NULL;
	pthread_mutex_destroy(&q->mutex);
	pthread_cond_destroy(&q->filled);
	pthread_cond_destroy(&q->emptied);
	free(q);
}

/* --- what reports ------------------------------------------------------------------------------ */

static void emit(void *arg, enum diag_level level, const char *line)
{
	struct report *r = arg;
	struct report_queue *q = r->queue;

	if (r->hold && level <= DIAG_ERR) {
		if (!atomic_exchange(&r->taken, true))
			snprintf(r->held, sizeof(r->held), "%s", line);
		return;
	}
	if (q)
		queue_put(q, level, line);
	else
		write_line(r->speaker, r->to_syslog, r->verbose, level, line);
}

void report_init(struct report *r, const char *program, const char *speaker, bool verbose)
{
	r->program = program;
	r->speaker = speaker;
	r->verbose = verbose;
	r->to_syslog = false;
	r->hold = false;
	r->held[0] = '\0';
	r->queue = NULL;
	r->diag = (struct diag){.emit = emit, .arg = r};
}

void report_hold(struct report *r)
{
	r->held[0] = '\0';
	r->taken = false;
	r->hold = true;
}

void report_let_go(struct report *r)
{
	r->hold = false;
	r->held[0] = '\0';
}

void report_failure(struct report *r, const char *path, const char *why)
{
	size_t n = strlen(path);
	const char *detail = r->held;

	r->hold = false;
	/* What the layers say often begins with the path, too. */
	if (strncmp(detail, path, n) == 0 && detail[n] == ':')
		detail += n + 1 + (detail[n + 1] == ' ');
	if (detail[0])
		diag(&r->diag, DIAG_ERR, "%s: %s (%s)", path, why, detail);
	else
		diag(&r->diag, DIAG_ERR, "%s: %s", path, why);
}

static void log_of_libfuse(enum fuse_log_level level, const char *fmt, va_list ap)
{
	struct report_queue *q = queue_of_process;
	char text[512];

	if (!q) {
		vsyslog((int)level, fmt, ap);
		return;
	}
	vsnprintf(text, sizeof(text), fmt, ap);
	queue_put(q, (enum diag_level)level, text);
}

void report_open_syslog(struct report *r)
{
	/* Both read files, which will be out of reach: the time zone's for the time in each line. */
	tzset();
	openlog(r->program, LOG_PID | LOG_NDELAY, LOG_DAEMON);
}

void report_to_syslog(struct report *r)
{
	fuse_set_log_func(log_of_libfuse);
	r->to_syslog = true;
}
