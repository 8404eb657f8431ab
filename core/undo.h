/* SPDX-License-Identifier: Apache-2.0 */
/*
 * undo.h - the undo file: what the blocks of a device held before a repair changed them.
 *
 * A head, then batches, each at a multiple of UNDO_ALIGN.  A batch holds runs of old contents; it is durable before the first of its
 * blocks is overwritten, and only then the next batch is begun.  So a batch that does not verify, with none behind it, was cut off by
 * a crash, and its blocks are as they were.  The last batch (UNDO_END) is written when the repair is over: it says that nothing is
 * missing, and how the roots looked then, so that an undo is refused once the volume has been used again.
 * docs/format.md, section 11, has the bytes.
 */
#ifndef HOLDFAST_CORE_UNDO_H
#define HOLDFAST_CORE_UNDO_H

#include "core/dev.h"
#include "core/format.h"

#define UNDO_SIGNATURE	"HLFSUNDO"
#define UNDO_VERSION	1u
#define UNDO_ALIGN	512u
#define UNDO_BATCH	0x55464c48u	/* "HLFU" */
#define UNDO_MAX_BATCH	(64u << 20)	/* bytes of a batch; writers stay far below */
#define UNDO_ROOTS	4u		/* root blocks: slot 0 copies 0 and 1, slot 1 copies 0 and 1 */

struct undo_head {
	uint8_t signature[8];
	le32 version;
	le32 csum;		/* CRC-32C of these 512 bytes, with zeros here */
	uint8_t uuid[UUID_BYTES];
	le64 dev_bytes;		/* size of the device */
	le64 nblocks;		/* of the volume */
	le64 created_sec;
	uint8_t pad[UNDO_ALIGN - 56];
};
static_assert(sizeof(struct undo_head) == UNDO_ALIGN, "undo_head");

#define UNDO_END 1u		/* flags: no runs, but UNDO_ROOTS checksums; the last batch */

struct undo_batch {
	le32 magic;
	le32 csum;		/* CRC-32C of bytes 8..39 of this head */
	le64 seq;		/* 1, 2, ... */
	le64 len;		/* bytes of the whole batch, padding included: a multiple of UNDO_ALIGN */
	le32 flags;
	le32 nruns;
	le32 body_csum;		/* CRC-32C of everything behind this head, padding included */
	le32 pad;
};
static_assert(sizeof(struct undo_batch) == 40, "undo_batch");

#define UNDO_UNREADABLE 1u	/* flags: the device could not read it, so there are no bytes */

struct undo_run {
	le64 off;		/* on the device, bytes */
	le32 len;
	le32 flags;
};
static_assert(sizeof(struct undo_run) == 16, "undo_run");

/* --- writing ----------------------------------------------------------------------------------- */

/* Where the bytes go.  Zero or negative errno. */
struct undo_sink {
	int (*append)(void *arg, const void *bytes, size_t len);
	int (*sync)(void *arg);	/* what was appended is durable */
	void *arg;
};

struct undo_writer {
	struct undo_sink sink;
	uint64_t seq;		/* batches written */
	uint64_t bytes;		/* of old contents */
};

struct undo_extent {
	uint64_t off;
	uint32_t len;
	const void *bytes;	/* NULL: unreadable */
};

/* The head, durable when this returns. */
int undo_begin(struct undo_writer *w, const struct undo_sink *sink, const struct super *sb, uint64_t dev_bytes, int64_t now_sec);
/* One batch, durable when this returns. */
int undo_append(struct undo_writer *w, const struct undo_extent *e, unsigned n);
/* The last batch. */
int undo_end(struct undo_writer *w, const uint32_t root_csum[UNDO_ROOTS]);

/*
 * A new file as a sink.  -EEXIST: there is one already; -EXDEV: it would lie on the device that it is for; else of open(2).  The directory entry
 * is durable too.  undo_file_close() removes it again if `keep` is false.
 */
struct undo_file;
int undo_file_create(const char *path, const struct dev *dev, struct undo_file **out);
struct undo_sink undo_file_sink(struct undo_file *f);
void undo_file_close(struct undo_file *f, bool keep);

/* --- undoing ----------------------------------------------------------------------------------- */

#define UNDO_FORCE 1u	/* even if the volume has been used since, or the device has another size */

struct undo_info {
	uint8_t uuid[UUID_BYTES];
	int64_t created_sec;
	uint64_t bytes;		/* given back */
	uint64_t nruns;
	uint64_t unreadable;	/* bytes that could not be read then, and stay as they are */
	bool complete;		/* the repair came to its end */
};

/*
 * Gives the device back what `fd` holds.  Everything is verified before the first byte is written; flushed when it returns.  The caller has
 * locked the image.  Can be run again after a crash in the middle.
 * Says why not through `d`: -EINVAL not an undo file, or one of a version unknown; -EUCLEAN damaged; -EPERM of another volume, or (without
 * UNDO_FORCE) the volume has been used since; -EROFS; -EIO; -ENOMEM.  Nothing is written then, save after an -EIO of writing.
 */
int undo_apply(int fd, const char *name, struct dev_queue *q, unsigned flags, const struct diag *d, struct undo_info *out);

#endif
