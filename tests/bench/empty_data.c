/* SPDX-License-Identifier: Apache-2.0 */
/* empty_data.c - contents of files; see the header. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/bench/empty.h"

#define MAX_SIZE (1ull << 40)
#define MIN_FIRST 4096u

static size_t piece_room(const struct contents *c, uint64_t i)
{
	return i ? PIECE : c->first;
}

void contents_free(struct contents *c)
{
	for (uint64_t i = 0; i < c->npieces; i++)
		free(c->piece[i]);
	free(c->piece);
	*c = (struct contents){0};
}

/* Room for bytes up to `end` of piece `i`; its memory, or NULL. */
static char *piece_get(struct contents *c, uint64_t i, size_t end)
{
	if (i >= c->npieces) {
		uint64_t n = i + 1 > c->npieces * 2 ? i + 1 : c->npieces * 2;
		char **p = realloc(c->piece, n * sizeof(*p));

		if (!p)
			return NULL;
		memset(p + c->npieces, 0, (n - c->npieces) * sizeof(*p));
		c->piece = p;
		c->npieces = n;
	}
	if (i) {
		if (!c->piece[i])
			c->piece[i] = calloc(1, PIECE);
		return c->piece[i];
	}
	if (end > c->first) {
		size_t room = c->first ? c->first : MIN_FIRST;

		while (room < end)
			room *= 2;

		char *p = realloc(c->piece[0], room);

		if (!p)
			return NULL;
		memset(p + c->first, 0, room - c->first);
		c->piece[0] = p;
		c->first = room;
	}
	return c->piece[0];
}

static void zero(struct contents *c, uint64_t off, uint64_t end)
{
	while (off < end && off / PIECE < c->npieces) {
		uint64_t i = off / PIECE, stop = (i + 1) * PIECE < end ? (i + 1) * PIECE : end;
		size_t at = off % PIECE, room = piece_room(c, i),
		       to = stop - i * PIECE < room ? stop - i * PIECE : room;

		if (c->piece[i] && at < to)
			memset(c->piece[i] + at, 0, to - at);
		off = stop;
	}
}

static void set_size(struct node *n, uint64_t size)
{
	n->attr.size = size;
	n->attr.blocks = (size + 4095) / 4096 * 8;
}

int contents_truncate(struct node *n, uint64_t size)
{
	struct contents *c = &n->contents;

	if (S_ISDIR(n->attr.mode))
		return -EISDIR;
	if (!S_ISREG(n->attr.mode))
		return -EINVAL;
	if (size > MAX_SIZE)
		return -EFBIG;
	if (!size)
		contents_free(c);
	for (uint64_t i = (size + PIECE - 1) / PIECE; i < c->npieces; i++) {
		free(c->piece[i]);
		c->piece[i] = NULL;
	}
	zero(c, size, n->attr.size);
	set_size(n, size);
	return 0;
}

/* --- fs.h --- */

void fs_read(struct fs *fs, struct dev_queue *q, struct fs_io *io)
{
	struct node *n = node_of(fs, io->ino);
	const struct contents *c = &n->contents;
	uint64_t end, off = io->off;
	char *to = io->buf;

	(void)q;
	pthread_rwlock_rdlock(&n->lock);
	end = io->off + io->len < n->attr.size ? io->off + io->len : n->attr.size;
	while (off < end) {
		uint64_t i = off / PIECE;
		size_t at = off % PIECE, len = end - off < PIECE - at ? end - off : PIECE - at;
		size_t there =
			i < c->npieces && c->piece[i] && piece_room(c, i) > at ? piece_room(c, i) - at : 0;

		there = there < len ? there : len;
		if (there)
			memcpy(to, c->piece[i] + at, there);
		memset(to + there, 0, len - there);
		to += len;
		off += len;
	}
	pthread_rwlock_unlock(&n->lock);
	io->data = io->buf;
	io->result = to - (char *)io->buf;
	io->done(io);
}

static ssize_t write_pieces(struct node *n, const char *from, uint64_t off, size_t len)
{
	uint64_t end = off + len;

	if (end > MAX_SIZE)
		return -EFBIG;
	while (off < end) {
		size_t at = off % PIECE, part = end - off < PIECE - at ? end - off : PIECE - at;
		char *p = piece_get(&n->contents, off / PIECE, at + part);

		if (!p)
			return -ENOSPC;
		memcpy(p + at, from, part);
		from += part;
		off += part;
	}
	return (ssize_t)len;
}

void fs_write(struct fs *fs, struct dev_queue *q, struct fs_io *io)
{
	struct node *n = node_of(fs, io->ino);
	void (*release)(struct fs_io * io) = io->release;

	(void)q;
	pthread_rwlock_wrlock(&n->lock);
	io->result = write_pieces(n, io->buf, io->off, io->len);
	if (io->result >= 0) {
		if (io->off + io->len > n->attr.size)
			set_size(n, io->off + io->len);
		node_touch(n, true);
	}
	pthread_rwlock_unlock(&n->lock);
	io->must_sync = false;
	io->done(io);
	/* Without it the memory may be gone. */
	if (release)
		release(io);
}

int fs_fallocate(struct fs *fs, struct dev_queue *q, uint64_t ino, int mode, uint64_t off, uint64_t len)
{
	struct node *n = node_of(fs, ino);
	int kind = mode & ~FALLOC_FL_KEEP_SIZE;

	(void)q;
	if (kind && kind != FALLOC_FL_PUNCH_HOLE && kind != FALLOC_FL_ZERO_RANGE)
		return -EOPNOTSUPP;
	if (off + len > MAX_SIZE)
		return -EFBIG;
	pthread_rwlock_wrlock(&n->lock);
	if (kind)
		zero(&n->contents, off, off + len);
	if (!(mode & FALLOC_FL_KEEP_SIZE) && off + len > n->attr.size)
		set_size(n, off + len);
	node_touch(n, true);
	pthread_rwlock_unlock(&n->lock);
	return 0;
}

int fs_lseek(struct fs *fs, struct dev_queue *q, uint64_t ino, uint64_t off, int whence, uint64_t *out)
{
	struct fs_attr attr;

	fs_getattr(fs, q, ino, &attr);
	if (off >= attr.size)
		return -ENXIO;
	*out = whence == SEEK_DATA ? off : attr.size;
	return 0;
}

void fs_seek(struct fs *fs, struct dev_queue *q, struct fs_seek *s)
{
	s->result = fs_lseek(fs, q, s->ino, s->off, s->whence, &s->pos);
	s->begin = s->end = s->size = s->pos;
	s->done(s);
}

int fs_bmap(struct fs *fs, struct dev_queue *q, uint64_t ino, uint64_t block, uint64_t *blkno)
{
	(void)fs, (void)q, (void)ino, (void)block;
	*blkno = 0;
	return 0;
}

void fs_fsync(struct fs *fs, struct dev_queue *q, struct fs_sync *s)
{
	(void)fs;
	(void)q;
	s->result = 0;
	s->done(s);
}

int fs_sync(struct fs *fs, struct dev_queue *q, uint64_t ino, bool datasync)
{
	(void)fs;
	(void)q;
	(void)ino;
	(void)datasync;
	return 0;
}
