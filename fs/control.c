/* SPDX-License-Identifier: Apache-2.0 */
/* control.c - see the header. */
#include <linux/capability.h>
#include <linux/fs.h>
#undef BLOCK_SIZE /* core/format.h has ours */

#include "fs/control.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* The structure is `io`: what the caller gave, the rest zeros; then the answer. */
typedef int control_fn(struct control *c, struct control_caller *who, void *io);

static int do_stats(struct control *c, struct control_caller *who, void *io)
{
	(void)who;
	control_stats(c, io);
	return 0;
}

static int do_scrub_start(struct control *c, struct control_caller *who, void *io)
{
	(void)who;
	return scrub_job_start(c->scrub, io);
}

static int do_scrub_status(struct control *c, struct control_caller *who, void *io)
{
	(void)who;
	scrub_job_status(c->scrub, io);
	return 0;
}

static int do_scrub_finding(struct control *c, struct control_caller *who, void *io)
{
	(void)who;
	return scrub_job_finding(c->scrub, io);
}

static int do_scrub_cancel(struct control *c, struct control_caller *who, void *io)
{
	(void)who;
	(void)io;
	return scrub_job_cancel(c->scrub);
}

static int shut_down(struct control *c, struct control_caller *who, uint32_t flags)
{
	if (flags > HOLDFAST_SHUTDOWN_NOLOGFLUSH)
		return -EINVAL;

	int err = fs_shutdown(c->fs, who->q, flags != HOLDFAST_SHUTDOWN_NOLOGFLUSH);

	/* Whoever looks at the device afterwards finds it at rest; and what the kernel has cached is not to be read either. */
	dev_settle(who->q);
	who->then = THEN_DROP_CACHES;
	return err;
}

static int do_shutdown(struct control *c, struct control_caller *who, void *io)
{
	const struct holdfast_shutdown *s = io;

	return shut_down(c, who, s->flags);
}

/* The flags are there only if the request was made with a number that says so. */
static int do_ext4_shutdown(struct control *c, struct control_caller *who, void *io)
{
	return shut_down(c, who, *(uint32_t *)io);
}

/* --- remount --- */

void control_init(struct control *c, const struct mount_options *o)
{
	lock_init(&c->lock);
	c->now = *o;
	c->durable.all = o->sync;
	c->durable.names = o->dirsync;
	mount_options_describe(o, c->options, sizeof(c->options));
}

/* The first thing, since it may fail. */
static int set_access(struct control *c, struct dev_queue *q, bool read_only)
{
	struct volume *v = fs_volume(c->fs);
	int err = 0;

	if (v->flags & VOLUME_READ_ONLY)
		return read_only ? 0 : c->begin_writing(c->writing_arg, q);
	if (!read_only)
		return volume_wake(v, q);
	fs_settle(c->fs, q);
	/* One that has failed writes nothing more in any case. */
	if (!atomic_load(&v->failed))
		err = background_rest(c->bg, q);
	return err;
}

/* What is asked for, over what is so now. */
static void merge(struct mount_options *o, const struct holdfast_remount *r)
{
	if (r->set & HOLDFAST_SET_ACCESS)
		o->read_only = r->read_only;
	if (r->set & HOLDFAST_SET_TIMES) {
		o->atime = (enum fs_atime)r->atime;
		o->nodiratime = r->nodiratime;
		o->lazytime = r->lazytime;
	}
	if (r->set & HOLDFAST_SET_DURABLE) {
		o->sync = r->sync;
		o->dirsync = r->dirsync;
	}
	if (r->set & HOLDFAST_SET_COMMIT)
		o->commit_sec = r->commit_sec;
	if (r->set & HOLDFAST_SET_DISCARD)
		o->discard = r->discard;
}

static void apply(struct control *c, struct dev_queue *q, const struct mount_options *o)
{
	struct volume *v = fs_volume(c->fs);

	c->durable.all = o->sync;
	c->durable.names = o->dirsync;
	commit_timer_set(c->timer, o->commit_sec);
	volume_lock(v);
	v->discard = o->discard;
	volume_unlock(v);
	fs_set_times(c->fs, q, o->atime, o->nodiratime, o->lazytime);
}

