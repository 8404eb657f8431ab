/* SPDX-License-Identifier: Apache-2.0 */
/* fuse_ops.c - names and attributes; each handler is one call of fs.h and one reply. */
#include "fs/fuse_ops.h"

#include <dirent.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

#include "core/acl.h"
#include "fs/admit.h"
#include "fs/caller.h"
#include "fs/inval.h"
#include "fs/mount_options.h"

/* Linux 6.16.  Before, pages counted as written back as soon as they had been copied, so that dropping them waited for no WRITE under way. */
#define MINOR_WAITS 44

struct call call_of(fuse_req_t req)
{
	struct fuse_glue *glue = fuse_req_userdata(req);
	struct worker *w = loop_self(glue->loop);

	return (struct call){.glue = glue, .fs = glue->fs, .worker = w, .q = worker_queue(w)};
}

uint32_t fuse_glue_uid(fuse_req_t req)
{
	return fuse_req_ctx(req)->uid;
}

void fuse_glue_stat(const struct fs_attr *a, struct stat *st)
{
	*st = (struct stat){
		.st_ino = a->ino,
		.st_mode = a->mode,
		.st_nlink = a->nlink,
		.st_uid = a->uid,
		.st_gid = a->gid,
		.st_rdev = a->rdev,
		.st_size = (off_t)a->size,
		.st_blksize = BLOCK_SIZE,
		.st_blocks = (blkcnt_t)a->blocks,
		.st_atim = a->atime,
		.st_mtim = a->mtime,
		.st_ctim = a->ctime,
	};
}

void fuse_glue_entry(const struct fs_attr *a, struct fuse_entry_param *e)
{
	*e = (struct fuse_entry_param){
		.ino = a->ino,
		.generation = a->generation,
		.attr_timeout = CACHE_SECONDS,
		.entry_timeout = CACHE_SECONDS,
	};
	fuse_glue_stat(a, &e->attr);
}

double fuse_glue_seconds(const struct fuse_glue *glue, const struct stat *st, bool times_only)
{
	bool expired;

	if (!glue->admit || !fs_is_low(glue->fs) || !fs_has_writers(glue->fs, st->st_ino, &expired))
		return CACHE_SECONDS;
	if (!times_only)
		fs_set_expired(glue->fs, st->st_ino, true);
	return 0;
}

static bool can_write(const struct fuse_file_info *fi)
{
	return (fi->flags & O_ACCMODE) != O_RDONLY;
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct fuse_glue *glue = userdata;
	/*
	 * WRITEBACK_CACHE only if asked for, because a write is then acknowledged before it is ordered.  Not among them:
	 * ATOMIC_O_TRUNC, because with OPEN unimplemented the truncation would be lost; AUTO_INVAL_DATA, because
	 * nobody else changes files; SPLICE_*, because data comes from and goes to aligned buffers.
	 */
	const unsigned want = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS |
			      FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_EXPORT_SUPPORT |
			      FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_IOCTL_DIR | FUSE_CAP_NO_OPEN_SUPPORT |
			      FUSE_CAP_NO_OPENDIR_SUPPORT;

	/* With ACLs the umask is ours to apply, since a default ACL overrides it. */
	const unsigned for_acl = FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK;

	glue->acl = glue->acl && (conn->capable & for_acl) == for_acl;
	conn->want = conn->capable & (want | (glue->acl ? for_acl : 0) | (glue->admit ? FUSE_CAP_WRITEBACK_CACHE : 0));
	conn->max_write = MOUNT_MAX_IO;
	conn->max_read = glue->max_read;
	conn->max_background = MAX_BACKGROUND;
	conn->congestion_threshold = MAX_BACKGROUND * 3 / 4;
	glue->no_holes = glue->admit && conn->proto_minor < MINOR_WAITS;
	glue->inited = true;
}

