/* SPDX-License-Identifier: Apache-2.0 */
/* model_names.c - directories: POSIX's rules, in the order in which Linux applies them. */
#include "tests/sim/model.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NAME_LIMIT    255u
#define SYMLINK_LIMIT 4095u

static int check_name(const char *name, size_t len)
{
	if (len > NAME_LIMIT)
		return -ENAMETOOLONG;
	return !len || memchr(name, '/', len) || memchr(name, 0, len) ? -EINVAL : 0;
}

static bool is_dot(const char *name, size_t len)
{
	return len == 1 && name[0] == '.';
}

static bool is_dotdot(const char *name, size_t len)
{
	return len == 2 && name[0] == '.' && name[1] == '.';
}

static bool is_dots(const char *name, size_t len)
{
	return is_dot(name, len) || is_dotdot(name, len);
}

static int check_dir(const struct minode *dir)
{
	if (!dir)
		return -ESTALE;
	if (!S_ISDIR(dir->mode))
		return -ENOTDIR;
	return dir->nlink ? 0 : -ENOENT;
}

static int entry_index(const struct minode *dir, const char *name, size_t len)
{
	for (unsigned k = 0; dir->entries && k < dir->entries->n; k++) {
		const struct blob *have = dir->entries->entry[k].name;

		if (have->len == len && !memcmp(have->data, name, len))
			return (int)k;
	}
	return -1;
}

const struct mentry *model_find(const struct minode *dir, const char *name, size_t len)
{
	int at = entry_index(dir, name, len);

	return at < 0 ? NULL : &dir->entries->entry[at];
}

static void entry_add(struct minode *dir, const char *name, size_t len, uint64_t ino, uint32_t type)
{
	struct mvec *v = mvec_own(&dir->entries, sizeof(struct mentry));
	struct mentry *e = mvec_insert(v, v->n, sizeof(*e));

	*e = (struct mentry){blob_new(name, len), ino, type};
	dir->sum += mentry_hash(name, len, ino, type);
	dir->size++;
	if (type == S_IFDIR)
		dir->nlink++;
}

static void entry_remove(struct minode *dir, const char *name, size_t len)
{
	int at = entry_index(dir, name, len);
	struct mentry *e = &dir->entries->entry[at];

	dir->sum -= mentry_hash(name, len, e->ino, e->type);
	dir->size--;
	if (e->type == S_IFDIR)
		dir->nlink--;
	blob_put(e->name);
	mvec_remove(dir->entries, (unsigned)at, sizeof(*e));
}

/* An entry came, went or changed. */
static void dir_changed(struct model *m, struct minode *dir)
{
	dir->mtime = dir->ctime = m->now;
	minode_touch(m, dir, true);
}

int model_lookup(struct model *m, uint64_t parent, const char *name, size_t len, uint64_t *ino)
{
	const struct minode *dir = model_get(m, parent), *child = dir;
	int err = check_name(name, len);

	if (err)
		return err;
	if (!is_dot(name, len)) {
		err = check_dir(dir);
		if (err)
			return err;
		const struct mentry *e = model_find(dir, name, len);

		child = is_dotdot(name, len) ? model_get(m, dir->parent) : e ? model_get(m, e->ino) : NULL;
		if (!child)
			return -ENOENT;
	}
	if (!child)
		return -ESTALE;
	*ino = child->ino;
	return child->nlink ? 0 : -ENOENT;
}

static int check_free(const struct minode *dir, const char *name, size_t len)
{
	int err = check_dir(dir);

	if (err)
		return err;
	return is_dots(name, len) || model_find(dir, name, len) ? -EEXIST : minode_check_mutable(dir);
}

/* A new inode with one link, and the group of a setgid directory. */
static struct minode *born(struct model *m, const struct mcred *cred, const struct minode *dir, uint32_t mode, uint64_t ino)
{
	bool is_dir = (mode & S_IFMT) == S_IFDIR, inherit = dir->mode & S_ISGID;
	struct minode *i = model_add(m, ino);

	i->mode = mode | (inherit && is_dir ? S_ISGID : 0);
	i->uid = cred->uid;
	i->gid = inherit ? dir->gid : cred->gid;
	i->nlink = is_dir ? 2 : 1;
	i->flags = minode_inherited_flags(dir, mode);
	i->first_loose = true;
	i->atime = i->mtime = i->ctime = i->btime = m->now;
	minode_touch(m, i, true);
	return i;
}