static int do_remount(struct control *c, struct control_caller *who, void *io)
{
	struct holdfast_remount *r = io;
	struct mount_options now;
	int err = 0;

	if (r->atime > FS_STRICTATIME || r->commit_sec > MOUNT_MAX_COMMIT_SEC)
		return -EINVAL;
	if (r->set & HOLDFAST_SET_ACCESS)
		err = set_access(c, who->q, r->read_only);
	if (err)
		return err;
	lock_take(&c->lock);
	merge(&c->now, r);
	now = c->now;
	mount_options_describe(&now, c->options, sizeof(c->options));
	memcpy(r->options, c->options, sizeof(r->options));
	lock_drop(&c->lock);
	apply(c, who->q, &now);
	return 0;
}

/* --- flags --- */

/* FS_XFLAG_* and the same in FS_*_FL; those that FS_IOC_FSSETXATTR can change. */
static const struct {
	uint32_t x, flag;
} xflags[] = {
	{FS_XFLAG_IMMUTABLE, INODE_IMMUTABLE}, {FS_XFLAG_APPEND, INODE_APPEND}, {FS_XFLAG_SYNC, INODE_SYNC},
	{FS_XFLAG_NOATIME, INODE_NOATIME},     {FS_XFLAG_NODUMP, INODE_NODUMP},
};
#define NXFLAGS (sizeof(xflags) / sizeof(xflags[0]))

static_assert(INODE_SYNC == FS_SYNC_FL && INODE_IMMUTABLE == FS_IMMUTABLE_FL && INODE_APPEND == FS_APPEND_FL &&
		      INODE_NODUMP == FS_NODUMP_FL && INODE_NOATIME == FS_NOATIME_FL && INODE_DIRSYNC == FS_DIRSYNC_FL,
	      "no conversion");

static int do_getflags(struct control *c, struct control_caller *who, void *io)
{
	return fs_get_flags(c->fs, who->q, who->ino, io);
}

static int set_flags(struct control *c, struct control_caller *who, uint32_t mask, uint32_t flags)
{
	/* Whether the owner is asking, and with which capabilities, only the kernel knows.  It does not pass on what it has refused. */
	int err = who->checked ? fs_set_flags(c->fs, who->q, 0, who->ino, mask, flags) : -EOPNOTSUPP;

	if (!err)
		who->then = flags & (INODE_IMMUTABLE | INODE_APPEND) && fs_settle_begin(c->fs, who->ino) ? THEN_SETTLE : THEN_STALE;
	return err;
}

static int do_setflags(struct control *c, struct control_caller *who, void *io)
{
	return set_flags(c, who, INODE_USER_FLAGS, *(const uint32_t *)io);
}

static int do_fsgetxattr(struct control *c, struct control_caller *who, void *io)
{
	struct fsxattr *x = io;
	uint32_t flags;
	int err = fs_get_flags(c->fs, who->q, who->ino, &flags);

	for (size_t i = 0; !err && i < NXFLAGS; i++)
		if (flags & xflags[i].flag)
			x->fsx_xflags |= xflags[i].x;
	return err;
}

static int do_fssetxattr(struct control *c, struct control_caller *who, void *io)
{
	const struct fsxattr *x = io;
	uint32_t mask = 0, flags = 0, known = 0;

	for (size_t i = 0; i < NXFLAGS; i++) {
		mask |= xflags[i].flag;
		known |= xflags[i].x;
		if (x->fsx_xflags & xflags[i].x)
			flags |= xflags[i].flag;
	}
	if (x->fsx_xflags & ~known || x->fsx_extsize || x->fsx_projid || x->fsx_cowextsize)
		return -EOPNOTSUPP;
	return set_flags(c, who, mask, flags);
}

