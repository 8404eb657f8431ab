/* SPDX-License-Identifier: Apache-2.0 */
/* fsck_hits.h - kinds of damage, each with the findings it must lead to. */
#ifndef HOLDFAST_TESTS_FSCK_HITS_H
#define HOLDFAST_TESTS_FSCK_HITS_H

#include "tests/unit/fsck_rig.h"

#define SET(code) (UINT64_C(1) << FSCK_##code)

/* What a repair can do about it. */
enum mend {
	MENDS,		/* all is well again, and nothing was lost: fsck -p */
	LOSES,		/* all is well again, but something had to be dropped: fsck -y */
	KEEPS_DATA_BAD,	/* the contents stay unreadable */
	KEEPS_LOG_BAD,	/* not without the user's word */
	NO_ROOT,	/* needs a salvage */
};

#define SOME 1000u	/* changes: what was in a lost node */

struct hit {
	const char *name;
	void (*run)(struct bench *b);	/* on a closed, clean volume; leaves it closed */
	uint64_t want;			/* exactly these codes */
	enum mend mend;
	unsigned changes;		/* inodes that are not what they were before the damage, though nothing is said of loss */
};
extern const struct hit hits[];
extern const unsigned nhits;

/* Damages one block of file data. */
void hit_data(struct bench *b);

#endif
