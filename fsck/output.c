/* SPDX-License-Identifier: Apache-2.0 */
/* output.c - findings and the summary, for people or as JSON. */
#include "fsck/output.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include "core/printable.h"
#include "core/size.h"

/* --- findings ---------------------------------------------------------------------------------- */

void output_begin(struct output *o)
{
	o->bar = -1;
	if (!o->json)
		return;
	o->j = json_make(stdout);
	json_object(&o->j, NULL);
	json_string(&o->j, "path", o->path);
	json_array(&o->j, "findings");
}

static void finding_json(struct json *j, const struct fsck_finding *f)
{
	const struct fsck_code_info *info = fsck_code_info(f->code);

	json_object(j, NULL);
	json_string(j, "code", info->code);
	json_string(j, "name", info->name);
	json_string(j, "severity", info->severity == FSCK_ERROR ? "error" : "info");
	json_string(j, "text", f->text);
	if (f->blkno != FSCK_NOWHERE)
		json_u64(j, "block", f->blkno);
	if (f->ino != FSCK_NOWHERE)
		json_u64(j, "inode", f->ino);
	if (f->offset != FSCK_NOWHERE)
		json_u64(j, "offset", f->offset);
	json_end_object(j);
}

static void bar_clear(struct output *o)
{
	if (o->bar >= 0)
		printf("\r%-60s\r", "");
	o->bar = -1;
}

void output_finding(struct output *o, const struct fsck_finding *f)
{
	const struct fsck_code_info *info = fsck_code_info(f->code);

	if (o->json) {
		finding_json(&o->j, f);
		return;
	}
	bar_clear(o);
	printf("%s: %s%s %s: ", o->path, o->left ? "left: " : "", info->code, info->name);
	printable_put(stdout, f->text);
	putchar('\n');
}

/* --- repairs ----------------------------------------------------------------------------------- */

void output_section(struct output *o, const char *name)
{
	o->left = name[0] == 'l';
	if (!o->json)
		return;
	json_end_array(&o->j);
	json_array(&o->j, name);
}

static void note_json(struct json *j, const struct rebuild_note *n)
{
	json_object(j, NULL);
	json_bool(j, "lost", n->what == REBUILD_LOST);
	json_string(j, "text", n->text);
	if (n->path)
		json_string(j, "path", n->path);
	if (n->ino != FSCK_NOWHERE)
		json_u64(j, "inode", n->ino);
	json_end_object(j);
}

void output_note(struct output *o, const struct rebuild_note *n)
{
	if (o->json) {
		note_json(&o->j, n);
		return;
	}
	bar_clear(o);
	printf("%s: %s: ", o->path, n->what == REBUILD_LOST ? "lost" : "repaired");
	if (n->path) {
		printable_put(stdout, n->path);
		printf(": ");
	}
	if (n->ino != FSCK_NOWHERE)
		printf("inode %" PRIu64 ": ", n->ino);
	printable_put(stdout, n->text);
	putchar('\n');
}

/* --- progress ---------------------------------------------------------------------------------- */

static void show_bar(struct output *o, unsigned pass, uint64_t done, uint64_t total)
{
	static const char full[] = "========================================";
	int mille = total ? (int)((double)done * 1000 / (double)total) : 1000;

	if (mille == o->bar || !isatty(STDOUT_FILENO))
		return;
	o->bar = mille;
	printf("\r%u |%-40.*s| %3d.%d%%", pass, mille / 25, full, mille / 10, mille % 10);
	fflush(stdout);
}

void output_progress(struct output *o, unsigned pass, uint64_t done, uint64_t total)
{
	if (o->progress_fd > 0)
		dprintf(o->progress_fd, "%u %" PRIu64 " %" PRIu64 " %s\n", pass, done, total, o->path);
	else if (o->progress_fd == 0 && !o->json)
		show_bar(o, pass, done, total);
}

/* --- the journal cut off ----------------------------------------------------------------------- */

