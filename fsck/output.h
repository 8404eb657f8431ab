/* SPDX-License-Identifier: Apache-2.0 */
/* output.h - what fsck.holdfast shows: lines for people, or one JSON object; progress. */
#ifndef HOLDFAST_FSCK_OUTPUT_H
#define HOLDFAST_FSCK_OUTPUT_H

#include "core/json.h"
#include "fsck/check.h"
#include "fsck/rebuild.h"
#include "journal/volume.h"

struct output {
	const char *path;
	bool json, verbose;
	int progress_fd;	/* -1: none; 0: a bar on stdout */
	struct json j;
	bool left;		/* findings are those of the check after a repair */
	int bar;		/* per mille shown last; -1: none */
};

void output_begin(struct output *o);
void output_finding(struct output *o, const struct fsck_finding *f);
/* What follows is of another kind: "repairs" (notes) or "left" (findings). */
void output_section(struct output *o, const char *name);
void output_note(struct output *o, const struct rebuild_note *n);
void output_progress(struct output *o, unsigned pass, uint64_t done, uint64_t total);

struct outcome {
	unsigned status;	/* the exit status */
	bool replayed;
	uint64_t replayed_frames, replayed_bytes;
	bool was_truncated;	/* the journal was, and then this is how: */
	struct volume_recovery truncated;
	bool full;		/* everything was checked, not only the roots */
	const char *error;	/* why nothing could be checked, or NULL */
	const char *advice;	/* what is to be done about damage that is left, or NULL */
	uint64_t nrepaired;	/* findings that a second check did not make again */
	bool rebuilt;
	const char *undo_file;	/* what was changed is in it, or NULL */
	double seconds;		/* negative: do not show */
};
/* What a truncation of the journal kept and dropped.  In JSON it is part of the end. */
void output_truncated(struct output *o, const struct outcome *oc);
/* The last line, or the rest of the JSON object. */
void output_end(struct output *o, const struct fsck_result *res, const struct outcome *oc, unsigned max_per_code);

#endif
