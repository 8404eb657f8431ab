/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rename.c - move, replace, exchange, leave a whiteout: one transaction each.
 *
 * Up to four inodes are involved (both parents, what is moved, what is replaced or exchanged), and some may be one and the same; so
 * they are loaded through a set that knows each number once, and put from it.  A whiteout is a fifth one, new in the same transaction.
 *
 * A directory must not end up below itself.  The walk from the new parent up to the root goes on where it was when the step runs
 * again, as long as no directory has moved meanwhile (fs->dir_moves): else a long path and a small cache could keep each other busy
 * for ever.
 */
#include <dirent.h>
#include <stdio.h>

#include "core/bug.h"
#include "fs/dir.h"

struct walk {
	uint64_t below; /* must not be met on the way */
	uint64_t at; /* the next one to look at; 0: not begun */
	uint64_t moves; /* fs->dir_moves when it began */
	uint64_t steps;
};

struct rename {
	const struct fs_cred *cred; /* of a whiteout */
	uint64_t parent[2]; /* old, new */
	const char *name[2];
	size_t len[2];
	unsigned flags;
	struct walk walk[2]; /* from the new parent up; from the old one (exchange) */
	struct inode *reap; /* out: pinned */
};

struct member {
	uint64_t ino;
	struct disk_inode di;
	bool changed;
};

struct inode_set {
	struct member member[4];
	unsigned n;
};

/* What one run of the step works with. */
struct plan {
	struct inode_set set;
	struct member *dir[2], *child[2]; /* child[1] NULL: there is nothing at the new name */
	struct dir_pos pos[2];
	struct disk_inode whiteout;
	struct timespec now;
};

static int set_get(struct fs *fs, struct inode_set *set, uint64_t ino, struct miss *miss, struct member **out)
{
	for (unsigned i = 0; i < set->n; i++) {
		if (set->member[i].ino == ino) {
			*out = &set->member[i];
			return 0;
		}
	}
	struct member *m = &set->member[set->n];
	int err = inode_get(fs, ino, miss, &m->di);
	if (err)
		return err;
	m->ino = ino;
	m->changed = false;
	set->n++;
	*out = m;
	return 0;
}

static bool is_dir(const struct member *m)
{
	return mode_is(&m->di, S_IFDIR);
}

/* --- finding out what there is --- */

static int plan_dir(struct fs *fs, const struct rename *r, unsigned i, struct miss *miss, struct plan *p)
{
	int err = set_get(fs, &p->set, r->parent[i], miss, &p->dir[i]);

	if (err)
		return err;
	if (!is_dir(p->dir[i]))
		return -ENOTDIR;
	return get32(p->dir[i]->di.nlink) ? 0 : -ENOENT;
}

static int plan_child(struct fs *fs, const struct rename *r, unsigned i, struct miss *miss, struct plan *p)
{
	int err = dir_find(fs, r->parent[i], r->name[i], r->len[i], miss, &p->pos[i]);

	p->child[i] = NULL;
	if (err || !p->pos[i].ino)
		return err;
	err = set_get(fs, &p->set, p->pos[i].ino, miss, &p->child[i]);
	return err == -ESTALE
		       ? inode_corrupt(fs, r->parent[i], "has an entry of an inode that does not exist")
		       : err;
}

static int plan_make(struct fs *fs, const struct rename *r, struct miss *miss, struct plan *p)
{
	int err;

	p->set.n = 0;
	fs_now(fs, &p->now);
	for (unsigned i = 0; i < 2; i++) {
		err = plan_dir(fs, r, i, miss, p);
		if (err)
			return err;
	}
	for (unsigned i = 0; i < 2; i++) {
		err = plan_child(fs, r, i, miss, p);
		if (err)
			return err;
	}
	return p->child[0] ? 0 : -ENOENT;
}

/* --- deciding --- */

/* -EINVAL if `below` is met on the way from `from` up to the root. */
static int walk_up(struct fs *fs, struct walk *w, uint64_t below, uint64_t from, struct miss *miss)
{
	if (!w->at || w->moves != fs->dir_moves || w->below != below)
		*w = (struct walk){.below = below, .at = from, .moves = fs->dir_moves};
	for (;; w->steps++) {
		struct disk_inode di;

		if (w->at == below)
			return -EINVAL;
		if (w->at == INO_ROOT)
			return 0;
		int err = inode_get(fs, w->at, miss, &di);
		if (err == -ESTALE || w->steps > fs->v->ninodes)
			return inode_corrupt(fs, from, "has no way up to the root");
		if (err)
			return err;
		w->at = get64(di.parent);
	}
}