static uint64_t truncated_at(const struct volume_recovery *rec)
{
	return rec->dropped_frames ? rec->replayed_lsn : rec->tail.end_lsn;
}

/* From the cut to the last trace of the old log, or to what is known to have been durable. */
static uint64_t truncated_bytes(const struct volume_recovery *rec)
{
	uint64_t end = rec->tail.end_lsn + rec->tail.lost_bytes;

	end = rec->tail.proven_lsn > end ? rec->tail.proven_lsn : end;
	return end - truncated_at(rec);
}

void output_truncated(struct output *o, const struct outcome *oc)
{
	const struct volume_recovery *rec = &oc->truncated;

	if (o->json)
		return;
	bar_clear(o);
	printf("%s: journal truncated at LSN %" PRIu64 ": %" PRIu64 " transactions before it replayed; dropped: %" PRIu64
	       " bytes, %" PRIu64 " whole transactions among them\n",
	       o->path, truncated_at(rec), rec->frames, truncated_bytes(rec), rec->dropped_frames + rec->tail.lost_frames);
}

/* --- the end ----------------------------------------------------------------------------------- */

static void summary_json(struct json *j, const struct fsck_result *res)
{
	char uuid[UUID_STR_LEN];

	uuid_unparse_lower(res->sb.uuid, uuid);
	json_string(j, "uuid", uuid);
	json_string(j, "label", res->sb.label);
	json_u64(j, "blocks", res->sb.nblocks);
	json_u64(j, "free_blocks", res->nfree);
	json_u64(j, "inodes", res->ninodes);
	json_u64(j, "generation", res->generation);
	json_bool(j, "unmounted_cleanly", res->root_clean);
	json_u64(j, "mount_errors", res->error_count);
}

static void full_json(struct json *j, const struct fsck_result *res)
{
	json_u64(j, "files", res->nfiles);
	json_u64(j, "directories", res->ndirs);
	json_u64(j, "other_inodes", res->nothers);
	json_u64(j, "orphans", res->norphans);
	json_u64(j, "files_with_blocks", res->nmapped);
	json_u64(j, "files_in_pieces", res->nsplit);
	json_u64(j, "file_blocks", res->nmapped_blocks);
	json_u64(j, "extents", res->nextents);
	json_u64(j, "pieces", res->npieces);
	json_u64(j, "journal_transactions", res->log_frames);
	json_u64(j, "journal_bytes", res->log_bytes);
	json_u64(j, "data_blocks_verified", res->data_blocks);
	json_u64(j, "errors", res->nerrors);
	json_object(j, "counts");
	for (unsigned i = 0; i < FSCK_NCODES; i++)
		if (res->count[i])
			json_u64(j, fsck_code_info(i)->code, res->count[i]);
	json_end_object(j);
}

static void truncated_json(struct json *j, const struct volume_recovery *rec)
{
	json_object(j, "journal_truncated");
	json_u64(j, "lsn", truncated_at(rec));
	json_u64(j, "kept_transactions", rec->frames);
	json_u64(j, "dropped_bytes", truncated_bytes(rec));
	json_u64(j, "dropped_whole_transactions", rec->dropped_frames + rec->tail.lost_frames);
	json_end_object(j);
}

static void end_json(struct output *o, const struct fsck_result *res, const struct outcome *oc)
{
	struct json *j = &o->j;

	json_end_array(j);
	if (oc->error)
		json_string(j, "error", oc->error);
	else
		summary_json(j, res);
	json_bool(j, "replayed", oc->replayed);
	json_u64(j, "replayed_transactions", oc->replayed_frames);
	if (oc->was_truncated)
		truncated_json(j, &oc->truncated);
	if (oc->undo_file)
		json_string(j, "undo_file", oc->undo_file);
	json_u64(j, "repaired", oc->nrepaired);
	json_bool(j, "rebuilt", oc->rebuilt);
	if (oc->advice)
		json_string(j, "advice", oc->advice);
	json_bool(j, "full_check", oc->full);
	if (oc->full && !oc->error)
		full_json(j, res);
	if (oc->seconds >= 0)
		json_u64(j, "milliseconds", (uint64_t)(oc->seconds * 1000));
	json_u64(j, "exit_status", oc->status);
	json_end_object(j);
}

