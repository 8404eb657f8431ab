/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - the simulation's command line: seeds over processes, progress, failures, report. */
#include "core/bug.h"
#include "tests/sim/proc.h"

#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_JOBS     64u
#define MAX_FAILURES 10u

struct failure {
	uint64_t seed;
	struct verdict verdict;
};

struct job {
	pid_t pid;		/* 0: ended */
	uint64_t next;		/* seed */
	struct slot *slot;
};

struct work {
	uint64_t first, last;
	unsigned njobs, minutes, shrink_seconds;
	const struct profile *profile;
	bool faults, verbose, digest;
	struct slot *slots;	/* one per job, and one for shrinking */
	struct job job[MAX_JOBS];
	struct failure failure[MAX_FAILURES];
	unsigned nfailures, max_failures;
	double begin;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* --- a worker ---------------------------------------------------------------------------------- */

static bool is_time_up(const struct work *w)
{
	return w->minutes && now() - w->begin >= 60.0 * w->minutes;
}

static _Noreturn void worker(struct work *w, struct job *job)
{
	struct slot *slot = job->slot;
	struct lab *lab = lab_new(&slot->cov);

	proc_assertions(&slot->verdict);
	for (uint64_t seed = job->next; seed <= w->last && seed >= w->first && !is_time_up(w); seed += w->njobs) {
		atomic_store(&slot->seed, seed);
		memset(&slot->verdict, 0, sizeof(slot->verdict));
		proc_limit();
		struct plan *plan = plan_make(seed, w->profile, w->faults);

		run_plan(lab, plan, &slot->verdict, NULL);
		plan_free(plan);
		slot->digest += hash_mix(seed, slot->verdict.digest);
		atomic_fetch_add(&slot->done, 1);
	}
	lab_free(lab);
	/* The sanitizers' leak check is part of exit(). */
	exit(0);
}

static void job_start(struct work *w, struct job *job)
{
	fflush(NULL);
	job->pid = fork();
	if (!job->pid)
		worker(w, job);
	if (job->pid < 0) {
		perror("sim: fork");
		exit(2);
	}
}

/* --- the parent -------------------------------------------------------------------------------- */

static void sum_up(const struct work *w, struct coverage *cov, uint64_t *seeds, uint64_t *digest)
{
	memset(cov, 0, sizeof(*cov));
	*seeds = *digest = 0;
	for (unsigned i = 0; i < w->njobs; i++) {
		*seeds += atomic_load(&w->slots[i].done);
		*digest += w->slots[i].digest;
#define COVERAGE_SUM(name, text) cov->name += w->slots[i].cov.name;
		COVERAGE(COVERAGE_SUM)
#undef COVERAGE_SUM
	}
}

static void progress(const struct work *w)
{
	struct coverage cov;
	uint64_t seeds, digest;
	double t = now() - w->begin;

	sum_up(w, &cov, &seeds, &digest);
	fprintf(stderr, "\r%llu seeds, %llu power cuts, %.0f seeds/s, %.0f cuts/s, %u failures ",
		(unsigned long long)seeds, (unsigned long long)cov.cuts, (double)seeds / t, (double)cov.cuts / t,
		w->nfailures);
}

static void job_ended(struct work *w, struct job *job, int status)
{
	struct slot *slot = job->slot;

	job->pid = 0;
	if (!proc_verdict(&slot->verdict, status))
		return;
	struct failure *f = &w->failure[w->nfailures++];

	f->seed = atomic_load(&slot->seed);
	f->verdict = slot->verdict;
	fprintf(stderr, "\rseed %llu: %s: %s\n", (unsigned long long)f->seed, f->verdict.kind, f->verdict.text);
	atomic_fetch_add(&slot->done, 1);
	job->next = f->seed + w->njobs;
	if (w->nfailures < w->max_failures && job->next <= w->last)
		job_start(w, job);
}

static bool any_alive(const struct work *w)
{
	for (unsigned i = 0; i < w->njobs; i++) {
		if (w->job[i].pid)
			return true;
	}
	return false;
}

static void reap(struct work *w)
{
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (unsigned i = 0; i < w->njobs; i++) {
			if (w->job[i].pid == pid && w->nfailures < w->max_failures)
				job_ended(w, &w->job[i], status);
			else if (w->job[i].pid == pid)
				w->job[i].pid = 0;
		}
	}
	for (unsigned i = 0; i < w->njobs && w->nfailures == w->max_failures; i++) {
		if (w->job[i].pid)
			kill(w->job[i].pid, SIGKILL);
	}
}