/* Would one of the directories that change their parent end up below itself? */
static int check_loops(struct fs *fs, struct rename *r, const struct plan *p, struct miss *miss)
{
	int err = 0;

	if (r->parent[0] == r->parent[1])
		return 0;
	if (is_dir(p->child[0]))
		err = walk_up(fs, &r->walk[0], p->child[0]->ino, r->parent[1], miss);
	if (!err && r->flags & RENAME_EXCHANGE && is_dir(p->child[1]))
		err = walk_up(fs, &r->walk[1], p->child[1]->ino, r->parent[0], miss);
	return err;
}

static int check_flags(const struct plan *p)
{
	const struct member *to = p->child[1];
	int err = flags_check_remove(&p->dir[0]->di, &p->child[0]->di);

	if (err)
		return err;
	return to ? flags_check_remove(&p->dir[1]->di, &to->di) : flags_check_mutable(&p->dir[1]->di);
}

/* In the order in which Linux decides. */
static int check_rules(struct fs *fs, struct rename *r, const struct plan *p, struct miss *miss)
{
	const struct member *from = p->child[0], *to = p->child[1];

	if (to && r->flags & RENAME_NOREPLACE)
		return -EEXIST;
	if (!to && r->flags & RENAME_EXCHANGE)
		return -ENOENT;
	int err = check_loops(fs, r, p, miss);
	if (!err && from != to && !BUG(FLAGS_NOT_IN_RENAME))
		err = check_flags(p);
	if (err || !to || r->flags & RENAME_EXCHANGE || from == to)
		return err;
	if (is_dir(from) && !is_dir(to))
		return -ENOTDIR;
	return !is_dir(from) && is_dir(to) ? -EISDIR : 0;
}

/* --- changing --- */

/* A new name whose hash value has no free index left may have the one that the old name leaves, if it has the same hash. */
static int move_slot(struct fs *fs, const struct rename *r, struct plan *p)
{
	uint64_t first = dirent_offset(&fs->v->sb, r->name[1], r->len[1]);

	if (p->pos[1].offset)
		return 0;
	/* A whiteout stays where it is. */
	if (r->flags & RENAME_WHITEOUT || p->dir[0] != p->dir[1] || p->pos[0].offset - first >= HASH_COLLISIONS)
		return -ENOSPC;
	p->pos[1].offset = p->pos[0].offset;
	return 0;
}

/* Both parents' counts: the old one lost an entry, the new one got `entries` more and `subdirs` more subdirectories. */
static int account_dirs(struct fs *fs, struct plan *p, int lost, int lost_dirs, int entries, int subdirs)
{
	struct member **dir = p->dir;

	dir[0]->changed = dir[1]->changed = true;
	if (dir[0] == dir[1])
		return dir_account(fs, dir[0]->ino, &dir[0]->di, entries - lost, subdirs - lost_dirs,
				   &p->now);
	int err = dir_account(fs, dir[0]->ino, &dir[0]->di, -lost, -lost_dirs, &p->now);
	return err ? err : dir_account(fs, dir[1]->ino, &dir[1]->di, entries, subdirs, &p->now);
}

static void move_child(struct plan *p, unsigned i)
{
	struct member *m = p->child[i];

	m->changed = true;
	m->di.ctime = time_encode(&p->now);
	if (is_dir(m))
		m->di.parent = put64(p->dir[!i]->ino);
}

static int plan_move(struct fs *fs, const struct rename *r, struct plan *p)
{
	struct member *to = p->child[1];
	int from_dir = is_dir(p->child[0]), to_dir = to && is_dir(to);
	int lost = r->flags & RENAME_WHITEOUT ? 0 : 1;
	int err = to ? 0 : move_slot(fs, r, p);

	if (!lost)
		inode_make(fs, r->cred, &p->dir[0]->di, S_IFCHR, &p->now, &p->whiteout);

	/* Before the parents' counts change: what is replaced may be the old parent, and is not empty then. */
	if (!err && to) {
		to->changed = true;
		err = inode_drop_link(fs, to->ino, &to->di, &p->now);
	}
	if (!err)
		err = account_dirs(fs, p, lost, from_dir, to ? 0 : 1, from_dir - to_dir);
	if (!err)
		move_child(p, 0);
	return err;
}

static int plan_exchange(struct fs *fs, struct plan *p)
{
	int differ = is_dir(p->child[0]) - is_dir(p->child[1]);
	int err = p->dir[0] == p->dir[1] ? account_dirs(fs, p, 0, 0, 0, 0)
					 : account_dirs(fs, p, 0, differ, 0, differ);

	if (err)
		return err;
	move_child(p, 0);
	move_child(p, 1);
	return 0;
}

