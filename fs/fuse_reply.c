/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuse_reply.c - replies to changes.
 *
 * A reply that cannot be delivered is no error: the connection is being torn down, and fs_close() drops the reference that an entry
 * carried.
 */
#include <stdlib.h>
#include <unistd.h>

#include "fs/control.h"
#include "fs/fuse_ops.h"

static ssize_t glue_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	struct fuse_glue *glue = userdata;

	(void)fd;
	return loop_send(glue->loop, iov, count);
}

/* Never called, as the loop reads; but libfuse wants one. */
static ssize_t glue_read(int fd, void *buf, size_t len, void *userdata)
{
	(void)userdata;
	return read(fd, buf, len);
}

const struct fuse_custom_io fuse_glue_io = {.writev = glue_writev, .read = glue_read};

enum shape { SHAPE_ERR, SHAPE_ENTRY, SHAPE_ATTR };

struct reply {
	struct fs_sync sync; /* first: see reply_durable() */
	fuse_req_t req;
	struct worker *worker;
	enum shape shape;
	bool times_only;
	struct fuse_entry_param entry; /* SHAPE_ATTR: only attr */
};

static void reply_send(struct reply *r, int err)
{
	const struct fuse_glue *glue = fuse_req_userdata(r->req);

	if (err) {
		fuse_reply_err(r->req, -err);
		return;
	}
	switch (r->shape) {
	case SHAPE_ERR:
		fuse_reply_err(r->req, 0);
		break;
	case SHAPE_ENTRY:
		r->entry.attr_timeout = fuse_glue_seconds(glue, &r->entry.attr, false);
		fuse_reply_entry(r->req, &r->entry);
		break;
	case SHAPE_ATTR:
		fuse_reply_attr(r->req, &r->entry.attr, fuse_glue_seconds(glue, &r->entry.attr, r->times_only));
		break;
	}
}

static void reply_durable(struct fs_sync *sync)
{
	struct reply *r = (struct reply *)sync;
	struct worker *w = r->worker;

	reply_send(r, sync->result);
	free(r);
	worker_end(w);
}

/* Sends `r` when everything up to now is durable.  All, not one inode: a rename touches up to four. */
static void reply_when_durable(const struct reply *r, const struct call *c)
{
	struct reply *held = malloc(sizeof(*held));

	if (!held) {
		struct reply now = *r;

		reply_send(&now, fs_sync(c->fs, c->q, 0, false));
		return;
	}
	*held = *r;
	held->worker = c->worker;
	held->sync = (struct fs_sync){.done = reply_durable};
	worker_begin(c->worker);
	fs_fsync(c->fs, c->q, &held->sync);
}

static void reply_to_change(struct reply *r, enum change_kind kind, fuse_ino_t ino, int err)
{
	struct call c = call_of(r->req);

	const struct durable_answers *durable = &c.glue->control->durable;

	if (!err && (durable->all || (durable->names && kind == CHANGE_NAMES) ||
		     fs_must_sync(c.fs, c.q, ino, kind == CHANGE_NAMES)))
		reply_when_durable(r, &c);
	else
		reply_send(r, err);
}

void reply_change(fuse_req_t req, enum change_kind kind, fuse_ino_t ino, int err)
{
	struct reply r = {.req = req, .shape = SHAPE_ERR};

	reply_to_change(&r, kind, ino, err);
}

void reply_change_entry(fuse_req_t req, fuse_ino_t dir, int err, const struct fs_attr *attr)
{
	struct reply r = {.req = req, .shape = SHAPE_ENTRY};

	if (!err)
		fuse_glue_entry(attr, &r.entry);
	reply_to_change(&r, CHANGE_NAMES, dir, err);
}

void reply_change_attr(fuse_req_t req, fuse_ino_t ino, int err, const struct fs_attr *attr, bool times_only)
{
	struct reply r = {.req = req, .shape = SHAPE_ATTR, .times_only = times_only};

	if (!err)
		fuse_glue_stat(attr, &r.entry.attr);
	reply_to_change(&r, CHANGE_FILE, ino, err);
}
