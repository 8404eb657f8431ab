/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuse_io.c - READ, LSEEK, WRITE, COPY_FILE_RANGE and FSYNC: begun here, answered from their completion on the same worker.
 *
 * Nothing in a completion waits: it replies and gives memory back.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/apart.h"
#include "fs/control.h"
#include "fs/fuse_ops.h"
#include "fs/inval.h"
#include "fs/mount_options.h"

/* A smaller WRITE is copied, so that its message's buffer, of 1 MiB, is not kept until the data is home. */
#define COPY_BELOW (32u << 10)
#define COPY_ANSWER_MAX (UINT32_MAX & ~(BLOCK_SIZE - 1))

/*
 * Past the kernel's cache.  O_DIRECT alone does not say so: it is the file's flag, as it is when the request is made, and fcntl(2) may have set it
 * since the kernel chose the way; a mapping of the file, and what is left of a write that was cut short, go through the cache whatever it says.
 * But only such requests carry an owner of locks.
 */
static bool is_direct(const struct fuse_file_info *fi)
{
	return fi->flags & O_DIRECT && fi->lock_owner && !fi->writepage;
}

/* --- read --- */

struct read_op {
	struct fs_io io; /* first: see read_done() */
	fuse_req_t req;
	struct worker *worker;
	struct reply_room room;
	struct apart_answer answer;
	bool direct;
};

static void read_reply(struct read_op *op)
{
	if (op->io.result < 0)
		fuse_reply_err(op->req, (int)-op->io.result);
	else
		fuse_reply_buf(op->req, op->io.data, (size_t)op->io.result);
}

static void read_end(struct read_op *op)
{
	struct worker *w = op->worker;

	worker_reply_room_put(w, &op->room);
	free(op);
	worker_end(w);
}

static void read_send(struct apart_answer *answer)
{
	read_reply((struct read_op *)((char *)answer - offsetof(struct read_op, answer)));
}

static void read_sent(struct dev_task *sent)
{
	read_end((struct read_op *)((char *)sent - offsetof(struct read_op, answer.sent)));
}

static void read_done(struct fs_io *io)
{
	struct read_op *op = (struct read_op *)io;

	struct call c = call_of(op->req);

	/* Until pages have been handed over for the first time nobody waits for that. */
	if (op->direct && atomic_load(&c.glue->handed_over) && !reply_room_apart(&op->room)) {
		op->answer = (struct apart_answer){.send = read_send, .sent.run = read_sent, .q = c.q};
		apart_send(c.glue->apart, &op->answer);
		return;
	}
	read_reply(op);
	read_end(op);
}

void fuse_io_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct call c = call_of(req);
	size_t len = size < MOUNT_MAX_IO ? size : MOUNT_MAX_IO;
	struct read_op *op = calloc(1, sizeof(*op));

	if (!is_direct(fi))
		inval_note_cached(c.glue->inval, ino);
	if (op)
		op->room = worker_reply_room(c.worker, FS_READ_ROOM(len));
	if (!op || !op->room.mem) {
		free(op);
		fuse_reply_err(req, ENOMEM);
		return;
	}
	op->req = req;
	op->worker = c.worker;
	op->direct = is_direct(fi);
	op->io = (struct fs_io){
		.ino = ino, .off = (uint64_t)off, .len = len, .buf = op->room.mem, .done = read_done,
		.no_atime = fi->flags & O_NOATIME};
	worker_begin(c.worker);
	fs_read(c.fs, c.q, &op->io);
}

/* --- lseek --- */

/*
 * What was stored through a mapping and not written back is where we may have a hole, and whoever copies what SEEK_DATA finds would leave it
 * out.  So the kernel is made to drop what it has of a hole, for which it writes it back, before the hole is believed.
 *
 * Where it caches writes, so is what was written, and the end of the file may be further on than ours: then the end is a hole like others.
 *
 * The kernel holds the file's lock until it is answered, so the end that it has stays, and nothing becomes a hole.  What a mapping stores meanwhile
 * comes before or after, as it likes: what was dropped once is not dropped again.
 */
