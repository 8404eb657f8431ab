/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim.h - the deterministic simulation: what its files share.
 *
 * model*.c    the truth
 * plan.c      from a seed to a plan: geometry, operations, power cuts.  profile.c: how often what
 * world.c     a device, a volume on it, the people who live there (coroutines), reboots
 * target.c    what an operation is about: picks from the model
 * fault.c     what else may go wrong, and what is excused then
 * do_*.c      operations, on both, and the comparison of what they say
 * lazy.c      when a time of access that was kept in memory has been stored
 * walk.c      the whole tree: walked and hashed.  tree.c: compared with the model after each number of changes
 * run.c       lives one after the other
 * shrink.c    fewer operations with the same failure
 * main.c      command line, processes, report
 *
 * Everything that is decided comes from the plan, and the plan from the seed.  No address, no time of day, no count of anything that
 * another seed in the same process has left behind may have a say.
 */
#ifndef HOLDFAST_TESTS_SIM_SIM_H
#define HOLDFAST_TESTS_SIM_SIM_H

#include <stdio.h>

#include "core/dev_sim.h"
#include "core/sim_store.h"
#include "fs/fs.h"
#include "tests/sim/model.h"
#include "tests/sim/plan.h"

/* --- failures and coverage ---------------------------------------------------------------------- */

/* How often seeds got where it is interesting; a harness that gets nowhere is seen by these. */
#define COVERAGE(X)                                                                                                    \
	X(ops, "operations")                                                                                           \
	X(lives, "lives")                                                                                              \
	X(cuts, "power cuts")                                                                                          \
	X(cut_open, "cuts during recovery")                                                                            \
	X(cut_checkpoint, "cuts during a checkpoint")                                                                  \
	X(cut_close, "cuts while closing")                                                                             \
	X(cut_flight, "cuts with writes in flight")                                                                    \
	X(cut_orphans, "cuts with unlinked open files")                                                                \
	X(cut_lost, "cuts that took unsynced changes")                                                                 \
	X(cut_beyond, "cuts that kept unsynced changes")                                                               \
	X(torn, "torn tails")                                                                                          \
	X(unwritten, "recoveries that cut transactions whose data was not there")                                      \
	X(partly, "operations seen half done")                                                                         \
	X(replayed, "recoveries with frames to replay")                                                                \
	X(laps, "laps of the journal")                                                                                 \
	X(checkpoints, "checkpoints")                                                                                  \
	X(amid, "operations amid a checkpoint")                                                                        \
	X(loads, "metadata blocks read")                                                                               \
	X(enospc, "operations without space")                                                                          \
	X(filled, "reserved blocks filled, for want of space")                                                         \
	X(shortened, "short writes")                                                                                   \
	X(syncs, "syncs acknowledged")                                                                                 \
	X(compared, "trees compared")                                                                                  \
	X(fscks, "fsck runs")                                                                                          \
	X(raised, "read-only mounts that became writable")                                                             \
	X(looks, "read-only mounts")                                                                                   \
	X(flags, "changes of flags")                                                                                   \
	X(flag_write, "writes that a flag forbids")                                                                    \
	X(flag_size, "truncations and fallocates that a flag forbids")                                                 \
	X(flag_attr, "changes of attributes that a flag forbids")                                                      \
	X(flag_xattr, "changes of xattrs that a flag forbids")                                                         \
	X(flag_make, "new names that a flag forbids")                                                                  \
	X(flag_link, "links that a flag forbids")                                                                      \
	X(flag_remove, "removals that a flag forbids")                                                                 \
	X(flag_rename, "renames that a flag forbids")                                                                  \
	X(flag_append, "appends to append-only files")                                                                 \
	X(flag_sync, "changes made durable for a flag")                                                                \
	X(trims, "trims")                                                                                              \
	X(trimmed, "blocks trimmed")                                                                                   \
	X(labels, "labels set")                                                                                        \
	X(label_cut, "cuts while a label is set")                                                                      \
	X(shuts, "shutdowns")                                                                                          \
	X(shut_lost, "shutdowns that took unsynced changes")                                                           \
	X(shut_refused, "operations refused after a shutdown")                                                         \
	X(lazy, "times of access kept in memory")                                                                      \
	X(lazy_stored, "of them stored later")                                                                         \
	X(lazy_lost, "of them lost with the power or a shutdown")                                                      \
	X(cached, "writes acknowledged before they came")                                                              \
	X(cached_tight, "of them that came when others had less than 100 blocks")                                      \
	X(cached_held, "of them that waited until all were told")                                                      \
	X(cached_refused, "writes not acknowledged for want of room")                                                  \
	X(cached_forced, "of them that came to a file with a forbidding flag")                                         \
	X(faults, "faults that struck")                                                                                \
	X(errors, "operations that failed for a fault")                                                                \
	X(refused, "mounts refused for a fault")                                                                       \
	X(unreadable, "damaged files reported")