/* --- names --- */

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct call c = call_of(req);
	struct fuse_entry_param e = {.entry_timeout = CACHE_SECONDS};
	struct fs_attr attr;
	int err = fs_lookup(c.fs, c.q, parent, name, strlen(name), &attr);

	if (!err)
		fuse_glue_entry(&attr, &e);
	/* Inode number 0: the kernel remembers that there is no such name. */
	if (err && err != -ENOENT) {
		fuse_reply_err(req, -err);
		return;
	}
	if (!err)
		e.attr_timeout = fuse_glue_seconds(c.glue, &e.attr, false);
	fuse_reply_entry(req, &e);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	struct call c = call_of(req);

	fs_forget(c.fs, c.q, ino, nlookup);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	struct call c = call_of(req);

	for (size_t i = 0; i < count; i++)
		fs_forget(c.fs, c.q, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

/* Who makes an inode.  -EOVERFLOW: the mount maps users, and has none on the volume for this one.  Mostly the kernel has said so itself. */
static int maker_of(fuse_req_t req, struct fs_cred *out)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	if (ctx->uid == CALLER_UNKNOWN || ctx->gid == CALLER_UNKNOWN)
		return -EOVERFLOW;
	*out = (struct fs_cred){.uid = ctx->uid, .gid = ctx->gid, .umask = ctx->umask};
	return 0;
}

static int create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev,
		  struct fs_attr *attr)
{
	struct call c = call_of(req);
	struct fs_cred cred;
	int err = maker_of(req, &cred);

	return err ? err : fs_create(c.fs, c.q, &cred, parent, name, strlen(name), mode, rdev, attr);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct fs_attr attr;
	int err = create(req, parent, name, mode, rdev, &attr);

	reply_change_entry(req, parent, err, &attr);
}

/*
 * TMPFILE, which comes in the form of CREATE (fuse_raw.h).  The reply also opens the file, in the way in which the kernel by itself opens
 * those for which it need not ask; RELEASE will come.  There is nothing that -o sync could wait for: without a name it does not survive.
 */
static void op_tmpfile(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct call c = call_of(req);
	struct fuse_entry_param e;
	struct fs_cred cred;
	struct fs_attr attr;
	int err = maker_of(req, &cred);

	(void)name;
	if (!err)
		err = fs_tmpfile(c.fs, c.q, &cred, parent, mode, &attr);
	if (err) {
		fuse_reply_err(req, -err);
		return;
	}
	fuse_glue_entry(&attr, &e);
	fi->keep_cache = !c.glue->strictatime;
	if (c.glue->admit && can_write(fi)) {
		fs_opened(c.fs, attr.ino);
		e.attr_timeout = fuse_glue_seconds(c.glue, &e.attr, false);
	}
	fuse_reply_create(req, &e, fi);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct fs_attr attr;
	int err = create(req, parent, name, (mode & ~(mode_t)S_IFMT) | S_IFDIR, 0, &attr);

	reply_change_entry(req, parent, err, &attr);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct call c = call_of(req);
	struct fs_cred cred;
	struct fs_attr attr;
	int err = maker_of(req, &cred);

	if (!err)
		err = fs_symlink(c.fs, c.q, &cred, parent, name, strlen(name), target, &attr);
	reply_change_entry(req, parent, err, &attr);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct call c = call_of(req);
	struct fs_attr attr;
	int err = fs_link(c.fs, c.q, ino, parent, name, strlen(name), &attr);

	reply_change_entry(req, parent, err, &attr);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct call c = call_of(req);

	reply_change(req, CHANGE_NAMES, parent, fs_unlink(c.fs, c.q, parent, name, strlen(name)));
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct call c = call_of(req);

	reply_change(req, CHANGE_NAMES, parent, fs_rmdir(c.fs, c.q, parent, name, strlen(name)));
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
		      const char *newname, unsigned flags)
{
	struct call c = call_of(req);
	struct fs_cred cred;
	int err = flags & RENAME_WHITEOUT ? maker_of(req, &cred) : 0;

	if (!err)
		err = fs_rename(c.fs, c.q, flags & RENAME_WHITEOUT ? &cred : NULL, parent, name, strlen(name), newparent, newname,
				strlen(newname), flags);
	/* Either directory may want it. */
	reply_change(req, CHANGE_NAMES, !err && fs_must_sync(c.fs, c.q, parent, true) ? parent : newparent, err);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct call c = call_of(req);
	char target[MAX_SYMLINK + 1];
	int err = fs_readlink(c.fs, c.q, ino, target);

	if (err)
		fuse_reply_err(req, -err);
	else
		fuse_reply_readlink(req, target);
}