struct seek_op {
	struct fs_seek look; /* first: see seek_looked() */
	struct inval_job inval;
	fuse_req_t req;
	struct worker *worker;
	uint64_t off; /* what was asked for; up to look.off all is data */
	uint64_t begin, end; /* what was dropped last */
	bool entry; /* the message is in a ring's */
};

static void seek_answer(struct seek_op *op, int err)
{
	struct worker *w = op->worker;

	if (err)
		fuse_reply_err(op->req, -err);
	else
		fuse_reply_lseek(op->req, (off_t)op->look.pos);
	worker_unpark(w, op->entry);
	free(op);
	worker_end(w);
}

static void seek_dropped(struct dev_task *task)
{
	struct seek_op *op = (struct seek_op *)((char *)task - offsetof(struct seek_op, inval.done));
	struct call c = call_of(op->req);

	/* The mount ends.  From now on the kernel takes everything for data by itself. */
	if (!op->inval.dropped)
		seek_answer(op, -ENOSYS);
	else
		fs_seek(c.fs, c.q, &op->look);
}

static void seek_drop(struct seek_op *op, const struct call *c, uint64_t end)
{
	int err = op->look.result;

	op->begin = op->look.begin;
	op->end = end;
	op->inval = (struct inval_job){.ino = op->look.ino,
				       .off = op->begin,
				       .len = end == UINT64_MAX ? 0 : end - op->begin,
				       .q = c->q,
				       .done = {.run = seek_dropped}};
	op->look.off = op->begin;
	/* It need not have read anything to have something. */
	if (c->glue->admit)
		inval_note_cached(c->glue->inval, op->look.ino);
	if (!inval_begin(c->glue->inval, &op->inval))
		seek_answer(op, op->inval.dropped ? err : -ENOSYS);
}

static void seek_looked(struct fs_seek *look)
{
	struct seek_op *op = (struct seek_op *)look;
	struct call c = call_of(op->req);
	uint64_t end = c.glue->admit && look->end >= look->size ? UINT64_MAX : look->end;
	int err = look->result;

	/* Behind data that goes on up to here there is the end. */
	if (err == -ENXIO && look->whence == SEEK_HOLE && look->off > op->off) {
		look->pos = look->off;
		err = 0;
	}
	if ((err && err != -ENXIO) || look->begin >= end || (look->begin >= op->begin && look->begin < op->end))
		seek_answer(op, err);
	else
		seek_drop(op, &c, end);
}

void fuse_io_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	struct call c = call_of(req);
	bool entry = worker_lends_entry(c.worker);
	/* All data, to the kernel, as long as the mount lasts. */
	bool refused = c.glue->no_holes || !worker_park(c.worker, entry);
	struct seek_op *op = refused ? NULL : malloc(sizeof(*op));

	(void)fi;
	if (!op) {
		if (!refused)
			worker_unpark(c.worker, entry);
		fuse_reply_err(req, refused ? ENOSYS : ENOMEM);
		return;
	}
	*op = (struct seek_op){
		.look = {.ino = ino, .off = (uint64_t)off, .whence = whence, .done = seek_looked},
		.req = req,
		.worker = c.worker,
		.off = (uint64_t)off,
		.entry = entry,
	};
	worker_begin(c.worker);
	fs_seek(c.fs, c.q, &op->look);
}

/* --- write --- */

/*
 * Lives in its message's `room`.  The message goes back when both have happened, in either order: the request is
 * answered, and the file code wants the payload no more.
 *
 * A message in a ring's entry is the kernel's again once it is answered, so what may be wanted for longer is copied.
 */
