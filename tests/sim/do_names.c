/* SPDX-License-Identifier: Apache-2.0 */
/* do_names.c - operations on names. */
#include "tests/sim/sim.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static void do_release(struct sim *s, uint64_t random);

void forget(struct sim *s, uint64_t ino)
{
	fs_forget(s->fs, s->q, ino, 1);
	lazy_look(s);
}

static struct fs_cred cred_of(const struct op *op)
{
	return (struct fs_cred){.uid = 1000 + op->label % 7, .gid = 100 + op->label % 3, .umask = op->label % 5 ? 0 : 027};
}

/* Now and then one that cannot be. */
static size_t odd_name(struct sim *s, uint64_t random, char name[300])
{
	switch (random % 64) {
	case 0:
		return (size_t)sprintf(name, ".");
	case 1:
		return (size_t)sprintf(name, "..");
	case 2:
		memset(name, 'y', 256);
		return 256;
	case 3:
		return 0;
	case 4:
		return (size_t)sprintf(name, "a/b");
	default:
		return name_make(s, random >> 8, name);
	}
}

/* --- making ------------------------------------------------------------------------------------ */

static uint32_t mode_of(const struct op *op)
{
	static const uint32_t others[] = {S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFLNK};
	uint32_t bits = op->r[2] & 07777;

	if (op->kind == OP_MKDIR)
		return S_IFDIR | bits;
	return op->kind == OP_MKNOD ? others[op->r[3] % 5] | bits : S_IFREG | bits;
}

/* After success: the number must be new, and what is there must be what was asked for. */
static void made(struct sim *s, int rc, int want, const struct fs_attr *attr)
{
	same_rc(s, rc, want);
	if (rc)
		return;
	same_attr(s, attr->ino, attr);
	forget(s, attr->ino);
}

static uint64_t new_ino(struct sim *s, int rc, const struct fs_attr *attr)
{
	if (rc)
		return s->model->next_ino;
	if (attr->ino < s->model->next_ino)
		violation(s, "ino", "inode number %llu has been given out before", (unsigned long long)attr->ino);
	return attr->ino;
}

static void do_create(struct sim *s, const struct op *op)
{
	struct fs_cred cred = cred_of(op);
	struct mcred mcred = {cred.uid, cred.gid, cred.umask};
	uint64_t dir = target_dir(s, op->r[0]);
	uint32_t mode = mode_of(op);
	struct fs_attr attr = {0};
	char name[300];
	size_t len = odd_name(s, op->r[1], name);
	int rc = fs_create(s->fs, s->q, &cred, dir, name, len, mode, op->r[4] % 5000, &attr);

	trace(s, "inode %llu \"%.*s\" mode %o in %llu: %d", (unsigned long long)attr.ino, (int)len, name, mode,
	      (unsigned long long)dir, rc);
	if (!judge(s, rc, 8 + acl_blocks(s, dir, MODEL_ACL_DEFAULT)))
		return;
	made(s, rc, model_create(s->model, &mcred, dir, name, len, mode, op->r[4] % 5000, new_ino(s, rc, &attr)), &attr);
	if (!rc)
		obey(s, dir, true);
}

/* Held from the beginning; who is in its place is let go. */
static void do_tmpfile(struct sim *s, const struct op *op)
{
	struct fs_cred cred = cred_of(op);
	struct mcred mcred = {cred.uid, cred.gid, cred.umask};
	struct held *h = &s->held[op->r[1] % HELD_MAX];
	struct fs_attr attr = {0};

	/* First: the kernel asks for nothing in what it has let go. */
	if (h->ino)
		do_release(s, op->r[1]);
	uint64_t dir = target_dir(s, op->r[0]);
	int rc = fs_tmpfile(s->fs, s->q, &cred, dir, (uint32_t)op->r[2], &attr);

	trace(s, "inode %llu in %llu: %d", (unsigned long long)attr.ino, (unsigned long long)dir, rc);
	if (!judge(s, rc, 8 + acl_blocks(s, dir, MODEL_ACL_DEFAULT)))
		return;
	same_rc(s, rc, model_tmpfile(s->model, &mcred, dir, (uint32_t)op->r[2], new_ino(s, rc, &attr)));
	if (rc)
		return;
	same_attr(s, attr.ino, &attr);
	*h = (struct held){attr.ino, op->label};
}

