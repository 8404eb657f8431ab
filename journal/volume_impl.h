/* SPDX-License-Identifier: Apache-2.0 */
/* volume_impl.h - what the files of journal/ share about a volume.  Not for others. */
#ifndef HOLDFAST_JOURNAL_VOLUME_IMPL_H
#define HOLDFAST_JOURNAL_VOLUME_IMPL_H

#include "journal/txn.h"
#include "journal/volume.h"

/* Empty shell with lock, counters and defaults; frees with volume_free(). */
int volume_new(struct dev *dev, const struct super *sb, const struct volume_config *cfg, const struct diag *diag,
	       struct volume **out);
void volume_free(struct volume *v);
uint64_t volume_now_sec(const struct volume *v);

/* Foreground work waits while dirty nodes are frozen (0.5 to 0.8 us each), so their number is bounded however large the cache. */
#define VOLUME_MAX_DIRTY (128u << 20)

/* Bad copies are left as they are. */
static inline bool volume_no_repair(const struct volume *v)
{
	return v->opening || (v->flags & VOLUME_READ_ONLY) || v->resting;
}

/* log.h's log_failed_fn. */
void volume_log_failed(void *arg, int err, const char *what);

/*
 * The checkpoint itself.  `jump`: the new root's replay_lsn while there is no log yet (recovery, formatting); else it is the log's to say.
 */
int checkpoint_run(struct volume *v, struct dev_queue *q, unsigned flags, uint64_t jump);

/* The newest root, and whether the other slot held a valid one too. */
struct root_found {
	void *block;		/* dev_alloc()ed, 4096 bytes */
	bool both;
	bool bad_copy;		/* some copy was bad and was not repaired */
};
int root_find(struct dev_queue *q, const struct super *sb, const struct diag *diag, bool repair,
	      struct root_found *out);

/* Replays the log from root's replay_lsn into memory; fills v->recovery. `end`: where the log ends.  -ERESTART: it has to be cut, at
 * v->recovery.unwritten_lsn; so what was replayed is to be thrown away. */
int recover_replay(struct volume *v, struct dev_queue *q, const struct disk_root *root, bool both_roots,
		   uint64_t *end);

/*
 * After a replay from `start` (verify.c): is the data there that unproven groups name?  0: yes.  -ERESTART: v->recovery.unwritten_lsn says
 * where to cut.  -EBADMSG, through diag: the device cannot read it, and nobody has said VOLUME_TRUNCATE_LOG.  -EUCLEAN, -EIO, -ENOMEM.
 */
int recover_verify(struct volume *v, struct dev_queue *q, uint64_t start, uint64_t applied);
/*
 * And writes it once more, now that the volume is going to be used: if a flush has failed before, what is read may be in a cache that takes it for written.
 */
int recover_rewrite(struct volume *v, struct dev_queue *q, uint64_t start, uint64_t applied);

#endif
