/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - fsck.holdfast: options, the lock, replay, the exit status of fsck(8).
 *
 * Without -n the journal of a volume that was not unmounted cleanly is replayed first, as a mount would.  What is done about the
 * findings of the check that follows is mend.c's.
 */
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/dev_undo.h"
#include "core/image_lock.h"
#include "core/limit.h"
#include "core/streams.h"
#include "core/version.h"
#include "fsck/job.h"
#include "fsck/truncate.h"
#include "journal/volume.h"

/* Findings of one code that are shown without -v. */
#define SHOWN_PER_CODE 50

/* --- the command line -------------------------------------------------------------------------- */

static const char usage_text[] =
	"usage: " PROGRAM " [options] DEVICE|IMAGE\n"
	"\n"
	"  -n                only look, write nothing, not even a replay of the journal\n"
	"  -a, -p            replay the journal and repair whatever loses nothing, without asking\n"
	"  -y                repair everything; what cannot be kept is dropped, and named\n"
	"  -f                check everything even if the volume is clean\n"
	"      --undo FILE   first save to FILE what is going to be changed; see holdfast(8), undo\n"
	"      --truncate-journal\n"
	"                    give up what a damaged journal cannot give back: cut it off at the damage\n"
	"      --data        also read all file contents and verify their checksums\n"
	"      --json        findings and summary as one JSON object\n"
	"  -C FD             progress: lines \"pass done total name\" to FD; 0: a bar\n"
	"  -t                show how long it took\n"
	"  -v                more, and all findings of a kind\n"
	"  -V, --version     -h, --help\n"
	"\n"
	"Exit status, summed: 0 no damage, 1 repaired, or journal replayed, 4 damage is left,\n"
	"8 cannot be checked, 16 usage, 32 cancelled.\n";

enum { OPT_DATA = 256, OPT_JSON, OPT_TRUNCATE, OPT_UNDO };

static const struct option long_options[] = {
	{"data", no_argument, NULL, OPT_DATA},
	{"json", no_argument, NULL, OPT_JSON},
	{"truncate-journal", no_argument, NULL, OPT_TRUNCATE},
	{"undo", required_argument, NULL, OPT_UNDO},
	{"version", no_argument, NULL, 'V'},
	{"help", no_argument, NULL, 'h'},
	{NULL, 0, NULL, 0},
};

static int set_mode(struct options *o, enum mode mode)
{
	if (o->mode != MODE_ASK && o->mode != mode) {
		fputs(PROGRAM ": only one of -n, -p (or -a) and -y can be given\n", stderr);
		return -EINVAL;
	}
	o->mode = mode;
	return 0;
}

static int parse_progress(struct job *job, const char *arg)
{
	char *end;
	long fd = strtol(arg, &end, 10);

	if (end == arg || *end || fd > 1 << 20) {
		fprintf(stderr, PROGRAM ": \"%s\" is not a file descriptor\n", arg);
		return -EINVAL;
	}
	job->out.progress_fd = fd < 0 ? -1 : (int)fd;
	return 0;
}

static int parse_option(struct job *job, int c)
{
	switch (c) {
	case 'n':
		return set_mode(&job->o, MODE_NEVER);
	case 'a':
	case 'p':
		return set_mode(&job->o, MODE_PREEN);
	case 'y':
		return set_mode(&job->o, MODE_YES);
	case 'f':
		job->o.force = true;
		return 0;
	case OPT_DATA:
		job->o.data = job->o.force = true;
		return 0;
	case OPT_JSON:
		job->out.json = true;
		return 0;
	case OPT_TRUNCATE:
		job->o.truncate = true;
		return 0;
	case OPT_UNDO:
		job->o.undo = optarg;
		return 0;
	case 'C':
		return parse_progress(job, optarg);
	case 't':
		job->o.timing = true;
		return 0;
	case 'v':
		job->out.verbose = true;
		return 0;
	case 'b':	/* all copies of the superblock are always tried */
	case 'B':
	case 'T':	/* fsck(8)'s own, for when it passes them on */
	case 'l':
	case 'M':
	case 'R':
	case 'r':
		return 0;
	default:
		fputs("Try '" PROGRAM " --help'.\n", stderr);
		return -EINVAL;
	}
}

