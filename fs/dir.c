/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dir.c - directory entries, and the operations that look up, make and remove one.
 *
 * Always, at the end of each transaction: a directory's size is the number of its entries and its nlink 2 + the subdirectories
 * among them; an inode's nlink is the number of its entries; one without is a directory's or file's last trace, listed as an
 * orphan.  rename.c keeps the same.
 */
#include <dirent.h>
#include <string.h>

#include "core/bug.h"
#include "fs/acl.h"
#include "fs/dir.h"
#include "fs/hashed.h"

/* --- names --- */

unsigned name_dots(const char *name, size_t len)
{
	if (len == 1 && name[0] == '.')
		return 1;
	return len == 2 && name[0] == '.' && name[1] == '.' ? 2 : 0;
}

int name_check(const char *name, size_t len)
{
	if (len > MAX_NAME)
		return -ENAMETOOLONG;
	if (!len || memchr(name, '/', len) || memchr(name, 0, len))
		return -EINVAL;
	return 0;
}

/* --- entries --- */

/* Entry in an item's value, which need not be aligned. */
static bool dirent_decode(const void *val, unsigned len, struct disk_dirent *out, const char **name)
{
	if (len < sizeof(*out))
		return false;
	memcpy(out, val, sizeof(*out));
	*name = (const char *)val + sizeof(*out);
	return len == sizeof(*out) + out->name_len && get64(out->ino) != 0;
}

/* One item of the hash value: 1 if it is the entry, 0 if it is another's, or an error. */
static int dir_match(struct fs *fs, const struct tree_cursor *c, const char *name, size_t len, void *pos)
{
	struct disk_dirent de;
	const char *found;

	if (!dirent_decode(c->val, c->len, &de, &found))
		return inode_corrupt(fs, c->key.object, "malformed directory entry");
	if (de.name_len != len || memcmp(found, name, len))
		return 0;
	*(struct dir_pos *)pos = (struct dir_pos){.offset = c->key.offset, .ino = get64(de.ino), .ftype = de.ftype};
	return 1;
}

int dir_find(struct fs *fs, uint64_t dir, const char *name, size_t len, struct miss *miss,
	     struct dir_pos *pos)
{
	struct key first = key_make(dir, ITEM_DIRENT, dirent_offset(&fs->v->sb, name, len));
	uint64_t free;
	int found = hashed_find(fs, &first, name, len, dir_match, pos, miss, &free);

	if (found)
		return found < 0 ? found : 0;
	*pos = (struct dir_pos){.offset = free};
	return 0;
}

void dir_put(struct txn *t, uint64_t dir, uint64_t offset, const char *name, size_t len, uint64_t ino,
	     uint8_t ftype)
{
	struct disk_dirent de = {.ino = put64(ino), .ftype = ftype, .name_len = (uint8_t)len};
	struct key key = key_make(dir, ITEM_DIRENT, offset);
	uint8_t item[sizeof(de) + MAX_NAME];

	memcpy(item, &de, sizeof(de));
	memcpy(item + sizeof(de), name, len);
	txn_put(t, &key, item, (unsigned)(sizeof(de) + len));
}

void dir_del(struct txn *t, uint64_t dir, uint64_t offset)
{
	struct key key = key_make(dir, ITEM_DIRENT, offset);

	txn_del(t, &key);
}

int dir_account(struct fs *fs, uint64_t dir, struct disk_inode *di, int entries, int subdirs,
		const struct timespec *now)
{
	uint64_t size = get64(di->size) + (uint64_t)(int64_t)entries;
	uint32_t nlink = get32(di->nlink);

	if (subdirs > 0 && nlink >= MAX_LINKS)
		return -EMLINK;
	nlink += (uint32_t)subdirs;
	if (size > MAX_FILE_SIZE || nlink < 2)
		return inode_corrupt(fs, dir, "directory counts fewer entries than it has");
	di->size = put64(size);
	di->nlink = put32(nlink);
	di->mtime = di->ctime = time_encode(now);
	return 0;
}

int inode_drop_link(struct fs *fs, uint64_t ino, struct disk_inode *di, const struct timespec *now)
{
	uint32_t nlink = get32(di->nlink);

	if (!nlink)
		return inode_corrupt(fs, ino, "has an entry but no links");
	if (mode_is(di, S_IFDIR)) {
		if (get64(di->size))
			return -ENOTEMPTY;
		nlink = 1;
	}
	di->nlink = put32(BUG(NLINK_NOT_LOWERED) ? nlink : nlink - 1);
	di->ctime = time_encode(now);
	return 0;
}

