/* SPDX-License-Identifier: Apache-2.0 */
/* scrub_output.h - what `holdfast scrub` shows: a progress line, findings, a summary; or one JSON object. */
#ifndef HOLDFAST_TOOLS_SCRUB_OUTPUT_H
#define HOLDFAST_TOOLS_SCRUB_OUTPUT_H

#include "core/json.h"
#include "tools/tool.h"

struct scrub_output {
	const char *path;
	bool json;
	struct json j;
	bool line; /* the progress line is on the terminal */
	uint64_t shown_ms;
};

void scrub_output_begin(struct scrub_output *o);
void scrub_output_progress(struct scrub_output *o, const struct holdfast_scrub_status *st);
void scrub_output_finding(struct scrub_output *o, const struct holdfast_scrub_finding *f);
void scrub_output_end(struct scrub_output *o, const struct holdfast_scrub_status *st);

#endif
