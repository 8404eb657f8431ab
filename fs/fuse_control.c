/* SPDX-License-Identifier: Apache-2.0 */
/* fuse_control.c - ioctl(2) on the mount: brings a request of ioctl.h to control.h, and what takes longer to its end. */
#include <linux/fs.h>
#undef BLOCK_SIZE /* core/format.h has ours */
#include <stdlib.h>
#include <string.h>

#include "fs/control.h"
#include "fs/fuse_ops.h"
#include "fs/inval.h"

/* A request that is answered later, on the worker that read it. */
struct later {
	struct inval_job drop;
	struct fs_trim trim;
	struct call c;
	fuse_req_t req; /* NULL: answered already */
	uint64_t ino;
	bool settle;
	bool entry; /* the message is in a ring's, and parked */
	int err; /* to answer; if 0: */
	size_t len;
	char out[64];
};

static void later_answer(struct later *l, int err, const void *out, size_t len)
{
	if (err)
		fuse_reply_err(l->req, -err);
	else
		fuse_reply_ioctl(l->req, 0, out, len);
	l->req = NULL;
}

static void later_end(struct later *l)
{
	struct worker *w = l->c.worker;

	free(l);
	worker_end(w);
}

static void dropped(struct dev_task *done)
{
	struct later *l = (struct later *)((char *)done - offsetof(struct later, drop.done));

	if (l->settle)
		fs_settle_end(l->c.fs, l->ino);
	if (l->req)
		later_answer(l, l->err, l->out, l->len);
	worker_unpark(l->c.worker, l->entry);
	later_end(l);
}

static bool interrupted(struct fs_trim *trim)
{
	struct later *l = (struct later *)((char *)trim - offsetof(struct later, trim));

	return fuse_req_interrupted(l->req);
}

static void trimmed(struct fs_trim *trim)
{
	struct later *l = (struct later *)((char *)trim - offsetof(struct later, trim));
	struct fstrim_range r = {.start = trim->start, .len = trim->trimmed, .minlen = trim->minlen};

	later_answer(l, trim->result, &r, sizeof(r));
	later_end(l);
}

static struct later *later_new(const struct call *c, fuse_req_t req, const struct control_caller *who)
{
	struct later *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->c = *c;
	l->req = req;
	l->ino = who->ino;
	l->settle = who->then == THEN_SETTLE;
	l->drop = (struct inval_job){
		.what = who->then == THEN_SETTLE ? INVAL_FILE : INVAL_ALL,
		.ino = who->ino,
		.q = c->q,
		.done = {.run = dropped},
	};
	l->trim = who->trim;
	l->trim.cancelled = interrupted;
	l->trim.done = trimmed;
	worker_begin(c->worker);
	return l;
}

static void run_later(const struct call *c, fuse_req_t req, const struct control_caller *who, int err, const void *out,
		      size_t len)
{
	struct later *l = later_new(c, req, who);

	if (l && who->then == THEN_TRIM) {
		fs_trim(c->fs, c->q, &l->trim);
		return;
	}
	if (l) {
		assert(len <= sizeof(l->out));
		memcpy(l->out, out, len);
		l->len = len;
		l->err = err;
		l->entry = worker_lends_entry(c->worker);
		/* If too many wait: the caller has his answer, and the kernel drops what it has a moment later. */
		if (!worker_park(c->worker, l->entry)) {
			later_answer(l, err, out, len);
			l->entry = false;
		}
		/* If the mount ends, with nothing dropped. */
		if (!inval_begin(c->glue->inval, &l->drop))
			dropped(&l->drop.done);
		return;
	}
	/* It has been done as far as it is ours; only the kernel's caches are as they were. */
	if (who->then == THEN_SETTLE)
		fs_settle_end(c->fs, who->ino);
	fuse_reply_err(req, err ? -err : ENOMEM);
}

/*
 * Does this request come from the kernel's own handling of flags?  There the owner, or who may act for him, was let through, and of what is changed
 * only CAP_LINUX_IMMUTABLE lets somebody change immutable and append-only.  It hands over its copy of the argument, and no address.
 *
 * Who calls ioctl(2) with exactly these numbers always comes that way.  Back here, with an address, he comes only if we have said EOPNOTSUPP to the kernel.
 * With any other number, one of another direction say, he comes without having been looked at.
 */
static bool is_checked(unsigned cmd, const void *arg, unsigned flags, size_t in_len)
{
	size_t want = cmd == FS_IOC_SETFLAGS ? sizeof(uint32_t) : cmd == FS_IOC_FSSETXATTR ? sizeof(struct fsxattr) : 0;

	return want && in_len == want && !arg && !(flags & FUSE_IOCTL_COMPAT);
}

void fuse_control_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi,
			unsigned flags, const void *in, size_t in_len, size_t out_room)
{
	struct call c = call_of(req);
	char out[CONTROL_MAX];
	size_t len = 0;

	(void)fi;
	if (out_room > sizeof(out))
		out_room = sizeof(out);

	struct control_caller who = {
		.q = c.q,
		.uid = fuse_glue_uid(req),
		.tid = (uint32_t)fuse_req_ctx(req)->pid,
		.checked = is_checked(cmd, arg, flags, in_len),
		.ino = ino,
	};
	int err = control_run(c.glue->control, &who, cmd, in, in_len, out, out_room, &len);

	/* That waits for nothing. */
	if (who.then == THEN_STALE) {
		inval_attributes(c.glue->inval, ino);
		who.then = THEN_ANSWER;
	}
	if (who.then != THEN_ANSWER)
		run_later(&c, req, &who, err, out, len);
	else if (err)
		fuse_reply_err(req, -err);
	else
		fuse_reply_ioctl(req, 0, out, len);
}