void inode_make(struct fs *fs, const struct fs_cred *cred, const struct disk_inode *dir, uint32_t mode,
		const struct timespec *now, struct disk_inode *di)
{
	bool is_dir = S_ISDIR(mode);
	bool inherit = get32(dir->mode) & S_ISGID;

	*di = (struct disk_inode){
		.mode = put32(mode | (is_dir && inherit ? S_ISGID : 0)),
		.uid = put32(cred->uid),
		.gid = inherit ? dir->gid : put32(cred->gid),
		.nlink = put32(is_dir ? 2 : 1),
		.flags = put64(flags_inherit(dir, mode)),
		.generation = put64(fs->v->generation),
	};
	di->atime = di->mtime = di->ctime = di->btime = time_encode(now);
}

/* The inode that an entry names. */
static int dir_child(struct fs *fs, uint64_t dir, uint64_t ino, struct miss *miss, struct disk_inode *di)
{
	int err = inode_get(fs, ino, miss, di);

	return err == -ESTALE ? inode_corrupt(fs, dir, "has an entry of an inode that does not exist") : err;
}

/* --- lookup --- */

struct lookup {
	uint64_t parent;
	const char *name;
	size_t len;
	struct fs_attr *out;
};

/*
 * "/" is the name of whatever the kernel got by a file handle and has not met under a name.  For a dentry like any other it asks whether that is
 * right still; if it were not, overlayfs, whose origins are such, would say ESTALE.
 */
static bool name_is_nameless(const char *name, size_t len)
{
	return len == 1 && name[0] == '/';
}

/* What the name leads to.  "." is right for any type of inode: that is how file handles are opened. */
static int lookup_ino(struct fs *fs, const struct lookup *l, struct miss *miss, uint64_t *ino)
{
	struct disk_inode dir;
	struct dir_pos pos;
	unsigned dots = name_dots(l->name, l->len);

	*ino = l->parent;
	if (dots == 1 || name_is_nameless(l->name, l->len))
		return 0;
	int err = inode_get_dir(fs, l->parent, miss, &dir);
	if (err)
		return err;
	if (dots == 2) {
		*ino = get64(dir.parent);
		return 0;
	}
	err = dir_find(fs, l->parent, l->name, l->len, miss, &pos);
	*ino = pos.ino;
	return err ? err : pos.ino ? 0 : -ENOENT;
}

static int lookup_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct lookup *l = arg;
	struct disk_inode di;
	uint64_t ino;
	int err = lookup_ino(fs, l, miss, &ino);

	(void)q;
	if (err)
		return err;
	err = ino == l->parent ? inode_get(fs, ino, miss, &di) : dir_child(fs, l->parent, ino, miss, &di);
	if (err)
		return err;
	if (!get32(di.nlink))
		return -ENOENT;
	err = inode_know(fs, ino);
	if (!err)
		inode_to_attr(ino, &di, l->out);
	return err;
}

int fs_lookup(struct fs *fs, struct dev_queue *q, uint64_t parent, const char *name, size_t len,
	      struct fs_attr *out)
{
	struct lookup l = {parent, name, len, out};
	int err = name_is_nameless(name, len) ? 0 : name_check(name, len);

	return err ? err : fs_look(fs, q, lookup_step, &l);
}

/* --- create --- */

struct create {
	const struct fs_cred *cred;
	uint64_t parent;
	const char *name;
	size_t len;
	uint32_t mode;
	uint64_t rdev;
	const char *target; /* of a symlink */
	size_t target_len;
	struct fs_attr *out;
};

/* Where a new entry goes: the parent and the place.  -EEXIST, -ENOSPC. */
static int dir_find_free(struct fs *fs, uint64_t dir, const char *name, size_t len, struct miss *miss,
			 struct disk_inode *di, struct dir_pos *pos)
{
	int err = inode_get_dir(fs, dir, miss, di);

	if (err)
		return err;
	if (name_dots(name, len))
		return -EEXIST;
	err = dir_find(fs, dir, name, len, miss, pos);
	if (err)
		return err;
	if (pos->ino)
		return -EEXIST;
	err = flags_check_mutable(di);
	if (err)
		return err;
	return pos->offset ? 0 : -ENOSPC;
}

