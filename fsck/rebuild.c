/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rebuild.c - the passes of a rebuild, and the order in which it writes.
 *
 *   1. the first pass collects; where blocks are claimed twice, one more looks at what is in them;
 *   2. everything is decided;
 *   3. the last pass writes the new nodes to blocks that nothing uses; then bitmaps and tables into the slots that are not current;
 *   4. flush; the root, durably; the other root.
 *
 * Until the root of step 4 is durable the present one counts, and nothing that it refers to has been touched.
 */
#include "fsck/rebuild_impl.h"
#include "journal/volume.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Items between two looks at the caller. */
#define TICK_ITEMS 1024

/* --- passes ------------------------------------------------------------------------------------ */

static int tick(struct rebuilder *r)
{
	const struct rebuild_opts *o = r->opts;

	if (r->seen_items % TICK_ITEMS)
		return 0;
	if (o->cancelled && o->cancelled(o->arg))
		return -ECANCELED;
	if (o->progress)
		o->progress(o->arg, 6u + r->pass, r->seen_items, r->nitems);
	return 0;
}

static void pass_begin(struct rebuilder *r, enum rebuild_pass pass)
{
	free(r->o->heads.item);
	memset(r->o, 0, sizeof(*r->o));
	r->o->ino = FSCK_NOWHERE;
	r->pass = pass;
	r->next_rec = r->next_entry = r->next_orphan = r->next_attr = r->next_insert = 0;
	r->seen_items = r->seen_digest = 0;
	r->out->nitems = 0;
}

static int pass_run(struct rebuilder *r, enum rebuild_pass pass)
{
	const void *val;
	struct key key;
	unsigned len;

	pass_begin(r, pass);
	int err = r->src->rewind(r->src);

	while (!err && !(err = r->src->next(r->src, &key, &val, &len))) {
		err = rules_item(r, &key, val, len);
		if (!err)
			err = tick(r);
	}
	if (err == -ENOENT)
		err = rules_end(r);
	if (!err && pass == PASS_COLLECT) {
		r->nitems = r->seen_items;
		r->digest = r->seen_digest;
		return 0;
	}
	if (!err && (r->seen_items != r->nitems || r->seen_digest != r->digest))
		err = -EUCLEAN;
	if (err == -EUCLEAN)
		diag(r->opts->diag, DIAG_ERR, "%s: reads differ from one time to the next; nothing was changed", r->q->dev->path);
	return err;
}

/* --- deciding ---------------------------------------------------------------------------------- */

static int collect(struct rebuilder *r)
{
	int err = pass_run(r, PASS_COLLECT);

	if (!err)
		err = r->src->keep(r->src, &r->nodes);
	if (err)
		return err;
	if (r->src->nlost)
		err = note(r, REBUILD_LOST, FSCK_NOWHERE, "parts of the tree that cannot be read: %llu; what only they held is lost",
			   (unsigned long long)r->src->nlost);
	return err;
}

/* Blocks that are a node's and an extent's as well are as doubtful as those of two extents. */
static int share_nodes(struct rebuilder *r)
{
	int err = 0;

	for (uint32_t g = 0; !err && g < r->busy.ngroups; g++) {
		for (uint32_t w = 0; r->busy.group[g] && r->nodes.group[g] && w < GROUP_WORDS; w++) {
			uint64_t both = r->busy.group[g][w] & r->nodes.group[g][w], ndup, first;

			for (; !err && both; both &= both - 1) {
				err = blockset_add(&r->shared, (uint64_t)g * GROUP_BLOCKS + w * 64 + (unsigned)__builtin_ctzll(both), 1,
						   &ndup, &first);
				r->have_shared = true;
			}
		}
	}
	return err ? err : blockset_merge(&r->busy, &r->nodes);
}

static int decide(struct rebuilder *r)
{
	int err = collect(r);

	if (!err)
		err = share_nodes(r);
	if (!err && r->have_shared) {
		err = pass_run(r, PASS_CLAIM);
		if (!err)
			err = claims_decide(r);
	}
	if (!err)
		err = names_decide(r);
	return err ? err : notes_prepare(r);
}

/* --- writing ----------------------------------------------------------------------------------- */

