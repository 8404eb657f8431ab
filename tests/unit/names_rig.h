/* SPDX-License-Identifier: Apache-2.0 */
/*
 * names_rig.h - a file system on a sim device for the tests of names and attributes, and a check of all that its
 * items must agree on.
 */
#ifndef HOLDFAST_TESTS_NAMES_RIG_H
#define HOLDFAST_TESTS_NAMES_RIG_H

#include "tests/unit/volume_rig.h"

#include <dirent.h>
#include <stdio.h>

#include "fs/dir.h"

#define MEGABYTE ((uint64_t)1 << 20)

struct names {
	struct rig r;
	struct fs *fs;
	struct dev_queue *q;	/* == r.q */
	struct fs_config cfg;
	struct timespec clock;	/* moves by a second and a nanosecond each time it is asked */
	struct fs_attr attr;	/* of the last helper call */
};

static const struct fs_cred names_cred = {.uid = 1000, .gid = 100};

static inline void names_clock(void *arg, struct timespec *now)
{
	struct names *n = arg;

	n->clock.tv_sec++;
	n->clock.tv_nsec = (n->clock.tv_nsec + 1) % 1000000000;
	*now = n->clock;
}

static inline void names_open(struct names *n)
{
	n->q = n->r.q;
	assert_int_equal(fs_open(n->r.v, n->q, &n->cfg, &n->fs), 0);
}

static inline void names_create(struct names *n, uint64_t bytes, uint64_t cache_bytes)
{
	memset(n, 0, sizeof(*n));
	rig_create(&n->r, bytes, 0, 1);
	n->cfg = (struct fs_config){.clock = names_clock, .clock_arg = n};
	n->clock.tv_sec = 1700000000;
	n->r.cfg.cache_bytes = cache_bytes;
	rig_reopen(&n->r);
	names_open(n);
}

static inline void names_reopen(struct names *n)
{
	fs_close(n->fs, n->q);
	rig_reopen(&n->r);
	names_open(n);
}

/* The power goes and comes back. */
static inline void names_crash(struct names *n, uint64_t seed)
{
	dev_sim_cut(n->r.dev);
	fs_close(n->fs, n->q);
	rig_after_cut(&n->r, seed);
	assert_int_equal(volume_open(n->r.q, &n->r.cfg, NULL, &n->r.v), 0);
	names_open(n);
}

static inline void names_destroy(struct names *n)
{
	fs_close(n->fs, n->q);
	rig_destroy(&n->r);
}

/* Everything so far is durable, and there is a checkpoint of it: what is read next comes from the device. */
static inline void names_sync(struct names *n)
{
	assert_int_equal(log_sync_wait(n->r.v->log, n->q, log_append_lsn(n->r.v->log)), 0);
}

/* --- operations by name --- */

static inline int try_create(struct names *n, uint64_t dir, const char *name, uint32_t mode)
{
	return fs_create(n->fs, n->q, &names_cred, dir, name, strlen(name), mode, 0, &n->attr);
}

static inline int try_lookup(struct names *n, uint64_t dir, const char *name)
{
	int err = fs_lookup(n->fs, n->q, dir, name, strlen(name), &n->attr);

	if (!err)
		fs_forget(n->fs, n->q, n->attr.ino, 1);
	return err;
}

static inline int try_link(struct names *n, uint64_t ino, uint64_t dir, const char *name)
{
	int err = fs_link(n->fs, n->q, ino, dir, name, strlen(name), &n->attr);

	if (!err)
		fs_forget(n->fs, n->q, ino, 1);
	return err;
}

static inline int try_unlink(struct names *n, uint64_t dir, const char *name)
{
	return fs_unlink(n->fs, n->q, dir, name, strlen(name));
}

static inline int try_rmdir(struct names *n, uint64_t dir, const char *name)
{
	return fs_rmdir(n->fs, n->q, dir, name, strlen(name));
}

static inline int try_rename(struct names *n, uint64_t dir, const char *name, uint64_t newdir, const char *newname,
			     unsigned flags)
{
	return fs_rename(n->fs, n->q, &names_cred, dir, name, strlen(name), newdir, newname, strlen(newname), flags);
}

/* Made, and not referenced. */
static inline uint64_t make(struct names *n, uint64_t dir, const char *name, uint32_t mode)
{
	assert_int_equal(try_create(n, dir, name, mode), 0);
	fs_forget(n->fs, n->q, n->attr.ino, 1);
	return n->attr.ino;
}

static inline uint64_t make_symlink(struct names *n, uint64_t dir, const char *name, const char *target)
{
	assert_int_equal(fs_symlink(n->fs, n->q, &names_cred, dir, name, strlen(name), target, &n->attr), 0);
	fs_forget(n->fs, n->q, n->attr.ino, 1);
	return n->attr.ino;
}

