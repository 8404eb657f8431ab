/* SPDX-License-Identifier: Apache-2.0 */
/* blockset.c - a sparse set of block numbers. */
#include "fsck/blockset.h"

#include <stdlib.h>

int blockset_init(struct blockset *s, const struct super *sb)
{
	s->nblocks = sb->nblocks;
	s->ngroups = sb->ngroups;
	s->group = calloc(sb->ngroups, sizeof(s->group[0]));
	return s->group ? 0 : -ENOMEM;
}

void blockset_fini(struct blockset *s)
{
	for (uint32_t g = 0; s->group && g < s->ngroups; g++)
		free(s->group[g]);
	free(s->group);
	s->group = NULL;
}

bool blockset_has(const struct blockset *s, uint64_t blkno)
{
	if (blkno >= s->nblocks || !s->group[blkno / GROUP_BLOCKS])
		return false;
	uint64_t bit = blkno % GROUP_BLOCKS;

	return s->group[blkno / GROUP_BLOCKS][bit / 64] >> (bit % 64) & 1;
}

static int add_one(struct blockset *s, uint64_t blkno, bool *dup)
{
	uint64_t **group = &s->group[blkno / GROUP_BLOCKS], bit = blkno % GROUP_BLOCKS;
	uint64_t mask = UINT64_C(1) << (bit % 64);

	if (!*group)
		*group = calloc(GROUP_WORDS, sizeof(**group));
	if (!*group)
		return -ENOMEM;
	*dup = (*group)[bit / 64] & mask;
	(*group)[bit / 64] |= mask;
	return 0;
}

int blockset_add(struct blockset *s, uint64_t blkno, uint64_t n, uint64_t *ndup, uint64_t *first_dup)
{
	assert(blkno < s->nblocks && n <= s->nblocks - blkno);
	*ndup = 0;
	for (uint64_t b = blkno; b < blkno + n; b++) {
		bool dup;
		int err = add_one(s, b, &dup);

		if (err)
			return err;
		if (dup && (*ndup)++ == 0)
			*first_dup = b;
	}
	return 0;
}

int blockset_merge(struct blockset *s, const struct blockset *from)
{
	assert(s->ngroups == from->ngroups);
	for (uint32_t g = 0; g < s->ngroups; g++) {
		if (!from->group[g])
			continue;
		if (!s->group[g])
			s->group[g] = calloc(GROUP_WORDS, sizeof(*s->group[g]));
		if (!s->group[g])
			return -ENOMEM;
		for (uint32_t w = 0; w < GROUP_WORDS; w++)
			s->group[g][w] |= from->group[g][w];
	}
	return 0;
}

bool blockset_has_any(const struct blockset *s, uint64_t blkno, uint64_t n)
{
	for (uint64_t b = blkno; b < blkno + n; b++)
		if (blockset_has(s, b))
			return true;
	return false;
}