static int make(struct model *m, const struct mcred *cred, uint64_t parent, const char *name, size_t len, uint32_t mode,
		uint64_t rdev, const char *target, uint64_t ino)
{
	uint32_t type = mode & S_IFMT;
	int err = check_free(model_get(m, parent), name, len);

	if (err)
		return err;
	struct minode *dir = model_edit(m, parent), *i = born(m, cred, dir, mode, ino);

	i->rdev = type == S_IFCHR || type == S_IFBLK ? rdev : 0;
	i->parent = type == S_IFDIR ? parent : 0;
	if (target) {
		i->target = blob_new(target, strlen(target));
		i->size = i->target->len;
	}
	minode_inherit(i, dir, cred->umask);
	entry_add(dir, name, len, ino, type);
	dir_changed(m, dir);
	model_commit(m);
	return 0;
}

int model_tmpfile(struct model *m, const struct mcred *cred, uint64_t parent, uint32_t mode, uint64_t ino)
{
	int err = check_dir(model_get(m, parent));

	if (!err)
		err = minode_check_mutable(model_get(m, parent));
	if (err)
		return err;
	const struct minode *dir = model_get(m, parent);
	struct minode *i = born(m, cred, dir, S_IFREG | (mode & 07777), ino);

	minode_inherit(i, dir, cred->umask);
	i->nlink = 0;
	model_commit(m);
	return 0;
}

int model_create(struct model *m, const struct mcred *cred, uint64_t parent, const char *name, size_t len, uint32_t mode,
		 uint64_t rdev, uint64_t ino)
{
	uint32_t type = mode & S_IFMT;
	int err = check_name(name, len);

	if (err)
		return err;
	if (type != S_IFREG && type != S_IFDIR && type != S_IFIFO && type != S_IFSOCK && type != S_IFCHR &&
	    type != S_IFBLK)
		return -EINVAL;
	return make(m, cred, parent, name, len, type | (mode & 07777), rdev, NULL, ino);
}

int model_symlink(struct model *m, const struct mcred *cred, uint64_t parent, const char *name, size_t len,
		  const char *target, uint64_t ino)
{
	int err = check_name(name, len);

	if (err)
		return err;
	if (!*target)
		return -ENOENT;
	if (strlen(target) > SYMLINK_LIMIT)
		return -ENAMETOOLONG;
	return make(m, cred, parent, name, len, S_IFLNK | 0777, 0, target, ino);
}

int model_link(struct model *m, uint64_t ino, uint64_t parent, const char *name, size_t len)
{
	const struct minode *i = model_get(m, ino);
	int err = check_name(name, len);

	if (err)
		return err;
	if (!i)
		return -ESTALE;
	if (S_ISDIR(i->mode) || minode_check_free(i))
		return -EPERM;
	/* Without a name, but there: somebody holds it, and it may have one. */
	err = check_free(model_get(m, parent), name, len);
	if (err)
		return err;
	struct minode *dir = model_edit(m, parent), *more = model_edit(m, ino);

	more->nlink++;
	more->ctime = m->now;
	minode_touch(m, more, more->nlink == 1);
	entry_add(dir, name, len, ino, more->mode & S_IFMT);
	dir_changed(m, dir);
	model_commit(m);
	return 0;
}

/* One link less; a directory's last. */
static void drop_link(struct model *m, uint64_t ino)
{
	struct minode *i = model_edit(m, ino);

	i->nlink = S_ISDIR(i->mode) ? 0 : i->nlink - 1;
	i->ctime = m->now;
	minode_touch(m, i, false);
}

/* An entry goes from its directory. */
static int check_gone(const struct minode *dir, const struct minode *i)
{
	int err = minode_check_free(dir);

	return err ? err : minode_check_free(i);
}

int model_remove(struct model *m, uint64_t parent, const char *name, size_t len, bool is_rmdir)
{
	int err = check_name(name, len);

	if (err)
		return err;
	if (is_dots(name, len))
		return !is_rmdir ? -EISDIR : is_dot(name, len) ? -EINVAL : -ENOTEMPTY;
	err = check_dir(model_get(m, parent));
	if (err)
		return err;
	const struct mentry *e = model_find(model_get(m, parent), name, len);

	if (!e)
		return -ENOENT;
	err = check_gone(model_get(m, parent), model_get(m, e->ino));
	if (err)
		return err;
	if ((e->type == S_IFDIR) != is_rmdir)
		return is_rmdir ? -ENOTDIR : -EISDIR;
	if (is_rmdir && model_get(m, e->ino)->size)
		return -ENOTEMPTY;
	struct minode *dir = model_edit(m, parent);

	drop_link(m, e->ino);
	entry_remove(dir, name, len);
	dir_changed(m, dir);
	model_commit(m);
	return 0;
}

