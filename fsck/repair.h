/* SPDX-License-Identifier: Apache-2.0 */
/*
 * repair.h - what to do about what a check has found.
 *
 * Two mechanisms: bad copies are written over from good ones while the check finds them (fsck_opts.heal), and for everything else the
 * tree is written anew (rebuild.h).  Contents of files are never changed: where they do not match their checksums, reading them stays an
 * error until the file is restored.
 */
#ifndef HOLDFAST_FSCK_REPAIR_H
#define HOLDFAST_FSCK_REPAIR_H

#include "fsck/check.h"
#include "fsck/rebuild.h"

/* How a finding is repaired. */
enum repair_way {
	REPAIR_NONE,		/* nothing to do */
	REPAIR_COPY,		/* from the good copy */
	REPAIR_REBUILD,		/* by a rebuild */
	REPAIR_LOG,		/* by giving up what the journal holds: only on the user's explicit word */
	REPAIR_DATA,		/* not at all: the only copy of the contents is bad */
};
enum repair_way repair_way(enum fsck_code code);

/* Of the errors found: how many are not healed, and need this. */
uint64_t repair_left(const struct fsck_result *found, enum repair_way way);

struct repair_opts {
	bool all;		/* also where something must be dropped */
	bool drop_log;		/* a salvage takes what a damaged journal holds up to the damage */
	void (*note)(void *arg, const struct rebuild_note *n);
	void (*progress)(void *arg, unsigned pass, uint64_t done, uint64_t total);
	bool (*cancelled)(void *arg);
	void *arg;
	const struct diag *diag;
};

struct repair_result {
	bool replayed;
	uint64_t replayed_frames;
	bool rebuilt;
	struct rebuild_result rebuild;
};

/*
 * Repairs what a check with opts.heal has found and not healed: the journal is replayed if it holds something, the tree rebuilt if
 * anything needs it, and a volume that was not unmounted cleanly is clean afterwards.  0: done; a new check says how it is.  Negative, and nothing was changed (but for a replay), diag
 * says why: -EPERM something would have to be dropped and `all` is not set; -EBADMSG the journal holds changes that cannot be
 * replayed; -ENODATA no root is left to start from; else as rebuild().
 */
int fsck_repair(struct dev_queue *q, const struct fsck_result *found, const struct repair_opts *opts,
		struct repair_result *out);

#endif