/* --- directories --- */

struct listing {
	fuse_req_t req;
	char *buf;
	size_t size, used;
	bool plus;
};

/* Non-zero when the entry does not fit. */
static int list_entry(void *arg, const struct fs_dirent *d)
{
	struct listing *l = arg;
	struct fuse_entry_param e = {.attr = {.st_ino = d->ino, .st_mode = (mode_t)DTTOIF(d->ftype)}};
	char name[MAX_NAME + 1];
	size_t need, room = l->size - l->used;

	memcpy(name, d->name, d->len);
	name[d->len] = '\0';
	/* "." and ".." come without attributes; inode number 0 tells the kernel so. */
	if (d->attr)
		fuse_glue_entry(d->attr, &e);
	if (l->plus)
		need = fuse_add_direntry_plus(l->req, l->buf + l->used, room, name, &e, (off_t)d->cookie);
	else
		need = fuse_add_direntry(l->req, l->buf + l->used, room, name, &e.attr, (off_t)d->cookie);
	if (need > room)
		return 1;
	l->used += need;
	return 0;
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	struct call c = call_of(req);
	struct listing l = {.req = req, .size = size < MOUNT_MAX_IO ? size : MOUNT_MAX_IO, .plus = plus};
	struct reply_room room = worker_reply_room(c.worker, l.size);
	int err;

	l.buf = room.mem;
	if (!l.buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	/* Attributes may be left out, also where they were asked for. */
	bool attrs = plus && !(c.glue->admit && fs_is_low(c.fs));
	err = fs_readdir(c.fs, c.q, ino, (uint64_t)off, attrs, list_entry, &l);
	/* What was taken is referenced, so an error behind it must wait for the next call. */
	if (err && !l.used)
		fuse_reply_err(req, -err);
	else
		fuse_reply_buf(req, l.buf, l.used);
	worker_reply_room_put(c.worker, &room);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	list(req, ino, size, off, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	list(req, ino, size, off, true);
}

/* --- opening: there is no state to keep, so the kernel need not ask, unless it caches writes or a flag may forbid it --- */

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	/* What the kernel serves from its cache changes no access time, since it leaves these to us.  So each open begins
	 * with an empty one: neither keep_cache nor cache_readdir. */
	if (call_of(req).glue->strictatime)
		fuse_reply_open(req, fi);
	else
		fuse_reply_err(req, ENOSYS);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct call c = call_of(req);
	bool write = can_write(fi);

	/* Once refused in this way, it does not ask again for as long as the volume is mounted. */
	if (!c.glue->admit && !c.glue->strictatime && !c.glue->flags) {
		fuse_reply_err(req, ENOSYS);
		return;
	}
	int err = write ? fs_check_open(c.fs, c.q, ino, fi->flags & O_APPEND) : 0;
	if (err) {
		fuse_reply_err(req, -err);
		return;
	}
	fi->keep_cache = !c.glue->strictatime;
	if (c.glue->admit && write)
		fs_opened(c.fs, ino);
	if (c.glue->admit && write && fs_is_low(c.fs))
		admit_open(c.glue->admit, req, ino, fi);
	else
		fuse_reply_open(req, fi);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct call c = call_of(req);

	if (c.glue->admit && can_write(fi))
		fs_released(c.fs, ino);
	fuse_reply_err(req, 0);
}

static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	(void)fi;
	fuse_reply_err(req, ENOSYS);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	(void)fi;
	fuse_reply_err(req, 0);
}

