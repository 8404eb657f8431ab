/* SPDX-License-Identifier: Apache-2.0 */
/* dirty.c - see the header. */
#include "fs/dirty.h"

#include <dirent.h>
#include <stdio.h>
#include <unistd.h>

#include "core/format.h"
#include "fs/fs.h"

#define MIN_LIMIT (UINT64_C(1) << 20)
#define MAX_LIMIT (UINT64_C(64) << 20)
#define VOLUME_SHARE 128 /* of the volume, as the limit */
#define RESERVE_SHARE 8 /* of the volume, as the most that may be kept for it */

static uint64_t read_number(const char *path, uint64_t otherwise)
{
	FILE *f = fopen(path, "re");
	unsigned long long n = otherwise;

	if (f && fscanf(f, "%llu", &n) != 1)
		n = otherwise;
	if (f)
		fclose(f);
	return n;
}

/* Is there a mount's file that we could write?  It is the kernel's (since 6.2) and our rights that count, not which one. */
static bool can_limit(void)
{
	DIR *d = opendir("/sys/class/bdi");
	const struct dirent *e;
	bool can = false;

	while (d && !can && (e = readdir(d))) {
		char path[320];

		snprintf(path, sizeof(path), "/sys/class/bdi/%s/max_ratio_fine", e->d_name);
		can = e->d_name[0] != '.' && access(path, W_OK) == 0;
	}
	if (d)
		closedir(d);
	return can;
}

void dirty_look(struct dirty_system *out)
{
	uint64_t bytes = read_number("/proc/sys/vm/dirty_bytes", 0);
	uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);

	if (!bytes)
		bytes = memory / 100 * read_number("/proc/sys/vm/dirty_ratio", 100);
	*out = (struct dirty_system){.total = bytes, .can_limit = geteuid() == 0 && can_limit()};
}

/* Who writes looks at the limit only now and then, so that many who write at once exceed it. */
static uint64_t with_excess(uint64_t limit)
{
	return limit + limit / 2 + (UINT64_C(1) << 20);
}

static bool affordable(uint64_t limit, uint64_t nblocks)
{
	return fs_cached_reserve(with_excess(limit)) <= nblocks / RESERVE_SHARE;
}

struct dirty_plan dirty_plan(const struct dirty_system *sys, uint64_t nblocks)
{
	uint64_t limit = sys->total / 100, want = nblocks * BLOCK_SIZE / VOLUME_SHARE;
	struct dirty_plan plan = {0};

	if (sys->can_limit) {
		want = want < MIN_LIMIT ? MIN_LIMIT : want > MAX_LIMIT ? MAX_LIMIT : want;
		limit = want < limit ? want : limit;
		plan.ratio = (uint32_t)(limit * DIRTY_RATIO_ONE / (sys->total ? sys->total : 1));
		plan.ratio += plan.ratio == 0;
	}
	if (affordable(limit, nblocks))
		plan.cached_bytes = with_excess(limit);
	return plan;
}