static void run_all(struct work *w)
{
	bool terminal = isatty(STDERR_FILENO);
	double shown = now();

	for (unsigned i = 0; i < w->njobs; i++) {
		w->job[i] = (struct job){.next = w->first + i, .slot = &w->slots[i]};
		if (w->job[i].next <= w->last)
			job_start(w, &w->job[i]);
	}
	while (any_alive(w)) {
		usleep(20000);
		reap(w);
		if (terminal && now() - shown > 0.5) {
			progress(w);
			shown = now();
		}
	}
	if (terminal)
		fprintf(stderr, "\r%*s\r", 78, "");
}

/* --- report ------------------------------------------------------------------------------------ */

static const char *option_text(const struct work *w, char *text, size_t room)
{
	snprintf(text, room, "%s%s%s", w->profile ? " --profile " : "", w->profile ? w->profile->name : "",
		 w->faults ? " --faults" : "");
	return text;
}

static void report_failure(struct work *w, const struct failure *f)
{
	struct slot *slot = &w->slots[w->njobs];
	struct plan *plan = plan_make(f->seed, w->profile, w->faults), *best;
	char text[64];

	printf("FAILED: seed %llu: %s: %s\n", (unsigned long long)f->seed, f->verdict.kind, f->verdict.text);
	printf("Again:  sim --seed %llu%s --verbose\n", (unsigned long long)f->seed, option_text(w, text, sizeof(text)));
	best = shrink(slot, plan, &f->verdict, w->shrink_seconds, true);
	printf("Shortened:\n");
	if (!proc_run(slot, best, stdout))
		printf("(It does not fail every time.)\n");
	plan_free(best);
	plan_free(plan);
}

static void report(const struct work *w)
{
	struct coverage cov;
	uint64_t seeds, digest;
	double t = now() - w->begin;

	sum_up(w, &cov, &seeds, &digest);
#define COVERAGE_PRINT(name, text)                                                                                     \
	if (cov.name)                                                                                                  \
		printf("%12llu %s\n", (unsigned long long)cov.name, text);
	COVERAGE(COVERAGE_PRINT)
#undef COVERAGE_PRINT
	if (w->digest)
		printf("digest %016llx\n", (unsigned long long)digest);
	printf("%llu seeds, %llu power cuts, %llu faults; %.1f s, %.0f seeds/s, %.0f cuts/s; %u failed\n",
	       (unsigned long long)seeds, (unsigned long long)cov.cuts, (unsigned long long)cov.faults, t,
	       (double)seeds / t, (double)cov.cuts / t, w->nfailures);
}

/* --- command line ------------------------------------------------------------------------------ */

static void usage(FILE *out)
{
	fprintf(out, "usage: sim --seed N | --seeds A..B [--jobs N] [--profile NAME] [--faults] [--minutes M]\n"
		     "           [--verbose] [--digest] [--first] [--shrink SECONDS]\n\nprofiles:");
	for (unsigned i = 0; i < nprofiles; i++)
		fprintf(out, " %s", profiles[i].name);
	fprintf(out, "\n");
}

static _Noreturn void bad(const char *what, const char *value)
{
	fprintf(stderr, "sim: %s: '%s'\n", what, value);
	usage(stderr);
	exit(2);
}

static uint64_t number(const char *text, const char *what)
{
	char *end;

	errno = 0;
	uint64_t n = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-')
		bad(what, text);
	return n;
}

