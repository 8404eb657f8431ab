/* SPDX-License-Identifier: Apache-2.0 */
/* salvage.c - see salvage.h. */
#include "fsck/salvage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "journal/volume.h"

/* Above every generation that has been seen: a root that cannot be read now may be readable later, and must not be the newer one then. */
#define GENERATION_JUMP 1024u

struct salvage {
	struct dev_queue *q;
	const struct fsck_result *found;
	const struct super *sb;
	const struct repair_opts *opts;
	struct scan scan;
	struct rootmap map;
	struct disk_root *root;	/* 4096 bytes; of a found node, if no root is left */
	bool have_root;		/* one is left */
	struct item_source *fill;
	struct overlay *overlay;
	struct salvage_log log;
};

static void tell(const struct salvage *s, enum rebuild_what what, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static void tell(const struct salvage *s, enum rebuild_what what, const char *fmt, ...)
{
	char text[200];
	va_list ap;

	if (!s->opts->note)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	s->opts->note(s->opts->arg, &(struct rebuild_note){.what = what, .ino = FSCK_NOWHERE, .text = text});
}

static int find_root(struct salvage *s)
{
	int err = volume_read_root(s->q, s->sb, NULL, false, s->root);

	s->have_root = !err;
	if (err == -ENOMEM)
		return err;
	if (err)
		err = salvage_root(s->q, s->sb, &s->scan, s->root);
	if (err == -ENOENT)
		diag(s->opts->diag, DIAG_ERR, "%s: neither a root nor a single node of the tree is left", s->q->dev->path);
	return err == -ENOENT ? -ENODATA : err;
}

static int open_sources(struct salvage *s)
{
	int err = rootmap_init(&s->map, s->q, s->sb, s->have_root ? s->root : NULL);

	if (!err)
		err = fill_source_open(s->q, s->sb, s->root, &s->map, &s->scan, s->opts, &s->fill);
	if (!err)
		err = overlay_create(s->q, s->sb, s->fill, s->opts, &s->overlay);
	return err;
}

static int lay_log_over(struct salvage *s)
{
	int err = s->have_root ? salvage_log_of_root(s->q, s->sb, s->root, s->overlay, &s->log) :
				 salvage_log_newest(s->q, s->sb, s->overlay, &s->log);

	overlay_seal(s->overlay);
	return err;
}

static void tell_before(const struct salvage *s)
{
	const struct fill_stats *st = fill_source_stats(s->fill);

	if (!s->have_root)
		tell(s, REBUILD_LOST, "no root is left: the newest tree that was found on the device is of checkpoint %llu",
		     (unsigned long long)get64(s->root->h.generation));
	if (st->leaves)
		tell(s, REBUILD_KEPT, "leaves of the tree that were found by searching the device: %llu", (unsigned long long)st->leaves);
	if (st->stale)
		tell(s, REBUILD_LOST, "of these may be out of date: %llu; names and files may be as they were some time ago",
		     (unsigned long long)st->stale);
	if (s->scan.unreadable)
		tell(s, REBUILD_LOST, "blocks that cannot be read: %llu", (unsigned long long)s->scan.unreadable);
	if (overlay_txns(s->overlay))
		tell(s, REBUILD_KEPT, "transactions of the journal that were taken over: %llu",
		     (unsigned long long)overlay_txns(s->overlay));
	if (s->log.gap)
		tell(s, REBUILD_LOST, "parts of the journal are damaged: changes that were acknowledged may be lost");
}

/* A clean root's log goes on where it is: nothing was ever written behind.  Unless it was, and the root lies: then what was laid over
 * the tree must not validate once more. */
static uint64_t next_lsn(const struct salvage *s)
{
	bool empty = s->have_root && s->found->root_clean && !s->found->log_frames;

	return empty ? get64(s->root->replay_lsn) : s->log.restart_lsn;
}

static uint64_t next_ino(const struct salvage *s)
{
	uint64_t n = s->have_root ? get64(s->root->next_ino) : s->scan.next_ino;

	return overlay_next_ino(s->overlay) > n ? overlay_next_ino(s->overlay) : n;
}

static int rebuild_all(struct salvage *s, struct repair_result *out)
{
	struct rebuild_opts ro = {
		.note = s->opts->note,
		.progress = s->opts->progress,
		.cancelled = s->opts->cancelled,
		.arg = s->opts->arg,
		.diag = s->opts->diag,
	};
	struct rebuild_base base = {
		.root = s->have_root ? s->root : NULL,
		.generation = s->have_root ? get64(s->root->h.generation) : s->scan.max_generation + GENERATION_JUMP,
		.next_ino = next_ino(s),
		.log_lsn = next_lsn(s),
	};

	/* Nodes of a checkpoint or a repair that was interrupted may be newer than the root. */
	if (base.generation < s->scan.max_generation)
		base.generation = s->scan.max_generation;
	int err = rebuild(s->q, s->sb, &base, overlay_source(s->overlay), &ro, &out->rebuild);

	out->rebuilt = !err;
	return err;
}

static int run(struct salvage *s, struct repair_result *out)
{
	struct scan_opts so = {.progress = s->opts->progress, .cancelled = s->opts->cancelled, .arg = s->opts->arg};
	int err = scan_device(s->q, s->sb, &so, &s->scan);

	if (!err)
		err = find_root(s);
	if (!err)
		err = open_sources(s);
	if (!err)
		err = lay_log_over(s);
	if (err)
		return err;
	tell_before(s);
	return rebuild_all(s, out);
}

int salvage(struct dev_queue *q, const struct fsck_result *found, const struct repair_opts *opts, struct repair_result *out)
{
	struct salvage s = {.q = q, .found = found, .sb = &found->sb, .opts = opts};

	s.root = dev_alloc(BLOCK_SIZE, true);
	int err = s.root ? run(&s, out) : -ENOMEM;

	overlay_free(s.overlay);
	fill_source_close(s.fill);
	rootmap_fini(&s.map);
	scan_free(&s.scan);
	free(s.root);
	return err;
}