struct coverage {
#define COVERAGE_FIELD(name, text) uint64_t name;
	COVERAGE(COVERAGE_FIELD)
#undef COVERAGE_FIELD
};

/* How a run of a plan ended; lies in memory shared with the parent. */
struct verdict {
	bool failed;
	char kind[32];		/* two failures are the same if this is */
	char text[2000];
	uint32_t op;		/* label of the operation under way */
	uint32_t life;
	uint32_t cut_op, cut_writes;	/* where the last power cut struck: writes since this operation began */
	uint32_t digest;
};

/* --- one seed under way ------------------------------------------------------------------------- */

#define HELD_MAX  6u
#define IO_ROOM   FS_READ_ROOM(FS_IO_MAX)

struct hook {
	struct dev_ops ops;
	const struct dev_ops *real;
	struct sim *sim;
};

struct held {
	uint64_t ino;		/* 0: free */
	uint64_t label;		/* of the operation that took it */
};

/* A write that was acknowledged, and is still to come; holds a reference. */
struct cached {
	uint64_t ino, off;
	uint32_t len, label;
};
#define CACHED_MAX 24u
#define LAZY_MAX   64u
#define LABELS_MAX 256u

/* What a process keeps from one seed to the next: nothing that has a say, only what it need not make again. */
struct lab {
	struct image *images;
	struct coverage *cov;
	uint8_t *room, *other;	/* IO_ROOM bytes each */
};

struct sim {
	bool filled;		/* earlier lives gave zeros to blocks that were reserved: see is_hole() */
	bool loose_use;		/* which of two states that look alike a cut has left is not known, so how many blocks are in use is not */
	struct lab *lab;
	const struct plan *plan;
	struct coverage *cov;
	struct verdict *verdict;
	FILE *trace;		/* NULL: silent */
	struct diag diag;

	struct hook hook;
	struct dev *dev;
	struct dev_queue *q;
	struct volume *v;
	struct fs *fs;
	struct crew *crew;	/* those who work in the background; NULL: checkpoints are made inline */
	struct model *model;
	struct timespec clock;

	const struct op *op;	/* under way */
	uint64_t op_writes;	/* of the device, when it began */
	unsigned life;
	unsigned acked;		/* so many changes must survive */
	struct held held[HELD_MAX];
	struct cached cached[CACHED_MAX];
	unsigned ncached;
	unsigned told_in;	/* polls until all have been told that space is low; 0: nobody is to be told */
	bool told;		/* from now on who acknowledges asks before */
	uint64_t lazy[LAZY_MAX];	/* inodes whose time of access is in memory, longest first */
	unsigned nlazy;
	unsigned label;			/* the volume's, see label_text() */
	unsigned nlabels, nsettled;	/* all so far; those behind nsettled were tried since, and each may be what the volume has */
	bool labelling;
	bool shut, was_shut;	/* in this life; in the one before */
	unsigned shut_ops;	/* since then */
	unsigned nunanswered, nlent, nlate;
	unsigned ntrims;
	bool trims_met;		/* there has been more than one at a time */
	bool cut_seen;		/* by us */
	bool opening, closing;
	bool write_ends;	/* an asynchronous one, in the middle of another operation */
	bool earlier_ends;	/* something that began before it: a write or a sync */
	uint64_t idle_polls;

	/* Faults other than power cuts: see fault.c. */
	struct faults *faults;

	uint32_t digest;	/* of what operations said */
};

