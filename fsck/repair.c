/* SPDX-License-Identifier: Apache-2.0 */
/* repair.c - chooses the repair. */
#include "fsck/repair.h"

#include <stdlib.h>
#include <string.h>

#include "fsck/salvage.h"
#include "journal/volume.h"

enum repair_way repair_way(enum fsck_code code)
{
	switch (code) {
	case FSCK_SUPER_COPY:
	case FSCK_SUPER_DIFFERS:
	case FSCK_INODE_FLAGS:
	case FSCK_ROOT_COPY:
	case FSCK_TABLE_COPY:
	case FSCK_BITMAP_COPY:
	case FSCK_NODE_COPY:
		return REPAIR_COPY;
	case FSCK_DATA_CSUM:
	case FSCK_DATA_READ:
		return REPAIR_DATA;
	case FSCK_LOG_DAMAGED:
	case FSCK_LOG_UNREADABLE:
	case FSCK_LOG_MALFORMED:
	case FSCK_LOG_REPLAY:
		return REPAIR_LOG;
	default:
		return fsck_code_info(code)->severity == FSCK_ERROR ? REPAIR_REBUILD : REPAIR_NONE;
	}
}

uint64_t repair_left(const struct fsck_result *found, enum repair_way way)
{
	uint64_t n = 0;

	for (unsigned code = 0; code < FSCK_NCODES; code++)
		if (repair_way(code) == way)
			n += found->count[code] - found->healed[code];
	return n;
}

/* --- the journal ------------------------------------------------------------------------------- */

static int replay(struct dev_queue *q, const struct repair_opts *opts, struct repair_result *out)
{
	struct volume_config cfg = {0};
	struct volume *v;
	int err = volume_open(q, &cfg, opts->diag, &v);

	if (err) {
		diag(opts->diag, DIAG_ERR, "%s: the journal holds changes that cannot be replayed", q->dev->path);
		return err == -ENOMEM ? err : -EBADMSG;
	}
	out->replayed = true;
	out->replayed_frames = v->recovery.frames;
	return volume_close(v, q);
}

/* What there is after a replay. */
static int look_again(struct dev_queue *q, const struct repair_opts *opts, struct fsck_result *now)
{
	struct fsck_opts co = {.heal = true, .cancelled = opts->cancelled, .arg = opts->arg, .diag = opts->diag};

	return fsck_check(q, &co, now);
}

/* --- rebuilding -------------------------------------------------------------------------------- */

/* No frame that is in the region can validate from there on. */
static uint64_t next_lsn(const struct fsck_result *now, const struct disk_root *root)
{
	return now->root_clean ? get64(root->replay_lsn) : log_restart_lsn(&now->sb, &now->tail);
}

static int rebuild_from_root(struct dev_queue *q, const struct fsck_result *now, const struct repair_opts *opts,
			     struct repair_result *out)
{
	struct rebuild_opts ro = {
		.lossless = !opts->all,
		.note = opts->note,
		.progress = opts->progress,
		.cancelled = opts->cancelled,
		.arg = opts->arg,
		.diag = opts->diag,
	};
	auto_free struct disk_root *root = dev_alloc(BLOCK_SIZE, false);
	struct item_source *src;
	int err = root ? volume_read_root(q, &now->sb, opts->diag, false, root) : -ENOMEM;

	if (!err)
		err = walk_source_open(q, &now->sb, root, &src);
	if (err)
		return err;
	struct rebuild_base base = {
		.root = root,
		.generation = get64(root->h.generation),
		.next_ino = get64(root->next_ino),
		.log_lsn = next_lsn(now, root),
	};

	err = rebuild(q, &now->sb, &base, src, &ro, &out->rebuild);
	walk_source_close(src);
	out->rebuilt = !err;
	return err;
}

/* Nodes are missing that only a search of the device can replace; a replay would trip over them. */
static bool needs_salvage(const struct fsck_result *now)
{
	return now->count[FSCK_ROOT_LOST] || now->count[FSCK_NODE_LOST] || now->count[FSCK_NODE_SHARED];
}

int fsck_repair(struct dev_queue *q, const struct fsck_result *found, const struct repair_opts *opts,
		struct repair_result *out)
{
	struct fsck_result now = *found;
	int err = 0;

	memset(out, 0, sizeof(*out));
	if (repair_left(&now, REPAIR_LOG) && !(opts->all && opts->drop_log && needs_salvage(&now))) {
		diag(opts->diag, DIAG_ERR, "%s: the journal is damaged; a repair would lose what it holds", q->dev->path);
		return -EBADMSG;
	}
	if (now.count[FSCK_ROOT_LOST] && !opts->all) {
		diag(opts->diag, DIAG_ERR, "%s: no checkpoint root is left; -y would search the device for what is left of the tree",
		     q->dev->path);
		return -ENODATA;
	}
	if (needs_salvage(&now) && opts->all)
		return salvage(q, &now, opts, out);
	if (now.log_frames) {
		err = replay(q, opts, out);
		/* Not the journal's fault: with the nodes that are lost a salvage can do without. */
		if (err == -EBADMSG && needs_salvage(&now))
			err = -EPERM;
		if (!err)
			err = look_again(q, opts, &now);
	}
	if (err)
		return err;
	if (repair_left(&now, REPAIR_REBUILD) + repair_left(&now, REPAIR_COPY))
		return rebuild_from_root(q, &now, opts, out);
	/* A crash without anything to replay, or in the middle of a repair. */
	return now.root_clean ? 0 : replay(q, opts, out);
}
