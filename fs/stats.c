/* SPDX-License-Identifier: Apache-2.0 */
/* stats.c - see the header. */
#include "fs/stats.h"

#include <stdio.h>
#include <string.h>

#include "fs/fs_impl.h"

#define STATS_ROW(name, group, kind, text) [STATS_##name] = {#name, STATS_##group, STATS_##kind, text},
const struct stats_info stats_infos[STATS_N] = {STATS_COUNTERS(STATS_ROW)};
#undef STATS_ROW

const char *const stats_group_names[STATS_NGROUPS] = {
	[STATS_FILES] = "files",     [STATS_VOLUME] = "volume", [STATS_SPACE] = "space",
	[STATS_JOURNAL] = "journal", [STATS_CACHE] = "cache",   [STATS_DEVICE] = "device",
	[STATS_SCRUB] = "scrub",
};

static_assert(STATS_N <= sizeof(((struct holdfast_stats *)0)->counter) / sizeof(uint64_t), "they fit");
static_assert(sizeof(struct holdfast_stats) < 1u << _IOC_SIZEBITS, "an ioctl can carry them");

const char *stats_state_name(uint32_t state)
{
	static const char *const names[] = {
		[HOLDFAST_OK] = "ok",
		[HOLDFAST_READ_ONLY] = "read-only",
		[HOLDFAST_FAILED] = "failed",
	};

	return state < sizeof(names) / sizeof(names[0]) ? names[state] : "unknown";
}

static void collect_files(struct fs *fs, uint64_t *c)
{
	struct fs_stats s;

	fs_get_stats(fs, &s);
	c[STATS_inodes] = s.known_inodes;
	c[STATS_reads] = s.reads;
	c[STATS_read_bytes] = s.read_bytes;
	c[STATS_writes] = s.writes;
	c[STATS_write_bytes] = s.write_bytes;
	c[STATS_fsyncs] = s.fsyncs;
	c[STATS_fdatasyncs] = s.fdatasyncs;
	c[STATS_in_flight_bytes] = s.flight_bytes;
	c[STATS_csum_errors] = s.csum_errors;
}

/* Lock held, as in the next two. */
static void collect_volume(const struct volume *v, uint64_t *c)
{
	c[STATS_txns] = v->stats.txns;
	c[STATS_retries] = v->stats.retries;
	c[STATS_checkpoints] = v->stats.checkpoints;
	c[STATS_checkpoint_nodes] = v->stats.checkpoint_nodes;
	c[STATS_checkpoint_pages] = v->stats.checkpoint_pages;
	c[STATS_loads] = v->stats.loads;
	c[STATS_repairs] = v->stats.repairs;
	c[STATS_errors] = v->error_count;
	c[STATS_last_error_sec] = v->last_error_sec;
	c[STATS_mounts] = v->mount_count;
	c[STATS_generation] = v->generation;
	c[STATS_replayed_txns] = v->recovery.frames;
	c[STATS_replayed_bytes] = v->recovery.bytes;
	c[STATS_all_inodes] = v->ninodes;
}

static void collect_space(const struct volume *v, uint64_t *c)
{
	struct alloc_space s;

	alloc_get_space(v->alloc, &s);
	c[STATS_blocks] = s.nblocks;
	c[STATS_blocks_free] = s.nfree;
	c[STATS_blocks_pending] = s.npending;
	c[STATS_blocks_reserved] = s.reserved + s.emergency + s.cached;
}

static void collect_cache(const struct volume *v, uint64_t *c)
{
	struct tree_stats s;

	tree_get_stats(v->tree, &s);
	c[STATS_cache_bytes] = s.cached * BLOCK_SIZE;
	c[STATS_cache_dirty_bytes] = s.dirty * BLOCK_SIZE;
	c[STATS_cache_limit] = s.limit * BLOCK_SIZE;
	c[STATS_staged_bytes] = stage_bytes(v->stage);
	c[STATS_lookups] = s.lookups;
	c[STATS_misses] = s.misses;
	c[STATS_evictions] = s.evictions;
	c[STATS_tree_levels] = s.level + 1;
}