/* --- attributes --- */

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct call c = call_of(req);
	struct fs_attr attr;
	struct stat st;
	bool low = c.glue->admit && fs_is_low(c.fs) && fs_look_low(c.fs);
	bool expired = false, writers = low && fs_has_writers(c.fs, ino, &expired);
	/* Through an open file the kernel asks before it takes data. */
	int err = writers && fi ? fs_admit(c.fs, c.q, expired) : 0;

	if (!err)
		err = fs_getattr(c.fs, c.q, ino, &attr);
	if (err) {
		fuse_reply_err(req, -err);
		return;
	}
	if (writers) {
		admit_getattr(c.glue->admit, req, &attr);
		return;
	}
	fuse_glue_stat(&attr, &st);
	fuse_reply_attr(req, &st, CACHE_SECONDS);
}

/* *_NOW comes together with the plain flag and overrides it. */
static unsigned set_flags(int to_set)
{
	static const struct {
		int from;
		unsigned to;
	} map[] = {
		{FUSE_SET_ATTR_MODE, FS_SET_MODE},
		{FUSE_SET_ATTR_UID, FS_SET_UID},
		{FUSE_SET_ATTR_GID, FS_SET_GID},
		{FUSE_SET_ATTR_SIZE, FS_SET_SIZE},
		{FUSE_SET_ATTR_CTIME, FS_SET_CTIME},
		{FUSE_SET_ATTR_ATIME_NOW, FS_SET_ATIME_NOW},
		{FUSE_SET_ATTR_MTIME_NOW, FS_SET_MTIME_NOW},
	};
	unsigned set = 0;

	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++)
		if (to_set & map[i].from)
			set |= map[i].to;
	if ((to_set & FUSE_SET_ATTR_ATIME) && !(to_set & FUSE_SET_ATTR_ATIME_NOW))
		set |= FS_SET_ATIME;
	if ((to_set & FUSE_SET_ATTR_MTIME) && !(to_set & FUSE_SET_ATTR_MTIME_NOW))
		set |= FS_SET_MTIME;
	return set;
}

/*
 * A SETATTR of nothing comes of chown(-1, -1), and of whatever else is about to change a file that has setuid, setgid or capabilities: the
 * kernel leaves out the mode because we see to it, and does not say whether the caller keeps the bits by CAP_FSETID.  Changes take them by
 * themselves, so what is left is chown: it takes them if it is the owner's, of which with mapped users nobody knows.
 */
static bool owner_kills_priv(fuse_req_t req, fuse_ino_t ino)
{
	struct call c = call_of(req);
	uint32_t uid = fuse_glue_uid(req);
	struct fs_attr attr;

	return uid && uid != CALLER_UNKNOWN && !fs_getattr(c.fs, c.q, ino, &attr) && attr.uid == uid;
}

/* Somebody else for whom the thread may be working has not more than user 0, nor more than the thread: what only one of both has does not count. */
static bool keeps_priv(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	return ctx->uid == 0 && callers_capable(call_of(req).glue->callers, (uint32_t)ctx->pid, CAP_FSETID);
}