/* --- other requests of ext4's and XFS's programs --- */

/* They have an int, whatever the number says. */
static int do_getversion(struct control *c, struct control_caller *who, void *io)
{
	struct fs_attr attr;
	int err = fs_getattr(c->fs, who->q, who->ino, &attr);

	if (!err)
		*(uint32_t *)io = (uint32_t)attr.generation;
	return err;
}

static int do_getlabel(struct control *c, struct control_caller *who, void *io)
{
	struct volume *v = fs_volume(c->fs);

	(void)who;
	volume_lock(v);
	memcpy(io, v->sb.label, LABEL_BYTES);
	volume_unlock(v);
	return volume_is_shut(v) ? -EIO : 0;
}
static_assert(FSLABEL_MAX == LABEL_BYTES, "label");

static int do_setlabel(struct control *c, struct control_caller *who, void *io)
{
	/* A label is a string in our superblock, and without a terminator a longer one than there is room for. */
	if (strnlen(io, LABEL_BYTES) == LABEL_BYTES)
		return -EINVAL;

	lock_take(&c->lock);
	bool read_only = c->now.read_only;
	lock_drop(&c->lock);

	int err = read_only ? -EROFS : volume_set_label(fs_volume(c->fs), who->q, io);

	return volume_is_shut(fs_volume(c->fs)) ? -EIO : err;
}

static int do_trim(struct control *c, struct control_caller *who, void *io)
{
	const struct fstrim_range *r = io;

	(void)c;
	who->trim.start = r->start;
	who->trim.len = r->len;
	who->trim.minlen = r->minlen;
	who->then = THEN_TRIM;
	return 0;
}

/* --- the table --- */

#define ANYBODY 1u /* else CAP_SYS_ADMIN and the owner of the mount */
#define ROOT	2u /* CAP_SYS_ADMIN alone */
#define FOREIGN 4u /* somebody else's request: no head, and only with exactly this number but for its direction */
#define SILENT	8u /* has no answer but success */

#define EXT4_IOC_SHUTDOWN _IOR('X', 125, uint32_t)
#define OURS(nr) _IO(HOLDFAST_IOC_TYPE, nr)

static const struct row {
	unsigned cmd;
	unsigned flags;
	size_t bytes; /* of the structure, either way */
	control_fn *run;
} rows[] = {
	{OURS(HOLDFAST_NR_STATS), ANYBODY, sizeof(struct holdfast_stats), do_stats},
	{OURS(HOLDFAST_NR_SCRUB_START), 0, sizeof(struct holdfast_scrub_start), do_scrub_start},
	{OURS(HOLDFAST_NR_SCRUB_STATUS), ANYBODY, sizeof(struct holdfast_scrub_status), do_scrub_status},
	{OURS(HOLDFAST_NR_SCRUB_FINDING), 0, sizeof(struct holdfast_scrub_finding), do_scrub_finding},
	{OURS(HOLDFAST_NR_SCRUB_CANCEL), 0, 0, do_scrub_cancel},
	{OURS(HOLDFAST_NR_SHUTDOWN), ROOT, sizeof(struct holdfast_shutdown), do_shutdown},
	{EXT4_IOC_SHUTDOWN, ROOT | FOREIGN | SILENT, sizeof(uint32_t), do_ext4_shutdown},
	{FS_IOC_GETFLAGS, ANYBODY | FOREIGN, sizeof(uint32_t), do_getflags},
	{FS_IOC_SETFLAGS, ANYBODY | FOREIGN | SILENT, sizeof(uint32_t), do_setflags},
	{FS_IOC_FSGETXATTR, ANYBODY | FOREIGN, sizeof(struct fsxattr), do_fsgetxattr},
	{FS_IOC_FSSETXATTR, ANYBODY | FOREIGN | SILENT, sizeof(struct fsxattr), do_fssetxattr},
	{FS_IOC_GETVERSION, ANYBODY | FOREIGN, sizeof(uint32_t), do_getversion},
	{FS_IOC_GETFSLABEL, ANYBODY | FOREIGN, LABEL_BYTES, do_getlabel},
	{FS_IOC_SETFSLABEL, ROOT | FOREIGN | SILENT, LABEL_BYTES, do_setlabel},
	{FITRIM, ROOT | FOREIGN, sizeof(struct fstrim_range), do_trim},
	{OURS(HOLDFAST_NR_REMOUNT), 0, sizeof(struct holdfast_remount), do_remount},
};