struct write_op {
	struct fs_io io; /* first: see write_done() */
	struct fs_sync sync;
	struct inval_job inval;
	fuse_req_t req;
	struct worker *worker;
	struct request *message; /* kept; NULL: a copy, and the operation is of malloc(3) */
	void *copy;
	size_t copy_room;
	unsigned pending;
	bool durable; /* answered only when it is */
	size_t done; /* where write_rest() goes on: what earlier pieces have written */
	uint64_t begin; /* the offset of the first */
	ssize_t result; /* to answer */
	bool direct; /* is_direct(): answered when nothing older is in the cache.  For others the kernel holds pages until they are answered */
	bool entry; /* the message is in a ring's */
	bool parked; /* direct_park() */
};
static_assert(sizeof(struct write_op) <= REQUEST_ROOM, "write_op fits a request's room");

static void write_unref(struct write_op *op)
{
	if (--op->pending)
		return;
	if (op->message) {
		request_put(op->message);
		return;
	}
	worker_free(op->worker, op->copy, op->copy_room);
	worker_end(op->worker);
	free(op);
}

static void write_answer(struct write_op *op, ssize_t result)
{
	/* The kernel does not suspect that, and would go by the old mode when the file is executed. */
	if (op->io.killed)
		inval_attributes(call_of(op->req).glue->inval, op->io.ino);
	if (result < 0)
		fuse_reply_err(op->req, (int)-result);
	else
		fuse_reply_write(op->req, (size_t)result);
	write_unref(op);
}

/*
 * One that completes asynchronously is one of the kernel's background requests, of which it sends so many at a time, and so are what it reads ahead and
 * what it hands over: some are left to these.
 */
static bool direct_park(struct fuse_glue *glue, struct worker *w, bool entry)
{
	if (atomic_fetch_add(&glue->direct_waits, 1) < MAX_BACKGROUND / 2 && worker_park(w, entry))
		return true;
	atomic_fetch_sub(&glue->direct_waits, 1);
	return false;
}

static void direct_unpark(struct fuse_glue *glue, struct worker *w, bool entry)
{
	atomic_fetch_sub(&glue->direct_waits, 1);
	worker_unpark(w, entry);
}

static void write_uncached(struct dev_task *task)
{
	struct write_op *op = (struct write_op *)((char *)task - offsetof(struct write_op, inval.done));

	if (op->parked)
		direct_unpark(call_of(op->req).glue, op->worker, op->entry);
	write_answer(op, op->result);
}

/* What is dropped behind an answer. */
struct behind {
	struct inval_job inval;
	struct worker *worker;
};

static void behind_done(struct dev_task *task)
{
	struct behind *b = (struct behind *)((char *)task - offsetof(struct behind, inval.done));
	struct worker *w = b->worker;

	free(b);
	worker_end(w);
}

/* False: there is no memory. */
static bool drop_behind(const struct call *c, struct worker *w, const struct inval_job *job)
{
	struct behind *b = malloc(sizeof(*b));

	if (!b)
		return false;
	*b = (struct behind){.inval = *job, .worker = w};
	b->inval.done.run = behind_done;
	worker_begin(w);
	if (!inval_begin(c->glue->inval, &b->inval))
		behind_done(&b->inval.done);
	return true;
}

/* True: the answer waits until what the kernel has of it is dropped. */
static bool write_drop(struct write_op *op, const struct call *c)
{
	op->inval = (struct inval_job){.ino = op->io.ino, .off = op->begin, .len = op->done, .q = c->q, .done = {.run = write_uncached}};
	op->parked = direct_park(c->glue, op->worker, op->entry);
	/* If too many wait like that: a buffered read may find what is old for a moment, but it does not stay. */
	if (!op->parked && drop_behind(c, op->worker, &op->inval))
		return false;
	if (inval_begin(c->glue->inval, &op->inval))
		return true;
	if (op->parked)
		direct_unpark(c->glue, op->worker, op->entry);
	return false;
}

