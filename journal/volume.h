/* SPDX-License-Identifier: Apache-2.0 */
/*
 * volume.h - an open volume: tree, free space, staged data and log under one lock, transactions over them, checkpoints, recovery.
 *
 * Everything that changes the volume is a transaction (txn.h).  The order in which transactions take the lock is the one
 * order of the promise: the frame is appended and the tree is changed in the same critical section.
 *
 * The lock is never held across device I/O.  Operations run in steps: lock, step, unlock; a step that lacks something
 * returns -EAGAIN with a miss (core/miss.h), volume_provide() gets it, the step runs again from its beginning.
 *
 * A step that only reads shares the lock with others of its kind (volume_share()).  "Lock held" means held alone, unless "or shared" is said.
 */
#ifndef HOLDFAST_JOURNAL_VOLUME_H
#define HOLDFAST_JOURNAL_VOLUME_H

#include <time.h>

#include "core/alloc.h"
#include "core/dev.h"
#include "core/format.h"
#include "core/lock.h"
#include "core/meta.h"
#include "core/miss.h"
#include "core/share.h"
#include "core/stage.h"
#include "core/tree.h"
#include "journal/log.h"

#define VOLUME_READ_ONLY   1u	/* nothing is written before volume_begin_writing(): no replay to the device, no repair */
#define VOLUME_NO_RECOVERY 2u	/* with READ_ONLY: the state of the last checkpoint, log ignored */
#define VOLUME_DISCARD     4u	/* tell the device about freed blocks */
#define VOLUME_TRUNCATE_LOG 8u	/* the user's explicit word: a damaged or unreadable log ends where the damage begins */

/* What recovery did, for the mount's message and fsck. */
struct volume_recovery {
	bool was_clean;		/* unmounted cleanly: nothing to replay */
	uint64_t frames;	/* transactions replayed */
	uint64_t bytes;
	uint64_t replayed_lsn;	/* behind the last one replayed, or that the root has already */
	uint64_t dropped_frames, dropped_bytes;	/* transactions behind volume_config.replay_stop, or unwritten_lsn */
	uint64_t unwritten_lsn;	/* not 0: the group from here on names data that is not there; cut */
	bool unreadable_data;	/* the device cannot read data that transactions name (cut with VOLUME_TRUNCATE_LOG only) or build on (-EIO) */
	struct log_tail tail;
};

struct volume_config {
	unsigned flags;
	uint64_t cache_bytes;	/* limit of clean tree nodes in memory; 0: 64 MiB */
	/*
	 * Called (any thread, volume lock held, must not block) when a checkpoint should be made: the program wakes the thread that
	 * calls volume_checkpoint().  NULL: nobody does; volume_provide() and volume_service() make them inline (simulation, tools).
	 */
	void (*want_checkpoint)(void *arg);
	void *arg;
	/* Not 0: no transaction that ends above this LSN is replayed, and the log is cut off there.  On the user's explicit word only. */
	uint64_t replay_stop;
	/* Filled by volume_open(), also when it fails in or behind the replay.  May be NULL. */
	struct volume_recovery *recovery;
	/* For the times that roots carry.  NULL: CLOCK_REALTIME. */
	void (*clock)(void *arg, struct timespec *now);
	void *clock_arg;
};

struct volume_stats {
	uint64_t checkpoints, checkpoint_nodes, checkpoint_pages;
	uint64_t txns;			/* committed */
	_Atomic uint64_t retries;	/* steps run again after a miss; without the lock */
	uint64_t loads, repairs;/* metadata blocks read; bad copies rewritten */
};

/* Tells once when there is less room than `below` blocks, until `low` is taken back. */
struct volume_watch {
	uint64_t below;		/* 0: not watched */
	bool low;
	void (*fn)(void *arg);	/* as want_checkpoint: any thread, volume lock held, must not block */
	void *arg;
};

/* Someone who waits for the next checkpoint to end. */
struct volume_waiter {
	struct dev_task task;	/* posted to q */
	struct dev_queue *q;
	int err;		/* 0, or why there will be no checkpoint any more */
	STAILQ_ENTRY(volume_waiter) link;
};

