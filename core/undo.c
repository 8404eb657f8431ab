/* SPDX-License-Identifier: Apache-2.0 */
/* undo.c - writes undo files. */
#include "core/undo.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/crc32c.h"

/* --- head and batches -------------------------------------------------------------------------- */

int undo_begin(struct undo_writer *w, const struct undo_sink *sink, const struct super *sb, uint64_t dev_bytes, int64_t now_sec)
{
	struct undo_head h = {
		.version = put32(UNDO_VERSION),
		.dev_bytes = put64(dev_bytes),
		.nblocks = put64(sb->nblocks),
		.created_sec = put64((uint64_t)now_sec),
	};

	memcpy(h.signature, UNDO_SIGNATURE, sizeof(h.signature));
	memcpy(h.uuid, sb->uuid, sizeof(h.uuid));
	h.csum = put32(crc32c(0, &h, sizeof(h)));
	*w = (struct undo_writer){.sink = *sink};
	int err = sink->append(sink->arg, &h, sizeof(h));

	return err ? err : sink->sync(sink->arg);
}

/* `body`: `len` bytes, whose last ones are padding. */
static int put_batch(struct undo_writer *w, unsigned flags, unsigned nruns, uint8_t *batch, uint64_t len)
{
	struct undo_batch b = {
		.magic = put32(UNDO_BATCH),
		.seq = put64(w->seq + 1),
		.len = put64(len),
		.flags = put32(flags),
		.nruns = put32(nruns),
		.body_csum = put32(crc32c(0, batch + sizeof(b), len - sizeof(b))),
	};

	b.csum = put32(crc32c(0, (uint8_t *)&b + 8, sizeof(b) - 8));
	memcpy(batch, &b, sizeof(b));
	int err = w->sink.append(w->sink.arg, batch, len);

	if (!err)
		err = w->sink.sync(w->sink.arg);
	if (!err)
		w->seq++;
	return err;
}

static uint64_t batch_bytes(uint64_t body)
{
	return (sizeof(struct undo_batch) + body + UNDO_ALIGN - 1) & ~(uint64_t)(UNDO_ALIGN - 1);
}

int undo_append(struct undo_writer *w, const struct undo_extent *e, unsigned n)
{
	uint64_t data = 0;

	for (unsigned i = 0; i < n; i++)
		data += e[i].bytes ? e[i].len : 0;
	uint64_t len = batch_bytes(n * sizeof(struct undo_run) + data);
	auto_free uint8_t *batch = calloc(1, len);
	uint8_t *run = batch + sizeof(struct undo_batch), *bytes = run + n * sizeof(struct undo_run);

	if (!batch)
		return -ENOMEM;
	assert(len <= UNDO_MAX_BATCH);
	for (unsigned i = 0; i < n; i++) {
		struct undo_run r = {
			.off = put64(e[i].off), .len = put32(e[i].len), .flags = put32(e[i].bytes ? 0 : UNDO_UNREADABLE)};

		memcpy(run + i * sizeof(r), &r, sizeof(r));
		if (!e[i].bytes)
			continue;
		memcpy(bytes, e[i].bytes, e[i].len);
		bytes += e[i].len;
	}
	int err = put_batch(w, 0, n, batch, len);

	if (!err)
		w->bytes += data;
	return err;
}

int undo_end(struct undo_writer *w, const uint32_t root_csum[UNDO_ROOTS])
{
	uint8_t batch[UNDO_ALIGN] = {0};

	for (unsigned i = 0; i < UNDO_ROOTS; i++) {
		le32 csum = put32(root_csum[i]);

		memcpy(batch + sizeof(struct undo_batch) + i * sizeof(csum), &csum, sizeof(csum));
	}
	return put_batch(w, UNDO_END, 0, batch, sizeof(batch));
}

/* --- the file ---------------------------------------------------------------------------------- */

struct undo_file {
	int fd;
	char path[];
};

static int file_append(void *arg, const void *bytes, size_t len)
{
	const struct undo_file *f = arg;
	const char *p = bytes;

	while (len) {
		ssize_t n = write(f->fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int file_sync(void *arg)
{
	const struct undo_file *f = arg;

	return fdatasync(f->fd) ? -errno : 0;
}

struct undo_sink undo_file_sink(struct undo_file *f)
{
	return (struct undo_sink){.append = file_append, .sync = file_sync, .arg = f};
}

/* A file whose name is not durable would be gone with the power. */
static int sync_parent(const char *path)
{
	auto_free char *copy = strdup(path);

	if (!copy)
		return -ENOMEM;
	int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	int err = fsync(fd) ? -errno : 0;

	close(fd);
	/* Not every file system can; then the name is as durable as it gets. */
	return err == -EINVAL || err == -EROFS ? 0 : err;
}

static bool lies_on(int fd, const struct dev *dev)
{
	struct stat st, on;

	if (!dev->is_block || dev->fd < 0)
		return false;
	return !fstat(fd, &st) && !fstat(dev->fd, &on) && st.st_dev == on.st_rdev;
}

int undo_file_create(const char *path, const struct dev *dev, struct undo_file **out)
{
	struct undo_file *f = malloc(sizeof(*f) + strlen(path) + 1);

	if (!f)
		return -ENOMEM;
	strcpy(f->path, path);
	f->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (f->fd < 0) {
		int err = -errno;

		free(f);
		return err;
	}
	int err = lies_on(f->fd, dev) ? -EXDEV : sync_parent(path);

	if (err) {
		undo_file_close(f, false);
		return err;
	}
	*out = f;
	return 0;
}

void undo_file_close(struct undo_file *f, bool keep)
{
	if (!f)
		return;
	close(f->fd);
	if (!keep)
		unlink(f->path);
	free(f);
}
