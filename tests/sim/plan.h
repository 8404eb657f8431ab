/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plan.h - what happens to one seed: a list of operations for each of its lives, and how these end.
 *
 * An operation is a kind and a few random numbers; what these mean is decided when it runs, from the model's state, by
 * rules that change little when other operations are left out (see target.c).  So a plan can be shortened.
 */
#ifndef HOLDFAST_TESTS_SIM_PLAN_H
#define HOLDFAST_TESTS_SIM_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#define OPS(X)                                                                                                         \
	X(CREATE) X(TMPFILE) X(MKDIR) X(MKNOD) X(SYMLINK) X(LINK) X(UNLINK) X(RMDIR)                                   \
	X(RENAME) X(EXCHANGE) X(WHITEOUT) X(LOOKUP) X(READDIR) X(READLINK) X(STATFS)                                                                     \
	X(GETATTR) X(SETATTR) X(TRUNCATE) X(SETXATTR) X(GETXATTR) X(LISTXATTR) X(REMOVEXATTR) X(SETACL) X(REMOVEACL)     \
	X(GETFLAGS) X(SETFLAGS)                                                                                        \
	X(WRITE) X(WRITE_LENT) X(WRITE_ASYNC) X(APPEND) X(OVERWRITE) X(COPY) X(READ) X(LSEEK)                          \
	X(RESERVE) X(PUNCH) X(ZERO) X(CACHED) X(WRITEBACK)                                                             \
	X(FSYNC) X(FDATASYNC) X(SYNCFS) X(SYNC_LATE) X(CHECKPOINT) X(SERVICE) X(WAIT)                                  \
	X(TRIM) X(LABEL) X(SHUTDOWN)                                                                                   \
	X(HOLD) X(RELEASE)                                                                                             \
	X(CUT) X(FAULT)

enum op_kind {
#define OP_ENUM(name) OP_##name,
	OPS(OP_ENUM)
#undef OP_ENUM
	OP_KINDS
};

#define OP_RANDOMS 5

struct op {
	uint8_t kind;
	uint32_t label;		/* its number in the plan; kept when others are left out */
	uint64_t r[OP_RANDOMS];
};

#define BOOT_CUTS 2

struct life {
	/* How it begins: the settling of what a cut left, and recoveries that are cut at their n-th write (0: not). */
	uint64_t settle[BOOT_CUTS + 1];
	bool torn[BOOT_CUTS + 1];
	uint32_t boot_cut[BOOT_CUTS];
	bool look, fsck;	/* at the device first: a read-only mount, fsck */
	struct op *op;
	unsigned nops;
	bool close;		/* ends with an orderly close, if the power does not go; else with a cut */
};

struct geometry {
	uint32_t nblocks, journal, sector;
	bool comb;		/* files of many extents are there from the start */
	bool used;		/* the journal is in its third lap soon, all of it full of old frames */
};

struct profile;

struct plan {
	uint64_t seed;
	const struct profile *profile;
	struct geometry geo;
	bool in_order, background, faults;
	uint32_t cache_bytes;
	unsigned flags;		/* VOLUME_* */
	unsigned atime;		/* enum fs_atime */
	bool lazytime;
	uint32_t cached_bytes;	/* that the kernel may have acknowledged; 0: it caches nothing */
	struct life *life;
	unsigned nlives;
};

/* --- profiles: what is done how often, and how large ------------------------------------------- */

enum devices {
	DEVICES_ANY,
	DEVICES_TINY,		/* the smallest that can be, and every journal used */
	DEVICES_COMB,
};

struct profile {
	const char *name;
	uint8_t weight[OP_KINDS];
	uint8_t small, medium, large;	/* of ten accesses to contents: up to 1500 bytes, up to 64 KiB, above */
	uint8_t nnames;			/* different names in a directory */
	uint16_t ops;			/* in a life, at most */
	uint32_t span;			/* bytes of a file that are used */
	enum devices devices;
};

extern const struct profile profiles[];
extern const unsigned nprofiles;

/* By name; NULL: unknown. */
const struct profile *profile_find(const char *name);

/* `profile` NULL: chosen by the seed. */
struct plan *plan_make(uint64_t seed, const struct profile *profile, bool faults);
struct plan *plan_copy(const struct plan *p);
void plan_free(struct plan *p);

#endif
