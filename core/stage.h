/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stage.h - contents of data blocks that are newer than the device's.
 *
 * Two kinds, in one table by block number:
 *   in flight   whole blocks being written straight to their home; the bytes are the writer's buffer;
 *   logged      small overwrites and partial blocks whose bytes are in the log; the block as a whole is kept here
 *               until a checkpoint has placed it home.
 * A reader takes stage_get() before it looks at the device.
 *
 * Always: a frozen page is immutable (a change copies it), so what a checkpoint places home is the content as of its freeze.
 * All functions: under the volume's lock; stage_get() may share it.
 */
#ifndef HOLDFAST_CORE_STAGE_H
#define HOLDFAST_CORE_STAGE_H

#include <stdbool.h>
#include <stdint.h>

struct stage;

int stage_create(struct stage **out);
void stage_destroy(struct stage *s);

/* The newest content (4096 bytes) or NULL if the device has it.  Valid until the next change of that block or the lock's
 * release. */
const void *stage_get(const struct stage *s, uint64_t blkno);

/*
 * n blocks from blkno are being written from `bytes`, which stays in place until stage_flight_end() with the same
 * arguments.  Blocks that hold nothing yet: one that is staged, -EUCLEAN, has another owner on a damaged volume.  -ENOMEM.  Nothing
 * changed then.
 */
int stage_flight_begin(struct stage *s, uint64_t blkno, uint64_t n, const void *bytes);
void stage_flight_end(struct stage *s, uint64_t blkno, uint64_t n, const void *bytes);

/*
 * Overwrites bytes [at, at+len) of a block, logged.  The rest of it is: what is staged; else zeros if `fresh`; else `base`
 * (4096 bytes, copied; must not be NULL then).  A fresh write starts from zeros even if staged.  -ENOMEM: memory comes from
 * stage_prepare().
 */
int stage_write(struct stage *s, uint64_t blkno, unsigned at, const void *bytes, unsigned len, bool fresh,
		const void *base);

/* Makes sure that the next `n` stage_write() calls find memory.  -ENOMEM. */
int stage_prepare(struct stage *s, unsigned n);

/* The blocks were freed: logged content is forgotten, frozen pages stay until thaw. */
void stage_drop(struct stage *s, uint64_t blkno, uint64_t n);

/* Bytes held in logged pages, frozen ones included. */
uint64_t stage_bytes(const struct stage *s);

struct stage_page {
	uint64_t blkno;
	const void *page;
};
/* All logged pages become frozen and are listed in ascending block order (memory: the stage's, until thaw). -ENOMEM. */
int stage_freeze(struct stage *s, const struct stage_page **out, uint64_t *n);
/* They are home and durable. */
void stage_thaw(struct stage *s);

#endif