/* --- rename ------------------------------------------------------------------------------------ */

static bool is_below(const struct model *m, uint64_t dir, uint64_t ancestor)
{
	while (dir != ancestor && dir != MODEL_ROOT)
		dir = model_get(m, dir)->parent;
	return dir == ancestor;
}

static void set_parent(struct model *m, uint64_t ino, uint64_t parent)
{
	struct minode *i = model_edit(m, ino);

	if (S_ISDIR(i->mode))
		i->parent = parent;
	i->ctime = m->now;
	minode_touch(m, i, false);
}

struct place {
	uint64_t dir;
	const char *name;
	size_t len;
	struct mentry e;	/* what is there; ino 0: nothing */
};

static int rename_args(const struct place *from, const struct place *to, unsigned flags)
{
	int err = check_name(from->name, from->len);

	if (!err)
		err = check_name(to->name, to->len);
	if (err)
		return err;
	if (flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT))
		return -EINVAL;
	if (flags & RENAME_EXCHANGE && flags & (RENAME_NOREPLACE | RENAME_WHITEOUT))
		return -EINVAL;
	if (is_dots(from->name, from->len))
		return -EBUSY;
	if (is_dots(to->name, to->len))
		return flags & RENAME_NOREPLACE ? -EEXIST : -EBUSY;
	return 0;
}

static void place_look(const struct model *m, struct place *p)
{
	const struct mentry *e = model_find(model_get(m, p->dir), p->name, p->len);

	p->e = e ? *e : (struct mentry){0};
}

static int rename_flags(const struct model *m, const struct place *from, const struct place *to)
{
	int err = check_gone(model_get(m, from->dir), model_get(m, from->e.ino));

	if (err)
		return err;
	return to->e.ino ? check_gone(model_get(m, to->dir), model_get(m, to->e.ino)) : minode_check_mutable(model_get(m, to->dir));
}

static int rename_rules(const struct model *m, const struct place *from, const struct place *to, unsigned flags)
{
	bool exchange = flags & RENAME_EXCHANGE;

	if (!from->e.ino)
		return -ENOENT;
	if (to->e.ino && flags & RENAME_NOREPLACE)
		return -EEXIST;
	if (!to->e.ino && exchange)
		return -ENOENT;
	if (from->dir != to->dir && from->e.type == S_IFDIR && is_below(m, to->dir, from->e.ino))
		return -EINVAL;
	if (from->dir != to->dir && exchange && to->e.type == S_IFDIR && is_below(m, from->dir, to->e.ino))
		return -EINVAL;
	if (from->e.ino == to->e.ino)
		return 0;
	int err = rename_flags(m, from, to);

	if (err || !to->e.ino || exchange)
		return err;
	if (from->e.type == S_IFDIR && to->e.type != S_IFDIR)
		return -ENOTDIR;
	if (from->e.type != S_IFDIR && to->e.type == S_IFDIR)
		return -EISDIR;
	return to->e.type == S_IFDIR && model_get(m, to->e.ino)->size ? -ENOTEMPTY : 0;
}

int model_rename(struct model *m, const struct mcred *cred, uint64_t parent, const char *name, size_t len, uint64_t newparent,
		 const char *newname, size_t newlen, unsigned flags, uint64_t ino)
{
	struct place from = {parent, name, len, {0}}, to = {newparent, newname, newlen, {0}};
	int err = rename_args(&from, &to, flags);

	if (!err)
		err = check_dir(model_get(m, parent));
	if (!err)
		err = check_dir(model_get(m, newparent));
	if (err)
		return err;
	place_look(m, &from);
	place_look(m, &to);
	err = rename_rules(m, &from, &to, flags);
	if (err || from.e.ino == to.e.ino)
		return err;
	struct minode *old = model_edit(m, parent), *new = model_edit(m, newparent);

	entry_remove(old, name, len);
	if (to.e.ino)
		entry_remove(new, newname, newlen);
	entry_add(new, newname, newlen, from.e.ino, from.e.type);
	if (flags & RENAME_EXCHANGE) {
		entry_add(old, name, len, to.e.ino, to.e.type);
		set_parent(m, to.e.ino, parent);
	} else if (to.e.ino) {
		drop_link(m, to.e.ino);
	}
	if (flags & RENAME_WHITEOUT) {
		born(m, cred, old, S_IFCHR, ino);
		entry_add(old, name, len, ino, S_IFCHR);
	}
	set_parent(m, from.e.ino, newparent);
	dir_changed(m, old);
	dir_changed(m, new);
	model_commit(m);
	return 0;
}