static const struct row *row_find(unsigned cmd)
{
	const unsigned direction = (unsigned)_IOC_DIRMASK << _IOC_DIRSHIFT, size = (unsigned)_IOC_SIZEMASK << _IOC_SIZESHIFT;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		unsigned differ = (rows[i].cmd ^ cmd) & ~direction;

		if (!(rows[i].flags & FOREIGN))
			differ &= ~size;
		if (!differ)
			return &rows[i];
	}
	return NULL;
}

/* Of root's mount it takes the capability: there are too many with this number, in containers. */
static bool is_owner(const struct control *c, const struct control_caller *who)
{
	uint32_t uid = who->uid;

	if (c->owner && uid == CALLER_UNKNOWN)
		uid = callers_uid(c->callers, who->tid);
	return c->owner && uid == c->owner && uid != CALLER_UNKNOWN;
}

static bool may(const struct control *c, const struct row *row, const struct control_caller *who)
{
	return row->flags & ANYBODY || (!(row->flags & ROOT) && is_owner(c, who)) || callers_capable(c->callers, who->tid, CAP_SYS_ADMIN);
}

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

int control_run(struct control *c, struct control_caller *who, unsigned cmd, const void *in, size_t in_len,
		void *out, size_t out_room, size_t *out_len)
{
	_Alignas(16) char io[CONTROL_MAX] = {0};
	const struct row *row = row_find(cmd);

	if (!row)
		return -ENOTTY;
	if (!may(c, row, who))
		return -EPERM;
	assert(row->bytes <= sizeof(io));
	if (in_len)
		memcpy(io, in, least(in_len, row->bytes));

	int err = row->run(c, who, io);

	if (err)
		return err;
	if (row->bytes && !(row->flags & FOREIGN)) {
		struct holdfast_head head = {.magic = HOLDFAST_IOC_MAGIC, .bytes = (uint32_t)row->bytes};

		memcpy(io, &head, sizeof(head));
	}
	*out_len = row->flags & SILENT ? 0 : least(out_room, row->bytes);
	if (*out_len)
		memcpy(out, io, *out_len);
	return 0;
}

static void collect_scrub(const struct control *c, uint64_t *counter)
{
	struct holdfast_scrub_status st;

	scrub_job_status(c->scrub, &st);
	counter[STATS_scrub_running] = st.state == HOLDFAST_SCRUB_RUNNING;
	counter[STATS_scrub_begun_sec] = st.begun_sec;
	counter[STATS_scrub_done_bytes] = st.done;
	counter[STATS_scrub_total_bytes] = st.total;
	counter[STATS_scrub_repaired] = st.repaired;
	counter[STATS_scrub_lost_meta] = st.lost_meta;
	counter[STATS_scrub_lost_data] = st.lost_data;
}

void control_stats(struct control *c, struct holdfast_stats *out)
{
	struct timespec now;

	memset(out, 0, sizeof(*out));
	stats_collect(c->fs, out);
	collect_scrub(c, out->counter);
	clock_gettime(CLOCK_MONOTONIC, &now);
	out->now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
	out->mounted_sec = c->mounted_sec;
	lock_take(&c->lock);
	memcpy(out->options, c->options, sizeof(out->options));
	lock_drop(&c->lock);
	snprintf(out->transport, sizeof(out->transport), "%s", c->transport);
	snprintf(out->requests, sizeof(out->requests), "%s", c->requests);
	snprintf(out->sandbox, sizeof(out->sandbox), "%s", c->sandbox);
}
