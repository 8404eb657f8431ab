/* SPDX-License-Identifier: Apache-2.0 */
/* scrub_output.c - see the header. */
#include "tools/scrub_output.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/printable.h"
#include "core/size.h"
#include "fs/scrub.h"

#define LINE_EVERY_MS 200

static const char *const state_names[] = {
	[HOLDFAST_SCRUB_NEVER] = "never",   [HOLDFAST_SCRUB_RUNNING] = "running",
	[HOLDFAST_SCRUB_DONE] = "done",     [HOLDFAST_SCRUB_CANCELLED] = "cancelled",
	[HOLDFAST_SCRUB_FAILED] = "failed",
};

static const char *state_name(uint32_t state)
{
	return state < sizeof(state_names) / sizeof(state_names[0]) ? state_names[state] : "unknown";
}

/* --- progress ---------------------------------------------------------------------------------- */

static uint64_t bytes_per_second(const struct holdfast_scrub_status *st)
{
	return st->ms ? (uint64_t)((double)st->done * 1000 / (double)st->ms) : 0;
}

static void line_clear(struct scrub_output *o)
{
	if (o->line)
		fprintf(stderr, "\r%-78s\r", "");
	o->line = false;
}

void scrub_output_progress(struct scrub_output *o, const struct holdfast_scrub_status *st)
{
	uint64_t rate = bytes_per_second(st),
		 left = rate && st->total > st->done ? (st->total - st->done) / rate : 0;
	char done[SIZE_TEXT], total[SIZE_TEXT], speed[SIZE_TEXT], text[100];

	if (!st->total || !isatty(STDERR_FILENO) || (o->line && st->ms - o->shown_ms < LINE_EVERY_MS))
		return;
	o->shown_ms = st->ms;
	o->line = true;
	snprintf(text, sizeof(text), "%5.1f%%  %s of %s, %s/s, %" PRIu64 ":%02" PRIu64 ":%02" PRIu64 " left",
		 100.0 * (double)st->done / (double)st->total, size_format(st->done, done),
		 size_format(st->total, total), size_format(rate, speed), left / 3600, left / 60 % 60,
		 left % 60);
	fprintf(stderr, "\r%-78s", text);
}

/* --- findings ---------------------------------------------------------------------------------- */

static const char *kind_name(uint32_t kind)
{
	switch (kind) {
	case SCRUB_COPY:
		return "copy";
	case SCRUB_META:
		return "metadata";
	case SCRUB_DATA:
		return "data";
	default:
		return "unknown";
	}
}

static void finding_json(struct json *j, const struct holdfast_scrub_finding *f)
{
	json_object(j, NULL);
	json_string(j, "kind", kind_name(f->kind));
	json_bool(j, "repaired", f->repaired);
	json_u64(j, "block", f->blkno);
	if (f->kind == SCRUB_DATA) {
		json_u64(j, "inode", f->ino);
		json_u64(j, "offset", f->off);
		json_u64(j, "length", f->len);
		if (f->path[0])
			json_string(j, "file", f->path);
	}
	json_string(j, "text", f->text);
	json_end_object(j);
}

void scrub_output_finding(struct scrub_output *o, const struct holdfast_scrub_finding *f)
{
	if (o->json) {
		finding_json(&o->j, f);
		return;
	}
	line_clear(o);
	printf("%s: ", o->path);
	printable_put(stdout, f->text);
	putchar('\n');
	fflush(stdout);
}

/* --- begin and end ----------------------------------------------------------------------------- */

void scrub_output_begin(struct scrub_output *o)
{
	if (!o->json)
		return;
	o->j = json_make(stdout);
	json_object(&o->j, NULL);
	json_string(&o->j, "path", o->path);
	json_array(&o->j, "findings");
}

static void end_json(struct json *j, const struct holdfast_scrub_status *st)
{
	json_end_array(j);
	json_string(j, "state", state_name(st->state));
	if (st->error)
		json_string(j, "error", strerror(-st->error));
	json_u64(j, "begun_sec", st->begun_sec);
	json_u64(j, "ms", st->ms);
	json_u64(j, "rate_limit", st->rate);
	json_u64(j, "done_bytes", st->done);
	json_u64(j, "total_bytes", st->total);
	json_u64(j, "meta_blocks", st->meta_blocks);
	json_u64(j, "data_blocks", st->data_blocks);
	json_u64(j, "bad_copies", st->bad_copies);
	json_u64(j, "repaired", st->repaired);
	json_u64(j, "lost_meta", st->lost_meta);
	json_u64(j, "lost_data", st->lost_data);
	json_u64(j, "lost_files", st->lost_files);
	json_end_object(j);
}

static void show_verdict(const struct holdfast_scrub_status *st)
{
	const char *sep = "";

	if (st->repaired) {
		printf("%" PRIu64 " blocks of metadata repaired", st->repaired);
		sep = ", ";
	}
	if (st->bad_copies > st->repaired) {
		printf("%s%" PRIu64 " bad copies of metadata not repaired", sep,
		       st->bad_copies - st->repaired);
		sep = ", ";
	}
	if (st->lost_meta) {
		printf("%s%" PRIu64 " blocks of metadata lost (fsck.holdfast)", sep, st->lost_meta);
		sep = ", ";
	}
	if (st->lost_data) {
		printf("%s%" PRIu64 " blocks of data lost, in %" PRIu64 " files", sep, st->lost_data,
		       st->lost_files);
		sep = ", ";
	}
	if (!*sep)
		fputs("nothing wrong", stdout);
}

static void end_text(const struct scrub_output *o, const struct holdfast_scrub_status *st)
{
	char done[SIZE_TEXT], total[SIZE_TEXT], rate[SIZE_TEXT];

	if (st->state == HOLDFAST_SCRUB_NEVER) {
		printf("%s: has not been scrubbed since it was mounted\n", o->path);
		return;
	}
	printf("%s: scrub %s", o->path, state_name(st->state));
	if (st->error)
		printf(": %s", strerror(-st->error));
	printf(": %s of %s in %.1f s (%s/s), %" PRIu64 " blocks of metadata and %" PRIu64
	       " of data verified: ",
	       size_format(st->done, done), size_format(st->total, total), (double)st->ms / 1000,
	       size_format(bytes_per_second(st), rate), st->meta_blocks, st->data_blocks);
	show_verdict(st);
	putchar('\n');
}

void scrub_output_end(struct scrub_output *o, const struct holdfast_scrub_status *st)
{
	line_clear(o);
	if (o->json)
		end_json(&o->j, st);
	else
		end_text(o, st);
}
