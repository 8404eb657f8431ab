/* SPDX-License-Identifier: Apache-2.0 */
/*
 * info.c - holdfast info: what volume is this?
 *
 * Of an image or device it reads superblocks and roots, whatever state those are in, and writes nothing; a mount's daemon is asked.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include "core/image_lock.h"
#include "core/json.h"
#include "core/printable.h"
#include "core/size.h"
#include "fs/stats.h"
#include "fsck/check.h"
#include "tools/tool.h"

struct info {
	const char *path;
	bool json, mounted;
	int err; /* of reading superblocks and roots */
	struct fsck_result res;
	struct holdfast_stats stats; /* mounted */
	char where[200]; /* an image that is mounted: where; else empty */
};

static const char *time_text(int64_t sec, char text[40])
{
	time_t t = (time_t)sec;
	struct tm tm;

	if (!localtime_r(&t, &tm) || !strftime(text, 40, "%Y-%m-%d %H:%M:%S %z", &tm))
		snprintf(text, 40, "%" PRId64, sec);
	return text;
}

/* What the superblocks and roots say of how the volume was left. */
static const char *state_of(const struct info *in)
{
	if (in->mounted)
		return stats_state_name(in->stats.state);
	if (in->err == -ENOTSUP)
		return "unknown: made by a newer version";
	if (in->res.count[FSCK_ROOT_LOST])
		return "damaged: both checkpoint roots are lost";
	if (in->where[0])
		return "mounted";
	return in->res.root_clean ? "clean" : "not unmounted cleanly: the next mount replays the journal";
}

/* --- an image --- */

static int read_image(struct info *in)
{
	struct fsck_opts opts = {0};
	struct image im;
	int status = image_open(&im, in->path, IMAGE_LOOK);

	if (status)
		return status;
	in->err = fsck_check_roots(im.q, &opts, &in->res);
	image_close(&im);
	/* Of what a newer version made, the identity can still be told. */
	if (in->err && !(in->err == -ENOTSUP && in->res.sb.nblocks))
		return tool_refuse(in->path, "%s", tool_why_no_volume(in->err));
	if (!image_is_mounted(in->path, in->where, sizeof(in->where)))
		in->where[0] = '\0';
	return TOOL_OK;
}

static uint64_t bad_supers(const struct info *in)
{
	return in->res.count[FSCK_SUPER_COPY] + in->res.count[FSCK_SUPER_DIFFERS];
}

static void image_text(const struct info *in)
{
	const struct fsck_result *r = &in->res;
	const struct super *sb = &r->sb;
	char text[40], size[SIZE_TEXT];

	printf("journal        %s at block %" PRIu64 "\n",
	       size_format(sb->journal_nblocks * BLOCK_SIZE, size), sb->journal_blkno);
	printf("made           %s\n", time_text(sb->created_sec, text));
	printf("features       compat 0x%x, ro_compat 0x%x, incompat 0x%x\n", sb->compat, sb->ro_compat,
	       sb->incompat);
	printf("superblocks    %" PRIu64 " of %u copies good\n", SUPER_COPIES - bad_supers(in), SUPER_COPIES);
	if (in->err || r->count[FSCK_ROOT_LOST])
		return;
	printf("checkpoint     %" PRIu64 "%s\n", r->generation,
	       r->count[FSCK_ROOT_SLOT]   ? " (the other root is lost)"
	       : r->count[FSCK_ROOT_COPY] ? " (a copy of a root is damaged)"
					  : "");
	printf("free           %s\n", size_format(r->nfree * BLOCK_SIZE, size));
	printf("inodes         %" PRIu64 "\n", r->ninodes);
	printf("damage met     %" PRIu64 " times%s%s\n", r->error_count, r->error_count ? ", last " : "",
	       r->error_count ? time_text((int64_t)r->last_error_sec, text) : "");
	if (in->where[0])
		printf("mounted at     %s\n", in->where);
}

static void image_json(const struct info *in, struct json *j)
{
	const struct fsck_result *r = &in->res;
	const struct super *sb = &r->sb;

	json_u64(j, "journal_size", sb->journal_nblocks * BLOCK_SIZE);
	json_u64(j, "journal_first_block", sb->journal_blkno);
	json_i64(j, "made_sec", sb->created_sec);
	json_u64(j, "compat", sb->compat);
	json_u64(j, "ro_compat", sb->ro_compat);
	json_u64(j, "incompat", sb->incompat);
	json_u64(j, "good_superblocks", SUPER_COPIES - bad_supers(in));
	json_bool(j, "roots_ok", r->roots_ok);
	json_bool(j, "unmounted_cleanly", r->root_clean);
	json_u64(j, "generation", r->generation);
	json_u64(j, "free_blocks", r->nfree);
	json_u64(j, "inodes", r->ninodes);
	json_u64(j, "errors", r->error_count);
	json_u64(j, "last_error_sec", r->last_error_sec);
	if (in->where[0])
		json_string(j, "mounted_at", in->where);
}

