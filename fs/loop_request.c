/* SPDX-License-Identifier: Apache-2.0 */
/* loop_request.c - a request's memory, and its way to a handler and back.  See loop.h. */
#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "fs/fuse_raw.h"
#include "fs/loop_impl.h"

#define REQUEST_MEM (PAYLOAD_AT + MOUNT_MAX_IO)
#define REQUESTS_KEPT 2 /* free buffers a worker holds on to */

static_assert(REQUEST_MEM == POOL_MAX_BYTES, "requests are from the pool of large buffers");

static_assert(WRITE_HEADER == 80, "libfuse and the kernel agree on this");
static_assert(sizeof(struct request) <= MESSAGE_AT, "the message follows");
static_assert(sizeof(struct request) <= RING_ROOM, "a ring's entry has room for it");

/* Of INIT; <linux/fuse.h> may be older.  The upper half of the flags is a word of its own. */
#define INIT_HANDLE_KILLPRIV_V2 (1u << 28)
#define INIT_SETXATTR_EXT (1u << 29)
#define INIT_EXT (1u << 30)
#define INIT2_NO_EXPORT_SUPPORT (1u << (38 - 32))
#define INIT2_ALLOW_IDMAP (1u << (40 - 32))
#define INIT2_OVER_IO_URING (1u << (41 - 32))

/* --- buffers ---------------------------------------------------------------------------------- */

struct request *request_get(struct worker *w)
{
	struct request *r = SLIST_FIRST(&w->free);

	if (r) {
		SLIST_REMOVE_HEAD(&w->free, link);
		w->nfree--;
		return r;
	}
	r = big_pool_get(w->loop->big);
	if (r) {
		r->worker = w;
		r->entry = NULL;
	}
	return r;
}

static void request_recycle(struct request *r)
{
	struct worker *w = r->worker;

	if (w->nfree == REQUESTS_KEPT) {
		big_pool_put(w->loop->big, r);
		return;
	}
	SLIST_INSERT_HEAD(&w->free, r, link);
	w->nfree++;
}

struct request *worker_keep(struct worker *w)
{
	struct request *r = w->current;

	assert(r);
	w->current = NULL;
	worker_begin(w);
	return r;
}

void request_put(struct request *r)
{
	struct worker *w = r->worker;

	if (!r->entry)
		request_recycle(r);
	worker_end(w);
}

bool worker_lends_entry(const struct worker *w)
{
	return w->current && w->current->entry;
}

bool reply_room_apart(const struct reply_room *room)
{
	if (room->entry)
		ring_entry_apart(room->entry);
	return room->entry != NULL;
}

bool worker_park(struct worker *w, bool entry)
{
	if (entry && w->nparked >= RING_DEPTH / 2)
		return false;
	w->nparked += entry;
	return true;
}

void worker_unpark(struct worker *w, bool entry)
{
	w->nparked -= entry;
}

struct reply_room worker_reply_room(struct worker *w, size_t len)
{
	assert(len <= FS_READ_ROOM(MOUNT_MAX_IO));
	if (worker_lends_entry(w))
		return (struct reply_room){.mem = ring_entry_payload(w->current->entry), .len = len, .entry = w->current->entry};
	return (struct reply_room){.mem = worker_alloc(w, len), .len = len, .own = true};
}

void worker_reply_room_put(struct worker *w, const struct reply_room *room)
{
	if (room->own)
		worker_free(w, room->mem, room->len);
}

void *worker_alloc(struct worker *w, size_t len)
{
	return pool_get(&w->pool, len);
}

void worker_free(struct worker *w, void *p, size_t len)
{
	pool_put(&w->pool, p, len);
}

void worker_begin(struct worker *w)
{
	w->busy++;
}

void worker_end(struct worker *w)
{
	assert(w->busy > 0);
	w->busy--;
}

struct worker *loop_self(const struct loop *l)
{
	return pthread_getspecific(l->self);
}

struct dev_queue *worker_queue(struct worker *w)
{
	return w->q;
}

uint32_t worker_setxattr_flags(const struct worker *w)
{
	return w->setxattr_flags;
}

/* --- what INIT offers --------------------------------------------------------------------------- */

void request_take_offers(struct loop *l, bool rings, const char *message, size_t len)
{
	struct fuse_in_header in;
	struct fuse_init_in init;

	if (len < sizeof(in) + sizeof(init))
		return;
	memcpy(&in, message, sizeof(in));
	memcpy(&init, message + sizeof(in), sizeof(init));
	l->init_takes.flags = init.flags & (INIT_SETXATTR_EXT | INIT_HANDLE_KILLPRIV_V2);
	if (init.flags & INIT_EXT)
		l->init_takes.flags2 = init.flags2 & ((rings ? INIT2_OVER_IO_URING : 0) | (l->no_handles ? INIT2_NO_EXPORT_SUPPORT : 0) |
						      (l->idmap ? INIT2_ALLOW_IDMAP : 0));
	if (l->init_takes.flags2)
		l->init_takes.flags |= INIT_EXT;
	if (l->init_takes.flags)
		l->init_unique = in.unique;
}