static void record_entries(struct txn *t, const struct rename *r, const struct plan *p)
{
	const struct dir_pos *pos = p->pos;

	if (r->flags & RENAME_WHITEOUT) {
		uint64_t ino = txn_new_ino(t);

		inode_put(t, ino, &p->whiteout);
		dir_put(t, r->parent[0], pos[0].offset, r->name[0], r->len[0], ino, DT_CHR);
	} else if (r->flags & RENAME_EXCHANGE)
		dir_put(t, r->parent[0], pos[0].offset, r->name[0], r->len[0], pos[1].ino, pos[1].ftype);
	else if (p->dir[0] != p->dir[1] || pos[0].offset != pos[1].offset)
		dir_del(t, r->parent[0], pos[0].offset);
	dir_put(t, r->parent[1], pos[1].offset, r->name[1], r->len[1], pos[0].ino, pos[0].ftype);
}

static void committed(struct fs *fs, const struct rename *r, const struct plan *p, uint64_t lsn)
{
	bool exchange = r->flags & RENAME_EXCHANGE;

	for (unsigned i = 0; i < p->set.n; i++) {
		const struct member *m = &p->set.member[i];
		bool data = m == p->dir[0] || m == p->dir[1];

		if (m->changed)
			inode_changed(fs, m->ino, lsn, data);
	}
	if (p->dir[0] != p->dir[1] && (is_dir(p->child[0]) || (exchange && is_dir(p->child[1]))))
		fs->dir_moves++;
}

static int rename_commit(struct fs *fs, struct dev_queue *q, struct rename *r, const struct plan *p,
			 struct miss *miss)
{
	const struct member *to = r->flags & RENAME_EXCHANGE ? NULL : p->child[1];
	bool last = to && get32(to->di.nlink) == 0;
	struct inode *inode = NULL;
	struct txn t;
	uint64_t lsn = 0;
	int err = 0;

	txn_begin(&t, fs->v);
	record_entries(&t, r, p);
	if (BUG(RENAME_IN_TWO)) {
		err = txn_commit(&t, q, 0, miss, NULL, NULL);
		txn_end(&t);
		if (err)
			return err;
		txn_begin(&t, fs->v);
	}
	for (unsigned i = 0; i < p->set.n; i++) {
		if (p->set.member[i].changed)
			inode_put(&t, p->set.member[i].ino, &p->set.member[i].di);
	}
	if (last) {
		orphan_put(&t, to->ino);
		inode = inode_ref(fs, to->ino, 1);
		err = inode ? 0 : -ENOMEM;
	}
	if (!err)
		err = txn_commit(&t, q, 0, miss, NULL, &lsn);
	txn_end(&t);
	if (!err)
		committed(fs, r, p, lsn);
	if (!err && last)
		inode_orphaned(fs, inode);
	if (inode)
		r->reap = inode_unref_claim(fs, inode, 1);
	return err;
}

static int rename_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct rename *r = arg;
	struct plan p;
	int err = plan_make(fs, r, miss, &p);

	if (!err)
		err = check_rules(fs, r, &p, miss);
	if (err || p.child[0] == p.child[1])
		return err;
	err = r->flags & RENAME_EXCHANGE ? plan_exchange(fs, &p) : plan_move(fs, r, &p);
	return err ? err : rename_commit(fs, q, r, &p, miss);
}

static int check_args(const struct rename *r)
{
	for (unsigned i = 0; i < 2; i++) {
		int err = name_check(r->name[i], r->len[i]);
		if (err)
			return err;
	}
	if (r->flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT))
		return -EINVAL;
	if (r->flags & RENAME_EXCHANGE && r->flags != RENAME_EXCHANGE)
		return -EINVAL;
	if (name_dots(r->name[0], r->len[0]))
		return -EBUSY;
	if (name_dots(r->name[1], r->len[1]))
		return r->flags & RENAME_NOREPLACE ? -EEXIST : -EBUSY;
	return 0;
}

int fs_rename(struct fs *fs, struct dev_queue *q, const struct fs_cred *cred, uint64_t parent, const char *name,
	      size_t len, uint64_t newparent, const char *newname, size_t newlen, unsigned flags)
{
	struct rename r = {
		.cred = cred,
		.parent = {parent, newparent},
		.name = {name, newname},
		.len = {len, newlen},
		.flags = flags,
	};
	int err = check_args(&r);

	if (err)
		return err;
	err = fs_run(fs, q, rename_step, &r);
	if (r.reap)
		inode_reap(fs, q, r.reap);
	return err;
}