/* --- a mount --- */

static int ask_mount(struct info *in)
{
	int status = tool_ask_stats(in->path, in->json, &in->stats);

	if (status)
		return status;
	/* What both ways tell alike. */
	memcpy(in->res.sb.uuid, in->stats.uuid, UUID_BYTES);
	memcpy(in->res.sb.label, in->stats.label, LABEL_BYTES);
	in->res.sb.nblocks = in->stats.counter[STATS_blocks];
	return TOOL_OK;
}

static void mount_text(const struct info *in)
{
	const struct holdfast_stats *s = &in->stats;
	char text[40], size[SIZE_TEXT];

	if (s->reason[0])
		printf("reason         %s\n", s->reason);
	printf("source         %s\n", s->source);
	printf("mounted        %s, as %s, options %s\n", time_text((int64_t)s->mounted_sec, text),
	       s->transport, s->options);
	printf("journal        %s\n", size_format(s->counter[STATS_journal_size], size));
	printf("checkpoint     %" PRIu64 "\n", s->counter[STATS_generation]);
	printf("free           %s\n", size_format(s->counter[STATS_blocks_free] * BLOCK_SIZE, size));
	printf("inodes         %" PRIu64 "\n", s->counter[STATS_all_inodes]);
	printf("damage met     %" PRIu64 " times\n", s->counter[STATS_errors]);
}

static void mount_json(const struct info *in, struct json *j)
{
	const struct holdfast_stats *s = &in->stats;

	json_string(j, "reason", s->reason);
	json_string(j, "source", s->source);
	json_string(j, "transport", s->transport);
	json_string(j, "options", s->options);
	json_u64(j, "mounted_sec", s->mounted_sec);
	json_u64(j, "journal_size", s->counter[STATS_journal_size]);
	json_u64(j, "generation", s->counter[STATS_generation]);
	json_u64(j, "free_blocks", s->counter[STATS_blocks_free]);
	json_u64(j, "inodes", s->counter[STATS_all_inodes]);
	json_u64(j, "errors", s->counter[STATS_errors]);
}

/* --- both --- */

static void show_text(const struct info *in)
{
	const struct super *sb = &in->res.sb;
	char uuid[UUID_STR_LEN], size[SIZE_TEXT];

	uuid_unparse_lower(sb->uuid, uuid);
	printf("uuid           %s\nlabel          ", uuid);
	printable_put(stdout, sb->label);
	printf("\nsize           %s, %" PRIu64 " blocks of 4 KiB\n",
	       size_format(sb->nblocks * BLOCK_SIZE, size), sb->nblocks);
	printf("state          %s\n", state_of(in));
	if (in->mounted)
		mount_text(in);
	else
		image_text(in);
}

static void show_json(const struct info *in)
{
	struct json j = json_make(stdout);
	char uuid[UUID_STR_LEN];

	uuid_unparse_lower(in->res.sb.uuid, uuid);
	json_object(&j, NULL);
	json_string(&j, "path", in->path);
	json_string(&j, "uuid", uuid);
	json_string(&j, "label", in->res.sb.label);
	json_u64(&j, "blocks", in->res.sb.nblocks);
	json_u64(&j, "block_size", BLOCK_SIZE);
	json_string(&j, "state", state_of(in));
	if (in->mounted)
		mount_json(in, &j);
	else
		image_json(in, &j);
	json_end_object(&j);
}

static int info_run(int argc, char **argv)
{
	static const struct option longs[] = {{"json", no_argument, NULL, 'j'}, {NULL, 0, NULL, 0}};
	struct info in = {0};
	int c, status;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c != 'j')
			return tool_usage(argv[0], NULL);
		in.json = true;
	}
	in.path = tool_operand(argc, argv);
	if (!in.path)
		return TOOL_USAGE;
	in.mounted = tool_is_dir(in.path);
	status = in.mounted ? ask_mount(&in) : read_image(&in);
	if (status)
		return status;
	if (in.json)
		show_json(&in);
	else
		show_text(&in);
	return in.err || in.res.nerrors || in.stats.state == HOLDFAST_FAILED ? TOOL_FOUND : TOOL_OK;
}

const struct verb verb_info = {
	.name = "info",
	.synopsis = "[--json] IMAGE|DEVICE|DIR",
	.summary = "Show what a volume is: identity, size, features, space, how it was left",
	.help = "  --json    as one JSON object\n"
		"\n"
		"Works on damaged images as well, and never writes.  DIR is a directory of a mounted "
		"volume.\n"
		"Exit status 1: damage in superblocks or roots, a failed mount, or no volume there.\n",
	.run = info_run,
};
