/* SPDX-License-Identifier: Apache-2.0 */
/*
 * undo_apply.c - reads an undo file and gives the device back what it holds.
 *
 * The file is read twice: first everything is verified and nothing written, then the batches are applied from the last to the first.
 * Bytes of the file are as hostile as those of a device.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/crc32c.h"
#include "core/undo.h"

struct undo {
	int fd;
	const char *name;
	struct dev_queue *q;
	const struct diag *d;
	struct undo_info *info;
	struct undo_head head;
	uint64_t size;		/* of the file */
	uint64_t *batch;	/* offsets in the file */
	uint64_t nbatches, cap;
	uint8_t *buf;		/* UNDO_MAX_BATCH at most; dev_alloc() */
	uint64_t buf_cap;
	unsigned supers;	/* bit c: the file has superblock copy c */
	bool have_root[UNDO_ROOTS];
	uint32_t root_csum[UNDO_ROOTS];	/* as the file has them */
	uint32_t end_csum[UNDO_ROOTS];
};

/* --- the file ---------------------------------------------------------------------------------- */

/* Exactly `len` bytes, or -ENODATA. */
static int file_read(struct undo *u, uint64_t off, void *buf, uint64_t len)
{
	uint8_t *p = buf;

	while (len) {
		ssize_t n = pread(u->fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		p += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

static int read_head(struct undo *u)
{
	struct undo_head h;
	struct stat st;

	if (fstat(u->fd, &st))
		return -errno;
	u->size = (uint64_t)st.st_size;
	int err = S_ISREG(st.st_mode) ? file_read(u, 0, &h, sizeof(h)) : -ENODATA;

	if (!err && memcmp(h.signature, UNDO_SIGNATURE, sizeof(h.signature)) != 0)
		err = -ENODATA;
	if (err) {
		diag(u->d, DIAG_ERR, "%s: %s", u->name, err == -ENODATA ? "is not an undo file" : strerror(-err));
		return err == -ENODATA ? -EINVAL : err;
	}
	u->head = h;
	h.csum = put32(0);
	if (crc32c(0, &h, sizeof(h)) != get32(u->head.csum))
		return corrupt(u->d, "%s: its head is damaged", u->name);
	if (get32(h.version) != UNDO_VERSION) {
		diag(u->d, DIAG_ERR, "%s: is an undo file of version %u, which this program does not know", u->name,
		     get32(h.version));
		return -EINVAL;
	}
	memcpy(u->info->uuid, h.uuid, sizeof(h.uuid));
	u->info->created_sec = (int64_t)get64(h.created_sec);
	return 0;
}

/* Is there a batch's head at `off`?  Only that is looked at. */
static bool batch_head_ok(struct undo *u, uint64_t off, struct undo_batch *b)
{
	if (off + sizeof(*b) > u->size || file_read(u, off, b, sizeof(*b)))
		return false;
	uint64_t len = get64(b->len);

	return get32(b->magic) == UNDO_BATCH && get32(b->csum) == crc32c(0, (uint8_t *)b + 8, sizeof(*b) - 8) &&
	       len >= UNDO_ALIGN && len % UNDO_ALIGN == 0 && len <= UNDO_MAX_BATCH &&
	       get32(b->nruns) <= len / sizeof(struct undo_run);
}

static int buffer_grow(struct undo *u, uint64_t len)
{
	if (len <= u->buf_cap)
		return 0;
	free(u->buf);
	u->buf_cap = 0;
	u->buf = dev_alloc(len, false);
	if (!u->buf)
		return -ENOMEM;
	u->buf_cap = len;
	return 0;
}

/* Reads the body of the batch at `off` to u->buf: 0, -EUCLEAN (silently), or the file's error. */
static int read_body(struct undo *u, uint64_t off, const struct undo_batch *b)
{
	uint64_t len = get64(b->len) - sizeof(*b);
	int err = off + get64(b->len) > u->size ? -EUCLEAN : buffer_grow(u, len);

	if (!err)
		err = file_read(u, off + sizeof(*b), u->buf, len);
	if (!err && crc32c(0, u->buf, len) != get32(b->body_csum))
		err = -EUCLEAN;
	return err == -ENODATA ? -EUCLEAN : err;
}

/* A run of the batch in u->buf; `bytes` moves to behind its contents.  False: it cannot be. */
static bool run_get(const struct undo *u, const struct undo_batch *b, unsigned i, uint64_t *pos, struct undo_run *run,
		    const uint8_t **bytes)
{
	uint64_t room = get64(b->len) - sizeof(*b);

	memcpy(run, u->buf + i * sizeof(*run), sizeof(*run));
	uint64_t off = get64(run->off), len = get32(run->len);

	if (!len || (off | len) % UNDO_ALIGN || off > get64(u->head.dev_bytes) || len > get64(u->head.dev_bytes) - off)
		return false;
	*bytes = NULL;
	if (get32(run->flags) & UNDO_UNREADABLE)
		return true;
	if (*pos > room || len > room - *pos)
		return false;
	*bytes = u->buf + *pos;
	*pos += len;
	return true;
}

/* --- verifying --------------------------------------------------------------------------------- */

static uint64_t fixed_root(const struct undo *u, unsigned i)
{
	struct super sb = {.nblocks = get64(u->head.nblocks)};

	return root_blkno(&sb, i / 2, i % 2);
}

static bool run_has(uint64_t off, uint64_t len, uint64_t blkno)
{
	return off <= blkno * BLOCK_SIZE && (blkno + 1) * BLOCK_SIZE <= off + len;
}

static void note_run(struct undo *u, const struct undo_run *run, const uint8_t *bytes)
{
	uint64_t off = get64(run->off), len = get32(run->len);

	u->info->nruns++;
	if (bytes)
		u->info->bytes += len;
	else
		u->info->unreadable += len;
	for (unsigned c = 0; c < SUPER_COPIES; c++)
		if (run_has(off, len, super_blkno(get64(u->head.nblocks), c)))
			u->supers |= 1u << c;
	for (unsigned i = 0; bytes && i < UNDO_ROOTS; i++) {
		uint64_t blkno = fixed_root(u, i);

		if (!run_has(off, len, blkno))
			continue;
		u->have_root[i] = true;
		u->root_csum[i] = crc32c(0, bytes + (blkno * BLOCK_SIZE - off), BLOCK_SIZE);
	}
}

static int note_batch(struct undo *u, uint64_t off, const struct undo_batch *b)
{
	uint64_t pos = get32(b->nruns) * sizeof(struct undo_run);

	if (pos > get64(b->len) - sizeof(*b))
		return -EUCLEAN;
	for (unsigned i = 0; i < get32(b->nruns); i++) {
		struct undo_run run;
		const uint8_t *bytes;

		if (!run_get(u, b, i, &pos, &run, &bytes))
			return -EUCLEAN;
		note_run(u, &run, bytes);
	}
	if (u->nbatches == u->cap) {
		uint64_t cap = u->cap ? 2 * u->cap : 64;
		uint64_t *bigger = reallocarray(u->batch, cap, sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		u->batch = bigger;
		u->cap = cap;
	}
	u->batch[u->nbatches++] = off;
	return 0;
}

static void note_end(struct undo *u)
{
	for (unsigned i = 0; i < UNDO_ROOTS; i++) {
		le32 csum;

		memcpy(&csum, u->buf + i * sizeof(csum), sizeof(csum));
		u->end_csum[i] = get32(csum);
	}
	u->info->complete = true;
}

/* The batch at `off` is bad.  That is a crash's doing, unless one that came later is there. */
static int judge_cut(struct undo *u, uint64_t off)
{
	struct undo_batch b;

	for (uint64_t at = off + UNDO_ALIGN; at + sizeof(b) <= u->size; at += UNDO_ALIGN)
		if (batch_head_ok(u, at, &b) && get64(b.seq) > u->nbatches + 1)
			return corrupt(u->d, "%s: is damaged at byte %" PRIu64 "; nothing was undone", u->name, off);
	return 0;
}

static int verify(struct undo *u)
{
	uint64_t off = sizeof(struct undo_head);
	struct undo_batch b;

	while (!u->info->complete) {
		int err = batch_head_ok(u, off, &b) && get64(b.seq) == u->nbatches + 1 ? read_body(u, off, &b) : -EUCLEAN;

		if (!err && get32(b.flags) & UNDO_END)
			note_end(u);
		else if (!err)
			err = note_batch(u, off, &b);
		if (err == -EUCLEAN)
			return judge_cut(u, off);
		if (err)
			return err;
		off += get64(b.len);
	}
	return 0;
}

/* --- is it this volume? ------------------------------------------------------------------------ */

static int wrong_volume(struct undo *u, const char *why)
{
	diag(u->d, DIAG_ERR, "%s: %s: %s; nothing was undone", u->name, u->q->dev->path, why);
	return -EPERM;
}

/*
 * One good superblock says whose this is.  None is left only if the repair had none at its places, found one elsewhere and put it
 * back: then the file has all three.
 */
static int check_uuid(struct undo *u, void *block)
{
	for (unsigned c = 0; c < SUPER_COPIES; c++) {
		uint64_t blkno = super_blkno(get64(u->head.nblocks), c);
		struct super sb;

		if (blkno >= u->q->dev->size >> BLOCK_SHIFT ||
		    dev_read(u->q, blkno * BLOCK_SIZE, block, BLOCK_SIZE) ||
		    super_decode(block, blkno, u->q->dev->size >> BLOCK_SHIFT, NULL, &sb))
			continue;
		if (memcmp(sb.uuid, u->head.uuid, UUID_BYTES) != 0 || sb.nblocks != get64(u->head.nblocks))
			return wrong_volume(u, "is another volume than the one the file was made of");
		return 0;
	}
	return u->supers == (1u << SUPER_COPIES) - 1 ? 0 : wrong_volume(u, "has no superblock");
}

/* Each root must look as the repair left it, or as it was before (then this is the second run). */
static int check_unused(struct undo *u, void *block)
{
	for (unsigned i = 0; u->info->complete && i < UNDO_ROOTS; i++) {
		if (dev_read(u->q, fixed_root(u, i) * BLOCK_SIZE, block, BLOCK_SIZE))
			continue;
		uint32_t csum = crc32c(0, block, BLOCK_SIZE);

		if (csum != u->end_csum[i] && !(u->have_root[i] && csum == u->root_csum[i]))
			return wrong_volume(u, "has been changed after the repair");
	}
	return 0;
}

static int check_device(struct undo *u, unsigned flags)
{
	uint64_t nblocks = get64(u->head.nblocks);
	auto_free void *block = dev_alloc(BLOCK_SIZE, false);

	if (!block)
		return -ENOMEM;
	if (u->q->dev->read_only)
		return -EROFS;
	if (nblocks < MIN_BLOCKS || nblocks > get64(u->head.dev_bytes) >> BLOCK_SHIFT)
		return corrupt(u->d, "%s: its head makes no sense", u->name);
	if (nblocks > u->q->dev->size >> BLOCK_SHIFT)
		return wrong_volume(u, "is smaller than the volume");
	int err = check_uuid(u, block);

	if (err || flags & UNDO_FORCE)
		return err;
	if (u->q->dev->size != get64(u->head.dev_bytes))
		return wrong_volume(u, "has another size now");
	return check_unused(u, block);
}

/* --- applying ---------------------------------------------------------------------------------- */

static int write_run(struct undo *u, const struct undo_run *run, const uint8_t *bytes)
{
	uint64_t off = get64(run->off), len = get32(run->len);
	uint32_t align = u->q->dev->align;

	if (!bytes)
		return 0;
	if (off > u->q->dev->size || len > u->q->dev->size - off || (off | len) & (align - 1)) {
		diag(u->d, DIAG_ERR, "%s: bytes %" PRIu64 "..%" PRIu64 " do not fit %s", u->name, off, off + len - 1,
		     u->q->dev->path);
		return -EINVAL;
	}
	auto_free void *copy = dev_alloc(len, false);

	if (!copy)
		return -ENOMEM;
	memcpy(copy, bytes, len);
	return dev_write(u->q, off, copy, len, 0);
}

static int apply_batch(struct undo *u, uint64_t off)
{
	struct undo_batch b;
	int err = batch_head_ok(u, off, &b) ? read_body(u, off, &b) : -EUCLEAN;

	if (err)
		return err == -EUCLEAN ? corrupt(u->d, "%s: has changed while it was read", u->name) : err;
	uint64_t pos = get32(b.nruns) * sizeof(struct undo_run);

	for (unsigned i = 0; !err && i < get32(b.nruns); i++) {
		struct undo_run run;
		const uint8_t *bytes;

		if (!run_get(u, &b, i, &pos, &run, &bytes))
			return corrupt(u->d, "%s: has changed while it was read", u->name);
		err = write_run(u, &run, bytes);
	}
	return err;
}

static int undo_all(struct undo *u, unsigned flags)
{
	int err = read_head(u);

	if (!err)
		err = verify(u);
	if (!err)
		err = check_device(u, flags);
	while (!err && u->nbatches)
		err = apply_batch(u, u->batch[--u->nbatches]);
	return err ? err : dev_flush(u->q);
}

int undo_apply(int fd, const char *name, struct dev_queue *q, unsigned flags, const struct diag *d, struct undo_info *out)
{
	struct undo u = {.fd = fd, .name = name, .q = q, .d = d, .info = out};

	*out = (struct undo_info){0};
	int err = undo_all(&u, flags);

	free(u.batch);
	free(u.buf);
	return err;
}
