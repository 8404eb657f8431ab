/* SPDX-License-Identifier: Apache-2.0 */
/*
 * write.c - drives a write request: runs its step until it has committed, providing on the way what it misses, without ever
 * blocking; then answers and, when its data has come home, gives the buffer back.
 *
 * Always: everything of one request runs on the thread of its queue, so that struct write needs no lock.
 */
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "fs/write_impl.h"

static void write_go(struct write *w);

static void write_free(struct write *w)
{
	extmap_fini(&w->map);
	base_fini(&w->base);
	free(w->run);
	free(w->copy);
	free(w->blk);
	free(w);
}

/* Both were said: the request is nobody's any more. */
static void write_end(struct write *w)
{
	void (*release)(struct fs_io *io) = w->release;
	struct fs_io *io = w->io;

	if (!w->acked || !w->landed)
		return;
	write_free(w);
	if (release)
		release(io);
}

void write_landed(struct write *w)
{
	w->landed = true;
	write_end(w);
}

/* If there is nothing to release the caller may free its structure in `done`. */
void write_ack(struct write *w)
{
	w->io->result = (ssize_t)w->len;
	w->io->lsn = w->lsn;
	w->acked = true;
	w->done(w->io);
	write_end(w);
}

static void write_fail(struct write *w, int err)
{
	w->io->result = fs_verdict(w->fs, err);
	w->io->lsn = 0;
	w->acked = w->landed = true;
	w->done(w->io);
	write_end(w);
}

static void write_provided(struct provide *p, int err)
{
	struct write *w = (struct write *)((char *)p - offsetof(struct write, provide));

	if (err)
		write_fail(w, err);
	else
		write_go(w);
}

static void write_base_read(struct dev_io *io, int err)
{
	struct write *w = (struct write *)((char *)io - offsetof(struct write, base_io));

	err = base_arrived(w->fs, &w->base, err);
	if (err)
		write_fail(w, err);
	else
		write_go(w);
}

static void write_committed_go(struct write *w)
{
	bool stalled = w->stalled;

	if (w->nruns)
		write_runs_submit(w);
	else
		w->landed = true;
	if (!stalled)
		write_ack(w);
}

static void write_held_over(struct dev_task *task)
{
	write_go((struct write *)((char *)task - offsetof(struct write, stall.task)));
}

/* Lock held. */
static bool write_hold(struct write *w)
{
	if (!w->cached || !w->fs->reserve)
		return false;
	w->stall.q = w->q;
	w->stall.task.run = write_held_over;
	return cached_hold(w->fs, &w->stall);
}

/* One run of the step.  True: at once again. */
static bool write_try(struct write *w)
{
	struct miss miss = {.kind = MISS_NONE};
	struct volume *v = w->fs->v;

	volume_lock(v);
	if (write_hold(w)) {
		volume_unlock(v);
		return false;
	}
	int err = volume_is_shut(v) ? -EIO : write_step(w, &miss);
	if (err == -EAGAIN)
		v->stats.retries++;
	volume_unlock(v);
	if (err == -ENOBUFS)
		err = write_make_copy(w) ? -ENOMEM : -ERESTART;
	switch (err) {
	case 0:
		write_committed_go(w);
		return false;
	case -ERESTART:
		return true;
	case -EAGAIN:
		volume_provide_start(v, w->q, &miss, &w->provide, write_provided);
		return false;
	case -EINPROGRESS:
		base_read_init(&w->base, &w->base_io, write_base_read);
		dev_submit(w->q, &w->base_io);
		return false;
	default:
		write_fail(w, err);
		return false;
	}
}

static void write_go(struct write *w)
{
	while (write_try(w))
		;
}

/* Checksums of whole blocks need no lock, and are the same in every run of the step. */
static void write_checksum(struct write *w)
{
	for (unsigned i = 0; i < w->nblocks; i++) {
		if (i + 1 < w->nblocks && wpart_whole(w, i + 1))
			crc32c_prefetch(wpart_bytes(w, i + 1), BLOCK_SIZE);
		if (wpart_whole(w, i))
			w->blk[i].csum = crc32c(0, wpart_bytes(w, i), BLOCK_SIZE);
	}
}

static int write_new(struct fs *fs, struct dev_queue *q, struct fs_io *io, struct write **out)
{
	struct write *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->fs = fs;
	w->q = q;
	w->io = io;
	w->done = io->done;
	w->release = io->release;
	w->ino = io->ino;
	w->off = io->off;
	w->len = io->len;
	w->buf = io->buf;
	w->cached = io->cached;
	w->first = io->off >> BLOCK_SHIFT;
	w->nblocks = (unsigned)(BLOCKS_OF(io->off + io->len) - w->first);
	extmap_init(&w->map, fs, w->ino);
	w->blk = malloc(w->nblocks * sizeof(*w->blk));
	if (!w->blk) {
		write_free(w);
		return -ENOMEM;
	}
	*out = w;
	return 0;
}

/* Nothing has begun: answers at once. */
static void write_refuse(struct fs_io *io, int err)
{
	void (*release)(struct fs_io *io) = io->release;

	io->result = err;
	io->lsn = 0;
	io->done(io);
	if (release)
		release(io);
}

void fs_write(struct fs *fs, struct dev_queue *q, struct fs_io *io)
{
	struct write *w;
	int err = 0;

	if (io->len > FS_IO_MAX)
		err = -EINVAL;
	else if (io->off > MAX_FILE_SIZE || io->len > MAX_FILE_SIZE - io->off)
		err = -EFBIG;
	else if (io->len)
		err = write_new(fs, q, io, &w);
	if (err || !io->len) {
		write_refuse(io, err);
		return;
	}
	write_checksum(w);
	write_go(w);
}

/* --- the same, waiting ------------------------------------------------------------------------- */

struct pwrite {
	struct fs_io io;
	struct dev_event done;
};

static void pwrite_done(struct fs_io *io)
{
	struct pwrite *p = (struct pwrite *)((char *)io - offsetof(struct pwrite, io));

	dev_event_set(&p->done);
}

ssize_t fs_pwrite(struct fs *fs, struct dev_queue *q, uint64_t ino, const void *buf, size_t len, uint64_t off)
{
	size_t done = 0;

	while (done < len) {
		struct pwrite p = {.io = {.ino = ino, .off = off + done, .done = pwrite_done}};

		p.io.len = len - done < FS_IO_MAX ? len - done : FS_IO_MAX;
		p.io.buf = (uint8_t *)buf + done;
		dev_event_init(&p.done, q);
		fs_write(fs, q, &p.io);
		volume_event_wait(fs->v, &p.done);
		if (p.io.result <= 0)
			return done ? (ssize_t)done : p.io.result;
		done += (size_t)p.io.result;
	}
	return (ssize_t)done;
}