/* As durable as it has to be. */
static void write_finish(struct write_op *op, ssize_t result)
{
	struct call c = call_of(op->req);

	op->result = result;
	if (!op->direct || !op->done || !write_drop(op, &c))
		write_answer(op, result);
}

static void write_durable(struct fs_sync *sync)
{
	struct write_op *op = (struct write_op *)((char *)sync - offsetof(struct write_op, sync));

	write_finish(op, sync->result ? sync->result : op->io.result);
}

/*
 * Who hands over pages of its cache looks at errors only, and takes a short write for a whole one; of a short direct write the kernel makes
 * EIO.  So what was left out is tried by itself, until there is an error or nothing left.
 */
static bool write_rest(struct write_op *op, const struct call *c)
{
	struct fs_io *io = &op->io;

	if (!(io->cached || op->direct) || io->result < 0)
		return false;
	op->done += (size_t)io->result;
	if ((size_t)io->result < io->len) {
		io->off += (uint64_t)io->result;
		io->buf = (char *)io->buf + io->result;
		io->len -= (size_t)io->result;
		op->pending += io->release ? 1 : 0;
		fs_write(c->fs, c->q, io);
		return true;
	}
	io->result = (ssize_t)op->done;
	return false;
}

static void write_done(struct fs_io *io)
{
	struct write_op *op = (struct write_op *)io;
	struct call c = call_of(op->req);

	if (write_rest(op, &c))
		return;
	if (io->result < 0 || !(op->durable || io->must_sync)) {
		write_finish(op, io->result);
		return;
	}
	op->sync = (struct fs_sync){.ino = io->ino, .done = write_durable};
	fs_fsync(c.fs, c.q, &op->sync);
}

static void write_release(struct fs_io *io)
{
	write_unref((struct write_op *)io);
}

/* In the message's own memory.  The payload is ours to lend; only C's types say const. */
static struct write_op *write_in_place(const struct call *c, const char *buf, size_t size)
{
	struct request *message = worker_keep(c->worker);
	struct write_op *op = (struct write_op *)message->room;
	bool lend = size >= COPY_BELOW;

	*op = (struct write_op){
		.io = {.buf = (void *)buf, .release = lend ? write_release : NULL},
		.message = message,
		.pending = lend ? 2 : 1,
	};
	return op;
}

/* In memory of its own, the data placed as the file's blocks are.  NULL: there is none. */
static struct write_op *write_copied(const struct call *c, const char *buf, size_t size, off_t off)
{
	size_t at = (size_t)off % BLOCK_SIZE, room = at + size;
	struct write_op *op = malloc(sizeof(*op));
	char *copy = op ? worker_alloc(c->worker, room) : NULL;

	if (!copy) {
		free(op);
		return NULL;
	}
	memcpy(copy + at, buf, size);
	*op = (struct write_op){
		.io = {.buf = copy + at, .release = write_release},
		.copy = copy,
		.copy_room = room,
		.pending = 2,
	};
	worker_begin(c->worker);
	return op;
}

void fuse_io_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		   struct fuse_file_info *fi)
{
	struct call c = call_of(req);
	bool entry = worker_lends_entry(c.worker), copied = size >= COPY_BELOW && entry;
	struct write_op *op = copied ? write_copied(&c, buf, size, off) : write_in_place(&c, buf, size);

	if (!op) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	op->io.ino = ino;
	op->io.off = op->begin = (uint64_t)off;
	op->io.len = size;
	op->io.cached = fi->writepage;
	op->io.append = fi->flags & O_APPEND;
	op->io.kill_priv = worker_kills_priv(c.worker);
	op->io.done = write_done;
	op->req = req;
	op->worker = c.worker;
	/* For writes that complete asynchronously (AIO, io_uring) the kernel sends no FSYNC, whatever the caller
	 * has asked for.  Where it does send one, that costs nothing any more. */
	op->durable = c.glue->control->durable.all || fi->flags & (O_DSYNC | O_SYNC);
	op->direct = is_direct(fi);
	op->entry = entry;
	if (!op->direct)
		inval_note_cached(c.glue->inval, ino);
	if (fi->writepage && !atomic_load(&c.glue->handed_over))
		atomic_store(&c.glue->handed_over, true);
	fs_write(c.fs, c.q, &op->io);
}

