/* SPDX-License-Identifier: Apache-2.0 */
/* mount_point.c - see the header; everything about /proc/self/mountinfo, mount(2) and fusermount3. */
#define FUSE_USE_VERSION 314
#include "fs/mount_point.h"

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/image_lock.h"

#define READ_AHEAD_KB 2048 /* two of the largest requests: one is served while the other one's data is used */

extern char **environ;

static void close_stream(FILE **f)
{
	if (*f)
		fclose(*f);
}
#define auto_file __attribute__((cleanup(close_stream))) FILE

static int refuse(const struct diag *d, const char *path, int err, const char *why)
{
	diag(d, DIAG_ERR, "%s: %s", path, why);
	return err;
}

int mount_point_enter_ns(const char *ns, const struct diag *d)
{
	char path[PATH_MAX];
	bool is_pid = *ns && ns[strspn(ns, "0123456789")] == '\0';
	int fd, err = 0;

	snprintf(path, sizeof(path), is_pid ? "/proc/%s/ns/mnt" : "%s", ns);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNS) < 0) {
		err = -errno;
		diag(d, DIAG_ERR, "%s: cannot enter this mount namespace: %s", path, strerror(-err));
	}
	if (fd >= 0)
		close(fd);
	return err;
}

int mount_point_open_proc(void)
{
	return open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* --- dead mounts --------------------------------------------------------------------------------- */

struct mount_line {
	unsigned long id;
	dev_t dev;
	char *root, *point, *type, *source; /* into the line, unescaped but `root` */
	char *options, *super_options; /* likewise, as they are; super_options may be NULL */
};

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static void unescape(char *s)
{
	char *to = s;
	unsigned char c;

	for (; *s; s++) {
		if (sscanf(s, "\\%3hho", &c) == 1) {
			*to++ = (char)c;
			s += 3;
		} else {
			*to++ = *s;
		}
	}
	*to = '\0';
}

/* "id parent maj:min root point options [optional...] - type source options" */
static bool parse_line(char *line, struct mount_line *out)
{
	char *sep = strstr(line, " - "), *save, *field[6];
	unsigned maj, min;

	if (!sep)
		return false;
	*sep = '\0';
	for (unsigned i = 0; i < 6; i++) {
		field[i] = strtok_r(i ? NULL : line, " ", &save);
		if (!field[i])
			return false;
	}
	if (sscanf(field[0], "%lu", &out->id) != 1 || sscanf(field[2], "%u:%u", &maj, &min) != 2)
		return false;
	out->type = strtok_r(sep + 3, " ", &save);
	out->source = out->type ? strtok_r(NULL, " \n", &save) : NULL;
	if (!out->source)
		return false;
	out->super_options = strtok_r(NULL, " \n", &save);
	out->dev = makedev(maj, min);
	out->root = field[3];
	out->point = field[4];
	out->options = field[5];
	unescape(out->point);
	unescape(out->source);
	return true;
}

static bool is_ours(const struct mount_line *m)
{
	return strcmp(m->type, "fuse.holdfast") == 0 || strcmp(m->type, "fuseblk.holdfast") == 0;
}

/* Does the kernel's loop device `dev` have the image behind it? */
static bool is_loop_on(dev_t dev, const struct mount_source *src)
{
	char name[96], path[PATH_MAX];
	struct stat st;

	snprintf(name, sizeof(name), "/sys/dev/block/%u:%u/loop/backing_file", major(dev), minor(dev));

	auto_file *f = fopen(name, "re");

	if (!f || !fgets(path, sizeof(path), f))
		return false;
	path[strcspn(path, "\n")] = '\0';
	return stat(path, &st) == 0 && st.st_dev == src->dev && st.st_ino == src->ino;
}

static bool mounts_source(const struct mount_line *m, const struct mount_source *src)
{
	if (strcmp(m->source, src->path) == 0)
		return true;
	return src->is_block ? m->dev == src->dev : is_loop_on(m->dev, src);
}

/*
 * statfs(2), because the kernel answers stat(2) from its cache even when nobody is there any more.  Only asked of mounts
 * whose daemon is not running or is a healthy stranger's: a stopped daemon would let us wait.
 */
static bool is_dead(const char *point)
{
	struct statfs sf;

	return statfs(point, &sf) < 0 && err_is_dead_mount(-errno);
}

/* Detaches one dead mount that is in the way.  1: did, 0: there is none (left), or a negative errno. */
static int detach_one(const char *dir, const struct mount_source *src, bool look_only, const struct diag *d)
{
	auto_file *f = fopen("/proc/self/mountinfo", "re");
	auto_free char *line = NULL;
	size_t cap = 0;
	struct mount_line m;

	while (f && getline(&line, &cap, f) > 0) {
		if (!parse_line(line, &m) || !is_ours(&m))
			continue;
		if (strcmp(m.point, dir) != 0 && !mounts_source(&m, src))
			continue;
		if (!is_dead(m.point))
			continue;
		if (look_only)
			return 0;
		struct mount_point dead = {.dir = m.point, .by_helper = geteuid() != 0};
		int err = mount_point_unmount(&dead);

		if (err) {
			diag(d, DIAG_ERR, "%s: a dead mount is in the way and cannot be unmounted: %s",
			     m.point, strerror(-err));
			return err;
		}
		diag(d, DIAG_NOTICE, "%s: unmounted what a dead daemon had left", m.point);
		return 1;
	}
	return 0;
}

static int detach_dead(const char *dir, const struct mount_source *src, bool look_only, const struct diag *d)
{
	int rc;

	do {
		rc = detach_one(dir, src, look_only, d);
	} while (rc > 0);
	return rc;
}

/* --- the directory -------------------------------------------------------------------------------- */

/* realpath(3) of the parent, and the last name as it is: the directory itself may be a dead mount. */
static char *resolve(const char *dir)
{
	char *real = realpath(dir, NULL);

	if (real || !err_is_dead_mount(-errno))
		return real;

	auto_free char *copy = strdup(dir);
	size_t len = copy ? strlen(copy) : 0;

	while (len > 1 && copy[len - 1] == '/')
		copy[--len] = '\0';
	char *slash = copy ? strrchr(copy, '/') : NULL;

	if (slash)
		*slash = '\0';
	auto_free char *parent = realpath(slash == copy ? "/" : slash ? copy : ".", NULL);

	if (!parent || !copy ||
	    asprintf(&real, "%s/%s", parent[1] ? parent : "", slash ? slash + 1 : copy) < 0)
		return NULL;
	return real;
}

static int check_dir(const char *dir, const struct diag *d)
{
	struct stat st;

	if (stat(dir, &st) < 0)
		return refuse(d, dir, -errno,
			      errno == ENOENT ? "mount point does not exist" : strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return refuse(d, dir, -ENOTDIR, "mount point is not a directory");
	return 0;
}

int mount_point_find(const char *dir, const struct mount_source *src, bool look_only, const struct diag *d,
		     struct mount_point *out)
{
	struct mount_point mp = {.dir = resolve(dir), .proc_fd = -1};
	int err;

	if (!mp.dir)
		return check_dir(dir, d) ?: -ENOENT;
	err = detach_dead(mp.dir, src, look_only, d);
	if (!err)
		err = check_dir(mp.dir, d);
	/* What another file system has mounted must not even be replayed. */
	if (!err && src->is_block && image_is_claimed(src->path))
		err = refuse(d, src->path, -EBUSY,
			     "is in use (mounted by another file system, or part of something)");
	if (err) {
		mount_point_free(&mp);
		return err;
	}
	*out = mp;
	return 0;
}

void mount_point_free(struct mount_point *mp)
{
	free(mp->dir);
	mp->dir = NULL;
	if (mp->proc_fd >= 0)
		close(mp->proc_fd);
	mp->proc_fd = -1;
}

/* --- mounted already ----------------------------------------------------------------------------------- */

/* Is `options`, "a,b,c", one with `name`? */
static bool has_option(const char *options, const char *name)
{
	size_t len = strlen(name);

	for (const char *at = options; (at = strstr(at, name)); at += len)
		if ((at == options || at[-1] == ',') && (!at[len] || at[len] == ','))
			return true;
	return false;
}

/* Is it what is seen on its directory?  Something else may be mounted over it, the same volume with its users mapped, too. */
static bool is_on_top(const struct mount_line *m)
{
	struct statx st;

	return statx(AT_FDCWD, m->point, AT_STATX_DONT_SYNC, STATX_MNT_ID, &st) == 0 && st.stx_mask & STATX_MNT_ID && st.stx_mnt_id == m->id;
}

struct volume_mount {
	char *point; /* free(3); NULL: nowhere, or nobody answers there */
	bool read_only;
	bool mapped; /* users and groups, there and wherever else it is */
};

/* Where the volume on block device `dev` is mounted. */
static void find_volume(dev_t dev, struct volume_mount *out)
{
	auto_file *f = fopen("/proc/self/mountinfo", "re");
	auto_free char *line = NULL;
	size_t cap = 0;
	struct mount_line m;

	while (f && getline(&line, &cap, f) > 0) {
		if (!parse_line(line, &m) || !is_ours(&m) || m.dev != dev || strcmp(m.root, "/") != 0)
			continue;
		bool mapped = has_option(m.options, "idmapped");

		if ((mapped && out->point) || !is_on_top(&m) || is_dead(m.point))
			continue;
		free(out->point);
		out->point = strdup(m.point);
		out->read_only = m.super_options && strncmp(m.super_options, "ro", 2) == 0;
		out->mapped = mapped;
		if (!mapped)
			return;
	}
}

/*
 * Is what was opened by its path the root of the volume?  Users can mount as well, over directories that are theirs, and what they mount
 * has flags that must not be taken from it.  Nobody is asked who may not answer.
 */
static bool is_volume(int fd, dev_t dev)
{
	struct statx st;

	return statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &st) == 0 && st.stx_ino == FUSE_ROOT_ID &&
	       makedev(st.stx_dev_major, st.stx_dev_minor) == dev;
}

/* As a mount of its own: what is mounted below `from`, now or later, has nothing to do with it. */
static int attach_copy(const char *from, dev_t dev, const char *dir, unsigned long flags)
{
	struct mount_attr attr = {
		.attr_set = (flags & MS_RDONLY ? MOUNT_ATTR_RDONLY : 0) | (flags & MS_NOSUID ? MOUNT_ATTR_NOSUID : 0) |
			    (flags & MS_NODEV ? MOUNT_ATTR_NODEV : 0) | (flags & MS_NOEXEC ? MOUNT_ATTR_NOEXEC : 0) |
			    (flags & MS_NOSYMFOLLOW ? MOUNT_ATTR_NOSYMFOLLOW : 0),
		.propagation = MS_PRIVATE,
	};
	int fd = open_tree(AT_FDCWD, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), err = 0;

	if (fd < 0)
		return -errno;
	/* A copy has the first one's flags. */
	attr.attr_clr = (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW) & ~attr.attr_set;
	if (!is_volume(fd, dev))
		err = -ESTALE;
	else if (mount_setattr(fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0 ||
		 move_mount(fd, "", AT_FDCWD, dir, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		err = -errno;
	close(fd);
	return err;
}

static int mount_again(const char *from, dev_t dev, const struct mount_options *o, const struct diag *d)
{
	int err = check_dir(o->dir, d);
	struct stat st;

	if (err)
		return err;
	if (stat(o->dir, &st) == 0 && st.st_dev == dev && st.st_ino == FUSE_ROOT_ID) {
		diag(d, DIAG_ERR, "%s: is mounted on %s already", o->image, o->dir);
		return -EBUSY;
	}
	if (o->fake)
		return 0;

	auto_free char *dir = realpath(o->dir, NULL);

	err = dir ? attach_copy(from, dev, dir, o->ms_flags) : -errno;
	if (err)
		diag(d, DIAG_ERR, "%s: is mounted on %s, and cannot be on %s too: %s", o->image, from, o->dir, strerror(-err));
	return err;
}

bool mount_point_again(const struct mount_options *o, const struct diag *d, int *err)
{
	struct volume_mount at = {0};
	struct stat st;

	if (geteuid() != 0 || o->plain || o->ns || stat(o->image, &st) < 0 || !S_ISBLK(st.st_mode))
		return false;
	find_volume(st.st_rdev, &at);
	if (!at.point)
		return false;
	*err = -EBUSY;
	if (at.read_only != o->read_only)
		diag(d, DIAG_ERR, "%s: is mounted %s on %s", o->image, at.read_only ? "read-only" : "for writing", at.point);
	else if (at.mapped)
		diag(d, DIAG_ERR, "%s: is mounted on %s with its users mapped, and nowhere as it is", o->image, at.point);
	else
		*err = mount_again(at.point, st.st_rdev, o, d);
	free(at.point);
	return true;
}

/* --- mounting --------------------------------------------------------------------------------------- */

static char *mount_data(const struct mount_options *o, int fd, bool blk)
{
	char *text;
	int rc = asprintf(&text,
			  "fd=%d,rootmode=40000,user_id=%u,group_id=%u,default_permissions,allow_other,max_"
			  "read=%u%s%s%s",
			  fd, getuid(), getgid(), o->max_read, blk ? ",blksize=4096" : "",
			  o->kernel_opts ? "," : "", o->kernel_opts ? o->kernel_opts : "");

	return rc < 0 ? NULL : text;
}

/* The descriptor of the connection, or a negative errno. */
static int mount_as(const char *source, const char *dir, bool blk, const struct mount_options *o)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return -errno;

	auto_free char *data = mount_data(o, fd, blk);

	if (data && mount(source, dir, blk ? "fuseblk.holdfast" : "fuse.holdfast", o->ms_flags, data) == 0)
		return fd;

	int err = data ? -errno : -ENOMEM;

	close(fd);
	return err;
}

/* The kernel keeps the loop device for the mount; closing our descriptor leaves it to detach itself at umount. */
static int mount_blk(struct mount_point *mp, const struct mount_source *src, const struct mount_options *o)
{
	char name[32];
	int loop, fd;

	if (src->is_block)
		return mount_as(src->path, mp->dir, true, o);
	loop = mount_source_attach_loop(src, name, sizeof(name));
	if (loop < 0)
		return loop;
	fd = mount_as(name, mp->dir, true, o);
	close(loop);
	return fd;
}

struct fuse_session *mount_point_session(const struct mount_source *src, const struct mount_options *o,
					 const struct fuse_lowlevel_ops *ops, size_t ops_bytes, void *user)
{
	auto_free char *text = mount_options_for_fuse(o, src->path);
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct fuse_session *se = NULL;

	if (text && fuse_opt_add_arg(&args, o->program) == 0 && fuse_opt_add_arg(&args, "-o") == 0 &&
	    fuse_opt_add_arg(&args, text) == 0)
		se = fuse_session_new(&args, ops, ops_bytes, user);
	fuse_opt_free_args(&args);
	return se;
}

static int mount_failed(const struct mount_point *mp, const struct mount_source *src, int err,
			const struct diag *d)
{
	diag(d, DIAG_ERR, "%s: cannot be mounted on %s: %s", src->path, mp->dir, strerror(-err));
	return err;
}

/* libfuse knows how to talk to fusermount3.  All that is wanted of its session is the connection. */
static int mount_by_helper(struct mount_point *mp, const struct mount_source *src, const struct mount_options *o,
			   const struct diag *d)
{
	static const struct fuse_lowlevel_ops none;
	struct fuse_session *se;
	int fd;

	if (o->ms_flags & MS_NOSYMFOLLOW)
		return refuse(d, mp->dir, -EPERM, "nosymfollow takes root: fusermount3 does not know it");
	se = mount_point_session(src, o, &none, sizeof(none), NULL);
	if (!se)
		return refuse(d, mp->dir, -ENOMEM, "libfuse refused to start");
	/* fusermount3 has said why it would not. */
	if (fuse_session_mount(se, mp->dir) != 0) {
		fuse_session_destroy(se);
		return refuse(d, mp->dir, -EPERM, "fusermount3 could not mount here");
	}
	mp->by_helper = true;
	/* The session's own descriptor goes with it. */
	fd = fcntl(fuse_session_fd(se), F_DUPFD_CLOEXEC, 3);
	int err = fd < 0 ? -errno : 0;

	fuse_session_destroy(se);
	if (!err)
		return fd;
	mount_point_unmount(mp);
	return mount_failed(mp, src, err, d);
}

int mount_point_mount(struct mount_point *mp, const struct mount_source *src, const struct mount_options *o,
		      const struct diag *d)
{
	int fd, blk = 0;

	if (geteuid() != 0)
		return mount_by_helper(mp, src, o, d);
	if (!o->plain) {
		blk = mount_blk(mp, src, o);
		if (blk >= 0) {
			mp->is_blk = true;
			return blk;
		}
		/* The device has another user.  Without the kernel's claim on it we would be two. */
		if (src->is_block && blk == -EBUSY)
			return mount_failed(mp, src, blk, d);
	}
	fd = mount_as(src->path, mp->dir, false, o);
	if (fd == -EPERM)
		fd = mount_by_helper(mp, src, o, d);
	else if (fd < 0)
		return mount_failed(mp, src, fd, d);
	if (fd >= 0 && blk < 0)
		diag(d, DIAG_NOTICE,
		     "%s: no fuseblk mount (%s), so plain fuse: sync(2) and umount(8) do not wait", src->path,
		     strerror(-blk));
	return fd;
}

/* The device number of our mount.  From mountinfo: asking the mount itself would be a request to ourselves. */
static bool find_dev(const struct mount_point *mp, dev_t *dev)
{
	auto_file *f = fopen("/proc/self/mountinfo", "re");
	auto_free char *line = NULL;
	size_t cap = 0;
	struct mount_line m;
	bool found = false;

	while (f && getline(&line, &cap, f) > 0) {
		if (!parse_line(line, &m) || !is_ours(&m) || strcmp(m.point, mp->dir) != 0)
			continue;
		/* The last one is on top. */
		*dev = m.dev;
		found = true;
	}
	return found;
}

/* Of what the kernel has for the mount's caches.  True: it has taken it. */
static bool set_bdi(const struct mount_point *mp, const char *what, unsigned value)
{
	char name[96];
	unsigned now;

	snprintf(name, sizeof(name), "/sys/class/bdi/%u:%u%s/%s", major(mp->dev), minor(mp->dev),
		 mp->is_blk ? "-fuseblk" : "", what);

	FILE *f = fopen(name, "we");

	if (!f)
		return false;
	fprintf(f, "%u\n", value);
	if (fclose(f))
		return false;
	auto_file *again = fopen(name, "re");
	return again && fscanf(again, "%u", &now) == 1 && now == value;
}

bool mount_point_settle(struct mount_point *mp, uint32_t ratio)
{
	if (!find_dev(mp, &mp->dev))
		return ratio == 0;
	set_bdi(mp, "read_ahead_kb", READ_AHEAD_KB);
	return ratio == 0 || (set_bdi(mp, "max_ratio_fine", ratio) && set_bdi(mp, "strict_limit", 1));
}

int mount_point_shown(const char *dir, char **point, char **options)
{
	auto_free char *real = realpath(dir, NULL);
	auto_file *f = fopen("/proc/self/mountinfo", "re");
	auto_free char *line = NULL;
	char *text = NULL;
	size_t cap = 0;
	struct mount_line m;

	if (!real || !f)
		return -errno;
	while (getline(&line, &cap, f) > 0) {
		if (!parse_line(line, &m) || strcmp(m.point, real) != 0)
			continue;
		/* The last one is on top. */
		free(text);
		text = NULL;
		if (is_ours(&m) && asprintf(&text, "%s,%s", m.options, m.super_options ? m.super_options : "") < 0)
			return -ENOMEM;
	}
	if (!text)
		return -EINVAL;
	*options = text;
	*point = real;
	real = NULL;
	return 0;
}

static int run_fusermount(const char *dir)
{
	char *const argv[] = {"fusermount3", "-u", "-q", "-z", "--", (char *)dir, NULL};
	int status;
	pid_t pid;
	int err = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);

	if (err)
		return -err;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EPERM;
}

char *mount_point_seen(const struct mount_point *mp)
{
	auto_file *f = fopen("/proc/self/mountinfo", "re");
	auto_free char *line = NULL;
	size_t cap = 0;
	struct mount_line m;

	while (f && getline(&line, &cap, f) > 0)
		if (parse_line(line, &m) && is_ours(&m) && m.dev == mp->dev && is_on_top(&m))
			return strdup(m.point);
	return NULL;
}

static int unmount_at(const char *dir, bool by_helper)
{
	if (by_helper)
		return run_fusermount(dir);
	return umount2(dir, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
}

/* Copies of the mount are of no use without a daemon either, and the directory may have another name by now. */
int mount_point_unmount(const struct mount_point *mp)
{
	bool any = false;

	if (!mp->dev)
		return unmount_at(mp->dir, mp->by_helper);
	for (;;) {
		auto_free char *dir = mount_point_seen(mp);
		int err = dir ? unmount_at(dir, mp->by_helper) : any ? 0 : -EINVAL;

		if (err || !dir)
			return err;
		any = true;
	}
}
