/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy.c - copies a range of a file to another place in the volume, piece by piece.
 *
 *	look	what is at the present place of the source: data, at most what one write takes, or a hole of any length
 *	data	read, verified, and written, as fs_read() and fs_write() do it
 *	hole	what the destination has there is freed, in one transaction; if that is not enough, the piece becomes shorter
 *
 * Always: a piece is one transaction and leaves the destination as a copy that ends there would.  Between pieces the queue goes round, so
 * that whoever else waits for it has a turn.  Everything of one copy runs on the thread of its queue.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/data.h"

#define COPY_PIECES 1024u /* ... of one call */
#define LOOK_EXTENTS 64u

enum look { LOOK_END, LOOK_DATA, LOOK_HOLE };

struct copy {
	struct fs *fs;
	struct dev_queue *q;
	struct fs_copy *user;
	void (*release)(struct fs_copy *c);
	struct data_task task;
	struct dev_task turn;
	struct falloc hole;
	enum look what;
	uint64_t len;		/* what of the user's can be */
	uint64_t n;		/* of the piece under way */
	uint64_t done, data;	/* bytes; of them, data */
	unsigned pieces;
	unsigned refs;		/* of the call until it is answered, and of each chunk */
};

/* A piece of data: lives until it is home. */
struct chunk {
	struct fs_io io; /* first: see chunk_read() */
	struct copy *c;
	void *mem;
};

static void copy_look(struct copy *c);

static void copy_unref(struct copy *c)
{
	void (*release)(struct fs_copy *c) = c->release;
	struct fs_copy *user = c->user;

	if (--c->refs)
		return;
	base_fini(&c->hole.base);
	free(c);
	if (release)
		release(user);
}

static void copy_end(struct copy *c, int err)
{
	c->user->result = c->done || !err ? (int64_t)c->done : err;
	c->user->done(c->user);
	copy_unref(c);
}

static void copy_turn(struct dev_task *turn)
{
	copy_look((struct copy *)((char *)turn - offsetof(struct copy, turn)));
}

/* `n` bytes more are part of the order; `all` of the piece. */
static void copy_advance(struct copy *c, uint64_t n, bool all)
{
	bool hole = c->what == LOOK_HOLE;

	if (c->user->piece)
		c->user->piece(c->user, c->done, n, hole);
	c->done += n;
	c->data += hole ? 0 : n;
	if (!all || c->done == c->len || ++c->pieces == COPY_PIECES || c->data >= FS_COPY_MAX) {
		copy_end(c, 0);
		return;
	}
	c->turn.run = copy_turn;
	dev_post(c->q, &c->turn);
}

/* --- data -------------------------------------------------------------------------------------- */

static void chunk_free(struct chunk *k)
{
	struct copy *c = k->c;

	free(k->mem);
	free(k);
	copy_unref(c);
}

static void chunk_released(struct fs_io *io)
{
	chunk_free((struct chunk *)io);
}

static void chunk_written(struct fs_io *io)
{
	struct chunk *k = (struct chunk *)io;
	struct copy *c = k->c;

	c->user->must_sync |= io->must_sync;
	if (io->result < 0)
		copy_end(c, (int)io->result);
	else
		copy_advance(c, (uint64_t)io->result, (size_t)io->result == io->len);
}

static void chunk_read(struct fs_io *io)
{
	struct chunk *k = (struct chunk *)io;
	struct copy *c = k->c;

	/* Nothing: the file has become shorter since. */
	if (io->result <= 0) {
		copy_end(c, (int)io->result);
		chunk_free(k);
		return;
	}
	k->io = (struct fs_io){
		.ino = c->user->ino_out,
		.off = c->user->off_out + c->done,
		.len = (size_t)io->result,
		.buf = (void *)io->data,
		.done = chunk_written,
		.release = chunk_released,
	};
	fs_write(c->fs, c->q, &k->io);
}

static void copy_data(struct copy *c)
{
	struct chunk *k = calloc(1, sizeof(*k));

	if (k)
		k->mem = dev_alloc(FS_READ_ROOM(c->n), false);
	if (!k || !k->mem) {
		free(k);
		copy_end(c, -ENOMEM);
		return;
	}
	k->c = c;
	c->refs++;
	k->io = (struct fs_io){
		.ino = c->user->ino_in,
		.off = c->user->off_in + c->done,
		.len = (size_t)c->n,
		.buf = k->mem,
		.no_atime = true,
		.done = chunk_read,
	};
	fs_read(c->fs, c->q, &k->io);
}

/* --- holes ------------------------------------------------------------------------------------- */

static void hole_made(struct data_task *task, int err)
{
	struct copy *c = (struct copy *)((char *)task - offsetof(struct copy, task));

	if (err) {
		copy_end(c, err);
	} else {
		/* Rather once too often than to look: only where inodes may have flags. */
		volume_lock(c->fs->v);
		c->user->must_sync |= c->fs->v->sb.incompat & FEATURE_INCOMPAT_INODE_FLAGS;
		volume_unlock(c->fs->v);
		copy_advance(c, c->hole.end - c->hole.off, true);
	}
}

static void copy_hole(struct copy *c)
{
	uint64_t off = c->user->off_out + c->done;

	base_fini(&c->hole.base);
	falloc_init_hole(&c->hole, c->user->ino_out, off, off + c->n);
	c->task = (struct data_task){.step = falloc_step, .arg = &c->hole, .bases = &c->hole.base, .done = hole_made};
	data_start(c->fs, c->q, &c->task);
}

/* --- looking ----------------------------------------------------------------------------------- */