/* -1: go on; else the exit status. */
static int parse_command(int argc, char **argv, struct job *job)
{
	int c;

	while ((c = getopt_long(argc, argv, "napyfC:tvb:B:TlMRrVh", long_options, NULL)) != -1) {
		if (c == 'h') {
			fputs(usage_text, stdout);
			return 0;
		}
		if (c == 'V') {
			puts(PROGRAM " " HOLDFAST_VERSION);
			return 0;
		}
		if (parse_option(job, c))
			return EXIT_USAGE;
	}
	if (optind + 1 != argc) {
		fprintf(stderr, PROGRAM ": %s\nTry '" PROGRAM " --help'.\n",
			optind < argc ? "more than one device or image named" : "no device or image named");
		return EXIT_USAGE;
	}
	if (job->o.undo && job->o.mode == MODE_NEVER) {
		fputs(PROGRAM ": -n changes nothing, so there is nothing to undo\n", stderr);
		return EXIT_USAGE;
	}
	if (job->o.truncate && job->o.mode == MODE_NEVER) {
		fputs(PROGRAM ": -n changes nothing, so it cannot truncate the journal\n", stderr);
		return EXIT_USAGE;
	}
	job->o.path = job->out.path = argv[optind];
	return -1;
}

/* --- errors and signals ------------------------------------------------------------------------ */

int give_up(struct job *job, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(job->error, sizeof(job->error), fmt, ap);
	va_end(ap);
	fprintf(stderr, PROGRAM ": %s: %s\n", job->o.path, job->error);
	job->oc.error = job->error;
	job->oc.status |= EXIT_OPERATION;
	return -EINVAL;
}

int give_up_errno(struct job *job, int err)
{
	switch (err) {
	case -ENOENT:
		return give_up(job, "is not a Holdfast volume (no superblock found)");
	case -EUCLEAN:
		return give_up(job, "all copies of the superblock are damaged");
	case -ENOTSUP:
		return give_up(job, "made by a newer version (format version or features unknown to " PROGRAM " " HOLDFAST_VERSION ")");
	case -ENOSPC:
		return give_up(job, "is cut off: it has %llu bytes, fewer than the volume in it",
			       (unsigned long long)job->dev->size);
	case -EFBIG:
		return give_up(job, "is larger than files may be here (ulimit -f)");
	default:
		return give_up(job, "%s", strerror(-err));
	}
}

/* Nobody is interrupted in the middle of a write. */
static bool is_cancelled(void *arg)
{
	struct job *job = arg;

	return stop_wanted(&job->stop);
}

static void emit(void *arg, enum diag_level level, const char *line)
{
	const struct job *job = arg;

	if (level <= DIAG_WARNING || job->out.verbose)
		fprintf(stderr, PROGRAM ": %s\n", line);
}

/* --- opening ----------------------------------------------------------------------------------- */

static int in_use(struct job *job)
{
	char where[200];

	if (image_is_mounted(job->o.path, where, sizeof(where)))
		return give_up(job, "is in use: mounted at %s", where);
	return give_up(job, "is in use by another program");
}

static int lock_image(struct job *job)
{
	bool look = job->o.mode == MODE_NEVER;
	int err = image_lock(job->fd, look ? IMAGE_LOCK_SHARED : 0, &job->backing_fd);

	if (err == -EBUSY && look) {
		fprintf(stderr, PROGRAM ": %s: is in use; what is found may come from changes going on\n", job->o.path);
		return 0;
	}
	if (err == -EBUSY)
		return in_use(job);
	return err ? give_up(job, "cannot be locked: %s", strerror(-err)) : 0;
}