static void collect_journal(const struct volume *v, uint64_t *c)
{
	struct log_stats s = {0};

	c[STATS_journal_size] = v->sb.journal_nblocks * BLOCK_SIZE;
	if (!v->log)
		return;
	log_get_stats(v->log, &s);
	c[STATS_journal_used] = log_used(v->log);
	c[STATS_appends] = s.appends;
	c[STATS_append_bytes] = s.append_bytes;
	c[STATS_groups] = s.groups;
	c[STATS_group_bytes] = s.group_bytes;
	c[STATS_waits] = s.syncs;
	c[STATS_flushes] = s.flushes;
}

static void collect_device(struct dev *dev, uint64_t *c)
{
	struct dev_stats s;

	dev_get_stats(dev, &s);
	c[STATS_dev_reads] = s.reads;
	c[STATS_dev_read_bytes] = s.read_bytes;
	c[STATS_dev_writes] = s.writes;
	c[STATS_dev_write_bytes] = s.write_bytes;
	c[STATS_dev_durable_writes] = s.durable_writes;
	c[STATS_dev_flushes] = s.flushes;
	c[STATS_dev_discards] = s.discards;
	c[STATS_dev_errors] = s.errors;
	c[STATS_dev_in_flight] = s.in_flight;
	c[STATS_dev_queue_depth] = dev->queue_depth;
}

static void collect_state(const struct volume *v, bool resting, struct holdfast_stats *out)
{
	out->state = v->flags & VOLUME_READ_ONLY || resting ? HOLDFAST_READ_ONLY : HOLDFAST_OK;
	if (!atomic_load(&v->failed))
		return;
	out->state = HOLDFAST_FAILED;
	snprintf(out->reason, sizeof(out->reason), "%s", v->failed_why);
}

static void collect_identity(const struct volume *v, struct holdfast_stats *out)
{
	memcpy(out->uuid, v->sb.uuid, sizeof(out->uuid));
	snprintf(out->source, sizeof(out->source), "%s", v->dev->path);
	snprintf(out->engine, sizeof(out->engine), "%s", v->dev->ops->name);
	snprintf(out->version, sizeof(out->version), "%s", HOLDFAST_VERSION);
}

void stats_collect(struct fs *fs, struct holdfast_stats *out)
{
	struct volume *v = fs->v;
	uint64_t *c = out->counter;

	out->ncounters = STATS_N;
	collect_identity(v, out);
	collect_files(fs, c);
	volume_lock(v);
	memcpy(out->label, v->sb.label, sizeof(out->label));
	collect_volume(v, c);
	collect_space(v, c);
	collect_cache(v, c);
	bool resting = v->resting;
	volume_unlock(v);
	collect_journal(v, c);
	collect_device(v->dev, c);
	/* Last: counters that are from after a failure must not come with a state from before it. */
	collect_state(v, resting, out);
}

static void log_group(const struct holdfast_stats *s, enum stats_group group, const char *what,
		      const struct diag *d)
{
	char text[480];
	size_t n = 0;

	for (unsigned i = 0; i < STATS_N && n < sizeof(text); i++) {
		if (stats_infos[i].group == group)
			n += (size_t)snprintf(text + n, sizeof(text) - n, " %s=%llu", stats_infos[i].name,
					      (unsigned long long)s->counter[i]);
	}
	diag(d, DIAG_NOTICE, "%s: %s:%s", what, stats_group_names[group], text);
}

void stats_log(const struct holdfast_stats *s, const char *what, const struct diag *d)
{
	diag(d, DIAG_NOTICE, "%s: state %s%s%s", what, stats_state_name(s->state), s->reason[0] ? ": " : "",
	     s->reason);
	for (unsigned g = 0; g < STATS_NGROUPS; g++)
		log_group(s, g, what, d);
}