struct volume {
	/* constant after open */
	struct dev *dev;
	const struct diag *diag;
	struct super sb;	/* but label and incompat: under `lock` */
	void (*want_checkpoint_fn)(void *arg);
	void *want_checkpoint_arg;
	uint64_t replay_stop;
	void (*clock)(void *arg, struct timespec *now);
	void *clock_arg;
	struct volume_recovery recovery;
	uint64_t log_end;	/* where the log ended that was replayed */
	uint32_t root_csum;	/* of the root that was found */
	/* Set once, and VOLUME_READ_ONLY goes, by volume_begin_writing(), under `lock`; read anywhere. */
	struct log *_Atomic log;	/* NULL if read-only */
	_Atomic unsigned flags;
	/* Of volume_open(), before anybody else knows the volume. */
	bool opening;		/* it may yet be refused: nothing is written */
	bool bad_copies;	/* met meanwhile, of roots or tables */
	struct disk_root *root_block;	/* of the checkpoint under way; here, so that beginning one needs no memory */

	struct lock lock;	/* everything below */
	struct share share;	/* who shares it reads all of that, and changes nothing but what is atomic */
	struct tree *tree;
	struct alloc *alloc;
	struct stage *stage;
	uint64_t generation;	/* of the last durable root */
	uint64_t next_ino;
	uint64_t ninodes;
	uint64_t mount_count, error_count, last_error_sec;
	uint64_t applied_lsn;	/* behind the last transaction applied */
	bool checkpoint_wanted, checkpoint_running;
	bool resting;		/* from the beginning of volume_rest() on */
	unsigned repairs;	/* volume_repair_begin() */
	bool clean;		/* the last durable root says so */
	bool discard;		/* VOLUME_DISCARD; may be changed */
	bool super_busy;	/* see super.c */
	uint64_t checkpoint_lsn;	/* applied_lsn of the last durable root */
	STAILQ_HEAD(, volume_waiter) waiters;
	struct volume_watch watch;
	struct volume_stats stats;

	/* Readers of device blocks, by parity of the epoch in which they began: blocks freed in an epoch are handed out again
	 * only when its readers are gone. */
	unsigned epoch;
	_Atomic uint64_t readers[2];
	struct dev_queue *_Atomic drain_queue;	/* of the checkpoint that waits for readers[] of the old parity */
	uint64_t dirty_limit;	/* bytes of dirty nodes, or of staged pages, that make a checkpoint due; see also volume_stage_limit() */

	/* Nodes that did not verify once: their pointer may have been outdated.  Twice is damage.  By blkno mod 64. */
	struct volume_suspect {
		uint64_t blkno, generation;
	} suspect[64];

	_Atomic int failing;
	_Atomic int failed;	/* sticky negative errno: read-only from then on */
	char failed_why[160];	/* written once before `failed` */
	_Atomic bool shut;	/* by volume_shutdown() */
};

/* --- life --- */

struct format_params {
	uint64_t nblocks;
	uint64_t journal_nblocks;	/* 0: volume_default_journal() */
	uint8_t uuid[UUID_BYTES];
	uint8_t hash_key[16];
	char label[LABEL_BYTES];
	int64_t now_sec;
	uint32_t now_nsec;
	uint32_t root_uid, root_gid, root_mode;	/* mode: permission bits */
};

/* Blocks of journal for a volume of `nblocks`: 1/32, at least 1 MiB (1/8 of tiny ones), at most 256 MiB. */
uint64_t volume_default_journal(uint64_t nblocks);

/*
 * Formats: journal written out with zeros, tables, first checkpoint with an empty root directory; superblocks last, the
 * first one at the very end.  -EINVAL if the sizes do not fit (see super_layout()).  `progress` (may be NULL) sees journal bytes written.
 */
int volume_format(struct dev_queue *q, const struct format_params *p, const struct diag *diag,
		  void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg);

/* Finds a superblock (copies 0, 1, last).  -ENOENT: none here and no signature: not a Holdfast volume.  -EUCLEAN: damaged. */
int volume_read_super(struct dev_queue *q, const struct diag *diag, struct super *sb);

/* Both slots, newest first: fills `block` (4096 bytes) with the newest valid root.  -EUCLEAN if none. */
int volume_read_root(struct dev_queue *q, const struct super *sb, const struct diag *diag, bool repair, void *block);