static int open_image(struct job *job)
{
	bool look = job->o.mode == MODE_NEVER;
	struct stat st;

	if (stat(job->o.path, &st))
		return give_up(job, "%s", strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return give_up(job, "is neither a file nor a block device");
	int flags = O_CLOEXEC | (look ? O_RDONLY : O_RDWR) | (S_ISBLK(st.st_mode) && !look ? O_EXCL : 0);
	job->fd = open(job->o.path, flags);
	if (job->fd < 0 && job->o.mode == MODE_ASK && (errno == EACCES || errno == EROFS || errno == EPERM)) {
		job->o.mode = MODE_NEVER;
		job->fd = open(job->o.path, O_CLOEXEC | O_RDONLY);
	}
	if (job->fd < 0)
		return errno == EBUSY ? in_use(job) : give_up(job, "%s", strerror(errno));
	if (image_is_protected(job->fd) && job->o.mode == MODE_ASK)
		job->o.mode = MODE_NEVER;
	return lock_image(job);
}

static int open_undo_file(struct job *job)
{
	int err = undo_file_create(job->o.undo, job->dev, &job->undo);

	if (err == -EEXIST)
		return give_up(job, "the undo file %s exists already: remove it or name another; nothing was changed", job->o.undo);
	if (err == -EXDEV)
		return give_up(job, "the undo file %s would lie on the device itself; nothing was changed", job->o.undo);
	return err ? give_up(job, "the undo file %s cannot be made: %s; nothing was changed", job->o.undo, strerror(-err)) : 0;
}

/* From here on every write passes through the filter, those of a replay too. */
static int filter_undo(struct job *job)
{
	struct super sb;
	struct dev *filter;
	int err = volume_read_super(job->q, &job->diag, &sb);

	if (err)
		return give_up_errno(job, err);
	err = open_undo_file(job);
	if (err)
		return err;
	dev_queue_destroy(job->q);
	job->q = NULL;
	struct undo_sink sink = undo_file_sink(job->undo);
	err = dev_undo_create(job->dev, &sb, &sink, time(NULL), &filter);
	if (err) {
		undo_file_close(job->undo, false);
		job->undo = NULL;
		return give_up(job, "the undo file %s cannot be written: %s; nothing was changed", job->o.undo, strerror(-err));
	}
	job->dev = filter;
	err = dev_queue_create(job->dev, &job->q);
	return err ? give_up_errno(job, err) : 0;
}

static int open_device(struct job *job)
{
	unsigned flags = job->o.mode == MODE_NEVER ? DEV_OPEN_READ_ONLY : 0;
	int err = dev_open(job->o.path, DEV_ENGINE_AUTO, flags, &job->diag, &job->dev);

	if (!err)
		err = dev_queue_create(job->dev, &job->q);
	if (err)
		return give_up_errno(job, err);
	return job->o.undo && job->o.mode != MODE_NEVER ? filter_undo(job) : 0;
}

/* An undo file of nothing would only stand in the way of the next one. */
static void close_undo(struct job *job)
{
	bool changed = job->undo && job->q && dev_undo_saved(job->dev);
	int err = changed ? dev_undo_finish(job->q) : 0;

	if (err)
		diag(&job->diag, DIAG_ERR, "%s: the undo file lacks its end: %s", job->o.path, strerror(-err));
	undo_file_close(job->undo, changed);
	job->undo = NULL;
	if (!changed)
		return;
	job->oc.undo_file = job->o.undo;
	if (!job->out.json)
		printf("%s: to undo what was changed: holdfast undo %s %s\n", job->o.path, job->o.undo, job->o.path);
}

/* --- checking ---------------------------------------------------------------------------------- */

static void show_finding(void *arg, const struct fsck_finding *f)
{
	struct job *job = arg;

	output_finding(&job->out, f);
}

static void show_progress(void *arg, unsigned pass, uint64_t done, uint64_t total)
{
	struct job *job = arg;

	output_progress(&job->out, pass, done, total);
}

static unsigned shown_per_code(const struct job *job)
{
	return job->out.verbose ? 0 : SHOWN_PER_CODE;
}

static int look_at_roots(struct job *job)
{
	struct fsck_opts opts = {0};
	int err = fsck_check_roots(job->q, &opts, &job->res);

	return err ? give_up_errno(job, err) : 0;
}

int job_check(struct job *job, bool heal)
{
	struct fsck_opts opts = {
		.data = job->o.data,
		.heal = heal,
		.try_replay = true,
		.max_per_code = shown_per_code(job),
		.found = show_finding,
		.progress = job->out.progress_fd >= 0 ? show_progress : NULL,
		.cancelled = is_cancelled,
		.arg = job,
		.diag = &job->diag,
	};
	int err = fsck_check(job->q, &opts, &job->res);

	job->oc.full = true;
	return err && err != -ECANCELED ? give_up_errno(job, err) : err;
}

static bool may_write(const struct job *job)
{
	return job->o.mode == MODE_PREEN || job->o.mode == MODE_YES;
}

static int check_all(struct job *job)
{
	int err = job_check(job, may_write(job));

	if (!err)
		err = mend(job);
	if (err != -ECANCELED)
		return err;
	fprintf(stderr, PROGRAM ": %s: cancelled\n", job->o.path);
	job->oc.error = "cancelled";
	job->oc.status |= EXIT_CANCELLED;
	return err;
}

/* --- replay ------------------------------------------------------------------------------------ */

/* Signals are held, and Ctrl-C is an answer, too: it stays pending, for is_cancelled(). */
static bool wait_for_answer(const struct job *job)
{
	struct pollfd p[2] = {
		{.fd = STDIN_FILENO, .events = POLLIN},
		{.fd = job->stop.held ? signalfd(-1, &job->stop.set, SFD_CLOEXEC) : -1, .events = POLLIN},
	};

	while (poll(p, 2, -1) < 0 && errno == EINTR)
		;
	if (p[1].fd >= 0)
		close(p[1].fd);
	return !p[1].revents;
}

bool job_ask(struct job *job, const char *question)
{
	char answer[16];

	if (job->out.json || !isatty(STDIN_FILENO))
		return false;
	printf("%s: %s (y/N) ", job->o.path, question);
	fflush(stdout);
	if (!wait_for_answer(job)) {
		putchar('\n');
		return false;
	}
	return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

static bool may_replay(struct job *job)
{
	if (job->o.mode != MODE_ASK)
		return job->o.mode != MODE_NEVER;
	return job_ask(job, "was not unmounted cleanly. Replay the journal?");
}

/*
 * Opening replays, and repairs copies of what it reads; closing makes the clean root.  What stands in its way is
 * for the check to find and to name.
 */
static int replay(struct job *job)
{
	struct volume_config cfg = {0};
	struct volume *v;
	int err = volume_open(job->q, &cfg, &job->diag, &v);

	if (err) {
		diag(&job->diag, DIAG_ERR, "%s: the journal was not replayed: %s", job->o.path, strerror(-err));
		job->replay_err = err;
		return 0;
	}
	job->oc.replayed = true;
	job->oc.replayed_frames = v->recovery.frames;
	job->oc.replayed_bytes = v->recovery.bytes;
	err = volume_close(v, job->q);
	if (err)
		return give_up(job, "the replayed journal could not be written: %s", strerror(-err));
	job->oc.status |= EXIT_CORRECTED;
	if (job->out.json)
		return look_at_roots(job);
	if (job->oc.replayed_frames)
		printf("%s: recovered: %llu transactions replayed, %llu bytes\n", job->o.path,
		       (unsigned long long)job->oc.replayed_frames, (unsigned long long)job->oc.replayed_bytes);
	else
		printf("%s: recovered: no transaction had to be replayed; a new root was written\n", job->o.path);
	return look_at_roots(job);
}

/* The option is the user's word, so there is no question. */
static int truncate_log(struct job *job)
{
	struct fsck_opts opts = {.max_per_code = shown_per_code(job), .found = show_finding, .arg = job};
	int err = job->o.mode == MODE_NEVER ? -EACCES : fsck_check_journal(job->q, &opts, &job->res);

	if (err)
		return give_up_errno(job, err);
	struct volume_recovery *rec = &job->oc.truncated;

	err = truncate_journal(job->q, &job->diag, rec);
	if (err == -ENODATA)
		return give_up(job, "the journal is not damaged; nothing was truncated");
	job->o.force = true;
	if (err && job->o.mode == MODE_YES) {
		diag(&job->diag, DIAG_WARNING, "%s: the journal cannot be truncated by itself: %s; the repair does it", job->o.path,
		     strerror(-err));
		return 0;
	}
	if (err)
		return give_up(job, "the journal cannot be truncated: %s; with -y as well a repair may do it", strerror(-err));
	job->oc.status |= EXIT_CORRECTED;
	job->oc.was_truncated = true;
	output_truncated(&job->out, &job->oc);
	return look_at_roots(job);
}

/* Damage that somebody has met is a reason to look, once. */
static int forget_damage(struct job *job)
{
	struct volume_config cfg = {0};
	struct volume *v;
	int err = volume_open(job->q, &cfg, &job->diag, &v);

	if (err)
		return give_up(job, "the count of damage could not be written: %s", strerror(-err));
	volume_lock(v);
	volume_forget_damage(v);
	volume_unlock(v);
	err = volume_close(v, job->q);
	if (err)
		return give_up(job, "the count of damage could not be written: %s", strerror(-err));
	if (!job->out.json)
		printf("%s: damage was met %llu times while it was mounted, and none is found%s\n", job->o.path,
		       (unsigned long long)job->res.error_count, job->o.data ? "" : " now; --data reads the contents of files, too");
	return 0;
}

/* Nothing more to be looked at. */
static bool is_clean(const struct job *job)
{
	return job->res.root_clean && job->res.roots_ok && !job->o.force && !job->o.truncate && !job->res.error_count;
}

static int check_volume(struct job *job)
{
	/* What is clean needs no writing. */
	bool look = !job->o.truncate || image_is_protected(job->fd);
	int err = look ? look_at_roots(job) : truncate_log(job);

	if (!err && is_clean(job))
		return 0;
	if (!err && image_is_protected(job->fd) && job->o.mode != MODE_NEVER)
		return give_up(job, "is write-protected; -n only looks");
	if (!err && !(job->res.root_clean && job->res.roots_ok) && may_replay(job))
		err = replay(job);
	if (err)
		return err;
	if (is_clean(job))
		return 0;
	err = check_all(job);
	/* Nothing that a check can find stood in its way: the device takes no writes, say. */
	if (!err && job->replay_err && !job->res.root_clean && !job->res.nerrors)
		err = job->replay_err == -EFBIG ? give_up_errno(job, -EFBIG) :
						  give_up(job, "its journal could not be replayed: %s", strerror(-job->replay_err));
	if (!err && job->res.error_count && job->res.root_clean && !job->res.nerrors && may_write(job))
		err = forget_damage(job);
	return err;
}

/* --- main -------------------------------------------------------------------------------------- */

static double seconds_since(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

static void close_image(struct job *job)
{
	if (job->q)
		dev_queue_destroy(job->q);
	if (job->dev)
		dev_close(job->dev);
	if (job->fd >= 0)
		close(job->fd);
	if (job->backing_fd >= 0)
		close(job->backing_fd);
}

int main(int argc, char **argv)
{
	struct job job = {.fd = -1, .backing_fd = -1, .out.progress_fd = -1, .oc.seconds = -1};
	struct timespec start;
	int rc = streams_reserve() ? parse_command(argc, argv, &job) : (int)EXIT_OPERATION;

	if (rc >= 0)
		return rc || streams_finish(PROGRAM) ? rc : (int)EXIT_OPERATION;
	clock_gettime(CLOCK_MONOTONIC, &start);
	stop_hold(&job.stop);
	limit_lift();
	/* Who has stopped reading does not stop a repair; the status will tell. */
	if (job.o.mode != MODE_NEVER)
		signal(SIGPIPE, SIG_IGN);
	job.diag = (struct diag){.emit = emit, .arg = &job};
	output_begin(&job.out);
	int err = open_image(&job);
	if (!err)
		err = open_device(&job);
	if (!err)
		err = check_volume(&job);
	close_undo(&job);
	if (job.o.timing)
		job.oc.seconds = seconds_since(&start);
	output_end(&job.out, &job.res, &job.oc, shown_per_code(&job));
	close_image(&job);
	if (!streams_finish(PROGRAM))
		job.oc.status |= EXIT_OPERATION;
	return (int)job.oc.status;
}