static void create_inode(struct fs *fs, const struct create *c, uint32_t mode, const struct disk_inode *dir,
			 const struct timespec *now, struct disk_inode *di)
{
	inode_make(fs, c->cred, dir, mode, now, di);
	di->size = put64(c->target_len);
	di->rdev = put64(c->rdev);
	if (c->target)
		di->flags = put64(get64(di->flags) | INODE_INLINE);
	if (S_ISDIR(mode))
		di->parent = put64(c->parent);
}

static void symlink_put(struct txn *t, uint64_t ino, const char *target, size_t len)
{
	for (size_t at = 0; at < len; at += INLINE_CHUNK) {
		struct key key = key_make(ino, ITEM_INLINE, at);
		size_t n = len - at < INLINE_CHUNK ? len - at : INLINE_CHUNK;

		txn_put(t, &key, target + at, (unsigned)n);
	}
}

/* Commits and ends, with a reference to the inode for the reply.  It is taken before the commit, which is the last thing that may fail. */
static int commit_with_ref(struct fs *fs, struct dev_queue *q, struct txn *t, uint64_t ino, struct miss *miss,
			   uint64_t *lsn)
{
	struct inode *inode = inode_ref(fs, ino, 1);
	int err = inode ? txn_commit(t, q, 0, miss, NULL, lsn) : -ENOMEM;

	txn_end(t);
	if (err && inode)
		inode_unref(fs, inode, 1);
	return err;
}

static int create_commit(struct fs *fs, struct dev_queue *q, struct create *c, const struct dir_pos *pos,
			 const struct disk_inode *dir, const struct disk_inode *di, const struct acl_new *acl,
			 struct miss *miss)
{
	struct txn t;
	uint64_t lsn = 0;

	txn_begin(&t, fs->v);
	uint64_t ino = txn_new_ino(&t);
	inode_put(&t, ino, di);
	acl_record_new(fs, &t, ino, acl);
	symlink_put(&t, ino, c->target, c->target_len);
	dir_put(&t, c->parent, pos->offset, c->name, c->len, ino, IFTODT(c->mode));
	inode_put(&t, c->parent, dir);
	int err = commit_with_ref(fs, q, &t, ino, miss, &lsn);
	if (err)
		return err;
	inode_changed(fs, ino, lsn, true);
	inode_changed(fs, c->parent, lsn, true);
	acl_default_changed(fs, ino, acl->default_len > 0);
	inode_to_attr(ino, di, c->out);
	return 0;
}

static int create_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct create *c = arg;
	struct disk_inode dir, di;
	struct dir_pos pos;
	struct timespec now;
	struct acl_new acl;
	uint32_t mode = c->mode;
	int err = dir_find_free(fs, c->parent, c->name, c->len, miss, &dir, &pos);

	if (!err)
		err = acl_from_dir(fs, c->parent, c->cred->umask, miss, &mode, &acl);
	if (err)
		return err;
	fs_now(fs, &now);
	create_inode(fs, c, mode, &dir, &now, &di);
	err = dir_account(fs, c->parent, &dir, 1, S_ISDIR(mode) ? 1 : 0, &now);
	return err ? err : create_commit(fs, q, c, &pos, &dir, &di, &acl, miss);
}

int fs_create(struct fs *fs, struct dev_queue *q, const struct fs_cred *cred, uint64_t parent,
	      const char *name, size_t len, uint32_t mode, uint64_t rdev, struct fs_attr *out)
{
	struct create c = {.cred = cred, .parent = parent, .name = name, .len = len, .out = out};
	uint32_t type = mode & S_IFMT;
	int err = name_check(name, len);

	if (err)
		return err;
	switch (type) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFIFO:
	case S_IFSOCK:
		break;
	case S_IFCHR:
	case S_IFBLK:
		c.rdev = rdev;
		break;
	default:
		return -EINVAL;
	}
	c.mode = type | (mode & 07777);
	return fs_run(fs, q, create_step, &c);
}

int fs_symlink(struct fs *fs, struct dev_queue *q, const struct fs_cred *cred, uint64_t parent,
	       const char *name, size_t len, const char *target, struct fs_attr *out)
{
	struct create c = {
		.cred = cred,
		.parent = parent,
		.name = name,
		.len = len,
		.mode = S_IFLNK | 0777,
		.target = target,
		.target_len = strlen(target),
		.out = out,
	};
	int err = name_check(name, len);

	if (err)
		return err;
	if (!c.target_len)
		return -ENOENT;
	if (c.target_len > MAX_SYMLINK)
		return -ENAMETOOLONG;
	return fs_run(fs, q, create_step, &c);
}