/* Ends this process's work on the seed. */
_Noreturn void violation(struct sim *s, const char *kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void trace(struct sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

struct lab *lab_new(struct coverage *cov);
void lab_free(struct lab *lab);

/* Runs the plan; returns only if nothing was found. */
void run_plan(struct lab *lab, const struct plan *plan, struct verdict *verdict, FILE *out);

/* --- world.c ------------------------------------------------------------------------------------ */

/* A formatted device and the model of what is on it. */
void world_begin(struct sim *s);
void world_end(struct sim *s);
/* A flag beside those of volume_open(): opened read-only, and then made writable. */
#define WORLD_RAISE 0x1000u

/* 0, or what volume_open(), fs_open() and fs_begin_writing() say. */
int world_open(struct sim *s, unsigned flags);
/* Ends everything that is under way, and closes; returns volume_close()'s result. */
int world_close(struct sim *s);
/* After a cut and world_close(). */
void world_reboot(struct sim *s, uint64_t seed, bool torn);
bool world_is_cut(struct sim *s);
void world_cut(struct sim *s);
/* Lets those in the background go on for a while; inline, does what is due. */
void world_service(struct sim *s);
/* Waits for an event as an operation does. */
void world_wait(struct sim *s, struct dev_event *ev);
/* Asks those in the background for a checkpoint; false: there is nobody. */
bool world_want_checkpoint(struct sim *s);

/* --- crew.c: the threads of a mount, as coroutines ---------------------------------------------- */

struct crew *crew_start(struct sim *s);
void crew_serve(struct crew *c);	/* an fs is open: removals begin */
void crew_end_service(struct crew *c);
void crew_end(struct crew *c);
void crew_force(struct crew *c);
/* From the hook of dev_poll(): somebody else's turn. */
void crew_yield(struct crew *c);
void crew_want_checkpoint(void *crew);
void crew_want_service(void *crew);

/* --- fault.c: see there what is excused when ----------------------------------------------------- */

struct faults *faults_new(uint64_t nblocks);
void faults_free(struct faults *f);
void faults_order(struct sim *s, const struct op *op);
void faults_note(struct sim *s);
void faults_withdraw(struct sim *s);
void faults_new_life(struct sim *s);
void faults_mounted(struct sim *s);
void faults_watch(struct sim *s, const struct dev_io *io);
bool faults_excuse(const struct sim *s, int rc);
bool faults_excuse_contents(const struct sim *s, int rc);
bool faults_excuse_metadata(const struct sim *s, int rc);
bool faults_excuse_mount(struct sim *s, int rc, bool *again);
/* The medium is no longer what was written; writes have failed; both copies of anything may be bad. */
bool faults_damage(const struct sim *s);
bool faults_write(const struct sim *s);
bool faults_any(const struct sim *s);
unsigned faults_floor(const struct sim *s);

/* --- target.c ----------------------------------------------------------------------------------- */

enum pick { PICK_FILE, PICK_DIR, PICK_LINK, PICK_ANY, PICK_NODIR, PICK_FLAGGED };

struct target {
	uint64_t ino;		/* 0: there is none */
	uint64_t dir;		/* where an entry of it is; 0: it is held, or the root */
	char name[256];
	size_t len;
	bool taken;		/* with a reference to be given back */
};

/* By rendezvous: which one wins depends on `random` and on each candidate, not on how many there are. */
struct target target_pick(struct sim *s, enum pick what, uint64_t random);
/* An entry, never a held inode or the root. */
struct target target_entry(struct sim *s, enum pick what, uint64_t random);
uint64_t target_dir(struct sim *s, uint64_t random);
/* Looks it up as the kernel would; false: that failed (a cut, a fault). */
bool target_take(struct sim *s, struct target *t);
void target_drop(struct sim *s, struct target *t);
size_t name_make(struct sim *s, uint64_t random, char name[256]);

/* --- do_*.c ------------------------------------------------------------------------------------- */

void do_op(struct sim *s, const struct op *op);
const char *op_name(enum op_kind kind);

void do_names(struct sim *s, const struct op *op);
void do_attr(struct sim *s, const struct op *op);
void do_xattr(struct sim *s, const struct op *op);
/* Blocks that a change may need besides, because an inode has this ACL. */
uint64_t acl_blocks(const struct sim *s, uint64_t ino, const char *name);
void do_io(struct sim *s, const struct op *op);
void do_sync(struct sim *s, const struct op *op);
void do_flags(struct sim *s, const struct op *op);
void do_volume(struct sim *s, const struct op *op);
void do_cached(struct sim *s, const struct op *op);

/* do_io.c: where and how much; one write, waited for unless it is an OP_WRITE_ASYNC. */
size_t draw_len(struct sim *s, uint64_t random);
uint64_t draw_off(struct sim *s, const struct op *op, const struct minode *i);
void start_write(struct sim *s, const struct op *op, uint64_t ino, uint64_t off, size_t len);
/* do_names.c: gives a reference back; the inode is gone if it was the last of an unlinked one. */
void forget(struct sim *s, uint64_t ino);
void forget_orphan(struct sim *s, uint64_t ino);
/* do_flags.c: the inode has been changed (`names`: its entries): makes that durable if a flag says so. */
void obey(struct sim *s, uint64_t ino, bool names);
/* do_cached.c: everything that was acknowledged comes; or is lost. */
void cached_all(struct sim *s);
void cached_low(void *sim);
void cached_poll(struct sim *s);
/* do_volume.c: after a mount. */
void label_judge(struct sim *s);
/* do_sync.c */
void synced(struct sim *s, int rc, unsigned n);

/* What the real one says is final for the model too: false if the operation has failed for a reason that the model does not know.
 * `want`: blocks that it may need. */
bool judge(struct sim *s, int rc, uint64_t want);
void same_rc(struct sim *s, int rc, int want);
void same_attr(struct sim *s, uint64_t ino, const struct fs_attr *attr);
/* Blocks in use: not fewer than hold something, and not more than were ever asked for; small files may have none. */
bool blocks_fit(const struct minode *i, uint64_t sectors, uint64_t *least, uint64_t *most);
/* Is it no wonder that `want` blocks were not to be had? */
bool space_is_short(struct sim *s, uint64_t want);
/* Else it is a violation. */
void no_space(struct sim *s, uint64_t want);
/* The model has changed as far as `n`, and that is durable. */
void acked(struct sim *s, unsigned n);
/* Waits until every write that has begun is part of the order. */
void drain(struct sim *s);
/* ... until nothing at all is under way. */
void drain_all(struct sim *s);
/* The file may have been read: takes over whether its time of access changed. */
void same_atime(struct sim *s, uint64_t ino);
void pattern(void *buf, size_t len, uint64_t off, uint64_t label);

/* --- lazy.c ------------------------------------------------------------------------------------- */

/* It has just been read: its new time of access is in memory only, or stored. */
void lazy_read(struct sim *s, uint64_t ino);
/* Which of those in memory have been stored meanwhile?  To be called wherever some may have been. */
void lazy_look(struct sim *s);
/* Stores what the inode (0: all of them) has in memory, as whoever is asked for a sync does. */
void lazy_flush(struct sim *s, uint64_t ino);
/* What is in memory is lost; or will be stored before anything else happens. */
void lazy_end(struct sim *s, bool stored);

/* --- walk.c ------------------------------------------------------------------------------------- */

/* An inode as it is found. */
struct wnode {
	struct minode i;	/* without what `sum` and `target_hash` stand for */
	uint64_t target_hash;	/* symlinks */
	uint64_t sectors;
	bool bad;		/* entries, extended attributes or target cannot be read: nothing is known of them */
};

/* A block of a file that cannot be read. */
struct wbad {
	uint64_t ino, block;
};

struct walk {
	struct sim *s;
	struct wnode *node;
	unsigned n, cap;
	uint32_t *at;		/* by inode number: 1 + its index; 0: not met */
	uint64_t nat;
	uint64_t hash;		/* of all, if nothing is unreadable */
	bool plus;
	bool holes;		/* a directory, or an inode in one, cannot be read: what is below is unknown */
	struct wbad *bad;
	unsigned nbad, cap_bad;
};

void walk_run(struct walk *w, struct sim *s);
/* Only this inode. */
void walk_inode(struct walk *w, struct sim *s, uint64_t ino);
void walk_end(struct walk *w);
const struct wnode *walk_get(const struct walk *w, uint64_t ino);
bool walk_is_whole(const struct walk *w);
uint64_t wnode_hash(const struct wnode *n);

/* --- tree.c ------------------------------------------------------------------------------------- */

/* The tree is as it was after n changes, acked <= n <= all: the model goes back there. */
void tree_judge(struct sim *s);
/* A fallocate() in several steps has run out of space: finds out how far it got, and takes the model there.  False: the power went. */
bool tree_partly(struct sim *s, uint64_t ino, int mode, uint64_t off, uint64_t len);
/* Before fs_close(): have reserved blocks been given zeros in this life? */
void note_filled(struct sim *s);
/* What SEEK_DATA and SEEK_HOLE say of all files. */
void tree_holes(struct sim *s);
/* No finding of fsck; `clean`: not even one that is no error. */
void tree_fsck(struct sim *s, bool clean);

#endif