static void end_cut_short(const struct output *o, const struct fsck_result *res, unsigned max_per_code)
{
	for (unsigned i = 0; max_per_code && i < FSCK_NCODES; i++)
		if (res->count[i] > max_per_code)
			printf("%s: %s %s: %" PRIu64 " more of these (-v shows all)\n", o->path, fsck_code_info(i)->code,
			       fsck_code_info(i)->name, res->count[i] - max_per_code);
}

static const char *plural(uint64_t n)
{
	return n == 1 ? "" : "s";
}

static void end_text(const struct output *o, const struct fsck_result *res, const struct outcome *oc)
{
	uint64_t used = res->sb.nblocks - res->nfree;

	if (res->count[FSCK_LOG_DAMAGED] || res->count[FSCK_LOG_UNREADABLE])
		printf("%s: to give up the changes at stake and go on with the state before them: fsck.holdfast --truncate-journal\n",
		       o->path);
	printf("%s: ", o->path);
	if (oc->nrepaired)
		printf("%" PRIu64 " problem%s repaired, ", oc->nrepaired, plural(oc->nrepaired));
	if (res->nerrors && oc->advice)
		printf("%" PRIu64 " problem%s left (%s), ", res->nerrors, plural(res->nerrors), oc->advice);
	else if (res->nerrors)
		printf("%" PRIu64 " problem%s left, ", res->nerrors, plural(res->nerrors));
	else if (!res->root_clean)
		printf("not unmounted cleanly, no damage found, ");
	else
		printf("clean, ");
	/* Without a root nothing is known of either. */
	if (res->generation)
		printf("%" PRIu64 " inodes, %" PRIu64 "/%" PRIu64 " blocks\n", res->ninodes, used, res->sb.nblocks);
	else
		printf("no root to go by, %" PRIu64 " blocks\n", res->sb.nblocks);
}

static void end_verbose(const struct fsck_result *res)
{
	char text[SIZE_TEXT], uuid[UUID_STR_LEN];

	uuid_unparse_lower(res->sb.uuid, uuid);
	printf("    UUID %s, label \"", uuid);
	printable_put(stdout, res->sb.label);
	printf("\", checkpoint %" PRIu64 "\n", res->generation);
	printf("    %" PRIu64 " files, %" PRIu64 " directories, %" PRIu64 " others, %" PRIu64 " waiting to be cleaned up\n",
	       res->nfiles, res->ndirs, res->nothers, res->norphans);
	printf("    %" PRIu64 " files with blocks, %" PRIu64 " extents in %" PRIu64 " pieces (%.1f %% of files in more than one)\n",
	       res->nmapped, res->nextents, res->npieces, res->nmapped ? 100.0 * (double)res->nsplit / (double)res->nmapped : 0.0);
	printf("    journal of %s: %" PRIu64 " transactions to be replayed\n",
	       size_format(res->sb.journal_nblocks * BLOCK_SIZE, text), res->log_frames);
	if (res->data_blocks)
		printf("    contents verified: %s\n", size_format(res->data_blocks * BLOCK_SIZE, text));
}

void output_end(struct output *o, const struct fsck_result *res, const struct outcome *oc, unsigned max_per_code)
{
	if (o->json) {
		end_json(o, res, oc);
		return;
	}
	bar_clear(o);
	if (!oc->error) {
		end_cut_short(o, res, max_per_code);
		end_text(o, res, oc);
		if (o->verbose && oc->full)
			end_verbose(res);
	}
	if (oc->seconds >= 0)
		printf("%s: %.3f seconds\n", o->path, oc->seconds);
}