static void do_symlink(struct sim *s, const struct op *op)
{
	struct fs_cred cred = cred_of(op);
	struct mcred mcred = {cred.uid, cred.gid, cred.umask};
	uint64_t dir = target_dir(s, op->r[0]);
	struct fs_attr attr = {0};
	char name[300], target[4200];
	size_t len = odd_name(s, op->r[1], name), n = op->r[2] % 8 ? op->r[3] % 100 : op->r[3] % 4098;

	memset(target, 'a' + (int)(op->label % 26), n);
	target[n] = 0;
	int rc = fs_symlink(s->fs, s->q, &cred, dir, name, len, target, &attr);

	trace(s, "inode %llu \"%.*s\" of %zu bytes in %llu: %d", (unsigned long long)attr.ino, (int)len, name, n,
	      (unsigned long long)dir, rc);
	if (!judge(s, rc, 12))
		return;
	made(s, rc, model_symlink(s->model, &mcred, dir, name, len, target, new_ino(s, rc, &attr)), &attr);
	if (!rc)
		obey(s, dir, true);
}

static void do_link(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, op->r[2] % 16 ? PICK_NODIR : PICK_ANY, op->r[3]);
	uint64_t dir = target_dir(s, op->r[0]);
	struct fs_attr attr = {0};
	char name[300];
	size_t len = odd_name(s, op->r[1], name);

	if (!t.ino || !target_take(s, &t))
		return;
	int rc = fs_link(s->fs, s->q, t.ino, dir, name, len, &attr);

	const struct minode *i = model_get(s->model, t.ino);

	trace(s, "inode %llu \"%.*s\" in %llu: %d", (unsigned long long)t.ino, (int)len, name, (unsigned long long)dir, rc);
	s->cov->flag_link += rc == -EPERM && i && !S_ISDIR(i->mode);
	if (judge(s, rc, 8))
		made(s, rc, model_link(s->model, t.ino, dir, name, len), &attr);
	if (!rc)
		obey(s, dir, true);
	target_drop(s, &t);
}

/* --- removing ---------------------------------------------------------------------------------- */

static bool is_held(const struct sim *s, uint64_t ino)
{
	for (unsigned i = 0; i < HELD_MAX; i++) {
		if (s->held[i].ino == ino)
			return true;
	}
	for (unsigned i = 0; i < s->ncached; i++) {
		if (s->cached[i].ino == ino)
			return true;
	}
	return false;
}

/* Unlinked and not held: it is gone. */
void forget_orphan(struct sim *s, uint64_t ino)
{
	const struct minode *i = model_get(s->model, ino);

	if (!i || i->nlink || is_held(s, ino))
		return;
	model_del(s->model, ino);
	model_commit(s->model);
}

/* What the model has at that name; 0: nothing. */
static uint64_t entry_ino(const struct sim *s, const struct target *t)
{
	const struct minode *dir = model_get(s->model, t->dir);
	const struct mentry *e = dir && S_ISDIR(dir->mode) ? model_find(dir, t->name, t->len) : NULL;

	return e ? e->ino : 0;
}

/* Mostly something that is there; else any name. */
static struct target victim(struct sim *s, const struct op *op, enum pick what)
{
	struct target t = target_entry(s, op->r[2] % 16 ? what : PICK_ANY, op->r[3]);

	if (t.ino && op->r[2] % 8)
		return t;
	t = (struct target){.dir = target_dir(s, op->r[0])};
	char name[300];

	t.len = odd_name(s, op->r[1], name);
	memcpy(t.name, name, t.len < sizeof(t.name) ? t.len : sizeof(t.name));
	if (t.len > 255)
		t.len = 255;
	return t;
}

static void do_remove(struct sim *s, const struct op *op)
{
	bool is_rmdir = op->kind == OP_RMDIR;
	struct target t = victim(s, op, is_rmdir ? PICK_DIR : PICK_NODIR);

	drain(s);
	/* The kernel has looked it up before. */
	if (t.ino && !target_take(s, &t))
		return;
	uint64_t gone = entry_ino(s, &t);
	int rc = is_rmdir ? fs_rmdir(s->fs, s->q, t.dir, t.name, t.len) : fs_unlink(s->fs, s->q, t.dir, t.name, t.len);

	trace(s, "inode %llu \"%.*s\" in %llu: %d", (unsigned long long)t.ino, (int)t.len, t.name, (unsigned long long)t.dir,
	      rc);
	if (judge(s, rc, 0))
		same_rc(s, rc, model_remove(s->model, t.dir, t.name, t.len, is_rmdir));
	target_drop(s, &t);
	if (gone)
		forget_orphan(s, gone);
	if (!rc)
		obey(s, t.dir, true);
}

