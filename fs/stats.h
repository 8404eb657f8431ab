/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.h - what a mounted volume counts: one table of names, one collector.
 *
 * The daemon's ioctl, its log on SIGUSR1 and `holdfast stats` all go through here.
 */
#ifndef HOLDFAST_FS_STATS_H
#define HOLDFAST_FS_STATS_H

#include "fs/fs.h"
#include "fs/ioctl.h"

enum stats_group { STATS_FILES, STATS_VOLUME, STATS_SPACE, STATS_JOURNAL, STATS_CACHE, STATS_DEVICE, STATS_SCRUB, STATS_NGROUPS };

/*
 * name, group, kind, what it is.  The order is part of the ioctl: new ones go to the end.
 *   COUNT  only grows while mounted       GAUGE  goes up and down
 *   BYTES  a COUNT of bytes               LEVEL  a GAUGE of bytes
 */
#define STATS_COUNTERS(X)                                                                                \
	X(inodes, FILES, GAUGE, "inodes the kernel holds")                                               \
	X(reads, FILES, COUNT, "READ requests")                                                          \
	X(read_bytes, FILES, BYTES, "read from files")                                                   \
	X(writes, FILES, COUNT, "WRITE requests")                                                        \
	X(write_bytes, FILES, BYTES, "written to files")                                                 \
	X(fsyncs, FILES, COUNT, "fsync and sync")                                                        \
	X(fdatasyncs, FILES, COUNT, "fdatasync")                                                         \
	X(in_flight_bytes, FILES, LEVEL, "data on its way to the device")                                \
	X(csum_errors, FILES, COUNT, "blocks of data that did not match their checksum")                 \
	X(txns, VOLUME, COUNT, "transactions committed")                                                 \
	X(retries, VOLUME, COUNT, "steps run again for want of something in memory")                     \
	X(checkpoints, VOLUME, COUNT, "checkpoints")                                                     \
	X(checkpoint_nodes, VOLUME, COUNT, "tree nodes written by checkpoints")                          \
	X(checkpoint_pages, VOLUME, COUNT, "blocks of logged data placed by checkpoints")                \
	X(loads, VOLUME, COUNT, "blocks of metadata read")                                               \
	X(repairs, VOLUME, COUNT, "bad copies of metadata rewritten from good ones")                     \
	X(errors, VOLUME, GAUGE, "damage met since mkfs or a check that found none")                     \
	X(last_error_sec, VOLUME, GAUGE, "when last, seconds of the epoch; 0: never")                    \
	X(mounts, VOLUME, GAUGE, "mounts for writing since mkfs")                                        \
	X(generation, VOLUME, GAUGE, "number of the last checkpoint")                                    \
	X(replayed_txns, VOLUME, GAUGE, "transactions replayed by this mount")                           \
	X(replayed_bytes, VOLUME, LEVEL, "of journal replayed by this mount")                            \
	X(all_inodes, SPACE, GAUGE, "inodes on the volume")                                              \
	X(blocks, SPACE, GAUGE, "blocks of 4 KiB on the volume")                                         \
	X(blocks_free, SPACE, GAUGE, "free now")                                                         \
	X(blocks_pending, SPACE, GAUGE, "freed, usable after the next checkpoint")                       \
	X(blocks_reserved, SPACE, GAUGE, "promised to the next checkpoint, or kept for removals and cached writes")        \
	X(journal_size, JOURNAL, LEVEL, "size of the journal")                                           \
	X(journal_used, JOURNAL, LEVEL, "of it in use")                                                  \
	X(appends, JOURNAL, COUNT, "frames")                                                             \
	X(append_bytes, JOURNAL, BYTES, "in frames")                                                     \
	X(groups, JOURNAL, COUNT, "groups made durable")                                                 \
	X(group_bytes, JOURNAL, BYTES, "in groups")                                                      \
	X(waits, JOURNAL, COUNT, "syncs that had to wait")                                               \
	X(flushes, JOURNAL, COUNT, "flushes of the device for data that a group names")                          \
	X(cache_bytes, CACHE, LEVEL, "tree nodes in memory")                                             \
	X(cache_dirty_bytes, CACHE, LEVEL, "of them changed since the last checkpoint")                  \
	X(cache_limit, CACHE, LEVEL, "limit of those that are not")                                      \
	X(staged_bytes, CACHE, LEVEL, "logged data waiting for a checkpoint")                            \
	X(lookups, CACHE, COUNT, "descents into the tree")                                               \
	X(misses, CACHE, COUNT, "of them that found a node missing")                                     \
	X(evictions, CACHE, COUNT, "nodes evicted")                                                      \
	X(tree_levels, CACHE, GAUGE, "height of the tree")                                               \
	X(dev_reads, DEVICE, COUNT, "reads")                                                             \
	X(dev_read_bytes, DEVICE, BYTES, "read")                                                         \
	X(dev_writes, DEVICE, COUNT, "writes")                                                           \
	X(dev_write_bytes, DEVICE, BYTES, "written")                                                     \
	X(dev_durable_writes, DEVICE, COUNT, "of the writes: durable ones")                              \
	X(dev_flushes, DEVICE, COUNT, "flushes")                                                         \
	X(dev_discards, DEVICE, COUNT, "discards")                                                       \
	X(dev_errors, DEVICE, COUNT, "operations that failed")                                           \
	X(dev_in_flight, DEVICE, GAUGE, "operations under way")                                          \
	X(dev_queue_depth, DEVICE, GAUGE, "operations that one queue has under way at most")                    \
	X(scrub_running, SCRUB, GAUGE, "1: a scrub is under way")                                        \
	X(scrub_begun_sec, SCRUB, GAUGE, "when the last one began, seconds of the epoch; 0: none yet")   \
	X(scrub_done_bytes, SCRUB, LEVEL, "looked at by it")                                             \
	X(scrub_total_bytes, SCRUB, LEVEL, "to be looked at")                                            \
	X(scrub_repaired, SCRUB, GAUGE, "blocks of metadata that it has mended")                         \
	X(scrub_lost_meta, SCRUB, GAUGE, "blocks of metadata that it found lost")                        \
	X(scrub_lost_data, SCRUB, GAUGE, "blocks of file contents that it found lost")

enum stats_kind { STATS_COUNT, STATS_GAUGE, STATS_BYTES, STATS_LEVEL };

#define STATS_ENUM(name, group, kind, text) STATS_##name,
enum stats_counter { STATS_COUNTERS(STATS_ENUM) STATS_N };
#undef STATS_ENUM

struct stats_info {
	const char *name;
	enum stats_group group;
	enum stats_kind kind;
	const char *text;
};
extern const struct stats_info stats_infos[STATS_N];
extern const char *const stats_group_names[STATS_NGROUPS];

/* "ok", "read-only", "failed" */
const char *stats_state_name(uint32_t state);

/* Fills state, reason, identity, source, engine and counters; the rest is the caller's.  Any thread, no lock held. */
void stats_collect(struct fs *fs, struct holdfast_stats *out);

/* "what: name=value name=value ...", one line for each group. */
void stats_log(const struct holdfast_stats *s, const char *what, const struct diag *d);

#endif
