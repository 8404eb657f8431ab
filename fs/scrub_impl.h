/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub_impl.h - what the files of the scrub share.  Not for others.
 *
 * scrub.c       the order of things; holding a root; pace, findings; blocks that exist twice
 * scrub_space.c superblocks, the other root, tables, bitmaps
 * scrub_tree.c  nodes
 * scrub_data.c  file contents
 * scrub_names.c names of damaged files
 */
#ifndef HOLDFAST_FS_SCRUB_IMPL_H
#define HOLDFAST_FS_SCRUB_IMPL_H

#include "fs/extmap.h"
#include "fs/scrub.h"

#define SCRUB_MAX_LOST 1000u /* damaged ranges of files whose names are looked up; more are only counted */

/* A range of a file that is lost. */
struct scrub_lost {
	uint64_t ino, off, len, blkno;
	bool unreadable; /* the device said no; else the checksum */
	char *path; /* owned */
};

struct scrub {
	struct fs *fs;
	struct volume *v;
	struct dev_queue *q;
	const struct scrub_config *cfg;
	struct scrub_result *res;
	bool repair;
	uint64_t read_bytes; /* since the last pace */
	double paced_ms, due_ms; /* when that was; when the rate allows to go on */

	/* The root that is held, or was last. */
	unsigned epoch;
	bool held;
	uint64_t generation; /* of `root`; 0: none read yet */
	struct disk_root *root;

	struct scrub_lost *lost;
	unsigned nlost;
	uint64_t last_lost_ino;
	uint8_t *scratch; /* one block */
};

/* --- scrub.c --- */

/* Pins the last durable root and what it leads to, and reads it to s->root.  -ECANCELED, -EIO. */
int scrub_hold(struct scrub *s);
void scrub_let_go(struct scrub *s);

/* Waits for the end of a checkpoint, if any are made.  Nothing held. */
void scrub_checkpoint(struct scrub *s);

/* `bytes` have been read: shows progress, keeps the rate.  -ECANCELED.  Nothing held. */
int scrub_pace(struct scrub *s);

void scrub_found(struct scrub *s, enum scrub_kind kind, bool repaired, uint64_t blkno, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

/* A block of metadata that exists twice. */
struct scrub_pair {
	uint64_t blkno[2];
	uint8_t *block[2];
	int err[2];
};
/* Reads all copies at once. */
int scrub_read(struct scrub *s, struct scrub_pair *p, unsigned n);

/* Is `block`, read from `blkno`, the one wanted?  0 or -EUCLEAN, with the reason to `d`. */
typedef int scrub_verify_fn(struct scrub *s, void *arg, const void *block, uint64_t blkno,
			    const struct diag *d);

/*
 * Verifies both copies of a block that was read, mends the bad one.  Returns a good copy; NULL: there is none, and *why says what is
 * wrong with the first.  In that case nothing has been reported.
 */
struct scrub_why {
	char text[160];
};
const void *scrub_settle(struct scrub *s, struct scrub_pair *p, scrub_verify_fn *verify, void *arg,
			 const char *what, struct scrub_why *why);
/* Writes `good` to blkno and reads it back.  False: it did not take. */
bool scrub_rewrite(struct scrub *s, uint64_t blkno, const void *good, scrub_verify_fn *verify, void *arg);

/* Counts into what the volume remembers.  Not for what a reader of the volume counts anyway. */
void scrub_note_damage(struct scrub *s);
/* No copy of it is good. */
void scrub_lost_meta(struct scrub *s, uint64_t blkno, const char *what, const struct scrub_why *why);

/* --- the parts --- */

int scrub_supers(struct scrub *s);
int scrub_other_root(struct scrub *s);
int scrub_space(struct scrub *s);
int scrub_tree(struct scrub *s);

struct scrub_data;
int scrub_data_begin(struct scrub *s, struct scrub_data **out);
/* An extent item of a leaf that stays in memory until scrub_data_flush().  Nothing held. */
int scrub_data_extent(struct scrub *s, struct scrub_data *d, uint64_t ino, uint64_t file_block,
		      const void *val);
int scrub_data_flush(struct scrub *s, struct scrub_data *d);
void scrub_data_end(struct scrub *s, struct scrub_data *d);

/* Fills in lost[].path. */
void scrub_names(struct scrub *s);

#endif
