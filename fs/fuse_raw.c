/* SPDX-License-Identifier: Apache-2.0 */
/* fuse_raw.c - see the header. */
#include "fs/fuse_raw.h"

#include <linux/fuse.h>
#include <stdlib.h>

#include "fs/fuse_ops.h"

/* --- SYNCFS --- */

struct syncfs {
	struct fs_sync sync; /* first: see syncfs_done() */
	struct worker *worker;
	uint64_t unique;
};

static void syncfs_done(struct fs_sync *sync)
{
	struct syncfs *s = (struct syncfs *)sync;
	struct worker *w = s->worker;

	worker_answer(w, s->unique, sync->result, NULL, 0);
	free(s);
	worker_end(w);
}

static void start_syncfs(struct worker *w, uint64_t unique)
{
	struct syncfs *s = calloc(1, sizeof(*s));

	if (!s) {
		worker_answer(w, unique, -ENOMEM, NULL, 0);
		return;
	}
	s->worker = w;
	s->unique = unique;
	s->sync.done = syncfs_done;
	worker_begin(w);
	fs_fsync(worker_fs(w), worker_queue(w), &s->sync);
}

/* --- all of them --- */

bool fuse_raw_request(struct worker *w, void *message)
{
	struct fuse_in_header *in = message;

	switch (in->opcode) {
	case FUSE_SYNCFS:
		start_syncfs(w, in->unique);
		return true;
	case FUSE_CREATE:
		worker_answer(w, in->unique, -ENOSYS, NULL, 0);
		return true;
	case FUSE_TMPFILE:
		in->opcode = FUSE_CREATE;
		return false;
	default:
		return false;
	}
}