/* Takes the kernel's offers: it learns so from the reply to INIT, which libfuse cannot say it in. */
static ssize_t send_init(struct loop *l, const struct iovec *iov, int n)
{
	struct fuse_init_out init;

	if (n != 2 || iov[1].iov_len < sizeof(init))
		return writev(l->fd, iov, n);
	memcpy(&init, iov[1].iov_base, sizeof(init));
	init.flags |= l->init_takes.flags;
	init.flags2 |= l->init_takes.flags2;

	struct iovec with[2] = {iov[0], {.iov_base = &init, .iov_len = sizeof(init)}};
	ssize_t sent = writev(l->fd, with, 2);

	l->over_rings = sent >= 0 && l->init_takes.flags2 & INIT2_OVER_IO_URING;
	l->has_idmap = sent >= 0 && l->init_takes.flags2 & INIT2_ALLOW_IDMAP;
	l->setxattr_ext = sent >= 0 && l->init_takes.flags & INIT_SETXATTR_EXT;
	l->kills_priv = sent >= 0 && l->init_takes.flags & INIT_HANDLE_KILLPRIV_V2;
	return sent;
}

/* --- requests ----------------------------------------------------------------------------------- */

void loop_end_with(struct loop *l, enum loop_end end)
{
	int goes_on = LOOP_GOES_ON;

	/* The first reason stands: after DESTROY the connection vanishes as well. */
	if (atomic_compare_exchange_strong(&l->end, &goes_on, (int)end))
		dev_wake(l->owner);
}

ssize_t loop_send(struct loop *l, const struct iovec *iov, int n)
{
	const struct fuse_out_header *out = iov[0].iov_base;
	const struct worker *w = loop_self(l);

	if (w && w->ring && ring_reply(w->ring, iov, n))
		return (ssize_t)out->len;
	if (l->init_unique && out->unique == l->init_unique && !out->error)
		return send_init(l, iov, n);
	return writev(l->fd, iov, n);
}

void request_answer(struct loop *l, uint64_t unique, int err, const void *body, size_t len)
{
	struct fuse_out_header out = {.len = (uint32_t)(sizeof(out) + len), .error = err, .unique = unique};
	struct iovec iov[] = {{&out, sizeof(out)}, {(void *)body, len}};

	/* An error means that nobody waits any more. */
	if (loop_send(l, iov, len ? 2 : 1) < 0 && errno != ENOENT && errno != ENODEV && errno != ECONNABORTED)
		diag(l->diag, DIAG_WARNING, "answering the kernel: %s", strerror(errno));
}

void worker_answer(struct worker *w, uint64_t unique, int err, const void *body, size_t len)
{
	request_answer(w->loop, unique, err, body, len);
}

bool worker_kills_priv(const struct worker *w)
{
	return w->kills_priv;
}

struct fs *worker_fs(struct worker *w)
{
	return w->loop->fs;
}

/* Takes the flags out that libfuse does not expect; the message then begins further on. */
static char *short_setxattr(struct worker *w, char *message, size_t *len)
{
	const size_t head = sizeof(struct fuse_in_header), more = sizeof(struct fuse_setxattr_in) - FUSE_COMPAT_SETXATTR_IN_SIZE;
	struct fuse_setxattr_in in;
	struct fuse_in_header h;

	if (*len < head + sizeof(in))
		return message;
	memcpy(&h, message, head);
	memcpy(&in, message + head, sizeof(in));
	w->setxattr_flags = in.setxattr_flags;
	h.len -= (uint32_t)more;
	*len -= more;
	message += more;
	memcpy(message, &h, head);
	memcpy(message + head, &in, FUSE_COMPAT_SETXATTR_IN_SIZE);
	return message;
}

/* Does a request take setuid and setgid away? */
static bool kills_priv(const char *message, size_t len)
{
	const struct fuse_in_header *in = (const void *)message;
	const void *body = message + sizeof(*in);

	if (in->opcode == FUSE_WRITE && len >= WRITE_HEADER)
		return ((const struct fuse_write_in *)body)->write_flags & FUSE_WRITE_KILL_SUIDGID;
	if (in->opcode != FUSE_SETATTR || len < sizeof(*in) + sizeof(struct fuse_setattr_in))
		return false;
	return ((const struct fuse_setattr_in *)body)->valid & FATTR_KILL_SUIDGID;
}

void request_dispatch(struct worker *w, char *message, size_t len)
{
	struct loop *l = w->loop;

	w->kills_priv = l->kills_priv && kills_priv(message, len);
	w->setxattr_flags = 0;
	if (l->setxattr_ext && ((const struct fuse_in_header *)(const void *)message)->opcode == FUSE_SETXATTR)
		message = short_setxattr(w, message, &len);

	const struct fuse_in_header *in = (const void *)message;
	struct fuse_buf buf = {.mem = message, .size = len};

	if (in->opcode == FUSE_DESTROY) {
		/* Nothing comes after it.  Whoever owns the loop closes the volume and then answers. */
		l->destroy = *in;
		loop_end_with(l, LOOP_DESTROYED);
	} else if (!fuse_raw_request(w, message)) {
		fuse_session_process_buf(l->se, &buf);
	}
}