/* --- renaming ---------------------------------------------------------------------------------- */

static void do_rename(struct sim *s, const struct op *op)
{
	struct target from = target_entry(s, PICK_ANY, op->r[0]), to = target_entry(s, PICK_ANY, op->r[1]);
	unsigned flags = op->kind == OP_EXCHANGE ? RENAME_EXCHANGE : op->r[2] % 4 ? 0 : RENAME_NOREPLACE;
	struct fs_cred cred = cred_of(op);
	struct mcred mcred = {cred.uid, cred.gid, cred.umask};
	bool onto = op->kind == OP_EXCHANGE || op->r[2] % 3 == 0;

	if (op->kind == OP_WHITEOUT)
		flags |= RENAME_WHITEOUT;
	if (op->r[2] % 128 == 5)
		flags |= RENAME_EXCHANGE | RENAME_NOREPLACE;
	if (!from.ino)
		return;
	if (!onto || !to.ino) {
		char name[300];

		to = (struct target){.dir = target_dir(s, op->r[3])};
		to.len = odd_name(s, op->r[4], name);
		to.len = to.len > 255 ? 255 : to.len;
		memcpy(to.name, name, to.len);
	}
	drain(s);
	int rc = fs_rename(s->fs, s->q, &cred, from.dir, from.name, from.len, to.dir, to.name, to.len, flags);

	trace(s, "\"%.*s\" in %llu to \"%.*s\" in %llu, flags %u: %d", (int)from.len, from.name, (unsigned long long)from.dir,
	      (int)to.len, to.name, (unsigned long long)to.dir, flags, rc);
	if (!judge(s, rc, 8))
		return;
	uint64_t replaced = entry_ino(s, &to);

	/* The last number that was given out, if one was. */
	same_rc(s, rc, model_rename(s->model, &mcred, from.dir, from.name, from.len, to.dir, to.name, to.len, flags,
				    s->v->next_ino - 1));
	if (replaced)
		forget_orphan(s, replaced);
	if (rc)
		return;
	obey(s, from.dir, true);
	obey(s, to.dir, true);
}

/* --- looking ----------------------------------------------------------------------------------- */

static void do_lookup(struct sim *s, const struct op *op)
{
	uint64_t dir = target_dir(s, op->r[0]), ino = 0;
	struct fs_attr attr;
	char name[300];
	size_t len = odd_name(s, op->r[1], name);
	int rc = fs_lookup(s->fs, s->q, dir, name, len, &attr);

	trace(s, "\"%.*s\" in %llu: %d", (int)len, name, (unsigned long long)dir, rc);
	if (!judge(s, rc, 0))
		return;
	same_rc(s, rc, model_lookup(s->model, dir, name, len, &ino));
	if (rc)
		return;
	same_attr(s, ino, &attr);
	forget(s, ino);
}

struct listing {
	struct sim *s;
	const struct minode *dir;
	unsigned seen, room;
	uint64_t cookie;
	uint64_t sum;
	bool stopped;
};

static int list_one(void *arg, const struct fs_dirent *e)
{
	struct listing *l = arg;
	const struct mentry *want = model_find(l->dir, e->name, e->len);

	if (!l->room) {
		l->stopped = true;
		return 1;
	}
	l->room--;
	l->cookie = e->cookie;
	if (e->name[0] == '.' && (e->len == 1 || (e->len == 2 && e->name[1] == '.')))
		return 0;
	if (!want || want->ino != e->ino || IFTODT(want->type) != e->ftype)
		violation(l->s, "readdir", "\"%.*s\" is listed as inode %llu", (int)e->len, e->name, (unsigned long long)e->ino);
	l->seen++;
	l->sum += mentry_hash(e->name, e->len, want->ino, want->type);
	if (e->attr) {
		same_attr(l->s, e->ino, e->attr);
		forget(l->s, e->ino);
	}
	return 0;
}

static uint64_t entries_sum(const struct minode *dir)
{
	uint64_t sum = 0;

	for (unsigned k = 0; dir->entries && k < dir->entries->n; k++) {
		const struct mentry *e = &dir->entries->entry[k];

		sum += mentry_hash(e->name->data, e->name->len, e->ino, e->type);
	}
	return sum;
}

