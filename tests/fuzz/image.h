/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.h - hostile volumes from a few bytes: what the fuzz targets of whole volumes share.
 *
 * An input is not an image.  It is a header, which picks one of a few small volumes that are made by the real code when the
 * program starts, and a list of edits of 16 bytes each: bytes of a block, of an item, items added or deleted, pointers led
 * elsewhere, transactions for the journal.  Then, unless the header says otherwise, everything that would give the damage away is
 * put right: checksums, addresses, counts, bitmaps, the CRCs of frames.  So the fuzzer comes behind the checksums, and
 * inputs stay small.
 *
 * Every input is good for something: numbers are taken modulo what there is, edits that make no sense do nothing.
 */
#ifndef HOLDFAST_TESTS_FUZZ_IMAGE_H
#define HOLDFAST_TESTS_FUZZ_IMAGE_H

#include <stddef.h>

#include "core/dev_sim.h"
#include "core/format.h"
#include "journal/log.h"

/* --- inputs ------------------------------------------------------------------------------------ */

enum fuzz_base { BASE_EMPTY, BASE_NAMES, BASE_DATA, BASE_PENDING, BASE_ORPHANS, BASE_DEEP, NBASES };

#define FIX_SUMS   1u	/* checksums, addresses and what points to them; without it nothing below is done either */
#define FIX_SPACE  2u	/* bitmaps, tables and free counts follow from what the tree uses */
#define FIX_COUNTS 4u	/* the root's inode counters */
#define FIX_HASHES 8u	/* names lie under their hashes */
#define FIX_ALL    15u

struct fuzz_head {
	uint8_t base;
	uint8_t fix;
	uint8_t how;		/* the target's */
	uint8_t pad;
};

enum edit_kind {
	EDIT_BYTES,		/* object: `value` at `offset` */
	EDIT_COPY,		/* object: becomes object `aux`, number in `value` */
	EDIT_ITEM_BYTES,	/* item `index`: `value` at `offset`; what: 0 its value, 1 its key's object, 2 type, 3 offset */
	EDIT_ITEM_DEL,		/* item `index` */
	EDIT_ITEM_NEW,		/* a copy of item `index`; key as in EDIT_ITEM_BYTES from `value` */
	EDIT_ITEM_RESIZE,	/* item `index` has `offset` bytes */
	EDIT_ITEM_ALIAS,	/* item `index`: the address of object `aux`, number in `value`, at `offset` */
	EDIT_PTR_ALIAS,		/* root (what: 1) or node `index`: pointer `offset`, address len & 1, as before */
	EDIT_TXN,		/* begins a transaction.  len & 1: in a new group */
	EDIT_OP,		/* an operation `what` in it; see image_log.c */
	EDIT_OP_BYTES,		/* `value` at `offset` of the last operation, its head included */
	EDIT_OP_REPEAT,		/* the last operation again, `index` times; its object grows by `value` each time */
	EDIT_FRAME,		/* pending frame `index`: `value` at `offset` of its payload */
	EDIT_CALL,		/* the target's: see fuzz_mount.c */
	NEDITS
};

/* Objects.  A number picks one of them. */
enum object { OBJ_SUPER, OBJ_ROOT, OBJ_TABLE, OBJ_BITMAP, OBJ_NODE, OBJ_JOURNAL, OBJ_DATA, OBJ_ANY, NOBJECTS };
#define WHAT_LATE  0x80u	/* after checksums have been put right */
#define WHAT_COPY0 0x10u	/* copy 0 only; only seen with WHAT_LATE or without FIX_SUMS */
#define WHAT_COPY1 0x20u

struct edit {
	uint8_t kind;
	uint8_t what;
	le16 index;
	le16 offset;
	uint8_t len;		/* of value, 1..8 */
	uint8_t aux;
	uint8_t value[8];
};
static_assert(sizeof(struct edit) == 16, "edit");

#define MAX_EDITS 96u

struct input {
	struct fuzz_head head;
	unsigned n;
	struct edit edit[MAX_EDITS];
};

void input_parse(const uint8_t *data, size_t size, struct input *in);

static inline uint64_t edit_value(const struct edit *e)
{
	le64 v;

	__builtin_memcpy(&v, e->value, sizeof(v));
	return get64(v);
}

static inline unsigned edit_len(const struct edit *e)
{
	return e->len % 8 + 1;
}

/* --- bases (image_base.c) ---------------------------------------------------------------------- */

struct item {
	struct key key;
	unsigned len;
	const uint8_t *val;	/* not aligned */
	bool edited;
};

struct frame_at {
	uint64_t lsn;
	uint32_t len;
};

/* A volume that the real code made, and what is in it. */
struct base {
	struct dev *dev;
	struct super sb;
	struct disk_root root;	/* the newest */
	unsigned bitmap_slot;	/* the current one of group 0, of which there is no other */
	struct item *item;	/* in key order; values in `pages` */
	unsigned nitems;
	struct disk_ptr *node;	/* the root first */
	unsigned nnodes;
	uint64_t *data;		/* first blocks of extents */
	unsigned ndata;
	uint64_t *free;		/* free blocks */
	unsigned nfree;
	struct frame_at *frame;	/* pending transactions */
	unsigned nframes;
	uint64_t log_end;
	uint8_t **pages;	/* of the nodes */
};

/* Made on first use, for the life of the process. */
const struct base *fuzz_base_get(unsigned n);

/* --- images (image.c, image_fix.c, image_log.c) ------------------------------------------------ */

struct image {
	const struct base *base;
	struct dev *dev;	/* the caller's, to destroy */
	struct super sb;
	struct disk_root root;
	/* If items were edited: all of them, and the nodes that hold them. */
	struct item *item;
	unsigned nitems;
	struct disk_ptr *node;
	unsigned nnodes;
};

/* NULL: no memory. */
struct dev *image_make(const struct input *in);

/* Block numbers of an object's copies; returns how many (1 or 2), 0 if there is no such object. */
unsigned image_where(const struct image *im, unsigned object, unsigned index, uint64_t blkno[2]);

bool image_has_items(const struct input *in);
int image_rebuild(struct image *im, const struct input *in);	/* image_items.c */
int image_edit_log(struct image *im, const struct input *in);	/* image_log.c */
int image_fix(struct image *im, unsigned fix);			/* image_fix.c */

#endif