/* --- copy --- */

struct copy_op {
	struct fs_copy copy; /* first: see copy_done() */
	struct fs_sync sync;
	fuse_req_t req;
	struct worker *worker;
	unsigned pending; /* the answer, and the data on its way home */
};

static void copy_unref(struct copy_op *op)
{
	struct worker *w = op->worker;

	if (--op->pending)
		return;
	free(op);
	worker_end(w);
}

static void copy_answer(struct copy_op *op, int64_t result)
{
	if (result < 0)
		fuse_reply_err(op->req, (int)-result);
	else
		fuse_reply_write(op->req, (size_t)result);
	copy_unref(op);
}

static void copy_durable(struct fs_sync *sync)
{
	struct copy_op *op = (struct copy_op *)((char *)sync - offsetof(struct copy_op, sync));

	copy_answer(op, sync->result ? sync->result : op->copy.result);
}

static void copy_done(struct fs_copy *copy)
{
	struct copy_op *op = (struct copy_op *)copy;
	struct call c = call_of(op->req);

	if (copy->result <= 0 || !(c.glue->control->durable.all || copy->must_sync)) {
		copy_answer(op, copy->result);
		return;
	}
	op->sync = (struct fs_sync){.ino = copy->ino_out, .done = copy_durable};
	fs_fsync(c.fs, c.q, &op->sync);
}

static void copy_released(struct fs_copy *copy)
{
	copy_unref((struct copy_op *)copy);
}

/* The kernel has written back what it had of both ranges, and holds the destination's lock. */
void fuse_io_copy(fuse_req_t req, fuse_ino_t in, off_t off_in, struct fuse_file_info *fi_in, fuse_ino_t out, off_t off_out,
		  struct fuse_file_info *fi_out, size_t len, int flags)
{
	struct call c = call_of(req);
	struct copy_op *op = calloc(1, sizeof(*op));

	(void)fi_in;
	(void)fi_out;
	if (!op || flags) {
		free(op);
		fuse_reply_err(req, flags ? EINVAL : ENOMEM);
		return;
	}
	fuse_glue_kill_priv(req, out);
	op->req = req;
	op->worker = c.worker;
	op->pending = 2;
	op->copy = (struct fs_copy){
		.ino_in = in,
		.off_in = (uint64_t)off_in,
		.ino_out = out,
		.off_out = (uint64_t)off_out,
		/* The answer has 32 bits. */
		.len = len < COPY_ANSWER_MAX ? len : COPY_ANSWER_MAX,
		.done = copy_done,
		.release = copy_released,
	};
	worker_begin(c.worker);
	fs_copy_range(c.fs, c.q, &op->copy);
}

/* --- fsync --- */

struct fsync_op {
	struct fs_sync sync; /* first: see fsync_done() */
	fuse_req_t req;
	struct worker *worker;
};

static void fsync_done(struct fs_sync *sync)
{
	struct fsync_op *op = (struct fsync_op *)sync;
	struct worker *w = op->worker;

	fuse_reply_err(op->req, -sync->result);
	free(op);
	worker_end(w);
}

/* Of files and directories alike. */
void fuse_io_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct call c = call_of(req);
	struct fsync_op *op = calloc(1, sizeof(*op));

	(void)fi;
	if (!op) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	op->req = req;
	op->worker = c.worker;
	op->sync.ino = ino;
	op->sync.datasync = datasync != 0;
	op->sync.done = fsync_done;
	if (!datasync)
		fs_flush_times(c.fs, c.q, ino);
	worker_begin(c.worker);
	fs_fsync(c.fs, c.q, &op->sync);
}