/* The block behind the data, or the hole, that begins at `first`, as far as the map is known. */
static uint64_t look_end(const struct extmap *m, uint64_t first, bool data)
{
	uint64_t end = first;

	while (end < m->end) {
		const struct extent *e = extmap_next(m, end);

		if (data && (!e || !e->written || e->file > end))
			break;
		/* What is only reserved is part of a hole. */
		if (!data && e && e->written) {
			end = e->file > end ? e->file : end;
			break;
		}
		end = e ? e->file + e->n : m->end;
	}
	return end < m->end ? end : m->end;
}

static int look_blocks(struct copy *c, uint64_t pos, struct miss *miss)
{
	uint64_t first = pos >> BLOCK_SHIFT, end;
	struct extmap m;

	extmap_init(&m, c->fs, c->user->ino_in);
	int err = extmap_load(&m, first, BLOCKS_OF(pos + c->n), LOOK_EXTENTS, miss);
	if (!err) {
		const struct extent *e = extmap_find(&m, first);

		c->what = e && e->written ? LOOK_DATA : LOOK_HOLE;
		end = look_end(&m, first, c->what == LOOK_DATA) << BLOCK_SHIFT;
		if (end - pos < c->n)
			c->n = end - pos;
	}
	extmap_fini(&m);
	return err;
}

/* One write's worth, which ends between two blocks if more is to follow. */
static void look_bound(struct copy *c)
{
	uint64_t most = FS_IO_MAX - ((c->user->off_out + c->done) & (BLOCK_SIZE - 1));

	if (c->what == LOOK_DATA && c->n > most)
		c->n = most;
}

static int look_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct copy *c = arg;
	struct disk_inode di;
	uint64_t pos = c->user->off_in + c->done;
	int err = inode_get(fs, c->user->ino_in, miss, &di);

	if (!err)
		err = file_check(&di);
	if (err)
		return err;
	uint64_t size = get64(di.size);

	/* The end is where it was at the beginning: a copy of a file to its own end does not go on with what it has written. */
	if (!c->done && size > pos && c->len > size - pos)
		c->len = size - pos;
	c->what = LOOK_END;
	if (pos < size) {
		c->n = c->len - c->done < size - pos ? c->len - c->done : size - pos;
		c->what = LOOK_DATA;
		if (!(get64(di.flags) & INODE_INLINE))
			err = look_blocks(c, pos, miss);
		look_bound(c);
	}
	return err || c->done ? err : file_atime(fs, q, c->user->ino_in, &di, miss);
}

static void copy_looked(struct data_task *task, int err)
{
	struct copy *c = (struct copy *)((char *)task - offsetof(struct copy, task));

	if (err || c->what == LOOK_END)
		copy_end(c, err);
	else if (c->what == LOOK_DATA)
		copy_data(c);
	else
		copy_hole(c);
}

static void copy_look(struct copy *c)
{
	c->task = (struct data_task){.step = look_step, .arg = c, .done = copy_looked};
	data_start(c->fs, c->q, &c->task);
}

/* --- the operation ----------------------------------------------------------------------------- */

/* How much of it there can be, or why there can be nothing. */
static int64_t copy_check(const struct fs_copy *u)
{
	uint64_t len = u->len;

	if (u->off_out >= MAX_FILE_SIZE)
		return -EFBIG;
	if (u->off_in >= MAX_FILE_SIZE)
		return 0;
	if (len > MAX_FILE_SIZE - u->off_out)
		len = MAX_FILE_SIZE - u->off_out;
	if (len > MAX_FILE_SIZE - u->off_in)
		len = MAX_FILE_SIZE - u->off_in;
	if (u->ino_in == u->ino_out && u->off_in < u->off_out + len && u->off_out < u->off_in + len)
		return -EINVAL;
	return (int64_t)len;
}

/* Nothing has begun: answers at once. */
static void copy_refuse(struct fs_copy *user, int64_t result)
{
	void (*release)(struct fs_copy *c) = user->release;

	user->result = result;
	user->done(user);
	if (release)
		release(user);
}

void fs_copy_range(struct fs *fs, struct dev_queue *q, struct fs_copy *user)
{
	int64_t len = user->len ? copy_check(user) : 0;
	struct copy *c = len > 0 ? calloc(1, sizeof(*c)) : NULL;

	if (!c) {
		copy_refuse(user, len > 0 ? -ENOMEM : len);
		return;
	}
	c->fs = fs;
	c->q = q;
	c->user = user;
	c->release = user->release;
	c->len = (uint64_t)len;
	c->refs = 1;
	copy_look(c);
}

/* --- the same, waiting ------------------------------------------------------------------------- */

struct copy_wait {
	struct fs_copy copy; /* first */
	struct dev_event released;
};

static void wait_done(struct fs_copy *c)
{
	(void)c;
}

static void wait_released(struct fs_copy *c)
{
	dev_event_set(&((struct copy_wait *)c)->released);
}

int64_t fs_copy_wait(struct fs *fs, struct dev_queue *q, uint64_t ino_in, uint64_t off_in, uint64_t ino_out, uint64_t off_out,
		     uint64_t len)
{
	struct copy_wait w = {.copy = {.ino_in = ino_in,
				       .off_in = off_in,
				       .ino_out = ino_out,
				       .off_out = off_out,
				       .len = len,
				       .done = wait_done,
				       .release = wait_released}};

	dev_event_init(&w.released, q);
	fs_copy_range(fs, q, &w.copy);
	volume_event_wait(fs->v, &w.released);
	return w.copy.result;
}