/* --- a file without a name --- */

struct tmpfile {
	const struct fs_cred *cred;
	uint64_t parent;
	uint32_t mode;
	struct fs_attr *out;
};

static int tmpfile_commit(struct fs *fs, struct dev_queue *q, struct tmpfile *c, const struct disk_inode *di,
			  const struct acl_new *acl, struct miss *miss)
{
	struct txn t;
	uint64_t lsn = 0;

	txn_begin(&t, fs->v);
	uint64_t ino = txn_new_ino(&t);
	inode_put(&t, ino, di);
	acl_record_new(fs, &t, ino, acl);
	if (!BUG(ORPHAN_ITEM_DROPPED))
		orphan_put(&t, ino);
	int err = commit_with_ref(fs, q, &t, ino, miss, &lsn);
	if (err)
		return err;
	inode_changed(fs, ino, lsn, true);
	inode_orphaned(fs, inode_find(fs, ino));
	inode_to_attr(ino, di, c->out);
	return 0;
}

static int tmpfile_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct tmpfile *c = arg;
	struct disk_inode dir, di;
	struct timespec now;
	struct acl_new acl;
	uint32_t mode = c->mode;
	int err = inode_get_dir(fs, c->parent, miss, &dir);

	if (!err)
		err = flags_check_mutable(&dir);
	if (!err)
		err = acl_from_dir(fs, c->parent, c->cred->umask, miss, &mode, &acl);
	if (err)
		return err;
	fs_now(fs, &now);
	inode_make(fs, c->cred, &dir, mode, &now, &di);
	di.nlink = put32(0);
	return tmpfile_commit(fs, q, c, &di, &acl, miss);
}

int fs_tmpfile(struct fs *fs, struct dev_queue *q, const struct fs_cred *cred, uint64_t parent, uint32_t mode,
	       struct fs_attr *out)
{
	struct tmpfile c = {cred, parent, S_IFREG | (mode & 07777), out};

	return fs_run(fs, q, tmpfile_step, &c);
}

/* --- link --- */

struct link {
	uint64_t ino, parent;
	const char *name;
	size_t len;
	struct fs_attr *out;
};

/* A file without a name gets one only while somebody holds it: else its removal may have begun. */
static bool is_held(struct fs *fs, uint64_t ino)
{
	const struct inode *inode = inode_find(fs, ino);

	return inode && inode->orphan && inode->nlookup;
}

/* May the inode get another name?  Then it has, with ctime. */
static int inode_add_link(struct fs *fs, uint64_t ino, struct miss *miss, const struct timespec *now,
			  struct disk_inode *di)
{
	int err = inode_get(fs, ino, miss, di);

	if (err)
		return err;
	if (mode_is(di, S_IFDIR) || flags_check_free(di))
		return -EPERM;
	uint32_t nlink = get32(di->nlink);
	if (!nlink && !is_held(fs, ino))
		return -ENOENT;
	if (nlink >= MAX_LINKS)
		return -EMLINK;
	di->nlink = put32(nlink + 1);
	di->ctime = time_encode(now);
	return 0;
}

/* It has a name now.  What a truncation has left behind the end is to be removed all the same, and listed as such. */
static void inode_adopted(struct fs *fs, struct inode *inode)
{
	inode->orphan = false;
	if (inode->trimming && !inode->queued)
		reap_queue(fs, inode);
}

static int link_commit(struct fs *fs, struct dev_queue *q, const struct link *l, const struct dir_pos *pos,
		       const struct disk_inode *dir, const struct disk_inode *di, struct miss *miss)
{
	bool first = get32(di->nlink) == 1;
	struct txn t;
	uint64_t lsn = 0;

	txn_begin(&t, fs->v);
	inode_put(&t, l->ino, di);
	if (first && !inode_find(fs, l->ino)->trimming)
		orphan_del(&t, l->ino);
	dir_put(&t, l->parent, pos->offset, l->name, l->len, l->ino, IFTODT(get32(di->mode)));
	inode_put(&t, l->parent, dir);
	int err = commit_with_ref(fs, q, &t, l->ino, miss, &lsn);
	if (err)
		return err;
	inode_changed(fs, l->ino, lsn, first);
	inode_changed(fs, l->parent, lsn, true);
	if (first)
		inode_adopted(fs, inode_find(fs, l->ino));
	inode_to_attr(l->ino, di, l->out);
	return 0;
}