/*
 * Opens, checks, replays.  Read-write: the replayed state is made a checkpoint before this returns, and the log goes on one whole lap
 * further, so that remains of torn writes can never be taken for new frames.
 * -ENOENT no volume, -EUCLEAN damaged (said through diag), -ENOTSUP unknown features or version, -ENOSPC device smaller than volume, -EIO,
 * -EROFS: the device is read-only and VOLUME_READ_ONLY was not given; -EBADMSG: the log is damaged below what was proven durable,
 * or cannot be read where it would go on (not with VOLUME_TRUNCATE_LOG).
 */
int volume_open(struct dev_queue *q, const struct volume_config *cfg, const struct diag *diag, struct volume **out);

/*
 * Is what is on the device what this volume, which nobody has made writable yet, was opened from?  Whoever writes to a volume makes a new root, or
 * superblock, before anything counts that he changes; and no two roots are the same.  0, -ESTALE, or why it could not be read.  Waits, serving q.
 */
int volume_look_again(struct volume *v, struct dev_queue *q);

/*
 * Does for a volume that was opened with VOLUME_READ_ONLY what else volume_open() does, and makes it one that takes changes.  Readers may be at
 * work meanwhile; the thread that makes checkpoints may be there, and has nothing to do before.  The device must be writable and this program's
 * alone by now; nobody may have written to it since the open.  -EROFS (device, features, VOLUME_NO_RECOVERY), -ESTALE (it is not what was opened
 * any more), -ENOMEM, -EBADMSG, -EIO: it goes on as it was, unless it has failed (v->failed).  Waits, serving q.  One caller at a time.  No lock held.
 */
int volume_begin_writing(struct volume *v, struct dev_queue *q);

/* Makes a last checkpoint marked clean (unless read-only, failed or shut down) and frees everything.  Returns that checkpoint's result. */
int volume_close(struct volume *v, struct dev_queue *q);

/* --- steps --- */

static inline void volume_lock(struct volume *v)
{
	/* Here and not only when the lock is taken: its holder may be waiting for us. */
	assert(!share_is_mine());
	lock_take(&v->lock);
	share_close(&v->share);
}

static inline void volume_unlock(struct volume *v)
{
	share_open(&v->share);
	lock_drop(&v->lock);
}

/* For a step that only reads.  Such a step comes upon things that it would have to change, and runs again with the lock held: see -ENOLCK in
 * fs/fs_impl.h. */
static inline void volume_share(struct volume *v) { share_begin(&v->share, &v->lock); }
static inline void volume_unshare(struct volume *v) { share_end(&v->share); }

/* Is the lock held, and not shared?  Of a thread that does one of both. */
static inline bool volume_is_alone(struct volume *v) { return lock_is_mine(&v->lock); }

#define VOLUME_ASSERT_SHARED(v) assert(share_is_mine() || lock_is_mine(&(v)->lock))	/* or held */

/* Gets what a step missed, waiting and serving q.  0: run the step again.  Else the error to return.  No lock held; not from a
 * callback. */
int volume_provide(struct volume *v, struct dev_queue *q, const struct miss *miss);

/* The same without waiting: `done` runs on q's thread, in dev_poll().  The caller owns *p until then. */
struct provide {
	void (*done)(struct provide *p, int err);
	/* private */
	struct volume *v;
	struct miss miss;
	struct meta_read read;
	struct volume_waiter waiter;
	unsigned epoch;
	unsigned slot;
	uint32_t csum;
	bool loud;
};
void volume_provide_start(struct volume *v, struct dev_queue *q, const struct miss *miss, struct provide *p,
			  void (*done)(struct provide *p, int err));

/* dev_event_wait() for operations that may need a checkpoint on the way: where nobody else makes them, makes them. */
void volume_event_wait(struct volume *v, struct dev_event *ev);

/* A reader of device blocks begins (lock held or shared) and ends (any thread, lock neither).  begin returns what end wants. */
unsigned volume_read_begin(struct volume *v);
void volume_read_end(struct volume *v, unsigned epoch);

/*
 * The same for a reader of the last durable root, *generation, and of what it leads to: until volume_read_end() its slot, its tables,
 * bitmaps and nodes are not written, save by who repairs a copy, and none of their blocks is handed out.  (The next checkpoint writes
 * other slots and blocks, and waits for this reader before it ends; the one after it cannot begin.)  File contents may be overwritten in
 * place, by the next checkpoint.  -EAGAIN while a checkpoint is being made.
 */
