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

/* --- the table --- */

#define ANYBODY 1u /* else root and the owner of the mount */

static const struct row {
	unsigned nr;
	unsigned flags;
	size_t bytes; /* of the structure, either way */
	control_fn *run;
} rows[] = {
	{HOLDFAST_NR_STATS, ANYBODY, sizeof(struct holdfast_stats), do_stats},
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

int control_run(struct control *c, uid_t uid, unsigned cmd, const void *in, size_t in_len, void *out, size_t out_room,
		size_t *out_len)
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
	*out_len = least(out_room, row->bytes);
	if (*out_len)
		memcpy(out, io, *out_len);
	return 0;
}

void control_stats(const struct control *c, struct holdfast_stats *out)
{
	struct timespec now;

	memset(out, 0, sizeof(*out));
	stats_collect(c->fs, out);
	clock_gettime(CLOCK_MONOTONIC, &now);
	out->now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
	out->mounted_sec = c->mounted_sec;
	memcpy(out->options, c->options, sizeof(out->options));
	snprintf(out->transport, sizeof(out->transport), "%s", c->transport);
}