static int link_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct link *l = arg;
	struct disk_inode dir, di;
	struct dir_pos pos;
	struct timespec now;
	int err;

	fs_now(fs, &now);
	err = inode_add_link(fs, l->ino, miss, &now, &di);
	if (!err)
		err = dir_find_free(fs, l->parent, l->name, l->len, miss, &dir, &pos);
	if (!err)
		err = dir_account(fs, l->parent, &dir, 1, 0, &now);
	return err ? err : link_commit(fs, q, l, &pos, &dir, &di, miss);
}

int fs_link(struct fs *fs, struct dev_queue *q, uint64_t ino, uint64_t parent, const char *name, size_t len,
	    struct fs_attr *out)
{
	struct link l = {ino, parent, name, len, out};
	int err = name_check(name, len);

	return err ? err : fs_run(fs, q, link_step, &l);
}

/* --- unlink, rmdir --- */

struct unlink {
	uint64_t parent;
	const char *name;
	size_t len;
	bool is_rmdir;
	struct inode *reap; /* out: pinned */
};

static int unlink_commit(struct fs *fs, struct dev_queue *q, struct unlink *u, const struct dir_pos *pos,
			 const struct disk_inode *dir, const struct disk_inode *di, struct miss *miss)
{
	bool last = get32(di->nlink) == 0;
	struct txn t;
	uint64_t lsn = 0;

	txn_begin(&t, fs->v);
	dir_del(&t, u->parent, pos->offset);
	inode_put(&t, u->parent, dir);
	inode_put(&t, pos->ino, di);
	if (last && !BUG(ORPHAN_ITEM_DROPPED))
		orphan_put(&t, pos->ino);
	struct inode *inode = inode_ref(fs, pos->ino, 1);
	int err = inode ? txn_commit(&t, q, TXN_URGENT, miss, NULL, &lsn) : -ENOMEM;
	txn_end(&t);
	if (!err) {
		inode_changed(fs, u->parent, lsn, true);
		inode_changed(fs, pos->ino, lsn, false);
		if (last)
			inode_orphaned(fs, inode);
	}
	if (inode)
		u->reap = inode_unref_claim(fs, inode, 1);
	return err;
}

static int unlink_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct unlink *u = arg;
	struct disk_inode dir, di;
	struct dir_pos pos;
	struct timespec now;
	int err = inode_get_dir(fs, u->parent, miss, &dir);

	if (!err)
		err = dir_find(fs, u->parent, u->name, u->len, miss, &pos);
	if (err)
		return err;
	if (!pos.ino)
		return -ENOENT;
	if (pos.ino == INO_ROOT)
		return -EBUSY;
	err = dir_child(fs, u->parent, pos.ino, miss, &di);
	if (!err)
		err = flags_check_remove(&dir, &di);
	if (err)
		return err;
	bool is_dir = mode_is(&di, S_IFDIR);
	if (is_dir != u->is_rmdir)
		return is_dir ? -EISDIR : -ENOTDIR;
	fs_now(fs, &now);
	err = inode_drop_link(fs, pos.ino, &di, &now);
	if (!err)
		err = dir_account(fs, u->parent, &dir, -1, is_dir ? -1 : 0, &now);
	return err ? err : unlink_commit(fs, q, u, &pos, &dir, &di, miss);
}

static int unlink_run(struct fs *fs, struct dev_queue *q, struct unlink *u)
{
	int err = fs_run(fs, q, unlink_step, u);

	if (u->reap)
		inode_reap(fs, q, u->reap);
	return err;
}

int fs_unlink(struct fs *fs, struct dev_queue *q, uint64_t parent, const char *name, size_t len)
{
	struct unlink u = {.parent = parent, .name = name, .len = len};
	int err = name_check(name, len);

	if (err)
		return err;
	return name_dots(name, len) ? -EISDIR : unlink_run(fs, q, &u);
}

int fs_rmdir(struct fs *fs, struct dev_queue *q, uint64_t parent, const char *name, size_t len)
{
	struct unlink u = {.parent = parent, .name = name, .len = len, .is_rmdir = true};
	int err = name_check(name, len);

	if (err)
		return err;
	switch (name_dots(name, len)) {
	case 1:
		return -EINVAL;
	case 2:
		return -ENOTEMPTY;
	default:
		return unlink_run(fs, q, &u);
	}
}
