/* SPDX-License-Identifier: Apache-2.0 */
/* stats.c - holdfast stats: the state and the counters of a mounted volume, once or as they move. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include "core/json.h"
#include "core/size.h"
#include "core/stop.h"
#include "fs/stats.h"
#include "tools/tool.h"

struct options {
	const char *path;
	bool json;
	unsigned long interval, count; /* 0: once; 0: without end */
};

/* --- all of it --- */

static void show_counter(const struct holdfast_stats *s, unsigned i)
{
	const struct stats_info *info = &stats_infos[i];
	char size[SIZE_TEXT];

	printf("  %-20s %14" PRIu64 "  %s", info->name, s->counter[i], info->text);
	if ((info->kind == STATS_BYTES || info->kind == STATS_LEVEL) && s->counter[i] >= 1024)
		printf(" (%s)", size_format(s->counter[i], size));
	putchar('\n');
}

static unsigned known_counters(const struct holdfast_stats *s)
{
	return s->ncounters < STATS_N ? s->ncounters : STATS_N;
}

static void show_text(const struct holdfast_stats *s)
{
	time_t since = (time_t)s->mounted_sec;
	char uuid[UUID_STR_LEN], when[40] = "?";
	struct tm tm;

	uuid_unparse_lower(s->uuid, uuid);
	if (localtime_r(&since, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	printf("state     %s%s%s\n", stats_state_name(s->state), s->reason[0] ? ": " : "", s->reason);
	printf("volume    %s %s\n", uuid, s->source);
	printf("mounted   %s as %s, requests by %s, %s engine, version %s\n", when, s->transport,
	       s->requests[0] ? s->requests : "/dev/fuse", s->engine, s->version);
	printf("options   %s\n", s->options);
	printf("sandbox   %s\n", s->sandbox[0] ? s->sandbox : "unknown");
	for (unsigned g = 0; g < STATS_NGROUPS; g++) {
		printf("%s\n", stats_group_names[g]);
		for (unsigned i = 0; i < known_counters(s); i++)
			if (stats_infos[i].group == g)
				show_counter(s, i);
	}
}

static void show_json(const struct holdfast_stats *s)
{
	struct json j = json_make(stdout);
	char uuid[UUID_STR_LEN];

	uuid_unparse_lower(s->uuid, uuid);
	json_object(&j, NULL);
	json_string(&j, "state", stats_state_name(s->state));
	json_string(&j, "reason", s->reason);
	json_string(&j, "uuid", uuid);
	json_string(&j, "label", s->label);
	json_string(&j, "source", s->source);
	json_string(&j, "transport", s->transport);
	json_string(&j, "requests", s->requests);
	json_string(&j, "engine", s->engine);
	json_string(&j, "options", s->options);
	json_string(&j, "sandbox", s->sandbox);
	json_string(&j, "version", s->version);
	json_u64(&j, "mounted_sec", s->mounted_sec);
	json_u64(&j, "now_ms", s->now_ms);
	for (unsigned g = 0; g < STATS_NGROUPS; g++) {
		json_object(&j, stats_group_names[g]);
		for (unsigned i = 0; i < known_counters(s); i++)
			if (stats_infos[i].group == g)
				json_u64(&j, stats_infos[i].name, s->counter[i]);
		json_end_object(&j);
	}
	json_end_object(&j);
}

/* --- as they move --- */

#define HEADING_EVERY 20

/* Per second; what is counted in bytes as MiB. */
static double rate(const struct holdfast_stats *a, const struct holdfast_stats *b, enum stats_counter c)
{
	double seconds = (double)(b->now_ms - a->now_ms) / 1000,
	       unit = stats_infos[c].kind == STATS_BYTES ? 1 << 20 : 1;

	return seconds > 0 ? (double)(b->counter[c] - a->counter[c]) / unit / seconds : 0;
}

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * (double)part / (double)whole : 0;
}

static void show_rates(const struct holdfast_stats *a, const struct holdfast_stats *b, unsigned long line)
{
	if (line % HEADING_EVERY == 0)
		printf("%8s %8s %8s %8s %8s %8s | %8s %8s %8s %8s | %7s %6s %s\n", "reads/s", "MiB/s",
		       "writes/s", "MiB/s", "syncs/s", "txns/s", "dev r/s", "MiB/s", "dev w/s", "MiB/s",
		       "journal", "full", "state");
	printf("%8.0f %8.1f %8.0f %8.1f %8.0f %8.0f | %8.0f %8.1f %8.0f %8.1f | %6.1f%% %5.1f%% %s\n",
	       rate(a, b, STATS_reads), rate(a, b, STATS_read_bytes), rate(a, b, STATS_writes),
	       rate(a, b, STATS_write_bytes), rate(a, b, STATS_fsyncs) + rate(a, b, STATS_fdatasyncs),
	       rate(a, b, STATS_txns), rate(a, b, STATS_dev_reads), rate(a, b, STATS_dev_read_bytes),
	       rate(a, b, STATS_dev_writes), rate(a, b, STATS_dev_write_bytes),
	       percent(b->counter[STATS_journal_used], b->counter[STATS_journal_size]),
	       100 - percent(b->counter[STATS_blocks_free], b->counter[STATS_blocks]),
	       stats_state_name(b->state));
}

/* False: a signal has come. */
static bool wait_interval(const struct stop *stop, unsigned long seconds)
{
	struct timespec t = {.tv_sec = (time_t)seconds};

	return sigtimedwait(&stop->set, NULL, &t) < 0;
}

static int watch(const struct options *o, struct holdfast_stats *s)
{
	struct holdfast_stats before;
	struct stop stop;
	int status = TOOL_OK;

	stop_hold(&stop);
	for (unsigned long n = 0; !status && (!o->count || n < o->count) && wait_interval(&stop, o->interval);
	     n++) {
		before = *s;
		/* Opened each time: a file held open would be in the way of umount. */
		status = tool_ask_stats(o->path, o->json, s);
		if (status)
			break;
		if (o->json)
			show_json(s);
		else
			show_rates(&before, s, n);
		if (fflush(stdout))
			status = TOOL_FOUND;
	}
	return status;
}

static int stats_show(const struct options *o)
{
	struct holdfast_stats s;
	int status = tool_ask_stats(o->path, o->json, &s);

	if (!status && o->interval)
		status = watch(o, &s);
	else if (!status && o->json)
		show_json(&s);
	else if (!status)
		show_text(&s);
	if (!status && s.state == HOLDFAST_FAILED)
		status = TOOL_FOUND;
	return status;
}

static int stats_run(int argc, char **argv)
{
	static const struct option longs[] = {
		{"json", no_argument, NULL, 'j'},
		{"interval", required_argument, NULL, 'i'},
		{"count", required_argument, NULL, 'c'},
		{NULL, 0, NULL, 0},
	};
	struct options o = {0};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 'j')
			o.json = true;
		else if (c != 'i' && c != 'c')
			return tool_usage(argv[0], NULL);
		else if (!tool_number(argv[0], optarg, 1, c == 'i' ? &o.interval : &o.count))
			return TOOL_USAGE;
	}
	o.path = tool_operand(argc, argv);
	if (!o.path)
		return TOOL_USAGE;
	if (o.count && !o.interval)
		return tool_usage(argv[0], "--count goes with --interval");
	return stats_show(&o);
}

const struct verb verb_stats = {
	.name = "stats",
	.synopsis = "[--json] [--interval SECONDS [--count N]] DIR",
	.summary = "Show state and counters of a mounted volume",
	.help = "  --json               as JSON, one object a line\n"
		"  --interval SECONDS   rates, again and again, until Ctrl-C or the end of the mount\n"
		"  --count N            ... N times\n"
		"\n"
		"DIR is any file or directory of the mount.  No privilege is needed.\n"
		"Exit status 1: the volume has failed and is read-only (the state says why), or is not "
		"mounted there.\n",
	.run = stats_run,
};