void fuse_glue_kill_priv(fuse_req_t req, fuse_ino_t ino)
{
	struct call c = call_of(req);
	struct fs_attr attr;

	if (fs_getattr(c.fs, c.q, ino, &attr) || !(attr.mode & (S_ISUID | S_ISGID)) || keeps_priv(req))
		return;
	/* What fails here fails again in what follows. */
	if (!fs_setattr(c.fs, c.q, ino, FS_SET_KILL_PRIV, &attr, &attr))
		inval_attributes(c.glue->inval, ino);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set, struct fuse_file_info *fi)
{
	struct call c = call_of(req);
	struct fs_attr in = {
		.size = (uint64_t)st->st_size,
		.mode = st->st_mode,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.atime = st->st_atim,
		.mtime = st->st_mtim,
		.ctime = st->st_ctim,
	};
	struct fs_attr out;

	if ((to_set & FUSE_SET_ATTR_UID && st->st_uid == CALLER_UNKNOWN) || (to_set & FUSE_SET_ATTR_GID && st->st_gid == CALLER_UNKNOWN)) {
		fuse_reply_err(req, EOVERFLOW);
		return;
	}
	bool kill = worker_kills_priv(c.worker) || (!to_set && owner_kills_priv(req, ino));
	int err = fs_setattr(c.fs, c.q, ino, set_flags(to_set) | (kill ? FS_SET_KILL_PRIV : 0), &in, &out);

	(void)fi;
	reply_change_attr(req, ino, err, &out, !(to_set & ~(FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_CTIME)));
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct call c = call_of(req);
	struct fs_statfs sf;
	int err = fs_statfs(c.fs, &sf);
	struct statvfs st;

	(void)ino;
	if (err) {
		fuse_reply_err(req, -err);
		return;
	}
	st = (struct statvfs){
		.f_bsize = BLOCK_SIZE,
		.f_frsize = BLOCK_SIZE,
		.f_blocks = sf.blocks,
		.f_bfree = sf.bfree,
		.f_bavail = sf.bavail,
		.f_files = sf.files,
		.f_ffree = sf.ffree,
		.f_namemax = MAX_NAME,
	};
	fuse_reply_statfs(req, &st);
}

/* --- extended attributes --- */

/* As on ext4: attributes outside these namespaces do not exist, and a prefix alone is no name. */
static int xattr_name_check(const struct fuse_glue *glue, const char *name)
{
	static const char *const spaces[] = {"user.", "trusted.", "security."};

	for (size_t i = 0; i < sizeof(spaces) / sizeof(spaces[0]); i++) {
		size_t len = strlen(spaces[i]);

		if (strncmp(name, spaces[i], len) == 0)
			return name[len] ? 0 : -EINVAL;
	}
	if (acl_kind(name) != ACL_IS_NONE)
		return glue->acl ? 0 : -EOPNOTSUPP;
	return -EOPNOTSUPP;
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
			int flags)
{
	struct call c = call_of(req);
	int err = xattr_name_check(c.glue, name);

	flags &= XATTR_CREATE | XATTR_REPLACE;
	/* Whoever sets it is not in the file's group and has no CAP_FSETID. */
	if (worker_setxattr_flags(c.worker) & FUSE_SETXATTR_ACL_KILL_SGID)
		flags |= FS_XATTR_KILL_SGID;
	if (!err)
		err = fs_setxattr(c.fs, c.q, ino, name, value, size, flags);
	reply_change(req, CHANGE_FILE, ino, err);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct call c = call_of(req);
	int err = xattr_name_check(c.glue, name);

	if (!err)
		err = fs_removexattr(c.fs, c.q, ino, name);
	/* An ACL that is not there is what its removal leaves; the kernel asks for it so too when an empty one is set. */
	if (err == -ENODATA && acl_kind(name) != ACL_IS_NONE)
		err = 0;
	reply_change(req, CHANGE_FILE, ino, err);
}

/*
 * Who may see the names of trusted.* depends on a capability; a request tells only the user, and user 0 is believed: an overlay copies up a file with these
 * attributes as that user, in the thread of whoever writes to it, and would leave out what the thread may not see.  If it does not tell even that, somebody
 * else is asked, if there are any.
 */