/* The inode a name leads to; 0: none. */
static inline uint64_t ino_of(struct names *n, uint64_t dir, const char *name)
{
	int err = try_lookup(n, dir, name);

	assert_true(err == 0 || err == -ENOENT);
	return err ? 0 : n->attr.ino;
}

static inline struct fs_attr attr_of(struct names *n, uint64_t ino)
{
	struct fs_attr attr;

	assert_int_equal(fs_getattr(n->fs, n->q, ino, &attr), 0);
	return attr;
}

/* --- what all items must agree on --- */

struct seen {
	uint64_t ino;
	bool exists, is_dir, orphan;
	uint32_t nlink, links, subdirs;		/* as the inode says; as entries say */
	uint64_t size, entries, parent, named_in;
};

struct census {
	struct seen *seen;
	uint64_t n, cap, inodes;
	struct key next;
	bool end;
};

static inline struct seen *census_get(struct census *c, uint64_t ino)
{
	uint64_t i = ino * UINT64_C(0x9e3779b97f4a7c15) >> 40;

	for (i %= c->cap; c->seen[i].ino; i = (i + 1) % c->cap) {
		if (c->seen[i].ino == ino)
			return &c->seen[i];
	}
	assert_true(++c->n < c->cap);
	c->seen[i].ino = ino;
	return &c->seen[i];
}

static inline void census_item(struct census *c, const struct key *key, const void *val)
{
	struct seen *s = census_get(c, key->type == ITEM_ORPHAN ? key->offset : key->object);
	struct disk_inode di;
	struct disk_dirent de;

	if (key->type == ITEM_INODE) {
		memcpy(&di, val, sizeof(di));
		s->exists = true;
		s->is_dir = mode_is(&di, S_IFDIR);
		s->nlink = get32(di.nlink);
		s->size = get64(di.size);
		s->parent = get64(di.parent);
		c->inodes++;
	} else if (key->type == ITEM_DIRENT) {
		memcpy(&de, val, sizeof(de));
		s->entries++;
		if (de.ftype == DT_DIR)
			s->subdirs++;
		s = census_get(c, get64(de.ino));
		s->links++;
		s->named_in = key->object;
	} else if (key->type == ITEM_ORPHAN) {
		s->orphan = true;
	}
}

/* Item by item, so that a tiny cache does. */
static inline int census_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct census *c = arg;
	struct key found;
	const void *val;
	unsigned len;
	int err;

	(void)q;
	while (!(err = tree_seek(fs->v->tree, &c->next, miss, &found, &val, &len))) {
		census_item(c, &found, val);
		c->next = found;
		c->next.offset++;
	}
	return err == -ENOENT ? 0 : err;
}

static inline void names_check(struct names *n)
{
	struct census c = {.cap = 4 * n->r.v->ninodes + 64};

	c.seen = calloc(c.cap, sizeof(*c.seen));
	assert_non_null(c.seen);
	assert_int_equal(fs_run(n->fs, n->q, census_step, &c), 0);
	assert_int_equal(c.inodes, n->r.v->ninodes);
	for (uint64_t i = 0; i < c.cap; i++) {
		struct seen *s = &c.seen[i];

		if (!s->ino)
			continue;
		assert_true(s->exists);
		if (s->is_dir) {
			assert_int_equal(s->size, s->entries);
			assert_int_equal(s->links, s->ino != INO_ROOT && s->nlink ? 1 : 0);
			if (s->nlink) {
				assert_int_equal(s->nlink, 2 + s->subdirs);
				assert_int_equal(s->parent, s->ino == INO_ROOT ? INO_ROOT : s->named_in);
			}
		} else {
			assert_int_equal(s->nlink, s->links);
		}
		assert_int_equal(s->orphan, s->nlink == 0);
	}
	free(c.seen);
	volume_lock(n->r.v);
	tree_assert(n->r.v->tree);
	alloc_assert(n->r.v->alloc);
	volume_unlock(n->r.v);
}

static inline uint64_t known(struct names *n)
{
	struct fs_stats s;

	fs_get_stats(n->fs, &s);
	return s.known_inodes;
}

/* cmocka's fixtures: a volume of `bytes`, and its check and end. */
static inline int names_setup(void **state, uint64_t bytes, uint64_t cache_bytes)
{
	struct names *n = malloc(sizeof(*n));

	assert_non_null(n);
	names_create(n, bytes, cache_bytes);
	*state = n;
	return 0;
}

static inline int names_teardown(void **state)
{
	struct names *n = *state;

	names_check(n);
	names_destroy(n);
	free(n);
	return 0;
}

#endif