int volume_root_begin(struct volume *v, unsigned *epoch, uint64_t *generation);

/* --- checkpoint (checkpoint.c) --- */

#define CHECKPOINT_CLEAN 1u	/* mark the root clean: nothing will be appended any more */
#define CHECKPOINT_FORCE 2u	/* even if nothing has changed */

/* Makes one; waits, serving q.  One caller at a time (the program's checkpoint thread).  No lock held. */
int volume_checkpoint(struct volume *v, struct dev_queue *q, unsigned flags);

/*
 * Makes everything durable and then a checkpoint marked clean, behind which nothing is written: what is on the device is as after an unmount.
 * The rest ends by itself: who changes something waits, as if the journal were full, for a checkpoint that is not clean; volume_wake()
 * ends it without a change.  Who misses MISS_SPACE does not: all that a checkpoint could free is free then.  Waits for a trim's part and for
 * repairs that are under way.  0 (also if it rests already), or why the volume takes no changes.  Called as volume_checkpoint() is.
 */
int volume_rest(struct volume *v, struct dev_queue *q);
/* Ends a rest (lock not held); waits, serving q.  From any thread but the one that makes checkpoints.  0: changes can be made. */
int volume_wake(struct volume *v, struct dev_queue *q);

/* Around the rewriting of a copy on the device.  False: nothing may be written, the volume rests or is about to.  Any thread, lock not held. */
bool volume_repair_begin(struct volume *v);
void volume_repair_end(struct volume *v);

/* Bytes of staged pages with which transactions that stage more wait for a checkpoint: what gathers while one is under way, and some. */
static inline uint64_t volume_stage_limit(const struct volume *v)
{
	return 4 * v->dirty_limit;
}

/* Should there be one now (journal half full, much dirty memory, or asked for)?  Lock held. */
bool volume_checkpoint_due(struct volume *v);

/* Asks for one (lock held). */
void volume_want_checkpoint(struct volume *v);

/* Blocks that changes may still take, those included that a checkpoint gives back and that are kept for ALLOC_CACHED.  Lock held. */
uint64_t volume_room(const struct volume *v);
/* To be called when that may have become less: see struct volume_watch.  Lock held. */
void volume_note_space(struct volume *v);

/* Without a checkpoint thread: makes the checkpoint that is due, if one is.  To be called between operations. */
int volume_service(struct volume *v, struct dev_queue *q);

/* --- superblock (super.c) --- */

/*
 * Durable when it returns, and then all that was changed before is durable too.  After a power cut meanwhile it is the old or the new one.
 * Waits, serving q.  No lock held.  -EROFS, -EIO (the volume fails).
 */
int volume_set_label(struct volume *v, struct dev_queue *q, const char *label);
/* The same for features that what is to be changed next needs. */
int volume_add_feature(struct volume *v, struct dev_queue *q, uint32_t incompat);
/* Copy after copy, each durable before the next: of a volume that nobody has open.  Waits, serving q.  -EIO, -ENOMEM. */
int super_write(struct dev_queue *q, const struct super *sb);
/* Between these two nobody changes the superblock.  begin waits, serving q. */
void volume_super_begin(struct volume *v, struct dev_queue *q);
void volume_super_end(struct volume *v);

/* Read-only from now on, with a reason; the log fails too.  Any thread, lock held or not.  First call wins. */
void volume_fail(struct volume *v, int err, const char *why);

/*
 * From now on as if the power had been cut at this moment: nothing reaches the device any more, and it has failed, with `why` as the reason.
 * volume_close() then makes no checkpoint and is no error.  What was submitted to the device before goes its way (dev_settle()).  Any thread,
 * no lock held.
 */
void volume_shutdown(struct volume *v, const char *why);
static inline bool volume_is_shut(const struct volume *v) { return v->shut; }

/* -EROFS if the volume is read-only, -EIO if it failed (-EROFS for changes: see txn_commit()), 0. */
int volume_writable(struct volume *v);

/* Counts damage met while reading (persisted by the next checkpoint).  No lock needed beyond the volume's: held. */
void volume_note_damage(struct volume *v);
/* A check has looked for it and found none: counts anew, from the next checkpoint on.  Lock held. */
void volume_forget_damage(struct volume *v);

#endif
