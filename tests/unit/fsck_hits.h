/* SPDX-License-Identifier: Apache-2.0 */
/* fsck_hits.h - kinds of damage, each with the findings it must lead to. */
#ifndef HOLDFAST_TESTS_FSCK_HITS_H
#define HOLDFAST_TESTS_FSCK_HITS_H

#include "tests/unit/fsck_rig.h"

#define SET(code) (UINT64_C(1) << FSCK_##code)

struct hit {
	const char *name;
	void (*run)(struct bench *b);	/* on a closed, clean volume; leaves it closed */
	uint64_t want;			/* exactly these codes */
};
extern const struct hit hits[];
extern const unsigned nhits;

/* Damages one block of file data. */
void hit_data(struct bench *b);

#endif