static bool may_see_trusted(fuse_req_t req, fuse_ino_t ino)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	struct call c = call_of(req);
	size_t all = 0, others = 0;

	if (ctx->uid != CALLER_UNKNOWN)
		return ctx->uid == 0;
	if (fs_listxattr(c.fs, c.q, ino, true, NULL, &all) || fs_listxattr(c.fs, c.q, ino, false, NULL, &others))
		return false;
	return all != others && callers_capable(c.glue->callers, (uint32_t)ctx->pid, CAP_SYS_ADMIN);
}

/* `name` NULL: the list of names. */
static void get_xattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct call c = call_of(req);
	/* Nothing is longer than the limit, so no more room than that is of use. */
	size_t room = size < MOUNT_MAX_IO ? size : MOUNT_MAX_IO, len = room;
	void *buf = room ? worker_alloc(c.worker, room) : NULL;
	int err = room && !buf ? -ENOMEM : 0;

	if (!err)
		err = name ? fs_getxattr(c.fs, c.q, ino, name, buf, &len)
			   : fs_listxattr(c.fs, c.q, ino, may_see_trusted(req, ino), buf, &len);
	if (err)
		fuse_reply_err(req, -err);
	else if (room)
		fuse_reply_buf(req, buf, len);
	else
		fuse_reply_xattr(req, len);
	if (buf)
		worker_free(c.worker, buf, room);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	int err = xattr_name_check(call_of(req).glue, name);

	if (err)
		fuse_reply_err(req, -err);
	else
		get_xattr(req, ino, name, size);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	get_xattr(req, ino, NULL, size);
}

/* --- space --- */

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
			 struct fuse_file_info *fi)
{
	struct call c = call_of(req);

	(void)fi;
	fuse_glue_kill_priv(req, ino);
	reply_change(req, CHANGE_FILE, ino, fs_fallocate(c.fs, c.q, ino, mode, (uint64_t)off, (uint64_t)len));
}

/*
 * BMAP is how FIBMAP asks for one block, and how swapon(2) asks for all of them, to write there by itself, past us.  So nobody is told but who is in ioctl(2).
 * To all others there is nothing but holes, of which no swap file is made.  ENOSYS would be the last answer that anybody gets.
 */
static void op_bmap(fuse_req_t req, fuse_ino_t ino, size_t blocksize, uint64_t block)
{
	struct call c = call_of(req);
	uint64_t per = blocksize ? BLOCK_SIZE / blocksize : 0, blkno = 0;
	bool whole = per && per * blocksize == BLOCK_SIZE;
	int err = whole ? fs_bmap(c.fs, c.q, ino, block / per, &blkno) : -EINVAL;

	if (!err && blkno && !callers_in_fibmap(c.glue->callers, (uint32_t)fuse_req_ctx(req)->pid))
		blkno = 0;
	if (err)
		fuse_reply_err(req, -err);
	else
		fuse_reply_bmap(req, blkno ? blkno * per + block % per : 0);
}

/*
 * Not here, so ENOSYS: access (the kernel checks permissions), locks (the kernel's are right),
 * poll.  CREATE is refused before it gets here: the kernel then sends MKNOD and opens without asking.  A file that CREATE had
 * opened would cost a RELEASE, a quarter of what making a file costs us.  DESTROY is the loop's.
 */
const struct fuse_lowlevel_ops fuse_glue_ops = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.create = op_tmpfile,
	.mkdir = op_mkdir,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.symlink = op_symlink,
	.rename = op_rename,
	.link = op_link,
	.open = op_open,
	.read = fuse_io_read,
	.write = fuse_io_write,
	.flush = op_flush,
	.release = op_release,
	.fsync = fuse_io_fsync,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.releasedir = op_releasedir,
	.fsyncdir = fuse_io_fsync,
	.statfs = op_statfs,
	.setxattr = op_setxattr,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.removexattr = op_removexattr,
	.fallocate = op_fallocate,
	.lseek = fuse_io_lseek,
	.bmap = op_bmap,
	.copy_file_range = fuse_io_copy,
	.ioctl = fuse_control_ioctl,
};
