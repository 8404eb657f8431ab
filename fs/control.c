/* SPDX-License-Identifier: Apache-2.0 */
/* control.c - see the header. */
#include "fs/control.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* The structure is `io`: what the caller gave, the rest zeros; then the answer. */
typedef int control_fn(struct control *c, void *io);

static int do_stats(struct control *c, void *io)
{
	control_stats(c, io);
	return 0;
}

static int do_scrub_start(struct control *c, void *io)
{
	return scrub_job_start(c->scrub, io);
}

static int do_scrub_status(struct control *c, void *io)
{
	scrub_job_status(c->scrub, io);
	return 0;
}

static int do_scrub_finding(struct control *c, void *io)
{
	return scrub_job_finding(c->scrub, io);
}

static int do_scrub_cancel(struct control *c, void *io)
{
	(void)io;
	return scrub_job_cancel(c->scrub);
}

/* --- the table --- */

#define ANYBODY 1u /* else root and the owner of the mount */

static const struct row {
	unsigned nr;
	unsigned flags;
	size_t bytes; /* of the structure, either way */
	control_fn *run;
} rows[] = {
	{HOLDFAST_NR_STATS, ANYBODY, sizeof(struct holdfast_stats), do_stats},
	{HOLDFAST_NR_SCRUB_START, 0, sizeof(struct holdfast_scrub_start), do_scrub_start},
	{HOLDFAST_NR_SCRUB_STATUS, ANYBODY, sizeof(struct holdfast_scrub_status), do_scrub_status},
	{HOLDFAST_NR_SCRUB_FINDING, 0, sizeof(struct holdfast_scrub_finding), do_scrub_finding},
	{HOLDFAST_NR_SCRUB_CANCEL, 0, 0, do_scrub_cancel},
};

static const struct row *row_find(unsigned cmd)
{
	if (_IOC_TYPE(cmd) != HOLDFAST_IOC_TYPE)
		return NULL;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (rows[i].nr == _IOC_NR(cmd))
			return &rows[i];
	return NULL;
}

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

int control_run(struct control *c, uid_t uid, unsigned cmd, const void *in, size_t in_len, void *out,
		size_t out_room, size_t *out_len)
{
	_Alignas(16) char io[CONTROL_MAX] = {0};
	const struct row *row = row_find(cmd);

	if (!row)
		return -ENOTTY;
	if (!(row->flags & ANYBODY) && uid != 0 && uid != c->owner)
		return -EPERM;
	assert(row->bytes <= sizeof(io));
	if (in_len)
		memcpy(io, in, least(in_len, row->bytes));

	int err = row->run(c, io);

	if (err)
		return err;
	if (row->bytes) {
		struct holdfast_head head = {.magic = HOLDFAST_IOC_MAGIC, .bytes = (uint32_t)row->bytes};

		memcpy(io, &head, sizeof(head));
	}
	*out_len = least(out_room, row->bytes);
	if (*out_len)
		memcpy(out, io, *out_len);
	return 0;
}

static void collect_scrub(const struct control *c, uint64_t *counter)
{
	struct holdfast_scrub_status st;

	scrub_job_status(c->scrub, &st);
	counter[STATS_scrub_running] = st.state == HOLDFAST_SCRUB_RUNNING;
	counter[STATS_scrub_begun_sec] = st.begun_sec;
	counter[STATS_scrub_done_bytes] = st.done;
	counter[STATS_scrub_total_bytes] = st.total;
	counter[STATS_scrub_repaired] = st.repaired;
	counter[STATS_scrub_lost_meta] = st.lost_meta;
	counter[STATS_scrub_lost_data] = st.lost_data;
}

void control_stats(const struct control *c, struct holdfast_stats *out)
{
	struct timespec now;

	memset(out, 0, sizeof(*out));
	stats_collect(c->fs, out);
	collect_scrub(c, out->counter);
	clock_gettime(CLOCK_MONOTONIC, &now);
	out->now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
	out->mounted_sec = c->mounted_sec;
	memcpy(out->options, c->options, sizeof(out->options));
	snprintf(out->transport, sizeof(out->transport), "%s", c->transport);
	snprintf(out->requests, sizeof(out->requests), "%s", c->requests);
	snprintf(out->sandbox, sizeof(out->sandbox), "%s", c->sandbox);
}