static void range(struct work *w, char *text)
{
	char *dots = strstr(text, "..");

	if (!dots)
		bad("--seeds takes A..B", text);
	*dots = 0;
	w->first = number(text, "not a seed");
	w->last = number(dots + 2, "not a seed");
	if (w->last < w->first || w->last == UINT64_MAX)
		bad("an empty range", dots + 2);
}

/* Only sim_bugs has deliberate mistakes to switch on. */
static void activate(const char *name)
{
#ifdef HOLDFAST_BUGS
	bug_active = bug_find(name);
	if (bug_active == BUG_NONE)
		bad("no such deliberate mistake", name);
#else
	bad("deliberate mistakes are in sim_bugs only", name);
#endif
}

static void parse(struct work *w, int argc, char **argv)
{
	static const struct option options[] = {
		{"seed", required_argument, NULL, 's'},	   {"seeds", required_argument, NULL, 'S'},
		{"jobs", required_argument, NULL, 'j'},	   {"profile", required_argument, NULL, 'p'},
		{"faults", no_argument, NULL, 'f'},	   {"minutes", required_argument, NULL, 'm'},
		{"verbose", no_argument, NULL, 'v'},	   {"digest", no_argument, NULL, 'd'},
		{"shrink", required_argument, NULL, 'k'},  {"first", no_argument, NULL, '1'},
		{"bug", required_argument, NULL, 'b'},	   {"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	bool seeds = false;
	int c;

	while ((c = getopt_long(argc, argv, "j:h", options, NULL)) != -1) {
		switch (c) {
		case 's':
			w->first = w->last = number(optarg, "not a seed");
			seeds = true;
			break;
		case 'S':
			range(w, optarg);
			seeds = true;
			break;
		case 'j':
			w->njobs = (unsigned)number(optarg, "not a number of jobs");
			if (!w->njobs || w->njobs > MAX_JOBS)
				bad("1 to 64 jobs", optarg);
			break;
		case 'p':
			w->profile = profile_find(optarg);
			if (!w->profile)
				bad("no such profile", optarg);
			break;
		case 'f':
			w->faults = true;
			break;
		case 'm':
			w->minutes = (unsigned)number(optarg, "not a number of minutes");
			break;
		case 'v':
			w->verbose = true;
			break;
		case 'd':
			w->digest = true;
			break;
		case 'k':
			w->shrink_seconds = (unsigned)number(optarg, "not a number of seconds");
			break;
		case '1':
			w->max_failures = 1;
			break;
		case 'b':
			activate(optarg);
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			usage(stderr);
			exit(2);
		}
	}
	if (optind < argc)
		bad("an argument too many", argv[optind]);
	if (!seeds && w->minutes) {
		w->first = 1;
		w->last = UINT64_MAX - MAX_JOBS;
	} else if (!seeds) {
		usage(stderr);
		exit(2);
	}
}

/* One seed with everything that happens in it. */
static int replay(struct work *w)
{
	struct plan *plan = plan_make(w->first, w->profile, w->faults);
	bool failed = proc_run(&w->slots[0], plan, stdout);

	if (failed)
		printf("\nFAILED: seed %llu: %s: %s\n", (unsigned long long)w->first, w->slots[0].verdict.kind,
		       w->slots[0].verdict.text);
	else
		printf("digest %08x\n", w->slots[0].verdict.digest);
	plan_free(plan);
	return failed;
}

int main(int argc, char **argv)
{
	static struct work w = {.njobs = 1, .max_failures = MAX_FAILURES, .shrink_seconds = 60};

	parse(&w, argc, argv);
	/* What one seed gives back the next one takes: no trips to the kernel. */
	mallopt(M_MMAP_THRESHOLD, 64 << 20);
	mallopt(M_TRIM_THRESHOLD, 256 << 20);
	w.slots = slots_new(w.njobs + 1);
	w.begin = now();
	if (w.verbose && w.first == w.last)
		return replay(&w);
	run_all(&w);
	if (w.nfailures)
		report_failure(&w, &w.failure[0]);
	report(&w);
	return w.nfailures > 0;
}