/* All of it, in one go or in small portions. */
static void do_readdir(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, op->r[0] % 16 ? PICK_DIR : PICK_ANY, op->r[1]);
	unsigned portion = op->r[2] % 2 ? 1 + (unsigned)(op->r[3] % 7) : 100000;
	int rc = 0, want = 0;

	drain(s);
	if (!t.ino || !target_take(s, &t))
		return;
	struct listing l = {.s = s, .dir = model_get(s->model, t.ino)};

	if (!S_ISDIR(l.dir->mode) || !l.dir->nlink)
		want = S_ISDIR(l.dir->mode) ? -ENOENT : -ENOTDIR;
	do {
		l.room = portion;
		l.stopped = false;
		/* References are given back in the middle of listing: those are of linked inodes, nothing happens. */
		rc = fs_readdir(s->fs, s->q, t.ino, l.cookie, op->r[4] % 2, list_one, &l);
	} while (!rc && l.stopped);
	trace(s, "inode %llu in portions of %u: %u entries, %d", (unsigned long long)t.ino, portion, l.seen, rc);
	if (judge(s, rc, 0)) {
		same_rc(s, rc, want);
		if (!rc && (l.seen != l.dir->size || l.sum != entries_sum(l.dir)))
			violation(s, "readdir", "%u entries of %llu are listed", l.seen, (unsigned long long)l.dir->size);
	}
	if (!want)
		same_atime(s, t.ino);
	target_drop(s, &t);
}

static void do_readlink(struct sim *s, const struct op *op)
{
	struct target t = target_pick(s, op->r[0] % 16 ? PICK_LINK : PICK_ANY, op->r[1]);
	char buf[4096];

	drain(s);
	if (!t.ino || !target_take(s, &t))
		return;
	const struct minode *i = model_get(s->model, t.ino);
	int rc = fs_readlink(s->fs, s->q, t.ino, buf);

	trace(s, "inode %llu: %d", (unsigned long long)t.ino, rc);
	if (judge(s, rc, 0)) {
		same_rc(s, rc, i->target ? 0 : -EINVAL);
		if (!rc && strcmp(buf, (const char *)i->target->data))
			violation(s, "readlink", "a symlink leads elsewhere");
	}
	if (i->target)
		same_atime(s, t.ino);
	target_drop(s, &t);
}

/* --- keeping ----------------------------------------------------------------------------------- */

static void do_release(struct sim *s, uint64_t random)
{
	struct held *h = &s->held[random % HELD_MAX];
	uint64_t ino = h->ino;

	if (!ino)
		return;
	drain(s);
	h->ino = 0;
	forget(s, ino);
	trace(s, "inode %llu", (unsigned long long)ino);
	forget_orphan(s, ino);
}

static void do_hold(struct sim *s, const struct op *op)
{
	struct target t = target_entry(s, op->r[0] % 8 ? PICK_FILE : PICK_ANY, op->r[1]);
	struct held *h = &s->held[op->r[2] % HELD_MAX];

	if (h->ino)
		do_release(s, op->r[2]);
	if (!t.ino || !target_take(s, &t))
		return;
	trace(s, "inode %llu", (unsigned long long)t.ino);
	*h = (struct held){t.ino, op->label};
}

void do_names(struct sim *s, const struct op *op)
{
	switch (op->kind) {
	case OP_CREATE:
	case OP_MKDIR:
	case OP_MKNOD:
		do_create(s, op);
		break;
	case OP_TMPFILE:
		do_tmpfile(s, op);
		break;
	case OP_SYMLINK:
		do_symlink(s, op);
		break;
	case OP_LINK:
		do_link(s, op);
		break;
	case OP_UNLINK:
	case OP_RMDIR:
		do_remove(s, op);
		break;
	case OP_RENAME:
	case OP_EXCHANGE:
	case OP_WHITEOUT:
		do_rename(s, op);
		break;
	case OP_LOOKUP:
		do_lookup(s, op);
		break;
	case OP_READDIR:
		do_readdir(s, op);
		break;
	case OP_READLINK:
		do_readlink(s, op);
		break;
	case OP_HOLD:
		do_hold(s, op);
		break;
	default:
		do_release(s, op->r[0]);
		break;
	}
}
