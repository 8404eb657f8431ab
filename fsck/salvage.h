/* SPDX-License-Identifier: Apache-2.0 */
/*
 * salvage.h - a rebuild from whatever nodes are left on the device.
 *
 * What is reachable from the newest root counts first.  Where that names nodes that are lost, the newest leaves that the scan has found
 * fill the gap.  Without a root the scan's newest node that can be one takes its place.  The journal is laid over the items, not
 * replayed, because replay needs a whole tree.
 *
 * salvage.c        the order of things
 * scan.c           every node on the device;  rootmap.c  what a root's bitmaps say of blocks
 * salvage_root.c   a root where none is left
 * source_fill.c    items of a damaged tree, gaps filled
 * overlay.c        transactions over items;  salvage_log.c  which transactions
 */
#ifndef HOLDFAST_FSCK_SALVAGE_H
#define HOLDFAST_FSCK_SALVAGE_H

#include "fsck/rebuild.h"
#include "fsck/repair.h"
#include "fsck/rootmap.h"
#include "fsck/scan.h"

/* As fsck_repair(); `found` has lost nodes or no root. */
int salvage(struct dev_queue *q, const struct fsck_result *found, const struct repair_opts *opts, struct repair_result *out);

/* --- salvage_root.c --- */

/* A root with nothing in it but the tree and its generation.  -ENOENT: the scan has no node at all. */
int salvage_root(struct dev_queue *q, const struct super *sb, const struct scan *scan, struct disk_root *root);

/* --- source_fill.c --- */

struct fill_stats {
	uint64_t leaves;	/* found by the scan and used */
	uint64_t stale;		/* of those: known to be out of date, or perhaps */
	uint64_t dropped;	/* blocks of extents in the latter whose contents are not the file's any more */
};

/* `note` (may be NULL) is told of dropped contents, once.  All but the opener's arguments is copied; they must stay. */
int fill_source_open(struct dev_queue *q, const struct super *sb, const struct disk_root *root, struct rootmap *map,
		     const struct scan *scan, const struct repair_opts *opts, struct item_source **out);
void fill_source_close(struct item_source *s);
const struct fill_stats *fill_source_stats(const struct item_source *s);

/* --- overlay.c --- */

struct overlay;

/* Over `base`, which stays the caller's. */
int overlay_create(struct dev_queue *q, const struct super *sb, struct item_source *base, const struct repair_opts *opts,
		   struct overlay **out);
void overlay_free(struct overlay *o);
struct item_source *overlay_source(struct overlay *o);

/* The next transaction in order.  -EUCLEAN: it makes no sense, and was not taken. */
int overlay_add(struct overlay *o, const void *payload, uint32_t len);
/* Forgets all of them: some that came before are missing. */
void overlay_reset(struct overlay *o);
/* No more come. */
void overlay_seal(struct overlay *o);

/* What OP_NEXT_INO has said; 0: nothing. */
uint64_t overlay_next_ino(const struct overlay *o);
uint64_t overlay_txns(const struct overlay *o);

/* --- salvage_log.c --- */

struct salvage_log {
	uint64_t restart_lsn;	/* where a log may go on */
	bool gap;		/* transactions are missing that may have been acknowledged */
};

/* Behind the root's applied_lsn, up to the log's end, or to the damage. */
int salvage_log_of_root(struct dev_queue *q, const struct super *sb, const struct disk_root *root, struct overlay *o,
			struct salvage_log *out);
/* Without a root: the newest groups that follow each other without a gap. */
int salvage_log_newest(struct dev_queue *q, const struct super *sb, struct overlay *o, struct salvage_log *out);

#endif