static void root_begin(const struct rebuilder *r, struct disk_root *root)
{
	const struct disk_root *old = r->base->root;

	root->replay_lsn = root->applied_lsn = put64(r->base->log_lsn);
	root->next_ino = put64(r->next_ino);
	root->ninodes = put64(r->ninodes);
	root->flags = put64(ROOT_CLEAN);
	root->written_sec = put64((uint64_t)r->now);
	if (!old)
		return;
	root->mount_count = old->mount_count;
	root->error_count = old->error_count;
	root->last_error_sec = old->last_error_sec;
}

/* Before the root: no inode may have flags that the superblock does not announce. */
static int add_feature(struct rebuilder *r)
{
	struct super sb = *r->sb;

	if (!r->flagged || sb.incompat & FEATURE_INCOMPAT_INODE_FLAGS)
		return 0;
	sb.incompat |= FEATURE_INCOMPAT_INODE_FLAGS;
	return super_write(r->q, &sb);
}

static int write_all(struct rebuilder *r, struct disk_root *root)
{
	unsigned level;
	int err = pass_run(r, PASS_WRITE);

	if (!err)
		err = bulk_end(r->bulk, &root->tree, &level, &r->out->nnodes);
	if (err)
		return err;
	root->tree_level = (uint8_t)level;
	if (r->src->settle)
		err = r->src->settle(r->src, &r->used);
	if (!err)
		err = newspace_write(r, root);
	if (!err)
		err = add_feature(r);
	if (!err)
		err = dev_flush(r->q);
	return err ? err : newspace_write_roots(r, root);
}

static int write_new(struct rebuilder *r)
{
	auto_free struct disk_root *root = dev_alloc(BLOCK_SIZE, true);
	int err = root ? bulk_open(r->q, r->sb, r->generation, newspace_get, r, &r->bulk) : -ENOMEM;

	if (err)
		return err;
	root_begin(r, root);
	err = write_all(r, root);
	bulk_close(r->bulk);
	r->bulk = NULL;
	if (!err) {
		r->out->ninodes = r->ninodes;
		r->out->generation = r->generation + 1;
	}
	return err;
}

static int run(struct rebuilder *r)
{
	int err = decide(r);

	if (err)
		return err;
	bool refuse = r->opts->lossless && notes_any_lost(r);

	/* Names come by in the last pass, so it is made in any case. */
	if (refuse || r->opts->dry_run)
		err = pass_run(r, PASS_WRITE);
	else
		err = write_new(r);
	if (err)
		return err;
	notes_tell(r);
	return refuse ? -EPERM : 0;
}

/* --- life -------------------------------------------------------------------------------------- */

static int rebuilder_init(struct rebuilder *r)
{
	const struct disk_root *root = r->base->root;

	r->generation = r->base->generation + 1;
	/* The newest root stays until the new one is there. */
	if (root && (r->generation & 1) == (get64(root->h.generation) & 1))
		r->generation++;
	r->now = (int64_t)time(NULL);
	r->o = calloc(1, sizeof(*r->o));
	if (!r->o)
		return -ENOMEM;
	int err = blockset_init(&r->busy, r->sb);
	if (!err)
		err = blockset_init(&r->nodes, r->sb);
	if (!err)
		err = blockset_init(&r->shared, r->sb);
	return err ? err : blockset_init(&r->used, r->sb);
}

static void rebuilder_fini(struct rebuilder *r)
{
	struct fix_insert *in = r->inserts.item;

	for (uint64_t i = 0; i < r->inserts.n; i++)
		free(in[i].val);
	free(in);
	notes_free(r);
	free(r->recs.item);
	free(r->entries.item);
	free(r->orphans.item);
	free(r->attrs.item);
	free(r->lf_names.item);
	free(r->root_names.item);
	free(r->claims.item);
	blockset_fini(&r->busy);
	blockset_fini(&r->nodes);
	blockset_fini(&r->shared);
	blockset_fini(&r->used);
	if (r->o)
		free(r->o->heads.item);
	free(r->o);
}

int rebuild(struct dev_queue *q, const struct super *sb, const struct rebuild_base *base, struct item_source *src,
	    const struct rebuild_opts *opts, struct rebuild_result *out)
{
	struct rebuilder r = {.q = q, .sb = sb, .base = base, .src = src, .opts = opts, .out = out};
	int err;

	memset(out, 0, sizeof(*out));
	err = rebuilder_init(&r);
	if (!err)
		err = run(&r);
	rebuilder_fini(&r);
	return err;
}
